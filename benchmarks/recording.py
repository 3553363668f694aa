"""What a tape costs: a training step of one layer inside `bptt.recording()` beside the same step without it.

    python -m benchmarks.recording [--shape 100,32,128,256] [--rounds 15] [--threads 2]

float32, forward and backward, one after the other in turns. Prints the median of each in milliseconds, and of the
rounds' ratios the median with the middle half.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import bptt
from benchmarks.machine import machine

CALLS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="100,32,128,256", help="T,B,I,H")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{machine()['processor']}, {given.threads} threads, {given.shape}")
    T, B, I, H = map(int, given.shape.split(","))
    for name in ("elman", "lstm", "gru", "mgu"):
        layer = bptt.nn.RNN(I, H) if name == "elman" else bptt.nn.Recurrent(name, I, H)
        _compare(name, layer, torch.randn(T, B, I), torch.randn(T, B, H), given.rounds)


def _compare(name: str, layer: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor, rounds: int) -> None:
    def step() -> None:
        layer(x)[0].backward(dy)

    def recorded() -> None:
        with bptt.recording():
            step()

    pairs = [(_seconds(step), _seconds(recorded)) for _ in range(1 + rounds)][1:]  # the first is to warm up
    low, middle, high = statistics.quantiles([after / before for before, after in pairs], n=4)
    step_ms, recorded_ms = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{name:8} step {step_ms:8.2f} ms   recorded {recorded_ms:8.2f} ms   {middle:.2f} times [{low:.2f}, {high:.2f}]"
    )


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS


if __name__ == "__main__":
    main()
