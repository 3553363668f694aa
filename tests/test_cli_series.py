"""`bptt train` on a series and `bptt forecast`: what a person types, sees, is told, and finds in files."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import bptt

from bptt import runs
from bptt.cli.series import BACKTEST, BACKTEST_PICTURE, FORECAST, kept
from bptt.tasks import Series

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "--hidden 6 --epochs 3"


def air(months: int = 144, first: int = 0) -> pl.DataFrame:
    t, draw = np.arange(months), np.random.default_rng(0)
    return pl.DataFrame(
        {
            "month": [f"{1949 + m // 12}-{m % 12 + 1:02}" for m in range(months)],
            "passengers": np.exp(5 + 0.01 * t + 0.1 * np.sin(t * np.pi / 6) + 0.02 * draw.normal(size=months)).round(1),
            "fares": draw.normal(size=months).round(3),
        }
    )[first:]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a series, air.csv, to work in."""
    monkeypatch.chdir(tmp_path)
    air().write_csv("air.csv")
    return tmp_path


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_train_then_forecast(here: Path) -> None:
    air().filter(pl.int_range(pl.len()) != 50).with_columns(
        passengers=pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("passengers")
    ).write_csv("gaps.csv")
    said = bptt(f"train gaps.csv -o run --target passengers --inputs fares --horizon 4 {SMALL}")
    for line in (
        r"Series   .*gaps\.csv: 143 rows; to forecast: passengers; read as well: fares",
        r"Time     'month', 1949-01 to 1960-12, every month",
        r"Missing  2 in passengers, 1 in fares, with 1 rows the file leaves out \(1953-03\)",
        r"Parts    training 100 steps, 1949-01 to 1957-04; validation 22 steps, .*; test 22 steps, 1959-03 to 1960-12",
        r"Scaling  passengers [\d.]+ ± [\d.]+, fares .* of the training part alone",
        r"Season   12 steps: the calendar's, autocorrelation 0\.\d\d in the training part",
        r"Base     linear .*, the smallest error in the validation part: linear 0\.\d+, ",
        r"Windows  of 32 steps x 32, to forecast 4 steps at once",
        r"Backtest on the test part, 1959-03 to 1960-12, read once: 19 forecasts of 4 steps",
        r" +RMSE +ratio +MAE +ratio +h=1 +h=2 +h=3 +h=4",
        r"repeat-last +[\d.]+ +1\.000 +[\d.]+ +1\.000( +[\d.]+){4}",
    ):  # fmt: skip
        assert re.search(f"^{line}", said, re.MULTILINE), line
    rows = re.findall(r"^(bptt|linear|seasonal-naive|repeat-last) ", said, re.MULTILINE)
    assert rows == ["bptt", "linear", "seasonal-naive", "repeat-last"]
    assert "\x1b" not in said
    (forecast,) = re.findall(r"^  (bptt forecast .*)", said, re.MULTILINE)
    assert forecast == "bptt forecast run --steps 4"
    saved = json.loads((here / "run" / BACKTEST).read_text())
    assert (saved["from"], saved["to"], saved["origins"]) == ("1959-03", "1960-12", 19)
    assert len(saved["targets"]["passengers"]["bptt"]["rmse_by_horizon"]) == 4
    assert is_picture(here / "run" / BACKTEST_PICTURE)
    assert is_picture(here / "run" / runs.CURVE)
    said = bptt(forecast.removeprefix("bptt "))
    lines = [line.split() for line in said.splitlines()]
    assert lines[0] == ["month", "passengers", "passengers_low", "passengers_high"]
    assert [line[0] for line in lines[1:5]] == ["1961-01", "1961-02", "1961-03", "1961-04"]
    written = pl.read_csv(here / "run" / FORECAST)
    assert written["month"].to_list() == ["1961-01", "1961-02", "1961-03", "1961-04"]
    for shown, (_, *exact) in zip(lines[1:5], written.rows(), strict=True):
        assert [float(cell) for cell in shown[1:]] == pytest.approx(exact, rel=1e-5)
        assert exact[1] < exact[0] < exact[2]
    assert is_picture(here / "run" / "forecast.png")


