"""Ω: a penalty on gradients that grow or shrink from one step to the one before.

    Ω = Σ_k (‖∂L/∂h_{k+1} · ∂h_{k+1}/∂h_k‖ / ‖∂L/∂h_{k+1}‖ − 1)²

A row with ∂L/∂h_{k+1} = 0 has no ratio and adds nothing, nor has one so small that its digits are lost, below 1e-31 in
float32 and 1e-292 in float64. Of the others the sum over the batch is divided by B.

Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013), equations 9 and
10, with the states h of their published program, where the paper writes it with the sums a.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bptt.engine import using
from bptt.engine.contract import Layout, Weights
from bptt.errors import InputError
from bptt.nn.layers import Layers
from bptt.sheet.plain import plain
from bptt.tape import Tape


def omega(tape: Tape, rnn: Layers) -> Tensor:
    """Ω of a call of plain layers, tanh, relu, sigmoid or identity: a scalar with a gradient for W_hh.

    tape  of the call, after its backward pass: it has the total ∂L/∂h of all steps, h (T, B, H) or packed
    rnn   the module that was called, in whose parameters the gradient ends. Of several layers and directions it is the
          sum of their Ω

    As published, the gradient goes through W_hh in ∂h_{k+1}/∂h_k alone: ∂L/∂h_{k+1} and h are constants. All steps are
    one product. `exact_omega` differentiates everything.

        with bptt.recording() as tapes:
            loss(model(x), y).backward()
        (0.01 * bptt.losses.omega(tapes[0], model.rnn)).backward()

    Raises InputError for cells that are not plain and for tapes of another module; RuntimeError before the backward
    pass.
    """
    tensors = rnn.completed([rnn.tensors_of(k) for k in range(rnn.count)])
    cell = rnn.cell_now()[0]
    of_layers = [Weights(Layout.of(cell, as_torch=rnn.torch_layout), of_layer).by_name() for of_layer in tensors]
    names = plain(cell)
    if names is None:
        raise InputError(
            f"omega is for plain cells, h_t = φ(x_t W_xh + h_{{t-1}} W_hh + b_h); got the cell {cell.name!r}. "
            "exact_omega(rnn, x, loss) takes every cell."
        )
    if [record.h.shape[-1] for record in tape.layers] != [len(weights[names.W_hh]) for weights in of_layers]:
        raise InputError(f"omega wants the module whose call the tape holds; got {tape!r} and {rnn!r}.")
    if not tape.complete:
        raise RuntimeError("∂L/∂h is not known yet: no backward pass has reached every layer; call backward() first")
    return sum(
        (
            _of_rows(record.totals[record.output], record.da, weights[names.W_hh].mT) / record.batch
            for record, weights in zip(tape.layers, of_layers, strict=True)
        ),
        torch.zeros((), dtype=tape.h.dtype, device=tape.h.device),
    )


def exact_omega(rnn: Layers, x: Tensor, loss: Callable[[Tensor], Tensor], hx: Any = None) -> Tensor:
    """Ω of one layer of any cell as a differentiable scalar: its gradient goes through everything that it depends on.

    rnn   one layer in one direction; states of several kinds, h and c, count as one row
    x     as the module takes it, padded, without lengths
    loss  (the module's output) -> L, of operations that can be differentiated twice
    hx    the states before the first step; None: zero

    The layer is computed step by step by the reference, and its backward pass is differentiated again: for T = 100, B =
    20 and H = 50 that takes some fifty times as long as a forward pass, a backward pass and `omega`.

    Raises InputError for stacks, two directions, recurrent dropout in training, and cells whose output is no state.
    """
    cell = rnn.cell_now()[0]
    if rnn.count != 1 or cell.sheet.output not in cell.sheet.states or (rnn.recurrent_dropout and rnn.training):
        raise InputError(
            "exact_omega is for one layer in one direction, whose output is a state, without recurrent dropout; got "
            f"{rnn!r}. Take layers one by one, and eval() where there is dropout."
        )
    time = 1 if rnn.batch_first else 0
    if hx is None:
        B = x.shape[1 - time]
        like = rnn.tensors_of(0)[0]
        states = [like.new_zeros(1, B, width, requires_grad=True) for width in rnn.widths_of_states(0)]
    else:
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        states = [state if state.requires_grad else state.detach().requires_grad_() for state in states]
    entering, leaving = [], []
    with torch.enable_grad(), using("reference"):
        for x_t in x.split(1, time):
            entering += (given := [state.view_as(state) for state in states])
            _, last = rnn(x_t, given[0] if len(given) == 1 else tuple(given))
            leaving += (states := [last] if isinstance(last, Tensor) else list(last))
        h = torch.cat(leaving[:: len(states)])
        L = loss(h.transpose(0, 1) if rnn.batch_first else h)
        found = torch.autograd.grad(
            L, [*leaving, *entering], create_graph=True, allow_unused=True, materialize_grads=True
        )
        after, before = (
            torch.cat([torch.cat(half[s :: len(states)]).flatten(0, 1) for s in range(len(states))], -1)
            for half in (found[: len(leaving)], found[len(leaving) :])
        )
        return _of_rows(after, before) / h.shape[1]


def _of_rows(after: Tensor, before: Tensor, matrix: Tensor | None = None) -> Tensor:
    """Σ (‖before matrix‖ / ‖after‖ − 1)² over rows, scaled first: squares neither overflow nor vanish."""
    after, before = after.flatten(0, -2), before.flatten(0, -2)
    size, known = after.detach().abs().amax(-1, keepdim=True), torch.finfo(after.dtype)
    there = ~(size[:, 0] < known.tiny / known.eps)
    after, before = after[there] / size[there], before[there] / size[there]
    before = before if matrix is None else before @ matrix
    return (before.norm(dim=-1) / after.norm(dim=-1) - 1).square().sum()
