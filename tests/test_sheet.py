"""The sheet: side B is derived, is the gradient of side A, reads as a textbook does; what can be misread is refused."""

import copy
import json
import pickle
import random
import re
from pathlib import Path
from typing import Any

import pytest
import sheets
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from published_cells import PUBLISHED
from typer.testing import CliRunner

import bptt
from bptt import Cell
from bptt.cli import app
from bptt.errors import InputError
from bptt.sheet import language, named
from bptt.sheet.cells import CELLS, elman
from bptt.sheet.expressions import Call, Name
from bptt.sheet.functions import FUNCTIONS, Function
from bptt.sheet.language import parse
from bptt.sheet.printing import TEX, TEXT
from bptt.sheet.tokens import statements

OPTIONS = {
    "leak": elman("relu", leak=0.3),
    "residual": elman("sigmoid", residual=True),
    "norm": elman(norm=True),
    "dropout": elman("identity", dropout=True),
    "no bias": elman(bias=False),
    "no bias, norm": elman(norm=True, bias=False),
    "all options": elman(leak=0.5, residual=True, norm=True, dropout=True),
}
CORNERS = {
    "one number in all units of a sum": "p : scalar\n"
    "h_t = tanh(x_t W + sum(p + h_{t-1}) ⊙ h_{t-1} + mean(p ⊙ h_{t-1}))",
    "functions": "α : constant = −0.2\nu_t = sqrt(1 + (x_t W)²) + log(1 + abs(h_{t-1}))\n"
    "h_t = u_t + clip(b, α, 0.3) + min(h_{t-1}, b)",
    "fixed vectors": "u : vector\nk = exp(−u) W_k − b; s = sum(k ⊙ k) / 3\nh_t = tanh(x_t W + k ⊙ h_{t-1} + s)",
    "fixed matrices": "γ : scalar\nM = softplus(V) − γ ⊙ I − (U Vᵀ) / 2\nh_t = tanh(x_t W + h_{t-1} M + h_{t-1} Vᵀ)",
    "a matrix from everywhere": "E : vector\nM = V − Vᵀ\nh_t = tanh(x_t W + E ⊙ (h_{t-1} M) − h_{t-1} V)",
    "a state of one number": "s_t = 0.5 ⊙ s_{t-1} + mean(x_t)\nh_t = tanh(x_t W + h_{t-1} V − s_t ⊙ b + s_t W_s)",
    "an input that is wide": "d : input S\nh_t = relu(d_t W_d − h_{t-1} + x_t W) − softmax(−h_{t-1})²",
    "products of what rows have and have not": "m : rows; c : constant = 2; p : scalar\nk = b W_k\n"
    "h_t = tanh(x_t W + m W_m + b W_b + k W_n + (2 W_2) + c W_c + p W_p + (c ⊙ h_{t-1}) W_h)",
    "a fixed number": "k = 3\nh_t = x_t W + k ⊙ h_{t-1} + sum(2) ⊙ b",
    "names as given by the naming pass": "in_t = (x_t W_xi) ⊙ h_{t-1}\nu_t = (x_t W) ⊙ h_{t-1}\nh_t = in_t ⊙ u_t",
    "a scalar from everywhere": "p : scalar\nk = 1 / (1 + p²)\nh_t = tanh(x_t W + k ⊙ (h_{t-1} / (1 + p²)))",
    "powers": "h_t = tanh(x_t W + h_{t-1}² ⊙ h_{t-1}² ⊙ h_{t-1} + (h_{t-1} / 3)² − (h_{t-1}²)²)",
    "bounds that are fractions": "α : constant = 3\nh_t = x_t W + clip(h_{t-1}, −1 / α, α² / 20)",
    "gradients that are scaled": "α : constant = 0.9\nh_t = tanh(x_t W + scale_gradient(h_{t-1}, α / 2) V)",
    "masks": "k : size S\nm_t = tanh(x_t W_xm + drop(h_{t-1}) W_hm + drop(drop(x_t W_xm) − mean(h_{t-1})))\n"
    "k_t = drop(x_t V + drop(k_{t-1}))\nh_t = m_t + drop(mean(h_{t-1})) ⊙ b + drop(k_t W_k)",
    "a gradient that is zero": "u_t = x_t W − x_t W\nh_t = tanh(h_{t-1} V + u_t − u_t + x_t W)",
}
ALL = CELLS | OPTIONS | CORNERS | PUBLISHED
TUTORIALS = [
    ("A1", "take x_t and h_{t-1}"),
    ("A2", "a_t = x_t W_xh + h_{t-1} W_hh + b_h"),
    ("A3", "h_t = φ(a_t)"),
    ("A4", "hand h_t to step t+1"),
    ("A5", "o_t = h_t W_ho + b_o"),
    ("A6", "ŷ_t = g(o_t)"),
    ("B1", "L = Σ_t w_t · loss(ŷ_t, y_t)"),
    ("B2", "∂ŷ_t/∂o_t = softmax: ŷ_i (δ_ik − ŷ_k)"),
    ("B3", "∂o_t = w_t (ŷ_t − y_t)"),
    ("B4", "∂b_o = Σ_t Σ_batch ∂o_t"),
    ("B5", "∂W_ho = Σ_t h_tᵀ ∂o_t"),
    ("B6", "∂h_t = ∂o_t W_hoᵀ + ∂a_{t+1} W_hhᵀ"),
    ("B7", "∂a_t = ∂h_t ⊙ φ'(a_t)"),
    ("B8", "∂b_h = Σ_t Σ_batch ∂a_t"),
    ("B9", "∂W_xh = Σ_t x_tᵀ ∂a_t"),
    ("B10", "∂W_hh = Σ_t h_{t-1}ᵀ ∂a_t"),
    ("B11", "hand ∂a_t W_hhᵀ to step t−1"),
    ("B11", "∂x_t = ∂a_t W_xhᵀ"),
]
BY_VALUE = {"tanh": " ⊙ (1 − h_t²)", "relu": " ⊙ [h_t > 0]", "sigmoid": " ⊙ h_t ⊙ (1 − h_t)", "identity": ""}


