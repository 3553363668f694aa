"""Checks of the arguments of recurrent modules: the rule, what was received, the fix; often in torch's words."""

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bptt.autograd.private import is_mapped, seen_by_others
from bptt.errors import InputError
from bptt.nn.precision import goes_with, widened

TOKENS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


def check_axes(x: Tensor, axes: int, *, of: str) -> None:
    if x.dim() not in (axes - 1, axes):
        got = f"{x.dim()}D" if of.endswith("Cell") else f"{x.dim()}D tensor"
        one_hot = x.dtype in TOKENS and x.dim() == axes + 1
        raise ValueError(
            f"{of}: Expected input to be {axes - 1}D or {axes}D, got {got} instead: batched input has {axes} axes, "
            f"unbatched {axes - 1}, and integer tokens one fewer than numbers; got {tuple(x.shape)} of {x.dtype}."
            + " One-hot vectors are floats here: x.float()."
            * one_hot
        )


def warn_of_one_hot(x: Tensor, input_size: int) -> None:
    """For integers (T, B), which are tokens, where they look like one-hot vectors of unbatched input."""
    if x.shape[1] != input_size or input_size < 2 or not len(x) or seen_by_others(x, x):
        return
    if bool(((x == 0) | (x == 1)).all()) and bool((x.sum(1) == 1).all()):
        warnings.warn(
            f"x {tuple(x.shape)} of {x.dtype} holds a single 1 in each row of {input_size} numbers, as one-hot vectors "
            "do, and integers are tokens, here of a batch. One-hot vectors are floats: x.float().",
            stacklevel=2,
        )


def check_axes_of_rows(x: Tensor) -> None:
    """For the data of a PackedSequence."""
    axes = 1 if x.dtype in TOKENS else 2
    if x.dim() != axes:
        raise RuntimeError(
            f"input must have {axes} dimensions, got {x.dim()}: the rows of a PackedSequence lie one after the "
            f"other, {'(rows,)' if axes == 1 else '(rows, input_size)'}; got {tuple(x.shape)}"
        )


def batched_state(hx: Any, name: str = "hx", *, unbatched: bool) -> Tensor:
    """hx with an axis for the batch, which it lacks beside unbatched input."""
    if not isinstance(hx, Tensor):
        raise RuntimeError(
            f"{name} must be a tensor (num_layers * directions, batch, hidden_size); only layers with sizes of their "
            f"own, hidden_size=[...], have a tuple of states; got {type(hx).__name__}"
        )
    if hx.dim() != (2 if unbatched else 3):
        raise RuntimeError(
            f"For {'unbatched 2-D' if unbatched else 'batched 3-D'} input, {name} should also be "
            f"{2 if unbatched else 3}-D but got {hx.dim()}-D tensor of shape {tuple(hx.shape)}; it is "
            f"(num_layers * directions{'' if unbatched else ', batch'}, hidden_size)"
        )
    return hx.unsqueeze(1) if unbatched else hx


def checked_input(x: Tensor, input_size: int, weight: Tensor) -> Tensor:
    """x of a layer (..., input_size), tokens as int64."""
    if not (x.dtype is weight.dtype and x.is_cpu and weight.is_cpu):  # what is usual is quick to ask
        x = checked_kind(x, weight)
    if x.is_floating_point() and x.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]} "
            f"in an input of shape {tuple(x.shape)}"
        )
    return x


def checked_kind(x: Tensor, weight: Tensor) -> Tensor:
    """x on the weights' device with a dtype that goes with theirs; tokens as int64."""
    if not (x.is_cpu and weight.is_cpu) and x.device != weight.device:  # the first is quick to ask
        raise RuntimeError(
            f"Input and parameter tensors are not at the same device, found input tensor at {x.device} and parameter "
            f"tensor at {weight.device}. Move one of them with .to()"
        )
    if x.dtype in TOKENS:
        return x.to(torch.int64)
    if x.dtype != weight.dtype and not goes_with(x.dtype, weight):
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )
    return x


def checked_state(hx: Tensor, expected: tuple[int, ...], weight: Tensor, name: str = "hx") -> Tensor:
    """hx (layers, batch, hidden_size) as expected."""
    if not (hx.dtype is weight.dtype and hx.is_cpu and weight.is_cpu):  # what is usual is quick to ask
        hx = checked_kind_of_state(hx, weight)
    if hx.shape != expected:
        raise RuntimeError(
            f"Expected {'hidden' if name == 'hx' else name} size {expected}, got {list(hx.shape)}. "
            "Is the batch axis in the right place? It does not move with batch_first."
        )
    return hx


