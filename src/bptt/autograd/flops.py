"""What a layer costs, for torch.utils.flop_counter and those who ask it: two for each number of each matrix and row.

Counted as torch counts its own operators: products alone. Tokens are rows of a matrix and multiply nothing. The way
back is counted as far as the states before the first step, asked for or not.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from bptt.arrival import when_imported
from bptt.autograd import operators
from bptt.engine.contract import Layout, Weights, sizes_of
from bptt.sheet import Cell
from bptt.sheet.expressions import Name, Product, Transposed, walk


def register() -> None:
    """As soon as torch's counter is imported."""
    when_imported("torch.utils.flop_counter", _register)


def _register(counter: Any) -> None:
    for operator, formula in ((operators.layer_operator, _forward), (operators.layer_backward, _backward)):
        packet = operator._opoverload.overloadpacket
        if packet not in counter.flop_registry:
            counter.register_flop_formula(packet, get_raw=True)(formula)


def _forward(
    x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor], extras: Sequence[Tensor], sizes: Tensor | None,
    cell: str, torch_layout: bool, *_: Any, **__: Any,
) -> int:  # fmt: skip
    return sum(cost for _, _, cost in _products(cell, torch_layout, x, first, weights))


def _backward(
    d: Any, given: Any, made: Any, x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor],
    extras: Sequence[Tensor], sizes: Tensor | None, cell: str, torch_layout: bool, reverse: bool,
    needed: Sequence[bool], *_: Any, **__: Any,
) -> int:  # fmt: skip
    own, total = Cell(cell), 0
    of_x, of_weights = needed[0], needed[1 + len(own.sheet.states) :][: len(weights)]
    asked = Layout.of(own, as_torch=torch_layout).parameters_in(of_weights)
    for left, matrix, cost in _products(cell, torch_layout, x, first, weights):
        total += cost * ((left != "x" or of_x) + (matrix in asked))
    return total


def _products(
    cell: str, torch_layout: bool, x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor]
) -> Iterator[tuple[str, str, int]]:
    """The left factor, the matrix and the cost, over all rows, of each product of a step."""
    own = Cell(cell)
    given = Weights(Layout.of(own, as_torch=torch_layout), weights)
    length = sizes_of(own, given, x, first or [None] * len(own.sheet.states))
    rows = math.prod(x.shape[:-1] if x.is_floating_point() else x.shape)
    for line in own.derivation.steps:
        for e in walk(line.value):
            if isinstance(e, Product):
                name = e.right.of if isinstance(e.right, Transposed) else e.right
                assert isinstance(name, Name)
                left = e.left.name if isinstance(e.left, Name) else ""
                if left != "x" or x.is_floating_point():
                    height, width = (length[size] for size in own.sheet.shapes[name.name])
                    yield left, name.name, 2 * rows * height * width
