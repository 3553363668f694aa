"""One training loop for every task: windows or batches in, losses back, weights that improve.

Each step takes the next batch of a `Task`, goes back through it, clips the gradient's norm and updates. What a batch is
and how its loss is made is the task's business (`bptt.tasks`: text, series, labelled sequences; `fit` makes one of any
Dataset); a state may be carried from one batch to the next, where the gradient stops. The learning rate falls linearly
to zero over the training, and after each pass over the data the held-out part decides whether the weights are the best
so far.

The same bits. Everything that decides the weights of a training limited by epochs or steps is in its task, the recipe
included, and its weights at the start: two runs on one machine give the same bits, and so does one that was
interrupted, because `Training.tensors` and `Training.facts` hold all there is to go on from. A time limit cannot
promise this: the learning rate then follows whichever of the two is further along, steps or time, so that it reaches
zero when the training ends. A run that never comes near its time limit in this sense is not touched by it.

The loop touches no disk and prints nothing: it calls `watch` with events and `save` when there is something worth
keeping. `bptt.runs` and `bptt.runs.progress` are the usual listeners.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.utils import rnn as packing
from torch.utils.data import DataLoader

from bptt.errors import InputError, SettingError
from bptt.train.threads import Threads

Optimizer = Literal["adam", "sgd"]
Reason = Literal["finished", "time limit", "no improvement", "interrupted", "not finite", "held out not finite"]

STEPS_PER_EVENT = 10
SECONDS_PER_SAVE = 10.0


@dataclass(frozen=True)
class Recipe:
    """How the loop goes. A task's own recipe adds what else decides a training besides the data.

    optimizer, lr    "adam" or "sgd", and its learning rate at the start
    clip             the norm to which larger gradients are scaled down; None: never
    epochs, steps    passes over the data, or if not None the number of batches
    time_limit       seconds, or None
    patience         evaluations without improvement after which to stop, or None
    seed             of the weights and everything drawn in training

    Raises InputError for values outside these ranges.
    """

    optimizer: str = "adam"
    lr: float = 3e-3
    clip: float | None = 1.0
    epochs: int = 28
    steps: int | None = None
    time_limit: float | None = None
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "patience"):
            require_whole(name, getattr(self, name), optional=name != "epochs")
        for name in ("lr", "clip", "time_limit"):
            require_positive(name, getattr(self, name), optional=name != "lr")
        require_one_of("optimizer", self.optimizer, get_args(Optimizer))
        if not (_is_whole(self.seed) and 0 <= self.seed < 2**63):
            raise InputError(f"seed must be a whole number from 0 to 2**63 - 1; got {self.seed!r}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_whole(name: str, value: Any, *, optional: bool = False, least: int = 1) -> None:
    most, called = (1_000, "at most 1,000") if name == "layers" else (2**31 - 1, "below 2**31")
    if not (optional and value is None) and not (_is_whole(value) and least <= value <= most):
        called = f" and {called}" if _is_whole(value) and value >= least else ""
        raise SettingError(name, f"must be a whole number of at least {least}{called}; got {value!r}.")


def require_positive(name: str, value: Any, *, optional: bool = False) -> None:
    if not (optional and value is None) and not (_is_number(value) and 0 < value < 1e30):
        raise SettingError(name, f"must be a number above 0 and below 1e30; got {value!r}.")


def require_share(name: str, value: Any) -> None:
    if not (_is_number(value) and 0 <= value < 1):
        raise SettingError(name, f"must be a share from 0 up to, not including, 1; got {value!r}.")


def require_one_of(name: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise SettingError(name, f"must be one of {', '.join(known)}; got {value!r}.")


@dataclass(frozen=True)
class Measure:
    """How a loss is said.

    name     "bits per character"
    short    "bits/char"
    key      its name in a line of the log: "bits"
    factor   what is shown is factor * loss
    """

    name: str
    short: str
    key: str
    factor: float = 1.0


class Task(Protocol):
    """What a training learns from, and what judges it.

    items               what is counted, in the plural: "characters"
    state               shape (·, rows, ·) of the state carried from batch to batch, or None where there is none
    evaluates_at_start  the weights are judged before the first step too, and may stay the best
    """

    @property
    def recipe(self) -> Recipe: ...
    @property
    def measure(self) -> Measure: ...
    @property
    def items(self) -> str: ...
    @property
    def state(self) -> tuple[int, ...] | None: ...
    @property
    def evaluates_at_start(self) -> bool: ...

    def __len__(self) -> int:
        """Batches in one pass over the data, an epoch."""
        ...

    def loss(self, model: Any, step: int, h: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
        """L of the batch at `step`, counted from the start of the training; the state to carry on, detached, or None
        to begin the next batch from zero; and how many items L is a mean over.

        Depends on nothing but the recipe, the data, `step`, the weights, `h` and torch's global random state.
        """
        ...

    def evaluate(self, model: Any) -> float | None:
        """The loss of the part that is held out; None where there is none."""
        ...


@dataclass(frozen=True)
class Steps:
    """What happened over the last `steps` steps.

    step, epoch           where the training stands after them; epoch 1.5 is in the middle of the second pass
    loss                  mean loss of an item in them
    grad_norm             mean and largest norm of the gradient, before clipping
    clipped               share of these steps whose gradient was clipped
    lr                    learning rate of the last of them
    items, seconds        items trained on so far, seconds of training so far
    items_per_second      of these steps alone
    done, seconds_left    share of the training behind us, and how long the rest takes at the present speed
    """

    event = "steps"
    step: int
    epoch: float
    steps: int
    loss: float
    grad_norm: float
    grad_norm_max: float
    clipped: float
    lr: float
    items: int
    seconds: float
    items_per_second: float
    done: float
    seconds_left: float


@dataclass(frozen=True)
class Evaluation:
    """The loss of the held-out part, and whether it is the smallest so far."""

    event = "evaluation"
    step: int
    epoch: float
    loss: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class Stop:
    """Why the training ended, after which step, and the smallest held-out loss with the step it was met at.

    With the reason "not finite", the loss or the gradient of step `step` + 1 was NaN or infinite; the weights are
    those before it. With "held out not finite", the loss of the held-out part was. `loss` is None where nothing was
    evaluated.
    """

    event = "stop"
    reason: Reason
    step: int
    epoch: float
    loss: float | None
    best_step: int
    items: int
    seconds: float


Event = Steps | Evaluation | Stop


def as_json(event: Event, measure: Measure) -> dict[str, Any]:
    """The event as a line of the log holds it: its loss also as the measure says it."""
    line = {"event": event.event, **asdict(event)}
    return line if event.loss is None else {**line, measure.key: measure.factor * event.loss}


class Training:
    """A training under way: weights, optimiser and position. `run` goes on from where it stands.

    step, seconds   steps done, and time spent on them
    items           trained on so far, counted as the task does
    h               the state carried into the next batch; None where it starts from zero
    best_loss       of the held-out part, so far; None before the first evaluation
    best_weights    those of `best_loss`; without a held-out part, the last
    """

    def __init__(self, model: Any, task: Task) -> None:
        self.model, self.task, self.recipe = model, task, task.recipe
        self.total_steps = self.recipe.steps or self.recipe.epochs * len(task)
        self.optimizer = _optimizer(model, self.recipe)
        self.step, self.items, self.seconds = 0, 0, 0.0
        self.h: Tensor | None = None
        self.best_loss: float | None = None
        self.best_step, self.evaluations_since_best, self.evaluated_at = 0, 0, -1
        self._best: dict[str, Tensor] = {}
        self._may_give_up = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.rng = torch.get_rng_state()

    @property
    def best_weights(self) -> dict[str, Tensor]:
        return self._best if self.best_loss is not None else self.model.state_dict()

    @property
    def epoch(self) -> float:
        return self.step / len(self.task)

    @property
    def done(self) -> float:
        """Share of the training that lies behind: of the steps or of the time limit, whichever is further."""
        limit = self.recipe.time_limit
        return min(1.0, max(self.step / self.total_steps, self.seconds / limit if limit else 0.0))

    @property
    def finished(self) -> Reason | None:
        """The reason why there is nothing left to do, if so."""
        if self.step >= self.total_steps:
            return "finished"
        if self.done >= 1:
            return "time limit"
        if self.recipe.patience is not None and self.evaluations_since_best >= self.recipe.patience:
            return "no improvement"
        return None

    def run(
        self,
        *,
        watch: Callable[[Event], None] = lambda event: None,
        save: Callable[["Training"], None] = lambda training: None,
        should_stop: Callable[[], bool] = lambda: False,
        threads: int | None = None,
    ) -> Stop:
        """Trains until done, or until `should_stop()` says so; returns the last event.

        threads  to work on; None: those that torch has, and one while other programs need the cores (`threads`)

        `should_stop` is asked before each step and each call of the model in an evaluation, which is then given up and
        made anew when the training goes on. `save` is called about every 10 seconds and at the end, always between two
        steps.
        """
        require_whole("threads", threads, optional=True)
        model, optimizer = self.model.train(), self.optimizer
        clip = math.inf if self.recipe.clip is None else self.recipe.clip
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        meter = _Meter(self)
        started, saved = self._clock() - self.seconds, self._clock()
        with torch.random.fork_rng(devices=[]), Threads(threads, steady=threads is not None) as pace:
            torch.set_rng_state(self.rng)
            while True:
                if self._evaluation_is_due:
                    reason = self._evaluate(watch, should_stop)
                    if reason:
                        break
                    self.seconds = self._clock() - started
                    meter.restart()
                reason = self.finished
                if reason:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = self.recipe.lr * (1 - self.done)
                begun = time.perf_counter()
                optimizer.zero_grad()
                before = torch.get_rng_state()
                try:
                    loss, h, items = self._step_or_give_up(should_stop)
                except GivenUpError:
                    torch.set_rng_state(before)
                    reason = "interrupted"
                    break
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                norm = float(torch.nn.utils.get_total_norm(gradients))
                if not math.isfinite(norm) or not math.isfinite(loss):
                    reason = "not finite"
                    break
                clipped = norm > clip
                if clipped:
                    for gradient in gradients:
                        gradient.mul_(clip / norm)
                optimizer.step()
                pace.learn(time.perf_counter() - begun, items)
                self.h = h
                self.step += 1
                self.items += items
                self.seconds = self._clock() - started
                meter.add(loss, items, norm, clipped)
                if meter.steps == STEPS_PER_EVENT or self._evaluation_is_due:
                    meter.report(watch)
                if self._clock() - saved > SECONDS_PER_SAVE and self._weights_are_finite():
                    meter.report(watch)
                    self.rng = torch.get_rng_state()
                    save(self)
                    saved = self._clock()
            self.rng = torch.get_rng_state()
            meter.report(watch)
            if reason in ("finished", "time limit") and self.evaluated_at < self.step:
                reason = self._evaluate(watch, should_stop) or reason
                self.seconds = self._clock() - started
        if self._weights_are_finite():
            save(self)
        stop = Stop(reason, self.step, self.epoch, self.best_loss, self.best_step, self.items, self.seconds)
        watch(stop)
        return stop

    def give_up(self) -> None:
        """For the handler of a signal: leaves the step under way, if there is one, by an exception, as if it had not
        begun. `run` must then be told by `should_stop` to end."""
        if self._may_give_up:
            self._may_give_up = False
            raise GivenUpError

    def _clock(self) -> float:
        return time.monotonic()

    def _step_or_give_up(self, should_stop: Callable[[], bool]) -> tuple[float, Tensor | None, int]:
        """`_gradient`, unless it should stop; `give_up` can interrupt it between any two calls of the engine."""
        self._may_give_up = True
        try:
            if should_stop():
                raise GivenUpError
            return self._gradient()
        finally:
            self._may_give_up = False

    def _gradient(self) -> tuple[float, Tensor | None, int]:
        """Goes back through the next batch. What `Task.loss` returns, the loss as a number."""
        loss, h, items = self.task.loss(self.model, self.step, self.h)
        loss.backward()
        return float(loss.detach()), h, items

    def _held_out_loss(self, should_stop: Callable[[], bool]) -> float | None:
        """What `Task.evaluate` returns. Raises GivenUpError when told to stop between two calls of the model."""

        def ask(*_: Any) -> None:
            if should_stop():
                raise GivenUpError

        hook = self.model.register_forward_pre_hook(ask)
        try:
            return self.task.evaluate(self.model)
        finally:
            hook.remove()

    @property
    def _evaluation_is_due(self) -> bool:
        at_start = self.step == 0 and not self.task.evaluates_at_start
        return self.step % len(self.task) == 0 and self.evaluated_at < self.step and not at_start

    def _evaluate(self, watch: Callable[[Event], None], should_stop: Callable[[], bool]) -> Reason | None:
        """Judges the weights by the held-out part, if there is one, and keeps the best; why not to go on, if so."""
        before = torch.get_rng_state()
        try:
            loss = self._held_out_loss(should_stop)
        except GivenUpError:
            torch.set_rng_state(before)
            self.model.train()
            return "interrupted"
        self.evaluated_at = self.step
        if loss is None:
            return None
        if not math.isfinite(loss):
            return "held out not finite"
        best = self.best_loss is None or loss < self.best_loss
        if best:
            self.best_loss, self.best_step, self.evaluations_since_best = loss, self.step, 0
            self._best = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        else:
            self.evaluations_since_best += 1
        watch(Evaluation(self.step, self.epoch, loss, best, self.seconds))
        return None

    def _weights_are_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in self.model.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """With `facts`, all there is to go on from: weights, best weights, optimiser, random state, carried state."""
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        tensors |= {f"best.{name}": weight for name, weight in self._best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["rng"] = self.rng
        if self.h is not None:
            tensors["h"] = self.h
        return tensors

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._FACTS}

    _FACTS = ("step", "items", "seconds", "best_loss", "best_step", "evaluations_since_best", "evaluated_at")

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes the position that `tensors` and `facts` of a training with the same model and task describe.

        Raises KeyError, RuntimeError, TypeError or ValueError where they are those of another, or of none.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if rest:
                parts[part][rest] = tensor
            elif name not in ("rng", "h"):
                raise ValueError(f"nothing is called {name!r}")
        self._require_facts(facts)
        weights = self.model.state_dict()
        require_like(parts["model"], weights)
        require_like(parts["best"], weights if facts["best_loss"] is not None else {})
        self._require_state(parts["optimizer"], facts["step"])
        h = tensors.get("h")
        if h is not None and (h.shape != self.task.state or h.dtype != next(self.model.parameters()).dtype):
            raise ValueError(f"the carried state is {h.dtype} of shape {tuple(h.shape)}")
        torch.Generator().set_state(tensors["rng"])
        self.model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, what = name.partition(".")
            state.setdefault(int(index), {})[what] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self._best, self.rng, self.h = parts["best"], tensors["rng"], h
        for name in self._FACTS:
            setattr(self, name, facts[name])

    def _require_facts(self, facts: Mapping[str, Any]) -> None:
        """Raises KeyError or ValueError for facts that no training of this kind has."""
        for name in ("step", "items", "best_step", "evaluations_since_best", "evaluated_at"):
            least = -1 if name == "evaluated_at" else 0
            most = facts["step"] if name in ("best_step", "evaluated_at") else 2**63 - 1
            if not (_is_whole(facts[name]) and least <= facts[name] <= most):
                raise ValueError(f"{name} must be a whole number from {least} to {most}; got {facts[name]!r}")
        for name in ("seconds", "best_loss"):
            value = facts[name]
            if not ((_is_number(value) and math.isfinite(value)) or (name == "best_loss" and value is None)):
                raise ValueError(f"{name} must be a finite number; got {value!r}")
        if facts["seconds"] < 0:
            raise ValueError(f"seconds must not be negative; got {facts['seconds']!r}")

    def _require_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Raises ValueError unless this is the state of the optimizer after `step` steps. torch believes its sizes."""
        wanted: dict[str, Tensor] = {}
        if self.recipe.optimizer == "adam" and step > 0:
            for index, weight in enumerate(self.model.parameters()):
                if weight.requires_grad:
                    wanted |= {f"{index}.{name}": weight for name in ("exp_avg", "exp_avg_sq")}
                    wanted[f"{index}.step"] = torch.zeros(())
        require_like(state, wanted)
        for name, tensor in state.items():
            if name.endswith(".step") and not 0 <= float(tensor) < math.inf:
                raise ValueError(f"{name} of the optimizer must be a number of steps; got {float(tensor)}")


