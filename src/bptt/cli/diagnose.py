"""`bptt diagnose`: how far the gradient of a trained network reaches, how its training went, and what follows."""

import html
import io
import json as json_format
import math
import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bptt import runs
from bptt.cli.advice import Figures, advice, listed
from bptt.cli.shell import say_on, shortest
from bptt.errors import InputError
from bptt.files import outputs
from bptt.runs import progress
from bptt.tape import recording
from bptt.tape.reach import Reach
from bptt.tape.spectra import bounded
from bptt.tasks import sample
from bptt.tasks.sample import Sample

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; height: auto; background: white }}
pre {{ font-size: 14px; line-height: 1.4; overflow-x: auto }}
</style>
<h1>{title}</h1>
<pre>{head}</pre>
{figure}
<pre>{rest}</pre>
</html>
"""


def diagnose(run: Path, data: str | None, out: Path | None, written: Mapping[str, Any], *, json: bool) -> None:
    settings, networks = runs.checkpoints(run)
    recipe: Any = settings.recipe
    untrained = networks.pop("best") if len(networks) > 1 and networks["best"][0] == 0 else None
    at = f"{next(iter(networks.values()))[0]:,}"
    if untrained is not None:
        at += ", the last; those of step 0 did better, and no gradient enters them"
    taken = _sample(settings, data, written)
    reaches = {name: _reach(taken, model) for name, (_, model) in networks.items()}
    reach, events = next(iter(reaches.values())), runs.read_log(run)
    history, watched = _history(events), [event for event in events if event["event"] == "watch"]
    said = advice(_figures(settings, reach, history))
    source = shortest(Path(taken.source)) if os.path.isfile(taken.source) else taken.source
    head = [
        f"Run      {run}: {settings.task}, {recipe.units()}",
        f"Weights  of step {at}",
        f"Batch    {taken.said} of {source}, of {'up to ' * (settings.task == 'labelled')}{reach.T:,} steps",
    ]
    checkpoints = {name: _spectra(networks[name][0], of) for name, of in reaches.items()}
    parts = {
        "Training": _of_training(history, watched, recipe),
        "Checkpoints": _of_checkpoints(checkpoints),
        "Advice": listed(said),
    }
    if out is not None:
        rest = [line for title, lines in parts.items() for line in ("", title, *lines)]
        page = _page(f"How far the gradient of {run} reaches", head, reach, [str(reach), *rest])
        outputs.write("a report", {out: page}, made_from=taken.source if os.path.isfile(taken.source) else None)
    if json:
        facts = {
            "run": str(run), "task": settings.task, "data": taken.source, "reach": reach.to_dict(),
            "history": history, "watched": watched, "checkpoints": checkpoints, "advice": said,
        }  # fmt: skip
        print(json_format.dumps(facts, ensure_ascii=False, allow_nan=False))
        return
    say = say_on(progress.console())
    for line in (*head, "", str(reach)):
        say(line)
    for title, lines in parts.items():
        say("")
        say(title, "bold")
        for line in lines:
            say(line)
    if out is not None:
        say(f"\n{out} holds this with a picture.")


def _sample(settings: runs.Settings, data: str | None, written: Mapping[str, Any]) -> Sample:
    if data == "":
        raise InputError("What is diagnosed on must not be empty; got ''. Leave it out for what the run learnt from.")
    of = {"text": sample.of_text, "series": sample.of_series, "labelled": sample.of_labelled}[settings.task]
    given = () if settings.task == "text" else (written,)
    return of(settings.source, data, settings.about, settings.recipe, *given)


def _reach(taken: Sample, model: Any) -> Reach:
    with recording() as tapes:
        taken.loss(model).backward()
    return tapes[0].reach()


def _history(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The norms of the gradient in the log, and the share of updates that were clipped; None where it has no norms."""
    reports = [event for event in events if event["event"] == "steps" and _are_numbers(event, "grad_norm", "steps")]
    if not reports:
        return None
    norms, updates = [event["grad_norm"] for event in reports], sum(event["steps"] for event in reports)
    known = all(_are_numbers(event, "clipped") for event in reports)
    return {
        "updates": updates, "first": norms[0], "median": statistics.median(norms), "last": norms[-1],
        "largest": max(event.get("grad_norm_max", event["grad_norm"]) for event in reports),
        "clipped": sum(event["clipped"] * event["steps"] for event in reports) / updates if known and updates else None,
    }  # fmt: skip


