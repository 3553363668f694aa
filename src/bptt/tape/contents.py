"""What the file of a tape holds: its description, its arrays against each other and the sheets of its cells."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from bptt.engine.contract import Signature
from bptt.errors import InputError
from bptt.sheet import Cell
from bptt.sheet.losses import PAIRS

LONGEST_CELL = 100_000

# The shape of every array. N counts the rows of a packed batch, S the steps that have an output, F the features that
# the readout sees. Integer tokens lack the last axis of x, class numbers the axis O of targets.
OUTPUT = {
    "W_ho": "F O", "b_o": "O",
    "o": "S B O", "y_hat": "S B O", "loss": "S B", "targets": "S B O", "do": "T B O", "w": "T B", "L": "",
}  # fmt: skip
OUTPUT_PACKED = OUTPUT | {
    "o": "N O", "y_hat": "N O", "loss": "N", "targets": "N O", "do": "N O", "w": "N",
}  # fmt: skip
KINDS = ("weights", "first", "values", "totals", "from_outside", "d_weights", "d_first", "learned")
"""Of arrays of a layer: the fields of `Record` that hold them by name."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class ContentsError(Exception):
    """A fault in the contents of a file."""


def demand(holds: bool, fault: str) -> None:
    if not holds:
        raise ContentsError(fault)


