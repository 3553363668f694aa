"""Recurrent layers of any cell, judged by torch's LSTM and GRU and by loops written by hand in float64."""

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cases import tolerance
from published_cells import PUBLISHED
from sheets import forward, setting
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import bptt
from bptt.sheet.cells import CELLS

pytestmark = [
    pytest.mark.filterwarnings("ignore::bptt.errors.SlowEngineWarning"),
    pytest.mark.usefixtures("one_thread"),
]

F64 = torch.float64
NEAR = tolerance(F64)
Recurrent = bptt.nn.Recurrent
Values = dict[str, Tensor]

MUT1 = PUBLISHED["mut1"]
ANTISYMMETRIC = PUBLISHED["antisymmetric"]
SCRN = PUBLISHED["scrn"]
DECAY = """
δ : input
e : input E
b_d, γ : vector = 1
g_t = exp(−δ_t ⊙ b_d)
h_t = tanh(γ ⊙ (x_t W_xh) + e_t W_eh + (g_t ⊙ h_{t-1}) W_hh)
"""
DROPPED = "c_t = 0.5 * c_{t-1} + x_t W_xc + drop(h_{t-1}) W_hc\nh_t = tanh(c_t)"
MASKED = "m : rows\nh_t = tanh(x_t W_xh + (m ⊙ h_{t-1}) W_hh + b_h)"


# Loops by hand: one step of one row, p being the parameters, s the states, g what is given beside x


