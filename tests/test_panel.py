"""Several series in one table: told apart, learnt from together, forecast and judged one by one."""

import json
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from commands import bptt

from bptt.errors import InputError
from bptt.tasks import Series, backtest, forecaster, series, table, timeline
from bptt.tasks.forecaster import Forecaster, Panel
from bptt.tasks.series import Parts, Recipe
from bptt.train import Training


def waves(names: str = "ABC", steps: int = 80, shift: int = 5) -> pl.DataFrame:
    """Series of a week and noise, each of its own size, the later ones shorter."""
    draw, frames = np.random.default_rng(0), []
    for place, name in enumerate(names):
        t = np.arange(shift * place, steps)
        y = 10.0**place * (5 + np.sin(2 * np.pi * t / 7) + 0.3 * draw.normal(size=len(t)))
        days = [str(date(2024, 1, 1) + timedelta(days=int(day))) for day in t]
        frames.append(pl.DataFrame({"day": days, "shop": name, "y": y, "size": float(place), "kind": "ab"[place % 2]}))
    return pl.concat(frames)


def task(frame: pl.DataFrame, file: Path, inputs: tuple[str, ...] = (), **recipe: Any) -> Series:
    frame.write_csv(file)
    options = {"epochs": 1, "horizon": 2, **recipe}
    return Series(table.read(file), Recipe(**options), ["y"], inputs, series=["shop"])


def untrained(of: Series, seed: int | None = None) -> Forecaster:
    """The network of a task, which says nothing, or with a seed something."""
    torch.manual_seed(seed or 0)
    model = of.network(of.about(), of.recipe)
    of.prepare(model)
    if seed is not None:
        torch.nn.init.normal_(model.network.readout.weight)
    return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "panel.csv"


def test_each_has_its_own_steps_parts_and_scale(file: Path) -> None:
    found = task(waves(), file)
    assert [one.name for one in found.series] == [("A",), ("B",), ("C",)]
    assert found.parts == [Parts(56, 12, 12), Parts(53, 11, 11), Parts(50, 10, 10)]
    assert found.size == 225
    for place, one in enumerate(found.series):
        part = one.values[: found.parts[place].train]
        torch.testing.assert_close(found.panel.mean[place], part.nanmean(0))
        torch.testing.assert_close(found.panel.sd[place], torch.from_numpy(part.numpy().std(0)))
    ends = found.panel.lengths.cumsum(0).tolist()
    expected = [range(end - steps - 1, end - 2) for end, steps in zip(ends, (12, 11, 10), strict=True)]
    assert found.origins.tolist() == [step for steps in expected for step in steps]


def test_rows_may_stand_in_any_order(file: Path) -> None:
    one = task(waves(), file)
    other = task(waves().sample(fraction=1, shuffle=True, seed=1).sort("shop", maintain_order=True), file)
    assert [of.name for of in other.series] == [of.name for of in one.series]
    assert torch.equal(one.panel.values, other.panel.values)
    assert [of.timeline.order != "" for of in other.series] == [True] * 3


def test_windows_and_what_comes_next_stay_within_a_series(file: Path) -> None:
    found = task(waves(steps=60, shift=21), file, window=30, base="last", validation=0.05, test=0.05)
    panel, train = found.known, [of.train for of in found.parts]
    assert train == [54, 35, 14]
    seen: list[torch.Tensor] = []

    def spy(u: torch.Tensor) -> tuple[torch.Tensor, None]:
        seen.append(u)
        return torch.zeros(*u.shape[:2], 2, requires_grad=True), None

    model: Any = spy
    squares, count = 0.0, 0
    for step in range(len(found)):
        loss, _, _ = found.loss(model, step, None)
        known = int((~found._wanted_in(found._chosen(step)).isnan()).sum())
        squares, count = squares + float(loss.detach()) * known, count + known
    assert sorted(found.ends.tolist()) == sorted(
        begin + end
        for begin, steps in zip((0, *panel.lengths.cumsum(0).tolist()), train, strict=False)
        for end in range(min(30, steps) - 1, steps)
    )
    rule = found.fitted.rule(panel, torch.arange(len(panel)))
    expected, number = 0.0, 0
    for end in found.ends.tolist():
        begin = int(panel.begin[end])
        for step in range(max(begin, end - 22), end + 1):
            for ahead in (1, 2):
                at = step + ahead
                if step - begin < found.fitted.blind or at - begin >= train[int(panel.number[end])]:
                    continue
                place = int(panel.number[end])
                truth = (panel.values[at, 0] - panel.mean[place, 0]) / panel.sd[place, 0]
                expected += float(((truth - rule[step, ahead - 1]) / found.fitted.left_over[ahead - 1]) ** 2)
                number += 1
    assert count == number
    assert squares == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("base", [*forecaster.BASES, None])
