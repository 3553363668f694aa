"""`bptt train --cell` in every task: trained, kept in the run, gone on with, and used."""

import hashlib
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import weights_in
from commands import bptt

from bptt import runs
from bptt.cli import labelled, series, text
from bptt.cli.train import _of_cell
from bptt.errors import InputError
from bptt.nn import GRU, LSTM, RNN, Recurrent
from bptt.runs import formats
from bptt.runs.settings import CHANGEABLE
from bptt.sheet import Cell
from bptt.tasks import TASKS
from bptt.train import Training

pytestmark = pytest.mark.usefixtures("one_thread")

MINE = """\
s : size S
α : constant = 0.3
s_t = (1 − α) ⊙ s_{t-1} + α ⊙ tanh(x_t W_xs + h_{t-1} W_hs)
h_t = tanh(s_t W_sh)
"""
WIDE = "s : size I\ns_t = s_{t-1} + h_{t-1} W_hs\nh_t = tanh(x_t W_xh + s_t W_sh)\n"
CELLS = {"elman": RNN, "lstm": LSTM, "gru": GRU, "mgu": Recurrent, "mine.txt": Recurrent}
WORDS = "the cat sat on the mat. " * 40
TEXT = "words.txt --hidden 8 --layers 2 --streams 4 --bptt 10 --k1 5"
OF_TEXT = {"hidden": 8, "layers": 2, "streams": 4, "steps": 6}
MADE = {
    "text": (text, "words.txt", {**OF_TEXT, "bptt": 10, "k1": 5}),
    "whole text": (text, "words.txt", {**OF_TEXT, "bptt": "full"}),
    "labelled": (
        labelled,
        "kinds.csv",
        {"label": "kind", "sequence": "id", "hidden": 4, "layers": 2, "bidirectional": True, "batch": 8, "steps": 6},
    ),
    "series": (
        series, "months.csv", {"target": ["y"], "horizon": 2, "hidden": 4, "layers": 2, "window": 12, "steps": 6}
    ),
}  # fmt: skip
USED = {
    "text": ["generate run --length 20", "inspect run 'the cat'"],
    "whole text": ["generate run --length 20"],
    "labelled": ["classify run kinds.csv -o said.csv"],
    "series": ["forecast run --steps 5 -o next.csv"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text(WORDS)
    Path("mine.txt").write_text(MINE)
    Path("wide.txt").write_text(WIDE)
    steps = [(n, t, "ab"[n % 2], (n * 7 + t * 3) % 11 + 4 * (n % 2)) for n in range(24) for t in range(2 + n % 4)]
    Path("kinds.csv").write_text("id,t,kind,u,v\n" + "".join(f"s{n},{t},{k},{u},{u % 3}\n" for n, t, k, u in steps))
    months = [f"{1990 + n // 12}-{n % 12 + 1:02},{n + 9 * math.sin(n):.3f}\n" for n in range(96)]
    Path("months.csv").write_text("month,y\n" + "".join(months))
    return tmp_path


def made(task: str, cell: str, **options: Any) -> Any:
    """The task as the command line makes it."""
    words, file, usual = MADE[task]
    return words.task(Path(file), {**usual, **_of_cell(cell), **options})


def trained(at: str, task: Any, stop_at: int = 99) -> Training:
    """A run of 6 steps, or interrupted after `stop_at`."""
    run, training = runs.start(at, task)
    training.run(watch=run.watch, save=run.save, should_stop=lambda: training.step >= stop_at)
    run.close()
    return training


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("task", MADE)
def test_a_run_goes_on_to_the_bit_and_is_used_without_the_file(task: str, cell: str) -> None:
    whole = trained("whole", made(task, cell))
    layers = whole.model.network.rnn if task == "series" else whole.model.rnn
    assert type(layers) is CELLS[cell]
    trained("run", made(task, cell), stop_at=3)
    Path("mine.txt").unlink()
    run, training = runs.resume("run")
    assert training.step == 3
    training.run(watch=run.watch, save=run.save)
    run.close()
    assert weights_in(Path("run")) == weights_in(Path("whole"))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, training.model.state_dict()[name]), name
    for command in USED[task]:
        assert bptt(command)


@pytest.mark.parametrize(("cell", "layers"), [("elman", 2), ("lstm", 2), ("mine.txt", 2), ("wide.txt", 1)])
def test_a_window_of_a_text_begins_where_the_one_before_it_ended(cell: str, layers: int) -> None:
    task = made("text", cell, k1=None, layers=layers)
    model = task.network(task.about(), task.recipe)
    tokens, h = task.streams[:31].long(), None
    o, _ = model(tokens[:-1])
    for step in range(3):
        L, h, _ = task.loss(model, step, h)
        assert h is not None
        assert h.shape == task.state
        window = slice(10 * step, 10 * step + 10)
        torch.testing.assert_close(L, model.loss(o[window], tokens[1:][window]))


@pytest.mark.parametrize("cell", CELLS)
def test_the_run_says_its_cell_and_keeps_it(cell: str) -> None:
    said = {"elman": "elman units (tanh)", "mine.txt": "mine units"}.get(cell, f"{cell} units")
    assert f"Network  2 x 8 {said}, " in bptt(f"train {TEXT} -o run --cell {cell} --steps 1")
    recipe: Any = runs.load("run")[0].recipe
    kept = (recipe.cell, recipe.equations)
    assert kept == (("mine", MINE) if cell == "mine.txt" else (cell, None))
    assert "resume" in bptt(f"train -o run --resume --cell {cell} --steps 2")
    other = "gru" if cell == "lstm" else "lstm"
    refused = bptt(f"train -o run --resume --cell {other} --steps 3", code=2)
    assert f"A resumed training keeps its cell, '{kept[0]}'; got '{other}'." in refused
    if cell == "mine.txt":
        Path("mine.txt").write_text(MINE.replace("tanh(s_t", "σ(s_t"))
        assert "keeps the equations of its cell" in bptt("train -o run --resume --cell mine.txt --steps 3", code=2)


def test_a_file_with_a_name_that_cannot_be_printed_is_kept_with_one_that_can() -> None:
    Path("a\x1b\udcff.txt").write_text(MINE)
    bptt(f"train {TEXT} -o run --cell 'a\x1b\udcff.txt' --steps 1")
    recipe: Any = runs.load("run")[0].recipe
    assert recipe.cell == "a??"


def rewritten(run: Path, change: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    """The run with another recipe, every checksum and fingerprint as it has to be."""

    def changed(facts: dict[str, Any]) -> dict[str, Any]:
        recipe = {name: value for name, value in (facts["recipe"] | change).items() if name not in without}
        return facts | {"recipe": recipe}

    settings = json.loads((run / runs.SETTINGS).read_text())
    del settings["sha256"]
    settings = changed(settings)
    (run / runs.SETTINGS).write_text(json.dumps({**settings, "sha256": formats.digest({}, settings)}))
    with suppress(InputError):
        fingerprint = runs.Settings.from_json(settings).fingerprint
        tensors, facts = formats.read_safetensors(run / runs.WEIGHTS)
        (run / runs.WEIGHTS).write_bytes(formats.as_safetensors(tensors, {**facts, "fingerprint": fingerprint}))
    for name in (runs.CHECKPOINT, runs.PREVIOUS):
        tensors, facts = formats.read_safetensors(run / name)
        facts["settings"] = changed(facts["settings"])
        (run / name).write_bytes(formats.as_safetensors(tensors, facts))


@pytest.mark.parametrize("task", MADE)
def test_a_run_from_before_there_was_a_choice_is_one_of_the_plain_cell(task: str) -> None:
    whole = trained("whole", made(task, "elman"))
    trained("run", made(task, "elman"), stop_at=3)
    rewritten(Path("run"), {}, without=("cell", "equations"))
    facts = json.loads(Path("run", runs.SETTINGS).read_text())
    recipe = {name: value for name, value in facts["recipe"].items() if name not in CHANGEABLE}
    known = [facts["task"], facts["about"], recipe, facts["data"]["sha256"], facts["started"]]
    fingerprint = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    weights, _ = formats.read_safetensors(Path("run", runs.WEIGHTS))
    as_before = formats.as_safetensors(weights, {"schema": 4, "fingerprint": fingerprint})
    Path("run", runs.WEIGHTS).write_bytes(as_before)
    read: Any = runs.load("run")[0].recipe
    assert read.cell == "elman"
    run, training = runs.resume("run")
    training.run(watch=run.watch, save=run.save)
    run.close()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, training.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"equations": "__import__('os').system('touch pwned') = 1"}, "Line 1"),
        ({"equations": "h_t = tanh(x_t W_xh"}, "Line 1"),
        ({"equations": "h_t = " + "tanh(" * 3000}, "at most 10,000 characters"),
        ({"equations": "h_t = " + "(" * 2000 + "h_{t-1}"}, "Line 1"),
        ({"equations": "h_t = tanh(x_t W_xh + b_h)"}, "reads a value of the step before"),
        ({"equations": "d : input\nh_t = tanh(x_t W_xh + d_t ⊙ h_{t-1})"}, "also reads d"),
        ({"equations": "h_t = tanh(x_t + h_{t-1} W_hh)"}, "inputs as wide as the output"),
        ({"equations": "p_t = x_t\nh_t = tanh(p_{t-1} W_ph + h_{t-1} W_hh)"}, "x_t stands by itself"),
        ({"equations": ["h_t"]}, "equations must be the text of a cell; got list"),
        ({"cell": "gruu"}, "Did you mean gru"),
        ({"cell": ["gru"]}, "cell must be the name of a cell"),
        ({"cell": "a\x1b[2J", "equations": MINE}, "cell must be the name of a cell"),
        ({"cell": "gru"}, "nonlinearity is the φ of the plain cell"),
        ({"cell": "gru", "nonlinearity": None}, "rnn.weight_ih_l0 must be"),
    ],
)
def test_a_run_with_a_hostile_cell_is_refused(change: dict[str, Any], said: str) -> None:
    if "equations" in change:
        change = {"cell": "cell", "nonlinearity": None, **change}
    trained("run", made("text", "elman", layers=1), stop_at=2)
    rewritten(Path("run"), change)
    with pytest.raises(InputError, match="must be a file as bptt train wrote it") as refusal:
        runs.load("run")
    assert said in str(refusal.value)
    assert not Path("pwned").exists()
    assert bptt("generate run", code=2).startswith("Error: ")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("equations", "said"),
    [("h_t = tanh(x_t W_xh + b_h)", "step before"), ("m : rows\nh_t = m ⊙ tanh(x_t W_xh + h_{t-1} W_hh)", "reads m")],
)
def test_a_recipe_takes_no_cell_that_a_training_cannot_feed(task: str, equations: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TASKS[task].Recipe(cell="mine", equations=equations)


def test_what_is_read_is_what_was_written(here: Path) -> None:
    recipe = TASKS["labelled"].Recipe(cell="mine", equations=MINE)
    assert recipe.as_cell() is Cell(MINE, "mine")
    assert recipe.nonlinearity is None
    assert TASKS["labelled"].Recipe(cell="elman").nonlinearity == "tanh"
    task = made("labelled", "mine.txt")
    trained("run", task)
    assert runs.load("run")[0].recipe == task.recipe
