"""The pages of derivations say what `bptt derive` says, for every built-in cell."""

import re
import textwrap
from pathlib import Path

import derivation_pages
import pytest

from bptt.sheet import named
from bptt.sheet.cells import ABOUT, CELLS
from bptt.sheet.notations import NOTATIONS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", CELLS)
def test_the_page_of_a_cell_is_current(name: str) -> None:
    written = (DOCS / "derivations" / f"{name}.md").read_text()
    assert written == derivation_pages.page(name), "write it anew: python tests/derivation_pages.py docs/derivations"


def test_each_page_is_of_a_cell_and_is_linked() -> None:
    assert {path.name for path in (DOCS / "derivations").iterdir()} == {f"{name}.md" for name in CELLS}
    assert ABOUT.keys() == CELLS.keys()
    page = (DOCS / "derivation.md").read_text()
    for name in CELLS:
        assert f"(derivations/{name}.md)" in page


def test_the_prose_has_the_equations_that_are_derived() -> None:
    page = (DOCS / "derivation.md").read_text()
    cell = named("elman")
    for side in (cell.side_a, cell.side_b):
        assert textwrap.indent(str(side).lstrip(), "    ") in page
    rows = dict(re.findall(r"(?m)^\| (A\d) \| (.*?) \|", page))
    assert {tag: text.replace("`", "") for tag, text in rows.items()} == {line.tag: line.text for line in cell.side_a}
    tags = {tag for tags in re.findall(r"\*\*[\w -]+ \(([B0-9, ]+)\)\.\*\*", page) for tag in tags.split(", ")}
    assert tags == {line.tag for line in cell.side_b}


def test_the_page_names_every_notation() -> None:
    page = (DOCS / "derivation.md").read_text()
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == [*NOTATIONS]
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \|.*\| (.*) \|", page))
    for way, differs in rows.items():
        written = str(named("elman").board(way).side_a) + str(named("elman").board(way).side_b)
        assert all(part in written for part in re.findall("`([^`]+)`", differs)), way