def checked_kind_of_state(hx: Tensor, weight: Tensor) -> Tensor:
    """hx on the weights' device, in the dtype that they are computed in where its own is another that goes with it."""
    if not (hx.is_cpu and weight.is_cpu) and hx.device != weight.device:
        raise RuntimeError(
            f"Input and hidden tensors are not at the same device, found input tensor at {weight.device} and hidden "
            f"tensor at {hx.device}. Move one of them with .to()"
        )
    if hx.dtype == weight.dtype:
        return hx
    if not goes_with(hx.dtype, weight):
        raise ValueError(f"Hidden state dtype ({hx.dtype}) does not match weight dtype ({weight.dtype})")
    return widened(hx, weight)


def check_states_of_layers(hx: Any, num_layers: int, name: str = "hx") -> None:
    if not isinstance(hx, tuple | list) or len(hx) != num_layers:
        raise RuntimeError(
            f"Layers with sizes of their own have states of their own: {name} must be a tuple with one tensor "
            f"(directions, batch, hidden_size) for each of the {num_layers} layers, as h_n is; got "
            f"{len(hx) if isinstance(hx, tuple | list) else tuple(hx.shape) if isinstance(hx, Tensor) else repr(hx)}"
        )


def checked_sizes(hidden_size: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """One size for each layer."""
    sizes = tuple(hidden_size)
    are_sizes = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)
    if not sizes or not are_sizes or num_layers not in (1, len(sizes)):
        raise ValueError(
            "hidden_size must be one integer above zero, or a list of them with one for each of num_layers layers; "
            f"got hidden_size={hidden_size!r} with num_layers={num_layers}. Leave num_layers out beside a list."
        )
    return sizes


def checked_size(name: str, size: Any) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"{name} must be an integer above zero; got {size!r}.")
    return size


def checked_share(name: str, share: float) -> None:
    if not isinstance(share, Real) or not 0 <= share < 1:
        raise InputError(f"{name} must lie in [0, 1), the probability of an entry being zeroed; got {share!r}.")


def checked_lengths(lengths: Tensor | Sequence[int], B: int, T: int, *, unbatched: bool = False) -> Tensor:
    """(B,) integers in [0, T]; of unbatched input, whose B is 1, also a single one."""
    lengths = _numbers(lengths, "lengths")
    if not len(lengths.shape) and unbatched:
        lengths = lengths.reshape(1)
    if lengths.dtype not in TOKENS or tuple(lengths.shape) != (B,):
        if unbatched:
            raise ValueError(
                f"lengths of unbatched input must be one integer, its real steps; got {lengths.dtype} of shape "
                f"{tuple(lengths.shape)}. Where the input has several rows, it lacks the axis of the batch."
            )
        raise ValueError(
            f"lengths must hold one integer for each of the {B} rows of the batch; got {lengths.dtype} of shape "
            f"{tuple(lengths.shape)}. Give the number of real steps of each row, e.g. mask.sum over the axis of time."
        )
    if B and not 0 <= int(lengths.min()) <= int(lengths.max()) <= T:
        raise ValueError(
            f"lengths must lie in [0, {T}], the steps of the input; got {int(lengths.min())} to {int(lengths.max())}"
        )
    return lengths


OF_STEPS = {
    "reset": "says that row b begins anew before step t",
    "mask": "is true where step t of row b is real, false where it is skipped. Of ones and zeros: "
    "torch.as_tensor(mask).bool()",
}


def checked_of_steps(
    given: Tensor | Sequence[Any], name: str, B: int, T: int, *, batch_first: bool, unbatched: bool = False
) -> Tensor:
    """reset or mask (B, T), booleans, from those laid out as the input is."""
    found = _numbers(given, name, torch.bool)
    if unbatched and found.dim() == 1:
        found = found.unsqueeze(0 if batch_first else 1)
    expected = (B, T) if batch_first else (T, B)
    if found.dtype != torch.bool or tuple(found.shape) != expected:
        axes, place = ("(batch, time)", "[b, t]") if batch_first else ("(time, batch)", "[t, b]")
        raise ValueError(
            f"{name} must hold booleans of shape {expected}, {axes} as the input; got {found.dtype} of shape "
            f"{tuple(found.shape)}. {name}{place} {OF_STEPS[name]}."
        )
    return found if batch_first else found.mT


def _numbers(given: Any, name: str, of_nothing: torch.dtype = torch.int64) -> Tensor:
    """The argument as a tensor; an empty list, which has no dtype of its own, gets `of_nothing`."""
    if isinstance(given, Tensor):
        if is_mapped(given):
            raise InputError(
                f"under torch.vmap {name}= must be the same for all samples, since it decides which steps there are; "
                "got one that is mapped over. Hand it in unmapped, or make the samples rows of one batch."
            )
        return given
    found = torch.as_tensor(given, device="cpu")
    return found if found.numel() else found.to(of_nothing)
