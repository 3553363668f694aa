"""What a cell is told beyond torch: φ, leak, residual connection, layer norm, recurrent dropout; and their rules."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bptt.activations import ACTIVATIONS, activation
from bptt.errors import InputError, SlowEngineWarning
from bptt.sweeps.cells import Cell

Nonlinearity = str | Callable[[Tensor], Tensor]
KNOWN_FUNCTIONS: dict[Any, str] = {
    function: name
    for name in ("tanh", "relu", "sigmoid")
    for function in (getattr(torch, name), getattr(torch.nn.functional, name), getattr(Tensor, name))
}


def named(nonlinearity: Nonlinearity) -> Nonlinearity:
    """The name of a function that has one; other functions as they are, said to be slow. ValueError for other names."""
    if not callable(nonlinearity):
        activation(nonlinearity)
        return nonlinearity
    if nonlinearity in KNOWN_FUNCTIONS:
        return KNOWN_FUNCTIONS[nonlinearity]
    warnings.warn(
        f"nonlinearity={nonlinearity!r} is not among those that the compiled sweeps know ({', '.join(ACTIVATIONS)}, by "
        "name): this module runs on the slow reference engine.",
        SlowEngineWarning,
        stacklevel=3,
    )
    return nonlinearity


def cell(
    nonlinearity: Nonlinearity, leak: float, residual: bool, norm: str | None, recurrent_dropout: float
) -> Cell | None:
    """The cell that these make; None for the plain one. InputError for what lies outside the rules."""
    if not 0 < leak <= 1:
        raise InputError(
            f"leak must lie in (0, 1], the share of the new state at each step, 1 being no leak; got {leak!r}. A time "
            "constant of n steps is leak=1/n."
        )
    if not 0 <= recurrent_dropout < 1:
        raise InputError(
            f"recurrent_dropout must lie in [0, 1), the probability of an entry being zeroed; got {recurrent_dropout!r}"
        )
    if norm not in (None, "layer"):
        raise InputError(f"norm must be None or 'layer', layer norm in the cell; got {norm!r}")
    if leak == 1 and not residual and norm is None and not recurrent_dropout and not callable(nonlinearity):
        return None
    return Cell(nonlinearity, leak, residual)
