"""Side B from side A: a naming pass, the chain rule walked backwards, and what makes the result read like a textbook.

The naming pass gives a line of its own to (1) an argument that holds a product, (2) a function value inside a longer
line, (3) a product's left side that is compound or has no rows of its own, (4) a product that is no term of a line's
sum. A cell typed on one line then derives to the same list as one typed on many, and no product is done twice.

Then every line sends its cotangent back to what it reads. What one line sends to one value is one `Use`.
"""

from collections import Counter
from dataclasses import dataclass, field

from bptt.sheet.expressions import (
    Call,
    Cotangent,
    Equation,
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
    children,
    mapped,
    names,
    walk,
)
from bptt.sheet.language import Sheet, free, parse_expression

ZERO, UNIT = Number(0.0), Number(1.0)

Key = tuple[str, int | None]
"""A name and the step at which it is read, None where it has no time."""


@dataclass(frozen=True)
class Use:
    """The share of ∂ that a line sends back to a value it reads, written at the line's own step t."""

    line: Equation
    value: Expression


@dataclass
class Derivation:
    """steps, fixed  side A with all names given
    uses         by what is read: one use for each line that reads it, last line first
    kept         what the way back reads of the way forward and cannot make again from the rest
    made_again   values that it makes again from what is kept, entry by entry
    """

    sheet: Sheet
    steps: list[Equation] = field(default_factory=list)
    fixed: list[Equation] = field(default_factory=list)
    widths: dict[str, str] = field(default_factory=dict)
    uses: dict[Key, list[Use]] = field(default_factory=dict)
    kept: list[Expression] = field(default_factory=list)
    made_again: list[str] = field(default_factory=list)

    def sent_back(self, name: str, step: int | None) -> Expression:
        """The sum of what the uses of a name at one step send back."""
        return plus(*(use.value for use in self.uses.get((name, step), ())))

    def sent_by_steps(self, name: str) -> Expression:
        """That of a name without time, from the lines of a step alone, not from fixed ones."""
        return plus(*(use.value for use in self.uses.get((name, None), ()) if use.line.step is not None))

    def width(self, e: Expression) -> str:
        """ "1", a size, or "matrix"."""
        match e:
            case Name(name) | Cotangent(name):
                return "matrix" if self.sheet.is_matrix(name) else self.widths[name]
            case Transposed():
                return "matrix"
            case Product(_, right):
                matrix = right.of if isinstance(right, Transposed) else right
                if not isinstance(matrix, Name) or self.width(e.left) == "matrix":
                    return "matrix"
                return self.sheet.shapes[matrix.name][0 if isinstance(right, Transposed) else 1]
            case Call(function) if self.sheet.function(function).row == "number":
                return "1"
        return next((width for width in map(self.width, children(e)) if width != "1"), "1")


def derive(sheet: Sheet) -> Derivation:
    found = Derivation(sheet, widths=dict(sheet.widths))
    _name(found)
    _Backwards(found).walk()
    _keep(found)
    return found


class _Namer:
    """Gives names within one line; new lines go before it."""

    def __init__(self, found: Derivation, known: dict[Expression, Name], taken: set[str], line: Equation) -> None:
        self.found, self.known, self.taken, self.line = found, known, taken, line
        self.lines = found.fixed if line.step is None else found.steps
        self.matrix = line.step is None and found.sheet.is_matrix(line.name)

    def whole(self, e: Expression) -> Expression:
        if isinstance(e, Call):
            return mapped(e, self.inside)
        if isinstance(e, Sum):
            return mapped(e, self.term)
        return self.term(e)

    def term(self, e: Expression) -> Expression:
        return Product(self.left(e.left), e.right, place=e.place) if isinstance(e, Product) else self.inside(e)

    def left(self, e: Expression) -> Expression:
        """A name. In a step it has a row for each row of the batch, so that the matrix gets the sum over them."""
        inside = self.inside(e)
        whole = isinstance(inside, Name | Transposed) if self.line.step is None else self.found.sheet.has_rows(inside)
        return inside if whole else self.named("s", inside)

    def inside(self, e: Expression) -> Expression:
        match e:
            case Product() if not self.matrix:
                return self.named("m", self.term(e))
            case Sum(terms) if any(isinstance(term, Product) for _, term in terms) and not self.matrix:
                return self.named("a", mapped(e, self.term))
            case Call():
                return self.named("u", mapped(e, self.inside))
        return mapped(e, self.inside)

    def named(self, letter: str, e: Expression) -> Name:
        if e not in self.known:
            letter = letter.upper() if self.found.width(e) == "matrix" else letter
            short = [letter] * (self.line.name == self.found.sheet.output)
            name = free(self.taken, *short, letter + self.line.name)
            self.found.widths[name] = self.found.width(e)
            self.lines.append(Equation(name, self.line.step, e))
            self.known[e] = Name(name, self.line.step)
        return self.known[e]


