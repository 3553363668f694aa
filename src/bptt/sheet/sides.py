"""Side A and side B of a cell as lists of tagged lines, and which use of a value each term of a gradient comes from.
Side C, which is no side of a cell: how far that gradient reaches.

A1 take x and the states, A2 products and biases, A3 entry by entry, A4 hand on, A5 the output, A6 the prediction.
B1 the loss, B2 the Jacobian of g, B3 ∂o, B4 ∂b_o, B5 ∂W_ho, B6 the total ∂ of a state, B7 back through what is entry by
entry, B8 vectors, B9 input weights, B10 recurrent weights, B11 hand on.
C1 the way back as a product, C2 its factor in the plain cell, C3 its bound, C4 the sum over losses, C5 the factor on
the way of a cell state, C6 the rates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bptt.sheet.derivation import Derivation, Use, plus
from bptt.sheet.expressions import (
    Call,
    Cotangent,
    Equation,
    Expression,
    Name,
    Number,
    Product,
    Sum,
    Transposed,
    mapped,
    names,
)
from bptt.sheet.printing import SUM, TEX, TEXT, TIMES, Text, Words

EQUALS, PLUS, COMMA = Words(" = ", " &= "), Words(" + ", " + "), Words(", ", ", ")
OVER_STEPS, OVER_ROWS = Words("Σ_t ", r"\sum_{t} "), Words("Σ_batch ", r"\sum_{\text{batch}} ")
TAKE, AND, HAND = Words("take ", r"\text{take }"), Words(" and ", r"\text{ and }"), Words("hand ", r"\text{hand }")
TO_COME, BEFORE = Words(" to step t+1", r"\text{ to step }t+1"), Words(" to step t−1", r"\text{ to step }t-1")
TO, DOT, OVER = Words(" to ", r"\text{ to }"), Words(" · ", r" \cdot "), Words("/", " / ")
MASK = Words("a mask for each row, the same at all steps", r"\text{a mask for each row, the same at all steps}")
OPEN, CLOSE = Words(" (", " ("), Words(")", ")")
SOFTMAX = Words("softmax: ŷ_i (δ_ik − ŷ_k)", r"\text{softmax: } \hat{y}_{i} (\delta_{ik} - \hat{y}_{k})")

SIDE_C = {
    "C1": "∂L_t/∂h_k = ∂L_t/∂h_t J_t J_{t-1} … J_{k+1}",
    "C2": "J_t = ∂h_t/∂h_{t-1} = diag(φ'(a_t)) W_hhᵀ",
    "C3": "‖∂L_t/∂h_k‖ ≤ ‖∂L_t/∂h_t‖ ‖J_t‖ … ‖J_{k+1}‖ ≤ ‖∂L_t/∂h_t‖ (γ ‖W_hh‖)^(t−k)",
    "C4": "∂h_k = Σ_{t≥k} ∂L_t/∂h_k",
    "C5": "J_t = diag(f_t) on the way of c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t alone",
    "C6": "λ_i = lim 1/T log s_i(J_T J_{T-1} … J_1)",
}
"""By tag; docs/side-c.md has the words. ‖J‖ is the largest singular value, s_i the i-th, γ the largest |φ'|."""


def shifted(e: Expression, by: int) -> Expression:
    """The same expression one step later."""
    match e:
        case Name(name, int(step)):
            return Name(name, step + by)
        case Cotangent(name, int(step)):
            return Cotangent(name, step + by)
    return mapped(e, lambda part: shifted(part, by))


