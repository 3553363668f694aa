"""One recurrent layer in one direction as a torch operation with its autograd formula.

Forward is A1 to A4 for all steps; backward is B7 to B11 and the future's part of B6. The numbers come from an
engine (`bptt.engine`); here is what torch needs to know about them. Kept for the backward pass: inputs, weights and the
states; a_t is overwritten by h_t.

Weights come in torch's layout, so the sheet's `W_xh` is `weight_ih.T`, `W_hh` is `weight_hh.T`, `b_h` the sum of both
biases. Inputs of integers are tokens: their share is a row of `W_xh`, gathered, never a product with a one-hot vector.

Second derivatives, torch.func and everything that traces goes through `bptt.autograd.operators`.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bptt.autograd import operators
from bptt.engine import choose, packing, torch_serves


@dataclass
class Record:
    """Everything one layer computed on both sides, as the fast path left it; None until it has happened.

    Arrays are (T, B, ·), or packed (N, ·) with `batch_sizes`; `x` may be integer tokens without a last axis.
    `states` is (T+1, B, H) with h_0 in slot 0 (with `reverse` in slot T); `h0`, `h` and `h_prev` are parts of it.
    `dh` is the total ∂L/∂h_t of B6, `dh_direct` the part that came from above. `dW_xh`, `dW_hh` and `db_h` are the sums
    B9, B10 and B8, None where a parameter asked for no gradient. A second backward pass replaces all of side B.
    """

    layer: int
    reverse: bool
    activation: str
    batch_sizes: Sequence[int] | None
    W_xh: Tensor
    W_hh: Tensor
    b_h: Tensor | None
    x: Tensor
    a: Tensor
    states: Tensor
    dh_direct: Tensor | None = None
    dh: Tensor | None = None
    da: Tensor | None = None
    dx: Tensor | None = None
    dh0: Tensor | None = None
    dW_xh: Tensor | None = None
    dW_hh: Tensor | None = None
    db_h: Tensor | None = None

    @property
    def batch(self) -> int:
        """B, the number of rows."""
        return self.states.shape[1] if self.batch_sizes is None else len(self.states) - len(self.a)

    @property
    def h(self) -> Tensor:
        """h_t of every step, laid out as `a`."""
        return packing.of_steps(self.states, self.batch, self.batch_sizes, self.reverse)

    @property
    def h0(self) -> Tensor:
        """(B, H), the states before the first step in the order of time."""
        return packing.of_h0(self.states, self.batch, self.batch_sizes, self.reverse)

    @property
    def h_prev(self) -> Tensor:
        """h_{t-1} of every step (h_{t+1} with `reverse`), laid out as `a`."""
        return packing.previous_states(self.states, self.batch, self.batch_sizes, self.reverse)


class Recorder(Protocol):
    """Whoever `recorder` holds is told of each network call, then of each layer in it."""

    def begin(self, network: torch.nn.Module) -> None: ...

    def add(self, record: Record) -> None: ...


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)

_PLAIN = (Tensor, torch.nn.Parameter)
is_traced = torch.compiler.is_dynamo_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._are_functorch_transforms_active
_older_vmap: Any = torch
_has_samples = _older_vmap._C._functorch.is_legacy_batchedtensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def begin(network: torch.nn.Module) -> bool:
    """Tell whoever is watching that the layers of this network follow; whether there is somebody.

    Nobody watches what torch.compile traces.
    """
    watching = None if is_traced() else recorder.get()
    if watching is not None:
        watching.begin(network)
    return watching is not None


def is_seen_by_modes() -> bool:
    """Whether a graph is being made of torch's operations, or their shapes are being worked out."""
    return _dispatch_modes() > 0


def is_transformed(x: Tensor) -> bool:
    """Whether x goes through a transform of torch.func, carries a tangent, or has no numbers."""
    return _transforms() or forward_ad._current_level >= 0 or x.is_meta


def seen_by_others(x: Tensor, weight: Tensor) -> bool:
    """Whether these are more than arrays of numbers: traced, transformed, without data, or of a class of their own."""
    return (
        is_traced()
        or _dispatch_modes() > 0
        or _transforms()
        or forward_ad._current_level >= 0
        or type(x) not in _PLAIN
        or type(weight) not in _PLAIN
        or x.is_meta
    )


def on_torch(x: Tensor, weight: Tensor, activation: str) -> bool:
    """Whether torch's own kernels compute plain layers of these: no sweep of ours runs on the device, torch knows the
    activation, x holds numbers, and nobody records, traces or transforms."""
    return (
        not is_traced()
        and torch_serves("cpu" if x.is_cpu else x.device.type)
        and activation in ("tanh", "relu")
        and x.is_floating_point()
        and x.numel() > 0
        and recorder.get() is None
        and not seen_by_others(x, weight)
    )


def layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | Tensor | None = None,
    reverse: bool = False,
    index: int = 0,
) -> tuple[Tensor, Tensor]:
    """The states of all steps (T, B, H), or (N, H) when packed, and the last state of every row (1, B, H).

    x          (T, B, I) or integer tokens (T, B) in [0, I); packed (N, I) or (N,) with `batch_sizes`
    h0         (1, B, H), or None for zero
    weight_ih  (H, I), weight_hh (H, H), bias_ih and bias_hh (H) or None: parameters as torch.nn.RNN holds them
    activation "tanh", "relu", "sigmoid" or "identity"
    batch_sizes where packed, the rows of each step; while torch.compile traces, a tensor of them
    reverse    time runs backwards
    index      which layer of a stack this is, for the record

    Raises IndexError for tokens outside [0, I), TypeError or ValueError for arrays that do not belong together.
    """
    if seen_by_others(x, weight_hh):
        return operators.layer(
            x, h0, weight_ih, weight_hh, bias_ih, bias_hh, activation, batch_sizes=batch_sizes, reverse=reverse
        )
    assert not isinstance(batch_sizes, Tensor), "sizes are numbers except where they are traced"
    device = "cpu" if x.is_cpu else x.device.type  # the first is quick to ask
    how = _How(choose(device, weight_hh.dtype).engine, activation, batch_sizes, reverse, index)
    if torch.is_grad_enabled():
        return _Layer.apply(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, how)
    return _side_a(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, how)[:2]


class _How(NamedTuple):
    """Options of one layer call."""

    engine: ModuleType
    activation: str
    batch_sizes: Sequence[int] | None
    reverse: bool
    place: int


def sample_by_sample(backward: Backward) -> Backward:
    """A backward function that also takes cotangents of many samples at once, one call after the other.

    torch.autograd.grad(is_grads_batched=True), and with it jacobian and hessian of torch.autograd.functional with
    vectorize=True and the checks of gradcheck, go backward under a vmap older than torch.func's: the cotangents then
    look like those of one sample and have no numbers to point at.
    """

    def wrapped(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        for d in cotangents:
            if d is not None and _has_samples(d):
                break
        else:
            return backward(ctx, *cotangents)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        of_samples: dict[int, Any] = {
            k: _older_vmap._remove_batch_dim(d, level, 0, 0)
            for k, d in enumerate(cotangents)
            if d is not None and _has_samples(d)
        }
        number = len(next(iter(of_samples.values())))
        each = [
            backward(ctx, *(of_samples[k][v] if k in of_samples else d for k, d in enumerate(cotangents)))
            for v in range(number)
        ]
        return tuple(
            None if of_all[0] is None else _older_vmap._add_batch_dim(torch.stack(of_all), 0, level)
            for of_all in map(list, zip(*each, strict=True))
        )

    return wrapped


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor | None,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        how: _How,
    ) -> tuple[Tensor, Tensor]:
        y, h_n, ctx.record = _side_a(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, how)
        ctx.how, ctx.I = how, weight_ih.shape[1]
        ctx.set_materialize_grads(False)
        needs, keeps_all = ctx.needs_input_grad, ctx.record is not None
        ctx.save_for_backward(
            x if needs[2] or keeps_all else None, h0, weight_ih if needs[0] or keeps_all else None, weight_hh, y
        )  # what is not read on the way back may change meanwhile; there an array of its shape takes its place
        return y, h_n

    @staticmethod
    @sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, dh_n = cotangents
        if not torch.is_grad_enabled():
            return _gradients(ctx, dy, dh_n)
        if ctx.record is not None:
            with torch.no_grad():
                _gradients(ctx, dy, dh_n)
        x, h0, weight_ih, weight_hh, y = saved(ctx)
        x = y.new_empty((*y.shape[:-1], ctx.I)) if x is None else x
        weight_ih = y.new_empty((len(weight_hh), ctx.I)) if weight_ih is None else weight_ih
        _, activation, batch_sizes, reverse, _ = ctx.how
        sizes = None if batch_sizes is None else torch.as_tensor(batch_sizes, dtype=torch.int64)
        needs = ctx.needs_input_grad[:6]
        return *operators.gradients_of_layer(
            dy, dh_n, y, h0, x, weight_ih, weight_hh, sizes, activation, reverse, needs
        ), None


