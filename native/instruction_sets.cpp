// Which copy of the kernels serves this processor, decided at first use.
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace bptt {

#define BPTT_DECLARE(isa)                            \
    extern const Kernels<float> kernels_float_##isa; \
    extern const Kernels<double> kernels_double_##isa;

BPTT_DECLARE(baseline)
#ifdef BPTT_X86
BPTT_DECLARE(avx2)
BPTT_DECLARE(avx512)
#endif

namespace {

struct InstructionSet {
    const char* name;
    bool (*supported)();
    const Kernels<float>& single_precision;
    const Kernels<double>& double_precision;
};

const InstructionSet best_first[] = {
#ifdef BPTT_X86
    {"avx512",
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
     },
     kernels_float_avx512, kernels_double_avx512},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, kernels_float_avx2,
     kernels_double_avx2},
#endif
    {"baseline", [] { return true; }, kernels_float_baseline, kernels_double_baseline},
};

const InstructionSet& choose() {
    const char* asked = std::getenv("BPTT_ISA");
    if (asked == nullptr || *asked == '\0') {
        for (const InstructionSet& candidate : best_first)
            if (candidate.supported()) return candidate;
    }
    std::string here, built;
    for (const InstructionSet& candidate : best_first) {
        if (candidate.supported()) {
            if (asked == std::string(candidate.name)) return candidate;
            here += (here.empty() ? "" : ", ") + std::string(candidate.name);
        }
        built += (built.empty() ? "" : ", ") + std::string(candidate.name);
    }
    throw std::runtime_error("BPTT_ISA must name an instruction set this processor has: " + here + "; got '" + asked +
                             "'. This build knows " + built + ". Unset it to use the best.");
}

const InstructionSet& chosen() {
    static const InstructionSet& once = choose();
    return once;
}

}  // namespace

const char* instruction_set() { return chosen().name; }

template <>
const Kernels<float>& kernels() {
    return chosen().single_precision;
}

template <>
const Kernels<double>& kernels() {
    return chosen().double_precision;
}

}  // namespace bptt
