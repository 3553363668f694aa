"""The layer as operators of torch.library: traced, exported, transformed and differentiated again, and only then."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from cases import ACTIVATIONS, tolerance
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from bptt.autograd import operators

F64 = torch.float64


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(torch.nn.Module):
    """Layers before and behind, both directions, a stack and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(4, 5, dtype=F64)
        self.rnn = bptt.nn.RNN(5, 6, 2, bidirectional=True, batch_first=True, dtype=F64)
        self.decoder = torch.nn.Linear(12, 3, dtype=F64)
        self.cell = bptt.nn.RNNCell(3, 4, dtype=F64)

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        output, h_n = self.rnn(self.encoder(x), h0)
        o = self.decoder(output)
        return o, h_n, self.cell(o[:, -1])


def outcome(model: Callable[..., Any], leaves: list[Tensor], *arguments: Any) -> list[Tensor]:
    outputs = model(*arguments)
    L = torch.stack([output.square().sum() for output in outputs]).sum()
    return [*outputs, *torch.autograd.grad(L, leaves)]


def arguments_of_forward(kind: str, activation: str, reverse: bool, *, bias: bool, with_h0: bool) -> tuple[Any, ...]:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=F64, requires_grad=True)

    sizes = torch.tensor([3, 2, 2, 1]) if kind == "packed" else None
    x = {"dense": lambda: leaf(4, 3, 2), "tokens": lambda: torch.randint(2, (4, 3)), "packed": lambda: leaf(8, 2)}[
        kind
    ]()
    biases = (leaf(5), leaf(5)) if bias else (None, None)
    return x, leaf(1, 3, 5) if with_h0 else None, leaf(5, 2), leaf(5, 5), *biases, sizes, activation, reverse


