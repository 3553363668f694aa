"""Options of the plain cell beyond torch: φ, leak, residual connection, layer norm, recurrent dropout; their rules."""

import warnings
from collections.abc import Callable, Hashable
from functools import lru_cache
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bptt.engine.functions import NONLINEARITIES, check_nonlinearity
from bptt.errors import InputError, SlowEngineWarning
from bptt.sheet import Cell
from bptt.sheet.cells import elman

Nonlinearity = str | Callable[[Tensor], Tensor]
KNOWN_FUNCTIONS: dict[Any, str] = {
    function: name
    for name in ("tanh", "relu", "sigmoid")
    for function in (getattr(torch, name), getattr(torch.nn.functional, name), getattr(Tensor, name))
}
KNOWN_MODULES: dict[type, str] = {
    torch.nn.Tanh: "tanh",
    torch.nn.ReLU: "relu",
    torch.nn.Sigmoid: "sigmoid",
    torch.nn.Identity: "identity",
}


def named(nonlinearity: Nonlinearity) -> Nonlinearity:
    """The name of a function or module that has one; others as they are, with a warning. ValueError for other names."""
    if not callable(nonlinearity):
        check_nonlinearity(nonlinearity)
        return nonlinearity
    if isinstance(nonlinearity, Hashable) and nonlinearity in KNOWN_FUNCTIONS:
        return KNOWN_FUNCTIONS[nonlinearity]
    if type(nonlinearity) in KNOWN_MODULES:
        return KNOWN_MODULES[type(nonlinearity)]
    warnings.warn(
        f"nonlinearity={nonlinearity!r} is not among those that the compiled sweeps know ({', '.join(NONLINEARITIES)}, "
        "by name): this module runs on the slow reference engine.",
        SlowEngineWarning,
        stacklevel=3,
    )
    return nonlinearity


def check(leak: float, norm: str | None, recurrent_dropout: float) -> None:
    """InputError for what lies outside the rules."""
    if not isinstance(leak, Real) or not 0 < leak <= 1:
        raise InputError(
            f"leak must lie in (0, 1], the share of the new state at each step, 1 being no leak; got {leak!r}. A time "
            "constant of n steps is leak=1/n."
        )
    if not isinstance(recurrent_dropout, Real) or not 0 <= recurrent_dropout < 1:
        raise InputError(
            f"recurrent_dropout must lie in [0, 1), the probability of an entry being zeroed; got {recurrent_dropout!r}"
        )
    if norm not in (None, "layer"):
        raise InputError(f"norm must be None or 'layer', layer norm in the cell; got {norm!r}")


@lru_cache
def cell(
    nonlinearity: str,
    bias: bool,
    leak: float = 1.0,
    residual: bool = False,
    norm: str | None = None,
    recurrent_dropout: float = 0.0,
) -> Cell:
    """The plain cell with these options; InputError for what lies outside the rules."""
    check(leak, norm, recurrent_dropout)
    text = elman(
        nonlinearity, leak=None if leak == 1 else float(leak), residual=residual, norm=norm is not None,
        dropout=recurrent_dropout > 0, bias=bias,
    )  # fmt: skip
    return Cell(text, "elman")
