"""Who watches a network: `record`, a pass of its own, and `recording`, inside anybody's loop.

W_ho and b_o are known when a torch.nn.Linear reads the RNN's output itself: its input holds the same numbers as the
states of all steps, or of the last one. Steps without an output have do = 0 and w = 0, as B4 and B5 want it.
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from bptt.autograd.recorded import MadeOf, Padding, Record, recorder
from bptt.engine import choose
from bptt.sheet import losses
from bptt.tape.tape import Tape

KEPT_BY_MALLOC = (32 << 20) - 8192
"""Bytes. Once a block of this size was freed, the C library of GNU keeps smaller ones for the next time, up to twice as
many bytes. Memory that it has to ask the system for again costs a recording as much as all else together."""


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
    if vocabulary is not None and isinstance(x, Tensor) and not x.is_floating_point() and x.numel():
        largest = int(x.max())
        if largest >= len(vocabulary):
            raise ValueError(
                f"vocabulary has a symbol for each token; got {len(vocabulary)} symbols, and x holds token {largest}. "
                "Give all, in the order of their numbers."
            )
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
                "record takes a model that calls one recurrent module of bptt.nn once, RNN, LSTM, GRU, Recurrent or a "
                f"cell; {type(model).__name__} made {len(watcher.tapes)} such calls. {_instead(len(watcher.tapes))}"
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
def _watching() -> "Iterator[Watcher]":
    watcher = Watcher()
    torch.empty(KEPT_BY_MALLOC, dtype=torch.uint8, device="cpu")
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


class Watcher:
    """Told of network calls and layers by `ops.recorder`, of linear layers by a forward hook."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.made_of: MadeOf = lambda _: {}
        self.batch_first = False
        self.read_by: list[tuple[Tensor, _Place]] = []
        self.keeping_do: RemovableHandle | None = None

    def begin(self, network: torch.nn.Module, made_of: MadeOf) -> None:
        self.tapes.append(Tape(versions=dict(_versions())))
        self.made_of = made_of
        self.batch_first = bool(getattr(network, "batch_first", False))
        self.read_by, self.keeping_do = [], None

    def add(self, record: Record) -> None:
        layers = self.tapes[-1].layers
        record.learned = {name: tensor.detach().clone() for name, tensor in self.made_of(len(layers)).items()}
        layers.append(record)
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
        tape.W_ho, tape.readout_missing = module.weight.detach().mT.clone(), ""
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
    return "bptt.convert(model) makes every RNN, LSTM and GRU of torch in it one of bptt.nn."


def _said(loss: Any) -> str:
    return f"the function {loss.__name__}" if hasattr(loss, "__name__") else repr(loss)


@cache
def _versions() -> dict[str, str]:
    try:
        own = metadata.version("bptt")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {"bptt": own, "torch": torch.__version__}