@pytest.mark.parametrize(
    ("kind", "activation", "reverse", "given"),
    [
        ("dense", "tanh", False, False),
        ("dense", "sigmoid", True, True),
        ("tokens", "relu", True, True),
        ("packed", "identity", False, True),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")  # opcheck's
def test_opcheck(kind: str, activation: str, reverse: bool, given: bool) -> None:
    forward = arguments_of_forward(kind, activation, reverse, bias=given, with_h0=given)
    torch.library.opcheck(torch.ops.bptt.rnn_layer.default, forward)
    x, h0, weight_ih, weight_hh, _, _, *how = forward
    y = operators.rnn_layer(*forward)[0].detach()
    inputs = (torch.randn_like(y), torch.randn(1, 3, 5, dtype=F64), y, h0, x, weight_ih, weight_hh)
    # A second derivative is made of operations of torch, and the steps of a packed batch are in a tensor's numbers.
    differentiable = kind != "packed"
    for tensor in inputs:
        if tensor is not None and tensor.is_floating_point():
            tensor.requires_grad_(differentiable)
    needed = [kind != "tokens", h0 is not None, True, True, True, given]
    torch.library.opcheck(torch.ops.bptt.rnn_layer_backward.default, (*inputs, *how, needed))


def test_a_packed_batch_without_h0_has_rows_that_tracing_does_not_know() -> None:
    forward = arguments_of_forward("packed", "tanh", False, bias=True, with_h0=False)
    torch.library.opcheck(torch.ops.bptt.rnn_layer.default, forward, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_are_one_graph_and_compute_the_same(backend: str) -> None:
    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=True)
    for T, B, with_h0 in [(7, 2, True), (9, 3, True), (4, 5, False)]:
        x = torch.randn(B, T, 4, dtype=F64, requires_grad=True)
        h0 = torch.randn(4, B, 6, dtype=F64) if with_h0 else None
        results = [outcome(m, [x, *model.parameters()], x, h0) for m in (compiled, model)]
        torch.testing.assert_close(*results, **tolerance(F64))
    found = torch._dynamo.explain(model)(torch.randn(2, 7, 4, dtype=F64))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_inductor_calls_the_operators() -> None:
    rnn, x = bptt.nn.RNN(5, 6, dtype=F64), torch.randn(7, 2, 5, dtype=F64)
    leaves = list(rnn.parameters())
    results = [torch.autograd.grad(m(x)[0], leaves, torch.ones(7, 2, 6, dtype=F64)) for m in (torch.compile(rnn), rnn)]
    torch.testing.assert_close(*results, **tolerance(F64))


def test_a_module_may_be_compiled_by_itself_or_converted() -> None:
    x = torch.randn(7, 2, 5)
    for rnn in (bptt.nn.RNN(5, 6), bptt.convert(torch.nn.RNN(5, 6)), bptt.nn.RNN(5, 6).eval()):
        expected = rnn(x)[0]
        torch.testing.assert_close(torch.compile(rnn, fullgraph=True, backend="aot_eager")(x)[0], expected)
        rnn.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(rnn(x)[0], expected)


def test_dynamo_goes_on_refusing_what_is_not_ours() -> None:
    with pytest.raises(Unsupported, match="RNN, GRU, or LSTM"):
        torch.compile(torch.nn.RNN(5, 6), fullgraph=True, backend="eager")(torch.randn(7, 2, 5))
    assert not torch._dynamo.config.allow_rnn


@pytest.mark.parametrize("with_h0", [False, True])
def test_packed_sequences_compile(with_h0: bool) -> None:
    rnn = bptt.nn.RNN(5, 6, 2, bidirectional=True, dtype=F64)
    packed = pack_padded_sequence(torch.randn(4, 3, 5, dtype=F64), [4, 2, 1])
    h0 = torch.randn(4, 3, 6, dtype=F64) if with_h0 else None

    def call(data: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = rnn(PackedSequence(data, batch_sizes), h0)
        return output.data, h_n

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    given = packed.data, packed.batch_sizes
    results = [outcome(function, list(rnn.parameters()), *given) for function in (compiled, call)]
    torch.testing.assert_close(*results, **tolerance(F64))


def test_packed_sequences_compile_with_states_of_layers() -> None:
    rnn = bptt.nn.RNN(5, [6, 4], dtype=F64)
    packed = pack_padded_sequence(torch.randn(4, 3, 5, dtype=F64), [4, 2, 1])
    h0 = torch.randn(1, 3, 6, dtype=F64), torch.randn(1, 3, 4, dtype=F64)

    def call(data: Tensor, batch_sizes: Tensor, h0: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        output, h_n = rnn(PackedSequence(data, batch_sizes), h0)
        return output.data, h_n

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    given = packed.data, packed.batch_sizes, h0
    torch.testing.assert_close(compiled(*given), call(*given), **tolerance(F64))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # of torch.export.load on 2.11
def test_exported_programs_take_any_length_and_batch(with_h0: bool, strict: bool) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = bptt.nn.RNN(5, 6, 2, "relu", bidirectional=True, batch_first=True, dtype=F64)

        def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return self.rnn(x, h0)

    model = Network()
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    x, h0 = torch.randn(3, 7, 5, dtype=F64), torch.randn(4, 3, 6, dtype=F64) if with_h0 else None
    program = torch.export.export(
        model, (x, h0), dynamic_shapes=({0: B, 1: T}, {1: B} if with_h0 else None), strict=strict
    )
    layers = [node for node in program.graph.nodes if node.target is torch.ops.bptt.rnn_layer.default]
    assert len(layers) == 4
    saved = io.BytesIO()
    torch.export.save(program.run_decompositions(), saved)
    saved.seek(0)
    loaded = torch.export.load(saved)
    for rows, steps in [(3, 7), (2, 19), (1, 1), (6, 2)]:
        x, h0 = torch.randn(rows, steps, 5, dtype=F64), torch.randn(4, rows, 6, dtype=F64) if with_h0 else None
        torch.testing.assert_close(loaded.module()(x, h0), model(x, h0), **tolerance(F64))


def test_aot_autograd_sees_both_sides() -> None:
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._functorch.aot_autograd import aot_module

    graphs: list[list[str]] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph.forward)

    rnn, x = bptt.nn.RNN(5, 6, dtype=F64), torch.randn(7, 2, 5, dtype=F64, requires_grad=True)
    results = [outcome(m, [x, *rnn.parameters()], x) for m in (aot_module(rnn, keep, keep), rnn)]
    torch.testing.assert_close(*results, **tolerance(F64))
    forward, backward = graphs
    assert "bptt.rnn_layer.default" in forward
    assert "bptt.rnn_layer_backward.default" in backward


def test_what_traces_by_modes_gets_operators_and_real_tensors_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    rnn, x, longer = bptt.nn.RNN(5, 6), torch.randn(7, 2, 5), torch.ones(9, 3, 5)
    parameters = {name: p.detach() for name, p in rnn.named_parameters()}
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(lambda x, p: functional_call(rnn, p, (x,))[0], tracing_mode=mode)(x, parameters)
        assert any(node.target is torch.ops.bptt.rnn_layer.default for node in graph.graph.nodes)
        given = longer if mode == "symbolic" else x
        torch.testing.assert_close(graph(given, parameters), rnn(given)[0].detach())
    fake = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)
    assert rnn(fake)[0].shape == (7, 2, 6)

    def never(*_: Any) -> Any:
        raise AssertionError("an operator costs more than a short layer")

    monkeypatch.setattr(operators, "rnn_layer", never)
    monkeypatch.setattr(operators, "rnn_layer_backward", never)
    rnn(x)[0].sum().backward()
    with torch.no_grad():
        rnn(x)
    bptt.nn.RNNCell(5, 6)(x[0]).sum().backward()


def test_meta_tensors_have_shapes_alone() -> None:
    rnn = bptt.nn.RNN(5, 7, 2, bidirectional=True).to("meta")
    output, h_n = rnn(torch.empty(4, 3, 5, device="meta"))
    assert (output.device.type, output.shape, h_n.shape) == ("meta", (4, 3, 14), (4, 3, 7))
    output.sum().backward()
    assert all(p.grad is not None and p.grad.is_meta for p in rnn.parameters())


def test_a_tape_of_a_compiled_model_is_recorded_eagerly() -> None:
    model = bptt.nn.Elman(5, 6, 3, dtype=F64)
    x, y = torch.randint(5, (7, 2)), torch.randint(3, (7, 2))
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = compiled(x)[0]
    tape = bptt.record(compiled, x, y, loss="cross_entropy")
    torch.testing.assert_close(tape.h, bptt.record(model, x, y).h, rtol=0, atol=0)
    assert tape.check().ok
    with bptt.recording() as tapes:
        model.loss(compiled(x)[0], y).backward()
    torch.testing.assert_close(tapes[0].dh, tape.dh, rtol=0, atol=0)
    torch.testing.assert_close(compiled(x)[0], before, rtol=0, atol=0)


def parameters_and_loss(**options: Any) -> tuple[dict[str, Tensor], Callable[[dict[str, Tensor], Tensor], Tensor]]:
    rnn = bptt.nn.RNN(2, 3, 2, bidirectional=True, dtype=F64, **options)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        output, h_n = functional_call(rnn, parameters, (x,))
        return output.square().sum() + h_n.sin().sum()

    return {name: p.detach() for name, p in rnn.named_parameters()}, loss


def by_autograd(loss: Callable[..., Tensor], parameters: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves, x), list(leaves.values())), strict=True))


