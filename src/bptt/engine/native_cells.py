"""The sweeps of cells with options in C++ (native/cells.hpp): float32 and float64 on the CPU, φ by name.

Like `native`, this file checks every array and hands over addresses. Results do not depend on the number of threads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bptt.engine import _native, native
from bptt.engine.cells import EPSILON, Cell


class Kept(NamedTuple):
    """What the backward sweep needs of the forward one: f_t, and with layer norm n_t and 1/sqrt(variance + ε)."""

    f: Tensor
    normalised: Tensor | None
    scale: Tensor | None


def forward_sweep(
    a: Tensor,
    W_hh: Tensor,
    h0: Tensor,
    cell: Cell,
    *,
    mask: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Kept]:
    """As `cells.forward_sweep`, and what is kept for the way back."""
    precision = native.precision_of("h0", h0.dtype)
    (B, H), dtype = h0.shape, h0.dtype
    T, sizes, rows = native.steps_of("a", a, batch_sizes, B)
    a = native.require("a", a, dtype, (*rows, H))
    h0 = native.require("h0", h0, dtype, (B, H))
    options = _Options.of(cell, mask, norm_weight, norm_bias, dtype, B, H)
    W_hh = native.require("W_hh", W_hh, dtype, (H, H), strided=True)
    h = torch.empty_like(a)
    f = h if cell.leak == 1 else torch.empty_like(a)
    normalised, scale = (None, None) if norm_weight is None else (torch.empty_like(a), a.new_empty(rows))
    precision.forward_cells(
        T, B, H, native.address(sizes), reverse, *options.words(), *native.matrix(W_hh),
        native.address(a), native.address(h0), native.address(h), native.address(f), native.address(normalised),
        native.address(scale), torch.get_num_threads(),
    )  # fmt: skip
    return h, Kept(f, normalised, scale)


def backward_sweep(
    dh: Tensor,
    kept: Kept,
    W_hh: Tensor,
    cell: Cell,
    B: int,
    *,
    mask: Tensor | None = None,
    norm_weight: Tensor | None = None,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂a and ∂z, laid out as dh, and ∂h_0 (B, H). ∂z is ∂L/∂z_t, of which the gradients of γ and β are sums."""
    precision = native.precision_of("dh", dh.dtype)
    H, dtype = dh.shape[-1], dh.dtype
    T, sizes, rows = native.steps_of("dh", dh, batch_sizes, B)
    dh = native.require("dh", dh, dtype, (*rows, H))
    native.require_output("f", kept.f, dtype, (*rows, H))
    if norm_weight is not None and kept.normalised is not None and kept.scale is not None:
        native.require_output("normalised", kept.normalised, dtype, (*rows, H))
        native.require_output("scale", kept.scale, dtype, rows)
    options = _Options.of(cell, mask, norm_weight, None, dtype, B, H)
    W_hh = native.require("W_hh", W_hh, dtype, (H, H), strided=True)
    dz = torch.empty_like(dh)
    da = dz if norm_weight is None else torch.empty_like(dh)
    dh0 = dh.new_empty(B, H)
    precision.backward_cells(
        T, B, H, native.address(sizes), reverse, *options.words(), *native.matrix(W_hh),
        native.address(dh), native.address(kept.f), native.address(kept.normalised), native.address(kept.scale),
        native.address(da), native.address(dz), native.address(dh0), torch.get_num_threads(),
    )  # fmt: skip
    return da, dz, dh0


class _Options(NamedTuple):
    """The options as the C++ side reads them; the tensors are held so that their addresses stay good."""

    cell: Cell
    mask: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None

    @staticmethod
    def of(
        cell: Cell,
        mask: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        dtype: torch.dtype,
        B: int,
        H: int,
    ) -> "_Options":
        shapes = (("mask", mask, (B, H)), ("norm_weight", norm_weight, (H,)), ("norm_bias", norm_bias, (H,)))
        held = [None if array is None else native.require(name, array, dtype, shape) for name, array, shape in shapes]
        return _Options(cell, *held)

    def words(self) -> tuple[_native.Activation, float, bool, int, int, int, float]:
        assert isinstance(self.cell.activation, str)
        phi = native.activation_of(self.cell.activation)
        mask, gamma, beta = (native.address(array) for array in (self.mask, self.norm_weight, self.norm_bias))
        return phi, float(self.cell.leak), self.cell.residual, mask, gamma, beta, EPSILON
