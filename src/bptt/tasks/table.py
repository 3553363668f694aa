"""Tables in CSV or Parquet files: named columns, read whole, with the place of every mistake.

`read` finds the separator and checks that every line has a cell for each column. Cells are converted when `numbers` or
`texts` asks for their column. An empty cell, NA, N/A, NaN, null or none is a missing number: NaN. The first line of a
CSV file names the columns. Lines of CSV and rows of Parquet are counted from 1.
"""

import csv
import hashlib
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PanicException, PolarsError

from bptt.errors import InputError
from bptt.files import disk

MISSING = ("", "na", "n/a", "nan", "null", "none")
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
MOST_LISTED = 12
LARGEST = 1e100  # so that sums of squares are finite
UNIT = r"[%$\u20ac\u00a3\u00a5\u20b9]"  # percent and currency signs before or after a number
BLOCK = 1 << 16  # rows whose cells are held as Python's strings at a time


@dataclass(frozen=True)
class Table:
    """Columns of a file, in its order.

    frame    the cells: text where they come from a CSV file, typed where from Parquet
    source   absolute path of the file; sha256 of its bytes
    places   for a CSV file the line each row begins in; None: rows of a Parquet file
    """

    frame: pl.DataFrame
    source: str
    sha256: str
    places: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.frame.height

    @property
    def columns(self) -> list[str]:
        return self.frame.columns

    def column(self, name: str) -> pl.Series:
        """The cells, not converted. Raises InputError with a list of the columns where none has this name."""
        if name not in self.columns:
            raise InputError(
                f"A column must be one of the table's: {self.listed()}; got {name!r}. "
                "Check the spelling, capitals included."
            )
        return self.frame[name]

    def listed(self) -> str:
        more = f" and {len(self.columns) - MOST_LISTED} more" if len(self.columns) > MOST_LISTED else ""
        return ", ".join(self.columns[:MOST_LISTED]) + more

    def place(self, row: int) -> str:
        """The place of a row (counted from 0) in the file: "line 7" of a CSV file, "row 6" of a Parquet file."""
        return f"row {row + 1}" if self.places is None else f"line {self.places[row]}"

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 (N,), NaN where a cell is missing.

        Raises InputError for unknown columns and cells that are no finite number up to `LARGEST`, with their place.
        """
        cells = self.column(name)
        if cells.dtype == pl.String:
            cells = without_missing(cells)
            values = cells.cast(pl.Float64, strict=False)
            wrong = values.is_null() & cells.is_not_null()
        elif cells.dtype.is_numeric() or cells.dtype in (pl.Boolean, pl.Null):
            values = cells.cast(pl.Float64)
            wrong = None
        else:
            raise InputError(
                f"Column {name!r} must hold numbers; it holds {_kind(cells.dtype)} in {self.source}. Name another."
            )
        if wrong is not None and wrong.any():
            raise self._not_a_number(name, cells, wrong.arg_true().to_list())
        array = values.to_numpy().astype(np.float64)
        if np.isinf(array).any():
            row = int(np.flatnonzero(np.isinf(array))[0])
            raise InputError(
                f"Column {name!r} must hold finite numbers; {self.place(row)} of {self.source} has {array[row]}. "
                "Correct the cell, or leave it empty where the value is not known."
            )
        if (too_large := np.abs(array) > LARGEST).any():
            row = int(np.flatnonzero(too_large)[0])
            raise InputError(
                f"Column {name!r} must hold numbers from {-LARGEST:g} to {LARGEST:g}; {self.place(row)} of "
                f"{self.source} has {array[row]}. Correct the cell, leave it empty where the value is not known, or "
                "write the column in a larger unit."
            )
        return array

    def texts(self, name: str) -> list[str | None]:
        """A column as text, None where a cell is empty. Raises InputError for unknown columns, and lists and spans."""
        cells = self.column(name)
        if cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object, pl.Duration):
            raise InputError(
                f"Column {name!r} must hold text or numbers; it holds {_kind(cells.dtype)} in {self.source}. "
                "Name another."
            )
        cells = cells.cast(pl.String).str.strip_chars()
        return [cell or None for cell in cells.to_list()]

    def _not_a_number(self, name: str, cells: pl.Series, rows: list[int]) -> InputError:
        cell = cells[rows[0]]
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        rule, fix = "numbers", "Correct the cell, or leave it empty where the value is not known."
        if readings := _readings(cell):
            rule = "bare numbers, decimals with a point, thousands with nothing between them"
            fix = f"Write {readings[0]}, and the rest of the column in the same way."
        if len(readings) > 1:
            fix = (
                f"It may stand for {' or '.join(readings)}, and is not guessed: write what is meant, in the whole "
                "column by the same rule."
            )
        return InputError(
            f"Column {name!r} must hold {rule}; {self.place(rows[0])} of {self.source} has {_short(cell)}{more}. {fix}"
        )


def without_missing(cells: pl.Series) -> pl.Series:
    """Cells of text, stripped of spaces; null where they stand for a missing value."""
    cells = cells.str.strip_chars()
    missing = cells.is_null() | cells.str.to_lowercase().is_in(MISSING)
    return cells.set(missing, None)


def read(path: str | Path) -> Table:
    """The table in a CSV (comma, semicolon or tab) or Parquet file.

    Raises InputError for a file that is missing, empty, unreadable, a directory, damaged, not UTF-8 or without rows,
    for lines with too many or too few cells, and for column names that are double or missing.
    """
    path = Path(path)
    raw = _bytes(path)
    source, sha256 = str(path.absolute()), hashlib.sha256(raw).hexdigest()
    if raw.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
        frame, places = _parquet(raw, path), None
    else:
        frame, places = _csv(raw, path)
    if frame.height == 0:
        raise InputError(
            f"A table needs rows below the names of its columns; {path} has none, only {len(frame.columns)} columns: "
            f"{', '.join(frame.columns[:MOST_LISTED])}. Name another file."
        )
    return Table(frame, source, sha256, places)


def is_table(path: str | Path) -> bool:
    """Whether the name of a file is that of a table: .csv, .tsv, .parquet or .pq."""
    return Path(path).suffix.lower() in (".csv", ".tsv", ".parquet", ".pq")


def _bytes(path: Path) -> bytes:
    try:
        raw = disk.read_whole(path)
    except FileNotFoundError:
        raise InputError(f"The table must be a file; there is none at {path}. Check the path.") from None
    except IsADirectoryError:
        raise InputError(
            f"The table must be a file; {path} is a directory. Name a CSV or Parquet file in it."
        ) from None
    except OSError as error:
        raise InputError(f"The table must be readable; {path}: {error.strerror}.") from None
    if not raw:
        raise InputError(f"The table must not be empty; {path} holds no bytes. Name another file.")
    return raw


def _parquet(raw: bytes, path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(raw))
    except (PolarsError, PanicException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{path} must be a Parquet file; it cannot be read as one: {_short(reason, 200)}. Write it again, or give "
            "the table as CSV."
        ) from None


def _csv(raw: bytes, path: Path) -> tuple[pl.DataFrame, list[int]]:
    lines = _lines(raw, path)
    separator = _separator(lines)
    records = _records(lines, separator, path)
    _, header = next(records)
    names = _names(header, path)
    places: list[int] = []

    def rows() -> Iterator[list[str]]:
        for first, cells in records:
            if len(cells) != len(names):
                raise InputError(
                    f"Every line must have a cell for each of the {len(names)} columns the first line names; line "
                    f"{first + 1} of {path} has {len(cells)}, separated by {SEPARATORS[separator]}: "
                    f"{_short(lines[first])}. Correct it; text that contains the separator stands in double quotes."
                )
            places.append(first + 1)
            yield cells

    each, blocks = rows(), [pl.DataFrame(schema=dict.fromkeys(names, pl.String))]
    while block := list(itertools.islice(each, BLOCK)):
        columns = zip(names, zip(*block, strict=True), strict=True)
        blocks.append(pl.DataFrame([pl.Series(name, cells, pl.String) for name, cells in columns]))
    frame = pl.concat(blocks, rechunk=True)
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all())), places


def _lines(raw: bytes, path: Path) -> list[str]:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"The table must be UTF-8; {path} is UTF-16. Convert it, for example: "
            f"iconv -f utf-16 -t utf-8 {path} > converted.csv"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"The table must be CSV in UTF-8 or Parquet; {path} is neither: byte {raw[error.start]:#04x} in line "
            f"{line} ({error.reason}). If it is CSV, convert it, for example: "
            f"iconv -f latin1 -t utf-8 {path} > converted.csv"
        ) from None
    if "\0" in text:
        raise InputError(
            f"The table must be CSV or Parquet; {path} holds zero bytes in line "
            f"{text.count(chr(10), 0, text.index(chr(0))) + 1}. Name another file."
        )
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"The table must not be empty; {path} holds only blank lines. Name another file.")
    return lines


def _separator(lines: list[str]) -> str:
    """The separator that gives all lines as many columns as possible, and the most of them numbers."""
    head = list(itertools.islice((line for line in lines if line.strip()), 20))

    def rank(separator: str) -> tuple[bool, int, int]:
        try:
            rows = list(csv.reader(head, delimiter=separator))
        except csv.Error:  # a cell beyond its limit, which another separator may divide
            return False, 0, 0
        counts = {len(cells) for cells in rows}
        return len(counts) == 1 and counts != {1}, len(rows[0]), sum(_is_number(cell) for row in rows for cell in row)

    return max(SEPARATORS, key=rank)


def _records(lines: list[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each record. Blank lines are left out, unless there is only one column."""
    one_column = False
    for first, cells in (
        _quoted(lines, separator, path) if any('"' in line for line in lines) else _plain(lines, separator, path)
    ):
        if one_column or len(cells) > 1 or lines[first].strip():
            yield first, cells or [""]
            one_column = len(cells) < 2


