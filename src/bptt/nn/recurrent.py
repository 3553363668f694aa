"""Recurrent layers of any cell: the forms that input and states can have, and the stack that they go through.

`Layers` is what `Recurrent` and `RNN` have in common; a subclass says which cell its layers have and where their
parameters are.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import Parameter
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from bptt.autograd import long
from bptt.autograd.function import layer
from bptt.autograd.private import is_traced, seen_by_others
from bptt.autograd.recorded import begin, recorder
from bptt.engine import blocks
from bptt.engine.contract import Layout, Signature
from bptt.engine.evaluation import fixed_lines
from bptt.errors import InputError
from bptt.nn import initial, tracers
from bptt.nn.arguments import (
    TOKENS,
    batched_state,
    check_axes,
    check_axes_of_rows,
    check_states_of_layers,
    checked_input,
    checked_lengths,
    checked_reset,
    checked_share,
    checked_size,
    checked_sizes,
    checked_state,
)
from bptt.nn.precision import computed_wide, returned_dtype, widened
from bptt.nn.segments import Segments, segments
from bptt.sheet import Cell, named
from bptt.sheet.expressions import Expression, Name, Place, Product, Transposed, children, names, walk
from bptt.sheet.language import DROP
from bptt.sheet.tokens import spelled

State = Tensor | tuple[Tensor, ...]
Functions = Mapping[str, Callable[..., Any]]
LaidOut = Callable[[Any], Tensor | None]
"""A further input of all steps as x itself goes into the layers; None where it is not laid out as the input is."""
OfLayer = list[Tensor | None]
"""The states (1, B, ·) of one layer in one direction; None is zero."""


class Further(NamedTuple):
    """Inputs beside x, by the names in the text of the cell: `rows` (B, ·), `steps` laid out as x."""

    rows: Mapping[str, Tensor] = MappingProxyType({})
    steps: Sequence[Tensor] = ()


NOTHING_FURTHER = Further()


class Layers(torch.nn.Module):
    """A stack of recurrent layers in one or both directions. Layer and direction k is counted layer by layer."""

    input_size: int
    hidden_size: Any
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    learn_h0: bool = False
    recurrent_dropout: float = 0.0
    checkpoint: blocks.Checkpoint = None
    torch_layout: bool = False
    hands_on_output_alone: bool = True
    reads_further: bool = False

    def cell_now(self) -> tuple[Cell, Functions | None]:
        """The cell of all layers, as the module stands now; and functions in the place of those that it declares."""
        raise NotImplementedError

    def tensors_of(self, k: int) -> Sequence[Tensor]:
        """The parameters of one layer and direction."""
        raise NotImplementedError

    def completed(self, parameters: list[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """The weights of each layer and direction, as the cell's layout has them, in the dtype of its parameters."""
        return parameters

    def learnt_first(self, k: int) -> OfLayer:
        """The states (1, 1, ·) that rows of one layer and direction begin with by themselves."""
        raise NotImplementedError

    def widths_of_states(self, k: int) -> Sequence[int]:
        raise NotImplementedError

    def by_other_kernels(
        self, x: Tensor, states: list[OfLayer], weights: Sequence[Sequence[Tensor]], sizes: Any
    ) -> "tuple[list[Tensor], list[tuple[Tensor, ...]]] | None":
        """Outputs and last states from whoever else has kernels for these layers; None if nobody."""
        return None

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def count(self) -> int:
        return self.num_layers * (2 if self.bidirectional else 1)

    def called(
        self,
        input: Any,
        hx: Any,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        return_all_layers: bool,
        weights: list[Sequence[Tensor]],
        inputs: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        like = weights[0][0]
        if type(input) is not Tensor and isinstance(input, PackedSequence):
            layers, h_n = self._packed(input, hx, lengths, reset, inputs, weights, like, return_all_layers)
        elif input.is_nested:
            layers, h_n = self._jagged(input, hx, lengths, reset, inputs, weights, like, return_all_layers)
        else:
            layers, h_n = self._padded(input, hx, lengths, reset, inputs, weights, like, return_all_layers)
        return (layers[-1], h_n, tuple(layers)) if return_all_layers else (layers[-1], h_n)

    def _padded(
        self,
        input: Tensor,
        hx: Any,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        inputs: Mapping[str, Any] | None,
        weights: list[Sequence[Tensor]],
        like: Tensor,
        every_layer: bool,
    ) -> tuple[list[Any], Any]:
        axes = 2 if input.dtype in TOKENS else 3
        check_axes(input, axes)
        unbatched, batch_axis = input.dim() == axes - 1, 0 if self.batch_first else 1
        x = checked_input(input.unsqueeze(batch_axis) if unbatched else input, self.input_size, like)
        B = x.shape[batch_axis]
        states = self._given(hx, B, like, unbatched=unbatched)
        further = NOTHING_FURTHER
        if inputs is not None or self.reads_further:
            further = self._further(inputs, x.shape[:2], B, like, batch_axis if unbatched else None, _as_it_is)
        if lengths is None and reset is None:
            if self.batch_first:
                x = x.transpose(0, 1)
                further = further._replace(steps=[d.transpose(0, 1) for d in further.steps])
            layers, last = self._stack(x, states, weights, further, every_layer)
            layers = [output.transpose(0, 1) for output in layers] if self.batch_first else layers
        else:
            T = x.shape[1 - batch_axis]
            lengths = checked_lengths([T] * B if lengths is None else lengths, B, T, unbatched=unbatched)
            if reset is not None:
                reset = checked_reset(reset, B, T, batch_first=self.batch_first, unbatched=unbatched)
            time_stride, row_stride = (1, T) if self.batch_first else (B, 1)
            runs = segments(torch.arange(B, device="cpu") * row_stride, time_stride, lengths, reset, x.device)
            further = further._replace(steps=[d.flatten(0, 1) for d in further.steps])
            layers, last = self._segmented(x.flatten(0, 1), runs, states, weights, further, every_layer)
            layers = [output.unflatten(0, x.shape[:2]) for output in layers]
        if unbatched:
            layers = [output.squeeze(batch_axis) for output in layers]
            last = [tuple(h.squeeze(1) for h in of_layer) for of_layer in last]
        return layers, self._h_n(last)

    def _jagged(
        self,
        input: Tensor,
        hx: Any,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        inputs: Mapping[str, Any] | None,
        weights: list[Sequence[Tensor]],
        like: Tensor,
        every_layer: bool,
    ) -> tuple[list[Any], Any]:
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
        x, B = checked_input(values, self.input_size, like), len(offsets) - 1
        runs = segments(offsets[:-1], 1, offsets.diff() if holes is None else holes, None, x.device)
        states = self._given(hx, B, like)

        def values_of(d: Any) -> Tensor | None:
            if not isinstance(d, Tensor) or not d.is_nested or d.layout != torch.jagged:
                return None
            own: Any = d
            same = len(own.offsets()) == len(offsets) and torch.equal(own.offsets(), offsets)
            return own.values() if same and own.lengths() is None and holes is None else None

        further = self._further(inputs, x.shape[:1], B, like, None, values_of)
        layers, last = self._segmented(x, runs, states, weights, further, every_layer)
        longest = len(runs.batch_sizes)  # for whoever pads: torch takes the number of all steps where it is not said
        outputs = [
            torch.nested.nested_tensor_from_jagged(output, offsets, holes, max_seqlen=longest) for output in layers
        ]
        return outputs, self._h_n(last)

    def _packed(
        self,
        input: PackedSequence,
        hx: Any,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        inputs: Mapping[str, Any] | None,
        weights: list[Sequence[Tensor]],
        like: Tensor,
        every_layer: bool,
    ) -> tuple[list[Any], Any]:
        if lengths is not None or reset is not None:
            raise InputError(
                "a PackedSequence has its lengths in itself: lengths= and reset= belong to padded input; got "
                f"{'lengths' if reset is None else 'reset'} beside one. Pad it: torch.nn.utils.rnn.pad_packed_sequence"
            )
        x, batch_sizes, sorted_indices, unsorted_indices = input
        check_axes_of_rows(x)
        x = checked_input(x, self.input_size, like)
        traced = is_traced()  # then what batch_sizes holds is not known yet
        given = hx[0] if isinstance(hx, tuple | list) and hx else hx
        B = given.shape[1] if traced and isinstance(given, Tensor) and given.dim() == 3 else int(batch_sizes[0])
        states = self._given(hx, B, like)

        def data_of(d: Any) -> Tensor | None:
            if not isinstance(d, PackedSequence) or (d.sorted_indices is None) != (sorted_indices is None):
                return None
            same = traced or torch.equal(d.batch_sizes, batch_sizes)  # traced, the numbers are not known
            if d.sorted_indices is not None and sorted_indices is not None:
                same = same and (traced or torch.equal(d.sorted_indices, sorted_indices))
            return d.data if same else None

        further = self._further(inputs, x.shape[:1], B, like, None, data_of)
        if sorted_indices is not None:
            states = [[h if h is None else h.index_select(1, sorted_indices) for h in of_layer] for of_layer in states]
            rows = {name: d.index_select(0, sorted_indices) for name, d in further.rows.items()}
            further = further._replace(rows=rows)
        sizes = batch_sizes if traced else batch_sizes.tolist()
        layers, last = self._stack(x, states, weights, further, every_layer, sizes)
        if unsorted_indices is not None:
            last = [tuple(h.index_select(1, unsorted_indices) for h in of_layer) for of_layer in last]
        packed = [PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices) for output in layers]
        return packed, self._h_n(last)

    def _segmented(
        self,
        x: Tensor,
        runs: Segments,
        states: list[OfLayer],
        weights: list[Sequence[Tensor]],
        further: Further,
        every_layer: bool,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """`_stack` on the real steps of flattened input: all outputs in their places, the last states of all rows."""
        if not is_traced() and recorder.get() is not None:
            raise InputError(
                "a tape holds padded batches without lengths= and reset=, or a PackedSequence, whose rows keep their "
                "numbers. Record with torch.nn.utils.rnn.pack_padded_sequence instead."
            )
        first = self._fresh(runs.batch)
        started = []
        for k, (given, fresh) in enumerate(zip(states, first, strict=True)):
            reverse = self._is_reverse(k)
            started.append([runs.begin(g, f, reverse) for g, f in zip(given, fresh, strict=True)])
        if x.is_meta:  # where packed rows cannot be counted, states say how many there are
            S, like = len(runs.rows), weights[0][0]
            started = [
                [like.new_zeros(1, S, width) if h is None else h for h, width in zip(of_layer, widths, strict=True)]
                for k, of_layer in enumerate(started)
                for widths in [self.widths_of_states(k)]
            ]
        further = Further(
            {name: d.index_select(0, runs.rows) for name, d in further.rows.items()},
            list(map(runs.pack, further.steps)),
        )
        layers, last = self._stack(runs.pack(x), started, weights, further, every_layer, runs.batch_sizes)
        ended = [
            tuple(runs.end(h, given, self._is_reverse(k)) for h, given in zip(of_layer, states[k], strict=True))
            for k, of_layer in enumerate(last)
        ]
        return [runs.unpack(output, len(x)) for output in layers], ended

    def _stack(
        self,
        x: Tensor,
        states: list[OfLayer],
        weights: list[Sequence[Tensor]],
        further: Further,
        every_layer: bool,
        sizes: list[int] | Tensor | None = None,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """The output of all steps of each layer, and the last states of each layer and direction (1, B, ·).

        Unless `every_layer`, it may be that of the outputs of all steps only the top layer's exists.
        """
        like = weights[0][0]
        returned = returned_dtype(x, like)
        if returned is not None:

            def wide(
                x: Tensor, states: list[OfLayer], weights: list[Sequence[Tensor]], steps: Sequence[Tensor]
            ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
                rows = {name: widened(d, like) for name, d in further.rows.items()}
                return self._stack(x, states, weights, Further(rows, steps), every_layer, sizes)

            return computed_wide(wide, x, states, weights, further.steps, returned)
        checkpoint = None if every_layer else self.checkpoint
        if begin(self):
            checkpoint = None  # a record holds everything anyway
        if checkpoint is not None and seen_by_others(x, like):
            checkpoint = None  # who traces or transforms keeps what it wants to
        cell, functions = self.cell_now()
        if functions is not None and checkpoint is not None:
            raise InputError(
                "layers with a function as φ cannot be walked in blocks, for autograd goes through each of their "
                f"steps; got {self!r}. Set checkpoint=None."
            )
        masks = self._masks(cell, x, states, further, like, sizes)
        weights = self.completed(weights)
        dropout = self.dropout if self.training else 0.0
        if checkpoint is not None and not self.bidirectional and isinstance(self.hidden_size, int):
            assert not isinstance(sizes, Tensor)  # who traces has no checkpoint
            layers = [long.Layer(*of_layer) for of_layer in zip(states, weights, masks, strict=True)]
            output, last = long.stack(
                cell, x, layers, further.steps, torch_layout=self.torch_layout, checkpoint=checkpoint, sizes=sizes,
                dropout=dropout,
            )  # fmt: skip
            return [output], last
        if checkpoint is None and not every_layer:
            found = self.by_other_kernels(x, states, weights, sizes)
            if found is not None:
                return found
        layers, last = [], []
        top = self.num_layers - 1
        for index in range(top + 1):
            outputs = []
            for reverse in (False, True) if self.bidirectional else (False,):
                k = len(last)
                if checkpoint is None:
                    output, ended = layer(
                        cell, x, states[k], weights[k], (*masks[k], *further.steps), sizes=sizes, reverse=reverse,
                        torch_layout=self.torch_layout, index=index, functions=functions,
                    )  # fmt: skip
                else:
                    assert not isinstance(sizes, Tensor)
                    output, (ended,) = long.stack(
                        cell, x, [long.Layer(states[k], weights[k], masks[k])], further.steps,
                        torch_layout=self.torch_layout, checkpoint=checkpoint, sizes=sizes, reverse=reverse,
                    )  # fmt: skip
                outputs.append(output)
                last.append(ended)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            layers.append(x)
            if index < top and dropout:
                x = F.dropout(x, dropout)
        return layers, last

    def _rows(self, x: Tensor, states: list[OfLayer], sizes: list[int] | Tensor | None) -> Any:
        """B, where it is needed."""
        first = states[0][0]
        if first is not None:
            return first.shape[1]
        return x.shape[1] if sizes is None else None if isinstance(sizes, Tensor) else sizes[0] if sizes else 0

    def _masks(
        self, cell: Cell, x: Tensor, states: list[OfLayer], further: Further, like: Tensor, sizes: Any
    ) -> list[list[Tensor]]:
        """Of each layer and direction."""
        return [[]] * self.count

    def _further(
        self,
        inputs: Mapping[str, Any] | None,
        rows: Sequence[int],
        B: int,
        like: Tensor,
        unbatched: int | None,
        laid_out: LaidOut,
    ) -> Further:
        """rows: the axes before the last of x. unbatched: where x, which has no batch, gets its axis."""
        return NOTHING_FURTHER

    def _is_reverse(self, k: int) -> bool:
        return self.bidirectional and k % 2 == 1

    def _given(self, hx: Any, B: int, like: Tensor, *, unbatched: bool = False) -> list[OfLayer]:
        """The states before the first step, of each layer and direction."""
        if hx is None:
            return self._fresh(B)
        hidden = self.hidden_size
        if self.hands_on_output_alone and type(hidden) is int:  # what is usual is quick to do
            count = self.count
            hx = checked_state(batched_state(hx, unbatched=unbatched), (count, B, hidden), like)
            return [[hx]] if count == 1 else [[h] for h in hx.split(1)]
        number = len(self.widths_of_states(0))
        if number == 1:
            return [[h] for h in self._given_state(hx, 0, "hx", B, like, unbatched=unbatched)]
        names = [f"{name}0" for name in self.cell_now()[0].sheet.states]
        if not isinstance(hx, tuple | list) or len(hx) != number:
            raise RuntimeError(
                f"hx must be a tuple ({', '.join(names)}), one for each state of the cell; got "
                f"{f'{len(hx)} of them' if isinstance(hx, tuple | list) else type(hx).__name__}"
            )
        each = [self._given_state(h, s, names[s], B, like, unbatched=unbatched) for s, h in enumerate(hx)]
        return [list(of_layer) for of_layer in zip(*each, strict=True)]

    def _given_state(self, hx: Any, s: int, name: str, B: int, like: Tensor, *, unbatched: bool) -> list[Tensor]:
        """One state of each layer and direction."""
        count, widths = self.count, [self.widths_of_states(k)[s] for k in range(self.count)]
        if isinstance(self.hidden_size, int):
            hx = checked_state(batched_state(hx, name, unbatched=unbatched), (count, B, widths[0]), like, name)
            return [hx] if count == 1 else list(hx.split(1))
        check_states_of_layers(hx, self.num_layers, name)
        given, directions = [], self.directions
        for h, width in zip(hx, widths[::directions], strict=True):
            h = checked_state(batched_state(h, name, unbatched=unbatched), (directions, B, width), like, name)
            given += h.split(1)
        return given

    def fresh_state(self, B: int) -> Any:
        """The states that B rows begin with when no hx is given, laid out as hx: learnt ones, or None for zero."""
        if not self.learn_h0:
            return None
        return self._h_n([tuple(h for h in of_layer if h is not None) for of_layer in self._fresh(B)])

    def _fresh(self, B: int) -> list[OfLayer]:
        """The states that rows begin with by themselves."""
        if not self.learn_h0:
            none: OfLayer = [None] * len(self.widths_of_states(0))
            return [none] * self.count
        return [[h if h is None else h.expand(1, B, -1) for h in self.learnt_first(k)] for k in range(self.count)]

    def _h_n(self, last: list[tuple[Tensor, ...]]) -> Any:
        """The last states as hx is laid out."""
        if len(last) == 1 and len(last[0]) == 1 and isinstance(self.hidden_size, int):
            return last[0][0]
        each = []
        for of_state in zip(*last, strict=True):
            if isinstance(self.hidden_size, int):
                each.append(of_state[0] if len(of_state) == 1 else torch.cat(of_state))
            else:
                directions = self.directions
                each.append(tuple(torch.cat(of_state[k : k + directions]) for k in range(0, len(of_state), directions)))
        return each[0] if len(each) == 1 else tuple(each)


def _as_it_is(d: Any) -> Tensor | None:
    return d if isinstance(d, Tensor) and not d.is_nested else None


class Recurrent(Layers):
    """A stack of recurrent layers of a cell of your own, in one or both directions.

    cell               a `bptt.Cell`, the name of one that is built in, or the text of one
    hidden_size        the width of the output; also a list with one for each layer, num_layers is then its length
    sizes              the other sizes that the text declares, by their letters: {"S": 16}
    init               how parameters begin: "torch" draws all from U(±1/sqrt(hidden_size)); "orthogonal", "identity"
                       and "spectral:1.0" draw the square matrices that states are multiplied with (`bptt.nn.initial`)
                       and make vectors zero. Or a dict with such a name or a number for single parameters,
                       {"b_f": 1}. Starts in the text, γ : vector = 1, go before all but the dict
    learn_h0           first states are parameters, zero at first, for rows that are given none, and after a reset
    recurrent_dropout  the probability with which entries of drop(...) are zeroed in training

    num_layers, batch_first, dropout, bidirectional, device, dtype are those of torch.nn.RNN, checkpoint is that of
    `bptt.nn.RNN`. Parameters are named as in the text, with the layer: W_xh_l0, b_h_l1_reverse, h0_l0. Matrices are
    (rows, columns), so x W_xh is x @ W_xh.

    Called as `bptt.nn.RNN` is, it returns what that returns. Where the cell has several states, hx and h_n are tuples
    with one for each, the output first. Beside that a call takes

    inputs   by their names what the text declares as input, (T, B, width) laid out as x is or without the last axis
             where it is 1 wide, and as rows, (B, width): a mask, a time between steps. All layers read them

    Raises InputError for cells, sizes and beginnings that do not fit; errors of a call are those of `bptt.nn.RNN`.

    >>> rnn = Recurrent("lstm", 10, 20, num_layers=2, init={"b_f": 1})
    >>> output, (h_n, c_n) = rnn(torch.zeros(5, 3, 10))
    >>> output.shape, c_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        sizes: Mapping[str, int] | None = None,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        init: str | Mapping[str, str | float] = "torch",
        learn_h0: bool = False,
        recurrent_dropout: float = 0.0,
        checkpoint: blocks.Checkpoint = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(cell, str):
            cell = Cell(cell) if "=" in cell else named(cell)
        if not isinstance(cell, Cell):
            raise InputError(
                f"cell must be a bptt.Cell, the name of one that is built in, or the text of one; got "
                f"{type(cell).__name__}."
            )
        blocks.check(checkpoint)
        checked_share("dropout", dropout)
        checked_share("recurrent_dropout", recurrent_dropout)
        self.cell, self.input_size, self.sizes = cell, checked_size("input_size", input_size), _as_dict("sizes", sizes)
        if isinstance(hidden_size, Sequence) and not isinstance(hidden_size, str):
            self.hidden_size = checked_sizes(hidden_size, num_layers)
            num_layers = len(self.hidden_size)
        else:
            self.hidden_size = checked_size("hidden_size", hidden_size)
        self.num_layers, self.batch_first, self.bidirectional = (
            checked_size("num_layers", num_layers),
            batch_first,
            bidirectional,
        )
        self.dropout, self.recurrent_dropout, self.checkpoint = dropout, recurrent_dropout, checkpoint
        self.learn_h0 = learn_h0
        single = {} if isinstance(init, str) else _as_dict("init", init)
        self.init = init if isinstance(init, str) else {spelled(name): how for name, how in single.items()}
        sheet = cell.sheet
        self._names = tuple(name for name, given in sheet.given.items() if given.learned)
        self._signature, self._layout = Signature.of(cell), Layout.of(cell)
        self._of_rows = [name for name in self._signature.masks if sheet.given[name].kind == "rows"]
        self._x_itself = next((place for line in sheet.steps for place in _places_of_x(line.value)), None)
        self.hands_on_output_alone = sheet.states == (sheet.output,)
        self.reads_further = bool(self._of_rows or self._signature.inputs)
        self._check_sizes()
        self._check_parameters()
        for k in range(self.count):
            lengths = self._lengths(k)
            for name in self._names:
                axes = sheet.shapes.get(name) or (sheet.widths[name],)
                shape = [lengths[axis] for axis in axes]
                self.register_parameter(
                    self._called(name, k), Parameter(torch.empty(shape, device=device, dtype=dtype))
                )
            for name in sheet.states if learn_h0 else ():
                width = lengths[sheet.widths[name]]
                first = Parameter(torch.empty(width, device=device, dtype=dtype))
                self.register_parameter(self._called(f"{name}0", k), first)
        self.reset_parameters()

    def _called(self, name: str, k: int) -> str:
        return f"{name}_l{k // self.directions}{'_reverse' if self._is_reverse(k) else ''}"

    def _hidden(self, layer: int) -> int:
        return self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[layer]

    def _entering(self, k: int) -> int:
        """How wide the input of one layer and direction is."""
        layer = k // self.directions
        return self.directions * self._hidden(layer - 1) if layer else self.input_size

    def _lengths(self, k: int) -> dict[str, int]:
        """The sizes of the sheet in one layer and direction."""
        own = {self.cell.sheet.widths["x"]: self._entering(k)}
        return {"1": 1, **self.sizes, **own, "H": self._hidden(k // self.directions)}

    def _check_sizes(self) -> None:
        sheet = self.cell.sheet
        declared = {size for size, _ in sheet.sizes.values()} - {"I", "H"}
        if declared != self.sizes.keys():
            raise InputError(
                "sizes= gives a number to each size that the text of the cell declares beside I and H, here "
                f"{_listed(declared)}; got {_listed(self.sizes)}."
                + (f" Write sizes={{{', '.join(f'{size!r}: 16' for size in sorted(declared))}}}." if declared else "")
            )
        for name, size in self.sizes.items():
            checked_size(f"sizes[{name!r}]", size)
        of_layers = [self._lengths(k) for k in range(self.count)]
        for k, lengths in enumerate(of_layers):
            entering = self._entering(k)
            if sheet.equal and entering != lengths["H"]:
                raise sheet.refusal(
                    sheet.equal[0][2],
                    f"this line needs inputs as wide as the output; layer {k // self.directions} gets {entering} "
                    f"numbers and has hidden_size {lengths['H']}",
                    "Above the first, layers in both directions get the outputs of both: leave one layer, or give x a "
                    "matrix."
                    if self.bidirectional and k
                    else "Make the two equal, or give x a matrix, x_t W_xk.",
                )
        for name in (*self._of_rows, *self._signature.inputs):
            widths = {lengths[sheet.widths[name]] for lengths in of_layers}
            if len(widths) > 1:
                raise InputError(
                    f"all layers read the same {name}, which is {sheet.widths[name]} wide, and here their "
                    f"{sheet.widths[name]} differs: {_listed(map(str, widths))}. Make them equal, or each layer a "
                    "Recurrent."
                )

    def _check_parameters(self) -> None:
        sheet = self.cell.sheet
        if not self._names:
            raise InputError(
                f"a layer has parameters to learn, and this cell has none:\n{self.cell.text.strip()}\nGive it a matrix "
                "or a vector, for example x_t W_xh + b_h."
            )
        clash = [f"{name}0" for name in sheet.states if self.learn_h0 and f"{name}0" in self._names]
        if clash:
            raise InputError(
                f"learn_h0 makes a parameter {clash[0]}, and the text of the cell has one. Rename its own."
            )
        if self.recurrent_dropout and all(given.kind != DROP for given in sheet.given.values()):
            raise InputError(
                "recurrent_dropout is for what stands in drop(...), and the text of this cell has no drop; got "
                f"{self.recurrent_dropout}. Write drop(h_{{t-1}}) where the past comes in, or leave it 0."
            )
        if isinstance(self.init, str):
            initial.check(self.init)
            return
        for name, how in self.init.items():
            if name not in self._names:
                raise InputError(
                    f"init= says how parameters begin, which are {', '.join(self._names)}; got "
                    f"{name!r}.{_near(name, self._names)}"
                )
            if isinstance(how, str):
                initial.check(how)
            elif not isinstance(how, Real) or isinstance(how, bool) or not math.isfinite(how):
                raise InputError(
                    f"a parameter begins with a number or in a way that has a name, 'torch', 'orthogonal', 'identity', "
                    f"'spectral:1.0'; got init[{name!r}] = {how!r}. Anything else: copy_ into the parameter later."
                )

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as `init` and the text of the cell say."""
        sheet = self.cell.sheet
        of_all = self.init if isinstance(self.init, str) else "torch"
        single = {} if isinstance(self.init, str) else self.init
        squares = {
            matrix.name
            for line in sheet.steps
            for e in walk(line.value)
            if isinstance(e, Product)
            and isinstance(matrix := e.right.of if isinstance(e.right, Transposed) else e.right, Name)
            and sheet.shapes[matrix.name] == ("H", "H")
            if not any(name.name in sheet.inputs for name in names(e.left))
        }
        for k in range(self.count):
            bound = self._lengths(k)["H"] ** -0.5
            for name in self._names:
                parameter, start = getattr(self, self._called(name, k)), sheet.given[name].start
                how = single.get(name)
                if isinstance(how, str) and how != "torch":
                    initial.draw(parameter, how, self._called(name, k))
                elif isinstance(how, Real):
                    torch.nn.init.constant_(parameter, float(how))
                elif start is not None and how is None:
                    torch.nn.init.constant_(parameter, start)
                elif of_all != "torch" and name in squares:
                    initial.draw(parameter, of_all, self._called(name, k))
                elif of_all != "torch" and parameter.dim() == 1:
                    torch.nn.init.zeros_(parameter)
                else:
                    torch.nn.init.uniform_(parameter, -bound, bound)
            for name in sheet.states if self.learn_h0 else ():
                torch.nn.init.zeros_(getattr(self, self._called(f"{name}0", k)))

    def extra_repr(self) -> str:
        said = f"{self.cell.name!r}, {self.input_size}, {self.hidden_size}"
        usual = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False, "sizes": {}}
        usual |= {"init": "torch", "learn_h0": False, "recurrent_dropout": 0.0, "checkpoint": None}
        for name, value in usual.items():
            if getattr(self, name) != value:
                said += f", {name}={getattr(self, name)!r}"
        return said

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        inputs: Mapping[str, Any] | None = None,
        return_all_layers: bool = False,
    ) -> tuple[Any, ...]:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return tracers.node(
                self, input, hx, lengths=lengths, reset=reset, inputs=inputs, return_all_layers=return_all_layers
            )  # fmt: skip
        if tracers.are_per_sample(getattr(self, self._called(name, 0)) for name in self._names):
            raise tracers.refused(self, tracers.PER_SAMPLE)
        if self._x_itself is not None and (input.data if isinstance(input, PackedSequence) else input).dtype in TOKENS:
            raise self.cell.sheet.refusal(
                self._x_itself,
                "integer x holds tokens, which stand for rows of the matrices that x_t is multiplied with, and here "
                "x_t stands by itself",
                "Give numbers: the output of a torch.nn.Embedding, or torch.nn.functional.one_hot(x, input_size).",
            )
        weights = [self.tensors_of(k) for k in range(self.count)]
        return self.called(input, hx, lengths, reset, return_all_layers, weights, inputs)

    def _slow_forward(self, *_: Any, **__: Any) -> Any:
        """Called by torch in the place of `forward` while torch.jit.trace looks on."""
        raise tracers.refused(self, tracers.JIT)

    def cell_now(self) -> tuple[Cell, Functions | None]:
        return self.cell, None

    def tensors_of(self, k: int) -> Sequence[Tensor]:
        return [getattr(self, self._called(name, k)) for name in self._names]

    def completed(self, parameters: list[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        found = []
        for k, of_layer in enumerate(parameters):
            given = dict(zip(self._names, of_layer, strict=True))
            if self.cell.sheet.fixed:
                given |= fixed_lines(self.cell, given, self._lengths(k))
            found.append([given[name] for name in self._layout.names])
        return found

    def learnt_first(self, k: int) -> OfLayer:
        return [getattr(self, self._called(f"{name}0", k))[None, None] for name in self.cell.sheet.states]

    def widths_of_states(self, k: int) -> Sequence[int]:
        lengths = self._lengths(k)
        return [lengths[self.cell.sheet.widths[name]] for name in self.cell.sheet.states]

    def _masks(
        self, cell: Cell, x: Tensor, states: list[OfLayer], further: Further, like: Tensor, sizes: Any
    ) -> list[list[Tensor]]:
        found: list[list[Tensor]] = [[] for _ in range(self.count)]
        p, B = self.recurrent_dropout, self._rows(x, states, sizes)
        for k, of_layer in enumerate(found):
            for name in self._signature.masks:
                if name in further.rows:
                    of_layer.append(further.rows[name])
                else:  # of drop
                    ones = like.new_ones(B, self._lengths(k)[cell.sheet.widths[name]])
                    of_layer.append(F.dropout(ones, p) if p and self.training else ones)
        return found

    def _further(
        self,
        inputs: Mapping[str, Any] | None,
        rows: Sequence[int],
        B: int,
        like: Tensor,
        unbatched: int | None,
        laid_out: LaidOut,
    ) -> Further:
        wanted = [*self._of_rows, *self._signature.inputs]
        given = {spelled(name): d for name, d in _as_dict("inputs", inputs).items()}
        if given.keys() != set(wanted) or len(given) != len(inputs or {}):
            strange = next((name for name in given if name not in wanted), None)
            raise InputError(
                f"inputs= are those that the text of the cell names beside x, here {', '.join(wanted) or 'none'}; got "
                f"{_listed(inputs or {})}.{_near(strange, wanted)}"
            )
        lengths, widths = self._lengths(0), self.cell.sheet.widths

        def checked(name: str, d: Tensor, axis: int | None, lead: Sequence[int]) -> Tensor:
            width = lengths[widths[name]]
            if d.device != like.device:
                raise RuntimeError(
                    f"inputs[{name!r}] must be on {like.device}, where the parameters are; got {d.device}. Move one of "
                    "them with .to()"
                )
            if axis is not None:
                d = d.unsqueeze(axis)
            if width == 1 and d.shape == torch.Size(lead):
                d = d.unsqueeze(-1)
            if d.shape != (*lead, width):
                expected, got = [*lead, width], [*d.shape]
                if axis is not None:
                    del expected[axis], got[axis]
                raise ValueError(
                    f"inputs[{name!r}] must have shape {tuple(expected)}, "
                    f"{'a row for each row of the batch' if name in self._of_rows else 'laid out as the input'}; got "
                    f"{tuple(got)}"
                )
            return d.to(like.dtype)

        of_rows, steps = {}, []
        for name in self._of_rows:
            d = given[name]
            if not isinstance(d, Tensor) or d.is_nested:
                raise InputError(f"inputs[{name!r}] must be a tensor, a row for each row; got {type(d).__name__}.")
            if d.requires_grad and torch.is_grad_enabled():
                raise InputError(
                    f"inputs[{name!r}] is declared as rows, a mask, which has no gradient; got one that requires a "
                    "gradient. Detach it, or declare it as input and give it for each step."
                )
            of_rows[name] = checked(name, d, None if unbatched is None else 0, (B,))
        for name in self._signature.inputs:
            d = laid_out(given[name])
            if d is None:
                raise InputError(
                    f"inputs[{name!r}] must be laid out as the input, a tensor beside a tensor; beside a packed or "
                    "jagged input another such one, with the same lengths in the same order; got "
                    f"{type(given[name]).__name__}."
                )
            steps.append(checked(name, d, unbatched, rows))
        return Further(of_rows, steps)


def _places_of_x(e: Expression) -> list[Place | None]:
    """Where x_t stands other than left of a matrix."""
    match e:
        case Product(Name("x", 0)):
            return []
        case Name("x", 0):
            return [e.place]
    return [place for part in children(e) for place in _places_of_x(part)]


def _as_dict(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping | None):
        raise InputError(f"{name}= is a dict, from names to what each is given; got {type(given).__name__}.")
    return dict(given or {})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def _near(name: Any, known: Sequence[str]) -> str:
    near = get_close_matches(str(name), known, 1)
    return f" Did you mean {near[0]}?" if near else ""
