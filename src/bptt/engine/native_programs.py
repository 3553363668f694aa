"""Any cell on the compiled engine: its program is run at every step (`programs`), forward and back.

Products of inputs before the sweep, with few rows, and the gradients of parameters and inputs after it go over the rows
of all steps at once (native/dense.hpp).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from bptt.engine import _native, programs, reference
from bptt.engine.all_steps import AllSteps
from bptt.engine.arrays import (
    address,
    address_of,
    check_storage,
    check_tokens,
    matrix_of,
    packing_of,
    precision_of,
    require,
    require_output,
)
from bptt.engine.contract import Gradients, Made, Signature, Weights, sizes_of
from bptt.engine.evaluation import SIZE, gathered, key_of
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.expressions import Cotangent, Expression, Name, Product, Size, Sum, Transposed, walk

ROWS_WORTH_A_PRODUCT = 8
"""With fewer rows weights are used too seldom for each time that they are read: products of inputs are then made for
all steps at once."""
LARGE = 2 << 20
"""Bytes of an array for which large pages are asked."""


def forward(
    cell: Cell,
    weights: Weights,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    extras: Sequence[Tensor],
    *,
    out: Tensor | None,
    values: bool,
    keep: bool,
) -> Made:
    signature, widths = Signature.of(cell), cell.sheet.widths
    layer = _Layer(cell, weights, x, first, steps, extras)
    few = steps.B < ROWS_WORTH_A_PRODUCT
    program = programs.forward(cell, every_value=values, keep=keep, ahead=few or not x.is_floating_point())
    like, length = layer.like, layer.length
    ahead = layer.ahead(program)
    arrays = ahead | layer.inputs
    shape = (*steps.rows, length[widths[signature.output]])
    if out is not None:
        arrays[signature.output] = require_output("out", out, like.dtype, shape)
    for key, width in program.arrays.items():
        if key not in arrays:
            arrays[key] = _fresh(like, *steps.rows, length[width])
    last = {name: like.new_empty(1, steps.B, length[widths[name]]) for name in signature.states}
    layer.run(program, arrays, {f"last {name}": array for name, array in last.items()}, ahead, back=False)
    kept = tuple(arrays[key_of(e)] for e in signature.kept) if keep else ()
    known = {line.name: arrays[line.name] for line in cell.derivation.steps} if values else None
    return Made(arrays[signature.output], tuple(last.values()), kept, known)


def backward(
    cell: Cell,
    weights: Weights,
    made: Made,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    dy: Tensor | None,
    d_last: Sequence[Tensor | None],
    into: Gradients,
    extras: Sequence[Tensor],
) -> None:
    signature, widths, like = Signature.of(cell), cell.derivation.widths, made.y
    layer = _Layer(cell, weights, x, first, steps, extras, made)
    asked = {name for name, at in weights.layout.made_of.items() if any(into.weights[k] is not None for k in at)}
    inputs = [n for n, d in zip(("x", *signature.inputs), (into.x, *into.inputs), strict=False) if d is not None]
    stored = frozenset(line.name for line in cell.derivation.steps)
    if into.cotangents is None:
        stored = _read_after(cell, frozenset(asked), tuple(inputs))
    program = programs.backward(cell, stored)
    ordered = [line.name for line in cell.derivation.steps if line.name in stored]
    columns = [layer.length[widths[name]] for name in ordered]
    side_by_side = _fresh(like, sum(steps.rows_of_steps), sum(columns))
    cotangents = dict(zip(ordered, side_by_side.split(columns, -1), strict=True))
    stored_as = {f"∂{name}": d for name, d in cotangents.items()}
    arrays = layer.inputs | layer.kept | {programs.DIRECT: dy} | stored_as
    rows = {f"∂last {name}": d for name, d in zip(signature.states, d_last, strict=True)}
    rows |= {f"∂{name}": d for name, d in zip(signature.states, into.first, strict=True)}
    if not into.own:
        layer.check(into, weights)
    layer.run(program, arrays, rows, stored_as, back=True)
    if into.cotangents is not None:
        into.cotangents.update({name: d.contiguous().view(*steps.rows, d.shape[1]) for name, d in cotangents.items()})
    env = AllSteps(cell, weights, made, x, first, steps, extras)
    env |= {(f"∂{name}", 0): d for name, d in cotangents.items()}
    after = _AfterSweep(layer, env, side_by_side, dict(zip(ordered, columns, strict=True)))
    for name, array in zip(("x", *signature.inputs), (into.x, *into.inputs), strict=False):
        if array is not None:
            array.copy_(after.of_input(name).expand(array.shape[:-1].numel(), -1).view(array.shape))
    into.receive(weights.layout, after.of_parameters(asked))


class _Layer:
    """The tensors of a call that both ways read."""

    def __init__(
        self,
        cell: Cell,
        weights: Weights,
        x: Tensor,
        first: Sequence[Tensor | None],
        steps: Steps,
        extras: Sequence[Tensor],
        made: Made | None = None,
    ) -> None:
        signature = Signature.of(cell)
        self.cell, self.steps = cell, steps
        like = next((tensor for tensor in weights.tensors if tensor is not None), x)
        self.like, self.precision = like, precision_of("weights", like.dtype)
        self.length = sizes_of(cell, weights, x, first)
        for name, tensor in zip(weights.layout.names, weights.tensors, strict=True):
            self._check_storage(name, tensor)  # some are read by operations of torch
        self.given = weights.by_name()
        self.inputs: dict[str, Any] = {"x": x} | dict(
            zip(signature.inputs, extras[len(signature.masks) :], strict=True)
        )
        self.masks = dict(zip(signature.masks, extras, strict=False))
        self.rows: dict[str, Tensor | None] = dict(zip(signature.states, first, strict=True)) | self.masks
        self.kept: dict[str, Any] = {}
        if made is not None:
            keys = [signature.output, *map(key_of, signature.kept)]
            self.kept = dict(zip(keys, (made.y, *made.kept), strict=True))
        for name, tensor in (*self.inputs.items(), *self.rows.items(), *self.kept.items()):
            self._check_storage(name, tensor)
        self.sizes, self.leading = packing_of("x", x, steps)
        for name, array in self.inputs.items():
            if array.shape[: array.dim() - array.is_floating_point()] != self.leading:
                raise ValueError(
                    f"`{name}` must have the rows of all steps, {self.leading}, in front; got {tuple(array.shape)}"
                )

    def _check_storage(self, name: str, tensor: Tensor | None) -> None:
        if tensor is not None and not self.precision.address(tensor, tensor.shape):  # what is usual is quick to ask
            check_storage(**{name: tensor})

    def check(self, into: Gradients, weights: Weights) -> None:
        """The arrays that receive gradients."""
        signature, dtype, sheet = Signature.of(self.cell), self.like.dtype, self.cell.sheet
        for name, d in zip(signature.states, into.first, strict=True):
            if d is not None:
                require_output(f"∂{name}", d, dtype, (1, self.steps.B, self.length[sheet.widths[name]]))
        for name, d in zip(("x", *signature.inputs), (into.x, *into.inputs), strict=False):
            if d is not None:
                require_output(f"∂{name}", d, dtype, (*self.steps.rows, self.length[sheet.widths[name]]))
        for name, of, d in zip(weights.layout.names, weights.tensors, into.weights, strict=True):
            if d is not None:
                shape = d.shape if of is None else of.shape
                require_output(f"∂{name}", d, dtype, tuple(shape), strided=True)

    def ahead(self, program: programs.Program) -> dict[str, Any]:
        """The parts of sums that need no state."""
        found: dict[str, Any] = {}
        for key, ahead in program.ahead.items():
            columns, vectors = self.length[program.arrays[key]], [self.given[name] for name in ahead.vectors]
            start = sum(vectors[1:], vectors[0]) if vectors else None
            terms = [(self.inputs[left], self.given[name]) for left, name in ahead.products]
            tokens = [(x, W) for x, W in terms if not x.is_floating_point()]
            terms = [(x.flatten(0, -2), W) for x, W in terms if x.is_floating_point()]
            found[key] = self.multiply(terms, start, columns)
            for x, W in tokens:
                require("right", W, self.like.dtype, (len(W), columns), strided=True)
                check_tokens(x, len(W))
                found[key] += gathered(x.flatten(), W)
        return found

    def multiply(self, terms: Sequence[tuple[Tensor, Tensor]], start: Tensor | None, columns: int) -> Tensor:
        """start, the same for all rows, and the sum of products (N, columns) over the rows of all steps."""
        N = sum(self.steps.rows_of_steps)
        made, held = self.like.new_empty(N, columns), list[Tensor]()
        self.precision.multiply(
            N,
            columns,
            [(W.shape[0], self._strided("left", x, held), self._strided("right", W, held)) for x, W in terms],
            address_of("start", start, self.precision, (columns,), held),
            (address(made), columns, 1),
            torch.get_num_threads(),
        )
        return made

    def sum_up(self, lefts: Sequence[tuple[Tensor, int]], d: Tensor) -> tuple[list[Tensor], Tensor]:
        """leftᵀ d over the rows of all steps for each left, which may be tokens, with the number of its columns; and
        the sum of the rows of d."""
        (N, columns), held = d.shape, list[Tensor]()
        total, made, given = self.like.new_empty(columns), [], []
        for left, rows in lefts:
            product, numbers, tokens = self.like.new_empty(rows, columns), left, None
            if not left.is_floating_point():
                numbers, tokens = None, left.to(torch.int64).contiguous()
                held.append(tokens)
            at = address_of("left", numbers, self.precision, (N, rows), held)
            given.append((rows, at, address(tokens), (address(product), columns, 1)))
            made.append(product)
        self.precision.sum_up(
            N, columns, given, self._strided("right", d, held), address(total), torch.get_num_threads()
        )  # fmt: skip
        return made, total

    def _strided(self, name: str, array: Tensor, held: list[Tensor]) -> tuple[int, int, int]:
        return matrix_of(name, array, self.precision, (array.shape[0], array.shape[1]), held)

    def run(
        self,
        program: programs.Program,
        arrays: Mapping[str, Tensor | None],
        rows: Mapping[str, Tensor | None],
        own: Iterable[str],
        *,
        back: bool,
    ) -> None:
        """own: the names of arrays that were made for this, which may be columns of another."""
        steps, length, precision = self.steps, self.length, self.precision
        sizes, leading = self.sizes, self.leading
        held: list[Tensor] = []

        def at(name: str, array: Tensor | None, shape: tuple[int, ...]) -> int:
            return address_of(name, array, precision, shape, held)

        def side_by_side(name: str, width: int) -> tuple[int, int, int]:
            array = arrays[name]
            if array is not None and name in own:
                return address(array), array.stride(-2), 1
            return at(name, array, (*leading, width)), width, 1

        all_rows = self.rows | dict(rows)
        of_rows = []
        for key, width in program.rows.items():
            array = all_rows[key]
            of_rows.append(at(key, array, (*[1] * (array is not None and array.dim() == 3), steps.B, length[width])))
        numbers = [float(length[what.name]) if isinstance(what, Size) else what for what in program.numbers]
        in_memory = torch.tensor(numbers, dtype=self.like.dtype, device="cpu")
        first = address(in_memory) if numbers else 0
        vectors = [first + k * in_memory.element_size() for k in range(len(numbers))]
        vectors += [at(name, self.given[name], (length[self.cell.sheet.widths[name]],)) for name in program.vectors]
        matrices = []
        for name, is_transposed in program.matrices:
            rows_of, columns_of = self.cell.sheet.shapes[name]
            shape = length[rows_of], length[columns_of]
            begin, row, column = matrix_of(name, self.given[name], precision, shape, held)
            matrices.append((begin, column, row) if is_transposed else (begin, row, column))
        precision.run(
            program.code, steps.T, steps.B, address(sizes), steps.reverse, back,
            [length[size] for size in program.sizes],
            [side_by_side(key, length[width]) for key, width in program.arrays.items()],
            of_rows, vectors, matrices, torch.get_num_threads(),
        )  # fmt: skip


def _fresh(like: Tensor, *shape: int) -> Tensor:
    array = like.new_empty(*shape)
    if array.nbytes >= LARGE:
        _native.prefer_large_pages(address(array), array.nbytes)
    return array


@lru_cache
def _read_after(cell: Cell, parameters: frozenset[str], inputs: tuple[str, ...]) -> frozenset[str]:
    """The values whose cotangents these parameters and inputs read."""
    each = [cell.derivation.sent_by_steps(name) for name in parameters]
    each += [cell.derivation.sent_back(name, 0) for name in inputs]
    return frozenset(part.name for e in each for part in walk(e) if isinstance(part, Cotangent))


def _terms(e: Expression) -> Sequence[tuple[int, Expression]]:
    return e.terms if isinstance(e, Sum) else ((1, e),)


class _AfterSweep:
    """The gradients of parameters and inputs, from cotangents of all steps that lie side by side.

    columns: how wide each is, in their order.
    """

    def __init__(self, layer: _Layer, env: AllSteps, side_by_side: Tensor, columns: Mapping[str, int]) -> None:
        self.layer, self.env, self.side_by_side, self.columns = layer, env, side_by_side, columns

    def of_parameters(self, asked: set[str]) -> dict[str, Tensor]:
        """B8, B9, B10: cotangents that meet the same left factor by one product."""
        cell, env = self.layer.cell, self.env
        of_left: dict[Name | None, dict[str, None]] = {}
        of_name: dict[str, list[tuple[Name | None, str]]] = {}
        for name in asked:
            found: list[tuple[Name | None, str]] = []
            terms = _terms(cell.derivation.sent_by_steps(name))
            for term in terms:
                match term:
                    case 1, Product(Transposed(Name() as left), Cotangent(value)):
                        found.append((left, value))
                    case 1, Cotangent(value) if cell.derivation.widths[value] == cell.sheet.widths.get(name):
                        found.append((None, value))
            if len(found) == len(terms):
                of_name[name] = found
                for left, value in found:
                    of_left.setdefault(left, {})[value] = None
        made = reference.of_parameters(cell, env, asked - of_name.keys())
        sums: dict[tuple[Name | None, str], Tensor] = {}
        for group in [of_left] if self._have_most_in_common(of_left) else [{left: of_left[left]} for left in of_left]:
            d, places = self._beside_each_other({value: None for values in group.values() for value in values})
            lefts = [left for left in group if left is not None]
            products, total = self.layer.sum_up(
                [(env[left.name, left.step], env[cell.derivation.widths[left.name], SIZE]) for left in lefts], d
            )
            whole = dict(zip(lefts, products, strict=True)) | {None: total}
            for left, values in group.items():
                sums |= {(left, value): whole[left].narrow(-1, *places[value]) for value in values}
        for name, found in of_name.items():
            first, *others = [sums[part] for part in found]
            made[name] = sum(others, first)
        return made

    def of_input(self, name: str) -> Tensor:
        """B11."""
        cell, env, factors = self.layer.cell, self.env, []
        terms = _terms(cell.derivation.sent_back(name, 0))
        for term in terms:
            match term:
                case 1, Product(Cotangent(value), Transposed(Name(matrix))):
                    factors.append((env[f"∂{value}", 0], env[matrix, None].mT))
        if len(factors) < len(terms):
            return reference.of_input(cell, env, name)
        return self.layer.multiply(factors, None, env[cell.sheet.widths[name], SIZE])

    def _have_most_in_common(self, of_left: Mapping[Name | None, Iterable[str]]) -> bool:
        """Whether one walk over the cotangents of all left factors is less than one for each."""
        each = [set(values) for left, values in of_left.items() if left is not None]
        if not each:
            return False
        asked = sum(self.columns[value] for values in each for value in values)
        union = sum(self.columns[value] for value in set[str]().union(*each))
        return 3 * len(each) * union <= 4 * asked

    def _beside_each_other(self, values: Iterable[str]) -> tuple[Tensor, dict[str, tuple[int, int]]]:
        """Cotangents in one array, and where each begins and how wide it is."""
        places = self._places(self.columns)
        own = {value: places[value] for value in values}
        first, last = min(begin for begin, _ in own.values()), max(map(sum, own.values()))
        if 3 * (last - first) <= 4 * sum(width for _, width in own.values()):  # others cost less than a copy
            places = {value: (begin - first, width) for value, (begin, width) in own.items()}
            return self.side_by_side[:, first:last], places
        together = torch.cat([self.env[f"∂{value}", 0] for value in own], -1)
        return together, self._places({value: self.columns[value] for value in own})

    @staticmethod
    def _places(columns: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        ends = accumulate(columns.values())
        return {value: (end - width, width) for (value, width), end in zip(columns.items(), ends, strict=True)}
