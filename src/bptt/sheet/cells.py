"""The cells that are built in. A cell is its equations, and nothing else."""

from bptt.errors import InputError
from bptt.sheet.functions import TYPED


def elman(
    function: str = "tanh",
    *,
    leak: float | None = None,
    residual: bool = False,
    norm: bool = False,
    dropout: bool = False,
    bias: bool = True,
) -> str:
    """The plain cell with any of its options.

    leak      the share λ of the new state; the rest of the old one stays
    residual  h_{t-1} is added inside φ
    norm      layer norm of a_t, with γ and β
    dropout   drop(h_{t-1}) before W_hh (Gal & Ghahramani, 2016)
    bias      b_h, and β of the layer norm
    """
    if function not in TYPED:
        raise InputError(f"The function of a plain cell is one of {', '.join(TYPED)}; got {function!r}.")
    kinds, lines = [f"φ : function = {function}"], []
    past = "drop(h_{t-1})" if dropout else "h_{t-1}"
    lines.append(f"a_t = x_t W_xh + {past} W_hh" + " + b_h" * bias)
    inside = "a_t"
    if norm:
        kinds += ["γ : vector = 1"] + ["β : vector = 0"] * bias
        lines.append("n_t = norm(a_t)")
        inside = "γ ⊙ n_t" + " + β" * bias
    if residual:
        inside += " + h_{t-1}"
    if leak is None:
        lines.append(f"h_t = φ({inside})")
    else:
        kinds.append(f"λ : constant = {leak}")
        lines += [f"f_t = φ({inside})", "h_t = (1 − λ) ⊙ h_{t-1} + λ ⊙ f_t"]
    return "\n".join([*kinds, *lines]) + "\n"


def lstm(*, projection: bool = False, dropout: bool = False, bias: bool = True) -> str:
    """Long short-term memory.

    projection  h_t is made of the S hidden units by W_kh; Sak, Senior and Beaufays, Long short-term memory recurrent
                neural network architectures for large scale acoustic modeling, 2014
    dropout     drop(h_{t-1}) before the matrices of h (Gal & Ghahramani, 2016)
    bias        b_i and so on
    """
    past = "s_t" if dropout else "h_{t-1}"
    gates = [
        f"a{gate}_t = x_t W_x{gate} + {past} W_h{gate}{f' + b_{gate}' * bias};   {gate}_t = {function}(a{gate}_t)\n"
        for gate, function in (("i", "σ"), ("f", "σ"), ("g", "tanh"), ("q", "σ"))
    ]
    output = "k_t = q_t ⊙ u_t\nh_t = k_t W_kh" if projection else "h_t = q_t ⊙ u_t"
    before = "c : size S\n" * projection + "s_t = drop(h_{t-1})\n" * dropout
    return f"{before}{''.join(gates)}c_t = f_t ⊙ c_{{t-1}} + i_t ⊙ g_t\nu_t = tanh(c_t)\n{output}\n"


def gru(*, dropout: bool = False, bias: bool = True) -> str:
    """Gated recurrent unit, with the reset gate after the product; options as `lstm` has them."""
    past = "s_t" if dropout else "h_{t-1}"
    r, z, xn, hn = (f" + b_{name}" * bias for name in ("r", "z", "xn", "hn"))
    return (
        "s_t = drop(h_{t-1})\n" * dropout
        + f"""\
ar_t = x_t W_xr + {past} W_hr{r};   r_t = σ(ar_t)
az_t = x_t W_xz + {past} W_hz{z};   z_t = σ(az_t)
m_t = {past} W_hn{hn}
an_t = x_t W_xn{xn} + r_t ⊙ m_t;   n_t = tanh(an_t)
h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{{t-1}}
"""
    )


