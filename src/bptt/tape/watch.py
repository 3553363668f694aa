"""A light listener for anybody's training loop: every so many steps it records one and says how its gradient is.

    watcher = bptt.watch(model, every=100, log="watch.jsonl")    before the loop, in which nothing else is called

A step is a backward pass through the recurrent layers that follows a call of the model, in training mode and with
gradients on: with gradient accumulation each part is one, and calls that no backward pass follows are none. Recorded is
the last call before it, as `bptt.recording` does it: what the loop computes stays the same to the bit.
"""

import json
import math
import re
import statistics
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from bptt.autograd.private import after_backward, is_traced, saves_otherwise
from bptt.autograd.recorded import MadeOf, Record, recorder
from bptt.errors import InputError
from bptt.files import disk
from bptt.tape.watcher import Watcher

EXPLODES = 10.0
"""Times the running median of the gradient's norm. Pascanu, Mikolov and Bengio (2013) take half to ten times the usual
norm for the threshold of clipping."""
ROWS_OF_A_MEDIAN = 5, 100
"""A median is that of at least the first and at most the second number of rows."""
OF_LAYER = re.compile(r"_l(\d+)(_reverse)?(?=\.|$)")
"""In the names of parameters."""

Row = dict[str, Any]


class Writer(Protocol):
    """As much of torch.utils.tensorboard.SummaryWriter as is called."""

    def add_scalar(self, tag: str, value: float, step: int) -> object: ...


