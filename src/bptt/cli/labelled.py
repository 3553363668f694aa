"""Labelled sequences on the command line: `bptt classify`, and the messages of `bptt train`."""

import csv
import io
import json as json_format
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table as Printed

from bptt import runs
from bptt.cli.shell import Say, say_on, shortened
from bptt.errors import InputError
from bptt.files import outputs
from bptt.runs import progress
from bptt.tasks import Labelled, dialect, labelled, table, timeline
from bptt.tasks.labelled import Roles
from bptt.train import Training

CONFUSION = "confusion.csv"


def task(file: Path | None, options: Mapping[str, Any]) -> Labelled:
    """The task of a new training."""
    options = dict(options)
    label, sequence, time = options.pop("label"), options.pop("sequence", None), options.pop("time", None)
    inputs, test_file = options.pop("inputs", None), options.pop("test_file", None)
    if file is None:
        raise InputError("Labelled sequences come from a table; name a CSV or Parquet file.")
    if test_file is not None and "test" in options:
        raise InputError("The test part is a file of its own or a share; got --test-file and --test. Leave one out.")
    written = dialect.Dialect.of(options)
    recipe = Labelled.Recipe(**{name: value for name, value in options.items() if name not in dialect.OPTIONS})
    source = table.read(file, written)
    roles = labelled.roles(source, label, sequence, time, _names(inputs) if inputs else None)
    found = Labelled(source, recipe, roles, None if test_file is None else table.read(test_file, written))
    if found.shared and found.test_source:
        warnings.warn(f"{_shared(found)} Its figures will be better than those on new sequences.", stacklevel=2)
    return found


def kept(options: Mapping[str, Any]) -> dict[str, Any]:
    """The columns and files among the options, as `Labelled.about` has them."""
    found = {name: options[name] for name in ("label", "sequence", "time") if name in options}
    if found.get("time") == timeline.ROWS:
        found["time"] = None
    if "inputs" in options:
        found["inputs"] = _names(options["inputs"])
    if "test_file" in options:
        found["test_source"] = str(Path(options["test_file"]).absolute())
    return found | dialect.Dialect.of(options).said()


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",")]


def introduction(task: Labelled) -> list[str]:
    found, roles, recipe = task.all, task.roles, task.recipe
    shortest, longest = min(map(len, found.x)), max(map(len, found.x))
    count = f"{longest} step{'s' * (longest > 1)}" if shortest == longest else f"{shortest} to {longest} steps"
    apart = f" ({task.test_source})" if task.test_source else ""
    coded = [f"{name} as {len(known)} categories" for name, known in roles.codings if known]
    lines = [
        f"Table    {task.source}: {len(found):,} sequences{'' if task.steps is None else ', one a row,'} of {count}, "
        f"{len(roles.inputs)} input{'s' * (len(roles.inputs) > 1)}, {len(task.classes)} labels in {roles.label!r}",
        *task.assumed,
        f"Inputs   {shortened(roles.inputs)}",
        *([f"Coded    {shortened(coded)}"] if coded else []),
        f"Time     {_time(task)}",
        f"Parts    {len(task.learning):,} to learn from, {len(task.validating):,} for validation, "
        f"{len(task.testing):,} for the test{apart}; scaled by mean and deviation of the first",
    ]
    if found.missing:
        cells = found.steps * len(task.mean)
        lines.append(f"Missing  {found.missing:,} of {cells:,} cells, read as the mean of their column")
    if task.shared:
        lines.append(f"Shared   {_shared(task)}")
    ends = " from both ends" if recipe.bidirectional else ""
    return [*lines, f"Batches  of {recipe.batch} sequences{ends}"]


def _time(task: Labelled) -> str:
    if task.steps is not None:
        spans = [f"{columns[0]} to {columns[-1]}" for columns in task.steps.values()]
        return f"the columns {shortened(spans)} are the steps, in this order"
    if task.roles.time:
        return f"{task.roles.time} orders the steps"
    if max(map(len, task.all.x)) == 1:
        return "every sequence has one row, read as one step; --inputs without --sequence names columns that are steps"
    return "the steps of a sequence stand in order"


def _shared(task: Labelled) -> str:
    return (
        f"{task.shared:,} of {len(task.testing):,} sequences of the test part have the same values as one learnt from."
    )


def conclusion(say: Say, program: str, run: runs.Run, training: Training) -> None:
    task = training.task
    assert isinstance(task, Labelled)
    out = shlex.quote(str(run.path))
    if task.testing:
        before = (run.path / CONFUSION).exists()
        counted = outcome(run, training)
        read = "test part, read before: a figure to choose by no more" if before else "test part, read once"
        _report(say, counted, task.classes, _most_frequent(task), read)
        say(f"The matrix is in {run.path / CONFUSION}.\n")
    say("What next:")
    say(f"  {program} classify {out} {shlex.quote(task.test_source) if task.test_source else 'FILE'}", "cyan")


