"""The worked example of side C: the gradient of the last step on its way back through networks of two units.

Only the last step has a loss, so ∂h_k is ∂L_T/∂h_k. The weights are small, then `LARGER` times as large, then small in
an LSTM that keeps what it has: the forget gate near 1, the input gate near 0. Each Jacobian is made by its formula;
what the product of them makes of ∂h_T stands beside the ∂h_k of the tape, which comes from side B.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.text import Text
from torch import Tensor

from bptt.lesson.printed import SIDE, Column, heading, in_tables, number, vectors
from bptt.lesson.worked import PLAIN, Network
from bptt.sheet import named
from bptt.sheet.sides import SIDE_C
from bptt.tape import Tape, record

STEPS = 6
PULSE, TARGET = 0.05, 0.5
W_xh, W_hh, W_ho = [[1.0, -1.0]], [[0.5, 0.4], [-0.3, 0.6]], [[0.6], [0.8]]
LARGER, KEPT = 3, {"b_f": 3.0, "b_i": -3.0}


@dataclass(frozen=True)
class Way:
    """One network and the way back of its gradient. Arrays of steps have them in order of time, from 1 to T.

    state      whose gradient is followed: h, or the c of an LSTM
    recurrent  W_hh, or what each of the matrices of h is
    factors    (T, 2, 2), J_t; of c along c alone
    """

    name: str
    state: str
    recurrent: Tensor
    tape: Tape
    factors: Tensor

    @cached_property
    def products(self) -> Tensor:
        """(T, 2, 2): J_T … J_t, by which the gradient of step T comes to step t−1."""
        found = [self.factors[-1]]
        for factor in reversed(self.factors[:-1]):
            found.append(found[-1] @ factor)
        return torch.stack(found[::-1])

    @property
    def largest(self) -> Tensor:
        """(T,): the largest singular values of J_t."""
        return torch.linalg.matrix_norm(self.factors, 2)

    @property
    def bounds(self) -> Tensor:
        """(T,): the products of those of J_T to J_t."""
        return self.largest.flip(0).cumprod(0).flip(0)

    @property
    def passed(self) -> Tensor:
        """(T, 2): what the products make of the gradient at step T."""
        return (self.tape.d(self.state)[-1] @ self.products)[:, 0]

    @property
    def gradient(self) -> Tensor:
        """(T, 2): the tape's ∂h_{t-1} or ∂c_{t-1}, on all ways."""
        return torch.cat([self.tape.d(f"{self.state}0"), self.tape.d(self.state)[:-1, 0]])

    @property
    def left(self) -> Tensor:
        """(T,): the norm of `gradient`, as a share of that at step T."""
        return self.gradient.norm(dim=-1) / self.tape.d(self.state)[-1].norm()


def ways() -> list[Way]:
    larger = [[round(LARGER * weight, 2) for weight in row] for row in W_hh]
    return [
        _plain("small weights", W_hh),
        _plain(f"the same weights times {LARGER}", larger),
        _gated("small weights in a cell that keeps", W_hh),
    ]


def _plain(name: str, recurrent: list[list[float]]) -> Way:
    model = Network(PLAIN, 1, 2, 1, "squared_error", 0, every_step=False)
    tape = _recorded(model, {"W_xh": W_xh, "W_hh": recurrent, "W_ho": W_ho})
    factors = torch.diag_embed(1 - tape.h[:, 0] ** 2) @ tape["W_hh"].mT
    return Way(name, "h", tape["W_hh"], tape, factors)


def _gated(name: str, recurrent: list[list[float]]) -> Way:
    model = Network(named("lstm"), 1, 2, 1, "squared_error", 0, every_step=False)
    weights: dict[str, Any] = {f"W_x{gate}": W_xh for gate in "ifgq"} | {f"W_h{gate}": recurrent for gate in "ifgq"}
    tape = _recorded(model, weights | KEPT | {"W_ho": W_ho})
    return Way(name, "c", tape["W_hf"], tape, torch.diag_embed(tape["f"][:, 0]))


def _recorded(model: Network, given: dict[str, Any]) -> Tape:
    for name, weight in model.weights().items():
        weight.copy_(torch.tensor(given.get(name, 0.0), dtype=torch.float64))
    x = torch.zeros(STEPS, 1, 1, dtype=torch.float64)
    x[0] = PULSE
    return record(model, x, torch.tensor([[TARGET]], dtype=torch.float64), weights=torch.ones(()))


def as_data() -> dict[str, Any]:
    """All that is printed, for JSON; docs/trace.md lists the keys. t runs from T to 1."""
    found = ways()
    return {
        "schema": 2,
        "example": "vanishing",
        "kind": "vanishing",
        "equations": {"side_C": [{"tag": tag, "text": text} for tag, text in SIDE_C.items()]},
        "networks": [
            {
                "name": way.name,
                "cell": {"name": way.tape.layer().cell.name, "text": way.tape.layer().cell.text},
                "state": way.state,
                "weights": {name: weight.tolist() for name, weight in way.tape.layer().weights.items()},
                "at_T": way.tape.d(way.state)[-1, 0].tolist(),
                "side_C": [_step(way, t) for t in reversed(range(STEPS))],
            }
            for way in found
        ],
        "check": _check(found),
    }


