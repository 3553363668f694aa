"""The contract of an engine: one way to compute a layer forward and one backward, for every cell.

    forward (cell, weights, x, first, steps)                      -> Made       A1 to A4 for t = 1..T
    backward(cell, weights, made, x, first, steps, dy, d_last)    -> Gradients  B6 to B11 for t = T..1

A layer is one cell in one direction. Arrays of all steps are (T, B, ·), or packed (N, ·); `Steps` knows where rows lie.
Inputs x may be integer tokens, without the last axis: each stands for a row of the matrices that x is multiplied with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import TORCH
from bptt.sheet.expressions import Expression, Name, names


@dataclass(frozen=True)
class Signature:
    """Names of all that a layer of a cell takes and gives.

    states      tensors (1, B, width) before the first step and after the last; the output first
    parameters  (rows, columns), or (width,), without time; those that fixed lines make among them
    masks       (B, width), the same at all steps
    inputs      beside x, one for each step
    kept        what the way back reads of the way forward, beside the output
    """

    states: tuple[str, ...]
    output: str
    parameters: tuple[str, ...]
    masks: tuple[str, ...]
    inputs: tuple[str, ...]
    kept: tuple[Expression, ...]

    @staticmethod
    @lru_cache
    def of(cell: Cell) -> "Signature":
        sheet, found = cell.sheet, cell.derivation
        read = dict.fromkeys(n.name for line in found.steps for n in names(line.value) if n.step is None)
        kinds = {name: sheet.given[name].kind for name in read if name in sheet.given}
        output = Name(sheet.output, 0)
        return Signature(
            sheet.states,
            sheet.output,
            tuple(name for name in read if kinds.get(name) not in ("constant", "rows", "drop")),
            tuple(name for name in read if kinds.get(name) in ("rows", "drop")),
            tuple(sheet.inputs[1:]),
            tuple(e for e in found.kept if e != output),
        )


class Part(NamedTuple):
    """Of a tensor, by its position, one of so many blocks of equal length along its first axis."""

    tensor: int
    block: int = 0
    blocks: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """A view."""
        return tensor if self.blocks == 1 else tensor.tensor_split(self.blocks)[self.block]


@dataclass(frozen=True, eq=False)
class Layout:
    """How the parameters of a cell lie in the tensors of a module.

    names       of the tensors
    made_of     for each parameter the parts of tensors whose sum it is
    transposed  whether matrices are (columns, rows)
    """

    names: tuple[str, ...]
    made_of: dict[str, tuple[Part, ...]]
    transposed: bool

    @staticmethod
    @lru_cache
    def of(cell: Cell, *, as_torch: bool = False) -> "Layout":
        """That of the sheet, a tensor for each parameter, or that of torch's module for this cell."""
        named = {name: TORCH[name] if as_torch else ((name, 0, 1),) for name in Signature.of(cell).parameters}
        of_module = [tensor for parts in TORCH.values() for tensor, *_ in parts] if as_torch else named
        there = {tensor for parts in named.values() for tensor, *_ in parts}
        tensors = tuple(tensor for tensor in dict.fromkeys(of_module) if tensor in there)
        return Layout(
            tensors,
            {name: tuple(Part(tensors.index(tensor), *at) for tensor, *at in parts) for name, parts in named.items()},
            as_torch,
        )

    def turned(self, tensor: Tensor) -> Tensor:
        """From the sheet's layout to the module's, and back."""
        return tensor.mT if self.transposed and tensor.dim() == 2 else tensor

    def laid_out(self, of_parameters: dict[str, Tensor]) -> dict[Part, Tensor]:
        """The gradient of each part of a tensor, from those of the parameters."""
        return {
            part: self.turned(gradient) for name, gradient in of_parameters.items() for part in self.made_of[name]
        }  # fmt: skip

    def joined(self, of_parameters: dict[str, Tensor]) -> list[Tensor]:
        """The gradient of each tensor, from those of all parameters."""
        found, parts = self.laid_out(of_parameters), sorted(part for parts in self.made_of.values() for part in parts)
        of_tensors = [[found[part] for part in parts if part.tensor == k] for k in range(len(self.names))]
        return [blocks[0] if len(blocks) == 1 else torch.cat(blocks) for blocks in of_tensors]

    def parameters_in(self, is_asked: Sequence[bool]) -> set[str]:
        """Those of which something lies in the tensors that are asked for."""
        return {name for name, parts in self.made_of.items() if any(is_asked[part.tensor] for part in parts)}


