"""Columns as numbers: what is a number, what a category, and what is neither."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bptt.errors import InputError
from bptt.tasks import coding, table
from bptt.tasks.coding import Coding, coded, codings, names_of
from bptt.tasks.table import Table

NAN = np.nan


def read(path: Path, cells: list[str], name: str = "c") -> Table:
    file = path / "t.csv"
    file.write_text("\n".join([f"{name},n", *(f"{cell},{k}" for k, cell in enumerate(cells))]) + "\n")
    return table.read(file)


def test_text_becomes_a_number_for_each_category(tmp_path: Path) -> None:
    source = read(tmp_path, ["Mon", " Fri", "", "NA", "Mon"])
    found = codings(source, ["n", "c"])
    assert found == [Coding("n", None), Coding("c", ("Fri", "Mon"))]
    assert names_of(found) == ["n", "c=Fri", "c=Mon"]
    numbers = coded(source, found)
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, [[0, 0, 1], [1, 1, 0], [2, NAN, NAN], [3, NAN, NAN], [4, 0, 1]])
    assert coding.from_json(json.loads(json.dumps(found))) == found


@pytest.mark.parametrize(
    "cells",
    [
        ["1", "2.5", "-3e2", ""],
        ["1", "?", "3", "4"],
        ["unknown", "unknown", "unknown", "1.5", "2.5"],
        ["12 kg", "7 kg", "12 kg", "7 kg"],
        ["$12", "$13", "$12", "$12"],
        ["21.5 °C", "20 °C", "20 °C", "20 °C"],
        ["50%", "20%", "50%", "20%"],
        ["", "NA", "null"],
    ],
)
def test_numbers_stay_numbers_however_they_are_written(tmp_path: Path, cells: list[str]) -> None:
    assert codings(read(tmp_path, cells), ["c"]) == [Coding("c", None)]


def test_a_wrong_cell_among_numbers_is_shown(tmp_path: Path) -> None:
    source = read(tmp_path, ["1", "2", "much", "4"])
    with pytest.raises(InputError, match=r"'c' must hold numbers; line 4 of .* has 'much'"):
        coded(source, codings(source, ["c"]))


@pytest.mark.parametrize(
    "cells", [["1A", "2B", "1A", "2B"], ["1st", "2nd", "3rd"], ["0-9", "10-19", "20+"], ["True", "False", "True"]]
)
def test_digits_alone_make_no_number(tmp_path: Path, cells: list[str]) -> None:
    assert codings(read(tmp_path, cells), ["c"]) == [Coding("c", tuple(sorted(set(cells))))]


def test_types_of_parquet(tmp_path: Path) -> None:
    columns = {
        "flag": pl.Series([True, None, False]),
        "kind": pl.Series(["b", None, "a"], dtype=pl.Categorical),
        "level": pl.Series(["1", "2", "1"], dtype=pl.Enum(["1", "2", "3"])),
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    source = table.read(tmp_path / "t.parquet")
    found = codings(source, list(columns))
    assert found == [Coding("flag", None), Coding("kind", ("a", "b")), Coding("level", ("1", "2"))]
    np.testing.assert_array_equal(coded(source, found), [[1, 0, 1, 1, 0], [NAN, NAN, NAN, 0, 1], [0, 1, 0, 1, 0]])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([f"name {k}" for k in range(40)], r"'c' of .* has 40 different texts in 40 cells, such as 'name 0'.*--inputs"),
        ([f"n {k % 101}" for k in range(999)], r"at most 100, .* has 101 different texts in 999 cells"),
        ([f"2020-01-{k + 1:02}" for k in range(9)], r"'c' of .* holds times, such as '2020-01-01'.*--inputs"),
    ],
)
def test_text_that_is_no_category_is_refused(tmp_path: Path, cells: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        codings(read(tmp_path, cells), ["c"])


def test_a_hundred_categories_are_read(tmp_path: Path) -> None:
    assert len(names_of(codings(read(tmp_path, [f"n{k % 100}" for k in range(200)]), ["c"]))) == 100


def test_what_was_read_at_first_is_asked_of_other_tables(tmp_path: Path) -> None:
    found = codings(read(tmp_path, ["a", "b", "a"]), ["c"])
    np.testing.assert_array_equal(coded(read(tmp_path, ["b", ""]), found), [[0, 1], [NAN, NAN]])
    with pytest.raises(InputError, match=r"'c' must hold the categories .*, a, b; line 3 of .* has 'new'.* cell empty"):
        coded(read(tmp_path, ["b", "new"]), found)
    with pytest.raises(InputError, match=r"one of the table's: d, n; got 'c'"):
        coded(read(tmp_path, ["b"], "d"), found)
    with pytest.raises(InputError, match=r"'c' must hold numbers; line 2 of .* has 'b'"):
        coded(read(tmp_path, ["b"]), [Coding("c", None)])
