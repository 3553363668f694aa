"""The pictures of a series: its backtest, and a forecast with its band."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bptt.tasks.backtest import OURS, Row

BLUE, ORANGE, GREY, GREEN, VIOLET, BLACK = "#2f6db5", "#d9822b", "#8a939b", "#3b8f5a", "#7d57a8", "#22272b"
COLOURS = (BLUE, ORANGE, GREEN, GREY)
MOST_DRAWN = 6  # targets, of several series the first ones


class Tested(NamedTuple):
    """The test part of a target: its rows of the backtest, times and truth (n), and forecasts (origins, horizon) of the
    network and of the rule that it corrects; those of origin i begin at step i."""

    name: str
    rows: list[Row]
    times: np.ndarray
    truth: np.ndarray
    forecasts: np.ndarray
    rule: np.ndarray


def backtest(tested: Sequence[Tested], rule: str) -> bytes:
    """The PNG file of a backtest: for each target the test part with forecasts in it, and the errors by horizon."""
    figure = _figure(len(tested) * 2)
    panels = figure.subplots(len(tested) * 2, 1, height_ratios=[3, 2] * len(tested), squeeze=False)[:, 0]
    for place, of in enumerate(tested):
        above, below = panels[2 * place : 2 * place + 2]
        name, rows, last = _literally(of.name), of.rows, of.forecasts.shape[1] - 1
        times = _drawable(of.times)
        above.plot(times, of.truth, color=BLACK, lw=1.2, marker="." if len(times) < 80 else "", label=name)
        at = times[last : last + len(of.forecasts)]
        ahead = "1 step ahead" if last == 0 else f"{last + 1} steps ahead"
        above.plot(at, of.forecasts[:, last], color=ORANGE, lw=2, label=f"bptt, {ahead}")
        above.plot(at, of.rule[:, last], color=BLUE, lw=0.9, ls="--", label=f"{rule}, {ahead}")
        above.set_ylabel(name)
        _dates(above, times)
        if last == 0:
            bars = below.barh([row.name for row in rows], [row.rmse for row in rows], color=[ORANGE, *[GREY] * 3])
            below.bar_label(bars, [f"{row.rmse:.4g}" for row in rows], padding=4)
            below.invert_yaxis()
            below.set_xlabel("root mean square error, 1 step ahead")
            below.margins(x=0.12)
            _clean(below, "x")
        else:
            for row, colour in zip(rows, (ORANGE, *COLOURS[:1], GREEN, GREY), strict=False):
                ours = row.name == OURS
                steps = range(1, last + 2)
                below.plot(
                    steps, row.rmse_by_horizon, color=colour, lw=2 if ours else 1.2, marker="." if last < 40 else "",
                    label=f"{row.name} {row.rmse:.4g}", zorder=3 if ours else 2,
                )  # fmt: skip
            below.set_xlabel("steps ahead")
            below.set_ylabel("root mean square error")
            below.set_ylim(bottom=0)
            below.xaxis.get_major_locator().set_params(integer=True)
            _clean(below, "y")
            _legend(below)
        _clean(above, "y")
        _legend(above)
    return _png(figure)


class Told(NamedTuple):
    """A target with its last known values (n), and the steps to come: "forecast", "low" and "high" (steps)."""

    name: str
    times: np.ndarray
    known: np.ndarray
    ahead: np.ndarray
    forecasts: Mapping[str, np.ndarray]


def forecast(told: Sequence[Told]) -> bytes:
    """The PNG file of a forecast: the last known values, the steps to come, and the band that holds four fifths."""
    figure = _figure(len(told) * 1.4)
    panels = figure.subplots(len(told), 1, squeeze=False)[:, 0]
    for axes, of in zip(panels, told, strict=True):
        times, ahead = np.split(_drawable(np.concatenate((of.times, of.ahead))), [len(of.times)])
        there = np.flatnonzero(~np.isnan(of.known))[-1:]
        join = times[there], of.known[there]
        at = np.concatenate((join[0], ahead))
        axes.fill_between(
            at, *(np.concatenate((join[1], of.forecasts[edge])) for edge in ("low", "high")), color=ORANGE, alpha=0.2,
            lw=0, label="80 % of the errors in validation",
        )  # fmt: skip
        axes.plot(
            times, of.known, color=BLACK, lw=1.2, marker="." if len(times) < 80 else "", label=_literally(of.name)
        )
        axes.plot(
            at, np.concatenate((join[1], of.forecasts["forecast"])), color=ORANGE, lw=1.8,
            marker="." if len(at) < 60 else "", label="forecast",
        )  # fmt: skip
        axes.set_ylabel(_literally(of.name))
        _dates(axes, np.concatenate((times, ahead)))
        _clean(axes, "y")
        _legend(axes)
    return _png(figure)


def _figure(rows: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 2.7 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawable(times: np.ndarray) -> np.ndarray:
    """The times; or the numbers of the steps, where the picture would exceed the years that matplotlib knows."""
    if times.dtype.kind != "M":
        return times
    seconds = times.astype("datetime64[s]").astype(np.int64)
    margin = int(np.ptp(seconds)) // 10
    first, last = (np.datetime64(day, "s").astype(np.int64) for day in ("0001-01-02", "9999-12-30"))
    inside = first <= seconds.min() - margin and seconds.max() + margin <= last
    return times if inside else np.arange(1, len(times) + 1)


def _literally(text: str) -> str:
    """The text, escaped so that matplotlib does not read it as a formula."""
    return text.replace("$", r"\$")


def _dates(axes: Any, times: np.ndarray) -> None:
    if times.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=4, maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _clean(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, fontsize="small", ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": "bptt"})
    return file.getvalue()


def drew(path: Path) -> bool:
    """Whether the metadata of the file say that bptt has drawn it."""
    try:
        with path.open("rb") as file:
            return b"tEXtSoftware\0bptt" in file.read(200)
    except OSError:
        return False
