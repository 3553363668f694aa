"""Shapes, tolerances and a way to read weights that the tests share."""

from pathlib import Path
from typing import Any

import torch

UGLY = [  # (T, B, I, H)
    (1, 1, 1, 1),
    (2, 3, 1, 17),
    (7, 2, 5, 16),
    (5, 7, 3, 37),
    (3, 20, 11, 100),
    (0, 3, 4, 5),
    (4, 0, 4, 5),
]

ACTIVATIONS = ["tanh", "relu", "sigmoid", "identity"]

LENGTHS = [[4], [3, 3, 3], [5, 2, 2, 1], [7, 6, 4, 4, 1]]


def batch_sizes(lengths: list[int]) -> list[int]:
    """How many rows each step of a packed batch has, for row lengths in falling order."""
    return [sum(length > t for length in lengths) for t in range(max(lengths))]


def weights_in(run: Path) -> bytes:
    """The bytes of the weights, without the header of their file, which depends on when the run began."""
    content = (run / "weights.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def tolerance(dtype: torch.dtype) -> dict[str, Any]:
    """How far two orders of summation may part.

    A sum of n products of size about 1 carries a rounding error near sqrt(n) eps; the cases here sum at most a few
    hundred terms and feed states through at most ten steps. float64: eps 2.2e-16, allowed 1e-12. float32: eps 1.2e-7,
    allowed 1e-5. The absolute part serves entries that cancel to nearly zero.
    """
    size = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    return {"rtol": size, "atol": size}


def near(dtype: torch.dtype, residual: bool, norm: bool) -> dict[str, Any]:
    """How far two orders of summation may part, given what magnifies rounding.

    Layer norm divides by a deviation that may be small, and a residual connection lets states and gradients grow by up
    to a factor of two at each of the few steps, in sums that cancel.
    """
    return {key: value * (10 if residual else 1) * (100 if norm else 1) for key, value in tolerance(dtype).items()}
