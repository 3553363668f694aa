"""How long it takes to read a cell and to derive its side B: `python -m benchmarks.sheet`. The bar is 20 ms."""

import statistics
import time

from bptt.sheet import Cell
from bptt.sheet.cells import CELLS

REPEATS = 21


def milliseconds(text: str) -> list[float]:
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        cell = Cell(text)
        _ = cell.side_a, cell.side_b
        found.append(1e3 * (time.perf_counter() - start))
    return found


def main() -> None:
    for name, text in CELLS.items():
        took = milliseconds(text)
        print(f"{name:<10} median {statistics.median(took):5.1f} ms   first {took[0]:5.1f}   worst {max(took):5.1f}")


if __name__ == "__main__":
    main()
