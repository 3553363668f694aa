"""RNN, LSTM, GRU and their cells are those of torch.nn, judged by these: every combination of options, random ones,
then all that a module is asked for beside computing."""

import copy
import io
import itertools
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt

F64 = torch.float64
T, B, I, H = 4, 3, 2, 3
LENGTHS = {"packed, sorted": [4, 2, 1], "packed, unsorted": [2, 4, 1]}
INPUTS = ["batched", "unbatched", "no rows", *LENGTHS]
DROPOUTS = {"no dropout": (0.0, True), "dropout in training": (0.4, True), "dropout in evaluation": (0.4, False)}
FIRST = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tanh": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "lstm, projected": ("LSTM", {"proj_size": 2}),
    "gru": ("GRU", {}),
}
of_kinds = pytest.mark.parametrize("kind", KINDS)
of_classes = pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])


@contextmanager
def named(*combination: Any) -> Iterator[None]:
    """What fails inside says which combination it was."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as failure:
        failure.add_note(f"with {', '.join(map(str, combination))}")
        raise


def pair(kind: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """torch's module and ours, made from the same seed."""
    name, own = KINDS[kind]
    torch.manual_seed(1)
    theirs = getattr(torch.nn, name)(*args, **own, **kwargs)
    torch.manual_seed(1)
    return theirs, getattr(bptt.nn, name)(*args, **own, **kwargs)


def everything(
    module: torch.nn.RNNBase, x: Tensor, hx: tuple[Tensor, ...] = (), lengths: list[int] | None = None
) -> list[Tensor]:
    """Output, last states and all gradients for random cotangents on them; dropout draws from the same seed."""
    x = x.clone().requires_grad_()
    hx = tuple(h.clone().requires_grad_() for h in hx)
    given = hx[0] if len(hx) == 1 else hx or None
    torch.manual_seed(2)
    if lengths is None:
        output, last = module(x, given)
    else:
        packed, last = module(pack_padded_sequence(x, lengths, module.batch_first, enforce_sorted=False), given)
        assert isinstance(packed, PackedSequence)
        output = packed.data
    torch.manual_seed(3)
    made = all_of((output, last))
    cotangents = [torch.randn_like(tensor) for tensor in made]
    return [*made, *torch.autograd.grad(made, [x, *hx, *module.parameters()], cotangents)]


def all_of(result: Any) -> list[Tensor]:
    output, last = result
    return [output, *last] if isinstance(last, tuple) else [output, last]


