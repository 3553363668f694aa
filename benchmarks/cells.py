"""What the options of the cell cost: forward and backward of one layer, the compiled sweeps beside the reference loop.

    python -m benchmarks.cells [--threads 1]

Prints microseconds for one call and its backward pass, the best of several turns that the two take in alternation.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import bptt

OPTIONS: list[dict[str, Any]] = [
    {},
    {"leak": 0.3},
    {"residual": True},
    {"norm": "layer"},
    {"recurrent_dropout": 0.3},
    {"leak": 0.3, "residual": True, "norm": "layer", "recurrent_dropout": 0.3},
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(arguments.parse_args().threads)
    for T, B, H in ((100, 1, 64), (100, 32, 128), (50, 64, 256)):
        x = torch.randn(T, B, H)
        print(f"T={T} B={B} H={H}, {torch.get_num_threads()} threads")
        for options in OPTIONS:
            rnn = bptt.nn.RNN(H, H, **options)
            compiled, by_the_book = alternately(lambda rnn=rnn, x=x: step(rnn, x), lambda rnn=rnn, x=x: slowly(rnn, x))
            name = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "plain"
            print(f"  {compiled:9.0f} compiled {by_the_book:9.0f} reference {by_the_book / compiled:6.1f}x  {name}")


def step(rnn: bptt.nn.RNN, x: torch.Tensor) -> None:
    output, _ = rnn(x)
    output.backward(torch.ones_like(output))


def slowly(rnn: bptt.nn.RNN, x: torch.Tensor) -> None:
    with bptt.using("reference"):
        step(rnn, x)


def alternately(*calls: Callable[[], None], turns: int = 7) -> list[float]:
    best = [float("inf")] * len(calls)
    for _ in range(turns):
        for k, call in enumerate(calls):
            begun = time.perf_counter()
            call()
            best[k] = min(best[k], time.perf_counter() - begun)
    return [1e6 * seconds for seconds in best]


if __name__ == "__main__":
    main()
