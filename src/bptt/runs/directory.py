"""The directory of a run: who may write in it, and which of its files.

A run writes only where it holds the lock, and replaces only files that it has written (`bptt.files.owned`).
"""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from bptt.errors import InputError
from bptt.files import disk, owned
from bptt.files.disk import Lock, LockedError, NotOursError, NotWrittenError, recover, staged
from bptt.files.owned import AT_THE_END, CHECKPOINT, CURVE, KEPT, PREVIOUS, SETTINGS, TOGETHER, WEIGHTS
from bptt.runs.formats import SchemaError, cannot_read, read_settings

OUTCOMES = (*AT_THE_END, "forecast.csv", "forecast.png", "inspect.html")  # removed when another run replaces this one


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raises InputError unless a new run can be written here."""
    if not _is_utf_8(path):
        raise InputError(f"The name of a run directory must be UTF-8; got {str(path)!r}. Name another with -o.")
    try:
        is_free = next(above for above in (path, *path.absolute().parents) if above.exists()).is_dir()
    except OSError as error:
        raise cannot_write(path, error) from None
    if not is_free:
        raise _not_a_directory(path)
    is_run = _is_run(path)
    in_the_way = _in_the_way(path, (*KEPT, disk.LOCK, *OUTCOMES), trusted=KEPT if is_run else ())
    if not overwrite and holds_run(path) and (is_run or not in_the_way):
        raise InputError(
            f"A new training needs a directory without a run; {path} holds one. Go on with it: --resume. "
            "Replace it: --overwrite. Or name another directory with -o."
        )
    if in_the_way:
        try:
            read_settings(path)
        except SchemaError:
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


def holds_run(path: Path) -> bool:
    try:
        return any((path / name).exists() for name in (SETTINGS, WEIGHTS, CHECKPOINT, PREVIOUS))
    except OSError as error:
        raise cannot_read(path, error) from None


def _is_utf_8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def require_directory(path: Path) -> None:
    """Makes the directory and tries to write in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (FileExistsError, NotADirectoryError):
        raise _not_a_directory(path) from None
    except OSError as error:
        raise cannot_write(path, error) from None


def require_free(path: Path, names: Iterable[str], *, trusted: Iterable[str] = ()) -> None:
    """Raises InputError where one of these names is taken by something that the run has not written."""
    if in_the_way := _in_the_way(path, names, trusted):
        raise _not_ours(in_the_way)


def _in_the_way(path: Path, names: Iterable[str], trusted: Iterable[str]) -> list[Path]:
    """trusted: files that belong to the run even without a record; their staged versions do not."""
    try:
        found = [at for at in owned.others(path, names) if at.name not in trusted]
        return [at for at in found if at.name != disk.LOCK or not disk.is_lock(at)]
    except OSError as error:
        raise cannot_read(path, error) from None


def claim(path: Path, files: Mapping[str, bytes | None] = dict.fromkeys((*KEPT, disk.LOCK))) -> None:
    """Records that these files are the run's, see `owned.add`."""
    try:
        owned.add(path, files)
    except NotOursError as error:
        raise _not_ours([error.path]) from None
    except OSError as error:
        raise cannot_write(path / owned.RECORD, error) from None


def lock(path: Path) -> Lock:
    """The right to write in the directory. A save that a crash interrupted is completed or undone first."""
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
        raise cannot_write(path, error) from None
    _recover(path)
    return lock


def _recover(path: Path) -> None:
    """`disk.recover`, for files that the record names as the run's."""
    try:
        for names in (TOGETHER, (CURVE,)):
            if owned.holds(path, names[0]):
                recover(path, names)
    except NotWrittenError as refusal:
        raise cannot_write(refusal.path, refusal.error) from None


def recover_if_free(path: Path) -> None:
    """Completes or undoes an interrupted save. Raises InputError where another process writes here."""
    if owned.holds(path, CHECKPOINT) and any(staged(path / name).exists() for name in TOGETHER):
        lock(path).release()


def add(path: Path, files: Mapping[str, bytes]) -> None:
    """Adds files to a run, all or none.

    Raises InputError where the disk refuses, and where one of these names is taken by something that the run has not
    written.
    """
    require_free(path, files)
    claim(path, files)
    write_together(path, files)


def write_together(directory: Path, files: Mapping[str, bytes], *, keep: tuple[str, str] | None = None) -> None:
    try:
        disk.write_together(directory, files, keep=keep)
    except NotWrittenError as refusal:
        raise cannot_write(refusal.path, refusal.error) from None


def remove_own(path: Path, names: Iterable[str]) -> None:
    try:
        for file in owned.own(path, names):
            file.unlink(missing_ok=True)
    except NotOursError as error:
        raise _not_ours([error.path]) from None
    except OSError as error:
        raise cannot_write(path, error) from None


def identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def synced_size(path: Path) -> int:
    """The size of the log in bytes, once all of them are on the disk."""
    try:
        with disk.open_to_append(path) as log:
            os.fsync(log.fileno())
            return log.tell()
    except OSError as error:
        raise cannot_write(path, error) from None


def cut(path: Path, size: int) -> None:
    """Cuts the log back to this size in bytes."""
    try:
        with disk.open_to_append(path) as log:
            if os.fstat(log.fileno()).st_nlink > 1:
                raise OSError("it has another name as well, a hard link, and would be cut there too")
            log.truncate(min(size, log.tell()))
    except OSError as error:
        raise cannot_write(path, error) from None


def _not_a_directory(path: Path) -> InputError:
    return InputError(
        f"The output must be a directory, new or old; {path} is a file or lies below one. Name another with -o."
    )


def _not_ours(paths: list[Path]) -> InputError:
    named = ", ".join(map(str, paths))
    return InputError(
        f"A run replaces and removes only files as it has written them; it has not written {named}, or somebody has "
        "changed it since. Move it away, or name another place with -o."
    )


def cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"The run must be saved, and {path} cannot be written: {error.strerror or error}. Make room or "
        "get permission, or name another directory with -o. Files saved before are as they were."
    )