def test_json_is_all_there_is_on_stdout(here: Path) -> None:
    lines = bptt(f"train air.csv -o run --target passengers --target fares {SMALL} --json").splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["task"] == "series"
    assert {event["event"] for event in events} == {"settings", "steps", "evaluation", "stop", "backtest"}
    assert events[-1]["backtest"] == json.loads((here / "run" / BACKTEST).read_text())
    assert set(events[-1]["backtest"]["targets"]) == {"passengers", "fares"}
    facts = json.loads(bptt("forecast run --steps 3 --json"))
    assert (facts["after"], facts["horizon"], facts["changed"]) == ("1960-12", 1, False)
    assert [step["time"] for step in facts["steps"]] == ["1961-01", "1961-02", "1961-03"]
    assert facts["steps"][2]["fares"].keys() == {"forecast", "low", "high"}
    air(146).write_csv("air.csv")
    facts = json.loads(bptt("forecast run --json"))
    assert (facts["after"], facts["changed"], len(facts["steps"])) == ("1961-02", True, 1)


def test_one_figure_says_how_good_a_training_was(here: Path) -> None:
    """Squared error as a multiple of what the base leaves on the same part, wherever it is said."""
    growing = air().with_columns(passengers=pl.col("passengers") * (1 + pl.int_range(144) / 20))
    growing.with_columns(pl.col("passengers") + pl.col("fares").shift(1).abs() * 200).write_csv("growing.csv")
    command = "train growing.csv --target passengers --inputs fares --base last --hidden 6 --epochs 30"
    said = bptt(f"{command} -o run")
    events = [json.loads(line) for line in bptt(f"{command} -o again --json").splitlines()]
    best = [event for event in runs.read_log(here / "run") if event["event"] == "evaluation" and event["best"]][-1]
    (stop,) = (event for event in events if event["event"] == "stop")
    figure = best["relative_squared_error"]
    assert 0.3 < figure < 0.95
    assert {figure} == {best["loss"], stop["loss"], stop["relative_squared_error"]}
    (summary,) = re.findall(r"^([\d.]+) times the base's squared error, held out", said, re.MULTILINE)
    *_, shown = re.findall(r" held out ([\d.]+) ", said)
    (gain,) = re.findall(r"the network takes ([\d.]+)% off the squared error that the base leaves", said)
    assert summary == f"{figure:.3f}"
    assert shown == f"{[event['loss'] for event in events if event['event'] == 'evaluation'][-1]:.3f}"
    assert gain == f"{100 * (1 - figure):.1f}"
    settings, model = runs.load(here / "run")
    assert isinstance(settings.recipe, Series.Recipe)
    task = Series.again(settings.about, settings.recipe, settings.source)
    missed, at = [], task.validation_origins
    for base in (None, "last"):
        forecast = model.forecasts(task.panel, at, base)[:, 0, 0]
        missed.append(float((forecast - task.panel.values[at + 1, 0]).square().mean()))
    assert figure == pytest.approx(missed[0] / missed[1], rel=1e-5)


def test_a_base_that_leaves_nothing_is_said(here: Path) -> None:
    pl.DataFrame({"y": [n % 4 for n in range(80)]}).write_csv("exact.csv")
    said = bptt(f"train exact.csv -o run --target y --season 4 --base season {SMALL}")
    assert "1.000 times the base's squared error, held out" in said
    assert "The base leaves no error in the validation part: there is nothing for the network to take off." in said


def test_forecast_from_another_file_to_another_place(here: Path) -> None:
    bptt(f"train air.csv -o run --target passengers --horizon 2 {SMALL}")
    before = {file.name: file.read_bytes() for file in (here / "run").iterdir()}
    air(140, first=20).write_parquet("newer.parquet")
    said = bptt("forecast run --data newer.parquet -o next.csv --steps 5")
    assert "Steps beyond 2 come from feeding forecasts back" in said
    assert pl.read_csv("next.csv")["month"].to_list() == ["1960-09", "1960-10", "1960-11", "1960-12", "1961-01"]
    assert is_picture(here / "next.png")
    assert {file.name: file.read_bytes() for file in (here / "run").iterdir()} == before


