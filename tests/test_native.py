"""The reference in float64 judges the compiled engine: every output, ugly shapes, memory filled with NaN beforehand."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import ALL, Drawn, cotangents, drawn

from bptt.autograd import function, long
from bptt.engine import _native, native, reference
from bptt.engine.contract import Gradients, Layout, Made, Weights
from bptt.engine.steps import Steps
from bptt.nn import RNN
from bptt.sheet import Cell
from bptt.sheet.cells import elman, lstm

ACTIVATIONS = ["tanh", "relu", "sigmoid", "identity"]
# Largest error over largest value. float64: the contract's 1e-12. float32: sums of up to 300 terms and 7 steps of
# feedback, a few hundred roundings of 6e-8 that mostly cancel; 2e-6 is four times the worst seen.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}

LENGTHS = [0, 1, 2, 7]
BATCHES = [0, 1, 2, 3, 7, 20]
WIDTHS = [1, 2, 15, 16, 17, 37, 64, 100, 300]
SHAPES = [
    *itertools.product([2], BATCHES, WIDTHS),
    *itertools.product(LENGTHS, [3], [1, 17, 37]),
    *[(7, 20, 64), (7, 33, 100)],
]
PACKED = [[4, 4, 2, 1], [5], [3, 3, 3], [20, 17, 9, 9, 2, 1, 1], [2, 0], []]


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unwritten(*shape, dtype):
    return torch.full(shape, torch.nan, dtype=dtype)


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    tolerance = TOLERANCE[actual.dtype] * max(1.0, expected.abs().max().item() if expected.numel() else 0.0)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def plain(activation="tanh", *, torch_layout=True, bias=True):
    """A plain cell and its layout."""
    cell = Cell(elman(activation, bias=bias))
    return cell, Layout.of(cell, as_torch=torch_layout)


def run_layer(x, h0, weights, dh, dh_n, steps, *, activation="tanh", threads=1, watched=True):
    """Every output of the engine, written over NaN, with weights and gradients in torch's layout."""
    cell, layout = plain(activation)
    given, first, dtype = Weights(layout, weights), [h0[None]], weights[0].dtype
    out = unwritten(*steps.rows, len(weights[0]), dtype=dtype)
    into: Any = Gradients(
        unwritten(*x.shape, dtype=dtype) if x.is_floating_point() else None,
        [unwritten(1, *h0.shape, dtype=dtype)],
        [unwritten(*weight.shape, dtype=dtype) for weight in weights],
        cotangents={} if watched else None,
    )
    torch.set_num_threads(threads)
    try:
        made: Any = native.forward(cell, given, x, first, steps, out=out, values=watched)
        native.backward(cell, given, made, x, first, steps, dh, [dh_n[None]], into)
    finally:
        torch.set_num_threads(1)
    assert made.y is out
    dweight_ih, dweight_hh, dbias_ih, dbias_hh = into.weights
    assert torch.equal(dbias_ih, dbias_hh)
    found = {"h": out, "h_n": made.last[0], "dx": into.x, "dh0": into.first[0]}
    found |= {"dweight_ih": dweight_ih, "dweight_hh": dweight_hh, "dbias": dbias_ih}
    if watched:
        assert made.values["h"] is out
        found |= {"a": made.values["a"], "da": into.cotangents["a"], "dh": into.cotangents["h"]}
    return {name: array for name, array in found.items() if array is not None}


def exact_side_a(x, h0, weights, steps, *, activation="tanh"):
    """Side A in float64, by the reference."""
    cell, layout = plain(activation)
    given = Weights(layout, [weight.double() for weight in weights])
    x = x.double() if x.is_floating_point() else x
    made: Any = reference.forward(cell, given, x, [h0.double()[None]], steps, values=True)
    return {"h": made.y, "h_n": made.last[0], "a": made.values["a"]}


def exact_side_b(h, x, h0, weights, dh, dh_n, steps, *, activation="tanh"):
    """Side B in float64 of these states, by the reference."""
    cell, layout = plain(activation)
    weights = [weight.double() for weight in weights]
    x = x.double() if x.is_floating_point() else x
    h0, made = h0.double()[None], Made(h.double(), (), ())
    dx = torch.empty_like(x) if x.is_floating_point() else None
    into: Any = Gradients(dx, [torch.empty_like(h0)], [torch.empty_like(each) for each in weights], cotangents={})
    reference.backward(cell, Weights(layout, weights), made, x, [h0], steps, dh.double(), [dh_n.double()[None]], into)
    names = "dweight_ih", "dweight_hh", "dbias"
    exact = {"da": into.cotangents["a"], "dh": into.cotangents["h"], "dx": dx, "dh0": into.first[0]}
    return exact | dict(zip(names, into.weights, strict=False))


def exact_layer(x, h0, weights, dh, dh_n, steps) -> dict[str, Any]:
    """Both sides in float64: side A by the reference, its gradients by autograd, those of a_t and h_t by side B."""
    h0, weights = h0.double().requires_grad_(), [weight.double().requires_grad_() for weight in weights]
    x = x.double().requires_grad_() if x.is_floating_point() else x
    exact = exact_side_a(x, h0, weights, steps)
    d = {exact["h"]: dh.double(), exact["h_n"]: dh_n.double()[None]}
    d = {of: seed for of, seed in d.items() if of.requires_grad}
    inputs = [h0, *weights[:3], *([x] if x.is_floating_point() else [])]
    found = torch.autograd.grad(list(d), inputs, list(d.values()), materialize_grads=True)
    side_b = exact_side_b(exact["h"].detach(), x.detach(), h0.detach(), [w.detach() for w in weights], dh, dh_n, steps)
    exact |= side_b | dict(zip(["dh0", "dweight_ih", "dweight_hh", "dbias", "dx"], found, strict=False))
    exact["dh0"] = exact["dh0"][None]
    return {name: array if array is None else array.detach() for name, array in exact.items()}


