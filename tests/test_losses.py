"""The three matched pairs, judged by their definition and by autograd; B3 is the gradient with respect to o."""

import pytest
import torch
from cases import tolerance
from torch import Tensor

from bptt import losses

F64 = torch.float64
T, B, O = 4, 3, 5


def targets(name: str) -> Tensor:
    if name == "cross_entropy":
        return torch.randint(0, O, (T, B))
    return torch.rand(T, B, O, dtype=F64).round() if name == "binary_cross_entropy" else torch.randn(T, B, O, dtype=F64)


def by_definition(name: str, y_hat: Tensor, y: Tensor) -> Tensor:
    if name == "cross_entropy":
        return -torch.tensor([[y_hat[t, b, y[t, b]].log() for b in range(B)] for t in range(T)])
    if name == "binary_cross_entropy":
        return -(y * y_hat.log() + (1 - y) * (1 - y_hat).log()).sum(-1)
    return ((y_hat - y) ** 2).sum(-1)


@pytest.mark.parametrize("name", losses.PAIRS)
def test_loss_is_the_weighted_sum_over_steps_and_rows(name: str) -> None:
    o, y, w = torch.randn(T, B, O, dtype=F64), targets(name), torch.rand(T, 1, dtype=F64)
    per_row = by_definition(name, losses.output(name, o), y)
    torch.testing.assert_close(losses.loss(name, o, y, w), (w * per_row).sum(), **tolerance(F64))
    torch.testing.assert_close(losses.loss(name, o, y), per_row.mean(), **tolerance(F64))


@pytest.mark.parametrize("name", losses.PAIRS)
def test_gradient_is_b3(name: str) -> None:
    o, y, w = torch.randn(T, B, O, dtype=F64, requires_grad=True), targets(name), torch.rand(T, B, dtype=F64)
    (do,) = torch.autograd.grad(losses.loss(name, o, y, w), o)
    dense = torch.nn.functional.one_hot(y, O) if name == "cross_entropy" else y
    factor = 2 if name == "squared_error" else 1
    expected = factor * w[..., None] * (losses.output(name, o.detach()) - dense)
    torch.testing.assert_close(do, expected, **tolerance(F64))


@pytest.mark.parametrize("name", losses.PAIRS)
def test_gradcheck(name: str) -> None:
    o, y = torch.randn(T, B, O, dtype=F64, requires_grad=True), targets(name)
    assert torch.autograd.gradcheck(lambda o: losses.loss(name, o, y), o)
    assert torch.autograd.gradgradcheck(lambda o: losses.loss(name, o, y), o)


@pytest.mark.parametrize("name", losses.PAIRS)
def test_jacobian_is_b2(name: str) -> None:
    o = torch.randn(O, dtype=F64)
    expected = torch.autograd.functional.jacobian(lambda o: losses.output(name, o), o)
    torch.testing.assert_close(losses.pair(name).jacobian(losses.output(name, o)), expected, **tolerance(F64))


def test_bad_targets_are_explained() -> None:
    o = torch.zeros(T, B, O)
    with pytest.raises(ValueError, match=r"loss must be one of cross_entropy, .*; got 'hinge'"):
        losses.loss("hinge", o, o)
    with pytest.raises(TypeError, match=r"class numbers, int64; got torch.float32"):
        losses.loss("cross_entropy", o, torch.zeros(T, B))
    with pytest.raises(ValueError, match=r"must lie in \[0, 5\), the number of outputs; got 0 to 5"):
        losses.loss("cross_entropy", o, torch.arange(12).view(T, B) % 6)
    with pytest.raises(ValueError, match=r"must have shape \(4, 3\) for outputs \(4, 3, 5\); got \(3, 4\)"):
        losses.loss("cross_entropy", o, torch.zeros(B, T, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must have shape \(4, 3, 5\) for outputs \(4, 3, 5\); got \(4, 3\)"):
        losses.loss("squared_error", o, torch.zeros(T, B))
