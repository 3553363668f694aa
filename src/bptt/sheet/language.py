"""The language of cells: text becomes a `Sheet`, or an InputError that says where, why and what to write instead.

    sheet     = { [ equation | kind ] [ "#" comment ] ( line break | ";" ) }
    equation  = name [ time ] "=" sum                        without a time: a fixed line, made once per call
    kind      = name { "," name } ":" ( ( "vector" | "scalar" ) [ "=" number ] | "constant" "=" number | "rows"
                | "input" [ size ] | "size" size | "function" "=" function )
    sum       = [ "−" ] term { ( "+" | "−" ) term }
    term      = factor { "⊙" factor } | factor "/" factor
    factor    = atom { matrix }                              a product
    matrix    = capital name [ "ᵀ" ]
    atom      = ( number | name [ time | "ᵀ" ] | function "(" sum { "," sum } ")" | "(" sum ")" ) [ "²" ]
                                                             drop(v) is a function here, and m ⊙ v to all others
    time      = "_t" | "_{t-1}" | "[t]" | "[t-1]"

What could be read in two ways is refused. Nothing is ever executed; length and depth are bounded.
"""

import itertools
import unicodedata
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache

from bptt.errors import InputError
from bptt.sheet.expressions import (
    Call,
    Equation,
    Expression,
    Name,
    Number,
    Over,
    Place,
    Product,
    Square,
    Sum,
    Times,
    Transposed,
    names,
)
from bptt.sheet.functions import FUNCTIONS, TYPED, Function
from bptt.sheet.tokens import GREEK, SAME_LETTER, Token, refusal, statements

LONGEST, LARGEST, DEEPEST = 10_000, 64, 30
"""Characters of a text; names and numbers of an equation; brackets inside one another."""

NETWORK = {
    "y": "the targets", "o": "the output before g", "ŷ": "the prediction", "L": "the loss", "w": "the weight of a step",
    "W_ho": "the output's matrix", "b_o": "the output's bias",
}  # fmt: skip
KINDS = {
    "vector": "number",
    "scalar": "number",
    "constant": "number",
    "rows": "",
    "input": "",
    "size": "",
    "function": "name",
}
"""The kinds that a name may be declared as, and the kind of token that stands behind = then."""

DROP = "drop"
"""drop(v) is m ⊙ v with a mask m of its own, which whoever runs the cell supplies. The kind of such a mask too."""

KINDS_ADVICE = (
    "Write names : kind, as in p_i, p_f : vector. Kinds are vector, scalar (either with = and its start), "
    "constant = 0.1, rows, input, size S, function = tanh."
)


@dataclass(frozen=True)
class Given:
    """A name without an equation: kind "matrix", "drop", or one of `KINDS` but "size".

    rows and drop are (B, width), the same at all steps. Of drop the entries are 0 or 1/(1-p) in training, else 1.

    start  the number a parameter begins with, or a constant is
    of     of kind drop: the value that the mask is for, and as wide as
    """

    kind: str
    place: Place
    start: float | None = None
    of: Expression | None = None

    @property
    def learned(self) -> bool:
        return self.kind in ("matrix", "vector", "scalar")


@dataclass
class Sheet:
    """Side A of a cell as data. `names` adds what is given and the states, `widths` the sizes.

    declared        what the kinds say, by name, and the masks of drop
    steps, fixed    equations of a step, and those made once per call, in the order of the text
    given           by name: parameters, constants, masks and further inputs, in the order of their first use
    sizes           declared sizes, by the name of the value or matrix that has it
    functions       φ and the like: the function that each declared name stands for
    states          values read at t-1: the output first if it is one, then in the order of their equations
    output          the name of the last equation
    widths, shapes  sizes of values and vectors ("1", "H", "I", ...), rows and columns of matrices
    equal           pairs of sizes that the equations force to be equal, with the place that does
    """

    lines: tuple[str, ...]
    declared: dict[str, Given] = field(default_factory=dict)
    steps: list[Equation] = field(default_factory=list)
    fixed: list[Equation] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)
    sizes: dict[str, tuple[str, Place]] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    states: tuple[str, ...] = ()
    widths: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[str, str]] = field(default_factory=dict)
    equal: list[tuple[str, str, Place]] = field(default_factory=list)

    @property
    def output(self) -> str:
        return self.steps[-1].name

    @property
    def inputs(self) -> list[str]:
        """x and the further inputs."""
        return ["x", *(name for name, given in self.given.items() if given.kind == "input")]

    @property
    def equations(self) -> list[Equation]:
        """All of them, fixed lines first."""
        return [*self.fixed, *self.steps]

    @property
    def taken(self) -> set[str]:
        """The names that a new one has to differ from."""
        read = {name.name for line in self.equations for name in names(line.value)}
        made = {line.name for line in self.equations}
        return {"x", "t", "I", DROP, *read, *made, *self.declared, *self.sizes, *NETWORK, *TYPED, *GREEK}

    def function(self, name: str) -> Function:
        return FUNCTIONS[self.functions.get(name, name)]

    def is_matrix(self, name: str) -> bool:
        given = self.given.get(name)
        fixed = name[0].isupper() and any(line.name == name for line in self.fixed)
        return name == "I" or fixed or (given is not None and given.kind == "matrix")

    def has_rows(self, e: Expression) -> bool:
        """Whether a name stands for what has a row for each row of the batch."""
        given = self.given.get(e.name) if isinstance(e, Name) else None
        return (isinstance(e, Name) and e.step is not None) or (given is not None and given.kind in ("rows", DROP))

    def refusal(self, place: Place | None, rule: str, advice: str) -> InputError:
        return refusal(self.lines, place, rule, advice)

    def may_be_named(self, name: str, place: Place | None) -> None:
        """InputError for names that are taken."""
        if name in NETWORK:
            raise self.refusal(
                place,
                f"{name} is {NETWORK[name]}: it belongs to the network around the cell",
                "Choose another name" + (": LSTM's output gate is q here." if name == "o" else "."),
            )
        if name in ("x", "t", "I"):
            meant = {"x": "the input of the cell", "t": "the step", "I": "the identity matrix"}[name]
            raise self.refusal(place, f"{name} is {meant}", "Choose another name.")
        if name in TYPED or name == DROP:
            raise self.refusal(place, f"{name} is a function", "Choose another name.")


