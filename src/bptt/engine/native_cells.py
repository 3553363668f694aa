"""The plain cell with options on the compiled engine: leak, residual connection, layer norm, recurrent dropout.

Between the products, which are torch's, stands one sweep each way in C++ (native/cells.hpp). So unlike those of the
plain cell, the last bits of the weight gradients depend on the number of threads.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.engine import _native
from bptt.engine.arrays import (
    ACTIVATIONS,
    activation_of,
    address,
    check_storage,
    check_tokens,
    matrix,
    precision_of,
    require,
    require_output,
    sizes_of,
)
from bptt.engine.contract import Gradients, Made, Weights
from bptt.engine.functions import EPSILON
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import elman


class Options(NamedTuple):
    """Those of `bptt.sheet.cells.elman` that the sweeps know."""

    activation: str
    leak: float
    residual: bool
    norm: bool
    dropout: bool


@lru_cache
def options(cell: Cell) -> Options | None:
    """None for a cell that is not the plain one with options."""
    sheet = cell.sheet
    function = sheet.functions.get("φ", "")
    leak = sheet.given["λ"].start if "λ" in sheet.given else None
    norm, dropout = "γ" in sheet.given, any(given.kind == "drop" for given in sheet.given.values())
    activation = ACTIVATIONS.get(function)
    if activation is None:
        return None
    for residual in (False, True):
        text = elman(function, leak=leak, residual=residual, norm=norm, dropout=dropout, bias="b_h" in sheet.given)
        if Cell(text).derivation.steps == cell.derivation.steps:
            return Options(activation, 1.0 if leak is None else leak, residual, norm, dropout)
    return None


def forward(
    cell: Cell,
    weights: Weights,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    extras: Sequence[Tensor],
    *,
    out: Tensor | None,
) -> Made:
    check_storage(x=x, h0=first[0], **dict(zip(weights.layout.names, weights.tensors, strict=True)))
    how, given = _options(cell), weights.by_name()
    W_xh, W_hh, dtype = given["W_xh"], given["W_hh"], given["W_hh"].dtype
    precision, H = precision_of("W_hh", dtype), len(given["W_hh"])
    if x.is_floating_point():  # A2, the input's share
        a = F.linear(x, W_xh.mT, given.get("b_h"))
    else:
        check_tokens(x, len(W_xh))
        a = F.embedding(x, W_xh) + given["b_h"] if "b_h" in given else F.embedding(x, W_xh)
    sizes, rows = sizes_of("x", x, steps)
    W_hh = require("W_hh", W_hh, dtype, (H, H), strided=True)
    a = require("a", a, dtype, (*rows, H))
    h0 = require("h0", W_hh.new_zeros(1, steps.B, H) if first[0] is None else first[0], dtype, (1, steps.B, H))
    held = _Held.of(how, given, extras, dtype, steps.B, H)
    h = torch.empty_like(a) if out is None else require_output("out", out, dtype, (*rows, H))
    f = h if how.leak == 1 else torch.empty_like(a)
    normalised, scale = (torch.empty_like(a), a.new_empty(*rows, 1)) if how.norm else (None, None)
    precision.forward_cells(
        steps.T, steps.B, H, address(sizes), steps.reverse, *held.words(),
        *matrix(W_hh), address(a), address(h0), address(h), address(f),
        address(normalised), address(scale), torch.get_num_threads(),
    )  # fmt: skip
    kept = {"n": normalised, "f": None if f is h or how.activation == "identity" else f, "scale": scale}
    return Made(h, (steps.last_of(h, h0),), tuple(array for array in kept.values() if array is not None))


def backward(
    cell: Cell,
    weights: Weights,
    made: Made,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    dy: Tensor | None,
    d_last: Sequence[Tensor | None],
    into: Gradients,
    extras: Sequence[Tensor],
) -> None:
    h, names = made.y, weights.layout.names
    check_storage(x=x, h=h, h0=first[0], dy=dy, dh_n=d_last[0], **dict(zip(names, weights.tensors, strict=True)))
    check_storage(dx=into.x, dh0=into.first[0], **{f"d{name}": d for name, d in zip(names, into.weights, strict=True)})
    how, given = _options(cell), weights.by_name()
    dtype, H = h.dtype, h.shape[-1]
    precision, W_hh = precision_of("h", dtype), require("W_hh", given["W_hh"], dtype, (H, H), strided=True)
    sizes, rows = sizes_of("h", h, steps)
    kept = list(made.kept)
    normalised = require("n", kept.pop(0), dtype, (*rows, H)) if how.norm else None
    scale = require("scale", kept.pop(), dtype, (*rows, 1)) if how.norm else None
    f = require("f", kept.pop() if kept else h, dtype, (*rows, H))
    received = steps.received(dy, d_last[0], h)
    dh = require("dh", steps.without_first(received), dtype, (*rows, H))
    held = _Held.of(how, given, extras, dtype, steps.B, H)
    dz = torch.empty_like(dh)  # ∂L/∂ of the argument of φ
    da = torch.empty_like(dh) if how.norm else dz
    dh0 = dh.new_empty(steps.B, H)
    precision.backward_cells(
        steps.T, steps.B, H, address(sizes), steps.reverse, *held.words(),
        *matrix(W_hh), address(dh), address(f), address(normalised),
        address(scale), address(da), address(dz), address(dh0), torch.get_num_threads(),
    )  # fmt: skip
    if into.first[0] is not None:
        into.first[0][0] = dh0 + steps.first_of(received)  # B11
    if into.x is not None:
        W_xh = given["W_xh"]
        torch.matmul(da, W_xh.mT, out=require_output("dx", into.x, dtype, (*rows, len(W_xh))))
    asked = {name for name, at in weights.layout.made_of.items() if any(into.weights[k] is not None for k in at)}
    da_rows, dz_rows = da.flatten(0, -2), dz.flatten(0, -2)
    found: dict[str, Tensor] = {}
    if "W_xh" in asked:  # B9
        found["W_xh"] = _of_inputs(x, da_rows, given["W_xh"])
    if "W_hh" in asked:  # B10
        h0 = h.new_zeros(1, steps.B, H) if first[0] is None else first[0]
        previous = steps.previous_of(steps.with_first(h, h0))
        if how.dropout:
            previous = previous.flatten(0, -2) * steps.at_every_step(extras[0])
        found["W_hh"] = previous.flatten(0, -2).mT @ da_rows
    if "b_h" in asked:  # B8
        found["b_h"] = da_rows.sum(0)
    if "γ" in asked and normalised is not None:
        found["γ"] = (dz_rows * normalised.flatten(0, -2)).sum(0)
    if "β" in asked:
        found["β"] = dz_rows.sum(0)
    into.receive(weights.layout, found)


def _of_inputs(x: Tensor, da: Tensor, W_xh: Tensor) -> Tensor:
    if x.is_floating_point():
        return x.flatten(0, -2).mT @ da
    return torch.zeros_like(W_xh).index_add_(0, x.flatten(), da)


def _options(cell: Cell) -> Options:
    found = options(cell)
    if found is None:
        raise ValueError(f"the compiled engine has no sweeps for this cell yet; got\n{cell.text}")
    return found


class _Held(NamedTuple):
    """The options as the C++ side reads them; the tensors are held so that their addresses stay good."""

    how: Options
    mask: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None

    @staticmethod
    def of(
        how: Options, given: dict[str, Tensor], extras: Sequence[Tensor], dtype: torch.dtype, B: int, H: int
    ) -> "_Held":
        mask = require("mask", extras[0], dtype, (B, H)) if how.dropout else None
        gamma = require("γ", given["γ"], dtype, (H,)) if how.norm else None
        beta = require("β", given["β"], dtype, (H,)) if "β" in given else None
        return _Held(how, mask, gamma, beta)

    def words(self) -> tuple[_native.Activation, float, bool, int, int, int, float]:
        phi = activation_of(self.how.activation)
        mask, gamma, beta = address(self.mask), address(self.norm_weight), address(self.norm_bias)
        return phi, float(self.how.leak), self.how.residual, mask, gamma, beta, EPSILON
