"""The compiled engine: any cell on the CPU in float32 and float64.

A whole layer is one call each way: a program, made from the equations of the cell (`programs`), is run at every step.
The engine is in native/, which begins with native/contract.hpp.

The number of threads is `torch.get_num_threads()`; results do not depend on it. The instruction set is the best this
processor has, or the one named by the environment variable BPTT_ISA (avx512, avx2, baseline), read at import.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bptt.engine import _native, programs
from bptt.engine.arrays import check_sizes, readable, require_output
from bptt.engine.contract import Gradients, Made, Signature, Weights
from bptt.engine.evaluation import key_of
from bptt.engine.programs import Program
from bptt.engine.steps import Steps
from bptt.sheet import Cell

INSTRUCTION_SET: str = _native.instruction_set
LARGE = 2 << 20
"""Bytes of an array for which large pages are asked."""
_RUN = {torch.float32: _native.run_float32, torch.float64: _native.run_float64}


def forward(
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
    if steps.sizes is not None:
        steps = steps._replace(sizes=check_sizes("x", x, steps))
    program = programs.forward(cell, weights.layout, every_value=values, keep=keep)
    given = [x, *first, *weights.tensors, *extras]
    length, like, rows, B = lengths(program, given), _like(weights, x), steps.rows, steps.B
    y = _fresh(like, *rows, length[program.output]) if out is None else out
    last = tuple([like.new_empty(1, B, length[size]) for size in program.last])
    made = [_fresh(like, *rows, length[size]) for size in program.made.values()]
    run(program, [*given, y, *last, *made], length, steps, like.dtype)
    if not values:
        return Made(y, last, tuple(made))
    by_name = dict(zip(program.made, made, strict=True)) | {cell.sheet.output: y}
    kept = tuple([by_name[key_of(e)] for e in Signature.of(cell).kept]) if keep else ()
    return Made(y, last, kept, {line.name: by_name[line.name] for line in cell.derivation.steps})


def backward(
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
    if steps.sizes is not None:
        steps = steps._replace(sizes=check_sizes("x", x, steps))
    layout, dx = weights.layout, (into.x, *(into.inputs or [None] * len(Signature.of(cell).inputs)))
    program = programs.backward(
        cell,
        layout,
        tuple([d is not None for d in into.weights]),
        tuple([d is not None for d in dx]),
        every_value=into.cotangents is not None,
    )
    given = [x, *first, *weights.tensors, *extras, made.y, *made.kept, dy, *d_last]
    length = lengths(program, given)
    given += [dx[0], *into.first, *into.weights, *dx[1:]]
    if into.cotangents is not None:
        values = {name: _fresh(made.y, *steps.rows, length[size]) for name, size in program.made.items()}
        into.cotangents.update({name.removeprefix("∂"): d for name, d in values.items()})
        given += values.values()
    run(program, given, length, steps, made.y.dtype, accumulate=into.accumulate)
    for position, of in programs.same_gradients(layout):
        array, other = into.weights[position], into.weights[of]
        if array is not None and other is not None:
            if not into.own:
                require_output(f"∂{layout.names[position]}", array, other.dtype, tuple(other.shape))
            array.copy_(other)


def lengths(program: Program, given: Sequence[Tensor | None]) -> list[int]:
    """Of each size of the program its length in the tensors of a call."""
    found = [1]
    for places in program.lengths:
        for k, axis, axes in places:
            tensor = given[k]
            if tensor is not None and (k or tensor.is_floating_point()):
                shape = tensor.shape
                if (axes and len(shape) != axes) or not shape:
                    raise ValueError(f"`{program.call[k]}` must have {axes or 3} axes; got shape {tuple(shape)}")
                found.append(shape[axis])
                break
        else:
            raise ValueError("the sizes of the cell cannot be known from the tensors that are given")
    return found


def run(
    program: Program,
    given: Sequence[Tensor | None],
    length: list[int],
    steps: Steps,
    dtype: torch.dtype,
    *,
    accumulate: bool = False,
) -> None:
    """A program on the tensors of a call. Those that the engine cannot read as they are are made such.

    Raises TypeError or ValueError for arrays that do not belong together, IndexError for tokens outside their matrix.
    """
    engine = _RUN.get(dtype)
    if engine is None:
        raise TypeError(f"the compiled engine takes float32 and float64; got {dtype}")
    tensors = [given[k] for k in program.order]
    threads = torch.get_num_threads()
    for _ in range(len(tensors) + 1):
        unfit = engine(
            program.code, tensors, steps.T, steps.B, steps.sizes, steps.reverse, length, accumulate, threads
        )  # fmt: skip
        if unfit < 0:
            return
        tensors[unfit] = readable(program, unfit, tensors[unfit], length, steps, dtype)
    raise AssertionError(f"the engine cannot read {program.names} as they are")


def rows_of_a_block(H: int) -> int:
    return _native.rows_of_a_block(H)


def _like(weights: Weights, x: Tensor) -> Tensor:
    for tensor in weights.tensors:
        if tensor is not None:
            return tensor
    return x


def _fresh(like: Tensor, *shape: int) -> Tensor:
    array = like.new_empty(*shape)
    if array.nbytes >= LARGE:
        _native.prefer_large_pages(array.data_ptr(), array.nbytes)
    return array
