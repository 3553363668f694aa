"""The reference in float64 judges the compiled sweeps: every output, ugly shapes, memory filled with NaN beforehand."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bptt.autograd import function, long
from bptt.engine import _native, native, reference
from bptt.nn import RNN

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


def check_both_sweeps(rows_shape, h_shape, B, H, activation, dtype, **steps):
    W_hh = random(1, H, H) / H**0.5
    a, dh, h0 = random(2, *rows_shape, H), random(3, *rows_shape, H), random(4, B, H)
    W, a_, dh_, h0_ = (array.to(dtype) for array in (W_hh, a, dh, h0))
    W = W.t().contiguous().t()  # as torch.nn.RNN holds it
    W_hh, a, dh, h0 = W.double(), a_.double(), dh_.double(), h0_.double()

    total = torch.empty_like(a)
    h = reference.forward_sweep(a, W_hh, h0, activation, total=total, **steps)
    out, out_total = unwritten(*h_shape, dtype=dtype), unwritten(*a.shape, dtype=dtype)
    assert native.forward_sweep(a_, W, h0_, activation, out=out, total=out_total, **steps) is out
    assert_close(out, h)
    assert_close(out_total, total)
    assert torch.equal(native.forward_sweep(a_, W, h0_, activation, **steps), out)

    h_ = h.to(dtype)
    total = torch.empty_like(dh)
    da, dh0 = reference.backward_sweep(dh, h_.double(), W_hh, activation, total=total, **steps)
    out, out_total = unwritten(*dh.shape, dtype=dtype), unwritten(*dh.shape, dtype=dtype)
    da_, dh0_ = native.backward_sweep(dh_, h_, W, activation, out=out, total=out_total, **steps)
    assert da_ is out
    assert_close(da_, da)
    assert_close(dh0_, dh0)
    assert_close(out_total, total)
    again, dh0_again = native.backward_sweep(dh_, h_, W, activation, **steps)
    assert torch.equal(again, da_)
    assert torch.equal(dh0_again, dh0_)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "B", "H"), SHAPES)
def test_dense_sweeps(T, B, H, reverse, dtype):
    check_both_sweeps((T, B), (T + 1, B, H), B, H, "tanh", dtype, reverse=reverse)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch_sizes", PACKED, ids=str)
@pytest.mark.parametrize("H", [5, 16, 37])
def test_packed_sweeps(batch_sizes, H, reverse, dtype):
    N, B = sum(batch_sizes), max(batch_sizes, default=3)
    check_both_sweeps((N,), (B + N, H), B, H, "tanh", dtype, batch_sizes=batch_sizes, reverse=reverse)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [(7, 5), (7, 1)])
@pytest.mark.parametrize("H", [15, 64])
def test_activations_in_the_sweeps(rows, H, activation, dtype):
    T, B = rows
    check_both_sweeps(rows, (T + 1, B, H), B, H, activation, dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_arrays_may_be_overwritten_in_place(packed, reverse):
    T, B, H = 5, 3, 21
    W_hh, h0 = random(1, H, H) / H**0.5, random(4, B, H)
    a, dh = random(2, T, B, H), random(3, T, B, H)
    steps = {"reverse": reverse}
    if packed:
        a, dh, steps = a.flatten(0, 1), dh.flatten(0, 1), {"reverse": reverse, "batch_sizes": [B] * T}
    total, dh_total = torch.empty_like(a), torch.empty_like(dh)
    h = native.forward_sweep(a, W_hh, h0, "tanh", total=total, **steps)
    da, dh0 = native.backward_sweep(dh, h, W_hh, "tanh", total=dh_total, **steps)

    out = torch.full_like(h, torch.nan)
    first = B if packed else 1
    inside = out[: len(a)] if reverse else out[first:]
    inside.copy_(a)
    assert torch.equal(native.forward_sweep(inside, W_hh, h0, "tanh", out=out, **steps), h)

    a_ = a.clone()
    assert torch.equal(native.forward_sweep(a_, W_hh, h0, "tanh", total=a_, **steps), h)
    assert torch.equal(a_, total)

    dh_ = dh.clone()
    da_, dh0_ = native.backward_sweep(dh_, h, W_hh, "tanh", total=dh_, **steps)
    assert torch.equal(da_, da)
    assert torch.equal(dh0_, dh0)
    assert torch.equal(dh_, dh_total)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("H", [16, 37, 128])
def test_a_row_does_not_depend_on_its_neighbours(H, dtype):
    T, B = 4, 37
    W_hh = (random(1, H, H) / H**0.5).to(dtype)
    a, dh, h0 = (random(seed, *shape).to(dtype) for seed, shape in ((2, (T, B, H)), (3, (T, B, H)), (4, (B, H))))
    h = native.forward_sweep(a, W_hh, h0, "tanh")
    da, dh0 = native.backward_sweep(dh, h, W_hh, "tanh")
    for rows in [slice(0, 1), slice(1, 3), slice(5, 12), slice(36, 37), slice(3, 32)]:
        h_rows = native.forward_sweep(a[:, rows], W_hh, h0[rows], "tanh")
        assert torch.equal(h_rows, h[:, rows])
        da_rows, dh0_rows = native.backward_sweep(dh[:, rows], h_rows, W_hh, "tanh")
        assert torch.equal(da_rows, da[:, rows])
        assert torch.equal(dh0_rows, dh0[rows])


def test_inputs_need_not_be_contiguous():
    T, B, H = 4, 3, 18
    a, dh, h0, W_hh = random(1, H, B, T), random(2, H, B, T), random(3, H, B), random(4, 2 * H, 3 * H)[::2, ::3] / H
    h = native.forward_sweep(a.permute(2, 1, 0), W_hh, h0.mT, "tanh")
    assert_close(h, reference.forward_sweep(a.permute(2, 1, 0), W_hh, h0.mT, "tanh"))
    spread = torch.full((T + 1, B, 2 * H), torch.nan, dtype=h.dtype)[..., ::2]
    spread.copy_(h)
    da, dh0 = native.backward_sweep(dh.permute(2, 1, 0), spread, W_hh, "tanh")
    expected_da, expected_dh0 = reference.backward_sweep(dh.permute(2, 1, 0), h, W_hh, "tanh")
    assert_close(da, expected_da)
    assert_close(dh0, expected_dh0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_passed_on(activation):
    a, h0, W_hh = torch.zeros(3, 2, 5), torch.zeros(2, 5), torch.zeros(5, 5)
    a[1, 0, 2] = torch.nan
    h = native.forward_sweep(a, W_hh, h0, activation)
    assert torch.equal(h.isnan(), reference.forward_sweep(a, W_hh, h0, activation).isnan())
    assert h.isnan().any()


def run_layer(x, h0, weights, dh, dh_n, *, threads=1, **steps):
    """Every output of the fused layer, written over NaN, with weights and gradients in torch's layout."""
    weight_ih, weight_hh, b_ih, b_hh = weights
    dtype, H = weight_hh.dtype, len(weight_hh)
    rows = x.shape if x.dtype == torch.int64 else x.shape[:-1]
    found = {name: unwritten(*rows, H, dtype=dtype) for name in ("a", "dh", "da")}
    found |= {name: unwritten(1, *h0.shape, dtype=dtype) for name in ("h_n", "dh0")}
    found |= {"dweight_ih": unwritten(*weight_ih.shape, dtype=dtype), "dweight_hh": unwritten(H, H, dtype=dtype)}
    found |= {"dbias": unwritten(H, dtype=dtype)}
    if x.is_floating_point():
        found["dx"] = unwritten(*x.shape, dtype=dtype)
    torch.set_num_threads(threads)
    try:
        found["h"] = native.forward_layer(
            x, h0[None], weight_ih, weight_hh, b_ih, b_hh, "tanh", h_n=found["h_n"], total=found["a"], **steps
        )
        native.backward_layer(
            dh,
            dh_n[None],
            found["h"],
            h0[None],
            x,
            weight_ih,
            weight_hh,
            "tanh",
            dx=found.get("dx"),
            dweight_ih=found["dweight_ih"],
            dweight_hh=found["dweight_hh"],
            dbias=found["dbias"],
            dh0=found["dh0"],
            da=found["da"],
            total=found["dh"],
            **steps,
        )
    finally:
        torch.set_num_threads(1)
    return found


