"""Forecasts of the yearly sunspot number, 1 and 12 years ahead: `python -m benchmarks.literature.sunspots`.

The series, 1700 to 2008, comes with statsmodels. The test part is the last fifth, 1947 to 2008; the 62 years before it
are the validation part, and `--part validation` prints the same table for it, fitted on what lies before: by it all was
chosen. For the test part everybody is fitted once, on all years before 1947, and then forecasts from every year in turn
(a rolling origin) with the numbers up to that year known. The figures are root mean squares, in sunspots: over all
years, forecast one year ahead; over horizons 1 to 12 from every year whose next twelve lie in the part; of these, the
twelfth.

Ours is a mean of `NETWORKS` networks of 6 tanh units that read the series year by year and say at every year the
next twelve. They see square roots, standardised by the years fitted on, with noise added; Adam, exact BPTT through the
whole series at each of 200 updates. Beside it stand one such network alone, the naive forecasts, and a linear
autoregression with its own coefficients for each horizon, fitted by least squares; with 9 lags, the best on the
validation part among 3, 9, 11, 12, 20 and 22. Last, `bptt train` with its defaults, one training for each horizon: a
linear rule and what a network adds to it, fitted without the validation part.
"""

# pyright: reportMissingImports=false
# statsmodels is installed for benchmarks only, so it is imported where the series is read.

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.literature.outcome import Lines, mean_and_spread, parser
from benchmarks.report import Table
from bptt import tasks
from bptt.nn import Elman
from bptt.sheet import losses
from bptt.tasks import table
from bptt.train import Training

Series = NDArray[np.float64]

FIRST_YEAR = 1700
HORIZON, CYCLE, LAGS = 12, 11, 9
HIDDEN, NETWORKS, UPDATES, LEARNING_RATE, NOISE, CLIP = 6, 5, 200, 1e-2, 0.2, 1.0


@dataclass(frozen=True)
class Errors:
    """Root mean squares: one year ahead, 1 to 12 years ahead, 12 years ahead."""

    one: float
    to_twelve: float
    twelve: float


def yearly_sunspots() -> Series:
    from statsmodels.datasets import sunspots

    table: Any = sunspots.load_pandas().data
    return table.SUNACTIVITY.to_numpy(np.float64)


def errors(forecasts: Series, series: Series, start: int, end: int) -> Errors:
    """forecasts (N, 12): row t says the values at t+1..t+12. Only values at start..end-1 are asked for."""
    one = forecasts[start - 1 : end - 1, 0] - series[start:end]
    ahead = np.lib.stride_tricks.sliding_window_view(series[start:end], HORIZON)
    twelve = forecasts[start - 1 : end - HORIZON] - ahead
    return Errors(*(float(np.sqrt(np.mean(square))) for square in (one**2, twelve**2, twelve[:, -1] ** 2)))


def repeat_last(series: Series, known: int) -> Series:
    return np.repeat(series[:, None], HORIZON, 1)


