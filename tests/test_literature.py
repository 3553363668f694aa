"""The tasks of benchmarks/literature: what they generate, what they measure, and that a short run goes through."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.literature import adding, gates, jsb, shakespeare, sunspots
from benchmarks.literature.outcome import mean_and_spread
from bptt.tasks import Text, data


def chorales(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(length, jsb.KEYS, generator=generator) < 0.05).float() for length in lengths]


def test_the_chorales_figure_is_nats_per_predicted_step_whatever_the_lengths() -> None:
    pieces = chorales(9, 4, 6)
    torch.manual_seed(0)
    model = jsb.initial(pieces)
    nats, steps = 0.0, 0
    with torch.no_grad():
        for piece in pieces:
            y_hat, _ = model.predict(piece[:-1, None])
            nats += float(F.binary_cross_entropy(y_hat[:, 0], piece[1:], reduction="sum"))
            steps += len(piece) - 1
        x, y = jsb.inputs_and_targets(pieces)
        assert jsb.negative_log_likelihood(jsb.outputs(model, x), y) == pytest.approx(nats / steps, rel=1e-6)


def test_a_dropped_share_of_the_recurrence_is_gone_from_the_pass_and_the_weights_stay() -> None:
    pieces = chorales(9, 4)
    model = jsb.initial(pieces)
    x, _ = jsb.inputs_and_targets(pieces)
    weight = model.rnn.get_parameter("weight_hh_l0")
    before = weight.detach().clone()
    plain = jsb.outputs(model, x)
    jsb.outputs(model, x, dropped=0.5).sum().backward()
    torch.testing.assert_close(jsb.outputs(model, x), plain, rtol=0, atol=0)
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=0)
    assert weight.grad is not None
    assert 0.3 < float((weight.grad == 0).float().mean()) < 0.7


def test_the_test_part_is_read_with_the_weights_best_on_the_validation_part() -> None:
    parts: dict[str, jsb.Pieces] = {"training": chorales(12, 7, 9), "validation": chorales(8), "test": chorales(8)}
    run = jsb.train(parts, seed=0, epochs=3)
    assert math.isfinite(run.training)
    assert run.validation == run.test
    assert run.o.shape == (7, jsb.KEYS)


@pytest.mark.parametrize("T", [3, 7, 10])
def test_adding_marks_one_step_of_each_half_and_asks_for_their_sum(T: int) -> None:
    x, y = adding.sequences(50, T, torch.Generator().manual_seed(0))
    numbers, marks = x.unbind(-1)
    assert x.shape == (T, 50, 2)
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    assert set(marks.unique().tolist()) == {0.0, 1.0}
    assert (marks[: T // 2].sum(0) == 1).all()
    assert (marks[T // 2 :].sum(0) == 1).all()
    torch.testing.assert_close(y[:, 0], (numbers * marks).sum(0))


def test_adding_begins_with_the_identity_without_drift_and_ends_after_the_updates_given() -> None:
    network = adding.Adder()
    torch.testing.assert_close(
        network.rnn.get_parameter("weight_hh_l0").detach(), torch.eye(adding.HIDDEN), rtol=0, atol=0
    )
    drift = network.rnn(torch.tensor([[[0.5, 0.0]]]).expand(400, 1, 2))[0].abs().max()
    assert float(drift.detach()) < 1e-4
    run = adding.train(4, seed=0, most_updates=5)
    assert run.updates == 5
    assert math.isfinite(run.test)


def test_text_is_cut_into_parts_that_follow_each_other() -> None:
    recipe = Text.Recipe(bptt=10, streams=2, held_out=0.05 / 0.9)
    task, test = shakespeare.parts(data.Corpus(b"abcde" * 39 + b"abcdf", "none"), recipe)
    assert (task.size, len(task.held_out), len(test)) == (180, 10, 20)
    assert task.vocabulary.symbols == tuple("abcdef")
    assert task.held_out.tolist() == [0, 1, 2, 3, 4] * 2
    assert test.tolist() == [0, 1, 2, 3, 4] * 3 + [0, 1, 2, 3, 5]


def test_both_trainings_on_text_start_alike_and_stay_close() -> None:
    recipe = Text.Recipe(hidden=8, layers=2, bptt=10, streams=3, epochs=1)
    task, test = shakespeare.parts(data.Corpus(b"to be or not to be " * 40, "none"), recipe)
    both = shakespeare.trainings(task)
    shakespeare.in_turns(both)
    assert all(training.finished == "finished" for training in both.values())
    ours, theirs = (shakespeare.bits_on_test(training, test) for training in both.values())
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_forecasts_are_judged_only_by_what_lies_in_the_part() -> None:
    series = np.arange(40.0)
    forecasts = sunspots.repeat_last(series, 20)
    found = sunspots.errors(forecasts, series, 20, 35)
    assert found.one == pytest.approx(1)
    assert found.twelve == pytest.approx(12)
    assert found.to_twelve == pytest.approx(math.sqrt(np.mean(np.arange(1, 13) ** 2)))
    spoilt = forecasts.copy()
    spoilt[:19] = spoilt[34:] = math.nan
    assert sunspots.errors(spoilt, series, 20, 35) == found


def test_naive_forecasts_say_what_they_promise() -> None:
    years = np.arange(80)
    cycle = np.sin(years * 2 * math.pi / sunspots.CYCLE)
    exact = sunspots.errors(sunspots.seasonal(cycle, 60), cycle, 60, 80)
    assert exact.one == pytest.approx(0, abs=1e-12)
    assert exact.twelve == pytest.approx(0, abs=1e-12)
    assert sunspots.mean(years.astype(float), 3)[50].tolist() == [1.0] * sunspots.HORIZON
    linear = sunspots.errors(sunspots.autoregression(cycle, 60), cycle, 60, 80)
    assert linear.twelve == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "forecast",
    [
        *sunspots.NAIVE.values(),
        lambda series, known: sunspots.network(series, known, 0),
        lambda series, known: sunspots.series_task(series, known, sunspots.HORIZON, 0),
    ],
)
def test_no_forecast_is_fitted_on_the_part_it_is_judged_by(
    forecast: Callable[[sunspots.Series, int], sunspots.Series],
) -> None:
    series = np.random.default_rng(0).uniform(1, 100, 80)
    other = series.copy()
    other[60:] = 7.0
    found = forecast(series, 60)
    assert np.isfinite(found[59]).all()
    np.testing.assert_allclose(found[20:60], forecast(other, 60)[20:60])


def test_targets_of_the_network_end_with_what_is_known() -> None:
    z = torch.arange(30.0)
    y = sunspots.targets(z, 20)
    assert y.shape == (30, 1, sunspots.HORIZON)
    assert y[3, 0].tolist() == list(range(4, 16))
    assert y[10, 0, :9].tolist() == list(range(11, 20))
    assert y[10, 0, 9:].isnan().all()
    assert y[19:].isnan().all()


def test_the_spread_is_over_seeds() -> None:
    assert mean_and_spread([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert mean_and_spread([1.0], 1) == "1.0"


def tasks_of_gates(place: Path) -> dict[str, gates.Task]:
    """One of each kind, short."""
    draw = np.random.default_rng(0)
    text = place / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 400)
    numbers = place / "numbers.csv"
    numbers.write_text("Y\n" + "\n".join(f"{y:.3f}" for y in np.sin(np.arange(400) / 3) + 0.1 * draw.normal(size=400)))
    for name in ("train.ts", "test.ts"):
        rows = [
            ":".join(",".join(f"{v:.2f}" for v in k % 3 + draw.normal(size=5 + k % 4)) for _ in range(2)) + f":{k % 3}"
            for k in range(24)
        ]
        (place / name).write_text("#about\n@data\n" + "\n".join(rows))
    pieces = chorales(9, 4, 6)
    a_part = jsb.inputs_and_targets(pieces)
    return {
        "chorales": gates.Task(
            "", "", jsb.KEYS, jsb.KEYS, 24, 2, lambda: iter([a_part]), a_part, a_part,
            lambda o, y: F.binary_cross_entropy_with_logits(o, y), jsb.negative_log_likelihood,
        ),
        "characters": gates.characters(str(text)),
        "vowels": gates.vowels(str(place / "train.ts"), str(place / "test.ts")),
        "series": gates.series(str(numbers), "Y"),
    }  # fmt: skip


@pytest.mark.parametrize("name", gates.TASKS)
@pytest.mark.parametrize("cell", gates.CELLS)
def test_cells_of_equal_size_learn_the_same_with_our_layers_and_torchs(cell: str, name: str, tmp_path: Path) -> None:
    task = replace(tasks_of_gates(tmp_path)[name], hidden=48, epochs=2)
    weights = gates.weights_of(cell, task, gates.units_of(cell, task))
    assert weights == pytest.approx(gates.weights_of("plain", task, 48), rel=0.05)
    runs = gates.runs_of(task, cell, ["bptt", "torch"], 1e-3, seed=0)
    model = runs["bptt"].model
    assert weights == sum(p.numel() for p in model.parameters())
    figures = [(run.best, run.read(task, task.test)) for run in runs.values()]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)
    assert all(map(math.isfinite, figures[0]))