@pytest.mark.parametrize("function", BY_VALUE)
def test_the_sides_of_the_plain_cell_are_the_list_of_the_tutorials(function: str) -> None:
    cell = Cell(elman(function))
    derived = [(line.tag, line.text) for line in (*cell.side_a, *cell.side_b)]
    assert derived == [(tag, formula.replace(" ⊙ φ'(a_t)", BY_VALUE[function])) for tag, formula in TUTORIALS]
    assert cell.kept == ("h_t",)


def test_cells_of_one_text_and_name_are_one_object() -> None:
    text = CELLS["gru"]
    assert Cell(text) is Cell(text) is copy.deepcopy(Cell(text)) is pickle.loads(pickle.dumps(Cell(text)))
    assert Cell(text) != Cell(text, "gru") != named("lstm")
    for _ in range(2):  # nothing stays of what is no cell
        with pytest.raises(InputError, match="A cell is text, one equation a line; got list"):
            Cell([text])  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="a value is missing"):
            Cell("h_t = ")


def test_a_cell_typed_on_one_line_derives_to_the_same_list() -> None:
    one = Cell("h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h)")
    assert [line.text for line in one.side_b] == [line.text for line in named("elman").side_b]
    lstm = "c_t = σ({f}) ⊙ c_{t-1} + σ({i}) ⊙ tanh({g})\nh_t = σ({q}) ⊙ tanh(c_t)"
    for gate in "ifgq":
        lstm = lstm.replace(f"{{{gate}}}", f"x_t W_x{gate} + h_{{t-1}} W_h{gate} + b_{gate}")
    assert len(Cell(lstm).side_b) == len(named("lstm").side_b)


def test_side_b_reads_as_a_textbook_writes_it() -> None:
    lines = {line.symbol: line.text for line in named("gru").side_b}
    assert lines["∂h_t"] == (
        "∂h_t = ∂o_t W_hoᵀ + ∂h_{t+1} ⊙ z_{t+1} + ∂ar_{t+1} W_hrᵀ + ∂az_{t+1} W_hzᵀ + ∂m_{t+1} W_hnᵀ"
    )
    assert lines["∂z_t"] == "∂z_t = ∂h_t ⊙ (h_{t-1} − n_t)"
    assert lines["∂an_t"] == "∂an_t = ∂n_t ⊙ (1 − n_t²)"
    lines = {line.symbol: line.text for line in named("peephole").side_b}
    assert lines["∂c_t"] == (
        "∂c_t = ∂u_t ⊙ (1 − u_t²) + p_q ⊙ ∂aq_t + ∂c_{t+1} ⊙ f_{t+1} + p_i ⊙ ∂ai_{t+1} + p_f ⊙ ∂af_{t+1}"
    )
    (line,) = [line for line in Cell("h_t = x_t W + h_{t-1}² ⊙ b − 3 ⊙ h_{t-1}").side_b if line.symbol == "∂h_t"]
    assert line.text == "∂h_t = ∂o_t W_hoᵀ + ∂h_{t+1} ⊙ (2 ⊙ b ⊙ h_t − 3)"
    assert named("lstm").kept == ("i_t", "f_t", "g_t", "q_t", "c_t", "h_t")
    assert (named("lstm").derivation.made_again, named("gru-v1").derivation.made_again) == (["u"], ["s"])
    assert Cell("n_t = x_t W + h_{t-1} U; m_t = softmax(n_t); h_t = m_t ⊙ n_t").derivation.made_again == []
    for name, text in ALL.items():
        for line in Cell(text).side_b:
            assert not re.search(r"[+−] [+−]|−−|\b1 ⊙| ⊙ 1\b|−\(−|²²", line.text), (name, line.text)
    turned = Cell("h_t = tanh(x_t W^T + h_{t-1} V^T)").side_b
    assert [str(line) for line in turned if line.symbol in ("∂W", "∂V")] == [
        "B9   ∂W = Σ_t ∂a_tᵀ x_t",
        "B10  ∂V = Σ_t ∂a_tᵀ h_{t-1}",
    ]


def test_each_term_says_which_use_it_comes_from() -> None:
    (line,) = [line for line in named("elman").side_b if line.tag == "B6"]
    assert [(term.text, term.use) for term in line.terms] == [
        ("∂o_t W_hoᵀ", "o_t = h_t W_ho + b_o"),
        ("∂a_{t+1} W_hhᵀ", "a_{t+1} = x_{t+1} W_xh + h_t W_hh + b_h"),
    ]


def test_options_say_which_parameters_a_plain_cell_has() -> None:
    learned = {
        name: [g for g, given in Cell(text).sheet.given.items() if given.learned] for name, text in OPTIONS.items()
    }
    assert learned["dropout"] == ["W_xh", "W_hh", "b_h"]
    assert learned["norm"] == ["W_xh", "W_hh", "b_h", "γ", "β"]
    assert learned["no bias"] == ["W_xh", "W_hh"]
    assert learned["no bias, norm"] == ["W_xh", "W_hh", "γ"]


@pytest.mark.parametrize("name", ALL)
def test_side_b_is_the_gradient_of_side_a(name: str) -> None:
    sheets.compared(Cell(ALL[name], name))


def masks(cell: Cell) -> dict[str, str]:
    return {name: cell.sheet.widths[name] for name, given in cell.sheet.given.items() if given.kind == "drop"}


