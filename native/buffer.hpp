// Room of the engine's own, in the layout of the kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels.hpp"

namespace bptt {

inline std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

template <class Real>
std::size_t panels_of(std::size_t columns) {
    return divide_up(columns, kernels<Real>().lanes);
}

// Uninitialised memory on a cache line's boundary. What one call returns, the next borrows again, up to 64 MB: fresh
// memory costs page faults, as much as a fifth of a layer's arithmetic.
struct Loan {
    void* at;
    std::size_t bytes;
};
Loan borrow(std::size_t bytes);
void give_back(Loan loan);

// Uninitialised room for what one call needs, given back when it ends.
template <class Real>
class Room {
public:
    Room() = default;
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    ~Room() {
        for (const Loan& loan : loans_) give_back(loan);
    }

    // A matrix in panels. They lie at no multiple of 2 KB from each other, or the same row of each would compete for
    // the same few lines of the first-level cache.
    Panels<Real> panels(std::size_t rows, std::size_t count) {
        const std::size_t row = kernels<Real>().lanes, clash = 2048 / sizeof(Real);
        const std::size_t stride = rows * row + (rows * row % clash == 0 ? clash / 2 : 0);
        return {numbers(count * stride), stride};
    }

    Real* numbers(std::size_t count) { return of<Real>(count); }

    // So that a core which reads ahead of what it needs, as it does to the end of a page, takes no lines from another.
    void leave_a_page() { of<char>(4096); }

    template <class T>
    T* of(std::size_t count) {
        const std::size_t bytes = divide_up(count * sizeof(T), line) * line;
        if (bytes > left_) {
            loans_.push_back(borrow(std::max(bytes, least)));
            at_ = static_cast<char*>(loans_.back().at);
            left_ = std::max(bytes, least);
        }
        char* const begin = at_;
        at_ += bytes;
        left_ -= bytes;
        return reinterpret_cast<T*>(begin);
    }

private:
    static constexpr std::size_t line = 64, least = 1 << 16;

    std::vector<Loan> loans_;
    char* at_ = nullptr;
    std::size_t left_ = 0;
};

}  // namespace bptt
