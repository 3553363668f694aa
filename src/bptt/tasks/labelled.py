"""Labelled sequences: the network reads a sequence to its end, then classifies it (many to one).

A table in long format has a row for every step. One column names the sequence of the row, one its label, and the others
are the inputs. Sequences may differ in length. They are divided class by class into three parts: the network learns
from the first, the second decides which weights are best, and the third is read once.

Source of the network: Goodfellow et al. (2016), figure 10.5.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from bptt import train
from bptt.autograd.readout import Readout
from bptt.errors import InputError
from bptt.nn.layers import Layers
from bptt.nn.network import width_of_output
from bptt.tasks import network, table, timeline
from bptt.tasks.table import Table
from bptt.train import Measure, Order, shuffled


@dataclass(frozen=True)
class Recipe(network.Recipe):
    """Everything that decides a training besides the table.

    bidirectional       read from both ends
    batch               sequences in a batch
    balanced            the rarer a class, the larger the weight of its loss
    validation, test    shares of each class: to choose the best weights, and to read once at the end
    split               the seed that draws the parts; trainings with other seeds are evaluated on the same parts
    """

    epochs: int = 60
    cell: str = "gru"
    hidden: int = 64
    bidirectional: bool = False
    batch: int = 16
    balanced: bool = False
    validation: float = 0.15
    test: float = 0.2
    split: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "batch"):
            train.require_whole(name, getattr(self, name))
        for name in ("validation", "test"):
            train.require_share(name, getattr(self, name))
        if self.validation + self.test >= 1:
            raise InputError(
                f"validation and test together must leave something to learn from; got {self.validation:g} and "
                f"{self.test:g} of all sequences."
            )
        if self.patience is not None and self.validation == 0:
            raise InputError("patience waits for the validation part to improve, and validation is 0; give only one.")
        train.require_whole("split", self.split, least=0)


class Roles(NamedTuple):
    """Columns by their role. `time` orders the steps of a sequence; None: the rows are in order."""

    label: str
    sequence: str
    time: str | None
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Sequences:
    """x (T_i, I) of each sequence, float64, NaN where a cell is missing; its name; its label, or None."""

    names: list[str]
    x: list[np.ndarray]
    labels: list[str | None]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def steps(self) -> int:
        return sum(map(len, self.x))

    @property
    def missing(self) -> int:
        """The number of missing cells."""
        return int(sum(np.isnan(x).sum() for x in self.x))


class Classifier(torch.nn.Module):
    """Recurrent layers with one output, computed from what the top one hands on last, in each direction.

    x is a packed batch of sequences with I numbers a step. Returns o (B, classes).
    """

    def __init__(self, rnn: Layers, classes: int) -> None:
        super().__init__()
        self.rnn = rnn
        self.readout = Readout(width_of_output(rnn), classes)

    def forward(self, x: PackedSequence) -> Tensor:
        h, _ = self.rnn(x)
        rows = torch.arange(int(h.batch_sizes[0]))
        lengths = (h.batch_sizes[:, None] > rows).sum(0)
        ends = (h.batch_sizes.cumsum(0) - h.batch_sizes)[lengths - 1] + rows
        last = h.data.index_select(0, ends)
        if self.rnn.bidirectional:
            forward, _ = last.chunk(2, -1)
            _, backward = h.data[: len(rows)].chunk(2, -1)
            last = torch.cat((forward, backward), -1)
        return self.readout(last if h.unsorted_indices is None else last.index_select(0, h.unsorted_indices))


class Labelled:
    """The task: a table of labelled sequences, and the recipe. See `bptt.train.Task`."""

    name: ClassVar[str] = "labelled"
    Recipe = Recipe
    items = "sequences"
    measure = Measure("cross entropy", "cross entropy", "cross_entropy")
    state = None
    evaluates_at_start = False

    def __init__(
        self,
        source: Table,
        recipe: Recipe,
        roles: Roles,
        test: Table | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        """test: a separate table for the test part. known: `about` of the run that is resumed.

        Raises InputError where columns do not exist or have unusable cells, a sequence has two labels, or a class has
        too few sequences for every part.
        """
        self.recipe, self.roles = recipe, roles
        self.rank, self.workers = 0, 1
        self.source, self.sha256 = source.source, source.sha256
        self.test_source, self.test_sha256 = (None, None) if test is None else (test.source, test.sha256)
        if self.test_sha256 == self.sha256:
            raise InputError(
                f"The test part must hold other sequences than those learnt from; {self.test_source} and {self.source} "
                "are the same. Leave --test-file out to keep a share of the sequences for the test."
            )
        if known is not None and known["test_sha256"] != self.test_sha256:
            raise InputError(
                f"A resumed training needs the test part it began with; {self.test_source} has changed. Restore it, or "
                "start a new run in another directory with -o."
            )
        found = sequences(source, roles)
        self.size = len(found)
        self.all = found
        labels = [_required(label) for label in found.labels]
        self.classes = sorted(set(labels), key=_naturally)
        if known is not None:
            if strange := sorted(set(labels) - set(known["classes"])):
                raise InputError(
                    f"The labels must be those the training began with, {', '.join(known['classes'])}; {source.source} "
                    f"has {strange[0]!r}."
                )
            self.classes = list(known["classes"])
        if len(self.classes) < 2:
            raise InputError(
                f"There must be two labels or more to tell apart; column {roles.label!r} of {source.source} has only "
                f"{self.classes[0]!r}. Name another column with --label."
            )
        numbers = [self.classes.index(label) for label in labels]
        learning, validating, testing = parts(
            numbers, self.classes, recipe.validation, recipe.test if test is None else 0.0, recipe.split
        )
        steps = np.concatenate([found.x[n] for n in learning])
        if known is None:
            self.mean, self.sd = scale(steps)
        else:
            self.mean, self.sd = np.array(known["mean"]), np.array(known["sd"])
        self.learning = self._batch_of(found, numbers, learning)
        self.order = Order(len(learning), recipe.seed)
        self.validating = self._batch_of(found, numbers, validating)
        if test is None:
            self.testing = self._batch_of(found, numbers, testing)
        else:
            apart = sequences(test, roles)
            for label in sorted({_required(label) for label in apart.labels} - set(self.classes)):
                raise InputError(
                    f"The test part may hold no labels that the network was never shown; {test.source} has {label!r}, "
                    f"and {source.source} has {', '.join(self.classes)}."
                )
            self.testing = self._batch_of(
                apart, [self.classes.index(_required(label)) for label in apart.labels], range(len(apart))
            )
        counts = np.bincount([y for _, y in self.learning], minlength=len(self.classes))
        self.weights = torch.tensor(counts.sum() / len(counts) / counts, dtype=torch.float32)

    def _batch_of(self, found: Sequences, numbers: list[int], chosen: Sequence[int]) -> list[tuple[Tensor, int]]:
        return [(scaled(found.x[n], self.mean, self.sd), numbers[n]) for n in chosen]

    @classmethod
    def again(cls, about: Mapping[str, Any], recipe: Recipe, source: str) -> "Labelled":
        test = about["test_source"]
        return cls(table.read(source), recipe, roles_of(about), test and table.read(test), about)

    def about(self) -> dict[str, Any]:
        return {
            "label": self.roles.label,
            "sequence": self.roles.sequence,
            "time": self.roles.time,
            "inputs": list(self.roles.inputs),
            "classes": self.classes,
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "test_source": self.test_source,
            "test_sha256": self.test_sha256,
        }

    @staticmethod
    def network(about: Mapping[str, Any], recipe: Recipe) -> Classifier:
        layers = recipe.recurrent_layers(len(about["inputs"]), bidirectional=recipe.bidirectional)
        return Classifier(layers, len(about["classes"]))

    def prepare(self, model: Classifier) -> None:
        pass

    def __len__(self) -> int:
        return -(-len(self.learning) // self.recipe.batch)

    def loss(self, model: Classifier, step: int, h: Tensor | None) -> tuple[Tensor, None, int]:
        epoch, place = divmod(step, len(self))
        chosen = self.order.of(epoch)[place * self.recipe.batch : (place + 1) * self.recipe.batch]
        own = chosen[self.rank :: self.workers]
        if not own:
            return torch.zeros(()), None, 0
        x, y = batch([self.learning[n] for n in own])
        loss = F.cross_entropy(model(x), y, self.weights if self.recipe.balanced else None)
        if self.workers > 1:
            loss = loss * (self._weight(own) / self._weight(chosen))
        return loss, None, len(y)

    def _weight(self, chosen: Sequence[int]) -> float:
        """The divisor of the mean over these sequences."""
        return float(sum(self.weights[self.learning[n][1]] for n in chosen)) if self.recipe.balanced else len(chosen)

    def shard(self, rank: int, workers: int) -> "Labelled":
        part = copy.copy(self)
        part.rank, part.workers = rank, workers
        return part

    def evaluate(self, model: Classifier) -> float | None:
        if not self.validating:
            return None
        o, y = outputs(model, self.validating)
        return float(F.cross_entropy(o, y, self.weights if self.recipe.balanced else None))


def roles(
    source: Table, label: str, sequence: str, time: str | None = None, inputs: Sequence[str] | None = None
) -> Roles:
    """The roles of the columns of a table.

    time        orders the steps; `timeline.ROWS`: the rows are in order; None: the column that looks like times, if any
    inputs      None: all other columns

    Raises InputError for a column given twice, where no input is left, and for a column that looks like times and
    cannot order the steps.
    """
    given = [label, sequence, *([time] if time not in (None, timeline.ROWS) else []), *(inputs or ())]
    for name in given:
        source.column(name)
        if name in (label, sequence, time) and given.count(name) > 1:
            raise InputError(f"A column is input, label, sequence or time; {name!r} was given as two of them.")
    if time is None:
        time = timeline.ordering(source, _rows_of(source, sequence), taken=given)
    elif time == timeline.ROWS:
        time = None
    if inputs is None:
        inputs = [name for name in source.columns if name not in (label, sequence, time)]
    if not inputs:
        beside = " and ".join(map(repr, (label, sequence) if time is None else (label, sequence, time)))
        raise InputError(f"There must be something to read besides {beside}; {source.source} has no other column.")
    return Roles(label, sequence, time, tuple(inputs))


def roles_of(about: Mapping[str, Any]) -> Roles:
    return Roles(about["label"], about["sequence"], about["time"], tuple(about["inputs"]))


def sequences(source: Table, roles: Roles, *, labelled: bool = True) -> Sequences:
    """The sequences of a table in the order of their first rows. labelled=False: labels may be missing.

    Raises InputError for columns that do not exist, cells that are no numbers, sequences with two labels or none, and
    steps with the same time.
    """
    rows_of, label = _rows_of(source, roles.sequence), None
    if labelled or roles.label in source.columns:
        label = source.texts(roles.label)
    values = np.stack([source.numbers(name) for name in roles.inputs], 1)
    if roles.time is not None:
        rows_of = dict(zip(rows_of, timeline.in_order(source, roles.time, rows_of), strict=True))
    labels: list[str | None] = []
    for name, rows in rows_of.items():
        found = [] if label is None else list(dict.fromkeys(label[row] for row in rows))
        if len(found) > 1:
            other = next(row for row in rows if label and label[row] != found[0])
            raise InputError(
                f"A sequence must have one label; {name!r} has {found[0]!r} in {source.place(rows[0])} of "
                f"{source.source} and {found[1]!r} in {source.place(other)}. A label at every step is another task."
            )
        if labelled and found == [None]:
            raise InputError(
                f"Every sequence to learn from must have a label; {name!r}, which begins in {source.place(rows[0])} of "
                f"{source.source}, has nothing in column {roles.label!r}. Take it out, or label it."
            )
        labels.append(found[0] if found else None)
    return Sequences(list(rows_of), [values[rows] for rows in rows_of.values()], labels)


def _rows_of(source: Table, sequence: str) -> dict[str, list[int]]:
    """The rows of each sequence, in the order of the table."""
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(source.texts(sequence)):
        if name is None:
            raise InputError(
                f"Every row must say which sequence it belongs to; {source.place(row)} of {source.source} has nothing "
                f"in column {sequence!r}."
            )
        rows_of.setdefault(name, []).append(row)
    return rows_of


def parts(
    numbers: Sequence[int], classes: Sequence[str], validation: float, test: float, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """The sequences of the training, validation and test part, drawn class by class, in the order of the table.

    Raises InputError for a class with too few sequences to have one in every part.
    """
    learning, validating, testing = [], [], []
    for number, name in enumerate(classes):
        own = [n for n, found in enumerate(numbers) if found == number]
        drawn = [own[k] for k in shuffled(len(own), seed, number)]
        for_test = max(1, round(test * len(own))) if test else 0
        for_validation = max(1, round(validation * len(own))) if validation else 0
        if len(own) <= for_test + for_validation:
            raise InputError(
                f"Every label needs a sequence in each of the parts; {name!r} has {len(own)}, and learning, "
                f"validation ({validation:g}) and test ({test:g}) want at least {for_test + for_validation + 1}. Give "
                "more sequences, take the label out, or make do without a part: --validation 0, --test 0."
            )
        testing += drawn[:for_test]
        validating += drawn[for_test : for_test + for_validation]
        learning += drawn[for_test + for_validation :]
    return sorted(learning), sorted(validating), sorted(testing)


def scale(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every input over the steps (N, I), without missing cells; sd 1 for a constant."""
    steps = np.where(np.isnan(steps).all(0, keepdims=True), 0.0, steps)
    mean, sd = np.nanmean(steps, 0), np.nanstd(steps, 0)
    return mean, np.where(sd > 1e-14 * np.abs(mean), sd, 1.0)


