// What each instruction set provides: the arithmetic of one time step and of one block of them, as a table of
// functions.
//
// All of it works on one layout. A matrix in panels is cut into strips of columns as wide as a vector register; element
// (r, c) lies at  at[(c / lanes) * stride + r * lanes + c % lanes],  zero beyond the last column. Weights in panels are
// read as whole registers; states in panels give the scalars of one step at fixed distances, and the ∂a of a block in
// panels is at once the left factor of ∂a W_hhᵀ and the right factor of the weight gradients.
//
// Each function covers the panels [first, last) of the columns of its result, so that threads can share one call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "contract.hpp"
#include "operation.hpp"

namespace bptt {

template <class Real>
struct Panels {
    Real* at;
    std::size_t stride;  // elements from one panel to the next
};

// left W, one of the products that are summed.
template <class Real>
struct Term {
    std::size_t inner;
    Panels<const Real> left;  // [rows, inner]
    Panels<const Real> W;     // [inner, columns]
};

// What a sum of products begins with, so that it stays one chain of multiply-adds: rows in panels, or a single row that
// all begin with (row_step 0), or null for zero.
template <class Real>
struct Start {
    Panels<const Real> at;
    std::size_t row_step;  // elements from one row to the next
};

// panels = start + the terms; then to = panels, unless that is null.
template <class Real>
struct Product {
    std::size_t rows, columns, first, last;
    Start<Real> start;
    const Term<Real>* terms;
    std::size_t count;
    Panels<Real> panels;  // [rows, columns]
    Real* to;             // [rows, columns] row-major
};

// Rows in panels at any distances: with row_step 0 one row that stands for all, with panel_step 0 a number in all lanes
// that stands for all columns.
template <class Real>
struct Place {
    Real* at;
    std::size_t panel_step, row_step;
};

// An operation of entries or rows of a program.
template <class Real>
struct Entries {
    Operation operation;
    std::size_t rows, columns, first, last;
    Place<Real> to;  // whose row_step is that of panels
    Place<const Real> from[4];
    bool is_row_major[4];  // whether it ends with the last column, so that nothing may be read beyond
    Matrix<Real> also;     // [rows, columns] row-major: receives the result too, or null
};

// to = start + the rows of W that `tokens` name
template <class Real>
struct Gather {
    std::size_t rows, first, last;
    const std::int64_t* tokens;  // [rows]
    Panels<const Real> W;        // [anything, columns]
    Start<Real> start;
    Panels<Real> to;  // [rows, columns]
};

// Consecutive rows of a row-major matrix, or null for as many rows of zero.
template <class Real>
struct Piece {
    const Real* at;
    std::size_t rows;
};

// sum += leftᵀ right over the rows of the pieces, which together match those of `right`; only the rows
// [first_row, last_row) of the sum. The block's share is summed from zero before it is added, which keeps the error of
// a long sequence that of a short one.
template <class Real>
struct WeightGradient {
    std::size_t left_columns, first_row, last_row, first, last;
    const Piece<Real>* left;  // [rows, left_columns]
    std::size_t pieces;
    Panels<const Real> right;  // [rows, anything]
    Panels<Real> sum;          // [left_columns, anything]
    bool first_block;          // the sum is written, whatever it held
};

// sum[tokens[r]] += right[r] for r = 0, 1, ..., rows-1
template <class Real>
struct TokenGradient {
    std::size_t rows, first, last;
    const std::int64_t* tokens;  // [rows]
    Panels<const Real> right;    // [rows, anything]
    Panels<Real> sum;
};

template <class Real>
struct Kernels {
    std::size_t lanes;
    void (*product)(const Product<Real>&);
    void (*entries)(const Entries<Real>&);
    void (*gather)(const Gather<Real>&);
    void (*weight_gradient)(const WeightGradient<Real>&);
    void (*token_gradient)(const TokenGradient<Real>&);
    // sum[0] += the sum of the rows of `right`
    void (*bias_gradient)(std::size_t rows, std::size_t first, std::size_t last, Panels<const Real> right,
                          Panels<Real> sum);
    // Row-major or any other strides into panels and back.
    void (*pack)(Matrix<const Real>, std::size_t rows, std::size_t columns, std::size_t first, std::size_t last,
                 Panels<Real>);
    void (*unpack)(Panels<const Real>, std::size_t rows, std::size_t columns, std::size_t first, std::size_t last,
                   Matrix<Real>);
};

template <class Real>
const Kernels<Real>& kernels();

}  // namespace bptt
