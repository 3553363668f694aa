"""The plain recurrent layer: torch.nn.RNN and its options beyond."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bptt.engine import blocks
from bptt.nn import options
from bptt.nn.drop_in import DropIn, beside, size_of_one
from bptt.nn.layers import Functions
from bptt.nn.options import Nonlinearity
from bptt.sheet import Cell


class RNN(DropIn, torch.nn.RNN):
    """A stack of recurrent layers in one or both directions, the arguments and parameters being those of torch.nn.RNN.

    Beyond torch's, the constructor takes

    hidden_size   also a list with one size for each layer; num_layers is then its length, and states are tuples
    nonlinearity  "tanh", "relu", "sigmoid" or "identity"; or any function of a tensor, such as torch.nn.GELU(), which
                  runs on the slow reference engine: a SlowEngineWarning says so
    init          how recurrent weights begin: "torch", "orthogonal", "identity", "spectral:1.0" (`bptt.nn.initial`)
    learn_h0      each layer and direction has a parameter h0_l{k} (H,), zero at first, that rows begin with when no hx
                  is given, and after a reset
    leak          α in h_t = (1-α) h_{t-1} + α φ(a_t), above 0 and at most 1, which is no leak
    residual      φ(a_t + h_{t-1}) instead of φ(a_t)
    norm          "layer": a_t goes through a layer norm over the H units first, with parameters norm_weight_l{k} and,
                  if bias, norm_bias_l{k} (H,)
    recurrent_dropout   in training, entries of h_{t-1} are zeroed with this probability on their way to h_{t-1} W_hh,
                  the same ones at all steps; each row, layer, direction and call draws its own, and so does a sequence
                  that a reset begins
    checkpoint    bounds the memory that waits for the way back: "auto", a number of steps, or a budget such as "512MB"
                  (`bptt.long`). States are kept at the starts of blocks of time, the others computed a second time;
                  outputs and gradients stay the same to the bit. With dropout the masks are others. Where layers go
                  both ways or have sizes of their own, outputs of all layers are kept; with return_all_layers, or
                  while a tape is recorded, everything is. May be changed at any time

    leak, residual, norm, recurrent_dropout and a function as nonlinearity go together in any combination. `rnn.cell` is
    the cell that they make, and `print(rnn.cell)` shows its equations, both sides. A function as nonlinearity has no
    checkpoint.

    Called with x and, if wanted, hx, the states before the first step, (num_layers * directions, B, H):

    x        (T, B, input_size); (B, T, input_size) when batch_first; (T, input_size) unbatched; or a PackedSequence; or
             a jagged nested tensor (B, T of each row, input_size).
             Integer x holds tokens in [0, input_size) and has no last axis: (T, B), (B, T) or (T,)
    lengths  (B,) integers, the real steps of each row of padded x, in any order; zero is one of them. Padding is never
             read, whatever it holds, and costs nothing
    reset    booleans laid out as x is, (T, B), (B, T) or (T,): where true, the row begins anew before that step, with
             zero or with h0_l{k}. In reverse, the row then begins anew at the step before. See `bptt.nn.segments`
    mask     booleans laid out as x is, true at real steps: padding on the left, or steps to skip. The state goes past
             a skipped step, in both directions; what x holds there is never read, and costs nothing. A reset before
             a skipped step is one before the next real one. In the place of lengths, not beside them

    It returns

    output   the top layer's states of all steps (T, B, directions * H), laid out as x is; zero at padding and at
             skipped steps
    h_n      the last states of all layers (num_layers * directions, B, H): after a row's last real step, and for a row
             without any, its state before the first. With a list of sizes: a tuple with (directions, B, H) for each
             layer, and hx is one too
    layers   with return_all_layers=True, a third value: a tuple with the states of all steps of each layer, laid out as
             output, which is its last entry; before the dropout between layers

    Input of half precision, bfloat16 or float16, is computed in float32 and returned in the input's dtype, also by
    modules whose parameters are; under torch.autocast, output and h_n have the dtype that torch.nn.RNN gives them.

    Raises ValueError or RuntimeError, as torch does, for shapes, dtypes and devices that do not belong together, and
    IndexError for tokens outside the input size.

    >>> rnn = RNN(10, 20, num_layers=2)
    >>> output, h_n = rnn(torch.zeros(5, 3, 10), lengths=torch.tensor([5, 0, 2]))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    known_as = "RNN"
    leak: float = 1.0
    residual: bool = False
    norm: str | None = None
    nonlinearity: Any
    _beyond_torch = ("init", "learn_h0", "leak", "residual", "norm", "recurrent_dropout", "checkpoint")

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        init: str | Mapping[str, str | float] = "torch",
        learn_h0: bool = False,
        leak: float = 1.0,
        residual: bool = False,
        norm: str | None = None,
        recurrent_dropout: float = 0.0,
        checkpoint: blocks.Checkpoint = None,
        **unknown: Any,
    ) -> None:
        nonlinearity = options.named(nonlinearity)
        options.check(leak, norm, recurrent_dropout)
        hidden, layers, sizes = size_of_one(hidden_size, num_layers)
        super().__init__(
            input_size, hidden, layers, nonlinearity if nonlinearity in ("tanh", "relu") else "tanh", bias, batch_first,
            dropout, bidirectional, device=device, dtype=dtype, **unknown,
        )  # fmt: skip
        self.nonlinearity = nonlinearity
        self._begin(
            sizes, init=init, learn_h0=learn_h0, leak=leak, residual=residual, norm=norm,
            recurrent_dropout=recurrent_dropout, checkpoint=checkpoint,
        )  # fmt: skip

    def _beside_torch(self, names: list[str]) -> dict[str, int]:
        found = super()._beside_torch(names)
        if self.norm is not None:
            found |= dict.fromkeys(["norm_weight", "norm_bias"][: 1 + self.bias], len(getattr(self, names[1])))
        return found

    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        name = self.nonlinearity if type(self.nonlinearity) is str else "identity"
        dropout = self.recurrent_dropout if self.training else 0.0
        return options.cell, (name, bool(self.bias), self.leak, self.residual, self.norm, dropout)

    def cell_now(self) -> tuple[Cell, Functions | None]:
        cell, phi = super().cell_now()[0], self.nonlinearity
        return cell, None if type(phi) is str else {"φ": phi}

    def torch_function(self) -> Any:
        is_dropped = self.recurrent_dropout and self.training
        is_plain = self.leak == 1 and not self.residual and self.norm is None and not is_dropped
        if not is_plain or self.nonlinearity not in ("tanh", "relu"):
            return None
        self.mode = f"RNN_{self.nonlinearity.upper()}"  # by which torch computes
        return torch._VF.rnn_tanh if self.nonlinearity == "tanh" else torch._VF.rnn_relu

    def tensors_of(self, k: int) -> Sequence[Tensor]:
        tensors = super().tensors_of(k)
        if self.norm is None:
            return tensors
        names = self._all_weights[k]
        beyond = ["norm_weight", "norm_bias"][: 1 + self.bias]
        return [*tensors, *(getattr(self, beside(names, what)) for what in beyond)]
