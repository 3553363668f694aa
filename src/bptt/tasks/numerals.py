"""Numbers as people write them: the whole column decides which mark stands before the decimals, or it is asked for.

Decimals with a point or a comma; thousands with the other mark, blanks or apostrophes; percent and currency signs,
which are left out; minus as a sign, behind the number or as parentheses; letters and stars behind a number, as
statistical offices mark estimates. A cell with a mark for what is not known, such as "..", is unknown.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

MISSING = ("", "na", "n/a", "nan", "null", "none", "nat")  # in every column
MARKERS = (  # among numbers
    "?", ".", "..", "...", "-", "--", "---", "\u2013", "\u2014", ":", "::", "/", "x", "*", "**", "***", "_", "\u2026",
    "n.a.", "n.a", "n. a.", "n.d.", "nd", "n.v.", "k.a.", "k. a.", "k.a", "s.d.", "s/d", "<na>", "(na)", "\\n",
    "(null)", "nil", "missing", "unknown", "unbekannt", "-nan", "no data", "not available", "keine angabe", "1.#qnan",
    "#n/a", "#n/a n/a", "#na", "#null!", "#div/0!", "#value!", "#wert!", "#ref!", "#name?", "#num!", "-1.#ind",
)  # fmt: skip
BLANKS, APOSTROPHES = " \u00a0\u2007\u2009\u202f", "'\u2019"
UNIT = (
    r"(?:[%\u2030$\u20ac\u00a3\u00a5\u20b9\u20bd\u20a9\u20ba\u20b4\u0e3f]|(?:US|A|C|HK|NZ|R)\$|EUR|USD|GBP|CHF|JPY|CNY"
    r"|SEK|NOK|DKK|PLN|CZK|HUF|INR|CAD|AUD|kr\.?|z\u0142|K\u010d|Ft|S?Fr\.|Rs\.?)"
)
FLAG = r"(?:[ \u00a0](?:[bcdefinprsuz]{1,3})|\s?[*\u2020]+|[\u00b9\u00b2\u00b3]\)?)"
BODY = rf"[.,]?\d(?:[\d.,{BLANKS}{APOSTROPHES}]*[\d.])?(?:[eE][-+]?\d+)?"
NUMBER = rf"^(\()?({UNIT})?\s*([-+\u2212\u2013])?\s*({UNIT})?\s*(\()?({BODY})\s*({UNIT})?(-)?(\))?({FLAG})?$"
OTHER = {".": ",", ",": "."}
NAMES = {".": "point", ",": "comma"}
EITHER = r"^[-+]?(?:[1-9]\d{0,2}\.\d{3}|\d+)$"  # where points may stand before decimals or thousands
TAKEN = "nothing tells"
LIKE_TIMES = r"^(?:\d\d\.\d{4}|\d{4}\.\d\d|\d\d?\.\d\d)$"  # as 12.2020 and 18.30, which say nothing of other columns


@dataclass(frozen=True)
class Numerals:
    """A column read as numbers: float64, null where unknown; what was assumed, a phrase each; and how often each mark
    for an unknown value stood there."""

    values: pl.Series
    assumed: tuple[str, ...] = ()
    markers: tuple[tuple[str, int], ...] = ()


class UnreadError(Exception):
    """Cells that are no numbers: their rows, the rule they break, and what to do."""

    def __init__(self, rows: list[int], rule: str, fix: str) -> None:
        self.rows, self.rule, self.fix = rows, rule, fix


def read(
    cells: pl.Series, decimal: str | None = None, elsewhere: Callable[[], str | None] = lambda: None, *, wary: bool
) -> Numerals:
    """Cells of text as numbers.

    decimal    the mark before decimals, where it was given; `elsewhere` finds the one of the other columns
    wary       a point before three digits, as in 1.231, may stand for thousands

    Raises UnreadError for cells that are no numbers, or of which the column does not say how they are to be read.
    """
    text = without_missing(cells)
    values = text.cast(pl.Float64, strict=False)
    if values.null_count() == text.null_count():
        points = text.str.contains(".", literal=True).any()
        if not points or decimal == "." or (decimal is None and not text.str.contains(EITHER).all()):
            return Numerals(values)
    parts = text.str.strip_chars().str.extract_groups(NUMBER).struct.unnest()
    opened, unit, sign, unit_after, opened_after, body, unit_behind, behind, closed, flag = parts.get_columns()
    lower = text.str.to_lowercase().str.replace(rf"{FLAG}$", "")
    marker = (body.is_null() & lower.is_in(MARKERS)).fill_null(False)
    body = body.set((opened.is_not_null() | opened_after.is_not_null()) != closed.is_not_null(), None)
    known = text.is_not_null() & ~marker
    as_read = {mark: _values(body, mark) for mark in OTHER}
    wrong = known & as_read["."].is_null() & as_read[","].is_null()
    if not marker.any() and flag.null_count() == len(flag) - known.sum():  # behind every number: a unit, such as 5 s
        wrong = known
    if wrong.any() or not known.any():
        rows = (wrong if wrong.any() else marker).arg_true()
        few = 2 * len(rows) < len(text) and text[rows].n_unique() == 1
        say = (
            f"; or, if this stands for an unknown value, say --missing {shlex.quote(str(text[rows[0]]))}" if few else ""
        )
        fix = f"Correct the cell, or leave it empty where the value is not known{say}."
        raise UnreadError(rows.to_list(), "numbers", fix)
    mark, why = _mark(body, as_read, known, decimal, elsewhere, wary)
    units = pl.select(pl.coalesce(unit, unit_after, unit_behind)).to_series()
    _require_one_unit(units, as_read[mark], known)
    below = sign.is_in(["-", "\u2212", "\u2013"]).fill_null(False) | behind.is_not_null() | closed.is_not_null()
    values = as_read[mark]
    values = pl.select(pl.when(below & known).then(-values).when(known).then(values)).to_series()
    found = text.filter(marker).value_counts(sort=True).rows()
    return Numerals(values, (*_written(body, mark, why), *_left_out(units, behind, closed, flag)), tuple(found))


def without_missing(cells: pl.Series) -> pl.Series:
    """Cells of text, stripped of spaces; null where they stand for a missing value."""
    cells = cells.str.strip_chars()
    missing = cells.is_null() | cells.str.to_lowercase().is_in(MISSING)
    return cells.set(missing, None)


def decimal_of(cells: pl.Series) -> str | None:
    """The mark before decimals that cells of several columns show beyond doubt; None: none, or both."""
    body = cells.str.strip_chars().str.extract(NUMBER, 6)
    body = body.filter(body.str.contains(r"\D") & ~body.str.contains(LIKE_TIMES)).unique()
    fits = {mark: _values(body, mark) for mark in OTHER}
    shown = [mark for mark, other in OTHER.items() if (fits[mark].is_not_null() & fits[other].is_null()).any()]
    return shown[0] if len(shown) == 1 else None


def like_a_marker(values: np.ndarray) -> tuple[float, int] | None:
    """A number that may stand for an unknown value, and how often it does: far from all others and repeated, or of
    nines alone, such as -999."""
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    if len(found) < 5:
        return None
    for at, others in ((0, found[1:]), (-1, found[:-1])):
        far = min(abs(found[at] - others[0]), abs(found[at] - others[-1])) > others[-1] - others[0]
        if far and (counts[at] > 1 or re.fullmatch(r"-?99+(\.9+|\.0)?", str(found[at]))):
            return float(found[at]), int(counts[at])
    return None


def is_number(cell: str) -> bool:
    return re.fullmatch(NUMBER, cell.strip()) is not None


def _values(body: pl.Series, mark: str) -> pl.Series:
    """The numbers, null where the mark before their decimals cannot be this one."""
    other = re.escape(OTHER[mark])
    groups = "|".join(rf"(?:{group}\d{{3}})+" for group in (other, f"[{BLANKS}]", f"[{APOSTROPHES}]"))
    whole = rf"[1-9]\d{{0,2}}(?:{groups})|\d+" + (r"|[1-9]\d?(?:,\d\d)+,\d{3}" if mark == "." else "")
    decimals = r"(?:\.\d*)?" if mark == "." else r"(?:,\d+)?"
    fits = body.str.contains(rf"^(?:(?:{whole}){decimals}|{re.escape(mark)}\d+)(?:[eE][-+]?\d+)?$").fill_null(False)
    bare = body.str.replace_all(rf"[{other}{BLANKS}{APOSTROPHES}]", "").str.replace(",", ".", literal=True)
    return bare.set(~fits, None).cast(pl.Float64, strict=False)


def _mark(
    body: pl.Series,
    as_read: dict[str, pl.Series],
    known: pl.Series,
    decimal: str | None,
    elsewhere: Callable[[], str | None],
    wary: bool,
) -> tuple[str, str]:
    """The mark before decimals, and why, where other columns said so."""
    missing = {mark: known & values.is_null() for mark, values in as_read.items()}
    fitting = [mark for mark in OTHER if not missing[mark].any()]
    if decimal is not None:
        if decimal in fitting:
            return decimal, ""
        rows = missing[decimal].arg_true().to_list()
        raise UnreadError(
            rows,
            f"numbers with a {NAMES[decimal]} before the decimals, as --decimal {decimal} says",
            "Correct the cell, or leave the option out, and the columns themselves decide.",
        )
    if not fitting:
        rows = [missing[mark].arg_true()[0] for mark in OTHER]
        raise UnreadError(
            rows[:1],
            "numbers with the same mark before their decimals",
            f"Another cell has {body[rows[1]]!r}: bring the column to one form, with a point or a comma.",
        )
    if len(fitting) == 1:
        return fitting[0], ""
    if (as_read["."] == as_read[","]).fill_null(True).all():
        return ".", ""
    found = elsewhere()
    if found is not None:
        return found, " as in other columns"
    commas = body.str.contains(",", literal=True).fill_null(False)
    if not commas.any() and not wary:
        return ".", TAKEN
    row = (as_read["."] != as_read[","]).fill_null(False).arg_true()[0]
    point, comma = (f"{as_read[mark][row]:.15g}" for mark in (".", ","))
    raise UnreadError(
        [row],
        "numbers of which one at least shows the mark before the decimals",
        f"It may stand for {point} or {comma}, and nothing in the table tells: say --decimal . for {point}, or "
        f"--decimal , for {comma}.",
    )


def _require_one_unit(units: pl.Series, values: pl.Series, known: pl.Series) -> None:
    different = units.drop_nulls().unique(maintain_order=True)
    bare = known & units.is_null() & (values != 0).fill_null(False)
    if len(different) > 1 or (different.is_in(["%", "\u2030"]).any() and bare.any()):
        other = bare if len(different) == 1 else (units == different[1]).fill_null(False)
        raise UnreadError(
            other.arg_true().to_list(),
            "numbers in one unit",
            f"Other cells have {different[0]}: bring the column to one unit.",
        )


def _written(body: pl.Series, mark: str, why: str) -> list[str]:
    other = OTHER[mark]
    if why == TAKEN:
        return ["points taken for decimals"]
    said = [f"decimal comma{why}"] if mark == "," and body.str.contains(",", literal=True).any() else []
    kinds = {f"{NAMES[other]}s": other, "blanks": BLANKS, "apostrophes": APOSTROPHES}
    behind = "" if said else why
    return said + [
        f"thousands by {name}{behind}" for name, kind in kinds.items() if body.str.contains(rf"\d[{kind}]\d").any()
    ]


def _left_out(units: pl.Series, behind: pl.Series, closed: pl.Series, flag: pl.Series) -> list[str]:
    said = [
        f"{unit} left out" + (f" (12 {unit} is 12)" if unit in "%\u2030" else "")
        for unit in units.drop_nulls().unique()
    ]
    said += ["parentheses for below zero"] if closed.is_not_null().any() else []
    said += ["minus behind"] if behind.is_not_null().any() else []
    flags = sorted(flag.drop_nulls().str.strip_chars().unique())
    return said + ([f"marks behind numbers left out ({', '.join(flags[:6])})"] if flags else [])
