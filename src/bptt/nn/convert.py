"""A model that holds torch.nn.RNN goes on as it is, on the sweeps of this package."""

from typing import TypeVar

import torch
from torch.nn.utils import parametrize

from bptt.nn.cell import RNNCell
from bptt.nn.rnn import RNN

Model = TypeVar("Model", bound=torch.nn.Module)
OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {torch.nn.RNN: RNN, torch.nn.RNNCell: RNNCell}


def convert(model: Model) -> Model:
    """Makes every torch.nn.RNN and torch.nn.RNNCell in a model, itself included, one of this package.

    The modules stay the same objects with the same parameters, buffers and hooks, so optimisers and whoever else holds
    them need not know; only how they compute changes. Other modules, subclasses of torch.nn.RNN among them, are left
    alone. Returns the model.

    Raises TypeError for anything but a module, and ValueError for a module that is parametrized already
    (torch.nn.utils.parametrize): convert it before.

    >>> model = convert(torch.nn.ModuleDict({"encoder": torch.nn.RNN(3, 5)}))
    >>> type(model["encoder"]).__module__
    'bptt.nn.rnn'
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"a model to convert must be a torch.nn.Module; got {type(model).__name__}")
    modules = list(model.named_modules())
    for name, module in modules:
        if parametrize.is_parametrized(module) and type(module).__bases__[0] in OURS:
            raise ValueError(
                f"a parametrized module has a class of its own and cannot be converted; got {name or 'the model'}. "
                "Call bptt.convert first and parametrize then."
            )
    for _, module in modules:
        if type(module) in OURS:
            object.__setattr__(module, "__class__", OURS[type(module)])
    return model
