"""Recurrent networks and backpropagation through time: exact, fast, with every number open to look at."""

from bptt import equations, losses, nn, ops, sweeps
from bptt.errors import InputError, SlowEngineWarning
from bptt.tape import Tape, record, recording

__all__ = [
    "InputError",
    "SlowEngineWarning",
    "Tape",
    "equations",
    "losses",
    "nn",
    "ops",
    "record",
    "recording",
    "sweeps",
]
