"""What the figures of a trained network ask for, in sentences that name the figure they follow from."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

CLIPPED = 0.3
"""Share of the updates: above it the clip, not the gradient, sets their length."""
SATURATED = 0.3
DEAD = 0.1
SPIKE = 10
"""Times the median norm. Pascanu, Mikolov and Bengio (2013) clip at half to ten times the usual norm."""
GROWS = 2
"""Times over all steps, from where on a gradient is said to grow."""
LEFT = 0.1
REMEMBERS = ("lstm", "peephole", "gru", "gru-v1", "mgu")


@dataclass(frozen=True)
class Figures:
    """steps       T of the tape
    reached     the lag from which on less than 1 % of ∂ of `state` is left; None: all steps are reached
    left        the share that is left at the last lag
    rate        the factor per step
    window      the option that sets T, where one does: "bptt" or "window"
    lr, clip    of the recipe
    clipped     share of the updates that were clipped; median, largest norm of the gradient; None: not in the log
    saturated   the share of saturated numbers by value, of tanh; `dead` that of dead units, of relu
    """

    steps: int
    reached: int | None = None
    left: float = 0.01
    rate: float = 1.0
    state: str = "h"
    window: str | None = None
    cell: str = "elman"
    lr: float = 0.003
    clip: float | None = 1.0
    clipped: float | None = None
    median: float | None = None
    largest: float | None = None
    saturated: Mapping[str, float] = field(default_factory=dict)
    dead: Mapping[str, float] = field(default_factory=dict)


def advice(of: Figures) -> list[str]:
    """A sentence or two for each figure that asks for something; none where nothing does."""
    said = []
    if of.reached is not None and of.reached <= of.steps / 2:
        longer = f", and a longer --{of.window} does not change that" if of.window else ""
        if of.cell in REMEMBERS:
            remedy = f'in Python, init="chrono:{of.steps}"'
        else:
            remedy = '--cell lstm or gru; in Python, init="orthogonal"'
        said.append(
            f"Less than 1 % of ∂{of.state} reaches {of.reached} of {of.steps} steps back: what lies farther back "
            f"teaches next to nothing{longer}. To reach farther: {remedy}."
        )
    growth = of.rate**of.steps
    if growth >= GROWS:
        keep = "clip it, --clip 1" if of.clip is None else f"keep --clip {of.clip:g}"
        said.append(f"∂{of.state} grows by {of.rate:.4g} a step, {growth:.3g} times over {of.steps} steps: {keep}.")
    elif of.reached is None and of.left >= LEFT and of.window:
        said.append(
            f"{_percent(of.left)} of ∂{of.state} is left where the window of {of.steps} steps cuts it off: a longer "
            f"one can teach more, --{of.window} {2 * of.steps}."
        )
    if of.clipped is not None and of.clipped > CLIPPED:
        usual = "" if of.median is None else f"; the median norm is {of.median:.3g}"
        said.append(f"{_percent(of.clipped)} of the updates were clipped: lower --lr {of.lr:g} or raise --clip{usual}.")
    if of.clip is None and of.largest is not None and of.median is not None and of.largest > SPIKE * of.median:
        said.append(
            f"The largest norm of the gradient, {of.largest:.3g}, is {of.largest / of.median:.3g} times the median: "
            f"clip it, --clip {of.median:.2g} or up to ten times that."
        )
    said += [
        f"{_percent(share)} of {name} is saturated, where little of the gradient passes: lower --lr {of.lr:g}."
        for name, share in of.saturated.items()
        if share > SATURATED
    ]
    said += [
        f"{_percent(share)} of the units of {name} are dead, 0 at every step, and learn nothing: lower --lr {of.lr:g}."
        for name, share in of.dead.items()
        if share > DEAD
    ]
    return said


def listed(sentences: list[str]) -> list[str]:
    """As lines of at most 79 columns."""
    if not sentences:
        return ["Nothing in these figures asks for a change."]
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, 79, initial_indent="- ", subsequent_indent="  ")
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
