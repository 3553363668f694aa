"""The output layer on the engine: A5 and B4 to B6 of states, and with a loss all of A5 to B6 of a block of steps.

torch's own product has other last bits with one thread than with four, and a training would depend on them. Those of
the compiled engine are the same for any number of threads.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.engine import _native, native
from bptt.engine.lowering import Program, Taken
from bptt.engine.steps import Steps
from bptt.sheet.losses import Target

ROWS = 128  # the engine goes through so many at a time
# A program whose steps know no state: sizes H and O, one slot as wide as o.
_OF_ROWS: dict[str, Any] = {
    "sizes": 3, "slots": [(2, 0, 0)], "groups": [(1, True)], "products": [], "carried": [], "numbers": [], "rows": [],
}  # fmt: skip


def has_product(h: Tensor, weight: Tensor) -> bool:
    """Whether the compiled engine has the product of these arrays."""
    floats = h.dtype is weight.dtype and h.dtype in (torch.float32, torch.float64)
    return floats and h.is_cpu and weight.is_cpu and h.shape[-1:] == weight.shape[1:] and weight.numel() > 0


def product(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(A5) h (..., H), weight (O, H) and bias (O) or None as torch.nn.Linear holds them -> o (..., O); no autograd."""
    if not has_product(h, weight):
        return F.linear(h, weight, bias)
    rows = h.reshape(-1, h.shape[-1])
    o = h.new_empty(*h.shape[:-1], len(weight))
    given = [rows, o.view(-1, len(weight)), weight, bias]
    native.run(_forward(bias is not None), given, [1, *weight.shape[::-1]], _steps(len(rows)), h.dtype)
    return o


def gradients(
    do: Tensor,
    h: Tensor,
    weight: Tensor,
    dh: Tensor | None = None,
    dweight: Tensor | None = None,
    dbias: Tensor | None = None,
) -> None:
    """(B4, B5, B6) of `product` for ∂o (..., O): writes dh (..., H), adds to dweight (O, H) and dbias (O), if given."""
    do, rows = do.reshape(-1, len(weight)), h.reshape(-1, h.shape[-1])
    dh = None if dh is None else dh.view(rows.shape)
    if has_product(h, weight):
        given = [rows, do, dh, weight, dweight, dbias]
        native.run(_backward(), given, [1, *weight.shape[::-1]], _steps(len(rows)), h.dtype, accumulate=True)
        return
    if dbias is not None:
        dbias += do.sum(0)  # B4
    if dweight is not None:
        dweight.addmm_(do.mT, rows)  # B5
    if dh is not None:
        torch.mm(do, weight, out=dh)  # B6, what comes from above


def of_block(
    target: Target,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dh: Tensor | None = None,
    dweight: Tensor | None = None,
    dbias: Tensor | None = None,
) -> Tensor:
    """The share of some steps in L, from their states. Adds to dweight and dbias, writes dh, where they are given."""
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
        o = product(h, weight, bias)  # A5
        if target.some_left_out:
            o.masked_fill_((target.w == 0)[..., None], 0)
        if dh is None and dweight is None and dbias is None:
            return (target.pair.per_row(o, target.y, target.class_weights) * target.w).sum()  # B1
        per_row, do = target.pair.with_b3(o, target.y, target.class_weights)
        do = do.mul_(target.w[..., None])  # B3
        gradients(do, h, weight, dh, dweight, dbias)  # B4, B5, B6
        return (per_row * target.w).sum()  # B1


@cache
def _forward(has_bias: bool) -> Program:
    """The rows of all steps need no state: they are made ahead, and stored."""
    code = _native.Program(
        **_OF_ROWS, back=False, instructions=[(_native.Operation.store, 1, [0] * 4)],
        weights=[(1, 2, [0])], ahead=[(0, [[0] if has_bias else []], [(0, 0)])], gradients=[], after=[],
        vectors=[(2, 0, 1)] if has_bias else [], arrays=[(1, False), (2, False)],
        matrices=[(1, 2, True, 0, 1)], results=[],
    )  # fmt: skip
    takes = [Taken(0, "states", "steps", (1,), False), Taken(1, "o", "steps", (2,), True)]
    takes += [Taken(3, "bias", "vector", (2,), False)] if has_bias else []
    return Program(code, (*takes, Taken(2, "weight", "matrix", (2, 1), False)))


@cache
def _backward() -> Program:
    code = _native.Program(
        **_OF_ROWS, back=True, instructions=[(_native.Operation.load, 0, [1, 0, 0, 0])],
        weights=[(2, 1, [0])], ahead=[], gradients=[(0, False, -1, 0, 0), (-1, False, -1, 0, 1)], after=[(2, [(0, 0)])],
        vectors=[], arrays=[(1, False), (2, False), (1, False)], matrices=[(2, 1, False, 0, 1)],
        results=[(1, 2, True, 0, 1), (-1, 2, False, 0, 1)],
    )  # fmt: skip
    takes = (
        Taken(0, "states", "steps", (1,), False),
        Taken(1, "∂o", "steps", (2,), False),
        Taken(2, "∂h", "steps", (1,), True),
        Taken(3, "weight", "matrix", (2, 1), False),
        Taken(4, "∂weight", "matrix", (2, 1), True),
        Taken(5, "∂bias", "matrix", (2,), True),
    )
    return Program(code, takes)


def _steps(rows: int) -> Steps:
    whole, rest = divmod(rows, ROWS)
    sizes = [ROWS] * whole + [rest] * (rest > 0)
    return Steps(len(sizes), sizes[0] if sizes else 0, sizes)
