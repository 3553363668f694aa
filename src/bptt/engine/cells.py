"""Cells with options, by the book: PyTorch, any floating dtype, any device, differentiable. It judges `native_cells`.

Of what follows a cell has any part or none; what it has not is left out of the equations.

    a_t = x_t W_xh + (m ⊙ h_{t-1}) W_hh + b_h       recurrent dropout: m (B, H) is one mask for all steps of a row, its
                                                    entries 0 or 1/(1-p) (Gal, Ghahramani, 2016)
    n_t = (a_t - mean) / sqrt(variance + ε)         layer norm over the H units of a row (Ba, Kiros, Hinton, 2016)
    z_t = γ ⊙ n_t + β + h_{t-1}                     a residual connection in time; without layer norm a_t + h_{t-1}
    f_t = φ(z_t)
    h_t = (1-α) h_{t-1} + α f_t                     a leak, whose time constant is 1/α steps (Jaeger et al., 2007)

The sweep has the shapes and words of `bptt.engine`: arrays dense (T, B, H) or packed (N, H) with batch_sizes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.engine.activations import activation as named

EPSILON = 1e-5  # of the layer norm, torch.nn.LayerNorm's


class Cell(NamedTuple):
    """What a cell does beside A2: φ, by name or as a function, α, and whether h_{t-1} is added inside φ."""

    activation: str | Callable[[Tensor], Tensor]
    leak: float = 1.0
    residual: bool = False


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
) -> Tensor:
    """The states of the steps, laid out as a, which is x_t W_xh + b_h. h0 (B, H); γ norm_weight and β norm_bias (H)."""
    phi = cell.activation if callable(cell.activation) else named(cell.activation).phi
    time = -1 if reverse else 1
    a_steps = a.unbind(0) if batch_sizes is None else a.split(list(batch_sizes))
    h_prev = h0 if batch_sizes is None or not reverse else h0[:0]
    h_steps = []
    for x_share in a_steps[::time]:
        own_mask = mask
        if batch_sizes is not None:  # rows join or leave
            h_prev = torch.cat([h_prev, h0[len(h_prev) :]])[: len(x_share)]
            own_mask = None if mask is None else mask[: len(h_prev)]
        z_t = x_share + (h_prev if own_mask is None else own_mask * h_prev) @ W_hh
        if norm_weight is not None:
            z_t = F.layer_norm(z_t, z_t.shape[-1:], norm_weight, norm_bias, EPSILON)
        if cell.residual:
            z_t = z_t + h_prev
        f_t = phi(z_t)
        h_prev = f_t if cell.leak == 1 else (1 - cell.leak) * h_prev + cell.leak * f_t
        h_steps.append(h_prev)
    if not h_steps:
        return a.clone()
    return torch.stack(h_steps[::time]) if batch_sizes is None else torch.cat(h_steps[::time])
