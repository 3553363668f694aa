"""Published cells, typed in the language of `bptt.sheet`. ⟨k⟩ stands for `x_t W_xk + h_{t-1} W_hk + b_k`.

What cannot be typed, and why, is in `NOT_TYPED`.
"""

import re

_SHORT = {
    # Elman and what stays close to it
    "irnn": "h_t = relu(⟨h⟩)",
    "leaky": "α : constant = 0.1\nh_t = (1 − α) ⊙ h_{t-1} + α ⊙ relu(⟨h⟩)",
    "fastrnn": "p, q : scalar\nα = σ(p); β = σ(q)\nh_t = α ⊙ tanh(⟨h⟩) + β ⊙ h_{t-1}",
    "ctrnn": "w_τ : vector\ns = exp(−w_τ)\nh_t = h_{t-1} + s ⊙ (tanh(⟨h⟩) − h_{t-1})",
    "antisymmetric": "ε : constant = 0.1; γ : constant = 0.01\nM = W_hh − W_hhᵀ − γ ⊙ I\n"
    "h_t = h_{t-1} + ε ⊙ tanh(x_t W_xh + h_{t-1} M + b_h)",
    "gated antisymmetric": "ε : constant = 0.1; γ : constant = 0.01\nM = W_hh − W_hhᵀ − γ ⊙ I\n"
    "z_t = σ(x_t W_xz + h_{t-1} M + b_z)\nh_t = h_{t-1} + ε ⊙ z_t ⊙ tanh(x_t W_xh + h_{t-1} M + b_h)",
    "lipschitz": "β : constant = 0.75; γ : constant = 0.01; ε : constant = 0.1\n"
    "M = (1 − β) ⊙ (V_M + V_Mᵀ) + β ⊙ (V_M − V_Mᵀ) − γ ⊙ I\n"
    "W = (1 − β) ⊙ (V_W + V_Wᵀ) + β ⊙ (V_W − V_Wᵀ) − γ ⊙ I\n"
    "h_t = h_{t-1} + ε ⊙ (h_{t-1} M + tanh(h_{t-1} W + x_t W_xh + b_h))",
    "multiplicative rnn": "m_t = (x_t W_xm) ⊙ (h_{t-1} W_hm)\nh_t = tanh(m_t W_mh + x_t W_xh + b_h)",
    "multiplicative integration": "α, β, γ : vector = 1\n"
    "h_t = tanh(α ⊙ (x_t W_xh) ⊙ (h_{t-1} W_hh) + β ⊙ (h_{t-1} W_hh) + γ ⊙ (x_t W_xh) + b_h)",
    "scrn": "α : constant = 0.95\ns : size S\ns_t = (1 − α) ⊙ (x_t W_xs) + α ⊙ s_{t-1}\n"
    "h_t = σ(s_t W_sh + x_t W_xh + h_{t-1} W_hh)",
    "cornn": "δ : constant = 0.1; γ : constant = 1.2; ε : constant = 0.8\n"
    "z_t = z_{t-1} + δ ⊙ (tanh(h_{t-1} W_hz + z_{t-1} W_zz + x_t W_xz + b_z) − γ ⊙ h_{t-1} − ε ⊙ z_{t-1})\n"
    "h_t = h_{t-1} + δ ⊙ z_t",
    "unicornn": "δ : constant = 0.1; α : constant = 0.9\nu, v : vector\ns = σ(v)\n"
    "z_t = z_{t-1} − δ ⊙ s ⊙ (tanh(u ⊙ h_{t-1} + x_t W_xz + b_z) + α ⊙ h_{t-1})\nh_t = h_{t-1} + δ ⊙ s ⊙ z_t",
    "lem": "δ : constant = 0.5\np_t = δ ⊙ σ(⟨p⟩); q_t = δ ⊙ σ(⟨q⟩)\n"
    "z_t = (1 − p_t) ⊙ z_{t-1} + p_t ⊙ tanh(h_{t-1} W_hz + x_t W_xz + b_z)\n"
    "h_t = (1 − q_t) ⊙ h_{t-1} + q_t ⊙ tanh(z_t W_zh + x_t W_xh + b_h)",
    # one or two gates
    "atr": "p_t = x_t W_xp + b_p; q_t = h_{t-1} W_hq + b_q\nh_t = σ(p_t + q_t) ⊙ p_t + σ(p_t − q_t) ⊙ h_{t-1}",
    "bistable": "u_a, u_c : vector\na_t = 1 + tanh(x_t W_xa + u_a ⊙ h_{t-1}); c_t = σ(x_t W_xc + u_c ⊙ h_{t-1})\n"
    "h_t = c_t ⊙ h_{t-1} + (1 − c_t) ⊙ tanh(x_t W_xh + a_t ⊙ h_{t-1})",
    "neuromodulated bistable": "a_t = 1 + tanh(x_t W_xa + h_{t-1} W_ha); c_t = σ(x_t W_xc + h_{t-1} W_hc)\n"
    "h_t = c_t ⊙ h_{t-1} + (1 − c_t) ⊙ tanh(x_t W_xh + a_t ⊙ h_{t-1})",
    "chaos free": "h_t = σ(⟨p⟩) ⊙ tanh(h_{t-1}) + σ(⟨q⟩) ⊙ tanh(x_t W_xh)",
    "light gru": "z_t = σ(⟨z⟩)\nh_t = z_t ⊙ h_{t-1} + (1 − z_t) ⊙ relu(⟨n⟩)",
    "light recurrent unit": "f_t = σ(⟨f⟩)\nh_t = (1 − f_t) ⊙ h_{t-1} + f_t ⊙ tanh(x_t W_xh + b_h)",
    "minimal rnn": "z_t = tanh(x_t W_xz + b_z); u_t = σ(h_{t-1} W_hu + z_t W_zu + b_u)\n"
    "h_t = u_t ⊙ h_{t-1} + (1 − u_t) ⊙ z_t",
    "min gru": "z_t = σ(x_t W_xz + b_z)\nh_t = (1 − z_t) ⊙ h_{t-1} + z_t ⊙ (x_t W_xn + b_n)",
    "star": "z_t = tanh(x_t W_xz + b_z); k_t = σ(⟨k⟩)\nh_t = tanh((1 − k_t) ⊙ h_{t-1} + k_t ⊙ z_t)",
    "sgrn": "f_t = σ(⟨f⟩)\nh_t = tanh((1 − f_t) ⊙ (x_t W_xh + b_h) + f_t ⊙ h_{t-1})",
    "ugrnn": "g_t = σ(⟨g⟩)\nh_t = g_t ⊙ h_{t-1} + (1 − g_t) ⊙ tanh(⟨c⟩)",
    "strongly typed rnn": "f_t = σ(x_t W_xf + b_f)\nh_t = f_t ⊙ h_{t-1} + (1 − f_t) ⊙ (x_t W_xh)",
    "strongly typed gru": "k : size I\nk_t = x_t\nf_t = σ(x_t W_xf + k_{t-1} W_kf + b_f)\n"
    "q_t = tanh(x_t W_xq + k_{t-1} W_kq)\n"
    "z_t = x_t W_xz + k_{t-1} W_kz\ns_t = f_t ⊙ s_{t-1} + (1 − f_t) ⊙ z_t\nh_t = s_t ⊙ q_t",
    "fastgrnn": "w_ζ, w_ν : scalar\nV_1 : size R\nζ = σ(w_ζ); ν = σ(w_ν); W = V_1 V_2\nm_t = x_t W + h_{t-1} W_hh\n"
    "z_t = σ(m_t + b_z)\nh_t = (ζ ⊙ (1 − z_t) + ν) ⊙ tanh(m_t + b_n) + z_t ⊙ h_{t-1}",
    "mut1": "z_t = σ(x_t W_xz + b_z); r_t = σ(⟨r⟩)\n"
    "h_t = z_t ⊙ tanh((r_t ⊙ h_{t-1}) W_hn + tanh(x_t) + b_n) + (1 − z_t) ⊙ h_{t-1}",
    "mut2": "z_t = σ(⟨z⟩); r_t = σ(x_t + h_{t-1} W_hr + b_r)\n"
    "h_t = z_t ⊙ tanh((r_t ⊙ h_{t-1}) W_hn + x_t W_xn + b_n) + (1 − z_t) ⊙ h_{t-1}",
    "mut3": "z_t = σ(x_t W_xz + tanh(h_{t-1}) W_hz + b_z); r_t = σ(⟨r⟩)\n"
    "h_t = z_t ⊙ tanh((r_t ⊙ h_{t-1}) W_hn + x_t W_xn + b_n) + (1 − z_t) ⊙ h_{t-1}",
    "recurrent highway, two deep": "s_t = σ(⟨g⟩) ⊙ tanh(⟨u⟩) + (1 − σ(⟨g⟩)) ⊙ h_{t-1}\n"
    "v_t = σ(s_t W_sw + b_w)\nh_t = v_t ⊙ tanh(s_t W_sv + b_v) + (1 − v_t) ⊙ s_t",
    "softmax gate": "s_t = softmax(⟨s⟩)\nh_t = (1 − s_t) ⊙ h_{t-1} + s_t ⊙ tanh(⟨c⟩)",
    "gru-d": "m, e : input I; d : input I; μ : vector\nγ_t = exp(−max(d_t W_dg + b_g, 0))\n"
    "k_t = m_t ⊙ x_t + (1 − m_t) ⊙ (exp(−relu(d_t ⊙ μ)) ⊙ e_t)\nu_t = γ_t ⊙ h_{t-1}\n"
    "r_t = σ(k_t W_xr + u_t W_hr + m_t W_mr + b_r); z_t = σ(k_t W_xz + u_t W_hz + m_t W_mz + b_z)\n"
    "h_t = (1 − z_t) ⊙ u_t + z_t ⊙ tanh(k_t W_xn + (r_t ⊙ u_t) W_hn + m_t W_mn + b_n)",
    # two states
    "lstm of 1997": "c_t = c_{t-1} + σ(⟨i⟩) ⊙ tanh(⟨g⟩)\nh_t = σ(⟨q⟩) ⊙ tanh(c_t)",
    "coupled lstm": "f_t = σ(⟨f⟩)\nc_t = f_t ⊙ c_{t-1} + (1 − f_t) ⊙ tanh(⟨g⟩)\nh_t = σ(⟨q⟩) ⊙ tanh(c_t)",
    "janet": "β : constant = 1\naf_t = ⟨f⟩\nh_t = σ(af_t) ⊙ h_{t-1} + (1 − σ(af_t − β)) ⊙ tanh(⟨g⟩)",
    "ran": "c_t = σ(⟨i⟩) ⊙ (x_t W_xc) + σ(⟨f⟩) ⊙ c_{t-1}\nh_t = tanh(c_t)",
    "multiplicative lstm": "m_t = (x_t W_xm) ⊙ (h_{t-1} W_hm)\n"
    "c_t = σ(x_t W_xf + m_t W_mf + b_f) ⊙ c_{t-1} + σ(x_t W_xi + m_t W_mi + b_i) ⊙ tanh(x_t W_xg + m_t W_mg + b_g)\n"
    "h_t = σ(x_t W_xq + m_t W_mq + b_q) ⊙ tanh(c_t)",
    "working memory lstm": "c_t = σ(⟨f⟩ + tanh(c_{t-1} W_cf)) ⊙ c_{t-1} + σ(⟨i⟩ + tanh(c_{t-1} W_ci)) ⊙ tanh(⟨g⟩)\n"
    "h_t = σ(⟨q⟩ + tanh(c_t W_cq)) ⊙ tanh(c_t)",
    "layer norm lstm": "g_c, β_c : vector = 1\nc_t = σ(norm(⟨f⟩)) ⊙ c_{t-1} + σ(norm(⟨i⟩)) ⊙ tanh(norm(⟨g⟩))\n"
    "h_t = σ(norm(⟨q⟩)) ⊙ tanh(g_c ⊙ norm(c_t) + β_c)",
    "zoneout lstm": "m, k : rows\ns_t = σ(⟨f⟩) ⊙ c_{t-1} + σ(⟨i⟩) ⊙ tanh(⟨g⟩)\nc_t = m ⊙ c_{t-1} + (1 − m) ⊙ s_t\n"
    "h_t = k ⊙ h_{t-1} + (1 − k) ⊙ (σ(⟨q⟩) ⊙ tanh(s_t))",
    "phased lstm": "k : input\ns_t = σ(⟨f⟩) ⊙ c_{t-1} + σ(⟨i⟩) ⊙ tanh(⟨g⟩)\nc_t = k_t ⊙ s_t + (1 − k_t) ⊙ c_{t-1}\n"
    "h_t = k_t ⊙ (σ(⟨q⟩) ⊙ tanh(s_t)) + (1 − k_t) ⊙ h_{t-1}",
    "mogrifier lstm, two rounds": "k : size I\nk_t = 2 ⊙ σ(h_{t-1} W_hk) ⊙ x_t; p_t = 2 ⊙ σ(k_t W_kp) ⊙ h_{t-1}\n"
    "c_t = σ(k_t W_xf + p_t W_hf + b_f) ⊙ c_{t-1} + σ(k_t W_xi + p_t W_hi + b_i) ⊙ tanh(k_t W_xg + p_t W_hg + b_g)\n"
    "h_t = σ(k_t W_xq + p_t W_hq + b_q) ⊙ tanh(c_t)",
    "sru": "v_f, v_r : vector\nf_t = σ(x_t W_xf + v_f ⊙ c_{t-1} + b_f); r_t = σ(x_t W_xr + v_r ⊙ c_{t-1} + b_r)\n"
    "c_t = f_t ⊙ c_{t-1} + (1 − f_t) ⊙ (x_t W_xc)\nh_t = r_t ⊙ c_t + (1 − r_t) ⊙ x_t",
    "nas": "p_t = tanh(σ(⟨0⟩) ⊙ relu(⟨1⟩)); q_t = tanh(σ(⟨2⟩) + relu((x_t W_x3) ⊙ (h_{t-1} W_h3)))\n"
    "r_t = tanh(tanh(⟨4⟩) ⊙ σ(⟨5⟩)); s_t = σ(tanh(⟨6⟩) + σ(⟨7⟩))\n"
    "c_t = tanh(p_t + c_{t-1}) ⊙ q_t\nh_t = tanh(c_t ⊙ tanh(r_t + s_t))",
    "slstm": "l_t = ⟨f⟩ + m_{t-1}; ai_t = ⟨i⟩; m_t = max(l_t, ai_t)\ni_t = exp(ai_t − m_t); f_t = exp(l_t − m_t)\n"
    "c_t = f_t ⊙ c_{t-1} + i_t ⊙ tanh(⟨z⟩); n_t = f_t ⊙ n_{t-1} + i_t\nh_t = σ(⟨q⟩) ⊙ (c_t / n_t)",
    # continuous time and state spaces
    "liquid, one substep": "w_τ, e : vector\nδ : constant = 0.2\nk = softplus(w_τ)\nf_t = σ(⟨h⟩)\n"
    "h_t = (h_{t-1} + δ ⊙ f_t ⊙ e) / (1 + δ ⊙ (k + f_t))",
    "closed-form continuous": "d : input\ns_t = σ(⟨u⟩ ⊙ d_t + ⟨w⟩)\nh_t = (1 − s_t) ⊙ tanh(⟨p⟩) + s_t ⊙ tanh(⟨q⟩)",
    "diagonal state space": "w_λ, v : vector\nλ = exp(−exp(w_λ))\ns : size S\n"
    "s_t = λ ⊙ s_{t-1} + x_t W_xs\nh_t = s_t W_sh + x_t W_xh + v",
    "legendre memory, learned": "m : size M\ne_x, e_h, e_m, b_m : vector\n"
    "u_t = sum(e_x ⊙ x_t) + sum(e_h ⊙ h_{t-1}) + sum(e_m ⊙ m_{t-1})\nm_t = m_{t-1} W_mm + u_t ⊙ b_m\n"
    "h_t = tanh(x_t W_xh + h_{t-1} W_hh + m_t W_mh)",
}  # fmt: skip

PUBLISHED = {name: re.sub(r"⟨(\w)⟩", r"(x_t W_x\1 + h_{t-1} W_h\1 + b_\1)", text) for name, text in _SHORT.items()}

NOT_TYPED = {
    "Jordan network": "reads the output o_{t-1} of the network around it",
    "clockwork RNN": "which units move depends on the number of the step",
    "convolutional LSTM": "its products are convolutions",
    "expRNN, unitary RNN": "their matrices are matrix exponentials, or complex",
    "matrix LSTM (mLSTM), fast weights, neural Turing machine": "their states are matrices",
    "nonsaturating recurrent unit": "a row is made longer and reshaped",
    "fast-slow RNN": "a layer of cells inside each step; each of them can be typed",
    "long expressive memory with learned step counts, adaptive computation time": "the number of substeps is data",
    "block-diagonal heads of sLSTM": "the matrix has a pattern of zeros",
}
