"""A worked example printed for reading: side A down the page, side B back through time, every number with its tag.

Vectors are columns, one unit to a line, so that a step is a block of lines and 80 characters are wide enough; a table
that does not fit is continued in another one below. Colour is never the only sign of anything. Numbers have a fixed
number of significant digits, not of decimals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bptt.lesson.worked import WEIGHTS, Example, Worked, step_backward, step_forward, wanted
from bptt.sheet.equations import SIDE_A, SIDE_B, Equation
from bptt.tape.check import Residual

SIDE = {"A": "cyan", "B": "magenta"}
OWN, FUTURE = "blue", "yellow"


def number(value: float, digits: int = 4) -> str:
    """A number with this many significant digits; exact short decimals stay short.

    >>> number(0.000615), number(0.25), number(-12.3456)
    ('6.15e-4', '0.25', '-12.35')
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    in_full = -2 <= power < digits
    text = f"{value:.{max(0, digits - 1 - power)}f}" if in_full else mantissa
    whole, point, decimals = text.partition(".")
    short = f"{whole}{point}{decimals}".rstrip("0").rstrip(".") if point else text
    suffix = "" if in_full else f"e{power}"
    return (short if float(short + suffix) == value else text) + suffix


def character(symbol: str) -> str:
    """A character, visible and without effect on the terminal."""
    if symbol == " ":
        return "' '"
    return symbol if symbol.isprintable() else ascii(symbol)[1:-1]


@dataclass
class Column:
    """One quantity: a cell of lines for each step."""

    tag: str
    symbol: str
    cells: list[list[str]] = field(default_factory=list)
    style: str = ""

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.tag, self.symbol, *(line for cell in self.cells for line in cell))))


def render(worked: Worked, console: Console, digits: int = 4) -> None:
    """Prints the whole example. Nothing is cut off at any width; below 60 columns lines may wrap."""
    for part in _parts(worked, console.width, digits):
        console.print(part, highlight=False)


def _parts(worked: Worked, width: int, digits: int) -> list[RenderableType]:
    given, tape = worked.example, worked.tape
    assert tape.L is not None
    forward = [step_forward(worked, t) for t in range(tape.steps)]
    backward = [step_backward(worked, t) for t in reversed(range(tape.steps))]
    parts: list[RenderableType] = [*_opening(given), *_sheet()]
    parts += [
        _heading("A", f"Side A · forward, {_span(tape.steps)}"),
        *_tables(_forward_columns(given, forward, digits), width),
    ]
    total = _sum_of_losses(forward, digits)
    parts.append(_tagged("B1", f"L = {total}{number(float(tape.L), digits)}"))
    parts += [
        _heading("B", f"Side B · backward, {_span(tape.steps, back=True)}"),
        *_tables(_backward_columns(given, backward, digits), width),
        *_jacobians(given, backward, digits),
        _heading("B", "Summed over time, and one step of gradient descent: W ← W − lr ∂W"),
        Text(f"lr = {given.lr:g}\n"),
    ]
    parts += [_update(worked, name, tag, digits) for name, tag in WEIGHTS.items()]
    before, after = float(tape.L), worked.loss_after
    verdict = (
        "smaller" if after < before else "not smaller: a step of this size goes too far" if after > before else "equal"
    )
    parts.append(Text(f"L before {number(before, digits)}, after {number(after, digits)}: {verdict}"))
    parts += [_result(worked, digits), _judgement(worked)]
    return parts


def _span(steps: int, *, back: bool = False) -> str:
    if steps == 1:
        return "t = 1"
    return f"t = {steps} to 1: time runs backwards" if back else f"t = 1 to {steps}"


def _heading(side: str, text: str) -> Text:
    return Text.assemble("\n", (text, f"bold {SIDE[side]}"))


def _tagged(tag: str, text: str) -> Text:
    return Text.assemble((tag, SIDE[tag[0]]), f"  {text}")


def _opening(given: Example) -> list[RenderableType]:
    model, rnn = given.model, given.model.rnn
    outputs = model.readout.out_features
    g = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "squared_error": "identity"}[model.loss_name]
    lines = [
        Text.assemble(
            ("".join(symbol if symbol == " " else character(symbol) for symbol in given.given), "bold"),
            f": {given.task}",
        ),
        Text(
            f"{_count(rnn.input_size, 'input')}, {_count(rnn.hidden_size, 'hidden unit')} (φ = {rnn.nonlinearity}), "
            f"{_count(outputs, 'output')} (g = {g}), {model.loss_name.replace('_', ' ')}; float64, seed {given.seed}"
        ),
        Text(f"weights drawn from (−1/√{rnn.hidden_size}, 1/√{rnn.hidden_size}), rounded to two decimals; all w_t = 1"),
    ]
    if given.alphabet:
        shown = ", ".join(f"{index} = {character(symbol)}" for index, symbol in enumerate(given.alphabet, 1))
        lines.append(Text(f"inputs and outputs by number: {shown}"))
    if given.kind == "numbers":
        lines.append(Text(f"numbers are divided by {given.scale:g} on the way in and multiplied by it on the way out"))
    return list(lines)