def watch(
    model: torch.nn.Module,
    every: int = 100,
    *,
    log: str | Path | Callable[[Row], object] | None = None,
    writer: Writer | None = None,
    radius: bool = False,
    step: Callable[[], int] | None = None,
) -> "Watch":
    """Watches the recurrent layers of bptt in a model while it is trained; see `Watch` for what it finds.

    every   record the first step, and after that every so many
    log     a file that each row is appended to as a line of JSON, or a function that is given it
    writer  a SummaryWriter of TensorBoard, or whatever has its add_scalar(tag, value, step)
    radius  the spectral radius of the recurrent matrices too; for H units that costs as much as some products H x H x H
    step    says the number of the step, such as lambda: trainer.global_step; default: steps are counted, from 0

    What torch.compile has compiled and what torch.utils.checkpoint wraps is not recorded, nor is a call inside
    `bptt.recording`.

    Raises TypeError for anything but a module, InputError where there is no recurrent layer of bptt or nothing to
    learn, and where the log cannot be written.

    >>> watcher = bptt.watch(model, every=100)
    >>> for x, y in batches:
    ...     optimizer.zero_grad(); loss_fn(model(x), y).backward(); optimizer.step()
    >>> watcher.rows[-1]["norm"]
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"a model to watch must be a torch.nn.Module; got {type(model).__name__}")
    if type(every) is not int or every < 1:
        raise InputError(f"every must be a whole number of steps from 1; got {every!r}")
    return Watch(model, every, _appending(log) if isinstance(log, str | Path) else log, writer, radius, step)


class Watch:
    """What `watch` returns; it holds the model weakly. It is a context manager, which closes it.

    rows  one for each recorded step:
        step    backward passes before this one, or what step= said
        norm    of the gradient of all parameters in this backward pass, before clipping, without what earlier passes
                left in .grad
        layers  for each recurrent layer and direction: `of` the name of its module in the model, `layer`, `direction`,
                `norm` of the gradient of its own parameters, and with radius=True `radius` of each recurrent matrix

    A norm is None where nothing was to be learned; in a line of JSON also where it is not finite.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        every: int,
        log: Callable[[Row], object] | None,
        writer: Writer | None,
        radius: bool,
        step: Callable[[], int] | None,
    ) -> None:
        self.rows: list[Row] = []
        self._model = weakref.ref(model)
        self._every, self._log, self._writer, self._radius, self._step = every, log, writer, radius, step
        self._passes, self._called = 0, False
        self._due = -(-self.step // every) * every
        self._call: _Call | None = None
        self._norms: dict[str, Tensor] = {}
        self._of_call: list[RemovableHandle] = []
        self._said: set[str] = set()
        self._hooks = [model.register_forward_pre_hook(_Hook(self._before))]
        self._hooks += [parameter.register_hook(self._count) for parameter in _first_to_learn(model)]

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops watching; rows stay. Another call does nothing."""
        self._forget()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def step(self) -> int:
        return self._passes if self._step is None else self._step()

    def _before(self, model: torch.nn.Module, *_: Any) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        self._called = True
        now = self.step
        if now < self._due or recorder.get() not in (None, self._call):
            return
        self._forget()
        self._call = _Call(now, {id(part): name for name, part in _layers(model)})
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._of_call.append(parameter.register_hook(partial(self._take, name)))
        self._of_call.append(model.register_forward_hook(_Hook(self._after), always_call=True))
        recorder.set(self._call)

    def _after(self, *_: Any) -> None:
        if recorder.get() is self._call:
            recorder.set(None)

    def _count(self, gradient: Tensor) -> None:
        self._passes += self._called
        self._called = False

    def _take(self, name: str, gradient: Tensor) -> None:
        if not self._norms:
            after_backward(self._finish)
        numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
        self._norms[name] = torch.linalg.vector_norm(numbers.detach())

    def _forget(self) -> None:
        """What is being recorded."""
        self._after()
        for hook in self._of_call:
            hook.remove()
        self._call, self._norms, self._of_call = None, {}, []

    @torch.no_grad()
    def _finish(self) -> None:
        """After the backward pass of a recorded call."""
        call, norms = self._call, {name: float(norm) for name, norm in self._norms.items()}
        if call is None:
            return
        self._forget()
        self._due = (call.step // self._every + 1) * self._every
        found = call.complete()
        if not found:
            self._say(
                "nothing",
                f"the backward pass of step {call.step:,} went through no recurrent layer that can be recorded, so "
                "it has no row. What torch.compile has compiled, torch.utils.checkpoint wraps or torch.func "
                "transforms is not recorded.",
            )
            return
        row: Row = {"step": call.step, "norm": math.hypot(*norms.values())}
        row["layers"] = [self._of_layer(name, record, norms) for name, layers in found.items() for record in layers]
        self._warn(row)
        self.rows.append(row)
        if self._log is not None:
            self._log(row)
        if self._writer is not None:
            for tag, value in _scalars(row):
                self._writer.add_scalar(tag, value, call.step)

    def _of_layer(self, module: str, record: Record, norms: dict[str, float]) -> Row:
        prefix = f"{module}." if module else ""
        own = [norm for name, norm in norms.items() if name.startswith(prefix) and _is_of(record, name[len(prefix) :])]
        row = {"of": module, "layer": record.layer, "direction": "reverse" if record.reverse else "forward"}
        row["norm"] = math.hypot(*own) if own else None
        if self._radius:
            row["radius"] = {name: _radius(record[name]) for name in _recurrent(record)}
        return row

    def _warn(self, row: Row) -> None:
        """Against the rows before this one."""
        fewest, most = ROWS_OF_A_MEDIAN
        known = [norm for before in self.rows[-most:] if math.isfinite(norm := before["norm"])]
        usual = statistics.median(known) if len(known) >= fewest else math.inf
        norm = row["norm"]
        if math.isfinite(norm) and norm <= EXPLODES * usual:
            return
        how = f"{norm / usual:.3g} times its median so far" if math.isfinite(norm) else "not finite"
        largest = max(row["layers"], key=lambda layer: _size(layer["norm"]))
        self._say(
            "explodes",
            f"the gradient explodes at step {row['step']:,}: its norm is {norm:.3g}, {how}; of the recurrent layers "
            f"{_called(largest)} has the largest, {largest['norm']:.3g}. Clip it, torch.nn.utils.clip_grad_norm_, or "
            "lower the learning rate.",
        )

    def _say(self, kind: str, text: str) -> None:
        """Once for each kind."""
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(f"bptt.watch: {text}", stacklevel=2)


class _Call(Watcher):
    """The tapes of one call of the model, with the names of the modules that they are of."""

    def __init__(self, step: int, names: dict[int, str]) -> None:
        super().__init__()
        self.step, self._names, self._of = step, names, list[str | None]()

    def begin(self, network: torch.nn.Module, made_of: MadeOf) -> None:
        if saves_otherwise():
            recorder.set(None)
            return
        super().begin(network, made_of)
        self._of.append(self._names.get(id(network)))

    def complete(self) -> dict[str, list[Record]]:
        """Of each module the records of its last call that gradients have reached."""
        found = zip(self._of, self.tapes, strict=True)
        return {name: tape.layers for name, tape in found if name is not None and tape.complete}


class _Hook:
    """A hook of a module. Copies of the module, and what is read from a file, have one that does nothing."""

    def __init__(self, heard: Callable[..., None] | None = None) -> None:
        self._heard = heard

    def __call__(self, *given: Any) -> None:
        if not is_traced() and self._heard is not None:
            self._heard(*given)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[()]]:
        return _Hook, ()


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The recurrent layers of bptt, by name."""
    return ((name, part) for name, part in model.named_modules() if hasattr(part, "tensors_of"))


def _first_to_learn(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """A parameter of each module of recurrent layers, or one of the model where theirs are frozen."""
    layers = [part for _, part in _layers(model)]
    of_torch = [
        f"{name or 'it'}, a {type(part).__name__} of torch"
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.RNNBase) and part not in layers and type(part).__module__.startswith("torch.")
    ]
    if of_torch or not layers:
        found = ", ".join(of_torch) or "none of RNN, LSTM, GRU and Recurrent of bptt.nn"
        advice = "Call bptt.convert(model) first." if of_torch else "Single steps, as of RNNCell, are not watched."
        raise InputError(
            f"a model to watch has recurrent layers of bptt; got {type(model).__name__} with {found}. {advice}"
        )
    for parts in (layers, [model]):
        firsts = [[each for each in part.parameters() if each.requires_grad][:1] for part in parts]
        if any(firsts):
            return [parameter for first in firsts for parameter in first]
    raise InputError(f"a model to watch has something to learn; no parameter of {type(model).__name__} requires_grad.")


def _is_of(record: Record, parameter: str) -> bool:
    """Whether a parameter of the module belongs to the layer and direction of this record."""
    placed = OF_LAYER.search(parameter)
    return placed is not None and (int(placed[1]), bool(placed[2])) == (record.layer, record.reverse)


def _recurrent(record: Record) -> list[str]:
    """The square matrices as wide as a state of the cell."""
    sheet = record.cell.sheet
    widths = {sheet.widths[state] for state in sheet.states}
    return [name for name in record.weights if sheet.shapes.get(name) in {(width, width) for width in widths}]


def _radius(matrix: Tensor) -> float:
    return float(torch.linalg.eigvals(matrix).abs().max()) if matrix.isfinite().all() else math.nan


def _called(layer: Row) -> str:
    back = ", reverse" if layer["direction"] == "reverse" else ""
    return f"{layer['of']!r} layer {layer['layer']}{back}" if layer["of"] else f"layer {layer['layer']}{back}"


def _size(norm: float | None) -> float:
    """For comparison: not finite is larger than any."""
    return -1.0 if norm is None else norm if math.isfinite(norm) else math.inf


def _scalars(row: Row) -> Iterator[tuple[str, float]]:
    """Its numbers under their tags in TensorBoard."""
    yield "watch/norm", row["norm"]
    for layer in row["layers"]:
        back = "_reverse" if layer["direction"] == "reverse" else ""
        place = "/".join(filter(None, ("watch", layer["of"], f"l{layer['layer']}{back}")))
        for name, value in layer.items():
            if isinstance(value, float):
                yield f"{place}/{name}", value
            elif isinstance(value, dict):
                yield from ((f"{place}/{name}/{part}", number) for part, number in value.items())


def _appending(path: str | Path) -> Callable[[Row], None]:
    """Adds rows to a file, which is there from now on."""
    path = Path(path)

    def append(*rows: Row) -> None:
        try:
            with disk.open_to_append(path) as file:
                for row in rows:
                    file.write(json.dumps(finite(row), allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise InputError(
                f"log is a file that rows are appended to, and {str(path)!r} cannot be written: "
                f"{error.strerror or error}. Make room or get permission, or name another file."
            ) from None

    append()
    return append


def finite(value: Any) -> Any:
    """With None for each number that is not, which JSON has not."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
