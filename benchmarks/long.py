"""Full BPTT of one long sequence: `python -m benchmarks.long` prints memory and time per step for T = 10³ ... 10⁶.

One row of random tokens, 100 symbols, H = 128, a network with cross entropy at every step, one thread. A pass is loss
and all gradients in one backward(). Three ways:

blocks  `model.loss_of(x, y)`, exact BPTT in blocks of time
plain   `model.loss(model(x)[0], y)`, everything kept
torch   torch.nn.RNN on one-hot vectors, torch.nn.Linear and cross entropy, as far as `--limit` of memory goes

Memory is the peak resident memory of a fresh process that does one pass, libraries included. Times are of one process
for each way, visited in turn, so that whatever the machine does happens to all: the median over rounds of the time for
a pass, divided by T. Beside the wall's clock the processor time of the process is taken, which hardly feels who else
wants the processor; its ratio to that of plain at T = 10 000 in the same rounds stands at the end.

Full run: python -m benchmarks.long          Does it work at all? python -m benchmarks.long --quick
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from typing import Any

H, SYMBOLS = 128, 100
WAYS = ["blocks", "plain", "torch"]
LENGTHS = [1_000, 10_000, 100_000, 1_000_000]
BASE = 10_000


def passes(way: str, T: int) -> Any:
    """A function that does one pass and returns the loss."""
    import torch

    import bptt

    torch.manual_seed(0)
    model = bptt.nn.Elman(SYMBOLS, H, SYMBOLS)
    x, y = torch.randint(SYMBOLS, (T, 1)), torch.randint(SYMBOLS, (T, 1))
    theirs = torch.nn.RNN(SYMBOLS, H)
    theirs.load_state_dict(model.rnn.state_dict())

    def one_pass() -> float:
        model.zero_grad()
        if way == "blocks":
            L, _ = model.loss_of(x, y)
        elif way == "plain":
            L = model.loss(model(x)[0], y)
        else:
            theirs.zero_grad()
            one_hot = torch.nn.functional.one_hot(x, SYMBOLS).to(torch.float32)
            L = model.loss(model.readout(theirs(one_hot)[0]), y)
        L.backward()
        return float(L.detach())

    return one_pass


def peak(way: str, T: int, limit: float) -> dict[str, Any]:
    """Of a fresh process: {"mb", "loss"}, or {"failed"} beyond `limit` GB of memory of its own."""
    done = _start([sys.executable, "-m", "benchmarks.long", "--peak", way, str(T), str(limit)])
    answer, errors = done.communicate()
    if done.returncode == 0:
        return json.loads(answer)
    return {"failed": f"beyond {limit:g} GB" if _out_of_memory(done.returncode, errors) else errors.strip()[-200:]}


def _out_of_memory(code: int, errors: str) -> bool:
    return code == -9 or any(word in errors for word in ("can't allocate memory", "bad_alloc", "MemoryError"))


def _start(command: list[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _peak_here(way: str, T: int, limit: float) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), int(limit * 1e9)))
    loss = passes(way, T)()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"mb": round(kilobytes * 1024 / 1e6), "loss": loss}))


def _serve(way: str) -> None:
    """Reads lengths, answers with the seconds of a pass on the wall and of the processor; fewer than 0.3 s: repeats."""
    prepared: dict[int, Any] = {}
    for line in sys.stdin:
        T = int(line)
        if T not in prepared:
            prepared[T] = passes(way, T)
            if T <= 100_000:
                prepared[T]()
        count = max(1, 30_000 // T)
        began, busy = time.perf_counter(), time.process_time()
        for _ in range(count):
            prepared[T]()
        print((time.perf_counter() - began) / count, (time.process_time() - busy) / count, flush=True)


def times(lengths: dict[str, list[int]], rounds: int) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Seconds of a pass, wall and processor, of each round; the longest passes are visited once."""
    servers = {way: _start([sys.executable, "-m", "benchmarks.long", "--serve", way]) for way in lengths}
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    try:
        for number in range(rounds):
            for T in sorted({T for of_way in lengths.values() for T in of_way}):
                ways = [way for way in lengths if T in lengths[way]]
                for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                    if number and (T > 100_000 or (T > BASE and way == "torch")):
                        continue
                    server = servers[way]
                    assert server.stdin is not None
                    assert server.stdout is not None
                    print(T, file=server.stdin, flush=True)
                    wall, busy = map(float, server.stdout.readline().split())
                    found.setdefault((way, T), []).append((wall, busy))
    finally:
        for server in servers.values():
            server.kill()
            server.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="T = 1000 and 10 000, two rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, metavar="T")
    parser.add_argument("--limit", type=float, default=4.0, help="GB of memory that a way may take")
    parser.add_argument("--json", action="store_true", help="a line of JSON instead of the table")
    parser.add_argument("--peak", nargs=3, metavar=("WAY", "T", "LIMIT"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="WAY", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        return _peak_here(asked.peak[0], int(asked.peak[1]), float(asked.peak[2]))
    if asked.serve:
        return _serve(asked.serve)
    lengths, rounds = (LENGTHS[:2], 2) if asked.quick else (asked.lengths, asked.rounds)
    memory = {(way, T): peak(way, T, asked.limit) for T in lengths for way in asked.ways}
    fits = {way: [T for T in lengths if "mb" in memory[way, T]] for way in asked.ways}
    taken = times(fits, rounds)
    per_step = {
        key: tuple(statistics.median(part) / key[1] * 1e6 for part in zip(*visits, strict=True))
        for key, visits in taken.items()
    }
    if asked.json:
        lines = [
            {
                "way": way,
                "T": T,
                **memory[way, T],
                **dict(zip(("wall_us", "busy_us"), per_step.get((way, T), ()), strict=False)),
            }
            for way, T in memory
        ]
        print(json.dumps({"date": date.today().isoformat(), "machine": _machine(), "rows": lines}))
        return
    print(f"{_machine()}, {date.today().isoformat()}, one thread, median of {rounds} rounds\n")
    print("|         T | way    | peak memory, MB | µs per step, wall | µs per step, processor | to plain at 10 000 |")
    print("|----------:|--------|----------------:|------------------:|-----------------------:|-------------------:|")
    for (way, T), found in sorted(memory.items(), key=lambda item: (item[0][1], WAYS.index(item[0][0]))):
        if "failed" in found:
            print(f"| {T:9,} | {way:6} | {found['failed']:>15} | {'–':>17} | {'–':>22} | {'–':>18} |")
            continue
        wall, busy = per_step[way, T]
        base = per_step.get(("plain", BASE))
        ratio = f"{busy / base[1]:.2f}" if base else "–"
        print(f"| {T:9,} | {way:6} | {found['mb']:15,} | {wall:17.2f} | {busy:22.2f} | {ratio:>18} |")


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        model = next(
            (line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.processor()
        )
    return f"{model}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