def test_a_forecast_reads_its_own_series_alone(file: Path, base: forecaster.Base | None) -> None:
    frame = waves().with_columns(y=pl.when(pl.col("day").is_in(["2024-01-06", "2024-01-07"])).then(None).otherwise("y"))
    found = task(frame, file)
    model = untrained(found, seed=3)
    at = torch.tensor([81, 90, 100, 150])  # of B, whose first values are unknown
    before = model.forecasts(found.panel, at, base)
    changed = found.panel.values.clone()
    changed[:80] = 1e6
    changed[155:] = math.nan
    panel = Panel(changed, found.panel.lengths, found.panel.mean, found.panel.sd)
    assert torch.equal(model.forecasts(panel, at, base), before)
    alone = Panel(changed[80:155], torch.tensor([75]), panel.mean[1:2], panel.sd[1:2])
    assert torch.allclose(model.forecasts(alone, at - 80, base), before, rtol=1e-6)


def test_forecasts_grow_with_the_size_of_a_series(file: Path) -> None:
    one = task(waves(), file)
    grown = task(waves().with_columns(y=pl.when(pl.col("shop") == "B").then(pl.col("y") * 8).otherwise("y")), file)
    assert (one.season, one.fitted.base, one.fitted.lags) == (grown.season, grown.fitted.base, grown.fitted.lags)
    told, of_grown = (series.forecast(untrained(of), of.columns, 2, of.about()["names"]) for of in (one, grown))
    for (name, said), (_, other), factor in zip(told, of_grown, (1, 8, 1), strict=True):
        for key in ("forecast", "low", "high"):
            np.testing.assert_allclose(other["y"][key], factor * said["y"][key], rtol=1e-6, err_msg=str(name))


def test_the_same_series_several_times_is_fitted_as_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecaster, "_choices_of_lags", lambda *_: [4])
    one = waves("A").drop("shop")
    several = task(pl.concat([one.with_columns(shop=pl.lit(name)) for name in "ABC"]), file)
    alone = Series(table.read(file_of(one, file)), Recipe(epochs=1, horizon=2), ["y"])
    assert (several.season, several.fitted.base, several.fitted.lags) == (7, alone.fitted.base, alone.fitted.lags)
    for name in ("weight", "bias", "low", "high", "left_over"):
        torch.testing.assert_close(getattr(several.fitted, name), getattr(alone.fitted, name), rtol=1e-6, atol=1e-9)
    assert several.errors == pytest.approx(alone.errors)


def file_of(frame: pl.DataFrame, file: Path) -> Path:
    frame.write_csv(file)
    return file


