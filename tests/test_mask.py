"""Padding on the left and skipped steps, judged by the modules of torch on every row without them, one by one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch.nn.utils.rnn import pack_sequence

import bptt

F64 = torch.float64
T, B, I, H = 7, 6, 3, 4
KINDS: dict[str, list[Callable[..., Any]]] = {
    "RNN": [bptt.nn.RNN, torch.nn.RNN],
    "LSTM": [bptt.nn.LSTM, torch.nn.LSTM],
    "LSTM, projected": [partial(bptt.nn.LSTM, proj_size=2), partial(torch.nn.LSTM, proj_size=2)],
    "GRU": [bptt.nn.GRU, torch.nn.GRU],
    "Recurrent": [partial(bptt.nn.Recurrent, "peephole")] * 2,
}
of_kinds = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("bidirectional", [False, True])
batch_first_or_not = pytest.mark.parametrize("batch_first", [False, True])


def pair_of(kind: str, **options: Any) -> tuple[Any, Any]:
    """Ours, and the judge with the same weights, time first."""
    torch.manual_seed(0)
    ours, theirs = KINDS[kind]
    module = ours(I, H, 2, dtype=F64, **options)
    judge = theirs(I, H, 2, dtype=F64, bidirectional=options.get("bidirectional", False))
    judge.load_state_dict(module.state_dict())
    return module, judge


def states(last: Any) -> tuple[Tensor, ...]:
    return last if isinstance(last, tuple) else (last,)


def like_states(judge: Any) -> Any:
    """First states of B rows, laid out as hx."""
    _, last = judge(torch.zeros(1, B, I, dtype=F64))
    first = tuple(torch.randn_like(h).requires_grad_() for h in states(last))
    return first if isinstance(last, tuple) else first[0]


def masks() -> Tensor:
    """(T, B): left padding, right padding, holes, all, nothing, one step in the middle."""
    mask = torch.ones(T, B, dtype=torch.bool)
    mask[:3, 0] = mask[4:, 1] = mask[[0, 2, 3, 6], 2] = mask[:, 4] = mask[:, 5] = False
    mask[3, 5] = True
    return mask


def by_rows(judge: Any, x: Tensor, mask: Tensor, hx: Any) -> tuple[Tensor, ...]:
    """Output and last states from one call for each row, with its real steps alone."""
    outputs, last = [], []
    for b in range(B):
        real = mask[:, b].nonzero()[:, 0]
        first = tuple(h[:, b : b + 1] for h in states(hx))
        row = x.new_zeros(T, states(hx)[0].shape[-1] * (1 + judge.bidirectional))
        if len(real):
            found, first = judge(x[real, b : b + 1], first if isinstance(hx, tuple) else first[0])
            row = row.index_copy(0, real, found[:, 0])
        outputs.append(row)
        last.append(states(first))
    return torch.stack(outputs, 1), *(torch.cat(of_state, 1) for of_state in zip(*last, strict=True))


def with_gradients(results: tuple[Tensor, ...], leaves: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(3)
    return [
        *results,
        *torch.autograd.grad(results, leaves, [torch.randn(result.shape, dtype=F64) for result in results]),
    ]


@of_kinds
@both_ways
@batch_first_or_not
def test_skipped_steps_are_as_if_they_were_not_there(kind: str, bidirectional: bool, batch_first: bool) -> None:
    module, judge = pair_of(kind, bidirectional=bidirectional, batch_first=batch_first)
    mask, hx, x = masks(), like_states(judge), torch.randn(T, B, I, dtype=F64, requires_grad=True)
    leaves = [x, *states(hx), *judge.parameters()]
    expected = with_gradients(by_rows(judge, x, mask, hx), leaves)
    given = x.detach().masked_fill(~mask[..., None], torch.nan).requires_grad_()
    if batch_first:
        output, last = module(given.transpose(0, 1), hx, mask=mask.mT)
        output = output.transpose(0, 1)
    else:
        output, last = module(given, hx, mask=mask)
    assert not output[~mask].any()
    got = with_gradients((output, *states(last)), [given, *states(hx), *module.parameters()])
    torch.testing.assert_close(got, expected, **tolerance(F64))


@of_kinds
@both_ways
def test_padding_on_the_right_is_lengths_and_no_padding_is_no_mask(kind: str, bidirectional: bool) -> None:
    module, _ = pair_of(kind, bidirectional=bidirectional)
    x, lengths = torch.randn(T, B, I, dtype=F64), [3, 0, T, 1, 3, 5]
    mask = torch.arange(T)[:, None] < torch.tensor(lengths)
    for found, expected in (
        (module(x, mask=mask), module(x, lengths=lengths)),
        (module(x, mask=mask | True), module(x)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@of_kinds
@both_ways
def test_a_reset_at_a_skipped_step_is_one_before_the_next_real_step(kind: str, bidirectional: bool) -> None:
    module, _ = pair_of(kind, bidirectional=bidirectional)
    x, mask, reset = torch.randn(T, 2, I, dtype=F64), torch.ones(T, 2, dtype=torch.bool), torch.zeros(T, 2).bool()
    mask[[0, 3], 0] = mask[6, 1] = False
    reset[3, 0] = reset[1, 1] = reset[6, 1] = True
    output, last = module(x, mask=mask, reset=reset)
    for b, real, begins in ((0, [1, 2, 4, 5, 6], 2), (1, [0, 1, 2, 3, 4, 5], 1)):
        again = torch.arange(len(real)) == begins
        expected, ended = module(x[real, b], reset=again)
        torch.testing.assert_close(output[real, b], expected, **tolerance(F64))
        for of_all, own in zip(states(last), states(ended), strict=True):
            torch.testing.assert_close(of_all[:, b], own, **tolerance(F64))


@of_kinds
def test_it_goes_with_the_other_options(kind: str) -> None:
    """Tokens, one row alone, all layers, jagged and packed input of the same steps, a stream, a tape."""
    module, _ = pair_of(kind, bidirectional=True)
    mask = masks()
    mask[0, 4] = True
    x = torch.randn(T, B, I, dtype=F64)
    output, last, layers = module(x, mask=mask, return_all_layers=True)
    assert layers[-1] is output
    assert not layers[0][~mask].any()
    rows = [x[mask[:, b], b] for b in range(B)]
    packed, packed_last = module(pack_sequence(rows, enforce_sorted=False))
    torch.testing.assert_close(states(packed_last), states(last), rtol=0, atol=0)
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    for b, row in enumerate(rows):
        assert torch.equal(unpacked[: len(row), b], output[mask[:, b], b])
        torch.testing.assert_close(module(x[:, b], mask=mask[:, b])[0], output[:, b], **tolerance(F64))
    assert torch.equal(module(x, mask=mask.tolist())[0], output)
    tokens = torch.randint(I, (T, B))
    one_hot = torch.nn.functional.one_hot(tokens, I).to(F64)
    torch.testing.assert_close(module(tokens, mask=mask), module(one_hot, mask=mask), **tolerance(F64))
    stream = bptt.nn.Stream(pair_of(kind)[0])
    whole, _ = stream.module(x, mask=mask)
    windows = [stream(x[part], mask=mask[part])[0] for part in (slice(0, 3), slice(3, T))]
    torch.testing.assert_close(torch.cat(windows), whole, **tolerance(F64))
    with bptt.recording() as tapes:
        module(x, mask=mask)[0].square().sum().backward()
    assert tapes[0].check().ok
    assert torch.equal(tapes[0].h, output)
    dx = tapes[0].dx
    assert dx is not None
    assert not dx[~mask].any()


@both_ways
def test_further_inputs_of_skipped_steps_are_not_read(bidirectional: bool) -> None:
    decay = "δ : input\nv : vector\ng_t = exp(−softplus(v) ⊙ δ_t)\nh_t = tanh(x_t W_xh + (g_t ⊙ h_{t-1}) W_hh)"
    module = bptt.nn.Recurrent(decay, I, H, bidirectional=bidirectional, dtype=F64)
    x, seconds, mask = torch.randn(T, B, I, dtype=F64), torch.rand(T, B, dtype=F64), masks()
    poisoned = seconds.masked_fill(~mask, torch.nan)
    output, h_n = module(x, inputs={"δ": poisoned}, mask=mask)
    for b in (b for b in range(B) if mask[:, b].any()):
        real = mask[:, b]
        alone, ended = module(x[real, b], inputs={"δ": seconds[real, b]})
        torch.testing.assert_close((output[real, b], h_n[:, b]), (alone, ended), **tolerance(F64))


@of_kinds
def test_second_derivatives(kind: str) -> None:
    module, judge = pair_of(kind, bidirectional=True)
    x, hx, mask = torch.randn(3, B, I, dtype=F64, requires_grad=True), like_states(judge), masks()[2:5]

    def run(x: Tensor, *first: Tensor) -> Tensor:
        return module(x, first if isinstance(hx, tuple) else first[0], mask=mask)[0]

    assert torch.autograd.gradcheck(run, (x, *states(hx)), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *states(hx)), fast_mode=True)


@of_kinds
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of torch itself
def test_compiled_models_leave_it_out_of_the_graph_and_one_graph_is_refused_in_words(kind: str) -> None:
    module, _ = pair_of(kind, bidirectional=True)
    x, mask = torch.randn(T, B, I, dtype=F64), masks()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, mask: module(2 * x, mask=mask)[0] + 1, backend="eager")
    torch.testing.assert_close(compiled(x, mask), module(2 * x, mask=mask)[0] + 1, **tolerance(F64))
    torch._dynamo.reset()
    said = "lengths=, reset= and mask= decide which steps there are.*Compile without fullgraph=True"
    for asked in ({"mask": mask}, {"lengths": mask.sum(0)}, {"reset": mask}):
        with pytest.raises(Unsupported, match=said):
            torch.compile(module, fullgraph=True, backend="eager")(x, **asked)
        with pytest.raises(bptt.InputError, match=said):
            torch.export.export(module, (x,), asked)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda m, x: m(x, mask=torch.ones(4, 3).long()),
            r"mask must hold booleans of shape \(4, 3\), \(time, batch\) as the input; got torch.int64.*as_tensor",
        ),
        (lambda m, x: m(x, mask=torch.ones(3, 4).bool()), r"got torch.bool of shape \(3, 4\)\. mask\[t, b\] is true"),
        (lambda m, x: m(x, mask=torch.ones(4, 3).bool(), lengths=[1] * 3), "got the two. Give mask= alone"),
        (
            lambda m, x: m(torch.nested.as_nested_tensor(list(x), layout=torch.jagged), mask=torch.ones(4, 3).bool()),
            "without lengths=, reset= or mask= beside; got layout=torch.jagged, mask=",
        ),
        (lambda m, x: m(pack_sequence([x[:, 0]]), mask=torch.ones(4, 1).bool()), "got mask= beside one"),
        (
            lambda m, x: torch.vmap(lambda x, n: m(x, mask=n)[0])(x[None], torch.ones(1, 4, 3).bool()),
            "under torch.vmap mask= must be the same for all samples",
        ),
    ],
)
def test_mistakes_are_explained(call: Callable[..., Any], text: str) -> None:
    for module in (bptt.nn.RNN(I, H), bptt.nn.LSTM(I, H), bptt.nn.GRU(I, H), bptt.nn.Recurrent("gru", I, H)):
        with pytest.raises(ValueError, match=text):
            call(module, torch.zeros(4, 3, I))


def test_batch_first_is_said_in_mistakes() -> None:
    for name, says in (
        ("mask", "is true where step t of row b is real"),
        ("reset", "says that row b begins anew before step t"),
    ):
        with pytest.raises(ValueError, match=rf"\(3, 4\), \(batch, time\).*{name}\[b, t\] {says}"):
            bptt.nn.GRU(I, H, batch_first=True)(torch.zeros(3, 4, I), **{name: torch.ones(4, 3).bool()})
