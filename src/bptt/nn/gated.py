"""The gated layers: torch.nn.LSTM and torch.nn.GRU and their options beyond."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from bptt.engine import blocks
from bptt.errors import InputError
from bptt.nn.drop_in import DropIn, size_of_one
from bptt.sheet import Cell
from bptt.sheet.cells import gru, lstm


class LSTM(DropIn, torch.nn.LSTM):
    """A stack of LSTM layers in one or both directions, the arguments and parameters being those of torch.nn.LSTM.

    Beyond torch's, the constructor takes

    hidden_size   also a list with one size for each layer; num_layers is then its length. Not with proj_size
    init          how parameters begin. "torch" is torch's draw; "orthogonal", "identity", "spectral:1.0" are drawn for
                  the recurrent matrix of each gate, and biases are then zero; "chrono:400" draws biases of gates, with
                  which units remember for up to 400 steps (`bptt.nn.initial`). Or a dict with such a name or a number
                  for single parameters of the cell: {"b_f": 1} lets every unit begin by remembering
    learn_h0      each layer and direction has parameters h0_l{k} and c0_l{k}, zero at first, that rows begin with when
                  no hx is given, and after a reset

    recurrent_dropout and checkpoint are those of `bptt.nn.RNN`, and so is all that a call takes and returns: lengths=,
    reset=, mask=, return_all_layers=, tokens, packed and jagged input, half precision. hx and h_n are tuples (h, c),
    each (num_layers * directions, B, H), h proj_size wide where that is given; with a list of sizes each of them is a
    tuple with (directions, B, H) for each layer.

    `lstm.cell` is the cell, and `print(lstm.cell)` shows its equations, both sides. Its output gate is q.

    >>> lstm = LSTM(10, 20, num_layers=2, init={"b_f": 1})
    >>> output, (h_n, c_n) = lstm(torch.zeros(5, 3, 10), lengths=torch.tensor([5, 0, 2]))
    >>> output.shape, c_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    known_as = "LSTM"
    _gates = 4
    hands_on_output_alone = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        init: str | Mapping[str, str | float] = "torch",
        learn_h0: bool = False,
        recurrent_dropout: float = 0.0,
        checkpoint: blocks.Checkpoint = None,
    ) -> None:
        hidden, layers, sizes = size_of_one(hidden_size, num_layers)
        if sizes is not None and proj_size:
            raise InputError(
                f"proj_size is for layers of one size; got proj_size={proj_size} with hidden_size={hidden_size!r}. "
                "Give one of them, or each layer an LSTM of its own."
            )
        super().__init__(
            input_size, hidden, layers, bias, batch_first, dropout, bidirectional, proj_size, device=device,
            dtype=dtype,
        )  # fmt: skip
        self._begin(sizes, init=init, learn_h0=learn_h0, recurrent_dropout=recurrent_dropout, checkpoint=checkpoint)

    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        return lstm_cell, (bool(self.bias), self.proj_size, self.recurrent_dropout if self.training else 0.0)

    def torch_function(self) -> Any:
        return None if self.recurrent_dropout and self.training else torch._VF.lstm

    def widths_of_states(self, k: int) -> Sequence[int]:
        hidden = self.hidden_size
        width = hidden if isinstance(hidden, int) else hidden[k // self.directions]
        return self.proj_size or width, width


class GRU(DropIn, torch.nn.GRU):
    """A stack of GRU layers in one or both directions, the arguments and parameters being those of torch.nn.GRU.

    What it has beyond torch is what `bptt.nn.LSTM` has: sizes for each layer, init, for single gates too, learn_h0,
    recurrent_dropout, checkpoint; and what a call takes and returns is what `bptt.nn.RNN` has. The reset gate stands
    after the product, as in torch; `bptt.nn.Recurrent("gru-v1", ...)` has it before.

    >>> output, h_n = GRU(10, 20)(torch.zeros(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    """

    known_as = "GRU"
    _gates = 3
    autocast_on_cpu = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        init: str | Mapping[str, str | float] = "torch",
        learn_h0: bool = False,
        recurrent_dropout: float = 0.0,
        checkpoint: blocks.Checkpoint = None,
        **unknown: Any,
    ) -> None:
        hidden, layers, sizes = size_of_one(hidden_size, num_layers)
        super().__init__(
            input_size, hidden, layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype, **unknown
        )
        self._begin(sizes, init=init, learn_h0=learn_h0, recurrent_dropout=recurrent_dropout, checkpoint=checkpoint)

    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        return gru_cell, (bool(self.bias), self.recurrent_dropout if self.training else 0.0)

    def torch_function(self) -> Any:
        return None if self.recurrent_dropout and self.training else torch._VF.gru


@lru_cache
def lstm_cell(bias: bool, proj_size: int = 0, recurrent_dropout: float = 0.0) -> Cell:
    return Cell(lstm(projection=proj_size > 0, dropout=recurrent_dropout > 0, bias=bias), "lstm")


@lru_cache
def gru_cell(bias: bool, recurrent_dropout: float = 0.0) -> Cell:
    return Cell(gru(dropout=recurrent_dropout > 0, bias=bias), "gru")
