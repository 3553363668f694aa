"""`bptt train`: from a file and options to a task, a run directory and a training that is watched."""

import json as json_format
import math
import shlex
import signal
import sys
import warnings
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer

from bptt import progress, runs, sweeps, table, workers
from bptt.cli import labelled, series, text
from bptt.cli.shell import Say, collect_signals, go_on_if_stdout_refuses, leave_on_sigterm, was_given
from bptt.errors import InputError, SlowEngineWarning
from bptt.tasks import TASKS, KnownTask
from bptt.train import Reason, Stop, Training

COMMANDS: dict[str, ModuleType] = {"text": text, "series": series, "labelled": labelled}
TEXT, TABLE, SERIES, LABELLED = "Text", "Tables", "Series", "Labelled sequences"
NETWORK, LENGTH = "Network", "Training"
OF_COLUMNS = {
    "series": ("target", "inputs", "time"),
    "labelled": ("label", "sequence", "test_file", "inputs", "time"),
}


def train(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="RUN", help="Directory for everything the training leaves behind.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Any text in UTF-8, or a table (CSV, Parquet). Without it: the English text that ships with CPython."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to forecast; several with commas, or the option again.", rich_help_panel=SERIES, metavar="NAME"
        ),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps to forecast at once.", rich_help_panel=SERIES, show_default="1")
    ] = None,
    season: Annotated[
        int | None, typer.Option(help="Steps of a season.", rich_help_panel=SERIES, show_default="found")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Steps the network reads to forecast.", rich_help_panel=SERIES, show_default="2 seasons, at least 32"
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="What the network corrects: linear, last, season, none or auto, the best in validation.",
            rich_help_panel=SERIES,
            show_default="auto",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column with what a sequence is, which is to be learnt.", rich_help_panel=LABELLED),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="Column that says which sequence a row belongs to.", rich_help_panel=LABELLED)
    ] = None,
    test_file: Annotated[
        Path | None, typer.Option(help="A table of its own for the test part.", rich_help_panel=LABELLED)
    ] = None,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Read from both ends.", rich_help_panel=LABELLED)
    ] = False,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Rare labels count as much as frequent ones.", rich_help_panel=LABELLED)
    ] = False,
    inputs: Annotated[
        str | None,
        typer.Option(
            help="Columns to read, with commas.",
            rich_help_panel=TABLE,
            show_default="series: none, labelled: all others",
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Column that orders the steps; of a series, none: rows are even steps.",
            rich_help_panel=TABLE,
            show_default="series: found, labelled: as they stand",
        ),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Share that judges the weights.", rich_help_panel=TABLE, show_default="0.15"),
    ] = None,
    test: Annotated[
        float | None,
        typer.Option(
            help="Share that is read once, at the end.",
            rich_help_panel=TABLE,
            show_default="series: 0.15, labelled: 0.2",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Windows or sequences in a batch.", rich_help_panel=TABLE, show_default="series: 32, labelled: 16"
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="character, byte or word.", rich_help_panel=TEXT, show_default="character"),
    ] = None,
    words: Annotated[
        int | None,
        typer.Option(help="Words told apart; rarer ones become <unk>.", rich_help_panel=TEXT, show_default="10000"),
    ] = None,
    bptt: Annotated[
        str | None,
        typer.Option(
            help="Window k2: steps through which the gradient goes back, or full.",
            rich_help_panel=TEXT,
            show_default="64",
        ),
    ] = None,
    k1: Annotated[
        int | None,
        typer.Option(help="Steps between two updates.", rich_help_panel=TEXT, show_default="the window"),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(help="Parts of the text read side by side.", rich_help_panel=TEXT, show_default="32"),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Share of the text, at its end, to judge by; 0: none.", rich_help_panel=TEXT, show_default="0.05"
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            help="Hidden units.", rich_help_panel=NETWORK, show_default="text: 256, series: 16 or 32, labelled: 64"
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers, one above the other.", rich_help_panel=NETWORK, show_default="1")
    ] = None,
    nonlinearity: Annotated[
        str | None,
        typer.Option(help="tanh, relu, sigmoid or identity.", rich_help_panel=NETWORK, show_default="tanh"),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam or sgd.", rich_help_panel=LENGTH, show_default="adam")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start; it falls linearly to zero.", rich_help_panel=LENGTH, show_default="0.003"
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            help="Gradients with a larger norm are scaled down to it; inf: never.",
            rich_help_panel=LENGTH,
            show_default="1",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the data; of a series, at most 100 batches each.",
            rich_help_panel=LENGTH,
            show_default="text: 28, series: 30, labelled: 60",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, instead of --epochs.", rich_help_panel=LENGTH)] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds after which to end; the learning rate is zero by then.", rich_help_panel=LENGTH),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="End after so many epochs without improvement on what is held out.", rich_help_panel=LENGTH),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same weights.", rich_help_panel=LENGTH, show_default="0")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in RUN.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines and nothing else.")] = False,
) -> None:
    """Train a network: on a text, to write like it; a series, to forecast it; labelled sequences, to tell them apart.

    Ctrl-C ends a training with everything saved (exit code 130; SIGTERM the same, exit code 0).

    --resume goes on from there as if nothing had happened, to the bit.

    Several processes, on one machine or many, share a training when torchrun starts them; a killed one comes back.

    [bold]Examples[/bold]

    [cyan]bptt train -o runs/demo[/cyan]   # a minute on the English text that ships with CPython

    [cyan]bptt train -o runs/demo --resume --epochs 40[/cyan]   # the same, longer

    [cyan]bptt train README.md -o runs/readme --streams 4 --epochs 50[/cyan]   # any text

    [cyan]bptt train README.md -o runs/words --unit word --streams 4 --epochs 50[/cyan]   # word by word

    [cyan]bptt train -o runs/big --hidden 512 --layers 2 --time-limit 600[/cyan]   # ten minutes

    [cyan]torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m bptt train -o runs/two[/cyan]   # two workers

    [cyan]bptt train air.csv -o runs/air --target passengers --horizon 12[/cyan]   # a year of months ahead

    [cyan]bptt train vowels.csv -o runs/vowels --label speaker --sequence utterance[/cyan]   # whose voice it is
    """
    options = {
        "target": target, "horizon": horizon, "season": season, "window": window, "base": base,
        "label": label, "sequence": sequence, "test_file": test_file, "bidirectional": bidirectional,
        "balanced": balanced, "inputs": inputs, "time": time, "validation": validation, "test": test, "batch": batch,
        "unit": unit, "words": words, "bptt": _steps_or_full(bptt), "k1": k1, "streams": streams, "held_out": held_out,
        "hidden": hidden, "layers": layers, "nonlinearity": nonlinearity,
        "optimizer": optimizer, "lr": lr, "clip": None if clip == math.inf else clip, "epochs": epochs, "steps": steps,
        "time_limit": time_limit, "patience": patience, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if was_given(context, name)}
    if "epochs" in given and "steps" in given:
        raise InputError("The length of a training is --epochs or --steps; got both. Leave one out.")
    if resume and overwrite:
        raise InputError("A run is either gone on with or replaced; got both --resume and --overwrite. Leave one out.")
    go_on_if_stdout_refuses()
    command = shlex.join(["bptt", *sys.argv[1:]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowEngineWarning)
        engine = sweeps.choose("cpu", torch.float32)
    console = progress.console()

    def say(line: str, style: str | None = None) -> None:
        console.print(line, style=style, markup=False, soft_wrap=True)

    context.with_resource(leave_on_sigterm())
    stopped_by: list[int] = []
    with workers.team() as team, collect_signals(stopped_by, only_once=False) if team else nullcontext():
        if team and not team.leads:
            settings = runs.Settings.from_json(team.json_from_leader())
            task, training = runs.follow(settings, file)
            stop = workers.Share(training, task, team).run(should_stop=lambda: bool(stopped_by))
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
            training = workers.Share(training, run.task, team)
        words_of = COMMANDS[run.task.name]
        write = (lambda: words_of.sample(training)) if hasattr(words_of, "sample") else None
        with closing(run), nullcontext() if team else collect_signals(stopped_by, training.give_up):
            if json:
                print(json_format.dumps({"event": "settings", **run.settings.as_json()}), flush=True)
            else:
                for line in (*words_of.introduction(run.task), *_introduction(run.task, training, engine)):
                    say(line)
                say("")
            with progress.display(console, training.task, write, as_lines_of_json=json) as show:

                def watch(event: Any) -> None:
                    run.watch(event)
                    show(event)

                stop = training.run(watch=watch, save=run.save, should_stop=lambda: bool(stopped_by))
        if run.saved and signal.SIGTERM not in stopped_by:
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


def _task(file: Path | None, given: dict[str, Any]) -> KnownTask:
    """The task that the options ask for."""
    if "target" in given and "label" in given:
        raise InputError("A table holds a series, --target, or labelled sequences, --label; got both. Leave one out.")
    name = "series" if "target" in given else "labelled" if "label" in given else "text"
    if name == "text" and file is not None and table.is_table(file) and "unit" not in given:
        raise InputError(
            f"What is to be learnt from a table must be said; {file} came alone. To forecast a series: --target "
            "COLUMN. For labelled sequences: --label COLUMN. To read it as text: --unit character"
        )
    _recipe(name, given)
    return COMMANDS[name].task(file, given)


def _recipe(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that belong to the recipe of a task. Raises InputError for those that do not belong to the task."""
    fields = TASKS[name].Recipe.__dataclass_fields__
    for option in given:
        if option not in fields and option not in OF_COLUMNS.get(name, ()):
            raise InputError(
                f"--{option.replace('_', '-')} has no meaning for the task {name!r}. Leave it out; bptt train --help "
                "says which options belong together."
            )
    return {option: value for option, value in given.items() if option in fields}


def _changes(settings: runs.Settings, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the recipe among those given with --resume. The columns must be those of the run, if given."""
    changes = _recipe(settings.task, given)
    columns = {option: value for option, value in given.items() if option not in changes}
    for name, value in COMMANDS[settings.task].kept(columns).items() if columns else ():
        if value != settings.about.get(name):
            raise InputError(
                f"A resumed training keeps its {name}, {settings.about.get(name)!r}; got {value!r}. Leave it out, or "
                "start a new run in another directory with -o."
            )
    return changes


def _steps_or_full(text: str | None) -> int | str | None:
    if text in (None, "full"):
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--bptt is a number of steps, or full for whole streams; got {text!r}.") from None


def _introduction(task: KnownTask, training: Training, engine: sweeps.Choice) -> list[str]:
    recipe: Any = task.recipe
    weights = sum(parameter.numel() for parameter in training.model.parameters())
    stack = f"{recipe.layers} x " if recipe.layers > 1 else ""
    length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    limit = f", at most {progress.clock(recipe.time_limit)}" if recipe.time_limit else ""
    lines = [
        f"Network  {stack}{recipe.hidden} {recipe.nonlinearity} units, {weights:,} weights",
        f"Recipe   {recipe.optimizer} {recipe.lr:g}, clip {recipe.clip or 'off'}, {length}{limit}, seed {recipe.seed}",
        f"Engine   {engine.name}, {torch.get_num_threads()} threads"
        + (f"; slow: {engine.reason}" if engine.slow else ""),
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
