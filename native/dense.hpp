// Products over the rows of all steps, for what stands outside of the sweep of a program. Results are the same to the
// bit for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "contract.hpp"

namespace bptt {

template <class Real>
struct DenseTerm {
    std::size_t inner;
    Matrix<const Real> left;   // [rows, inner]
    Matrix<const Real> right;  // [inner, columns]
};

// to = start, the same for all rows, + the sum of left right
template <class Real>
struct DenseProduct {
    std::size_t rows, columns;
    std::vector<DenseTerm<Real>> terms;
    const Real* start;  // [columns] or null: zero
    Matrix<Real> to;    // [rows, columns]
};

template <class Real>
void multiply(const DenseProduct<Real>&, std::size_t threads);

// product = leftᵀ right
template <class Real>
struct DenseLeft {
    std::size_t columns;
    const Real* left;            // [rows, columns], row-major, or null where tokens are given
    const std::int64_t* tokens;  // [rows] in [0, columns): row r of left is one at tokens[r], else zero
    Matrix<Real> product;        // [columns, those of right]
};

// All products with one right factor; total = the sum of its rows
template <class Real>
struct DenseSum {
    std::size_t rows, columns;
    std::vector<DenseLeft<Real>> lefts;
    Matrix<const Real> right;  // [rows, columns]
    Real* total;               // [columns] or null
};

// Throws std::out_of_range for a token outside of its left factor.
template <class Real>
void sum_up(const DenseSum<Real>&, std::size_t threads);

}  // namespace bptt
