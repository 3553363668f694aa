"""Errors and warnings for the user.

InputError(ValueError)   a file, text, shape or setting that cannot be used: rule, what was received, what to do.
SlowEngineWarning        the exact result comes from the slow engine; says why and what would avoid it.
DamagedFileWarning       a file is damaged or missing, and an older one that is whole was used; says which.
WorkerLostError          one of several workers of a training is gone.
SilentError              something went wrong of which another worker tells.

The command line turns InputError into a message and exit code 2, WorkerLostError into one and exit code 1, and warnings
into lines on stderr; any other exception is a defect of this package.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known name that is most like this one, a space before it; nothing where none is like it."""
    names = list(known)
    alike = [other for other in names if other.casefold() == name.casefold()]
    near = alike or get_close_matches(name, names, 1)
    return f" Did you mean {near[0]}?" if near else ""


class InputError(ValueError):
    """Something the user gave cannot be used. The text holds the rule, what was received and what to do."""


class SettingError(InputError):
    """A setting out of its range: `name`, as Python writes it, and the `rule` that it breaks."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name} {rule}")
        self.name, self.rule = name, rule


class SlowEngineWarning(UserWarning):
    """The sweeps run on the reference engine: same numbers, many times slower."""


class DamagedFileWarning(UserWarning):
    """A file is damaged or missing; the one saved before it is used. The text says what was lost."""


class WorkerLostError(Exception):
    """Another worker ended before its time."""


class SilentError(Exception):
    """Something went wrong of which another worker tells; this one ends with the same exit code."""

    def __init__(self, code: int) -> None:
        self.code = code
