"""The tape against autograd, against the parameters' own gradients, and against files made to deceive."""

import copy
import errno
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from cases import ACTIVATIONS, tolerance
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import bptt
from bptt import InputError, Tape, record, recording
from bptt.engine.contract import Layout
from bptt.nn import RNN, Elman, Jordan, Recurrent
from bptt.sheet.cells import CELLS as CELLS_BUILT_IN
from bptt.tape import contents, player, tapefile
from bptt.tape.check import Report, Residual
from bptt.train import forcing

LOSSES = ["cross_entropy", "binary_cross_entropy", "squared_error"]
ACTIVATIONS_BY_NAME = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a * 1}
NAMES = ["W_xh", "W_hh", "b_h", "W_ho", "b_o"]


@pytest.fixture(params=["reference", "native"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with bptt.using(request.param):
        yield request.param


class Last(torch.nn.Module):
    """Many-to-one with every comfort of torch: batch first, two layers, two directions, dropout, a running mean."""

    def __init__(
        self, *, bidirectional: bool = False, dropout: float = 0.0, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3, dtype=dtype)
        self.rnn = RNN(3, 4, 2, bidirectional=bidirectional, batch_first=True, dropout=dropout, dtype=dtype)
        self.head = torch.nn.Linear(8 if bidirectional else 4, 2, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.norm(x.mT).mT)
        return self.head(output[:, -1])


def targets_for(loss: str, o: Tensor) -> Tensor:
    if loss == "cross_entropy":
        return torch.randint(o.shape[-1], o.shape[:-1])
    return torch.rand_like(o).round() if loss == "binary_cross_entropy" else torch.randn_like(o)


def example(loss: str = "cross_entropy", **settings: Any) -> tuple[Elman, Tensor, Tensor]:
    settings = {"dtype": torch.float64} | settings
    model = Elman(3, 4, 5, loss=loss, **settings)
    x = torch.randn(6, 2, 3, dtype=settings["dtype"])
    return model, x, targets_for(loss, torch.zeros(6, 2, 5, dtype=settings["dtype"]))


def by_parameter(tape: Tape) -> dict[str, Tensor]:
    """Gradients of the tape under the names and in the layout of a one-layer Elman's parameters."""
    return {
        "rnn.weight_ih_l0": tape.grad("W_xh").mT,
        "rnn.weight_hh_l0": tape.grad("W_hh").mT,
        "rnn.bias_ih_l0": tape.grad("b_h"),
        "rnn.bias_hh_l0": tape.grad("b_h"),
        "readout.weight": tape.grad("W_ho").mT,
        "readout.bias": tape.grad("b_o"),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_record_gives_the_bits_of_the_pass_without_it(engine: str, loss: str, dtype: torch.dtype) -> None:
    model, x, y = example(loss, dtype=dtype)
    o, _ = model(x)
    L = model.loss(o, y)
    L.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(expected) == 6
    tape = record(model, x, y)
    assert tape.o is not None
    assert tape.L is not None
    assert torch.equal(tape.o, o)
    assert torch.equal(tape.L, L)
    for name, gradient in by_parameter(tape).items():
        if name.startswith("rnn"):
            assert torch.equal(gradient, expected[name])
    for name, gradient in by_parameter(tape).items():
        torch.testing.assert_close(gradient, expected[name], **tolerance(dtype))
    assert tape.versions["engine"] == engine


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recording_changes_no_bit_of_a_training_step(engine: str, bidirectional: bool) -> None:
    model = Last(bidirectional=bidirectional, dropout=0.5)
    x, y = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 2, dtype=torch.float64)

    def step(model: Last) -> list[Tensor | None]:
        torch.manual_seed(1)
        x.grad = None
        o = model(x)
        (o - y).square().sum().backward()
        return [o, x.grad, *(parameter.grad for parameter in model.parameters()), *model.buffers()]

    expected = step(copy.deepcopy(model))
    with recording() as tapes:
        seen = step(model)
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)
    assert [tape.complete for tape in tapes] == [True]
    assert tapes[0].check().ok


def test_record_leaves_no_trace() -> None:
    model = Last(dropout=0.5).train()
    x, y = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 2, dtype=torch.float64)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        tape = record(model, x, y, loss="squared_error")
    assert tape.complete
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    assert all(bool((gradient == 1).all()) for gradient in gradients)
    assert x.grad is None
    assert model.training


def test_frozen_parameters_do_not_hide_the_gradients_of_the_states() -> None:
    model, x, y = example()
    expected = record(model, x, y)
    tape = record(model.requires_grad_(False), x, y)
    assert torch.equal(tape.dh, expected.dh)
    assert torch.equal(tape.grad("W_hh"), expected.grad("W_hh"))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("nonlinearity", ACTIVATIONS)
