"""The plain layer of two versions of bptt side by side: forward and backward, and forward alone, at every shape.

    python -m benchmarks.versions OTHER/.venv/bin/python [--pairs 9] [--threads 2] [--seconds 0.15] [--smallest]
                                  [--options]

Starts a process of this environment and one of the other in turn, PAIRS times, and prints for each shape the ratio of
their times, this one by the other: the geometric mean of the pairs and an interval in which it lies with 95 %
probability (Student's t on the logarithms). At last that of all shapes, pair by pair. With --options layers with leak,
residual connection and layer norm take the place of the plain ones.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

MODES = ("train", "infer")
OPTIONS: list[dict[str, Any]] = [{"leak": 0.3}, {"residual": True}, {"norm": "layer"}]
OF_OPTIONS = ((100, 1, 64, 64), (100, 32, 64, 128), (100, 32, 128, 256))
STUDENT = {4: 3.18, 5: 2.78, 8: 2.36, 9: 2.31, 10: 2.26, 12: 2.20, 15: 2.14, 20: 2.09}
"""Of so many pairs, at 97.5 %."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", help="the Python of an environment with the other version")
    parser.add_argument("--pairs", type=int, default=9, choices=sorted(STUDENT))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.15, help="for each shape, mode and process")
    parser.add_argument("--smallest", action="store_true", help="the small calls alone")
    parser.add_argument("--options", action="store_true", help="leak, residual and norm in the place of plain layers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_times(json.loads(given.worker), given.threads, given.seconds)))
        return
    if given.other is None:
        parser.error("name the Python of the other environment")
    from benchmarks.cases import PLAIN, SMALL_CALLS, UGLY
    from benchmarks.machine import machine

    cases = SMALL_CALLS if given.smallest else [*SMALL_CALLS, *PLAIN, *UGLY]
    layers: list[Any] = [[[case.T, case.B, case.I, case.H], {}] for case in cases]
    if given.options:
        layers = [[shape, options] for options in OPTIONS for shape in OF_OPTIONS]
    options = ["--threads", str(given.threads), "--seconds", str(given.seconds)]
    command = [__file__, "--worker", json.dumps(layers), *options]
    logs: list[dict[str, float]] = []
    for pair in range(given.pairs):
        pythons = [sys.executable, given.other]
        found = {}
        for python in pythons if pair % 2 == 0 else pythons[::-1]:
            done = subprocess.run([python, *command], capture_output=True, text=True, check=True)
            found[python] = json.loads(done.stdout)
        ours, theirs = (found[python] for python in pythons)
        logs.append({name: math.log(ours[name] / theirs[name]) for name in ours})
    print(
        f"{machine()['processor']}, {given.threads} threads, {given.pairs} pairs: times of this version by the other's"
    )
    for name in logs[0]:
        print(f"{name:32} {_interval([of_pair[name] for of_pair in logs])}")
    for mode in MODES:
        whole = [statistics.mean(v for name, v in of_pair.items() if name.endswith(mode)) for of_pair in logs]
        print(f"{'all shapes, ' + mode:32} {_interval(whole)}")


def _interval(logs: list[float]) -> str:
    middle = statistics.mean(logs)
    reach = STUDENT[len(logs)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(middle):.3f}  [{math.exp(middle - reach):.3f}, {math.exp(middle + reach):.3f}]"


def _times(layers: list[Any], threads: int, seconds: float) -> dict[str, float]:
    """Seconds of a call by shape and mode: the lower quartile of its batches of calls."""
    import torch

    import bptt

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found = {}
    for (T, B, I, H), options in layers:
        rnn = bptt.nn.RNN(I, H, **options)
        x, h0, dy = torch.randn(T, B, I), torch.randn(1, B, H).tanh().requires_grad_(), torch.randn(T, B, H)

        def train(rnn: Any = rnn, x: Any = x, h0: Any = h0, dy: Any = dy) -> None:
            rnn.zero_grad(set_to_none=True)
            rnn(x, h0)[0].backward(dy)

        def infer(rnn: Any = rnn, x: Any = x, h0: Any = h0) -> None:
            with torch.no_grad():
                rnn(x, h0)

        for mode, call in zip(MODES, (train, infer), strict=True):
            name = " ".join([f"{T},{B},{I},{H}", *options, mode])
            found[name] = _seconds(call, seconds)
    return found


def _seconds(call: Callable[[], None], seconds: float) -> float:
    for _ in range(3):
        call()
    start = time.perf_counter()
    call()
    number = max(1, int(seconds / 20 / (time.perf_counter() - start)))
    batches = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(batches) < 4:
        start = time.perf_counter()
        for _ in range(number):
            call()
        batches.append((time.perf_counter() - start) / number)
    return statistics.quantiles(batches, n=4)[0]


if __name__ == "__main__":
    main()
