"""A cell as plain data, for whoever reads the sheet outside Python: lists, dicts, text and numbers, ready for JSON.

An expression is a number or a list that begins with what it is:

    ["n", name, step]    a value at a step (0 is t), or without a step what has no time
    ["d", name, step]    ∂L/∂ of it
    ["size", letter]     how many units a row has
    ["T", e] ["²", e]    transposed, squared
    ["@", left, right]   a product with a matrix
    ["*", e, ...] ["/", above, below]    entry by entry
    ["+", [sign, e], ...]
    ["f", function, e, ...]
    {"w": words}         words between expressions, in `parts` alone

`as_data` names the fields. A line's `parts` are what is read; `terms` what its number is the sum of, each with the line
of side A that it comes from, whose step may be t+1; a single term has no `value` where it is the last part.
"""

from typing import Any

from bptt.sheet import Cell
from bptt.sheet.expressions import (
    Call,
    Cotangent,
    Expression,
    Name,
    Number,
    Over,
    Product,
    Size,
    Square,
    Sum,
    Times,
    Transposed,
)
from bptt.sheet.notations import NOTATIONS
from bptt.sheet.printing import Words
from bptt.sheet.sides import Line


def as_data(cell: Cell) -> dict[str, Any]:
    """The parsed sheet.

    output states inputs     by name; functions and constants: what local names stand for
    given                    kind by name of what has no equation; widths and shapes: their sizes, and those of values
    a b where                lines of side A, whose equations are [name, {"w": " = "}, value], those of side B, and what
                             local names stand for
    notations                of other books: names, where they differ, and how they write a step, by notation
    """
    sheet, found = cell.sheet, cell.derivation
    return {
        "name": cell.name,
        "output": sheet.output,
        "states": list(sheet.states),
        "inputs": list(sheet.inputs),
        "functions": dict(sheet.functions),
        "constants": {name: given.start for name, given in sheet.given.items() if given.kind == "constant"},
        "given": {name: given.kind for name, given in sheet.given.items()},
        "widths": dict(found.widths),
        "shapes": {name: list(shape) for name, shape in sheet.shapes.items()},
        "where": [_line(line) for line in cell.side_a.where],
        "a": [_line(line) for line in cell.side_a],
        "b": [_line(line) for line in cell.side_b],
        "notations": {key: _notation(cell, key) for key in NOTATIONS},
    }


def tree(e: Expression) -> Any:
    """An expression as lists."""
    match e:
        case Number(value):
            return int(value) if value.is_integer() else value
        case Name(name, step):
            return ["n", name] if step is None else ["n", name, step]
        case Cotangent(name, step):
            return ["d", name] if step is None else ["d", name, step]
        case Size(name):
            return ["size", name]
        case Transposed(of):
            return ["T", tree(of)]
        case Square(of):
            return ["²", tree(of)]
        case Product(left, right):
            return ["@", tree(left), tree(right)]
        case Times(factors):
            return ["*", *map(tree, factors)]
        case Over(above, below):
            return ["/", tree(above), tree(below)]
        case Sum(terms):
            return ["+", *([sign, tree(term)] for sign, term in terms)]
        case Call(function, arguments):
            return ["f", function, *map(tree, arguments)]
    raise TypeError(e)


def _line(line: Line) -> dict[str, Any]:
    parts = [{"w": part.text} if isinstance(part, Words) else tree(part) for part in line.parts]
    found: dict[str, Any] = {"tag": line.tag, "parts": parts}
    if line.once:
        found["once"] = True
    if line.of is not None:
        found["of"] = tree(line.of)
    if line.terms:
        found["terms"] = [{"value": tree(term.value), "from": tree(term.left)[1:]} for term in line.terms]
        if len(line.terms) == 1 and found["terms"][0]["value"] == parts[-1]:
            del found["terms"][0]["value"]
    return found


def _notation(cell: Cell, key: str) -> dict[str, Any]:
    board = cell.board(key)
    chosen = board.notation
    matrices = {"W_ho", *(name for name, given in cell.sheet.given.items() if given.kind == "matrix")}
    turned = matrices if chosen.columns else ()
    names = {name: there.removesuffix("ᵀ") if name in turned else there for name, there in board.names.items()}
    return {
        "of": chosen.of,
        "names": names,
        "style": chosen.style,
        "columns": chosen.columns,
        "bias_first": chosen.bias_first,
        "note": board.note,
    }
