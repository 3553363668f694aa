"""Notations: under other names the sheet says the same, number by number; names never meet; others are refused."""

import json
import re
from pathlib import Path

import pytest
import sheets
import torch
from published_cells import PUBLISHED
from torch import Tensor
from typer.testing import CliRunner

from bptt import Cell
from bptt.cli import app
from bptt.errors import InputError
from bptt.sheet import named
from bptt.sheet.cells import CELLS, elman
from bptt.sheet.expressions import Call, Cotangent, Expression, Name, Number, Transposed, mapped
from bptt.sheet.notations import NOTATIONS, Board
from bptt.sheet.printing import Glyph
from bptt.sheet.sides import Line, Side

OWN = {
    "options": elman("sigmoid", leak=0.5, residual=True, norm=True, dropout=True),
    "letters that other books use": "u : vector\nc_t = u ⊙ c_{t-1} + x_t W_xh\n"
    "h_t = tanh(c_t + h_{t-1} W_hh + b_h) ⊙ σ(h_{t-1} V + h_{t-1} U + b)",
    "fixed lines": "γ : scalar\nM = W_hh − W_hhᵀ − γ ⊙ I − W_kh W_khᵀ; b_h = exp(b_k)\n"
    "h_t = tanh(x_t W_xh + h_{t-1} M − b_h ⊙ (h_{t-1} W_hh) + h_{t-1} W_kh)",
    "a bias taken away": "h_t = tanh(x_t W_xh − b_h − h_{t-1} W_hhᵀ)",
    "a chain of matrices": "W_hh, W_a, W_b : size H\nM = W_hh W_a W_bᵀ\nh_t = tanh(x_t W_xh + h_{t-1} M)",
    "words": "gate_t = σ(x_t W_gate + state_{t-1} W_hh)\nstate_t = gate_t ⊙ (x_t W_xh)",
}
ALL = {name: Cell(text, name) for name, text in (CELLS | PUBLISHED | OWN).items()}
SIZES = sheets.setting(named("elman")).sizes | {"O": 2}
WAYS = [name for name in NOTATIONS if name != "bptt"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ALL)
def test_every_line_says_the_same_number_by_number(name: str, way: str) -> None:
    """Each expression, in numbers that are drawn for each name: what the sheet says, transposed where the names are."""
    cell = ALL[name]
    board, drawn = cell.board(way), _drawn(cell)
    there = _there(board, drawn)
    columns = board.notation.columns
    for own, other in zip((*cell.side_a, *cell.side_b), (*board.side_a, *board.side_b), strict=True):
        turned = columns or board.names.get(_first(own), "").endswith("ᵀ")
        expected = [_value(part, drawn, cell, columns=False) for part in _expressions(own)]
        found = [_value(part, there, cell, columns=columns) for part in _expressions(other)]
        expected = expected[:1] * (len(found) - len(expected)) + expected  # two biases that are one have one gradient
        expected += [_value(term.value, drawn, cell, columns=False) for term in own.terms]
        found += [_value(term.value, there, cell, columns=columns) for term in other.terms]
        for one, two in zip(expected, found, strict=True):
            two = two.mT if turned else two
            assert one.shape == two.shape, other.text
            assert torch.allclose(one, two, rtol=1e-12, atol=1e-12), f"{other.text}\n{two}\n{one}"


def _expressions(line: Line) -> list[Expression]:
    return [part for part in line.parts if isinstance(part, Expression) and not _is_function(part)]


def _is_function(part: Expression) -> bool:
    return isinstance(part, Call) and part.function in ("g", "loss")


def _first(line: Line) -> str:
    first = line.parts[0]
    return first.name if isinstance(first, Cotangent) and first.step is None else ""


