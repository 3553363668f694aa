"""Tasks whose answer lies far back: adding, temporal order, copy memory, and digits read pixel by pixel.

A batch is x (T, B, I) and targets. Every task says when it counts as solved, by the share of wrong answers among fresh
sequences, or, of digits, among those held out.

adding          two numbers are marked among T, one of each half; the answer, at the end, is their sum. An answer is
                wrong where it is off by more than 0.4: the published program has the mean of the two for a target, and
                calls a squared error above 0.04 wrong. The mean square has to be below 0.01 too; whoever says 1 has 1/6
                and is wrong in 36 of 100 (Hochreiter and Schmidhuber, 1997; Pascanu, Mikolov and Bengio, 2013; halves
                as Arjovsky, Shah and Bengio, 2016)
temporal order  A or B stands between T/10 and 2T/10, and again between T/2 and 6T/10, among four other symbols; the
                answer is which two in which order (Hochreiter and Schmidhuber, 1997; as Pascanu et al., 2013)
copy memory     ten of eight symbols, T − 1 blanks, a signal, ten blanks, during which the ten are to be said again, and
                blanks before. Wrong is a symbol of the ten (Hochreiter and Schmidhuber, 1997; as Arjovsky et al., 2016)
digits          the 1,797 digits of scikit-learn, 8 × 8 pixels as 64 steps, in rows or in one random order; wrong is the
                class of one of the 360 that are held out (as Le, Jaitly and Hinton, 2015, do with MNIST)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """lengths   T of the experiment
    inputs, outputs   I and O
    batch     (rows, T, generator) -> x, targets
    held_out  how many fresh sequences decide; None: `test` has them
    solved    the share of wrong answers below which it counts as solved, and the loss
    is_last   whether the answer is asked for after the last step alone
    """

    lengths: tuple[int, ...]
    inputs: int
    outputs: int
    batch: Callable[[int, int, Generator], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    wrong: Callable[[Tensor, Tensor], Tensor]
    solved: tuple[float, float] = (0.01, math.inf)
    is_last: bool = True
    test: Callable[[], Batch] | None = None

    def is_solved(self, wrong: float, loss: float) -> bool:
        return wrong < self.solved[0] and loss < self.solved[1]


def adding(B: int, T: int, generator: Generator) -> Batch:
    x, rows, half = torch.zeros(T, B, 2), torch.arange(B), T // 2
    x[..., 0] = torch.rand(T, B, generator=generator)
    x[torch.randint(half, (B,), generator=generator), rows, 1] = 1
    x[half + torch.randint(T - half, (B,), generator=generator), rows, 1] = 1
    return x, x.prod(-1).sum(0)[:, None]


def temporal_order(B: int, T: int, generator: Generator) -> Batch:
    symbols, rows = torch.randint(2, 6, (T, B), generator=generator), torch.arange(B)
    asked = torch.randint(2, (2, B), generator=generator)
    for begin, which in zip((T // 10, T // 2), asked, strict=True):
        symbols[begin + torch.randint(T // 10, (B,), generator=generator), rows] = which
    return F.one_hot(symbols, 6).float(), asked[0] + 2 * asked[1]


COPIED, BLANK, SIGNAL = 10, 8, 9


def copy_memory(B: int, T: int, generator: Generator) -> Batch:
    said = torch.randint(8, (COPIED, B), generator=generator)
    symbols = torch.full((T + 2 * COPIED, B), BLANK)
    y = symbols.clone()
    symbols[:COPIED], y[-COPIED:] = said, said
    symbols[-COPIED - 1] = SIGNAL
    return F.one_hot(symbols, 10).float(), y


@cache
def digits(permuted: bool) -> tuple[Batch, Batch]:
    """x (64, rows, 1) and classes: for training, and held out."""
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    shuffled = Generator().manual_seed(0)
    rows = torch.randperm(len(target), generator=shuffled)
    pixels = torch.randperm(64, generator=shuffled) if permuted else torch.arange(64)
    x = torch.as_tensor(data / 16, dtype=torch.float32)[:, pixels].T[..., None]
    y = torch.as_tensor(target)
    return (x[:, rows[360:]].contiguous(), y[rows[360:]]), (x[:, rows[:360]].contiguous(), y[rows[:360]])


def _of_digits(permuted: bool) -> Task:
    def batch(B: int, T: int, generator: Generator) -> Batch:
        (x, y), _ = digits(permuted)
        rows = torch.randint(len(y), (B,), generator=generator)
        return x[:, rows], y[rows]

    return Task((64,), 1, 10, batch, F.cross_entropy, _other_class, (0.1, math.inf), test=lambda: digits(permuted)[1])


def _off(o: Tensor, y: Tensor) -> Tensor:
    return ~((o - y).abs()[:, 0] <= 0.4)


def _other_class(o: Tensor, y: Tensor) -> Tensor:
    return o.argmax(-1) != y


def _each_step(o: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(o.flatten(0, 1), y.flatten())


TASKS = {
    "adding": Task((50, 100, 200, 400, 750), 2, 1, adding, F.mse_loss, _off, (0.01, 0.01)),
    "temporal order": Task((50, 100, 200, 400), 6, 4, temporal_order, F.cross_entropy, _other_class),
    "copy memory": Task(
        (50, 100, 200, 400, 1000), 10, 9, copy_memory, _each_step,
        lambda o, y: _other_class(o[-COPIED:], y[-COPIED:]), is_last=False,
    ),
    "digits in rows": _of_digits(permuted=False),
    "permuted digits": _of_digits(permuted=True),
}  # fmt: skip
