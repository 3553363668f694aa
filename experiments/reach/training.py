"""One run: a task of one length, a remedy, a seed."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

import bptt
from bptt.errors import InputError
from experiments.reach.remedies import Layer, Remedy, without_drift
from experiments.reach.tasks import Batch, Task

BATCH, BETWEEN, ROWS, TEST = 32, 100, 1_000, 10_000


class Network(torch.nn.Module):
    """x (T, B, I) -> o (B, O) from the last state, or (T, B, O)."""

    def __init__(self, rnn: Layer, outputs: int, is_last: bool, parts: int = 1) -> None:
        super().__init__()
        self.rnn, self.is_last, self.parts = rnn, is_last, parts
        self.readout = torch.nn.Linear(rnn.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = None, []
        for part in x.split(-(-len(x) // self.parts)):
            output, h = self.rnn(part, h)
            outputs.append(output)
            h = h.detach() if isinstance(h, Tensor) else tuple(state.detach() for state in h)
        return self.readout(outputs[-1][-1] if self.is_last else torch.cat(outputs))


@dataclass
class Result:
    """solved   after how many updates; None: never
    updates     until then, until the loss was not finite, or as many as there may be
    wrong, loss of answers at the end, on 10,000 sequences where it is solved, else 1,000; no loss: not finite
    rate        the factor by which ∂L_t/∂h changes per step back, before training; None: it is not finite
    steps_to_1_percent   after how many steps back less than 1 % of it is left; None: all steps are within reach, or the
                rate is None
    seconds     of training, without what decides
    """

    solved: int | None
    updates: int
    wrong: float
    loss: float | None
    diverged: bool
    rate: float | None
    steps_to_1_percent: int | None
    seconds: float


def run(task: Task, T: int, remedy: Remedy, seed: int, most: int) -> Result:
    torch.manual_seed(seed)
    training, held_out, test = (Generator().manual_seed(3 * seed + part) for part in range(3))
    model = Network(remedy.layer(task.inputs, T), task.outputs, task.is_last, remedy.parts)
    x, y = task.batch(BATCH, T, training)
    if isinstance(model.rnn, bptt.nn.RNN) and model.rnn.init == "identity":
        without_drift(model.rnn, x)
    reach = _reach(model, task, x, y)
    optimizer = torch.optim.Adam(model.parameters(), remedy.lr)
    decides = task.test() if task.test else task.batch(ROWS, T, held_out)
    wrong, loss = judged(model, task, decides)
    seconds, updates, solved, diverged = 0.0, 0, None, False
    while updates < most and solved is None and not diverged:
        begun = time.perf_counter()
        for _ in range(min(BETWEEN, most - updates)):
            diverged = not math.isfinite(step(model, task, remedy, optimizer, task.batch(BATCH, T, training)))
            if diverged:
                break
            updates += 1
        seconds += time.perf_counter() - begun
        wrong, loss = judged(model, task, decides)
        if task.is_solved(wrong, loss) and not task.test:
            wrong, loss = judged_by_many(model, task, T, test)
        if task.is_solved(wrong, loss):
            solved = updates
    return Result(solved, updates, wrong, loss if math.isfinite(loss) else None, diverged, *reach, seconds)


def step(model: Network, task: Task, remedy: Remedy, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One update; the loss before it."""
    x, y = batch
    optimizer.zero_grad()
    if remedy.omega:
        with bptt.recording() as tapes:
            loss = task.loss(model(x), y)
            loss.backward()
        (remedy.omega / len(x) * bptt.losses.omega(tapes[0], model.rnn)).backward()
    else:
        loss = task.loss(model(x), y)
        loss.backward()
    if remedy.clip_value is not None:
        torch.nn.utils.clip_grad_value_(model.parameters(), remedy.clip_value)
    if remedy.clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), remedy.clip)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def judged(model: Network, task: Task, batch: Batch) -> tuple[float, float]:
    """The share of wrong answers, and the loss."""
    o = model(batch[0])
    return float(task.wrong(o, batch[1]).float().mean()), float(task.loss(o, batch[1]))


def judged_by_many(model: Network, task: Task, T: int, test: Generator) -> tuple[float, float]:
    found = [judged(model, task, task.batch(ROWS, T, test)) for _ in range(TEST // ROWS)]
    return sum(wrong for wrong, _ in found) / len(found), sum(loss for _, loss in found) / len(found)


def _reach(model: Network, task: Task, x: Tensor, y: Tensor) -> tuple[float | None, int | None]:
    with bptt.recording() as tapes:
        task.loss(model(x), y).backward()
    model.zero_grad()
    try:
        reach = tapes[-1].reach(origins=32)
    except InputError:  # not finite
        return None, None
    return reach.rate, reach.reached(0.01)


def as_line(task: str, T: int, remedy: str, seed: int, result: Result) -> dict[str, Any]:
    return {"task": task, "T": T, "remedy": remedy, "seed": seed, **asdict(result)}
