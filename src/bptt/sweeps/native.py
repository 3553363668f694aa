"""The two sweeps in C++, and around them the whole layer: float32 and float64 on the CPU.

`forward_sweep` and `backward_sweep` follow the contract of `bptt.sweeps`. `forward_layer` and `backward_layer` also do
what surrounds a sweep: the input's share of A2, and B8, B9, B10 and the ∂x of B11, one block of time after the other
while its numbers are in the cache. The engine is in native/, its contract in native/contract.hpp.

This file is the only caller of `bptt._native`. It checks every array once, then hands over bare addresses, because
an exchange by DLPack for each array costs more than a short sweep. What is checked here keeps the C++ side from reading
beyond an array. Inputs that are not contiguous are copied; weights and their gradients may have any strides, so torch's
transposed weights are read and written where they lie.

The number of threads is `torch.get_num_threads()`; results do not depend on it. The instruction set is the best this
processor has, or the one named by the environment variable BPTT_ISA (avx512, avx2, baseline), read at import.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bptt import _native
from bptt.activations import activation as named

INSTRUCTION_SET: str = _native.instruction_set

_PRECISIONS = {torch.float32: _native.float32, torch.float64: _native.float64}
_ACTIVATIONS = {name: _native.Activation[name] for name in ("tanh", "relu", "sigmoid", "identity")}


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
    precision = _precision("h0", h0)
    B, H = _batch_and_width("h0", h0)
    T, sizes, rows = _steps("a", a, batch_sizes, B)
    _require("a", a, h0.dtype, (*rows, H))
    _require("W_hh", W_hh, h0.dtype, (H, H))
    h = _output("out", out, h0.dtype, _with_h0(rows, B, H))
    _output_or_none("total", total, h0.dtype, (*rows, H))
    a, h0 = a.contiguous(), h0.contiguous()
    precision.forward_sweep(
        T,
        B,
        H,
        _address(sizes),
        reverse,
        _activation(activation),
        *_matrix(W_hh),
        a.data_ptr(),
        h0.data_ptr(),
        h.data_ptr(),
        _address(total),
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
    precision = _precision("h", h)
    B, H = _batch_and_width_of_states(h, dh, packed=batch_sizes is not None)
    T, sizes, rows = _steps("dh", dh, batch_sizes, B)
    _require("dh", dh, h.dtype, (*rows, H))
    _require("h", h, h.dtype, _with_h0(rows, B, H))
    _require("W_hh", W_hh, h.dtype, (H, H))
    da = _output("out", out, h.dtype, (*rows, H))
    _output_or_none("total", total, h.dtype, (*rows, H))
    dh, h = dh.contiguous(), h.contiguous()
    dh0 = h.new_empty(B, H)
    precision.backward_sweep(
        T,
        B,
        H,
        _address(sizes),
        reverse,
        _activation(activation),
        *_matrix(W_hh),
        dh.data_ptr(),
        0,
        h.data_ptr(),
        da.data_ptr(),
        dh0.data_ptr(),
        _address(total),
        torch.get_num_threads(),
    )
    return da, dh0


def forward_layer(
    x: Tensor,
    h0: Tensor | None,
    W_xh: Tensor,
    W_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """h of `forward_sweep` for a = x W_xh + b_ih + b_hh.

    x        (T, B, I), packed (N, I), or int64 tokens (T, B), packed (N,)
    h0       (B, H); None is zero, and B then comes from x or, packed, from batch_sizes
    W_xh     (I, H), W_hh (H, H); any strides
    b_ih     (H) or None, likewise b_hh

    Raises IndexError for tokens outside [0, I).
    """
    precision = _precision("W_hh", W_hh)
    I, H = _input_and_width(W_xh)
    if h0 is not None:
        B = _batch_and_width("h0", h0)[0]
    elif batch_sizes is None:
        B = x.shape[1] if x.dim() > 1 else 0
    else:
        B = int(batch_sizes[0]) if len(batch_sizes) else 0
    T, sizes, rows = _steps("x", x, batch_sizes, B)
    x, tokens = _input(x, W_hh.dtype, rows, I)
    _require("W_xh", W_xh, W_hh.dtype, (I, H))
    _require("W_hh", W_hh, W_hh.dtype, (H, H))
    h0, b_ih, b_hh = (
        None if array is None else _require(name, array, W_hh.dtype, shape).contiguous()
        for name, array, shape in (("h0", h0, (B, H)), ("b_ih", b_ih, (H,)), ("b_hh", b_hh, (H,)))
    )
    h = _output("out", out, W_hh.dtype, _with_h0(rows, B, H))
    _output_or_none("total", total, W_hh.dtype, (*rows, H))
    precision.forward_layer(
        T,
        B,
        I,
        H,
        _address(sizes),
        reverse,
        _activation(activation),
        0 if tokens else x.data_ptr(),
        x.data_ptr() if tokens else 0,
        *_matrix(W_xh),
        *_matrix(W_hh),
        _address(b_ih),
        _address(b_hh),
        _address(h0),
        h.data_ptr(),
        _address(total),
        torch.get_num_threads(),
    )
    return h


def backward_layer(
    dh: Tensor | None,
    dh_n: Tensor | None,
    h: Tensor,
    x: Tensor,
    W_xh: Tensor,
    W_hh: Tensor,
    activation: str,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    dx: Tensor | None = None,
    dW_xh: Tensor | None = None,
    dW_hh: Tensor | None = None,
    db_h: Tensor | None = None,
    dh0: Tensor | None = None,
    da: Tensor | None = None,
    total: Tensor | None = None,
) -> None:
    """Every gradient of `forward_layer` for which an array is given, written (not added) to that array.

    dh       cotangent of the states of the steps, like the a of `forward_sweep`; None is zero
    dh_n     (B, H) cotangent of the last state of each row; None is zero
    h, x     as `forward_layer` left and took them, in the bounds it checked
    dW_xh    (I, H), dW_hh (H, H); any strides, so `dW_ih.mT` will do
    da       the ∂a_t of B7, total the whole ∂h_t of B6; both may be `dh` itself
    """
    precision = _precision("h", h)
    I, H = _input_and_width(W_xh)
    packed = batch_sizes is not None
    B = 0 if h.dim() != (2 if packed else 3) else h.shape[0] - x.shape[0] if packed else h.shape[1]
    T, sizes, rows = _steps("x", x, batch_sizes, B)
    x, tokens = _input(x, h.dtype, rows, I)
    _require("h", h, h.dtype, _with_h0(rows, B, H))
    _require("W_xh", W_xh, h.dtype, (I, H))
    _require("W_hh", W_hh, h.dtype, (H, H))
    if dx is not None and tokens:
        raise ValueError("`dx` cannot be had: tokens have no gradient")
    dh, dh_n = (
        None if array is None else _require(name, array, h.dtype, shape).contiguous()
        for name, array, shape in (("dh", dh, (*rows, H)), ("dh_n", dh_n, (B, H)))
    )
    for name, array, shape in (
        ("dx", dx, (*rows, I)),
        ("db_h", db_h, (H,)),
        ("dh0", dh0, (B, H)),
        ("da", da, (*rows, H)),
        ("total", total, (*rows, H)),
    ):
        _output_or_none(name, array, h.dtype, shape)
    for name, array, shape in (("dW_xh", dW_xh, (I, H)), ("dW_hh", dW_hh, (H, H))):
        if array is not None:
            _require(name, array, h.dtype, shape)
    precision.backward_layer(
        T,
        B,
        I,
        H,
        _address(sizes),
        reverse,
        _activation(activation),
        0 if tokens else x.data_ptr(),
        x.data_ptr() if tokens else 0,
        *_matrix(W_xh),
        *_matrix(W_hh),
        _address(dh),
        _address(dh_n),
        h.contiguous().data_ptr(),
        _address(da),
        _address(dh0),
        _address(total),
        _address(dx),
        *_matrix(dW_xh),
        *_matrix(dW_hh),
        _address(db_h),
        torch.get_num_threads(),
    )


def _address(array: Tensor | None) -> int:
    return 0 if array is None else array.data_ptr()


def _matrix(array: Tensor | None) -> tuple[int, int, int]:
    """Address and strides."""
    return (0, 0, 0) if array is None else (array.data_ptr(), array.stride(0), array.stride(1))


def _activation(name: str) -> _native.Activation:
    named(name)
    return _ACTIVATIONS[name]


def _precision(name: str, array: Tensor) -> "_native._Precision":
    precision = _PRECISIONS.get(array.dtype)
    if precision is None:
        raise TypeError(f"the compiled sweeps take float32 and float64; `{name}` is {array.dtype}")
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


def _input_and_width(W_xh: Tensor) -> tuple[int, int]:
    if W_xh.dim() != 2:
        raise ValueError(f"`W_xh` must have shape (I, H); got {tuple(W_xh.shape)}")
    I, H = W_xh.shape
    return I, H


def _steps(
    name: str, array: Tensor, batch_sizes: Sequence[int] | None, B: int
) -> tuple[int, Tensor | None, tuple[int, ...]]:
    """How many steps there are; if packed, how many rows each has, as the C++ side reads them; the shape before H."""
    if batch_sizes is None:
        T = array.shape[0] if array.dim() else 0
        return T, None, (T, B)
    sizes = torch.as_tensor(batch_sizes, dtype=torch.int64, device="cpu").contiguous()
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
        return _require("x", x, dtype, (*rows, I)).contiguous(), False
    return _require("x", x.to(torch.int64), torch.int64, rows).contiguous(), True


def _require(name: str, array: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if array.dtype != dtype:
        raise TypeError(f"`{name}` must be {dtype} like the other arrays; got {array.dtype}")
    if array.device.type != "cpu":
        raise ValueError(f"`{name}` must be on the CPU; got {array.device}")
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {tuple(array.shape)}")
    return array


def _output(name: str, array: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if array is None:
        return torch.empty(shape, dtype=dtype)
    _output_or_none(name, array, dtype, shape)
    return array


def _output_or_none(name: str, array: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if array is None:
        return
    _require(name, array, dtype, shape)
    if not array.is_contiguous():
        raise ValueError(f"`{name}` must be contiguous, it is written in place; got strides {array.stride()}")
