"""A torch module with the face of torch.nn.RNN as a competitor: the same lines for theirs and ours."""

from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.cases import Array, Case, Inputs, Mode, inputs
from benchmarks.peers import Prepared


def prepare_module(rnn: torch.nn.RNN, case: Case, mode: Mode) -> Prepared:
    given = inputs(case)
    parameters = _set_parameters(rnn, given)
    x, dy, h0 = torch.from_numpy(given.x), torch.from_numpy(given.dy), torch.from_numpy(given.h0)[None]
    if mode == "infer":
        last: dict[str, Any] = {}

        def infer() -> None:
            with torch.no_grad():
                last["y"], h_n = rnn(x, h0)
                last["h_n"] = h_n

        return Prepared(infer, lambda: {"y": last["y"].numpy(), "h_n": last["h_n"][0].numpy()})
    wanted = [h0.requires_grad_(), *parameters]
    if mode == "train_dx":
        wanted.append(x.requires_grad_())
    return _training(rnn, x, h0, wanted, dy)


def prepare_packed_module(rnn: torch.nn.RNN, case: Case) -> Prepared:
    """Training on a PackedSequence; in a padded batch half of all steps would be padding."""
    given = inputs(case)
    parameters = _set_parameters(rnn, given)
    lengths = torch.linspace(case.T, 0, case.B + 1)[:-1].sub(case.T / case.B / 2).round().clamp(min=1).long()
    arrays = (torch.from_numpy(array).to(parameters[0].dtype) for array in (given.x, given.dy, given.h0[None]))
    x, dy, h0 = arrays
    return _training(
        rnn,
        pack_padded_sequence(x[: lengths[0]], lengths),
        h0,
        [h0.requires_grad_(), *parameters],
        pack_padded_sequence(dy[: lengths[0]], lengths).data,
    )


def _set_parameters(rnn: torch.nn.RNN, given: Inputs) -> list[torch.nn.Parameter]:
    parameters = list(rnn.parameters())
    values = (given.weight_ih, given.weight_hh, given.bias_ih, given.bias_hh)
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return parameters


def _training(rnn: torch.nn.RNN, x: Any, h0: torch.Tensor, wanted: list[torch.Tensor], dy: torch.Tensor) -> Prepared:
    """`wanted` is h_0, the four parameters and perhaps x."""
    last: dict[str, Any] = {}

    def train() -> None:
        y, h_n = rnn(x, h0)
        y = y if isinstance(y, torch.Tensor) else y.data
        last["y"], last["h_n"] = y, h_n[0]
        last["gradients"] = torch.autograd.grad(y, wanted, dy)

    def results() -> dict[str, Array]:
        dh0, dW_ih, dW_hh, db, _, *dx = last["gradients"]
        found = {"y": last["y"], "h_n": last["h_n"], "dh0": dh0[0], "dW_ih": dW_ih, "dW_hh": dW_hh, "db": db}
        if dx:
            found["dx"] = dx[0]
        return {name: tensor.detach().numpy() for name, tensor in found.items()}

    return Prepared(train, results)
