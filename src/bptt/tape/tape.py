"""The tape: every number of both sides of a network, from the fast path, for looking at.

    tape = record(model, x, targets, loss="cross_entropy")      a pass of its own, the model left as it was
    with recording() as tapes: ...                              inside anybody's own loop, one tape for each call

Of each layer and direction a `bptt.tape.Record` is kept: x, every value and its gradient, weights and summed gradients,
as the engine left them. Above the layers: o, y_hat, loss, do, w, targets and the readout W_ho, b_o.
Recomputed on demand, never kept: one step's share of a weight's gradient, which has rank one for each row of the batch.

dh is the total derivative ∂L/∂h_t, own output and future; dh_direct is the own output's part. `retain_grad()` on the
output of a recurrent layer gives dh_direct, which is easily misread as a gradient that has vanished.

W_ho and b_o are known when a torch.nn.Linear reads the RNN's output itself: its input holds the same numbers as the
states of all steps, or of the last one. Steps without an output have do = 0 and w = 0, as B4 and B5 want it.

On disk a tape is a safetensors file with one JSON string in its metadata; docs/tape.md has the format.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from bptt.autograd.recorded import Padding, Record, recorder
from bptt.engine import choose
from bptt.engine.contract import Signature
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.files import outputs
from bptt.sheet import Cell, losses
from bptt.sheet.cells import TORCH
from bptt.sheet.data import as_data
from bptt.sheet.plain import plain
from bptt.tape import player, tapefile
from bptt.tape.check import Report, check

if TYPE_CHECKING:
    from bptt.tape.widget import Player

Direction = Literal["forward", "reverse"]
KEPT_BY_MALLOC = (32 << 20) - 8192
"""Bytes. Once a block of this size was freed, the C library of GNU keeps smaller ones for the next time, up to twice as
many bytes. Memory that it has to ask the system for again costs a recording as much as all else together."""
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
    W_ho b_o    (H, O) and (O); None when they are unknown, and `readout_missing` says why

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
        "weight_hh_l0" what torch calls so. Values of both directions lie side by side on the last axis.

        Raises KeyError for names that are not there, ValueError where there are two directions and none is named.
        """
        if name in tapefile.OUTPUT and (array := getattr(self, name)) is not None:
            return array
        if name == "x":
            return self.x
        records, own, is_turned = self._about(name)
        if own in self._summed_biases(records[0], name):
            raise KeyError(f"a tape has the sum of the two biases of torch alone: {own!r}; got {name!r}")
        found = torch.cat([record[own] for record in records], -1)
        return _turned(found, is_turned) if own in records[0].weights else self._dense(found)

    def d(self, name: str) -> Tensor:
        """The total ∂L/∂ of what `tape[name]` is, of weights summed over time. RuntimeError before it is known."""
        if name == "o":
            return _there(self.do, "do")
        if name == "x":
            return _there(self.dx, "dx of tokens")
        records, own, is_turned = self._about(name)
        found = [
            record.grad(own) if own in record.weights else _reached(record, record.d(own), own) for record in records
        ]
        whole = torch.cat(found, -1)
        return _turned(whole, is_turned) if own in records[0].weights else self._dense(whole)

    def direct(self, name: str) -> Tensor:
        """The part of the gradient of a state or output that came from outside of the layer: own output, or h_n.

        Raises ValueError for other values, RuntimeError before the backward pass.
        """
        records, own, _ = self._about(name)
        found = [_reached(record, record.direct(own), f"{own}_direct") for record in records]
        return self._dense(torch.cat(found, -1))

    def _about(self, name: str) -> tuple[list[Record], str, bool]:
        """The records that have a name, what the sheet calls it, and whether torch has it transposed."""
        base, number, back = name, None, None
        top = self.layers[-1]
        if not top.has(name) and (placed := PLACED.fullmatch(name)):
            base, number, back = placed.groups()
        number = top.layer if number is None else int(number)
        if number > top.layer:
            raise KeyError(f"the layers of this tape are 0 to {top.layer}; got {name!r}")
        first, *other = records = self._records(number)
        own = first.named(base)
        is_of_torch = not first.has(own) and base in _torch_names(first)
        own = _torch_names(first)[base] if is_of_torch else own
        if other and (back or base != name or own in first.weights):
            records = [self.layer(number, "reverse" if back else "forward" if base != name else None)]
        if not first.has(own):
            _ = first[own]
        return records, own, is_of_torch

    def _summed_biases(self, record: Record, name: str) -> list[str]:
        return [own for torchs, own in _torch_names(record).items() if "bias_" in torchs and name.startswith(torchs)]

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
        found = [_reached(record, getattr(record, name), name) for record in self._records(-1)]
        return torch.cat(found, -1) if name in ("h0", "dh0") else self._dense(torch.cat(found, -1))

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
        """(B, H)."""
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
        record = self.layer(layer, direction) if layer != -1 or direction or not PLACED.fullmatch(name) else None
        if record is None:
            (record, *_), own, is_turned = self._about(name)
        else:
            own, is_turned = record.named(name), False
        if own == "b_h" and plain(record.cell) is not None and not record.has(own):
            raise ValueError("this layer has no bias b_h (bias=False)")
        return _turned(record.grad(own, self._rows_of_layers(step)), is_turned)

    def _readout_gradient(self, name: str, step: int | None) -> Tensor:
        if self.W_ho is None:
            raise ValueError(f"the gradient of {name} is not known: {self.readout_missing}")
        if name == "b_o" and self.b_o is None:
            raise ValueError("the output layer has no bias b_o (bias=False)")
        if self.do is None:
            raise RuntimeError("do is not known yet: no backward pass has reached the output; call backward() first")
        rows = self._rows(step)
        do = self.do.flatten(0, -2)[rows]
        return do.sum(0) if name == "b_o" else self.h.flatten(0, -2)[rows].mT @ do  # B4, B5

    def _rows(self, step: int | None) -> slice:
        """Where the rows of one step lie once time and batch are one axis."""
        if step is None:
            return slice(None)
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

    def _packed(self) -> "Tape":
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
        if not self.complete:
            raise RuntimeError("side B is empty: no backward pass has reached every layer; call backward() first")
        return check(self)

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
        arrays = {name: getattr(self, name) for name in tapefile.OUTPUT}
        arrays |= {"places": None if self.padding is None else self.padding.places}
        for layer, record in zip(layers, self.layers, strict=True):
            arrays |= {tapefile.prefix_of(layer) + name: array for name, array in _arrays(record).items()}
        tapefile.write(Path(path), about, {name: array for name, array in arrays.items() if array is not None})

    def page(
        self, path: str | os.PathLike[str], *, row: int = 0, first: int | None = None, steps: int | None = None
    ) -> None:
        """Write a page that plays this tape: one file that needs no network, whole or not at all; see `player`.

        row     which row of the batch to show
        first   the first step to show, an index into the arrays; default the beginning, or the end where only the last
                step has an output
        steps   how many steps; default as many as keep the page at a few megabytes

        Raises InputError before the backward pass, for rows and steps outside the tape, and when the directory is
        missing or `path` is one.
        """
        text = player.html(self._packed(), row=row, first=first, steps=steps)
        outputs.write("a page", {Path(path): text.encode()})

    def show(self, *, row: int = 0, first: int | None = None, steps: int | None = None) -> "Player":
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
        return Player(self._packed(), row=row, first=first, steps=steps)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Tape":
        """Read a tape that `save` wrote, onto the CPU.

        Raises InputError for a file that is missing, truncated, of another kind or schema, or whose arrays do not
        belong together.
        """
        about, arrays = tapefile.read(Path(path))
        cells = [Cell(cell["text"], cell["name"]) for cell in about["cells"]]
        layers = [_loaded(layer, cells[layer["cell"]], arrays) for layer in about["layers"]]
        output = {name: arrays.get(name) for name in tapefile.OUTPUT}
        known = {key: about[key] for key in ("readout_missing", "text", "vocabulary", "seed", "versions")}
        T, B = about["padded"] or (0, 0)
        padding = Padding(T, B, arrays["places"]) if "places" in arrays else None
        return Tape(layers, padding, **output, **known, loss_name=about["loss"])


