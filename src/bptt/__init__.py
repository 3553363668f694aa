"""Recurrent networks and backpropagation through time: exact, fast, with every number open to look at."""

from bptt import equations, losses, nn, ops, sweeps
from bptt.errors import InputError, SlowEngineWarning

__all__ = ["InputError", "SlowEngineWarning", "equations", "losses", "nn", "ops", "sweeps"]