def _are_numbers(event: Mapping[str, Any], *names: str) -> bool:
    return all(type(event.get(name)) in (int, float) for name in names)


def _figures(settings: runs.Settings, reach: Reach, history: Mapping[str, Any] | None) -> Figures:
    recipe: Any = settings.recipe
    lags, of = reach.of(), {"tanh": dict[str, float](), "relu": dict[str, float](), "σ": dict[str, float]()}
    for layer in reach.layers:
        for value, function in bounded(layer.record):
            share, dead = reach.saturation[layer.name][value]
            of[function][f"{value} of layer {layer.name}"] = dead if function == "relu" else share
    there = lags.share[~lags.share.isnan()]
    return Figures(
        reach.T,
        reach.reached(),
        float(there[-1]) if len(there) else 0.0,
        lags.rate,
        lags.state,
        {"text": "bptt" if getattr(recipe, "bptt", None) == reach.T else None, "series": "window"}.get(settings.task),
        recipe.cell,
        recipe.lr,
        recipe.clip,
        **{name: None if history is None else history[name] for name in ("clipped", "median", "largest")},
        saturated=of["tanh"],
        dead=of["relu"],
    )


def _spectra(step: int, reach: Reach) -> dict[str, Any]:
    lags = reach.of()
    return {
        "step": step, "rate": _number(lags.rate), "steps_to_1_percent": lags.reached(), "radius": reach.radius,
        "exponents": {layer: [_number(float(e)) for e in of.mean(0)] for layer, of in reach.exponents.items()},
    }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _of_training(history: Mapping[str, Any] | None, watched: Sequence[Mapping[str, Any]], recipe: Any) -> list[str]:
    lines = ["Norm     not in the log"]
    if history is not None:
        norms = (f"{name} {history[name]:.3g}" for name in ("first", "median", "largest", "last"))
        share, at = history["clipped"], "never" if recipe.clip is None else f"at --clip {recipe.clip:g}"
        said = "not in the log" if share is None else f"{100 * share:.0f} % of {history['updates']:,} updates, {at}"
        lines = [f"Norm     of the gradient: {', '.join(norms)}", f"Clipped  {said}"]
    if not watched:
        return [*lines, "Watched  not in the log"]
    steps = f"steps {watched[0].get('step')} to {watched[-1].get('step')}"
    return [*lines, f"Watched  {len(watched):,} rows, {steps}"]


def _of_checkpoints(checkpoints: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"{'':<8}{'step':>9}{'rate a step':>13}{'1 % at':>9}"]
    for name, of in checkpoints.items():
        rate, far = "-" if of["rate"] is None else f"{of['rate']:.4g}", of["steps_to_1_percent"]
        lines.append(f"{name:<8}{of['step']:>9,}{rate:>13}{'beyond' if far is None else far:>9}")
        for layer, exponents in of["exponents"].items():
            leading = "  ".join("−∞" if e is None else f"{e:.3g}" for e in exponents[:3])
            radii = ", ".join(f"{matrix} {value:.3g}" for matrix, value in of["radius"][layer].items())
            lines += textwrap.wrap(
                f"{layer}: leading exponents {leading}" + (f"; spectral radius {radii}" if radii else ""),
                79, initial_indent="  ", subsequent_indent="    ",
            )  # fmt: skip
    return lines


def _page(title: str, head: Sequence[str], reach: Reach, rest: Sequence[str]) -> bytes:
    """One file that needs no network."""
    from matplotlib import rc_context

    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": "bptt"}):
        reach.plot().savefig(drawn, format="svg", metadata={"Date": None})
    figure = drawn.getvalue()
    parts = {"title": title, "head": "\n".join(head), "rest": "\n".join(rest)}
    escaped = {name: html.escape(part) for name, part in parts.items()}
    return PAGE.format(**escaped, figure=figure[figure.index("<svg") :]).encode("utf-8", "backslashreplace")
