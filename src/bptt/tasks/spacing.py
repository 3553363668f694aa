"""How far apart the times of a series are: the even grids of calendars and clocks, recognised and continued.

Seconds to weeks, days of the week, calendar months to years and their working days, hours of a day, whole or decimal
numbers. Where the times are not even, `Spacing.even` is False.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bptt.errors import InputError
from bptt.tasks.dates import DAY, HOUR, SECOND

SpacingUnit = Literal["row", "number", "microsecond", "weekday", "month", "clock"]
UNITS = {"week": 7 * DAY, "day": DAY, "hour": HOUR, "minute": 60 * SECOND,
         "second": SECOND, "millisecond": 1_000, "microsecond": 1}  # fmt: skip
WEEKDAYS, WORKING = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"), "1111100"
YEAR_OF_DAYS, WEEKS_OF_YEAR = 365.25, 365.25 / 7
KEPT = 0.6  # share of months whose row must be on the day of a rule, such as the last working day: others are holidays
LATEST = 288_000 * 365.25 * UNITS["day"]  # since 1970, of dates that int64 counts in microseconds
TOLERANCE = 0.1  # share of a step by which decimal times may miss the grid


@dataclass(frozen=True)
class Spacing:
    """The distance of two rows: `every` units; where they are not even, the usual distance.

    day     for months, the day of the month, or the last day of shorter months; by `roll` ("forward", "backward") it
            becomes the next or the last day that is in the week
    week    for weekdays, clocks and such months, the days of the week from Monday on, as "1111100"
    clocks  the times of each day, in microseconds
    """

    unit: SpacingUnit
    every: float
    even: bool = True
    day: int = 1
    roll: Literal["", "forward", "backward"] = ""
    week: str = WORKING
    clocks: tuple[int, ...] = ()

    def __str__(self) -> str:
        about = "" if self.even else "about "
        match self.unit:
            case "row":
                return "row by row"
            case "number":
                return f"{about}{self.every:g}"
            case "weekday":
                return "day " + self._days()
            case "clock":
                first, last = (
                    f"{at // HOUR:02}:{at % HOUR // (60 * SECOND):02}" for at in (self.clocks[0], self.clocks[-1])
                )
                gaps = set(np.diff(self.clocks).tolist())
                step = (
                    Spacing("microsecond", gaps.pop()) if len(gaps) == 1 else f"one of {len(self.clocks)} times of day,"
                )
                return f"{step} from {first} to {last}" + (f", {self._days()}" if "0" in self.week else "")
            case "month":
                name, many = next(
                    (name, many)
                    for name, many in (("year", 12), ("half year", 6), ("quarter", 3), ("month", 1))
                    if self.every % many == 0
                )
            case _:
                name, many = next((name, many) for name, many in UNITS.items() if self.every % many == 0)
        count = round(self.every / many)
        return about + (name if count == 1 else f"{count} {name}s")

    def _days(self) -> str:
        days = [name for name, worked in zip(WEEKDAYS, self.week, strict=True) if worked == "1"]
        return f"from {days[0]} to {days[-1]}" if "1" * len(days) in self.week else "of " + ", ".join(days)

    @property
    def seasons(self) -> tuple[float, ...]:
        """The seasons of the calendar in steps, the shortest first: a day, a week and a year, of those that are longer
        than a step. A year has 365.25 days."""
        days = self.week.count("1")
        match self.unit:
            case "weekday":
                return days, days * WEEKS_OF_YEAR
            case "clock":
                return tuple(len(self.clocks) * many for many in (1, days, days * WEEKS_OF_YEAR))
            case "month":
                return (12 // int(self.every),) if self.every < 12 and 12 % self.every == 0 else ()
            case "microsecond":
                whole = [period for period in (DAY, 7 * DAY) if self.every < period and period % self.every == 0]
                year = YEAR_OF_DAYS * DAY / self.every
                return *(int(period // self.every) for period in whole), *([year] if year >= 2 else [])
            case _:
                return ()

    def after(self, last: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The times that are `steps` (n) after `last`, an array of one time.

        Raises InputError for dates beyond what 64 bits count in microseconds.
        """
        long = {"month": 31 * DAY, "weekday": 7 * DAY, "clock": 7 * DAY, "microsecond": 1}.get(self.unit)
        if long and float(last.astype(np.float64)[0]) + float(steps[-1]) * self.every * long > LATEST:
            raise InputError(
                f"Dates must lie before the year 290,000; {steps[-1]:,} steps of {self} after {last[0]} do not. Ask "
                "for fewer steps."
            )
        day = last.astype("datetime64[D]") if last.dtype.kind == "M" else last
        within = last - day.astype(last.dtype)
        match self.unit:
            case "month":
                months = last.astype("datetime64[M]") + (steps * int(self.every)).astype("timedelta64[M]")
                return self.days_of(months).astype(last.dtype) + within
            case "weekday":
                return np.busday_offset(day, steps, "forward", self.week).astype(last.dtype) + within
            case "clock":
                place = int(np.searchsorted(self.clocks, within.astype(np.int64)[0])) + steps
                days = np.busday_offset(day, place // len(self.clocks), "forward", self.week)
                clocks = np.array(self.clocks)[place % len(self.clocks)]
                return days.astype(last.dtype) + clocks.astype("timedelta64[us]")
            case "microsecond":
                return last + (steps * int(self.every)).astype("timedelta64[us]")
            case _:
                return last + steps * self.every

    def days_of(self, months: np.ndarray) -> np.ndarray:
        """The day of each month."""
        days = np.minimum(months.astype("datetime64[D]") + (self.day - 1), _last_days(months))
        return np.busday_offset(days, 0, self.roll, self.week) if self.roll else days


def recognised(times: np.ndarray) -> tuple[Spacing, np.ndarray]:
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
    of_months = _grid(month.astype(np.int64)) if same_time else None
    if of_months is not None and (at_end | (of_month == of_month.max())).all():
        return Spacing("month", of_months[0], day=31 if at_end.all() else int(of_month.max())), of_months[1]
    if same_time and (fitted := _of_week(day)) is not None:
        return fitted
    if (fitted := _grid(times.astype(np.int64))) is not None:
        return Spacing("microsecond", fitted[0]), fitted[1]
    if of_months is not None:
        rule = max(_rules(of_months[0], day, of_month), key=lambda rule: (rule.days_of(month) == day).mean())
        if (rule.days_of(month) == day).mean() >= (KEPT if len(day) > 5 else 1):
            return rule, of_months[1]
    if (clocked := _of_clocks(day, within.astype(np.int64))) is not None:
        return clocked
    return Spacing("microsecond", int(np.median(np.diff(times.astype(np.int64)))), even=False), count


def _week(day: np.ndarray) -> str:
    """The days of the week that occur, from Monday on, as "1111100"."""
    occur = np.bincount((day.astype(np.int64) + 3) % 7, minlength=7) > 0
    return "".join("01"[int(one)] for one in occur)


def _of_week(day: np.ndarray) -> tuple[Spacing, np.ndarray] | None:
    """Days of which each week leaves out the same ones, such as Saturday and Sunday; holidays are missing."""
    week, gaps = _week(day), np.diff(day).astype(np.int64)
    if day[-1] - day[0] < np.timedelta64(4, "W"):
        if week[5:] != "00" or not (_commonest(gaps) == 1 and (gaps == 3).any()):
            return None
        week = WORKING
    elif not 2 <= week.count("1") <= 6:
        return None
    places = np.busday_count(day[0], day, week).astype(np.int64)
    if _commonest(np.diff(places)) != 1 or (week != WORKING and 4 * places[-1] > 5 * len(places)) or _too_many(places):
        return None
    return Spacing("weekday", 1, week=week), places


def _rules(every: int, day: np.ndarray, of_month: np.ndarray) -> Iterator[Spacing]:
    """What days of months may be: the first or last working day, the one from a day on, or the second Friday."""
    weekday = int(_commonest((day.astype(np.int64) + 3) % 7))
    week = "".join("01"[place == weekday] for place in range(7))
    own = np.unique(of_month).tolist()
    for begin, of_week in itertools.chain(((k, WORKING) for k in (1, *own)), ((k, week) for k in (1, 8, 15, 22))):
        yield Spacing("month", every, day=begin, roll="forward", week=of_week)
    for end, of_week in ((31, WORKING), *((k, WORKING) for k in own), (31, week)):
        yield Spacing("month", every, day=end, roll="backward", week=of_week)


def _of_clocks(day: np.ndarray, within: np.ndarray) -> tuple[Spacing, np.ndarray] | None:
    """Times of which each day has the same, such as every half hour from 9 to 17 o'clock."""
    clocks, place = np.unique(within, return_inverse=True)
    week = _week(day)
    if not 2 <= len(clocks) <= len(day) / 3:
        return None
    if week != WORKING and day[-1] - day[0] < np.timedelta64(4, "W"):
        week = "1111111"
    places = np.busday_count(day[0], day, week) * len(clocks) + place
    places -= places[0]
    return (
        None
        if 4 * places[-1] > 5 * len(places)
        else (Spacing("clock", 1, week=week, clocks=tuple(clocks.tolist())), places)
    )


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
