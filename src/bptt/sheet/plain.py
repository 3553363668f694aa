"""Which cells are the plain one, h = φ(x W_xh + h_{t-1} W_hh + b_h), whatever the names in their text."""

from functools import lru_cache
from typing import NamedTuple

from bptt.sheet import Cell
from bptt.sheet.expressions import Call, Name, Product, Sum

_ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "σ": "sigmoid", "identity": "identity"}


class Plain(NamedTuple):
    """The names of a plain cell: h_t = φ(a_t), a_t = x_t W_xh + h_{t-1} W_hh + b_h, with a bias or without."""

    activation: str
    h: str
    a: str
    W_xh: str
    W_hh: str
    b_h: str | None


@lru_cache
def plain(cell: Cell) -> Plain | None:
    """None where a cell is not plain."""
    match cell.derivation.steps:
        case [products, states]:
            pass
        case _:
            return None
    match products.value, states.value:
        case Sum(terms), Call(function, (Name(a, 0),)) if a == products.name:
            activation = _ACTIVATIONS.get(cell.sheet.functions.get(function, function))
        case _:
            return None
    found: dict[str, str] = {}
    for sign, term in terms:
        match term:
            case Product(Name("x", 0), Name(matrix)):
                found["W_xh"] = matrix
            case Product(Name(h, -1), Name(matrix)) if h == states.name:
                found["W_hh"] = matrix
            case Name(b, None) if cell.sheet.widths.get(b) == cell.derivation.widths[a]:
                found["b_h"] = b
            case _:
                return None
        if sign < 0:
            return None
    if activation is None or len(found) != len(terms) or not {"W_xh", "W_hh"} <= found.keys():
        return None
    return Plain(activation, states.name, a, found["W_xh"], found["W_hh"], found.get("b_h"))
