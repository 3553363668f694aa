"""A layer of any cell as operators of `torch.library`, for torch.compile, torch.export, torch.onnx and torch.func.

    bptt::layer           A1 to A4 for all steps
    bptt::layer_backward  B7 to B11 and the future's part of B6, as far as they are asked for

Both carry the cell's text, run on the engine that `bptt.engine` chooses, say what shapes come out without running, so
that they can be traced with T and B unknown, and have batching rules. The gradient of the first is the second. The
gradient of the second, and with it derivatives of any order, is that of the reference's side A.

Calling an operator costs more than a short layer takes; `bptt.autograd.function` calls these only where somebody has to
see them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.autograd.private import are_transforms_active, has_tangents
from bptt.engine import reference, serving
from bptt.engine.arrays import check_tokens
from bptt.engine.contract import Gradients, Layout, Made, Signature, Weights, sizes_of
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.expressions import Name

Tensors = Sequence[Tensor | None]
_LAYER = "Tensor x, Tensor[] first, Tensor[] weights, Tensor[] extras, Tensor? sizes, str cell, bool torch_layout, "
_LAYER += "bool reverse"


class Call(NamedTuple):
    """A layer without its tensors. With them flat: x, the first states, the weights, the extras."""

    cell: Cell
    layout: Layout
    steps: Steps

    @staticmethod
    def of(
        cell: str | Cell, torch_layout: bool, reverse: bool, sizes: Tensor | None, x: Tensor, first: Tensors
    ) -> "Call":
        cell = _cell(cell) if isinstance(cell, str) else cell
        B = first[0].shape[1] if len(first) and first[0] is not None else None
        steps = Steps.of(x, None if sizes is None else sizes.tolist(), reverse, B)
        return Call(cell, Layout.of(cell, as_torch=torch_layout), steps)

    def parts(self, flat: Sequence[Any]) -> tuple[Any, list[Any], list[Any], list[Any]]:
        states, weights = 1 + len(Signature.of(self.cell).states), len(self.layout.names)
        return flat[0], list(flat[1:states]), list(flat[states : states + weights]), list(flat[states + weights :])

    def states(self, first: Sequence[Tensor]) -> list[Tensor | None]:
        """None being zero."""
        return list(first) if first else [None] * len(Signature.of(self.cell).states)

    def made(self, given: Sequence[Tensor]) -> Made:
        states = len(Signature.of(self.cell).states)
        return Made(given[0], tuple(given[1 : 1 + states]), tuple(given[1 + states :]))


@lru_cache
def _cell(text: str) -> Cell:
    return Cell(text)


@torch.library.custom_op("bptt::layer", mutates_args=(), schema=f"({_LAYER}) -> Tensor[]")
def layer_operator(
    x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor], extras: Sequence[Tensor], sizes: Tensor | None,
    cell: str, torch_layout: bool, reverse: bool,
) -> list[Tensor]:  # fmt: skip
    """The output of all steps, the last value of each state, and what is kept for the way back.

    Arguments as for `bptt.autograd.function.layer`; first is empty for zero; sizes (T,) are integers on the CPU.
    """
    call = Call.of(cell, torch_layout, reverse, sizes, x, first)
    engine = serving(x.device.type, weights[0].dtype if weights else x.dtype)
    if engine is reference and not x.is_floating_point():
        check_tokens_of_layer(call.cell, torch_layout, weights, x)
    made = engine.forward(call.cell, Weights(call.layout, weights), x, call.states(first), call.steps, extras)
    return [made.y, *made.last, *made.kept]


@torch.library.custom_op(
    "bptt::layer_backward",
    mutates_args=(),
    schema=f"(Tensor[] d, bool[] given, Tensor[] made, {_LAYER}, bool[] needed, int samples) -> Tensor[]",
)
def layer_backward(
    d: Sequence[Tensor], given: Sequence[bool], made: Sequence[Tensor], x: Tensor, first: Sequence[Tensor],
    weights: Sequence[Tensor], extras: Sequence[Tensor], sizes: Tensor | None, cell: str, torch_layout: bool,
    reverse: bool, needed: Sequence[bool], samples: int,
) -> list[Tensor]:  # fmt: skip
    """The gradients that are needed, of x, first, weights and extras.

    d        the cotangents, of the output and of the last states that `layer` returned, for which `given` is true
    made     all that `layer` returned
    needed   one for each of x, the states, the weights and the extras; ValueError where a mask is among them
    samples  unless 0, row r of sample v is row r * samples + v of the batch, and the gradients of the weights are those
             of each sample, which come in front
    """
    call = Call.of(cell, torch_layout, reverse, sizes, x, first)
    states, own = call.states(first), Weights(call.layout, weights)
    _check_needed(call.cell, needed, len(extras))
    flat = [x, *states, *weights, *extras]
    arrays = [t.new_empty(t.shape) if need and t is not None else None for t, need in zip(flat, needed, strict=True)]
    dx, d_first, d_weights, d_extras = call.parts(arrays)
    asked = [array is not None for array in d_weights]
    told = {} if samples and any(asked) else None
    nothing: list[Tensor | None] = [None] * len(weights)
    masks = len(Signature.of(call.cell).masks)
    into = Gradients(dx, d_first, nothing if samples else d_weights, d_extras[masks:], told)
    dy, *d_last = _spread(d, given)
    before = call.made(made)
    engine = serving(x.device.type, made[0].dtype)
    engine.backward(call.cell, own, before, x, states, call.steps, dy, d_last, into, extras)
    if told is not None:
        if not told:  # the engine does not tell them
            beside = Gradients(None, [None] * len(states), nothing, cotangents=told)
            reference.backward(call.cell, own, before, x, states, call.steps, dy, d_last, beside, extras)
        each = reference.of_samples(call.cell, own, before, x, states, call.steps, told, samples, extras)
        d_weights = [of_all if is_asked else None for of_all, is_asked in zip(each, asked, strict=True)]
    return [array for array in (dx, *d_first, *d_weights, *d_extras) if array is not None]


@layer_operator.register_fake
def _(
    x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor], extras: Sequence[Tensor], sizes: Tensor | None,
    cell: str, torch_layout: bool, reverse: bool,
) -> list[Tensor]:  # fmt: skip
    own = _cell(cell)
    signature, widths = Signature.of(own), own.derivation.widths
    length = sizes_of(
        own, Weights(Layout.of(own, as_torch=torch_layout), weights), x, first or [None] * len(signature.states)
    )
    if first:
        B: Any = first[0].shape[1]
    else:  # of a packed batch only the numbers in sizes would say
        B = x.shape[1] if sizes is None else torch.library.get_ctx().new_dynamic_size()
    rows = (x.shape[0], B) if sizes is None else (x.shape[0],)
    like = weights[0] if weights else x
    kept = [length[widths[e.name]] if isinstance(e, Name) else 1 for e in signature.kept]
    return [
        like.new_empty(*rows, length[widths[signature.output]]),
        *(like.new_empty(1, B, length[widths[name]]) for name in signature.states),
        *(like.new_empty(*rows, width) for width in kept),
    ]


@layer_backward.register_fake
def _(
    d: Sequence[Tensor], given: Sequence[bool], made: Sequence[Tensor], x: Tensor, first: Sequence[Tensor],
    weights: Sequence[Tensor], extras: Sequence[Tensor], sizes: Tensor | None, cell: str, torch_layout: bool,
    reverse: bool, needed: Sequence[bool], samples: int,
) -> list[Tensor]:  # fmt: skip
    states = first or [None] * len(Signature.of(_cell(cell)).states)
    _check_needed(_cell(cell), needed, len(extras))
    each = [samples] if samples else []
    shapes = [
        *(None if t is None else t.shape for t in (x, *states)),
        *((*each, *w.shape) for w in weights),
        *(t.shape for t in extras),
    ]
    like = made[0]
    return [
        like.new_empty(shape) for shape, need in zip(shapes, needed, strict=True) if need and shape is not None
    ]  # fmt: skip


def _check_needed(cell: Cell, needed: Sequence[bool], extras: int) -> None:
    signature = Signature.of(cell)
    of_extras = needed[len(needed) - extras :]
    asked = [name for name, need in zip(signature.masks, of_extras, strict=False) if need]
    if asked:
        raise ValueError(
            f"a mask, of drop or declared as rows, has no gradient; that of {', '.join(asked)} is needed. Leave it out."
        )


def _spread(d: Sequence[Tensor], given: Sequence[bool]) -> list[Tensor | None]:
    """Cotangents in their places, None where none is given."""
    there = iter(d)
    return [next(there) if is_given else None for is_given in given]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    # Functions with a cache are not asked here: torch.compile looks on, and warns of them.
    x, first, weights, extras, sizes, *options = inputs
    _keep(ctx, options, sizes, (x, *first, *weights, *extras), output)


def _keep(ctx: Any, options: Sequence[Any], sizes: Tensor | None, flat: Tensors, made: Sequence[Tensor]) -> None:
    ctx.options, ctx.number = tuple(options), len(flat)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(sizes, *flat, *made)


def _backward(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    of_x, first, weights, extras, *_ = ctx.needs_input_grad
    states = len(Signature.of(_cell(ctx.options[0])).states)
    needs = (of_x, *(first or [False] * states), *weights, *extras)
    dx, *found = _gradients(ctx, needs, cotangents)
    d_first, d_weights, d_extras = found[:states], found[states:][: len(weights)], found[states + len(weights) :]
    return dx, d_first if first else [], d_weights, d_extras, *(None,) * 4


def _gradients(ctx: Any, needs: Sequence[bool], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    sizes, *saved = ctx.saved_tensors
    flat, made = saved[: ctx.number], saved[ctx.number :]
    flat[1:1] = [None] * (len(needs) - len(flat))  # states that are zero
    signature, layout = Signature.of(_cell(ctx.options[0])), Layout.of(_cell(ctx.options[0]), as_torch=ctx.options[1])
    d = cotangents[: 1 + len(signature.states)]
    if all(cotangent is None for cotangent in d):
        return [None] * len(flat)
    masks = 1 + len(signature.states) + len(layout.names)  # which have no gradients
    needs = [need and not 0 <= k - masks < len(signature.masks) for k, need in enumerate(needs)]
    if not any(needs):
        return [None] * len(flat)
    found = iter(_call_backward(d, made, flat, sizes, ctx.options, needs))
    return [next(found) if need else None for need in needs]


def gradients_by_reference(call: Call, flat: Tensors, needs: Sequence[bool], d: Tensors) -> list[Tensor | None]:
    """The gradients that are needed, by autograd through the reference: in operations that torch differentiates."""
    places = [k for k, need in enumerate(needs) if need]
    outputs = [k for k, cotangent in enumerate(d) if cotangent is not None]

    def side_a(*wanted: Tensor) -> tuple[Tensor, ...]:
        given = list(flat)
        for place, tensor in zip(places, wanted, strict=True):
            given[place] = tensor
        x, first, weights, extras = call.parts(given)
        made = reference.forward(call.cell, Weights(call.layout, weights), x, first, call.steps, extras)
        every = (made.y, *made.last)
        return tuple(every[k] for k in outputs)

    pulled = iter(torch.func.vjp(side_a, *(flat[k] for k in places))[1](tuple(d[k] for k in outputs)))
    return [next(pulled) if need else None for need in needs]


def _of_samples_by_reference(
    call: Call, flat: Tensors, needs: Sequence[bool], d: Tensors, samples: int
) -> list[Tensor]:
    """The gradients that `layer_backward` returns for samples, in operations that torch differentiates."""
    steps, options = call.steps, (call.cell.text, call.layout.transposed)
    own = call._replace(
        steps=steps._replace(
            B=steps.B // samples, sizes=None if steps.sizes is None else [size // samples for size in steps.sizes]
        )
    )
    axes = [*_axes_of_made(options, steps.sizes, len(d)), *_axes(options, steps.sizes)]
    every = [*d, *flat]
    places = [k for k, tensor in enumerate(every) if tensor is not None]
    split = [
        tensor if axis is None else _as_samples(tensor, axis, samples)
        for tensor, axis in zip(every, axes, strict=True)
        if tensor is not None
    ]
    of_needed = [axis for axis, need in zip(axes[len(d) :], needs, strict=True) if need]

    def of_one(*given: Tensor) -> tuple[Tensor, ...]:
        own_flat: list[Any] = [None] * len(every)
        for place, tensor in zip(places, given, strict=True):
            own_flat[place] = tensor
        found = gradients_by_reference(own, own_flat[len(d) :], needs, own_flat[: len(d)])
        return tuple(gradient for gradient in found if gradient is not None)

    in_dims = tuple(None if axes[k] is None else axes[k] + 1 for k in places)
    out_dims = tuple(0 if axis is None else axis + 1 for axis in of_needed)
    found = torch.func.vmap(of_one, in_dims, out_dims)(*split)
    return [
        tensor if axis is None else tensor.flatten(axis, axis + 1)
        for tensor, axis in zip(found, of_needed, strict=True)
    ]  # fmt: skip


def _keep_for_second_backward(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    d, given, made, x, first, weights, extras, sizes, *options, needed, samples = inputs
    states = first or [None] * len(Signature.of(_cell(options[0])).states)
    flat = (x, *states, *weights, *extras)
    _keep_second(ctx, options, sizes, needed, samples, _spread(d, given), len(made), flat)


def _keep_second(
    ctx: Any, options: Sequence[Any], sizes: Tensor | None, needed: Sequence[bool], samples: int, d: Tensors, made: int,
    flat: Tensors,
) -> None:  # fmt: skip
    ctx.options, ctx.needed, ctx.samples = tuple(options), tuple(needed), samples
    ctx.counts = len(d), made, len(flat)
    ctx.given = [cotangent is not None for cotangent in d]
    ctx.save_for_backward(sizes, *d, *flat)


def _second_gradients(ctx: Any, cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    """Those of d and of x, first, weights and extras."""
    sizes, *saved = ctx.saved_tensors
    d, flat = saved[: ctx.counts[0]], saved[ctx.counts[0] :]
    cell, torch_layout, reverse = ctx.options
    call = Call.of(cell, torch_layout, reverse, sizes, flat[0], flat[1:])
    inputs = [*d, *flat]
    places = [k for k, tensor in enumerate(inputs) if tensor is not None and tensor.is_floating_point()]

    def backward_of(*given: Tensor) -> list[Tensor]:
        every: list[Any] = list(inputs)
        for place, tensor in zip(places, given, strict=True):
            every[place] = tensor
        given_d, given_flat = every[: len(d)], every[len(d) :]
        if ctx.samples:
            return _of_samples_by_reference(call, given_flat, ctx.needed, given_d, ctx.samples)
        gradients = gradients_by_reference(call, given_flat, ctx.needed, given_d)
        return [gradient for gradient in gradients if gradient is not None]

    pull_back = torch.func.vjp(backward_of, *(inputs[place] for place in places))[1]
    pulled = dict(zip(places, pull_back(list(cotangents)), strict=True))
    return [pulled.get(k) for k in range(len(inputs))]


def _second_backward(ctx: Any, cotangents: Sequence[Tensor]) -> tuple[Any, ...]:
    found = _second_gradients(ctx, cotangents)
    of_d, of_made, _ = ctx.counts
    d, _, _, _, first, *_ = ctx.needs_input_grad
    own = _cell(ctx.options[0])
    states, weights = len(Signature.of(own).states), len(Layout.of(own, as_torch=ctx.options[1]).names)
    dx, *rest = found[of_d:]
    of_given = [found[k] for k, is_given in enumerate(ctx.given) if is_given]
    assert len(of_given) == len(d)
    return (
        of_given, None, [None] * of_made, dx, rest[:states] if first else [], rest[states:][:weights],
        rest[states + weights :], *(None,) * 6,
    )  # fmt: skip


layer_operator.register_autograd(_backward, setup_context=_keep_for_backward)
layer_backward.register_autograd(_second_backward, setup_context=_keep_for_second_backward)


class _Layer(torch.autograd.Function):
    """`layer_operator` for the transforms of torch.func, which do not take operators with an autograd formula."""

    @staticmethod
    def forward(options: tuple[Any, ...], sizes: Tensor | None, *flat: Any) -> tuple[Tensor, ...]:
        return tuple(layer_operator(*_packed(options, flat), sizes, *options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        options, sizes, *flat = inputs
        _keep(ctx, options, sizes, flat, output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        return None, None, *_gradients(ctx, ctx.needs_input_grad[2:], cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(info, in_dims, *arguments)


class _LayerBackward(torch.autograd.Function):
    """`layer_backward` for the same."""

    @staticmethod
    def forward(
        options: tuple[Any, ...],
        sizes: Tensor | None,
        needed: tuple[bool, ...],
        samples: int,
        counts: Any,
        *flat: Any,
    ) -> tuple[Tensor, ...]:
        d, made, inputs = flat[: counts[0]], flat[counts[0] :][: counts[1]], flat[sum(counts[:2]) :]
        given = [cotangent is not None for cotangent in d]
        there = [cotangent for cotangent in d if cotangent is not None]
        return tuple(layer_backward(there, given, made, *_packed(options, inputs), sizes, *options, needed, samples))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        options, sizes, needed, samples, counts, *flat = inputs
        _keep_second(ctx, options, sizes, needed, samples, flat[: counts[0]], counts[1], flat[sum(counts[:2]) :])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        found = _second_gradients(ctx, cotangents)
        of_d, of_made, _ = ctx.counts
        return *(None,) * 5, *found[:of_d], *(None,) * of_made, *found[of_d:]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap_of_backward(info, in_dims, *arguments)


def _parts(options: Sequence[Any], flat: Sequence[Any]) -> tuple[Any, list[Any], list[Any], list[Any]]:
    cell = _cell(options[0])
    return Call(cell, Layout.of(cell, as_torch=options[1]), Steps(0, 0)).parts(flat)


def _packed(options: Sequence[Any], flat: Sequence[Any]) -> tuple[Any, list[Any], list[Any], list[Any]]:
    """As the operators take them: without states where all are zero."""
    x, first, weights, extras = _parts(options, flat)
    return x, [] if all(h is None for h in first) else first, weights, extras


def _call(flat: Sequence[Any], sizes: Tensor | None, options: tuple[Any, ...]) -> Any:
    if are_transforms_active():
        return _Layer.apply(options, sizes, *flat)
    return layer_operator(*_packed(options, flat), sizes, *options)


def _call_backward(
    d: Tensors, made: Tensors, flat: Tensors, sizes: Tensor | None, options: tuple[Any, ...], needed: Sequence[bool],
    samples: int = 0,
) -> Any:  # fmt: skip
    needed = [bool(need) for need in needed]
    if are_transforms_active():
        counts = len(d), len(made), len(flat)
        return _LayerBackward.apply(options, sizes, tuple(needed), samples, counts, *d, *made, *flat)
    there = [cotangent for cotangent in d if cotangent is not None]
    given = [cotangent is not None for cotangent in d]
    return layer_backward(there, given, list(made), *_packed(options, flat), sizes, *options, needed, samples)


def _vmap(
    info: Any, in_dims: tuple[Any, ...], options: tuple[Any, ...], sizes: Tensor | None, *flat: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    V, dims = info.batch_size, in_dims[2:]
    axes = _axes(options, sizes)
    if any(dim is not None for dim, axis in zip(dims, axes, strict=True) if axis is None):  # weights of samples
        each = [
            _call([_sample(t, dim, v) for t, dim in zip(flat, dims, strict=True)], sizes, options) for v in range(V)
        ]
        stacked = tuple(torch.stack(of_all) for of_all in zip(*each, strict=True))
        return stacked, (0,) * len(stacked)
    rows = [_as_rows(t, dim, axis, V) for t, dim, axis in zip(flat, dims, axes, strict=True)]
    made = _call(rows, None if sizes is None else V * sizes, options)
    of_made = _axes_of_made(options, sizes, len(made))
    return tuple(_as_samples(t, axis, V) for t, axis in zip(made, of_made, strict=True)), tuple(a + 1 for a in of_made)


def _vmap_of_backward(
    info: Any, in_dims: tuple[Any, ...], options: tuple[Any, ...], sizes: Tensor | None, needed: tuple[bool, ...],
    samples: int, counts: tuple[int, int, int], *flat: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
    V, dims = info.batch_size, in_dims[5:]
    of_d, of_made, _ = counts
    axes = _axes_of_made(options, sizes, of_d) + _axes_of_made(options, sizes, of_made)
    of_inputs = _axes(options, sizes)
    axes += of_inputs

    def split(given: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        return given[:of_d], given[of_d : of_d + of_made], given[of_d + of_made :]

    if any(dim is not None for dim, axis in zip(dims, axes, strict=True) if axis is None):
        each = [
            _call_backward(
                *split([_sample(t, dim, v) for t, dim in zip(flat, dims, strict=True)]),
                sizes,
                options,
                needed,
                samples,
            )
            for v in range(V)
        ]
        stacked = tuple(torch.stack(of_all) for of_all in zip(*each, strict=True))
        return stacked, (0,) * len(stacked)
    d, made, inputs = split([_as_rows(t, dim, axis, V) for t, dim, axis in zip(flat, dims, axes, strict=True)])
    all_sizes = None if sizes is None else V * sizes
    found = _call_backward(d, made, inputs, all_sizes, options, needed, max(1, samples) * V)
    of_needed = [axis for need, axis in zip(needed, of_inputs, strict=True) if need]
    gradients, out_dims = [], []
    for gradient, axis in zip(found, of_needed, strict=True):
        if axis is not None:
            gradient, out_dim = _as_samples(gradient, axis, V), axis + 1
        elif samples:
            gradient, out_dim = _as_samples(gradient, 0, V), 1
        else:
            out_dim = 0
        gradients.append(gradient)
        out_dims.append(out_dim)
    return tuple(gradients), tuple(out_dims)


def _axes(options: Sequence[Any], sizes: Any) -> list[Any]:
    """Which axis of each tensor counts the rows of the batch, or the rows of all steps; None of the weights."""
    signature, cell = Signature.of(_cell(options[0])), _cell(options[0])
    of_steps = 1 if sizes is None else 0
    weights = len(Layout.of(cell, as_torch=options[1]).names)
    extras = [0] * len(signature.masks) + [of_steps] * len(signature.inputs)
    return [of_steps, *[1] * len(signature.states), *[None] * weights, *extras]


def _axes_of_made(options: Sequence[Any], sizes: Any, number: int) -> list[Any]:
    of_steps, states = 1 if sizes is None else 0, len(Signature.of(_cell(options[0])).states)
    return [of_steps, *[1] * states, *[of_steps] * number][:number]


def _sample(tensor: Tensor | None, dim: int | None, v: int) -> Tensor | None:
    return tensor if tensor is None or dim is None else tensor.select(dim, v)


def _as_rows(tensor: Tensor | None, dim: int | None, axis: int | None, V: int) -> Tensor | None:
    """V samples as further rows of the batch, which is on `axis`: row r of sample v becomes row r V + v."""
    if tensor is None or axis is None:
        return tensor
    if dim is None:
        shape = tensor.shape
        tensor = tensor.unsqueeze(axis + 1).expand(*shape[: axis + 1], V, *shape[axis + 1 :])
    else:
        tensor = tensor.movedim(dim, axis + 1)
    return tensor.flatten(axis, axis + 1)


def _as_samples(tensor: Tensor, axis: int, V: int) -> Tensor:
    """The inverse of `_as_rows`, with the samples on axis + 1."""
    return tensor.unflatten(axis, (tensor.shape[axis] // V, V))


def check_tokens_of_layer(cell: Cell, torch_layout: bool, weights: Sequence[Tensor], x: Tensor) -> None:
    """IndexError for tokens outside [0, I)."""
    own = Weights(Layout.of(cell, as_torch=torch_layout), weights)
    check_tokens(x, sizes_of(cell, own, x, [None] * len(cell.sheet.states))[cell.sheet.widths["x"]])


def layer(
    cell: Cell,
    x: Tensor,
    first: Tensors,
    weights: Sequence[Tensor],
    extras: Sequence[Tensor],
    sizes: Sequence[int] | Tensor | None,
    reverse: bool,
    torch_layout: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`bptt.autograd.function.layer` by an operator that can be traced and transformed.

    Forward-mode derivatives (torch.func.jvp, jacfwd, torch.autograd.forward_ad) have no operator: the reference engine
    computes them, in operations of torch.
    """
    if has_tangents():
        known = sizes.tolist() if isinstance(sizes, Tensor) else sizes
        steps = Steps.of(x, known, reverse, None if first[0] is None else first[0].shape[1])
        given = Weights(Layout.of(cell, as_torch=torch_layout), weights)
        made = reference.forward(cell, given, x, first, steps, extras)
        return made.y, made.last
    if sizes is not None and not isinstance(sizes, Tensor):
        sizes = torch.as_tensor(sizes, dtype=torch.int64)
    options = cell.text, torch_layout, reverse
    if are_transforms_active():
        y, *others = _Layer.apply(options, sizes, x, *first, *weights, *extras)
    else:
        states = [h for h in first if h is not None]
        assert len(states) in (0, len(first)), "states are given all, or none"
        y, *others = layer_operator(x, states, list(weights), list(extras), sizes, *options)
    return y, tuple(others[: len(first)])
