"""A worked example printed for reading: side A down the page, side B back through time, every number with its tag.

Vectors are columns, one unit to a line, so that a step is a block of lines and 80 characters are wide enough; a table
that does not fit is continued in another one below. Colour is never the only sign of anything. Numbers have a fixed
number of significant digits, not of decimals.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import Tensor

from bptt.lesson.sides import before, gradients, handed, is_of_next_step, jacobians, of_outputs, values
from bptt.lesson.worked import Example, Worked, wanted
from bptt.sheet.expressions import Name
from bptt.sheet.printing import TEXT
from bptt.sheet.sides import Side, Term
from bptt.tape.check import Residual

SIDE = {"A": "cyan", "B": "magenta", "C": "green"}
OWN, FUTURE = "blue", "yellow"
HEADER_WIDTH, WIDEST_WORD = 11, 40
UNBROKEN = "\N{NO-BREAK SPACE}"
OUTPUTS = "outputs"
OF_LOSS = {
    "cross_entropy": ("softmax", ""),
    "binary_cross_entropy": ("sigmoid", "g is the sigmoid here, so B2 is ŷ_t ⊙ (1 − ŷ_t)"),
    "squared_error": ("identity", "g is the identity here, so B2 is 1; squared error gives B3 the factor 2"),
}


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


def visible(text: str) -> str:
    return "".join(symbol if symbol == " " else character(symbol) for symbol in text)


@dataclass
class Column:
    """One quantity: a cell of lines for each step."""

    tag: str
    symbol: str
    cells: list[list[str]]
    style: str = ""

    @property
    def header(self) -> list[str]:
        """The symbol, in lines where it is long: before a sign, and not inside of brackets."""
        held = re.sub(r"\([^()]*\)|\[[^][]*\]|[−+⊙/=] ", lambda found: found[0].replace(" ", UNBROKEN), self.symbol)
        lines = textwrap.wrap(held, HEADER_WIDTH, break_long_words=False, break_on_hyphens=False)
        pieces = [piece for line in lines for piece in textwrap.wrap(line, WIDEST_WORD, break_on_hyphens=False)]
        return [piece.replace(UNBROKEN, " ") for piece in pieces]

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.tag, *self.header, *(line for cell in self.cells for line in cell))))


def render(worked: Worked, console: Console, digits: int = 4) -> None:
    """Prints the whole example. Nothing is cut off at any width; below 60 columns lines may wrap."""
    for part in _parts(worked, console.width, digits):
        console.print(part, highlight=False)


def _parts(worked: Worked, width: int, digits: int) -> list[RenderableType]:
    given, tape = worked.example, worked.tape
    L, after = float(tape["L"]), worked.loss_after
    verdict = "smaller" if after < L else "not smaller: a step of this size goes too far" if after > L else "equal"
    return [
        *_opening(given),
        *_equations(given),
        heading("A", f"Side A · forward, {_span(tape.steps)}"),
        *_once(worked, digits, width),
        *in_tables([[column] for column in _forward(worked, digits)], width),
        Text.assemble(("B1", SIDE["B"]), f"  L = {_sum_of_losses(worked, digits)}{number(L, digits)}"),
        heading("B", f"Side B · backward, {_span(tape.steps, back=True)}"),
        *in_tables(_backward(worked, digits), width),
        *_jacobians(worked, digits, width),
        heading("B", "Summed over time, and one step of gradient descent: W ← W − lr ∂W"),
        Text(f"lr = {given.lr:g}\n"),
        *_updates(worked, digits, width),
        Text(f"L before {number(L, digits)}, after {number(after, digits)}: {verdict}"),
        _result(worked, digits),
        _judgement(worked),
    ]


def _span(steps: int, *, back: bool = False) -> str:
    if steps == 1:
        return "t = 1"
    return f"t = {steps} to 1: time runs backwards" if back else f"t = 1 to {steps}"


def heading(side: str, text: str) -> Text:
    return Text.assemble("\n", (text, f"bold {SIDE[side]}"))


def _opening(given: Example) -> list[Text]:
    model, rnn = given.model, given.model.rnn
    hidden, loss = model.readout.in_features, model.loss_name
    counts = [_count(rnn.input_size, "input"), _count(hidden, "hidden unit")]
    counts += [f"{size} = {width}" for size, width in rnn.sizes.items()]
    outputs = f"{_count(model.readout.out_features, 'output')} (g = {OF_LOSS[loss][0]}), {loss.replace('_', ' ')}"
    starts = any(one.start is not None for one in rnn.cell.sheet.given.values() if one.learned)
    lines = [
        Text.assemble((visible(given.given), "bold"), f": {given.task}"),
        Text(f"the cell {visible(rnn.cell.name)}: {', '.join(counts)}, {outputs}; float64, seed {given.seed}"),
        Text(
            f"weights drawn from (−1/√{hidden}, 1/√{hidden}), rounded to two decimals"
            f"{', but for those that the text gives a start' if starts else ''}; all w_t = 1"
        ),
    ]
    if given.alphabet:
        shown = ", ".join(f"{index} = {character(symbol)}" for index, symbol in enumerate(given.alphabet, 1))
        lines.append(Text(f"inputs and outputs by number: {shown}"))
    if given.kind == "numbers":
        lines.append(Text(f"numbers are divided by {given.scale:g} on the way in and multiplied by it on the way out"))
    return lines


def _count(size: int, what: str) -> str:
    return f"{size} {what}{'' if size == 1 else 's'}"


def _equations(given: Example) -> list[RenderableType]:
    cell = given.model.rnn.cell
    of_loss = OF_LOSS[given.model.loss_name][1]
    return [
        heading("A", "The equations, side A"), _listed(cell.side_a),
        heading("B", "The equations, side B (∂u is ∂L/∂u; terms of t+1 are zero at the last step)"),
        _listed(cell.side_b), *([Text(of_loss)] if of_loss else []),
    ]  # fmt: skip


def _listed(side: Side) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in (*side.where, *side.lines):
        when = f"   ({'once, before step 1' if line.tag[:1] == 'A' else 'once, after step 1'})" if line.once else ""
        table.add_row(Text(line.tag, SIDE.get(line.tag[:1], "")), Text.assemble(line.text, (when, "dim")))
    return table


def vectors(tag: str, symbol: str, rows: Iterable[Tensor | None], digits: int, style: str = "") -> Column:
    """A column with a vector for each step."""
    cells = [["–"] if row is None else [number(value, digits) for value in row.tolist()] for row in rows]
    return Column(tag, symbol, cells, style)


def _characters(tag: str, symbol: str, steps: Iterable[str]) -> Column:
    return Column(tag, symbol, [[character(each) for each in step] for step in steps], "bold" * bool(tag))


def _forward(worked: Worked, digits: int) -> list[Column]:
    given, tape = worked.example, worked.tape
    states = before(tape)
    taken = {"x_t": tape.x[:, 0], **{TEXT.write(Name(name, -1)): array for name, array in states.items()}}
    columns = [Column("", "t", [[str(t)] for t in range(1, tape.steps + 1)])]
    columns += [_characters("A1", "", given.given[:-1])] if given.alphabet else []
    columns += [vectors("A1", symbol, rows, digits) for symbol, rows in taken.items()]
    for value in values(tape):
        line, is_state = value.line, value.name in states
        tag = f"{line.tag} A4" if is_state else line.tag
        columns.append(vectors(tag, line.symbol, value.whole, digits, "bold" * is_state))
    columns.append(vectors("A5", "o_t", of_outputs(tape, tape["o"]), digits))
    columns.append(vectors("A6", "ŷ_t", of_outputs(tape, tape["y_hat"]), digits, "bold"))
    if given.alphabet:
        columns += [_characters("", "", [given.alphabet] * tape.steps), _characters("B1", "y_t", given.given[1:])]
    else:
        targets = given.targets.view(-1, 1, 1) + (given.kind == "cell")
        columns.append(vectors("B1", "y_t", of_outputs(tape, targets), digits))
    return [*columns, vectors("B1", "loss_t", of_outputs(tape, tape["loss"][..., None]), digits)]


def _backward(worked: Worked, digits: int) -> list[list[Column]]:
    """A gradient and its terms are one group."""
    tape = worked.tape

    def column(tag: str, symbol: str, rows: Iterable[Tensor | None], style: str = "") -> Column:
        return vectors(tag, symbol, [*rows][::-1], digits, style)

    groups = [[Column("", "t", [[str(t)] for t in range(tape.steps, 0, -1)])]]
    if worked.example.model.readout.out_features == 1:
        slopes = [None if matrix is None else matrix[0] for matrix in jacobians(tape)]
        groups.append([column("B2", "∂ŷ_t/∂o_t", slopes)])
    groups.append([column("B3", "∂o_t", tape.d("o")[:, 0])])
    for gradient in gradients(tape):
        tag, symbol, group = gradient.line.tag, gradient.line.symbol, []
        if len(gradient.terms) > 1:
            for term, numbers in zip(gradient.line.terms, gradient.terms, strict=True):
                plus = "+ " if group and not term.text.startswith("−") else ""
                group.append(column(tag, plus + term.text, numbers, _style(term)))
        total = column(tag, "= " * bool(group) + symbol, gradient.whole, "bold" * bool(group))
        groups.append([*group, total])
    return groups + [[column(each.line.tag, f"to {each.line.symbol}", each.whole, FUTURE)] for each in handed(tape)]


def _style(term: Term) -> str:
    return FUTURE if is_of_next_step(term) else OWN if term.left == Name("o", 0) else ""


def in_tables(groups: list[list[Column]], width: int) -> list[Table]:
    """As few tables as the width allows, each with the column of t, the first one."""
    ((time,), *others) = groups
    return [_table([time, *columns]) for columns in _divided(others, width - time.width, 2)]


def _divided(groups: Iterable[list[Column]], width: int, gap: int) -> list[list[Column]]:
    """Columns in parts that the width has room for; a group is in one part, where it is not too wide."""
    parts: list[list[Column]] = [[]]
    room = width
    for group in groups:
        if parts[-1] and room < sum(column.width + gap for column in group):
            parts.append([])
            room = width
        for column in group:
            if parts[-1] and room < column.width + gap:
                parts.append([])
                room = width
            parts[-1].append(column)
            room -= column.width + gap
    return parts


def _table(columns: list[Column]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, collapse_padding=True)
    highest = max(len(column.header) for column in columns)
    for column in columns:
        symbol = "\n".join([""] * (highest - len(column.header)) + column.header)
        header = Text.assemble((column.tag, SIDE.get(column.tag[:1], "")), "\n", (symbol, "bold"))
        table.add_column(header, justify="right", no_wrap=True, style=column.style)
    for step in range(len(columns[0].cells)):
        height = max(len(column.cells[step]) for column in columns)
        table.add_row(*(Text("\n".join(column.cells[step])) for column in columns))
        if height > 1 and step + 1 < len(columns[0].cells):
            table.add_row()
    return table


def _sum_of_losses(worked: Worked, digits: int) -> str:
    losses = worked.tape["loss"][:, 0].tolist()
    if len(losses) < 2:
        return "loss_T = " if worked.tape.steps > 1 else "loss_1 = "
    return " + ".join(number(loss, digits) for loss in losses) + " = "


def _matrix(title: Text, array: Tensor, labels: list[list[str]], digits: int, width: int) -> Group:
    """labels: of rows and columns; of a vector those of its entries alone."""
    *of_rows, of_columns = labels
    (rows,) = of_rows or [[""]]
    turned = array.view(len(rows), len(of_columns)).t()
    columns = [[vectors("", label, [column], digits)] for label, column in zip(of_columns, turned, strict=True)]
    tables = []
    for part in _divided(columns, width - max(map(cell_len, rows)), 1):
        table = Table.grid(padding=(0, 1))
        for _ in range(1 + len(part)):
            table.add_column(justify="right", no_wrap=True)
        entries = (Text.assemble((column.symbol, "dim"), "\n", "\n".join(column.cells[0])) for column in part)
        table.add_row(Text("\n".join(["", *rows]), "dim"), *entries)
        tables.append(table)
    return Group(title, *tables)


def _side_by_side(blocks: list[Group]) -> RenderableType:
    return Padding(Columns(blocks, padding=(0, 3)), (0, 0, 1, 0))


def _jacobians(worked: Worked, digits: int, width: int) -> list[RenderableType]:
    if worked.example.model.readout.out_features == 1:
        return []
    blocks = [
        _matrix(
            Text.assemble(f"∂ŷ/∂o at t = {t}  ", ("B2", SIDE["B"])),
            matrix,
            _labels(worked, matrix, (OUTPUTS, OUTPUTS)),
            digits,
            width,
        )
        for t, matrix in reversed([*enumerate(jacobians(worked.tape), 1)])
        if matrix is not None
    ]
    title = Text("\nB2 is inside B3 already; training never forms it. Here it is all the same:")
    return [title, Columns(blocks, padding=(0, 3))]


def _labels(worked: Worked, array: Tensor, axes: Sequence[str]) -> list[list[str]]:
    """What stands beside the axes of a matrix: characters, or numbers from 1."""
    alphabet = worked.example.alphabet
    return [
        [character(symbol) for symbol in alphabet]
        if alphabet and axis in ("I", OUTPUTS)
        else [str(index) for index in range(1, length + 1)]
        for axis, length in zip(axes, array.shape, strict=True)
    ]


def _named_matrix(worked: Worked, title: Text, name: str, array: Tensor, digits: int, width: int) -> Group:
    """The matrix or vector of a parameter or fixed line, or its gradient."""
    of_readout = {"W_ho": ("H", OUTPUTS), "b_o": (OUTPUTS,)}
    shapes = worked.example.model.rnn.cell.sheet.shapes | of_readout
    return _matrix(title, array, _labels(worked, array, shapes.get(name, ("H",) * array.dim())), digits, width)


def _once(worked: Worked, digits: int, width: int) -> list[RenderableType]:
    tags = {line.symbol: line.tag for line in worked.example.model.rnn.cell.side_a}
    blocks = [
        _named_matrix(worked, _titled(name, tags.get(name, "")), name, array, digits, width)
        for name, array in worked.once.items()
    ]
    return [Text("once, before step 1:"), _side_by_side(blocks)] if blocks else []


def _updates(worked: Worked, digits: int, width: int) -> list[RenderableType]:
    tags = {line.symbol: line.tag for line in worked.example.model.rnn.cell.side_b}
    found = []
    for name, gradient in worked.gradient.items():
        blocks = [
            _named_matrix(worked, title, name, array, digits, width)
            for title, array in (
                (_titled(name), worked.before.get(name)),
                (_titled(f"∂{name}", tags[f"∂{name}"]), gradient),
                (_titled(f"{name} after"), worked.after.get(name)),
            )
            if array is not None
        ]
        found.append(_side_by_side(blocks))
    return found


def _titled(name: str, tag: str = "") -> Text:
    return Text.assemble((name, "bold"), (f"  {tag}" if tag else "", SIDE.get(tag[:1], "")))


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