def record(
    model: torch.nn.Module,
    x: Any,
    targets: Tensor,
    *,
    loss: str | None = None,
    weights: Tensor | None = None,
    h0: Tensor | None = None,
    text: str | None = None,
    vocabulary: Sequence[str] | None = None,
    seed: int | None = None,
) -> Tape:
    """The tape of one forward and backward pass of a model that calls one recurrent module of `bptt.nn`, once.

    The pass is the model's own, on the fast path. It leaves no trace: parameters' .grad, buffers such as running means
    and the state of the random generators stay as they were, and dropout draws what it would have drawn next.

    model    called with x, or with (x, h0) when h0 is given; its first output is o, before g, at every step or the
             last. A Jordan network is given the targets too, which it is fed with
    targets  as `bptt.losses.loss` wants them for o
    loss     "cross_entropy", "binary_cross_entropy" or "squared_error"; default the model's `loss_name`, if it has one
    weights  w of B1: one for each step, (T,), or of the shape of o without its last axis; default a mean
    text, vocabulary, seed   kept on the tape: the text x came from, the characters by token number, where weights began

    Raises ValueError when the model makes no such call or several (`recording` serves those), or its output fits no
    step.

    >>> model = bptt.nn.Elman(5, 8, 3)
    >>> record(model, torch.randn(7, 2, 5), torch.randint(3, (7, 2))).dh.shape
    torch.Size([7, 2, 8])
    """
    name = getattr(model, "loss_name", None) if loss is None else loss
    if not isinstance(name, str):
        got = f"none, and {type(model).__name__} has no loss_name" if name is None else _said(name)
        raise ValueError(
            f"loss is a name, one of {', '.join(losses.PAIRS)}; got {got}. Write loss='squared_error', for example. "
            "With another loss, call it yourself inside bptt.recording()."
        )
    losses.pair(name)
    parameters = {
        key: value.detach().requires_grad_(value.is_floating_point()) for key, value in model.named_parameters()
    }
    buffers = {key: value.detach().clone() for key, value in model.named_buffers()}
    given = (x, targets, h0) if getattr(model, "is_fed_targets", False) else (x, h0)
    arguments = tuple(value.detach() if isinstance(value, Tensor) else value for value in given if value is not None)
    devices = {value.device for value in parameters.values() if value.is_cuda}
    with torch.random.fork_rng(sorted(device.index for device in devices)), torch.enable_grad():
        with _watching() as watcher:
            output = functional_call(model, parameters | buffers, arguments)
        if len(watcher.tapes) != 1:
            raise ValueError(
                "record takes a model that calls one recurrent module of bptt.nn once, RNN, Recurrent or RNNCell; "
                f"{type(model).__name__} made {len(watcher.tapes)} such calls. {_instead(len(watcher.tapes))}"
            )
        (tape,) = watcher.tapes
        o: Tensor = output[0] if isinstance(output, tuple | list) else output
        place = watcher.place_output(o)
        w = None if weights is None else _step_weights(weights, o, watcher.batch_first)
        L = losses.loss(name, o, targets, w)
        if not L.requires_grad:
            raise ValueError("the model's output does not depend on its parameters: was it detached?")
        if tape.W_ho is None:
            watcher.keep_do(o, place)
        L.backward(inputs=[value for value in parameters.values() if value.requires_grad])
    per_row = losses.pair(name).per_row(o.detach(), targets)
    w = o.new_full(o.shape[:-1], 1 / max(1, per_row.numel())) if w is None else w.expand(o.shape[:-1])
    tape.o, tape.y_hat = place(o.detach()).clone(), place(losses.output(name, o.detach())).clone()
    tape.loss, tape.L = place(per_row.to(o.dtype)[..., None])[..., 0].clone(), L.detach().to(o.dtype)
    tape.w = _all_steps(place(w.detach()[..., None]), tape)[..., 0].clone()
    if targets.dim() == o.dim():
        tape.targets = place(targets.detach().to(o.dtype)).clone()
    else:
        tape.targets = place(targets[..., None])[..., 0].clone()
    tape.loss_name, tape.text, tape.vocabulary, tape.seed = name, text, vocabulary, seed
    return tape


