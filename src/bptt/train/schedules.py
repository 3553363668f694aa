"""The probability of the truth in scheduled sampling, as a function of the step of the training.

All fall from 1 toward 0. Source: Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural
networks" (2015), section 2.4.
"""

import math

from bptt.errors import InputError


def linear(step: int, *, steps: int, least: float = 0.0) -> float:
    """1 at the first step, in a straight line down to `least` at step `steps`.

    >>> [linear(step, steps=4) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    if steps < 1 or not 0 <= least <= 1:
        raise InputError(
            f"a linear schedule needs steps of at least 1 and least in [0, 1]; got steps={steps}, least={least}."
        )
    return max(least, 1 - step / steps)


def exponential(step: int, *, k: float) -> float:
    """k ** step, with 0 < k < 1."""
    if not 0 < k < 1:
        raise InputError(f"an exponential schedule k ** step needs k between 0 and 1; got {k}.")
    return k**step


def inverse_sigmoid(step: int, *, k: float) -> float:
    """k / (k + exp(step / k)), with k >= 1: the larger k, the later and the faster is the fall.

    >>> inverse_sigmoid(0, k=100) > 0.99 > inverse_sigmoid(1000, k=100)
    True
    """
    if not k >= 1:
        raise InputError(f"an inverse sigmoid schedule k / (k + exp(step / k)) needs k of at least 1; got {k}.")
    return k / (k + math.exp(min(step / k, 700)))
