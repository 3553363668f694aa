"""Walks in blocks against plain ones, to the bit on the compiled engine; the reference judged by autograd."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import ACTIVATIONS, tolerance
from published_cells import PUBLISHED
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint as torch_checkpoint

import bptt
from bptt.engine import blocks, native
from bptt.errors import InputError
from bptt.nn import RNN, Elman, Recurrent
from bptt.sheet import losses

F32, F64 = torch.float32, torch.float64
# With H = 13 the engine sums over 512 rows: blocks of 512, 1024, 1536 steps of one row, and one longer than T.
T, H = 1700, 13
CHECKPOINTS = [1, 513, 1025, 5000, "auto", "600kB", "1GB"]


@pytest.fixture
def on_the_reference() -> Iterator[None]:
    with bptt.using("reference"):
        yield


def everything(rnn: RNN, x: Any, h0: Tensor | None, checkpoint: Any) -> list[Tensor]:
    """Output, last states and all gradients for random cotangents on both."""
    rnn.checkpoint = checkpoint
    torch.manual_seed(2)
    output, h_n = rnn(x, h0)
    output = output.data if isinstance(output, PackedSequence) else output
    torch.manual_seed(3)
    cotangents = [torch.randn_like(output), torch.randn_like(h_n)]
    given = x.data if isinstance(x, PackedSequence) else x
    leaves = [leaf for leaf in (given, h0, *rnn.parameters()) if leaf is not None and leaf.requires_grad]
    return [output.detach(), h_n.detach(), *torch.autograd.grad([output, h_n], leaves, cotangents)]


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_blocks_change_no_bit(checkpoint: Any, num_layers: int, dtype: torch.dtype) -> None:
    for tokens, with_h0, bias in itertools.product([True, False], repeat=3):
        rnn = RNN(5, H, num_layers, bias=bias, dtype=dtype)
        x = torch.randint(5, (T, 1)) if tokens else torch.randn(T, 1, 5, dtype=dtype, requires_grad=True)
        h0 = torch.randn(num_layers, 1, H, dtype=dtype, requires_grad=True) if with_h0 else None
        assert_same_bits(everything(rnn, x, h0, checkpoint), everything(rnn, x, h0, None))


@pytest.mark.parametrize("nonlinearity", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(T, 1, H), (400, 7, 37), (90, 20, 130)], ids=str)
def test_blocks_change_no_bit_whatever_the_activation(shape: tuple[int, int, int], nonlinearity: str) -> None:
    steps, B, width = shape
    rnn = RNN(5, width, 2, nonlinearity)
    x, h0 = torch.randn(steps, B, 5, requires_grad=True), torch.randn(2, B, width, requires_grad=True)
    assert_same_bits(everything(rnn, x, h0, 1), everything(rnn, x, h0, None))


@pytest.mark.parametrize("checkpoint", [1, 50, "auto", "300kB"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_packed_rows_and_of_both_directions(packed: bool, bidirectional: bool, checkpoint: Any) -> None:
    lengths, B = [900, 600, 600, 350, 20, 20, 1], 7
    for with_h0, batch_first in itertools.product([True, False], repeat=2):
        rnn = RNN(5, 20, 2, bidirectional=bidirectional, batch_first=batch_first)
        x: Any = torch.randn(B, 900, 5, requires_grad=True)
        x = x if batch_first else x.transpose(0, 1).detach().requires_grad_()
        if packed:
            x = pack_padded_sequence(x, lengths, batch_first)
        h0 = torch.randn(2 * (1 + bidirectional), B, 20, requires_grad=True) if with_h0 else None
        assert_same_bits(everything(rnn, x, h0, checkpoint), everything(rnn, x, h0, None))


@pytest.mark.parametrize("frozen", [*itertools.product([False, True], repeat=3)], ids=str)
def test_gradients_of_a_subset(frozen: tuple[bool, bool, bool]) -> None:
    rnn = RNN(5, H, 3)
    for layer, stays in enumerate(frozen):
        for name, parameter in rnn.named_parameters():
            if name.endswith(f"l{layer}"):
                parameter.requires_grad_(not stays)
    for x_needed, h0_needed in itertools.product([False, True], repeat=2):
        if all(frozen) and not x_needed and not h0_needed:
            continue
        x, h0 = torch.randn(T, 1, 5, requires_grad=x_needed), torch.randn(3, 1, H, requires_grad=h0_needed)
        assert_same_bits(everything(rnn, x, h0, 1), everything(rnn, x, h0, None))


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_one_parameter_alone_may_ask(name: str) -> None:
    rnn = RNN(5, H).requires_grad_(False)
    rnn.get_parameter(name).requires_grad_()
    x = torch.randn(T, 1, 5)
    assert_same_bits(everything(rnn, x, None, 1), everything(rnn, x, None, None))


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_size": [20, 130]},
        {"hidden_size": [20, 130], "bidirectional": True},
        {"learn_h0": True},
        {"dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_blocks_go_with_the_other_options(options: dict[str, Any]) -> None:
    rnn = RNN(5, **{"hidden_size": H, "num_layers": 2, **options})
    x = torch.randn(T, 1, 5, dtype=options.get("dtype"))
    lengths, reset = torch.tensor([1600]), torch.rand(T, 1) < 0.001
    for more in ({}, {"lengths": lengths}, {"reset": reset}, {"return_all_layers": True}):
        found = []
        for rnn.checkpoint in (None, 1):
            output = rnn(x, **more)[0]
            found.append([output, *torch.autograd.grad(output.sum(), list(rnn.parameters()))])
        assert_same_bits(*found)
    assert len(rnn(x, return_all_layers=True)[2]) == 2


def test_one_output_alone_may_be_used() -> None:
    rnn, x = RNN(5, H, 2), torch.randn(T, 1, 5)
    for which in (0, 1):
        found = []
        for rnn.checkpoint in (None, 1):
            found.append([*torch.autograd.grad(rnn(x)[which].sum(), list(rnn.parameters()))])
        assert_same_bits(*found)


def test_without_gradients_and_with_nothing_to_walk() -> None:
    rnn = RNN(5, H, 2)
    for steps, B in ((T, 1), (0, 3), (4, 0)):
        x = torch.randn(steps, B, 5)
        found = []
        for rnn.checkpoint in (None, 1):
            with torch.no_grad():
                found.append([*rnn(x)])
        assert_same_bits(*found)
        assert_same_bits(everything(rnn, x, None, 1), everything(rnn, x, None, None))


def test_a_graph_may_be_walked_back_twice_and_several_threads_are_the_same() -> None:
    rnn, x = RNN(64, 160, 2, checkpoint=1), torch.randn(500, 3, 64)
    output, _ = rnn(x)
    once = torch.autograd.grad(output.sum(), list(rnn.parameters()), retain_graph=True)
    again = torch.autograd.grad(output.sum(), list(rnn.parameters()))
    assert_same_bits([*again], [*once])
    torch.set_num_threads(2)
    try:
        assert_same_bits([*torch.autograd.grad(rnn(x)[0].sum(), list(rnn.parameters()))], [*once])
    finally:
        torch.set_num_threads(1)


def test_weights_changed_between_the_passes_are_noticed() -> None:
    rnn = RNN(5, H, checkpoint=1)
    output, _ = rnn(torch.randn(T, 1, 5))
    with torch.no_grad():
        rnn.get_parameter("weight_hh_l0").mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.usefixtures("on_the_reference")
@pytest.mark.parametrize("checkpoint", [1, 3, "auto"])
def test_reference_in_blocks_is_the_gradient_of_the_whole(checkpoint: Any) -> None:
    rnn, x = RNN(3, 4, 2, dtype=F64), torch.randn(7, 2, 3, dtype=F64, requires_grad=True)
    h0 = torch.randn(2, 2, 4, dtype=F64, requires_grad=True)
    theirs = torch.nn.RNN(3, 4, 2, dtype=F64)
    theirs.load_state_dict(rnn.state_dict())
    found = everything(rnn, x, h0, checkpoint)
    output, h_n = theirs(x, h0)
    torch.manual_seed(3)
    cotangents = [torch.randn_like(output), torch.randn_like(h_n)]
    expected = torch.autograd.grad([output, h_n], [x, h0, *theirs.parameters()], cotangents)
    torch.testing.assert_close(found, [output, h_n, *expected], **tolerance(F64))
    assert torch.autograd.gradcheck(lambda x, h0, *_: rnn(x, h0), (x, h0, *rnn.parameters()))


@pytest.mark.usefixtures("on_the_reference")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_second_derivatives(bidirectional: bool, packed: bool) -> None:
    rnn = RNN(2, 3, 2, bidirectional=bidirectional, dtype=F64, checkpoint=1)
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def call(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = rnn(pack_padded_sequence(x, [3, 1]) if packed else x)
        return (output.data if isinstance(output, PackedSequence) else output), h_n

    assert torch.autograd.gradgradcheck(call, (x, *rnn.parameters()), fast_mode=True)


def test_dropout_is_drawn_for_each_block_and_the_same_on_the_way_back() -> None:
    rnn = RNN(5, 6, 3, dropout=0.4, dtype=F64, checkpoint=1)
    x, direction = torch.randn(T, 1, 5, dtype=F64), torch.randn(6, dtype=F64)

    def L() -> Tensor:
        torch.manual_seed(5)
        return (rnn(x)[0] * direction).sum()

    assert L() == L()
    torch.manual_seed(6)
    assert (rnn(x)[0] * direction).sum() != L()
    weight = rnn.get_parameter("weight_ih_l1")
    (gradient,) = torch.autograd.grad(L(), weight)
    along, step = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        weight += step * along
        ahead = L()
        weight -= 2 * step * along
        behind = L()
    torch.testing.assert_close((ahead - behind) / (2 * step), (gradient * along).sum(), rtol=1e-6, atol=0)
    rnn.eval()
    assert_same_bits(everything(rnn, x, None, 1), everything(rnn, x, None, None))


def test_recording_changes_no_bit() -> None:
    rnn, x = RNN(5, H, 2, checkpoint=1), torch.randn(T, 1, 5)
    output, _ = rnn(x)
    output.sum().backward()
    gradients = [parameter.grad for parameter in rnn.parameters()]
    rnn.zero_grad()
    with bptt.recording() as tapes:
        recorded, _ = rnn(x)
        recorded.sum().backward()
    assert torch.equal(recorded, output)
    assert_same_bits([p.grad for p in rnn.parameters() if p.grad is not None], [g for g in gradients if g is not None])
    assert torch.equal(tapes[0].h[:, 0], output[:, 0])


@pytest.mark.parametrize("checkpoint", [None, 1])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_torch_checkpoint_around_it(use_reentrant: bool, checkpoint: Any) -> None:
    rnn, x = RNN(5, H, 2, checkpoint=checkpoint), torch.randn(T, 1, 5, requires_grad=True)
    plain = torch.autograd.grad(rnn(x)[0].sum(), [x])
    rnn.zero_grad()
    output, _ = torch_checkpoint(rnn, x, use_reentrant=use_reentrant)
    output.sum().backward()
    assert x.grad is not None
    assert_same_bits([x.grad], [*plain])


# Other cells


def rows_of(given: Any) -> Tensor:
    return given.data if isinstance(given, PackedSequence) else given


def of_any_cell(network: Any, given: Any, inputs: dict[str, Any], checkpoint: Any) -> list[Tensor]:
    """Output, last states and all gradients, for random cotangents on all of them."""
    network.checkpoint = checkpoint
    torch.manual_seed(2)
    output, last = network(given, **({"inputs": inputs} if inputs else {}))
    outputs = [rows_of(output), *(last if isinstance(last, tuple) else [last])]
    torch.manual_seed(3)
    cotangents = [torch.randn_like(y) for y in outputs]
    leaves = [rows_of(given), *network.parameters(), *map(rows_of, inputs.values())]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    return [y.detach() for y in outputs] + [*torch.autograd.grad(outputs, leaves, cotangents)]


OPTIONS: dict[str, dict[str, Any]] = {
    "leak": {"leak": 0.4},
    "residual": {"residual": True, "nonlinearity": "sigmoid"},  # with tanh rounding grows over so many steps
    "norm and dropout": {"norm": "layer", "recurrent_dropout": 0.5},
    "all": {"leak": 0.4, "residual": True, "norm": "layer", "recurrent_dropout": 0.5, "learn_h0": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("checkpoint", [1, 50, "auto", "1MB"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("kind", ["dense", "packed", "tokens"])
def test_blocks_of_cells_with_options(kind: str, bidirectional: bool, checkpoint: Any, options: dict[str, Any]) -> None:
    rnn = RNN(5, 20, 2, bidirectional=bidirectional, dtype=F64, **options)
    x: Any = torch.randn(160, 7, 5, dtype=F64, requires_grad=True)
    if kind == "packed":
        x = pack_padded_sequence(x, [160, 120, 120, 60, 20, 20, 1])
    elif kind == "tokens":
        x = torch.randint(5, (160, 7))
    in_blocks, whole = (of_any_cell(rnn, x, {}, c) for c in (checkpoint, None))
    torch.testing.assert_close(in_blocks, whole, rtol=0, atol=0)


CELLS = {
    "lstm": "lstm",
    "gru-v1": "gru-v1",
    "rows": PUBLISHED["zoneout lstm"],
    "inputs": PUBLISHED["phased lstm"],
    "fixed lines": PUBLISHED["ctrnn"],
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("checkpoint", [1, 7, "auto", "budget"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_blocks_of_any_cell(packed: bool, bidirectional: bool, checkpoint: Any, cell: str, engine: str) -> None:
    long = 20 if engine == "native" else 1  # whose blocks have 512 rows or more
    checkpoint = {"native": "500kB", "reference": "20kB"}[engine] if checkpoint == "budget" else checkpoint
    layers = Recurrent(CELLS[cell], 5, 6, 2, bidirectional=bidirectional, learn_h0=True, dtype=F64)
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    T, B = 30 * long, 3
    x: Any = torch.randn(T, B, 5, dtype=F64, requires_grad=True)
    inputs: dict[str, Any] = {}
    if cell == "rows":
        inputs = {name: torch.rand(B, 6, dtype=F64).round() for name in ("m", "k")}
    elif cell == "inputs":
        inputs = {"k": torch.rand(T, B, 1, dtype=F64, requires_grad=True)}
    if packed:
        lengths = [30 * long, 17 * long, 4 * long]
        x = pack_padded_sequence(x, lengths)
        if cell == "inputs":
            inputs = {"k": pack_padded_sequence(inputs["k"], lengths)}
    with bptt.using(engine):
        in_blocks, whole = (of_any_cell(layers, x, inputs, c) for c in (checkpoint, None))
    if engine == "native":
        torch.testing.assert_close(in_blocks, whole, rtol=0, atol=0)
    torch.testing.assert_close(in_blocks, whole, **tolerance(F64))


@pytest.mark.filterwarnings("ignore:bptt runs on the slow reference engine")
def test_second_derivatives_of_other_cells_in_blocks() -> None:
    for network in (
        RNN(2, 3, 2, leak=0.5, norm="layer", dtype=F64, checkpoint=1),
        Recurrent("lstm", 2, 3, 2, dtype=F64, checkpoint=1),
    ):
        x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)
        with bptt.using("reference"):  # where a block has one step
            assert torch.autograd.gradgradcheck(
                lambda x, *_, network=network: network(x)[0], (x, *network.parameters()), fast_mode=True
            )


@pytest.mark.parametrize("checkpoint", [None, 1])
@pytest.mark.filterwarnings("ignore::bptt.SlowEngineWarning")
def test_tokens_without_a_row_are_explained(checkpoint: Any) -> None:
    layers = [Recurrent("gru", 5, 4, checkpoint=checkpoint)]
    layers += [RNN(5, 4, nonlinearity=torch.nn.functional.silu)] if checkpoint is None else []
    for network in layers:
        with pytest.raises(IndexError, match=r"tokens must lie in \[0, 5\).* got 1 to 7"):
            network(torch.tensor([[1], [7], [2]]))


# The whole chain


def chain(
    model: Elman, x: Tensor, y: Tensor, h0: Tensor | None, checkpoint: Any, **options: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    model.zero_grad()
    L, h_n = model.loss_of(x, y, h0, checkpoint=checkpoint, **options)
    wanted = [leaf for leaf in (x, h0, *model.parameters()) if leaf is not None and leaf.requires_grad]
    return L.detach(), h_n, [*torch.autograd.grad(L, wanted)]


def unblocked(
    model: Elman, x: Tensor, y: Tensor, h0: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same by unblocked sweeps, with an output layer in grains of as many rows as the engine sums."""
    h, h_n = model.rnn(x, h0)
    weight, bias = model.readout.weight, model.readout.bias
    block = 512 * len(weight) * x.shape[1]
    L = losses.loss_of_states(model.loss_name, h, weight, bias, y, block=block, **options)
    wanted = [leaf for leaf in (x, h0, *model.parameters()) if leaf is not None and leaf.requires_grad]
    return L.detach(), h_n.detach(), [*torch.autograd.grad(L, wanted)]


