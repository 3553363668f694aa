"""Converted models compute what they computed, with the same objects."""

import copy
from typing import Any

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
        self.gate = torch.nn.LSTM(3, 5, batch_first=True, proj_size=2, dtype=F64)
        self.gru = torch.nn.GRU(2, 5, 2, dropout=0.5, batch_first=True, dtype=F64)
        self.cells = torch.nn.ModuleList(
            [
                torch.nn.RNNCell(10, 4, nonlinearity="relu", dtype=F64),
                torch.nn.LSTMCell(4, 4, dtype=F64),
                torch.nn.GRUCell(4, 4, dtype=F64),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.encoder(x)
        plain, lstm, gru = self.cells
        torch.manual_seed(7)
        return gru(lstm(plain(h[:, -1]))[0]) + self.gru(self.gate(x)[0])[0].sum()


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
    assert [type(cell) for cell in model.cells] == [bptt.nn.RNNCell, bptt.nn.LSTMCell, bptt.nn.GRUCell]
    assert type(model.gate) is bptt.nn.LSTM
    assert type(model.gru) is bptt.nn.GRU
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


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_the_way_back() -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 6, 3, dtype=F64)
    original, parameters = copy.deepcopy(model), list(model.parameters())
    torch.nn.utils.parametrizations.weight_norm(bptt.convert(model).gate, "weight_hh_l0")
    bptt.convert(model, back=True)
    assert all(a is b for a, b in zip(model.encoder.parameters(), parameters, strict=False))
    assert isinstance(model.gate, torch.nn.LSTM)
    assert not isinstance(model.gate, bptt.nn.LSTM)
    parametrize.remove_parametrizations(model.gate, "weight_hh_l0")
    for ours, theirs in zip(model.modules(), original.modules(), strict=True):
        assert type(ours) is type(theirs)
        assert ours.__dict__.keys() == theirs.__dict__.keys()
        assert repr(ours) == repr(theirs)
    torch.testing.assert_close(model(x), original(x), **tolerance(F64))
    made = bptt.convert(torch.nn.Sequential(bptt.nn.RNN(3, 4, nonlinearity="relu"), bptt.nn.LSTM(4, 2)), back=True)
    torch.jit.script(made[1])
    assert type(made[0]) is torch.nn.RNN
    torch.testing.assert_close(made[0](x.float()), bptt.convert(copy.deepcopy(made[0]))(x.float()))


@pytest.mark.parametrize(
    "module",
    [
        bptt.nn.LSTM(2, 3, learn_h0=True),
        bptt.nn.GRU(2, [3, 4]),
        bptt.nn.LSTM(2, 3, recurrent_dropout=0.5),
        bptt.nn.RNN(2, 3, leak=0.5),
        bptt.nn.RNN(2, 3, nonlinearity="sigmoid"),
        bptt.nn.RNNCell(2, 3, nonlinearity="identity"),
    ],
    ids=repr,
)
def test_there_is_no_way_back_for_what_torch_lacks(module: torch.nn.Module) -> None:
    model = torch.nn.ModuleList([bptt.nn.LSTM(2, 3), module])
    with pytest.raises(bptt.InputError, match=r"torch's \w+ has no \w+.*; got .*without such modules"):
        bptt.convert(model, back=True)
    assert type(model[0]) is bptt.nn.LSTM


def test_it_says_what_it_converted(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model()
    bptt.convert(model)
    said = "2 RNN layers, 1 LSTM layer, 2 GRU layers, 1 RNNCell, 1 LSTMCell, 1 GRUCell"
    assert capsys.readouterr() == ("", f"bptt.convert: {said}\n")
    bptt.convert(model)
    assert capsys.readouterr().err == "bptt.convert: all 6 recurrent modules are converted already\n"
    bptt.convert(model, back=True)
    assert capsys.readouterr().err == f"bptt.convert: {said}, torch again\n"
    bptt.convert(model, quiet=True)
    assert capsys.readouterr() == ("", "")

    class Special(torch.nn.LSTM):
        pass

    with pytest.warns(
        UserWarning, match=r"found no torch.nn.RNN, LSTM, GRU or their cells in Sequential: .*here Special"
    ):
        bptt.convert(torch.nn.Sequential(Special(2, 3)))
    with pytest.warns(UserWarning, match=r"found no RNN, LSTM, GRU of bptt or their cells in Linear: nothing was conv"):
        bptt.convert(torch.nn.Linear(2, 3), back=True)


def test_parameters_of_parametrized_layers_are_drawn_anew() -> None:
    lstm: Any = bptt.nn.LSTM(3, 4, init="orthogonal")
    torch.nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    before = lstm.weight_hh_l0.detach().clone()
    lstm.reset_parameters()
    assert not torch.equal(lstm.weight_hh_l0, before)
    for gate in lstm.weight_hh_l0.detach().chunk(4):
        torch.testing.assert_close(gate @ gate.mT, torch.eye(4))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("module", [bptt.nn.LSTM(2, 3), bptt.nn.GRUCell(2, 3), bptt.nn.Recurrent("lstm", 2, 3)])
def test_scripting_names_the_way_back(module: torch.nn.Module) -> None:
    way = "torch has no class" if isinstance(module, bptt.nn.Recurrent) else r"bptt\.convert\(model, back=True\)"
    for model in (module, torch.nn.Sequential(module)):
        with pytest.raises(bptt.InputError, match=way):
            torch.jit.script(model)


def test_a_module_by_itself_and_its_relatives() -> None:
    class Special(torch.nn.RNN):
        pass

    assert type(bptt.convert(torch.nn.RNN(2, 3))) is bptt.nn.RNN
    with pytest.warns(UserWarning, match="nothing was converted"):
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
