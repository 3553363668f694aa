"""The backtest of a forecaster: errors of forecasts from every step of a part of a series, and those of simple rules.

Rolling origin: from each step whose next `horizon` steps lie in the part, all of them are forecast from the series up
to that step. Network and rules are not fitted again. Steps with an unknown target are left out for all of them. Errors
are in the units of the series.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bptt.tasks.forecaster import Base, Forecaster

OURS, REPEATED = "bptt", "repeat-last"
MEASURES = ("rmse", "mae")
LEVEL = 0.01  # differences below this share of an error count as none


@dataclass(frozen=True)
class Row:
    """Root mean square and mean absolute error of one forecaster for one target: over all steps, and by horizon."""

    name: str
    rmse: float
    mae: float
    rmse_by_horizon: list[float]
    mae_by_horizon: list[float]


@dataclass(frozen=True)
class Backtest:
    """Rows for each target, the network's first; `origins` forecasts of `horizon` steps each."""

    origins: int
    horizon: int
    rows: dict[str, list[Row]]

    def as_json(self) -> dict[str, Any]:
        """As plain data. Ratios are to the error of repeating the last value, None where that is zero."""
        targets = {}
        for name, rows in self.rows.items():
            (last,) = (row for row in rows if row.name == REPEATED)
            targets[name] = {
                row.name: {
                    **{key: value for key, value in asdict(row).items() if key != "name"},
                    **{f"{measure}_ratio": ratio(row, last, measure) for measure in MEASURES},
                }
                for row in rows
            }
        return {"origins": self.origins, "horizon": self.horizon, "targets": targets}

    def losses(self) -> list[str]:
        """A sentence for each rule that is better than the network, or level with it."""
        said = []
        for name, (ours, *others) in self.rows.items():
            for row in others:
                figures = {measure: (getattr(row, measure), getattr(ours, measure)) for measure in MEASURES}
                behind = {measure: (its, own) for measure, (its, own) in figures.items() if own > its * (1 + LEVEL)}
                against = ", ".join(
                    f"{measure.upper()} {its:.4g} against the network's {own:.4g}"
                    for measure, (its, own) in (behind or figures).items()
                )
                if behind:
                    said.append(f"On {name}, {row.name} is better than the network: {against}.")
                elif all(abs(own - its) <= its * LEVEL for its, own in figures.values()):
                    said.append(f"On {name}, {row.name} is level with the network: {against}.")
        return said


def ratio(row: Row, last: Row, measure: str) -> float | None:
    """The error as a multiple of that of repeating the last value."""
    return getattr(row, measure) / getattr(last, measure) if getattr(last, measure) else None


def rules(model: Forecaster) -> list[tuple[str, Base]]:
    """The simple rules that the network is compared with."""
    seasonal: list[tuple[str, Base]] = [("seasonal-naive", "season")] if model.season else []
    return [("linear", "linear"), *seasonal, (REPEATED, "last")]


def run(model: Forecaster, values: Tensor, origins: Tensor, names: Sequence[str]) -> Backtest:
    """Forecasts from every origin (n). values: (N, C), its targets first, called `names`."""
    truth = torch.stack([values[origins + ahead, : model.targets] for ahead in range(1, model.horizon + 1)], 1)
    rows: dict[str, list[Row]] = {name: [] for name in names}
    for row, base in [(OURS, None), *rules(model)]:
        missed = model.forecasts(values, origins, base) - truth
        for place, name in enumerate(names):
            rows[name].append(_row(row, missed[..., place]))
    return Backtest(len(origins), model.horizon, rows)


def _row(name: str, missed: Tensor) -> Row:
    """missed: errors (n, horizon), NaN where the truth is not known."""
    squares, sizes = missed.square(), missed.abs()
    return Row(
        name,
        float(squares.nanmean().sqrt()),
        float(sizes.nanmean()),
        squares.nanmean(0).sqrt().tolist(),
        sizes.nanmean(0).tolist(),
    )
