// Room of the engine's own, in the layout of the kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kernels.hpp"

namespace bptt {

inline std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

template <class Real>
std::size_t panels_of(std::size_t columns) {
    return divide_up(columns, kernels<Real>().lanes);
}

// Uninitialised memory on a cache line's boundary. What one call returns, the next call on the same thread borrows
// again: fresh memory of a megabyte costs as much in page faults as a short layer does in arithmetic. Of blocks so
// large that the arithmetic is not short, nothing is kept.
struct Loan {
    void* at;
    std::size_t bytes;
};
Loan borrow(std::size_t bytes);
void give_back(Loan loan);

// A matrix in panels, uninitialised. Panels lie at no multiple of 2 KB from each other, or the same row of each would
// compete for the same few lines of the first-level cache.
template <class Real>
class PanelBuffer {
public:
    PanelBuffer() = default;
    PanelBuffer(std::size_t rows, std::size_t columns)
        : lanes_(kernels<Real>().lanes),
          stride_(rows * lanes_ + (rows * lanes_ * sizeof(Real) % 2048 == 0 ? 1024 / sizeof(Real) : 0)),
          loan_(borrow(panels_of<Real>(columns) * stride_ * sizeof(Real))) {}
    ~PanelBuffer() { give_back(loan_); }
    PanelBuffer(const PanelBuffer&) = delete;
    PanelBuffer(PanelBuffer&& other) { *this = std::move(other); }
    PanelBuffer& operator=(PanelBuffer&& other) {
        std::swap(lanes_, other.lanes_);
        std::swap(stride_, other.stride_);
        std::swap(loan_, other.loan_);
        return *this;
    }

    Panels<Real> from_row(std::size_t row) const { return {at() + row * lanes_, stride_}; }
    Panels<const Real> read(std::size_t row = 0) const { return {at() + row * lanes_, stride_}; }

    // Zeroes the panels [first, last).
    void clear(std::size_t first, std::size_t last) const {
        std::fill(at() + first * stride_, at() + last * stride_, 0);
    }

private:
    Real* at() const { return static_cast<Real*>(loan_.at); }

    std::size_t lanes_ = 0, stride_ = 0;
    Loan loan_{nullptr, 0};
};

}  // namespace bptt
