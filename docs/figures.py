"""The figures of side-c.md: `python docs/figures.py` prints their numbers and draws them as side-c-*.svg beside itself.

No network is trained; all are float64. Inputs are normal random numbers, and so is ∂L_t/∂h_t, what enters at each step.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bptt

STEPS, ROWS, INPUTS, UNITS = 100, 4, 8, 64
SCALES = (0.9, 1.2, 2.0)
FORGET: tuple[int, ...] = (0, 1, 3)
LAGS = (1, 5, 10, 20, 40, 80)
UNIT = bptt.Cell("u : vector\nh_t = σ(x_t W_xh + u ⊙ h_{t-1} + b)", "single units")
BIAS, WANTED, CLIP, LONG = -2.5, 0.7, 1.0, 50
GREY, COLOURS = "#7d8590", ("#3b82c4", "#c98a1b", "#cf4f4f")  # on white and on black


def plain(scale: float) -> bptt.nn.Recurrent:
    """tanh units whose W_hh is orthogonal, times `scale`, which all of its singular values then are."""
    torch.manual_seed(0)
    rnn = bptt.nn.Recurrent("elman", INPUTS, UNITS, init={"W_hh": "orthogonal"}, dtype=torch.float64)
    with torch.no_grad():
        rnn.get_parameter("W_hh_l0").mul_(scale)
    return rnn


def gated(forget: int) -> bptt.nn.Recurrent:
    """An LSTM whose b_f is `forget` in all units."""
    torch.manual_seed(0)
    return bptt.nn.Recurrent("lstm", INPUTS, UNITS, init={"b_f": forget}, dtype=torch.float64)


def inputs() -> tuple[Tensor, Tensor]:
    """x (T, B, I), and ∂L_t/∂h_t (T, B, H)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, ROWS, INPUTS, dtype=torch.float64, generator=generator)
    return x, torch.randn(STEPS, ROWS, UNITS, dtype=torch.float64, generator=generator)


def norms(rnn: bptt.nn.Recurrent) -> dict[str, Tensor]:
    """Of each state (T, T, B), ‖∂L_t/∂h_k‖ at [t, k]: the loss of each step goes back alone."""
    x, entering = inputs()
    with bptt.recording() as tapes:
        (rnn(x)[0] * entering).sum().backward()
    return {lags.state: lags.norms for lags in tapes[0].reach("all").lags}


def share(norms: Tensor) -> Tensor:
    """(T,): what is left by lag, summed over the steps that have so many before them, and over rows."""
    left = [norms.diagonal(-lag).sum() / norms.diagonal()[:, lag:].sum() for lag in range(STEPS)]
    return torch.stack(left)


def exponent(rnn: bptt.nn.Recurrent) -> float:
    """C6 of a plain cell for the largest singular value, after T steps: its logarithm over T, the mean over rows."""
    with torch.no_grad():
        h, _ = rnn(inputs()[0])
        W_hh = rnn.get_parameter("W_hh_l0")
        product = torch.eye(UNITS, dtype=h.dtype)
        for h_t in h:
            product = torch.diag_embed(1 - h_t**2) @ W_hh.mT @ product
    return float(torch.linalg.matrix_norm(product, 2).log().mean()) / STEPS


def rate(share: Tensor) -> float:
    """The factor per step from lag 20 to lag 80."""
    return float(share[80] / share[20]) ** (1 / 60)


def wall() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of single units, with ever closer weights where the loss is steepest: u, L, |∂L/∂u| and |∂L/∂h_0|.

    Pascanu, Mikolov and Bengio, 2013, figure 6: 50 steps, no input, L = (h_50 − 0.7)².
    """
    u = torch.linspace(3, 8, 201, dtype=torch.float64)
    for _ in range(4):
        at = int(_of_units(u)[1].argmax())
        u = torch.cat([u, torch.linspace(float(u[at - 1]), float(u[at + 1]), 21, dtype=u.dtype)]).unique()
    return u, *_of_units(u)


def _of_units(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rnn = bptt.nn.Recurrent(UNIT, 1, len(u), dtype=torch.float64)
    with torch.no_grad():
        rnn.get_parameter("u_l0").copy_(u)
        rnn.get_parameter("b_l0").fill_(BIAS)
    first = torch.full((1, 1, len(u)), 0.5, dtype=torch.float64).sigmoid()
    with bptt.recording() as tapes:
        h, _ = rnn(torch.zeros(LONG, 1, 1, dtype=torch.float64), first)
        losses = (h[-1, 0] - WANTED) ** 2
        losses.sum().backward()
    return losses.detach(), tapes[0].grad("u").abs(), tapes[0].dh0[0].abs()


def _axes(*panels: tuple[str, str]) -> tuple[Any, list[Any]]:
    """A figure without a background, with a panel for each pair of labels, below and at the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels) + 2.8 * (len(panels) == 1), 3.2), layout="constrained")
    figure.patch.set_alpha(0)
    found = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for axes, (below, left) in zip(found, panels, strict=True):
        axes.set_xlabel(below, color=GREY)
        axes.set_ylabel(left, color=GREY)
        axes.patch.set_alpha(0)
        axes.tick_params(colors=GREY, which="both")
        axes.spines[:].set_color(GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GREY, alpha=0.25, lw=0.6)
    return figure, found


