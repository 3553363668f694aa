"""Truncated BPTT: an update every k1 steps, each with a gradient that goes back through the last k2.

Each update takes the losses of the k1 new steps; the state before the last k2 steps counts as a constant. With
k1 = k2 = k the windows follow each other and nothing is computed twice; k1 = k2 = T is full BPTT. With k2 > k1 windows
overlap, and the steps in the overlap are computed again, with the present weights.

Source: Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories" (1990), who write BPTT(k2; k1).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.errors import InputError
from bptt.nn.stream import each

Model = Callable[[Tensor, Any], tuple[Tensor, Any]]
Loss = Callable[[Tensor, Tensor], Tensor]


class Window(NamedTuple):
    """One update: forward over steps [start, end), the losses of [fresh, end); the state before `start` is constant."""

    start: int
    fresh: int
    end: int


def windows(T: int, k1: int, k2: int) -> Iterator[Window]:
    """The windows of a sequence of T steps; the last is shorter where k1 does not divide T.

    Raises InputError unless 1 <= k1 <= k2.

    >>> list(windows(5, 2, 3))
    [Window(start=0, fresh=0, end=2), Window(start=1, fresh=2, end=4), Window(start=2, fresh=4, end=5)]
    """
    if not 1 <= k1 <= k2:
        raise InputError(
            f"truncated BPTT needs 1 <= k1 <= k2: an update every k1 steps goes back through k2; got k1={k1}, k2={k2}. "
            "With k2 < k1 some steps would have a loss and no gradient."
        )
    for fresh in range(0, T, k1):
        end = min(fresh + k1, T)
        yield Window(max(0, end - k2), fresh, end)


def updates(
    model: Model, loss: Loss, x: Tensor, y: Tensor, *, k1: int, k2: int, h0: Any = None
) -> Iterator[tuple[Tensor, Any]]:
    """Yields the loss of each window, for the caller to send back and update the weights, and the state after it.

    model  (x, h0 or None) -> (o, h_n), such as `bptt.nn.Elman` or any `bptt.nn.Network`; time first
    loss   (o, y) -> scalar, for the k1 new steps of a window. A mean gives every window the same weight, also a
           shorter last one or one with masked steps. A sum gives every step the same weight
    x, y   (T, B, ...) inputs and targets
    h0     state before the first step, such as the last h_n of the same stream; None: zero

    Between two windows the caller may change the weights. The yielded state is detached, (layers, B, H), or a
    tuple of such arrays where the cell has several states.

        for L, h in truncated.updates(model, model.loss, x, y, k1=20, k2=60):
            optimizer.zero_grad(); L.backward(); optimizer.step()
    """
    _check_targets(x, y)
    for new, o, h in _outputs(model, x, h0, k1, k2):
        yield loss(o, y[new]), h


def _check_targets(x: Tensor, y: Tensor) -> None:
    if len(y) != len(x):
        raise InputError(f"targets must have a step for each of the {len(x)} steps of the inputs; got {len(y)}.")


def _outputs(model: Model, x: Tensor, h0: Any, k1: int, k2: int) -> Iterator[tuple[slice, Tensor, Any]]:
    """For each window its new steps, their outputs, and the state after them."""
    plan = list(windows(len(x), k1, k2))
    for number, (start, fresh, end) in enumerate(plan):
        next_start = plan[number + 1].start if number + 1 < len(plan) else end
        o, h0, h = through(model, x[start:end], h0, next_start - start)
        yield slice(fresh, end), o[fresh - start :], h


def through(model: Model, x: Tensor, h: Any, at: int) -> tuple[Tensor, Any, Any]:
    """o of all steps of a window x that begins in state h; the state after `at` steps; the state after the last.

    Both states are detached. The next window begins in the first one; the gradient of this window flows through it.
    """
    outputs, h_at = [], h
    if at:
        o, h_at = model(x[:at], h)
        outputs.append(o)
    h = h_at
    if at < len(x):
        o, h = model(x[at:], h_at)
        outputs.append(o)
    assert h is not None
    o = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return o, None if h_at is None else each(Tensor.detach, h_at), each(Tensor.detach, h)


@dataclass(frozen=True)
class Bias:
    """The difference between the truncated gradient and the full one, over all parameters and for each.

    cosine          of the angle between the two; 1 is the same direction
    relative_error  ‖truncated − full‖ / ‖full‖
    """

    cosine: float
    relative_error: float
    by_parameter: "dict[str, Bias]"


def bias(model: torch.nn.Module, loss: Loss, x: Tensor, y: Tensor, *, k1: int, k2: int, h0: Any = None) -> Bias:
    """Compares the truncated gradient with the full one, for the loss of the whole sequence and the present weights.

    loss  (o, y) -> scalar, for all steps together: a sum, a mean, with a mask or without, or anything else

    ∂L/∂o of the whole sequence is sent back twice: through all steps, and through the windows of `updates`. For a sum
    over steps the truncated gradient is therefore the sum of the windows' gradients; for a mean, their mean weighted by
    steps. Other arguments as for `updates`. Parameters and their `grad` do not change. Dropout is off, so that
    truncation is the only difference.

    Raises InputError where the loss is not one number that depends on o.
    """
    _check_targets(x, y)
    was_training = model.training
    model.eval()
    try:
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        o, _ = model(x, h0)
        at = o.detach().requires_grad_()
        L = loss(at.clone(), y)  # which may change its outputs in place
        if not isinstance(L, Tensor) or L.numel() != 1 or not L.requires_grad:
            raise InputError(
                f"the loss must be one number that depends on the outputs o, a tensor of one element; got {L}. "
                "Sum or average over what is left, and compute with tensors."
            )
        do, *direct = torch.autograd.grad(L, [at, *parameters.values()], allow_unused=True, materialize_grads=True)
        full = dict(zip(parameters, direct, strict=True))  # not by way of o, such as a penalty on weights
        truncated = {name: gradient.clone() for name, gradient in full.items()}
        _add_gradients(full, o, do, parameters)
        for new, o_new, _ in _outputs(model, x, h0, k1, k2):
            _add_gradients(truncated, o_new, do[new], parameters)
    finally:
        model.train(was_training)
    by_parameter = {name: _compare([truncated[name]], [full[name]], {}) for name in parameters}
    return _compare(list(truncated.values()), list(full.values()), by_parameter)


def _add_gradients(sums: dict[str, Tensor], o: Tensor, do: Tensor, parameters: dict[str, torch.nn.Parameter]) -> None:
    found = torch.autograd.grad(o, list(parameters.values()), do, allow_unused=True, materialize_grads=True)
    for name, gradient in zip(parameters, found, strict=True):
        sums[name] += gradient


def _compare(truncated: list[Tensor], full: list[Tensor], by_parameter: dict[str, Bias]) -> Bias:
    a, b = (torch.cat([g.flatten().double() for g in gradients]) for gradients in (truncated, full))
    norm, size = float(b.norm()), float(a.norm())
    error = float((a - b).norm())
    cosine = float(a @ b) / (norm * size) if norm and size else math.nan
    return Bias(cosine, error / norm if norm else (0.0 if error == 0 else math.inf), by_parameter)