@dataclass(frozen=True)
class Term:
    """A term of a gradient: the share of one use of the value, and the equation of side A that uses it there."""

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
    of: what a line defines that does not begin with it.
    """

    tag: str
    parts: tuple[Expression | Words, ...]
    terms: tuple[Term, ...] = ()
    once: bool = False
    of: Expression | None = None

    @property
    def symbol(self) -> str:
        return TEXT.write(self.of) if self.of else self.text.split(EQUALS.text)[0]

    @property
    def text(self) -> str:
        return self._written(TEXT)

    @property
    def tex(self) -> str:
        return self._written(TEX)

    def _written(self, how: Text) -> str:
        written, least = "", SUM
        for at, part in enumerate(self.parts):
            if isinstance(part, Words):
                again = part == EQUALS and EQUALS in self.parts[:at]  # lines meet at the first = alone
                written += how.words(part).replace("&", "") if again else how.words(part)
            else:
                written += how.write(part, least)
            least = TIMES if part in (OVER_STEPS, OVER_ROWS) else SUM
        return written

    def __str__(self) -> str:
        when = f"   (once, {'before' if self.tag[0] == 'A' else 'after'} step 1)" if self.once else ""
        return f"{self.tag:<5}{self.text}{when}"


@dataclass(frozen=True)
class Side:
    """The lines of side A or B; prints as a list, one a line, tags in front.

    where  what functions and constants of the cell stand for, as lines without a tag
    """

    lines: tuple[Line, ...]
    where: tuple[Line, ...] = ()

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.where, *self.lines)))

    @property
    def tex(self) -> str:
        rows = []
        for line in (*self.where, *self.lines):
            written = line.tex if "&" in line.tex else "& " + line.tex
            tag = rf"\text{{{line.tag}}} \quad " if line.tag else ""
            rows.append(f"& {tag}& {written}")
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def side_a(found: Derivation) -> Side:
    sheet, output = found.sheet, Name(found.sheet.output, 0)
    states = [Name(name, 0) for name in sheet.states]
    read = [*(Name(name, 0) for name in sheet.inputs), *(Name(name, -1) for name in sheet.states)]
    lines = [Line("A2", (line.left, EQUALS, line.value), once=True) for line in found.fixed]
    lines.append(Line("A1", (TAKE, *_listed(read))))
    lines += [Line(_tag_forward(line, found), (line.left, EQUALS, line.value)) for line in found.steps]
    lines.append(Line("A4", (HAND, *_listed(states), TO_COME)))
    lines.append(Line("A5", (_readout(output).left, EQUALS, _readout(output).value)))
    lines.append(Line("A6", (Name("ŷ", 0), EQUALS, Call("g", (Name("o", 0),)))))
    return Side(tuple(lines), tuple(_where(found)))


def _where(found: Derivation) -> Iterator[Line]:
    sheet = found.sheet
    for name, function in sheet.functions.items():
        yield Line("", (Name(name), EQUALS, Name(function)))
    for name, given in sheet.given.items():
        if given.kind == "constant" and given.start is not None:
            yield Line("", (Name(name), EQUALS, Number(given.start)))
        elif given.kind == "drop":
            yield Line("", (Name(name), EQUALS, MASK))


def _listed(parts: Sequence[Expression]) -> list[Expression | Words]:
    joined: list[Expression | Words] = [parts[0]]
    for n, part in enumerate(parts[1:], 2):
        joined += [AND if n == len(parts) else COMMA, part]
    return joined


def _tag_forward(line: Equation, found: Derivation) -> str:
    terms = [term for _, term in line.value.terms] if isinstance(line.value, Sum) else [line.value]
    biases = {name for name, given in found.sheet.given.items() if given.kind == "vector"}
    return "A2" if any(isinstance(t, Product) or (isinstance(t, Name) and t.name in biases) for t in terms) else "A3"


def _readout(output: Name) -> Equation:
    return Equation("o", 0, Sum(((1, Product(output, Name("W_ho"))), (1, Name("b_o")))))


def side_b(found: Derivation) -> Side:
    sheet, output, do = found.sheet, Name(found.sheet.output, 0), Cotangent("o", 0)
    weight, guess, wanted = Name("w", 0), Name("ŷ", 0), Name("y", 0)
    lines = [
        Line("B1", (Name("L"), EQUALS, OVER_STEPS, weight, DOT, Call("loss", (guess, wanted)))),
        Line("B2", (Cotangent("ŷ", 0), OVER, do, EQUALS, SOFTMAX)),
        Line("B3", (do, EQUALS, weight, OPEN, Sum(((1, guess), (-1, wanted))), CLOSE)),
        Line("B4", (Cotangent("b_o"), EQUALS, OVER_STEPS, OVER_ROWS, do)),
        Line("B5", (Cotangent("W_ho"), EQUALS, OVER_STEPS, Product(Transposed(output), do))),
    ]
    for line in reversed(found.steps):
        own = Term(Product(do, Transposed(Name("W_ho"))), _readout(output).left, _readout(output).value)
        terms = [own] * (line.name == output.name) + _terms(found, line.name)
        tag = "B6" if line.name in (*sheet.states, output.name) else "B7"
        lines.append(Line(tag, (Cotangent(line.name, 0), EQUALS, _total(terms)), tuple(terms)))
    lines += _parameters(found)
    for name in sheet.states:
        before = Cotangent(name, -1)
        target = [TO, before] if len(sheet.states) > 1 else [BEFORE]
        lines.append(Line("B11", (HAND, _total(_in_order(found, name, -1)), *target), of=before))
    for name in sheet.inputs:
        terms = _terms(found, name)
        lines.append(Line("B11", (Cotangent(name, 0), EQUALS, _total(terms)), tuple(terms)))
    return Side(tuple(lines))


def _total(uses: Sequence[Use | Term]) -> Expression:
    return plus(*(use.value for use in uses))


def _terms(found: Derivation, name: str) -> list[Term]:
    """Of a value at step t: what is used in the same step, and what is used as a state in step t+1."""
    return [
        Term(*(shifted(part, by) for part in (use.value, use.line.left, use.line.value)))
        for step, by in ((0, 0), (-1, 1))
        for use in _in_order(found, name, step)
    ]


def _in_order(found: Derivation, name: str, step: int) -> list[Use]:
    """First what values alone take back, from the last line on; then what parameters do, as their lines follow."""
    uses, given = found.uses.get((name, step), []), found.sheet.given
    parameters = {name for name, one in given.items() if one.learned} | {line.name for line in found.fixed}
    through = [use for use in uses if any(part.name in parameters for part in names(use.value))]
    return [use for use in uses if use not in through] + through[::-1]


def _parameters(found: Derivation) -> list[Line]:
    """Fixed lines first, last one first: what they are made of comes from them."""
    fixed = [_parameter(found, line.name) for line in reversed(found.fixed)]
    learned = [_parameter(found, name) for name, given in found.sheet.given.items() if given.learned]
    return fixed + sorted(learned, key=lambda line: int(line.tag[1:]))


def _parameter(found: Derivation, name: str) -> Line:
    """Fixed lines send their share once; the shares of lines of a step are summed over all steps."""
    uses = found.uses.get((name, None), [])
    once = [Term(use.value, use.line.left, use.line.value) for use in uses if use.line.step is None]
    steps = [Term(use.value, use.line.left, use.line.value) for use in uses if use.line.step is not None]
    matrix = found.width(Name(name)) == "matrix"
    right: list[Expression | Words] = [_total(once)] if once or not steps else []
    if steps:
        right += [PLUS] * bool(once) + [OVER_STEPS] + [OVER_ROWS] * (not matrix) + [_total(steps)]
    tag = "B8" if not matrix else "B9" if _is_of_input(found, name) else "B10"
    return Line(tag, (Cotangent(name), EQUALS, *right), (*once, *steps), once=bool(once) and not steps)


def _is_of_input(found: Derivation, matrix: str) -> bool:
    """Whether all that a matrix multiplies, itself or as a part of others, are inputs."""
    uses = found.uses.get((matrix, None), [])
    return bool(uses) and all(
        _is_of_input(found, use.line.name)
        if use.line.step is None
        else not {*found.sheet.inputs}.isdisjoint(name.name for name in names(use.value))
        for use in uses
    )
