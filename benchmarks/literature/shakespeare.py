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
import math
import statistics
from dataclasses import asdict

import torch
from torch import Tensor

from benchmarks.literature.outcome import Lines, mean_and_spread, parser
from benchmarks.report import Table
from benchmarks.train_text import OneHotRNN
from bptt.nn import Elman
from bptt.tasks import Text, data
from bptt.tasks.text import nats_per_token
from bptt.train import Training

TEST, VALIDATION = 0.10, 0.05
TURN, TURNS = 20, 15
PARTIES = ("bptt", "torch")


def parts(text: data.Corpus, recipe: Text.Recipe) -> tuple[Text, Tensor]:
    """The task, whose text is all but the last tenth and knows all characters; and the tokens (N,) of that tenth."""
    vocabulary = data.Vocabulary.of(text)
    characters = text.characters
    size = round(len(characters) * (1 - TEST))
    known = data.Corpus(characters[:size].encode(), text.source)
    return Text(known, recipe, vocabulary), vocabulary.encode(characters[size:])


def trainings(task: Text) -> dict[str, Training]:
    """The two, from the same weights."""
    recipe, symbols = task.recipe, len(task.vocabulary)
    torch.manual_seed(recipe.seed)
    ours = Elman(symbols, recipe.hidden, symbols, num_layers=recipe.layers)
    theirs = Elman(symbols, recipe.hidden, symbols, num_layers=recipe.layers)
    theirs.readout.load_state_dict(ours.readout.state_dict())
    one_hot = OneHotRNN(symbols, recipe.hidden, recipe.layers)
    one_hot.rnn.load_state_dict(ours.rnn.state_dict())
    theirs.add_module("rnn", one_hot)
    models = dict(zip(PARTIES, (ours, theirs), strict=True))
    return {name: Training(model, task) for name, model in models.items()}


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
    return nats_per_token(training.model, test) / math.log(2)


def measure_speed(task: Text) -> dict[str, float]:
    """Median seconds of a step for each of the two."""
    both = trainings(task)
    for training in both.values():
        turn(training)
    seconds = {name: [] for name in both}
    for _ in range(TURNS):
        for name, training in both.items():
            seconds[name].append(turn(training))
    return {name: statistics.median(found) for name, found in seconds.items()}


def _speed(text: data.Corpus, arguments: argparse.Namespace, lines: Lines) -> Table:
    rows = []
    for hidden in arguments.hidden:
        recipe = _recipe(arguments, hidden, seed=0)
        task, _ = parts(text, recipe)
        seconds = measure_speed(task)
        ratio = seconds["torch"] / seconds["bptt"]
        case = f"{recipe.bptt},{recipe.streams},{len(task.vocabulary)},{hidden}"
        lines.append({"case": case, "layers": recipe.layers, "seconds_per_step": seconds, "ratio": round(ratio, 3)})
        speeds = [f"{recipe.window(0) * recipe.streams / seconds[name]:,.0f}" for name in PARTIES]
        rows.append([case, str(recipe.layers), *speeds, f"{ratio:.2f}" + " <" * (ratio < 1)])
    head = ["T,B,symbols,H", "layers", *(f"{name}, characters/s" for name in PARTIES), "torch / bptt"]
    return Table("Time of training on characters", head, rows)


def _quality(text: data.Corpus, arguments: argparse.Namespace, lines: Lines) -> Table:
    rows = []
    for hidden in arguments.hidden:
        bits: dict[str, list[float]] = {name: [] for name in PARTIES}
        seconds: dict[str, list[float]] = {name: [] for name in PARTIES}
        for seed in arguments.seeds:
            recipe = _recipe(arguments, hidden, seed)
            task, test = parts(text, recipe)
            both = trainings(task)
            in_turns(both)
            for name, training in both.items():
                bits[name].append(bits_on_test(training, test))
                seconds[name].append(training.seconds)
            lines.append(
                {
                    "recipe": asdict(recipe),
                    "validation_nats": {name: training.best_loss for name, training in both.items()},
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


def _recipe(arguments: argparse.Namespace, hidden: int, seed: int) -> Text.Recipe:
    return Text.Recipe(
        hidden=hidden,
        layers=arguments.layers,
        bptt=arguments.steps,
        streams=arguments.streams,
        lr=arguments.lr,
        epochs=arguments.epochs,
        held_out=VALIDATION / (1 - TEST),
        seed=seed,
    )


def main() -> None:
    options = parser("shakespeare", __doc__)
    options.add_argument("text", help="the text, for example tinyshakespeare.txt")
    options.add_argument("--hidden", type=int, nargs="+", default=[128], help="units of a layer")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--steps", type=int, default=64, help="T, the length of a window")
    options.add_argument("--streams", type=int, default=8, help="B")
    options.add_argument("--lr", type=float, default=6e-3)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--speed", action="store_true", help="times alone, in seconds instead of minutes")
    arguments = options.parse_args()
    text = data.read(arguments.text)
    lines = Lines("shakespeare", arguments.output)
    lines.show((_speed if arguments.speed else _quality)(text, arguments, lines))


if __name__ == "__main__":
    main()
