"""Tables with one row for each sequence, as in the archives of time series: the columns are the steps.

What the columns are is read from their names: a word and a number, as v1, v2, v3, or dates. Several words with the same
numbers, as x_1, x_2, y_1, y_2, are several inputs. Whatever else the names allow is asked, not guessed.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from bptt.errors import InputError
from bptt.tasks import dates, numerals
from bptt.tasks.numerals import without_missing
from bptt.tasks.table import LARGEST, Table
from bptt.tasks.timeline import LIKE_TIMES, PARTS

Steps = dict[str, list[str]]  # the columns of each input, in the order of the steps

VALUE = "value"  # the input whose columns have a number or a date for their name
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NUMBERED = re.compile(r"(.*?)(\d+)[\])]?")
FIRST = 4  # columns among the steps in which a number or a time of the steps of a long table would stand
FEWEST = 8  # rows that show it


def expanded(source: Table, names: Sequence[str]) -> list[str]:
    """The columns that are named, "first..last" being all from the one to the other."""
    columns, found = source.columns, []
    known = {name: place for place, name in enumerate(columns)}
    for name in names:
        first, dots, last = (part.strip() for part in name.partition(".."))
        ends = [name] if name in known or not dots else [first, last]
        for end in ends:
            if end not in known:
                source.column(end)
        found += columns[known[ends[0]] : known[ends[-1]] + 1]
        if known[ends[0]] > known[ends[-1]]:
            raise InputError(f"first..last names columns from left to right; {last!r} stands before {first!r}.")
    return found


def by_name(names: Sequence[str]) -> tuple[Steps, list[str]]:
    """The columns by the words before their numbers, and those whose names neither end in a number nor are dates."""
    dated = pl.Series(names, dtype=pl.String).str.contains(LIKE_TIMES)
    steps: Steps = {}
    others = []
    for name, is_date in zip(names, dated, strict=True):
        place = (VALUE, 0.0) if is_date else _place(name)
        steps.setdefault(place[0], []).append(name) if place else others.append(name)
    return steps, others


def counted(steps: Mapping[str, Sequence[str]]) -> Steps | None:
    """The columns of every input in the order of the steps. None where their names do not make it certain: numbers that
    leave one out or run backwards, inputs with different numbers, or words that could be parts of a time."""
    found = {word: _in_order(names) for word, names in steps.items()}
    words = [re.sub(r"[\W_]*\d+$", "", word).lower() for word in steps if re.search(r"\d$", word)]
    parts = {name for _, names in PARTS.values() for name in names}
    if not found or (len(found) > 1 and any(not word or word in parts for word in words)):
        return None
    if len({tuple(numbers) for numbers, _ in found.values()}) > 1 or any(len(names) < 2 for _, names in found.values()):
        return None
    return {word: names for word, (_, names) in found.items()}


def asked(names: Sequence[str]) -> Steps | None:
    """The columns that were named as the steps, in this order where their names do not count. None where they are of
    several inputs, and it is not certain which of their steps belong together."""
    steps, others = by_name(names)
    if not others and (found := counted(steps)):
        return found
    return None if len(steps) > 1 else {VALUE if others else next(iter(steps)): list(names)}


def values(source: Table, steps: Mapping[str, Sequence[str]]) -> list[np.ndarray]:
    """x (T_i, inputs) of every row, float64, NaN where a cell is missing. Missing cells at its end end a sequence.

    Raises InputError, with the place, for cells that are no numbers, and rows without any.
    """
    cells = np.stack([_numbers(source, names) for names in steps.values()], -1)
    known = np.isfinite(cells).max(-1)
    if not known.any(-1).all():
        row = int(known.any(-1).argmin())
        raise InputError(
            f"Every row must hold a sequence; {source.place(row)} of {source.source} has only missing cells. "
            "Take it out."
        )
    lengths = cells.shape[1] - known[:, ::-1].argmax(1)
    return [x[:length] for x, length in zip(cells, lengths, strict=True)]


def looks_long(source: Table, label: str, beside: Iterable[str], first: Iterable[str]) -> str | None:
    """A column that says which sequence a row belongs to or which step it is, as a long table has it: one `beside` the
    steps whose texts come back, each with one label; or one that counts, also among the `first` of the steps."""
    labels = pl.Series(source.texts(label), dtype=pl.String)
    for name in beside:
        cells = source.frame.get_column(name)
        if not cells.dtype.is_nested():
            pairs = pl.DataFrame({"cell": cells.cast(pl.String, strict=False), "label": labels}).drop_nulls()
            different = pairs["cell"].n_unique()
            comes_back = 2 * different <= len(pairs)
            if comes_back and (labels.n_unique() < different == pairs.n_unique() or _counts(cells)):
                return name
    return next((name for name in first if _counts(source.frame.get_column(name))), None)


def _counts(cells: pl.Series) -> bool:
    """Whether whole numbers go on by one from row to row and begin again, or number the rows or runs of rows."""
    found = cells.cast(pl.String, strict=False).str.strip_chars().cast(pl.Float64, strict=False).fill_null(np.nan)
    numbers = found.to_numpy()
    if len(numbers) < FEWEST or not (numbers == numbers.round()).all():
        return False
    further = np.diff(numbers) == 1
    again = (numbers[1:] == numbers[0]) & (2 * further.sum() >= len(further))
    same = (np.diff(numbers) == 0) & (further.sum() > 1)
    return bool((further | again).all() or (further | same).all())


def _place(name: str) -> tuple[str, float] | None:
    """The word and the number that a name consists of."""
    if NUMBER.fullmatch(name):
        return VALUE, float(name)
    found = NUMBERED.fullmatch(name)
    return None if found is None else (found[1].rstrip(" _.-([") or VALUE, float(found[2]))


def _in_order(names: Sequence[str]) -> tuple[list[float], list[str]]:
    """The numbers and names of the steps of an input, sorted; empty where they do not count evenly, or stand neither in
    this order nor in that of the alphabet. Dates stand in order."""
    cells = pl.Series(names, dtype=pl.String)
    if names and cells.str.contains(LIKE_TIMES).all():
        clocks = [[int(digits) for digits in re.findall(r"\d+", name)] for name in names]
        readings = [reading.times.tolist() for reading in dates.readings(cells)] or [clocks]
        rises = any(all(one < other for one, other in itertools.pairwise(times)) for times in readings)
        return ([*map(float, range(len(names)))], list(names)) if rises else ([], [])
    pairs = sorted((place[1], name) for name in names if (place := _place(name)))
    numbers, ordered = [number for number, _ in pairs], [name for _, name in pairs]
    gaps = np.diff(numbers)
    even = len(pairs) == len(names) and np.allclose(gaps, gaps[:1], rtol=1e-6) and (gaps > 0).all()
    return (numbers, ordered) if even and list(names) in (ordered, sorted(names)) else ([], [])


def _numbers(source: Table, names: Sequence[str]) -> np.ndarray:
    """The columns (rows, columns) as `Table.numbers` reads each; plain numbers all at once."""
    columns = source.frame.select(names).get_columns()
    if all(cells.dtype == pl.String for cells in columns):
        texts = without_missing(pl.concat([cells.rename("") for cells in columns]))
        found = texts.cast(pl.Float64, strict=False)
        plain = found.null_count() == texts.null_count() and not (found.abs() > LARGEST).any()
        points = texts.str.contains(".", literal=True).any()
        if plain and not (points and (source.dialect.decimal == "," or texts.str.contains(numerals.EITHER).all())):
            return found.to_numpy().reshape(len(names), -1).T
    return np.stack([source.numbers(name) for name in names], 1)
