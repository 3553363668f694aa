"""One layer of any cell as a torch operation with its autograd formula: the eager path.

The numbers come from an engine (`bptt.engine`). Kept for the way back are the output, what the derivation of the cell
says, and of the inputs those that side B reads. Second derivatives, torch.func and everything that traces go through
`bptt.autograd.operators`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bptt.autograd import operators
from bptt.autograd.private import (
    Backward,
    applied,
    is_any_autocast_on,
    is_traced,
    sample_by_sample,
    seen_by_others,
    unwrapped,
    versions,
)
from bptt.autograd.recorded import Record, recorder
from bptt.engine import asked_for, reference, serving, torch_serves
from bptt.engine.contract import Engine, Gradients, Layout, Made, Signature, Weights, read_by_side_b
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.sheet import Cell


def layer(
    cell: Cell,
    x: Tensor,
    first: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    extras: Sequence[Tensor] = (),
    *,
    sizes: Sequence[int] | Tensor | None = None,
    reverse: bool = False,
    torch_layout: bool = False,
    index: int = 0,
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output of all steps (T, B, H), or (N, H) when packed, and the last value of each state (1, B, ·).

    cell       without fixed lines: their values are among the weights (`bptt.engine.evaluation`)
    x          (T, B, I) or integer tokens (T, B) in [0, I); packed (N, I) or (N,) with `sizes`
    first      (1, B, ·) for each state of the cell, the output first, or None for zero
    weights    for each name of the cell's `Layout`; with torch_layout as torch.nn.RNN holds them
    extras     masks (B, ·), then further inputs of all steps, in the order of the cell's `Signature`
    sizes      where packed, the rows of each step; while torch.compile traces, a tensor of them
    reverse    time runs backwards
    index      which layer of a stack this is, for the record
    functions  in the place of those that the cell declares, by name: autograd goes through side A

    Raises IndexError for tokens outside [0, I), TypeError or ValueError for arrays that do not belong together,
    InputError for masks that ask for a gradient.
    """
    like = weights[0] if weights else x
    if functions is not None:
        return _by_autograd(cell, x, first, weights, extras, sizes, reverse, torch_layout, functions)
    if seen_by_others(x, like):
        return operators.layer(cell, x, first, weights, extras, sizes, reverse, torch_layout)
    assert not isinstance(sizes, Tensor), "sizes are numbers except where they are traced"
    device = "cpu" if x.is_cpu else x.device.type  # the first is quick to ask
    kind = _kind(cell, torch_layout, device, like.dtype, asked_for())
    if extras:
        check_masks(extras[: kind.masks - kind.weights])
    steps = Steps.of(x, sizes, reverse, None if sizes is None or first[0] is None else first[0].shape[1])
    x, *first = unwrapped((x, *first))
    weights, extras = unwrapped(weights), unwrapped(extras)
    if kind.engine is reference and not x.is_floating_point():
        operators.check_tokens_of_layer(cell, torch_layout, weights, x)
    if torch.is_grad_enabled():
        y, *last = _apply((kind, steps, index), x, *first, *weights, *extras)
        return y, tuple(last)
    if recorder.get() is None:
        made = kind.engine.forward(cell, Weights(kind.layout, weights), x, first, steps, extras, keep=False)
    else:
        made, _ = _side_a((kind, steps, index), (x, *first, *weights, *extras))
    return made.y, made.last


def check_masks(masks: Sequence[Tensor]) -> None:
    """InputError where one asks for a gradient."""
    if torch.is_grad_enabled() and any(mask.requires_grad for mask in masks):
        raise InputError(
            "A mask, of drop or declared as rows, has no gradient, and one of these asks for one. Hand in .detach() of "
            "it, or declare it as input and give it for every step."
        )


