"""The sheet holds all seventeen equations, and the code that implements one carries its tag."""

import re
from pathlib import Path

from bptt import sheet
from bptt.sheet import named

SOURCE = Path(sheet.__file__).parents[1]
TAGS = [*(f"A{k}" for k in range(1, 7)), *(f"B{k}" for k in range(1, 12))]


def test_the_plain_cell_has_all_seventeen() -> None:
    cell = named("elman")
    assert list(dict.fromkeys(line.tag for line in (*cell.side_a, *cell.side_b))) == TAGS


def test_every_tag_stands_on_a_line_of_code() -> None:
    code = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    tagged = {tag for comment in re.findall(r"\S.*  # (.*)", code) for tag in re.findall(r"\b[AB]\d+\b", comment)}
    assert set(TAGS) <= tagged
