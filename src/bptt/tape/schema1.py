"""Tapes of schema 1, which knew the plain cell alone, as those of schema 2."""

from typing import Any

from torch import Tensor

from bptt.errors import InputError
from bptt.sheet.cells import elman
from bptt.tape.contents import ContentsError, demand

# Where the arrays of a layer are in schema 2; `states` held the first state and those of all steps.
PLACES = {
    "x": "x", "dx": "dx", "W_xh": "weights.W_xh", "W_hh": "weights.W_hh", "b_h": "weights.b_h", "a": "values.a",
    "da": "totals.a", "dh": "totals.h", "dh_direct": "from_outside.h", "dh0": "d_first.h",
    "dW_xh": "d_weights.W_xh", "dW_hh": "d_weights.W_hh", "db_h": "d_weights.b_h",
}  # fmt: skip


def as_schema2(about: dict[str, Any], arrays: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file in the terms of schema 2; ContentsError where it has not those of 1."""
    layers = about.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ContentsError("'layers' is not a list of layers")
    demand(about.get("arrays") == sorted(arrays), "'arrays' are not the names of its arrays")
    cells: list[dict[str, str]] = []
    found, of_schema2 = dict(arrays), []
    for layer in layers:
        prefix = f"layers.{layer.get('layer')}.{layer.get('direction')}."
        own = {name: found.pop(prefix + name) for name in (*PLACES, "states") if prefix + name in found}
        demand({"a", "states"} <= own.keys(), f"arrays are missing: {prefix}a or {prefix}states")
        states, steps = own.pop("states"), len(own["a"]) if own["a"].dim() else 0
        packed, back = layer.get("batch_sizes") is not None, layer.get("direction") == "reverse"
        first = len(states) - steps if states.dim() else 0
        demand(first > 0 and states.dim() == (2 if packed else 3), f"{prefix}states has shape {tuple(states.shape)}")
        before, after = (states[steps:], states[:steps]) if back else (states[:first], states[first:])
        found |= {prefix + PLACES[name]: array for name, array in own.items()}
        found |= {prefix + "values.h": after, prefix + "first.h": before if packed else before[0]}
        try:
            text = elman(layer.get("activation"), bias="b_h" in own)
        except (InputError, TypeError):
            raise ContentsError(f"a layer has the activation {layer.get('activation')!r}") from None
        cell = {"name": "elman", "text": text}
        cells += [cell] * (cell not in cells)
        of_schema2.append({key: layer[key] for key in layer if key != "activation"} | {"cell": cells.index(cell)})
    return about | {"cells": cells, "padded": None, "layers": of_schema2, "arrays": sorted(found)}, found
