"""Labelled sequences: the network reads a sequence to its end, then classifies it (many to one).

A table in long format has a row for every step. One column names the sequence of the row, one its label, and the others
are the inputs; those of text are read as categories (`coding`). A table may also have a row for each sequence (`wide`).
Sequences may differ in length. They are divided class by class into three parts: the network learns from the first, the
second decides which weights are best, and the third is read once.

Source of the network: Goodfellow et al. (2016), figure 10.5.
"""

import copy
import hashlib
import math
from collections import Counter
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
from bptt.tasks import coding, network, table, timeline, wide
from bptt.tasks.coding import Coding
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
    """Columns by their role.

    sequence   names the sequence of a row; None: every row is one
    time       orders the steps of a sequence; None: they are in order
    inputs     the columns of a long table; of a table with a row for each sequence, the words its columns begin with
    codings    how the columns of a long table become numbers; (): all hold numbers
    steps      None: a long table. Otherwise every row is a sequence, and these columns are its steps; (): those whose
               names are one of the inputs and a number
    """

    label: str
    sequence: str | None
    time: str | None
    inputs: tuple[str, ...]
    codings: tuple[Coding, ...] = ()
    steps: tuple[str, ...] | None = None


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

        `shared` is the number of sequences in the test part with the values of one in the other parts.

        Raises InputError where columns do not exist or have unusable cells, a sequence has two labels, a class has too
        few sequences for every part, or the separate table has no sequences of its own.
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
        self.steps = None if roles.steps is None else steps_of(source, roles)
        read = coding.numeric(roles.codings) if roles.codings else roles.inputs
        if self.steps is not None:
            read = [name for names in self.steps.values() for name in names]
        self.dialect, self.assumed = source.dialect, source.assumed(read)
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
        taught = set(map(_values, (*self.learning, *self.validating)))
        self.shared = sum(_values(pair) in taught for pair in self.testing)
        if test is not None and self.shared == len(self.testing):
            raise InputError(
                f"The test part must hold other sequences than those learnt from; all {self.shared:,} of {test.source} "
                f"are also in {source.source}. Leave --test-file out to keep a share of the sequences for the test."
            )
        counts = np.bincount([y for _, y in self.learning], minlength=len(self.classes))
        self.weights = torch.tensor(counts.sum() / len(counts) / counts, dtype=torch.float32)

    def _batch_of(self, found: Sequences, numbers: list[int], chosen: Sequence[int]) -> list[tuple[Tensor, int]]:
        return [(scaled(found.x[n], self.mean, self.sd), numbers[n]) for n in chosen]

    @classmethod
    def again(cls, about: Mapping[str, Any], recipe: Recipe, source: str) -> "Labelled":
        test, written = about["test_source"], table.Dialect.of(about)
        return cls(table.read(source, written), recipe, roles_of(about), test and table.read(test, written), about)

    def about(self) -> dict[str, Any]:
        return {
            "label": self.roles.label,
            "sequence": self.roles.sequence,
            "time": self.roles.time,
            "inputs": list(self.roles.inputs),
            "codings": self.roles.codings,
            "steps": self.roles.steps,
            "classes": self.classes,
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "test_source": self.test_source,
            "test_sha256": self.test_sha256,
            **self.dialect.said(),
        }

    @staticmethod
    def network(about: Mapping[str, Any], recipe: Recipe) -> Classifier:
        layers = recipe.recurrent_layers(len(about["mean"]), bidirectional=recipe.bidirectional)
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
    source: Table, label: str, sequence: str | None, time: str | None = None, inputs: Sequence[str] | None = None
) -> Roles:
    """The roles of the columns of a table.

    sequence    None: every row is a sequence, and its columns are the steps; so they are too where every sequence has
                one row and the names of the columns count
    time        orders the steps; `timeline.ROWS`: the rows are in order; None: the column that looks like times, if any
    inputs      "first..last" names all columns from the one to the other; None: all other columns

    Raises InputError for a column given twice, where no input is left, for a column that looks like times and cannot
    order the steps, for text that is no category, and where it is not certain that the columns are steps.
    """
    inputs = None if inputs is None else wide.expanded(source, inputs)
    taken = [name for name in (label, sequence) if name is not None]
    given = taken if time in (None, timeline.ROWS) else [*taken, time]
    for name in given:
        source.column(name)
    given = [*given, *(inputs or ())]
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        raise InputError(f"A column is input, label, sequence or time, and once; {twice[0]!r} was given twice.")
    if sequence is None and time not in (None, timeline.ROWS):
        raise InputError(
            f"The time orders the rows of a sequence, and without --sequence every row is one; got --time {time}. Say "
            f"which column tells the sequence of a row, --sequence NAME, one of {source.listed()}; or leave --time out."
        )
    rows_of = _rows_of(source, sequence)
    one_each = len(rows_of) == len(source) and time in (None, timeline.ROWS)
    if one_each and (found := _in_rows(source, label, sequence, inputs)):
        return found
    if time is None:
        time = timeline.ordering(source, rows_of, taken=given)
    elif time == timeline.ROWS:
        time = None
    if inputs is None:
        inputs = [name for name in source.columns if name not in (*taken, time)]
    if not inputs:
        beside = " and ".join(map(repr, taken if time is None else [*taken, time]))
        raise InputError(f"There must be something to read besides {beside}; {source.source} has no other column.")
    found = coding.codings(source, inputs)
    codings = tuple(found) if any(categories for _, categories in found) else ()
    return Roles(label, sequence, time, tuple(inputs), codings)


