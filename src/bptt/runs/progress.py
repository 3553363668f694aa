"""The progress of a training: a live bar in a terminal, plain lines in a pipe, or lines of JSON.

All three show the loss in nats and in the unit of the task, of training and held-out part, the items per second, the
share of clipped steps, and the time left.
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

from bptt.train import Evaluation, Event, Steps, Stop, Task, as_json

SECONDS_PER_LINE = 5.0
SAMPLES = 4


class Display(Protocol):
    """Shows a training from `__enter__` to `__exit__`; called with each event."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, event: Event) -> None: ...


def console() -> Console:
    """stdout. With NO_COLOR, a terminal gets plain text like a pipe, without control codes."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return Console(highlight=False, force_terminal=False if plain else None)


def display(
    console: Console, task: Task, sample: Callable[[], str] | None = None, *, as_lines_of_json: bool = False
) -> Display:
    """The display that suits the output. sample: text that the network writes now, where its task is text."""
    if as_lines_of_json:
        return JsonLines(task)
    if console.is_terminal:
        return Live(console, task, sample)
    return PlainLines(console, task, sample)


class JsonLines:
    """Each event as one line on stdout."""

    def __init__(self, task: Task) -> None:
        self.measure = task.measure

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        print(json.dumps(as_json(event, self.measure)), file=sys.stdout, flush=True)


class PlainLines:
    """A line every few seconds, and a sample at each quarter of the training."""

    def __init__(self, console: Console, task: Task, sample: Callable[[], str] | None) -> None:
        self.console, self.task, self.sample = console, task, sample
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
                self.recent.append((event.seconds, event.items))
                self.show(event)
            case Evaluation():
                self.held_out = self.task.measure.factor * event.loss
                quarter = int(self.latest.done * SAMPLES) if self.latest else 0
                if self.sample and self.sampled < quarter < SAMPLES:
                    self.sampled = quarter
                    self.console.print(
                        f"\nEpoch {event.epoch:.4g}: {self.held_out:.3f} {self.task.measure.name} held out. It writes:",
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
        """Items per second over the last 500 steps or so."""
        (seconds, items), (seconds_now, items_now) = self.recent[0], self.recent[-1]
        if seconds_now > seconds:
            return (items_now - items) / (seconds_now - seconds)
        return self.latest.items_per_second if self.latest else 0.0

    def line(self, event: Steps) -> str:
        of = f"/{self.task.recipe.epochs}" if self.task.recipe.steps is None else ""
        held_out = f"  held out {self.held_out:.3f}" if self.held_out is not None else ""
        return (
            f"epoch {event.epoch:.1f}{of}  loss {event.loss:.3f}{self.said(event, '  ', 3)}{held_out}"
            f"  {self.rate:,.0f} {self.task.items}/s  clipped {event.clipped:.0%}  {clock(event.seconds_left)} left"
        )

    def said(self, event: Steps, before: str, digits: int) -> str:
        """The loss in the unit of the measure, where that is another number."""
        measure = self.task.measure
        return "" if measure.factor == 1 else f"{before}{measure.factor * event.loss:.{digits}f} {measure.short}"


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
        self.bar = self.progress.add_task("starting", total=1.0)
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, event: Steps) -> None:
        held_out = f"·held out {self.held_out:.3f}" if self.held_out is not None else ""
        rate = f"{self.rate / 1000:.0f}k" if self.rate >= 10_000 else f"{self.rate:.0f}"
        description = (
            f"loss {event.loss:.3f}{self.said(event, '·', 2)}{held_out}·{rate} {self.task.items}/s·"
            f"clip {event.clipped:.0%}·{clock(event.seconds_left)} left"
        )
        self.progress.update(self.bar, completed=event.done, description=description)

    def finish(self, event: Steps) -> None:
        self.show(event)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
