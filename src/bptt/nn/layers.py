"""A stack of recurrent layers of any cell, and the forms that its input and states can have.

`Layers` is what `Recurrent` and `RNN` have in common; a subclass says which cell its layers have and where their
parameters are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from bptt.autograd import long
from bptt.autograd.dynamo import leave_out
from bptt.autograd.function import layer
from bptt.autograd.private import is_traced, seen_by_others
from bptt.autograd.recorded import Padding, begin, recorder
from bptt.engine import blocks
from bptt.errors import InputError
from bptt.nn.arguments import (
    TOKENS,
    batched_state,
    check_axes,
    check_axes_of_rows,
    check_states_of_layers,
    checked_input,
    checked_lengths,
    checked_of_steps,
    checked_state,
    warn_of_one_hot,
)
from bptt.nn.precision import computed_wide, returned_dtype, widened
from bptt.nn.segments import Segments, segments
from bptt.sheet import Cell

FirstStates = Tensor | tuple[Tensor, ...]
"""Given to a call as hx."""
Functions = Mapping[str, Callable[..., Any]]
LaidOut = Callable[[Any], Tensor | None]
"""A further input of all steps as x itself goes into the layers; None where it is not laid out as the input is."""
OfLayer = list[Tensor | None]
"""The states (1, B, ·) of one layer in one direction; None is zero."""


NOT_IN_A_GRAPH = (
    "lengths=, reset= and mask= decide which steps there are, and a graph is made before their numbers are known. "
    "Compile without fullgraph=True, which leaves this call out of the graph; rows that differ in length alone can be "
    "a PackedSequence, which compiles."
)


class Further(NamedTuple):
    """Inputs beside x, by the names in the text of the cell: `rows` (B, ·), `steps` laid out as x."""

    rows: Mapping[str, Tensor] = MappingProxyType({})
    steps: Sequence[Tensor] = ()


NOTHING_FURTHER = Further()


class Layers(torch.nn.Module, ABC):
    """A stack of recurrent layers in one or both directions. Layer and direction k is counted layer by layer."""

    known_as: str
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
    autocast_on_cpu: bool = True

    @abstractmethod
    def cell_now(self) -> tuple[Cell, Functions | None]:
        """The cell of all layers, as the module stands now; and functions in the place of those that it declares."""

    @abstractmethod
    def tensors_of(self, k: int) -> Sequence[Tensor]:
        """The parameters of one layer and direction."""

    def completed(self, parameters: list[Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """The weights of each layer and direction, as the cell's layout has them, in the dtype of its parameters."""
        return parameters

    def learned(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """Those of one layer and direction by name, where the weights are made of some."""
        return {}

    @abstractmethod
    def learnt_first(self, k: int) -> OfLayer:
        """The states (1, 1, ·) that rows of one layer and direction begin with by themselves."""

    @abstractmethod
    def widths_of_states(self, k: int) -> Sequence[int]:
        """Of one layer and direction."""

    def check_reads_tokens(self) -> None:
        """Raises InputError where integer tokens cannot stand for x."""

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
        reset: Tensor | Sequence[Any] | None,
        mask: Tensor | Sequence[Any] | None,
        return_all_layers: bool,
        weights: list[Sequence[Tensor]],
        inputs: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        like, of_padded = weights[0][0], {}
        if lengths is not None or reset is not None or mask is not None:
            of_padded = {"lengths": lengths, "reset": reset, "mask": mask}
            of_padded = {name: given for name, given in of_padded.items() if given is not None}
        if type(input) is not Tensor and isinstance(input, PackedSequence):
            layers, h_n = self._packed(input, hx, of_padded, inputs, weights, like, return_all_layers)
        elif input.is_nested:
            layers, h_n = self._jagged(input, hx, of_padded, inputs, weights, like, return_all_layers)
        else:
            padded = Layers._beside_the_graph if of_padded and is_traced() else Layers._padded
            layers, h_n = padded(self, input, hx, of_padded, inputs, weights, like, return_all_layers)
        return (layers[-1], h_n, tuple(layers)) if return_all_layers else (layers[-1], h_n)

    def _padded(
        self,
        input: Tensor,
        hx: Any,
        of_padded: Mapping[str, Any],
        inputs: Mapping[str, Any] | None,
        weights: list[Sequence[Tensor]],
        like: Tensor,
        every_layer: bool,
    ) -> tuple[list[Any], Any]:
        axes = 2 if input.dtype in TOKENS else 3
        unbatched, batch_axis = input.dim() != axes, 0 if self.batch_first else 1
        if unbatched:
            check_axes(input, axes, of=self.known_as)
        elif axes == 2:
            warn_of_one_hot(input, self.input_size)
        x = checked_input(input.unsqueeze(batch_axis) if unbatched else input, self.input_size, like)
        B = x.shape[batch_axis]
        states = self._given(hx, B, like, unbatched=unbatched)
        further = NOTHING_FURTHER
        if inputs is not None or self.reads_further:
            further = self._further(inputs, x.shape[:2], B, like, batch_axis if unbatched else None, _as_it_is)
        if not of_padded:
            if self.batch_first:
                x = x.transpose(0, 1)
                further = further._replace(steps=[d.transpose(0, 1) for d in further.steps])
            layers, last = self._stack(x, states, weights, further, every_layer)
            layers = [output.transpose(0, 1) for output in layers] if self.batch_first else layers
        else:
            T = x.shape[1 - batch_axis]
            lengths, reset, mask = self._real_steps(of_padded, B, T, unbatched)
            time_stride, row_stride = (1, T) if self.batch_first else (B, 1)
            runs = segments(torch.arange(B, device="cpu") * row_stride, time_stride, lengths, reset, x.device, mask)
            further = further._replace(steps=[d.flatten(0, 1) for d in further.steps])
            layers, last = self._segmented(x.flatten(0, 1), runs, states, weights, further, every_layer)
            if not is_traced() and (watching := recorder.get()) is not None:
                t, b = (runs.places // time_stride % T, runs.places // row_stride % B)
                watching.pad(Padding(T, B, t * B + b))
            layers = [output.unflatten(0, x.shape[:2]) for output in layers]
        if unbatched:
            layers = [output.squeeze(batch_axis) for output in layers]
            last = [tuple(h.squeeze(1) for h in of_layer) for of_layer in last]
        return layers, self._h_n(last)

    def _beside_the_graph(self, *given: Any) -> tuple[list[Any], Any]:
        """`_padded` where torch.compile looks on (`bptt.autograd.dynamo.leave_out`)."""
        return self._padded(*given)

    def _real_steps(
        self, of_padded: Mapping[str, Any], B: int, T: int, unbatched: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """How many real steps rows have (B,), where they begin anew (B, T), and which the real ones are (B, T)."""
        if torch.compiler.is_exporting():
            raise InputError(NOT_IN_A_GRAPH)
        if len(of_padded.keys() & {"lengths", "mask"}) == 2:
            raise InputError(
                "lengths= and mask= both say which steps are real; got the two. Give mask= alone, false at padding too."
            )
        reset, mask = (
            checked_of_steps(given, name, B, T, batch_first=self.batch_first, unbatched=unbatched)
            if (given := of_padded.get(name)) is not None
            else None
            for name in ("reset", "mask")
        )
        if mask is not None:
            return mask.sum(1), reset, mask
        return checked_lengths(of_padded.get("lengths", [T] * B), B, T, unbatched=unbatched), reset, None

    def _jagged(
        self,
        input: Tensor,
        hx: Any,
        of_padded: Mapping[str, Any],
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
        if input.layout != torch.jagged or of_padded:
            raise InputError(
                "a nested tensor has its lengths in itself: layout=torch.jagged, without lengths=, reset= or mask= "
                f"beside; got layout={input.layout}, {_and(of_padded) or 'none of them'}. For resets, pad: "
                "torch.nested.to_padded_tensor, then lengths="
            )
        check_axes(input, 2 if input.dtype in TOKENS else 3, of=self.known_as)
        if not is_traced() and recorder.get() is not None:
            raise InputError(
                "a tape holds padded batches, with lengths=, reset= and mask= too, or a PackedSequence; got a jagged "
                "nested tensor. Record with torch.nested.to_padded_tensor(x, 0.0) and lengths=."
            )
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
        of_padded: Mapping[str, Any],
        inputs: Mapping[str, Any] | None,
        weights: list[Sequence[Tensor]],
        like: Tensor,
        every_layer: bool,
    ) -> tuple[list[Any], Any]:
        if of_padded:
            raise InputError(
                "a PackedSequence has its lengths in itself: lengths=, reset= and mask= belong to padded input; got "
                f"{_and(of_padded)} beside one. Pad it: torch.nn.utils.rnn.pad_packed_sequence"
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
        returned = returned_dtype(x, like, autocast_on_cpu=self.autocast_on_cpu)
        if returned is not None:

            def wide(
                x: Tensor, states: list[OfLayer], weights: list[Sequence[Tensor]], steps: Sequence[Tensor]
            ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
                rows = {name: widened(d, like) for name, d in further.rows.items()}
                return self._stack(x, states, weights, Further(rows, steps), every_layer, sizes)

            return computed_wide(wide, x, states, weights, further.steps, returned)
        checkpoint = None if every_layer else self.checkpoint
        if begin(self, lambda k, given=weights: self.learned(given[k])):
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


leave_out(Layers, "_beside_the_graph", NOT_IN_A_GRAPH)


def _and(names: Iterable[str]) -> str:
    return " and ".join(f"{name}=" for name in names)


def _as_it_is(d: Any) -> Tensor | None:
    return d if isinstance(d, Tensor) and not d.is_nested else None
