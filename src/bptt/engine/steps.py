"""Where the steps of a batch lie in arrays of all steps: (T, B, ·), or packed (N, ·) as in torch's PackedSequence.

Packed, the rows of one step lie one after the other, then those of the next; row r of a step goes on in row r of the
next one. Rows end early, so sizes do not increase. With `reverse` time runs from T to 1: each row then begins at its
own last step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """T steps of B rows; where packed, `sizes` says how many rows each step has, and N = sum(sizes)."""

    T: int
    B: int
    sizes: Sequence[int] | None = None
    reverse: bool = False

    @staticmethod
    def of(x: Tensor, sizes: Sequence[int] | None = None, reverse: bool = False, B: int | None = None) -> "Steps":
        """Those of an array of all steps. B where it is known, since rows may have no step at all."""
        if sizes is None:
            shape = x.shape
            rows = shape[1] if len(shape) > 1 else 0
            return Steps(shape[0] if shape else 0, rows if B is None else B, None, reverse)
        rows = int(sizes[0]) if len(sizes) else 0
        return Steps(len(sizes), rows if B is None else B, sizes, reverse)

    @property
    def rows(self) -> tuple[int, ...]:
        """The leading axes of an array of all steps: (T, B), or (N,)."""
        return (self.T, self.B) if self.sizes is None else (sum(self.sizes),)

    @property
    def rows_of_steps(self) -> list[int]:
        return [self.B] * self.T if self.sizes is None else list(self.sizes)

    def at_every_step(self, of_rows: Tensor) -> Tensor:
        """(B, ·) at the rows of all steps, (N, ·)."""
        return torch.cat([of_rows[:0], *(of_rows[:size] for size in self.rows_of_steps)])

    def with_first(self, values: Tensor, first: Tensor) -> Tensor:
        """Values of all steps with those before the first, (1, B, ·), in front: (T+1, B, ·), packed (B+N, ·).

        With reverse they come behind.
        """
        first = first if self.sizes is None else first[0]
        return torch.cat([values, first] if self.reverse else [first, values])

    def without_first(self, values: Tensor) -> Tensor:
        """The inverse of `with_first`, a view."""
        first = 1 if self.sizes is None else self.B
        return values[: len(values) - first] if self.reverse else values[first:]

    def first_of(self, values: Tensor) -> Tensor:
        """(B, ·) of `with_first`, a view."""
        if self.sizes is None:
            return values[-1 if self.reverse else 0]
        return values[len(values) - self.B :] if self.reverse else values[: self.B]

    def previous_of(self, values: Tensor) -> Tensor:
        """For every step the value of the step before, from `with_first`: a view, or gathered where packed."""
        if self.sizes is None:
            return values[1:] if self.reverse else values[:-1]
        sizes = torch.as_tensor(self.sizes, dtype=torch.int64, device="cpu")
        starts = sizes.cumsum(0) - sizes
        steps = torch.arange(len(sizes), device="cpu").repeat_interleave(sizes)
        rows = torch.arange(len(steps), device="cpu") - starts[steps]
        if self.reverse:
            goes_on = rows < torch.cat([sizes[1:], sizes.new_zeros(1)])[steps]
            previous = torch.where(goes_on, starts.roll(-1)[steps] + rows, len(steps) + rows)
        else:
            previous = torch.where(steps == 0, rows, self.B + starts.roll(1)[steps] + rows)
        return values.index_select(0, previous.to(values.device))

    def last_of(self, values: Tensor, first: Tensor) -> Tensor:
        """The last value of every row in the order of time, (1, B, ·); a row without steps has its first."""
        if self.sizes is not None:
            return self.with_first(values, first).index_select(0, self.last_rows().to(values.device))[None]
        last = values[:1] if self.reverse else values[-1:]
        return (last if self.T else first).clone(memory_format=torch.contiguous_format)

    def last_rows(self) -> Tensor:
        """(B,) where the last values lie in `with_first`, its leading axes flattened."""
        rows = torch.arange(self.B, device="cpu")
        if self.sizes is None:
            return rows if self.reverse else rows + self.T * self.B
        if not self.T:
            return rows
        sizes = torch.as_tensor(self.sizes, device="cpu")
        if self.reverse:
            return torch.where(rows < sizes[0], rows, sizes.sum() + rows)
        lengths = (sizes[:, None] > rows).sum(0)
        return torch.where(lengths == 0, rows, self.B + (sizes.cumsum(0) - sizes)[lengths - 1] + rows)

    def received(self, d: Tensor | None, d_last: Tensor | None, like: Tensor) -> Tensor:
        """The cotangent that a value has from outside, as `with_first`: d at the steps, d_last (1, B, ·) at each row's
        last. like: any array with the width and kind of the result."""
        shape = (self.T + 1, self.B) if self.sizes is None else (self.B + self.rows[0],)
        first = like.new_zeros(1, self.B, like.shape[-1])
        received = like.new_zeros(*shape, like.shape[-1]) if d is None else self.with_first(d, first)
        if d_last is None:
            return received
        received.flatten(0, -2).index_add_(0, self.last_rows().to(like.device), d_last[0])
        return received
