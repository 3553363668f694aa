"""Teacher forcing, free running, and scheduled sampling between the two.

`continuation` reads a prime and continues it with symbols drawn from ŷ. Networks with output feedback
(`bptt.nn.Jordan`) run on their own outputs with `free_run` and are trained for it with `scheduled`; `discrepancy`
compares a network under teacher forcing with the same network running free.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bptt.errors import InputError
from bptt.nn import Jordan, Network, State
from bptt.sheet import losses

Feed = Literal["output", "greedy", "sample"]


def continuation(
    model: Network,
    prime: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Draws `length` tokens that follow the prime, and yields them one by one.

    prime        tokens (N,), N > 0, read from the zero state
    temperature  divides the outputs before softmax: below 1 surer, above 1 more varied; 0: always the likeliest token
    top_k        draws only from the k likeliest; None: from all
    top_p        draws only from the fewest of the likeliest whose probabilities, after temperature and top_k, add up to
                 p or more; None or 1: from all
    seed         the same model, prime, temperature, top_k, top_p and seed give the same tokens

    Raises InputError for an empty prime, a length or top_k below 1, a top_p outside (0, 1], a temperature that is
    negative, NaN or infinite, or a seed outside [0, 2**63).

    Sources: Fan et al. (2018) for top_k; Holtzman et al., "The curious case of neural text degeneration" (2020), for
    top_p.
    """
    if len(prime) == 0:
        raise InputError("prime must have at least one character for the network to start from; got none.")
    if length < 1:
        raise InputError(f"length must be a whole number of at least 1; got {length}.")
    if not 0 <= temperature < math.inf:
        raise InputError(
            f"temperature must be 0 (always the likeliest) or a number above; got {temperature}. Usual: 0.5 to 1."
        )
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be a whole number of at least 1; got {top_k}. 1: always the likeliest.")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p must be a probability above 0 and at most 1; got {top_p}. Usual: 0.9 to 0.95.")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1; got {seed}.")
    generator = torch.Generator().manual_seed(seed)

    def chosen(o: Tensor) -> Tensor:
        if temperature == 0:
            return o.argmax()
        y_hat = ((o.double() - o.double().max()) / temperature).softmax(-1)
        return torch.multinomial(_likeliest(y_hat, top_k, top_p), 1, generator=generator)[0]

    return _continuation(model, prime, length, chosen)


@torch.no_grad()
def _continuation(model: Network, prime: Tensor, length: int, chosen: Callable[[Tensor], Tensor]) -> Iterator[int]:
    was_training = model.training
    model.eval()
    try:
        o, h = model(prime[:, None])
        for _ in range(length):
            token = chosen(o[-1, 0])
            yield int(token)
            o, h = model(token.view(1, 1), h)
    finally:
        model.train(was_training)


