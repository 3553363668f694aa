"""Whoever watches a network is told of its calls, and of all that each layer computed on both sides."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bptt.autograd.private import is_traced
from bptt.engine.contract import Signature
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.sheet import Cell
from bptt.sheet.plain import Plain, plain


@dataclass
class Record:
    """Everything one layer computed on both sides, as the fast path left it; None until it has happened.

    Names are those of the sheet. Arrays of all steps are (T, B, ·), or packed (N, ·) where `steps` has sizes; `x` may
    be integer tokens without a last axis. A second backward pass replaces all of side B.

    layer         which of a stack
    weights       the parameters, masks and further inputs
    values        of side A at all steps; first: (B, ·) of the states before the first step
    totals        ∂L/∂ of every value at all steps
    from_outside  the part of it that came from above and from the last states, for the values that have one
    d_weights     ∂L/∂ of the parameters whose gradient was asked for; d_first and dx likewise
    """

    layer: int
    cell: Cell
    steps: Steps
    weights: dict[str, Tensor]
    x: Tensor
    first: dict[str, Tensor]
    values: dict[str, Tensor]
    totals: dict[str, Tensor] = field(default_factory=dict)
    from_outside: dict[str, Tensor] = field(default_factory=dict)
    d_weights: dict[str, Tensor] = field(default_factory=dict)
    d_first: dict[str, Tensor] = field(default_factory=dict)
    dx: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        """A value of side A at all steps."""
        if name not in self.values:
            raise KeyError(f"the values of this cell are {', '.join(self.values)}; got {name!r}")
        return self.values[name]

    def d(self, name: str) -> Tensor | None:
        """The total ∂L/∂ of a value at all steps; None before the backward pass."""
        _ = self[name]
        return self.totals.get(name)

    @property
    def output(self) -> str:
        return Signature.of(self.cell).output

    @property
    def reverse(self) -> bool:
        return self.steps.reverse

    @property
    def batch_sizes(self) -> Sequence[int] | None:
        """Rows of each step, where packed."""
        return self.steps.sizes

    @property
    def batch(self) -> int:
        """B, the number of rows."""
        return self.steps.B

    @property
    def states(self) -> Tensor:
        """The output of all steps with the first in slot 0 (with reverse in slot T): (T+1, B, H), packed (B+N, H)."""
        return self.steps.with_first(self.h, self.h0[None])

    @property
    def h(self) -> Tensor:
        """The output of every step."""
        return self.values[self.output]

    @property
    def h0(self) -> Tensor:
        """(B, H), the output's state before the first step in the order of time."""
        return self.first[self.output]

    @property
    def h_prev(self) -> Tensor:
        """h_{t-1} of every step (h_{t+1} with reverse), laid out as `h`."""
        return self.steps.previous_of(self.states)

    @property
    def dh(self) -> Tensor | None:
        """The total ∂L/∂h_t of B6; dh_direct the part that came from above."""
        return self.totals.get(self.output)

    @property
    def dh_direct(self) -> Tensor | None:
        return self.from_outside.get(self.output)

    @property
    def activation(self) -> str:
        """φ of the plain cell. This and all below but dh0 are InputError for others."""
        return self._plain().activation

    @property
    def a(self) -> Tensor:
        """A2; da its B7."""
        return self.values[self._plain().a]

    @property
    def da(self) -> Tensor | None:
        return self.totals.get(self._plain().a)

    @property
    def W_xh(self) -> Tensor:
        return self.weights[self._plain().W_xh]

    @property
    def W_hh(self) -> Tensor:
        return self.weights[self._plain().W_hh]

    @property
    def b_h(self) -> Tensor | None:
        name = self._plain().b_h
        return None if name is None else self.weights[name]

    @property
    def dW_xh(self) -> Tensor | None:
        """B9; dW_hh is B10, db_h B8: None where no gradient was asked for."""
        return self.d_weights.get(self._plain().W_xh)

    @property
    def dW_hh(self) -> Tensor | None:
        return self.d_weights.get(self._plain().W_hh)

    @property
    def db_h(self) -> Tensor | None:
        name = self._plain().b_h
        return None if name is None else self.d_weights.get(name)

    def _plain(self) -> Plain:
        """The names that the text of this cell gives to those of the plain one."""
        found = plain(self.cell)
        if found is None:
            raise InputError(
                "the file, the check, the page and the attributes a, da, W_xh, W_hh, b_h and activation of a tape know "
                "the plain cell, without leak, residual, norm and recurrent_dropout; this is the cell "
                f"{self.cell.name!r} with the values {', '.join(self.values)}. Its numbers are there by name: "
                f"tape.layers[0][{self.output!r}] for side A, tape.layers[0].d({self.output!r}) for side B, "
                "tape.layers[0].d_weights for gradients."
            )
        return found

    @property
    def dh0(self) -> Tensor | None:
        return self.d_first.get(self.output)


class Recorder(Protocol):
    """Whoever `recorder` holds is told of each network call, then of each layer in it."""

    def begin(self, network: torch.nn.Module) -> None: ...

    def add(self, record: Record) -> None: ...


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def begin(network: torch.nn.Module) -> bool:
    """Tell whoever is watching that the layers of this network follow; whether there is somebody.

    Nobody watches what torch.compile traces.
    """
    watching = None if is_traced() else recorder.get()
    if watching is not None:
        watching.begin(network)
    return watching is not None
