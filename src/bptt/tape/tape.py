"""The tape: every number of both sides of a network, from the fast path, for looking at.

    tape = record(model, x, targets, loss="cross_entropy")      a pass of its own, the model left as it was
    with recording() as tapes: ...                              inside anybody's own loop, one tape for each call

Of each layer and direction a `bptt.tape.Record` is kept: x, every value and its gradient, weights and summed gradients,
as the engine left them. Above the layers: o, y_hat, loss, do, w, targets and the readout W_ho, b_o.
Recomputed on demand, never kept: one step's share of a weight's gradient, which has rank one for each row of the batch.

dh is the total derivative ∂L/∂h_t, own output and future; dh_direct is the own output's part. `retain_grad()` on the
output of a recurrent layer gives dh_direct, which is easily misread as a gradient that has vanished.

On disk a tape is a safetensors file with one JSON string in its metadata; docs/tape.md has the format.
"""

import operator
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import torch
from torch import Tensor

from bptt.autograd.recorded import Padding, Record
from bptt.engine.contract import Signature
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.files import outputs
from bptt.sheet import Cell
from bptt.sheet.cells import TORCH
from bptt.sheet.data import as_data
from bptt.sheet.plain import plain
from bptt.tape import contents, player, tapefile
from bptt.tape.check import Report, check
from bptt.tape.reach import SPREAD, Reach, reach

if TYPE_CHECKING:
    from bptt.tape.widget import Player

Direction = Literal["forward", "reverse"]
PLACED = re.compile(r"(.+)_l(\d+)(_reverse)?")
"""A name with its layer and direction, as in torch's modules."""


