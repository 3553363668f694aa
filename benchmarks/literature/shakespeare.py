"""Characters of Shakespeare: `python -m benchmarks.literature.shakespeare PATH/tinyshakespeare.txt --hidden 128`.

One model and one recipe, with `bptt.nn.RNN` and with `torch.nn.RNN` as its recurrent layer, trained by
`bptt.train.Training`. torch.nn.RNN takes no tokens, so it is given their one-hot vectors. The last tenth of the text is
the test part, read once at the end; the twentieth before it is the validation part, read after each epoch, and the
weights with the fewest bits per character on it are kept. Both trainings of a seed start from the same weights and see
the same windows; they take turns of `TURN` steps in one process, so that whatever the machine does happens to both, and
each one's time is the sum over its turns, readings of the validation part included.

--speed leaves the quality out: `TURNS` turns of each at the sizes asked for, median seconds of a step, their ratio.
"""

import argparse
import statistics
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.literature.outcome import Lines, mean_and_spread, parser
from benchmarks.report import Table
from benchmarks.train_text import OneHotRNN
from bptt import data
from bptt.nn import Elman
from bptt.train import Recipe, Training, bits_per_token

TEST, VALIDATION = 0.10, 0.05
TURN, TURNS = 20, 15
PARTIES = ("bptt", "torch")


@dataclass(frozen=True)
class Text:
    """Tokens (N,) of the three parts, in the order of the text, and how many different characters it has."""

    training: Tensor
    validation: Tensor
    test: Tensor
    symbols: int


def parts(characters: str) -> Text:
    vocabulary = data.Vocabulary.of(characters)
    tokens = vocabulary.encode(characters)
    validation, test = (round(len(tokens) * (1 - share)) for share in (TEST + VALIDATION, TEST))
    return Text(tokens[:validation], tokens[validation:test], tokens[test:], len(vocabulary))


def trainings(text: Text, recipe: Recipe) -> dict[str, Training]:
    """The two, from the same weights."""
    torch.manual_seed(recipe.seed)
    ours = Elman(text.symbols, recipe.hidden, text.symbols, num_layers=recipe.layers)
    theirs = Elman(text.symbols, recipe.hidden, text.symbols, num_layers=recipe.layers)
    theirs.readout.load_state_dict(ours.readout.state_dict())
    one_hot = OneHotRNN(text.symbols, recipe.hidden, recipe.layers)
    one_hot.rnn.load_state_dict(ours.rnn.state_dict())
    theirs.add_module("rnn", one_hot)
    models = dict(zip(PARTIES, (ours, theirs), strict=True))
    return {name: Training(model, text.training, text.validation, recipe) for name, model in models.items()}


def turn(training: Training) -> float:
    """Seconds of a step, in the mean over one turn."""
    step, seconds = training.step, training.seconds
    training.run(should_stop=lambda: training.step >= step + TURN)
    return (training.seconds - seconds) / max(1, training.step - step)


def in_turns(both: dict[str, Training]) -> None:
    """Trains all to the end."""
    while not all(training.finished for training in both.values()):
        for training in both.values():
            if not training.finished:
                turn(training)


def bits_on_test(training: Training, test: Tensor) -> float:
    training.model.load_state_dict(training.best_weights)
    return bits_per_token(training.model, test)


def measure_speed(text: Text, recipe: Recipe) -> dict[str, float]:
    """Median seconds of a step for each of the two."""
    both = trainings(text, recipe)
    for training in both.values():
        turn(training)
    seconds = {name: [] for name in both}
    for _ in range(TURNS):
        for name, training in both.items():
            seconds[name].append(turn(training))
    return {name: statistics.median(found) for name, found in seconds.items()}


def _speed(text: Text, arguments: argparse.Namespace, lines: Lines) -> Table:
    rows = []
    for hidden in arguments.hidden:
        recipe = _recipe(arguments, hidden, seed=0)
        seconds = measure_speed(text, recipe)
        ratio = seconds["torch"] / seconds["bptt"]
        case = f"{recipe.bptt},{recipe.streams},{text.symbols},{hidden}"
        lines.append({"case": case, "layers": recipe.layers, "seconds_per_step": seconds, "ratio": round(ratio, 3)})
        speeds = [f"{recipe.bptt * recipe.streams / seconds[name]:,.0f}" for name in PARTIES]
        rows.append([case, str(recipe.layers), *speeds, f"{ratio:.2f}" + " <" * (ratio < 1)])
    head = ["T,B,symbols,H", "layers", *(f"{name}, characters/s" for name in PARTIES), "torch / bptt"]
    return Table("Time of training on characters", head, rows)


def _quality(text: Text, arguments: argparse.Namespace, lines: Lines) -> Table:
    rows = []
    for hidden in arguments.hidden:
        bits: dict[str, list[float]] = {name: [] for name in PARTIES}
        seconds: dict[str, list[float]] = {name: [] for name in PARTIES}
        for seed in arguments.seeds:
            recipe = _recipe(arguments, hidden, seed)
            both = trainings(text, recipe)
            in_turns(both)
            for name, training in both.items():
                bits[name].append(bits_on_test(training, text.test))
                seconds[name].append(training.seconds)
            lines.append(
                {
                    "recipe": asdict(recipe),
                    "validation_bits": {name: training.best_bits for name, training in both.items()},
                    "test_bits": {name: found[-1] for name, found in bits.items()},
                    "seconds": {name: round(found[-1], 1) for name, found in seconds.items()},
                }
            )
        for name in PARTIES:
            ratio = statistics.mean(seconds["torch"]) / statistics.mean(seconds[name])
            row = [str(hidden), name, mean_and_spread(bits[name]), mean_and_spread(seconds[name], 0), f"{ratio:.2f}"]
            rows.append(row)
    head = ["H", "recurrent layer", "test bits per character", "s", "torch's time / this"]
    seeds = ", ".join(map(str, arguments.seeds))
    return Table(f"Characters of Shakespeare, {arguments.epochs} epochs, seeds {seeds}", head, rows)


def _recipe(arguments: argparse.Namespace, hidden: int, seed: int) -> Recipe:
    return Recipe(
        hidden=hidden,
        layers=arguments.layers,
        bptt=arguments.steps,
        streams=arguments.streams,
        lr=arguments.lr,
        epochs=arguments.epochs,
        held_out=VALIDATION,
        seed=seed,
    )


def main() -> None:
    options = parser("shakespeare", __doc__)
    options.add_argument("text", help="the text, for example tinyshakespeare.txt")
    options.add_argument("--hidden", type=int, nargs="+", default=[128, 256], help="units of a layer")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--steps", type=int, default=64, help="T, the length of a window")
    options.add_argument("--streams", type=int, default=32, help="B")
    options.add_argument("--lr", type=float, default=3e-3)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--speed", action="store_true", help="times alone, in seconds instead of minutes")
    arguments = options.parse_args()
    text = parts(data.read(arguments.text).characters)
    lines = Lines("shakespeare", arguments.output)
    lines.show((_speed if arguments.speed else _quality)(text, arguments, lines))


if __name__ == "__main__":
    main()
