"""Converted models compute what they computed, with the same objects."""

import copy
from typing import Any

import torch
from cases import tolerance
from torch.nn.utils import parametrize

import bptt

F64 = torch.float64


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.RNN(3, 5, num_layers=2, bidirectional=True, batch_first=True, dtype=F64)
        self.gate = torch.nn.LSTM(3, 5, batch_first=True, dtype=F64)
        self.cells = torch.nn.ModuleList([torch.nn.RNNCell(10, 4, nonlinearity="relu", dtype=F64)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.encoder(x)
        return self.cells[0](h[:, -1]) + self.gate(x)[0].sum()


def test_a_model_computes_what_it_computed() -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 6, 3, dtype=F64)
    original = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    parameters, encoder = list(model.parameters()), model.encoder
    seen = []
    encoder.register_forward_hook(lambda *call: seen.append(type(call[0])))

    assert bptt.convert(model) is model
    assert model.encoder is encoder
    assert seen == []
    assert type(model.encoder) is bptt.nn.RNN
    assert type(model.cells[0]) is bptt.nn.RNNCell
    assert type(model.gate) is torch.nn.LSTM
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for _ in range(2):
        losses = [net(x).square().sum() for net in (model, original)]
        torch.testing.assert_close(*losses, **tolerance(F64))
        losses[1].backward()
        optimizer.zero_grad()
        losses[0].backward()
        for ours, theirs in zip(model.parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, **tolerance(F64))
        optimizer.step()
        original.load_state_dict(model.state_dict())
        original.zero_grad()
    assert seen == [bptt.nn.RNN] * 2
    bptt.convert(model)
    assert type(model.encoder) is bptt.nn.RNN


def test_a_module_by_itself_and_its_relatives() -> None:
    class Special(torch.nn.RNN):
        pass

    assert type(bptt.convert(torch.nn.RNN(2, 3))) is bptt.nn.RNN
    assert type(bptt.convert(Special(2, 3))) is Special


def test_modules_compute_by_their_mode_whatever_else_they_say() -> None:
    """As old files have them, which lack the name."""
    x = torch.randn(5, 2, 2)
    for mode in ("RNN_TANH", "RNN_RELU"):
        rnn = torch.nn.RNN(2, 3)
        rnn.mode = mode
        expected = rnn(x)
        torch.testing.assert_close(bptt.convert(copy.deepcopy(rnn))(x), expected)
        del rnn.nonlinearity
        torch.testing.assert_close(bptt.convert(rnn)(x), expected)


def test_parametrized_modules_stay_parametrized() -> None:
    theirs = torch.nn.RNN(2, 3, dtype=F64)
    torch.nn.utils.parametrizations.weight_norm(theirs, "weight_hh_l0")
    x = torch.randn(4, 2, 2, dtype=F64)
    expected, parameters = theirs(x), dict(theirs.named_parameters())
    model = bptt.convert(torch.nn.ModuleDict({"inner": theirs}))
    ours: Any = model["inner"]
    assert isinstance(ours, bptt.nn.RNN)
    assert parametrize.is_parametrized(ours, "weight_hh_l0")
    torch.testing.assert_close(ours(x), expected, **tolerance(F64))
    ours(x)[0].sum().backward()
    scale = "parametrizations.weight_hh_l0.original0"
    assert parameters[scale] is dict(ours.named_parameters())[scale]
    assert parameters[scale].grad is not None
    before = torch.nn.RNN(2, 3, dtype=F64)
    torch.nn.utils.parametrizations.weight_norm(before, "weight_hh_l0")
    assert not isinstance(before, bptt.nn.RNN)
    parametrize.remove_parametrizations(ours, "weight_hh_l0")
    assert type(ours) is bptt.nn.RNN
    torch.testing.assert_close(ours(x), expected, **tolerance(F64))


def test_converted_modules_may_be_parametrized() -> None:
    torch.manual_seed(1)
    ours = bptt.convert(torch.nn.RNN(2, 3, dtype=F64))
    torch.nn.utils.parametrizations.orthogonal(ours, "weight_hh_l0")
    assert parametrize.is_parametrized(ours)
    x = torch.randn(4, 2, 2, dtype=F64)
    y, _ = ours(x)
    theirs = torch.nn.RNN(2, 3, dtype=F64)
    theirs.load_state_dict({name: getattr(ours, name).detach() for name in dict(theirs.named_parameters())})
    torch.testing.assert_close(y, theirs(x)[0], **tolerance(F64))
    y.sum().backward()
    assert dict(ours.named_parameters())["parametrizations.weight_hh_l0.original"].grad is not None
