"""The life of a run: started, saved, resumed, loaded. Its directory holds:

    checkpoint.safetensors            settings, last and best weights, optimiser, random state, carried state
    checkpoint.previous.safetensors   the checkpoint before it
    weights.safetensors               the weights with the smallest loss on the held-out part
    settings.json                     schema version, task, facts about its data, recipe, versions, command
    log.jsonl                         a JSON object per line: the events of `bptt.train`
    curve.png                         loss and gradient norm over the steps
    files.jsonl                       the files that the run has written; it touches no others (`bptt.files.owned`)
    .lock                             the process that writes here now

A checkpoint alone is enough to resume. Weights, settings and checkpoints carry a checksum. In place of a damaged
checkpoint the one before it is used, with a warning. Files that are saved together are all written or none
(`bptt.files.disk`). The log is appended to; a resumed run first cuts it back to the moment of its checkpoint.
"""

import json
import platform
import re
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bptt import engine
from bptt.errors import DamagedFileWarning, InputError
from bptt.files import disk
from bptt.files.disk import Lock
from bptt.files.owned import AT_THE_END, CHECKPOINT, CURVE, KEPT, LOG, PREVIOUS, SETTINGS, WEIGHTS
from bptt.runs import directory, formats
from bptt.runs.settings import CHANGEABLE, SCHEMA, Settings, whole
from bptt.tasks import TASKS, ResumableTask
from bptt.train import Event, Recipe, Training, as_json, require_like


class Run:
    """A run that is being written. Until the first `save`, lines of the log are kept in memory."""

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
        """saved: the directory already holds this run; not another one, and not nothing."""
        self.path, self.settings, self.task, self.saved = path, settings, task, saved
        self._lock, self._directory = lock, directory.identity(path)
        self._newest_is_whole = newest_is_whole
        self._waiting = b""

    def watch(self, event: Event) -> None:
        """Adds an event of the training to the log."""
        self.log(as_json(event, self.task.measure))

    def log(self, event: Mapping[str, Any]) -> None:
        """Adds a line to the log. Raises InputError where the disk refuses to take it."""
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        if not self.saved or not self._is_there():
            self._waiting += line
            return
        try:
            with disk.open_to_append(self.path / LOG) as log:
                log.write(line)
        except OSError as error:
            raise directory.cannot_write(self.path / LOG, error) from None

    def save(self, training: Training) -> None:
        """Writes checkpoint, weights and settings, all or none. Before its first step a training replaces no other run.

        Raises InputError where the disk refuses (the old files stay), where another training has taken the directory,
        and where the directory was removed (after everything has been written to a new one in its place).
        """
        if not self.saved and training.step == 0 and directory.holds_run(self.path):
            return
        if not self._lock.held:
            raise InputError(
                f"A run directory is written by one training at a time; another of this process has taken {self.path}."
            )
        removed = not self._is_there()
        if removed:
            self._begin_again()
        directory.claim(self.path)
        log_bytes = directory.synced_size(self.path / LOG) if self.saved else len(self._waiting)
        files = {CHECKPOINT: self._checkpoint(training, log_bytes)}
        if not self.saved:
            files[LOG] = self._waiting
        facts = self.settings.as_json()
        settings = json.dumps({**facts, "sha256": formats.digest({}, facts)}, indent=2, allow_nan=False)
        files |= {WEIGHTS: self._weights(training), SETTINGS: f"{settings}\n".encode()}
        directory.write_together(self.path, files, keep=(CHECKPOINT, PREVIOUS) if self._newest_is_whole else None)
        if not self.saved:
            self.saved, self._waiting = True, b""
            directory.remove_own(self.path, (PREVIOUS, *directory.OUTCOMES))
        self._newest_is_whole = True
        if removed:
            raise InputError(
                f"The run directory must stay while a training writes in it; {self.path} was removed. The training was "
                f"saved at step {training.step:,} in a new directory in its place; what its log held is lost. Go on: "
                f"bptt train -o {self.path} --resume"
            )

    def _is_there(self) -> bool:
        return directory.identity(self.path) == self._directory

    def _begin_again(self) -> None:
        """Makes the directory that was removed again."""
        directory.require_directory(self.path)
        if directory.holds_run(self.path):
            raise InputError(
                f"The run directory must stay while a training writes in it; {self.path} was removed, and another run "
                "is there now, which was left as it is. What was not saved before is lost."
            )
        directory.require_free(self.path, KEPT)
        directory.claim(self.path)
        self._lock = directory.lock(self.path)
        self._directory = directory.identity(self.path)
        self.saved = self._newest_is_whole = False

    def close(self) -> None:
        """Releases the directory to others; so does the end of this object or of the process."""
        self._lock.release()

    def draw(self) -> Path:
        """Draws curve.png from the log and returns its path; warns with DamagedFileWarning where it cannot."""
        from bptt.runs import curve

        path = self.path / CURVE
        try:
            picture = curve.png(formats.read_log(self.path), self.task.measure, self.settings.recipe.clip)
        except formats.MALFORMED as flaw:
            reason = (
                flaw if isinstance(flaw, InputError) else f"{self.path / LOG} holds what no training says: {flaw!r}"
            )
            warnings.warn(f"{path} could not be drawn. {reason}", DamagedFileWarning, stacklevel=2)
            return path
        directory.add(self.path, {CURVE: picture})
        return path

    def _weights(self, training: Training) -> bytes:
        facts = {"schema": SCHEMA, "fingerprint": self.settings.fingerprint}
        return formats.as_safetensors(training.best_weights, facts)

    def _checkpoint(self, training: Training, log_bytes: int) -> bytes:
        facts = {
            "schema": SCHEMA,
            "settings": self.settings.as_json(),
            "training": training.facts(),
            "log_bytes": log_bytes,
        }
        return formats.as_safetensors(training.tensors(), facts)


