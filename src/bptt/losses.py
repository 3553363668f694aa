"""Outputs and losses in their three matched pairs: A6, B1, B2, B3.

    loss                    g          L per step and row                   ∂o_t
    cross_entropy           softmax    −log ŷ[target]                       w_t (ŷ_t − y_t)
    binary_cross_entropy    sigmoid    −Σ_k y log ŷ + (1−y) log(1−ŷ)        w_t (ŷ_t − y_t)
    squared_error           identity   Σ_k (ŷ − y)²                         2 w_t (ŷ_t − y_t)

Each pair is one operation on `o`: nothing is lost by taking the logarithm of a rounded ŷ, and ∂o comes without the
Jacobian B2. The sum over steps is weighted by `w`; the default 1/(T·B) makes L a mean over steps and rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Name = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]


@dataclass(frozen=True)
class Pair:
    """g and the loss that matches it.

    g         o (..., O) -> ŷ (..., O)
    per_row   o (..., O), y -> the loss of each step and row (...)
    jacobian  ŷ (..., O) -> ∂ŷ/∂o (..., O, O)
    """

    g: Callable[[Tensor], Tensor]
    per_row: Callable[[Tensor, Tensor], Tensor]
    jacobian: Callable[[Tensor], Tensor]  # B2


def _cross_entropy(o: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(o.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)


PAIRS: dict[Name, Pair] = {
    "cross_entropy": Pair(
        g=lambda o: o.softmax(-1),
        per_row=_cross_entropy,
        jacobian=lambda y_hat: torch.diag_embed(y_hat) - y_hat[..., :, None] * y_hat[..., None, :],
    ),
    "binary_cross_entropy": Pair(
        g=torch.sigmoid,
        per_row=lambda o, y: F.binary_cross_entropy_with_logits(o, y.to(o.dtype), reduction="none").sum(-1),
        jacobian=lambda y_hat: torch.diag_embed(y_hat * (1 - y_hat)),
    ),
    "squared_error": Pair(
        g=lambda o: o,
        per_row=lambda o, y: (o - y).square().sum(-1),
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


def loss(name: str, o: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """L of B1, a scalar with autograd; its gradient with respect to `o` is B3.

    o        (..., O) outputs before g
    y        cross_entropy: (...) class numbers in [0, O), int64; else (..., O)
    weights  (...) or broadcastable to it, w of B1; default 1 / (number of steps and rows), a mean

    Raises ValueError for shapes that do not belong together and class numbers outside [0, O).
    """
    _check(name, o, y)
    per_row = pair(name).per_row(o, y)
    return per_row.mean() if weights is None else (per_row * weights).sum()  # B1, and with its gradient B3


def _check(name: str, o: Tensor, y: Tensor) -> None:
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
