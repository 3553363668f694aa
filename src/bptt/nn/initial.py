"""How the recurrent weights begin.

With torch's own draw, uniform in ±1/sqrt(H), a plain network is blind beyond some ten steps before it is trained: the
gradient shrinks by half at every step. The others keep it longer.

"torch"         U(±1/sqrt(H)) for all parameters, bit for bit what torch.nn.RNN draws
"orthogonal"    W_hhᵀ W_hh = 1, uniform among such (Saxe et al., 2014)
"identity"      W_hh = 1, meant for relu (Le, Jaitly, Hinton, 2015)
"spectral:ρ"    normal numbers scaled so that the largest |eigenvalue| of W_hh is ρ (Jaeger, 2001)

All but "torch" begin with zero biases; the input weights are torch's in any case.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bptt.errors import InputError, did_you_mean
from bptt.sheet import Cell
from bptt.sheet.expressions import Name, Product, Transposed, names, walk
from bptt.sheet.tokens import spelled


def checked(init: Any) -> str | dict[str, str | float]:
    """With the names of parameters as a sheet spells them; InputError for what is neither a way to begin nor a dict of
    such and numbers."""
    if isinstance(init, Mapping):
        for parameter, how in init.items():
            if not isinstance(parameter, str):
                raise InputError(f"init= names parameters, as in {{'b_f': 1}}; got {parameter!r} for a name.")
            if isinstance(how, str):
                checked(how)
            elif not isinstance(how, Real) or isinstance(how, bool) or not math.isfinite(how):
                raise InputError(
                    "a parameter begins with a number or in a way that has a name, 'torch', 'orthogonal', 'identity', "
                    f"'spectral:1.0'; got init[{parameter!r}] = {how!r}. Anything else: copy_ into the parameter later."
                )
        return {spelled(parameter): how for parameter, how in init.items()}
    name, _, radius = init.partition(":") if isinstance(init, str) else ("", "", "")
    if init not in ("torch", "orthogonal", "identity") and not (name == "spectral" and _is_radius(radius)):
        raise InputError(
            "init must be 'torch', 'orthogonal', 'identity' or 'spectral:' and the spectral radius, a number above 0, "
            f"as in 'spectral:1.0', or a dict with such a way or a number for single parameters; got {init!r}"
        )
    return init


def check_names(cell: Cell, init: str | Mapping[str, str | float]) -> None:
    """InputError for a dict that names what is no parameter of the cell."""
    known = [name for name, given in cell.sheet.given.items() if given.learned]
    for name in () if isinstance(init, str) else init:
        if name not in known:
            raise InputError(
                f"init= says how parameters begin, which are {', '.join(known)}; got {name!r}."
                + did_you_mean(name, known)
            )


@torch.no_grad()
def fill(
    cell: Cell,
    init: str | Mapping[str, str | float],
    parameters: Mapping[str, Sequence[Tensor]],
    as_torch: Callable[[Tensor], object] | None = None,
) -> None:
    """Fills the parameters of a layer as `init` and the text of its cell say.

    parameters  by their names in the sheet; a parameter that is a sum has several tensors, of which the first is filled
    as_torch    fills a tensor as torch does; None where it has
    """
    sheet, of_all = cell.sheet, init if isinstance(init, str) else "torch"
    recurrent = {
        matrix.name
        for line in sheet.steps
        for e in walk(line.value)
        if isinstance(e, Product)
        and isinstance(matrix := e.right.of if isinstance(e.right, Transposed) else e.right, Name)
        if not any(name.name in sheet.inputs for name in names(e.left))
    }
    squares = {name for name in recurrent if sheet.shapes[name] == ("H", "H")}
    recurrent = recurrent if of_all == "orthogonal" else squares or recurrent
    for name, (tensor, *others) in parameters.items():
        how, start = None if isinstance(init, str) else init.get(name), sheet.given[name].start
        if how is None and start is not None:
            how = start
        elif how is None and of_all != "torch":
            how = of_all if name in recurrent else 0.0 if tensor.dim() == 1 else None
        if how is None or how == "torch":
            for each in (tensor, *others):
                if as_torch is not None:
                    as_torch(each)
            continue
        draw(tensor, how, name) if isinstance(how, str) else torch.nn.init.constant_(tensor, float(how))
        for other in others:
            torch.nn.init.zeros_(other)


@torch.no_grad()
def draw(matrix: Tensor, init: str, name: str = "weight_hh") -> None:
    """Fills a matrix, square but for "orthogonal", in one of the ways other than torch's; InputError for others."""
    if matrix.dim() != 2 or (init != "orthogonal" and matrix.shape[0] != matrix.shape[1]):
        raise InputError(
            f"init {init!r} draws {'' if init == 'orthogonal' else 'square '}matrices, and {name} has the shape "
            f"{tuple(matrix.shape)}. Let it begin with a number or with 'torch'."
        )
    if matrix.is_meta or not matrix.numel():
        return
    made = torch.eye(*matrix.shape, dtype=torch.float64, device="cpu")
    if init == "orthogonal":
        torch.nn.init.orthogonal_(made)
    elif init != "identity":
        torch.nn.init.normal_(made)
        made *= float(init.partition(":")[2]) / torch.linalg.eigvals(made).abs().max()
    matrix.copy_(made)


def _is_radius(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
