# The engine's door (native/bindings.cpp). Records are tuples; their fields, and what they mean: native/program.hpp.
import enum
from collections.abc import Sequence
from typing import Any

import typing_extensions

instruction_set: str

class Operation(enum.Enum):
    load = 0
    previous = 1
    store = 2
    product = 3
    add_product = 4
    sum = 5
    mean = 6
    largest = 7
    copy = 8
    negative = 9
    add = 10
    subtract = 11
    multiply = 12
    divide = 13
    square = 14
    multiply_add = 15
    multiply_subtract = 16
    through_tanh = 17
    through_sigmoid = 18
    tanh = 19
    sigmoid = 20
    relu = 21
    exp = 22
    log = 23
    sqrt = 24
    softplus = 25
    abs = 26
    sign = 27
    larger = 28
    smaller = 29
    where_positive = 30
    where_at_least = 31
    where_below = 32
    where_inside = 33

Terms = Sequence[tuple[int, int]]

class Program:
    """native/program.hpp. Raises ValueError where a number points nowhere or sizes do not belong together."""

    def __init__(
        self,
        *,
        back: bool,
        sizes: int,
        slots: Sequence[tuple[int, int, int]],
        groups: Sequence[tuple[int, bool]],
        instructions: Sequence[tuple[Operation, int, Sequence[int]]],
        weights: Sequence[tuple[int, int, Sequence[int]]],
        products: Sequence[Terms],
        ahead: Sequence[tuple[int, Sequence[Sequence[int]], Terms]],
        carried: Sequence[tuple[int, int, int, int]],
        gradients: Sequence[tuple[int, bool, int, int, int]],
        after: Sequence[tuple[int, Terms]],
        numbers: Sequence[tuple[float, int]],
        vectors: Sequence[tuple[int, int, int]],
        arrays: Sequence[tuple[int, bool]],
        rows: Sequence[int],
        matrices: Sequence[tuple[int, int, bool, int, int]],
        results: Sequence[tuple[int, int, bool, int, int]],
    ) -> None: ...

def run(
    program: Program,
    is_double: bool,
    tensors: list[Any],
    T: int,
    B: int,
    batch_sizes: Sequence[int] | None,
    reverse: bool,
    lengths: Sequence[int],
    accumulate: bool,
    threads: int,
) -> int:
    """Runs a program on tensors of float32, or float64 where is_double, in the order of its arrays, rows, vectors,
    matrices and results; lengths of its sizes. None is an array that is not there. The place of the first tensor that
    it cannot read as it is; -1 when it has run.

    Raises IndexError for tokens outside of their matrix, ValueError for what the program does not take.
    """

def lent(shape: Sequence[int], bytes: int) -> typing_extensions.CapsuleType: ...
def prefer_large_pages(at: int, bytes: int) -> None: ...
def rows_of_a_block(H: int) -> int: ...
