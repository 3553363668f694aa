"""One sweep of cells with options as operators of `torch.library`: what torch.compile and torch.export see.

    bptt::cell_sweep           the states of all steps, the last of every row, and what is kept for the way back
    bptt::cell_sweep_backward  the gradients of a, h_0, W_hh, γ and β, as far as they are asked for

Both run the sweeps of `native_cells`, or those of the reference where `bptt.engine` chooses it, and say what shapes
come out without running, so that T and B may be unknown to who traces; what stands around them (the input's share of
A2) is torch's own. As in `operators` the gradient of the first is the second, and the gradient of the second is
that of the reference, as a function of what went in.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bptt.engine import cells as reference
from bptt.engine import choose, native_cells, packing
from bptt.engine.cells import Cell

_CELL = (
    "Tensor a, Tensor h0, Tensor weight_hh, Tensor? mask, Tensor? norm_weight, Tensor? norm_bias, "
    "Tensor? batch_sizes, str activation, float leak, bool residual, bool reverse"
)


@torch.library.custom_op("bptt::cell_sweep", mutates_args=(), schema=f"({_CELL}) -> Tensor[]")
def cell_sweep(
    a: Tensor, h0: Tensor, weight_hh: Tensor, mask: Tensor | None, norm_weight: Tensor | None,
    norm_bias: Tensor | None, batch_sizes: Tensor | None, activation: str, leak: float, residual: bool, reverse: bool,
) -> list[Tensor]:  # fmt: skip
    """h laid out as a, h_n (B, H), and the three of `native_cells.Kept`, empty where they are h itself or not there.

    a is x_t W_xh + b_h, dense (T, B, H) or packed (N, H) with batch_sizes (T,), a tensor of integers on the CPU; h0
    (B, H), weight_hh (H, H) as torch holds it; the rest as for `bptt.autograd.cells.layer`.
    """
    sizes, cell = _sizes(batch_sizes), Cell(activation, leak, residual)
    options: dict[str, Any] = {"mask": mask, "norm_weight": norm_weight, "norm_bias": norm_bias}
    if _by_reference(a):
        h = reference.forward_sweep(a, weight_hh.mT, h0, cell, **options, batch_sizes=sizes, reverse=reverse)
        kept = [a.new_empty(shape) for shape in _shapes_kept(a, leak, norm_weight is not None)]
    else:
        h, found = native_cells.forward_sweep(a, weight_hh.mT, h0, cell, **options, batch_sizes=sizes, reverse=reverse)
        kept = [a.new_empty(0) if array is None or array is h else array for array in found]
    return [
        h,
        packing.last_states(packing.with_h0(h, h0[None], len(h0), sizes, reverse), len(h0), sizes, reverse),
        *kept,
    ]


@torch.library.custom_op(
    "bptt::cell_sweep_backward",
    mutates_args=(),
    schema=f"(Tensor? dh, Tensor? dh_n, Tensor[] made, {_CELL}, bool[] needed) -> Tensor[]",
)
def cell_sweep_backward(
    dh: Tensor | None, dh_n: Tensor | None, made: Sequence[Tensor],
    a: Tensor, h0: Tensor, weight_hh: Tensor, mask: Tensor | None, norm_weight: Tensor | None,
    norm_bias: Tensor | None, batch_sizes: Tensor | None, activation: str, leak: float, residual: bool, reverse: bool,
    needed: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    """Those of da, dh0, dweight_hh, dnorm_weight and dnorm_bias that are needed, from what `cell_sweep` has made."""
    h, _, f, normalised, scale = made
    sizes, B = _sizes(batch_sizes), len(h0)
    if _by_reference(a):
        inputs, cell = (a, h0, weight_hh, norm_weight, norm_bias), Cell(activation, leak, residual)
        gradients = _gradients_by_reference(_seeds(dh, dh_n, a, h0), inputs, mask, cell, sizes, reverse)
        return [g for g, need in zip(gradients, needed, strict=True) if need and g is not None]
    states = packing.with_h0(h, h0[None], B, sizes, reverse)
    received = packing.received_by_states(dh, None if dh_n is None else dh_n[None], states, B, sizes, reverse)
    with_norm = norm_weight is not None
    kept = native_cells.Kept(h if leak == 1 else f, normalised if with_norm else None, scale if with_norm else None)
    da, dh0, *others = gradients_of_sweep(
        packing.of_steps(received, B, sizes, reverse), states, kept, weight_hh, mask, norm_weight,
        Cell(activation, leak, residual), B, sizes, reverse, needed[2:],
    )  # fmt: skip
    found = (da, dh0 + packing.of_h0(received, B, sizes, reverse), *others)
    return [g for g, need in zip(found, needed, strict=True) if need and g is not None]


def gradients_of_sweep(
    dh: Tensor, states: Tensor, kept: native_cells.Kept, weight_hh: Tensor, mask: Tensor | None,
    norm_weight: Tensor | None, cell: Cell, B: int, batch_sizes: Sequence[int] | None, reverse: bool,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """∂a, ∂h_0, and of ∂weight_hh, ∂γ and ∂β those that are needed, from ∂h and all states, h_0 among them."""
    da, dz, dh0 = native_cells.backward_sweep(
        dh, kept, weight_hh.mT, cell, B, mask=mask, norm_weight=norm_weight, batch_sizes=batch_sizes, reverse=reverse
    )
    needs_hh, needs_norm_weight, needs_norm_bias = needed
    dweight_hh = None
    if needs_hh:  # B10
        previous = packing.previous_states(states, B, batch_sizes, reverse)
        if mask is not None:
            previous = previous * (mask if batch_sizes is None else mask[_rows_of(batch_sizes)])
        dweight_hh = da.flatten(0, -2).mT @ previous.flatten(0, -2)
    rows = dz.flatten(0, -2)
    dnorm_weight = None
    if needs_norm_weight and kept.normalised is not None:
        dnorm_weight = (rows * kept.normalised.flatten(0, -2)).sum(0)
    return da, dh0, dweight_hh, dnorm_weight, rows.sum(0) if needs_norm_bias else None


def _rows_of(batch_sizes: Sequence[int]) -> Tensor:
    """Which row of the batch each packed row belongs to."""
    sizes = torch.as_tensor(batch_sizes, dtype=torch.int64)
    return torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)


def _by_reference(a: Tensor) -> bool:
    return choose(a.device.type, a.dtype).name == "reference"


def _shapes_kept(a: Tensor, leak: float, with_norm: bool) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    return (
        a.shape if leak != 1 else (0,),
        a.shape if with_norm else (0,),
        a.shape[:-1] if with_norm else (0,),
    )


def _sizes(batch_sizes: Tensor | None) -> list[int] | None:
    return None if batch_sizes is None else batch_sizes.tolist()


@cell_sweep.register_fake
def _(
    a: Tensor, h0: Tensor, weight_hh: Tensor, mask: Tensor | None, norm_weight: Tensor | None,
    norm_bias: Tensor | None, batch_sizes: Tensor | None, activation: str, leak: float, residual: bool, reverse: bool,
) -> list[Tensor]:  # fmt: skip
    return [a.new_empty(shape) for shape in (a.shape, h0.shape, *_shapes_kept(a, leak, norm_weight is not None))]


@cell_sweep_backward.register_fake
def _(
    dh: Tensor | None, dh_n: Tensor | None, made: Sequence[Tensor],
    a: Tensor, h0: Tensor, weight_hh: Tensor, mask: Tensor | None, norm_weight: Tensor | None,
    norm_bias: Tensor | None, batch_sizes: Tensor | None, activation: str, leak: float, residual: bool, reverse: bool,
    needed: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    inputs = (a, h0, weight_hh, norm_weight, norm_bias)
    return [a.new_empty(g.shape) for g, need in zip(inputs, needed, strict=True) if need and g is not None]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *tensors, activation, leak, residual, reverse = inputs
    ctx.how = activation, leak, residual, reverse
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, cotangents: list[Tensor]) -> tuple[Any, ...]:
    dh, dh_n, *_ = cotangents
    tensors, made = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
    needs = ctx.needs_input_grad
    needed = [needs[k] for k in (0, 1, 2, 4, 5)]
    found = iter(cell_sweep_backward(dh, dh_n, made, *tensors, *ctx.how, needed))
    da, dh0, dweight_hh, dnorm_weight, dnorm_bias = (next(found) if need else None for need in needed)
    return da, dh0, dweight_hh, None, dnorm_weight, dnorm_bias, *(None,) * 5


def _keep_for_second_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    dh, dh_n, made, *tensors, activation, leak, residual, reverse, ctx.needed = inputs
    ctx.how, ctx.made = (Cell(activation, leak, residual), reverse), len(made)
    ctx.save_for_backward(dh, dh_n, *tensors)


def _second_backward(ctx: Any, cotangents: list[Tensor]) -> tuple[Any, ...]:
    dh, dh_n, a, h0, weight_hh, mask, norm_weight, norm_bias, batch_sizes = ctx.saved_tensors
    cell, reverse = ctx.how
    sizes = _sizes(batch_sizes)
    inputs = (a, h0, weight_hh, norm_weight, norm_bias)
    places = [k for k, tensor in enumerate(inputs) if tensor is not None]

    def backward_of(dh: Tensor, dh_n: Tensor, *given: Tensor) -> list[Tensor]:
        every = [dict(zip(places, given, strict=True)).get(k) for k in range(5)]
        gradients = _gradients_by_reference((dh, dh_n), every, mask, cell, sizes, reverse)
        return [g for g, need in zip(gradients, ctx.needed, strict=True) if need and g is not None]

    pull_back = torch.func.vjp(backward_of, *_seeds(dh, dh_n, a, h0), *(inputs[k] for k in places))[1]
    to_dh, to_dh_n, *pulled = pull_back(list(cotangents))
    da, dh0, dweight_hh, dgamma, dbeta = (dict(zip(places, pulled, strict=True)).get(k) for k in range(5))
    return (
        None if dh is None else to_dh, None if dh_n is None else to_dh_n, [None] * ctx.made,
        da, dh0, dweight_hh, None, dgamma, dbeta, *(None,) * 6,
    )  # fmt: skip


def _seeds(dh: Tensor | None, dh_n: Tensor | None, a: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(a) if dh is None else dh, torch.zeros_like(h0) if dh_n is None else dh_n


def _gradients_by_reference(
    seeds: tuple[Tensor, Tensor], inputs: Sequence[Tensor | None], mask: Tensor | None, cell: Cell,
    sizes: list[int] | None, reverse: bool,
) -> list[Tensor | None]:  # fmt: skip
    """∂a, ∂h_0, ∂weight_hh, ∂γ and ∂β, in operations that torch differentiates; None for what is not there."""
    places = [k for k, tensor in enumerate(inputs) if tensor is not None]

    def forward(*given: Tensor) -> tuple[Tensor, Tensor]:
        (a, h0, weight_hh), affine = given[:3], dict(zip(places, given, strict=True))
        h = reference.forward_sweep(
            a, weight_hh.mT, h0, cell, mask=mask, norm_weight=affine.get(3), norm_bias=affine.get(4),
            batch_sizes=sizes, reverse=reverse,
        )  # fmt: skip
        states = packing.with_h0(h, h0[None], len(h0), sizes, reverse)
        return h, packing.last_states(states, len(h0), sizes, reverse)

    pulled = torch.func.vjp(forward, *(tensor for tensor in inputs if tensor is not None))[1](seeds)
    gradients = dict(zip(places, pulled, strict=True))
    return [gradients.get(k) for k in range(5)]


cell_sweep.register_autograd(_backward, setup_context=_keep_for_backward)
cell_sweep_backward.register_autograd(_second_backward, setup_context=_keep_for_second_backward)
