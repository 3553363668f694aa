"""What enters a network at single steps goes back alone: side B once more, each origin a row of one sweep.

An origin is one row of the batch at one step; the way back is linear, so the sum over all origins is the gradient. Rows
share what the tape holds of side A: it is taken to them block by block, while it is in the cache, and after each block
every row is scaled by a power of two, so that nothing leaves the range of its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bptt import engine
from bptt.autograd.recorded import Record
from bptt.engine.contract import Gradients, Layout, Made, Signature, Weights, read_by_side_b
from bptt.engine.evaluation import evaluated, key_of
from bptt.engine.steps import Steps
from bptt.sheet.expressions import Name

BLOCK = 1 << 20
"""Numbers of a state that a block has: steps times rows times width."""
LONGEST = 16
"""Steps of a block at most, after which rows are scaled."""


class Back(NamedTuple):
    """first    (A, ·) of each state, the cotangent at the step before the block; A rows are in it
    squares  of the output and each state (N, 1): ‖∂‖² at the steps of the block, packed
    dx       (N, I), where it was asked for
    """

    first: list[Tensor]
    squares: dict[str, Tensor]
    dx: Tensor | None


@dataclass
class Layer:
    """A recorded layer in the order in which it computed the steps of a row: 0 is its first.

    places   (T, B) of the rows of all arrays; beyond the end of a row that of its last
    lengths  (B,) of rows
    """

    record: Record
    places: Tensor
    lengths: Tensor
    arrays: dict[str, Tensor]
    kept: list[str]
    weights: Weights
    engine: engine.Choice
    reads: tuple[bool, ...]

    @staticmethod
    def of(record: Record, dtype: torch.dtype) -> "Layer":
        signature, steps, layout = Signature.of(record.cell), record.steps, Layout.of(record.cell)
        sizes = torch.tensor(steps.rows_of_steps)
        lengths = (sizes[:, None] > torch.arange(steps.B)).sum(0)
        step = torch.arange(steps.T)[:, None].minimum((lengths - 1).clamp(min=0))
        step = (lengths - 1 - step).clamp(min=0) if steps.reverse else step
        places = (sizes.cumsum(0) - sizes)[step] + torch.arange(steps.B)
        arrays = {"x": record.x, record.output: record.h}
        arrays |= {name: record.weights[name] for name in signature.inputs}
        arrays |= {e.name: record.values[e.name] for e in signature.kept if isinstance(e, Name)}
        arrays |= {name: record.values[name] for name in signature.states}
        arrays = {name: _flat(array, dtype) for name, array in arrays.items()}
        if scales := [e for e in signature.kept if not isinstance(e, Name)]:
            env = record.environment(dtype=dtype)
            rows = len(arrays[record.output])
            arrays |= {key_of(e): evaluated(e, record.cell)(env).expand(rows, 1) for e in scales}
        tensors = [record.weights[name].detach().cpu().to(dtype) for name in signature.parameters]
        unasked = (False,) * (1 + len(signature.states) + len(tensors) + len(signature.masks + signature.inputs))
        reads = read_by_side_b(record.cell, layout, unasked)
        weights, choice = Weights(layout, tensors), engine.choose("cpu", dtype)
        return Layer(record, places, lengths, arrays, list(map(key_of, signature.kept)), weights, choice, reads)

    @property
    def direction(self) -> Literal["forward", "reverse"]:
        return "reverse" if self.record.reverse else "forward"

    @property
    def name(self) -> str:
        return f"l{self.record.layer}{'_reverse' * self.record.reverse}"

    @property
    def states(self) -> tuple[str, ...]:
        return self.record.cell.sheet.states

    @property
    def named(self) -> tuple[str, ...]:
        """The output and the states."""
        return tuple(dict.fromkeys((self.record.output, *self.states)))

    def width(self, state: str) -> int:
        return self.record.values[state].shape[-1]

    @property
    def inputs(self) -> int:
        """I, 0 for tokens."""
        return self.record.x.shape[-1] if self.record.x.is_floating_point() else 0

    @property
    def dtype(self) -> torch.dtype:
        return self.arrays[self.record.output].dtype

    def zeros(self, rows: int) -> list[Tensor]:
        return [torch.zeros(rows, self.width(state), dtype=self.dtype) for state in self.states]

    def back(
        self,
        sizes: list[int],
        places: Tensor,
        before: Tensor | None,
        of: Tensor,
        d_last: Sequence[Tensor],
        *,
        dy: Tensor | None = None,
        norms: bool = False,
        dx: bool = False,
        d_weights: list[Tensor] | None = None,
    ) -> Back:
        """Side B of a block of steps, each of the first so many of A rows: N = sum(sizes), packed.

        places     (N,) where the arrays of the layer have them
        before     (A,) where they have the step before the block; None for the first states
        of         (A,) the row of the batch that each row goes back in
        d_last     (A, ·) of each state: what a row's last step in the block receives
        dy         (N, ·) what the output receives beside it
        d_weights  the gradients of the parameters of the sheet are added to these
        """
        signature, rows = Signature.of(self.record.cell), len(of)
        reads_x, *reads = self.reads if d_weights is None else [True] * len(self.reads)
        first = [self._first(state, before, of) if r else None for state, r in zip(self.states, reads, strict=False)]
        masks = [self.record.weights[name].cpu().to(self.dtype)[of] for name in signature.masks]
        inputs = [self.arrays[name][places] for name in signature.inputs]
        x = self.arrays["x"]
        given = x[places] if reads_x or dx else x[:1].expand(len(places), *x.shape[1:])
        made = Made(self._taken(self.record.output, places), (), tuple([self._taken(k, places) for k in self.kept]))
        into = Gradients(
            torch.empty(len(places), self.inputs, dtype=self.dtype) if dx else None,
            [torch.empty(1, rows, self.width(state), dtype=self.dtype) for state in self.states],
            d_weights or [None] * len(self.weights.tensors),
            [None] * len(inputs),
            norms={} if norms else None,
            accumulate=True,
        )
        steps, last = Steps(len(sizes), rows, sizes), [d[None] for d in d_last]
        self.engine.engine.backward(
            self.record.cell, self.weights, made, given, first, steps, dy, last, into, [*masks, *inputs]
        )
        return Back([d[0] for d in into.first if d is not None], into.norms or {}, into.x)

    def _taken(self, name: str, places: Tensor) -> Tensor:
        return self.arrays[name].index_select(0, places)

    def _first(self, state: str, before: Tensor | None, of: Tensor) -> Tensor:
        """The state before a block, (1, A, ·)."""
        if before is None:
            return self.record.first[state].detach().cpu().to(self.dtype)[of][None]
        return self._taken(state, before)[None]

    def when(self, steps: Tensor, of: Tensor) -> Tensor:
        """The step of its row that a step in the order of computation is, and the other way round; beyond the end of a
        row the same."""
        last = self.lengths[of] - 1
        return torch.where(steps > last, steps, last - steps) if self.record.reverse else steps

    def in_time(self, array: Tensor) -> Tensor:
        """(T, B, ·) of an array of all steps, zero beyond the end of a row."""
        T, B = self.places.shape
        step = torch.arange(T)[:, None].expand(T, B)
        there = step < self.lengths
        of_row = self.when(step, torch.arange(B))
        found = array.detach().cpu().flatten(0, -2)[self.places[of_row, torch.arange(B)]]
        return found.where(there[..., None], 0)


def reads_the_layer_below(layers: Sequence[Record], record: Record) -> bool:
    """Whether the input of a layer is what the layer below put out, untouched by dropout."""
    below = [other.h for other in layers if other.layer == record.layer - 1]
    return bool(below) and torch.equal(torch.cat(below, -1), record.x)


def _flat(array: Tensor, dtype: torch.dtype) -> Tensor:
    array = array.detach().cpu()
    return array.flatten(0, -2).to(dtype) if array.is_floating_point() else array.flatten()


class Origins(NamedTuple):
    """t and b, (P,): pairs of a step of a row and a row of the batch."""

    t: Tensor
    b: Tensor


NOTHING = -(1 << 20)
"""The exponent of zero."""


class Scaled(NamedTuple):
    """values (T, P, ·) at each step of the row of each pair, to be multiplied by 2**exponents, (T, P)."""

    values: Tensor
    exponents: Tensor


def sweep(
    layer: Layer, origins: Origins, at: Tensor, seeds: dict[str, Tensor], above: Scaled | None, *, dx: bool
) -> tuple[dict[str, Tensor], Scaled | None]:
    """log2 ‖∂L_t/∂·_k‖ of the output and each state, (P, T) by the step k of the row, NaN where the row has none; and
    with dx what goes to the layer below.

    at     (P,) the latest step, as this layer counts them, that receives anything
    seeds  (P, ·) of each state: what it receives there
    above  what the output receives at any step from the layers above
    """
    T, count = len(layer.places), len(origins.t)
    order = at.argsort(descending=True, stable=True)
    at, of = at[order], origins.b[order]
    places, steps = layer.places[:, of], torch.arange(T)[:, None]
    when = layer.when(steps, of).expand(T, count)
    squares = {name: torch.zeros(T, count, dtype=layer.dtype) for name in layer.named}
    exponents = torch.full((T, count), NOTHING)
    below = None
    if dx:
        below = Scaled(torch.zeros(T, count, layer.inputs, dtype=layer.dtype), torch.full((T, count), NOTHING))
    entering, exponent = scaled([seeds[state][order] for state in layer.states])
    widest, sizes = max(map(layer.width, layer.named)), (at >= steps).sum(1).tolist()
    carried, begun, stop, longest = layer.zeros(0), 0, int(at[0]) + 1, LONGEST
    while stop > 0:
        start = max(0, stop - max(1, min(longest, BLOCK // (widest * max(1, sizes[stop - 1])))))
        now, block = sizes[start], slice(start, stop)
        there = (at[:now] >= steps[block]).flatten()
        packed = slice(None) if sizes[stop - 1] == now else there
        d_last = [torch.cat([d, seed[begun:now]]) for d, seed in zip(carried, entering, strict=True)]
        dy, scale = None, exponent[:now]
        if above is not None:
            source = when[block, :now], order[:now]
            values, lacking = above.values[source], above.exponents[source]
            scale = scale.maximum(lacking.where(there.view(lacking.shape), NOTHING).amax(0))
            d_last = [times_power(d, exponent[:now] - scale) for d in d_last]
            dy = times_power(values, lacking - scale).flatten(0, 1)[packed]
        before = places[start - 1, :now] if start else None
        back = layer.back(
            sizes[block], places[block, :now].flatten()[packed], before, of[:now], d_last, dy=dy, norms=True, dx=dx
        )
        if stop - start > 1 and not _fits(back):
            longest = (stop - start) // 2
            continue
        exponents[block, :now] = scale
        for name, found in back.squares.items():
            squares[name][block, :now] = _unpacked(found, there, packed).view(-1, now)
        if below is not None and back.dx is not None:
            own = when[block, :now], order[:now]
            below.values[own] = _unpacked(back.dx, there, packed).view(-1, now, layer.inputs)
            below.exponents[own] = scale.where(there.view(-1, now), NOTHING)
        carried, shift = scaled(back.first)
        exponent[:now] = torch.where(shift == NOTHING, NOTHING, scale + shift)
        stop, begun, longest = start, now, min(LONGEST, longest + 1)
    column, own = order.argsort(), torch.arange(T).expand(count, T)
    step = layer.when(own, origins.b[:, None])
    beyond = own >= layer.lengths[origins.b][:, None]

    def laid_out(found: Tensor) -> Tensor:
        log2 = found.double().log2() / 2 + exponents
        return log2[step, column[:, None]].masked_fill(beyond, torch.nan)

    return {name: laid_out(found) for name, found in squares.items()}, below


def _unpacked(rows: Tensor, there: Tensor, packed: slice | Tensor) -> Tensor:
    """Packed rows with zeros where none is there."""
    if isinstance(packed, slice):
        return rows
    return rows.new_zeros(len(there), rows.shape[1]).masked_scatter(there[:, None], rows)


def scaled(of_states: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Rows with their largest entry between a half and one, and the exponents that they lack."""
    largest = torch.stack([d.abs().amax(1) for d in of_states]).amax(0)
    shift = largest.frexp().exponent.long()
    return [times_power(d, -shift) for d in of_states], shift.where(largest > 0, NOTHING)


def times_power(rows: Tensor, exponents: Tensor) -> Tensor:
    """Each row times a power of two."""
    return rows * torch.ldexp(rows.new_ones(exponents.shape), exponents)[..., None]


def _fits(back: Back) -> bool:
    """Whether every row has stayed well within the range of its numbers."""
    for squares in back.squares.values():
        tiny = torch.finfo(squares.dtype).tiny ** 0.5
        least, most = squares.where(squares != 0, 1).aminmax()
        if not tiny < float(least) <= float(most) < 1 / tiny:  # nor NaN
            return False
    return True
