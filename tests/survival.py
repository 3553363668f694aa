"""Helpers of the tests of what a training survives: a small run, processes that end or are ended, commands."""

import itertools
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from cases import weights_in

from bptt import cli, runs
from bptt.files import disk, owned
from bptt.tasks.text import Recipe
from bptt.train import Training

SMALL = Recipe(hidden=8, bptt=7, streams=3, steps=40, lr=0.01, held_out=0.1)
CONTENT = "".join(f"{n * n % 97} is the square of {n}.\n" for n in range(30)).encode()
FILES = (runs.CHECKPOINT, runs.PREVIOUS, runs.WEIGHTS, runs.SETTINGS, runs.LOG, owned.RECORD)


def until(training: Training, step: int) -> Callable[[], bool]:
    return lambda: training.step >= step


def finish(path: Path) -> bytes:
    run, training = runs.resume(path)
    training.run(watch=run.watch, save=run.save)
    runs.load(path)
    log = runs.read_log(path)
    assert sum(line.get("steps", 0) for line in log) == training.total_steps
    assert log[0]["event"] == "start"
    return weights_in(path)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != disk.LOCK}


def in_a_child(do: Callable[[], None]) -> int:
    """The exit code of a process that does this and nothing else."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Command:
    """`bptt ...` in a process of its own, forked, which costs nothing to start."""

    def __init__(self, *arguments: object, before: Callable[[], object] = lambda: None) -> None:
        out, self._told = os.pipe()
        errors, path = tempfile.mkstemp()
        os.unlink(path)
        self._errors = os.fdopen(errors, "w+")
        self.out = os.fdopen(out)
        self.process = os.fork()
        if self.process:
            os.close(self._told)
            return
        code: object = 99
        try:
            self.out.close()
            os.dup2(self._told, 1)
            os.dup2(self._errors.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            sys.argv = ["bptt", *map(str, arguments)]
            before()
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 98)

    def signal(self, number: int) -> None:
        os.kill(self.process, number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, what was left on stdout, stderr."""
        with self.out, self._errors:
            out = self.out.read()
            code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            self._errors.seek(0)
            return code, out, self._errors.read()


def undrawn() -> None:
    """No curve, which costs more than all else; warnings are lines on stderr, as outside of pytest."""
    patch.object(runs.Run, "draw", lambda run: run.path).start()
    warnings.resetwarnings()


CALLS = ("fsync", "replace", "unlink")


def crashes(do: Callable[[], None]) -> Iterator[int]:
    """Ends a process at each call in turn with which it touches the disk; yields the number of the call."""
    for last in itertools.count():

        def crash(last: int = last) -> None:
            left = itertools.count(last, -1)
            for name in CALLS:
                real = getattr(os, name)

                def call(*arguments: object, real: Callable = real, **options: object) -> object:
                    if next(left) == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **options)

                setattr(os, name, call)
            do()

        code = in_a_child(crash)
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            return
        yield last
