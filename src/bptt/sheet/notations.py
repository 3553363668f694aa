"""The sheet as other books and libraries write it: their names, how they write a step, rows or columns.

A notation is a table of names. What it has no name for keeps its letter, and so does what would get a letter that
another name of the cell bears.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from bptt.errors import InputError
from bptt.sheet.cells import CELLS
from bptt.sheet.derivation import Derivation
from bptt.sheet.expressions import Cotangent, Expression, Name, Product, Sum, Transposed, mapped, names
from bptt.sheet.printing import TEXT, Glyph, Style, Words
from bptt.sheet.sides import EQUALS, Line, Side, Term, side_a, side_b

AROUND = ("x_t", "o_t", "ŷ_t", "y_t", "w_t", "L", "W_ho", "b_o")
"""The names around every cell."""


@dataclass(frozen=True)
class Notation:
    """One line of the table.

    of          the book or library; "" for this project
    names       what it calls the names of the sheet, which have _t at a step. ᵀ behind a name: its matrix is the
                transpose. a + b: the sum of both is one on the sheet
    cells       more such names, for cells that are built in
    notes       where the parts of a library's parameters lie, by cell
    style       how it writes a step
    columns     its vectors are columns, so products are turned round and every matrix is transposed
    bias_first  biases stand first in a sum, and the product with the input last
    """

    of: str
    names: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    style: Style = "_"
    columns: bool = False
    bias_first: bool = False


def _gates(called: Mapping[str, tuple[str, str]], a: str, W_x: str, W_h: str, b: str) -> dict[str, str]:
    """Names of gates. called: by the sheet's letter a gate's own name and its index, which goes to * of the others."""
    found = {}
    for letter, (value, index) in called.items():
        found[f"{letter}_t"] = value
        for name, there in ((f"a{letter}_t", a), (f"W_x{letter}", W_x), (f"W_h{letter}", W_h), (f"b_{letter}", b)):
            found[name] = there.replace("*", index).rstrip("_^")
    return found


def _same(letters: str, **others: tuple[str, str]) -> dict[str, tuple[str, str]]:
    return {letter: others.get(letter, (letter, letter)) for letter in letters}


def _posts() -> Notation:
    like = ("h*", "W_x*", "W_a*", "b_*")
    lstm, gru, mgu = (_gates(_same(letters), *like) for letters in ("ifgq", "rzn", "fn"))
    return Notation(
        "posts on side A and side B",
        {"a_t": "h", "h_t": "a", "W_hh": "W_ah", "W_ho": "W_ao"},
        {"lstm": lstm, "peephole": lstm, "gru": gru | {"b_hn": "b_an"}, "gru-v1": gru, "mgu": mgu},
        style="()",
    )


def _d2l() -> Notation:
    like, candidate = ("a*", "W_x*", "W_h*", "b_*"), ("H\u0303", "h")
    lstm = _gates({"i": ("I", "i"), "f": ("F", "f"), "g": ("C\u0303", "c"), "q": ("O", "o")}, *like)
    lstm |= {"c_t": "C", "p_q": "p_o", "o_t": "out"}
    gru = _gates({"r": ("R", "r"), "z": ("Z", "z"), "n": candidate}, *like)
    mgu = _gates({"f": ("F", "f"), "n": candidate}, *like)
    return Notation(
        "Dive into Deep Learning",
        {"x_t": "X", "h_t": "H", "o_t": "O", "W_ho": "W_hq", "b_o": "b_q"},
        {
            "lstm": lstm,
            "peephole": lstm,
            "gru": gru | {"b_xn": "b_xh", "b_hn": "b_hh"},
            "gru-v1": gru,
            "mgu": mgu,
        },
    )


def _goodfellow() -> Notation:
    like, candidate = ("a*", "U^*", "W^*", "b^*"), ("h\u0303", "")
    lstm = _gates({"i": ("g", "g"), "f": ("f", "f"), "g": ("s\u0303", ""), "q": ("q", "o")}, *like)
    lstm |= {"c_t": "s", "p_i": "p^g", "p_f": "p^f", "p_q": "p^o"}
    gru = _gates({"r": ("r", "r"), "z": ("u", "u"), "n": candidate}, *like)
    mgu = _gates({"f": ("f", "f"), "n": candidate}, *like)
    return Notation(
        "Deep Learning by Goodfellow, Bengio and Courville, chapter 10",
        {"W_xh": "U", "W_hh": "W", "b_h": "b", "W_ho": "V", "b_o": "c"},
        {"lstm": lstm, "peephole": lstm, "gru": gru | {"b_xn": "b", "b_hn": "b^m"}, "gru-v1": gru, "mgu": mgu},
        style="^",
        columns=True,
        bias_first=True,
    )


def _pytorch() -> Notation:
    like = ("a*", "W_i*ᵀ", "W_h*ᵀ", "b_i* + b_h*")
    lstm = _gates(_same("ifgq", q=("o", "o")), *like) | {"p_q": "p_o", "o_t": "Linear"}
    gru = _gates(_same("rzn"), *like)
    blocks = "weight_ih is {}, one below the other, and weight_hh is {}; bias_ih and bias_hh likewise"
    return Notation(
        "PyTorch",
        {
            "h_t": "output",
            "W_xh": "weight_ihᵀ",
            "W_hh": "weight_hhᵀ",
            "b_h": "bias_ih + bias_hh",
            "W_ho": "Linear.weightᵀ",
            "b_o": "Linear.bias",
        },
        {
            "lstm": lstm,
            "peephole": lstm,
            "gru": gru | {"b_xn": "b_in", "b_hn": "b_hn"},
            "gru-v1": gru | {"b_n": "b_in"},
        },
        {
            "lstm": blocks.format("W_ii, W_if, W_ig, W_io", "W_hi, W_hf, W_hg, W_ho"),
            "gru": blocks.format("W_ir, W_iz, W_in", "W_hr, W_hz, W_hn"),
        },
        style="[]",
    )


def _keras() -> Notation:
    like = ("a*", "kernel_*", "recurrent_kernel_*", "bias_*")
    lstm = _gates(_same("ifgq", g=("g", "c"), q=("o", "o")), *like) | {"p_q": "p_o", "o_t": "Dense"}
    gru = _gates(_same("rzn", n=("h\u0303", "h")), *like)
    both = {f"b_{gate}": f"input_bias_{gate} + recurrent_bias_{gate}" for gate in "rz"}
    both |= {"b_xn": "input_bias_h", "b_hn": "recurrent_bias_h"}
    blocks = "kernel is {}, side by side; {} likewise"
    return Notation(
        "Keras",
        {
            "h_t": "state",
            "W_xh": "kernel",
            "W_hh": "recurrent_kernel",
            "b_h": "bias",
            "W_ho": "Dense.kernel",
            "b_o": "Dense.bias",
        },
        {"lstm": lstm, "peephole": lstm, "gru": gru | both, "gru-v1": gru},
        {
            "lstm": blocks.format("kernel_i, kernel_f, kernel_c, kernel_o", "recurrent_kernel and bias"),
            "gru": blocks.format("kernel_z, kernel_r, kernel_h", "recurrent_kernel and both rows of bias"),
            "gru-v1": blocks.format("kernel_z, kernel_r, kernel_h", "recurrent_kernel and bias"),
        },
        style="[]",
    )


NOTATIONS = {
    "bptt": Notation(""),
    "posts": _posts(),
    "d2l": _d2l(),
    "goodfellow": _goodfellow(),
    "pytorch": _pytorch(),
    "keras": _keras(),
}


def notation(name: str) -> Notation:
    """One of NOTATIONS, by its name in small letters or capitals; InputError with all of them otherwise."""
    if name.lower() not in NOTATIONS:
        near = get_close_matches(name.lower(), NOTATIONS, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"A notation is one of {', '.join(NOTATIONS)}; got {name!r}.{meant}")
    return NOTATIONS[name.lower()]


@dataclass(frozen=True)
class Board:
    """A cell in a notation: both sides, what is kept for the way back, what is made again from that.

    names  what the names of the sheet became, where that is another name
    note   where the parts of a library's parameters lie; "" where there is nothing to say
    """

    notation: Notation
    side_a: Side
    side_b: Side
    kept: tuple[str, ...]
    made_again: tuple[str, ...]
    names: dict[str, str]
    note: str

    @property
    def tex(self) -> str:
        """Both sides as two `aligned` blocks, which amsmath, MathJax and KaTeX know."""
        return f"{self.side_a.tex}\n\n{self.side_b.tex}\n"


def board(found: Derivation, text: str, chosen: Notation) -> Board:
    """text: what the cell was derived from, by which those that are built in are known."""
    known = next((name for name, own in CELLS.items() if own == text), "")
    translation = _Translation(found, chosen, {**chosen.names, **chosen.cells.get(known, {})})
    return Board(
        chosen,
        translation.side(side_a(found)),
        translation.side(side_b(found)),
        tuple(TEXT.write(translation.of(value)) for value in found.kept),
        tuple(TEXT.write(translation.of(Name(name, 0))) for name in found.made_again),
        translation.legend(),
        chosen.notes.get(known, ""),
    )


class _Translation:
    def __init__(self, found: Derivation, chosen: Notation, table: Mapping[str, str]) -> None:
        self.found, self.chosen = found, chosen
        given = found.sheet.given
        here = [*AROUND, *(f"{name}_t" if one.kind == "input" else name for name, one in given.items())]
        here += [f"{line.name}_t" for line in found.steps]
        self.names = _apart(
            {name: table.get(name, _letter(name)) for name in here}, (line.name for line in found.fixed)
        )

    def legend(self) -> dict[str, str]:
        matrices = {"W_ho", *(name for name, given in self.found.sheet.given.items() if given.kind == "matrix")}
        turned = matrices if self.chosen.columns else ()
        return {name: there + "ᵀ" * (name in turned) for name, there in self.names.items() if there != _letter(name)}

    def side(self, side: Side) -> Side:
        return replace(side, lines=tuple(map(self.line, side.lines)), where=tuple(map(self.line, side.where)))

    def line(self, line: Line) -> Line:
        first = line.parts[0]
        turned = isinstance(first, Cotangent) and first.step is None and self.there(first.name).endswith("ᵀ")
        parts: list[Expression | Words] = []
        for part in line.parts:
            if isinstance(part, Words):
                parts.append(part)
                continue
            written = self.of(_flipped(part) if turned else part)
            if part is first and isinstance(written, Sum):  # all of its terms have this one gradient
                for _, term in written.terms[:-1]:
                    parts += [term, EQUALS]
                written = written.terms[-1][1]
            parts.append(written)
        terms = tuple(
            Term(self.of(_flipped(t.value) if turned else t.value), self.of(t.left), self.of(t.right))
            for t in line.terms
        )
        return replace(line, parts=tuple(parts), terms=terms, of=line.of and self.of(line.of))

    def there(self, name: str, step: int | None = None) -> str:
        return self.names.get(name if step is None else f"{name}_t", name)

    def of(self, e: Expression) -> Expression:
        """The same with all names replaced, and products turned round where vectors are columns."""
        match e:
            case Name(name, step):
                return self.glyphs(self.there(name, step), step, cotangent=False)
            case Cotangent(name, step):
                return self.glyphs(self.there(name, step), step, cotangent=True)
            case Transposed(of):
                inside = self.of(of)
                return inside.of if isinstance(inside, Transposed) else Transposed(inside)
            case Product(left, right):
                left, right = self.of(left), self.of(right)
                return _chain(right, left) if self.chosen.columns else Product(left, right)
            case Sum():
                return self.sum(e)
        return mapped(e, self.of)

    def glyphs(self, there: str, step: int | None, *, cotangent: bool) -> Expression:
        parts = [Glyph(part, step, self.chosen.style, cotangent) for part in _parts(there)]
        if len(parts) > 1:
            return Sum(tuple((1, part) for part in parts))
        return Transposed(parts[0]) if there.endswith("ᵀ") else parts[0]

    def sum(self, e: Sum) -> Sum:
        terms = [*e.terms]
        if self.chosen.bias_first and any(isinstance(term, Product) for _, term in terms):
            terms.sort(key=lambda term: self.rank(term[1]))
        written: list[tuple[int, Expression]] = []
        for sign, term in terms:
            inside = self.of(term)
            written += inside.terms if sign > 0 and isinstance(inside, Sum) else [(sign, inside)]
        return Sum(tuple(written))

    def rank(self, term: Expression) -> int:
        if isinstance(term, Name) and term.step is None:
            return 0
        return 2 if isinstance(term, Product) and any(name.name == "x" for name in names(term)) else 1


def _flipped(e: Expression) -> Expression:
    """A matrix, transposed."""
    match e:
        case Transposed(of):
            return of
        case Product(left, right):
            return Product(_flipped(right), _flipped(left))
        case Sum():
            return mapped(e, _flipped)
    return Transposed(e)


def _letter(name: str) -> str:
    return name.removesuffix("_t")


def _chain(left: Expression, right: Expression) -> Expression:
    """A product of several is read from the left."""
    return Product(_chain(left, right.left), right.right) if isinstance(right, Product) else Product(left, right)


def _apart(names: dict[str, str], fixed: Iterable[str]) -> dict[str, str]:
    """Where two would have one letter, those that get it from the notation keep their own."""
    fixed = [*fixed]
    while True:
        borne = Counter(part for there in (*names.values(), *fixed) for part in _parts(there))
        twice = [name for name, there in names.items() if any(borne[part] > 1 for part in _parts(there))]
        changed = {name: _letter(name) for name in twice if names[name] != _letter(name)}
        if not changed:
            return names
        names = names | changed


def _parts(there: str) -> list[str]:
    return [part.removesuffix("ᵀ") for part in there.split(" + ")]
