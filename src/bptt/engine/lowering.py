"""Equations as a program of the compiled engine: expressions become vector operations on slots.

A slot is a value of one step; operations read slots and vectors, which are the same for all rows (native/program.hpp).
Products with the same left factors are made together; those of inputs need no state and are made ahead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeGuard

from torch import Tensor

from bptt.engine import _native
from bptt.engine.contract import Layout, Part, Place, length_at, places_of_sizes
from bptt.engine.evaluation import key_of
from bptt.engine.functions import EPSILON
from bptt.sheet import Cell
from bptt.sheet.derivation import ZERO, signed, times
from bptt.sheet.expressions import (
    Call,
    Cotangent,
    Expression,
    Name,
    Number,
    Over,
    Product,
    Size,
    Square,
    Sum,
    Times,
    Transposed,
    walk,
)

_OF = _native.Operation
_ENTRIES = {
    "tanh": _OF.tanh, "σ": _OF.sigmoid, "relu": _OF.relu, "exp": _OF.exp, "log": _OF.log, "sqrt": _OF.sqrt,
    "softplus": _OF.softplus, "abs": _OF.abs, "sign": _OF.sign, "max": _OF.larger, "min": _OF.smaller,
    "where_positive": _OF.where_positive, "where_at_least": _OF.where_at_least, "where_below": _OF.where_below,
    "where_inside": _OF.where_inside,
}  # fmt: skip
_ROWS = {"sum": _OF.sum, "mean": _OF.mean}
_WHOLE = {"sum", "mean", "identity", "clip", "scale_gradient", "softmax", "norm", "scale"}


class Taken(NamedTuple):
    """A tensor of a program.

    place       where it is in the list of all tensors of a call
    kind        "steps" (T, B, ·) or (N, ·), "rows" (B, ·), "vector" or "matrix"
    sizes       the sizes of its axes beside those of steps and rows
    is_written  whether it receives results
    blocks      how often the first size goes into its axis
    """

    place: int
    name: str
    kind: str
    sizes: tuple[int, ...]
    is_written: bool
    blocks: int = 1


@dataclass(frozen=True)
class Program:
    """A program, and how a call finds what it reads and writes.

    code   as the engine takes it
    takes  its tensors, in order
    sizes  of the sheet after "1", and where their lengths are
    made   arrays of all steps that a call makes to receive values, by name with their sizes
    last   sizes of what it makes for the last of each state
    """

    code: _native.Program
    takes: tuple[Taken, ...]
    sizes: tuple[tuple[str, tuple[Place, ...]], ...] = ()
    made: dict[str, int] = field(default_factory=dict)
    last: tuple[int, ...] = ()

    @cached_property
    def order(self) -> list[int]:
        return [taken.place for taken in self.takes]

    def lengths(self, given: Sequence[Tensor | None]) -> list[int]:
        """Of all sizes of the sheet, from the tensors of a call."""
        found = [1]
        for size, places in self.sizes:
            length = length_at(places, given)
            if length is None:
                raise ValueError(f"no tensor that is given says how long {size} is")
            found.append(length)
        return found


class _Ahead(NamedTuple):
    """The part of a sum that needs no state: products of inputs, "x" with "W_xh", and vectors."""

    products: tuple[tuple[str, str], ...]
    vectors: tuple[str, ...]


class _Member(NamedTuple):
    """A sum of products that one group has a slot for, and what it begins with."""

    terms: tuple[Product, ...]
    ahead: _Ahead | None


class Lowering:
    """Operands are slots, or vector k as -1 - k. `known` has those of expressions that are made already."""

    def __init__(self, cell: Cell, layout: Layout, *, back: bool = False) -> None:
        self.cell, self.layout, self.back = cell, layout, back
        self.known: dict[Expression, int] = {}
        self.sizes: list[str] = ["1"]
        self.slots: list[tuple[int, int, int]] = []
        self.groups: list[int] = []
        self.of_block: set[int] = set()  # groups
        self.instructions: list[tuple[_native.Operation, int, list[int]]] = []
        self.weights: dict[tuple[int, int, tuple[int, ...]], int] = {}
        self.products: list[list[tuple[int, int]]] = []
        self.ahead: list[tuple[int, list[list[int]], list[tuple[int, int]]]] = []
        self.carried: dict[str, tuple[int, int, int, int]] = {}
        self.gradients: list[tuple[int, bool, int, int, int]] = []
        self.after: list[tuple[int, list[tuple[int, int]]]] = []
        self.vectors: dict[Part | float | Size, int] = {}
        self.arrays: dict[str, str] = {}
        self.own: set[str] = set()  # arrays of a block
        self.rows: dict[str, str] = {}
        self.matrices: dict[tuple[str, bool], int] = {}
        self.results: dict[Part, tuple[int, int, bool]] = {}
        self.planned: dict[tuple[tuple[Expression, ...], str, tuple[str, ...]], list[_Member]] = {}
        self.sums: dict[_Member, int] = {}
        self.normed: dict[int, tuple[int, int]] = {}  # of an operand, what is left without its mean, and the scale
        self.stored: dict[str, str] = {}
        self.block: dict[int, int] = {}  # of a slot that is of a step its copy that is of a block

    def width(self, e: Expression) -> str:
        return "1" if isinstance(e, Call) and e.function == "scale" else self.cell.derivation.width(e)

    def size(self, width: str) -> int:
        if width not in self.sizes:
            self.sizes.append(width)
        return self.sizes.index(width)

    def size_of(self, operand: int) -> int:
        return self.slots[operand][0] if operand >= 0 else list(self.vectors.values())[-1 - operand]

    def slot(self, width: str, count: int = 1, *, of_block: bool = False) -> int:
        """The first of a new group."""
        first, group = len(self.slots), len(self.groups)
        self.of_block |= {group} if of_block else set()
        self.slots += [(self.size(width), group, place) for place in range(count)]
        self.groups.append(count)
        return first

    def vector(self, what: Part | float | Size, width: str = "1") -> int:
        self.vectors.setdefault(what, self.size(width))
        return -1 - list(self.vectors).index(what)

    def array(self, key: str, width: str) -> int:
        self.arrays.setdefault(key, width)
        return list(self.arrays).index(key)

    def of_rows(self, key: str, width: str) -> int:
        self.rows.setdefault(key, width)
        return list(self.rows).index(key)

    def carry(self, name: str, width: str, *, before: str | None = None) -> int:
        slot = self.slot(width)
        self.carried[name] = (slot, self.of_rows(before or f"first {name}", width), -1, -1)
        return slot

    def hand_on(self, name: str, e: Expression, last: str) -> None:
        """To the next step what it begins with, and to the rows that receive what the last one leaves."""
        width = self.cell.sheet.widths[name]
        slot, first, *_ = self.carried[name]
        operand = self.slot_of(e, width)
        if not self._is_alone(operand) or self._is_kept(operand):
            operand = self.do(_OF.copy, width, operand)
        self.carried[name] = (slot, first, operand, self.of_rows(last, width))

    def do(self, operation: _native.Operation, width: str, *read: int) -> int:
        to = self.slot(width)
        self.instructions.append((operation, to, [*read, *[read[0]] * 4][:4]))
        return to

    def entry(self, operation: _native.Operation, *read: int) -> int:
        size = max(map(self.size_of, read))
        return self.do(operation, self.sizes[size], *read)

    def loaded(self, key: str, width: str) -> int:
        return self.do(_OF.load, width, self.array(key, width))

    def store(self, slot: int, key: str) -> None:
        width = self.sizes[self.size_of(slot)]
        self.instructions.append((_OF.store, self.array(key, width), [slot, 0, 0, 0]))
        self.stored[key] = width

    def as_slot(self, operand: int, width: str) -> int:
        if operand < 0 or self.sizes[self.size_of(operand)] != width:
            return self.do(_OF.copy, width, operand)
        return operand

    def slot_of(self, e: Expression, width: str) -> int:
        return self.as_slot(self.value(e), width)

    def slot_of_block(self, e: Expression, width: str) -> int:
        """A slot that has the rows of all steps of a block."""
        slot = self.slot_of(e, width)
        group = self.slots[slot][1]
        if group not in self.of_block:
            if not self._is_alone(slot) or self._is_kept(slot):
                if slot not in self.block:
                    self.block[slot] = self.do(_OF.copy, width, slot)
                    self.of_block.add(self.slots[self.block[slot]][1])
                return self.block[slot]
            self.of_block.add(group)
        return slot

    def sum_up(self, name: str, result: Part) -> None:
        """The gradient of a parameter: the sum over the rows of all steps."""
        sheet, found = self.cell.sheet, self.cell.derivation
        shape = sheet.shapes.get(name)
        columns = self.size(shape[1] if shape else sheet.widths[name])
        self.results[result] = (self.size(shape[0]), columns, self.layout.transposed) if shape else (-1, columns, False)
        to = list(self.results).index(result)
        for sign, term in _terms(found.sent_by_steps(name)):
            match term:
                case Product(Transposed(left), right):
                    array, before, first = self._left(left)
                case Times((*factors, Product(Transposed(left), right))):
                    array, before, first = self._left(left)
                    right = times(*factors, right)
                case _:
                    array, before, first, right = -1, False, -1, term
            slot = self.slot_of_block(signed(sign, right), self.sizes[columns])
            self.gradients.append((array, before, first, slot, to))

    def _left(self, left: Expression) -> tuple[int, bool, int]:
        """The array of a left factor; whether it is that of the step before, with the rows before the first.

        Cotangents, masks and values that are made again are stored for the steps of a block.
        """
        width = self.width(left)
        match left:
            case Name(name, -1):
                return self.array(name, width), True, self.of_rows(f"first {name}", width)
            case Name(name, 0) if name not in self.cell.derivation.made_again:
                return self.array(name, width), False, -1
        key = f"{key_of(left)} of a block"
        if key not in self.own:
            self.own.add(key)
            self.store(self.slot_of(left, width), key)
            del self.stored[key]
        return self.array(key, width), False, -1

    def send_to_input(self, name: str) -> None:
        """B11."""
        width, sent_back = self.cell.sheet.widths[name], self.cell.derivation.sent_back(name, 0)
        factors = []
        for term in _terms(sent_back):
            match term:
                case 1, Product(Cotangent() as d, Transposed(Name(matrix))):
                    factors.append((d, self._matrix(matrix, is_transposed=True)))
        if sent_back == ZERO or len(factors) < len(_terms(sent_back)):
            return self.store(self.slot_of(sent_back, width), f"∂{name}")
        terms = []
        for d, matrix in factors:
            of = self.cell.derivation.widths[d.name]
            weight = self._weight(of, width, (matrix,))
            terms.append((self.slot_of_block(d, of), weight))
        self.after.append((self.array(f"∂{name}", width), terms))

    def value(self, e: Expression) -> int:
        if e not in self.known:
            self.known[e] = self._made(e)
        return self.known[e]

    def _made(self, e: Expression) -> int:
        sheet = self.cell.sheet
        match e:
            case Number(value):
                return self.vector(float(value))
            case Size():
                return self.vector(e)
            case Name(name, None):
                given = sheet.given.get(name)
                if given is not None and given.kind == "constant":
                    return self.vector(float(given.start or 0))
                if given is not None and given.kind in ("rows", "drop"):
                    return self.carry(name, sheet.widths[name], before=name)
                first, *more = (self.vector(part, sheet.widths[name]) for part in self.layout.made_of[name])
                for other in more:
                    first = self.entry(_OF.add, first, other)
                return first
            case Name(name, 0):
                if name in self.cell.derivation.made_again:
                    line = next(line for line in self.cell.derivation.steps if line.name == name)
                    return self.slot_of(line.value, self.cell.derivation.widths[name])
                return self.loaded(name, self.cell.derivation.widths.get(name) or sheet.widths[name])
            case Name(name, _):  # a state of the step before, on the way back
                width = sheet.widths[name]
                return self.do(_OF.previous, width, self.array(name, width), self.of_rows(f"first {name}", width))
            case Square(of):
                return self.entry(_OF.square, self.value(of))
            case Times((*d, Sum(((1, Number(1.0)), (-1, Square(y)))))) if d:
                return self.entry(_OF.through_tanh, self.value(times(*d)), self.value(y))
            case Times((*d, y, Sum(((1, Number(1.0)), (-1, again))))) if d and y == again:
                return self.entry(_OF.through_sigmoid, self.value(times(*d)), self.value(y))
            case Times(factors):
                first, *rest = map(self.value, factors)
                for factor in rest:
                    first = self.entry(_OF.multiply, first, factor)
                return first
            case Over(above, below):
                return self.entry(_OF.divide, self.value(above), self.value(below))
            case Sum() | Product():
                return self.total(e)
            case Call("scale") if self.back:
                return self.loaded(key_of(e), "1")
            case Call(function, arguments):
                name = function if function in _ENTRIES or function in _WHOLE else sheet.functions[function]
                return self._called(name, [self.value(a) for a in arguments])
        raise TypeError(e)

    def total(self, e: Expression, *others: int) -> int:
        """The sum of an expression and of operands that are made already."""
        member, rest = self._parts(e if isinstance(e, Sum) else Sum(_terms(e)))
        total = None
        if member.terms:
            total = self._products(member)
        elif member.ahead is not None:
            if member not in self.sums:
                self.sums[member] = self.slot(self.width(e), of_block=True)
                self._make_ahead(self.sums[member], [member.ahead], self.width(e))
            total = self.sums[member]
        for other in others:
            total = other if total is None else self.entry(_OF.add, total, other)
        for sign, term in rest:
            total = self._added(total, sign, term)
        return self.value(ZERO) if total is None else total

    def _added(self, total: int | None, sign: int, term: Expression) -> int:
        if total is None:
            operand = self.value(term)
            return operand if sign > 0 else self.entry(_OF.negative, operand)
        if isinstance(term, Times | Square) and term not in self.known:
            *factors, last = term.factors if isinstance(term, Times) else (term.of, term.of)
            first = self.value(factors[0] if len(factors) == 1 else Times(tuple(factors)))
            return self.entry(_OF.multiply_add if sign > 0 else _OF.multiply_subtract, first, self.value(last), total)
        return self.entry(_OF.add if sign > 0 else _OF.subtract, total, self.value(term))

    def _called(self, name: str, read: list[int]) -> int:
        if name in _ENTRIES:
            return self.entry(_ENTRIES[name], *read)
        a = read[0]
        if name in _ROWS:
            return self._of_row(_ROWS[name], a)
        if name in ("identity", "scale_gradient"):
            return a
        if name == "clip":
            return self.entry(_OF.smaller, read[2], self.entry(_OF.larger, read[1], a))
        if name == "softmax":
            powers = self.entry(_OF.exp, self.entry(_OF.subtract, a, self._of_row(_OF.largest, a)))
            return self.entry(_OF.divide, powers, self._of_row(_OF.sum, powers))
        if a not in self.normed:
            centred = self.entry(_OF.subtract, a, self._of_row(_OF.mean, a))
            variance = self._of_row(_OF.mean, self.entry(_OF.square, centred))
            deviation = self.entry(_OF.sqrt, self.entry(_OF.add, variance, self.vector(EPSILON)))
            self.normed[a] = centred, self.entry(_OF.divide, self.vector(1.0), deviation)
        centred, scale = self.normed[a]
        return {"scale": lambda: scale, "norm": lambda: self.entry(_OF.multiply, centred, scale)}[name]()

    def _of_row(self, operation: _native.Operation, a: int) -> int:
        return a if self.size_of(a) == 0 else self.do(operation, "1", a)

    def _parts(self, e: Sum) -> tuple[_Member, list[tuple[int, Expression]]]:
        """What one product makes of a sum, with what it begins with, and the rest."""
        inputs, terms, ahead, rest = () if self.back else self.cell.sheet.inputs, [], [], []
        for sign, term in e.terms:
            match term:
                case Product(Name(left, 0), Name(matrix)) if sign > 0 and left in inputs:
                    ahead.append((left, matrix))
                case Product() if sign > 0:
                    terms.append(term)
                case _:
                    rest.append((sign, term))
        if not ahead:
            return _Member(tuple(terms), None), rest
        vectors = [term.name for sign, term in rest if sign > 0 and self._is_vector(term, self.width(e))]
        left = [(sign, term) for sign, term in rest if sign < 0 or not self._is_vector(term, self.width(e))]
        return _Member(tuple(terms), _Ahead(tuple(ahead), tuple(vectors))), left

    def _is_vector(self, e: Expression, width: str) -> TypeGuard[Name]:
        if not isinstance(e, Name) or e.step is not None or self.cell.sheet.widths.get(e.name) != width:
            return False
        given = self.cell.sheet.given.get(e.name)
        return given is None or given.kind not in ("constant", "rows", "drop")

    def _make_ahead(self, to: int, together: list[_Ahead], width: str) -> None:
        """Of each slot of a group; the products have the same left factors."""
        made_of = self.layout.made_of
        vectors = [[self.vector(p, width) for name in ahead.vectors for p in made_of[name]] for ahead in together]
        terms = []
        for j, (left, _) in enumerate(together[0].products):
            rows = self.cell.sheet.widths[left]
            matrices = tuple(self._matrix(ahead.products[j][1]) for ahead in together)
            terms.append((self.array(left, rows), self._weight(rows, width, matrices)))
        self.ahead.append((to, [[-1 - vector for vector in each] for each in vectors], terms))

    def plan(self, expressions: Iterable[Expression]) -> None:
        """Which sums of products have the same left factors, so that they are made together."""
        for whole in expressions:
            within: set[Expression] = set()
            for e in walk(whole):
                if isinstance(e, Sum):
                    within |= {term for _, term in e.terms}
                elif not isinstance(e, Product) or e in within:
                    continue
                member, _ = self._parts(e if isinstance(e, Sum) else Sum(((1, e),)))
                same = self.planned.setdefault(self._lefts(member), [])
                if member.terms and member not in same:
                    same.append(member)

    def _lefts(self, member: _Member) -> tuple[tuple[Expression, ...], str, tuple[str, ...]]:
        """Of a sum that is made together with others of the same."""
        lefts = tuple(term.left for term in member.terms)
        ahead = member.ahead.products if member.ahead is not None else ()
        return lefts, self.width(member.terms[0]) if lefts else "", tuple(left for left, _ in ahead)

    def _products(self, member: _Member) -> int:
        if member in self.sums:
            return self.sums[member]
        lefts, width, _ = self._lefts(member)
        together = self.planned.get(self._lefts(member), [])
        together = together if member in together else [member]
        factors = []
        for j, left in enumerate(lefts):
            matrices = []
            for of in together:
                right = of.terms[j].right
                name = right.of if isinstance(right, Transposed) else right
                assert isinstance(name, Name)
                matrices.append(self._matrix(name.name, is_transposed=isinstance(right, Transposed)))
            rows = self.width(left)
            factors.append((self.slot_of(left, rows), self._weight(rows, width, tuple(matrices))))
        ahead = [of.ahead for of in together if of.ahead is not None]
        to = self.slot(width, len(together), of_block=bool(ahead))
        if ahead:
            self._make_ahead(to, ahead, width)
        operation = _OF.add_product if ahead else _OF.product
        self.instructions.append((operation, to, [len(self.products), 0, 0, 0]))
        self.products.append(factors)
        self.sums |= {of: to + place for place, of in enumerate(together)}
        return self.sums[member]

    def _matrix(self, name: str, *, is_transposed: bool = False) -> int:
        return self.matrices.setdefault((name, is_transposed), len(self.matrices))

    def _weight(self, rows: str, columns: str, matrices: tuple[int, ...]) -> int:
        return self.weights.setdefault((self.size(rows), self.size(columns), matrices), len(self.weights))

    def program(self, call: list[str], made: dict[str, str], last: Iterable[str] = ()) -> Program:
        """call: names of the tensors of a call, in order. made and last: as `Program` has them."""
        place = self._shared()
        numbers = [what for what in self.vectors if not isinstance(what, Part)]
        vectors = [what for what in self.vectors if isinstance(what, Part)]
        of_vector = {k: [*numbers, *vectors].index(what) for k, what in enumerate(self.vectors)}
        first: dict[int, int] = {}  # of the slots that stay, by those that were
        slots: list[tuple[int, int, int]] = []
        groups: list[tuple[int, bool]] = []
        for slot, (size, group, number) in enumerate(self.slots):
            if place[slot] == slot:
                if number == 0:
                    groups.append((self.groups[group], group in self.of_block))
                first[slot] = len(slots)
                slots.append((size, len(groups) - 1, number))
        of = [first[place[slot]] for slot in range(len(self.slots))]
        shapes, of_matrices = self.cell.sheet.shapes, [self.layout.made_of[name][0] for name, _ in self.matrices]
        matrices: list[tuple[int, int, bool, int, int]] = []
        for (name, is_transposed), part in zip(self.matrices, of_matrices, strict=True):
            rows, columns = (self.size(width) for width in shapes[name])
            lies_transposed = is_transposed != self.layout.transposed
            shape = (columns, rows) if is_transposed else (rows, columns)
            matrices.append((*shape, lies_transposed, part.block, part.blocks))
        results = [(*shape, part.block, part.blocks) for part, shape in self.results.items()]
        code = _native.Program(
            back=self.back,
            sizes=len(self.sizes),
            slots=slots,
            groups=groups,
            instructions=[
                (operation, to if operation == _OF.store else of[to], [
                    k if n >= _reads(operation) else of[k] if k >= 0 else -1 - of_vector[-1 - k]
                    for n, k in enumerate(read)
                ])
                for operation, to, read in self.instructions
            ],
            weights=list(self.weights),
            products=[[(of[left], weight) for left, weight in factors] for factors in self.products],
            ahead=[
                (of[to], [[of_vector[k] for k in each] for each in vectors_], terms)
                for to, vectors_, terms in self.ahead
            ],
            carried=[
                (of[own], begin, next if next < 0 else of[next], end)
                for own, begin, next, end in self.carried.values()
            ],
            gradients=[(left, before, begin, of[right], to) for left, before, begin, right, to in self.gradients],
            after=[(to, [(of[left], weight) for left, weight in terms]) for to, terms in self.after],
            numbers=[(0.0, self.size(what.name)) if isinstance(what, Size) else (what, -1) for what in numbers],
            vectors=[(self.vectors[part], part.block, part.blocks) for part in vectors],
            arrays=[(self.size(width), key in self.own) for key, width in self.arrays.items()],
            rows=[self.size(width) for width in self.rows.values()],
            matrices=matrices,
            results=results,
        )  # fmt: skip
        names, received = self.layout.names, [f"∂{self.layout.names[part.tensor]}" for part in self.results]
        taken: list[tuple[str, str, tuple[int, ...], int]] = []
        taken += [(key, "steps", (self.size(width),), 1) for key, width in self.arrays.items() if key not in self.own]
        taken += [(key, "rows", (self.size(width),), 1) for key, width in self.rows.items()]
        taken += [(names[part.tensor], "vector", (self.vectors[part],), part.blocks) for part in vectors]
        for key, (rows, columns, is_transposed, _, blocks) in zip(
            [*(names[part.tensor] for part in of_matrices), *received], [*matrices, *results], strict=True
        ):
            sizes = (columns,) if rows < 0 else (columns, rows) if is_transposed else (rows, columns)
            taken.append((key, "matrix", sizes, blocks))
        written = {*received, *self.stored, *(list(self.arrays)[to] for to, _ in self.after)}
        written |= {list(self.rows)[last] for *_, last in self.carried.values() if last >= 0}
        takes = tuple(
            Taken(call.index(key), key, kind, sizes, key in written, blocks) for key, kind, sizes, blocks in taken
        )
        where = dict(places_of_sizes(self.cell, self.layout))
        sizes = tuple((size, where.get(size, ())) for size in self.sizes[1:])
        made_here = {key: self.size(width) for key, width in made.items()}
        return Program(code, takes, sizes, made_here, tuple(map(self.size, last)))

    def _shared(self) -> list[int]:
        """For each slot the one whose place it takes: one that nobody reads any more, so that few places stay in use.

        What a product reads keeps its own, since the columns of a result are made piece by piece; so does what lasts
        from step to step, has the rows of a block, or may be read where it lies in memory.
        """
        last: dict[int, int] = {}
        for k, (operation, _, read) in enumerate(self.instructions):
            last |= {slot: k for slot in read[: _reads(operation)] if slot >= 0}
        stays = {left for factors in self.products for left, _ in factors}
        stays |= {slot for slot, (_, group, _) in enumerate(self.slots) if group in self.of_block}
        stays |= {to for operation, to, _ in self.instructions if operation == _OF.load}  # may be read where it lies
        stays |= {slot for own, _, next, _ in self.carried.values() for slot in (own, next)}
        place, free = list(range(len(self.slots))), {size: list[int]() for size in range(len(self.sizes))}
        begun: set[int] = set()
        for k, (operation, to, read) in enumerate(self.instructions):
            for slot in {slot for slot in read[: _reads(operation)] if slot >= 0 and last[slot] == k}:
                if self._is_alone(slot) and slot not in stays:
                    free[self.slots[slot][0]].append(place[slot])
            if operation == _OF.store or to in begun:
                continue
            begun.add(to)
            size = self.slots[to][0]
            if self._is_alone(to) and to not in stays and to in last and free[size]:
                place[to] = free[size].pop()
        return place

    def _is_alone(self, slot: int) -> bool:
        return self.groups[self.slots[slot][1]] == 1

    def _is_kept(self, slot: int) -> bool:
        """Whether it has a place of its own beyond this step."""
        return self.slots[slot][1] in self.of_block or any(
            slot in (own, next) for own, _, next, _ in self.carried.values()
        )


def _terms(e: Expression) -> tuple[tuple[int, Expression], ...]:
    return () if e == ZERO else e.terms if isinstance(e, Sum) else ((1, e),)


def _reads(operation: _native.Operation) -> int:
    """How many of the numbers of an instruction are what it reads of slots and vectors."""
    if operation in (_OF.load, _OF.previous, _OF.product, _OF.add_product):
        return 0
    return 1 if operation == _OF.store else 4
