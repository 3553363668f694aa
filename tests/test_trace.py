"""The worked examples, number by number: with any cell against its tape and autograd, with the plain one also against
the sheet written out once more in NumPy, and differences."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import bptt
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from bptt import Cell, InputError
from bptt.lesson import printed, worked
from bptt.lesson.data import as_data
from bptt.sheet import named
from bptt.sheet.cells import CELLS, elman

OWN = """\
γ : vector = 1
α : constant = 0.5
ζ : scalar
s : size S
M = W_hh − tanh(W_hhᵀ − α ⊙ I)
s_t = tanh(norm(x_t W_xs + drop(h_{t-1}) W_hs + b_s) + ζ ⊙ s_{t-1})
z_t = σ(x_t W_xz + h_{t-1} M + b_z)
h_t = (1 − z_t) ⊙ h_{t-1} + z_t ⊙ tanh(γ ⊙ (s_t W_sh) + h_{t-1} M) − max(h_{t-1}, z_t) ⊙ mean(s_t)
"""
ANY_CELL = [*CELLS, "own"]
pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = ["cell", "hello", "1,3,5,7,9", "01101001"]
MORE = [*EXAMPLES, "banana", "ab", "2,4,8,16", "-1,0,1", "10"]
Array = np.ndarray[Any, np.dtype[np.float64]]

PHI: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda a: 1 / np.cosh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(float)),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2),
    "identity": (lambda a: a, np.ones_like),
}


def phi_of(data: dict[str, Any]) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    (phi,) = [phi for name, phi in PHI.items() if elman(name) == data["settings"]["cell"]["text"]]
    return phi


def softmax(o: Array) -> Array:
    return np.exp(o) / np.exp(o).sum()


def forward(
    data: dict[str, Any], weights: dict[str, Array], h0: Array, x: Array, y: list[Any]
) -> Iterator[dict[str, Any]]:
    """Side A and the loss, one step after the other; y[t] is None where the step has no output."""
    phi, _ = phi_of(data)
    h = h0
    for t, x_t in enumerate(x):
        a = x_t @ weights["W_xh"] + h @ weights["W_hh"] + weights["b_h"]
        step: dict[str, Any] = {"x": x_t, "h_prev": h, "a": a}
        h = step["h"] = phi(a)
        if y[t] is not None:
            o = step["o"] = h @ weights["W_ho"] + weights["b_o"]
            match data["settings"]["loss"]:
                case "cross_entropy":
                    step["y_hat"], step["loss"] = softmax(o), -math.log(softmax(o)[y[t][0]])
                    step["dL_dy_hat"] = np.where(np.arange(len(o)) == y[t][0], -1 / softmax(o), 0)
                    step["jacobian"] = np.diag(softmax(o)) - np.outer(softmax(o), softmax(o))
                case "binary_cross_entropy":
                    y_hat = step["y_hat"] = 1 / (1 + np.exp(-o))
                    step["loss"] = -sum(math.log(p if bit else 1 - p) for p, bit in zip(y_hat, y[t], strict=True))
                    step["dL_dy_hat"] = (y_hat - y[t]) / (y_hat * (1 - y_hat))
                    step["jacobian"] = np.diag(y_hat * (1 - y_hat))
                case "squared_error":
                    step["y_hat"], step["loss"] = o, float(((o - y[t]) ** 2).sum())
                    step["dL_dy_hat"] = 2 * (o - y[t])
                    step["jacobian"] = np.eye(len(o))
        yield step


def loss(data: dict[str, Any], weights: dict[str, Array], h0: Array, x: Array, y: list[Any]) -> float:
    return sum(step["loss"] for step in forward(data, weights, h0, x, y) if "loss" in step)


def given_to(text: str) -> tuple[Array, Array, list[Any]]:
    """x, h0 and the wanted outputs, worked out from the text alone."""
    if text == "cell":
        return np.array([[1.0, 0.5]]), np.array([0.2, -0.4]), [[1]]
    if "," in text:
        numbers = [float(part) for part in text.split(",")]
        following = 2 * numbers[-1] - numbers[-2]
        scale = 10 ** math.floor(math.log10(max(abs(number) for number in [*numbers, following])))
        return np.array(numbers)[:, None] / scale, np.zeros(3), [None] * (len(numbers) - 1) + [[following / scale]]
    if set(text) <= {"0", "1"}:
        bits = [int(character) for character in text]
        return np.array(bits, float)[:, None], np.zeros(4), [[bit] for bit in [0, *bits[:-1]]]
    alphabet = sorted(set(text), key=text.index)
    return (
        np.eye(len(alphabet))[[alphabet.index(c) for c in text[:-1]]],
        np.zeros(4),
        [[alphabet.index(c)] for c in text[1:]],
    )


def cell_of(name: str) -> Cell:
    return Cell(OWN, "own") if name == "own" else named(name)


def work(text: str, updates: int | None = 0, **settings: Any) -> worked.Worked:
    return worked.work(worked.example(text, **settings), updates)


def example_with(text: str, name: str) -> worked.Example:
    """Three units where the home-made cell would have two, of which a layer norm makes 1 and -1 whatever they are."""
    return worked.example(text, cell=cell_of(name), hidden=3 if (text, name) == ("cell", "own") else None)


@cache
def work_with(text: str, name: str) -> worked.Worked:
    return worked.work(example_with(text, name), 0)


def plain_data(result: worked.Worked) -> dict[str, Any]:
    return json.loads(json.dumps(as_data(result), allow_nan=False))


def data_of(text: str, updates: int | None = 0, **settings: Any) -> dict[str, Any]:
    return plain_data(work(text, updates, **settings))


def close(got: Any, wanted: Any, what: str) -> None:
    """Sums of at most eight steps of a few dozen products: eps = 2.2e-16 times that is below 1e-13; ten times that."""
    np.testing.assert_allclose(np.array(got, float), wanted, rtol=1e-12, atol=1e-13, err_msg=what)


@pytest.mark.parametrize("nonlinearity", [None, "tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("text", MORE)
def test_every_number_is_that_of_the_sheet(text: str, nonlinearity: str | None) -> None:
    data = data_of(text, nonlinearity=nonlinearity, seed=1)
    weights = {name: np.array(entry["before"]) for name, entry in data["weights"].items()}
    x, h0, y = given_to(text)
    steps = list(forward(data, weights, h0, x, y))
    assert len(data["side_A"]) == len(data["side_B"]) == len(steps)
    for shown, step in zip(data["side_A"], steps, strict=True):
        close(shown["x"], step["x"], "A1 x")
        close(shown["before"]["h"], step["h_prev"], "A1 h_{t-1}")
        close(shown["values"]["a"], step["a"], "A2")
        close(shown["values"]["h"], step["h"], "A3")
        assert (shown["o"] is None) == ("o" not in step)
        assert [shown[name] is None for name in ("y_hat", "y", "w", "loss")] == [shown["o"] is None] * 4
        if shown["o"] is not None:
            close(shown["o"], step["o"], "A5")
            close(shown["y_hat"], step["y_hat"], "A6")
            close(shown["loss"], step["loss"], "B1 of one step")
            assert shown["w"] == 1
            assert shown["y"] == y[shown["t"] - 1]
    L = loss(data, weights, h0, x, y)
    close(data["loss"]["before"], L, "B1")

    _, slope = phi_of(data)
    gradient = {name: np.zeros_like(value) for name, value in weights.items()}
    da_next = np.zeros_like(h0)
    for shown, step in zip(data["side_B"], reversed(steps), strict=True):
        do = np.zeros(weights["W_ho"].shape[1])
        assert (shown["jacobian"] is None) == ("o" not in step)
        if "o" in step:
            close(shown["jacobian"], step["jacobian"], "B2")
            do = step["dL_dy_hat"] @ step["jacobian"]
        close(shown["do"], do, "B3 as the product of ∂L/∂ŷ and B2")
        own, future = do @ weights["W_ho"].T, da_next @ weights["W_hh"].T
        dh = own + future
        close(shown["gradients"]["h"]["terms"], [own, future], "B6 own output and the future")
        close(shown["gradients"]["h"]["total"], dh, "B6")
        da_next = dh * slope(step["a"])
        close(shown["gradients"]["a"]["total"], da_next, "B7")
        close(shown["handed"]["h"], da_next @ weights["W_hh"].T, "B11 to t-1")
        close(shown["gradients"]["x"]["total"], da_next @ weights["W_xh"].T, "B11 ∂x")
        gradient["b_o"] += do
        gradient["W_ho"] += np.outer(step["h"], do)
        gradient["b_h"] += da_next
        gradient["W_xh"] += np.outer(step["x"], da_next)
        gradient["W_hh"] += np.outer(step["h_prev"], da_next)
    after = {name: weights[name] - data["settings"]["lr"] * gradient[name] for name in weights}
    for name, entry in data["weights"].items():
        close(entry["gradient"], gradient[name], f"{entry['tag']} {name}")
        close(entry["after"], after[name], f"{name} after")
    close(data["loss"]["after"], loss(data, after, h0, x, y), "the loss after the update")
    assert data["check"]["ok"]


@pytest.mark.parametrize("text", EXAMPLES)
def test_gradients_are_the_slopes_of_the_loss(text: str) -> None:
    """δ = 6e-6 = eps^⅓: rounding of L weighs eps L / δ = 4e-11 L, the third derivative δ² = 4e-11; allowed is 1e-9."""
    data = data_of(text)
    weights = {name: np.array(entry["before"]) for name, entry in data["weights"].items()}
    x, h0, y = given_to(text)
    delta = 6e-6
    for name, entry in data["weights"].items():
        slopes = np.zeros_like(weights[name])
        for index in np.ndindex(slopes.shape):
            nudge = np.zeros_like(slopes)
            nudge[index] = delta
            moved = (weights | {name: weights[name] + sign * nudge} for sign in (1, -1))
            ahead, behind = (loss(data, each, h0, x, y) for each in moved)
            slopes[index] = (ahead - behind) / (2 * delta)
        np.testing.assert_allclose(
            entry["gradient"], slopes, rtol=0, atol=1e-9 * data["loss"]["before"] + 1e-9, err_msg=name
        )


@pytest.mark.parametrize("name", ANY_CELL)
@pytest.mark.parametrize("text", EXAMPLES)
def test_numbers_of_any_cell_are_those_of_its_tape_by_name(text: str, name: str) -> None:
    result = work_with(text, name)
    data, tape, record = plain_data(result), result.tape, result.tape.layer()
    for t, (forward, backward) in enumerate(zip(data["side_A"], reversed(data["side_B"]), strict=True)):
        assert forward["t"] == backward["t"] == t + 1
        assert forward["x"] == tape["x"][t, 0].tolist()
        assert forward["values"] == {name: tape[name][t, 0].tolist() for name in record.values}
        states = {name: (tape[name][t - 1] if t else first)[0].tolist() for name, first in record.first.items()}
        assert forward["before"] == states
        totals = {name: gradient["total"] for name, gradient in backward["gradients"].items()}
        assert totals == {name: tape.d(name)[t, 0].tolist() for name in (*record.totals, "x")}
        assert backward["do"] == tape.d("o")[t, 0].tolist()
        close(backward["gradients"][record.output]["terms"][0], tape.direct(record.output)[t, 0], "own output")
        s = t - tape.steps + len(tape["o"])
        for key in ("o", "y_hat", "loss"):
            assert forward[key] == (tape[key][s, 0].tolist() if s >= 0 else None)
    assert data["side_B"][-1]["handed"] == {name: d[0].tolist() for name, d in record.d_first.items()}
    weights = data["weights"] | {name: {"before": [each["value"]]} for name, each in data["once"].items()}
    for key, weight in record.weights.items():
        assert weights[key]["before"] == (weight if key != "M" else weight[None]).tolist()
    assert {*data["weights"]} - {"W_hh"} <= {*record.weights, "W_ho", "b_o"}
    for key in {*data["weights"]} & {*record.weights, "W_ho", "b_o"}:
        assert data["weights"][key]["gradient"] == tape.grad(key).tolist()


@pytest.mark.parametrize("name", ANY_CELL)
@pytest.mark.parametrize("text", EXAMPLES)
def test_terms_of_any_cell_sum_to_their_gradient(text: str, name: str) -> None:
    data = plain_data(work_with(text, name))
    lines = {line["symbol"]: line["terms"] for line in data["equations"]["side_B"]}
    handed: dict[str, Any] = {name: np.zeros_like(state) for name, state in data["side_A"][0]["before"].items()}
    for step in data["side_B"]:
        for value, gradient in step["gradients"].items():
            terms = lines[f"∂{value}_t"]
            assert len(gradient["terms"]) == len(terms) > 0
            close(np.sum(gradient["terms"], axis=0), gradient["total"], f"∂{value}")
            future = [
                numbers
                for numbers, term in zip(gradient["terms"], terms, strict=True)
                if "_{t+1}" in term["from"].split(" = ")[0]
            ]
            assert bool(future) == (value in handed)
            close(np.sum(future, axis=0) if future else 0, handed.get(value, 0), f"∂{value} from step t+1")
        handed = step["handed"]


@pytest.mark.parametrize("name", ANY_CELL)
@pytest.mark.parametrize("text", EXAMPLES)
def test_gradients_of_any_cell_are_those_of_autograd(text: str, name: str) -> None:
    given = example_with(text, name)
    o, _ = given.model(given.x, given.first)
    worked.losses.loss(given.model.loss_name, o, given.targets, torch.ones(())).backward()
    parameters = {key.removeprefix("rnn.").removesuffix("_l0"): own for key, own in given.model.named_parameters()}
    parameters = {
        {"readout.weight": "W_ho", "readout.bias": "b_o"}.get(key, key): own for key, own in parameters.items()
    }
    weights = plain_data(work_with(text, name))["weights"]
    assert weights.keys() == parameters.keys()
    for key, parameter in parameters.items():
        assert parameter.grad is not None
        gradient = parameter.grad.t() if key == "W_ho" else parameter.grad
        close(weights[key]["gradient"], gradient.numpy(), key)


@pytest.mark.parametrize("name", ANY_CELL)
@pytest.mark.parametrize("text", EXAMPLES)
def test_side_b_of_any_cell_is_rounding_away_from_autograd(text: str, name: str) -> None:
    check = plain_data(work_with(text, name))["check"]
    assert check["ok"]
    assert check["residuals"]["autograd"]["worst"] < 1e-13
    assert "central differences" in check["residuals"] or "central differences" in check["notes"][0]


@pytest.mark.parametrize("name", ANY_CELL)
def test_the_update_that_is_shown_is_one_step_of_descent(name: str) -> None:
    data = plain_data(work_with("hello", name))
    given = example_with("hello", name)
    for key, weight in given.model.weights().items():
        entry = data["weights"][key]
        assert entry["before"] == weight.tolist()
        stepped = np.array(entry["before"]) - data["settings"]["lr"] * np.array(entry["gradient"])
        close(entry["after"], stepped, key)
        weight.copy_(torch.tensor(entry["after"], dtype=torch.float64))
    with torch.no_grad():
        loss_after = worked.losses.loss(given.model.loss_name, given.model(given.x)[0], given.targets, torch.ones(()))
    close(data["loss"]["after"], float(loss_after), "the loss after the update")
    assert data["loss"]["after"] < data["loss"]["before"]


def test_weights_have_two_decimals_or_the_start_that_the_text_gives() -> None:
    weights = worked.example("hello", cell=cell_of("own")).model.weights()
    assert weights["γ"].tolist() == [1, 1, 1, 1]
    for name, weight in weights.items():
        assert torch.equal(weight, (100 * weight).round() / 100), name
        assert name == "γ" or 0 < weight.abs().max() <= 0.5


def test_the_plain_cell_draws_what_torchs_module_would() -> None:
    """As before there were other cells: matrices row by row of torch's layout, in the order of its parameters."""
    generator = torch.Generator().manual_seed(3)
    weights = worked.example("hello", seed=3).model.weights()
    for name in ("W_xh", "W_hh", "b_h", "W_ho", "b_o"):
        drawn = torch.rand(weights[name].t().shape, generator=generator, dtype=torch.float64)
        assert torch.equal(weights[name].t(), (100 * (drawn - 0.5)).round() / 100)