def test_each_drop_has_a_mask_of_its_own_as_wide_as_what_it_drops() -> None:
    several = {"mm": "H", "mm2": "H", "mm3": "H", "mk": "S", "mk2": "S", "mh": "1", "mh2": "H"}
    assert masks(Cell(CORNERS["masks"])) == several
    typed = "φ : function = tanh; m : rows\na_t = x_t W_xh + (m ⊙ h_{t-1}) W_hh + b_h\nh_t = φ(a_t)"
    assert Cell(elman(dropout=True)).side_b == Cell(typed).side_b
    assert masks(Cell(elman(dropout=True))) == {"m": "H"}
    assert masks(Cell(typed)) == {}


@pytest.mark.parametrize("name", ALL)
def test_what_is_printed_parses_again(name: str) -> None:
    """Side A as typed, equation by equation, and as a whole with all names given."""
    for line in parse(ALL[name]).equations:
        (tokens,) = statements((TEXT.write(line.value),))
        again = language.Parser(parse(ALL[name]), tokens)
        assert again.whole() == line.value
    cell = Cell(ALL[name])
    kinds = [statement for statement in re.split("[\n;]", ALL[name]) if ":" in statement]
    for mask, width in masks(cell).items():
        kinds += [f"{mask} : size {width}"] * (width not in "1HI")
        kinds.append(f"{mask} : constant = 1" if width == "1" else f"{mask} : rows")
    lines = [line.text for line in cell.side_a if line.tag in ("A2", "A3")]
    assert Cell("\n".join([*kinds, *lines])).side_b == cell.side_b


def test_states_begin_with_the_output_as_those_of_torch_do() -> None:
    assert named("lstm").sheet.states == ("h", "c")
    assert Cell(PUBLISHED["lem"]).sheet.states == ("h", "z")
    several = "k_t = h_{t-1}\nc_t = x_t V + k_{t-1} − c_{t-1}"
    assert Cell(f"{several}\nh_t = c_t W").sheet.states == ("h", "k", "c")
    assert Cell("d_t = x_t W\nc_t = c_{t-1} + d_{t-1}\ng_t = c_t").sheet.states == ("d", "c")


@pytest.mark.parametrize("name", ALL)
def test_tags_are_those_of_the_tutorials(name: str) -> None:
    cell = Cell(ALL[name])
    assert {line.tag for line in cell.side_a} >= {"A1", "A2", "A4", "A5", "A6"}
    assert {line.tag for line in cell.side_b} >= {"B1", "B2", "B3", "B4", "B5", "B6", "B11"}
    assert {line.tag for line in (*cell.side_a, *cell.side_b)} <= {tag for tag, _ in TUTORIALS}


def test_thirty_published_cells_are_typed() -> None:
    assert len(PUBLISHED) >= 30


@pytest.mark.parametrize(("name", "kind", "gates"), [("lstm", torch.nn.LSTM, "ifgq"), ("gru", torch.nn.GRU, "rzn")])
def test_lstm_and_gru_are_those_of_torch(name: str, kind: Any, gates: str) -> None:
    cell = named(name)
    at = sheets.setting(cell)
    judge = kind(4, 5).double()
    with torch.no_grad():
        judge.weight_ih_l0.copy_(torch.cat([at.given[f"W_x{gate}"].mT for gate in gates]))
        judge.weight_hh_l0.copy_(torch.cat([at.given[f"W_h{gate}"].mT for gate in gates]))
        biases = [at.given[f"b_{gate}"] if gate != "n" else at.given["b_xn"] for gate in gates]
        judge.bias_ih_l0.copy_(torch.cat(biases, 1)[0])
        judge.bias_hh_l0.zero_()
        if name == "gru":
            judge.bias_hh_l0[10:] = at.given["b_hn"][0]
    first = tuple(at.first[state][None].detach().requires_grad_() for state in ("h", "c") if state in at.first)
    x = at.inputs["x"].detach().requires_grad_()
    output, _ = judge(x, first if name == "lstm" else first[0])
    _, values = sheets.forward(cell, at, typed=False)
    torch.testing.assert_close(torch.stack([values["h", t] for t in range(4)]), output)
    own = torch.randn_like(output)
    output.backward(own)
    found = sheets.by_side_b(cell, at, own)
    torch.testing.assert_close(found["∂x_t"], x.grad)
    torch.testing.assert_close(torch.cat([found[f"∂W_h{g}"].mT for g in gates]), judge.weight_hh_l0.grad)
    torch.testing.assert_close(torch.cat([found[f"∂W_x{g}"].mT for g in gates]), judge.weight_ih_l0.grad)
    bias = torch.cat([found[f"∂b_{g}" if g != "n" else "∂b_xn"] for g in gates], 1)[0]
    torch.testing.assert_close(bias, judge.bias_ih_l0.grad)
    for state, given_first in zip("hc", first, strict=False):
        assert given_first.grad is not None
        torch.testing.assert_close(found[f"∂{state}_0"], given_first.grad[0])


EDGES = {
    "relu": torch.relu,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "log": torch.log,
    "exp": torch.exp,
    "tanh": torch.tanh,
    "σ": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "clip": lambda a: a.clamp(-0.5, 0.5),  # at a bound itself torch 2.13 passes gradients and torch 2.14 does not
}


@pytest.mark.parametrize("name", EDGES)
def test_functions_do_at_their_edges_what_those_of_torch_do(name: str) -> None:
    a = torch.tensor([[-torch.inf, -1e3, -1.0, -0.0, 0.0, 1.0, 1e3, torch.inf, torch.nan]], dtype=torch.float64)
    a.requires_grad_()
    for cotangent in (1.0, torch.inf):
        d = torch.full_like(a, cotangent)
        y = EDGES[name](a)
        (expected,) = torch.autograd.grad(y, a, d)
        letters = {"a": a, "y": y, "d": d, "b": torch.tensor(-0.5), "c": torch.tensor(0.5)}
        back = language.parse_expression(FUNCTIONS[name].back[0] or "")
        found = sheets.value(back, lambda e, letters=letters: letters[e.name], named("elman"), {})
        torch.testing.assert_close(
            found.detach(), expected, equal_nan=True, msg=f"{name}, {cotangent}: {found} {expected}"
        )


