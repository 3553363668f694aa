"""Which cells are run, in which order, and their file: a line of JSON for each task, T, remedy and seed."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bptt.errors import InputError
from experiments.reach.remedies import REMEDIES
from experiments.reach.tasks import TASKS
from experiments.reach.training import Result, run

SEEDS = (0, 1, 2)
MOST = 10_000
"""Updates after which a cell counts as not solved."""


@dataclass(frozen=True)
class Cell:
    task: str
    T: int
    remedy: str
    seed: int

    def shorter(self) -> "Cell | None":
        """The same at the next shorter length."""
        lengths = TASKS[self.task].lengths
        at = lengths.index(self.T)
        return Cell(self.task, lengths[at - 1], self.remedy, self.seed) if at else None


Results = dict[Cell, Result]


def cells(only: Mapping[str, list[Any] | None]) -> Iterator[Cell]:
    """Seed by seed, short sequences first, so that a grid that is stopped early compares all remedies at some lengths.

    only  by field of `Cell`, the values that are wanted; None: all
    """
    lengths = sorted({T for task in TASKS.values() for T in task.lengths})
    for seed in SEEDS:
        for T in lengths:
            for task in (name for name, task in TASKS.items() if T in task.lengths):
                for remedy in REMEDIES:
                    cell = Cell(task, T, remedy, seed)
                    if all(wanted is None or getattr(cell, field) in wanted for field, wanted in only.items()):
                        yield cell


def is_hopeless(cell: Cell, results: Results) -> bool:
    """Whether there is a next shorter length, and the same remedy and seed have not solved it."""
    before = cell.shorter()
    return before is not None and (before not in results or results[before].solved is None)


def as_line(cell: Cell, result: Result, about: Mapping[str, Any]) -> str:
    """about  what else the line says, such as the machine"""
    return json.dumps({**asdict(cell), **asdict(result), **about}, ensure_ascii=False)


def read(path: Path) -> Results:
    """The results of a file, {} where there is none yet.

    Raises InputError for a line that is not one of ours.
    """
    results: Results = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], start=1):
        try:
            found = json.loads(line)
            cell = Cell(**{field.name: found[field.name] for field in fields(Cell)})
            results[cell] = Result(**{field.name: found[field.name] for field in fields(Result)})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} wants a result of this experiment on every line; line {number} is {line[:60]!r}. "
                "Take that line out and run again."
            ) from error
    return results


def fill(
    path: Path, only: Mapping[str, list[Any] | None], seconds: float, about: Mapping[str, Any], most: int = MOST
) -> Iterator[tuple[Cell, Result]]:
    """Run what the file does not have, add each result as a line, and yield it; begin no cell after so many seconds.

    A cell whose next shorter one was not solved is left out, unless `only` names its length. The file is read again
    before every cell: others may add to it, best with other tasks or seeds.
    """
    end = time.monotonic() + seconds
    for cell in cells(only):
        results = read(path)
        if cell in results or (only.get("T") is None and is_hopeless(cell, results)):
            continue
        if time.monotonic() >= end:
            return
        result = run(TASKS[cell.task], cell.T, REMEDIES[cell.remedy], cell.seed, most)
        with path.open("a", encoding="utf-8") as file:
            file.write(as_line(cell, result, about) + "\n")
        yield cell, result
