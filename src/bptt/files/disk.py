"""Atomic writes: a file whole or not at all, several files all or none; and a lock on a directory.

`write_together` replaces the files that it is given, and their staged versions. It does not ask whose they are
(`bptt.files.owned` knows which belong to a run). `write_apart` touches no file but those that it is given.

A new version of a file is staged as `.NAME.new` next to the old one, synced, and moved over it. Of files that belong
together the first is the commit record: it is staged first and moved first, and its move commits all of them. `recover`
completes what a crash interrupted: as long as the commit record is still staged, all staged files are removed; once it
has been moved, the others follow.
"""

import errno
import json
import os
import platform
import secrets
import stat
import sys
import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

LOCK = ".lock"

if sys.platform == "win32":
    flock = None
else:
    from fcntl import LOCK_EX, LOCK_NB, flock


class NotWrittenError(Exception):
    """The disk refused `path`, with `error`. All files are the old ones, or, after `recover`, the new ones."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(str(error))
        self.path, self.error = path, error


class NotOursError(Exception):
    """bptt did not write the file at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


def staged(path: Path) -> Path:
    """Where the new version of a file waits to be moved over the old one."""
    return path.with_name(f".{path.name}.new")


def write_together(directory: Path, files: Mapping[str, bytes], *, keep: tuple[str, str] | None = None) -> None:
    """Writes all files or none; the first is the commit record.

    keep  (name, other): the old version of `name`, if there is one, is kept as `other`. A crash in between may leave
          `other` alone

    Raises NotWrittenError where the disk refuses.
    """
    recover(directory, files)
    at, kept, moved = directory, False, False
    try:
        for name, content in files.items():
            at = directory / name
            staged(at).unlink(missing_ok=True)
            _write_synced(staged(at), content)
        sync_directory(directory)
        if keep is not None:
            at = directory / keep[1]
            with suppress(FileNotFoundError):
                (directory / keep[0]).replace(at)
                kept = True
        for name in files:
            at = directory / name
            staged(at).replace(at)
            moved = True
        sync_directory(directory)
    except BaseException as error:
        if not moved:
            if keep is not None and kept:
                with suppress(OSError):
                    (directory / keep[1]).replace(directory / keep[0])
            _remove_staged(directory, list(files))
        if isinstance(error, OSError):
            raise NotWrittenError(at, error) from None
        raise


def write_apart(files: Mapping[Path, bytes]) -> None:
    """Writes every file whole or not at all, and none where there is no room for one of them; staged at random names.

    Raises NotWrittenError where the disk refuses.
    """
    waiting: list[tuple[Path, Path]] = []
    at = Path()
    try:
        for at, content in files.items():
            waiting.append((at.with_name(f".{secrets.token_hex(8)}.new"), at))
            _write_synced(waiting[-1][0], content)
        while waiting:
            new, at = waiting[0]
            new.replace(at)
            del waiting[0]
        for directory in {at.parent for at in files}:
            sync_directory(directory)
    except BaseException as error:
        for new, _ in waiting:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NotWrittenError(at, error) from None
        raise


def recover(directory: Path, names: Iterable[str]) -> None:
    """Completes or undoes a `write_together` that a crash interrupted; its commit record is the first name.

    Raises NotWrittenError where the disk refuses.
    """
    first, *others = names
    if staged(directory / first).exists():
        _remove_staged(directory, [first, *others])
        return
    for name in others:
        at = directory / name
        try:
            staged(at).replace(at)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NotWrittenError(at, error) from None


def _remove_staged(directory: Path, names: list[str]) -> None:
    for name in reversed(names):
        with suppress(OSError):
            staged(directory / name).unlink(missing_ok=True)


