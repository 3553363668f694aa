"""How the file of a table is written: packed or not, in which letters, with which separator; found, or said.

`records` goes from bytes to lines and their cells. What was assumed is told in a line each.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bptt.errors import InputError
from bptt.tasks import numerals

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma", " ": "blanks"}
PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}
UNREADABLE = {b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR", b"%PDF": "PDF"}
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
SAMPLE, SAMPLE_CELLS, SAMPLE_TEXT = 200, 50, 1 << 21  # lines, cells of each, and characters that show the form
RULER = r"[-=+|: ]*[-=]{2}[-=+|: ]*"  # a line drawn under the names
ERROR_OF_A_SHEET = r"#(?:N/?A|NULL!|DIV/0!|VALUE!|WERT!|REF!|NAME\?|NUM!)"


@dataclass(frozen=True)
class Dialect:
    """How a table is written, as far as it was said; None: found.

    encoding   of its letters, by a name that Python knows, such as cp1252
    missing    texts and numbers that stand for an unknown value, besides the usual ones
    decimal    the mark before decimals, "," or "."
    header     "none": no line names the columns
    sheet      of a workbook; or the file in a zip
    """

    encoding: str | None = None
    missing: tuple[str, ...] = ()
    decimal: str | None = None
    header: str | None = None
    sheet: str | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ",", "."):
            raise InputError(
                f"The mark before decimals is a comma or a point, --decimal , or --decimal .; got {self.decimal!r}."
            )
        if self.header not in (None, "none"):
            raise InputError(
                f"The header is found, or there is none, --header none; got {self.header!r}. Leave the option out "
                "where a line names the columns."
            )
        try:
            if self.encoding is not None:
                "".encode(self.encoding)
        except LookupError:
            raise InputError(
                "An encoding must be one that Python knows, such as utf-8, utf-16, latin-1, cp1252 or shift_jis; got "
                f"{self.encoding!r}."
            ) from None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Dialect":
        """From options, or from what a run remembers: other names are left alone."""
        given: dict[str, Any] = {name: options[name] for name in OPTIONS if options.get(name)}
        return cls(**{**given, "missing": tuple(given.get("missing", ()))})

    def but(self, options: Mapping[str, Any]) -> "Dialect":
        """The same, with what is said anew in its place."""
        return Dialect.of({**self.said(), **{name: value for name, value in options.items() if value}})

    def said(self) -> dict[str, Any]:
        """What was said, as JSON."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {name: list(value) if name == "missing" else value for name, value in values.items() if value}


OPTIONS = tuple(field.name for field in fields(Dialect))
FOUND = Dialect()  # all of it is to be found