def test_a_cell_that_adds_x_to_its_state_is_as_wide_as_x() -> None:
    cell = Cell("h_t = x_t + tanh(h_{t-1} W_hh)", "adding")
    assert data_of("1,2,3", cell=cell)["settings"]["hidden"] == 1
    with pytest.raises(InputError, match="this line needs inputs as wide as the output"):
        worked.example("1,2,3", cell=cell, hidden=2)


def test_only_the_last_step_feeds_the_output_weights_of_a_series() -> None:
    result = work("1,3,5,7,9")
    for name in ("W_ho", "b_o"):
        assert torch.equal(result.tape.grad(name, step=-1), result.tape.grad(name))
        assert all(result.tape.grad(name, step=step).count_nonzero() == 0 for step in range(4))
    assert all(result.tape.grad("W_hh", step=step).count_nonzero() for step in range(1, 5))


@pytest.mark.parametrize("name", ANY_CELL)
def test_any_cell_learns_to_spell(name: str) -> None:
    outcome = work("hello", None, cell=cell_of(name)).outcome
    assert outcome.answer == "hello"
    assert outcome.right


@pytest.mark.parametrize("seed", range(3))
def test_trained_on_hello_spells_hello(seed: int) -> None:
    outcome = worked.work(worked.example("hello", seed=seed)).outcome
    assert outcome.answer == "hello"
    assert outcome.right


