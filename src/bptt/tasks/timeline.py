"""The time of each row of a table: found, read, put on an even grid where there is one, and continued.

`of` finds the time column, or the columns that tell the time together, reads numbers and dates in all forms of `dates`,
sorts the rows, and recognises their `spacing`. Rows that are missing from an even grid are found, and
`Timeline.on_grid` leaves their places empty. Where the spacing is not even, the rows count as even steps. A column that
looks like times and cannot be used is an error, unless `ROWS` is given.
"""

import bisect
import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl

from bptt.errors import InputError
from bptt.tasks import dates
from bptt.tasks.dates import DAY, MONTH_OF, SECOND, Form, Reading
from bptt.tasks.spacing import UNITS, Spacing, recognised
from bptt.tasks.table import LARGEST, Table, without_missing

Found = TypeVar("Found")

ROWS = "none"  # instead of a time column: rows are even steps as they stand
SURELY = (
    "time", "date", "datetime", "timestamp", "ts", "unix", "unixtime", "unixtimestamp", "epochtime", "ds",
    "datum", "zeit", "datumzeit", "zeitpunkt", "zeitstempel", "uhrzeit",
    "fecha", "dato", "tijd",
)  # fmt: skip
CALENDAR = (
    "t", "year", "yr", "quarter", "month", "yearmonth", "week", "day", "hour",
    "jahr", "quartal", "monat", "woche", "tag", "stunde",
)  # fmt: skip
COUNTERS = ("minute", "second", "period", "index", "step", "epoch", "T")  # as often something else
PARTS = {  # of a time in several columns: how they are joined, and their names
    "year": ("", ("year", "yr", "yyyy", "jahr", "y")),
    "quarter": ("-Q", ("quarter", "qtr", "quartal", "q")),
    "month": ("-", ("month", "mon", "mnth", "mo", "mm", "monat")),
    "week": ("-W", ("week", "isoweek", "woche", "kw")),
    "day": ("-", ("day", "dayofmonth", "mday", "dy", "dd", "tag")),
    "hour": (" ", ("hour", "hr", "hh", "stunde", "std")),
    "minute": (":", ("minute", "min", "mi")),
    "second": (":", ("second", "sec", "ss")),
}
OF_CLOCK = ("time", "timeofday", "uhrzeit", "zeit", "clock", *PARTS["hour"][1])
MONTH = rf"(?:{'|'.join(sorted(MONTH_OF, key=len, reverse=True))})[.]?"
NEWEST_FIRST = "newest first"
FULL = r"(?:1[5-9]\d|20\d|210)\d"
YEAR, CLOCK = rf"'?(?:{FULL}|\d\d)", r"\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?"
DATE = "|".join((
    rf"{FULL}[-/]\d\d?", rf"\d\d?[-/]{FULL}", rf"{FULL}[-/.]\d\d?[-/.]\d\d?", rf"\d\d?[-/.]\d\d?[-/.]{YEAR}",
    rf"{FULL}[-/ ]?(?:q|w|kw|m|h)-?\d\d?(?:-\d)?", rf"(?:q|w|kw) ?\d\d?(?:[-/ ]{YEAR}|{FULL})",
    rf"[1-4]q[-/ ']?{YEAR}", rf"(?:\d\d?[-./, ]*)?{MONTH}[-./, ]*(?:\d\d?[-., ]+)?{YEAR}",
    rf"{FULL}[-/. ]?{MONTH}(?:[-/. ]\d\d?)?", rf"{FULL}[01]\d[0-3]\dT\d+Z?",
))  # fmt: skip
LIKE_TIMES = rf"(?i)^(?:(?:{DATE})(?:[t ,:]+{CLOCK}.*)?|{CLOCK}(?: ?[ap]m)?)$"
YEARS = 1000, 9999
WIDE = 1000  # columns; of more, only those with likely names or first cells are tried as times
SINCE_1970 = 1e9, 2.5e9  # seconds, the years 2001 to 2049; numbers of other columns are usually smaller
NAMED_UNIX = ("unix", "unixtime", "unixtimestamp", "timestamp", "ts", "epoch", "epochtime", "time")
SURELY_SINCE_1970 = 1e8, 4.2e9  # of columns with these names


