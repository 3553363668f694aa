"""The time of each row of a table: found, read, put on an even grid where there is one, and continued.

`of` finds the time column, reads numbers and dates in all usual forms, and recognises the spacing: seconds to weeks,
weekdays, calendar months to years, whole or decimal numbers. Rows that are missing from an even grid are found, and
`Timeline.on_grid` leaves their places empty. Where the spacing is not even, the rows count as even steps, and
`Spacing.even` is False. A column that looks like times and cannot be used is an error, unless `ROWS` is given.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

import numpy as np
import polars as pl

from bptt.errors import InputError
from bptt.tasks.table import LARGEST, Table, without_missing

Found = TypeVar("Found")
SpacingUnit = Literal["row", "number", "microsecond", "weekday", "month"]

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
DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%y", "%d.%m.%Y", "%d/%m/%y", "%m/%d/%y", "%d/%m/%Y", "%m/%d/%Y", "%d-%b-%Y",
    "%d %b %Y", "%b %d, %Y", "%Y%m%d",
)  # fmt: skip
TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%H:%M:%SZ", "%H:%M:%S%.fZ", "%H:%M%z", "%H:%M:%S%z", "%H:%M:%S%.f%z")
MONTHS = ("%Y-%m", "%Y/%m", "%m/%Y", "%b %Y", "%b-%Y", "%Y %b", "%Y-%b", "%Y%m")  # a day is put before them
MONTH = (
    "(?:jan(?:uary?)?|feb(?:ruary?)?|m[aä]r(?:ch|z)?|apr(?:il)?|ma[iy]|june?|juni|july?|juli|aug(?:ust)?|"
    "sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)[.]?"
)
FULL = r"(?:1[5-9]\d|20\d|210)\d"
YEAR, CLOCK = rf"'?(?:{FULL}|\d\d)", r"\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?"
DATE = "|".join((
    rf"{FULL}[-/]\d\d?", rf"\d\d?[-/]{FULL}", rf"{FULL}[-/.]\d\d?[-/.]\d\d?", rf"\d\d?[-/.]\d\d?[-/.]{YEAR}",
    rf"{FULL}[-/ ]?(?:q|w|kw|m|h)-?\d\d?(?:-\d)?", rf"(?:q|w|kw)\d\d?(?:[-/ ]{YEAR}|{FULL})",
    rf"(?:\d\d?[-./ ]*)?{MONTH}[-./, ]*(?:\d\d?[-., ]+)?{YEAR}", rf"{FULL}[-/. ]?{MONTH}(?:[-/. ]\d\d?)?",
))  # fmt: skip
LIKE_TIMES = rf"(?i)^(?:(?:{DATE})(?:[t ,]+{CLOCK}.*)?|{CLOCK}(?: ?[ap]m)?)$"
SHORT_YEAR = rf"(?i)(?:\d\d?[-./ ]*)?({MONTH})[-./, ]*'?(\d\d)"
QUARTERS = {"1": "-01-01", "2": "-04-01", "3": "-07-01", "4": "-10-01"}
SECOND = 1_000_000
UNITS = {"week": 604_800 * SECOND, "day": 86_400 * SECOND, "hour": 3_600 * SECOND, "minute": 60 * SECOND,
         "second": SECOND, "millisecond": 1_000, "microsecond": 1}  # fmt: skip
YEARS = 1000, 9999
SINCE_1970 = 1e9, 2.5e9  # seconds, the years 2001 to 2049; numbers of other columns are usually smaller
LATEST = 288_000 * 365.25 * UNITS["day"]  # since 1970, of dates that int64 counts in microseconds
TOLERANCE = 0.1  # share of a step by which decimal times may miss the grid


@dataclass(frozen=True)
class Spacing:
    """The distance of two rows: `every` units; where they are not even, the usual distance.

    day     for months, the day of the month, or the last day of shorter months
    """

    unit: SpacingUnit
    every: float
    even: bool = True
    day: int = 1

    def __str__(self) -> str:
        about = "" if self.even else "about "
        match self.unit:
            case "row":
                return "row by row"
            case "number":
                return f"{about}{self.every:g}"
            case "weekday":
                return "day from Monday to Friday"
            case "month":
                name, many = next(
                    (name, many)
                    for name, many in (("year", 12), ("quarter", 3), ("month", 1))
                    if self.every % many == 0
                )
            case _:
                name, many = next((name, many) for name, many in UNITS.items() if self.every % many == 0)
        count = round(self.every / many)
        return about + (name if count == 1 else f"{count} {name}s")

    @property
    def seasons(self) -> tuple[int, ...]:
        """The seasons of the calendar in steps, the shortest first: a day and a week for hours and less, a week for
        days, a year for the rest."""
        match self.unit:
            case "weekday":
                return (5,)
            case "month":
                periods = [12]
            case "microsecond":
                week, day = UNITS["week"], UNITS["day"]
                if self.every == week:
                    return (52,)
                periods = [day, week] if self.every < day else [week]
            case _:
                return ()
        return tuple(round(p / self.every) for p in periods if self.every < p and p % self.every == 0)

    def after(self, last: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The times that are `steps` (n) after `last`, an array of one time.

        Raises InputError for dates beyond what 64 bits count in microseconds.
        """
        long = {"month": 31 * UNITS["day"], "weekday": 3 * UNITS["day"], "microsecond": 1}.get(self.unit)
        if long and float(last.astype(np.float64)[0]) + float(steps[-1]) * self.every * long > LATEST:
            raise InputError(
                f"Dates must lie before the year 290,000; {steps[-1]:,} steps of {self} after {last[0]} do not. Ask "
                "for fewer steps."
            )
        match self.unit:
            case "month":
                month = last.astype("datetime64[M]")
                months = month + (steps * int(self.every)).astype("timedelta64[M]")
                days = np.minimum(months.astype("datetime64[D]") + (self.day - 1), _last_days(months))
                return days.astype(last.dtype) + (last - last.astype("datetime64[D]").astype(last.dtype))
            case "weekday":
                day = last.astype("datetime64[D]")
                return np.busday_offset(day, steps, roll="forward").astype(last.dtype) + (last - day.astype(last.dtype))
            case "microsecond":
                return last + (steps * int(self.every)).astype("timedelta64[us]")
            case _:
                return last + steps * self.every


