// The door to Python. Arrays come as addresses, checked once in bptt/engine/arrays.py; those of the usual kind by
// `address`. Address 0 is an array that is not there.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <stdexcept>
#include <tuple>

#include "cells.hpp"
#include "contract.hpp"
#include "tensors.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

template <class Real>
void forward_layer(std::size_t T, std::size_t B, std::size_t I, std::size_t H, Address batch_sizes, bool reverse,
                   bptt::Activation activation, Address x, Address tokens, Address W_xh, std::ptrdiff_t W_xh_row,
                   std::ptrdiff_t W_xh_column, Address W_hh, std::ptrdiff_t W_hh_row, std::ptrdiff_t W_hh_column,
                   Address b_ih, Address b_hh, Address h0, Address h, Address h_n, Address total, std::size_t threads) {
    bptt::forward_layer<Real>({{T, B, pointer<const std::int64_t>(batch_sizes), reverse},
                               H,
                               activation,
                               {pointer<const Real>(W_hh), W_hh_row, W_hh_column},
                               pointer<const Real>(h0),
                               pointer<Real>(h),
                               pointer<Real>(h_n),
                               pointer<Real>(total)},
                              {I,
                               pointer<const Real>(x),
                               pointer<const std::int64_t>(tokens),
                               {pointer<const Real>(W_xh), W_xh_row, W_xh_column},
                               pointer<const Real>(b_ih),
                               pointer<const Real>(b_hh)},
                              threads);
}

template <class Real>
void backward_layer(std::size_t T, std::size_t B, std::size_t I, std::size_t H, Address batch_sizes, bool reverse,
                    bptt::Activation activation, Address x, Address tokens, Address W_xh, std::ptrdiff_t W_xh_row,
                    std::ptrdiff_t W_xh_column, Address W_hh, std::ptrdiff_t W_hh_row, std::ptrdiff_t W_hh_column,
                    Address dh, Address dh_n, Address h, Address h0, Address da, Address dh0, Address total, Address dx,
                    Address dW_xh, std::ptrdiff_t dW_xh_row, std::ptrdiff_t dW_xh_column, Address dW_hh,
                    std::ptrdiff_t dW_hh_row, std::ptrdiff_t dW_hh_column, Address db, bool accumulate,
                    std::size_t threads) {
    bptt::backward_layer<Real>({{T, B, pointer<const std::int64_t>(batch_sizes), reverse},
                                H,
                                activation,
                                {pointer<const Real>(W_hh), W_hh_row, W_hh_column},
                                pointer<const Real>(dh),
                                pointer<const Real>(dh_n),
                                pointer<const Real>(h),
                                pointer<const Real>(h0),
                                pointer<Real>(da),
                                pointer<Real>(dh0),
                                pointer<Real>(total)},
                               {I,
                                pointer<const Real>(x),
                                pointer<const std::int64_t>(tokens),
                                {pointer<const Real>(W_xh), W_xh_row, W_xh_column},
                                nullptr,
                                nullptr},
                               {pointer<Real>(dx),
                                {pointer<Real>(dW_xh), dW_xh_row, dW_xh_column},
                                {pointer<Real>(dW_hh), dW_hh_row, dW_hh_column},
                                pointer<Real>(db),
                                accumulate},
                               threads);
}

template <class Real>
bptt::Cell<Real> cell(bptt::Activation activation, double leak, bool residual, Address mask, Address norm_weight,
                      Address norm_bias, double epsilon) {
    return {activation,
            static_cast<Real>(leak),
            residual,
            pointer<const Real>(mask),
            pointer<const Real>(norm_weight),
            pointer<const Real>(norm_bias),
            static_cast<Real>(epsilon)};
}

template <class Real>
void forward_cells(std::size_t T, std::size_t B, std::size_t H, Address batch_sizes, bool reverse,
                   bptt::Activation activation, double leak, bool residual, Address mask, Address norm_weight,
                   Address norm_bias, double epsilon, Address W_hh, std::ptrdiff_t W_hh_row, std::ptrdiff_t W_hh_column,
                   Address a, Address h0, Address h, Address f, Address normalised, Address scale,
                   std::size_t threads) {
    bptt::forward_cells<Real>({{T, B, pointer<const std::int64_t>(batch_sizes), reverse},
                               H,
                               cell<Real>(activation, leak, residual, mask, norm_weight, norm_bias, epsilon),
                               {pointer<const Real>(W_hh), W_hh_row, W_hh_column},
                               pointer<const Real>(a),
                               pointer<const Real>(h0),
                               pointer<Real>(h),
                               pointer<Real>(f),
                               pointer<Real>(normalised),
                               pointer<Real>(scale)},
                              threads);
}

template <class Real>
void backward_cells(std::size_t T, std::size_t B, std::size_t H, Address batch_sizes, bool reverse,
                    bptt::Activation activation, double leak, bool residual, Address mask, Address norm_weight,
                    Address norm_bias, double epsilon, Address W_hh, std::ptrdiff_t W_hh_row,
                    std::ptrdiff_t W_hh_column, Address dh, Address f, Address normalised, Address scale, Address da,
                    Address dz, Address dh0, std::size_t threads) {
    bptt::backward_cells<Real>({{T, B, pointer<const std::int64_t>(batch_sizes), reverse},
                                H,
                                cell<Real>(activation, leak, residual, mask, norm_weight, norm_bias, epsilon),
                                {pointer<const Real>(W_hh), W_hh_row, W_hh_column},
                                pointer<const Real>(dh),
                                pointer<const Real>(f),
                                pointer<const Real>(normalised),
                                pointer<const Real>(scale),
                                pointer<Real>(da),
                                pointer<Real>(dz),
                                pointer<Real>(dh0)},
                               threads);
}

template <class Real>
void activate(bptt::Activation activation, Address a, Address h, std::size_t count) {
    bptt::activate<Real>(activation, pointer<const Real>(a), pointer<Real>(h), count);
}

// One set of functions for each precision, so that the name of the call says how its addresses are read.
template <class Real>
void define(nb::module_ m, const bptt::Tensors& tensors) {
    m.def("address", [&tensors](nb::handle tensor, nb::handle shape) { return tensors.address<Real>(tensor, shape); });
    const auto without_gil = nb::call_guard<nb::gil_scoped_release>();
    m.def("forward_layer", &forward_layer<Real>, without_gil);
    m.def("backward_layer", &backward_layer<Real>, without_gil);
    m.def("forward_cells", &forward_cells<Real>, without_gil);
    m.def("backward_cells", &backward_cells<Real>, without_gil);
    m.def("activate", &activate<Real>, without_gil);
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
    m.def("rows_of_a_block", &bptt::rows_of_a_block);
    static const bptt::Tensors tensors;
    define<float>(m.def_submodule("float32"), tensors);
    define<double>(m.def_submodule("float64"), tensors);
}
