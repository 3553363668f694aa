"""The sheet holds all seventeen equations, and the code that implements one carries its tag."""

import re
from pathlib import Path

import pytest

from bptt.sheet import equations

SOURCE = Path(equations.__file__).parents[1]


def test_the_sheet_has_six_steps_forward_and_eleven_back() -> None:
    assert [e.tag for e in equations.SIDE_A] == [f"A{i}" for i in range(1, 7)]
    assert [e.tag for e in equations.SIDE_B] == [f"B{i}" for i in range(1, 12)]
    assert {e.side for e in equations.SIDE_A} == {"A"}
    assert {e.side for e in equations.SIDE_B} == {"B"}


def test_an_equation_is_found_by_its_tag() -> None:
    assert equations.equation("B7").formula == "∂a_t = ∂h_t ⊙ φ'(a_t)"
    with pytest.raises(KeyError, match="A1 to A6 and B1 to B11; got 'B12'"):
        equations.equation("B12")


def test_every_tag_stands_on_a_line_of_code() -> None:
    code = "\n".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name != "equations.py")
    tagged = {tag for comment in re.findall(r"\S.*  # (.*)", code) for tag in re.findall(r"\b[AB]\d+\b", comment)}
    assert set(equations.SHEET) <= tagged


def test_symbols_have_their_names_in_every_notation() -> None:
    assert equations.translate("W_hh", "PyTorch") == "weight_hhᵀ"
    assert equations.translate("a_t", "side A/B posts") == "h(t)"
    assert equations.translate("x_t", "Keras") == "x_t"
    with pytest.raises(KeyError, match="Goodfellow"):
        equations.translate("W_hh", "nobody's")
