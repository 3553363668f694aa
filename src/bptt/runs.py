"""Run directories: everything a training leaves behind, and everything it needs to go on.

    settings.json           schema version, task, what it needs to know about its data, recipe, versions, command
    weights.safetensors     the weights with the smallest loss on the held-out part
    log.jsonl               one JSON object per line: the events of `bptt.train`
    checkpoint.safetensors  position of the training: last weights, optimiser, random state, carried state, counters
    curve.png               loss and gradient norm over the steps

Files are replaced, never edited: each is written beside the old one, synced, and moved over it, so a reader or a crash
sees the old or the new file and nothing between. Files saved together are all written before the first is moved. The
log alone is appended to; a resumed run first cuts it back to where its checkpoint was made. Nothing here executes code
from a file: safetensors and JSON only, the latter also inside the former's one metadata string, "bptt".
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor

from bptt import sweeps
from bptt.errors import InputError
from bptt.tasks import TASKS, KnownTask
from bptt.train import Event, Recipe, Training, as_json

SCHEMA = 2
SETTINGS = "settings.json"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.png"


@dataclass(frozen=True)
class Settings:
    """What settings.json holds.

    task        the name of what is trained for, see `bptt.tasks`
    about       what this task has to know to build its network and read its data again, as JSON
    source      where the data came from, size and sha256 are theirs
    versions    of bptt, Python and torch
    command     as it could be typed again
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
        """Of all that cannot change: weights and settings with different ones do not belong together."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if name not in CHANGEABLE}
        return hashlib.sha256(json.dumps([self.task, self.about, recipe], sort_keys=True).encode()).hexdigest()

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
        if value["schema"] != SCHEMA:
            raise InputError(f"schema must be {SCHEMA}, the one this version of bptt knows; got {value['schema']!r}")
        if value["task"] not in TASKS:
            raise InputError(f"task must be one of {', '.join(TASKS)}; got {value['task']!r}")
        facts = value["data"]
        return cls(
            task=value["task"],
            about=dict(value["about"]),
            recipe=TASKS[value["task"]].Recipe(**value["recipe"]),
            source=str(facts["source"]),
            size=int(facts["size"]),
            sha256=str(facts["sha256"]),
            versions=dict(value["versions"]),
            command=str(value["command"]),
            started=str(value["started"]),
        )


CHANGEABLE = ("epochs", "steps", "time_limit", "patience", "lr", "clip")


class Run:
    """A run directory being written. Log lines wait in memory until `save` has been called once."""

    def __init__(self, path: Path, settings: Settings, task: KnownTask, *, saved: bool = False) -> None:
        """saved: whether the directory holds this run already, and not nothing or another one."""
        self.path, self.settings, self.task, self.saved = path, settings, task, saved
        self._waiting = b""

    def watch(self, event: Event) -> None:
        """Logs an event of a training for this run's task."""
        self.log(as_json(event, self.task.measure))

    def log(self, event: Mapping[str, Any]) -> None:
        """Adds a line to the log. Raises InputError where the disk refuses it."""
        line = json.dumps(event, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        if not self.saved:
            self._waiting += line
            return
        try:
            with (self.path / LOG).open("ab") as log:
                log.write(line)
        except OSError as error:
            raise _cannot_write(self.path / LOG, error) from None

    def save(self, training: Training) -> None:
        """Writes settings, weights and checkpoint as one; a training of no steps does not replace another run.

        Raises InputError where the disk refuses; the old files stay.
        """
        if not self.saved and training.step == 0 and _holds_run(self.path):
            return
        settings = json.dumps(self.settings.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = {SETTINGS: settings.encode(), WEIGHTS: self._weights(training)}
        if not self.saved:
            files[LOG] = self._waiting
        log_bytes = _synced_size(self.path / LOG) if self.saved else len(self._waiting)
        files[CHECKPOINT] = self._checkpoint(training, log_bytes)
        write_together(self.path, files)
        if not self.saved:
            (self.path / CURVE).unlink(missing_ok=True)
            self.saved, self._waiting = True, b""

    def draw(self) -> Path:
        """Draws curve.png from the log; returns its path."""
        from bptt import curve

        path = self.path / CURVE
        write_together(self.path, {CURVE: curve.png(read_log(self.path), self.task.measure, self.settings.recipe.clip)})
        return path

    def _weights(self, training: Training) -> bytes:
        facts = {"schema": SCHEMA, "fingerprint": self.settings.fingerprint}
        return as_safetensors(training.best_weights, {"bptt": json.dumps(facts)})

    def _checkpoint(self, training: Training, log_bytes: int) -> bytes:
        facts = {
            "schema": SCHEMA,
            "fingerprint": self.settings.fingerprint,
            "training": training.facts(),
            "log_bytes": log_bytes,
        }
        return as_safetensors(training.tensors(), {"bptt": json.dumps(facts, allow_nan=False)})


def start(
    path: str | Path, task: KnownTask, *, overwrite: bool = False, command: str = "", started: str = ""
) -> tuple[Run, Training]:
    """A new training for the task, and the directory it will be saved in. started: if not now, see `now`.

    With `overwrite`, a run already there stays as it is until the new one is saved for the first time.

    Raises InputError where the directory holds a run, is a file or cannot be written.
    """
    path = Path(path)
    check_place(path, overwrite=overwrite)
    settings = Settings(
        task.name,
        task.about(),
        task.recipe,
        task.source,
        task.size,
        task.sha256,
        _versions(),
        command,
        started or now(),
    )
    training = _training(settings, task)
    _require_directory(path)
    run = Run(path, settings, task)
    run.log(_opening_line("start", training, command))
    run.save(training)
    return run, training


def resume(
    path: str | Path, source: str | Path | None = None, *, changes: Mapping[str, Any] | None = None, command: str = ""
) -> tuple[Run, Training]:
    """The training that was saved in the directory, at the step where it was saved.

    source   where the data it began with are now; where they were then if left out
    changes  to the recipe: epochs, steps, time_limit, patience, lr and clip may be changed

    Raises InputError where there is nothing to resume, files are damaged, the data are others, or a change is not
    possible.
    """
    path = Path(path)
    settings = read_settings(path)
    settings = replace(settings, recipe=_changed(settings.recipe, changes or {}))
    task = _again(settings, path, source)
    training = _training(settings, task)
    tensors, facts = _read_safetensors(path / CHECKPOINT)
    _require_fingerprint(path / CHECKPOINT, facts, settings)
    try:
        training.restore(tensors, facts["training"])
        log_bytes = int(facts["log_bytes"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path / CHECKPOINT, str(error)) from None
    _require_directory(path)
    _cut(path / LOG, log_bytes)
    run = Run(path, settings, task, saved=True)
    run.log(_opening_line("resume", training, command))
    return run, training


def follow(settings: Settings, source: str | Path | None = None) -> tuple[KnownTask, Training]:
    """The task and the training, from its beginning, of a run that another process keeps. Errors as for `resume`."""
    task = _again(settings, Path("RUN"), source)
    return task, _training(settings, task)


def began(path: Path) -> str | None:
    """When the run in the directory was started; None where there is none that can be read."""
    try:
        return read_settings(path).started
    except InputError:
        return None


def load(path: str | Path) -> tuple[Settings, Any]:
    """The settings of a run and its best weights in its task's network.

    Raises InputError where the directory holds no run, or files are damaged or do not belong together.
    """
    path = Path(path)
    settings = read_settings(path)
    tensors, facts = _read_safetensors(path / WEIGHTS)
    _require_fingerprint(path / WEIGHTS, facts, settings)
    try:
        model = TASKS[settings.task].network(settings.about, settings.recipe)
        model.load_state_dict(tensors)
    except (KeyError, RuntimeError, TypeError) as error:
        raise _damaged(path / WEIGHTS, str(error)) from None
    return settings, model.eval()


def read_settings(path: Path) -> Settings:
    """Raises InputError where the directory holds no run or its settings are damaged."""
    file = path / SETTINGS
    try:
        return Settings.from_json(json.loads(file.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"A run is a directory that bptt train has written; {path} holds no {SETTINGS}. "
            f"Train one first: bptt train -o {path}"
        ) from None
    except OSError as error:
        raise InputError(f"{file} must be readable: {error.strerror}.") from None
    except KeyError as error:
        raise _damaged(file, f"{error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(file, str(error)) from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events in the log of a run, oldest first; what follows a line that was cut off is left out."""
    events = []
    for line in (path / LOG).read_text("utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def write_together(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes all files beside the old ones, syncs them, then moves each over the old.

    Raises InputError where the disk refuses; unless it does so in the middle of the moves, every old file stays.
    """
    temporary = {name: directory / f".{name}.new" for name in files}
    at = directory
    try:
        try:
            for name, content in files.items():
                at = directory / name
                with temporary[name].open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                at = directory / name
                temporary[name].replace(at)
            _sync_directory(directory)
        except BaseException:
            for leftover in temporary.values():
                leftover.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(at, error) from None


def _synced_size(path: Path) -> int:
    """Bytes of the log, all of them on the disk."""
    try:
        with path.open("ab") as log:
            os.fsync(log.fileno())
            return log.tell()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cut(path: Path, size: int) -> None:
    """Takes off what was logged after the last checkpoint."""
    try:
        with path.open("ab") as log:
            log.truncate(min(size, log.tell()))
    except OSError as error:
        raise _cannot_write(path, error) from None


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _again(settings: Settings, path: Path, source: str | Path | None) -> KnownTask:
    """The task a run was begun for, with the same data read again."""
    try:
        at = settings.source if source is None else str(source)
        task = TASKS[settings.task].again(settings.about, settings.recipe, at)
    except InputError as error:
        if source is not None:
            raise
        raise InputError(
            f"A resumed training needs the data it began with; {settings.source} cannot be used any more: {error} Say "
            f"where they are now: bptt train FILE -o {path} --resume"
        ) from None
    if task.sha256 != settings.sha256:
        raise InputError(
            f"A resumed training needs the data it began with, {settings.size} {task.items} from {settings.source}, "
            f"sha256 {settings.sha256[:12]}; got {task.size} {task.items} from {task.source}, "
            f"sha256 {task.sha256[:12]}. Give the same, or start a new run in another directory with -o."
        )
    return task


def _training(settings: Settings, task: KnownTask) -> Training:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.recipe.seed)
        model = task.network(settings.about, settings.recipe)
    task.prepare(model)
    return Training(model, task)


def _opening_line(event: str, training: Training, command: str) -> dict[str, Any]:
    return {
        "event": event,
        "step": training.step,
        "total_steps": training.total_steps,
        "measure": training.task.measure.name,
        "time": now(),
        "command": command,
        "engine": sweeps.choose("cpu", torch.float32).name,
        "threads": torch.get_num_threads(),
    }


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _versions() -> dict[str, str]:
    return {"bptt": _own_version(), "python": platform.python_version(), "torch": torch.__version__}


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bptt")
    except PackageNotFoundError:
        return "not installed"


def _holds_run(path: Path) -> bool:
    return any((path / name).exists() for name in (SETTINGS, WEIGHTS, CHECKPOINT))


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raises InputError unless a new run can have this directory."""
    if not next(above for above in (path, *path.absolute().parents) if above.exists()).is_dir():
        raise _not_a_directory(path)
    if not overwrite and _holds_run(path):
        raise InputError(
            f"A new training needs a directory without a run; {path} holds one. Go on with it: --resume. "
            "Replace it: --overwrite. Or name another directory with -o."
        )


def _require_directory(path: Path) -> None:
    """Makes the directory and tries to write in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (FileExistsError, NotADirectoryError):
        raise _not_a_directory(path) from None
    except OSError as error:
        raise _cannot_write(path, error) from None


def _not_a_directory(path: Path) -> InputError:
    return InputError(
        f"The output must be a directory, new or old; {path} is a file or lies below one. Name another with -o."
    )


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    for name, value in changes.items():
        if name not in CHANGEABLE and value != getattr(recipe, name):
            raise InputError(
                f"A resumed training keeps its {name}, {getattr(recipe, name)!r}; got {value!r}. Leave it out, or "
                f"start a new run. Only {', '.join(CHANGEABLE)} can change."
            )
    return replace(recipe, **changes)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and the JSON in its metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["bptt"])
            if not isinstance(facts, dict):
                raise ValueError("its metadata must be a JSON object")
            return {name: file.get_tensor(name).clone() for name in file.keys()}, facts  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(
            f"A run must hold {path.name}; {path} does not exist. Train again with --overwrite, or name another run."
        ) from None
    except OSError as error:
        raise InputError(f"{path} must be readable: {error.strerror or error}.") from None
    except KeyError:
        raise _damaged(path, "it was not written by bptt") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _require_fingerprint(path: Path, facts: Mapping[str, Any], settings: Settings) -> None:
    if facts.get("fingerprint") != settings.fingerprint:
        raise _damaged(path, f"it belongs to another training than {SETTINGS} beside it")


def _damaged(path: Path, reason: str) -> InputError:
    reason = " ".join(reason.split()).rstrip(".")
    return InputError(
        f"{path} must be a file as bptt train wrote it; it is not: {reason}. Restore it from a copy, or train again "
        "with --overwrite."
    )


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"The run must be saved, and {path} cannot be written: {error.strerror or error}. Make room or "
        "get permission, or name another directory with -o. Files saved before are as they were."
    )