@dataclass(frozen=True)
class Records:
    """lines      of the text, without those before the table's first
    separator  None: one column, or a sheet
    """

    lines: list[str]
    separator: str | None
    path: Path

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Place (from 0) and cells of each record. Blank lines are left out, unless there is only one column."""
        one_column = False
        quoted = any('"' in line for line in self.lines)
        for first, cells in self._quoted() if quoted else self._plain():
            if one_column or len(cells) > 1 or self.lines[first].strip():
                yield first, cells or [""]
                one_column = self.separator is None

    def _plain(self) -> Iterator[tuple[int, list[str]]]:
        most = csv.field_size_limit()
        for at, line in enumerate(self.lines):
            cells = [line] if self.separator is None else line.split(None if self.separator == " " else self.separator)
            if len(line) > most and any(len(cell) > most for cell in cells):
                raise self._too_long(at)
            yield at, cells

    def _quoted(self) -> Iterator[tuple[int, list[str]]]:
        blanks = self.separator == " "
        lines = (" ".join(line.split("\t")).strip() if blanks else line for line in self.lines)
        reader = csv.reader(
            (line + "\n" for line in lines),
            delimiter=self.separator or "\0", strict=True, skipinitialspace=self.separator != "\t",
        )  # fmt: skip
        first = 0
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "field limit" in str(error):
                    raise self._too_long(first) from None
                raise InputError(
                    "Text in double quotes must end with one, and a quote inside it is written twice; "
                    f"{self.path} breaks this in the lines from {first + 1} on: {error}. Correct it there."
                ) from None
            if cells is None:
                return
            yield first, cells
            first = reader.line_num

    def _too_long(self, first: int) -> InputError:
        return InputError(
            f"A cell may have up to {csv.field_size_limit():,} characters; {self.path} has a longer one in the lines "
            f"from {first + 1} on. Shorten it, or, where text in double quotes never ends, end it there."
        )


def unpacked(raw: bytes, path: Path, sheet: str | None) -> tuple[bytes, list[str]]:
    """The bytes of a table that may be packed (gz, bz2, xz, or alone in a zip).

    Raises InputError for what is damaged, and for a zip with several files, none of which is `sheet`.
    """
    for mark, name in UNREADABLE.items():
        if raw.startswith(mark):
            raise InputError(
                f"A table must be CSV, Parquet or a sheet, plain or packed as gz or zip; {path} is {name}. Unpack it, "
                "or save it as CSV."
            )
    try:
        for mark, unpack in PACKED.items():
            if raw.startswith(mark):
                return unpack(raw), []
        if raw.startswith(b"PK\x03\x04"):
            return _of_zip(zipfile.ZipFile(io.BytesIO(raw)), raw, path, sheet)
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} must be a packed file that can be unpacked; {error}. Fetch or pack it again."
        ) from None
    except MemoryError:
        raise InputError(f"The table must fit in memory; {path} does not, unpacked.") from None
    return raw, []


def _of_zip(archive: zipfile.ZipFile, raw: bytes, path: Path, sheet: str | None) -> tuple[bytes, list[str]]:
    names = [name for name in archive.namelist() if not re.search(r"/$|^__MACOSX/|(?:^|/)\.", name)]
    if "[Content_Types].xml" in names or "mimetype" in names:
        return raw, []  # a workbook
    chosen = [sheet] if sheet in names else names
    if len(chosen) != 1:
        raise InputError(
            f"A zip must hold one table; {path} holds {len(names)} files: {', '.join(names[:12])}. Name one with "
            "--sheet FILE."
        )
    return archive.read(chosen[0]), [f"Unpacked {chosen[0]}"]


def text_of(raw: bytes, path: Path, encoding: str | None) -> tuple[str, list[str]]:
    """The text of a file, and what was assumed. Raises InputError for bytes that are not of the encoding."""
    asked, mark = encoding, next((mark for mark in MARKS if raw.startswith(mark)), b"")
    if encoding is None:
        encoding = MARKS.get(mark) or _utf16(raw) or "utf-8"
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        raise _of_other_letters(raw, path, encoding, asked, error) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"The table must be CSV, Parquet or a sheet; {path} holds zero bytes in line {line}. Name another file."
        )
    said = [] if encoding == "utf-8" else [f"Letters  {encoding}" + (", as given" if asked else "")]
    if asked and encoding != "utf-8" and not raw.isascii() and not mark and _is_utf8(raw):
        said = [f"Letters  {encoding}, as given; they would be UTF-8 without the option"]
    return text.removeprefix("\ufeff"), said


def _utf16(raw: bytes) -> str | None:
    """UTF-16 without a mark: every second byte is zero where letters are Latin."""
    some = raw[:4096]
    zeros = [some[start::2].count(0) for start in (0, 1)]
    if len(some) < 4 or len(raw) % 2 or 10 * max(zeros) < 7 * (len(some) // 2) or 10 * min(zeros) > len(some) // 2:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _is_utf8(raw: bytes) -> bool:
    try:
        return bool(raw.decode()) or True
    except UnicodeDecodeError:
        return False


def _of_other_letters(raw: bytes, path: Path, encoding: str, asked: str | None, error: UnicodeError) -> InputError:
    start = getattr(error, "start", 0)
    line = raw.count(b"\n", 0, start) + 1
    what = f"byte {raw[start]:#04x} in line {line} ({getattr(error, 'reason', error)})"
    if asked:
        return InputError(f"The letters must be {asked}, as --encoding says; {path} has {what}. Name another encoding.")
    if encoding != "utf-8":
        return InputError(f"The table must be {encoding}, as its first bytes say; {path} has {what}. Write it again.")
    around = raw[max(raw.rfind(b"\n", 0, start) + 1, start - 20) : start + 20].split(b"\n")[0].split(b"\r")[0]
    shown = around.decode("cp1252", "replace")
    return InputError(
        f"The table must be CSV in UTF-8 or UTF-16, Parquet or a sheet; {path} is neither: {what}. If it is CSV, say "
        f"how its letters are written: --encoding cp1252 (of Windows; it reads {shown!r}), latin-1 or another."
    )


def lines_of(text: str, path: Path) -> list[str]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"The table must not be empty; {path} holds only blank lines. Name another file.")
    return lines


def is_comment(line: str) -> bool:
    return line.lstrip().startswith("#") and not re.match(ERROR_OF_A_SHEET, line.lstrip())


def opening(lines: list[str], decimal: str | None) -> tuple[list[str], str | None, list[int] | None]:
    """The lines with those above the table emptied that are comments or say `sep=;`; the separator; and the places of
    these comments, None where lines that begin with # are rows."""
    bare, separator = lines.copy(), None
    if said := re.fullmatch(r'"?sep=(.|\\t)"?', lines[0].strip("\n ").rstrip(","), re.IGNORECASE):
        separator, bare[0] = said[1].replace("\\t", "\t"), ""
    full = [at for at, line in enumerate(itertools.islice(bare, 10 * SAMPLE)) if line.strip()]
    comments: list[int] | None = list(itertools.takewhile(lambda at: is_comment(bare[at]), full))
    rows = full[len(comments) :]
    if 2 * sum(is_comment(bare[at]) for at in rows) >= len(rows):
        comments = None
    for at in comments or ():
        bare[at] = ""
    return bare, separator or separator_of(bare, decimal), comments