def _count(size: int, what: str) -> str:
    return f"{size} {what}{'' if size == 1 else 's'}"


def _sheet() -> list[RenderableType]:
    def table(equations: Sequence[Equation]) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for equation in equations:
            table.add_row(
                Text(equation.tag, SIDE[equation.side]), Text(equation.formula), Text(equation.meaning, "dim")
            )
        return table

    return [
        _heading("A", "The equations, side A"), table(SIDE_A),
        _heading("B", "The equations, side B (∂u is ∂L/∂u)"), table(SIDE_B),
    ]  # fmt: skip


def _numbers(values: Sequence[float] | float | None, digits: int) -> list[str]:
    if values is None:
        return ["–"]
    return [number(value, digits) for value in ([values] if isinstance(values, int | float) else values)]


def _get(step: dict[str, Any], tag: str, name: str) -> Any:
    return None if step[tag] is None else step[tag][name]


def _forward_columns(given: Example, steps: list[dict[str, Any]], digits: int) -> list[Column]:
    def column(tag: str, symbol: str, name: str, shown: str | None = None, style: str = "") -> Column:
        return Column(shown or tag, symbol, [_numbers(_get(step, tag, name), digits) for step in steps], style)

    columns = [Column("", "t", [[str(step["t"])] for step in steps])]
    if given.alphabet:
        columns.append(Column("A1", "", [[character(given.given[step["t"] - 1])] for step in steps], "bold"))
    columns += [
        column("A1", "x_t", "x"),
        column("A1", "h_{t-1}", "h_prev"),
        column("A2", "a_t", "a"),
        column("A3", "h_t", "h", "A3 A4", "bold"),
        column("A5", "o_t", "o"),
        column("A6", "ŷ_t", "y_hat", style="bold"),
    ]
    if given.alphabet:
        labels = [[character(symbol) for symbol in given.alphabet] for _ in steps]
        columns.append(Column("", "", labels))
        columns.append(Column("B1", "y_t", [[character(given.given[step["t"]])] for step in steps], "bold"))
    elif given.kind == "cell":
        columns.append(Column("B1", "y_t", [[str(step["B1"]["y"][0] + 1)] for step in steps]))
    else:
        columns.append(column("B1", "y_t", "y"))
    columns.append(column("B1", "loss_t", "loss"))
    return columns


def _backward_columns(given: Example, steps: list[dict[str, Any]], digits: int) -> list[Column]:
    def column(tag: str, symbol: str, name: str, style: str = "") -> Column:
        return Column(tag, symbol, [_numbers(_get(step, tag, name), digits) for step in steps], style)

    columns = [Column("", "t", [[str(step["t"])] for step in steps])]
    if given.model.readout.out_features == 1:
        slopes = [None if step["B2"] is None else step["B2"]["jacobian"][0][0] for step in steps]
        columns.append(Column("B2", "∂ŷ/∂o", [_numbers(slope, digits) for slope in slopes]))
    return [
        *columns,
        column("B3", "∂o_t", "do"),
        column("B6", "own", "own", OWN),
        column("B6", "+ future", "future", FUTURE),
        column("B6", "= ∂h_t", "dh", "bold"),
        column("B7", "× φ'", "slope"),
        column("B7", "= ∂a_t", "da", "bold"),
        column("B11", "to t−1", "handed", FUTURE),
        column("B11", "∂x_t", "dx"),
    ]


def _tables(columns: list[Column], width: int) -> list[RenderableType]:
    """As few tables as the width allows, each with the column of t."""
    time, *others = columns
    rows: list[list[Column]] = [[]]
    room = 0
    for column in others:
        needed = column.width + 2
        if rows[-1] and room < needed:
            rows.append([])
        if not rows[-1]:
            room = width - time.width
        rows[-1].append(column)
        room -= needed
    return [_table([time, *row]) for row in rows]


