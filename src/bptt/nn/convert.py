"""A model that holds torch's recurrent modules goes on as it is, on the engines of this package; and the way back."""

import sys
import warnings
from collections import Counter
from typing import Any, TypeVar

import torch
from torch.nn.utils import parametrize

from bptt.errors import InputError
from bptt.nn.cell import GRUCell, LSTMCell, OneStep, RNNCell
from bptt.nn.drop_in import DropIn
from bptt.nn.gated import GRU, LSTM
from bptt.nn.rnn import RNN

Model = TypeVar("Model", bound=torch.nn.Module)
OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.RNN: RNN, torch.nn.LSTM: LSTM, torch.nn.GRU: GRU,
    torch.nn.RNNCell: RNNCell, torch.nn.LSTMCell: LSTMCell, torch.nn.GRUCell: GRUCell,
}  # fmt: skip
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
NONLINEARITIES = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}


def convert(model: Model, *, back: bool = False, quiet: bool = False) -> Model:
    """Makes every RNN, LSTM, GRU of torch in a model, their cells and the model itself, one of this package.

    back   the other way: ours become torch's own classes, for torch.jit.script, quantisation, tools that know exact
           classes, and files for people without bptt
    quiet  says nothing. Else a line on stderr says which layers were converted

    The modules stay the same objects with the same parameters, buffers and hooks, so optimisers and whoever else holds
    them need not know; only how they compute changes. Parametrized ones (torch.nn.utils.parametrize) stay parametrized.
    Other modules, subclasses of torch.nn.LSTM among them, are left alone. Returns the model.

    Warns where there is nothing to convert. Raises TypeError for anything but a module; with back=True InputError for
    modules that compute what torch's do not, and then nothing has been changed. What decides no number, checkpoint= and
    init=, is forgotten on the way back.

    >>> model = convert(torch.nn.ModuleDict({"encoder": torch.nn.LSTM(3, 5)}))
    bptt.convert: 1 LSTM layer
    >>> type(model["encoder"]).__module__
    'bptt.nn.gated'
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"a model to convert must be a torch.nn.Module; got {type(model).__name__}")
    classes = THEIRS if back else OURS
    found = [module for module in model.modules() if _class_of(module) in classes]
    for module in found if back else ():
        _check_torch_has_all(module)
    for module in found:
        _become(module, classes[_class_of(module)])
    if not quiet:
        _say(model, found, back)
    return model


def _class_of(module: torch.nn.Module) -> type[Any]:
    """Its own, below the one that torch.nn.utils.parametrize made for it."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _become(module: Any, other: type[Any]) -> None:
    if other is RNN:
        module.__dict__["nonlinearity"] = NONLINEARITIES[str(module.mode)]  # torch computes by the mode
    if other is torch.nn.RNN:
        module.mode = f"RNN_{module.nonlinearity.upper()}"
    new = _parametrized(type(module), other) if parametrize.is_parametrized(module) else other
    object.__setattr__(module, "__class__", new)
    if issubclass(other, DropIn | OneStep):
        module.prepare_cells()
    else:
        for name in ("_cells", "_cell", "init", "checkpoint"):
            module.__dict__.pop(name, None)


def _check_torch_has_all(module: Any) -> None:
    beyond = {"leak": 1.0, "residual": False, "norm": None, "recurrent_dropout": 0.0, "learn_h0": False}
    strange = [name for name, usual in beyond.items() if getattr(module, name, usual) != usual]
    if not isinstance(module.hidden_size, int):
        strange.append("hidden_size for each layer")
    if getattr(module, "nonlinearity", "tanh") not in ("tanh", "relu"):
        strange.append(f"nonlinearity={module.nonlinearity!r}")
    if strange:
        raise InputError(
            f"torch's {THEIRS[_class_of(module)].__name__} has no {' and no '.join(strange)}; got {module}. Only "
            "models without such modules can be converted back."
        )


def _say(model: torch.nn.Module, found: list[Any], back: bool) -> None:
    if found:
        counts: Counter[str] = Counter()
        for module in found:
            name = (_class_of(module) if back else THEIRS[_class_of(module)]).__name__
            counts[name if name.endswith("Cell") else f"{name} layer"] += getattr(module, "num_layers", 1)
        said = ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())
        print(f"bptt.convert: {said}{', torch again' * back}", file=sys.stderr)
        return
    already = [module for module in model.modules() if _class_of(module) in (OURS if back else THEIRS)]
    if already:
        print(f"bptt.convert: all {len(already)} recurrent modules are converted already", file=sys.stderr)
        return
    theirs = tuple(THEIRS if back else OURS)
    relatives = sorted({type(module).__name__ for module in model.modules() if isinstance(module, theirs)})
    warnings.warn(
        f"bptt.convert found no {'RNN, LSTM, GRU of bptt' if back else 'torch.nn.RNN, LSTM, GRU'} or their cells in "
        f"{type(model).__name__}: nothing was converted."
        + (f" Subclasses are left alone, here {', '.join(relatives)}." if relatives else ""),
        stacklevel=3,
    )


def _parametrized(theirs: type, ours: type) -> type:
    """The class that torch.nn.utils.parametrize made for a module, with ours below it."""
    own = {name: value for name, value in vars(theirs).items() if name not in ("__dict__", "__weakref__")}
    return type(theirs.__name__, (ours,), own)
