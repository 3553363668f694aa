"""What helps against vanishing and exploding gradients: remedies on tasks whose answer lies far back.

    python -m experiments.reach run RESULTS.jsonl [--minutes 360] [--threads 1] [--task adding] [--T 200] [--seed 0 1]
    python -m experiments.reach table RESULTS.jsonl
    python -m experiments.reach picture RESULTS.jsonl FILE.svg

tasks.py     adding, temporal order, copy memory, digits: what is to be learnt, and when it counts as solved
remedies.py  the layers, and what is done with their gradient
training.py  one run: reach before training, updates until it is solved, the error at the end, seconds
grid.py      which runs, in which order, and the file they are kept in
report.py    tables and the picture

`run` adds a line for every task, T, remedy and seed that the file does not have, so it goes on where it was stopped.
Seeds are the outer loop and lengths the next: whatever is there when it stops compares all remedies at some lengths.

The whole grid would take days, so two things are cut. A run ends after 10,000 updates of 32 sequences. And a length is
tried only with seeds that solved the next shorter one, unless --T names it. Adding has T = 750 and copy memory T = 1000
at the longest; the digits have 64 steps.
"""

import argparse
import math
import sys
from pathlib import Path

import torch

from benchmarks.machine import machine
from bptt.errors import InputError
from experiments.reach import report
from experiments.reach.grid import SEEDS, fill, read
from experiments.reach.remedies import REMEDIES
from experiments.reach.tasks import TASKS


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.reach", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run what the file does not have")
    table = commands.add_parser("table", help="print the results as Markdown")
    picture = commands.add_parser("picture", help="draw the results")
    for command in (running, table, picture):
        command.add_argument("results", type=Path, help="a file of lines of JSON")
    picture.add_argument("file", type=Path, help="what to draw into: .svg, .png, .pdf")
    running.add_argument(
        "--minutes", type=float, default=math.inf, help="begin nothing after so many; default: no limit"
    )
    running.add_argument("--threads", type=int, default=1, help="default: 1")
    running.add_argument("--task", nargs="+", choices=TASKS, metavar="TASK", help="these alone")
    lengths = sorted({T for task in TASKS.values() for T in task.lengths})
    running.add_argument("--T", nargs="+", type=int, choices=lengths, help="these alone, whatever shorter ones gave")
    running.add_argument("--remedy", nargs="+", choices=REMEDIES, metavar="REMEDY", help="these alone")
    running.add_argument("--seed", nargs="+", type=int, choices=SEEDS, help="these alone")
    arguments = parser.parse_args(given)
    try:
        if arguments.command == "run":
            _run(arguments)
        elif not (results := read(arguments.results)):
            raise InputError(f"{arguments.results} has no results yet: fill it with `run` first.")
        elif arguments.command == "table":
            print(report.tables(results))
        else:
            report.picture(results, arguments.file)
    except (InputError, OSError) as error:
        sys.exit(f"Error: {error}")


def _run(arguments: argparse.Namespace) -> None:
    if arguments.threads < 1:
        raise InputError(f"--threads wants at least 1; got {arguments.threads}.")
    torch.set_num_threads(arguments.threads)
    only = {field: getattr(arguments, field) for field in ("task", "T", "remedy", "seed")}
    about = {"threads": arguments.threads, "processor": machine()["processor"]}
    for cell, result in fill(arguments.results, only, 60 * arguments.minutes, about):
        end = f"solved after {result.solved:,} updates" if result.solved else f"not solved, {result.wrong:.0%} wrong"
        print(f"{cell.task} T={cell.T} {cell.remedy} seed {cell.seed}: {end}, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
