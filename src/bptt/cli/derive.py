"""`bptt derive`: side A of a cell, the side B that follows from it, and what the way back needs. No torch."""

import json as json_format
import sys
from pathlib import Path
from typing import Any

from bptt.errors import InputError
from bptt.sheet import Cell, named
from bptt.sheet.cells import CELLS
from bptt.sheet.language import LONGEST


def derive(asked: str, *, tex: bool, json: bool) -> None:
    """asked: the name of a cell that is built in, or a path."""
    cell = named(asked) if asked in CELLS else Cell(_read(Path(asked)), Path(asked).stem)
    if json:
        print(json_format.dumps(as_data(cell), ensure_ascii=False, allow_nan=False))
    elif tex:
        print(cell.tex(), end="")
    else:
        sys.stdout.write(board(cell))


def board(cell: Cell) -> str:
    """Both sides, below each derived line the use that each of its terms comes from, and what is kept."""
    lines = [cell.name, "", "Side A · forward, t = 1 to T", str(cell.side_a), ""]
    lines.append("Side B · backward through time, t = T to 1; terms of t+1 are zero at T")
    for line in cell.side_b:
        if len(line.terms) == 1:
            lines.append(f"{line!s:<44}  from {line.terms[0].use}")
        else:
            width = max((len(term.text) for term in line.terms), default=0)
            lines.append(str(line))
            lines += [f"         {term.text:<{width}}   from {term.use}" for term in line.terms]
    lines += ["", f"Kept for the way back: {', '.join(cell.kept)}"]
    if cell.derivation.made_again:
        lines.append(f"Made again from these: {', '.join(f'{name}_t' for name in cell.derivation.made_again)}")
    lines += [f"{one} = {other}: line {place.line + 1} needs it." for one, other, place in cell.sheet.equal]
    return "\n".join(lines) + "\n"


def as_data(cell: Cell) -> dict[str, Any]:
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
        "side_a": [{"tag": line.tag, "text": line.text, "tex": line.tex, "once": line.once} for line in cell.side_a],
        "side_b": [
            {
                "tag": line.tag,
                "symbol": line.symbol,
                "text": line.text,
                "tex": line.tex,
                "once": line.once,
                "terms": [{"text": term.text, "from": term.use} for term in line.terms],
            }
            for line in cell.side_b
        ],
        "kept": cell.kept,
        "made_again": [f"{name}_t" for name in cell.derivation.made_again],
    }


def _read(path: Path) -> str:
    known = f"A cell is one of {', '.join(CELLS)}, or a text file with its equations"
    try:
        if not path.exists():
            raise InputError(f"{known}; there is none at {path}. docs/sheet.md has the language.")
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