def test_a_forecast_replaces_its_own_files_and_no_others(here: Path) -> None:
    bptt(f"train air.csv -o run --target passengers --horizon 4 {SMALL}")
    for command in ("forecast run", "forecast run -o next.csv", "forecast run --steps 2 -o run/forecast.csv") * 2:
        bptt(command)
    for there in ("run/forecast.csv", "run/forecast.png", "next.png"):
        before = (here / there).read_bytes()
        (here / there).write_text("mine")
        refused = bptt("forecast run" if there.startswith("run") else "forecast run -o next.csv", code=2)
        assert there in refused
        assert "Move it away" in refused
        assert (here / there).read_text() == "mine"
        (here / there).write_bytes(before)
    (here / "next.csv").write_text("a name that was asked for")
    bptt("forecast run -o next.csv")
    assert "must not replace the file it was made from" in bptt("forecast run -o air.csv", code=2)
    assert not (here / "air.png").exists()
    before = {file.name: file.read_bytes() for file in (here / "run").iterdir()}
    for out, stays in (("run/settings.json", "settings.json"), (here / "run" / "backtest.csv", "backtest.png")):
        assert f"{stays} of the run in" in bptt(f"forecast run -o {out}", code=2)
    bptt(f"forecast run -o {here / 'run' / 'forecast.csv'}")
    assert {file.name: file.read_bytes() for file in (here / "run").iterdir()} == before | {
        name: (here / "run" / name).read_bytes() for name in ("forecast.csv", "forecast.png", "files.jsonl")
    }
    bptt("forecast run")
    (here / "run" / BACKTEST).write_text("mine")
    assert f"run/{BACKTEST}" in bptt("train -o run --resume --epochs 5", code=2)
    assert (here / "run" / BACKTEST).read_text() == "mine"


def test_a_narrow_band_around_large_numbers_is_told_apart(here: Path) -> None:
    frame = air().with_columns(passengers=1e9 + pl.Series(np.sin(np.arange(144)).round(3)))
    frame.write_csv("far.csv")
    bptt("train far.csv -o run --target passengers --epochs 1")
    for printed in bptt("forecast run --steps 3").splitlines()[1:4]:
        forecast, low, high = (float(cell) for cell in printed.split()[1:])
        assert low < forecast < high


def test_resumed_runs_are_tested_at_their_end(here: Path) -> None:
    bptt(f"train air.csv -o run --target passengers {SMALL} --horizon 2")
    (here / "run" / BACKTEST).unlink()
    assert "Resumed  at step" in bptt("train -o run --resume --epochs 4")
    assert (here / "run" / BACKTEST).exists()


def test_losing_is_said_in_plain_words(here: Path) -> None:
    said = bptt(f"train air.csv -o run --target fares --base last {SMALL} --lr 1e-9")
    assert re.search(
        r"On fares, linear is better than the network: RMSE [\d.]+ against the network's [\d.]+, MAE", said
    )
    assert "In the validation part the network takes less than 0.05% off the squared error" in said


def test_a_series_without_time_season_or_test_part(here: Path) -> None:
    pl.DataFrame({"y": np.random.default_rng(0).normal(size=120).cumsum()}).write_csv("walk.csv")
    said = bptt(f"train walk.csv -o run --target y --test 0 {SMALL}")
    assert "Time     no column found: rows are taken for even steps" in said
    assert "Season   none: the training part does not repeat itself" in said
    assert "Backtest" not in said
    assert not (here / "run" / BACKTEST).exists()
    assert pl.read_csv((bptt("forecast run --steps 2"), here / "run" / FORECAST)[1])["step"].to_list() == [121, 122]


def test_columns_that_are_not_read_are_said(here: Path) -> None:
    command = f"train panel.csv -o run --overwrite --target y --test 0 {SMALL}"
    panel = pl.DataFrame({"y": np.random.default_rng(0).normal(size=120), "shop": ["A", "B"] * 60, "n": range(120)})
    panel.write_csv("panel.csv")
    said = "Unread   shop, n: --inputs NAME reads a column, --series NAME says which tells several series apart\n"
    assert said in bptt(command)
    panel.with_columns(panel["n"].alias(f"n{k}") for k in range(9)).write_csv("panel.csv")
    assert "Unread   shop, n, n0, n1, n2, n3 and 5 more: --inputs" in bptt(command)
    panel.drop("shop").write_csv("panel.csv")
    assert "Unread" not in bptt(f"{command} --inputs n")


