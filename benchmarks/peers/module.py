"""Torch modules with the face of torch.nn.RNN, LSTM and GRU as competitors: the same lines for theirs and ours."""

from types import ModuleType
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.cases import Array, Case, Mode, inputs
from benchmarks.peers import Prepared


def layer(nn: ModuleType, case: Case, dtype: torch.dtype = torch.float32) -> Any:
    """`nn` has the classes, torch.nn or bptt.nn."""
    given = inputs(case)
    rnn = getattr(nn, case.cell.upper())(case.I, case.H, dtype=dtype)
    values = (given.weight_ih, given.weight_hh, given.bias_ih, given.bias_hh)
    with torch.no_grad():
        for parameter, value in zip(rnn.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return rnn


def first_states(case: Case, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.from_numpy(state)[None].to(dtype) for state in inputs(case).first]


def prepare_module(nn: ModuleType, case: Case, mode: Mode) -> Prepared:
    given = inputs(case)
    rnn, first = layer(nn, case), first_states(case)
    x, dy = torch.from_numpy(given.x), torch.from_numpy(given.dy)
    if mode != "infer":
        wanted = [*(state.requires_grad_() for state in first), *rnn.parameters()]
        if mode == "train_dx":
            wanted.append(x.requires_grad_())
        return _training(rnn, case, x, first, wanted, dy)
    hx = as_hx(first)
    last: dict[str, Any] = {}

    def infer() -> None:
        with torch.no_grad():
            last["y"], last["hx"] = rnn(x, hx)

    def results() -> dict[str, Array]:
        found = {"y": last["y"], **_last_states(case, last["hx"])}
        return {name: tensor.numpy() for name, tensor in found.items()}

    return Prepared(infer, results)


def prepare_packed_module(nn: ModuleType, case: Case, dtype: torch.dtype = torch.float32) -> Prepared:
    """Training on a PackedSequence; in a padded batch half of all steps would be padding."""
    given = inputs(case)
    rnn, first = layer(nn, case, dtype), first_states(case, dtype)
    lengths = torch.linspace(case.T, 0, case.B + 1)[:-1].sub(case.T / case.B / 2).round().clamp(min=1).long()
    x, dy = (torch.from_numpy(array[: lengths[0]]).to(dtype) for array in (given.x, given.dy))
    wanted = [*(state.requires_grad_() for state in first), *rnn.parameters()]
    packed_dy = pack_padded_sequence(dy, lengths).data
    return _training(rnn, case, pack_padded_sequence(x, lengths), first, wanted, packed_dy)


def as_hx(first: list[torch.Tensor]) -> Any:
    return first[0] if len(first) == 1 else tuple(first)


def _last_states(case: Case, hx: Any) -> dict[str, torch.Tensor]:
    states = hx if isinstance(hx, tuple) else (hx,)
    return {f"{name}_n": state[0] for name, state in zip(case.form.states, states, strict=True)}


def _training(
    rnn: Any, case: Case, x: Any, first: list[torch.Tensor], wanted: list[torch.Tensor], dy: torch.Tensor
) -> Prepared:
    """`wanted` is the first states, the four parameters and perhaps x."""
    hx = as_hx(first)
    last: dict[str, Any] = {}

    def train() -> None:
        y, last["hx"] = rnn(x, hx)
        last["y"] = y if isinstance(y, torch.Tensor) else y.data
        last["gradients"] = torch.autograd.grad(last["y"], wanted, dy)

    def results() -> dict[str, Array]:
        d_first, (dW_ih, dW_hh, db_ih, db_hh, *dx) = last["gradients"][: len(first)], last["gradients"][len(first) :]
        found = {"y": last["y"], **_last_states(case, last["hx"]), "dW_ih": dW_ih, "dW_hh": dW_hh}
        found["db"] = torch.cat([db_ih, db_hh[case.shared :]])
        found |= {f"d{name}0": d_state[0] for name, d_state in zip(case.form.states, d_first, strict=True)}
        if dx:
            found["dx"] = dx[0]
        return {name: tensor.detach().numpy() for name, tensor in found.items()}

    return Prepared(train, results)
