"""The training loop, one for every task.

Each step takes the next batch of a `Task`, computes the gradient of its loss, clips the gradient and updates the
weights. The task says what a batch is and how its loss is computed (`bptt.tasks`: text, series, labelled sequences;
`fit` makes a task of any Dataset). A state may be carried from one batch to the next; the gradient stops there. The
learning rate falls linearly to zero over the training. After each pass over the data the held-out part is evaluated,
and the weights with the smallest loss on it are kept.

Reproducible to the bit. Where epochs or steps limit the training, its task (recipe included) and its initial weights
decide the final ones: two runs on one machine give the same bits, and so does one that was interrupted, because
`Training.tensors` and `Training.facts` hold its whole position. A time limit cannot promise this: the learning rate
then follows steps or time, whichever is further along, so that it reaches zero when the training ends. As long as steps
are further along, the time limit changes nothing.

The loop writes no files and prints nothing. It calls `watch` with events, and `save` about every ten seconds;
`bptt.runs` and `bptt.runs.progress` listen.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from bptt.train.events import Evaluation, Event, Measure, Reason, Steps, Stop
from bptt.train.position import require_facts, require_like, require_optimizer_state
from bptt.train.recipe import Recipe, require_whole
from bptt.train.threads import Threads

STEPS_PER_EVENT = 10
SECONDS_PER_SAVE = 10.0


class Task(Protocol):
    """The data of a training as batches and their losses, and the evaluation of its weights.

    items               the unit in which data are counted, in the plural: "characters"
    state               shape (·, rows, ·) of the state carried from batch to batch, or None where there is none
    evaluates_at_start  the weights are evaluated before the first step too, and may stay the best
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
        """The loss of the batch at `step`, counted from the start of the training; the state for the next batch,
        detached, or None for zero; and the number of items over which the loss is a mean.

        Depends on the recipe, the data, `step`, the weights, `h` and torch's global random state alone.
        """
        ...

    def evaluate(self, model: Any) -> float | None:
        """The loss of the held-out part; None where nothing is held out."""
        ...


class GivenUpError(Exception):
    """A step or an evaluation was left before its end, because the training is to stop."""


class Training:
    """A training at some position: weights, optimiser, and how far it is. `run` goes on from there.

    step, seconds   steps done, and the time they took
    items           trained on so far, in the unit of the task
    h               the state carried into the next batch; None: it starts from zero
    best_loss       smallest loss of the held-out part so far; None before the first evaluation
    best_weights    those of `best_loss`; without a held-out part, the last ones
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
        """The share of the training that is done: of its steps or of its time limit, whichever is larger."""
        limit = self.recipe.time_limit
        return min(1.0, max(self.step / self.total_steps, self.seconds / limit if limit else 0.0))

    @property
    def finished(self) -> Reason | None:
        """The reason why the training is over, or None where it can go on."""
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
        """Trains to the end, or until `should_stop()` returns True; returns the last event.

        threads  None: as many as torch has, and one while other programs need the cores (`bptt.train.threads`)

        `should_stop` is called before each step, and before each call of the model in an evaluation, which is then
        left and begun again when the training goes on. `save` is called about every 10 seconds and at the end, always
        between two steps.
        """
        require_whole("threads", threads, optional=True)
        model, optimizer = self.model.train(), self.optimizer
        clip, largest = self.recipe.clip or math.inf, self.recipe.clip_value
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
                left, cut = norm, False
                if largest is not None and float(torch.nn.utils.get_total_norm(gradients, math.inf)) > largest:
                    torch.nn.utils.clip_grad_value_(parameters, largest)
                    left, cut = float(torch.nn.utils.get_total_norm(gradients)), True
                if left > clip:
                    for gradient in gradients:
                        gradient.mul_(clip / left)
                optimizer.step()
                pace.learn(time.perf_counter() - begun, items)
                self.h = h
                self.step += 1
                self.items += items
                self.seconds = self._clock() - started
                meter.add(loss, items, norm, cut or left > clip)
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
        """For the handler of a signal: leaves the present step, if there is one, by an exception, as if it had not
        begun. `should_stop` must return True from then on, so that `run` ends."""
        if self._may_give_up:
            self._may_give_up = False
            raise GivenUpError

    def _clock(self) -> float:
        return time.monotonic()

    def _step_or_give_up(self, should_stop: Callable[[], bool]) -> tuple[float, Tensor | None, int]:
        """As `_gradient`; `give_up` can interrupt it between two calls of the engine."""
        self._may_give_up = True
        try:
            if should_stop():
                raise GivenUpError
            return self._gradient()
        finally:
            self._may_give_up = False

    def _gradient(self) -> tuple[float, Tensor | None, int]:
        """Computes the gradient of the next batch. Returns what `Task.loss` does, with the loss as a number."""
        loss, h, items = self.task.loss(self.model, self.step, self.h)
        loss.backward()
        return float(loss.detach()), h, items

    def _held_out_loss(self, should_stop: Callable[[], bool]) -> float | None:
        """`Task.evaluate`; raises GivenUpError where the training is to stop, between two calls of the model."""

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
        """Evaluates the weights and keeps the best. Returns the reason where the training cannot go on."""
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
        """The position, together with `facts`: weights, best weights, optimiser, random state, carried state."""
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
        """Takes over the position, as `tensors` and `facts` gave it for a training with the same model and task.

        Raises KeyError, RuntimeError, TypeError or ValueError for those of another training, or of none.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if rest:
                parts[part][rest] = tensor
            elif name not in ("rng", "h"):
                raise ValueError(f"nothing is called {name!r}")
        require_facts(facts)
        weights = self.model.state_dict()
        require_like(parts["model"], weights)
        require_like(parts["best"], weights if facts["best_loss"] is not None else {})
        require_optimizer_state(parts["optimizer"], self.recipe.optimizer, self.model.parameters(), facts["step"])
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


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.lr)
    return torch.optim.Adam(model.parameters(), recipe.lr, fused=True)


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
