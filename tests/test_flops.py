"""What torch's counter says of our layers: products alone, as it counts those of torch.mm."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import bptt

T, B, I, H = 6, 2, 5, 3


def counted(model: torch.nn.Module, x: Tensor, *, is_backward: bool = True) -> int:
    with FlopCounterMode(display=False) as counter:
        output = model(x)[0]
        if is_backward:
            output.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("model", "gates"), [(bptt.nn.RNN(I, H), 1), (bptt.nn.LSTM(I, H), 4), (bptt.nn.GRU(I, H), 3)], ids=repr
)
def test_products_are_counted(model: torch.nn.Module, gates: int) -> None:
    x = torch.randn(T, B, I)
    of_x, of_h = (2 * T * B * rows * H * gates for rows in (I, H))
    assert counted(model, x, is_backward=False) == of_x + of_h
    assert counted(model, x) == 2 * of_x + 3 * of_h
    assert counted(model, x.requires_grad_()) == 3 * (of_x + of_h)
    model.requires_grad_(False)
    assert counted(model, x) == 2 * (of_x + of_h)


def test_tokens_cost_nothing_and_projections_something() -> None:
    x = torch.randint(I, (T, B))
    model = bptt.nn.LSTM(I, H, proj_size=2)
    assert counted(model, x, is_backward=False) == 2 * T * B * (4 * 2 * H + H * 2)


def test_it_is_what_torch_counts_of_products() -> None:
    """Of the plain cell written out."""
    rnn, x = bptt.nn.RNN(I, H, bias=False), torch.randn(T, B, I, requires_grad=True)

    def written_out(x: Tensor) -> Tensor:
        h, states = torch.zeros(B, H), []
        for x_t in x:
            h = torch.tanh(x_t @ rnn.get_parameter("weight_ih_l0").mT + h @ rnn.get_parameter("weight_hh_l0").mT)
            states.append(h)
        return torch.stack(states)

    with FlopCounterMode(display=False) as counter:
        written_out(x).sum().backward()
    of_first = 2 * B * H * H  # of zero states, whose gradient nobody asks for
    assert counted(rnn, x) == counter.get_total_flops() + of_first
