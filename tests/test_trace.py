"""The worked examples, number by number: against the sheet written out once more in NumPy, autograd and differences."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from bptt import InputError
from bptt.lesson import printed, worked
from bptt.sheet import equations

EXAMPLES = ["cell", "hello", "1,3,5,7,9", "01101001"]
MORE = [*EXAMPLES, "banana", "ab", "2,4,8,16", "-1,0,1", "10"]
Array = np.ndarray[Any, np.dtype[np.float64]]

PHI: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda a: 1 / np.cosh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(float)),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2),
    "identity": (lambda a: a, np.ones_like),
}


def softmax(o: Array) -> Array:
    return np.exp(o) / np.exp(o).sum()


def forward(
    data: dict[str, Any], weights: dict[str, Array], h0: Array, x: Array, y: list[Any]
) -> Iterator[dict[str, Any]]:
    """Side A and the loss, one step after the other; y[t] is None where the step has no output."""
    phi, _ = PHI[data["settings"]["nonlinearity"]]
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


def data_of(text: str, updates: int | None = 0, **settings: Any) -> dict[str, Any]:
    return json.loads(
        json.dumps(worked.as_data(worked.work(worked.example(text, **settings), updates)), allow_nan=False)
    )


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
        close(shown["A1"]["x"], step["x"], "A1 x")
        close(shown["A1"]["h_prev"], step["h_prev"], "A1 h_{t-1}")
        close(shown["A2"]["a"], step["a"], "A2")
        close(shown["A3"]["h"], step["h"], "A3")
        assert (shown["A5"] is None) == ("o" not in step)
        if shown["A5"] is not None:
            close(shown["A5"]["o"], step["o"], "A5")
            close(shown["A6"]["y_hat"], step["y_hat"], "A6")
            close(shown["B1"]["loss"], step["loss"], "B1 of one step")
            assert shown["B1"]["w"] == 1
            assert shown["B1"]["y"] == y[shown["t"] - 1]
    L = loss(data, weights, h0, x, y)
    close(data["loss"]["before"], L, "B1")

    _, slope = PHI[data["settings"]["nonlinearity"]]
    gradient = {name: np.zeros_like(value) for name, value in weights.items()}
    da_next = np.zeros_like(h0)
    for shown, step in zip(data["side_B"], reversed(steps), strict=True):
        do = np.zeros(weights["W_ho"].shape[1])
        assert (shown["B2"] is None) == ("o" not in step)
        if "o" in step:
            close(shown["B2"]["jacobian"], step["jacobian"], "B2")
            do = step["dL_dy_hat"] @ step["jacobian"]
        close(shown["B3"]["do"], do, "B3 as the product of ∂L/∂ŷ and B2")
        own, future = do @ weights["W_ho"].T, da_next @ weights["W_hh"].T
        dh = own + future
        close(shown["B6"]["own"], own, "B6 own output")
        close(shown["B6"]["future"], future, "B6 the future")
        close(shown["B6"]["dh"], dh, "B6")
        close(shown["B7"]["slope"], slope(step["a"]), "B7 φ'")
        da_next = dh * slope(step["a"])
        close(shown["B7"]["da"], da_next, "B7")
        close(shown["B11"]["handed"], da_next @ weights["W_hh"].T, "B11 to t-1")
        close(shown["B11"]["dx"], da_next @ weights["W_xh"].T, "B11 ∂x")
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


@pytest.mark.parametrize("text", EXAMPLES)
def test_gradients_are_those_of_autograd(text: str) -> None:
    result = worked.work(worked.example(text), 0)
    model = worked.example(text).model
    given_example = worked.example(text)
    o, _ = model(given_example.x, given_example.h0)
    model.loss(o, given_example.targets, torch.ones(())).backward()
    for name, parameter in (
        ("W_xh", "rnn.weight_ih_l0"), ("W_hh", "rnn.weight_hh_l0"), ("b_h", "rnn.bias_ih_l0"),
        ("W_ho", "readout.weight"), ("b_o", "readout.bias"),
    ):  # fmt: skip
        gradient = model.get_parameter(parameter).grad
        assert gradient is not None
        close(result.gradient[name].tolist(), gradient.T.numpy() if gradient.dim() == 2 else gradient, name)


def test_only_the_last_step_feeds_the_output_weights_of_a_series() -> None:
    result = worked.work(worked.example("1,3,5,7,9"), 0)
    for name in ("W_ho", "b_o"):
        assert torch.equal(result.tape.grad(name, step=-1), result.tape.grad(name))
        assert all(result.tape.grad(name, step=step).count_nonzero() == 0 for step in range(4))
    assert all(result.tape.grad("W_hh", step=step).count_nonzero() for step in range(1, 5))


@pytest.mark.parametrize("seed", range(3))
def test_trained_on_hello_spells_hello(seed: int) -> None:
    outcome = worked.work(worked.example("hello", seed=seed)).outcome
    assert outcome.answer == "hello"
    assert outcome.right


def test_untrained_it_spells_something_else() -> None:
    outcome = worked.work(worked.example("hello"), 0).outcome
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
    assert torch.equal(result.after["W_hh"].mT, result.example.model.rnn.get_parameter("weight_hh_l0"))


def printed_page(text: str, width: int = 80, updates: int | None = 0, **settings: Any) -> tuple[str, dict[str, Any]]:
    result = worked.work(worked.example(text, **settings), updates)
    out = StringIO()
    printed.render(result, Console(file=out, width=width))
    return out.getvalue(), json.loads(json.dumps(worked.as_data(result)))


def flat(values: Any) -> list[float]:
    return [each for value in values for each in flat(value)] if isinstance(values, list) else [values]


def shown(values: Any) -> Counter[str]:
    return Counter(printed.number(value) for value in flat(values))


@pytest.mark.parametrize("text", MORE)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_every_number_is_printed_and_every_line_fits(text: str, width: int) -> None:
    page, data = printed_page(text, width)
    assert max(cell_len(line) for line in page.splitlines()) <= width
    _, page_A = page.split("Side A · forward")
    page_A, page_B = page_A.split("Side B · backward")
    page_B, page_W = page_B.split("Summed over time")
    wanted_A: Counter[str] = Counter()
    for step in data["side_A"]:
        values = [step["A1"]["x"], step["A1"]["h_prev"], step["A2"]["a"], step["A3"]["h"]]
        values += [] if step["A5"] is None else [step["A5"]["o"], step["A6"]["y_hat"], step["B1"]["loss"]]
        wanted_A += shown(values)
    wanted_B: Counter[str] = Counter()
    for step in data["side_B"]:
        values = [step["B3"]["do"], *step["B6"].values(), *step["B7"].values(), *step["B11"].values()]
        wanted_B += shown([*values, [] if step["B2"] is None else step["B2"]["jacobian"]])
    wanted_W = shown([[entry["before"], entry["gradient"], entry["after"]] for entry in data["weights"].values()])
    for wanted, section in ((wanted_A, page_A), (wanted_B, page_B), (wanted_W, page_W)):
        assert not wanted - Counter(section.replace(":", " ").split())
    assert printed.number(data["loss"]["before"]) in page_W
    assert printed.number(data["loss"]["after"]) in page_W


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_equation_and_tag_is_printed(text: str) -> None:
    page, _ = printed_page(text, 100)
    for tag, equation in equations.SHEET.items():
        assert any(line.split()[:1] == [tag] and equation.formula in line for line in page.splitlines())
    sheet, _, numbers = page.partition("Side A · forward")
    assert sheet
    words = set(numbers.split())
    assert {tag for tag in equations.SHEET if tag not in words} == set()


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


def test_json_is_the_same_as_data() -> None:
    done = run("1,3,5,7,9", "--json", "--seed", "2")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data == data_of("1,3,5,7,9", None, seed=2)
    tape = worked.work(worked.example("1,3,5,7,9", seed=2), 0).tape
    assert [step["A3"]["h"] for step in data["side_A"]] == tape.h[:, 0].tolist()
    assert [step["B7"]["da"] for step in reversed(data["side_B"])] == tape.da[:, 0].tolist()
    assert data["weights"]["W_hh"]["gradient"] == tape.grad("W_hh").tolist()


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
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_that_make_no_example_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        worked.example("hello", **settings)
    with pytest.raises(InputError, match="must be finite; got inf"):
        worked.example("1,2", target=math.inf)
    with pytest.raises(InputError, match="--train must be 0 or more; got -1"):
        worked.work(worked.example("hello"), -1)


def test_mistakes_end_with_a_message_and_exit_code_2() -> None:
    for arguments in (["1,x"], ["hello", "--hidden", "0"], ["hello", "--digits", "1"], ["hello", "--lr", "fast"], []):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert done.stderr


def test_a_diverged_training_is_said_and_is_still_json() -> None:
    page, data = printed_page("1,2,3", updates=200, lr=1000.0, nonlinearity="identity")
    assert "the loss is no longer finite: try a smaller --lr" in page
    assert data["training"]["answer"] is None
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    "text", ["a\x1b[31mb", "[bold]x[/bold]", "\u202eab", "</script>", "a b\n", "日本語", "\ud800x"]
)
def test_strange_texts_cannot_move_the_cursor(text: str) -> None:
    page, _ = printed_page(text)
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
