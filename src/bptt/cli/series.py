"""Series on the command line: `bptt forecast`, and the messages of `bptt train`."""

import csv
import io
import json as json_format
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from bptt import runs
from bptt.cli.shell import Say, say_on, shortened
from bptt.errors import InputError
from bptt.files import outputs
from bptt.runs import progress
from bptt.tasks import Series, backtest, chart, dialect, series, table
from bptt.tasks.backtest import Backtest
from bptt.tasks.columns import Columns, One, printable
from bptt.train import Training

BACKTEST, BACKTEST_PICTURE = "backtest.json", "backtest.png"
FORECAST = "forecast.csv"
HORIZONS_SHOWN = (1, 2, 3, 4, 6, 8, 12, 18, 24, 36, 48, 72, 96, 168, 336, 720)
GAPS_SHOWN, MOST_SERIES_SHOWN, MOST_ROWS_SHOWN = 3, 12, 60
Said = Mapping[str, Mapping[str, np.ndarray]]  # of each target "forecast", "low" and "high" (steps)
SINCE_1970 = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
RULES = {
    "none": "the mean",
    "last": "the last value",
    "season": "the value one season before",
    "blend": "the last value and those one season before, blended",
    "linear": "{anchor}, and linear in the last {lags} values",
}


def task(file: Path | None, options: Mapping[str, Any]) -> Series:
    """The task of a new training."""
    if file is None:
        raise InputError("A series comes from a table; name a CSV or Parquet file.")
    of_table = ("target", "inputs", "time", "series", *dialect.OPTIONS)
    recipe = {name: value for name, value in options.items() if name not in of_table}
    columns = {name: value for name, value in kept(options).items() if name not in dialect.OPTIONS}
    return Series(table.read(file, dialect.Dialect.of(options)), Series.Recipe(**recipe), **columns)


def kept(options: Mapping[str, Any]) -> dict[str, Any]:
    """The columns among the options, as `Series.about` has them: only those that were given."""
    found: dict[str, Any] = {}
    if "target" in options:
        found["targets"] = [name for given in options["target"] for name in _names(given)]
    if "inputs" in options:
        found["inputs"] = _names(options["inputs"])
    if "time" in options:
        found["time"] = options["time"]
    if "series" in options:
        found["series"] = [name for given in options["series"] for name in _names(given)]
    return found | dialect.Dialect.of(options).said()


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def introduction(task: Series) -> list[str]:
    found, series = task.columns, task.series
    names, targets = list(found.names), found.targets
    rows = sum(len(one.rows) for one in found.series)
    lines = [
        f"Series   {task.source}: {_of_several(found)}{rows:,} rows; to forecast: {', '.join(names[:targets])}"
        + (f"; read as well: {', '.join(names[targets:])}" if targets < len(names) else ""),
        *task.assumed,
        *_time(found),
    ]
    if task.left_out:
        shown = shortened([str(one) for one, _ in task.left_out])
        lines.append(f"Left out {len(task.left_out):,} series: {shown}. Of the first: {task.left_out[0][1]}")
    if found.unread:
        apart = "" if found.keys else ", --series NAME says which tells several series apart"
        lines.append(f"Unread   {shortened(found.unread)}: --inputs NAME reads a column{apart}")
    missing = dict.fromkeys(names, 0)
    for one in series:
        for name, column in zip(names, one.values[: one.known].mT, strict=True):
            missing[name] += int(column.isnan().sum())
    if any(one.timeline.inserted for one in series) or any(missing.values()):
        empty = ", ".join(f"{count:,} in {name}" for name, count in missing.items() if count)
        lines.append(
            f"Missing  {empty}{_gaps(series)}: the network reads the last known value, and unknown targets are left out"
        )
    if ahead := sum(len(one.timeline) - one.known for one in series):
        known = "inputs known in advance" if targets < len(names) else "forecasts begin there"
        lines.append(f"Ahead    {ahead:,} row{'s' * (ahead > 1)} without targets at the end: {known}")
    lines.append(f"Parts    {_parts(task)}")
    lines.append(f"Scaling  {_scaling(task)}, of the training part alone")
    lines.append(
        f"Season   {task.season} steps: {task.season_reason}" if task.season else f"Season   none: {task.season_reason}"
    )
    lines.append(f"Base     {_base(task)}")
    windows, of_epoch = len(task.ends), min(len(task.ends), len(task) * task.recipe.batch)
    lines.append(
        f"Windows  of {task.window} steps x {task.recipe.batch}, to forecast {_steps(task.recipe.horizon)} at once"
        + (f"; an epoch draws {of_epoch:,} of {windows:,}" if of_epoch < windows else "")
    )
    return lines


