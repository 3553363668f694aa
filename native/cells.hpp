// The contract of cells with options, beside contract.hpp, whose conventions hold. Only the sweeps are here: the
// input's share of A2 and the weight gradients are a library's products. Of what follows, a cell has any part or none:
//
//   a_t = x_t W_xh + (m ⊙ h_{t-1}) W_hh + b_h        m: recurrent dropout, one mask for all steps of a row
//   n_t = (a_t - mean) / sqrt(variance + ε)          layer norm over the H units of a row
//   z_t = γ ⊙ n_t + β + h_{t-1}                      a residual connection in time; without norm a_t + h_{t-1}
//   f_t = φ(z_t)
//   h_t = (1-α) h_{t-1} + α f_t                      a leak
#pragma once

#include "contract.hpp"

namespace bptt {

template <class Real>
struct Cell {
    Activation activation;
    Real leak;  // α; 1: none
    bool residual;
    const Real* mask;         // [B, H] or null: all ones
    const Real* norm_weight;  // [H] γ, or null: no layer norm
    const Real* norm_bias;    // [H] β, or null: zero
    Real epsilon;
};

template <class Real>
struct ForwardCells {
    Steps steps;
    std::size_t H;
    Cell<Real> cell;
    Matrix<const Real> W_hh;  // [H, H]
    const Real* a;            // [N, H]  x_t W_xh + b_h
    const Real* h0;           // [B, H]
    Real* h;                  // [N, H]
    Real* f;                  // [N, H]; without leak it may be h
    Real* normalised;         // [N, H]  n_t, or null without layer norm
    Real* scale;              // [N]  1 / sqrt(variance + ε), or null without layer norm
};

template <class Real>
struct BackwardCells {
    Steps steps;
    std::size_t H;
    Cell<Real> cell;
    Matrix<const Real> W_hh;             // [H, H]
    const Real* dh;                      // [N, H]  cotangent of h_t from above
    const Real *f, *normalised, *scale;  // as the forward sweep left them
    Real* da;                            // [N, H]
    Real* dz;   // [N, H], from which the gradients of γ and β are sums; without layer norm may be da
    Real* dh0;  // [B, H]
};

template <class Real>
void forward_cells(const ForwardCells<Real>&, std::size_t threads);
template <class Real>
void backward_cells(const BackwardCells<Real>&, std::size_t threads);

}  // namespace bptt