def test_rows_are_sorted_or_said_to_be_even_steps(here: Path) -> None:
    air().reverse().write_csv("newest-first.csv")
    command = f"train newest-first.csv -o run --overwrite --target passengers {SMALL}"
    said = bptt(command)
    assert "every month\nSorted   by 'month', the oldest row first; in the file: newest first\n" in said
    assert pl.read_csv((bptt("forecast run --steps 2"), here / "run" / FORECAST)[1])["month"].to_list() == [
        "1961-01", "1961-02",
    ]  # fmt: skip
    assert "Sorted" not in bptt(f"train air.csv -o other --target passengers {SMALL}")
    assert "Time     rows are even steps, as given\n" in bptt(f"{command} --time none")
    assert pl.read_csv((bptt("forecast run --steps 2"), here / "run" / FORECAST)[1])["step"].to_list() == [145, 146]
    assert "Resumed  at step" in bptt("train -o run --resume --time none --epochs 4")


@pytest.mark.parametrize(
    ("columns", "said", "following"),
    [
        ({"when": [f"{m}-{y:02}" for y in range(49, 59) for m in ("Jan", "Apr", "Jul", "Oct")]},
         "Jan-49 to Oct-58, every quarter\nYears    'when' writes two digits; they are read as 1949 to 1958\n",
          "Jan-59"),
        ({"ts": [str(1_700_000_000_000 + 60_000 * n) for n in range(40)]},
         "every minute\nDates    'ts' counts milliseconds since 1970 in UTC\n", "1700002400000"),
        ({"when": [f"{27 + h // 24}.10.2024 {h % 24:02}:00" for h in (0, 1, 2, *range(2, 39))]},
         "every hour\nClocks   'when' has an hour twice: clocks were set back, and it is read as two hours\n",
         "28.10.2024 15:00"),
        ({"Date": [f"2020-01-{d:02}" for d in range(1, 11) for _ in range(4)], "Hour": ["0", "6", "12", "18"] * 10},
         "Time     'Date,Hour', 2020-01-01 0 to 2020-01-10 18, every 6 hours\nParts", "2020-01-11 0"),
    ],
    ids=["years", "unix", "clocks", "columns"],
)  # fmt: skip
def test_what_was_assumed_of_times_is_said(
    here: Path, columns: dict[str, list[str]], said: str, following: str
) -> None:
    pl.DataFrame({**columns, "y": np.random.default_rng(0).normal(size=40)}).write_csv("t.csv")
    assert said in bptt(f"train t.csv -o run --target y --test 0 {SMALL}")
    assert bptt("forecast run").splitlines()[1].startswith(following)


def test_dates_that_can_be_read_in_two_ways_are_said(here: Path) -> None:
    frame = pl.DataFrame({"date": [f"{m % 12 + 1:02}/01/2020" for m in range(12)], "y": [float(m) for m in range(12)]})
    frame.write_csv("us.csv")
    said = bptt("train us.csv -o run --target y --test 0 --validation 0.1 --hidden 2 --epochs 1")
    assert (
        "Time     'date', 01/01/2020 to 12/01/2020, every day, read as day/month/year; read as month/day/year they "
        "would be every month (dates such as 2020-01-31 leave no doubt)\n"
    ) in said


def test_an_epoch_that_is_a_sample_is_said(here: Path) -> None:
    pl.DataFrame({"y": np.random.default_rng(0).normal(size=900)}).write_csv("noise.csv")
    said = bptt("train noise.csv -o run --target y --hidden 2 --epochs 1 --base none --batch 2 --window 8")
    assert re.search(
        r"^Windows  of 8 steps x 2, to forecast 1 step at once; an epoch draws 200 of 62\d$", said, re.M
    ), said
    assert "an epoch draws" not in bptt(f"train air.csv -o other --target passengers {SMALL}")


def test_a_target_of_which_nothing_was_known_lately_is_drawn_too(here: Path) -> None:
    bptt(f"train air.csv -o run --target passengers,fares --horizon 2 {SMALL}")
    lately = pl.int_range(pl.len()) >= 90
    air().with_columns(fares=pl.when(~lately).then(pl.col("fares"))).write_csv("newer.csv")
    bptt("forecast run --data newer.csv")
    assert is_picture(here / "run" / "forecast.png")


