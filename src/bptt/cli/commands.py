"""The commands: their options and their help. The modules that do the work are imported when a command is called.

`bptt --help`, completion in a shell and messages about mistyped options need this file alone, and no torch.
"""

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from bptt import startup
from bptt.cli.shell import path, was_given
from bptt.errors import InputError

TEXT, TABLE, SERIES, LABELLED = "Text", "Tables", "Series", "Labelled sequences"
WRITTEN = "How a table is written"
NETWORK, LENGTH = "Network", "Training"
OF_THE_RUN = ("out", "file", "threads", "resume", "overwrite", "json")  # options of `train`; the others are its task's

ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=os.cpu_count(),
        help="Threads to work on.",
        show_default="OMP_NUM_THREADS, or one for each core",
    ),
]

EncodingOption = Annotated[
    str | None,
    typer.Option(
        help="Encoding of the letters, as cp1252.", rich_help_panel=WRITTEN, show_default="UTF-8, or UTF-16 if it shows"
    ),
]
MissingOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="Stands for an unknown value, as -999; may be given again.", rich_help_panel=WRITTEN
    ),
]
DecimalOption = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="Before decimals: , or .", rich_help_panel=WRITTEN, show_default="found"),
]
HeaderOption = Annotated[
    str | None,
    typer.Option(help="none: no line names the columns.", rich_help_panel=WRITTEN, show_default="found"),
]
SheetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Sheet of a workbook, or file in a zip.",
        rich_help_panel=WRITTEN,
        show_default="the only one",
    ),
]


