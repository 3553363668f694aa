"""What RNN, LSTM and GRU have in common: the face of a module of torch on the engines of this package.

Each is torch's own module with another forward: same constructor, parameters, `state_dict` and shapes, so one can stand
where the other stood.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import Parameter
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from bptt.autograd import function
from bptt.engine import blocks
from bptt.engine.contract import Layout
from bptt.nn import initial, tracers
from bptt.nn.arguments import checked_share, checked_sizes
from bptt.nn.layers import FirstStates, Functions, Further, Layers, OfLayer
from bptt.sheet import Cell


class DropIn(Layers, torch.nn.RNNBase):
    """Stands before a recurrent module of torch among the bases of a class."""

    # Beyond torch, as class attributes so that an object of torch's class can become one of ours (`bptt.convert`).
    init: str | Mapping[str, str | float] = "torch"
    torch_layout = True
    _gates = 1
    _beyond_torch = ("init", "learn_h0", "recurrent_dropout", "checkpoint")
    bias: bool
    _all_weights: list[list[str]]
    _cells: dict[bool, tuple[Any, Cell]]

    @abstractmethod
    def _asked(self) -> tuple[Callable[..., Cell], tuple[Any, ...]]:
        """What makes the cell of the layers, and from which options."""

    @abstractmethod
    def torch_function(self) -> Any:
        """The function of torch that computes all layers, where it knows such; else None."""

    def _begin(self, sizes: tuple[int, ...] | None, **beyond: Any) -> None:
        """After torch's constructor: a size for each layer, if there are several; options by their names."""
        beyond["init"] = initial.checked(beyond["init"])
        blocks.check(beyond["checkpoint"])
        checked_share("recurrent_dropout", beyond["recurrent_dropout"])
        for name, value in beyond.items():
            if value != getattr(type(self), name):
                setattr(self, name, value)
        if sizes is not None:
            self._resize(sizes)
        self.prepare_cells()
        initial.check_names(self.cell, self.init)
        for names in self._all_weights:
            for what, width in self._beside_torch(names).items():
                self.register_parameter(beside(names, what), Parameter(getattr(self, names[1]).new_empty(width)))
        self._reset_beyond_torch()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepare_cells()

    def _beside_torch(self, names: list[str]) -> dict[str, int]:
        """The parameters of a layer and direction that torch's module lacks, and how wide they are."""
        if not self.learn_h0:
            return {}
        k = self._all_weights.index(names)
        return {f"{name}0": w for name, w in zip(self.cell.sheet.states, self.widths_of_states(k), strict=True)}

    def _resize(self, sizes: tuple[int, ...]) -> None:
        """Gives each layer a size of its own; torch's constructor knows one for all."""
        object.__setattr__(self, "hidden_size", sizes)
        directions = self.directions
        for k, names in enumerate(self._all_weights):
            layer = k // directions
            H, I = sizes[layer], directions * sizes[layer - 1] if layer else self.input_size
            rows = self._gates * H
            for name, shape in zip(names, ((rows, I), (rows, H), (rows,), (rows,)), strict=False):
                setattr(self, name, Parameter(getattr(self, name).new_empty(shape)))
        self._init_flat_weights()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as `init` says."""
        hidden = self.hidden_size
        if isinstance(hidden, int):
            phi = self._modules.pop("nonlinearity", None)  # whose parameters are its own business
            super().reset_parameters()
            if phi is not None:
                self._modules["nonlinearity"] = phi
        else:
            for k, names in enumerate(self._all_weights):
                bound = 1.0 / math.sqrt(hidden[k // self.directions])
                for name in names:
                    torch.nn.init.uniform_(getattr(self, name), -bound, bound)
        self._reset_beyond_torch()

    @torch.no_grad()
    def _reset_beyond_torch(self) -> None:
        if "_cells" not in self.__dict__:
            return  # in torch's constructor
        cell = self.cell
        layout = Layout.of(cell, as_torch=True)
        for k, names in enumerate(self._all_weights):
            tensors = self.tensors_of(k)
            parameters = {
                name: [part.of(tensors[part.tensor]) for part in parts] for name, parts in layout.made_of.items()
            }
            initial.fill(cell, self.init, parameters)
            for name, tensor in zip(layout.names, tensors, strict=True):
                if self.init != "torch" and parametrize.is_parametrized(self, beside(names, name)):
                    setattr(self, beside(names, name), tensor)
            for name in cell.sheet.states if self.learn_h0 else ():
                torch.nn.init.zeros_(getattr(self, beside(names, f"{name}0")))

    def flatten_parameters(self) -> None:
        """Lays the weights out for cuDNN, as torch does, where all layers have one size; else nothing."""
        if isinstance(self.hidden_size, int):
            super().flatten_parameters()

    def extra_repr(self) -> str:
        said = super().extra_repr()
        for name in self._beyond_torch:
            if getattr(self, name) != getattr(type(self), name):
                said += f", {name}={getattr(self, name)!r}"
        return said

    @property
    def cell(self) -> Cell:
        """The cell of all layers while training; in eval mode without recurrent dropout."""
        return self.cell_now()[0]

    def cell_now(self) -> tuple[Cell, Functions | None]:
        (make, asked), known = self._asked(), self._cells.get(self.training)
        if known is None or known[0] != asked:
            known = self._cells[self.training] = asked, make(*asked)
        return known[1], None

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
        reset: Tensor | Sequence[Any] | None = None,
        mask: Tensor | Sequence[Any] | None = None,
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
        reset: Tensor | Sequence[Any] | None = None,
        mask: Tensor | Sequence[Any] | None = None,
        return_all_layers: bool,
    ) -> tuple[Any, ...]: ...
    def forward(
        self,
        input: Any,
        hx: FirstStates | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | Sequence[Any] | None = None,
        mask: Tensor | Sequence[Any] | None = None,
        return_all_layers: bool = False,
    ) -> tuple[Any, ...]:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return tracers.node(
                self, input, hx, lengths=lengths, reset=reset, mask=mask, return_all_layers=return_all_layers
            )
        weights = [self.tensors_of(k) for k in range(len(self._all_weights))]
        first = weights[0]
        if not type(first[0]) is type(first[1]) is Parameter and tracers.are_per_sample(first):
            return self._by_torch(input, hx, tracers.PER_SAMPLE, lengths, reset, mask, return_all_layers)
        return self.called(input, hx, lengths, reset, mask, return_all_layers, weights)

    def __prepare_scriptable__(self) -> Any:
        """Called by torch.jit.script."""
        raise tracers.not_scripted(self, "Script what bptt.convert(model, back=True) gives.")

    def _slow_forward(
        self,
        input: Any,
        hx: FirstStates | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | Sequence[Any] | None = None,
        mask: Tensor | Sequence[Any] | None = None,
        return_all_layers: bool = False,
    ) -> Any:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        return self._by_torch(input, hx, tracers.JIT, lengths, reset, mask, return_all_layers)

    def _by_torch(
        self, input: Any, hx: Any, who: str, lengths: Any, reset: Any, mask: Any, return_all_layers: bool
    ) -> Any:
        """The forward of torch's module, for those who know nothing else."""
        asked = any(given is not None for given in (lengths, reset, mask)) or return_all_layers or self.learn_h0
        is_plain = not asked and self.torch_function() is not None and isinstance(self.hidden_size, int)
        tracers.check_torch_computes_the_same(self, input, who, is_plain=is_plain)
        return super().forward(input, hx)

    def tensors_of(self, k: int) -> Sequence[Tensor]:
        """By the short way where parameters lie as such; a parametrized one is an attribute that is computed."""
        own, names = self._parameters, self._all_weights[k]
        try:
            return [own[name] for name in names]  # pyright: ignore[reportReturnType] (there is no None among them)
        except KeyError:
            return [getattr(self, name) for name in names]

    def learnt_first(self, k: int) -> OfLayer:
        names = self._all_weights[k]
        return [getattr(self, beside(names, f"{name}0"))[None, None] for name in self.cell.sheet.states]

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
        """As torch's module computes it; the weights lie as `flatten_parameters` laid them."""
        if not function.on_torch(x, weights[0][1]) or not isinstance(self.hidden_size, int):
            return None
        compute = self.torch_function()
        if compute is None:
            return None
        B, first = self._rows(x, states, sizes), []
        for s, width in enumerate(self.widths_of_states(0)):
            given = [h for of_layer in states if (h := of_layer[s]) is not None]
            first.append(torch.cat(given) if given else x.new_zeros(len(weights), B, width))
        flat = [parameter for layer in weights for parameter in layer]
        how = (flat, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        # In eval mode cuDNN has no way back; torch's other kernels for the same device have one.
        without_cudnn = x.is_cuda and not self.training and torch.is_grad_enabled()
        hx = first[0] if len(first) == 1 else first
        with torch.backends.cudnn.flags(enabled=False) if without_cudnn else nullcontext():
            if sizes is None:
                output, *last = compute(x, hx, *how, False)
            else:
                output, *last = compute(x, torch.as_tensor(sizes, device="cpu"), hx, *how)
        return [output], list(zip(*(h.split(1) for h in last), strict=True))


def size_of_one(hidden_size: Any, num_layers: int) -> tuple[Any, int, tuple[int, ...] | None]:
    """One size and the number of layers, as torch's constructor wants them; and the sizes, if they are several."""
    if isinstance(hidden_size, Sequence) and not isinstance(hidden_size, str):  # which is torch's to refuse
        sizes = checked_sizes(hidden_size, num_layers)
        return sizes[0], len(sizes), sizes
    return hidden_size, num_layers, None


def beside(names: list[str], what: str) -> str:
    """The name of another parameter of the same layer and direction."""
    return names[0].replace("weight_ih", what)
