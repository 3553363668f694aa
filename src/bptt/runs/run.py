"""Run directories: everything a training leaves behind, and everything it needs to go on.

    checkpoint.safetensors   the training: settings, last and best weights, optimiser, random state, carried state
    checkpoint.previous.safetensors   the one saved before it
    weights.safetensors      the weights with the smallest loss on the held-out part
    settings.json            schema version, task, what it needs to know about its data, recipe, versions, command
    log.jsonl                one JSON object per line: the events of `bptt.train`
    curve.png                loss and gradient norm over the steps
    files.jsonl              which files the run has written here, so that no others are touched, see `bptt.files.owned`
    .lock                    who writes here now

A checkpoint is enough to go on from: nothing beside it has to fit. Weights, settings and checkpoints carry a checksum
of all they hold. A checkpoint that is damaged is passed over for the one before it, with a warning. Files saved
together are all there or none (`bptt.files.disk`); the log alone is appended to, and a resumed run first cuts it back
to where its checkpoint was made. Nothing here executes code from a file: safetensors and JSON only, the latter also
inside the former's one metadata string, "bptt".
"""

import hashlib
import json
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor

from bptt import engine
from bptt.errors import DamagedFileWarning, InputError
from bptt.files import disk, owned
from bptt.files.disk import Lock, LockedError, NotOursError, NotWrittenError, recover, staged
from bptt.files.owned import AT_THE_END, CHECKPOINT, CURVE, KEPT, LOG, PREVIOUS, SETTINGS, TOGETHER, WEIGHTS
from bptt.tasks import TASKS, ResumableTask
from bptt.train import Event, Recipe, Training, as_json, require_like

SCHEMA = 4
OUTCOMES = (*AT_THE_END, "forecast.csv", "forecast.png", "inspect.html")  # gone when another run takes the directory


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
            recipe=TASKS[value["task"]].Recipe(**value["recipe"]),
            source=str(facts["source"]),
            size=_whole("size", facts["size"]),
            sha256=str(facts["sha256"]),
            versions=dict(value["versions"]),
            command=str(value["command"]),
            started=str(value["started"]),
        )


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a whole number from 0; got {value!r}")
    return value


# What something made up may raise where it is believed, once its checksum was right.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
FILE_NAMES = ("test_source",)  # in `Settings.about`; there alone, in `source` and `command` may be what is not UTF-8
CHANGEABLE = ("epochs", "steps", "time_limit", "patience", "lr", "clip")


