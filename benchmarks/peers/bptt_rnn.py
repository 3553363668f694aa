"""bptt.nn.RNN, LSTM and GRU: ours, called exactly as those of torch.nn are."""

from importlib import metadata

import torch

import bptt
from benchmarks.cases import Case, Mode
from benchmarks.peers import Prepared
from benchmarks.peers.module import prepare_module, prepare_packed_module
from bptt.engine import choose

ENGINE = choose("cpu", torch.float32)
VERSION = f"bptt {metadata.version('bptt')} ({ENGINE.name}) on torch {torch.__version__}"


def prepare(case: Case, mode: Mode) -> Prepared | None:
    return prepare_module(bptt.nn, case, mode)


def prepare_packed(case: Case) -> Prepared:
    return prepare_packed_module(bptt.nn, case)
