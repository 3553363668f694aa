"""`bptt derive`: side A of a cell, the side B that follows from it, and what the way back needs. No torch."""

import json as json_format
import sys
import textwrap
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bptt.errors import InputError
from bptt.sheet import Cell, named, notations
from bptt.sheet.cells import ABOUT, CELLS
from bptt.sheet.language import LONGEST
from bptt.sheet.notations import Board
from bptt.sheet.sides import Side

UNBROKEN = "\N{NO-BREAK SPACE}"


def derive(asked: str, *, notation: str, tex: bool, json: bool) -> None:
    """asked: the name of a cell that is built in, or a path. notation: one of `bptt.sheet.notations.NOTATIONS`."""
    chosen = notations.notation(notation)
    cell = resolved(asked)
    board = notations.board(cell.derivation, cell.text, chosen)
    if json:
        print(
            json_format.dumps(
                as_data(cell, board) | {"notation": notation.lower()}, ensure_ascii=False, allow_nan=False
            )
        )
    elif tex:
        print(board.tex, end="")
    else:
        sys.stdout.write(written(cell, board))


def resolved(asked: str) -> Cell:
    """The cell that is built in under this name, or that of the file at this path."""
    return named(asked) if asked in CELLS else Cell(_read(Path(asked)), Path(asked).stem)


def written(cell: Cell, board: Board) -> str:
    """Both sides, below each derived line the use that each of its terms comes from, and what is kept."""
    lines = [cell.name]
    if CELLS.get(cell.name) == cell.text:
        lines += _wrapped(ABOUT[cell.name])
    if board.notation.of:
        lines.append(f"In the notation of {board.notation.of}")
    lines += ["", "Side A · forward, t = 1 to T", str(board.side_a), ""]
    lines.append("Side B · backward through time, t = T to 1; terms of t+1 are zero at T")
    lines += [*with_uses(board.side_b), "", f"Kept for the way back: {', '.join(board.kept)}"]
    if board.made_again:
        lines.append(f"Made again from these: {', '.join(board.made_again)}")
    lines += [f"{one} = {other}: line {place.line + 1} needs it." for one, other, place in cell.sheet.equal]
    if board.names:
        renamed = (f"{here} → {there}".replace(" ", UNBROKEN) for here, there in board.names.items())
        lines += _wrapped(f"Names, from those of this project: {', '.join(renamed)}.")
    if board.notation.columns:
        lines.append("Vectors are columns here, and each matrix is the transpose of this project's.")
    if board.note:
        lines += _wrapped(f"{board.note}.")
    return "\n".join(lines) + "\n"


def with_uses(side: Side) -> list[str]:
    """The lines of side B, with the equation of side A that each of their terms comes from."""
    texts = [*map(str, side)]
    widest = max(len(text) for text, line in zip(texts, side, strict=True) if len(line.terms) == 1)
    lines = []
    for text, line in zip(texts, side, strict=True):
        if len(line.terms) == 1:
            lines.append(f"{text:<{widest}}   from {line.terms[0].use}")
            continue
        lines.append(text)
        width = max((len(term.text) for term in line.terms), default=0)
        lines += [f"         {term.text:<{width}}   from {term.use}" for term in line.terms]
    return lines


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [line.replace(UNBROKEN, " ") for line in lines]


def as_data(cell: Cell, board: Board) -> dict[str, Any]:
    """Both sides as the notation writes them; the cell's own text, and what it needs, in the names of the sheet."""
    sheet = cell.sheet
    parameters = {
        name: {"kind": given.kind, "shape": sheet.shapes[name] if given.kind == "matrix" else [sheet.widths[name]]}
        for name, given in sheet.given.items()
    }
    return {
        "name": cell.name,
        "text": cell.text,
        "output": sheet.output,
        "states": sheet.states,
        "parameters": parameters,
        "equal": [[one, other] for one, other, _ in sheet.equal],
        "names": board.names,
        "note": board.note,
        "where": [{"text": line.text, "tex": line.tex} for line in board.side_a.where],
        "side_a": [{"tag": line.tag, "text": line.text, "tex": line.tex, "once": line.once} for line in board.side_a],
        "side_b": [
            {
                "tag": line.tag,
                "symbol": line.symbol,
                "text": line.text,
                "tex": line.tex,
                "once": line.once,
                "terms": [{"text": term.text, "from": term.use} for term in line.terms],
            }
            for line in board.side_b
        ],
        "kept": board.kept,
        "made_again": board.made_again,
    }


def _read(path: Path) -> str:
    known = f"A cell is one of {', '.join(CELLS)}, or a text file with its equations"
    try:
        if not path.exists():
            near = get_close_matches(str(path).lower(), CELLS, 1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise InputError(f"{known}; there is none at {path}. {meant}docs/sheet.md has the language.")
        if not path.is_file():
            raise InputError(f"{known}; {path} is a directory or a device. Name a file.")
        with path.open("rb") as file:
            return file.read(4 * LONGEST + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{known}, in UTF-8; {path} has the byte 0x{error.object[error.start]:02x} at offset "
                         f"{error.start}. Save it as UTF-8.") from None  # fmt: skip
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{known}, which has to be readable; {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