def _side_a(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    how: _How,
) -> tuple[Tensor, Tensor, Record | None]:
    """The states of all steps, the last of every row; and a record if anybody is watching."""
    engine, activation, batch_sizes, reverse, place = how
    B, H = packing.rows_of_batch(x, batch_sizes), weight_hh.shape[0]
    h_n = weight_hh.new_empty(1, B, H)
    watching = recorder.get()
    total = None
    if watching is not None:
        total = weight_hh.new_empty((x.shape[0], B, H) if batch_sizes is None else (x.shape[0], H))
    y = engine.forward_layer(
        x, h0, weight_ih, weight_hh, bias_ih, bias_hh, activation,
        batch_sizes=batch_sizes, reverse=reverse, h_n=h_n, total=total,
    )  # fmt: skip
    if watching is None:
        return y, h_n, None
    assert total is not None
    W_xh, W_hh = weight_ih.mT.clone(), weight_hh.mT.clone()
    b_h = None if bias_ih is None or bias_hh is None else bias_ih + bias_hh
    states = packing.with_h0(y, h0, B, batch_sizes, reverse)
    record = Record(place, reverse, activation, batch_sizes, W_xh, W_hh, b_h, x.clone(), total, states)
    watching.add(record)
    return y, h_n, record


def _gradients(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Tensor | None, ...]:
    x, h0, weight_ih, weight_hh, y = saved(ctx)
    engine, activation, batch_sizes, reverse, _ = ctx.how
    needs_x, needs_h0, needs_ih, needs_hh, needs_bias_ih, needs_bias_hh, _ = ctx.needs_input_grad
    record: Record | None = ctx.record
    recorded = record is not None
    B, H, I = packing.rows_of_batch(y, batch_sizes), weight_hh.shape[0], ctx.I
    if x is None:
        x = y.new_empty(*y.shape[:-1], I)
    dx = x.new_empty(*x.shape) if needs_x or (recorded and x.is_floating_point()) else None
    dh0 = y.new_empty(1, B, H) if needs_h0 or recorded else None
    dweight_ih = None if not needs_ih else y.new_empty(H, I) if weight_ih is None else torch.empty_like(weight_ih)
    if weight_ih is None:
        weight_ih = y.new_empty(H, I) if dweight_ih is None else dweight_ih
    dweight_hh = torch.empty_like(weight_hh) if needs_hh else None
    dbias = y.new_empty(H) if needs_bias_ih or needs_bias_hh else None
    da, total = (torch.empty_like(y), torch.empty_like(y)) if recorded else (None, None)
    engine.backward_layer(
        dy, dh_n, y, h0, x, weight_ih, weight_hh, activation, batch_sizes=batch_sizes, reverse=reverse,
        dx=dx, dweight_ih=dweight_ih, dweight_hh=dweight_hh, dbias=dbias, dh0=dh0,
        da=da, total=total,
    )  # fmt: skip
    if record is not None:
        received = packing.received_by_states(dy, dh_n, record.states, B, batch_sizes, reverse)
        record.dh_direct, record.dh, record.da = packing.of_steps(received, B, batch_sizes, reverse), total, da
        record.dx, record.dh0, record.db_h = (_copy(g) for g in (dx, None if dh0 is None else dh0[0], dbias))
        record.dW_xh, record.dW_hh = (None if dW is None else dW.mT.clone() for dW in (dweight_ih, dweight_hh))
    dbias_hh = dbias if needs_bias_hh and not needs_bias_ih else _copy(dbias)
    return dx if needs_x else None, dh0 if needs_h0 else None, dweight_ih, dweight_hh, dbias, dbias_hh, None


def saved(ctx: Any) -> tuple[Any, ...]:
    """The tensors that a layer saved; RuntimeError in words of our own where they are gone or others by now."""
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        text = str(error)
        if "second time" in text:
            raise RuntimeError(
                "This backward pass reaches a recurrent layer whose numbers an earlier backward pass has freed. Most "
                "often a state of the last window was handed on as it was: hand it on detached, rnn(x, h.detach()), or "
                "let bptt.nn.Stream(rnn) carry it. To go backward through all windows at once, sum their losses and "
                "call backward() once; for the same loss twice, backward(retain_graph=True) the first time. (torch: "
                "Trying to backward through the graph a second time.)"
            ) from None
        if "modified by an inplace operation" in text:
            raise RuntimeError(
                "The way back through a recurrent layer needs the states it returned, and the weights, inputs and "
                "first states it was given, as they were; one of them has been changed in place since. Was it the "
                "output: use the form that makes a new tensor, torch.relu(output) or torch.nn.ReLU() for "
                "ReLU(inplace=True), output * 2 for output.mul_(2), or change output.clone(). Was it a weight: call "
                f"backward() before optimizer.step(). torch.nn.RNN asks the same on a GPU. (torch: {text})"
            ) from None
        raise


def _copy(gradient: Tensor | None) -> Tensor | None:
    """Apart from the one that goes to autograd, which may add to it in place."""
    return None if gradient is None else gradient.clone()
