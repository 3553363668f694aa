"""Golden tapes: what the player's TypeScript must make of a tape, worked out here by plain torch and autograd.

As JSON each holds `tape`, as `player.as_json` puts it into a page, and `expected`: values and terms by address
(counted from 1, as in the hash of a page), the norms ‖∂L_t/∂h_k‖ of single losses, and what windows of truncated BPTT
lose.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bptt import Tape, record, recording
from bptt.engine.activations import activation
from bptt.lesson import worked
from bptt.nn import RNN, Elman
from bptt.sheet import losses
from bptt.tape import Record, player


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
    top = tape.layers[-1].layer
    traced = whole and not any(layer.layer < top and _is_dropped(tape, layer) for layer in tape.layers)
    return {
        "terms": terms,
        "reach": [_norms(tape, row, place) for place in range(len(tape.layers))] if traced else [],
        "truncated": {str(k): _truncated(tape, k) for k in golden.windows} if row == 0 else {},
    }


def _is_dropped(tape: Tape, layer: Record) -> bool:
    above = next(other for other in tape.layers if other.layer == layer.layer + 1)
    below = [other.h for other in tape.layers if other.layer == layer.layer]
    return not torch.equal(torch.cat(below, -1), above.x)


def _terms(golden: Golden) -> Iterator[dict[str, Any]]:
    """By address: the tag, the terms in the order of the sheet, the value on the tape, its name in Python."""
    tape, row = golden.tape, golden.row
    first, count = golden.shown.get("first", 0), golden.shown.get("steps", tape.steps)
    for place, layer in enumerate(tape.layers):
        name = "" if place == 0 else f"{layer.layer + 1}{'r' if layer.reverse else ''}:"
        python = "tape" if len(tape.layers) == 1 else f"tape.layers[{place}]"
        assert layer.da is not None
        assert layer.dh is not None
        assert layer.dh_direct is not None
        H = layer.h.shape[-1]
        for t in (first, first + count // 2, first + count - 1):
            i = t % H
            x = layer.x[t, row]
            from_x = x * layer.W_xh[:, i] if x.is_floating_point() else layer.W_xh[x, i].view(1)
            assert layer.b_h is not None
            pieces = [from_x, layer.h_prev[t, row] * layer.W_hh[:, i], layer.b_h[i].view(1)]
            yield _entry(
                f"{name}a@{t + 1},{i + 1}", "A2", torch.cat(pieces), layer.a[t, row, i], f"{python}.a[{t}, {row}, {i}]"
            )
            after = t - 1 if layer.reverse else t + 1
            handed = layer.da[after, row] * layer.W_hh[i] if 0 <= after < tape.steps else layer.da[0, row][:0]
            yield _entry(
                f"{name}future@{t + 1},{i + 1}",
                "B6",
                handed,
                (layer.dh - layer.dh_direct)[t, row, i],
                f"({python}.dh - {python}.dh_direct)[{t}, {row}, {i}]",
            )
            if layer.layer == tape.layers[-1].layer and tape.W_ho is not None and tape.do is not None:
                half = H if layer.reverse else 0
                own = tape.do[t, row] * tape.W_ho[half + i]
                yield _entry(
                    f"{name}dh@{t + 1},{i + 1}",
                    "B6",
                    torch.cat([own, handed]),
                    layer.dh[t, row, i],
                    f"{python}.dh[{t}, {row}, {i}]",
                )
            slope = activation(layer.activation).derivative(layer.h[t, row, i])
            whole = (layer.dh[t, row, i] * slope).view(1)
            yield _entry(f"{name}da@{t + 1},{i + 1}", "B7", whole, layer.da[t, row, i], f"{python}.da[{t}, {row}, {i}]")
        if len(layer.a) == count and layer.batch == 1:
            assert layer.dW_hh is not None
            shares = layer.h_prev[:, 0, 0] * layer.da[:, 0, -1]
            yield _entry(
                f"{name}dW_hh,1,{layer.h.shape[-1]}",
                "B10",
                shares,
                layer.dW_hh[0, -1],
                _gradient(tape, layer, "W_hh", 0, H - 1),
            )


def _gradient(tape: Tape, layer: Record, name: str, i: int, j: int) -> str:
    """How one entry of a gradient is reached in Python, for a variable `tape`."""
    which = f", layer={layer.layer}" if len(tape.layers) > 1 else ""
    which += f', direction="{"reverse" if layer.reverse else "forward"}"' if tape.bidirectional else ""
    return f'tape.grad("{name}"{which})[{i}, {j}]'


def _entry(address: str, tag: str, terms: Tensor, value: Tensor, python: str) -> dict[str, Any]:
    return {"address": address, "tag": tag, "terms": terms.double().tolist(), "value": float(value), "python": python}


def unrolled(
    tape: Tape, row: int, cut: int | None = None
) -> tuple[list[list[Tensor]], list[dict[str, Tensor]], dict[int, Tensor]]:
    """The network of a tape once more, step by step: h by layer and step, its parameters, w_t loss_t by step.

    cut     the state is handed on without its gradient where a window of so many steps ends
    """
    given, I = tape.x[:, row], len(tape.layers[0].W_xh)
    inputs = list((given if given.is_floating_point() else torch.nn.functional.one_hot(given, I)).double())
    states, parameters = [], []
    for number in range(tape.layers[-1].layer + 1):
        level = []
        for layer in (other for other in tape.layers if other.layer == number):
            own = {name: getattr(layer, name).double().clone().requires_grad_() for name in ("W_xh", "W_hh", "b_h")}
            parameters.append(own)
            h, steps = layer.h0[row].double(), []
            for t in reversed(range(tape.steps)) if layer.reverse else range(tape.steps):
                border = t + 1 if layer.reverse else t
                if cut and border % cut == 0:
                    h = h.detach()
                h = activation(layer.activation).phi(inputs[t] @ own["W_xh"] + h @ own["W_hh"] + own["b_h"])
                steps.append(h)
            level.append(steps[::-1] if layer.reverse else steps)
        states += level
        inputs = [torch.cat(parts) for parts in zip(*level, strict=True)]
    assert tape.W_ho is not None
    assert tape.targets is not None
    assert tape.w is not None
    assert tape.loss_name is not None
    first = tape.steps - len(tape.targets)
    by_step = {}
    for t in range(first, tape.steps):
        o = inputs[t] @ tape.W_ho.double() + (0 if tape.b_o is None else tape.b_o.double())
        y = tape.targets[t - first, row]
        by_step[t] = tape.w[t, row].double() * losses.pair(tape.loss_name).per_row(o[None], y[None])[0]
    return states, parameters, by_step


def _norms(tape: Tape, row: int, place: int) -> list[list[float]]:
    states, _, by_step = unrolled(tape, row)
    return [
        [
            float(gradient.norm())
            for gradient in torch.autograd.grad(by_step[t], states[place], retain_graph=True, materialize_grads=True)
        ]
        if t in by_step
        else []
        for t in range(tape.steps)
    ]


def _truncated(tape: Tape, k: int) -> list[dict[str, Any]]:
    _, full, by_step = unrolled(tape, 0)
    torch.stack(list(by_step.values())).sum().backward()
    _, short, by_step = unrolled(tape, 0, k)
    torch.stack(list(by_step.values())).sum().backward()
    found = []
    for place, (own, cut) in enumerate(zip(full, short, strict=True)):
        for name in ("W_xh", "W_hh", "b_h"):
            one, two = own[name].grad, cut[name].grad
            assert one is not None
            assert two is not None
            cosine = float((one * two).sum() / (one.norm() * two.norm()))
            entry = {"layer": place, "name": name, "cosine": cosine, "error": float((one - two).norm() / one.norm())}
            found.append({key: None if value != value else value for key, value in entry.items()})
    return found