class Run:
    """A run directory being written. Log lines wait in memory until `save` has been called once."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        task: ResumableTask,
        lock: Lock,
        *,
        saved: bool,
        newest_is_whole: bool = False,
    ) -> None:
        """saved: whether the directory holds this run already, and not nothing or another one."""
        self.path, self.settings, self.task, self.saved = path, settings, task, saved
        self._lock, self._directory = lock, _identity(path)
        self._newest_is_whole = newest_is_whole
        self._waiting = b""

    def watch(self, event: Event) -> None:
        """Logs an event of a training for this run's task."""
        self.log(as_json(event, self.task.measure))

    def log(self, event: Mapping[str, Any]) -> None:
        """Adds a line to the log. Raises InputError where the disk refuses it."""
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        if not self.saved or not self._is_there():
            self._waiting += line
            return
        try:
            with disk.open_to_append(self.path / LOG) as log:
                log.write(line)
        except OSError as error:
            raise _cannot_write(self.path / LOG, error) from None

    def save(self, training: Training) -> None:
        """Writes checkpoint, weights and settings as one; a training of no steps does not replace another run.

        Raises InputError where the disk refuses, and the old files stay; where another training has taken the
        directory; and where the directory was removed, after everything was written to a new one in its place.
        """
        if not self.saved and training.step == 0 and _holds_run(self.path):
            return
        if not self._lock.held:
            raise InputError(
                f"A run directory is written by one training at a time; another of this process has taken {self.path}."
            )
        removed = not self._is_there()
        if removed:
            self._begin_again()
        _claim(self.path)
        log_bytes = _synced_size(self.path / LOG) if self.saved else len(self._waiting)
        files = {CHECKPOINT: self._checkpoint(training, log_bytes)}
        if not self.saved:
            files[LOG] = self._waiting
        facts = self.settings.as_json()
        settings = json.dumps({**facts, "sha256": _digest({}, facts)}, indent=2, allow_nan=False)
        files |= {WEIGHTS: self._weights(training), SETTINGS: f"{settings}\n".encode()}
        _write_together(self.path, files, keep=(CHECKPOINT, PREVIOUS) if self._newest_is_whole else None)
        if not self.saved:
            self.saved, self._waiting = True, b""
            _remove_own(self.path, (PREVIOUS, *OUTCOMES))
        self._newest_is_whole = True
        if removed:
            raise InputError(
                f"The run directory must stay while a training writes in it; {self.path} was removed. The training was "
                f"saved at step {training.step:,} in a new directory in its place; what its log held is lost. Go on: "
                f"bptt train -o {self.path} --resume"
            )

    def _is_there(self) -> bool:
        return _identity(self.path) == self._directory

    def _begin_again(self) -> None:
        """In place of the directory that was removed."""
        _require_directory(self.path)
        if _holds_run(self.path):
            raise InputError(
                f"The run directory must stay while a training writes in it; {self.path} was removed, and another run "
                "is there now, which was left as it is. What was not saved before is lost."
            )
        _require_free(self.path, KEPT)
        _claim(self.path)
        self._lock = _lock(self.path)
        self._directory = _identity(self.path)
        self.saved = self._newest_is_whole = False

    def close(self) -> None:
        """Lets others write in the directory; the end of this object or of the process does so too."""
        self._lock.release()

    def draw(self) -> Path:
        """Draws curve.png from the log, with a DamagedFileWarning where that cannot be; returns its path."""
        from bptt.runs import curve

        path = self.path / CURVE
        try:
            picture = curve.png(read_log(self.path), self.task.measure, self.settings.recipe.clip)
        except MALFORMED as flaw:
            reason = (
                flaw if isinstance(flaw, InputError) else f"{self.path / LOG} holds what no training says: {flaw!r}"
            )
            warnings.warn(f"{path} could not be drawn. {reason}", DamagedFileWarning, stacklevel=2)
            return path
        add(self.path, {CURVE: picture})
        return path

    def _weights(self, training: Training) -> bytes:
        facts = {"schema": SCHEMA, "fingerprint": self.settings.fingerprint}
        return _as_safetensors(training.best_weights, facts)

    def _checkpoint(self, training: Training, log_bytes: int) -> bytes:
        facts = {
            "schema": SCHEMA,
            "settings": self.settings.as_json(),
            "training": training.facts(),
            "log_bytes": log_bytes,
        }
        return _as_safetensors(training.tensors(), facts)


