"""`bptt trace`: an example worked through."""

import json as json_format
from typing import Annotated

import typer
from rich.console import Console

from bptt import trace as printed
from bptt import worked
from bptt.errors import InputError


def trace(
    example: Annotated[str, typer.Argument(metavar="EXAMPLE", help="cell, a word, numbers with commas, or bits.")],
    hidden: Annotated[int | None, typer.Option(help="Hidden units.", show_default="2 to 8, by example")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of W ← W − lr ∂W.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    nonlinearity: Annotated[
        str | None, typer.Option(help="tanh, relu, sigmoid or identity.", show_default="tanh; bits: relu")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="What numbers should lead to.", show_default="straight on")
    ] = None,
    train: Annotated[
        int | None, typer.Option(help="Updates in all.", show_default="until right, at most 10,000")
    ] = None,
    digits: Annotated[int, typer.Option(help="Significant digits to print.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Work an example through: side A forward, side B backward through time, every number with its equation.

    Then one update of every weight, training until the answer is right, and how far side B is from autograd.

    [bold]Examples[/bold]

    [cyan]bptt trace cell[/cyan]   # one cell, one step, all seventeen equations

    [cyan]bptt trace hello[/cyan]   # a word, one character at a time

    [cyan]bptt trace 1,3,5,7,9[/cyan]   # numbers, one at a time; the last output is to be 11

    [cyan]bptt trace 01101001[/cyan]   # eight bits, relu and sigmoid

    [cyan]bptt trace --lr 0.05 -- -1,0,1[/cyan]   # a first number below zero comes after --
    """
    if not 2 <= digits <= 17:
        raise InputError(f"--digits must lie in 2 to 17; got {digits}. 4 fits a terminal of 80 columns.")
    chosen = worked.example(example, hidden=hidden, lr=lr, seed=seed, nonlinearity=nonlinearity, target=target)
    result = worked.work(chosen, train)
    if json:
        print(json_format.dumps(worked.as_data(result), ensure_ascii=False, allow_nan=False))
    else:
        printed.render(result, Console(highlight=False), digits)
