"""`bptt trace`: an example worked through."""

import json as json_format
from typing import Any

from rich.console import Console

from bptt.lesson import printed, worked


def trace(example: str, updates: int | None, digits: int, *, json: bool, **settings: Any) -> None:
    """settings: as for `worked.example`."""
    result = worked.work(worked.example(example, **settings), updates)
    if json:
        print(json_format.dumps(worked.as_data(result), ensure_ascii=False, allow_nan=False))
    else:
        printed.render(result, Console(highlight=False), digits)
