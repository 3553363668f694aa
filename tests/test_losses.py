"""The three matched pairs, judged by their definition and by autograd; B3 is the gradient with respect to o."""

import math
from typing import get_args

import pytest
import torch
from cases import tolerance
from torch import Tensor

from bptt.sheet import losses

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


@pytest.mark.parametrize("name", losses.PAIRS)
def test_masked_steps_add_nothing_whatever_their_targets(name: str) -> None:
    o, y, mask = torch.randn(T, B, O, dtype=F64, requires_grad=True), targets(name), torch.rand(T, B) < 0.6
    mask[0, 0], mask[1, 1] = True, False
    spoilt = y.clone()
    spoilt[~mask] = 99 if name == "cross_entropy" else torch.nan
    expected = by_definition(name, losses.output(name, o.detach()), y)[mask].mean()
    torch.testing.assert_close(losses.loss(name, o, spoilt, mask=mask), expected, **tolerance(F64))
    (do,) = torch.autograd.grad(losses.loss(name, o, spoilt, mask=mask), o)
    assert not do[~mask].any()
    assert do[mask].any()


@pytest.mark.parametrize("name", ["binary_cross_entropy", "squared_error"])
def test_nan_targets_are_left_out_on_request(name: str) -> None:
    o, y = torch.randn(T, B, O, dtype=F64, requires_grad=True), targets(name)
    y[0, 0, 2], y[1, 1] = torch.nan, torch.nan
    with pytest.raises(ValueError, match=f"got {1 + O} NaN among {T * B * O}.*skip_nan=True"):
        losses.loss(name, o, y)
    L = losses.loss(name, o, y, skip_nan=True)
    elements = by_definition(name, losses.output(name, o)[..., None], y[..., None])
    expected = elements[~y.isnan()].sum() / (T * B - 1)
    torch.testing.assert_close(L, expected, **tolerance(F64))
    (do,) = torch.autograd.grad(L, o)
    assert do.isfinite().all()
    assert not do[1, 1].any()
    assert do[0, 0, 2] == 0


def test_class_weights_are_those_of_torch() -> None:
    o, y, factors = torch.randn(T, B, O, dtype=F64), targets("cross_entropy"), torch.rand(O, dtype=F64)
    found = losses.loss("cross_entropy", o, y, class_weights=factors)
    expected = torch.nn.functional.cross_entropy(o.flatten(0, 1), y.flatten(), factors)
    torch.testing.assert_close(found, expected, **tolerance(F64))
    y = targets("binary_cross_entropy")
    found = losses.loss("binary_cross_entropy", o, y, class_weights=factors)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(o, y, factors, reduction="sum") / (T * B)
    torch.testing.assert_close(found, expected, **tolerance(F64))


@pytest.mark.parametrize("block", [1, 2 * B * O, 1 << 20])
@pytest.mark.parametrize("name", losses.PAIRS)
def test_loss_of_states_is_the_loss_of_their_outputs(name: str, block: int) -> None:
    H = 6
    h, weight = torch.randn(T, B, H, dtype=F64, requires_grad=True), torch.randn(O, H, dtype=F64, requires_grad=True)
    bias, y, mask = torch.randn(O, dtype=F64, requires_grad=True), targets(name), torch.rand(T, B) < 0.7
    mask[0, 0] = True
    factors, leaves = torch.rand(O, dtype=F64), (h, weight, bias)
    expected = losses.loss(name, torch.nn.functional.linear(*leaves), y, mask=mask, class_weights=factors)
    found = losses.loss_of_states(name, *leaves, y, mask=mask, class_weights=factors, block=block)
    torch.testing.assert_close(found, expected, **tolerance(F64))
    gradients = (torch.autograd.grad(3 * L, leaves) for L in (found, expected))
    torch.testing.assert_close(*gradients, **tolerance(F64))

    def of_leaves(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return losses.loss_of_states(name, h, weight, bias, y, block=block)

    assert torch.autograd.gradcheck(of_leaves, leaves)


def test_nothing_left_to_learn_from_is_an_error() -> None:
    o, y = torch.randn(T, B, O), targets("cross_entropy")
    with pytest.raises(ValueError, match="no step counts"):
        losses.loss("cross_entropy", o, y, mask=torch.zeros(T, B, dtype=torch.bool))
    with pytest.raises(TypeError, match="must be bool"):
        losses.loss("cross_entropy", o, y, mask=torch.zeros(T, B))
    with pytest.raises(ValueError, match=r"shape \(4, 3\), steps and rows; got \(3, 4\)"):
        losses.loss("cross_entropy", o, y, mask=torch.ones(B, T, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"shape \(5,\), a factor for each output"):
        losses.loss("cross_entropy", o, y, class_weights=torch.ones(3))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("name", get_args(losses.Name))
def test_what_a_mask_leaves_out_may_hold_anything(name: str, bad: float) -> None:
    o = torch.randn(4, 3, 5, dtype=torch.float64)
    y = torch.randint(5, (4, 3)) if name == "cross_entropy" else torch.rand(4, 3, 5, dtype=torch.float64)
    mask = torch.rand(4, 3) < 0.7
    mask[0, 0], mask[1, 1] = False, True
    expected = losses.loss(name, o, y, mask=mask)
    o[0, 0, 2] = bad
    o.requires_grad_()
    L = losses.loss(name, o, y, mask=mask)
    L.backward()
    torch.testing.assert_close(L, expected)
    assert o.grad is not None
    assert o.grad.isfinite().all()
    states = losses.loss_of_states(name, o.detach(), torch.eye(5, dtype=torch.float64), None, y, mask=mask, block=1)
    if math.isnan(bad):
        torch.testing.assert_close(states, expected)


def test_weights_must_broadcast_to_steps_and_rows() -> None:
    o, y = torch.randn(4, 3, 5), torch.randint(5, (4, 3))
    for shape in [(4, 1, 1), (4, 3, 1), (3, 4), (5,)]:
        for make in (
            losses.loss,
            lambda *given: losses.loss_of_states(given[0], given[1], torch.eye(5), None, *given[2:]),
        ):
            with pytest.raises(ValueError, match=r"weights must have shape \(4, 3\), steps and rows, .*; got"):
                make("cross_entropy", o, y, torch.ones(shape))


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="no step counts: there is none"):
        losses.loss("squared_error", torch.zeros(0, 3, 2), torch.zeros(0, 3, 2))
    with pytest.raises(ValueError, match="class weights of all targets are zero"):
        losses.loss(
            "cross_entropy", torch.zeros(2, 1, 2), torch.zeros(2, 1).long(), class_weights=torch.tensor([0.0, 1.0])
        )


def test_loss_of_states_is_computed_in_the_dtype_of_the_weights_under_autocast() -> None:
    h, weight, y = torch.randn(4, 3, 5), torch.randn(7, 5, requires_grad=True), torch.randint(7, (4, 3))
    expected = losses.loss_of_states("cross_entropy", h, weight, None, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.loss_of_states("cross_entropy", h, weight, None, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
