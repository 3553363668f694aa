"""Training on streams of tokens: truncated backpropagation through time with the state carried over, in one loop.

Each step sees the next window of every stream. The state a window ends with starts the next one; the gradient stops
there, which is what truncates it. The learning rate falls linearly to zero over the training, the norm of the gradient
is clipped, and after each epoch the held-out text decides whether the weights are the best so far.

The same bits. Everything that decides the weights of a training limited by epochs or steps is in its `Recipe`, its
tokens and its weights at the start: two runs on one machine give the same bits, and so does one that was interrupted,
because `Training.tensors` and `Training.facts` hold all there is to go on from. A time limit cannot promise this: the
learning rate then follows whichever of the two is further along, steps or time, so that it reaches zero when the
training ends. A run that never comes near its time limit in this sense is not touched by it.

The loop touches no disk and prints nothing: it calls `watch` with events and `save` when there is something worth
keeping. `bptt.runs` and `bptt.progress` are the usual listeners.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bptt import activations, data
from bptt.errors import InputError
from bptt.nn import Elman

Optimizer = Literal["adam", "sgd"]
Reason = Literal["finished", "time limit", "no improvement", "interrupted", "not finite"]

STEPS_PER_EVENT = 10
SECONDS_PER_SAVE = 10.0
EVALUATION_STREAMS = 32
EVALUATION_STEPS = 256


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides the text. The defaults are those of the demo.

    hidden, layers   hidden units of each of the stacked layers
    nonlinearity     φ of A3
    bptt             window length: through how many steps the gradient goes back
    streams          how many parts of the text are read side by side, the batch
    optimizer, lr    "adam" or "sgd", and its learning rate at the start
    clip             the norm to which larger gradients are scaled down; None: never
    epochs, steps    passes over the text, or if not None the number of windows
    time_limit       seconds, or None
    patience         evaluations without improvement after which to stop, or None
    held_out         share of the text, at its end, kept for evaluation
    seed             of the weights and everything drawn in training

    Raises InputError for values outside these ranges.
    """

    hidden: int = 256
    layers: int = 1
    nonlinearity: str = "tanh"
    bptt: int = 64
    streams: int = 32
    optimizer: str = "adam"
    lr: float = 3e-3
    clip: float | None = 1.0
    epochs: int = 28
    steps: int | None = None
    time_limit: float | None = None
    patience: int | None = None
    held_out: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "bptt", "streams", "epochs", "steps", "patience"):
            _require_whole(name, getattr(self, name), optional=name in ("steps", "patience"))
        for name in ("lr", "clip", "time_limit"):
            _require_positive(name, getattr(self, name), optional=name != "lr")
        _require_one_of("nonlinearity", self.nonlinearity, get_args(activations.Name))
        _require_one_of("optimizer", self.optimizer, get_args(Optimizer))
        if not (_is_number(self.held_out) and 0 <= self.held_out < 1):
            raise InputError(f"held_out must be a share from 0 up to, not including, 1; got {self.held_out!r}.")
        if not (_is_whole(self.seed) and 0 <= self.seed < 2**63):
            raise InputError(f"seed must be a whole number from 0 to 2**63 - 1; got {self.seed!r}.")
        if self.patience is not None and self.held_out == 0:
            raise InputError("patience waits for the held-out text to improve, and held_out is 0; give only one.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require_whole(name: str, value: Any, *, optional: bool) -> None:
    if not (optional and value is None) and not (_is_whole(value) and 1 <= value < 2**31):
        raise InputError(f"{name} must be a whole number of at least 1; got {value!r}.")


def _require_positive(name: str, value: Any, *, optional: bool) -> None:
    if not (optional and value is None) and not (_is_number(value) and 0 < value < 1e30):
        raise InputError(f"{name} must be a number above 0 and below 1e30; got {value!r}.")


def _require_one_of(name: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}.")


@dataclass(frozen=True)
class Steps:
    """What happened over the last `steps` steps.

    step, epoch           where the training stands after them; epoch 1.5 is in the middle of the second pass
    loss, bits            mean loss of a token, in nats and in bits
    grad_norm             mean and largest norm of the gradient, before clipping
    clipped               share of these steps whose gradient was clipped
    lr                    learning rate of the last of them
    tokens, seconds       tokens trained on so far, seconds of training so far
    tokens_per_second     of these steps alone
    done, seconds_left    share of the training behind us, and how long the rest takes at the present speed
    """

    event = "steps"
    step: int
    epoch: float
    steps: int
    loss: float
    bits: float
    grad_norm: float
    grad_norm_max: float
    clipped: float
    lr: float
    tokens: int
    seconds: float
    tokens_per_second: float
    done: float
    seconds_left: float


@dataclass(frozen=True)
class Evaluation:
    """Bits per token of the held-out text, and whether they are the fewest so far."""

    event = "evaluation"
    step: int
    epoch: float
    bits: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class Stop:
    """Why the training ended, after which step, and the best held-out bits per token with the step they were met at.

    With the reason "not finite", the loss or the gradient of step `step` + 1 was NaN or infinite; the weights are
    those before it. `bits` is None where nothing was evaluated.
    """

    event = "stop"
    reason: Reason
    step: int
    epoch: float
    bits: float | None
    best_step: int
    tokens: int
    seconds: float


Event = Steps | Evaluation | Stop


def as_json(event: Event) -> dict[str, Any]:
    """The event as a line of the log holds it."""
    return {"event": event.event, **asdict(event)}


@torch.no_grad()
def bits_per_token(model: Elman, tokens: Tensor) -> float:
    """Mean of −log2 ŷ over every token of a text but its first, each predicted once.

    The text (N,) is read as up to 32 streams, each from the zero state, so the figure is slightly above that of one
    continuous reading.
    """
    was_training = model.training
    model.eval()
    streams = min(EVALUATION_STREAMS, len(tokens) - 1)
    nats, h = 0.0, None
    windows = data.windows(tokens, streams, min(EVALUATION_STEPS, (len(tokens) - 1) // streams))
    for x, y in windows:
        o, h = model(x, h)
        nats += float(model.loss(o, y)) * y.numel()
    rest = tokens[(len(windows.tokens) - 1) * streams :].to(torch.int64)[:, None]
    if len(rest) > 1:
        assert h is not None
        o, _ = model(rest[:-1], h[:, -1:].contiguous())
        nats += float(model.loss(o, rest[1:])) * (len(rest) - 1)
    model.train(was_training)
    return nats / (len(tokens) - 1) / math.log(2)


class Training:
    """A training under way: weights, optimiser and position. `run` goes on from where it stands.

    step, seconds   steps done, and time spent on them
    h               the state carried into the next window (num_layers, B, H); None at the start of an epoch
    best_bits       of the held-out text, so far; None before the first evaluation
    best_weights    those of `best_bits`; without held-out text, the last
    """

    def __init__(self, model: Elman, train: Tensor, held_out: Tensor, recipe: Recipe) -> None:
        """train, held_out: tokens (N,). Raises InputError where `train` is too short for the recipe's windows."""
        self.model, self.held_out, self.recipe = model, held_out, recipe
        self.windows = data.windows(train, recipe.streams, recipe.bptt)
        self.total_steps = recipe.steps or recipe.epochs * len(self.windows)
        self.optimizer = _optimizer(model, recipe)
        self.step, self.seconds = 0, 0.0
        self.h: Tensor | None = None
        self.best_bits: float | None = None
        self.best_step, self.evaluations_since_best, self.evaluated_at = 0, 0, 0
        self._best: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.rng = torch.get_rng_state()

    @property
    def best_weights(self) -> dict[str, Tensor]:
        return self._best if self.best_bits is not None else self.model.state_dict()

    @property
    def epoch(self) -> float:
        return self.step / len(self.windows)

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        epochs, windows = divmod(self.step, len(self.windows))
        length = len(self.windows.tokens) - 1
        return (epochs * length + min(windows * self.windows.steps, length)) * self.windows.streams

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
    ) -> Stop:
        """Trains until done, or until `should_stop()`, asked before each step, says so; returns the last event.

        `save` is called about every 10 seconds and at the end, always between two steps.
        """
        model, optimizer = self.model.train(), self.optimizer
        clip = math.inf if self.recipe.clip is None else self.recipe.clip
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        meter = _Meter(self)
        started = time.monotonic() - self.seconds
        saved = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.rng)
            while True:
                reason = self.finished or ("interrupted" if should_stop() else None)
                if reason:
                    break
                window = self.step % len(self.windows)
                x, y = self.windows[window]
                for group in optimizer.param_groups:
                    group["lr"] = self.recipe.lr * (1 - self.done)
                optimizer.zero_grad()
                o, h = model(x, self.h)
                loss = model.loss(o, y)
                loss.backward()
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                norm = float(torch.nn.utils.get_total_norm(gradients))
                if not math.isfinite(norm) or not math.isfinite(loss_value := float(loss.detach())):
                    reason = "not finite"
                    break
                clipped = norm > clip
                if clipped:
                    for gradient in gradients:
                        gradient.mul_(clip / norm)
                optimizer.step()
                self.h = h.detach()
                self.step += 1
                end_of_epoch = window + 1 == len(self.windows)
                if end_of_epoch:
                    self.h = None
                self.seconds = time.monotonic() - started
                meter.add(loss_value, norm, clipped)
                if meter.steps == STEPS_PER_EVENT or end_of_epoch:
                    meter.report(watch)
                if end_of_epoch and len(self.held_out):
                    if not self._evaluate(watch):
                        reason = "not finite"
                        break
                    self.seconds = time.monotonic() - started
                    meter.restart()
                if time.monotonic() - saved > SECONDS_PER_SAVE:
                    self.rng = torch.get_rng_state()
                    save(self)
                    saved = time.monotonic()
            self.rng = torch.get_rng_state()
        meter.report(watch)
        if reason in ("finished", "time limit") and len(self.held_out) and self.evaluated_at < self.step:
            reason = reason if self._evaluate(watch) else "not finite"
            self.seconds = time.monotonic() - started
        if reason != "not finite" or self._weights_are_finite():
            save(self)
        stop = Stop(reason, self.step, self.epoch, self.best_bits, self.best_step, self.tokens, self.seconds)
        watch(stop)
        return stop

    def _evaluate(self, watch: Callable[[Event], None]) -> bool:
        """Whether the bits per token of the held-out text are finite; best weights are kept."""
        bits = bits_per_token(self.model, self.held_out)
        self.evaluated_at = self.step
        if not math.isfinite(bits):
            return False
        best = self.best_bits is None or bits < self.best_bits
        if best:
            self.best_bits, self.best_step, self.evaluations_since_best = bits, self.step, 0
            self._best = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        else:
            self.evaluations_since_best += 1
        watch(Evaluation(self.step, self.epoch, bits, best, self.seconds))
        return True

    def _weights_are_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in self.model.state_dict().values())

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

    _FACTS = ("step", "seconds", "best_bits", "best_step", "evaluations_since_best", "evaluated_at")

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes the position that `tensors` and `facts` of a training with the same model and recipe describe.

        Raises KeyError, RuntimeError or ValueError where they are those of another.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if rest:
                parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, what = name.partition(".")
            state.setdefault(int(index), {})[what] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self._best = parts["best"]
        torch.Generator().set_state(tensors["rng"])
        self.rng, self.h = tensors["rng"], tensors.get("h")
        if self.h is not None and self.h.shape != (self.recipe.layers, self.recipe.streams, self.recipe.hidden):
            raise ValueError(f"the carried state has shape {tuple(self.h.shape)}")
        for name in self._FACTS:
            setattr(self, name, facts[name])


