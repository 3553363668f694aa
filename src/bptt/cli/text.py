"""Text on the command line: `bptt generate`, `bptt score`, `bptt inspect`, and the messages of `bptt train`."""

import json as json_format
import math
import shlex
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bptt import runs
from bptt.cli.shell import Say
from bptt.errors import InputError
from bptt.files import outputs
from bptt.nn import Network
from bptt.tape import player, record
from bptt.tasks import Text, data
from bptt.tasks import score as scoring
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


def generate(run: Path, prime: str | None, length: int, drawing: Mapping[str, Any], *, json: bool) -> None:
    """drawing: the keyword arguments of `forcing.continuation`."""
    _, vocabulary, model = _load(run)
    prime = _opening(vocabulary) if prime is None else prime
    tokens = forcing.continuation(model, vocabulary.encode(prime), length, **drawing)
    if json:
        text = vocabulary.decode(tokens)
        facts = {"run": str(run), "prime": prime, **drawing, "text": text}
        print(json_format.dumps(facts, ensure_ascii=False))
        return
    print(prime, end="")
    for piece in vocabulary.pieces(tokens):
        print(piece, end="", flush=True)
    print()


def score(run: Path, file: Path, *, lines: bool, json: bool) -> None:
    settings, vocabulary, model = _load(run)
    unit = vocabulary.unit
    if str(file) == "-":
        content = b"" if sys.stdin is None else sys.stdin.buffer.read()
        text = data.of_bytes(content, "standard input", "The text to score must not be empty; standard input")
    else:
        text = data.read(file, "score")
    tokens = _encoded(text, vocabulary)
    if len(tokens) < 2:
        raise InputError(
            f"A text to score needs at least two {unit}s, to read one and expect the next; {text.source} has one."
        )
    bits = scoring.bits(model, tokens)
    mean, perplexity, scale = float(bits.mean()), float(np.exp2(bits.mean())), scoring.by_frequency(tokens)
    unknown = int((tokens == len(vocabulary) - 1).sum()) if unit == "word" else 0
    found = scoring.lines(text, vocabulary, bits) if lines else []
    if json:
        facts: dict[str, Any] = {"run": str(run), "file": text.source, "unit": unit, "items": len(bits), "bits": mean}
        facts |= {"perplexity": perplexity if math.isfinite(perplexity) else None, "bits_by_frequency": scale}
        facts |= {"unknown": unknown} if unit == "word" else {}
        each = [{"line": n, "items": items, "bits": bits / items, "text": text} for n, items, bits, text in found]
        facts |= {"lines": each} if lines else {}
        print(json_format.dumps(facts, ensure_ascii=False))
        return
    learnt = ", which the network has learnt from" if text.sha256 == settings.sha256 else ""
    print(
        f"{text.source}{learnt}: {mean:.3f} bits per {unit}, perplexity {perplexity:.4g}, over {len(bits):,} {unit}s."
    )
    print(f"For scale: {scale:.3f} bits where each {unit} is drawn by its frequency in this text.")
    print("Read as one stream from the zero state: a line is expected from all lines before it.")
    if unknown:
        print(f"{unknown:,} of {len(tokens):,} words are none the network knows, and count as {data.UNKNOWN}.")
    if lines:
        print(f"\n{'line':>7} {'bits':>7} {unit + 's':>10}  text, the least expected first")
    for line in sorted(found, key=lambda line: -line.bits / line.items):
        shown = "".join(c if c.isprintable() else " " for c in line.text[:60]) + "..." * (len(line.text) > 60)
        print(f"{line.number:>7} {line.bits / line.items:>7.3f} {line.items:>10,}  {shown}")


def _encoded(text: data.Corpus, vocabulary: Vocabulary) -> Tensor:
    """The tokens. Raises InputError with the place of the first character that the vocabulary does not have."""
    if unknown := vocabulary.unknown(text.characters if vocabulary.unit == "character" else ""):
        before = text.characters[: min(map(text.characters.index, unknown))]
        raise InputError(
            f"Every character must be among the {len(vocabulary)} of the text the model was trained on; line "
            f"{before.count(chr(10)) + 1} of {text.source} has {text.characters[len(before)]!a}; unknown in all: "
            f"{data.listed(unknown)}. Replace them, or train with --unit byte, which knows every text."
        )
    return vocabulary.encode(text)


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
            f"This command continues, scores or plays a text, and needs a run that was trained on one; {run} was "
            f"trained for the task {settings.task!r}. bptt --help lists the commands for it."
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
