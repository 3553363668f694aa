"""The worked example of side C, number by number: against its formulas in NumPy, and against autograd."""

import json
import re
from collections import Counter
from functools import cache
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from commands import bptt
from rich.cells import cell_len
from rich.console import Console

from bptt.lesson import vanishing
from bptt.lesson.printed import number
from bptt.sheet.sides import SIDE_C

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN, GATED = (0, 1), 2


@cache
def data() -> dict[str, Any]:
    return json.loads(json.dumps(vanishing.as_data(), allow_nan=False))


def close(got: Any, wanted: Any) -> None:
    """Six steps of products of 2 x 2 matrices that multiply by 37 at most: some 50 roundings."""
    np.testing.assert_allclose(np.array(got, float), wanted, rtol=1e-13, atol=1e-15)


def forward_in_order(network: dict[str, Any]) -> list[dict[str, Any]]:
    return network["side_C"][::-1]


@pytest.mark.parametrize("which", PLAIN)
def test_every_number_of_the_plain_cell_is_that_of_side_c(which: int) -> None:
    network = data()["networks"][which]
    W_xh, W_hh = (np.array(network["weights"][name]) for name in ("W_xh", "W_hh"))
    h, slopes = np.zeros(2), []
    for t, step in enumerate(forward_in_order(network)):
        a = (vanishing.PULSE if t == 0 else 0.0) * W_xh[0] + h @ W_hh
        h = np.tanh(a)
        close(step["values"]["h"], h)
        slopes.append(1 / np.cosh(a) ** 2)
    o = h @ np.array(vanishing.W_ho)
    at_T = 2 * (o - vanishing.TARGET) @ np.array(vanishing.W_ho).T
    close(network["at_T"], at_T)
    product, bound = np.eye(2), 1.0
    for step, slope in zip(network["side_C"], reversed(slopes), strict=True):
        factor = np.diag(slope) @ W_hh.T
        product, largest = product @ factor, np.linalg.svd(factor)[1][0]
        bound *= largest
        close(step["factor"], factor)
        close(step["product"], product)
        close(step["largest"], largest)
        close(step["singular"], np.linalg.svd(product)[1])
        close(step["bound"], bound)
        close(step["passed"], at_T @ product)
        close(step["gradient"], at_T @ product)
        close(step["left"], np.linalg.norm(at_T @ product) / np.linalg.norm(at_T))


def lstm_step(weights: dict[str, Any], x: float, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a = {g: x * weights[f"W_x{g}"][0] + h @ weights[f"W_h{g}"] + weights[f"b_{g}"] for g in "ifgq"}
    c = a["f"].sigmoid() * c + a["i"].sigmoid() * a["g"].tanh()
    return a["q"].sigmoid() * c.tanh(), c


@pytest.mark.parametrize("which", [*PLAIN, GATED])
def test_gradients_and_factors_are_those_of_autograd(which: int) -> None:
    """A state is a leaf at each step; of the LSTM also with h cut off, so that only the way of c is left."""
    network = data()["networks"][which]
    weights = {name: torch.tensor(weight, dtype=torch.float64) for name, weight in network["weights"].items()}

    def step(x: float, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if which == GATED:
            return lstm_step(weights, x, h, c)
        return torch.tanh(x * weights["W_xh"][0] + h @ weights["W_hh"] + weights["b_h"]), c

    def walk(*, cut: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
        h, c = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in "hc")
        states = [c if which == GATED else h]
        for t in range(vanishing.STEPS):
            x = vanishing.PULSE if t == 0 else 0.0
            h, c = step(x, h.detach() if cut else h, c)
            states.append(c if which == GATED else h)
        return states, h

    states, h = walk(cut=False)
    loss = (h @ torch.tensor(vanishing.W_ho, dtype=torch.float64) - vanishing.TARGET).square().sum()
    gradients = torch.autograd.grad(loss, states)
    close(network["at_T"], gradients[-1])
    for shown, gradient in zip(forward_in_order(network), gradients, strict=False):
        close(shown["gradient"], gradient)
    states, _ = walk(cut=which == GATED)
    for t, shown in enumerate(forward_in_order(network), 1):
        rows = [torch.autograd.grad(states[t][unit], states[t - 1], retain_graph=True)[0] for unit in (0, 1)]
        close(shown["factor"], torch.stack(rows))


def test_it_vanishes_explodes_and_is_kept_as_the_bounds_say() -> None:
    small, large, gated = (network["side_C"] for network in data()["networks"])
    for steps in (small, large):
        assert all(step["left"] <= step["singular"][0] <= step["bound"] for step in steps)
    W_hh = np.array(vanishing.W_hh)
    assert small[-1]["left"] < np.linalg.norm(W_hh, 2) ** vanishing.STEPS < 0.2
    assert large[-1]["left"] > 20
    assert large[0]["largest"] < large[-1]["largest"]  # the units of step 6 are saturated, those of step 1 are not
    assert gated[-1]["left"] > gated[-1]["singular"][1] > 0.7
    assert max(data()["check"].values()) < 1e-13


def page(width: int = 80, digits: int = 4) -> str:
    out = StringIO()
    vanishing.render(Console(file=out, width=width), digits)
    return out.getvalue()


def flat(values: Any) -> list[float]:
    return [each for value in values for each in flat(value)] if isinstance(values, list) else [values]


@pytest.mark.parametrize(("width", "digits"), [(60, 4), (80, 2), (80, 4), (80, 6), (120, 17)])
def test_every_number_is_printed_and_every_line_fits(width: int, digits: int) -> None:
    printed = page(width, digits)
    assert max(map(cell_len, printed.splitlines())) <= width
    *parts, by_lag = re.split(r"\n.*: the cell \w+\n|\nWhat is left", printed)[1:]
    for part, network in zip(parts, data()["networks"], strict=True):
        wanted: Counter[str] = Counter()
        for step in network["side_C"]:
            h = [step["values"]["h"], [1 - h**2 for h in step["values"]["h"]]]
            values = [step[key] for key in ("factor", "largest", "product", "singular", "bound", "passed", "gradient")]
            seen = h if network["state"] == "h" else [step["values"]["f"]]
            wanted += Counter(number(value, digits) for value in flat([*seen, *values, step["left"]]))
            assert number(step["left"], digits) in by_lag.split()
        assert not wanted - Counter(re.split(r"[\s,;\]\[]+", part))


def test_every_equation_stands_on_the_page_and_every_tag_of_side_c_is_defined() -> None:
    equations, numbers = page(120).split("Small weights", 1)
    for tag, text in SIDE_C.items():
        assert f"{tag} {text}\n" in equations
    used = set(re.findall(r"\bC\d+\b", numbers))
    assert {"C1", "C2", "C3", "C5"} == used <= set(SIDE_C)


def test_the_command_prints_the_page_or_its_data() -> None:
    assert bptt("trace vanishing --digits 3") == page(digits=3)
    assert json.loads(bptt("trace vanishing --json")) == data()


@pytest.mark.parametrize("options", ["--cell lstm", "--hidden 3", "--seed 0", "--train 5", "--lr 0.1 --target 1"])
def test_options_of_other_examples_are_refused_by_their_names(options: str) -> None:
    said = " ".join(bptt(f"trace vanishing {options}", 2).split())
    assert f"got {', '.join(re.findall('--[a-z]+', options))}. Leave that out" in said