def targets(name: str, T: int, B: int, O: int, dtype: torch.dtype) -> Tensor:
    if name == "cross_entropy":
        return torch.randint(O, (T, B))
    return (
        torch.rand(T, B, O, dtype=dtype).round()
        if name == "binary_cross_entropy"
        else torch.randn(T, B, O, dtype=dtype)
    )


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("checkpoint", [*CHECKPOINTS, None])
@pytest.mark.parametrize("name", losses.PAIRS)
def test_the_chain_has_the_bits_of_unblocked_sweeps(
    name: str, checkpoint: Any, num_layers: int, dtype: torch.dtype
) -> None:
    model = Elman(5, H, 6, num_layers=num_layers, loss=name, dtype=dtype)
    y = targets(name, T, 1, 6, dtype)
    for tokens, with_h0 in itertools.product([True, False], repeat=2):
        x = torch.randint(5, (T, 1)) if tokens else torch.randn(T, 1, 5, dtype=dtype, requires_grad=True)
        h0 = torch.randn(num_layers, 1, H, dtype=dtype, requires_grad=True) if with_h0 else None
        L, h_n, gradients = chain(model, x, y, h0, checkpoint)
        expected_L, expected_h_n, expected = unblocked(model, x, y, h0)
        assert_same_bits([L, h_n, *gradients], [expected_L, expected_h_n, *expected])
        with torch.no_grad():
            assert_same_bits([*model.loss_of(x, y, h0, checkpoint=checkpoint)], [expected_L, expected_h_n])