@pytest.mark.parametrize("tokens", [False, True], ids=["numbers", "tokens"])
def test_gradients_of_every_sample(tokens: bool) -> None:
    parameters, loss = parameters_and_loss()
    xs = torch.randint(2, (5, 4, 3)) if tokens else torch.randn(5, 4, 3, 2, dtype=F64)
    torch.testing.assert_close(grad(loss)(parameters, xs[0]), by_autograd(loss, parameters, xs[0]), **tolerance(F64))
    each = vmap(grad(loss), (None, 0))(parameters, xs)
    for k, x in enumerate(xs):
        expected = by_autograd(loss, parameters, x)
        torch.testing.assert_close({name: g[k] for name, g in each.items()}, expected, **tolerance(F64))
    along = vmap(grad(loss), (None, 1))(parameters, xs.movedim(0, 1))
    torch.testing.assert_close(along, each, **tolerance(F64))


def test_gradients_of_every_sample_are_one_call_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(operators, "choose", lambda *of, choose=operators.choose: calls.append(of) or choose(*of))
    parameters, loss = parameters_and_loss()
    vmap(grad(loss), (None, 0))(parameters, torch.randn(5, 4, 3, 2, dtype=F64))
    assert len(calls) == 2 * 4


def test_batches_of_batches_and_ensembles() -> None:
    parameters, loss = parameters_and_loss()
    xs = torch.randn(2, 3, 4, 1, 2, dtype=F64)
    each = vmap(vmap(grad(loss), (None, 0)), (None, 0))(parameters, xs)
    one = {name: g[1, 2] for name, g in each.items()}
    torch.testing.assert_close(one, by_autograd(loss, parameters, xs[1, 2]), **tolerance(F64))
    several = {name: torch.stack([p, 2 * p], -1) for name, p in parameters.items()}
    last = dict.fromkeys(several, -1)
    double = {name: 2 * p for name, p in parameters.items()}
    x = xs[0, 0]
    values = vmap(loss, (last, None))(several, x)
    torch.testing.assert_close(values, torch.stack([loss(parameters, x), loss(double, x)]), **tolerance(F64))
    each = vmap(grad(loss), (last, None))(several, x)
    torch.testing.assert_close({name: g[1] for name, g in each.items()}, by_autograd(loss, double, x), **tolerance(F64))