def free(taken: set[str], *choices: str) -> str:
    """The first of the choices that is not taken, or the last one with a number; taken from here on."""
    numbered = (f"{choices[-1]}{n}" for n in itertools.count(2))
    name = next(choice for choice in itertools.chain(choices, numbered) if choice not in taken)
    taken.add(name)
    return name


def parse(text: str) -> Sheet:
    """The equations of a text; `bptt.sheet.names` checks what they name, `bptt.sheet.widths` how wide it is."""
    if not isinstance(text, str):
        raise InputError(f"A cell is text, one equation a line; got {type(text).__name__}.")
    if len(text) > LONGEST:
        raise InputError(
            f"A cell has at most {LONGEST:,} characters; got {len(text):,}. LSTM takes 300: is this the right text?"
        )
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff")).translate(SAME_LETTER).replace("\t", " ")
    sheet = Sheet(tuple(text.splitlines()))
    found = [*statements(sheet.lines)]
    if not found:
        raise InputError(
            "A cell has at least one equation; this text has none. Write one a line, for example\n"
            "    a_t = x_t W_xh + h_{t-1} W_hh + b_h\n    h_t = tanh(a_t)"
        )
    for statement in found:
        if any(token.text == ":" for token in statement):
            Parser(sheet, statement).kind()
    for statement in found:
        if all(token.text != ":" for token in statement):
            equation = Parser(sheet, statement).equation()
            (sheet.fixed if equation.step is None else sheet.steps).append(equation)
    return sheet


@cache
def parse_expression(text: str) -> Expression:
    """One of our own, as in the table of functions."""
    sheet = Sheet((text,))
    (tokens,) = statements(sheet.lines)
    return Parser(sheet, tokens, ours=True).whole()


