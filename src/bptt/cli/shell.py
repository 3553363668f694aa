"""A command and its shell: how it was called, its options, stdout, signals and exit codes."""

import errno
import os
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import typer
from typer.core import TyperGroup

from bptt.errors import InputError, SettingError, SilentError, WorkerLostError

if TYPE_CHECKING:
    from rich.console import Console


class Commands(TyperGroup):
    """An InputError ends a command with its message and exit code 2, a lost worker with exit code 1. Messages name a
    setting by its option.

    Warnings are lines on stderr. Where stdout refuses to take what is printed, as on a full disk, the command ends with
    a message and exit code 1, or goes on, see `go_on_if_stdout_refuses`. Where the reader of stdout leaves, as `head`
    does, the command ends without error or message.
    """

    def main(self, *args: Any, **settings: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        if sys.stdout is None:
            return super().main(*args, **settings)
        before, code = sys.stdout, None
        sys.stdout = stdout = _Stdout(before)
        try:
            super().main(*args, **settings)
        except SystemExit as end:
            code = end.code
        except _RefusedError:
            pass
        finally:
            sys.stdout = before
        with suppress(_RefusedError):
            stdout.flush()
        if stdout.refusal is not None and stdout.refusal.errno != errno.EPIPE:
            stdout.tell()
            code = code or 1
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            try:
                return super().invoke(ctx)
            except SettingError as error:
                _tell(f"Error: --{error.name.replace('_', '-')} {error.rule}")
                raise typer.Exit(2) from None
            except InputError as error:
                _tell(f"Error: {error}")
                raise typer.Exit(2) from None
            except WorkerLostError as error:
                _tell(f"Error: {error}")
                raise typer.Exit(1) from None
            except SilentError as silent:
                raise typer.Exit(silent.code) from None


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell(f"Warning: {message}")


def _tell(line: str) -> None:
    """Prints a line on stderr; nothing happens where stderr refuses it."""
    with suppress(OSError):
        print(line, file=sys.stderr)


class _RefusedError(Exception):
    """stdout refused to take what was printed."""


class _Stdout:
    """stdout of a command. After the first refusal nothing more is written to it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.refusal, self.goes_on = stream, None, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._watched():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._watched():
            self.stream.flush()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refusal = self.refusal or error
            _discard_output(self.stream)
            if not self.goes_on:
                raise _RefusedError from None

    def tell(self) -> None:
        assert self.refusal is not None
        end = "The command went on to its end and printed no more." if self.goes_on else "The command ended there."
        _tell(
            f"Error: What a command prints must find room; stdout refused it: {self.refusal.strerror}. {end} Make "
            "room, or send it elsewhere."
        )


def _discard_output(stream: Any) -> None:
    """Discards all further output, and what is still in the buffer, so that Python does not try again at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def go_on_if_stdout_refuses() -> None:
    """For a command that does more than print: where stdout refuses, it goes on in silence and says so at its end."""
    if isinstance(sys.stdout, _Stdout):
        sys.stdout.goes_on = True


def as_called() -> str:
    """How to call this program again: "bptt" where the shell finds it, else the path by which it was called."""
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


def path(text: str) -> Path:
    """A path from the command line. An empty one, as of an unset variable, is refused: `Path` takes it for "."."""
    if not text:
        raise typer.BadParameter("A path must not be empty; got ''. The current directory is '.'")
    return Path(text)


def shortened(names: Sequence[str]) -> str:
    """The first six names, and the number of the others."""
    more = len(names) - 6
    return ", ".join(names[:6]) + (f" and {more:,} more" if more > 0 else "")


class Say(Protocol):
    """Prints a line, in a style of rich if one is given."""

    def __call__(self, line: str, style: str | None = None) -> None: ...


def say_on(console: "Console") -> Say:
    def say(line: str, style: str | None = None) -> None:
        console.print(line, style=style, markup=False, soft_wrap=True)

    return say


def was_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


HANGUP: int | None = getattr(signal, "SIGHUP", None)  # Windows has none


def _requests() -> list[int]:
    """SIGTERM and SIGHUP, without those that this process was started to ignore, as nohup does."""
    return [number for number in (signal.SIGTERM, HANGUP) if number and signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Within `with`, the signals call the handler. Yields their handlers from before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield before
    finally:
        for number in before:
            signal.signal(number, before[number])


@contextmanager
def leave_when_asked() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command at once with exit code 0: for the time when there is nothing to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    with _handled(_requests(), leave):
        yield


@contextmanager
def collect_signals(
    received: list[int], then: Callable[[], None] = lambda: None, *, only_once: bool = True
) -> Iterator[None]:
    """Collects SIGINT, SIGTERM and SIGHUP, and calls `then`. A second SIGINT or SIGTERM has its usual effect.

    A SIGHUP after another signal is ignored: kernel and shell both send one when a terminal closes, and systemd sends
    one after its SIGTERM (a busy Python can handle them in the other order).
    only_once=False: a second signal has no effect, for workers that get one from the terminal and one from torchrun.
    """

    def receive(number: int, frame: FrameType | None) -> None:
        if number == HANGUP and received:
            return
        received.append(number)
        if only_once and number != HANGUP:
            for other in before.keys() - {HANGUP}:
                signal.signal(other, before[other])
        then()

    with _handled([signal.SIGINT, *_requests()], receive) as before:
        yield
