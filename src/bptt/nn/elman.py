"""The network of the plain cell."""

import torch

from bptt.nn.network import Network
from bptt.nn.rnn import RNN


class Elman(Network):
    """A recurrent network with an output at every step: `RNN` and the output layer A5, a `Network` of the plain cell.

    loss names the pair of output and loss (`bptt.losses`): "cross_entropy" (softmax), "binary_cross_entropy" (sigmoid)
    or "squared_error" (identity). The other arguments are those of `RNN`, which is `self.rnn`; A5 is `self.readout`.

    Called with x (T, B, input_size) or integer tokens (T, B), and, if wanted, h0 (num_layers, B, hidden_size).
    Returns o (T, B, output_size), the outputs before g, and h_n (num_layers, B, hidden_size).

    Source: Goodfellow et al. (2016), figure 10.3; Elman, "Finding structure in time" (1990).
    """

    rnn: RNN

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
        rnn = RNN(input_size, hidden_size, num_layers, nonlinearity, dropout=dropout, dtype=dtype)
        super().__init__(rnn, output_size, loss=loss)
