"""Golden tapes: what the player's TypeScript must make of a tape, worked out here by plain torch and autograd.

Side A of each cell is run once more by `sheets.run`, so nothing here knows an equation.

As JSON each holds `tape`, as `player.as_json` puts it into a page, and `expected`: values and terms by address
(counted from 1, as in the hash of a page), the norms ‖∂L_t/∂h_k‖ of single losses, and what windows of truncated BPTT
lose.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import sheets
import torch
from published_cells import PUBLISHED
from torch import Tensor

from bptt import Cell, Tape, record, recording
from bptt.lesson import worked
from bptt.nn import RNN, Elman, Recurrent
from bptt.sheet import losses, named, notations
from bptt.sheet.cells import CELLS
from bptt.sheet.data import as_data
from bptt.sheet.expressions import Cotangent, Name
from bptt.tape import Record, player

TWO_MEMORIES = """
α : constant = 0.3
γ : vector = 1
ζ : scalar = 0.5
s : size S
r : size S
M = W_hh − W_hhᵀ − α ⊙ I
f_t = σ(x_t W_xf + drop(h_{t-1}) W_hf + b_f)
r_t = max(x_t W_xr, 0.1 ⊙ s_{t-1})
s_t = (1 − α) ⊙ s_{t-1} + α ⊙ norm(r_t)
h_t = f_t ⊙ h_{t-1} + γ ⊙ tanh(h_{t-1} M + s_t W_sh) ⊙ (ζ / (1 + f_t²))
"""

HIGHWAY = """
M = W_hh − W_hhᵀ
f_t = σ(x_t W_xf + b_f)
a_t = x_t W_xh + h_{t-1} M + 0.5 ⊙ (h_{t-1} W_hh) + b_h
h_t = f_t ⊙ tanh(a_t) + (1 − f_t) ⊙ x_t
"""

MADE_ONCE = """
ζ : scalar = 2
V_1 : size R
M = (V_1 V_2) / ζ
s = b_h W_hh
h_t = tanh(x_t W_xh + h_{t-1} M + s)
"""


@dataclass
class Golden:
    tape: Tape
    shown: dict[str, int] = field(default_factory=dict)
    windows: tuple[int, ...] = ()

    @property
    def row(self) -> int:
        return self.shown.get("row", 0)


class Everywhere(torch.nn.Module):
    """Both directions, two layers, an output at every step or at the last."""

    def __init__(self, *, last: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.rnn = RNN(3, 4, 2, "tanh", bidirectional=True, dropout=dropout, dtype=torch.float64)
        self.head = torch.nn.Linear(8, 2, dtype=torch.float64)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(x)
        return self.head(h[-1] if self.last else h)


class Gated(torch.nn.Module):
    """A cell by its name or text under an output layer."""

    def __init__(
        self,
        cell: Cell | str,
        I: int,
        H: int,
        O: int,
        *,
        last: bool = False,
        dtype: Any = torch.float64,
        **options: Any,
    ) -> None:
        super().__init__()
        self.rnn = Recurrent(cell, I, H, dtype=dtype, **options)
        self.head = torch.nn.Linear(2 * H if self.rnn.bidirectional else H, O, dtype=dtype)
        self.last = last
        self.loss_name = "cross_entropy"

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(x)
        return self.head(h[-1] if self.last else h)


def word() -> Golden:
    return Golden(worked.work(worked.example("hello"), 0).tape, windows=(1, 2, 3))


def numbers() -> Golden:
    return Golden(worked.work(worked.example("1,3,5,7,9"), 0).tape, windows=(1, 2))


def bits() -> Golden:
    return Golden(worked.work(worked.example("01101001"), 0).tape, windows=(1, 3))


def stacked() -> Golden:
    model = Elman(7, 6, 7, num_layers=2, nonlinearity="sigmoid")
    x = torch.randint(7, (9, 2))
    return Golden(record(model, x, x.roll(-1, 0), vocabulary=list("abcdefg")), {"row": 1}, windows=(4,))


def both_ways() -> Golden:
    tape = record(Everywhere(), _normal(6, 1, 3), _normal(6, 1, 2), loss="squared_error")
    return Golden(tape, windows=(2, 4))


def both_ways_dropped() -> Golden:
    tape = record(Everywhere(last=True, dropout=0.5), _normal(5, 1, 3), _normal(1, 2), loss="squared_error")
    return Golden(tape)


def window() -> Golden:
    model = Elman(5, 8, 5, dtype=torch.float64)
    x = torch.randint(5, (40, 1))
    return Golden(record(model, x, x.roll(-1, 0), vocabulary=list("vwxyz")), {"first": 10, "steps": 12})


def packed() -> Golden:
    rnn = RNN(2, 3, dtype=torch.float64)
    sequences = [_normal(5, 2), _normal(3, 2)]
    with recording() as tapes:
        h, _ = rnn(torch.nn.utils.rnn.pack_sequence(sequences))
        h.data.square().sum().backward()
    return Golden(tapes[0], {"row": 1})


def watched() -> Golden:
    """A loss that the tape does not know, on an output layer that it does."""
    model = Elman(3, 4, 2, dtype=torch.float64)
    with recording() as tapes:
        model(_normal(6, 1, 3))[0].sin().sum().backward()
    return Golden(tapes[0])


def lstm() -> Golden:
    """Symbols, an answer at every step."""
    x = torch.randint(5, (7, 1))
    return Golden(record(Gated("lstm", 5, 4, 5), x, x.roll(-1, 0), vocabulary=list("vwxyz")), windows=(2, 3))


def lstm_window() -> Golden:
    """Some steps of a longer tape, on numbers."""
    tape = record(Gated("lstm", 3, 4, 2), _normal(12, 1, 3), _normal(12, 1, 2), loss="squared_error")
    return Golden(tape, {"first": 4, "steps": 5})


def gru() -> Golden:
    """Two layers, the second row of a batch, float32."""
    x = torch.randint(5, (6, 2))
    model = Gated("gru", 5, 4, 5, num_layers=2, dtype=torch.float32)
    return Golden(record(model, x, x.roll(-1, 0), vocabulary=list("abcde")), {"row": 1}, windows=(2,))


def gru_v1() -> Golden:
    """Both directions."""
    model = Gated("gru-v1", 3, 4, 2, bidirectional=True)
    return Golden(record(model, _normal(6, 1, 3), _normal(6, 1, 2), loss="squared_error"), windows=(2,))


def mgu() -> Golden:
    """An output at the last step alone."""
    model = Gated("mgu", 3, 4, 2, last=True)
    return Golden(record(model, _normal(6, 1, 3), _normal(1, 2), loss="squared_error"), windows=(2,))


def peephole() -> Golden:
    x = torch.randint(4, (5, 1))
    return Golden(record(Gated("peephole", 4, 3, 4), x, x.roll(-1, 0), vocabulary=list("abcd")), windows=(2,))


def indrnn() -> Golden:
    return Golden(
        record(Gated("indrnn", 3, 4, 2), _normal(6, 1, 3), _normal(6, 1, 2), loss="squared_error"), windows=(3,)
    )


def two_memories() -> Golden:
    """Of one's own: two states of different widths, a constant, a fixed matrix, dropout of a state, layer norm."""
    cell = Cell(TWO_MEMORIES, "two memories")
    model = Gated(cell, 5, 4, 5, sizes={"S": 9}, recurrent_dropout=0.5)
    x = torch.randint(5, (6, 1))
    return Golden(record(model, x, x.roll(-1, 0), vocabulary=list("abcde")), windows=(2,))