def _step(way: Way, t: int) -> dict[str, Any]:
    return {
        "t": t + 1,
        "values": {name: rows[t, 0].tolist() for name, rows in way.tape.layer().values.items()},
        "factor": way.factors[t].tolist(),
        "largest": float(way.largest[t]),
        "product": way.products[t].tolist(),
        "singular": torch.linalg.svdvals(way.products[t]).tolist(),
        "bound": float(way.bounds[t]),
        "passed": way.passed[t].tolist(),
        "gradient": way.gradient[t].tolist(),
        "left": float(way.left[t]),
    }


def _check(found: list[Way]) -> dict[str, float]:
    """The worst relative distances: of the products from side B, where h is all that is handed on, and of side B."""
    plain = [way for way in found if way.state == "h"]
    return {
        "products": max(float((way.passed - way.gradient).norm() / way.gradient.norm()) for way in plain),
        "autograd": max(way.tape.check().worst["autograd"].worst for way in found),
    }


def render(console: Console, digits: int = 4) -> None:
    """Prints the whole example, with that many significant digits."""
    found = ways()
    off = _check(found)
    shown: list[RenderableType] = [
        Text.assemble(("vanishing", "bold"), ": how far does the gradient of the last step reach back?"),
        Text(
            f"networks of two units, {STEPS} steps, float64; x_1 = {PULSE}, then 0; step {STEPS} alone has a loss, "
            f"squared error with y = {TARGET}"
        ),
        heading("C", "The equations, side C (‖J‖ is the largest singular value of J, γ that of |φ'|)"),
        *(Text.assemble((tag, SIDE["C"]), f" {text}") for tag, text in SIDE_C.items()),
    ]
    for way in found:
        shown += _shown(way, console.width, digits)
    shown += [
        heading("C", f"What is left of the norm at step {STEPS}, by the number of steps back"),
        *in_tables(_by_lag(found, digits), console.width),
        Text(
            f"The products are {off['products']:.1e} off side B, "
            f"and side B is {off['autograd']:.1e} off autograd (relative)"
        ),
    ]
    for part in shown:
        console.print(part, highlight=False)


def _shown(way: Way, width: int, digits: int) -> list[RenderableType]:
    def column(tag: str, symbol: str, rows: Tensor, style: str = "") -> list[Column]:
        return [vectors(tag, symbol, rows.view(STEPS, -1).flip(0), digits, style)]

    state, tape, last = way.state, way.tape, f"J_{STEPS} … J_t"
    time = [Column("", "t", [[str(t)] for t in range(STEPS, 0, -1)])]
    if state == "h":
        made = [
            column("A3", "h_t", tape.h),
            column("B7", "1 − h_t²", 1 - tape.h**2),
            [_matrices("C2", "J_t", way.factors, digits)],
        ]
    else:
        made = [column("A3", "f_t", tape["f"]), [_matrices("C5", "J_t", way.factors, digits)]]
    passed = [
        [_matrices("C1", last, way.products, digits)],
        column("C3", "singular values", torch.linalg.svdvals(way.products)),
        column("C3", f"‖J_{STEPS}‖ … ‖J_t‖", way.bounds),
        column("C1", f"∂{state}_{STEPS} {last}", way.passed),
        column("B6", f"= ∂{state}_{{t-1}}" if state == "h" else f"all of ∂{state}_{{t-1}}", way.gradient, "bold"),
        column("", "left of the norm", way.left, "bold"),
    ]
    return [
        heading("C", f"{way.name[0].upper()}{way.name[1:]}: the cell {tape.layer().cell.name}"),
        Text(_foreseen(way, digits)),
        *in_tables([time, *made, column("C3", "‖J_t‖", way.largest)], width),
        Text(),
        *in_tables([time, *passed], width),
        Text(_told(way, digits)),
    ]


def _matrices(tag: str, symbol: str, rows: Tensor, digits: int) -> Column:
    """A column with a matrix for each step, time running backwards."""
    cells = []
    for matrix in rows.flip(0).tolist():
        texts = [[number(entry, digits) for entry in row] for row in matrix]
        widths = [max(map(len, entries)) for entries in zip(*texts, strict=True)]
        cells.append(["  ".join(map(str.rjust, row, widths)) for row in texts])
    return Column(tag, symbol, cells)


def _foreseen(way: Way, digits: int) -> str:
    """The weights, and what C3 says before a step is done."""
    rows = "; ".join(" ".join(number(weight, digits) for weight in row) for row in way.recurrent.tolist())
    if way.state == "c":
        biases = ", ".join(f"{name} = {bias:g}" for name, bias in KEPT.items())
        return f"matrices of h = [{rows}], {biases}; J_t: along c alone"
    norm = float(torch.linalg.matrix_norm(way.recurrent, 2))
    verdict = "below 1: it must vanish" if norm < 1 else "not below 1: it can explode"
    return f"W_hh = [{rows}], γ ‖W_hh‖ = {number(norm, digits)} is {verdict}"


def _told(way: Way, digits: int) -> str:
    """What has become of the gradient at step 0."""
    share = float(way.left[0])
    every = STEPS * math.log(2) / abs(math.log(share))
    return (
        f"{STEPS} steps back the norm is {number(share, digits)} times as large: "
        f"it {'halves' if share < 1 else 'doubles'} every {number(every, 2)} steps"
    )


def _by_lag(found: list[Way], digits: int) -> list[list[Column]]:
    lags = [[Column("", "steps", [[str(lag)] for lag in range(1, STEPS + 1)])]]
    return lags + [[vectors("", way.name, way.left.flip(0)[:, None], digits)] for way in found]