class RepeatedError(InputError):
    """Times that occur twice in a column. apart: the columns that tell the rows of one time apart, if any do."""

    def __init__(self, message: str, column: str, apart: Sequence[str]) -> None:
        super().__init__(message)
        self.column, self.apart = column, list(apart)


@dataclass(frozen=True)
class Timeline:
    """Times of the steps of a series.

    column      the time column, or several with commas between them; None where rows are only counted
    form        how the times are written
    times       (N,) of each step, gaps included: datetime64[us], float64 or int64
    places      (rows,) the step of each row of the table
    otherwise   another form that fits too, such as the month before the day, and the spacing that it would give
    order       how the rows stood where they had to be sorted: "newest first", or how many of them were out of order
    """

    column: str | None
    form: Form
    spacing: Spacing
    times: np.ndarray
    places: np.ndarray
    otherwise: tuple[Form, Spacing] | None = None
    order: str = ""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def inserted(self) -> int:
        """The number of steps without a row."""
        return len(self.times) - len(self.places)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Columns (rows, ...) on the grid (N, ...), NaN at steps without a row."""
        grid = np.full((len(self.times), *values.shape[1:]), np.nan)
        grid[self.places] = values
        return grid

    def gaps(self) -> list[tuple[int, int]]:
        """First and last step of each gap."""
        places = np.sort(self.places)
        before = np.flatnonzero(np.diff(places) > 1)
        return [(int(places[b]) + 1, int(places[b + 1]) - 1) for b in before]

    def following(self, steps: int, last: int | None = None) -> np.ndarray:
        """The times of the next steps after step number `last`, by default the last one."""
        last = len(self.times) - 1 if last is None else last
        return self.spacing.after(self.times[last : last + 1], np.arange(1, steps + 1))

    def label(self, time: np.ndarray | np.generic | float) -> str:
        """The time in the format of the file."""
        if self.spacing.unit in ("row", "number"):
            return format(float(time), self.form.text)
        return self.form.label(np.datetime64(int(np.asarray(time, "datetime64[us]").astype(np.int64)), "us"))


def of(table: Table, column: str | None = None, taken: Collection[str] = ()) -> Timeline:
    """The times of a table's rows, as of one series. See `of_each`."""
    return of_each(table, [np.arange(len(table))], column, taken)[0]


def of_each(
    table: Table, groups: Sequence[np.ndarray], column: str | None = None, taken: Collection[str] = ()
) -> list[Timeline]:
    """The times of each group of a table's rows: of each of its series. `places` and `order` are of the group's rows.

    column   the time column, or several with commas between them, such as Date,Time; `ROWS`: rows are even steps; None:
             found among the columns not `taken`, by type, by name, or because it holds dates or numbers that count from
             1970 on

    All groups are read alike. Their spacing is that of each, if they agree, or else that of the times of all.

    Raises InputError, with the place, for empty, unreadable and repeated times, and where columns look like times and
    none can be used.
    """
    if column is not None and column != ROWS:
        return _timelines(table, groups, column, taken)
    if column is None:
        found = _found(
            table,
            taken,
            lambda name: _timelines(table, groups, name, taken),
            counts=lambda lines: not any(line.order for line in lines),
            at_once=lambda lines: all(line.order in ("", NEWEST_FIRST) for line in lines),
        )
        if found is not None:
            return found
    counts = [np.arange(len(rows)) for rows in groups]
    return [Timeline(None, Form(".0f"), Spacing("row", 1), count + 1, count) for count in counts]


def parts_of(table: Table, column: str) -> list[str]:
    """The columns that a name stands for: itself, or, with commas, several that tell the time together."""
    several = [name.strip() for name in column.split(",")]
    return several if column not in table.columns and len(several) > 1 else [column]


