"""How long large tables take: `python -m benchmarks.tables` draws them, reads them, and trains on a thousand series.

10^5 rows of 8 columns with decimal commas, and 60 rows of 10^5 columns, of both eight columns as numbers; 1,000 series
of 200 days, each of its own size, in one table, learnt by one model with the default recipe, backtest included.
"""

import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.machine import machine
from bptt.tasks import Series, backtest, table
from bptt.train import Training


def rows(path: Path) -> None:
    cells = np.random.default_rng(0).normal(size=(100_000, 8)).round(3)
    lines = [";".join(f"{cell:.3f}".replace(".", ",") for cell in row) for row in cells]
    path.write_text("\n".join([";".join(f"c{n}" for n in range(8)), *lines]))


def columns(path: Path) -> None:
    cells = np.random.default_rng(0).normal(size=(60, 100_000)).round(3)
    path.write_text("\n".join([",".join(f"c{n}" for n in range(100_000)), *(",".join(map(str, row)) for row in cells)]))


def panel(path: Path) -> None:
    draw, t, frames = np.random.default_rng(0), np.arange(200), []
    days = [str(date(2024, 1, 1) + timedelta(days=int(day))) for day in t]
    for n in range(1000):
        size, phase = 10 ** draw.uniform(0, 3), draw.uniform(0, 7)
        y = size * (5 + np.sin(2 * np.pi * (t + phase) / 7) + 0.5 * draw.normal(size=200))
        frames.append(pl.DataFrame({"day": days, "shop": f"s{n}", "sold": y}))
    pl.concat(frames).write_csv(path)


def read(path: Path) -> str:
    source = table.read(path)
    for name in source.columns[:8]:
        source.numbers(name)
    return f"{len(source):,} rows, {len(source.columns):,} columns"


def learn(path: Path) -> str:
    torch.manual_seed(0)
    task = Series(table.read(path), Series.Recipe(horizon=7), ["sold"], series=["shop"])
    model = task.network(task.about(), task.recipe)
    task.prepare(model)
    training = Training(model, task)
    training.run()
    model.load_state_dict(training.best_weights)
    names = [one.name for one in task.series]
    found = backtest.run(model.eval(), task.panel, task.origins, ["sold"], names).rows["sold"]
    return "; ".join(f"{row.name} {row.rmse:.3f}" for row in found) + " standard deviations"


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path], str]]] = {
    "many rows": (rows, read),
    "many columns": (columns, read),
    "1,000 series of 200 steps": (panel, learn),
}


def main() -> None:
    print(f"{machine()['processor']}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as directory:
        for name, (write, use) in CASES.items():
            path = Path(directory) / "table.csv"
            write(path)
            begin = time.perf_counter()
            said = use(path)
            print(f"{name}: {time.perf_counter() - begin:.1f} s ({said})", flush=True)


if __name__ == "__main__":
    main()
