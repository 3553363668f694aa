"""What a command has to do with its shell: how it was called, which options were given, signals, exit codes."""

import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import typer
from typer.core import TyperGroup

from bptt.errors import InputError
from bptt.workers import Silent, WorkerLostError


class Commands(TyperGroup):
    """A mistake in what was given ends a command with its message and exit code 2, a lost worker with 1.

    A warning is a line on stderr.
    """

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            try:
                return super().invoke(ctx)
            except InputError as error:
                print(f"Error: {error}", file=sys.stderr)
                raise typer.Exit(2) from None
            except WorkerLostError as error:
                print(f"Error: {error}", file=sys.stderr)
                raise typer.Exit(1) from None
            except Silent as silent:
                raise typer.Exit(silent.code) from None


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"Warning: {message}", file=sys.stderr)


def as_called() -> str:
    """What to type for this program to run again: "bptt" where the shell finds it, else the path it was called by."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(shortest(Path(sys.executable)))} -m bptt"
    on_path = shutil.which(called.name)
    if on_path is not None and Path(on_path).absolute() == called.absolute():
        return called.name
    return shlex.quote(shortest(called))


def shortest(path: Path) -> str:
    inside = path.absolute()
    return str(inside.relative_to(Path.cwd())) if inside.is_relative_to(Path.cwd()) else str(path)


class Say(Protocol):
    """Prints a line, if wanted in a style of rich."""

    def __call__(self, line: str, style: str | None = None) -> None: ...


def was_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def leave_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the command at once with exit code 0: for where there is nothing to save, or nothing left to."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def collect_signals(
    received: list[int], then: Callable[[], None] = lambda: None, *, only_once: bool = True
) -> Iterator[None]:
    """Collects SIGINT and SIGTERM, and calls `then`; the second one acts as if it were not here.

    only_once=False: neither do later ones, for those whom torchrun sends its own beside that of a terminal.
    """

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if only_once:
            restore()
        then()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        restore()
