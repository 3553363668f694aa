"""Lengths, resets, jagged input and all layers' states, judged by torch.nn.RNN run on every sequence by itself."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.nn.segments import segments

F64 = torch.float64
NAN = float("nan")
T, B, I, H = 6, 5, 3, 4
STACKS = list(itertools.product([1, 2], [False, True], [False, True]))  # layers, bidirectional, batch_first


def pair_of(num_layers: int, bidirectional: bool, batch_first: bool) -> tuple[torch.nn.RNN, bptt.nn.RNN]:
    ours = bptt.nn.RNN(I, H, num_layers, batch_first=batch_first, bidirectional=bidirectional, dtype=F64)
    theirs = torch.nn.RNN(I, H, num_layers, bidirectional=bidirectional, dtype=F64)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def by_itself(
    rnn: torch.nn.RNN, x: Tensor, hx: Tensor, lengths: list[int], reset: Tensor, fresh: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and last states, by the definition: every run of steps without a reset is a sequence of its own."""
    outputs, last_states = [], []
    for b, length in enumerate(lengths):
        output, h_n = x.new_zeros(T, H * (1 + rnn.bidirectional)), hx[:, b].clone()
        begins = [t for t in range(length) if t == 0 or reset[t, b]]
        for first, end in itertools.pairwise([*begins, length] if begins else []):
            h = fresh.clone()
            if first == 0 and not reset[0, b]:
                h[0::2] = hx[0::2, b]
                h[:: 1 + rnn.bidirectional] = hx[:: 1 + rnn.bidirectional, b]
            if end == length and rnn.bidirectional:
                h[1::2] = hx[1::2, b]
            output[first:end], h = rnn(x[first:end, b], h)
            if end == length:
                h_n[:: 1 + rnn.bidirectional] = h[:: 1 + rnn.bidirectional]
            if first == 0 and rnn.bidirectional:
                h_n[1::2] = h[1::2]
        outputs.append(output)
        last_states.append(h_n)
    return torch.stack(outputs, 1), torch.stack(last_states, 1)


