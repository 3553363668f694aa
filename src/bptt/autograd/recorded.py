"""Whoever watches a network is told of its calls, and of all that each layer computed on both sides."""

import re
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bptt.autograd.private import is_traced
from bptt.engine.contract import Signature
from bptt.engine.evaluation import SIZE, Environment, evaluated, fixed_lines, identities_of
from bptt.engine.reference import of_parameters
from bptt.engine.steps import Steps
from bptt.errors import did_you_mean
from bptt.sheet import Cell
from bptt.sheet.plain import plain


@dataclass(repr=False)
class Record:
    """Everything one layer computed on both sides, as the fast path left it; None until it has happened.

    Names are those of the sheet. Arrays of all steps are (T, B, ·), or packed (N, ·) where `steps` has sizes; `x` may
    be integer tokens without a last axis. A second backward pass replaces all of side B.

    layer         which of a stack
    weights       the parameters, masks and further inputs
    values        of side A at all steps; first: (B, ·) of the states before the first step
    totals        ∂L/∂ of every value at all steps
    from_outside  the part of it that came from above and from the last states, for the values that have one
    d_weights     ∂L/∂ of the parameters whose gradient was asked for, from all steps; d_first and dx likewise
    learned       where the cell has lines without a time: the parameters, of which some are made into those weights
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
    learned: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """A value of side A, a parameter, a line without a time, a mask, a further input, or x; KeyError for others."""
        known = self.values | self.weights | self.learned | {"x": self.x}
        if name not in known and name not in (known := known | self.fixed):
            raise KeyError(f"this cell has {', '.join(known)}; got {name!r}.{_near(name, known)}")
        return known[name]

    def has(self, name: str) -> bool:
        return name in self.values or name in self.weights or name in self.learned | self.fixed or name == "x"

    def d(self, name: str) -> Tensor | None:
        """The total ∂L/∂ of a value at all steps, of x, or of a parameter, summed; None where it is not known."""
        _ = self[name]
        if name in self.values or name == "x":
            return self.dx if name == "x" else self.totals.get(name)
        return self.grad(name)

    def direct(self, name: str) -> Tensor | None:
        """The part of `d(name)` from outside, of a state or the output; None before the backward pass."""
        known = dict.fromkeys((self.output, *self.first))
        if name not in known:
            raise ValueError(
                f"from outside of a cell come gradients of {', '.join(known)}; got {name!r}. All of the gradient of "
                "other values comes from uses in the cell: d(name) has it."
            )
        return self.from_outside.get(name)

    def grad(self, name: str, rows: slice | Tensor = slice(None)) -> Tensor:
        """B8, B9 and B10 of a parameter or a line without a time, from some rows (of all N) alone.

        Raises ValueError for others, RuntimeError before the backward pass.
        """
        known = dict.fromkeys((*Signature.of(self.cell).parameters, *self.learned, *self.fixed))
        if name not in known:
            raise ValueError(f"gradients are those of {', '.join((*known, 'W_ho', 'b_o'))}; got {name!r}")
        if not self.totals:
            raise RuntimeError(
                f"the gradient of {name} in layer {self.layer} is not known yet: no backward pass has reached it; call "
                "backward() first"
            )
        return self._through_fixed_lines(rows)[name] if self.learned else self._from_steps(name, rows)

    def _from_steps(self, name: str, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice) and rows == slice(None) and name in self.d_weights:
            return self.d_weights[name]
        return of_parameters(self.cell, self.environment(rows), {name})[name]

    def _through_fixed_lines(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """Of lines without a time, last one first, then of parameters: what steps send, and what such lines do."""
        sizes, made = self.sizes, self.fixed
        identities, parameters = identities_of(self.cell, sizes, self.h), Signature.of(self.cell).parameters
        env: Environment = {(size, SIZE): length for size, length in sizes.items()}
        env |= {(name, None): torch.atleast_2d(tensor) for name, tensor in (self.learned | made).items()}
        found: dict[str, Tensor] = {}
        for name, tensor in ({name: made[name] for name in reversed(made)} | self.learned).items():
            total = self._from_steps(name, rows) if name in parameters else torch.zeros_like(tensor)
            for use in self.cell.derivation.uses.get((name, None), ()):
                if use.line.step is None:
                    env["I", None] = identities[use.line.name]
                    total = total + evaluated(use.value, self.cell)(env)
            found[name] = total.reshape(tensor.shape)
            env[f"∂{name}", None] = torch.atleast_2d(found[name])
        return found

    @property
    def fixed(self) -> dict[str, Tensor]:
        """The values of the lines without a time, all names given, in their order."""
        return fixed_lines(self.cell, self.learned, self.sizes) if self.learned else {}

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the sizes of the sheet: "1", "I", "H" and those that the cell declares."""
        sheet, there = self.cell.sheet, self.values | self.weights | self.learned
        found = {"1": 1}
        for name, width in self.cell.derivation.widths.items():
            if name in there:
                found[width] = there[name].shape[-1]
        for name, (rows, columns) in sheet.shapes.items():
            if name in there:
                found[rows], found[columns] = there[name].shape
        if self.x.is_floating_point():
            found[sheet.widths["x"]] = self.x.shape[-1]
        return found

    def environment(self, rows: slice | Tensor = slice(None), dtype: torch.dtype | None = None) -> Environment:
        """All that side B reads and makes, as expressions of the sheet want it: arrays of rows, all N or some."""
        signature, steps = Signature.of(self.cell), self.steps

        def of_steps(array: Tensor) -> Tensor:
            flat = array.flatten(0, -2) if array.is_floating_point() else array.flatten()
            return flat[rows].to(dtype) if dtype and flat.is_floating_point() else flat[rows]

        env: Environment = {(size, SIZE): length for size, length in self.sizes.items()}
        env |= {(name, None): self.weights[name].to(dtype or self.h.dtype) for name in signature.parameters}
        env |= {(name, None): of_steps(steps.at_every_step(self.weights[name])) for name in signature.masks}
        env |= {(name, 0): of_steps(self.weights[name]) for name in signature.inputs}
        env |= {(name, 0): of_steps(value) for name, value in (self.values | {"x": self.x}).items()}
        env |= {(name, -1): of_steps(self.before(name)) for name in signature.states}
        env |= {(f"∂{name}", 0): of_steps(total) for name, total in self.totals.items()}
        return env

    def before(self, name: str) -> Tensor:
        """A state at the step before, in the order of time, laid out as its values."""
        return self.steps.previous_of(self.steps.with_first(self.values[name], self.first[name][None]))

    def __getattr__(self, name: str) -> Any:
        """Values and weights, and with d before them their gradients, as attributes: dc, W_hf, dW_hf. Of a plain cell
        they are a, W_xh, W_hh and b_h whatever its text calls them; b_h is None without bias."""
        if "values" in self.__dict__:
            for start, ask in (("", self.__getitem__), ("d", self.d)):
                own = self.named(name.removeprefix(start))
                if name.startswith(start) and self.has(own):
                    return ask(own)
                if own == "b_h" and plain(self.cell) is not None:
                    return None
        raise AttributeError(f"a record has no attribute {name!r}", name=name, obj=self)

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
    def h(self) -> Tensor:
        """The output of every step; h0 (B, H) before the first, in the order of time."""
        return self.values[self.output]

    @property
    def h0(self) -> Tensor:
        return self.first[self.output]

    @property
    def h_prev(self) -> Tensor:
        """h_{t-1} of every step (h_{t+1} with reverse), laid out as `h`."""
        return self.before(self.output)

    @property
    def dh(self) -> Tensor | None:
        """The total ∂L/∂h_t of B6; dh_direct the part that came from above."""
        return self.totals.get(self.output)

    @property
    def dh_direct(self) -> Tensor | None:
        return self.from_outside.get(self.output)

    @property
    def dh0(self) -> Tensor | None:
        return self.d_first.get(self.output)

    def named(self, name: str) -> str:
        """What the text of this cell calls a, W_xh, W_hh and b_h, where it is a plain one; else the name itself."""
        if name not in ("a", "h", "W_xh", "W_hh", "b_h") or self.has(name):
            return name
        return getattr(plain(self.cell), name, None) or name

    def __repr__(self) -> str:
        where = f"layer={self.layer}{', reverse' * self.reverse}"
        return f"Record({where}, {self.cell.name!r}, T={self.steps.T}, B={self.batch}, H={self.h.shape[-1]})"

    @property
    def activation(self) -> str:
        """φ of the plain cell, the name of others."""
        own = plain(self.cell)
        return self.cell.name if own is None else own.activation


