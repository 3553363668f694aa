"""The shapes that are measured, their inputs, and what a perfect implementation would have to do for each.

A case is one recurrent layer, y and h_n from x and h_0, with T steps, batch B, I inputs and H hidden units, float32:
the plain cell with φ = tanh, the LSTM, which has c_0 and c_n too, or the GRU as torch has it, whose r multiplies
h W_hn + b_hn. Three kinds of call are measured:

train     forward and backward with a cotangent for y: y, h_n, dW_xh, dW_hh, db, dh0, of the LSTM c_n and dc0 too
train_dx  the same with dx
infer     forward alone, no gradients wanted: y, h_n, of the LSTM c_n too

FLOPs. Only the matrix products count, two per multiply-add; functions of gates, biases and sums over rows do not. With
G gates, 1 of the plain cell, 4 of the LSTM and 3 of the GRU:

    infer      A2: x W_xh and h W_hh           2 T B G (I H + H H)
    train      and B6, B9, B10                 2 T B G (2 I H + 3 H H)
    train_dx   and B11                         2 T B G (3 I H + 3 H H)

Bytes. What has to cross the border of the caches at least once, every array of the interface counted once for each time
it must be read or written: infer reads x, the first states and the weights and writes y and the last states; train then
also reads x, y, dy, the first states and the weights again (W_xh only for dx) and writes the gradients. Values of all
steps that the way back needs and cannot make again without further products count twice, written and read: none of the
plain cell, whose y is enough; i, f, g, o and c of the LSTM; r, z, n and h W_hn + b_hn of the GRU. Arrays in between (a,
∂h, ∂a, tanh(c)) do not count: nothing forces them out of the caches.

Limit. max(FLOPs / R, bytes / W). R is the best rate, over the products of this case taken over all steps at once and
over the libraries, measured in the same run at these very sizes: as if the steps did not have to wait for each other. W
is the best rate at which this machine reads or copies an array of this case's footprint, so it is the bandwidth of the
cache where the case fits in one. Both with as many threads as the call under judgement or fewer. No implementation can
reach the limit; it is the same yardstick for all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mode = Literal["train", "train_dx", "infer"]
MODES: tuple[Mode, ...] = ("train", "train_dx", "infer")
Cell = Literal["rnn", "lstm", "gru"]


class Form(NamedTuple):
    """What of a cell decides sizes.

    gates   columns of its weights by H
    sums    with a bias: one for each gate, and two for n of the GRU, which has those of x and h apart
    states  that go from step to step, the output first
    kept    arrays T B H, beside y, that the way back needs of the way forward
    room    arrays T B H, beside the states, that a training step may hold: kept ones that are no states; a plain cell
            may hold its ∂a
    """

    gates: int
    sums: int
    states: tuple[str, ...]
    kept: int
    room: int


FORMS: dict[Cell, Form] = {
    "rnn": Form(1, 1, ("h",), 0, 1),
    "lstm": Form(4, 4, ("h", "c"), 5, 4),
    "gru": Form(3, 4, ("h",), 4, 4),
}


@dataclass(frozen=True)
class Case:
    T: int
    B: int
    I: int
    H: int
    cell: Cell = "rnn"

    def __str__(self) -> str:
        return f"{self.T},{self.B},{self.I},{self.H}"

    def of(self, cell: Cell) -> "Case":
        return replace(self, cell=cell)

    @property
    def form(self) -> Form:
        return FORMS[self.cell]

    @property
    def columns(self) -> int:
        """Of the weights: G H."""
        return self.form.gates * self.H

    @property
    def shared(self) -> int:
        """How many numbers at the beginning of b_ih and b_hh go into the same sums; the others are n's of the GRU."""
        return (2 * self.form.gates - self.form.sums) * self.H

    def results(self, mode: Mode) -> tuple[str, ...]:
        """What a call of this kind gives, by name. db has one part for each sum: in a GRU r, z, n of x, n of h."""
        states = self.form.states
        names = ("y", *(f"{state}_n" for state in states))
        if mode != "infer":
            names += ("dW_ih", "dW_hh", "db", *(f"d{state}0" for state in states))
        return (*names, "dx") if mode == "train_dx" else names

    def flops(self, mode: Mode) -> int:
        ih, hh = {"infer": (1, 1), "train": (2, 3), "train_dx": (3, 3)}[mode]
        return 2 * self.T * self.B * self.columns * (ih * self.I + hh * self.H)

    def bytes(self, mode: Mode) -> int:
        T, B, I, H = self.T, self.B, self.I, self.H
        x, y, states, b = T * B * I, T * B * H, len(self.form.states) * B * H, self.form.sums * H
        W_xh, W_hh = I * self.columns, H * self.columns
        numbers = x + states + W_xh + W_hh + b + y + states
        if mode != "infer":
            numbers += x + y + y + states + W_hh + W_xh + W_hh + b + states + 2 * self.form.kept * y
        if mode == "train_dx":
            numbers += W_xh + x
        return 4 * numbers

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(m, k, n) of the distinct products (m, k) x (k, n) in a training step, all steps of a kind as one."""
        rows, I, H, columns = self.T * self.B, self.I, self.H, self.columns
        forward, weights = [(rows, I, columns), (rows, H, columns)], [(I, rows, columns), (H, rows, columns)]
        return list(dict.fromkeys([*forward, (rows, columns, I), (rows, columns, H), *weights]))


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
GATED = [
    Case(50, 1, 16, 64),
    Case(60, 4, 40, 96),
    Case(400, 2, 16, 48),
    Case(128, 24, 96, 160),
    Case(64, 128, 300, 300),
    Case(100, 32, 128, 256),
    Case(256, 16, 64, 100),
    Case(50, 5, 7, 37),
    Case(35, 20, 650, 650),
]
LAYERS: dict[Cell, list[Case]] = {
    "rnn": PLAIN + UGLY,
    "lstm": [case.of("lstm") for case in GATED],
    "gru": [case.of("gru") for case in GATED],
}
QUICK: dict[Cell, list[Case]] = {
    "rnn": [PLAIN[0], PLAIN[2], PLAIN[9], UGLY[1]],
    "lstm": [LAYERS["lstm"][i] for i in (0, 6, 7)],
    "gru": [LAYERS["gru"][i] for i in (0, 6, 7)],
}
SMALL_CALLS = [Case(T, 1, H, H) for H in (8, 32) for T in (1, 2, 4, 8)]


@dataclass(frozen=True)
class Inputs:
    """Weights in torch's layout: weight_ih (G H, I), weight_hh (G H, H), two biases (G H,).

    first: h_0, of the LSTM c_0 too.
    """

    x: Array
    first: tuple[Array, ...]
    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array
    dy: Array

    def bias(self, case: Case) -> Array:
        """One for each sum, in torch's order of gates."""
        shared = case.shared
        both = self.bias_ih[:shared] + self.bias_hh[:shared]
        return np.concatenate([both, self.bias_ih[shared:], self.bias_hh[shared:]])


