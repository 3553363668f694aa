"""`bptt diagnose`: the reach of a trained network, the history of its training, and the advice that follows."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import bptt

from bptt import runs
from bptt.cli.advice import Figures, advice, listed
from bptt.tape import record, recording
from bptt.tasks import Labelled, Series, labelled
from bptt.tasks.data import Vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "the cat sat on the mat. " * 40
SMALL = "--hidden 8 --streams 4 --bptt 10"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS)
    return tmp_path


def facts(command: str) -> dict[str, Any]:
    return json.loads(bptt(f"diagnose {command} --json"))


def changed_log(run: Path, change: Any) -> None:
    lines = [json.loads(line) for line in (run / runs.LOG).read_text().splitlines()]
    (run / runs.LOG).write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def without(*names: str) -> Any:
    return lambda line: {key: value for key, value in line.items() if key not in names}


@pytest.mark.parametrize(
    ("figures", "pattern"),
    [
        (
            Figures(64, 6, window="bptt"),
            r"^Less than 1 % of ∂h reaches 6 of 64 steps .* longer --bptt does .*--cell lstm",
        ),
        (Figures(64, 6, cell="lstm"), r'6 of 64 .* next to nothing\. To reach farther: in Python, init="chrono:64"\.$'),
        (Figures(64, left=0.3, window="bptt"), r"^30 % of ∂h .* window of 64 steps .* --bptt 128\.$"),
        (
            Figures(64, rate=1.02, clip=None),
            r"^∂h grows by 1\.02 a step, 3\.55 times over 64 steps: clip it, --clip 1\.$",
        ),
        (Figures(64, rate=1.02), r"keep --clip 1\.$"),
        (
            Figures(64, clipped=0.42, median=1.6),
            r"^42 % of the .* lower --lr 0\.003 or raise --clip; the .* is 1\.6\.$",
        ),
        (Figures(64, clip=None, median=0.5, largest=115.0), r"^The largest .*, 115, is 230 times .*--clip 0\.5 or up"),
        (Figures(64, saturated={"h of layer l0": 0.38}), r"^38 % of h of layer l0 is saturated.* lower --lr 0\.003\.$"),
        (Figures(64, dead={"h of layer l0": 0.2}), r"^20 % of the units of h of layer l0 are dead"),
    ],
)
def test_advice_names_the_figure_it_follows_from(figures: Figures, pattern: str) -> None:
    (said,) = advice(figures)
    assert re.search(pattern, said), said
    assert max(map(len, listed([said]))) <= 79


@pytest.mark.parametrize(
    "figures",
    [
        Figures(64, 40, window="bptt"),
        Figures(64, left=0.05, window="bptt"),
        Figures(64, left=0.9),
        Figures(64, rate=1.005),
        Figures(64, clipped=0.2, median=1.0, largest=200.0),
        Figures(64, clip=None, median=1.0, largest=5.0),
        Figures(64, saturated={"h": 0.1}, dead={"h": 0.05}),
    ],
)
def test_where_nothing_is_wrong_it_says_so(figures: Figures) -> None:
    assert advice(figures) == []
    assert listed([]) == ["Nothing in these figures asks for a change."]


def test_a_run_on_a_text(here: Path) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 40 --lr 0.02")
    said = facts("run")
    settings, model = runs.load("run")
    tokens = Vocabulary.from_json(settings.about["vocabulary"]).encode(WORDS).long()
    at = torch.tensor([0, 316, 632, 949]) + torch.arange(10)[:, None]
    reach = record(model, tokens[at], tokens[at + 1]).reach()
    assert said["reach"] == json.loads(json.dumps(reach.to_dict()))
    log = [event for event in runs.read_log(here / "run") if event["event"] == "steps"]
    history, norms = said["history"], [event["grad_norm"] for event in log]
    assert (history["first"], history["last"]) == (norms[0], norms[-1])
    assert history["median"] == float(np.median(norms))
    assert history["largest"] == max(event["grad_norm_max"] for event in log)
    assert history["updates"] == 40
    assert history["clipped"] == pytest.approx(sum(e["clipped"] * e["steps"] for e in log) / 40, abs=1e-15)
    best = said["checkpoints"]["best"]
    assert best["radius"] == reach.radius
    assert best["exponents"]["l0"] == pytest.approx(reach.exponents["l0"].mean(0).tolist(), abs=1e-15)
    printed = bptt("diagnose run")
    assert str(reach) in printed
    for sentence in listed(said["advice"]):
        assert sentence in printed
    assert max(map(len, printed.splitlines())) <= 80, printed


def test_the_last_weights_are_there_where_others_were_better(here: Path) -> None:
    (here / "words.txt").write_text(WORDS + "ooonnn mmm ccc " * 4)
    bptt(f"train words.txt -o run {SMALL} --epochs 4 --lr 0.03")
    _, networks = runs.checkpoints("run")
    event = next(event for event in runs.read_log(here / "run") if event["event"] == "stop")
    assert event["best_step"] < event["step"], "the training must get worse for this test"
    assert {name: step for name, (step, _) in networks.items()} == {"best": event["best_step"], "last": event["step"]}
    said = facts("run")["checkpoints"]
    for name, (step, model) in networks.items():
        radius = float(torch.linalg.eigvals(model.rnn.weight_hh_l0.detach().double()).abs().max())
        assert said[name]["step"] == step
        assert said[name]["radius"]["l0"]["W_hh"] == pytest.approx(radius, rel=1e-9)
    assert said["best"]["radius"] != said["last"]["radius"]


def of_run() -> tuple[Any, Any, dict[str, tuple[int, Any]]]:
    settings, networks = runs.checkpoints("run")
    return settings.about, settings.recipe, networks


def recorded(model: torch.nn.Module, loss: Any) -> dict[str, Any]:
    """The reach of one pass, as JSON reads it."""
    with recording() as tapes:
        loss(model).backward()
    return json.loads(json.dumps(tapes[0].reach().to_dict()))


def test_a_run_on_a_series_has_the_gradient_of_its_training(here: Path) -> None:
    """On a table of the training part alone, whose windows are those of the training."""
    values = torch.sin(torch.arange(90) / 3) + torch.rand(90)
    rows = ["v", *(f"{float(v)}" for v in values)]
    (here / "wave.csv").write_text("\n".join(rows))
    bptt("train wave.csv -o run --target v --horizon 2 --window 12 --season 6 --hidden 4 --steps 4 --batch 50")
    about, recipe, networks = of_run()
    _, model = networks["last"]
    task = Series.again(about, recipe, "wave.csv")
    (here / "first.csv").write_text("\n".join(rows[: 1 + task.parts[0].train]))
    chosen = task.ends.sort().values[torch.linspace(0, len(task.ends) - 1, 32).long()]
    task._chosen = lambda step: chosen
    assert facts("run first.csv")["reach"] == recorded(model, lambda m: task.loss(m, 0, None)[0])
    own = facts("run")
    assert (own["task"], own["reach"]["T"], own["reach"]["B"]) == ("series", 12, 32)
    printed = bptt("diagnose run")
    assert "Weights  of step 4, the last; those of step 0 did better, and no gradient enters them" in printed
    assert "Batch    32 windows of wave.csv, of 12 steps" in printed


@pytest.mark.parametrize("options", ["", "--bidirectional --cell elman --layers 2", "--cell lstm"])
def test_a_run_on_labelled_sequences(here: Path, options: str) -> None:
    rows = [
        f"{n},{float(torch.rand(())) + n % 2},{'odd' if n % 2 else 'even'}" for n in range(20) for _ in range(3 + n % 5)
    ]
    (here / "waves.csv").write_text("\n".join(["of,v,kind", *rows]))
    bptt(f"train waves.csv -o run --label kind --sequence of --hidden 4 --epochs 2 --batch 32 {options}")
    about, recipe, networks = of_run()
    _, model = networks["best"]
    task = Labelled.again(about, recipe, "waves.csv")
    x, y = labelled.batch([(labelled.scaled(x, task.mean, task.sd), n % 2) for n, x in enumerate(task.all.x)])
    assert facts("run")["reach"] == recorded(model, lambda m: torch.nn.functional.cross_entropy(m(x), y))
    assert "Batch    20 sequences of waves.csv, of up to 7 steps" in bptt("diagnose run")
    (here / "others.csv").write_text("of,v,kind\n1,0.5,large\n1,0.5,large\n")
    assert "the network knows, even, odd; " in bptt("diagnose run others.csv", code=2)
    (here / "lacking.csv").write_text("of,v\n1,0.5\n")
    assert "lacking.csv has no 'kind', only of, v" in bptt("diagnose run lacking.csv", code=2)
    assert "there is none at nowhere.csv" in bptt("diagnose run nowhere.csv", code=2)


@pytest.mark.parametrize(
    ("given", "T", "B"), [("'the cat sat on the mat'", 10, 2), ("'the mat'", 6, 1), ("more.txt", 10, 3)]
)
def test_a_text_that_is_given(here: Path, given: str, T: int, B: int) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 2")
    (here / "more.txt").write_text("the cat on the mat sat. the ham.")
    said = facts(f"run {given}")["reach"]
    assert (said["T"], said["B"]) == (T, B)


@pytest.mark.parametrize(
    "options", ["--bptt full", "--bptt 20 --k1 5", "--layers 2 --cell lstm", "--nonlinearity relu"]
)
def test_windows_and_networks_of_every_kind(here: Path, options: str) -> None:
    bptt(f"train words.txt -o run {SMALL} {options} --steps 2")
    said = facts("run")["reach"]
    assert said["T"] == {"--bptt full": 959, "--bptt 20 --k1 5": 20}.get(options, 10)
    assert len(said["lags"]) == (4 if "lstm" in options else 1)


def test_what_the_log_does_not_have_is_said(here: Path) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 40")
    assert "Watched  not in the log" in bptt("diagnose run")
    changed_log(here / "run", without("clipped"))
    assert facts("run")["history"]["clipped"] is None
    assert "Clipped  not in the log" in bptt("diagnose run")
    changed_log(here / "run", without("grad_norm"))
    assert facts("run")["history"] is None
    assert "Norm     not in the log" in bptt("diagnose run")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("new", "A run is a directory that bptt train has written; new holds no settings.json"),
        ("words.txt", "words.txt holds no settings.json"),
        ("run ''", "must not be empty; got ''"),
        ("run at", "needs at least three characters, two steps and what follows; the text given has 2"),
        ("run Dog", "unknown: 'D', 'g'"),
        ("run -o nowhere/page.html", "Make the directory 'nowhere' first"),
        ("run -o run/log.jsonl", "must not take the place of a file that a run keeps"),
        ("run words.txt -o words.txt", "must not replace the file it was made from"),
    ],
)
def test_mistakes_are_answered_in_words(here: Path, typed: str, said: str) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 2")
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file()}
    assert said in bptt(f"diagnose {typed}", code=2)
    assert {file: file.read_bytes() for file in here.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("name", [runs.CHECKPOINT, runs.WEIGHTS, runs.LOG])
def test_a_run_that_lacks_a_file(here: Path, name: str) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 2")
    (here / "run" / name).unlink()
    assert name in bptt("diagnose run", code=2)