FUNCTION_OF_ONE = ("tanh", "σ", "relu", "identity", "softplus", "abs", "norm", "softmax")


@st.composite
def invented(draw: st.DrawFn) -> str:
    """A random cell that is well formed: several states and lines, shared parts, products of any values, one output."""
    states = draw(st.sampled_from([["h"], ["c", "h"], ["k", "c", "h"]]))
    lines, made = [], []
    matrices = [f"W_{n}" for n in range(4)]

    def atom() -> str:
        kinds = ["value"] * 4 * bool(made) + ["state"] * 2 + ["x"] * 2 + ["vector", "scalar", "number", "narrow"]
        kind = draw(st.sampled_from(kinds))
        if kind == "value":
            return f"{draw(st.sampled_from(made))}_t"
        if kind == "state":
            return f"{draw(st.sampled_from(states))}_{{t-1}}"
        if kind == "x":
            return "(x_t W_x)" if draw(st.booleans()) else "(x_t W_y)"
        if kind == "narrow":
            return f"{draw(st.sampled_from(['sum', 'mean']))}({draw(st.sampled_from(states))}_{{t-1}})"
        return {"vector": "b_v", "scalar": "p", "number": draw(st.sampled_from(["1", "2", "0.5"]))}[kind]

    def expression(depth: int) -> str:
        kinds = ["atom", "sum", "times", "call", "product", "over", "square", "max", "minus", "drop"]
        kind = draw(st.sampled_from(kinds))
        if depth == 0 or kind == "atom":
            return atom()
        inner = [expression(depth - 1) for _ in range(draw(st.integers(2, 3)))]
        if kind == "sum":
            return f"({inner[0]}{''.join(draw(st.sampled_from([' + ', ' − '])) + part for part in inner[1:])})"
        if kind == "times":
            return f"({' ⊙ '.join(inner)})"
        if kind == "call":
            return f"{draw(st.sampled_from(FUNCTION_OF_ONE))}({inner[0]} + b_w)"
        if kind == "product":
            left = draw(st.sampled_from(["b_w", f"({inner[0]} + b_w)"]))
            return f"({left} {draw(st.sampled_from(matrices))})"
        if kind == "over":
            return f"({inner[0]} / (1 + ({inner[1]})²))"
        if kind == "square":
            return f"({inner[0]})²"
        if kind == "drop":
            return f"drop({inner[0]} + h_{{t-1}})"
        if kind == "max":
            return f"{draw(st.sampled_from(['max', 'min']))}({inner[0]}, {inner[1]} + b_w)"
        return f"(−{inner[0]})"

    for n in range(draw(st.integers(0, 4))):
        lines.append(f"v{n}_t = {draw(st.sampled_from(['tanh', 'σ', 'softmax']))}({expression(2)} + b_w)")
        made.append(f"v{n}")
    for state in states[:-1]:
        lines.append(f"{state}_t = {expression(1)} + σ(b_w) ⊙ tanh({state}_{{t-1}} + {expression(2)})")
        made.append(state)
    last = expression(2)
    rest = "".join(f" + {name}_t" for name in made)
    lines.append(f"h_t = tanh({last} + x_t W_x{rest} + h_{{t-1}} W_0 + b_w)")
    text = "\n".join(lines)
    return ("p : scalar\n" if re.search(r"\bp\b", text) else "") + text


@settings(max_examples=150, deadline=None)
@given(text=invented(), seed=st.integers(0, 5))
def test_side_b_of_invented_cells_is_the_gradient_of_side_a(text: str, seed: int) -> None:
    cell = Cell(text)
    at = sheets.setting(cell, seed)
    _, values = sheets.forward(cell, at)
    assume(all(value.abs().max() < 1e3 for value in values.values()))
    sheets.compared(cell, seed)
    assert str(cell)
    assert cell.tex()


