"""The series task: its parts, its season, what is learnt, what a forecast says, and what each mistake is told."""

import itertools
import math
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from bptt import runs, train
from bptt.errors import InputError, SettingError
from bptt.tasks import Series, backtest, seasons, series, table
from bptt.tasks.backtest import Row
from bptt.tasks.columns import Columns
from bptt.tasks.forecaster import Forecaster
from bptt.tasks.series import Parts, Recipe
from bptt.tasks.spacing import Spacing
from bptt.train import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


def write(file: Path, **columns: Any) -> Path:
    """NaN and None become empty cells."""
    pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None)).write_csv(file)
    return file


def months(count: int) -> list[str]:
    return [f"{1990 + month // 12}-{month % 12 + 1:02}" for month in range(count)]


def airline(count: int = 144) -> np.ndarray:
    t, draw = np.arange(count), np.random.default_rng(0)
    return np.exp(5 + 0.01 * t + 0.1 * np.sin(2 * np.pi * t / 12) + 0.02 * draw.normal(size=count))


def driven(count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """y, and x that decides the next y in a way no linear rule sees."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=count)
    y = np.zeros(count)
    y[1:] = np.abs(x[:-1]) + 0.05 * draw.normal(size=count - 1)
    return y, x


def task(file: Path, targets: str = "y", inputs: str = "", time: str | None = None, **recipe: Any) -> Series:
    return Series(table.read(file), Recipe(**recipe), targets.split(","), inputs.split(",") if inputs else [], time)


def trained(task: Series) -> Forecaster:
    torch.manual_seed(task.recipe.seed)
    model = task.network(task.about(), task.recipe)
    task.prepare(model)
    training = Training(model, task)
    training.run()
    model.load_state_dict(training.best_weights)
    return model.eval()


class TestParts:
    def test_in_the_order_of_time_and_said(self, file: Path) -> None:
        found = task(write(file, date=months(100), y=airline(100)), horizon=3)
        assert found.parts == [Parts(70, 15, 15)]
        assert found.origins.tolist() == list(range(84, 97))
        assert found.recipe.hidden == 16
        assert found.validation_origins.tolist() == list(range(69, 82))
        assert found.about() | {"season": 12, "lags": 0, "base": "", "anchor": ""} == {
            "targets": ["y"], "inputs": [], "time": "date", "spacing": "month", "season": 12, "window": found.window,
            "base": "", "anchor": "", "lags": 0, "gaps": [], "parts": [70, 15, 15], "series": [], "names": [[]],
            "static": [], "further": [], "codings": [],
        }  # fmt: skip

    def test_each_holds_a_horizon(self, file: Path) -> None:
        found = task(write(file, y=airline(100)), horizon=24)
        assert found.parts == [Parts(52, 24, 24)]
        assert len(found.origins) == len(found.validation_origins) == 1

    def test_without_a_test_part(self, file: Path) -> None:
        found = task(write(file, y=airline(100)), test=0.0)
        assert found.parts == [Parts(85, 15, 0)]
        assert len(found.origins) == 0

    def test_missing_rows_and_cells(self, file: Path) -> None:
        y = airline(100)
        y[40:43] = math.nan
        dates = months(100)
        keep = [step for step in range(100) if step not in (20, 21)]
        found = task(write(file, date=[dates[step] for step in keep], y=y[keep]))
        assert found.size == 100
        assert found.panel.values[:, 0].isnan().nonzero()[:, 0].tolist() == [20, 21, 40, 41, 42]
        assert found.fitted.gaps == [0]
        assert found.u.shape[1] == found.network(found.about(), found.recipe).network.rnn.input_size

    def test_rows_without_targets_at_the_end_are_what_is_known_in_advance(self, file: Path) -> None:
        y, x = driven(100)
        y[-7:] = math.nan
        found = task(write(file, y=y, x=x), inputs="x")
        (one,) = found.columns.series
        assert (found.size, one.known, len(one.values)) == (93, 93, 100)
        assert found.parts[0].steps == 93


@pytest.mark.parametrize("gaps", [False, True])
def test_nothing_learnt_depends_on_the_test_part(file: Path, gaps: bool) -> None:
    y, x = driven(200)
    if gaps:
        y[30:35] = math.nan
    models = []
    for change in (0.0, 1e3):
        y[170:] += change
        x[170:] -= change
        models.append(trained(task(write(file, y=y, x=x), inputs="x", epochs=2, hidden=4)))
    one, other = (model.state_dict() for model in models)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_hold_windows_of_the_training_part_and_what_came_next(file: Path) -> None:
    y = airline(100)
    y[50] = math.nan
    found = task(write(file, y=y), horizon=2, batch=4, window=8, base="last", season=12)
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, u: Tensor) -> tuple[Tensor, None]:
            seen.append(u)
            return torch.zeros(*u.shape[:2], 2, requires_grad=True), None

    L, h, items = found.loss(Spy(), 3, None)  # type: ignore[arg-type]
    (u,) = seen
    assert (tuple(u.shape[:2]), h, items) == ((8, 4), None, 6 * 4)
    rows = found.fitted.channels(found.panel.cut(torch.tensor([70])))
    expected, count = 0.0, 0
    for window in u.unbind(1):
        (start,) = (at for at in range(63) if torch.equal(rows[at : at + 8], window))
        for t in range(start + 2, start + 8):
            truth = [(y[t + ahead] - y[t - np.isnan(y[t])]) if t + ahead < 70 else math.nan for ahead in (1, 2)]
            squares = (np.array(truth) / found.panel.sd.item() / found.fitted.left_over.numpy()) ** 2
            expected, count = expected + np.nansum(squares), count + (~np.isnan(squares)).sum()
    assert L.item() == pytest.approx(expected / count, rel=1e-5)


def silent(outputs: int) -> Any:
    """What a network says before it has learnt anything."""
    return lambda u: (torch.zeros(*u.shape[:2], outputs, requires_grad=True), None)


def test_the_base_leaves_a_loss_of_1_however_many_values_are_unknown(file: Path) -> None:
    y = np.random.default_rng(0).normal(size=2000)
    y[1::2] = math.nan
    found = task(write(file, y=y), horizon=4, base="none", window=8)
    losses = [found.loss(silent(4), step, None)[0].item() for step in range(len(found))]
    assert np.mean(losses) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("window", [2, 3, 4])
def test_short_windows_lose_none(file: Path, window: int) -> None:
    found = task(write(file, y=airline(100)), window=window, base="last")
    assert found.ends.tolist() == list(range(window - 1, 70))


def test_the_judges_of_a_long_series_are_of_all_seasons_phases(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MOST_VALIDATION_ORIGINS", 40)
    found = task(write(file, y=np.sin(np.arange(1867) * 2 * np.pi / 7)), season=7)
    assert len(found.validation_origins) == 40
    assert found.validation_origins.diff().min() > 0
    assert found.parts[0].train - 1 <= found.validation_origins[0]
    assert found.validation_origins[-1] < found.parts[0].known - 1
    assert set((found.validation_origins % 7).tolist()) == set(range(7))
    assert torch.equal(task(file, season=7, seed=3).validation_origins, found.validation_origins)


def test_the_judges_of_a_long_series_are_where_something_is_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MOST_VALIDATION_ORIGINS", 4)
    y = airline(200)
    y[141:168] = math.nan
    found = task(write(file, y=y))
    assert found.validation_origins.tolist() == [139, 167, 168]
    assert 0 < found.base_leaves < math.inf


def test_an_epoch_is_shuffled_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, epochs = task(write(file, y=airline(100)), batch=8, window=8), []

    def shuffled(count: int, seed: int, epoch: int) -> list[int]:
        epochs.append(epoch)
        return list(range(count))

    monkeypatch.setattr(train, "shuffled", shuffled)
    for step in range(2 * len(found)):
        found.loss(silent(1), step, None)
    assert epochs == [0, 1]


def test_an_epoch_sees_every_window_once_and_batches_depend_on_seed_and_step_alone(file: Path) -> None:
    found = task(write(file, y=airline(100)), batch=7, window=8)

    def windows(found: Series, epoch: int) -> list[tuple[float, ...]]:
        seen: list[Tensor] = []

        def spy(u: Tensor) -> tuple[Tensor, None]:
            seen.append(u)
            return torch.zeros(*u.shape[:2], 1, requires_grad=True), None

        for place in range(len(found)):
            found.loss(spy, epoch * len(found) + place, None)  # type: ignore[arg-type]
        return [tuple(window.flatten().tolist()) for u in seen for window in u.unbind(1)]

    first, second = windows(found, 0), windows(found, 1)
    assert len(first) == len(set(first)) == len(found.ends)
    assert set(first) == set(second)
    assert first != second
    assert windows(task(file, batch=7, window=8), 1) == second
    assert windows(task(file, batch=7, window=8, seed=1), 1) != second


DAY = 86_400_000_000
SPACINGS = {
    "5 minutes": Spacing("microsecond", DAY // 288), "hour": Spacing("microsecond", DAY // 24),
    "day": Spacing("microsecond", DAY), "weekday": Spacing("weekday", 1), "week": Spacing("microsecond", 7 * DAY),
    "month": Spacing("month", 1), "quarter": Spacing("month", 3), "row": Spacing("row", 1),
}  # fmt: skip
DRIFTS = ("none", "line", "bend", "hump", "walk", "red")
SEASONAL = [
    (spacing, season, steps, noise, drift)
    for spacing, season, lengths in (
        ("5 minutes", 288, (1440,)), ("hour", 24, (216, 960)), ("hour", 168, (672, 1500)), ("day", 7, (60, 365)),
        ("day", 365.25, (1600,)), ("weekday", 5, (60, 500)), ("week", 365.25 / 7, (260,)), ("month", 12, (60, 400)),
        ("quarter", 4, (32, 80)), ("row", 7, (60, 300)), ("row", 24, (150, 600)), ("row", 50, (300, 600)),
    )
    for steps, noise, drift in itertools.product(lengths, (0.0, 0.3, 1.0), DRIFTS)
]  # fmt: skip
SEASONLESS = [
    (spacing, None, steps, noise, drift)
    for spacing, steps, noise, drift in itertools.product(SPACINGS, (60, 200, 1000), (0.05, 1.0), DRIFTS)
]


def found_in(spacing: str, season: float | None, steps: int, noise: float, drift: str, seed: int) -> float | None:
    """The season found in a drift, noise and, where there is one, a season; the true one if it is within 2 %."""
    draw, t = np.random.default_rng(seed), np.arange(steps)
    red = draw.normal(size=steps)
    for step in range(1, steps) if drift == "red" else ():
        red[step] += 0.95 * red[step - 1]
    y = noise * draw.normal(size=steps) + {
        "none": 0 * t, "line": 6 * t / steps, "bend": 6 * (t / steps) ** 2, "hump": 3 * np.sin(8 * t / steps),
        "walk": 3 * draw.normal(size=steps).cumsum() / math.sqrt(steps), "red": red / red.std(),
    }[drift]  # fmt: skip
    if season is not None:
        phase = 2 * np.pi * t / season
        y += [np.sqrt(2) * np.sin(phase), 2 * np.maximum(np.sin(phase), 0.3), np.sin(phase) + np.cos(2 * phase)][
            seed % 3
        ]
    found, _, _ = seasons.find([y], None, SPACINGS[spacing])
    close = found is not None and season is not None and abs(found - season) <= 0.5 + 0.02 * season
    return season if close else found


class TestSeason:
    @pytest.mark.parametrize(
        ("dates", "season", "reason"), [(True, 12, "the calendar's, autocorrelation"), (False, 12, "autocorrelation")]
    )
    def test_found(self, file: Path, dates: bool, season: int, reason: str) -> None:
        columns = {"date": months(144)} if dates else {}
        found = task(write(file, **columns, y=airline()))
        assert found.season == season
        assert found.season_reason.startswith(reason)

    def test_given(self, file: Path) -> None:
        found = task(write(file, date=months(144), y=airline()), season=7)
        assert (found.season, found.season_reason) == (7, "as given")

    def test_several_given(self, file: Path) -> None:
        found = task(write(file, y=airline()), season=(12, 5))
        assert (found.season, found.further, found.about()["further"]) == (12, [5], [5])
        assert found.season_reason == "as given; further seasons: 5 steps"
        read_from_json: Any = [12, 5]
        assert Recipe(season=read_from_json) == Recipe(season=(12, 5))
        with pytest.raises(InputError, match=r"--season 60 does not into its 100 steps"):
            task(file, season=(12, 60))
        with pytest.raises(SettingError, match=r"season must be a whole number of at least 2.*; got 1\."):
            Recipe(season=(12, 1))

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("kind", ["noise", "walk"])
    def test_chance_has_none(self, file: Path, kind: str, seed: int) -> None:
        y = np.random.default_rng(seed).normal(size=400)
        found = task(write(file, date=months(400), y=y.cumsum() if kind == "walk" else y))
        assert found.season is None

    @pytest.mark.parametrize("period", [2, 3, 12, 20, 24, 30, 50])
    def test_a_wave_has_its_period(self, file: Path, period: int) -> None:
        for seed in range(5):
            t, draw = np.arange(400), np.random.default_rng(seed)
            wave = np.cos(2 * np.pi * t / period) + 0.1 * draw.normal(size=400)
            assert task(write(file, y=wave)).season == period

    @pytest.mark.parametrize(("weekend", "season"), [(0, 24), (-30, 168)])
    def test_a_week_of_hours_where_it_explains_more_than_a_day(self, file: Path, weekend: int, season: int) -> None:
        t, draw = np.arange(1200), np.random.default_rng(0)
        hours = [f"{datetime(2026, 1, 1) + timedelta(hours=hour):%Y-%m-%d %H:%M}" for hour in range(1200)]
        y = 20 * np.sin(2 * np.pi * t / 24) + weekend * (t // 24 % 7 >= 5) + 2 * draw.normal(size=1200)
        found = task(write(file, date=hours, y=y))
        assert found.season == season
        assert found.season_reason.startswith("the calendar's")

    def test_a_drift_does_not_move_it(self, file: Path) -> None:
        t, draw = np.arange(4000), np.random.default_rng(0)
        times = [f"{datetime(2026, 1, 1) + timedelta(minutes=5 * int(step)):%Y-%m-%d %H:%M}" for step in t]
        y = 10 * np.sin(2 * np.pi * t / 288) + 40 * np.sin(2 * np.pi * t / 5000) + 0.02 * t + draw.normal(size=4000)
        assert task(write(file, date=times, y=y)).season == 288

    @pytest.mark.parametrize(
        ("spacing", "periods", "season", "beside"),
        [("hour", (24, 168), 168, "24"), ("day", (7, 365.25), 7, "365.25"), ("hour", (24,), 24, ""),
         ("day", (365.25,), 365, "")],
    )  # fmt: skip
    def test_several_of_the_calendar(self, spacing: str, periods: tuple[float, ...], season: int, beside: str) -> None:
        t, draw = np.arange(2000), np.random.default_rng(0)
        y = sum(np.sin(2 * np.pi * t / period) * (4 - n) for n, period in enumerate(periods)) + 0.3 * draw.normal(
            size=2000
        )
        found, further, why = seasons.find([y], None, SPACINGS[spacing])
        assert found == season
        assert further == {"24": [24], "365.25": [364], "": []}[beside]
        assert (f"further seasons: {beside} steps" in why) == bool(beside)

    @pytest.mark.parametrize("periods", [(24, 37), (7, 45), (12,), (5, 17, 60)])
    @pytest.mark.parametrize("seed", range(3))
    def test_several_without_a_calendar(self, periods: tuple[int, ...], seed: int) -> None:
        t, draw = np.arange(1500), np.random.default_rng(seed)
        y = sum(np.sin(2 * np.pi * t / period) / (n + 1) for n, period in enumerate(periods)) + 0.1 * draw.normal(
            size=1500
        )
        season, further, why = seasons.find([y], None, SPACINGS["row"])
        assert sorted([season or 0, *further]) == sorted(periods)
        assert ("further seasons" in why) == (len(periods) > 1)

    def test_found_or_rightly_not_found_in_19_of_20(self) -> None:
        right = [found_in(*case, seed=seed) == case[1] for seed, case in enumerate(SEASONAL)]
        assert np.mean(right) >= 0.95
        none = [found_in(*case, seed=seed) is None for seed, case in enumerate(SEASONLESS)]
        assert np.mean(none) >= 0.95

    def test_a_multiple_is_not_taken_for_it(self, file: Path) -> None:
        t, draw = np.arange(600), np.random.default_rng(0)
        y = np.maximum(np.sin(2 * np.pi * t / 24), 0.3) + 0.1 * draw.normal(size=600)
        assert task(write(file, y=y)).season == 24


class TestLearning:
    def test_what_no_rule_sees(self, file: Path) -> None:
        y, x = driven()
        found = task(write(file, y=y, x=x), inputs="x", epochs=40)
        rows = backtest.run(trained(found), found.panel, found.origins, ["y"]).rows["y"]
        ours, *others = (row.rmse for row in rows)
        assert ours < 0.5 * min(others)

    def test_where_nothing_can_be_learnt_repeating_is_not_much_better(self, file: Path) -> None:
        y = np.random.default_rng(3).normal(size=400).cumsum()
        found = task(write(file, y=y), epochs=8)
        ours, *_, last = backtest.run(trained(found), found.panel, found.origins, ["y"]).rows["y"]
        assert ours.rmse < 1.06 * last.rmse

    def test_weights_are_never_worse_than_the_base_in_validation(self, file: Path) -> None:
        found = task(write(file, y=np.random.default_rng(3).normal(size=200)), epochs=2, lr=0.5)
        model = trained(found)
        best = model.fit_trust(found.u, found.known, found.rest, found.validation_origins)
        torch.nn.init.zeros_(model.network.readout.weight)
        torch.nn.init.zeros_(model.network.readout.bias)
        assert best <= model.fit_trust(found.u, found.known, found.rest, found.validation_origins)

    def test_several_targets_with_gaps(self, file: Path) -> None:
        y, x = driven(300)
        z = np.roll(y, 1) * 100 + 5
        y[::9] = z[4::11] = x[5::7] = math.nan
        found = task(write(file, y=y, z=z, x=x), "z,y", "x", horizon=3, epochs=3)
        rows = backtest.run(trained(found), found.panel, found.origins, ["z", "y"]).rows
        assert set(rows) == {"z", "y"}
        assert all(math.isfinite(row.rmse) for row in itertools.chain(*rows.values()))


def test_backtest_against_a_plain_loop(file: Path) -> None:
    y = airline()
    y[130] = math.nan
    found = task(write(file, date=months(144), y=y), horizon=3, epochs=1)
    model = trained(found)
    result = backtest.run(model, found.panel, found.origins, ["y"])
    assert (result.origins, result.horizon) == (20, 3)
    assert [row.name for row in result.rows["y"]] == ["bptt", "linear", "seasonal-naive", "repeat-last"]
    ours, _, seasonal, last = result.rows["y"]
    known = np.where(np.isnan(y), np.roll(y, 1), y)
    for row, rule in (
        (last, lambda t, ahead: known[t]),
        (seasonal, lambda t, ahead: known[t + ahead - 12]),
        (
            ours,
            lambda t, ahead: float(
                model.forecasts(found.panel.cut(torch.tensor([t + 1])), torch.tensor([t]))[0, ahead - 1, 0]
            ),
        ),
    ):
        missed = np.array([[rule(t, ahead) - y[t + ahead] for ahead in (1, 2, 3)] for t in range(121, 141)])
        missed = np.where(np.isnan(y[[[t + ahead for ahead in (1, 2, 3)] for t in range(121, 141)]]), np.nan, missed)
        assert row.rmse == pytest.approx(np.sqrt(np.nanmean(missed**2)), rel=1e-5)
        assert row.mae == pytest.approx(np.nanmean(abs(missed)), rel=1e-5)
        assert row.rmse_by_horizon == pytest.approx(np.sqrt(np.nanmean(missed**2, 0)), rel=1e-5)
        assert row.mae_by_horizon == pytest.approx(np.nanmean(abs(missed), 0), rel=1e-5)
    ratio = result.as_json()["targets"]["y"]["seasonal-naive"]["mae_ratio"]
    assert ratio == pytest.approx(seasonal.mae / last.mae)
    better = [row.name for row in result.rows["y"][1:] if ours.rmse > 1.01 * row.rmse or ours.mae > 1.01 * row.mae]
    said = [line for line in result.losses() if "better" in line]
    assert [line.split(" is better than the network: ")[0] for line in said] == [f"On y, {name}" for name in better]


@pytest.mark.parametrize(
    ("rmse", "mae", "said"),
    [
        (400.0, 250.0, ["On y, linear is better than the network: RMSE 400 against the network's 436.3."]),
        (435.2, 299.0, ["On y, linear is level with the network: RMSE 435.2 against the network's 436.3, MAE 299 "
                        "against the network's 300."]),
        (435.2, 350.0, []),
        (500.0, 299.0, []),
    ],
)  # fmt: skip
def test_behind_is_what_is_more_than_noise(rmse: float, mae: float, said: list[str]) -> None:
    rows = [Row("bptt", 436.3, 300.0 if mae > 260 else 250.0, [], []), Row("linear", rmse, mae, [], [])]
    assert backtest.Backtest(1, 1, {"y": rows}, {}).losses() == said


def said_by(model: Forecaster, found: Columns, steps: int) -> dict[str, dict[str, np.ndarray]]:
    ((_, said),) = series.forecast(model, found, steps)
    return said


class TestForecast:
    def test_within_and_beyond_the_horizon(self, file: Path) -> None:
        found = task(write(file, date=months(144), y=airline()), horizon=4, epochs=2)
        model = trained(found)
        said = said_by(model, found.columns, 10)["y"]
        now = found.panel.values
        expected = []
        for steps in (4, 4, 2):
            block = model.forecasts(model.panel([now]), torch.tensor([len(now) - 1]))[0]
            expected += block[:steps, 0].tolist()
            now = torch.cat((now, block))
        assert said["forecast"].tolist() == pytest.approx(expected, rel=1e-6)
        shorter = said_by(model, found.columns, 3)["y"]
        assert shorter["forecast"].tolist() == pytest.approx(expected[:3], rel=1e-6)
        assert (said["low"] <= said["forecast"]).all()
        assert (said["forecast"] <= said["high"]).all()
        width = said["high"] - said["low"]
        assert width[7] == pytest.approx(width[3] * math.sqrt(2))

    def test_the_band_holds_four_fifths_of_what_happened_in_validation(self, file: Path) -> None:
        y, x = driven()
        found = task(write(file, y=y, x=x), inputs="x", epochs=3)
        model = trained(found)
        said = said_by(model, found.columns, 1)["y"]
        width = said["high"][0] - said["forecast"][0]
        assert said["forecast"][0] - said["low"][0] == pytest.approx(width)
        missed = (
            found.panel.values[found.validation_origins + 1, 0]
            - model.forecasts(found.panel, found.validation_origins)[:, 0, 0]
        )
        assert float((missed.abs() < width).double().mean()) == pytest.approx(0.8, abs=0.03)

    def test_inputs_must_be_known_beyond_the_horizon(self, file: Path) -> None:
        y, x = driven(120)
        write(file, y=y, x=x)
        found = task(file, inputs="x", horizon=4, epochs=1)
        model = trained(found)
        assert len(said_by(model, found.columns, 4)["y"]["forecast"]) == 4
        with pytest.raises(InputError, match=r"beyond the horizon of 4 .* inputs \(x\) .* needs 4 rows .* has 0\."):
            series.forecast(model, found.columns, 5)
        known = y.copy()
        known[-9:] = math.nan
        about = found.about()
        ahead = series.read_again(table.read(write(file, y=known, x=x)), about)
        said = said_by(model, ahead, 12)["y"]["forecast"]
        changed = series.read_again(table.read(write(file, y=known, x=np.where(np.arange(120) > 110, 9.0, x))), about)
        assert not np.allclose(said[4:], said_by(model, changed, 12)["y"]["forecast"][4:])
        with pytest.raises(InputError, match=r"needs 12 rows .* has 9\. Add them, ask for at most 12 steps"):
            series.forecast(model, ahead, 13)

    def test_another_series_must_be_spaced_alike_and_long_enough(self, file: Path) -> None:
        about = task(write(file, date=months(144), y=airline())).about()
        daily = write(file, date=[f"2020-01-{day:02}" for day in range(1, 32)], y=airline(31))
        with pytest.raises(InputError, match=r"as far apart as those trained on, month; in .* they are day"):
            series.read_again(table.read(daily), about)
        short = write(file, date=months(20), y=airline(20))
        with pytest.raises(InputError, match=r"reads the last \d+ steps; .* has 20"):
            series.read_again(table.read(short), about)


def test_rows_that_were_said_to_be_even_steps_stay_so(file: Path) -> None:
    frame = write(file, date=months(60)[::-1], y=airline(60))
    assert task(frame).series[0].timeline.order == "newest first"
    assert np.array_equal(task(frame).panel.values[:, 0], airline(60)[::-1])
    found = task(frame, time="none")
    assert found.series[0].timeline.column is None
    assert found.about()["time"] == "none"
    again = series.read_again(table.read(frame), found.about())
    assert (again.time, again.series[0].known) == ("none", 60)
    assert task(write(file, y=airline(60))).about()["time"] is None
    old = {**found.about(), "time": None}
    assert series.read_again(table.read(frame), old).series[0].timeline.column is None
    assert Series.again(old, found.recipe, str(frame)).series[0].timeline.column is None
    assert task(write(file, none=airline(60)), "none", time="none").about()["targets"] == ["none"]


def test_runs_of_earlier_versions_still_forecast_and_go_on(file: Path) -> None:
    y, x = driven(200)
    found = task(write(file, y=y, x=x), inputs="x", horizon=2)
    old = {name: of for name, of in found.about().items() if name not in NEWER}
    model = trained(found)
    before = Series.network(old, found.recipe)
    before.load_state_dict(model.state_dict())
    assert Series.again(old, found.recipe, str(file)).about() == {**found.about(), "time": "none"}
    read = series.read_again(table.read(file), old)
    assert said_by(before.eval(), read, 2)["y"]["forecast"].tolist() == (
        said_by(model, found.columns, 2)["y"]["forecast"].tolist()
    )


NEWER = ("codings", "series", "names", "static", "further")  # of `Series.about`, with several series and seasons


def test_a_run_is_saved_resumed_to_the_bit_and_loaded(file: Path, tmp_path: Path) -> None:
    y, x = driven(200)
    y[20:23] = math.nan
    found = task(write(file, y=y, x=x), inputs="x", horizon=2, epochs=4, hidden=5)
    run, whole = runs.start(tmp_path / "whole", found)
    whole.run(watch=run.watch, save=run.save)
    run, first = runs.start(tmp_path / "parts", task(file, inputs="x", horizon=2, epochs=4, hidden=5))
    first.run(watch=run.watch, save=run.save, should_stop=lambda: first.step >= 5)
    run, rest = runs.resume(tmp_path / "parts")
    rest.run(watch=run.watch, save=run.save)
    assert whole.tensors().keys() == rest.tensors().keys()
    assert all(torch.equal(tensor, rest.tensors()[name]) for name, tensor in whole.tensors().items())
    settings, model = runs.load(tmp_path / "parts")
    assert settings.about == found.about()
    assert asdict(settings.recipe) == asdict(found.recipe)
    whole.model.load_state_dict(whole.best_weights)
    assert torch.equal(
        model.forecasts(found.panel, found.origins), whole.model.eval().forecasts(found.panel, found.origins)
    )


N = list(range(60))
MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "target": ({"y": N}, {"targets": "z"}, r"one of the table's: y; got 'z'"),
    "input": ({"y": N}, {"inputs": "z"}, r"one of the table's: y; got 'z'"),
    "time": ({"y": N}, {"time": "when"}, r"one of the table's: y; got 'when'"),
    "twice": ({"y": N}, {"inputs": "y"}, r"target or an input, once; 'y' was named 2 times"),
    "both": ({"y": N}, {"time": "y"}, r"neither target nor input; got 'y' as both"),
    "text": ({"y": [*N, "high"]}, {}, r"'y' must hold numbers; line 62 of .* has 'high'"),
    "both of several": ({"y": N}, {"time": "x,y"}, r"neither target nor input; got 'y' as both"),
    "duplicate": ({"t": [*N[:-1], 58], "y": N}, {}, r"may occur once; line 61 of .* and so has line 60"),
    "empty": ({"y": N, "x": [None] * 60}, {"inputs": "x"}, r"'x' must hold numbers; all 60 cells of .* are empty"),
    "nothing known": ({"y": [math.nan] * 60}, {}, r"'y' must hold numbers; all 60 cells"),
    "nothing known in training": ({"y": [math.nan] * 45 + N[:15]}, {}, r"at least 8 known values .* 'y' has 0 in"),
    "nothing known in validation": (
        {"t": N, "y": N[:40] + [math.nan] * 14 + N[:6]}, {},
        r"known somewhere in the validation part, which .*; 'y' is missing in all of its 9 steps, 42 to 50 "
        r"\(line 44 to line 52 of .*\)\. Nothing is left to judge by: .* --validation\.",
    ),
    "one of two in validation": (
        {"y": N, "z": N[:40] + [math.nan] * 14 + N[:6]}, {"targets": "y,z"}, r"validation part, .*; 'z' is missing in",
    ),
    "no rows in validation": (
        {"t": [*N[:40], *range(54, 60)], "y": N[:46]}, {}, r"steps, 42 to 50 \(no row of .*\)\. Nothing is left",
    ),
    "nothing known in test": (
        {"y": N, "z": N[:50] + [math.nan] * 10}, {"targets": "y,z"},
        r"in the test part, which says how good .*; 'z' is missing in all of its 9 steps, 52 to 60 "
        r"\(line 53 to line 61 of .* --test \(0: no test part\)",
    ),
    "constant": ({"y": [5] * 60}, {}, r"must vary in the training part; 'y' is 5 in all of its first 42 steps"),
    "constant in training": ({"y": [5] * 50 + N[:10]}, {}, r"must vary in the training part; 'y' is 5"),
    "one row": ({"y": [1]}, {}, r"each hold a horizon, the first 8 steps more; the series has 1 steps .* Give"),
    "few rows": ({"y": N[:9]}, {}, r"the series has 9 steps and the horizon is 1\. Give a longer series\."),
    "horizon": ({"y": N}, {"horizon": 200}, r"has 60 steps and the horizon is 200\. .* --horizon 17,"),
    "season": ({"y": N}, {"season": 22}, r"fit twice into the training part; --season 22 does not into its 42 steps"),
    "window": ({"y": N}, {"window": 42}, r"--window 42 and --horizon 1 do not fit into its 42 steps\. Use --window 41"),
    "base": ({"y": N}, {"base": "mean"}, r"base must be one of auto, none, last, season, linear; got 'mean'"),
    "no season": ({"y": N}, {"base": "season"}, r"base 'season' needs a season, and none was found: .* --season"),
    "parts": ({"y": N}, {"validation": 0.5, "test": 0.4}, r"together less than 0\.9 .*; got 0\.5 and 0\.4"),
    "validation": ({"y": N}, {"validation": 0.0}, r"validation must be above 0"),
    "horizon 0": ({"y": N}, {"horizon": 0}, r"horizon must be a whole number of at least 1; got 0"),
    "season 1": ({"y": N}, {"season": 1}, r"season must be a whole number of at least 2; got 1"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(file: Path, mistake: str) -> None:
    columns, options, message = MISTAKES[mistake]
    longest = max(map(len, columns.values()))
    padded = {name: [*map(str, cells), *[""] * (longest - len(cells))] for name, cells in columns.items()}
    padded = {name: ["" if cell in ("None", "nan") else cell for cell in cells] for name, cells in padded.items()}
    with pytest.raises(InputError, match=message):
        task(write(file, **padded), **options)


def test_a_training_that_an_earlier_version_began_otherwise_is_not_resumed(file: Path) -> None:
    path = write(file, y=np.arange(200.0) % 7)
    task = Series(table.read(path), Series.Recipe(), ["y"], [], "none")
    assert Series.again(task.about(), task.recipe, str(path)).about() == task.about()
    for name, other in {"season": None, "window": 9, "lags": 3}.items():
        with pytest.raises(InputError, match=rf"goes on as it began, with {name} {other}; .* finds {name} "):
            Series.again({**task.about(), name: other}, task.recipe, str(path))
