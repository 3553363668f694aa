"""Columns of a table as series: one, or several that other columns tell apart, each on an even grid of time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bptt.errors import InputError
from bptt.tasks import coding, timeline
from bptt.tasks.coding import Coding
from bptt.tasks.spacing import Spacing
from bptt.tasks.table import Table

Name = tuple[str, ...]  # of a series: its cells in the columns that tell series apart


def printable(text: str) -> str:
    """The text with a question mark for each character that would move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


@dataclass(frozen=True)
class One:
    """One of the series of a table, on an even grid of time.

    name       () where the table has one series
    values     (N + future, C) float64, NaN where the value is not known
    timeline   of all steps
    known      N, the steps up to the last that has a target; later steps have inputs alone, known in advance
    rows       of the table
    """

    name: Name
    values: Tensor
    timeline: timeline.Timeline
    known: int
    rows: np.ndarray

    def __str__(self) -> str:
        return printable("/".join(self.name))


@dataclass(frozen=True)
class Columns:
    """Columns of a table.

    names    of the numbers at each step: targets first, then inputs; `targets` is the number of the former
    codings  how the inputs are read
    series   all of the table
    keys     the columns that tell series apart; () where there is one
    static   numbers of the inputs that are the same at all steps of a series, and differ between series
    time     the time column, or several with commas between; `timeline.ROWS`: rows were given as even steps; None: no
             column was found
    unread   the table's other columns
    """

    names: Sequence[str]
    targets: int
    codings: Sequence[Coding]
    series: Sequence[One]
    keys: Sequence[str]
    static: Sequence[int]
    time: str | None
    unread: Sequence[str]

    @property
    def spacing(self) -> Spacing:
        """That of most series."""
        return Counter(one.timeline.spacing for one in self.series).most_common(1)[0][0]

    def is_same_within(self, place: int) -> bool:
        """Whether a column has one value at most in each series."""
        values = [one.values[:, place] for one in self.series]
        return all(len(of[~of.isnan()].unique()) < 2 for of in values)


def read(
    data: Table,
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    time: str | None = None,
    keys: Sequence[str] = (),
    codings: Sequence[Coding] | None = None,
) -> Columns:
    """Reads columns of a table; time as for `timeline.of`.

    keys      the columns that tell the rows of several series apart
    codings   how inputs are read; None: as the table suggests

    Raises InputError for columns that do not exist, are named twice, hold no numbers or nothing at all, and for times
    that cannot be read or occur twice.
    """
    names = [*targets, *inputs]
    if not targets:
        raise InputError(f"A series needs a column to forecast, --target; the table has {data.listed()}.")
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"A column is a target or an input, once; {name!r} was named {names.count(name)} times. Targets are "
                "read by the network too: leave it out of the inputs."
            )
        if time not in (None, timeline.ROWS) and name in timeline.parts_of(data, time):
            raise InputError(f"The time column can be neither target nor input; got {name!r} as both.")
        data.column(name)
    rows_of = _rows_of(data, keys, names, time)
    lines = timeline.of_each(data, list(rows_of.values()), time, taken=[*names, *keys])
    codings = coding.codings(data, inputs) if codings is None else codings
    cells = coding.coded(data, [*(Coding(name, None) for name in targets), *codings])
    names = [*targets, *coding.names_of(codings)]
    for name, column in zip(names, cells.T, strict=True):
        if np.isnan(column).all():
            raise InputError(
                f"Column {name!r} must hold numbers; all {len(column):,} cells of {data.source} are empty or NaN. "
                "Name another."
            )
    series = []
    for (name, rows), line in zip(rows_of.items(), lines, strict=True):
        values = torch.from_numpy(line.on_grid(cells[rows]))
        some = (~values[:, : len(targets)].isnan()).any(1).nonzero()
        series.append(One(name, values, line, int(some[-1]) + 1 if len(some) else 0, rows))
    found = time if time == timeline.ROWS else lines[0].column
    read_already = {*targets, *inputs, *keys, *timeline.parts_of(data, lines[0].column or "")}
    unread = [name for name in data.columns if name not in read_already]
    read = Columns(names, len(targets), codings, series, keys, [], found, unread)
    static = [place for place in range(len(targets), len(names)) if keys and read.is_same_within(place)]
    return replace(read, static=static)


def _rows_of(data: Table, keys: Sequence[str], taken: Sequence[str], time: str | None) -> dict[Name, np.ndarray]:
    """The rows of each series, by its name, in the order of their first rows."""
    if not keys:
        return {(): np.arange(len(data))}
    for name in keys:
        data.column(name)
        if name in taken or keys.count(name) > 1 or (time and name in timeline.parts_of(data, time)):
            raise InputError(
                f"A column tells series apart, or is target, input or time; {name!r} was given as two of them. Leave "
                "one out."
            )
    rows_of: dict[Name, list[int]] = {}
    for row, cells in enumerate(zip(*(data.texts(name) for name in keys), strict=True)):
        if None in cells:
            raise InputError(
                f"Every row must say which series it belongs to; {data.place(row)} of {data.source} has nothing in "
                f"column {keys[cells.index(None)]!r}. Fill it in, or leave the row out."
            )
        rows_of.setdefault(cells, []).append(row)
    return {name: np.array(rows) for name, rows in rows_of.items()}