def _near(name: str, known: Collection[str]) -> str:
    bare = re.sub(r"^[∂d](?=.)|_t$|_\{.*\}$", "", name)
    return did_you_mean(bare if bare in known else name, known)


class Padding(NamedTuple):
    """Where the rows of a padded batch (T, B, ·) were packed to, for the layers walk its real steps alone.

    places  (N,) of each packed row its step times B plus its row
    """

    T: int
    B: int
    places: Tensor

    def sequences(self, count: int) -> list[list[int]]:
        """For each row its sequences, in order, by their places among all: a reset begins another one."""
        found: list[list[int]] = [[] for _ in range(self.B)]
        starts = self.places[:count].tolist()
        for k in sorted(range(count), key=starts.__getitem__):
            found[starts[k] % self.B].append(k)
        return found

    def of_rows(self, states: Tensor, *, reverse: bool = False) -> Tensor:
        """The states (B, ·) of rows, from those (S, ·) that sequences begin with.

        Raises ValueError where a row has no steps, for no layer has computed anything from its state.
        """
        of_row = self.sequences(len(states))
        if [] in of_row:
            raise ValueError(
                f"row {of_row.index([])} has no steps, so no layer began with its state, and this tape does not know "
                "it. tape.layers[-1].first has those of the others, the longest sequence first."
            )
        return states[[sequences[-1 if reverse else 0] for sequences in of_row]]

    def dense(self, rows: Tensor) -> Tensor:
        """(T, B, ·) from (N, ·): zero at padding."""
        return (
            rows.new_zeros(self.T * self.B, *rows.shape[1:])
            .index_copy(0, self.places, rows)
            .unflatten(0, (self.T, self.B))
        )

    def rows(self, dense: Tensor) -> Tensor:
        """The inverse of `dense`."""
        return dense.flatten(0, 1).index_select(0, self.places)


MadeOf = Callable[[int], dict[str, Tensor]]
"""Of a layer, counted as they are computed, `Record.learned`."""


class Recorder(Protocol):
    """Whoever `recorder` holds is told of each network call, of each layer in it, and of padding at its end."""

    def begin(self, network: torch.nn.Module, made_of: MadeOf) -> None: ...

    def add(self, record: Record) -> None: ...

    def pad(self, padding: Padding) -> None: ...


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def begin(network: torch.nn.Module, made_of: MadeOf = lambda _: {}) -> bool:
    """Tell whoever is watching that the layers of this network follow; whether there is somebody.

    Nobody watches what torch.compile traces.
    """
    watching = None if is_traced() else recorder.get()
    if watching is not None:
        watching.begin(network, made_of)
    return watching is not None