@contextmanager
def recording() -> Iterator[list[Tape]]:
    """A list that receives one tape for each call of a recurrent module of `bptt.nn` made inside the context.

    Side A is there when the call returns, side B as soon as a backward pass has run, inside the context or after it.
    Nothing that is computed changes; what torch.compile has compiled runs uncompiled inside the context. A
    torch.nn.Linear that reads the output of the call before it gives o, do, W_ho and b_o; when several do, the output
    layer stays unknown.

    >>> with recording() as tapes:
    ...     loss_fn(my_model(x), y).backward()
    >>> tapes[0].dh.norm(dim=-1)
    """
    with _watching() as watcher:
        yield watcher.tapes


@contextmanager
def _watching() -> "Iterator[_Watcher]":
    watcher = _Watcher()
    torch.empty(KEPT_BY_MALLOC, dtype=torch.uint8)
    token = recorder.set(watcher)
    hook = register_module_forward_hook(watcher.after)
    try:
        with _uncompiled():
            yield watcher
    finally:
        hook.remove()
        recorder.reset(token)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Functions that torch.compile has compiled run as they were written."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are global hooks", UserWarning)
        yield


class _Watcher:
    """Told of network calls and layers by `ops.recorder`, of linear layers by a forward hook."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.batch_first = False
        self.read_by: list[tuple[Tensor, _Place]] = []
        self.keeping_do: RemovableHandle | None = None

    def begin(self, network: torch.nn.Module) -> None:
        self.tapes.append(Tape(versions=dict(_versions())))
        self.batch_first = bool(getattr(network, "batch_first", False))
        self.read_by, self.keeping_do = [], None

    def add(self, record: Record) -> None:
        self.tapes[-1].layers.append(record)
        self.tapes[-1].versions["engine"] = choose(record.h.device.type, record.h.dtype).name

    def pad(self, padding: Padding) -> None:
        self.tapes[-1].padding = padding

    def after(self, module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(module, torch.nn.Linear) or not self.tapes or recorder.get() is not self:
            return
        place = self._place_of_states(inputs[0]) if inputs else None
        if place is None:
            return
        tape = self.tapes[-1]
        self.read_by.append((output.detach(), place))
        if len(self.read_by) > 1:
            self._forget_readout("several torch.nn.Linear read the output of the recurrent layers")
            return
        tape.o = place(output.detach()).clone()
        tape.W_ho = module.weight.detach().mT.clone()
        tape.b_o = None if module.bias is None else module.bias.detach().clone()
        self.keep_do(output, place)

    def keep_do(self, o: Tensor, place: "_Place") -> None:
        """Keep B3 as the gradient passes by the output."""
        tape = self.tapes[-1]

        def keep(do: Tensor) -> None:
            tape.do = _all_steps(place(do.detach()), tape).clone()

        if o.requires_grad:
            self.keeping_do = o.register_hook(keep)

    def place_output(self, o: Tensor) -> "_Place":
        """How the model's output becomes (S, B, O); the readout is kept only if the output is its own."""
        tape = self.tapes[-1]
        if len(self.read_by) == 1:
            made, place = self.read_by[0]
            if made.data_ptr() == o.data_ptr() and made.numel() == o.numel() and made.shape[-1:] == o.shape[-1:]:
                places = _places(o.shape[:-1], tape, batch_first=self.batch_first)
                return next(own for own in places if torch.equal(own(o.detach()), place(made)))
            self._forget_readout("the model's output is not what the torch.nn.Linear on the recurrent layers made")
        places = _places(o.shape[:-1], tape, batch_first=self.batch_first)
        if not places:
            raise ValueError(
                f"the model's first output must have one row for each step and batch row, or for the last step only, "
                f"and the outputs on its last axis; got {tuple(o.shape)} for T={tape.steps}, B={tape.batch}"
            )
        return places[0]

    def _forget_readout(self, reason: str) -> None:
        tape = self.tapes[-1]
        tape.o = tape.do = tape.W_ho = tape.b_o = None
        tape.readout_missing = reason
        if self.keeping_do is not None:
            self.keeping_do.remove()

    def _place_of_states(self, features: Tensor) -> "_Place | None":
        """How the input of a linear layer lies in the states of the last call; None if it is something else."""
        tape = self.tapes[-1]
        if not isinstance(features, Tensor) or not tape.layers:
            return None
        h = tape.h
        if features.shape[-1:] != h.shape[-1:] or features.dtype != h.dtype or features.device != h.device:
            return None
        for place in _places(features.shape[:-1], tape, batch_first=self.batch_first):
            rows = place(features.detach())
            if torch.equal(rows, h[len(h) - len(rows) :]):
                return place
        return None


