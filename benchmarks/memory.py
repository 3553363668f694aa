"""Peak memory of a training step: `python -m benchmarks.memory bptt 100,64,128,256 lstm` prints it as a line of JSON.

What is measured is resident memory as the kernel counts it, whoever allocated it. A tiny layer is trained first, which
loads libraries and starts threads. Then the high-water mark is reset (/proc/self/clear_refs) and two steps of the case
run, the results of the first given back before the second. extra = high-water mark − memory before the first, when
inputs, weights and dy were there. Memory that an implementation keeps from step to step thus counts; kept says how much
of it is left when all results are gone.

The bar: inputs + states + one array of T B H; for gated cells inputs + states + kept gates. The inputs being there
before, what may be added is (T+1) B H for each state, h and of the LSTM c, and T B H once for the plain cell and four
times for the LSTM (i, f, g, o; tanh(c) can be made again) and for the GRU (r, z, n and h W_hn + b_hn). The gradients
that the step returns (weights, biases, first states) and the last states are added to what is allowed, and the verdict
leaves 1 % for pages that are not full and counters that the kernel updates in batches.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, inputs
from benchmarks.team import OURS

CASES = [Case(100, 64, 128, 256), Case(784, 128, 1, 128), Case(1000, 64, 64, 256), Case(100, 32, 1024, 1024)]


def measure(case: Case, peers: tuple[str, ...] = (OURS, "torch")) -> dict[str, Any]:
    """A record for the report, each peer in a fresh process whose allocator returns large blocks at once."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    found = {}
    for peer in peers:
        command = [sys.executable, "-m", "benchmarks.memory", peer, str(case), case.cell]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        failure = (done.stderr.strip().splitlines() or [""])[-1]
        found[peer] = json.loads(done.stdout) if done.returncode == 0 else {"failed": failure}
    return {"kind": "memory", "case": str(case), "mode": "train", "peers": found}


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _measure_here(peer: str, case: Case) -> dict[str, float]:
    import torch

    import bptt
    from benchmarks.peers.module import as_hx, first_states, layer

    def arguments(case: Case) -> Any:
        given = inputs(case)
        first = [state.requires_grad_() for state in first_states(case)]
        rnn = layer(bptt.nn if peer == OURS else torch.nn, case)
        return rnn, torch.from_numpy(given.x), first, torch.from_numpy(given.dy)

    def step(rnn: Any, x: torch.Tensor, first: list[torch.Tensor], dy: torch.Tensor) -> Any:
        y, last = rnn(x, as_hx(first))
        return y, last, torch.autograd.grad(y, [*first, *rnn.parameters()], dy)

    given = arguments(case)
    step(*arguments(Case(4, 2, 8, 8, case.cell)))
    _give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step(*given)
    results = step(*given)
    extra = _status("VmHWM") - before
    gradients = sum(gradient.nbytes for gradient in results[2])
    del results
    _give_back()
    kept = _status("VmRSS") - before
    state, states = 4 * case.B * case.H, len(case.form.states)
    allowed = states * (case.T + 1) * state + case.form.room * case.T * state + gradients + states * state
    return {
        "extra_mb": round(extra / 1e6, 2),
        "kept_mb": round(kept / 1e6, 2),
        "allowed_mb": round(allowed / 1e6, 2),
        "ratio": round(extra / allowed, 3),
    }


def _give_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    peer, shape, *cell = sys.argv[1:]
    fields: list[Any] = [*map(int, shape.split(",")), *cell]
    print(json.dumps(_measure_here(peer, Case(*fields))))
