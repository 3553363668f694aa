"""Recurrent networks and backpropagation through time: exact, fast, with every number open to look at."""

from bptt import equations, forcing, long, losses, nn, onnx, ops, schedules, sweeps, truncated
from bptt.errors import InputError, SlowEngineWarning
from bptt.nn import convert
from bptt.tape import Tape, record, recording

__all__ = [
    "InputError",
    "SlowEngineWarning",
    "Tape",
    "convert",
    "equations",
    "forcing",
    "long",
    "losses",
    "nn",
    "onnx",
    "ops",
    "record",
    "recording",
    "schedules",
    "sweeps",
    "truncated",
]