def _write_synced(path: Path, content: bytes) -> None:
    """Writes a new file; a link that somebody has put in its place is not followed."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_whole(path: Path) -> bytes:
    """All of a file, or of a pipe until its end. Raises OSError, also for endless devices and where memory is short."""
    with path.open("rb") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
            raise OSError(errno.ENODEV, "it is a device, not a file", str(path))
        try:
            return file.read()
        except MemoryError:
            raise OSError(errno.ENOMEM, "it does not fit in memory", str(path)) from None


def open_to_append(path: Path) -> BinaryIO:
    """Creates the file where there is none. Raises OSError for a link, a pipe or a device."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(_opened(path, flags), "ab")


def open_to_read(path: Path) -> BinaryIO:
    """Raises OSError for a directory, a pipe or a device."""
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def _opened(path: Path, flags: int) -> int:
    """The descriptor of a file. Does not wait at a pipe. Raises OSError for anything but a file."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR)) if stat.S_ISDIR(mode) else OSError("it is no file")
    return handle


def from_json(text: str | bytes, *, file_names: bool = False) -> Any:
    """The value. Raises ValueError for text that is not JSON, or with an escape for half a surrogate pair.

    file_names   allow those that `os.fsdecode` makes of file names whose bytes are not UTF-8
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape" if file_names else "strict")
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return value


# Errors of file systems that cannot sync a directory, such as some on networks; they keep an order of their own.
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)


def sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


class LockedError(Exception):
    """Another process writes in the directory: `owner`, as far as it is known."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


class Lock:
    """The right to write in a directory, until `release`, the end of this object or of the process, however it ends.

    It is the system's lock on the file `.lock`, whose content names the holder. Within a process the newest Lock of a
    directory holds it; `held` of earlier ones becomes False. Where the system has no such locks, as on Windows and some
    network drives, nobody is refused.

    Raises LockedError where another process holds it; NotOursError where the file has other contents, is a link or has
    a second name; OSError where the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK
        while True:
            descriptor = _opened_lock(self.path)
            key = _identity(os.fstat(descriptor))
            if (before := _HELD.get(key)) is not None:
                before.release()
            try:
                if flock is not None:
                    flock(descriptor, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                with os.fdopen(descriptor, "r", errors="replace") as file:
                    raise LockedError(_owner(file.read(4096))) from None
            except OSError:
                pass
            if _is_at(self.path, key):
                break
            os.close(descriptor)
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_self()).encode())
        except BaseException:
            os.close(descriptor)
            raise
        _HELD[key] = self
        self._release = weakref.finalize(self, _release, descriptor, self.path, key, os.getpid())

    @property
    def held(self) -> bool:
        return self._release.alive

    def release(self) -> None:
        self._release()


def _opened_lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError:
        if path.is_symlink() or path.is_dir():
            raise NotOursError(path) from None
        raise
    status, content = os.fstat(descriptor), b""
    if stat.S_ISREG(status.st_mode):
        content = os.read(descriptor, 4096)
        os.lseek(descriptor, 0, os.SEEK_SET)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or (content and not _is_of_lock(content)):
        os.close(descriptor)
        raise NotOursError(path)
    return descriptor


def is_lock(path: Path) -> bool:
    """Whether the file was written by a Lock."""
    try:
        with open_to_read(path) as file:
            return _is_of_lock(file.read(4096))
    except OSError:
        return False


def _is_of_lock(content: bytes) -> bool:
    try:
        return from_json(content).keys() == _self().keys()
    except (ValueError, AttributeError):
        return False


_HELD: weakref.WeakValueDictionary[tuple[int, int], Lock] = weakref.WeakValueDictionary()


def _release(descriptor: int, path: Path, key: tuple[int, int], process: int) -> None:
    """Removes the file for the process that made it; a process forked from it leaves it there."""
    if os.getpid() == process and _is_at(path, key):
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _is_at(path: Path, key: tuple[int, int]) -> bool:
    try:
        return _identity(path.stat(follow_symlinks=False)) == key
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _self() -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"process": os.getpid(), "host": platform.node(), "since": now}


def _owner(text: str) -> str:
    try:
        facts = from_json(text)
        return f"process {int(facts['process'])} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
