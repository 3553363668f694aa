"""A layer of any cell as operators of torch.library: traced, exported, transformed, differentiated again: only then."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
from cases import tolerance
from drawn import ALL, EVERY_OPTION, Drawn, drawn
from published_cells import PUBLISHED
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from bptt.autograd import operators
from bptt.engine import native
from bptt.engine.steps import Steps
from bptt.nn import GRU, LSTM, RNN, Recurrent
from bptt.sheet import Cell
from bptt.sheet.cells import elman

F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:bptt runs on the slow reference engine")
CELLS = {
    "plain": ALL["elman"],
    "relu without bias": Cell(elman("relu", bias=False)),
    "all options": Cell(EVERY_OPTION),
    "lstm": ALL["lstm"],
    "gru-v1": ALL["gru-v1"],
    "rows and inputs": Cell("m : rows\nk : input\nh_t = tanh(m ⊙ (x_t W_xh) + k_t ⊙ (h_{t-1} W_hh) + b_h)\n"),
}
KINDS = {
    "dense": Steps(4, 3),
    "dense, reverse": Steps(4, 3, None, True),
    "packed": Steps(4, 3, [3, 2, 2, 1]),
    "packed, reverse": Steps(4, 3, [3, 2, 2, 1], True),
}
OPTIONS: dict[str, Any] = {"leak": 0.4, "residual": True, "norm": "layer", "learn_h0": True}
NETWORKS: dict[str, Callable[..., Any]] = {
    "plain": lambda **more: RNN(3, 4, 2, dtype=F64, **more),
    "leak": lambda **more: RNN(3, 4, 2, leak=0.5, dtype=F64, **more),
    "all options": lambda **more: RNN(3, 4, 2, dtype=F64, **OPTIONS, **more),
    "lstm": lambda **more: Recurrent("lstm", 3, 4, 2, dtype=F64, **more),
    "drop-in lstm": lambda **more: LSTM(3, 4, 2, dtype=F64, **more),
    "drop-in gru": lambda **more: GRU(3, 4, 2, learn_h0=True, dtype=F64, **more),
    "gru-v1": lambda **more: Recurrent("gru-v1", 3, 4, 2, learn_h0=True, dtype=F64, **more),
    "fixed lines": lambda **more: Recurrent(PUBLISHED["ctrnn"], 3, 4, 2, dtype=F64, **more),
}
of_all_cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
of_all_kinds = pytest.mark.parametrize("steps", KINDS.values(), ids=KINDS)
of_all_networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def near(cell: Any = None) -> dict[str, Any]:
    """Layer norm divides by a deviation that may be small, and residual states grow from step to step."""
    magnifies = 1000 if "norm" in getattr(cell, "text", repr(cell)) else 1
    return {key: magnifies * value for key, value in tolerance(F64).items()}


def flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, PackedSequence):
        return [outputs.data]
    return [outputs] if isinstance(outputs, Tensor) else [tensor for part in outputs for tensor in flat(part)]


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
    outputs = flat(model(*arguments))
    L = torch.stack([output.square().sum() for output in outputs]).sum()
    return [*outputs, *torch.autograd.grad(L, leaves)]


def arguments_of(given: Drawn) -> tuple[Any, ...]:
    sizes = None if given.steps.sizes is None else torch.tensor(given.steps.sizes)
    first = [h for h in given.first if h is not None]
    weights = list(given.weights.tensors)
    layout = given.weights.layout.transposed
    return given.x, first, weights, given.extras, sizes, given.cell.text, layout, given.steps.reverse


def without_states(given: Drawn) -> Drawn:
    return replace(given, first=[None] * len(given.first))


def arguments_of_backward(given: Drawn, *, samples: int = 0, all_given: bool = True) -> tuple[Any, ...]:
    forward = arguments_of(given)
    made = [array.detach() for array in operators.layer_operator(*forward)]
    states = 1 + len(given.first)
    d = [torch.randn_like(array) for array in made[: states if all_given else 1]]
    needed = [given.x.is_floating_point(), *(h is not None for h in given.first)]
    needed += [True] * len(given.weights.tensors) + [False] * given.masks + [True] * len(given.inputs)
    is_given = [True, *[all_given] * (states - 1)]
    return d, is_given, made, *forward, needed, samples


@of_all_cells
@of_all_kinds
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")  # opcheck's
def test_opcheck(steps: Steps, cell: Cell) -> None:
    given = drawn(cell, steps)
    torch.library.opcheck(torch.ops.bptt.layer.default, arguments_of(given))
    backward = torch.ops.bptt.layer_backward.default
    sums: Sequence[Any] = ["test_schema", "test_faketensor"]
    of_three = drawn(cell, Steps(4, 6) if steps.sizes is None else Steps(4, 6, [6, 6, 3, 3], steps.reverse))
    torch.library.opcheck(backward, arguments_of_backward(given, all_given=False), test_utils=sums)
    torch.library.opcheck(backward, arguments_of_backward(of_three, samples=3), test_utils=sums)
    # A second derivative is made of operations of torch, and the steps of a packed batch are in a tensor's numbers.
    torch.library.opcheck(
        backward,
        arguments_of_backward(given),
        test_utils=sums if steps.sizes else [*sums, "test_autograd_registration", "test_aot_dispatch_dynamic"],
    )
    if not steps.sizes:
        torch.library.opcheck(torch.ops.bptt.layer.default, arguments_of(without_states(given)), test_utils=sums)


@pytest.mark.parametrize("torch_layout", [False, True])
@pytest.mark.parametrize("cell", [CELLS["plain"], CELLS["all options"]], ids=["plain", "all options"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")  # opcheck's
def test_opcheck_of_tokens(cell: Cell, torch_layout: bool) -> None:
    given = drawn(cell, Steps(4, 3), tokens=True, torch_layout=torch_layout)
    torch.library.opcheck(torch.ops.bptt.layer.default, arguments_of(given))
    torch.library.opcheck(torch.ops.bptt.layer_backward.default, arguments_of_backward(given))


def test_the_gradient_of_a_mask_is_refused() -> None:
    given = drawn(CELLS["all options"], Steps(4, 3))
    *arguments, needed, samples = arguments_of_backward(given)
    of_mask = [*needed]
    of_mask[1 + len(given.first) + len(given.weights.tensors)] = True
    for mode in (nullcontext(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode, pytest.raises(ValueError, match=r"a mask, .* has no gradient"):
            operators.layer_backward(*arguments, of_mask, samples)


def test_a_packed_batch_without_h0_has_rows_that_tracing_does_not_know() -> None:
    for name in ("plain", "lstm"):
        forward = arguments_of(without_states(drawn(CELLS[name], KINDS["packed"])))
        torch.library.opcheck(torch.ops.bptt.layer.default, forward, test_utils=("test_schema", "test_faketensor"))


def of_sample(v: int, tensors: Sequence[Tensor], axes: Sequence[int]) -> list[Tensor]:
    """One of two samples whose rows take turns on these axes."""
    return [t.unflatten(axis, (-1, 2)).select(axis + 1, v) for t, axis in zip(tensors, axes, strict=True)]


@of_all_cells
@of_all_kinds
def test_gradients_of_weights_of_samples(steps: Steps, cell: Cell) -> None:
    """Two samples that are rows of one batch, against each by itself."""
    sizes = None if steps.sizes is None else [2 * size for size in steps.sizes]
    given = drawn(cell, steps._replace(B=2 * steps.B, sizes=sizes))
    with torch.no_grad():
        *arguments, _ = arguments_of_backward(given)
        d, is_given, made, x, first, weights, extras, _, text, layout, reverse, needed = arguments
        found = operators.layer_backward(*arguments, 2)
    rows = 1 if steps.sizes is None else 0  # the axis that counts them in arrays of all steps
    of_made = [rows, *[1] * len(first), *[rows] * (len(made) - 1 - len(first))]
    of_inputs = [rows] * len(given.inputs)
    own_sizes = None if steps.sizes is None else torch.tensor(steps.sizes)
    begin, end = 1 + len(first), 1 + len(first) + len(weights)
    for v in (0, 1):
        alone = operators.layer_backward(
            of_sample(v, d, of_made[: len(d)]), is_given, of_sample(v, made, of_made), *of_sample(v, [x], [rows]),
            of_sample(v, first, [1] * len(first)), weights, of_sample(v, extras, [0] * given.masks + of_inputs),
            own_sizes, text, layout, reverse, needed, 0,
        )  # fmt: skip
        torch.testing.assert_close([g[v] for g in found[begin:end]], alone[begin:end], **near(cell))
        others = found[:begin] + found[end:]
        axes = [rows, *[1] * len(first), *of_inputs]
        torch.testing.assert_close(of_sample(v, others, axes), alone[:begin] + alone[end:], **near(cell))


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


@of_all_networks
@pytest.mark.parametrize("tokens", [False, True], ids=["numbers", "tokens"])
def test_one_graph_serves_every_length_and_batch(network: Callable[..., Any], tokens: bool) -> None:
    module = network(bidirectional=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, B in [(5, 2), *((T, 3) for T in range(3, 15))]:
        x = torch.randint(3, (T, B)) if tokens else torch.randn(T, B, 3, dtype=F64)
        results = [outcome(function, list(module.parameters()), x) for function in (compiled, module)]
        torch.testing.assert_close(*results, **near(module))


@of_all_networks
@pytest.mark.parametrize("with_h0", [False, True])
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")  # dynamo's
def test_packed_sequences_compile(network: Callable[..., Any], fullgraph: bool, with_h0: bool) -> None:
    module = network(bidirectional=True)
    packed = pack_padded_sequence(torch.randn(4, 3, 3, dtype=F64), [4, 2, 1])
    states = len(module.cell.sheet.states)
    hx: Any = tuple(torch.randn(4, 3, 4, dtype=F64, requires_grad=True) for _ in range(states)) if with_h0 else None
    given = hx[0] if with_h0 and states == 1 else hx
    if not with_h0:
        module.learn_h0 = False  # learnt states say how many rows there are, which is not known here

    def call(data: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Any]:
        output, h_n = module(PackedSequence(data, batch_sizes), given)
        return output.data, h_n

    compiled = torch.compile(call, fullgraph=fullgraph, backend="aot_eager")
    leaves = [*(hx or ()), *(p for name, p in module.named_parameters() if "h0_l" not in name)]
    results = [outcome(function, leaves, packed.data, packed.batch_sizes) for function in (compiled, call)]
    torch.testing.assert_close(*results, **near(module))


@of_all_networks
def test_graphs_follow_the_engine_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, network: Any) -> None:
    module, x = network(), torch.randn(5, 2, 3, dtype=F64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    expected = outcome(module, list(module.parameters()), x)
    monkeypatch.delattr(native, "forward")
    monkeypatch.delattr(native, "backward")
    with bptt.using("reference"):
        torch.testing.assert_close(outcome(compiled, list(module.parameters()), x), expected, **near(module))


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_recurrent_dropout_compiles() -> None:
    dropping = Recurrent("h_t = tanh(x_t W_xh + drop(h_{t-1}) W_hh)", 3, 64, recurrent_dropout=0.5, dtype=F64)
    for module in (RNN(3, 64, recurrent_dropout=0.5, dtype=F64), dropping):
        x = torch.randn(4, 2, 3, dtype=F64)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
        assert not torch.equal(compiled(x)[0], compiled(x)[0])
        module.eval()
        torch.testing.assert_close(compiled(x), module(x), **near())


def test_functions_as_phi_refuse_packed_sequences_that_are_traced() -> None:
    with pytest.warns(bptt.SlowEngineWarning):
        rnn = RNN(3, 4, nonlinearity=torch.nn.GELU(), dtype=F64)
    packed = pack_padded_sequence(torch.randn(4, 3, 3, dtype=F64), [4, 2, 1])
    with pytest.raises(bptt.InputError, match=r"(?s)takes no PackedSequence that is traced.*Trace padded batches"):
        torch.compile(rnn, backend="eager")(packed)


@of_all_networks
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_exported_programs_of_any_cell_take_any_length_and_batch(network: Callable[..., Any], strict: bool) -> None:
    module = network(bidirectional=True)
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    x = torch.randn(5, 3, 3, dtype=F64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: T, 1: B},), strict=strict)
    layers = [node for node in program.graph.nodes if node.target is torch.ops.bptt.layer.default]
    assert len(layers) == 4
    for steps, rows in [(5, 3), (19, 2), (1, 1), (2, 6)]:
        x = torch.randn(steps, rows, 3, dtype=F64)
        torch.testing.assert_close(program.module()(x), module(x), **near(module))


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
    layers = [node for node in program.graph.nodes if node.target is torch.ops.bptt.layer.default]
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
    assert "bptt.layer.default" in forward
    assert "bptt.layer_backward.default" in backward


def test_what_traces_by_modes_gets_operators_and_real_tensors_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    rnn, x, longer = bptt.nn.RNN(5, 6), torch.randn(7, 2, 5), torch.ones(9, 3, 5)
    parameters = {name: p.detach() for name, p in rnn.named_parameters()}
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(lambda x, p: functional_call(rnn, p, (x,))[0], tracing_mode=mode)(x, parameters)
        assert any(node.target is torch.ops.bptt.layer.default for node in graph.graph.nodes)
        given = longer if mode == "symbolic" else x
        torch.testing.assert_close(graph(given, parameters), rnn(given)[0].detach())
    fake = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)
    assert rnn(fake)[0].shape == (7, 2, 6)

    def never(*_: Any) -> Any:
        raise AssertionError("an operator costs more than a short layer")

    monkeypatch.setattr(operators, "layer_operator", never)
    monkeypatch.setattr(operators, "layer_backward", never)
    for module in (rnn, RNN(5, 6, leak=0.5, norm="layer"), Recurrent("lstm", 5, 6)):
        module(x)[0].sum().backward()
        with torch.no_grad():
            module(x)
    bptt.nn.RNNCell(5, 6)(x[0]).sum().backward()


@pytest.mark.parametrize("gradients", [True, False])
def test_what_a_transform_that_has_ended_left_over_counts_as_what_it_holds(gradients: bool) -> None:
    rnn, left = RNN(3, 4), []
    given = [torch.randn(5, 2, 3), torch.randn(1, 2, 4), *(weight.detach() for weight in rnn.parameters())]

    def leaking(*tensors: Tensor) -> Tensor:
        left.extend(tensors)
        return sum((tensor.sum() for tensor in tensors), torch.zeros(())).sin()

    def output(x: Tensor, h0: Tensor, *weights: Tensor) -> Tensor:
        return functional_call(rnn, dict(zip(dict(rnn.named_parameters()), weights, strict=True)), (x, h0))[0]

    grad(leaking, argnums=tuple(range(len(given))))(*given)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(output(*left), output(*given), rtol=0, atol=0)


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


def parameters_and_loss(
    network: Callable[..., Any] = NETWORKS["plain"],
) -> tuple[dict[str, Tensor], Callable[[dict[str, Tensor], Tensor], Tensor]]:
    module = network(bidirectional=True)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        output, *last = flat(functional_call(module, parameters, (x,)))
        return output.square().sum() + torch.stack(last).sin().sum()

    return {name: p.detach() for name, p in module.named_parameters()}, loss


def by_autograd(loss: Callable[..., Tensor], parameters: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves, x), list(leaves.values())), strict=True))


@of_all_networks
@pytest.mark.parametrize("tokens", [False, True], ids=["numbers", "tokens"])
def test_gradients_of_every_sample(network: Callable[..., Any], tokens: bool) -> None:
    parameters, loss = parameters_and_loss(network)
    xs = torch.randint(3, (5, 4, 3)) if tokens else torch.randn(5, 4, 3, 3, dtype=F64)
    torch.testing.assert_close(grad(loss)(parameters, xs[0]), by_autograd(loss, parameters, xs[0]), **near(network()))
    each = vmap(grad(loss), (None, 0))(parameters, xs)
    for k, x in enumerate(xs):
        expected = by_autograd(loss, parameters, x)
        torch.testing.assert_close({name: g[k] for name, g in each.items()}, expected, **near(network()))
    along = vmap(grad(loss), (None, 1))(parameters, xs.movedim(0, 1))
    torch.testing.assert_close(along, each, **near(network()))


def test_gradients_of_every_sample_are_one_call_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(operators, "serving", lambda *of, serving=operators.serving: calls.append(of) or serving(*of))
    parameters, loss = parameters_and_loss()
    vmap(grad(loss), (None, 0))(parameters, torch.randn(5, 4, 3, 3, dtype=F64))
    assert len(calls) == 2 * 4


@of_all_networks
def test_second_derivatives_of_gradients_of_every_sample(network: Callable[..., Any]) -> None:
    """As in a penalty on each sample's gradient, of the weights and of the input, and in nested maps."""
    parameters, loss = parameters_and_loss(network)
    xs, start = torch.randn(3, 2, 4, 1, 3, dtype=F64), torch.randn(4, 1, 3, dtype=F64)

    def shifted(parameters: dict[str, Tensor], x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        return grad(loss)(parameters, x + shift)

    def penalty(parameters: dict[str, Tensor], shift: Tensor) -> Tensor:
        each = vmap(vmap(shifted, (None, 0, None)), (None, 0, None))(parameters, xs, shift)
        return torch.stack([g.square().sum() for g in each.values()]).sum()

    def one_by_one(parameters: dict[str, Tensor], shift: Tensor) -> Tensor:
        leaves = list(parameters.values())
        each = [torch.autograd.grad(loss(parameters, x + shift), leaves, create_graph=True) for x in xs.flatten(0, 1)]
        return torch.stack([g.square().sum() for of_all in each for g in of_all]).sum()

    found = grad(penalty, (0, 1))(parameters, start)
    leaves, shift = {name: p.clone().requires_grad_() for name, p in parameters.items()}, start.clone().requires_grad_()
    expected = torch.autograd.grad(one_by_one(leaves, shift), [*leaves.values(), shift])
    scale = max(float(g.abs().max()) for g in expected)  # sums of terms that are so large cancel
    allowed = {key: value * max(1, scale) for key, value in near(network()).items()}
    torch.testing.assert_close([*found[0].values(), found[1]], list(expected), rtol=1e-12, atol=allowed["atol"])


@of_all_networks
def test_batches_of_batches_and_ensembles(network: Callable[..., Any]) -> None:
    parameters, loss = parameters_and_loss(network)
    xs = torch.randn(2, 3, 4, 1, 3, dtype=F64)
    each = vmap(vmap(grad(loss), (None, 0)), (None, 0))(parameters, xs)
    one = {name: g[1, 2] for name, g in each.items()}
    torch.testing.assert_close(one, by_autograd(loss, parameters, xs[1, 2]), **near(network()))
    several = {name: torch.stack([p, 2 * p], -1) for name, p in parameters.items()}
    last = dict.fromkeys(several, -1)
    double = {name: 2 * p for name, p in parameters.items()}
    x = xs[0, 0]
    values = vmap(loss, (last, None))(several, x)
    torch.testing.assert_close(values, torch.stack([loss(parameters, x), loss(double, x)]), **near(network()))
    each = vmap(grad(loss), (last, None))(several, x)
    torch.testing.assert_close(
        {name: g[1] for name, g in each.items()}, by_autograd(loss, double, x), **near(network())
    )


def test_vmap_over_the_initial_state_and_over_cells() -> None:
    rnn, cell = bptt.nn.RNN(2, 3, dtype=F64), bptt.nn.RNNCell(2, 3, dtype=F64)
    x, h0 = torch.randn(4, 1, 2, dtype=F64), torch.randn(5, 1, 1, 3, dtype=F64)
    output, h_n = vmap(lambda h: rnn(x, h))(h0)
    for k in range(5):
        torch.testing.assert_close((output[k], h_n[k]), rnn(x, h0[k]), **tolerance(F64))
    xs = torch.randn(5, 2, dtype=F64)
    torch.testing.assert_close(vmap(cell)(xs), cell(xs), **tolerance(F64))


@of_all_networks
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_jacobians_and_hessians(network: Callable[..., Any], training: bool) -> None:
    rnn = network().train(training)
    x = torch.randn(4, 2, 3, dtype=F64)

    def last(x: Tensor) -> Tensor:
        return torch.cat(flat(rnn(x)[1]))

    expected = torch.autograd.functional.jacobian(last, x)
    torch.testing.assert_close(jacrev(last)(x), expected, **near(rnn))
    torch.testing.assert_close(jacfwd(last)(x), expected, **near(rnn))
    pull_back = vjp(last, x)[1]
    ones = torch.ones_like(last(x))
    torch.testing.assert_close(pull_back(ones)[0], expected.sum((0, 1, 2)), **near(rnn))
    pushed = jvp(last, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(pushed, expected.sum((3, 4, 5)), **near(rnn))

    squares = (name for name, p in rnn.named_parameters() if p.dim() == 2 and p.shape[1] == 4 and len(p) % 4 == 0)
    name = next(squares)  # one, or those of all gates below each other

    def L(W_hh: Tensor) -> Tensor:
        return functional_call(rnn, {name: W_hh}, (x,))[0].square().sum()

    W_hh = rnn.get_parameter(name).detach()
    expected = torch.autograd.functional.hessian(L, W_hh)
    for second in (hessian(L), jacrev(jacrev(L)), jacfwd(jacfwd(L)), jacrev(jacfwd(L))):
        torch.testing.assert_close(second(W_hh), expected, **near(rnn))


@of_all_cells
@of_all_kinds
@pytest.mark.parametrize("with_states", [True, False])
def test_the_operators_are_differentiable_in_all_they_take(with_states: bool, steps: Steps, cell: Cell) -> None:
    given = drawn(cell, steps, sizes={"I": 2, "H": 3})
    given = given if with_states else without_states(given)
    x, first, weights, extras, *how = arguments_of(given)
    k, n = 1 + len(first), 1 + len(first) + len(weights)

    def outputs(*tensors: Tensor) -> list[Tensor]:
        own = [*extras[: given.masks], *tensors[n:]]
        found = operators.layer_operator(tensors[0], list(tensors[1:k]), list(tensors[k:n]), own, *how)
        return found[: 1 + len(given.first)]

    leaves = [x, *first, *weights, *extras[given.masks :]]
    assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, leaves, fast_mode=True)


@of_all_cells
@of_all_kinds
def test_the_backward_operator_of_samples_is_differentiable(steps: Steps, cell: Cell) -> None:
    sizes = None if steps.sizes is None else [2 * size for size in steps.sizes]
    given = drawn(cell, steps._replace(B=2 * steps.B, sizes=sizes), sizes={"I": 2, "H": 3})
    d, is_given, _, x, first, weights, extras, *how, needed, _ = arguments_of_backward(given)
    a, b, c = len(d), len(d) + 1 + len(first), len(d) + 1 + len(first) + len(weights)

    def gradients(*tensors: Tensor) -> list[Tensor]:
        own = [*extras[: given.masks], *tensors[c:]]
        forward = tensors[a], list(tensors[a + 1 : b]), list(tensors[b:c]), own, *how
        made = [array.detach() for array in operators.layer_operator(*forward)]
        return operators.layer_backward(list(tensors[:a]), is_given, made, *forward, needed, 2)

    seeds = [seed.requires_grad_() for seed in d]
    leaves = [*seeds, x, *first, *weights, *extras[given.masks :]]
    assert torch.autograd.gradcheck(gradients, leaves, fast_mode=True)


@pytest.mark.parametrize("cell", [CELLS["plain"], CELLS["all options"]], ids=["plain", "all options"])
@pytest.mark.parametrize("kind", ["dense", "packed, reverse"])
def test_the_operators_are_differentiable_for_tokens(kind: str, cell: Cell) -> None:
    given = drawn(cell, KINDS[kind], sizes={"I": 2, "H": 3}, tokens=True)
    x, first, weights, extras, *how = arguments_of(given)

    def outputs(*tensors: Tensor) -> list[Tensor]:
        return operators.layer_operator(x, [tensors[0]], list(tensors[1:]), extras, *how)[:2]

    assert torch.autograd.gradcheck(outputs, [*first, *weights], fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, [*first, *weights], fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "all options", "lstm"])
def test_third_derivatives(name: str) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "plain": lambda: RNN(1, 2, dtype=F64),
        "all options": lambda: RNN(1, 3, dtype=F64, **OPTIONS),
        "lstm": lambda: Recurrent("lstm", 1, 2, dtype=F64),
    }
    module, x = makers[name](), torch.randn(2, 1, 1, dtype=F64, requires_grad=True)

    def first(x: Tensor) -> Tensor:
        return torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(first, x)


@of_all_networks
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_forward_mode_outside_torch_func(network: Callable[..., Any]) -> None:
    from torch.autograd import forward_ad

    rnn, x, tangent = network(), torch.randn(4, 2, 3, dtype=F64), torch.randn(4, 2, 3, dtype=F64)
    with forward_ad.dual_level():
        y = rnn(forward_ad.make_dual(x, tangent))[0]
        pushed = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(pushed, jvp(lambda x: rnn(x)[0], (x,), (tangent,))[1], **near(rnn))
    expected = torch.autograd.functional.jvp(lambda x: rnn(x)[0], x, tangent)[1]
    torch.testing.assert_close(pushed, expected, **near(rnn))
