"""`python -m benchmarks`: every peer at every shape in one run: tables, the bars, one line of JSON per measurement.

A full run takes some twenty minutes on two cores and should have the machine to itself; --quick shows in some minutes
that everything works. --cell lstm,gru measures these in the place of the plain cell: layers, half padding and memory.
Results of a full run are kept under benchmarks/results unless --output says otherwise.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import layers, memory, situations, train_text
from benchmarks.cases import FORMS, LAYERS, QUICK, SMALL_CALLS, Case, Cell
from benchmarks.machine import machine
from benchmarks.measure import BRIEF, FULL, Effort
from benchmarks.others import Others
from benchmarks.report import text
from benchmarks.team import MODULES, OURS, Team

RESULTS = Path(__file__).parent / "results"
IDLE = 0.5


def _case(text: str) -> Case:
    try:
        T, B, I, H = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a case is T,B,I,H, for example 100,32,128,256; got {text!r}") from None
    return Case(T, B, I, H)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few shapes, short measurements")
    parser.add_argument("--cell", default="rnn", help=f"comma-separated, of {', '.join(FORMS)}; default %(default)s")
    parser.add_argument(
        "--case", type=_case, action="append", metavar="T,B,I,H", help="this shape only; may be repeated"
    )
    parser.add_argument("--peers", default=",".join(MODULES), help="comma-separated; default %(default)s")
    parser.add_argument("--threads", default="2,1", help="comma-separated thread counts; default %(default)s")
    parser.add_argument("--seconds", type=float, help="least time for each shape")
    parser.add_argument("--output", type=Path, help="file for the lines of JSON")
    parser.add_argument("--json", action="store_true", help="lines of JSON on standard output instead of tables")
    arguments = parser.parse_args()
    arguments.peers = [OURS, *(peer for peer in arguments.peers.split(",") if peer != OURS)]
    for peer in arguments.peers:
        if peer not in MODULES:
            parser.error(f"peers are {', '.join(MODULES)}; got {peer!r}")
    arguments.cell = arguments.cell.split(",")
    for cell in arguments.cell:
        if cell not in FORMS:
            parser.error(f"cells are {', '.join(FORMS)}; got {cell!r}")
    arguments.threads = [int(count) for count in arguments.threads.split(",")]
    return arguments


def _measure(team: Team, cell: Cell, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    effort = BRIEF if arguments.quick else FULL
    if arguments.seconds is not None:
        effort = Effort(arguments.seconds, effort.fewest, effort.most)
    if arguments.case:
        for case in arguments.case:
            yield from layers.measure(team, case.of(cell), effort)
        return
    few = 1 if arguments.quick else None
    for case in (QUICK if arguments.quick else LAYERS)[cell]:
        yield from layers.measure(team, case, effort)
    for case in situations.PACKED[:few]:
        yield situations.measure_packed(team, case.of(cell), effort)
    for case in memory.CASES[:few]:
        yield memory.measure(case.of(cell))
    if cell != "rnn":
        return
    for case in SMALL_CALLS[:few]:
        for record in layers.measure(team, case, effort, limits=False):
            yield record | {"kind": "small"}
    for case in situations.LOADED[:few]:
        yield situations.measure_loaded(team, case, effort)
    yield train_text.measure(turns=3 if arguments.quick else 15)


def main() -> None:
    arguments = _arguments()
    now = datetime.now(UTC)
    output = arguments.output
    if output is None and not (arguments.quick or arguments.case):
        cells = "" if arguments.cell == ["rnn"] else "-" + "-".join(arguments.cell)
        output = RESULTS / f"{now:%Y-%m-%d}{cells}.jsonl"
    facts, records = machine(), []
    if os.getloadavg()[0] > IDLE:
        print(f"this machine is not idle (load average {os.getloadavg()[0]:.1f}); figures are noise", file=sys.stderr)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    with Team(arguments.peers, arguments.threads) as team, open(output or os.devnull, "w") as lines:
        for peer, reason in team.absent.items():
            print(f"{peer} takes no part: {reason}", file=sys.stderr)
        if OURS in team.absent:
            sys.exit("nothing to compare without ours")
        busy = Others(worker.process.pid for _, _, worker in team)
        measured = ((cell, record) for cell in arguments.cell for record in _measure(team, cell, arguments))
        for cell, record in measured:
            record |= {
                "cell": cell,
                "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "machine": facts,
                "others_cores": None if (others := busy.cores()) is None else round(others, 2),
                "versions": team.versions,
                "absent": team.absent,
            }
            records.append(record)
            line = json.dumps(record, ensure_ascii=False)
            print(line, file=lines, flush=True)
            if arguments.json:
                print(line, flush=True)
            elapsed = (datetime.now(UTC) - now).total_seconds()
            print(f"{elapsed:5.0f} s  {cell} {record['kind']} {record['case']} {record['mode']}", file=sys.stderr)
    if not arguments.json:
        print(text(records))
    if output is not None:
        print(f"lines of JSON: {os.path.relpath(output)}", file=sys.stderr)


if __name__ == "__main__":
    main()