def test_a_backtest_is_of_each_and_of_all(file: Path) -> None:
    found = task(waves(), file)
    model = untrained(found)
    result = backtest.run(model, found.panel, found.origins, ["y"], [one.name for one in found.series])
    squares, count = 0.0, 0
    for place, one in enumerate(found.series):
        y, known = one.values[:, 0].numpy(), found.parts[place].known
        missed = np.array([[y[t] - y[t + ahead] for ahead in (1, 2)] for t in range(known - 1, len(y) - 2)])
        (last,) = (row for row in result.of_series[one.name].rows["y"] if row.name == "repeat-last")
        assert last.rmse == pytest.approx(np.sqrt(np.mean(missed**2)))
        assert last.mae == pytest.approx(np.mean(abs(missed)))
        squares += np.sum((missed / y[: found.parts[place].train].std()) ** 2)
        count += missed.size
    (last,) = (row for row in result.rows["y"] if row.name == "repeat-last")
    assert last.rmse == pytest.approx(math.sqrt(squares / count))
    facts = result.as_json()
    assert [of["name"] for of in facts["series"]] == [["A"], ["B"], ["C"]]
    assert facts["units"] == "standard deviations of the training part of each series"
    assert result.origins == sum(of.origins for of in result.of_series.values())


def test_inputs_that_are_the_same_within_a_series_are_scaled_over_all(file: Path) -> None:
    found = task(waves(), file, inputs=("size", "kind"))
    assert found.columns.names == ["y", "size", "kind=a", "kind=b"]
    assert found.columns.static == [1, 2, 3]
    sizes = [set(found.u[found.known.number == place, 1].tolist()) for place in range(3)]
    assert [len(of) for of in sizes] == [1, 1, 1]
    assert len(set.union(*sizes)) == 3
    moving = waves().with_columns(size=pl.col("y") * 2)
    assert task(moving, file, inputs=("size",)).columns.static == []


def test_series_that_cannot_be_learnt_from_are_left_out_and_forecast_all_the_same(file: Path) -> None:
    frame = waves("ABCDE", steps=60, shift=12)  # E has 12 steps
    flat = waves("F", steps=40).with_columns(y=pl.lit(3.0), shop=pl.lit("F"))
    found = task(pl.concat([frame, flat]), file)
    assert [one.name for one in found.series] == [("A",), ("B",), ("C",), ("D",)]
    flaws = {str(one): str(flaw) for one, flaw in found.left_out}
    assert flaws["E"].startswith("The training, validation and test part must each hold a horizon")
    assert flaws["F"].startswith("A target must vary in the training part; 'y' is 3")
    said = series.forecast(untrained(found), found.columns, 2, found.about()["names"])
    assert [one.name[0] for one, _ in said] == list("ABCDEF")
    assert all(np.isfinite(of["y"]["forecast"]).all() for _, of in said)
    assert abs(said[-1][1]["y"]["forecast"] - 3).max() < 3
    with pytest.raises(InputError, match=r"None of the 2 series can be learnt from\. Of A, the longest: The training"):
        task(waves("AB", steps=10, shift=1), file)


def test_another_table_may_hold_other_series(file: Path) -> None:
    found = task(waves(), file)
    model, about = untrained(found), found.about()
    other = waves("Z").with_columns(y=100 * pl.col("y"))
    read = series.read_again(table.read(file_of(pl.concat([waves("A"), other]), file)), about)
    (_, of_a), (_, of_z) = series.forecast(model, read, 2, about["names"])
    np.testing.assert_allclose(of_z["y"]["forecast"], 100 * of_a["y"]["forecast"], rtol=0.1)


def test_what_is_static_is_what_it_was_in_training(file: Path) -> None:
    frame = waves().with_columns(x=pl.col("y") * 2 + 1)
    found = task(frame, file, inputs=("x", "size"))
    assert found.columns.static == [2]
    model, about = untrained(found), found.about()
    new = frame.filter(shop="A").with_columns(shop=pl.lit("D"), y=pl.col("y") + 5000, x=pl.lit(500.3), size=pl.col("y"))
    read = series.read_again(table.read(file_of(new, file)), about)
    assert read.static == [2]
    ((_, said),) = series.forecast(model, read, 2, about["names"])
    assert abs(said["y"]["forecast"] - 5005).max() < 5
    with pytest.raises(InputError, match=r"must know the inputs \(x\) in advance"):
        series.forecast(model, read, 5, about["names"])