def layer_inputs(rows, B, I, H, dtype, *, tokens=False):
    generator = torch.Generator().manual_seed(8)
    x = torch.randint(I, rows, generator=generator) if tokens else random(1, *rows, I).to(dtype)
    weights = [random(2, H, I) / I**0.5, random(3, H, H) / H**0.5, random(4, H), random(5, H)]
    return x, random(6, B, H).to(dtype), [weight.to(dtype) for weight in weights], random(7, *rows, H).to(dtype)


def check_each_side(steps, H, dtype, *, activation="tanh"):
    """Side B is judged on the states that the engine made."""
    x, h0, (W_ih, W_hh, b_ih, b_hh), dh = layer_inputs(steps.rows, steps.B, 3, H, dtype)
    weights = [W_ih / 3**0.5, W_hh, b_ih / 3**0.5, b_hh / 3**0.5]  # x W_xh + b_h then has variance 1
    dh_n = random(9, steps.B, H).to(dtype)
    found = run_layer(x, h0, weights, dh, dh_n, steps, activation=activation)
    expected = exact_side_a(x, h0, weights, steps, activation=activation)
    expected |= exact_side_b(found["h"], x, h0, weights, dh, dh_n, steps, activation=activation)
    for name, array in found.items():
        assert_close(array, expected[name])
    for name, array in run_layer(x, h0, weights, dh, dh_n, steps, activation=activation, watched=False).items():
        assert torch.equal(array, found[name]), name


def check_layer(steps, I, H, dtype, *, tokens):
    x, h0, weights, dh = layer_inputs(steps.rows, steps.B, I, H, dtype, tokens=tokens)
    dh_n = random(9, steps.B, H).to(dtype)
    expected = exact_layer(x, h0, weights, dh, dh_n, steps)
    for name, array in run_layer(x, h0, weights, dh, dh_n, steps).items():
        assert_close(array, expected[name])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "B", "H"), SHAPES)
