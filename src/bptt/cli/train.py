"""`bptt train`: makes the task, the run and the training from a file and options, and shows the progress."""

import json as json_format
import shlex
import signal
import sys
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import typer

from bptt import engine, runs
from bptt.cli import labelled, series, text
from bptt.cli.derive import resolved
from bptt.cli.shell import Say, collect_signals, go_on_if_stdout_refuses, leave_when_asked, say_on
from bptt.errors import InputError
from bptt.runs import progress, workers
from bptt.sheet.cells import CELLS
from bptt.tasks import TASKS, ResumableTask, dialect, table
from bptt.train import Reason, Stop, Training

COMMANDS: dict[str, ModuleType] = {"text": text, "series": series, "labelled": labelled}
OF_COLUMNS = {
    "series": ("target", "inputs", "time", "series", *dialect.OPTIONS),
    "labelled": ("label", "sequence", "test_file", "inputs", "time", *dialect.OPTIONS),
}


def train(
    context: typer.Context,
    out: Path,
    file: Path | None,
    given: dict[str, Any],
    *,
    threads: int | None,
    resume: bool,
    overwrite: bool,
    json: bool,
) -> None:
    """given: the options on the command line for the recipe and the columns, by name."""
    go_on_if_stdout_refuses()
    if "cell" in given:
        given |= _of_cell(given["cell"])
    command = shlex.join(["bptt", *sys.argv[1:]])
    chosen = engine.choose("cpu", torch.float32)
    console = progress.console()
    say = say_on(console)
    context.with_resource(leave_when_asked())
    stopped_by: list[int] = []
    with workers.team() as team, collect_signals(stopped_by, only_once=False) if team else nullcontext():
        if team and not team.leads:
            settings = runs.Settings.from_json(team.json_from_leader())
            task, training = runs.follow(settings, file)
            stop = workers.DistributedTraining(training, task, team).run(should_stop=lambda: bool(stopped_by))
            raise typer.Exit(_exit_code(stop, stopped_by))
        started = team.once("started", runs.now()) if team else runs.now()
        if resume:
            if "epochs" in given:
                given["steps"] = None
            changes = partial(_changes, given=given)
            run, training = runs.resume(out, file, changes=changes, command=command)
        elif team and runs.began(out) == started:
            run, training = runs.resume(out, file, command=command)
        else:
            runs.check_place(out, overwrite=overwrite)
            task = _task(file, given)
            run, training = runs.start(out, task, overwrite=overwrite, command=command, started=started)
        if team:
            team.json_from_leader(run.settings.as_json())
            training = workers.DistributedTraining(training, run.task, team)
        words_of = COMMANDS[run.task.name]
        write = (lambda: words_of.sample(training)) if hasattr(words_of, "sample") else None
        with closing(run), nullcontext() if team else collect_signals(stopped_by, training.give_up):
            if json:
                print(json_format.dumps({"event": "settings", **run.settings.as_json()}), flush=True)
            else:
                adapts = threads is None and team is None
                for line in (
                    *words_of.introduction(run.task),
                    *_introduction(run.task, training, chosen, adapts, team),
                ):
                    say(line)
                say("")
            with progress.display(console, training.task, write, as_lines_of_json=json) as show:

                def watch(event: Any) -> None:
                    run.watch(event)
                    show(event)

                stop = training.run(watch=watch, save=run.save, should_stop=lambda: bool(stopped_by), threads=threads)
        if run.saved and not {*stopped_by} - {signal.SIGINT}:
            run.draw()
    complete = run.saved and stop.reason not in (*BROKEN, "interrupted")
    if complete:
        training.model.load_state_dict(training.best_weights)
        training.model.eval()
    if not json:
        program = context.find_root().info_name or "bptt"
        _conclude(say, program, run, training, stop)
        if complete:
            words_of.conclusion(say, program, run, training)
    elif complete and hasattr(words_of, "last_event"):
        print(json_format.dumps(words_of.last_event(run, training), ensure_ascii=False, allow_nan=False))
    if stop.reason in BROKEN:
        print(_diverged(run, stop), file=sys.stderr)
    raise typer.Exit(_exit_code(stop, stopped_by))


def _exit_code(stop: Stop, stopped_by: list[int]) -> int:
    if stop.reason in BROKEN:
        return 1
    return 130 if stop.reason == "interrupted" and signal.SIGINT in stopped_by else 0


def _of_cell(asked: str) -> dict[str, Any]:
    """The recipe's settings for a cell that is built in, or for the equations in a file."""
    cell = resolved(asked)
    if asked in CELLS:
        return {"cell": asked, "equations": None}
    return {"cell": "".join(c if c.isprintable() else "?" for c in cell.name), "equations": cell.text}


