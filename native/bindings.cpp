// The door to Python. Arrays come as addresses, checked once in bptt/sweeps/native.py: at the size of a single step,
// one DLPack exchange for each array would cost more than the arithmetic.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <stdexcept>

#include "contract.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class Real>
const Real* input(std::uintptr_t address) {
    return reinterpret_cast<const Real*>(address);
}

template <class Real>
Real* output(std::uintptr_t address) {
    return reinterpret_cast<Real*>(address);
}

bptt::Steps steps(std::size_t T, std::size_t B, std::uintptr_t batch_sizes, bool reverse) {
    return {T, B, input<std::int64_t>(batch_sizes), reverse};
}

template <class Real>
void forward_sweep(std::size_t T, std::size_t B, std::size_t H, std::uintptr_t batch_sizes, bool reverse,
                   bptt::Activation activation, std::uintptr_t W_hh, std::ptrdiff_t W_hh_row_stride,
                   std::ptrdiff_t W_hh_column_stride, std::uintptr_t a, std::uintptr_t h0, std::uintptr_t h,
                   std::uintptr_t total) {
    bptt::forward_sweep<Real>({steps(T, B, batch_sizes, reverse),
                               H,
                               activation,
                               {input<Real>(W_hh), W_hh_row_stride, W_hh_column_stride},
                               input<Real>(a),
                               input<Real>(h0),
                               output<Real>(h),
                               output<Real>(total)});
}

template <class Real>
void backward_sweep(std::size_t T, std::size_t B, std::size_t H, std::uintptr_t batch_sizes, bool reverse,
                    bptt::Activation activation, std::uintptr_t W_hh, std::ptrdiff_t W_hh_row_stride,
                    std::ptrdiff_t W_hh_column_stride, std::uintptr_t dh, std::uintptr_t h, std::uintptr_t da,
                    std::uintptr_t dh0, std::uintptr_t total) {
    bptt::backward_sweep<Real>({steps(T, B, batch_sizes, reverse),
                                H,
                                activation,
                                {input<Real>(W_hh), W_hh_row_stride, W_hh_column_stride},
                                input<Real>(dh),
                                input<Real>(h),
                                output<Real>(da),
                                output<Real>(dh0),
                                output<Real>(total)});
}

template <class Real>
void activate(bptt::Activation activation, std::uintptr_t a, std::uintptr_t h, std::size_t count) {
    bptt::activate<Real>(activation, input<Real>(a), output<Real>(h), count);
}

// One Python function for each precision, so that the call itself says how the addresses are read.
template <class Real>
void define_sweeps(nb::module_& m, const char* forward, const char* backward, const char* phi) {
    const auto without_gil = nb::call_guard<nb::gil_scoped_release>();
    m.def(forward, &forward_sweep<Real>, "T"_a, "B"_a, "H"_a, "batch_sizes"_a, "reverse"_a, "activation"_a, "W_hh"_a,
          "W_hh_row_stride"_a, "W_hh_column_stride"_a, "a"_a, "h0"_a, "h"_a, "total"_a, without_gil);
    m.def(backward, &backward_sweep<Real>, "T"_a, "B"_a, "H"_a, "batch_sizes"_a, "reverse"_a, "activation"_a, "W_hh"_a,
          "W_hh_row_stride"_a, "W_hh_column_stride"_a, "dh"_a, "h"_a, "da"_a, "dh0"_a, "total"_a, without_gil);
    m.def(phi, &activate<Real>, "activation"_a, "a"_a, "h"_a, "count"_a, without_gil);
}

}  // namespace

NB_MODULE(_native, m) {
    try {
        m.attr("instruction_set") = bptt::instruction_set();
    } catch (const std::runtime_error& error) {
        throw nb::import_error(error.what());
    }
    nb::enum_<bptt::Activation>(m, "Activation")
        .value("tanh", bptt::Activation::tanh)
        .value("relu", bptt::Activation::relu)
        .value("sigmoid", bptt::Activation::sigmoid)
        .value("identity", bptt::Activation::identity);
    define_sweeps<float>(m, "forward_sweep_float32", "backward_sweep_float32", "activate_float32");
    define_sweeps<double>(m, "forward_sweep_float64", "backward_sweep_float64", "activate_float64");
}