def start(
    path: str | Path, task: ResumableTask, *, overwrite: bool = False, command: str = "", started: str = ""
) -> tuple[Run, Training]:
    """A new training for the task, and its run. started: the time as `now` writes it, by default now.

    With `overwrite`, a run that is already there stays as it is until the new one is saved for the first time.

    Raises InputError where the directory holds a run, is a file, cannot be written, or another process writes in it.
    """
    path = Path(path)
    directory.check_place(path, overwrite=overwrite)
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
    directory.require_directory(path)
    directory.claim(path)
    lock = directory.lock(path)
    try:
        directory.check_place(path, overwrite=overwrite)
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

    source   where the data of the training are now; by default where they were then
    changes  to the recipe, of epochs, steps, time_limit, patience, lr, clip and clip_value; or a function that returns
             them for the settings of the run, and may raise InputError

    In place of a damaged checkpoint the one before it is used, with a DamagedFileWarning.

    Raises InputError where there is nothing to resume, no checkpoint is whole, the data are others, a change is not
    possible, the directory cannot be written, or another process writes in it.
    """
    path = Path(path)
    if not directory.holds_run(path):
        raise formats.no_run(path)
    directory.require_directory(path)
    lock = directory.lock(path)
    try:
        training, task, settings, log_bytes, newest_is_whole = _restored(
            path, source, changes if callable(changes) else lambda _: changes or {}
        )
        directory.require_free(path, (*KEPT, *AT_THE_END), trusted=KEPT)
        directory.claim(path)
        directory.cut(path / LOG, log_bytes)
        run = Run(path, settings, task, lock, saved=True, newest_is_whole=newest_is_whole)
        run.log(_opening_line("resume", training, command))
    except BaseException:
        lock.release()
        raise
    return run, training


def follow(settings: Settings, source: str | Path | None = None) -> tuple[ResumableTask, Training]:
    """The task of a run that another process writes, and its training from the beginning. Errors as for `resume`."""
    task = _again(settings, Path("RUN"), source)
    return task, _training(settings, task)


def began(path: Path) -> str | None:
    """The time at which the run was started, from its settings or a checkpoint; None where none can be read."""
    with suppress(InputError, OSError):
        directory.recover_if_free(path)
    for settings in (
        lambda: formats.read_settings(path),
        lambda: formats.read_checkpoint(path, CHECKPOINT)[0],
        lambda: formats.read_checkpoint(path, PREVIOUS)[0],
    ):
        with suppress(InputError):
            return settings().started
    return None


def _restored(
    path: Path, source: str | Path | None, changes: Callable[[Settings], Mapping[str, Any]]
) -> tuple[Training, ResumableTask, Settings, int, bool]:
    """From the newest undamaged checkpoint: training, task, settings, bytes of the log; whether it is the newest."""
    try:
        formats.read_settings(path)
    except InputError as flaw:
        warnings.warn(f"{flaw} It will be written again from the checkpoint.", DamagedFileWarning, stacklevel=4)
    flaws: list[formats.DamagedError] = []
    for name in (CHECKPOINT, PREVIOUS):
        try:
            settings, tensors, facts = formats.read_checkpoint(path, name)
            settings = replace(settings, recipe=_changed(settings.recipe, changes(settings)))
            task = _again(settings, path, source)
            training = _training(settings, task)
            training.restore(tensors, facts["training"])
            log_bytes = whole("log_bytes", facts["log_bytes"])
        except formats.DamagedError as flaw:
            flaws.append(flaw)
        except formats.MALFORMED as error:
            if isinstance(error, InputError):
                raise
            flaws.append(formats.damaged(path / name, f"{type(error).__name__} {error}"))
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
    """The settings of a run, and the network of its task with its best weights.

    Raises InputError where the directory holds no run, or files are damaged or do not belong together.
    """
    path = Path(path)
    with suppress(InputError, OSError):
        directory.recover_if_free(path)
    settings = formats.read_settings(path)
    tensors, facts = formats.read_safetensors(path / WEIGHTS)
    formats.require_fingerprint(path / WEIGHTS, facts, settings)
    return settings, _network(settings, tensors, path / WEIGHTS)


def checkpoints(path: str | Path) -> tuple[Settings, dict[str, tuple[int, Any]]]:
    """The settings of a run, and the networks it still has with the steps they are from: "best", and "last" if later.

    Raises InputError as `load` does, and where there is no whole checkpoint.
    """
    path = Path(path)
    settings, best = load(path)
    _, tensors, facts = formats.read_checkpoint(path, CHECKPOINT)
    try:
        at = facts["training"]
        step = whole("step", at["step"])
        best_step = step if at["best_loss"] is None else whole("best_step", at["best_step"])
    except formats.MALFORMED as error:
        raise formats.damaged(path / CHECKPOINT, repr(error)) from None
    if best_step == step:
        return settings, {"best": (step, best)}
    last = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    return settings, {"best": (best_step, best), "last": (step, _network(settings, last, path / CHECKPOINT))}


def _network(settings: Settings, tensors: Mapping[str, Tensor], file: Path) -> Any:
    try:
        model = TASKS[settings.task].network(settings.about, settings.recipe)
        require_like(tensors, model.state_dict())
        model.load_state_dict(tensors)
    except formats.MALFORMED as error:
        raise formats.damaged(file, str(error)) from None
    return model.eval()


def _again(settings: Settings, path: Path, source: str | Path | None) -> ResumableTask:
    """The task of a run, with the same data read again."""
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
    except formats.MALFORMED as error:
        raise formats.damaged(path / SETTINGS, f"what it says about the data cannot be used ({error!r})") from None
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


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    for name, value in changes.items():
        if name == "equations" and value != getattr(recipe, name):
            raise InputError(
                "A resumed training keeps the equations of its cell; the file given has others. Leave --cell out, or "
                "start a new run in another directory with -o."
            )
        if name not in CHANGEABLE and value != getattr(recipe, name):
            raise InputError(
                f"A resumed training keeps its {name}, {getattr(recipe, name)!r}; got {value!r}. Leave it out, or "
                f"start a new run. Only {', '.join(CHANGEABLE)} can change."
            )
    return replace(recipe, **changes)


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
    """UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _versions() -> dict[str, str]:
    return {"bptt": _own_version(), "python": platform.python_version(), "torch": torch.__version__}


def _own_version() -> str:
    try:
        return version("bptt")
    except PackageNotFoundError:
        return "not installed"
