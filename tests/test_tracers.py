"""torch.jit.trace, the exporter built on it, torch.fx and expanded weights get what torch's own modules give them."""

import copy
import io
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_padded_sequence

import bptt

I, H = 3, 4
pytestmark = [  # of torch itself: that its tracer is old, and what its own forward does that a trace cannot know
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning"),
]


class Model(torch.nn.Module):
    def __init__(self, recurrent: torch.nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        result = self.recurrent(x)
        return result[0] if isinstance(result, tuple) else result


MADE = [
    pytest.param(lambda: bptt.nn.RNN(I, H), (5, 2, I), (7, 3, I), id="plain"),
    pytest.param(lambda: bptt.nn.RNN(I, H, 2, "relu", True, True, 0.0, True), (2, 5, I), (3, 7, I), id="both ways"),
    pytest.param(lambda: bptt.convert(torch.nn.RNN(I, H, bias=False)), (5, 2, I), (7, 3, I), id="converted"),
    pytest.param(lambda: bptt.nn.RNNCell(I, H, nonlinearity="relu"), (2, I), (3, I), id="cell"),
    pytest.param(lambda: bptt.nn.LSTM(I, H, 2, bidirectional=True), (5, 2, I), (7, 3, I), id="lstm"),
    pytest.param(lambda: bptt.nn.GRU(I, H, 2), (5, 2, I), (7, 3, I), id="gru"),
    pytest.param(lambda: bptt.nn.LSTMCell(I, H), (2, I), (3, I), id="lstm cell"),
    pytest.param(lambda: bptt.nn.GRUCell(I, H), (2, I), (3, I), id="gru cell"),
]


@pytest.mark.parametrize(("made", "shape", "other"), MADE)
@pytest.mark.parametrize("grad", [True, False])
def test_traced_models_compute_the_same_at_another_length_and_batch(
    made: Callable[[], torch.nn.Module], shape: tuple[int, ...], other: tuple[int, ...], grad: bool
) -> None:
    model, file = Model(made()), io.BytesIO()
    with torch.set_grad_enabled(grad):
        torch.jit.save(torch.jit.trace(model, (torch.randn(shape),)), file)
    file.seek(0)
    x = torch.randn(other)
    torch.testing.assert_close(torch.jit.load(file)(x), model(x))


def test_a_module_is_traced_by_itself_and_after_its_function_was_changed() -> None:
    rnn, x = bptt.nn.RNN(I, H), torch.randn(5, 2, I)
    rnn.nonlinearity = "relu"
    traced: Any = torch.jit.trace(rnn, (x,))
    torch.testing.assert_close(traced(x), rnn(x))


@pytest.mark.parametrize("alone", [True, False])
def test_the_exporter_of_traces_writes_the_operator_rnn(alone: bool) -> None:
    rnn: Any = bptt.nn.RNN(I, H)
    file: Any = io.BytesIO()
    torch.onnx.export(
        rnn if alone else Model(rnn).eval(), (torch.randn(5, 2, I),), file, dynamo=False, input_names=["x"],
        dynamic_axes={"x": {0: "T", 1: "B"}},
    )  # fmt: skip
    assert "RNN" in [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    x = torch.randn(7, 3, I)
    found = onnxruntime.InferenceSession(file.getvalue()).run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), rnn(x)[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("made", "x"),
    [
        (lambda: bptt.nn.RNN(I, H, nonlinearity="sigmoid"), torch.zeros(5, 2, I)),
        (lambda: bptt.nn.RNN(I, H, leak=0.5), torch.zeros(5, 2, I)),
        (lambda: bptt.nn.RNN(I, H, learn_h0=True), torch.zeros(5, 2, I)),
        (lambda: bptt.nn.RNN(I, [H, 2]), torch.zeros(5, 2, I)),
        (lambda: bptt.nn.RNN(I, H), torch.zeros(5, 2, dtype=torch.int64)),
        (lambda: bptt.nn.RNNCell(I, H), torch.zeros(2, dtype=torch.int64)),
        (lambda: torch.nn.utils.parametrizations.orthogonal(bptt.nn.RNN(I, H), "weight_hh_l0"), torch.zeros(5, 2, I)),
    ],
)
def test_what_torch_does_not_compute_cannot_be_traced(made: Callable[[], torch.nn.Module], x: Tensor) -> None:
    with pytest.raises(bptt.InputError, match=r"(?s)knows torch's operators alone.* torch.export.export takes"):
        torch.jit.trace(Model(made()), (x,))


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("frozen", [(), ("weight_hh_l0",)])
@pytest.mark.parametrize("packed", [False, True])
def test_expanded_weights_give_gradients_of_every_sample(
    num_layers: int, frozen: tuple[str, ...], packed: bool
) -> None:
    def gradients(rnn: torch.nn.Module) -> dict[str, Any]:
        x = torch.randn(2, 5, I, generator=torch.Generator().manual_seed(3))
        given: Any = pack_padded_sequence(x, [5, 4], batch_first=True) if packed else x
        output, _ = call_for_per_sample_grads(rnn, batch_size=2, batch_first=True)(given)
        (output.data if packed else output).square().sum().backward()
        return {name: vars(p)["grad_sample"] for name, p in rnn.named_parameters() if p.requires_grad}

    theirs = torch.nn.RNN(I, H, num_layers, batch_first=True)
    for name in frozen:
        theirs.get_parameter(name).requires_grad_(False)
    ours = bptt.convert(copy.deepcopy(theirs))
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=0, atol=0)


