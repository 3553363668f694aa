"""torch.compile goes through `RNN` as through any module.

Dynamo, its tracer, refuses every torch.nn.RNN and with it every subclass, unless its setting `allow_rnn` is on for all
of them, torch.nn.LSTM included. Here it is on while dynamo looks at one of ours, and for nobody else. Dynamo is loaded
by torch.compile, seconds after torch, so this waits until then.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from bptt.nn.rnn import RNN

BUILDER = "torch._dynamo.variables.builder"


def admit() -> None:
    """Make dynamo take instances of `RNN`, at once or as soon as it is imported."""
    if BUILDER in sys.modules:
        _admit_to(sys.modules[BUILDER])
    else:
        sys.meta_path.insert(0, _AfterImport())


def _admit_to(builder: ModuleType) -> None:
    refuse = builder.VariableBuilder.wrap_module

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, RNN):
            return refuse(self, value)
        with builder.config.patch(allow_rnn=True):
            return refuse(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


class _AfterImport(MetaPathFinder, Loader):
    """Imports the builder as it is, then opens it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        module.__loader__ = self.loader
        _admit_to(module)
