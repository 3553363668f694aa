"""torch.compile goes through our subclass of torch.nn.RNN as through any module, and around what no graph can hold.

Dynamo, its tracer, refuses every torch.nn.RNN and with it every subclass, unless its setting `allow_rnn` is on for all
of them, torch.nn.LSTM included. Here it is on while dynamo looks at one of ours, and for nobody else. Dynamo is loaded
by torch.compile, seconds after torch, so this waits until then.
"""

from types import ModuleType
from typing import Any

import torch

from bptt.arrival import when_imported

DYNAMO = "torch._dynamo"
BUILDER = f"{DYNAMO}.variables.builder"


def admit(ours: type[torch.nn.RNNBase]) -> None:
    """Make dynamo take instances of this class, at once or as soon as it is imported."""
    when_imported(BUILDER, lambda builder: _admit_to(builder, ours))


def leave_out(owner: type, method: str, why: str) -> None:
    """Make dynamo call this method between two graphs; where it has to make one graph of all, its error says why."""
    when_imported(DYNAMO, lambda it: setattr(owner, method, it.disable(getattr(owner, method), reason=why)))


def _admit_to(builder: ModuleType, ours: type[torch.nn.RNNBase]) -> None:
    refuse = builder.VariableBuilder.wrap_module

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, ours):
            return refuse(self, value)
        with builder.config.patch(allow_rnn=True):
            return refuse(self, value)

    builder.VariableBuilder.wrap_module = wrap_module