def _steps(number: int) -> str:
    return "1 step" if number == 1 else f"{number:,} steps"


def _of_several(found: Columns) -> str:
    """How many series there are, which, and what tells them apart."""
    if not found.keys:
        return ""
    names = shortened([str(one) for one in found.series])
    return f"{len(found.series):,} series by {', '.join(found.keys)} ({names}), "


def _parts(task: Series) -> str:
    """The steps and times of the three parts; of several series, the sums and what is their median."""
    sizes = np.array([astuple(of) for of in task.parts])
    said = []
    for name, column in zip(("training", "validation", "test"), sizes.T, strict=True):
        if len(sizes) == 1 and column[0]:
            line, start = task.series[0].timeline, int(sizes[0, : ("training", "validation", "test").index(name)].sum())
            first, last = line.label(line.times[start]), line.label(line.times[start + int(column[0]) - 1])
            said.append(f"{name} {column[0]:,} steps, {first} to {last}")
        elif column.any():
            said.append(f"{name} {column.sum():,} steps, {int(np.median(column)):,} of each series in the median")
    return "; ".join(said)


def _time(found: Columns) -> list[str]:
    """The times, and a line for each thing that was assumed of them."""
    lines = [one.timeline for one in found.series]
    line = lines[0]
    if line.column is None:
        if found.time is not None:
            return ["Time     rows are even steps, as given"]
        return ["Time     no column found: rows are taken for even steps (name one with --time)"]
    edges = min(of.times[0] for of in lines), max(of.times[-1] for of in lines)
    name, spacing, (first, last) = repr(line.column), found.spacing, map(line.label, edges)
    every = f"every {spacing}"
    if not spacing.even:
        every = f"the spacing is not even, {spacing} in the middle; rows are taken for even steps"
    said = [f"Time     {name}, {first} to {last}, {every}{_otherwise(line)}"]
    if orders := [of.order for of in lines if of.order]:
        how = orders[0] if len(lines) == 1 else f"{len(orders):,} of {len(lines):,} series in another order"
        said.append(f"Sorted   by {name}, the oldest row first; in the file: {how}")
    if line.form.text in SINCE_1970:
        said.append(f"Dates    {name} counts {SINCE_1970[line.form.text]} since 1970 in UTC")
    if "%y" in line.form.text:
        years = [time.astype("datetime64[Y]") for time in edges]
        said.append(f"Years    {name} writes two digits; they are read as {years[0]} to {years[1]}")
    if line.form.utc and "z" not in line.form.text and not line.form.zone:
        said.append(f"Clocks   {name} has an hour twice: clocks were set back, and it is read as two hours")
    return said


def _otherwise(line: Any) -> str:
    """The other way to read the times, if there is one."""
    if line.otherwise is None:
        return ""
    form, spacing = line.otherwise
    return (
        f", read as {_in_words(line.form.text)}; read as {_in_words(form.text)} they would be every {spacing} (dates "
        "such as 2020-01-31 leave no doubt)"
    )


def _in_words(form: str) -> str:
    """The form of a date in words: "day/month/year"."""
    words = {"d": "day", "m": "month", "b": "month", "Y": "year", "y": "year", "q": "quarter"}
    date = re.split(r"[ T]?%-?[HIK]", form)[0]
    return re.sub("%-?([a-zA-Z])", lambda part: words.get(part[1], part[1]), date)


def _gaps(found: Sequence[One]) -> str:
    gaps = [(one, a, b) for one in found for a, b in one.timeline.gaps()]
    if not gaps:
        return ""
    shown = []
    for one, a, b in gaps[:GAPS_SHOWN]:
        line = one.timeline
        until = f" to {line.label(line.times[b])}" if b > a else ""
        shown.append(line.label(line.times[a]) + until + (f" of {one}" if one.name else ""))
    more = f" and {len(gaps) - GAPS_SHOWN:,} more gaps" if len(gaps) > GAPS_SHOWN else ""
    inserted = sum(one.timeline.inserted for one in found)
    return f", with {inserted:,} rows the file leaves out ({', '.join(shown)}{more})"


