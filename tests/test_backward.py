"""What autograd asks of a backward pass beside its numbers: many cotangents, changes meanwhile, hooks."""

import gc
import weakref
from typing import Any

import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch.autograd import graph
from torch.autograd.functional import hessian, jacobian
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_utils import gradcheck, gradgradcheck

import bptt
from bptt.sheet.cells import elman

F64 = torch.float64
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "both ways": {"num_layers": 2, "bidirectional": True, "learn_h0": True},
    "options": {"leak": 0.5, "norm": "layer"},
    "checkpoint": {"num_layers": 2, "checkpoint": 2},
    "options in blocks": {"num_layers": 2, "leak": 0.5, "residual": True, "checkpoint": 2},
    "lstm": {"cell": "lstm", "num_layers": 2},
    "gru-v1 in blocks": {"cell": "gru-v1", "num_layers": 2, "checkpoint": 2},
}
of_all_kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:bptt runs on the slow reference engine")


def network(kind: dict[str, Any]) -> Any:
    """It returns its output and its last states as one tensor."""
    if "cell" not in kind:
        return bptt.nn.RNN(2, 3, dtype=F64, **kind)
    return OneState(bptt.nn.Recurrent(**({"input_size": 2, "hidden_size": 3, "dtype": F64} | kind)))


