"""Several workers make the training of one: the same weights, one voice, nothing lost when one of them is killed."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from commands import bptt

from bptt import runs
from bptt.errors import InputError
from bptt.runs import formats
from bptt.tasks import TASKS, Labelled, ResumableTask, Series, Text, data, labelled, table

EAGER = str(Path(__file__).parent / "eager.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
TEXT = " ".join(f"{n} is {n * n % 97}, and {n * n * n % 89} comes next." for n in range(400))
OPTIONS = "--hidden 64 --streams 8 --bptt 32 --steps 800 --json"


def text(**recipe: Any) -> Text:
    return Text(data.Corpus(TEXT.encode(), "text"), Text.Recipe(**{"hidden": 8, "streams": 4, "bptt": 8, **recipe}))


def task_gradient(model: Any, task: ResumableTask, step: int, h: torch.Tensor | None) -> tuple[list[torch.Tensor], int]:
    L, _, items = task.loss(model, step, h)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(L, parameters)) if items else [torch.zeros_like(p) for p in parameters], items


def assert_shards_add_up(task: ResumableTask, workers: int) -> None:
    """Of the first and the last batch of an epoch."""
    torch.manual_seed(0)
    model = task.network(task.about(), task.recipe)
    task.prepare(model)
    for step in (0, len(task) - 1):
        h = None if task.state is None else torch.rand(task.state)
        whole, items = task_gradient(model, task, step, h)
        shards = []
        for rank in range(workers):
            part = None if h is None else h.chunk(workers, 1)[rank].contiguous()
            shards.append(task_gradient(model, task.shard(rank, workers), step, part))
        assert sum(count for _, count in shards) == items
        added = [sum(gradients) for gradients in zip(*(gradient for gradient, _ in shards), strict=True)]
        torch.testing.assert_close(added, whole, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("cell", ["elman", "lstm"])
@pytest.mark.parametrize("k1", [None, 3])
def test_losses_of_the_shards_of_a_text_add_up(k1: int | None, cell: str) -> None:
    for workers in (2, 4):
        assert_shards_add_up(text(k1=k1, cell=cell), workers)


@pytest.mark.parametrize("balanced", [False, True])
def test_losses_of_the_shards_of_labelled_sequences_add_up(balanced: bool, tmp_path: Path) -> None:
    """Of 25 batches the last has one sequence, so that some workers have nothing to do."""
    draw = np.random.default_rng(0)
    names = [f"s{n}" for n in range(97) for _ in range(n % 5 + 2)]
    kinds = ["up" if int(name[1:]) % 3 else "down" for name in names]
    pl.DataFrame({"id": names, "kind": kinds, "u": draw.normal(size=len(names))}).write_csv(tmp_path / "data.csv")
    recipe = Labelled.Recipe(hidden=8, batch=4, validation=0, test=0, balanced=balanced)
    task = Labelled(table.read(tmp_path / "data.csv"), recipe, labelled.Roles("kind", "id", None, ("u",)))
    for workers in (2, 3):
        assert_shards_add_up(task, workers)


def test_losses_of_the_shards_of_a_series_add_up(tmp_path: Path) -> None:
    """With gaps, so that the windows have different numbers of steps that count."""
    draw = np.random.default_rng(0)
    y = np.sin(np.arange(300) / 3) + 0.1 * draw.normal(size=300)
    y[draw.permutation(300)[:40]] = math.nan
    data = pl.DataFrame({"y": y}).with_columns(pl.col("y").fill_nan(None))
    data.write_csv(tmp_path / "data.csv")
    task = Series(table.read(tmp_path / "data.csv"), Series.Recipe(hidden=8, batch=5, window=12, season=6), ["y"])
    for workers in (2, 7):
        assert_shards_add_up(task, workers)


def test_every_task_can_be_divided_into_shards() -> None:
    assert all(callable(task.shard) for task in TASKS.values())


def test_streams_that_the_workers_do_not_divide() -> None:
    with pytest.raises(InputError, match=r"divide the streams; got 4 streams and 3 workers\. .* --streams 6"):
        text().shard(0, 3)


def weights(run: Path) -> dict[str, torch.Tensor]:
    tensors, _ = formats.read_safetensors(run / runs.CHECKPOINT)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(command: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, *options, EAGER, *command.split()],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(command: str) -> list[subprocess.Popen[str]]:
    """Two workers without torchrun, whose exit codes can be seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, EAGER, *command.split()],
            env=environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    return map(json.loads, process.stdout)


