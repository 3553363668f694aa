"""Hooks into Python's imports: work that waits until somebody imports torch, and modules with a second name."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, then: Callable[[Any], None]) -> None:
    """Calls `then` with the module: at once where it is there, else as soon as it has been imported."""
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Arrival(name, then))


class _Arrival:
    """Finds the module as those after it in `sys.meta_path` do; what follows its execution is `then`, once."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        others = (finder.find_spec(fullname, path, target) for finder in later)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            vars(spec.loader)["exec_module"] = self._then_too(spec.loader.exec_module)
        return spec

    def _then_too(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.then(module)

        return exec_module


class _Operators(ModuleType):
    """`torch.ops.bptt` until the first of our operators is looked up: only then is torch told of them."""

    def __getattr__(self, name: str) -> Any:
        ops: Any = sys.modules["torch"].ops
        if vars(ops).get("bptt") is self:
            del ops.bptt
            import_module("bptt.autograd.operators")
        return getattr(ops.bptt, name)


def offer_operators() -> None:
    """`import bptt` is all that a saved program with our operators needs, and does not import torch."""

    def offer(torch: Any) -> None:
        torch.ops.bptt = _Operators("torch.ops.bptt")

    when_imported("torch", offer)


def keep_names(homes: Mapping[str, str]) -> None:
    """`import bptt.losses` gives `bptt.sheet.losses`, for every pair of such names."""
    sys.meta_path.insert(0, _SecondNames(homes))


class _SecondNames:
    def __init__(self, homes: Mapping[str, str]) -> None:
        self.homes = homes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        loader: Any = self
        return ModuleSpec(fullname, loader) if self._home(fullname) else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(self._home(module.__name__))

    def _home(self, fullname: str) -> str:
        package, _, below = fullname.partition(".")
        first, dot, rest = below.partition(".")
        return f"bptt.{self.homes[first]}{dot}{rest}" if package == "bptt" and first in self.homes else ""
