"""The functions of `bptt.sheet.functions` as operations of torch. At edges they do as torch's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-5
"""Beside the variance in norm, as in torch.nn.LayerNorm."""


def _softplus(a: Tensor) -> Tensor:
    return torch.logaddexp(a, torch.zeros_like(a))


def _centred(a: Tensor) -> Tensor:
    return a - a.mean(-1, keepdim=True)


def _scale(a: Tensor) -> Tensor:
    return (_centred(a).square().mean(-1, keepdim=True) + EPSILON).rsqrt()


def _norm(a: Tensor) -> Tensor:
    """torch.nn.functional.layer_norm, whose third derivatives, and second ones forward, are wrong in torch 2.13."""
    return _centred(a) * _scale(a)


NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
"""What torch's arguments of this name, and ours, may be."""


def check_nonlinearity(name: str) -> None:
    """ValueError, with the known names, for another one."""
    if name not in NONLINEARITIES:
        raise ValueError(f"Unknown nonlinearity {name!r}: it must be one of {', '.join(NONLINEARITIES)}; got {name!r}")


TORCH: dict[str, Callable[..., Any]] = {
    "tanh": torch.tanh,
    "σ": torch.sigmoid,
    "relu": torch.relu,
    "identity": lambda a: a,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "softplus": _softplus,
    "abs": torch.abs,
    "max": lambda a, b: torch.where(a >= b, a, b),
    "min": lambda a, b: torch.where(b >= a, a, b),
    "clip": lambda a, low, high: a.clamp(low, high),
    "scale_gradient": lambda a, factor: a.detach() + factor * (a - a.detach()).nan_to_num(),
    "norm": _norm,
    "softmax": lambda a: a.softmax(-1),
    "sum": lambda a: a.sum(-1, keepdim=True),
    "mean": lambda a: a.mean(-1, keepdim=True),
    "scale": _scale,
    "total": lambda a: a.sum().reshape(1),
    "sign": torch.sign,
    "where_positive": lambda a, b: torch.where(b <= 0, 0, a),
    "where_at_least": lambda a, b, c: torch.where(b >= c, a, 0),
    "where_below": lambda a, b, c: torch.where(b < c, a, 0),
    "where_inside": lambda a, b, low, high: torch.where((low <= b) & (b <= high), a, 0),
}
