"""Any cell on the compiled engine, as a program of its steps: judged by the reference."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import ACTIVATIONS, LENGTHS, UGLY, batch_sizes, near, tolerance
from drawn import ALL, EVERY_OPTION, OPTIONS, Drawn, cotangents, drawn
from hypothesis import given as judged
from hypothesis import settings
from hypothesis import strategies as st
from test_sheet import invented
from torch import Tensor

import bptt
from bptt.engine import _native, native, programs, reference
from bptt.engine.contract import Gradients
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import elman

F64 = torch.float64


def everything(given: Drawn, engine: Any) -> list[Tensor]:
    """Outputs, last states, what is kept, and all gradients for random cotangents on both."""
    with torch.no_grad():
        made = given.forward(engine)
        torch.manual_seed(4)
        dy, d_last = cotangents(made)
        found = given.backward(engine, made, dy, d_last, given.arrays())
        one = given.backward(engine, made, None, d_last, given.arrays())
    return [made.y, *made.last, *made.kept, *found, *one]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_compiled_engine_equals_the_reference(activation: str, options: dict[str, Any]) -> None:
    for dtype, reverse, bias, torch_layout in ((F64, False, True, True), (torch.float32, True, False, False)):
        cell, allowed = Cell(elman(activation, bias=bias, **options)), near(dtype, options["residual"], options["norm"])
        shapes = [(Steps(T, B, None, reverse), I, H) for T, B, I, H in UGLY]
        for lengths in LENGTHS[1:]:
            sizes = batch_sizes(lengths)
            shapes.append((Steps(len(sizes), len(lengths), sizes, not reverse), 3, 18))
        for steps, I, H in shapes:
            spread = 0.5 / max(I, H) ** 0.5  # states stay below 1
            for tokens in (False, True):
                given = drawn(
                    cell, steps, sizes={"I": I, "H": H}, dtype=dtype, torch_layout=torch_layout, spread=spread,
                    tokens=tokens,
                )  # fmt: skip
                torch.testing.assert_close(everything(given, native), everything(given, reference), **allowed)
                given.first = [None]
                arrays = [given.forward(engine) for engine in (native, reference)]
                torch.testing.assert_close(*[[made.y, *made.last] for made in arrays], **allowed)


def test_a_cell_without_options_is_the_plain_one() -> None:
    given = drawn(Cell(elman("relu", leak=1.0)), Steps(5, 3))
    other = replace(given, cell=Cell(elman("relu")))
    for engine in (native, reference):
        found = [everything(one, engine) for one in (given, other)]
        n = 1 + len(given.forward(engine).last)
        kept = len(given.forward(engine).kept)
        torch.testing.assert_close(found[0][:n] + found[0][n + kept :], found[1], **tolerance(F64))


TIED = "s_t = tanh(x_t W_xs + h_{t-1} W_hs)\nh_t = tanh(x_t W_xh + s_t W_hs + h_{t-1} W_hs + b_h)"


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("B", [3, 9])
@pytest.mark.parametrize("cell", [Cell(EVERY_OPTION), ALL["lstm"], ALL["gru-v1"], ALL["peephole"], Cell(TIED)])
def test_bits_do_not_depend_on_threads(cell: Cell, B: int, dtype: torch.dtype, tokens: bool) -> None:
    given = drawn(cell, Steps(70, B), sizes={"I": 5, "H": 100}, dtype=dtype, spread=0.05, tokens=tokens)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(everything(given, native))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(mine, its) for mine, its in zip(results[0], other, strict=True))


def test_bits_do_not_depend_on_company() -> None:
    given = drawn(ALL["lstm"], Steps(30, 9), sizes={"I": 5, "H": 100}, spread=0.05, tokens=True)
    first = [h[:, 4:5] for h in given.first]
    alone = Drawn(given.cell, Steps(30, 1), given.x[:, 4:5], first, {}, given.weights, [])
    assert torch.equal(alone.forward(native).y[:, 0], given.forward(native).y[:, 4])


KINDS = {
    "dense": Steps(6, 3),
    "dense, reverse": Steps(6, 3, None, True),
    "many rows": Steps(3, 70),
    "packed": Steps(4, 5, [5, 3, 2, 1]),
    "packed, reverse": Steps(4, 5, [4, 4, 2, 1], True),  # a row without steps
}


@pytest.mark.parametrize("steps", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("cell", ALL.values(), ids=ALL)
def test_every_cell_equals_the_reference(cell: Cell, steps: Steps) -> None:
    for sizes in ({}, {"I": 19, "H": 35, "S": 17, "R": 16, "M": 33}):
        if cell.sheet.equal and sizes:
            sizes = {**sizes, "I": 35}
        given = drawn(cell, steps, sizes=sizes, spread=0.2)
        with torch.no_grad():
            of_all = [given.forward(engine, values=True).values for engine in (native, reference)]
            torch.testing.assert_close(*of_all, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(everything(given, native), everything(given, reference), rtol=1e-11, atol=1e-11)
            told: list[dict[str, Tensor]] = [{}, {}]
            made = given.forward(reference)
            for engine, cotangent in zip((native, reference), told, strict=True):
                torch.manual_seed(4)
                given.backward(engine, made, *cotangents(made), replace(given.arrays(), cotangents=cotangent))
            torch.testing.assert_close(*told, rtol=1e-11, atol=1e-11)


@settings(deadline=None)
@judged(text=invented(), seed=st.integers(0, 5), steps=st.sampled_from(list(KINDS.values())))
def test_invented_cells_equal_the_reference(text: str, seed: int, steps: Steps) -> None:
    torch.manual_seed(seed)
    given = drawn(Cell(text), steps, spread=0.2)
    found, expected = everything(given, native), everything(given, reference)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", ["tanh", "σ", "relu", "exp", "log", "sqrt", "softplus", "abs"])
def test_functions_at_their_edges_do_as_torch(name: str, dtype: torch.dtype) -> None:
    cell = Cell(f"h_t = {name}(x_t) + 0 ⊙ h_{{t-1}}")
    x = torch.tensor([0.0, -0.0, 1, -1, 1e-30, 20, -20, 88.5, -103, 710, -745.5, torch.inf, -torch.inf, torch.nan])
    x = torch.cat([x, torch.randn(500), 80 * torch.randn(500)]).to(dtype)[None, None]
    given = Drawn(cell, Steps(1, 1), x, [None], {}, drawn(cell, Steps(1, 1)).weights, [])
    mine, its = (given.forward(engine).y for engine in (native, reference))
    torch.testing.assert_close(mine, its, equal_nan=True, **tolerance(dtype))
    dy = torch.ones_like(x)
    found = []
    for engine in (native, reference):
        into = Gradients(torch.empty_like(x), [None], [None] * len(given.weights.tensors))
        given.backward(engine, given.forward(reference), dy, [None], into)
        found.append(into.x)
    torch.testing.assert_close(*found, equal_nan=True, **tolerance(dtype))


def test_what_nobody_writes_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """All arrays that an engine is given to write hold NaN before."""
    given = drawn(ALL["lstm"], KINDS["packed"])
    expected = everything(given, native)
    new = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda own, *shape, **how: new(own, *shape, **how).fill_(torch.nan))
    torch.testing.assert_close(everything(given, native), expected, rtol=0, atol=0)


def test_a_cell_may_have_many_numbers() -> None:
    term = "0.{j:02}{k:02} ⊙ tanh(1.{j:02}{k:02} ⊙ h_{{t-1}})"
    sums = [" + ".join(term.format(j=j, k=k) for k in range(12)) for j in range(12)]
    lines = [f"v{j}_t = {each}" for j, each in enumerate(sums)]
    text = "\n".join([*lines, "h_t = tanh(x_t W_xh + " + " + ".join(f"v{j}_t" for j in range(12)) + ")"])
    given = drawn(Cell(text), Steps(3, 3))
    torch.testing.assert_close(everything(given, native), everything(given, reference), rtol=1e-11, atol=1e-11)


def test_the_device_by_default_is_not_asked() -> None:
    given = drawn(ALL["gru"], Steps(3, 3))
    expected = everything(given, native)
    with torch.device("meta"), torch.no_grad():
        made = given.forward(native)
    assert torch.equal(made.y, expected[0])


@pytest.mark.parametrize("steps", [Steps(0, 3), Steps(3, 0)], ids=["no steps", "no rows"])
def test_a_record_of_nothing(steps: Steps) -> None:
    rnn = bptt.nn.Recurrent("lstm", 5, 4)
    with bptt.recording() as tapes:
        rnn(torch.randn(steps.T, steps.B, 5))[0].sum().backward()
    d = tapes[0].layers[0].d("c")
    assert d is not None
    assert d.shape == (steps.T, steps.B, 4)


def test_tokens_need_weights_of_one_dtype() -> None:
    rnn: Any = bptt.nn.Recurrent("lstm", 7, 4)
    rnn.W_xi_l0 = torch.nn.Parameter(rnn.W_xi_l0.double())
    with pytest.raises(TypeError, match=r"must be torch\.float"):
        rnn(torch.randint(7, (3, 2)))


def test_packed_tokens_with_frozen_weights_of_the_input() -> None:
    for rnn in (bptt.nn.Recurrent("lstm", 7, 4), bptt.nn.RNN(7, 4)):
        for name, parameter in rnn.named_parameters():
            parameter.requires_grad_("W_x" not in name and "weight_ih" not in name)
        packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randint(0, 7, (5, 3)), [5, 3, 2])
        output: Any = rnn(packed)[0]
        output.data.sum().backward()
        assert [parameter.grad is not None for parameter in rnn.parameters()] == [
            parameter.requires_grad for parameter in rnn.parameters()
        ]


def test_plain_cells_are_known_by_what_they_say_and_not_by_their_names() -> None:
    renamed = Cell("h_t = sigmoid(x_t W_in + h_{t-1} W_rec + b)\n")
    assert native.plain(renamed) is not None
    given = drawn(renamed, Steps(5, 3))
    torch.testing.assert_close(everything(given, native), everything(given, reference), **tolerance(F64))
    for text in (
        "s_t = x_t W_in + s_{t-1} W_rec + b\nh_t = sigmoid(s_t)\n",  # the past of what is no state's function
        "h_t = tanh(x_t W_xh − h_{t-1} W_hh + b_h)",
        "h_t = tanh(2 ⊙ (x_t W_xh) + h_{t-1} W_hh + b_h)",
        "v : scalar\nh_t = tanh(x_t W_xh + h_{t-1} W_hh + v)",
        "h_t = tanh(x_t W_xh + h_{t-1} W_hh + h_{t-1} W_h2)",
        "h_t = softplus(x_t W_xh + h_{t-1} W_hh + b_h)",
    ):
        assert native.plain(Cell(text)) is None, text
        given = drawn(Cell(text), Steps(5, 3))
        torch.testing.assert_close(everything(given, native), everything(given, reference), **tolerance(F64))


def test_products_with_one_left_factor_are_made_together() -> None:
    codes: list[Any] = []

    class Spy:
        def __init__(self, *code: Any) -> None:
            codes.append(code)

    for ahead, terms in ((True, 1), (False, 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs._native, "Program", Spy)
            programs.forward.__wrapped__(ALL["lstm"], every_value=False, keep=True, ahead=ahead)
        _, groups, _, _, products, *_ = codes.pop()
        assert max(groups) == 4
        assert [len(product) for product in products] == [terms]


OF = _native.Operation
CODE: dict[str, Any] = {
    "slots": [(1, 0, 0), (1, 1, 0), (0, 2, 0)],
    "groups": [1, 1, 1],
    "instructions": [(OF.load, 0, [0] * 4), (OF.product, 1, [0] * 4), (OF.sum, 2, [1] * 4), (OF.store, 0, [1] * 4)],
    "weights": [(1, 1, [0])],
    "products": [[(0, 0)]],
    "carried": [(0, 0, 1, 0)],
    "vectors": [0],
    "arrays": [1],
    "rows": [1],
    "matrices": 1,
    "sizes": 2,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": [(1, 0, 0), (1, 1, 0)]},
        {"slots": [(1, 0, 0), (2, 1, 0), (0, 2, 0)]},
        {"slots": [(1, 0, 0), (1, 1, 1), (0, 2, 0)]},
        {"groups": [1, 1, 1, 1]},
        {"groups": [1, 1, 0]},
        {"instructions": [(OF.load, 3, [0] * 4)]},
        {"instructions": [(OF.load, 0, [1] * 4)]},
        {"instructions": [(OF.load, 2, [0] * 4)]},
        {"instructions": [(OF.previous, 0, [0, 1, 0, 0])]},
        {"instructions": [(OF.store, 1, [0] * 4)]},
        {"instructions": [(OF.store, 0, [2] * 4)]},
        {"instructions": [(OF.product, 0, [0] * 4)]},
        {"instructions": [(OF.product, 2, [0] * 4)]},
        {"instructions": [(OF.product, 1, [1] * 4)]},
        {"instructions": [(OF.add, 0, [0, 3, 0, 0])]},
        {"instructions": [(OF.add, 0, [0, -2, 0, 0])]},
        {"instructions": [(OF.add, 2, [0, 1, 0, 0])]},
        {"instructions": [(OF.sum, 1, [0] * 4)]},
        {"instructions": [(OF.sum, 2, [2] * 4)]},
        {"weights": [(1, 1, [1])]},
        {"weights": [(1, 1, [])]},
        {"weights": [(1, 2, [0])]},
        {"weights": [(0, 1, [0])]},
        {"weights": [(1, 1, [0, 0])]},
        {"products": [[]]},
        {"products": [[(3, 0)]]},
        {"products": [[(1, 0)]]},
        {"carried": [(3, 0, 1, 0)]},
        {"carried": [(0, 1, 1, 0)]},
        {"carried": [(0, 0, 2, 0)]},
        {"carried": [(0, 0, 1, 1)]},
        {"vectors": [2]},
        {"arrays": [-1]},
        {"rows": [0]},
        {"sizes": 0},
    ],
    ids=str,
)
def test_programs_that_point_nowhere_are_refused(wrong: dict[str, Any]) -> None:
    _native.Program(*CODE.values())
    with pytest.raises(ValueError, match="a program "):
        _native.Program(*(CODE | wrong).values())


def test_a_program_gets_as_many_arrays_as_it_names() -> None:
    with pytest.raises(ValueError, match="as many arrays as it names"):
        _native.float32.run(
            _native.Program(*CODE.values()), 1, 1, 0, False, False, [1, 3], [], [0], [0], [(0, 1, 1)], 1
        )


def test_the_stub_says_what_the_module_has() -> None:
    body = ast.parse(Path(bptt.__file__).with_name("engine").joinpath("_native.pyi").read_text()).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    for enum in (_native.Activation, _native.Operation):
        told = [node.targets[0] for node in classes[enum.__name__].body if isinstance(node, ast.Assign)]
        assert [name.id for name in told if isinstance(name, ast.Name)] == [member.name for member in enum]
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    values = {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    public = {name for name in dir(_native) if not name.startswith("_")}
    assert functions | values | (classes.keys() - {"_Precision"}) == public
    methods = {node.name for node in classes["_Precision"].body if isinstance(node, ast.FunctionDef)}
    for precision in (_native.float32, _native.float64):
        assert {name for name in dir(precision) if not name.startswith("_")} == methods
