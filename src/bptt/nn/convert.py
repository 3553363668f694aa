"""A model that holds torch.nn.RNN goes on as it is, on the sweeps of this package."""

from typing import Any, TypeVar

import torch
from torch.nn.utils import parametrize

from bptt.nn.cell import RNNCell
from bptt.nn.rnn import RNN

Model = TypeVar("Model", bound=torch.nn.Module)
OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {torch.nn.RNN: RNN, torch.nn.RNNCell: RNNCell}
NONLINEARITIES = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}


def convert(model: Model) -> Model:
    """Makes every torch.nn.RNN and torch.nn.RNNCell in a model, itself included, one of this package.

    The modules stay the same objects with the same parameters, buffers and hooks, so optimisers and whoever else holds
    them need not know; only how they compute changes. Parametrized ones (torch.nn.utils.parametrize) stay parametrized.
    Other modules, subclasses of torch.nn.RNN among them, are left alone. Returns the model.

    Raises TypeError for anything but a module.

    >>> model = convert(torch.nn.ModuleDict({"encoder": torch.nn.RNN(3, 5)}))
    >>> type(model["encoder"]).__module__
    'bptt.nn.rnn'
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"a model to convert must be a torch.nn.Module; got {type(model).__name__}")
    for module in model.modules():
        theirs = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
        if theirs not in OURS:
            continue
        if theirs is torch.nn.RNN:
            module.__dict__["nonlinearity"] = NONLINEARITIES[str(module.mode)]  # torch computes by the mode
        ours = OURS[theirs] if theirs is type(module) else _parametrized(type(module), OURS[theirs])
        object.__setattr__(module, "__class__", ours)
        converted: Any = module
        converted.prepare_cells()
    return model


def _parametrized(theirs: type, ours: type) -> type:
    """The class that torch.nn.utils.parametrize made for a module, with ours below it."""
    own = {name: value for name, value in vars(theirs).items() if name not in ("__dict__", "__weakref__")}
    return type(theirs.__name__, (ours,), own)
