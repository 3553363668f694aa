#pragma once

#include <cstddef>
#include <new>

namespace bptt {

// Uninitialised room for `count` elements, aligned to a cache line and so to every vector register.
template <class Real>
class Buffer {
public:
    explicit Buffer(std::size_t count)
        : at_(static_cast<Real*>(::operator new(count * sizeof(Real), std::align_val_t{64}))) {}
    ~Buffer() { ::operator delete(at_, std::align_val_t{64}); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    Real* get() { return at_; }
    const Real* get() const { return at_; }

private:
    Real* at_;
};

}  // namespace bptt
