// tanh, sigmoid and what they are made of, on one vector register.
//
// tanh and sigmoid are within 3 ULP of the exact value for every argument; ±0 keeps its sign, ±infinity gives the
// limit, NaN stays NaN, |tanh| never exceeds 1, and the lower tail of sigmoid keeps its relative accuracy into the
// denormals.
#pragma once

#include "vector.hpp"

namespace bptt {
namespace {

template <class Real>
struct Format;

template <>
struct Format<float> {
    static constexpr int mantissa_bits = 23;
    static constexpr float round_to_integer = 0x1.8p23f;  // adding it leaves an integer in the low mantissa bits
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr float exp_is_zero_below = -104.0f;
};

template <>
struct Format<double> {
    static constexpr int mantissa_bits = 52;
    static constexpr double round_to_integer = 0x1.8p52;
    static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr double exp_is_zero_below = -746.0;
};

// 2^n; n must be the exponent of a normal number. Of a NaN it may be anything.
template <class Real>
inline __attribute__((always_inline)) Vector<Real> power_of_two(Bits<Real> n) {
    using Unsigned = typename Lanes<Real>::Unsigned;
    return (Vector<Real>)(((Unsigned)n << Format<Real>::mantissa_bits) + (Unsigned)broadcast(Real(1)));
}

// exp(x) = 2^n (1 + p) for x <= 0, |p| < 0.42.
template <class Real>
struct Exponential {
    Bits<Real> n;
    Vector<Real> p;
};

template <class Real>
inline __attribute__((always_inline)) Exponential<Real> exponential(Vector<Real> x) {
    using F = Format<Real>;
    constexpr Real log2_e = Real(0x1.71547652b82fep0);
    const Vector<Real> shifted = x * log2_e + F::round_to_integer;
    const Vector<Real> n = shifted - F::round_to_integer;
    const Vector<Real> r = (x - n * F::ln2_high) - n * F::ln2_low;
    // Taylor's series on |r| <= ln(2) / 2: the first term left out is below 1/4 ULP of r.
    constexpr int terms = sizeof(Real) == sizeof(float) ? 7 : 13;
    constexpr double inverse_factorial[] = {
        1,         1,          1. / 2,      1. / 6,       1. / 24,       1. / 120,       1. / 720,
        1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
    Vector<Real> tail = broadcast(Real(inverse_factorial[terms]));
#pragma GCC unroll 13
    for (int term = terms - 1; term >= 2; --term) tail = tail * r + Real(inverse_factorial[term]);
    return {(Bits<Real>)shifted - (Bits<Real>)broadcast(F::round_to_integer), r * r * tail + r};
}

template <class Real>
inline __attribute__((always_inline)) Vector<Real> tanh(Vector<Real> x) {
    // tanh(-|x|) = m / (m + 2) with m = exp(-2|x|) - 1: nothing cancels, near 0 or near 1.
    constexpr Real rounds_to_one = 20;
    const Bits<Real> sign = (Bits<Real>)broadcast(Real(-0.0));
    Vector<Real> y = (Vector<Real>)((Bits<Real>)x | sign);
    y = -rounds_to_one > y ? broadcast(-rounds_to_one) : y;
    const Exponential<Real> e = exponential<Real>(y + y);
    const Vector<Real> scale = power_of_two<Real>(e.n);
    const Vector<Real> m = scale * e.p + (scale - 1);
    const Vector<Real> h = m / (m + 2);
    return (Vector<Real>)(((Bits<Real>)h & ~sign) | ((Bits<Real>)x & sign));
}

template <class Real>
inline __attribute__((always_inline)) Vector<Real> sigmoid(Vector<Real> x) {
    // e / (1 + e) below zero and 1 / (1 + e) above, with e = exp(-|x|): both keep full relative accuracy.
    constexpr Real zero_below = Format<Real>::exp_is_zero_below;
    Vector<Real> y = x < 0 ? x : -x;
    y = y < zero_below ? broadcast(zero_below) : y;
    const Exponential<Real> exponent = exponential<Real>(y);
    const Bits<Real> half = exponent.n >> 1;  // two factors reach the denormals, where one would flush to zero
    const Vector<Real> e = (exponent.p + 1) * power_of_two<Real>(half) * power_of_two<Real>(exponent.n - half);
    return (x < 0 ? e : broadcast(Real(1))) / (e + 1);
}

}  // namespace
}  // namespace bptt
