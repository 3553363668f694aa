"""The equation sheet of a recurrent network as data: side A (forward), side B (backward through time).

Sizes: T time steps, B batch rows, I inputs, H hidden units, O outputs. Vectors are rows (`x W`) and time comes first.
`∂u` is short for `∂L/∂u`. Comments, tape, trace, player and messages refer to these tags.
Many-to-one networks have `∂o_t = 0` for every t < T, so only step T feeds B4 and B5.

Source: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 10.2, rewritten for row vectors.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Equation:
    """One line of the sheet: its tag, the quantity it defines, the formula, the shape of that quantity."""

    tag: str
    symbol: str
    formula: str
    shape: tuple[str, ...]
    meaning: str

    @property
    def side(self) -> Literal["A", "B"]:
        return "A" if self.tag.startswith("A") else "B"


SIDE_A = (
    Equation("A1", "x_t", "take x_t and h_{t-1}", ("B", "I"), "the input of this step and the state of the last one"),
    Equation("A2", "a_t", "a_t = x_t W_xh + h_{t-1} W_hh + b_h", ("B", "H"), "pre-activation"),
    Equation("A3", "h_t", "h_t = φ(a_t)", ("B", "H"), "hidden state; φ is tanh, relu, sigmoid or identity"),
    Equation("A4", "h_t", "hand h_t to step t+1", ("B", "H"), "the only thing the future sees"),
    Equation("A5", "o_t", "o_t = h_t W_ho + b_o", ("B", "O"), "output before g"),
    Equation("A6", "ŷ_t", "ŷ_t = g(o_t)", ("B", "O"), "prediction; g is softmax, sigmoid or identity"),
)

SIDE_B = (
    Equation("B1", "L", "L = Σ_t w_t · loss(ŷ_t, y_t)", (), "cross entropy, binary cross entropy or squared error"),
    Equation(
        "B2", "∂ŷ_t/∂o_t", "softmax: ŷ_i (δ_ik − ŷ_k)", ("B", "O", "O"), "Jacobian of g; never materialised in training"
    ),
    Equation(
        "B3", "∂o_t", "∂o_t = w_t (ŷ_t − y_t)", ("B", "O"), "the matched pairs of g and loss; times 2 for squared error"
    ),
    Equation("B4", "∂b_o", "∂b_o = Σ_t Σ_batch ∂o_t", ("O",), "gradient of the output bias"),
    Equation("B5", "∂W_ho", "∂W_ho = Σ_t h_tᵀ ∂o_t", ("H", "O"), "gradient of the output weights"),
    Equation("B6", "∂h_t", "∂h_t = ∂o_t W_hoᵀ + ∂a_{t+1} W_hhᵀ", ("B", "H"), "own output + the future"),
    Equation("B7", "∂a_t", "∂a_t = ∂h_t ⊙ φ'(a_t)", ("B", "H"), "φ' from h_t alone: 1−h², h>0, h(1−h), 1"),
    Equation("B8", "∂b_h", "∂b_h = Σ_t Σ_batch ∂a_t", ("H",), "gradient of the hidden bias"),
    Equation("B9", "∂W_xh", "∂W_xh = Σ_t x_tᵀ ∂a_t", ("I", "H"), "gradient of the input weights"),
    Equation("B10", "∂W_hh", "∂W_hh = Σ_t h_{t-1}ᵀ ∂a_t", ("H", "H"), "gradient of the recurrent weights"),
    Equation(
        "B11", "∂h_{t-1}", "hand ∂a_t W_hhᵀ to step t−1", ("B", "H"), "at t = 1 this is ∂h_0; and ∂x_t = ∂a_t W_xhᵀ"
    ),
)

SHEET = {equation.tag: equation for equation in SIDE_A + SIDE_B}

NOTATIONS = {
    "here": ("a_t", "h_t", "W_xh", "W_hh", "b_h", "W_ho", "b_o"),
    "side A/B posts": ("h(t)", "a(t)", "W_xh", "W_ah", "b_h", "W_ao", "b_o"),
    "d2l": ("–", "H_t", "W_xh", "W_hh", "b_h", "W_hq", "b_q"),
    "Goodfellow": ("a", "h", "Uᵀ", "Wᵀ", "b", "Vᵀ", "c"),
    "PyTorch": ("–", "output / h_n", "weight_ihᵀ", "weight_hhᵀ", "bias_ih + bias_hh", "Linear.weightᵀ", "Linear.bias"),
    "Keras": ("–", "state", "kernel", "recurrent_kernel", "bias", "Dense.kernel", "Dense.bias"),
}  # fmt: skip


def equation(tag: str) -> Equation:
    """The equation with this tag, "A1" to "A6" or "B1" to "B11"; KeyError with the known tags otherwise."""
    if tag not in SHEET:
        raise KeyError(f"equation tags are A1 to A6 and B1 to B11; got {tag!r}")
    return SHEET[tag]


def translate(symbol: str, notation: str) -> str:
    """The name of a symbol of this sheet elsewhere; a symbol that has no other name comes back as it is."""
    if notation not in NOTATIONS:
        raise KeyError(f"notation must be one of {', '.join(NOTATIONS)}; got {notation!r}")
    return dict(zip(NOTATIONS["here"], NOTATIONS[notation], strict=True)).get(symbol, symbol)
