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
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

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
    walk,
)
from bptt.sheet.functions import FUNCTIONS, TYPED, Function

LONGEST, LARGEST, DEEPEST = 10_000, 64, 30
"""Characters of a text; names and numbers of an equation; brackets inside one another."""

_GREEK_NAMES = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi"
GREEK = dict(zip([*_GREEK_NAMES.split(), "omega"], "αβγδεζηθικλμνξπρστφχψω", strict=True))
LETTERS = "A-Za-zŷ" + "".join(GREEK.values()) + "ΓΔΘΛΞΠΣΦΨΩ"
SAME_LETTER = str.maketrans("ϕϵɛµϑ", "φεεμθ")
_ALIKE = "аеіјорсухѕԁһАВЕІЈКМНОРСТХЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧους", "aeijopcyxsdhABEIJKMHOPCTXSABEZHIKMNOPTYXovs"
LOOKS_LIKE = dict(zip(*_ALIKE, strict=True))

SAME_SIGN = dict.fromkeys(("*", ".*", "·", "∘", "∙", "∗"), "⊙") | {"-": "−", "–": "−", "'": "ᵀ", "^T": "ᵀ", "^2": "²"}
INSTEAD = {
    "×": "Write ⊙ (or *) for a product entry by entry, and a space for one with a matrix: h_{t-1} W_hh.",
    "^": "A square is a² or a^2, a transpose Wᵀ, W' or W^T; other powers are products: a ⊙ a².",
    "₋": "Write h_{t-1} or h[t-1] for the step before.",
    "ₜ": "Write h_t for this step, h_{t-1} or h[t-1] for the step before.",
    "∂": "Only side A is typed: side B, with all ∂, is derived from it.",
    "_": "A subscript joins two parts of a name, as in W_xh, or is a time: h_t, h_{t-1}.",
    "[": "Only a time stands in such brackets, right behind a name: h[t], h[t-1]. Others are round: ( ).",
    "{": "Only a time stands in such brackets, right behind a name: h_{t-1}. Others are round: ( ).",
}  # fmt: skip
NETWORK = {
    "y": "the targets", "o": "the output before g", "ŷ": "the prediction", "L": "the loss", "w": "the weight of a step",
    "W_ho": "the output's matrix", "b_o": "the output's bias",
}  # fmt: skip
KINDS = ("vector", "scalar", "constant", "rows", "input", "size", "function")

_WORD = re.compile(rf"[{LETTERS}][{LETTERS}0-9]*(?:_[{LETTERS}0-9]+)*")
_TIME = re.compile(r"_\{([^{}]*)\}|\[([^\[\]]*)\]")
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SIGN = re.compile(r"\.\*|\^T(?![A-Za-z0-9])|\^2(?![0-9.])|[()+⊙*·∘∙∗/−–\-,ᵀ²'@=:;]")
_BEFORE = re.compile(r"\s*t\s*[-−–]\s*1\s*")


class Token(NamedTuple):
    """kind: "name", "number", "sign" or "end". step: of a name with a time, 0 or -1."""

    kind: str
    text: str
    step: int | None
    place: Place


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
    """Side A of a cell as data. `bptt.sheet.widths` adds widths, shapes and what they force to be equal.

    steps, fixed    equations of a step, and those made once per call, in the order of the text
    given           by name: parameters, constants, masks and further inputs, in the order of their first use
    sizes           declared sizes, by the name of the value or matrix that has it
    functions       φ and the like: the function that each declared name stands for
    states          values read at t-1; output: the name of the last equation
    widths, shapes  sizes of values and vectors ("1", "H", "I", ...), rows and columns of matrices
    equal           pairs of sizes that the equations force to be equal, with the place that does
    """

    lines: tuple[str, ...]
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


def refusal(lines: tuple[str, ...], place: Place | None, rule: str, advice: str) -> InputError:
    """The rule, the line with a caret under what breaks it, and what to write instead."""
    at, start, end = place or Place(0, 0, 1)
    shown = "".join(letter if letter.isprintable() else "�" for letter in lines[at])
    first = max(0, start - 60)
    part = ("…" if first else "") + shown[first : first + 110] + ("…" if first + 110 < len(shown) else "")
    caret = " " * (start - first + bool(first)) + "^" * max(1, min(end, first + 110) - start)
    return InputError(f"Line {at + 1}, column {start + 1}: {rule}\n    {part}\n    {caret}\n  {advice}")


