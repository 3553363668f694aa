"""Blocks of time for exact BPTT in bounded memory: what a checkpoint asks for, and where the cuts are.

States are kept at the starts of blocks, and inside a block while it is walked. One more than the other, so the least
memory is met in between, at blocks of a length near the square root of T: with c bytes kept for each block and b bytes
of work for each step of one, T/k c + k b is smallest at k = sqrt(T c / b).

Cuts fall on the bounds of the sums of an engine's weight gradients (`bptt.engine`), so that walking block by block
gives the bits of one walk.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from bptt.errors import InputError

Checkpoint = str | int | None

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Beside its arithmetic a block costs some 0.2 ms of calls, the arithmetic of about a hundred rows of 128 units.
_SUMS_WORTH_A_BLOCK = 16
# Bytes of states that "auto" keeps: half of a process with torch before it has done anything.
_KEPT_BY_AUTO = 128 * 10**6


class Block(NamedTuple):
    """Consecutive steps.

    rows         where they lie in the arrays of all steps
    batch_sizes  of these steps, if the batch is packed
    B            how many rows of the batch they touch
    """

    rows: slice
    batch_sizes: Sequence[int] | None
    B: int


class Plan(NamedTuple):
    """How a sequence is walked.

    blocks  in the order of the walk forward
    kept    how many of the last keep their states until the way back
    grain   steps between two places where a cut may fall, counted from where the walk back begins; what is summed grain
            by grain has the same bits with any blocks. Of a batch that is not packed
    """

    blocks: list[Block]
    kept: int
    grain: int


class Walk(NamedTuple):
    """A sequence to walk: its steps, and the bytes it takes.

    T, B, batch_sizes, reverse  as in `bptt.engine`
    rows_of_a_sum               how many rows the engine sums at a time
    state                       bytes of the states of all layers at one step of B rows
    held                        bytes of all that one step needs on the way back
    work                        bytes that walking a block takes for each of its steps, those states included
    parameters                  rows of the gradients that each call reads and writes
    sums                        of the engine from one cut to the next, at least
    """

    T: int
    B: int
    batch_sizes: Sequence[int] | None
    reverse: bool
    rows_of_a_sum: int
    state: int
    held: int
    work: int
    parameters: int
    sums: int = 1


def check(checkpoint: Checkpoint) -> None:
    """Raises InputError unless it is None, "auto", a number of steps or a memory budget."""
    if checkpoint is None or checkpoint == "auto":
        return
    if isinstance(checkpoint, str):
        _bytes(checkpoint)
    elif isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or checkpoint < 1:
        raise _not_a_checkpoint(checkpoint)


def plan(checkpoint: Checkpoint, walk: Walk) -> Plan:
    """The blocks that a checkpoint asks for; see `bptt.long`.

    Raises InputError for what is no checkpoint, and for a budget that no length of blocks can meet.
    """
    check(checkpoint)
    least = walk.sums * max(1, -(-walk.rows_of_a_sum // max(1, walk.B)))

    def whole(steps: float) -> int:
        return max(1, math.ceil(steps / least)) * least

    if checkpoint is None:
        return _cut(walk, whole(walk.T), 1, least)
    if isinstance(checkpoint, int):
        return _cut(walk, whole(checkpoint), 1, least)
    thrifty = whole(math.sqrt(walk.T * walk.state / max(1, walk.work)))
    worth_a_block = max(_SUMS_WORTH_A_BLOCK * walk.rows_of_a_sum, walk.parameters // 4)
    fast = max(thrifty, whole(worth_a_block / max(1, walk.B)))
    if checkpoint == "auto":
        return _cut(walk, fast, 1 + _KEPT_BY_AUTO // max(1, fast * walk.held), least)

    def memory(steps: int) -> int:
        return -(-walk.T // steps) * walk.state + min(steps, walk.T) * walk.work

    budget = _bytes(checkpoint)
    steps = fast if memory(fast) <= budget else thrifty
    if memory(steps) > budget:
        raise InputError(
            "a memory budget must hold the states at the starts of blocks and the work on one block, which for "
            f"{walk.T} steps of {walk.B} rows is at least {_amount(memory(steps))}; got {checkpoint!r}. "
            "Give more, or a smaller batch."
        )
    return _cut(walk, steps, 1 + (budget - memory(steps)) // max(1, steps * walk.held), least)


def _amount(bytes: float) -> str:
    """Not less than it is, so that it is enough where it is given."""
    return f"{math.ceil(bytes / 1e5) / 10} MB" if bytes >= 1e6 else f"{math.ceil(bytes / 1e3)} kB"


def _cut(walk: Walk, steps: int, kept: int, grain: int) -> Plan:
    """Blocks of at least so many steps; the bounds count steps from where the walk back begins."""
    T, sizes = walk.T, walk.batch_sizes
    if sizes is None:
        bounds = [*range(0, max(T, 1), steps), T]
    else:
        bounds = _bounds(sizes if walk.reverse else sizes[::-1], steps, walk.rows_of_a_sum)
    rows_before = None if sizes is None else [0, *itertools.accumulate(sizes)]
    blocks = []
    for near, far in itertools.pairwise(bounds):
        first, last = (near, far) if walk.reverse else (T - far, T - near)
        if sizes is None or rows_before is None:
            blocks.append(Block(slice(first, last), None, walk.B))
        else:
            blocks.append(
                Block(
                    slice(rows_before[first], rows_before[last]), sizes[first:last], sizes[first] if sizes else walk.B
                )
            )
    return Plan(blocks[::-1], min(kept, len(blocks)), grain)


def _bounds(sizes: Sequence[int], steps: int, rows_of_a_sum: int) -> list[int]:
    bounds, rows = [0], 0
    for t, size in enumerate(sizes, 1):
        rows += size
        if rows >= rows_of_a_sum:
            rows = 0
            if t - bounds[-1] >= steps:
                bounds.append(t)
    return bounds if bounds[-1] == len(sizes) > 0 else [*bounds, len(sizes)]


def _bytes(budget: str) -> int:
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", budget)
    if found is None:
        raise _not_a_checkpoint(budget)
    try:
        return int(float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise _not_a_checkpoint(budget) from None


def _not_a_checkpoint(checkpoint: object) -> InputError:
    return InputError(
        'checkpoint must be None, "auto", a number of steps of at least 1, or a memory budget such as "512MB" '
        f"(units: {', '.join(_UNITS)}); got {checkpoint!r}."
    )
