"""Cells with options as operators of torch.library, judged by the same cells called eagerly."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from cases import tolerance
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from bptt.autograd import cell_operators

F64 = torch.float64
EVERYTHING: dict[str, Any] = {"leak": 0.4, "residual": True, "norm": "layer", "learn_h0": True}
OPTIONS = {"leak": {"leak": 0.5}, "residual": {"residual": True}, "everything": EVERYTHING}
of_all_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def near() -> dict[str, Any]:
    """Layer norm divides by a deviation that may be small, and residual states grow from step to step."""
    return {key: 1000 * value for key, value in tolerance(F64).items()}


def outcome(function: Any, leaves: list[Tensor], *arguments: Any) -> list[Tensor]:
    outputs = function(*arguments)
    L = torch.stack([output.square().sum() for output in outputs]).sum()
    return [*outputs, *torch.autograd.grad(L, leaves)]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, requires_grad=True)


def arguments(*, packed: bool, norm: bool, leak: float, reverse: bool) -> tuple[Any, ...]:
    sizes = torch.tensor([3, 2, 2, 1]) if packed else None
    mask = torch.nn.functional.dropout(torch.ones(3, 5, dtype=F64), 0.4) if norm else None
    affine = (leaf(5), leaf(5)) if norm else (None, None)
    a = leaf(8, 5) if packed else leaf(4, 3, 5)
    return a, leaf(3, 5), leaf(5, 5), mask, *affine, sizes, "tanh", leak, norm, reverse


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize(("norm", "leak", "reverse"), [(True, 0.5, False), (False, 1.0, True)])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")  # opcheck's
def test_opcheck(packed: bool, norm: bool, leak: float, reverse: bool) -> None:
    forward = arguments(packed=packed, norm=norm, leak=leak, reverse=reverse)
    torch.library.opcheck(torch.ops.bptt.cell_sweep.default, forward)
    made = [array.detach() for array in cell_operators.cell_sweep(*forward)]
    cotangents = torch.randn_like(made[0]), torch.randn_like(made[1])
    needed = [True, True, True, norm, norm]
    # A second derivative is made of operations of torch, and the steps of a packed batch are in a tensor's numbers.
    which = ["test_schema", "test_faketensor"]
    if not packed:
        which += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(
        torch.ops.bptt.cell_sweep_backward.default, (*cotangents, made, *forward, needed), test_utils=which
    )


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize(("norm", "leak", "reverse"), [(True, 0.5, False), (False, 1.0, True)])
def test_derivatives_of_the_operators(packed: bool, norm: bool, leak: float, reverse: bool) -> None:
    given = arguments(packed=packed, norm=norm, leak=leak, reverse=reverse)
    places = [k for k, value in enumerate(given) if isinstance(value, Tensor) and value.requires_grad]

    def states(*leaves: Tensor) -> list[Tensor]:
        every = list(given)
        for place, tensor in zip(places, leaves, strict=True):
            every[place] = tensor
        return cell_operators.cell_sweep(*every)[:2]

    leaves = tuple(given[k] for k in places)
    assert torch.autograd.gradcheck(states, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(states, leaves, fast_mode=True)


@of_all_options
@pytest.mark.parametrize("tokens", [False, True], ids=["numbers", "tokens"])
def test_one_graph_serves_every_length_and_batch(options: dict[str, Any], tokens: bool) -> None:
    rnn = bptt.nn.RNN(3, 4, 2, bidirectional=True, dtype=F64, **options)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, B in [(5, 2), *((T, 3) for T in range(3, 15))]:
        x = torch.randint(3, (T, B)) if tokens else torch.randn(T, B, 3, dtype=F64)
        results = [outcome(function, list(rnn.parameters()), x) for function in (compiled, rnn)]
        torch.testing.assert_close(*results, **near())


@of_all_options
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_exported_programs_take_any_length_and_batch(options: dict[str, Any], strict: bool) -> None:
    rnn = bptt.nn.RNN(3, 4, 2, bidirectional=True, dtype=F64, **options)
    T, B = torch.export.Dim("T"), torch.export.Dim("B")
    x = torch.randn(5, 3, 3, dtype=F64)
    program = torch.export.export(rnn, (x,), dynamic_shapes=({0: T, 1: B},), strict=strict)
    sweeps = [node for node in program.graph.nodes if node.target is torch.ops.bptt.cell_sweep.default]
    assert len(sweeps) == 4
    for steps, rows in [(5, 3), (19, 2), (1, 1), (2, 6)]:
        x = torch.randn(steps, rows, 3, dtype=F64)
        torch.testing.assert_close(program.module()(x), rnn(x), **near())


@of_all_options
@pytest.mark.parametrize("fullgraph", [False, True])
def test_packed_sequences_compile(options: dict[str, Any], fullgraph: bool) -> None:
    rnn = bptt.nn.RNN(3, 4, 2, bidirectional=True, dtype=F64, **options)
    packed = pack_padded_sequence(torch.randn(4, 3, 3, dtype=F64), [4, 2, 1])
    h0 = leaf(4, 3, 4)

    def call(data: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = rnn(PackedSequence(data, batch_sizes), h0)
        return output.data, h_n

    compiled = torch.compile(call, fullgraph=fullgraph, backend="aot_eager")
    leaves = [h0, *(p for name, p in rnn.named_parameters() if not name.startswith("h0"))]
    results = [outcome(function, leaves, packed.data, packed.batch_sizes) for function in (compiled, call)]
    torch.testing.assert_close(*results, **near())


@of_all_options
def test_graphs_follow_the_engine_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    rnn, x = bptt.nn.RNN(3, 4, dtype=F64, **options), torch.randn(5, 2, 3, dtype=F64)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    expected = outcome(rnn, list(rnn.parameters()), x)
    monkeypatch.setattr(cell_operators, "choose", lambda *_: bptt.engine.Choice(bptt.engine.reference, "judge"))
    monkeypatch.delattr(cell_operators.native_cells, "forward_sweep")
    torch.testing.assert_close(outcome(compiled, list(rnn.parameters()), x), expected, **near())


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_recurrent_dropout_compiles() -> None:
    rnn, x = bptt.nn.RNN(3, 64, recurrent_dropout=0.5, dtype=F64), torch.randn(4, 2, 3, dtype=F64)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager", dynamic=True)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    rnn.eval()
    torch.testing.assert_close(compiled(x), rnn(x), **near())


def test_functions_as_phi_refuse_packed_sequences_that_are_traced() -> None:
    with pytest.warns(bptt.SlowEngineWarning):
        rnn = bptt.nn.RNN(3, 4, nonlinearity=torch.nn.GELU(), dtype=F64)
    packed = pack_padded_sequence(torch.randn(4, 3, 3, dtype=F64), [4, 2, 1])
    with pytest.raises(bptt.InputError, match=r"(?s)takes no PackedSequence that is traced.*Trace padded batches"):
        torch.compile(rnn, backend="eager")(packed)
