"""The private parts of torch that this package asks, and the only room that knows them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)
is_traced = torch.compiler.is_dynamo_compiling
is_mapped = is_batchedtensor
_dispatch_modes = torch._C._len_torch_dispatch_stack
are_transforms_active = torch._C._are_functorch_transforms_active
_older_vmap: Any = torch
_has_samples = _older_vmap._C._functorch.is_legacy_batchedtensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def has_tangents() -> bool:
    """Whether forward-mode derivatives are being taken."""
    return forward_ad._current_level >= 0


def seen_by_others(x: Tensor, weight: Tensor) -> bool:
    """Whether these are more than arrays of numbers: traced, transformed, without data, or of a class of their own."""
    return (
        is_traced()
        or _dispatch_modes() > 0
        or are_transforms_active()
        or forward_ad._current_level >= 0
        or type(x) not in _PLAIN
        or type(weight) not in _PLAIN
        or x.is_meta
    )


def version(tensor: Tensor) -> int:
    """A count that grows with every change in place; inference tensors have none."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


def sample_by_sample(backward: Backward) -> Backward:
    """A backward function that also takes cotangents of many samples at once, one call after the other.

    torch.autograd.grad(is_grads_batched=True), and with it jacobian and hessian of torch.autograd.functional with
    vectorize=True and the checks of gradcheck, go backward under a vmap older than torch.func's: the cotangents then
    look like those of one sample and have no numbers to point at.
    """

    def wrapped(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        for d in cotangents:
            if d is not None and _has_samples(d):
                break
        else:
            return backward(ctx, *cotangents)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        of_samples: dict[int, Any] = {
            k: _older_vmap._remove_batch_dim(d, level, 0, 0)
            for k, d in enumerate(cotangents)
            if d is not None and _has_samples(d)
        }
        number = len(next(iter(of_samples.values())))
        each = [
            backward(ctx, *(of_samples[k][v] if k in of_samples else d for k, d in enumerate(cotangents)))
            for v in range(number)
        ]
        return tuple(
            None if of_all[0] is None else _older_vmap._add_batch_dim(torch.stack(of_all), 0, level)
            for of_all in map(list, zip(*each, strict=True))
        )

    return wrapped