def exact_layer(x, h0, weights, dh, dh_n, *, batch_sizes=None, reverse=False):
    """The same in float64: products by torch, sweeps by the reference, gradients by autograd."""
    weight_ih, weight_hh, b_ih, b_hh = (array.double().requires_grad_() for array in weights)
    h0 = h0.double().requires_grad_()
    if x.is_floating_point():
        x = x.double().requires_grad_()
    H = len(weight_hh)
    x_share = (x @ weight_ih.mT if x.is_floating_point() else weight_ih.mT[x]) + (b_ih + b_hh)
    a = torch.empty_like(x_share)
    steps = {"batch_sizes": batch_sizes, "reverse": reverse}
    reference.forward_sweep(x_share.detach(), weight_hh.detach().mT, h0.detach(), "tanh", total=a, **steps)
    h = reference.forward_sweep(x_share, weight_hh.mT, h0, "tanh", **steps)
    rows, N, B = h.reshape(-1, H), x_share[..., 0].numel(), len(h0)
    y = rows[:N] if reverse else rows[B:]
    direct = dh.double().reshape(-1, H).clone()
    sizes = [B] * len(x) if batch_sizes is None else batch_sizes
    starts = np.cumsum([0, *sizes])
    unstarted, h_n = dh_n.double().clone(), h0.detach().clone()
    for r in range(max(sizes, default=0)):
        t = 0 if reverse else sum(size > r for size in sizes) - 1
        direct[starts[t] + r] += dh_n[r]
        unstarted[r] = 0
        h_n[r] = y[starts[t] + r].detach()
    inputs = [h0, weight_ih, weight_hh, b_ih, *([x] if x.is_floating_point() else [])]
    seeds = torch.autograd.grad([y, h0], inputs, [direct, unstarted], allow_unused=True)
    names = ["dh0", "dweight_ih", "dweight_hh", "dbias", "dx"]
    found = {
        name: torch.zeros_like(of) if seed is None else seed
        for name, of, seed in zip(names, inputs, seeds, strict=False)
    }
    found |= {
        "h": y.detach().view(a.shape),
        "h_n": h_n[None],
        "dh0": found["dh0"][None],
        "a": a,
        "dh": torch.empty_like(a),
    }
    found["da"], _ = reference.backward_sweep(
        direct.view(a.shape), h.detach(), weight_hh.detach().mT, "tanh", total=found["dh"], **steps
    )
    return found


