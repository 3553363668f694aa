"""The command line: `bptt train`, `bptt generate`, `bptt score`, `bptt forecast`, `bptt classify`, `bptt look`,
`bptt inspect`, `bptt diagnose`, `bptt trace`, `bptt derive`.

Exit codes: 0 done, or stopped by SIGTERM or SIGHUP with everything saved; 1 NaN or infinity in the training, or stdout
refused what was printed; 2 a file or an option cannot be used; 130 stopped by Ctrl-C with everything saved. While
Python is still importing, a signal ends a command with 128 + its number.
"""

import sys
from typing import Annotated

import typer

import bptt as package
from bptt.cli import commands
from bptt.cli.shell import Commands, as_called

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bptt {package.__version__}")
        raise typer.Exit


@app.callback()
def bptt(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Recurrent networks and backpropagation through time: exact, fast, every number open to look at."""


app.command(short_help="Train a network on a text or a table.")(commands.train)
app.command(short_help="Let a trained network write.")(commands.generate)
app.command(short_help="Measure how well a trained network predicts a text.")(commands.score)
app.command(short_help="Forecast the steps after the end of a series.")(commands.forecast)
app.command(short_help="Say what sequences are, with a network trained on labelled ones.")(commands.classify)
app.command(short_help="Show what would be read of a table.")(commands.look)
app.command(short_help="Write a page that plays a trained network on a text, every number open.")(commands.inspect)
app.command(short_help="Say how far the gradient of a trained network reaches, and what to do.")(commands.diagnose)
app.command(short_help="Show forward and backward propagation, every number.")(commands.trace)
app.command(short_help="Derive side B of a cell from its equations.")(commands.derive)


def main() -> None:
    """Runs the command line. The completion script is for `bptt`, also where that is called by a path."""
    completing = {"--install-completion", "--show-completion"} & {*sys.argv[1:]}
    app(prog_name="bptt" if completing else as_called(), complete_var="_BPTT_COMPLETE")