def separator_of(lines: list[str], decimal: str | None) -> str | None:
    """The separator that gives most lines as many cells, and most of these numbers and dates; None: one column."""
    some = itertools.islice((line for line in lines if line.strip() and not re.fullmatch(RULER, line)), SAMPLE)
    left, head = SAMPLE_TEXT, list[str]()
    for line in some:
        if left > 0 or len(head) < 3:
            head.append(line)
        left -= len(line)
    return max((None, *SEPARATORS), key=lambda separator: _suits(head, separator, decimal))


def _suits(head: list[str], separator: str | None, decimal: str | None) -> float:
    if separator is None:
        return 0.02
    lines = [" ".join(line.split()) for line in head] if separator == " " else head
    rows, cells_of = (
        list[list[str]](),
        csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=separator != "\t"),
    )
    try:
        rows.extend(cells_of)
    except csv.Error as error:  # text after quotes, or a cell beyond its limit, which another separator may divide
        if not rows or "unexpected end" not in str(error):  # where the sample ends within quotes
            return 0.03 if separator == "," else 0
    counts = Counter(map(len, rows))
    width, count = max(counts.items(), key=lambda of: (of[1], of[0]))
    if width == 1:
        return 0
    full = [row[:SAMPLE_CELLS] for row in rows if len(row) == width]
    if counts[width - 1] and divides_numbers(full, separator) and (decimal == "," or (separator, width) == (" ", 2)):
        return 0
    plain = sum(is_plain(cell) for row in full for cell in row) / sum(map(len, full))
    if (
        separator == " " and '"' not in head[0] and (plain < 1 or count < len(rows))
    ):  # words of a text are no columns: some line names them
        named = (row for row in rows[:20] if len(row) in (width - 1, width) and not any(map(is_plain, row)))
        if not any(len(row) > 1 for row in named):
            return 0
    return (count / len(rows)) ** 2 * (0.2 + plain)


def is_plain(cell: str) -> bool:
    """Whether a cell is a number or a date in digits."""
    return numerals.is_number(cell) or re.fullmatch(r"\s*\d[\d./:T+ -]*Z?\s*", cell) is not None


def divides_numbers(rows: list[list[str]], separator: str | None) -> bool:
    """Whether two columns side by side may be halves of numbers: 1,5 with commas between cells, 1 231 with blanks."""
    behind = {",": r"\d+\s*", " ": r"\d{3}"}.get(separator or "")
    columns = list(zip(*rows, strict=True)) if behind else []
    return any(
        all(re.fullmatch(r"\s*[-+]?\d+", cell) for cell in left) and all(re.fullmatch(behind, cell) for cell in right)
        for left, right in itertools.pairwise(columns)
        if behind
    )
