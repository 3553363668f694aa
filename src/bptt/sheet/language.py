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
    time      = "_t" | "_{t-1}" | "[t]" | "[t-1]"

What could be read in two ways is refused. Nothing is ever executed; length and depth are bounded.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from difflib import get_close_matches

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
)
from bptt.sheet.functions import FUNCTIONS, TYPED, Function
from bptt.sheet.tokens import SAME_LETTER, Token, refusal, statements

LONGEST, LARGEST, DEEPEST = 10_000, 64, 30
"""Characters of a text; names and numbers of an equation; brackets inside one another."""

NETWORK = {
    "y": "the targets", "o": "the output before g", "ŷ": "the prediction", "L": "the loss", "w": "the weight of a step",
    "W_ho": "the output's matrix", "b_o": "the output's bias",
}  # fmt: skip
KINDS = ("vector", "scalar", "constant", "rows", "input", "size", "function")


@dataclass(frozen=True)
class Given:
    """What comes from outside: kind "matrix", "vector", "scalar", "constant", "rows" or "input".

    rows: (B, width), the same at all steps, as a mask. start: the number a parameter begins with, or a constant is.
    """

    name: str
    kind: str
    place: Place
    start: float | None = None

    @property
    def learned(self) -> bool:
        return self.kind in ("matrix", "vector", "scalar")


