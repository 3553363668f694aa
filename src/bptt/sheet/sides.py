"""Side A and side B of a cell as lists of tagged lines, and which use of a value each term of a gradient comes from.

A1 take x and the states, A2 products and biases, A3 entry by entry, A4 hand on, A5 the output, A6 the prediction.
B1 the loss, B2 the Jacobian of g, B3 ∂o, B4 ∂b_o, B5 ∂W_ho, B6 the total ∂ of a state, B7 back through what is entry by
entry, B8 vectors, B9 input weights, B10 recurrent weights, B11 hand on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bptt.sheet.derivation import Derivation, plus
from bptt.sheet.expressions import Cotangent, Equation, Expression, Name, Product, Sum, Transposed, mapped, walk
from bptt.sheet.printing import SUM, TEX, TEXT, TIMES, Text

TO_COME, BEFORE = " to step t+1", " to step t−1"


def shifted(e: Expression, by: int) -> Expression:
    """What an expression says one step later."""
    match e:
        case Name(name, int(step)):
            return Name(name, step + by)
        case Cotangent(name, int(step)):
            return Cotangent(name, step + by)
    return mapped(e, lambda part: shifted(part, by))


@dataclass(frozen=True)
class Term:
    """What one use of a value adds to its gradient, and the equation of side A that uses it there."""

    value: Expression
    left: Expression
    right: Expression

    @property
    def text(self) -> str:
        return TEXT.write(self.value)

    @property
    def use(self) -> str:
        return f"{TEXT.write(self.left)} = {TEXT.write(self.right)}"


@dataclass(frozen=True)
class Line:
    """One line: its tag, expressions and words in turn, the terms it is the sum of, when it holds.

    text, tex, symbol: as written, and what it defines. once: not at every step, but before the first or after the last.
    """

    tag: str
    parts: tuple[Expression | str, ...]
    terms: tuple[Term, ...] = ()
    once: bool = False
    of: Expression | None = None

    @property
    def symbol(self) -> str:
        first = self.of or self.parts[0]
        return TEXT.write(first) if isinstance(first, Expression) else first.split(" = ")[0]

    @property
    def text(self) -> str:
        return self._written(TEXT)

    @property
    def tex(self) -> str:
        return self._written(TEX)

    def _written(self, how: Text) -> str:
        written, summed = "", False
        for part in self.parts:
            if isinstance(part, str):
                written += how.words(part)
                summed = part.startswith("Σ")
            else:
                written += how.write(part, TIMES if summed else SUM)
        return written


@dataclass(frozen=True)
class Side:
    """The lines of side A or B; prints as a list, one a line, tags in front."""

    name: str
    lines: tuple[Line, ...]

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __str__(self) -> str:
        return "\n".join(f"{line.tag:<5}{line.text}{self.when(line)}" for line in self.lines)

    def when(self, line: Line) -> str:
        return "" if not line.once else "   (once, before step 1)" if self.name == "A" else "   (once, after step 1)"

    @property
    def tex(self) -> str:
        rows = []
        for line in self.lines:
            written = line.tex if "&" in line.tex else "& " + line.tex
            rows.append(rf"& \text{{{line.tag}}} \quad & {written}")
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def side_a(found: Derivation) -> Side:
    sheet, output = found.sheet, Name(found.sheet.output, 0)
    inputs = [Name("x", 0)] + [Name(name, 0) for name, given in sheet.given.items() if given.kind == "input"]
    states = [Name(name, 0) for name in sheet.states]
    lines = [Line("A2", (line.left, " = ", line.value), once=True) for line in found.fixed]
    lines.append(Line("A1", ("take ", *_listed([*inputs, *(shifted(state, -1) for state in states)]))))
    lines += [Line(_tag_of(line, found), (line.left, " = ", line.value)) for line in found.steps]
    lines.append(Line("A4", ("hand ", *_listed(states), TO_COME)))
    lines.append(Line("A5", (_readout(output).left, " = ", _readout(output).value)))
    lines.append(Line("A6", (Name("ŷ", 0), " = ", "g(o_t)")))
    return Side("A", tuple(lines))


def _listed(parts: Sequence[Expression]) -> list[Expression | str]:
    joined: list[Expression | str] = [parts[0]]
    for n, part in enumerate(parts[1:], 2):
        joined += [" and " if n == len(parts) else ", ", part]
    return joined


def _tag_of(line: Equation, found: Derivation) -> str:
    terms = [term for _, term in line.value.terms] if isinstance(line.value, Sum) else [line.value]
    biases = {name for name, given in found.sheet.given.items() if given.kind == "vector"}
    return "A2" if any(isinstance(t, Product) or (isinstance(t, Name) and t.name in biases) for t in terms) else "A3"


def _readout(output: Name) -> Equation:
    return Equation("o", 0, Sum(((1, Product(output, Name("W_ho"))), (1, Name("b_o")))))


def side_b(found: Derivation) -> Side:
    sheet, output, do = found.sheet, Name(found.sheet.output, 0), Cotangent("o", 0)
    lines = [
        Line("B1", ("L = Σ_t w_t · loss(ŷ_t, y_t)",)),
        Line("B2", ("∂ŷ_t/∂o_t", " = ", "softmax: ŷ_i (δ_ik − ŷ_k)")),
        Line("B3", (do, " = ", "w_t (ŷ_t − y_t)")),
        Line("B4", (Cotangent("b_o"), " = ", "Σ_t ", "Σ_batch ", do)),
        Line("B5", (Cotangent("W_ho"), " = ", "Σ_t ", Product(Transposed(output), do))),
    ]
    for line in reversed(found.steps):
        terms = _terms(found, line.name)
        if line.name == output.name:
            own = Product(do, Transposed(Name("W_ho")))
            terms.insert(0, Term(own, _readout(output).left, _readout(output).value))
        total = plus(*(term.value for term in terms))
        tag = "B6" if line.name in (*sheet.states, output.name) else "B7"
        lines.append(Line(tag, (Cotangent(line.name, 0), " = ", total), tuple(terms)))
    lines += _parameters(found)
    for name in sheet.states:
        value = found.sent_back(name, -1)
        lines.append(Line("B11", ("hand ", value, BEFORE), of=Cotangent(name, -1)))
    for name in ["x", *(name for name, given in sheet.given.items() if given.kind == "input")]:
        terms = _terms(found, name)
        lines.append(Line("B11", (Cotangent(name, 0), " = ", plus(*(term.value for term in terms))), tuple(terms)))
    return Side("B", tuple(lines))


def _terms(found: Derivation, name: str) -> list[Term]:
    """Of a value at step t: what is used in the same step, and what is used as a state in step t+1."""
    return [
        Term(shifted(use.value, by), shifted(use.line.left, by), shifted(use.line.value, by))
        for step, by in ((0, 0), (-1, 1))
        for use in found.uses.get((name, step), ())
    ]


def _parameters(found: Derivation) -> list[Line]:
    """Fixed lines first, last one first: what they are made of comes from them."""
    sheet = found.sheet
    fixed = [line.name for line in reversed(found.fixed)]
    tags = {
        name: _tag(found, name) for name in [*fixed, *(name for name, given in sheet.given.items() if given.learned)]
    }
    learned = sorted((name for name in tags if name not in fixed), key=lambda name: int(tags[name][1:]))
    return [_parameter(found, name, tags[name]) for name in [*fixed, *learned]]


def _parameter(found: Derivation, name: str, tag: str) -> Line:
    uses = found.uses.get((name, None), [])
    steps = [use for use in uses if use.line.step is not None]
    fixed = [use for use in uses if use.line.step is None]
    parts: list[Expression | str] = [Cotangent(name), " = "]
    if steps or not fixed:
        sums = ["Σ_t "] if found.width(Name(name)) == "matrix" else ["Σ_t ", "Σ_batch "]
        parts += [*(sums if steps else []), plus(*(use.value for use in steps))]
    if fixed:
        parts += [*([" + "] if steps else []), plus(*(use.value for use in fixed))]
    terms = tuple(Term(use.value, use.line.left, use.line.value) for use in uses)
    return Line(tag, tuple(parts), terms, once=bool(fixed) and not steps)


def _tag(found: Derivation, name: str) -> str:
    if found.width(Name(name)) != "matrix":
        return "B8"
    uses = found.uses.get((name, None), [])
    inputs = {"x", *(n for n, given in found.sheet.given.items() if given.kind == "input")}
    tags = set()
    for use in uses:
        if use.line.step is None:
            tags.add(_tag(found, use.line.name))
        else:
            read = {
                part.of.name for part in walk(use.value) if isinstance(part, Transposed) and isinstance(part.of, Name)
            }
            tags.add("B9" if read & inputs else "B10")
    return "B9" if tags == {"B9"} else "B10"
