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
def draw(weight_hh: Tensor, init: str) -> None:
    """Fills (H, H) with recurrent weights other than torch's."""
    H = len(weight_hh)
    if weight_hh.is_meta or H == 0:
        return
    W_hh = torch.eye(H, dtype=torch.float64, device="cpu")
    if init == "orthogonal":
        torch.nn.init.orthogonal_(W_hh)
    elif init != "identity":
        torch.nn.init.normal_(W_hh)
        W_hh *= float(init.partition(":")[2]) / torch.linalg.eigvals(W_hh).abs().max()
    weight_hh.copy_(W_hh)


def _is_radius(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
