"""Series on the command line: `bptt forecast`, and the messages of `bptt train`."""

import csv
import io
import json as json_format
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bptt import runs
from bptt.cli.shell import Say, say_on, shortened
from bptt.errors import InputError
from bptt.files import outputs
from bptt.runs import progress
from bptt.tasks import Series, backtest, chart, series, table
from bptt.tasks.backtest import Backtest
from bptt.train import Training

BACKTEST, BACKTEST_PICTURE = "backtest.json", "backtest.png"
FORECAST = "forecast.csv"
HORIZONS_SHOWN = (1, 2, 3, 4, 6, 8, 12, 18, 24, 36, 48, 72, 96, 168, 336, 720)
GAPS_SHOWN = 3
SINCE_1970 = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
RULES = {
    "none": "the mean",
    "last": "the last value",
    "season": "the value one season before",
    "linear": "{anchor}, and linear in the last {lags} values",
}


def task(file: Path | None, options: Mapping[str, Any]) -> Series:
    """The task of a new training."""
    if file is None:
        raise InputError("A series comes from a table; name a CSV or Parquet file.")
    recipe = {name: value for name, value in options.items() if name not in ("target", "inputs", "time")}
    return Series(table.read(file), Series.Recipe(**recipe), **kept(options))


def kept(options: Mapping[str, Any]) -> dict[str, Any]:
    """The columns among the options, as `Series.about` has them: only those that were given."""
    found: dict[str, Any] = {}
    if "target" in options:
        found["targets"] = [name for given in options["target"] for name in _names(given)]
    if "inputs" in options:
        found["inputs"] = _names(options["inputs"])
    if "time" in options:
        found["time"] = options["time"]
    return found


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def introduction(task: Series) -> list[str]:
    found, parts, line = task.columns, task.parts, task.columns.timeline
    names, targets = list(found.names), found.targets
    lines = [
        f"Series   {task.source}: {len(line.places):,} rows; to forecast: {', '.join(names[:targets])}"
        + (f"; read as well: {', '.join(names[targets:])}" if targets < len(names) else ""),
        *_time(found),
    ]
    if found.unread:
        lines.append(
            f"Unread   {shortened(found.unread)}: --inputs NAME reads a column; several series need a file each"
        )
    missing = {
        name: int(column[: task.size].isnan().sum()) for name, column in zip(names, found.values.mT, strict=True)
    }
    if line.inserted or any(missing.values()):
        empty = ", ".join(f"{count:,} in {name}" for name, count in missing.items() if count)
        lines.append(
            f"Missing  {empty}{_gaps(line)}: the network reads the last known value, and unknown targets are left out"
        )
    if found.known < len(line):
        lines.append(f"Ahead    {len(line) - found.known:,} rows without targets: inputs known in advance")
    edges = np.cumsum([0, parts.train, parts.validation, parts.test])
    said = [
        f"{name} {end - start:,} steps, {line.label(line.times[start])} to {line.label(line.times[end - 1])}"
        for name, start, end in zip(("training", "validation", "test"), edges, edges[1:], strict=False)
        if end > start
    ]
    lines.append(f"Parts    {'; '.join(said)}")
    lines.append(f"Scaling  {_scaling(task)}, of the training part alone")
    lines.append(
        f"Season   {task.season} steps: {task.season_reason}" if task.season else f"Season   none: {task.season_reason}"
    )
    lines.append(f"Base     {_base(task)}")
    windows, of_epoch = len(task.starts), min(len(task.starts), len(task) * task.recipe.batch)
    lines.append(
        f"Windows  of {task.window} steps x {task.recipe.batch}, to forecast {_steps(task.recipe.horizon)} at once"
        + (f"; an epoch draws {of_epoch:,} of {windows:,}" if of_epoch < windows else "")
    )
    return lines


def _steps(number: int) -> str:
    return "1 step" if number == 1 else f"{number:,} steps"


def _time(found: series.Columns) -> list[str]:
    """The times, and a line for each thing that was assumed of them."""
    line = found.timeline
    if line.column is None:
        if found.time is not None:
            return ["Time     rows are even steps, as given"]
        return ["Time     no column found: rows are taken for even steps (name one with --time)"]
    name, first, last = repr(line.column), line.label(line.times[0]), line.label(line.times[-1])
    every = f"every {line.spacing}"
    if not line.spacing.even:
        every = f"the spacing is not even, {line.spacing} in the middle; rows are taken for even steps"
    said = [f"Time     {name}, {first} to {last}, {every}{_otherwise(line)}"]
    if line.order:
        said.append(f"Sorted   by {name}, the oldest row first; in the file: {line.order}")
    if line.form.text in SINCE_1970:
        said.append(f"Dates    {name} counts {SINCE_1970[line.form.text]} since 1970 in UTC")
    if "%y" in line.form.text:
        years = [time.astype("datetime64[Y]") for time in line.times[[0, -1]]]
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


def _gaps(line: Any) -> str:
    gaps = line.gaps()
    if not gaps:
        return ""
    shown = [
        line.label(line.times[a]) + (f" to {line.label(line.times[b])}" if b > a else "") for a, b in gaps[:GAPS_SHOWN]
    ]
    more = f" and {len(gaps) - GAPS_SHOWN} more gaps" if len(gaps) > GAPS_SHOWN else ""
    return f", with {line.inserted:,} rows the file leaves out ({', '.join(shown)}{more})"


