"""Files that a user has named: written whole or not at all, in a directory that exists, never over a device."""

import os
from collections.abc import Mapping
from pathlib import Path

from bptt.errors import InputError
from bptt.files import disk, owned


def write(what: str, files: Mapping[Path, bytes], *, made_from: str | None = None) -> None:
    """Writes all files, each whole, or none; no other file is touched.

    what        for messages: "a tape", "a forecast"
    made_from   a file that none of them may replace

    A link is followed, and its target replaced. Raises InputError where a file cannot be written, and for a file of a
    run: `runs.add` alone writes those.
    """
    try:
        for path in files:
            _check_place(what, path)
            if made_from is not None and path.exists() and path.samefile(made_from):
                raise InputError(
                    f"{what} must not replace the file it was made from; got {str(path)!r}. Choose another name."
                )
            real = Path(os.path.realpath(path))
            if owned.belongs_to_run(real):
                raise InputError(
                    f"{what} must not take the place of a file that a run keeps; got {str(path)!r}, {real.name} of the "
                    f"run in {real.parent.name!r}. Choose another name."
                )
        disk.write_apart({Path(os.path.realpath(path)): content for path, content in files.items()})
    except disk.NotWrittenError as refusal:
        raise _cannot_write(what, refusal.path, refusal.error) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _cannot_write(what, next(iter(files)), error) from None


def same_place(path: Path, other: Path) -> bool:
    """Whether both paths name the same entry of the same directory, whether or not that is a link."""
    return path.name == other.name and os.path.realpath(path.parent) == os.path.realpath(other.parent)


def _check_place(what: str, path: Path) -> None:
    if path.is_dir():
        fix = "Add a file name to it."
    elif not path.parent.is_dir():
        fix = f"Make the directory {str(path.parent)!r} first."
    elif path.exists() and not path.is_file():
        fix = "It is a device or a pipe. Name a file."
    else:
        return
    raise InputError(f"{what} is saved to a file in a directory that exists; got {str(path)!r}. {fix}")


def _cannot_write(what: str, path: Path, error: OSError | ValueError) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return InputError(
        f"{what} must be saved, and {str(path)!r} cannot be written: {reason}. Make room or get permission, or "
        "choose another name. A file that was there before is as it was."
    )
