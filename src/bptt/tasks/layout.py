"""Which lines of a table name its columns, which hold its rows, and which are titles, units, notes or comments.

They are told apart by how many cells they have and by what these are: names are words where the rows below have numbers
or dates. What was skipped or assumed is told in a line each.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bptt.errors import InputError
from bptt.tasks import numerals
from bptt.tasks.dialect import RULER, SAMPLE, SAMPLE_CELLS, SEPARATORS, divides_numbers, is_comment, is_plain

ROW_NAME = "row name"
UNIT = (
    r"[\[(].*[\])]|.*[%\u00b0/\u00b2\u00b3\u00b5\u20ac$].*|-+|"
    r"(?i:[kmgth]?(?:w|wh|hz|pa|v|a|g|m|l)|[mc]m|min|s|h|k|eur|usd|bar|[ymdhs:./ -]{4,}|)"
)
TOTAL = r"(?i)\W*(?:grand |sub)?(?:total|sum|summe|gesamt|insgesamt|somme|totale|suma|average|mean|mittelwert)\b.*"


class Layout:
    """The columns and rows of records, which are pairs of a place (from 0) and cells.

    names      of the columns; `unnamed` are those that were made up
    assumed    a line for each thing that was assumed; complete when all `rows` have been read
    """

    def __init__(
        self,
        records: Iterable[tuple[int, list[str]]],
        lines: Sequence[str],
        path: Path,
        separator: str | None,
        *,
        comments: Sequence[int] | None = (),
        header: bool = True,
        place: str = "line",
    ) -> None:
        """lines: as they are in the file, to be quoted. comments: the places of those above the table; None:
        lines that begin with # are rows. header: a line names the columns. place: what a record is called.

        Raises InputError where no line names the columns, or too few of them, and for names that are double.
        """
        self.records, self.lines, self.path, self.separator, self.place = records, lines, path, separator, place
        self.assumed, self.unnamed = list[str](), list[str]()
        self._comments, self._repeated, self._with_comments = len(comments or ()), 0, comments is not None
        self._of_comment = list[str]()
        head = [cells for first, cells in itertools.islice(records, SAMPLE) if not self._is_aside(first)]
        self.width = _commonest(map(len, head))
        filled = _commonest(_filled(cells) for cells in head)
        least = max(min(2, filled), filled - 1)
        first = next((at for at, cells in enumerate(head) if _filled(cells) >= least), 0)
        if not header:  # columns may begin late
            kind = self.width, is_plain(head[first][0])
            kinds = [(len(cells), is_plain(cells[0])) if _filled(cells) else None for cells in head[: first + 1]]
            first = kinds.index(kind) if kind in kinds else first
        below = [cells[:SAMPLE_CELLS] for cells in head[first + 1 :] if len(cells) == self.width] or [head[first]]
        below = below[len(below) // 3 :]
        self._plain = [
            at
            for at, cells in enumerate(zip(*below, strict=True))
            if 2 * sum(map(is_plain, cells)) >= sum(map(_is_known, cells)) > 0
        ]
        at, data = first, first
        if header:
            at, data = self._header(head, first, comments or ())
            self.names = self._named(head[at] if at >= 0 else self._of_comment, head[data:])
        else:
            self.names = [f"column {place}" for place in range(1, self.width + 1)]
        self._header_cells = head[at] if header and at >= 0 else None
        self._start = data
        if (skipped := at if header else first) > 0:
            self.assumed.append(f"Skipped  {_many(skipped, place)} above the {'names' if header else 'table'}")
        if header and data > at + 1 > 0:
            self.assumed.append(f"Skipped  {_many(data - at - 1, place)} of units below the names")
        if double := sorted(name for name, count in Counter(self.names).items() if count > 1):
            raise InputError(
                f"Columns must have different names; {path} has several called {', '.join(map(repr, double))}. Rename "
                "them in its first line."
            )
        whole = head[data : data + SAMPLE]
        self._shapes = {_shape(cells[0]) for cells in whole if len(cells) == self.width and _filled(cells) > 1}

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Place (from 1) and cells of each row.

        Raises InputError for a row with too many or too few cells.
        """
        held: list[tuple[int, list[str]]] = []  # what may be notes, if nothing but such follows
        count, width, empty, comment = -1, self.width, True, ""
        rulers = list[int]()
        for first, cells in self.records:
            if self._is_aside(first):
                if not is_comment(self.lines[first]):
                    rulers += [first] if count >= self._start else []
                else:
                    self._comments += 1
                    comment = comment or f", as {self.place} {first + 1}: {short(self.lines[first].strip())}"
                continue
            count += 1
            if count < self._start:
                continue
            if self._header_cells is not None and cells == self._header_cells:
                self._repeated += 1
                continue
            if len(cells) > width and not any(map(str.strip, cells[width:])):
                cells = cells[:width]
            if width > 1 and (len(cells) != width or self._may_be_note(first, cells)):
                held.append((first, cells))
                continue
            empty = False
            for record in held:
                yield self._row(*record)
            held.clear()
            yield self._row(first, cells)
        if empty and held and not _filled(held[0][1]):
            yield self._row(*held.pop(0))
        if held and len(held[0][1]) != width and not self._is_note(*held[0]):
            self._row(*held[0])
        if held:
            quoted = next((self.lines[first] for first, cells in held if _filled(cells)), "")
            self.assumed.append(
                f"Skipped  {_many(len(held), self.place)} below the table"
                + (f", from {self.place} {held[0][0] + 1} on: {short(quoted.strip())}" if quoted else "")
            )
        if self._comments:
            self.assumed.append(f"Skipped  {_many(self._comments, 'comment')}, lines that begin with #{comment}")
        if rulers:
            what = f"{_many(len(rulers), 'line')} of dashes, the first in line {rulers[0] + 1}"
            self.assumed.append(f"Skipped  {what}")
        if self._repeated:
            self.assumed.append(f"Skipped  {_many(self._repeated, self.place)} with the names again")

    def _is_aside(self, first: int) -> bool:
        """Whether a record is a comment, or a line drawn under the names."""
        line = self.lines[first]
        comment = self._with_comments and is_comment(line)
        return self.separator is not None and (comment or re.fullmatch(RULER, line) is not None)

    def _row(self, first: int, cells: list[str]) -> tuple[int, list[str]]:
        if len(cells) != self.width:
            raise self._ragged(first, cells)
        return first + 1, cells

    def _ragged(self, first: int, cells: list[str]) -> InputError:
        return InputError(
            f"Every line must have a cell for each of the {self.width} columns the first line names; line {first + 1} "
            f"of {self.path} has {len(cells)}, separated by {SEPARATORS[self.separator or ',']}: "
            f"{short(self.lines[first])}. Correct it; text that contains the separator stands in double quotes."
        )

    def _may_be_note(self, first: int, cells: list[str]) -> bool:
        """Whether a row with all cells may be a note or a total all the same: its first cell is not like the others."""
        filled = _filled(cells)
        if filled == 0:
            return True
        words = filled == 1 and re.search(r"\s", cells[0].strip()) is not None
        alone = words or not self.lines[first - 1].strip() or re.fullmatch(TOTAL, cells[0]) is not None
        return alone and 0 in self._plain and not is_plain(cells[0])

    def _is_note(self, first: int, cells: list[str]) -> bool:
        after_blank = len(cells) == 1 and not self.lines[first - 1].strip()
        return (after_blank and self.width > 2 and not is_plain(cells[0])) or _shape(cells[0]) not in self._shapes

    def _header(self, head: Sequence[list[str]], first: int, comments: Sequence[int]) -> tuple[int, int]:
        """The record with the names (-1: a comment) and the first row. Raises InputError where there are none."""
        data = next(
            (at for at, cells in enumerate(head) if at >= first and len(cells) == self.width and self._is_data(cells)),
            None,
        )
        if len(self._plain) < 2 or data is None:
            data = first + 1 if data is None or not self._is_data(head[first]) else first
        named = [at for at in range(first, data) if _is_words(head[at])]
        named = [at for at in named if not _are_units(head[at])] or [first]
        named = [at for at in named if _are_different(head[at])] or named
        at = max(named, key=lambda at: (sum(bool(cell.strip()) for cell in self._of_plain(head[at])), at))
        if data > at:
            under = head[at + 1 : data]
            units = itertools.takewhile(
                lambda cells: _has_words(self._of_plain(cells)) and not any(map(is_plain, cells)), under[:2]
            )
            return at, at + 1 + len(list(units))
        for place in reversed(comments):
            cells = self.lines[place].strip().lstrip("# ").split(None if self.separator == " " else self.separator)
            if len(cells) == self.width > 1 and _is_words(cells):
                self.assumed.append(f"Names    from the comment in line {place + 1}")
                self._of_comment = cells
                return -1, at
        if _may_name(head[at], head[at + 1] if at + 1 < len(head) else head[at]):
            return at, at + 1
        if at and len(head[at - 1]) == self.width - 1:
            return at - 1, at
        for cells in reversed(head[:at]):
            if 1 < _filled(cells) < self.width and _is_words(cells):
                self.width = len(cells)
                raise self._ragged(*next(record for record in self.records if record[1] == head[at]))
        raise InputError(
            f"The first line of a table must name its columns; in {self.path} it holds numbers: "
            f"{short(', '.join(head[at]))}. Put a line with names above it, or say --header none: they are then "
            "called column 1, column 2 and so on."
        )

    def _of_plain(self, cells: Sequence[str]) -> list[str]:
        """The cells in the columns of numbers and dates."""
        return [cells[at] for at in self._plain if at < len(cells)]

    def _is_data(self, cells: Sequence[str]) -> bool:
        return any(map(is_plain, self._of_plain(cells)))

    def _named(self, header: Sequence[str], below: Sequence[list[str]]) -> list[str]:
        """A name for each cell of a row."""
        header = [*header[: self.width], *(cell for cell in header[self.width :] if cell.strip())]
        if len(header) == self.width - 1:
            if not any(row[-1].strip() for row in below if len(row) == self.width):
                header.append("")  # the separator stands at the end of each row
            else:
                self._require_row_names(header, [row for row in below if len(row) == self.width])
                header.insert(0, ROW_NAME)
                self.assumed.append(f"Names    the first column has none; it is called {ROW_NAME!r}")
        if len(header) != self.width:
            self.width = len(header)
        names = [cell.strip() or f"column {place}" for place, cell in enumerate(header, 1)]
        self.unnamed = [name for name, cell in zip(names, header, strict=True) if not cell.strip()]
        return names

    def _require_row_names(self, header: Sequence[str], rows: Sequence[list[str]]) -> None:
        quoted = sum(line.lstrip().startswith('"') for line in self.lines) > len(self.lines) / 2
        if not quoted and divides_numbers([row[:SAMPLE_CELLS] for row in rows], self.separator):
            mark, what = ("comma", "before decimals") if self.separator == "," else ("blank", "between thousands")
            alone = "say --decimal ," if (mark, self.width) == ("comma", 2) else "put such numbers in double quotes"
            raise InputError(
                f"Lines with a cell more than there are names begin with the name of the row; {self.path} has "
                f"{_many(len(header), 'name')} and {self.width} cells a line, such as {short(', '.join(rows[0]))}. "
                f"If a {mark} stands {what}, {alone}; else name the first column too."
            )