def _scaling(task: Series) -> str:
    pairs = zip(task.columns.names, task.fitted.mean.tolist(), task.fitted.sd.tolist(), strict=True)
    shown = [f"{name} {mean:.4g} ± {sd:.3g}" for name, mean, sd in pairs]
    return shortened(shown)


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
    result = backtest.run(model, task.values, task.origins, names)
    first = task.parts.known
    picture = chart.backtest(
        result,
        task.columns.timeline.times[first : task.size],
        task.values[first:, : len(names)].numpy(),
        model.forecasts(task.values, task.origins).numpy(),
        (_row_of(task), model.forecasts(task.values, task.origins, task.fitted.base).numpy()),
    )
    as_json = json_format.dumps(_facts(task, result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    runs.add(run.path, {BACKTEST: as_json.encode(), BACKTEST_PICTURE: picture})
    return result


def _row_of(task: Series) -> str:
    return {"last": "repeat-last", "season": "seasonal-naive", "none": "mean"}.get(task.fitted.base, "linear")


def _facts(task: Series, result: Backtest) -> dict[str, Any]:
    line, first, last = task.columns.timeline, task.parts.known, task.size - 1
    return {"from": line.label(line.times[first]), "to": line.label(line.times[last]), **_without_nan(result.as_json())}


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
    line, first = task.columns.timeline, task.parts.known
    say(
        f"Backtest on the test part, {line.label(line.times[first])} to {line.label(line.times[task.size - 1])}, read "
        f"once: {result.origins:,} forecasts of {_steps(result.horizon)}",
        "bold",
    )
    horizons = [h for h in HORIZONS_SHOWN if h < result.horizon] + [result.horizon]
    shown = horizons[-8:] if len(horizons) > 8 else horizons
    shown = sorted({1, *shown[-7:]}) if result.horizon > 1 else []
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
    say("")


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


def forecast(run: Path, steps: int | None, data: Path | None, out: Path | None, *, json: bool) -> None:
    settings, model = runs.load(run)
    if settings.task != Series.name:
        raise InputError(
            f"This command needs a run that was trained on a series; {run} was trained for the task "
            f"{settings.task!r}. bptt --help lists the commands for it."
        )
    steps = settings.recipe.horizon if steps is None else steps  # type: ignore[attr-defined]
    if not 1 <= steps <= series.MOST_AHEAD:
        raise InputError(f"steps must be a whole number from 1 to {series.MOST_AHEAD:,}; got {steps}.")
    source = table.read(settings.source if data is None else data)
    found = series.read_again(source, settings.about)
    said = series.forecast(model, found, steps)
    line = found.timeline
    times = line.following(steps, found.known - 1)
    labels = [line.label(time) for time in times]
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
    files = {
        target: _as_csv(line.column or "step", labels, said).encode(),
        picture: chart.forecast(
            line.times[: found.known][-shown:],
            {name: found.values[: found.known, place].numpy()[-shown:] for place, name in enumerate(said)},
            times,
            said,
        ),
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
            "after": line.label(line.times[found.known - 1]),
            "time": line.column or "step",
            "horizon": model.horizon,
            "steps": [
                {
                    "time": label,
                    **{name: {key: float(values[at]) for key, values in of.items()} for name, of in said.items()},
                }
                for at, label in enumerate(labels)
            ],
        }
        print(json_format.dumps(facts, ensure_ascii=False, allow_nan=False))
        return
    say = say_on(progress.console())
    if data is None and source.sha256 != settings.sha256:
        say(f"{source.source} has changed since the training; this goes on from its present end.\n")
    for printed in _aligned([_header(line.column or "step", said), *_rows(labels, said)]):
        say(printed)
    say("")
    if steps > model.horizon:
        say(
            f"Steps beyond {model.horizon} come from feeding forecasts back; their band is that of step "
            f"{model.horizon}, widened with the square root of the distance."
        )
    say(f"{target} and {picture} hold this as CSV and as a picture.")


def _header(time: str, said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [time, *(cell for name in said for cell in (name, f"{name}_low", f"{name}_high"))]


def _rows(labels: Sequence[str], said: Mapping[str, Mapping[str, Any]], digits: int = 6) -> list[list[str]]:
    """The numbers of each step with this many digits, or more where low and high would look the same."""
    columns = []
    for of in said.values():
        width, size = (of["high"] - of["low"]).min(), max(abs(of["low"]).max(), abs(of["high"]).max())
        enough = digits if width <= 0 else min(15, max(digits, 3 + math.ceil(math.log10(size / width))))
        columns += [[f"{value:.{enough}g}" for value in of[key]] for key in ("forecast", "low", "high")]
    return [[label, *row] for label, row in zip(labels, zip(*columns, strict=True), strict=True)]


def _as_csv(time: str, labels: Sequence[str], said: Mapping[str, Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_header(time, said))
    writer.writerows(_rows(labels, said, 10))
    return file.getvalue()
