// What stands between a token and memory: it must name a row of W_xh.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "schedule.hpp"

namespace bptt {

// Throws std::out_of_range for a token outside [0, I). On the way back too: the array is the caller's, who may have
// changed it since.
template <class Real>
void check_tokens(const Steps& steps, const Input<Real>& input) {
    if (!input.tokens) return;
    const std::size_t N = Rows(steps).all();
    const auto [least, most] = std::minmax_element(input.tokens, input.tokens + N);
    if (N != 0 && (*least < 0 || static_cast<std::size_t>(*most) >= input.I))
        throw std::out_of_range("tokens must lie in [0, " + std::to_string(input.I) + "), the input size; got " +
                                std::to_string(*least) + " to " + std::to_string(*most));
}

}  // namespace bptt
