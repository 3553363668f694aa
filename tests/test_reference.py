"""The reference sweeps, judged by a loop written out from the sheet, by autograd and by float64 gradcheck."""

import pytest
import torch
from cases import ACTIVATIONS, LENGTHS, UGLY, batch_sizes, tolerance
from torch import Tensor

from bptt.engine import packing, reference

PHI = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a}
F64 = torch.float64


def by_rows(a: list[Tensor], W_hh: Tensor, h0: Tensor, activation: str) -> list[Tensor]:
    """A2 and A3 for each row by itself: a[b] (T_b, H) -> states (T_b, H)."""
    states = []
    for steps, h in zip(a, h0, strict=True):
        row = []
        for a_t in steps:
            h = PHI[activation](a_t + h @ W_hh)
            row.append(h)
        states.append(torch.stack(row) if row else steps)
    return states


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "B", "I", "H"), UGLY)
def test_dense_forward_is_the_sheet(T: int, B: int, I: int, H: int, reverse: bool, activation: str) -> None:
    a, W_hh, h0 = torch.randn(T, B, H, dtype=F64), torch.randn(H, H, dtype=F64) / H, torch.randn(B, H, dtype=F64)
    h = reference.forward_sweep(a, W_hh, h0, activation, reverse=reverse)
    in_time = a.flip(0) if reverse else a
    expected = by_rows([in_time[:, b] for b in range(B)], W_hh, h0, activation)
    expected = torch.stack(expected, 1) if B else a
    torch.testing.assert_close(h[:-1].flip(0) if reverse else h[1:], expected, **tolerance(F64))
    torch.testing.assert_close(h[-1] if reverse else h[0], h0, rtol=0, atol=0)


def pack(rows: list[Tensor]) -> Tensor:
    return torch.cat([torch.stack([row[t] for row in rows if t < len(row)]) for t in range(len(rows[0]))])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_forward_is_each_row_alone(lengths: list[int], reverse: bool, activation: str) -> None:
    H, B = 5, len(lengths)
    rows = [torch.randn(length, H, dtype=F64) for length in lengths]
    W_hh, h0 = torch.randn(H, H, dtype=F64) / H, torch.randn(B, H, dtype=F64)
    h = reference.forward_sweep(pack(rows), W_hh, h0, activation, batch_sizes=batch_sizes(lengths), reverse=reverse)
    expected = by_rows([row.flip(0) if reverse else row for row in rows], W_hh, h0, activation)
    expected = pack([row.flip(0) if reverse else row for row in expected])
    torch.testing.assert_close(h[:-B] if reverse else h[B:], expected, **tolerance(F64))
    torch.testing.assert_close(h[-B:] if reverse else h[:B], h0, rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, *LENGTHS])
def test_backward_is_the_gradient_of_forward(lengths: list[int] | None, reverse: bool, activation: str) -> None:
    T, B, H = (6, 3, 5) if lengths is None else (max(lengths), len(lengths), 5)
    sizes = None if lengths is None else batch_sizes(lengths)
    a = torch.randn((T, B, H) if sizes is None else (sum(sizes), H), dtype=F64, requires_grad=True)
    W_hh, h0 = torch.randn(H, H, dtype=F64) / H, torch.randn(B, H, dtype=F64, requires_grad=True)
    h = reference.forward_sweep(a, W_hh, h0, activation, batch_sizes=sizes, reverse=reverse)
    first = 1 if sizes is None else B
    y = h[: len(h) - first] if reverse else h[first:]
    dh = torch.randn_like(y)
    expected = torch.autograd.grad(y, (a, h0), dh)
    da, dh0 = reference.backward_sweep(dh, h.detach(), W_hh, activation, batch_sizes=sizes, reverse=reverse)
    torch.testing.assert_close(da, expected[0], **tolerance(F64))
    torch.testing.assert_close(dh0, expected[1], **tolerance(F64))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("lengths", [None, [4, 2, 1]])
def test_gradcheck_of_both_sweeps(lengths: list[int] | None, activation: str) -> None:
    T, B, H = 4, 3, 2
    sizes = None if lengths is None else batch_sizes(lengths)
    steps = (T, B, H) if sizes is None else (sum(sizes), H)
    a, W_hh, h0, dh = (torch.randn(s, dtype=F64, requires_grad=True) for s in (steps, (H, H), (B, H), steps))
    states = (T + 1, B, H) if sizes is None else (steps[0] + B, H)
    h = torch.rand(states, dtype=F64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, W_hh, h0: reference.forward_sweep(a, W_hh, h0, activation, batch_sizes=sizes), (a, W_hh, h0)
    )
    assert torch.autograd.gradcheck(
        lambda dh, h, W_hh: reference.backward_sweep(dh, h, W_hh, activation, batch_sizes=sizes), (dh, h, W_hh)
    )