def highway() -> Golden:
    """Two layers that read x outside products, too, and a weight that the steps read beside a line made of it."""
    model = Gated(Cell(HIGHWAY, "highway"), 4, 4, 2, num_layers=2)
    tape = record(model, _normal(6, 1, 4), _normal(6, 1, 2), loss="squared_error")
    return Golden(tape, windows=(2,))


def made_once() -> Golden:
    """Lines without a time that hold products and a number that divides a matrix."""
    model = Gated(Cell(MADE_ONCE, "made once"), 3, 4, 2, sizes={"R": 2})
    return Golden(record(model, _normal(5, 1, 3), _normal(5, 1, 2), loss="squared_error"), windows=(2,))


def unseen() -> Golden:
    """No output layer: a loss that reads every h and the last c."""
    rnn = Recurrent("lstm", 3, 4, dtype=torch.float64)
    with recording() as tapes:
        h, (_, c) = rnn(_normal(5, 1, 3))
        (h.square().sum() + c.sum()).backward()
    return Golden(tapes[0])


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


MAKERS: list[Callable[[], Golden]] = [
    word,
    numbers,
    bits,
    stacked,
    both_ways,
    both_ways_dropped,
    window,
    packed,
    watched,
    lstm,
    lstm_window,
    gru,
    gru_v1,
    mgu,
    peephole,
    indrnn,
    two_memories,
    highway,
    made_once,
    unseen,
]


