"""One recurrent layer in one direction as a torch operation with its autograd formula.

`layer` surrounds the two sweeps of `bptt.sweeps` with everything that is not sequential: the input's share of A2 before
the forward sweep, the weight gradients B8, B9, B10 and the two gradients of B11 after the backward sweep, each one
product over all steps. Kept for the backward pass: inputs, weights and the states; a_t is overwritten by h_t.

Weights come in torch's layout, so the sheet's `W_xh` is `weight_ih.T`, `W_hh` is `weight_hh.T`, `b_h` the sum of both
biases. Inputs of integers are tokens: their share is a row of `W_xh`, gathered, never a product with a one-hot vector.

Second derivatives come from the reference sweeps, which are differentiable themselves.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bptt.sweeps import choose, reference


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
        return _of_steps(self.states, self.batch, self.batch_sizes, self.reverse)

    @property
    def h0(self) -> Tensor:
        """(B, H), the states before the first step in the order of time."""
        if self.batch_sizes is None:
            return self.states[-1 if self.reverse else 0]
        return self.states[len(self.a) :] if self.reverse else self.states[: self.batch]

    @property
    def h_prev(self) -> Tensor:
        """h_{t-1} of every step (h_{t+1} with `reverse`), laid out as `a`."""
        return _previous_states(self.states, self.batch, self.batch_sizes, self.reverse).view(self.a.shape)


class Recorder(Protocol):
    """Whoever `recorder` holds is told of each network call, then of each layer in it."""

    def begin(self, network: torch.nn.Module) -> None: ...

    def add(self, record: Record) -> None: ...


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def layer(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    index: int = 0,
) -> tuple[Tensor, Tensor]:
    """The states of all steps (T, B, H), or (N, H) when packed, and the last state (B, H) of every row.

    x          (T, B, I) or integer tokens (T, B) in [0, I); packed (N, I) or (N,) with `batch_sizes`
    h0         (B, H)
    weight_ih  (H, I), weight_hh (H, H), bias_ih and bias_hh (H) or None: parameters as torch.nn.RNN holds them
    activation "tanh", "relu", "sigmoid" or "identity"
    reverse    time runs backwards
    index      which layer of a stack this is, for the record

    Raises IndexError for tokens outside [0, I).
    """
    return _Layer.apply(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, activation, batch_sizes, reverse, index)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None,
        bias_hh: Tensor | None,
        activation: str,
        batch_sizes: Sequence[int] | None,
        reverse: bool,
        index: int,
    ) -> tuple[Tensor, Tensor]:
        engine = choose(x.device.type, weight_hh.dtype).engine
        b_h = None if bias_ih is None or bias_hh is None else bias_ih + bias_hh
        h, y = _states(x, h0, batch_sizes, reverse)
        watching = recorder.get()
        a = y if watching is None else torch.empty_like(y)
        _input_share(x, weight_ih, b_h, out=a)
        total = None if watching is None else a
        engine.forward_sweep(
            a, weight_hh.mT, h0, activation, batch_sizes=batch_sizes, reverse=reverse, out=h, total=total
        )
        ctx.record = None
        if watching is not None:
            W_xh, W_hh = weight_ih.mT.clone(), weight_hh.mT.clone()
            ctx.record = Record(index, reverse, activation, batch_sizes, W_xh, W_hh, b_h, x.clone(), a, h.clone())
            watching.add(ctx.record)
        ctx.engine, ctx.activation, ctx.batch_sizes, ctx.reverse = engine, activation, batch_sizes, reverse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, y)
        ctx.states = h
        return y, _last_state(y, h0, batch_sizes, reverse)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, dh_n = cotangents
        if not torch.is_grad_enabled():
            return *_gradients(ctx, dy, dh_n), None, None, None, None
        if ctx.record is not None:
            with torch.no_grad():
                _gradients(ctx, dy, dh_n)
        return *_differentiable_gradients(ctx, dy, dh_n), None, None, None, None


def _gradients(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Tensor | None, ...]:
    x, h0, weight_ih, weight_hh, _, _, y = ctx.saved_tensors
    sizes, reverse = ctx.batch_sizes, ctx.reverse
    dh = _cotangent(y, dy, dh_n, sizes, reverse)
    record = ctx.record
    total = None if record is None else torch.empty_like(dh, memory_format=torch.contiguous_format)
    da, dh0 = ctx.engine.backward_sweep(
        dh, ctx.states, weight_hh.mT, ctx.activation, batch_sizes=sizes, reverse=reverse, total=total
    )
    needs_x, needs_h0, needs_ih, needs_hh, *needs_bias = ctx.needs_input_grad[:6]
    rows = da.flatten(0, -2)
    recorded_x = record is not None and x.is_floating_point()
    dx = (rows @ weight_ih).view(x.shape) if needs_x or recorded_x else None  # B11
    db = rows.sum(0) if any(needs_bias) else None  # B8
    dW_ih = _input_weight_gradient(x, rows, weight_ih) if needs_ih else None  # B9
    dW_hh = rows.mT @ _previous_states(ctx.states, len(h0), sizes, reverse) if needs_hh else None  # B10
    if record is not None:
        record.dh_direct, record.dh, record.da = dh.clone(), total, da
        record.dx, record.dh0, record.db_h = _copy(dx), _copy(dh0), _copy(db)
        record.dW_xh, record.dW_hh = (None if dW is None else dW.mT.clone() for dW in (dW_ih, dW_hh))
    return dx if needs_x else None, dh0 if needs_h0 else None, dW_ih, dW_hh, db, db


def _copy(gradient: Tensor | None) -> Tensor | None:
    """Apart from the one that goes to autograd, which may add to it in place."""
    return None if gradient is None else gradient.clone()


def _differentiable_gradients(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again: autograd through the reference sweeps.

    The inputs are aliased first, so that the gradient stops at this layer even if one input depends on another.
    """
    inputs = ctx.saved_tensors[:6]
    aliases: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = aliases
    b_h = None if bias_ih is None else bias_ih + bias_hh
    a = x @ weight_ih.mT if x.is_floating_point() else weight_ih.mT[x]
    a = a if b_h is None else a + b_h
    h = reference.forward_sweep(a, weight_hh.mT, h0, ctx.activation, batch_sizes=ctx.batch_sizes, reverse=ctx.reverse)
    y = _of_steps(h, len(h0), ctx.batch_sizes, ctx.reverse)
    outputs = [y, _last_state(y, h0, ctx.batch_sizes, ctx.reverse)]
    known = [
        (output, cotangent) for output, cotangent in zip(outputs, (dy, dh_n), strict=True) if cotangent is not None
    ]
    wanted = [alias for alias, needed in zip(aliases, ctx.needs_input_grad, strict=False) if needed]
    reached, seeds = [output for output, _ in known], [cotangent for _, cotangent in known]
    gradients = iter(torch.autograd.grad(reached, wanted, seeds, create_graph=True, allow_unused=True))
    return tuple(next(gradients) if needed else None for needed in ctx.needs_input_grad[:6])


