"""The chapter on side C: what it prints is what the commands print, and the numbers of its figures are autograd's."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import bptt as run
from torch import Tensor

from bptt.nn import Recurrent
from bptt.sheet.sides import SIDE_C
from docs import figures

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = Path(__file__).parent.parent / "docs"
NETWORKS: dict[str, Callable[[], Recurrent]] = {
    **{f"plain {scale}": lambda scale=scale: figures.plain(scale) for scale in figures.SCALES},
    **{f"lstm {forget}": lambda forget=forget: figures.gated(forget) for forget in figures.FORGET},
}


@cache
def norms(name: str) -> dict[str, Tensor]:
    return figures.norms(NETWORKS[name]())


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_by_lag_are_those_of_autograd_through_steps_written_out(name: str) -> None:
    """Through the states of the layer: at scale 2.0 a rounding error in h_1 has grown by 1e7 when it is in h_100."""
    rnn = NETWORKS[name]()
    W = {key.removesuffix("_l0"): weight.detach() for key, weight in rnn.named_parameters()}
    x, entering = figures.inputs()
    made = rnn(x)[0].detach()
    h, c = (torch.zeros(figures.ROWS, figures.UNITS, dtype=torch.float64, requires_grad=True) for _ in "hc")
    states: dict[str, list[Tensor]] = {"h": [], "c": []}
    for x_t, h_t in zip(x, made, strict=True):
        a = {key[3:]: x_t @ W[f"W_x{key[3:]}"] + h @ W[key] + W[f"b_{key[3:]}"] for key in W if key[:3] == "W_h"}
        if "f" in a:
            c = a["f"].sigmoid() * c + a["i"].sigmoid() * a["g"].tanh()
            h = a["q"].sigmoid() * c.tanh()
        else:
            h = a["h"].tanh()
        torch.testing.assert_close(h, h_t, rtol=0, atol=1e-13)
        h = h + (h_t - h).detach()
        states["h"].append(h)
        states["c"].append(c)
    found = norms(name)
    assert found.keys() == ({"h", "c"} if "lstm" in name else {"h"})
    for state, norm in found.items():
        for t in (0, 1, 50, figures.STEPS - 1):
            loss = (states["h"][t] * entering[t]).sum()
            gradients = torch.autograd.grad(loss, states[state][: t + 1], retain_graph=True)
            wanted = torch.stack([gradient.norm(dim=-1) for gradient in gradients])
            torch.testing.assert_close(norm[t, : t + 1], wanted, rtol=1e-10, atol=0)
            assert not norm[t, t + 1 :].any()


@pytest.mark.parametrize("scale", figures.SCALES)
def test_no_norm_is_above_the_bound(scale: float) -> None:
    W_hh = figures.plain(scale).get_parameter("W_hh_l0").detach().numpy()
    np.testing.assert_allclose(np.linalg.svd(W_hh)[1], scale, rtol=1e-12)
    found = norms(f"plain {scale}")["h"]
    lags = torch.arange(figures.STEPS)
    bound = scale ** (lags[:, None] - lags).clamp(min=0).double()
    assert bool((found <= found.diagonal().t()[:, None] * bound[..., None] * (1 + 1e-12)).all())


@pytest.mark.parametrize("scale", figures.SCALES)
def test_exponents_are_those_of_the_jacobian_by_autograd(scale: float) -> None:
    """Rounding errors in the states, multiplied by 1e7 at scale 2.0, change log s_1 by 1e-8, of which 1 / T counts."""
    W = {key: weight.detach() for key, weight in figures.plain(scale).named_parameters()}
    x, _ = figures.inputs()

    def last(h: Tensor, row: int) -> Tensor:
        for x_t in x[:, row]:
            h = torch.tanh(x_t @ W["W_xh_l0"] + h @ W["W_hh_l0"] + W["b_h_l0"])
        return h

    zero = torch.zeros(figures.UNITS, dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(lambda h, r=row: last(h, r), zero) for row in range(figures.ROWS)]
    stretches = [np.linalg.svd(np.asarray(jacobian))[1][0] for jacobian in jacobians]
    wanted = np.log(stretches).mean() / figures.STEPS
    assert figures.exponent(figures.plain(scale)) == pytest.approx(wanted, abs=1e-9)


def test_a_share_compares_the_same_steps() -> None:
    found = norms("plain 0.9")["h"]
    shares = figures.share(found)
    for lag in (0, 3, figures.STEPS - 1):
        steps = range(lag, figures.STEPS)
        left, whole = (sum(float(found[t, t - back].sum()) for t in steps) for back in (lag, 0))
        assert float(shares[lag]) == pytest.approx(left / whole, rel=1e-12)


def test_the_wall_is_that_of_the_formula() -> None:
    """Derivatives forward in time: dh_t/du = h_t (1 − h_t) (h_{t-1} + u dh_{t-1}/du), and likewise by h_0."""
    for u, L, slope, first in zip(*(each.tolist() for each in figures.wall()), strict=True):
        h, by_u, by_first = 1 / (1 + math.exp(-0.5)), 0.0, 1.0
        for _ in range(figures.LONG):
            new = 1 / (1 + math.exp(-u * h - figures.BIAS))
            by_u, by_first = new * (1 - new) * (h + u * by_u), new * (1 - new) * u * by_first
            h = new
        residual = 2 * (h - figures.WANTED)
        assert pytest.approx((h - figures.WANTED) ** 2, rel=1e-9) == L
        assert slope == pytest.approx(abs(residual * by_u), rel=1e-8)
        assert first == pytest.approx(abs(residual * by_first), rel=1e-8)


def test_what_is_said_of_the_figures_holds() -> None:
    left = {scale: figures.share(norms(f"plain {scale}")["h"]) for scale in figures.SCALES}
    assert all(left[0.9][lag] < 0.9**lag for lag in figures.LAGS)
    assert left[1.2][80] < 0.1 < 1 < left[2.0][80] < 2.0**80 / 1e6
    for scale, share in left.items():
        assert figures.rate(share) == pytest.approx(math.exp(figures.exponent(figures.plain(scale))), rel=0.05)
    for state in "hc":
        closed, open_ = (figures.share(norms(f"lstm {forget}")[state]) for forget in (0, 3))
        assert closed[20] < left[0.9][20] / 100
        assert open_[80] > open_[20] > 1000 * closed[20]
    u, _, slope, first = figures.wall()
    even = torch.linspace(3, 8, 201, dtype=u.dtype)
    at = torch.searchsorted(u, even).clamp(max=len(u) - 1)
    assert (first[at] < 1e-20).double().mean() > 0.6
    assert slope.max() > 100 > 1 > slope[at].median()


def test_every_line_of_output_is_what_the_commands_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.main(tmp_path)
    known = {line.rstrip() for line in (capsys.readouterr().out + run("trace vanishing")).splitlines()}
    lines = [line[4:] for line in (DOCS / "side-c.md").read_text().splitlines() if line.startswith("    ")]
    assert [line for line in lines if line not in known] == []
    assert [line for line in lines if line.partition(" ")[0] in SIDE_C] == [" ".join(each) for each in SIDE_C.items()]


def test_every_figure_is_drawn_and_small(tmp_path: Path) -> None:
    figures.main(tmp_path)
    shown = {path.name for path in DOCS.glob("side-c-*.svg")}
    assert {path.name for path in tmp_path.iterdir()} == shown
    for name in shown:
        assert f"]({name})" in (DOCS / "side-c.md").read_text()
        assert (DOCS / name).stat().st_size < 60_000
