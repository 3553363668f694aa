"""Recurrent layers of any cell, the output layer A5 on top and the loss that belongs to it."""

from typing import Any

import torch
from torch import Tensor

from bptt.autograd import long
from bptt.autograd.readout import Readout
from bptt.autograd.recorded import recorder
from bptt.engine.blocks import Checkpoint
from bptt.errors import InputError
from bptt.nn.arguments import TOKENS, checked_input
from bptt.nn.gated import GRU, LSTM
from bptt.nn.layers import NOTHING_FURTHER, Layers
from bptt.nn.precision import returned_dtype
from bptt.nn.recurrent import Recurrent, as_cell
from bptt.nn.rnn import RNN
from bptt.sheet import Cell, losses, named


class Network(torch.nn.Module):
    """A recurrent network with an output at every step: recurrent layers and the output layer A5.

    rnn   its layers: an `RNN`, `LSTM`, `GRU` or `Recurrent` with time first, one size for all layers or sizes of
          their own, in one or both directions
    loss  names the pair of output and loss (`bptt.losses`): "cross_entropy" (softmax), "binary_cross_entropy" (sigmoid)
          or "squared_error" (identity)

    The layers are `self.rnn`, A5 is `self.readout`.

    Called with x (T, B, input_size) or integer tokens (T, B), and, if wanted, h0, the states before the first step as
    the layers take them. Returns o (T, B, output_size), the outputs before g, and h_n, the states after the last step
    as the layers return them: (layers, B, H), or a tuple with one such array for each state of the cell.

    >>> model = Network(LSTM(10, 20, num_layers=2), 5)
    >>> o, (h_n, c_n) = model(torch.zeros(7, 3, 10))
    >>> o.shape, c_n.shape
    (torch.Size([7, 3, 5]), torch.Size([2, 3, 20]))
    """

    def __init__(self, rnn: Layers, output_size: int, *, loss: str = "cross_entropy") -> None:
        super().__init__()
        losses.pair(loss)
        if not isinstance(rnn, Layers) or rnn.batch_first:
            raise InputError(
                "rnn must be recurrent layers of bptt with time first: bptt.nn.LSTM(...), or of a module of torch what "
                f"bptt.convert gives, without batch_first; got {rnn!r}"
            )
        if type(output_size) is not int or output_size < 1:
            raise InputError(f"output_size must be a whole number from 1; got {output_size!r}")
        self.loss_name = loss
        self.rnn = rnn
        like = rnn.tensors_of(0)[0]
        self.readout = Readout(width_of_output(rnn), output_size, device=like.device, dtype=like.dtype)

    def forward(self, x: Tensor, h0: Any = None) -> tuple[Tensor, Any]:
        h, h_n = self.rnn(x, h0)
        return self.readout(h), h_n  # A5, and with its gradient B4, B5 and the first term of B6

    def predict(self, x: Tensor, h0: Any = None) -> tuple[Tensor, Any]:
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
        h0: Any = None,
        weights: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        class_weights: Tensor | None = None,
        skip_nan: bool = False,
        checkpoint: Checkpoint = "auto",
    ) -> tuple[Tensor, Any]:
        """L of B1 and h_n for sequences of any length: a whole text in one backward pass.

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
            self.loss_name, rnn.cell_now()[0], x, y, layers, self.readout.weight, self.readout.bias, weights,
            torch_layout=rnn.torch_layout, mask=mask, class_weights=class_weights, skip_nan=skip_nan,
            checkpoint=checkpoint, dropout=rnn.dropout if self.training else 0.0,
        )  # fmt: skip
        return L, rnn._h_n(last)


def width_of_output(rnn: Layers) -> int:
    """The numbers of each step of the output of these layers, of both directions together."""
    hidden = rnn.hidden_size
    top = getattr(rnn, "proj_size", 0) or (hidden if isinstance(hidden, int) else hidden[-1])
    return rnn.directions * top


def layers_of(
    cell: Cell | str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    nonlinearity: str | None = None,
    bidirectional: bool = False,
) -> Layers:
    """Recurrent layers of a cell: `RNN`, `LSTM` or `GRU` where it is torch's, else `Recurrent`.

    cell          a `bptt.Cell`, the name of one that is built in, or the text of one. Sizes that its text declares are
                  hidden_size too
    nonlinearity  φ of the plain cell, which alone has a choice; None: tanh

    Raises InputError for a cell that is none or does not fit, and for a nonlinearity beside another cell.
    """
    cell = as_cell(cell)
    if cell is named("elman"):
        return RNN(input_size, hidden_size, num_layers, nonlinearity or "tanh", bidirectional=bidirectional)
    if nonlinearity is not None:
        raise InputError(
            f"nonlinearity is the φ of the plain cell; got {nonlinearity!r} with the cell {cell.name!r}, whose text "
            "names its own functions. Leave one of the two out."
        )
    for name, module in (("lstm", LSTM), ("gru", GRU)):
        if cell is named(name):
            return module(input_size, hidden_size, num_layers, bidirectional=bidirectional)
    sizes = {size: hidden_size for size, _ in cell.sheet.sizes.values() if size not in ("I", "H")}
    return Recurrent(cell, input_size, hidden_size, num_layers, sizes=sizes, bidirectional=bidirectional)


def _as_long_takes_it(rnn: Layers, x: Tensor, hx: Any) -> tuple[Tensor, list[long.Layer]]:
    """x (T, B, ·), states and weights as `bptt.long` takes them; refusals are those of a call."""
    weights = rnn.completed([rnn.tensors_of(k) for k in range(rnn.count)])
    like = weights[0][0]
    if x.dim() != (2 if x.dtype in TOKENS else 3):
        raise InputError(
            f"x must be tokens (T, B) or numbers (T, B, input_size), time first; got {tuple(x.shape)} of {x.dtype}."
        )
    alike = not rnn.bidirectional and isinstance(rnn.hidden_size, int) and not rnn.reads_further
    if not alike or rnn.cell_now()[1] is not None or returned_dtype(x, like) is not None:
        raise InputError(
            "going block by block from input to loss needs layers of one size that go forward in time and read x "
            f"alone, with φ by name, in float32 or float64 without autocast; got {rnn} and {x.dtype}. Use RNN with "
            "checkpoint= instead."
        )
    if x.dtype in TOKENS:
        rnn.check_reads_tokens()
    x = checked_input(x, rnn.input_size, like)
    states = rnn._given(hx, x.shape[1], like)
    masks = rnn._masks(rnn.cell_now()[0], x, states, NOTHING_FURTHER, like, None)
    return x, [long.Layer(*of_layer) for of_layer in zip(states, weights, masks, strict=True)]
