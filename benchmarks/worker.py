"""A process of one peer with a fixed number of threads, which prepares work, runs it and returns times.

Started by `Worker` as `python -m benchmarks.worker MODULE FD`; they talk over a pair of sockets. A request names a
function of the peer's module and its arguments: the function prepares the work, which is then kept under that request.

A visit is: sleep until the thread pools of whoever ran before have stopped spinning, one call that is not timed (it
wakes this peer's own threads and brings its data into the caches), then the timed calls. The garbage collector of
Python is off during a visit.
"""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

SETTLE_S = 0.01
PATIENCE_S = 300.0

Request = tuple[Any, ...]


class WorkerError(Exception):
    """What a peer said when it could not do something, in one line."""


@dataclass(frozen=True)
class Visit:
    """Seconds of each call, and how many cores were busy on average, spinning included."""

    seconds: list[float]
    cores: float


def environment(threads: int) -> dict[str, str]:
    """What the thread pools of all peers look at when they start. BPTT's, torch's and oneDNN's is OMP_NUM_THREADS."""
    flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1:
        flags += " --xla_cpu_multi_thread_eigen=false"
    sizes = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), str(threads))
    return {**os.environ, **sizes, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}


class Worker:
    """The parent's end."""

    def __init__(self, module: str, threads: int) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", module, str(theirs.fileno())],
            env=environment(threads),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        try:
            self.version: str = self._answer()
        except WorkerError:
            self.close()
            raise

    def prepare(self, request: Request) -> bool:
        """Whether the peer does this at all. Raises WorkerError if it tried and failed."""
        return self._ask("prepare", request)

    def results(self, request: Request) -> dict[str, Any]:
        """What the work computes."""
        return self._ask("results", request)

    def visit(self, request: Request, calls: int) -> Visit:
        return Visit(*self._ask("visit", request, calls))

    def release(self, request: Request) -> None:
        self._ask("release", request)

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait()

    def _ask(self, *message: Any) -> Any:
        try:
            self.connection.send(message)
        except OSError as error:
            raise WorkerError(f"process ended: {error}") from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self.connection.poll(PATIENCE_S):
                raise WorkerError(f"no answer within {PATIENCE_S:.0f} s")
            failure, answer = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerError(f"process ended with code {self.process.wait()}") from None
        if failure:
            raise WorkerError(failure)
        return answer


def serve(module_name: str, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        connection.send((f"{type(error).__name__}: {error}".splitlines()[0], None))
        return
    connection.send((None, module.VERSION))
    prepared: dict[Request, Any] = {}
    while True:
        try:
            verb, request, *rest = connection.recv()
        except EOFError:
            return
        try:
            if verb == "prepare":
                name, *arguments = request
                work = getattr(module, name)(*arguments)
                if work is not None:
                    work.run()
                    prepared[request] = work
                answer: Any = work is not None
            elif verb == "results":
                answer = prepared[request].results()
            elif verb == "visit":
                answer = _visit(prepared[request].run, *rest)
            else:
                answer = prepared.pop(request, None) and None
            connection.send((None, answer))
        except Exception as error:
            connection.send((f"{type(error).__name__}: {error}".splitlines()[0], None))


def _visit(run: Any, calls: int) -> tuple[list[float], float]:
    gc.collect()
    gc.disable()
    time.sleep(SETTLE_S)
    run()
    clock, seconds = time.perf_counter, []
    began, busy = clock(), time.process_time()
    for _ in range(calls):
        start = clock()
        run()
        seconds.append(clock() - start)
    elapsed, busy = clock() - began, time.process_time() - busy
    gc.enable()
    return seconds, busy / elapsed


if __name__ == "__main__":
    serve(sys.argv[1], Connection(int(sys.argv[2])))
