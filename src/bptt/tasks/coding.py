"""Columns as numbers: as they are, or one number for each category.

A column of text is read as categories: the number of the category in a row is 1, those of the others are 0, and all are
NaN where the cell is missing. A column of which most cells are numbers, or most of its different cells, holds numbers;
the other cells in it are mistakes, which `Table.numbers` shows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from bptt.errors import InputError
from bptt.tasks.numerals import UNIT, without_missing
from bptt.tasks.table import Table
from bptt.tasks.timeline import LIKE_TIMES

MOST = 100
FEW = 10  # so many categories need not come twice
QUANTITY = rf"^{UNIT}?\s*[-+\u2212]?\s*{UNIT}?\s*\d[\d.,'\u2019\s]*({UNIT}|\u00b0?[^\W\d_]{{0,3}})$"


class Coding(NamedTuple):
    """How a column becomes numbers. categories: in the order of their numbers; None: the column holds numbers."""

    column: str
    categories: tuple[str, ...] | None

    @property
    def names(self) -> list[str]:
        """The names of the numbers: "load", or "weekday=Fri", "weekday=Mon" and so on."""
        return [self.column] if self.categories is None else [f"{self.column}={name}" for name in self.categories]


def codings(source: Table, names: Sequence[str]) -> list[Coding]:
    """How each of the columns is read, decided over all its rows.

    Raises InputError for unknown columns, and for text that is no category: times, more than `MOST` different texts,
    and texts that hardly ever come twice, such as names.
    """
    return [Coding(name, _categories(source, name)) for name in names]


def coded(source: Table, codings: Sequence[Coding]) -> np.ndarray:
    """The numbers (rows, numbers) of the columns, side by side, float64; NaN where a cell is missing.

    Raises InputError, with the place, for cells that are no number, or none of the categories, as the coding says.
    """
    parts = [
        source.numbers(column)[:, None] if categories is None else _one_hot(source, column, categories)
        for column, categories in codings
    ]
    return np.concatenate(parts, 1)


def names_of(codings: Sequence[Coding]) -> list[str]:
    """The names of all numbers, in the order of `coded`."""
    return [name for coding in codings for name in coding.names]


def numeric(codings: Sequence[Coding]) -> list[str]:
    """The columns that hold numbers."""
    return [column for column, categories in codings if categories is None]


def from_json(value: Any) -> list[Coding]:
    """The codings that were written as JSON."""
    return [Coding(column, None if found is None else tuple(found)) for column, found in value]


def _categories(source: Table, name: str) -> tuple[str, ...] | None:
    dtype = source.column(name).dtype
    typed = dtype in (pl.Categorical, pl.Enum)
    if not typed and dtype != pl.String:
        return None
    known = _texts(source, name).drop_nulls()
    different = known.unique().sort()
    if not typed and any(2 * int(_are_numbers(cells).sum()) >= len(cells) for cells in (known, different)):
        return None
    if 2 * int(known.str.contains(LIKE_TIMES).sum()) > len(known):
        raise InputError(
            f"An input must be numbers or categories; column {name!r} of {source.source} holds times, such as "
            f"{known[0]!r}. Name it with --time if it orders the steps, or name the columns to read with --inputs."
        )
    if len(different) > min(MOST, max(FEW, len(known) // 2)):
        raise InputError(
            f"A column of text is read as categories, at most {MOST}, each in two rows or more on average; column "
            f"{name!r} of {source.source} has {len(different):,} different texts in {len(known):,} cells, such as "
            f"{different[0]!r}. Name the columns to read with --inputs, and leave it out."
        )
    return tuple(different)


def _are_numbers(cells: pl.Series) -> pl.Series:
    """Which cells are numbers, however they are written, or quantities such as "5 kg". Where letters of different kinds
    follow the digits, as in 1A and 2B, they are no units."""
    units = cells.str.extract(QUANTITY, 1)
    bare = units.str.contains(rf"^{UNIT}?$")
    like = units.is_not_null() if units.filter(~bare).n_unique() < 2 else bare
    return cells.cast(pl.Float64, strict=False).is_not_null() | like.fill_null(False)


def _texts(source: Table, name: str) -> pl.Series:
    return without_missing(pl.Series(name, source.texts(name), pl.String))


def _one_hot(source: Table, name: str, categories: Sequence[str]) -> np.ndarray:
    cells = _texts(source, name)
    numbers = cells.replace_strict(categories, range(len(categories)), default=None, return_dtype=pl.Float64)
    if (strange := numbers.is_null() & cells.is_not_null()).any():
        row = int(strange.arg_true()[0])
        raise InputError(
            f"Column {name!r} must hold the categories it was read with at first, {', '.join(categories)}; "
            f"{source.place(row)} of {source.source} has {cells[row]!r}. Leave the cell empty to read it as not known."
        )
    found = numbers.to_numpy()[:, None]
    return np.where(np.isnan(found), np.nan, found == np.arange(len(categories)))
