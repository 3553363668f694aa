"""The reference: side A of any cell by loops written out and by torch's modules, its derived side B by autograd."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import ACTIVATIONS, LENGTHS, UGLY, batch_sizes, tolerance
from drawn import ALL, EVERY_OPTION, Drawn, cotangents, drawn
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from bptt.autograd import function
from bptt.engine import reference
from bptt.engine.contract import Gradients, Weights, read_by_side_b
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import TORCH, elman, gru, lstm

F64 = torch.float64
PHI = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a}
STEPS = {
    "dense": Steps(4, 3),
    "dense, reverse": Steps(4, 3, None, True),
    "packed": Steps(4, 3, [3, 3, 2, 1]),
    "packed, reverse": Steps(4, 3, [3, 2, 2, 1], True),
}
of_all_cells = pytest.mark.parametrize("cell", ALL.values(), ids=ALL)
of_all_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)


def near(cell: Cell) -> dict[str, Any]:
    """Layer norm divides by a deviation that may be small, sLSTM by a sum of exponentials."""
    magnifies = 100 if "norm(" in cell.text or " / n_t" in cell.text else 1
    return {key: magnifies * value for key, value in tolerance(F64).items()}


# Side A


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "B", "I", "H"), UGLY)
def test_the_plain_cell_is_its_sheet(T: int, B: int, I: int, H: int, reverse: bool, activation: str) -> None:
    given = drawn(Cell(elman(activation)), Steps(T, B, None, reverse), sizes={"I": I, "H": H}, spread=H**-0.5)
    W_xh, W_hh, b_h = (given.parameters[name] for name in ("W_xh", "W_hh", "b_h"))
    h, states = given.first[0][0], []
    for x_t in given.x.flip(0) if reverse else given.x:
        h = PHI[activation](x_t @ W_xh + h @ W_hh + b_h)
        states.append(h)
    made = given.forward(reference)
    expected = torch.stack(states[::-1] if reverse else states) if T else given.x.new_zeros(0, B, H)
    torch.testing.assert_close(made.y, expected, **tolerance(F64))
    torch.testing.assert_close(made.last[0][0], h, **tolerance(F64))


def test_all_options_are_their_sheet() -> None:
    given = drawn(Cell(EVERY_OPTION), Steps(3, 2))
    W_xh, W_hh, b_h, gamma, beta = (given.parameters[name] for name in ("W_xh", "W_hh", "b_h", "γ", "β"))
    (mask,), h = given.extras, given.first[0][0]
    made = given.forward(reference)
    for t, x_t in enumerate(given.x):
        a = x_t @ W_xh + (mask * h) @ W_hh + b_h
        n = (a - a.mean(1, keepdim=True)) / (a.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        h = 0.6 * h + 0.4 * torch.tanh(gamma * n + beta + h)
        torch.testing.assert_close(made.y[t], h, **near(given.cell))


def alone(given: Drawn, b: int, length: int) -> Drawn:
    """Row b of a packed batch as a dense batch of one row."""
    sizes, steps = given.steps.sizes, Steps(length, 1, None, given.steps.reverse)
    assert sizes is not None
    places = [sum(sizes[:t]) + b for t in range(length)]
    extras = [mask[b : b + 1] for mask in given.extras[: given.masks]] + [d[places, None] for d in given.inputs]
    first = [h[:, b : b + 1] for h in given.first]
    return Drawn(given.cell, steps, given.x[places, None], first, given.parameters, given.weights, extras)


@of_all_cells
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_rows_are_each_row_alone(reverse: bool, cell: Cell) -> None:
    for lengths in LENGTHS:
        sizes = batch_sizes(lengths)
        given = drawn(cell, Steps(len(sizes), len(lengths), sizes, reverse))
        made = given.forward(reference)
        for b, length in enumerate(lengths):
            row = alone(given, b, length).forward(reference)
            places = [sum(sizes[:t]) + b for t in range(length)]
            torch.testing.assert_close(made.y[places], row.y[:, 0], **near(cell))
            for last, of_row in zip(made.last, row.last, strict=True):
                torch.testing.assert_close(last[:, b], of_row[:, 0], **near(cell))


@pytest.mark.parametrize("text", [elman(), EVERY_OPTION, ALL["lstm"].text, ALL["min gru"].text], ids=str)
@of_all_steps
def test_tokens_are_one_hot_inputs(steps: Steps, text: str) -> None:
    given = drawn(Cell(text), steps, tokens=True)
    other = replace(given, x=F.one_hot(given.x, 4).to(F64))
    made, same = given.forward(reference), other.forward(reference)
    torch.testing.assert_close(made.y, same.y, **near(given.cell))
    dy, d_last = cotangents(made)
    found = given.backward(reference, made, dy, d_last, given.arrays())
    torch.testing.assert_close(
        found, other.backward(reference, same, dy, d_last, other.arrays())[1:], **near(given.cell)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cell", [ALL["elman"], Cell(EVERY_OPTION), ALL["lstm"], ALL["slstm"]], ids=lambda c: c.name)
def test_any_floating_dtype(cell: Cell, dtype: torch.dtype) -> None:
    given = drawn(cell, Steps(3, 2), dtype=dtype)
    made = given.forward(reference)
    arrays = given.backward(reference, made, *cotangents(made), given.arrays())
    assert {array.dtype for array in (made.y, *made.last, *made.kept, *arrays)} == {dtype}


def test_what_is_kept_and_told_and_where_it_goes() -> None:
    for steps in STEPS.values():
        given = drawn(ALL["lstm"], steps)
        plain = given.forward(reference)
        out = torch.empty_like(plain.y)
        made = given.forward(reference, out=out, values=True)
        assert made.y is out
        assert plain.values is None
        assert made.values is not None
        same = (plain.y, plain.last, plain.kept)
        torch.testing.assert_close((made.y, made.last, made.kept), same, rtol=0, atol=0)
        assert list(made.values) == ["ai", "i", "af", "f", "ag", "g", "aq", "q", "c", "u", "h"]
        assert torch.equal(made.values["h"], made.y)
        torch.testing.assert_close(made.values["ai"].sigmoid(), made.values["i"], **tolerance(F64))
        kept = dict(zip(map(str, given.cell.kept), made.kept, strict=False))
        assert all(torch.equal(made.values[name.removesuffix("_t")], array) for name, array in kept.items())


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(bptt.InputError, match=r"tanh, σ, .* got 'gelu'"):
        elman("gelu")
    with pytest.raises(bptt.InputError, match="gelu"):
        Cell("h_t = gelu(x_t W_xh + h_{t-1} W_hh)\n")


# Side B


@of_all_cells
@of_all_steps
def test_side_b_is_the_gradient_of_side_a(steps: Steps, cell: Cell) -> None:
    given = drawn(cell, steps)
    made = given.forward(reference)
    of_y, of_last = cotangents(made)
    for dy, d_last in ((of_y, of_last), (of_y, [None] * len(of_last)), (None, of_last)):
        expected = given.by_autograd(given.forward(reference), dy, d_last)
        with torch.no_grad():
            found = given.backward(reference, made, dy, d_last, given.arrays())
        torch.testing.assert_close(found, expected, **near(cell))


@pytest.mark.parametrize("torch_layout", [False, True], ids=["sheet", "torch"])
@pytest.mark.parametrize(
    "text",
    [
        elman("relu"), EVERY_OPTION, elman(norm=True, bias=False), lstm(), lstm(projection=True, dropout=True),
        lstm(bias=False), gru(), gru(dropout=True, bias=False),
    ],
    ids=str,
)  # fmt: skip
@of_all_steps
def test_weights_of_either_layout(steps: Steps, text: str, torch_layout: bool) -> None:
    given = drawn(Cell(text), steps, sizes={"S": 5}, torch_layout=torch_layout)
    made = given.forward(reference)
    dy, d_last = cotangents(made)
    expected = given.by_autograd(made, dy, d_last)
    with torch.no_grad():
        found = given.backward(reference, made, dy, d_last, given.arrays())
    torch.testing.assert_close(found, expected, **near(given.cell))
    if torch_layout:
        assert {name for parts in TORCH.values() for name, *_ in parts} >= set(given.weights.layout.names)


@of_all_cells
def test_what_side_b_is_said_not_to_read_may_be_anything(cell: Cell) -> None:
    given = drawn(cell, Steps(4, 3))
    with torch.no_grad():
        made = given.forward(reference)
        dy, d_last = cotangents(made)
        every = [given.x, *given.first, *given.weights.tensors, *given.extras]
        before = len(every) - len(given.extras)
        masks = before, before + given.masks
        for asked in (None, 0, *range(1, len(every))):
            if asked is not None and masks[0] <= asked < masks[1]:
                continue
            needed = [k == asked or asked is None for k in range(len(every))]
            needed[masks[0] : masks[1]] = [False] * given.masks
            read = read_by_side_b(cell, given.weights.layout, tuple(needed))
            fouled = [
                tensor if is_read or tensor is None else torch.full_like(tensor, torch.nan)
                for tensor, is_read in zip(every, read, strict=True)
            ]
            found = []
            for tensors in (every, fouled):
                first, weights = 1 + len(given.first), len(given.weights.tensors)
                other = Drawn(
                    cell, given.steps, tensors[0], tensors[1:first], {},
                    Weights(given.weights.layout, tensors[first : first + weights]), tensors[first + weights :],
                )  # fmt: skip
                arrays = given.arrays()
                wanted = [array for array, need in zip(_flat(arrays, given.masks), needed, strict=True) if need]
                _drop(arrays, needed, given.masks)
                other.backward(reference, made, dy, d_last, arrays)
                found.append(wanted)
            torch.testing.assert_close(*found, rtol=0, atol=0)


def _flat(into: Gradients, masks: int) -> list[Tensor | None]:
    return [into.x, *into.first, *into.weights, *[None] * masks, *into.inputs]


def _drop(into: Gradients, needed: list[bool], masks: int) -> None:
    """Leaves the arrays of what is not needed out."""
    kept = [array if need else None for array, need in zip(_flat(into, masks), needed, strict=True)]
    first, weights = 1 + len(into.first), 1 + len(into.first) + len(into.weights)
    into.x, into.first, into.weights, into.inputs = kept[0], kept[1:first], kept[first:weights], kept[weights + masks :]


@of_all_steps
def test_cotangents_are_the_whole_story(steps: Steps) -> None:
    given = drawn(ALL["lstm"], steps)
    with torch.no_grad():
        made = given.forward(reference, values=True)
        into = given.arrays()
        into.cotangents = told = {}
        dy, d_last = cotangents(made)
        given.backward(reference, made, dy, d_last, into)
        v = made.values
        assert v is not None
        assert told.keys() == v.keys()
        of_sigmoid = {"ai": "i", "af": "f", "aq": "q"}
        for a, gate in of_sigmoid.items():
            torch.testing.assert_close(told[a], told[gate] * v[gate] * (1 - v[gate]), **tolerance(F64))
        torch.testing.assert_close(told["ag"], told["g"] * (1 - v["g"] ** 2), **tolerance(F64))
        torch.testing.assert_close(told["i"], told["c"] * v["g"], **tolerance(F64))
        torch.testing.assert_close(told["q"], told["h"] * v["u"], **tolerance(F64))
        rows = {name: d.flatten(0, -2) for name, d in told.items()}
        gradients = dict(zip(given.weights.layout.names, into.weights, strict=True))
        for gate in "ifgq":
            torch.testing.assert_close(gradients[f"b_{gate}"], rows[f"a{gate}"].sum(0), **tolerance(F64))
            expected = given.x.flatten(0, -2).mT @ rows[f"a{gate}"]
            torch.testing.assert_close(gradients[f"W_x{gate}"], expected, **tolerance(F64))


@of_all_cells
def test_gradients_of_samples_and_of_steps_add_up(cell: Cell) -> None:
    given = drawn(cell, Steps(4, 6))
    with torch.no_grad():
        made = given.forward(reference)
        into = given.arrays()
        into.cotangents = {}
        dy, d_last = cotangents(made)
        given.backward(reference, made, dy, d_last, into)
        each = reference.of_samples(
            cell, given.weights, made, given.x, given.first, given.steps, into.cotangents, 3, given.extras
        )
        torch.testing.assert_close([d.sum(0) for d in each], list(into.weights), **near(cell))
        rows = [[1, 4], [0, 3]]
        of_rows = []
        for own in rows:
            extras = [m[own] for m in given.extras[: given.masks]] + [d[:, own] for d in given.inputs]
            part = Drawn(
                cell, Steps(4, 2), given.x[:, own], [h[:, own] for h in given.first], {}, given.weights, extras
            )
            arrays = part.arrays()
            part.backward(reference, part.forward(reference), dy[:, own], [d[:, own] for d in d_last], arrays)
            of_rows.append(list(arrays.weights))
        torch.testing.assert_close([[d[1] for d in each], [d[0] for d in each]], of_rows, **near(cell))
        once = [d.clone() for d in into.weights if d is not None]
        into.accumulate, into.cotangents = True, None
        given.backward(reference, made, dy, d_last, into)
        twice = [2 * d for d in once]
        torch.testing.assert_close(list(into.weights), twice, **near(cell))


CHECKED = {name: ALL[name] for name in ("lstm", "gru", "gru-v1", "peephole", "indrnn", "scrn", "gru-d", "zoneout lstm")}
CHECKED |= {"all options": Cell(EVERY_OPTION), "relu": Cell(elman("relu")), "fixed lines": ALL["antisymmetric"]}


@pytest.mark.parametrize("cell", CHECKED.values(), ids=CHECKED)
@pytest.mark.parametrize("steps", [Steps(2, 2), Steps(3, 2, [2, 1, 1], True)], ids=["dense", "packed"])
def test_first_and_second_derivatives(steps: Steps, cell: Cell) -> None:
    given = drawn(cell, steps, sizes={"I": 2, "H": 3, "S": 1})
    extras = given.extras[: given.masks]
    leaves = [given.x, *given.first, *given.weights.tensors, *given.inputs]
    flat = [leaf.detach().requires_grad_() for leaf in leaves if leaf is not None]
    states, weights = 1 + len(given.first), 1 + len(given.first) + len(given.weights.tensors)

    def layer(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        every = (x, *tensors)
        with bptt.using("reference"):
            y, last = function.layer(
                cell, x, every[1:states], every[states:weights], [*extras, *every[weights:]],
                sizes=steps.sizes, reverse=steps.reverse,
            )  # fmt: skip
        return y, *last

    assert torch.autograd.gradcheck(layer, flat, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, flat, fast_mode=True)


# At the edges of numbers


EDGES = torch.tensor([-torch.inf, -1e30, -2.0, -0.0, 0.0, 0.5, 1.0, 1e30, torch.inf, torch.nan], dtype=F64)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        return a.clone()

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> Tensor:
        return 0.9 * d[0]


LIKE_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh({})": torch.tanh,
    "σ({})": torch.sigmoid,
    "relu({})": torch.relu,
    "identity({})": lambda a: a,
    "exp({})": torch.exp,
    "log({})": torch.log,
    "sqrt({})": torch.sqrt,
    "abs({})": torch.abs,
    "clip({}, −2, 1)": lambda a: a.clamp(-2, 1),
    "scale_gradient({}, 0.9)": lambda a: _Scaled.apply(a),
    "softmax({})": lambda a: a.softmax(-1),
    "1 / {}": lambda a: 1 / a,
}


@pytest.mark.parametrize("form", LIKE_TORCH)
def test_functions_at_the_edges_are_those_of_torch(form: str) -> None:
    """One row for each value and cotangent, of one unit."""
    cell = Cell(f"s_t = {form.format('x_t')}\nh_t = s_t + 0 ⊙ h_{{t-1}}\n")
    seeds = torch.tensor([1.0, torch.inf, -torch.inf, torch.nan], dtype=F64)
    a, d = (tensor.reshape(1, -1, 1) for tensor in torch.cartesian_prod(EDGES, seeds).unbind(1))
    theirs = a.clone().requires_grad_()
    y = LIKE_TORCH[form](theirs)
    expected = torch.autograd.grad(y, theirs, d)[0]
    given = drawn(cell, Steps.of(a), sizes={"I": 1, "H": 1})
    given.x, given.first = a, [torch.zeros(1, a.shape[1], 1, dtype=F64)]
    made = given.forward(reference)
    torch.testing.assert_close(made.y, y.detach(), rtol=0, atol=0, equal_nan=True)
    into = given.arrays()
    given.backward(reference, made, d, [None], into)
    torch.testing.assert_close(into.x, expected, rtol=1e-15, atol=0, equal_nan=True)


# torch's own modules as judges


GATES = {"lstm": ["i", "f", "g", "q"], "gru": ["r", "z", "n"]}


def of_torch(name: str, tensors: dict[str, Tensor], suffix: str) -> dict[str, Tensor]:
    """Our parameters of one layer and direction from those of torch.nn.LSTM or torch.nn.GRU.

    b_i and the like from a bias of the inputs alone; the other bias has to be zero where we have none.
    """
    gates, found = GATES[name], {}
    W_x, W_h, b_x, b_h = (
        tensors[f"{kind}_{suffix}"].chunk(len(gates)) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    for k, gate in enumerate(gates):
        found[f"W_x{gate}"], found[f"W_h{gate}"] = W_x[k].mT, W_h[k].mT
        if (name, gate) == ("gru", "n"):
            found["b_xn"], found["b_hn"] = b_x[k], b_h[k]
        else:
            found[f"b_{gate}"] = b_x[k]
    return {f"{key}_{suffix}": value for key, value in found.items()}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("engine", ["reference", None])
@pytest.mark.filterwarnings("ignore:bptt runs on the slow reference engine")
def test_lstm_and_gru_are_those_of_torch(name: str, num_layers: int, bidirectional: bool, engine: str | None) -> None:
    kinds: dict[str, Any] = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    theirs = kinds[name](4, 5, num_layers, bidirectional=bidirectional, dtype=F64)
    ours = bptt.nn.Recurrent(name, 4, 5, num_layers, bidirectional=bidirectional, dtype=F64)
    layers = [f"l{k}{way}" for k in range(num_layers) for way in ("", "_reverse")[: 1 + bidirectional]]
    for key, bias in theirs.named_parameters():
        if key.startswith("bias_hh"):  # which we have beside the n of gru alone
            bias.detach()[: None if name == "lstm" else 10] = 0

    def of_all_layers(tensors: dict[str, Any]) -> dict[str, Tensor]:
        return {key: value for suffix in layers for key, value in of_torch(name, tensors, suffix).items()}

    ours.load_state_dict(of_all_layers(theirs.state_dict()))
    states = 2 if name == "lstm" else 1
    for lengths in (None, [6, 4, 4, 1]):
        x = torch.randn(6, 4, 4, dtype=F64, requires_grad=True)
        hx = [torch.randn(len(layers), 4, 5, dtype=F64, requires_grad=True) for _ in range(states)]
        results = []
        for module in (ours, theirs):
            given = x if lengths is None else pack_padded_sequence(x, lengths)
            if engine is None or module is theirs:
                output, last = module(given, tuple(hx) if states == 2 else hx[0])
            else:
                with bptt.using(engine):
                    output, last = module(given, tuple(hx) if states == 2 else hx[0])
            output = output.data if isinstance(output, PackedSequence) else output
            outputs = [output, *(last if isinstance(last, tuple) else [last])]
            torch.manual_seed(3)
            seeds = [torch.randn_like(y) for y in outputs]
            module.zero_grad()
            of_inputs = torch.autograd.grad(outputs, [x, *hx], seeds, retain_graph=True)
            torch.autograd.backward(outputs, seeds, inputs=list(module.parameters()))
            results.append([*outputs, *of_inputs])
        torch.testing.assert_close(*results, **tolerance(F64))
        expected = of_all_layers({key: parameter.grad for key, parameter in theirs.named_parameters()})
        assert expected.keys() == dict(ours.named_parameters()).keys()
        found = {key: ours.get_parameter(key).grad for key in expected}
        torch.testing.assert_close(found, expected, **tolerance(F64))
