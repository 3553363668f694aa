"""Peers in alternation: everybody is visited in every round, so whatever the machine does happens to all of them.

Each visit is a number of calls that fills `VISIT_S`; the order turns by one from round to round. The figure of an entry
is the median over all calls of all rounds; the quartiles go with it.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.worker import Request, Worker, WorkerError

Key = TypeVar("Key", bound=Hashable)

VISIT_S = 0.03
MOST_CALLS = 300


@dataclass(frozen=True)
class Effort:
    """How long to go on: rounds until `seconds` are over, but at least `fewest` and at most `most`."""

    seconds: float
    fewest: int
    most: int


FULL = Effort(6.0, 7, 40)
BRIEF = Effort(1.0, 3, 10)


@dataclass(frozen=True)
class Entry:
    worker: Worker
    request: Request
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


@dataclass(frozen=True)
class Timing:
    median_s: float
    quartiles_s: tuple[float, float]
    calls: int
    cores: float


def alternate(entries: Mapping[Key, Entry], effort: Effort) -> dict[Key, Timing | str]:
    """The timing of each entry, or what its peer said when it failed. The work must have been prepared."""
    seconds: dict[Key, list[float]] = {key: [] for key in entries}
    cores: dict[Key, list[float]] = {key: [] for key in entries}
    failures: dict[Key, str] = {}
    calls: dict[Key, int] = {}
    order = list(entries)
    end = time.monotonic() + effort.seconds
    for done in range(-1, effort.most):
        if done >= effort.fewest and time.monotonic() > end:
            break
        for key in order[done % len(order) :] + order[: done % len(order)] if order else []:
            if key in failures:
                continue
            entry = entries[key]
            try:
                if entry.before:
                    entry.before()
                visit = entry.worker.visit(entry.request, calls.get(key, 1))
            except WorkerError as error:
                failures[key] = str(error)
                continue
            finally:
                if entry.after:
                    entry.after()
            if done < 0:
                calls[key] = max(1, min(MOST_CALLS, round(VISIT_S / visit.seconds[0])))
                continue
            seconds[key] += visit.seconds
            cores[key].append(visit.cores)
    return {key: failures.get(key) or _timing(seconds[key], cores[key]) for key in entries}


def _timing(seconds: list[float], cores: list[float]) -> Timing:
    lower, median, upper = statistics.quantiles(seconds, n=4)
    return Timing(median, (lower, upper), len(seconds), statistics.median(cores))
