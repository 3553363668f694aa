"""Dates and times as people write them: a table of forms, of which the whole column decides.

A form is a pattern of parts such as %d; what stands between them is taken from the column, whose cells must all be
written alike. A column may have several readings, such as 01/02/2020: who has more to go by decides among them. Written
again, a time looks as it did in the file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import polars as pl

DATES = (
    "%Y[-/. ]%m[-/. ]%d", "%d[-/. ] ?%m[-/. ] ?%Y", "%m[-/]%d[-/]%Y", "%d[-/. ]%m[-/. ]%y", "%m[-/]%d[-/]%y",
    "%y[-/]%m[-/]%d", "%d[-/., ]*%b[-/., ]*%Y", "%d[-/., ]*%b[-/., ']*%y", "%b[-/. ]*%d,?[-/ ]%Y",
    "%Y[-/., ]*%b[-/. ]*%d", "%Y%m%d", "%Y%m%d[T ]?%H", "%Y%m%d[T ]?%H%M", "%Y%m%d[T ]?%H%M%S", "%Y-?%j",
    "%d%m%Y", "%m%d%Y", "%G-?W%V-?%u",
)  # fmt: skip
CLOCKS = (
    "%H:%M", "%H:%M:%S", "%H[.]%M", "%H[.]%M[.]%S", "%I:%M ?%p", "%I:%M:%S ?%p", "%I ?%p", "%H", "%H%M", "%H%M%S",
    "%H ?h", "%H(?::%M)? ?Uhr",
)  # fmt: skip
PERIODS = (
    "%Y[-./ ]%q", "%Y[-/ ]?Q%q", "Q%q[-/ ']*%Y", "%qQ[-/ ']?%Y", "Q%q[-/ ']*%y", "%qQ[-/ ']?%y", "%Y[- ]?[HS]%h",
    "[HS]%h[- ]?%Y", "%Y[-/. ]%m", "%m[-/. ]%Y", "%b[-/., ']*%Y", "%b[-/., ']*%y", "%Y[-/., ]*%b", "%y[-/ ]%b",
    "%Y-?M%m", "%Y%m", "%G[- ]?(?:W|KW)[- ]?%V", "(?:W|KW)[- ]?%V[-/ ]*%G",
)  # fmt: skip
BETWEEN, ZONE = r"(?:T|,? +| - |[_:])", r"(?: ?(?:Z|UTC|GMT|%z))?"
PARTS = {
    "Y": r"([1-9]\d{3})", "G": r"([1-9]\d{3})", "y": r"(\d\d)", "q": r"([1-4])", "h": r"([12])",
    "m": r"(0?[1-9]|1[0-2])", "b": r"([^\W\d_]{3,10}[.]?)", "V": r"(0?[1-9]|[1-4]\d|5[0-3])", "u": r"([1-7])",
    "j": r"([0-3]\d\d)", "d": r"(0?[1-9]|[12]\d|3[01])", "H": r"([01]?\d|2[0-4])", "I": r"(0?[1-9]|1[0-2])",
    "M": r"([0-5]\d)", "S": r"([0-5]\d(?:[.,]\d{1,9})?)", "p": r"([ap][.]?m[.]?)", "z": r"([+-]\d\d(?::?\d\d)?)",
}  # fmt: skip
UNPADDED = "mdHIV"  # parts of which 5 may stand for 05
MONTHS = tuple(
    names.split()
    for names in (
        "january february march april may june july august september october november december",
        "januar februar märz april mai juni juli august september oktober november dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "januari februari maart april mei juni juli augustus september oktober november december",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        "jan feb mrz apr mai jun jul aug sep okt nov dez",
    )
)
MONTH_OF: dict[str, int] = {}  # by each name, and its beginnings of three letters and more
for _names in MONTHS:
    for _month, _name in enumerate(_names, 1):
        for _end in range(3, len(_name) + 1):
            if MONTH_OF.setdefault(_name[:_end], _month) != _month:
                MONTH_OF[_name[:_end]] = 0  # as jui, of June or July
SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000
SINCE_1970 = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SHORT_YEARS_END = 2039  # the latest year that two digits stand for
NUMBERED = 1900, 2100  # years of dates that are numbers too, such as 202001


@dataclass(frozen=True)
class Form:
    """How a column writes its times.

    text        parts as in strftime, and %q quarter, %h half, %K hour from 1 to 24, %-d without a zero; of seconds
                since 1970 the unit; of numbers the format
    months      twelve words
    decimals    digits of the fraction of a second; None: as many as needed
    since       the times from which on offsets hold, and these, in microseconds; utc: whether times are those of UTC
    zone        the zone of typed times
    """

    text: str
    months: tuple[str, ...] = ()
    decimals: int | None = None
    since: tuple[np.ndarray, np.ndarray] | None = None
    utc: bool = False
    zone: str | None = None

    def label(self, time: np.datetime64) -> str:
        if self.text in SINCE_1970:
            return str(int(time.astype(np.int64)) * SINCE_1970[self.text] // SECOND)
        moment = time.item()
        if not isinstance(moment, datetime):  # after the year 9999
            return str(np.asarray(time, "datetime64[s]"))
        offset = self._offset(time) if self.utc or self.since or self.zone else 0
        if self.utc:
            moment += timedelta(microseconds=offset)
        late = "%K" in self.text and (moment.hour, moment.minute, moment.second) == (0, 0, 0)
        day = moment - timedelta(days=1) if late else moment
        year, week, weekday = day.isocalendar()
        fraction = f"{moment.microsecond:06}"
        fraction = (
            fraction.rstrip("0") if self.decimals is None else fraction[: self.decimals].ljust(self.decimals, "0")
        )
        hours, minutes = divmod(abs(offset) // (60 * SECOND), 60)
        sign = "-" if offset < 0 else "+"
        parts = {
            "Y": f"{day.year:04}", "G": f"{year:04}", "y": f"{day.year % 100:02}", "q": f"{(day.month + 2) // 3}",
            "h": f"{(day.month + 5) // 6}", "m": f"{day.month:02}", "V": f"{week:02}", "u": f"{weekday}",
            "b": self.months[day.month - 1] if self.months else "", "j": f"{day:%j}", "d": f"{day.day:02}",
            "H": f"{moment.hour:02}", "K": f"{24 if late else moment.hour:02}", "I": f"{(moment.hour - 1) % 12 + 1:02}",
            "M": f"{moment.minute:02}", "S": f"{moment.second:02}" + (f".{fraction}" if fraction else ""),
            "p": "PM" if moment.hour >= 12 else "AM", "P": "pm" if moment.hour >= 12 else "am",
            "z": f"{sign}{hours:02}{minutes:02}", ":z": f"{sign}{hours:02}:{minutes:02}", "_z": f"{sign}{hours:02}",
        }  # fmt: skip
        return re.sub(
            "%(-?)([:_]?[a-zA-Z])", lambda part: parts[part[2]].lstrip("0" if part[1] else "") or "0", self.text
        )

    def _offset(self, time: np.datetime64) -> int:
        """The offset from UTC, in microseconds."""
        if self.zone is not None:
            cell = pl.Series(np.array([time], "datetime64[us]"))
            if self.utc:
                cell = cell.dt.replace_time_zone("UTC").dt.convert_time_zone(self.zone)
            else:
                cell = cell.dt.replace_time_zone(self.zone, ambiguous="earliest", non_existent="null")
            spans = (cell.dt.base_utc_offset() + cell.dt.dst_offset()).dt.total_microseconds()
            return int(spans[0] or 0)
        if self.since is None:
            return 0
        first, offsets = self.since
        return int(offsets[max(0, int(np.searchsorted(first, time, "right")) - 1)])


@dataclass(frozen=True)
class Reading:
    """A way to read a column: the times (rows,), datetime64[us] or float64, and how they are written."""

    form: Form
    times: np.ndarray


def readings(cells: pl.Series, *, numbers: bool = False) -> list[Reading]:
    """All ways to read all of the cells, which are text. numbers: they could be numbers as well."""
    found = []
    for form in _forms(str(cells[0])):
        times, misses, reading = _read(cells, form)
        if misses.any():
            continue
        years = times.astype("datetime64[Y]").astype(np.int64) + 1970
        if not numbers or (NUMBERED[0] <= years.min() and years.max() <= NUMBERED[1]):
            found += [reading] if reading.form.since is None else zoned(times, reading.times, reading.form)
    return found


def unread(cells: pl.Series) -> int:
    """The first row that does not have the form of most rows."""
    some = dict.fromkeys(form for cell in cells[:: max(1, len(cells) // 8)] for form in _forms(str(cell)))
    misses = [_read(cells, form)[1] for form in some]
    return int(np.flatnonzero(min(misses, key=np.count_nonzero))[0]) if misses else 0


def since_1970(values: np.ndarray, first: float, last: float) -> Reading | None:
    """Whole numbers that are seconds since 1970, or thousandths, millionths, billionths: from `first` to `last`."""
    for text, unit in SINCE_1970.items():
        if first * unit <= values.min() and values.max() <= last * unit and (values == values.round()).all():
            whole = values.astype(np.int64)
            times = whole * (SECOND // unit) if unit <= SECOND else whole // (unit // SECOND)
            if unit <= SECOND or (times * (unit // SECOND) == whole).all():
                return Reading(Form(text), times.astype("datetime64[us]"))
    return None


def zoned(local: np.ndarray, utc: np.ndarray, form: Form) -> list[Reading]:
    """Readings of times with offsets from UTC: by local clocks, and, where the offsets differ, in UTC."""
    offsets, found = (local - utc).astype(np.int64), []
    for of_utc, times in ((False, local), (True, utc)):
        order = np.argsort(times, kind="stable")
        times_of, offsets_of = times[order], offsets[order]
        at = np.flatnonzero(np.diff(offsets_of, prepend=offsets_of[0] - 1))
        found.append(Reading(replace(form, since=(times_of[at], offsets_of[at]), utc=of_utc), times))
    return found if form.zone or (offsets != offsets[0]).any() else found[:1]


def set_back(reading: Reading) -> Reading | None:
    """Times of local clocks with an hour that comes twice, on a Sunday night as clocks are set back, put in order."""
    if reading.times.dtype.kind != "M" or reading.form.since:
        return None
    turn = -1 if reading.times[0] > reading.times[-1] else 1
    times = reading.times[::turn]
    steps = np.diff(times).astype(np.int64)
    values, counts = np.unique(steps, return_counts=True)
    every = int(values[counts.argmax()]) if len(values) else 0
    if not 0 < every <= HOUR or HOUR % every:
        return None
    day = times[:-1].astype("datetime64[D]")
    night = ((day.astype(np.int64) + 3) % 7 == 6) & (times[:-1] - day < np.timedelta64(4, "h"))
    change = np.where(steps == every - HOUR, -HOUR, np.where((steps == every + HOUR) & night, HOUR, 0))
    offsets = np.append(0, change.cumsum())
    offsets -= offsets.min()
    if offsets.max() != HOUR or not (change < 0).any() or ((steps <= 0) & ~((change < 0) & night)).any():
        return None
    utc = times - offsets.astype("timedelta64[us]")
    return zoned(times[::turn], utc[::turn], reading.form)[-1]


def _forms(cell: str) -> Iterator[str]:
    for pattern in (*DATES, *PERIODS):
        date = _pattern(pattern + r"(?!\d)").match(cell)
        if date is None:
            continue
        if date.end() == len(cell):
            yield _as_written(pattern, date)
        elif pattern in DATES:
            for clock in CLOCKS:
                time = _pattern(BETWEEN + clock + ZONE).fullmatch(cell, date.end())
                if time is not None:
                    yield _as_written(pattern, date) + _as_written(BETWEEN + clock + ZONE, time)


@cache
def _pattern(form: str) -> re.Pattern[str]:
    return re.compile("(?i)" + _expression(form))


def _expression(form: str) -> str:
    """The form as a regular expression: two digits for each part that another one follows at once."""

    def part(found: re.Match[str]) -> str:
        name = found[0][-1]
        alone = (
            form[max(0, found.start() - 2) : found.start()][:1] != "%" and form[found.end() : found.end() + 1] != "%"
        )
        return PARTS[name] if alone or name not in UNPADDED else PARTS[name].replace("?", "", 1)

    return re.sub("%[a-zA-Z]", part, form)


def _as_written(pattern: str, found: re.Match[str]) -> str:
    """The parts of a pattern with what stands between them in a cell."""
    names, text, at = re.findall("%[a-zA-Z]", pattern), "", found.start()
    for number, name in enumerate(names, 1):
        if found[number] is not None:
            text += found.string[at : found.start(number)].replace("%", "%%") + name
            at = found.end(number)
    return text + found.string[at : found.end()]


def _read(cells: pl.Series, form: str) -> tuple[np.ndarray, np.ndarray, Reading]:
    """Local times, the cells that have none in this form, and the reading."""
    names = re.findall("%([a-zA-Z])", form)
    literal = re.split("(%[a-zA-Z])", form)
    strict = "".join(piece if at % 2 else re.escape(piece) for at, piece in enumerate(literal))
    pattern = _expression(strict).replace(r"\d", "[0-9]")  # of no other script
    groups = cells.str.extract_groups(f"(?i)^{pattern}$").struct
    part = {name: groups.field(str(place)) for place, name in enumerate(names, 1)}
    misses = part[names[0]].is_null().to_numpy()

    def number(name: str, default: int) -> np.ndarray:
        if name not in part:
            return np.full(len(cells), default)
        return part[name].cast(pl.Int64, strict=False).fill_null(default).to_numpy()

    year = _full(number("y", 70), misses) if "y" in part else number("Y", 1970)
    month = 3 * number("q", 1) + 6 * number("h", 1) + number("m", 1) - 9
    if "b" in part:
        words = part["b"].str.strip_chars_end(".").str.to_lowercase()
        month = words.replace_strict(MONTH_OF, default=0, return_dtype=pl.Int64).fill_null(0).to_numpy()
        misses = misses | (month == 0)
    if "G" in part:
        fourth = (number("G", 1970) - 1970).astype("datetime64[Y]").astype("datetime64[D]") + 3  # in week 1
        monday = fourth - (fourth.astype(np.int64) + 3) % 7
        day = monday + 7 * (number("V", 1) - 1) + (number("u", 1) - 1)
        own = (monday + 7 * (number("V", 1) - 1) + 3).astype("datetime64[Y]") == fourth.astype("datetime64[Y]")
    else:
        first = (12 * (year - 1970) + month - 1).astype("datetime64[M]")
        day = first.astype("datetime64[D]") + (number("d", 1) - 1) + (number("j", 1) - 1)
        own = day.astype("datetime64[Y]" if "j" in part else "datetime64[M]") == first.astype(
            "datetime64[Y]" if "j" in part else "datetime64[M]"
        )
    hour = number("H", 0)
    if "p" in part:
        hour = number("I", 12) % 12 + 12 * part["p"].str.to_lowercase().str.starts_with("p").fill_null(False).to_numpy()
    seconds = part["S"].str.replace(",", ".").cast(pl.Float64).fill_null(0).to_numpy() if "S" in part else 0.0
    within = HOUR * hour + 60 * SECOND * number("M", 0) + np.round(np.asarray(seconds) * SECOND).astype(np.int64)
    local = day.astype("datetime64[us]") + within.astype("timedelta64[us]")
    misses = misses | ~own | (within > DAY)
    utc, since = local, None
    if "z" in part:
        digits = part["z"].str.replace(":", "").str.pad_end(5, "0").cast(pl.Int64, strict=False).fill_null(0).to_numpy()
        minutes = np.sign(digits) * (np.abs(digits) // 100 * 60 + np.abs(digits) % 100)
        utc = local - (minutes * 60 * SECOND).astype("timedelta64[us]")
        since = utc[:1], minutes[:1]
    return local, misses, Reading(_form(form, part, misses, hour, month, since), utc)


def _form(
    text: str,
    part: dict[str, pl.Series],
    misses: np.ndarray,
    hour: np.ndarray,
    month: np.ndarray,
    since: tuple[np.ndarray, np.ndarray] | None,
) -> Form:
    """How the parts are written: with zeros or without, upper or lower case, 24 or 0 o'clock."""
    decimals, shown = None, dict[str, tuple[bool, bool]]()
    for name, cells in part.items():
        known = cells.filter(~misses)
        if not len(known):
            continue
        if name in UNPADDED:
            shown[name] = (known.str.len_chars() == 1).any(), known.str.starts_with("0").any()
        if name == "H" and (hour[~misses] == 24).any() and not (hour[~misses] == 0).any():
            text = text.replace("%H", "%K")
        if name == "p" and known[0][0].islower():
            text = text.replace("%p", "%P")
        if name == "z" and len(known[0]) != 5:
            text = text.replace("%z", "%:z" if ":" in known[0] else "%_z")
        if name == "S":
            lengths = known.str.len_chars().unique().to_list()
            decimals = min(6, max(0, lengths[0] - 3)) if len(lengths) == 1 else None
    bare = any(short for short, _ in shown.values()) or re.search("%d[., ]+%b|%b[., ]+%d", text) is not None
    for name, (short, padded) in shown.items():
        if short or (bare and not padded):
            text = re.sub(f"%({name}{'|K' * (name == 'H')})", r"%-\1", text)
    words = _words(part["b"], misses, month) if "b" in part else ()
    return Form(text, words, decimals, since)


