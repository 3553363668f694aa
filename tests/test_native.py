"""The reference in float64 judges the compiled sweeps: every output, ugly shapes, memory filled with NaN beforehand."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from bptt import _native
from bptt.sweeps import native, reference

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


REFUSED = {
    "a has the wrong rank": (ValueError, "a", lambda x: x.update(a=x["a"][0])),
    "a has the wrong width": (ValueError, "a", lambda x: x.update(a=x["a"][..., :-1])),
    "h0 is not a matrix": (ValueError, "h0", lambda x: x.update(h0=x["h0"][0])),
    "W_hh is not square": (ValueError, "W_hh", lambda x: x.update(W_hh=x["W_hh"][:-1])),
    "dtypes differ": (TypeError, "a", lambda x: x.update(a=x["a"].double())),
    "half precision": (TypeError, "a", lambda x: x.update({name: x[name].half() for name in ("a", "h0", "W_hh")})),
    "another device": (ValueError, "CPU", lambda x: x.update(a=x["a"].to("meta"))),
    "unknown activation": (ValueError, "activation", lambda x: x.update(activation="gelu")),
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
    run = {np.float32: _native.activate_float32, np.float64: _native.activate_float64}[a.dtype.type]
    run(_native.Activation[activation], a.ctypes.data, h.ctypes.data, a.size)
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
    asked = run_with(instruction_set, "-c", "from bptt.sweeps import native; print(native.INSTRUCTION_SET)")
    if "must name an instruction set this processor has" in asked.stderr:
        pytest.skip(f"this processor or build has no {instruction_set}")
    assert asked.stdout.strip() == instruction_set
    judged = run_with(instruction_set, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__)
    assert judged.returncode == 0, judged.stdout


def test_an_unknown_instruction_set_is_refused_with_the_choices():
    refused = run_with("avx1024", "-c", "import bptt._native")
    assert refused.returncode != 0
    assert "ImportError: BPTT_ISA must name an instruction set this processor has: " in refused.stderr
    assert "baseline" in refused.stderr
    assert "'avx1024'" in refused.stderr