def train(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", parser=path, metavar="RUN", help="Directory for everything the training leaves behind."
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            parser=path,
            metavar="FILE",
            help="Any text in UTF-8, or a table (CSV, Parquet). Without it: the English text that ships with CPython.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to forecast; several with commas, or the option again.", rich_help_panel=SERIES, metavar="NAME"
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that tells several series in one table apart; several with commas.",
            rich_help_panel=SERIES,
            metavar="NAME",
            show_default="one series",
        ),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps to forecast at once.", rich_help_panel=SERIES, show_default="1")
    ] = None,
    season: Annotated[
        str | None,
        typer.Option(
            help="Steps of a season; of several with commas, the rule's own first.",
            rich_help_panel=SERIES,
            metavar="STEPS",
            show_default="found",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Steps the network reads to forecast.", rich_help_panel=SERIES, show_default="2 seasons, at least 32"
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="What the network corrects: linear, last, season, none or auto, the best in validation.",
            rich_help_panel=SERIES,
            show_default="auto",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column with what a sequence is, which is to be learnt.", rich_help_panel=LABELLED),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(
            help="Column that says which sequence a row belongs to. Without it every row is one.",
            rich_help_panel=LABELLED,
        ),
    ] = None,
    test_file: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="FILE", help="A table of its own for the test part.", rich_help_panel=LABELLED
        ),
    ] = None,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Read from both ends.", rich_help_panel=LABELLED)
    ] = False,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Rare labels count as much as frequent ones.", rich_help_panel=LABELLED)
    ] = False,
    inputs: Annotated[
        str | None,
        typer.Option(
            help="Columns to read, with commas; labelled: also first..last.",
            rich_help_panel=TABLE,
            show_default="series: none, labelled: all others",
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Column that orders the steps, or several, as Date,Time; none: rows stand in order.",
            rich_help_panel=TABLE,
            show_default="found by type, name or content",
        ),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Share that chooses the best weights.", rich_help_panel=TABLE, show_default="0.15"),
    ] = None,
    test: Annotated[
        float | None,
        typer.Option(
            help="Share that is read once, at the end.",
            rich_help_panel=TABLE,
            show_default="series: 0.15, labelled: 0.2",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Windows or sequences in a batch.", rich_help_panel=TABLE, show_default="series: 32, labelled: 16"
        ),
    ] = None,
    encoding: EncodingOption = None,
    missing: MissingOption = None,
    decimal: DecimalOption = None,
    header: HeaderOption = None,
    sheet: SheetOption = None,
    unit: Annotated[
        str | None,
        typer.Option(help="character, byte or word.", rich_help_panel=TEXT, show_default="character"),
    ] = None,
    words: Annotated[
        int | None,
        typer.Option(
            help="Different words at most; rarer ones become <unk>.", rich_help_panel=TEXT, show_default="10000"
        ),
    ] = None,
    bptt: Annotated[
        str | None,
        typer.Option(
            help="Window k2: steps through which the gradient goes back, or full.",
            rich_help_panel=TEXT,
            show_default="64",
        ),
    ] = None,
    k1: Annotated[
        int | None,
        typer.Option(help="Steps between two updates.", rich_help_panel=TEXT, show_default="the window"),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(help="Parts of the text read side by side.", rich_help_panel=TEXT, show_default="32"),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Share of the text, at its end, that is held out; 0: none.", rich_help_panel=TEXT, show_default="0.05"
        ),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            metavar="CELL",
            help="elman, lstm, gru, gru-v1, mgu, peephole, indrnn, or a file with equations. In validation gru did "
            "best for texts, in more time, and for two of three labelled sets; for series they hardly differ "
            "(docs/networks.md).",
            rich_help_panel=NETWORK,
            show_default="text: elman, series: elman, labelled: gru",
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            help="Hidden units.", rich_help_panel=NETWORK, show_default="text: 256, series: 16 or 32, labelled: 64"
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers, one above the other.", rich_help_panel=NETWORK, show_default="1")
    ] = None,
    nonlinearity: Annotated[
        str | None,
        typer.Option(help="φ of elman: tanh, relu, sigmoid or identity.", rich_help_panel=NETWORK, show_default="tanh"),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam or sgd.", rich_help_panel=LENGTH, show_default="adam")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start; it falls linearly to zero.", rich_help_panel=LENGTH, show_default="0.003"
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            help="Gradients with a larger norm are scaled down to it; inf: never.",
            rich_help_panel=LENGTH,
            show_default="1",
        ),
    ] = None,
    clip_value: Annotated[
        float | None,
        typer.Option(
            help="Entries of the gradient beyond ± this are cut to it, before --clip; inf: never.",
            rich_help_panel=LENGTH,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the data; of a series, at most 100 batches each.",
            rich_help_panel=LENGTH,
            show_default="text: 28, series: 30, labelled: 60",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, instead of --epochs.", rich_help_panel=LENGTH)] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds after which to end; the learning rate is zero by then.", rich_help_panel=LENGTH),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="End after so many epochs without improvement on what is held out.", rich_help_panel=LENGTH),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same weights.", rich_help_panel=LENGTH, show_default="0")
    ] = None,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in RUN.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines and nothing else.")] = False,
) -> None:
    """Train a network: on a text, to write like it; a series, to forecast it; labelled sequences, to tell them apart.

    Ctrl-C ends a training with everything saved (exit code 130; SIGTERM and SIGHUP the same, exit code 0).

    --resume goes on from there as if nothing had happened, to the bit.

    Several processes, on one machine or many, share a training when torchrun starts them; a killed one comes back.

    [bold]Examples[/bold]

    [cyan]bptt train -o runs/demo[/cyan]   # a minute on the English text that ships with CPython

    [cyan]bptt train -o runs/demo --resume --epochs 40[/cyan]   # the same, longer

    [cyan]bptt train README.md -o runs/readme --streams 4 --epochs 15[/cyan]   # any text

    [cyan]bptt train README.md -o runs/words --unit word --streams 4 --epochs 50[/cyan]   # word by word

    [cyan]bptt train README.md -o runs/gru --cell gru --streams 4 --epochs 15[/cyan]   # another cell

    [cyan]bptt train -o runs/big --hidden 512 --layers 2 --time-limit 600[/cyan]   # ten minutes

    [cyan]torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m bptt train -o runs/two[/cyan]   # two workers

    [cyan]bptt train air.csv -o runs/air --target passengers --horizon 12[/cyan]   # a year of months ahead

    [cyan]bptt train sales.csv -o runs/sales --target sold --series shop,item[/cyan]   # many series, one model

    [cyan]bptt train vowels.csv -o runs/vowels --label speaker --sequence utterance[/cyan]   # whose voice it is
    """
    given = {
        name: value for name, value in context.params.items() if name not in OF_THE_RUN and was_given(context, name)
    }
    if "bptt" in given:
        given["bptt"] = _steps_or_full(given["bptt"])
    if "season" in given:
        given["season"] = _steps_of_seasons(given["season"])
    given |= {name: None for name in ("clip", "clip_value") if given.get(name) == math.inf}
    if "epochs" in given and "steps" in given:
        raise InputError("The length of a training is --epochs or --steps; got both. Leave one out.")
    if resume and overwrite:
        raise InputError("A run is either gone on with or replaced; got both --resume and --overwrite. Leave one out.")
    from bptt.cli import train as work

    _begin(threads)
    work.train(context, out, file, given, threads=threads, resume=resume, overwrite=overwrite, json=json)


