"""Stateful training: the state goes from window to window, and backpropagation stops between them."""

from typing import Any

import torch
from torch import Tensor

from bptt.errors import InputError


class Stream:
    """Calls a recurrent module window after window with the state that the last window left, detached.

    module  called with (x, state), and with x alone at first; returns (output, state), or more after that. The state is
            a tensor or a tuple of them, the first (layers, B, H): those of `RNN`, torch's RNN, GRU and LSTM,
            `Network` and `Jordan`. Where rows begin with something else than zero, a method fresh_state(B) says with
            what

    A stream is called as its module is, without the state, and returns what the module returns. Between calls nothing
    but numbers is carried, so each window's loss may go backward by itself: truncated BPTT with the window as its
    length. `state` is what the next window begins with, None for a fresh beginning; it may be set.

    A new sequence in row b: `stream.reset([b])` before its first window, or within a window, for a `bptt.nn.RNN`,
    `stream(x, reset=mask)`. `stream.reset()` begins anew in all rows, as for another batch size.

    >>> stream = Stream(bptt.nn.RNN(3, 8))
    >>> for x, y in windows:  # x (T, B, 3), the rows going on from window to window
    ...     output, _ = stream(x)
    ...     loss(output, y).backward()
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.state: Any = None
        self._anew: Tensor | None = None

    def __repr__(self) -> str:
        return f"Stream({self.module!r})"

    def __call__(self, x: Any, *args: Any, **options: Any) -> Any:
        state = self._begun()
        result = self.module(x, *args, **options) if state is None else self.module(x, *args, state, **options)
        if not isinstance(result, tuple):
            raise InputError(
                "a stream needs the state beside the output, (output, state), from the module that it calls; got one "
                f"{type(result).__name__} from {type(self.module).__name__}. A cell's loop over steps is an RNN's call."
            )
        self.state, self._anew = each(torch.Tensor.detach, result[1]), None
        return result

    def reset(self, rows: Any = None) -> None:
        """The rows (indices, or booleans (B,)) begin anew with the next window; all of them if none are named.

        They begin with zero, or, where `RNN` has learn_h0, with the learnt state. Raises IndexError for rows that are
        not there, RuntimeError when no window has been seen whose rows could be meant, and InputError for unbatched
        windows and for a model that has an `RNN` with learn_h0 inside but no method fresh_state(B) of its own.
        """
        if rows is None:
            self.state = self._anew = None
            return
        if self.state is None:
            raise RuntimeError("reset(rows) follows a window: before the first, every row begins anew; call reset()")
        state = _tensors(self.state)[0]
        if state.dim() < 3:
            raise InputError(
                "rows can begin anew where the state has an axis of them, (layers, B, H), and "
                f"unbatched windows are one row; got a state of shape {tuple(state.shape)}. Begin anew with reset()."
            )
        inside = [name for name, part in self.module.named_modules() if getattr(part, "learn_h0", False)]
        if inside and not hasattr(self.module, "fresh_state"):
            raise InputError(
                f"rows begin anew with the states that learn_h0 has learnt, which {type(self.module).__name__} has in "
                f"its part {inside[0]!r}. Give it a method fresh_state(B) that returns them laid out as its state, as "
                "that of the part does."
            )
        rows = torch.as_tensor(rows, device=None if isinstance(rows, Tensor) else "cpu")
        B = state.shape[-2]
        if (rows.dtype == torch.bool and rows.shape != (B,)) or rows.dim() > 1:
            raise IndexError(
                f"rows must be indices, or booleans for the {B} rows of the state; got {tuple(rows.shape)}"
            )
        if rows.dtype != torch.bool and rows.numel() and not -B <= int(rows.min()) <= int(rows.max()) < B:
            raise IndexError(f"rows must lie in [0, {B}), those of the state; got {rows.tolist()}")
        anew = torch.zeros(B, dtype=torch.bool, device="cpu") if self._anew is None else self._anew
        anew[rows if rows.dtype == torch.bool else rows.long()] = True
        self._anew = anew

    def _begun(self) -> Any:
        """The state for the next window: carried, with fresh rows where `reset` asked for them."""
        if self.state is None or self._anew is None:
            return self.state
        anew = self._anew[:, None]
        fresh_state = getattr(self.module, "fresh_state", None)
        fresh = None if fresh_state is None else fresh_state(len(anew))
        if fresh is None:
            return each(lambda h: h.masked_fill(anew.to(h.device), 0), self.state)
        own = iter(_tensors(fresh))
        return each(lambda h: torch.where(anew.to(h.device), next(own).to(h.dtype), h), self.state)


def _tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [h for part in state for h in _tensors(part)]


def each(change: Any, state: Any) -> Any:
    """The state with every tensor changed; named tuples stay what they are."""
    if isinstance(state, Tensor):
        return change(state)
    changed = [each(change, part) for part in state]
    return type(state)(*changed) if hasattr(state, "_fields") else tuple(changed)
