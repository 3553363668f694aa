"""Expressions of the sheet with what rounding may do to them, in float64: value, magnitude, number of roundings.

The magnitude is that of the terms that a value is the sum of, each without its sign. A sum of n rounded products is off
by at most about n eps / 2 times that, whatever the order of summation.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bptt.engine.evaluation import Environment, evaluated, gathered, scattered
from bptt.engine.functions import TORCH
from bptt.sheet import Cell, named
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
from bptt.sheet.functions import FUNCTIONS, Function
from bptt.sheet.language import parse_expression


class Weighed(NamedTuple):
    value: Tensor
    magnitude: Tensor
    roundings: int


def weighed(e: Expression, cell: Cell, env: Environment) -> Weighed:
    """env: as for `bptt.engine.evaluation.evaluated`."""

    def of(e: Expression) -> Weighed:
        return weighed(e, cell, env)

    match e:
        case Number() | Name() | Cotangent() | Size():
            value = torch.as_tensor(evaluated(e, cell)(env), dtype=torch.float64)
            return Weighed(value, value.abs(), 0)
        case Transposed(part):
            value, magnitude, n = of(part)
            return Weighed(value.mT, magnitude.mT, n)
        case Square(part):
            value, magnitude, n = of(part)
            return Weighed(value.square(), magnitude.square(), n + 1)
        case Product(Name("x", 0), right):
            x, (matrix, magnitude, n) = env["x", 0], of(right)
            without_signs = x.abs() if x.is_floating_point() else x
            return Weighed(gathered(x, matrix), gathered(without_signs, magnitude), n + len(matrix))
        case Product(Transposed(Name("x", 0)), right):
            x, rows, (d, magnitude, n) = env["x", 0], int(of(Size(cell.sheet.widths["x"])).value), of(right)
            without_signs = x.abs() if x.is_floating_point() else x
            return Weighed(scattered(x, d, rows), scattered(without_signs, magnitude, rows), n + len(d))
        case Product(left, right):
            a, b = of(left), of(right)
            inner = b.value.shape[-2]
            return Weighed(a.value @ b.value, a.magnitude @ b.magnitude, a.roundings + b.roundings + inner)
        case Times(factors):
            first, *rest = map(of, factors)
            for factor in rest:
                n = first.roundings + factor.roundings + 1
                first = Weighed(first.value * factor.value, first.magnitude * factor.magnitude, n)
            return first
        case Over(above, below):
            a, b = of(above), of(below)
            # what rounding does to the divisor is relative to it
            magnitude = a.magnitude / b.value.abs() * (b.magnitude / b.value.abs())
            return Weighed(a.value / b.value, magnitude, a.roundings + b.roundings + 1)
        case Sum(terms):
            parts = [(sign, of(term)) for sign, term in terms]
            value = sum((sign * part.value for sign, part in parts), torch.zeros((), dtype=torch.float64))
            magnitude = sum((part.magnitude for _, part in parts), torch.zeros((), dtype=torch.float64))
            in_a_chain = any(isinstance(term, Product) for _, term in terms)
            n = sum(part.roundings for _, part in parts) + (0 if in_a_chain else len(parts) - 1)
            return Weighed(value, magnitude, n)
        case Call(function, arguments):
            return _of_call(FUNCTIONS[cell.sheet.functions.get(function, function)], [of(a) for a in arguments])
    raise TypeError(e)


def _of_call(function: Function, given: list[Weighed]) -> Weighed:
    values, n = [part.value for part in given], sum(part.roundings for part in given)
    y = TORCH[function.name](*values)
    a, magnitude = values[0], given[0].magnitude
    if function.name == "scale_gradient":
        return given[0]
    if function.name == "scale":
        spread = (TORCH["norm"](a) * y * (magnitude + magnitude.mean(-1, keepdim=True))).abs()
        return Weighed(y, y * (1 + spread.mean(-1, keepdim=True)), n + a.shape[-1])
    if function.row == "number":
        return Weighed(y, TORCH[function.name](magnitude), n + a.shape[-1])
    if not function.typed:
        return Weighed(y, y.abs() if function.name == "sign" else TORCH[function.name](magnitude, *values[1:]), n)
    letters: Environment = {(letter, None): value for letter, value in zip("abc", values, strict=False)}
    letters["y", None] = y
    if function.row == "row":
        letters |= {("d", None): magnitude, ("scale(a)", 0): TORCH["scale"](a)}
        through = weighed(parse_expression(function.back[0] or ""), _AT_HOME, letters)
        return Weighed(y, y.abs() + through.magnitude, n + through.roundings)
    own = y.abs() * (1 + a.abs())
    letters["d", None] = torch.ones_like(y)
    for part, back in zip(given, function.back, strict=True):
        if back is not None:
            slope = torch.as_tensor(evaluated(parse_expression(back), _AT_HOME)(letters))
            own = own + slope.abs() * (part.magnitude - part.value.abs())
    return Weighed(y, own, n + 1)


_AT_HOME = named("elman")  # any cell: a line of the table of functions reads nothing of its own
