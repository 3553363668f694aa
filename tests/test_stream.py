"""Stream, judged by a single call over all windows and by backward passes cut by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bptt

F64 = torch.float64
T, B = 12, 3


def windows() -> tuple[Tensor, tuple[Tensor, ...]]:
    x = torch.randn(T, B, 4, dtype=F64)
    return x, x.split(5)


@pytest.mark.parametrize(
    "made",
    [
        lambda: bptt.nn.RNN(4, 5, 2, dtype=F64),
        lambda: bptt.nn.RNN(4, [5, 3], dtype=F64),
        lambda: bptt.nn.Elman(4, 5, 2, dtype=F64),
        lambda: torch.nn.LSTM(4, 5, dtype=F64),
        lambda: torch.nn.GRU(4, 5, dtype=F64),
    ],
)
def test_windows_are_one_long_sequence_forward(made: Callable[[], torch.nn.Module]) -> None:
    x, parts = windows()
    module = made()
    stream = bptt.nn.Stream(module)
    pieces = [stream(part)[0] for part in parts]
    torch.testing.assert_close(torch.cat(pieces), module(x)[0], rtol=1e-12, atol=1e-12)


def test_each_window_goes_backward_by_itself() -> None:
    _, parts = windows()
    rnn = bptt.nn.RNN(4, 5, 2, dtype=F64)
    stream, h = bptt.nn.Stream(rnn), None
    for part in parts:
        output, h_n = stream(part)
        output.square().sum().backward()
        assert torch.equal(stream.state, h_n)
        assert not stream.state.requires_grad
    mine = [p.grad for p in rnn.parameters()]
    rnn.zero_grad()
    for part in parts:
        output, h = rnn(part, None if h is None else h.detach())
        output.square().sum().backward()
    torch.testing.assert_close(mine, [p.grad for p in rnn.parameters()], rtol=0, atol=0)


@pytest.mark.parametrize("rows", [[1], torch.tensor([False, True, False]), torch.tensor([-2]), 1])
@pytest.mark.parametrize("hidden_size", [5, [5, 3]])
@pytest.mark.parametrize("learn_h0", [False, True])
def test_single_rows_begin_anew(rows: Any, hidden_size: Any, learn_h0: bool) -> None:
    _, parts = windows()
    rnn = bptt.nn.RNN(4, hidden_size, learn_h0=learn_h0, dtype=F64)
    for name, value in rnn.named_parameters():
        if name.startswith("h0"):
            torch.nn.init.normal_(value)
    stream = bptt.nn.Stream(rnn)
    stream(parts[0])
    stream.reset([1])
    stream.reset(rows)
    output, _ = stream(parts[1])
    kept = bptt.nn.Stream(rnn)
    kept(parts[0])
    assert torch.equal(output[:, [0, 2]], kept(parts[1])[0][:, [0, 2]])
    torch.testing.assert_close(output[:, 1], rnn(parts[1])[0][:, 1], rtol=1e-12, atol=1e-12)
    in_the_window = bptt.nn.Stream(rnn)
    in_the_window(parts[0])
    reset = torch.zeros(5, B, dtype=torch.bool)
    reset[0, 1] = True
    torch.testing.assert_close(in_the_window(parts[1], reset=reset)[0], output, rtol=1e-12, atol=1e-12)
    if learn_h0:
        output[:, 1].sum().backward()
        learnt = rnn.get_parameter("h0_l0").grad
        assert learnt is not None
        assert learnt.abs().sum() > 0
    stream.reset()
    assert torch.equal(stream(parts[0][:, :2])[0], rnn(parts[0][:, :2])[0])


def test_a_network_with_output_feedback_streams_too() -> None:
    network = bptt.nn.Jordan(4, 5, 2, hidden_recurrence=True, loss="squared_error", dtype=F64)
    x, y = torch.randn(8, B, 4, dtype=F64), torch.randn(8, B, 2, dtype=F64)
    stream = bptt.nn.Stream(network)
    pieces = [stream(*both)[0] for both in zip(x.split(4), y.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(pieces), network(x, y)[0], rtol=1e-12, atol=1e-12)
    stream.reset([0])
    stream(x[:4], y[:4])


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_state_with_a_freed_graph_is_explained(num_layers: int) -> None:
    rnn = bptt.nn.RNN(4, 5, num_layers)
    output, h = rnn(torch.randn(6, B, 4))
    output.sum().backward()
    output, _ = rnn(torch.randn(6, B, 4), h)
    with pytest.raises(RuntimeError, match=r"h.detach\(\).* bptt.nn.Stream"):
        output.sum().backward()


def test_a_state_with_a_graph_that_lives_is_gone_through() -> None:
    rnn = bptt.nn.RNN(4, 5, dtype=F64)
    x, _ = windows()
    first, h = rnn(x[:5])
    second, _ = rnn(x[5:], h)
    grads = torch.autograd.grad(first.sum() + second.sum(), list(rnn.parameters()))
    whole = torch.autograd.grad(rnn(x)[0].sum(), list(rnn.parameters()))
    torch.testing.assert_close(grads, whole, rtol=1e-12, atol=1e-12)


def test_mistakes_are_explained() -> None:
    stream = bptt.nn.Stream(bptt.nn.RNN(4, 5))
    with pytest.raises(RuntimeError, match="before the first, every row begins anew"):
        stream.reset([0])
    stream(torch.zeros(2, B, 4))
    with pytest.raises(IndexError, match=r"rows must lie in \[0, 3\).* got \[3\]"):
        stream.reset([3])
    unbatched = bptt.nn.Stream(bptt.nn.RNN(4, 5, 2))
    unbatched(torch.zeros(6, 4))
    with pytest.raises(bptt.InputError, match=r"unbatched windows are one row; got .* \(2, 5\). .* with reset\(\)"):
        unbatched.reset([1])
    with pytest.raises(bptt.InputError, match=r"\(output, state\).* got one Tensor from RNNCell"):
        bptt.nn.Stream(bptt.nn.RNNCell(4, 5))(torch.zeros(2, 4))
    with pytest.raises(IndexError, match=r"booleans for the 3 rows .* got \(2,\)"):
        stream.reset(torch.tensor([True, False]))


class Model(torch.nn.Module):
    """Whose recurrent part has learnt how rows begin."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = bptt.nn.RNN(4, 5, learn_h0=True, dtype=F64)
        torch.nn.init.normal_(self.encoder.get_parameter("h0_l0"))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.encoder(x, state)


class Telling(Model):
    def fresh_state(self, B: int) -> Any:
        return self.encoder.fresh_state(B)


def test_rows_of_a_model_begin_with_what_a_part_of_it_has_learnt() -> None:
    _, parts = windows()
    model = Telling()
    stream = bptt.nn.Stream(model)
    stream(parts[0])
    stream.reset([1])
    torch.testing.assert_close(stream(parts[1])[0][:, 1], model(parts[1])[0][:, 1], rtol=1e-12, atol=1e-12)
    stream = bptt.nn.Stream(Model())
    stream(parts[0])
    with pytest.raises(bptt.InputError, match=r"Model has in its part 'encoder'. Give it a method fresh_state\(B\)"):
        stream.reset([1])
