"""Recurrent networks and backpropagation through time: exact, fast, with every number open to look at.

Names are imported when they are asked for: `import bptt` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bptt import arrival

if TYPE_CHECKING:
    from bptt import engine as sweeps
    from bptt import errors, nn, runs, sheet, tape, tasks, train
    from bptt.autograd import function as ops
    from bptt.autograd import long, onnx
    from bptt.engine import using
    from bptt.errors import InputError, SlowEngineWarning
    from bptt.nn import convert
    from bptt.sheet import Cell, losses
    from bptt.tape import Tape, record, recording, watch
    from bptt.tasks import data, table
    from bptt.train import fit, forcing, schedules, truncated

    __version__: str

__all__ = [
    "Cell",
    "InputError",
    "SlowEngineWarning",
    "Tape",
    "__version__",
    "convert",
    "data",
    "errors",
    "fit",
    "forcing",
    "long",
    "losses",
    "nn",
    "onnx",
    "ops",
    "record",
    "recording",
    "runs",
    "schedules",
    "sheet",
    "sweeps",
    "table",
    "tape",
    "tasks",
    "train",
    "truncated",
    "using",
    "watch",
]

MOVED = {
    "data": "tasks.data",
    "forcing": "train.forcing",
    "long": "autograd.long",
    "losses": "sheet.losses",
    "onnx": "autograd.onnx",
    "ops": "autograd.function",
    "schedules": "train.schedules",
    "sweeps": "engine",
    "table": "tasks.table",
    "truncated": "train.truncated",
}
"""Modules that are imported by a shorter name than that of their room: `bptt.losses` is `bptt.sheet.losses`."""

_HOMES = {
    "Cell": "sheet",
    "InputError": "errors",
    "SlowEngineWarning": "errors",
    "Tape": "tape",
    "convert": "nn",
    "fit": "train",
    "record": "tape",
    "recording": "tape",
    "using": "engine",
    "watch": "tape",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        found: Any = import_module("importlib.metadata").version("bptt")
    elif name in _HOMES:
        found = getattr(import_module(f"bptt.{_HOMES[name]}"), name)
    else:
        return _submodule(name)
    globals()[name] = found
    return found


def _submodule(name: str) -> Any:
    try:
        if not name.startswith("__"):
            return import_module(f"bptt.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"bptt.{name}":
            raise
    raise AttributeError(f"module 'bptt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


arrival.offer_operators()
arrival.keep_names(MOVED)
