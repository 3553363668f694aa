# The engine's door (native/bindings.cpp). Arrays are addresses (`Tensor.data_ptr()`), 0 for one that is not there;
# strides count elements. Shapes and meaning: native/contract.hpp, program.hpp, dense.hpp.
import enum
from collections.abc import Sequence
from typing import Protocol

instruction_set: str

class Activation(enum.Enum):
    tanh = 0
    relu = 1
    sigmoid = 2
    identity = 3

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
    tanh = 15
    sigmoid = 16
    relu = 17
    exp = 18
    log = 19
    sqrt = 20
    softplus = 21
    abs = 22
    sign = 23
    larger = 24
    smaller = 25
    where_positive = 26
    where_at_least = 27
    where_below = 28
    where_inside = 29

class Program:
    """native/program.hpp. Raises ValueError where a number points nowhere or sizes do not belong together."""

    def __init__(
        self,
        slots: Sequence[tuple[int, int, int]],
        groups: Sequence[int],
        instructions: Sequence[tuple[Operation, int, Sequence[int]]],
        weights: Sequence[tuple[int, int, Sequence[int]]],
        products: Sequence[Sequence[tuple[int, int]]],
        carried: Sequence[tuple[int, int, int, int]],
        vectors: Sequence[int],
        arrays: Sequence[int],
        rows: Sequence[int],
        matrices: int,
        sizes: int,
        /,
    ) -> None: ...

class _Precision(Protocol):
    def address(self, tensor: object, shape: tuple[int, ...], /) -> int:
        """Of a contiguous tensor of this dtype and shape, whole in its storage on the CPU; 0 for any other."""

    def forward_layer(
        self,
        T: int,
        B: int,
        I: int,
        H: int,
        batch_sizes: int,
        reverse: bool,
        activation: Activation,
        x: int,
        tokens: int,
        W_xh: int,
        W_xh_row: int,
        W_xh_column: int,
        W_hh: int,
        W_hh_row: int,
        W_hh_column: int,
        b_ih: int,
        b_hh: int,
        h0: int,
        h: int,
        h_n: int,
        total: int,
        threads: int,
        /,
    ) -> None: ...
    def backward_layer(
        self,
        T: int,
        B: int,
        I: int,
        H: int,
        batch_sizes: int,
        reverse: bool,
        activation: Activation,
        x: int,
        tokens: int,
        W_xh: int,
        W_xh_row: int,
        W_xh_column: int,
        W_hh: int,
        W_hh_row: int,
        W_hh_column: int,
        dh: int,
        dh_n: int,
        h: int,
        h0: int,
        da: int,
        dh0: int,
        total: int,
        dx: int,
        dW_xh: int,
        dW_xh_row: int,
        dW_xh_column: int,
        dW_hh: int,
        dW_hh_row: int,
        dW_hh_column: int,
        db: int,
        accumulate: bool,
        threads: int,
        /,
    ) -> None: ...
    def run(
        self,
        program: Program,
        T: int,
        B: int,
        batch_sizes: int,
        reverse: bool,
        back: bool,
        sizes: Sequence[int],
        arrays: Sequence[tuple[int, int, int]],
        rows: Sequence[int],
        vectors: Sequence[int],
        matrices: Sequence[tuple[int, int, int]],
        threads: int,
        /,
    ) -> None: ...
    def multiply(
        self,
        rows: int,
        columns: int,
        terms: Sequence[tuple[int, tuple[int, int, int], tuple[int, int, int]]],
        start: int,
        to: tuple[int, int, int],
        threads: int,
        /,
    ) -> None: ...
    def sum_up(
        self,
        rows: int,
        columns: int,
        lefts: Sequence[tuple[int, int, int, tuple[int, int, int]]],
        right: tuple[int, int, int],
        total: int,
        threads: int,
        /,
    ) -> None: ...

def prefer_large_pages(at: int, bytes: int, /) -> None: ...
def rows_of_a_block(H: int, /) -> int: ...

float32: _Precision
float64: _Precision