def test_vmap_over_the_initial_state_and_over_cells() -> None:
    rnn, cell = bptt.nn.RNN(2, 3, dtype=F64), bptt.nn.RNNCell(2, 3, dtype=F64)
    x, h0 = torch.randn(4, 1, 2, dtype=F64), torch.randn(5, 1, 1, 3, dtype=F64)
    output, h_n = vmap(lambda h: rnn(x, h))(h0)
    for k in range(5):
        torch.testing.assert_close((output[k], h_n[k]), rnn(x, h0[k]), **tolerance(F64))
    xs = torch.randn(5, 2, dtype=F64)
    torch.testing.assert_close(vmap(cell)(xs), cell(xs), **tolerance(F64))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_jacobians_and_hessians(training: bool) -> None:
    rnn = bptt.nn.RNN(2, 3, 2, dropout=0.0, dtype=F64).train(training)
    x = torch.randn(4, 2, 2, dtype=F64)

    def last(x: Tensor) -> Tensor:
        return rnn(x)[1]

    expected = torch.autograd.functional.jacobian(last, x)
    torch.testing.assert_close(jacrev(last)(x), expected, **tolerance(F64))
    torch.testing.assert_close(jacfwd(last)(x), expected, **tolerance(F64))
    pull_back = vjp(last, x)[1]
    torch.testing.assert_close(pull_back(torch.ones(2, 2, 3, dtype=F64))[0], expected.sum((0, 1, 2)), **tolerance(F64))
    pushed = jvp(last, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(pushed, expected.sum((3, 4, 5)), **tolerance(F64))

    def L(W_hh: Tensor) -> Tensor:
        return functional_call(rnn, {"weight_hh_l0": W_hh}, (x,))[0].square().sum()

    W_hh = rnn.get_parameter("weight_hh_l0").detach()
    expected = torch.autograd.functional.hessian(L, W_hh)
    for second in (hessian(L), jacrev(jacrev(L)), jacfwd(jacfwd(L)), jacrev(jacfwd(L))):
        torch.testing.assert_close(second(W_hh), expected, **tolerance(F64))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["dense", "tokens", "packed"])
def test_the_backward_operator_is_differentiable_in_all_it_takes(kind: str, reverse: bool, activation: str) -> None:
    forward = arguments_of_forward(kind, activation, reverse, bias=True, with_h0=True)
    x, h0, weight_ih, weight_hh, _, _, *how = forward
    y = operators.rnn_layer(*forward)[0].detach()
    y = (y + y.sign().add(0.5).sign()).requires_grad_()  # away from 0, where the derivative of relu leaps
    floats = [torch.randn_like(y).requires_grad_(), torch.randn_like(h0).requires_grad_(), y, h0, weight_ih, weight_hh]
    numbers = [x] if kind != "tokens" else []

    def backward(dy: Tensor, dh_n: Tensor, y: Tensor, h0: Tensor, *weights: Tensor) -> list[Tensor]:
        weight_ih, weight_hh, *given = weights
        tokens_or_x = given[0] if given else x
        return operators.rnn_layer_backward(
            dy, dh_n, y, h0, tokens_or_x, weight_ih, weight_hh, *how, [bool(given), True, True, True, True, True]
        )

    assert torch.autograd.gradcheck(backward, (*floats, *numbers), fast_mode=True)


def test_third_derivatives() -> None:
    rnn, x = bptt.nn.RNN(1, 2, dtype=F64), torch.randn(2, 1, 1, dtype=F64, requires_grad=True)

    def first(x: Tensor) -> Tensor:
        return torch.autograd.grad(rnn(x)[0].square().sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(first, x)


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_forward_mode_outside_torch_func() -> None:
    from torch.autograd import forward_ad

    rnn, x, tangent = bptt.nn.RNN(2, 3, dtype=F64), torch.randn(4, 2, 2, dtype=F64), torch.randn(4, 2, 2, dtype=F64)
    with forward_ad.dual_level():
        y = rnn(forward_ad.make_dual(x, tangent))[0]
        pushed = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(pushed, jvp(lambda x: rnn(x)[0], (x,), (tangent,))[1], **tolerance(F64))
    expected = torch.autograd.functional.jvp(lambda x: rnn(x)[0], x, tangent)[1]
    torch.testing.assert_close(pushed, expected, **tolerance(F64))