@pytest.mark.parametrize("name", losses.PAIRS)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_the_chain_is_the_gradient_of_the_loss(checkpoint: Any, name: str) -> None:
    B, O = 2, 6
    model = Elman(5, H, O, num_layers=2, loss=name, dtype=F64)
    x, y = torch.randn(T, B, 5, dtype=F64, requires_grad=True), targets(name, T, B, O, F64)
    h0, w = torch.randn(2, B, H, dtype=F64, requires_grad=True), torch.rand(T, B, dtype=F64)
    mask, factors = torch.rand(T, B) < 0.7, torch.rand(O, dtype=F64)
    variants: list[dict[str, Any]] = [{}, {"weights": w}, {"mask": mask, "class_weights": factors}]
    for options in variants:
        L, h_n, gradients = chain(model, x, y, h0, checkpoint, **options)
        o, last = model(x, h0)
        expected = losses.loss(name, o, y, **options)
        wanted = torch.autograd.grad(expected, [x, h0, *model.parameters()])
        torch.testing.assert_close([L, h_n, *gradients], [expected, last, *wanted], **tolerance(F64))


def test_the_chain_accumulates_scales_and_freezes() -> None:
    model = Elman(5, H, 6, dtype=F64)
    x, y = torch.randint(5, (T, 1)), torch.randint(6, (T, 1))
    _, _, once = chain(model, x, y, None, 1)
    for _ in range(2):
        (model.loss_of(x, y)[0] / 4).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, [g / 2 for g in once], **tolerance(F64))
    names = [name for name, _ in model.named_parameters()]
    for free in names:
        model.requires_grad_(False)
        model.get_parameter(free).requires_grad_()
        assert_same_bits(chain(model, x, y, None, 1)[2], [once[names.index(free)]])
    model.requires_grad_(False)
    assert not model.loss_of(x, y)[0].requires_grad


