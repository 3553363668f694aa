"""The output layer on the engine, judged by torch.nn.Linear."""

import io
from itertools import pairwise

import pytest
import torch
from cases import tolerance
from torch.autograd import gradcheck, gradgradcheck

from bptt.autograd.readout import Readout, _Product
from bptt.engine import readout


def both(H: int, O: int, dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[Readout, torch.nn.Linear]:
    ours = Readout(H, O, bias=bias, dtype=dtype)
    judge = torch.nn.Linear(H, O, bias=bias, dtype=dtype)
    judge.load_state_dict(ours.state_dict())
    return ours, judge


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 3, 4), (300, 1), (1, 1), (2, 200, 33), (9,), (0, 4)], ids=str)
def test_output_and_gradients_are_those_of_linear(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    *rows, H = shape
    ours, judge = both(H, 11, dtype, bias=bias)
    h, d = torch.randn(*rows, H, dtype=ours.weight.dtype), torch.randn(*rows, 11, dtype=ours.weight.dtype)
    results = []
    for layer in (ours, judge):
        own = h.clone().requires_grad_()
        o = layer(own)
        o.backward(d)
        results.append([o, own.grad, *(p.grad for p in layer.parameters())])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(h.dtype))


def test_derivatives_of_both_orders_pass_gradcheck() -> None:
    layer = Readout(3, 2, dtype=torch.float64)
    arguments = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True), layer.weight, layer.bias]
    assert gradcheck(_Product.apply, arguments, check_batched_grad=True)
    assert gradgradcheck(_Product.apply, arguments)


def test_rows_weights_and_gradients_may_lie_anyhow() -> None:
    layer, judge = both(6, 5)
    h, d = torch.randn(6, 40).T, torch.randn(5, 40).T
    for one in (layer, judge):
        one.weight.data = one.weight.data.T.contiguous().T
        one(h).backward(d)
    torch.testing.assert_close(layer.weight.grad, judge.weight.grad, **tolerance(torch.float32))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("rows", [(), (5,), (0,)])
def test_no_outputs_are_those_of_linear(rows: tuple[int, ...]) -> None:
    assert Readout(4, 0)(torch.randn(*rows, 4)).shape == (*rows, 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.*is deprecated")
def test_traces_are_those_of_linear() -> None:
    layer, judge = both(4, 3)
    file, h = io.BytesIO(), torch.randn(2, 5, 4)
    torch.jit.save(torch.jit.trace(layer, (torch.randn(7, 4),)), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(h), judge(h))


@pytest.mark.parametrize("what", ["half", "autocast", "meta"])
def test_what_the_engine_does_not_take_goes_to_torch(what: str) -> None:
    layer, judge = both(4, 3, torch.bfloat16 if what == "half" else torch.float32)
    h = torch.randn(2, 4, dtype=layer.weight.dtype)
    if what == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(h), judge(h))
        assert layer(h).dtype == torch.float32
    elif what == "meta":
        assert layer.to("meta")(h.to("meta")).shape == (2, 3)
    else:
        assert torch.equal(layer(h), judge(h))


def test_nothing_depends_on_the_number_of_threads() -> None:
    outside, results = torch.get_num_threads(), []
    h, weight, do = torch.randn(700, 65), torch.randn(20, 65), torch.randn(700, 20)
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            dh, dweight, dbias = torch.empty_like(h), torch.zeros_like(weight), torch.zeros(20)
            readout.gradients(do, h, weight, dh, dweight, dbias)
            results.append((readout.product(h, weight, None), dh, dweight, dbias))
    finally:
        torch.set_num_threads(outside)
    for one, other in pairwise(results):
        assert all(map(torch.equal, one, other))
