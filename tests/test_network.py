"""Networks of any cell: their layers, states of several parts, and long sequences."""

from typing import Any

import pytest
import torch
from cases import tolerance

import bptt
from bptt.errors import InputError
from bptt.nn import GRU, LSTM, RNN, Network, Recurrent
from bptt.nn.layers import Layers
from bptt.nn.network import layers_of
from bptt.sheet import named
from bptt.sheet.cells import CELLS
from bptt.train import truncated

F64 = torch.float64
TWO = "s : size S\ns_t = tanh(x_t W_xs + s_{t-1} W_ss)\nh_t = tanh(s_{t-1} W_sh + h_{t-1} W_hh)"
FIXED = "γ : constant = 0.1\nM = W_hh − W_hhᵀ − γ ⊙ I\nh_t = tanh(x_t W_xh + h_{t-1} M + b_h)"
DROPS = "h_t = tanh(x_t W_xh + drop(h_{t-1}) W_hh)"


def flat(states: Any) -> list[torch.Tensor]:
    return [states] if isinstance(states, torch.Tensor) else list(states)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_of_a_cell_are_those_of_torch_where_torch_has_it(cell: str) -> None:
    layers = layers_of(cell, 5, 4, 2, bidirectional=True)
    assert type(layers) is {"elman": RNN, "lstm": LSTM, "gru": GRU}.get(cell, Recurrent)
    assert layers.cell_now()[0].name == ("elman" if cell == "elman" else cell)
    assert (layers.input_size, layers.hidden_size, layers.num_layers, layers.directions) == (5, 4, 2, 2)
    assert layers_of(named(cell), 5, 4).cell_now()[0] is layers_of(cell, 5, 4).cell_now()[0]


def test_sizes_that_the_text_declares_are_as_many_as_the_hidden_units() -> None:
    assert layers_of(TWO, 5, 4).widths_of_states(0) == [4, 4]


def test_phi_is_a_choice_of_the_plain_cell_alone() -> None:
    layers = layers_of("elman", 5, 4, nonlinearity="relu")
    assert isinstance(layers, RNN)
    assert layers.nonlinearity == "relu"
    for cell in ("gru", "mgu", TWO):
        with pytest.raises(InputError, match="nonlinearity is the φ of the plain cell; got 'relu' with the cell"):
            layers_of(cell, 5, 4, nonlinearity="relu")


@pytest.mark.parametrize(
    "rnn",
    [
        RNN(5, 4, 2, bidirectional=True),
        RNN(5, [4, 3]),
        LSTM(5, 4, proj_size=3, bidirectional=True),
        Recurrent("mgu", 5, [3, 6], bidirectional=True),
    ],
    ids=repr,
)
def test_the_output_layer_reads_what_the_top_layer_hands_on(rnn: Layers) -> None:
    o, _ = Network(rnn, 2, loss="squared_error")(torch.randn(6, 3, 5))
    assert o.shape == (6, 3, 2)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("checkpoint", [1, "auto", None])
@pytest.mark.parametrize("cell", ["lstm", "gru", "mgu", "peephole", TWO, FIXED, DROPS])
def test_a_long_sequence_in_blocks_has_the_loss_and_the_gradients_of_the_whole(
    cell: str, checkpoint: Any, tokens: bool
) -> None:
    T, B = 40, 2
    model = Network(layers_of(cell, 5, 4, 2).to(F64), 3)
    x = torch.randint(5, (T, B)) if tokens else torch.randn(T, B, 5, dtype=F64)
    y = torch.randint(3, (T, B))
    _, first = model(x)
    first = tuple(h.detach() for h in first) if isinstance(first, tuple) else first.detach()
    L, last = model.loss_of(x, y, first, checkpoint=checkpoint)
    o, expected_last = model(x, first)
    expected = model.loss(o, y)
    parameters = list(model.parameters())
    found, wanted = torch.autograd.grad(L, parameters), torch.autograd.grad(expected, parameters)
    assert all(float(gradient.abs().sum()) > 0 for gradient in wanted)
    torch.testing.assert_close([L, *flat(last), *found], [expected, *flat(expected_last), *wanted], **tolerance(F64))


def test_a_long_sequence_of_numbers_that_stand_by_themselves_is_read_and_tokens_are_refused() -> None:
    model = Network(layers_of("h_t = tanh(x_t + h_{t-1} W_hh)", 4, 4), 3)
    y = torch.randint(3, (9, 2))
    torch.testing.assert_close(model.loss_of(torch.ones(9, 2, 4), y)[0], model.loss(model(torch.ones(9, 2, 4))[0], y))
    with pytest.raises(InputError, match="x_t stands by itself"):
        model.loss_of(torch.zeros(9, 2, dtype=torch.int64), y)


def test_a_long_sequence_with_further_inputs_is_refused() -> None:
    rnn = Recurrent("d : input\nh_t = tanh(x_t W_xh + d_t ⊙ h_{t-1})", 4, 4)
    with pytest.raises(InputError, match="read x alone"):
        Network(rnn, 3).loss_of(torch.ones(9, 2, 4), torch.zeros(9, 2, dtype=torch.int64))


@pytest.mark.parametrize("cell", ["lstm", "mgu", TWO])
def test_states_of_all_parts_are_carried_from_window_to_window(cell: str) -> None:
    model = Network(layers_of(cell, 5, 4, 2).to(F64), 3)
    x, y = torch.randn(12, 2, 5, dtype=F64), torch.randint(3, (12, 2))
    *_, (_, last) = truncated.updates(model, model.loss, x, y, k1=3, k2=7)
    torch.testing.assert_close(flat(last), [h.detach() for h in flat(model(x)[1])], **tolerance(F64))
    assert not any(h.requires_grad for h in flat(last))
    whole = truncated.bias(model, model.loss, x, y, k1=12, k2=12)
    assert whole.relative_error < 1e-12
    assert truncated.bias(model, model.loss, x, y, k1=3, k2=3).relative_error > 1e-3


@pytest.mark.parametrize("cell", ["lstm", TWO])
def test_a_tape_of_any_network(cell: str) -> None:
    model = Network(layers_of(cell, 5, 4).to(F64), 3)
    tape = bptt.record(model, torch.randn(6, 2, 5, dtype=F64), torch.randint(3, (6, 2)))
    assert tape.o is not None
    assert tape.check().ok


def test_states_as_wide_as_the_input_need_layers_of_one_width() -> None:
    past = "p_t = x_t\nh_t = tanh(x_t W_xh + p_{t-1} W_ph + h_{t-1} W_hh)"
    with pytest.raises(InputError, match=r"states of all layers lie in one array, and p .* here 4, 5\."):
        Recurrent(past, 5, 4, 2)
    for size in (5, [4, 4]):
        Recurrent(past, 5, size, 2)(torch.randn(3, 2, 5))


@pytest.mark.parametrize(
    ("rnn", "output_size", "message"),
    [
        (lambda: torch.nn.LSTM(4, 8), 3, r"recurrent layers of bptt .*; got LSTM\(4, 8\)"),
        (lambda: "lstm", 3, "recurrent layers of bptt .*; got 'lstm'"),
        (lambda: LSTM(4, 8, batch_first=True), 3, "time first"),
        (lambda: LSTM(4, 8), 0, "output_size must be a whole number from 1; got 0"),
    ],
)
def test_what_no_network_can_be_made_of(rnn, output_size, message):
    with pytest.raises(InputError, match=message):
        Network(rnn(), output_size)
