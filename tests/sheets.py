"""The sheet by the book: side A and the derived side B evaluated with torch, to be compared with autograd."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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


def _scale(a: Tensor) -> Tensor:
    return (a.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt()


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh,
    "σ": torch.sigmoid,
    "relu": torch.relu,
    "identity": lambda a: a,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    "abs": torch.abs,
    "max": lambda a, b: torch.where(a >= b, a, b),
    "min": lambda a, b: torch.where(b >= a, a, b),
    "clip": lambda a, b, c: a.clamp(b.item(), c.item()),
    "scale_gradient": lambda a, b: a.detach() + b * (a - a.detach()),
    "norm": lambda a: torch.nn.functional.layer_norm(a, a.shape[-1:]),
    "softmax": lambda a: a.softmax(-1),
    "sum": lambda a: a.sum(-1, keepdim=True),
    "mean": lambda a: a.mean(-1, keepdim=True),
    "scale": _scale,
    "total": lambda a: a.sum().reshape(1, 1),
    "sign": torch.sign,
    "where_positive": lambda a, b: torch.where(b <= 0, 0, a),
    "where_at_least": lambda a, b, c: torch.where(b >= c, a, 0),
    "where_below": lambda a, b, c: torch.where(b < c, a, 0),
    "where_inside": lambda a, b, c, d: torch.where((c <= b) & (b <= d), a, 0),
}


def value(e: Expression, get: Callable[[Name | Cotangent], Tensor], cell: Cell, sizes: dict[str, int]) -> Tensor:
    def of(part: Expression) -> Tensor:
        return value(part, get, cell, sizes)

    match e:
        case Name() | Cotangent():
            return get(e)
        case Number(number):
            return torch.full((1, 1), number, dtype=torch.float64)
        case Size(name):
            return torch.full((1, 1), float(sizes[name]), dtype=torch.float64)
        case Transposed(part):
            return of(part).mT
        case Square(part):
            return of(part).square()
        case Product(left, right):
            return of(left) @ of(right)
        case Times(factors):
            return torch.stack(torch.broadcast_tensors(*map(of, factors))).prod(0)
        case Over(above, below):
            return of(above) / of(below)
        case Sum(terms):
            return sum((sign * of(term) for sign, term in terms), torch.zeros((), dtype=torch.float64))
        case Call(function, arguments):
            return FUNCTIONS[cell.sheet.functions.get(function, function)](*map(of, arguments))
    raise TypeError(e)


@dataclass
class Setting:
    """Numbers for a cell: given (parameters, constants, masks), inputs (T, B, ·) and first states (B, ·)."""

    sizes: dict[str, int]
    given: dict[str, Tensor]
    inputs: dict[str, Tensor]
    first: dict[str, Tensor]
    steps: int = 4
    rows: int = 3

    def wanted(self, cell: Cell) -> dict[str, Tensor]:
        """All that has a gradient."""
        learned = {f"∂{name}": self.given[name] for name, given in cell.sheet.given.items() if given.learned}
        inputs = {f"∂{name}_t": x for name, x in self.inputs.items()}
        return learned | inputs | {f"∂{name}_0": state for name, state in self.first.items()}


def setting(cell: Cell, seed: int = 0) -> Setting:
    sheet = cell.sheet
    numbers = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=numbers).mul_(0.5).requires_grad_()

    sizes = {"1": 1, "I": 4, "H": 5, "S": 3, "R": 2, "M": 6}
    found = Setting(sizes, {}, {"x": draw(4, 3, sizes[sheet.widths["x"]])}, {})
    for name, given in sheet.given.items():
        if given.kind == "matrix":
            rows, columns = sheet.shapes[name]
            found.given[name] = draw(sizes[rows], sizes[columns])
        elif given.kind == "input":
            found.inputs[name] = draw(4, 3, sizes[sheet.widths[name]])
        elif given.kind == "constant":
            found.given[name] = torch.tensor([[given.start]], dtype=torch.float64)
        else:
            found.given[name] = draw(3 if given.kind in ("rows", "drop") else 1, sizes[sheet.widths[name]])
    for name in sheet.states:
        found.first[name] = draw(3, sizes[sheet.widths[name]])
    if cell.name == "slstm":  # its normaliser begins away from zero
        found.first["n"] = (found.first["n"].detach() + 3).requires_grad_()
    return found


def forward(cell: Cell, at: Setting, *, typed: bool = True) -> tuple[dict[str, Tensor], dict[tuple[str, int], Tensor]]:
    """What is fixed and given, and every value; of side A as typed, or of its derivation with all names given."""
    fixed = cell.sheet.fixed if typed else cell.derivation.fixed
    steps = cell.sheet.steps if typed else cell.derivation.steps
    given, values = dict(at.given), {(name, -1): state for name, state in at.first.items()}
    given["I"] = torch.eye(at.sizes["H"], dtype=torch.float64)
    for line in fixed:
        given[line.name] = value(line.value, lambda name: given[name.name], cell, at.sizes)
    for t in range(at.steps):
        for line in steps:
            made = value(line.value, _getter(given, at, values, {}, t), cell, at.sizes)
            values[line.name, t] = made.expand(at.rows, -1)
    return given, values


def _getter(
    given: dict[str, Tensor], at: Setting, values: dict, cotangents: dict, t: int
) -> Callable[[Name | Cotangent], Tensor]:
    def get(e: Name | Cotangent) -> Tensor:
        if isinstance(e, Cotangent):
            return cotangents[e.name, None if e.step is None else t + e.step]
        if e.step is None:
            return given[e.name]
        return at.inputs[e.name][t] if e.name in at.inputs else values[e.name, t + e.step]

    return get


def by_autograd(cell: Cell, at: Setting, own: Tensor) -> dict[str, Tensor]:
    """The gradients of Σ own ⊙ output, through side A as it is typed. own: (T, B, H)."""
    _, values = forward(cell, at)
    outputs = torch.stack([values[cell.sheet.output, t] for t in range(at.steps)])
    wanted = at.wanted(cell)
    found = torch.autograd.grad(outputs, [*wanted.values()], own, allow_unused=True)
    return {
        name: torch.zeros_like(like) if gradient is None else gradient
        for (name, like), gradient in zip(wanted.items(), found, strict=True)
    }


@torch.no_grad()
def by_side_b(cell: Cell, at: Setting, own: Tensor) -> dict[str, Tensor]:
    """The same, through the derived side B."""
    derivation, sheet = cell.derivation, cell.sheet
    given, values = forward(cell, at, typed=False)
    cotangents: dict[tuple[str, int | None], Tensor] = {}
    found = {name: torch.zeros_like(like) for name, like in at.wanted(cell).items()}
    untimed = [name for name, step in derivation.uses if step is None]
    totals = {name: torch.zeros_like(given[name]) for name in untimed}

    def of(e: Expression, t: int) -> Tensor:
        return value(e, _getter(given, at, values, cotangents, t), cell, at.sizes)

    for t in reversed(range(at.steps)):
        for line in reversed(derivation.steps):
            total = torch.zeros_like(values[line.name, t])
            total += own[t] if line.name == sheet.output else 0
            total += of(derivation.sent_back(line.name, 0), t)
            if t + 1 < at.steps:
                total += of(derivation.sent_back(line.name, -1), t + 1)
            cotangents[line.name, t] = total
        for name in at.inputs:
            found[f"∂{name}_t"][t] += of(derivation.sent_back(name, 0), t)
        for name in untimed:
            for use in derivation.uses[name, None]:
                if use.line.step is not None:
                    sent = of(use.value, t)
                    if derivation.width(Name(name)) != "matrix":
                        sent = sent.expand(at.rows, given[name].shape[-1]).sum(0, keepdim=True)
                    totals[name] += sent
    for name in sheet.states:
        found[f"∂{name}_0"] += of(derivation.sent_back(name, -1), 0)
    for line in [*reversed(derivation.fixed), None]:
        if line is not None:
            cotangents[line.name, None] = totals.get(line.name, torch.zeros_like(given[line.name]))
            for name in untimed:
                for use in derivation.uses[name, None]:
                    if use.line == line:
                        totals[name] += of(use.value, 0)
    return found | {f"∂{name}": total for name, total in totals.items() if f"∂{name}" in found}


def compared(cell: Cell, seed: int = 0) -> None:
    """Raises AssertionError where side B is not the gradient of side A."""
    at = setting(cell, seed)
    own = torch.randn(4, 3, at.sizes["H"], dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    expected, found = by_autograd(cell, at, own), by_side_b(cell, at, own)
    for name, gradient in expected.items():
        assert gradient.isfinite().all(), name
        atol = 1e-12 * (1 + gradient.abs().max().item())
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