GOOD = "a_t = x_t W_xh + h_{t-1} W_hh + b_h\nh_t = tanh(a_t)"
BAD = [
    # text, the message, what the caret stands under
    ("h_t = tahn(x_t W + h_{t-1} V)", r"no function is called tahn.*Did you mean tanh\?", "tahn"),
    ("h_t = tanh(x_t W + h_{t-1} V) $ 3", r"'\$' means nothing here", "$"),
    ("h_t = tanh(x_t W × h_{t-1} V)", r"'×' \(MULTIPLICATION SIGN\) means nothing here.*Write ⊙ \(or \*\)", "×"),
    ("h_t = tanh(a_t)\na_t = x_t W + h_{t-1} V", r"a_t is read before it is made.*move its equation up", "a_t"),
    ("h_t = tanh(h_t W + x_t V)", r"h_t is read before it is made.*Write h_{t-1}", "h_t"),
    ("M = N_2 V_1\nN_2 = V_3 V_4\nh_t = x_t M + h_{t-1} W", r"N_2 is read before it is made", "N_2"),
    ("h_t = tanh(x_t W_xh + b_h)", r"reads a value of the step before", "h_t"),
    ("h_t = x_t W + h_{t-1} V\nh_t = tanh(x_t W)", r"h is defined twice", "h_t"),
    ("b : vector\nb_t = x_t W + b\nh_t = tanh(h_{t-1} + b_t)", r"b is defined twice", "b_t"),
    ("p : vector; p : scalar\nh_t = tanh(x_t W + p ⊙ h_{t-1})", r"p is declared twice", "p"),
    ("h_t = tanh(x_t W + h_{t-2} V)", r"a cell knows this step, t, and of its states the step before", "h_{t-2}"),
    ("h_t = tanh(x_t W + h_{t+1} V)", r"a cell knows this step", "h_{t+1}"),
    ("h_t = tanh(x_{t-1} W + h_{t-1} V)", r"only states have a step before: of inputs", "x_{t-1}"),
    ("d : input\nh_t = tanh(x_t W + h_{t-1} V + d_{t-1})", r"only states have a step before", "d_{t-1}"),
    ("h_t = tanh(x_t W + h_t-1 V)", r"h_t-1 can be read in two ways.*h_{t-1}.*h_t − 1", "h_t-1"),
    ("s : size S\ns_t = x_t W_xs + s_{t-1}\nh_t = h_{t-1} + s_t", r"widths that meet have to be equal; here", "s_t"),
    ("s : size S\ns_t = x_t W_xs\nh_t = h_{t-1} V + s_t V", r"V is used with two shapes", "s_t V"),
    ("h_t = tanh(x_t W + h_{t-1} W)", r"W is used with two shapes.*a matrix of its own", "h_{t-1} W"),
    ("a_t = x_t W\no_t = σ(a_t)\nh_t = h_{t-1} + o_t", r"o is the output before g: .*is q here", "o_t"),
    ("y_t = x_t W\nh_t = h_{t-1} + y_t", r"y is the targets: it belongs to the network", "y_t"),
    ("h_t = tanh(x_t W + h_{t-1} W_ho)", r"W_ho is the output's matrix", "W_ho"),
    ("L : vector\nh_t = tanh(x_t W + h_{t-1} + L)", r"L is the loss", "L"),
    ("x_t = h_{t-1} W\nh_t = x_t", r"x is the input of the cell", "x_t"),
    ("tanh_t = x_t W\nh_t = h_{t-1} + tanh_t", r"tanh is a function", "tanh_t"),
    ("h_t = tanh(x_t W + (h_{t-1} V)", r"this bracket is not closed", "("),
    ("h_t = tanh(x_t W + h_{t-1} V))", r"this bracket closes none", ")"),
    ("h_t = tanh(x_t W + h_{t-1} V", r"this bracket is not closed", "("),
    ("h_t = tanh(x_t W + \u0430_{t-1})", r"CYRILLIC SMALL LETTER A: it only looks like 'a'", "\u0430"),
    ("h_t = tanh(x_t \u0392 + h_{t-1})", r"GREEK CAPITAL LETTER BETA: it only looks like 'B'", "\u0392"),
    ("h_t = tanh(𝑥_t W + h_{t-1})", r"MATHEMATICAL ITALIC SMALL X: it only looks like 'x'.*Type 'x', LATIN", "𝑥"),
    ("ℎ_t = tanh(x_t W + h_{t-1})", r"PLANCK CONSTANT: it only looks like 'h'", "ℎ"),
    ("h_t = tanh（x_t W + h_{t-1}）", r"FULLWIDTH LEFT PARENTHESIS: it only looks like '\('", "（"),
    ("h_t = x_t W + ½ ⊙ h_{t-1}", r"VULGAR FRACTION ONE HALF\) means nothing here", "½"),
    ("h_t = x_t W + h_{t-1}³", r"SUPERSCRIPT THREE\) means nothing here.*other powers are products", "³"),
    ("h_t = tanh(x_t W + hₜ₋₁)", r"means nothing here.*Write h_t for this step", "ₜ"),
    ("h_t = tanh(x_t W + h_{t-1 V)", r"this bracket is not closed.*h_{t-1} or h\[t-1\]", "{"),
    ("h_t = tanh(x_t W + h[t-1 V)", r"this bracket is not closed", "["),
    ("h_t = tanh[x_t W + h_{t-1}]", r"in such brackets stands a time.*Round ones.*tanh\(…\)", "tanh[x_t W + h_{t-1}]"),
    ("h_t = x_t W + h_{t-1} ** 2", r"'\*' means nothing here.*A square is", "*"),
    (r"h_t = \tanh(x_t W + h_{t-1})", r"This is no TeX", "\\"),
    ("h_t = W x_t + h_{t-1}", r"matrix stands right of what it multiplies, as in x_t W", "x_t"),
    ("h_t = tanh(x_tW + h_{t-1})", r"Did you mean x_t W, with a space\?", "x_tW"),
    ("h_t = tanh(x_t W + h_t-0.5)", r"h_t − 0.5 with spaces to subtract 0.5", "h_t-0.5"),
    ("h_t = σ(x) + h_{t-1}", r"x has a value at each step.*Write x_t\.", "x"),
    ("h_t = " + "(" * 40 + "x_t" + ")" * 40, r"at most 30 brackets", "("),
    ("h_t = h_{t-1} + x_t W" + " + b" * 80, r"at most 64 names and numbers", "b"),
    (GOOD + "\nz_t = σ(a_t)", r"the last equation is the output, which h has to be; here it is z", "z_t"),
    ("z_t = σ(x_t W)\n" + GOOD, r"the output h_t, which is the last equation, does not depend on z", "z_t"),
    ("p : vector\n" + GOOD, r"p is declared, and no equation reads it", "p"),
    ("s : size S\n" + GOOD, r"s is declared, and no equation reads it", "s"),
    ("φ : function = relu\n" + GOOD, r"φ is declared, and no equation reads it", "φ"),
    ("φ : function = tann\n" + GOOD, r"tann is no function that a name can stand for", "function = tann"),
    ("φ : function = drop\n" + GOOD, r"drop is no function that a name can stand for", "function = drop"),
    ("k = drop(b)\nh_t = x_t W + k ⊙ h_{t-1}", r"drop has a mask for each row.*Give k a time", "drop(b)"),
    ("h_t = x_t W + drop(2 ⊙ b) ⊙ h_{t-1}", r"drop is for values of a step.*drop\(h_{t-1}\)", "drop(2 ⊙ b)"),
    ("h_t = x_t W + h_{t-1} + drop(W)", r"drop is for values of a step", "drop(W)"),
    ("h_t = x_t W + drop(h_{t-1}, 0.5)", r"drop takes 1 argument, .*; got 2", "drop(h_{t-1}, 0.5)"),
    ("h_t = x_t W + drop h_{t-1}", r"drop is a function.*Write drop\(…\)", "drop"),
    ("drop_t = x_t W\nh_t = h_{t-1} + drop_t", r"drop is a function", "drop_t"),
    ("h_t = x_t W + dorp(h_{t-1})", r"Did you mean drop\?.*mean and drop\.", "dorp"),
    ("h_t = tanh(x_t W + u ⊙ h_{t-1})", r"u is not known.*u : vector", "u"),
    ("h_t = tanh(x_t W + hh_{t-1})", r"hh has no equation.*Did you mean h_t\?", "hh_{t-1}"),
    ("h_t = tanh(x_t W + h)", r"h has a value at each step.*Write h_t", "h"),
    ("a_t = x_t W\nh_t = tanh(a_t h_{t-1})", r"nothing says how this and what stands before it are joined", "h_{t-1}"),
    ("h_t = 2h_{t-1} + x_t W", r"nothing says how this and what stands before it are joined", "h_{t-1}"),
    ("r_t = x_t V\nh_t = r_t ⊙ h_{t-1} W", r"Write r_t ⊙ \(h_{t-1} W\) or \(r_t ⊙ h_{t-1}\) W", "r_t ⊙ h_{t-1} W"),
    ("h_t = x_t U + h_{t-1} W / 2", r"two ways", "h_{t-1} W / 2"),
    ("h_t = x_t U + h_{t-1} / 2 / 3", r"one numerator and one denominator", "/"),
    ("h_t = x_t U + h_{t-1} + −2", r"a sign stands where a term has to", "−"),
    ("h_t = x_t * W + h_{t-1}", r"a matrix stands right of a value", "W"),
    ("h_t = x_t W + u h_{t-1}", r"nothing says how.*Write ⊙ \(or \*\) between values", "h_{t-1}"),
    ("h_t = x_t W + h_{t-1}ᵀ", r"only a matrix is transposed", "ᵀ"),
    ("E : vector\nh_t = x_t W + h_{t-1} E", r"E is no matrix.*Write ⊙ before it", "E"),
    ("h_t = x_t W + h_{t-1} I", r"I, the identity matrix, stands in fixed lines only", "I"),
    ("k = h_{t-1}\nh_t = x_t W + k", r"k has no time, so it cannot read a value of a step", "h_{t-1}"),
    ("M = V_1 V_2\nh_t = x_t M + h_{t-1}", r"nothing ties the columns of V_1 to a size.*V_1 : size R", "V_1"),
    ("M = b_m\nh_t = x_t W + h_{t-1} M", r"b_m is no matrix, and this line makes one", "b_m"),
    ("k = W_k\nh_t = x_t W + h_{t-1} + k", r"a matrix stands where a vector has to", "W_k"),
    ("h_t = mean(h_{t-1}) + sum(x_t)", r"h has width H, and this makes a single number", "h_t"),
    ("h_{t-1} = x_t W", r"an equation makes a value of this step", "h_{t-1}"),
    ("h_t + 1 = x_t W", r"an equation is name = expression", "h_t"),
    ("h_t = x_t W + max(h_{t-1})", r"max takes 2 arguments, with commas between; got 1", "max(h_{t-1})"),
    ("h_t = x_t W + clip(h_{t-1}, x_t, 1)", r"arguments of clip after the first are numbers or constants", "x_t"),
    ("h_t = tanh + x_t W + h_{t-1}", r"tanh is a function.*Write tanh\(…\)", "tanh"),
    ("h_t = x_t W + h(t-1)", r"no function is called h.*A time is written h_t", "h"),
    ("h_t = x_t W + h_{t-1} +", r"a value is missing", ""),
    ("h_t = x_t W_{xh} + h_{t-1}", r"in such brackets stands a time.*W_xh", "W_{xh}"),
    ("h_t = x_t W + h_{t-1}^3", r"'\^' means nothing here.*A square is", "^"),
    ("h_t = x_t W + 1e999 ⊙ h_{t-1}", r"a number has to be finite", "1e999"),
    ("p : vektor\n" + GOOD, r"has to be one of the kinds.*vector, scalar", "vektor"),
    ("α : constant\n" + GOOD, r"does not say which constant it is", "constant"),
    ("m : rows = 3\n" + GOOD, r"rows", "rows = 3"),
    ("s : size T\n" + GOOD, r"T, B and O are taken", "T"),
    ("h_t = h_{t-1} + b", r"a cell reads its input, x_t", "h_t"),
    ("M = V_1", r"no equation is of a step", "M"),
    ("h_t = x_t W + h_{t-1} V \x1b[31m", r"means nothing here", "�"),
    ("m : rows\nk = tanh(m W_m)\nh_t = x_t W + h_{t-1} ⊙ k", r"m has a row for each row of the batch.*k_t", "m"),
    ("scale : function = tanh\nh_t = x_t W + scale(h_{t-1})", r"scale is a function", "scale"),
    ("h : size S\nh_t = x_t W + h_{t-1}", r"widths that meet have to be equal; here H meets S", "h"),
    ("p : size S; p : scalar\nh_t = x_t W + p ⊙ h_{t-1}", r"p has width S, and this makes a single number", "p"),
    ("p : input S; p : size R\nh_t = x_t W + h_{t-1} + p_t V", r"p is declared twice", "p"),
    ("φ : size S; φ : function = tanh\nh_t = φ(x_t W + h_{t-1})", r"φ is declared, and no equation reads it", "φ"),
    ("α : constant = −−1\nh_t = x_t W + α ⊙ h_{t-1}", r"says too much", "constant = −−1"),
    ("α : constant = β\nh_t = x_t W + α ⊙ h_{t-1}", r"says too much", "constant = β"),
    ("p : vector 3\nh_t = x_t W + p ⊙ h_{t-1}", r"says too much", "vector 3"),
    (": vector\n" + GOOD, r"left of : stand names without a time", ":"),
    ("p_t : vector\n" + GOOD, r"left of : stand names without a time", "p_t"),
    ("p :\n" + GOOD, r"has to be one of the kinds", ""),
    ("h_t = tanh(x_t W² + h_{t-1} V)", r"² is left over.*² stands behind a value or a bracket", "²"),
    ("M = (W_a W_b)ᵀ\nh_t = x_t W + h_{t-1} M", r"ᵀ is left over.*ᵀ behind the name of a matrix", "ᵀ"),
    ("M = W_a (W_b W_c)\nh_t = x_t W + h_{t-1} M", r"A matrix stands right of what it multiplies", "W_a"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "under"), BAD)
