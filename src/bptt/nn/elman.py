"""A recurrent layer, the output layer A5 on top and the loss that belongs to it."""

import torch
from torch import Tensor

from bptt import losses
from bptt.nn.rnn import RNN


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
        self.readout = torch.nn.Linear(hidden_size, output_size, dtype=dtype)

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