def test_untrained_it_spells_something_else() -> None:
    outcome = work("hello").outcome
    assert (outcome.updates, outcome.right) == (0, False)
    assert outcome.answer != "hello"


@pytest.mark.parametrize("seed", range(3))
def test_trained_on_the_series_answers_eleven(seed: int) -> None:
    outcome = worked.work(worked.example("1,3,5,7,9", seed=seed)).outcome
    assert isinstance(outcome.answer, float)
    assert abs(outcome.answer - 11) <= 0.05
    assert outcome.right


def test_trained_towards_another_target() -> None:
    outcome = worked.work(worked.example("1,4,9,16", target=25)).outcome
    assert isinstance(outcome.answer, float)
    assert abs(outcome.answer - 25) <= 0.05


@pytest.mark.parametrize("seed", range(3))
def test_trained_on_bits_says_the_bit_before(seed: int) -> None:
    outcome = worked.work(worked.example("01101001", seed=seed)).outcome
    assert outcome.answer == "00110100"
    assert outcome.right


def test_one_update_of_training_is_the_update_that_is_shown() -> None:
    result = worked.work(worked.example("hello"), 1)
    assert result.outcome.loss == result.loss_after
    assert torch.equal(result.after["W_hh"], result.example.model.weights()["W_hh"])