@pytest.mark.parametrize("lengths", [None, [4, 2, 1]])
def test_total_and_out_receive_the_whole_story(lengths: list[int] | None) -> None:
    T, B, H = 4, 3, 5
    sizes = None if lengths is None else batch_sizes(lengths)
    a = torch.randn((T, B, H) if sizes is None else (sum(sizes), H), dtype=F64)
    W_hh, h0 = torch.randn(H, H, dtype=F64) / H, torch.randn(B, H, dtype=F64)
    plain = reference.forward_sweep(a, W_hh, h0, "sigmoid", batch_sizes=sizes)
    out, total = torch.empty_like(plain), torch.empty_like(a)
    h = reference.forward_sweep(a, W_hh, h0, "sigmoid", batch_sizes=sizes, out=out, total=total)
    assert h is out
    torch.testing.assert_close(h, plain, rtol=0, atol=0)
    y = h[1 if sizes is None else B :]
    torch.testing.assert_close(torch.sigmoid(total), y, **tolerance(F64))

    dh = torch.randn_like(y)
    plain_da, plain_dh0 = reference.backward_sweep(dh, h, W_hh, "sigmoid", batch_sizes=sizes)
    da_out, dh_total = torch.empty_like(dh), torch.empty_like(dh)
    da, dh0 = reference.backward_sweep(dh, h, W_hh, "sigmoid", batch_sizes=sizes, out=da_out, total=dh_total)
    assert da is da_out
    torch.testing.assert_close((da, dh0), (plain_da, plain_dh0), rtol=0, atol=0)
    torch.testing.assert_close(dh_total * y * (1 - y), da, **tolerance(F64))


def test_a_may_lie_where_h_goes() -> None:
    T, B, H = 4, 3, 5
    a, W_hh, h0 = torch.randn(T, B, H, dtype=F64), torch.randn(H, H, dtype=F64) / H, torch.randn(B, H, dtype=F64)
    expected = reference.forward_sweep(a, W_hh, h0, "tanh")
    out = torch.empty(T + 1, B, H, dtype=F64)
    out[1:] = a
    torch.testing.assert_close(reference.forward_sweep(out[1:], W_hh, h0, "tanh", out=out), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_dtype(dtype: torch.dtype) -> None:
    a, W_hh, h0 = (torch.randn(s, dtype=dtype) for s in ((3, 2, 4), (4, 4), (2, 4)))
    assert reference.forward_sweep(a, W_hh, h0, "tanh").dtype == dtype


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="tanh, relu, sigmoid, identity; got 'softplus'"):
        reference.forward_sweep(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1), "softplus")


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, *LENGTHS])
def test_layer_backward_is_the_gradient_of_layer_forward(
    lengths: list[int] | None, reverse: bool, tokens: bool
) -> None:
    T, B, I, H = (6, 3, 4, 5) if lengths is None else (max(lengths), len(lengths), 4, 5)
    sizes = None if lengths is None else batch_sizes(lengths)
    steps = (T, B) if sizes is None else (sum(sizes),)
    x = torch.randint(I, steps) if tokens else torch.randn(*steps, I, dtype=F64, requires_grad=True)
    shapes = {"h0": (1, B, H), "weight_ih": (H, I), "weight_hh": (H, H), "bias_ih": (H,), "bias_hh": (H,)}
    leaves = {name: torch.randn(shape, dtype=F64, requires_grad=True) for name, shape in shapes.items()}
    y = reference.forward_layer(x, **leaves, activation="tanh", batch_sizes=sizes, reverse=reverse)
    h_n = packing.last_states(packing.with_h0(y, leaves["h0"], B, sizes, reverse), B, sizes, reverse)[None]
    dy, dh_n = torch.randn_like(y), torch.randn_like(h_n)
    wanted = {"dx": x} | {f"d{name}": leaves[name] for name in ("h0", "weight_ih", "weight_hh")}
    wanted["dbias"] = leaves["bias_hh"]
    if tokens:
        del wanted["dx"]
    expected = torch.autograd.grad([y, h_n], list(wanted.values()), [dy, dh_n])
    got = {name: torch.empty_like(leaf) for name, leaf in wanted.items()}
    with torch.no_grad():
        reference.backward_layer(
            dy,
            dh_n,
            y,
            leaves["h0"],
            x,
            leaves["weight_ih"],
            leaves["weight_hh"],
            "tanh",
            batch_sizes=sizes,
            reverse=reverse,
            accumulate=False,
            **got,
        )
    torch.testing.assert_close(tuple(got.values()), expected, **tolerance(F64))
