"""Expressions as text, which parses again where side A is concerned, and as TeX. One precedence table for both."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
)
from bptt.sheet.functions import FUNCTIONS
from bptt.sheet.tokens import GREEK

SUM, TIMES, PRODUCT, POWER, ATOM = 1, 2, 3, 4, 5
STEPS = {-1: "t-1", 0: "t", 1: "t+1"}

Style = Literal["_", "^", "()", "[]"]
"""How a step stands beside a name: h_t, h^(t), h(t) or h[t]."""


class Words(NamedTuple):
    """Words between expressions, in both ways of writing."""

    text: str
    tex: str


@dataclass(frozen=True, slots=True)
class Glyph(Expression):
    """A name as a notation writes it: letters, below behind `_`, above behind `^`. With its step, and ∂ before it."""

    name: str
    step: int | None = None
    style: Style = "_"
    cotangent: bool = False


class Text:
    times, minus, product = " ⊙ ", "−", " "

    def write(self, e: Expression, least: int = SUM) -> str:
        """In brackets where it binds less than `least`."""
        written, binds = self._written(e)
        return f"({written})" if binds < least else written

    def _written(self, e: Expression) -> tuple[str, int]:
        match e:
            case Number(value):
                return (self.number(value), ATOM) if value >= 0 else (self.minus + self.number(-value), SUM)
            case Size(name):
                return self.glyph(Glyph(name)), ATOM
            case Name(name, step):
                return self.glyph(Glyph(name, step)), ATOM
            case Cotangent(name, step):
                return self.glyph(Glyph(name, step, cotangent=True)), ATOM
            case Glyph():
                return self.glyph(e), ATOM
            case Transposed(of):
                return self.transposed(of), POWER
            case Square(of):
                return self.square(of), POWER
            case Product(left, right):
                return f"{self.write(left, PRODUCT)}{self.product}{self.write(right, POWER)}", PRODUCT
            case Times(factors):
                written = (self.write(factor, TIMES if isinstance(factor, Call) else POWER) for factor in factors)
                return self.times.join(written), TIMES
            case Over(above, below):
                return self.over(above, below)
            case Sum(terms):
                return self._sum(terms), SUM
            case Call(function, arguments):
                known = FUNCTIONS.get(function)
                if known is not None and known.form:
                    return self.form(known.form).format(*(self.write(argument, POWER) for argument in arguments)), TIMES
                return self.call(function, ", ".join(map(self.write, arguments))), ATOM
        raise TypeError(e)

    def _sum(self, terms: tuple[tuple[int, Expression], ...]) -> str:
        first, *rest = ((sign, self.write(term, TIMES)) for sign, term in terms)
        written = (self.minus if first[0] < 0 else "") + first[1]
        return written + "".join(f" {self.minus if sign < 0 else '+'} {term}" for sign, term in rest)

    def number(self, value: float) -> str:
        return str(int(value)) if value.is_integer() and value < 1e15 else repr(value)

    def glyph(self, glyph: Glyph) -> str:
        written = "∂" * glyph.cotangent + glyph.name
        if glyph.step is None:
            return written
        step = STEPS[glyph.step]
        if glyph.style == "_":
            return f"{written}_{step if step == 't' else '{' + step + '}'}"
        return f"{written}^({step})" if glyph.style == "^" else f"{written}{glyph.style[0]}{step}{glyph.style[1]}"

    def transposed(self, of: Expression) -> str:
        return f"{self.write(of, ATOM)}ᵀ"

    def square(self, of: Expression) -> str:
        written = self.write(of, ATOM)
        return f"({written})²" if isinstance(of, Glyph) and of.style == "^" else f"{written}²"

    def over(self, above: Expression, below: Expression) -> tuple[str, int]:
        return f"{self.write(above, POWER)} / {self.write(below, POWER)}", TIMES

    def call(self, function: str, arguments: str) -> str:
        return f"{function}({arguments})"

    def form(self, form: str) -> str:
        return form

    def words(self, words: Words) -> str:
        return words.text


class Tex(Text):
    times, minus, product = r" \odot ", "-", r" \, "

    def number(self, value: float) -> str:
        digits, _, power = super().number(value).partition("e")
        return rf"{digits} \cdot 10^{{{int(power)}}}" if power else digits

    def glyph(self, glyph: Glyph, above: str = "") -> str:
        """W_xh has its letters below, and az_t is a with z above and t below. Longer words are upright.

        above: what else stands there, a transpose or a square.
        """
        stem, _, raised = glyph.name.partition("^")
        stem, *below = stem.split("_")
        letters = re.findall(".\u0303?", stem)
        if len(letters) > 2 and not stem[1:].isdigit():
            written, below = self.word(glyph.name), []
        else:
            written = self.letter(letters[0])
            if letters[1:] and (stem[1:].isdigit() or glyph.style != "_"):
                below.insert(0, stem[1:])
            elif letters[1:]:
                raised = letters[1]
        below = [self.word(part) if len(part) > 2 else "".join(map(self.letter, part)) for part in below]
        raised = "".join(map(self.letter, raised))
        behind = ""
        if glyph.step is not None:
            step = STEPS[glyph.step]
            match glyph.style:
                case "_":
                    below.append(step)
                case "^":
                    raised += f"({step})"
                case _:
                    behind = f"{glyph.style[0]}{step}{glyph.style[1]}"
        under, over = ", ".join(below), raised + above
        written += (f"_{{{under}}}" if under else "") + (f"^{{{over}}}" if over and not behind else "")
        return r"\partial " * glyph.cotangent + written + behind + (f"^{{{over}}}" if over and behind else "")

    def word(self, word: str) -> str:
        return f"\\mathrm{{{''.join(map(self.letter, word))}}}".replace("_", r"\_")

    def letter(self, letter: str) -> str:
        if letter == "ŷ":
            return r"\hat{y}"
        if letter.endswith("\u0303"):
            return rf"\tilde{{{letter[0]}}}"
        if letter.isascii():
            return letter
        called = next(name for name, own in GREEK.items() if own == letter)
        return "\\" + {"phi": "varphi", "epsilon": "varepsilon"}.get(called, called) + " "

    def transposed(self, of: Expression) -> str:
        return self.raised(of, r"\top")

    def square(self, of: Expression) -> str:
        """In brackets where a letter stands above already."""
        written = self.write(of, ATOM)
        raised = isinstance(of, Name | Cotangent | Glyph) and "^" in written
        return f"({written})^{{2}}" if raised else self.raised(of, "2")

    def raised(self, of: Expression, sign: str) -> str:
        match of:
            case Name(name, step):
                return self.glyph(Glyph(name, step), sign)
            case Glyph(cotangent=False):
                return self.glyph(of, sign)
        return f"{{{self.write(of, ATOM)}}}^{{{sign}}}"

    def over(self, above: Expression, below: Expression) -> tuple[str, int]:
        return rf"\frac{{{self.write(above)}}}{{{self.write(below)}}}", POWER

    def call(self, function: str, arguments: str) -> str:
        known = FUNCTIONS.get(function)
        name = known.tex if known else ""
        return f"{name or (self.letter(function) if len(function) == 1 else self.word(function))}({arguments})"

    def form(self, form: str) -> str:
        return form.replace("⊙", r"\odot").replace("≥", r"\geq").replace("≤", r"\leq")

    def words(self, words: Words) -> str:
        return words.tex


TEXT, TEX = Text(), Tex()