class Parser:
    """Recursive descent through the tokens of one statement."""

    def __init__(self, sheet: Sheet, tokens: list[Token], *, ours: bool = False) -> None:
        self.sheet, self.tokens, self.position = sheet, tokens, 0
        self.depth = self.operands = 0
        others = FUNCTIONS if ours else [*sheet.functions, DROP]
        self.functions = TYPED | {name: name for name in others}

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def at(self, *signs: str) -> bool:
        return self.token.kind == "sign" and self.token.text in signs

    def take(self, *signs: str) -> bool:
        found = self.at(*signs)
        self.position += found
        return found

    def next(self) -> Token:
        token = self.token
        self.position += token.kind != "end"
        return token

    def since(self, start: Place) -> Place:
        return Place(start.line, start.start, self.tokens[self.position - 1].place.end)

    def refuse(self, rule: str, advice: str, place: Place | None = None) -> InputError:
        return self.sheet.refusal(place or self.token.place, rule, advice)

    def written(self, e: Expression) -> str:
        place = e.place
        return self.sheet.lines[place.line][place.start : place.end] if place and place.end - place.start < 30 else "…"

    def kind(self) -> None:
        """`p_i, p_f : vector = 1` and the like."""
        sheet, declared = self.sheet, [self.next()]
        while self.take(","):
            declared.append(self.next())
        if any(token.kind != "name" or token.step is not None for token in declared) or not self.take(":"):
            raise self.refuse("left of : stand names without a time, with commas", KINDS_ADVICE, declared[0].place)
        kind = self.next()
        if kind.text not in KINDS:
            raise self.refuse("what a name is has to be one of the kinds", KINDS_ADVICE, kind.place)
        size = self.next() if kind.text in ("size", "input") and self.token.kind == "name" else None
        start, negative = None, False
        if self.take("="):
            negative = KINDS[kind.text] == "number" and self.take("−")
            start = self.next()
        whole = Place(kind.place.line, kind.place.start, self.tokens[-2].place.end)
        fits = start.kind == KINDS[kind.text] if start else kind.text not in ("constant", "function")
        if not fits or self.token.kind != "end" or (kind.text == "size" and size is None):
            rule = f"this does not say which {kind.text} it is, or says too much"
            raise self.refuse(rule, KINDS_ADVICE, whole)
        if size and (not size.text[0].isupper() or size.text in ("T", "B", "O", "L") or size.step is not None):
            rule = "a size is a capital letter, and T, B and O are taken"
            raise self.refuse(rule, "Write for example S.", size.place)
        if kind.text == "function" and start and start.text not in TYPED:
            advice = f"Functions entry by entry and over a row are {', '.join(TYPED)}."
            raise self.refuse(f"{start.text} is no function that a name can stand for", advice, whole)
        for token in declared:
            name = token.text
            if (size and name in sheet.sizes) or (kind.text != "size" and name in sheet.declared):
                raise self.refuse(f"{name} is declared twice", "Take one of them away.", token.place)
            sheet.may_be_named(name, token.place)
            if size:
                sheet.sizes[name] = size.text, token.place
            if kind.text == "function" and start:
                if name in FUNCTIONS:
                    raise self.refuse(f"{name} is a function", "Choose another name.", token.place)
                sheet.functions[name] = TYPED[start.text]
            if kind.text != "size":
                number = float(start.text) * (-1 if negative else 1) if start and start.kind == "number" else None
                sheet.declared[name] = Given(kind.text, token.place, number)

    def equation(self) -> Equation:
        left = self.next()
        if left.kind != "name" or not self.at("="):
            raise self.refuse(
                "an equation is name = expression", "Its left side is one name, as in h_t = tanh(a_t).", left.place
            )
        if left.step == -1:
            raise self.refuse(
                "an equation makes a value of this step, t", f"Write {left.text}_t on the left side.", left.place
            )
        self.next()
        return Equation(left.text, left.step, self.whole(), left.place)

    def whole(self) -> Expression:
        value = self.sum()
        if self.at(")"):
            raise self.refuse("this bracket closes none", "Take it away, or open one with ( before it.")
        if self.token.kind != "end":
            raise self.left_over()
        return value

    def left_over(self) -> InputError:
        return self.refuse(
            f"{self.token.text} is left over behind a whole expression",
            "Between values stand + − ⊙ /, between equations ; or a new line. ² stands behind a value or a bracket, "
            "ᵀ behind the name of a matrix.",
        )

    def sum(self) -> Expression:
        start, terms = self.token.place, []
        sign = -1 if self.take("−") else 1
        while True:
            if self.at("+", "−"):
                raise self.refuse("a sign stands where a term has to", "Put a second sign in brackets: a + (−b).")
            terms.append((sign, self.term()))
            if not self.at("+", "−"):
                break
            sign = 1 if self.next().text == "+" else -1
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1]
        return Sum(tuple(terms), place=self.since(start))

    def term(self) -> Expression:
        start, found, signs = self.token.place, [self.factor()], []
        while self.at("⊙", "/"):
            signs.append(self.next().text)
            if len(signs) > 1 and "/" in signs:
                raise self.refuse(
                    "a term with / has one numerator and one denominator",
                    "Put brackets round the one or the other: (a ⊙ b) / c, a ⊙ (b / c), (a / b) / c.",
                    self.tokens[self.position - 1].place,
                )
            found.append(self.factor())
        factors = tuple(factor for factor, _ in found)
        if len(factors) == 1:
            return factors[0]
        bare = [n for n, (_, product) in enumerate(found) if product]
        if bare:
            raise self.refuse(*self._two_ways(signs[0], factors, bare[0]), self.since(start))
        if signs == ["/"]:
            return Over(*factors, place=self.since(start))
        return Times(factors, place=self.since(start))

    def _two_ways(self, sign: str, factors: tuple[Expression, ...], at: int) -> tuple[str, str]:
        product = factors[at]
        assert isinstance(product, Product)
        whole, left, right = (self.written(part) for part in (product, product.left, product.right))
        if at:
            before = self.written(factors[at - 1])
            ways = f"{before} {sign} ({whole}) or ({before} {sign} {left}) {right}"
        else:
            ways = f"({whole}) {sign} {self.written(factors[1])}"
        return f"a product with a matrix and {sign} in one term can be read in two ways", f"Write {ways}."

    def factor(self) -> tuple[Expression, bool]:
        """And whether it is a product without brackets."""
        start, value, product = self.token.place, self.atom(), False
        while self.at("@") or self._is_matrix():
            self.take("@")
            if not self._is_matrix():
                raise self.refuse("behind @ stands a matrix, a name with a capital", "Write ⊙ between values.")
            value, product = Product(value, self._matrix(), place=self.since(start)), True
        if self.token.kind in ("name", "number") or self.at("("):
            advice = (
                "Write ⊙ (or *) between values. Only a matrix, a name with a capital, follows a value with a space."
            )
            if isinstance(value, Name) and value.step is None and value.name[0].isupper():
                advice = f"Values are rows, so a matrix stands right of what it multiplies, as in x_t {value.name}."
            raise self.refuse(f"nothing says how this and what stands before it are joined: {self.token.text}", advice)
        return value, product

    def _is_matrix(self) -> bool:
        token = self.token
        after = self.tokens[self.position + 1 : self.position + 2]
        capital = token.kind == "name" and token.step is None and token.text[0].isupper()
        return (
            capital and token.text not in self.functions and not (after and after[0].text == "(" and token.text != "I")
        )

    def _matrix(self) -> Expression:
        token = self.next()
        self._count(token)
        matrix = Name(token.text, place=token.place)
        return Transposed(matrix, place=self.since(token.place)) if self.take("ᵀ") else matrix

    def _count(self, token: Token) -> None:
        self.operands += 1
        if self.operands > LARGEST:
            raise self.refuse(
                f"an equation holds at most {LARGEST} names and numbers",
                "Give parts of it lines of their own.",
                token.place,
            )

    def atom(self) -> Expression:
        token = self.token
        if token.kind == "end":
            raise self.refuse("a value is missing", "The line ends where one has to stand.")
        if self.take("("):
            value = self._inside(token)[0]
        elif token.kind == "number":
            self._count(self.next())
            value = Number(float(token.text), place=token.place)
        elif token.kind == "name":
            value = self._named()
        else:
            raise self.refuse(f"a value is missing before {token.text}", "Write a name, a number or a bracket there.")
        if self.take("²"):
            value = Square(value, place=self.since(token.place))
        return value

    def _inside(self, opened: Token) -> list[Expression]:
        """The expressions in brackets, up to their end."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.refuse(
                f"at most {DEEPEST} brackets stand inside one another",
                "Give the inner ones lines of their own.",
                opened.place,
            )
        values = [self.sum()]
        while opened.kind == "name" and self.take(","):
            values.append(self.sum())
        if self.token.kind == "end":
            raise self.refuse("this bracket is not closed", "Add ) where it ends.", opened.place)
        if not self.take(")"):
            raise self.left_over()
        self.depth -= 1
        return values

    def _named(self) -> Expression:
        token = self.next()
        self._count(token)
        if token.step is None and token.text in self.functions:
            return self._call(token)
        if self.at("("):
            near = get_close_matches(token.text, self.functions, 1)
            advice = f"Did you mean {near[0]}? " if near else f"A product is {token.text} ⊙ (…). "
            if token.step is None and self.tokens[self.position + 1].text == "t":
                advice = f"A time is written {token.text}_t, {token.text}_{{t-1}} or {token.text}[t-1]. "
            elif token.text[0].isupper():
                advice = f"A matrix stands right of what it multiplies, (…) {token.text}, and has a name. "
            known = ", ".join(name for name, function in FUNCTIONS.items() if function.typed)
            advice += f"The functions are {known} and {DROP}."
            raise self.refuse(f"no function is called {token.text}", advice, token.place)
        value = Name(token.text, token.step, place=token.place)
        if self.at("ᵀ"):
            if token.step is not None or not token.text[0].isupper():
                raise self.refuse("only a matrix is transposed", "Take ᵀ away: values are rows, and ⊙ keeps them so.")
            self.next()
            value = Transposed(value, place=self.since(token.place))
        return value

    def _call(self, token: Token) -> Expression:
        if not self.at("("):
            raise self.refuse(
                f"{token.text} is a function", f"Write {token.text}(…), or choose another name.", token.place
            )
        opened = self.next()
        values = self._inside(Token("name", token.text, None, opened.place))
        name = self.functions[token.text]
        wanted = 1 if name == DROP else len(self.sheet.function(name).back)
        if len(values) != wanted:
            raise self.refuse(
                f"{token.text} takes {wanted} argument{'s' * (wanted > 1)}, with commas between; got {len(values)}",
                f"Write {token.text}({', '.join('abc'[:wanted])}).",
                self.since(token.place),
            )
        return Call(name, tuple(values), place=self.since(token.place))
