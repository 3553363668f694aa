"""Two situations in which layers are really used: rows of different lengths, and a machine that is not idle."""

import os
import signal
import subprocess
import sys
from typing import Any

import torch

from benchmarks.cases import TOLERANCE, Case, worst_error
from benchmarks.measure import Effort, Entry, alternate
from benchmarks.peers.module import prepare_packed_module
from benchmarks.team import OURS, Team
from benchmarks.worker import WorkerError

PACKED = [Case(100, 32, 64, 128), Case(200, 16, 32, 64), Case(100, 32, 128, 256), Case(50, 20, 100, 300)]
LOADED = [Case(100, 16, 64, 128), Case(100, 32, 128, 256), Case(1000, 8, 32, 64)]


def measure_packed(team: Team, case: Case, effort: Effort) -> dict[str, Any]:
    """Half of all steps are padding. Ours also without padding left out: the dense batch of the same size."""
    packed, dense = ("prepare_packed", case), ("prepare", case, "train")
    judge = prepare_packed_module(torch.nn, case, torch.float64)
    judge.run()
    expected: Any = judge.results()
    threads = max(count for _, count, _ in team)
    entries: dict[str, Entry] = {}
    found: dict[str, Any] = {}
    for peer in (OURS, "torch"):
        worker = team.workers.get((peer, threads))
        if worker is None:
            continue
        try:
            worker.prepare(packed)
            error = worst_error(worker.results(packed), expected, case.results("train"))
            if error > TOLERANCE:
                raise WorkerError(f"wrong by {error:.1e} of the largest entry")
            entries[peer] = Entry(worker, packed)
            if peer == OURS:
                worker.prepare(dense)
                entries["bptt, dense"] = Entry(worker, dense)
        except WorkerError as failure:
            found[peer] = {"failed": str(failure)}
    found |= _milliseconds(alternate(entries, effort))
    for entry in entries.values():
        entry.worker.release(entry.request)
    return {"kind": "packed", "case": str(case), "mode": "train", "threads": threads, "peers": found}


def measure_loaded(team: Team, case: Case, effort: Effort) -> dict[str, Any]:
    """All threads while another process keeps one core busy, against one thread on the idle machine."""
    request = ("prepare", case, "train")
    threads = max(count for _, count, _ in team)
    core = max(os.sched_getaffinity(0))
    busy = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"])
    busy.send_signal(signal.SIGSTOP)
    entries: dict[str, Entry] = {}
    try:
        for peer in (OURS, "torch"):
            alone, all_threads = team.workers.get((peer, 1)), team.workers.get((peer, threads))
            if alone is None or all_threads is None:
                continue
            for worker in (alone, all_threads):
                worker.prepare(request)
            entries[f"{peer}, 1 thread, idle"] = Entry(alone, request)
            entries[f"{peer}, {threads} threads, idle"] = Entry(all_threads, request)
            entries[f"{peer}, {threads} threads, loaded"] = Entry(
                all_threads,
                request,
                before=lambda: busy.send_signal(signal.SIGCONT),
                after=lambda: busy.send_signal(signal.SIGSTOP),
            )
        found = _milliseconds(alternate(entries, effort))
    finally:
        busy.kill()
        busy.wait()
    for entry in {(entry.worker, entry.request): entry for entry in entries.values()}.values():
        entry.worker.release(entry.request)
    return {"kind": "loaded", "case": str(case), "mode": "train", "threads": threads, "peers": found}


def _milliseconds(timings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"failed": timing} if isinstance(timing, str) else {"ms": float(f"{timing.median_s * 1e3:.4g}")}
        for name, timing in timings.items()
    }
