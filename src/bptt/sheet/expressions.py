"""Equations as data: trees of small records. Vectors are rows, so `x W` is a row times a matrix."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """Where something stands in the text of a cell: line and columns, counted from 0, end not included."""

    line: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Expression:
    place: Place | None = field(default=None, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Number(Expression):
    value: float


@dataclass(frozen=True, slots=True)
class Name(Expression):
    """A value at a step (0 is t, -1 is t-1), or, where step is None, what has no time: a parameter, a fixed line."""

    name: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Cotangent(Expression):
    """∂L/∂ of a value at a step; of what has no time where step is None."""

    name: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Size(Expression):
    """How many units a row has: "H", "I" or a size that the cell declares."""

    name: str


@dataclass(frozen=True, slots=True)
class Transposed(Expression):
    of: Expression


@dataclass(frozen=True, slots=True)
class Square(Expression):
    of: Expression


@dataclass(frozen=True, slots=True)
class Product(Expression):
    """left @ right."""

    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Times(Expression):
    """⊙, entry by entry; what has width 1 is used for all units."""

    factors: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Over(Expression):
    above: Expression
    below: Expression


@dataclass(frozen=True, slots=True)
class Sum(Expression):
    """Terms with their signs, 1 or -1."""

    terms: tuple[tuple[int, Expression], ...]


@dataclass(frozen=True, slots=True)
class Call(Expression):
    function: str
    arguments: tuple[Expression, ...]


def children(e: Expression) -> tuple[Expression, ...]:
    match e:
        case Transposed(of) | Square(of):
            return (of,)
        case Product(left, right):
            return left, right
        case Times(factors):
            return factors
        case Over(above, below):
            return above, below
        case Sum(terms):
            return tuple(term for _, term in terms)
        case Call(_, arguments):
            return arguments
    return ()


def mapped(e: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """The same expression with each child changed."""
    match e:
        case Transposed(of):
            return Transposed(change(of), place=e.place)
        case Square(of):
            return Square(change(of), place=e.place)
        case Product(left, right):
            return Product(change(left), change(right), place=e.place)
        case Times(factors):
            return Times(tuple(map(change, factors)), place=e.place)
        case Over(above, below):
            return Over(change(above), change(below), place=e.place)
        case Sum(terms):
            return Sum(tuple((sign, change(term)) for sign, term in terms), place=e.place)
        case Call(function, arguments):
            return Call(function, tuple(map(change, arguments)), place=e.place)
    return e


def walk(e: Expression) -> Iterator[Expression]:
    yield e
    for child in children(e):
        yield from walk(child)


def names(e: Expression) -> Iterator[Name]:
    return (part for part in walk(e) if isinstance(part, Name))


@dataclass(frozen=True, slots=True)
class Equation:
    """name = value; of every step (step 0), or, where step is None, a fixed line, made once per call."""

    name: str
    step: int | None
    value: Expression
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def left(self) -> Name:
        return Name(self.name, self.step)
