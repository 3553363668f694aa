// Room of the engine's own, in the layout of the kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "kernels.hpp"

namespace bptt {

inline std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

template <class Real>
std::size_t panels_of(std::size_t columns) {
    return divide_up(columns, kernels<Real>().lanes);
}

// A matrix in panels, uninitialised. Panels lie at no multiple of 2 KB from each other, or the same row of each would
// compete for the same few lines of the first-level cache.
template <class Real>
class PanelBuffer {
public:
    PanelBuffer() = default;
    PanelBuffer(std::size_t rows, std::size_t columns)
        : lanes_(kernels<Real>().lanes),
          stride_(rows * lanes_ + (rows * lanes_ * sizeof(Real) % 2048 == 0 ? 1024 / sizeof(Real) : 0)),
          size_(panels_of<Real>(columns) * stride_),
          at_(static_cast<Real*>(::operator new(size_ * sizeof(Real), std::align_val_t{64}))) {}

    Panels<Real> from_row(std::size_t row) const { return {at_.get() + row * lanes_, stride_}; }
    Panels<const Real> read(std::size_t row = 0) const { return {at_.get() + row * lanes_, stride_}; }

    // Zeroes the panels [first, last).
    void clear(std::size_t first, std::size_t last) const {
        for (Real* element = at_.get() + first * stride_; element != at_.get() + last * stride_; ++element)
            *element = 0;
    }

private:
    struct Free {
        void operator()(Real* at) const { ::operator delete(at, std::align_val_t{64}); }
    };

    std::size_t lanes_ = 0, stride_ = 0, size_ = 0;
    std::unique_ptr<Real[], Free> at_;
};

}  // namespace bptt