def _commonest(numbers: Iterable[int]) -> int:
    """Of the numbers that occur most often, the largest."""
    return max(Counter(numbers).items(), key=lambda of: (of[1], of[0]), default=(1, 1))[0]


def _filled(cells: Sequence[str]) -> int:
    """The number of cells without the empty ones at the end."""
    return next((at for at in range(len(cells), 0, -1) if cells[at - 1].strip()), 0)


def _is_known(cell: str) -> bool:
    bare = cell.strip().lower()
    return bare not in numerals.MISSING and bare not in numerals.MARKERS


def _is_words(cells: Sequence[str]) -> bool:
    """Whether no cell is a number, a date or a missing value."""
    some = [cell.strip() for cell in cells if cell.strip()]
    return all(
        re.search(r"[^\W\d_]", cell) and not is_plain(cell) and cell.lower() not in numerals.MISSING for cell in some
    )


def _has_words(cells: Sequence[str]) -> bool:
    return any(_is_known(cell) and re.search(r"[^\W\d_]", cell) for cell in cells)


def _are_units(cells: Sequence[str]) -> bool:
    return all(re.fullmatch(UNIT, cell.strip()) for cell in cells)


def _are_different(cells: Sequence[str]) -> bool:
    filled = [cell.strip() for cell in cells if cell.strip()]
    return len(set(filled)) == len(filled)


def _may_name(cells: Sequence[str], below: Sequence[str]) -> bool:
    """Whether a line with numbers or dates may name columns all the same: years, or 0, 1, 2, or dates above numbers."""
    plain = [(cell.strip(), under) for cell, under in zip(cells, below, strict=False) if is_plain(cell)]
    if len(plain) == len(cells):
        return False
    whole = [int(cell) for cell, _ in plain if re.fullmatch(r"\d{1,9}", cell)]
    steps = {after - before for before, after in itertools.pairwise(whole)}
    even = len(steps) < 2 and 0 not in steps and (len(steps) == 0 or min(whole) >= 1000 or min(whole) in (0, 1))
    return even and not any(_shape(cell) == _shape(under) for cell, under in plain if not cell.isdigit())


def _shape(cell: str) -> str:
    """The cell with 9 for digits and a for letters."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", cell.strip()))


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number > 1 else "")


def short(text: str, most: int = 60) -> str:
    """The text in quotes, cut after so many characters."""
    return repr(text) if len(text) <= most else repr(text[:most]) + "..."