def inputs(case: Case) -> Inputs:
    """The same for every peer: weights as torch initialises them, everything else of size about 1."""
    rng = np.random.default_rng([case.T, case.B, case.I, case.H])

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    def uniform(*shape: int) -> Array:
        bound = case.H**-0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    T, B, I, H, columns = case.T, case.B, case.I, case.H, case.columns
    return Inputs(
        x=normal(T, B, I),
        first=tuple(np.tanh(normal(B, H)) for _ in case.form.states),
        weight_ih=uniform(columns, I),
        weight_hh=uniform(columns, H),
        bias_ih=uniform(columns),
        bias_hh=uniform(columns),
        dy=normal(T, B, H),
    )


def truth(case: Case) -> dict[str, NDArray[np.float64]]:
    """All results of train_dx in float64 by torch.nn.RNN, LSTM or GRU, which share no code with what is judged."""
    import torch

    given = inputs(case)
    names = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "dy")
    x, *weights, dy = (torch.from_numpy(getattr(given, name)).double() for name in names)
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[case.cell]
    rnn = kind(case.I, case.H, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(rnn.parameters(), weights, strict=True):
            parameter.copy_(value)
    first = [torch.from_numpy(state).double().requires_grad_() for state in given.first]
    x.requires_grad_()
    if case.cell == "lstm":
        y, last = rnn(x, (first[0][None], first[1][None]))
    else:
        y, *last = rnn(x, first[0][None])
    dx, dW_ih, dW_hh, db_ih, db_hh, *d_first = torch.autograd.grad(y, [x, *rnn.parameters(), *first], dy)
    found = {"y": y, "dx": dx, "dW_ih": dW_ih, "dW_hh": dW_hh, "db": torch.cat([db_ih, db_hh[case.shared :]])}
    for name, state, d_state in zip(case.form.states, last, d_first, strict=True):
        found |= {f"{name}_n": state[0], f"d{name}0": d_state}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


TOLERANCE = 5e-5


def worst_error(found: dict[str, Array], expected: dict[str, NDArray[np.float64]], names: Iterable[str]) -> float:
    """The largest deviation in any of the results that are named, each against the largest number of its array.

    Sums run over up to T B = 100,000 products here; in float32 (eps 6e-8) their rounding errors add up to some 300 eps
    = 2e-5 of the largest entry. TOLERANCE leaves room for that and for no mistake. Not a number counts as infinite.
    """
    worst = 0.0
    for name in names:
        if found[name].shape != expected[name].shape:
            return float("inf")
        error = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        worst = max(worst, float(error) if np.isfinite(error) else float("inf"))
    return worst
