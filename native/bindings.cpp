// The door to Python. Arrays come as addresses, checked once in bptt/engine/arrays.py; those of the usual kind by
// `address`. Address 0 is an array that is not there.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "contract.hpp"
#include "dense.hpp"
#include "program.hpp"
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

using Strided = std::tuple<Address, std::ptrdiff_t, std::ptrdiff_t>;

bptt::Program program(std::vector<std::tuple<int, int, int>> slots, std::vector<int> groups,
                      std::vector<std::tuple<bptt::Operation, int, std::array<int, 4>>> instructions,
                      std::vector<std::tuple<int, int, std::vector<int>>> weights,
                      std::vector<std::vector<std::tuple<int, int>>> products,
                      std::vector<std::tuple<int, int, int, int>> carried, std::vector<int> vectors,
                      std::vector<int> arrays, std::vector<int> rows, int matrices, int sizes) {
    bptt::Program made{
        {}, std::move(groups), {}, {}, {}, {}, std::move(vectors), std::move(arrays), std::move(rows), matrices, sizes};
    for (auto [size, group, place] : slots) made.slots.push_back({size, group, place});
    for (const auto& [operation, to, from] : instructions)
        made.instructions.push_back({operation, to, {from[0], from[1], from[2], from[3]}});
    for (auto& [in, out, of] : weights) made.weights.push_back({in, out, std::move(of)});
    for (const auto& product : products) {
        made.products.emplace_back();
        for (auto [left, weight] : product) made.products.back().push_back({left, weight});
    }
    for (auto [slot, first, next, last] : carried) made.carried.push_back({slot, first, next, last});
    made.check();
    return made;
}

template <class Real>
bptt::Matrix<Real> strided(const Strided& matrix) {
    const auto [at, row, column] = matrix;
    return {pointer<Real>(at), row, column};
}

template <class Real>
void run(const bptt::Program& program, std::size_t T, std::size_t B, Address batch_sizes, bool reverse, bool back,
         const std::vector<std::size_t>& sizes, const std::vector<Strided>& arrays, const std::vector<Address>& rows,
         const std::vector<Address>& vectors, const std::vector<Strided>& matrices, std::size_t threads) {
    if (sizes.size() != static_cast<std::size_t>(program.sizes) || arrays.size() != program.arrays.size() ||
        rows.size() != program.rows.size() || vectors.size() != program.vectors.size() ||
        matrices.size() != static_cast<std::size_t>(program.matrices) || sizes[0] != 1)
        throw std::invalid_argument("a program gets as many arrays as it names");
    std::vector<bptt::Matrix<const Real>> weights;
    for (const Strided& matrix : matrices) weights.push_back(strided<const Real>(matrix));
    const auto pointers = [](const std::vector<Address>& addresses) {
        std::vector<Real*> all;
        for (Address at : addresses) all.push_back(pointer<Real>(at));
        return all;
    };
    std::vector<bptt::Matrix<Real>> of_steps;
    for (const Strided& array : arrays) of_steps.push_back(strided<Real>(array));
    const std::vector<Real*> of_rows = pointers(rows), of_all = pointers(vectors);
    const nb::gil_scoped_release without_gil;
    bptt::run<Real>({program,
                     {T, B, pointer<const std::int64_t>(batch_sizes), reverse},
                     back,
                     sizes.data(),
                     of_steps.data(),
                     of_rows.data(),
                     of_all.data(),
                     weights.data()},
                    threads);
}

// terms: inner length, left, right
template <class Real>
void multiply(std::size_t rows, std::size_t columns,
              const std::vector<std::tuple<std::size_t, Strided, Strided>>& terms, Address start, const Strided& to,
              std::size_t threads) {
    bptt::DenseProduct<Real> product{rows, columns, {}, pointer<const Real>(start), strided<Real>(to)};
    for (const auto& [inner, left, right] : terms)
        product.terms.push_back({inner, strided<const Real>(left), strided<const Real>(right)});
    const nb::gil_scoped_release without_gil;
    bptt::multiply(product, threads);
}

// lefts: columns, numbers, tokens, product
template <class Real>
void sum_up(std::size_t rows, std::size_t columns,
            const std::vector<std::tuple<std::size_t, Address, Address, Strided>>& lefts, const Strided& right,
            Address total, std::size_t threads) {
    bptt::DenseSum<Real> sum{rows, columns, {}, strided<const Real>(right), pointer<Real>(total)};
    for (const auto& [own, left, tokens, product] : lefts)
        sum.lefts.push_back(
            {own, pointer<const Real>(left), pointer<const std::int64_t>(tokens), strided<Real>(product)});
    const nb::gil_scoped_release without_gil;
    bptt::sum_up(sum, threads);
}

// One set of functions for each precision, so that the name of the call says how its addresses are read.
template <class Real>
void define(nb::module_ m, const bptt::Tensors& tensors) {
    m.def("address", [&tensors](nb::handle tensor, nb::handle shape) { return tensors.address<Real>(tensor, shape); });
    const auto without_gil = nb::call_guard<nb::gil_scoped_release>();
    m.def("forward_layer", &forward_layer<Real>, without_gil);
    m.def("backward_layer", &backward_layer<Real>, without_gil);
    m.def("run", &run<Real>);
    m.def("multiply", &multiply<Real>);
    m.def("sum_up", &sum_up<Real>);
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
    nb::enum_<bptt::Operation>(m, "Operation")
        .value("load", bptt::Operation::load)
        .value("previous", bptt::Operation::previous)
        .value("store", bptt::Operation::store)
        .value("product", bptt::Operation::product)
        .value("add_product", bptt::Operation::add_product)
        .value("sum", bptt::Operation::sum)
        .value("mean", bptt::Operation::mean)
        .value("largest", bptt::Operation::largest)
        .value("copy", bptt::Operation::copy)
        .value("negative", bptt::Operation::negative)
        .value("add", bptt::Operation::add)
        .value("subtract", bptt::Operation::subtract)
        .value("multiply", bptt::Operation::multiply)
        .value("divide", bptt::Operation::divide)
        .value("square", bptt::Operation::square)
        .value("tanh", bptt::Operation::tanh)
        .value("sigmoid", bptt::Operation::sigmoid)
        .value("relu", bptt::Operation::relu)
        .value("exp", bptt::Operation::exp)
        .value("log", bptt::Operation::log)
        .value("sqrt", bptt::Operation::sqrt)
        .value("softplus", bptt::Operation::softplus)
        .value("abs", bptt::Operation::abs)
        .value("sign", bptt::Operation::sign)
        .value("larger", bptt::Operation::larger)
        .value("smaller", bptt::Operation::smaller)
        .value("where_positive", bptt::Operation::where_positive)
        .value("where_at_least", bptt::Operation::where_at_least)
        .value("where_below", bptt::Operation::where_below)
        .value("where_inside", bptt::Operation::where_inside);
    nb::class_<bptt::Program>(m, "Program").def(nb::new_(&program));
    m.def("prefer_large_pages",
          [](Address at, std::size_t bytes) { bptt::prefer_large_pages(pointer<void>(at), bytes); });
    m.def("rows_of_a_block", &bptt::rows_of_a_block);
    static const bptt::Tensors tensors;
    define<float>(m.def_submodule("float32"), tensors);
    define<double>(m.def_submodule("float64"), tensors);
}