def test_what_is_no_cell_is_refused_with_place_and_advice(text: str, message: str, under: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        Cell(text)
    rule, line, caret, advice = str(caught.value).splitlines()
    number, column = map(int, re.findall(r"Line (\d+), column (\d+): ", rule)[0])
    assert caret.strip(" ^") == ""
    marked = line[caret.index("^") : caret.rindex("^") + 1]
    assert marked == under
    assert text.splitlines()[number - 1][column - 1 :].startswith(under.replace("�", "\x1b"))
    assert advice.strip().endswith((".", "?"))
    assert str(caught.value).isprintable() or all(c == "\n" or c.isprintable() for c in str(caught.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has at least one equation"),
        ("# nothing but a comment\n\n ;; ", "has at least one equation"),
        ("h" * 1_000_000, "at most 10,000 characters; got 1,000,000"),
        (b"h_t = x_t W", "A cell is text.*got bytes"),
        (None, "A cell is text.*got NoneType"),
    ],
)
def test_texts_without_an_equation_are_refused(text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cell(text)


def test_cells_that_force_two_sizes_to_be_equal_say_so() -> None:
    (found,) = named_published("mut1").sheet.equal
    assert (found[0], found[1], found[2].line) == ("I", "H", 1)
    assert named("gru").sheet.equal == []


def named_published(name: str) -> Cell:
    return Cell(PUBLISHED[name], name)


def test_kinds_may_stand_in_any_order() -> None:
    kinds = ["p : vector = −0.5", "p, s : size S", "φ : function = relu", "d : size R", "d : input"]
    lines = ["s_t = p ⊙ s_{t-1} + φ(x_t V)", "h_t = s_t W_s + d_t W_d"]
    cell, other = Cell("\n".join(kinds + lines)), Cell("\n".join(lines + kinds[::-1]))
    assert cell.side_b == other.side_b
    assert cell.sheet.widths == other.sheet.widths == {"x": "I", "s": "S", "h": "H", "p": "S", "d": "R"}
    assert cell.sheet.given["p"].start == -0.5


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028"])
def test_files_of_every_editor_are_read(end: str) -> None:
    lines = ["\ufeff# a comment", "a[t]\t= x[t] W + h_{t\u20101} V", "h_t = a_t + α", "α : vector"]
    assert Cell(end.join(lines)).side_b == Cell("α : vector\na_t = x_t W + h_{t-1} V\nh_t = a_t + α").side_b


TWINS = """
alpha : constant = 0.5; Gamma : vector; a_t = x[t]@W_xh + h[t-1] W_hh' + b_h ; m_t = x_t W_xm
n_t = sigmoid(a_t) .* tanh(a_t) - alpha * m_{t} ∘ h_{t−1}^2   # a comment; with = signs
h_t = n[t] · sigma(a_t) + Gamma
"""
SIGNS = """
α : constant = 0.5; Γ : vector
a_t = x_t W_xh + h_{t-1} W_hhᵀ + b_h
m_t = x_t W_xm
n_t = σ(a_t) ⊙ tanh(a_t) − α ⊙ m_t ⊙ h_{t-1}²
h_t = n_t ⊙ σ(a_t) + Γ
"""


def test_every_sign_has_a_twin_in_ascii() -> None:
    assert parse(TWINS).equations == parse(SIGNS).equations
    assert str(Cell(TWINS)) == str(Cell(SIGNS))


def derived_or_refused(text: str) -> bool:
    try:
        cell = Cell(text)
        assert str(cell)
        assert cell.tex()
    except InputError as error:
        lines = str(error).splitlines()
        assert lines[0].startswith("A cell has at least one equation") or (len(lines) == 4 and not lines[2].strip(" ^"))
        return False
    return True


def test_mutated_texts_are_cells_or_refused_and_nothing_else() -> None:
    numbers, good = random.Random(0), [*ALL.values(), TWINS]
    alphabet = [
        *"xhatWb_{}[]()+-−⊙*/²ᵀ^@=:;,#.019 \n\t\r\0\ud800ŷ∂аΑ",
        "_t",
        "_{t-1}",
        "tanh(",
        "drop(",
        " : vector\n",
        "I",
        "(((",
    ]
    cells = 0
    for _ in range(10_000):
        text = numbers.choice(good)
        for _ in range(numbers.randint(1, 6)):
            start = numbers.randrange(len(text) + 1)
            stop = min(len(text), start + numbers.choice([0, 0, 1, 1, 2, 9]))
            other = numbers.choice(good)
            at = numbers.randrange(len(other))
            new = numbers.choice(["", numbers.choice(alphabet), other[at : at + numbers.randint(1, 30)]])
            text = text[:start] + new + text[stop:]
        cells += derived_or_refused(text)
    assert 100 < cells < 9_900


PIECES = [
    *"hxWb_{}[]()+−⊙/²ᵀ=:;# \n0.",
    "h_t",
    "h_{t-1}",
    "x_t",
    " W ",
    "b_h",
    " = ",
    "tanh(",
    "drop(",
    " : vector",
    "1",
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)))
def test_any_text_is_a_cell_or_refused(text: str) -> None:
    derived_or_refused(text)


