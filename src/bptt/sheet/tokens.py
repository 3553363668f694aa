"""From text to tokens: names with their times, numbers, signs and their twins; and how a text is refused."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from bptt.errors import InputError
from bptt.sheet.expressions import Place


def _called(letter: str) -> str:
    """gamma for γ, Gamma for Γ."""
    name = unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
    return name.capitalize() if letter.isupper() else name.lower()


GREEK = {_called(letter): letter for letter in "αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ"}
LETTERS = "A-Za-zŷ" + "".join(GREEK.values())
SAME_LETTER = str.maketrans("ϕϵɛµϑ", "φεεμθ")
_ALIKE = "аеіјорсухѕԁһАВЕІЈКМНОРСТХЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧους", "aeijopcyxsdhABEIJKMHOPCTXSABEZHIKMNOPTYXovs"
LOOKS_LIKE = dict(zip(*_ALIKE, strict=True))

MINUS = "-−–‐‑"
SAME_SIGN = {".*": "⊙", "'": "ᵀ", "^T": "ᵀ", "^2": "²"} | dict.fromkeys("*·∘∙∗", "⊙") | dict.fromkeys(MINUS, "−")
INSTEAD = {
    "×": "Write ⊙ (or *) for a product entry by entry, and a space for one with a matrix: h_{t-1} W_hh.",
    "^": "A square is a² or a^2, a transpose Wᵀ, W' or W^T; other powers are products: a ⊙ a².",
    "*": "⊙ has the one sign *. A square is a² or a^2; other powers are products: a ⊙ a².",
    "\\": "This is no TeX: write tanh(a), σ(a) or sigma(a), W_xh, a ⊙ b.",
    "|": "Write abs(a).",
    "√": "Write sqrt(a).",
    "∂": "Only side A is typed: side B, with all ∂, is derived from it.",
    "_": "A subscript joins two parts of a name, as in W_xh, or is a time: h_t, h_{t-1}.",
    "[": "Only a time stands in such brackets, right behind a name: h[t], h[t-1]. Others are round: ( ).",
    "{": "Only a time stands in such brackets, right behind a name: h_{t-1}. Others are round: ( ).",
}  # fmt: skip
INSTEAD |= dict.fromkeys("ₜ₋ᵗ", "Write h_t for this step, h_{t-1} or h[t-1] for the step before.")
INSTEAD |= dict.fromkeys("⁰¹³⁴⁵⁶⁷⁸⁹⁻ⁿ", INSTEAD["^"])

_WORD = re.compile(rf"[{LETTERS}][{LETTERS}0-9]*(?:_[{LETTERS}0-9]+)*")
_TIME = re.compile(r"_\{([^{}]*)\}|\[([^\[\]]*)\]")
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SIGN = re.compile(rf"\.\*|\*(?!\*)|\^T(?![A-Za-z0-9])|\^2(?![0-9.])|[{MINUS}()+⊙·∘∙∗/,ᵀ²'@=:;]")
_BEFORE = re.compile(rf"\s*t\s*[{MINUS}]\s*1\s*")
_LESS = re.compile(rf"[{MINUS}]([0-9.]+)")
_OPENED = re.compile(r"_\{|\[")


class Token(NamedTuple):
    """kind: "name", "number", "sign" or "end". step: of a name with a time, 0 or -1."""

    kind: str
    text: str
    step: int | None
    place: Place


def spelled(name: str) -> str:
    """A name as cells have it: gamma is γ."""
    return GREEK.get(name, name)


def refusal(lines: tuple[str, ...], place: Place | None, rule: str, advice: str) -> InputError:
    """The rule, the line with a caret under what breaks it, and what to write instead."""
    at, start, end = place or Place(0, 0, 1)
    shown = "".join(letter if letter.isprintable() else "�" for letter in lines[at])
    first = max(0, start - 60)
    part = ("…" if first else "") + shown[first : first + 110] + ("…" if first + 110 < len(shown) else "")
    caret = " " * (start - first + bool(first)) + "^" * max(1, min(end, first + 110) - start)
    return InputError(f"Line {at + 1}, column {start + 1}: {rule}\n    {part}\n    {caret}\n  {advice}")


def statements(lines: tuple[str, ...]) -> Iterator[list[Token]]:
    """The tokens of each statement of a text, each list with an "end" behind it."""
    for at, line in enumerate(lines):
        yield from _of_line(lines, at, line.split("#")[0])


def _of_line(lines: tuple[str, ...], at: int, code: str) -> Iterator[list[Token]]:
    tokens: list[Token] = []
    position = 0
    while position < len(code):
        if code[position].isspace():
            position += 1
            continue
        token, position = _token(lines, at, code, position)
        if token.text != ";":
            tokens.append(token)
        elif tokens:
            yield [*tokens, Token("end", "", None, token.place)]
            tokens = []
    if tokens:
        end = len(code.rstrip())
        yield [*tokens, Token("end", "", None, Place(at, end, end + 1))]


def _token(lines: tuple[str, ...], at: int, code: str, start: int) -> tuple[Token, int]:
    if word := _WORD.match(code, start):
        return _name(lines, at, code, word)
    if number := _NUMBER.match(code, start):
        if float(number[0]) == float("inf"):
            raise refusal(lines, Place(at, *number.span()), "a number has to be finite", "Write a smaller one.")
        return Token("number", number[0], None, Place(at, *number.span())), number.end()
    if sign := _SIGN.match(code, start):
        return Token("sign", SAME_SIGN.get(sign[0], sign[0]), None, Place(at, *sign.span())), sign.end()
    letter, place = code[start], Place(at, start, start + 1)
    known = unicodedata.name(letter, "")
    meant = LOOKS_LIKE.get(letter) or unicodedata.normalize("NFKC", letter)
    known_to_us = any(kind.fullmatch(meant) for kind in (_WORD, _NUMBER, _SIGN))
    if letter not in INSTEAD and meant != letter and known_to_us:
        raise refusal(
            lines,
            place,
            f"{letter!r} is {known}: it only looks like {meant!r}",
            f"Type {meant!r}" + (f", {unicodedata.name(meant)}." if len(meant) == 1 else "."),
        )
    raise refusal(
        lines,
        place,
        f"{letter!r}{f' ({known})' if known and not letter.isascii() else ''} means nothing here",
        INSTEAD.get(letter, "Names are Latin and Greek letters and digits; signs are + − ⊙ / ( ) , = ² ᵀ and twins."),
    )


def _name(lines: tuple[str, ...], at: int, code: str, word: re.Match[str]) -> tuple[Token, int]:
    name, step, end = word[0], None, word.end()
    if name.endswith("_t"):
        name, step = name[:-2], 0
        if minus := _LESS.match(code, end):
            less = minus[1]
            raise refusal(
                lines,
                Place(at, word.start(), minus.end()),
                f"{code[word.start() : minus.end()]} can be read in two ways",
                f"Write {name}_{{t-1}} or {name}[t-1] for the step before, "
                f"{name}_t − {less} with spaces to subtract {less}.",
            )
    elif time := _TIME.match(code, end):
        end, inside = time.end(), time[1] if time[1] is not None else time[2]
        place = Place(at, word.start(), end)
        if inside.strip() == "t":
            step = 0
        elif _BEFORE.fullmatch(inside):
            step = -1
        elif inside.strip().startswith("t"):
            raise refusal(
                lines,
                place,
                "a cell knows this step, t, and of its states the step before, t-1",
                f"Write {name}_t or {name}_{{t-1}}. What is older is handed on by a state: k_t = {name}_{{t-1}}.",
            )
        else:
            raise refusal(
                lines,
                place,
                "in such brackets stands a time, t or t-1",
                f"Round ones hold arguments: {name}(…)."
                if code[word.end()] == "["
                else f"A subscript has none: {name}_{inside.strip() or 'h'}.",
            )
    elif opened := _OPENED.match(code, end):
        place = Place(at, opened.end() - 1, opened.end())
        raise refusal(lines, place, "this bracket is not closed", f"Write {name}_{{t-1}} or {name}[t-1].")
    return Token("name", spelled(name), step, Place(at, word.start(), end)), end
