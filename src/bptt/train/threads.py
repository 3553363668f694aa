"""The number of threads of a training: all that it may have, or one while other programs need the cores.

The threads that divide a step wait for the slowest of them. While another program takes turns with one of them on its
core, all wait for that turn, and a single thread is faster. There is no portable way to ask a system for this, so both
ways are timed: now and then the other one is tried for a moment, and the faster one is kept.

The bits of the weights do not depend on the number of threads (tests/test_threads.py).
"""

from collections.abc import Callable

import torch

TRIAL_SECONDS = 0.15  # of steps, and at least two of them
GAIN = 1.05  # the other way is kept if it is so many times as fast
DROP = 0.7  # where the rate falls below this share of the last one, a trial comes at once
SHORTEST_PATIENCE, LONGEST_PATIENCE = 4, 64  # time between two trials, as a multiple of the last one's


class Threads:
    """Within `with`, torch and the engine work on `number` threads; afterwards on as many as before.

    number   at the start and at most; None: as many as torch has
    steady   keep that number
    apply    the function that sets the number of threads

    The next trial comes after 4 times the time of the last one, so that trials cost little even where one thread is
    many times slower. Each trial that confirms the present way doubles this time, up to 64 times.
    """

    def __init__(
        self, number: int | None = None, *, steady: bool = False, apply: Callable[[int], None] = torch.set_num_threads
    ) -> None:
        self.number = self._most = number or torch.get_num_threads()
        self._tries = self._most > 1 and not steady
        self._apply = apply
        self._patience = SHORTEST_PATIENCE
        self._on_trial = False
        self._before = 0.0  # items per second at the end of the last trial
        self._rate = 0.0  # items per second now
        self._cost, self._since = TRIAL_SECONDS, 0.0  # seconds of the last trial, and since its end
        self._begin_window()

    def __enter__(self) -> "Threads":
        self._outside = torch.get_num_threads()
        self._apply(self.number)
        return self

    def __exit__(self, *error: object) -> None:
        self._apply(self._outside)

    def learn(self, seconds: float, items: int) -> None:
        """Takes the time of the last step on `number` threads, and sets the number for the next step."""
        if not self._tries:
            return
        self._since += seconds
        self._steps += 1
        if self._steps == 0:  # the first step after a change wakes threads up
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
