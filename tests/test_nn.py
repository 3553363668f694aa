"""What RNN and RNNCell do beyond torch (`test_parity` has the rest), what they say to mistakes; Elman by its parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import ACTIVATIONS, tolerance
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import bptt

F64 = torch.float64


def test_biases_get_gradients_of_their_own() -> None:
    rnn = bptt.nn.RNN(5, 7)
    rnn(torch.randn(4, 6, 5))[0].sum().backward()
    first, second = rnn.get_parameter("bias_ih_l0").grad, rnn.get_parameter("bias_hh_l0").grad
    assert first is not None
    assert second is not None
    first.zero_()
    assert second.abs().sum() > 0


def test_output_may_be_overwritten_when_no_gradient_is_wanted() -> None:
    rnn = bptt.nn.RNN(5, 7)
    with torch.no_grad():
        output, h_n = rnn(torch.randn(4, 6, 5))
        output.zero_()
    assert h_n.abs().sum() > 0
    output, _ = rnn(torch.randn(4, 6, 5))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("nonlinearity", ACTIVATIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_tokens_are_rows_of_the_input_weights(nonlinearity: str, bidirectional: bool) -> None:
    rnn = bptt.nn.RNN(9, 7, 2, nonlinearity, bidirectional=bidirectional, dtype=F64)
    tokens = torch.randint(0, 9, (5, 3))
    one_hot = torch.nn.functional.one_hot(tokens, 9).to(F64)
    results = []
    for x in (tokens, one_hot, tokens.to(torch.uint8)):
        output, h_n = rnn(x)
        results.append([output, h_n, *torch.autograd.grad(output.square().sum() + h_n.sum(), list(rnn.parameters()))])
    torch.testing.assert_close(results[0], results[1], **tolerance(F64))
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=0)
    alone, _ = rnn(tokens[:, 0])
    torch.testing.assert_close(alone, results[0][0][:, 0], **tolerance(F64))


@pytest.mark.parametrize("nonlinearity", ACTIVATIONS)
def test_first_and_second_derivatives(nonlinearity: str) -> None:
    rnn = bptt.nn.RNN(2, 3, 2, nonlinearity, bidirectional=True, dtype=F64)
    leaves = (torch.randn(3, 2, 2, dtype=F64, requires_grad=True), torch.randn(4, 2, 3, dtype=F64, requires_grad=True))
    inputs = (*leaves, *rnn.parameters())
    assert torch.autograd.gradcheck(lambda x, h0, *_: rnn(x, h0), inputs)
    assert torch.autograd.gradgradcheck(lambda x, h0, *_: rnn(x, h0), inputs)


def test_second_derivatives_of_tokens_and_packed_rows() -> None:
    rnn = bptt.nn.RNN(4, 3, dtype=F64)
    tokens = torch.randint(0, 4, (3, 2))
    assert torch.autograd.gradgradcheck(lambda *_: rnn(tokens), tuple(rnn.parameters()))
    x = torch.randn(3, 2, 4, dtype=F64, requires_grad=True)

    def packed(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = rnn(pack_padded_sequence(x, [3, 1]))
        return output.data, h_n

    assert torch.autograd.gradgradcheck(packed, (x, *rnn.parameters()))


@pytest.mark.parametrize("shape", [(0, 3, 5), (4, 0, 5)])
def test_nothing_in_nothing_out(shape: tuple[int, int, int]) -> None:
    rnn = bptt.nn.RNN(5, 7, 2, bidirectional=True)
    output, h_n = rnn(torch.zeros(shape))
    assert output.shape == (*shape[:2], 14)
    assert h_n.shape == (4, shape[1], 7)
    (output.sum() + h_n.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in rnn.parameters())


def test_a_loop_of_cells_is_a_layer() -> None:
    cell, rnn = bptt.nn.RNNCell(9, 7, dtype=F64), bptt.nn.RNN(9, 7, dtype=F64)
    rnn.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    tokens, h = torch.randint(0, 9, (5, 3)), None
    for x in tokens:
        h = cell(x, h)
    torch.testing.assert_close(h, rnn(tokens)[1][0], **tolerance(F64))


def test_elman_is_a_layer_and_an_output() -> None:
    model = bptt.nn.Elman(9, 7, 4, loss="binary_cross_entropy", dtype=F64)
    tokens, h0 = torch.randint(0, 9, (5, 3)), torch.randn(1, 3, 7, dtype=F64)
    o, h_n = model(tokens, h0)
    h, last = model.rnn(tokens, h0)
    torch.testing.assert_close(o, h @ model.readout.weight.T + model.readout.bias, **tolerance(F64))
    assert torch.equal(h_n, last)
    assert torch.equal(model.predict(tokens, h0)[0], o.sigmoid())
    y = torch.rand_like(o).round()
    assert torch.equal(model.loss(o, y), bptt.losses.loss("binary_cross_entropy", o, y))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: m(torch.zeros(2, 3, 4, 5)), ValueError, r"2D or 3D, got 4D tensor instead: .* got \(2, 3, 4, 5\)"),
        (lambda m: m(torch.zeros(2, 3, 4)), RuntimeError, r"Expected 5, got 4 in an input of shape \(2, 3, 4\)"),
        (lambda m: m(torch.zeros(2, 3, 5, dtype=F64)), ValueError, r"does not match weight dtype .* input.to\(torch"),
        (
            lambda m: m(torch.zeros(2, 3, 5), torch.zeros(3, 7)),
            RuntimeError,
            r"hx should also be 3-D but got 2-D tensor of shape \(3, 7\)",
        ),
        (lambda m: m(torch.zeros(2, 3, 5), torch.zeros(1, 2, 7)), RuntimeError, r"size \(1, 3, 7\), got \[1, 2, 7\]"),
        (lambda m: m(torch.zeros(2, 3, 5), torch.zeros(1, 3, 7, dtype=F64)), ValueError, "Hidden state dtype"),
        (lambda m: m(torch.zeros(2, 3, 5, device="meta")), RuntimeError, "not at the same device"),
        (lambda m: m(torch.full((2, 3), 5)), IndexError, r"tokens must lie in \[0, 5\).* got 5 to 5"),
        (lambda m: m(torch.full((2, 3), -1)), IndexError, r"tokens must lie in \[0, 5\).* got -1 to -1"),
        (lambda m: m(torch.zeros(2, 3, 5, dtype=torch.bool)), ValueError, r"input dtype \(torch.bool\)"),
        (lambda _: bptt.nn.RNN(5, 7, nonlinearity="gelu"), ValueError, "tanh, relu, sigmoid, identity; got 'gelu'"),
        (lambda _: bptt.nn.RNN(5, 7, proj_size=3), ValueError, "proj_size"),
        (lambda _: bptt.nn.Elman(5, 7, 2, loss="hinge"), ValueError, "got 'hinge'"),
    ],
)
def test_mistakes_are_explained(call: Callable[[Any], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(bptt.nn.RNN(5, 7))
