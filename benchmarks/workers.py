"""Several workers: how fast two are here, and on paper how fast many would be.

`python -m benchmarks.workers` trains with `bptt train` on the English text in every CPython, in processes of one thread
each: alone, and as two workers that torchrun starts, the cases in turns. A figure is the median over the log's lines of
ten steps; the first lines of a run are left out. Then it prints what the model of docs/many-machines.md makes of the
step times measured alone.

    T(W) = c + (m + 1) 2 (W - 1) α + 2 (W - 1)/W G / β

c    a worker's step without the others, measured          α    time a message takes to the next worker
G    bytes of the gradient                                 β    bytes per second
m    messages of the gradient, DistributedDataParallel's buckets; one more carries losses and clock
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from safetensors import safe_open

from benchmarks.machine import machine

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
WARM_UP = 3  # lines of the log
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20  # bytes, as DistributedDataParallel has them
WORKERS = [2**n for n in range(11)]


class Network(NamedTuple):
    name: str
    bytes_per_second: float
    latency_s: float


NETWORKS = [Network("10 Gbit/s, α = 30 µs", 10e9 / 8, 30e-6), Network("100 Gbit/s, α = 10 µs", 100e9 / 8, 10e-6)]


class Case(NamedTuple):
    workers: int
    streams: int
    options: str = "--hidden 256"
    steps: int = 100


ALONE, LARGE = Case(1, 32), Case(1, 32, "--hidden 1024 --layers 2", 50)
CASES = [
    *(ALONE, Case(1, 16), Case(2, 32), Case(2, 64)),
    *(Case(1, 32, "--hidden 512"), Case(2, 64, "--hidden 512")),
    *(LARGE, LARGE._replace(workers=2, streams=64)),
]


class Speed(NamedTuple):
    tokens_per_second: float
    weights: int

    def step_s(self, case: Case) -> float:
        return case.streams * 64 / self.tokens_per_second


def train(case: Case) -> Speed:
    with tempfile.TemporaryDirectory() as run:
        launcher = [] if case.workers == 1 else [*TORCHRUN, str(case.workers)]
        command = ["-m", "bptt", "train", "-o", f"{run}/run", "--held-out", "0", "--json", *case.options.split()]
        length = ["--streams", str(case.streams), "--steps", str(case.steps)]
        done = subprocess.run(
            [sys.executable, *launcher, *command, *length],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            sys.exit(done.stderr)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        with safe_open(f"{run}/run/weights.safetensors", "pt") as file:
            weights = sum(math.prod(file.get_slice(name).get_shape()) for name in sorted(file.keys()))
    speeds = [line["items_per_second"] for line in lines if line["event"] == "steps"][WARM_UP:]
    return Speed(statistics.median(speeds), weights)


def median(speeds: list[Speed]) -> Speed:
    return Speed(statistics.median(speed.tokens_per_second for speed in speeds), speeds[0].weights)


def messages(gradient: int) -> int:
    return 1 + math.ceil(max(0, gradient - FIRST_BUCKET) / BUCKET)


def step_s(workers: int, alone_s: float, gradient: int, network: Network) -> float:
    """T(W) of the model, gradient in bytes."""
    hops = 2 * (workers - 1)
    latency = (messages(gradient) + 1) * hops * network.latency_s
    return alone_s + latency + hops / workers * gradient / network.bytes_per_second


def table(alone_s: float, gradient: int, network: Network) -> Iterator[str]:
    """For each number of workers: step, tokens of all for each of one, efficiency; and with what one can change."""

    def gain(workers: int, step: float, share: float = 1.0) -> str:
        """Tokens per second in those of one worker; share: by how much a step's tokens are more."""
        return f"{workers * share * alone_s / step:,.1f}"

    yield "| workers | step, ms | gain | efficiency | 4 x streams | averaged every 8 steps | half the bytes |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for workers in WORKERS[1:]:
        step = step_s(workers, alone_s, gradient, network)
        larger = step_s(workers, 4 * alone_s, gradient, network)
        seldom = alone_s + (step - alone_s) / 8
        halved = step - 2 * (workers - 1) / workers * (gradient / 2) / network.bytes_per_second
        yield (
            f"| {workers:,} | {step * 1e3:,.1f} | {gain(workers, step)} | {alone_s / step:.0%} | "
            f"{gain(workers, larger, 4)} | {gain(workers, seldom)} | {gain(workers, halved)} |"
        )


def efficient_until(alone_s: float, gradient: int, network: Network) -> int:
    """The most workers of `WORKERS` of which each spends at least half of its time on its own step."""
    return max(workers for workers in WORKERS if step_s(workers, alone_s, gradient, network) <= 2 * alone_s)


def most_gain(alone_s: float, gradient: int, network: Network) -> float:
    """What no number of workers can surpass: the time of the messages grows as fast as the tokens."""
    return alone_s / ((messages(gradient) + 1) * 2 * network.latency_s)


def report(speeds: dict[Case, Speed]) -> Iterator[str]:
    yield "| network | workers x threads | streams | tokens/s | against one with 32 streams | step, ms |"
    yield "|---|---|---:|---:|---:|---:|"
    for case in CASES:
        speed, alone = speeds[case], speeds[case._replace(workers=1, streams=32)]
        yield (
            f"| `{case.options}` | {case.workers} x 1 | {case.streams} | {speed.tokens_per_second:,.0f} | "
            f"{speed.tokens_per_second / alone.tokens_per_second:.2f} | {speed.step_s(case) * 1e3:.1f} |"
        )
    for case in (ALONE, LARGE):
        alone, gradient = speeds[case].step_s(case), 4 * speeds[case].weights
        for network in NETWORKS:
            yield ""
            yield (
                f"`{case.options}`, 32 streams a worker: c = {alone * 1e3:.1f} ms, G = {gradient / 1e6:.2f} MB in "
                f"{messages(gradient)}; {network.name}. Half of the time is work up to "
                f"{efficient_until(alone, gradient, network):,} workers; no number gains more than "
                f"{most_gain(alone, gradient, network):,.0f}."
            )
            yield ""
            yield from table(alone, gradient, network)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is trained")
    arguments = parser.parse_args()
    found: dict[Case, list[Speed]] = {case: [] for case in CASES}
    for _ in range(arguments.rounds):
        for case in CASES:
            found[case].append(train(case))
    speeds: dict[Any, Speed] = {case: median(each) for case, each in found.items()}
    print(", ".join(f"{name} {value}" for name, value in machine().items()), end="\n\n")
    print("\n".join(report(speeds)))


if __name__ == "__main__":
    main()
