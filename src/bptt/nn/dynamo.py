"""torch.compile goes through `RNN` as through any module.

Dynamo, its tracer, refuses every torch.nn.RNN and with it every subclass, unless its setting `allow_rnn` is on for all
of them, torch.nn.LSTM included. Here it is on while dynamo looks at one of ours, and for nobody else. Dynamo is loaded
by torch.compile, seconds after torch, so this waits until then.
"""

from types import ModuleType
from typing import Any

from bptt.arrival import when_imported
from bptt.nn.rnn import RNN

BUILDER = "torch._dynamo.variables.builder"


def admit() -> None:
    """Make dynamo take instances of `RNN`, at once or as soon as it is imported."""
    when_imported(BUILDER, _admit_to)


def _admit_to(builder: ModuleType) -> None:
    refuse = builder.VariableBuilder.wrap_module

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, RNN):
            return refuse(self, value)
        with builder.config.patch(allow_rnn=True):
            return refuse(self, value)

    builder.VariableBuilder.wrap_module = wrap_module