def test_a_text_as_large_as_may_be_is_derived_in_bounded_work() -> None:
    """Not exponential: squares of squares, products of products, one line reading all others."""
    deep = "h_{t-1}"
    for _ in range(28):
        deep = f"({deep})²"
    assert "∂h_t" in str(Cell(f"h_t = x_t W + {deep}"))
    chain = "h_{t-1}" + " W_a" * 60
    assert "∂W_a" in str(Cell(f"h_t = x_t W + {chain}"))
    wide = " ⊙ ".join(["h_{t-1}", *[f"b_{n}" for n in range(60)]])
    lines = [f"v{n}_t = {wide}" for n in range(16)]
    assert "∂b_59" in str(Cell("\n".join([*lines, "h_t = x_t W" + "".join(f" + v{n}_t" for n in range(16))])))


@pytest.mark.parametrize("huge", ["1e200 ⊙ 1e200 ⊙ h_{t-1}", "(1e200 ⊙ h_{t-1})²", "1e308 ⊙ h_{t-1} + 1e308 ⊙ h_{t-1}"])
def test_factors_beyond_all_numbers_are_printed_as_inf(huge: str) -> None:
    cell = Cell(f"h_t = x_t W + {huge}")
    assert "inf" in str(cell.side_b)
    assert "inf" in cell.tex()


