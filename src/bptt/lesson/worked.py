"""The worked examples: four small networks in which every number can be followed by hand.

    cell         one cell, one step: each equation of the sheet once
    hello        a word, one character at a time; the target of each step is the next character (any word works)
    1,3,5,7,9    numbers, one at a time; the target of the last output is the number that comes next
    01101001     bits, one at a time, relu and a sigmoid output; the target of each step is the bit before

All run in float64 with a batch of one. Weights are drawn from (−1/√H, 1/√H) and rounded to two decimals, for a pocket
calculator. A layer of torch has two biases and the sheet one: the second is kept at zero and not trained. Every step
has the weight w_t = 1, so that ∂o_t = ŷ_t − y_t has no factor (squared error: times 2).

`work` records the tape, takes one step of gradient descent with the tape's gradients, W ← W − lr ∂W, goes on training
in the same way, and checks the tape.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bptt.engine.activations import ACTIVATIONS, activation
from bptt.errors import InputError
from bptt.nn import Elman
from bptt.sheet import losses
from bptt.sheet.equations import SHEET
from bptt.tape import Tape, record
from bptt.tape.check import Report

WEIGHTS = {"W_xh": "B9", "W_hh": "B10", "b_h": "B8", "W_ho": "B5", "b_o": "B4"}
LONGEST = 64
MOST_UPDATES = 10_000
SURE = 0.9
CLOSE = 1e-3


class Network(Elman):
    """Elman with an output at every step, or at the last step only."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, every_step: bool, **settings: Any) -> None:
        super().__init__(inputs, hidden, outputs, dtype=torch.float64, **settings)
        self.every_step = every_step

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, h_n = self.rnn(x, h0)
        return self.readout(h if self.every_step else h[-1]), h_n


@dataclass(frozen=True)
class Example:
    """A network with its input and its targets.

    kind       "cell", "word", "numbers" or "bits"
    x          (T, 1, I); targets (T, 1) class numbers or (T, 1, O), or (1, O) where only the last step has an output
    alphabet   the characters of the inputs and outputs, where they stand for characters
    scale      numbers are divided by it on the way in and multiplied by it on the way out
    """

    kind: str
    given: str
    task: str
    model: Network
    x: Tensor
    targets: Tensor
    h0: Tensor | None
    lr: float
    seed: int
    alphabet: str = ""
    scale: float = 1.0

    @property
    def target(self) -> float:
        """The number that an example of kind "numbers" should answer."""
        return float(self.targets[-1, -1]) * self.scale


@dataclass(frozen=True)
class Outcome:
    """The network after its training: `answer` in the example's own terms, None where the loss is not finite."""

    updates: int
    loss: float
    answer: str | float | None
    right: bool


@dataclass(frozen=True)
class Worked:
    """One example worked through: its tape, one update of every parameter, the end of its training, its check."""

    example: Example
    tape: Tape
    before: dict[str, Tensor]
    gradient: dict[str, Tensor]
    after: dict[str, Tensor]
    loss_after: float
    outcome: Outcome
    report: Report


