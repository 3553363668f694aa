# Arrays are addresses (`Tensor.data_ptr()`); 0 stands for an array that is not there. Shapes: native/contract.hpp.
import enum

instruction_set: str

class Activation(enum.Enum):
    tanh = 0
    relu = 1
    sigmoid = 2
    identity = 3

def forward_sweep_float32(
    T: int,
    B: int,
    H: int,
    batch_sizes: int,
    reverse: bool,
    activation: Activation,
    W_hh: int,
    W_hh_row_stride: int,
    W_hh_column_stride: int,
    a: int,
    h0: int,
    h: int,
    total: int,
) -> None: ...
def forward_sweep_float64(
    T: int,
    B: int,
    H: int,
    batch_sizes: int,
    reverse: bool,
    activation: Activation,
    W_hh: int,
    W_hh_row_stride: int,
    W_hh_column_stride: int,
    a: int,
    h0: int,
    h: int,
    total: int,
) -> None: ...
def backward_sweep_float32(
    T: int,
    B: int,
    H: int,
    batch_sizes: int,
    reverse: bool,
    activation: Activation,
    W_hh: int,
    W_hh_row_stride: int,
    W_hh_column_stride: int,
    dh: int,
    h: int,
    da: int,
    dh0: int,
    total: int,
) -> None: ...
def backward_sweep_float64(
    T: int,
    B: int,
    H: int,
    batch_sizes: int,
    reverse: bool,
    activation: Activation,
    W_hh: int,
    W_hh_row_stride: int,
    W_hh_column_stride: int,
    dh: int,
    h: int,
    da: int,
    dh0: int,
    total: int,
) -> None: ...
def activate_float32(activation: Activation, a: int, h: int, count: int) -> None: ...
def activate_float64(activation: Activation, a: int, h: int, count: int) -> None: ...
