"""Training: the recipe, the loop and its events, `fit`, truncated BPTT, forcing and its schedules."""

from bptt.train.events import Evaluation, Event, Measure, Reason, Steps, Stop, as_json
from bptt.train.fitting import batched, fit
from bptt.train.loop import GivenUpError, Task, Training
from bptt.train.order import Order, shuffled
from bptt.train.position import require_like
from bptt.train.recipe import (
    Recipe,
    require_layers,
    require_one_of,
    require_positive,
    require_share,
    require_whole,
)

__all__ = [
    "Evaluation",
    "Event",
    "GivenUpError",
    "Measure",
    "Order",
    "Reason",
    "Recipe",
    "Steps",
    "Stop",
    "Task",
    "Training",
    "as_json",
    "batched",
    "fit",
    "require_layers",
    "require_like",
    "require_one_of",
    "require_positive",
    "require_share",
    "require_whole",
    "shuffled",
]