def _plain(lines: list[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    most = csv.field_size_limit()
    for at, line in enumerate(lines):
        cells = line.split(separator)
        if len(line) > most and any(len(cell) > most for cell in cells):
            raise _too_long(at, path)
        yield at, cells


def _quoted(lines: list[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    first = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "field limit" in str(error):
                raise _too_long(first, path) from None
            raise InputError(
                f"Text in double quotes must end with one, and a quote inside it is written twice; {path} breaks this "
                f"in the lines from {first + 1} on: {error}. Correct it there."
            ) from None
        if cells is None:
            return
        yield first, cells
        first = reader.line_num


def _too_long(first: int, path: Path) -> InputError:
    return InputError(
        f"A cell may have up to {csv.field_size_limit():,} characters; {path} has a longer one in the lines from "
        f"{first + 1} on. Shorten it, or, where text in double quotes never ends, end it there."
    )


def _readings(cell: str) -> list[str]:
    """The numbers that a cell such as "1,231", "1.020,0" or "$12" may stand for, written without ambiguity."""
    body = r"([0-9](?:[0-9.,'\u2019\s]*[0-9])?)"
    parts = re.fullmatch(rf"({UNIT}?)\s*([-+\u2212]?)\s*({UNIT}?)\s*{body}\s*({UNIT}?)", cell)
    if parts is None:
        return []
    before, minus, after, digits, end = parts.groups()
    sign = "-" if minus in ("-", "\u2212") else ""
    first, found = "[1-9][0-9]{0,2}", {}
    for thousands, point in ((",'\u2019\\s", r"\."), (".'\u2019\\s", ",")):
        whole = re.fullmatch(rf"({first}(?:([{thousands}])\d{{3}})(?:\2\d{{3}})*|\d+)(?:{point}(\d+))?", digits)
        if whole:
            found[".".join(filter(None, (re.sub(r"\D", "", whole[1]), whole[3])))] = None
    if "%" in (before, after, end):
        found |= {f"{float(number) / 100:.12g}": None for number in found}
    return [sign + number for number in found]


def _names(header: list[str], path: Path) -> list[str]:
    names = [cell.strip() or f"column {place}" for place, cell in enumerate(header, 1)]
    if double := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InputError(
            f"Columns must have different names; {path} has several called {', '.join(map(repr, double))}. "
            "Rename them in its first line."
        )
    if all(map(_is_number, header)):
        raise InputError(
            f"The first line of a table must name its columns; in {path} it holds numbers: "
            f"{_short(', '.join(header))}. Put a line with names above it."
        )
    return names


def _is_number(cell: str) -> bool:
    try:
        return not math.isnan(float(cell))
    except ValueError:
        return False


def _kind(dtype: pl.DataType) -> str:
    if dtype.is_temporal():
        return "spans of time" if dtype == pl.Duration else "times"
    return "lists" if dtype.is_nested() else f"{dtype}".lower() + "s"


def _short(text: str, most: int = 60) -> str:
    return repr(text) if len(text) <= most else repr(text[:most]) + "..."
