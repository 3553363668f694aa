"""Where none of our sweeps run, layers that torch has are its own kernels: `using("torch")` has it so on the CPU."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from bptt import engine
from bptt.engine import native, reference
from bptt.errors import SlowEngineWarning

F64 = torch.float64
OURS = [native, reference]


@pytest.fixture
def _torch() -> Iterator[None]:
    with bptt.using("torch"):
        yield


@pytest.fixture
def _no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine of ours was called")

    for ours, name in itertools.product(OURS, ("forward", "backward")):
        monkeypatch.setattr(ours, name, refuse)


MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "tanh": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "lstm, projected": ("LSTM", {"proj_size": 2}),
    "gru": ("GRU", {}),
}


def everything(rnn: torch.nn.Module, x: Any, hx: tuple[Tensor, ...]) -> list[Tensor]:
    """Output, states and every gradient."""
    output, last = rnn(x, hx[0] if len(hx) == 1 else hx or None)
    made = [output.data if isinstance(output, PackedSequence) else output]
    made += last if isinstance(last, tuple) else [last]
    torch.manual_seed(3)
    seeds = [torch.randn_like(tensor) for tensor in made]
    of = [*rnn.parameters(), x.data if isinstance(x, PackedSequence) else x, *hx]
    return [*made, *torch.autograd.grad(made, of, seeds)]


@pytest.mark.usefixtures("_torch", "_no_loop")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("kind", ["batched", "unbatched", "packed", "unsorted"])
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_layers_equal_torch(
    module: str, kind: str, num_layers: int, bidirectional: bool, batch_first: bool, given: bool, bias: bool
) -> None:
    torch.manual_seed(1)
    name, own = MODULES[module]
    options: dict[str, Any] = own | {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    theirs = getattr(torch.nn, name)(3, 4, num_layers, **options, dtype=F64)
    ours = getattr(bptt.nn, name)(3, 4, num_layers, **options, dtype=F64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn((5, 3) if kind == "unbatched" else (2, 5, 3) if batch_first else (5, 2, 3), dtype=F64)
    x.requires_grad_()
    rows = () if kind == "unbatched" else (2,)
    widths = [theirs.proj_size or 4, 4][: 1 + (name == "LSTM")] if given else []
    count = len(theirs.all_weights)
    hx = tuple(torch.randn(count, *rows, width, dtype=F64, requires_grad=True) for width in widths)
    fed: Any = x
    if kind in ("packed", "unsorted"):
        lengths = [5, 2] if kind == "packed" else [2, 5]
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=kind == "packed")
        fed = packed._replace(data=packed.data.detach().requires_grad_())
    for found, expected in zip(everything(ours, fed, hx), everything(theirs, fed, hx), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("_torch", "_no_loop")
def test_lengths_and_learnt_states_are_torch_kernels_too() -> None:
    torch.manual_seed(1)
    rnn = bptt.nn.RNN(3, 4, 2, batch_first=True, bidirectional=True, learn_h0=True, dtype=F64)
    x = torch.randn(3, 6, 3, dtype=F64)
    output, h_n = rnn(x, lengths=[6, 0, 2], reset=torch.rand(3, 6) < 0.3)
    assert output[1].eq(0).all()
    assert h_n[:, 1].eq(0).all()
    narrow, _ = bptt.nn.RNN(3, 4)(torch.randn(6, 2, 3, dtype=torch.bfloat16))
    assert narrow.dtype == torch.bfloat16


@pytest.mark.usefixtures("_torch")
def test_what_torch_has_not_is_computed_all_the_same() -> None:
    torch.manual_seed(1)
    tokens, x = torch.randint(3, (5, 2)), torch.randn(5, 2, 3)
    calls = [
        (bptt.nn.RNN(3, 4), tokens, {}),
        (bptt.nn.RNN(3, 4, nonlinearity="sigmoid"), x, {}),
        (bptt.nn.RNN(3, [4, 5]), x, {}),
        (bptt.nn.RNN(3, 4, leak=0.5), x, {}),
        (bptt.nn.RNN(3, 4, checkpoint=2), x, {}),
        (bptt.nn.RNN(3, 4, num_layers=2), x, {"return_all_layers": True}),
        (bptt.nn.RNN(3, 4), x[:0], {}),
    ]
    found = [rnn(given, **options) for rnn, given, options in calls]
    assert len(found[-2][2]) == 2
    model = bptt.nn.Elman(3, 4, 3, dtype=F64)
    bptt.record(model, tokens, tokens).check()


@pytest.mark.usefixtures("_torch", "_no_loop")
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_cells_equal_torch(shape: tuple[int, ...], nonlinearity: str) -> None:
    theirs = torch.nn.RNNCell(3, 4, nonlinearity=nonlinearity)
    ours = bptt.nn.RNNCell(3, 4, nonlinearity=nonlinearity)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape)
    assert torch.equal(ours(x, ours(x)), theirs(x, theirs(x)))


@pytest.mark.usefixtures("_torch", "_no_loop")
def test_nobody_is_warned_where_torch_serves() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowEngineWarning)
        bptt.convert(torch.nn.RNN(3, 4, 2))(torch.randn(5, 2, 3))[0].sum().backward()


@pytest.mark.usefixtures("_no_loop")
def test_using_asks_for_torch_kernels_too() -> None:
    theirs, ours = torch.nn.RNN(3, 4, 2), bptt.nn.RNN(3, 4, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3)
    with bptt.using("torch"):
        output, h_n = ours(x)
    assert torch.equal(output, theirs(x)[0])
    assert torch.equal(h_n, theirs(x)[1])
    with bptt.using("reference"), pytest.raises(AssertionError, match="an engine of ours was called"):
        ours(x)


def test_devices_without_sweeps_of_ours_have_torch_kernels() -> None:
    assert [engine.torch_serves(device) for device in ("cpu", "cuda", "mps", "xpu")] == [False, True, True, True]
