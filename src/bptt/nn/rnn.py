"""The face of torch.nn.RNN and torch.nn.RNNCell on the sweeps of this package.

Both are torch's own modules with another forward: same constructor, parameters, `state_dict` and shapes, so one can
stand where the other stood. Beyond torch they take integer tokens as input and the activations sigmoid and identity.
"""

from typing import Any, overload

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from bptt import ops
from bptt.activations import activation

TOKENS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


class RNN(torch.nn.RNN):
    """A stack of recurrent layers in one or both directions, the arguments and parameters being those of torch.nn.RNN.

    nonlinearity is "tanh", "relu", "sigmoid" or "identity".

    Called with x and, if wanted, h0 (num_layers * directions, B, H):

    x        (T, B, input_size); (B, T, input_size) when batch_first; (T, input_size) unbatched; or a PackedSequence.
             Integer x holds tokens in [0, input_size) and has no last axis: (T, B), (B, T) or (T,)
    output   the top layer's states of all steps (T, B, directions * H), laid out as x is
    h_n      the last states of all layers (num_layers * directions, B, H)

    Raises ValueError or RuntimeError, as torch does, for shapes, dtypes and devices that do not belong together, and
    IndexError for tokens outside the input size.

    >>> rnn = RNN(10, 20, num_layers=2)
    >>> output, h_n = rnn(torch.zeros(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unknown: Any,
    ) -> None:
        activation(nonlinearity)
        known_to_torch = nonlinearity if nonlinearity in ("tanh", "relu") else "tanh"
        super().__init__(
            input_size, hidden_size, num_layers, known_to_torch, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype, **unknown,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    @overload
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...
    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        axes = 2 if input.dtype in TOKENS else 3
        if input.dim() not in (axes - 1, axes):
            raise ValueError(
                f"RNN: Expected input to be {axes - 1}D or {axes}D, got {input.dim()}D tensor instead: "
                f"{_axes(input, axes)}"
            )
        unbatched = input.dim() == axes - 1
        if hx is not None and hx.dim() != (2 if unbatched else 3):
            raise RuntimeError(
                f"For {'unbatched' if unbatched else 'batched'} {input.dim()}-D input, hx should also be "
                f"{2 if unbatched else 3}-D but got {hx.dim()}-D tensor of shape {tuple(hx.shape)}; it is "
                f"(num_layers * directions{'' if unbatched else ', batch'}, hidden_size)"
            )
        if unbatched:
            output, h_n = self._layers(input.unsqueeze(1), None if hx is None else hx.unsqueeze(1))
            return output.squeeze(1), h_n.squeeze(1)
        if self.batch_first:
            output, h_n = self._layers(input.transpose(0, 1), hx)
            return output.transpose(0, 1), h_n
        return self._layers(input, hx)

    def _forward_packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        x, batch_sizes, sorted_indices, unsorted_indices = input
        axes = 1 if x.dtype in TOKENS else 2
        if x.dim() != axes:
            raise RuntimeError(
                f"input must have {axes} dimensions, got {x.dim()}: the rows of a PackedSequence lie one after the "
                f"other, {'(rows,)' if axes == 1 else '(rows, input_size)'}; got {tuple(x.shape)}"
            )
        if hx is not None and sorted_indices is not None:
            hx = hx.index_select(1, sorted_indices)
        output, h_n = self._layers(x, hx, batch_sizes.tolist())
        if unsorted_indices is not None:
            h_n = h_n.index_select(1, unsorted_indices)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), h_n

    def _layers(self, x: Tensor, hx: Tensor | None, batch_sizes: list[int] | None = None) -> tuple[Tensor, Tensor]:
        weights = [self._weights_of(names) for names in self._all_weights]
        weight_hh = weights[0][1]
        x = _checked_input(x, weight_hh)
        if x.is_floating_point() and x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]} "
                f"in an input of shape {tuple(x.shape)}"
            )
        directions = 2 if self.bidirectional else 1
        batch = batch_sizes[0] if batch_sizes else x.shape[1]
        states = (self.num_layers * directions, batch, self.hidden_size)
        if hx is not None:
            _check_state(hx, weight_hh)
            if tuple(hx.shape) != states:
                raise RuntimeError(
                    f"Expected hidden size {states}, got {list(hx.shape)}. "
                    "Is the batch axis in the right place? It does not move with batch_first."
                )
        watching = ops.recorder.get()
        if watching is not None:
            watching.begin(self)
        last_states = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in (False, True)[:directions]:
                k = len(last_states)
                h0 = hx if hx is None or len(hx) == 1 else hx[k : k + 1]
                output, h_n = ops.layer(
                    x, h0, *weights[k], self.nonlinearity, batch_sizes=batch_sizes, reverse=reverse, index=layer
                )
                outputs.append(output)
                last_states.append(h_n)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, last_states[0] if len(last_states) == 1 else torch.cat(last_states)

    def _weights_of(self, names: list[str]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Parameters by the short way where they lie as such; a parametrized one is an attribute that is computed."""
        own = self._parameters
        found: list[Any] = [own[name] if name in own else getattr(self, name) for name in names]
        return found[0], found[1], found[2] if self.bias else None, found[3] if self.bias else None


class RNNCell(torch.nn.RNNCell):
    """One step of a recurrent layer, the arguments and parameters being those of torch.nn.RNNCell.

    Called with x (B, input_size) or (input_size,), or integer tokens (B,) or (), and, if wanted, the last state
    (B, hidden_size) or (hidden_size,). Returns the next state. Errors are those of `RNN`.
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
        activation(nonlinearity)
        super().__init__(input_size, hidden_size, bias, nonlinearity, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        axes = 1 if input.dtype in TOKENS else 2
        if input.dim() not in (axes - 1, axes):
            raise ValueError(
                f"RNNCell: Expected input to be {axes - 1}D or {axes}D, got {input.dim()}D instead: "
                f"{_axes(input, axes)}"
            )
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead: {tuple(hx.shape)}")
        unbatched = input.dim() == axes - 1
        x = input.unsqueeze(0) if unbatched else input
        if axes == 2 and x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}, "
                f"in an input of shape {tuple(input.shape)}"
            )
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
            _check_state(hx, self.weight_hh)
            hx = hx.unsqueeze(0)
        x = _checked_input(x, self.weight_hh)
        watching = ops.recorder.get()
        if watching is not None:
            watching.begin(self)
        _, h = ops.layer(
            x.unsqueeze(0), hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.nonlinearity
        )
        return h[0, 0] if unbatched else h[0]


def _axes(x: Tensor, axes: int) -> str:
    return (
        f"batched input has {axes} axes, unbatched {axes - 1}, and integer tokens one fewer than numbers; "
        f"got {tuple(x.shape)} of {x.dtype}"
    )


def _checked_input(x: Tensor, weight: Tensor) -> Tensor:
    if x.device != weight.device:
        raise RuntimeError(
            f"Input and parameter tensors are not at the same device, found input tensor at {x.device} and parameter "
            f"tensor at {weight.device}. Move one of them with .to()"
        )
    if x.dtype in TOKENS:
        return x.to(torch.int64)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )
    return x


def _check_state(hx: Tensor, weight: Tensor) -> None:
    if hx.device != weight.device:
        raise RuntimeError(
            f"Input and hidden tensors are not at the same device, found input tensor at {weight.device} and hidden "
            f"tensor at {hx.device}. Move one of them with .to()"
        )
    if hx.dtype != weight.dtype:
        raise ValueError(f"Hidden state dtype ({hx.dtype}) does not match weight dtype ({weight.dtype})")
