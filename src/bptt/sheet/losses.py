"""Outputs and losses in their three matched pairs: A6, B1, B2, B3.

    loss                    g          L per step and row                   ∂o_t
    cross_entropy           softmax    −log ŷ[target]                       w_t (ŷ_t − y_t)
    binary_cross_entropy    sigmoid    −Σ_k y log ŷ + (1−y) log(1−ŷ)        w_t (ŷ_t − y_t)
    squared_error           identity   Σ_k (ŷ − y)²                         2 w_t (ŷ_t − y_t)

Each pair is one operation on `o`: nothing is lost by taking the logarithm of a rounded ŷ, and ∂o comes without the
Jacobian B2. The sum over steps is weighted by `w`; the default 1/(T·B) makes L a mean over steps and rows.

Some steps and rows may not count: those a mask leaves out, and, on request, targets that are NaN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Name = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]


@dataclass(frozen=True)
class Pair:
    """g and the loss that matches it.

    g         o (..., O) -> ŷ (..., O)
    per_row   o (..., O), y, class weights (O) -> the loss of each step and row (...); elements of y that are
              NaN add nothing
    with_b3   the same arguments -> the same losses, and their gradient ∂o (..., O) with w = 1; may overwrite o
    jacobian  ŷ (..., O) -> ∂ŷ/∂o (..., O, O)
    """

    g: Callable[[Tensor], Tensor]
    per_row: "PerRow"
    with_b3: "WithB3"
    jacobian: Callable[[Tensor], Tensor]  # B2


def _cross_entropy(o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> Tensor:
    return F.cross_entropy(o.flatten(0, -2), y.flatten(), class_weights, reduction="none").view(y.shape)


def _binary_cross_entropy(o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> Tensor:
    y = y.to(o.dtype)
    there = ~y.isnan()
    per_element = F.binary_cross_entropy_with_logits(o, y.where(there, 0), class_weights, reduction="none")
    return per_element.where(there, 0).sum(-1)


def _squared_error(o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> Tensor:
    squares = (o - y).where(~y.isnan(), 0).square()
    return (squares if class_weights is None else squares * class_weights).sum(-1)


def _cross_entropy_with_b3(o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    log_y_hat = o.log_softmax(-1)
    per_row = F.nll_loss(log_y_hat.flatten(0, -2), y.flatten(), class_weights, reduction="none").view(y.shape)
    do, at = log_y_hat.exp_(), y[..., None]
    do.scatter_(-1, at, do.gather(-1, at) - 1)
    return per_row, do if class_weights is None else do.mul_(class_weights[at])


def _binary_cross_entropy_with_b3(o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    per_row = _binary_cross_entropy(o, y, class_weights)
    do = o.sigmoid_().sub_(y).masked_fill_(y.isnan(), 0)
    return per_row, do if class_weights is None else do.mul_(class_weights)


def _squared_error_with_b3(o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    per_row = _squared_error(o, y, class_weights)
    do = o.sub_(y).masked_fill_(y.isnan(), 0).mul_(2)
    return per_row, do if class_weights is None else do.mul_(class_weights)


class WithB3(Protocol):
    def __call__(self, o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


class PerRow(Protocol):
    def __call__(self, o: Tensor, y: Tensor, class_weights: Tensor | None = None) -> Tensor: ...


PAIRS: dict[Name, Pair] = {
    "cross_entropy": Pair(
        g=lambda o: o.softmax(-1),
        per_row=_cross_entropy,
        with_b3=_cross_entropy_with_b3,
        jacobian=lambda y_hat: torch.diag_embed(y_hat) - y_hat[..., :, None] * y_hat[..., None, :],
    ),
    "binary_cross_entropy": Pair(
        g=torch.sigmoid,
        per_row=_binary_cross_entropy,
        with_b3=_binary_cross_entropy_with_b3,
        jacobian=lambda y_hat: torch.diag_embed(y_hat * (1 - y_hat)),
    ),
    "squared_error": Pair(
        g=lambda o: o,
        per_row=_squared_error,
        with_b3=_squared_error_with_b3,
        jacobian=lambda y_hat: torch.diag_embed(torch.ones_like(y_hat)),
    ),
}


def pair(name: str) -> Pair:
    """The pair of output and loss by the loss's name; ValueError with the known names otherwise."""
    if name not in PAIRS:
        raise ValueError(f"loss must be one of {', '.join(get_args(Name))}; got {name!r}")
    return PAIRS[name]


def output(name: str, o: Tensor) -> Tensor:
    """ŷ = g(o) of A6 for the loss of this name. o: (..., O) -> (..., O)."""
    return pair(name).g(o)  # A6


