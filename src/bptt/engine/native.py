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
from bptt.engine.arrays import check_sizes, readable
from bptt.engine.contract import Gradients, Made, Signature, Weights
from bptt.engine.evaluation import key_of
from bptt.engine.lowering import Program
from bptt.engine.steps import Steps
from bptt.sheet import Cell

INSTRUCTION_SET: str = _native.instruction_set
LARGE = 2 << 20
"""Bytes of an array for which large pages are asked."""


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
    length, like, B = program.lengths(given), _like(weights, x), steps.B
    last = [like.new_empty(1, B, length[size]) for size in program.last]
    width_of_output, *widths = [length[size] for size in program.made.values()]
    made = [_fresh(like, steps, width_of_output) if out is None else out]
    made += [_lent(like, steps, width) for width in widths]
    run(program, [*given, *last, *made], length, steps, like.dtype)
    y, *rest = made
    if not values:
        return Made(y, tuple(last), tuple(rest))
    by_name = dict(zip(program.made, made, strict=True))
    kept = tuple([by_name[key_of(e)] for e in Signature.of(cell).kept]) if keep else ()
    return Made(y, tuple(last), kept, {line.name: by_name[line.name] for line in cell.derivation.steps})


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
        norms=into.norms is not None,
    )
    given = [x, *first, *weights.tensors, *extras]
    length = program.lengths(given)
    given += [made.y, *made.kept, dy, *d_last, dx[0], *into.first, *into.weights, *dx[1:]]
    told = {key: _fresh(made.y, steps, length[size]) for key, size in program.made.items()}
    given += told.values()
    if into.cotangents is not None:
        into.cotangents.update({key[1:]: d for key, d in told.items() if key.startswith("∂")})
    if into.norms is not None:
        into.norms.update({key[2:-2]: d for key, d in told.items() if key.startswith("‖")})
    run(program, given, length, steps, made.y.dtype, accumulate=into.accumulate)


def run(
    program: Program,
    given: Sequence[Tensor | None],
    length: list[int],
    steps: Steps,
    dtype: torch.dtype,
    *,
    accumulate: bool = False,
) -> None:
    """Runs a program on the tensors of a call; copies those that the engine cannot read as they lie.

    length  of each size of the program

    Raises TypeError or ValueError for arrays that do not belong together, IndexError for tokens outside their matrix.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the compiled engine takes float32 and float64; got {dtype}")
    tensors, threads, is_double = [given[k] for k in program.order], torch.get_num_threads(), dtype is torch.float64
    for _ in range(len(tensors) + 1):
        unfit = _native.run(
            program.code, is_double, tensors, steps.T, steps.B, steps.sizes, steps.reverse, length, accumulate, threads
        )
        if unfit < 0:
            return
        tensors[unfit] = readable(program.takes[unfit], tensors[unfit], length, steps, dtype)
    raise AssertionError(f"the engine cannot read these as they are: {program.takes}")


def rows_of_a_block(H: int) -> int:
    return _native.rows_of_a_block(H)


def _like(weights: Weights, x: Tensor) -> Tensor:
    for tensor in weights.tensors:
        if tensor is not None:
            return tensor
    return x


def _lent(like: Tensor, steps: Steps, width: int) -> Tensor:
    """An array of all steps in memory that the engine takes back, for the next call to use, when nobody holds it."""
    return torch.from_dlpack(_native.lent([*steps.rows, width], like.itemsize))


def _fresh(like: Tensor, steps: Steps, width: int) -> Tensor:
    """An array of all steps."""
    array = like.new_empty(*steps.rows, width)
    if array.nbytes >= LARGE:
        _native.prefer_large_pages(array.data_ptr(), array.nbytes)
    return array
