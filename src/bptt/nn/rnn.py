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
        _check_axes(input, axes)
        unbatched = input.dim() == axes - 1
        if hx is not None and hx.dim() != (2 if unbatched else 3):
            raise RuntimeError(
                f"For {'unbatched' if unbatched else 'batched'} {input.dim()}-D input, hx should also be "
                f"{2 if unbatched else 3}-D, (num_layers * directions{'' if unbatched else ', batch'}, hidden_size); "
                f"got {hx.dim()}-D {tuple(hx.shape)}"
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
        if hx is not None and sorted_indices is not None:
            hx = hx.index_select(1, sorted_indices)
        output, h_n = self._layers(x, hx, batch_sizes.tolist())
        if unsorted_indices is not None:
            h_n = h_n.index_select(1, unsorted_indices)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), h_n

    def _layers(self, x: Tensor, hx: Tensor | None, batch_sizes: list[int] | None = None) -> tuple[Tensor, Tensor]:
        weights = [self._weights_of(names) for names in self._all_weights]
        weight_hh = weights[0][1]
        x = _checked_input(x, self.input_size, weight_hh)
        directions = 2 if self.bidirectional else 1
        batch = batch_sizes[0] if batch_sizes else x.shape[1]
        states = (self.num_layers * directions, batch, self.hidden_size)
        hx = None if hx is None else _checked_state(hx, states, weight_hh)
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
        _check_axes(input, axes)
        x = _checked_input(input, self.input_size, self.weight_hh)
        unbatched = x.dim() == axes - 1
        if unbatched:
            x = x.unsqueeze(0)
            hx = None if hx is None else hx.unsqueeze(0)
        states = (len(x), self.hidden_size)
        h0 = None if hx is None else _checked_state(hx, states, self.weight_hh).unsqueeze(0)
        watching = ops.recorder.get()
        if watching is not None:
            watching.begin(self)
        _, h = ops.layer(
            x.unsqueeze(0), h0, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.nonlinearity
        )
        return h[0, 0] if unbatched else h[0]


def _check_axes(x: Tensor, axes: int) -> None:
    if x.dim() not in (axes - 1, axes):
        raise ValueError(
            f"RNN: Expected input to be {axes - 1}D or {axes}D, got {x.dim()}D instead: batched input has {axes} axes, "
            f"unbatched {axes - 1}, and integer tokens one fewer than numbers; got {tuple(x.shape)} of {x.dtype}"
        )


def _checked_input(x: Tensor, input_size: int, weight: Tensor) -> Tensor:
    _check_device("Input", x, weight)
    if x.dtype in TOKENS:
        return x.to(torch.int64)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )
    if x.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]} "
            f"in an input of shape {tuple(x.shape)}"
        )
    return x


def _checked_state(hx: Tensor, expected: tuple[int, ...], weight: Tensor) -> Tensor:
    _check_device("Hidden state", hx, weight)
    if tuple(hx.shape) != expected:
        hint = " Is the batch axis in the right place? It does not move with batch_first." if len(expected) == 3 else ""
        raise RuntimeError(f"Expected hidden size {expected}, got {list(hx.shape)}.{hint}")
    if hx.dtype != weight.dtype:
        raise ValueError(f"Hidden state dtype ({hx.dtype}) does not match weight dtype ({weight.dtype})")
    return hx


def _check_device(what: str, tensor: Tensor, weight: Tensor) -> None:
    if tensor.device != weight.device:
        raise RuntimeError(
            f"{what} and parameter tensors are not at the same device, found {what.lower()} at {tensor.device} and "
            f"parameters at {weight.device}. Move one of them with .to()"
        )
