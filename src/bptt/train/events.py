"""The events of a training, and how its loss is shown."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Reason = Literal["finished", "time limit", "no improvement", "interrupted", "not finite", "held out not finite"]


@dataclass(frozen=True)
class Measure:
    """How a loss is shown: its unit, and the factor that leads to it.

    name     "bits per character"
    short    "bits/char"
    key      its name in a line of the log: "bits"
    factor   factor * loss is shown
    """

    name: str
    short: str
    key: str
    factor: float = 1.0


@dataclass(frozen=True)
class Steps:
    """A report on the last `steps` steps.

    step, epoch               the position after them; epoch 1.5 is the middle of the second pass
    loss                      mean loss of an item in them
    grad_norm, grad_norm_max  mean and largest norm of the gradient, before clipping
    clipped                   share of these steps whose gradient was clipped
    lr                        learning rate of the last of them
    items, seconds            of the training so far
    items_per_second          of these steps alone
    done, seconds_left        share of the training that is done; seconds for the rest at the present speed
    """

    event = "steps"
    step: int
    epoch: float
    steps: int
    loss: float
    grad_norm: float
    grad_norm_max: float
    clipped: float
    lr: float
    items: int
    seconds: float
    items_per_second: float
    done: float
    seconds_left: float


@dataclass(frozen=True)
class Evaluation:
    """The loss of the held-out part; `best` says whether it is the smallest so far."""

    event = "evaluation"
    step: int
    epoch: float
    loss: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class Stop:
    """The end of a training: its reason, its last step, and the smallest held-out loss with the step that reached it.

    reason "not finite": the loss or the gradient of step `step` + 1 was NaN or infinite, and the weights are those
    before that step. "held out not finite": the loss of the held-out part was. `loss` is None where nothing was
    evaluated.
    """

    event = "stop"
    reason: Reason
    step: int
    epoch: float
    loss: float | None
    best_step: int
    items: int
    seconds: float


Event = Steps | Evaluation | Stop


def as_json(event: Event, measure: Measure) -> dict[str, Any]:
    """The event as a line of the log, with its loss in the unit of the measure too."""
    line = {"event": event.event, **asdict(event)}
    return line if event.loss is None else {**line, measure.key: measure.factor * event.loss}
