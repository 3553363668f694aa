"""LSTM and GRU beyond torch: what RNN has, they have. Equality with torch is in test_parity.py and
test_torch_modules.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

import bptt
from bptt.nn import GRU, LSTM, Recurrent

F64 = torch.float64
KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "lstm": (LSTM, {}),
    "lstm, projected": (LSTM, {"proj_size": 2}),
    "gru": (GRU, {}),
}
of_kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, *args: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    module, own = KINDS[kind]
    return module(*args, **own, **{"dtype": F64} | options)


def states(last: Any) -> tuple[Tensor, ...]:
    return last if isinstance(last, tuple) else (last,)


def everything(module: Any, x: Tensor, **options: Any) -> list[Tensor]:
    output, last = module(x, **options)
    results = [output, *states(last)]
    cotangents = [torch.ones_like(tensor) for tensor in results]
    return [*results, *torch.autograd.grad(results, list(module.parameters()), cotangents)]


@of_kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_are_rows_by_themselves(kind: str, bidirectional: bool) -> None:
    model = made(kind, 3, 4, 2, bidirectional=bidirectional)
    x = torch.randn(6, 4, 3, dtype=F64)
    lengths = [2, 6, 0, 4]
    for row, length in enumerate(lengths):
        x[length:, row] = torch.nan
    output, last = model(x, lengths=lengths)
    for row, length in enumerate(lengths):
        assert not output[length:, row].any()
        if length:
            alone, ended = model(x[:length, row : row + 1])
            torch.testing.assert_close(output[:length, row], alone[:, 0], **tolerance(F64))
            for every, own in zip(states(last), states(ended), strict=True):
                torch.testing.assert_close(every[:, row], own[:, 0], **tolerance(F64))


@of_kinds
def test_a_reset_begins_a_sequence_of_its_own(kind: str) -> None:
    model = made(kind, 3, 4, learn_h0=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x, reset = torch.randn(6, 2, 3, dtype=F64), torch.zeros(6, 2, dtype=torch.bool)
    reset[4, 1] = True
    output, last = model(x, reset=reset)
    torch.testing.assert_close(output[:, 0], model(x)[0][:, 0], **tolerance(F64))
    after, ended = model(x[4:, 1:])
    torch.testing.assert_close(output[4:, 1:], after, **tolerance(F64))
    for every, own in zip(states(last), states(ended), strict=True):
        torch.testing.assert_close(every[:, 1:], own, **tolerance(F64))


@of_kinds
def test_first_states_that_are_learnt(kind: str) -> None:
    model = made(kind, 3, 4, 2, learn_h0=True)
    names = [name for name, _ in model.named_parameters() if "0_l" in name]
    assert names == (["h0_l0", "c0_l0", "h0_l1", "c0_l1"] if kind.startswith("lstm") else ["h0_l0", "h0_l1"])
    assert not any(model.get_parameter(name).any() for name in names)
    for name in names:
        torch.nn.init.normal_(model.get_parameter(name))
    x = torch.randn(5, 3, 3, dtype=F64)
    given = [
        torch.stack([model.get_parameter(name).expand(3, -1) for name in names if name.startswith(letter)])
        for letter in ("h", "c")[: len(names) // 2]
    ]
    torch.testing.assert_close(model(x), model(x, tuple(given) if len(given) > 1 else given[0]), **tolerance(F64))
    model(x)[0].sum().backward()
    assert all(model.get_parameter(name).grad.any() for name in names)


@of_kinds
def test_jagged_in_jagged_out(kind: str) -> None:
    model = made(kind, 3, 4)
    rows = [torch.randn(n, 3, dtype=F64) for n in (4, 1, 6)]
    output, _ = model(torch.nested.nested_tensor(rows, layout=torch.jagged))
    for row, found in zip(rows, output.unbind(), strict=True):
        torch.testing.assert_close(found, model(row)[0], **tolerance(F64))


@pytest.mark.parametrize("module", [LSTM, GRU])
def test_layers_of_different_sizes_are_layers_on_layers(module: type[Any]) -> None:
    model = module(3, [5, 2], bidirectional=True, dtype=F64)
    gates = 4 if module is LSTM else 3
    assert model.get_parameter("weight_ih_l1_reverse").shape == (2 * gates, 10)
    below, above = module(3, 5, bidirectional=True, dtype=F64), module(10, 2, bidirectional=True, dtype=F64)
    own = model.state_dict()
    below.load_state_dict({name: tensor for name, tensor in own.items() if "_l0" in name})
    above.load_state_dict({name.replace("_l1", "_l0"): tensor for name, tensor in own.items() if "_l1" in name})
    x = torch.randn(6, 2, 3, dtype=F64)
    output, last, layers = model(x, return_all_layers=True)
    torch.testing.assert_close(layers[0], below(x)[0], **tolerance(F64))
    torch.testing.assert_close(output, above(below(x)[0])[0], **tolerance(F64))
    for of_state, ended in zip(states(last) if module is LSTM else (last,), states(above(layers[0])[1]), strict=True):
        torch.testing.assert_close(of_state[1], ended, **tolerance(F64))
    torch.testing.assert_close(model(x, last)[0].shape, output.shape)
    with pytest.raises(bptt.InputError, match="proj_size is for layers of one size"):
        LSTM(3, [5, 2], proj_size=1)


def test_ways_to_begin() -> None:
    lstm = made("lstm", 3, 4, init={"b_f": 1, "W_hg": "identity"}, learn_h0=True)
    bias_ih, bias_hh = lstm.get_parameter("bias_ih_l0"), lstm.get_parameter("bias_hh_l0")
    assert torch.equal(bias_ih[4:8] + bias_hh[4:8], torch.ones(4, dtype=F64))
    assert bias_ih[:4].any()
    assert torch.equal(lstm.get_parameter("weight_hh_l0")[8:12], torch.eye(4, dtype=F64))
    torch.manual_seed(1)
    theirs = torch.nn.LSTM(3, 4, dtype=F64)
    assert torch.equal(lstm.get_parameter("weight_ih_l0"), theirs.get_parameter("weight_ih_l0"))
    for gate in made("lstm, projected", 3, 4, init="orthogonal").get_parameter("weight_hh_l0").chunk(4):
        torch.testing.assert_close(gate.mT @ gate, torch.eye(2, dtype=F64))
    gru = made("gru", 3, 4, 2, init="orthogonal", bidirectional=True)
    for name, parameter in gru.named_parameters():
        if name.startswith("bias"):
            assert not parameter.any()
        if name.startswith("weight_hh"):
            for gate in parameter.chunk(3):
                torch.testing.assert_close(gate @ gate.mT, torch.eye(4, dtype=F64))
    with pytest.raises(bptt.InputError, match=r"init= says how parameters begin.*; got 'b_z'\. Did you mean b_q\?"):
        LSTM(3, 4, init={"b_z": 1})
    with pytest.raises(bptt.InputError, match=r"'spectral:1\.0'.*or a dict.*got 'xavier'"):
        GRU(3, 4, init="xavier")


def test_chrono_draws_times_that_gates_keep_and_leaves_the_rest() -> None:
    lstm = LSTM(3, 4000, init="chrono:50", dtype=F64)
    b_i, b_f, b_g, b_q = (lstm.get_parameter("bias_ih_l0") + lstm.get_parameter("bias_hh_l0")).detach().chunk(4)
    assert torch.equal(b_i, -b_f)
    assert not b_g.any()
    assert not b_q.any()
    u = b_f.exp()  # uniform in [1, 49]
    assert 1 <= u.min() < 1.5
    assert 48.5 < u.max() <= 49 + 1e-9
    torch.testing.assert_close(u.mean(), torch.tensor(25.0, dtype=F64), rtol=0, atol=1)
    assert float(lstm.get_parameter("weight_hh_l0").detach().abs().max()) <= 4000**-0.5
    b_r, b_z, b_n = GRU(3, 40, 2, init="chrono:50").get_parameter("bias_ih_l1").detach().chunk(3)
    assert 0 <= b_z.min() < 1.5 < 3 < b_z.max() <= 3.9
    assert not b_r.any()
    assert not b_n.any()
    with torch.no_grad():  # nothing comes in, and f = u / (1 + u)
        lstm = LSTM(1, 200, init="chrono:400", dtype=F64)
        for name in ("weight_hh_l0", "weight_ih_l0"):
            lstm.get_parameter(name).zero_()
        _, (_, c) = lstm(torch.zeros(1, 1, 1, dtype=F64), tuple(torch.full((1, 1, 200), k, dtype=F64) for k in (0, 1)))
    u = lstm.get_parameter("bias_ih_l0").detach()[200:400].exp()
    torch.testing.assert_close(c[0, 0], u / (1 + u))


@pytest.mark.parametrize(
    ("cell", "bias", "sign"),
    [("mgu", "b_f", -1), ("gru-v1", "b_z", 1), ("peephole", "b_f", 1), ("peephole", "b_i", -1)],
)
def test_chrono_finds_the_gates_of_other_cells(cell: str, bias: str, sign: int) -> None:
    values = dict(Recurrent(cell, 3, 30, init="chrono:100").named_parameters())
    assert ((sign * values.pop(f"{bias}_l0")) >= 0).all()
    assert all(not p.any() for name, p in values.items() if name[:2] == "b_" and name[2] not in "if")


def test_chrono_wants_gates_with_biases() -> None:
    for make in (lambda: bptt.nn.RNN(3, 4, init="chrono:9"), lambda: LSTM(3, 4, bias=False, init="chrono:9")):
        with pytest.raises(
            bptt.InputError, match=r"for gates that keep a state.*got a cell that has none\. Take LSTM or GRU"
        ):
            make()
    for how in ("chrono", "chrono:2", "chrono:inf", "chrono:x"):
        with pytest.raises(bptt.InputError, match="steps to remember, above 2"):
            LSTM(3, 4, init=how)
    with pytest.raises(bptt.InputError, match=r"sets the biases of all gates.*got it for 'b_f' alone"):
        LSTM(3, 4, init={"b_f": "chrono:9"})


@of_kinds
@pytest.mark.parametrize("lengths", [None, [7, 3]])
def test_checkpoints_change_no_bit(kind: str, lengths: list[int] | None) -> None:
    model = made(kind, 3, 4, 2)
    x = torch.randn(7, 2, 3, dtype=F64)
    expected = everything(model, x, lengths=lengths)
    for checkpoint in (2, "auto"):
        model.checkpoint = checkpoint
        torch.testing.assert_close(everything(model, x, lengths=lengths), expected, rtol=0, atol=0)


@of_kinds
def test_recurrent_dropout_is_one_mask_for_all_steps_and_gates(kind: str) -> None:
    model = made(kind, 3, 8, recurrent_dropout=0.5)
    x = torch.randn(6, 5, 3, dtype=F64)
    with bptt.recording() as tapes:
        model(x)[0].square().sum().backward()
    (record,) = tapes[0].layers
    (mask,) = (name for name, given in record.cell.sheet.given.items() if given.kind == "drop")
    assert set(record.weights[mask].unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(record["s"][1:], record["h"][:-1] * record.weights[mask], rtol=0, atol=0)
    assert tapes[0].check().ok
    model.eval()
    plain = made(kind, 3, 8)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x)[0], plain(x)[0])


@of_kinds
def test_streams_hand_states_on(kind: str) -> None:
    model, x = made(kind, 3, 4), torch.randn(6, 2, 3, dtype=F64)
    stream = bptt.nn.Stream(model)
    windows = [stream(window)[0] for window in x.split(2)]
    torch.testing.assert_close(torch.cat(windows), model(x)[0], **tolerance(F64))


@of_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    model, x = made(kind, 3, 4, dtype=torch.float32), torch.randn(5, 2, 3)
    expected, last = model(x.to(dtype).float())
    output, ended = model(x.to(dtype))
    assert torch.equal(output, expected.to(dtype))
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(states(ended), states(last), strict=True))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_autocast_returns_what_torch_returns(name: str) -> None:
    ours, theirs = getattr(bptt.nn, name)(3, 4), getattr(torch.nn, name)(3, 4)
    x = torch.randn((2, 3) if name.endswith("Cell") else (5, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (tree_leaves(module(x)) for module in (ours, theirs))
    assert [(tensor.dtype, tensor.shape) for tensor in found] == [(tensor.dtype, tensor.shape) for tensor in expected]


@of_kinds
def test_tokens_are_one_hot_rows(kind: str) -> None:
    model, x = made(kind, 3, 4), torch.randint(3, (5, 2))
    one_hot = torch.nn.functional.one_hot(x, 3).double()
    torch.testing.assert_close(everything(model, x), everything(model, one_hot), **tolerance(F64))


@of_kinds
def test_it_compiles_in_one_graph(kind: str) -> None:
    model = made(kind, 3, 4, 2, bidirectional=True, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for T, B in ((5, 2), (3, 4)):
        x = torch.randn(T, B, 3)
        torch.testing.assert_close(everything(compiled, x), everything(model, x), **tolerance(torch.float32))


@of_kinds
def test_exported_programs_take_any_length_and_batch(kind: str) -> None:
    model = made(kind, 3, 4, 2)
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    program = torch.export.export(model, (torch.randn(5, 2, 3, dtype=F64),), dynamic_shapes=({0: T, 1: B},))
    x = torch.randn(9, 3, 3, dtype=F64)
    torch.testing.assert_close(program.module()(x), model(x), **tolerance(F64))


@of_kinds
def test_gradients_of_every_sample_and_jacobians(kind: str) -> None:
    model, x = made(kind, 3, 4), torch.randn(3, 5, 1, 3, dtype=F64)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, weights, (x,))[0].square().sum()

    of_each = torch.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    for sample in range(3):
        alone = torch.func.grad(loss)(weights, x[sample])
        for name, gradient in alone.items():
            torch.testing.assert_close(of_each[name][sample], gradient, **tolerance(F64))
    jacobian = torch.func.jacrev(lambda x: model(x)[0])(x[0])
    by_autograd = torch.autograd.functional.jacobian(lambda x: model(x)[0], x[0])
    torch.testing.assert_close(jacobian, by_autograd, **tolerance(F64))


@of_kinds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_has_the_operator_at_any_length_and_batch(kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = made(kind, 3, 4, 2, bidirectional=True, dtype=torch.float32)
    path = tmp_path / "model.onnx"
    if kind == "lstm, projected":
        with pytest.raises(bptt.InputError, match="ONNX has operators for"):
            bptt.onnx.export(model, (torch.randn(5, 2, 3),), path, dynamic_shapes=({0: "T", 1: "B"},))
        return
    bptt.onnx.export(model, (torch.randn(5, 2, 3),), path, dynamic_shapes=({0: "T", 1: "B"},))
    without = made(kind, 3, 4, bias=False, dtype=torch.float32)
    bptt.onnx.export(without, (torch.randn(5, 2, 3),), tmp_path / "without.onnx")
    x = torch.randn(5, 2, 3)
    session = runtime.InferenceSession(str(tmp_path / "without.onnx"))
    output = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(output, without(x)[0], **tolerance(torch.float32))
    session = runtime.InferenceSession(str(path))
    for T, B in ((5, 2), (11, 3)):
        x = torch.randn(T, B, 3)
        output, last = model(x)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for ours, theirs in zip((output, *states(last)), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, **tolerance(torch.float32))


@of_kinds
def test_bits_do_not_depend_on_threads(kind: str) -> None:
    model, x = made(kind, 40, 70, dtype=torch.float32), torch.randn(30, 9, 40)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(everything(model, x))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@of_kinds
def test_recording_changes_no_bit_and_opens_every_gate(kind: str, tmp_path: Path) -> None:
    model, x = made(kind, 3, 4, 2, bidirectional=True), torch.randn(5, 2, 3, dtype=F64)
    expected = everything(model, x)
    with bptt.recording() as tapes:
        output, last = model(x)
        results = [output, *states(last)]
        torch.autograd.backward(results, [torch.ones_like(tensor) for tensor in results])
    torch.testing.assert_close([*results, *(p.grad for p in model.parameters())], expected, rtol=0, atol=0)
    (tape,) = tapes
    assert tape.check().ok
    for name in ("i", "f", "g", "q", "c") if kind.startswith("lstm") else ("r", "z", "n"):
        assert tape[name].shape == tape.d(name).shape == (5, 2, 8)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(tape.grad(name), parameter.grad, **tolerance(F64))
        shares = [tape.grad(name, step=t) for t in range(5)]
        torch.testing.assert_close(torch.stack(shares).sum(0), parameter.grad, **tolerance(F64))
        if name.startswith("weight"):
            assert torch.equal(tape[name], parameter)
    for letter in ("h", "c")[: 1 + kind.startswith("lstm")]:
        first = [tape[f"{letter}0_l1"], tape[f"{letter}0_l1_reverse"]]
        assert torch.equal(tape[f"{letter}0"], torch.cat(first, -1))
        assert tape.d(f"{letter}0").shape == tape[f"{letter}0"].shape
    tape.save(tmp_path / "run.tape")
    assert bptt.Tape.load(tmp_path / "run.tape").check().ok


@of_kinds
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_ensembles_forward_mode_and_many_cotangents_at_once(kind: str) -> None:
    model, x = made(kind, 3, 4), torch.randn(5, 2, 3, dtype=F64)
    members = [{name: torch.randn_like(p) for name, p in model.named_parameters()} for _ in range(2)]
    together = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    found = torch.vmap(lambda weights: functional_call(model, weights, (x,))[0])(together)
    for output, member in zip(found, members, strict=True):
        torch.testing.assert_close(output, functional_call(model, member, (x,))[0], **tolerance(F64))
    tangent = torch.randn_like(x)
    along = torch.func.jvp(lambda x: model(x)[0], (x,), (tangent,))[1]
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0], x, vectorize=True)
    one_by_one = torch.autograd.functional.jacobian(lambda x: model(x)[0], x)
    torch.testing.assert_close(jacobian, one_by_one, **tolerance(F64))
    torch.testing.assert_close(along, torch.einsum("tbhsci,sci->tbh", jacobian, tangent), **tolerance(F64))


@of_kinds
def test_single_rows_of_a_stream_begin_anew(kind: str) -> None:
    model, x = made(kind, 3, 4), torch.randn(6, 2, 3, dtype=F64)
    stream = bptt.nn.Stream(model)
    stream(x[:3])
    stream.reset([1])
    output, _ = stream(x[3:])
    torch.testing.assert_close(output[:, 1:], model(x[3:, 1:])[0], **tolerance(F64))
    torch.testing.assert_close(output[:, :1], model(x[:, :1])[0][3:], **tolerance(F64))


@of_kinds
def test_a_second_way_back_and_an_output_changed_in_place_are_explained(kind: str) -> None:
    model, x = made(kind, 3, 4), torch.randn(6, 2, 3, dtype=F64)
    output, last = model(x)
    output.sum().backward()
    with pytest.raises(RuntimeError, match=r"hand it on detached.*bptt\.nn\.Stream"):
        model(x, last)[0].sum().backward()
    output, _ = model(x)
    with pytest.raises(RuntimeError, match="changed in place since"):
        output.mul_(2).sum().backward()


@pytest.mark.parametrize("module", [LSTM, GRU, bptt.nn.RNN])
def test_one_hot_vectors_are_floats(module: type[Any]) -> None:
    model, one_hot = module(3, 4), torch.nn.functional.one_hot(torch.tensor([[0, 2], [1, 1], [2, 0]]), 3)
    with pytest.raises(ValueError, match=rf"{module.__name__}: Expected .* got 3D tensor .*floats here: x\.float"):
        model(one_hot)
    with pytest.warns(UserWarning, match=r"holds a single 1 in each row of 3 numbers.*One-hot vectors are floats"):
        model(one_hot[:, 0])
    model(torch.tensor([[0, 2, 1], [1, 1, 1]]))
    model(one_hot[:, 0, :2])


@of_kinds
def test_fx_has_one_node_for_it(kind: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = made(kind, 3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)[0]

    model, x = Model(), torch.randn(6, 2, 3, dtype=F64)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["layers"]
    assert torch.equal(traced(x), model(x))
