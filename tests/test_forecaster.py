"""Forecasts: the rules judged by plain loops and least squares, and what a forecast may know."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bptt.nn import RNN
from bptt.tasks import forecaster
from bptt.tasks.forecaster import Base, Forecaster, Panel


def wavy(steps: int = 300, inputs: int = 1, gaps: bool = False) -> Tensor:
    """(N, 1 + inputs): a season of 12 with a trend and noise, and noise that drives it."""
    draw = np.random.default_rng(0)
    t = np.arange(steps)
    x = draw.normal(size=(steps, inputs))
    y = 50 + 0.05 * t + 8 * np.sin(2 * np.pi * t / 12) + np.roll(x, 1, 0).sum(1) + draw.normal(size=steps)
    values = torch.from_numpy(np.column_stack((y, x)))
    if gaps:
        values[torch.from_numpy(draw.random(values.shape) < 0.1)] = math.nan
    return values


def fitted(values: Tensor, *, horizon: int = 5, season: int | None = 12, base: Any = "auto") -> Forecaster:
    return fit(values, horizon=horizon, season=season, base=base)[0]


def fit(values: Tensor, **options: Any) -> tuple[Forecaster, dict[Base, float]]:
    """Fitted to the first 200 steps and judged by the next 50."""
    known = alone(values[:250], *forecaster.scales(values[:200]))
    return forecaster.fit(known, torch.tensor([200]), targets=1, window=24, **options)


def alone(values: Tensor, mean: Tensor, sd: Tensor) -> Panel:
    return Panel(values, torch.tensor([len(values)]), mean[None], sd[None])


def with_network(model: Forecaster, seed: int = 0) -> Forecaster:
    """The same with a network that says something."""
    torch.manual_seed(seed)
    inputs = len(model.mean) - model.targets
    other = Forecaster(
        model.targets, inputs, model.horizon, model.window, season=model.season, base=model.base, anchor=model.anchor,
        lags=model.lags, gaps=model.gaps, further=model.seasons[1:], layers=lambda channels: RNN(channels, 7),
    )  # fmt: skip
    other.copy_fitted(model)
    torch.nn.init.normal_(other.network.readout.weight)
    return other


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("base", forecaster.BASES)
def test_a_forecast_knows_nothing_of_what_comes_after_it(base: Base, gaps: bool) -> None:
    values = wavy(gaps=gaps)
    model = with_network(fitted(values, base=base))
    at = torch.tensor([40, 150, 290])
    before = model.forecasts(model.panel([values]), at)
    assert before.isfinite().all()
    for place, t in enumerate(at.tolist()):
        later = values.clone()
        later[t + 1 :] = 1e6 * torch.randn(len(values) - t - 1, values.shape[1])
        torch.testing.assert_close(
            model.forecasts(model.panel([later]), at)[place], before[place], rtol=1e-5, atol=1e-5
        )
        now = values.clone()
        now[t, 0] = values[t].nan_to_num()[0] + 5
        if base != "none":
            assert not torch.equal(model.forecasts(model.panel([now]), at)[place], before[place])


def of_two_seasons(steps: int = 300) -> Tensor:
    """(N, 1): a season of 5, one of 60 with a peak, and noise."""
    t, draw = np.arange(steps), np.random.default_rng(0)
    y = np.sin(2 * np.pi * t / 5) + 5 * np.exp(-(((t % 60 - 30) / 3) ** 2)) + 0.2 * draw.normal(size=steps)
    return torch.from_numpy(y)[:, None]


def test_a_blend_against_least_squares_and_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecaster, "_choices_of_lags", lambda *_: [4])
    values = of_two_seasons()
    model, errors = fit(values, horizon=7, season=5, further=[60], base="linear")
    assert model.anchor == "blend"
    s = ((values - model.mean) / model.sd)[:, 0].numpy()

    def inputs(t: int, ahead: int) -> list[float]:
        return [s[t], *(s[t + ahead - season * -(-ahead // season)] for season in (5, 60))]

    steps = range(59, 200 - 7)
    for ahead in range(1, 8):
        X = np.array([inputs(t, ahead) for t in steps])
        weights, *_ = np.linalg.lstsq(X, np.array([s[t + ahead] for t in steps]), rcond=None)
        np.testing.assert_allclose(model.blend[:, ahead - 1], weights, rtol=1e-4, atol=1e-5)
    at, blend, weight, bias = 231, model.blend.numpy(), model.weight.numpy(), model.bias.numpy()
    x = np.concatenate(([s[at]], [s[at - lag] - s[at] for lag in range(1, model.lags)]))
    said = [blend[:, k] @ inputs(at, k + 1) + x @ weight[:, k] + bias[k] for k in range(7)]
    found = (model.forecasts(model.panel([values]), torch.tensor([at]), "linear")[0, :, 0] - model.mean) / model.sd
    np.testing.assert_allclose(found, said, rtol=1e-8)
    assert errors["linear"] < 0.7 * fit(values, horizon=7, season=5, base="linear")[1]["linear"]
    assert model.blind == max(60, model.lags) - 1


def test_further_seasons_are_read_by_the_network_and_know_nothing_of_what_comes_after() -> None:
    values = of_two_seasons()
    one, two = (fit(values, horizon=7, season=5, further=further, base="linear")[0] for further in ([], [60]))
    panel = two.panel([values])
    u = two.channels(panel)
    assert u.shape[1] == one.channels(panel).shape[1] + 2
    s, t = panel.scaled[:, 0], 150
    assert u[t, -2:].tolist() == pytest.approx([float(s[t] - s[t - 60]), float(s[t - 59] - s[t])])
    model, at = with_network(two), torch.tensor([150])
    later = values.clone()
    later[151:] = 1e6
    assert torch.equal(model.forecasts(model.panel([later]), at), model.forecasts(panel, at))


@pytest.mark.parametrize("base", ["none", "last", "season", "linear", "auto"])
def test_nothing_is_fitted_to_the_test_part(base: str) -> None:
    values = wavy(gaps=True)
    changed = values.clone()
    changed[250:] = 1e3 + torch.randn(50, 2)
    one, other = fitted(values, base=base), fitted(changed, base=base)
    assert (one.base, one.anchor, one.lags) == (other.base, other.anchor, other.lags)
    for name, buffer in one.named_buffers():
        assert torch.equal(buffer, dict(other.named_buffers())[name]), name


def test_scaling_and_rules_are_fitted_to_the_training_part_alone() -> None:
    values = wavy(gaps=True)
    changed = values.clone()
    changed[200:] *= 1.001
    one, other = fitted(values, base="linear"), fitted(changed, base="linear")
    for name in ("mean", "sd", "weight", "bias", "low", "high", "left_over"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    part = values[:200]
    torch.testing.assert_close(one.mean, part.nanmean(0))
    torch.testing.assert_close(one.sd, torch.from_numpy(np.nanstd(part.numpy(), 0)))


def test_rules_against_plain_loops() -> None:
    values = wavy(inputs=0)
    season, horizon = 12, 30
    model = fitted(values, horizon=horizon)
    at = torch.arange(20, 260)
    y = values[:, 0].tolist()
    repeated = [[y[t]] * horizon for t in at]
    seasonal = [[y[t + 1 + ahead - season * (1 + ahead // season)] for ahead in range(horizon)] for t in at]
    expected: dict[Base, list[list[float]]] = {"last": repeated, "season": seasonal}
    for rule, said in expected.items():
        torch.testing.assert_close(
            model.forecasts(model.panel([values]), at, rule)[..., 0], torch.tensor(said).double()
        )
    torch.testing.assert_close(
        model.forecasts(model.panel([values]), at, "none"), values[:200].mean().expand(len(at), horizon, 1)
    )


@pytest.mark.parametrize("strength", [1e-3, 0.03, 10.0])
def test_linear_rule_against_least_squares(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    penalty, lags, horizon = strength, 4, 3
    monkeypatch.setattr(forecaster, "PENALTIES", (penalty,))
    monkeypatch.setattr(forecaster, "_choices_of_lags", lambda *_: [lags])
    values = wavy(inputs=1)
    model = fitted(values, horizon=horizon, base="linear")
    s = ((values - model.mean) / model.sd).numpy()
    rows, wanted = [], []
    for t in range(11, 200 - horizon):
        rows.append(np.concatenate([s[t], *(s[t - lag] - s[t] for lag in range(1, lags))]))
        anchors = {
            "last": lambda t, ahead: s[t, 0],
            "season": lambda t, ahead: s[t + ahead - 12, 0],
            "none": lambda *_: 0,
        }
        wanted.append([s[t + ahead, 0] - anchors[model.anchor](t, ahead) for ahead in range(1, horizon + 1)])
    X, Y = np.array(rows), np.array(wanted)
    X0, Y0 = X - X.mean(0), Y - Y.mean(0)
    factor = penalty * X0.var(0).mean() * len(X)
    X1 = np.vstack((X0, math.sqrt(factor) * np.eye(X.shape[1])))
    weight, *_ = np.linalg.lstsq(X1, np.vstack((Y0, np.zeros((X.shape[1], horizon)))), rcond=None)
    np.testing.assert_allclose(model.weight, weight, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(model.bias, Y.mean(0) - X.mean(0) @ weight, rtol=1e-8, atol=1e-10)


def test_linear_rule_finds_a_recurrence_to_its_end() -> None:
    y = [1.0, 0.5]
    for _ in range(300):
        y.append(1.6 * y[-1] - 0.97 * y[-2])
    values = torch.tensor(y).double()[:, None] / y[150]
    model = fitted(values, horizon=8, season=None, base="linear")
    at = torch.arange(210, 290)
    truth = torch.stack([values[at + ahead] for ahead in range(1, 9)], 1)
    torch.testing.assert_close(model.forecasts(model.panel([values]), at), truth, rtol=1e-2, atol=1e-3)


def test_an_untrained_network_is_the_base() -> None:
    values = wavy(gaps=True)
    model = fitted(values)
    at = torch.arange(100, 200)
    assert torch.equal(
        model.forecasts(model.panel([values]), at), model.forecasts(model.panel([values]), at, model.base)
    )


def test_base_with_the_smallest_error_is_taken() -> None:
    repeating = torch.arange(300).double()[:, None] % 12
    noise = torch.randn(300, 1, dtype=torch.float64)
    judged = torch.arange(199, 248)
    cases: dict[Base, Tensor] = {"season": repeating + 0.5 * noise, "none": noise, "last": noise.cumsum(0)}
    for base, values in cases.items():
        model, errors = fit(values, horizon=2, season=12, base="auto")
        assert model.base == min(errors, key=lambda rule: errors[rule])
        others = {rule: error for rule, error in errors.items() if rule != "linear"}
        assert min(others, key=lambda rule: others[rule]) == base
        missed = model.forecasts(model.panel([values]), judged, base) - torch.stack(
            [values[judged + 1], values[judged + 2]], 1
        )
        assert errors[base] == pytest.approx(float((missed / model.sd).square().mean().sqrt()))


def test_trust_is_what_suits_the_judges_best() -> None:
    model = with_network(fitted(wavy()))
    values = wavy()
    panel, at = model.panel([values]), torch.arange(199, 245)
    u = model.channels(panel)
    o = model.outputs(u, panel, at).double()
    rest = torch.full((300, 5), math.nan).double()
    rest[at] = o * torch.tensor([0.25, 1.0, -1.0, 3.0, 0.0])
    assert model.fit_trust(u, panel, rest, at) == pytest.approx(float(((rest[at] - o * model.trust) ** 2).mean()))
    torch.testing.assert_close(model.trust, torch.tensor([0.25, 1.0, 0.0, 1.0, 0.0]).double())
    assert model.band[0] == 0
    torch.testing.assert_close(model.band[2], rest[at, 2].abs().quantile(0.8) * model.left_over[2])


def test_what_lies_outside_the_training_part_is_cut_to_it() -> None:
    values = wavy()
    model = fitted(values)
    far = values.clone()
    far[250:] += 1e6
    u, within = model.channels(model.panel([far])), model.channels(model.panel([values[:200]]))
    assert (u <= within.amax(0) + 1e-6).all()
    assert (u >= within.amin(0) - 1e-6).all()
    assert u.shape == (300, 2 * 2 + 2)