@dataclass(frozen=True)
class _Place:
    """A view of an array of a model, its last axis apart, that has time first: (S, B, ·), or (N, ·) when packed."""

    lead: tuple[int, ...]
    batch_first: bool = False

    def __call__(self, array: Tensor) -> Tensor:
        array = array.reshape(*self.lead, array.shape[-1])
        return array.transpose(0, 1) if self.batch_first else array


def _places(lead: tuple[int, ...], tape: Tape, *, batch_first: bool) -> list[_Place]:
    """The ways an array with these leading axes can lie in time and batch, the likeliest first."""
    T, B = tape.steps, tape.batch
    if tape.batch_sizes is not None:
        rows = sum(tape.batch_sizes)
        return [_Place((rows,))] if lead == (rows,) else []
    every_step = [_Place((T, B)), _Place((B, T), batch_first=True)]
    if batch_first:
        every_step.reverse()
    places = [place for place in every_step if lead == place.lead]
    if lead == (T * B,) or (lead == (T,) and B == 1):
        places += every_step
    if lead == (B,) or lead == (1, B) or (lead == () and B == 1):
        places.append(_Place((1, B)))
    return places


def _all_steps(rows: Tensor, tape: Tape) -> Tensor:
    """Rows of the last steps with zeros for the steps before them."""
    if tape.batch_sizes is not None or len(rows) == tape.steps:
        return rows
    return torch.cat([rows.new_zeros(tape.steps - len(rows), *rows.shape[1:]), rows])


