"""The backtest of a forecaster: errors of forecasts from every step of a part of a series, and those of simple rules.

Rolling origin: from each step whose next `horizon` steps lie in the part, all of them are forecast from the series up
to that step. Network and rules are not fitted again. Steps with an unknown target are left out for all of them. Errors
are in the units of the series; those of several series together, which may differ in size, in standard deviations of
the training part of each.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bptt.tasks.forecaster import Base, Forecaster, Panel

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
    """Rows for each target, the network's first; `origins` forecasts of `horizon` steps each.

    of_series   where there are several series, the backtest of each by its name; `rows` are of all together
    """

    origins: int
    horizon: int
    rows: dict[str, list[Row]]
    of_series: dict[tuple[str, ...], "Backtest"]

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
        found = {"origins": self.origins, "horizon": self.horizon, "targets": targets}
        if self.of_series:
            found["units"] = "standard deviations of the training part of each series"
            found["series"] = [{"name": list(name), **of.as_json()} for name, of in self.of_series.items()]
        return found

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


def run(
    model: Forecaster, panel: Panel, origins: Tensor, names: Sequence[str], series: Sequence[tuple[str, ...]] = ((),)
) -> Backtest:
    """Forecasts from every origin (n), rising steps of the panel.

    names: of its targets; series: the names of its series.
    """
    steps = origins[:, None] + torch.arange(1, model.horizon + 1)
    truth = panel.values[steps, : model.targets]
    number = panel.number[origins]
    missed = {name: model.forecasts(panel, origins, base) - truth for name, base in [(OURS, None), *rules(model)]}
    if len(series) == 1:
        return _backtest(missed, model.horizon, names, {})
    counts = torch.bincount(number, minlength=len(series)).tolist()  # origins stand in the order of the panel
    each = {row: of.split(counts) for row, of in missed.items()}
    of_series = {
        name: _backtest({row: of[place] for row, of in each.items()}, model.horizon, names, {})
        for place, name in enumerate(series)
    }
    sd = panel.sd[number, : model.targets][:, None]
    return _backtest({row: of / sd for row, of in missed.items()}, model.horizon, names, of_series)


def _backtest(
    missed: dict[str, Tensor], horizon: int, names: Sequence[str], of_series: dict[tuple[str, ...], Backtest]
) -> Backtest:
    """missed: errors (n, horizon, targets) of each forecaster."""
    rows = {name: [_row(row, of[..., place]) for row, of in missed.items()] for place, name in enumerate(names)}
    return Backtest(len(missed[OURS]), horizon, rows, of_series)


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
