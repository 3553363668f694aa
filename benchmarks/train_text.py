"""End to end: tokens per second of the loop behind `bptt train`, with bptt.nn.RNN and with torch.nn.RNN in its place.

`python -m benchmarks.train_text` prints one line of JSON. Model, text and recipe are those of `bptt train` without
arguments: 256 hidden units, windows of 64 steps of 32 streams, Adam, clipping, the English text in every CPython. Both
trainings run `bptt.train.Training`, start from the same weights, must agree in their loss (the gate), and take turns of
`TURN` steps in one process; a figure is the median over turns. torch.nn.RNN takes no tokens, so it is given their
one-hot vectors, which is what it means to read characters with it; an embedding would be another model.

How the time divides: in further turns of ours under torch.profiler, every function of the engine carries a label.
Inside are these functions and torch's own matrix products (of the output layer, say); outside is all other time of the
loop: loss, clipping, optimiser, autograd, Python. The profiler's own cost falls outside, so the share outside is an
upper bound; `profiled_slowdown` says how much slower the profiled turns were.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.engine import choose
from bptt.nn import Elman
from bptt.tasks import Text, data
from bptt.train import Event, Steps, Training

TURN = 20
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
LABEL = "benchmarks: engine"
AGREEMENT = 1e-4


class OneHotRNN(torch.nn.Module):
    """torch.nn.RNN over tokens."""

    def __init__(self, symbols: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.rnn = torch.nn.RNN(symbols, hidden, layers)

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.rnn(F.one_hot(x, self.rnn.input_size).to(torch.float32), h0)


def measure(turns: int) -> dict[str, Any]:
    """A record for the report, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_text", "--turns", str(turns)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        failure = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"kind": "text", "case": "64,32,–,256", "threads": 2, "mode": "train", "peers": {}, "failed": failure}
    return json.loads(done.stdout)


def _trainings() -> dict[str, Training]:
    task = Text(data.english(), Text.Recipe(steps=1_000_000, held_out=0.0))
    symbols, hidden = len(task.vocabulary), task.recipe.hidden
    torch.manual_seed(0)
    ours, theirs = Elman(symbols, hidden, symbols), Elman(symbols, hidden, symbols)
    theirs.readout.load_state_dict(ours.readout.state_dict())
    one_hot = OneHotRNN(symbols, hidden)
    one_hot.rnn.load_state_dict(ours.rnn.state_dict())
    theirs.add_module("rnn", one_hot)
    return {"bptt": Training(ours, task), "torch": Training(theirs, task)}


def _turn(training: Training, steps: int = TURN) -> tuple[float, float]:
    """Tokens per second, and the mean loss of the last steps."""
    end, losses = training.step + steps, []

    def watch(event: Event) -> None:
        if isinstance(event, Steps):
            losses.append(event.loss)

    characters, start = training.items, time.perf_counter()
    training.run(watch=watch, should_stop=lambda: training.step >= end)
    return (training.items - characters) / (time.perf_counter() - start), losses[-1]


def _label_engine() -> None:
    """From now on the profiler knows the engine's functions. None of them calls another, so nothing counts twice."""
    engine = choose("cpu", torch.float32).engine
    for name, value in list(vars(engine).items()):
        if callable(value) and name.startswith(("forward_", "backward_")):
            setattr(engine, name, _labelled(value))


def _labelled(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        with torch.profiler.record_function(LABEL):
            return function(*arguments, **options)

    return wrapper


def _share_outside(training: Training) -> tuple[float, float]:
    """The share of time outside engine and products, and the tokens per second while it was measured."""
    _turn(training, 5)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        start = time.perf_counter()
        speed, _ = _turn(training)
        elapsed = time.perf_counter() - start
    inside = 0.0
    for event in profile.key_averages():
        if event.key == LABEL:
            inside += event.cpu_time_total
        elif event.key in PRODUCTS:
            inside += event.self_cpu_time_total
    return 1 - inside * 1e-6 / elapsed, speed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_text", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--turns", type=int, default=15, help=f"turns of {TURN} steps for each of the two")
    arguments = parser.parse_args()
    trainings = _trainings()
    losses = {name: _turn(training, 10)[1] for name, training in trainings.items()}
    if abs(losses["bptt"] / losses["torch"] - 1) > AGREEMENT:
        sys.exit(f"the two trainings disagree after 10 steps: {losses}")
    speeds: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(arguments.turns):
        for name, training in trainings.items():
            speeds[name].append(_turn(training)[0])
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    _label_engine()
    outside, profiled = zip(*(_share_outside(trainings["bptt"]) for _ in range(3)), strict=True)
    model = trainings["bptt"].model
    record = {
        "kind": "text",
        "case": f"64,32,{model.rnn.input_size},{model.rnn.hidden_size}",
        "mode": "train",
        "threads": torch.get_num_threads(),
        "peers": {name: {"tokens_per_second": round(median)} for name, median in medians.items()},
        "ratio": {"torch": round(medians["bptt"] / medians["torch"], 3)},
        "outside": round(statistics.median(outside), 3),
        "profiled_slowdown": round(medians["bptt"] / statistics.median(profiled), 3),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
