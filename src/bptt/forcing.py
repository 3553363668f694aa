"""Running free: each output becomes the next input.

A network trained on the truth is warmed up on a prime it is given, then continues it with symbols drawn from ŷ. Teacher
forcing and scheduled sampling, the ways to train for this, belong here too.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bptt.errors import InputError
from bptt.nn import Elman


def continuation(model: Elman, prime: Tensor, length: int, *, temperature: float = 1.0, seed: int = 0) -> Iterator[int]:
    """`length` tokens that follow the prime, one by one as they are drawn.

    prime        tokens (N,), N > 0, read from the zero state
    temperature  divides the outputs before softmax: below 1 bolder, above 1 more varied; 0 takes the likeliest token
    seed         same model, prime, temperature and seed: same tokens

    Raises InputError for an empty prime, a length below 1, a temperature that is negative, NaN or infinite, or a seed
    outside [0, 2**63).
    """
    if len(prime) == 0:
        raise InputError("prime must have at least one character for the network to start from; got none.")
    if length < 1:
        raise InputError(f"length must be a whole number of at least 1; got {length}.")
    if not 0 <= temperature < math.inf:
        raise InputError(
            f"temperature must be 0 (always the likeliest) or a number above; got {temperature}. Usual: 0.5 to 1."
        )
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1; got {seed}.")
    return _continuation(model, prime, length, temperature, torch.Generator().manual_seed(seed))


@torch.no_grad()
def _continuation(
    model: Elman, prime: Tensor, length: int, temperature: float, generator: torch.Generator
) -> Iterator[int]:
    was_training = model.training
    model.eval()
    try:
        o, h = model(prime[:, None])
        for _ in range(length):
            if temperature == 0:
                token = o[-1, 0].argmax()
            else:
                y_hat = (o[-1, 0].double() / temperature).softmax(-1)
                token = torch.multinomial(y_hat, 1, generator=generator)[0]
            yield int(token)
            o, h = model(token.view(1, 1), h)
    finally:
        model.train(was_training)
