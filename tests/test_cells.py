"""The module with the options of the plain cell: leak, residual connection, layer norm, recurrent dropout."""

from typing import Any

import pytest
import torch
from cases import near, tolerance
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import bptt

F64 = torch.float64
EVERYTHING: dict[str, Any] = {"leak": 0.4, "residual": True, "norm": "layer", "learn_h0": True, "init": "orthogonal"}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("hidden_size", [5, [6, 4]])
def test_options_of_a_stack(bidirectional: bool, hidden_size: Any) -> None:
    rnn = bptt.nn.RNN(3, hidden_size, 2, bidirectional=bidirectional, recurrent_dropout=0.5, dtype=F64, **EVERYTHING)
    rnn.eval()
    for parameter in rnn.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(6, 2, 3, dtype=F64)
    below = x
    for k in range(2):
        outputs = []
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            own = {n.split(f"_l{k}")[0]: p for n, p in rnn.named_parameters() if n.endswith(f"_l{k}{suffix}")}
            h = own["h0"].expand(2, -1)
            states = []
            for x_t in reversed(below) if suffix else below:
                a = x_t @ own["weight_ih"].mT + own["bias_ih"] + h @ own["weight_hh"].mT + own["bias_hh"]
                n = torch.nn.functional.layer_norm(a, a.shape[-1:], own["norm_weight"], own["norm_bias"])
                h = 0.6 * h + 0.4 * torch.tanh(n + h)
                states.append(h)
            outputs.append(torch.stack(states[::-1] if suffix else states))
        below = torch.cat(outputs, -1)
    output, _ = rnn(x)
    torch.testing.assert_close(output, below, **near(F64, True, True))
    parameters = list(rnn.parameters())
    grads = [torch.autograd.grad(h.square().sum(), parameters) for h in (output, below)]
    torch.testing.assert_close(grads[0], grads[1], **near(F64, True, True))
    cut, _ = rnn(x, lengths=[6, 3])
    for b, length in enumerate((6, 3)):
        torch.testing.assert_close(cut[:length, b], rnn(x[:length, b])[0], **near(F64, True, True))
    packed, _ = rnn(pack_padded_sequence(x, [6, 3]))
    assert torch.equal(torch.nn.utils.rnn.pad_packed_sequence(packed)[0], cut)


def test_recurrent_dropout_is_one_mask_for_all_steps_of_a_row() -> None:
    rnn = bptt.nn.RNN(1, 64, nonlinearity="identity", recurrent_dropout=0.5, bias=False, dtype=F64)
    with torch.no_grad():
        rnn.get_parameter("weight_ih_l0").zero_()
        rnn.get_parameter("weight_hh_l0").copy_(torch.eye(64))
        h, _ = rnn(torch.zeros(5, 3, 1, dtype=F64), torch.ones(1, 3, 64, dtype=F64))
    kept = h[0] != 0
    assert 0.3 < kept.to(F64).mean() < 0.7
    assert not torch.equal(kept[0], kept[1])
    for t in range(5):
        torch.testing.assert_close(h[t], kept.to(F64) * 2.0 ** (t + 1), **tolerance(F64))
    x, start = torch.randn(5, 3, 1, dtype=F64), torch.ones(1, 3, 64, dtype=F64)
    torch.manual_seed(1)
    once = rnn(x, start)[0]
    assert not torch.equal(rnn(x, start)[0], once)
    torch.manual_seed(1)
    assert torch.equal(rnn(x, start)[0], once)
    plain = bptt.nn.RNN(1, 64, nonlinearity="identity", bias=False, dtype=F64)
    plain.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(rnn.eval()(x, start)[0], plain(x, start)[0], **tolerance(F64))


def test_functions_run_on_the_reference_and_say_so() -> None:
    with pytest.warns(bptt.SlowEngineWarning, match="GELU.* runs on the slow reference engine") as caught:
        rnn = bptt.nn.RNN(3, 5, 2, torch.nn.GELU(), bidirectional=True, dtype=F64)
    assert caught[0].filename == __file__
    x = torch.randn(4, 2, 3, dtype=F64)
    h, last = x.new_zeros(2, 5), []
    W_ih, W_hh, b, c = (rnn.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    for x_t in x:
        a = x_t @ W_ih.mT + h @ W_hh.mT + b + c
        h = torch.nn.functional.gelu(a)
        last.append(h)
    torch.testing.assert_close(rnn(x, return_all_layers=True)[2][0][..., :5], torch.stack(last), **tolerance(F64))
    with pytest.warns(bptt.SlowEngineWarning):
        rnn = bptt.nn.RNN(2, 3, nonlinearity=torch.nn.PReLU(dtype=F64), dtype=F64)
    assert "nonlinearity.weight" in rnn.state_dict()
    leaves = (torch.randn(3, 2, 2, dtype=F64, requires_grad=True), *rnn.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: rnn(x), leaves)
    assert bptt.nn.RNN(3, 5, nonlinearity=torch.relu).nonlinearity == "relu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_options_in_half_precision(dtype: torch.dtype) -> None:
    held = bptt.nn.RNN(3, 5, 2, dtype=dtype, **EVERYTHING)
    wide = bptt.nn.RNN(3, 5, 2, **EVERYTHING)
    wide.load_state_dict(held.state_dict())
    x = torch.randn(4, 2, 3).to(dtype)
    assert torch.equal(held(x)[0], wide(x.float())[0].to(dtype))
    held(x)[0].sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in held.parameters())


