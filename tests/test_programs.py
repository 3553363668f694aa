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
from bptt.engine.contract import Gradients, Layout
from bptt.engine.steps import Steps
from bptt.sheet import Cell
from bptt.sheet.cells import elman
from bptt.sheet.plain import plain

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
def test_functions_of_numbers_alone_are_as_exact_as_others(dtype: torch.dtype) -> None:
    given = drawn(Cell("h_t = max(0.2, h_{t-1}) ⊙ sqrt(2) + min(1 / 3, x_t W_x)"), Steps(3, 2), dtype=dtype)
    for engine in (native, reference):
        x, h, W = given.x.detach(), given.first[0].detach()[0], given.parameters["W_x"].detach()
        for t, found in enumerate(given.forward(engine).y):
            h = h.clamp(min=0.2) * 2**0.5 + (x[t] @ W).clamp(max=1 / 3)
            assert found.dtype == dtype
            torch.testing.assert_close(found, h, rtol=8 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


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
    assert plain(renamed) is not None
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
        assert plain(Cell(text)) is None, text
        given = drawn(Cell(text), Steps(5, 3))
        torch.testing.assert_close(everything(given, native), everything(given, reference), **tolerance(F64))


def test_products_with_one_left_factor_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[dict[str, Any]] = []
    monkeypatch.setattr(_native, "Program", lambda **code: codes.append(code))
    programs.forward.__wrapped__(ALL["lstm"], Layout.of(ALL["lstm"]), every_value=False, keep=True)
    (code,) = codes
    assert sorted(count for count, _ in code["groups"])[-2:] == [1, 4]
    assert [len(terms) for terms in code["products"]] == [1]
    assert [operation for operation, _, _ in code["instructions"] if "product" in operation.name] == [OF.add_product]
    ((first, vectors, terms),) = code["ahead"]
    of_gates = [slot for slot, (_, group, _) in enumerate(code["slots"]) if code["groups"][group] == (4, True)]
    assert of_gates == [*range(first, first + 4)]
    assert [len(each) for each in vectors] == [1] * 4
    of_both = [code["weights"][weight] for _, weight in (*terms, *code["products"][0])]
    assert [len(matrices) for _, _, matrices in of_both] == [4, 4]


OF = _native.Operation
CODE: dict[str, Any] = {
    "back": True,
    "sizes": 3,
    "slots": [(1, 0, 0), (1, 1, 0), (0, 2, 0), (2, 3, 0), (2, 3, 1)],
    "groups": [(1, False), (1, False), (1, False), (2, True)],
    "instructions": [
        (OF.product, 1, [0] * 4),
        (OF.sum, 2, [1] * 4),
        (OF.add, 1, [1, 2, 0, 0]),
        (OF.add, 1, [1, -1, 0, 0]),
        (OF.divide, 1, [1, -2, 0, 0]),
        (OF.store, 1, [1, 0, 0, 0]),
    ],
    "weights": [(1, 1, [0]), (1, 2, [1, 2]), (2, 1, [3])],
    "products": [[(0, 0)]],
    "ahead": [(3, [[2], []], [(0, 1)])],
    "carried": [(0, 0, 1, 1)],
    "gradients": [(0, True, 0, 3, 0), (1, False, -1, 4, 0), (-1, False, -1, 3, 1)],
    "after": [(2, [(3, 2)])],
    "numbers": [(0.5, -1), (0.0, 1)],
    "vectors": [(2, 1, 2), (1, 0, 1)],
    "arrays": [(1, False), (1, True), (1, False)],
    "rows": [1, 1],
    "matrices": [(1, 1, False, 0, 1), (1, 2, False, 1, 3), (1, 2, True, 1, 2), (2, 1, False, 0, 1)],
    "results": [(1, 2, True, 2, 3), (-1, 2, False, 1, 2)],
}


def of_code(T: int, B: int, width: int, other: int) -> list[Tensor]:
    """The tensors of CODE, those that it writes full of NaN."""
    nan = torch.nan
    shapes = [(T, B, width), (1, B, width), (2 * other,), (width,), (width, width), (3 * width, other)]
    shapes += [(2 * other, width), (other, width)]
    x, first, b, unread, *matrices = (torch.randn(shape, dtype=F64) / 4 for shape in shapes)
    d, last, sums = torch.full_like(x, nan), torch.full_like(first, nan), torch.full((3 * other, width), nan, dtype=F64)
    return [x, d, first, last, b, unread, *matrices, sums, torch.full_like(b, nan)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "B", "width", "other"), [(3, 2, 5, 4), (200, 9, 17, 33)])
