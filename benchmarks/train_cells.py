"""Which cell learns best: trainings as `bptt train` makes them, with several cells at about as many weights each.

    python -m benchmarks.train_cells text corpus.txt --steps 2000
    python -m benchmarks.train_cells labelled vowels.csv gestures.csv --label speaker --sequence utterance
    python -m benchmarks.train_cells series air.csv:passengers beer.csv:litres --horizon 1 12

Each cell gets the number of hidden units with which its network has most nearly as many weights as the plain cell has
with the default number, or with --same-units that number. A figure is the smallest loss on the validation part (of a
text, the held-out part) in a training, mean and standard deviation over the seeds, and seconds a training. Everything
else is the default recipe; --lr tries several learning rates for each cell. The test part is never read: of labelled
sequences there is none here, and the seed draws the validation part too; of a series it stays unread at the end.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.report import Table, aligned
from bptt.tasks import Labelled, ResumableTask, Series, Text, data, labelled
from bptt.tasks import table as tables
from bptt.train import Training

Make = Callable[[dict[str, Any]], ResumableTask]
"""A task, from settings of its recipe."""


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, Make]]:
    """What is to be learnt, by name."""
    for given in arguments.files:
        path, _, column = given.rpartition(":") if arguments.task == "series" else (given, "", "")
        name = Path(path).stem
        match arguments.task:
            case "text":
                corpus = data.read(path)
                yield name, lambda recipe, corpus=corpus: Text(corpus, Text.Recipe(**recipe))
            case "labelled":
                source = tables.read(path)
                roles = labelled.roles(source, arguments.label, arguments.sequence, arguments.time)
                yield (
                    name,
                    lambda recipe, source=source, roles=roles: Labelled(
                        source, Labelled.Recipe(**recipe, validation=0.3, test=0.0, split=recipe["seed"]), roles
                    ),
                )
            case _:
                source = tables.read(path)
                for horizon in arguments.horizon:
                    yield (
                        f"{name}, {horizon} ahead",
                        lambda recipe, source=source, column=column, horizon=horizon: Series(
                            source, Series.Recipe(**recipe, horizon=horizon), [column]
                        ),
                    )


def weights(task: ResumableTask, **recipe: Any) -> int:
    """The number of weights of the task's network."""
    with torch.device("meta"):
        model = task.network(task.about(), replace(task.recipe, **recipe))
    return sum(parameter.numel() for parameter in model.parameters())


def units(task: ResumableTask, cell: str, wanted: int) -> int:
    """The number of hidden units with which the network of this cell has most nearly so many weights."""
    other = {"cell": cell, "nonlinearity": None}
    most = next(2**k for k in range(1, 31) if weights(task, hidden=2**k, **other) > wanted)
    return min(range(max(1, most // 2), most + 1), key=lambda h: abs(weights(task, hidden=h, **other) - wanted))


def trained(task: ResumableTask) -> tuple[float, float]:
    """The smallest validation loss, in the unit of the task's measure, and seconds."""
    recipe: Any = task.recipe
    torch.manual_seed(recipe.seed)
    model = task.network(task.about(), recipe)
    task.prepare(model)
    training = Training(model, task)
    training.run(threads=torch.get_num_threads())
    assert training.best_loss is not None
    return task.measure.factor * training.best_loss, training.seconds


def rows(name: str, make: Make, cells: list[str], rates: list[float], settings: dict[str, Any]) -> Iterator[list[str]]:
    """A line for each cell and learning rate."""
    seeds, same_units = settings.pop("seeds"), settings.pop("same_units")
    plain: Any = make({**settings, "seed": seeds[0]})
    wanted = weights(plain, cell="elman")
    for cell in cells:
        hidden = plain.recipe.hidden if same_units else units(plain, cell, wanted)
        for lr in rates:
            recipe = {**settings, "cell": cell, "hidden": hidden, "lr": lr}
            found = [trained(make({**recipe, "seed": seed})) for seed in seeds]
            losses = [loss for loss, _ in found]
            spread = f" ± {statistics.stdev(losses):.2g}" if len(losses) > 1 else ""
            seconds = statistics.mean(seconds for _, seconds in found)
            own = weights(plain, cell=cell, hidden=hidden, nonlinearity=None)
            size = [str(hidden), f"{own:,}"]
            yield [name, cell, *size, f"{lr:g}", f"{statistics.mean(losses):.4g}{spread}", f"{seconds:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_cells", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", choices=["text", "labelled", "series"])
    parser.add_argument("files", nargs="+", help="texts, tables, or TABLE:COLUMN for series")
    parser.add_argument("--label", help="of labelled sequences: the column to learn")
    parser.add_argument("--sequence", help="the column that names the sequence")
    parser.add_argument("--time", help="the column that orders the steps")
    parser.add_argument("--horizon", type=int, nargs="+", default=[1], help="of series; default: 1")
    parser.add_argument("--cells", nargs="+", default=["elman", "gru", "lstm", "mgu"], help="default: these four")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--same-units", action="store_true", help="the default number of units for every cell")
    parser.add_argument("--steps", type=int, help="updates; default: the epochs of the recipe")
    parser.add_argument("--lr", type=float, nargs="+", help="learning rates; default: that of the recipe")
    arguments = parser.parse_args()
    kind = {"text": Text, "labelled": Labelled, "series": Series}[arguments.task]
    usual: dict[str, Any] = {field.name: field.default for field in fields(kind.Recipe)}
    lines: list[list[str]] = []
    for name, make in jobs(arguments):
        settings = {"steps": arguments.steps, "seeds": arguments.seeds, "same_units": arguments.same_units}
        for line in rows(name, make, arguments.cells, arguments.lr or [usual["lr"]], settings):
            print("  ".join(line), flush=True)
            lines.append(line)
    threads = torch.get_num_threads()
    title = f"{kind.measure.name if arguments.task != 'text' else 'Bits per symbol'} in validation, "
    title += f"{len(arguments.seeds)} seeds; {machine()['processor']}, {threads} threads"
    print(aligned(Table(title, ["data", "cell", "units", "weights", "lr", "validation", "seconds"], lines)))


if __name__ == "__main__":
    main()