def example(
    given: str,
    *,
    hidden: int | None = None,
    lr: float = 0.1,
    seed: int = 0,
    nonlinearity: str | None = None,
    target: float | None = None,
) -> Example:
    """The example for a text: "cell", numbers with commas, bits, or any other word.

    Raises InputError for a text or setting that makes no example.
    """
    _require(
        hidden is None or 1 <= hidden <= LONGEST,
        f"--hidden must lie in 1 to {LONGEST}; got {hidden}. Leave it out for the example's own.",
    )
    _require(0 < lr <= 1000, f"--lr must be above 0 and at most 1000; got {lr:g}. 0.1 suits these examples.")
    _require(0 <= seed < 2**63, f"--seed must be a whole number from 0 to 2^63 - 1; got {seed}. 0 is as good as any.")
    _require(
        nonlinearity is None or nonlinearity in ACTIVATIONS,
        f"--nonlinearity must be one of {', '.join(ACTIVATIONS)}; got {nonlinearity!r}. Leave it out or choose one.",
    )
    numbers = _numbers(given)
    _require(
        target is None or numbers is not None,
        f"--target is for numbers such as 1,3,5,7,9; got it with {given!r}. Leave it out, or give numbers.",
    )
    common: dict[str, Any] = {"lr": lr, "seed": seed}
    if given == "cell":
        model = _network(2, hidden or 2, 2, seed, nonlinearity or "tanh", "cross_entropy")
        x = torch.tensor([[[1.0, 0.5]]], dtype=torch.float64)
        h0 = torch.tensor([(0.2, -0.4)[unit % 2] for unit in range(hidden or 2)], dtype=torch.float64).view(1, 1, -1)
        task = "one cell, one step: two inputs, a state handed in, and the second of two classes is wanted"
        return Example("cell", given, task, model, x, torch.tensor([[1]]), h0, **common)
    if numbers is not None:
        return _of_numbers(given, numbers, target, hidden or 3, nonlinearity or "tanh", common)
    _require(
        len(given) >= 2,
        f"an example needs at least two steps; got {given!r}. Try hello, 1,3,5,7,9, 01101001 or cell.",
    )
    _require(
        len(given) <= LONGEST,
        f"an example to read has at most {LONGEST} characters; got {len(given)}. For a text: bptt train FILE -o RUN.",
    )
    if re.fullmatch("[01]+", given):
        x = torch.tensor([float(bit) for bit in given], dtype=torch.float64).view(-1, 1, 1)
        model = _network(1, hidden or 4, 1, seed, nonlinearity or "relu", "binary_cross_entropy")
        task = (
            f"the same step, repeated in a loop {len(given)} times; each time the bit before is wanted (first of all 0)"
        )
        return Example("bits", given, task, model, x, torch.cat([0 * x[:1], x[:-1]]), None, **common)
    alphabet = "".join(dict.fromkeys(given))
    tokens = torch.tensor([alphabet.index(character) for character in given])
    one_hot = torch.nn.functional.one_hot(tokens[:-1], len(alphabet)).double()[:, None]
    enough = 4 if len(given) <= 8 else 8
    model = _network(len(alphabet), hidden or enough, len(alphabet), seed, nonlinearity or "tanh", "cross_entropy")
    task = "one character at a time; at each step the network is to name the next one"
    return Example("word", given, task, model, one_hot, tokens[1:, None], None, alphabet=alphabet, **common)


def _of_numbers(
    given: str, numbers: list[float], target: float | None, hidden: int, nonlinearity: str, common: dict[str, Any]
) -> Example:
    _require(len(numbers) >= 2, f"a series needs at least two numbers; got {given!r}. Try 1,3,5,7,9.")
    _require(
        len(numbers) <= LONGEST, f"a series to read has at most {LONGEST} numbers; got {len(numbers)}. Leave some out."
    )
    target = 2 * numbers[-1] - numbers[-2] if target is None else target
    for number in (*numbers, target):
        _require(
            math.isfinite(number), f"numbers must be finite; got {number}. Leave it out, or give another --target."
        )
    largest = max(abs(number) for number in (*numbers, target))
    scale = 10.0 ** math.floor(math.log10(largest)) if largest > 1e-300 else 1.0
    _require(math.isfinite(2 * largest), f"numbers must stay below 9e307; got {largest:g}. Give them in a larger unit.")
    x = torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1) / scale
    model = _network(1, hidden, 1, common["seed"], nonlinearity, "squared_error", every_step=False)
    wanted = torch.tensor([[target / scale]], dtype=torch.float64)
    task = f"{len(numbers)} numbers, one at a time; the output of the last step alone is to be {target:g}"
    return Example("numbers", given, task, model, x, wanted, None, scale=scale, **common)


def _numbers(given: str) -> list[float] | None:
    """The numbers in a text with commas, None if it holds none; InputError if only some parts are numbers."""
    parts = [part.strip() for part in given.split(",")]
    numbers = [_number(part) for part in parts]
    if len(parts) < 2 or all(number is None for number in numbers):
        return None
    for part, number in zip(parts, numbers, strict=True):
        _require(number is not None, f"a series holds numbers only; got {part!r} in {given!r}. Try 1,3,5,7,9.")
    return [number for number in numbers if number is not None]


def _number(part: str) -> float | None:
    try:
        return float(part)
    except ValueError:
        return None


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _network(
    inputs: int, hidden: int, outputs: int, seed: int, nonlinearity: str, loss: str, *, every_step: bool = True
) -> Network:
    model = Network(inputs, hidden, outputs, every_step=every_step, nonlinearity=nonlinearity, loss=loss)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "rnn.bias_hh_l0":
                parameter.zero_().requires_grad_(False)
            else:
                drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_((100 * (2 * drawn - 1) / math.sqrt(hidden)).round() / 100)
    return model