def test_a_program_does_what_its_records_say(
    T: int, B: int, width: int, other: int, reverse: bool, accumulate: bool, threads: int
) -> None:
    torch.manual_seed(2)
    tensors, lengths = of_code(T, B, width, other), [1, width, other]
    x, d, first, last, b, _, W_carried, W_of_b, W_alone, W_back, all_sums, all_of_rows = tensors
    b, W_of_b, W_alone = b[other:], W_of_b[width : 2 * width], W_alone[other:]
    sums, of_rows = all_sums[2 * other :], all_of_rows[other:]
    if accumulate:
        sums.fill_(2.0)
        of_rows.fill_(3.0)
    program = _native.Program(**CODE)
    assert _native.run(program, True, tensors, T, B, None, reverse, lengths, accumulate, threads) == -1
    own, carried = torch.empty_like(x), first[0]
    for t in range(T) if reverse else reversed(range(T)):
        product = carried @ W_carried
        own[t] = carried = (product + product.sum(-1, keepdim=True) + 0.5) / width
    steps, with_b = Steps(T, B, None, reverse), b + x @ W_of_b
    before = steps.previous_of(steps.with_first(x, first))
    of_step_before = torch.einsum("tbi,tbj->ji", before, with_b)
    of_own = torch.einsum("tbi,tbj->ji", own, x @ W_alone.mT)
    held = 2.0 * accumulate, 3.0 * accumulate
    expected = [with_b @ W_back, carried[None], of_step_before + of_own + held[0], with_b.sum((0, 1)) + held[1]]
    torch.testing.assert_close([d, last, sums, of_rows], expected, rtol=1e-11, atol=1e-11)
    assert all_sums[: 2 * other].isnan().all()
    assert all_of_rows[:other].isnan().all()


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_program_says_which_tensor_it_cannot_read(dtype: torch.dtype) -> None:
    program, tensors = _native.Program(**CODE), [tensor.to(dtype) for tensor in of_code(3, 2, 5, 4)]
    how: Any = 3, 2, None, False, [1, 5, 4], False, 1
    is_double = dtype is F64
    assert _native.run(program, is_double, tensors, *how) == -1
    for place in range(len(tensors)):
        own = tensors[place]
        for odd in (own.half(), own.to("meta"), own[..., :-1], torch.ops.aten._neg_view(own), own.numpy()):
            assert _native.run(program, is_double, [*tensors[:place], odd, *tensors[place + 1 :]], *how) == place
    for place in range(len(tensors)):
        may_be_none = 0 < place < 4 or place >= len(tensors) - 2
        found = _native.run(program, is_double, [*tensors[:place], None, *tensors[place + 1 :]], *how)
        assert found == (-1 if may_be_none else place)