def everything(outputs: tuple[Tensor, Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    torch.manual_seed(3)
    return [*outputs, *torch.autograd.grad(outputs, leaves, [torch.randn(o.shape, dtype=F64) for o in outputs])]


@pytest.mark.parametrize(("num_layers", "bidirectional", "batch_first"), STACKS)
def test_lengths_are_sequences_cut_short(num_layers: int, bidirectional: bool, batch_first: bool) -> None:
    theirs, ours = pair_of(num_layers, bidirectional, batch_first)
    lengths = [3, 0, T, 1, 3]
    x = torch.randn(T, B, I, dtype=F64, requires_grad=True)
    hx = torch.randn(num_layers * (1 + bidirectional), B, H, dtype=F64, requires_grad=True)
    real = torch.arange(T)[:, None] < torch.tensor(lengths)
    expected = everything(
        by_itself(theirs, x, hx, lengths, torch.zeros(T, B).bool(), torch.zeros_like(hx[:, 0])),
        [x, hx, *theirs.parameters()],
    )
    padded = x.detach().masked_fill(~real[..., None], NAN)
    padded = (padded.transpose(0, 1) if batch_first else padded).requires_grad_()
    output, h_n = ours(padded, hx, lengths=torch.tensor(lengths, dtype=torch.int32))
    output = output.transpose(0, 1) if batch_first else output
    assert not output[~real].any()
    got = everything((output, h_n), [padded, hx, *ours.parameters()])
    got[2] = got[2].transpose(0, 1) if batch_first else got[2]
    torch.testing.assert_close(got, expected, **tolerance(F64))
    packed, packed_h_n = ours(pack_padded_sequence(x[:, [0, 2, 3, 4]], [3, T, 1, 3], enforce_sorted=False))
    alone, alone_h_n = ours(padded, lengths=lengths)
    assert torch.equal(alone_h_n[:, [0, 2, 3, 4]], packed_h_n)
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    assert torch.equal(unpacked, (alone.transpose(0, 1) if batch_first else alone)[:, [0, 2, 3, 4]])


@pytest.mark.parametrize(("num_layers", "bidirectional", "batch_first"), STACKS)
@pytest.mark.parametrize("learn_h0", [False, True])
def test_reset_begins_a_sequence_of_its_own(
    num_layers: int, bidirectional: bool, batch_first: bool, learn_h0: bool
) -> None:
    theirs, _ = pair_of(num_layers, bidirectional, batch_first)
    ours = bptt.nn.RNN(
        I, H, num_layers, batch_first=batch_first, bidirectional=bidirectional, dtype=F64, learn_h0=learn_h0
    )
    ours.load_state_dict(theirs.state_dict(), strict=False)
    fresh: list[Tensor] = [value for name, value in ours.named_parameters() if name.startswith("h0")]
    for value in fresh:
        torch.nn.init.normal_(value)
    lengths = [3, 0, T, 1, 5]
    reset = torch.rand(T, B) < 0.4
    reset[0, 2], reset[0, 4], reset[3:, 0] = True, False, True  # the last lie behind the end
    x = torch.randn(T, B, I, dtype=F64, requires_grad=True)
    hx = torch.randn(num_layers * (1 + bidirectional), B, H, dtype=F64, requires_grad=True)
    start = torch.stack(fresh) if learn_h0 else torch.zeros_like(hx[:, 0])
    expected = everything(by_itself(theirs, x, hx, lengths, reset, start), [x, hx, *theirs.parameters(), *fresh])
    given = (x.transpose(0, 1), reset.mT) if batch_first else (x, reset)
    output, h_n = ours(given[0], hx, lengths=lengths, reset=given[1])
    output = output.transpose(0, 1) if batch_first else output
    names = [name for name, _ in theirs.named_parameters()]
    got = everything((output, h_n), [x, hx, *(ours.get_parameter(name) for name in names), *fresh])
    torch.testing.assert_close(got, expected, **tolerance(F64))
    output, h_n = ours(given[0], reset=given[1])
    whole = by_itself(theirs, x, start[:, None].expand_as(hx), [T] * B, reset, start)
    torch.testing.assert_close((output.transpose(0, 1) if batch_first else output, h_n), whole, **tolerance(F64))


def test_lengths_and_resets_of_tokens_and_single_rows() -> None:
    rnn = bptt.nn.RNN(7, H, 2, bidirectional=True, dtype=F64)
    tokens = torch.randint(7, (T, B))
    one_hot = torch.nn.functional.one_hot(tokens, 7).to(F64)
    lengths, reset = [3, 0, T, 1, 5], torch.rand(T, B) < 0.3
    expected, _ = rnn(one_hot, lengths=lengths, reset=reset)
    torch.testing.assert_close(rnn(tokens, lengths=lengths, reset=reset)[0], expected, **tolerance(F64))
    for b, length in enumerate(lengths):
        for x in (tokens, one_hot):
            alone, _ = rnn(x[:, b], lengths=torch.tensor(length), reset=reset[:, b])
            torch.testing.assert_close(alone, expected[:, b], **tolerance(F64))


@pytest.mark.parametrize("lengths", [[0, 0, 0], [0, 4, 0]])
def test_rows_without_steps_end_as_they_began(lengths: list[int]) -> None:
    rnn = bptt.nn.RNN(I, H, 2, bidirectional=True, learn_h0=True, dtype=F64)
    for name, value in rnn.named_parameters():
        if name.startswith("h0"):
            torch.nn.init.normal_(value)
    x, hx = torch.full((4, 3, I), NAN, dtype=F64), torch.randn(4, 3, H, dtype=F64, requires_grad=True)
    x[:, 1] = 0
    output, h_n = rnn(x, hx, lengths=lengths)
    assert torch.equal(h_n[:, [0, 2]], hx[:, [0, 2]])
    (output.sum() + h_n.sum()).backward()
    assert hx.grad is not None
    assert hx.grad[:, 0].eq(1).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in rnn.parameters())
    _, own = rnn(x, lengths=lengths)
    assert torch.equal(own[:, 0], torch.stack([v for n, v in rnn.named_parameters() if n.startswith("h0")]))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_jagged_in_jagged_out(bidirectional: bool) -> None:
    rnn = bptt.nn.RNN(I, H, 2, bidirectional=bidirectional, dtype=F64)
    rows = [torch.randn(n, I, dtype=F64) for n in (3, 0, 5, 1)]
    nested: Any = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    padded = torch.nn.utils.rnn.pad_sequence(rows).requires_grad_()
    expected, expected_h_n = rnn(padded, lengths=[3, 0, 5, 1])
    output, h_n = rnn(nested)
    assert output.layout == torch.jagged
    assert output.shape[:2] == nested.shape[:2]  # the same ragged length: the two can be added and concatenated
    assert torch.equal(h_n, expected_h_n)
    for b, row in enumerate(output.unbind()):
        assert torch.equal(row, expected[: len(row), b])
    weights = torch.randn_like(output.values())
    (output.values() * weights).sum().backward()
    mine = [p.grad for p in rnn.parameters()]
    rnn.zero_grad()
    real = torch.cat([expected[:n, b] for b, n in enumerate((3, 0, 5, 1))])
    (real * weights).sum().backward()
    torch.testing.assert_close(mine, [p.grad for p in rnn.parameters()], **tolerance(F64))
    assert padded.grad is not None
    wanted = torch.cat([padded.grad[:n, b] for b, n in enumerate((3, 0, 5, 1))])
    torch.testing.assert_close(nested.grad.values(), wanted, **tolerance(F64))


def test_jagged_tokens_and_views_with_holes() -> None:
    rnn = bptt.nn.RNN(9, H, dtype=F64)
    rows = [torch.randint(9, (n,)) for n in (2, 4)]
    output, h_n = rnn(torch.nested.nested_tensor(rows, layout=torch.jagged))
    torch.testing.assert_close(output.unbind()[1], rnn(rows[1])[0], **tolerance(F64))
    torch.testing.assert_close(h_n[:, 0], rnn(rows[0])[1], **tolerance(F64))
    values = torch.randn(6, 9, dtype=F64)
    holed = torch.nested.nested_tensor_from_jagged(values, torch.tensor([0, 3, 6]), torch.tensor([1, 2]))
    output, h_n = rnn(holed)
    torch.testing.assert_close(h_n[:, 1], rnn(values[3:5])[1], **tolerance(F64))
    assert not output.values()[[1, 2, 5]].any()


def test_first_and_second_derivatives_with_lengths_and_resets() -> None:
    rnn = bptt.nn.RNN(2, 3, 2, bidirectional=True, learn_h0=True, dtype=F64)
    x, hx = torch.randn(3, 3, 2, dtype=F64, requires_grad=True), torch.randn(4, 3, 3, dtype=F64, requires_grad=True)
    reset = torch.zeros(3, 3, dtype=torch.bool)
    reset[2, 0] = reset[0, 1] = True

    def run(x: Tensor, hx: Tensor, *_: Tensor) -> Any:
        return rnn(x, hx, lengths=[3, 2, 0], reset=reset)

    assert torch.autograd.gradcheck(run, (x, hx, *rnn.parameters()))
    assert torch.autograd.gradgradcheck(run, (x, hx, *rnn.parameters()))


@pytest.mark.parametrize(("num_layers", "bidirectional", "batch_first"), STACKS)
def test_states_of_all_layers(num_layers: int, bidirectional: bool, batch_first: bool) -> None:
    _, rnn = pair_of(num_layers, bidirectional, batch_first)
    x = torch.randn(T, B, I, dtype=F64)
    x = x.transpose(0, 1) if batch_first else x
    output, h_n, layers = rnn(x, return_all_layers=True)
    assert len(layers) == num_layers
    assert layers[-1] is output
    below = x
    for k, states in enumerate(layers):
        one = bptt.nn.RNN(below.shape[-1], H, batch_first=batch_first, bidirectional=bidirectional, dtype=F64)
        own = {name: value for name, value in rnn.state_dict().items() if f"_l{k}" in name}
        one.load_state_dict({name.replace(f"_l{k}", "_l0"): value for name, value in own.items()})
        assert torch.equal(states, one(below)[0])
        below = states
    torch.testing.assert_close((output, h_n), rnn(x), rtol=0, atol=0)
    grads = torch.autograd.grad(torch.cat(layers, -1).square().sum(), list(rnn.parameters()))
    assert all(grad.abs().sum() > 0 for grad in grads)
    lengths = torch.tensor([3, 0, T, 1, 5])
    cut = rnn(x, lengths=lengths, return_all_layers=True)[2]
    assert not cut[0].transpose(0, 1)[3 if not batch_first else 1].isnan().any()
    real = torch.arange(T)[:, None] < lengths
    assert all(not (c.transpose(0, 1) if batch_first else c)[~real].any() for c in cut)
    packed = rnn(pack_padded_sequence(x, [T] * B, batch_first), return_all_layers=True)
    torch.testing.assert_close(
        [torch.nn.utils.rnn.pad_packed_sequence(p, batch_first)[0] for p in packed[2]], list(layers), rtol=0, atol=0
    )


def test_states_below_are_those_before_dropout() -> None:
    rnn = bptt.nn.RNN(I, H, 2, dropout=0.9)
    x = torch.randn(T, B, I)
    states = rnn(x, return_all_layers=True)[2]
    assert torch.equal(states[0], rnn.eval()(x, return_all_layers=True)[2][0])


def test_padding_and_resets_cost_what_real_steps_cost() -> None:
    starts, no_reset = torch.arange(4), torch.zeros(4, 100, dtype=torch.bool)
    runs = segments(starts, 4, torch.tensor([3, 0, 100, 1]), no_reset, torch.device("cpu"))
    assert sum(runs.batch_sizes) == len(runs.places) == 104
    every_tenth = torch.arange(100).expand(4, 100) % 10 == 0
    runs = segments(starts, 4, torch.full((4,), 100), every_tenth, torch.device("cpu"))
    assert runs.batch_sizes == [40] * 10


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m, x: m(x, lengths=[1, 2]), r"one integer for each of the 3 rows .* got torch.int64 of shape \(2,\)"),
        (lambda m, x: m(x, lengths=torch.ones(3)), r"one integer for each of the 3 rows .* got torch.float32"),
        (lambda m, x: m(x[:, 0], lengths=[3, 2]), r"unbatched input must be one integer.* of shape \(2,\)"),
        (
            lambda m, x: torch.vmap(lambda x, n: m(x, lengths=n)[0])(x[None], torch.ones(1, 3, dtype=torch.int64)),
            "under torch.vmap lengths= must be the same for all samples",
        ),
        (
            lambda m, x: torch.vmap(lambda x, r: m(x, reset=r)[0])(x[None], torch.ones(1, 4, 3).bool()),
            "under torch.vmap reset= must be the same for all samples",
        ),
        (
            lambda m, x: m(torch.nested.as_nested_tensor([x[:I, 0], x[:, 0]], layout=torch.jagged).transpose(1, 2)),
            "must have its ragged axis, that of time, after the batch",
        ),
        (lambda m, x: m(x, lengths=[1, 2, 5]), r"lengths must lie in \[0, 4\], .* got 1 to 5"),
        (lambda m, x: m(x, lengths=[1, -2, 4]), r"lengths must lie in \[0, 4\], .* got -2 to 4"),
        (lambda m, x: m(x, reset=torch.zeros(3, 4).bool()), r"shape \(4, 3\), \(time, batch\) .* shape \(3, 4\)"),
        (lambda m, x: m(x, reset=torch.zeros(4, 3)), r"reset must hold booleans .* got torch.float32"),
        (
            lambda m, x: m(pack_padded_sequence(x, [4] * 3), lengths=[1] * 3),
            "has its lengths in itself.*pad_packed",
        ),
        (
            lambda m, x: m(torch.nested.as_nested_tensor(list(x), layout=torch.jagged), lengths=[4]),
            r"got layout=torch\.jagged, lengths=\. For",
        ),
    ],
)
def test_mistakes_are_explained(call: Callable[..., Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(bptt.nn.RNN(I, H), torch.zeros(4, 3, I))


def test_lists_are_lengths_and_resets_and_an_empty_one_is_a_batch_of_none() -> None:
    rnn, x = bptt.nn.RNN(I, H), torch.randn(4, 3, I)
    mask = torch.rand(4, 3) < 0.5
    torch.testing.assert_close(rnn(x, reset=mask.tolist()), rnn(x, reset=mask), rtol=0, atol=0)
    torch.testing.assert_close(rnn(x[:, 0], reset=mask[:, 0].tolist()), rnn(x[:, 0], reset=mask[:, 0]), rtol=0, atol=0)
    torch.testing.assert_close(rnn(x[:, 0], lengths=3), rnn(x[:, 0], lengths=[3]), rtol=0, atol=0)
    assert rnn(x[:, :0], lengths=[])[0].shape == (4, 0, H)
