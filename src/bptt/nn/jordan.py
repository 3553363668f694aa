"""Networks whose output is fed back into the next step: alone, or beside the recurrence of the hidden units.

    a_t = x_t W_xh + f_{t-1} W_fh [+ h_{t-1} W_hh] + b_h        h_t = φ(a_t)        o_t = h_t W_ho + b_o

f_{t-1} is what is fed back: the target y_{t-1} (teacher forcing), or something made of the own output ŷ_{t-1}
(`bptt.forcing`). To the engines it is a state, f_t, that takes over what is fed at each step.

Source: Jordan, "Serial order" (1986); Goodfellow et al. (2016), figures 10.4 (output to hidden) and 10.10 (both).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bptt.engine.functions import check_nonlinearity
from bptt.nn.recurrent import Recurrent
from bptt.sheet import Cell, losses


class State(NamedTuple):
    """The state that one step hands to the next.

    h    (1, B, H) hidden states, which matter only with hidden_recurrence
    fed  (B, O) what is fed back: a target or an output, classes as one-hot rows
    """

    h: Tensor
    fed: Tensor


def _text(nonlinearity: str, *, hidden_recurrence: bool) -> str:
    past = " + h_{t-1} W_hh" * hidden_recurrence
    return (
        f"φ : function = {nonlinearity}\nfed : input F\nf_t = fed_t\n"
        f"a_t = x_t W_xh + f_{{t-1}} W_fh{past} + b_h\nh_t = φ(a_t)\n"
    )


class Jordan(torch.nn.Module):
    """A network with output-to-hidden recurrence; with hidden_recurrence=True it has both recurrences.

    loss names the pair of output and loss (`bptt.losses`): "cross_entropy" (softmax), "binary_cross_entropy" (sigmoid)
    or "squared_error" (identity). nonlinearity is "tanh", "relu", "sigmoid" or "identity".

    Called with x (T, B, input_size), targets y (T, B), or (T, B, output_size) unless the loss is cross_entropy, and, if
    wanted, the `State` before the first step (zero by default). Returns o (T, B, output_size), the outputs before g
    under teacher forcing, and the state after the last step. For free running see `bptt.forcing`.

    >>> network = Jordan(3, 8, 2, loss="squared_error")
    >>> o, state = network(torch.zeros(5, 4, 3), torch.zeros(5, 4, 2))
    >>> o.shape, state.fed.shape
    (torch.Size([5, 4, 2]), torch.Size([4, 2]))
    """

    is_fed_targets = True
    """Called with x and the targets, by `bptt.record` too."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        hidden_recurrence: bool = False,
        nonlinearity: str = "tanh",
        loss: str = "cross_entropy",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        losses.pair(loss)
        self.loss_name = loss
        check_nonlinearity(nonlinearity)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        text = _text(nonlinearity, hidden_recurrence=hidden_recurrence)
        self.rnn = Recurrent(Cell(text, "jordan"), input_size, hidden_size, sizes={"F": output_size}, dtype=dtype)
        self.readout = torch.nn.Linear(hidden_size, output_size, dtype=dtype)

    def forward(self, x: Tensor, y: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        h, state = self.forced_states(x, y, state)
        return self.readout(h), state  # A5

    def forced_states(self, x: Tensor, y: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """h (T, B, H) under teacher forcing, and the state after the last step."""
        state = self.initial(x) if state is None else state
        rows = (*x.shape[:2], *(() if self.loss_name == "cross_entropy" else (self.output_size,)))
        if y.shape != rows:
            raise ValueError(
                f"teacher forcing needs a target for each step and row of x, {tuple(rows)} for x {tuple(x.shape)}; got "
                f"{tuple(y.shape)}"
            )
        fed = self.as_fed(y)
        h, h_n = self.states(x, torch.cat([state.fed[None], fed[:-1]]), state.h)
        return h, State(h_n, fed[-1])

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """h (1, B, H) and o (B, output_size) of one step with x (B, input_size)."""
        h, h_n = self.states(x[None], state.fed[None], state.h)
        return h_n, self.readout(h[0])

    def states(self, x: Tensor, fed: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        """h of all steps (T, B, H), given what each is fed, and the last (1, B, H)."""
        if x.dim() != 3 or x.shape[-1] != self.input_size:
            raise ValueError(f"x must be (T, B, {self.input_size}), numbers at each step and row; got {tuple(x.shape)}")
        next_fed = torch.cat([fed[1:], torch.zeros_like(fed[:1])])  # what is fed after the last step is not known here
        has_both = len(self.rnn.cell.sheet.states) > 1
        first = (h0, fed[:1]) if has_both else fed[:1]
        h, last = self.rnn(x if x.is_floating_point() else x.to(fed.dtype), first, inputs={"fed": next_fed})
        return h, last[0] if has_both else h[-1:]

    def initial(self, x: Tensor) -> State:
        """The zero state for the rows of x (T, B, input_size)."""
        weight = self.readout.weight
        return State(weight.new_zeros(1, x.shape[1], self.hidden_size), weight.new_zeros(x.shape[1], self.output_size))

    def as_fed(self, y: Tensor) -> Tensor:
        """Targets as they are fed back: classes as one-hot rows (..., output_size)."""
        if self.loss_name != "cross_entropy":
            return y.to(self.readout.weight.dtype)
        if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.output_size:
            raise ValueError(
                f"targets must lie in [0, {self.output_size}), the number of outputs; "
                f"got {int(y.min())} to {int(y.max())}"
            )
        return torch.nn.functional.one_hot(y, self.output_size).to(self.readout.weight.dtype)

    def loss(self, o: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """L of B1 from the outputs before g; see `bptt.losses.loss`."""
        return losses.loss(self.loss_name, o, y, weights)
