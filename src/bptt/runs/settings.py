"""The settings of a run: everything about a training but its data and its weights, as settings.json has it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bptt.errors import InputError
from bptt.files import disk
from bptt.tasks import TASKS
from bptt.train import Recipe

SCHEMA = 4
FILE_NAMES = ("test_source",)  # in `Settings.about`; they, `source` and `command` may hold bytes that are not UTF-8
CHANGEABLE = ("epochs", "steps", "time_limit", "patience", "lr", "clip", "clip_value")
BEFORE_CELLS = {"cell": "elman", "equations": None}  # of recipes from before there was a choice


@dataclass(frozen=True)
class Settings:
    """The contents of settings.json.

    task        name of the task, see `bptt.tasks`
    about       all that the task needs to build its network and read its data again, as JSON
    source      where the data came from; size and sha256 are those of the data
    versions    of bptt, Python and torch
    command     the command line, as it can be typed again
    started     UTC, ISO 8601
    """

    task: str
    about: Mapping[str, Any]
    recipe: Recipe
    source: str
    size: int
    sha256: str
    versions: Mapping[str, str]
    command: str
    started: str

    @property
    def fingerprint(self) -> str:
        """A digest of all that cannot change. Weights and settings with different ones do not belong together."""
        recipe = {
            name: value
            for name, value in asdict(self.recipe).items()
            if name not in CHANGEABLE and not (name in BEFORE_CELLS and value == BEFORE_CELLS[name])
        }
        facts = [self.task, self.about, recipe, self.sha256, self.started]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "task": self.task,
            "about": self.about,
            "data": {"source": self.source, "size": self.size, "sha256": self.sha256},
            "recipe": asdict(self.recipe),
            "versions": dict(self.versions),
            "command": self.command,
            "started": self.started,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Settings":
        """Raises InputError, KeyError or TypeError for anything `as_json` would not have written."""
        if value["task"] not in TASKS:
            raise InputError(f"task must be one of {', '.join(TASKS)}; got {value['task']!r}")
        facts = value["data"]
        for key, held in value["about"].items():
            disk.from_json(json.dumps({key: held}), file_names=key in FILE_NAMES)
        return cls(
            task=value["task"],
            about=dict(value["about"]),
            recipe=TASKS[value["task"]].Recipe(**BEFORE_CELLS | value["recipe"]),
            source=str(facts["source"]),
            size=whole("size", facts["size"]),
            sha256=str(facts["sha256"]),
            versions=dict(value["versions"]),
            command=str(value["command"]),
            started=str(value["started"]),
        )


def whole(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a whole number from 0; got {value!r}")
    return value