@dataclass(slots=True)
class Weights:
    """The tensors of a layer in the order of its layout. On the way back those that it does not read may be None."""

    layout: Layout
    tensors: Sequence[Tensor | None]

    def by_name(self) -> dict[str, Tensor]:
        """The parameters as the sheet names them and lays them out: views, or sums. Without those that are None."""
        found = {}
        for name, places in self.layout.made_of.items():
            parts = [part.of(tensor) for part in places if (tensor := self.tensors[part.tensor]) is not None]
            if parts:
                found[name] = self.layout.turned(parts[0] if len(parts) == 1 else parts[0] + parts[1])
        return found


@dataclass(slots=True)
class Made:
    """y     the output of all steps
    last    of each state the last value of every row, (1, B, ·): its first for a row without steps
    kept    arrays of all steps, one for each of `Signature.kept`
    values  every value of side A at all steps by its name, where it was asked for
    """

    y: Tensor
    last: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    values: dict[str, Tensor] | None = None


@dataclass(slots=True)
class Gradients:
    """Arrays that receive gradients; None is not asked for.

    x           laid out as x
    first       (1, B, ·), one for each state
    weights     laid out as the tensors of the layer's `Weights`
    inputs      one for each of `Signature.inputs`
    cotangents  a dict that receives the total ∂L/∂ of every value of side A at all steps
    norms       a dict that receives ‖∂L/∂‖² of the output and of each state, a number for each row of all steps
    accumulate  those of the weights go on from what their arrays hold
    """

    x: Tensor | None
    first: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]
    inputs: Sequence[Tensor | None] = ()
    cotangents: dict[str, Tensor] | None = None
    norms: dict[str, Tensor] | None = None
    accumulate: bool = False

    def receive(self, layout: Layout, of_parameters: dict[str, Tensor]) -> None:
        """Those of the parameters, by their names, go to the arrays of the weights."""
        for part, gradient in layout.laid_out(of_parameters).items():
            whole = self.weights[part.tensor]
            if whole is not None:
                array = part.of(whole)
                array.add_(gradient) if self.accumulate else array.copy_(gradient)


class Engine(Protocol):
    """Modules with these functions are engines: `bptt.engine.reference`, `bptt.engine.native`."""

    def forward(
        self,
        cell: Cell,
        weights: Weights,
        x: Tensor,
        first: Sequence[Tensor | None],
        steps: Steps,
        extras: Sequence[Tensor] = (),
        *,
        out: Tensor | None = None,
        values: bool = False,
        keep: bool = True,
    ) -> Made:
        """first: (1, B, ·) of each state, None being zero. extras: the masks, then the inputs. out: receives y. Without
        keep there is no way back, and nothing may be kept for it.

        Raises IndexError for tokens outside the rows of their matrix, TypeError or ValueError for arrays that do not
        belong together.
        """
        ...

    def backward(
        self,
        cell: Cell,
        weights: Weights,
        made: Made,
        x: Tensor,
        first: Sequence[Tensor | None],
        steps: Steps,
        dy: Tensor | None,
        d_last: Sequence[Tensor | None],
        into: Gradients,
        extras: Sequence[Tensor] = (),
    ) -> None:
        """Writes every gradient for which `into` has an array. dy and d_last are the cotangents of y and last, None
        being zero."""
        ...

    def rows_of_a_block(self, H: int) -> int:
        """Weight gradients are summed over blocks of time, cut from where the walk begins, each the fewest steps that
        have at least so many rows; H is the width of the widest state. Calls that walk whole blocks one after the
        other, with `accumulate`, give the bits of a single call on `native`, and the same to rounding on `reference`.
        """
        ...