def _found(
    table: Table,
    taken: Collection[str],
    use: Callable[[str], Found],
    counts: Callable[[Found], bool],
    at_once: Callable[[Found], bool] | None = None,
) -> Found | None:
    """`use` of the first column that looks like times and can be used; or of one with the name of a counter that can
    be used and that `counts` accepts. at_once: several columns may tell the time together, and of all that can be used
    the first is taken that this accepts, or else the first.

    Raises InputError where columns look like times and none can be used.
    """
    free = _free(table, taken)
    likely, calendar, numbers = _candidates(table, free)
    dated, in_parts = _together(table, free) if at_once else ([], [])
    for candidates, joined in ((likely, dated), (calendar, in_parts), (numbers, [])):
        flaws, usable = [], []
        for name in (*joined, *candidates) if candidates is calendar else (*candidates, *joined):
            try:
                usable.append(use(name))
            except InputError as flaw:
                flaws.insert(0 if name in joined else len(flaws), flaw)
            else:
                if at_once is None or at_once(usable[-1]):
                    return usable[-1]
        if usable:
            return usable[0]
        if flaws:
            raise _not_used(flaws[0], [*joined, *candidates], at_once is not None)
    for name in free:
        if _called(name) in COUNTERS:
            with suppress(InputError):
                if counts(found := use(name)):
                    return found
    return None


def _free(table: Table, taken: Collection[str]) -> list[str]:
    """The columns that may be times: all that are not taken; of a wide table those with such names or first cells."""
    free = [name for name in table.columns if name not in taken]
    if len(free) <= WIDE:
        return free
    named = {*SURELY, *CALENDAR, *COUNTERS, *OF_CLOCK}
    first = zip(*table.frame.select(free).head(3).rows(), strict=True)
    return [
        name
        for name, cells in zip(free, first, strict=True)
        if _called(name) in named
        or _part(name)
        or any(re.search(rf"{LIKE_TIMES}|^\d{{9,}}", str(cell).strip()) for cell in cells if cell is not None)
    ]


def _not_used(flaw: InputError, candidates: Sequence[str], together: bool) -> InputError:
    first, several = candidates[0], ""
    if len(candidates) > 1 and not any("," in name for name in candidates):
        how = f"name them with commas between, --time {','.join(candidates)}" if together else "write it in one column"
        several = f" Where {', '.join(map(repr, candidates))} tell the time together, {how}."
    said = (
        f"{flaw}{several} If {first!r} is not the time, name the column that is, or say that rows are even steps in "
        f"the order they stand in: --time {ROWS}"
    )
    return RepeatedError(said, flaw.column, flaw.apart) if isinstance(flaw, RepeatedError) else InputError(said)


def ordering(table: Table, groups: Mapping[str, Sequence[int]], taken: Collection[str] = ()) -> str | None:
    """The column that orders the rows of each group, found as for `of` among those not `taken`. None: there is none.

    Raises InputError where columns look like times and none can be used.
    """

    def is_even(name: str) -> bool:
        values = table.numbers(name)
        return all(len(set(np.diff(values[rows]))) <= 1 for rows in in_order(table, name, groups))

    def tried(name: str) -> str:
        in_order(table, name, groups)
        return name

    return _found(table, taken, tried, is_even)


def in_order(table: Table, column: str, groups: Mapping[str, Sequence[int]]) -> list[list[int]]:
    """The rows of each group (the steps of a sequence, by its name), sorted by their times.

    Dates such as 01/02/2026 can be read in several ways; the one that leaves most rows in order is taken.

    Raises InputError, with the place, for empty or unreadable times, and for steps with the same time.
    """
    pairs = np.array([pair for rows in groups.values() for pair in itertools.pairwise(rows)], np.int64)
    one, next_one = pairs.reshape(-1, 2).T
    readings = [reading.times for reading in _readings(table, column)]
    times = max(readings, key=lambda times: int((times[one] < times[next_one]).sum()))
    found = []
    for name, rows in groups.items():
        found.append(sorted(rows, key=times.__getitem__))
        for row, next_row in itertools.pairwise(found[-1]):
            if times[row] == times[next_row]:
                raise InputError(
                    f"The steps of a sequence must have different times; {name!r} has {table.column(column)[row]} in "
                    f"{table.place(row)} and in {table.place(next_row)} of {table.source}."
                )
    return found