def work(given: Example, updates: int | None = None) -> Worked:
    """Records the tape, updates once, goes on training, and checks the tape. This trains the model of the example.

    updates   their number in all; None: until the answer is right and sure, at most ten thousand

    Raises InputError for a negative number.
    """
    _require(
        updates is None or updates >= 0, f"--train must be 0 or more; got {updates}. Leave it out to train until right."
    )
    model = given.model
    tape = record(model, given.x, given.targets, weights=torch.ones(()), h0=given.h0, seed=given.seed, text=given.given)
    tape.vocabulary = list(given.alphabet) or None
    before = {name: value.clone() for name, value in _weights(model).items()}
    gradient = {name: tape.grad(name) for name in WEIGHTS}
    report = tape.check()
    after = {name: before[name] - given.lr * gradient[name] for name in WEIGHTS}
    _put(model, after)
    with torch.no_grad():
        loss_after = float(_loss(given))
    _put(model, before)
    return Worked(given, tape, before, gradient, after, loss_after, _train(given, updates), report)


def _weights(model: Network) -> dict[str, Tensor]:
    """The parameters under the names of the sheet and in its layout, as views."""
    rnn, readout = dict(model.rnn.named_parameters()), model.readout
    return {
        "W_xh": rnn["weight_ih_l0"].detach().mT,
        "W_hh": rnn["weight_hh_l0"].detach().mT,
        "b_h": rnn["bias_ih_l0"].detach(),
        "W_ho": readout.weight.detach().mT,
        "b_o": readout.bias.detach(),
    }


def _put(model: Network, weights: dict[str, Tensor]) -> None:
    for name, value in _weights(model).items():
        value.copy_(weights[name])


def _loss(given: Example) -> Tensor:
    o, _ = given.model(given.x, given.h0)
    return given.model.loss(o, given.targets, torch.ones(()))


def _train(given: Example, updates: int | None) -> Outcome:
    parameters = [parameter for parameter in given.model.parameters() if parameter.requires_grad]
    done, limit = 0, MOST_UPDATES if updates is None else updates
    while done < limit:
        loss = _loss(given)
        if not loss.isfinite() or (updates is None and done % 10 == 0 and _is_sure(given)):
            break
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, dW in zip(parameters, gradients, strict=True):
                parameter -= given.lr * dW
        done += 1
    with torch.no_grad():
        loss = float(_loss(given))
    if not math.isfinite(loss):
        return Outcome(done, loss, None, False)
    answer = _answer(given)
    return Outcome(done, loss, answer, _is_right(given, answer))


def _answer(given: Example) -> str | float:
    """The answer of the network: the word it spells from the first character on, the number, the bits or the class."""
    model = given.model
    with torch.no_grad():
        if given.kind == "word":
            token, state, word = int(given.x[0].argmax()), None, given.given[0]
            for _ in given.targets:
                one_hot = torch.nn.functional.one_hot(torch.tensor([[token]]), len(given.alphabet)).double()
                o, state = model(one_hot, state)
                token = int(o.argmax())
                word += given.alphabet[token]
            return word
        y_hat, _ = model.predict(given.x, given.h0)
    if given.kind == "numbers":
        return float(y_hat) * given.scale
    if given.kind == "bits":
        return "".join(str(int(value > 0.5)) for value in y_hat.flatten())
    return f"class {int(y_hat.argmax()) + 1}"


def wanted(given: Example) -> str | float:
    """The right `Outcome.answer`."""
    if given.kind == "word":
        return given.given
    if given.kind == "numbers":
        return given.target
    if given.kind == "bits":
        return "".join(str(int(value)) for value in given.targets.flatten())
    return f"class {int(given.targets) + 1}"


def _is_right(given: Example, answer: str | float) -> bool:
    if isinstance(answer, float):
        return abs(answer - given.target) <= 5 * CLOSE * given.scale
    return answer == wanted(given)


def _is_sure(given: Example) -> bool:
    """Right by a margin: every target has a probability of 0.9; a number is within a thousandth of the scale."""
    with torch.no_grad():
        y_hat, _ = given.model.predict(given.x, given.h0)
    if given.kind == "numbers":
        return abs(float(y_hat) - float(given.targets)) <= CLOSE
    if given.kind == "bits":
        return bool(((y_hat - given.targets).abs() <= 1 - SURE).all())
    return bool((y_hat.gather(-1, given.targets[..., None]) >= SURE).all())


