"""Both ways of a cell as programs of the compiled engine: its equations, and their derivation, as vector operations.

A slot is a value of one step; operations read slots and vectors, which are the same for all rows (native/program.hpp).
Products with the same left factors are made together. Products of inputs need no state and are arrays of all steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from bptt.engine import _native
from bptt.engine.contract import Signature
from bptt.engine.evaluation import key_of
from bptt.engine.functions import EPSILON
from bptt.sheet import Cell
from bptt.sheet.derivation import ZERO
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
_WHOLE = {"sum", "mean", "identity", "clip", "softmax", "norm", "scale"}
DIRECT = "∂y from outside"


class Ahead(NamedTuple):
    """The part of a sum that needs no state: products of inputs, "x" with "W_xh", and vectors."""

    products: tuple[tuple[str, str], ...]
    vectors: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A program and what its arrays are, in order.

    code      as the engine takes it
    sizes     of the sheet, the first "1"
    arrays    of all steps: values by their name, "∂h" a cotangent; ahead: those that are made before the sweep
    rows      (B, ·): states "h" before the first step and "last h" at the end, "∂h" the cotangents of both; masks
    numbers   and sizes as numbers, which stand before the vectors; vectors are parameters by name
    matrices  by name, and whether transposed
    """

    code: _native.Program
    sizes: tuple[str, ...]
    arrays: dict[str, str]
    ahead: dict[str, Ahead]
    rows: dict[str, str]
    numbers: tuple[float | Size, ...]
    vectors: tuple[str, ...]
    matrices: tuple[tuple[str, bool], ...]


@lru_cache
def forward(cell: Cell, *, every_value: bool, keep: bool, ahead: bool) -> Program:
    """Side A of a step. Stored are the output, with keep what the way back reads, and with every_value all values.

    ahead: products of inputs are arrays that are given; else the program makes them.
    """
    found, signature, make = cell.derivation, Signature.of(cell), _Lowering(cell, ahead=ahead)
    for name in signature.states:
        make.known[Name(name, -1)] = make.carry(name, cell.sheet.widths[name])
    make.plan(line.value for line in found.steps)
    for line in found.steps:
        make.known[Name(line.name, 0)] = make.slot_of(line.value, found.widths[line.name])
    for name in [line.name for line in found.steps] if every_value else [signature.output]:
        make.store(make.known[Name(name, 0)], name)
    for e in signature.kept if keep else ():
        key = key_of(e)
        if key not in make.stored:
            make.store(make.slot_of(e, make.width(e)), key)
    for name in signature.states:
        make.hand_on(name, Name(name, 0), f"last {name}")
    return make.program()


@lru_cache
def backward(cell: Cell, stored: frozenset[str]) -> Program:
    """Side B of a step. Stored are the cotangents of the values with these names."""
    found, sheet, signature, make = cell.derivation, cell.sheet, Signature.of(cell), _Lowering(cell, back=True)
    future = {name: make.carry(name, sheet.widths[name], before=f"∂last {name}") for name in signature.states}
    lines = list(reversed(found.steps))
    make.plan([found.sent_back(line.name, 0) for line in lines] + [found.sent_back(n, -1) for n in signature.states])
    for line in lines:
        width, sent_back = found.widths[line.name], found.sent_back(line.name, 0)
        terms = [make.loaded(DIRECT, width)] if line.name == signature.output else []
        terms += [make.value(sent_back)] if sent_back != ZERO else []
        terms += [future[line.name]] if line.name in future else []
        total = terms[0] if terms else make.value(ZERO)
        for term in terms[1:]:
            total = make.entry(_OF.add, total, term)
        make.known[Cotangent(line.name, 0)] = make.as_slot(total, width)
        if line.name in stored:
            make.store(make.known[Cotangent(line.name, 0)], f"∂{line.name}")
    for name in signature.states:
        make.hand_on(name, found.sent_back(name, -1), f"∂{name}")
    return make.program()


class _Member(NamedTuple):
    """A sum of products that one group has a slot for, and what it begins with."""

    terms: tuple[Product, ...]
    ahead: Ahead | None