def layer_inputs(rows, B, I, H, dtype, *, tokens=False):
    generator = torch.Generator().manual_seed(8)
    x = torch.randint(I, rows, generator=generator) if tokens else random(1, *rows, I).to(dtype)
    weights = [random(2, H, I) / I**0.5, random(3, H, H) / H**0.5, random(4, H), random(5, H)]
    return x, random(6, B, H).to(dtype), [weight.to(dtype) for weight in weights], random(7, *rows, H).to(dtype)


LAYERS = [  # (T, B, I, H)
    *[(1, 1, 1, 1), (2, 3, 1, 17), (7, 2, 5, 16), (5, 7, 3, 37), (3, 20, 11, 100), (0, 3, 4, 5), (4, 0, 4, 5)],
    *[(300, 1, 5, 20), (150, 1, 40, 130), (40, 2, 17, 64), (30, 33, 19, 70), (2, 600, 2, 18)],
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B", "I", "H"), LAYERS)
def test_layer(T, B, I, H, tokens, reverse, dtype):
    x, h0, weights, dh = layer_inputs((T, B), B, I, H, dtype, tokens=tokens)
    dh_n = random(9, B, H).to(dtype)
    expected = exact_layer(x, h0, weights, dh, dh_n, reverse=reverse)
    found = run_layer(x, h0, weights, dh, dh_n, reverse=reverse)
    for name, array in found.items():
        assert_close(array, expected[name])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("batch_sizes", [*PACKED, [3] * 100 + [2] * 70 + [1] * 30], ids=lambda sizes: str(sizes[:9]))
def test_packed_layer(batch_sizes, tokens, reverse, dtype):
    N, B, I, H = sum(batch_sizes), max(batch_sizes, default=2), 5, 37
    x, h0, weights, dh = layer_inputs((N,), B, I, H, dtype, tokens=tokens)
    dh_n = random(9, B, H).to(dtype)
    steps = {"batch_sizes": batch_sizes, "reverse": reverse}
    expected = exact_layer(x, h0, weights, dh, dh_n, **steps)
    for name, array in run_layer(x, h0, weights, dh, dh_n, **steps).items():
        assert_close(array, expected[name])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(300, 1, 3, 300), (60, 2, 30, 300), (40, 3, 20, 150), (30, 7, 33, 100), (9, 64, 1, 128)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(T, B, I, H, reverse, dtype):
    x, h0, weights, dh = layer_inputs((T, B), B, I, H, dtype)
    alone = run_layer(x, h0, weights, dh, h0, reverse=reverse)
    for threads in (2, 3, 5):
        together = run_layer(x, h0, weights, dh, h0, threads=threads, reverse=reverse)
        for name, array in alone.items():
            assert torch.equal(together[name], array), (threads, name)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B", "I", "H"), [(1600, 1, 5, 20), (1000, 1, 4, 130), (370, 7, 3, 37)])
def test_walks_that_accumulate_give_the_bits_of_one(T, B, I, H, tokens, reverse, dtype):
    x, h0, weights, dh = layer_inputs((T, B), B, I, H, dtype, tokens=tokens)
    dh_n = random(9, B, H).to(dtype)
    whole = run_layer(x, h0, weights, dh, dh_n, reverse=reverse)
    steps = -(-native.rows_of_a_block(H) // B)
    bounds = [0, steps, 3 * steps, T] if reverse else [T, T - steps, T - 3 * steps, 0]
    assert bounds == sorted(bounds, reverse=not reverse)
    names = ["dweight_ih", "dweight_hh", "dbias", "dh0", *(() if tokens else ("dx",))]
    found = {name: torch.full_like(whole[name], torch.nan) for name in names}
    dx, from_later = found.pop("dx", None), dh_n[None]
    for first, last in itertools.pairwise(bounds):
        now = slice(first, last) if reverse else slice(last, first)
        before = h0[None] if last in (0, T) else whole["h"][last if reverse else last - 1][None]
        native.backward_layer(
            dh[now],
            from_later,
            whole["h"][now],
            before,
            x[now],
            weights[0],
            weights[1],
            "tanh",
            reverse=reverse,
            dx=None if dx is None else dx[now],
            dweight_ih=found["dweight_ih"],
            dweight_hh=found["dweight_hh"],
            dbias=found["dbias"],
            dh0=found["dh0"],
            accumulate=first != bounds[0],
        )
        from_later = found["dh0"].clone()
    for name, array in {**found, **({} if dx is None else {"dx": dx})}.items():
        assert torch.equal(array, whole[name]), name


def test_cotangents_and_initial_state_may_be_absent():
    x, h0, weights, dh = layer_inputs((5, 3), 3, 4, 18, torch.float64)
    zero, no_dh = torch.zeros_like(h0), torch.zeros_like(dh)
    given = run_layer(x, zero, weights, no_dh, zero)
    weight_ih, weight_hh, b_ih, b_hh = weights
    h = native.forward_layer(x, None, weight_ih, weight_hh, b_ih, b_hh, "tanh")
    assert torch.equal(h, given["h"])
    dweight_ih = torch.full_like(given["dweight_ih"], torch.nan)
    native.backward_layer(None, None, h, None, x, weight_ih, weight_hh, "tanh", dweight_ih=dweight_ih)
    assert torch.equal(dweight_ih, given["dweight_ih"])
    no_bias = native.forward_layer(x, None, weight_ih, weight_hh, None, None, "tanh")
    zero_bias = native.forward_layer(x, None, weight_ih, weight_hh, b_ih * 0, None, "tanh")
    assert torch.equal(no_bias, zero_bias)


@pytest.mark.parametrize("tokens", [[0, 5], [-1, 0]])
def test_tokens_out_of_range_are_refused(tokens):
    with pytest.raises(IndexError, match=r"tokens must lie in \[0, 5\)"):
        native.forward_layer(
            torch.tensor([tokens]), torch.zeros(1, 2, 3), torch.zeros(3, 5), torch.zeros(3, 3), None, None, "tanh"
        )


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


def gradients_of_a_layer(given):
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh, dy, dh_n = (given[name] for name in LAYER_INPUTS)
    inputs = [array.detach().requires_grad_() for array in (x, h0, weight_ih, weight_hh, bias_ih, bias_hh)]
    x, h0, weight_ih, weight_hh, bias_ih, bias_hh = inputs
    y, h_n = function.layer(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, "tanh")
    return y, h_n, *torch.autograd.grad([y, h_n], inputs, [dy, dh_n])


def given_to_a_layer(T=3, B=2, I=4, H=5):
    shapes = [(T, B, I), (1, B, H), (H, I), (H, H), (H,), (H,), (T, B, H), (1, B, H)]
    return {name: random(k, *shape) for k, (name, shape) in enumerate(zip(LAYER_INPUTS, shapes, strict=True))}


@pytest.mark.parametrize("kind", [negated, negated_and_strided])
@pytest.mark.parametrize("name", LAYER_INPUTS)
def test_numbers_that_torch_keeps_negated_are_those_it_shows(name, kind):
    given = given_to_a_layer()
    odd = {**given, name: kind(given[name])}
    assert odd[name].is_neg()
    for found, expected in zip(gradients_of_a_layer(odd), gradients_of_a_layer(given), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", [freed, cut_short])
@pytest.mark.parametrize("name", LAYER_INPUTS)
def test_arrays_beyond_their_storage_are_refused(name, kind):
    given = given_to_a_layer()
    with pytest.raises(ValueError, match=r"reaches to byte .* of its storage"):
        gradients_of_a_layer({**given, name: kind(given[name])})


@pytest.mark.parametrize("name", LAYER_INPUTS)
def test_arrays_without_memory_are_refused(name):
    given = given_to_a_layer()
    with pytest.raises(ValueError, match="has none"):
        gradients_of_a_layer(
            {**given, name: torch.ops.aten._efficientzerotensor(given[name].shape, dtype=torch.float64)}
        )


@pytest.mark.parametrize(
    ("layer", "spoilt"),
    [
        (lambda x, h0, layers: long.stack(x, h0, layers, "tanh", checkpoint=2), "h0"),
        (lambda x, h0, layers: long.stack(x, h0, layers, "tanh", checkpoint=2), "x"),
        (lambda x, h0, layers: RNN(4, 5, leak=0.5, dtype=torch.float64)(x, h0), "h0"),
        (lambda x, h0, layers: RNN(4, 5, leak=0.5, dtype=torch.float64)(x, h0), "x"),
    ],
)
def test_what_torch_computes_before_the_engine_is_refused_too(layer, spoilt):
    given = given_to_a_layer()
    given[spoilt] = freed(given[spoilt])
    x, h0, *parameters = (given[name] for name in LAYER_INPUTS[:6])
    with pytest.raises((ValueError, RuntimeError), match="storage"):
        layer(x, h0, [parameters])


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
@pytest.mark.parametrize("name", ["dweight_hh", "dx"])
def test_outputs_that_cannot_hold_what_is_written_are_refused(name, spoil):
    x, _, weights, dh = layer_inputs((5,), 5, 5, 5, torch.float64)
    weight_ih, weight_hh, *_ = weights
    h = native.forward_layer(x, None, weight_ih, weight_hh, None, None, "tanh", batch_sizes=[5])
    output = {name: spoil(torch.zeros(5, 5, dtype=torch.float64))}
    with pytest.raises(ValueError, match=f"`{name}`"):
        native.backward_layer(dh, None, h, None, x, weight_ih, weight_hh, "tanh", batch_sizes=[5], **output)


@pytest.mark.parametrize("name", ["dh_n", "dh0"])
def test_a_layer_without_recurrence_has_no_states_that_go_on(name):
    x, _, (weight, *_), dh = layer_inputs((5, 2), 2, 3, 4, torch.float64)
    h = native.forward_layer(x, None, weight, None, None, None, "identity")
    state = torch.zeros(1, 2, 4, dtype=torch.float64)
    dh_n, dh0 = (state, None) if name == "dh_n" else (None, state)
    with pytest.raises(ValueError, match="need `weight_hh`"):
        native.backward_layer(dh, dh_n, h, None, x, weight, None, "identity", dh0=dh0)


def test_several_python_threads_may_call_at_once():
    x, h0, weights, _ = layer_inputs((40, 8), 8, 20, 96, torch.float32)
    torch.set_num_threads(2)
    try:
        weight_ih, weight_hh = weights[:2]
        expected = native.forward_layer(x, h0[None], weight_ih, weight_hh, None, None, "tanh")
        with ThreadPoolExecutor(4) as executor:
            calls = [
                executor.submit(native.forward_layer, x, h0[None], weight_ih, weight_hh, None, None, "tanh")
                for _ in range(200)
            ]
            assert all(torch.equal(call.result(timeout=60), expected) for call in calls)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_after_use_does_not_hang():
    # Small enough that torch's own threads, which do not survive a fork, have nothing to do.
    script = """
import os, torch
from bptt.engine import native
torch.set_num_threads(2)
a, W, h0 = torch.ones(30, 8, 100), torch.eye(100) / 2, torch.zeros(8, 100)
sweep = lambda: native.forward_sweep(a, W, h0, "tanh")
expected = sweep()
child = os.fork()
same = torch.equal(sweep(), expected)
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
torch.set_num_threads(int(sys.argv[1]))
generator = torch.Generator().manual_seed(0)
shapes = (50, 8, 30), (200, 30), (200, 200), (50, 8, 200)
x, W_xh, W_hh, dh = (torch.randn(shape, generator=generator) for shape in shapes)
W_hh /= 20
def digest():
    h = native.forward_layer(x, None, W_xh, W_hh, None, None, "tanh")
    dx, dW_xh, dW_hh = torch.empty_like(x), torch.empty_like(W_xh), torch.empty_like(W_hh)
    native.backward_layer(dh, None, h, None, x, W_xh, W_hh, "tanh", dx=dx, dweight_ih=dW_xh, dweight_hh=dW_hh)
    return hashlib.sha256(b"".join(array.numpy().tobytes() for array in (h, dx, dW_xh, dW_hh))).hexdigest()
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


REFUSED = {
    "a has the wrong rank": (ValueError, "a", lambda x: x.update(a=x["a"][0])),
    "a has the wrong width": (ValueError, "a", lambda x: x.update(a=x["a"][..., :-1])),
    "h0 is not a matrix": (ValueError, "h0", lambda x: x.update(h0=x["h0"][0])),
    "W_hh is not square": (ValueError, "W_hh", lambda x: x.update(W_hh=x["W_hh"][:-1])),
    "dtypes differ": (TypeError, "a", lambda x: x.update(a=x["a"].double())),
    "half precision": (TypeError, "a", lambda x: x.update({name: x[name].half() for name in ("a", "h0", "W_hh")})),
    "another device": (ValueError, "CPU", lambda x: x.update(a=x["a"].to("meta"))),
    "unknown activation": (ValueError, "nonlinearity", lambda x: x.update(activation="gelu")),
    "out is too small": (ValueError, "out", lambda x: x.update(out=torch.empty(2, 3, 4))),
    "out is strided": (ValueError, "out", lambda x: x.update(out=torch.empty(3, 4, 3).mT)),
    "total is too small": (ValueError, "total", lambda x: x.update(total=torch.empty(1, 3, 4))),
    "batch sizes grow": (ValueError, "increase", lambda x: x.update(a=x["a"].flatten(0, 1), batch_sizes=[2, 3, 1])),
    "batch sizes negative": (ValueError, "in \\[0", lambda x: x.update(a=x["a"].flatten(0, 1), batch_sizes=[3, -1])),
    "more rows than h0": (ValueError, "in \\[0, 3\\]", lambda x: x.update(a=x["a"].flatten(0, 1), batch_sizes=[6])),
    "rows left over": (ValueError, "sum", lambda x: x.update(a=x["a"].flatten(0, 1), batch_sizes=[3, 2])),
}


@pytest.mark.parametrize("case", REFUSED)
def test_forward_refuses(case):
    error, text, spoil = REFUSED[case]
    inputs = {"a": torch.zeros(2, 3, 4), "W_hh": torch.zeros(4, 4), "h0": torch.zeros(3, 4), "activation": "tanh"}
    native.forward_sweep(**inputs)
    spoil(inputs)
    with pytest.raises(error, match=text):
        native.forward_sweep(**inputs)


@pytest.mark.parametrize(
    ("dh", "h", "options"),
    [
        ((2, 4), (3, 3, 4), {}),
        ((2, 3, 4), (2, 3, 4), {}),
        ((2, 3, 4), (3, 3, 5), {}),
        ((2, 3, 4), (3, 3, 4), {"out": torch.empty(3, 3, 4)}),
        ((2, 3, 4), (3, 3, 4), {"total": torch.empty(2, 3, 4).double()}),
        ((6, 4), (8, 4), {"batch_sizes": [3, 3]}),
        ((6, 4), (5, 4), {"batch_sizes": [3, 3]}),
    ],
)
def test_backward_refuses(dh, h, options):
    with pytest.raises((TypeError, ValueError)):
        native.backward_sweep(torch.zeros(dh), torch.zeros(h), torch.zeros(4, 4), "tanh", **options)


def phi(activation, a):
    """The compiled activation alone, on a NumPy array."""
    h = np.full_like(a, np.nan)
    precision = {np.float32: _native.float32, np.float64: _native.float64}[a.dtype.type]
    precision.activate(_native.Activation[activation], a.ctypes.data, h.ctypes.data, a.size)
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