def _candidates(table: Table, free: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Columns that look like times, the likeliest first; those with the name of a part of a date; and those whose
    numbers count from 1970 on."""
    typed = [name for name in free if table.frame[name].dtype in (pl.Date, pl.Datetime, pl.Time)]
    named = [name for name in free if _called(name) in SURELY]
    dated = [name for name in free if table.frame[name].dtype == pl.String and _like(table.frame[name], LIKE_TIMES)]
    calendar = [name for name in free if _called(name) in CALENDAR]
    likely = [*typed, *named, *dated]
    if likely and not named:  # with a column for the year, dates may be anything; with a mere count, they are the time
        likely += [name for name in calendar if _called(name) != "t"]
    return list(dict.fromkeys(likely)), calendar, [name for name in free if _since_1970(table.frame[name])]


def _together(table: Table, free: Sequence[str]) -> tuple[list[str], list[str]]:
    """Columns that tell the time together and can be read so: a date and a time of day; and the parts of a calendar."""

    def is_date(cells: pl.Series) -> bool:
        return cells.dtype == pl.Date or (
            cells.dtype == pl.String and _like(cells, rf"(?i)^(?:{DATE})(?:[t ]0?0:00.*)?$")
        )

    def is_clock(name: str, cells: pl.Series) -> bool:
        if cells.dtype == pl.String:
            text = without_missing(cells).drop_nulls()
            named = _called(name) in OF_CLOCK and len(text) > 0 and not dates.readings(text[:99])
            return named or _like(cells, rf"^{CLOCK}$")
        return cells.dtype == pl.Time or (_called(name) in OF_CLOCK and cells.dtype.is_numeric())

    def readable(names: Sequence[str]) -> bool:
        with suppress(InputError):
            return not any("," in name for name in names) and bool(_readings(table, ",".join(names)))
        return False

    clocks = [name for name in free if is_clock(name, table.frame[name])]
    days = [name for name in free if clocks and name not in clocks and is_date(table.frame[name])]
    found = list(itertools.product(days, clocks))
    of = {_part(name): name for name in reversed(free) if _part(name)}
    second = next((part for part in ("month", "quarter", "week", "day") if part in of), None)
    in_parts = ["year", second] if "year" in of and second else []
    for part in ("day", "hour", "minute", "second"):
        if (
            in_parts
            and part in of
            and in_parts[-1] in {"day": ("month",), "hour": ("day",)}.get(part, ("hour", "minute"))
        ):
            in_parts.append(part)
    parts = [of[part] for part in in_parts if part]
    return [",".join(pair) for pair in found if readable(pair)], [",".join(parts)] if parts and readable(parts) else []


def _part(name: str) -> str | None:
    """The part of a date or a time of day that a column is named after."""
    return next((part for part, (_, names) in PARTS.items() if _called(name) in names), None)


def _called(name: str) -> str:
    """The name in lower case, without separators and brackets at its end; but T, which is a temperature."""
    called = re.sub(r"[\s_.-]|[(\[].*[)\]]$", "", name)
    return called if called == "T" else called.lower()


def _like(cells: pl.Series, pattern: str) -> bool:
    """Whether most of the cells are like the pattern."""
    known = without_missing(cells).drop_nulls()
    return 2 * int(known.str.contains(pattern).sum()) > len(known)


def _since_1970(cells: pl.Series) -> bool:
    """Whether all cells look like seconds since 1970, or thousandths, millionths or billionths of them."""
    if cells.dtype != pl.String and not cells.dtype.is_numeric():
        return False
    some = (without_missing(cells) if cells.dtype == pl.String else cells).drop_nulls()
    known = some.cast(pl.Float64, strict=False).fill_null(math.nan).to_numpy()
    first, last = SINCE_1970
    return (
        len(known) > 0
        and bool((known == known.round()).all() and (known != known[0]).any())
        and any(first * unit <= known.min() and known.max() <= last * unit for unit in (1, 1e3, 1e6, 1e9))
    )


def _timelines(table: Table, groups: Sequence[np.ndarray], column: str, taken: Collection[str]) -> list[Timeline]:
    readings = _readings(table, column)
    also = filter(None, map(dates.set_back, readings)) if len(groups) == 1 else ()
    found = []
    for reading in (*readings, *also):
        of_rows = [reading.times[rows] for rows in groups]
        orders = [np.argsort(times, kind="stable") for times in of_rows]
        sorted_times = [times[order] for times, order in zip(of_rows, orders, strict=True)]
        if all((times[1:] > times[:-1]).all() for times in sorted_times):
            grids = _grids(sorted_times)
            said = [_order(order) for order in orders]
            spacings, empty = {spacing for spacing, _, _ in grids}, sum(len(times) for _, times, _ in grids)
            short = [of.unit == "microsecond" and of.every < DAY for of in spacings]  # in UTC; days by local clocks
            unsorted = sum(one not in ("", NEWEST_FIRST) for one in said)
            rank = unsorted, not all(of.even for of in spacings), sum(one != reading.form.utc for one in short), empty
            found.append((rank, reading, orders, grids, said))
    if not found:
        raise _repeated(table, groups, column, readings, taken)
    found.sort(key=lambda of: of[0])
    best, reading, orders, grids, said = found[0]
    rivals = [
        (of.form, to[0][0])
        for rank, of, _, to, _ in found[1:]
        if rank[:2] == best[:2] and of.form.text != reading.form.text and (of.times != reading.times).any()
    ]
    lines = []
    for order, (spacing, times, places), how in zip(orders, grids, said, strict=True):
        of_row = np.empty_like(places)
        of_row[order] = places
        lines.append(Timeline(column, reading.form, spacing, times, of_row, rivals[0] if rivals else None, how))
    return lines


def _grids(groups: Sequence[np.ndarray]) -> list[tuple[Spacing, np.ndarray, np.ndarray]]:
    """For the increasing times of each group its spacing, the times of its steps, and the step of each time."""
    found = [(*recognised(times), times) for times in groups]
    if len({spacing for spacing, _, _ in found}) > 1:
        every = np.unique(np.concatenate(groups))
        spacing, places = recognised(every)
        if spacing.even:
            of_each = [places[np.searchsorted(every, times)] for times in groups]
            found = [(spacing, of - of[0], times) for of, times in zip(of_each, groups, strict=True)]
    grids = []
    for spacing, places, times in found:
        grid = times
        if spacing.even:
            grid = spacing.after(times[:1], np.arange(places[-1] + 1))
            grid[places] = times
        grids.append((spacing, grid, places))
    return grids


def _order(order: np.ndarray) -> str:
    """How rows stood whose numbers, sorted by time, are these."""
    if (np.diff(order) == 1).all():
        return ""
    if (np.diff(order) == -1).all():
        return NEWEST_FIRST

    def longest(numbers: list[int]) -> int:
        ends: list[int] = []
        for number in numbers:
            at = bisect.bisect(ends, number)
            ends[at : at + 1] = [number]
        return len(ends)

    rising, falling = longest(order.tolist()), longest((-order).tolist())
    moved = len(order) - max(rising, falling)
    return f"{moved:,} out of order" + (", the others newest first" if 2 * falling > len(order) else "")


def _repeated(
    table: Table, groups: Sequence[np.ndarray], column: str, readings: Sequence[Reading], taken: Collection[str]
) -> InputError:
    def occurs_twice(rows: np.ndarray, times: np.ndarray) -> bool:
        return len(np.unique(times[rows])) < len(rows)

    times = max((of.times for of in readings), key=lambda times: len(np.unique(times)))
    rows = next(rows for rows in groups if occurs_twice(rows, times))
    seen = np.unique(times[rows], return_index=True, return_inverse=True)
    earlier = seen[1][seen[2]]
    at = int(np.flatnonzero(earlier != np.arange(len(rows)))[0])
    row, before = int(rows[at]), int(rows[earlier[at]])
    cells = _cells(table, column)
    first = f"{table.place(row)} of {table.source} has {str(cells[row])!r} in {_named(table, column)}"
    rule = "Every time may occur once" + (" in each series" if len(groups) > 1 else "")
    fix = "Keep one row of each time; where several series are in one file, name the column that tells them apart."
    of_group = np.empty((len(times), 2), np.int64)
    of_group[:, 1] = np.unique(times, return_inverse=True)[1]
    for number, own in enumerate(groups):
        of_group[own, 0] = number
    at_once = np.unique(of_group, axis=0, return_inverse=True)[1].ravel()
    if others := _telling_apart(table, column, at_once, taken):
        frame = table.frame.select(others).unique(maintain_order=True)
        shown = ", ".join(" ".join(repr(str(cell)) for cell in row) for row in frame[:3].rows())
        apart, differ = ",".join(others), f"Rows of one time differ in {' and '.join(map(repr, others))} ({shown}"
        differ += ", ...)" if len(frame) > 3 else ")"
        fix = (
            f"{differ}: name it after the others in --series, with a comma before it."
            if len(groups) > 1
            else f"{differ}: these are {len(frame):,} series. Learn them together with --series {apart}, or keep the "
            "rows of one of them in a file of its own."
        )
    elif _of_local_clock(cells, times) and np.timedelta64(0) <= times[rows[at - 1]] - times[row] < np.timedelta64(
        1, "h"
    ):
        fix = (
            "Keep one row, or, where clocks were set back and an hour came twice, write the times with their offset "
            f"from UTC, as {cells[row]}+02:00 and {cells[row]}+01:00 an hour later."
        )
    return RepeatedError(f"{rule}; {first}, and so has {table.place(before)}. {fix}", column, others)


def _of_local_clock(cells: pl.Series, times: np.ndarray) -> bool:
    """Whether the times have hours, and no offset from UTC."""
    with_hours = times.dtype.kind == "M" and (times != times.astype("datetime64[D]")).any()
    return bool(with_hours) and ":" in str(cells[0]) and not re.search(r"(Z|[+-]\d\d:?\d\d)$", str(cells[0]))


def _telling_apart(table: Table, column: str, times: np.ndarray, taken: Collection[str]) -> list[str]:
    """The column, or the two, that name the series of a row, where a table has several series."""
    twice = len(times) - len(np.unique(times))
    counts = {}
    for name in table.columns:
        cells = table.frame[name]
        part_of_time = name in parts_of(table, column) or _called(name) in (*SURELY, *CALENDAR, *COUNTERS)
        if part_of_time or name in taken or cells.dtype.is_nested():
            continue
        others = len(cells) - int(cells.value_counts()["count"].to_numpy().max())  # rows of all series but the longest
        if 3 * twice >= len(times) or (cells.dtype == pl.String and 2 * twice >= others):
            counts[name] = cells.n_unique()
    few = sorted((name for name, count in counts.items() if 1 < count <= len(times) / 2), key=counts.__getitem__)
    frame = pl.DataFrame({"\0": times}).hstack(table.frame.select(few))
    tried = itertools.chain(([name] for name in few), map(list, itertools.combinations(few[:8], 2)))
    return next((names for names in tried if not frame.select("\0", *names).is_duplicated().any()), [])


def _named(table: Table, column: str) -> str:
    names = parts_of(table, column)
    return f"column {column!r}" if len(names) == 1 else f"columns {', '.join(map(repr, names))}"


def _cells(table: Table, column: str) -> pl.Series:
    """The cells of a column, of text without missing ones; of several columns, the time that they tell together."""
    names = parts_of(table, column)
    if len(names) == 1:
        cells = table.column(column)
        return without_missing(cells) if cells.dtype == pl.String else cells
    parts = [_part(name) for name in names]
    if "year" in parts and all(parts):
        names = sorted(names, key=lambda name: list(PARTS).index(_part(name) or ""))
        parts = [_part(name) for name in names]
    else:
        parts = [None] * len(names)
    joined = None
    for name, part in zip(names, parts, strict=True):
        cells = table.column(name)
        _require_all(table, name, without_missing(cells) if cells.dtype == pl.String else cells)
        text = _as_text(cells)
        if part in ("minute", "second"):
            text = text.str.zfill(2)
        elif part == "day" and "month" not in parts:
            text = text.str.zfill(3)
        elif (
            part is None
            and joined is not None
            and text.str.contains(r"^\d+$").all()
            and (text.str.len_chars() > 2).any()
        ):
            text = text.str.zfill(4)
        joined = text if joined is None else joined + (PARTS[part][0] if part else " ") + text
    assert joined is not None
    return joined


def _as_text(cells: pl.Series) -> pl.Series:
    """Cells as in a CSV file: dates without midnight, whole numbers without a point."""
    numbers = cells.cast(pl.Float64, strict=False) if cells.dtype == pl.String or cells.dtype.is_numeric() else None
    bare = cells.dtype == pl.String and cells.str.contains(r"^\s*\d+\s*$").all()
    if numbers is not None and not bare and numbers.is_not_null().all() and (numbers == numbers.round()).all():
        return numbers.cast(pl.Int64, strict=False).cast(pl.String).fill_null("")
    text = cells.cast(pl.String).str.strip_chars()
    midnight = r"[T ]0?0:00(:00)?(\.0+)?$"
    return text.str.replace(midnight, "") if text.str.contains(midnight).all() else text


def _readings(table: Table, column: str) -> list[Reading]:
    """All ways to read the column."""
    cells, where = _cells(table, column), _named(table, column)
    if cells.dtype in (pl.Date, pl.Datetime):
        _require_all(table, column, cells)
        outside = ~cells.dt.year().is_between(*YEARS).fill_null(False)
        if outside.any():
            row = int(outside.arg_true()[0])
            raise InputError(
                f"Times must lie in the years {YEARS[0]} to {YEARS[1]}; {table.place(row)} of {table.source} lies "
                f"outside in {where}. Correct it, or name another column with --time."
            )
        exact = cells.to_numpy()
        times = exact.astype("datetime64[us]")
        if (between := np.flatnonzero(exact != times)).size:
            raise InputError(
                f"Times must be whole microseconds; {table.place(int(between[0]))} of {table.source} has "
                f"{exact[between[0]]} in {where}. Round them, or write them as numbers from a beginning on."
            )
        zone = getattr(cells.dtype, "time_zone", None)
        if zone is None:
            return [Reading(Form(_usual_form(times)), times)]
        local = cells.dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
        form = _usual_form(local)
        return dates.zoned(local, times, Form(form + "%:z" * ("%H" in form), zone=zone))
    _require_all(table, column, cells)
    numbers = cells.cast(pl.Float64, strict=False) if cells.dtype == pl.String or cells.dtype.is_numeric() else None
    if numbers is not None and not numbers.is_null().any() and numbers.is_finite().all():
        values = numbers.to_numpy()
        whole = cells.cast(pl.Int64, strict=False)
        rounded = (numbers.abs() > LARGEST) | (whole != numbers.cast(pl.Int64, strict=False)).fill_null(False)
        if rounded.any():
            row = int(rounded.arg_true()[0])
            raise InputError(
                f"Numbers that are times must lie from {-LARGEST:g} to {LARGEST:g}, and be multiples that float64 "
                f"holds where they are beyond 2**53; {table.place(row)} of {table.source} has {cells[row]} in {where}. "
                "Write them in a larger unit, count from a later beginning, or write dates."
            )
        text = _as_text(cells)
        if text.str.contains(r"^\d{4}\.0\d$").any():  # where 2020.10 has lost its zero
            text = text.str.replace(r"^(\d{4}\.1)$", "${1}0")
        if found := dates.readings(text, numbers=True):
            return found
        limits = SURELY_SINCE_1970 if _called(column) in NAMED_UNIX else SINCE_1970
        if len(values) > 1 and (found := dates.since_1970(values, *limits)) is not None:
            return [found]
        return [Reading(Form(_decimals(values)), values.astype(np.float64))]
    if cells.dtype == pl.String:
        if found := dates.readings(cells):
            return found
        unread = dates.unread(cells)
    else:
        unread = 0
    raise InputError(
        f"Times must be numbers or dates, all written alike, as in 2026-01-31, 2026-01-31 18:30, 31.01.2026, Jan 2026 "
        f"or 2026Q1; {table.place(unread)} of {table.source} has {str(cells[unread])!r} in {where}. "
        "Correct it, or name another column with --time."
    )


def _require_all(table: Table, column: str, cells: pl.Series) -> None:
    if cells.is_null().any():
        row = cells.is_null().arg_true()[0]
        raise InputError(
            f"Every row needs a time; {table.place(row)} of {table.source} has none in column {column!r}. "
            "Fill it in, or leave the row out."
        )


def _decimals(values: np.ndarray) -> str:
    return next(
        (f".{digits}f" for digits in range(9) if np.allclose(values, values.round(digits), rtol=0, atol=1e-9)), "g"
    )


def _usual_form(times: np.ndarray) -> str:
    within = (times - times.astype("datetime64[D]").astype(times.dtype)).astype(np.int64)
    if not within.any():
        return "%Y-%m-%d"
    if (within % UNITS["minute"] == 0).all():
        return "%Y-%m-%d %H:%M"
    return "%Y-%m-%d %H:%M:%S" if (within % SECOND == 0).all() else "%Y-%m-%d %H:%M:%S%.f"
