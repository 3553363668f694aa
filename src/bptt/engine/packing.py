"""Where rows lie in the arrays of the sweeps: dense (T, B, ·), or packed (N, ·) with `batch_sizes`.

The states of B rows hold h_0 as well: dense (T+1, B, H) with h_0 in slot 0, packed (B+N, H) with h_0 in the first B
rows; with `reverse` h_0 is at the other end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Sizes = Sequence[int] | None


def rows_of_batch(x: Tensor, batch_sizes: Sizes | Tensor) -> int:
    """B, from an array of all steps: dense the second axis, packed the rows of the first step."""
    if batch_sizes is None:
        shape = x.shape
        return shape[1] if len(shape) > 1 else 0
    return int(batch_sizes[0]) if len(batch_sizes) else 0


def with_h0(h: Tensor, h0: Tensor | None, B: int, batch_sizes: Sizes, reverse: bool) -> Tensor:
    """All states, from those of the steps and h_0 (1, B, H), None being zero."""
    h0 = h.new_zeros(1, B, h.shape[-1]) if h0 is None else h0
    initial = h0 if batch_sizes is None else h0[0]
    return torch.cat([h, initial] if reverse else [initial, h])


def of_steps(h: Tensor, B: int, batch_sizes: Sizes, reverse: bool) -> Tensor:
    """h_t of every step: the states without h_0, a view."""
    first = 1 if batch_sizes is None else B
    return h[: len(h) - first] if reverse else h[first:]


def of_h0(h: Tensor, B: int, batch_sizes: Sizes, reverse: bool) -> Tensor:
    """h_0 (B, H), a view."""
    if batch_sizes is None:
        return h[-1 if reverse else 0]
    return h[len(h) - B :] if reverse else h[:B]


def last_states(h: Tensor, B: int, batch_sizes: Sizes, reverse: bool) -> Tensor:
    """The last state of every row in the order of time (B, H), a copy."""
    if batch_sizes is None:
        return h[0 if reverse else -1].clone()
    return h.index_select(0, last_rows(batch_sizes, B, reverse).to(h.device))


def last_rows(batch_sizes: Sequence[int], B: int, reverse: bool) -> Tensor:
    """Where in a packed array of states the last state of every row lies, (B,); its h_0 for a row without steps."""
    rows = torch.arange(B, device="cpu")
    if not len(batch_sizes):
        return rows
    sizes = torch.as_tensor(batch_sizes, device="cpu")
    if reverse:
        return torch.where(rows < sizes[0], rows, sizes.sum() + rows)
    lengths = (sizes[:, None] > rows).sum(0)
    return torch.where(lengths == 0, rows, B + (sizes.cumsum(0) - sizes)[lengths - 1] + rows)


def previous_states(h: Tensor, B: int, batch_sizes: Sizes, reverse: bool) -> Tensor:
    """h_{t-1} of every step, laid out as h_t: a view of the same array, or gathered where the batch is packed."""
    if batch_sizes is None:
        return h[1:] if reverse else h[:-1]
    sizes = torch.as_tensor(batch_sizes, dtype=torch.int64, device="cpu")
    starts = sizes.cumsum(0) - sizes
    steps = torch.arange(len(sizes), device="cpu").repeat_interleave(sizes)
    rows = torch.arange(len(steps), device="cpu") - starts[steps]
    if reverse:
        goes_on = rows < torch.cat([sizes[1:], sizes.new_zeros(1)])[steps]
        previous = torch.where(goes_on, starts.roll(-1)[steps] + rows, len(steps) + rows)
    else:
        previous = torch.where(steps == 0, rows, B + starts.roll(1)[steps] + rows)
    return h.index_select(0, previous.to(h.device))


def received_by_states(
    dh: Tensor | None, dh_n: Tensor | None, h: Tensor, B: int, batch_sizes: Sizes, reverse: bool
) -> Tensor:
    """What all states receive from above, laid out as h: dh at the steps, dh_n (1, B, H) at each row's last."""
    received = torch.zeros_like(h)
    if dh is not None:
        of_steps(received, B, batch_sizes, reverse).copy_(dh)
    if dh_n is not None:
        sizes = [B] * (len(h) - 1) if batch_sizes is None else batch_sizes
        received.view(-1, h.shape[-1]).index_add_(0, last_rows(sizes, B, reverse).to(h.device), dh_n[0])
    return received
