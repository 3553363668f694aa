"""torch.nn.RNN, LSTM and GRU: the layers most people use.

RNN and GRU are MKL products and one operator for each of several things in every step, the LSTM a call of oneDNN.

Training: the module's forward, then torch.autograd.grad of y with the cotangent dy for all four parameters, the first
states and, in train_dx, x. Inference: the module under torch.no_grad. Tensors for results are allocated by torch in
every call.
"""

import torch

from benchmarks.cases import Case, Mode
from benchmarks.peers import Prepared
from benchmarks.peers.module import prepare_module, prepare_packed_module

VERSION = f"torch {torch.__version__}"


def prepare(case: Case, mode: Mode) -> Prepared | None:
    return prepare_module(torch.nn, case, mode)


def prepare_product(m: int, k: int, n: int) -> Prepared:
    """torch.mm into memory that is already there."""
    a, b, c = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    return Prepared(lambda: torch.mm(a, b, out=c), lambda: {"a": a.numpy(), "b": b.numpy(), "c": c.numpy()})


def prepare_copy(size: int) -> Prepared:
    """Reads and writes `size` bytes in all."""
    source = torch.ones(size // 8)
    target = torch.empty_like(source)
    return Prepared(lambda: target.copy_(source), lambda: {"c": target.numpy()})


def prepare_read(size: int) -> Prepared:
    """Reads `size` bytes."""
    source = torch.ones(size // 4)
    return Prepared(source.max, lambda: {"c": source.max().numpy()})


def prepare_packed(case: Case) -> Prepared:
    return prepare_packed_module(torch.nn, case)
