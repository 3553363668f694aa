"""The output layer A5, o = h W_ho + b_o, as torch sees it: a module, and with its loss a function of the states."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bptt.autograd.function import saved
from bptt.autograd.private import sample_by_sample, seen_by_others
from bptt.engine.readout import gradients, has_product, of_block, product
from bptt.sheet.losses import Target, target


class Readout(torch.nn.Linear):
    """torch.nn.Linear with the products of the engine, where it has them: float32 and float64 on the CPU.

    h (..., H) -> o (..., O)
    """

    def forward(self, input: Tensor) -> Tensor:
        if (
            has_product(input, self.weight)
            and not seen_by_others(input, self.weight)
            and not torch.is_autocast_enabled("cpu")
        ):
            return _Product.apply(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias)

    def _slow_forward(self, input: Tensor) -> Tensor:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        return super().forward(input)


def loss_of_states(
    name: str,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
    skip_nan: bool = False,
    block: int = 1 << 20,
) -> Tensor:
    """`bptt.losses.loss` of o = h W_ho + b_o without ever holding more of o and its gradient than a block of time.

    h       (T, B, H) states
    weight  (O, H), W_hoᵀ, and bias (O) or None, as torch.nn.Linear holds them
    block   how many elements of o are made at a time, at least those of one step, from the end of time

    The gradients B3, B4, B5 and the first term of B6 are taken along with each block on the way forward, so what is
    kept for the way back is one array like h. They cannot be differentiated again. Errors are those of
    `bptt.losses.loss`.
    """
    wanted = target(
        name, (*h.shape[:-1], len(weight)), h.dtype, y, weights,
        mask=mask, class_weights=class_weights, skip_nan=skip_nan,
    )  # fmt: skip
    steps = max(1, block // max(1, len(weight) * h.shape[1]))
    return _LossOfStates.apply(h, weight, bias, wanted, steps)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight)
        return product(h, weight, bias)

    @staticmethod
    @sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (do,) = cotangents
        if do is None:
            return None, None, None
        h, weight = saved(ctx)
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


class _LossOfStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Target,
        steps: int,
    ) -> Tensor:
        needs_h, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dh = h.new_empty(h.shape) if needs_h else None
        dweight = torch.zeros_like(weight) if needs_weight else None
        dbias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        shares = []
        for end in range(len(h), 0, -steps):
            now = slice(max(0, end - steps), end)
            dh_now = None if dh is None else dh[now]
            shares.append(of_block(target.at(now), h[now], weight, bias, dh_now, dweight, dbias))
        ctx.save_for_backward(dh, dweight, dbias)
        return torch.stack(shares[::-1]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dL,) = cotangents
        return *(None if g is None else g * dL for g in ctx.saved_tensors), None, None
