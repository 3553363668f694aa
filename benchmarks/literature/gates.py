"""Plain networks, GRUs and LSTMs of equal size, with our layers and torch's: `python -m benchmarks.literature.gates`.

    python -m benchmarks.literature.gates chorales PATH/JSB_Chorales.mat
    python -m benchmarks.literature.gates characters PATH/tinyshakespeare.txt
    python -m benchmarks.literature.gates vowels PATH/JapaneseVowels_TRAIN.ts PATH/JapaneseVowels_TEST.ts
    python -m benchmarks.literature.gates series PATH/taylor.csv Y

One loop for all: a recurrent layer, a linear readout, Adam, the norm of the gradient clipped at 1, exact
backpropagation through the whole sequence or, for characters, windows of 64 steps with the state carried on. Units are
chosen so that all cells have about as many weights as the plain one. For each cell the learning rate is the one of
`RATES` with the best validation figure over the seeds, of ours alone. With that rate torch's layer runs the same loop
from the same weights on the same batches; the two take turns, epoch by epoch, in one process. The epoch that is best on
the validation part reads the test part, once.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import bptt
from benchmarks.literature import jsb
from benchmarks.literature.outcome import Lines, mean_and_spread, parser
from benchmarks.report import Table
from bptt.sheet import losses
from bptt.tasks import data
from bptt.tasks import table as tables

CELLS = {"plain": ("RNN", 1), "gru": ("GRU", 3), "lstm": ("LSTM", 4)}
PARTIES: dict[str, Any] = {"bptt": bptt.nn, "torch": torch.nn}
RATES = (1e-3, 3e-3, 1e-2)
WINDOW, STREAMS = 64, 32

Batch = tuple[Any, Tensor]
Batches = Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class Task:
    """training makes the batches (x, y) of an epoch, in an order of its own; validation and test are one batch each.

    loss      of o and y: what is minimised
    figure    of o and y: what is reported
    carries   x begins where the batch before ended
    is_last   the network answers after the last step of each sequence
    """

    name: str
    unit: str
    inputs: int
    outputs: int
    hidden: int
    epochs: int
    training: Batches
    validation: Batch
    test: Batch
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Tensor], float]
    carries: bool = False
    is_last: bool = False


class Network(torch.nn.Module):
    """A recurrent layer and a readout: of every step, or of the last of each sequence."""

    def __init__(self, layer: torch.nn.Module, hidden: int, outputs: int, *, is_last: bool) -> None:
        super().__init__()
        self.layer, self.readout, self.is_last = layer, torch.nn.Linear(hidden, outputs), is_last

    def forward(self, x: Any, state: Any = None) -> tuple[Tensor, Any]:
        y, last = self.layer(x, state)
        if self.is_last:
            return self.readout((last[0] if isinstance(last, tuple) else last)[-1]), last
        return self.readout(y.data if isinstance(y, PackedSequence) else y), last


def weights_of(cell: str, task: Task, hidden: int) -> int:
    gates = CELLS[cell][1]
    return gates * hidden * (task.inputs + hidden + 2) + (hidden + 1) * task.outputs


def units_of(cell: str, task: Task) -> int:
    """So many that the cell has about the weights of the plain one."""
    wanted = weights_of("plain", task, task.hidden)
    return min(range(1, task.hidden + 1), key=lambda hidden: abs(weights_of(cell, task, hidden) - wanted))


@dataclass
class Run:
    """A training of one party, epoch by epoch."""

    model: Network
    optimizer: torch.optim.Optimizer
    seconds: float = 0.0
    best: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def epoch(self, task: Task) -> None:
        begun, state = time.perf_counter(), None
        for x, y in task.training():
            o, last = self.model(x, state)
            if task.carries:
                state = tuple(h.detach() for h in last) if isinstance(last, tuple) else last.detach()
            self.optimizer.zero_grad()
            task.loss(o, y).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        self.seconds += time.perf_counter() - begun
        found = self.read(task, task.validation)
        if not math.isfinite(found):
            raise FloatingPointError(
                f"the validation figure is {found} with rate {self.optimizer.param_groups[0]['lr']}"
            )
        if found < self.best:
            self.best, self.best_weights = found, copy.deepcopy(self.model.state_dict())

    @torch.no_grad()
    def read(self, task: Task, part: Batch) -> float:
        x, y = part
        return task.figure(self.model(x)[0], y)


def runs_of(task: Task, cell: str, parties: list[str], rate: float, seed: int) -> dict[str, Run]:
    """All from the same weights, on the same batches, in turns."""
    name, hidden = CELLS[cell][0], units_of(cell, task)
    torch.manual_seed(seed)
    first = Network(getattr(torch.nn, name)(task.inputs, hidden), hidden, task.outputs, is_last=task.is_last)
    found = {}
    for party in parties:
        layer = getattr(PARTIES[party], name)(task.inputs, hidden)
        model = Network(layer, hidden, task.outputs, is_last=task.is_last)
        model.load_state_dict(first.state_dict())
        found[party] = Run(model, torch.optim.Adam(model.parameters(), rate))
    for epoch in range(task.epochs):
        for run in found.values():
            torch.manual_seed(1000 * seed + epoch)
            run.epoch(task)
    return found


def measure(task: Task, seeds: list[int], lines: Lines) -> Table:
    rows = []
    for cell in CELLS:
        ours = {rate: [runs_of(task, cell, ["bptt"], rate, seed)["bptt"].best for seed in seeds] for rate in RATES}
        rate = min(RATES, key=lambda rate: statistics.mean(ours[rate]))
        test: dict[str, list[float]] = {party: [] for party in PARTIES}
        validation: dict[str, list[float]] = {party: [] for party in PARTIES}
        seconds: dict[str, list[float]] = {party: [] for party in PARTIES}
        for seed in seeds:
            for party, run in runs_of(task, cell, list(PARTIES), rate, seed).items():
                run.model.load_state_dict(run.best_weights)
                validation[party].append(run.best)
                test[party].append(run.read(task, task.test))
                seconds[party].append(run.seconds)
        hidden = units_of(cell, task)
        weights = weights_of(cell, task, hidden)
        lines.append(
            {"of": task.name, "cell": cell, "hidden": hidden, "weights": weights, "rate": rate, "epochs": task.epochs}
            | {"seeds": seeds, "validation": validation, "test": test, "seconds": seconds, "tried": ours}
        )
        ratio = statistics.mean(seconds["torch"]) / statistics.mean(seconds["bptt"])
        for party in PARTIES:
            rows.append([
                cell, party, str(hidden), f"{weights:,}", f"{rate:g}",
                mean_and_spread(validation[party]), mean_and_spread(test[party]), mean_and_spread(seconds[party], 1),
                f"{ratio:.2f}" if party == "bptt" else "",
            ])  # fmt: skip
    head = ["cell", "layer of", "units", "weights", "rate", "validation", "test", "s", "torch's time / ours"]
    return Table(f"{task.name}, {task.unit}, {task.epochs} epochs, seeds {', '.join(map(str, seeds))}", head, rows)


def chorales(path: str) -> Task:
    parts = jsb.load(Path(path))

    def training() -> Iterator[Batch]:
        for chosen in torch.randperm(len(parts["training"])).split(16):
            yield jsb.inputs_and_targets([parts["training"][k] for k in chosen.tolist()])

    return Task(
        "Bach's chorales", "nats per step", jsb.KEYS, jsb.KEYS, 128, 40, training,
        jsb.inputs_and_targets(parts["validation"]), jsb.inputs_and_targets(parts["test"]),
        lambda o, y: losses.loss("binary_cross_entropy", o, y), jsb.negative_log_likelihood,
    )  # fmt: skip


def characters(path: str) -> Task:
    """The last tenth is the test part, the twentieth before it the validation part."""
    text = data.read(path)
    vocabulary = data.Vocabulary.of(text)
    tokens = vocabulary.encode(text).long()
    N, symbols = len(tokens), len(vocabulary)

    def part(first: float, last: float, streams: int) -> tuple[Tensor, Tensor]:
        """One-hot x (T, streams, symbols) and y (T, streams)."""
        own = tokens[round(N * first) : round(N * last)]
        T = (len(own) - 1) // streams
        x, y = (own[at : at + T * streams].view(streams, T).T.contiguous() for at in (0, 1))
        return F.one_hot(x, symbols).float(), y

    x, y = part(0.0, 0.85, STREAMS)

    def training() -> Iterator[Batch]:
        yield from zip(x.split(WINDOW), y.split(WINDOW), strict=True)

    def loss(o: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(o.flatten(0, 1), y.flatten())

    return Task(
        "characters of Shakespeare", "bits per character", symbols, symbols, 192, 3, training,
        part(0.85, 0.9, 8), part(0.9, 1.0, 8), loss, lambda o, y: float(loss(o, y)) / math.log(2), carries=True,
    )  # fmt: skip


def vowels(training_path: str, test_path: str) -> Task:
    """Whoever speaks: nine classes. A quarter of the training file is the validation part."""
    x, labels = _sequences(Path(training_path))
    x_test, labels_test = _sequences(Path(test_path))
    classes = sorted({*labels})
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).tolist()
    cut = len(x) // 4
    every = torch.cat([x[k] for k in order[cut:]])
    mean, sd = every.mean(0), every.std(0)

    def part(rows: list[int], x: list[Tensor], labels: list[str]) -> Batch:
        packed = pack_sequence([(x[k] - mean) / sd for k in rows], enforce_sorted=False)
        return packed, torch.tensor([classes.index(labels[k]) for k in rows])

    def training() -> Iterator[Batch]:
        for chosen in torch.randperm(len(x) - cut).split(16):
            yield part([order[cut + k] for k in chosen.tolist()], x, labels)

    return Task(
        "Japanese vowels", "share of errors", x[0].shape[1], len(classes), 96, 40, training,
        part(order[:cut], x, labels), part([*range(len(x_test))], x_test, labels_test),
        F.cross_entropy, lambda o, y: float((o.argmax(-1) != y).float().mean()), is_last=True,
    )  # fmt: skip


def _sequences(path: Path) -> tuple[list[Tensor], list[str]]:
    """Of a .ts file of the UEA archive: numbers (T_i, I), and labels."""
    if not path.exists():
        sys.exit(f"There is no file {path}; it must be a .ts file of the UEA archive.")
    x, labels = [], []
    for line in path.read_text().splitlines():
        if not line or line[0] in "#@":
            continue
        *columns, label = line.split(":")
        x.append(torch.tensor([[float(cell) for cell in column.split(",")] for column in columns]).T.contiguous())
        labels.append(label.strip())
    return x, labels


def series(path: str, column: str) -> Task:
    """The next value from the 96 before it, in standard deviations of the training part. The last 15 % are the test
    part, the 15 % before them the validation part; each window is a row, and the network answers at its end."""
    values = torch.tensor(tables.read(path).numbers(column), dtype=torch.float32)
    cuts = [round(len(values) * share) for share in (0.7, 0.85, 1.0)]
    values = (values - values[: cuts[0]].mean()) / values[: cuts[0]].std()
    length = 96

    def part(first: int, last: int) -> Batch:
        """Of the steps that are forecast, each from the values before it."""
        ends = torch.arange(max(first, length), last)
        x = torch.stack([values[end - length : end] for end in ends.tolist()], 1)[..., None]
        return x, values[ends][:, None] - x[-1]

    x, y = part(0, cuts[0])

    def training() -> Iterator[Batch]:
        for chosen in torch.randperm(len(y)).split(64):
            yield x[:, chosen], y[chosen]

    return Task(
        f"series {Path(path).name}", "root mean square error", 1, 1, 64, 15, training,
        part(cuts[0], cuts[1]), part(cuts[1], cuts[2]),
        F.mse_loss, lambda o, y: float(F.mse_loss(o, y).sqrt()), is_last=True,
    )  # fmt: skip


TASKS: dict[str, Callable[..., Task]] = {
    "chorales": chorales,
    "characters": characters,
    "vowels": vowels,
    "series": series,
}


def main() -> None:
    options = parser("gates", __doc__)
    options.add_argument("task", choices=TASKS)
    options.add_argument("given", nargs="+", metavar="FILE", help="files; for a series its column too")
    options.add_argument("--epochs", type=int, help="in the place of the task's own")
    arguments: argparse.Namespace = options.parse_args()
    make = TASKS[arguments.task]
    if len(arguments.given) != len(wanted := signature(make).parameters):
        options.error(f"{arguments.task} takes {' and '.join(wanted)}; got {' '.join(arguments.given)}")
    task = make(*arguments.given)
    if arguments.epochs:
        task = Task(**{**vars(task), "epochs": arguments.epochs})
    lines = Lines("gates", arguments.output)
    lines.show(measure(task, arguments.seeds, lines))


if __name__ == "__main__":
    main()