WRONG: dict[str, list[dict[str, Any]]] = {
    "has sizes, the first of which is 1": [{"sizes": 0}, {"sizes": -1}],
    "has vectors with sizes, one of some blocks": [
        {"vectors": [(2, 1, 2), (3, 0, 1)]},
        {"vectors": [(-1, 0, 1), (1, 0, 1)]},
        {"vectors": [(2, 2, 2), (1, 0, 1)]},
        {"vectors": [(2, -1, 2), (1, 0, 1)]},
    ],
    "has arrays with sizes": [{"arrays": [(1, False), (3, True)]}, {"arrays": [(-1, False)]}],
    "has rows with sizes": [{"rows": [1, 3]}, {"rows": [-1, 1]}],
    "has matrices with sizes, one of some blocks": [
        {"matrices": [(1, 3, False, 0, 1)]},
        {"matrices": [(-1, 1, False, 0, 1)]},
        {"matrices": [(1, 1, False, 1, 1)]},
        {"matrices": [(1, 1, False, 0, 0)]},
    ],
    "has numbers of sizes that there are": [{"numbers": [(0.5, 3)]}, {"numbers": [(0.5, -2)]}],
    "has results with sizes, one of some blocks": [
        {"results": [(1, 3, True, 0, 1)]},
        {"results": [(-2, 2, False, 0, 1)]},
        {"results": [(1, -1, True, 0, 1)]},
        {"results": [(1, 2, True, 3, 3)]},
    ],
    "has all slots of its groups": [
        {"slots": CODE["slots"][:-1]},
        {"groups": [*CODE["groups"], (1, False)]},
        {"groups": [*CODE["groups"][:-1], (3, True)]},
    ],
    "has the slots of a group in order": [
        {"slots": [(1, 0, 0), (1, 2, 0), (0, 1, 0), (2, 3, 0), (2, 3, 1)]},
        {"slots": [*CODE["slots"][:-2], (2, 3, 1), (2, 3, 0)]},
        {"slots": [(1, 0, 1), *CODE["slots"][1:]]},
        {"slots": [(1, -1, 0), *CODE["slots"][1:]]},
    ],
    "has slots of one size in a group": [
        {"slots": [*CODE["slots"][:-1], (1, 3, 1)]},
        {"slots": [(3, 0, 0), *CODE["slots"][1:]]},
        {"slots": [(-1, 0, 0), *CODE["slots"][1:]]},
    ],
    "has no slot without a group": [
        {"slots": [*CODE["slots"], (1, 4, 0)]},
        {"groups": CODE["groups"][:-1]},
        {"groups": [*CODE["groups"][:-1], (1, True)]},
        {"groups": [*CODE["groups"][:-1], (-1, True)]},
    ],
    "has weights with sizes": [
        {"weights": [(3, 1, [0])]},
        {"weights": [(1, -1, [0])]},
        {"weights": [(1, 1, [])]},
    ],
    "has weights of matrices that fit": [
        {"weights": [(1, 1, [4])]},
        {"weights": [(1, 1, [-1])]},
        {"weights": [(1, 1, [1])]},
        {"weights": [(2, 1, [0])]},
        {"weights": [(2, 1, [1])]},
        {"weights": [(1, 2, [1, 3])]},
        {"matrices": [(1, 1, False, 0, 1), (1, 2, False, 1, 3), (2, 1, True, 1, 2), (2, 1, False, 0, 1)]},
    ],
    "has a term in every product": [{"products": [[]]}, {"products": [[(0, 0)], []]}],
    "multiplies slots with weights": [{"products": [[(5, 0)]]}, {"products": [[(-1, 0)]]}, {"products": [[(0, 3)]]}],
    "multiplies what fits": [{"products": [[(2, 0)]]}, {"products": [[(0, 2)]]}],
    "makes groups of a block ahead": [
        {"ahead": [(5, [[2], []], [(0, 1)])]},
        {"ahead": [(-1, [[2], []], [(0, 1)])]},
        {"ahead": [(4, [[2], []], [(0, 1)])]},
        {"ahead": [(1, [[]], [(0, 0)])]},
        {"groups": [*CODE["groups"][:-1], (2, False)]},
    ],
    "begins every slot of a group": [{"ahead": [(3, [[2]], [(0, 1)])]}, {"ahead": [(3, [[2], [], []], [(0, 1)])]}],
    "adds vectors that fit": [
        {"ahead": [(3, [[4], []], [(0, 1)])]},
        {"ahead": [(3, [[-1], []], [(0, 1)])]},
        {"ahead": [(3, [[3], []], [(0, 1)])]},
        {"ahead": [(3, [[2], [0]], [(0, 1)])]},
    ],
    "multiplies arrays with weights": [
        {"ahead": [(3, [[2], []], [(3, 1)])]},
        {"ahead": [(3, [[2], []], [(-1, 1)])]},
        {"ahead": [(3, [[2], []], [(0, 3)])]},
        {"ahead": [(3, [[2], []], [(1, 1)])]},  # an array of a block
    ],
    "multiplies arrays that fit": [
        {"ahead": [(3, [[2], []], [(0, 0)])]},
        {"ahead": [(3, [[2], []], [(0, 2)])]},
        {"weights": [(1, 1, [0]), (1, 2, [1]), (2, 1, [3])]},
        {"weights": [(1, 1, [0]), (1, 2, [1, 2, 1]), (2, 1, [3])]},
    ],
    "makes arrays of all steps": [
        {"after": [(3, [(3, 2)])]},
        {"after": [(-1, [(3, 2)])]},
        {"after": [(1, [(3, 2)])]},
    ],
    "multiplies slots of a block": [
        {"after": [(2, [(5, 2)])]},
        {"after": [(2, [(-1, 2)])]},
        {"after": [(2, [(3, 3)])]},
        {"after": [(2, [(0, 0)])]},  # a slot of a step
    ],
    "multiplies slots of a block that fit": [
        {"after": [(2, [(3, 0)])]},
        {"after": [(2, [(3, 1)])]},
        {"weights": [(1, 1, [0]), (1, 2, [1, 2]), (2, 1, [3, 3])]},
        {"arrays": [*CODE["arrays"][:2], (2, False)]},
    ],
    "carries slots, each once": [
        {"carried": [(5, 0, 1, 1)]},
        {"carried": [(-2, 0, 1, 1)]},
        {"carried": [(-1, 0, 1, 1)]},
        {"carried": [(-1, -1, -1, -1)]},
        {"carried": [(0, 0, 5, 1)]},
        {"carried": [(0, 0, -2, 1)]},
        {"carried": [(0, 0, 0, 1)]},
        {"carried": [(0, 0, 1, 1), (0, 0, -1, -1)]},
        {"carried": [(0, 0, 1, 1), (1, 0, -1, -1)]},
    ],
    "carries slots that are alone and of a step": [
        {"carried": [(3, -1, -1, -1)]},
        {"groups": [(1, True), *CODE["groups"][1:]]},
        {"groups": [(1, False), (1, True), *CODE["groups"][2:]]},
    ],
    "begins with rows that fit": [
        {"carried": [(0, 2, 1, 1)]},
        {"carried": [(0, -2, 1, 1)]},
        {"carried": [(2, 0, -1, -1)]},
    ],
    "ends with rows that fit": [
        {"carried": [(0, 0, 1, 2)]},
        {"carried": [(0, 0, 1, -2)]},
        {"carried": [(2, -1, -1, 0)]},
    ],
    "carries on what fits": [{"carried": [(0, 0, 2, 1)]}],
    "sums slots of a block": [
        {"gradients": [(0, True, 0, 5, 0)]},
        {"gradients": [(0, True, 0, -1, 0)]},
        {"gradients": [(0, True, 0, 3, 2)]},
        {"gradients": [(0, True, 0, 3, -1)]},
        {"gradients": [(-1, False, -1, 1, 1)]},  # a slot of a step
    ],
    "sums what fits": [
        {"results": [(1, 1, True, 0, 1), (-1, 2, False, 0, 1)]},
        {"results": [(1, 2, True, 0, 1), (-1, 1, False, 0, 1)]},
    ],
    "sums rows to a vector": [{"gradients": [(-1, False, -1, 3, 0)]}],
    "sums products that fit": [
        {"gradients": [(3, True, 0, 3, 0)]},
        {"gradients": [(-2, True, 0, 3, 0)]},
        {"gradients": [(0, True, 0, 3, 1)]},
        {"results": [(2, 2, True, 0, 1), (-1, 2, False, 0, 1)]},
    ],
    "sums products with rows that fit": [
        {"gradients": [(0, True, 2, 3, 0)]},
        {"gradients": [(0, True, -2, 3, 0)]},
        {"rows": [1, 1, 2], "gradients": [(0, True, 2, 3, 0)]},
    ],
    "has the step before of arrays of all steps alone": [{"gradients": [(1, True, 0, 3, 0)]}],
    "stores slots in arrays": [
        {"instructions": [(OF.store, 3, [1] * 4)]},
        {"instructions": [(OF.store, -1, [1] * 4)]},
        {"instructions": [(OF.store, 1, [5] * 4)]},
        {"instructions": [(OF.store, 1, [-1] * 4)]},
    ],
    "stores what fits": [{"instructions": [(OF.store, 1, [2] * 4)]}],
    "writes to slots": [
        {"instructions": [(OF.load, 5, [0] * 4)]},
        {"instructions": [(OF.load, -1, [0] * 4)]},
        {"instructions": [(OF.add, 5, [0] * 4)]},
        {"instructions": [(OF.product, 5, [0] * 4)]},
    ],
    "loads what fits": [
        {"instructions": [(OF.load, 0, [3] * 4)]},
        {"instructions": [(OF.load, 0, [-1] * 4)]},
        {"instructions": [(OF.load, 2, [0] * 4)]},
        {"instructions": [(OF.load, 0, [1] * 4)]},  # an array of a block
        {"instructions": [(OF.previous, 0, [1, 0, 0, 0])]},
    ],
    "loads rows that fit": [
        {"instructions": [(OF.previous, 0, [0, 2, 0, 0])]},
        {"instructions": [(OF.previous, 0, [0, -2, 0, 0])]},
        {"rows": [1, 1, 2], "instructions": [(OF.previous, 0, [0, 2, 0, 0])]},
    ],
    "makes groups of products": [
        {"instructions": [(OF.product, 1, [1] * 4)]},
        {"instructions": [(OF.add_product, 1, [-1] * 4)]},
        {"instructions": [(OF.add_product, 4, [0] * 4)]},
    ],
    "makes products that fit": [
        {"instructions": [(OF.product, 2, [0] * 4)]},
        {"instructions": [(OF.product, 3, [0] * 4)]},
    ],
    "makes whole groups": [
        {"products": [[(0, 3)]], "weights": [*CODE["weights"], (1, 1, [0, 0])]},
        {
            "products": [[(0, 3)]],
            "weights": [*CODE["weights"], (1, 2, [1])],
            "instructions": [(OF.product, 3, [0] * 4)],
        },
    ],
    "makes no product from itself": [
        {"instructions": [(OF.product, 0, [0] * 4)]},
        {"instructions": [(OF.add_product, 0, [0] * 4)]},
    ],
    "reads slots and vectors": [
        {"instructions": [(OF.add, 0, [0, 5, 0, 0])]},
        {"instructions": [(OF.add, 0, [0, -5, 0, 0])]},
        {"instructions": [(OF.where_inside, 0, [0, 0, 0, 5])]},
        {"instructions": [(OF.sum, 2, [5] * 4)]},
    ],
    "makes one number of a row": [
        {"instructions": [(OF.sum, 1, [0] * 4)]},
        {"instructions": [(OF.mean, 2, [2] * 4)]},
        {"instructions": [(OF.largest, 2, [-1] * 4)]},
    ],
    "reads what is as wide as the result, or one number": [
        {"instructions": [(OF.add, 2, [0, 1, 0, 0])]},
        {"instructions": [(OF.add, 0, [0, 3, 0, 0])]},
        {"instructions": [(OF.add, 0, [0, -3, 0, 0])]},
        {"instructions": [(OF.where_inside, 0, [0, 0, 0, 3])]},
    ],
}