@dataclass
class Sheet:
    """Side A of a cell as data. `names` adds what is given and the states, `widths` the sizes.

    declared        what the kinds say, by name
    steps, fixed    equations of a step, and those made once per call, in the order of the text
    given           by name: parameters, constants, masks and further inputs, in the order of their first use
    sizes           declared sizes, by the name of the value or matrix that has it
    functions       φ and the like: the function that each declared name stands for
    states          values read at t-1; output: the name of the last equation
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
    function_places: dict[str, Place] = field(default_factory=dict)
    states: tuple[str, ...] = ()
    widths: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[str, str]] = field(default_factory=dict)
    equal: list[tuple[str, str, Place]] = field(default_factory=list)

    @property
    def output(self) -> str:
        return self.steps[-1].name

    @property
    def equations(self) -> list[Equation]:
        """All of them, fixed lines first."""
        return [*self.fixed, *self.steps]

    def function(self, name: str) -> Function:
        return FUNCTIONS[self.functions.get(name, name)]

    def is_matrix(self, name: str) -> bool:
        given = self.given.get(name)
        fixed = name[0].isupper() and any(line.name == name for line in self.fixed)
        return name == "I" or fixed or (given is not None and given.kind == "matrix")

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
        if name in TYPED:
            raise self.refusal(place, f"{name} is a function", "Choose another name.")


def parse(text: str) -> Sheet:
    """The equations of a text; `bptt.sheet.names` checks what they name, `bptt.sheet.widths` how wide it is."""
    if not isinstance(text, str):
        raise InputError(f"A cell is text, one equation a line; got {type(text).__name__}.")
    if len(text) > LONGEST:
        raise InputError(
            f"A cell has at most {LONGEST:,} characters; got {len(text):,}. LSTM takes 300: is this the right text?"
        )
    text = unicodedata.normalize("NFC", text).translate(SAME_LETTER).replace("\t", " ")
    sheet = Sheet(tuple(re.split(r"\r\n|\r|\n", text)))
    found = [*statements(sheet.lines)]
    if not found:
        raise InputError(
            "A cell has at least one equation; this text has none. Write one a line, for example\n"
            "    a_t = x_t W_xh + h_{t-1} W_hh + b_h\n    h_t = tanh(a_t)"
        )
    for statement in found:
        if any(token.text == ":" for token in statement):
            _kind(sheet, statement)
    for statement in found:
        if all(token.text != ":" for token in statement):
            equation = Parser(sheet, statement).equation()
            (sheet.fixed if equation.step is None else sheet.steps).append(equation)
    return sheet


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
        own = {name: name for name in FUNCTIONS} if ours else {}
        self.functions = TYPED | {name: name for name in sheet.functions} | own

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
        self.position += 1
        return self.tokens[self.position - 1]

    def since(self, start: Place) -> Place:
        return Place(start.line, start.start, self.tokens[self.position - 1].place.end)

    def refuse(self, rule: str, advice: str, place: Place | None = None) -> InputError:
        return self.sheet.refusal(place or self.token.place, rule, advice)

    def written(self, e: Expression) -> str:
        place = e.place
        return self.sheet.lines[place.line][place.start : place.end] if place and place.end - place.start < 30 else "…"

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
            raise self.refuse(
                f"{self.token.text} is left over behind a whole expression",
                "One equation a line, or several with ; between them; + − ⊙ / between values.",
            )
        return value

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
        start = self.token.place
        bare = self.factor()
        factors, products = [bare[0]], [bare[1]]
        divided = False
        while self.at("⊙", "/"):
            sign = self.next()
            if divided or (sign.text == "/" and len(factors) > 1):
                raise self.refuse(
                    "a term with / has one numerator and one denominator",
                    "Put brackets round the one or the other: (a ⊙ b) / c, a ⊙ (b / c), (a / b) / c.",
                    sign.place,
                )
            divided = sign.text == "/"
            bare = self.factor()
            factors.append(bare[0])
            products.append(bare[1])
        if len(factors) == 1:
            return factors[0]
        if any(products):
            sign = "/" if divided else "⊙"
            raise self.refuse(*self._two_ways(sign, factors, products.index(True)), self.since(start))
        if divided:
            return Over(factors[0], factors[1], place=self.since(start))
        return Times(tuple(factors), place=self.since(start))

    def _two_ways(self, sign: str, factors: list[Expression], at: int) -> tuple[str, str]:
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
            raise self.refuse(
                f"nothing says how this and what stands before it are joined: {self.token.text}",
                "Write ⊙ (or *) between values. Only a matrix, a name with a capital, follows a value with a space.",
            )
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
        """What stands in brackets, up to their end."""
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
        if not self.take(")"):
            raise self.refuse("this bracket is not closed", "Add ) where it ends.", opened.place)
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
            known = ", ".join(name for name, function in FUNCTIONS.items() if function.typed)
            raise self.refuse(f"no function is called {token.text}", f"{advice}The functions are {known}.", token.place)
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
        wanted = self.sheet.function(name).arguments
        if len(values) != wanted:
            raise self.refuse(
                f"{token.text} takes {wanted} argument{'s' * (wanted > 1)}, with commas between; got {len(values)}",
                f"Write {token.text}({', '.join('abc'[:wanted])}).",
                self.since(token.place),
            )
        return Call(name, tuple(values), place=self.since(token.place))


def _kind(sheet: Sheet, tokens: list[Token]) -> None:
    """`p_i, p_f : vector = 1` and the like."""
    colon = next(n for n, token in enumerate(tokens) if token.text == ":")
    left, right = tokens[:colon], tokens[colon + 1 :]
    advice = (
        "Write names : kind, as in p_i, p_f : vector. Kinds are vector, scalar (either with = and its start), "
        "constant = 0.1, rows, input, size S, function = tanh."
    )
    proper = all((t.kind == "name" and t.step is None) if n % 2 == 0 else t.text == "," for n, t in enumerate(left))
    if not proper or len(left) % 2 == 0:
        raise sheet.refusal(tokens[0].place, "left of : stand names without a time, with commas", advice)
    kind = right[0]
    if kind.text not in KINDS:
        raise sheet.refusal(kind.place, "what a name is has to be one of the kinds", advice)
    rest = right[1:-1]
    size = None
    if kind.text in ("size", "input") and rest and rest[0].kind == "name":
        size, rest = rest[0], rest[1:]
    value = _value(rest)
    needs_value, may_have = kind.text in ("constant", "function"), kind.text in ("vector", "scalar")
    whole = Place(kind.place.line, kind.place.start, right[-2].place.end)
    if (kind.text == "size" and size is None) or (needs_value and value is None) or (rest and value is None):
        raise sheet.refusal(whole, f"this does not say which {kind.text} it is, or says too much", advice)
    if value is not None and not (needs_value or may_have):
        raise sheet.refusal(whole, f"{kind.text} has no number", advice)
    if size is not None and (not size.text[0].isupper() or size.text in ("T", "B", "O", "L") or size.step is not None):
        raise sheet.refusal(size.place, "a size is a capital letter, and T, B and O are taken", "Write for example S.")
    for token in left[::2]:
        name = token.text
        if name in sheet.declared or name in sheet.functions or (kind.text == "size" and name in sheet.sizes):
            raise sheet.refusal(token.place, f"{name} is declared twice", "Take one of them away.")
        sheet.may_be_named(name, token.place)
        if size is not None:
            sheet.sizes[name] = size.text, token.place
        if kind.text == "function":
            if value not in TYPED:
                raise sheet.refusal(whole, f"no function is called {value}", f"Functions are {', '.join(TYPED)}.")
            sheet.functions[name] = TYPED[str(value)]
            sheet.function_places[name] = token.place
        elif kind.text != "size":
            if isinstance(value, str):
                raise sheet.refusal(whole, f"behind = stands a number; got {value}", advice)
            sheet.declared[name] = Given(name, kind.text, token.place, value)


def _value(tokens: list[Token]) -> float | str | None:
    """The number or name behind = ."""
    if len(tokens) >= 2 and tokens[0].text == "=":
        *minus, last = tokens[1:]
        if last.kind == "number" and [token.text for token in minus] in ([], ["−"]):
            return -float(last.text) if minus else float(last.text)
        if last.kind == "name" and not minus and last.step is None:
            return last.text
    return None