def check(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    """ContentsError unless they make a tape of the newest schema."""
    _check_description(about)
    _check_arrays(about, arrays)


def _check_description(about: dict[str, Any]) -> None:
    keys = "arrays padded cells layers loss readout_missing text vocabulary seed versions"
    for key in keys.split():
        demand(key in about, f"its description lacks {key!r}")
    demand(_is_list_of(about["arrays"], str), "'arrays' is not a list of names")
    demand(_is_list_of(about["layers"], dict) and bool(about["layers"]), "'layers' is not a list of layers")
    demand(about["loss"] is None or _is_one_of(about["loss"], PAIRS), f"its loss is {about['loss']!r}")
    demand(isinstance(about["readout_missing"], str), "'readout_missing' is not text")
    demand(about["text"] is None or isinstance(about["text"], str), "'text' is not text")
    demand(about["vocabulary"] is None or _is_list_of(about["vocabulary"], str), "'vocabulary' is not a list of text")
    demand(about["seed"] is None or type(about["seed"]) is int, f"its seed is {about['seed']!r}")
    versions = about["versions"]
    demand(isinstance(versions, dict) and _is_list_of(list(versions.values()), str), "'versions' is not an object")
    padded = about["padded"]
    is_shape = _is_list_of(padded, int) and len(padded) == 2 and min(padded) >= 0
    demand(padded is None or is_shape, f"'padded' is not the numbers of steps and rows: {padded!r}")
    demand(_is_list_of(about["cells"], dict), "'cells' is not a list of cells")
    for cell in about["cells"]:
        _check_cell(cell.get("text"), cell.get("name"))
    for layer in about["layers"]:
        number, direction, sizes = layer.get("layer"), layer.get("direction"), layer.get("batch_sizes")
        cell = layer.get("cell")
        demand(type(number) is int, f"a layer has the number {number!r}")
        demand(_is_one_of(direction, ("forward", "reverse")), f"a layer has the direction {direction!r}")
        is_one = type(cell) is int and 0 <= cell < len(about["cells"])
        demand(is_one, f"a layer has the cell number {cell!r}, of {len(about['cells'])} cells")
        demand("batch_sizes" in layer, "a layer lacks 'batch_sizes'")
        demand(sizes is None or _is_falling(sizes), "batch_sizes are not a falling list of positive numbers")
        demand(sizes == about["layers"][0].get("batch_sizes"), "its layers have different batch_sizes")
    order = [(layer["layer"], layer["direction"]) for layer in about["layers"]]
    directions = ("forward", "reverse") if ("reverse" in dict(order).values()) else ("forward",)
    wanted = [(number, direction) for number in range(len(order) // len(directions)) for direction in directions]
    demand(order == wanted, "its layers are not complete and in order")


def _check_arrays(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    named = set(about["arrays"])
    demand(named <= set(arrays), f"arrays are missing: {', '.join(sorted(named - set(arrays)))}")
    demand(set(arrays) <= named, f"arrays that nothing names: {', '.join(sorted(set(arrays) - named))}")
    floats = {array.dtype for array in arrays.values() if array.is_floating_point()}
    demand(len(floats) == 1, "its arrays are not of one floating dtype")
    others = {name for name, array in arrays.items() if array.dtype not in (*FLOATS, torch.int64)}
    demand(not others, f"arrays of a dtype that a tape does not have: {', '.join(sorted(others))}")
    batch_sizes = about["layers"][0].get("batch_sizes")
    shared = {} if batch_sizes is None else {"N": sum(batch_sizes), "B": batch_sizes[0], "T": len(batch_sizes)}
    left, features = set(arrays), 0
    for layer in about["layers"]:
        prefix, cell = prefix_of(layer), cell_of(about, layer)
        signature, shapes = Signature.of(cell), _shapes(cell, packed=batch_sizes is not None)
        own = [name for name in shapes if prefix + name in arrays]
        left -= {prefix + name for name in own}
        complete = any(name.startswith("totals.") for name in own)
        for name in shapes:
            kind = name.partition(".")[0]
            needed = kind in ("x", "weights", "first", "values") or (
                complete and kind in ("totals", "from_outside", "d_first")
            )
            demand(not needed or name in own, f"arrays are missing: {prefix}{name}")
        sizes = shared | {"~1": 1}
        for name in own:
            tokens = "~" + cell.sheet.widths["x"] if name == "x" else None
            sizes = _fit(prefix + name, arrays[prefix + name], shapes[name], sizes, classes=tokens)
        width = sizes["~" + cell.derivation.widths[signature.output]]
        features = width if layer["direction"] == "forward" else features + width
        shared |= {axis: size for axis, size in sizes.items() if axis in "TB"}
    sizes = shared | {"F": features}
    demand((about["padded"] is None) == ("places" not in arrays), "'padded' and the array places belong together")
    if about["padded"] is not None:
        demand(batch_sizes is not None, "only packed layers have padding")
        T, B = about["padded"]
        places = arrays["places"]
        left -= {"places"}
        demand(
            places.dtype == torch.int64 and places.shape == (shared["N"],) and len(places.unique()) == len(places),
            f"places are not {shared['N']} different whole numbers",
        )
        inside = not places.numel() or 0 <= int(places.min()) <= int(places.max()) < T * B
        demand(inside, f"places lie outside of {T} steps of {B} rows")
        sizes, batch_sizes = {"F": features, "T": T, "B": B}, None
    for name, shape in (OUTPUT if batch_sizes is None else OUTPUT_PACKED).items():
        if name in arrays:
            array = arrays[name]
            if name == "targets" and about["loss"] != "cross_entropy":
                array = array.to(next(iter(floats)))  # numbers, also where they are whole
            sizes = _fit(name, array, shape, sizes, classes="O" if name == "targets" else None)
    left -= set(OUTPUT)
    demand(not left, f"arrays that belong to no layer: {', '.join(sorted(left))}")
    demand(sizes.get("S", 0) <= sizes["T"], "it has more outputs than steps")
    if about["loss"] is not None:
        for name in ("o", "y_hat", "loss", "targets", "do", "w", "L"):
            demand(name in arrays, f"arrays are missing: {name}")
        whole = not arrays["targets"].is_floating_point()
        demand(whole or about["loss"] != "cross_entropy", "targets of cross_entropy are not class numbers")


def prefix_of(layer: dict[str, Any]) -> str:
    """What stands before the names of the arrays of a layer in one direction."""
    return f"layers.{layer['layer']}.{layer['direction']}."


def cell_of(about: dict[str, Any], layer: dict[str, Any]) -> Cell:
    cell = about["cells"][layer["cell"]]
    return Cell(cell["text"], cell["name"])


def _check_cell(text: Any, name: Any) -> None:
    demand(isinstance(text, str) and isinstance(name, str), "a cell is not a text with a name")
    demand(len(text) <= LONGEST_CELL, f"a cell has {len(text)} characters, more than {LONGEST_CELL}")
    try:
        Cell(text, name)
    except InputError as error:
        raise ContentsError(f"its cell cannot be read: {error}") from None


def _shapes(cell: Cell, *, packed: bool) -> dict[str, str]:
    """The axes of every array that a layer of a cell may have; those of the sheet with ~ in front."""
    sheet, signature, widths = cell.sheet, Signature.of(cell), cell.derivation.widths
    steps = "N" if packed else "T B"
    weights = {
        name: " ".join(f"~{axis}" for axis in sheet.shapes.get(name) or (sheet.widths[name],))
        for name in signature.parameters
    }
    values = {line.name: f"{steps} ~{widths[line.name]}" for line in cell.derivation.steps}
    first = {name: f"B ~{widths[name]}" for name in signature.states}
    of_kind = {
        "weights": weights
        | {name: f"B ~{sheet.widths[name]}" for name in signature.masks}
        | {name: f"{steps} ~{sheet.widths[name]}" for name in signature.inputs},
        "first": first,
        "values": values,
        "totals": values,
        "from_outside": {name: values[name] for name in (signature.output, *signature.states)},
        "d_weights": weights,
        "d_first": first,
        "learned": {
            name: " ".join(f"~{axis}" for axis in sheet.shapes.get(name) or (sheet.widths[name],))
            for name, given in sheet.given.items()
            if given.learned and sheet.fixed
        },
    }
    found = {f"{kind}.{name}": shape for kind, shapes in of_kind.items() for name, shape in shapes.items()}
    inputs = f"{steps} ~{sheet.widths['x']}"
    return found | {"x": inputs, "dx": inputs}


def _fit(name: str, array: Tensor, shape: str, sizes: dict[str, int], *, classes: str | None) -> dict[str, int]:
    """The sizes of the axes after this array has had its say; a flaw if it contradicts those before it.

    `classes` is the axis that integers lack, being numbers below its size.
    """
    axes = shape.split()
    if not array.is_floating_point():
        if classes is None:
            raise ContentsError(f"{name} holds {array.dtype}")
        below = classes.removeprefix("~")
        demand(classes in sizes, f"{name} holds numbers below {below}, and no array says what {below} is")
        axes = [axis for axis in axes if axis != classes]
    said = " ".join(axes).replace("~", "")
    demand(array.dim() == len(axes), f"{name} has shape {tuple(array.shape)} where ({', '.join(said.split())}) belongs")
    measured = zip(axes, array.shape, strict=True)
    sizes = sizes | {axis: size for axis, size in measured if axis not in sizes}
    wanted = tuple(sizes[axis] for axis in axes)
    demand(array.shape == wanted, f"{name} has shape {tuple(array.shape)} where {wanted} belongs ({said})")
    if classes is not None and not array.is_floating_point() and array.numel():
        low, high = int(array.min()), int(array.max())
        demand(
            0 <= low <= high < sizes[classes],
            f"{name} holds numbers from {low} to {high}, outside [0, {classes.removeprefix('~')})",
        )
    return sizes


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_one_of(value: Any, names: Collection[str]) -> bool:
    return isinstance(value, str) and value in names


def _is_falling(sizes: Any) -> bool:
    return _is_list_of(sizes, int) and bool(sizes) and sizes[-1] > 0 and sizes == sorted(sizes, reverse=True)
