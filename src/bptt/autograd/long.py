"""Long sequences: exact BPTT in bounded memory.

Plain BPTT keeps the states of all layers at all steps for the way back. Here they are kept at the starts of blocks of
time alone; on the way back a block is walked forward once more, then back while its numbers are in the cache. The price
is one more forward sweep, the same bits come out (`native` engine; `reference`: the same to rounding).

`stack` is for layers whose states are used by others: its output (T, B, H) is there in any case. `loss` goes from
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
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.autograd import function
from bptt.engine import choose, packing
from bptt.engine.blocks import Block, Checkpoint, Plan, Walk, plan
from bptt.engine.native import check_storage
from bptt.sheet import losses

Layer = tuple[Tensor, Tensor, Tensor | None, Tensor | None]

# A call for the output layer and its loss costs some 60 µs, which the arithmetic of so many rows outweighs.
_ROWS_OF_A_GRAIN = 512


def joined(states: Sequence[Tensor | None]) -> Tensor | None:
    """The states of all layers (L, B, H) from those of each (1, B, H); None where all are."""
    given = [h for h in states if h is not None]
    if len(given) < 2:
        return given[0] if given else None
    return torch.cat(given)


def stack(
    x: Tensor,
    h0: Tensor | None,
    layers: Sequence[Layer],
    activation: str,
    *,
    checkpoint: Checkpoint = "auto",
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The top layer's states of all steps (T, B, H), packed (N, H), and the last states of all layers (L, B, H).

    layers      weight_ih, weight_hh, bias_ih, bias_hh of each of the L layers
    h0          (L, B, H), or None for zero; x and the others as for `bptt.autograd.function.layer`
    checkpoint  bounds what is kept besides this output
    dropout     the probability with which an output between two layers is zeroed. Masks are drawn block by block, from
                one number that torch's generator gives: not those that are drawn without a checkpoint

    Second derivatives may be asked for and take the memory of plain BPTT. Errors are those of `function.layer`, and
    InputError for a checkpoint that is none or a budget that cannot be met.
    """
    how = _How.of(x, layers, activation, batch_sizes, reverse, dropout)
    blocks = how.plan(x, layers, checkpoint, outputs=0)
    parameters = [parameter for layer in layers for parameter in layer]
    if torch.is_grad_enabled():
        return _Stack.apply(x, h0, how, blocks, *parameters)
    y = _output(x, layers, how)
    return y, _forward(x, h0, layers, how, blocks, y, keep=False).h_n


