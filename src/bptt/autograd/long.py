"""Long sequences: exact BPTT in bounded memory.

Plain BPTT keeps the states of all layers at all steps for the way back. Here they are kept at the starts of blocks of
time alone; on the way back a block is walked forward once more, then back while its numbers are in the cache. The price
is one more forward sweep, the same bits come out (`native` engine; `reference`: the same to rounding).

`stack` is for layers whose output is used by others, which is there in any case. `loss` goes from
tokens or inputs through layers and output layer to L, and holds nothing of size T I, T H or T O.

How much is kept is said by a checkpoint:

"auto"    blocks near the length that takes the least memory, but long enough to be walked fast; the states of the last
          128 MB of blocks are kept, which need no second walk
1000      blocks of at least so many steps
"512MB"   a budget for what is kept and for the work on one block: blocks as with "auto", and the states of as many as
          fit, which need no second walk. B, kB, MB, GB, KiB, MiB, GiB
None      everything is kept

Source: Gruslys et al., "Memory-efficient backpropagation through time" (2016); Chen et al., "Training deep nets with
sublinear memory cost" (2016).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.autograd import function
from bptt.autograd.function import check_masks, saved, without_autocast
from bptt.autograd.operators import check_tokens_of_layer
from bptt.autograd.private import sample_by_sample
from bptt.engine import reference, serving
from bptt.engine.arrays import check_storage
from bptt.engine.blocks import Block, Checkpoint, Plan, Walk, plan
from bptt.engine.contract import Engine, Gradients, Layout, Made, Signature, Weights, sizes_of
from bptt.engine.readout import of_block
from bptt.engine.steps import Steps
from bptt.sheet import Cell, losses
from bptt.sheet.expressions import Name

# A call for the output layer and its loss costs some 60 µs, which the arithmetic of so many rows outweighs.
_ROWS_OF_A_CUT = 512


class Layer(NamedTuple):
    """The tensors of one layer, as `bptt.autograd.function.layer` takes them."""

    first: Sequence[Tensor | None]
    weights: Sequence[Tensor]
    masks: Sequence[Tensor] = ()


def stack(
    cell: Cell,
    x: Tensor,
    layers: Sequence[Layer],
    inputs: Sequence[Tensor] = (),
    *,
    torch_layout: bool = False,
    checkpoint: Checkpoint = "auto",
    sizes: Sequence[int] | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """The top layer's output of all steps (T, B, H), packed (N, H), and the last states of each layer.

    inputs      further inputs of all steps, which every layer reads
    checkpoint  bounds what is kept besides this output
    dropout     the probability with which an output between two layers is zeroed. Masks are drawn block by block, from
                one number that torch's generator gives: not those that are drawn without a checkpoint

    The others are those of `bptt.autograd.function.layer`. Second derivatives may be asked for and take the memory of
    plain BPTT. Errors are those of `layer`, and InputError for a checkpoint that is none or for a budget that cannot be
    met.
    """
    how = _How.of(cell, torch_layout, x, layers, len(inputs), sizes, reverse, dropout)
    blocks = how.plan(x, layers, checkpoint, outputs=0)
    if torch.is_grad_enabled():
        y, *last = _Stack.apply(how, blocks, x, *how.flat(layers, inputs))
        states = len(layers[0].first)
        return y, [tuple(last[k : k + states]) for k in range(0, len(last), states)]
    y = how.output(x, layers)
    return y, [tuple(last) for last in _forward(x, layers, inputs, how, blocks, y, keep=False).last]


def loss(
    name: str,
    cell: Cell,
    x: Tensor,
    y: Tensor,
    layers: Sequence[Layer],
    weight: Tensor,
    bias: Tensor | None,
    weights: Tensor | None = None,
    *,
    torch_layout: bool = False,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
    skip_nan: bool = False,
    checkpoint: Checkpoint = "auto",
    dropout: float = 0.0,
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """L of B1, a scalar, and the last states of each layer, which count as constants.

    x             (T, B, I), or integer tokens (T, B)
    weight, bias  (O, H), and (O) or None: the output layer A5 as torch.nn.Linear holds it

    The gradients are taken along, block by block from the end, and wait for L.backward(). They cannot be differentiated
    again. Other arguments and errors are those of `stack` and `bptt.losses.loss`.
    """
    how = _How.of(cell, torch_layout, x, layers, 0, None, False, dropout)
    blocks = how.plan(x, layers, checkpoint, outputs=len(weight))
    target = losses.target(
        name, (*x.shape[:2], len(weight)), weight.dtype, y, weights,
        mask=mask, class_weights=class_weights, skip_nan=skip_nan,
    )  # fmt: skip
    if torch.is_grad_enabled():
        L, *last = _Loss.apply(how, blocks, target, weight, bias, x, *how.flat(layers, ()))
        states = len(layers[0].first)
        return L, [tuple(last[k : k + states]) for k in range(0, len(last), states)]
    shares = weight.new_empty(-(-len(x) // blocks.grain))
    free = iter(range(len(shares)))

    def take(block: Block, walked: "_OfBlock") -> None:
        here, h = target.at(block.rows), walked.made[-1].y
        for cut in reversed(_cuts(len(h), blocks)):
            shares[next(free)] = of_block(here.at(cut), h[cut], weight, bias)

    last = _forward(x, layers, (), how, blocks, None, keep=False, take=take).last
    return shares.sum(), [tuple(of_layer) for of_layer in last]


class _How(NamedTuple):
    """Options of a walk through a stack of layers. Flat, its tensors are those of each layer (first states, weights,
    masks), then the further inputs."""

    cell: Cell
    layout: Layout
    engine: Engine
    layers: int
    inputs: int
    sizes: Sequence[int] | None
    reverse: bool
    dropout: float
    seed: int
    B: int

    @staticmethod
    def of(
        cell: Cell,
        torch_layout: bool,
        x: Tensor,
        layers: Sequence[Layer],
        inputs: int,
        sizes: Sequence[int] | None,
        reverse: bool,
        dropout: float,
    ) -> "_How":
        check_masks([mask for layer in layers for mask in layer.masks])
        like = layers[0].weights[0] if layers[0].weights else x
        engine = serving(x.device.type, like.dtype)
        if engine is reference and not x.is_floating_point():
            check_tokens_of_layer(cell, torch_layout, layers[0].weights, x)
        dropout = dropout if len(layers) > 1 else 0.0
        seed = int(torch.randint(2**62, (), device="cpu")) if dropout else 0
        first = layers[0].first[0]
        B = Steps.of(x, sizes).B if first is None else first.shape[1]
        layout = Layout.of(cell, as_torch=torch_layout)
        return _How(cell, layout, engine, len(layers), inputs, sizes, reverse, dropout, seed, B)

    def flat(self, layers: Sequence[Layer], inputs: Sequence[Tensor]) -> list[Tensor | None]:
        return [*(t for layer in layers for tensors in layer for t in tensors), *inputs]

    def parts(self, flat: Sequence[Any]) -> tuple[list[Layer], list[Any]]:
        """The inverse of `flat`."""
        signature = Signature.of(self.cell)
        states, weights, masks = len(signature.states), len(self.layout.names), len(signature.masks)
        one = states + weights + masks
        layers = []
        for k in range(0, one * self.layers, one):
            own = list(flat[k : k + one])
            layers.append(Layer(own[:states], own[states : states + weights], own[states + weights :]))
        return layers, list(flat[one * self.layers :])

    def widths(self, x: Tensor, layer: Layer) -> tuple[int, list[int], list[int]]:
        """Of the output, of the states, and of what is kept for the way back."""
        signature, of = Signature.of(self.cell), self.cell.derivation.widths
        length = sizes_of(self.cell, Weights(self.layout, layer.weights), x, layer.first)
        kept = [length[of[e.name]] if isinstance(e, Name) else 1 for e in signature.kept]
        return length[of[signature.output]], [length[of[name]] for name in signature.states], kept

    def plan(self, x: Tensor, layers: Sequence[Layer], checkpoint: Checkpoint, outputs: int) -> Plan:
        T = len(x) if self.sizes is None else len(self.sizes)
        H, of_states, of_kept = self.widths(x, layers[0])
        like = layers[0].weights[0] if layers[0].weights else x
        B, width, number = Steps.of(x, self.sizes).B, H * Steps.of(x, self.sizes).B, like.element_size()
        masked = 2 * (len(layers) - 1) * width if self.dropout else 0
        gradients = 2 * width + 4 * B * outputs  # ∂h and ∂x; o, log ŷ, ∂o and what autograd adds
        state = len(layers) * B * sum(of_states)
        held = len(layers) * B * (H + sum(of_kept)) + masked
        rows = self.engine.rows_of_a_block(max(of_states))
        length = sizes_of(self.cell, Weights(self.layout, layers[0].weights), x, layers[0].first)
        I = length[self.cell.sheet.widths["x"]]
        walk = Walk(
            T,
            B,
            self.sizes,
            self.reverse,
            rows,
            state * number,
            held * number,
            (held + gradients) * number,
            I + outputs,
            -(-_ROWS_OF_A_CUT // rows) if outputs else 1,
        )
        return plan(checkpoint, walk)

    def output(self, x: Tensor, layers: Sequence[Layer]) -> Tensor:
        H = self.widths(x, layers[0])[0]
        like = layers[0].weights[0] if layers[0].weights else x
        return like.new_empty(*x.shape[: 2 if self.sizes is None else 1], H)

    def steps(self, block: Block) -> Steps:
        T = block.rows.stop - block.rows.start if block.batch_sizes is None else len(block.batch_sizes)
        return Steps(T, block.B, block.batch_sizes, self.reverse)

    def mask(self, number: int, layer: int, like: Tensor) -> Tensor:
        """A factor of the input of a layer, the same whenever its block is walked."""
        generator = torch.Generator(like.device).manual_seed(self.seed + (number << 16) + layer)
        kept = 1 - self.dropout
        return torch.empty_like(like).bernoulli_(kept, generator=generator).div_(kept or 1)


class _OfBlock(NamedTuple):
    """All that the way back through a block needs: of each layer its input, what it made, the mask on its input."""

    inputs: list[Tensor]
    made: list[Made]
    masks: list[Tensor | None]

    def flat(self) -> list[Tensor | None]:
        made = [array for of_layer in self.made for array in (of_layer.y, *of_layer.kept)]
        return [*self.inputs, *self.masks, *made]

    @staticmethod
    def of(flat: Sequence[Any], layers: int) -> "_OfBlock":
        one = len(flat) // layers - 2
        arrays = flat[2 * layers :]
        made = [Made(arrays[k], (), tuple(arrays[k + 1 : k + one])) for k in range(0, len(arrays), one)]
        return _OfBlock(list(flat[:layers]), made, list(flat[layers : 2 * layers]))


class _Walked(NamedTuple):
    """The walk forward: the states of each layer before each block, None being zero; the numbers of the last blocks;
    the last states."""

    starts: list[list[list[Tensor | None]]]
    kept: dict[int, _OfBlock]
    last: list[list[Tensor]]


@dataclass
class _Asked:
    """Arrays for gradients; None is not asked for. `begun` once those of the weights hold the share of a block."""

    x: Tensor | None
    layers: list[list[Tensor | None]]
    inputs: list[Tensor | None]
    deepest: int  # the lowest layer that must be walked back
    begun: bool = False

    @staticmethod
    def of(how: _How, x: Tensor, layers: Sequence[Layer], inputs: Sequence[Tensor], needs: Sequence[bool]) -> "_Asked":
        """needs: of x, then of all tensors as `_How.flat` lists them."""
        needed, of_inputs = how.parts(needs[1:])
        arrays = [
            [torch.empty_like(w) if need else None for w, need in zip(layer.weights, of_layer.weights, strict=True)]
            for layer, of_layer in zip(layers, needed, strict=True)
        ]
        of_first = needs[0] or any(need for of_layer in needed for need in of_layer.first) or any(of_inputs)
        asking = [k for k, of_layer in enumerate(arrays) if any(array is not None for array in of_layer)]
        deepest = 0 if of_first else min(asking, default=how.layers)
        further = [torch.zeros_like(d) if need else None for d, need in zip(inputs, of_inputs, strict=True)]
        return _Asked(x.new_empty(x.shape) if needs[0] else None, arrays, further, deepest)

    def returned(self, how: _How, needs: Sequence[bool], d_first: Sequence[Sequence[Tensor]]) -> list[Tensor | None]:
        """Of x, then of all tensors as `_How.flat` lists them."""
        needed, _ = how.parts(needs[1:])
        found: list[Tensor | None] = [self.x]
        for of_layer, weights, first in zip(needed, self.layers, d_first, strict=True):
            found += [d if need else None for d, need in zip(first, of_layer.first, strict=True)]
            found += [*weights, *[None] * len(of_layer.masks)]
        return found + self.inputs


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: _How, blocks: Plan, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        layers, inputs = how.parts(tensors)
        y = how.output(x, layers)
        walked = _forward(x, layers, inputs, how, blocks, y, keep=True)
        ctx.how, ctx.blocks, ctx.number = how, blocks, 1 + len(tensors)
        ctx.set_materialize_grads(False)
        starts = [h for of_block in walked.starts for of_layer in of_block for h in of_layer]
        kept = [array for walked_block in walked.kept.values() for array in walked_block.flat()]
        ctx.counts = len(starts), len(walked.kept)
        ctx.save_for_backward(x, *tensors, *starts, *kept)
        return y, *(h for of_layer in walked.last for h in of_layer)

    @staticmethod
    @without_autocast
    @sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        how, needs = ctx.how, ctx.needs_input_grad[2:]
        all_saved = saved(ctx)
        x, *tensors = all_saved[: ctx.number]
        if torch.is_grad_enabled():
            return None, None, *_differentiable_gradients(ctx, x, tensors, needs, cotangents)
        layers, inputs = how.parts(tensors)
        others, (starts, blocks_kept) = all_saved[ctx.number :], ctx.counts
        states = len(layers[0].first)
        flat_starts = [list(others[k : k + states]) for k in range(0, starts, states)]
        by_block = [flat_starts[k : k + how.layers] for k in range(0, len(flat_starts), how.layers)]
        kept, one = others[starts:], (len(others) - starts) // max(1, blocks_kept)
        whole = {
            len(by_block) - blocks_kept + k: _OfBlock.of(kept[k * one : (k + 1) * one], how.layers)
            for k in range(blocks_kept)
        }
        dy, *d_last = cotangents

        def cotangent(block: Block, walked: _OfBlock) -> Tensor | None:
            return None if dy is None else dy[block.rows]

        asked = _Asked.of(how, x, layers, inputs, needs)
        of_layers = [d_last[k : k + states] for k in range(0, len(d_last), states)]
        walked = _Walked(by_block, whole, [])
        d_first = _backward(x, layers, inputs, how, ctx.blocks, walked, cotangent, of_layers, asked)
        return None, None, *asked.returned(how, needs, d_first)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: _How,
        blocks: Plan,
        target: losses.Target,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        _, _, _, needs_weight, needs_bias, *needs = ctx.needs_input_grad
        layers, _ = how.parts(tensors)
        walked = _forward(x, layers, (), how, blocks, None, keep=True)
        asked = _Asked.of(how, x, layers, (), needs)
        dweight = torch.zeros_like(weight) if needs_weight else None
        dbias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        # One array: small ones that stay, between large ones that go, would keep memory from returning.
        shares = weight.new_empty(-(-len(x) // blocks.grain))
        free = reversed(range(len(shares)))

        def cotangent(block: Block, walked: _OfBlock) -> Tensor | None:
            h = walked.made[-1].y
            dh = torch.empty_like(h) if asked.deepest < len(layers) else None
            here = target.at(block.rows)
            for cut in _cuts(len(h), blocks):
                dh_now = None if dh is None else dh[cut]
                shares[next(free)] = of_block(here.at(cut), h[cut], weight, bias, dh_now, dweight, dbias)
            return dh

        no_cotangents = [[None] * len(layer.first) for layer in layers]
        d_first = _backward(x, layers, (), how, blocks, walked, cotangent, no_cotangents, asked)
        ctx.save_for_backward(dweight, dbias, *asked.returned(how, needs, d_first))
        last = [h for of_layer in walked.last for h in of_layer]
        ctx.mark_non_differentiable(*last)
        return shares.sum(), *last

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradients of a loss in blocks are taken along with it and cannot be differentiated again; got "
                "create_graph=True. Evaluate the network and its loss one after the other."
            )
        return None, None, None, *(None if d is None else d * cotangents[0] for d in saved(ctx))


def _cuts(steps: int, blocks: Plan) -> list[slice]:
    """The parts of a block of so many steps between two places where a cut may fall, in the order of the walk back."""
    return [slice(max(0, end - blocks.grain), end) for end in range(steps, 0, -blocks.grain)]


def _forward(
    x: Tensor,
    layers: Sequence[Layer],
    inputs: Sequence[Tensor],
    how: _How,
    blocks: Plan,
    y: Tensor | None,
    *,
    keep: bool,
    take: Callable[[Block, _OfBlock], None] = lambda block, walked: None,
) -> _Walked:
    """Walks all blocks forward; y, unless None, receives the top layer's output, `take` every block's numbers."""
    like = layers[0].weights[0] if layers[0].weights else x
    now: list[list[Tensor]] = []
    for layer in layers:
        check_storage(**{f"state {k}": h for k, h in enumerate(layer.first)})
        widths = how.widths(x, layers[0])[1]
        now.append([
            like.new_zeros(1, how.B, width) if h is None else h.detach().clone(memory_format=torch.contiguous_format)
            for h, width in zip(layer.first, widths, strict=True)
        ])  # fmt: skip
    starts: list[list[list[Tensor | None]]] = []
    kept: dict[int, _OfBlock] = {}
    for number, block in enumerate(blocks.blocks):
        start: list[list[Tensor | None]] = [
            [
                None if first is None and number == 0 else h[:, : block.B].clone()
                for h, first in zip(of_layer, layer.first, strict=True)
            ]
            for of_layer, layer in zip(now, layers, strict=True)
        ]
        stays = keep and number >= len(blocks.blocks) - blocks.kept
        out = None if y is None or stays else y[block.rows]
        walked = _walk(number, block, x, start, layers, inputs, how, out)
        for of_layer, made in zip(now, walked.made, strict=True):
            for h, last in zip(of_layer, made.last, strict=True):
                h[:, : block.B] = last
        if stays:
            kept[number] = walked
            if y is not None:
                y[block.rows] = walked.made[-1].y
        starts.append(start)
        take(block, walked)
    return _Walked(starts, kept, now)


def _walk(
    number: int,
    block: Block,
    x: Tensor,
    start: Sequence[Sequence[Tensor | None]],
    layers: Sequence[Layer],
    inputs: Sequence[Tensor],
    how: _How,
    out: Tensor | None = None,
) -> _OfBlock:
    """All layers of one block, from the states of each."""
    walked = _OfBlock([], [], [])
    input, steps = x[block.rows], how.steps(block)
    for k, layer in enumerate(layers):
        mask = how.mask(number, k, input) if k and how.dropout else None
        input = input if mask is None else input * mask
        made = how.engine.forward(
            how.cell, Weights(how.layout, layer.weights), input, start[k], steps, _extras(layer, inputs, block),
            out=out if k + 1 == len(layers) else None,
        )  # fmt: skip
        walked.inputs.append(input)
        walked.made.append(made)
        walked.masks.append(mask)
        input = made.y
    return walked


def _extras(layer: Layer, inputs: Sequence[Tensor], block: Block) -> list[Tensor]:
    return [*(mask[: block.B] for mask in layer.masks), *(d[block.rows] for d in inputs)]


def _backward(
    x: Tensor,
    layers: Sequence[Layer],
    inputs: Sequence[Tensor],
    how: _How,
    blocks: Plan,
    walked: _Walked,
    cotangent: Callable[[Block, _OfBlock], Tensor | None],
    d_last: Sequence[Sequence[Tensor | None]],
    asked: _Asked,
) -> list[list[Tensor]]:
    """Walks all blocks back, fills `asked` and returns the gradients of the first states of each layer.

    cotangent  of the top layer's output of a block
    d_last     of the last states of each layer, None being zero
    """
    like = layers[0].weights[0] if layers[0].weights else x
    widths = how.widths(x, layers[0])[1]
    d_states: list[list[Tensor]] = []
    for of_layer in d_last:
        check_storage(**{f"the cotangent of state {k}": d for k, d in enumerate(of_layer)})
        d_states.append([
            like.new_zeros(1, how.B, width) if d is None else d.clone(memory_format=torch.contiguous_format)
            for d, width in zip(of_layer, widths, strict=True)
        ])  # fmt: skip
    for number, block in reversed([*enumerate(blocks.blocks)]):
        start, steps = walked.starts[number], how.steps(block)
        here = walked.kept.get(number) or _walk(number, block, x, start, layers, inputs, how)
        dy = cotangent(block, here)
        for k in reversed(range(asked.deepest, len(layers))):
            dx = torch.empty_like(here.inputs[k]) if k > asked.deepest else None
            if k == 0 and asked.x is not None:
                dx = asked.x[block.rows]
            d_block = [d[:, : block.B].contiguous() for d in d_states[k]]
            into = Gradients(
                dx,
                [torch.empty_like(d) for d in d_block],
                asked.layers[k],
                [None if d is None else d.new_empty(d[block.rows].shape) for d in asked.inputs],
                accumulate=asked.begun,
            )
            how.engine.backward(
                how.cell, Weights(how.layout, layers[k].weights), here.made[k], here.inputs[k], start[k], steps,
                dy, d_block, into, _extras(layers[k], inputs, block),
            )  # fmt: skip
            for d, found in zip(d_states[k], into.first, strict=True):
                assert found is not None
                d[:, : block.B] = found
            for d, found in zip(asked.inputs, into.inputs, strict=True):
                if d is not None and found is not None:
                    d[block.rows] += found
            mask = here.masks[k]
            dy = dx if dx is None or mask is None else dx * mask
        asked.begun = True
    return d_states


def _differentiable_gradients(
    ctx: Any, x: Tensor, tensors: Sequence[Tensor | None], needs: Sequence[bool], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again: autograd through every layer of every block."""
    how: _How = ctx.how
    flat: list[Any] = [x, *tensors]
    aliases: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in flat]
    input, (layers, inputs) = aliases[0], how.parts(aliases[1:])
    like = layers[0].weights[0] if layers[0].weights else x
    now = [
        [like.new_zeros(1, how.B, width) if h is None else h for h, width in zip(layer.first, widths, strict=True)]
        for layer in layers
        for widths in [how.widths(x, layers[0])[1]]
    ]
    tops = []
    for number, block in enumerate(ctx.blocks.blocks):
        top = input[block.rows]
        for k, layer in enumerate(layers):
            top = top * how.mask(number, k, top) if k and how.dropout else top
            top, ends = function.layer(
                how.cell, top, [h[:, : block.B] for h in now[k]], layer.weights, _extras(layer, inputs, block),
                sizes=block.batch_sizes, reverse=how.reverse, torch_layout=how.layout.transposed,
            )  # fmt: skip
            now[k] = [torch.cat([end, h[:, block.B :]], 1) for end, h in zip(ends, now[k], strict=True)]
        tops.append(top)
    y = torch.cat(tops[::-1] if how.reverse else tops)
    outputs = (y, *(h for of_layer in now for h in of_layer))
    known = [(output, seed) for output, seed in zip(outputs, cotangents, strict=True) if seed is not None]
    wanted = [alias for alias, need in zip(aliases, needs, strict=True) if need]
    found = torch.autograd.grad(
        [output for output, _ in known], wanted, [seed for _, seed in known], create_graph=True, allow_unused=True
    )
    gradients = iter(found)
    return [next(gradients) if need else None for need in needs]