def _in_rows(source: Table, label: str, sequence: str | None, inputs: Sequence[str] | None) -> Roles | None:
    """The roles where every row is a sequence. None, if --sequence was given: its columns are inputs, of one step."""
    free = [name for name in source.columns if name not in (label, sequence)]
    steps, others = wide.by_name(free if inputs is None else inputs)
    found, longest = wide.counted(steps), max(steps.values(), key=len, default=[])
    if sequence is not None and (others or found is None) and (inputs is not None or len(longest) < 3):
        return None
    if inputs is not None and sequence is None:
        found, others = wide.asked(inputs), []
    read = dict.fromkeys(free if inputs is None else inputs)
    rest, reason = [name for name in free if name not in read], None
    ends = (longest[0], longest[-1]) if len(longest) > 1 else ("FIRST", "LAST")
    fix = f"say which columns are its steps: --inputs {'..'.join(ends)}"
    if not read:
        reason = "has no other column"
    elif others:
        reason = f"has {'also ' if steps else ''}{_listed(others)}"
    elif found is None:
        many = [f"{len(names):,} called {word!r}" for word, names in steps.items()]
        reason = f"has {', '.join(many)}, which are not numbered evenly, forwards and alike"
    elif min(map(len, found.values())) < 2:
        reason = f"has one step, {_listed(list(read))}"
    elif sequence is None:
        first = [] if inputs else [name for columns in found.values() for name in columns][: wide.FIRST]
        if (suspect := wide.looks_long(source, label, rest, first)) is not None:
            reason = f"has {suspect!r}, which looks like the sequence or the step of a row"
            fix = f"take {suspect!r} out of the table" if suspect in rest else fix
    if reason is None and found is not None:
        return Roles(label, sequence, None, tuple(found), (), () if inputs is None else tuple(inputs))
    head, ask = "With one row for each sequence,", ""
    if sequence is None:
        head = "Without --sequence every row is a sequence, and"
        ask = f" If a column says which sequence a row belongs to: --sequence NAME, one of {source.listed()}."
    raise InputError(
        f"{head} its columns are the steps, called by a word and a number as in v1, v2, v3, or by dates; "
        f"{source.source} {reason}.{ask} If every row is a sequence, {fix}"
    )


def roles_of(about: Mapping[str, Any]) -> Roles:
    """The roles in `about`; those of earlier versions have no codings, and only long tables."""
    steps = about.get("steps")
    return Roles(
        about["label"],
        about["sequence"],
        about["time"],
        tuple(about["inputs"]),
        tuple(coding.from_json(about.get("codings", ()))),
        None if steps is None else tuple(steps),
    )


def steps_of(source: Table, roles: Roles) -> wide.Steps:
    """The columns of each input of a table with a row for each sequence, in the order of the steps.

    Raises InputError where the table does not have them as the roles say.
    """
    if roles.steps:
        found = wide.asked(wide.expanded(source, roles.steps))
        assert found is not None
        return found
    steps, _ = wide.by_name([name for name in source.columns if name not in (roles.label, roles.sequence)])
    found = wide.counted({name: steps.get(name, []) for name in roles.inputs})
    if found is None:
        raise InputError(
            f"The steps of {_listed(roles.inputs)} must be columns called so and numbered evenly, as in the table "
            f"trained on; {source.source} has {source.listed()}. Name a table with these columns."
        )
    return found


def sequences(source: Table, roles: Roles, *, labelled: bool = True) -> Sequences:
    """The sequences of a table in the order of their first rows. labelled=False: labels may be missing.

    Raises InputError for columns that do not exist, cells that are no numbers or categories, sequences with two labels
    or none, and steps with the same time.
    """
    rows_of, label = _rows_of(source, roles.sequence), None
    if labelled or roles.label in source.columns:
        label = source.texts(roles.label)
    if roles.steps is not None:
        if double := next((rows for rows in rows_of.values() if len(rows) > 1), None):
            raise InputError(
                f"Every sequence must have one row, as in the table trained on; {source.source} has two of the same "
                f"name in {source.place(double[0])} and {source.place(double[1])}. Give each a name of its own."
            )
        x = wide.values(source, steps_of(source, roles))
    else:
        values = coding.coded(source, roles.codings or [Coding(name, None) for name in roles.inputs])
        if roles.time is not None:
            rows_of = dict(zip(rows_of, timeline.in_order(source, roles.time, rows_of), strict=True))
        x = [values[rows] for rows in rows_of.values()]
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
    return Sequences(list(rows_of), x, labels)


def _rows_of(source: Table, sequence: str | None) -> dict[str, list[int]]:
    """The rows of each sequence, in the order of the table; None: each row is one, called by its place."""
    if sequence is None:
        return {source.place(row): [row] for row in range(len(source))}
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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")


def _values(pair: tuple[Tensor, int]) -> bytes:
    """A digest of the values of a sequence, whatever its label."""
    x, _ = pair
    return hashlib.sha256(f"{tuple(x.shape)}".encode() + x.numpy().tobytes()).digest()


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