def test_tokens_are_rows_of_the_input_weights() -> None:
    rnn = bptt.nn.RNN(9, 5, leak=0.5, dtype=F64)
    tokens = torch.randint(9, (4, 3))
    one_hot = torch.nn.functional.one_hot(tokens, 9).to(F64)
    grads = [torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters())) for x in (tokens, one_hot)]
    torch.testing.assert_close(grads[0], grads[1], **tolerance(F64))
    with pytest.raises(IndexError, match=r"tokens must lie in \[0, 9\).* got 9 to 9"):
        rnn(torch.full((4, 3), 9))


def test_cells_with_options_are_traced_and_transformed() -> None:
    rnn, x = bptt.nn.RNN(3, 4, leak=0.5, norm="layer", dtype=F64), torch.randn(5, 2, 3, dtype=F64)
    parameters = {name: value.detach() for name, value in rnn.named_parameters()}

    def loss(own: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(rnn, own, (row,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    for b in range(2):
        alone = torch.autograd.grad(rnn(x[:, b])[0].square().sum(), list(rnn.parameters()))
        torch.testing.assert_close([grad[b] for grad in each.values()], list(alone), **near(F64, False, True))


@pytest.mark.parametrize("kind", [{}, {"leak": 0.5}], ids=["plain", "options"])
def test_tokens_are_compiled_transformed_and_without_data(kind: dict[str, Any]) -> None:
    rnn = bptt.nn.RNN(4, 3, dtype=F64, **kind)
    tokens = torch.randint(4, (3, 2, 2))
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens[0]), rnn(tokens[0]), **tolerance(F64))
    torch.testing.assert_close(torch.func.vmap(rnn)(tokens)[0][1], rnn(tokens[1])[0], **tolerance(F64))
    assert rnn.to("meta")(tokens[0].to("meta"))[0].shape == (2, 2, 3)


@pytest.mark.parametrize("kind", [{}, {"leak": 0.5}], ids=["plain", "options"])
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_forward_mode_over_samples_of_tokens(kind: dict[str, Any]) -> None:
    rnn, tokens = bptt.nn.RNN(4, 3, dtype=F64, **kind), torch.randint(4, (3, 2, 2))
    weight = rnn.get_parameter("weight_ih_l0").detach()

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(rnn, {"weight_ih_l0": weight}, (x,))[0].square().sum()

    def pushed(x: Tensor) -> Tensor:
        return torch.func.jvp(lambda w: loss(w, x), (weight,), (weight,))[1]

    def curvature(x: Tensor) -> Tensor:
        return torch.func.hessian(loss)(weight, x)

    for function in (pushed, curvature):
        each = torch.func.vmap(function)(tokens)
        torch.testing.assert_close(list(each), [function(x) for x in tokens], **tolerance(F64))
    expected = torch.autograd.functional.hessian(lambda w: loss(w, tokens[0]), weight)
    torch.testing.assert_close(curvature(tokens[0]), expected, **tolerance(F64))
    with pytest.raises(IndexError):
        torch.func.vmap(pushed)(tokens - 1)


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
def test_functions_as_phi_export_at_any_batch() -> None:
    with pytest.warns(bptt.SlowEngineWarning):
        rnn = bptt.nn.RNN(3, 4, nonlinearity=torch.nn.GELU(), norm="layer", dtype=F64)
    B = torch.export.Dim("B")
    program = torch.export.export(rnn, (torch.randn(5, 3, 3, dtype=F64),), dynamic_shapes=({1: B},))
    x = torch.randn(5, 7, 3, dtype=F64)
    torch.testing.assert_close(program.module()(x), rnn(x), **near(F64, False, True))


def test_memory_is_bounded_for_cells_with_options() -> None:
    rnn, x = bptt.nn.RNN(3, 4, 2, leak=0.5, norm="layer", dtype=F64), torch.randn(900, 2, 3, dtype=F64)
    kept: list[int] = []

    def sizes(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    def gradients(checkpoint: Any) -> tuple[list[Tensor], int]:
        rnn.checkpoint = checkpoint
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(sizes, lambda tensor: tensor):
            output, _ = rnn(x)
        return [output, *torch.autograd.grad(output.square().sum(), list(rnn.parameters()))], sum(kept)

    (whole, all_kept), (in_blocks, less) = gradients(None), gradients(1)
    torch.testing.assert_close(in_blocks, whole, **near(F64, False, True))
    assert less < all_kept / 2


def test_a_tape_records_cells_with_options() -> None:
    rnn, x = bptt.nn.RNN(3, 5, leak=0.5, dtype=F64), torch.randn(4, 2, 3, dtype=F64)
    tape = bptt.record(rnn, x, torch.zeros(4, 2, 5, dtype=F64), loss="squared_error")
    output = rnn(x)[0]
    record = tape.layer(0)
    torch.testing.assert_close(record["h"], output, rtol=0, atol=0)
    assert record.d("h") is not None
    torch.testing.assert_close(record.from_outside["h"], 2 * output / output[..., 0].numel(), **tolerance(F64))
    assert record.activation == record.cell.name
    assert tape.check().ok


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"leak": 0}, bptt.InputError, r"leak must lie in \(0, 1\].* got 0.* leak=1/n"),
        ({"leak": 1.5}, bptt.InputError, "got 1.5"),
        ({"leak": "0.5"}, bptt.InputError, "leak must lie in .* got '0.5'"),
        ({"recurrent_dropout": None}, bptt.InputError, "recurrent_dropout must lie in .* got None"),
        ({"recurrent_dropout": 1.0}, bptt.InputError, r"recurrent_dropout must lie in \[0, 1\).* got 1.0"),
        ({"norm": "batch"}, bptt.InputError, "norm must be None or 'layer'.* got 'batch'"),
        ({"nonlinearity": "gelu"}, ValueError, "tanh, relu, sigmoid, identity; got 'gelu'"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        bptt.nn.RNN(3, 5, **options)
