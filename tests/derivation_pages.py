"""Writes docs/derivations/, a page for each built-in cell: `python tests/derivation_pages.py docs/derivations`."""

import sys
import textwrap
from pathlib import Path

from bptt.cli.derive import with_uses
from bptt.sheet import Cell, named
from bptt.sheet.cells import ABOUT, CELLS
from bptt.sheet.notations import NOTATIONS

HEAD = """# `{name}`, derived

{about}

Side A is the cell; side B follows from it. [derivation.md](../derivation.md) has the tags, and the prose for a learner;
[sheet.md](../sheet.md) has the language of side A. `bptt derive {name}` prints these equations, with `--notation` under
other names. `python tests/derivation_pages.py docs/derivations` writes this page.

Sizes: `T` steps, `B` batch rows, `I` inputs, `H` hidden units, `O` outputs. Vectors are rows. `∂u` is `∂L/∂u`.
"""

SIDE_B = """
## Side B: backward through time

For t = T, …, 1; what comes from step t+1 is zero at T. Behind `from` stands the equation of side A that uses the value.
"""


def page(name: str) -> str:
    cell = named(name)
    board = cell.board()
    kept = ", ".join(f"`{value}`" for value in board.kept)
    again = (
        f" It makes {', '.join(f'`{value}`' for value in board.made_again)} again from these."
        if board.made_again
        else ""
    )
    parts = [
        HEAD.format(name=name, about=textwrap.fill(ABOUT[name], 120)),
        "\n## Side A: forward\n\nFor t = 1, …, T.\n",
        _block("text", str(board.side_a)),
        _block("math", board.side_a.tex),
        _parameters(cell),
        SIDE_B,
        _block("text", "\n".join(with_uses(board.side_b))),
        _block("math", board.side_b.tex),
        f"\n## Kept for the way back\n\nSide B reads {kept} of side A, at every step.{again}\n",
        _names(cell),
    ]
    return "".join(parts)


def _block(language: str, text: str) -> str:
    return f"\n```{language}\n{text}\n```\n"


def _parameters(cell: Cell) -> str:
    sheet = cell.sheet
    rows = [
        f"| `{name}` | ({', '.join(sheet.shapes[name] if given.kind == 'matrix' else [sheet.widths[name]])}) |\n"
        for name, given in sheet.given.items()
        if given.learned
    ]
    return "\n| learned | shape |\n|---|---|\n" + "".join(rows)


def _names(cell: Cell) -> str:
    """One row for each name that is another one somewhere."""
    boards = {way: cell.board(way) for way in NOTATIONS if way != "bptt"}
    values = [f"{line.name}_t" for line in cell.derivation.steps]
    lines = [
        "",
        "## The same under other names",
        "",
        f"| here | {' | '.join(boards)} |",
        f"|---|{'---|' * len(boards)}",
    ]
    for name in [*cell.sheet.given, "x_t", *values, "o_t", "W_ho", "b_o"]:
        there = [board.names.get(name, "") for board in boards.values()]
        if any(there):
            lines.append(f"| `{name}` | {' | '.join(map(_code, there))} |")
    lines.append("")
    for way, board in boards.items():
        lines.append(f"- `{way}`: {board.notation.of}" + (f". Here {board.note}" if board.note else ""))
    return "\n".join([*lines, ""])


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(exist_ok=True)
    for name in CELLS:
        (target / f"{name}.md").write_text(page(name))


if __name__ == "__main__":
    main()