def until(step: int, found: Iterator[dict[str, Any]]) -> None:
    assert any(event["event"] == "steps" and event["step"] >= step for event in found)


def worker(launcher: subprocess.Popen[str], rank: int) -> int:
    """The process id of a worker that torchrun has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return next(int(child) for child in children if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a text, and in "one" the run of one process on it."""
    at, before = tmp_path_factory.mktemp("workers"), Path.cwd()
    (at / "text.txt").write_text(TEXT)
    os.chdir(at)
    bptt(f"train text.txt -o one {OPTIONS}")
    yield at
    os.chdir(before)


def saved_step(run: Path) -> int:
    _, facts = formats.read_safetensors(run / runs.CHECKPOINT)
    return facts["training"]["step"]


def voices(processes: list[subprocess.Popen[str]]) -> str:
    """What all of them wrote to stderr, but for torch's own warnings."""
    said = "".join(process.communicate(timeout=60)[1] for process in processes)
    assert "Traceback" not in said
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("[W"))


def test_killed_workers_come_back_and_reach_the_weights_of_one(here: Path) -> None:
    launcher = torchrun(f"train text.txt -o two {OPTIONS} --overwrite", "--max-restarts", "1")
    found = events(launcher)
    saved = next(step for _ in found if (step := saved_step(here / "two")))
    os.kill(worker(launcher, 1), signal.SIGKILL)
    until(saved + 100, found)
    os.kill(worker(launcher, 1), signal.SIGTERM)
    for _ in found:
        pass
    assert voices([launcher]).count("one has gone") == 1
    assert launcher.returncode == 0
    log = runs.read_log(here / "two")
    start, again = (event for event in log if event["event"] in ("start", "resume"))
    assert (start["event"], again["event"]) == ("start", "resume")
    assert 0 < saved <= again["step"]
    assert log[-1]["reason"] == "interrupted"
    bptt("train -o two --resume --json")
    torch.testing.assert_close(weights(here / "two"), weights(here / "one"), atol=1e-4, rtol=1e-3)


def test_two_workers_go_on_where_one_was_interrupted(here: Path) -> None:
    run, training = runs.start("part", runs.follow(runs.read_settings(here / "one"))[0])
    with closing(run):
        training.run(watch=run.watch, save=run.save, should_stop=lambda: training.step == 100)
    workers = start_two("train -o part --resume --json")
    assert voices(workers) == ""
    assert [process.returncode for process in workers] == [0, 0]
    torch.testing.assert_close(weights(here / "part"), weights(here / "one"), atol=1e-4, rtol=1e-3)


def test_the_head_says_that_processes_share_the_training(here: Path) -> None:
    workers = start_two("train text.txt -o told --hidden 8 --streams 4 --bptt 8 --steps 2")
    said = [process.communicate(timeout=60)[0] for process in workers]
    assert "Engine   native, 1 thread in each of 2 processes, which share the training\n" in said[0]
    assert said[1] == ""


def test_a_mistake_is_told_once_and_ends_all_workers(here: Path) -> None:
    workers = start_two("train text.txt -o odd --streams 5 --bptt 8")
    said = voices(workers)
    assert said.count("Error: ") == 1
    assert "divide the streams; got 5 streams and 2 workers" in said
    assert [process.returncode for process in workers] == [2, 2]


def test_interrupted_workers_end_at_the_same_step_with_everything_saved(here: Path) -> None:
    workers = start_two(f"train text.txt -o stopped {OPTIONS} --steps 1000000")
    until(20, events(workers[0]))
    for process in workers:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    assert voices(workers) == ""
    assert {process.returncode for process in workers} <= {0, 130}
    stop = runs.read_log(here / "stopped")[-1]
    assert (stop["event"], stop["reason"], stop["step"]) == ("stop", "interrupted", saved_step(here / "stopped"))


def test_the_worker_that_is_left_says_that_one_has_gone(here: Path) -> None:
    left, killed = start_two(f"train text.txt -o gone {OPTIONS} --steps 1000000")
    until(20, events(left))
    killed.kill()
    killed.communicate()
    assert "one has gone" in voices([left])
    assert left.returncode == 1
