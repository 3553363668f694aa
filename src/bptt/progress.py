"""A training as a person or a program watches it: a live bar in a terminal, plain lines in a pipe, JSON lines.

All three carry the same: loss, bits per character, held-out bits, characters per second, clip rate, time left.
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bptt.train import Evaluation, Event, Recipe, Steps, Stop, as_json

SECONDS_PER_LINE = 5.0
SAMPLES = 4


class Display(Protocol):
    """Shows a training from `__enter__` to `__exit__`; called with each event."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, event: Event) -> None: ...


def console() -> Console:
    """stdout; a terminal with NO_COLOR set is written to like a pipe, without any control codes."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return Console(highlight=False, force_terminal=False if plain else None)


def display(console: Console, recipe: Recipe, sample: Callable[[], str], *, as_lines_of_json: bool) -> Display:
    """The display that suits where the output goes. sample: a few lines from the network as it is now."""
    if as_lines_of_json:
        return JsonLines()
    if console.is_terminal:
        return Live(console, recipe, sample)
    return PlainLines(console, recipe, sample)


class JsonLines:
    """Each event as one line on stdout."""

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        print(json.dumps(as_json(event)), file=sys.stdout, flush=True)


class PlainLines:
    """A line every few seconds, and a sample at each quarter of the training."""

    def __init__(self, console: Console, recipe: Recipe, sample: Callable[[], str]) -> None:
        self.console, self.recipe, self.sample = console, recipe, sample
        self.held_out: float | None = None
        self.latest: Steps | None = None
        self.sampled = 0
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)
        self.shown_at = time.monotonic()

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        match event:
            case Steps():
                self.latest = event
                self.recent.append((event.seconds, event.tokens))
                self.show(event)
            case Evaluation():
                self.held_out = event.bits
                quarter = int(self.latest.done * SAMPLES) if self.latest else 0
                if self.sampled < quarter < SAMPLES:
                    self.sampled = quarter
                    self.console.print(
                        f"\nEpoch {event.epoch:.4g}: {event.bits:.3f} bits per character held out. It writes:",
                        highlight=False,
                    )
                    self.console.print(self.sample() + "\n", style="italic", markup=False)
            case Stop():
                if self.latest:
                    self.finish(self.latest)

    def show(self, event: Steps) -> None:
        if time.monotonic() - self.shown_at > SECONDS_PER_LINE:
            self.finish(event)

    def finish(self, event: Steps) -> None:
        self.shown_at = time.monotonic()
        self.console.print(self.line(event), markup=False, soft_wrap=True)

    @property
    def rate(self) -> float:
        """Tokens per second over the last 500 steps or so."""
        (seconds, tokens), (seconds_now, tokens_now) = self.recent[0], self.recent[-1]
        if seconds_now > seconds:
            return (tokens_now - tokens) / (seconds_now - seconds)
        return self.latest.tokens_per_second if self.latest else 0.0

    def line(self, event: Steps) -> str:
        of = f"/{self.recipe.epochs}" if self.recipe.steps is None else ""
        held_out = f"  held out {self.held_out:.3f}" if self.held_out is not None else ""
        return (
            f"epoch {event.epoch:.1f}{of}  loss {event.loss:.3f}  {event.bits:.3f} bits/char{held_out}"
            f"  {self.rate:,.0f} chars/s  clipped {event.clipped:.0%}  {clock(event.seconds_left)} left"
        )


class Live(PlainLines):
    """A bar that stays at the bottom while samples scroll by."""

    def __enter__(self) -> "Live":
        self.progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f}%"),
            TextColumn("[bold]{task.description}", markup=True),
            console=self.console,
            refresh_per_second=4,
            expand=True,
        )
        self.task = self.progress.add_task("starting", total=1.0)
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, event: Steps) -> None:
        held_out = f"·held out {self.held_out:.3f}" if self.held_out is not None else ""
        thousands = self.rate / 1000
        description = (
            f"loss {event.loss:.3f}·{event.bits:.2f} bits/char{held_out}·{thousands:.0f}k chars/s·"
            f"clip {event.clipped:.0%}·{clock(event.seconds_left)} left"
        )
        self.progress.update(self.task, completed=event.done, description=description)

    def finish(self, event: Steps) -> None:
        self.show(event)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