def test_the_end_of_the_calendar_and_a_column_like_a_formula(here: Path) -> None:
    last, name = np.datetime64("9999-12-31"), r"$\frac{$"
    days = [str(last - np.timedelta64(back, "D")) for back in reversed(range(60))]
    pl.DataFrame({"day": days, name: np.sin(np.arange(60))}).write_csv("end.csv")
    bptt(f"train end.csv -o run --target {shlex.quote(name)} --horizon 3 {SMALL}")
    assert is_picture(here / "run" / BACKTEST_PICTURE)
    assert re.search(r"10000-01-24.* 0", bptt("forecast run --steps 24"))
    assert is_picture(here / "run" / "forecast.png")


def test_columns_among_the_options_are_those_a_run_keeps() -> None:
    options = {"target": ["a, b", "c"], "inputs": "d,e", "time": "t", "horizon": 3}
    assert kept(options) == {"targets": ["a", "b", "c"], "inputs": ["d", "e"], "time": "t"}
    assert kept({"horizon": 3}) == {}


MISTAKES = {
    "train air.csv -o new": r"from a table must be said; .* To forecast a series: --target COLUMN",
    "train air.csv -o new --target heads": r"one of the table's: month, passengers, fares; got 'heads'",
    "train air.csv -o new --target passengers --inputs fare": r"got 'fare'",
    "train air.csv -o new --target month": r"Column 'month' must hold numbers; line 2 of .* has '1949-01'",
    "train air.csv -o new --target passengers --time day": r"got 'day'",
    "train air.csv -o new --target passengers --horizon 90": r"the horizon is 90\. Forecast at most \d+ at once",
    "train air.csv -o new --target passengers --horizon 0": r"horizon must be a whole number of at least 1; got 0",
    "train air.csv -o new --target passengers --season 90": r"--season 90 does not into its 100 steps",
    "train air.csv -o new --target passengers --window 100": r"--window 100 and --horizon 1 do not fit",
    "train air.csv -o new --target passengers --season day": r"--season is a number of steps, or several .*; got 'day'",
    "train air.csv -o new --target passengers --season 1": r"season must be a whole number of at least 2; got 1",
    "train air.csv -o new --target passengers --base best": r"base must be one of auto, none, last, season, linear",
    "train air.csv -o new --target passengers --label fares": r"--target, or labelled sequences, --label; got both",
    "train air.csv -o new --target passengers --streams 4": r"--streams has no meaning for the task 'series'",
    "train air.csv -o new --horizon 4 --unit byte": r"--horizon has no meaning for the task 'text'",
    "train -o new --target passengers": r"A series comes from a table; name a CSV or Parquet file",
    "train missing.csv -o new --target y": r"there is none at missing\.csv",
    "forecast new": r"new holds no settings\.json",
    "forecast run --steps 0": r"steps must be a whole number from 1 to 10,000; got 0",
    "forecast run --steps 3": r"must know the inputs \(fares\) in advance; for 3 steps it needs 2 rows",
    "forecast run --data missing.csv": r"there is none at missing\.csv",
    "forecast run --data other.csv": r"trained on; .*other\.csv has no 'passengers', .*only month, heads\.",
    "forecast run -o next.png": r"as CSV and a picture beside it; got next\.png",
    "forecast run -o nowhere/next.csv": r"Make the directory 'nowhere' first",
    "forecast run -o .": r"Name a file\.csv",
    "forecast run -o {}.csv".format("x" * 300): "File name too long",
    "generate run": r"needs a run that was trained on one; run was trained for the task 'series'",
    "forecast text": r"needs a run that was trained on a series; text was trained for the task 'text'",
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and runs to make mistakes with."""
    at = tmp_path_factory.mktemp("mistakes")
    air().write_csv(at / "air.csv")
    air().select("month", heads="passengers").write_csv(at / "other.csv")
    (at / "words.txt").write_text("the cat sat on the mat. " * 20)
    bptt(f"train {at}/air.csv -o {at}/run --target passengers --inputs fares {SMALL}")
    bptt(f"train {at}/words.txt -o {at}/text --hidden 4 --streams 2 --bptt 5 --steps 2")
    return at


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_get_a_message_and_exit_code_2(command: str, mistakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistakes)
    before = {file: file.stat().st_mtime_ns for file in mistakes.rglob("*")}
    message = bptt(command, code=2)
    assert message.startswith("Error: ")
    assert re.search(MISTAKES[command], message), message
    assert {file: file.stat().st_mtime_ns for file in mistakes.rglob("*")} == before


def test_help_shows_examples() -> None:
    assert "bptt forecast " in bptt("forecast --help").split("Examples")[1]
