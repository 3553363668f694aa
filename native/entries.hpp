// The operations of a program on vector registers, entry by entry or along rows.
#pragma once

#include "activation.hpp"
#include "kernels.hpp"
#include "vector.hpp"

namespace bptt {
namespace {

template <class Real, class Function>
inline __attribute__((always_inline)) Vector<Real> lane_by_lane(Vector<Real> a, const Function& function) {
    Vector<Real> result;
    for (std::size_t lane = 0; lane < lanes<Real>; ++lane) result[lane] = function(a[lane]);
    return result;
}

template <class Real>
inline __attribute__((always_inline)) Vector<Real> exp(Vector<Real> x) {
    constexpr Real zero_below = Format<Real>::exp_is_zero_below, infinite_above = sizeof(Real) == 4 ? 89 : 710;
    Vector<Real> y = x < zero_below ? broadcast(zero_below) : x;
    y = y > infinite_above ? broadcast(infinite_above) : y;
    const Exponential<Real> e = exponential<Real>(y);
    const Bits<Real> half = e.n >> 1;  // two factors reach the denormals and infinity
    return (e.p + 1) * power_of_two<Real>(half) * power_of_two<Real>(e.n - half);
}

template <class Real>
Real softplus(Real a) {
    const Real distant = a < 0 ? a : -a;
    return (a > 0 ? a : Real(0)) + static_cast<Real>(__builtin_log1p(__builtin_exp(distant)));
}

template <Operation operation, class Real>
inline __attribute__((always_inline)) Vector<Real> entry(Vector<Real> a, Vector<Real> b, Vector<Real> c,
                                                         Vector<Real> d) {
    const Vector<Real> zero{}, one = broadcast(Real(1));
    switch (operation) {
        case Operation::copy: return a;
        case Operation::negative: return -a;
        case Operation::add: return a + b;
        case Operation::subtract: return a - b;
        case Operation::multiply: return a * b;
        case Operation::divide: return a / b;
        case Operation::square: return a * a;
        case Operation::multiply_add: return a * b + c;
        case Operation::multiply_subtract: return c - a * b;
        case Operation::through_tanh: return a * (1 - b * b);
        case Operation::through_sigmoid: return a * b * (1 - b);
        case Operation::tanh: return tanh<Real>(a);
        case Operation::sigmoid: return sigmoid<Real>(a);
        case Operation::relu: return a <= 0 ? zero : a;
        case Operation::exp: return exp<Real>(a);
        case Operation::log: return lane_by_lane<Real>(a, [](Real x) { return static_cast<Real>(__builtin_log(x)); });
        case Operation::sqrt: return lane_by_lane<Real>(a, [](Real x) { return static_cast<Real>(__builtin_sqrt(x)); });
        case Operation::softplus: return lane_by_lane<Real>(a, softplus<Real>);
        case Operation::abs: return (Vector<Real>)((Bits<Real>)a & ~(Bits<Real>)broadcast(Real(-0.0)));
        case Operation::sign: return (a > 0 ? one : zero) - (a < 0 ? one : zero);
        case Operation::larger: return a >= b ? a : b;
        case Operation::smaller: return b >= a ? a : b;
        case Operation::where_positive: return b <= 0 ? zero : a;
        case Operation::where_at_least: return b >= c ? a : zero;
        case Operation::where_below: return b < c ? a : zero;
        case Operation::where_inside: return (c <= b) & (b <= d) ? a : zero;
        default: return a;
    }
}

template <Operation operation, class Real>
void each_entry(const Entries<Real>& given) {
    const Entries<Real> e = given;  // which no store can change, so that it stays in registers
    for (std::size_t panel = e.first; panel < e.last; ++panel) {
        Real* to = e.to.at + panel * e.to.panel_step;
        const Real* from[4];
        for (int k = 0; k < 4; ++k)
            from[k] = k < arity(operation) ? e.from[k].at + panel * e.from[k].panel_step : nullptr;
        const std::size_t before = panel * lanes<Real>, left = e.columns - before;
        const std::size_t count = left < lanes<Real> ? left : lanes<Real>;
        Real* row_major = e.also.at ? e.also.at + before : nullptr;
        for (std::size_t r = 0; r < e.rows; ++r) {
            Vector<Real> of[4] = {};
            for (int k = 0; k < arity(operation); ++k) {
                const Real* const at = from[k] + r * e.from[k].row_step;
                of[k] = e.is_row_major[k] ? load(at, count) : load(at);
            }
            const Vector<Real> made = entry<operation, Real>(of[0], of[1], of[2], of[3]);
            store(to + r * lanes<Real>, made);
            if (e.also.at) store(row_major + static_cast<std::ptrdiff_t>(r) * e.also.row_stride, made, count);
        }
    }
}

// Lanes beyond the last column hold anything.
template <Operation operation, class Real>
void each_row(const Entries<Real>& e) {
    constexpr std::size_t L = lanes<Real>;
    const Real nothing = operation == Operation::largest ? -__builtin_huge_val() : 0;
    for (std::size_t r = 0; r < e.rows; ++r) {
        Vector<Real> found = broadcast(nothing);
        for (std::size_t panel = e.first; panel < e.last; ++panel) {
            const Real* const at = e.from[0].at + panel * e.from[0].panel_step + r * e.from[0].row_step;
            const std::size_t left = e.columns - panel * L, count = left < L ? left : L;
            Vector<Real> a = e.is_row_major[0] ? load(at, count) : load(at);
            for (std::size_t lane = count; lane < L; ++lane) a[lane] = nothing;
            if constexpr (operation == Operation::largest)
                found = a > found ? a : found;
            else
                found += a;
        }
        Real whole = found[0];
        for (std::size_t lane = 1; lane < L; ++lane)
            if constexpr (operation == Operation::largest)
                whole = found[lane] > whole ? found[lane] : whole;
            else
                whole += found[lane];
        if constexpr (operation == Operation::mean) whole /= static_cast<Real>(e.columns);
        store(e.to.at + r * L, broadcast(whole));
    }
}

template <class Real>
void entries(const Entries<Real>& e) {
#define BPTT_CASE(name) \
    case Operation::name: return each_entry<Operation::name>(e);
    switch (e.operation) {
        case Operation::sum: return each_row<Operation::sum>(e);
        case Operation::mean: return each_row<Operation::mean>(e);
        case Operation::largest:
            return each_row<Operation::largest>(e);
            BPTT_CASE(copy)
            BPTT_CASE(negative)
            BPTT_CASE(add)
            BPTT_CASE(subtract)
            BPTT_CASE(multiply)
            BPTT_CASE(divide)
            BPTT_CASE(square)
            BPTT_CASE(multiply_add)
            BPTT_CASE(multiply_subtract)
            BPTT_CASE(through_tanh)
            BPTT_CASE(through_sigmoid)
            BPTT_CASE(tanh)
            BPTT_CASE(sigmoid)
            BPTT_CASE(relu)
            BPTT_CASE(exp)
            BPTT_CASE(log)
            BPTT_CASE(sqrt)
            BPTT_CASE(softplus)
            BPTT_CASE(abs)
            BPTT_CASE(sign)
            BPTT_CASE(larger)
            BPTT_CASE(smaller)
            BPTT_CASE(where_positive)
            BPTT_CASE(where_at_least)
            BPTT_CASE(where_below)
            BPTT_CASE(where_inside)
        default: return;
    }
#undef BPTT_CASE
}

}  // namespace
}  // namespace bptt
