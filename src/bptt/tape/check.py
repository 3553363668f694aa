"""Is what a tape says true? Every number derived again from its neighbours, every gradient by two other roads.

Three judges, none of which shares code with the sweeps:

- the equations: each recorded array against the right-hand side of its tag, computed in float64 from the recorded
  arrays next to it. The residual is |difference| / (sum of the magnitudes of the terms), the measure in which a sum of
  n rounded products is off by at most about n eps / 2 whatever the order of summation; allowed is (8 + n) eps;
- autograd: the layer written once more as a plain loop of torch operations in float64, differentiated by torch. The
  residual is relative to the largest entry of each gradient; allowed is 64 eps for every term on the way, rows of the
  batch times steps plus hidden units, because rounding errors travel through the recurrence themselves;
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

from bptt.autograd.recorded import Record
from bptt.engine.activations import activation
from bptt.sheet import losses

DELTA = torch.finfo(torch.float64).eps ** (1 / 3)
STEPS_FOR_DIFFERENCES = 4096
NEAR_A_KINK = 1e-4

# The magnitude that φ' is the difference of, as a function of h.
_DERIVATIVE_TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda h: 1 + h * h,
    "sigmoid": lambda h: h + h * h,
    "relu": torch.ones_like,
    "identity": torch.ones_like,
}

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda o, y: o.logsumexp(-1) - o.gather(-1, y[..., None])[..., 0],
    "binary_cross_entropy": lambda o, y: (F.softplus(o) - o * y).sum(-1),
    "squared_error": lambda o, y: ((o - y) ** 2).sum(-1),
}


class Recorded(Protocol):
    """The parts of a tape that `check` reads."""

    layers: list[Record]
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
        for record in tape.layers:
            residuals += _layer(record, _where(record, tape.layers))
        residuals += _output(tape)
        residuals += _between_layers(tape)
    closed = tape.W_ho is not None and tape.loss_name is not None
    top = tape.layers[-1].layer
    for number in range(top + 1):
        records = [record for record in tape.layers if record.layer == number]
        where = f"layer {number}" if top else ""
        graph = _Replay(tape if closed and number == top else None, records)
        residuals += _against_autograd(graph, where)
        if records[0].a.dtype != torch.float64:
            notes.append("central differences need a float64 tape")
        elif any(record.activation == "relu" and bool((record.a.abs() < NEAR_A_KINK).any()) for record in records):
            notes.append(f"no central differences: a relu unit is within {NEAR_A_KINK} of its kink")
        else:
            residuals += _against_differences(graph, where)
    return Report(tuple(residuals), tuple(dict.fromkeys(notes)))


def _where(record: Record, layers: list[Record]) -> str:
    names = [f"layer {record.layer}"] if layers[-1].layer else []
    names += ["reverse" if record.reverse else "forward"] if any(other.reverse for other in layers) else []
    return ", ".join(names)


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


def _layer(record: Record, where: str) -> Iterator[Residual]:
    assert record.dh_direct is not None
    assert record.dh is not None
    assert record.da is not None
    W_xh, W_hh, h, h_prev = (array.double() for array in (record.W_xh, record.W_hh, record.h, record.h_prev))
    tokens = not record.x.is_floating_point()
    x = record.x if tokens else record.x.double()
    (I, H), rows = W_xh.shape, math.prod(record.a.shape[:-1])

    from_x = (W_xh[x], W_xh[x].abs()) if tokens else _product(x, W_xh)
    from_h = _product(h_prev, W_hh)
    b_h = torch.zeros(H, dtype=torch.float64) if record.b_h is None else record.b_h.double()
    terms = from_x[1] + from_h[1] + b_h.abs()
    wanted = from_x[0] + from_h[0] + b_h
    yield from _residual("A2", "a = x W_xh + h_prev W_hh + b_h", where, record.a, wanted, terms, I + H)
    a = record.a.double()
    phi = activation(record.activation)
    yield from _residual("A3", "h = φ(a)", where, record.h, phi.phi(a), h.abs() * (1 + a.abs()), 1)

    da, direct = record.da.double(), record.dh_direct.double()
    handed, handed_terms = _product(da, W_hh.mT)
    future, to_h0 = _to_the_step_before(record, handed)
    future_terms, to_h0_terms = _to_the_step_before(record, handed_terms)
    terms = direct.abs() + future_terms
    yield from _residual("B6", "dh = own output + future", where, record.dh, direct + future, terms, H)
    dh = record.dh.double()
    terms = dh.abs() * _DERIVATIVE_TERMS[record.activation](h)
    yield from _residual("B7", "da = dh ⊙ φ'(h)", where, record.da, dh * phi.derivative(h), terms, 4)

    flat = da.flatten(0, -2)
    yield from _residual("B8", "db_h = Σ da", where, record.db_h, flat.sum(0), flat.abs().sum(0), rows)
    one_hot = F.one_hot(x.flatten(), I).double() if tokens else x.flatten(0, -2)
    yield from _residual("B9", "dW_xh = Σ xᵀ da", where, record.dW_xh, *_product(one_hot.mT, flat), rows)
    by_h = _product(h_prev.flatten(0, -2).mT, flat)
    yield from _residual("B10", "dW_hh = Σ h_prevᵀ da", where, record.dW_hh, *by_h, rows)
    yield from _residual("B11", "dh0 = da_1 W_hhᵀ", where, record.dh0, to_h0, to_h0_terms, H)
    yield from _residual("B11", "dx = da W_xhᵀ", where, record.dx, *_product(da, W_xh.mT), H)


def _to_the_step_before(record: Record, handed: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients that steps hand to the step before them, where they arrive: (laid out as h, at h0)."""
    steps, states = record.steps, record.states
    slots = torch.arange(math.prod(states.shape[:-1])).view(*states.shape[:-1], 1)
    arrived = handed.new_zeros(states.shape)
    arrived.view(-1, handed.shape[-1])[steps.previous_of(slots).flatten()] = handed.flatten(0, -2)
    return steps.without_first(arrived), steps.first_of(arrived)


