"""Tables in CSV, Parquet or sheets: named columns, read whole, with the place of every mistake.

`read` finds how the file is written (`dialect`) and which lines are rows (`layout`). Cells are converted when `numbers`
or `texts` asks for their column; how a column writes its numbers is found then (`numerals`), and `Table.assumed` says
all that was taken for granted. An empty cell, NA, N/A, NaN, NaT, null or none is a missing number: NaN.
"""

import hashlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
from polars.exceptions import ColumnNotFoundError, PanicException, PolarsError

from bptt.errors import InputError
from bptt.files import disk
from bptt.tasks import dialect, numerals
from bptt.tasks.dialect import FOUND, Dialect, Records
from bptt.tasks.layout import Layout, short
from bptt.tasks.numerals import Numerals, without_missing

__all__ = ["LARGEST", "Dialect", "Table", "is_table", "read", "without_missing"]

MOST_LISTED = 12
LARGEST = 1e100  # so that sums of squares are finite
BLOCK = 1 << 16  # rows whose cells are held as Python's strings at a time
MOST_SEARCHED = 5_000_000  # cells that are searched for the mark before decimals
TABLES = r"\.(?:(?:csv|tsv|tab)(?:\.(?:gz|bz2|xz))?|parquet|pq|xlsx|xlsm|xlsb|xls|ods|zip)$"