def _step_weights(weights: Tensor, o: Tensor, batch_first: bool) -> Tensor:
    lead = o.shape[:-1]
    if weights.dim() == 1 and len(lead) == 2:
        weights = weights[None, :] if batch_first else weights[:, None]
    try:
        return weights.to(o.dtype).expand(lead)
    except RuntimeError:
        raise ValueError(
            f"weights must be one for each step or have the shape {tuple(lead)}, that of the outputs without the last "
            f"axis; got {tuple(weights.shape)}"
        ) from None


def _instead(calls: int) -> str:
    if calls:
        return "Run both passes yourself inside bptt.recording(), which gives a tape for each call."
    return "Put bptt.nn.RNN in the place of torch.nn.RNN, bptt.nn.Recurrent('lstm', ...) in that of torch.nn.LSTM."


def _where(name: str, layer: Record) -> str:
    """Where a number of this name is; empty for names that no cell has here."""
    if layer.has(name):
        return f" Write tape[{name!r}] for it, tape.d({name!r}) for its gradient."
    if name.startswith("d") and layer.has(name[1:]):
        return f" Write tape.d({name[1:]!r})."
    return ""


def _said(loss: Any) -> str:
    return f"the function {loss.__name__}" if hasattr(loss, "__name__") else repr(loss)


def _reached(record: Record, array: Tensor | None, name: str) -> Tensor:
    if array is None:
        raise RuntimeError(
            f"{name} of layer {record.layer} is not known yet: no backward pass has reached it; call backward() first"
        )
    return array


def _there(array: Tensor | None, name: str) -> Tensor:
    if array is None:
        raise RuntimeError(f"{name} is not known: call backward() first; tokens have no gradient")
    return array


def _turned(array: Tensor, is_turned: bool) -> Tensor:
    return array.mT if is_turned and array.dim() == 2 else array


def _torch_names(record: Record) -> dict[str, str]:
    """The parameters of the sheet by what torch's modules call them, where torch has them all."""
    parameters = Signature.of(record.cell).parameters
    if not set(parameters) <= TORCH.keys():
        return {}
    return {torchs: own for own in parameters for torchs in TORCH[own]}


@cache
def _versions() -> dict[str, str]:
    try:
        own = metadata.version("bptt")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {"bptt": own, "torch": torch.__version__}


def _as_data(cell: Cell) -> dict[str, Any]:
    """Its text, and both sides parsed, for readers outside Python."""
    parsed = as_data(cell)
    return {"name": cell.name, "text": cell.text, "sheet": {key: parsed[key] for key in parsed if key != "notations"}}


def _arrays(record: Record) -> dict[str, Tensor | None]:
    """Those of a layer by their names in a file."""
    kinds = (record.weights, record.first, record.values, record.totals)
    kinds += (record.from_outside, record.d_weights, record.d_first)
    found = {
        f"{kind}.{name}": array
        for kind, arrays in zip(tapefile.OF_LAYER, kinds, strict=True)
        for name, array in arrays.items()
    }
    return found | {"x": record.x, "dx": record.dx}


def _loaded(layer: dict[str, Any], cell: Cell, arrays: dict[str, Tensor]) -> Record:
    prefix, sizes = tapefile.prefix_of(layer), layer["batch_sizes"]
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    of_kind: dict[str, dict[str, Tensor]] = {kind: {} for kind in tapefile.OF_LAYER}
    for name, array in own.items():
        kind, _, of = name.partition(".")
        if of:
            of_kind[kind][of] = array
    weights, first, values, *side_b = of_kind.values()
    output = next(iter(first.values()))
    T = len(own["x"]) if sizes is None else len(sizes)
    steps = Steps(T, len(output), sizes, layer["direction"] == "reverse")
    values = {line.name: values[line.name] for line in cell.derivation.steps}
    record = Record(layer["layer"], cell, steps, weights, own["x"], first, values, dx=own.get("dx"))
    record.totals, record.from_outside, record.d_weights, record.d_first = side_b
    return record


def _direction(record: Record) -> Direction:
    return "reverse" if record.reverse else "forward"
