"""The file format of a tape: safetensors with one JSON string in its metadata, written and checked here.

`write` and `read` deal in named arrays and a description; what they mean stands in `bptt.tape` and docs/tape.md. A file
is believed only as far as it has been checked: every array that the description names is there and no other, shapes
agree with each other, tokens lie in their range. Nothing in a file is ever executed.
"""

import json
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bptt.engine.activations import ACTIVATIONS
from bptt.errors import InputError
from bptt.files import disk, outputs
from bptt.sheet.losses import PAIRS

SCHEMA = 1
KEY = "bptt.tape"

# The shape of every array. N counts the rows of a packed batch, S the steps that have an output, F the features that
# the readout sees. Integer tokens lack the axis I of x, class numbers the axis O of targets.
LAYER = {
    "W_xh": "I H", "W_hh": "H H", "b_h": "H",
    "x": "T B I", "a": "T B H", "states": "T+1 B H",
    "dh_direct": "T B H", "dh": "T B H", "da": "T B H", "dx": "T B I", "dh0": "B H",
    "dW_xh": "I H", "dW_hh": "H H", "db_h": "H",
}  # fmt: skip
LAYER_PACKED = LAYER | {
    "x": "N I", "a": "N H", "states": "N+B H", "dh_direct": "N H", "dh": "N H", "da": "N H", "dx": "N I",
}  # fmt: skip
OUTPUT = {
    "W_ho": "F O", "b_o": "O",
    "o": "S B O", "y_hat": "S B O", "loss": "S B", "targets": "S B O", "do": "T B O", "w": "T B", "L": "",
}  # fmt: skip
OUTPUT_PACKED = OUTPUT | {
    "o": "N O", "y_hat": "N O", "loss": "N", "targets": "N O", "do": "N O", "w": "N",
}  # fmt: skip
ALWAYS = ("W_xh", "W_hh", "x", "a", "states")
SIDE_B = ("dh_direct", "dh", "da", "dh0")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
            arrays = {} if text is None else {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise _unusable(path, f"it cannot be read as safetensors ({error})") from None
    if text is None:
        raise _unusable(path, f"it is a safetensors file of something else (no {KEY} in its metadata)")
    try:
        about = disk.from_json(text)
    except ValueError as error:
        raise _unusable(path, f"its description is not JSON ({error})") from None
    schema = about.get("schema") if isinstance(about, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(
            f"this version of bptt reads tapes of schema {SCHEMA}; {str(path)!r} has schema {schema!r}. "
            "Read it with the version that wrote it, or record it again."
        )
    try:
        _check_description(about)
        _check_arrays(about, arrays)
    except _Flaw as flaw:
        raise _unusable(path, str(flaw)) from None
    return about, arrays


class _Flaw(Exception):  # noqa: N818
    """A fault in the contents of a file."""


def _demand(holds: bool, flaw: str) -> None:
    if not holds:
        raise _Flaw(flaw)


def _unusable(path: Path, reason: str) -> InputError:
    return InputError(f"a tape is a file written by Tape.save; {str(path)!r} is not usable: {reason}. Record it again.")


def _check_description(about: dict[str, Any]) -> None:
    for key in ("arrays", "layers", "loss", "readout_missing", "text", "vocabulary", "seed", "versions"):
        _demand(key in about, f"its description lacks {key!r}")
    _demand(_is_list_of(about["arrays"], str), "'arrays' is not a list of names")
    _demand(_is_list_of(about["layers"], dict) and bool(about["layers"]), "'layers' is not a list of layers")
    _demand(about["loss"] is None or _is_one_of(about["loss"], PAIRS), f"its loss is {about['loss']!r}")
    _demand(isinstance(about["readout_missing"], str), "'readout_missing' is not text")
    _demand(about["text"] is None or isinstance(about["text"], str), "'text' is not text")
    _demand(about["vocabulary"] is None or _is_list_of(about["vocabulary"], str), "'vocabulary' is not a list of text")
    _demand(about["seed"] is None or type(about["seed"]) is int, f"its seed is {about['seed']!r}")
    versions = about["versions"]
    _demand(isinstance(versions, dict) and _is_list_of(list(versions.values()), str), "'versions' is not an object")
    for layer in about["layers"]:
        number, direction, sizes = layer.get("layer"), layer.get("direction"), layer.get("batch_sizes")
        activation = layer.get("activation")
        _demand(type(number) is int, f"a layer has the number {number!r}")
        _demand(_is_one_of(direction, ("forward", "reverse")), f"a layer has the direction {direction!r}")
        _demand(_is_one_of(activation, ACTIVATIONS), f"a layer has the activation {activation!r}")
        _demand("batch_sizes" in layer, "a layer lacks 'batch_sizes'")
        _demand(sizes is None or _is_falling(sizes), "batch_sizes are not a falling list of positive numbers")
        _demand(sizes == about["layers"][0].get("batch_sizes"), "its layers have different batch_sizes")
    order = [(layer["layer"], layer["direction"]) for layer in about["layers"]]
    directions = ("forward", "reverse") if ("reverse" in dict(order).values()) else ("forward",)
    wanted = [(number, direction) for number in range(len(order) // len(directions)) for direction in directions]
    _demand(order == wanted, "its layers are not complete and in order")


def _check_arrays(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    named = set(about["arrays"])
    _demand(named <= set(arrays), f"arrays are missing: {', '.join(sorted(named - set(arrays)))}")
    _demand(set(arrays) <= named, f"arrays that nothing names: {', '.join(sorted(set(arrays) - named))}")
    floats = {array.dtype for array in arrays.values() if array.is_floating_point()}
    _demand(len(floats) == 1, "its arrays are not of one floating dtype")
    others = {name for name, array in arrays.items() if array.dtype not in (*FLOATS, torch.int64)}
    _demand(not others, f"arrays of a dtype that a tape does not have: {', '.join(sorted(others))}")
    batch_sizes = about["layers"][0].get("batch_sizes")
    shared = {} if batch_sizes is None else {"N": sum(batch_sizes), "B": batch_sizes[0], "T": len(batch_sizes)}
    left, features = set(arrays), 0
    for layer in about["layers"]:
        prefix = f"layers.{layer['layer']}.{layer['direction']}."
        own = {name: arrays[prefix + name] for name in LAYER if prefix + name in arrays}
        left -= {prefix + name for name in own}
        for name in ALWAYS + (SIDE_B if own.keys() & set(SIDE_B) else ()):
            _demand(name in own, f"arrays are missing: {prefix}{name}")
        sizes = shared
        for name, shape in (LAYER if batch_sizes is None else LAYER_PACKED).items():
            if name in own:
                sizes = _fit(prefix + name, own[name], shape, sizes, classes="I" if name == "x" else None)
        features = sizes["H"] if layer["direction"] == "forward" else features + sizes["H"]
        shared |= {axis: size for axis, size in sizes.items() if axis in "TB"}
    sizes = shared | {"F": features}
    for name, shape in (OUTPUT if batch_sizes is None else OUTPUT_PACKED).items():
        if name in arrays:
            array = arrays[name]
            if name == "targets" and about["loss"] != "cross_entropy":
                array = array.to(arrays["layers.0.forward.a"].dtype)  # numbers, also where they are whole
            sizes = _fit(name, array, shape, sizes, classes="O" if name == "targets" else None)
    left -= set(OUTPUT)
    _demand(not left, f"arrays that belong to no layer: {', '.join(sorted(left))}")
    _demand(sizes.get("S", 0) <= sizes["T"], "it has more outputs than steps")
    if about["loss"] is not None:
        for name in ("o", "y_hat", "loss", "targets", "do", "w", "L"):
            _demand(name in arrays, f"arrays are missing: {name}")
        whole = not arrays["targets"].is_floating_point()
        _demand(whole or about["loss"] != "cross_entropy", "targets of cross_entropy are not class numbers")


def _fit(name: str, array: Tensor, shape: str, sizes: dict[str, int], *, classes: str | None) -> dict[str, int]:
    """The sizes of the axes after this array has had its say; a flaw if it contradicts those before it.

    `classes` is the axis that integers lack, being numbers below its size.
    """
    axes = shape.split()
    if not array.is_floating_point():
        if classes is None:
            raise _Flaw(f"{name} holds {array.dtype}")
        _demand(classes in sizes, f"{name} holds numbers below {classes}, and no array says what {classes} is")
        axes = [axis for axis in axes if axis != classes]
    _demand(array.dim() == len(axes), f"{name} has shape {tuple(array.shape)} where ({', '.join(axes)}) belongs")
    measured = zip(axes, array.shape, strict=True)
    sizes = sizes | {axis: size for axis, size in measured if axis not in sizes and "+" not in axis}
    wanted = tuple(sum(int(part) if part.isdigit() else sizes[part] for part in axis.split("+")) for axis in axes)
    _demand(array.shape == wanted, f"{name} has shape {tuple(array.shape)} where {wanted} belongs ({shape})")
    if classes is not None and not array.is_floating_point() and array.numel():
        low, high = int(array.min()), int(array.max())
        _demand(0 <= low <= high < sizes[classes], f"{name} holds numbers from {low} to {high}, outside [0, {classes})")
    return sizes


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_one_of(value: Any, names: Collection[str]) -> bool:
    return isinstance(value, str) and value in names


def _is_falling(sizes: Any) -> bool:
    return _is_list_of(sizes, int) and bool(sizes) and sizes[-1] > 0 and sizes == sorted(sizes, reverse=True)