def loss(
    name: str,
    x: Tensor,
    y: Tensor,
    h0: Tensor | None,
    layers: Sequence[Layer],
    activation: str,
    weight: Tensor,
    bias: Tensor | None,
    weights: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
    skip_nan: bool = False,
    checkpoint: Checkpoint = "auto",
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """L of B1, a scalar, and the last states of all layers (L, B, H), which count as constants.

    x             (T, B, I), or integer tokens (T, B)
    weight, bias  (O, H), and (O) or None: the output layer A5 as torch.nn.Linear holds it

    The gradients are taken along, block by block from the end, and wait for L.backward(). They cannot be differentiated
    again. Other arguments and errors are those of `stack` and `bptt.losses.loss`.
    """
    how = _How.of(x, layers, activation, None, False, dropout)
    blocks = how.plan(x, layers, checkpoint, outputs=len(weight))
    target = losses.target(
        name, (*x.shape[:2], len(weight)), weight.dtype, y, weights,
        mask=mask, class_weights=class_weights, skip_nan=skip_nan,
    )  # fmt: skip
    parameters = [parameter for layer in layers for parameter in layer]
    if torch.is_grad_enabled():
        return _Loss.apply(x, h0, weight, bias, target, how, blocks, *parameters)
    shares = weight.new_empty(-(-len(x) // blocks.grain))
    free = iter(range(len(shares)))

    def take(block: Block, states: _States) -> None:
        here, h = target.at(block.rows), states.outputs[-1]
        for grain in reversed(_grains(len(h), blocks)):
            shares[next(free)] = losses.of_states(here.at(grain), h[grain], weight, bias)

    h_n = _forward(x, h0, layers, how, blocks, None, keep=False, take=take).h_n
    return shares.sum(), h_n


class _How(NamedTuple):
    """What a walk is told beside its tensors."""

    engine: ModuleType
    activation: str
    batch_sizes: Sequence[int] | None
    reverse: bool
    dropout: float
    seed: int

    @classmethod
    def of(
        cls,
        x: Tensor,
        layers: Sequence[Layer],
        activation: str,
        batch_sizes: Sequence[int] | None,
        reverse: bool,
        dropout: float,
    ) -> "_How":
        engine = choose(x.device.type, layers[0][1].dtype).engine
        dropout = dropout if len(layers) > 1 else 0.0
        seed = int(torch.randint(2**62, (), device="cpu")) if dropout else 0
        return cls(engine, activation, batch_sizes, reverse, dropout, seed)

    def plan(self, x: Tensor, layers: Sequence[Layer], checkpoint: Checkpoint, outputs: int) -> Plan:
        B = packing.rows_of_batch(x, self.batch_sizes)
        T = len(x) if self.batch_sizes is None else len(self.batch_sizes)
        H, I = layers[0][0].shape
        width, number = B * H, layers[0][1].element_size()
        kept = len(layers) * width
        masked = 2 * (len(layers) - 1) * width if self.dropout else 0
        gradients = 2 * width + 4 * B * outputs  # ∂h and ∂x; o, log ŷ, ∂o and what autograd adds
        held = kept + masked
        rows = self.engine.rows_of_a_block(H)
        walk = Walk(
            T,
            B,
            self.batch_sizes,
            self.reverse,
            rows,
            kept * number,
            held * number,
            (held + gradients) * number,
            I + outputs,
            -(-_ROWS_OF_A_GRAIN // rows) if outputs else 1,
        )
        return plan(checkpoint, walk)

    def mask(self, number: int, layer: int, like: Tensor) -> Tensor:
        """What the input of a layer is multiplied with, the same whenever its block is walked."""
        generator = torch.Generator(like.device).manual_seed(self.seed + (number << 16) + layer)
        kept = 1 - self.dropout
        return torch.empty_like(like).bernoulli_(kept, generator=generator).div_(kept or 1)


class _States(NamedTuple):
    """What the way back through a block needs: of each layer its input, its states and the mask on its input."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    masks: list[Tensor | None]


class _Walked(NamedTuple):
    """What is kept of the walk forward: states before each block (L, B, H), None being zero, and of the last blocks all
    states; and the last states (L, B, H)."""

    starts: list[Tensor | None]
    kept: dict[int, _States]
    h_n: Tensor


@dataclass
class _Gradients:
    """Where gradients go; None is not asked for. `begun` once the parameters' hold the share of a block."""

    dx: Tensor | None
    layers: list[tuple[Tensor | None, Tensor | None, Tensor | None]]
    deepest: int  # the lowest layer that must be walked back
    begun: bool = False

    @classmethod
    def asked_for(cls, x: Tensor, layers: Sequence[Layer], x_needed: bool, h0_needed: bool, needed: Sequence[bool]):
        arrays = []
        for k, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(layers):
            ih, hh, *biases = needed[4 * k : 4 * k + 4]
            bias = bias_ih if bias_ih is not None else bias_hh
            arrays.append(
                (
                    torch.empty_like(weight_ih) if ih else None,
                    torch.empty_like(weight_hh) if hh else None,
                    torch.empty_like(bias) if bias is not None and any(biases) else None,
                )
            )
        asking = [k for k in range(len(layers)) if any(needed[4 * k : 4 * k + 4])]
        deepest = 0 if x_needed or h0_needed else min(asking, default=len(layers))
        return cls(x.new_empty(x.shape) if x_needed else None, arrays, deepest)

    def as_returned(self, needed: Sequence[bool]) -> list[Tensor | None]:
        """Those of the parameters in their order; both biases get the same, each an array of its own."""
        found = []
        for k, (dweight_ih, dweight_hh, dbias) in enumerate(self.layers):
            needs_bias_ih, needs_bias_hh = needed[4 * k + 2 : 4 * k + 4]
            second = dbias.clone() if dbias is not None and needs_bias_ih and needs_bias_hh else dbias
            found += [dweight_ih, dweight_hh, dbias if needs_bias_ih else None, second if needs_bias_hh else None]
        return found


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor | None, how: _How, blocks: Plan, *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layers = _as_layers(parameters)
        y = _output(x, layers, how)
        walked = _forward(x, h0, layers, how, blocks, y, keep=True)
        ctx.how, ctx.blocks = how, blocks
        ctx.set_materialize_grads(False)
        kept = (array for states in walked.kept.values() for arrays in states for array in arrays)
        ctx.save_for_backward(x, h0, *parameters, *walked.starts, *kept)
        return y, walked.h_n

    @staticmethod
    @function.sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, dh_n = cotangents
        x, h0, *others = function.saved(ctx)
        needs_x, needs_h0, _, _, *needed = ctx.needs_input_grad
        layers, others = _as_layers(others[: len(needed)]), others[len(needed) :]
        if torch.is_grad_enabled():
            return _differentiable_gradients(ctx, x, h0, layers, dy, dh_n)
        gradients = _Gradients.asked_for(x, layers, needs_x, needs_h0, needed)
        starts, kept = others[: len(ctx.blocks.blocks)], others[len(ctx.blocks.blocks) :]
        walked = _Walked(starts, _as_states(kept, len(layers), len(starts)), x.new_empty(0))

        def cotangent(block: Block, states: _States) -> Tensor | None:
            return None if dy is None else dy[block.rows]

        dh0 = _backward(x, layers, ctx.how, ctx.blocks, walked, cotangent, dh_n, gradients)
        return gradients.dx, dh0 if needs_h0 else None, None, None, *gradients.as_returned(needed)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        target: losses.Target,
        how: _How,
        blocks: Plan,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        needs_x, needs_h0, needs_weight, needs_bias, _, _, _, *needed = ctx.needs_input_grad
        layers = _as_layers(parameters)
        walked = _forward(x, h0, layers, how, blocks, None, keep=True)
        gradients = _Gradients.asked_for(x, layers, needs_x, needs_h0, needed)
        dweight = torch.zeros_like(weight) if needs_weight else None
        dbias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        # One array: small ones that stay, between large ones that go, would keep memory from returning.
        shares = weight.new_empty(-(-len(x) // blocks.grain))
        free = reversed(range(len(shares)))

        def cotangent(block: Block, states: _States) -> Tensor | None:
            h = states.outputs[-1]
            dh = torch.empty_like(h) if gradients.deepest < len(layers) else None
            here = target.at(block.rows)
            for grain in _grains(len(h), blocks):
                dh_now = None if dh is None else dh[grain]
                shares[next(free)] = losses.of_states(here.at(grain), h[grain], weight, bias, dh_now, dweight, dbias)
            return dh

        dh0 = _backward(x, layers, how, blocks, walked, cotangent, None, gradients)
        ctx.save_for_backward(
            gradients.dx, dh0 if needs_h0 else None, dweight, dbias, *gradients.as_returned(needed)
        )  # fmt: skip
        ctx.mark_non_differentiable(walked.h_n)
        return shares.sum(), walked.h_n

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradients of a loss in blocks are taken along with it and cannot be differentiated again; got "
                "create_graph=True. Evaluate the network and its loss one after the other."
            )
        scaled = [None if gradient is None else gradient * cotangents[0] for gradient in function.saved(ctx)]
        return *scaled[:4], None, None, None, *scaled[4:]


def _grains(steps: int, blocks: Plan) -> list[slice]:
    """The grains of a block of so many steps, in the order of the walk back."""
    return [slice(max(0, end - blocks.grain), end) for end in range(steps, 0, -blocks.grain)]


def _output(x: Tensor, layers: Sequence[Layer], how: _How) -> Tensor:
    weight_hh = layers[0][1]
    return weight_hh.new_empty((*x.shape[: 2 if how.batch_sizes is None else 1], len(weight_hh)))


def _as_states(kept: list[Any], L: int, blocks: int) -> dict[int, _States]:
    """Those of the last blocks by their number, from all their arrays one after the other."""
    each = [kept[k : k + 3 * L] for k in range(0, len(kept), 3 * L)]
    states = (_States(of[:L], of[L : 2 * L], of[2 * L :]) for of in each)
    return dict(enumerate(states, blocks - len(each)))


def _as_layers(parameters: Sequence[Tensor | None]) -> list[Layer]:
    layers = []
    for k in range(0, len(parameters), 4):
        weight_ih, weight_hh, bias_ih, bias_hh = parameters[k : k + 4]
        assert weight_ih is not None
        assert weight_hh is not None
        layers.append((weight_ih, weight_hh, bias_ih, bias_hh))
    return layers


def _forward(
    x: Tensor,
    h0: Tensor | None,
    layers: Sequence[Layer],
    how: _How,
    blocks: Plan,
    y: Tensor | None,
    *,
    keep: bool,
    take: Callable[[Block, _States], None] = lambda block, states: None,
) -> _Walked:
    """Walks all blocks forward; y, unless None, receives the states of the top layer, `take` every block's states."""
    B, H = packing.rows_of_batch(x, how.batch_sizes), len(layers[0][1])
    check_storage(h0=h0)
    h = (
        layers[0][1].new_zeros(len(layers), B, H)
        if h0 is None
        else h0.detach().clone(memory_format=torch.contiguous_format)
    )
    starts: list[Tensor | None] = []
    kept: dict[int, _States] = {}
    for number, block in enumerate(blocks.blocks):
        start = None if h0 is None and number == 0 else h[:, : block.B].clone()
        stays = keep and number >= len(blocks.blocks) - blocks.kept
        out = None if y is None or stays else y[block.rows]
        states, h[:, : block.B] = _walk(number, block, x, start, layers, how, out)
        if stays:
            kept[number] = states
            if y is not None:
                y[block.rows] = states.outputs[-1]
        starts.append(start)
        take(block, states)
    return _Walked(starts, kept, h)


def _walk(
    number: int,
    block: Block,
    x: Tensor,
    h: Tensor | None,
    layers: Sequence[Layer],
    how: _How,
    out: Tensor | None = None,
) -> tuple[_States, Tensor]:
    """All layers of one block, from the states h (L, B, H); and the states it ends with."""
    states = _States([], [], [])
    input = x[block.rows]
    h_n = layers[0][1].new_empty(len(layers), block.B, len(layers[0][1]))
    for k, layer in enumerate(layers):
        mask = how.mask(number, k, input) if k and how.dropout else None
        input = input if mask is None else input * mask
        output = how.engine.forward_layer(
            input, None if h is None else h[k : k + 1], *layer, how.activation, batch_sizes=block.batch_sizes,
            reverse=how.reverse, out=out if k + 1 == len(layers) else None, h_n=h_n[k : k + 1],
        )  # fmt: skip
        states.inputs.append(input)
        states.outputs.append(output)
        states.masks.append(mask)
        input = output
    return states, h_n


def _backward(
    x: Tensor,
    layers: Sequence[Layer],
    how: _How,
    blocks: Plan,
    walked: _Walked,
    cotangent: Callable[[Block, _States], Tensor | None],
    dh_n: Tensor | None,
    gradients: _Gradients,
) -> Tensor:
    """Walks all blocks back, fills `gradients` and returns ∂h_0 (L, B, H).

    cotangent  what the top layer's states of a block receive from above
    dh_n       (L, B, H) the cotangent of the last states, None being zero
    """
    B, H = packing.rows_of_batch(x, how.batch_sizes), len(layers[0][1])
    check_storage(dh_n=dh_n)
    dh = (
        layers[0][1].new_zeros(len(layers), B, H) if dh_n is None else dh_n.clone(memory_format=torch.contiguous_format)
    )
    for number, block in reversed([*enumerate(blocks.blocks)]):
        start = walked.starts[number]
        states = walked.kept.get(number) or _walk(number, block, x, start, layers, how)[0]
        dy = cotangent(block, states)
        for k in reversed(range(gradients.deepest, len(layers))):
            dweight_ih, dweight_hh, dbias = gradients.layers[k]
            dx = torch.empty_like(states.inputs[k]) if k > gradients.deepest else None
            if k == 0 and gradients.dx is not None:
                dx = gradients.dx[block.rows]
            dh_block = dh[k : k + 1, : block.B]
            dh0 = torch.empty_like(dh_block, memory_format=torch.contiguous_format)
            how.engine.backward_layer(
                dy, dh_block, states.outputs[k], None if start is None else start[k : k + 1], states.inputs[k],
                *layers[k][:2], how.activation, batch_sizes=block.batch_sizes, reverse=how.reverse,
                dx=dx, dweight_ih=dweight_ih, dweight_hh=dweight_hh, dbias=dbias, dh0=dh0, accumulate=gradients.begun,
            )  # fmt: skip
            dh_block.copy_(dh0)
            mask = states.masks[k]
            dy = dx if dx is None or mask is None else dx * mask
        gradients.begun = True
    return dh


def _differentiable_gradients(
    ctx: Any, x: Tensor, h0: Tensor | None, layers: Sequence[Layer], dy: Tensor | None, dh_n: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again: autograd through every layer of every block."""
    how: _How = ctx.how
    flat: list[Any] = [x, h0, *(parameter for layer in layers for parameter in layer)]
    aliases: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in flat]
    input, initial, *parameters = aliases
    B, H = packing.rows_of_batch(x, how.batch_sizes), len(layers[0][1])
    h = layers[0][1].new_zeros(len(layers), B, H) if initial is None else initial
    tops = []
    for number, block in enumerate(ctx.blocks.blocks):
        top, ends = input[block.rows], []
        for k, layer in enumerate(_as_layers(parameters)):
            top = top * how.mask(number, k, top) if k and how.dropout else top
            top, end = function.layer(
                top, h[k : k + 1, : block.B], *layer, how.activation, batch_sizes=block.batch_sizes, reverse=how.reverse
            )
            ends.append(end)
        h = torch.cat([torch.cat(ends), h[:, block.B :]], 1)
        tops.append(top)
    y = torch.cat(tops[::-1] if how.reverse else tops)
    known = [(output, seed) for output, seed in ((y, dy), (h, dh_n)) if seed is not None]
    needed = [*ctx.needs_input_grad[:2], *ctx.needs_input_grad[4:]]
    wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need]
    found = torch.autograd.grad(
        [output for output, _ in known], wanted, [seed for _, seed in known], create_graph=True, allow_unused=True
    )
    gradients = iter(found)
    dx, dh0, *of_parameters = (next(gradients) if need else None for need in needed)
    return dx, dh0, None, None, *of_parameters
