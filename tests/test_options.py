"""What the constructor of RNN takes beyond torch's, and half precision."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import ACTIVATIONS, tolerance
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.nn import initial

F64 = torch.float64
NOT_A_SIZE: Any = "20"
HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("nonlinearity", ACTIVATIONS)
def test_layers_of_different_sizes_are_layers_on_layers(nonlinearity: str, bidirectional: bool) -> None:
    rnn = bptt.nn.RNN(3, [6, 2, 5], nonlinearity=nonlinearity, bidirectional=bidirectional, dtype=F64)
    directions = 1 + bidirectional
    x = torch.randn(4, 2, 3, dtype=F64)
    hx = tuple(torch.randn(directions, 2, size, dtype=F64) for size in (6, 2, 5))
    below = [x]
    for k, size in enumerate((6, 2, 5)):
        one = bptt.nn.RNN(below[-1].shape[-1], size, 1, nonlinearity, bidirectional=bidirectional, dtype=F64)
        own = {name: value for name, value in rnn.state_dict().items() if f"_l{k}" in name}
        one.load_state_dict({name.replace(f"_l{k}", "_l0"): value for name, value in own.items()})
        states, h_n = one(below[-1], hx[k])
        assert torch.equal(h_n, rnn(x, hx)[1][k])
        below.append(states)
    output, h_n, layers = rnn(x, hx, return_all_layers=True)
    assert torch.equal(output, below[-1])
    assert [h.shape for h in h_n] == [(directions, 2, size) for size in (6, 2, 5)]
    assert all(torch.equal(mine, other) for mine, other in zip(layers, below[1:], strict=True))
    assert torch.equal(rnn(x[:, 0], tuple(h[:, 0] for h in hx))[0], output[:, 0])
    alone, ends = rnn(x, hx, lengths=[4, 0])
    assert torch.equal(alone[:, 0], output[:, 0])
    assert all(torch.equal(end[:, 1], h[:, 1]) for end, h in zip(ends, hx, strict=True))


def test_equal_sizes_in_a_list_have_the_names_and_shapes_of_torch() -> None:
    theirs, ours = torch.nn.RNN(3, 5, 2, bidirectional=True), bptt.nn.RNN(3, [5, 5], bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], **tolerance(torch.float32))
    assert torch.equal(torch.cat(ours(x)[1]), bptt.convert(copy.deepcopy(theirs))(x)[1])


def test_derivatives_with_layers_of_different_sizes() -> None:
    rnn = bptt.nn.RNN(2, [3, 2], bidirectional=True, learn_h0=True, dtype=F64)
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        output, h_n = rnn(x)
        return output, *h_n

    assert torch.autograd.gradcheck(run, (x, *rnn.parameters()))


def test_each_layer_is_drawn_for_its_own_size() -> None:
    rnn = bptt.nn.RNN(3, [400, 25])
    for name, value in rnn.named_parameters():
        bound = 0.05 if name.endswith("l0") else 0.2
        assert 0.8 * bound < value.abs().max() <= bound


def test_a_network_begins_as_torch_does_unless_told() -> None:
    torch.manual_seed(5)
    theirs = torch.nn.RNN(3, 8, 2, bidirectional=True)
    after = torch.rand(1)
    torch.manual_seed(5)
    ours = bptt.nn.RNN(3, 8, 2, bidirectional=True, init="torch")
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    torch.manual_seed(6)
    theirs.reset_parameters()
    torch.manual_seed(6)
    ours.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("init", ["orthogonal", "identity", "spectral:1.25"])
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_ways_to_begin(init: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    theirs = torch.nn.RNN(3, 8, 2, dtype=dtype)
    torch.manual_seed(5)
    rnn = bptt.nn.RNN(3, 8, 2, init=init, dtype=dtype)
    near = {"rtol": 0, "atol": {F64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]}
    for drawn_again in (False, True):
        if drawn_again:
            for module in (rnn, theirs):
                torch.manual_seed(7)
                module.reset_parameters()
        for k in range(2):
            W_hh = rnn.get_parameter(f"weight_hh_l{k}").detach().double()
            if init == "spectral:1.25":
                radius = torch.linalg.eigvals(W_hh).abs().max()
                torch.testing.assert_close(radius, torch.tensor(1.25, dtype=F64), **near)
            else:
                torch.testing.assert_close(W_hh @ W_hh.mT, torch.eye(8, dtype=F64), **near)
                assert torch.equal(W_hh, torch.eye(8, dtype=F64)) == (init == "identity")
            assert not rnn.get_parameter(f"bias_hh_l{k}").any()
            assert not rnn.get_parameter(f"bias_ih_l{k}").any()
            assert torch.equal(rnn.get_parameter(f"weight_ih_l{k}"), theirs.get_parameter(f"weight_ih_l{k}"))


def test_a_given_state_goes_before_the_learnt_one() -> None:
    rnn = bptt.nn.RNN(3, 4, 2, learn_h0=True, dtype=F64)
    plain = bptt.nn.RNN(3, 4, 2, dtype=F64)
    plain.load_state_dict(rnn.state_dict(), strict=False)
    x, hx = torch.randn(5, 2, 3, dtype=F64), torch.randn(2, 2, 4, dtype=F64)
    assert torch.equal(rnn(x)[0], plain(x)[0])  # zero before it is trained
    learnt = [rnn.get_parameter("h0_l0"), rnn.get_parameter("h0_l1")]
    for h0 in learnt:
        torch.nn.init.normal_(h0)
    assert torch.equal(rnn(x, hx)[0], plain(x, hx)[0])
    start = torch.stack([h0.detach() for h0 in learnt])[:, None].expand(2, 2, 4).clone().requires_grad_()
    assert torch.equal(rnn(x)[0], plain(x, start)[0])
    rnn(x)[0].square().sum().backward()
    plain(x, start)[0].square().sum().backward()
    assert start.grad is not None
    for h0, grad in zip(learnt, start.grad.sum(1), strict=True):
        torch.testing.assert_close(h0.grad, grad, **tolerance(F64))
    tape = bptt.record(rnn, x, torch.randn(5, 2, 4, dtype=F64), loss="squared_error")
    assert torch.equal(tape.layer(0).h0, learnt[0].detach().expand(2, 4))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, bidirectional: bool) -> None:
    exact = bptt.nn.RNN(3, 4, 2, bidirectional=bidirectional, dropout=0.5).eval()
    held = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(held.state_dict())  # the same rounded weights
    x, hx = torch.randn(5, 2, 3).to(dtype), torch.randn(2 + 2 * bidirectional, 2, 4).to(dtype)
    for rnn, state in ((held, hx), (exact, hx), (exact, hx.float())):
        given = x.clone().requires_grad_()
        wide = x.float().requires_grad_()
        output, h_n = rnn(given, state)
        expected, expected_h_n = exact(wide, hx.float())
        assert output.dtype == h_n.dtype == dtype
        assert torch.equal(output, expected.to(dtype))
        assert torch.equal(h_n, expected_h_n.to(dtype))
        cotangent = torch.randn_like(output)
        grads = torch.autograd.grad(output, [given, *rnn.parameters()], cotangent)
        wanted = torch.autograd.grad(expected, [wide, *exact.parameters()], cotangent.float())
        for grad, full in zip(grads, wanted, strict=True):
            assert torch.equal(grad, full.to(grad.dtype))
    tokens = torch.randint(3, (5, 2))
    assert held(tokens)[0].dtype == dtype
    assert exact(tokens)[0].dtype == torch.float32
    lengths = held(x, lengths=[5, 2])[0]
    assert torch.equal(lengths[:2], held(x)[0][:2]) or bidirectional
    cell = bptt.nn.RNNCell(3, 4, dtype=dtype)
    wide_cell = bptt.nn.RNNCell(3, 4)
    wide_cell.load_state_dict(cell.state_dict())
    assert torch.equal(cell(x[0], hx[0]), wide_cell(x[0].float(), hx[0].float()).to(dtype))


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_returns_what_torch_returns(dtype: torch.dtype) -> None:
    theirs = torch.nn.RNN(3, 4, 2)
    ours = bptt.convert(copy.deepcopy(theirs))
    cells = torch.nn.RNNCell(3, 4), bptt.nn.RNNCell(3, 4)
    x, hx = torch.randn(5, 2, 3), torch.randn(2, 2, 4)
    exact, exact_h_n = ours(x, hx)
    with torch.autocast("cpu", dtype):
        for given in (x, x.to(dtype)):
            kinds = [[value.dtype for value in rnn(given, hx)] for rnn in (ours, theirs)]
            assert kinds[0] == kinds[1] == [dtype, dtype]
        output, h_n = ours(x, hx)
        assert torch.equal(output, exact.to(dtype))
        assert torch.equal(h_n, exact_h_n.to(dtype))
        assert cells[0](x[0]).dtype == cells[1](x[0]).dtype == dtype
        assert ours.double()(x.double())[0].dtype == theirs.double()(x.double())[0].dtype == F64
        with pytest.raises(ValueError, match="input dtype"):
            ours.float()(x.double())
    output.float().sum().backward()
    assert all(p.dtype == torch.float32 for p in ours.parameters())


EVERY_OPTION = {"init": "orthogonal", "learn_h0": True}


@pytest.mark.parametrize("hidden_size", [4, [4, 6]])
def test_modules_with_options_are_copied_saved_and_described(hidden_size: Any) -> None:
    rnn = bptt.nn.RNN(3, hidden_size, 2, bidirectional=True, **EVERY_OPTION)
    x = torch.randn(5, 2, 3)
    expected = rnn(x)
    fresh = bptt.nn.RNN(3, hidden_size, 2, bidirectional=True, **EVERY_OPTION)
    fresh.load_state_dict(rnn.state_dict())
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), fresh):
        assert repr(twin) == repr(rnn)
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
        twin.reset_parameters()
        twin.flatten_parameters()
        assert twin.double()(x.double())[0].dtype == F64
    assert repr(rnn).startswith("RNN(3, 4, num_layers=2" if hidden_size == 4 else "RNN(3, (4, 6), num_layers=2")
    assert "init='orthogonal', learn_h0=True" in repr(rnn)


@pytest.mark.parametrize("module", [bptt.nn.RNN(3, 4, leak=0.5), bptt.nn.RNNCell(3, 4)], ids=["RNN", "RNNCell"])
def test_modules_that_were_saved_before_they_held_their_cells_are_loaded(module: Any) -> None:
    state = {name: value for name, value in vars(module).items() if name not in ("_cells", "_cell")}
    kind: Any = type(module)
    twin = kind.__new__(kind)
    twin.__setstate__(copy.deepcopy(state))
    x = torch.randn(5, 3)
    torch.testing.assert_close(twin(x), module(x), rtol=0, atol=0)


def test_cells_of_a_leak_that_changes_all_the_time_are_forgotten() -> None:
    rnn, x = bptt.nn.RNN(3, 4), torch.randn(2, 1, 3)
    cells = []
    for step in range(3, 300):
        rnn.leak = 1 / step
        rnn(x)[0].sum().backward()
        cells.append(weakref.ref(rnn.cell))
    gc.collect()
    assert cells[0]() is None


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: bptt.nn.RNN(3, 4, init="xavier"), bptt.InputError, "'torch', 'orthogonal', .* got 'xavier'"),
        (lambda: bptt.nn.RNN(3, 4, init="spectral:-1"), bptt.InputError, "a number above 0.* got 'spectral:-1'"),
        (lambda: bptt.nn.RNN(3, []), ValueError, r"hidden_size must be .* got hidden_size=\[\]"),
        (lambda: bptt.nn.RNN(3, [4, 0]), ValueError, r"got hidden_size=\[4, 0\]"),
        (lambda: bptt.nn.RNN(3, [True, 4]), ValueError, r"got hidden_size=\[True, 4\]"),
        (lambda: bptt.nn.RNN(3, NOT_A_SIZE), TypeError, "hidden_size should be of type int, got: str"),
        (lambda: bptt.nn.RNN(3, [4, 5], 3), ValueError, "with num_layers=3. Leave num_layers out"),
        (
            lambda: bptt.nn.RNN(3, [4, 5])(torch.zeros(2, 2, 3), torch.zeros(2, 2, 4)),
            RuntimeError,
            r"a tuple with one tensor .* each of the 2 layers, as h_n is; got \(2, 2, 4\)",
        ),
        (
            lambda: bptt.nn.RNN(3, [4, 5])(torch.zeros(2, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))),
            RuntimeError,
            r"Expected hidden size \(1, 2, 5\), got \[1, 2, 4\]",
        ),
    ],
)
def test_mistakes_are_explained(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_draw_does_not_need_a_real_device() -> None:
    assert bptt.nn.RNN(3, 4, init="orthogonal", device="meta").get_parameter("weight_hh_l0").is_meta
    initial.draw(torch.empty(0, 0), "spectral:1")


def test_a_state_of_half_precision_goes_with_numbers_of_single() -> None:
    """As it comes out of torch.autocast and goes on outside of it."""
    rnn, cell, x = bptt.nn.RNN(3, 4), bptt.nn.RNNCell(3, 4), torch.randn(5, 2, 3)
    h = torch.randn(1, 2, 4).to(torch.bfloat16)
    torch.testing.assert_close(rnn(x, h), rnn(x, h.float()), rtol=0, atol=0)
    torch.testing.assert_close(cell(x[0], h[0]), cell(x[0], h[0].float()), rtol=0, atol=0)
    stream = bptt.nn.Stream(rnn)
    with torch.autocast("cpu", torch.bfloat16):
        stream(x)
    carried = stream.state.float()
    assert torch.equal(stream(x)[0], rnn(x, carried)[0])


@pytest.mark.parametrize(
    ("name", "value"), [("leak", 0.5), ("residual", True), ("recurrent_dropout", 0.5), ("nonlinearity", "relu")]
)
@pytest.mark.parametrize("made", [{}, {"leak": 0.7}])
def test_what_is_changed_after_construction_counts(name: str, value: Any, made: dict[str, Any]) -> None:
    rnn = bptt.nn.RNN(3, 4, **made)
    x = torch.randn(5, 2, 3)
    setattr(rnn, name, value)
    expected = bptt.nn.RNN(3, 4, **(made | {name: value}))
    expected.load_state_dict(rnn.state_dict())
    assert repr(rnn) == repr(expected)
    outputs = []
    for module in (rnn, expected):
        torch.manual_seed(3)
        outputs.append(module(x))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    rnn.leak = 7
    with pytest.raises(bptt.InputError, match=r"leak must lie in .* got 7"):
        rnn(x)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device("cpu")


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {"lengths": [5, 2]}),
        ({"batch_first": True}, {"reset": [[True, False]] * 5, "lengths": [1, 2, 0, 1, 2]}),
        ({"leak": 0.5, "bidirectional": True, "recurrent_dropout": 0.5}, None),
        ({"bidirectional": True}, None),
        ({"init": "spectral:1"}, {}),
        ({"init": "orthogonal"}, {}),
        ({"num_layers": 2, "dropout": 0.5, "checkpoint": 2}, {}),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_the_default_device_is_not_that_of_the_module(options: dict[str, Any], call: dict[str, Any] | None) -> None:
    rnn, x = bptt.nn.RNN(3, 4, device="cpu", **options), torch.randn(5, 2, 3, device="cpu")
    if call is None:
        output = rnn(pack_padded_sequence(x, torch.tensor([5, 2], device="cpu")))[0].data
    else:
        output = rnn(x, **call)[0]
    output.sum().backward()
    assert output.device.type == rnn.get_parameter("weight_hh_l0").device.type == "cpu"


@pytest.mark.usefixtures("elsewhere")
def test_a_stream_on_another_than_the_default_device() -> None:
    stream = bptt.nn.Stream(bptt.nn.RNN(3, 4, device="cpu"))
    x = torch.randn(5, 2, 3, device="cpu")
    stream(x)
    stream.reset([1])
    assert stream(x)[0].device.type == "cpu"


@pytest.mark.parametrize("hidden_size", [4, [4, 2]])
def test_lengths_and_resets_of_tensors_without_data(hidden_size: Any) -> None:
    rnn = bptt.nn.RNN(3, hidden_size, 2, bidirectional=True, device="meta")
    output, _ = rnn(torch.empty(5, 2, 3, device="meta"), lengths=[3, 0], reset=[[True, False]] * 5)
    assert output.shape == (5, 2, 8 if hidden_size == 4 else 4)


def test_modules_of_known_functions_run_compiled_and_those_with_parameters_keep_them() -> None:
    for module, name in ((torch.nn.Tanh(), "tanh"), (torch.nn.ReLU(), "relu"), (torch.nn.Sigmoid(), "sigmoid")):
        assert bptt.nn.RNN(3, 4, nonlinearity=module).nonlinearity == name
    assert bptt.nn.RNN(3, 4, nonlinearity=torch.nn.Identity()).nonlinearity == "identity"
    with pytest.warns(bptt.SlowEngineWarning):
        rnn = bptt.nn.RNN(3, 4, nonlinearity=torch.nn.PReLU())
    rnn.reset_parameters()
    assert rnn.nonlinearity.weight.item() == 0.25
    assert "nonlinearity.weight" in rnn.state_dict()


def test_a_function_need_not_be_hashable() -> None:
    @dataclass
    class Scaled:
        factor: float

        def __call__(self, a: Tensor) -> Tensor:
            return self.factor * a

    with pytest.warns(bptt.SlowEngineWarning):
        rnn = bptt.nn.RNN(3, 4, nonlinearity=Scaled(1.0))
    same = bptt.nn.RNN(3, 4, nonlinearity="identity")
    same.load_state_dict(rnn.state_dict())
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(rnn(x), same(x))


def test_a_cell_of_no_inputs_is_that_of_torch() -> None:
    theirs = torch.nn.RNNCell(0, 4)
    ours, x, h = bptt.convert(copy.deepcopy(theirs)), torch.zeros(2, 0), torch.randn(2, 4)
    for cell in (ours, theirs):
        cell(x, h).square().sum().backward()
    torch.testing.assert_close(ours(x, h), theirs(x, h))
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


def test_a_checkpoint_serves_options_but_no_functions_and_is_left_out_with_all_layers() -> None:
    rnn, x = bptt.nn.RNN(3, 4, leak=0.5), torch.randn(5, 2, 3)
    expected = rnn(x)
    rnn.checkpoint = "auto"
    torch.testing.assert_close(rnn(x, return_all_layers=True)[:2], expected, rtol=0, atol=0)
    torch.testing.assert_close(rnn(x), expected, rtol=0, atol=0)
    with pytest.warns(bptt.SlowEngineWarning):
        rnn = bptt.nn.RNN(3, 4, nonlinearity=torch.nn.GELU(), checkpoint="auto")
    with pytest.raises(bptt.InputError, match=r"(?s)function as φ cannot be walked in blocks.*GELU.*checkpoint=None"):
        rnn(x)
    assert rnn(x, return_all_layers=True)[0].shape == (5, 2, 4)


def test_rows_of_a_cell_have_no_gradients() -> None:
    with bptt.using("reference"):
        layers = bptt.nn.Recurrent("m : rows\nh_t = tanh(m ⊙ (x_t W_xh) + h_{t-1} W_hh)", 3, 4)
        x, m = torch.randn(5, 2, 3), torch.rand(2, 4, requires_grad=True)
        with pytest.raises(bptt.InputError, match=r"'m'.* is declared as rows.* declare it as input"):
            layers(x, inputs={"m": m})
        assert layers(x, inputs={"m": m.detach()})[0].requires_grad
        with torch.no_grad():
            layers(x, inputs={"m": m})
