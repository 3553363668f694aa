"""Writes docs/errors.md from the answers in `tests/mistakes.py`: `python tests/errors_page.py docs/errors.md`."""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import mistakes
import torch

HEAD = """# Every mistake, and what it is answered

{count} things that can be got wrong, given to the package by its tests; this page is what they answered. A command says
what is wrong on stderr and ends with exit code 2; a function raises `InputError`, which is a ValueError, or what torch
raises for the same mistake. None leaves a file behind or touches one. Paths are relative to the working directory,
checksums and places in a header are written as zeros.

`python tests/errors_page.py docs/errors.md` writes this page; `tests/test_mistakes.py` compares.
"""


def page(answers: Iterable[tuple[str, str, str, str, str]]) -> str:
    answers = list(answers)
    parts = [HEAD.format(count=len(answers))]
    for section, entries in itertools.groupby(answers, key=lambda answer: answer[0]):
        parts.append(f"\n## {section}\n\n| given | answered |\n|---|---|\n")
        for _, given, _, kind, message in entries:
            head = "" if kind in ("exit code 2", "InputError") else f"{kind}: "
            parts.append(f"| {_code(given)} | {_cell(head + message.removeprefix('Error: '))} |\n")
    return "".join(parts)


def _code(text: str) -> str:
    text = text.replace("\n", "\\n").replace("x" * 300, "xxx…").encode("utf-8", "backslashreplace").decode()
    return f"`{_bars(text)}`" if "`" not in text else f"`` {_bars(text)} ``"


def _cell(text: str) -> str:
    return _bars(text.replace("x" * 300, "xxx…").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_"))


def _bars(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    target = Path(sys.argv[1]).absolute()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as at:
        os.chdir(at)
        text = page(mistakes.answers())
        os.chdir("/")
    target.write_text(text)


if __name__ == "__main__":
    main()