def _name(found: Derivation) -> None:
    sheet, known = found.sheet, {}
    taken = sheet.taken
    for line in sheet.equations:
        value = _Namer(found, known, taken, line).whole(line.value)
        (found.fixed if line.step is None else found.steps).append(Equation(line.name, line.step, value, line.place))
        if not isinstance(value, Name | Number):
            known.setdefault(value, line.left)


class _Backwards:
    def __init__(self, found: Derivation) -> None:
        self.found, self.sheet = found, found.sheet
        self.sent: dict[Key, list[Expression]] = {}
        self.line = found.steps[-1]

    def walk(self) -> None:
        for line in [*reversed(self.found.steps), *reversed(self.found.fixed)]:
            self.line, self.sent = line, {}
            self.send(line.value, Cotangent(line.name, line.step), whole=True)
            for key, values in self.sent.items():
                value = collected(values)
                if value != ZERO and self._has_gradient(key[0]):
                    self.found.uses.setdefault(key, []).append(Use(line, value))

    def _has_gradient(self, name: str) -> bool:
        given = self.sheet.given.get(name)
        return name != "I" and (given is None or given.learned or given.kind == "input")

    def send(self, e: Expression, d: Expression, *, whole: bool = False) -> None:
        """d, the cotangent of e, to all that e reads."""
        match e:
            case Name(name, step):
                self.sent.setdefault((name, step), []).append(d)
            case Transposed(of):
                self.send(of, transposed(d))
            case Product(left, right):
                self.send(left, product(d, transposed(right)))
                self.send(right, product(transposed(left), d))
            case Square(of):
                self.send(of, times(Number(2.0), d, of))
            case Sum(terms):
                for sign, term in terms:
                    self.part(e, term, signed(sign, d))
            case Times(factors):
                for n, factor in enumerate(factors):
                    self.part(e, factor, times(d, *factors[:n], *factors[n + 1 :]))
            case Over(above, below):
                value = self.line.left if whole else e
                self.part(e, above, over(d, below))
                self.part(e, below, signed(-1, over(times(d, value), below)))
            case Call(function, arguments):
                given = dict(zip("abc", arguments, strict=False)) | {"y": self.line.left, "d": d}
                for argument, back in zip(arguments, self.sheet.function(function).back, strict=True):
                    if back is not None:
                        self.part(e, argument, self.filled(parse_expression(back), given))

    def part(self, whole: Expression, part: Expression, d: Expression) -> None:
        """A part of width 1 that is used for all units gets the sum over them."""
        width = self.found.width(whole)
        if self.found.width(part) == "1" and width != "1":
            if self.found.width(d) == "1":
                d = times(Size(width), d)
            else:
                d = Call("total" if width == "matrix" else "sum", (d,))
        self.send(part, d)

    def filled(self, e: Expression, given: dict[str, Expression]) -> Expression:
        """A line of the table of functions with its letters replaced."""
        match e:
            case Name(name):
                return given[name]
            case Times(factors):
                return times(*(self.filled(factor, given) for factor in factors))
            case Sum(terms):
                return plus(*(signed(sign, self.filled(term, given)) for sign, term in terms))
            case Over(above, below):
                return over(self.filled(above, given), self.filled(below, given))
            case Call("size", (of,)):
                width = self.found.width(self.filled(of, given))
                return UNIT if width == "1" else Size(width)
        return mapped(e, lambda part: self.filled(part, given))


def split(e: Expression) -> tuple[int, Expression]:
    """A sign and the expression without it."""
    match e:
        case Sum(((sign, term),)):
            return sign, term
    return 1, e


def signed(sign: int, e: Expression) -> Expression:
    return e if sign > 0 else times(Number(-1.0), e)


def transposed(e: Expression) -> Expression:
    match split(e):
        case sign, Transposed(of):
            return signed(sign, of)
        case sign, Product(left, right):
            return signed(sign, Product(transposed(right), transposed(left)))
        case sign, of:
            return signed(sign, Transposed(of))


def product(left: Expression, right: Expression) -> Expression:
    """Signs go before the product."""
    (sign, left), (other, right) = split(left), split(right)
    return signed(sign * other, Product(left, right))


def over(above: Expression, below: Expression) -> Expression:
    sign, above = split(above)
    return signed(sign, above if below == UNIT else Over(above, below))


