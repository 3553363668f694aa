"""The recipe of a training: its settings, each checked for its range."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bptt.errors import InputError, SettingError

Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True)
class Recipe:
    """The settings of the training loop. A task's own recipe adds those of its data and its network.

    optimizer, lr    "adam" or "sgd", and its learning rate at the start
    clip             the largest norm of the gradient; larger gradients are scaled down to it. None: no clipping
    clip_value       the largest size of an entry of the gradient, cut before its norm is clipped. None: no such limit
    epochs, steps    passes over the data; or, if not None, the number of batches
    time_limit       seconds, or None
    patience         stop after so many evaluations without improvement; None: never
    seed             of the weights and of everything drawn in training

    Raises InputError for a value out of its range.
    """

    optimizer: str = "adam"
    lr: float = 3e-3
    clip: float | None = 1.0
    clip_value: float | None = None
    epochs: int = 28
    steps: int | None = None
    time_limit: float | None = None
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "patience"):
            require_whole(name, getattr(self, name), optional=name != "epochs")
        for name in ("lr", "clip", "clip_value", "time_limit"):
            require_positive(name, getattr(self, name), optional=name != "lr")
        require_one_of("optimizer", self.optimizer, get_args(Optimizer))
        if not (is_whole(self.seed) and 0 <= self.seed < 2**63):
            raise InputError(f"seed must be a whole number from 0 to 2**63 - 1; got {self.seed!r}.")


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_whole(
    name: str, value: Any, *, optional: bool = False, least: int = 1, most: int = 2**31 - 1, called: str = "below 2**31"
) -> None:
    """called: the upper bound as a message says it."""
    if not (optional and value is None) and not (is_whole(value) and least <= value <= most):
        bound = f" and {called}" if is_whole(value) and value >= least else ""
        raise SettingError(name, f"must be a whole number of at least {least}{bound}; got {value!r}.")


def require_layers(layers: Any) -> None:
    require_whole("layers", layers, most=1_000, called="at most 1,000")


def require_positive(name: str, value: Any, *, optional: bool = False) -> None:
    if not (optional and value is None) and not (is_number(value) and 0 < value < 1e30):
        raise SettingError(name, f"must be a number above 0 and below 1e30; got {value!r}.")


def require_share(name: str, value: Any) -> None:
    if not (is_number(value) and 0 <= value < 1):
        raise SettingError(name, f"must be a share from 0 up to, not including, 1; got {value!r}.")


def require_one_of(name: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise SettingError(name, f"must be one of {', '.join(known)}; got {value!r}.")