def _gate(p: Values, k: str, x: Tensor, h: Tensor) -> Tensor:
    return torch.sigmoid(x @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b_{k}"])


def lstm(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    new = torch.tanh(x @ p["W_xg"] + s["h"] @ p["W_hg"] + p["b_g"])
    c = _gate(p, "f", x, s["h"]) * s["c"] + _gate(p, "i", x, s["h"]) * new
    return {"h": _gate(p, "q", x, s["h"]) * torch.tanh(c), "c": c}


def peephole(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    i = torch.sigmoid(x @ p["W_xi"] + s["h"] @ p["W_hi"] + p["p_i"] * s["c"] + p["b_i"])
    f = torch.sigmoid(x @ p["W_xf"] + s["h"] @ p["W_hf"] + p["p_f"] * s["c"] + p["b_f"])
    c = f * s["c"] + i * torch.tanh(x @ p["W_xg"] + s["h"] @ p["W_hg"] + p["b_g"])
    q = torch.sigmoid(x @ p["W_xq"] + s["h"] @ p["W_hq"] + p["p_q"] * c + p["b_q"])
    return {"h": q * torch.tanh(c), "c": c}


def mgu(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    f = _gate(p, "f", x, s["h"])
    n = torch.tanh(x @ p["W_xn"] + (f * s["h"]) @ p["W_hn"] + p["b_n"])
    return {"h": (1 - f) * s["h"] + f * n}


def gru_v1(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    r, z = _gate(p, "r", x, s["h"]), _gate(p, "z", x, s["h"])
    n = torch.tanh(x @ p["W_xn"] + (r * s["h"]) @ p["W_hn"] + p["b_n"])
    return {"h": (1 - z) * n + z * s["h"]}


def indrnn(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    return {"h": torch.relu(x @ p["W_xh"] + p["u"] * s["h"] + p["b_h"])}


def antisymmetric(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    M = p["W_hh"] - p["W_hh"].T - 0.01 * torch.eye(len(p["W_hh"]), dtype=F64)
    return {"h": s["h"] + 0.1 * torch.tanh(x @ p["W_xh"] + s["h"] @ M + p["b_h"])}


def scrn(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    slow = 0.05 * (x @ p["W_xs"]) + 0.95 * s["s"]
    return {"h": torch.sigmoid(slow @ p["W_sh"] + x @ p["W_xh"] + s["h"] @ p["W_hh"]), "s": slow}


def decay(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    past = torch.exp(-g["δ"] * p["b_d"]) * s["h"]
    return {"h": torch.tanh(p["γ"] * (x @ p["W_xh"]) + g["e"] @ p["W_eh"] + past @ p["W_hh"])}


def masked(p: Values, x: Tensor, s: Values, g: Values) -> Values:
    return {"h": torch.tanh(x @ p["W_xh"] + (g["m"] * s["h"]) @ p["W_hh"] + p["b_h"])}


class Own:
    """A cell: its text, one step by hand, its sizes beside I and H."""

    def __init__(self, text: str, step: Callable[[Values, Tensor, Values, Values], Values], **sizes: int) -> None:
        self.text, self.step, self.sizes = text, step, sizes

    def __call__(self, *sizes: Any, **options: Any) -> Any:
        rnn = Recurrent(self.text, *sizes, sizes=self.sizes, dtype=F64, **options)
        for parameter in rnn.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return rnn


OWN = {
    "lstm": Own("lstm", lstm),
    "peephole": Own("peephole", peephole),
    "mgu": Own("mgu", mgu),
    "gru-v1": Own("gru-v1", gru_v1),
    "indrnn": Own("indrnn", indrnn),
    "antisymmetric": Own(ANTISYMMETRIC, antisymmetric),
    "scrn": Own(SCRN, scrn, S=2),
}
WITH_INPUTS = {"decay": Own(DECAY, decay, E=2), "masked": Own(MASKED, masked)}


def by_hand(
    own: Own,
    rnn: Any,
    x: Tensor,
    first: Mapping[str, Any] | None = None,
    given: Mapping[str, Tensor] | None = None,
    lengths: Sequence[int] | None = None,
    reset: Tensor | None = None,
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """The outputs of all layers (T, B, ·), and of each state the last values (B, ·) of each layer and direction.

    x (T, B, I) and all else time first, whatever rnn says. first: of each state the values of each layer and direction
    (B, ·). Rows walk alone.
    """
    T, B = x.shape[:2]
    states = rnn.cell.sheet.states
    layers, last = [], {name: [] for name in states}
    for layer in range(rnn.num_layers):
        outputs = []
        for suffix in ("", "_reverse")[: 1 + rnn.bidirectional]:
            k, end = len(last[states[0]]), f"_l{layer}{suffix}"
            p = {name.removesuffix(end): value for name, value in rnn.named_parameters() if name.endswith(end)}
            widths = dict(zip(states, rnn.widths_of_states(k), strict=True))
            rows, ends = [], {name: [] for name in states}
            for b in range(B):
                fresh = {name: p[f"{name}0"] if rnn.learn_h0 else x.new_zeros(widths[name]) for name in states}
                s = fresh if first is None else {name: first[name][k][b] for name in states}
                made = [x.new_zeros(widths[rnn.cell.sheet.output])] * T
                steps = range(T if lengths is None else lengths[b])
                for t in reversed(steps) if suffix else steps:
                    if reset is not None and not suffix and reset[t, b]:
                        s = fresh
                    beside = {n: d[t, b] if d.dim() == 3 else d[b] for n, d in (given or {}).items()}
                    s = own.step(p, x[t, b], s, beside)
                    made[t] = s[rnn.cell.sheet.output]
                    if reset is not None and suffix and reset[t, b] and t:
                        s = fresh
                rows.append(torch.stack(made))
                for name in states:
                    ends[name].append(s[name])
            outputs.append(torch.stack(rows, 1))
            for name in states:
                last[name].append(torch.stack(ends[name]))
        x = torch.cat(outputs, -1)
        layers.append(x)
    return layers, last


def as_tuple(states: Any) -> tuple[Tensor, ...]:
    return (states,) if isinstance(states, Tensor) else tuple(states)


def same(own: Own, rnn: Any, found: tuple[Any, ...], hand: tuple[list[Tensor], dict[str, list[Tensor]]]) -> None:
    """Outputs, last states, and the gradients of a sum over both."""
    (output, h_n), (layers, last) = found, hand
    expected = [torch.stack(of_all) for of_all in last.values()]
    torch.testing.assert_close(output, layers[-1], **NEAR)
    torch.testing.assert_close(list(as_tuple(h_n)), expected, **NEAR)
    parameters = list(rnn.parameters())
    grads = [
        torch.autograd.grad(
            y.square().sum() + sum(h.sum() for h in states), parameters, materialize_grads=True, retain_graph=True
        )
        for y, states in ((output, as_tuple(h_n)), (layers[-1], expected))
    ]
    torch.testing.assert_close(grads[0], grads[1], **NEAR)


def first_states(rnn: Any, B: int) -> tuple[Any, dict[str, Tensor]]:
    """As hx, and by name."""
    drawn = {
        name: torch.randn(rnn.count, B, width, dtype=F64)
        for name, width in zip(rnn.cell.sheet.states, rnn.widths_of_states(0), strict=True)
    }
    return as_hx([*drawn.values()]), drawn


def as_hx(states: Sequence[Any]) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


# By torch


GATES = {"lstm": "ifgq", "gru": "rzn"}


def torch_names(name: str, k: int) -> list[str]:
    gate = GATES[name][k]
    return [f"W_x{gate}", f"W_h{gate}", *(["b_xn", "b_hn"] if (name, gate) == ("gru", "n") else [f"b_{gate}"])]


def of_torch(name: str, tensors: Mapping[str, Tensor], end: str, H: int) -> Values:
    """A layer's weights, or their gradients, from those of torch's module; two biases are summed where ours is one."""
    found = {}
    for k in range(len(GATES[name])):
        rows = slice(k * H, (k + 1) * H)
        W_x, W_h, b_x, b_h = (
            tensors[f"{kind}{end}"][rows] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        values = [W_x.T, W_h.T, b_x, b_h]
        names = torch_names(name, k)
        found |= zip(names, values if len(names) == 4 else [W_x.T, W_h.T, b_x + b_h], strict=True)
    return found


def beside_torch(name: str, I: int, H: int, **options: Any) -> tuple[Any, Any]:
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](I, H, dtype=F64, **options)
    ours = Recurrent(name, I, H, dtype=F64, **options)
    for layer, suffix in itertools.product(range(ours.num_layers), ("", "_reverse")[: ours.directions]):
        end = f"_l{layer}{suffix}"
        for own, value in of_torch(name, theirs.state_dict(), end, H).items():
            ours.get_parameter(own + end).data.copy_(value)
    return ours, theirs


@pytest.mark.parametrize("form", ["dense", "batch first", "unbatched", "packed", "packed, unsorted", "no states given"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_lstm_and_gru_are_those_of_torch(name: str, bidirectional: bool, form: str) -> None:
    ours, theirs = beside_torch(
        name, 3, 4, num_layers=2, bidirectional=bidirectional, batch_first=form == "batch first"
    )
    x = torch.randn(6, 3, 3, dtype=F64)
    hx: Any = tuple(torch.randn(2 + 2 * bidirectional, 3, 4, dtype=F64) for _ in range(1 + (name == "lstm")))
    given: Any = x.transpose(0, 1) if form == "batch first" else x
    if form == "unbatched":
        given, hx = x[:, 0], tuple(h[:, 0] for h in hx)
    elif form.startswith("packed"):
        lengths = [6, 4, 1] if form == "packed" else [4, 6, 1]
        given = pack_padded_sequence(x, lengths, enforce_sorted=form == "packed")
    hx = None if form == "no states given" else hx if name == "lstm" else hx[0]
    found, expected = ours(given, hx), theirs(given, hx)
    assert type(found[0]) is type(expected[0])
    torch.testing.assert_close(found, expected, **NEAR)
    grads = []
    for module, (output, states) in ((ours, found), (theirs, expected)):
        loss = (output.data if isinstance(output, PackedSequence) else output).square().sum()
        loss = loss + sum(h.sin().sum() for h in as_tuple(states))
        named = dict(module.named_parameters())
        grads.append(dict(zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True)))
    for layer, suffix in itertools.product(range(2), ("", "_reverse")[: 1 + bidirectional]):
        end = f"_l{layer}{suffix}"
        halves = {n: g / 2 if n.startswith("bias") else g for n, g in grads[1].items()}  # each bias has all of it
        whole = of_torch(name, halves, end, 4)
        for own in ("b_xn", "b_hn") if name == "gru" else ():
            whole[own] = 2 * whole[own]
        for own, gradient in whole.items():
            torch.testing.assert_close(grads[0][own + end], gradient, **NEAR)


def test_elman_is_the_plain_layer() -> None:
    ours, plain = Recurrent("elman", 3, 4, 2, dtype=F64), bptt.nn.RNN(3, 4, 2, dtype=F64)
    for k in range(2):
        for own, names in {"W_xh": ["weight_ih"], "W_hh": ["weight_hh"], "b_h": ["bias_ih", "bias_hh"]}.items():
            value = torch.stack([plain.get_parameter(f"{name}_l{k}").data for name in names]).sum(0)
            ours.get_parameter(f"{own}_l{k}").data.copy_(value.T if value.dim() == 2 else value)
    x = torch.randn(5, 2, 3, dtype=F64)
    torch.testing.assert_close(ours(x), plain(x), **NEAR)
    with bptt.using("reference"):
        by_the_book = ours(x)
    torch.testing.assert_close(by_the_book, ours(x), **NEAR)


# By hand


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_a_stack_is_its_equations(name: str, bidirectional: bool) -> None:
    own = OWN[name]
    rnn = own(3, 4, 2, bidirectional=bidirectional)
    x = torch.randn(5, 2, 3, dtype=F64)
    hx, first = first_states(rnn, 2)
    same(own, rnn, rnn(x, hx), by_hand(own, rnn, x, first))
    same(own, rnn, rnn(x), by_hand(own, rnn, x))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["lstm", "scrn", "antisymmetric"])
def test_lengths_and_resets_and_learnt_first_states(name: str, bidirectional: bool) -> None:
    own = OWN[name]
    rnn = own(3, 4, 2, bidirectional=bidirectional, batch_first=True, learn_h0=True)
    x, lengths = torch.randn(6, 4, 3, dtype=F64), [4, 0, 6, 1]
    for b, length in enumerate(lengths):
        x[length:, b] = torch.nan
    reset = torch.rand(6, 4) < 0.4
    hx, first = first_states(rnn, 4)
    output, h_n = rnn(x.transpose(0, 1), hx, lengths=lengths, reset=reset.T)
    same(own, rnn, (output.transpose(0, 1), h_n), by_hand(own, rnn, x, first, lengths=lengths, reset=reset))
    output, h_n = rnn(x.transpose(0, 1), lengths=torch.tensor(lengths))
    same(own, rnn, (output.transpose(0, 1), h_n), by_hand(own, rnn, x, lengths=lengths))
    output, h_n = rnn(x[:, 2], reset=reset[:, 2])
    alone = by_hand(own, rnn, x[:, 2:3], reset=reset[:, 2:3])
    same(own, rnn, (output[:, None], tuple(h[:, None] for h in as_tuple(h_n))), alone)


@pytest.mark.parametrize("name", ["peephole", "antisymmetric"])
def test_packed_and_jagged_rows_are_rows_alone(name: str) -> None:
    own = OWN[name]
    rnn = own(3, 4, 2, bidirectional=True)
    x, lengths = torch.randn(6, 3, 3, dtype=F64), [2, 6, 3]
    hx, first = first_states(rnn, 3)
    hand = by_hand(own, rnn, x, first, lengths=lengths)
    packed, h_n = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False), hx)
    same(own, rnn, (pad_packed_sequence(packed)[0], h_n), hand)
    jagged = torch.nested.nested_tensor([x[:n, b] for b, n in enumerate(lengths)], layout=torch.jagged)
    output, h_n = rnn(jagged, hx)
    same(own, rnn, (torch.nested.to_padded_tensor(output, 0.0).transpose(0, 1), h_n), hand)


@pytest.mark.parametrize("name", ["lstm", "antisymmetric"])
def test_tokens_are_rows_of_the_matrices_of_x(name: str) -> None:
    own = OWN[name]
    rnn = own(5, 4, 2, bidirectional=True)
    tokens = torch.randint(5, (6, 3))
    numbers = torch.nn.functional.one_hot(tokens, 5).double()
    same(own, rnn, rnn(tokens), by_hand(own, rnn, numbers))
    same(own, rnn, rnn(tokens.int(), lengths=[6, 0, 2]), by_hand(own, rnn, numbers, lengths=[6, 0, 2]))
    packed, h_n = rnn(pack_padded_sequence(tokens, [2, 6, 4], enforce_sorted=False))
    same(own, rnn, (pad_packed_sequence(packed)[0], h_n), by_hand(own, rnn, numbers, lengths=[2, 6, 4]))
    with pytest.raises(IndexError, match=r"tokens must lie in \[0, 5\)"):
        rnn(tokens + 3)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["lstm", "antisymmetric", "scrn"])
def test_layers_of_different_sizes(name: str, bidirectional: bool) -> None:
    own, sizes, directions = OWN[name], (6, 2, 5), 1 + bidirectional
    rnn = own(3, list(sizes), bidirectional=bidirectional)
    x = torch.randn(4, 2, 3, dtype=F64)
    first = {
        state: [torch.randn(2, rnn.widths_of_states(k)[s], dtype=F64) for k in range(rnn.count)]
        for s, state in enumerate(rnn.cell.sheet.states)
    }
    hx = [
        tuple(torch.stack(of_all[k : k + directions]) for k in range(0, len(of_all), directions))
        for of_all in first.values()
    ]
    output, h_n, layers = rnn(x, as_hx(hx), return_all_layers=True)
    expected, last = by_hand(own, rnn, x, first)
    torch.testing.assert_close(list(layers), expected, **NEAR)
    assert torch.equal(output, layers[-1])
    for found, of_all in zip(h_n if len(hx) > 1 else (h_n,), last.values(), strict=True):
        assert [h.shape[0] for h in found] == [directions] * 3
        torch.testing.assert_close([h for of_layer in found for h in of_layer], of_all, **NEAR)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells(name: str) -> None:
    cell = bptt.Cell(PUBLISHED[name], name)
    at = setting(cell)
    I = at.sizes["H"] if cell.sheet.equal else at.sizes["I"]
    sizes = {size: at.sizes[size] for size, _ in cell.sheet.sizes.values() if size not in ("I", "H")}
    rnn = Recurrent(cell, I, at.sizes["H"], sizes=sizes, dtype=F64)
    of_drop_and_rows = {n: d for n, d in at.given.items() if cell.sheet.given[n].kind == "rows"}
    for n, parameter in rnn.named_parameters():
        own = at.given[n.removesuffix("_l0")]
        parameter.data.copy_(own.detach() if parameter.dim() == 2 else own.detach()[0])
    beside = {n: d.detach() for n, d in ((at.inputs | of_drop_and_rows).items()) if n != "x"}
    hx = as_hx([state.detach()[None] for state in at.first.values()])
    output, h_n = rnn(at.inputs["x"].detach(), hx, inputs=beside)
    _, values = forward(cell, at)
    expected = torch.stack([values[cell.sheet.output, t] for t in range(at.steps)])
    torch.testing.assert_close(output, expected, **NEAR)
    for state, h in zip(cell.sheet.states, as_tuple(h_n), strict=True):
        torch.testing.assert_close(h[0], values[state, at.steps - 1], **NEAR)


@pytest.mark.parametrize("name", CELLS)
def test_no_steps_and_no_rows(name: str) -> None:
    rnn = Recurrent(name, 3, 4, 2, dtype=F64)
    hx, first = first_states(rnn, 2)
    output, h_n = rnn(torch.zeros(0, 2, 3, dtype=F64), hx)
    assert output.shape == (0, 2, 4)
    assert all(torch.equal(h, own) for h, own in zip(as_tuple(h_n), first.values(), strict=True))
    output, h_n = rnn(torch.zeros(5, 0, 3, dtype=F64))
    assert output.shape == (5, 0, 4)
    assert {h.shape for h in as_tuple(h_n)} == {(2, 0, 4)}
    output.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in rnn.parameters())


# Further inputs


@pytest.mark.parametrize("bidirectional", [False, True])
def test_inputs_beside_x(bidirectional: bool) -> None:
    own = WITH_INPUTS["decay"]
    rnn = own(3, 4, 2, bidirectional=bidirectional)
    x, δ, e = torch.randn(6, 3, 3, dtype=F64), torch.rand(6, 3, 1, dtype=F64), torch.randn(6, 3, 2, dtype=F64)
    given = {"δ": δ, "e": e}
    hand = by_hand(own, rnn, x, given=given)
    same(own, rnn, rnn(x, inputs=given), hand)
    same(own, rnn, rnn(x, inputs={"e": e, "delta": δ[..., 0]}), hand)
    rnn.batch_first = True
    for width_1 in (δ, δ[..., 0]):
        output, h_n = rnn(x.transpose(0, 1), inputs={"δ": width_1.transpose(0, 1), "e": e.transpose(0, 1)})
        same(own, rnn, (output.transpose(0, 1), h_n), hand)
        for batch_first in (False, True):
            rnn.batch_first = batch_first
            output, h_n = rnn(x[:, 1], inputs={"δ": width_1[:, 1], "e": e[:, 1]})
            torch.testing.assert_close(output, hand[0][-1][:, 1], **NEAR)
    rnn.batch_first, lengths = False, [2, 6, 0]
    hand = by_hand(own, rnn, x, given=given, lengths=lengths)
    poisoned = {name: d.clone() for name, d in given.items()}
    for d, (b, length) in itertools.product(poisoned.values(), enumerate(lengths)):
        d[length:, b] = torch.nan
    same(own, rnn, rnn(x, inputs=poisoned, lengths=lengths), hand)
    lengths = [2, 6, 3]
    hand = by_hand(own, rnn, x, given=given, lengths=lengths)

    def pack(d: Tensor) -> PackedSequence:
        return pack_padded_sequence(d, lengths, enforce_sorted=False)

    packed, h_n = rnn(pack(x), inputs={"δ": pack(δ[..., 0]), "e": pack(e)})
    same(own, rnn, (pad_packed_sequence(packed)[0], h_n), hand)

    def jag(d: Tensor) -> Tensor:
        return torch.nested.nested_tensor([d[:n, b] for b, n in enumerate(lengths)], layout=torch.jagged)

    output, h_n = rnn(jag(x), inputs={"δ": jag(δ[..., 0]), "e": jag(e)})
    same(own, rnn, (torch.nested.to_padded_tensor(output, 0.0).transpose(0, 1), h_n), hand)


def test_inputs_have_gradients() -> None:
    own = WITH_INPUTS["decay"]
    rnn = own(3, 4, 2)
    x = torch.randn(5, 2, 3, dtype=F64)
    given = {
        "δ": torch.rand(5, 2, 1, dtype=F64).requires_grad_(),
        "e": torch.randn(5, 2, 2, dtype=F64).requires_grad_(),
    }
    leaves = list(given.values())
    found = torch.autograd.grad(rnn(x, inputs=given)[0].square().sum(), leaves)
    expected = torch.autograd.grad(by_hand(own, rnn, x, given=given)[0][-1].square().sum(), leaves)
    torch.testing.assert_close(found, expected, **NEAR)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_masks_of_rows_go_with_their_rows(bidirectional: bool) -> None:
    own = WITH_INPUTS["masked"]
    rnn = own(3, 4, 2, bidirectional=bidirectional)
    x, m = torch.randn(6, 3, 3, dtype=F64), torch.rand(3, 4, dtype=F64)
    same(own, rnn, rnn(x, inputs={"m": m}), by_hand(own, rnn, x, given={"m": m}))
    lengths = [2, 6, 3]
    hand = by_hand(own, rnn, x, given={"m": m}, lengths=lengths)
    same(own, rnn, rnn(x, inputs={"m": m}, lengths=lengths), hand)
    packed, h_n = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False), inputs={"m": m})
    same(own, rnn, (pad_packed_sequence(packed)[0], h_n), hand)
    torch.testing.assert_close(rnn(x[:2, 0], inputs={"m": m[0]})[0], hand[0][-1][:2, 0], **NEAR)
    boolean = m > 0.5
    same(own, rnn, rnn(x, inputs={"m": boolean}), by_hand(own, rnn, x, given={"m": boolean.double()}))


# Beginnings


def test_parameters_begin_as_init_says() -> None:
    bound = 400**-0.5
    rnn = Recurrent("gru", 3, 400, 2)
    for parameter in rnn.parameters():
        assert 0.8 * bound < parameter.abs().max() <= bound
    for init, check in {
        "orthogonal": lambda W: torch.testing.assert_close(W @ W.T, torch.eye(8, dtype=F64), **NEAR),
        "identity": lambda W: torch.testing.assert_close(W, torch.eye(8, dtype=F64)),
        "spectral:1.25": lambda W: torch.testing.assert_close(
            torch.linalg.eigvals(W).abs().max(), torch.tensor(1.25, dtype=F64), **NEAR
        ),
    }.items():
        rnn = Recurrent("gru", 8, 8, 2, init=init, dtype=F64)
        for name, parameter in rnn.named_parameters():
            if name.startswith("W_h"):
                check(parameter.detach())
            elif name.startswith("W_x"):
                assert 0.5 * 8**-0.5 < parameter.abs().max() <= 8**-0.5
            else:
                assert not parameter.any()


def test_single_parameters_and_starts_in_the_text() -> None:
    text = "γ : vector = 1; ζ : scalar = 2\nh_t = tanh(x_t W_xh + γ ⊙ (h_{t-1} W_hh) + ζ ⊙ b_h)"
    for init in ("torch", "orthogonal"):
        rnn = Recurrent(text, 3, 5, init=init)
        assert torch.equal(rnn.get_parameter("γ_l0"), torch.ones(5))
        assert torch.equal(rnn.get_parameter("ζ_l0"), torch.full((1,), 2.0))
        assert rnn.get_parameter("b_h_l0").any() == (init == "torch")
    rnn = Recurrent(text, 3, 5, 2, init={"gamma": 0.5, "W_hh": "orthogonal", "b_h": -1, "ζ": "torch"}, dtype=F64)
    for again in (False, True):
        if again:
            rnn.reset_parameters()
        for k in range(2):
            W_hh = rnn.get_parameter(f"W_hh_l{k}").detach()
            torch.testing.assert_close(W_hh @ W_hh.T, torch.eye(5, dtype=F64), **NEAR)
            assert torch.equal(rnn.get_parameter(f"γ_l{k}"), torch.full((5,), 0.5, dtype=F64))
            assert torch.equal(rnn.get_parameter(f"b_h_l{k}"), -torch.ones(5, dtype=F64))
            assert rnn.get_parameter(f"ζ_l{k}").abs() <= 5**-0.5
    rnn = Recurrent("lstm", 3, 5, init={"b_f": 1})
    assert torch.equal(rnn.get_parameter("b_f_l0"), torch.ones(5))
    assert rnn.get_parameter("b_i_l0").unique().numel() == 5


def test_all_first_states_are_learnt() -> None:
    own = OWN["lstm"]
    rnn = Recurrent("lstm", 3, 4, 2, learn_h0=True, dtype=F64)
    plain = Recurrent("lstm", 3, 4, 2, dtype=F64)
    plain.load_state_dict(rnn.state_dict(), strict=False)
    x = torch.randn(5, 2, 3, dtype=F64)
    assert torch.equal(rnn(x)[0], plain(x)[0])  # zero before they are trained
    for name in ("h0_l0", "c0_l0", "h0_l1", "c0_l1"):
        torch.nn.init.normal_(rnn.get_parameter(name))
    same(own, rnn, rnn(x), by_hand(own, rnn, x))
    hx, first = first_states(rnn, 2)
    same(own, rnn, rnn(x, hx), by_hand(own, rnn, x, first))
    h0, c0 = rnn.fresh_state(2)
    assert torch.equal(h0, torch.stack([rnn.get_parameter(f"h0_l{k}").detach().expand(2, 4) for k in range(2)]))
    assert torch.equal(c0[1, 0], rnn.get_parameter("c0_l1"))


# Dropout


def test_dropout_between_layers_draws_anew_at_each_step() -> None:
    rnn = Recurrent("α : constant = 0\nh_t = x_t W_xh + α ⊙ h_{t-1}", 64, 64, 2, dropout=0.5, init={"W_xh": "identity"})
    x = torch.ones(3, 2, 64)
    output, _, layers = rnn(x, return_all_layers=True)
    assert torch.equal(layers[0], x)
    assert set(output.unique().tolist()) == {0, 2}
    assert len(output.flatten(0, 1).unique(dim=0)) == 6
    assert torch.equal(rnn.eval()(x)[0], x)


@pytest.mark.parametrize("form", ["dense", "lengths", "packed", "checkpoint"])
def test_recurrent_dropout_is_one_mask_for_all_steps_of_a_row(form: str) -> None:
    rnn = Recurrent("h_t = x_t W_xh + drop(h_{t-1})", 64, 64, recurrent_dropout=0.5, init={"W_xh": "identity"})
    x = torch.ones(4, 2, 64)
    if form == "packed":
        output = pad_packed_sequence(rnn(pack_padded_sequence(x, [4, 4]))[0])[0]
    else:
        rnn.checkpoint = 2 if form == "checkpoint" else None
        output, _ = rnn(x, lengths=[4, 4]) if form == "lengths" else rnn(x)
    m = output[1] - 1
    assert set(m.unique().tolist()) == {0, 2}
    assert not torch.equal(m[0], m[1])
    for t in range(2, 4):
        assert torch.equal(output[t], 1 + m * output[t - 1])
    again, _ = rnn(x)
    assert not torch.equal(again[1] - 1, m)
    assert torch.equal(rnn.eval()(x)[0], torch.arange(1.0, 5)[:, None, None].expand(4, 2, 64))


def test_gradients_go_through_the_mask_that_was_drawn() -> None:
    rnn = Recurrent(DROPPED, 2, 3, 2, recurrent_dropout=0.5, dtype=F64)
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def run(x: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(3)
        return rnn(x)[0]

    assert torch.autograd.gradcheck(run, (x, *rnn.parameters()))


# Streams, half precision


@pytest.mark.parametrize("hidden_size", [4, [5, 4]])
def test_a_stream_carries_all_states(hidden_size: Any) -> None:
    rnn = Recurrent("lstm", 3, hidden_size, 2, learn_h0=True, dtype=F64)
    for name, parameter in rnn.named_parameters():
        if name.startswith(("h0", "c0")):
            torch.nn.init.normal_(parameter)
    x = torch.randn(9, 2, 3, dtype=F64)
    whole, (h_n, c_n) = rnn(x)
    stream = bptt.nn.Stream(rnn)
    parts = [stream(window)[0] for window in x.split(3)]
    torch.testing.assert_close(torch.cat(parts), whole, **NEAR)
    assert stream.state is not None
    torch.testing.assert_close(stream.state, (h_n, c_n), **NEAR)
    stream.reset([1])
    output, _ = stream(x[:3])
    torch.testing.assert_close(output[:, 1], whole[:3, 1], **NEAR)
    torch.testing.assert_close(output[:, 0], rnn(x[:3], (h_n, c_n))[0][:, 0], **NEAR)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", ["lstm", ANTISYMMETRIC, MASKED])
def test_half_precision_is_computed_in_float32(text: str, dtype: torch.dtype) -> None:
    exact = Recurrent(text, 3, 4, 2, bidirectional=True)
    held = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(held.state_dict())  # the same rounded weights
    x = torch.randn(5, 2, 3).to(dtype)
    beside = {"m": torch.rand(2, 4).to(dtype)} if text == MASKED else None
    wide = None if beside is None else {"m": beside["m"].float()}
    expected, last = exact(x.float(), inputs=wide)
    for rnn in (held, exact):
        output, h_n = rnn(x, inputs=beside)
        assert torch.equal(output, expected.to(dtype))
        assert all(torch.equal(h, own.to(dtype)) for h, own in zip(as_tuple(h_n), as_tuple(last), strict=True))
    held(x, inputs=beside)[0].sum().backward()
    assert {parameter.grad.dtype for parameter in held.parameters() if parameter.grad is not None} == {dtype}


@pytest.mark.parametrize("text", ["gru", ANTISYMMETRIC, "V_1 : size R\nM = V_1 V_2\nh_t = tanh(x_t W_xh + h_{t-1} M)"])
def test_autocast(text: str) -> None:
    rnn = Recurrent(text, 3, 4, sizes={"R": 2} if "size R" in text else None)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu"):
        output, h_n = rnn(x)
    assert torch.equal(output, rnn(x)[0].bfloat16())
    assert h_n.dtype == torch.bfloat16


# As a module


def test_a_module_that_is_kept_and_copied() -> None:
    rnn = Recurrent("lstm", 3, 4, 2, bidirectional=True, learn_h0=True, init={"b_f": 1})
    names = list(rnn.state_dict())
    assert names[:3] == ["W_xi_l0", "W_hi_l0", "b_i_l0"]
    assert {"b_f_l1_reverse", "h0_l0", "c0_l0", "h0_l1_reverse"} < set(names)
    assert len(names) == 4 * (12 + 2)
    x = torch.randn(5, 2, 3)
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert torch.equal(other(x)[0], rnn(x)[0])
        assert repr(other) == repr(rnn)
    fresh = Recurrent("lstm", 3, 4, 2, bidirectional=True, learn_h0=True)
    assert fresh.load_state_dict(rnn.state_dict(), strict=True).missing_keys == []
    assert torch.equal(fresh(x)[0], rnn(x)[0])
    with pytest.raises(RuntimeError, match=r"Missing key.*c0_l0"):
        fresh.load_state_dict(Recurrent("lstm", 3, 4, 2, bidirectional=True).state_dict())


def test_it_says_how_it_was_made() -> None:
    rnn = Recurrent(bptt.Cell(SCRN, "SCRN"), 3, 4, 2, sizes={"S": 2}, batch_first=True, checkpoint="auto")
    assert (
        repr(rnn) == "Recurrent('SCRN', 3, 4, num_layers=2, batch_first=True, sizes={'S': 2}, checkpoint='auto')"
    )  # as it would be typed


def test_frozen_parameters_get_no_gradient_and_change_no_other() -> None:
    rnn = OWN["lstm"](3, 4, 2)
    x = torch.randn(5, 2, 3, dtype=F64)
    rnn(x)[0].square().sum().backward()
    whole = {name: parameter.grad for name, parameter in rnn.named_parameters()}
    for frozen in (["W_hf_l0", "b_q_l1"], [n for n in whole if n.endswith("l1")], [n for n in whole if "W_x" in n]):
        rnn.zero_grad()
        for name, parameter in rnn.named_parameters():
            parameter.requires_grad_(name not in frozen)
        rnn(x)[0].square().sum().backward()
        for name, parameter in rnn.named_parameters():
            if name in frozen:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, whole[name], **NEAR)


@pytest.mark.parametrize("name", ["lstm", "gru-v1", "antisymmetric", "decay"])
def test_derivatives_of_derivatives(name: str) -> None:
    rnn = (OWN | WITH_INPUTS)[name](2, 2)
    x = torch.randn(2, 2, 2, dtype=F64, requires_grad=True)
    beside = {"δ": torch.rand(2, 2, dtype=F64), "e": torch.randn(2, 2, 2, dtype=F64)} if name == "decay" else {}
    leaves = [d.requires_grad_() for d in beside.values()]

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        output, h_n = rnn(x, inputs=beside)
        return output, *as_tuple(h_n)

    inputs = (x, *leaves, *rnn.parameters())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


# Checkpoints


@pytest.mark.parametrize("checkpoint", ["auto", 3, "1MB"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["lstm", "antisymmetric", "scrn", "decay"])
def test_a_checkpoint_changes_nothing(name: str, bidirectional: bool, checkpoint: Any) -> None:
    rnn = (OWN | WITH_INPUTS)[name](3, 4, 2, bidirectional=bidirectional)
    x = torch.randn(20, 2, 3, dtype=F64, requires_grad=True)
    beside = {}
    if name == "decay":
        beside = {"δ": torch.rand(20, 2, dtype=F64), "e": torch.randn(20, 2, 2, dtype=F64)}
    hx, first = first_states(rnn, 2)
    leaves = [x, *(h.requires_grad_() for h in first.values()), *(d.requires_grad_() for d in beside.values())]
    leaves += rnn.parameters()
    for lengths in (None, [20, 7]):
        found = []
        for kept in (None, checkpoint):
            rnn.checkpoint = kept
            output, h_n = rnn(x, hx, inputs=beside, lengths=lengths)
            loss = output.square().sum() + sum(h.sin().sum() for h in as_tuple(h_n))
            found.append((output, h_n, torch.autograd.grad(loss, leaves)))
        torch.testing.assert_close(found[1], found[0], **NEAR)


# Tapes


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_tape_has_every_value_and_its_gradient(bidirectional: bool) -> None:
    rnn = OWN["lstm"](3, 4, 2, bidirectional=bidirectional)
    x = torch.randn(5, 2, 3, dtype=F64)
    with bptt.recording() as tapes:
        rnn(x)[0].square().sum().backward()
    grads = {name: parameter.grad for name, parameter in rnn.named_parameters()}
    below, cells = x, {}
    for layer in range(2):
        outputs = []
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            end = f"_l{layer}{suffix}"
            p = {n.removesuffix(end): value for n, value in rnn.named_parameters() if n.endswith(end)}
            h = c = x.new_zeros(2, 4)
            made, f_of_all, c_of_all = [], [], []
            for x_t in below.flip(0) if suffix else below:
                f = _gate(p, "f", x_t, h)
                c = f * c + _gate(p, "i", x_t, h) * torch.tanh(x_t @ p["W_xg"] + h @ p["W_hg"] + p["b_g"])
                h = _gate(p, "q", x_t, h) * torch.tanh(c)
                for value in (f, c, h):
                    value.retain_grad()
                made, f_of_all, c_of_all = [*made, h], [*f_of_all, f], [*c_of_all, c]
            turn = -1 if suffix else 1
            cells[layer, suffix] = {"f": f_of_all[::turn], "c": c_of_all[::turn], "h": made[::turn]}
            outputs.append(torch.stack(made[::turn]))
        below = torch.cat(outputs, -1)
    rnn.zero_grad()
    below.square().sum().backward()
    (tape,) = tapes
    for record, of_layer in zip(tape.layers, cells.values(), strict=True):
        for name, steps in of_layer.items():
            torch.testing.assert_close(record[name], torch.stack(list(steps)), **NEAR)
            torch.testing.assert_close(record.d(name), torch.stack([value.grad for value in steps]), **NEAR)
    for name, parameter in rnn.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], **NEAR)
    record = tape.layers[0]
    torch.testing.assert_close(record.d_weights["W_hf"], grads["W_hf_l0"], **NEAR)
    with pytest.raises(KeyError, match=r"this cell has .*; got 'k'"):
        record["k"]


@pytest.mark.parametrize("text", ["lstm", "gru-v1", ANTISYMMETRIC, "elman"])
def test_recording_changes_no_bit(text: str) -> None:
    rnn = Recurrent(text, 3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    rnn(x)[0].square().sum().backward()
    before = {name: parameter.grad for name, parameter in rnn.named_parameters()}
    rnn.zero_grad(set_to_none=True)
    with bptt.recording() as tapes:
        output, _ = rnn(x)
        output.square().sum().backward()
    assert torch.equal(output, rnn(x)[0])
    after = {name: parameter.grad for name, parameter in rnn.named_parameters()}
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert len(tapes[0].layers) == 4


class Reader(torch.nn.Module):
    """A cell of any kind with an output layer."""

    def __init__(self, text: str, I: int, H: int, O: int) -> None:
        super().__init__()
        self.rnn, self.readout = Recurrent(text, I, H, dtype=F64), torch.nn.Linear(H, O, dtype=F64)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.rnn(x)[0])


def test_the_tape_of_a_model() -> None:
    model = Reader("gru", 3, 4, 2)
    x, y = torch.randn(5, 2, 3, dtype=F64), torch.randint(2, (5, 2))
    tape = bptt.record(model, x, y, loss="cross_entropy")
    loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    torch.testing.assert_close(tape.L, loss, **NEAR)
    loss.backward()
    torch.testing.assert_close(tape.layers[0].d_weights["W_hr"], model.rnn.get_parameter("W_hr_l0").grad, **NEAR)
    assert torch.equal(tape.layers[0]["h"], model.rnn(x)[0])
    total = tape.layers[0].d("h")
    assert total is not None
    assert tape.do is not None
    torch.testing.assert_close(total[-1], (tape.do @ model.readout.weight)[-1], **NEAR)
    assert tape.check().ok
    assert not hasattr(tape, "a")


# Traced and exported


TRACED = {"lstm": "lstm", "gru-v1": "gru-v1", "antisymmetric": ANTISYMMETRIC, "dropped": DROPPED}


@pytest.mark.parametrize("name", TRACED)
def test_it_compiles_in_one_graph(name: str) -> None:
    torch.compiler.reset()
    rnn = Recurrent(TRACED[name], 3, 4, 2, bidirectional=True, dtype=F64)
    x = torch.randn(5, 2, 3, dtype=F64, requires_grad=True)
    compiled: Any = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    leaves = [x, *rnn.parameters()]
    found = [(*run(x), torch.autograd.grad(run(x)[0].square().sum(), leaves)) for run in (compiled, rnn)]
    torch.testing.assert_close(found[0], found[1], **NEAR)


def test_it_compiles_with_inputs_beside_x() -> None:
    torch.compiler.reset()
    rnn = WITH_INPUTS["decay"](3, 4)
    beside = {"delta": torch.rand(5, 2, dtype=F64), "e": torch.randn(5, 2, 2, dtype=F64)}
    x = torch.randn(5, 2, 3, dtype=F64)
    compiled: Any = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, inputs=beside), rnn(x, inputs=beside), **NEAR)


@pytest.mark.parametrize("name", TRACED)
def test_it_exports_with_any_length_and_batch(name: str) -> None:
    rnn = Recurrent(TRACED[name], 3, 4, 2, dtype=F64)
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    x = torch.randn(5, 2, 3, dtype=F64)
    exported = torch.export.export(rnn, (x,), dynamic_shapes={"input": {0: T, 1: B}}).module()
    for T, B in [(5, 2), (9, 3)]:
        x = torch.randn(T, B, 3, dtype=F64)
        torch.testing.assert_close(exported(x), rnn(x), **NEAR)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "gru-v1"])
