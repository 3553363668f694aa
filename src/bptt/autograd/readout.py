"""The output layer A5, o = h W_ho + b_o, on the compiled engine: the same bits for any number of threads.

torch's own product has other last bits with one thread than with four, and a training would depend on them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.autograd import function
from bptt.engine import native

ROWS = 128  # the engine goes through so many at a time


class Readout(torch.nn.Linear):
    """torch.nn.Linear with the products of the engine, where it has them: float32 and float64 on the CPU.

    h (..., H) -> o (..., O)
    """

    def forward(self, input: Tensor) -> Tensor:
        if _serves(input, self.weight) and not torch.is_autocast_enabled("cpu"):
            return _Product.apply(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias)

    def _slow_forward(self, input: Tensor) -> Tensor:
        """What torch calls in the place of `forward` while torch.jit.trace looks on."""
        return super().forward(input)


def _serves(h: Tensor, weight: Tensor) -> bool:
    """Whether the engine has this product, of arrays of numbers that nobody traces or transforms."""
    if function.seen_by_others(h, weight):
        return False
    floats = h.dtype is weight.dtype and h.dtype in (torch.float32, torch.float64)
    return floats and h.is_cpu and weight.is_cpu and h.shape[-1:] == weight.shape[1:] and weight.numel() > 0


def product(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(A5) h (..., H), weight (O, H) and bias (O) or None as torch.nn.Linear holds them -> o (..., O); no autograd."""
    if not _serves(h, weight):
        return F.linear(h, weight, bias)
    rows = h.reshape(-1, h.shape[-1])
    o = h.new_empty(*h.shape[:-1], len(weight))
    steps = _steps(len(rows))
    native.forward_layer(
        rows, None, weight, None, bias, None, "identity", batch_sizes=steps, out=o.view(-1, len(weight))
    )
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
    if _serves(h, weight):
        native.backward_layer(
            do, None, do, None, rows, weight, None, "identity", batch_sizes=_steps(len(rows)),
            dx=dh, dweight_ih=dweight, dbias=dbias, accumulate=True,
        )  # fmt: skip
        return
    if dbias is not None:
        dbias += do.sum(0)  # B4
    if dweight is not None:
        dweight.addmm_(do.mT, rows)  # B5
    if dh is not None:
        torch.mm(do, weight, out=dh)  # B6, what comes from above


def _steps(rows: int) -> list[int]:
    whole, rest = divmod(rows, ROWS)
    return [ROWS] * whole + [rest] * (rest > 0)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight)
        return product(h, weight, bias)

    @staticmethod
    @function.sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (do,) = cotangents
        if do is None:
            return None, None, None
        h, weight = function.saved(ctx)
        needs_h, needs_weight, needs_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a gradient of this gradient may be asked for
            rows = do.reshape(-1, len(weight))
            dh = _Product.apply(do, weight.mT, None) if needs_h else None
            dweight = rows.mT @ h.reshape(len(rows), -1) if needs_weight else None
            return dh, dweight, rows.sum(0) if needs_bias else None
        dh = torch.empty_like(h, memory_format=torch.contiguous_format) if needs_h else None
        dweight = torch.zeros_like(weight) if needs_weight else None
        dbias = weight.new_zeros(len(weight)) if needs_bias else None
        gradients(do, h, weight, dh, dweight, dbias)
        return dh, dweight, dbias
