"""The same work over and over, with an eye on what it leaves behind: `make soak`, or `make soak SECONDS=3600`.

    python tests/soak.py [--seconds 600]

Every round trains, evaluates, saves and resumes a run, records a tape, saves and loads it, writes a page, generates
text, and runs an RNN forward and backward on several threads. After a warm-up of a quarter of the time, memory
(resident, after a collection) may grow by 1 % between the second quarter and the last, open files and threads
not at all. Prints what it saw about ten times; exit code 1 where something grew. Needs /proc: Linux.
"""

import argparse
import ctypes
import gc
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import bptt
from bptt import runs
from bptt.tasks import Text, data
from bptt.tasks.text import Recipe
from bptt.train import forcing

GROWTH = 0.01
PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Sample:
    seconds: float
    rounds: int
    memory: int
    files: int
    threads: int
    objects: int


def work(at: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    source = data.read(at / "text.txt")
    run, training = runs.start(
        at / "run", Text(source, Recipe(hidden=32, bptt=16, streams=4, steps=20)), overwrite=True
    )
    training.run(watch=run.watch, save=run.save, should_stop=lambda: training.step >= 10)
    run.close()
    run, training = runs.resume(at / "run")
    training.run(watch=run.watch, save=run.save)
    run.close()
    settings, model = runs.load(at / "run")
    vocabulary = data.Vocabulary.from_json(settings.about["vocabulary"])
    "".join(vocabulary.pieces(forcing.continuation(model, vocabulary.encode("1 is "), 40, seed=rounds)))
    tokens = vocabulary.encode("4 is the square").long()[:, None]
    tape = bptt.record(model, tokens[:-1], tokens[1:])
    tape.check()
    tape.save(at / "a.tape")
    bptt.Tape.load(at / "a.tape").page(at / "page.html")
    torch.set_num_threads(2)
    rnn = bptt.nn.RNN(16, 64, num_layers=2, bidirectional=True)
    with bptt.recording() as tapes:
        rnn(torch.randn(20, 16, 16))[0].sum().backward()
    assert tapes[0].complete


def look(began: float, rounds: int) -> Sample:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    return Sample(time.monotonic() - began, rounds, memory, files, threads, len(gc.get_objects()))


def soak(seconds: float) -> list[str]:
    """What grew."""
    samples: list[Sample] = []
    began, shown = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(prefix="soak-") as at:
        (Path(at) / "text.txt").write_bytes(b"".join(b"%d is the square of %d.\n" % (n * n, n) for n in range(60)))
        for rounds in itertools.count(1):
            work(Path(at), rounds)
            samples.append(look(began, rounds))
            if samples[-1].seconds - shown >= seconds / 10:
                shown = samples[-1].seconds
                print(samples[-1], flush=True)
            if samples[-1].seconds > seconds and rounds >= 12:
                break
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]

    def typical(part: list[Sample], name: str) -> float:
        return median(getattr(sample, name) for sample in part)

    grown = []
    for name, allowed in (("memory", GROWTH), ("objects", GROWTH), ("files", 0.0), ("threads", 0.0)):
        one, other = typical(before, name), typical(after, name)
        print(f"{name}: {one:,.0f} in the second quarter, {other:,.0f} in the last, {100 * (other / one - 1):+.2f} %")
        if other > one * (1 + allowed):
            grown.append(name)
    print(f"{len(samples)} rounds in {samples[-1].seconds:.0f} s")
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    grown = soak(parser.parse_args().seconds)
    if grown:
        sys.exit(f"Grew: {', '.join(grown)}.")
    print("Nothing grew.")


if __name__ == "__main__":
    main()
