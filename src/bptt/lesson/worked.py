"""The worked examples: four small networks in which every number can be followed by hand, with any cell.

    cell         one cell, one step: each equation of the cell once
    hello        a word, one character at a time; the target of each step is the next character (any word works)
    1,3,5,7,9    numbers, one at a time; the target of the last output is the number that comes next
    01101001     bits, one at a time, with a sigmoid output; the target of each step is the bit before

All run in float64 with a batch of one. Weights are drawn from (−1/√H, 1/√H) and rounded to two decimals, for a pocket
calculator; those that the text of the cell gives a start begin with it. Every step has the weight w_t = 1, so that
∂o_t = ŷ_t − y_t has no factor (squared error: times 2).

`work` records the tape, takes one step of gradient descent with the tape's gradients, W ← W − lr ∂W, goes on training
in the same way, and checks the tape.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bptt.autograd.readout import Readout
from bptt.engine.functions import NONLINEARITIES
from bptt.errors import InputError
from bptt.lesson.sides import summed
from bptt.nn import Recurrent
from bptt.sheet import Cell, losses, named
from bptt.sheet.cells import elman
from bptt.tape import Tape, record
from bptt.tape.check import Report

PLAIN = named("elman")
LONGEST = 64
MOST_UPDATES = 10_000
SURE = 0.9
CLOSE = 1e-3


class Network(torch.nn.Module):
    """A recurrent layer with an output at every step, or at the last step only."""

    def __init__(
        self, cell: Cell, inputs: int, hidden: int, outputs: int, loss: str, seed: int, *, every_step: bool = True
    ) -> None:
        super().__init__()
        sizes = {size: hidden for size, _ in cell.sheet.sizes.values() if size not in ("I", "H")}
        self.rnn = Recurrent(cell, inputs, hidden, sizes=sizes, dtype=torch.float64)
        self.readout = Readout(hidden, outputs, dtype=torch.float64)
        self.loss_name, self.every_step = loss, every_step
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.weights().items():
            if name not in cell.sheet.given or cell.sheet.given[name].start is None:
                drawn = torch.rand(weight.t().shape, generator=generator, dtype=torch.float64).t()
                weight.copy_((100 * (2 * drawn - 1) / math.sqrt(hidden)).round() / 100)

    def weights(self) -> dict[str, Tensor]:
        """The parameters as the sheet names them and lays them out: views."""
        given = self.rnn.cell.sheet.given
        learned = {name: getattr(self.rnn, f"{name}_l0") for name, one in given.items() if one.learned}
        return {
            name: parameter.detach()
            for name, parameter in {**learned, "W_ho": self.readout.weight.t(), "b_o": self.readout.bias}.items()
        }

    def forward(self, x: Tensor, first: Any = None) -> tuple[Tensor, Any]:
        h, last = self.rnn(x, first)
        return self.readout(h if self.every_step else h[-1]), last


@dataclass(frozen=True)
class Example:
    """A network with its input and its targets.

    kind       "cell", "word", "numbers" or "bits"
    x          (T, 1, I); targets (T, 1) class numbers or (T, 1, O), or (1, O) where only the last step has an output
    first      the states before the first step as the network takes them; None: zero
    alphabet   the characters of the inputs and outputs, where they stand for characters
    scale      numbers are divided by it on the way in and multiplied by it on the way out
    """

    kind: str
    given: str
    task: str
    model: Network
    x: Tensor
    targets: Tensor
    first: Any
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
    """One example worked through: its tape, one update of every parameter, the end of its training, its check.

    once       masks and the values of fixed lines
    gradient   of parameters and fixed lines
    """

    example: Example
    tape: Tape
    before: dict[str, Tensor]
    once: dict[str, Tensor]
    gradient: dict[str, Tensor]
    after: dict[str, Tensor]
    loss_after: float
    outcome: Outcome
    report: Report


def example(
    given: str,
    *,
    cell: Cell = PLAIN,
    hidden: int | None = None,
    lr: float = 0.1,
    seed: int = 0,
    nonlinearity: str | None = None,
    target: float | None = None,
) -> Example:
    """The example for a text: "cell", numbers with commas, bits, or any other word.

    nonlinearity   φ of the plain cell, which is the cell if no other is given

    Raises InputError for a text, a cell or a setting that makes no example.
    """
    _require(
        hidden is None or 1 <= hidden <= LONGEST,
        f"--hidden must lie in 1 to {LONGEST}; got {hidden}. Leave it out for the example's own.",
    )
    _require(0 < lr <= 1000, f"--lr must be above 0 and at most 1000; got {lr:g}. 0.1 suits these examples.")
    _require(0 <= seed < 2**63, f"--seed must be a whole number from 0 to 2^63 - 1; got {seed}. 0 is as good as any.")
    _check_cell(cell, nonlinearity)
    numbers = _numbers(given)
    _require(
        target is None or numbers is not None,
        f"--target is for numbers such as 1,3,5,7,9; got it with {given!r}. Leave it out, or give numbers.",
    )

    def network(inputs: int, enough: int, outputs: int, loss: str, φ: str = "tanh", *, last: bool = False) -> Network:
        chosen = Cell(elman(nonlinearity or φ), cell.name) if cell is PLAIN else cell
        own = inputs if chosen.sheet.equal else enough
        return Network(chosen, inputs, hidden or own, outputs, loss, seed, every_step=not last)

    common: dict[str, Any] = {"lr": lr, "seed": seed}
    if given == "cell":
        model = network(2, 2, 2, "cross_entropy")
        x = torch.tensor([[[1.0, 0.5]]], dtype=torch.float64)
        task = "one cell, one step: two inputs, a state handed in, and the second of two classes is wanted"
        return Example("cell", given, task, model, x, torch.tensor([[1]]), _handed_in(model), **common)
    if numbers is not None:
        return _of_numbers(given, numbers, target, network, common)
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
        model = network(1, 4, 1, "binary_cross_entropy", "relu")
        task = (
            f"the same step, repeated in a loop {len(given)} times; each time the bit before is wanted (first of all 0)"
        )
        return Example("bits", given, task, model, x, torch.cat([0 * x[:1], x[:-1]]), None, **common)
    alphabet = "".join(dict.fromkeys(given))
    tokens = torch.tensor([alphabet.index(character) for character in given])
    one_hot = torch.nn.functional.one_hot(tokens[:-1], len(alphabet)).double()[:, None]
    model = network(len(alphabet), 4 if len(given) <= 8 else 8, len(alphabet), "cross_entropy")
    task = "one character at a time; at each step the network is to name the next one"
    return Example("word", given, task, model, one_hot, tokens[1:, None], None, alphabet=alphabet, **common)


def _check_cell(cell: Cell, nonlinearity: str | None) -> None:
    _require(
        nonlinearity is None or cell is PLAIN,
        f"--nonlinearity is the φ of the plain cell; got {nonlinearity!r} with the cell {cell.name!r}, whose text "
        "names its own functions. Leave one of the two out.",
    )
    _require(
        nonlinearity is None or nonlinearity in NONLINEARITIES,
        f"--nonlinearity must be one of {', '.join(NONLINEARITIES)}; got {nonlinearity!r}. Leave it out or choose one.",
    )
    further = [name for name, given in cell.sheet.given.items() if given.kind in ("rows", "input")]
    _require(
        not further,
        f"a worked example gives a cell x and nothing else; the cell {cell.name!r} also reads {', '.join(further)}. "
        "Take that out of its text, or run it with bptt.nn.Recurrent and look at its tape.",
    )


def _handed_in(model: Network) -> Any:
    """States that differ from unit to unit and from state to state."""
    first = [
        torch.tensor([(0.2, -0.4)[(unit + k) % 2] for unit in range(width)], dtype=torch.float64).view(1, 1, -1)
        for k, width in enumerate(model.rnn.widths_of_states(0))
    ]
    return tuple(first) if len(first) > 1 else first[0]


def _of_numbers(
    given: str, numbers: list[float], target: float | None, network: Callable[..., Network], common: dict[str, Any]
) -> Example:
    _require(len(numbers) >= 2, f"a series needs at least two numbers; got {given!r}. Try 1,3,5,7,9.")
    _require(
        len(numbers) <= LONGEST, f"a series to read has at most {LONGEST} numbers; got {len(numbers)}. Leave some out."
    )
    target = 2 * numbers[-1] - numbers[-2] if target is None else target
    for number in numbers:
        _require(math.isfinite(number), f"numbers must be finite; got {number}. Leave it out.")
    _require(math.isfinite(target), f"the target must be finite; got {target}. Give another --target.")
    largest = max(abs(number) for number in (*numbers, target))
    scale = 10.0 ** math.floor(math.log10(largest)) if largest > 1e-300 else 1.0
    _require(math.isfinite(2 * largest), f"numbers must stay below 9e307; got {largest:g}. Give them in a larger unit.")
    x = torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1) / scale
    model = network(1, 3, 1, "squared_error", last=True)
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


def work(given: Example, updates: int | None = None) -> Worked:
    """Records the tape, updates once, goes on training, and checks the tape. This trains the model of the example.

    updates   their number in all; None: until the answer is right and sure, at most ten thousand

    Raises InputError for a negative number.
    """
    _require(
        updates is None or updates >= 0, f"--train must be 0 or more; got {updates}. Leave it out to train until right."
    )
    model = given.model
    tape = record(
        model, given.x, given.targets, weights=torch.ones(()), h0=given.first, seed=given.seed, text=given.given
    )
    tape.vocabulary = list(given.alphabet) or None
    _check_finite(tape)
    before = {name: weight.clone() for name, weight in model.weights().items()}
    fixed = tape.layer().fixed
    once = {name: rows[0] for name, rows in tape.layer().weights.items() if name not in before | fixed} | fixed
    gradient = summed(tape)
    report = tape.check()
    after = {name: before[name] - given.lr * gradient[name] for name in before}
    _put(model, after)
    with torch.no_grad():
        loss_after = float(_loss(given))
    _put(model, before)
    return Worked(given, tape, before, once, gradient, after, loss_after, _train(given, updates), report)


def _check_finite(tape: Tape) -> None:
    record, steps = tape.layer(), range(tape.steps)
    made = [(f"{name}_t at t = {t + 1}", array[t]) for t in steps for name, array in record.values.items()]
    made.append(("L", tape["L"]))
    made += [(f"∂{name}_t at t = {t + 1}", array[t]) for t in steps[::-1] for name, array in record.totals.items()]
    first = next(((name, number) for name, array in made for number in array.flatten() if not number.isfinite()), None)
    if first is not None:
        name, number = first
        raise InputError(
            f"all numbers of a worked example must be finite; with the cell {record.cell.name!r}, {name} is "
            f"{float(number)}. Try another --seed, or change the line that makes it."
        )


def _put(model: Network, weights: dict[str, Tensor]) -> None:
    for name, value in model.weights().items():
        value.copy_(weights[name])


def _loss(given: Example) -> Tensor:
    o, _ = given.model(given.x, given.first)
    return losses.loss(given.model.loss_name, o, given.targets, torch.ones(()))


def _predicted(given: Example) -> Tensor:
    o, _ = given.model(given.x, given.first)
    return losses.output(given.model.loss_name, o)


def _train(given: Example, updates: int | None) -> Outcome:
    parameters = list(given.model.parameters())
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
        y_hat = _predicted(given)
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
        y_hat = _predicted(given)
    if given.kind == "numbers":
        return abs(float(y_hat) - float(given.targets)) <= CLOSE
    if given.kind == "bits":
        return bool(((y_hat - given.targets).abs() <= 1 - SURE).all())
    return bool((y_hat.gather(-1, given.targets[..., None]) >= SURE).all())
