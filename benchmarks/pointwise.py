"""How much of a layer's time goes to all that is no product: functions of gates, loads and stores.

    python -m benchmarks.pointwise [--cell lstm] [--shape 100,16,128,256] [--seconds 3]

One layer, float32, on one thread: 16 rows are what each of two threads has of 32. Each way of the engine runs in turn
as it is, and with its products alone, the other instructions of its program left out. Prints milliseconds, the least of
all calls, and the share of the time that goes with what is left out.
"""

import argparse
import time
from typing import Any
from unittest import mock

import torch

from benchmarks.machine import machine
from bptt.engine import _native, native, programs
from bptt.engine.contract import Gradients, Layout, Weights
from bptt.engine.steps import Steps
from bptt.sheet import Cell, named

PRODUCTS = (_native.Operation.product, _native.Operation.add_product)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="lstm", help="a cell that is built in")
    parser.add_argument("--shape", default="100,16,128,256", help="T,B,I,H")
    parser.add_argument("--seconds", type=float, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # what is left out leaves any numbers behind
    print(f"{machine()['processor']}, {given.cell} at {given.shape}, 1 thread")
    ways = _times(named(given.cell), given.shape, given.seconds)
    for name, way in zip(("forward", "backward"), ways, strict=True):
        _print(name, *way)
    _print("both", *map(sum, zip(*ways, strict=True)))


def _print(name: str, whole: float, products: float) -> None:
    share = 1 - products / whole
    print(f"{name:9} {1e3 * whole:8.3f} ms   products alone {1e3 * products:8.3f} ms   the rest {share:.1%}")


def _times(cell: Cell, shape: str, seconds: float) -> list[tuple[float, float]]:
    """Of each way the seconds of a call, and of its products alone."""
    T, B, I, H = map(int, shape.split(","))
    torch.manual_seed(0)
    sheet, layout, steps = cell.sheet, Layout.of(cell), Steps(T, B)
    length = {"I": I, "H": H, "1": 1}
    shapes = [[length[axis] for axis in sheet.shapes.get(name) or (sheet.widths[name],)] for name in layout.names]
    weights = Weights(layout, [torch.randn(*shape).mul_(H**-0.5) for shape in shapes])
    x, dy, nothing = torch.randn(T, B, I), torch.randn(T, B, H), [None] * len(sheet.states)
    made = native.forward(cell, weights, x, nothing, steps)
    into = Gradients(None, nothing, [torch.empty_like(tensor) for tensor in weights.tensors if tensor is not None])

    def forward() -> None:
        native.forward(cell, weights, x, nothing, steps)

    def backward() -> None:
        native.backward(cell, weights, made, x, nothing, steps, dy, nothing, into)

    whole = programs.forward, programs.backward
    with mock.patch.object(_native, "Program", _of_products(_native.Program)):
        alone = programs.forward.__wrapped__, programs.backward.__wrapped__
        made_of = (
            alone[0](cell, layout, every_value=False, keep=True),
            alone[1](cell, layout, (True,) * len(layout.names), (False,) * len(sheet.inputs), every_value=False),
        )
    found = []
    for way, call in enumerate((forward, backward)):
        name, least = ("forward", "backward")[way], [float("inf")] * 2
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for k, make in enumerate((whole[way], lambda *_, program=made_of[way], **__: program)):
                with mock.patch.object(programs, name, make):
                    call()
                    start = time.perf_counter()
                    call()
                    least[k] = min(least[k], time.perf_counter() - start)
        found.append((least[0], least[1]))
    return found


def _of_products(make: Any) -> Any:
    def program(**records: Any) -> Any:
        instructions = [i for i in records["instructions"] if i[0] in PRODUCTS]
        return make(**records | {"instructions": instructions})

    return program


if __name__ == "__main__":
    main()