def rendered(result: worked.Worked, width: int = 80) -> str:
    out = StringIO()
    printed.render(result, Console(file=out, width=width))
    return out.getvalue()


def printed_page(text: str, width: int = 80, updates: int | None = 0, **settings: Any) -> tuple[str, dict[str, Any]]:
    result = work(text, updates, **settings)
    return rendered(result, width), plain_data(result)


def flat(values: Any) -> list[float]:
    return [each for value in values for each in flat(value)] if isinstance(values, list) else [values]


def shown(values: Any) -> Counter[str]:
    return Counter(printed.number(value) for value in flat(values))


def assert_every_number_is_printed(page: str, data: dict[str, Any]) -> None:
    assert "…" not in page
    _, page_A = page.split("Side A · forward")
    page_A, page_B = page_A.split("Side B · backward")
    page_B, page_W = page_B.split("Summed over time")
    wanted_A = shown([each["value"] for each in data["once"].values()])
    for step in data["side_A"]:
        values = [step["x"], *step["before"].values(), *step["values"].values()]
        wanted_A += shown([*values, *([] if step["o"] is None else [step["o"], step["y_hat"], step["loss"]])])
    wanted_B: Counter[str] = Counter()
    for step in data["side_B"]:
        values = [step["do"], *step["handed"].values(), [] if step["jacobian"] is None else step["jacobian"]]
        for gradient in step["gradients"].values():
            values += [gradient["total"], *(gradient["terms"] if len(gradient["terms"]) > 1 else [])]
        wanted_B += shown(values)
    wanted_W = shown([[entry["before"], entry["gradient"], entry["after"]] for entry in data["weights"].values()])
    wanted_W += shown([each["gradient"] for each in data["once"].values() if each["gradient"] is not None])
    for wanted, section in ((wanted_A, page_A), (wanted_B, page_B), (wanted_W, page_W)):
        assert not wanted - Counter(section.replace(":", " ").split())
    assert printed.number(data["loss"]["before"]) in page_W
    assert printed.number(data["loss"]["after"]) in page_W