@dataclass(eq=False, repr=False)
class Tape:
    """Both sides of one call of a recurrent network; time first, (T, B, ·), or packed (N, ·).

    layers      one `bptt.tape.Record` per layer and direction, in the order of computation
    padding     where rows lie with lengths= or reset=: layers have the real steps packed, the tape has (T, B, ·)
    o y_hat     (S, B, O), A5 and A6; S is T, or 1 where only the last step has an output, so that o[-1] is always o_T
    loss        (S, B), loss(ŷ_t, y_t) of B1 for each step and row, before the weights
    targets     (S, B) class numbers or (S, B, O)
    w           (T, B), the weights of B1; L () is their sum with `loss`
    do          (T, B, O), B3, zero where a step has no output
    W_ho b_o    (H, O) and (O); None when they are unknown, and `readout_missing` then says why

    The fields of `layers` that stand here too are those of the top layer: a, h, h0, dh, dh_direct, da, dh0, with both
    directions side by side on the last axis where there are two, and the weights W_xh, W_hh, b_h. x and dx are those of
    the bottom layer: what the network was given. What the loss did is known to `record` alone; on a tape of
    `recording`, y_hat, loss, targets, w and L are None.
    """

    layers: list[Record] = field(default_factory=list)
    padding: Padding | None = None
    o: Tensor | None = None
    y_hat: Tensor | None = None
    loss: Tensor | None = None
    targets: Tensor | None = None
    w: Tensor | None = None
    L: Tensor | None = None
    do: Tensor | None = None
    W_ho: Tensor | None = None
    b_o: Tensor | None = None
    readout_missing: str = "no torch.nn.Linear read the output of the recurrent layers"
    loss_name: str | None = None
    text: str | None = None
    vocabulary: Sequence[str] | None = None
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.layers, list):
            raise TypeError(
                f"bptt.record and bptt.recording make tapes, and bptt.Tape.load(path) reads one; got {self.layers!r}"
            )

    def __repr__(self) -> str:
        top = self.layers[-1] if self.layers else None
        if top is None:
            return "Tape(nothing recorded yet)"
        size = f"T={self.steps}, B={self.batch}, H={top.h.shape[-1]}, layers={top.layer + 1}"
        both = ", bidirectional" if self.bidirectional else ""
        loss = "" if self.L is None else f", {self.loss_name}, L={float(self.L):.6g}"
        return f"Tape({size}{both}, {self.activation}{loss}{'' if self.complete else ', no backward pass yet'})"

    def __getitem__(self, name: str) -> Tensor:
        """A value of side A at all steps, a weight, or x, by its name in the sheet; or o, y_hat, ... of the tape.

        Of the top layer, x of the bottom one; "c_l0" is that of layer 0, "c_l0_reverse" of its other direction, and
        "weight_hh_l0" what torch calls so; "c0" are the states before the first step, (B, H). Values of both directions
        lie side by side on the last axis.

        Raises KeyError for names that are not there, ValueError where there are two directions and none is named.
        """
        if not isinstance(name, str):
            raise TypeError(f"tape[...] takes a name, such as 'h', and tape['h'][0] a step of it; got {name!r}")
        if name in contents.OUTPUT and (array := getattr(self, name)) is not None:
            return array
        if name == "x":
            return self.x
        if (found := self._as_torch(name)) is not None:
            record, blocks = found
            if summed := [own for own in blocks if len(TORCH[own]) > 1]:
                said = ", ".join(map(repr, summed))
                raise KeyError(f"a tape has the sum of the two biases of torch alone: {said}; got {name!r}")
            return _joined([record[own] for own in blocks])
        if (first := self._of_first(name)) is not None:
            records, state = first
            return self._begun(records, [record.first[state] for record in records])
        records, own = self._about(name)
        return self._laid_out([record[own] for record in records], own, records[0])

    __iter__ = None  # names are many: those of all cells and of the tape

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except KeyError:
            return False

    def d(self, name: str) -> Tensor:
        """The total ∂L/∂ of what `tape[name]` is, laid out as it is; of weights summed over time.

        Raises KeyError for names that are not there, ValueError for tokens, masks and further inputs, which have none
        here, RuntimeError before the backward pass.
        """
        if name == "o":
            return self._do()
        if name == "x":
            dx = self.dx
            if dx is None:
                raise ValueError("x holds tokens, which have no gradient")
            return dx
        if self._as_torch(name) is not None:
            return self.grad(name)
        if (first := self._of_first(name)) is not None:
            records, state = first
            return self._begun(records, [_reached(each, each.d_first.get(state), f"d{name}") for each in records])
        records, own = self._about(name)
        found = [_reached(record, record.d(own), f"d{own}") for record in records]
        return self._laid_out(found, own, records[0])

    def direct(self, name: str) -> Tensor:
        """The part of the gradient of a state or output that came from outside of the layer: own output, or h_n.

        Raises ValueError for other values, RuntimeError before the backward pass.
        """
        records, own = self._about(name)
        found = [_reached(record, record.direct(own), f"d{own}_direct") for record in records]
        return self._laid_out(found, own, records[0])

    def _about(self, name: str, layer: int = -1, direction: Direction | None = None) -> tuple[list[Record], str]:
        """The records that a name is about, and what the sheet calls it."""
        base, layer, direction = self._placed(name, layer, direction)
        records = self._records(layer)
        own = records[0].named(base)
        if direction is not None or (records[0].has(own) and own not in records[0].values):
            records = [self.layer(layer, direction)]
        return records, own

    def _as_torch(
        self, name: str, layer: int = -1, direction: Direction | None = None
    ) -> tuple[Record, list[str]] | None:
        """The record that has a parameter of a torch module, and what the sheet calls its blocks."""
        base, layer, direction = self._placed(name, layer, direction)
        top = self._records(layer)[0]
        blocks = [] if top.has(top.named(base)) else _blocks(top.cell, base)
        return (self.layer(layer, direction), blocks) if blocks else None

    def _of_first(self, name: str) -> tuple[list[Record], str] | None:
        """The records that a name of first states, "c0" or "c0_l1_reverse", is about, and the state."""
        base, layer, direction = self._placed(name, -1, None)
        records = self._records(layer) if direction is None else [self.layer(layer, direction)]
        state = base.removesuffix("0")
        is_first = state != base and state in records[0].first and not records[0].has(base)
        return (records, state) if is_first else None

    def _begun(self, records: list[Record], found: list[Tensor]) -> Tensor:
        """States before the first step, (B, ·), both directions side by side."""
        if self.padding is not None:
            of_rows = self.padding.of_rows
            found = [of_rows(h, reverse=record.reverse) for h, record in zip(found, records, strict=True)]
        return torch.cat(found, -1)

    def _placed(self, name: str, layer: int, direction: Direction | None) -> tuple[str, int, Direction | None]:
        """A name without its "_l0_reverse", and what that says."""
        top = self.layers[-1]
        placed = None if top.has(name) else PLACED.fullmatch(name)
        if placed is None:
            return name, layer, direction
        base, number, back = placed.groups()
        if int(number) > top.layer:
            raise KeyError(f"the layers of this tape are 0 to {top.layer}; got {name!r}")
        return base, int(number), "reverse" if back else "forward"

    def _laid_out(self, found: list[Tensor], own: str, record: Record) -> Tensor:
        """As the network was given it: of weights there is one."""
        if own in record.values:
            return self._dense(torch.cat(found, -1))
        return self._dense(found[0]) if own == "x" or own in Signature.of(record.cell).inputs else found[0]

    if not TYPE_CHECKING:  # who checks types knows all attributes

        def __getattr__(self, name: str) -> Any:
            """AttributeError, which says where the numbers of any cell are."""
            layers = self.__dict__.get("layers")
            raise AttributeError(
                f"a tape has no attribute {name!r}.{_where(name, layers[0]) if layers else ''}", name=name, obj=self
            )

    @property
    def steps(self) -> int:
        """T."""
        return self.layers[0].steps.T if self.padding is None else self.padding.T

    @property
    def batch(self) -> int:
        """B."""
        return self.layers[0].batch if self.padding is None else self.padding.B

    @property
    def batch_sizes(self) -> Sequence[int] | None:
        """Rows of each step, where the arrays of the tape are packed."""
        return self.layers[0].batch_sizes if self.padding is None else None

    def _dense(self, array: Tensor) -> Tensor:
        """What layers have of the real steps of a padded batch, in its place; of others as it is."""
        if self.padding is None or len(array) != len(self.padding.places):
            return array
        return self.padding.dense(array)

    @property
    def bidirectional(self) -> bool:
        return any(record.reverse for record in self.layers)

    @property
    def complete(self) -> bool:
        """Whether the backward pass has reached every layer."""
        return bool(self.layers) and all(record.totals for record in self.layers)

    @property
    def activation(self) -> str:
        """φ of the plain cell, the name of others."""
        return self.layers[-1].activation

    def layer(self, index: int = -1, direction: Direction | None = None) -> Record:
        """The record of one layer (0 is the bottom, -1 the top) in one direction.

        Raises IndexError for a layer that is not there, ValueError when there are two directions and none is named.
        """
        count = self.layers[-1].layer + 1
        if not -count <= index < count:
            raise IndexError(f"layer must lie in [{-count}, {count}); got {index}")
        if direction is None and self.bidirectional:
            raise ValueError("this network runs in two directions; say direction='forward' or direction='reverse'")
        if direction not in (None, "forward", "reverse"):
            raise ValueError(f"direction must be 'forward' or 'reverse'; got {direction!r}")
        if direction == "reverse" and not self.bidirectional:
            raise ValueError("this network runs forward only; got direction='reverse'")
        return self._records(index)[direction == "reverse"]

    def _records(self, index: int) -> list[Record]:
        index = index % (self.layers[-1].layer + 1)
        return [record for record in self.layers if record.layer == index]

    def _top(self, name: str) -> Tensor:
        records = self._records(-1)
        found = [_reached(record, getattr(record, name), name) for record in records]
        return self._begun(records, found) if name in ("h0", "dh0") else self._dense(torch.cat(found, -1))

    @property
    def x(self) -> Tensor:
        """(T, B, I), or integer tokens (T, B)."""
        return self._dense(self.layers[0].x)

    @property
    def a(self) -> Tensor:
        """(T, B, H), A2."""
        return self._top("a")

    @property
    def h(self) -> Tensor:
        """(T, B, H), A3."""
        return self._top("h")

    @property
    def h0(self) -> Tensor:
        """(B, H), what each row begins with; of a PackedSequence in its order, longest sequence first."""
        return self._top("h0")

    @property
    def dh(self) -> Tensor:
        """(T, B, H), the total ∂L/∂h_t of B6; RuntimeError before the backward pass."""
        return self._top("dh")

    @property
    def dh_direct(self) -> Tensor:
        """(T, B, H), the part of dh that came from the step's own output; RuntimeError before the backward pass."""
        return self._top("dh_direct")

    @property
    def da(self) -> Tensor:
        """(T, B, H), B7; RuntimeError before the backward pass."""
        return self._top("da")

    @property
    def dh0(self) -> Tensor:
        """(B, H), the end of B11; RuntimeError before the backward pass."""
        return self._top("dh0")

    @property
    def dx(self) -> Tensor | None:
        """(T, B, I) of B11, None for integer tokens; RuntimeError before the backward pass."""
        if not self.x.is_floating_point():
            return None
        first, *other = (_reached(record, record.dx, "dx") for record in self._records(0))
        return self._dense(first + other[0] if other else first)

    @property
    def W_xh(self) -> Tensor:
        """(I, H); ValueError when there are two directions."""
        return self.layer().W_xh

    @property
    def W_hh(self) -> Tensor:
        """(H, H); ValueError when there are two directions."""
        return self.layer().W_hh

    @property
    def b_h(self) -> Tensor | None:
        """(H), None without bias; ValueError when there are two directions."""
        return self.layer().b_h

    def grad(
        self, name: str, *, step: int | None = None, layer: int = -1, direction: Direction | None = None
    ) -> Tensor:
        """The gradient of a parameter, B4, B5, B8, B9 or B10: summed over time, or one step's share of it.

        name       a parameter by its name in the sheet, such as "W_hf" of an LSTM; those of a plain cell are "W_xh" (I,
                   H), "W_hh" (H, H) and "b_h" (H) whatever its text calls them; or "W_ho" (H, O) or "b_o" (O); or as
                   torch has it, "weight_hh_l0", transposed
        step       index into the arrays of the tape, so 0 is t = 1 and -1 is t = T
        layer      which layer of a stack; 0 is the bottom, -1 the top
        direction  "forward" or "reverse", needed where there are both

        The shares of all steps sum to the whole. Raises ValueError for parameters that the network does not have or the
        tape does not know, IndexError for steps and layers outside it, RuntimeError before the backward pass.
        """
        if name in ("W_ho", "b_o"):
            return self._readout_gradient(name, step)
        rows = self._rows_of_layers(step)
        if (found := self._as_torch(name, layer, direction)) is not None:
            record, blocks = found
            return _joined([record.grad(own, rows) for own in blocks])
        (record, *_), own = self._about(name, layer, direction)
        if own == "b_h" and plain(record.cell) is not None and not record.has(own):
            raise ValueError("this layer has no bias b_h (bias=False)")
        return record.grad(own, rows)

    def _readout_gradient(self, name: str, step: int | None) -> Tensor:
        if self.W_ho is None:
            raise ValueError(f"the gradient of {name} is not known: {self.readout_missing}")
        if name == "b_o" and self.b_o is None:
            raise ValueError("the output layer has no bias b_o (bias=False)")
        rows = self._rows(step)
        do = self._do().flatten(0, -2)[rows]
        return do.sum(0) if name == "b_o" else self.h.flatten(0, -2)[rows].mT @ do  # B4, B5

    def _do(self) -> Tensor:
        if self.do is None:
            raise RuntimeError("do is not known yet: no backward pass has reached the output; call backward() first")
        return self.do

    def _rows(self, step: int | None) -> slice:
        """Where the rows of one step lie once time and batch are one axis."""
        if step is None:
            return slice(None)
        if not isinstance(step, SupportsIndex) or isinstance(step, bool):
            raise TypeError(f"step is an integer, an index into the arrays of the tape; got {step!r}")
        step = operator.index(step)
        if not -self.steps <= step < self.steps:
            raise IndexError(f"step must lie in [{-self.steps}, {self.steps}); got {step}")
        step %= self.steps
        sizes = self.batch_sizes or [self.batch] * self.steps
        return slice(sum(sizes[:step]), sum(sizes[: step + 1]))

    def _rows_of_layers(self, step: int | None) -> slice | Tensor:
        rows = self._rows(step)
        if self.padding is None or step is None:
            return rows
        return ((self.padding.places >= rows.start) & (self.padding.places < rows.stop)).nonzero()[:, 0]

    def packed(self) -> "Tape":
        """The same tape without its padding; outputs of the last step alone, which are no rows of layers, are left out.

        Losses at padding go with it, and with them their part of L.
        """
        if self.padding is None:
            return self
        real = self.padding.rows
        names = ("o", "y_hat", "loss", "targets", "w", "do")
        outputs = {name: array for name in names if (array := getattr(self, name)) is not None}
        if any(len(array) != self.steps for array in outputs.values()):
            missing = "only steps with an output in a padded batch are shown, and here only the last one has one"
            known = dict.fromkeys((*names, "L", "W_ho", "b_o", "loss_name"))
            return replace(self, padding=None, **known, readout_missing=missing)
        packed = replace(self, padding=None, **{name: real(array) for name, array in outputs.items()})
        if packed.w is not None and packed.loss is not None:
            packed.L = (packed.w * packed.loss).sum()
        return packed

    def check(self) -> Report:
        """Every number derived again from its neighbours, and every gradient by plain autograd; see `bptt.tape.check`.

        For float64 also by central differences. RuntimeError before the backward pass.
        """
        self._demand_side_b()
        return check(self)

    def _demand_side_b(self) -> None:
        if not self.complete:
            raise RuntimeError("side B is empty: no backward pass has reached every layer; call backward() first")

    def reach(self, origins: int | Literal["all"] | Sequence[int] = SPREAD) -> Reach:
        """How far the gradient reaches: ‖∂L_t/∂h_k‖ by the distance t − k, with rate, spectra and a verdict in words.

        origins  how many steps t to follow, spread over those at which a loss enters; "all"; or these steps, counted
                 from 0

        What is beside the lags, such as exponents and singular values, is computed when it is asked for. Numbers are
        those of the tape's dtype, exponents and singular values float64; they are found by the compiled engine on the
        CPU. Layers beneath dropout, where a single loss cannot be followed, are left out.

        Raises RuntimeError before the backward pass, InputError for a tape of fewer than two steps, without a loss, or
        with numbers that are not finite, and for steps at which no loss enters.
        """
        self._demand_side_b()
        return reach(self.layers, origins)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tape to a safetensors file, whole or not at all; a file of that name is replaced.

        Raises InputError when the directory is missing or `path` is one.
        """
        cells = list(dict.fromkeys(record.cell for record in self.layers))
        layers = [
            {
                "layer": record.layer,
                "direction": _direction(record),
                "cell": cells.index(record.cell),
                "batch_sizes": None if record.batch_sizes is None else list(record.batch_sizes),
            }
            for record in self.layers
        ]
        about = {
            "padded": None if self.padding is None else [self.padding.T, self.padding.B],
            "cells": [_as_data(cell) for cell in cells],
            "layers": layers,
            "loss": self.loss_name,
            "readout_missing": self.readout_missing,
            "text": self.text,
            "vocabulary": None if self.vocabulary is None else list(self.vocabulary),
            "seed": self.seed,
            "versions": self.versions,
        }
        arrays = {name: getattr(self, name) for name in contents.OUTPUT}
        arrays |= {"places": None if self.padding is None else self.padding.places}
        for layer, record in zip(layers, self.layers, strict=True):
            arrays |= {contents.prefix_of(layer) + name: array for name, array in _arrays(record).items()}
        tapefile.write(Path(path), about, {name: array for name, array in arrays.items() if array is not None})

    def page(
        self, path: str | os.PathLike[str], *, row: player.Row = 0, first: int | None = None, steps: int | None = None
    ) -> None:
        """Write a page that plays this tape: one file that needs no network, whole or not at all; see `player`.

        row     which row of the batch to show; of one that resets cut, (row, sequence)
        first   the first step to show, an index into the arrays of the row; default the beginning, or the end where
                only the last step has an output
        steps   how many steps; default as many as keep the page at a few megabytes

        Raises InputError before the backward pass, for rows and steps outside the tape, and when the directory is
        missing or `path` is one.
        """
        text = player.html(self, row=row, first=first, steps=steps)
        outputs.write("a page", {Path(path): text.encode()})

    def show(self, *, row: player.Row = 0, first: int | None = None, steps: int | None = None) -> "Player":
        """The player of this tape as a notebook widget, with `cursor`, `side` and `selection` to read and to set.

        Arguments as for `page`. Raises InputError as `page` does, and where anywidget is not installed.
        """
        try:
            from bptt.tape.widget import Player
        except ImportError:
            raise InputError(
                "tape.show() needs anywidget, which is not installed. Install it, in a checkout of bptt: pip install "
                "'.[notebook]'; or write a page: tape.page('run.html')."
            ) from None
        return Player(self, row=row, first=first, steps=steps)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Tape":
        """Read a tape that `save` wrote, onto the CPU.

        Raises InputError for a file that is missing, truncated, of another kind or schema, or whose arrays do not
        belong together.
        """
        about, arrays = tapefile.read(Path(path))
        layers = [_loaded(layer, contents.cell_of(about, layer), arrays) for layer in about["layers"]]
        output = {name: arrays.get(name) for name in contents.OUTPUT}
        known = {key: about[key] for key in ("readout_missing", "text", "vocabulary", "seed", "versions")}
        T, B = about["padded"] or (0, 0)
        padding = Padding(T, B, arrays["places"]) if "places" in arrays else None
        return Tape(layers, padding, **output, **known, loss_name=about["loss"])


def _where(name: str, layer: Record) -> str:
    """Where a number of this name is; empty for names that no cell has here."""
    if layer.has(name):
        return f" Write tape[{name!r}] for it, tape.d({name!r}) for its gradient."
    if name.startswith("d") and layer.has(name[1:]):
        return f" Write tape.d({name[1:]!r})."
    return ""


def _reached(record: Record, array: Tensor | None, name: str) -> Tensor:
    if array is None:
        raise RuntimeError(
            f"{name} of layer {record.layer} is not known yet: no backward pass has reached it; call backward() first"
        )
    return array


def _joined(blocks: list[Tensor]) -> Tensor:
    """As torch has them: matrices transposed, one block below the other."""
    turned = [block.mT if block.dim() == 2 else block for block in blocks]
    return turned[0] if len(turned) == 1 else torch.cat(turned)


def _blocks(cell: Cell, tensor: str) -> list[str]:
    """The parameters of the sheet that lie in a tensor of a torch module, where torch has them all."""
    parameters = Signature.of(cell).parameters
    if not set(parameters) <= TORCH.keys():
        return []
    parts = sorted((block, blocks, own) for own in parameters for name, block, blocks in TORCH[own] if name == tensor)
    is_whole = [block for block, *_ in parts] == list(range(len(parts)))
    return [own for *_, own in parts] if is_whole and all(blocks == len(parts) for _, blocks, _ in parts) else []


def _as_data(cell: Cell) -> dict[str, Any]:
    """Its text, and both sides parsed, for readers outside Python."""
    parsed = as_data(cell)
    return {"name": cell.name, "text": cell.text, "sheet": {key: parsed[key] for key in parsed if key != "notations"}}


def _arrays(record: Record) -> dict[str, Tensor | None]:
    """Those of a layer by their names in a file."""
    found = {f"{kind}.{name}": array for kind in contents.KINDS for name, array in getattr(record, kind).items()}
    return found | {"x": record.x, "dx": record.dx}


def _loaded(layer: dict[str, Any], cell: Cell, arrays: dict[str, Tensor]) -> Record:
    prefix, sizes = contents.prefix_of(layer), layer["batch_sizes"]
    of_kind: dict[str, dict[str, Tensor]] = {kind: {} for kind in contents.KINDS}
    for name, array in arrays.items():
        kind, _, own = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and own:
            of_kind[kind][own] = array
    of_kind["values"] = {line.name: of_kind["values"][line.name] for line in cell.derivation.steps}
    x, B = arrays[f"{prefix}x"], len(next(iter(of_kind["first"].values())))
    steps = Steps(len(x) if sizes is None else len(sizes), B, sizes, layer["direction"] == "reverse")
    return Record(layer["layer"], cell, steps, x=x, dx=arrays.get(f"{prefix}dx"), **of_kind)


def _direction(record: Record) -> Direction:
    return "reverse" if record.reverse else "forward"
