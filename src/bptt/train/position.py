"""Checks of a saved position: names, types, shapes and numbers, before a training goes on from it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bptt.train.recipe import is_number, is_whole


def require_like(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless both have the same names, and for each the same type and shape."""
    for name in sorted(tensors.keys() ^ wanted.keys()):
        raise ValueError(f"{name} is {'missing' if name in wanted else 'not known'}")
    for name, like in wanted.items():
        found = tensors[name]
        if found.dtype != like.dtype or found.shape != like.shape:
            raise ValueError(
                f"{name} must be {like.dtype} of shape {tuple(like.shape)}; it is {found.dtype} of shape "
                f"{tuple(found.shape)}"
            )


def require_facts(facts: Mapping[str, Any]) -> None:
    """Raises KeyError or ValueError for facts that no training has."""
    for name in ("step", "items", "best_step", "evaluations_since_best", "evaluated_at"):
        least = -1 if name == "evaluated_at" else 0
        most = facts["step"] if name in ("best_step", "evaluated_at") else 2**63 - 1
        if not (is_whole(facts[name]) and least <= facts[name] <= most):
            raise ValueError(f"{name} must be a whole number from {least} to {most}; got {facts[name]!r}")
    for name in ("seconds", "best_loss"):
        value = facts[name]
        if not ((is_number(value) and math.isfinite(value)) or (name == "best_loss" and value is None)):
            raise ValueError(f"{name} must be a finite number; got {value!r}")
    if facts["seconds"] < 0:
        raise ValueError(f"seconds must not be negative; got {facts['seconds']!r}")


def require_optimizer_state(
    state: Mapping[str, Tensor], optimizer: str, parameters: Iterable[Tensor], step: int
) -> None:
    """Raises ValueError unless the state is that of the optimizer after `step` steps. torch itself does not check it.

    state   as "INDEX.NAME": "0.exp_avg" of the first of the parameters
    """
    wanted: dict[str, Tensor] = {}
    if optimizer == "adam" and step > 0:
        for index, weight in enumerate(parameters):
            if weight.requires_grad:
                wanted |= {f"{index}.{name}": weight for name in ("exp_avg", "exp_avg_sq")}
                wanted[f"{index}.step"] = torch.zeros(())
    require_like(state, wanted)
    for name, tensor in state.items():
        if name.endswith(".step") and not 0 <= float(tensor) < math.inf:
            raise ValueError(f"{name} of the optimizer must be a number of steps; got {float(tensor)}")