def test_a_new_series_needs_some_known_values(file: Path) -> None:
    found = task(waves(), file)
    model, about = untrained(found), found.about()
    few = waves("D", steps=7)
    read = series.read_again(table.read(file_of(pl.concat([waves(), few.with_columns(shop=pl.lit("D"))]), file)), about)
    assert [one.name[0] for one, _ in series.forecast(model, read, 2, about["names"])] == list("ABC")
    read = series.read_again(table.read(file_of(few.with_columns(shop=pl.lit("D")), file)), about)
    with pytest.raises(InputError, match=r"at least 8 known values of each target; none of the 1 has"):
        series.forecast(model, read, 2, about["names"])


def test_a_grid_that_one_series_alone_does_not_show(file: Path) -> None:
    days = [str(date(2024, 1, 1) + timedelta(days=day)) for day in range(60)]
    working = [day for place, day in enumerate(days) if place % 7 < 5]
    lines = [*(f"{day},A,1" for day in days), *(f"{day},B,2" for day in working)]
    file.write_text("\n".join(["day,shop,y", *lines]))
    read = table.read(file)
    for_each = [np.arange(60), np.arange(60, 60 + len(working))]
    one, other = timeline.of_each(read, for_each, taken=["y"])
    assert str(one.spacing) == str(other.spacing) == "day"
    assert (len(one), len(other), other.inserted) == (60, 60, 60 - len(working))
    assert str(timeline.of_each(read, [for_each[1]], taken=["y"])[0].spacing) == "day from Monday to Friday"


def test_all_are_read_in_one_form(file: Path) -> None:
    """01/02 alone may be either; the other series has days beyond 12."""
    lines = [f"{day:02}/02/2024,A,{day}" for day in range(1, 11)] + [
        f"{day:02}/03/2024,B,{day}" for day in range(10, 25)
    ]
    file.write_text("\n".join(["day,shop,y", *lines]))
    lines_of = timeline.of_each(table.read(file), [np.arange(10), np.arange(10, 25)], taken=["y"])
    assert [str(line.spacing) for line in lines_of] == ["day", "day"]
    assert str(lines_of[0].times[0])[:10] == "2024-02-01"


def test_a_time_twice_within_a_series_is_an_error(file: Path) -> None:
    frame = waves("AB")
    with pytest.raises(
        InputError, match=r"Every time may occur once in each series; line 157 .* '2024-01-06' .* line 82"
    ):
        task(pl.concat([frame, frame.filter(shop="B").head(1)]), file)
    two = pl.concat([frame, frame.with_columns(kind=pl.lit("z"))])
    with pytest.raises(InputError, match=r"differ in 'kind' \('a', 'b', 'z'\): name it after the others in --series"):
        task(two, file)


def test_names_are_printed_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = waves("AB").with_columns(shop=pl.col("shop") + "\nx\x1b[2J", n=pl.lit(7))
    empty = waves("C", steps=20).with_columns(y=pl.lit(None, pl.Float64), n=pl.lit(7))
    pl.concat([frame, empty]).write_csv("odd.csv")
    said = bptt("train odd.csv -o run --target y --series shop,n --epochs 1 --hidden 4") + bptt("forecast run")
    assert "3 series by shop, n (A?x?[2J/7, B?x?[2J/7, C/7)" in said
    assert "\x1b[2J" not in said
    assert "No forecast for C/7: fewer than 8 values are known." in said
    assert pl.read_csv("run/forecast.csv")["shop"].to_list() == ["A\nx\x1b[2J", "B\nx\x1b[2J"]


@pytest.mark.parametrize(
    ("keys", "inputs", "message"),
    [
        (["nowhere"], (), r"one of the table's: day, shop, y, size, kind; got 'nowhere'"),
        (["y"], (), r"tells series apart, or is target, input or time; 'y' was given as two"),
        (["shop"], ("shop",), r"tells series apart, or is target, input or time; 'shop' was given as two"),
        (["shop", "shop"], (), r"'shop' was given as two"),
    ],
)
def test_mistakes(file: Path, keys: list[str], inputs: tuple[str, ...], message: str) -> None:
    waves().write_csv(file)
    with pytest.raises(InputError, match=message):
        Series(table.read(file), Recipe(), ["y"], inputs, series=keys)
    waves().with_columns(shop=pl.when(pl.col("day") == "2024-01-03").then(None).otherwise("shop")).write_csv(file)
    with pytest.raises(InputError, match=r"which series it belongs to; line 4 of .* nothing in column 'shop'"):
        Series(table.read(file), Recipe(), ["y"], series=["shop"])