def test_expanded_weights_are_refused_where_torch_computes_something_else() -> None:
    rnn = bptt.nn.RNN(I, H, leak=0.5, batch_first=True)
    with pytest.raises(bptt.InputError, match=r"call_for_per_sample_grads.* leak=0.5.*torch.func.grad"):
        call_for_per_sample_grads(rnn, batch_first=True)(torch.randn(2, 5, I))


@pytest.mark.parametrize("cell", ["elman", "lstm"])
@pytest.mark.parametrize("grad", [True, False])
def test_layers_of_other_cells_are_refused(cell: str, grad: bool) -> None:
    layers = bptt.nn.Recurrent(cell, I, H, batch_first=True)
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(bptt.InputError, match=r"torch.jit.trace.* Recurrent\('(elman|lstm)"),
    ):
        torch.jit.trace(Model(layers), (torch.randn(5, 2, I),))
    with pytest.raises(bptt.InputError, match=r"call_for_per_sample_grads.* Recurrent\(.*torch.func.grad"):
        call_for_per_sample_grads(layers, batch_first=True)(torch.randn(2, 5, I))


@pytest.mark.filterwarnings("ignore:bptt runs on the slow reference engine")
def test_layers_of_any_cell_are_one_node_for_fx() -> None:
    class Timed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = bptt.nn.Recurrent("k : input\nh_t = tanh(x_t W_xh + k_t ⊙ (h_{t-1} W_hh))", I, H)

        def forward(self, x: Tensor, k: Tensor) -> Tensor:
            return self.layers(x, inputs={"k": k}, lengths=[5, 2])[0]

    model, x, k = Timed(), torch.randn(5, 2, I), torch.rand(5, 2)
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["layers"]
    assert torch.equal(graph(x, k), model(x, k))


def test_a_recurrent_module_is_one_node_for_fx() -> None:
    class Several(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.RNN(I, H)
            self.cell = torch.nn.RNNCell(H, H)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            output, h_n = self.rnn(x, h)
            return self.cell(output[-1], h_n[0])

    model, x, h = bptt.convert(Several()), torch.randn(5, 2, I), torch.randn(1, 2, H)
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["rnn", "cell"]
    assert torch.equal(graph(x, h), model(x, h))


def test_fx_keeps_what_a_module_is_asked_for() -> None:
    class Asking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = bptt.nn.RNN(I, H, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x, lengths=[5, 2], return_all_layers=True)[2][0]

    model, x = Asking(), torch.randn(5, 2, I)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
    with pytest.raises(bptt.InputError, match=r"by itself\. Trace a model"):
        torch.fx.symbolic_trace(bptt.nn.RNN(I, H))