class _Lowering:
    """Operands are slots, or vector k as -1 - k. `known` has those of expressions that are made already."""

    def __init__(self, cell: Cell, *, ahead: bool = False, back: bool = False) -> None:
        self.cell, self.back = cell, back
        self.inputs_ahead = cell.sheet.inputs if ahead else ()
        self.known: dict[Expression, int] = {}
        self.sizes: list[str] = ["1"]
        self.slots: list[tuple[int, int, int]] = []
        self.groups: list[int] = []
        self.instructions: list[tuple[_native.Operation, int, list[int]]] = []
        self.weights: dict[tuple[int, int, tuple[int, ...]], int] = {}
        self.products: list[list[tuple[int, int]]] = []
        self.carried: dict[str, tuple[int, int, int, int]] = {}
        self.vectors: dict[str | float | Size, int] = {}
        self.arrays: dict[str, str] = {}
        self.rows: dict[str, str] = {}
        self.matrices: dict[tuple[str, bool], int] = {}
        self.ahead: dict[str, Ahead] = {}
        self.planned: dict[tuple[tuple[Expression, ...], str], list[_Member]] = {}
        self.made: dict[_Member, int] = {}
        self.normed: dict[int, tuple[int, int]] = {}  # of an operand, what is left without its mean, and the scale
        self.stored: set[str] = set()

    def width(self, e: Expression) -> str:
        return "1" if isinstance(e, Call) and e.function == "scale" else self.cell.derivation.width(e)

    def size(self, width: str) -> int:
        if width not in self.sizes:
            self.sizes.append(width)
        return self.sizes.index(width)

    def size_of(self, operand: int) -> int:
        return self.slots[operand][0] if operand >= 0 else list(self.vectors.values())[-1 - operand]

    def slot(self, width: str, count: int = 1) -> int:
        """The first of a new group."""
        first, group = len(self.slots), len(self.groups)
        self.slots += [(self.size(width), group, place) for place in range(count)]
        self.groups.append(count)
        return first

    def vector(self, what: str | float | Size, width: str = "1") -> int:
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
        self.carried[name] = (slot, self.of_rows(before or name, width), -1, -1)
        return slot

    def hand_on(self, name: str, e: Expression, last: str) -> None:
        """To the next step what it begins with, and to the rows that receive what the last one leaves."""
        width = self.cell.sheet.widths[name]
        slot, first, *_ = self.carried[name]
        operand = self.slot_of(e, width)
        if any(operand == other for other, *_ in self.carried.values()):  # which is another by then
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
        self.instructions.append((_OF.store, self.array(key, self.sizes[self.size_of(slot)]), [slot, 0, 0, 0]))
        self.stored.add(key)

    def as_slot(self, operand: int, width: str) -> int:
        if operand < 0 or self.sizes[self.size_of(operand)] != width:
            return self.do(_OF.copy, width, operand)
        return operand

    def slot_of(self, e: Expression, width: str) -> int:
        return self.as_slot(self.value(e), width)

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
                    return self.carry(name, sheet.widths[name])
                return self.vector(name, sheet.widths[name])
            case Name(name, 0):
                if name in self.cell.derivation.made_again:
                    line = next(line for line in self.cell.derivation.steps if line.name == name)
                    return self.slot_of(line.value, self.cell.derivation.widths[name])
                return self.loaded(name, self.cell.derivation.widths.get(name) or sheet.widths[name])
            case Name(name, _):  # a state of the step before, on the way back
                width = sheet.widths[name]
                return self.do(_OF.previous, width, self.array(name, width), self.of_rows(name, width))
            case Square(of):
                return self.entry(_OF.square, self.value(of))
            case Times(factors):
                first, *rest = map(self.value, factors)
                for factor in rest:
                    first = self.entry(_OF.multiply, first, factor)
                return first
            case Over(above, below):
                return self.entry(_OF.divide, self.value(above), self.value(below))
            case Sum():
                return self._sum(e)
            case Product():
                return self._sum(Sum(((1, e),)))
            case Call("scale") if self.back:
                return self.loaded(key_of(e), "1")
            case Call(function, arguments):
                name = function if function in _ENTRIES or function in _WHOLE else sheet.functions[function]
                return self._called(name, [self.value(a) for a in arguments])
        raise TypeError(e)

    def _sum(self, e: Sum) -> int:
        member, rest = self._parts(e)
        total = None
        if member.terms:
            total = self._products(member)
        elif member.ahead is not None:
            total = self.loaded(self._key_of(member.ahead), self.width(e))
        for sign, term in rest:
            operand = self.value(term)
            if total is None:
                total = operand if sign > 0 else self.entry(_OF.negative, operand)
            else:
                total = self.entry(_OF.add if sign > 0 else _OF.subtract, total, operand)
        assert total is not None
        return total

    def _called(self, name: str, read: list[int]) -> int:
        if name in _ENTRIES:
            return self.entry(_ENTRIES[name], *read)
        a = read[0]
        if name in _ROWS:
            return self._of_row(_ROWS[name], a)
        if name == "identity":
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
        inputs, terms, ahead, rest = self.inputs_ahead, [], [], []
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
        return _Member(tuple(terms), Ahead(tuple(ahead), tuple(vectors))), left

    def _is_vector(self, e: Expression, width: str) -> TypeGuard[Name]:
        if not isinstance(e, Name) or e.step is not None or self.cell.sheet.widths.get(e.name) != width:
            return False
        given = self.cell.sheet.given.get(e.name)
        return given is None or given.kind not in ("constant", "rows", "drop")

    def _key_of(self, ahead: Ahead) -> str:
        key = " + ".join([*(f"{left} {matrix}" for left, matrix in ahead.products), *ahead.vectors])
        self.ahead[key] = ahead
        return key

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

    def _lefts(self, member: _Member) -> tuple[tuple[Expression, ...], str]:
        lefts = tuple(term.left for term in member.terms)
        return lefts, self.width(member.terms[0]) if lefts else ""

    def _products(self, member: _Member) -> int:
        if member in self.made:
            return self.made[member]
        lefts, width = self._lefts(member)
        together = self.planned.get((lefts, width), [])
        together = together if member in together else [member]
        factors = []
        for j, left in enumerate(lefts):
            matrices = tuple(self._matrix(of.terms[j].right) for of in together)
            rows = self.width(left)
            weight = self.size(rows), self.size(width), matrices
            factors.append((self.slot_of(left, rows), self.weights.setdefault(weight, len(self.weights))))
        to = self.slot(width, len(together))
        begins = any(of.ahead is not None for of in together)
        for place, of in enumerate(together) if begins else ():
            if of.ahead is None:
                self.instructions.append((_OF.copy, to + place, [self.vector(0.0)] * 4))
            else:
                array = self.array(self._key_of(of.ahead), width)
                self.instructions.append((_OF.load, to + place, [array, 0, 0, 0]))
        operation = _OF.add_product if begins else _OF.product
        self.instructions.append((operation, to, [len(self.products), 0, 0, 0]))
        self.products.append(factors)
        self.made |= {of: to + place for place, of in enumerate(together)}
        return self.made[member]

    def _matrix(self, e: Expression) -> int:
        name = e.of if isinstance(e, Transposed) else e
        assert isinstance(name, Name)
        return self.matrices.setdefault((name.name, isinstance(e, Transposed)), len(self.matrices))

    def program(self) -> Program:
        place = self._shared()
        numbers = [what for what in self.vectors if not isinstance(what, str)]
        vectors = [what for what in self.vectors if isinstance(what, str)]
        of_vector = {k: [*numbers, *vectors].index(what) for k, what in enumerate(self.vectors)}
        first: dict[int, int] = {}  # of the slots that stay, by those that were
        slots: list[tuple[int, int, int]] = []
        groups: list[int] = []
        for slot, (size, group, number) in enumerate(self.slots):
            if place[slot] == slot:
                if number == 0:
                    groups.append(self.groups[group])
                first[slot] = len(slots)
                slots.append((size, len(groups) - 1, number))
        of = [first[place[slot]] for slot in range(len(self.slots))]
        code = _native.Program(
            slots,
            groups,
            [
                (operation, to if operation == _OF.store else of[to], [
                    k if n >= _reads(operation) else of[k] if k >= 0 else -1 - of_vector[-1 - k]
                    for n, k in enumerate(read)
                ])
                for operation, to, read in self.instructions
            ],
            list(self.weights),
            [[(of[left], weight) for left, weight in factors] for factors in self.products],
            [(of[own], begin, next if next < 0 else of[next], end) for own, begin, next, end in self.carried.values()],
            [self.vectors[what] for what in (*numbers, *vectors)],
            [self.size(w) for w in self.arrays.values()],
            [self.size(w) for w in self.rows.values()],
            len(self.matrices),
            len(self.sizes),
        )  # fmt: skip
        return Program(
            code, tuple(self.sizes), self.arrays, self.ahead, self.rows, tuple(numbers), tuple(vectors),
            tuple(self.matrices),
        )  # fmt: skip

    def _shared(self) -> list[int]:
        """For each slot the one whose place it takes: one that nobody reads any more, so that few places stay in use.

        What a product reads keeps its own, since the columns of a result are made piece by piece; so does what lasts
        from step to step.
        """
        last: dict[int, int] = {}
        for k, (operation, _, read) in enumerate(self.instructions):
            last |= {slot: k for slot in read[: _reads(operation)] if slot >= 0}
        stays = {left for factors in self.products for left, _ in factors}
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


def _reads(operation: _native.Operation) -> int:
    """How many of the numbers of an instruction are what it reads of slots and vectors."""
    if operation in (_OF.load, _OF.previous, _OF.product, _OF.add_product):
        return 0
    return 1 if operation == _OF.store else 4
