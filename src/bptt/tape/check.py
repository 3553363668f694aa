"""Is what a tape says true? Every number derived again from its neighbours, every gradient by two other roads.

Three judges, none of which shares code with the sweeps:

- the equations: each recorded array against the right-hand side of its tag, computed in float64 from the recorded
  arrays next to it. The residual is |difference| / (sum of the magnitudes of the terms), the measure in which a sum of
  n rounded products is off by at most about n eps / 2 whatever the order of summation; allowed is (8 + n) eps;
- autograd: the layer written once more as a plain loop of torch operations in float64, differentiated by torch. The
  residual is relative to the largest entry of each gradient or, where all of them are 0, to the magnitudes that they
  are the sums of; allowed is 64 eps for every term on the way, rows of the batch times steps plus hidden units, because
  rounding errors travel through the recurrence themselves;
- central differences, on float64 tapes: (J(θ+δv) − J(θ−δv)) / 2δ with δ = eps^⅓ = 6e-6, where the rounding of J
  (eps |J| / δ = 4e-11 |J|) and the third derivative (δ²/6 = 6e-12) weigh about the same; the residual is relative to
  |J| plus the largest entry of the gradient, and 1e-8 of it is allowed. Every entry of every parameter where that is
  affordable, else random directions v.

J is the loss itself for the top layer when the tape knows the output layer and the loss, and else Σ_t ⟨∂h_t from above,
h_t⟩, whose gradients are the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.autograd.recorded import Padding, Record
from bptt.engine.contract import Signature
from bptt.engine.evaluation import SIZE, Environment, evaluated, fixed_lines, identities_of
from bptt.engine.functions import TORCH
from bptt.sheet import Cell, losses
from bptt.sheet.derivation import ZERO
from bptt.sheet.expressions import Call, Cotangent, Expression, walk
from bptt.sheet.functions import FUNCTIONS
from bptt.sheet.sides import Line, Side
from bptt.tape.magnitudes import Weighed, weighed

DELTA = torch.finfo(torch.float64).eps ** (1 / 3)
STEPS_FOR_DIFFERENCES = 4096
NEAR_A_KINK = 1e-4
STEEPEST_NORM = 10

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda o, y: o.logsumexp(-1) - o.gather(-1, y[..., None])[..., 0],
    "binary_cross_entropy": lambda o, y: (F.softplus(o) - o * y).sum(-1),
    "squared_error": lambda o, y: ((o - y) ** 2).sum(-1),
}


class Recorded(Protocol):
    """The parts of a tape that `check` reads."""

    layers: list[Record]
    padding: Padding | None
    o: Tensor | None
    y_hat: Tensor | None
    loss: Tensor | None
    targets: Tensor | None
    w: Tensor | None
    L: Tensor | None
    do: Tensor | None
    W_ho: Tensor | None
    b_o: Tensor | None
    loss_name: str | None

    def grad(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Residual:
    """How far a number is from what it should be: the worst entry, and what rounding explains."""

    tag: str
    what: str
    where: str
    worst: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.worst <= self.bound


@dataclass(frozen=True)
class Report:
    """The outcome of `check`; prints as a table, one line for the worst case of each tag."""

    residuals: tuple[Residual, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(residual.ok for residual in self.residuals)

    @property
    def worst(self) -> dict[str, Residual]:
        """The worst residual of each tag, measured by what rounding explains."""
        worst: dict[str, Residual] = {}
        for residual in self.residuals:
            known = worst.get(residual.tag)
            if known is None or (known.ok and not residual.worst / residual.bound <= known.worst / known.bound):
                worst[residual.tag] = residual
        return worst

    def __str__(self) -> str:
        lines = [f"{'tag':<20} {'residual':>9}  {'allowed':>9}       worst at"]
        for tag, residual in self.worst.items():
            verdict = "ok" if residual.ok else "NO"
            place = f"{residual.what}, {residual.where}" if residual.where else residual.what
            lines.append(f"{tag:<20} {residual.worst:9.1e}  {residual.bound:9.1e}  {verdict}  {place}")
        return "\n".join([*lines, *self.notes])


def check(tape: Recorded) -> Report:
    """Compare everything on a complete tape with what it should be; see the module for how and how closely."""
    residuals: list[Residual] = []
    notes: list[str] = []
    with torch.no_grad():
        largest: dict[str, float] = {}
        for record in tape.layers:
            residuals += _layer(record, _where(record, tape.layers), largest)
        residuals += _output(tape)
        residuals += _between_layers(tape)
    closed = tape.W_ho is not None and tape.loss_name is not None
    top = tape.layers[-1].layer
    for number in range(top + 1):
        records = [record for record in tape.layers if record.layer == number]
        where = f"layer {number}" if top else ""
        graph = _Replay(tape if closed and number == top else None, records)
        residuals += _against_autograd(graph, where, largest)
        kinks = [words for record in records for words in _too_sharp(record)]
        if records[0].h.dtype != torch.float64:
            notes.append("central differences need a float64 tape")
        elif kinks:
            notes.append(f"no central differences: {kinks[0]}")
        else:
            residuals += _against_differences(graph, where)
    return Report(tuple(residuals), tuple(dict.fromkeys(notes)))


def _where(record: Record, layers: list[Record]) -> str:
    names = [f"layer {record.layer}"] if layers[-1].layer else []
    names += ["reverse" if record.reverse else "forward"] if any(other.reverse for other in layers) else []
    return ", ".join(names)


def _too_sharp(record: Record) -> Iterator[str]:
    """Where a function bends within the reach of a difference: at a choice, at a corner, at norm of next to nothing."""
    cell, env = record.cell, record.environment(dtype=torch.float64)
    calls = [part for line in cell.derivation.steps for part in walk(line.value) if isinstance(part, Call)]
    for call in calls:
        function = FUNCTIONS[cell.sheet.functions.get(call.function, call.function)]
        if any("where" in (back or "") or "sign" in (back or "") for back in function.back):
            first, *others = (torch.as_tensor(evaluated(part, cell)(env)) for part in call.arguments)
            if any(bool(((first - other).abs() < NEAR_A_KINK).any()) for other in others or [torch.zeros(())]):
                yield f"an argument of {function.name} is within {NEAR_A_KINK} of its kink"
        if function.name == "scale_gradient":
            yield "scale_gradient changes the way back and not the value, whose differences are another gradient"
        if function.name == "norm":
            scale = TORCH["scale"](evaluated(call.arguments[0], cell)(env))
            if bool((scale > STEEPEST_NORM).any()):
                yield f"norm multiplies by more than {STEEPEST_NORM}, its units being nearly equal"


def _residual(
    tag: str, what: str, where: str, recorded: Tensor | None, wanted: Tensor, terms: Tensor, count: int
) -> Iterator[Residual]:
    """`terms` is the sum of magnitudes that `wanted` is made of, `count` how many of them."""
    if recorded is None:
        return
    difference = (recorded.double() - wanted).abs()
    relative = torch.where(difference == 0, 0.0, difference / terms)
    worst = float(relative.max()) if relative.numel() else 0.0
    yield Residual(tag, what, where, worst, (8 + count) * torch.finfo(recorded.dtype).eps)


def _product(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """A product and the product of the magnitudes."""
    return left @ right, left.abs() @ right.abs()


def _layer(record: Record, where: str, largest: dict[str, float]) -> Iterator[Residual]:
    """largest: receives of each gradient the largest magnitude of its terms, by layer and name as in `_Replay`."""
    cell, found = record.cell, record.cell.derivation
    env = record.environment(dtype=torch.float64)

    def rows(array: Tensor | None) -> Tensor | None:
        return None if array is None else array.flatten(0, -2)

    def compared(line: Line, recorded: Tensor | None, wanted: Weighed | None, of: str = "") -> Iterator[Residual]:
        nothing = torch.zeros((), dtype=torch.float64)
        wanted = wanted or Weighed(nothing, nothing, 0)
        if of and wanted.magnitude.numel():
            largest[of] = max(float(wanted.magnitude.max()), largest.get(of, 0.0))
        yield from _residual(line.tag, line.text, where, recorded, *wanted)

    identities = identities_of(cell, record.sizes, record.h.double())
    env |= {(name, None): tensor.double() for name, tensor in (record.learned | record.fixed).items()}
    for line, side in zip(found.fixed, [side for side in cell.side_a if side.once], strict=True):
        env["I", None] = identities[line.name]
        yield from compared(side, record.weights.get(line.name), weighed(line.value, cell, env))
    for line, side in zip(found.steps, _lines(cell.side_a, "A2", "A3"), strict=True):
        yield from compared(side, rows(record[line.name]), weighed(line.value, cell, env))
    handed = {name: _weighed(found.sent_back(name, -1), cell, env) for name in record.first}
    arrived = {name: _to_the_step_before(record, name, sent) for name, sent in handed.items()}
    for line, side in zip(reversed(found.steps), _lines(cell.side_b, "B6", "B7"), strict=True):
        parts = [_weighed(found.sent_back(line.name, 0), cell, env)]
        if line.name in arrived:
            parts.append(arrived[line.name][0])
        if (outside := rows(record.from_outside.get(line.name))) is not None:
            parts.append(Weighed(outside.double(), outside.double().abs(), 0))
        yield from compared(side, rows(record.d(line.name)), _added(parts), _key(record, line.name))
    for side in _lines(cell.side_b, "B8", "B9", "B10"):
        assert isinstance(side.parts[0], Cotangent)
        name = side.parts[0].name
        if name in record.d_weights:
            sent = _weighed(found.sent_by_steps(name), cell, env)
            yield from compared(side, record.d_weights[name], _over_rows(record, name, sent), _key(record, name))
    for name, side in zip(record.first, _lines(cell.side_b, "B11"), strict=False):
        yield from compared(side, record.d_first.get(name), arrived[name][1], _key(record, f"{name}0"))
    for side in _lines(cell.side_b, "B11")[len(record.first) :]:
        if side.parts[0] == Cotangent("x", 0):
            sent = _weighed(found.sent_back("x", 0), cell, env)
            yield from compared(side, rows(record.dx), sent, f"{record.layer} x")


def _lines(side: Side, *tags: str) -> list[Line]:
    """Those with one of the tags that are of every step."""
    return [line for line in side if line.tag in tags and not line.once]


def _weighed(e: Expression, cell: Cell, env: Environment) -> Weighed | None:
    return None if e == ZERO else weighed(e, cell, env)


def _added(parts: Sequence[Weighed | None]) -> Weighed | None:
    there = [part for part in parts if part is not None]
    if not there:
        return None
    value, magnitude, roundings = there[0]
    for part in there[1:]:
        value, magnitude = value + part.value, magnitude + part.magnitude
        roundings += part.roundings
    return Weighed(value, magnitude, roundings)


def _over_rows(record: Record, name: str, sent: Weighed | None) -> Weighed | None:
    """A matrix is summed over the rows already; of a vector every row has sent a share."""
    if sent is None or record.cell.sheet.is_matrix(name):
        return sent
    rows, width = math.prod(record.h.shape[:-1]), len(record.weights[name])
    value, magnitude = (part.expand(rows, width).sum(0) for part in (sent.value, sent.magnitude))
    return Weighed(value, magnitude, sent.roundings + rows)


def _to_the_step_before(record: Record, name: str, sent: Weighed | None) -> tuple[Weighed | None, Weighed | None]:
    """What steps hand to the step before them, where it arrives: at the rows of all steps, at the first state."""
    if sent is None:
        return None, None
    steps, like = record.steps, record.values[name]
    states = steps.with_first(like, record.first[name][None])
    slots = torch.arange(math.prod(states.shape[:-1])).view(*states.shape[:-1], 1)
    to = steps.previous_of(slots).flatten()
    found = []
    for part in (sent.value, sent.magnitude):
        arrived = part.new_zeros(states.shape)
        arrived.view(-1, states.shape[-1])[to] = part.expand(len(to), states.shape[-1])
        found.append((steps.without_first(arrived).flatten(0, -2), steps.first_of(arrived)))
    (value, at_first), (magnitude, of_first) = found
    return Weighed(value, magnitude, sent.roundings), Weighed(at_first, of_first, sent.roundings)


def _output(tape: Recorded) -> Iterator[Residual]:
    if tape.o is None:
        return
    o = tape.o.double()
    if tape.W_ho is not None:
        W_ho = tape.W_ho.double()
        features, O = W_ho.shape
        h = _dense(tape, torch.cat([record.h for record in _top(tape)], -1).double())
        own = h[len(h) - len(o) :]
        b_o = torch.zeros(O, dtype=torch.float64) if tape.b_o is None else tape.b_o.double()
        from_h = _product(own, W_ho)
        yield from _residual("A5", "o = h W_ho + b_o", "", tape.o, from_h[0] + b_o, from_h[1] + b_o.abs(), features)
    if tape.loss_name is None or tape.y_hat is None or tape.targets is None or tape.w is None:
        return
    y_hat, w, O = tape.y_hat.double(), tape.w.double(), o.shape[-1]
    steep = 1 + o.abs().amax(-1, keepdim=True) if O else o[..., :0]
    pair = losses.pair(tape.loss_name)
    yield from _residual("A6", "y_hat = g(o)", "", tape.y_hat, pair.g(o), y_hat.abs() * steep, O)
    per_row = _LOSSES[tape.loss_name](o, tape.targets)
    targets = F.one_hot(tape.targets, O) if tape.loss_name == "cross_entropy" else tape.targets
    magnitude = steep[..., 0] * O if tape.loss_name != "squared_error" else (o.abs() + targets.abs()).square().sum(-1)
    yield from _residual("B1", "loss(y_hat, y)", "", tape.loss, per_row, per_row.abs() + magnitude, O)
    if tape.L is not None and tape.loss is not None:
        with_output = w[len(w) - len(o) :]
        weighted = with_output * tape.loss.double()
        yield from _residual("B1", "L = Σ w loss", "", tape.L, weighted.sum(), weighted.abs().sum(), weighted.numel())
    if tape.do is not None:
        factor = 2 if tape.loss_name == "squared_error" else 1
        wanted, terms = torch.zeros_like(tape.do, dtype=torch.float64), torch.zeros_like(tape.do, dtype=torch.float64)
        weights = factor * w[len(w) - len(o) :, ..., None]
        wanted[len(w) - len(o) :] = weights * (y_hat - targets)
        terms[len(w) - len(o) :] = weights.abs() * (y_hat.abs() * steep + targets.abs())
        yield from _residual("B3", "do = w (y_hat − y)", "", tape.do, wanted, terms, O)


def _between_layers(tape: Recorded) -> Iterator[Residual]:
    """The first part of B6: ∂h_t from the output above, or from the layer above."""
    if tape.W_ho is None or tape.loss_name is None or tape.do is None:
        return
    do = tape.do.double() if tape.padding is None else tape.padding.rows(tape.do.double())
    from_output = _product(do, tape.W_ho.double().mT)
    _, O = tape.W_ho.shape
    for record in _top(tape):
        half = _half(record)
        wanted, terms = (part[..., half] for part in from_output)
        where = _where(record, tape.layers)
        yield from _residual("B6", "own output = do W_hoᵀ", where, record.dh_direct, wanted, terms, O)
    for number in range(tape.layers[-1].layer):
        below = [record for record in tape.layers if record.layer == number]
        above = [record for record in tape.layers if record.layer == number + 1]
        if not torch.equal(torch.cat([record.h for record in below], -1), above[0].x):
            continue
        parts = [record.dx.double() for record in above if record.dx is not None]
        wanted, terms = sum(parts, torch.zeros(())), sum((part.abs() for part in parts), torch.zeros(()))
        for record in below:
            half = _half(record)
            where = _where(record, tape.layers)
            recorded = record.dh_direct
            yield from _residual("B6", "from above = dx above", where, recorded, wanted[..., half], terms[..., half], 2)


def _half(record: Record) -> slice:
    """Where the states of a direction lie in those of both."""
    H = record.h.shape[-1]
    return slice(H, None) if record.reverse else slice(0, H)


def _dense(tape: Recorded, rows: Tensor) -> Tensor:
    return rows if tape.padding is None else tape.padding.dense(rows)


def _top(tape: Recorded) -> list[Record]:
    return [record for record in tape.layers if record.layer == tape.layers[-1].layer]


class _Replay:
    """One layer, both directions if it has them, as a function of its parameters: plain torch, float64.

    parameters   by name, prefixed by the direction
    recorded     the gradients on the tape under the same names
    """

    def __init__(self, tape: Recorded | None, records: Sequence[Record]) -> None:
        self.tape, self.records = tape, records
        self.given = [record.environment(dtype=torch.float64) for record in records]
        self.parameters: dict[str, Tensor] = {}
        self.recorded: dict[str, Tensor | None] = {}
        for record in records:
            prefix = _prefix(record)
            for name in record.learned or Signature.of(record.cell).parameters:
                self.parameters[prefix + name] = record[name].double()
                is_there = bool(record.learned) or name in record.d_weights
                self.recorded[prefix + name] = record.grad(name) if is_there else None
            for name in Signature.of(record.cell).inputs:
                self.parameters[prefix + name], self.recorded[prefix + name] = record.weights[name].double(), None
            for name, value in record.first.items():
                self.parameters[f"{prefix}{name}0"] = value.double()
                self.recorded[f"{prefix}{name}0"] = record.d_first.get(name)
        if records[0].x.is_floating_point():
            self.parameters["x"] = records[0].x.double()
            parts = [record.dx for record in records if record.dx is not None]
            self.recorded["x"] = sum(parts[1:], parts[0]) if len(parts) == len(records) else None
        if tape is not None:
            for name in ("W_ho", "b_o"):
                value = getattr(tape, name)
                if value is not None:
                    self.parameters[name], self.recorded[name] = value.double(), tape.grad(name)

    def run(self, parameters: dict[str, Tensor]) -> tuple[Tensor, list[dict[str, list[Tensor]]]]:
        """J, and for each direction every value by step."""
        made = [self._direction(*of_record, parameters) for of_record in zip(self.records, self.given, strict=True)]
        J = torch.zeros((), dtype=torch.float64)
        for record, values in zip(self.records, made, strict=True):
            for name, outside in record.from_outside.items():
                if values[name] and (self.tape is None or name != record.output):
                    J = J + (torch.cat(values[name]) * outside.double().flatten(0, -2)).sum()
        tape = self.tape
        if tape is None:
            return J, made
        assert tape.o is not None
        assert tape.w is not None
        assert tape.targets is not None
        assert tape.loss_name is not None
        h = torch.cat([torch.cat(values[record.output]) for record, values in zip(self.records, made, strict=True)], -1)
        h = _dense(tape, h).flatten(0, -2)
        rows = math.prod(tape.o.shape[:-1])
        o = h[len(h) - rows :] @ parameters["W_ho"]
        o = (o + parameters["b_o"] if "b_o" in parameters else o).view(tape.o.shape)
        w = tape.w.double()
        return J + (w[len(w) - len(o) :] * _LOSSES[tape.loss_name](o, tape.targets)).sum(), made

    def _direction(self, record: Record, given: Environment, parameters: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        cell, steps, prefix, signature = record.cell, record.steps, _prefix(record), Signature.of(record.cell)
        env: Environment = {key: value for key, value in given.items() if key[1] == SIZE}
        weights = {name: parameters[prefix + name] for name in record.learned or signature.parameters}
        if record.learned:
            weights |= fixed_lines(cell, weights, record.sizes)
        env |= {(name, None): tensor for name, tensor in weights.items()}
        rows = steps.rows_of_steps
        x = parameters["x"].flatten(0, -2) if "x" in parameters else record.x.flatten()
        timed = {("x", 0): x.split(rows)}
        timed |= {(name, None): given[name, None].split(rows) for name in signature.masks}
        timed |= {(name, 0): parameters[prefix + name].flatten(0, -2).split(rows) for name in signature.inputs}
        lines = {line.name: evaluated(line.value, cell) for line in cell.derivation.steps}
        now = {name: parameters[f"{prefix}{name}0"] for name in signature.states}
        made: dict[str, list[Tensor]] = {name: [] for name in lines}
        for t in range(steps.T)[:: -1 if steps.reverse else 1]:
            env |= {key: of_steps[t] for key, of_steps in timed.items()}
            env |= {(name, -1): state[: rows[t]] for name, state in now.items()}
            for name, line in lines.items():
                value = torch.as_tensor(line(env), dtype=torch.float64)
                env[name, 0] = value.expand(rows[t], record.values[name].shape[-1])
                made[name].append(env[name, 0])
            now = {name: torch.cat([env[name, 0], state[rows[t] :]]) for name, state in now.items()}
        return {name: of_steps[::-1] if steps.reverse else of_steps for name, of_steps in made.items()}


def _key(record: Record, name: str) -> str:
    return f"{record.layer} {_prefix(record)}{name}"


def _prefix(record: Record) -> str:
    return "reverse " if record.reverse else ""


def _d(name: str) -> str:
    own = name.removeprefix("reverse ")
    return f"d{own}, reverse" if own != name else f"d{own}"


def _relative(recorded: Tensor, wanted: Tensor, scale: float) -> float:
    if not wanted.numel():
        return 0.0
    difference = float((recorded.double() - wanted).abs().max())
    return difference and (difference / scale if scale else math.inf)


def _against_autograd(graph: _Replay, where: str, largest: dict[str, float]) -> Iterator[Residual]:
    records = graph.records
    if not records[0].h.numel():
        return
    with torch.enable_grad():
        parameters = {name: value.clone().requires_grad_() for name, value in graph.parameters.items()}
        J, made = graph.run(parameters)
        within = [array for values in made for of_steps in values.values() for array in of_steps]
        gradients = iter(
            torch.autograd.grad(J, [*parameters.values(), *within], allow_unused=True, materialize_grads=True)
        )
    eps = torch.finfo(records[0].h.dtype).eps
    bound = 64 * eps * (math.prod(records[0].h.shape[:-1]) + records[0].h.shape[-1])

    def compared(name: str, recorded: Tensor, gradient: Tensor, key: str) -> Residual:
        scale = (float(gradient.abs().max()) if gradient.numel() else 0.0) or largest.get(key, 0.0)
        return Residual("autograd", _d(name), where, _relative(recorded, gradient, scale), bound)

    for name in parameters:
        gradient, recorded = next(gradients), graph.recorded[name]
        if recorded is not None:
            yield compared(name, recorded, gradient, f"{records[0].layer} {name}")
    for record, values in zip(records, made, strict=True):
        for name, of_steps in values.items():
            gradient, recorded = torch.cat([next(gradients) for _ in of_steps]), record.totals[name].flatten(0, -2)
            yield compared(name, recorded, gradient, _key(record, name))


def _against_differences(graph: _Replay, where: str) -> Iterator[Residual]:
    record = graph.records[0]
    if not record.h.numel():
        return
    T = record.steps.T
    generator = torch.Generator().manual_seed(0)
    J = abs(float(graph.run(graph.parameters)[0]))
    affordable = max(1, STEPS_FOR_DIFFERENCES // T)
    for name, value in graph.parameters.items():
        recorded = graph.recorded[name]
        if recorded is None or not value.numel():
            continue
        if value.numel() <= affordable:
            directions = torch.eye(value.numel(), dtype=torch.float64)
        else:
            directions = torch.randn(min(affordable, 8), value.numel(), dtype=torch.float64, generator=generator)
            directions /= directions.norm(dim=1, keepdim=True)
        slopes = []
        for direction in directions.view(-1, *value.shape):
            ahead, behind = (
                graph.run(graph.parameters | {name: value + sign * DELTA * direction})[0] for sign in (1, -1)
            )
            slopes.append((ahead - behind) / (2 * DELTA))
        along = directions @ recorded.double().flatten()
        found = torch.stack(slopes)
        residual = _relative(along, found, J + float(found.abs().max()))
        yield Residual("central differences", _d(name), where, residual, 1e-8)
