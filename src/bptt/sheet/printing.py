"""Expressions as text, which parses again where side A is concerned, and as TeX. One precedence table for both."""

from typing import NamedTuple

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
STEPS = {-1: "{t-1}", 0: "t", 1: "{t+1}"}


class Words(NamedTuple):
    """What stands between expressions, in both ways of writing."""

    text: str
    tex: str


class Text:
    times, minus, product, cotangent = " ⊙ ", "−", " ", "∂"

    def write(self, e: Expression, least: int = SUM) -> str:
        """In brackets where it binds less than `least`."""
        written, binds = self._written(e)
        return f"({written})" if binds < least else written

    def _written(self, e: Expression) -> tuple[str, int]:
        match e:
            case Number(value):
                return (self.number(value), ATOM) if value >= 0 else (self.minus + self.number(-value), SUM)
            case Size(name):
                return self.name(name, None), ATOM
            case Name(name, step):
                return self.name(name, step), ATOM
            case Cotangent(name, step):
                return self.cotangent + self.name(name, step), ATOM
            case Transposed(of):
                return self.transposed(self.write(of, ATOM)), POWER
            case Square(of):
                return self.square(self.write(of, ATOM)), POWER
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

    def name(self, name: str, step: int | None) -> str:
        return name if step is None else f"{name}_{STEPS[step]}"

    def transposed(self, of: str) -> str:
        return f"{of}ᵀ"

    def square(self, of: str) -> str:
        return f"{of}²"

    def over(self, above: Expression, below: Expression) -> tuple[str, int]:
        return f"{self.write(above, POWER)} / {self.write(below, POWER)}", TIMES

    def call(self, function: str, arguments: str) -> str:
        return f"{function}({arguments})"

    def form(self, form: str) -> str:
        return form

    def words(self, words: Words) -> str:
        return words.text


class Tex(Text):
    times, minus, product, cotangent = r" \odot ", "-", r" \, ", r"\partial "

    def number(self, value: float) -> str:
        digits, _, power = super().number(value).partition("e")
        return rf"{digits} \cdot 10^{{{int(power)}}}" if power else digits

    def name(self, name: str, step: int | None) -> str:
        """az_t is a with z above and t below; W_xh has its letters below."""
        stem, *below = name.split("_")
        above = stem[1:]
        below = ["".join(map(self.letter, part)) for part in below] + (
            [STEPS[step].strip("{}")] if step is not None else []
        )
        written = self.letter(stem[0])
        if above:
            written += f"^{{{' '.join(map(self.letter, above))}}}"
        return written + (f"_{{{', '.join(below)}}}" if below else "")

    def letter(self, letter: str) -> str:
        if letter == "ŷ":
            return r"\hat{y}"
        if letter.isascii():
            return letter
        called = next(name for name, own in GREEK.items() if own == letter)
        return "\\" + {"phi": "varphi", "epsilon": "varepsilon"}.get(called, called) + " "

    def transposed(self, of: str) -> str:
        return f"{{{of}}}^{{\\top}}"

    def square(self, of: str) -> str:
        return f"{{{of}}}^{{2}}"

    def over(self, above: Expression, below: Expression) -> tuple[str, int]:
        return rf"\frac{{{self.write(above)}}}{{{self.write(below)}}}", POWER

    def call(self, function: str, arguments: str) -> str:
        known = FUNCTIONS.get(function)
        name = known.tex or rf"\operatorname{{{function}}}" if known else self.name(function, None)
        return f"{name}({arguments})"

    def form(self, form: str) -> str:
        return form.replace("⊙", r"\odot").replace("≥", r"\geq").replace("≤", r"\leq")

    def words(self, words: Words) -> str:
        return words.tex


TEXT, TEX = Text(), Tex()