def start(
    path: str | Path, task: ResumableTask, *, overwrite: bool = False, command: str = "", started: str = ""
) -> tuple[Run, Training]:
    """A new training for the task, and the directory it will be saved in. started: if not now, see `now`.

    With `overwrite`, a run already there stays as it is until the new one is saved for the first time.

    Raises InputError where the directory holds a run, is a file, cannot be written, or another process writes in it.
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
    _claim(path)
    lock = _lock(path)
    try:
        check_place(path, overwrite=overwrite)
        run = Run(path, settings, task, lock, saved=False)
        run.log(_opening_line("start", training, command))
        run.save(training)
    except BaseException:
        lock.release()
        raise
    return run, training


def resume(
    path: str | Path,
    source: str | Path | None = None,
    *,
    changes: Mapping[str, Any] | Callable[[Settings], Mapping[str, Any]] | None = None,
    command: str = "",
) -> tuple[Run, Training]:
    """The training that was saved in the directory, at the step where it was saved.

    source   where the data it began with are now; where they were then if left out
    changes  to the recipe: epochs, steps, time_limit, patience, lr and clip may be changed; or what says them, and
             raises InputError, when it sees the settings of the run

    A newest checkpoint that is damaged is passed over for the one before, with a DamagedFileWarning.

    Raises InputError where there is nothing to resume, no checkpoint is whole, the data are others, a change is not
    possible, the directory cannot be written, or another process writes in it.
    """
    path = Path(path)
    if not _holds_run(path):
        raise _no_run(path)
    _require_directory(path)
    lock = _lock(path)
    try:
        training, task, settings, log_bytes, newest_is_whole = _restored(
            path, source, changes if callable(changes) else lambda _: changes or {}
        )
        _require_free(path, (*KEPT, *AT_THE_END), trusted=KEPT)
        _claim(path)
        _cut(path / LOG, log_bytes)
        run = Run(path, settings, task, lock, saved=True, newest_is_whole=newest_is_whole)
        run.log(_opening_line("resume", training, command))
    except BaseException:
        lock.release()
        raise
    return run, training


def follow(settings: Settings, source: str | Path | None = None) -> tuple[ResumableTask, Training]:
    """The task and the training, from its beginning, of a run that another process keeps. Errors as for `resume`."""
    task = _again(settings, Path("RUN"), source)
    return task, _training(settings, task)


def began(path: Path) -> str | None:
    """When the run in the directory was started, as its settings say or a checkpoint; None where nothing does."""
    with suppress(InputError, OSError):
        _recover_if_free(path)
    for settings in (
        lambda: read_settings(path),
        lambda: _read_checkpoint(path, CHECKPOINT)[0],
        lambda: _read_checkpoint(path, PREVIOUS)[0],
    ):
        with suppress(InputError):
            return settings().started
    return None


def _restored(
    path: Path, source: str | Path | None, changes: Callable[[Settings], Mapping[str, Any]]
) -> tuple[Training, ResumableTask, Settings, int, bool]:
    """The training of the newest checkpoint that is whole, its task, settings and bytes of log; if it is the newest."""
    try:
        read_settings(path)
    except InputError as flaw:
        warnings.warn(f"{flaw} It will be written again from the checkpoint.", DamagedFileWarning, stacklevel=4)
    flaws: list[_DamagedError] = []
    for name in (CHECKPOINT, PREVIOUS):
        try:
            settings, tensors, facts = _read_checkpoint(path, name)
            settings = replace(settings, recipe=_changed(settings.recipe, changes(settings)))
            task = _again(settings, path, source)
            training = _training(settings, task)
            training.restore(tensors, facts["training"])
            log_bytes = _whole("log_bytes", facts["log_bytes"])
        except _DamagedError as flaw:
            flaws.append(flaw)
        except MALFORMED as error:
            if isinstance(error, InputError):
                raise
            flaws.append(_damaged(path / name, f"{type(error).__name__} {error}"))
        else:
            break
    else:
        raise flaws[0]
    if flaws:
        warnings.warn(
            f"{flaws[0]} Going on from the one before it, {path / PREVIOUS}: step {training.step:,}.",
            DamagedFileWarning,
            stacklevel=4,
        )
    return training, task, settings, log_bytes, not flaws


def load(path: str | Path) -> tuple[Settings, Any]:
    """The settings of a run and its best weights in its task's network.

    Raises InputError where the directory holds no run, or files are damaged or do not belong together.
    """
    path = Path(path)
    with suppress(InputError, OSError):
        _recover_if_free(path)
    settings = read_settings(path)
    tensors, facts = _read_safetensors(path / WEIGHTS)
    _require_fingerprint(path / WEIGHTS, facts, settings)
    try:
        model = TASKS[settings.task].network(settings.about, settings.recipe)
        require_like(tensors, model.state_dict())
        model.load_state_dict(tensors)
    except MALFORMED as error:
        raise _damaged(path / WEIGHTS, str(error)) from None
    return settings, model.eval()


def read_settings(path: Path) -> Settings:
    """Raises InputError where the directory holds no run or its settings are damaged."""
    file = path / SETTINGS
    try:
        with disk.open_to_read(file) as opened:
            facts = disk.from_json(opened.read().decode("utf-8"), file_names=True)
        _require_schema(file, facts)
        settings = Settings.from_json(facts)
        if facts.pop("sha256", None) != _digest({}, facts):
            raise ValueError(_WRONG_SUM)
        return settings
    except (FileNotFoundError, NotADirectoryError):
        raise _no_run(path) from None
    except OSError as error:
        raise _cannot_read(file, error) from None
    except _DamagedError:
        raise
    except KeyError as error:
        raise _damaged(file, f"{error} is missing") from None
    except MALFORMED as error:
        raise _damaged(file, str(error)) from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events in the log of a run, oldest first; what follows a line that was cut off, or is no event, is left out.

    Raises InputError where the log cannot be read.
    """
    try:
        with disk.open_to_read(path / LOG) as log:
            lines = log.read().decode("utf-8", "replace").split("\n")
    except OSError as error:
        raise _cannot_read(path / LOG, error) from None
    events = []
    for line in lines:
        try:
            event = disk.from_json(line, file_names=True)
        except ValueError:
            break
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def add(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a run beside those of its training, all or none.

    Raises InputError where the disk refuses, and where something has one of these names that the run has not written.
    """
    _require_free(path, files)
    _claim(path, files)
    _write_together(path, files)


def _write_together(directory: Path, files: Mapping[str, bytes], *, keep: tuple[str, str] | None = None) -> None:
    try:
        disk.write_together(directory, files, keep=keep)
    except NotWrittenError as refusal:
        raise _cannot_write(refusal.path, refusal.error) from None


def _require_free(path: Path, names: Iterable[str], *, trusted: Iterable[str] = ()) -> None:
    """Raises InputError where something has one of these names that the run in the directory has not written."""
    if in_the_way := _in_the_way(path, names, trusted):
        raise _not_ours(in_the_way)


def _in_the_way(path: Path, names: Iterable[str], trusted: Iterable[str]) -> list[Path]:
    """trusted: files that are the run's without a record too, being whole, but not their next versions."""
    try:
        found = [at for at in owned.others(path, names) if at.name not in trusted]
        return [at for at in found if at.name != disk.LOCK or not disk.is_lock(at)]
    except OSError as error:
        raise _cannot_read(path, error) from None


def _claim(path: Path, files: Mapping[str, bytes | None] = dict.fromkeys((*KEPT, disk.LOCK))) -> None:
    """Has these be the run's, see `owned.add`."""
    try:
        owned.add(path, files)
    except NotOursError as error:
        raise _not_ours([error.path]) from None
    except OSError as error:
        raise _cannot_write(path / owned.RECORD, error) from None


def _remove_own(path: Path, names: Iterable[str]) -> None:
    try:
        for file in owned.own(path, names):
            file.unlink(missing_ok=True)
    except NotOursError as error:
        raise _not_ours([error.path]) from None
    except OSError as error:
        raise _cannot_write(path, error) from None


def _lock(path: Path) -> Lock:
    """The right to write in the directory, in which nothing is left half done."""
    try:
        lock = Lock(path)
    except LockedError as error:
        raise InputError(
            f"A run directory is written by one training at a time; {path} is being written by {error.owner}. Wait for "
            "it, or stop it, or name another directory with -o."
        ) from None
    except NotOursError as error:
        raise _not_ours([error.path]) from None
    except OSError as error:
        raise _cannot_write(path, error) from None
    _recover(path)
    return lock


def _recover(path: Path) -> None:
    """Ends a save that a crash cut off, where the record says that what it left is the run's."""
    try:
        for names in (TOGETHER, (CURVE,)):
            if owned.holds(path, names[0]):
                recover(path, names)
    except NotWrittenError as refusal:
        raise _cannot_write(refusal.path, refusal.error) from None


def _recover_if_free(path: Path) -> None:
    """The same, unless somebody writes here."""
    if owned.holds(path, CHECKPOINT) and any(staged(path / name).exists() for name in TOGETHER):
        _lock(path).release()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _synced_size(path: Path) -> int:
    """Bytes of the log, all of them on the disk."""
    try:
        with disk.open_to_append(path) as log:
            os.fsync(log.fileno())
            return log.tell()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cut(path: Path, size: int) -> None:
    """Takes off what was logged after the last checkpoint."""
    try:
        with disk.open_to_append(path) as log:
            if os.fstat(log.fileno()).st_nlink > 1:
                raise OSError("it has another name as well, a hard link, and would be cut there too")
            log.truncate(min(size, log.tell()))
    except OSError as error:
        raise _cannot_write(path, error) from None


def _again(settings: Settings, path: Path, source: str | Path | None) -> ResumableTask:
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
    except MALFORMED as error:
        raise _damaged(path / SETTINGS, f"what it says about the data cannot be used ({error!r})") from None
    if task.sha256 != settings.sha256:
        raise InputError(
            f"A resumed training needs the data it began with, {settings.size} {task.items} from {settings.source}, "
            f"sha256 {settings.sha256[:12]}; got {task.size} {task.items} from {task.source}, "
            f"sha256 {task.sha256[:12]}. Give the same, or start a new run in another directory with -o."
        )
    return task


def _training(settings: Settings, task: ResumableTask) -> Training:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.recipe.seed)
            model = task.network(settings.about, settings.recipe)
        task.prepare(model)
        return Training(model, task)
    except RuntimeError as error:
        if "allocate" not in str(error):
            raise
        wanted = next((int(number) for number in re.findall(r"allocate (\d+) bytes", str(error))), 0)
        raise InputError(
            f"The network must fit in memory; one of its weights alone needs {wanted / 2**30:,.0f} GiB, and the system "
            "gives no more. Choose a smaller --hidden."
        ) from None


