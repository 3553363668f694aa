"""How the recurrent weights begin.

With torch's own draw, uniform in ±1/sqrt(H), a plain network is blind beyond some ten steps before it is trained: the
gradient shrinks by half at every step. The others keep it longer.

"torch"         U(±1/sqrt(H)) for all parameters, bit for bit what torch.nn.RNN draws
"orthogonal"    W_hhᵀ W_hh = 1, uniform among such (Saxe et al., 2014)
"identity"      W_hh = 1, meant for relu (Le, Jaitly, Hinton, 2015)
"spectral:ρ"    normal numbers scaled so that the largest |eigenvalue| of W_hh is ρ (Jaeger, 2001)
"chrono:T"      for gated cells: biases with which a unit remembers for u steps, u uniform in [1, T − 1]: log u of gates
                that keep a state, −log u of those that let new things in; matrices are torch's (Tallec and Ollivier,
                2018)

All but "torch" begin with zero biases otherwise; the input weights are torch's in any case.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bptt.errors import InputError, did_you_mean
from bptt.sheet import Cell
from bptt.sheet.expressions import Call, Expression, Name, Number, Product, Sum, Times, Transposed, names, walk
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
                if how.startswith("chrono"):
                    raise InputError(
                        f"'chrono:' sets the biases of all gates, init={how!r}; got it for {parameter!r} alone."
                    )
            elif not isinstance(how, Real) or isinstance(how, bool) or not math.isfinite(how):
                raise InputError(
                    "a parameter begins with a number or in a way that has a name, 'torch', 'orthogonal', 'identity', "
                    f"'spectral:1.0'; got init[{parameter!r}] = {how!r}. Anything else: copy_ into the parameter later."
                )
        return {spelled(parameter): how for parameter, how in init.items()}
    name, _, number = init.partition(":") if isinstance(init, str) else ("", "", "")
    least = {"spectral": 0, "chrono": 2}.get(name)
    if init not in ("torch", "orthogonal", "identity") and (least is None or not _is_above(least, number)):
        raise InputError(
            "init must be 'torch', 'orthogonal', 'identity', 'spectral:' and the spectral radius, a number above 0, as "
            "in 'spectral:1.0', or for gated cells 'chrono:' and the number of steps to remember, above 2, as in "
            f"'chrono:400'; or a dict with such a way or a number for single parameters; got {init!r}"
        )
    return init


def check_names(cell: Cell, init: str | Mapping[str, str | float]) -> None:
    """InputError for a dict that names what is no parameter of the cell, and for chrono without biases of gates."""
    if isinstance(init, str) and init.startswith("chrono") and not _biases_of_gates(cell):
        raise InputError(
            f"init={init!r} is for gates that keep a state, as f of an LSTM and z of a GRU, and for their biases; got "
            "a cell that has none. Take LSTM or GRU, with their biases; plain cells begin with 'orthogonal'."
        )
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
    gates = _biases_of_gates(cell) if of_all.startswith("chrono") else {}
    times: dict[str, Tensor] = {}
    for name, (tensor, *others) in parameters.items():
        how, start = None if isinstance(init, str) else init.get(name), sheet.given[name].start
        if how is None and start is not None:
            how = start
        elif how is None and of_all != "torch":
            how = of_all if name in (gates or recurrent) else 0.0 if tensor.dim() == 1 else None
        if how is None or how == "torch":
            for each in (tensor, *others):
                if as_torch is not None:
                    as_torch(each)
            continue
        if how == of_all and name in gates:
            state, sign = gates[name]
            u = times.setdefault(state, torch.rand(tensor.shape, dtype=torch.float64, device="cpu"))
            tensor.copy_(sign * (1 + u * (float(of_all.partition(":")[2]) - 2)).log())
        elif isinstance(how, str):
            draw(tensor, how, name)
        else:
            torch.nn.init.constant_(tensor, float(how))
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


def _biases_of_gates(cell: Cell) -> dict[str, tuple[str, int]]:
    """Of each bias that opens or shuts a gate before a state: the state, and whether it keeps, 1, or lets in, -1."""
    lines = {line.name: line.value for line in cell.sheet.steps}
    found: dict[str, tuple[str, int]] = {}
    for state in cell.sheet.states:
        line = lines[state]
        terms = line.terms if isinstance(line, Sum) else ()
        products = [term.factors for sign, term in terms if sign > 0 and isinstance(term, Times)]
        keeps = [Name(state, -1) in factors for factors in products]
        for factors, kept in zip(products, keeps, strict=True):
            for factor in factors if any(keeps) else ():
                match factor:
                    case Name(gate, 0):
                        sign = 1
                    case Sum(((1, Number(1)), (-1, Name(gate, 0)))):
                        sign = -1
                    case _:
                        continue
                for bias in _biases(cell, lines, lines.get(gate)):
                    found[bias] = state, sign if kept else -sign
    return found


def _biases(cell: Cell, lines: Mapping[str, Expression], gate: Expression | None) -> list[str]:
    """The learned vectors that are added in the argument of σ."""
    if not isinstance(gate, Call) or cell.sheet.functions.get(gate.function, gate.function) != "σ":
        return []
    (argument,) = gate.arguments
    if isinstance(argument, Name):
        argument = lines.get(argument.name)
    terms = argument.terms if isinstance(argument, Sum) else ()
    added = [term.name for sign, term in terms if sign > 0 and isinstance(term, Name)]
    return [name for name in added if name in cell.sheet.given and cell.sheet.given[name].learned]


def _is_above(least: float, text: str) -> bool:
    try:
        return least < float(text) < math.inf
    except ValueError:
        return False