def last_event(run: runs.Run, training: Training) -> dict[str, Any]:
    """The test as a line of JSON."""
    task = training.task
    assert isinstance(task, Labelled)
    counted = outcome(run, training) if task.testing else None
    facts = None if counted is None else {**_facts(counted, task.classes), "shared": task.shared}
    return {"event": "test", "test": facts}


def outcome(run: runs.Run, training: Training) -> np.ndarray:
    """The confusion matrix of the best weights on the test part, saved in the run."""
    task = training.task
    assert isinstance(task, Labelled)
    counted = labelled.confusion(*labelled.outputs(training.model, task.testing))
    runs.add(run.path, {CONFUSION: _as_csv(counted, task.classes).encode()})
    return counted


def _facts(counted: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    right = float(np.trace(counted) / counted.sum())
    return {"accuracy": right, "classes": list(classes), "confusion": counted.tolist()}


def classify(run: Path, file: Path, out: Path | None, written: Mapping[str, Any], *, json: bool) -> None:
    settings, model = runs.load(run)
    if settings.task != Labelled.name:
        raise InputError(
            f"This command needs a run that was trained on labelled sequences; {run} was trained for the task "
            f"{settings.task!r}. bptt --help lists the commands for it."
        )
    about = settings.about
    roles, classes = labelled.roles_of(about), list(about["classes"])
    source = table.read(file, dialect.Dialect.of(about).but(written))
    if roles.steps is None:
        source.require([*filter(None, (roles.sequence, roles.time)), *roles.inputs])
    found = labelled.sequences(source, roles, labelled=False)
    mean, sd = np.array(about["mean"]), np.array(about["sd"])
    o, _ = labelled.outputs(model, [(labelled.scaled(x, mean, sd), 0) for x in found.x])
    chances, said = o.softmax(-1).max(-1)
    rows = [
        (name, classes[int(number)], float(chance), label)
        for name, number, chance, label in zip(found.names, said, chances, found.labels, strict=True)
    ]
    known = [n for n, label in enumerate(found.labels) if label in classes]
    counted = labelled.confusion(o[known], torch.tensor([classes.index(str(found.labels[n])) for n in known]).long())
    if out is not None:
        outputs.write("a classification", {out: _rows_as_csv(roles, rows).encode()}, made_from=source.source)
    if json:
        facts: dict[str, Any] = {
            "run": str(run),
            "sequences": [{"name": n, "said": s, "probability": p, "label": label} for n, s, p, label in rows],
        }
        if known:
            facts |= _facts(counted, classes)
        print(json_format.dumps(facts, ensure_ascii=False))
        return
    console = progress.console()
    say = say_on(console)
    if known:
        learnt = ", which the network has learnt from" if source.sha256 == settings.sha256 else ""
        _report(say, counted, classes, None, f"{file}{learnt}")
        if len(known) < len(rows):
            say(f"{len(rows) - len(known):,} more sequences have no label that the network knows.")
        if out is None:
            say("What is said of each sequence: -o FILE.csv or --json.")
    if out is not None:
        say(f"{out}: label and probability of {len(rows):,} sequences.")
    elif not known:
        printed = Printed(roles.sequence or "sequence", roles.label, "probability", box=None)
        for name, label, chance, _ in rows:
            printed.add_row(name, label, f"{chance:.3f}")
        console.print(printed)


def _most_frequent(task: Labelled) -> int:
    """The class that most sequences to learn from have."""
    return int(np.bincount([y for _, y in task.learning]).argmax())


def _report(say: Say, counted: np.ndarray, classes: Sequence[str], most_frequent: int | None, where: str) -> None:
    right, count = int(np.trace(counted)), int(counted.sum())
    rule = ""
    if most_frequent is not None:
        always = int(counted[most_frequent].sum())
        rule = f"; always saying {classes[most_frequent]!r}: {always / count:.1%}"
    say(f"{right:,} of {count:,} sequences right, {right / count:.1%} ({where}){rule}.\n", "bold")
    width = max(len(str(counted.max())), *map(len, classes)) + 1
    say("is \\ said".ljust(width + 10) + "".join(name.rjust(width) for name in classes))
    for name, row in zip(classes, counted, strict=True):
        say(name.rjust(width + 9) + " " + "".join((str(n) if n else "·").rjust(width) for n in row))
    say("")


def _as_csv(counted: np.ndarray, classes: Sequence[str]) -> str:
    return _csv([["is / said", *classes], *([name, *row] for name, row in zip(classes, counted.tolist(), strict=True))])


def _rows_as_csv(roles: Roles, rows: Sequence[tuple[str, str, float, str | None]]) -> str:
    header = [roles.sequence or "sequence", f"{roles.label} said", "probability", roles.label]
    return _csv([header, *([n, said, f"{p:.6f}", label or ""] for n, said, p, label in rows)])


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
