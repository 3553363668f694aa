"""What the tasks share: the seeds on the command line, mean and spread over them, the table, the lines of JSON.

Beside the seconds of the clock every line has the processor seconds since the line before (or the start), and how many
cores other processes kept busy meanwhile. On a busy machine, with one thread, processor seconds are what it takes on an
idle one.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.others import Others
from benchmarks.report import Table, aligned

RESULTS = Path(__file__).parent.parent / "results"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every task."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.literature.{name}", description=description)
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    found.add_argument("--output", type=Path, help="file the lines of JSON are appended to")
    return found


def mean_and_spread(values: Iterable[float], digits: int = 3) -> str:
    """The mean, and the standard deviation over seeds where there are several.

    >>> mean_and_spread([8.5, 8.6, 8.7], 2)
    '8.60 ± 0.10'
    """
    values = list(values)
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


class Lines:
    """Appends records to a file of lines of JSON, each with date, machine and versions beside it."""

    def __init__(self, task: str, output: Path | None) -> None:
        self.start = datetime.now(UTC)
        self.task = task
        self.output = output or RESULTS / f"{self.start:%Y-%m-%d}-literature.jsonl"
        self.busy, self.cpu_seconds = Others([]), time.process_time()

    def append(self, record: Mapping[str, Any]) -> None:
        others, before, self.cpu_seconds = self.busy.cores(), self.cpu_seconds, time.process_time()
        line = {
            "kind": "literature",
            "task": self.task,
            **record,
            "cpu_seconds": round(self.cpu_seconds - before, 1),
            "threads": torch.get_num_threads(),
            "date": f"{self.start:%Y-%m-%dT%H:%M:%SZ}",
            "machine": machine(),
            "others_cores": None if others is None else round(others, 2),
            "versions": {"bptt": f"bptt {version('bptt')}", "torch": f"torch {torch.__version__}"},
        }
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with open(self.output, "a") as lines:
            print(json.dumps(line, ensure_ascii=False), file=lines)

    def show(self, *tables: Table) -> None:
        """Prints tables, machine and date, and where the lines went."""
        facts = machine()
        for table in tables:
            print(aligned(table), end="\n\n")
        where = f"{facts['processor']}, {facts['cores']} cores, {torch.get_num_threads()} threads"
        print(f"{self.start:%Y-%m-%d %H:%M} UTC, {where}, torch {torch.__version__}")
        print(f"lines of JSON: {os.path.relpath(self.output)}")
