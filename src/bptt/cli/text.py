"""Text on the command line: `bptt generate`, `bptt inspect`, and the messages of `bptt train`."""

import json as json_format
import math
import shlex
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bptt import runs
from bptt.cli.shell import Say
from bptt.errors import InputError
from bptt.files import outputs
from bptt.nn import Network
from bptt.tape import player, record
from bptt.tasks import Text, data
from bptt.tasks.data import Vocabulary
from bptt.train import Training, forcing


def task(file: Path | None, options: Mapping[str, Any]) -> Text:
    """The task of a new training."""
    recipe = Text.Recipe(**options)
    return Text(data.read(file) if file else data.english(), recipe)


def introduction(task: Text) -> list[str]:
    source = "English text of CPython" if task.source == data.ENGLISH else task.source
    recipe = task.recipe
    every = f", an update every {recipe.k1}" if recipe.k1 is not None else ""
    units = f"{recipe.unit}s"
    different = f"{len(task.vocabulary):,} {'known' if recipe.unit == 'word' else 'different'}"
    return [
        f"Text     {source}: {task.size:,} {units}, {different}; {len(task.held_out):,} held out",
        f"Windows  {_windows(task)}{every}",
    ]


def _windows(task: Text) -> str:
    recipe = task.recipe
    if recipe.bptt == "full":
        return f"none: {recipe.streams} streams from end to end, {len(task.streams) - 1:,} steps back"
    return f"of {recipe.bptt} steps x {recipe.streams} streams"


def sample(training: Training, length: int = 160) -> str:
    assert isinstance(training.task, Text)
    return _continued(training.model, training.task.vocabulary, length)


def conclusion(say: Say, program: str, run: runs.Run, training: Training) -> None:
    assert isinstance(training.task, Text)
    vocabulary, out = training.task.vocabulary, shlex.quote(str(run.path))
    say(_continued(training.model, vocabulary, 400) + "\n", "italic")
    opening = _opening(vocabulary)
    prime = f' --prime "{opening}"' if opening.isprintable() and opening not in '"\\$`!' else ""
    say("What next:")
    say(f"  {program} generate {out}{prime} --length 400 --temperature 0.8", "cyan")
    say(f"  {program} train -o {out} --resume --epochs {2 * training.recipe.epochs}", "cyan")


def generate(run: Path, prime: str | None, length: int, temperature: float, seed: int, *, json: bool) -> None:
    _, vocabulary, model = _load(run)
    prime = _opening(vocabulary) if prime is None else prime
    tokens = forcing.continuation(model, vocabulary.encode(prime), length, temperature=temperature, seed=seed)
    if json:
        text = vocabulary.decode(tokens)
        facts = {"run": str(run), "prime": prime, "temperature": temperature, "seed": seed, "text": text}
        print(json_format.dumps(facts, ensure_ascii=False))
        return
    print(prime, end="")
    for piece in vocabulary.pieces(tokens):
        print(piece, end="", flush=True)
    print()


def inspect(run: Path, text: str, out: Path | None, *, show: bool) -> None:
    settings, vocabulary, model = _load(run)
    tokens = vocabulary.encode(text).long()[:, None]
    if len(tokens) < 2:
        raise InputError(
            f"A text to inspect needs at least two {vocabulary.unit}s, to read one and expect the next; got {text!r}."
        )
    tape = record(
        model,
        tokens[:-1],
        tokens[1:],
        text=text,
        vocabulary=list(vocabulary.symbols),
        seed=settings.recipe.seed,
    )
    page = run / "inspect.html" if out is None else out
    if outputs.same_place(page, run / "inspect.html"):
        runs.add(run, {page.name: player.html(tape).encode()})
    else:
        tape.page(page)
    assert tape.L is not None
    print(
        f"{page}: {tape.steps:,} steps of {model.rnn.hidden_size} units, {float(tape.L) / math.log(2):.3f} bits per "
        f"{vocabulary.unit} on this text."
    )
    if not show:
        print("Open it in any browser, or let --open do that.")
    elif not webbrowser.open(page.absolute().as_uri()):
        print("No browser could be started; open the page yourself.", file=sys.stderr)


def _load(run: Path) -> tuple[runs.Settings, Vocabulary, Network]:
    settings, model = runs.load(run)
    if settings.task != Text.name:
        raise InputError(
            f"This command continues or plays a text, and needs a run that was trained on one; {run} was trained for "
            f"the task {settings.task!r}. bptt --help lists the commands for it."
        )
    return settings, Vocabulary.from_json(settings.about["vocabulary"]), model


def _opening(vocabulary: Vocabulary) -> str:
    """The prime where none is given."""
    for prime in ("The ", "The", "\n"):
        if not vocabulary.unknown(prime):
            return prime
    return vocabulary.symbols[0]


def _continued(model: Network, vocabulary: Vocabulary, length: int) -> str:
    prime = _opening(vocabulary)
    tokens = forcing.continuation(model, vocabulary.encode(prime), length, temperature=0.8)
    return prime + vocabulary.decode(tokens)