class OneState(torch.nn.Module):
    """A network whose last states, which may be several, are joined."""

    def __init__(self, network: bptt.nn.Recurrent) -> None:
        super().__init__()
        self.network, self.num_layers = network, network.num_layers

    def forward(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        output, last = self.network(*given, **named)
        return output, torch.cat(last) if isinstance(last, tuple) else last

    def recurrent_matrix(self) -> Tensor:
        return next(p for name, p in self.network.named_parameters() if name.startswith("W_h"))


@of_all_kinds
def test_gradients_of_many_cotangents_at_once(kind: dict[str, Any]) -> None:
    rnn, x = network(kind), torch.randn(5, 2, 2, dtype=F64, requires_grad=True)
    output, h_n = rnn(x)
    leaves, seeds = [x, *rnn.parameters()], torch.randn(3, *h_n.shape, dtype=F64)
    batched = torch.autograd.grad((output, h_n), leaves, (torch.randn(3, *output.shape, dtype=F64), seeds),
                                  is_grads_batched=True, retain_graph=True)  # fmt: skip
    assert all(found.shape == (3, *leaf.shape) for found, leaf in zip(batched, leaves, strict=True))
    of_h_n = torch.autograd.grad(h_n, leaves, seeds, is_grads_batched=True, retain_graph=True, allow_unused=True)
    for v, seed in enumerate(seeds):
        one = torch.autograd.grad(h_n, leaves, seed, retain_graph=True, allow_unused=True)
        torch.testing.assert_close([None if g is None else g[v] for g in of_h_n], list(one), **tolerance(F64))


@of_all_kinds
def test_vectorized_jacobians_and_hessians(kind: dict[str, Any]) -> None:
    rnn, x = network(kind), torch.randn(3, 2, 2, dtype=F64)

    def output(x: Tensor) -> Tensor:
        return rnn(x)[0]

    def loss(x: Tensor) -> Tensor:
        return rnn(x)[0].square().sum()

    def row_of_jacobian(vectorize: bool) -> Any:
        of: Any = jacobian
        return lambda x: of(output, x, create_graph=True, vectorize=vectorize)[0, 0]

    for vectorized, one_by_one in (
        (jacobian(output, x, vectorize=True), jacobian(output, x)),
        (hessian(loss, x, vectorize=True), hessian(loss, x)),
        (jacobian(row_of_jacobian(True), x, vectorize=True), jacobian(row_of_jacobian(False), x)),
    ):
        torch.testing.assert_close(vectorized, one_by_one, **tolerance(F64))


@of_all_kinds
def test_checks_of_batched_gradients(kind: dict[str, Any]) -> None:
    """With sequences cut short and tokens, in the way PyTorch checks its own modules."""
    rnn, x = network(kind), torch.randn(4, 2, 2, dtype=F64, requires_grad=True)
    parameters = list(rnn.parameters())
    tokens = torch.tensor([[0, 1], [1, 1]])
    for leaves, call in (
        ((x, *parameters), lambda x, *_: rnn(x, lengths=[4, 2])),
        (tuple(parameters), lambda *_: rnn(tokens)),
    ):
        assert gradcheck(call, leaves)
        assert gradgradcheck(call, leaves)


def changed(output: Tensor, how: str) -> Tensor:
    return torch.nn.ReLU(inplace=True)(output) if how == "ReLU" else output.mul_(2)


@pytest.mark.parametrize("how", ["ReLU", "mul_"])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("kind", [{}, {"leak": 0.5}], ids=["plain", "options"])
def test_an_output_changed_in_place_is_explained(kind: dict[str, Any], packed: bool, how: str) -> None:
    rnn, x = network(kind), torch.randn(4, 2, dtype=F64)
    given = PackedSequence(x, torch.tensor([2, 2])) if packed else x.view(2, 2, 2)
    output = rnn(given)[0]
    output = output.data if packed else output
    right = (output.relu() if how == "ReLU" else output * 2).sum()
    right.backward(retain_graph=True)
    changed(output.clone(), how).sum().backward(retain_graph=True)
    wrong = changed(output, how).sum()
    with pytest.raises(
        RuntimeError, match=r"changed in place since.*change output.clone\(\).*same on a GPU.*\(torch: "
    ):
        wrong.backward()


@of_all_kinds
def test_weights_changed_before_the_way_back_are_explained(kind: dict[str, Any]) -> None:
    rnn = network(kind)
    L = rnn(torch.randn(4, 2, 2, dtype=F64))[0].sum()
    with torch.no_grad():
        (rnn.recurrent_matrix() if "cell" in kind else rnn.get_parameter("weight_hh_l0")).zero_()
    with pytest.raises(RuntimeError, match=r"Was it a weight: call backward\(\) before optimizer.step\(\)"):
        L.backward()


@of_all_kinds
def test_a_second_way_back_is_explained(kind: dict[str, Any]) -> None:
    L = network(kind)(torch.randn(4, 2, 2, dtype=F64))[0].sum()
    L.backward()
    with pytest.raises(RuntimeError, match=r"an earlier backward pass has freed.*retain_graph=True"):
        L.backward()


@pytest.mark.parametrize("tokens", [False, True], ids=["numbers", "tokens"])
def test_what_the_way_back_does_not_read_may_change(tokens: bool) -> None:
    rnn = bptt.nn.RNN(2, 3, 2, dtype=F64)
    twin = bptt.nn.RNN(2, 3, 2, dtype=F64)
    twin.load_state_dict(rnn.state_dict())
    x = torch.randint(2, (4, 2)) if tokens else torch.randn(4, 2, 2, dtype=F64)
    changing = ["bias_ih_l0", "bias_hh_l0", "bias_ih_l1", "weight_ih_l0"]

    def gradients(module: bptt.nn.RNN, *, change: bool, create_graph: bool = False) -> tuple[Tensor, ...]:
        L = module(x)[0].square().sum()
        if change:
            with torch.no_grad():
                for name in changing:
                    module.get_parameter(name).zero_()
        return torch.autograd.grad(L, list(module.parameters()), create_graph=create_graph)

    torch.testing.assert_close(gradients(rnn, change=True), gradients(twin, change=False), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"second derivative .* needs its inputs and weights as they were"):
        gradients(rnn, change=True, create_graph=True)


def test_input_may_change_where_its_weights_are_frozen() -> None:
    rnn, x = bptt.nn.RNN(2, 3, dtype=F64), torch.randn(4, 2, 2, dtype=F64)
    rnn.get_parameter("weight_ih_l0").requires_grad_(False)
    rest = [p for p in rnn.parameters() if p.requires_grad]
    expected = torch.autograd.grad(rnn(x)[0].square().sum(), rest)
    L = rnn(x)[0].square().sum()
    x.zero_()
    torch.testing.assert_close(torch.autograd.grad(L, rest), expected, rtol=0, atol=0)


@of_all_kinds
def test_what_is_kept_goes_through_the_hooks_and_is_freed(kind: dict[str, Any]) -> None:
    rnn, x = network(kind), torch.randn(6, 2, 2, dtype=F64, requires_grad=True)
    expected = torch.autograd.grad(rnn(x)[0].square().sum(), x)[0]
    kept: list[weakref.ref[Tensor]] = []
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        kept.append(weakref.ref(copy))
        sizes.append(tensor.numel())
        return copy

    with graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, h_n = rnn(x)
    L = output.square().sum()
    assert sum(sizes) >= rnn.num_layers * output.numel()  # the states of all layers are among them
    found = torch.autograd.grad(L, x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gc.collect()
    assert not any(reference() is not None for reference in kept)
    assert output.grad_fn is not None
    assert h_n.grad_fn is not None


@pytest.mark.parametrize("kind", [{}, {"leak": 0.5}], ids=["plain", "options"])
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_relu_passes_gradients_as_torch_does(engine: str, kind: dict[str, Any]) -> None:
    """NaN states pass them on, and states at zero stop even infinite ones, such as that of a root."""
    a = torch.tensor([-2.0, -0.0, 0.0, 3.0, torch.nan, torch.nan, -1.0, -1.0], dtype=F64)
    dh = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, torch.nan, torch.inf, torch.nan], dtype=F64)
    expected = torch.autograd.grad(torch.relu(a.requires_grad_()), a, dh)[0] * kind.get("leak", 1)
    x = a.detach().view(1, 1, 8).requires_grad_()
    rnn = bptt.nn.RNN(8, 8, 1, "relu", bias=False, dtype=F64, **kind)
    rnn.load_state_dict({"weight_ih_l0": torch.eye(8), "weight_hh_l0": torch.zeros(8, 8)})
    for b in range(8):  # one unit at a time: 0 times NaN would spread it
        alone = torch.zeros(1, 1, 8, dtype=F64)
        alone[..., 0] = x[0, 0, b].detach()
        alone.requires_grad_()
        with bptt.using(engine):
            output = rnn(alone)[0]
        found = torch.autograd.grad(output[0, 0, 0], alone, dh[b])[0][0, 0, 0]
        torch.testing.assert_close(found, expected[b], equal_nan=True)


