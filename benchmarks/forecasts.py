"""What `bptt train --target` makes of series as it stands, without a setting: `python -m benchmarks.forecasts`.

Yearly sunspot numbers and weekly CO2 come with statsmodels (the bench extra), the rest is drawn here: a growing series
with a season, sines in noise, random walks, and a series that an input drives in a way no linear rule sees. For each
series and horizon the default recipe is trained with every seed and tested on the test part, the last 15 %, which is
read for this alone. `--without-test` cuts the test part off first: what was tried while the recipe was made.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import torch

from benchmarks.machine import machine
from benchmarks.report import Table, aligned
from bptt.tasks import Series, backtest
from bptt.tasks import table as tables
from bptt.train import Training

ROWS = ("bptt", "linear", "seasonal-naive", "repeat-last")


def series(name: str) -> pl.DataFrame:
    """Columns: time, y, and where there is an input x. The drawn ones are the same for everybody."""
    draw = np.random.default_rng(0)
    match name:
        case "sunspots" | "co2":
            return _of_statsmodels(name)
        case "growing":
            t = np.arange(144)
            y = np.exp(5 + 0.01 * t + 0.1 * np.sin(t * np.pi / 6) + 0.02 * draw.normal(size=144))
            return pl.DataFrame({"time": [f"{1949 + m // 12}-{m % 12 + 1:02}" for m in t], "y": y})
        case "sines":
            t = np.arange(1500)
            y = np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(2 * np.pi * t / 37) + 0.2 * draw.normal(size=1500)
            return pl.DataFrame({"time": t, "y": y})
        case "walk":
            return pl.DataFrame({"time": np.arange(1000), "y": draw.normal(size=1000).cumsum()})
        case _:
            x = draw.normal(size=2000)
            y = np.concatenate(([0.0], np.abs(x[:-1]))) + 0.1 * draw.normal(size=2000)
            return pl.DataFrame({"time": np.arange(2000), "y": y, "x": x})


def _of_statsmodels(name: str) -> pl.DataFrame:
    from statsmodels import datasets  # pyright: ignore[reportMissingImports]

    data = getattr(datasets, name).load_pandas().data
    if name == "sunspots":
        return pl.DataFrame({"time": data.YEAR.to_numpy().astype(int), "y": data.SUNACTIVITY.to_numpy()})
    return pl.DataFrame({"time": data.index.to_numpy().astype("datetime64[ms]"), "y": data.co2.to_numpy()})


NAMES = ("sunspots", "co2", "growing", "sines", "walk", "driven")


def results(name: str, horizon: int, seeds: list[int], without_test: bool) -> Iterator[tuple[dict[str, float], float]]:
    """For each seed the root mean square error of every row, and seconds."""
    frame = series(name)
    if without_test:
        frame = frame.head(len(frame) - max(horizon, round(Series.Recipe().test * len(frame))))
    inputs = [column for column in frame.columns if column not in ("time", "y")]
    for seed in seeds:
        started = time.perf_counter()
        task = Series(tables.Table(frame, name, ""), Series.Recipe(horizon=horizon, seed=seed), ["y"], inputs)
        torch.manual_seed(seed)
        model = task.network(task.about(), task.recipe)
        task.prepare(model)
        training = Training(model, task)
        training.run()
        model.load_state_dict(training.best_weights)
        rows = backtest.run(model, task.panel, task.origins, ["y"]).rows["y"]
        yield {row.name: row.rmse for row in rows}, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecasts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", default=list(NAMES), help=f"which of {', '.join(NAMES)}; default: all")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 12], help="default: 1 12")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--without-test", action="store_true", help="cut the test part off first")
    arguments = parser.parse_args()
    lines: list[list[str]] = []
    for name in arguments.names:
        for horizon in arguments.horizons:
            found = list(results(name, horizon, arguments.seeds, arguments.without_test))
            ours = [rows["bptt"] for rows, _ in found]
            spread = f" ± {statistics.stdev(ours):.2g}" if len(ours) > 1 else ""
            rules = [f"{found[0][0][row]:.4g}" if row in found[0][0] else "-" for row in ROWS[1:]]
            seconds = statistics.mean(seconds for _, seconds in found)
            lines.append([name, str(horizon), f"{statistics.mean(ours):.4g}{spread}", *rules, f"{seconds:.1f}"])
    title = f"Root mean square error on the last part, mean of {len(arguments.seeds)} seeds; {machine()['processor']}"
    print(aligned(Table(title, ["series", "horizon", *ROWS, "seconds"], lines)))


if __name__ == "__main__":
    main()
