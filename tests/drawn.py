"""A layer of any cell with drawn tensors, and the cells that the tests go through."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from published_cells import PUBLISHED
from torch import Tensor

from bptt.engine.contract import Gradients, Layout, Made, Signature, Weights
from bptt.engine.evaluation import fixed_lines
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import CELLS, elman

F64 = torch.float64
SIZES = {"1": 1, "I": 4, "H": 5, "S": 3, "R": 2, "M": 6}

OPTIONS: dict[str, dict[str, Any]] = {
    ", ".join(name for name, value in options.items() if value) or "no option": options
    for leak, residual, norm, dropout in itertools.product([None, 0.3], *[[False, True]] * 3)
    for options in [{"leak": leak, "residual": residual, "norm": norm, "dropout": dropout}]
}
"""All 16 sets of options of the plain cell."""

EVERY_OPTION = elman(leak=0.4, residual=True, norm=True, dropout=True)

ODD = {
    "a past that counts nothing": "h_t = tanh(x_t W_xh) + 0 ⊙ h_{t-1}",
    "an input that counts nothing": "h_t = tanh(0 ⊙ x_t + h_{t-1} W_hh)",
    "the mean of a state": "h_t = tanh(x_t W_xh + mean(h_{t-1}))",
    "the norm of a vector": "v : vector\nh_t = tanh(norm(v + b_h) + x_t W_xh + h_{t-1} W_hh)",
    "the sum of a value": "s_t = tanh(x_t W_xs + h_{t-1} W_hs)\nh_t = tanh(x_t W_xh + sum(s_t))",
    "means of an input and a state": "h_t = tanh(h_{t-1} W_hh + mean(x_t) ⊙ mean(h_{t-1}))",
    "a vector before the product": "v : vector\ns_t = x_t + v\nh_t = tanh(s_t W_sh + h_{t-1} W_hh + b_h)",
    "the larger of a row and a number": "h_t = max(x_t W_xh + h_{t-1} W_hh, mean(h_{t-1}))",
    "a number beside rows": "s : scalar\nh_t = max(x_t W_xh + h_{t-1} W_hh, s)",
    "a gradient that is scaled": "h_t = tanh(x_t W_xh + scale_gradient(h_{t-1}, 0.9) W_hh)",
    "a past of what is no state": "s_t = mean(x_t)\nh_t = tanh(s_{t-1} + x_t W_xh + h_{t-1} W_hh)",
}
"""What the derivation has to get right beyond what is published."""

ALL = {name: Cell(text, name) for name, text in CELLS.items()}
ALL |= {f"elman with {name}": Cell(elman(**options)) for name, options in OPTIONS.items()}
ALL |= {name: Cell(text, name) for name, text in (PUBLISHED | ODD).items()}


@dataclass
class Drawn:
    """The tensors of one layer. `parameters` are those that are learned; `weights` those that the engine is given."""

    cell: Cell
    steps: Steps
    x: Any
    first: list[Any]
    parameters: dict[str, Tensor]
    weights: Weights
    extras: list[Any]

    @property
    def masks(self) -> int:
        return len(Signature.of(self.cell).masks)

    @property
    def inputs(self) -> list[Any]:
        """Inputs beside x."""
        return self.extras[self.masks :]

    def forward(self, engine: Any, **options: Any) -> Made:
        return engine.forward(self.cell, self.weights, self.x, self.first, self.steps, self.extras, **options)

    def arrays(self) -> Gradients:
        """For all gradients."""
        dx = torch.empty_like(self.x) if self.x.is_floating_point() else None
        weights = [None if w is None else torch.empty_like(w) for w in self.weights.tensors]
        return Gradients(dx, list(map(torch.empty_like, self.first)), weights, list(map(torch.empty_like, self.inputs)))

    def backward(
        self, engine: Any, made: Made, dy: Tensor | None, d_last: Sequence[Tensor | None], into: Gradients
    ) -> list[Tensor]:
        engine.backward(
            self.cell, self.weights, made, self.x, self.first, self.steps, dy, d_last, into, self.extras
        )  # fmt: skip
        found = [into.x, *into.first, *into.weights, *into.inputs]
        return [array for array in found if array is not None]

    def by_autograd(self, made: Made, dy: Tensor | None, d_last: Sequence[Tensor | None]) -> list[Tensor]:
        """What `backward` returns, from the graph of side A."""
        every = [self.x, *self.first, *self.weights.tensors, *self.inputs]
        leaves = [leaf for leaf in every if leaf is not None and leaf.is_floating_point()]
        seeds = [(y, d) for y, d in zip((made.y, *made.last), (dy, *d_last), strict=True) if d is not None]
        return [
            *torch.autograd.grad([y for y, _ in seeds], leaves, [d for _, d in seeds], materialize_grads=True)
        ]  # fmt: skip


def drawn(
    cell: Cell,
    steps: Steps,
    *,
    sizes: dict[str, int] | None = None,
    dtype: torch.dtype = F64,
    tokens: bool = False,
    torch_layout: bool = False,
    spread: float = 0.5,
) -> Drawn:
    length, sheet = SIZES | (sizes or {}), cell.sheet

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype).mul_(spread).requires_grad_()

    def of(name: str) -> list[int]:
        return [length[axis] for axis in sheet.shapes.get(name) or (sheet.widths[name],)]

    signature, layout = Signature.of(cell), Layout.of(cell, as_torch=torch_layout)
    B, rows = steps.B, steps.rows
    x = torch.randint(length["I"], rows) if tokens else draw(*rows, *of("x"))
    first = [draw(1, B, *of(name)) for name in signature.states]
    if "n_{t-1}" in cell.text and "m_t = max" in cell.text:  # the normaliser of sLSTM, which divides
        first = [
            (h.detach() + 3).requires_grad_() if name == "n" else h
            for h, name in zip(first, signature.states, strict=True)
        ]
    parameters = {name: draw(*of(name)) for name, given in sheet.given.items() if given.learned}
    if torch_layout:
        parameters = dict(zip(layout.names, [draw(*shape) for shape in shapes_of(cell, layout, length)], strict=True))
    given = parameters | (fixed_lines(cell, parameters, length) if sheet.fixed else {})
    extras = [draw(B, *of(name)).detach() for name in signature.masks]
    extras += [draw(*rows, *of(name)) for name in signature.inputs]
    weights = Weights(layout, [given[name] for name in layout.names])
    return Drawn(cell, steps, x, first, parameters, weights, extras)


def shapes_of(cell: Cell, layout: Layout, length: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Of the tensors of a layout."""
    found: list[tuple[int, ...]] = [()] * len(layout.names)
    for name, parts in layout.made_of.items():
        first, *rest = (length[axis] for axis in cell.sheet.shapes.get(name) or (cell.sheet.widths[name],))
        for k, _, blocks in parts:
            found[k] = (rest[0] * blocks, first) if rest and layout.transposed else (first * blocks, *rest)
    return found


def cotangents(made: Made) -> tuple[Tensor, list[Tensor]]:
    return torch.randn_like(made.y), [torch.randn_like(h) for h in made.last]