def test_fields_against_a_plain_loop_of_torch(nonlinearity: str, loss: str) -> None:
    model, x, y = example(loss, nonlinearity=nonlinearity)
    h0, w = torch.randn(1, 2, 4, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    tape = record(model, x, y, h0=h0, weights=w)
    phi = ACTIVATIONS_BY_NAME[nonlinearity]
    W_ih, W_hh, b_ih, b_hh = (parameter.detach() for parameter in model.rnn.parameters())
    x, h = x.clone().requires_grad_(), h0[0].clone().requires_grad_()
    kept: dict[str, list[Tensor]] = {"a": [], "h": [], "o": [], "direct": []}
    start, L = h, torch.zeros((), dtype=torch.float64)
    for t in range(6):
        a = x[t] @ W_ih.mT + b_ih + b_hh + h @ W_hh.mT
        h = phi(a)
        seen_by_the_output = h.clone()
        o = seen_by_the_output @ model.readout.weight.mT + model.readout.bias
        for name, value in (("a", a), ("h", h), ("o", o), ("direct", seen_by_the_output)):
            value.retain_grad()
            kept[name].append(value)
        L = L + w[t] * bptt.losses.pair(loss).per_row(o, y[t]).sum()
    L.backward()

    def gradient(name: str) -> Tensor:
        return torch.stack([value.grad for value in kept[name] if value.grad is not None])

    pairs = {
        "a": torch.stack(kept["a"]), "h": torch.stack(kept["h"]), "o": torch.stack(kept["o"]), "x": x, "L": L,
        "do": gradient("o"), "da": gradient("a"), "dh": gradient("h"), "dh_direct": gradient("direct"),
        "dx": x.grad, "dh0": start.grad, "h0": h0[0],
        "y_hat": bptt.losses.output(loss, torch.stack(kept["o"])),
        "loss": bptt.losses.pair(loss).per_row(torch.stack(kept["o"]), y),
    }  # fmt: skip
    for name, expected in pairs.items():
        torch.testing.assert_close(
            getattr(tape, name), expected, **tolerance(torch.float64), msg=lambda m, n=name: f"{n}: {m}"
        )
    assert not torch.allclose(tape.dh, tape.dh_direct)
    assert tape.check().ok


def test_retain_grad_on_the_output_is_the_direct_part_only() -> None:
    model, x, y = example()
    with recording() as tapes:
        h, _ = model.rnn(x)
        h.retain_grad()
        model.loss(model.readout(h), y).backward()
    assert h.grad is not None
    assert torch.equal(tapes[0].dh_direct, h.grad)
    assert torch.equal(tapes[0].dh[-1], h.grad[-1])
    assert not torch.allclose(tapes[0].dh[:-1], h.grad[:-1])


@pytest.mark.parametrize("x_is", ["numbers", "tokens"])
@pytest.mark.parametrize("name", NAMES)
def test_shares_of_the_steps_sum_to_the_gradient(name: str, x_is: str) -> None:
    model, x, y = example()
    tape = record(model, x if x_is == "numbers" else torch.randint(3, (6, 2)), y)
    shares = torch.stack([tape.grad(name, step=step) for step in range(6)])
    torch.testing.assert_close(shares.sum(0), tape.grad(name), **tolerance(torch.float64))
    assert torch.equal(tape.grad(name, step=-1), shares[5])
    if name.startswith("W"):
        assert torch.linalg.matrix_rank(shares).max() <= 2, "two rows in the batch, so rank two at most"
    with pytest.raises(IndexError, match=r"step must lie in \[-6, 6\); got 6"):
        tape.grad(name, step=6)


def test_shares_name_their_own_step() -> None:
    model, x, y = example()
    tape = record(model, x, y)
    torch.testing.assert_close(tape.grad("W_hh", step=3), tape.h[2].mT @ tape.da[3], **tolerance(torch.float64))
    torch.testing.assert_close(tape.grad("W_hh", step=0), tape.h0.mT @ tape.da[0], **tolerance(torch.float64))


def test_many_to_one_feeds_the_output_layer_from_the_last_step_only() -> None:
    model = Last()
    x, y = torch.randn(5, 6, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    tape = record(model, x, y, loss="squared_error")
    assert tape.o is not None
    assert tape.do is not None
    assert tape.w is not None
    assert tape.o.shape == (1, 5, 2)
    assert tape.do[:-1].count_nonzero() == 0
    assert tape.w.sum(1).tolist() == pytest.approx([0, 0, 0, 0, 0, 1], rel=1e-15)
    assert torch.equal(tape.grad("W_ho", step=5), tape.grad("W_ho"))
    assert tape.grad("W_ho", step=4).count_nonzero() == 0
    assert tape.check().ok


class Shaped(torch.nn.Module):
    """An RNN and its output layer, with the states handed over in one of the ways people write."""

    def __init__(self, way: str, batch_first: bool = False) -> None:
        super().__init__()
        self.way = way
        self.rnn = RNN(3, 4, batch_first=batch_first, dtype=torch.float64)
        self.head = torch.nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        output, h_n = self.rnn(x)
        match self.way:
            case "flat":
                return self.head(output.reshape(-1, 4))
            case "flat and back":
                return self.head(output.reshape(-1, 4)).view(*output.shape[:-1], 5)
            case "last state":
                return self.head(h_n[-1])
            case "last state of all layers":
                return self.head(h_n)
            case "a copy":
                return self.head(output.clone())
        return self.head(output)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("way", ["plain", "flat", "flat and back", "last state", "last state of all layers", "a copy"])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_output_layer_is_found_in_every_shape(way: str, batch_first: bool, steps: int) -> None:
    model = Shaped(way, batch_first)
    x = torch.randn(2, steps, 3, dtype=torch.float64)
    x = x if batch_first else x.transpose(0, 1)
    with torch.no_grad():
        expected, _ = model.rnn(x)
        expected = model.head(expected.transpose(0, 1) if batch_first else expected)
        o = model(x)
    tape = record(model, x, torch.randint(5, o.shape[:-1]), loss="cross_entropy")
    assert tape.W_ho is not None
    assert tape.o is not None
    torch.testing.assert_close(tape.o, expected[-len(tape.o) :], **tolerance(torch.float64))
    assert len(tape.o) == (1 if way.startswith("last") else steps)
    assert tape.check().ok


def test_a_scaled_gradient_is_checked_but_not_by_differences() -> None:
    text = "h_t = tanh(x_t W_xh + scale_gradient(h_{t-1}, 0.5) W_hh)"
    layer, x = Recurrent(text, 3, 4, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    plain = Recurrent(text.replace("scale_gradient(h_{t-1}, 0.5)", "h_{t-1}"), 3, 4, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    tapes = []
    for each in (layer, plain):
        with recording() as made:
            each(x)[0][-1].sum().backward()
        tapes += made
    assert torch.equal(tapes[0].h, tapes[1].h)
    shares = 0.5 ** torch.arange(5, -1, -1, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(tapes[0].dh, shares * tapes[1].dh, **tolerance(torch.float64))
    report = tapes[0].check()
    assert report.ok
    assert "no central differences: scale_gradient changes the way back" in str(report)
    assert not any(residual.tag == "central differences" for residual in report.residuals)


def test_unbatched_input_has_a_batch_of_one() -> None:
    model = Shaped("plain")
    tape = record(model, torch.randn(6, 3, dtype=torch.float64), torch.randint(5, (6,)), loss="cross_entropy")
    assert tape.h.shape == (6, 1, 4)
    assert tape.check().ok


def test_stacked_and_bidirectional_layers_are_each_recorded() -> None:
    model = Last(bidirectional=True)
    tape = record(
        model, torch.randn(5, 6, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64), loss="squared_error"
    )
    assert [(layer.layer, layer.reverse) for layer in tape.layers] == [(0, False), (0, True), (1, False), (1, True)]
    assert tape.h.shape == (6, 5, 8)
    assert tape.layer(0, "reverse").x.shape == (6, 5, 3)
    assert torch.equal(tape.layer(1, "forward").x[..., 4:], tape.layer(0, "reverse").h)
    assert tape.grad("W_xh", layer=0, direction="reverse").shape == (3, 4)
    report = tape.check()
    assert report.ok, report
    with pytest.raises(ValueError, match="say direction='forward' or direction='reverse'"):
        tape.grad("W_hh")
    with pytest.raises(IndexError, match=r"layer must lie in \[-2, 2\); got 2"):
        tape.layer(2, "forward")


class Packed(torch.nn.Module):
    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.rnn = RNN(3, 4, 2, bidirectional=bidirectional, dtype=torch.float64)
        self.head = torch.nn.Linear(8 if bidirectional else 4, 5, dtype=torch.float64)

    def forward(self, x: torch.nn.utils.rnn.PackedSequence) -> Tensor:
        return self.head(self.rnn(x)[0].data)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_batches_hold_their_real_steps(bidirectional: bool, tmp_path: Path) -> None:
    x = pack_sequence([torch.randn(length, 3, dtype=torch.float64) for length in (4, 4, 2, 1)])
    model = Packed(bidirectional)
    tape = record(model, x, torch.randint(5, (11,)), loss="cross_entropy")
    assert tape.h.shape == (11, 8 if bidirectional else 4)
    report = tape.check()
    assert report.ok, report
    direction = "reverse" if bidirectional else None
    shares = [tape.grad("W_hh", layer=0, direction=direction, step=step) for step in range(4)]
    torch.testing.assert_close(sum(shares), tape.grad("W_hh", layer=0, direction=direction), **tolerance(torch.float64))
    tape.save(tmp_path / "packed.tape")
    assert Tape.load(tmp_path / "packed.tape").check().ok


def test_an_unknown_output_layer_is_explained() -> None:
    class Squashed(Shaped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).tanh()

    tape = record(
        Squashed("plain"), torch.randn(6, 2, 3, dtype=torch.float64), torch.randint(5, (6, 2)), loss="cross_entropy"
    )
    assert tape.W_ho is None
    assert tape.do is not None
    assert tape.y_hat is not None
    assert tape.targets is not None
    one_hot = torch.nn.functional.one_hot(tape.targets, 5)
    torch.testing.assert_close(tape.do, (tape.y_hat - one_hot) / 12, **tolerance(torch.float64))
    with pytest.raises(ValueError, match=r"the model's output is not what the torch.nn.Linear"):
        tape.grad("W_ho")
    assert tape.check().ok


def test_recording_several_calls_and_two_readers() -> None:
    model = Shaped("plain")
    other = torch.nn.Linear(4, 1, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    with recording() as tapes:
        first = model(x)
        output, _ = model.rnn(x)
        second = model.head(output).sum() + other(output).sum()
    assert repr(tapes[0]).endswith("no backward pass yet)")
    with pytest.raises(RuntimeError, match="no backward pass has reached it"):
        _ = tapes[0].dh
    (first.sum() + second).backward()
    assert [tape.complete for tape in tapes] == [True, True]
    assert tapes[0].do is not None
    assert torch.equal(tapes[0].do, torch.ones_like(tapes[0].do))
    assert tapes[1].W_ho is None
    assert tapes[1].readout_missing.startswith("several")
    assert all(tape.check().ok for tape in tapes)


def test_recording_sees_the_gradients_of_a_pass_that_builds_a_graph() -> None:
    model, x, y = example()
    expected = record(model, x, y)
    with recording() as tapes:
        o, _ = model(x)
        L = model.loss(o, y)
    torch.autograd.grad(L, list(model.parameters()), create_graph=True)
    assert torch.equal(tapes[0].da, expected.da)


def test_cells_are_recorded_one_step_each() -> None:
    cell = bptt.nn.RNNCell(3, 4, dtype=torch.float64)
    h = torch.zeros(2, 4, dtype=torch.float64)
    with recording() as tapes:
        for x in torch.randn(5, 2, 3, dtype=torch.float64):
            h = cell(x, h)
    h.sum().backward()
    assert len(tapes) == 5
    assert torch.equal(tapes[3].h, tapes[4].h0[None])
    assert torch.equal(tapes[3].dh[0], tapes[4].dh0)


CELLS = {
    "leak": lambda: RNN(3, 4, leak=0.5, dtype=torch.float64),
    "norm": lambda: RNN(3, 4, norm="layer", dtype=torch.float64),
    "all options": lambda: RNN(3, 4, leak=0.5, residual=True, norm="layer", recurrent_dropout=0.5, dtype=torch.float64),
    "lstm": lambda: Recurrent("lstm", 3, 4, dtype=torch.float64),
    "gru": lambda: Recurrent("gru", 3, 4, 2, bidirectional=True, dtype=torch.float64),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_tapes_of_every_cell_hold_its_numbers_by_name(kind: str, packed: bool) -> None:
    rnn = CELLS[kind]()
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 3])) if packed else x

    def step() -> list[Tensor]:
        torch.manual_seed(1)
        rnn.zero_grad()
        output = rnn(given)[0]
        output = output.data if packed else output
        output.square().sum().backward()
        return [output, *(parameter.grad for parameter in rnn.parameters() if parameter.grad is not None)]

    expected = step()
    with recording() as tapes:
        seen = step()
    assert all(map(torch.equal, seen, expected))
    (tape,) = tapes
    assert tape.complete
    assert torch.equal(tape.h, expected[0])
    top = tape.layers[-1]
    assert torch.equal(top[top.output], top.h)
    assert top.d(top.output) is top.dh
    for line in top.cell.derivation.steps:
        total = top.d(line.name)
        assert total is not None
        assert total.shape == top[line.name].shape
    with pytest.raises(KeyError, match=r"this cell has .*, x; got 'none'"):
        top["none"]
    layout = Layout.of(top.cell, as_torch=isinstance(rnn, RNN))
    suffix = f"_l{rnn.num_layers - 1}{'_reverse' * rnn.bidirectional}"
    for name, parts in layout.made_of.items():
        for part in parts:
            found, parameter = top.d_weights[name], getattr(rnn, layout.names[part.tensor] + suffix)
            assert parameter.grad is not None
            assert torch.equal(layout.turned(found), part.of(parameter.grad)), name
            tensors = [part.of(getattr(rnn, layout.names[part.tensor] + suffix).detach()) for part in parts]
            value = sum(map(layout.turned, tensors))
            assert torch.equal(top.weights[name], torch.as_tensor(value)), name
    with recording() as judged, bptt.using("reference"):
        step()
    for own, judge in zip(tape.layers, judged[0].layers, strict=True):
        for found, wanted in ((own.values, judge.values), (own.totals, judge.totals), (own.d_first, judge.d_first)):
            assert found.keys() == wanted.keys()
            for name, value in found.items():
                torch.testing.assert_close(value, wanted[name], **tolerance(torch.float64))


@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_a_tape_keeps_further_inputs_as_they_were() -> None:
    rnn = Recurrent("k : input\nh_t = tanh(x_t W_xh + k_t ⊙ h_{t-1})", 3, 4)
    k = torch.rand(5, 2, 1)
    before = k.clone()
    with recording() as tapes:
        rnn(torch.randn(5, 2, 3), inputs={"k": k})
    k.zero_()
    assert torch.equal(tapes[0].layers[0].weights["k"], before)


class Read(torch.nn.Module):
    """Layers of any cell with a readout at every step."""

    def __init__(self, cell: str, dtype: torch.dtype = torch.float64, **options: Any) -> None:
        super().__init__()
        self.rnn = Recurrent(cell, 3, 4, dtype=dtype, **options)
        self.head = torch.nn.Linear(4 * (2 if self.rnn.bidirectional else 1), 5, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


TWO_MEMORIES = """
decay : constant = 0.9
f_t = σ(x_t W_xf + h_{t-1} W_hf + b_f)
z_t = tanh(x_t W_xz + h_{t-1} W_hz + b_z)
c_t = f_t ⊙ c_{t-1} + (1 − f_t) ⊙ z_t
s_t = decay ⊙ s_{t-1} + (1 − decay) ⊙ c_t
h_t = (softplus(c_t) ⊙ tanh(c_t + s_t)) / (1 + s_t²)
"""
WITHOUT_TIME = """
gamma : constant = 0.1
M = W_hh − W_hh^T − gamma ⊙ I
s = σ(b_s)
q = 2 ⊙ s
r = q ⊙ s
v = s W_hh + norm(b_s)
a_t = x_t W_xh + h_{t-1} M + r ⊙ (h_{t-1} W_hh) + b_s + v
h_t = h_{t-1} + s ⊙ tanh(a_t)
"""
OF_ALL_KINDS = {**CELLS_BUILT_IN, "two memories": TWO_MEMORIES, "lines without a time": WITHOUT_TIME}


def tape_of(kind: str, dtype: torch.dtype = torch.float64, **options: Any) -> Tape:
    x, y = torch.randn(5, 2, 3, dtype=dtype), torch.randint(5, (5, 2))
    cell = kind if kind in CELLS_BUILT_IN else OF_ALL_KINDS[kind]
    return record(Read(cell, dtype, **options), x, y, loss="cross_entropy")


@pytest.mark.parametrize("kind", OF_ALL_KINDS)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_every_cell_has_a_checked_tape_and_a_file(kind: str, stacked: bool, tmp_path: Path) -> None:
    tape = tape_of(kind, **({"num_layers": 2, "bidirectional": True} if stacked else {}))
    report = tape.check()
    assert report.ok, report
    assert {"autograd", "central differences", "A2", "A3", "B6", "B7", "B11"} <= report.worst.keys()
    tape.save(tmp_path / "run.tape")
    loaded = Tape.load(tmp_path / "run.tape")
    assert loaded.check().ok
    assert repr(loaded) == repr(tape)
    assert_same_arrays(tape, loaded)


@pytest.mark.parametrize("options", [{"leak": 0.3}, {"norm": "layer"}, {"residual": True}, {"recurrent_dropout": 0.5}])
def test_options_have_a_checked_tape_and_a_file(options: dict[str, Any], tmp_path: Path) -> None:
    rnn = RNN(3, 4, dtype=torch.float64, **options)
    with recording() as tapes:
        rnn(torch.randn(6, 2, 3, dtype=torch.float64))[0].square().sum().backward()
    assert tapes[0].check().ok
    tapes[0].save(tmp_path / "run.tape")
    assert Tape.load(tmp_path / "run.tape").check().ok


@pytest.mark.parametrize("has_resets", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["elman", "lstm"])
@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_padded_batches_with_lengths(kind: str, batch_first: bool, has_resets: bool, tmp_path: Path) -> None:
    lengths = torch.tensor([2, 6, 4])
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[0, 0] = reset[2, 1] = reset[5, 1] = reset[3, 2] = True
    laid_out = (lambda d: d.transpose(0, 1)) if batch_first else (lambda d: d)

    class Padded(Read):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x, lengths=lengths, reset=laid_out(reset) if has_resets else None)[0])

    model = Padded(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, y = torch.randn(6, 3, 3, dtype=torch.float64), torch.randint(5, (6, 3))
    tape = record(model, laid_out(x), laid_out(y), loss="cross_entropy")
    expected = model.rnn(laid_out(x), lengths=lengths, reset=laid_out(reset) if has_resets else None)[0]
    assert torch.equal(tape.h, laid_out(expected))
    assert torch.equal(tape["x"][:2], x[:2])
    assert tape.steps == 6
    assert tape.batch == 3
    real = torch.arange(6)[:, None] < lengths
    for array in (tape["h"], tape.d("h"), tape.direct("h"), tape.d("x")):
        assert array.shape[:2] == (6, 3)
        assert not array[~real].any()
        assert array[real].all()
    report = tape.check()
    assert report.ok, report
    assert {"A5", "B3", "B6", "autograd", "central differences"} <= report.worst.keys()
    loss = torch.nn.functional.cross_entropy(model(laid_out(x)).flatten(0, 1), laid_out(y).flatten())
    loss.backward()
    for name, parameter in model.rnn.named_parameters():
        torch.testing.assert_close(tape.grad(name), parameter.grad, **tolerance(torch.float64))
        shares = sum(tape.grad(name, step=step) for step in range(6))
        torch.testing.assert_close(shares, parameter.grad, **tolerance(torch.float64))
    assert model.head.weight.grad is not None
    torch.testing.assert_close(tape.grad("W_ho").mT, model.head.weight.grad, **tolerance(torch.float64))
    tape.save(tmp_path / "run.tape")
    loaded = Tape.load(tmp_path / "run.tape")
    assert loaded.check().ok
    assert_same_arrays(tape, loaded)
    assert torch.equal(loaded.h, tape.h)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_jordan_networks_forced_and_free(loss: str, both: bool) -> None:
    network = Jordan(3, 4, 5, loss=loss, hidden_recurrence=both, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    y = targets_for(loss, torch.zeros(6, 2, 5, dtype=torch.float64))
    tape = record(network, x, y)
    report = tape.check()
    assert report.ok, report
    assert torch.equal(tape["f"][:-1], network.as_fed(y)[:-1]), "what follows the last step is not fed"

    def compared(gradients: Callable[[str], Tensor]) -> None:
        for name, parameter in network.rnn.named_parameters():
            torch.testing.assert_close(gradients(name), parameter.grad, **tolerance(torch.float64))

    network.loss(network(x, y)[0], y).backward()
    compared(tape.grad)
    network.zero_grad()
    with recording() as tapes:
        network.loss(forcing.free_run(network, x)[0], y).backward()
    assert len(tapes) == 6, "one for each step"
    assert all(of_step.check().ok for of_step in tapes)
    compared(lambda name: torch.stack([of_step.grad(name) for of_step in tapes]).sum(0))


def test_jagged_tensors_are_refused() -> None:
    jagged = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
    with recording(), pytest.raises(InputError, match=r"a tape holds padded batches, .* got a jagged nested tensor\."):
        RNN(3, 4, batch_first=True)(jagged)


def test_the_page_of_a_padded_batch_shows_its_real_steps(tmp_path: Path) -> None:
    class Padded(Read):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x, lengths=torch.tensor([2, 6, 4]))[0])

    x, y = torch.randn(6, 3, 3, dtype=torch.float64), torch.randint(5, (6, 3))
    tape = record(Padded("elman"), x, y, loss="cross_entropy")
    assert tape.o is not None
    for row, length in enumerate((2, 6, 4)):
        shown = player.data(tape, row=row)
        assert torch.equal(torch.from_numpy(shown["arrays"]["o"]), tape.o[:length, row])
        assert shown["padded"] == {"row": row, "rows": 3, "sequence": 0, "sequences": 1, "start": 0}
    tape.page(tmp_path / "run.html")


def test_the_page_of_a_batch_with_resets_shows_a_sequence_of_a_row() -> None:
    class Cut(Read):
        def forward(self, x: Tensor) -> Tensor:
            reset = torch.zeros(7, 3, dtype=torch.bool)
            reset[4, 1] = reset[5, 1] = True
            return self.head(self.rnn(x, lengths=torch.tensor([2, 7, 0]), reset=reset)[0])

    tape = record(
        Cut("elman"), torch.randn(7, 3, 3, dtype=torch.float64), torch.randint(5, (7, 3)), loss="cross_entropy"
    )
    for sequence, (start, stop) in enumerate(((0, 4), (4, 5), (5, 7))):
        shown = player.data(tape, row=(1, sequence))
        np.testing.assert_array_equal(shown["arrays"]["layers.0.forward.h"], tape.h[start:stop, 1])
        np.testing.assert_array_equal(shown["arrays"]["o"], tape["o"][start:stop, 1])
        assert shown["padded"] == {"row": 1, "rows": 3, "sequence": sequence, "sequences": 3, "start": start}
    assert player.data(tape, row=0)["total"] == player.data(tape, row=(0, 0))["total"] == 2
    for row, message in (
        (1, r"which sequence .*; got 1, which has 3\. Say row=\(1, 0\) for the first, \(1, 2\) for the last\."),
        (2, r"row must be one that has steps; got 2, which has none\. Choose one of 0, 1\."),
        ((1, 3), r"must have a sequence of that row, 0 to 2; got \(1, 3\)\."),
        ((0, -1), r"must have a sequence of that row, 0 to 0; got \(0, -1\)\."),
        ((3, 0), r"row must be one of the batch, 0 to 2; got \(3, 0\)\."),
    ):
        with pytest.raises(InputError, match=message):
            player.data(tape, row=row)


@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_numbers_are_asked_by_their_names() -> None:
    tape = tape_of("lstm")
    (own,) = tape.layers
    assert torch.equal(tape["c"], own.values["c"])
    assert torch.equal(tape.d("c"), own.totals["c"])
    assert torch.equal(tape.direct("h"), own.from_outside["h"])
    assert torch.equal(tape.direct("c"), torch.zeros_like(tape["c"]))
    assert torch.equal(tape["W_hf"], own.weights["W_hf"])
    assert torch.equal(tape.d("W_hf"), own.d_weights["W_hf"])
    assert torch.equal(tape.grad("W_hf"), own.d_weights["W_hf"])
    torch.testing.assert_close(tape.grad("W_hf", step=3), tape.h[2].mT @ tape.d("af")[3], **tolerance(torch.float64))
    torch.testing.assert_close(tape.grad("b_f", step=3), tape.d("af")[3].sum(0), **tolerance(torch.float64))
    assert torch.equal(tape["x"], tape.x)
    assert torch.equal(tape.d("x"), own.dx if own.dx is not None else tape.x)
    assert torch.equal(tape["o"], tape.o if tape.o is not None else tape.x)
    assert torch.equal(tape.d("o"), tape.do if tape.do is not None else tape.x)
    assert torch.equal(own.dc, own.totals["c"])
    assert torch.equal(own.W_hf, own.weights["W_hf"])


@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_names_with_a_layer_and_a_direction() -> None:
    tape = tape_of("lstm", num_layers=2, bidirectional=True)
    assert torch.equal(tape["c"], torch.cat([tape.layers[2]["c"], tape.layers[3]["c"]], -1))
    assert torch.equal(tape["c_l0"], tape.layers[0]["c"])
    assert torch.equal(tape["c_l0_reverse"], tape.layers[1]["c"])
    assert torch.equal(tape.d("W_hf_l1_reverse"), tape.layers[3].d_weights["W_hf"])
    assert torch.equal(tape.grad("W_hf_l1_reverse"), tape.grad("W_hf", layer=1, direction="reverse"))
    assert torch.equal(tape.grad("W_hf_l0", step=2), tape.grad("W_hf", layer=0, direction="forward", step=2))
    with pytest.raises(ValueError, match="say direction='forward' or direction='reverse'"):
        tape["W_hf"]
    with pytest.raises(KeyError, match=r"the layers of this tape are 0 to 1; got 'c_l2'"):
        tape["c_l2"]


@pytest.mark.parametrize("names", [["W_xh", "W_hh", "b_s"], ["W_hh"], []])
@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_gradients_go_through_lines_without_a_time(names: list[str]) -> None:
    """A weight that such lines and the steps read has one gradient: what autograd gives it, whoever asked for one."""
    rnn = Recurrent(WITHOUT_TIME, 3, 4, num_layers=2, dtype=torch.float64)
    for name, parameter in rnn.named_parameters():
        parameter.requires_grad_(name[:-3] in names)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    with recording() as tapes:
        rnn(x)[0].square().sum().backward()
    (tape,) = tapes
    assert tape.check().ok
    for name in names:
        for k in range(2):
            found, steps = tape.grad(f"{name}_l{k}"), [tape.grad(f"{name}_l{k}", step=t) for t in range(5)]
            torch.testing.assert_close(found, rnn.get_parameter(f"{name}_l{k}").grad, **tolerance(torch.float64))
            torch.testing.assert_close(torch.stack(steps).sum(0), found, **tolerance(torch.float64))
            assert torch.equal(tape.d(f"{name}_l{k}"), found)
            assert torch.equal(tape[f"{name}_l{k}"], rnn.get_parameter(f"{name}_l{k}"))
    for line in ("M", "s", "q", "r", "v"):
        assert tape[f"{line}_l1"].shape == tape.grad(f"{line}_l1").shape
        assert tape.grad(f"{line}_l1").any()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("rnn", [bptt.nn.LSTM, bptt.nn.GRU, RNN], ids=lambda rnn: rnn.__name__)
def test_first_states_and_inputs_of_layers_lie_as_the_batch_does(rnn: type[Any], bidirectional: bool) -> None:
    model = rnn(2, 3, 2, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(7, 3, 2, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(2 * (1 + bidirectional), 3, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(7, 3, dtype=torch.bool)
    reset[3, 2] = reset[5, 2] = True
    for options in ({"lengths": [2, 7, 4]}, {"reset": reset}, {"lengths": [3, 2, 6], "reset": reset}):
        h0.grad = None
        with recording() as tapes:
            model(x, (h0, h0.detach()) if rnn is bptt.nn.LSTM else h0, **options)[0].square().sum().backward()
        (tape,) = tapes
        assert h0.grad is not None
        last = slice(-2, None) if bidirectional else slice(-1, None)
        torch.testing.assert_close(tape.h0, torch.cat(list(h0.detach()[last]), -1), rtol=0, atol=0)
        torch.testing.assert_close(tape.dh0, torch.cat(list(h0.grad[last]), -1), rtol=0, atol=0)
        way = "_reverse" if bidirectional else ""
        below = torch.cat([tape["h_l0"], tape["h_l0_reverse"]] if bidirectional else [tape["h_l0"]], -1)
        assert torch.equal(tape[f"x_l0{way}"], tape.x)
        assert torch.equal(tape[f"x_l1{way}"], below)
        assert tape.check().ok
    with recording() as tapes:
        model(x, lengths=[2, 0, 7])
    with pytest.raises(ValueError, match=r"row 1 has no steps, so no layer began with its state"):
        _ = tapes[0].h0


def test_names_that_are_none() -> None:
    with recording() as tapes:
        bptt.nn.LSTM(2, 3)(torch.randn(4, 1, 2))[0].sum().backward()
    (tape,) = tapes
    for name, near in [("C", "c"), ("h_t", "h"), ("∂h", "h"), ("c_{t-1}", "c"), ("W_hff", "W_hf"), ("dc", "c")]:
        with pytest.raises(KeyError, match=rf"got '{re.escape(name)}'\. Did you mean {near}\?"):
            tape[name]
    assert "c" in tape
    assert "W_hf_l0" in tape
    assert "weight_hh_l0" in tape
    assert "C" not in tape
    assert 0 not in tape
    assert (tape["weight_ih_l0"].shape, tape.grad("weight_hh_l0").shape) == ((12, 2), (12, 3))
    for odd in (0, None, ("h", 1)):
        with pytest.raises(TypeError, match=r"takes a name, such as 'h', and tape\['h'\]\[0\] a step of it"):
            tape[odd]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="not iterable"):
        list(tape)  # pyright: ignore[reportArgumentType]
    for odd in (1.5, "3", True):
        with pytest.raises(TypeError, match="step is an integer, an index into the arrays of the tape"):
            tape.grad("W_hf", step=odd)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"bptt\.Tape\.load\(path\) reads one; got 'x.tape'"):
        Tape("x.tape")  # pyright: ignore[reportArgumentType]
    assert repr(tape.layers[0]) == "Record(layer=0, 'lstm', T=4, B=1, H=3)"


def test_a_cell_with_the_letters_of_the_plain_one_elsewhere() -> None:
    rnn = Recurrent("h_t = tanh(x_t W_hh + h_{t-1} W_xh)", 3, 3)
    with recording() as tapes:
        rnn(torch.randn(4, 2, 3))[0].square().sum().backward()
    for name in ("W_hh", "W_xh"):
        torch.testing.assert_close(tapes[0].grad(name), rnn.get_parameter(f"{name}_l0").grad, rtol=0, atol=0)


@pytest.mark.parametrize("sizes", [[4, 5], [5, 4]])
def test_layers_of_different_sizes_in_both_directions_are_checked(sizes: list[int]) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = bptt.nn.LSTM(3, sizes, bidirectional=True, dtype=torch.float64)
            self.head = torch.nn.Linear(2 * sizes[-1], 5, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layers(x)[0])

    tape = record(Tagger(), torch.randn(6, 2, 3, dtype=torch.float64), torch.randint(5, (6, 2)), loss="cross_entropy")
    report = tape.check()
    assert report.ok, report


def test_torch_has_no_tensors_of_other_cells() -> None:
    for cell in ("mgu", "f_t = σ(x_t W_xf + h_{t-1} W_hf)\nr_t = σ(x_t W_xr)\nh_t = f_t ⊙ h_{t-1} + r_t"):
        with recording() as tapes:
            Recurrent(cell, 3, 4)(torch.randn(5, 2, 3))[0].sum().backward()
        with pytest.raises(KeyError, match="weight_ih"):
            tapes[0]["weight_ih_l0"]


def test_a_vocabulary_has_a_symbol_for_each_token() -> None:
    model, x = Elman(6, 4, 6, loss="cross_entropy"), torch.tensor([[0], [5]])
    assert record(model, x, x, vocabulary=list("abcdef")).readout_missing == ""
    with pytest.raises(ValueError, match="got 3 symbols, and x holds token 5"):
        record(model, x, x, vocabulary=list("abc"))


@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_masks_have_no_gradient() -> None:
    with recording() as tapes:
        Recurrent("h_t = tanh(x_t W_xh + drop(h_{t-1}) W_hh)", 3, 4, recurrent_dropout=0.5)(torch.randn(5, 2, 3))
    (tape,) = tapes
    (mask,) = set(tape.layers[0].weights) - {"W_xh", "W_hh"}
    assert tape[mask].shape == (2, 4)
    with pytest.raises(ValueError, match=rf"gradients are those of W_xh, W_hh, W_ho, b_o; got '{mask}'"):
        tape.d(mask)


def test_names_of_torch() -> None:
    model, x, y = example()
    tape = record(model, x, y)
    assert torch.equal(tape["weight_hh_l0"], model.rnn.get_parameter("weight_hh_l0"))
    assert torch.equal(tape.grad("weight_hh_l0"), tape.grad("W_hh").mT)
    assert torch.equal(tape.grad("weight_ih_l0", step=2), tape.grad("W_xh", step=2).mT)
    assert torch.equal(tape.d("bias_ih_l0"), tape.grad("b_h"))
    with pytest.raises(KeyError, match=r"the sum of the two biases of torch alone: 'b_h'; got 'bias_hh_l0'"):
        tape["bias_hh_l0"]
    with pytest.raises(KeyError, match=r"the layers of this tape are 0 to 0; got 'weight_hh_l1'"):
        tape.grad("weight_hh_l1")


@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_side_b_is_asked_for_before_it_is_there() -> None:
    with recording() as tapes:
        Recurrent("lstm", 3, 4)(torch.randn(6, 2, 3))
    (tape,) = tapes
    for ask in (tape.d, tape.direct):
        with pytest.raises(RuntimeError, match=r"of layer 0 is not known yet: .* call backward\(\) first"):
            ask("c")
    with pytest.raises(RuntimeError, match="the gradient of W_hf in layer 0 is not known yet"):
        tape.grad("W_hf")
    with pytest.raises(ValueError, match=r"from outside of a cell come gradients of h, c; got 'f'"):
        tape.direct("f")


@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_attributes_that_a_tape_lacks_are_pointed_out() -> None:
    with recording() as tapes:
        Recurrent("lstm", 3, 4)(torch.randn(6, 2, 3))[0].sum().backward()
    (tape,) = tapes
    for name, where in (
        ("c", r"tape\['c'\] for it, tape\.d\('c'\) for its gradient"),
        ("df", r"tape\.d\('f'\)"),
        ("W_hf", r"tape\['W_hf'\] for it, tape\.d\('W_hf'\) for its gradient"),
        ("dW_hf", r"tape\.d\('W_hf'\)"),
    ):
        assert not hasattr(tape, name)
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'\. Write {where}\.$"):
            getattr(tape, name)
    assert not hasattr(tape, "a")
    for empty in (tape, Tape(), copy.copy(tape), pickle.loads(pickle.dumps(Tape()))):
        with pytest.raises(AttributeError, match=r"^a tape has no attribute 'nothing'\.$"):
            attrgetter("nothing")(empty)


def test_a_plain_cell_with_names_of_its_own_has_a_whole_tape(tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            text = "z_t = b_c + s_{t-1} W_s + x_t W_u\ns_t = tanh(z_t)\n"
            self.rnn = Recurrent(text, 3, 4, dtype=torch.float64)
            self.head = torch.nn.Linear(4, 5, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    model = Own()
    x, y = torch.randn(6, 2, 3, dtype=torch.float64), torch.randint(5, (6, 2))
    tape = record(model, x, y, loss="cross_entropy")
    assert tape.check().ok
    assert torch.equal(tape.a, tape.layers[0]["z"])
    assert torch.equal(tape.W_hh, model.rnn.get_parameter("W_s_l0"))
    for name, own in (("W_xh", "W_u"), ("W_hh", "W_s"), ("b_h", "b_c")):
        assert torch.equal(tape.grad(name), tape.layers[0].d_weights[own])
        assert torch.equal(tape.grad(own), tape.grad(name))
        assert torch.equal(tape.grad(own, step=2), tape.grad(name, step=2))
    with pytest.raises(ValueError, match=r"gradients are those of b_c, W_s, W_u, W_ho, b_o; got 'W_x'"):
        tape.grad("W_x")
    tape.page(tmp_path / "a.html")
    tape.save(tmp_path / "a.tape")
    loaded = Tape.load(tmp_path / "a.tape")
    assert loaded.check().ok
    assert_same_arrays(tape, loaded)


@pytest.mark.parametrize("checkpoint", [1, 4, "auto"])
def test_a_checkpoint_changes_no_number_of_a_tape(engine: str, checkpoint: int | str) -> None:
    model, x, y = example()
    expected = record(model, x, y)
    model.rnn.checkpoint = checkpoint
    tape = record(model, x, y)
    assert_same_arrays(tape, expected)


@pytest.mark.parametrize("T_B", [(0, 2), (3, 0), (1, 1)])
def test_tapes_of_nothing(T_B: tuple[int, int], tmp_path: Path) -> None:
    T, B = T_B
    model = Elman(3, 4, 5, loss="squared_error", dtype=torch.float64)
    weights = torch.ones(T, B, dtype=torch.float64)
    x, y = torch.randn(T, B, 3, dtype=torch.float64), torch.randn(T, B, 5, dtype=torch.float64)
    tape = record(model, x, y, weights=weights)
    assert tape.check().ok
    tape.save(tmp_path / "a.tape")
    assert Tape.load(tmp_path / "a.tape").check().ok


def assert_same_arrays(tape: Tape, other: Tape) -> None:
    others = arrays_of(other)
    assert arrays_of(tape).keys() == others.keys()
    for name, array in arrays_of(tape).items():
        assert torch.equal(array, others[name]), name


def arrays_of(tape: Tape) -> dict[str, Tensor]:
    found = {name: getattr(tape, name) for name in contents.OUTPUT}
    for layer in tape.layers:
        kinds = {
            "weight": layer.weights, "first": layer.first, "value": layer.values, "total": layer.totals,
            "outside": layer.from_outside, "d_weight": layer.d_weights, "d_first": layer.d_first,
            "learned": layer.learned, "": {"x": layer.x, "dx": layer.dx},
        }  # fmt: skip
        for kind, arrays in kinds.items():
            found |= {f"{layer.layer} {layer.reverse} {kind} {name}": array for name, array in arrays.items()}
    return {name: array for name, array in found.items() if array is not None}


SPOILED = {
    "o": "A5", "y_hat": "A6", "loss": "B1", "L": "B1", "do": "B3", "W_ho": "A5",
    "0 False value a": "A2", "0 False value h": "A3", "0 False first h": "A2", "0 False weight W_hh": "A2",
    "0 False weight W_xh": "A2", "0 False outside h": "B6", "0 False total h": "B6", "0 False total a": "B7",
    "0 False  dx": "B11", "0 False d_first h": "B11", "0 False d_weight W_xh": "B9", "0 False d_weight W_hh": "B10",
    "0 False d_weight b_h": "B8",
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("how", ["a little", "nan"])
def test_check_finds_one_wrong_number(name: str, how: str) -> None:
    model, x, y = example()
    tape = record(model, x, y)
    assert tape.check().ok
    array = arrays_of(tape)[name]
    index = tuple(size // 2 for size in array.shape)
    array[index] += 1e-9 if how == "a little" else float("nan")
    report = tape.check()
    assert not report.ok
    assert not report.worst[SPOILED[name]].ok
    assert " NO " in str(report)


def derived_arrays(tape: Tape) -> Iterator[tuple[str, Tensor]]:
    """Of one layer each array that has an equation, with how that begins."""
    (layer,) = tape.layers
    states = {name: f"∂{name}_{{t-1}}" for name in layer.first}
    yield from ((f"{name}_t = ", array) for name, array in layer.values.items())
    yield from ((f"∂{name}_t = ", array) for name, array in layer.totals.items())
    yield from ((f"∂{name} = ", array) for name, array in layer.d_weights.items())
    fixed = [line.name for line in layer.cell.derivation.fixed]
    yield from ((f"{name} = ", layer.weights[name]) for name in fixed if name in layer.weights)
    for line in layer.cell.side_b:
        for name, symbol in states.items():
            if line.symbol == symbol:
                yield line.text, layer.d_first[name]
    assert layer.dx is not None
    yield "∂x_t = ", layer.dx


@pytest.mark.parametrize("kind", OF_ALL_KINDS)
@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_check_finds_twice_its_bound_in_every_array(kind: str) -> None:
    tape = tape_of(kind, torch.float32)
    assert tape.check().ok
    for begins, array in derived_arrays(tape):

        def own(report: Report, begins: str = begins) -> Residual:
            return next(residual for residual in report.residuals if residual.what.startswith(begins))

        index = tuple(size // 2 for size in array.shape)
        kept = array[index].clone()
        array[index] = kept + 0.01
        far = own(tape.check())
        terms = 0.01 / far.worst
        array[index] = kept + 2 * far.bound * terms
        assert not own(tape.check()).ok, begins
        array[index] = kept
    assert tape.check().ok


def test_a_loaded_tape_survives_its_file(tmp_path: Path) -> None:
    model, x, y = example()
    tape = record(model, x, y)
    tape.save(tmp_path / "run.tape")
    loaded = Tape.load(tmp_path / "run.tape")
    os.truncate(tmp_path / "run.tape", 0)
    assert_same_arrays(tape, loaded)


@pytest.mark.parametrize("name", ["hello", "numbers", "packed"])
def test_tapes_of_schema_1_still_load(name: str, tmp_path: Path) -> None:
    """Files that version 0.1 wrote."""
    tape = Tape.load(Path(__file__).parent / "tapes" / f"{name}.schema1.tape")
    assert tape.check().ok
    assert tape.layers[0].cell.name == "elman"
    tape.save(tmp_path / "again.tape")
    again = Tape.load(tmp_path / "again.tape")
    assert repr(again) == repr(tape)
    assert_same_arrays(tape, again)


def test_check_prints_every_tag_and_both_other_roads() -> None:
    model, x, y = example()
    report = record(model, x, y).check()
    tags = ["A2", "A3", "A5", "A6", "B1", "B3", "B6", "B7", "B8", "B9", "B10", "B11", "autograd", "central differences"]
    assert sorted(report.worst) == sorted(tags)
    assert all(any(line.startswith(f"{tag} ") for line in str(report).splitlines()) for tag in tags)


def test_save_and_load_give_back_every_bit(tmp_path: Path) -> None:
    model = Last(bidirectional=True)
    x, y = torch.randn(5, 6, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    tape = record(model, x, y, loss="squared_error", text="tëxt </script>\U0001f600", vocabulary=["a", "\n"], seed=7)
    path = tmp_path / "run.tape"
    path.write_text("replaced")
    tape.save(path)
    loaded = Tape.load(path)
    assert_same_arrays(tape, loaded)
    for name in ("loss_name", "text", "vocabulary", "seed", "versions", "readout_missing"):
        assert getattr(loaded, name) == getattr(tape, name)
    assert repr(loaded) == repr(tape)
    assert loaded.check().ok
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.tape"]


def test_the_schema_in_the_docs_is_that_of_the_files(tmp_path: Path) -> None:
    model, x, y = example()
    record(model, x, y).save(tmp_path / "run.tape")
    with safetensors.safe_open(tmp_path / "run.tape", framework="pt") as file:
        about = json.loads(file.metadata()[tapefile.KEY])
    schema = json.loads((Path(__file__).parent.parent / "docs" / "tape.schema.json").read_text())
    assert sorted(schema["properties"]) == sorted(schema["required"]) == sorted(about)
    layer = schema["properties"]["layers"]["items"]
    assert sorted(layer["properties"]) == sorted(layer["required"]) == sorted(about["layers"][0])
    assert schema["properties"]["schema"]["const"] == tapefile.SCHEMA == about["schema"]


def written(path: Path, about: Any, arrays: dict[str, Tensor]) -> None:
    text = about if isinstance(about, str) else json.dumps(about)
    path.write_bytes(safetensors.torch.save(arrays, {tapefile.KEY: text}))


def without(name: str, value: Any = None) -> Any:
    """Take a key out of the description, or put another value there."""

    def change(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        if value is None:
            del about[name]
        else:
            about[name] = value

    return change


def array(name: str, value: Tensor | None) -> Any:
    def change(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
            about["arrays"] = sorted(arrays)

    return change


def in_layer(**values: Any) -> Any:
    def change(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        about["layers"][0] |= values

    return change


def only_targets(loss: str | None) -> Any:
    def change(about: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        for name in ("o", "y_hat", "loss", "do", "W_ho", "b_o"):
            del arrays[name]
        about |= {"loss": loss, "arrays": sorted(arrays)}

    return change


HOSTILE = {
    "another schema": (without("schema", 3), "reads tapes of schema 1 to 2; .* has schema 3"),
    "schema as truth": (without("schema", True), "has schema True"),
    "no schema": (without("schema"), "has schema None"),
    "no layers": (without("layers"), "lacks 'layers'"),
    "layers as text": (without("layers", "abc"), "'layers' is not a list of layers"),
    "no layer at all": (without("layers", []), "'layers' is not a list of layers"),
    "names as numbers": (without("arrays", [1, 2]), "'arrays' is not a list of names"),
    "a loss of its own": (without("loss", "hinge"), "its loss is 'hinge'"),
    "a seed that is text": (without("seed", "1"), "its seed is '1'"),
    "a vocabulary of numbers": (without("vocabulary", [1]), "'vocabulary' is not a list of text"),
    "versions as a list": (without("versions", [1]), "'versions' is not an object"),
    "an array less": (array("layers.0.forward.totals.h", None), "arrays are missing: layers.0.forward.totals.h"),
    "padding without places": (without("padded", [6, 2]), "'padded' and the array places belong together"),
    "padding as text": (without("padded", "6, 2"), "'padded' is not the numbers of steps and rows: '6, 2'"),
    "places without padding": (array("places", torch.arange(12)), "'padded' and the array places belong together"),
    "no cells": (without("cells"), "lacks 'cells'"),
    "cells as text": (without("cells", "abc"), "'cells' is not a list of cells"),
    "a cell that is a number": (without("cells", [{"name": "a", "text": 1}]), "a cell is not a text with a name"),
    "a cell that is none": (without("cells", [{"name": "a", "text": "h_t = "}]), "its cell cannot be read: Line 1"),
    "a cell without an end": (without("cells", [{"name": "a", "text": "(" * 200_000}]), "200000 characters, more than"),
    "a cell too deep": (without("cells", [{"name": "a", "text": "h_t = " + "(" * 90_000}]), "its cell cannot be read"),
    "another cell": (
        without("cells", [{"name": "lstm", "text": CELLS_BUILT_IN["lstm"]}]),
        "arrays are missing: .*W_xi",
    ),
    "a cell that is not there": (in_layer(cell=1), "the cell number 1, of 1 cells"),
    "a cell number that is true": (in_layer(cell=False), "the cell number False"),
    "an array nobody knows": (array("layers.9.forward.dh", torch.zeros(1)), "belong to no layer|one floating dtype"),
    "a matrix turned": (array("layers.0.forward.weights.W_xh", torch.zeros(4, 3).double()), "has shape"),
    "a flat x": (array("layers.0.forward.x", torch.zeros(36).double()), r"x has shape \(36,\) where \(T, B, I\)"),
    "one state less": (array("layers.0.forward.values.h", torch.zeros(5, 2, 4).double()), r"where \(6, 2, 4\) belongs"),
    "tokens outside": (array("layers.0.forward.x", torch.full((6, 2), 3)), r"from 3 to 3, outside \[0, I\)"),
    "classes outside": (array("targets", torch.full((6, 2), -1)), r"from -1 to -1, outside \[0, O\)"),
    "states of integers": (array("layers.0.forward.values.a", torch.zeros(6, 2, 4).long()), "a holds torch.int64"),
    "half a tape": (array("o", torch.zeros(6, 2, 5)), "not of one floating dtype"),
    "a direction of its own": (in_layer(direction="up"), "has the direction 'up'"),
    "a function of its own": (
        without("cells", [{"name": "a", "text": "h_t = __import__(x_t W + h_{t-1} U)"}]),
        "its cell cannot be read",
    ),
    "a layer below zero": (in_layer(layer=-1), "not complete and in order"),
    "no batch sizes": (lambda about, arrays: about["layers"][0].pop("batch_sizes"), "a layer lacks 'batch_sizes'"),
    "rising batch sizes": (in_layer(batch_sizes=[1, 2]), "not a falling list"),
    "a loss that is a list": (without("loss", []), r"its loss is \[\]"),
    "a loss that is an object": (without("loss", {}), r"its loss is \{\}"),
    "a cell number that is a list": (in_layer(cell=[]), r"has the cell number \[\]"),
    "a direction that is a list": (in_layer(direction=[]), r"has the direction \[\]"),
    "text that is none": (without("text", "\ud800"), "its description is not JSON .*surrogate"),
    "classes of nothing": (only_targets("cross_entropy"), "below O, and no array says what O is"),
    "targets that no loss reads": (only_targets(None), r"targets has shape \(6, 2\) where \(S, B, O\) belongs"),
    "floats of eight bits": (
        lambda about, arrays: [
            array(name, value.to(torch.float8_e4m3fn))(about, arrays)
            for name, value in arrays.items()
            if value.is_floating_point()
        ],
        "a dtype that a tape does not have: L, W_ho",
    ),
    "whole numbers as x": (array("layers.0.forward.x", torch.zeros(6, 2, 3).long()), r"where \(T, B\) belongs"),
    "class numbers for each output": (array("targets", torch.zeros(6, 2, 3).long()), r"where \(S, B\) belongs"),
    "batch sizes for a dense batch": (in_layer(batch_sizes=[6, 6]), "has shape"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_rule_received_and_fix(case: str, tmp_path: Path) -> None:
    model, x, y = example()
    path = tmp_path / "run.tape"
    record(model, x, y).save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[tapefile.KEY])
        arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    change, message = HOSTILE[case]
    change(about, arrays)
    written(path, about, arrays)
    with pytest.raises(InputError, match=message) as caught:
        Tape.load(path)
    assert str(path) in str(caught.value)
    assert "record it again" in str(caught.value).lower()


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_truncated_files_are_refused(left: int, tmp_path: Path) -> None:
    model, x, y = example()
    path = tmp_path / "run.tape"
    record(model, x, y).save(path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Tape.load(path)


def test_foreign_files_and_places_are_refused(tmp_path: Path) -> None:
    model, x, y = example()
    tape = record(model, x, y)
    with pytest.raises(InputError, match="found nothing at"):
        Tape.load(tmp_path / "none.tape")
    with pytest.raises(InputError, match="found a directory at"):
        Tape.load(tmp_path)
    with pytest.raises(InputError, match="Add a file name"):
        tape.save(tmp_path)
    with pytest.raises(InputError, match="Make the directory"):
        tape.save(tmp_path / "none" / "run.tape")
    (tmp_path / "weights").write_bytes(safetensors.torch.save(model.state_dict()))
    with pytest.raises(InputError, match="something else"):
        Tape.load(tmp_path / "weights")
    written(tmp_path / "no json", "{", {"o": torch.zeros(1)})
    with pytest.raises(InputError, match="not JSON"):
        Tape.load(tmp_path / "no json")
    written(tmp_path / "digits", '{"schema": 1' + "0" * 5000 + "}", {"o": torch.zeros(1)})
    with pytest.raises(InputError, match="not JSON"):
        Tape.load(tmp_path / "digits")
    tape.save(tmp_path / "giant")
    os.truncate(tmp_path / "giant", 1 << 40)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Tape.load(tmp_path / "giant")
    with pytest.raises(InputError, match="File name too long"):
        Tape.load(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="null"):
        Tape.load("a\0.tape")
    tape.save(strange := tmp_path / os.fsdecode(b"\xff.tape"))
    with pytest.raises(InputError, match="UTF-8"):
        Tape.load(strange)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="found a pipe or device at"):
        Tape.load(tmp_path / "pipe")
    shutil.copy(__file__, tmp_path / "text.tape")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Tape.load(tmp_path / "text.tape")


def test_a_place_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        Tape.load(tmp_path / "run.tape")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.float64])
def test_targets_of_any_type_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x, y = bptt.nn.Elman(3, 4, 2), torch.randn(6, 2, 3), torch.randint(2, (6, 2, 2)).to(dtype)
    tape = record(model, x, y, loss="binary_cross_entropy")
    assert tape.targets is not None
    assert tape.targets.dtype == torch.float32
    tape.save(tmp_path / "run.tape")
    assert Tape.load(tmp_path / "run.tape").check().ok


def test_an_interrupted_save_leaves_the_old_tape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = example()
    tape = record(model, x, y)
    path = tmp_path / "run.tape"
    tape.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(InputError, match=r"'.*run\.tape' cannot be written: disk full"):
        record(model, x, y, text="other").save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.tape"]


class Two(torch.nn.Module):
    """Two recurrent modules of any cell, one on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = (Recurrent("elman", I, 5, dtype=torch.float64) for I in (3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.lower(x)[0])[0]


def test_what_record_cannot_serve_is_said() -> None:
    model, x, y = example()
    with pytest.raises(ValueError, match=r"Linear made 0 such calls\. bptt\.convert\(model\) makes every RNN"):
        record(torch.nn.Linear(3, 5, dtype=torch.float64), x, y, loss="cross_entropy")
    several = "takes a model that calls one recurrent module .*, GRU, Recurrent or a cell; Two made 2 such calls"
    with pytest.raises(ValueError, match=rf"{several}\. Run .* inside bptt\.recording\(\)"):
        record(Two(), x, y, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"loss is a name, one of .*; got none, and Shaped has no loss_name"):
        record(Shaped("plain"), x, y)
    no_name: Any = torch.nn.functional.mse_loss
    with pytest.raises(ValueError, match=r"one of cross_entropy, .*; got the function mse_loss\. Write loss='squared"):
        record(model, x, y, loss=no_name)
    no_name = torch.nn.MSELoss()
    with pytest.raises(ValueError, match=r"got MSELoss\(\)\. .* call it yourself inside bptt\.recording\(\)"):
        record(model, x, y, loss=no_name)
    with pytest.raises(ValueError, match="loss must be one of"):
        record(model, x, y, loss="hinge")
    with pytest.raises(ValueError, match="weights must be one for each step"):
        record(model, x, y, weights=torch.ones(5))
    with pytest.raises(ValueError, match="gradients are those of"):
        record(model, x, y).grad("W")
    rnn = RNN(3, 5, bias=False, dtype=torch.float64)
    with pytest.raises(ValueError, match="no bias"):
        record(rnn, x, y, loss="cross_entropy").grad("b_h")
