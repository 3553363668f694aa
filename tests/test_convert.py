"""Converted models compute what they computed, with the same objects."""

import copy

import pytest
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


def test_parametrized_modules_are_refused_and_converted_ones_may_be_parametrized() -> None:
    rnn = torch.nn.RNN(2, 3)
    torch.nn.utils.parametrizations.orthogonal(rnn, "weight_hh_l0")
    with pytest.raises(ValueError, match=r"got inner\. Call bptt\.convert first"):
        bptt.convert(torch.nn.ModuleDict({"inner": rnn}))
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
