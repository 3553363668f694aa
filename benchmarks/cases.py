"""The shapes that are measured, their inputs, and what a perfect implementation would have to do for each.

A case is one recurrent layer, y and h_n from x and h_0, with T steps, batch B, I inputs and H hidden units, φ = tanh,
float32. Three kinds of call are measured:

train     forward and backward with a cotangent for y: y, h_n, dW_xh, dW_hh, db, dh0
train_dx  the same with dx
infer     forward alone, no gradients wanted: y, h_n

FLOPs. Only the matrix products count, two per multiply-add; activations, biases and sums over rows do not:

    infer      A2: x W_xh and h W_hh           2 T B (I H + H H)
    train      and B6, B9, B10                 2 T B (2 I H + 3 H H)
    train_dx   and B11                         2 T B (3 I H + 3 H H)

Bytes. What has to cross the border of the caches at least once, every array of the interface counted once for each time
it must be read or written: infer reads x, h0 and the weights and writes y and h_n; train then also reads x, y, dy, h0
and the weights again (W_xh only for dx) and writes the gradients. Arrays in between (a, ∂h, ∂a) do not count: nothing
forces them out of the caches.

Limit. max(FLOPs / R, bytes / W). R is the best rate, over the products of this case taken over all steps at once and
over the libraries, measured in the same run at these very sizes: as if the steps did not have to wait for each other. W
is the best rate at which this machine reads or copies an array of this case's footprint, so it is the bandwidth of the
cache where the case fits in one. Both with as many threads as the call under judgement or fewer. No implementation can
reach the limit; it is the same yardstick for all.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mode = Literal["train", "train_dx", "infer"]
MODES: tuple[Mode, ...] = ("train", "train_dx", "infer")


@dataclass(frozen=True)
class Case:
    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return f"{self.T},{self.B},{self.I},{self.H}"

    def flops(self, mode: Mode) -> int:
        ih, hh = {"infer": (1, 1), "train": (2, 3), "train_dx": (3, 3)}[mode]
        return 2 * self.T * self.B * self.H * (ih * self.I + hh * self.H)

    def bytes(self, mode: Mode) -> int:
        T, B, I, H = self.T, self.B, self.I, self.H
        x, y, state, W_xh, W_hh = T * B * I, T * B * H, B * H, I * H, H * H
        numbers = x + state + W_xh + W_hh + H + y + state
        if mode != "infer":
            numbers += x + y + y + state + W_hh + W_xh + W_hh + H + state
        if mode == "train_dx":
            numbers += W_xh + x
        return 4 * numbers

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(m, k, n) of the distinct products (m, k) x (k, n) in a training step, all steps of a kind as one."""
        rows = self.T * self.B
        I, H = self.I, self.H
        return list(dict.fromkeys([(rows, I, H), (rows, H, H), (rows, H, I), (I, rows, H), (H, rows, H)]))


PLAIN = [
    Case(50, 1, 16, 64),
    Case(100, 1, 64, 128),
    Case(100, 16, 64, 128),
    Case(100, 32, 128, 256),
    Case(100, 64, 128, 256),
    Case(100, 32, 256, 512),
    Case(784, 128, 1, 128),
    Case(200, 64, 88, 192),
    Case(35, 20, 640, 640),
    Case(1000, 8, 32, 64),
    Case(100, 1, 256, 512),
    Case(100, 32, 1024, 1024),
]
UGLY = [
    Case(200, 3, 37, 37),
    Case(100, 20, 50, 100),
    Case(100, 7, 100, 300),
    Case(50, 3, 300, 650),
    Case(50, 20, 37, 650),
    Case(300, 7, 1, 37),
    Case(100, 3, 64, 100),
    Case(64, 20, 300, 300),
]
QUICK = [PLAIN[0], PLAIN[2], PLAIN[9], UGLY[1]]
SMALL_CALLS = [Case(T, 1, H, H) for H in (8, 32) for T in (1, 2, 4, 8)]


@dataclass(frozen=True)
class Inputs:
    """Weights in torch's layout: weight_ih (H, I), weight_hh (H, H), two biases (H,)."""

    x: Array
    h0: Array
    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array
    dy: Array


def inputs(case: Case) -> Inputs:
    """The same for every peer: weights as torch initialises them, everything else of size about 1."""
    rng = np.random.default_rng([case.T, case.B, case.I, case.H])

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    def uniform(*shape: int) -> Array:
        bound = case.H**-0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    T, B, I, H = case.T, case.B, case.I, case.H
    return Inputs(
        x=normal(T, B, I),
        h0=np.tanh(normal(B, H)),
        weight_ih=uniform(H, I),
        weight_hh=uniform(H, H),
        bias_ih=uniform(H),
        bias_hh=uniform(H),
        dy=normal(T, B, H),
    )


def truth(case: Case) -> dict[str, NDArray[np.float64]]:
    """All results of train_dx in float64 by torch.nn.RNN, which shares no code with what is judged."""
    import torch

    given = inputs(case)
    names = ("x", "h0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "dy")
    x, h0, *weights, dy = (torch.from_numpy(getattr(given, name)).double() for name in names)
    rnn = torch.nn.RNN(case.I, case.H, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(rnn.parameters(), weights, strict=True):
            parameter.copy_(value)
    x.requires_grad_()
    y, h_n = rnn(x, h0.requires_grad_()[None])
    dx, dh0, dW_ih, dW_hh, db, _ = torch.autograd.grad(y, [x, h0, *rnn.parameters()], dy)
    found = {"y": y, "h_n": h_n[0], "dx": dx, "dh0": dh0, "dW_ih": dW_ih, "dW_hh": dW_hh, "db": db}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


RESULTS: dict[Mode, tuple[str, ...]] = {
    "infer": ("y", "h_n"),
    "train": ("y", "h_n", "dW_ih", "dW_hh", "db", "dh0"),
    "train_dx": ("y", "h_n", "dW_ih", "dW_hh", "db", "dh0", "dx"),
}
TOLERANCE = 5e-5


def worst_error(found: dict[str, Array], expected: dict[str, NDArray[np.float64]], mode: Mode) -> float:
    """The largest deviation in any result of this mode, each against the largest number of its array.

    Sums run over up to T B = 100,000 products here; in float32 (eps 6e-8) their rounding errors add up to some 300 eps
    = 2e-5 of the largest entry. TOLERANCE leaves room for that and for no mistake. Not a number counts as infinite.
    """
    worst = 0.0
    for name in RESULTS[mode]:
        if found[name].shape != expected[name].shape:
            return float("inf")
        error = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        worst = max(worst, float(error) if np.isfinite(error) else float("inf"))
    return worst
