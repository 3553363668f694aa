"""The face of torch.nn.RNN on the sweeps of this package.

It is torch's own module with another forward: same constructor, parameters, `state_dict` and shapes, so one can stand
where the other stood. What `RNN` takes beyond torch's arguments is in its own docstring.
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

from bptt.autograd import cells, function, long
from bptt.engine import blocks, packing
from bptt.engine.cells import Cell
from bptt.errors import InputError
from bptt.nn import initial, options, tracers
from bptt.nn.arguments import (
    TOKENS,
    batched_state,
    check_axes,
    check_axes_of_rows,
    check_states_of_layers,
    checked_input,
    checked_lengths,
    checked_reset,
    checked_sizes,
    checked_state,
)
from bptt.nn.options import Nonlinearity
from bptt.nn.precision import computed_wide, returned_dtype, widened
from bptt.nn.segments import Segments, segments

State = Tensor | tuple[Tensor, ...]


class RNN(torch.nn.RNN):
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

    leak, residual, norm, recurrent_dropout and a function as nonlinearity go together in any combination, with all else
    but checkpoint; `bptt.engine.cells` has the equations.

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

    # What torch.nn.RNN has not, so that one of its objects can become one of ours (`bptt.convert`).
    init: str = "torch"
    learn_h0: bool = False
    leak: float = 1.0
    residual: bool = False
    norm: str | None = None
    recurrent_dropout: float = 0.0
    nonlinearity: Any
    checkpoint: blocks.Checkpoint = None

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
        cell = options.cell(nonlinearity, leak, residual, norm, recurrent_dropout)
        initial.check(init)
        blocks.check(checkpoint)
        if cell is not None and checkpoint is not None:
            raise _no_checkpoint(f"checkpoint={checkpoint!r}")
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
        if cell is not None:
            self.leak, self.residual, self.norm, self.recurrent_dropout = leak, residual, norm, recurrent_dropout
        for names in self._all_weights:
            weight_hh = getattr(self, names[1])
            for name in self._names_beyond_torch(names):
                self.register_parameter(name, Parameter(weight_hh.new_empty(len(weight_hh))))
        self._reset_beyond_torch()

    def _names_beyond_torch(self, names: list[str]) -> list[str]:
        """Of the parameters that a layer and direction has beside torch's."""
        beyond = ["h0"] if self.learn_h0 else []
        if self.norm is not None:
            beyond += ["norm_weight", "norm_bias"][: 1 + self.bias]
        return [_beside(names, what) for what in beyond]

    def _resize(self, sizes: tuple[int, ...]) -> None:
        """Gives each layer a size of its own; torch's constructor knows one for all."""
        object.__setattr__(self, "hidden_size", sizes)
        directions = self._directions
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
        """What torch.nn.RNN does for cuDNN, where all layers have one size; else nothing."""
        if isinstance(self.hidden_size, int):
            super().flatten_parameters()

    def extra_repr(self) -> str:
        said = super().extra_repr()
        for name in ("init", "learn_h0", "leak", "residual", "norm", "recurrent_dropout", "checkpoint"):
            if getattr(self, name) != getattr(RNN, name):
                said += f", {name}={getattr(self, name)!r}"
        return said

    def _cell(self) -> Cell | None:
        """What a layer does beyond torch; None for the plain cell."""
        phi, leak, residual, dropout = self.nonlinearity, self.leak, self.residual, self.recurrent_dropout
        if leak == 1 and not residual and self.norm is None and not dropout and type(phi) is str:
            return None
        return options.cell(phi, leak, residual, self.norm, dropout)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: Literal[False] = False,
    ) -> tuple[Tensor, Any]: ...
    @overload
    def forward(
        self, input: PackedSequence, hx: State | None = None, *, return_all_layers: Literal[False] = False
    ) -> tuple[PackedSequence, Any]: ...
    @overload
    def forward(
        self,
        input: Any,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: bool,
    ) -> tuple[Any, ...]: ...
    def forward(
        self,
        input: Any,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: bool = False,
    ) -> tuple[Any, ...]:
        is_tensor = type(input) is Tensor  # what is usual is quick to ask
        if not is_tensor and isinstance(input, Proxy):
            return tracers.node(self, input, hx, lengths=lengths, reset=reset, return_all_layers=return_all_layers)
        weights = [self._weights_of(names) for names in self._all_weights]
        first = weights[0]
        if not type(first[0]) is type(first[1]) is Parameter and tracers.are_per_sample(sum(weights, ())):
            return self._by_torch(input, hx, tracers.PER_SAMPLE, lengths, reset, return_all_layers)
        if not is_tensor and isinstance(input, PackedSequence):
            layers, h_n = self._packed(input, hx, lengths, reset, weights, return_all_layers)
        elif input.is_nested:
            layers, h_n = self._jagged(input, hx, lengths, reset, weights, return_all_layers)
        else:
            layers, h_n = self._padded(input, hx, lengths, reset, weights, return_all_layers)
        return (layers[-1], h_n, tuple(layers)) if return_all_layers else (layers[-1], h_n)

    def _slow_forward(
        self,
        input: Any,
        hx: State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        return_all_layers: bool = False,
    ) -> Any:
        """What torch calls in the place of `forward` while torch.jit.trace looks on."""
        return self._by_torch(input, hx, tracers.JIT, lengths, reset, return_all_layers)

    def _by_torch(self, input: Any, hx: Any, who: str, lengths: Any, reset: Any, return_all_layers: bool) -> Any:
        """The forward of torch.nn.RNN, for those who know nothing else."""
        asked = lengths is not None or reset is not None or return_all_layers or self.learn_h0
        is_plain = not asked and self._cell() is None and isinstance(self.hidden_size, int)
        tracers.check_torch_computes_the_same(self, input, who, is_plain=is_plain)
        self.mode = f"RNN_{self.nonlinearity.upper()}"  # by which torch computes
        return torch.nn.RNN.forward(self, input, hx)

    def _padded(
        self,
        input: Tensor,
        hx: State | None,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        weights: list[long.Layer],
        every_layer: bool,
    ) -> tuple[list[Any], State]:
        axes = 2 if input.dtype in TOKENS else 3
        check_axes(input, axes)
        unbatched, batch_axis = input.dim() == axes - 1, 0 if self.batch_first else 1
        x = checked_input(input.unsqueeze(batch_axis) if unbatched else input, self.input_size, weights[0][1])
        B = x.size(batch_axis)
        states = self._given(hx, B, weights[0][1], unbatched=unbatched)
        if lengths is None and reset is None:
            layers, last = self._stack(x.transpose(0, 1) if self.batch_first else x, states, weights, every_layer)
            layers = [layer.transpose(0, 1) for layer in layers] if self.batch_first else layers
        else:
            T = x.shape[1 - batch_axis]
            lengths = checked_lengths([T] * B if lengths is None else lengths, B, T, unbatched=unbatched)
            if reset is not None:
                reset = checked_reset(reset, B, T, batch_first=self.batch_first, unbatched=unbatched)
            time_stride, row_stride = (1, T) if self.batch_first else (B, 1)
            runs = segments(torch.arange(B, device="cpu") * row_stride, time_stride, lengths, reset, x.device)
            layers, last = self._segmented(x.flatten(0, 1), runs, states, weights, every_layer)
            layers = [layer.unflatten(0, x.shape[:2]) for layer in layers]
        if unbatched:
            layers, last = [layer.squeeze(batch_axis) for layer in layers], [h.squeeze(1) for h in last]
        return layers, self._h_n(last)

    def _jagged(
        self,
        input: Tensor,
        hx: State | None,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        weights: list[long.Layer],
        every_layer: bool,
    ) -> tuple[list[Any], State]:
        jagged: Any = input
        if input.layout == torch.jagged and jagged._ragged_idx != 1:
            raise InputError(
                "a jagged nested tensor must have its ragged axis, that of time, after the batch, "
                f"(batch, time of each row, input_size); got {tuple(input.shape)}. Transpose it back."
            )
        if input.layout != torch.jagged or lengths is not None or reset is not None:
            raise InputError(
                "a nested tensor has its lengths in itself: layout=torch.jagged, without lengths= or reset= beside; "
                f"got layout={input.layout}, lengths {'not ' if lengths is None else ''}given, reset "
                f"{'not ' if reset is None else ''}given. For resets, pad: torch.nested.to_padded_tensor, then lengths="
            )
        check_axes(input, 2 if input.dtype in TOKENS else 3)
        values, offsets, holes = jagged.values(), jagged.offsets(), jagged.lengths()
        x = checked_input(values, self.input_size, weights[0][1])
        runs = segments(offsets[:-1], 1, offsets.diff() if holes is None else holes, None, x.device)
        states = self._given(hx, len(offsets) - 1, weights[0][1])
        layers, last = self._segmented(x, runs, states, weights, every_layer)
        outputs = [torch.nested.nested_tensor_from_jagged(layer, offsets, holes) for layer in layers]
        return outputs, self._h_n(last)

    def _packed(
        self,
        input: PackedSequence,
        hx: State | None,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        weights: list[long.Layer],
        every_layer: bool,
    ) -> tuple[list[Any], State]:
        if lengths is not None or reset is not None:
            raise InputError(
                "a PackedSequence has its lengths in itself: lengths= and reset= belong to padded input; got "
                f"{'lengths' if reset is None else 'reset'} beside one. Pad it: torch.nn.utils.rnn.pad_packed_sequence"
            )
        x, batch_sizes, sorted_indices, unsorted_indices = input
        check_axes_of_rows(x)
        x = checked_input(x, self.input_size, weights[0][1])
        traced = function.is_traced()  # then what batch_sizes holds is not known yet
        given = hx[0] if isinstance(hx, tuple | list) and hx else hx
        B = given.shape[1] if traced and isinstance(given, Tensor) and given.dim() == 3 else int(batch_sizes[0])
        states = self._given(hx, B, weights[0][1])
        if sorted_indices is not None:
            states = [h if h is None else h.index_select(1, sorted_indices) for h in states]
        sizes = batch_sizes if traced else batch_sizes.tolist()
        layers, last = self._stack(x, states, weights, every_layer, sizes)
        if unsorted_indices is not None:
            last = [h.index_select(1, unsorted_indices) for h in last]
        return [PackedSequence(layer, batch_sizes, sorted_indices, unsorted_indices) for layer in layers], self._h_n(
            last
        )

    def _segmented(
        self,
        x: Tensor,
        runs: Segments,
        states: list[Tensor | None],
        weights: list[long.Layer],
        every_layer: bool,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`_stack` on the real steps of flattened input: all states in their places, the last states of all rows."""
        if not function.is_traced() and function.recorder.get() is not None:
            raise InputError(
                "a tape holds padded batches without lengths= and reset=, or a PackedSequence, whose rows keep their "
                "numbers. Record with torch.nn.utils.rnn.pack_padded_sequence instead."
            )
        fresh = self._fresh(runs.batch)
        reverse = [names[0].endswith("_reverse") for names in self._all_weights]
        begin = [runs.begin(g, f, r) for g, f, r in zip(states, fresh, reverse, strict=True)]
        if x.is_meta:  # where packed rows cannot be counted, states say how many there are
            S = len(runs.rows)
            begin = [w[1].new_zeros(1, S, len(w[1])) if h is None else h for h, w in zip(begin, weights, strict=True)]
        layers, last = self._stack(runs.pack(x), begin, weights, every_layer, runs.batch_sizes)
        last = [runs.end(h, g, r) for h, g, r in zip(last, states, reverse, strict=True)]
        return [runs.unpack(layer, len(x)) for layer in layers], last

    def _stack(
        self,
        x: Tensor,
        states: Sequence[Tensor | None],
        weights: list[long.Layer],
        every_layer: bool,
        batch_sizes: list[int] | Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The states of all steps of each layer, and the last states of each layer and direction (1, B, H).

        Unless `every_layer`, it may be that of the states of all steps only the top layer's exist.
        """
        like = weights[0][1]
        returned = returned_dtype(x, like)
        if returned is not None:

            def wide(
                x: Tensor, states: Sequence[Tensor | None], weights: list[long.Layer]
            ) -> tuple[list[Tensor], list[Tensor]]:
                return self._stack(x, states, weights, every_layer, batch_sizes)

            return computed_wide(wide, x, states, weights, returned)
        checkpoint = None if every_layer else self.checkpoint
        if function.begin(self):
            checkpoint = None  # a record holds everything anyway
        if checkpoint is not None and function.seen_by_others(x, like):
            checkpoint = None  # who traces or transforms keeps what it wants to
        cell = self._cell()
        if cell is not None and checkpoint is not None:
            raise _no_checkpoint(repr(self))
        if checkpoint is not None and not self.bidirectional and isinstance(self.hidden_size, int):
            dropout = self.dropout if self.training else 0.0
            assert not isinstance(batch_sizes, Tensor)  # who traces has no checkpoint
            output, h_n = long.stack(
                x, long.joined(states), weights, self.nonlinearity, checkpoint=checkpoint, batch_sizes=batch_sizes,
                dropout=dropout,
            )  # fmt: skip
            return [output], list(h_n.split(1))
        is_plain = cell is None and checkpoint is None and isinstance(self.hidden_size, int)
        if is_plain and not every_layer and function.on_torch(x, like, self.nonlinearity):
            return self._by_kernels_of_torch(x, states, weights, batch_sizes)
        layers, last = [], []
        bidirectional, nonlinearity, top = self.bidirectional, self.nonlinearity, self.num_layers - 1
        directions = (False, True) if bidirectional else (False,)
        for layer in range(top + 1):
            outputs = []
            for reverse in directions:
                k = len(last)
                if cell is not None:
                    output, h_n = self._with_options(cell, x, states[k], weights[k], k, batch_sizes)
                elif checkpoint is None:
                    output, h_n = function.layer(
                        x, states[k], *weights[k], nonlinearity, batch_sizes=batch_sizes, reverse=reverse, index=layer
                    )  # fmt: skip
                else:
                    assert not isinstance(batch_sizes, Tensor)
                    output, h_n = long.stack(
                        x, states[k], [weights[k]], nonlinearity, checkpoint=checkpoint, batch_sizes=batch_sizes,
                        reverse=reverse,
                    )  # fmt: skip
                outputs.append(output)
                last.append(h_n)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
            layers.append(x)
            if layer < top and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        return layers, last

    def _by_kernels_of_torch(
        self,
        x: Tensor,
        states: Sequence[Tensor | None],
        weights: list[long.Layer],
        batch_sizes: list[int] | Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`_stack` as torch.nn.RNN computes it; the weights lie as `flatten_parameters` laid them."""
        B = packing.rows_of_batch(x, batch_sizes)
        h0 = long.joined(states)
        h0 = x.new_zeros(len(weights), B, len(weights[0][1])) if h0 is None else h0.contiguous()
        flat = [parameter for layer in weights for parameter in layer if parameter is not None]
        how = (flat, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        compute = torch._VF.rnn_tanh if self.nonlinearity == "tanh" else torch._VF.rnn_relu
        # In eval mode cuDNN has no way back; torch's other kernels for the same device have one.
        without_cudnn = x.is_cuda and not self.training and torch.is_grad_enabled()
        with torch.backends.cudnn.flags(enabled=False) if without_cudnn else nullcontext():
            if batch_sizes is None:
                output, h_n = compute(x, h0, *how, False)
            else:
                output, h_n = compute(x, torch.as_tensor(batch_sizes, device="cpu"), h0, *how)
        return [output], list(h_n.split(1))

    def _with_options(
        self,
        cell: Cell,
        x: Tensor,
        h0: Tensor | None,
        weights: long.Layer,
        k: int,
        batch_sizes: list[int] | Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One layer in one direction, the k-th, with what its cell has beyond torch."""
        if isinstance(batch_sizes, Tensor) and callable(cell.activation):
            raise InputError(
                "a cell with a function as φ takes no PackedSequence that is traced, whose steps would have to be "
                f"known; this one is {self!r}. Trace padded batches, or take φ by name."
            )
        if not function.is_traced() and function.recorder.get() is not None:
            raise InputError(
                "a tape holds the numbers of the plain cell, h_t = φ(x_t W_xh + h_{t-1} W_hh + b_h) with φ by name; "
                f"this one is {self!r}. Record one without leak, residual, norm, recurrent_dropout and functions as φ."
            )
        like, names = weights[1], self._all_weights[k]
        gamma = beta = mask = None
        if self.norm is not None:
            gamma = widened(getattr(self, _beside(names, "norm_weight")), like)
            beta = widened(getattr(self, _beside(names, "norm_bias")), like) if self.bias else None
        if self.recurrent_dropout and self.training:
            B = packing.rows_of_batch(x, batch_sizes) if h0 is None else h0.shape[1]
            mask = F.dropout(like.new_ones(B, len(like)), self.recurrent_dropout)
        return cells.layer(
            x, h0, *weights, cell, mask=mask, norm_weight=gamma, norm_bias=beta,
            batch_sizes=batch_sizes, reverse=names[0].endswith("_reverse"),
        )  # fmt: skip

    def _given(self, hx: State | None, B: int, weight: Tensor, *, unbatched: bool = False) -> list[Tensor | None]:
        """The states (1, B, H) before the first step, of each layer and direction; None is zero."""
        if hx is None:
            return self._fresh(B)
        count = len(self._all_weights)
        if isinstance(self.hidden_size, int):
            hx = checked_state(batched_state(hx, unbatched=unbatched), (count, B, self.hidden_size), weight)
            return [hx] if count == 1 else list(hx.split(1))
        check_states_of_layers(hx, self.num_layers)
        given = []
        for h, H in zip(hx, self.hidden_size, strict=True):
            h = checked_state(batched_state(h, unbatched=unbatched), (self._directions, B, H), weight)
            given += h.split(1)
        return given

    def fresh_state(self, B: int) -> State | None:
        """What B rows begin with when no hx is given, laid out as hx: the learnt states, or None for zero."""
        return self._h_n([h for h in self._fresh(B) if h is not None]) if self.learn_h0 else None

    def _fresh(self, B: int) -> list[Tensor | None]:
        """The states that rows begin with by themselves."""
        if not self.learn_h0:
            return [None] * len(self._all_weights)
        return [getattr(self, _beside(names, "h0")).expand(1, B, -1) for names in self._all_weights]

    def _h_n(self, last: list[Tensor]) -> State:
        if isinstance(self.hidden_size, int):
            return last[0] if len(last) == 1 else torch.cat(last)
        directions = self._directions
        return tuple(torch.cat(last[k : k + directions]) for k in range(0, len(last), directions))

    def _weights_of(self, names: list[str]) -> long.Layer:
        """Parameters by the short way where they lie as such; a parametrized one is an attribute that is computed."""
        own: dict[str, Any] = self._parameters
        if len(names) == 4:
            ih, hh, of_ih, of_hh = names
            if ih in own and hh in own and of_ih in own and of_hh in own:
                return own[ih], own[hh], own[of_ih], own[of_hh]
        weight_ih, weight_hh, *biases = [getattr(self, name) for name in names]
        bias_ih, bias_hh = biases or (None, None)
        return weight_ih, weight_hh, bias_ih, bias_hh


def _no_checkpoint(given: str) -> InputError:
    return InputError(
        "cells with leak, residual, norm, recurrent_dropout or a function as φ cannot be walked in blocks; got "
        f"{given}. Set checkpoint=None."
    )


def _beside(names: list[str], what: str) -> str:
    """The name of another parameter of the same layer and direction."""
    return names[0].replace("weight_ih", what)