def parse(text: str) -> Sheet:
    """The sheet of a text, names and times checked; `bptt.sheet.widths` goes on with it."""
    if not isinstance(text, str):
        raise InputError(f"A cell is text, one equation a line; got {type(text).__name__}.")
    if len(text) > LONGEST:
        raise InputError(
            f"A cell has at most {LONGEST:,} characters; got {len(text):,}. LSTM takes 300: is this the right text?"
        )
    text = unicodedata.normalize("NFC", text).translate(SAME_LETTER).replace("\t", " ")
    sheet = Sheet(tuple(re.split(r"\r\n|\r|\n", text)))
    statements = [s for at, line in enumerate(sheet.lines) for s in _statements(sheet, at, line)]
    if not statements:
        raise InputError(
            "A cell has at least one equation; this text has none. Write one a line, for example\n"
            "    a_t = x_t W_xh + h_{t-1} W_hh + b_h\n    h_t = tanh(a_t)"
        )
    declared: dict[str, Given] = {}
    for statement in statements:
        if any(token.text == ":" for token in statement):
            _kind(sheet, declared, statement)
    for statement in statements:
        if all(token.text != ":" for token in statement):
            equation = Parser(sheet, statement).equation()
            (sheet.fixed if equation.step is None else sheet.steps).append(equation)
    _check(sheet, declared)
    return sheet


def parse_expression(text: str) -> Expression:
    """One of our own, as in the table of functions."""
    sheet = Sheet((text,))
    (tokens,) = _statements(sheet, 0, text)
    return Parser(sheet, tokens, ours=True).whole()


def _statements(sheet: Sheet, at: int, line: str) -> Iterable[list[Token]]:
    code, tokens, position = line.split("#")[0], [], 0
    while position < len(code):
        if code[position].isspace():
            position += 1
            continue
        token, position = _token(sheet, at, code, position)
        if token.text != ";":
            tokens.append(token)
        elif tokens:
            yield [*tokens, Token("end", "", None, token.place)]
            tokens = []
    if tokens:
        end = len(code.rstrip())
        yield [*tokens, Token("end", "", None, Place(at, end, end + 1))]


def _token(sheet: Sheet, at: int, code: str, start: int) -> tuple[Token, int]:
    if word := _WORD.match(code, start):
        return _name(sheet, at, code, word)
    if number := _NUMBER.match(code, start):
        if float(number[0]) == float("inf"):
            raise sheet.refusal(Place(at, *number.span()), "a number has to be finite", "Write a smaller one.")
        return Token("number", number[0], None, Place(at, *number.span())), number.end()
    if sign := _SIGN.match(code, start):
        return Token("sign", SAME_SIGN.get(sign[0], sign[0]), None, Place(at, *sign.span())), sign.end()
    letter, place = code[start], Place(at, start, start + 1)
    if letter in LOOKS_LIKE:
        raise sheet.refusal(
            place,
            f"{letter!r} is {unicodedata.name(letter)}: it only looks like {LOOKS_LIKE[letter]!r}",
            f"Type the Latin {LOOKS_LIKE[letter]!r}.",
        )
    known = unicodedata.name(letter, "")
    raise sheet.refusal(
        place,
        f"{letter!r}{f' ({known})' if known and not letter.isascii() else ''} means nothing here",
        INSTEAD.get(letter, "Names are Latin and Greek letters and digits; signs are + − ⊙ / ( ) , = ² ᵀ and twins."),
    )


def _name(sheet: Sheet, at: int, code: str, word: re.Match[str]) -> tuple[Token, int]:
    name, step, end = word[0], None, word.end()
    if name.endswith("_t"):
        name, step = name[:-2], 0
        if minus := re.compile(r"[-−–][0-9]").match(code, end):
            raise sheet.refusal(
                Place(at, word.start(), minus.end()),
                f"{code[word.start() : minus.end()]} can be read in two ways",
                f"Write {name}_{{t-1}} or {name}[t-1] for the step before; {name}_t − 1, with spaces, for minus 1.",
            )
    elif time := _TIME.match(code, end):
        end, inside = time.end(), time[1] if time[1] is not None else time[2]
        place = Place(at, word.start(), end)
        if inside.strip() == "t":
            step = 0
        elif _BEFORE.fullmatch(inside):
            step = -1
        elif inside.strip().startswith("t"):
            raise sheet.refusal(
                place,
                "a cell knows this step, t, and of its states the step before, t-1",
                f"Write {name}_t or {name}_{{t-1}}. What is older is handed on by a state: k_t = {name}_{{t-1}}.",
            )
        else:
            raise sheet.refusal(
                place,
                "in such brackets stands a time, t or t-1",
                f"A subscript has none: {name}_{inside.strip() or 'h'}.",
            )
    name = GREEK.get(name, name)
    return Token("name", name, step, Place(at, word.start(), end)), end


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


