# The engine's door (native/bindings.cpp). Arrays are addresses (`Tensor.data_ptr()`), 0 for one that is not there;
# strides count elements. Shapes and meaning: native/contract.hpp, cells.hpp.
import enum
from typing import Protocol

instruction_set: str

class Activation(enum.Enum):
    tanh = 0
    relu = 1
    sigmoid = 2
    identity = 3

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
    def forward_cells(
        self,
        T: int,
        B: int,
        H: int,
        batch_sizes: int,
        reverse: bool,
        activation: Activation,
        leak: float,
        residual: bool,
        mask: int,
        norm_weight: int,
        norm_bias: int,
        epsilon: float,
        W_hh: int,
        W_hh_row: int,
        W_hh_column: int,
        a: int,
        h0: int,
        h: int,
        f: int,
        normalised: int,
        scale: int,
        threads: int,
        /,
    ) -> None: ...
    def backward_cells(
        self,
        T: int,
        B: int,
        H: int,
        batch_sizes: int,
        reverse: bool,
        activation: Activation,
        leak: float,
        residual: bool,
        mask: int,
        norm_weight: int,
        norm_bias: int,
        epsilon: float,
        W_hh: int,
        W_hh_row: int,
        W_hh_column: int,
        dh: int,
        f: int,
        normalised: int,
        scale: int,
        da: int,
        dz: int,
        dh0: int,
        threads: int,
        /,
    ) -> None: ...
    def activate(self, activation: Activation, a: int, h: int, count: int, /) -> None: ...

def rows_of_a_block(H: int, /) -> int: ...

float32: _Precision
float64: _Precision