def _task(file: Path | None, given: dict[str, Any]) -> ResumableTask:
    """The task that the options ask for."""
    if "target" in given and "label" in given:
        raise InputError("A table holds a series, --target, or labelled sequences, --label; got both. Leave one out.")
    name = "series" if "target" in given else "labelled" if "label" in given else "text"
    if name == "text" and file is not None and table.is_table(file) and "unit" not in given:
        columns = table.read(file, dialect.Dialect.of(given)).listed()
        raise InputError(
            f"What is to be learnt from a table must be said; {file} came alone, with the columns {columns}. To "
            "forecast a series: --target COLUMN. For labelled sequences: --label COLUMN. To read it as text: --unit "
            "character. bptt look shows what is in it."
        )
    _recipe(name, given)
    return COMMANDS[name].task(file, given)


def _recipe(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the recipe of a task. Raises InputError for options that do not belong to the task."""
    fields = TASKS[name].Recipe.__dataclass_fields__
    for option in given:
        if option not in fields and option not in OF_COLUMNS.get(name, ()):
            raise InputError(
                f"--{option.replace('_', '-')} has no meaning for the task {name!r}. Leave it out; bptt train --help "
                "says which options belong together."
            )
    return {option: value for option, value in given.items() if option in fields}


def _changes(settings: runs.Settings, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the recipe among those given with --resume. Columns, if given, must be those of the run."""
    changes = _recipe(settings.task, given)
    columns = {option: value for option, value in given.items() if option not in changes}
    for name, value in COMMANDS[settings.task].kept(columns).items() if columns else ():
        if value != settings.about.get(name):
            raise InputError(
                f"A resumed training keeps its {name}, {settings.about.get(name)!r}; got {value!r}. Leave it out, or "
                "start a new run in another directory with -o."
            )
    return changes


def _introduction(
    task: ResumableTask, training: Training, chosen: engine.Choice, adapts: bool, team: workers.Team | None
) -> list[str]:
    recipe: Any = task.recipe
    weights = sum(parameter.numel() for parameter in training.model.parameters())
    length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    limit = f", at most {progress.clock(recipe.time_limit)}" if recipe.time_limit else ""
    values = f", values at {recipe.clip_value:g}" if recipe.clip_value else ""
    threads = torch.get_num_threads()
    lines = [
        f"Network  {recipe.units()}, {weights:,} weights",
        f"Recipe   {recipe.optimizer} {recipe.lr:g}, clip {recipe.clip or 'off'}{values}, {length}{limit}, "
        f"seed {recipe.seed}",
        f"Engine   {chosen.name}, {'1 thread' if threads == 1 else f'{threads} threads'}"
        + (", 1 while other programs need the cores" if adapts and threads > 1 else "")
        + (f" in each of {team.size} processes, which share the training" if team else "")
        + (f"; slow: {chosen.reason}" if chosen.slow else ""),
    ]
    if training.step:
        lines.append(f"Resumed  at step {training.step:,} of {training.total_steps:,}, epoch {training.epoch:.1f}")
    return lines


BROKEN: tuple[Reason, ...] = ("not finite", "held out not finite")

_ENDINGS: dict[Reason, str] = {
    "finished": "Done",
    "time limit": "Time limit reached",
    "no improvement": "No further improvement",
    "interrupted": "Stopped as asked",
    "not finite": "Stopped by NaN or infinity",
    "held out not finite": "Stopped by NaN or infinity in the held-out part",
}


def _conclude(say: Say, program: str, run: runs.Run, training: Training, stop: Stop) -> None:
    task = training.task
    rate = f", {stop.items / stop.seconds:,.0f} {task.items}/s" if stop.seconds else ""
    say(
        f"\n{_ENDINGS[stop.reason]} after {stop.epoch:.4g} epochs: step {stop.step:,} of {training.total_steps:,}, "
        f"{progress.clock(stop.seconds)}{rate}."
    )
    if stop.loss is not None:
        at = "" if stop.best_step == stop.step else f", reached at step {stop.best_step:,}"
        say(f"{task.measure.factor * stop.loss:.3f} {task.measure.name}, held out{at}.", "bold")
    if not run.saved:
        say(f"Nothing was saved; {run.path} is as it was.")
    if stop.reason in BROKEN or not run.saved:
        return
    say(f"Saved in {run.path}: {runs.WEIGHTS}, {runs.SETTINGS}, {runs.LOG}, {runs.CHECKPOINT}, {runs.CURVE}\n")
    if stop.reason == "interrupted":
        say("Go on from here:")
        say(f"  {program} train -o {shlex.quote(str(run.path))} --resume", "cyan")


def _diverged(run: runs.Run, stop: Stop) -> str:
    kept = f"{run.path / runs.WEIGHTS} holds the last good weights" if run.saved else "Nothing was saved"
    what = f"the loss and its gradient must be finite; at step {stop.step + 1} they were not"
    if stop.reason == "held out not finite":
        what = f"the loss of the held-out part must be finite; after step {stop.step} it was not"
    return (
        f"Error: {what}. {kept}. Train again "
        f"with a smaller --lr or --clip: bptt train -o {shlex.quote(str(run.path))} --resume --lr ..."
    )
