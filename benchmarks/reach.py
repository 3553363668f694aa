"""What `tape.reach()` costs: beside one backward sweep of the same layer, and beside the limit of products.

    python -m benchmarks.reach [--shape 256,32,128,128] [--rounds 7] [--threads 2] [--cell elman]

float32. In every round, one after the other: a backward pass of the layer (all gradients, dx too), the reach from 32
origins and from all, and a product of two square matrices of 2048, which gives the limit in GF/s. The products of a
reach are those of each origin with the recurrent matrices at every step that it goes back through. Prints medians, and
of the rounds' ratios the median with the least and the most.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import bptt
from benchmarks.machine import machine

SIDE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="256,32,128,128", help="T,B,I,H")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cell", default="elman")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{machine()['processor']}, {given.threads} threads, {given.cell} {given.shape}")
    T, B, I, H = map(int, given.shape.split(","))
    layer = bptt.nn.RNN(I, H) if given.cell == "elman" else bptt.nn.Recurrent(given.cell, I, H)
    x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
    with bptt.recording() as tapes:
        layer(x)[0].backward(dy)
    (tape,) = tapes
    blocks = sum(len(record.weights[name]) == H for record in tape.layers for name in tape.reach(1).radius["l0"])
    products = 2 * H * H * blocks * B * T * (T + 1) / 2
    square = torch.randn(SIDE, SIDE)

    def back() -> float:
        y = layer(x)[0]
        return _seconds(lambda: y.backward(dy))

    def all_origins() -> float:
        return _seconds(lambda: tape.reach("all"))

    rounds = [
        (back(), _seconds(tape.reach), all_origins(), _seconds(lambda: square @ square))
        for _ in range(given.rounds + 1)
    ][1:]
    sweep, some, every, longest = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"backward sweep {1e3 * sweep:8.2f} ms")
    print(f"32 origins     {1e3 * some:8.2f} ms   {_ratios([b / a for a, b, *_ in rounds])} sweeps")
    limit = 2 * SIDE**3 / longest
    share = _ratios([products / c / (2 * SIDE**3 / d) for *_, c, d in rounds])
    print(
        f"all origins    {1e3 * every:8.2f} ms   {products / every / 1e9:.1f} GF/s, {share} of {limit / 1e9:.1f} GF/s"
    )


def _ratios(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
