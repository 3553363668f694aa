"""The two sweeps by the book and the layer around them: PyTorch, any floating dtype, any device, differentiable.

This is the definition that judges every other engine, and the file to read first. The contract stands in `bptt.engine`.
Inside, every array is packed: the rows of one step, then those of the next; a dense (T, B, H) array is the case of
B rows at each step. Row r of a step follows row r of the step before it. Rows end early in a packed batch: going
forward in time fewer and fewer rows go on; going back, each row joins at its own last step, from its own h_0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.engine import packing
from bptt.engine.activations import activation as named


def forward_sweep(
    a: Tensor,
    W_hh: Tensor,
    h0: Tensor,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    phi = named(activation).phi
    time = -1 if reverse else 1
    a_steps = a.flatten(0, -2).split(_rows_of_steps(a, batch_sizes))
    h_prev = h0[:0] if reverse else h0
    a_totals, h_steps = [], []
    for x_share in a_steps[::time]:
        h_prev = torch.cat([h_prev, h0[len(h_prev) :]])[: len(x_share)]  # A1
        a_t = x_share + h_prev @ W_hh  # A2
        h_prev = phi(a_t)  # A3, A4
        a_totals.append(a_t)
        h_steps.append(h_prev)
    if total is not None:
        total.copy_(_as_array(a_totals[::time], like=a))
    h = torch.cat([h0, *h_steps][::time])
    h = h if batch_sizes is not None else h.view(a.shape[0] + 1, *h0.shape)
    return h if out is None else out.copy_(h)


def backward_sweep(
    dh: Tensor,
    h: Tensor,
    W_hh: Tensor,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    phi = named(activation)
    time = 1 if reverse else -1
    rows = _rows_of_steps(dh, batch_sizes)
    dh_steps = dh.flatten(0, -2).split(rows)
    h = h.flatten(0, -2)
    batch = len(h) - sum(rows)
    h_steps = (h[: len(h) - batch] if reverse else h[batch:]).split(rows)
    future = h[:0]  # ∂a_{t+1} W_hhᵀ
    to_h0, da_steps, dh_totals = [], [], []
    for direct, h_t in zip(dh_steps[::time], h_steps[::time], strict=True):
        to_h0.append(future[len(h_t) :])
        future = future[: len(h_t)]
        dh_t = direct + torch.cat([future, future.new_zeros(len(h_t) - len(future), h.shape[-1])])  # B6
        da_t = phi.backward(dh_t, h_t)  # B7
        future = da_t @ W_hh.mT  # B11
        dh_totals.append(dh_t)
        da_steps.append(da_t)
    dh0 = torch.cat([future, *to_h0[::-1]])
    dh0 = torch.cat([dh0, dh0.new_zeros(batch - len(dh0), h.shape[-1])])
    if total is not None:
        total.copy_(_as_array(dh_totals[::time], like=dh))
    da = _as_array(da_steps[::time], like=dh)
    return (da if out is None else out.copy_(da)), dh0


def forward_layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    h_n: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    W_xh, W_hh = weight_ih.mT, weight_hh.mT
    h0 = W_hh.new_zeros(packing.rows_of_batch(x, batch_sizes), len(W_hh)) if h0 is None else h0[0]
    if x.is_floating_point():
        a = x @ W_xh  # A2, the input's share
    else:
        check_tokens(x, len(W_xh))
        a = F.embedding(x, W_xh)
    for bias in (bias_ih, bias_hh):
        a = a if bias is None else a + bias
    states = forward_sweep(a, W_hh, h0, activation, batch_sizes=batch_sizes, reverse=reverse, total=total)
    if h_n is not None:
        h_n[0] = packing.last_states(states, len(h0), batch_sizes, reverse)
    h = packing.of_steps(states, len(h0), batch_sizes, reverse)
    return h.clone() if out is None else out.copy_(h)


def backward_layer(
    dh: Tensor | None,
    dh_n: Tensor | None,
    h: Tensor,
    h0: Tensor | None,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    dx: Tensor | None = None,
    dweight_ih: Tensor | None = None,
    dweight_hh: Tensor | None = None,
    dbias: Tensor | None = None,
    dh0: Tensor | None = None,
    da: Tensor | None = None,
    total: Tensor | None = None,
    accumulate: bool = False,
) -> None:
    B = packing.rows_of_batch(x, batch_sizes) if h0 is None else h0.shape[1]
    states = packing.with_h0(h, h0, B, batch_sizes, reverse)
    received = packing.received_by_states(dh, dh_n, states, B, batch_sizes, reverse)
    from_above = packing.of_steps(received, B, batch_sizes, reverse)
    da_, dh0_ = backward_sweep(
        from_above, states, weight_hh.mT, activation, batch_sizes=batch_sizes, reverse=reverse, out=da, total=total
    )
    rows = da_.flatten(0, -2)
    for gradient in (dbias, dweight_ih, dweight_hh):
        if gradient is not None and not accumulate:
            gradient.zero_()
    if dbias is not None:
        dbias += rows.sum(0)  # B8
    if dweight_ih is not None and x.is_floating_point():
        dweight_ih.mT.add_(x.flatten(0, -2).mT @ rows)  # B9
    elif dweight_ih is not None:
        dweight_ih.mT.index_add_(0, x.flatten(), rows)
    if dweight_hh is not None:
        dweight_hh.mT.add_(packing.previous_states(states, B, batch_sizes, reverse).flatten(0, -2).mT @ rows)  # B10
    if dx is not None:
        dx.copy_(da_ @ weight_ih)  # B11
    if dh0 is not None:
        dh0[0] = dh0_ + packing.of_h0(received, B, batch_sizes, reverse)


def check_tokens(x: Tensor, I: int) -> None:
    """IndexError for tokens outside [0, I). Where x is traced or transformed its numbers are left to the gather."""
    known = not (
        torch.compiler.is_dynamo_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or x.is_meta
    )
    if known and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < I:
        raise IndexError(f"tokens must lie in [0, {I}), the input size; got {int(x.min())} to {int(x.max())}")


def rows_of_a_block(H: int) -> int:
    return 1


def _rows_of_steps(array: Tensor, batch_sizes: Sequence[int] | None) -> list[int]:
    return [array.shape[1]] * array.shape[0] if batch_sizes is None else list(batch_sizes)


def _as_array(steps: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return torch.cat([like.flatten(0, -2)[:0], *steps]).view(like.shape)