def widest(page: str) -> int:
    return max(cell_len(line) for line in page.splitlines())


@pytest.mark.parametrize("text", MORE)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_every_number_is_printed_and_every_line_fits(text: str, width: int) -> None:
    page, data = printed_page(text, width)
    assert widest(page) <= width
    assert_every_number_is_printed(page, data)


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize(
    ("text", "name"), sorted({*itertools.product(["hello"], ANY_CELL), *itertools.product(EXAMPLES, ["lstm", "own"])})
)
def test_every_number_of_any_cell_is_printed_and_every_line_fits(text: str, name: str, width: int) -> None:
    result = work_with(text, name)
    page = rendered(result, width)
    assert widest(page) <= width
    assert_every_number_is_printed(page, plain_data(result))


@pytest.mark.parametrize(("name", "width"), [("elman", 60), ("lstm", 80)])
def test_wide_networks_and_long_names_are_printed_whole(name: str, width: int) -> None:
    text = CELLS[name].replace("h_t", "hidden_t").replace("h_{t-1}", "hidden_{t-1}")
    for cell in (cell_of(name), Cell(text.replace("hidden", "state_" * 12 + "of_mine"), "long")):
        result = work("abcdefgh", cell=cell, hidden=12)
        page = rendered(result, width)
        assert widest(page) <= width
        assert_every_number_is_printed(page, plain_data(result))


