"""The files of a run directory that are the run's own; it replaces and removes no others.

`files.jsonl` records them. Before a file is written for the first time, a line is added with its name and the SHA-256
of its content, or null for a file that the run keeps changing. A file that somebody has edited is theirs, no longer the
run's. The line holds for the staged version `.NAME.new` too. A crash can leave one line too many, which does no harm.
"""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bptt.files import disk
from bptt.files.disk import NotOursError, staged

RECORD = "files.jsonl"
SETTINGS = "settings.json"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
CURVE = "curve.png"
TOGETHER = (CHECKPOINT, LOG, WEIGHTS, SETTINGS)
KEPT = (*TOGETHER, PREVIOUS)  # written again and again during a training
AT_THE_END = (CURVE, "confusion.csv", "backtest.json", "backtest.png")


def others(directory: Path, names: Iterable[str]) -> list[Path]:
    """Files with one of these names, or staged for it, that are not the run's.

    Raises OSError where something cannot be read.
    """
    try:
        known = _known(_content(directory))
    except NotOursError as error:
        return [error.path]
    return [at for name, at in _there(directory, names) if not _is_own(at, name, known)]


def own(directory: Path, names: Iterable[str]) -> list[Path]:
    """Files with one of these names, or staged for it, that are the run's. Errors as for `add`."""
    known = _known(_content(directory))
    return [at for name, at in _there(directory, names) if _is_own(at, name, known)]


def add(directory: Path, files: Mapping[str, bytes | None]) -> None:
    """Records that these files are the run's from now on, with this content, or with any for None.

    Raises NotOursError where a run has not written the record, OSError where the disk refuses.
    """
    content = _content(directory)
    known = _known(content)
    lines = [
        json.dumps({"file": name, "sha256": sha256}).encode() + b"\n"
        for name, held in files.items()
        if (sha256 := None if held is None else hashlib.sha256(held).hexdigest()) not in known.get(name, ())
    ]
    if not lines:
        return
    if content and not content.endswith(b"\n"):
        lines.insert(0, b"\n")
    with disk.open_to_append(directory / RECORD) as record:
        record.write(b"".join(lines))
        record.flush()
        os.fsync(record.fileno())


def holds(directory: Path, name: str) -> bool:
    """Whether the directory has a record, and it names this file."""
    try:
        return name in _known(_content(directory))
    except (NotOursError, OSError):
        return False


def belongs_to_run(path: Path) -> bool:
    """Whether the path, existing or not, is in a run directory, and is one that its record names or a training writes.

    Upper and lower case count as the same, as they do on some disks. Without a record, a directory with settings and
    checkpoint is a run.
    """
    try:
        with disk.open_to_read(path.with_name(RECORD)) as record:
            known = _known(record.read())
    except OSError:
        known = {}
    if not known and not all(path.with_name(name).exists() for name in (SETTINGS, CHECKPOINT)):
        return False
    names = {*known, *KEPT, *AT_THE_END, RECORD, disk.LOCK}
    taken = {name.casefold() for known in names for name in (known, staged(Path(known)).name)}
    return path.name.casefold() in taken


def _content(directory: Path) -> bytes:
    path = directory / RECORD
    if not os.path.lexists(path):
        return b""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise NotOursError(path)
    with disk.open_to_read(path) as record:
        content = record.read()
    if content and not _known(content):
        raise NotOursError(path)
    return content


def _known(content: bytes) -> dict[str, set[str | None]]:
    """The recorded contents of each name. A line that was cut off by a power failure is left out."""
    known: dict[str, set[str | None]] = {}
    for line in content.splitlines():
        with suppress(ValueError):
            match disk.from_json(line):
                case {"file": str(name), "sha256": str() | None as sha256}:
                    known.setdefault(name, set()).add(sha256)
    return known


def _there(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        for at in (directory / name, staged(directory / name)):
            if os.path.lexists(at):
                yield name, at


def _is_own(at: Path, name: str, known: Mapping[str, Collection[str | None]]) -> bool:
    if name not in known or at.is_dir():
        return False
    if at.name != name:
        return True
    if not stat.S_ISREG(at.lstat().st_mode):
        return False
    return None in known[name] or hashlib.sha256(disk.read_whole(at)).hexdigest() in known[name]
