"""How many threads a training works on: all it may have, or one while other programs need the cores.

Threads that share out a step wait for the slowest of them. While another program takes turns with one of them on its
core, all of them wait for that turn, and one thread alone is the faster way. No system says so in a portable way, so
both ways are timed: now and then a short trial of the other one, and the faster one goes on.

The bits of a training's weights do not depend on the number of threads (tests/test_threads.py).
"""

from collections.abc import Callable

import torch

TRIAL_SECONDS = 0.15  # of steps, and at least two of them
GAIN = 1.05  # how much faster the other way must be
DROP = 0.7  # a rate below this share of what it was calls for a trial at once
SHORTEST_PATIENCE, LONGEST_PATIENCE = 4, 64  # between two trials, as a multiple of what the last one took


class Threads:
    """Within `with`, torch and the engine work on `number` threads; afterwards on as many as before.

    number   to begin with and at most; None: as many as torch has
    steady   it stays at `number`
    apply    what sets the number of threads

    The next trial comes after 4 times what the last one took, so that trials stay a small share of the time where one
    thread is many times slower; each that confirms the present way doubles this, up to 64 times.
    """

    def __init__(
        self, number: int | None = None, *, steady: bool = False, apply: Callable[[int], None] = torch.set_num_threads
    ) -> None:
        self.number = self._most = number or torch.get_num_threads()
        self._tries = self._most > 1 and not steady
        self._apply = apply
        self._patience = SHORTEST_PATIENCE
        self._on_trial = False
        self._before = 0.0  # items per second when the last trial ended
        self._rate = 0.0  # items per second of late
        self._cost, self._since = TRIAL_SECONDS, 0.0  # seconds of the last trial, and since
        self._begin_window()

    def __enter__(self) -> "Threads":
        self._outside = torch.get_num_threads()
        self._apply(self.number)
        return self

    def __exit__(self, *error: object) -> None:
        self._apply(self._outside)

    def learn(self, seconds: float, items: int) -> None:
        """What the last step took on `number` threads; sets the number for the next one."""
        if not self._tries:
            return
        self._since += seconds
        self._steps += 1
        if self._steps == 0:  # the first one after a change wakes threads up
            return
        self._seconds += seconds
        self._items += items
        if self._steps < 2 or self._seconds < TRIAL_SECONDS:
            return
        rate = self._items / self._seconds
        if self._on_trial:
            self._decide(rate)
        else:
            self._rate = rate
            patience = SHORTEST_PATIENCE if rate < DROP * self._before else self._patience
            self._begin_window()
            if self._since >= patience * self._cost:
                self._take_the_other()
                self._on_trial, self._since = True, 0.0

    def _decide(self, rate: float) -> None:
        self._on_trial, self._cost, self._since = False, self._since, 0.0
        if rate > GAIN * self._rate:
            self._patience, self._before = SHORTEST_PATIENCE, rate
            self._begin_window()
        else:
            self._patience, self._before = min(2 * self._patience, LONGEST_PATIENCE), self._rate
            self._take_the_other()

    def _take_the_other(self) -> None:
        self.number = 1 if self.number == self._most else self._most
        self._apply(self.number)
        self._begin_window()
        self._steps = -1

    def _begin_window(self) -> None:
        self._steps, self._items, self._seconds = 0, 0, 0.0