@dataclass(frozen=True)
class Table:
    """Columns of a file, in its order.

    frame      the cells: text where they come from a CSV file or a sheet, typed where from Parquet
    source     absolute path of the file; sha256 of its bytes
    places     the line each row begins in; None: rows are counted; `counted` says which
    dialect    how it is written, as far as it was said
    found      what was assumed of the file, a line each
    separator  of its cells, if any
    """

    frame: pl.DataFrame
    source: str
    sha256: str
    places: Sequence[int] | None = None
    counted: str = "line"
    dialect: Dialect = FOUND
    found: Sequence[str] = ()
    separator: str | None = None
    _numerals: dict[str, Numerals] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def columns(self) -> list[str]:
        return self.frame.columns

    def column(self, name: str) -> pl.Series:
        """The cells, not converted. Raises InputError with a list of the columns where none has this name."""
        try:
            return self.frame.get_column(name)
        except ColumnNotFoundError:
            raise InputError(
                f"A column must be one of the table's: {self.listed()}; got {name!r}. "
                "Check the spelling, capitals included."
            ) from None

    def require(self, names: Iterable[str]) -> None:
        """Raises InputError where a column that a run was trained on is not there."""
        known = set(self.columns)
        if missing := [name for name in names if name not in known]:
            raise InputError(
                f"A table must have the columns that the run was trained on; {self.source} has no "
                f"{_some([repr(name) for name in missing])}, only {self.listed()}. Name a table that has them."
            )

    def listed(self) -> str:
        return _some(self.columns)

    def place(self, row: int) -> str:
        """The place of a row (counted from 0) in the file: "line 7" of a CSV file, "row 6" of a Parquet file."""
        return f"row {row + 1}" if self.places is None else f"{self.counted} {self.places[row]}"

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 (N,), NaN where a cell is missing.

        Raises InputError for unknown columns, cells that are no finite number up to `LARGEST`, with their place, and
        columns that do not show which mark stands before their decimals.
        """
        cells = self.column(name)
        if cells.dtype == pl.String:
            values = self._as_numerals(name).values
        elif cells.dtype.is_numeric() or cells.dtype in (pl.Boolean, pl.Null):
            values = cells.cast(pl.Float64)
        else:
            raise InputError(
                f"Column {name!r} must hold numbers; it holds {_kind(cells.dtype)} in {self.source}. Name another."
            )
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

    def assumed(self, names: Iterable[str] = ()) -> list[str]:
        """What was taken for granted, a line each: of the file, and of the numbers of these columns."""
        phrases: dict[str, list[str]] = {}
        markers, odd = [], []
        for name in names:
            if self.column(name).dtype == pl.String:
                read = self._as_numerals(name)
                for phrase in read.assumed:
                    phrases.setdefault(phrase, []).append(name)
                markers += [f"{mark!r} in {count:,} of {name}" for mark, count in read.markers]
            if (marker := numerals.like_a_marker(self.numbers(name))) is not None:
                odd.append(
                    f"Odd      {marker[0]:.15g} in {_cells(marker[1])} of {name} is far from all others: if it stands "
                    f"for an unknown value, say --missing {marker[0]:.15g}"
                )
        lines = list(self.found)
        if phrases:
            lines.append(f"Numbers  {'; '.join(f'{phrase} in {_some(names)}' for phrase, names in phrases.items())}")
        if markers:
            lines.append(f"Unknown  {_some(markers)}, as marks for what is not known")
        return lines + odd

    def _as_numerals(self, name: str) -> Numerals:
        if name not in self._numerals:
            of_sheet = self.separator is None and self.counted == "row"
            try:
                self._numerals[name] = numerals.read(
                    self.column(name),
                    self.dialect.decimal,
                    lambda: None if of_sheet else self._decimal,
                    wary=self.separator == ";",
                )
            except numerals.UnreadError as error:
                raise self._unread(name, error) from None
        return self._numerals[name]

    @cached_property
    def _decimal(self) -> str | None:
        """The mark before decimals that the columns show together."""
        some = self.frame.select(cs.string())
        some = some.head(max(20, MOST_SEARCHED // max(1, some.width)))
        cells = some.unpivot().drop_nulls("value")
        share = cells.group_by("variable").agg(pl.col("value").str.strip_chars().str.contains(numerals.NUMBER).mean())
        numbers = share.filter(pl.col("value") >= 0.5)["variable"].implode()
        return numerals.decimal_of(cells.filter(pl.col("variable").is_in(numbers))["value"].unique(maintain_order=True))

    def _unread(self, name: str, error: numerals.UnreadError) -> InputError:
        cells, rows = self.column(name), error.rows
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return InputError(
            f"Column {name!r} must hold {error.rule}; {self.place(rows[0])} of {self.source} has "
            f"{short(str(cells[rows[0]]).strip())}{more}. {error.fix}"
        )


def read(path: str | Path, written: Dialect = FOUND) -> Table:
    """The table in a file: CSV and its kin, plain or packed, Parquet, or a sheet. written: what is known of its form.

    Raises InputError for a file that is missing, empty, unreadable, a directory, damaged, of other letters or without
    rows, for lines with too many or too few cells, and for column names that are double or missing.
    """
    path = Path(path)
    raw = _bytes(path)
    source, sha256 = str(path.absolute()), hashlib.sha256(raw).hexdigest()
    raw, found = dialect.unpacked(raw, path, written.sheet)
    places, counted, separator = None, "row", None
    if raw.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
        frame = _parquet(raw, path)
    elif raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        frame, places, said = _sheet(raw, path, written)
        found += said
    else:
        frame, places, separator, said = _csv(raw, path, written)
        found, counted = found + said, "line"
    if frame.height == 0:
        raise InputError(
            f"A table needs rows below the names of its columns; {path} has none, only {len(frame.columns)} columns: "
            f"{', '.join(frame.columns[:MOST_LISTED])}. Name another file."
        )
    frame, said = _without(frame, written.missing)
    return Table(frame, source, sha256, places, counted, written, (*found, *said), separator)


def is_table(path: str | Path) -> bool:
    """Whether the name of a file is that of a table, such as .csv, .parquet, .xlsx, .csv.gz or .zip."""
    return re.search(TABLES, str(path), re.IGNORECASE) is not None


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
        raise InputError(
            f"{path} must be a Parquet file; it cannot be read as one: {_reason(error)}. Write it again, or give "
            "the table as CSV."
        ) from None


def _csv(raw: bytes, path: Path, written: Dialect) -> tuple[pl.DataFrame, list[int], str | None, list[str]]:
    text, found = dialect.text_of(raw, path, written.encoding)
    lines = dialect.lines_of(text, path)
    bare, separator, comments = dialect.opening(lines, written.decimal)
    if separator not in (None, ","):
        found.append(f"Cells    separated by {dialect.SEPARATORS[separator]}")
    layout = Layout(
        Records(bare, separator, path), lines, path, separator, comments=comments, header=written.header is None
    )
    frame, places = _frame(layout)
    return frame, places, separator, found + layout.assumed


def _sheet(raw: bytes, path: Path, written: Dialect) -> tuple[pl.DataFrame, list[int], list[str]]:
    try:
        sheets = pl.read_excel(
            io.BytesIO(raw), sheet_id=0, has_header=False, infer_schema_length=0, drop_empty_rows=False,
            drop_empty_cols=False, raise_if_empty=False,
        )  # fmt: skip
    except ImportError:
        raise InputError(
            f"A sheet is read with the package fastexcel, which is not there; {path} is one. Install it, pip install "
            "fastexcel, or save the sheet as CSV."
        ) from None
    except Exception as error:  # those of its reader, which may not be there to be named
        raise InputError(
            f"{path} must be a workbook; it cannot be read as one: {_reason(error)}. Save it again, or give CSV."
        ) from None
    full = [name for name, sheet in sheets.items() if sheet.height]
    if written.sheet not in full and (written.sheet or len(full) != 1):
        raise InputError(
            f"One sheet is read, the only one with rows or --sheet NAME; {path} has {len(full)} with rows: "
            f"{', '.join(map(repr, full[:MOST_LISTED]))}. Name one of them."
        )
    name = written.sheet or full[0]
    rows = [(at, [cell or "" for cell in row]) for at, row in enumerate(sheets[name].rows())]
    lines = [", ".join(filter(None, cells)) for _, cells in rows]
    rows = [(at, cells) for at, cells in rows if lines[at]]
    layout = Layout(rows, lines, path, None, header=written.header is None, place="row")
    frame, places = _frame(layout)
    return frame, places, [f"Sheet    {name!r}", *layout.assumed]


def _frame(layout: Layout) -> tuple[pl.DataFrame, list[int]]:
    """The cells as text, null where empty, without columns that are empty and have no name; and the places of rows."""
    names, places, each = layout.names, list[int](), layout.rows()
    blocks = [pl.DataFrame(schema=dict.fromkeys(names, pl.String))]
    while block := list(itertools.islice(each, BLOCK)):
        places += [place for place, _ in block]
        columns = zip(names, zip(*(cells for _, cells in block), strict=True), strict=True)
        blocks.append(pl.DataFrame([pl.Series(name, cells, pl.String) for name, cells in columns]))
    frame = pl.concat(blocks, rechunk=True)
    frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()))
    empty = [name for name in layout.unnamed if frame.height and frame[name].null_count() == frame.height]
    if empty:
        layout.assumed.append(f"Skipped  {len(empty):,} empty column{'s' * (len(empty) > 1)} without a name")
    return frame.drop(empty), places


def _without(frame: pl.DataFrame, missing: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """The cells without those that stand for an unknown value, as was said."""
    said = []
    for text in missing:
        cells = cs.string().str.strip_chars()
        hit, before = cells == text.strip(), frame.null_count().sum_horizontal()[0]
        if _is_float(text):
            number = float(text)
            hit |= (cells.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False) == number).fill_null(False)
            frame = frame.with_columns(pl.when(cs.numeric() != number).then(cs.numeric()))
        frame = frame.with_columns(pl.when(~hit).then(cs.string()))
        count = frame.null_count().sum_horizontal()[0] - before
        said.append(f"Unknown  {text!r} in {_cells(count) if count else 'no cell'}, as given")
    return frame, said


def _cells(count: int) -> str:
    return f"{count:,} cell" + "s" * (count > 1)


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def _kind(dtype: pl.DataType) -> str:
    if dtype.is_temporal():
        return "spans of time" if dtype == pl.Duration else "times"
    return "lists" if dtype.is_nested() else f"{dtype}".lower() + "s"


def _reason(error: BaseException) -> str:
    return short(" ".join(str(error).split()).rstrip("."), 200)