def seasonal(series: Series, known: int) -> Series:
    """What was `CYCLE` years before the year asked for, or twice that where it is not known yet. NaN at the start."""
    ahead = np.arange(1, HORIZON + 1)
    back = np.arange(len(series))[:, None] + ahead - CYCLE * -(-ahead // CYCLE)
    return np.where(back >= 0, series[np.maximum(back, 0)], math.nan)


def mean(series: Series, known: int) -> Series:
    return np.full((len(series), HORIZON), series[:known].mean())


def autoregression(series: Series, known: int) -> Series:
    """Least squares on the first `known` values, each horizon by itself. NaN where lags are missing."""
    lags = np.lib.stride_tricks.sliding_window_view(series, LAGS)
    lags = np.column_stack([np.ones(len(lags)), lags])  # row i ends at year i + LAGS - 1
    forecasts = np.full((len(series), HORIZON), math.nan)
    for h in range(1, HORIZON + 1):
        targets = series[LAGS - 1 + h : known]
        weights = np.linalg.lstsq(lags[: len(targets)], targets)[0]
        forecasts[LAGS - 1 :, h - 1] = lags @ weights
    return forecasts


NAIVE = {
    "repeat last": repeat_last,
    f"seasonal, {CYCLE} years": seasonal,
    "mean": mean,
    f"linear autoregression, {LAGS} lags": autoregression,
}


def targets(z: Tensor, known: int) -> Tensor:
    """(N, 1, 12): the values at t+1..t+12, NaN where they are not among the first `known`."""
    ahead = torch.cat([z[:known], z.new_full((len(z) - known + HORIZON,), math.nan)])
    return ahead.unfold(0, HORIZON, 1)[1:, None]


def network(series: Series, known: int, seed: int) -> Series:
    """Forecasts (N, 12) of one network trained on the first `known` values, as square roots."""
    roots = torch.from_numpy(np.sqrt(series)).to(torch.float32)
    z = (roots - roots[:known].mean()) / roots[:known].std()
    x, y = z[:, None, None], targets(z, known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Elman(1, HIDDEN, HORIZON, loss="squared_error")
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, UPDATES)
        for _ in range(UPDATES):
            o, _ = model(x[:known] + NOISE * torch.randn(known, 1, 1))
            optimizer.zero_grad()
            losses.loss("squared_error", o, y[:known], skip_nan=True).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        forecast = model(x)[0][:, 0] * roots[:known].std() + roots[:known].mean()
    return forecast.clamp(min=0).numpy().astype(np.float64)


def series_task(series: Series, start: int, horizon: int, seed: int) -> Series:
    """Forecasts (N, horizon) of what `bptt train --target --horizon` trains for the part that begins at `start`.

    That part and the validation part before it are equally long; nothing is fitted on either.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sunspots.csv"
        years = range(FIRST_YEAR, FIRST_YEAR + len(series))
        path.write_text("year,sunspots\n" + "".join(f"{y},{v}\n" for y, v in zip(years, series, strict=True)))
        share = 1 - start / len(series)
        recipe = tasks.Series.Recipe(horizon=horizon, validation=share, test=share, seed=seed)
        task = tasks.Series(table.read(path), recipe, ["sunspots"], time="year")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.network(task.about(), task.recipe)
    task.prepare(model)
    training = Training(model, task)
    training.run()
    model.load_state_dict(training.best_weights)
    forecasts = np.full((len(series), horizon), math.nan)
    forecasts[task.origins] = model.forecasts(task.panel, task.origins)[..., 0]
    return forecasts


def errors_of_task(series: Series, start: int, seed: int) -> Errors:
    """Of two trainings, one for each horizon."""
    far = series_task(series, start, HORIZON, seed)
    near = np.broadcast_to(series_task(series, start, 1, seed), far.shape)
    far_errors = errors(np.where(np.isnan(far), near, far), series, start, len(series))
    return Errors(errors(near, series, start, len(series)).one, far_errors.to_twelve, far_errors.twelve)


def main() -> None:
    options = parser("sunspots", __doc__)
    options.add_argument("--part", choices=("test", "validation"), default="test")
    arguments = options.parse_args()
    whole = yearly_sunspots()
    length = round(len(whole) / 5)
    end = len(whole) if arguments.part == "test" else len(whole) - length
    series, start = whole[:end], end - length
    found = {name: [errors(forecast(series, start), series, start, end)] for name, forecast in NAIVE.items()}
    alone, together, seconds = [], [], []
    for seed in arguments.seeds:
        begin = time.perf_counter()
        roots = [network(series, start, NETWORKS * seed + k) for k in range(NETWORKS)]
        seconds.append(time.perf_counter() - begin)
        alone.append(errors(np.square(roots[0]), series, start, end))
        together.append(errors(np.square(np.mean(roots, 0)), series, start, end))
    found["bptt train, its defaults"] = [errors_of_task(series, start, seed) for seed in arguments.seeds]
    found["one network"] = alone
    found[f"mean of {NETWORKS} networks"] = together
    lines, rows = Lines("sunspots", arguments.output), []
    for name, of_seeds in found.items():
        columns = [[getattr(e, field) for e in of_seeds] for field in ("one", "to_twelve", "twelve")]
        rows.append([name, *(mean_and_spread(column, 2) for column in columns)])
        lines.append({"part": arguments.part, "forecast": name, "errors": [vars(e) for e in of_seeds]})
    years = f"{FIRST_YEAR + start} to {FIRST_YEAR + end - 1}"
    title = f"Yearly sunspots, {arguments.part} part {years}: root mean square error"
    lines.show(Table(title, ["forecast", "1 year ahead", "1 to 12", "12"], rows))
    print(f"{mean_and_spread(seconds, 1)} s for the {NETWORKS} networks of a seed")


if __name__ == "__main__":
    main()