def test_dense_layers(T, B, H, reverse, dtype):
    check_each_side(Steps(T, B, None, reverse), H, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", PACKED, ids=str)
@pytest.mark.parametrize("H", [5, 16, 37])
def test_packed_layers(sizes, H, reverse, dtype):
    check_each_side(Steps(len(sizes), max(sizes, default=3), sizes, reverse), H, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_without_a_step_keep_their_first_state(dtype):
    check_each_side(Steps(2, 5, [3, 1], False), 17, dtype)
    check_each_side(Steps(2, 5, [3, 1], True), 17, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("B", [5, 1])
@pytest.mark.parametrize("H", [15, 64])
def test_activations_in_the_layers(B, H, activation, dtype):
    check_each_side(Steps(7, B), H, dtype, activation=activation)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("H", [16, 37, 128])
def test_a_row_does_not_depend_on_its_neighbours(H, dtype):
    T, B = 4, 37
    x, h0, weights, dh = layer_inputs((T, B), B, 5, H, dtype)
    whole = run_layer(x, h0, weights, dh, h0, Steps(T, B))
    for rows in [slice(0, 1), slice(1, 3), slice(5, 12), slice(36, 37), slice(3, 32)]:
        steps = Steps(T, rows.stop - rows.start)
        found = run_layer(x[:, rows], h0[rows], weights, dh[:, rows], h0[rows], steps)
        for name in ("a", "h", "h_n", "da", "dh", "dx", "dh0"):
            assert torch.equal(found[name], whole[name][:, rows]), name


def test_inputs_need_not_be_contiguous():
    T, B, I, H = 4, 3, 5, 18
    x, h0, dh = random(1, I, B, T).permute(2, 1, 0), random(3, H, B).mT, random(2, H, B, T).permute(2, 1, 0)
    weights = [random(4, 2 * H, 3 * I)[::2, ::3], random(5, 2 * H, 3 * H)[::2, ::3] / H, random(6, 2 * H)[::2]]
    weights.append(random(7, 1).expand(H))
    expected = exact_layer(x, h0, weights, dh, h0, Steps(T, B))
    for name, array in run_layer(x, h0, weights, dh, h0, Steps(T, B)).items():
        assert_close(array, expected[name])
    cell, layout = plain()
    spread = torch.full((T, B, 2 * H), torch.nan, dtype=x.dtype)[..., ::2]
    spread.copy_(expected["h"])
    into: Any = Gradients(None, [None], [torch.empty(3 * H, 2 * I, dtype=x.dtype)[::3, ::2], None, None, None])
    made = reference.forward(cell, Weights(layout, weights), x, [h0[None]], Steps(T, B))
    made.y = spread
    native.backward(cell, Weights(layout, weights), made, x, [h0[None]], Steps(T, B), dh, [h0[None]], into)
    assert_close(into.weights[0], expected["dweight_ih"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_passed_on(activation):
    cell, layout = plain(activation)
    x, weights = torch.zeros(3, 2, 4), [torch.ones(5, 4), torch.zeros(5, 5), torch.zeros(5), torch.zeros(5)]
    x[1, 0, 2] = torch.nan
    weights[1][1, 3] = 1
    given = cell, Weights(layout, weights), x, [torch.zeros(1, 2, 5)], Steps(3, 2)
    h = native.forward(*given).y
    assert torch.equal(h.isnan(), reference.forward(*given).y.isnan())
    assert h.isnan().any()
    assert not h.isnan().all()


@pytest.mark.parametrize("bias", [False, True])
def test_weights_as_the_sheet_has_them_give_the_bits_of_those_of_torch(bias):
    steps = Steps(7, 5)
    x, h0, weights, dh = layer_inputs(steps.rows, 5, 3, 37, torch.float32)
    found = []
    for torch_layout in (False, True):
        cell, layout = plain(torch_layout=torch_layout, bias=bias)
        weight_ih, weight_hh, b_h, _ = weights
        tensors = [weight_ih, weight_hh, b_h, b_h * 0] if torch_layout else [weight_ih.mT, weight_hh.mT, b_h]
        tensors = tensors if bias else tensors[:2]
        own = Weights(layout, tensors)
        into: Any = Gradients(None, [None], [torch.empty_like(each) for each in tensors])
        made = native.forward(cell, own, x, [h0[None]], steps)
        native.backward(cell, own, made, x, [h0[None]], steps, dh, [None], into)
        found.append([made.y, *(layout.turned(each) for each in into.weights[: 2 + bias])])
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


LAYERS = [  # (T, B, I, H)
    *[(1, 1, 1, 1), (2, 3, 1, 17), (7, 2, 5, 16), (5, 7, 3, 37), (3, 20, 11, 100), (0, 3, 4, 5), (4, 0, 4, 5)],
    *[(300, 1, 5, 20), (150, 1, 40, 130), (40, 2, 17, 64), (30, 33, 19, 70), (2, 600, 2, 18)],
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B", "I", "H"), LAYERS)
def test_layer(T, B, I, H, tokens, reverse, dtype):
    check_layer(Steps(T, B, None, reverse), I, H, dtype, tokens=tokens)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("sizes", [*PACKED, [3] * 100 + [2] * 70 + [1] * 30], ids=lambda sizes: str(sizes[:9]))
def test_packed_layer(sizes, tokens, reverse, dtype):
    check_layer(Steps(len(sizes), max(sizes, default=2), sizes, reverse), 5, 37, dtype, tokens=tokens)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(300, 1, 3, 300), (60, 2, 30, 300), (40, 3, 20, 150), (30, 7, 33, 100), (9, 64, 1, 128)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(T, B, I, H, reverse, dtype):
    x, h0, weights, dh = layer_inputs((T, B), B, I, H, dtype)
    steps = Steps(T, B, None, reverse)
    alone = run_layer(x, h0, weights, dh, h0, steps)
    for threads in (2, 3, 5):
        together = run_layer(x, h0, weights, dh, h0, steps, threads=threads)
        for name, array in alone.items():
            assert torch.equal(together[name], array), (threads, name)


def check_walks_that_accumulate(given: Drawn, H: int) -> None:
    """Whole blocks one after the other, from where the walk back begins, against one call for all."""
    T, B, _, reverse = given.steps
    steps = -(-native.rows_of_a_block(H) // B)
    bounds = [0, steps, 3 * steps, T] if reverse else [T, T - steps, T - 3 * steps, 0]
    assert bounds == sorted(bounds, reverse=not reverse)
    states = given.cell.sheet.states
    with torch.no_grad():
        made: Any = given.forward(native, values=True)
        torch.manual_seed(9)
        dy, d_last = cotangents(made)
        whole: Any = given.arrays()
        into: Any = given.arrays()
        given.backward(native, made, dy, d_last, whole)
        for array in [into.x, *into.first, *into.weights, *into.inputs]:
            if array is not None:
                array.fill_(torch.nan)
        for first, last in itertools.pairwise(bounds):
            now = slice(first, last) if reverse else slice(last, first)
            at = last if reverse else last - 1
            before = given.first if last in (0, T) else [made.values[name][at][None] for name in states]
            extras = [*given.extras[: given.masks], *(one[now] for one in given.inputs)]
            part = replace(
                given, steps=Steps(abs(last - first), B, None, reverse), x=given.x[now], first=before, extras=extras
            )
            own = replace(into, x=None if into.x is None else into.x[now], inputs=[d[now] for d in into.inputs])
            own.accumulate = first != bounds[0]
            of_part = Made(made.y[now], (), tuple([kept[now] for kept in made.kept]))
            part.backward(native, of_part, dy[now], d_last, own)
            d_last = [d.clone() for d in into.first]
    assert (into.x is None) == (not given.x.is_floating_point())
    if into.x is not None:
        assert torch.equal(into.x, whole.x), "x"
    kinds = ("first", states), ("weights", given.weights.layout.names), ("inputs", given.cell.sheet.inputs[1:])
    for kind, names in kinds:
        for name, array, expected in zip(names, getattr(into, kind), getattr(whole, kind), strict=True):
            assert torch.equal(array, expected), (kind, name)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B", "I", "H"), [(1600, 1, 5, 20), (1000, 1, 4, 130), (370, 7, 3, 37)])
@pytest.mark.parametrize("cell", ["elman", "lstm", "gru-v1", "peephole"])
def test_walks_that_accumulate_give_the_bits_of_one(cell, T, B, I, H, tokens, reverse, dtype):
    steps, sizes = Steps(T, B, None, reverse), {"I": I, "H": H}
    torch.manual_seed(8)
    given = drawn(
        ALL[cell],
        steps,
        sizes=sizes,
        dtype=dtype,
        tokens=tokens,
        torch_layout=cell in ("elman", "lstm", "gru"),
        spread=0.1,
    )
    check_walks_that_accumulate(given, H)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", ALL)
def test_walks_of_every_cell_that_accumulate_give_the_bits_of_one(cell, reverse):
    torch.manual_seed(8)
    check_walks_that_accumulate(drawn(ALL[cell], Steps(370, 7, None, reverse), spread=0.1), 5)


@pytest.mark.parametrize(("S", "H"), [(130, 20), (20, 130)])
def test_blocks_are_those_of_the_widest_state(S, H):
    torch.manual_seed(8)
    given = drawn(ALL["scrn"], Steps(520, 5), sizes={"S": S, "H": H}, spread=0.1)
    check_walks_that_accumulate(given, 130)
    with pytest.raises(AssertionError):
        check_walks_that_accumulate(given, 20)


def test_cotangents_and_initial_state_may_be_absent():
    steps = Steps(5, 3)
    x, h0, weights, dh = layer_inputs(steps.rows, 3, 4, 18, torch.float64)
    zero, no_dh = torch.zeros_like(h0), torch.zeros_like(dh)
    given = run_layer(x, zero, weights, no_dh, zero, steps)
    cell, layout = plain()
    made: Any = native.forward(cell, Weights(layout, weights), x, [None], steps)
    assert torch.equal(made.y, given["h"])
    assert torch.equal(made.last[0], given["h_n"])
    into: Any = Gradients(None, [None], [torch.full_like(weights[0], torch.nan), None, None, None])
    native.backward(cell, Weights(layout, weights), made, x, [None], steps, None, [None], into)
    assert torch.equal(into.weights[0], given["dweight_ih"])
    cell_without, layout_without = plain(bias=False)
    no_bias = native.forward(cell_without, Weights(layout_without, weights[:2]), x, [None], steps).y
    zero_bias = native.forward(cell, Weights(layout, [*weights[:2], *[weights[2] * 0] * 2]), x, [None], steps).y
    assert torch.equal(no_bias, zero_bias)


@pytest.mark.parametrize("tokens", [[0, 5], [-1, 0]])
def test_tokens_out_of_range_are_refused(tokens):
    cell, layout = plain(bias=False)
    weights = Weights(layout, [torch.zeros(3, 5), torch.zeros(3, 3)])
    with pytest.raises(IndexError, match=r"tokens must lie in \[0, 5\)"):
        native.forward(cell, weights, torch.tensor([tokens]), [torch.zeros(1, 2, 3)], Steps(1, 2))


@pytest.mark.parametrize("tokens", [[0, 5], [-(2**40), 0]])
def test_tokens_changed_before_the_way_back_are_refused(tokens):
    rnn = RNN(5, 3)
    x = torch.zeros(1, 2, dtype=torch.int64)
    output, _ = rnn(x)
    x.numpy()[:] = tokens  # which torch does not see
    with pytest.raises(IndexError, match=r"tokens must lie in \[0, 5\)"):
        output.sum().backward()


def negated(array):
    """The same numbers, kept by torch as others that it is to negate."""
    return torch.ops.aten._neg_view(-array)


def negated_and_strided(array):
    return torch.complex(torch.zeros_like(array), -array).conj().imag


def freed(array):
    array = array.clone()
    array.untyped_storage().resize_(0)
    return array


def cut_short(array):
    """A view that begins within its storage and ends beyond."""
    array = torch.cat([array, array])[len(array) :]
    array.untyped_storage().resize_(array.untyped_storage().nbytes() - array.element_size())
    return array


LAYER_INPUTS = ["x", "h0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "dy", "dh_n"]


CELLS = {"plain": plain()[0], "leaky": Cell(elman(leak=0.5, residual=True))}


def gradients_of_a_layer(given, cell="plain"):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh, dy, dh_n = (given[name] for name in LAYER_INPUTS)
    inputs = [array.detach().requires_grad_() for array in (x, h0, weight_ih, weight_hh, bias_ih, bias_hh)]
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    weights = [weight_ih, weight_hh, bias_ih, bias_hh]
    y, (h_n,) = function.layer(CELLS[cell], x, [h0], weights, torch_layout=True)
    return y, h_n, *torch.autograd.grad([y, h_n], inputs, [dy, dh_n])


def given_to_a_layer(T=3, B=2, I=4, H=5):
    shapes = [(T, B, I), (1, B, H), (H, I), (H, H), (H,), (H,), (T, B, H), (1, B, H)]
    return {name: random(k, *shape) for k, (name, shape) in enumerate(zip(LAYER_INPUTS, shapes, strict=True))}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", [negated, negated_and_strided])
@pytest.mark.parametrize("name", LAYER_INPUTS)
def test_numbers_that_torch_keeps_negated_are_those_it_shows(name, kind, cell):
    given = given_to_a_layer()
    odd = {**given, name: kind(given[name])}
    assert odd[name].is_neg()
    for found, expected in zip(gradients_of_a_layer(odd, cell), gradients_of_a_layer(given, cell), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", [freed, cut_short])
@pytest.mark.parametrize("name", LAYER_INPUTS)
def test_arrays_beyond_their_storage_are_refused(name, kind, cell):
    given = given_to_a_layer()
    with pytest.raises(ValueError, match=r"reaches to byte .* of its storage"):
        gradients_of_a_layer({**given, name: kind(given[name])}, cell)


@pytest.mark.parametrize("name", LAYER_INPUTS)
def test_arrays_without_memory_are_refused(name):
    given = given_to_a_layer()
    with pytest.raises(ValueError, match="has none"):
        gradients_of_a_layer(
            {**given, name: torch.ops.aten._efficientzerotensor(given[name].shape, dtype=torch.float64)}
        )


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (
            lambda x, h0, weights: long.stack(
                plain()[0], x, [long.Layer([h0], weights)], torch_layout=True, checkpoint=2
            ),
            ["x", "h0"],
        ),
        (lambda x, h0, weights: RNN(4, 5, leak=0.5, dtype=torch.float64)(x, h0), ["x", "h0"]),
        (lambda x, h0, weights: RNN(4, 5, leak=0.5, checkpoint=2, dtype=torch.float64)(x, h0), ["x", "h0"]),
    ],
)
def test_what_torch_computes_before_the_engine_is_refused_too(layer, names):
    for name in names:
        given = given_to_a_layer()
        given[name] = freed(given[name])
        x, h0, *weights = (given[name] for name in LAYER_INPUTS[:6])
        with pytest.raises((ValueError, RuntimeError), match="storage"):
            layer(x, h0, weights)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: array[:1].expand(array.shape),
        lambda array: array.new_zeros(2 * array.numel()).as_strided(array.shape, (2, 1)),
        lambda array: torch.ops.aten._neg_view(array),
        freed,
    ],
    ids=["expanded", "overlapping", "negated", "freed"],
)
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "x"])
def test_outputs_that_cannot_hold_what_is_written_are_refused(name, spoil):
    x, _, weights, dh = layer_inputs((5,), 5, 5, 5, torch.float64)
    (cell, layout), steps = plain(), Steps(1, 5, [5])
    given = cell, Weights(layout, weights)
    made = native.forward(*given, x, [None], steps)
    output = spoil(torch.zeros(5, 5, dtype=torch.float64))
    into: Any = Gradients(None, [None], [None] * 4)
    if name == "x":
        into.x = output
    else:
        into.weights[layout.names.index(name)] = output
    with pytest.raises(ValueError, match=f"`∂{name}`"):
        native.backward(*given, made, x, [None], steps, dh, [None], into)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("position", range(4))
def test_arrays_for_gradients_beyond_their_storage_are_refused(position, cell):
    x, _, weights, dy = layer_inputs((3, 2), 2, 4, 5, torch.float64)
    given = CELLS[cell], Weights(Layout.of(CELLS[cell], as_torch=True), weights)
    made = native.forward(*given, x, [None], Steps(3, 2))
    into: Any = Gradients(None, [None], [torch.empty_like(weight) for weight in weights])
    into.weights[position] = freed(weights[position])
    with pytest.raises(ValueError, match=r"reaches to byte .* of its storage"):
        native.backward(*given, made, x, [None], Steps(3, 2), dy, [None], into)


@pytest.mark.parametrize("cell", CELLS)
def test_an_output_beyond_its_storage_is_refused(cell):
    x, _, weights, _ = layer_inputs((3, 2), 2, 4, 5, torch.float64)
    given = CELLS[cell], Weights(Layout.of(CELLS[cell], as_torch=True), weights)
    out = torch.empty(3, 2, 5, dtype=torch.float64)
    assert native.forward(*given, x, [None], Steps(3, 2), out=out).y is out
    with pytest.raises(ValueError, match=r"`h`.* reaches to byte .* of its storage"):
        native.forward(*given, x, [None], Steps(3, 2), out=freed(out))


def test_several_python_threads_may_call_at_once():
    x, h0, weights, _ = layer_inputs((40, 8), 8, 20, 96, torch.float32)
    torch.set_num_threads(2)
    try:
        cell, layout = plain()
        given: Any = (cell, Weights(layout, weights), x, [h0[None]], Steps(40, 8))
        expected = native.forward(*given).y
        with ThreadPoolExecutor(4) as executor:
            calls = [executor.submit(native.forward, *given) for _ in range(200)]
            assert all(torch.equal(call.result(timeout=60).y, expected) for call in calls)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_after_use_does_not_hang():
    # Small enough that torch's own threads, which do not survive a fork, have nothing to do.
    script = """
import os, torch
from bptt.engine import native
from bptt.engine.contract import Layout, Weights
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import elman
torch.set_num_threads(2)
cell = Cell(elman(bias=False))
weights = Weights(Layout.of(cell, as_torch=True), [torch.eye(100) / 2] * 2)
x, h0 = torch.ones(30, 8, 100), torch.zeros(1, 8, 100)
layer = lambda: native.forward(cell, weights, x, [h0], Steps(30, 8)).y
expected = layer()
child = os.fork()
same = torch.equal(layer(), expected)
if child == 0:
    os._exit(0 if same else 1)
assert same
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_runs_and_teams_give_the_same_bits():
    # A forked child has workers of the engine's own, its parent OpenMP's threads. Each run is a process of its own.
    script = """
import hashlib, os, sys, torch
from bptt.engine import native
from bptt.engine.contract import Gradients, Layout, Weights
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import elman
torch.set_num_threads(int(sys.argv[1]))
generator = torch.Generator().manual_seed(0)
shapes = (50, 8, 30), (200, 30), (200, 200), (50, 8, 200)
x, W_xh, W_hh, dh = (torch.randn(shape, generator=generator) for shape in shapes)
W_hh /= 20
cell, steps = Cell(elman(bias=False)), Steps(50, 8)
weights = Weights(Layout.of(cell, as_torch=True), [W_xh, W_hh])
def digest():
    made = native.forward(cell, weights, x, [None], steps)
    into = Gradients(torch.empty_like(x), [None], [torch.empty_like(W_xh), torch.empty_like(W_hh)])
    native.backward(cell, weights, made, x, [None], steps, dh, [None], into)
    arrays = made.y, into.x, *into.weights
    return hashlib.sha256(b"".join(array.numpy().tobytes() for array in arrays)).hexdigest()
print(digest(), flush=True)
if os.fork() == 0:
    print(digest(), flush=True)
    os._exit(0)
os.wait()
"""
    digests = set()
    for threads in ("1", "2", "3", "3"):
        command = [sys.executable, "-W", "ignore", "-c", script, threads]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert len(done.stdout.split()) == 2, done.stderr
        digests |= set(done.stdout.split())
    assert len(digests) == 1


GIVEN_TO_FORWARD: dict[str, Any] = {
    "x": torch.zeros(2, 3, 5),
    "h0": torch.zeros(1, 3, 4),
    "weight_ih": torch.zeros(4, 5),
    "weight_hh": torch.zeros(4, 4),
    "bias_ih": torch.zeros(4),
    "bias_hh": torch.zeros(4),
    "steps": Steps(2, 3),
    "out": None,
}


def call_forward(given):
    cell, layout = plain()
    weights = Weights(layout, [given[name] for name in layout.names])
    return native.forward(cell, weights, given["x"], [given["h0"]], given["steps"], out=given["out"])


def packed(*sizes):
    """Makes the input a packed one with other sizes."""
    return lambda given: given.update(x=given["x"].flatten(0, 1), steps=Steps(len(sizes), 3, list(sizes)))


REFUSED = {
    "x has the wrong rank": (ValueError, "`x`", lambda g: g.update(x=g["x"][0])),
    "x has the wrong width": (ValueError, "`x`", lambda g: g.update(x=g["x"][..., :-1])),
    "x is a number": (ValueError, "`x`", lambda g: g.update(x=torch.tensor(1.0))),
    "h0 has too few axes": (ValueError, "`first h`", lambda g: g.update(h0=g["h0"][0, 0])),
    "h0 has too many axes": (ValueError, "`first h`", lambda g: g.update(h0=g["h0"][None])),
    "h0 has another number of rows": (ValueError, "`first h`", lambda g: g.update(h0=g["h0"][:, :-1])),
    "h0 has the wrong width": (ValueError, "`first h`", lambda g: g.update(h0=g["h0"][..., :-1])),
    "weight_ih is no matrix": (ValueError, "`weight_ih`", lambda g: g.update(weight_ih=g["weight_ih"][0])),
    "weight_hh is no matrix": (ValueError, "`weight_hh`", lambda g: g.update(weight_hh=g["weight_hh"][0])),
    "weight_hh is not square": (ValueError, "`weight_hh`", lambda g: g.update(weight_hh=g["weight_hh"][:-1])),
    "bias_ih is a number": (ValueError, "`bias_ih`", lambda g: g.update(bias_ih=torch.tensor(1.0))),
    "bias_hh is too long": (ValueError, "`bias_hh`", lambda g: g.update(bias_hh=torch.zeros(5))),
    "bias_hh is missing": (ValueError, "`bias_hh` must be given", lambda g: g.update(bias_hh=None)),
    "dtypes differ": (TypeError, "`x`", lambda g: g.update(x=g["x"].double())),
    "dtypes of weights differ": (TypeError, "`weight_hh`", lambda g: g.update(weight_hh=g["weight_hh"].half())),
    "half precision": (TypeError, "float16", lambda g: g.update(weight_ih=g["weight_ih"].half())),
    "another device": (ValueError, "CPU", lambda g: g.update(x=g["x"].to("meta"))),
    "out is too small": (ValueError, "`h`", lambda g: g.update(out=torch.empty(1, 3, 4))),
    "out is strided": (ValueError, "`h`", lambda g: g.update(out=torch.empty(2, 4, 3).mT)),
    "out has another dtype": (TypeError, "`h`", lambda g: g.update(out=torch.empty(2, 3, 4).double())),
    "fewer steps": (ValueError, "`x`", lambda g: g.update(steps=Steps(1, 3))),
    "fewer rows": (ValueError, "`x`", lambda g: g.update(steps=Steps(2, 2))),
    "sizes grow": (ValueError, "increase", packed(2, 3, 1)),
    "sizes negative": (ValueError, r"in \[0", packed(3, -1)),
    "fewer sizes than steps": (
        ValueError,
        "number of sizes",
        lambda g: g.update(x=g["x"].flatten(0, 1), steps=Steps(3, 3, [3, 3])),
    ),
    "more rows than h0": (ValueError, r"in \[0, 3\]", packed(6)),
    "rows left over": (ValueError, "sum", packed(3, 2)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_forward_refuses(case):
    error, text, spoil = REFUSED[case]
    given = dict(GIVEN_TO_FORWARD)
    call_forward(given)
    spoil(given)
    with pytest.raises(error, match=text):
        call_forward(given)


def call_backward(given):
    cell, layout = plain()
    weights = Weights(layout, [given[name] for name in layout.names])
    made, first, last = Made(given["h"], (), ()), [given["first h"]], [given["∂last h"]]
    into = Gradients(given["∂x"], [given["∂first h"]], [given[f"∂{name}"] for name in layout.names])
    native.backward(cell, weights, made, given["x"], first, given["steps"], given["∂y from outside"], last, into)


GIVEN_TO_BACKWARD: dict[str, Any] = {
    "∂y from outside": torch.zeros(2, 3, 4),
    "∂last h": torch.zeros(1, 3, 4),
    "h": torch.zeros(2, 3, 4),
    "first h": torch.zeros(1, 3, 4),
    "x": torch.zeros(2, 3, 5),
    "weight_ih": torch.zeros(4, 5),
    "weight_hh": torch.zeros(4, 4),
    "bias_ih": torch.zeros(4),
    "bias_hh": torch.zeros(4),
    "steps": Steps(2, 3),
}
GIVEN_TO_BACKWARD |= {
    f"∂{name}": torch.zeros_like(GIVEN_TO_BACKWARD[name])
    for name in ("x", "first h", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
}


def of_zeros(name, *shape, dtype=torch.float32):
    return f"`{name}`", lambda given: given.update({name: torch.zeros(shape, dtype=dtype)})


@pytest.mark.parametrize(
    ("text", "spoil"),
    [
        of_zeros("∂y from outside", 2, 4),
        of_zeros("∂y from outside", 2, 3, 5),
        of_zeros("∂y from outside", 2, 3, 4, dtype=torch.float64),
        of_zeros("∂last h", 4),
        of_zeros("∂last h", 1, 1, 3, 4),
        of_zeros("∂last h", 1, 2, 4),
        of_zeros("∂last h", 1, 3, 5),
        of_zeros("h", 3, 3, 4),
        of_zeros("h", 2, 3, 5),
        of_zeros("first h", 4),
        of_zeros("first h", 1, 1, 3, 4),
        of_zeros("first h", 2, 3, 4),
        of_zeros("first h", 1, 3, 5),
        of_zeros("x", 2, 3, 6),
        of_zeros("weight_ih", 4),
        of_zeros("weight_hh", 5, 4),
        of_zeros("∂x", 2, 3, 4),
        of_zeros("∂x", 2, 3, 5, dtype=torch.float64),
        of_zeros("∂weight_ih", 5, 4),
        of_zeros("∂weight_hh", 4, 5),
        of_zeros("∂bias_ih", 3),
        of_zeros("∂bias_hh", 3),
        of_zeros("∂bias_hh", 4, dtype=torch.float64),
        of_zeros("∂first h", 4),
        of_zeros("∂first h", 1, 1, 3, 4),
        of_zeros("∂first h", 1, 2, 4),
        of_zeros("∂first h", 1, 3, 4, dtype=torch.float64),
        ("sizes", lambda given: given.update(steps=Steps(2, 3, [3, 3]))),
        ("sizes", lambda given: given.update(steps=Steps(2, 2, [3, 3]), x=given["x"].flatten(0, 1))),
    ],
)
def test_backward_refuses(text, spoil):
    given = dict(GIVEN_TO_BACKWARD)
    call_backward(given)
    spoil(given)
    with pytest.raises((TypeError, ValueError), match=text):
        call_backward(given)


def phi(activation, a):
    """The compiled activation alone, on a NumPy array: a program that does nothing else."""
    h, of = np.full_like(a, np.nan), _native.Operation
    work = [
        (of.load, 0, [0] * 4),
        (of.copy if activation == "identity" else of[activation], 0, [0] * 4),
        (of.store, 1, [0] * 4),
    ]
    nothing: dict[str, Any] = dict.fromkeys(
        ["weights", "products", "ahead", "carried", "gradients", "after", "numbers", "vectors", "rows", "matrices",
         "results"], ()
    )  # fmt: skip
    program = _native.Program(
        back=False, sizes=2, slots=[(1, 0, 0)], groups=[(1, False)], instructions=work, arrays=[(1, False)] * 2,
        **nothing,
    )  # fmt: skip
    is_double = a.dtype == np.float64
    arrays = [torch.from_numpy(array)[None, None] for array in (a, h)]
    assert _native.run(program, is_double, arrays, 1, 1, None, False, [1, a.size], False, 1) == -1
    return h


def every_float32_exponent(per_exponent=512):
    """Both signs, all exponents from the denormals on, mantissas at both ends and spread between."""
    mantissas = np.linspace(0, 2**23 - 1, per_exponent).astype(np.uint32)
    magnitudes = (np.arange(255, dtype=np.uint32)[:, None] << 23 | mantissas).ravel()
    return np.concatenate([magnitudes, magnitudes | 1 << 31]).view(np.float32)


def exact_sigmoid(a):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.where(a < 0, np.exp(a) / (1 + np.exp(a)), 1 / (1 + np.exp(-a)))


@pytest.mark.parametrize(("activation", "exact"), [("tanh", np.tanh), ("sigmoid", exact_sigmoid)])
def test_float32_activation_is_within_3_ulp(activation, exact):
    a = np.concatenate([every_float32_exponent(), np.linspace(-110, 110, 1_000_001, dtype=np.float32)])
    expected = exact(a.astype(np.float64))
    h = phi(activation, a)
    assert (np.abs(h) <= 1).all()
    assert (np.abs(h - expected) / np.spacing(np.abs(expected).astype(np.float32))).max() <= 3


@pytest.mark.parametrize(("activation", "exact"), [("tanh", np.tanh), ("sigmoid", exact_sigmoid)])
def test_float64_activation_is_within_3_ulp(activation, exact):
    a = np.concatenate([every_float32_exponent().astype(np.float64), np.linspace(-750, 750, 1_000_001)])
    with np.errstate(under="ignore"):
        expected = exact(a.astype(np.longdouble))
    h = phi(activation, a)
    assert (np.abs(h) <= 1).all()
    error = np.abs(h.astype(np.longdouble) - expected) / np.spacing(np.abs(expected).astype(np.float64))
    assert error.max() <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_of_the_activations(dtype):
    a = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    expected = {"tanh": [0.0, -0.0, 1, -1, np.nan], "sigmoid": [0.5, 0.5, 1, 0, np.nan]}
    expected |= {"relu": [0.0, 0.0, np.inf, 0, np.nan], "identity": a}
    for activation, values in expected.items():
        h = phi(activation, a)
        np.testing.assert_array_equal(h, np.array(values, dtype))
        if activation == "tanh":
            np.testing.assert_array_equal(np.signbit(h[:2]), [False, True])


def run_with(instruction_set, *command):
    environment = os.environ | {"BPTT_ISA": instruction_set}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif("BPTT_ISA" in os.environ, reason="is itself run once for each instruction set")
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(instruction_set):
    asked = run_with(instruction_set, "-c", "from bptt.engine import native; print(native.INSTRUCTION_SET)")
    if "must name an instruction set this processor has" in asked.stderr:
        pytest.skip(f"this processor or build has no {instruction_set}")
    assert asked.stdout.strip() == instruction_set
    if instruction_set == native.INSTRUCTION_SET:
        return  # this process runs the tests of this file on it
    judged = run_with(instruction_set, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__)
    assert judged.returncode == 0, judged.stdout


def test_an_unknown_instruction_set_is_refused_with_the_choices():
    refused = run_with("avx1024", "-c", "import bptt.engine._native")
    assert refused.returncode != 0
    assert "ImportError: BPTT_ISA must name an instruction set this processor has: " in refused.stderr
    assert "baseline" in refused.stderr
    assert "'avx1024'" in refused.stderr


def test_states_may_have_any_strides_where_cotangents_are_told() -> None:
    cell, steps = Cell(elman()), Steps(4, 3)
    weights = Weights(Layout.of(cell, as_torch=True), [random(1, 2, 5), random(2, 2, 2), random(3, 2), random(4, 2)])
    x, dy = random(5, 4, 3, 5), random(6, 4, 3, 2)
    y = native.forward(cell, weights, x, [None], steps).y
    told = []
    for states in (y, y.mT.contiguous().mT):
        into = Gradients(None, [None], [None] * 4, cotangents={})
        native.backward(cell, weights, Made(states, (), ()), x, [None], steps, dy, [None], into)
        told.append(into.cotangents)
    torch.testing.assert_close(told[1], told[0], rtol=0, atol=0)


def kept_of_a_call(x, weights, layout, cell):
    return native.forward(cell, Weights(layout, weights), x, [None, None], Steps.of(x, None, False, None)).kept


def test_memory_of_kept_values_is_used_again_once_nobody_holds_them_and_not_before():
    cell = Cell(lstm())
    layout = Layout.of(cell, as_torch=True)
    weights = [random(k, *shape) for k, shape in enumerate([(256, 5), (256, 64), (256,), (256,)])]
    kept = kept_of_a_call(random(4, 200, 30, 5), weights, layout, cell)
    held = [array.clone() for array in kept]
    others = kept_of_a_call(random(5, 200, 30, 5), weights, layout, cell)
    places = {array.data_ptr() for array in others}
    assert not places & {array.data_ptr() for array in kept}
    assert all(map(torch.equal, kept, held))
    del others
    again = kept_of_a_call(random(6, 200, 30, 5), weights, layout, cell)
    assert {array.data_ptr() for array in again} == places
    assert all(map(torch.equal, kept, held))


def lent(*shape):
    return torch.from_dlpack(_native.lent(shape, 8))


def test_lent_memory_is_given_back_with_its_last_view_on_any_thread():
    view = lent(3_000_000)[5:].numpy()
    view[:] = 7
    place = view.__array_interface__["data"][0] - 40
    others = [lent(3_000_000).fill_(k) for k in range(2)]
    assert place not in {array.data_ptr() for array in others}
    assert (view == 7).all()
    held = [view]
    del view
    with ThreadPoolExecutor(1) as thread:
        thread.submit(held.clear).result()
    _native.lent([3_000_000], 8)  # a capsule that nobody makes a tensor of
    assert lent(3_000_000).data_ptr() == place


def test_no_more_than_64_mb_of_lent_memory_stay_with_the_process():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    arrays = [lent(8_000_000).fill_(1) for _ in range(3)]  # 64 MB each: malloc never keeps so much for itself
    assert resident() - before > 120e6
    del arrays
    assert resident() - before < 70e6


@pytest.mark.parametrize("shape", [[2**40, 2**20, 8], [2**62, 4, 4], [2**45, 3], [-1, 4]])
def test_more_memory_than_there_is_is_refused_as_torch_refuses_it(shape):
    with pytest.raises(RuntimeError, match="not enough memory"):
        _native.lent(shape, 4)
