"""One step of a recurrent layer: the faces of torch.nn.RNNCell, LSTMCell and GRUCell on the engines of this package."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import functional as F

from bptt.autograd import function
from bptt.autograd.recorded import begin
from bptt.engine.functions import check_nonlinearity
from bptt.nn import gated, options, tracers
from bptt.nn.arguments import TOKENS, check_axes, checked_kind, checked_kind_of_state
from bptt.nn.precision import computed_wide, returned_dtype
from bptt.sheet import Cell


class OneStep(torch.nn.RNNCellBase, ABC):
    """Stands before a cell of torch among the bases of a class."""

    known_as: str
    autocast_on_cpu = False
    _cell: tuple[Any, Cell]

    @abstractmethod
    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        """What makes the cell, and from which options."""

    @abstractmethod
    def torch_function(self) -> Any:
        """The function of torch that computes a step, where it knows such; else None."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepare_cells()

    def prepare_cells(self) -> None:
        """Makes the cell known, which torch.compile cannot make while it traces."""
        make, asked = self._asked()
        self._cell = asked, make(*asked)

    @property
    def cell(self) -> Cell:
        """Its equations."""
        if self._cell[0] != self._asked()[1]:
            self.prepare_cells()
        return self._cell[1]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if isinstance(input, Proxy):
            return tracers.node(self, input, hx)
        axes = 1 if input.dtype in TOKENS else 2
        check_axes(input, axes, of=self.known_as)
        unbatched = input.dim() == axes - 1
        x = input.unsqueeze(0) if unbatched else input
        if axes == 2 and x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}, "
                f"in an input of shape {tuple(input.shape)}"
            )
        states = self.cell.sheet.states
        if hx is not None and len(states) > 1 and (not isinstance(hx, tuple | list) or len(hx) != len(states)):
            raise RuntimeError(
                f"{self.known_as}: hx is a tuple ({', '.join(states)}) of the states; got "
                f"{f'{len(hx)} of them' if isinstance(hx, tuple | list) else type(hx).__name__}"
            )
        given = [] if hx is None else [hx] if len(states) == 1 else list(hx)
        first: list[Tensor | None] = [self._checked_state(h, s, x, input, unbatched) for s, h in enumerate(given)]
        first = first or [None] * len(states)
        x = checked_kind(x, self.weight_hh).unsqueeze(0)
        begin(self)
        weight_ih, weight_hh, bias_ih, bias_hh = self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        if self.input_size == 0:  # as one number that weighs nothing
            x, weight_ih = F.pad(x, (0, 1)), F.pad(weight_ih, (0, 1))
        returned = returned_dtype(x, weight_hh, autocast_on_cpu=self.autocast_on_cpu)
        compute = self.torch_function() if returned is None and function.on_torch(x, weight_hh) else None
        if compute is not None:
            zero = [x.new_zeros(x.shape[1], self.hidden_size) if h is None else h[0] for h in first]
            found = compute(x[0], zero[0] if len(zero) == 1 else zero, weight_ih, weight_hh, bias_ih, bias_hh)
            last = (found,) if len(zero) == 1 else found
        else:
            weights = [tensor for tensor in (weight_ih, weight_hh, bias_ih, bias_hh) if tensor is not None]
            if returned is None:
                _, (ended,) = self._step(x, [first], [weights], [])
            else:
                _, (ended,) = computed_wide(self._step, x, [first], [weights], [], returned)
            last = tuple([h[0] for h in ended])
        if unbatched:
            last = tuple([h[0] for h in last])
        return last[0] if len(last) == 1 else last

    def __prepare_scriptable__(self) -> Any:
        """Called by torch.jit.script."""
        raise tracers.not_scripted(self, "Script what bptt.convert(model, back=True) gives.")

    def _slow_forward(self, input: Tensor, hx: Any = None) -> Any:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        is_plain = self.torch_function() is not None
        tracers.check_torch_computes_the_same(self, input, tracers.JIT, is_plain=is_plain)
        return super().forward(input, hx)

    def _checked_state(self, h: Any, s: int, x: Tensor, input: Tensor, unbatched: bool) -> Tensor:
        """(1, B, H)"""
        called = "hidden" if len(self.cell.sheet.states) == 1 else f"hx[{s}]"
        if not isinstance(h, Tensor):
            raise RuntimeError(
                f"{self.known_as}: {called} must be a tensor, (batch, hidden_size) or (hidden_size,); got "
                f"{type(h).__name__}. Leave hx out to begin with zero."
            )
        if h.dim() not in (1, 2):
            raise ValueError(
                f"{self.known_as}: Expected {called} to be 1D or 2D, got {h.dim()}D instead: {tuple(h.shape)}"
            )
        h = h.unsqueeze(0) if unbatched else h
        if h.shape[-1] != self.hidden_size:
            raise RuntimeError(
                f"hidden{s} has inconsistent hidden_size: got {h.shape[-1]}, expected {self.hidden_size}"
            )
        if len(h) != len(x) or h.dim() != 2:
            raise RuntimeError(
                f"Input batch size {len(x)} doesn't match hidden{s} batch size {len(h)}: they are "
                f"{tuple(input.shape)} and {tuple(h.shape)}"
            )
        return checked_kind_of_state(h, self.weight_hh).unsqueeze(0)

    def _step(
        self,
        x: Tensor,
        states: Sequence[Sequence[Tensor | None]],
        weights: Sequence[Sequence[Tensor]],
        inputs: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        output, last = function.layer(self.cell, x, states[0], weights[0], torch_layout=True)
        return [output], [last]


class RNNCell(OneStep, torch.nn.RNNCell):
    """One step of a recurrent layer, the arguments and parameters being those of torch.nn.RNNCell.

    Called with x (B, input_size) or (input_size,), or integer tokens (B,) or (), and, if wanted, the last state
    (B, hidden_size) or (hidden_size,). Returns the next state. Errors are those of `bptt.nn.RNN`.
    """

    known_as = "RNNCell"
    autocast_on_cpu = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, nonlinearity, device=device, dtype=dtype)
        self.prepare_cells()

    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        return options.cell, (self.nonlinearity, bool(self.bias))

    def torch_function(self) -> Any:
        return {"tanh": torch._VF.rnn_tanh_cell, "relu": torch._VF.rnn_relu_cell}.get(self.nonlinearity)


class LSTMCell(OneStep, torch.nn.LSTMCell):
    """One step of an LSTM layer, the arguments and parameters being those of torch.nn.LSTMCell.

    Called as `RNNCell` is, with a tuple (h, c) of the last states; it returns the next ones likewise.
    """

    known_as = "LSTMCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.prepare_cells()

    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        return gated.lstm_cell, (bool(self.bias),)

    def torch_function(self) -> Any:
        return torch._VF.lstm_cell


class GRUCell(OneStep, torch.nn.GRUCell):
    """One step of a GRU layer, the arguments and parameters being those of torch.nn.GRUCell; called as `RNNCell` is."""

    known_as = "GRUCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.prepare_cells()

    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        return gated.gru_cell, (bool(self.bias),)

    def torch_function(self) -> Any:
        return torch._VF.gru_cell
