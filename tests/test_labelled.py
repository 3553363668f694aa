"""Labelled sequences: what is read from a table, how it is parted and scaled, what the network makes of it."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import bptt
from typer.testing import CliRunner

from bptt import runs
from bptt.cli import app
from bptt.errors import InputError
from bptt.nn import RNN
from bptt.nn.network import layers_of
from bptt.tasks import Labelled, labelled, table
from bptt.tasks.labelled import Classifier, Recipe, Roles
from bptt.train import Training

pytestmark = pytest.mark.usefixtures("one_thread")

ROLES = Roles("kind", "id", "t", ("u", "v"))
QUICK = "--label kind --sequence id --time t --inputs u,v --hidden 8 --batch 8"


def write(path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = ("id", "t", "kind", "u", "v")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def waves(count: int, seed: int = 0) -> list[list[Any]]:
    """Rising or falling sequences of 4 to 9 steps whose rows are mixed: only their order in time tells them apart."""
    draw = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        kind, length = ("up", "down")[n % 2], int(draw.integers(4, 10))
        levels = np.sort(draw.normal(size=length))[:: 1 if kind == "up" else -1]
        rows += [[f"s{n}", t, kind, float(level), float(draw.normal())] for t, level in enumerate(levels)]
    return [rows[k] for k in draw.permutation(len(rows))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "waves.csv", waves(80))
    return tmp_path


def test_sequences_are_gathered_and_sorted_by_time(tmp_path: Path) -> None:
    rows = [["b", 2, "x", 5, 6], ["a", 1, "y", 1, 2], ["b", 1, "x", 3, ""], ["a", 2, "y", 7, 8]]
    found = labelled.sequences(table.read(write(tmp_path / "t.csv", rows)), ROLES)
    assert (found.names, found.labels, found.missing, found.steps) == (["b", "a"], ["x", "y"], 1, 4)
    np.testing.assert_array_equal(found.x[0], [[3, np.nan], [5, 6]])
    np.testing.assert_array_equal(found.x[1], [[1, 2], [7, 8]])


def test_parts_hold_every_sequence_once_and_every_class_everywhere() -> None:
    numbers = [0] * 40 + [1] * 11 + [2] * 3
    learning, validating, testing = labelled.parts(numbers, ["a", "b", "c"], 0.15, 0.2, seed=4)
    assert sorted(learning + validating + testing) == list(range(54))
    for part, counts in [(learning, [26, 7, 1]), (validating, [6, 2, 1]), (testing, [8, 2, 1])]:
        assert np.bincount([numbers[n] for n in part]).tolist() == counts
    assert labelled.parts(numbers, ["a", "b", "c"], 0.15, 0.2, seed=5)[0] != learning
    assert [len(part) for part in labelled.parts(numbers, ["a", "b", "c"], 0, 0, seed=0)] == [54, 0, 0]
    with pytest.raises(InputError, match=r"'c' has 3, and learning, .* want at least 4"):
        labelled.parts(numbers, ["a", "b", "c"], 0.5, 0.4, seed=0)


def test_scale_comes_from_the_learning_part_alone(tmp_path: Path) -> None:
    rows = waves(40)
    task = Labelled(table.read(write(tmp_path / "t.csv", rows)), Recipe(), ROLES)
    taught = {n for n, (name) in enumerate(task.all.names) if any(_same(task, n, x) for x, _ in task.learning)}
    assert len(taught) == len(task.learning)
    steps = np.concatenate([task.all.x[n] for n in sorted(taught)]).astype(np.float64)
    np.testing.assert_allclose(task.mean, steps.mean(0), rtol=1e-6)
    np.testing.assert_allclose(task.sd, steps.std(0), rtol=1e-6)
    others = {task.all.names[n] for n in range(len(task.all)) if n not in taught}
    changed = [[*row[:3], *([1e6, -1e6] if row[0] in others else row[3:])] for row in rows]
    again = Labelled(table.read(write(tmp_path / "t.csv", changed)), Recipe(), ROLES)
    np.testing.assert_array_equal(again.mean, task.mean)
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(task.learning, again.learning, strict=True))


def _same(task: Labelled, n: int, x: torch.Tensor) -> bool:
    return torch.equal(labelled.scaled(task.all.x[n], task.mean, task.sd), x)


def test_constant_and_missing_inputs_are_read_as_zero(tmp_path: Path) -> None:
    mean, sd = labelled.scale(np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]]))
    assert (mean.tolist(), sd.tolist()) == ([2, 5, 0], [1, 1, 1])
    x = np.array([[3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    assert labelled.scaled(x, mean, sd).tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["elman", "lstm", "s_t = x_t W_xs + s_{t-1} W_ss\nh_t = tanh(s_t W_sh)"])
def test_the_last_output_of_each_direction_is_what_counts(cell: str, bidirectional: bool) -> None:
    model = Classifier(layers_of(cell, 2, 5, 2, bidirectional=bidirectional), 3)
    pairs = [(torch.randn(length, 2), 0) for length in (3, 7, 1)]
    together, _ = labelled.outputs(model, pairs)
    for o, (x, _) in zip(together, pairs, strict=True):
        with torch.no_grad():
            h, _ = model.rnn(x[:, None])
            ends = torch.cat((h[-1, :, :5], h[0, :, 5:]), -1)
            torch.testing.assert_close(model.readout(ends)[0], o)


def test_balanced_weighs_classes_by_how_rare_they_are(tmp_path: Path) -> None:
    rows = [[f"s{n}", 0, "common" if n % 4 else "rare", n, 0] for n in range(40)]
    task = Labelled(
        table.read(write(tmp_path / "t.csv", rows)), Recipe(validation=0, test=0, batch=40, balanced=True), ROLES
    )
    assert task.classes == ["common", "rare"]
    torch.testing.assert_close(task.weights, torch.tensor([40 / 60, 40 / 20]))
    model = Classifier(RNN(2, 4), 2)
    x, y = labelled.batch(task.learning)
    expected = torch.nn.functional.cross_entropy(model(x), y, torch.tensor([40 / 60, 2.0]))
    L, _, count = task.loss(model, 0, None)
    torch.testing.assert_close(L, expected)
    assert count == 40


def test_confusion_counts_truth_in_rows() -> None:
    o = torch.eye(3)[[0, 1, 1, 2]]
    assert labelled.confusion(o, torch.tensor([0, 1, 2, 2])).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_interrupted_and_resumed_is_uninterrupted(here: Path) -> None:
    def new() -> Training:
        task = Labelled(table.read("waves.csv"), Recipe(hidden=6, epochs=4, batch=7), ROLES)
        return runs.start("run", task, overwrite=True)[1]

    whole = new()
    whole.run()
    run, parts = runs.start("run", Labelled(table.read("waves.csv"), whole.task.recipe, ROLES), overwrite=True)  # pyright: ignore[reportArgumentType]
    parts.run(save=run.save, should_stop=lambda: parts.step >= 9)
    _, resumed = runs.resume("run")
    assert resumed.step == 9
    resumed.run()
    for name, weight in whole.tensors().items():
        assert torch.equal(weight, resumed.tensors()[name]), name


def test_train_then_classify(here: Path) -> None:
    output = bptt(f"train waves.csv -o run {QUICK} --epochs 30 --lr 0.02")
    assert "80 sequences of 4 to 9 steps, 2 inputs, 2 labels in 'kind'" in output
    assert "52 to learn from, 12 for validation, 16 for the test" in output
    assert "16 of 16 sequences right, 100.0% (test part, read once); always saying" in output
    assert (here / "run/confusion.csv").read_text() == "is / said,down,up\ndown,8,0\nup,0,8\n"
    write(here / "new.csv", waves(20, seed=5))
    assert "of 20 sequences right" in bptt("classify run new.csv")
    facts = json.loads(bptt("classify run new.csv --json -o said.csv"))
    assert facts["accuracy"] > 0.9
    said = list(csv.DictReader((here / "said.csv").read_text().splitlines()))
    assert [row["kind said"] for row in said] == [row["said"] for row in facts["sequences"]]
    write(here / "plain.csv", [[*row[:2], *row[3:]] for row in waves(3)], ("id", "t", "u", "v"))
    lines = bptt("classify run plain.csv").splitlines()
    assert lines[0].split() == ["id", "kind", "probability"]
    said = json.loads(bptt("classify run plain.csv --json"))["sequences"]
    wanted = [[row["name"], row["said"], f"{row['probability']:.3f}"] for row in said]
    assert [line.split() for line in lines[1:]] == wanted
    assert "accuracy" not in json.loads(bptt("classify run plain.csv --json"))
    assert "must not replace the file it was made from" in bptt("classify run plain.csv -o plain.csv", code=2)


def test_a_test_file_is_the_test_part(here: Path) -> None:
    write(here / "apart.csv", waves(10, seed=9))
    output = bptt(f"train waves.csv -o run {QUICK} --epochs 2 --test-file apart.csv --bidirectional --balanced")
    assert "68 to learn from, 12 for validation, 10 for the test" in output
    assert "test part, read before" in bptt("train -o run --resume --epochs 3")
    bptt(f"train waves.csv -o run {QUICK} --epochs 4 --test-file apart.csv --bidirectional --balanced --resume")
    write(here / "apart.csv", waves(9, seed=9))
    assert "apart.csv has changed. Restore it" in bptt("train -o run --resume --epochs 5", code=2)


def test_json_ends_with_the_test(here: Path) -> None:
    lines = bptt(f"train waves.csv -o run {QUICK} --epochs 2 --json").splitlines()
    facts = json.loads(lines[-1])
    assert facts["event"] == "test"
    assert np.sum(facts["test"]["confusion"]) == 16
    assert (here / "run/confusion.csv").exists()


def test_a_run_on_its_own_sequences_says_so(here: Path) -> None:
    bptt(f"train waves.csv -o run {QUICK} --epochs 1")
    assert "waves.csv, which the network has learnt from" in bptt("classify run waves.csv")


@pytest.mark.parametrize("name", ["t", "ts", "when", "made", "step"])
def test_a_column_that_looks_like_times_orders_the_steps(here: Path, name: str) -> None:
    dated = {"when": "2020-01-{:02}", "made": "17000000{:02}"}.get(name, "{}")
    rows = [[row[0], dated.format(row[1] + 1), *row[2:4]] for row in waves(80)]
    write(here / "mixed.csv", rows, ("id", name, "kind", "u"))
    command = "train mixed.csv -o run --label kind --sequence id --hidden 8 --batch 8 --epochs 1"
    said = bptt(command)
    assert f"Inputs   u\nTime     {name} orders the steps\n" in said
    levels = [[row[3] for row in sorted(rows, key=lambda row: float(re.sub(r"\D", "", row[1]))) if row[0] == "s0"]]
    source = table.read("mixed.csv")
    found = labelled.roles(source, "kind", "id")
    read = labelled.sequences(source, found)
    assert [read.x[read.names.index("s0")][:, 0].tolist()] == levels
    assert runs.load(here / "run")[0].about["time"] == name
    if name == "when":
        with pytest.raises(InputError, match=r"'when' of .* holds times, such as '2020-01-\d\d'"):
            labelled.roles(source, "kind", "id", inputs=[name, "u"])
    else:
        assert labelled.roles(source, "kind", "id", inputs=[name, "u"]) == Roles("kind", "id", None, (name, "u"))


def test_the_order_of_the_file_may_be_kept(here: Path) -> None:
    command = "train waves.csv -o run --label kind --sequence id --hidden 8 --batch 8 --epochs 1 --time none"
    assert "Inputs   t, u, v\nTime     the steps of a sequence stand in order\n" in bptt(command)
    assert "stand in order" in bptt("train -o run --resume --epochs 2")
    assert "stand in order" in bptt("train -o run --resume --time none --epochs 3")
    assert "of 80 sequences right" in bptt("classify run waves.csv")


def test_a_measure_is_no_count_of_steps(here: Path) -> None:
    write(here / "warm.csv", [[*row[:1], row[3], *row[2:4]] for row in waves(8)], ("id", "T", "kind", "u"))
    assert labelled.roles(table.read("warm.csv"), "kind", "id") == Roles("kind", "id", None, ("T", "u"))


@pytest.mark.parametrize(
    "times", [["9.1.2020", "10.1.2020", "1.2.2020"], ["2020-01-01 9:30", "2020-01-01 10:00", "2020-01-02 8:00"]]
)
def test_dates_are_sorted_as_dates(tmp_path: Path, times: list[str]) -> None:
    rows = [["a", times[k], "x", k, 0] for k in (2, 0, 1)] + [["b", times[k], "y", k, 0] for k in (0, 1, 2)]
    found = labelled.sequences(table.read(write(tmp_path / "t.csv", rows)), ROLES)
    assert [x[:, 0].tolist() for x in found.x] == [[0, 1, 2], [0, 1, 2]]


def test_large_numbers_keep_their_differences(tmp_path: Path) -> None:
    rows = [[f"s{n}", 0, "ab"[n % 2], 1_700_000_000 + n % 2, 1e39] for n in range(8)]
    task = Labelled(table.read(write(tmp_path / "t.csv", rows)), Recipe(validation=0, test=0), ROLES)
    assert sorted({round(float(x[0, 0]), 5) for x, _ in task.learning}) == [-1.0, 1.0]
    json.dumps(task.about(), allow_nan=False)


def test_classes_are_in_one_order_whatever_they_are_called() -> None:
    labels = ["nan", "10", "2", "inf", "b", "1e2"]
    assert sorted(labels, key=labelled._naturally) == ["2", "10", "1e2", "b", "inf", "nan"]


def test_the_parts_are_the_same_for_every_seed(tmp_path: Path) -> None:
    source = table.read(write(tmp_path / "t.csv", waves(40)))
    one, other = (Labelled(source, Recipe(seed=seed), ROLES) for seed in (1, 2))
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(one.testing, other.testing, strict=True))
    assert one.order.of(0) != other.order.of(0)


MISTAKES = {
    "train waves.csv -o new": r"must be said; waves\.csv came alone.*--label COLUMN",
    "train waves.csv -o new --label kind": r"waves\.csv has 'id', 't', 'u', 'v'\. If a column says .*: "
    "--sequence NAME, one of id, t, kind, u, v",
    "train waves.csv -o new --label sort --sequence id": r"one of the table's: id, t, kind, u, v; got 'sort'",
    "train waves.csv -o new --label kind --sequence name": r"one of the table's: .*; got 'name'",
    "train waves.csv -o new --label kind --sequence id --inputs u,w": r"one of the table's: .*; got 'w'",
    "train waves.csv -o new --label kind --sequence id --inputs u,kind": r"'kind' was given twice",
    "train waves.csv -o new --label kind --sequence id --time day": r"one of the table's: .*; got 'day'",
    "train waves.csv -o new --label u --sequence id --inputs v": r"must have one label; 's\d+' has '.*' in line \d+",
    "train waves.csv -o new --label kind --sequence id --streams 3": r"--streams has no meaning for the task 'lab",
    "train waves.csv -o new --sequence id --unit byte": r"--sequence has no meaning for the task 'text'",
    "train waves.csv -o new --label kind --sequence id --validation 0.6 --test 0.5": r"leave something to learn from",
    "train waves.csv -o new --label kind --sequence id --test 1": r"test must be a share from 0 up to",
    "train waves.csv -o new --label kind --sequence id --test 0.1 --test-file waves.csv": r"Leave one out",
    "train missing.csv -o new --label kind --sequence id": r"there is none at missing\.csv",
    "train words.csv -o new --label kind --sequence id": r"'u' must hold numbers; line 3 of .*words\.csv has 'much'",
    "train one.csv -o new --label kind --sequence id": r"two labels or more to tell apart; .* only 'up'",
    "train few.csv -o new --label kind --sequence id": r"needs a sequence in each of the parts; 'down' has 1",
    "train unlabelled.csv -o new --label kind --sequence id": r"must have a label; 's1', which begins in line 3",
    "train unnamed.csv -o new --label kind --sequence id": r"must say which sequence it belongs to; line 3",
    "train twice.csv -o new --label kind --sequence id --time t": r"times; 's0' has 1 in line 2 and in line 3",
    "train twice.csv -o new --label kind --sequence id": r"has 1 in line 2 and in line 3 .*: --time none",
    "train other.csv -o new --label kind --sequence id --test-file strange.csv": r"strange\.csv has 'sideways'",
    "train waves.csv -o new --label kind --sequence id --test-file waves.csv": r"other sequences than those",
    "train waves.csv -o run --resume --label sort": r"keeps its label, 'kind'; got 'sort'",
    "train waves.csv -o run --resume --inputs u": r"keeps its inputs, \['u', 'v'\]; got \['u'\]",
    "train strange.csv -o run --resume --hidden 8": r"those the training began with, down, up; .* has .sideways.",
    "train waves.csv -o run --resume --streams 3": r"--streams has no meaning for the task 'labelled'",
    "train -o new --label kind": r"name a CSV or Parquet file",
    "classify new other.csv": r"holds no settings\.json",
    "generate run": r"needs a run that was trained on one; run was trained for the task 'labelled'",
    "inspect run abc": r"needs a run that was trained on one; run was trained for the task 'labelled'",
    "classify run few.csv": r"trained on; .*few\.csv has no .*'v', only id, kind, u\.",
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("mistakes")
    write(at / "waves.csv", waves(40))
    write(at / "other.csv", waves(40))
    three = ("id", "kind", "u")
    write(at / "words.csv", [["s0", "up", 1], ["s0", "up", "much"]], three)
    write(at / "one.csv", [["s0", "up", 1], ["s1", "up", 2]], three)
    write(at / "few.csv", [["s0", "up", 1], ["s1", "up", 1], ["s2", "up", 2], ["s3", "down", 2]], three)
    write(at / "unlabelled.csv", [["s0", "up", 1], ["s1", "", 2]], three)
    write(at / "unnamed.csv", [["s0", "up", 1], ["", "up", 2]], three)
    write(at / "twice.csv", [["s0", 1, "up", 1, 2], ["s0", 1, "up", 1, 2]])
    write(at / "strange.csv", [["s0", 1, "sideways", 1, 2]])
    result = CliRunner().invoke(app, f"train {at}/waves.csv -o {at}/run {QUICK} --epochs 1".split())
    assert result.exit_code == 0
    return at


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_get_a_message_and_exit_code_2(command: str, mistakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistakes)
    before = {file: file.stat().st_mtime_ns for file in mistakes.rglob("*") if file.is_file()}
    message = bptt(command, code=2)
    assert message.startswith("Error: ")
    assert re.search(MISTAKES[command], message), message
    assert {file: file.stat().st_mtime_ns for file in mistakes.rglob("*") if file.is_file()} == before


def test_text_among_the_inputs_is_read_as_categories(here: Path) -> None:
    colours = {"up": "red", "down": "blue"}
    rows = [[*row[:4], colours[row[2]] if row[1] else ""] for row in waves(40)]
    write(here / "coloured.csv", rows, ("id", "t", "kind", "u", "colour"))
    command = "train coloured.csv -o run --label kind --sequence id --hidden 8 --batch 8"
    said = bptt(f"{command} --epochs 1 --lr 0.03")
    assert "2 inputs, 2 labels in 'kind'\nInputs   u, colour\nCoded    colour as 2 categories\n" in said
    about = runs.load(here / "run")[0].about
    assert about["codings"] == [["u", None], ["colour", ["blue", "red"]]]
    source = table.read("coloured.csv")
    found = labelled.sequences(source, labelled.roles_of(about))
    np.testing.assert_array_equal(found.x[0][:2, 1:], [[np.nan] * 2, [0, 1] if found.labels[0] == "up" else [1, 0]])
    assert f"{found.missing:,} of {found.steps * 3:,} cells" in said
    assert "Coded" in bptt("train -o run --resume --epochs 2")
    assert "of 40 sequences right" in bptt("classify run coloured.csv")
    write(here / "strange.csv", [["s", 1, "up", 2, "green"]], ("id", "t", "kind", "u", "colour"))
    answer = bptt("classify run strange.csv", code=2)
    assert "'colour' must hold the categories it was read with at first, blue, red; line 2" in answer
    assert "'green'. Leave the cell empty" in answer
    write(here / "named.csv", [[*row, f"by {k}"] for k, row in enumerate(rows)], ("id", "t", "kind", "u", "c", "note"))
    command = command.replace("coloured", "named").replace("run", "other")
    assert "'note' of" in bptt(command, code=2)
    assert "Inputs   u\n" in bptt(f"{command} --inputs u --epochs 1")


def test_runs_from_before_categories_are_read(here: Path) -> None:
    bptt(f"train waves.csv -o run {QUICK} --epochs 1")
    about = dict(runs.load(here / "run")[0].about)
    assert (about.pop("codings"), about.pop("steps")) == ([], None)
    assert labelled.roles_of(about) == ROLES
    again = Labelled.again(about, Recipe(hidden=8, batch=8), str(here / "waves.csv"))
    assert len(again.all) == 80
    assert Labelled.network(about, again.recipe).rnn.input_size == 2


@pytest.mark.filterwarnings("default")
def test_sequences_that_both_files_have_are_counted(here: Path) -> None:
    own, new = waves(80), waves(12, seed=9)
    shared = [[f"x{row[0]}", *row[1:]] for row in own if row[0] in ("s0", "s1", "s2")]
    write(here / "apart.csv", [*new, *shared])
    command = f"train waves.csv -o run {QUICK} --epochs 1 --test-file apart.csv"
    result = CliRunner().invoke(app, command.split())
    line = "3 of 15 sequences of the test part have the same values as one learnt from."
    assert f"Shared   {line}\n" in result.stdout
    assert f"Warning: {line} Its figures will be better" in result.stderr
    assert json.loads(bptt(f"{command} --overwrite --json").splitlines()[-1])["test"]["shared"] == 3
    write(here / "apart.csv", new)
    result = CliRunner().invoke(app, [*command.split(), "--overwrite"])
    assert "Shared" not in result.stdout
    assert "Warning" not in result.stderr
    write(here / "apart.csv", shared)
    assert "all 3 of" in bptt(f"{command} --overwrite", code=2)


def test_a_table_that_has_sequences_twice_says_so(here: Path) -> None:
    rows = waves(40)
    write(here / "twice.csv", [*rows, *([f"x{row[0]}", *row[1:]] for row in rows)])
    assert re.search(
        r"Shared   1[0-6] of 16 sequences of the test part", bptt(f"train twice.csv -o run {QUICK} --epochs 1")
    )