@pytest.mark.parametrize(
    ("text", "wrong"), [(text, wrong) for text, cases in WRONG.items() for wrong in cases], ids=str
)
def test_programs_that_point_nowhere_are_refused(text: str, wrong: dict[str, Any]) -> None:
    _native.Program(**CODE)
    with pytest.raises(ValueError, match=f"^a program {text}$"):
        _native.Program(**(CODE | wrong))


def test_a_program_gets_as_many_tensors_and_lengths_as_it_names() -> None:
    program, tensors = _native.Program(**CODE), of_code(3, 2, 5, 4)
    for given, lengths in (
        ([], [1, 5, 4]),
        (tensors[:-1], [1, 5, 4]),
        ([*tensors, None], [1, 5, 4]),
        (tensors, [1, 5]),
        (tensors, [1, 5, 4, 1]),
        (tensors, [2, 5, 4]),
        (tensors, []),
    ):
        with pytest.raises(ValueError, match="as many tensors and lengths as it names"):
            _native.run(program, True, given, 3, 2, None, False, lengths, False, 1)


def test_a_program_refuses_sizes_of_steps_that_grow() -> None:
    program = _native.Program(**CODE)
    for sizes in ([1, 2], [3], [2, -1]):
        tensors = [each.flatten(0, 1) if each.dim() == 3 else each for each in of_code(3, 1, 5, 4)]
        with pytest.raises(ValueError, match="must not increase"):
            _native.run(program, True, tensors, len(sizes), 2, sizes, False, [1, 5, 4], False, 1)


