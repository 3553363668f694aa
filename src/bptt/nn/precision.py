"""Half precision and autocast: computed in float32, returned in the dtype that torch.nn.RNN returns.

Nothing is rounded before the end, where torch rounds the states at every step.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

HALF = frozenset({torch.bfloat16, torch.float16})

Given = TypeVar("Given", Tensor, Tensor | None)


def goes_with(dtype: torch.dtype, weight: Tensor) -> bool:
    """Whether a tensor of this dtype may meet weights of another: half precision wider ones; under autocast any two."""
    if dtype in HALF and weight.dtype in (torch.float32, torch.float64):
        return True
    both_narrow = dtype in HALF | {torch.float32} and weight.dtype in HALF | {torch.float32}
    return both_narrow and not weight.is_meta and torch.is_autocast_enabled(weight.device.type)


def returned_dtype(x: Tensor, weight: Tensor, *, autocast_on_cpu: bool = True) -> torch.dtype | None:
    """The dtype of output and states; None where everything is computed as it comes.

    autocast_on_cpu  whether torch's autocast knows such a module there; on other devices it knows all
    """
    own = weight.dtype
    device = "cpu" if weight.is_cpu else weight.device.type
    knows = autocast_on_cpu or device != "cpu"
    if knows and device != "meta" and torch.is_autocast_enabled(device) and own != torch.float64:
        return torch.get_autocast_dtype(device)
    if x.dtype in HALF:
        return x.dtype
    return own if own in HALF else None


def widened(tensor: Given, weight: Tensor) -> Given:
    """In the dtype that these weights are computed in; tokens stay tokens."""
    if tensor is None or not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)


def computed_wide(
    compute: Callable[..., tuple[list[Tensor], list[tuple[Tensor, ...]]]],
    x: Tensor,
    states: Sequence[Sequence[Tensor | None]],
    weights: Sequence[Sequence[Tensor]],
    inputs: Sequence[Tensor],
    returned: torch.dtype,
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """The result of compute on these, all widened and without autocast; its tensors in the dtype that is returned."""
    like = weights[0][0]
    with torch.autocast(x.device.type, enabled=False):
        wide_states = [[widened(h, like) for h in of_layer] for of_layer in states]
        wide_weights = [[widened(w, like) for w in of_layer] for of_layer in weights]
        layers, last = compute(widened(x, like), wide_states, wide_weights, [widened(d, like) for d in inputs])
    return [layer.to(returned) for layer in layers], [tuple(h.to(returned) for h in of_layer) for of_layer in last]
