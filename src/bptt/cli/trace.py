"""`bptt trace`: an example worked through."""

import json as json_format
from typing import Any

from rich.console import Console

from bptt.cli.derive import resolved
from bptt.lesson import printed, worked
from bptt.lesson.data import as_data


def trace(example: str, cell: str, updates: int | None, digits: int, *, json: bool, **settings: Any) -> None:
    """cell: the name of one that is built in, or a path. settings: as for `worked.example`."""
    result = worked.work(worked.example(example, cell=resolved(cell), **settings), updates)
    if json:
        print(json_format.dumps(as_data(result), ensure_ascii=False, allow_nan=False))
    else:
        printed.render(result, Console(highlight=False), digits)
