"""The private parts of torch that this package asks, and the only room that knows them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_functorch_wrapped_tensor, unwrap_if_dead
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)
is_traced = torch.compiler.is_dynamo_compiling
is_mapped = is_batchedtensor
is_any_autocast_on = torch._C._is_any_autocast_enabled
_of_saving: Any = torch._C
_hooks_of_saving = _of_saving._autograd._top_saved_tensors_default_hooks
_dispatch_modes = torch._C._len_torch_dispatch_stack
after_backward: Callable[[Callable[[], None]], None] = torch.autograd.Variable._execution_engine.queue_callback
"""Called in a backward pass: calls a function at its end."""
are_transforms_active = torch._C._are_functorch_transforms_active
_older_vmap: Any = torch
_has_samples = _older_vmap._C._functorch.is_legacy_batchedtensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def has_tangents() -> bool:
    """Whether forward-mode derivatives are being taken."""
    return forward_ad._current_level >= 0


def saves_otherwise() -> bool:
    """Whether tensors for the way back go through hooks; those of torch.utils.checkpoint save none of them."""
    return _hooks_of_saving(False) is not None


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


def unwrapped(tensors: Sequence[Any]) -> Sequence[Any]:
    """These as they are without a transform of torch.func that has ended and left some of them over."""
    for tensor in tensors:
        if tensor is not None and is_functorch_wrapped_tensor(tensor):
            return [t if t is None else unwrap_if_dead(t) for t in tensors]
    return tensors


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Its `apply` for tensors that are `unwrapped` and under no transform, which torch's own looks for first."""
    of_torch: Any = super(torch.autograd.Function, function)
    return of_torch.apply


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """For each a count that grows with every change in place; inference tensors have none."""
    tensors = [*tensors]
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


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