def scaled(x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> Tensor:
    """The inputs of the network, scaled by mean and deviation of the training part; 0 where a cell is missing."""
    return torch.from_numpy(np.nan_to_num((x - mean) / sd).astype(np.float32))


def batch(pairs: Sequence[tuple[Tensor, int]]) -> tuple[PackedSequence, Tensor]:
    return pack_sequence([x for x, _ in pairs], enforce_sorted=False), torch.tensor([y for _, y in pairs])


@torch.no_grad()
def outputs(model: Classifier, pairs: Sequence[tuple[Tensor, int]], at_once: int = 256) -> tuple[Tensor, Tensor]:
    """o (N, classes) of all sequences and their classes (N,)."""
    was_training = model.training
    model.eval()
    found = []
    for start in range(0, len(pairs), at_once):
        x, _ = batch(pairs[start : start + at_once])
        found.append(model(x))
    model.train(was_training)
    return torch.cat(found), torch.tensor([y for _, y in pairs])


def confusion(o: Tensor, y: Tensor) -> np.ndarray:
    """The confusion matrix (classes, classes): rows are the true classes, columns the predicted ones."""
    classes = o.shape[-1]
    return np.bincount((y * classes + o.argmax(-1)).numpy(), minlength=classes**2).reshape(classes, classes)


def _required(label: str | None) -> str:
    assert label is not None
    return label


def _naturally(label: str) -> tuple[int, float, str]:
    """A key that sorts numbers by their size, before words."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)
