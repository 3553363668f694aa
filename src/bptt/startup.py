"""The first moments of a command, in which Python imports for seconds and nothing has begun.

`bptt.__main__` calls `begin` before anything else is imported; what torch has to find when it is imported belongs
there too. A command calls `over` when all is imported and its work begins.
"""

import os
import signal
from types import FrameType
from typing import Any

_before: dict[int, Any] = {}


def begin() -> None:
    """Threads that wait sleep (OMP_WAIT_POLICY=passive, unless the environment says otherwise) and leave their cores to
    other programs: torch's OpenMP looks this up once, when it is loaded.

    SIGINT, SIGTERM and SIGHUP end the process in silence, as if they had no handler: exit code 128 + their number.

    One that this process was started to ignore, as nohup does, stays ignored.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            _before[number] = signal.signal(number, _leave)


def over() -> None:
    """Signals do again what they did before."""
    while _before:
        signal.signal(*_before.popitem())


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