def _states(x: Tensor, h0: Tensor, batch_sizes: Sequence[int] | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """Room for the states, and for those of the steps alone: same memory, yet no view, so callers may write to it."""
    B, H = h0.shape
    steps = (x.shape[0], B, H) if batch_sizes is None else (x.shape[0], H)
    h = h0.new_empty((steps[0] + (1 if batch_sizes is None else B), *steps[1:]))
    y = h.new_empty(0).set_(h.untyped_storage(), 0 if reverse else B * H, steps, h.stride())
    return h, y


def _input_share(x: Tensor, weight_ih: Tensor, b_h: Tensor | None, *, out: Tensor) -> None:
    """x_t W_xh + b_h of A2 for all steps."""
    out = out.view(-1, out.shape[-1])
    if x.is_floating_point():
        x = x.reshape(-1, x.shape[-1])
        if b_h is None:
            torch.mm(x, weight_ih.mT, out=out)
        else:
            torch.addmm(b_h, x, weight_ih.mT, out=out)
        return
    rows = weight_ih.mT.contiguous() if b_h is None else weight_ih.mT + b_h
    try:
        torch.index_select(rows, 0, x.reshape(-1), out=out)
    except IndexError:
        raise IndexError(
            f"tokens must lie in [0, {len(rows)}), the input size; got {int(x.min())} to {int(x.max())}"
        ) from None


def _input_weight_gradient(x: Tensor, da: Tensor, weight_ih: Tensor) -> Tensor:
    """∂W_xh of B9 in the layout of weight_ih, (H, I). da: (N, H)."""
    if x.is_floating_point():
        return da.mT @ x.reshape(-1, x.shape[-1])
    return torch.zeros_like(weight_ih.mT).index_add_(0, x.reshape(-1), da).mT


def _cotangent(
    y: Tensor, dy: Tensor | None, dh_n: Tensor | None, batch_sizes: Sequence[int] | None, reverse: bool
) -> Tensor:
    """∂L/∂h_t from above; that of the last state is added to its step."""
    if dh_n is None:
        return torch.zeros_like(y) if dy is None else dy
    dh = torch.zeros_like(y) if dy is None else dy.clone(memory_format=torch.contiguous_format)
    if len(dh) == 0:
        return dh
    if batch_sizes is None:
        dh[0 if reverse else -1] += dh_n
    else:
        dh.index_add_(0, _last_rows(batch_sizes, reverse, dh.device), dh_n)
    return dh


def _last_state(y: Tensor, h0: Tensor, batch_sizes: Sequence[int] | None, reverse: bool) -> Tensor:
    if len(y) == 0:
        return h0.clone()
    if batch_sizes is None:
        return y[0 if reverse else -1].clone()
    return y.index_select(0, _last_rows(batch_sizes, reverse, y.device))


def _last_rows(batch_sizes: Sequence[int], reverse: bool, device: torch.device) -> Tensor:
    """Where the last state of every row of a packed batch lies."""
    sizes = torch.tensor(batch_sizes)
    rows = torch.arange(int(sizes[0]))
    if not reverse:
        lengths = (sizes[:, None] > rows).sum(0)
        rows = rows + (sizes.cumsum(0) - sizes)[lengths - 1]
    return rows.to(device)


def _of_steps(h: Tensor, batch: int, batch_sizes: Sequence[int] | None, reverse: bool) -> Tensor:
    """The states of the steps, without h_0."""
    first = 1 if batch_sizes is None else batch
    return h[: len(h) - first] if reverse else h[first:]


def _previous_states(h: Tensor, batch: int, batch_sizes: Sequence[int] | None, reverse: bool) -> Tensor:
    """h_{t-1} of every step and row as (N, H): the other end of the same array; gathered where the batch is packed."""
    if batch_sizes is None:
        return _of_steps(h, batch, None, not reverse).flatten(0, 1)
    sizes = torch.tensor(batch_sizes, dtype=torch.int64)
    starts = sizes.cumsum(0) - sizes
    steps = torch.arange(len(sizes)).repeat_interleave(sizes)
    rows = torch.arange(len(steps)) - starts[steps]
    if reverse:
        goes_on = rows < torch.cat([sizes[1:], sizes.new_zeros(1)])[steps]
        previous = torch.where(goes_on, starts.roll(-1)[steps] + rows, len(steps) + rows)
    else:
        previous = torch.where(steps == 0, rows, batch + starts.roll(1)[steps] + rows)
    return h.index_select(0, previous.to(h.device))
