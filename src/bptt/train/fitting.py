"""`fit`: the training loop for any model and any data."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from bptt.errors import InputError
from bptt.train.events import Event, Measure, Stop
from bptt.train.loop import Training
from bptt.train.order import Order
from bptt.train.recipe import Recipe, require_whole


def fit(
    model: torch.nn.Module,
    data: Any,
    held_out: Any = None,
    *,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    batch: int = 32,
    every_step: bool | None = None,
    watch: Callable[[Event], None] = lambda event: None,
    threads: int | None = None,
    **recipe: Any,
) -> Stop:
    """Trains any model on any data with the loop behind `bptt train`; leaves the best weights in the model.

    data, held_out  a Dataset or list of pairs (x, y), read in batches of `batch`, in a new random order for each epoch;
                    or a DataLoader, or any other iterable without [], of batches (x, y), read as it comes. One pass is
                    an epoch
    loss            (output of the model, y) -> a mean over y. Of a tuple, as RNN returns it, the first is the output.
                    By default `model.loss`
    every_step      whether y has a target for each step of x, or one for the sequence. None: the first pair decides, a
                    target for each step if y is as long as x
    watch           is called with each event (`Steps`, `Evaluation`, `Stop`)
    threads         None: as many as torch has. Unlike `bptt train`, `fit` does not go down to one while other programs
                    need the cores, because the last bits of torch's own layers depend on the number of threads
    recipe          the fields of `Recipe`: epochs, steps, optimizer, lr, clip, clip_value, patience, time_limit,
                    seed

    Batches of a Dataset are time first: sequences x (T, ...) of equal length are stacked to (T, B, ...), of different
    length packed (`torch.nn.utils.rnn.PackedSequence`); targets of every step are stacked to (T, B, ...), others to
    (B, ...). Where a layer of the model says batch_first=True, it is (B, T, ...) for both. For anything else, hand over
    a DataLoader with a collate_fn of your own. Losses of batches are weighed by the numbers in their y.

    Raises InputError for data without a single batch, for a recipe out of range, and where the loss is not known.

    >>> _ = torch.manual_seed(0)
    >>> data = [(torch.full((4, 1), float(n % 2)), torch.tensor(n % 2)) for n in range(64)]
    >>> class Last(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.rnn, self.readout = torch.nn.RNN(1, 8), torch.nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.readout(self.rnn(x)[1][-1])
    >>> model = Last()
    >>> stop = fit(model, data, data, loss=torch.nn.functional.cross_entropy, epochs=20, lr=0.01)
    >>> stop.reason, stop.loss < 0.1
    ('finished', True)
    """
    loss = loss or getattr(model, "loss", None)
    if loss is None:
        raise InputError(
            f"{type(model).__name__} has no method loss; say what to minimise: loss=(output, y) -> scalar."
        )
    batch_first = any(getattr(layer, "batch_first", False) is True for layer in model.modules())
    training = Training(model, _Batches(data, held_out, loss, batch, every_step, batch_first, Recipe(**recipe)))
    stop = training.run(watch=watch, threads=torch.get_num_threads() if threads is None else threads)
    model.load_state_dict(training.best_weights)
    return stop


class _Batches:
    """The task of `fit`."""

    measure = Measure("loss", "loss", "loss")
    items = "targets"
    state = None
    evaluates_at_start = False

    def __init__(
        self,
        data: Any,
        held_out: Any,
        loss: Callable[[Any, Tensor], Tensor],
        batch: int,
        every_step: bool | None,
        batch_first: bool,
        recipe: Recipe,
    ) -> None:
        require_whole("batch", batch)
        self.recipe, self.loss_of, self.batch = recipe, loss, batch
        self.data, self.held_out = data, held_out
        self.length = self._count("data", data)
        if held_out is not None:
            self._count("held_out", held_out)
        elif recipe.patience is not None:
            raise InputError(
                "patience waits for held_out to improve, and there is none. Give it, or leave patience out."
            )
        if every_step is None and _is_map_style(data):
            x, y = data[0]
            every_step = torch.as_tensor(y).dim() > 0 and len(y) == len(x)
        self.every_step, self.batch_first = bool(every_step), batch_first
        self.order = Order(len(data) if _is_map_style(data) else 0, recipe.seed)
        self.batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return self.length

    def _count(self, name: str, data: Any) -> int:
        """The number of batches. Raises InputError where there is none, or no pair to see."""
        if _is_map_style(data):
            count = -(-len(data) // self.batch)
            if count and not (isinstance(data[0], tuple | list) and len(data[0]) == 2):
                raise InputError(
                    f"{name} must hold pairs (x, y); its first entry is {type(data[0]).__name__}. From tensors X, Y: "
                    "list(zip(X, Y))"
                )
        else:
            try:
                count = len(data)
            except TypeError:
                count = sum(1 for _ in data)
        if count == 0:
            raise InputError(f"there must be something to read; {name} holds no batch.")
        return count

    def _read(self, data: Any, epoch: int | None) -> Iterator[Any]:
        if not _is_map_style(data):
            return iter(data)
        order = range(len(data)) if epoch is None else self.order.of(epoch)
        chosen = (order[at : at + self.batch] for at in range(0, len(order), self.batch))
        return (batched([data[index] for index in indices], self.every_step, self.batch_first) for indices in chosen)

    def loss(self, model: Any, step: int, h: Tensor | None) -> tuple[Tensor, None, int]:
        epoch, place = divmod(step, self.length)
        if place == 0:
            self.batches = self._read(self.data, epoch)
        try:
            x, y = next(self.batches)
        except StopIteration:
            raise InputError(
                f"the data must hold the same number of batches in every pass; the first had {self.length}, pass "
                f"{epoch + 1} ended after {place}. An iterator can be read once only: hand over what makes it anew."
            ) from None
        return self._loss(model, x, y), None, y.numel()

    def evaluate(self, model: Any) -> float | None:
        if self.held_out is None:
            return None
        was_training = model.training
        model.eval()
        total, targets = 0.0, 0
        with torch.no_grad():
            for x, y in self._read(self.held_out, None):
                total += float(self._loss(model, x, y)) * y.numel()
                targets += y.numel()
        model.train(was_training)
        return total / targets

    def _loss(self, model: Any, x: Any, y: Tensor) -> Tensor:
        output = model(x)
        return self.loss_of(output[0] if isinstance(output, tuple) else output, y)


def _is_map_style(data: Any) -> bool:
    return not isinstance(data, DataLoader) and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def batched(pairs: Sequence[tuple[Any, Any]], every_step: bool, batch_first: bool = False) -> tuple[Any, Tensor]:
    """Pairs of a sequence x (T, ...) and its target as one batch, the time axis first or second; see `fit`."""
    xs, ys = [torch.as_tensor(x) for x, _ in pairs], [torch.as_tensor(y) for _, y in pairs]
    equal = len({len(x) for x in xs}) == 1
    if every_step:
        for x, y in zip(xs, ys, strict=True):
            if y.dim() == 0 or len(y) != len(x):
                raise InputError(
                    f"targets of every step must be as many as the steps; got {len(x)} steps and targets of shape "
                    f"{tuple(y.shape)}. If there is one target for a sequence, say every_step=False."
                )
        if not equal:
            raise InputError(
                "sequences of different length with a target at every step need padding and a mask, which only you can "
                "choose; hand over a DataLoader with a collate_fn, and a loss that knows the mask. If there is one "
                "target for a sequence, say every_step=False."
            )
    batch_axis = 0 if batch_first else 1
    x = torch.stack(xs, batch_axis) if equal else pack_sequence(xs, enforce_sorted=False)
    return x, torch.stack(ys, batch_axis if every_step else 0)
