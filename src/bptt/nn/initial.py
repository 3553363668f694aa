"""How the recurrent weights begin.

With torch's own draw, uniform in ±1/sqrt(H), a plain network is blind beyond some ten steps before it is trained: the
gradient shrinks by half at every step. The others keep it longer.

"torch"         U(±1/sqrt(H)) for all parameters, bit for bit what torch.nn.RNN draws
"orthogonal"    W_hhᵀ W_hh = 1, uniform among such (Saxe et al., 2014)
"identity"      W_hh = 1, meant for relu (Le, Jaitly, Hinton, 2015)
"spectral:ρ"    normal numbers scaled so that the largest |eigenvalue| of W_hh is ρ (Jaeger, 2001)

All but "torch" begin with zero biases; the input weights are torch's in any case.
"""

import torch
from torch import Tensor

from bptt.errors import InputError


def check(init: str) -> None:
    """Raises InputError for what names no way to begin."""
    name, _, radius = init.partition(":")
    if init not in ("torch", "orthogonal", "identity") and not (name == "spectral" and _is_radius(radius)):
        raise InputError(
            "init must be 'torch', 'orthogonal', 'identity' or 'spectral:' and the spectral radius, a number above 0, "
            f"as in 'spectral:1.0'; got {init!r}"
        )


@torch.no_grad()
def draw(matrix: Tensor, init: str, name: str = "weight_hh") -> None:
    """Fills a matrix, square but for "orthogonal", in one of the ways other than torch's; InputError for others."""
    if matrix.dim() != 2 or (init != "orthogonal" and matrix.shape[0] != matrix.shape[1]):
        raise InputError(
            f"init {init!r} draws {'' if init == 'orthogonal' else 'square '}matrices, and {name} has the shape "
            f"{tuple(matrix.shape)}. Let it begin with a number or with 'torch'."
        )
    if matrix.is_meta or not matrix.numel():
        return
    made = torch.eye(*matrix.shape, dtype=torch.float64, device="cpu")
    if init == "orthogonal":
        torch.nn.init.orthogonal_(made)
    elif init != "identity":
        torch.nn.init.normal_(made)
        made *= float(init.partition(":")[2]) / torch.linalg.eigvals(made).abs().max()
    matrix.copy_(made)


def _is_radius(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
