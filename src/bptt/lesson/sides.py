"""Both sides of a tape, line by line of its cell: the numbers of each value, of each gradient and of each of its terms.

The tape has one layer and one row. What a term says is evaluated, whatever the cell.
"""

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from bptt.engine.evaluation import Environment, evaluated
from bptt.sheet import losses
from bptt.sheet.expressions import Cotangent, Expression, Name
from bptt.sheet.sides import Line, Term, shifted
from bptt.tape import Tape


@dataclass(frozen=True)
class Numbers:
    """What a line says of a name at all steps, (T, width); of a gradient also what each term of the line is."""

    line: Line
    name: str
    whole: Tensor
    terms: tuple[Tensor, ...] = ()


def values(tape: Tape) -> list[Numbers]:
    """Those of a step, in the order of side A."""
    record = tape.layer()
    found = []
    for line in record.cell.side_a:
        match line.parts[0]:
            case Name(name, 0) if name in record.values:
                found.append(Numbers(line, name, record.values[name][:, 0]))
    return found


def before(tape: Tape) -> dict[str, Tensor]:
    """Of each state, by its name, the values of the step before."""
    record = tape.layer()
    return {name: record.before(name)[:, 0] for name in record.first}


def gradients(tape: Tape) -> list[Numbers]:
    """∂L/∂ of values and of x, in the order of side B."""
    record, env = tape.layer(), _environment(tape)
    found = []
    for line in record.cell.side_b:
        match line.parts[0]:
            case Cotangent(name, 0) if name in (*record.values, "x"):
                total = tape.d(name)[:, 0]
                terms = tuple(_of_term(term, tape, env).expand_as(total) for term in line.terms)
                found.append(Numbers(line, name, total, terms))
    return found


def handed(tape: Tape) -> list[Numbers]:
    """What each step hands to a state of the step before it, the first step to what the state began with."""
    record, env = tape.layer(), _environment(tape)
    found = []
    for line in record.cell.side_b:
        match line.of, line.parts[1]:
            case Cotangent(name), Expression() as what:
                sent, to_first = torch.as_tensor(evaluated(what, record.cell)(env)), record.d_first[name]
                later = sent.expand(tape.steps, to_first.shape[-1])[1:]
                found.append(Numbers(line, name, torch.cat([to_first, later])))
    return found


def summed(tape: Tape) -> dict[str, Tensor]:
    """∂L/∂ of all that has no time, in the order of side B."""
    lines = tape.layer().cell.side_b
    return {line.parts[0].name: tape.grad(line.parts[0].name) for line in lines if _has_no_time(line.parts[0])}


def _has_no_time(e: object) -> TypeGuard[Cotangent]:
    return isinstance(e, Cotangent) and e.step is None


def jacobians(tape: Tape) -> list[Tensor | None]:
    """B2 of each step, None where it has no output."""
    assert tape.loss_name is not None
    return of_outputs(tape, losses.pair(tape.loss_name).jacobian(tape["y_hat"]))


def of_outputs(tape: Tape, array: Tensor) -> list[Tensor | None]:
    """For each step its row of an array that has one for each output; None where a step has no output."""
    return [None] * (tape.steps - len(array)) + [*array[:, 0]]


def is_of_next_step(term: Term) -> bool:
    return isinstance(term.left, Name) and term.left.step == 1


def _of_term(term: Term, tape: Tape, env: Environment) -> Tensor:
    """At all steps. What step t+1 sends is evaluated where it is step t, and after the last step nothing is sent."""
    cell = tape.layer().cell
    if not is_of_next_step(term):
        return evaluated(term.value, cell)(env)
    sent = evaluated(shifted(term.value, -1), cell)(env)
    return torch.cat([sent[1:], torch.zeros_like(sent[:1])])


def _environment(tape: Tape) -> Environment:
    """All that side B reads, rows being steps."""
    return tape.layer().environment() | {("W_ho", None): tape.W_ho, ("∂o", 0): tape.d("o")[:, 0]}