def _drawn(cell: Cell) -> dict[tuple[str, int | None, bool], Tensor]:
    """For every name with its step, and for its ∂."""
    sheet, widths = cell.sheet, cell.derivation.widths | {"o": "O", "ŷ": "O", "y": "O", "w": "1", "b_o": "O", "L": "1"}
    numbers = torch.Generator().manual_seed(0)
    shapes = {line.name: (5, 5) for line in cell.derivation.fixed if line.name[0].isupper()}
    shapes |= {name: (SIZES[rows], SIZES[columns]) for name, (rows, columns) in sheet.shapes.items()}
    shapes |= {"W_ho": (5, 2), "I": (5, 5)}
    timed = {line.name for line in cell.derivation.steps} | {"x", "o", "ŷ", "y", "w"}
    timed |= {name for name, given in sheet.given.items() if given.kind == "input"}
    drawn = {}
    for name in widths.keys() | shapes.keys():
        for step in (-1, 0, 1) if name in timed else (None,):
            for cotangent in (False, True):
                shape = shapes.get(name) or (3 if name in timed else 1, SIZES[widths.get(name, "H")])
                drawn[name, step, cotangent] = torch.rand(*shape, dtype=torch.float64, generator=numbers) + 0.5
    for name, given in sheet.given.items():
        if given.kind == "constant":
            drawn[name, None, False] = torch.tensor([[given.start]], dtype=torch.float64)
    drawn["I", None, False] = torch.eye(5, dtype=torch.float64)
    return drawn


def _there(
    board: Board, drawn: dict[tuple[str, int | None, bool], Tensor]
) -> dict[tuple[str, int | None, bool], Tensor]:
    """The same numbers under the names of the board."""
    found = {}
    for (name, step, cotangent), number in drawn.items():
        called = board.names.get(name if step is None else f"{name}_t", name)
        turned = number.mT if called.endswith("ᵀ") or board.notation.columns else number
        parts = called.removesuffix("ᵀ").split(" + ")
        for n, part in enumerate(parts):
            assert (part, step, cotangent) not in found, part
            share = turned if cotangent or len(parts) == 1 else turned * (0.25, 0.75)[n]
            found[part, step, cotangent] = share
    return found


def _value(e: Expression, numbers: dict, cell: Cell, columns: bool) -> Tensor:
    keys: dict[str, tuple[str, int | None, bool]] = {}

    def named_by_key(part: Expression) -> Expression:
        match part:
            case Name(name, step):
                key = name, step, False
            case Cotangent(name, step):
                key = name, step, True
            case Glyph(name, step, _, cotangent):
                key = name, step, cotangent
            case Call(function, arguments) if columns:  # functions of a row are given rows
                rows = (a if isinstance(a, Number) else Transposed(named_by_key(a)) for a in arguments)
                return Transposed(Call(function, tuple(rows)))
            case _:
                return mapped(part, named_by_key)
        keys[repr(key)] = key
        return Name(repr(key))

    written = named_by_key(e)
    found = sheets.value(written, lambda name: numbers[keys[name.name]], cell, SIZES)
    return found.reshape(1, 1) if found.ndim == 0 else found


@pytest.mark.parametrize("name", ALL)
def test_no_two_names_become_one(name: str) -> None:
    cell = ALL[name]
    names = {*cell.sheet.given, "W_ho", "b_o", *(f"{line.name}_t" for line in cell.derivation.steps), "x_t", "o_t"}
    names |= {line.name for line in cell.derivation.fixed}
    for way in WAYS:
        called = cell.board(way).names
        there = [part for n in names for part in called.get(n, n.removesuffix("_t")).rstrip("ᵀ").split(" + ")]
        assert len({*there}) == len(there), (way, sorted(there))


HERE = ("a_t", "h_t", "W_xh", "W_hh", "b_h", "W_ho", "b_o")
IN_BOOKS = {
    "posts": ("h(t)", "a(t)", "W_xh", "W_ah", "b_h", "W_ao", "b_o"),
    "d2l": ("–", "H_t", "W_xh", "W_hh", "b_h", "W_hq", "b_q"),
    "goodfellow": ("a", "h", "Uᵀ", "Wᵀ", "b", "Vᵀ", "c"),
    "pytorch": ("–", "output / h_n", "weight_ihᵀ", "weight_hhᵀ", "bias_ih + bias_hh", "Linear.weightᵀ", "Linear.bias"),
    "keras": ("–", "state", "kernel", "recurrent_kernel", "bias", "Dense.kernel", "Dense.bias"),
}  # fmt: skip