def _kind(sheet: Sheet, declared: dict[str, Given], tokens: list[Token]) -> None:
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
        if name in declared or name in sheet.functions or (kind.text == "size" and name in sheet.sizes):
            raise sheet.refusal(token.place, f"{name} is declared twice", "Take one of them away.")
        _may_be_named(sheet, name, token.place)
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
            declared[name] = Given(name, kind.text, token.place, value)


def _value(tokens: list[Token]) -> float | str | None:
    """The number or name behind = ."""
    if len(tokens) >= 2 and tokens[0].text == "=":
        *minus, last = tokens[1:]
        if last.kind == "number" and [token.text for token in minus] in ([], ["−"]):
            return -float(last.text) if minus else float(last.text)
        if last.kind == "name" and not minus and last.step is None:
            return last.text
    return None


def _may_be_named(sheet: Sheet, name: str, place: Place | None) -> None:
    if name in NETWORK:
        raise sheet.refusal(
            place,
            f"{name} is {NETWORK[name]}: it belongs to the network around the cell",
            "Choose another name" + (": LSTM's output gate is q here." if name == "o" else "."),
        )
    if name in ("x", "t", "I"):
        meant = {"x": "the input of the cell", "t": "the step", "I": "the identity matrix"}[name]
        raise sheet.refusal(place, f"{name} is {meant}", "Choose another name.")
    if name in TYPED:
        raise sheet.refusal(place, f"{name} is a function", "Choose another name.")


def _check(sheet: Sheet, declared: dict[str, Given]) -> None:
    """Every name is known and there when it is read; something is a state; the output needs every line."""
    order = {}
    for line in sheet.equations:
        _may_be_named(sheet, line.name, line.place)
        if line.name in order or line.name in declared or line.name in sheet.functions:
            raise sheet.refusal(line.place, f"{line.name} is defined twice", "Give one of the two another name.")
        order[line.name] = len(order)
    steps = {line.name for line in sheet.steps}
    if not sheet.steps:
        raise sheet.refusal(
            sheet.fixed[0].place if sheet.fixed else None,
            "no equation is of a step",
            "Write times, as in h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h).",
        )
    states = []
    for line in sheet.equations:
        for name in names(line.value):
            _read(sheet, declared, line, name, order, steps)
            if name.step == -1 and name.name not in states:
                states.append(name.name)
        _matrices_in_place(sheet, line)
        _bounds(sheet, line)
    if not states:
        raise sheet.refusal(
            sheet.steps[-1].place,
            "a recurrent cell reads a value of the step before; this one none",
            f"Write for example {sheet.output}_{{t-1}} where the past comes in.",
        )
    sheet.states = tuple(line.name for line in sheet.steps if line.name in states)
    _all_needed(sheet, declared)


def _read(
    sheet: Sheet, declared: dict[str, Given], line: Equation, name: Name, order: dict[str, int], steps: set[str]
) -> None:
    text, place = name.name, name.place
    given = declared.get(text)
    if text in NETWORK:
        _may_be_named(sheet, text, place)
    if name.step is not None:
        if line.step is None:
            raise sheet.refusal(
                place, f"{line.name} has no time, so it cannot read a value of a step", f"Give it one: {line.name}_t."
            )
        if text == "x" or (given is not None and given.kind == "input"):
            if name.step == -1:
                raise sheet.refusal(
                    place,
                    "only states have a step before: of inputs a cell reads this step, t",
                    f"Write {text}_t. To see the last one, hand it on by a state: k_t = {text}_t, and read k_{{t-1}}.",
                )
            if given is not None:
                sheet.given[text] = given
        elif text not in steps:
            near = get_close_matches(text, [*steps, "x"], 1)
            raise sheet.refusal(
                place,
                f"{text} has no equation that makes it at each step",
                (f"Did you mean {near[0]}_t? " if near else "")
                + f"An input per step is declared: {text} : input. What has no time is written without: {text}.",
            )
        elif name.step == 0 and order[text] >= order[line.name]:
            raise sheet.refusal(
                place,
                f"{text}_t is read before it is made",
                f"Write {text}_{{t-1}} for the step before, or move its equation up.",
            )
    elif text == "I" and line.step is not None:
        raise sheet.refusal(
            place,
            "I, the identity matrix, stands in fixed lines only",
            "Make the matrix in a line without a time: M = W_hh − γ ⊙ I.",
        )
    elif text == "x" or text in steps or (given is not None and given.kind == "input"):
        raise sheet.refusal(
            place, f"{text} has a value at each step", f"Write {text}_t, or {text}_{{t-1}} for a state."
        )
    elif text in order:
        if order[text] >= order[line.name]:
            raise sheet.refusal(place, f"{text} is read before it is made", "Move its equation up.")
    elif text != "I":
        _parameter(sheet, given, name, steps, declared)