def _opening_line(event: str, training: Training, command: str) -> dict[str, Any]:
    return {
        "event": event,
        "step": training.step,
        "total_steps": training.total_steps,
        "measure": training.task.measure.name,
        "time": now(),
        "command": command,
        "engine": engine.choose("cpu", torch.float32).name,
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
    try:
        return any((path / name).exists() for name in (SETTINGS, WEIGHTS, CHECKPOINT, PREVIOUS))
    except OSError as error:
        raise _cannot_read(path, error) from None


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raises InputError unless a new run can have this directory."""
    if not _is_utf_8(path):
        raise InputError(f"The name of a run directory must be UTF-8; got {str(path)!r}. Name another with -o.")
    try:
        is_free = next(above for above in (path, *path.absolute().parents) if above.exists()).is_dir()
    except OSError as error:
        raise _cannot_write(path, error) from None
    if not is_free:
        raise _not_a_directory(path)
    is_run = _is_run(path)
    in_the_way = _in_the_way(path, (*KEPT, disk.LOCK, *OUTCOMES), trusted=KEPT if is_run else ())
    if not overwrite and _holds_run(path) and (is_run or not in_the_way):
        raise InputError(
            f"A new training needs a directory without a run; {path} holds one. Go on with it: --resume. "
            "Replace it: --overwrite. Or name another directory with -o."
        )
    if in_the_way:
        try:
            read_settings(path)
        except _SchemaError:
            raise
        except InputError:
            pass
        raise _not_ours(in_the_way)


def _is_run(path: Path) -> bool:
    try:
        read_settings(path)
    except InputError:
        return False
    return True


def _is_utf_8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


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


_WRONG_SUM = "its contents do not have the checksum that was saved with them"


def _as_safetensors(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {**facts, "sha256": _digest(tensors, facts)}
    return as_safetensors(tensors, {"bptt": json.dumps(facts, allow_nan=False)})


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Of everything a file says: names, types, shapes and bytes of its tensors, and the facts beside them."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and the JSON in its metadata, once its checksum was right."""
    try:
        disk.open_to_read(path).close()  # safetensors says of a file that may not be read that there is none
        with safetensors.safe_open(path, framework="pt") as file:
            facts = disk.from_json((file.metadata() or {})["bptt"], file_names=True)
            if not isinstance(facts, dict):
                raise ValueError("its metadata must be a JSON object")
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
        _require_schema(path, facts)
        if facts.pop("sha256", None) != _digest(tensors, facts):
            raise ValueError(_WRONG_SUM)
        return tensors, facts
    except FileNotFoundError:
        raise _DamagedError(
            f"A run must hold {path.name}; {path} does not exist. Train again with --overwrite, or name another run."
        ) from None
    except PermissionError as error:
        raise _cannot_read(path, error) from None
    except OSError as error:
        raise _DamagedError(str(_cannot_read(path, error))) from None
    except KeyError:
        raise _damaged(path, "it was not written by bptt") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _read_checkpoint(path: Path, name: str) -> tuple[Settings, dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of the run whose settings.json stands beside it, where that can be read."""
    tensors, facts = _read_safetensors(path / name)
    try:
        settings = Settings.from_json(facts["settings"])
    except MALFORMED as error:
        raise _damaged(path / name, f"its settings: {error}") from None
    try:
        known = read_settings(path)
    except InputError:
        return settings, tensors, facts
    if known.fingerprint != settings.fingerprint:
        raise _damaged(path / name, f"it belongs to another training than {SETTINGS} beside it")
    return settings, tensors, facts


def _require_schema(path: Path, facts: Mapping[str, Any]) -> None:
    """Raises KeyError where there is none."""
    if facts["schema"] != SCHEMA:
        raise _SchemaError(
            f"The schema must be {SCHEMA}, the one that this version of bptt knows; got {facts['schema']!r} in {path}. "
            "Train again in another directory, or use the version of bptt that wrote it."
        )


def _require_fingerprint(path: Path, facts: Mapping[str, Any], settings: Settings) -> None:
    if facts.get("fingerprint") != settings.fingerprint:
        raise _damaged(path, f"it belongs to another training than {SETTINGS} beside it")


class _DamagedError(InputError):
    """A file of a run is not as it was saved, or is missing."""


class _SchemaError(_DamagedError):
    """A file is of another version of bptt."""


def _damaged(path: Path, reason: str) -> _DamagedError:
    reason = " ".join(reason.split()).rstrip(".")
    again = f"let bptt train -o {path.parent} --resume write it again from the checkpoint, "
    return _DamagedError(
        f"{path} must be a file as bptt train wrote it; it is not: {reason}. Restore it from a copy, "
        f"{again if path.name in (WEIGHTS, SETTINGS) else ''}or train again with --overwrite."
    )


def _no_run(path: Path) -> InputError:
    return InputError(
        f"A run is a directory that bptt train has written; {path} holds no {SETTINGS}. "
        f"Train one first: bptt train -o {path}"
    )


def _not_ours(paths: list[Path]) -> InputError:
    named = ", ".join(map(str, paths))
    return InputError(
        f"A run replaces and removes only files as it has written them; it has not written {named}, or somebody has "
        "changed it since. Move it away, or name another place with -o."
    )


def _cannot_read(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} must be readable: {error.strerror or error}.")


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"The run must be saved, and {path} cannot be written: {error.strerror or error}. Make room or "
        "get permission, or name another directory with -o. Files saved before are as they were."
    )