def goldens() -> Iterator[tuple[str, Golden]]:
    for make in MAKERS:
        torch.manual_seed(0)
        yield make.__name__, make()


def as_json(golden: Golden) -> str:
    """The golden tape as the player's tests read it."""
    tape = json.loads(player.as_json(player.data(golden.tape, **golden.shown)))
    return json.dumps({"tape": tape, "expected": expected(golden)}, allow_nan=False)


def expected(golden: Golden) -> dict[str, Any]:
    tape, row = golden.tape, golden.row
    terms = list(_terms(golden)) if tape.layers[0].batch_sizes is None else []
    whole = golden.shown.get("steps") is None and tape.loss_name is not None and tape.layers[0].batch_sizes is None
    traced = whole and not any(map(is_dropped(tape), tape.layers))
    return {
        "terms": terms,
        "reach": [_norms(tape, row, place) for place in range(len(tape.layers))] if traced else [],
        "truncated": {str(k): _truncated(tape, k) for k in golden.windows} if row == 0 else {},
    }


def is_dropped(tape: Tape) -> Callable[[Record], bool]:
    """Whether dropout lies between a layer and the one above it."""

    def of(layer: Record) -> bool:
        above = next((other for other in tape.layers if other.layer == layer.layer + 1), None)
        below = [other.h for other in tape.layers if other.layer == layer.layer]
        return above is not None and not torch.equal(torch.cat(below, -1), above.x)

    return of


def is_run_once_more(tape: Tape) -> bool:
    """Whether `unrolled` knows this network: its loss, and all that lies between its layers."""
    is_packed = tape.layers[0].batch_sizes is not None
    return not is_packed and tape.loss_name is not None and not any(map(is_dropped(tape), tape.layers))


