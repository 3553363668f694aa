"""The face of torch.nn.RNN on the engines of this package.

It is torch's own module with another forward: same constructor, parameters, `state_dict` and shapes, so one can stand
where the other stood. All that `RNN` takes beyond torch's arguments is in its own docstring.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import Parameter
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from bptt.autograd import function
from bptt.engine import blocks
from bptt.nn import initial, options, tracers
from bptt.nn.arguments import checked_sizes
from bptt.nn.layers import FirstStates, Functions, Further, Layers, OfLayer
from bptt.nn.options import Nonlinearity
from bptt.sheet import Cell


class RNN(Layers, torch.nn.RNN):
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

    It returns

    output   the top layer's states of all steps (T, B, directions * H), laid out as x is; zero where there is padding
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

    # Beyond torch.nn.RNN, as class attributes so that one of its objects can become one of ours (`bptt.convert`).
    init: str = "torch"
    leak: float = 1.0
    residual: bool = False
    norm: str | None = None
    nonlinearity: Any
    torch_layout = True
    _cells: dict[bool, tuple[Any, Cell]]

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
        init: str = "torch",
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
        initial.check(init)
        blocks.check(checkpoint)
        sizes = None
        if isinstance(hidden_size, Sequence) and not isinstance(hidden_size, str):  # which is torch's to refuse
            sizes = checked_sizes(hidden_size, num_layers)
        known_to_torch = nonlinearity if nonlinearity in ("tanh", "relu") else "tanh"
        super().__init__(
            input_size, hidden_size if sizes is None else sizes[0], num_layers if sizes is None else len(sizes),
            known_to_torch, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype, **unknown,
        )  # fmt: skip
        self.nonlinearity = nonlinearity
        if init != "torch":
            self.init = init
        if checkpoint is not None:
            self.checkpoint = checkpoint
        if sizes is not None:
            self._resize(sizes)
        if learn_h0:
            self.learn_h0 = True
        own = {"leak": leak, "residual": residual, "norm": norm, "recurrent_dropout": recurrent_dropout}
        for name, value in own.items():
            if value != getattr(RNN, name):
                setattr(self, name, value)
        for names in self._all_weights:
            weight_hh = getattr(self, names[1])
            for name in self._names_beyond_torch(names):
                self.register_parameter(name, Parameter(weight_hh.new_empty(len(weight_hh))))
        self._reset_beyond_torch()
        self.prepare_cells()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepare_cells()

    def _names_beyond_torch(self, names: list[str]) -> list[str]:
        """Of the parameters that a layer and direction has beside torch's."""
        beyond = ["h0"] if self.learn_h0 else []
        if self.norm is not None:
            beyond += ["norm_weight", "norm_bias"][: 1 + self.bias]
        return [_beside(names, what) for what in beyond]

    def _resize(self, sizes: tuple[int, ...]) -> None:
        """Gives each layer a size of its own; torch's constructor knows one for all."""
        object.__setattr__(self, "hidden_size", sizes)
        directions = self.directions
        for k, names in enumerate(self._all_weights):
            layer = k // directions
            H, I = sizes[layer], directions * sizes[layer - 1] if layer else self.input_size
            for name, shape in zip(names, ((H, I), (H, H), (H,), (H,)), strict=False):
                setattr(self, name, Parameter(getattr(self, name).new_empty(shape)))
        self._init_flat_weights()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as `init` says."""
        if isinstance(self.hidden_size, int):
            phi = self._modules.pop("nonlinearity", None)  # whose parameters are its own business
            super().reset_parameters()
            if phi is not None:
                self.nonlinearity = phi
        else:
            for names in self._all_weights:
                for weight in [getattr(self, name) for name in names]:
                    torch.nn.init.uniform_(weight, -(len(weight) ** -0.5), len(weight) ** -0.5)
        self._reset_beyond_torch()

    def _reset_beyond_torch(self) -> None:
        for names in self._all_weights:
            if self.init != "torch":
                initial.draw(getattr(self, names[1]), self.init)
                for bias in names[2:]:
                    torch.nn.init.zeros_(getattr(self, bias))
            for name in self._names_beyond_torch(names):
                (torch.nn.init.ones_ if name.startswith("norm_weight") else torch.nn.init.zeros_)(getattr(self, name))

    def flatten_parameters(self) -> None:
        """Lays the weights out for cuDNN, as torch.nn.RNN does, where all layers have one size; else nothing."""
        if isinstance(self.hidden_size, int):
            super().flatten_parameters()

    def extra_repr(self) -> str:
        said = super().extra_repr()
        for name in ("init", "learn_h0", "leak", "residual", "norm", "recurrent_dropout", "checkpoint"):
            if getattr(self, name) != getattr(RNN, name):
                said += f", {name}={getattr(self, name)!r}"
        return said

    def _is_plain(self) -> bool:
        options = self.leak == 1 and not self.residual and self.norm is None and not self.recurrent_dropout
        return options and type(self.nonlinearity) is str

    @property
    def cell(self) -> Cell:
        """The cell of all layers while training; in eval mode without recurrent dropout."""
        return self.cell_now()[0]

    def cell_now(self) -> tuple[Cell, Functions | None]:
        phi, training, dropout = self.nonlinearity, self.training, self.recurrent_dropout
        functions = None if type(phi) is str else {"φ": phi}
        name, bias = "identity" if functions else phi, bool(self.bias)
        asked = (name, self.leak, self.residual, self.norm, dropout, bias)
        known = self._cells.get(training)
        if known is None or known[0] != asked:
            options.check(self.leak, self.norm, dropout)
            cell = options.cell(name, self.leak, self.residual, self.norm is not None, dropout > 0 and training, bias)
            known = self._cells[training] = asked, cell
        return known[1], functions

    def prepare_cells(self) -> None:
        """Makes the cells of training and eval mode known, which torch.compile cannot make while it traces."""
        self._cells, mode = {}, self.training
        for self.training in (not mode, mode):
            self.cell_now()

    @overload
    def forward(
        self,
        input: Tensor,
        hx: FirstStates | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: Literal[False] = False,
    ) -> tuple[Tensor, Any]: ...
    @overload
    def forward(
        self, input: PackedSequence, hx: FirstStates | None = None, *, return_all_layers: Literal[False] = False
    ) -> tuple[PackedSequence, Any]: ...
    @overload
    def forward(
        self,
        input: Any,
        hx: FirstStates | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: bool,
    ) -> tuple[Any, ...]: ...
    def forward(
        self,
        input: Any,
        hx: FirstStates | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: bool = False,
    ) -> tuple[Any, ...]:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return tracers.node(self, input, hx, lengths=lengths, reset=reset, return_all_layers=return_all_layers)
        weights = [self.tensors_of(k) for k in range(len(self._all_weights))]
        first = weights[0]
        if not type(first[0]) is type(first[1]) is Parameter and tracers.are_per_sample(first):
            return self._by_torch(input, hx, tracers.PER_SAMPLE, lengths, reset, return_all_layers)
        return self.called(input, hx, lengths, reset, return_all_layers, weights)

    def _slow_forward(
        self,
        input: Any,
        hx: FirstStates | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: bool = False,
    ) -> Any:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        return self._by_torch(input, hx, tracers.JIT, lengths, reset, return_all_layers)

    def _by_torch(self, input: Any, hx: Any, who: str, lengths: Any, reset: Any, return_all_layers: bool) -> Any:
        """The forward of torch.nn.RNN, for those who know nothing else."""
        asked = lengths is not None or reset is not None or return_all_layers or self.learn_h0
        is_plain = not asked and self._is_plain() and isinstance(self.hidden_size, int)
        tracers.check_torch_computes_the_same(self, input, who, is_plain=is_plain)
        self.mode = f"RNN_{self.nonlinearity.upper()}"  # by which torch computes
        return super().forward(input, hx)

    def tensors_of(self, k: int) -> Sequence[Tensor]:
        """By the short way where parameters lie as such; a parametrized one is an attribute that is computed."""
        names: list[str] = self._all_weights[k]
        own: dict[str, Any] = self._parameters
        if len(names) == 4 and self.norm is None:
            ih, hh, of_ih, of_hh = names
            if ih in own and hh in own and of_ih in own and of_hh in own:
                return own[ih], own[hh], own[of_ih], own[of_hh]
        beyond = [] if self.norm is None else ["norm_weight", "norm_bias"][: 1 + self.bias]
        return [getattr(self, name) for name in (*names, *(_beside(names, what) for what in beyond))]

    def learnt_first(self, k: int) -> OfLayer:
        return [getattr(self, _beside(self._all_weights[k], "h0"))[None, None]]

    def widths_of_states(self, k: int) -> Sequence[int]:
        hidden = self.hidden_size
        return (hidden,) if isinstance(hidden, int) else (hidden[k // self.directions],)

    def _masks(
        self, cell: Cell, x: Tensor, states: list[OfLayer], further: Further, like: Tensor, sizes: Any
    ) -> list[list[Tensor]]:
        if not (self.recurrent_dropout and self.training):
            return [[]] * len(states)
        B = self._rows(x, states, sizes)
        widths = [self.widths_of_states(k)[0] for k in range(len(states))]
        return [[F.dropout(like.new_ones(B, width), self.recurrent_dropout)] for width in widths]

    def by_other_kernels(
        self, x: Tensor, states: list[OfLayer], weights: Sequence[Sequence[Tensor]], sizes: Any
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]] | None:
        """As torch.nn.RNN computes it; the weights lie as `flatten_parameters` laid them."""
        if not function.on_torch(x, weights[0][1], self.nonlinearity):
            return None
        if not self._is_plain() or not isinstance(self.hidden_size, int):
            return None
        B = self._rows(x, states, sizes)
        given = [h for of_layer in states for h in of_layer if h is not None]
        h0 = torch.cat(given) if given else None
        h0 = x.new_zeros(len(weights), B, len(weights[0][1])) if h0 is None else h0.contiguous()
        flat = [parameter for layer in weights for parameter in layer]
        how = (flat, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        compute = torch._VF.rnn_tanh if self.nonlinearity == "tanh" else torch._VF.rnn_relu
        # In eval mode cuDNN has no way back; torch's other kernels for the same device have one.
        without_cudnn = x.is_cuda and not self.training and torch.is_grad_enabled()
        with torch.backends.cudnn.flags(enabled=False) if without_cudnn else nullcontext():
            if sizes is None:
                output, h_n = compute(x, h0, *how, False)
            else:
                output, h_n = compute(x, torch.as_tensor(sizes, device="cpu"), h0, *how)
        return [output], [(h,) for h in h_n.split(1)]


def _beside(names: list[str], what: str) -> str:
    """The name of another parameter of the same layer and direction."""
    return names[0].replace("weight_ih", what)
