// What each instruction set provides: the arithmetic of one time step, as a table of functions.
//
// All of it works on one layout. A matrix in panels is cut into strips of columns as wide as a vector register; element
// (r, c) lies at  at[(c / lanes) * stride + r * lanes + c % lanes],  zero beyond the last column. Weights in panels are
// read as whole registers; states in panels give the scalars of one step at fixed distances.
#pragma once

#include <cstddef>

#include "contract.hpp"

namespace bptt {

template <class Real>
struct Panels {
    Real* at;
    std::size_t stride;  // elements from one panel to the next
};

// next = φ(a + previous W), for `rows` rows and panels [first, last) of the columns.
template <class Real>
struct ForwardStep {
    std::size_t rows, H, first, last;
    Activation activation;
    Panels<const Real> W;         // [H, H]
    Panels<const Real> previous;  // [rows, H]  h_{t-1}
    Panels<Real> next;            // [rows, H]  h_t
    const Real* a;                // [rows, H] row-major
    Real* h;                      // [rows, H] row-major; may be a
    Real* total;                  // [rows, H] row-major or null; may be a
};

// da = (dh + future W) φ'(h); without `future` it is zero.
template <class Real>
struct BackwardStep {
    std::size_t rows, H, first, last;
    Activation activation;
    Panels<const Real> W;       // [H, H]  W_hhᵀ
    Panels<const Real> future;  // [rows, H]  ∂a_{t+1}, or null
    Panels<Real> next;          // [rows, H]  ∂a_t
    const Real* dh;             // [rows, H] row-major
    const Real* h;              // [rows, H] row-major
    Real* da;                   // [rows, H] row-major; may be dh
    Real* total;                // [rows, H] row-major or null; may be dh
};

// to = from W, by way of `scratch`.
template <class Real>
struct Product {
    std::size_t rows, inner, columns, first, last;
    Panels<const Real> W;     // [inner, columns]
    Panels<const Real> from;  // [rows, inner]
    Panels<Real> scratch;     // [rows, columns]
    Real* to;                 // [rows, columns] row-major
};

template <class Real>
struct Kernels {
    std::size_t lanes;
    void (*forward_step)(const ForwardStep<Real>&);
    void (*backward_step)(const BackwardStep<Real>&);
    void (*product)(const Product<Real>&);
    void (*pack)(const Matrix<Real>& matrix, std::size_t rows, std::size_t columns, const Panels<Real>& panels);
    void (*activate)(Activation, const Real* a, Real* h, std::size_t count);
};

template <class Real>
const Kernels<Real>& kernels();

}  // namespace bptt
