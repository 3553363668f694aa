"""Networks with output feedback: forced, free, and as a coin falls."""

import pytest
import torch
from cases import tolerance
from torch import Tensor

from bptt.errors import InputError
from bptt.nn import RNN, Jordan, Network, State
from bptt.sheet import losses
from bptt.train import forcing, schedules

F64 = torch.float64
T, B, I, H, O = 6, 3, 2, 5, 4


def network(loss: str = "cross_entropy", *, hidden_recurrence: bool = False) -> tuple[Jordan, Tensor, Tensor]:
    torch.manual_seed(4)
    y = {
        "cross_entropy": torch.randint(O, (T, B)),
        "binary_cross_entropy": torch.randint(2, (T, B, O)),
        "squared_error": torch.randn(T, B, O, dtype=F64),
    }[loss]
    return (
        Jordan(I, H, O, loss=loss, dtype=F64, hidden_recurrence=hidden_recurrence),
        torch.randn(T, B, I, dtype=F64),
        y,
    )


def by_definition(net: Jordan, x: Tensor, fed: Tensor, state: State | None = None) -> Tensor:
    """The network's equation step by step; fed[t] is what step t is fed."""
    h = torch.zeros(B, H, dtype=F64) if state is None else state.h[0]
    outputs = []
    for x_t, f in zip(x, fed, strict=True):
        W = {name.removesuffix("_l0"): parameter for name, parameter in net.rnn.named_parameters()}
        past = h @ W["W_hh"] if "W_hh" in W else 0
        h = torch.tanh(x_t @ W["W_xh"] + f @ W["W_fh"] + past + W["b_h"])
        outputs.append(net.readout(h))
    return torch.stack(outputs)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("loss", losses.PAIRS)
def test_teacher_forcing_is_the_equation_with_the_targets_before(loss: str, both: bool) -> None:
    net, x, y = network(loss, hidden_recurrence=both)
    fed = net.as_fed(y)
    o, state = net(x, y)
    expected = by_definition(net, x, torch.cat([torch.zeros(1, B, O, dtype=F64), fed[:-1]]))
    torch.testing.assert_close(o, expected, **tolerance(F64))
    parameters = list(net.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(net.loss(o, y), parameters),
        torch.autograd.grad(net.loss(expected, y), parameters),
        **tolerance(F64),
    )
    first, carried = net(x[:2], y[:2])
    rest, end = net(x[2:], y[2:], carried)
    torch.testing.assert_close(torch.cat([first, rest]), o, **tolerance(F64))
    torch.testing.assert_close(end, state, **tolerance(F64))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("loss", losses.PAIRS)
def test_gradients_flow_through_the_own_output(loss: str, both: bool) -> None:
    net, x, y = network(loss, hidden_recurrence=both)
    o, _ = forcing.free_run(net, x)
    fed = torch.cat([torch.zeros(1, B, O, dtype=F64), losses.output(loss, o)[:-1]])
    torch.testing.assert_close(o, by_definition(net, x, fed), **tolerance(F64))

    def loss_of(*values: Tensor) -> Tensor:
        named = dict(zip(dict(net.named_parameters()), values, strict=True))
        with torch.nn.utils.stateless._reparametrize_module(net, named):
            return net.loss(forcing.free_run(net, x[:3])[0], y[:3])

    assert torch.autograd.gradcheck(loss_of, tuple(p.detach().requires_grad_() for p in net.parameters()))


@pytest.mark.parametrize("feed", ["greedy", "sample"])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_gradients_stop_at_what_was_chosen(loss: str, feed: forcing.Feed) -> None:
    net, x, y = network(loss, hidden_recurrence=True)
    o, state = forcing.free_run(net, x, feed=feed, generator=torch.Generator().manual_seed(1))
    chosen = [forcing.free_run(net, x[: t + 1], feed=feed, generator=torch.Generator().manual_seed(1))[1].fed
              for t in range(T)]  # fmt: skip
    fed = torch.stack([torch.zeros(B, O, dtype=F64), *chosen[:-1]])
    expected = by_definition(net, x, fed)
    torch.testing.assert_close(o, expected, **tolerance(F64))
    assert torch.equal(state.fed, chosen[-1])
    parameters = list(net.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(net.loss(o, y), parameters),
        torch.autograd.grad(net.loss(expected, y), parameters),
        **tolerance(F64),
    )


def test_low_temperature_is_greedy() -> None:
    net, x, _ = network()
    cold, _ = forcing.free_run(net, x, feed="sample", temperature=1e-4)
    torch.testing.assert_close(cold, forcing.free_run(net, x, feed="greedy")[0], **tolerance(F64))


def drawn(chances: list[float], **drawing: float) -> list[float]:
    """The frequencies of what a network writes whose ŷ is always the same."""
    model = Network(RNN(len(chances), 3), len(chances))
    with torch.no_grad():
        model.readout.weight.zero_()
        model.readout.bias.copy_(torch.tensor(chances).log())
    tokens = forcing.continuation(model, torch.tensor([0]), 4000, **drawing)  # pyright: ignore[reportArgumentType]
    return (torch.bincount(torch.tensor(list(tokens)), minlength=len(chances)) / 4000).tolist()


