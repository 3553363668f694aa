"""Run directories: everything a training leaves behind, and everything it needs to go on.

    settings.json           schema version, model, vocabulary, fingerprint of the text, recipe, versions, command
    weights.safetensors     the weights with the fewest bits on the held-out text
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

from bptt import data, sweeps
from bptt.data import Text, Vocabulary
from bptt.errors import InputError
from bptt.nn import Elman
from bptt.train import Recipe, Training

SCHEMA = 1
SETTINGS = "settings.json"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.png"


@dataclass(frozen=True)
class Settings:
    """What settings.json holds.

    source      where the text came from, see `Text.source`; characters and sha256 are those of the text
    versions    of bptt, Python and torch
    command     as it could be typed again
    started     UTC, ISO 8601
    """

    vocabulary: Vocabulary
    recipe: Recipe
    source: str
    characters: int
    sha256: str
    versions: Mapping[str, str]
    command: str
    started: str

    @property
    def model(self) -> dict[str, Any]:
        """Arguments of `Elman`."""
        return {
            "input_size": len(self.vocabulary),
            "hidden_size": self.recipe.hidden,
            "output_size": len(self.vocabulary),
            "num_layers": self.recipe.layers,
            "nonlinearity": self.recipe.nonlinearity,
            "loss": "cross_entropy",
        }

    @property
    def fingerprint(self) -> str:
        """Of model and vocabulary: weights and settings with different ones do not belong together."""
        return hashlib.sha256(json.dumps([self.model, self.vocabulary.as_json()]).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "task": "text",
            "model": self.model,
            "vocabulary": self.vocabulary.as_json(),
            "data": {"source": self.source, "characters": self.characters, "sha256": self.sha256},
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
        facts = value["data"]
        settings = cls(
            vocabulary=Vocabulary.from_json(value["vocabulary"]),
            recipe=Recipe(**value["recipe"]),
            source=str(facts["source"]),
            characters=int(facts["characters"]),
            sha256=str(facts["sha256"]),
            versions=dict(value["versions"]),
            command=str(value["command"]),
            started=str(value["started"]),
        )
        if value["model"] != settings.model:
            raise InputError("model must be the one that recipe and vocabulary describe")
        return settings


class Run:
    """A run directory being written. Log lines wait in memory until `save` has been called once."""

    def __init__(self, path: Path, settings: Settings, *, saved: bool = False) -> None:
        """saved: whether the directory holds this run already, and not nothing or another one."""
        self.path, self.settings, self.saved = path, settings, saved
        self._waiting = b""

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
        write_together(self.path, {CURVE: curve.png(read_log(self.path), self.settings.recipe.clip)})
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
    path: str | Path, text: Text, recipe: Recipe, *, overwrite: bool = False, command: str = ""
) -> tuple[Run, Training]:
    """A new training on the text, and the directory it will be saved in.

    With `overwrite`, a run already there stays as it is until the new one is saved for the first time.

    Raises InputError where the text is too short, or where the directory holds a run, is a file or cannot be written.
    """
    path = Path(path)
    if not next(above for above in (path, *path.absolute().parents) if above.exists()).is_dir():
        raise _not_a_directory(path)
    if not overwrite:
        _refuse_run(path)
    vocabulary = Vocabulary.of(text.characters)
    settings = Settings(
        vocabulary,
        recipe,
        text.source,
        len(text.characters),
        text.sha256,
        _versions(),
        command,
        _now(),
    )
    training = _training(settings, text)
    _require_directory(path)
    run = Run(path, settings)
    run.log(_opening_line("start", training, command))
    run.save(training)
    return run, training


def resume(
    path: str | Path, text: Text | None = None, *, changes: Mapping[str, Any] | None = None, command: str = ""
) -> tuple[Run, Training]:
    """The training that was saved in the directory, at the step where it was saved.

    text     must be the one it was trained on; read again from where it came if left out
    changes  to the recipe: epochs, steps, time_limit, patience, lr and clip may be changed

    Raises InputError where there is nothing to resume, files are damaged, the text is another, or a change is not
    possible.
    """
    path = Path(path)
    settings = read_settings(path)
    text = text or _text_of(settings, path)
    _require_same_text(text, settings, path)
    recipe = _changed(settings.recipe, changes or {})
    settings = replace(settings, recipe=recipe)
    training = _training(settings, text)
    tensors, facts = _read_safetensors(path / CHECKPOINT)
    _require_fingerprint(path / CHECKPOINT, facts, settings)
    try:
        training.restore(tensors, facts["training"])
        log_bytes = int(facts["log_bytes"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path / CHECKPOINT, str(error)) from None
    _require_directory(path)
    _cut(path / LOG, log_bytes)
    run = Run(path, settings, saved=True)
    run.log(_opening_line("resume", training, command))
    return run, training


def load(path: str | Path) -> tuple[Settings, Elman]:
    """The settings of a run and its best weights in a model.

    Raises InputError where the directory holds no run, or files are damaged or do not belong together.
    """
    path = Path(path)
    settings = read_settings(path)
    tensors, facts = _read_safetensors(path / WEIGHTS)
    _require_fingerprint(path / WEIGHTS, facts, settings)
    model = Elman(**settings.model)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
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


def _text_of(settings: Settings, path: Path) -> Text:
    try:
        return data.reread(settings.source)
    except InputError:
        raise InputError(
            f"A resumed training needs the text it began with; {settings.source} cannot be read any more. Say where it "
            f"is now: bptt train FILE -o {path} --resume"
        ) from None


def _training(settings: Settings, text: Text) -> Training:
    tokens = settings.vocabulary.encode(text.characters)
    parts = data.split(tokens, settings.recipe.held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.recipe.seed)
        model = Elman(**settings.model)
    return Training(model, *parts, settings.recipe)


def _opening_line(event: str, training: Training, command: str) -> dict[str, Any]:
    return {
        "event": event,
        "step": training.step,
        "total_steps": training.total_steps,
        "time": _now(),
        "command": command,
        "engine": sweeps.choose("cpu", torch.float32).name,
        "threads": torch.get_num_threads(),
    }


def _now() -> str:
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


def _refuse_run(path: Path) -> None:
    if _holds_run(path):
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


def _require_same_text(text: Text, settings: Settings, path: Path) -> None:
    if text.sha256 == settings.sha256:
        return
    fix = "Give the same text, or start a new run in another directory with -o."
    was = f"{settings.characters} characters from {settings.source}"
    if unknown := settings.vocabulary.unknown(text.characters):
        raise InputError(
            f"A resumed training needs the text it began with, in the same alphabet; {path} knows "
            f"{len(settings.vocabulary)} characters ({was}), and {text.source} has others: "
            f"{data.listed(unknown)}. {fix}"
        )
    raise InputError(
        f"A resumed training needs the text it began with, {was}, sha256 {settings.sha256[:12]}; "
        f"got {len(text.characters)} characters from {text.source}, sha256 {text.sha256[:12]}. {fix}"
    )


_CHANGEABLE = ("epochs", "steps", "time_limit", "patience", "lr", "clip")


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    for name, value in changes.items():
        if name not in _CHANGEABLE and value != getattr(recipe, name):
            raise InputError(
                f"A resumed training keeps its {name}, {getattr(recipe, name)!r}; got {value!r}. Leave it out, or "
                f"start a new run. Only {', '.join(_CHANGEABLE)} can change."
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
        raise _damaged(path, f"it belongs to another model or alphabet than {SETTINGS} beside it")


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