def _terms(golden: Golden) -> Iterator[dict[str, Any]]:
    """By address: the tag, the terms in the order of the sheet, the value on the tape, its name in Python.

    Written out by hand for each cell, so that the sheet is not asked what the sheet says.
    """
    tape, row = golden.tape, golden.row
    first, count = golden.shown.get("first", 0), golden.shown.get("steps", tape.steps)
    for place, layer in enumerate(tape.layers):
        terms = BY_HAND.get(layer.cell.name)
        if terms is None:
            continue
        prefix = "" if place == 0 else f"{layer.layer + 1}{'r' if layer.reverse else ''}:"
        H = layer.h.shape[-1]
        for t in (first, first + count // 2, first + count - 1):
            i = t % H
            for name, tag, found in terms(_At(tape, layer, row, t), i):
                if found is None:
                    continue
                kind, letter = ("totals", name[1:]) if tag[0] == "B" else ("values", name)
                value = getattr(layer, kind)[letter][t, row, i]
                python = f'tape.layers[{place}].{kind}["{letter}"][{t}, {row}, {i}]'
                yield _entry(f"{prefix}{name}@{t + 1},{i + 1}", tag, torch.cat([torch.zeros(0), *found]), value, python)
        if (
            len(layer.h) == count
            and layer.batch == 1
            and "W_hh" in layer.d_weights
            and layer.cell.name != "two memories"
        ):
            shares = layer.h_prev[:, 0, 0] * layer.totals["a"][:, 0, -1]
            python = f'tape.layers[{place}].grad("W_hh")[0, {H - 1}]'
            yield _entry(f"{prefix}dW_hh,1,{H}", "B10", shares, layer.d_weights["W_hh"][0, -1], python)


@dataclass
class _At:
    """The numbers of a layer at one step of one row."""

    tape: Tape
    layer: Record
    row: int
    t: int

    def __getitem__(self, name: str) -> Tensor:
        if name in self.layer.values:
            return self.layer.values[name][self.t, self.row]
        return self.layer.totals[name[1:]][self.t, self.row] if name[1:] in self.layer.totals else self.weight(name)

    def weight(self, name: str) -> Tensor:
        return self.layer.weights[name]

    def before(self, name: str) -> Tensor:
        t = self.t + (1 if self.layer.reverse else -1)
        there = 0 <= t < self.tape.steps
        return self.layer.values[name][t, self.row] if there else self.layer.first[name][self.row]

    @property
    def next(self) -> "_At | None":
        t = self.t + (-1 if self.layer.reverse else 1)
        return _At(self.tape, self.layer, self.row, t) if 0 <= t < self.tape.steps else None

    def from_x(self, matrix: str, i: int) -> Tensor:
        x, W = self.layer.x[self.t, self.row], self.weight(matrix)
        return x * W[:, i] if x.is_floating_point() else W[x, i].view(1)

    def products(self, gate: str, i: int, state: str = "h") -> list[Tensor]:
        """x W_x + h_{t-1} W_h + b of a gate."""
        found = [self.from_x(f"W_x{gate}", i), self.before(state) * self.weight(f"W_h{gate}")[:, i]]
        return [*found, self.weight(f"b_{gate}")[i].view(1)]

    def outside(self, state: str, i: int) -> list[Tensor]:
        """What came from where the tape does not see, if that asks anything of this state at all."""
        asked = self.layer.from_outside[state]
        return [asked[self.t, self.row, i].view(1)] if asked.any() else []

    def own(self, i: int) -> list[Tensor] | None:
        """What the output asks of h; None where that is not known, or another layer does."""
        tape, layer = self.tape, self.layer
        if layer.layer != tape.layers[-1].layer or tape.W_ho is None or tape.do is None:
            return None
        half = layer.h.shape[-1] if layer.reverse else 0
        asked = len(tape.o) == tape.steps or self.t == tape.steps - 1 if tape.o is not None else False
        return [tape.do[self.t, self.row] * tape.W_ho[half + i]] if asked else []


def _elman(at: _At, i: int) -> Iterator[tuple[str, str, list[Tensor] | None]]:
    yield "a", "A2", [at.from_x("W_xh", i), at.before("h") * at.weight("W_hh")[:, i], at.weight("b_h")[i].view(1)]
    own, after = at.own(i), at.next
    yield "dh", "B6", None if own is None else own + ([after["da"] * at.weight("W_hh")[i]] if after else [])
    h = at["h"][i]
    slope = {"tanh": 1 - h * h, "sigmoid": h * (1 - h), "identity": torch.ones_like(h)}.get(at.layer.activation)
    yield "da", "B7", None if slope is None else [(at["dh"][i] * slope).view(1)]


def _lstm(at: _At, i: int) -> Iterator[tuple[str, str, list[Tensor] | None]]:
    for gate in "ifgq":
        yield f"a{gate}", "A2", at.products(gate, i)
    yield "c", "A3", [(at["f"] * at.before("c"))[i].view(1), (at["i"] * at["g"])[i].view(1)]
    yield "h", "A3", [(at["q"] * at["u"])[i].view(1)]
    own, after = at.own(i), at.next
    gates = [after[f"da{gate}"] * at.weight(f"W_h{gate}")[i] for gate in "ifgq"] if after else []
    yield "dh", "B6", None if own is None else own + gates
    through_memory = [(after["dc"] * after["f"])[i].view(1)] if after else []
    yield "dc", "B6", [*at.outside("c", i), (at["du"] * (1 - at["u"] ** 2))[i].view(1), *through_memory]
    yield "df", "B7", [(at["dc"] * at.before("c"))[i].view(1)]
    yield "daq", "B7", [(at["dq"] * at["q"] * (1 - at["q"]))[i].view(1)]


def _gru(at: _At, i: int) -> Iterator[tuple[str, str, list[Tensor] | None]]:
    for gate in "rz":
        yield f"a{gate}", "A2", at.products(gate, i)
    yield "m", "A2", [at.before("h") * at.weight("W_hn")[:, i], at.weight("b_hn")[i].view(1)]
    yield "an", "A2", [at.from_x("W_xn", i), at.weight("b_xn")[i].view(1), (at["r"] * at["m"])[i].view(1)]
    yield "h", "A3", [((1 - at["z"]) * at["n"])[i].view(1), (at["z"] * at.before("h"))[i].view(1)]
    own, after = at.own(i), at.next
    past = [(after["dh"] * after["z"])[i].view(1)] if after else []
    past += [after[f"d{name}"] * at.weight(f"W_h{name[-1]}")[i] for name in ("ar", "az")] if after else []
    past += [after["dm"] * at.weight("W_hn")[i]] if after else []
    yield "dh", "B6", None if own is None else own + past
    yield "dz", "B7", [(at["dh"] * (at.before("h") - at["n"]))[i].view(1)]
    yield "dm", "B7", [(at["dan"] * at["r"])[i].view(1)]


def _mgu(at: _At, i: int) -> Iterator[tuple[str, str, list[Tensor] | None]]:
    yield "af", "A2", at.products("f", i)
    yield "an", "A2", [at.from_x("W_xn", i), at["s"] * at.weight("W_hn")[:, i], at.weight("b_n")[i].view(1)]
    own, after = at.own(i), at.next
    past = [(after["dh"] * (1 - after["f"]))[i].view(1), (after["ds"] * after["f"])[i].view(1)] if after else []
    past += [after["daf"] * at.weight("W_hf")[i]] if after else []
    yield "dh", "B6", None if own is None else own + past
    yield "ds", "B7", [at["dan"] * at.weight("W_hn")[i]]
    yield "df", "B7", [(at["dh"] * (at["n"] - at.before("h")))[i].view(1), (at["ds"] * at.before("h"))[i].view(1)]


BY_HAND: dict[str, Callable[[_At, int], Iterator[tuple[str, str, list[Tensor] | None]]]] = {
    "elman": _elman,
    "lstm": _lstm,
    "gru": _gru,
    "mgu": _mgu,
}


def _entry(address: str, tag: str, terms: Tensor, value: Tensor, python: str) -> dict[str, Any]:
    return {"address": address, "tag": tag, "terms": terms.double().tolist(), "value": float(value), "python": python}


def unrolled(
    tape: Tape, row: int, cut: int | None = None
) -> tuple[list[dict[str, list[Tensor]]], list[dict[str, Tensor]], dict[int, Tensor]]:
    """The network of a tape once more, step by step: values by layer, its parameters, w_t loss_t by step.

    cut     states are handed on without their gradient where a window of so many steps ends
    """
    given = tape.x[:, row]
    tokens = not given.is_floating_point()
    inputs = list((torch.nn.functional.one_hot(given, entering(tape.layers[0])) if tokens else given).double()[:, None])
    values, parameters = [], []
    for number in range(tape.layers[-1].layer + 1):
        level, layers = [], [layer for layer in tape.layers if layer.layer == number]
        for layer in layers:
            own = _learned(layer)
            parameters.append(own)
            level.append(_run(layer, own, inputs, row, cut))
        values += level
        inputs = [torch.cat(parts, -1) for parts in zip(*(own[layers[0].output] for own in level), strict=True)]
    assert tape.W_ho is not None
    assert tape.targets is not None
    assert tape.w is not None
    assert tape.loss_name is not None
    first = tape.steps - len(tape.targets)
    by_step = {}
    for t in range(first, tape.steps):
        o = inputs[t][0] @ tape.W_ho.double() + (0 if tape.b_o is None else tape.b_o.double())
        y = tape.targets[t - first, row]
        by_step[t] = tape.w[t, row].double() * losses.pair(tape.loss_name).per_row(o[None], y[None])[0]
    return values, parameters, by_step


def _learned(layer: Record) -> dict[str, Tensor]:
    """The parameters of a layer, and what its lines without a time make of them."""
    cell, of_steps = layer.cell, {name: layer.weights[name] for name in layer.d_weights}
    found = {name: array.double().clone().requires_grad_() for name, array in (layer.learned or of_steps).items()}
    fixed = {"I": torch.eye(layer.h.shape[-1], dtype=torch.float64)} | _constants(layer)
    for line in cell.derivation.fixed:
        found[line.name] = sheets.value(line.value, lambda e: (found | fixed)[e.name], cell, layer.sizes)
        found[line.name].retain_grad()
    return found


def _constants(layer: Record) -> dict[str, Tensor]:
    return {
        name: torch.tensor([[given.start]], dtype=torch.float64)
        for name, given in layer.cell.sheet.given.items()
        if given.kind == "constant"
    }


def entering(layer: Record) -> int:
    return next(len(layer.weights[name]) for name in layer.weights if name.startswith("W_x"))


def _run(
    layer: Record, own: dict[str, Tensor], inputs: list[Tensor], row: int, cut: int | None
) -> dict[str, list[Tensor]]:
    """Every value of a layer at every step, by `sheets.value`."""
    sheet, steps = layer.cell.sheet, len(inputs)
    given = {name: array.double() for name, array in layer.weights.items()} | own | _constants(layer)
    for name, kind in sheet.given.items():
        if kind.kind in ("drop", "rows"):
            given[name] = layer.weights[name][row : row + 1].double()
    state = {name: array[row : row + 1].double().requires_grad_() for name, array in layer.first.items()}
    found: dict[str, list[Tensor]] = {line.name: [] for line in layer.cell.derivation.steps}
    for t in reversed(range(steps)) if layer.reverse else range(steps):
        if cut and (t + 1 if layer.reverse else t) % cut == 0:
            state = {name: array.detach() for name, array in state.items()}
        now: dict[str, Tensor] = {"x": inputs[t]}

        def get(e: Name | Cotangent, now: dict[str, Tensor] = now, state: dict[str, Tensor] = state) -> Tensor:
            if e.step is None:
                return given[e.name]
            return now[e.name] if e.step == 0 else state[e.name]

        for line in layer.cell.derivation.steps:
            now[line.name] = sheets.value(line.value, get, layer.cell, layer.sizes)
            found[line.name].append(now[line.name])
        state = {name: now[name] for name in state}
    return {name: steps[::-1] if layer.reverse else steps for name, steps in found.items()}


def _norms(tape: Tape, row: int, place: int) -> dict[str, list[list[float]]]:
    """By state: ‖∂L_t/∂state_k‖ for all t and k."""
    values, _, by_step = unrolled(tape, row)
    return {
        name: [
            [
                float(slope.norm())
                for slope in torch.autograd.grad(
                    by_step[t], values[place][name], retain_graph=True, materialize_grads=True
                )
            ]
            if t in by_step
            else []
            for t in range(tape.steps)
        ]
        for name in tape.layers[place].cell.sheet.states
    }


def _truncated(tape: Tape, k: int) -> list[dict[str, Any]]:
    _, full, by_step = unrolled(tape, 0)
    torch.stack(list(by_step.values())).sum().backward()
    _, short, by_step = unrolled(tape, 0, k)
    torch.stack(list(by_step.values())).sum().backward()
    found = []
    for place, (own, cut) in enumerate(zip(full, short, strict=True)):
        order = [line.parts[0].name for line in tape.layers[place].cell.side_b if isinstance(line.parts[0], Cotangent)]
        for name in sorted(tape.layers[place].d_weights, key=order.index):
            one, two = own[name].grad, cut[name].grad
            assert one is not None
            assert two is not None
            cosine = float((one * two).sum() / (one.norm() * two.norm()))
            entry = {"layer": place, "name": name, "cosine": cosine, "error": float((one - two).norm() / one.norm())}
            found.append({key: None if value != value else value for key, value in entry.items()})
    return found


def formulas() -> dict[str, Any]:
    """Every built-in cell and one more as the page carries it; what the sheet says in every notation: tag and text."""
    cells = {name: named(name) for name in CELLS} | {"two memories": Cell(TWO_MEMORIES, "two memories")}
    found: dict[str, Any] = {}
    for name, cell in cells.items():
        said = {}
        for key in notations.NOTATIONS:
            board = cell.board(key)
            lines = [*board.side_a, *board.side_b]
            said[key] = [[line.tag, line.text] for line in lines]
        found[name] = {"cell": as_data(cell), "said": said}
    return found


def published() -> Iterator[tuple[str, str]]:
    """A tape of every cell in `published_cells`, as a page carries it."""
    for name, text in PUBLISHED.items():
        torch.manual_seed(0)
        cell = Cell(text, name)
        sheet = cell.sheet
        I, H = (4, 4) if sheet.widths["x"] == "H" else (3, 4)
        declared = {size: 3 for size, _ in sheet.sizes.values() if size not in ("I", "H")}
        lengths = declared | {"1": 1, "I": I, "H": H}
        further = {
            name: torch.rand(*((6, 2) if given.kind == "input" else (2,)), lengths[sheet.widths[name]]).double()
            for name, given in sheet.given.items()
            if given.kind in ("input", "rows")
        }
        rnn = Recurrent(cell, I, H, sizes=declared, dtype=torch.float64)
        head = torch.nn.Linear(H, 2, dtype=torch.float64)
        with recording() as tapes:
            h, _ = rnn(_normal(6, 2, I), inputs=further) if further else rnn(_normal(6, 2, I))
            head(h).sin().sum().backward()
        yield name, player.as_json(player.data(tapes[0], row=1))
