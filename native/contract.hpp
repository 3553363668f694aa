// The contract of the engine: what each function takes, where it writes, what it needs. Tags (A2, B6, ...) are those of
// the equation sheet in src/bptt/sheet/equations.py.
//
//   T time steps   B rows of the batch   I inputs   H hidden units   N rows of all steps together (dense: T B)
//
// Every array belongs to the caller and outlives the call. Arrays are row-major and contiguous; weights and their
// gradients may have any strides, so torch's transposed weights are read and written where they lie. "or null" is said
// where an array may be left out; an output that is null is not computed.
//
// Step t holds `batch_sizes[t]` rows, which follow those of step t-1 in memory. Row r of step t continues row r of step
// t-1; with `reverse`, time runs T..1 and row r of step t continues row r of step t+1 where there is one.
//
// Results are the same to the bit for any number of threads, and the states and cotangents of a row do not depend on
// which rows share its batch: every element of a matrix product is a chain of multiply-adds in a fixed order, cut at
// the same places.
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
    Real* at;
    std::ptrdiff_t row_stride, column_stride;
};

// (A2, A3) for t = 1..T
template <class Real>
struct ForwardSweep {
    Steps steps;
    std::size_t H;
    Activation activation;
    Matrix<const Real> W_hh;  // [H, H]  h_{t-1} W_hh, or null: nothing goes from step to step
    const Real* h0;           // [B, H] or null: zero
    Real* h;                  // [N, H]  h_t
    Real* h_n;                // [B, H] or null: the last state of each row
    Real* total;              // [N, H] or null: the whole a_t of A2
};

// (B6, B7, B11) for t = T..1
template <class Real>
struct BackwardSweep {
    Steps steps;
    std::size_t H;
    Activation activation;
    Matrix<const Real> W_hh;  // [H, H] or null: nothing goes from step to step; dh_n and dh0 are then null too
    const Real* dh;           // [N, H] or null: zero; cotangent of h_t from above
    const Real* dh_n;         // [B, H] or null: zero; cotangent of the last state of each row, added at its last step
    const Real* h;            // [N, H]  as the forward sweep left it
    const Real* h0;           // [B, H] or null: zero; only the gradient of W_hh asks for it
    Real* da;                 // [N, H] or null; may be dh
    Real* dh0;                // [B, H]
    Real* total;              // [N, H] or null: the whole dh_t of B6; may be dh
};

// The input of a layer, of which exactly one of x and tokens is given.
template <class Real>
struct Input {
    std::size_t I;
    const Real* x;               // [N, I]
    const std::int64_t* tokens;  // [N] in [0, I): x_t is one-hot and x_t W_xh a row of W_xh
    Matrix<const Real> W_xh;     // [I, H]
    const Real *b_ih, *b_hh;     // [H] or null; b_h is their sum
};

// The gradients of a layer. Those of weights and bias are written or, with `accumulate`, go on from what they hold.
//
// They are summed over blocks of time, cut from where the walk begins, each the fewest steps with at least
// `rows_of_a_block` rows. So a long sequence may be walked in several calls, those after the first accumulating: where
// all but the last walk whole blocks, the sums are those of a single call to the bit.
template <class Real>
struct Gradients {
    Real* dx;            // [N, I] or null; with tokens: null
    Matrix<Real> dW_xh;  // [I, H] or null
    Matrix<Real> dW_hh;  // [H, H] or null
    Real* db;            // [H] or null
    bool accumulate;
};

std::size_t rows_of_a_block(std::size_t H);

// A whole layer, for Real = float and double: the sweep with the input's share, or with the weight gradients (B8, B9,
// B10) and ∂x (B11), each block of time finished while it is in the cache. `threads` is the most that may be used, the
// caller's included. Throws std::out_of_range for a token outside [0, I).
template <class Real>
void forward_layer(const ForwardSweep<Real>&, const Input<Real>&, std::size_t threads);
template <class Real>
void backward_layer(const BackwardSweep<Real>&, const Input<Real>&, const Gradients<Real>&, std::size_t threads);

// Asks the system for large pages, where it gives them, for memory that nobody has written yet: the first write to each
// small page costs more than all that are to come.
void prefer_large_pages(void* at, std::size_t bytes);

// The instruction set in use: the best this processor has, or the one the environment variable BPTT_ISA names. Throws
// std::runtime_error if that is unknown, not in this build, or beyond this processor.
const char* instruction_set();

}  // namespace bptt