def test_onnx_has_operators_for_it(name: str, bidirectional: bool, tmp_path: Path) -> None:
    rnn, path = Recurrent(name, 3, 4, 2, bidirectional=bidirectional), tmp_path / "rnn.onnx"
    bptt.onnx.export(rnn, (torch.randn(5, 2, 3),), path, dynamic_shapes={"input": {0: "T", 1: "B"}})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for T, B in [(5, 2), (11, 3)]:
        x = torch.randn(T, B, 3)
        output, h_n = rnn(x)
        expected = [output, *as_tuple(h_n)]
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        found = [torch.from_numpy(np.asarray(array)) for array in found]
        torch.testing.assert_close(found, [e.detach() for e in expected], **tolerance(torch.float32))


def test_onnx_says_what_it_has_no_operator_for(tmp_path: Path) -> None:
    with pytest.raises(bptt.InputError, match=r"(?s)^ONNX has operators for plain.*got the cell\naf_t = x_t W_xf"):
        bptt.onnx.export(Recurrent("mgu", 3, 4), (torch.randn(5, 2, 3),), tmp_path / "rnn.onnx")


def test_functions_of_parameters() -> None:
    rnn, x = OWN["lstm"](3, 4), torch.randn(4, 5, 2, 3, dtype=F64)
    parameters = dict(rnn.named_parameters())

    def loss(parameters: Values, x: Tensor) -> Tensor:
        return torch.func.functional_call(rnn, parameters, (x,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for b in range(4):
        expected = torch.autograd.grad(loss(parameters, x[b]), [*parameters.values()])
        torch.testing.assert_close([d[b] for d in each.values()], list(expected), **NEAR)


# Engines


def test_every_cell_runs_on_the_compiled_engine() -> None:
    rnn = Recurrent("h_t = tanh(x_t W_xs + h_{t-1} W_hs + 0.25)", 3, 4)
    x = torch.randn(5, 2, 3)
    with warnings.catch_warnings(), bptt.using("native"):
        warnings.simplefilter("error")
        found = rnn(x)[0]
    with bptt.using("reference"):
        torch.testing.assert_close(rnn(x)[0], found, **tolerance(torch.float32))


def test_rows_are_no_leaves() -> None:
    rnn = WITH_INPUTS["masked"](3, 4)
    m = torch.rand(2, 4, dtype=F64, requires_grad=True)
    x = torch.randn(5, 2, 3, dtype=F64)
    with pytest.raises(bptt.InputError, match=r"declared as rows, a mask, which has no gradient"):
        rnn(x, inputs={"m": m})
    with torch.no_grad():
        assert torch.equal(rnn(x, inputs={"m": m})[0], rnn(x, inputs={"m": m.detach()})[0])
