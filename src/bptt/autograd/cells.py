"""One layer of cells with options as a torch operation with its autograd formula: `function` for `cells`.

The input's share of A2 is a product of torch's own, and so are the weight gradients; between them is one sweep each
way, in C++ where φ has a name and the tensors are float32 or float64 on the CPU, else autograd through the reference.
Second derivatives always come from the reference, and so does what torch.func transforms; what torch.compile and
torch.export trace is an operator (`cell_operators`), unless φ is a function: then T is a constant to them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.autograd import function
from bptt.autograd.cell_operators import cell_sweep, gradients_of_sweep
from bptt.engine import cells as reference
from bptt.engine import choose, native_cells, packing
from bptt.engine.cells import Cell
from bptt.engine.native import check_storage
from bptt.engine.reference import check_tokens


def layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    cell: Cell,
    *,
    mask: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    batch_sizes: Sequence[int] | Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The states of all steps (T, B, H), or (N, H) when packed, and the last state of every row (1, B, H).

    Arguments as for `bptt.autograd.function.layer`, with a `Cell` in the place of the activation's name, and

    mask         (B, H) of the recurrent dropout, or None
    norm_weight  (H), γ of the layer norm, or None for no layer norm; norm_bias (H), β, or None for zero

    Raises IndexError for tokens outside [0, I).
    """
    seen_by_others = function.seen_by_others(x, weight_hh)
    if not seen_by_others:
        check_storage(x=x, h0=h0, bias_ih=bias_ih, bias_hh=bias_hh)
    bias = None if bias_ih is None or bias_hh is None else bias_ih + bias_hh
    if x.is_floating_point():
        a = F.linear(x, weight_ih, bias)
    else:
        check_tokens(x, weight_ih.shape[1])
        a = F.embedding(x, weight_ih.mT) if bias is None else F.embedding(x, weight_ih.mT) + bias
    start = weight_hh.new_zeros(packing.rows_of_batch(x, batch_sizes), weight_hh.shape[0]) if h0 is None else h0[0]
    traced = function.is_traced() or function.is_seen_by_modes()
    if traced and not callable(cell.activation) and not function.is_transformed(x):
        if batch_sizes is not None and not isinstance(batch_sizes, Tensor):
            batch_sizes = torch.as_tensor(batch_sizes, dtype=torch.int64)
        h, h_n, *_ = cell_sweep(a, start, weight_hh, mask, norm_weight, norm_bias, batch_sizes, *cell, reverse)
        return h, h_n[None]
    if isinstance(batch_sizes, Tensor):
        batch_sizes = batch_sizes.tolist()
    by_the_book = (
        callable(cell.activation) or seen_by_others or choose(x.device.type, weight_hh.dtype).name == "reference"
    )
    sweep = _by_the_book if by_the_book else _Sweep.apply
    h = sweep(a, start, weight_hh, mask, norm_weight, norm_bias, _How(cell, batch_sizes, reverse))
    B = start.shape[0]
    states = packing.with_h0(h, start[None], B, batch_sizes, reverse)
    return h, packing.last_states(states, B, batch_sizes, reverse)[None]


class _How(NamedTuple):
    """What a sweep is told beside its tensors."""

    cell: Cell
    batch_sizes: Sequence[int] | None
    reverse: bool


def _by_the_book(
    a: Tensor,
    h0: Tensor,
    weight_hh: Tensor,
    mask: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    how: _How,
) -> Tensor:
    return reference.forward_sweep(
        a, weight_hh.mT, h0, how.cell, mask=mask, norm_weight=norm_weight, norm_bias=norm_bias,
        batch_sizes=how.batch_sizes, reverse=how.reverse,
    )  # fmt: skip


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        h0: Tensor,
        weight_hh: Tensor,
        mask: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        how: _How,
    ) -> Tensor:
        h, kept = native_cells.forward_sweep(
            a, weight_hh.mT, h0, how.cell, mask=mask, norm_weight=norm_weight, norm_bias=norm_bias,
            batch_sizes=how.batch_sizes, reverse=how.reverse,
        )  # fmt: skip
        ctx.how = how
        ctx.save_for_backward(a, h0, weight_hh, mask, norm_weight, norm_bias, h, *kept)
        return h

    @staticmethod
    @function.sample_by_sample
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (dh,) = cotangents
        if torch.is_grad_enabled():
            return *_differentiable_gradients(ctx, dh), None
        _, h0, weight_hh, mask, norm_weight, _, h, *kept = function.saved(ctx)
        check_storage(h0=h0, h=h)
        cell, batch_sizes, reverse = ctx.how
        states = packing.with_h0(h, h0[None], len(h0), batch_sizes, reverse)
        needs = ctx.needs_input_grad
        da, dh0, dweight_hh, dnorm_weight, dnorm_bias = gradients_of_sweep(
            dh, states, native_cells.Kept(*kept), weight_hh, mask, norm_weight, cell, len(h0), batch_sizes, reverse,
            (needs[2], needs[4], needs[5]),
        )  # fmt: skip
        return da, dh0, dweight_hh, None, dnorm_weight, dnorm_bias, None


def _differentiable_gradients(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again; the inputs are aliased so that they stop here."""
    aliases: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in function.saved(ctx)[:6]]
    a, h0, weight_hh, mask, norm_weight, norm_bias = aliases
    h = _by_the_book(a, h0, weight_hh, mask, norm_weight, norm_bias, ctx.how)
    needed = ctx.needs_input_grad[:6]
    wanted = [alias for alias, is_needed in zip(aliases, needed, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad(h, wanted, dh, create_graph=True, allow_unused=True))
    return tuple(next(gradients) if is_needed else None for is_needed in needed)