def test_the_chain_goes_on_where_another_ended() -> None:
    model = Elman(5, H, 6, num_layers=2)
    x, y = torch.randint(5, (T, 1), dtype=torch.uint8), torch.randint(6, (T, 1))
    _, h = model.loss_of(x[:700], y[:700])
    assert not h.requires_grad
    _, h = model.loss_of(x[700:], y[700:], h)
    assert torch.equal(h, model(x)[1])


def test_the_chain_cannot_be_differentiated_twice_nor_recorded() -> None:
    model = Elman(5, H, 6)
    x, y = torch.randint(5, (20, 1)), torch.randint(6, (20, 1))
    L, _ = model.loss_of(x, y)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        L.backward(create_graph=True)
    with bptt.recording(), pytest.raises(InputError, match="Record model"):
        model.loss_of(x, y)


# What is kept


@pytest.mark.parametrize("H", [1, 100, 128, 300])
@pytest.mark.parametrize("B", [1, 7, 600])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_cover_all_steps_and_end_where_sums_do(packed: bool, reverse: bool, B: int, H: int) -> None:
    T, rows = 4000 // B + 5, native.rows_of_a_block(H)
    sizes = [max(1, B - t // 3) for t in range(T)] if packed else None
    walk = blocks.Walk(T, B, sizes, reverse, rows, 4 * B * H, 4 * B * H, 12 * B * H, 0)
    dense = sizes or [B] * T
    back, sums, total = dense if reverse else dense[::-1], [0], 0
    for t, size in enumerate(back, 1):
        total += size
        if total >= rows or t == T:
            total = 0
            sums.append(t)
    for checkpoint in (None, 1, 100, "auto", "1GB"):
        found = blocks.plan(checkpoint, walk).blocks
        in_order = found[::-1] if reverse else found
        lengths = [len(b.batch_sizes) if b.batch_sizes is not None else b.rows.stop - b.rows.start for b in in_order]
        assert sum(lengths) == T
        assert [size for b in in_order for size in (b.batch_sizes or [])] == (sizes or [])
        assert in_order[0].rows.start == 0
        assert all(one.rows.stop == other.rows.start for one, other in itertools.pairwise(in_order))
        assert all((B if b.batch_sizes is None else b.batch_sizes[0]) == b.B for b in found)
        ends = itertools.accumulate(lengths if reverse else lengths[::-1])
        assert set(ends) <= set(sums)
        if checkpoint == 100:
            assert all(length >= 100 for length in lengths[1 if not reverse else 0 : None if not reverse else -1])


def test_a_budget_keeps_what_fits() -> None:
    walk = blocks.Walk(1_000_000, 1, None, False, 256, 512, 512, 3136, 200)
    auto = blocks.plan("auto", walk)
    assert auto.kept == 1 + int(128e6) // (4096 * 512)
    kept = [blocks.plan(budget, walk).kept for budget in ("8MB", "100 MB", "0.2GB", "10GiB")]
    assert kept == sorted(kept)
    assert 1 < kept[1] < kept[2] < kept[3] == len(auto.blocks)
    steps = auto.blocks[-1].rows.stop - auto.blocks[-1].rows.start
    assert kept[2] * steps * 512 <= 0.2e9
    with pytest.raises(InputError, match=r"1000000 steps of 1 rows is at least 2\.\d MB; got '1MB'"):
        blocks.plan("1MB", walk)


@pytest.mark.parametrize(
    "checkpoint", [0, -3, True, 1.5, "512", "MB", "-1MB", "1mb", "sqrt", "1e3MB", "", 400 * "9" + "MB"]
)
def test_what_is_no_checkpoint_is_explained(checkpoint: Any) -> None:
    with pytest.raises(InputError, match=r'must be None, "auto", a number of steps .* got '):
        RNN(5, 7, checkpoint=checkpoint)
    rnn = RNN(5, 7)
    rnn.checkpoint = checkpoint
    with pytest.raises(InputError, match="got "):
        rnn(torch.randn(3, 1, 5))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda m: m.loss_of(torch.zeros(4, 2, 5), torch.zeros(3, 2).long()),
            ValueError,
            r"shape \(4, 2\) for outputs",
        ),
        (
            lambda m: m.loss_of(torch.full((4, 2), 5), torch.zeros(4, 2).long()),
            IndexError,
            r"tokens must lie in \[0, 5",
        ),
        (lambda m: m.loss_of(torch.zeros(4), torch.zeros(4).long()), InputError, r"tokens \(T, B\) or numbers"),
        (lambda m: m.bfloat16().loss_of(torch.zeros(4, 2).long(), torch.zeros(4, 2).long()), InputError, "or float64"),
        (lambda m: m.loss_of(torch.zeros(4, 2, 3), torch.zeros(4, 2).long()), RuntimeError, "Expected 5, got 3"),
        (lambda m: m.loss_of(torch.zeros(0, 2, 5), torch.zeros(0, 2).long()), ValueError, "no step counts"),
    ],
)
def test_mistakes_in_the_chain_are_explained(call: Callable[[Any], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(Elman(5, 7, 6))
