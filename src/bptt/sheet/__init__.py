"""The sheet: a recurrent cell is its equations. Side A is text, side B is derived from it. No torch, no NumPy here.

`Cell` reads a text; `bptt.sheet.language` is what may stand in it, `bptt.sheet.cells` has the texts that are built in.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from weakref import WeakValueDictionary

from bptt.errors import InputError
from bptt.sheet import notations, sides
from bptt.sheet.cells import CELLS
from bptt.sheet.derivation import Derivation, derive
from bptt.sheet.language import Sheet
from bptt.sheet.notations import Board
from bptt.sheet.printing import TEXT
from bptt.sheet.widths import sized


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent cell, from its equations; `print(cell)` shows both sides.

    text  side A, one equation a line: docs/sheet.md has the language
    name  what it is called where it is printed

    Those of one text and name are one object, which makes it a quick key for all that is derived from it.

    Raises InputError, with the place and what to write instead, where the text is no cell or can be read in two ways.
    """

    text: str
    name: str = "cell"

    def __new__(cls, text: str, name: str = "cell") -> "Cell":
        made = super().__new__(cls)
        return _CELLS.setdefault((text, name), made) if isinstance(text, str) and isinstance(name, str) else made

    def __post_init__(self) -> None:
        _ = self.sheet

    @cached_property
    def sheet(self) -> Sheet:
        """Side A as data, with states, output, parameters and widths."""
        return sized(self.text)

    @cached_property
    def derivation(self) -> Derivation:
        """Side A with all names given, what each use sends back, and what is kept for that."""
        return derive(self.sheet)

    @cached_property
    def side_a(self) -> sides.Side:
        """The forward equations, with their tags; long lines are divided and their parts named."""
        return sides.side_a(self.derivation)

    @cached_property
    def side_b(self) -> sides.Side:
        """The backward equations, derived, with their tags and the use that each term comes from."""
        return sides.side_b(self.derivation)

    @property
    def kept(self) -> tuple[str, ...]:
        """The values of side A that side B reads, so that a training keeps them for every step."""
        return tuple(map(TEXT.write, self.derivation.kept))

    def __str__(self) -> str:
        return f"{self.name}\n\nSide A · forward\n{self.side_a}\n\nSide B · backward through time\n{self.side_b}"

    def board(self, notation: str = "bptt") -> Board:
        """Both sides in the notation of a book or library, one of `bptt.sheet.notations.NOTATIONS`.

        Raises InputError where there is no such notation.
        """
        return notations.board(self.derivation, self.text, notations.notation(notation))

    def tex(self, notation: str = "bptt") -> str:
        """Both sides as two `aligned` blocks, which amsmath, MathJax and KaTeX know."""
        return self.board(notation).tex

    def __reduce__(self) -> tuple[Callable[..., "Cell"], tuple[str, str]]:
        return Cell, (self.text, self.name)


_CELLS: WeakValueDictionary[tuple[str, str], Cell] = WeakValueDictionary()


def named(name: str) -> Cell:
    """A cell that is built in; InputError with the known names otherwise."""
    if name not in CELLS:
        near = get_close_matches(name.lower(), CELLS, 1)
        raise InputError(
            f"A built-in cell is one of {', '.join(CELLS)}; got {reprlib.repr(name)}. "
            + (f"Did you mean {near[0]}?" if near else "One of your own is text: its equations, with = in them.")
        )
    return Cell(CELLS[name], name)