@dataclass(frozen=True)
class Timeline:
    """Times of the steps of a series.

    column      the time column, None where rows are only counted
    form        the format of the times: of dates as in strftime, with %q for the quarter; of numbers as in format
    times       (N,) of each step, gaps included: datetime64[us], float64 or int64
    places      (rows,) the step of each row of the table
    otherwise   another form that fits too, such as the month before the day, and the spacing that it would give
    """

    column: str | None
    form: str
    spacing: Spacing
    times: np.ndarray
    places: np.ndarray
    otherwise: tuple[str, Spacing] | None = None

    def __len__(self) -> int:
        return len(self.times)

    @property
    def inserted(self) -> int:
        """The number of steps without a row."""
        return len(self.times) - len(self.places)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """A column (rows,) on the grid (N,), NaN at steps without a row."""
        grid = np.full(len(self.times), np.nan)
        grid[self.places] = values
        return grid

    def gaps(self) -> list[tuple[int, int]]:
        """First and last step of each gap."""
        before = self.places[:-1][np.diff(self.places) > 1]
        after = self.places[1:][np.diff(self.places) > 1]
        return [(int(b) + 1, int(a) - 1) for b, a in zip(before, after, strict=True)]

    def following(self, steps: int, last: int | None = None) -> np.ndarray:
        """The times of the next steps after step number `last`, by default the last one."""
        last = len(self.times) - 1 if last is None else last
        return self.spacing.after(self.times[last : last + 1], np.arange(1, steps + 1))

    def label(self, time: np.ndarray | np.generic | float) -> str:
        """The time in the format of the file."""
        if self.spacing.unit in ("row", "number"):
            return format(float(time), self.form)
        moment = np.asarray(time, "datetime64[us]").item()
        if not isinstance(moment, datetime):  # after the year 9999
            return str(np.asarray(time, "datetime64[s]"))
        if "%q" in self.form:
            return moment.strftime(self.form.replace("%q", str((moment.month + 2) // 3)))
        if "%.f" in self.form:
            fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
            return moment.strftime(self.form.replace("%.f", fraction).replace("%z", "Z"))
        return moment.strftime(self.form.replace("%z", "Z"))


def of(table: Table, column: str | None = None, taken: Collection[str] = ()) -> Timeline:
    """The times of a table's rows.

    column   the time column; `ROWS`: rows are even steps; None: found among the columns not `taken`, by type, by name,
             or because it holds dates or numbers that count from 1970 on

    Raises InputError, with the place, for empty or unreadable times and times that do not increase, and where columns
    look like times and none can be used.
    """
    if column is not None and column != ROWS:
        return _timeline(table, column, taken)
    if column is None:
        found = _found(table, taken, lambda name: _timeline(table, name, taken), lambda line: True)
        if found is not None:
            return found
    count = np.arange(len(table))
    return Timeline(None, ".0f", Spacing("row", 1), count + 1, count)


def _found(
    table: Table, taken: Collection[str], use: Callable[[str], Found], counts: Callable[[Found], bool]
) -> Found | None:
    """`use` of the first column that looks like times and can be used; or of one with the name of a counter that can
    be used and that `counts` accepts.

    Raises InputError where columns look like times and none can be used.
    """
    for candidates in _candidates(table, taken):
        flaws = []
        for name in candidates:
            try:
                return use(name)
            except InputError as flaw:
                flaws.append(flaw)
        if flaws:
            raise _not_used(flaws[0], candidates)
    for name in table.columns:
        if _called(name) in COUNTERS and name not in taken:
            with suppress(InputError):
                if counts(found := use(name)):
                    return found
    return None


def _not_used(flaw: InputError, candidates: Sequence[str]) -> InputError:
    first, *others = map(repr, candidates)
    several = f" Where {', '.join((first, *others))} tell the time together, write it in one column." if others else ""
    return InputError(
        f"{flaw}{several} If {first} is not the time, name the column that is, or say that rows are even steps in the "
        f"order they stand in: --time {ROWS}"
    )


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
    readings = [times for _, times in _readings(table, column)]
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


def _candidates(table: Table, taken: Collection[str]) -> tuple[list[str], list[str], list[str]]:
    """Columns that look like times, the likeliest first; those with the name of a part of a date; and those whose
    numbers count from 1970 on."""
    free = [name for name in table.columns if name not in taken]
    typed = [name for name in free if table.frame[name].dtype in (pl.Date, pl.Datetime, pl.Time)]
    named = [name for name in free if _called(name) in SURELY]
    dated = [name for name in free if table.frame[name].dtype == pl.String and _like_times(table.frame[name])]
    calendar = [name for name in free if _called(name) in CALENDAR]
    likely = [*typed, *named, *dated]
    if likely and not named:  # with a column for the year, dates may be anything; with a mere count, they are the time
        likely += [name for name in calendar if _called(name) != "t"]
    return list(dict.fromkeys(likely)), calendar, [name for name in free if _since_1970(table.frame[name])]


def _called(name: str) -> str:
    """The name in lower case, without separators and brackets at its end; but T, which is a temperature."""
    called = re.sub(r"[\s_.-]|[(\[].*[)\]]$", "", name)
    return called if called == "T" else called.lower()


def _like_times(cells: pl.Series) -> bool:
    """Whether most of the cells look like dates or hours."""
    known = without_missing(cells).drop_nulls()
    return 2 * int(known.str.contains(LIKE_TIMES).sum()) > len(known)


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


def _timeline(table: Table, column: str, taken: Collection[str]) -> Timeline:
    readings = _readings(table, column)
    increasing = [(form, times) for form, times in readings if not _backwards(times).any()]
    if not increasing:
        raise _not_increasing(table, column, min((times for _, times in readings), key=_disorder), taken)
    spaced = [(form, times, *_spacing(times)) for form, times in increasing]
    spaced.sort(key=lambda found: not found[2].even)
    form, times, spacing, places = spaced[0]
    rivals = [(other, to) for other, at, to, _ in spaced[1:] if to.even == spacing.even and (at != times).any()]
    if spacing.even:
        grid = spacing.after(times[:1], np.arange(places[-1] + 1))
        grid[places] = times
        times = grid
    return Timeline(column, form, spacing, times, places, rivals[0] if rivals else None)


def _backwards(times: np.ndarray) -> np.ndarray:
    """For each time but the last, whether the next one is not later."""
    return times[1:] <= times[:-1]


def _disorder(times: np.ndarray) -> int:
    """The number of rows that are out of order, in the better of both directions."""
    return int(min(_backwards(times).sum(), _backwards(times[::-1]).sum()))


def _not_increasing(table: Table, column: str, times: np.ndarray, taken: Collection[str]) -> InputError:
    row = int(np.flatnonzero(_backwards(times))[0])
    cells = table.column(column)
    first = f"{table.place(row + 1)} of {table.source} has {str(cells[row + 1])!r} in column {column!r}"
    earlier = np.flatnonzero(times[: row + 1] == times[row + 1])
    if not len(earlier):
        newest_first = "" if _backwards(times[::-1]).any() else " The newest row stands first."
        return InputError(
            f"Times must increase from row to row; {first}, after {str(cells[row])!r} in {table.place(row)}."
            f"{newest_first} Sort the rows by {column!r}, oldest first, or name another column with --time."
        )
    fix = "Keep one row, or, where several series are in one file, give each a file of its own."
    if (other := _telling_apart(table, column, times, taken)) is not None:
        values = table.column(other).unique(maintain_order=True)
        shown = ", ".join(repr(str(value)) for value in values[:3]) + (", ..." if len(values) > 3 else "")
        fix = f"Rows of one time differ in {other!r} ({shown}): give each of these series a file of its own."
    elif _of_local_clock(cells, times) and times[row] - times[row + 1] < np.timedelta64(1, "h"):
        fix = (
            "Keep one row, or, where clocks were set back and an hour came twice, write the times with their offset "
            f"from UTC, as {cells[row + 1]}+02:00 and {cells[row + 1]}+01:00 an hour later."
        )
    return InputError(
        f"Every time may occur once, in increasing order; {first}, and so has {table.place(int(earlier[-1]))}. {fix}"
    )


def _of_local_clock(cells: pl.Series, times: np.ndarray) -> bool:
    """Whether the times have hours, and no offset from UTC."""
    with_hours = times.dtype.kind == "M" and (times != times.astype("datetime64[D]")).any()
    return bool(with_hours) and not re.search(r"(Z|[+-]\d\d:?\d\d)$", str(cells[0]))


def _telling_apart(table: Table, column: str, times: np.ndarray, taken: Collection[str]) -> str | None:
    """The column that names the series of a row, where a table has several series."""
    if 3 * len(np.unique(times)) > 2 * len(times):
        return None
    found = {}
    for name in table.columns:
        cells = table.frame[name]
        parts_of_time = name == column or _called(name) in (*SURELY, *CALENDAR, *COUNTERS)
        if parts_of_time or name in taken or cells.dtype.is_nested() or 2 * cells.n_unique() > len(cells):
            continue
        if not pl.DataFrame({"time": times, "other": cells}).is_duplicated().any():
            found[name] = cells.n_unique()
    return min(found, key=found.__getitem__, default=None)


def _readings(table: Table, column: str) -> list[tuple[str, np.ndarray]]:
    """All ways to read the column: the form of the dates, and the times."""
    cells = table.column(column)
    if cells.dtype in (pl.Date, pl.Datetime):
        _require_all(table, column, cells)
        outside = ~cells.dt.year().is_between(*YEARS).fill_null(False)
        if outside.any():
            row = int(outside.arg_true()[0])
            raise InputError(
                f"Times must lie in the years {YEARS[0]} to {YEARS[1]}; {table.place(row)} of {table.source} lies "
                f"outside in column {column!r}. Correct it, or name another column with --time."
            )
        exact = cells.to_numpy()
        times = exact.astype("datetime64[us]")
        if (between := np.flatnonzero(exact != times)).size:
            raise InputError(
                f"Times must be whole microseconds; {table.place(int(between[0]))} of {table.source} has "
                f"{exact[between[0]]} in column {column!r}. Round them, or write them as numbers from a beginning on."
            )
        form = _usual_form(times)
        if "%H" in form and getattr(cells.dtype, "time_zone", None):
            form += "%z"
        return [(form, times)]
    if cells.dtype == pl.String:
        cells = without_missing(cells)
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
                f"holds where they are beyond 2**53; {table.place(row)} of {table.source} has {cells[row]} in column "
                f"{column!r}. Write them in a larger unit, count from a later beginning, or write dates."
            )
        if ((values >= 19000101) & (values <= 21001231) & (values == values.round())).all():
            dated = numbers.cast(pl.Int64).cast(pl.String).str.to_date("%Y%m%d", strict=False)
            if not dated.is_null().any():
                return [("%Y%m%d", dated.to_numpy().astype("datetime64[us]"))]
        if ((values >= 190001) & (values <= 210012) & (values == values.round())).all():
            dated = _read(numbers.cast(pl.Int64).cast(pl.String), "%Y%m")
            if not dated.is_null().any():
                return [("%Y%m", dated.to_numpy().astype("datetime64[us]"))]
        return [(_decimals(values), values.astype(np.float64))]
    if cells.dtype == pl.String:
        if readings := list(_dates(cells)):
            return readings
        unread = _unread(cells)
    else:
        unread = 0
    fix = "Correct it"
    if short := re.fullmatch(SHORT_YEAR, str(cells[unread])):
        month, year = short.groups()
        fix = f"Write the year of a month with four digits: {month} 19{year} or {month} 20{year}"
    raise InputError(
        f"Times must be numbers or dates, all written alike, as in 2026-01-31, 2026-01-31 18:30, 31.01.2026, 2026-01 "
        f"or 2026Q1; {table.place(unread)} of {table.source} has {str(cells[unread])!r} in column {column!r}. "
        f"{fix}, or name another column with --time."
    )


def _require_all(table: Table, column: str, cells: pl.Series) -> None:
    if cells.is_null().any():
        row = cells.is_null().arg_true()[0]
        raise InputError(
            f"Every row needs a time; {table.place(row)} of {table.source} has none in column {column!r}. "
            "Fill it in, or leave the row out."
        )


def _dates(cells: pl.Series) -> Iterator[tuple[str, np.ndarray]]:
    first = cells[:1]
    for form in _forms():
        if not _read(first, form).is_null().any():
            dates = _read(cells, form)
            if not dates.is_null().any():
                yield form, dates.to_numpy().astype("datetime64[us]")


def _forms() -> Iterator[str]:
    yield from DATES
    for date in DATES:
        for between in (" ", "T"):
            yield from (date + between + time for time in TIMES)
    yield from MONTHS
    yield from ("%YQ%q", "%Y-Q%q", "%Y Q%q")


def _read(cells: pl.Series, form: str) -> pl.Series:
    """Dates; null where a cell has another form or lies outside `YEARS`, such as 20 for 2020. Offsets become UTC."""
    dates = _parsed(cells, form)
    return dates.set(~dates.dt.year().is_between(*YEARS), None)


def _parsed(cells: pl.Series, form: str) -> pl.Series:
    if "%q" in form:
        pattern = "^" + form.replace("%Y", r"(\d{4})").replace("%q", "([1-4])") + "$"
        first_month = cells.str.extract(pattern, 2).replace_strict(QUARTERS, default=None, return_dtype=pl.String)
        return (cells.str.extract(pattern, 1) + first_month).str.to_date("%Y-%m-%d", strict=False)
    if form in MONTHS:
        return ("01 " + cells).str.to_date("%d " + form, strict=False)
    if "%H" not in form:
        return cells.str.to_date(form, strict=False)
    if "%z" in form:
        return cells.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone(None)
    return cells.str.to_datetime(form, time_unit="us", strict=False)


def _unread(cells: pl.Series) -> int:
    """The first row that does not have the form of most rows."""
    best = max((_read(cells, form).is_null() for form in _forms()), key=lambda null: len(null) - null.sum())
    return int(best.arg_true()[0])


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


def _spacing(times: np.ndarray) -> tuple[Spacing, np.ndarray]:
    """The spacing of increasing times, and the step of each on its grid."""
    count = np.arange(len(times))
    if len(times) == 1:
        return (Spacing("number", 1) if times.dtype.kind == "f" else Spacing("microsecond", UNITS["day"])), count
    if times.dtype.kind == "f":
        gaps = np.diff(times)
        whole = (times == times.round()).all()
        every = float(_commonest(gaps) if whole else np.median(gaps))
        with np.errstate(over="ignore", invalid="ignore"):  # next to the smallest gap, the largest may be infinite
            steps = np.maximum(1, (gaps / every).round())
            misses = np.abs(gaps / every - steps).max()
            places = np.concatenate(([0], steps.cumsum()))
        if not misses <= (0 if whole else TOLERANCE) or _too_many(places):
            return Spacing("number", float(np.median(gaps)), even=False), count
        places = places.astype(np.int64)
        return Spacing("number", every if whole else float((times[-1] - times[0]) / places[-1])), places
    day, within = times.astype("datetime64[D]"), times - times.astype("datetime64[D]").astype(times.dtype)
    same_time = bool((within == within[0]).all())
    month = day.astype("datetime64[M]")
    of_month = (day - month.astype(day.dtype)).astype(np.int64) + 1
    at_end = day == _last_days(month)
    if same_time and (at_end | (of_month == of_month.max())).all() and (fitted := _grid(month.astype(np.int64))):
        every, places = fitted
        return Spacing("month", every, day=31 if at_end.all() else int(of_month.max())), places
    if (fitted := _grid(times.astype(np.int64))) is not None:
        every, places = fitted
        week = (day.astype(np.int64) + 3) % 7
        if every == UNITS["day"] and (week < 5).all() and (np.diff(places) == 3).any():
            return Spacing("weekday", 1), np.busday_count(day[0], day).astype(np.int64)
        return Spacing("microsecond", every), places
    return Spacing("microsecond", int(np.median(np.diff(times.astype(np.int64)))), even=False), count


def _last_days(months: np.ndarray) -> np.ndarray:
    return (months + 1).astype("datetime64[D]") - 1


def _grid(times: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The commonest gap and the place of each time on its grid, if all lie on it and most of it is filled."""
    gaps = np.diff(times)
    if (gaps <= 0).any():
        return None
    every = int(_commonest(gaps))
    places = (times - times[0]) // every
    return None if (gaps % every).any() or _too_many(places) else (every, places)


def _commonest(gaps: np.ndarray) -> float:
    values, counts = np.unique(gaps, return_counts=True)
    return values[counts.argmax()]


def _too_many(places: np.ndarray) -> bool:
    """Whether more of the grid would be empty than filled."""
    return bool(places[-1] + 1 > 2 * len(places))