def on_torch(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's own kernels compute a layer that torch knows: on the device is no engine of ours but the
    reference, x holds numbers, and nobody records, traces or transforms."""
    return (
        not is_traced()
        and torch_serves("cpu" if x.is_cpu else x.device.type)
        and x.is_floating_point()
        and x.numel() > 0
        and recorder.get() is None
        and not seen_by_others(x, weight)
    )


@dataclass(frozen=True, eq=False)
class _Kind:
    """The common part of all calls of layers of one cell, on one device, in one dtype.

    The tensors of a call are x, the first states up to `states`, the weights up to `weights`, the masks up to `masks`,
    then the inputs.
    """

    cell: Cell
    layout: Layout
    engine: Engine
    states: int
    weights: int
    masks: int


@lru_cache
def _unread(kind: _Kind, needed: tuple[bool, ...]) -> tuple[int, ...]:
    """Places of the tensors that the way back does not read. needed: of which arguments a gradient is."""
    read = read_by_side_b(kind.cell, kind.layout, needed[1:])
    return tuple(k for k, is_read in enumerate(read) if not is_read)


@lru_cache
def _kind(cell: Cell, torch_layout: bool, device: str, dtype: torch.dtype, asked: str | None) -> _Kind:
    layout, signature = Layout.of(cell, as_torch=torch_layout), Signature.of(cell)
    states = 1 + len(signature.states)
    weights = states + len(layout.names)
    engine = serving(device, dtype)
    return _Kind(cell, layout, engine, states, weights, weights + len(signature.masks))


_How = tuple[_Kind, Steps, int]
"""Options of one layer call; the last is which layer of a stack this is."""


def without_autocast(backward: Backward) -> Backward:
    """A backward function that computes in the dtype of its arrays, also where the loss goes back under autocast."""

    def wrapped(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if not is_any_autocast_on():
            return backward(ctx, *cotangents)
        device = next((d.device.type for d in cotangents if d is not None), "cpu")
        with torch.autocast(device, enabled=False):
            return backward(ctx, *cotangents)

    return wrapped


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: _How, *tensors: Any) -> tuple[Tensor, ...]:
        made, record = _side_a(how, tensors)
        ctx.set_materialize_grads(False)
        inputs = [*tensors]
        unread: dict[int, Tensor] = {}
        if record is None:
            # Those that are not read may change meanwhile; only second derivatives want them as they were.
            for k in _unread(how[0], ctx.needs_input_grad):
                if inputs[k] is not None:
                    unread[k], inputs[k] = inputs[k], None
        ctx.call = how, record, unread, versions(unread.values())
        ctx.save_for_backward(*inputs, made.y, *made.kept)
        return made.y, *made.last

    @staticmethod
    @without_autocast
    @sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = saved(ctx)
        if not torch.is_grad_enabled():
            return None, *_gradients(ctx, tensors, cotangents)
        needs = ctx.needs_input_grad
        if all(d is None for d in cotangents):
            return (None,) * len(needs)
        (kind, steps, _), record, unread, counts = ctx.call
        if record is not None:
            with torch.no_grad():
                _gradients(ctx, tensors, cotangents)
        inputs = [*tensors[: len(needs) - 1]]
        if versions(unread.values()) != counts:
            raise RuntimeError(
                "The second derivative of a recurrent layer needs its inputs and weights as they were, and one of them "
                "has been changed in place since. Change a copy, x.clone(), or call backward before the change."
            )
        for k, tensor in unread.items():
            inputs[k] = tensor
        call = operators.Call(kind.cell, kind.layout, steps)
        return None, *operators.gradients_by_reference(call, inputs, needs[1:], cotangents)


_apply = applied(_Layer)


def _side_a(how: _How, tensors: Sequence[Any]) -> tuple[Made, Record | None]:
    """And a record if anybody is watching."""
    kind, steps, place = how
    cell, states, end, x = kind.cell, kind.states, kind.weights, tensors[0]
    first, weights, extras = tensors[1:states], Weights(kind.layout, tensors[states:end]), tensors[end:]
    watching = recorder.get()
    if watching is None:
        return kind.engine.forward(cell, weights, x, first, steps, extras), None
    made = kind.engine.forward(cell, weights, x, first, steps, extras, values=True)
    values = made.values or reference.forward(cell, weights, x, first, steps, extras, values=True).values
    assert values is not None
    signature = Signature.of(cell)
    before = {
        name: values[name].new_zeros(steps.B, last.shape[-1]) if h is None else h[0].clone()
        for name, h, last in zip(signature.states, first, made.last, strict=True)
    }
    given = {name: tensor.clone() for name, tensor in weights.by_name().items()}
    given |= {name: tensor.clone() for name, tensor in zip(signature.masks + signature.inputs, extras, strict=True)}
    own = {name: made.y.clone() if name == signature.output else array for name, array in values.items()}
    record = Record(place, cell, steps, given, x.clone(), before, own)
    watching.add(record)
    return made, record


def _gradients(ctx: Any, tensors: tuple[Any, ...], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    (kind, steps, _), record, unread, _ = ctx.call
    states, end = kind.states, kind.weights
    needs = ctx.needs_input_grad[1:]
    number = len(needs)
    inputs = [*tensors[:number]]
    gradients: list[Any] = [None] * number
    for k, need in enumerate(needs):
        if need:  # only those of weights may have any strides
            tensor = inputs[k] if k not in unread else unread[k]
            gradients[k] = torch.empty_like(tensor) if states <= k < end else tensor.new_empty(*tensor.shape)
    for k, tensor in unread.items():
        inputs[k] = gradients[k] if needs[k] else _in_its_place(tensor)
    x, y, kept = inputs[0], tensors[number], tensors[number + 1 :]
    dx, d_first = gradients[0], gradients[1:states]
    if record is not None:
        dx = x.new_empty(x.shape) if x.is_floating_point() else None
        d_first = [h.new_empty(1, *h.shape) for h in record.first.values()]
    into = Gradients(dx, d_first, gradients[states:end], gradients[kind.masks :], None if record is None else {})
    first, weights, extras = inputs[1:states], Weights(kind.layout, inputs[states:end]), inputs[end:]
    dy, *d_last = cotangents
    made = Made(y, (), kept)
    kind.engine.backward(kind.cell, weights, made, x, first, steps, dy, d_last, into, extras)
    if record is not None:
        if not into.cotangents:  # the engine does not tell them
            beside = Gradients(None, [None] * (states - 1), [None] * (end - states), cotangents=into.cotangents)
            reference.backward(kind.cell, weights, made, x, first, steps, dy, d_last, beside, extras)
        _complete(record, kind.layout, into, dy, d_last, needs)
        gradients[:states] = [d if need else None for d, need in zip((dx, *d_first), needs, strict=False)]
    return gradients


def _complete(
    record: Record,
    layout: Layout,
    into: Gradients,
    dy: Tensor | None,
    d_last: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> None:
    """Side B of a record; copies of what autograd gets, for it may add to these arrays."""
    of_last = dict(zip(record.first, d_last, strict=True))
    outside = {record.output: dy, **dict.fromkeys(record.first)} | {record.output: dy}
    record.from_outside = {name: _received(record, name, d, of_last.get(name)) for name, d in outside.items()}
    assert into.cotangents is not None
    record.totals = into.cotangents
    record.dx = into.x.clone() if into.x is not None and needs[0] else into.x
    record.d_first = {name: d[0].clone() for name, d in zip(record.first, into.first, strict=True) if d is not None}
    record.d_weights = {
        name: layout.turned(gradients[0]).clone()
        for name, parts in layout.made_of.items()
        if (gradients := [part.of(d) for part in parts if (d := into.weights[part.tensor]) is not None])
    }


def _received(record: Record, name: str, d: Tensor | None, d_last: Tensor | None) -> Tensor:
    """What a value has from outside at all steps. Where that is nothing, one zero stands for all."""
    like, steps = record.values[name], record.steps
    if d_last is not None:
        return steps.without_first(steps.received(d, d_last, like))
    return like.new_zeros(()).expand(like.shape) if d is None else d.clone()


def _in_its_place(tensor: Tensor) -> Tensor | None:
    """An array of its shape for an engine that does not read it, since its storage may be gone by now."""
    if tensor.dim() < 2 and tensor.is_floating_point():
        return None
    return torch.empty_like(tensor) if tensor.is_floating_point() else torch.zeros_like(tensor)


def _by_autograd(
    cell: Cell,
    x: Tensor,
    first: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    extras: Sequence[Tensor],
    sizes: Sequence[int] | Tensor | None,
    reverse: bool,
    torch_layout: bool,
    functions: Mapping[str, Callable[..., Any]],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    if isinstance(sizes, Tensor):
        raise InputError(
            "A cell with a function as φ takes no PackedSequence that is traced, whose steps would have to be known. "
            "Trace padded batches, or take φ by name."
        )
    if not is_traced() and recorder.get() is not None:
        raise InputError(
            "A tape holds what the sheet of a cell says, and this one has a function of its own as φ. Take φ by name."
        )
    if not x.is_floating_point() and not seen_by_others(x, weights[0]):
        operators.check_tokens_of_layer(cell, torch_layout, weights, x)
    steps = Steps.of(x, sizes, reverse, None if first[0] is None else first[0].shape[1])
    given = Weights(Layout.of(cell, as_torch=torch_layout), weights)
    made = reference.forward(cell, given, x, first, steps, extras, functions=functions)
    return made.y, made.last


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