def test_cells_are_values() -> None:
    cell = named("lstm")
    assert pickle.loads(pickle.dumps(cell)) == cell == Cell(CELLS["lstm"], name="lstm")
    assert hash(cell) == hash(named("lstm"))
    assert cell != named("gru")
    assert bptt.Cell is Cell
    with pytest.raises(InputError, match=r"one of elman, lstm, .*; got 'gruu'"):
        named("gruu")
    with pytest.raises(InputError, match=r"one of tanh, σ, .*; got 'tann'"):
        elman("tann")


def test_tex_has_every_line_and_balanced_braces() -> None:
    tex = named("peephole").tex()
    assert tex.count(r"\text{B9}") == 4
    assert r"\partial a_{t}^{i} &= \partial i_{t} \odot i_{t} \odot (1 - i_{t})" in tex
    for text in ALL.values():
        written = Cell(text).tex()
        assert written.count("{") == written.count("}")
        assert not re.search(r"[^\x00-\x7f]", written), re.findall(r"[^\x00-\x7f]", written)
    (squares, halves) = parse("h_t = (h_{t-1}²)²\nk_t = (x_t / 2)²").steps
    assert TEX.write(squares.value) == "{(h_{t-1}^{2})}^{2}"
    assert TEX.write(halves.value) == r"{(\frac{x_{t}}{2})}^{2}"
    assert TEX.write(parse("h_t = x_t W + h_{t-1} / (1 + b)").steps[0].value) == (r"x_{t} \, W + \frac{h_{t-1}}{1 + b}")


def test_the_command_prints_what_stands_on_a_blackboard(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["derive", "lstm"])
    assert done.exit_code == 0
    assert "B7   ∂ai_t = ∂i_t ⊙ i_t ⊙ (1 − i_t)   from i_t = σ(ai_t)\n" in done.output
    assert "∂c_{t+1} ⊙ f_{t+1}   from c_{t+1} = f_{t+1} ⊙ c_t + i_{t+1} ⊙ g_{t+1}\n" in done.output
    assert "Kept for the way back: i_t, f_t, g_t, q_t, c_t, h_t\nMade again from these: u_t\n" in done.output
    file = tmp_path / "mine.txt"
    file.write_text(PUBLISHED["mut1"])
    done = CliRunner().invoke(app, ["derive", str(file)])
    assert "I = H: line 2 needs it.\n" in done.output
    done = CliRunner().invoke(app, ["derive", str(file), "--tex"])
    assert done.output == Cell(PUBLISHED["mut1"]).tex()
    data = json.loads(CliRunner().invoke(app, ["derive", "elman", "--json"]).output)
    assert data["side_b"][5]["terms"][0] == {"text": "∂o_t W_hoᵀ", "from": "o_t = h_t W_ho + b_o"}
    assert data["parameters"]["W_xh"] == {"kind": "matrix", "shape": ["I", "H"]}
    assert (data["states"], data["kept"]) == (["h"], ["h_t"])


def function_row(function: Function) -> str:
    """Its line of docs/sheet.md."""
    call = Call(function.name, tuple(map(Name, "abcd"[: len(function.back)])))
    if not function.typed:
        return f"\n| `{TEXT.write(call)}` | {function.means} |\n"
    twins = ", ".join(f"`{twin}`" for twin in function.twins)
    back = ", ".join(f"`{TEXT.write(language.parse_expression(back))}`" for back in function.back if back)
    return f"\n| `{TEXT.write(call)}` | {twins} | {function.means} | {back} |\n"


def test_the_page_of_the_language_is_complete() -> None:
    page = (Path(__file__).parent.parent / "docs" / "sheet.md").read_text()
    for function in FUNCTIONS.values():
        assert function_row(function) in page
    for kind in language.KINDS:
        assert re.search(rf"`[^`\n]*: {kind}\b", page), kind
    for name in CELLS:
        assert f"`{name}`" in page
    (refused,) = re.findall(r"(?m)^    Line 3, (?:.*\n){4}", page)
    text = "ar_t = x_t W_xr\nr_t = σ(ar_t)\nn_t = tanh(x_t W_xn + r_t ⊙ h_{t-1} W_hn)\nh_t = n_t"
    with pytest.raises(InputError) as caught:
        Cell(text)
    assert [line[4:] for line in refused.splitlines()] == str(caught.value).splitlines()