def _optimizer(model: Elman, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.lr)
    return torch.optim.Adam(model.parameters(), recipe.lr, fused=True)


class _Meter:
    """Sums over steps between two events."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.restart()

    def restart(self) -> None:
        self.steps = self.clipped = 0
        self.loss = self.norm = self.norm_max = 0.0
        self.tokens_before, self.time_before = self.training.tokens, time.monotonic()

    def add(self, loss: float, norm: float, clipped: bool) -> None:
        self.steps += 1
        self.loss += loss
        self.norm += norm
        self.norm_max = max(self.norm_max, norm)
        self.clipped += clipped

    def report(self, watch: Callable[[Event], None]) -> None:
        if self.steps == 0:
            return
        training = self.training
        seconds = max(time.monotonic() - self.time_before, 1e-9)
        loss, done = self.loss / self.steps, training.done
        watch(
            Steps(
                step=training.step,
                epoch=training.epoch,
                steps=self.steps,
                loss=loss,
                bits=loss / math.log(2),
                grad_norm=self.norm / self.steps,
                grad_norm_max=self.norm_max,
                clipped=self.clipped / self.steps,
                lr=training.optimizer.param_groups[0]["lr"],
                tokens=training.tokens,
                seconds=training.seconds,
                tokens_per_second=(training.tokens - self.tokens_before) / seconds,
                done=done,
                seconds_left=training.seconds * (1 - done) / done,
            )
        )
        self.restart()
