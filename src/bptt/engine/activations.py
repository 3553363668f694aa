"""φ of equation A3, and φ' of B7 as a function of h = φ(a) alone.

Only h is kept for the backward sweep, so an activation belongs here exactly when its derivative can be had from its
value: tanh 1−h², sigmoid h(1−h), relu h>0, identity 1. At a = 0 relu takes the subgradient 0 and at NaN 1, as
PyTorch does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Name = Literal["tanh", "relu", "sigmoid", "identity"]


@dataclass(frozen=True)
class Activation:
    phi: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]

    def backward(self, dh: Tensor, h: Tensor) -> Tensor:
        """∂a of B7. As in torch, relu chooses rather than multiplies: where h is 0, an infinite ∂h is stopped too."""
        return dh.masked_fill(h <= 0, 0) if self.phi is torch.relu else dh * self.derivative(h)


ACTIVATIONS: dict[Name, Activation] = {
    "tanh": Activation(torch.tanh, lambda h: 1 - h * h),
    "relu": Activation(torch.relu, lambda h: (~(h <= 0)).to(h.dtype)),
    "sigmoid": Activation(torch.sigmoid, lambda h: h * (1 - h)),
    "identity": Activation(lambda a: a, torch.ones_like),
}


def activation(name: str) -> Activation:
    """φ and φ' by name; ValueError with the known names otherwise."""
    if name not in ACTIVATIONS:
        raise ValueError(f"Unknown nonlinearity {name!r}: it must be one of {', '.join(get_args(Name))}; got {name!r}")
    return ACTIVATIONS[name]