def _table(columns: list[Column]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, collapse_padding=True)
    for column in columns:
        header = Text.assemble((column.tag, SIDE.get(column.tag[:1], "")), "\n", (column.symbol, "bold"))
        table.add_column(header, justify="right", no_wrap=True, style=column.style)
    for step in range(len(columns[0].cells)):
        height = max(len(column.cells[step]) for column in columns)
        cells = [Text("\n".join(column.cells[step])) for column in columns]
        table.add_row(*cells)
        if height > 1 and step + 1 < len(columns[0].cells):
            table.add_row()
    return table


def _sum_of_losses(steps: list[dict[str, Any]], digits: int) -> str:
    with_output = [step["B1"] for step in steps if step["B1"] is not None]
    if len(with_output) < 2:
        return "loss_T = " if len(steps) > 1 else "loss_1 = "
    return " + ".join(number(each["loss"], digits) for each in with_output) + " = "


def _matrix(values: list[Any], digits: int, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Table:
    table = Table.grid(padding=(0, 1))
    matrix = values if isinstance(values[0], list) else [values]
    rows = rows if matrix is values else [""]
    for _ in range(1 + len(matrix[0])):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", *(Text(label, "dim") for label in columns))
    for label, row in zip(rows, matrix, strict=True):
        table.add_row(Text(label, "dim"), *map(Text, _numbers(row, digits)))
    return table


def _jacobians(given: Example, steps: list[dict[str, Any]], digits: int) -> list[RenderableType]:
    if given.model.readout.out_features == 1:
        return []
    names = _names(given, given.model.readout.out_features, is_character=True)
    blocks = [
        Group(
            Text.assemble(f"∂ŷ/∂o at t = {step['t']}  ", ("B2", SIDE["B"])),
            _matrix(step["B2"]["jacobian"], digits, names, names),
        )
        for step in steps
        if step["B2"] is not None
    ]
    title = Text("\nB2 is inside B3 already; training never forms it. Here it is all the same:")
    return [title, Columns(blocks, padding=(0, 3))]


def _names(given: Example, size: int, *, is_character: bool) -> list[str]:
    """The labels of rows or columns of a matrix: characters, or numbers from 1."""
    if is_character and given.alphabet:
        return [character(symbol) for symbol in given.alphabet]
    return [str(index) for index in range(1, size + 1)]


def _side_by_side(blocks: list[Group]) -> RenderableType:
    return Padding(Columns(blocks, padding=(0, 3)), (0, 0, 1, 0))


def _update(worked: Worked, name: str, tag: str, digits: int) -> RenderableType:
    given, shape = worked.example, worked.before[name].shape
    columns = _names(given, shape[-1], is_character=name in ("W_ho", "b_o"))
    rows = _names(given, shape[0], is_character=name == "W_xh")
    blocks = [
        Group(
            Text.assemble((title, "bold"), (f"  {shown}", SIDE["B"])),
            _matrix(values[name].tolist(), digits, rows, columns),
        )
        for title, shown, values in (
            (name, "", worked.before),
            (f"∂{name}", tag, worked.gradient),
            (f"{name} after", "", worked.after),
        )
    ]
    return _side_by_side(blocks)


def _result(worked: Worked, digits: int) -> Text:
    given, outcome = worked.example, worked.outcome
    updates = f"After {outcome.updates} update{'' if outcome.updates == 1 else 's'} in all"
    if outcome.answer is None:
        return Text(f"{updates} the loss is no longer finite: try a smaller --lr", "bold red")
    says = {"word": "spells", "numbers": "answers", "bits": "says", "cell": "says"}[given.kind]

    def told(value: str | float) -> str:
        if isinstance(value, str):
            return "".join(map(character, value)) if given.alphabet else value
        return number(value, max(digits, 5))

    answer, goal = told(outcome.answer), told(wanted(given))
    end = "" if outcome.right else f" instead of {goal}: try more --train, another --seed or --hidden"
    starting = f"; started with {character(given.given[0])}, fed with its own answers" if given.alphabet else ""
    return Text.assemble(
        f"{updates}, L is {number(outcome.loss, digits)} and the network {says} ",
        (answer, "bold green" if outcome.right else "bold red"),
        f"{end}{starting}",
    )


def _judgement(worked: Worked) -> Text:
    report = worked.report
    judges = [tag for tag in ("autograd", "central differences") if tag in report.worst]
    words = " and ".join(f"{_distance(report.worst[judge])} off {judge}" for judge in judges)
    verdict = "" if report.ok else "; THIS IS NOT ROUNDING"
    return Text("; ".join([f"Side B is {words} (relative){verdict}", *report.notes]))


def _distance(residual: Residual) -> str:
    return f"{residual.worst:.1e}" if residual.worst else "0"
