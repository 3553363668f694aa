"""The two sweeps by the book: PyTorch, any floating dtype, any device, differentiable itself.

This is the definition that judges every other engine, and the file to read first. The contract stands in `bptt.sweeps`.
Inside, every array is packed: the rows of one step, then those of the next; a dense (T, B, H) array is the case of
B rows at each step. Row r of a step follows row r of the step before it. Rows end early in a packed batch: going
forward in time fewer and fewer rows go on; going back, each row joins at its own last step, from its own h_0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bptt.activations import activation as named


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
    derivative = named(activation).derivative
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
        da_t = dh_t * derivative(h_t)  # B7
        future = da_t @ W_hh.mT  # B11
        dh_totals.append(dh_t)
        da_steps.append(da_t)
    dh0 = torch.cat([future, *to_h0[::-1]])
    dh0 = torch.cat([dh0, dh0.new_zeros(batch - len(dh0), h.shape[-1])])
    if total is not None:
        total.copy_(_as_array(dh_totals[::time], like=dh))
    da = _as_array(da_steps[::time], like=dh)
    return (da if out is None else out.copy_(da)), dh0


def _rows_of_steps(array: Tensor, batch_sizes: Sequence[int] | None) -> list[int]:
    return [array.shape[1]] * array.shape[0] if batch_sizes is None else list(batch_sizes)


def _as_array(steps: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return torch.cat([like.flatten(0, -2)[:0], *steps]).view(like.shape)
