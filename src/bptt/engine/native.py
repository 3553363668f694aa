"""The two sweeps in C++, and around them the whole layer: float32 and float64 on the CPU.

`forward_sweep` and `backward_sweep` follow the contract of `bptt.engine`. `forward_layer` and `backward_layer` also do
what surrounds a sweep: the input's share of A2, and B8, B9, B10 and the ∂x of B11, one block of time after the other
while its numbers are in the cache. The engine is in native/, its contract in native/contract.hpp.

This file is the only caller of `_native`. It checks every array once, then hands over bare addresses, because
an exchange by DLPack for each array costs more than a short sweep. What is checked here keeps the C++ side from reading
beyond an array: shapes, and that the storage reaches as far (resizing a storage, as FSDP does, leaves the shape).
Inputs that are not contiguous are copied, and those that torch keeps negated are resolved; weights and their gradients
may have any strides, so torch's transposed weights are read and written where they lie.

The number of threads is `torch.get_num_threads()`; results do not depend on it. The instruction set is the best this
processor has, or the one named by the environment variable BPTT_ISA (avx512, avx2, baseline), read at import.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bptt.engine import _native, activations, packing

INSTRUCTION_SET: str = _native.instruction_set

_PRECISIONS = {torch.float32: _native.float32, torch.float64: _native.float64}
_ACTIVATIONS = {name: _native.Activation[name] for name in activations.ACTIVATIONS}


def forward_sweep(
    a: Tensor,
    W_hh: Tensor,
    h0: Tensor,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    precision = precision_of("h0", h0.dtype)
    B, H = _batch_and_width("h0", h0)
    T, sizes, rows = steps_of("a", a, batch_sizes, B)
    a = require("a", a, h0.dtype, (*rows, H))
    h0 = require("h0", h0, h0.dtype, (B, H))
    W_hh = require("W_hh", W_hh, h0.dtype, (H, H), strided=True)
    h = _output("out", out, h0, _with_h0(rows, B, H))
    if total is not None:
        require_output("total", total, h0.dtype, (*rows, H))
    packing.of_h0(h, B, batch_sizes, reverse).copy_(h0)
    precision.forward_sweep(
        T,
        B,
        H,
        address(sizes),
        reverse,
        activation_of(activation),
        *matrix(W_hh),
        address(a),
        address(h0),
        address(packing.of_steps(h, B, batch_sizes, reverse)),
        address(total),
        torch.get_num_threads(),
    )
    return h


def backward_sweep(
    dh: Tensor,
    h: Tensor,
    W_hh: Tensor,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    precision = precision_of("h", h.dtype)
    B, H = _batch_and_width_of_states(h, dh, packed=batch_sizes is not None)
    T, sizes, rows = steps_of("dh", dh, batch_sizes, B)
    dh = require("dh", dh, h.dtype, (*rows, H))
    h = require("h", h, h.dtype, _with_h0(rows, B, H))
    W_hh = require("W_hh", W_hh, h.dtype, (H, H), strided=True)
    da = _output("out", out, h, (*rows, H))
    if total is not None:
        require_output("total", total, h.dtype, (*rows, H))
    dh0 = h.new_empty(B, H)
    precision.backward_sweep(
        T,
        B,
        H,
        address(sizes),
        reverse,
        activation_of(activation),
        *matrix(W_hh),
        address(dh),
        address(packing.of_steps(h, B, batch_sizes, reverse)),
        address(da),
        address(dh0),
        address(total),
        torch.get_num_threads(),
    )
    return da, dh0


def forward_layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor | None,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    h_n: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """The states of all steps (T, B, H), packed (N, H): `forward_sweep` with the input's share of A2, without h0.

    x          (T, B, I), packed (N, I), or integer tokens (T, B), packed (N,)
    h0         (1, B, H); None is zero, and B then comes from x or, packed, from batch_sizes
    weight_ih  (H, I), weight_hh (H, H), bias_ih and bias_hh (H) or None: parameters as torch.nn.RNN holds them.
               Without weight_hh nothing goes from step to step
    h_n        (1, B, H), receives the last state of every row

    Raises IndexError for tokens outside [0, I).
    """
    dtype = weight_ih.dtype
    precision = precision_of("weight_ih", dtype)
    H, I = _width_and_inputs(weight_ih)
    B = packing.rows_of_batch(x, batch_sizes) if h0 is None else h0.shape[-2]
    T, sizes, rows = steps_of("x", x, batch_sizes, B)
    x, tokens = _input(x, dtype, rows, I)
    weight_ih = require("weight_ih", weight_ih, dtype, (H, I), strided=True)
    if weight_hh is not None:
        weight_hh = require("weight_hh", weight_hh, dtype, (H, H), strided=True)
    if h0 is not None:
        h0 = require("h0", h0, dtype, (1, B, H))
    if bias_ih is not None:
        bias_ih = require("bias_ih", bias_ih, dtype, (H,))
    if bias_hh is not None:
        bias_hh = require("bias_hh", bias_hh, dtype, (H,))
    h = _output("out", out, weight_ih, (*rows, H))
    if h_n is not None:
        require_output("h_n", h_n, dtype, (1, B, H))
    if total is not None:
        require_output("total", total, dtype, (*rows, H))
    precision.forward_layer(
        T,
        B,
        I,
        H,
        address(sizes),
        reverse,
        activation_of(activation),
        0 if tokens else address(x),
        address(x) if tokens else 0,
        *_transposed(weight_ih),
        *_transposed(weight_hh),
        address(bias_ih),
        address(bias_hh),
        address(h0),
        address(h),
        address(h_n),
        address(total),
        torch.get_num_threads(),
    )
    return h


def backward_layer(
    dh: Tensor | None,
    dh_n: Tensor | None,
    h: Tensor,
    h0: Tensor | None,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    dx: Tensor | None = None,
    dweight_ih: Tensor | None = None,
    dweight_hh: Tensor | None = None,
    dbias: Tensor | None = None,
    dh0: Tensor | None = None,
    da: Tensor | None = None,
    total: Tensor | None = None,
    accumulate: bool = False,
) -> None:
    """Every gradient of `forward_layer` for which an array is given, written to that array.

    dh          cotangent of the states of the steps, like the a of `forward_sweep`; None is zero
    dh_n        (1, B, H) cotangent of the last state of each row; None is zero
    h           what `forward_layer` returned; h0 and x as it took them
    dweight_ih  (H, I), dweight_hh (H, H); any strides
    dbias       (H), the gradient of either bias; dh0 (1, B, H)
    da          the ∂a_t of B7, total the whole ∂h_t of B6; both may be `dh` itself
    accumulate  the gradients of weights and bias go on from what their arrays hold (`rows_of_a_block`)

    Raises IndexError for tokens that are outside [0, I) by now.
    """
    dtype = h.dtype
    precision = precision_of("h", dtype)
    H, I = _width_and_inputs(weight_ih)
    B = packing.rows_of_batch(x, batch_sizes) if h0 is None else h0.shape[-2]
    T, sizes, rows = steps_of("x", x, batch_sizes, B)
    x, tokens = _input(x, dtype, rows, I)
    h = require("h", h, dtype, (*rows, H))
    if h0 is not None:
        h0 = require("h0", h0, dtype, (1, B, H))
    weight_ih = require("weight_ih", weight_ih, dtype, (H, I), strided=True)
    if weight_hh is not None:
        weight_hh = require("weight_hh", weight_hh, dtype, (H, H), strided=True)
    elif dh_n is not None or dh0 is not None:
        raise ValueError("`dh_n` and `dh0` need `weight_hh`: without it nothing goes from step to step")
    if dh is not None:
        dh = require("dh", dh, dtype, (*rows, H))
    if dh_n is not None:
        dh_n = require("dh_n", dh_n, dtype, (1, B, H))
    if dx is not None:
        if tokens:
            raise ValueError("`dx` cannot be had: tokens have no gradient")
        require_output("dx", dx, dtype, (*rows, I))
    if dweight_ih is not None:
        require_output("dweight_ih", dweight_ih, dtype, (H, I), strided=True)
    if dweight_hh is not None:
        require_output("dweight_hh", dweight_hh, dtype, (H, H), strided=True)
    if dbias is not None:
        require_output("dbias", dbias, dtype, (H,))
    if dh0 is not None:
        require_output("dh0", dh0, dtype, (1, B, H))
    if da is not None:
        require_output("da", da, dtype, (*rows, H))
    if total is not None:
        require_output("total", total, dtype, (*rows, H))
    precision.backward_layer(
        T,
        B,
        I,
        H,
        address(sizes),
        reverse,
        activation_of(activation),
        0 if tokens else address(x),
        address(x) if tokens else 0,
        *_transposed(weight_ih),
        *_transposed(weight_hh),
        address(dh),
        address(dh_n),
        address(h),
        address(h0),
        address(da),
        address(dh0),
        address(total),
        address(dx),
        *_transposed(dweight_ih),
        *_transposed(dweight_hh),
        address(dbias),
        accumulate,
        torch.get_num_threads(),
    )


def rows_of_a_block(H: int) -> int:
    """How many rows the blocks of time have over which `backward_layer` sums; see `bptt.engine`."""
    return _native.rows_of_a_block(H)


def address(array: Tensor | None) -> int:
    """Where the numbers lie; 0 for no array, and only then or where it is empty."""
    if array is None:
        return 0
    at = array.data_ptr()
    if not at and array.numel():
        raise ValueError(
            f"the compiled sweeps read memory; got {array.dtype} of shape {tuple(array.shape)} that has none, as "
            "torch's zeros of forward-mode derivatives. Hand in a .clone() of it."
        )
    return at


def matrix(array: Tensor) -> tuple[int, int, int]:
    """Address and strides."""
    row, column = array.stride()
    return address(array), row, column


def _transposed(array: Tensor | None) -> tuple[int, int, int]:
    """Address and strides of the sheet's W, given torch's, which is its transpose."""
    if array is None:
        return 0, 0, 0
    row, column = array.stride()
    return address(array), column, row


def activation_of(name: str) -> _native.Activation:
    if name not in _ACTIVATIONS:
        activations.activation(name)  # says which there are
    return _ACTIVATIONS[name]


def precision_of(name: str, dtype: torch.dtype) -> "_native._Precision":
    precision = _PRECISIONS.get(dtype)
    if precision is None:
        raise TypeError(f"the compiled sweeps take float32 and float64; `{name}` is {dtype}")
    return precision


def _batch_and_width(name: str, array: Tensor) -> tuple[int, int]:
    if array.dim() != 2:
        raise ValueError(f"`{name}` must have shape (B, H); got {tuple(array.shape)}")
    B, H = array.shape
    return B, H


def _batch_and_width_of_states(h: Tensor, dh: Tensor, *, packed: bool) -> tuple[int, int]:
    rank = 2 if packed else 3
    if h.dim() != rank or dh.dim() != rank or len(h) < len(dh):
        shapes = "(N, H) and (B+N, H)" if packed else "(T, B, H) and (T+1, B, H)"
        raise ValueError(f"`dh` and `h` must have shapes {shapes}; got {tuple(dh.shape)} and {tuple(h.shape)}")
    return (len(h) - len(dh) if packed else h.shape[1]), h.shape[-1]


def _width_and_inputs(weight_ih: Tensor) -> tuple[int, int]:
    shape = weight_ih.shape
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"`weight_ih` must have shape (H, I) with I of at least 1; got {tuple(shape)}")
    return shape[0], shape[1]


def steps_of(
    name: str, array: Tensor, batch_sizes: Sequence[int] | None, B: int
) -> tuple[int, Tensor | None, tuple[int, ...]]:
    """How many steps there are; if packed, how many rows each has, as the C++ side reads them; the shape before H."""
    if batch_sizes is None:
        shape = array.shape
        T = shape[0] if shape else 0
        return T, None, (T, B)
    sizes = torch.as_tensor(batch_sizes, dtype=torch.int64, device="cpu").resolve_neg().contiguous()
    if len(sizes) and (int(sizes[0]) > B or int(sizes[-1]) < 0 or bool((sizes[1:] > sizes[:-1]).any())):
        raise ValueError(
            f"batch_sizes must not increase and lie in [0, {B}], the rows of h0; got {list(batch_sizes)[:10]}"
            f"{' ...' if len(batch_sizes) > 10 else ''}. Sort the sequences by length, longest first."
        )
    N = int(sizes.sum())
    if array.shape[:1] != (N,):
        raise ValueError(f"`{name}` must have sum(batch_sizes) = {N} rows; got shape {tuple(array.shape)}")
    return len(sizes), sizes, (N,)


def _with_h0(rows: tuple[int, ...], B: int, H: int) -> tuple[int, ...]:
    return (rows[0] + 1, B, H) if len(rows) == 2 else (B + rows[0], H)


def _input(x: Tensor, dtype: torch.dtype, rows: tuple[int, ...], I: int) -> tuple[Tensor, bool]:
    """x as the C++ side reads it, and whether it holds tokens."""
    if x.is_floating_point():
        return require("x", x, dtype, (*rows, I)), False
    check_storage(x=x)
    return require("x", x.to(torch.int64), torch.int64, rows), True


def require(name: str, array: Tensor, dtype: torch.dtype, shape: tuple[int, ...], *, strided: bool = False) -> Tensor:
    """The array with its numbers as they lie in memory, all within its storage; contiguous unless `strided`."""
    if array.dtype is not dtype:
        raise TypeError(f"`{name}` must be {dtype} like the other arrays; got {array.dtype}")
    if not array.is_cpu:
        raise ValueError(f"`{name}` must be on the CPU; got {array.device}")
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {tuple(array.shape)}")
    if not array.is_contiguous():
        check_storage(**{name: array})
        return array.resolve_neg() if strided else array.contiguous().resolve_neg()
    offset = array.storage_offset()  # what is usual is quick to ask
    if array.nbytes + (offset and offset * dtype.itemsize) > len(array.untyped_storage()):
        check_storage(**{name: array})
    return array.resolve_neg() if array.is_neg() else array


def check_storage(**arrays: Tensor | None) -> None:
    """Raises ValueError where an array reaches beyond its storage, which may have been freed or cut short since.

    Most operations of torch read on: this is for arrays that go through one before they come here.
    """
    for name, array in arrays.items():
        if array is None or not array.numel():
            continue
        steps = zip(array.shape, array.stride(), strict=True)
        last = array.storage_offset() + sum((size - 1) * stride for size, stride in steps)
        end, held = array.element_size() * (1 + last), len(array.untyped_storage())
        if end > held:
            raise ValueError(
                f"`{name}` of shape {tuple(array.shape)} reaches to byte {end} of its storage, which has {held}: that "
                "was freed or cut short, as FSDP does with parameters outside their module's forward and backward. Use "
                "the array while its storage is whole."
            )


def require_output(
    name: str, array: Tensor, dtype: torch.dtype, shape: tuple[int, ...], *, strided: bool = False
) -> Tensor:
    """For an array that is written in place; a `strided` one may have any strides that keep its elements apart."""
    if require(name, array, dtype, shape, strided=strided) is not array:
        if not strided and not array.is_contiguous():
            raise ValueError(f"`{name}` must be contiguous, it is written in place; got strides {array.stride()}")
        raise ValueError(f"`{name}` is written in place, and torch keeps it negated. Hand in .resolve_neg() of it.")
    if strided and not array.is_contiguous():
        reached = 0
        for stride, size in sorted(zip(array.stride(), shape, strict=True)):
            if size > 1 and stride <= reached:
                raise ValueError(
                    f"`{name}` must have a place of its own for each element, it is written in place; got strides "
                    f"{array.stride()} for shape {shape}. Hand in .contiguous() of it."
                )
            reached += (size - 1) * stride
    return array


def _output(name: str, array: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return like.new_empty(*shape) if array is None else require_output(name, array, like.dtype, shape)
