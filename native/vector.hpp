// One vector register, spelled with the vector extensions of GCC and Clang, so that one source serves every machine.
// The width follows the flags of the file that includes this header; hence the anonymous namespace: no two instruction
// sets may share a symbol.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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
    typedef std::uint32_t Unsigned __attribute__((vector_size(vector_bytes)));
};

template <>
struct Lanes<double> {
    typedef double Vector __attribute__((vector_size(vector_bytes)));
    typedef std::int64_t Bits __attribute__((vector_size(vector_bytes)));
    typedef std::uint64_t Unsigned __attribute__((vector_size(vector_bytes)));
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

#if defined(__AVX512F__)
// The last vector of a row whose length is no multiple of the register: `count` elements; the lanes beyond are zero.
inline __attribute__((always_inline)) Vector<float> load(const float* from, std::size_t count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
}
inline __attribute__((always_inline)) Vector<double> load(const double* from, std::size_t count) {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from);
}
inline __attribute__((always_inline)) void store(float* to, Vector<float> vector, std::size_t count) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), vector);
}
inline __attribute__((always_inline)) void store(double* to, Vector<double> vector, std::size_t count) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), vector);
}
#else
// The same in power-of-two pieces, each a single move.
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

#endif

#if __has_builtin(__builtin_shufflevector)
// One exchange between two rows of a square: blocks of `half` lanes change sides.
template <class Real, std::size_t half, std::size_t... lane>
inline __attribute__((always_inline)) void exchange(Vector<Real>& upper, Vector<Real>& lower,
                                                    std::index_sequence<lane...>) {
    constexpr std::size_t L = sizeof...(lane);
    const Vector<Real> first = upper, second = lower;
    upper = __builtin_shufflevector(first, second, (lane & half ? L + lane - half : lane)...);
    lower = __builtin_shufflevector(first, second, (lane & half ? L + lane : lane + half)...);
}

// A square of registers, rows become columns: blocks change sides, then blocks in blocks.
template <class Real, std::size_t half = lanes<Real> / 2>
inline __attribute__((always_inline)) void transpose(Vector<Real> (&square)[lanes<Real>]) {
    if constexpr (half != 0) {
#pragma GCC unroll 16
        for (std::size_t row = 0; row < lanes<Real>; ++row)
            if (!(row & half))
                exchange<Real, half>(square[row], square[row + half], std::make_index_sequence<lanes<Real>>{});
        transpose<Real, half / 2>(square);
    }
}
#else
template <class Real>
void transpose(Vector<Real> (&square)[lanes<Real>]) {
    for (std::size_t row = 0; row < lanes<Real>; ++row)
        for (std::size_t lane = 0; lane < row; ++lane) {
            const Real kept = square[row][lane];
            square[row][lane] = square[lane][row];
            square[lane][row] = kept;
        }
}
#endif

}  // namespace
}  // namespace bptt