def parameters(of: ast.FunctionDef) -> list[tuple[str, str]]:
    """Names and types, written as nanobind does; without a name where it gives none."""
    found = [("", one) for one in of.args.posonlyargs]
    found += [(one.arg, one) for one in [*of.args.args, *of.args.kwonlyargs] if one.arg != "self"]
    types = [ast.unparse(one.annotation) if one.annotation else "" for _, one in found]
    for long, short in (("collections.abc.", ""), ("bptt.engine._native.", ""), ("list[Any]", "list")):
        types = [each.replace(long, short) for each in types]
    types = [each.replace("Terms", "Sequence[tuple[int, int]]") for each in types]
    return [(name, of_it) for (name, _), of_it in zip(found, types, strict=True)]


def test_the_stub_says_what_the_module_has() -> None:
    body = ast.parse(Path(bptt.__file__).with_name("engine").joinpath("_native.pyi").read_text()).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    told = [node.targets[0] for node in classes["Operation"].body if isinstance(node, ast.Assign)]
    assert [name.id for name in told if isinstance(name, ast.Name)] == [member.name for member in _native.Operation]
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    values = {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    public = {name for name in dir(_native) if not name.startswith("_")}
    assert functions.keys() | values | classes.keys() == public
    (init,) = (node for node in classes["Program"].body if isinstance(node, ast.FunctionDef))
    compiled: dict[str, Any] = {name: getattr(_native, name) for name in functions}
    compiled["__init__"] = _native.Program.__init__
    for name, stub in (functions | {"__init__": init}).items():
        ((signature, _, _),) = compiled[name].__nb_signature__
        (has,) = ast.parse(f"{signature}: ...").body
        assert isinstance(has, ast.FunctionDef)
        if has.args.posonlyargs:  # nanobind knows no names
            assert [of for _, of in parameters(stub)] == [of for _, of in parameters(has)], name
        else:
            assert parameters(stub) == parameters(has), name
            assert len(stub.args.kwonlyargs) == len(has.args.kwonlyargs), name
        assert stub.returns is not None
        assert has.returns is not None
        assert ast.unparse(stub.returns) == ast.unparse(has.returns), name


TRICKY = {
    "columns that others have not made": """
        c, u : size S
        u : vector
        c_t = tanh(x_t W_xc + u ⊙ c_{t-1})
        h_t = tanh(c_{t-1} W_ch)""",
    "columns that others still read": """
        u : vector
        c_t = tanh(x_t W_xc + u ⊙ c_{t-1} + b_c)
        h_t = tanh(c_t W_ch + c_{t-1} W_kh)""",
    "numbers meet a matrix before tokens": """
        s_t = h_{t-1} V
        h_t = tanh(s_t W + x_t W + b_h)""",
    "tokens meet a matrix before numbers": """
        s_t = h_{t-1} V
        h_t = tanh(x_t W + s_t W + b_h)""",
    "a transposed matrix": "h_t = tanh(x_t W + h_{t-1} Vᵀ)",
    "a mask left of a matrix": """
        m : rows
        h_t = tanh(x_t W + m W_m + h_{t-1} V)""",
    "a parameter that counts nothing": "h_t = tanh(x_t W + h_{t-1} V + 0 ⊙ b_h)",
    "a size of an input alone": """
        z : input S
        h_t = tanh(x_t W + h_{t-1} V + sum(z_t))""",
}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("steps", [Steps(20, 1), Steps(7, 5, [5, 5, 3, 3, 2, 1, 1], True)], ids=["one row", "packed"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("text", TRICKY.values(), ids=TRICKY)
def test_what_members_share_and_what_meets(text: str, threads: int, steps: Steps, tokens: bool) -> None:
    given = drawn(Cell(text), steps, sizes={"I": 256, "H": 256, "S": 256}, spread=0.03, tokens=tokens)
    torch.set_num_threads(threads)
    try:
        found = everything(given, native)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(found, everything(given, reference), **tolerance(F64))


def test_a_gradient_to_which_nothing_is_sent_is_zero() -> None:
    given = drawn(Cell(TRICKY["a parameter that counts nothing"]), Steps(5, 3))
    b_h = torch.full_like(given.parameters["b_h"], torch.nan)
    weights = [b_h if name == "b_h" else None for name in given.weights.layout.names]
    with torch.no_grad():
        made = given.forward(native)
        given.backward(native, made, *cotangents(made), Gradients(None, [None], weights))
    assert torch.equal(b_h, torch.zeros_like(b_h))


def test_both_biases_of_torch_get_a_gradient_of_their_own() -> None:
    """Each alone and both together."""
    given = drawn(Cell(elman()), Steps(5, 3), torch_layout=True)
    with torch.no_grad():
        made = given.forward(native)
        d = cotangents(made)

        def biases(*asked: int) -> list[Tensor]:
            weights = [torch.empty_like(w) if k in asked else None for k, w in enumerate(given.parameters.values())]
            return given.backward(native, made, *d, Gradients(None, [None], weights))

        both = biases(2, 3)
    assert torch.equal(both[0], both[1])
    assert torch.equal(biases(2)[0], both[0])
    assert torch.equal(biases(3)[0], both[0])
