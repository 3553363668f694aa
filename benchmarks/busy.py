"""What other programs cost a training: `python -m benchmarks.busy`, some ten minutes of an otherwise idle machine.

`bptt train` with its default recipe runs beside so many processes that compute without end, which are started here. In
each round every way of sharing out the work has its turn, in an order that moves on from round to round:

    default    as `bptt train` is: all cores, one thread while other programs need them, threads that wait sleep
    1 thread   --threads 1
    passive    --threads as many as cores; threads that wait sleep
    spinning   the same; threads that wait look for work for a while, which is OpenMP's own default

The figure is characters per second, the mean over the rounds; `share` is that of `default` to the best of the others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.machine import machine

SPINS = str(300_000)  # of GNU OpenMP where no policy is given
CORES = str(os.cpu_count())
WAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    "default": ([], {}),
    "1 thread": (["--threads", "1"], {}),
    "passive": (["--threads", CORES], {"OMP_WAIT_POLICY": "passive"}),
    "spinning": (["--threads", CORES], {"GOMP_SPINCOUNT": SPINS}),
}


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def rate(way: str, seconds: float) -> float:
    """Characters per second of a training of about so many seconds."""
    options, environment = WAYS[way]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bptt", "train", "-o", f"{folder}/run", "--time-limit", str(seconds), "--json"]
        done = subprocess.run(
            [*command, *options], env=inherited | environment, capture_output=True, text=True, check=True
        )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [event for event in events if event["event"] == "steps"]
    return steps[-1]["items"] / steps[-1]["seconds"]


def measure(processes: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Characters per second of each way in every round, beside so many busy processes."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    ways = list(WAYS)
    with busy(processes):
        for number in range(rounds):
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                rates[way].append(rate(way, seconds))
    means = {way: statistics.mean(found) for way, found in rates.items()}
    best = max(means[way] for way in WAYS if way != "default")
    return {"busy": processes, "rates": rates, "means": means, "share": means["default"] / best}


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 5], metavar="N", help="processes beside it")
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--seconds", type=float, default=12, help="of one training")
    given = arguments.parse_args()
    where = machine()
    print(f"{where['processor']}, {where['cores']} cores, {where['system']}, Python {where['python']}")
    print("busy  " + "".join(way.rjust(10) for way in WAYS) + "     share   range of default")
    for processes in given.busy:
        found = measure(processes, given.rounds, given.seconds)
        own = found["rates"]["default"]
        print(
            f"{processes:4}  "
            + "".join(f"{found['means'][way] / 1000:9.0f}k" for way in WAYS)
            + f"     {found['share']:5.2f}   {min(own) / 1000:.0f}k to {max(own) / 1000:.0f}k",
            flush=True,
        )


if __name__ == "__main__":
    main()
