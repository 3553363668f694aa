"""How many cores processes that are no part of the benchmark kept busy: whether a figure can be trusted."""

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

SHORTEST_S = 0.5
TICK = os.sysconf("SC_CLK_TCK")


class Others:
    """`cores()` is their average since it was last asked, or if that is hardly a moment ago, what it said then.

    None where the system does not say.
    """

    def __init__(self, own: Iterable[int]) -> None:
        """own: processes that belong to the benchmark, besides this one and children that have ended."""
        self.own = list(own)
        self.last = self._now()
        self.answer: float | None = None

    def cores(self) -> float | None:
        now = self._now()
        if self.last is None or now is None:
            return None
        seconds, machine, own = (new - old for new, old in zip(now, self.last, strict=True))
        if seconds >= SHORTEST_S:
            self.last, self.answer = now, max(0.0, (machine - own) / seconds)
        return self.answer

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds: the clock, CPU time of the whole machine, CPU time of the benchmark."""
        try:
            user, nice, system, _, _, interrupts, soft, *_ = map(int, _fields("/proc/stat", 1))
            own = sum(_process_ticks(pid) for pid in self.own) / TICK
        except (OSError, ValueError):
            return None
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own += usage.ru_utime + usage.ru_stime
        return time.monotonic(), (user + nice + system + interrupts + soft) / TICK, own


def _fields(path: str, first: int) -> list[str]:
    return Path(path).read_text().splitlines()[0].split()[first:]


def _process_ticks(pid: int) -> int:
    """User and system time, its own and that of its ended children, found after the name, which may hold spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))
