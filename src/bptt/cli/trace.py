"""`bptt trace`: an example worked through."""

import json as json_format
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bptt.cli.derive import resolved
from bptt.errors import InputError
from bptt.lesson import printed, vanishing, worked
from bptt.lesson.data import as_data


def trace(example: str, cell: str, updates: int | None, digits: int, *, json: bool, **settings: Any) -> None:
    """cell: the name of one that is built in, or a path. settings: as for `worked.example`."""
    result = worked.work(worked.example(example, cell=resolved(cell), **settings), updates)
    if json:
        _print_json(as_data(result))
    else:
        printed.render(result, Console(highlight=False), digits)


def side_c(digits: int, refused: Sequence[str], *, json: bool) -> None:
    """`bptt trace vanishing`. refused: the options of other examples that were given."""
    if refused:
        raise InputError(
            f"vanishing has networks of its own, which are not trained; got {', '.join(refused)}. Leave that out; "
            "--digits, --json and --threads go with it."
        )
    if json:
        _print_json(vanishing.as_data())
    else:
        vanishing.render(Console(highlight=False), digits)


def _print_json(data: dict[str, Any]) -> None:
    print(json_format.dumps(data, ensure_ascii=False, allow_nan=False))