CHANCES = [0.1, 0.4, 0.05, 0.3, 0.15]


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        ({}, CHANCES),
        ({"top_k": 5}, CHANCES),
        ({"top_k": 99, "top_p": 1.0}, CHANCES),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 40 / 85, 0, 30 / 85, 15 / 85]),
        ({"top_p": 0.4}, [0, 1, 0, 0, 0]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [0, 4 / 7, 0, 3 / 7, 0]),  # of 0.85 that k leaves, 0.7 is more than four fifths
        ({"temperature": 0.5, "top_p": 0.6}, [0, 16 / 25, 0, 9 / 25, 0]),
        ({"temperature": 0.5, "top_p": 0.5}, [0, 1, 0, 0, 0]),  # temperature first: 0.16 of 0.285
    ],
)
def test_the_unlikely_is_left_out_and_the_rest_keeps_its_share(
    drawing: dict[str, float], expected: list[float]
) -> None:
    found = drawn(CHANCES, **drawing)
    assert [chance == 0 for chance in found] == [chance == 0 for chance in expected]
    assert found == pytest.approx(expected, abs=0.03)


def test_a_share_that_is_reached_needs_no_more() -> None:
    assert sum(chance > 0 for chance in drawn([0.25] * 4, top_p=0.5)) == 2


def test_what_leaves_nothing_out_draws_the_same() -> None:
    torch.manual_seed(1)
    model, prime = Network(RNN(9, 12), 9), torch.arange(9)
    plain = list(forcing.continuation(model, prime, 200, seed=3))
    assert list(forcing.continuation(model, prime, 200, seed=3, top_p=1.0)) == plain
    few = [list(forcing.continuation(model, prime, 200, seed=3, top_k=3, top_p=0.8)) for _ in range(2)]
    assert few[0] == few[1] != plain
    greedy = list(forcing.continuation(model, prime, 200, temperature=0))
    assert list(forcing.continuation(model, prime, 200, temperature=2, top_k=1, seed=8)) == greedy


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", 0), ("top_k", -3), *(("top_p", p) for p in (0, 1.1, float("nan")))]
)
def test_shares_that_leave_nothing_are_explained(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"{name} must be .*; got {value}"):
        drawn(CHANCES, **{name: value})


def test_scheduled_sampling_goes_from_forced_to_free() -> None:
    net, x, y = network()
    torch.testing.assert_close(forcing.scheduled(net, x, y, 1.0)[0], net(x, y)[0], **tolerance(F64))
    free = forcing.free_run(net, x, feed="greedy")[0]
    torch.testing.assert_close(forcing.scheduled(net, x, y, 0.0, feed="greedy")[0], free, **tolerance(F64))


def test_a_coin_is_thrown_for_each_step_and_each_row() -> None:
    net, _, _ = network("squared_error")
    steps, rows, share = 200, 30, 0.3
    x, y = torch.zeros(steps, rows, I, dtype=F64), torch.full((steps, rows, O), 9.0, dtype=F64)
    told = []
    step = net.step
    net.step = lambda x, state: (told.append(state.fed[:, 0] == 9), step(x, state))[1]  # type: ignore[method-assign]
    forcing.scheduled(net, x, y, share, feed="output", generator=torch.Generator().manual_seed(3))
    truth = torch.stack(told[1:]).double()
    assert truth.mean() == pytest.approx(share, abs=0.03)
    assert truth.mean(0).std() > 0
    assert truth.mean(1).std() > 0
    assert not torch.equal(truth[:, 0], truth[:, 1])


def test_without_an_error_of_its_own_a_network_loses_nothing() -> None:
    net, x, _ = network("squared_error", hidden_recurrence=True)
    y = forcing.free_run(net, x)[0].detach()
    found = forcing.discrepancy(net, x, y, warm_up=2)
    assert found.forced_loss.shape == found.free_loss.shape == found.distance.shape == (T - 2,)
    assert float(torch.stack([found.forced_loss, found.free_loss, found.distance]).abs().max()) < 1e-20
    far = forcing.discrepancy(net, x, y + 1, warm_up=2)
    assert far.distance[0] == 0
    assert (far.distance[1:] > 0).all()


@pytest.mark.parametrize(
    ("schedule", "options"),
    [(schedules.linear, {"steps": 50}), (schedules.exponential, {"k": 0.9}), (schedules.inverse_sigmoid, {"k": 7.0})],
)
def test_schedules_fall_from_one_to_nothing(schedule, options) -> None:
    shares = [schedule(step, **options) for step in range(200)]
    assert shares == sorted(shares, reverse=True)
    assert 0.85 < shares[0] <= 1
    assert 0 <= shares[-1] < 1e-6


def test_what_cannot_be_is_explained() -> None:
    net, x, y = network("squared_error")
    with pytest.raises(InputError, match="squared_error can be fed with output; got 'sample'"):
        forcing.free_run(net, x, feed="sample")
    with pytest.raises(InputError, match=r"probability in \[0, 1\]; got 1.5"):
        forcing.scheduled(net, x, y, 1.5, feed="output")
    with pytest.raises(InputError, match="0 <= warm_up < 6; got 6"):
        forcing.discrepancy(net, x, y, warm_up=6)
    with pytest.raises(InputError, match="every step and row of the inputs, \\(6, 3\\); got \\(5, 3, 4\\)"):
        forcing.scheduled(net, x, y[:-1], 0.5, feed="output")
    with pytest.raises(InputError, match="temperature must be a number above 0; got 0"):
        forcing.free_run(net, x, temperature=0)
    with pytest.raises(InputError, match="k between 0 and 1; got 1"):
        schedules.exponential(3, k=1)
    with pytest.raises(InputError, match="got steps=0"):
        schedules.linear(3, steps=0)
    with pytest.raises(InputError, match=r"k of at least 1; got 0\.5"):
        schedules.inverse_sigmoid(3, k=0.5)
    net, x, _ = network()
    with pytest.raises(ValueError, match=r"lie in \[0, 4\), the number of outputs; got 0 to 4"):
        net(x, torch.arange(T)[:, None].expand(T, B).clamp(max=4))