@pytest.mark.parametrize("notation", IN_BOOKS)
def test_names_of_the_plain_cell_are_those_of_the_books(notation: str) -> None:
    board = named("elman").board(notation)
    for here, there in zip(HERE, IN_BOOKS[notation], strict=True):
        found = board.names.get(here, here.removesuffix("_t"))
        if there != "–":
            assert found in (there.split(" / ")[0], there.removesuffix("_t"), there.removesuffix("(t)"))


def test_goodfellow_writes_columns() -> None:
    board = named("elman").board("goodfellow")
    assert [line.text for line in board.side_a if line.tag in ("A2", "A3", "A5")] == [
        "a^(t) = b + W h^(t-1) + U x^(t)",
        "h^(t) = φ(a^(t))",
        "o^(t) = c + V h^(t)",
    ]
    assert [line.text for line in board.side_b if line.tag in ("B6", "B7", "B8", "B9", "B10")] == [
        "∂h^(t) = Vᵀ ∂o^(t) + Wᵀ ∂a^(t+1)",
        "∂a^(t) = ∂h^(t) ⊙ (1 − (h^(t))²)",
        "∂b = Σ_t Σ_batch ∂a^(t)",
        "∂U = Σ_t ∂a^(t) x^(t)ᵀ",
        "∂W = Σ_t ∂a^(t) h^(t-1)ᵀ",
    ]
    assert r"\partial W &= \sum_{t} \partial a^{(t)} \, h^{(t-1)\top}" in board.tex
    lines = {line.symbol: line.text for line in named("lstm").board("goodfellow").side_a}
    assert lines["ag^(t)"] == "ag^(t) = b^g + W^g h^(t-1) + U^g x^(t)"
    assert lines["s^(t)"] == "s^(t) = f^(t) ⊙ s^(t-1) + g^(t) ⊙ s̃^(t)"


def test_pytorch_and_keras_name_their_parameters() -> None:
    lines = {line.symbol: line.text for side in _sides("lstm", "pytorch") for line in side}
    assert lines["ao[t]"] == "ao[t] = x[t] W_ioᵀ + output[t-1] W_hoᵀ + b_io + b_ho"
    assert lines["∂W_io"] == "∂W_io = Σ_t ∂ao[t]ᵀ x[t]"
    assert lines["∂b_io"] == "∂b_io = ∂b_ho = Σ_t Σ_batch ∂ao[t]"
    assert lines["∂Linear.weight"] == "∂Linear.weight = Σ_t ∂Linear[t]ᵀ output[t]"
    lines = {line.symbol: line.text for side in _sides("elman", "keras") for line in side}
    assert lines["a[t]"] == "a[t] = x[t] kernel + state[t-1] recurrent_kernel + bias"
    tex = named("elman").tex("pytorch")
    assert r"\partial \mathrm{bias\_ih} &= \partial \mathrm{bias\_hh} = \sum_{t}" in tex
    lines = {line.symbol: line.text for side in _sides("gru", "d2l") for line in side}
    assert lines["H_t"] == "H_t = (1 − Z_t) ⊙ H̃_t + Z_t ⊙ H_{t-1}"
    lines = {line.symbol: line.text for side in _sides("elman", "posts") for line in side}
    assert lines["∂h(t)"] == "∂h(t) = ∂a(t) ⊙ (1 − a(t)²)"


def _sides(name: str, way: str) -> tuple[Side, Side]:
    board = named(name).board(way)
    return board.side_a, board.side_b


def test_a_letter_without_a_name_elsewhere_stays() -> None:
    text = "k_t = σ(x_t W_xk + h_{t-1} W_hk)\nh_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h) ⊙ k_t"
    lines = [line.text for line in Cell(text).board("goodfellow").side_a if line.tag == "A2"]
    assert lines == ["ak^(t) = W_hk h^(t-1) + W_xk x^(t)", "a^(t) = b + W h^(t-1) + U x^(t)"]
    clash = ALL["letters that other books use"].board("goodfellow")
    assert clash.names == {"W_hh": "Wᵀ"}  # U, V, b and c are the cell's own
    assert [line.text for line in clash.side_a if line.tag == "A5"] == ["o^(t) = b_o + W_ho h^(t)"]


