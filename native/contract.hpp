// The contract of the engine: what each function takes, where it writes, what it needs. Tags (A2, B6, ...) are those of
// the equation sheet in src/bptt/equations.py.
//
//   T time steps   B rows of the batch   H hidden units   N rows of all steps together (dense: T B)
//
// Every array is row-major and contiguous, belongs to the caller, and outlives the call; only W_hh may have any
// strides. Step t holds `batch_sizes[t]` rows, which follow those of step t-1 in memory. Row r of step t continues row
// r of step t-1; with `reverse`, time runs T..1 and row r of step t continues row r of step t+1 where there is one.
//
// Results are the same to the bit for any number of threads, and no row depends on which others share its batch: every
// element of h W is one chain of multiply-adds over k = 0, 1, ..., H-1.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bptt {

enum class Activation { tanh, relu, sigmoid, identity };

struct Steps {
    std::size_t T;
    std::size_t B;                    // rows of h0
    const std::int64_t* batch_sizes;  // [T], non-increasing, at most B; null: B rows at every step
    bool reverse;
};

// A matrix in memory; strides in elements.
template <class Real>
struct Matrix {
    const Real* at;
    std::ptrdiff_t row_stride, column_stride;
};

template <class Real>
struct ForwardSweep {
    Steps steps;
    std::size_t H;
    Activation activation;
    Matrix<Real> W_hh;  // [H, H], h_{t-1} W_hh
    const Real* a;      // [N, H]  x_t W_xh + b_h; may be the rows of h that belong to the steps
    const Real* h0;     // [B, H]
    Real* h;            // [B+N, H]  h0 in the first B rows (with `reverse`: the last), h_t in the others
    Real* total;        // [N, H] or null: the whole a_t of A2; may be a
};

template <class Real>
struct BackwardSweep {
    Steps steps;
    std::size_t H;
    Activation activation;
    Matrix<Real> W_hh;  // [H, H]
    const Real* dh;     // [N, H]  cotangent of h_t from above, that of the last state included
    const Real* h;      // [B+N, H]  as the forward sweep left it
    Real* da;           // [N, H]; may be dh
    Real* dh0;          // [B, H]
    Real* total;        // [N, H] or null: the whole dh_t of B6; may be dh
};

// For Real = float and double.
template <class Real>
void forward_sweep(const ForwardSweep<Real>& sweep);
template <class Real>
void backward_sweep(const BackwardSweep<Real>& sweep);

// The activation alone: h[i] = φ(a[i]) for i < count.
template <class Real>
void activate(Activation activation, const Real* a, Real* h, std::size_t count);

// The instruction set in use: the best this processor has, or the one the environment variable BPTT_ISA names. Throws
// std::runtime_error if that is unknown, not in this build, or beyond this processor.
const char* instruction_set();

}  // namespace bptt
