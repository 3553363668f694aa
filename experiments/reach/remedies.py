"""The remedies, one line each: a layer, and what is done with its gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.nn import GRU, LSTM, RNN

Layer = RNN | LSTM | GRU
UNITS, GATED_UNITS = 100, 50  # with which plain and LSTM layers have as many recurrent weights


@dataclass(frozen=True)
class Remedy:
    """layer   (inputs, T) -> the recurrent layer
    lr         of Adam
    clip, clip_value   the largest norm of the gradient, and the largest entry; None: no limit
    omega      the weight of Ω / T
    parts      the gradient goes back through T / parts steps
    """

    layer: Callable[[int, int], Layer]
    lr: float = 1e-3
    clip: float | None = 1.0
    clip_value: float | None = None
    omega: float = 0.0
    parts: int = 1


def without_drift(layer: RNN, x: Tensor) -> None:
    """b_h = −W_xh E[x]: with W_hh = 1 and b_h = 0 the states would grow by W_xh E[x] at every step."""
    with torch.no_grad():
        layer.get_parameter("bias_ih_l0").copy_(-layer.get_parameter("weight_ih_l0") @ x.mean((0, 1)))


REMEDIES = {
    "none": Remedy(lambda I, T: RNN(I, UNITS), clip=None),
    "clipping by value": Remedy(lambda I, T: RNN(I, UNITS), clip=None, clip_value=0.1),
    "clipping by norm": Remedy(lambda I, T: RNN(I, UNITS)),
    "truncated to T/4": Remedy(lambda I, T: RNN(I, UNITS), parts=4),
    "orthogonal": Remedy(lambda I, T: RNN(I, UNITS, init="orthogonal")),
    "spectral:1.0": Remedy(lambda I, T: RNN(I, UNITS, init="spectral:1.0")),
    "Ω": Remedy(lambda I, T: RNN(I, UNITS, init="spectral:0.95"), omega=2.0),
    "leak 1/T": Remedy(lambda I, T: RNN(I, UNITS, leak=1 / T)),
    "residual": Remedy(lambda I, T: RNN(I, UNITS, residual=True)),
    "layer norm": Remedy(lambda I, T: RNN(I, UNITS, norm="layer")),
    "identity, relu": Remedy(lambda I, T: RNN(I, UNITS, nonlinearity="relu", init="identity"), lr=3e-4),
    "GRU": Remedy(lambda I, T: GRU(I, GATED_UNITS)),
    "LSTM": Remedy(lambda I, T: LSTM(I, GATED_UNITS)),
    "LSTM, b_f = 1": Remedy(lambda I, T: LSTM(I, GATED_UNITS, init={"b_f": 1})),
    "LSTM, chrono:T": Remedy(lambda I, T: LSTM(I, GATED_UNITS, init=f"chrono:{T}")),
    "GRU, chrono:T": Remedy(lambda I, T: GRU(I, GATED_UNITS, init=f"chrono:{T}")),
}
"""All are tanh units with torch's weights, and all but the first two clip the norm at 1, where nothing else is said."""