def _output(tape: Recorded) -> Iterator[Residual]:
    if tape.o is None:
        return
    o = tape.o.double()
    if tape.W_ho is not None:
        W_ho = tape.W_ho.double()
        features, O = W_ho.shape
        h = torch.cat([record.h for record in _top(tape)], -1).double()
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
    from_output = _product(tape.do.double(), tape.W_ho.double().mT)
    _, O = tape.W_ho.shape
    H = tape.layers[-1].W_hh.shape[-1]
    for record in _top(tape):
        half = slice(H, None) if record.reverse else slice(0, H)
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
            half = slice(H, None) if record.reverse else slice(0, H)
            where = _where(record, tape.layers)
            recorded = record.dh_direct
            yield from _residual("B6", "from above = dx above", where, recorded, wanted[..., half], terms[..., half], 2)


def _top(tape: Recorded) -> list[Record]:
    return [record for record in tape.layers if record.layer == tape.layers[-1].layer]


class _Replay:
    """One layer, both directions if it has them, as a function of its parameters: plain torch, float64.

    parameters   by name, prefixed by the direction
    recorded     the gradients on the tape under the same names
    """

    def __init__(self, tape: Recorded | None, records: Sequence[Record]) -> None:
        self.tape, self.records = tape, records
        self.parameters: dict[str, Tensor] = {}
        self.recorded: dict[str, Tensor | None] = {}
        for record in records:
            prefix = "reverse " if record.reverse else ""
            for name in ("W_xh", "W_hh", "b_h", "h0"):
                value = getattr(record, name)
                if value is not None:
                    self.parameters[prefix + name] = value.double()
                    self.recorded[prefix + name] = getattr(record, f"d{name}")
        if records[0].x.is_floating_point():
            self.parameters["x"] = records[0].x.double()
            parts = [record.dx for record in records if record.dx is not None]
            self.recorded["x"] = sum(parts[1:], parts[0]) if len(parts) == len(records) else None
        if tape is not None:
            for name in ("W_ho", "b_o"):
                value = getattr(tape, name)
                if value is not None:
                    self.parameters[name], self.recorded[name] = value.double(), tape.grad(name)

    def run(self, parameters: dict[str, Tensor]) -> tuple[Tensor, list[tuple[list[Tensor], list[Tensor]]]]:
        """J, and for each direction a_t and h_t by step."""
        steps = [self._direction(record, parameters) for record in self.records]
        if self.tape is None:
            J = torch.zeros((), dtype=torch.float64)
            for record, (_, h) in zip(self.records, steps, strict=True):
                assert record.dh_direct is not None
                if h:
                    J = J + (torch.cat(h) * record.dh_direct.double().flatten(0, -2)).sum()
            return J, steps
        tape = self.tape
        assert tape.o is not None
        assert tape.w is not None
        assert tape.targets is not None
        assert tape.loss_name is not None
        h = torch.cat([torch.cat(h) for _, h in steps], -1)
        rows = math.prod(tape.o.shape[:-1])
        o = h[len(h) - rows :] @ parameters["W_ho"]
        o = (o + parameters["b_o"] if "b_o" in parameters else o).view(tape.o.shape)
        w = tape.w.double()
        return (w[len(w) - len(o) :] * _LOSSES[tape.loss_name](o, tape.targets)).sum(), steps

    def _direction(self, record: Record, parameters: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        prefix = "reverse " if record.reverse else ""
        W_xh, W_hh, state = (parameters[prefix + name] for name in ("W_xh", "W_hh", "h0"))
        sizes = record.batch_sizes or [record.batch] * len(record.a)
        x_rows = parameters.get("x", record.x).flatten(0, 1 if record.batch_sizes is None else 0)
        x_steps = x_rows.split(list(sizes))
        a_steps, h_steps = [], []
        for x in reversed(x_steps) if record.reverse else x_steps:
            a = W_xh[x] if "x" not in parameters else x @ W_xh
            a = a + state[: len(x)] @ W_hh
            a = a + parameters[prefix + "b_h"] if prefix + "b_h" in parameters else a
            h = activation(record.activation).phi(a)
            state = torch.cat([h, state[len(x) :]])
            a_steps.append(a)
            h_steps.append(h)
        return (a_steps[::-1], h_steps[::-1]) if record.reverse else (a_steps, h_steps)


def _relative(recorded: Tensor, wanted: Tensor, beside: float = 0.0) -> float:
    if not wanted.numel():
        return 0.0
    difference = float((recorded.double() - wanted).abs().max())
    return difference / (float(wanted.abs().max()) + beside) if difference else 0.0


def _against_autograd(graph: _Replay, where: str) -> Iterator[Residual]:
    records = graph.records
    if not records[0].a.numel():
        return
    with torch.enable_grad():
        parameters = {name: value.clone().requires_grad_() for name, value in graph.parameters.items()}
        J, steps = graph.run(parameters)
        within = [array for a, h in steps for array in (*a, *h)]
        gradients = iter(torch.autograd.grad(J, [*parameters.values(), *within], materialize_grads=True))
    eps = torch.finfo(records[0].a.dtype).eps
    bound = 64 * eps * (math.prod(records[0].a.shape[:-1]) + records[0].a.shape[-1])
    for name in parameters:
        gradient, recorded = next(gradients), graph.recorded[name]
        if recorded is not None:
            yield Residual("autograd", f"d{name}", where, _relative(recorded, gradient), bound)
    for record, (a, _) in zip(records, steps, strict=True):
        for name in ("da", "dh"):
            gradient = torch.cat([next(gradients) for _ in a])
            recorded = getattr(record, name).flatten(0, -2)
            yield Residual("autograd", name, where, _relative(recorded, gradient), bound)


def _against_differences(graph: _Replay, where: str) -> Iterator[Residual]:
    record = graph.records[0]
    if not record.a.numel():
        return
    T = len(record.batch_sizes or record.a)
    generator = torch.Generator().manual_seed(0)
    J = abs(float(graph.run(graph.parameters)[0]))
    for name, value in graph.parameters.items():
        recorded = graph.recorded[name]
        if recorded is None or not value.numel():
            continue
        affordable = max(1, STEPS_FOR_DIFFERENCES // T)
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
        yield Residual("central differences", f"d{name}", where, _relative(along, torch.stack(slopes), J), 1e-8)