def times(*given: Expression) -> Expression:
    """A product entry by entry: flat, one number and one sign in front, equal factors as squares, parameters first."""
    number, factors, waiting = 1.0, [], [*given]
    while waiting:
        match waiting.pop(0):
            case Number(value):
                number *= value
            case Times(inner):
                waiting[:0] = inner
            case Sum(((sign, term),)):
                number *= sign
                waiting.insert(0, term)
            case factor:
                factors.append(factor)
    if number == 0:
        return ZERO
    squared = []
    for factor, count in Counter(factors).items():
        squared += [Square(factor)] * (count // 2) + [factor] * (count % 2)
    squared.sort(key=_rank)
    if abs(number) != 1:
        squared.insert(0, Number(abs(number)))
    whole = Number(1.0) if not squared else squared[0] if len(squared) == 1 else Times(tuple(squared))
    if number > 0:
        return whole
    return Number(-whole.value) if isinstance(whole, Number) else Sum(((-1, whole),))


def _rank(e: Expression) -> int:
    """Parameters, then the cotangent, then values of a step."""
    if isinstance(e, Cotangent):
        return 1
    timed = (isinstance(part, Cotangent) or (isinstance(part, Name) and part.step is not None) for part in walk(e))
    return 2 if any(timed) else 0


def plus(*given: Expression) -> Expression:
    """A sum: flat, equal terms counted, those that cancel gone, positive ones first."""
    counts: dict[Expression, float] = {}
    number = 0.0
    waiting = [(1, e) for e in given]
    while waiting:
        sign, e = waiting.pop(0)
        if isinstance(e, Sum):
            waiting[:0] = [(sign * inner, term) for inner, term in e.terms]
        elif isinstance(e, Number):
            number += sign * e.value
        else:
            counts[e] = counts.get(e, 0) + sign
    terms = [
        (1 if n > 0 else -1, e if abs(n) == 1 else times(Number(float(abs(n))), e)) for e, n in counts.items() if n
    ]
    if number:
        terms.insert(0, (1 if number > 0 else -1, Number(abs(number))))
    terms.sort(key=lambda term: -term[0])
    if len(terms) == 1:
        return signed(*terms[0])
    return Sum(tuple(terms)) if terms else ZERO


def collected(given: list[Expression]) -> Expression:
    """The sum of what one line sends to one value, with what is common to all terms before a bracket."""
    whole = plus(*given)
    if not isinstance(whole, Sum) or len(whole.terms) == 1:
        return whole
    parts = [term for _, term in whole.terms]
    fractions = [part for part in parts if isinstance(part, Over)]
    if len(fractions) == len(parts) and len({fraction.below for fraction in fractions}) == 1:
        above = [signed(sign, part.above) for (sign, _), part in zip(whole.terms, fractions, strict=True)]
        return over(collected(above), fractions[0].below)
    common = Counter(_factors(parts[0]))
    for part in parts[1:]:
        common &= Counter(_factors(part))
    shared = [factor for factor in common.elements() if not isinstance(factor, Number)]
    if not any(isinstance(part, Cotangent) for factor in shared for part in walk(factor)):
        return whole
    rest = [signed(sign, times(*(Counter(_factors(part)) - Counter(shared)).elements())) for sign, part in whole.terms]
    return times(*shared, plus(*rest))


def _factors(e: Expression) -> list[Expression]:
    factors = e.factors if isinstance(e, Times) else (e,)
    return [part for factor in factors for part in ([factor.of] * 2 if isinstance(factor, Square) else [factor])]


def _keep(found: Derivation) -> None:
    read: set[Name] = set()
    scales: list[Expression] = []
    values = {line.name for line in found.steps}

    def look(e: Expression) -> None:
        if isinstance(e, Call) and e.function == "scale":
            if e not in scales:
                scales.append(e)
        elif isinstance(e, Name) and e.name in values:
            read.add(Name(e.name, 0))
        else:
            for part in children(e):
                look(part)

    def by_entry(e: Expression) -> bool:
        return not isinstance(e, Product) and not (isinstance(e, Call) and found.sheet.function(e.function).row)

    for uses in found.uses.values():
        for use in uses:
            if use.line.step is not None:
                look(use.value)
    kept = {name.name for name in read} | {found.sheet.output}  # which the layer hands out for all steps anyway
    for line in found.steps:
        if line.name in kept and line.name not in found.sheet.states and all(map(by_entry, walk(line.value))):
            needs = {name.name for name in names(line.value)} & values
            if needs <= kept:
                found.made_again.append(line.name)
    again = set(found.made_again)
    found.kept = [Name(line.name, 0) for line in found.steps if line.name in kept - again] + scales