def _of_torch() -> dict[str, tuple[tuple[str, int, int], ...]]:
    found: dict[str, tuple[tuple[str, int, int], ...]] = {}
    for gates in ("h", "ifgq", "rzn"):
        of = len(gates)
        for k, gate in enumerate(gates):
            found[f"W_x{gate}"] = (("weight_ih", k, of),)
            found[f"W_h{gate}"] = (("weight_hh", k, of),)
            found[f"b_{gate}"] = (("bias_ih", k, of), ("bias_hh", k, of))
    del found["b_n"]  # whose two biases are apart
    found |= {"b_xn": (("bias_ih", 2, 3),), "b_hn": (("bias_hh", 2, 3),), "W_kh": (("weight_hr", 0, 1),)}
    return found | {"γ": (("norm_weight", 0, 1),), "β": (("norm_bias", 0, 1),)}


TORCH = _of_torch()
"""The parameters of the plain cell, lstm and gru in a module of torch: (tensor, which block of its rows, of how many),
matrices transposed; b_h is a sum."""

CELLS = {
    "elman": elman(),
    "lstm": lstm(),
    "gru": gru(),
    "gru-v1": """\
ar_t = x_t W_xr + h_{t-1} W_hr + b_r;   r_t = σ(ar_t)
az_t = x_t W_xz + h_{t-1} W_hz + b_z;   z_t = σ(az_t)
s_t = r_t ⊙ h_{t-1}
an_t = x_t W_xn + s_t W_hn + b_n;   n_t = tanh(an_t)
h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t-1}
""",
    "mgu": """\
af_t = x_t W_xf + h_{t-1} W_hf + b_f;   f_t = σ(af_t)
s_t = f_t ⊙ h_{t-1}
an_t = x_t W_xn + s_t W_hn + b_n;   n_t = tanh(an_t)
h_t = (1 − f_t) ⊙ h_{t-1} + f_t ⊙ n_t
""",
    "peephole": """\
p_i, p_f, p_q : vector
ai_t = x_t W_xi + h_{t-1} W_hi + p_i ⊙ c_{t-1} + b_i;   i_t = σ(ai_t)
af_t = x_t W_xf + h_{t-1} W_hf + p_f ⊙ c_{t-1} + b_f;   f_t = σ(af_t)
ag_t = x_t W_xg + h_{t-1} W_hg + b_g;   g_t = tanh(ag_t)
c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
aq_t = x_t W_xq + h_{t-1} W_hq + p_q ⊙ c_t + b_q;   q_t = σ(aq_t)
u_t = tanh(c_t)
h_t = q_t ⊙ u_t
""",
    "indrnn": """\
u : vector
a_t = x_t W_xh + u ⊙ h_{t-1} + b_h
h_t = relu(a_t)
""",
}

ABOUT = {
    "elman": "The plain recurrent cell. Elman, Finding structure in time, 1990.",
    "lstm": "Long short-term memory, as in torch.nn.LSTM. Hochreiter and Schmidhuber, Long short-term memory, 1997; "
    "its forget gate is from Gers, Schmidhuber and Cummins, Learning to forget, 2000.",
    "gru": "Gated recurrent unit, as in torch.nn.GRU: the reset gate stands after the product. From Cho and others, "
    "Learning phrase representations using RNN encoder-decoder for statistical machine translation, 2014.",
    "gru-v1": "Gated recurrent unit with the reset gate before the product. Cho and others, Learning phrase "
    "representations using RNN encoder-decoder for statistical machine translation, 2014.",
    "mgu": "Minimal gated unit: one gate forgets and lets in. Zhou, Wu, Zhang and Zhou, Minimal gated unit for "
    "recurrent neural networks, 2016.",
    "peephole": "Long short-term memory whose gates see the cell state. Gers, Schraudolph and Schmidhuber, Learning "
    "precise timing with LSTM recurrent networks, 2002.",
    "indrnn": "Independently recurrent network: each unit reads its own past alone. Li, Li, Cook, Zhu and Gao, "
    "Independently recurrent neural network: building a longer and deeper RNN, 2018.",
}
"""Each cell in words, and the paper that it is from."""