def test_what_is_common_is_learnt_better_from_many(file: Path) -> None:
    """What x does to the next y is not linear; twenty short series show it, one does not."""
    draw, frames = np.random.default_rng(0), []
    for place in range(20):
        x = draw.normal(size=70)
        y = np.append(0, np.abs(x)[:-1]) + 0.1 * draw.normal(size=70)
        frames.append(pl.DataFrame({"shop": f"s{place}", "y": 10 * place + y, "x": x}))

    def ratio(frame: pl.DataFrame, shop: str) -> float:
        found = task(frame, file, inputs=("x",), horizon=1, epochs=30)
        torch.manual_seed(0)
        model = found.network(found.about(), found.recipe)
        found.prepare(model)
        training = Training(model, found)
        training.run()
        model.load_state_dict(training.best_weights)
        names = [one.name for one in found.series]
        result = backtest.run(model, found.panel, found.origins, ["y"], names)
        ours, *others = result.of_series.get((shop,), result).rows["y"]
        return ours.rmse / min(row.rmse for row in others)

    together, alone = ratio(pl.concat(frames), "s0"), ratio(frames[0], "s0")
    assert together < 0.5
    assert together < 0.6 * alone


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    frame = pl.concat([waves("ABC"), waves("D", steps=8)])
    frame.with_columns(shop=frame["shop"].replace("D", "D e")).write_csv("panel.csv")
    said = bptt("train panel.csv -o run --target y --series shop --inputs kind --horizon 2 --epochs 2 --hidden 4")
    assert "panel.csv: 4 series by shop (A, B, C, D e), 233 rows; to forecast: y; read as well: kind=a, kind=b" in said
    assert "Left out 1 series: D e. Of the first: The training, validation and test part must each hold" in said
    assert "Parts    training 159 steps, 53 of each series in the median; validation 33 steps" in said
    assert "Scaling  each series by mean and deviation, kind=a, kind=b by those of all" in said
    assert "All 3 series, in standard deviations of each:" in said
    assert "Of 3, a rule is better than the network by more than 1 % for" in said
    facts = json.loads(Path("run/backtest.json").read_text())
    assert [of["name"] for of in facts["series"]] == [["A"], ["B"], ["C"]]
    assert Path("run/backtest.png").read_bytes()[:4] == b"\x89PNG"
    bptt("forecast run --steps 3")
    told = pl.read_csv("run/forecast.csv")
    assert told.columns == ["shop", "day", "y", "y_low", "y_high"]
    assert told["shop"].to_list() == [name for name in ("A", "B", "C", "D e") for _ in range(3)]
    assert told.filter(shop="A")["day"].to_list() == ["2024-03-21", "2024-03-22", "2024-03-23"]
    spoken = json.loads(bptt("forecast run --steps 2 --json"))
    assert [of["name"] for of in spoken["series"]] == [{"shop": name} for name in ("A", "B", "C", "D e")]
    assert spoken["series"][0]["after"] == "2024-03-20"
    assert (spoken["not_trained_on"], spoken["no_forecast"]) == (["D e"], [])
    again = told.filter(pl.col("day") < "2024-03-23", shop="B")["y"].to_list()
    assert [step["y"]["forecast"] for step in spoken["series"][1]["steps"]] == pytest.approx(again)
    resumed = bptt("train -o run --resume --epochs 3 --series shop")
    assert "Resumed  at step" in resumed
    refused = bptt("train -o run --resume --epochs 4 --series kind", code=2)
    assert "A resumed training keeps its series, ['shop']; got ['kind']" in refused