def as_data(worked: Worked) -> dict[str, Any]:
    """All that `bptt trace` prints, as plain data for JSON; docs/trace.md lists the keys.

    Arrays of a step have no batch axis. t counts from 1 as on the sheet.
    """
    given, tape, T = worked.example, worked.tape, worked.tape.steps
    assert tape.L is not None
    return {
        "schema": 1,
        "example": given.given,
        "kind": given.kind,
        "task": given.task,
        "settings": {
            "inputs": given.x.shape[-1],
            "hidden": given.model.rnn.hidden_size,
            "outputs": given.model.readout.out_features,
            "nonlinearity": given.model.rnn.nonlinearity,
            "loss": given.model.loss_name,
            "lr": given.lr,
            "seed": given.seed,
            "scale": given.scale,
            "alphabet": list(given.alphabet),
        },
        "equations": {tag: equation.formula for tag, equation in SHEET.items()},
        "side_A": [step_forward(worked, t) for t in range(T)],
        "side_B": [step_backward(worked, t) for t in reversed(range(T))],
        "loss": {"before": float(tape.L), "after": _finite(worked.loss_after)},
        "weights": {
            name: {
                "before": worked.before[name].tolist(),
                "gradient": worked.gradient[name].tolist(),
                "tag": tag,
                "after": worked.after[name].tolist(),
            }
            for name, tag in WEIGHTS.items()
        },
        "training": {
            "updates": worked.outcome.updates,
            "loss": _finite(worked.outcome.loss),
            "answer": worked.outcome.answer,
            "wanted": wanted(given),
            "right": worked.outcome.right,
        },
        "check": {
            "ok": worked.report.ok,
            "notes": list(worked.report.notes),
            "residuals": {
                tag: {"worst": item.worst, "allowed": item.bound, "at": item.what}
                for tag, item in worked.report.worst.items()
            },
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def step_forward(worked: Worked, t: int) -> dict[str, Any]:
    """Side A of step t (counted from 0), by tag; None where a step has no output."""
    given, tape = worked.example, worked.tape
    assert tape.o is not None
    assert tape.y_hat is not None
    assert tape.loss is not None
    assert tape.w is not None
    h_prev = tape.layer().h_prev
    s = t - (tape.steps - len(tape.o))
    has_output = s >= 0
    return {
        "t": t + 1,
        "A1": {"x": tape.x[t, 0].tolist(), "h_prev": h_prev[t, 0].tolist()},
        "A2": {"a": tape.a[t, 0].tolist()},
        "A3": {"h": tape.h[t, 0].tolist()},
        "A5": {"o": tape.o[s, 0].tolist()} if has_output else None,
        "A6": {"y_hat": tape.y_hat[s, 0].tolist()} if has_output else None,
        "B1": {
            "y": given.targets[s].flatten().tolist(),
            "w": float(tape.w[t, 0]),
            "loss": float(tape.loss[s, 0]),
        }
        if has_output
        else None,
    }


def step_backward(worked: Worked, t: int) -> dict[str, Any]:
    """Side B of step t (counted from 0), by tag; B2 is None where a step has no output, and ∂o is zero there."""
    given, tape = worked.example, worked.tape
    assert tape.do is not None
    assert tape.y_hat is not None
    assert tape.dx is not None
    record = tape.layer()
    s = t - (tape.steps - len(tape.y_hat))
    handed = tape.da[:, 0] @ tape.W_hh.mT
    future = handed[t + 1] if t + 1 < tape.steps else torch.zeros_like(handed[0])
    jacobian = losses.pair(given.model.loss_name).jacobian(tape.y_hat[s, 0]) if s >= 0 else None
    return {
        "t": t + 1,
        "B2": None if jacobian is None else {"jacobian": jacobian.tolist()},
        "B3": {"do": tape.do[t, 0].tolist()},
        "B6": {"own": tape.dh_direct[t, 0].tolist(), "future": future.tolist(), "dh": tape.dh[t, 0].tolist()},
        "B7": {
            "slope": activation(record.activation).derivative(tape.h[t, 0]).tolist(),
            "da": tape.da[t, 0].tolist(),
        },
        "B11": {"handed": (handed[t] if t else tape.dh0[0]).tolist(), "dx": tape.dx[t, 0].tolist()},
    }
