"""Engines: what computes a layer forward and backward. `contract` says how they are called, `choose` which one serves.

    reference  PyTorch, any dtype, any device: evaluates the sheet of any cell step by step
    native     C++ on the CPU, float32 and float64: any cell

Beside them stand torch's own kernels, for RNN, LSTM and GRU on devices without an engine of ours (`torch_serves`).
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from bptt.engine import native, reference
from bptt.engine.contract import Engine
from bptt.errors import InputError, SlowEngineWarning

ENGINES = ("native", "reference", "torch")
_NO_CALLERS = (f"{Path(__file__).parents[1]}{os.sep}", f"{Path(torch.__file__).parent}{os.sep}", "<eval_with_key>")


@dataclass(frozen=True)
class Choice:
    """An engine by its name, the reason it was chosen, and whether something faster was out of reach."""

    engine: Engine = field(repr=False)
    name: str
    reason: str
    slow: bool = False


_of_environment = os.environ.get("BPTT_ENGINE")
_asked: ContextVar[str | None] = ContextVar("asked", default=_of_environment)
asked_for = _asked.get
"""The engine that `using` asks for here, or the environment variable BPTT_ENGINE when bptt was imported."""


@contextmanager
def using(engine: str) -> Iterator[None]:
    """The engine for all layers called inside: "native", "reference" or "torch".

    native     the compiled engine; the call of a layer that it cannot serve is a ValueError
    reference  the slow one, which serves every cell, without a warning
    torch      torch's own kernels for `bptt.nn.RNN` with tanh or relu, LSTM, GRU and their cells; all else runs on the
               reference, without a warning

    It decides as the environment variable BPTT_ENGINE does, which it takes the place of. A backward pass runs on the
    engine of its forward pass, except where torch traces or transforms it, which asks again on the way back. Raises
    InputError for other names.

    >>> with bptt.using("reference"):
    ...     output, h_n = rnn(x)
    """
    if engine not in ENGINES:
        raise InputError(f"An engine is one of {', '.join(ENGINES)}; got {engine!r}.")
    token = _asked.set(engine)
    try:
        yield
    finally:
        _asked.reset(token)


def choose(device: str | torch.device, dtype: torch.dtype) -> Choice:
    """The engine for tensors of this device ("cpu", "cuda:0", `tensor.device`) and dtype, whatever the cell, and why.

    `using`, else the environment variable BPTT_ENGINE, read at import, decides by itself: "native",
    "reference", or "torch" for the kernels that torch has for some (`torch_serves`) and the reference for all
    that they lack. Asking warns of nothing; the call of a layer does, once, when the slow engine is the only one that
    can serve. Raises ValueError where "native" is asked for and cannot serve, RuntimeError of torch for no device.

    >>> choose("cpu", torch.float64).name
    'native'
    """
    return _choose(_asked.get(), torch.device(device).type, dtype)


@lru_cache
def _choose(asked: str | None, device: str, dtype: torch.dtype) -> Choice:
    if asked == "reference":
        return Choice(reference, "reference", "it was asked for")
    if asked == "torch":
        return Choice(reference, "reference", "torch's kernels were asked for, which do not serve everything")
    if asked not in (None, "native"):
        raise ValueError(
            f"BPTT_ENGINE must be native, reference or torch; got {asked!r}. Unset it: each layer then runs on the "
            "fastest engine that can serve it."
        )
    obstacle = _obstacle_to_native(device, dtype)
    if obstacle is None:
        return Choice(native, "native", f"{dtype} on the CPU is what the compiled engine is made for")
    if asked == "native":
        raise ValueError(
            f"The native engine was asked for and cannot serve: {obstacle}. Leave out bptt.using('native'), or unset "
            "the environment variable BPTT_ENGINE: each layer then runs on the fastest engine that can serve it."
        )
    return Choice(reference, "reference", obstacle, slow=True)


def serving(device: str, dtype: torch.dtype) -> Engine:
    """The engine that is about to compute a layer: where only the slow one can, a SlowEngineWarning says so once."""
    choice, asker = choose(device, dtype), (device, dtype)
    if choice.slow and asker not in _told:
        _say_slow(choice.reason)
        _told.add(asker)
    return choice.engine


_told: set[tuple[str, torch.dtype]] = set()


def _say_slow(reason: str) -> None:
    warnings.warn(
        f"bptt runs on the slow reference engine: {reason}. The numbers are the same. To run it without this warning: "
        'warnings.filterwarnings("ignore", category=bptt.SlowEngineWarning)',
        SlowEngineWarning,
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """The `stacklevel` at which whoever called this package stands, directly or through torch."""
    frame, level = sys._getframe(1), 1
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NO_CALLERS) and "torchinductor" not in file:
            return level
        frame, level = frame.f_back, level + 1
    return 2


def torch_serves(device: str) -> bool:
    """Whether torch's own kernels compute RNN, LSTM and GRU on this device: where no engine of ours runs but the
    reference.

    They know tanh and relu, numbers as inputs, and layers of one size without options; what they give cannot be
    recorded on a tape.
    """
    asked = _asked.get()
    return asked == "torch" or (asked is None and device != "cpu")


def _obstacle_to_native(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"the compiled engine runs on the CPU only, and the tensors are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"the compiled engine takes float32 and float64, and the tensors are {dtype}"
    return None
