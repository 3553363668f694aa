"""The two sweeps in C++: float32 and float64 on the CPU. The contract stands in `bptt.sweeps`, the engine in native/.

This file is the only caller of `bptt._native`. It checks every array once and then hands over bare addresses, because
an exchange by DLPack for each array costs more than a short sweep. What is checked here keeps the C++ side from reading
beyond an array; inputs that are not contiguous are copied, `W_hh` is taken with whatever strides it has.

The instruction set is the best this processor has, or the one named by the environment variable BPTT_ISA (avx512, avx2,
baseline), read when the package is imported.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bptt import _native
from bptt.activations import activation as named

INSTRUCTION_SET: str = _native.instruction_set

_FORWARD = {torch.float32: _native.forward_sweep_float32, torch.float64: _native.forward_sweep_float64}
_BACKWARD = {torch.float32: _native.backward_sweep_float32, torch.float64: _native.backward_sweep_float64}
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
    B, H = _batch_and_width("h0", h0)
    T, sizes = _steps("a", a, batch_sizes, B)
    h_shape = (T + 1, B, H) if sizes is None else (B + a.shape[0], H)
    _require("a", a, like=h0, shape=(T, B, H) if sizes is None else (a.shape[0], H))
    _require("W_hh", W_hh, like=h0, shape=(H, H))
    h = h0.new_empty(h_shape) if out is None else _writable("out", out, like=h0, shape=h_shape)
    if total is not None:
        _writable("total", total, like=h0, shape=a.shape)
    a, h0 = a.contiguous(), h0.contiguous()
    _FORWARD[h0.dtype](
        T,
        B,
        H,
        0 if sizes is None else sizes.data_ptr(),
        reverse,
        _activation(activation),
        W_hh.data_ptr(),
        W_hh.stride(0),
        W_hh.stride(1),
        a.data_ptr(),
        h0.data_ptr(),
        h.data_ptr(),
        0 if total is None else total.data_ptr(),
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
    if batch_sizes is None:
        if dh.dim() != 3:
            raise ValueError(f"`dh` must have shape (T, B, H); got {tuple(dh.shape)}")
        B, H = dh.shape[1:]
    else:
        if h.dim() != 2 or dh.dim() != 2 or len(h) < len(dh):
            raise ValueError(
                "with batch_sizes `dh` must have shape (N, H) and `h` (B+N, H); "
                f"got {tuple(dh.shape)} and {tuple(h.shape)}"
            )
        B, H = len(h) - len(dh), dh.shape[1]
    T, sizes = _steps("dh", dh, batch_sizes, B)
    _require("dh", dh, like=h, shape=(T, B, H) if sizes is None else dh.shape)
    _require("h", h, like=h, shape=(T + 1, B, H) if sizes is None else (B + len(dh), H))
    _require("W_hh", W_hh, like=h, shape=(H, H))
    dh, h = dh.contiguous(), h.contiguous()
    da = torch.empty_like(dh) if out is None else _writable("out", out, like=h, shape=dh.shape)
    if total is not None:
        _writable("total", total, like=h, shape=dh.shape)
    dh0 = h.new_empty(B, H)
    _BACKWARD[h.dtype](
        T,
        B,
        H,
        0 if sizes is None else sizes.data_ptr(),
        reverse,
        _activation(activation),
        W_hh.data_ptr(),
        W_hh.stride(0),
        W_hh.stride(1),
        dh.data_ptr(),
        h.data_ptr(),
        da.data_ptr(),
        dh0.data_ptr(),
        0 if total is None else total.data_ptr(),
    )
    return da, dh0


def _activation(name: str) -> _native.Activation:
    named(name)
    return _ACTIVATIONS[name]


def _batch_and_width(name: str, array: Tensor) -> tuple[int, int]:
    if array.dim() != 2:
        raise ValueError(f"`{name}` must have shape (B, H); got {tuple(array.shape)}")
    B, H = array.shape
    return B, H


def _steps(name: str, array: Tensor, batch_sizes: Sequence[int] | None, B: int) -> tuple[int, Tensor | None]:
    """How many steps there are and, if packed, how many rows each has, as the C++ side reads them."""
    if batch_sizes is None:
        return array.shape[0] if array.dim() else 0, None
    sizes = torch.tensor(batch_sizes, dtype=torch.int64)
    if len(sizes) and (int(sizes[0]) > B or int(sizes[-1]) < 0 or bool((sizes[1:] > sizes[:-1]).any())):
        raise ValueError(
            f"batch_sizes must not increase and lie in [0, {B}], the rows of h0; got {list(batch_sizes)[:10]}"
            f"{' ...' if len(batch_sizes) > 10 else ''}. Sort the sequences by length, longest first."
        )
    if int(sizes.sum()) != array.shape[0]:
        raise ValueError(f"`{name}` must have sum(batch_sizes) = {int(sizes.sum())} rows; got {array.shape[0]}")
    return len(sizes), sizes


def _require(name: str, array: Tensor, *, like: Tensor, shape: Sequence[int]) -> None:
    if array.dtype not in _FORWARD or array.dtype != like.dtype:
        raise TypeError(
            f"`{name}` must be float32 or float64, the same for all arrays; got {array.dtype} beside {like.dtype}"
        )
    if array.device.type != "cpu":
        raise ValueError(f"`{name}` must be on the CPU; got {array.device}")
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"`{name}` must have shape {tuple(shape)}; got {tuple(array.shape)}")


def _writable(name: str, array: Tensor, *, like: Tensor, shape: Sequence[int]) -> Tensor:
    _require(name, array, like=like, shape=shape)
    if not array.is_contiguous():
        raise ValueError(f"`{name}` must be contiguous, it is written in place; got strides {array.stride()}")
    return array
