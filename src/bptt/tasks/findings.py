"""What a table holds, before any training: the kind of each column, its times, seasons, and what looks odd."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from bptt.errors import InputError
from bptt.tasks import columns, numerals, seasons, series, timeline
from bptt.tasks.columns import Columns
from bptt.tasks.table import Table

SHOWN = 20  # columns, of wide tables
FEW = 30  # rows


@dataclass
class Findings:
    """fields   for each of the first `SHOWN` columns: name, kind, what it holds, unknown cells, season
    columns   the numbers on their grid of time, and the times; None: `no_time` says why
    odd       what looks odd, a line each
    labels    pairs of a column with labels and one that names sequences
    """

    fields: list[dict[str, Any]] = field(default_factory=list)
    columns: Columns | None = None
    no_time: str = ""
    odd: list[str] = field(default_factory=list)
    labels: list[tuple[str, str]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[str]:
        return [of["name"] for of in self.fields if of["kind"] == kind]


def of(table: Table, time: str | None = None) -> Findings:
    """What is found in a table. time: as for `timeline.of`. Raises InputError for a time column that does not exist."""
    found = Findings()
    for name in timeline.parts_of(table, time) if time not in (None, timeline.ROWS) else ():
        table.column(name)
    parts: Sequence[str] = ()
    keys: Sequence[str] = ()
    try:
        line = timeline.of(table, time)
        parts = timeline.parts_of(table, line.column) if line.column else ()
    except timeline.RepeatedError as error:
        keys, found.no_time = error.apart, "" if error.apart else str(error)
        parts = timeline.parts_of(table, error.column) if keys else ()
    except InputError as error:
        found.no_time = str(error)
    for name in table.columns[:SHOWN]:
        found.fields.append({"name": name, **_field(table, name, name in parts, found.odd)})
    numbers = [name for name in found.of_kind("numbers") if name not in (*parts, *keys)]
    if numbers and not found.no_time:
        try:
            found.columns = columns.read(table, numbers, (), ",".join(parts) or time, keys)
            _seasons(found, found.columns)
        except InputError as error:
            found.no_time = str(error)
    found.odd += [line.removeprefix("Odd").strip() for line in table.assumed(numbers) if line.startswith("Odd")]
    some = table.frame.select(table.columns[: 50 * SHOWN])
    with suppress(pl.exceptions.PolarsError):
        if len(table.columns) > 1 and (repeated := len(table) - some.n_unique()):
            found.odd.append(f"{repeated:,} rows are the same as others")
    if len(table) < FEW:
        found.odd.append(f"{len(table)} rows are few to learn from")
    found.labels = _labels(table, found.of_kind("text") + found.of_kind("numbers"))
    return found


def _field(table: Table, name: str, is_time: bool, odd: list[str]) -> dict[str, Any]:
    cells = table.column(name)
    text = numerals.without_missing(cells) if cells.dtype == pl.String else cells
    facts: dict[str, Any] = {"kind": "text", "unknown": text.null_count()}
    if text.null_count() == len(text):
        odd.append(f"{name!r} is empty")
        return {**facts, "kind": "empty"}
    if is_time or cells.dtype.is_temporal():
        return {**facts, "kind": "times"}
    if cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object):
        return {**facts, "kind": str(cells.dtype).lower()}
    different = text.n_unique() - (text.null_count() > 0)
    if different == 1 and len(text) > 1:
        odd.append(f"{name!r} is the same in all rows")
    try:
        values = table.numbers(name)
    except InputError as error:
        known = text.drop_nulls().cast(pl.String)
        if 2 * int(known.str.contains(numerals.NUMBER).sum()) > len(known):
            odd.append(str(error))
        return {**facts, "different": different, "first": known.unique(maintain_order=True)[:3].to_list()}
    known = values[~np.isnan(values)]
    if not len(known):
        odd.append(f"{name!r} is empty")
        return {**facts, "kind": "empty", "unknown": len(values)}
    whole = bool((known == known.round()).all())
    smallest, largest = float(known.min()), float(known.max())
    unknown = len(values) - len(known)
    steps = np.diff(values)
    facts = {"kind": "numbers", "unknown": unknown, "whole": whole, "from": smallest, "to": largest}
    return {**facts, "counts": len(steps) > 0 and bool((steps == steps[0]).all())}  # or is the same in all rows


def _seasons(found: Findings, read: Columns) -> None:
    """The season that a training on each column alone would find in the longest series, added to its field."""
    by_name, one = {of["name"]: of for of in found.fields}, max(read.series, key=lambda one: one.known)
    with suppress(InputError):
        steps = series.part(one.known, series.Recipe()).train
        for name, values in zip(read.names, one.values[:steps].mT.numpy(), strict=True):
            known = values[~np.isnan(values)]
            if len(known) >= series.LEAST and (known != known[0]).any():
                by_name[name]["season"] = seasons.find([values], None, read.spacing)[0]


def _labels(table: Table, names: Sequence[str]) -> list[tuple[str, str]]:
    """Columns that are the same in all rows of each sequence, and those that name the sequence."""
    frame = table.frame.select(names)
    counts = {name: frame[name].n_unique() for name in names}
    for sequence in names:
        if 4 <= counts[sequence] <= len(table) / 3 and frame[sequence].null_count() == 0:
            others = [name for name in names if 2 <= counts[name] <= counts[sequence] / 2]
            each = frame.group_by(sequence).agg(pl.col(others).n_unique()) if others else pl.DataFrame()
            if same := [name for name in others if (each[name] == 1).all()]:
                return [(same[0], sequence)]
    return []