def loss(
    name: str,
    o: Tensor,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
    skip_nan: bool = False,
) -> Tensor:
    """L of B1, a scalar with autograd; its gradient with respect to `o` is B3.

    o              (..., O) outputs before g
    y              cross_entropy: (...) class numbers in [0, O), int64; else (..., O)
    weights        (...) or broadcastable to it, w of B1; default 1 / (number of steps and rows that count), a mean
    mask           (...) or broadcastable to it, bool: false leaves a step and row out, whatever its target
    class_weights  (O), a factor for each class, or each output of the other losses. As in torch, the mean of
                   cross_entropy is then one over the class weights of the targets
    skip_nan       targets that are NaN add nothing; a step and row whose targets are all NaN does not count

    Raises ValueError for shapes that do not belong together, class numbers outside [0, O), NaN among the targets unless
    skip_nan, and if nothing is left that counts; TypeError for targets and masks of the wrong type.
    """
    if mask is not None:
        _check_mask(mask, o.shape[:-1])
        y = y.masked_fill(~(mask if name == "cross_entropy" else mask[..., None]), 0)
        o = o.masked_fill(~mask[..., None], 0)
    _check(name, o, y, class_weights, skip_nan)
    if weights is not None:
        _check_weights(weights, o.shape[:-1])
    per_row = pair(name).per_row(o, y, class_weights)
    if mask is None and class_weights is None and not skip_nan and (per_row.numel() or weights is not None):
        return per_row.mean() if weights is None else (per_row * weights).sum()  # B1, and with its gradient B3
    return (per_row * _weights(name, y, weights, mask, class_weights, o.dtype)).sum()


class Target(NamedTuple):
    """Targets of the outputs of some steps: y as `loss` takes it, w of B1 for each step and row."""

    pair: Pair
    y: Tensor
    w: Tensor
    class_weights: Tensor | None
    some_left_out: bool

    def at(self, steps: slice) -> "Target":
        return self._replace(y=self.y[steps], w=self.w[steps])


def target(
    name: str,
    outputs: Sequence[int],
    dtype: torch.dtype,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
    skip_nan: bool = False,
) -> Target:
    """The target of outputs of this shape (T, B, O) and dtype; arguments and errors are those of `loss`."""
    if mask is not None:
        _check_mask(mask, torch.Size(outputs[:-1]))
        y = y.masked_fill(~(mask if name == "cross_entropy" else mask[..., None]), 0)
    _check(name, y.new_empty(1).expand(*outputs), y, class_weights, skip_nan)
    return Target(
        pair(name), y, _weights(name, y, weights, mask, class_weights, dtype), class_weights, mask is not None
    )


def _weights(
    name: str, y: Tensor, weights: Tensor | None, mask: Tensor | None, class_weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """w of B1 for every step and row: zero where nothing counts, by default what makes L a mean."""
    steps = y.shape if name == "cross_entropy" else y.shape[:-1]
    counts = torch.ones(steps, dtype=torch.bool, device=y.device) if mask is None else mask.expand(steps)
    if y.is_floating_point():
        counts = counts & ~y.isnan().all(-1)
    if not counts.any():
        raise ValueError(
            "no step counts: there is none, or the mask or NaN targets leave out every one, so there is nothing to "
            "learn from. Skip such a batch."
        )
    if weights is not None:
        _check_weights(weights, steps)
        return weights.expand(steps) * counts
    w = counts.to(dtype)
    total = (w if class_weights is None or name != "cross_entropy" else w * class_weights[y]).sum()
    if not total:
        raise ValueError("no step counts: the class weights of all targets are zero. Skip such a batch.")
    return w / total


def _check_mask(mask: Tensor, steps: torch.Size) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask must be bool, true where a step counts; got {mask.dtype}. Say mask.bool().")
    if not _broadcasts(mask, steps):
        raise ValueError(f"the mask must have shape {tuple(steps)}, steps and rows; got {tuple(mask.shape)}")


def _check_weights(weights: Tensor, steps: Sequence[int]) -> None:
    if not _broadcasts(weights, steps):
        raise ValueError(
            f"weights must have shape {tuple(steps)}, steps and rows, or one that broadcasts to it; got "
            f"{tuple(weights.shape)}"
        )


def _broadcasts(tensor: Tensor, steps: Sequence[int]) -> bool:
    try:
        return torch.broadcast_shapes(tensor.shape, tuple(steps)) == torch.Size(steps)
    except RuntimeError:
        return False


def _check(name: str, o: Tensor, y: Tensor, class_weights: Tensor | None, skip_nan: bool) -> None:
    pair(name)
    if class_weights is not None and class_weights.shape != o.shape[-1:]:
        raise ValueError(
            f"class weights must have shape ({o.shape[-1]},), a factor for each output; "
            f"got {tuple(class_weights.shape)}"
        )
    if name == "cross_entropy":
        if y.dtype != torch.int64:
            raise TypeError(f"targets of cross_entropy are class numbers, int64; got {y.dtype}")
        wanted = o.shape[:-1]
        if y.shape == wanted and y.numel() and not 0 <= int(y.min()) <= int(y.max()) < o.shape[-1]:
            raise ValueError(
                f"targets of cross_entropy must lie in [0, {o.shape[-1]}), the number of outputs; "
                f"got {int(y.min())} to {int(y.max())}"
            )
    else:
        wanted = o.shape
    if y.shape != wanted:
        raise ValueError(
            f"targets of {name} must have shape {tuple(wanted)} for outputs {tuple(o.shape)}; got {tuple(y.shape)}"
        )
    if not skip_nan and y.is_floating_point() and bool(y.isnan().any()):
        raise ValueError(
            f"targets of {name} must be numbers; got {int(y.isnan().sum())} NaN among {y.numel()}. "
            "Fill them, or say skip_nan=True to leave them out."
        )


def __getattr__(name: str) -> Any:
    if name == "loss_of_states":  # which has moved
        return import_module("bptt.autograd.readout").loss_of_states
    if name in ("omega", "exact_omega"):  # which need what lies above this room
        return getattr(import_module("bptt.train.omega"), name)
    raise AttributeError(f"module 'bptt.sheet.losses' has no attribute {name!r}")
