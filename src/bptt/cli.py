"""The command line: `bptt train`, `bptt generate`, `bptt inspect`, `bptt trace`.

Exit codes: 0 done, or stopped by SIGTERM with everything saved; 1 the training ran into NaN or infinity; 2 something
that was given cannot be used; 130 stopped by Ctrl-C with everything saved.
"""

import json as json_format
import math
import shlex
import shutil
import signal
import sys
import warnings
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from typer.core import TyperGroup

from bptt import data, forcing, progress, runs, sweeps, worked
from bptt import trace as printed
from bptt.data import Vocabulary
from bptt.errors import InputError, SlowEngineWarning
from bptt.nn import Elman
from bptt.tape import record
from bptt.train import Reason, Recipe, Stop, Training

DEMO = Recipe()


class Commands(TyperGroup):
    """A mistake in what was given ends a command with its message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode="rich")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    app(prog_name=_as_called())


def _as_called() -> str:
    """What to type for this program to run again: "bptt" where the shell finds it, else the path it was called by."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(_shortest(Path(sys.executable)))} -m bptt"
    on_path = shutil.which(called.name)
    if on_path is not None and Path(on_path).absolute() == called.absolute():
        return called.name
    return shlex.quote(_shortest(called))


def _shortest(path: Path) -> str:
    inside = path.absolute()
    return str(inside.relative_to(Path.cwd())) if inside.is_relative_to(Path.cwd()) else str(path)


@app.callback()
def bptt() -> None:
    """Recurrent networks and backpropagation through time: exact, fast, every number open to look at."""


