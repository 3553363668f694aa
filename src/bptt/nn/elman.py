"""A recurrent layer, the output layer A5 on top and the loss that belongs to it."""

import torch
from torch import Tensor

from bptt.autograd import long
from bptt.autograd.readout import Readout
from bptt.autograd.recorded import recorder
from bptt.engine.blocks import Checkpoint
from bptt.errors import InputError
from bptt.nn.arguments import TOKENS, checked_input
from bptt.nn.layers import NOTHING_FURTHER
from bptt.nn.precision import returned_dtype
from bptt.nn.rnn import RNN
from bptt.sheet import losses


class Elman(torch.nn.Module):
    """A recurrent network with an output at every step: `RNN` and the output layer A5.

    loss names the pair of output and loss (`bptt.losses`): "cross_entropy" (softmax), "binary_cross_entropy" (sigmoid)
    or "squared_error" (identity). The other arguments are those of `RNN`, which is `self.rnn`; A5 is `self.readout`.

    Called with x (T, B, input_size) or integer tokens (T, B), and, if wanted, h0 (num_layers, B, hidden_size).
    Returns o (T, B, output_size), the outputs before g, and h_n (num_layers, B, hidden_size).

    Source: Goodfellow et al. (2016), figure 10.3; Elman, "Finding structure in time" (1990).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        dropout: float = 0.0,
        loss: str = "cross_entropy",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        losses.pair(loss)
        self.loss_name = loss
        self.rnn = RNN(input_size, hidden_size, num_layers, nonlinearity, dropout=dropout, dtype=dtype)
        self.readout = Readout(hidden_size, output_size, dtype=dtype)

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, h_n = self.rnn(x, h0)
        return self.readout(h), h_n  # A5, and with its gradient B4, B5 and the first term of B6

    def predict(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ŷ of A6 (T, B, output_size) and h_n."""
        o, h_n = self(x, h0)
        return losses.output(self.loss_name, o), h_n

    def loss(self, o: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """L of B1 from the outputs before g; see `bptt.losses.loss`."""
        return losses.loss(self.loss_name, o, y, weights)

    def loss_of(
        self,
        x: Tensor,
        y: Tensor,
        h0: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        class_weights: Tensor | None = None,
        skip_nan: bool = False,
        checkpoint: Checkpoint = "auto",
    ) -> tuple[Tensor, Tensor]:
        """L of B1 and h_n (num_layers, B, hidden_size) for sequences of any length: a whole text in one backward pass.

            L, h_n = model.loss_of(x, y)     # what L = model.loss(model(x)[0], y) is, in bounded memory
            L.backward()

        x, y        as for the network and its loss: (T, B) tokens or (T, B, input_size), and targets of every step
        checkpoint  "auto", steps of a block, or a memory budget such as "512MB"; see `bptt.long`

        Input, states, outputs and their gradients exist for one block of time after the other. The gradients are exact.
        L, ∂h_t, ∂W_ho and ∂b_o are those of `losses.loss_of_states` with the same blocks to the bit, and those of
        `loss` to rounding; from equal ∂h_t the layers make equal bits, blocks or not.

        The gradients are computed here and multiplied with what backward() brings, so a call costs a forward and a
        backward pass, and one more forward sweep. h_n counts as a constant. The other arguments and errors are those of
        the network and of `bptt.losses.loss`; InputError too while a tape is recorded, which would have to hold it all.
        """
        if recorder.get() is not None:
            raise InputError(
                "a tape holds every number of every step, which loss_of is there to avoid; got a call of it while "
                "recording. Record model(x) and model.loss(o, y)."
            )
        rnn = self.rnn
        x, layers = _as_long_takes_it(rnn, x, h0)
        L, last = long.loss(
            self.loss_name, rnn.cell, x, y, layers, self.readout.weight, self.readout.bias, weights, torch_layout=True,
            mask=mask, class_weights=class_weights, skip_nan=skip_nan, checkpoint=checkpoint,
            dropout=rnn.dropout if self.training else 0.0,
        )  # fmt: skip
        return L, torch.cat([h for (h,) in last])


def _as_long_takes_it(rnn: RNN, x: Tensor, hx: Tensor | None) -> tuple[Tensor, list[long.Layer]]:
    """x (T, B, ·), states and weights as `bptt.long` takes them; refusals are those of a call."""
    weights = [rnn.tensors_of(k) for k in range(rnn.count)]
    like = weights[0][1]
    if x.dim() != (2 if x.dtype in TOKENS else 3):
        raise InputError(
            f"x must be tokens (T, B) or numbers (T, B, input_size), time first; got {tuple(x.shape)} of {x.dtype}."
        )
    alike = not rnn.bidirectional and isinstance(rnn.hidden_size, int)
    if not alike or rnn.cell_now()[1] is not None or returned_dtype(x, like) is not None:
        raise InputError(
            "going block by block from input to loss needs layers of one size that go forward in time, with φ by name, "
            f"in float32 or float64 without autocast; got {rnn} and {x.dtype}. Use RNN with checkpoint= instead."
        )
    x = checked_input(x, rnn.input_size, like)
    states = rnn._given(hx, x.shape[1], like)
    masks = rnn._masks(rnn.cell, x, states, NOTHING_FURTHER, like, None)
    return x, [long.Layer(*of_layer) for of_layer in zip(states, weights, masks, strict=True)]
