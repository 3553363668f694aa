"""Runs: a training saved on the disk, from its start to its results; several workers; progress and curves."""

from bptt.files.owned import CHECKPOINT, CURVE, LOG, PREVIOUS, SETTINGS, WEIGHTS
from bptt.runs.directory import OUTCOMES, add, check_place
from bptt.runs.formats import read_log, read_settings
from bptt.runs.run import Run, began, checkpoints, follow, load, now, resume, start
from bptt.runs.settings import Settings

__all__ = [
    "CHECKPOINT",
    "CURVE",
    "LOG",
    "OUTCOMES",
    "PREVIOUS",
    "SETTINGS",
    "WEIGHTS",
    "Run",
    "Settings",
    "add",
    "began",
    "check_place",
    "checkpoints",
    "follow",
    "load",
    "now",
    "read_log",
    "read_settings",
    "resume",
    "start",
]