@app.command(short_help="Train a network to write like a text.")
def train(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="RUN", help="Directory for everything the training leaves behind.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(help="Any text in UTF-8. Without it: the English text that ships with CPython."),
    ] = None,
    hidden: Annotated[int, typer.Option(help="Hidden units.")] = DEMO.hidden,
    layers: Annotated[int, typer.Option(help="Layers, one above the other.")] = DEMO.layers,
    nonlinearity: Annotated[str, typer.Option(help="tanh, relu, sigmoid or identity.")] = DEMO.nonlinearity,
    bptt: Annotated[int, typer.Option(help="Window: through how many steps the gradient goes back.")] = DEMO.bptt,
    streams: Annotated[int, typer.Option(help="Parts of the text read side by side.")] = DEMO.streams,
    optimizer: Annotated[str, typer.Option(help="adam or sgd.")] = DEMO.optimizer,
    lr: Annotated[float, typer.Option(help="Learning rate at the start; it falls linearly to zero.")] = DEMO.lr,
    clip: Annotated[
        float, typer.Option(help="Gradients with a larger norm are scaled down to it; inf: never.")
    ] = DEMO.clip or math.inf,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = DEMO.epochs,
    steps: Annotated[int | None, typer.Option(help="Windows to train on, instead of --epochs.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which to end; the learning rate is zero by then.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="End after so many epochs without improvement on held-out text.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the text, at its end, to judge by; 0: none.")
    ] = DEMO.held_out,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = DEMO.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in RUN.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines and nothing else.")] = False,
) -> None:
    """Train a network to predict the next character of a text, and so to write like it.

    Ctrl-C ends a training with everything saved (exit code 130; SIGTERM the same, exit code 0).

    --resume goes on from there as if nothing had happened, to the bit.

    [bold]Examples[/bold]

    [cyan]bptt train -o runs/demo[/cyan]   # a minute on the English text that ships with CPython

    [cyan]bptt train -o runs/demo --resume --epochs 40[/cyan]   # the same, longer

    [cyan]bptt train README.md -o runs/readme --streams 4 --epochs 50[/cyan]   # any text

    [cyan]bptt train -o runs/big --hidden 512 --layers 2 --time-limit 600[/cyan]   # ten minutes
    """
    options = {
        "hidden": hidden, "layers": layers, "nonlinearity": nonlinearity, "bptt": bptt, "streams": streams,
        "optimizer": optimizer, "lr": lr, "clip": None if clip == math.inf else clip, "epochs": epochs, "steps": steps,
        "time_limit": time_limit, "patience": patience, "held_out": held_out, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if _was_given(context, name)}
    if "epochs" in given and "steps" in given:
        raise InputError("The length of a training is --epochs or --steps; got both. Leave one out.")
    if resume and overwrite:
        raise InputError("A run is either gone on with or replaced; got both --resume and --overwrite. Leave one out.")
    command = shlex.join(["bptt", *sys.argv[1:]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowEngineWarning)
        engine = sweeps.choose("cpu", torch.float32)
    console = progress.console()
    with stop_on_signals() as stopped_by:
        if resume:
            if "epochs" in given:
                given["steps"] = None
            run, training = runs.resume(out, file and data.read(file), changes=given, command=command)
        else:
            text = data.read(file) if file else data.english()
            run, training = runs.start(out, text, Recipe(**given), overwrite=overwrite, command=command)
        vocabulary = run.settings.vocabulary
        if json:
            print(json_format.dumps({"event": "settings", **run.settings.as_json()}), flush=True)
        else:
            _introduce(console, run, training, engine)

        def sample(length: int = 160) -> str:
            return _sample(training.model, vocabulary, length)

        with progress.display(console, training.recipe, sample, as_lines_of_json=json) as show:

            def watch(event: Any) -> None:
                run.log(progress.as_json(event))
                show(event)

            stop = training.run(watch=watch, save=run.save, should_stop=lambda: bool(stopped_by))
        if run.saved:
            run.draw()
    if not json:
        _conclude(console, context.find_root().info_name or "bptt", run, training, stop)
    if stop.reason == "not finite":
        print(_diverged(run, stop), file=sys.stderr)
        raise typer.Exit(1)
    if stop.reason == "interrupted" and signal.SIGINT in stopped_by:
        raise typer.Exit(130)


@app.command(short_help="Let a trained network write.")
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that bptt train has written.")],
    prime: Annotated[
        str | None,
        typer.Option(help="What the network reads before it writes.", show_default='"The ", or a line break'),
    ] = None,
    length: Annotated[int, typer.Option(help="Characters to write.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="Below 1 bolder, above 1 more varied; 0: always the likeliest character.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Let a trained network continue a prime, character by character.

    [bold]Examples[/bold]

    [cyan]bptt generate runs/demo[/cyan]

    [cyan]bptt generate runs/demo --prime "The return value" --length 1000 --temperature 0.6 --seed 7[/cyan]
    """
    settings, model = runs.load(run)
    vocabulary = settings.vocabulary
    prime = _opening(vocabulary) if prime is None else prime
    tokens = forcing.continuation(model, vocabulary.encode(prime), length, temperature=temperature, seed=seed)
    if json:
        text = vocabulary.decode(tokens)
        facts = {"run": str(run), "prime": prime, "temperature": temperature, "seed": seed, "text": text}
        print(json_format.dumps(facts, ensure_ascii=False))
        return
    print(prime, end="")
    for token in tokens:
        print(vocabulary.symbols[token], end="", flush=True)
    print()


@app.command(short_help="Show forward and backward propagation, every number.")
def trace(
    example: Annotated[str, typer.Argument(metavar="EXAMPLE", help="cell, a word, numbers with commas, or bits.")],
    hidden: Annotated[int | None, typer.Option(help="Hidden units.", show_default="2 to 8, by example")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of W ← W − lr ∂W.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    nonlinearity: Annotated[
        str | None, typer.Option(help="tanh, relu, sigmoid or identity.", show_default="tanh; bits: relu")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="What numbers should lead to.", show_default="straight on")
    ] = None,
    train: Annotated[
        int | None, typer.Option(help="Updates in all.", show_default="until right, at most 10,000")
    ] = None,
    digits: Annotated[int, typer.Option(help="Significant digits to print.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Work an example through: side A forward, side B backward through time, every number with its equation.

    Then one update of every weight, training until the answer is right, and how far side B is from autograd.

    [bold]Examples[/bold]

    [cyan]bptt trace cell[/cyan]   # one cell, one step, all seventeen equations

    [cyan]bptt trace hello[/cyan]   # a word, one character at a time

    [cyan]bptt trace 1,3,5,7,9[/cyan]   # numbers, one at a time; the last output is to be 11

    [cyan]bptt trace 01101001[/cyan]   # eight bits, relu and sigmoid

    [cyan]bptt trace --lr 0.05 -- -1,0,1[/cyan]   # a first number below zero comes after --
    """
    if not 2 <= digits <= 17:
        raise InputError(f"--digits must lie in 2 to 17; got {digits}. 4 fits a terminal of 80 columns.")
    chosen = worked.example(example, hidden=hidden, lr=lr, seed=seed, nonlinearity=nonlinearity, target=target)
    result = worked.work(chosen, train)
    if json:
        print(json_format.dumps(worked.as_data(result), ensure_ascii=False, allow_nan=False))
    else:
        printed.render(result, Console(highlight=False), digits)


@app.command(short_help="Write a page that plays a trained network on a text, every number open.")
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that bptt train has written.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the network reads, at least two characters.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="The page.", show_default="RUN/inspect.html")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Play a trained network on a text: forward, then backward through time, where each number comes from.

    The page is one file that needs no network and no Python.

    [bold]Examples[/bold]

    [cyan]bptt inspect runs/demo "The return value" --open[/cyan]

    [cyan]bptt inspect runs/demo "for x in range(" -o loop.html[/cyan]
    """
    settings, model = runs.load(run)
    if len(text) < 2:
        raise InputError(
            f"A text to inspect needs at least two characters, to read one and expect the next; got {text!r}."
        )
    tokens = settings.vocabulary.encode(text).long()[:, None]
    tape = record(
        model,
        tokens[:-1],
        tokens[1:],
        text=text,
        vocabulary=list(settings.vocabulary.symbols),
        seed=settings.recipe.seed,
    )
    page = run / "inspect.html" if out is None else out
    tape.page(page)
    assert tape.L is not None
    print(
        f"{page}: {tape.steps:,} steps of {settings.recipe.hidden} units, {float(tape.L) / math.log(2):.3f} bits per "
        "character on this text."
    )
    if not show:
        print("Open it in any browser, or let --open do that.")
    elif not webbrowser.open(page.absolute().as_uri()):
        print("No browser could be started; open the page yourself.", file=sys.stderr)


def _was_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second one acts as if it were not here."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        restore()


def _opening(vocabulary: Vocabulary) -> str:
    """What a network is given to start from when nothing was said."""
    for prime in ("The ", "\n"):
        if not vocabulary.unknown(prime):
            return prime
    return vocabulary.symbols[0]


def _sample(model: Elman, vocabulary: Vocabulary, length: int) -> str:
    prime = _opening(vocabulary)
    tokens = forcing.continuation(model, vocabulary.encode(prime), length, temperature=0.8)
    return prime + vocabulary.decode(tokens)


def _introduce(console: Console, run: runs.Run, training: Training, engine: sweeps.Choice) -> None:
    settings, recipe = run.settings, training.recipe
    source = "English text of CPython" if settings.source == data.ENGLISH else settings.source
    held_out = len(training.held_out)
    weights = sum(parameter.numel() for parameter in training.model.parameters())
    stack = f"{recipe.layers} x " if recipe.layers > 1 else ""
    length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    limit = f", at most {progress.clock(recipe.time_limit)}" if recipe.time_limit else ""
    lines = [
        f"Text     {source}: {settings.characters:,} characters, {len(settings.vocabulary)} different; "
        f"{held_out:,} held out",
        f"Network  {stack}{recipe.hidden} {recipe.nonlinearity} units, {weights:,} weights",
        f"Recipe   windows of {recipe.bptt} steps x {recipe.streams} streams, {recipe.optimizer} {recipe.lr:g}, "
        f"clip {recipe.clip or 'off'}, {length}{limit}, seed {recipe.seed}",
        f"Engine   {engine.name}, {torch.get_num_threads()} threads"
        + (f"; slow: {engine.reason}" if engine.slow else ""),
    ]
    if training.step:
        lines.append(f"Resumed  at step {training.step:,} of {training.total_steps:,}, epoch {training.epoch:.1f}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print()


_ENDINGS: dict[Reason, str] = {
    "finished": "Done",
    "time limit": "Time limit reached",
    "no improvement": "No further improvement",
    "interrupted": "Stopped as asked",
    "not finite": "Stopped by NaN or infinity",
}


def _conclude(console: Console, program: str, run: runs.Run, training: Training, stop: Stop) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    out = shlex.quote(str(run.path))
    rate = f", {stop.tokens / stop.seconds:,.0f} characters/s" if stop.seconds else ""
    say(
        f"\n{_ENDINGS[stop.reason]} after {stop.epoch:.4g} epochs: step {stop.step:,} of {training.total_steps:,}, "
        f"{progress.clock(stop.seconds)}{rate}."
    )
    if stop.bits is not None:
        at = "" if stop.best_step == stop.step else f", reached at step {stop.best_step:,}"
        say(f"{stop.bits:.3f} bits per character on held-out text{at}.", "bold")
    if not run.saved:
        say(f"Nothing was saved; {run.path} is as it was.")
    if stop.reason == "not finite" or not run.saved:
        return
    say(f"Saved in {run.path}: {runs.WEIGHTS}, {runs.SETTINGS}, {runs.LOG}, {runs.CHECKPOINT}, {runs.CURVE}\n")
    if stop.reason == "interrupted":
        say("Go on from here:")
        say(f"  {program} train -o {out} --resume", "cyan")
        return
    training.model.load_state_dict(training.best_weights)
    say(_sample(training.model, run.settings.vocabulary, 400) + "\n", "italic")
    opening = _opening(run.settings.vocabulary)
    prime = f' --prime "{opening}"' if opening.isprintable() and opening not in '"\\$`!' else ""
    say("What next:")
    say(f"  {program} generate {out}{prime} --length 400 --temperature 0.8", "cyan")
    say(f"  {program} train -o {out} --resume --epochs {2 * training.recipe.epochs}", "cyan")


def _diverged(run: runs.Run, stop: Stop) -> str:
    kept = f"{run.path / runs.WEIGHTS} holds the last good weights" if run.saved else "Nothing was saved"
    return (
        f"Error: the loss and its gradient must be finite; at step {stop.step + 1} they were not. {kept}. Train again "
        f"with a smaller --lr or --clip: bptt train -o {shlex.quote(str(run.path))} --resume --lr ..."
    )
