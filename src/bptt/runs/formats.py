"""The files of a run, read and written with their checksums: settings, log, and tensors as safetensors.

Nothing here executes code from a file: safetensors and JSON only, the latter also as the one metadata string of the
former, "bptt".
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from bptt.errors import InputError
from bptt.files import disk
from bptt.files.owned import LOG, SETTINGS, WEIGHTS
from bptt.runs.settings import SCHEMA, Settings

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that made-up contents with a right checksum can raise."""

WRONG_SUM = "its contents do not have the checksum that was saved with them"


def read_settings(path: Path) -> Settings:
    """Raises InputError where the directory holds no run or its settings are damaged."""
    file = path / SETTINGS
    try:
        with disk.open_to_read(file) as opened:
            facts = disk.from_json(opened.read().decode("utf-8"), file_names=True)
        _require_schema(file, facts)
        settings = Settings.from_json(facts)
        if facts.pop("sha256", None) != digest({}, facts):
            raise ValueError(WRONG_SUM)
        return settings
    except (FileNotFoundError, NotADirectoryError):
        raise no_run(path) from None
    except OSError as error:
        raise cannot_read(file, error) from None
    except DamagedError:
        raise
    except KeyError as error:
        raise damaged(file, f"{error} is missing") from None
    except MALFORMED as error:
        raise damaged(file, str(error)) from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events in the log of a run, oldest first, up to the first line that is not JSON.

    Raises InputError where the log cannot be read.
    """
    try:
        with disk.open_to_read(path / LOG) as log:
            lines = log.read().decode("utf-8", "replace").split("\n")
    except OSError as error:
        raise cannot_read(path / LOG, error) from None
    events = []
    for line in lines:
        try:
            event = disk.from_json(line, file_names=True)
        except ValueError:
            break
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def as_safetensors(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {**facts, "sha256": digest(tensors, facts)}
    return save(tensors, {"bptt": json.dumps(facts, allow_nan=False)})


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and the JSON in its metadata. Raises InputError unless their checksum is right."""
    try:
        disk.open_to_read(path).close()  # safetensors says of a file that may not be read that there is none
        with safetensors.safe_open(path, framework="pt") as file:
            facts = disk.from_json((file.metadata() or {})["bptt"], file_names=True)
            if not isinstance(facts, dict):
                raise ValueError("its metadata must be a JSON object")
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
        _require_schema(path, facts)
        if facts.pop("sha256", None) != digest(tensors, facts):
            raise ValueError(WRONG_SUM)
        return tensors, facts
    except FileNotFoundError:
        raise DamagedError(
            f"A run must hold {path.name}; {path} does not exist. Train again with --overwrite, or name another run."
        ) from None
    except PermissionError as error:
        raise cannot_read(path, error) from None
    except OSError as error:
        raise DamagedError(str(cannot_read(path, error))) from None
    except KeyError:
        raise damaged(path, "it was not written by bptt") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise damaged(path, str(error)) from None


def read_checkpoint(path: Path, name: str) -> tuple[Settings, dict[str, Tensor], dict[str, Any]]:
    """Settings, tensors and facts of a checkpoint, which must belong to settings.json where that can be read."""
    tensors, facts = read_safetensors(path / name)
    try:
        settings = Settings.from_json(facts["settings"])
    except MALFORMED as error:
        raise damaged(path / name, f"its settings: {error}") from None
    try:
        known = read_settings(path)
    except InputError:
        return settings, tensors, facts
    if known.fingerprint != settings.fingerprint:
        raise damaged(path / name, f"it belongs to another training than {SETTINGS} beside it")
    return settings, tensors, facts


def digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a file: names, types, shapes and bytes of its tensors, and the facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_schema(path: Path, facts: Mapping[str, Any]) -> None:
    """Raises KeyError where the file has no schema."""
    if facts["schema"] != SCHEMA:
        raise SchemaError(
            f"The schema must be {SCHEMA}, the one that this version of bptt knows; got {facts['schema']!r} in {path}. "
            "Train again in another directory, or use the version of bptt that wrote it."
        )


def require_fingerprint(path: Path, facts: Mapping[str, Any], settings: Settings) -> None:
    if facts.get("fingerprint") != settings.fingerprint:
        raise damaged(path, f"it belongs to another training than {SETTINGS} beside it")


class DamagedError(InputError):
    """A file of a run is not as it was saved, or is missing."""


class SchemaError(DamagedError):
    """A file is of another version of bptt."""


def damaged(path: Path, reason: str) -> DamagedError:
    reason = " ".join(reason.split()).rstrip(".")
    again = f"let bptt train -o {path.parent} --resume write it again from the checkpoint, "
    return DamagedError(
        f"{path} must be a file as bptt train wrote it; it is not: {reason}. Restore it from a copy, "
        f"{again if path.name in (WEIGHTS, SETTINGS) else ''}or train again with --overwrite."
    )


def no_run(path: Path) -> InputError:
    return InputError(
        f"A run is a directory that bptt train has written; {path} holds no {SETTINGS}. "
        f"Train one first: bptt train -o {path}"
    )


def cannot_read(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} must be readable: {error.strerror or error}.")
