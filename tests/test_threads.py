"""The number of threads of a training: found on a simulated machine, put back afterwards, no trace in the bits."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from bptt import startup
from bptt.cli import app
from bptt.errors import InputError
from bptt.tasks import Labelled, ResumableTask, Series, Text, data, forecaster, table
from bptt.tasks.labelled import Roles
from bptt.train import Training, fit
from bptt.train import threads as thread_counts
from bptt.train.threads import Threads

STEP = 0.01


def idle(number: int) -> float:
    return 1.3 / number


def loaded(number: int) -> float:
    return 1.0 + 2 * (number - 1)


def numbers(pace: Threads, slowness: Callable[[int], float], seconds: float) -> list[int]:
    """The number of threads of each step in so many seconds of a machine that is simulated."""
    found, now = [], 0.0
    for items in cycle((10, 20, 30)):
        if now > seconds:
            break
        took = STEP * slowness(pace.number) * items / 20
        found.append(pace.number)
        now += took
        pace.learn(took, items)
    return found


def threads_of(most: int = 2, **options: Any) -> Threads:
    return Threads(most, apply=lambda number: None, **options)


def test_all_threads_work_on_an_idle_machine() -> None:
    found = numbers(threads_of(), idle, 60)
    assert found.count(2) > 0.97 * len(found)


def test_trials_take_a_small_share_of_the_time_where_steps_on_one_thread_take_long() -> None:
    def many_cores(number: int) -> float:
        return 100 / number

    found = numbers(threads_of(64), many_cores, 300)
    alone, together = (found.count(number) * many_cores(number) for number in (1, 64))
    assert 0 < alone < 0.1 * (alone + together)


def test_one_thread_works_while_others_need_the_cores_and_all_do_again_afterwards() -> None:
    pace = threads_of(4)
    numbers(pace, idle, 60)
    began = numbers(pace, loaded, 2)
    assert began.count(1) > 0.8 * len(began)
    rest = numbers(pace, loaded, 60)
    assert rest.count(1) > 0.97 * len(rest)
    numbers(pace, idle, 12)
    after = numbers(pace, idle, 60)
    assert after.count(4) > 0.97 * len(after)


@pytest.mark.parametrize("pace", [threads_of(1), threads_of(2, steady=True)], ids=["one", "steady"])
def test_a_number_that_is_fixed_stays(pace: Threads) -> None:
    assert set(numbers(pace, loaded, 10)) == {pace.number}


def test_torch_gets_the_number_and_then_its_own_back() -> None:
    outside = torch.get_num_threads()
    with Threads(outside + 1) as pace:
        assert torch.get_num_threads() == outside + 1
        numbers(pace, loaded, 2)
        assert torch.get_num_threads() == pace.number == 1
    assert torch.get_num_threads() == outside


def test_fit_works_on_the_threads_it_is_given_and_refuses_none() -> None:
    seen, outside = [], torch.get_num_threads()
    data = [(torch.zeros(1), torch.zeros(1))]

    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return (output - y).square().mean()

    fit(torch.nn.Linear(1, 1), data * 2, data, loss=loss, batch=1, steps=1, threads=outside + 1)
    assert seen == [outside + 1, outside + 1], "the step and the evaluation"
    with pytest.raises(InputError, match="threads must be a whole number of at least 1"):
        fit(torch.nn.Linear(1, 1), data, loss=loss, epochs=1, threads=0)


def test_fit_stays_at_one_number_for_the_sake_of_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_counts, "TRIAL_SECONDS", 0.0)
    seen, outside = set(), torch.get_num_threads()

    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return (output - y).square().mean()

    torch.set_num_threads(2)
    try:
        fit(torch.nn.Linear(1, 1), [(torch.zeros(1), torch.zeros(1))], loss=loss, steps=30)
    finally:
        torch.set_num_threads(outside)
    assert seen == {2}


def text(folder: Path) -> ResumableTask:
    return Text(data.Corpus(b"Every step of a long text is like the next. " * 400, "text"), Text.Recipe(steps=6))


def series(folder: Path) -> ResumableTask:
    file = folder / "wave.csv"
    file.write_text("y\n" + "".join(f"{math.sin(n / 5) + n % 7}\n" for n in range(2000)))
    return Series(table.read(file), Series.Recipe(steps=6, hidden=64, batch=64, window=100), ["y"])


def labelled(folder: Path) -> ResumableTask:
    file = folder / "waves.csv"
    rows = (f"{n},{math.sin(n * t / 50)},{n % 3}\n" for n in range(60) for t in range(40 + n))
    file.write_text("of,y,is\n" + "".join(rows))
    return Labelled(table.read(file), Labelled.Recipe(steps=6, hidden=128), Roles("is", "of", None, ("y",)))


@pytest.mark.parametrize("task", [text, series, labelled])
def test_the_weights_of_a_training_do_not_depend_on_the_number_of_threads(
    task: Callable[[Path], ResumableTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(learn: Callable[..., None]) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(Threads, "learn", learn)
        known = task(tmp_path)
        torch.manual_seed(1)
        model = known.network(known.about(), known.recipe)
        known.prepare(model)
        Training(model, known).run(threads=2)
        return model.state_dict()

    number = cycle((1, 2, 3))
    alone = weights(lambda pace, seconds, items: torch.set_num_threads(1))
    changing = weights(lambda pace, seconds, items: torch.set_num_threads(next(number)))
    for name, weight in alone.items():
        assert torch.equal(weight, changing[name]), name


def test_the_judgement_of_a_series_does_not_depend_on_the_number_of_threads() -> None:
    outside, errors = torch.get_num_threads(), torch.rand(20, 4000, 24, dtype=torch.float64)
    errors[:, ::7] = math.nan
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([forecaster.mean_square(each) for each in errors])
    finally:
        torch.set_num_threads(outside)
    assert found == [found[0]] * 3
    assert found[0] == pytest.approx(errors.square().nanmean((1, 2)).tolist(), rel=1e-12)


def test_every_command_that_works_with_torch_takes_a_number_of_threads() -> None:
    """`test_lazy.py` holds that the others import none."""
    group: Any = typer.main.get_command(app)
    with_torch = {
        name for name, command in group.commands.items() if "_begin(threads)" in inspect.getsource(command.callback)
    }
    for name, command in group.commands.items():
        takes = "--threads" in [option for parameter in command.params for option in parameter.opts]
        assert takes == (name in with_torch), name
    assert group.commands.keys() - with_torch == {"derive"}


@pytest.mark.parametrize(("given", "said"), [(["--threads", "1"], "1 thread\n"), ([], "2 threads, 1 while other")])
def test_a_training_says_how_many_threads_it_takes(given: list[str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("A line of text.\n" * 400)
    command = [sys.executable, "-m", "bptt", "train", str(file), "-o", str(tmp_path / "run"), "--steps", "1", *given]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert f"native, {said}" in done.stdout, done.stderr


def test_more_threads_than_cores_are_refused() -> None:
    result = CliRunner().invoke(app, ["trace", "cell", "--threads", "100000"])
    assert result.exit_code == 2
    assert "less than or equal to" in result.output


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_threads_of_a_command_sleep_while_they_wait_unless_the_environment_says_otherwise(
    given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_before", {})
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    startup.begin()
    startup.over()
    assert os.environ["OMP_WAIT_POLICY"] == found
