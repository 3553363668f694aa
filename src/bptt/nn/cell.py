"""The face of torch.nn.RNNCell on the sweeps of this package: torch's own module with another forward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import functional as F

from bptt.autograd import function
from bptt.autograd.recorded import begin
from bptt.engine.functions import check_nonlinearity
from bptt.nn import options, tracers
from bptt.nn.arguments import TOKENS, check_axes, checked_kind, checked_kind_of_state
from bptt.nn.precision import computed_wide, returned_dtype
from bptt.sheet import Cell


class RNNCell(torch.nn.RNNCell):
    """One step of a recurrent layer, the arguments and parameters being those of torch.nn.RNNCell.

    Called with x (B, input_size) or (input_size,), or integer tokens (B,) or (), and, if wanted, the last state
    (B, hidden_size) or (hidden_size,). Returns the next state. Errors are those of `bptt.nn.RNN`.
    """

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepare_cells()

    def prepare_cells(self) -> None:
        """Makes the cell known, which torch.compile cannot make while it traces."""
        self._cell = self.nonlinearity, options.cell(self.nonlinearity, 1.0, False, False, False, bool(self.bias))

    @property
    def cell(self) -> Cell:
        """Its equations."""
        if self._cell[0] != self.nonlinearity:
            self.prepare_cells()
        return self._cell[1]

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if isinstance(input, Proxy):
            return tracers.node(self, input, hx)
        axes = 1 if input.dtype in TOKENS else 2
        check_axes(input, axes, of="RNNCell")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead: {tuple(hx.shape)}")
        unbatched = input.dim() == axes - 1
        x = input.unsqueeze(0) if unbatched else input
        if axes == 2 and x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}, "
                f"in an input of shape {tuple(input.shape)}"
            )
        h0 = None
        if hx is not None:
            hx = hx.unsqueeze(0) if unbatched else hx
            if hx.shape[-1] != self.hidden_size:
                raise RuntimeError(
                    f"hidden0 has inconsistent hidden_size: got {hx.shape[-1]}, expected {self.hidden_size}"
                )
            if len(hx) != len(x) or hx.dim() != 2:
                raise RuntimeError(
                    f"Input batch size {len(x)} doesn't match hidden0 batch size {len(hx)}: they are "
                    f"{tuple(input.shape)} and {tuple(hx.shape)}"
                )
            h0 = checked_kind_of_state(hx, self.weight_hh).unsqueeze(0)
        x = checked_kind(x, self.weight_hh).unsqueeze(0)
        begin(self)
        weight_ih, weight_hh, bias_ih, bias_hh = self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        if self.input_size == 0:  # as one number that weighs nothing
            x, weight_ih = F.pad(x, (0, 1)), F.pad(weight_ih, (0, 1))
        returned = returned_dtype(x, weight_hh)
        if returned is None and function.on_torch(x, weight_hh, self.nonlinearity):
            compute = torch._VF.rnn_tanh_cell if self.nonlinearity == "tanh" else torch._VF.rnn_relu_cell
            h_prev = x.new_zeros(1, x.shape[1], self.hidden_size) if h0 is None else h0
            h = compute(x[0], h_prev[0], weight_ih, weight_hh, bias_ih, bias_hh)
            return h[0] if unbatched else h
        weights = [tensor for tensor in (weight_ih, weight_hh, bias_ih, bias_hh) if tensor is not None]
        if returned is None:
            _, ((h,),) = self._step(x, [[h0]], [weights], [])
        else:
            _, ((h,),) = computed_wide(self._step, x, [[h0]], [weights], [], returned)
        return h[0, 0] if unbatched else h[0]

    def _slow_forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        tracers.check_torch_computes_the_same(self, input, tracers.JIT)
        return super().forward(input, hx)

    def _step(
        self,
        x: Tensor,
        states: Sequence[Sequence[Tensor | None]],
        weights: Sequence[Sequence[Tensor]],
        inputs: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        output, last = function.layer(self.cell, x, states[0], weights[0], torch_layout=True)
        return [output], [last]