def sizes_of(
    cell: Cell, weights: Weights, x: Tensor, first: Sequence[Tensor | None], extras: Sequence[Tensor] = ()
) -> dict[str, int]:
    """The lengths of the axes of a layer: those of the sheet ("1", "I", "H", ...), as far as these tensors have them.

    Raises ValueError for a tensor with another number of axes.
    """
    tensors, found = (x, *first, *weights.tensors, *extras), {"1": 1}
    for size, places in places_of_sizes(cell, weights.layout):
        length = length_at(places, tensors)
        if length is not None:
            found[size] = length
    return found


class Place(NamedTuple):
    """Where the length of a size is: which tensor of x, the first states, the weights and the extras, which of its
    axes, how many it has (0 where that is free), its name, and how often it goes into that axis."""

    tensor: int
    axis: int
    axes: int
    name: str
    times: int = 1


def length_at(places: Sequence[Place], tensors: Sequence[Tensor | None]) -> int | None:
    """As the first of these tensors that is there has it; x may be tokens, which say nothing.

    Raises ValueError for a tensor with another number of axes.
    """
    for k, axis, axes, name, times in places:
        tensor = tensors[k] if k < len(tensors) else None
        if tensor is not None and (k or tensor.is_floating_point()):
            shape = tensor.shape
            if len(shape) != axes and (axes or not shape):
                raise ValueError(f"`{name}` must have {axes or 3} axes; got shape {tuple(shape)}")
            return shape[axis] // times
    return None


@lru_cache
def places_of_sizes(cell: Cell, layout: Layout) -> tuple[tuple[str, tuple[Place, ...]], ...]:
    """For each size of the sheet but "1" where its length is. x comes last, for it may be tokens."""
    sheet, signature = cell.sheet, Signature.of(cell)
    states, extras = signature.states, signature.masks + signature.inputs
    found: dict[str, list[Place]] = {}
    for name, parts in layout.made_of.items():
        widths = sheet.shapes.get(name) or (sheet.widths[name],)
        for axis, width in enumerate(widths[::-1] if layout.transposed else widths):
            for k, _, blocks in parts:
                place = Place(1 + len(states) + k, axis, len(widths), layout.names[k], 1 if axis else blocks)
                found.setdefault(width, []).append(place)
    others = [(1 + k, name, f"first {name}") for k, name in enumerate(states)]
    others += [(1 + len(states) + len(layout.names) + k, name, name) for k, name in enumerate(extras)]
    for k, name, called in [*others, (0, "x", "x")]:
        found.setdefault(sheet.widths[name], []).append(Place(k, -1, 0, called))
    return tuple((size, tuple(places)) for size, places in found.items() if size != "1")


@lru_cache
def read_by_side_b(cell: Cell, layout: Layout, needed: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which tensors of a layer the way back reads: of x, the first states, the weights and the extras.

    needed: whether the gradient of each of them is asked for.
    """
    signature, found = Signature.of(cell), cell.derivation
    states, tensors = len(signature.states), len(layout.names)
    first, weights, extras = needed[1 : 1 + states], needed[1 + states :][:tensors], needed[1 + states + tensors :]
    wanted = layout.parameters_in(weights)
    wanted |= {name for name, need in zip(signature.masks + signature.inputs, extras, strict=True) if need}
    wanted |= {"x"} if needed[0] else set()
    values = {line.name for line in found.steps}
    again = [line.value for line in found.steps if line.name in found.made_again]
    read = {(n.name, n.step) for value in again for n in names(value)}
    for (name, step), uses in found.uses.items():
        if step == -1 or name in values or name in wanted:
            read |= {(n.name, n.step) for use in uses if use.line.step is not None for n in names(use.value)}
    of_weights = [False] * tensors
    for name, parts in layout.made_of.items():
        for part in parts:
            of_weights[part.tensor] |= (name, None) in read
    return (
        ("x", 0) in read,
        *((name, -1) in read or need for name, need in zip(signature.states, first, strict=True)),
        *of_weights,
        *((name, None) in read for name in signature.masks),
        *((name, 0) in read for name in signature.inputs),
    )
