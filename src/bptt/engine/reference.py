"""The engine by the book: both sides of a cell as its sheet says them. PyTorch, any floating dtype, any device.

This is the definition that judges every other engine, and the file to read first. Side A is differentiable, so autograd
in turn judges side B. Inside, every array is packed: the rows of one step, then those of the next; a dense (T, B, ·)
array is the case of B rows at each step. Rows of a packed batch end early: forward in time fewer and fewer go on; back,
each joins at its own last step.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.engine.all_steps import AllSteps
from bptt.engine.contract import Gradients, Made, Signature, Weights, sizes_of
from bptt.engine.evaluation import SIZE, Environment, Evaluated, Functions, evaluated, key_of
from bptt.engine.functions import TORCH
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.derivation import ZERO
from bptt.sheet.expressions import Call, Expression, Name, Product, children, mapped, names


def forward(
    cell: Cell,
    weights: Weights,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    extras: Sequence[Tensor] = (),
    *,
    out: Tensor | None = None,
    values: bool = False,
    keep: bool = True,
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> Made:
    """A1 to A4 for t = 1..T. functions: others in the place of those that the cell declares, by name."""
    signature = Signature.of(cell)
    side = _side_a(cell) if functions is None else _compiled_side_a(cell, TORCH | dict(functions))
    env, of_rows = _given(cell, weights, x, first, steps, extras)
    before = _first(cell, env, x, first, steps)
    rows = steps.rows_of_steps
    timed = {key: array.split(rows) for key, array in of_rows.items() if key != ("x", 0) or side.reads_x}
    timed |= {key: product(env | of_rows).split(rows) for key, product in side.ahead.items()}
    now = dict(before)
    made: dict[str, list[Tensor]] = {name: [] for name in side.lines}
    for t in _in_time(steps):
        for name, state in now.items():
            if steps.sizes is not None and len(state) != rows[t]:  # rows join or leave
                state = torch.cat([state, before[name][len(state) :]])[: rows[t]]
            env[name, -1] = state  # A1
        for key, of_steps in timed.items():
            env[key] = of_steps[t]
        for name, line in side.lines.items():  # A2, A3
            env[name, 0] = line(env)
            made[name].append(env[name, 0])
        for name in now:  # A4
            now[name] = env[name, 0]
    like = before[signature.states[0]]
    arrays = {name: _as_array(made[name], side.widths[name], env, steps, like=like) for name in side.lines}
    last = tuple(steps.last_of(arrays[name], before[name][None]) for name in signature.states)
    y = arrays[signature.output]
    kept = tuple(arrays[key_of(e)] for e in signature.kept) if keep else ()
    known = {line.name: arrays[line.name] for line in cell.derivation.steps} if values else None
    return Made(y if out is None else out.copy_(y), last, kept, known)


def backward(
    cell: Cell,
    weights: Weights,
    made: Made,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    dy: Tensor | None,
    d_last: Sequence[Tensor | None],
    into: Gradients,
    extras: Sequence[Tensor] = (),
) -> None:
    """B6 to B11 for t = T..1, the derived side B."""
    signature, side, rows, y = Signature.of(cell), _side_b(cell), steps.rows_of_steps, made.y
    whole = AllSteps(cell, weights, made, x, first, steps, extras)
    env = dict(whole.without_rows)
    width = {name: env[cell.derivation.widths[name], SIZE] for name in side.cotangents}
    from_outside: dict[str, Tensor] = {}
    for name, d in {signature.output: None, **dict(zip(signature.states, d_last, strict=True))}.items():
        own = dy if name == signature.output else None
        if own is not None or d is not None:
            from_outside[name] = steps.received(own, d, y.new_empty(0, width[name]))
    direct = {name: steps.without_first(d).flatten(0, -2).split(rows) for name, d in from_outside.items()}
    timed = {key: whole[key].split(rows) for key in side.read if whole.has_rows(key)}
    future = {name: y.new_zeros(0, width[name]) for name in signature.states}
    ended: dict[str, list[Tensor]] = {name: [] for name in signature.states}
    found: dict[str, list[Tensor]] = {name: [] for name in side.cotangents}
    for t in reversed(_in_time(steps)):
        for key, of_steps in timed.items():
            env[key] = of_steps[t]
        for name, d in future.items():
            if len(d) != rows[t]:  # rows end at their first step, or join at their last
                ended[name].append(d[rows[t] :])
                d = d[: rows[t]]
                future[name] = torch.cat([d, d.new_zeros(rows[t] - len(d), width[name])])
        for name, sent_back in side.cotangents.items():  # B6, B7
            terms = [direct[name][t]] if name in direct else []
            terms += [sent_back(env)] if sent_back is not None else []
            terms += [future[name]] if name in future else []
            total = sum(terms[1:], terms[0]) if terms else y.new_zeros(1, 1)
            total = total.expand(rows[t], width[name])
            env[f"∂{name}", 0] = total
            found[name].append(total)
        for name, sent_back in side.handed_on.items():  # B11
            d = y.new_zeros(1, 1) if sent_back is None else sent_back(env)
            future[name] = d.expand(rows[t], width[name])
    for name, array in zip(signature.states, into.first, strict=True):
        if array is not None:
            d = torch.cat([future[name], *reversed(ended[name])])
            d = torch.cat([d, d.new_zeros(steps.B - len(d), width[name])])
            array[0] = d + steps.first_of(from_outside[name]) if name in from_outside else d
    cotangents = {
        name: _as_array(of_steps[::-1], cell.derivation.widths[name], env, steps, like=y)
        for name, of_steps in found.items()
    }
    if into.cotangents is not None:
        into.cotangents.update(cotangents)
    if into.norms is not None:
        asked = dict.fromkeys((signature.output, *signature.states))
        into.norms.update({name: cotangents[name].square().sum(-1, keepdim=True) for name in asked})
    whole |= {(f"∂{name}", 0): d.flatten(0, -2) for name, d in cotangents.items()}
    for name, array in zip(("x", *signature.inputs), (into.x, *into.inputs), strict=False):
        if array is not None:
            array.copy_(of_input(cell, whole, name).expand(array.shape[:-1].numel(), -1).view(array.shape))
    asked = weights.layout.parameters_in([array is not None for array in into.weights])
    into.receive(weights.layout, of_parameters(cell, whole, asked))  # B8, B9, B10


def of_samples(
    cell: Cell,
    weights: Weights,
    made: Made,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    cotangents: Mapping[str, Tensor],
    samples: int,
    extras: Sequence[Tensor] = (),
) -> list[Tensor]:
    """B8, B9 and B10 of each sample, laid out as the weights with the samples in front.

    Row r of sample v is row r * samples + v of the batch.
    """
    whole = AllSteps(cell, weights, made, x, first, steps, extras)
    whole |= {(f"∂{name}", 0): d.flatten(0, -2) for name, d in cotangents.items()}
    each = []
    for v in range(samples):
        asked = set(weights.layout.made_of)
        each.append(weights.layout.joined(of_parameters(cell, whole.of_sample(v, samples), asked)))
    return [torch.stack(of_all) for of_all in zip(*each, strict=True)]


def rows_of_a_block(H: int) -> int:
    return 1


class _SideA(NamedTuple):
    """ahead: products of inputs, which wait for no state. lines: those of a step, and the scales that are kept of norm,
    with their widths. reads_x: whether a line reads x itself."""

    ahead: dict[tuple[str, int | None], Evaluated]
    lines: dict[str, Evaluated]
    widths: dict[str, str]
    reads_x: bool


class _SideB(NamedTuple):
    """cotangents: the sum that each value is sent back in the same step, last line first; None is zero. handed_on: to
    the states of the step before. inputs, parameters: of all steps. read: all names, with their steps, that the first
    two read."""

    cotangents: dict[str, Evaluated | None]
    handed_on: dict[str, Evaluated | None]
    inputs: dict[str, Evaluated | None]
    parameters: dict[str, Evaluated]
    read: set[tuple[str, int | None]]


@lru_cache
def _side_a(cell: Cell) -> _SideA:
    return _compiled_side_a(cell, TORCH)


def _compiled_side_a(cell: Cell, functions: Functions) -> _SideA:
    ahead: dict[tuple[str, int | None], Evaluated] = {}
    found, inputs = cell.derivation, cell.sheet.inputs

    def waiting_for_states(e: Expression) -> Expression:
        match e:
            case Product(Name(left, 0), Name(matrix, None)) if left in inputs:
                key = f"{left} {matrix}"
                ahead[key, 0] = evaluated(e, cell, functions)
                return Name(key, 0)
        return mapped(e, waiting_for_states)

    values = {line.name: waiting_for_states(line.value) for line in found.steps}
    lines, widths = {}, dict(found.widths)
    for name, value in values.items():
        own = evaluated(value, cell, functions)
        has_rows = any(n.step is not None or cell.sheet.has_rows(n) for n in names(value))
        lines[name] = own if has_rows else _for_every_row(own, widths[name], cell)
    for e in Signature.of(cell).kept:
        if isinstance(e, Call):
            values[key_of(e)] = waiting_for_states(e.arguments[0])
            scale = _scale(evaluated(values[key_of(e)], cell, functions))
            lines[key_of(e)] = scale if cell.sheet.has_rows(e.arguments[0]) else _for_every_row(scale, "1", cell)
            widths[key_of(e)] = "1"
    return _SideA(ahead, lines, widths, any(n == Name("x", 0) for value in values.values() for n in names(value)))


def _scale(argument: Evaluated) -> Evaluated:
    return lambda env: TORCH["scale"](argument(env))


def _for_every_row(value: Evaluated, width: str, cell: Cell) -> Evaluated:
    """A line that reads nothing with rows, for all of them."""
    state = cell.sheet.states[0]

    def expanded(env: Environment) -> Tensor:
        like = env[state, -1]
        return torch.as_tensor(value(env), dtype=like.dtype, device=like.device).expand(like.shape[0], env[width, SIZE])

    return expanded


@lru_cache
def _side_b(cell: Cell) -> _SideB:
    found = cell.derivation
    same_step = {line.name: found.sent_back(line.name, 0) for line in reversed(found.steps)}
    handed_on = {name: found.sent_back(name, -1) for name in cell.sheet.states}
    read = {part for e in (*same_step.values(), *handed_on.values()) for part in _read(e)}
    return _SideB(
        {name: _evaluated(e, cell) for name, e in same_step.items()},
        {name: _evaluated(e, cell) for name, e in handed_on.items()},
        {name: _evaluated(found.sent_back(name, 0), cell) for name in cell.sheet.inputs},
        {name: _of_parameter(cell, name) for name in Signature.of(cell).parameters},
        read,
    )


def _evaluated(e: Expression, cell: Cell) -> Evaluated | None:
    return None if e == ZERO else evaluated(e, cell)


def _read(e: Expression) -> list[tuple[str, int | None]]:
    """The names in an expression, with their steps; a scale is kept, so that what is in it is not read."""
    match e:
        case Call("scale"):
            return [(key_of(e), 0)]
        case Name(name, step):
            return [(name, step)]
    return [found for part in children(e) for found in _read(part)]


def _of_parameter(cell: Cell, name: str) -> Evaluated:
    """The sum over all steps and rows."""
    each = cell.derivation.sent_by_steps(name)
    value, sheet = evaluated(each, cell), cell.sheet
    if each == ZERO:
        like, axes = (sheet.output, 0), sheet.shapes.get(name) or (sheet.widths[name],)
        return lambda env: env[like].new_zeros([env[axis, SIZE] for axis in axes])
    if cell.sheet.is_matrix(name):
        return value
    return lambda env: value(env).expand(-1, env[cell.sheet.widths[name], SIZE]).sum(0)


def of_input(cell: Cell, env: Environment, name: str) -> Tensor:
    """B11 of an input at all steps, (N, ·) or (1, ·), from an environment with the rows of all steps."""
    sent_back = _side_b(cell).inputs[name]
    if sent_back is None:
        return env[cell.sheet.output, 0].new_zeros(1, env[cell.sheet.widths[name], SIZE])
    return sent_back(env).expand(-1, env[cell.sheet.widths[name], SIZE])


def of_parameters(cell: Cell, env: Environment, asked: set[str]) -> dict[str, Tensor]:
    """B8, B9, B10 of those that are asked, likewise."""
    return {name: value(env) for name, value in _side_b(cell).parameters.items() if name in asked}


def _in_time(steps: Steps) -> range:
    return range(steps.T)[:: -1 if steps.reverse else 1]


def _as_array(in_time: list[Tensor], width: str, env: Environment, steps: Steps, *, like: Tensor) -> Tensor:
    """One array of all steps."""
    if not in_time:
        return like.new_zeros(*steps.rows, env[width, SIZE])
    return torch.cat(in_time[::-1] if steps.reverse else in_time).view(*steps.rows, env[width, SIZE])


def _given(
    cell: Cell,
    weights: Weights,
    x: Tensor,
    first: Sequence[Tensor | None],
    steps: Steps,
    extras: Sequence[Tensor],
) -> tuple[Environment, Environment]:
    """Parameters and sizes; and all that has rows at every step, (N, ·): x, further inputs, masks."""
    signature = Signature.of(cell)
    env: Environment = {(size, SIZE): length for size, length in sizes_of(cell, weights, x, first, extras).items()}
    env |= {(name, None): tensor for name, tensor in weights.by_name().items()}
    of_rows: Environment = {("x", 0): x.flatten(0, -2) if x.is_floating_point() else x.flatten()}
    for name, mask in zip(signature.masks, extras, strict=False):
        of_rows[name, None] = steps.at_every_step(mask)
    for name, tensor in zip(signature.inputs, extras[len(signature.masks) :], strict=True):
        of_rows[name, 0] = tensor.flatten(0, -2)
    return env, of_rows


def _first(cell: Cell, env: Environment, x: Tensor, first: Sequence[Tensor | None], steps: Steps) -> dict[str, Tensor]:
    """(B, width) of each state."""
    like = next((tensor for tensor in env.values() if isinstance(tensor, Tensor)), x)
    return {
        name: like.new_zeros(steps.B, env[cell.sheet.widths[name], SIZE]) if h is None else h[0]
        for name, h in zip(cell.sheet.states, first, strict=True)
    }