def _drawn_by_lag(curves: dict[str, tuple[Tensor, str, str]], lowest: float, highest: float) -> Any:
    """curves: by name share, colour and style; without the last lags, which few steps have."""
    figure, (axes,) = _axes(("steps back, t − k", "share of the gradient that is left"))
    lags = torch.arange(LAGS[-1] + 1)
    for name, (left, colour, style) in curves.items():
        axes.plot(lags, left[: len(lags)], color=colour, ls=style, lw=1.5, label=name)
    axes.set_yscale("log")
    axes.set_ylim(lowest, highest)
    figure.legend(loc="outside right center", frameon=False, labelcolor=GREY, fontsize="small")
    return figure


def drawn_scales(left: dict[float, Tensor]) -> Any:
    curves = {}
    for (scale, share), colour in zip(left.items(), COLOURS, strict=True):
        curves[f"‖W_hh‖ = {scale}"] = share, colour, "-"
        curves[f"its bound, {scale}^(t − k)"] = scale ** torch.arange(STEPS).double(), colour, ":"
    return _drawn_by_lag(curves, 1e-8, 1e12)


def drawn_gates(left: dict[tuple[int, str], Tensor]) -> Any:
    colour_of = dict(zip(FORGET, COLOURS, strict=True))
    curves = {
        f"b_f = {forget}: {state}": (share, colour_of[forget], "-" if state == "c" else "--")
        for (forget, state), share in left.items()
    }
    return _drawn_by_lag(curves, 1e-8, 2)


def drawn_wall(u: Tensor, L: Tensor, slope: Tensor, first: Tensor) -> Any:
    figure, (left, right) = _axes(("weight u", "loss L"), ("weight u", "gradient"))
    left.plot(u, L, color=COLOURS[0], lw=1.5)
    right.plot(u, slope, color=COLOURS[0], lw=1.5, label="|∂L/∂u|")
    right.plot(u, first, color=COLOURS[1], lw=1.5, ls="--", label="|∂L/∂h_0|, 50 steps back")
    right.axhline(CLIP, color=COLOURS[2], lw=1, label="clip at 1")
    right.set_yscale("log")
    right.set_ylim(1e-20, 1e4)
    right.legend(frameon=False, labelcolor=GREY, fontsize="small", loc="center right")
    return figure


def table(head: str, rows: dict[str, Tensor]) -> str:
    """The shares of some lags."""
    lines = [f"{head:<22}" + "".join(f"{lag:>9}" for lag in LAGS)]
    lines += [f"{name:<22}" + "".join(f"{float(share[lag]):>9.1e}" for lag in LAGS) for name, share in rows.items()]
    return "\n".join(lines)


def main(directory: Path) -> None:
    import matplotlib

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bptt", "font.family": "sans-serif"}
    scales = {scale: share(norms(plain(scale))["h"]) for scale in SCALES}
    gated_norms = {forget: norms(gated(forget)) for forget in FORGET}
    gates = {(forget, state): share(found[state]) for forget, found in gated_norms.items() for state in "ch"}
    u, L, slope, first = wall()
    print(table("plain, by lag", {f"‖W_hh‖ = {scale}": left for scale, left in scales.items()}))
    for scale, left in scales.items():
        found = exponent(plain(scale))
        print(f"‖W_hh‖ = {scale}: λ_1 = {found:.3f}, exp(λ_1) = {math.exp(found):.2f}; times {rate(left):.2f} a step")
    print(table("LSTM, by lag", {f"b_f = {forget}, {state}": left for (forget, state), left in gates.items()}))
    print(f"the wall is at u = {u[slope.argmax()]:.5f}: |∂L/∂u| = {slope.max():.0f}, |∂L/∂h_0| = {first.max():.0f}")
    figures = {"scales": drawn_scales(scales), "gates": drawn_gates(gates), "wall": drawn_wall(u, L, slope, first)}
    for name, figure in figures.items():
        figure.savefig(directory / f"side-c-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(__file__).parent)