@of_all_kinds
def test_a_loss_may_go_back_under_autocast(kind: dict[str, Any]) -> None:
    rnn, x = network(kind).float(), torch.randn(5, 2, 2, requires_grad=True)
    leaves, loss = [x, *rnn.parameters()], rnn(x)[0].square().sum()
    expected = torch.autograd.grad(loss, leaves, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(loss, leaves, retain_graph=True)
        again = torch.autograd.grad(loss, leaves, create_graph=True)
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))
    torch.testing.assert_close(again, expected, **tolerance(torch.float32))


def test_a_mask_that_asks_for_a_gradient_is_explained() -> None:
    cell, x = bptt.Cell(elman(dropout=True)), torch.randn(4, 2, 3)
    weights, mask = [torch.randn(3, 5), torch.randn(5, 5), torch.randn(5)], torch.ones(2, 5, requires_grad=True)
    for run in (
        lambda mask: bptt.ops.layer(cell, x, [None], weights, [mask]),
        lambda mask: bptt.long.stack(cell, x, [bptt.long.Layer([None], weights, [mask])]),
    ):
        run(mask.detach())
        with torch.no_grad():
            run(mask)
        with pytest.raises(bptt.InputError, match=r"has no gradient.* Hand in \.detach\(\)"):
            run(mask)