def _parameter(sheet: Sheet, given: Given | None, name: Name, steps: set[str], declared: dict[str, Given]) -> None:
    text = name.name
    if text in sheet.given:
        return
    assert name.place is not None
    if given is None and text[0].isupper():
        given = Given(text, "matrix", name.place)
    elif given is None and (text == "b" or text.startswith("b_")):
        given = Given(text, "vector", name.place)
    elif given is None:
        near = get_close_matches(text, [*steps, *declared, "x"], 1)
        meant = f"Did you mean {near[0]}{'' if near[0] in declared else '_t'}? " if near else ""
        raise sheet.refusal(
            name.place,
            f"{text} is not known",
            f"{meant}Values have a time, {text}_t; a parameter or number is declared: {text} : vector, scalar, or "
            "constant = 0.1. Without that, W… is a matrix and b… a vector.",
        )
    sheet.given[text] = given


def _matrices_in_place(sheet: Sheet, line: Equation) -> None:
    """In an equation of a step, matrices stand right of a value and nowhere else."""
    right: set[int] = set()
    for e in walk(line.value):
        if isinstance(e, Product):
            matrix = e.right.of if isinstance(e.right, Transposed) else e.right
            assert isinstance(matrix, Name)
            right |= {id(e.right), id(matrix)}
            if not sheet.is_matrix(matrix.name):
                raise sheet.refusal(matrix.place, f"{matrix.name} is no matrix", f"Write ⊙ before it: ⊙ {matrix.name}.")
        elif id(e) in right or line.step is None:
            continue
        elif isinstance(e, Transposed) or (isinstance(e, Name) and e.step is None and sheet.is_matrix(e.name)):
            raise sheet.refusal(
                e.place,
                "a matrix stands right of a value, with a space between them",
                "Write for example x_t W_xh: values are rows. ⊙ and + are for values and vectors.",
            )


def _bounds(sheet: Sheet, line: Equation) -> None:
    for e in walk(line.value):
        if isinstance(e, Call):
            for back, argument in zip(sheet.function(e.function).back, e.arguments, strict=True):
                constants = {name for name, given in sheet.given.items() if given.kind == "constant"}
                constant = all(
                    isinstance(part, Number | Sum | Times) or (isinstance(part, Name) and part.name in constants)
                    for part in walk(argument)
                )
                if back is None and not constant:
                    raise sheet.refusal(
                        argument.place,
                        f"the bounds of {e.function} are numbers or constants",
                        "max and min take values.",
                    )


def _all_needed(sheet: Sheet, declared: dict[str, Given]) -> None:
    reads = {line.name: {name.name for name in names(line.value)} for line in sheet.equations}
    if "h" in reads and sheet.output != "h":
        raise sheet.refusal(
            sheet.steps[-1].place,
            f"the last equation is the output, which h has to be; here it is {sheet.output}",
            "Move the equation of h to the end, or give h another name.",
        )
    needed, waiting = set(), [sheet.output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += reads.get(name, ())
    for line in sheet.equations:
        if line.name not in needed:
            raise sheet.refusal(
                line.place,
                f"the output {sheet.output}_t, which is the last equation, does not depend on {line.name}",
                "Read it where it is meant, move the output's equation to the end, or take this line away.",
            )
    if "x" not in needed:
        raise sheet.refusal(
            sheet.steps[-1].place,
            "a cell reads its input, x_t, and this one does not",
            "Write for example x_t W_xh where the input comes in.",
        )
    called = {e.function for line in sheet.equations for e in walk(line.value) if isinstance(e, Call)}
    places = {name: given.place for name, given in declared.items()} | sheet.function_places
    for name, place in (places | {name: place for name, (_, place) in sheet.sizes.items()}).items():
        if name not in needed and name not in called:
            raise sheet.refusal(place, f"{name} is declared, and no equation reads it", "Take it away, or read it.")