def _likeliest(y_hat: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """ŷ with 0 for all but the k likeliest, and of these for all but the fewest whose share is p or more."""
    if top_k is None and top_p in (None, 1):
        return y_hat
    ranked, order = y_hat.sort(descending=True, stable=True)
    ranked = ranked[:top_k]
    if top_p not in (None, 1):
        before = ranked.cumsum(0) - ranked
        ranked = ranked[before < top_p * ranked.sum()]
    return torch.zeros_like(y_hat).index_copy(0, order[: len(ranked)], ranked)


def free_run(
    network: Jordan,
    x: Tensor,
    state: State | None = None,
    *,
    feed: Feed = "output",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, State]:
    """o (T, B, O) of a network fed with its own outputs, and the state after the last step.

    x            (T, B, input_size); the network runs for T steps
    state        the first state, such as that after a warm-up on the truth: `_, state = network(x, y)`
    feed         "output": ŷ itself, through which gradients flow; "greedy": the likeliest class (or ŷ rounded for
                 binary outputs); "sample": a draw from ŷ. No gradient flows through a choice or a draw
    temperature  divides the outputs before a draw

    Raises InputError for a feed that the network's loss does not know, or a temperature that is not above zero.
    """
    choose = _chooser(network, feed, temperature, generator)
    _, o, state = _walk(network, x, network.initial(x) if state is None else state, lambda t, o: choose(o))
    return o, state


def scheduled(
    network: Jordan,
    x: Tensor,
    y: Tensor,
    truth: float,
    state: State | None = None,
    *,
    feed: Feed = "sample",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, State]:
    """o (T, B, O) and the last state, where each step of each row is fed the truth with probability `truth`.

    A coin is thrown for every step and every row; otherwise the network is fed its own output as `feed` says. truth = 1
    is teacher forcing, 0 is free running; `bptt.schedules` has the usual ways from one to the other. Other arguments as
    for `free_run` and `Jordan`.

    Source: Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural networks" (2015).
    """
    if not 0 <= truth <= 1:
        raise InputError(f"the share of truth is a probability in [0, 1]; got {truth}.")
    if y.shape[:2] != x.shape[:2]:
        raise InputError(
            f"targets must have every step and row of the inputs, {tuple(x.shape[:2])}; got {tuple(y.shape)}."
        )
    choose, fed = _chooser(network, feed, temperature, generator), network.as_fed(y)

    def next_fed(t: int, o: Tensor) -> Tensor:
        coin = torch.rand(len(o), 1, generator=generator, device=o.device) < truth
        return torch.where(coin, fed[t], choose(o))

    _, o, state = _walk(network, x, network.initial(x) if state is None else state, next_fed)
    return o, state


@dataclass(frozen=True)
class Discrepancy:
    """Teacher forcing against free running on the same sequences, for each step after the warm-up, (T − warm_up,).

    forced_loss  mean loss of each step under teacher forcing (one step ahead)
    free_loss    mean loss of each step while running free
    distance     mean over rows of ‖h forced − h free‖ / ‖h forced‖
    """

    forced_loss: Tensor
    free_loss: Tensor
    distance: Tensor


@torch.no_grad()
def discrepancy(
    network: Jordan,
    x: Tensor,
    y: Tensor,
    *,
    warm_up: int,
    feed: Feed = "output",
    generator: torch.Generator | None = None,
) -> Discrepancy:
    """Reads `warm_up` steps of the truth, then runs twice over the rest: with teacher forcing, and free."""
    if not 0 <= warm_up < len(x):
        raise InputError(f"the warm-up must leave steps to run free: 0 <= warm_up < {len(x)}; got {warm_up}.")
    state = network.initial(x)
    if warm_up:
        _, state = network(x[:warm_up], y[:warm_up], state)
    x, y = x[warm_up:], y[warm_up:]
    h_forced, _ = network.forced_states(x, y, state)
    choose = _chooser(network, feed, 1.0, generator)
    h_free, o_free, _ = _walk(network, x, state, lambda t, o: choose(o))
    per_row = losses.pair(network.loss_name).per_row
    difference = (h_forced - h_free).norm(dim=-1) / h_forced.norm(dim=-1).clamp_min(1e-12)
    return Discrepancy(per_row(network.readout(h_forced), y).mean(1), per_row(o_free, y).mean(1), difference.mean(1))


def _walk(
    network: Jordan, x: Tensor, state: State, next_fed: Callable[[int, Tensor], Tensor]
) -> tuple[Tensor, Tensor, State]:
    """h and o of all steps, and the last state. `next_fed(t, o)` is the feedback of step t for the next one."""
    states, outputs = [], []
    for t, x_t in enumerate(x):
        h, o = network.step(x_t, state)
        state = State(h, next_fed(t, o))
        states.append(h)
        outputs.append(o)
    if not outputs:
        raise InputError("running free needs at least one step; got an x without any.")
    return torch.cat(states), torch.stack(outputs), state


def _chooser(
    network: Jordan, feed: str, temperature: float, generator: torch.Generator | None
) -> Callable[[Tensor], Tensor]:
    """The feedback as a function of o (B, O)."""
    known = ("output",) if network.loss_name == "squared_error" else ("output", "greedy", "sample")
    if feed not in known:
        raise InputError(f"a network with {network.loss_name} can be fed with {', '.join(known)}; got {feed!r}.")
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a number above 0; got {temperature}. For the likeliest, feed='greedy'.")
    if feed == "output":
        return lambda o: losses.output(network.loss_name, o)
    one_hot = network.loss_name == "cross_entropy"

    def chosen(o: Tensor) -> Tensor:
        o = o.detach().double()
        y_hat = losses.output(network.loss_name, (o - o.amax(-1, keepdim=True) if one_hot else o) / temperature)
        if not one_hot:
            said = (y_hat > 0.5) if feed == "greedy" else torch.bernoulli(y_hat, generator=generator)
            return said.to(network.readout.weight.dtype)
        drawn = y_hat.argmax(-1) if feed == "greedy" else torch.multinomial(y_hat, 1, generator=generator)[:, 0]
        return network.as_fed(drawn)

    return chosen
