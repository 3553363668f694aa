"""Expressions as text, which parses again where side A is concerned, and as TeX. One precedence table for both."""

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

SUM, TIMES, PRODUCT, ATOM = 1, 2, 3, 4
STEPS = {-1: "{t-1}", 0: "t", 1: "{t+1}"}


class Text:
    times, plus, minus, product, cotangent = " ⊙ ", " + ", "−", " ", "∂"

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
                return self.transposed(self.write(of, ATOM)), ATOM
            case Square(of):
                return self.square(self.write(of, ATOM)), ATOM
            case Product(left, right):
                return f"{self.write(left, PRODUCT)}{self.product}{self.write(right, ATOM)}", PRODUCT
            case Times(factors):
                return self.times.join(map(self._factor, factors)), TIMES
            case Over(above, below):
                return self.over(above, below)
            case Sum(terms):
                return self._sum(terms), SUM
            case Call(function, arguments):
                known = FUNCTIONS.get(function)
                if known is not None and known.form:
                    return self.form(known.form).format(*(self.write(argument, ATOM) for argument in arguments)), TIMES
                return self.call(function, ", ".join(map(self.write, arguments))), ATOM
        raise TypeError(e)

    def _factor(self, e: Expression) -> str:
        chooses = isinstance(e, Call) and e.function in FUNCTIONS and FUNCTIONS[e.function].form
        return self.write(e, TIMES if chooses else ATOM)

    def _sum(self, terms: tuple[tuple[int, Expression], ...]) -> str:
        first, *rest = ((sign, self.write(term, TIMES)) for sign, term in terms)
        written = (self.minus if first[0] < 0 else "") + first[1]
        return written + "".join(f" {self.minus} {term}" if sign < 0 else self.plus + term for sign, term in rest)

    def number(self, value: float) -> str:
        return str(int(value)) if value == int(value) and value < 1e15 else repr(value)

    def name(self, name: str, step: int | None) -> str:
        return name if step is None else f"{name}_{STEPS[step]}"

    def transposed(self, of: str) -> str:
        return f"{of}ᵀ"

    def square(self, of: str) -> str:
        return f"{of}²"

    def over(self, above: Expression, below: Expression) -> tuple[str, int]:
        return f"{self.write(above, ATOM)} / {self.write(below, ATOM)}", TIMES

    def call(self, function: str, arguments: str) -> str:
        return f"{function}({arguments})"

    def form(self, form: str) -> str:
        return form

    def words(self, words: str) -> str:
        return words


class Tex(Text):
    times, minus, product, cotangent = r" \odot ", "-", r" \, ", r"\partial "

    WORDS = {  # noqa: RUF012
        " = ": " &= ",
        " + ": " + ",
        ", ": ", ",
        "Σ_t ": r"\sum_{t} ",
        "Σ_batch ": r"\sum_{\text{batch}} ",
        "g(o_t)": r"g(o_{t})",
        "L = Σ_t w_t · loss(ŷ_t, y_t)": r"L &= \sum_{t} w_{t} \cdot \operatorname{loss}(\hat{y}_{t}, y_{t})",
        "∂ŷ_t/∂o_t": r"\partial \hat{y}_{t} / \partial o_{t}",
        "softmax: ŷ_i (δ_ik − ŷ_k)": r"\text{softmax: } \hat{y}_{i} (\delta_{ik} - \hat{y}_{k})",
        "w_t (ŷ_t − y_t)": r"w_{t} (\hat{y}_{t} - y_{t})",
    }

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
        return rf"\frac{{{self.write(above)}}}{{{self.write(below)}}}", ATOM

    def call(self, function: str, arguments: str) -> str:
        known = FUNCTIONS.get(function)
        return f"{known.tex if known else self.letter(function[0])}({arguments})"

    def form(self, form: str) -> str:
        return form.replace("⊙", r"\odot").replace("≥", r"\geq").replace("≤", r"\leq")

    def words(self, words: str) -> str:
        return self.WORDS.get(words) or rf"\text{{{words.replace('−', '-')}}}"


TEXT, TEX = Text(), Tex()