def _words(cells: pl.Series, misses: np.ndarray, month: np.ndarray) -> tuple[str, ...]:
    """The twelve months as a column writes them; those that it lacks in its language."""
    known = pl.DataFrame({"word": cells, "month": month}).filter(~misses).unique("month", maintain_order=True)
    seen = {of: word for word, of in known.rows()}
    if not seen:
        return ()
    bare = {of: word.rstrip(".").lower() for of, word in seen.items()}
    whole = [names for names in MONTHS if all(names[of - 1] == word for of, word in bare.items())]
    begun = [names for names in MONTHS if all(names[of - 1].startswith(word) for of, word in bare.items())]
    names = [*whole, *begun, MONTHS[0]][0]
    sample = next(iter(seen.values()))
    end = None if whole else min(map(len, bare.values()))
    dot = "." if sample.endswith(".") else ""
    cased = str.upper if sample.isupper() else str.lower if sample.islower() else str.capitalize
    return tuple(seen.get(of, cased(name[:end]) + dot) for of, name in enumerate(names, 1))


def _full(years: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Years of two digits in full: with the fewest years between the first and the last, the latest that have been."""
    used = np.unique(years[~misses]) if not misses.all() else years[:1]
    gaps = np.diff(used, append=used[0] + 100)
    first = used[(int(gaps.argmax()) + 1) % len(used)]
    after = (years - first) % 100
    last = int(((used - first) % 100).max())
    return first + after + 100 * ((SHORT_YEARS_END - last - first) // 100)