def generate(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Directory that bptt train has written.")],
    prime: Annotated[
        str | None,
        typer.Option(help="What the network reads before it writes.", show_default='"The ", or a line break'),
    ] = None,
    length: Annotated[int, typer.Option(help="Symbols to write: characters, bytes or words, as trained.")] = 400,
    temperature: Annotated[
        float, typer.Option(help="Below 1 surer, above 1 more varied; 0: always the likeliest symbol.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(help="Draw only from the k likeliest symbols.", show_default="all")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw only from the fewest likeliest symbols whose probabilities add up to p.", show_default="all"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Let a trained network continue a prime, symbol by symbol.

    [bold]Examples[/bold]

    [cyan]bptt generate runs/demo[/cyan]

    [cyan]bptt generate runs/demo --prime "The return value" --length 1000 --temperature 0.6 --seed 7[/cyan]

    [cyan]bptt generate runs/demo --temperature 1 --top-k 40 --top-p 0.95[/cyan]   # first temperature, then k, then p
    """
    from bptt.cli import text as work

    _begin(threads)
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    work.generate(run, prime, length, drawing, json=json)


def score(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Directory that bptt train has written.")],
    file: Annotated[Path, typer.Argument(parser=path, metavar="FILE", help="A text in UTF-8; -: standard input.")],
    lines: Annotated[bool, typer.Option("--lines", help="Print every line as well, the worst first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Measure how well a trained network predicts a text: bits per symbol and perplexity, which is 2 to their power.

    The text is read as one stream: what is expected in a line depends on all lines before it. The first symbol is read
    and not predicted.

    [bold]Examples[/bold]

    [cyan]bptt score runs/demo LICENSE[/cyan]

    [cyan]bptt score runs/demo LICENSE --lines | head[/cyan]   # the lines it expected least

    [cyan]cat *.txt | bptt score runs/demo - --json[/cyan]
    """
    from bptt.cli import text as work

    _begin(threads)
    work.score(run, file, lines=lines, json=json)


def forecast(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Directory that bptt train has written.")],
    steps: Annotated[
        int | None, typer.Option(help="Steps after the last known one.", show_default="the horizon trained for")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE", help="The series to go on from.", show_default="the one trained on"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", parser=path, metavar="FILE.csv", help="Where to write it.", show_default="RUN/forecast.csv"
        ),
    ] = None,
    encoding: EncodingOption = None,
    missing: MissingOption = None,
    decimal: DecimalOption = None,
    header: HeaderOption = None,
    sheet: SheetOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Forecast the steps after the end of a series, with a network trained on it.

    80 % of the forecasts in the validation part were no farther from the truth than low and high are from these.

    A picture is written next to the CSV.

    [bold]Examples[/bold]

    [cyan]bptt forecast runs/air --steps 12[/cyan]

    [cyan]bptt forecast runs/air --data newer.csv -o next.csv[/cyan]
    """
    from bptt.cli import series as work

    _begin(threads)
    written = {"encoding": encoding, "missing": missing, "decimal": decimal, "header": header, "sheet": sheet}
    work.forecast(run, steps, data, out, written, json=json)


def classify(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Directory that bptt train has written.")],
    file: Annotated[
        Path,
        typer.Argument(parser=path, metavar="FILE", help="Sequences as CSV or Parquet, with the columns trained on."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", parser=path, metavar="FILE", help="Write label and probability of each as CSV."),
    ] = None,
    encoding: EncodingOption = None,
    missing: MissingOption = None,
    decimal: DecimalOption = None,
    header: HeaderOption = None,
    sheet: SheetOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Say what each sequence of a table is, with a network trained on labelled ones.

    Where the table has labels, they are compared: accuracy and confusion matrix.

    [bold]Examples[/bold]

    [cyan]bptt classify runs/vowels new.csv[/cyan]

    [cyan]bptt classify runs/vowels new.csv -o said.csv[/cyan]
    """
    from bptt.cli import labelled as work

    _begin(threads)
    written = {"encoding": encoding, "missing": missing, "decimal": decimal, "header": header, "sheet": sheet}
    work.classify(run, file, out, written, json=json)


def look(
    file: Annotated[Path, typer.Argument(parser=path, metavar="TABLE", help="CSV and its kin, Parquet or a sheet.")],
    time: Annotated[
        str | None,
        typer.Option(help="Column that orders the rows; none: they stand in order.", show_default="found"),
    ] = None,
    encoding: EncodingOption = None,
    missing: MissingOption = None,
    decimal: DecimalOption = None,
    header: HeaderOption = None,
    sheet: SheetOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Show what would be read of a table, before any training: columns, times, season, gaps, and what looks odd.

    [bold]Examples[/bold]

    [cyan]bptt look air.csv[/cyan]

    [cyan]bptt look export.csv --encoding cp1252 --decimal , --missing -999[/cyan]
    """
    from bptt.cli import look as work

    _begin(threads)
    written = {"encoding": encoding, "missing": missing, "decimal": decimal, "header": header, "sheet": sheet}
    work.look(file, time, written, json=json)


def inspect(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Directory that bptt train has written.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the network reads, at least two symbols.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", parser=path, metavar="FILE", help="The page.", show_default="RUN/inspect.html"),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Play a trained network on a text: forward, then backward through time, where each number comes from.

    The page is one file that needs no network and no Python.

    [bold]Examples[/bold]

    [cyan]bptt inspect runs/demo "The return value" --open[/cyan]

    [cyan]bptt inspect runs/demo "for x in range(" -o loop.html[/cyan]
    """
    from bptt.cli import text as work

    _begin(threads)
    work.inspect(run, text, out, show=show)


def diagnose(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="Directory that bptt train has written.")],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT|TABLE]",
            help="What the network reads: a text, a file with one, or a table with the columns trained on.",
            show_default="what the run has learnt from",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", parser=path, metavar="FILE.html", help="Write a page with a picture as well."),
    ] = None,
    encoding: EncodingOption = None,
    missing: MissingOption = None,
    decimal: DecimalOption = None,
    header: HeaderOption = None,
    sheet: SheetOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Say how far the gradient of a trained network reaches, how its training went, and what to do about it.

    [bold]Examples[/bold]

    [cyan]bptt diagnose runs/demo[/cyan]

    [cyan]bptt diagnose runs/air newer.csv -o air.html[/cyan]
    """
    from bptt.cli import diagnose as work

    _begin(threads)
    written = {"encoding": encoding, "missing": missing, "decimal": decimal, "header": header, "sheet": sheet}
    work.diagnose(run, data, out, written, json=json)


def trace(
    context: typer.Context,
    example: Annotated[
        str, typer.Argument(metavar="EXAMPLE", help="cell, a word, numbers with commas, bits, or vanishing.")
    ],
    cell: Annotated[
        str,
        typer.Option(metavar="CELL", help="elman, lstm, gru, gru-v1, mgu, peephole, indrnn, or a file with equations."),
    ] = "elman",
    hidden: Annotated[int | None, typer.Option(help="Hidden units.", show_default="2 to 8, by example")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of W ← W − lr ∂W.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    nonlinearity: Annotated[
        str | None,
        typer.Option(help="φ of elman: tanh, relu, sigmoid or identity.", show_default="tanh; bits: relu"),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="What numbers should lead to.", show_default="straight on")
    ] = None,
    train: Annotated[
        int | None, typer.Option(help="Updates in all.", show_default="until right, at most 10,000")
    ] = None,
    digits: Annotated[int, typer.Option(help="Significant digits to print.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    threads: ThreadsOption = None,
) -> None:
    """Work an example through: side A forward, side B backward through time, every number with its equation.

    Then one update of every weight, training until the answer is right, and how far side B is from autograd.

    [bold]Examples[/bold]

    [cyan]bptt trace cell[/cyan]   # one cell, one step, each equation once

    [cyan]bptt trace hello[/cyan]   # a word, one character at a time

    [cyan]bptt trace 1,3,5,7,9[/cyan]   # numbers, one at a time; the last output is to be 11

    [cyan]bptt trace 01101001[/cyan]   # eight bits, relu and sigmoid

    [cyan]bptt trace hello --cell lstm[/cyan]   # any cell: a built-in one, or a file with its equations

    [cyan]bptt trace vanishing[/cyan]   # side C: how far the gradient reaches, in networks of two units

    [cyan]bptt trace --lr 0.05 -- -1,0,1[/cyan]   # a first number below zero comes after --
    """
    if not 2 <= digits <= 17:
        raise InputError(f"--digits must lie in 2 to 17; got {digits}. 4 fits a terminal of 80 columns.")
    from bptt.cli import trace as work

    _begin(threads)
    settings = {"hidden": hidden, "lr": lr, "seed": seed, "nonlinearity": nonlinearity, "target": target}
    if example == "vanishing":
        others = [f"--{name}" for name in ("cell", "train", *settings) if was_given(context, name)]
        return work.side_c(digits, others, json=json)
    work.trace(example, cell, train, digits, json=json, **settings)


def derive(
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL", help="elman, lstm, gru, gru-v1, mgu, peephole, indrnn, or a file with equations."
        ),
    ],
    tex: Annotated[bool, typer.Option("--tex", help="Print TeX, for amsmath, MathJax or KaTeX.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    notation: Annotated[
        str,
        typer.Option("--notation", help="Whose names: bptt, posts, d2l, goodfellow, pytorch or keras."),
    ] = "bptt",
) -> None:
    """Derive backpropagation through time for a cell: side B from side A, and which use each term comes from.

    [bold]Examples[/bold]

    [cyan]bptt derive lstm[/cyan]   # as on a blackboard

    [cyan]bptt derive my-cell.txt --tex[/cyan]   # a cell of your own, one equation a line

    [cyan]bptt derive gru --notation pytorch[/cyan]   # under the names of a library or a book
    """
    if tex and json:
        raise InputError("What is printed is TeX or JSON; got both --tex and --json. Leave one out.")
    from bptt.cli import derive as work

    startup.over()
    work.derive(cell, notation=notation, tex=tex, json=json)


def _begin(threads: int | None) -> None:
    """Called when everything has been imported."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    startup.over()


def _steps_of_seasons(text: str) -> int | tuple[int, ...]:
    try:
        season, *further = map(int, text.split(","))
    except ValueError:
        raise InputError(
            f"--season is a number of steps, or several with commas, as in 24,168; got {text!r}."
        ) from None
    return (season, *further) if further else season


def _steps_or_full(text: str) -> int | str:
    if text == "full":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--bptt is a number of steps, or full for whole streams; got {text!r}.") from None