def _scaling(task: Series) -> str:
    if task.columns.keys:
        same = shortened([task.columns.names[place] for place in task.columns.static])
        return "each series by mean and deviation" + (f", {same} by those of all" if same else "")
    pairs = zip(task.columns.names, task.panel.mean[0].tolist(), task.panel.sd[0].tolist(), strict=True)
    return shortened([f"{name} {mean:.4g} ± {sd:.3g}" for name, mean, sd in pairs])


def _base(task: Series) -> str:
    errors = sorted(task.errors.items(), key=lambda rule: rule[1])
    why = "as given" if task.recipe.base != "auto" else "the smallest error in the validation part"
    figures = ", ".join(f"{rule} {error:.3f}" for rule, error in errors)
    said = RULES[task.fitted.base].format(lags=task.fitted.lags, anchor=RULES[task.fitted.anchor])
    return f"{task.fitted.base} ({said}), {why}: {figures} standard deviations"


def conclusion(say: Say, program: str, run: runs.Run, training: Training) -> None:
    task = training.task
    assert isinstance(task, Series)
    out = shlex.quote(str(run.path))
    gain = 1 - training.best_loss if training.best_loss is not None else 0
    if task.base_leaves == 0:
        say("The base leaves no error in the validation part: there is nothing for the network to take off.\n")
    elif training.best_step == 0:
        say("What the network learnt is of no use in the validation part: forecasts are those of the base alone.\n")
    elif gain < 0.0005:
        say("In the validation part the network takes less than 0.05% off the squared error that the base leaves.\n")
    else:
        say(f"In the validation part the network takes {gain:.1%} off the squared error that the base leaves.\n")
    if len(task.origins):
        say_backtest(say, task, outcome(run, training))
        say(f"All figures are in {run.path / BACKTEST}, a picture in {run.path / BACKTEST_PICTURE}.\n")
    say("What next:")
    say(f"  {program} forecast {out} --steps {task.recipe.horizon}", "cyan")


def last_event(run: runs.Run, training: Training) -> dict[str, Any]:
    """The backtest as a line of JSON."""
    task = training.task
    assert isinstance(task, Series)
    facts = _facts(task, outcome(run, training)) if len(task.origins) else None
    return {"event": "backtest", "backtest": facts}