def states_of(module: torch.nn.RNNBase, rows: int | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """First states for a module, drawn."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    widths = [module.proj_size or module.hidden_size, module.hidden_size][: 1 + isinstance(module, torch.nn.LSTM)]
    return tuple(torch.randn(count, *([] if rows is None else [rows]), width, dtype=dtype) for width in widths)


def padded(kind: str, batch_first: bool, dtype: torch.dtype) -> tuple[Tensor, int | None]:
    """An input and its number of rows, None if unbatched; what a packed sequence leaves out is NaN."""
    if kind == "unbatched":
        return torch.randn(T, I, dtype=dtype), None
    rows = 0 if kind == "no rows" else B
    x = torch.randn(T, rows, I, dtype=dtype)
    for row, length in enumerate(LENGTHS.get(kind, [])):
        x[length:, row] = torch.nan
    return x.transpose(0, 1).contiguous() if batch_first else x, rows


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
@of_kinds
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_every_combination_equals_torch(num_layers: int, bidirectional: bool, kind: str, dtype: torch.dtype) -> None:
    for bias, batch_first, dropout in itertools.product([True, False], [False, True], DROPOUTS):
        p, training = DROPOUTS[dropout]
        options = {"bias": bias, "batch_first": batch_first, "dropout": p, "bidirectional": bidirectional}
        modules = pair(kind, I, H, num_layers, **options, dtype=dtype)
        for given, with_states in itertools.product(INPUTS, [False, True]):
            x, rows = padded(given, batch_first, dtype)
            hx = states_of(modules[0], rows, dtype) if with_states else ()
            with named(options, dropout, given, f"{with_states=}"):
                theirs, ours = (everything(m.train(training), x, hx, LENGTHS.get(given)) for m in modules)
                torch.testing.assert_close(ours, theirs, **tolerance(dtype))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_a_thousand_random_combinations_equal_torch(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(200):
        kind, dtype = draw.choice(list(KINDS)), draw.choice([F64, torch.float32])
        T, B, I, H = (draw.choice(sizes) for sizes in ([1, 2, 9], [0, 1, 5, 17], [1, 4, 20], [3, 8, 19, 33]))
        options = {name: draw.random() < 0.5 for name in ("bias", "batch_first", "bidirectional")}
        options |= {"dropout": draw.choice([0.0, 0.3]), "num_layers": draw.choice([1, 2, 3])}
        modules = pair(kind, I, H, **options, dtype=dtype)
        lengths = [draw.randint(1, T) for _ in range(B)] if B and draw.random() < 0.4 else None
        rows = None if lengths is None and draw.random() < 0.2 else B
        shape = [T, I] if rows is None else [B, T, I] if options["batch_first"] else [T, B, I]
        x = torch.randn(shape, dtype=dtype)
        hx = states_of(modules[0], rows, dtype) if draw.random() < 0.5 else ()
        training = draw.random() < 0.7
        with named(kind, options, dtype, tuple(shape), lengths, f"{len(hx)} states", f"{training=}"):
            theirs, ours = (everything(m.train(training), x, hx, lengths) for m in modules)
            torch.testing.assert_close(ours, theirs, **tolerance(dtype))


@pytest.mark.parametrize("kind", ["tanh", "relu", "lstm", "gru"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_cell_equals_torch(kind: str, bias: bool) -> None:
    name, own = KINDS[kind]
    for dtype, rows, with_h in itertools.product([F64, torch.float32], [3, 0, None], [False, True]):
        theirs = getattr(torch.nn, f"{name}Cell")(I, H, bias, **own, dtype=dtype)
        ours = getattr(bptt.nn, f"{name}Cell")(I, H, bias, **own, dtype=dtype)
        ours.load_state_dict(theirs.state_dict())
        lead = [] if rows is None else [rows]
        x, *states = (
            torch.randn(*lead, size, dtype=dtype, requires_grad=True) for size in (I, *([H] * (1 + (kind == "lstm"))))
        )
        hx = None if not with_h else tuple(states) if kind == "lstm" else states[0]
        cotangents = [torch.randn(*lead, H, dtype=dtype) for _ in states]
        with named(f"{dtype=}", f"{rows=}", f"{with_h=}"):
            results = []
            for cell in (ours, theirs):
                made = cell(x, hx)
                assert isinstance(made, tuple) == (kind == "lstm")
                made = made if isinstance(made, tuple) else (made,)
                leaves = [x, *(states if with_h else []), *cell.parameters()]
                results.append([*made, *torch.autograd.grad(made, leaves, cotangents)])
            torch.testing.assert_close(*results, **tolerance(dtype))


@of_classes
def test_input_of_any_strides(kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, dtype=F64)
    x = torch.randn(5, 8, 9, dtype=F64).permute(1, 2, 0)[::2, 1::3]
    assert not x.is_contiguous()
    hx = tuple(torch.randn(7, 1, x.shape[1], dtype=F64).permute(1, 2, 0) for _ in states_of(theirs, 1, F64))
    torch.testing.assert_close(everything(ours, x, hx), everything(theirs, x, hx), **tolerance(F64))
    output, _ = ours(x)
    ones = torch.ones(1, dtype=F64).expand_as(output)
    grads = [torch.autograd.grad(module(x)[0], list(module.parameters()), ones) for module in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], **tolerance(F64))


@of_classes
def test_one_output_alone_may_be_used(kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, 2, dtype=F64)
    x = torch.randn(4, 6, 5, dtype=F64)
    for which in range(1 + len(states_of(theirs, 6, F64))):
        grads = [torch.autograd.grad(all_of(m(x))[which].sum(), list(m.parameters())) for m in (ours, theirs)]
        torch.testing.assert_close(grads[0], grads[1], **tolerance(F64))


@pytest.mark.parametrize("frozen", [c for n in range(1, 5) for c in itertools.combinations(FIRST, n)], ids=" ".join)
@of_classes
def test_any_parameters_may_be_frozen(frozen: tuple[str, ...], kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, dtype=F64)
    x = torch.randn(4, 6, 5, dtype=F64, requires_grad=True)
    gradients = []
    for module in (ours, theirs):
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)
        leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
        gradients.append(torch.autograd.grad(module(x)[0].square().sum(), leaves))
    torch.testing.assert_close(*gradients, **tolerance(F64))
    ours(x.detach())[0].sum() if len(frozen) == 4 else ours(x.detach())[0].sum().backward()
    assert all((p.grad is None) == (name in frozen) for name, p in ours.named_parameters())


@of_classes
def test_frozen_parameters_of_a_stack_leave_no_gradient(kind: str) -> None:
    module = pair(kind, 5, 7, 2, bidirectional=True)[1].requires_grad_(False)
    assert not module(torch.randn(4, 6, 5))[0].requires_grad
    x = torch.randn(4, 6, 5, requires_grad=True)
    module(x)[0].sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in module.parameters())


@of_classes
def test_state_dicts_go_both_ways_and_are_strict(kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, 2, bidirectional=True, dtype=F64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(4, 3, 5, dtype=F64)
    for source, target in ((theirs, ours), (ours, theirs)):
        for parameter in target.parameters():
            torch.nn.init.normal_(parameter)
        assert str(target.load_state_dict(source.state_dict(), strict=True)) == "<All keys matched successfully>"
        torch.testing.assert_close(target(x), source(x), **tolerance(F64))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"weight_ih_l1\""):
        ours.load_state_dict(type(ours)(5, 7, 1, bidirectional=True, dtype=F64).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight_hh_l0"):
        ours.load_state_dict(type(ours)(5, 8, 2, bidirectional=True, dtype=F64).state_dict())
    with torch.device("meta"):
        empty = type(ours)(5, 7, 2, bidirectional=True, dtype=F64)
    empty.load_state_dict(ours.state_dict(), assign=True)
    torch.testing.assert_close(empty(x), ours(x), rtol=0, atol=0)


@of_classes
def test_parameters_start_as_torch_draws_them_and_have_its_order(kind: str) -> None:
    for options in ({}, {"bias": False}, {"num_layers": 3, "bidirectional": True, "batch_first": True}):
        theirs, ours = pair(kind, 5, 7, **options)
        for (name, mine), (other_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert name == other_name
            assert torch.equal(mine, other), name
        assert [[p.shape for p in layer] for layer in ours.all_weights] == [
            [p.shape for p in layer] for layer in theirs.all_weights
        ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.3, "bidirectional": True},
    ],
    ids=["default", "all"],
)
@pytest.mark.parametrize("kind", ["tanh", "relu", "lstm", "gru"])
def test_it_shows_itself_as_torch_does(options: dict[str, Any], kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, **options)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    name, own = KINDS[kind]
    cell = own | {key: value for key, value in options.items() if key == "bias"}
    assert repr(getattr(bptt.nn, f"{name}Cell")(5, 7, **cell)) == repr(getattr(torch.nn, f"{name}Cell")(5, 7, **cell))


def test_copies_are_whole_and_apart() -> None:
    rnn = bptt.nn.RNN(5, 7, 2, "sigmoid", bidirectional=True)
    layers = [rnn, bptt.nn.LSTM(5, 7, init={"b_f": 1}, learn_h0=True), bptt.nn.GRU(5, [7, 6], checkpoint=2)]
    cells = [bptt.nn.RNNCell(5, 7, nonlinearity="relu"), bptt.nn.LSTMCell(5, 7), bptt.nn.GRUCell(5, 7)]
    given = [(module, torch.randn(4, 3, 5)) for module in layers] + [(cell, torch.randn(3, 5)) for cell in cells]
    for module, x in given:
        expected = module(x)
        saved = io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(saved, weights_only=False)]
        for twin in twins:
            torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
            with torch.no_grad():
                next(twin.parameters()).zero_()
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("swap", [False, True], ids=["data", "swap_module_params"])
def test_conversions_of_dtype_and_device(swap: bool) -> None:
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        rnn = bptt.nn.RNN(5, 7, 2)
        parameters = list(rnn.parameters())
        optimizer = torch.optim.SGD(rnn.parameters(), 0.1)
        rnn.to(F64)
        assert all(p is q for p, q in zip(rnn.parameters(), parameters, strict=True))
        assert all(p.dtype is F64 for p in rnn.parameters())
        x = torch.randn(4, 3, 5, dtype=F64)
        theirs = functional_call(torch.nn.RNN(5, 7, 2, dtype=F64), rnn.state_dict(), (x,))
        before = rnn(x)[0]
        torch.testing.assert_close(before, theirs[0], **tolerance(F64))
        before.sum().backward()
        optimizer.step()
        assert not torch.equal(rnn(x)[0], before)
        assert rnn.float()(x.float())[0].dtype is torch.float32
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_flatten_parameters_changes_nothing() -> None:
    rnn, x = bptt.nn.RNN(5, 7, 2), torch.randn(4, 3, 5)
    expected = rnn(x)[0]
    rnn.flatten_parameters()
    assert torch.equal(rnn(x)[0], expected)
    assert [id(p) for p in rnn._flat_weights] == [id(p) for p in rnn.parameters()]


@of_classes
def test_a_parameter_may_be_replaced(kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, dtype=F64)
    x = torch.randn(4, 3, 5, dtype=F64)
    for module in (theirs, ours):
        torch.manual_seed(4)
        module.weight_hh_l0 = torch.nn.Parameter(torch.randn_like(theirs.weight_hh_l0))
    torch.testing.assert_close(everything(ours, x), everything(theirs, x), **tolerance(F64))
    with torch.no_grad():
        ours.get_parameter("weight_hh_l0").zero_()
    assert not torch.equal(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("how", ["orthogonal", "spectral_norm", "weight_norm"])
@of_classes
def test_parametrized_recurrent_weights(how: str, kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, 2, dtype=F64)
    for module in (theirs, ours):
        torch.manual_seed(5)
        getattr(parametrizations, how)(module, "weight_hh_l0")
    x = torch.randn(4, 3, 5, dtype=F64)
    for module in (theirs, ours):
        module.train(how != "spectral_norm")
    torch.testing.assert_close(everything(ours, x), everything(theirs, x), **tolerance(F64))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    parametrize.remove_parametrizations(ours, "weight_hh_l0")
    parametrize.remove_parametrizations(theirs, "weight_hh_l0")
    torch.testing.assert_close(everything(ours, x), everything(theirs, x), **tolerance(F64))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@of_classes
def test_weight_norm_of_before_parametrize(kind: str) -> None:
    theirs, ours = (torch.nn.utils.weight_norm(module, "weight_hh_l0") for module in pair(kind, 5, 7, dtype=F64))
    x = torch.randn(4, 3, 5, dtype=F64)
    torch.testing.assert_close(everything(ours, x), everything(theirs, x), **tolerance(F64))
    assert sum(isinstance(p, torch.nn.Parameter) for p in ours._flat_weights) == 3
    torch.nn.utils.remove_weight_norm(ours, "weight_hh_l0")
    assert sum(isinstance(p, torch.nn.Parameter) for p in ours._flat_weights) == 4
    assert "weight_hh_l0" in ours._parameters


@of_classes
def test_hooks_see_and_change_what_passes(kind: str) -> None:
    seen: dict[str, list[Any]] = {"ours": [], "theirs": []}
    x = torch.randn(4, 3, 5, dtype=F64)
    results = []
    for module, log in zip(pair(kind, 5, 7, dtype=F64), seen.values(), strict=True):
        module.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
        module.register_forward_hook(lambda _, inputs, outputs: (outputs[0] + inputs[0].sum(), outputs[1]))
        module.register_full_backward_hook(lambda _, dx, dy, log=log: log.extend([dx[0], dy[0]]))
        module.get_parameter("weight_hh_l0").register_hook(lambda gradient, log=log: log.append(gradient))
        results.append(everything(module, x))
    torch.testing.assert_close(results[1], results[0], **tolerance(F64))
    assert len(seen["ours"]) == 3
    torch.testing.assert_close(seen["ours"], seen["theirs"], **tolerance(F64))


@of_classes
def test_functional_call_takes_other_parameters(kind: str) -> None:
    theirs, ours = pair(kind, 5, 7, 2, bidirectional=True, dtype=F64)
    x = torch.randn(4, 3, 5, dtype=F64)
    others = {name: torch.randn_like(p, requires_grad=True) for name, p in theirs.named_parameters()}
    results = []
    for module in (ours, theirs):
        made = all_of(functional_call(module, others, (x,)))
        total = torch.stack([tensor.sum() for tensor in made]).sum()
        results.append([*made, *torch.autograd.grad(total, list(others.values()))])
    torch.testing.assert_close(*results, **tolerance(F64))
    torch.testing.assert_close(ours(x), theirs(x), **tolerance(F64))
