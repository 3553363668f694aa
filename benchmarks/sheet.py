"""Costs of the sheet: `python -m benchmarks.sheet [--threads 1]`.

First how long it takes to read the text of a cell, to derive its side B and to make a module of it; the bar is 20 ms.
Then the derived side B on the reference engine beside autograd through its side A, forward and backward of one layer in
float32; the bar is 1.5 times autograd's time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import bptt
from bptt.engine import reference
from bptt.engine.contract import Layout, Weights
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import CELLS

REPEATS = 21
SHAPES = ((50, 8, 32, 32), (50, 32, 64, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    bptt.nn.Recurrent("elman", 1, 1)  # imports are not measured
    for name, text in CELLS.items():
        took = sorted(_making(text) for _ in range(REPEATS))
        print(f"{name:<10} to read, derive and make: median {took[REPEATS // 2]:5.1f} ms   worst {took[-1]:5.1f}")
    for T, B, I, H in SHAPES:
        print(f"T={T} B={B} I={I} H={H}, {torch.get_num_threads()} threads: derived side B, autograd, their ratio")
        for name, text in CELLS.items():
            derived, by_autograd = _alternately(*_ways(Cell(text, name), T, B, I, H))
            print(f"{name:<10} {derived:8.2f} ms {by_autograd:8.2f} ms {derived / by_autograd:6.2f}")


def _making(text: str) -> float:
    start = time.perf_counter()
    cell = Cell(text)
    _ = cell.side_a, cell.side_b
    bptt.nn.Recurrent(cell, 8, 8)
    return 1e3 * (time.perf_counter() - start)


def _ways(cell: Cell, T: int, B: int, I: int, H: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward of one layer: through the derived side B, and by autograd."""
    rnn = bptt.nn.Recurrent(cell, I, H)
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
    wanted = [x, *rnn.parameters()]
    layout, steps = Layout.of(cell), Steps(T, B)

    def derived() -> None:
        with bptt.using("reference"):
            torch.autograd.grad(rnn(x)[0], wanted, dy)

    def by_autograd() -> None:
        weights = Weights(layout, rnn.tensors_of(0))
        made = reference.forward(cell, weights, x, [None] * len(cell.sheet.states), steps)
        torch.autograd.grad(made.y, wanted, dy)

    return derived, by_autograd


def _alternately(*ways: Callable[[], None]) -> list[float]:
    """The median of each in milliseconds."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(REPEATS):
        for way, found in zip(ways, times, strict=True):
            start = time.perf_counter()
            way()
            found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


if __name__ == "__main__":
    main()
