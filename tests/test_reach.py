"""How far the gradient reaches: every norm by autograd, exponents by NumPy, and what cannot be followed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import ALL, drawn
from torch import Tensor

import bptt
from bptt.autograd.recorded import Record
from bptt.engine import reference
from bptt.engine.contract import Signature
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.tape.alone import Layer
from bptt.tape.reach import reach

T, B, I, H = 11, 3, 4, 5


def network(kind: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return getattr(bptt.nn, kind)(I, H, **options).double()


def recorded(model: Any, x: Any = None, *, seed: int = 0, **given: Any) -> tuple[bptt.Tape, Tensor]:
    """The tape of a random linear loss, and its factors."""
    torch.manual_seed(seed)
    x = torch.randn(T, B, I, dtype=torch.float64) if x is None else x
    with bptt.recording() as tapes:
        y = model(x, **given)[0]
        factors = torch.randn_like(y)
        (y * factors).sum().backward()
    return tapes[0], factors


def by_hand(model: Any, x: Tensor) -> dict[Any, list[Tensor]]:
    """Every state of every layer in a loop of torch's cells: a list over time, kept by autograd; and the output."""
    kind, both = type(model).__name__, model.bidirectional
    found: dict[Any, list[Tensor]] = {}
    below = list(x)
    for layer in range(model.num_layers):
        outputs = []
        for direction in ("forward", "reverse")[: 1 + both]:
            cell = getattr(torch.nn, f"{kind}Cell")(below[0].shape[-1], H).double()
            suffix = f"_l{layer}{'_reverse' * (direction == 'reverse')}"
            parameters = {
                name: getattr(model, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            h = torch.zeros(B, H, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64)
            states: dict[str, list[Tensor]] = {"h": [], "c": []}
            for x_t in below[:: -1 if direction == "reverse" else 1]:
                made = torch.func.functional_call(cell, parameters, (x_t, h if kind == "LSTM" else h[0]))
                h = made if kind == "LSTM" else (made, h[1])
                states["h"].append(h[0])
                states["c"].append(h[1])
            for name, values in states.items():
                found[layer, direction, name] = values[:: -1 if direction == "reverse" else 1]
            outputs.append(found[layer, direction, "h"])
        below = [torch.cat(pair, -1) for pair in zip(*outputs, strict=True)]
    found["output"] = below
    return found


@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_norms_are_those_of_autograd(kind: str, options: dict[str, Any]) -> None:
    model = network(kind, **options)
    tape, factors = recorded(model)
    states = by_hand(model, tape.x)
    reach = tape.reach("all")
    losses = [(y * c).sum() for y, c in zip(states.pop("output"), factors, strict=True)]
    assert len(reach.lags) == len(tape.layers) * (2 if kind == "LSTM" else 1)
    for lags in reach.lags:
        values = states[lags.layer, lags.direction, lags.state]
        for t, loss in enumerate(losses):
            found = torch.autograd.grad(loss, values, retain_graph=True, materialize_grads=True)
            torch.testing.assert_close(lags.norms[t], torch.stack(found).norm(dim=-1), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("steps", [Steps(6, 3), Steps(5, 3, [3, 3, 2, 1, 1], reverse=True)], ids=["dense", "packed"])
@pytest.mark.parametrize("name", ALL)
def test_any_cell(name: str, steps: Steps) -> None:
    """Against side B of the reference with one step's gradient at a time."""
    torch.manual_seed(0)
    cell = ALL[name]
    given, signature = drawn(cell, steps), Signature.of(cell)
    with torch.no_grad():
        made = given.forward(reference, values=True)
        dy = torch.randn_like(made.y)
        into = given.arrays()
        into.cotangents = {}
        given.backward(reference, made, dy, [None] * len(signature.states), into)
    weights = given.weights.by_name() | dict(zip(signature.masks + signature.inputs, given.extras, strict=True))
    first = {state: h[0] for state, h in zip(signature.states, given.first, strict=True)}
    record = Record(0, cell, steps, weights, given.x, first, made.values or {}, into.cotangents)
    record.from_outside = {state: torch.zeros_like(record.values[state]) for state in signature.states}
    record.from_outside[signature.output] = dy
    found = {lags.state: lags for lags in reach([record], "all").lags}
    layer = Layer.of(record, torch.float64)
    for t in range(steps.T):
        alone = given.arrays()
        alone.cotangents = {}
        step = torch.zeros_like(dy).flatten(0, -2)
        rows = [b for b in range(steps.B) if t < layer.lengths[b]]
        places = [int(layer.places[layer.when(torch.tensor(t), torch.tensor(b)), b]) for b in rows]
        step[places] = dy.flatten(0, -2)[places]
        with torch.no_grad():
            given.backward(reference, made, step.view_as(dy), [None] * len(signature.states), alone)
        for state, lags in found.items():
            expected = layer.in_time(alone.cotangents[state]).norm(dim=-1)[:, rows]
            norms = lags.norms[t][:, rows]
            there = ~norms.isnan()
            torch.testing.assert_close(norms[there], expected[there], rtol=1e-10, atol=1e-14)
            assert int(there.sum()) == int(layer.lengths[rows].sum())


def test_steps_that_are_asked_for_and_those_spread_over_time_are_the_same_numbers() -> None:
    tape, _ = recorded(network("GRU"))
    whole = tape.reach("all").of().norms
    some = tape.reach([2, 7])
    assert some.steps == [2, 7]
    assert torch.equal(some.of().norms, whole[[2, 7]])
    assert tape.reach(3).steps == [0, 5, 10]


def test_origins_sum_to_the_gradient() -> None:
    """By linearity, seen where all of them point the same way: one unit, positive weights and factors."""
    torch.manual_seed(0)
    model: Any = bptt.nn.RNN(1, 1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    x = torch.randn(T, B, 1, dtype=torch.float64)
    with bptt.recording() as tapes:
        (model(x)[0] * torch.rand(T, B, 1, dtype=torch.float64)).sum().backward()
    (tape,) = tapes
    norms = tape.reach("all").of().norms
    torch.testing.assert_close(norms.sum(0), tape.dh[..., 0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_rows_of_different_lengths(engine: str) -> None:
    model, lengths = network("LSTM", bidirectional=True, num_layers=2), [4, T, 7]
    x = torch.randn(T, B, I, dtype=torch.float64)
    with bptt.using(engine):
        tape, factors = recorded(model, x, lengths=lengths)
        padded = tape.reach("all")
        for place, b in enumerate(sorted(range(B), key=lambda b: -lengths[b])):
            n = lengths[b]
            with bptt.recording() as tapes:
                (model(x[:n, [b]])[0] * factors[:n, [b]]).sum().backward()
            for lags, own in zip(padded.lags, tapes[0].reach("all").lags, strict=True):
                torch.testing.assert_close(lags.norms[:n, :n, place], own.norms[..., 0], rtol=1e-10, atol=1e-14)
                assert lags.norms[:, n:, place].isnan().all()


def test_numbers_beyond_the_range_of_single_precision() -> None:
    """(0.3)^400 is 1e-209, and 4^300 is 1e180."""
    for scale, steps in ((0.3, 400), (4.0, 300)):
        cell = bptt.Cell("h_t = x_t W_xh + h_{t-1} W_hh")
        model: Any = bptt.nn.Recurrent(cell, 2, 2)
        with torch.no_grad():
            model.W_hh_l0.copy_(scale * torch.tensor([[0.6, 0.8], [-0.8, 0.6]]))
        with bptt.recording() as tapes:
            y = model(torch.zeros(steps, 1, 2))[0]
            (y[-1] * torch.tensor([3.0, 4.0])).sum().backward()
        tape = tapes[0]
        if scale > 1:
            for record in tape.layers:
                record.totals = {name: array.nan_to_num(posinf=0.0) for name, array in record.totals.items()}
        lags = tape.reach().of()
        exact = math.log2(5) + math.log2(scale) * (steps - 1 - torch.arange(steps, dtype=torch.float64))
        torch.testing.assert_close(lags.log_norms[0, :, 0], exact, rtol=1e-6, atol=1e-4)
        assert lags.rate == pytest.approx(scale, rel=1e-6)


def test_rate_half_life_and_steps_of_a_known_decay() -> None:
    model: Any = bptt.nn.Recurrent(bptt.Cell("h_t = x_t W_xh + 0.8 * h_{t-1}"), 2, 2).double()
    x = torch.randn(60, 4, 2, dtype=torch.float64)
    with bptt.recording() as tapes:
        model(x)[0].sum().backward()
    reach = tapes[0].reach()
    assert reach.rate == pytest.approx(0.8, rel=1e-12)
    assert reach.half_life == pytest.approx(math.log(2) / -math.log(0.8), rel=1e-12)
    assert reach.reached(0.1) == math.ceil(math.log(0.1) / math.log(0.8))
    assert reach.reached(0.01) == 21
    assert "halves every 3.11 steps" in reach.verdict
    assert "21 steps back" in reach.verdict
    low, high = reach.of().interval or (0.0, 0.0)
    assert low <= reach.rate <= high


def jacobians(model: Any, x: Tensor, states: tuple[str, ...]) -> list[np.ndarray]:
    """∂s_t/∂s_{t−1} of one row, by autograd, columns of s_{t−1}."""
    kind = type(model).__name__
    cell = getattr(torch.nn, f"{kind}Cell")(I, H).double()
    parameters = {name: getattr(model, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    s, found = torch.zeros(len(states) * H, dtype=torch.float64), []
    for x_t in x:

        def step(s: Tensor, x_t: Tensor = x_t) -> Tensor:
            h = tuple(s.split(H))
            made = torch.func.functional_call(cell, parameters, (x_t, h if kind == "LSTM" else h[0]))
            return torch.cat(made) if kind == "LSTM" else made

        found.append(torch.autograd.functional.jacobian(step, s).detach().numpy())
        s = step(s).detach()
    return found


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_exponents_and_singular_values_are_those_of_numpy(kind: str) -> None:
    model = network(kind)
    tape, _ = recorded(model)
    reach = tape.reach()
    states = tape.layers[0].cell.sheet.states
    width = len(states) * H
    drawn = torch.randn(width, min(8, width), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for b in range(B):
        steps = jacobians(model, tape.x[:, b], ("h", "c")[: len(states)])
        order = np.concatenate([np.arange(H) + H * ("h", "c").index(state) for state in states])
        steps = [J[np.ix_(order, order)] for J in steps]
        Q, total = np.linalg.qr(drawn.numpy())[0], 0
        for J in reversed(steps):
            Q, R = np.linalg.qr(J.T @ Q)
            total = total + np.log(np.abs(np.diag(R)))
        np.testing.assert_allclose(reach.exponents["l0"][b], np.sort(total / T)[::-1], rtol=1e-8)
        at = list(states).index("h") * H
        for k, found in reach.singular_values["l0"].items():
            product = np.linalg.multi_dot(steps[: T - k - 1 : -1]) if k > 1 else steps[-1]
            expected = np.linalg.svd(product[at : at + H, at : at + H], compute_uv=False)
            np.testing.assert_allclose(found[b], expected[:8], rtol=1e-8, atol=1e-14)


def test_the_radius_is_the_largest_eigenvalue() -> None:
    model = network("GRU")
    tape, _ = recorded(model)
    blocks = model.weight_hh_l0.detach().numpy().reshape(3, H, H)
    expected = {
        name: np.abs(np.linalg.eigvals(W)).max() for name, W in zip(("W_hr", "W_hz", "W_hn"), blocks, strict=True)
    }
    assert tape.reach().radius["l0"] == pytest.approx(expected, rel=1e-12)


def test_saturated_numbers_and_dead_units_are_counted() -> None:
    model: Any = bptt.nn.RNN(1, 3, nonlinearity="relu").double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bias_ih_l0.copy_(torch.tensor([-1.0, 1.0, 0.0]))
        model.weight_ih_l0.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
    x = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None]
    with bptt.recording() as tapes:
        model(x)[0].sum().backward()
    assert tapes[0].reach().saturation == {"l0": {"h": (0.5, pytest.approx(1 / 3))}}


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=str)
def test_windows_lose_what_truncated_backpropagation_loses(options: dict[str, Any]) -> None:
    model = network("LSTM", **options)
    tape, factors = recorded(model)
    for record in tape.layers:
        lost = tape.reach().truncation[f"l0{'_reverse' * record.reverse}"]
        part = slice(H * record.reverse, H * record.reverse + H)
        single = network("LSTM")
        suffix = "_reverse" * record.reverse
        single.load_state_dict({name: getattr(model, name + suffix) for name, _ in single.named_parameters()})
        x, c = (array.flip(0) if record.reverse else array for array in (tape.x, factors[..., part]))
        full = None
        for window in (T, 1, 2, 4, 8):
            single.zero_grad()
            state = None
            for start in range(0, T, window):
                y, state = single(x[start : start + window], state)
                state = tuple(s.detach() for s in state)
                (y * c[start : start + window]).sum().backward()
            parts = [single.weight_ih_l0.grad, single.weight_hh_l0.grad, single.bias_ih_l0.grad]
            own = torch.cat([part.flatten() for part in parts])
            full = own if full is None else full
            if window < T:
                expected = (float(own @ full / own.norm() / full.norm()), float((own - full).norm() / full.norm()))
                assert lost[window] == pytest.approx(expected, rel=1e-9)


def test_tokens_and_tapes_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = bptt.nn.Elman(7, H, 7, num_layers=2).double()
    x = torch.randint(7, (T, B))
    tape = bptt.record(model, x, x)
    tape.save(tmp_path / "t.tape")
    found = bptt.Tape.load(tmp_path / "t.tape").reach()
    assert found.to_dict() == tape.reach().to_dict()
    assert [lags.layer for lags in found.lags] == [0, 1]
    one_hot = torch.nn.functional.one_hot(x, 7).double()
    for lags, own in zip(found.lags, bptt.record(model, one_hot, x).reach().lags, strict=True):
        torch.testing.assert_close(lags.norms, own.norms, rtol=1e-12, atol=0)


def test_half_precision_is_read_as_single(recwarn: pytest.WarningsRecorder) -> None:
    tape, _ = recorded(network("RNN").half(), torch.randn(T, B, I).half())
    assert 0 < tape.reach().rate < 1


def test_layers_beneath_dropout_are_left_out() -> None:
    tape, _ = recorded(network("RNN", num_layers=3, dropout=0.5))
    assert [lags.layer for lags in tape.reach().lags] == [2]


def test_it_prints_plots_and_is_json() -> None:
    tape, _ = recorded(network("LSTM"))
    reach = tape.reach()
    assert reach.verdict.split() == str(reach).split()[-len(reach.verdict.split()) :]
    assert max(map(len, str(reach).splitlines())) <= 80
    assert json.loads(json.dumps(reach.to_dict(), allow_nan=False))["lags"][0]["state"] in ("h", "c")
    assert len(reach.plot().axes) == 2


def test_what_has_no_reach_says_why() -> None:
    model = network("RNN")
    with bptt.recording() as tapes:
        y = model(torch.randn(T, B, I, dtype=torch.float64))[0]
    with pytest.raises(RuntimeError, match="no backward pass"):
        tapes[0].reach()
    (y * 0).sum().backward()
    with pytest.raises(InputError, match="Some gradient must enter"):
        tapes[0].reach()
    short, _ = recorded(model, torch.randn(1, B, I, dtype=torch.float64))
    with pytest.raises(InputError, match="two steps"):
        short.reach()
    tape, _ = recorded(model)
    wrong: Any
    for wrong in (0, True, "some", [], 1.5):
        with pytest.raises(InputError, match="origins must be"):
            tape.reach(wrong)
    with pytest.raises(InputError, match="none does at 11"):
        tape.reach([3, 11])
    x = torch.randn(T, B, I, dtype=torch.float64)
    x[4, 1, 0] = torch.inf
    model = network("RNN", nonlinearity="relu")
    broken, _ = recorded(model, x.abs())
    with pytest.raises(InputError, match=r"layer 0 forward, from step t = 5 on, .* in 1 of 3 rows"):
        broken.reach()


def test_rows_in_the_order_of_computation() -> None:
    tape, _ = recorded(network("RNN", bidirectional=True), lengths=[4, T, 7])
    for record in tape.layers:
        layer = Layer.of(record, torch.float64)
        dense = layer.in_time(record.h)
        assert layer.lengths.tolist() == [T, 7, 4]
        assert not dense[7:, 1].any()
