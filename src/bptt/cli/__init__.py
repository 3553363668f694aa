"""The command line: `bptt train`, `bptt generate`, `bptt forecast`, `bptt classify`, `bptt inspect`, `bptt trace`.

Exit codes: 0 done, or stopped by SIGTERM with everything saved; 1 the training ran into NaN or infinity, or
stdout refused what was printed; 2 something that was given cannot be used; 130 stopped by Ctrl-C with everything saved.
"""

import typer

from bptt.cli import labelled, series, text, trace, train
from bptt.cli.shell import Commands, as_called

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode="rich")


@app.callback()
def bptt() -> None:
    """Recurrent networks and backpropagation through time: exact, fast, every number open to look at."""


app.command(short_help="Train a network on a text or a table.")(train.train)
app.command(short_help="Let a trained network write.")(text.generate)
app.command(short_help="Forecast the steps after the end of a series.")(series.forecast)
app.command(short_help="Say what sequences are, with a network trained on labelled ones.")(labelled.classify)
app.command(short_help="Write a page that plays a trained network on a text, every number open.")(text.inspect)
app.command(short_help="Show forward and backward propagation, every number.")(trace.trace)


def main() -> None:
    app(prog_name=as_called())