def outcome(run: runs.Run, training: Training) -> Backtest:
    """The backtest of the best weights on the test part, saved in the run."""
    task, model = training.task, training.model
    assert isinstance(task, Series)
    names = task.columns.names[: task.columns.targets]
    panel, origins = task.panel, task.origins
    result = backtest.run(model, panel, origins, names, [one.name for one in task.series])
    ours, rule = (model.forecasts(panel, origins, base).numpy() for base in (None, task.fitted.base))
    tested = []
    for place, one in enumerate(task.series[: chart.MOST_DRAWN]):
        first, own = task.parts[place].known, (panel.number[origins] == place).numpy()
        rows = result.of_series.get(one.name, result).rows
        for k, name in enumerate(names):
            times, truth = one.timeline.times[first : one.known], one.values[first : one.known, k].numpy()
            tested.append(chart.Tested(_called(one, name), rows[name], times, truth, ours[own, :, k], rule[own, :, k]))
    as_json = json_format.dumps(_facts(task, result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    picture = chart.backtest(tested[: chart.MOST_DRAWN], _row_of(task))
    runs.add(run.path, {BACKTEST: as_json.encode(), BACKTEST_PICTURE: picture})
    return result


def _called(one: One, target: str) -> str:
    return f"{target}, {one}" if one.name else target


def _row_of(task: Series) -> str:
    return {"last": "repeat-last", "season": "seasonal-naive", "none": "mean"}.get(task.fitted.base, "linear")


def _facts(task: Series, result: Backtest) -> dict[str, Any]:
    first, last = _tested(task)
    return {"from": first, "to": last, **_without_nan(result.as_json())}


def _tested(task: Series) -> tuple[str, str]:
    """The first and the last time of the test parts."""
    pairs = list(zip(task.series, task.parts, strict=True))
    first = min(one.timeline.times[of.known] for one, of in pairs)
    last = max(one.timeline.times[of.steps - 1] for one, of in pairs)
    label = task.series[0].timeline.label
    return label(first), label(last)


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nan(inner) for key, inner in value.items()}
        case list():
            return [_without_nan(inner) for inner in value]
        case float():
            return value if math.isfinite(value) else None
    return value


def say_backtest(say: Say, task: Series, result: Backtest) -> None:
    """The table: errors over all horizons, as ratio to repeat-last, and by horizon."""
    first, last = _tested(task)
    say(
        f"Backtest on the test part, {first} to {last}, read once: {result.origins:,} forecasts of "
        f"{_steps(result.horizon)}",
        "bold",
    )
    if result.of_series:
        say(f"All {len(result.of_series):,} series, in standard deviations of each:")
    horizons = [h for h in HORIZONS_SHOWN if h < result.horizon] + [result.horizon]
    shown = sorted({1, *horizons[-3:]}) if result.horizon > 1 else []
    for name, rows in result.rows.items():
        (last,) = (row for row in rows if row.name == backtest.REPEATED)
        header = ["", "RMSE", "ratio", "MAE", "ratio", *(f"h={h}" for h in shown)]
        cells = [
            [
                row.name,
                f"{row.rmse:.4g}", _ratio(backtest.ratio(row, last, "rmse")),
                f"{row.mae:.4g}", _ratio(backtest.ratio(row, last, "mae")),
                *(_figure(row.rmse_by_horizon[h - 1]) for h in shown),
            ]
            for row in rows
        ]  # fmt: skip
        say("")
        if len(result.rows) > 1:
            say(name, "bold")
        for number, printed in enumerate(_aligned([header, *cells])):
            say(printed, "bold" if number == 1 else None)
    say("")
    note = "ratio: to repeat-last" + ("; h: RMSE so many steps ahead" if shown else "")
    say(note + ("" if task.season else "; no season was found, so there is no seasonal-naive row"))
    for behind in result.losses():
        say(behind, "yellow")
    if result.of_series:
        _say_each(say, result, task.series)
    say("")


def _say_each(say: Say, result: Backtest, series: Sequence[One]) -> None:
    """The errors of each of several series in its own units, beside the best of the rules."""
    table = [["", "RMSE", "ratio", "MAE", "ratio", "best of the rules", "RMSE"]]
    behind = 0
    for one in series:
        of = result.of_series[one.name]
        for target, (ours, *others) in of.rows.items():
            last, best = others[-1], min(others, key=lambda row: row.rmse)
            behind += ours.rmse > best.rmse * (1 + backtest.LEVEL)
            figures = [(getattr(ours, measure), backtest.ratio(ours, last, measure)) for measure in backtest.MEASURES]
            cells = [cell for figure, of_last in figures for cell in (_figure(figure), _ratio(of_last))]
            called = str(one) + (f", {target}" if len(of.rows) > 1 else "")
            table.append([called, *cells, best.name, _figure(best.rmse)])
    say("")
    for number, printed in enumerate(_aligned(table[: 1 + MOST_SERIES_SHOWN])):
        say(printed, None if number else "bold")
    if len(table) > 1 + MOST_SERIES_SHOWN:
        say(f"and {len(table) - 1 - MOST_SERIES_SHOWN:,} more in {BACKTEST}")
    say(f"Of {len(table) - 1:,}, a rule is better than the network by more than 1 % for {behind:,}.")


def _figure(value: float) -> str:
    """Four digits; "-" where no target of the test part is known so many steps ahead."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first column aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def forecast(
    run: Path, steps: int | None, data: Path | None, out: Path | None, written: Mapping[str, Any], *, json: bool
) -> None:
    settings, model = runs.load(run)
    if settings.task != Series.name:
        raise InputError(
            f"This command needs a run that was trained on a series; {run} was trained for the task "
            f"{settings.task!r}. bptt --help lists the commands for it."
        )
    steps = settings.recipe.horizon if steps is None else steps  # type: ignore[attr-defined]
    if not 1 <= steps <= series.MOST_AHEAD:
        raise InputError(f"steps must be a whole number from 1 to {series.MOST_AHEAD:,}; got {steps}.")
    source = table.read(settings.source if data is None else data, dialect.Dialect.of(settings.about).but(written))
    found = series.read_again(source, settings.about)
    told = series.forecast(model, found, steps, settings.about.get("names", [()]))
    ahead = [one.timeline.following(steps, one.known - 1) for one, _ in told]
    trained, said_of = set(map(tuple, settings.about.get("names", [()]))), {one.name for one, _ in told}
    new = [str(one) for one, _ in told if one.name not in trained]
    silent = [str(one) for one in found.series if one.name not in said_of]
    target = run / FORECAST if out is None else out
    of_run = outputs.same_place(target, run / FORECAST)
    picture = target.with_suffix(".png") if target.name else target
    if picture == target:
        raise InputError(f"The forecast is written as CSV and a picture beside it; got {out}. Name a file.csv.")
    if not of_run and os.path.isfile(picture) and not chart.drew(picture):
        raise InputError(
            f"A picture is written beside the CSV; {picture} is there, and bptt has not drawn it. Move it away, or "
            "name another file.csv."
        )
    shown = max(3 * steps, 2 * (model.season or 0), 40)
    drawn = [
        chart.Told(
            _called(one, name), one.timeline.times[: one.known][-shown:],
            one.values[: one.known, place].numpy()[-shown:], times, of,
        )
        for (one, said), times in zip(told[: chart.MOST_DRAWN], ahead, strict=False)
        for place, (name, of) in enumerate(said.items())
    ]  # fmt: skip
    labels = [[one.timeline.label(time) for time in times] for (one, _), times in zip(told, ahead, strict=True)]
    time = found.series[0].timeline.column or "step"
    header = [*found.keys, *_header(time, told[0][1])]
    files = {
        target: _as_csv(header, _rows(told, labels, 10)).encode(),
        picture: chart.forecast(drawn[: chart.MOST_DRAWN]),
    }
    if of_run:
        runs.add(run, {path.name: content for path, content in files.items()})
    else:
        outputs.write("a forecast", files, made_from=source.source)
    if json:
        facts = {
            "run": str(run),
            "data": source.source,
            "changed": source.sha256 != settings.sha256,
            "time": time,
            "horizon": model.horizon,
        }
        each = [
            {"after": one.timeline.label(one.timeline.times[one.known - 1]), "steps": _as_facts(said, of)}
            for (one, said), of in zip(told, labels, strict=True)
        ]
        if found.keys:
            names = [dict(zip(found.keys, one.name, strict=True)) for one, _ in told]
            facts["series"] = [{"name": name, **of} for name, of in zip(names, each, strict=True)]
            facts |= {"not_trained_on": new, "no_forecast": silent}
        else:
            facts |= each[0]
        print(json_format.dumps(facts, ensure_ascii=False, allow_nan=False))
        return
    say = say_on(progress.console())
    if data is None and source.sha256 != settings.sha256:
        say(f"{source.source} has changed since the training; this goes on from its present end.\n")
    rows = _rows(told, labels)
    few = rows[:MOST_ROWS_SHOWN] if found.keys else rows
    for printed in _aligned([header, *([printable(cell) for cell in row] for row in few)]):
        say(printed)
    if len(few) < len(rows):
        say(f"and {len(rows) - len(few):,} more rows, of {len(told):,} series in all")
    say("")
    if new:
        say(f"Not trained on, and scaled by what is known of them: {shortened(new)}.")
    if silent:
        say(f"No forecast for {shortened(silent)}: fewer than {series.LEAST} values are known.")
    if steps > model.horizon:
        say(
            f"Steps beyond {model.horizon} come from feeding forecasts back; their band is that of step "
            f"{model.horizon}, widened with the square root of the distance."
        )
    say(f"{target} and {picture} hold this as CSV and as a picture.")


def _as_facts(said: Said, labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"time": label, **{name: {key: float(of[at]) for key, of in parts.items()} for name, parts in said.items()}}
        for at, label in enumerate(labels)
    ]


def _header(time: str, said: Said) -> list[str]:
    return [time, *(cell for name in said for cell in (name, f"{name}_low", f"{name}_high"))]


def _rows(told: Sequence[tuple[One, Said]], labels: Sequence[Sequence[str]], digits: int = 6) -> list[list[str]]:
    """The numbers of each step with this many digits, or more where low and high would look the same."""
    rows = []
    for (one, said), of_series in zip(told, labels, strict=True):
        columns = []
        for of in said.values():
            width, size = (of["high"] - of["low"]).min(), max(abs(of["low"]).max(), abs(of["high"]).max())
            enough = digits if width <= 0 else min(15, max(digits, 3 + math.ceil(math.log10(size / width))))
            columns += [[f"{value:.{enough}g}" for value in of[key]] for key in ("forecast", "low", "high")]
        rows += [[*one.name, label, *row] for label, row in zip(of_series, zip(*columns, strict=True), strict=True)]
    return rows


def _as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([header, *rows])
    return file.getvalue()
