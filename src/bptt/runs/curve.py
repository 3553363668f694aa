"""The picture of a training: its loss above; the norm of the gradient, and where it was clipped, below."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from bptt.train import Measure

POINTS = 1500  # as many as a page can show; of longer logs some are left out


def png(events: Sequence[Mapping[str, Any]], measure: Measure, clip: float | None) -> bytes:
    """The picture of a log (events of `bptt.train` as JSON), as a PNG file. clip: as in `Recipe`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [event for event in events if event["event"] == "steps"]
    steps = steps[:: max(1, len(steps) // POINTS)]
    held_out = [event for event in events if event["event"] == "evaluation"]
    blue, orange, red, grey = "#2f6db5", "#d9822b", "#c23b3b", "#5c6670"

    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    at = [event["step"] for event in steps]

    above.plot(at, [event[measure.key] for event in steps], color=blue, lw=1, alpha=0.8, label="training")
    if held_out:
        above.plot(
            [event["step"] for event in held_out], [event[measure.key] for event in held_out],
            color=orange, lw=1.6, marker="o", ms=3, label="held out",
        )  # fmt: skip
        best = min(held_out, key=lambda event: event[measure.key])
        above.annotate(
            f"{best[measure.key]:.3f}", (best["step"], best[measure.key]), (0, 8), textcoords="offset points",
            ha="right", color=orange, fontweight="bold",
        )  # fmt: skip
    above.set_ylabel(measure.name)
    above.legend(frameon=False, loc="upper right")

    below.fill_between(
        at, [event["grad_norm"] for event in steps], [event["grad_norm_max"] for event in steps],
        color=grey, alpha=0.25, lw=0, label="up to the largest",
    )  # fmt: skip
    below.plot(at, [event["grad_norm"] for event in steps], color=grey, lw=1, label="mean norm")
    clipped = [event for event in steps if event["clipped"] > 0]
    if clip is not None:
        below.axhline(clip, color=red, lw=0.8, ls="--", label=f"clip at {clip:g}")
    if clipped:
        below.scatter(
            [event["step"] for event in clipped], [0.04] * len(clipped), transform=below.get_xaxis_transform(),
            marker="|", s=40, lw=0.8, color=red, alpha=0.7, label="clipped here",
        )  # fmt: skip
    below.set_ylabel("norm of the gradient")
    below.set_xlabel("step")
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter("")
    below.legend(frameon=False, ncols=4, fontsize="small", loc="upper right")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.margins(x=0.01, y=0.15)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
