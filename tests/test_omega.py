"""Ω against a loop over steps with Jacobians by autograd; its gradient against that of the same loop."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from cases import ACTIVATIONS
from torch import Tensor

import bptt
from bptt.errors import InputError
from bptt.nn import GRU, LSTM, RNN, Recurrent
from bptt.sheet import losses

F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}
T, B, I, H = 6, 3, 2, 5


def of_ratio(v: Tensor, dh: Tensor) -> Tensor:
    return (v.norm() / dh.norm() - 1) ** 2


def taped(rnn: RNN, loss: Callable[[Tensor], Tensor], x: Any, **further: Any) -> bptt.Tape:
    with bptt.recording() as tapes:
        output, _ = rnn(x, **further)
        loss(output.data if isinstance(output, torch.nn.utils.rnn.PackedSequence) else output).backward()
    rnn.zero_grad()
    return tapes[0]


@pytest.mark.parametrize("phi", ACTIVATIONS)
def test_value_and_gradient_are_those_of_a_loop_with_constants(phi: str) -> None:
    rnn, x = RNN(I, H, nonlinearity=phi, dtype=F64), torch.randn(T, B, I, dtype=F64)
    readout = torch.randn(H, dtype=F64)
    weight = rnn.get_parameter("weight_hh_l0")
    bias = rnn.get_parameter("bias_ih_l0") + rnn.get_parameter("bias_hh_l0")
    for loss in (lambda h: (h @ readout).square().mean(), lambda h: (h[-1] @ readout).exp().sum()):
        found = losses.omega(taped(rnn, loss, x), rnn)
        found.backward()
        W_xh, W_hh, b = rnn.get_parameter("weight_ih_l0").T, weight.detach().T, bias.detach()
        h = [torch.zeros(B, H, dtype=F64, requires_grad=True)]
        for x_t in x:
            h.append(PHI[phi](x_t @ W_xh + h[-1] @ W_hh + b))
        dh = torch.autograd.grad(loss(torch.stack(h[1:])), h[1:])
        free = W_hh.clone().requires_grad_()
        expected = torch.zeros((), dtype=F64)
        for t, dh_t in enumerate(dh):
            for row in range(B):
                a = (x[t] @ W_xh + h[t] @ W_hh + b)[row].detach()
                slope = torch.autograd.functional.jacobian(PHI[phi], a).diagonal()
                expected = expected + of_ratio((dh_t[row] * slope) @ free.T, dh_t[row]) / B
        torch.testing.assert_close(found, expected, **EXACT)
        torch.testing.assert_close(weight.grad, torch.autograd.grad(expected, free)[0].T, **EXACT)
        assert {name for name, own in rnn.named_parameters() if own.grad is not None} == {"weight_hh_l0"}
        rnn.zero_grad()


def test_a_step_without_gradient_adds_nothing_and_the_size_of_a_gradient_does_not_matter() -> None:
    rnn, x = RNN(I, H, dtype=F64), torch.randn(T, B, I, dtype=F64)
    short = losses.omega(taped(rnn, lambda h: h[2].sum(), x[:3]), rnn)
    torch.testing.assert_close(losses.omega(taped(rnn, lambda h: h[2].sum(), x), rnn), short, **EXACT)
    torch.testing.assert_close(losses.omega(taped(rnn, lambda h: 1e-250 * h[2].sum(), x), rnn), short, **EXACT)
    for scale in (1e-250, 1e-300):  # the digits of the second are lost
        losses.omega(taped(rnn, lambda h, s=scale: s * h[2].sum(), x), rnn).backward()
        grad = rnn.get_parameter("weight_hh_l0").grad
        assert grad is not None
        assert grad.isfinite().all()
        assert grad.any() == (scale == 1e-250)
        rnn.zero_grad()
    nothing = losses.omega(taped(rnn, lambda h: 0 * h.sum(), x), rnn)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert all(own.grad is None or not own.grad.any() for own in rnn.parameters())


def test_layers_and_directions_add_up_and_rows_may_differ_in_length() -> None:
    rnn, x = RNN(I, H, 2, bidirectional=True, dtype=F64), torch.randn(T, B, I, dtype=F64)
    lengths = [6, 1, 4]
    found = losses.omega(taped(rnn, lambda h: h.square().sum(), x, lengths=lengths), rnn)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    torch.testing.assert_close(losses.omega(taped(rnn, lambda h: h.square().sum(), packed), rnn), found, **EXACT)
    found.backward()
    of_rows = []
    for row, length in enumerate(lengths):
        tape = taped(rnn, lambda h: h.square().sum(), x[:length, row : row + 1])
        parts = [
            of_ratio(da @ record.W_hh.T, dh)
            for record in tape.layers
            for da, dh in zip(record.da[:, 0], record.d("h")[:, 0], strict=True)  # pyright: ignore
        ]
        of_rows.append(torch.stack(parts).sum() / B)
    torch.testing.assert_close(found, torch.stack(of_rows).sum(), **EXACT)


def test_the_gradient_reaches_what_a_recurrent_matrix_is_made_of() -> None:
    text = "M = W_hh − W_hhᵀ − 0.1 ⊙ I\nh_t = tanh(x_t W_xh + h_{t-1} M + b_h)"
    layer, x = Recurrent(text, I, H), torch.randn(T, B, I)
    with bptt.recording() as tapes:
        layer(x)[0].square().sum().backward()
    layer.zero_grad()
    losses.omega(tapes[0], layer).backward()
    grad = layer.get_parameter("W_hh_l0").grad
    assert grad is not None
    assert float(grad.abs().max()) > 0
    torch.testing.assert_close(grad, -grad.T)


def by_double_backward(step: Callable[..., Any], states: list[Tensor], x: Tensor, loss: Any) -> Tensor:
    every = [states]
    for x_t in x:
        every.append([s.view_as(s) for s in step(x_t, *every[-1])])  # h of an LSTM is made of c, beside which it stands
    L = loss(torch.stack([h for h, *_ in every[1:]]))
    total = torch.zeros((), dtype=F64)
    flat = [s for states in every for s in states]
    d = iter(torch.autograd.grad(L, flat, create_graph=True, allow_unused=True, materialize_grads=True))
    totals = [[next(d) for _ in states] for states in every]
    for (before, after), d_after in zip(pairwise(every), totals[1:], strict=True):
        v = torch.autograd.grad(after, before, d_after, create_graph=True)
        for row in range(B):
            total = total + of_ratio(torch.cat([a[row] for a in v]), torch.cat([a[row] for a in d_after])) / B
    return total


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_exact_form_is_that_of_a_double_backward(name: str, batch_first: bool) -> None:
    ours: RNN | LSTM | GRU = getattr(bptt.nn, name)(I, H, batch_first=batch_first, dtype=F64)
    theirs = getattr(torch.nn, f"{name}Cell")(I, H, dtype=F64)
    theirs.load_state_dict({key.removesuffix("_l0"): value for key, value in ours.state_dict().items()})
    x, readout = torch.randn(T, B, I, dtype=F64), torch.randn(H, dtype=F64)

    w = torch.rand(T, 1, dtype=F64)

    def loss(h: Tensor) -> Tensor:
        return (w * (h @ readout).square()).sum()

    def loss_of_output(output: Tensor) -> Tensor:
        return loss(output.transpose(0, 1) if batch_first else output)

    def step(x: Tensor, h: Tensor, *c: Tensor) -> Any:
        return theirs(x, (h, *c)) if c else (theirs(x, h),)

    zeros = [torch.zeros(B, H, dtype=F64, requires_grad=True) for _ in range(1 + (name == "LSTM"))]
    expected = by_double_backward(step, zeros, x, loss)
    found = losses.exact_omega(ours, x.transpose(0, 1) if batch_first else x, loss_of_output)
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = torch.autograd.grad(expected, list(theirs.parameters()))
    for own, wanted in zip(torch.autograd.grad(found, list(ours.parameters())), gradients, strict=True):
        torch.testing.assert_close(own, wanted, **EXACT)
    hx = [torch.randn(1, B, H, dtype=F64) for _ in zeros]
    begun = losses.exact_omega(
        ours, x.transpose(0, 1) if batch_first else x, loss_of_output, tuple(hx) if len(hx) > 1 else hx[0]
    )
    expected = by_double_backward(step, [h[0].requires_grad_() for h in hx], x, loss)
    torch.testing.assert_close(begun, expected, **EXACT)


def test_both_forms_have_one_value() -> None:
    rnn, x = RNN(I, H, dtype=F64), torch.randn(T, B, I, dtype=F64)
    tape = taped(rnn, lambda h: h[-1].square().sum(), x)
    exact = losses.exact_omega(rnn, x, lambda h: h[-1].square().sum())
    torch.testing.assert_close(losses.omega(tape, rnn), exact, **EXACT)


def test_refusals_name_what_works() -> None:
    x = torch.randn(T, B, I)
    lstm, rnn = LSTM(I, H), RNN(I, H)
    with bptt.recording() as tapes:
        lstm(x)[0].sum().backward()
        rnn(x)
    with pytest.raises(InputError, match=r"plain cells.*got the cell 'lstm'\. exact_omega\(rnn, x, loss\)"):
        losses.omega(tapes[0], lstm)
    with pytest.raises(InputError, match="the module whose call the tape holds"):
        losses.omega(tapes[1], RNN(I, H + 1))
    with pytest.raises(RuntimeError, match=r"call backward\(\) first"):
        losses.omega(tapes[1], rnn)
    for layers in (RNN(I, H, 2), RNN(I, H, bidirectional=True), RNN(I, H, recurrent_dropout=0.5)):
        with pytest.raises(InputError, match="one layer in one direction, whose output is a state, without recurrent"):
            losses.exact_omega(layers, x, torch.sum)
