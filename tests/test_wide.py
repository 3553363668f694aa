"""Tables with a row for each sequence: which columns are steps, what is asked, and what is read."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import bptt

from bptt import runs
from bptt.errors import InputError
from bptt.tasks import Labelled, labelled, table, wide
from bptt.tasks.labelled import Recipe, Roles

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = "-o run --label kind --hidden 8 --batch 8 --epochs 1"


def write(path: Path, header: str, rows: Sequence[Sequence[Any]]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def slopes(count: int, steps: int = 9, seed: int = 0) -> list[list[Any]]:
    """Sequences that rise or fall, a row for each, the label first."""
    draw = np.random.default_rng(seed)
    return [
        [("up", "down")[n % 2], *np.sort(draw.normal(size=steps).round(4))[:: 1 - 2 * (n % 2)].tolist()]
        for n in range(count)
    ]


def header(steps: int = 9) -> str:
    return "kind," + ",".join(f"v{k + 1}" for k in range(steps))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wide.csv", header(), slopes(60))
    return tmp_path


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        ("v1 v2 v3", {"v": ["v1", "v2", "v3"]}),
        ("v1 v10 v2 v3 v4 v5 v6 v7 v8 v9", {"v": [f"v{k}" for k in range(1, 11)]}),
        ("0 1 2", {"value": ["0", "1", "2"]}),
        ("0.0 0.5 1.0", {"value": ["0.0", "0.5", "1.0"]}),
        ("t_10 t_20 t_30", {"t": ["t_10", "t_20", "t_30"]}),
        ("x_1 y_1 x_2 y_2", {"x": ["x_1", "x_2"], "y": ["y_1", "y_2"]}),
        ("dim_0__0 dim_0__1 dim_1__0 dim_1__1", {"dim_0": ["dim_0__0", "dim_0__1"], "dim_1": ["dim_1__0", "dim_1__1"]}),
        ("x[0] x[1]", {"x": ["x[0]", "x[1]"]}),
        ("2019-11 2019-12 2020-01", {"value": ["2019-11", "2019-12", "2020-01"]}),
        ("08:00 08:15 08:30", {"value": ["08:00", "08:15", "08:30"]}),
        ("v1 v2 v4", None),
        ("v3 v2 v1", None),
        ("v2 v1 v3", None),
        ("v1 v01", None),
        ("x1 x2 y1", None),
        ("x1 x2 y2 y3", None),
        ("2019_1 2019_2 2020_1 2020_2", None),
        ("day1_1 day1_2 day2_1 day2_2", None),
        ("2020-01 2019-12", None),
        ("x1 y1", None),
    ],
)
def test_names_say_what_is_a_step(names: str, steps: wide.Steps | None) -> None:
    found, others = wide.by_name(names.split())
    assert (wide.counted(found), others) == (steps, [])


def test_cells_are_read_step_by_step(tmp_path: Path) -> None:
    rows = [["a", 1, 5, 2, 6, "", ""], ["b", "", 1, 3, "NA", 4, ""], ["a", 7, 7, "", "", 8, 8]]
    source = table.read(write(tmp_path / "t.csv", "kind,x_1,y_1,x_2,y_2,x_3,y_3", rows))
    roles = labelled.roles(source, "kind", None)
    assert roles == Roles("kind", None, None, ("x", "y"), (), ())
    found = labelled.sequences(source, roles)
    assert (found.names, found.labels, found.missing) == (["line 2", "line 3", "line 4"], ["a", "b", "a"], 5)
    nan = np.nan
    expected = [[[1, 5], [2, 6]], [[nan, 1], [3, nan], [4, nan]], [[7, 7], [nan, nan], [8, 8]]]
    for x, wanted in zip(found.x, expected, strict=True):
        np.testing.assert_array_equal(x, wanted)


def test_both_formats_and_both_forms_are_the_same_task(tmp_path: Path) -> None:
    rows = slopes(40)
    one = table.read(write(tmp_path / "wide.csv", header(), rows))
    frame = pl.DataFrame(rows, schema=header().split(","), orient="row")
    frame.write_parquet(tmp_path / "wide.parquet")
    two = table.read(tmp_path / "wide.parquet")
    steps = [[n, t, row[0], value] for n, row in enumerate(rows) for t, value in enumerate(row[1:])]
    three = table.read(write(tmp_path / "long.csv", "id,t,kind,v", steps))
    tasks = [Labelled(source, Recipe(), labelled.roles(source, "kind", None)) for source in (one, two)]
    tasks.append(Labelled(three, Recipe(), labelled.roles(three, "kind", "id")))
    for task in tasks[1:]:
        for part in ("learning", "validating", "testing"):
            pairs = zip(getattr(tasks[0], part), getattr(task, part), strict=True)
            assert all(y == other_y and x.equal(other) for (x, y), (other, other_y) in pairs)


def test_train_classify_and_resume(here: Path) -> None:
    said = bptt("train wide.csv -o run --label kind --hidden 8 --batch 8 --epochs 30 --lr 0.02")
    assert "60 sequences, one a row, of 9 steps, 1 input, 2 labels in 'kind'\nInputs   v\n" in said
    assert "Time     the columns v1 to v9 are the steps, in this order\n" in said
    write(here / "longer.csv", "v1," + header(12).removeprefix("kind,v1,") + ",note", [
        [*row[1:], "new"] for row in slopes(6, 12, seed=3)
    ])  # fmt: skip
    facts = json.loads(bptt("classify run longer.csv --json -o said.csv"))
    assert [found["name"] for found in facts["sequences"]] == [f"line {n}" for n in range(2, 8)]
    assert [found["said"] for found in facts["sequences"]] == ["up", "down"] * 3
    assert (here / "said.csv").read_text().startswith("sequence,kind said,probability,kind\nline 2,up,")
    assert "one a row" in bptt("train -o run --resume --epochs 31")
    write(here / "other.csv", "kind,u1,u2", [["up", 1, 2]])
    assert "The steps of 'v' must be columns called so" in bptt("classify run other.csv", code=2)


def test_rows_with_names_of_their_own(here: Path) -> None:
    write(here / "named.csv", "id," + header(), [[f"n{k}", *row] for k, row in enumerate(slopes(30))])
    assert "30 sequences, one a row, of 9 steps" in bptt(f"train named.csv {QUICK} --sequence id")
    assert runs.load(here / "run")[0].about["sequence"] == "id"
    write(here / "twice.csv", "id," + header(), [["n1", *row] for row in slopes(2)])
    assert "two of the same name in line 2 and line 3" in bptt("classify run twice.csv", code=2)
    assert "30 sequences, one a row, of 4 steps" in bptt(f"train named.csv {QUICK} --overwrite --inputs v3..v6")
    assert runs.load(here / "run")[0].about["steps"] == ["v3", "v4", "v5", "v6"]
    assert "of 30 sequences right" in bptt("classify run named.csv")


def test_steps_may_have_any_names_where_they_are_named(here: Path) -> None:
    write(here / "months.csv", "kind,note,mar,jan,feb", [[row[0], "x", *row[1:]] for row in slopes(30, 3)])
    said = bptt(f"train months.csv {QUICK} --inputs jan,feb,mar")
    assert "Inputs   value\nTime     the columns jan to mar are the steps, in this order" in said
    source = table.read("months.csv")
    roles = labelled.roles(source, "kind", None, inputs=["jan", "feb", "mar"])
    one = labelled.sequences(source, roles).x[0][:, 0].tolist()
    assert [one[2], *one[:2]] == slopes(30, 3)[0][1:]


def test_features_of_one_step_are_said_to_be_one_step(here: Path) -> None:
    rows = [[n, row[0], *row[1:3]] for n, row in enumerate(slopes(30))]
    write(here / "features.csv", "id,kind,length,width", rows)
    said = bptt(f"train features.csv {QUICK} --sequence id")
    assert "30 sequences of 1 step, 2 inputs" in said
    assert "Time     every sequence has one row, read as one step; --inputs without --sequence" in said


LONG = [[f"s{n}", t, ("up", "down")[n % 2], n + t / 9, t - n / 7] for n in range(6) for t in range(4)]
QUESTIONS = {
    "beside": ("id," + header(), [[f"n{k}", *row] for k, row in enumerate(slopes(9))], [],
               r"also 'id'\. .*--sequence NAME, one of id, kind, v1.*: --inputs v1\.\.v9"),
    "static": (header() + ",age", [[*row, 7] for row in slopes(9)], [], r"also 'age'.*--inputs v1\.\.v9"),
    "unnumbered": ("kind,a,b", [row[:3] for row in slopes(9)], [], r"has 'a', 'b'\..*--inputs FIRST\.\.LAST"),
    "gap": ("kind,v1,v2,v4", [row[:4] for row in slopes(9)], [], r"has 3 called 'v', which are not numbered evenly"),
    "blocks": ("kind,x1,x2,y1", [row[:4] for row in slopes(9)], [], r"has 2 called 'x', 1 called 'y', which"),
    "named blocks": ("kind,x1,x2,y1", [row[:4] for row in slopes(9)], ["x1..y1"], r"2 called 'x', 1 called 'y'"),
    "single": ("kind,v1", [row[:2] for row in slopes(9)], [], r"has 1 called 'v', which"),
    "named single": ("kind,v1,w", [row[:3] for row in slopes(9)], ["w"], r"has one step, 'w'"),
    "long": ("id,t,kind,u,v", LONG, [], r"has 'id', 't', 'u', 'v'"),
    "long, inputs named": ("id,t,kind,u,v", LONG, ["u", "v"], r"'id', which looks like the sequence .*take 'id' out"),
    "long, no ids": ("t,kind,u,v", [row[1:] for row in LONG], ["u", "v"], r"'t', which looks like"),
    "long, counted": ("kind,c1,c2,c3", [[r[2], r[1], *r[3:]] for r in LONG], [], r"'c1', which looks like"),
    "long, runs": ("kind,c1,c2", [[r[2], r[0][1:], r[3]] for r in LONG], [], r"'c1', which looks like"),
    "rows counted": ("kind,c1,c2", [[row[0], k, row[1]] for k, row in enumerate(slopes(9))], [], r"'c1', which"),
    "nothing else": ("kind", [row[:1] for row in slopes(9)], [], r"has no other column"),
    "backwards": (header(), slopes(9), ["v3..v1"], r"left to right; 'v1' stands before 'v3'"),
    "unknown": (header(), slopes(9), ["v1..w"], r"one of the table's: .*; got 'w'"),
    "twice": (header(), slopes(9), ["v1..v3", "v2"], r"'v2' was given twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", QUESTIONS)
def test_what_is_not_certain_is_asked(case: str, tmp_path: Path) -> None:
    names, rows, inputs, message = QUESTIONS[case]
    source = table.read(write(tmp_path / "t.csv", names, rows))
    with pytest.raises(InputError, match=message):
        labelled.roles(source, "kind", None, inputs=inputs or None)


def test_one_row_each_and_some_numbers_is_asked(tmp_path: Path) -> None:
    rows = [[n, *row, 7] for n, row in enumerate(slopes(9))]
    source = table.read(write(tmp_path / "t.csv", "id," + header() + ",age", rows))
    with pytest.raises(InputError, match=r"With one row for each sequence, .* has also 'age'\. If .*--inputs v1\.\.v9"):
        labelled.roles(source, "kind", "id")
    assert labelled.roles(source, "kind", "id", inputs=["v1..v9"]).steps == tuple(f"v{k}" for k in range(1, 10))
    assert labelled.roles(source, "kind", "id", inputs=["v1", "age"]).steps is None
    assert labelled.roles(source, "kind", "id", "age", ["v1..v9"])[2:] == (
        "age",
        tuple(header().split(",")[1:]),
        (),
        None,
    )


def test_an_index_beside_named_steps_is_no_question(tmp_path: Path) -> None:
    rows = [[n, *row] for n, row in enumerate(slopes(12))]
    source = table.read(write(tmp_path / "t.csv", "," + header(), rows))
    assert labelled.roles(source, "kind", None, inputs=["v1..v9"]).inputs == ("v",)


@pytest.mark.parametrize(
    ("cell", "message"),
    [("much", r"'v2' must hold numbers; line 3 of .* has 'much'"), ("inf", "finite"), ("1e300", "from -1e"), ("", "")],
)
def test_wrong_cells_are_shown(here: Path, cell: str, message: str) -> None:
    write(here / "wrong.csv", "kind,v1,v2", [["up", 1, 2], ["down", "", cell], ["up", 1, 2], ["down", 1, 2]])
    message = message or r"line 3 of .*wrong\.csv has only missing cells"
    assert re.search(message, bptt(f"train wrong.csv {QUICK} --validation 0 --test 0", code=2))


def test_a_time_without_sequences_is_refused(here: Path) -> None:
    assert "without --sequence every row is one; got --time v1" in bptt(f"train wide.csv {QUICK} --time v1", code=2)
    assert "one a row" in bptt(f"train wide.csv {QUICK} --time none")


def test_many_columns_are_read(tmp_path: Path) -> None:
    count = 20_000
    rows = [["ab"[n % 2], *range(n, n + count)] for n in range(4)]
    source = table.read(write(tmp_path / "t.csv", header(count), rows))
    task = Labelled(source, Recipe(validation=0, test=0), labelled.roles(source, "kind", None))
    assert [x.shape for x in task.all.x] == [(count, 1)] * 4
    assert task.all.x[3][-1, 0] == 3 + count - 1
