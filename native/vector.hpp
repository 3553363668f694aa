// One vector register, spelled with the vector extensions of GCC and Clang, so that one source serves every machine.
// The width follows the flags of the file that includes this header; hence the anonymous namespace: no two instruction
// sets may share a symbol.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bptt {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64, registers = 32;
#elif defined(__AVX2__)
constexpr std::size_t vector_bytes = 32, registers = 16;
#elif defined(__aarch64__)
constexpr std::size_t vector_bytes = 16, registers = 32;
#else
constexpr std::size_t vector_bytes = 16, registers = 16;
#endif

template <class Real>
struct Lanes;

template <>
struct Lanes<float> {
    typedef float Vector __attribute__((vector_size(vector_bytes)));
    typedef std::int32_t Bits __attribute__((vector_size(vector_bytes)));
};

template <>
struct Lanes<double> {
    typedef double Vector __attribute__((vector_size(vector_bytes)));
    typedef std::int64_t Bits __attribute__((vector_size(vector_bytes)));
};

template <class Real>
using Vector = typename Lanes<Real>::Vector;
template <class Real>
using Bits = typename Lanes<Real>::Bits;
template <class Real>
constexpr std::size_t lanes = vector_bytes / sizeof(Real);

template <class Real>
inline __attribute__((always_inline)) Vector<Real> broadcast(Real value) {
    return value - Vector<Real>{};  // minus: 0 + (-0) would lose the sign
}

template <class Real>
inline __attribute__((always_inline)) Vector<Real> load(const Real* from) {
    Vector<Real> vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Real>
inline __attribute__((always_inline)) void store(Real* to, Vector<Real> vector) {
    __builtin_memcpy(to, &vector, sizeof vector);
}

// The last vector of a row whose length is no multiple of the register: `count` elements in power-of-two pieces, each a
// single move; the lanes beyond are zero.
template <class Real>
inline __attribute__((always_inline)) Vector<Real> load(const Real* from, std::size_t count) {
    if (count == lanes<Real>) return load(from);
    Vector<Real> vector{};
    Real* to = reinterpret_cast<Real*>(&vector);
#pragma GCC unroll 4
    for (std::size_t piece = lanes<Real> / 2; piece != 0; piece /= 2)
        if (count & piece) {
            __builtin_memcpy(to, from, piece * sizeof(Real));
            to += piece;
            from += piece;
        }
    return vector;
}

template <class Real>
inline __attribute__((always_inline)) void store(Real* to, Vector<Real> vector, std::size_t count) {
    if (count == lanes<Real>) return store(to, vector);
    const Real* from = reinterpret_cast<const Real*>(&vector);
#pragma GCC unroll 4
    for (std::size_t piece = lanes<Real> / 2; piece != 0; piece /= 2)
        if (count & piece) {
            __builtin_memcpy(to, from, piece * sizeof(Real));
            to += piece;
            from += piece;
        }
}

}  // namespace
}  // namespace bptt
