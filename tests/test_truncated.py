"""Truncated BPTT against the closed form of a linear scalar network, and against full BPTT."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch.nn import functional as F

from bptt.errors import InputError
from bptt.nn import RNN, Elman
from bptt.sheet import losses
from bptt.train import truncated

F64 = torch.float64


def scalar(w: float) -> RNN:
    """h_t = x_t + w h_{t-1}"""
    rnn = RNN(1, 1, nonlinearity="identity", bias=False, dtype=F64)
    rnn.load_state_dict({"weight_ih_l0": torch.ones(1, 1), "weight_hh_l0": torch.full((1, 1), w, dtype=F64)})
    return rnn


@pytest.mark.parametrize(("T", "k1", "k2"), [(7, 1, 1), (7, 1, 3), (8, 2, 5), (9, 4, 4), (10, 3, 7), (5, 9, 9)])
def test_gradient_of_each_window_is_the_closed_form(T: int, k1: int, k2: int) -> None:
    w, x, rnn = 0.8, torch.randn(T, 1, 1, dtype=F64), scalar(0.8)
    h = [0.0]
    for x_t in x.flatten().tolist():
        h.append(x_t + w * h[-1])
    ends = []
    for number, (L, _) in enumerate(truncated.updates(rnn, lambda o, y: o.sum(), x, x, k1=k1, k2=k2)):
        # L is the sum of h_t over the new steps, and ∂h_t/∂w = Σ_s w^(t-s) h_{s-1} over the steps s of the window.
        fresh, end = number * k1, min((number + 1) * k1, T)
        start = max(0, end - k2)
        expected = sum(w ** (t - s) * h[s - 1] for t in range(fresh + 1, end + 1) for s in range(start + 1, t + 1))
        (found,) = torch.autograd.grad(L, [rnn.get_parameter("weight_hh_l0")])
        torch.testing.assert_close(found, torch.tensor([[expected]], dtype=F64), **tolerance(F64))
        ends.append(end)
    assert ends[-1] == T


def network() -> tuple[Elman, Tensor, Tensor]:
    torch.manual_seed(2)
    model = Elman(3, 6, 4, num_layers=2, dtype=F64)
    return model, torch.randn(12, 2, 3, dtype=F64), torch.randint(4, (12, 2))


def summed(model: Elman):
    return lambda o, y: model.loss(o, y, torch.ones((), dtype=F64))


def masked(model: Elman):
    def loss(o: Tensor, y: Tensor) -> Tensor:
        mask = torch.zeros(y.shape, dtype=torch.bool)
        mask[1:4] = True  # whole windows have no step that counts
        mask[6, 0] = True
        return losses.loss("cross_entropy", o, y, mask=mask)

    return loss


LOSSES: dict[str, Callable[[Elman], Any]] = {
    "sum": summed,
    "mean": lambda model: model.loss,
    "torch's mean": lambda model: lambda o, y: F.cross_entropy(o.flatten(0, 1), y.flatten()),
    "mean with a mask": masked,
    "in place": lambda model: lambda o, y: model.loss(o.mul_(2), y),
    "root": lambda model: lambda o, y: model.loss(o, y).sqrt(),
    "penalty on weights": lambda model: (
        lambda o, y: model.loss(o, y) + sum(p.square().sum() for p in model.parameters())
    ),
}


@pytest.mark.parametrize("k1", [1, 5, 12])
@pytest.mark.parametrize("loss", LOSSES)
def test_reaching_back_to_the_start_is_full_bptt(loss: str, k1: int) -> None:
    model, x, y = network()
    bias = truncated.bias(model, LOSSES[loss](model), x, y, k1=k1, k2=12)
    assert bias.relative_error < 1e-12
    assert bias.cosine == pytest.approx(1, abs=1e-12)


def test_targets_that_are_nan_weigh_nothing() -> None:
    model, x, _ = network()
    y = torch.randn(12, 2, 4, dtype=F64)
    y[2:7] = torch.nan
    bias = truncated.bias(model, lambda o, y: losses.loss("squared_error", o, y, skip_nan=True), x, y, k1=2, k2=12)
    assert bias.relative_error < 1e-12


def test_the_bias_of_a_sum_is_that_of_the_gradients_of_its_windows() -> None:
    model, x, y = network()
    parameters = list(model.parameters())

    def flat(L: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(L, parameters)])

    found = sum(flat(L) for L, _ in truncated.updates(model, summed(model), x, y, k1=2, k2=3))
    full = flat(summed(model)(model(x)[0], y))
    expected = float((found - full).norm() / full.norm())
    for loss in (summed(model), model.loss):
        bias = truncated.bias(model, loss, x, y, k1=2, k2=3)
        assert bias.relative_error == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [lambda o, y: o, lambda o, y: 1.0, lambda o, y: o.detach().sum()])
def test_a_loss_that_is_not_one_number_of_the_outputs_is_refused(loss: Any) -> None:
    model, x, y = network()
    with pytest.raises(InputError, match="one number that depends on the outputs"):
        truncated.bias(model, loss, x, y, k1=2, k2=3)
    assert model.training


def test_truncation_errs_less_the_further_it_reaches() -> None:
    model, x, y = network()
    errors = [truncated.bias(model, summed(model), x, y, k1=1, k2=k2).relative_error for k2 in (1, 3, 6)]
    assert errors[0] > errors[1] > errors[2] > 0
    bias = truncated.bias(model, summed(model), x, y, k1=1, k2=3)
    assert bias.by_parameter["readout.weight"].relative_error < 1e-12
    assert bias.by_parameter["rnn.weight_hh_l0"].relative_error > bias.relative_error


def test_state_is_carried_on_and_windows_are_those_of_one_stream() -> None:
    model, x, y = network()
    whole = [h for _, h in truncated.updates(model, model.loss, x, y, k1=3, k2=5)]
    h = None
    for part in range(4):
        steps = slice(3 * part, 3 * part + 3)
        [(_, h)] = truncated.updates(model, model.loss, x[steps], y[steps], k1=3, k2=5, h0=h)
        torch.testing.assert_close(h, whole[part], **tolerance(F64))
    assert not whole[-1].requires_grad


def test_weights_may_change_between_windows() -> None:
    model, x, y = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(30):
        for L, _ in truncated.updates(model, model.loss, x, y, k1=4, k2=8):
            optimizer.zero_grad()
            L.backward()
            optimizer.step()
            losses.append(float(L.detach()))
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize(("k1", "k2"), [(0, 3), (4, 3), (-1, -1)])
def test_impossible_windows_are_refused(k1: int, k2: int) -> None:
    with pytest.raises(InputError, match=f"1 <= k1 <= k2.*got k1={k1}, k2={k2}"):
        list(truncated.windows(10, k1, k2))


def test_targets_of_another_length_are_refused() -> None:
    model, x, y = network()
    with pytest.raises(InputError, match="each of the 12 steps of the inputs; got 11"):
        next(truncated.updates(model, model.loss, x, y[:-1], k1=1, k2=1))