def require_like(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless both have the same names, and for each the same type and shape."""
    for name in sorted(tensors.keys() ^ wanted.keys()):
        raise ValueError(f"{name} is {'missing' if name in wanted else 'not known'}")
    for name, like in wanted.items():
        found = tensors[name]
        if found.dtype != like.dtype or found.shape != like.shape:
            raise ValueError(
                f"{name} must be {like.dtype} of shape {tuple(like.shape)}; it is {found.dtype} of shape "
                f"{tuple(found.shape)}"
            )


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.lr)
    return torch.optim.Adam(model.parameters(), recipe.lr, fused=True)


class GivenUpError(Exception):
    """An evaluation was told to stop before it was through."""


class _Meter:
    """Sums over steps between two events."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.restart()

    def restart(self) -> None:
        self.steps = self.clipped = self.items = 0
        self.loss = self.norm = self.norm_max = 0.0
        self.items_before, self.time_before = self.training.items, time.monotonic()

    def add(self, loss: float, items: int, norm: float, clipped: bool) -> None:
        self.steps += 1
        self.items += items
        self.loss += loss * items
        self.norm += norm
        self.norm_max = max(self.norm_max, norm)
        self.clipped += clipped

    def report(self, watch: Callable[[Event], None]) -> None:
        if self.steps == 0:
            return
        training = self.training
        seconds = max(time.monotonic() - self.time_before, 1e-9)
        done = training.done
        watch(
            Steps(
                step=training.step,
                epoch=training.epoch,
                steps=self.steps,
                loss=self.loss / max(1, self.items),
                grad_norm=self.norm / self.steps,
                grad_norm_max=self.norm_max,
                clipped=self.clipped / self.steps,
                lr=training.optimizer.param_groups[0]["lr"],
                items=training.items,
                seconds=training.seconds,
                items_per_second=(training.items - self.items_before) / seconds,
                done=done,
                seconds_left=training.seconds * (1 - done) / done,
            )
        )
        self.restart()


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

    data, held_out  a Dataset or list of pairs (x, y), read in batches of `batch` in an order drawn anew for each epoch;
                    or a DataLoader, or any other iterable without [], of batches (x, y), read as it comes. One pass is
                    an epoch
    loss            (what the model returns, y) -> a mean over y; of a tuple, as RNN returns it, the first. By default
                    `model.loss`
    every_step      whether y has a target for each step of x, or one for the sequence; None: as the first pair looks,
                    y having as many steps as x or not
    watch           is called with each event (`Steps`, `Evaluation`, `Stop`)
    threads         to work on; None: as many as torch has. Not fewer while other programs need the cores, as `bptt
                    train` takes: torch's own layers have other last bits then
    recipe          what `Recipe` takes: epochs, steps, optimizer, lr, clip, patience, time_limit, seed

    Batches of a Dataset are time first: sequences x (T, ...) of equal length are stacked to (T, B, ...), of different
    length packed (`torch.nn.utils.rnn.PackedSequence`); targets of every step are stacked to (T, B, ...), others to
    (B, ...). Where a layer of the model says batch_first=True, it is (B, T, ...) for both. For anything else, hand over
    a DataLoader with a collate_fn of your own. Losses of batches are weighed by the numbers in their y.

    Raises InputError for data without a single batch, for a recipe out of range, and where the loss is not known.

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
    x = torch.stack(xs, batch_axis) if equal else packing.pack_sequence(xs, enforce_sorted=False)
    return x, torch.stack(ys, batch_axis if every_step else 0)


class Order:
    """An order of `count` numbers for each epoch; that of the epoch under way is kept."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, []

    def of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.count, self.seed, epoch)
        return self._order


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The numbers below `count` in an order of this epoch alone, whatever was drawn before."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()
