"""The compiled engine: float32 and float64 on the CPU. Here the plain cell, h = φ(x W_xh + h_{t-1} W_hh + b_h).

A whole layer is one call: products of the input, states, and on the way back the gradients of the weights, one block of
time after the other while its numbers are in the cache. The engine is in native/, its contract in native/contract.hpp.
Every other cell is a program of vector operations, made from its equations (`native_programs`).

The number of threads is `torch.get_num_threads()`; results do not depend on it. The instruction set is the best this
processor has, or the one named by the environment variable BPTT_ISA (avx512, avx2, baseline), read at import.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.engine import _native, native_programs
from bptt.engine.arrays import (
    ACTIVATIONS,
    activation_of,
    address,
    address_of,
    check_storage,
    packing_of,
    precision_of,
    require,
    require_output,
    transposed,
    transposed_of,
)
from bptt.engine.contract import Gradients, Layout, Made, Weights
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.expressions import Call, Name, Product, Sum

INSTRUCTION_SET: str = _native.instruction_set


class Plain(NamedTuple):
    """The names of a plain cell: h_t = φ(a_t), a_t = x_t W_xh + h_{t-1} W_hh + b_h, with a bias or without."""

    activation: str
    h: str
    a: str
    W_xh: str
    W_hh: str
    b_h: str | None


@lru_cache
def plain(cell: Cell) -> Plain | None:
    """None where a cell is not plain."""
    match cell.derivation.steps:
        case [products, states]:
            pass
        case _:
            return None
    match products.value, states.value:
        case Sum(terms), Call(function, (Name(a, 0),)) if a == products.name:
            activation = ACTIVATIONS.get(cell.sheet.functions.get(function, function))
        case _:
            return None
    found: dict[str, str] = {}
    for sign, term in terms:
        match term:
            case Product(Name("x", 0), Name(matrix)):
                found["W_xh"] = matrix
            case Product(Name(h, -1), Name(matrix)) if h == states.name:
                found["W_hh"] = matrix
            case Name(b, None) if cell.sheet.widths.get(b) == cell.derivation.widths[a]:
                found["b_h"] = b
            case _:
                return None
        if sign < 0:
            return None
    if activation is None or len(found) != len(terms) or not {"W_xh", "W_hh"} <= found.keys():
        return None
    return Plain(activation, states.name, a, found["W_xh"], found["W_hh"], found.get("b_h"))


def forward(
    cell: Cell,
    weights: Weights,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    extras: Sequence[Tensor] = (),
    *,
    out: Tensor | None = None,
    values: bool = False,
    keep: bool = True,
) -> Made:
    found = plain(cell)
    if found is None:
        return native_programs.forward(cell, weights, x, first, steps, extras, out=out, values=values, keep=keep)
    weight_ih, weight_hh, bias_ih, bias_hh = _as_torch(weights.tensors, weights.layout, found)
    H = weight_ih.shape[0]
    h_n = weight_ih.new_empty(1, steps.B, H)
    a = weight_ih.new_empty(*steps.rows, H) if values else None
    h = forward_layer(
        x, first[0], weight_ih, weight_hh, bias_ih, bias_hh, found.activation, steps, out, h_n, a, out is None
    )
    return Made(h, (h_n,), (), None if a is None else {found.a: a, found.h: h})


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
    extras: Sequence[Tensor] = (),
) -> None:
    found = plain(cell)
    if found is None:
        return native_programs.backward(cell, weights, made, x, first, steps, dy, d_last, into, extras)
    weight_ih, weight_hh, *_ = _as_torch(weights.tensors, weights.layout, found)
    dweight_ih, dweight_hh, dbias_ih, dbias_hh = _as_torch(into.weights, weights.layout, found)
    dbias = dbias_hh if dbias_ih is None else dbias_ih
    da = total = None
    if into.cotangents is not None:
        da, total = made.y.new_empty(made.y.shape), made.y.new_empty(made.y.shape)
        into.cotangents.update({found.a: da, found.h: total})
    backward_layer(
        dy, d_last[0], made.y, first[0], x, weight_ih, weight_hh, found.activation, steps,
        into.x, dweight_ih, dweight_hh, dbias, into.first[0], da, total, into.accumulate, into.own,
    )  # fmt: skip
    if dbias_ih is not None and dbias_hh is not None:
        if not into.own:
            require_output("dbias", dbias_hh, made.y.dtype, dbias_ih.shape)
        dbias_hh.copy_(dbias_ih)


def _as_torch(tensors: Sequence[Any], layout: Layout, found: Plain) -> Sequence[Any]:
    """Both matrices and both biases of a plain cell as torch.nn.RNN has them."""
    if layout.transposed:
        return tensors if len(tensors) == 4 else (*tensors, None, None)
    by_name = dict(zip(layout.names, tensors, strict=True))
    W_xh, W_hh = by_name[found.W_xh], by_name[found.W_hh]
    b_h = None if found.b_h is None else by_name[found.b_h]
    return None if W_xh is None else W_xh.mT, None if W_hh is None else W_hh.mT, b_h, None


def forward_layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor | None,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: str,
    steps: Steps,
    out: Tensor | None = None,
    h_n: Tensor | None = None,
    total: Tensor | None = None,
    own: bool = False,
) -> Tensor:
    """The states of all steps (T, B, H), packed (N, H).

    x          (T, B, I), packed (N, I), or integer tokens (T, B), packed (N,)
    h0         (1, B, H); None is zero
    weight_ih  (H, I), weight_hh (H, H), bias_ih and bias_hh (H) or None: parameters as torch.nn.RNN holds them.
               Without weight_hh nothing goes from step to step
    h_n        (1, B, H), receives the last state of every row
    total      laid out as the states, receives a_t
    own        the arrays that are written were made for this call, so that they need no check

    Raises IndexError for tokens outside [0, I).
    """
    H, I = _width_and_inputs(weight_ih)
    T, B, dtype = steps.T, steps.B, weight_ih.dtype
    precision = precision_of("weight_ih", dtype)
    sizes, rows = packing_of("x", x, steps)
    held: list[Tensor] = []
    x_at, tokens_at = _input(x, precision, rows, I, held)
    h = weight_ih.new_empty(*rows, H) if out is None else out
    if not own:
        for name, array, shape in (("out", h, (*rows, H)), ("h_n", h_n, (1, B, H)), ("total", total, (*rows, H))):
            if array is not None:
                require_output(name, array, dtype, shape)
    precision.forward_layer(
        T,
        B,
        I,
        H,
        address(sizes),
        steps.reverse,
        activation_of(activation),
        x_at,
        tokens_at,
        *transposed_of("weight_ih", weight_ih, precision, (H, I), held),
        *transposed_of("weight_hh", weight_hh, precision, (H, H), held),
        address_of("bias_ih", bias_ih, precision, (H,), held),
        address_of("bias_hh", bias_hh, precision, (H,), held),
        address_of("h0", h0, precision, (1, B, H), held),
        address(h),
        address(h_n),
        address(total),
        torch.get_num_threads(),
    )
    return h


def backward_layer(
    dh: Tensor | None,
    dh_n: Tensor | None,
    h: Tensor,
    h0: Tensor | None,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor | None,
    activation: str,
    steps: Steps,
    dx: Tensor | None = None,
    dweight_ih: Tensor | None = None,
    dweight_hh: Tensor | None = None,
    dbias: Tensor | None = None,
    dh0: Tensor | None = None,
    da: Tensor | None = None,
    total: Tensor | None = None,
    accumulate: bool = False,
    own: bool = False,
) -> None:
    """Every gradient of `forward_layer` for which an array is given, written to that array.

    dh          cotangent of the states, laid out as they are; None is zero
    dh_n        (1, B, H) cotangent of the last state of each row; None is zero
    h           what `forward_layer` returned; h0 and x as it took them
    dweight_ih  (H, I), dweight_hh (H, H); any strides
    dbias       (H), the gradient of either bias; dh0 (1, B, H)
    da          the ∂a_t of B7, total the whole ∂h_t of B6; both may be `dh` itself
    accumulate  the gradients of weights and bias go on from what their arrays hold (`rows_of_a_block`)
    own         the arrays that are written were made for this call, so that they need no check

    Raises IndexError for tokens that are outside [0, I) by now.
    """
    H, I = _width_and_inputs(weight_ih)
    T, B, dtype = steps.T, steps.B, h.dtype
    precision = precision_of("h", dtype)
    sizes, rows = packing_of("x", x, steps)
    if weight_hh is None and (dh_n is not None or dh0 is not None):
        raise ValueError("`dh_n` and `dh0` need `weight_hh`: without it nothing goes from step to step")
    if dx is not None and not x.is_floating_point():
        raise ValueError("`dx` cannot be had: tokens have no gradient")
    if not own:
        states, first = (*rows, H), (1, B, H)
        for name, array, shape in (
            ("dx", dx, (*rows, I)), ("dbias", dbias, (H,)), ("dh0", dh0, first), ("da", da, states),
            ("total", total, states),
        ):  # fmt: skip
            if array is not None:
                require_output(name, array, dtype, shape)
        for name, array, shape in (("dweight_ih", dweight_ih, (H, I)), ("dweight_hh", dweight_hh, (H, H))):
            if array is not None:
                require_output(name, array, dtype, shape, strided=True)
    held: list[Tensor] = []
    x_at, tokens_at = _input(x, precision, rows, I, held)
    precision.backward_layer(
        T,
        B,
        I,
        H,
        address(sizes),
        steps.reverse,
        activation_of(activation),
        x_at,
        tokens_at,
        *transposed_of("weight_ih", weight_ih, precision, (H, I), held),
        *transposed_of("weight_hh", weight_hh, precision, (H, H), held),
        address_of("dh", dh, precision, (*rows, H), held),
        address_of("dh_n", dh_n, precision, (1, B, H), held),
        address_of("h", h, precision, (*rows, H), held),
        address_of("h0", h0, precision, (1, B, H), held),
        address(da),
        address(dh0),
        address(total),
        address(dx),
        *transposed(dweight_ih),
        *transposed(dweight_hh),
        address(dbias),
        accumulate,
        torch.get_num_threads(),
    )


def rows_of_a_block(H: int) -> int:
    return _native.rows_of_a_block(H)


def _width_and_inputs(weight_ih: Tensor) -> tuple[int, int]:
    shape = weight_ih.shape
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"`weight_ih` must have shape (H, I) with I of at least 1; got {tuple(shape)}")
    return shape[0], shape[1]


def _input(
    x: Tensor, precision: "_native._Precision", rows: tuple[int, ...], I: int, held: list[Tensor]
) -> tuple[int, int]:
    """The address of x, one of numbers and tokens being 0."""
    if x.is_floating_point():
        return address_of("x", x, precision, (*rows, I), held), 0
    check_storage(x=x)
    tokens = require("x", x.to(torch.int64), torch.int64, rows)
    held.append(tokens)
    return 0, address(tokens)
