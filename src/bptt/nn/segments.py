"""Which steps of padded input are real, and where rows begin anew: the same steps as a packed batch.

A segment is a run of real steps of one row without a reset inside; steps that a mask skips may lie between them.
Segments do not know each other, so each is a row of a packed batch by itself: padding costs nothing and is never read,
and a row that is reset often takes fewer steps.

In both directions a segment is a sequence of its own. Forward, a reset before step t makes t start from the fresh
state; in reverse, which walks from the end, it makes step t-1 start from the fresh state. The state that was given, hx,
belongs to the first segment of a row going forward and to the last one in reverse, unless the reset is before step 0:
then the row going forward begins anew, and in reverse its walk merely ends there.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """S segments of B rows, longest first, with N steps in all.

    batch        B
    batch_sizes  how many segments have a step t, as in torch's PackedSequence
    places       (N,) where the packed steps lie in the flattened input
    rows         (S,) which row each segment is part of
    goes_on      (S,) whether it begins at step 0 without a reset
    is_last      (S,) whether it is the last of its row
    firsts       which segments are the first of their rows
    lasts        which are the last
    """

    batch: int
    batch_sizes: list[int]
    places: Tensor
    rows: Tensor
    goes_on: Tensor
    is_last: Tensor
    firsts: Tensor
    lasts: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(N, ·) from the flattened input (anything, ·)."""
        return x.index_select(0, self.places)

    def unpack(self, h: Tensor, size: int) -> Tensor:
        """(size, H): what `pack` took is back in its place, zero elsewhere."""
        return h.new_zeros(size, h.shape[-1]).index_copy(0, self.places, h)

    def begin(self, given: Tensor | None, fresh: Tensor | None, reverse: bool) -> Tensor | None:
        """The states that the segments begin with (1, S, H), from those of the rows (1, B, H); None is zero."""
        if given is None and fresh is None:
            return None
        like = fresh if given is None else given
        assert like is not None
        given = like.new_zeros(1) if given is None else given.index_select(1, self.rows)
        fresh = like.new_zeros(1) if fresh is None else fresh.index_select(1, self.rows)
        return torch.where((self.is_last if reverse else self.goes_on)[:, None], given, fresh)

    def end(self, h_n: Tensor, given: Tensor | None, reverse: bool) -> Tensor:
        """The last states of the rows (1, B, H), from those of the segments; a row without steps keeps what it had."""
        at_the_end = self.firsts if reverse else self.lasts
        start = h_n.new_zeros(1, self.batch, h_n.shape[-1]) if given is None else given.to(h_n.dtype)
        return start.index_copy(1, self.rows[at_the_end], h_n.index_select(1, at_the_end))


def segments(
    starts: Tensor,
    time_stride: int,
    lengths: Tensor,
    reset: Tensor | None,
    device: torch.device,
    mask: Tensor | None = None,
) -> Segments:
    """The segments of B rows whose step t lies at starts[b] + t * time_stride of the flattened input.

    lengths (B,) counts the real steps; mask (B, T) is true at these, where they are not the first ones; reset (B, T)
    is true where a row begins anew before step t, or, where that is skipped, before the next real one.
    """
    lengths = lengths.to("cpu", torch.int64)
    real = None if mask is None else (~mask.cpu()).to(torch.int8).argsort(dim=1, stable=True)  # these steps first
    if real is not None and reset is not None:
        resets = reset.cpu().cumsum(1).gather(1, real)  # of each real step, how many there were until then
        reset = resets.diff(dim=1, prepend=resets.new_zeros(len(resets), 1)) > 0
    steps = int(lengths.max()) if len(lengths) else 0
    begins = torch.zeros(len(lengths), steps, dtype=torch.bool, device="cpu")
    if reset is not None:
        begins |= reset[:, :steps].cpu()
    goes_on = torch.zeros_like(begins)
    goes_on[:, :1] = ~begins[:, :1]
    begins[:, :1] = True
    begins &= torch.arange(steps, device="cpu") < lengths[:, None]
    rows, first_steps = begins.nonzero().unbind(1)
    is_first = rows != torch.cat([rows.new_full((1,), -1), rows[:-1]])
    is_last = rows != torch.cat([rows[1:], rows.new_full((1,), -1)])
    ends = torch.where(is_last, lengths[rows], torch.cat([first_steps[1:], first_steps.new_zeros(1)])[: len(rows)])
    sizes, order = (ends - first_steps).sort(descending=True, stable=True)
    rows, first_steps, is_last = rows[order], first_steps[order], is_last[order]
    firsts, lasts = is_first[order].nonzero()[:, 0], is_last.nonzero()[:, 0]
    longest = int(sizes[0]) if len(sizes) else 0
    batch_sizes = len(sizes) - torch.searchsorted(sizes.flip(0), torch.arange(longest, device="cpu"), right=True)
    step = torch.arange(longest, device="cpu").repeat_interleave(batch_sizes)
    segment = torch.arange(len(step), device="cpu") - (batch_sizes.cumsum(0) - batch_sizes)[step]
    step, row = first_steps[segment] + step, rows[segment]
    places = starts.cpu()[row] + (step if real is None else real[row, step]) * time_stride
    on_device = (t.to(device) for t in (places, rows, goes_on[rows, first_steps], is_last, firsts, lasts))
    return Segments(len(lengths), batch_sizes.tolist(), *on_device)