@pytest.mark.parametrize("name", ANY_CELL)
@pytest.mark.parametrize("text", EXAMPLES)
def test_every_equation_and_tag_of_this_cell_is_printed(text: str, name: str) -> None:
    result = work_with(text, name)
    cell = result.example.model.rnn.cell
    listed, _, numbers = rendered(result, 140).partition("Side A · forward")
    lines = [line.split() for line in listed.splitlines()]
    for line in (*cell.side_a.where, *cell.side_a, *cell.side_b):
        wanted = [*line.tag.split(), *line.text.split()]
        assert any(line[: len(wanted)] == wanted for line in lines), line
    used = {line.tag for line in (*cell.side_a, *cell.side_b)}
    assert used - set(numbers.split()) == set()


@pytest.mark.parametrize(
    ("text", "said"), [("1,2", "squared error gives B3 the factor 2"), ("10", "B2 is ŷ_t ⊙ (1 − ŷ_t)")]
)
def test_what_the_loss_makes_of_b2_and_b3_is_said(text: str, said: str) -> None:
    assert said in rendered(work_with(text, "lstm"), 140)
    assert said not in rendered(work_with("hello", "lstm"), 140)


def test_the_last_line_tells_the_distance_to_both_judges() -> None:
    page, data = printed_page("hello")
    last = page.splitlines()[-1]
    for judge in ("autograd", "central differences"):
        assert f"{data['check']['residuals'][judge]['worst']:.1e} off {judge}" in last


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1", **environment}
    command = [sys.executable, "-W", "error", "-m", "bptt", "trace", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_pipes_and_no_color_lose_nothing_and_carry_no_control_codes() -> None:
    piped, without = run("hello", "--train", "0"), run("hello", "--train", "0", NO_COLOR="1", TERM="xterm-256color")
    assert piped.returncode == without.returncode == 0
    assert piped.stdout == without.stdout == printed_page("hello")[0]
    assert all(character == "\n" or character.isprintable() for character in piped.stdout)


def test_json_is_the_same_as_data(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(OWN, encoding="utf-8")
    done = run("1,3,5,7,9", "--json", "--seed", "2", "--train", "3", "--cell", str(tmp_path / "own.txt"))
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data == data_of("1,3,5,7,9", 3, seed=2, cell=cell_of("own"))
    assert (data["schema"], data["settings"]["cell"]) == (2, {"name": "own", "text": OWN})


def test_a_built_in_cell_is_asked_for_by_name() -> None:
    assert run("hello", "--train", "0", "--cell", "lstm").stdout == rendered(work_with("hello", "lstm"))


BAD = {
    "": "at least two steps; got ''",
    "x": "at least two steps; got 'x'",
    "7,": "numbers only; got ''",
    "1,x,3": "numbers only; got 'x'",
    "1,nan": "must be finite; got nan",
    "1,1e400": "must be finite; got inf",
    "-1e308,1e308": "must be finite; got inf",
    "a" * 65: "at most 64 characters; got 65",
    ",".join("1" * 65): "at most 64 numbers; got 65",
}


@pytest.mark.parametrize("text", BAD)
def test_texts_that_make_no_example_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=BAD[text]):
        worked.example(text)


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"hidden": 0}, "--hidden must lie in 1 to 64; got 0"),
    ({"hidden": 65}, "--hidden must lie in 1 to 64; got 65"),
    ({"lr": 0.0}, "--lr must be above 0"),
    ({"lr": float("nan")}, "--lr must be above 0.* got nan"),
    ({"seed": -1}, "--seed must be a whole number"),
    ({"nonlinearity": "gelu"}, "one of tanh, relu, sigmoid, identity; got 'gelu'"),
    ({"target": 3.0}, "--target is for numbers"),
    (
        {"nonlinearity": "relu", "cell": named("lstm")},
        "--nonlinearity is the φ of the plain cell; got 'relu' with the cell 'lstm', .* Leave one of the two out",
    ),
    (
        {"cell": Cell("d : input\nh_t = tanh(x_t W_xh + h_{t-1} W_hh + d_t ⊙ b_h)", "timed")},
        "gives a cell x and nothing else; the cell 'timed' also reads d. Take that out of its text",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_that_make_no_example_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        worked.example("hello", **settings)
    with pytest.raises(InputError, match="must be finite; got inf"):
        worked.example("1,2", target=math.inf)
    with pytest.raises(InputError, match="--train must be 0 or more; got -1"):
        worked.work(worked.example("hello"), -1)


def test_numbers_that_are_not_finite_are_refused_with_what_is_the_first() -> None:
    logarithm = Cell("h_t = log(x_t W_xh + h_{t-1} W_hh + b_h)", "logarithm")
    with pytest.raises(
        InputError, match=r"must be finite; with the cell 'logarithm', h_t at t = 1 is nan\. Try another"
    ):
        work("hello", cell=logarithm)


def test_mistakes_end_with_a_message_and_exit_code_2() -> None:
    for arguments in (["1,x"], ["hello", "--hidden", "0"], ["hello", "--digits", "1"], ["hello", "--lr", "fast"], []):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert done.stderr


BAD_CELLS = {
    "LSMT": r"A cell is one of elman, lstm, .*; there is none at LSMT\. Did you mean lstm\?",
    "nowhere.txt": r"A cell is one of elman, lstm, .*; there is none at nowhere\.txt",
    ".": r"\. is a directory or a device\. Name a file",
    "words.txt": r"Line 1, column 1: ",
    "gru --nonlinearity relu": r"--nonlinearity is the φ of the plain cell; got 'relu' with the cell 'gru'",
}


@pytest.mark.parametrize("cell", BAD_CELLS)
def test_what_is_no_cell_is_refused(cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("to be or not to be")
    said = " ".join(bptt(f"trace hello --cell {cell}", 2).replace("│", "").split())
    assert re.search(BAD_CELLS[cell], said), said


def test_a_diverged_training_is_said_and_is_still_json() -> None:
    page, data = printed_page("1,2,3", updates=200, lr=1000.0, nonlinearity="identity")
    assert "the loss is no longer finite: try a smaller --lr" in page
    assert data["training"]["answer"] is None
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    "text", ["a\x1b[31mb", "[bold]x[/bold]", "\u202eab", "</script>", "a b\n", "日本語", "\ud800x"]
)
def test_strange_texts_cannot_move_the_cursor(text: str) -> None:
    page, _ = printed_page(text, cell=Cell(CELLS["mgu"], text))
    assert all(character == "\n" or character.isprintable() for character in page)
    assert max(cell_len(line) for line in page.splitlines()) <= 80


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(2, 17))
def test_numbers_keep_their_significant_digits(value: float, digits: int) -> None:
    text = printed.number(value, digits)
    assert float(text) == float(f"{value:.{digits - 1}e}")
    assert len(text) <= digits + len("-0.00") + len("e-308")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000615, "6.15e-4"), (0.00061532, "6.153e-4"), (-12.3456, "-12.35"), (0.25, "0.25"), (1.0, "1"), (0.0, "0"),
     (-0.0, "0"), (0.99999, "1.000"), (12345.678, "1.235e4"), (0.1 + 0.2, "0.3000"), (0.01234567, "0.01235"),
     (math.inf, "inf"), (1e-300, "1e-300"), (9999.6, "1.000e4"), (120.0, "120")],
)  # fmt: skip
def test_numbers_are_never_rounded_to_fixed_decimals(value: float, text: str) -> None:
    assert printed.number(value) == text
