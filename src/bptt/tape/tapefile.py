"""The file format of a tape: safetensors with one JSON string in its metadata, written and checked here.

`write` and `read` deal in named arrays and a description; what they mean stands in `bptt.tape` and docs/tape.md. A file
is believed only as far as it has been checked (`bptt.tape.contents`): the text of a cell is read by the language of the
sheet, every array that the description names is there and no other, shapes agree with the sheet and each other, tokens
lie in their range. Nothing in a file is ever executed.
"""

import json
import stat
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bptt.errors import InputError
from bptt.files import disk, outputs
from bptt.tape import contents, schema1

SCHEMA = 2
KEY = "bptt.tape"


def write(path: Path, about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    """Write the file whole or not at all.

    Raises InputError when its directory is missing or `path` is a directory, and for text that is no Unicode.
    """
    arrays = {name: array.detach().cpu().clone(memory_format=torch.contiguous_format) for name, array in arrays.items()}
    about = {"schema": SCHEMA, "arrays": sorted(arrays)} | about
    text = json.dumps(about, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "the text and vocabulary of a tape must be Unicode, to be written as UTF-8; got the lone surrogate "
            f"{text[error.start]!a}, half of a character. Replace it, e.g. text.encode(errors='replace').decode()."
        ) from None
    outputs.write("a tape", {path: safetensors.torch.save(arrays, {KEY: text})})


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the arrays of a file; InputError unless they make a tape of this schema."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        kind = None
    except (OSError, ValueError) as error:
        raise _unusable(path, f"{(error.strerror if isinstance(error, OSError) else None) or error}") from None
    if kind != stat.S_IFREG:
        what = {None: "nothing", stat.S_IFDIR: "a directory"}.get(kind, "a pipe or device")
        raise InputError(f"a tape is a file written by Tape.save; found {what} at {str(path)!r}. Check the path.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            names = [] if text is None else sorted(file.keys())
            arrays = {name: file.get_tensor(name).clone() for name in names}  # whoever cuts the file cuts no tape
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise _unusable(path, f"it cannot be read as safetensors ({error})") from None
    if text is None:
        raise _unusable(path, f"it is a safetensors file of something else (no {KEY} in its metadata)")
    try:
        about = disk.from_json(text)
    except ValueError as error:
        raise _unusable(path, f"its description is not JSON ({error})") from None
    schema = about.get("schema") if isinstance(about, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise InputError(
            f"this version of bptt reads tapes of schema 1 to {SCHEMA}; {str(path)!r} has schema {schema!r}. "
            "Read it with the version that wrote it, or record it again."
        )
    try:
        if schema == 1:
            about, arrays = schema1.as_schema2(about, arrays)
        contents.check(about, arrays)
    except contents.ContentsError as fault:
        raise _unusable(path, str(fault)) from None
    return about, arrays


def _unusable(path: Path, reason: str) -> InputError:
    return InputError(f"a tape is a file written by Tape.save; {str(path)!r} is not usable: {reason}. Record it again.")