@pytest.mark.parametrize("way", NOTATIONS)
def test_tex_has_one_script_above_and_one_below(way: str) -> None:
    inside = r"\{(?:[^{}]|\{[^{}]*\})*\}"
    for cell in ALL.values():
        tex = cell.tex(way)
        assert tex.count("{") == tex.count("}")
        assert not re.search(r"[^\x00-\x7f]", tex), re.findall(r"[^\x00-\x7f]", tex)
        for scripts in re.findall(rf"(?:[_^]{inside})+", tex):
            signs = re.findall(rf"([_^]){inside}", scripts)
            assert len(signs) == len({*signs}), scripts


def test_the_command_prints_a_notation(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["derive", "lstm", "--notation", "PyTorch"])
    assert done.exit_code == 0
    assert "In the notation of PyTorch\n" in done.output
    assert "B9   ∂W_ii = Σ_t ∂ai[t]ᵀ x[t]             from ai[t] = x[t] W_iiᵀ + output[t-1] W_hiᵀ" in done.output
    assert (
        "Kept for the way back: i[t], f[t], g[t], o[t], c[t], output[t]\nMade again from these: u[t]\n" in done.output
    )
    assert "q_t → o" in done.output
    assert "weight_ih is W_ii, W_if, W_ig, W_io, one below the other, and weight_hh is" in done.output
    done = CliRunner().invoke(app, ["derive", "elman", "--notation", "goodfellow"])
    assert "Vectors are columns here, and each matrix is the transpose of this project's.\n" in done.output
    file = tmp_path / "lstm.txt"
    file.write_text("h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h)")
    done = CliRunner().invoke(app, ["derive", str(file), "--tex", "--notation", "d2l"])
    assert done.output == Cell(file.read_text()).tex("d2l")
    done = CliRunner().invoke(app, ["derive", str(file)])
    assert "Hochreiter" not in done.output
    data = json.loads(CliRunner().invoke(app, ["derive", "elman", "--json", "--notation", "keras"]).output)
    assert (data["notation"], data["names"]["W_xh"]) == ("keras", "kernel")
    assert data["side_a"][1]["text"] == "a[t] = x[t] kernel + state[t-1] recurrent_kernel + bias"
    assert data["parameters"]["W_xh"]["shape"] == ["I", "H"]
    assert data["where"] == [{"text": "φ = tanh", "tex": r"\varphi  &= \mathrm{tanh}"}]


def test_words_are_upright() -> None:
    tex = ALL["words"].tex()
    assert r"\mathrm{agate}_{t} &= x_{t} \, W_{\mathrm{gate}} + \mathrm{state}_{t-1} \, W_{hh}" in tex
    cell = Cell("act : function = relu; λ : constant = 0.5\nh_t = act(x_t W_xh + λ ⊙ h_{t-1}² + drop(h_{t-1}) W_hh)")
    assert r"\mathrm{act}(a^{(t)})" in cell.tex("goodfellow")
    assert r"(h^{(t-1)})^{2}" in cell.tex("goodfellow")
    where = [str(line) for line in cell.side_a.where]
    assert where == ["     act = relu", "     λ = 0.5", "     m = a mask for each row, the same at all steps"]
    assert r"& & \lambda  &= 0.5 \\" in cell.tex()


def test_what_values_take_back_stands_before_what_parameters_do() -> None:
    text = "α : constant = 0.1\ng_t = σ(x_t W_xg + drop(h_{t-1}) W_hg + b_g)\nh_t = α ⊙ g_t ⊙ h_{t-1} + x_t W_xh"
    (line,) = [line for line in Cell(text).side_b if line.symbol == "∂h_t"]
    assert line.text == "∂h_t = ∂o_t W_hoᵀ + α ⊙ ∂h_{t+1} ⊙ g_{t+1} + m ⊙ ∂sg_{t+1}"


def test_help_names_every_notation_and_every_cell() -> None:
    text = CliRunner().invoke(app, ["derive", "--help"]).output
    assert all(re.search(rf"\b{name}\b", text) for name in [*NOTATIONS, *CELLS])


def test_an_unknown_notation_is_refused_with_the_list() -> None:
    with pytest.raises(
        InputError, match=r"posts, d2l, goodfellow, pytorch, keras; got 'pytroch'\. Did you mean pytorch"
    ):
        named("lstm").board("pytroch")
    with pytest.raises(InputError, match=r"one of bptt, posts, .*; got ''\.$"):
        named("lstm").tex("")
