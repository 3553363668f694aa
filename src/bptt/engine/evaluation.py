"""Expressions of the sheet as functions of an environment: numbers of names, by name and step."""

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.engine.functions import TORCH
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
from bptt.sheet.printing import TEXT

Environment = dict[tuple[str, int | str | None], Any]
SIZE = "size"
Evaluated = Callable[[Environment], Any]
Functions = Mapping[str, Callable[..., Any]]


def key_of(e: Expression) -> str:
    """The name, or for the scale that is kept of norm its text, by which an environment has a value of a step."""
    return e.name if isinstance(e, Name) else TEXT.write(e)


def evaluated(e: Expression, cell: Cell, functions: Functions = TORCH) -> Evaluated:
    """The value of an expression: a tensor, or a float where only numbers and constants are in it.

    In the environment are values and parameters by (name, step), sizes by (name, SIZE), cotangents by ("∂" + name,
    step), and the scales that are kept of norm by (their text, 0). x may be tokens where it stands left of a matrix,
    and, transposed, left of a cotangent.
    """

    def of(e: Expression) -> Evaluated:
        return evaluated(e, cell, functions)

    match e:
        case Number(value):
            return lambda env: value
        case Name(name) if name in cell.sheet.given and cell.sheet.given[name].kind == "constant":
            value = cell.sheet.given[name].start
            return lambda env: value
        case Name(name, step):
            return operator.itemgetter((name, step))
        case Cotangent(name, step):
            return operator.itemgetter((f"∂{name}", step))
        case Size(name):
            return operator.itemgetter((name, SIZE))
        case Transposed(part):
            whole = of(part)
            return lambda env: whole(env).mT
        case Square(part):
            base = of(part)
            return lambda env: base(env) ** 2
        case Product(Name("x", 0) as left, right):
            x, matrix = of(left), of(right)
            return lambda env: gathered(x(env), matrix(env))
        case Product(Transposed(Name("x", 0) as left), right):
            x, d, rows = of(left), of(right), of(Size(cell.sheet.widths["x"]))
            return lambda env: scattered(x(env), d(env), rows(env))
        case Product(left, right):
            return _of_two(operator.matmul, of(left), of(right))
        case Times(factors):
            return reduce(lambda a, b: _of_two(operator.mul, a, b), map(of, factors))
        case Over(above, below):
            return _of_two(operator.truediv, of(above), of(below))
        case Sum(terms):
            (sign, first), *rest = terms
            total = of(first) if sign > 0 else _negative(of(first))
            for sign, term in rest:
                total = _of_two(operator.add if sign > 0 else operator.sub, total, of(term))
            return total
        case Call("scale", (argument,)):
            return _kept_or_made((key_of(e), 0), of(argument))
        case Call(function, arguments):
            declared = function if function in functions else cell.sheet.functions[function]
            return _called(functions[declared], [of(a) for a in arguments])
    raise TypeError(e)


def _of_two(operation: Callable[[Any, Any], Any], a: Evaluated, b: Evaluated) -> Evaluated:
    return lambda env: operation(a(env), b(env))


def _kept_or_made(key: tuple[str, int], of_scale: Evaluated) -> Evaluated:
    return lambda env: env[key] if key in env else TORCH["scale"](of_scale(env))


def _negative(a: Evaluated) -> Evaluated:
    return lambda env: -a(env)


def _called(function: Callable[..., Any], arguments: list[Evaluated]) -> Evaluated:
    first, *rest = arguments

    def value(env: Environment) -> Any:
        a = first(env)
        if not isinstance(a, Tensor):  # torch's functions want a tensor, which without axes leaves others their dtype
            a = torch.as_tensor(a, dtype=torch.float64)
        return function(a, *(argument(env) for argument in rest))

    if rest:
        return value
    return lambda env: function(a) if isinstance(a := first(env), Tensor) else value(env)


def gathered(x: Tensor, matrix: Tensor) -> Tensor:
    """x W; of tokens their rows of W."""
    if x.is_floating_point():
        return x @ matrix
    return F.embedding(x, matrix)


def scattered(x: Tensor, d: Tensor, rows: int) -> Tensor:
    """xᵀ d, with x (N, I) or tokens (N,)."""
    if x.is_floating_point():
        return x.mT @ d
    return d.new_zeros(rows, d.shape[-1]).index_add(0, x, d)


def fixed_lines(cell: Cell, given: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The values of the lines without a time, all names given, in operations of torch, from the parameters by name."""
    like = next(iter(given.values()))
    env: Environment = {(name, None): tensor for name, tensor in given.items()}
    found, identities = {}, identities_of(cell, sizes, like)
    for line in cell.derivation.fixed:
        env["I", None] = identities[line.name]
        value = torch.as_tensor(evaluated(line.value, cell)(env), dtype=like.dtype, device=like.device)
        width = cell.derivation.width(line.left)
        found[line.name] = env[line.name, None] = value if width == "matrix" else value.expand(sizes[width])
    return found


def identities_of(cell: Cell, sizes: Mapping[str, int], like: Tensor) -> dict[str, Tensor]:
    """I of each fixed line: a part that was given a name has that of the line of the text it stands before."""
    found, size = {}, "H"
    for line in reversed(cell.derivation.fixed):
        if line.place is not None:
            size = cell.sheet.shapes.get(line.name, ("H",))[0]
        found[line.name] = torch.eye(sizes[size], dtype=like.dtype, device=like.device)
    return found
