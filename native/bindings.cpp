// The door to Python: programs, and a call that runs one on tensors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "contract.hpp"
#include "program.hpp"
#include "tensors.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class... Fields>
using Records = std::vector<std::tuple<Fields...>>;
using Terms = Records<int, int>;

template <class Record, class... Fields>
std::vector<Record> records(const Records<Fields...>& all) {
    std::vector<Record> made;
    for (const auto& fields : all)
        made.push_back(std::apply([](const auto&... field) { return Record{field...}; }, fields));
    return made;
}

bptt::Program program(bool back, int sizes, const Records<int, int, int>& slots, const Records<int, bool>& groups,
                      const Records<bptt::Operation, int, std::array<int, 4>>& instructions,
                      const Records<int, int, std::vector<int>>& weights, const std::vector<Terms>& products,
                      const Records<int, std::vector<std::vector<int>>, Terms>& ahead,
                      const Records<int, int, int, int>& carried, const Records<int, bool, int, int, int>& gradients,
                      const Records<int, Terms>& after, const Records<double, int>& numbers,
                      const Records<int, int, int>& vectors, const Records<int, bool>& arrays, std::vector<int> rows,
                      const Records<int, int, bool, int, int>& matrices,
                      const Records<int, int, bool, int, int>& results) {
    bptt::Program made{back,
                       sizes,
                       records<bptt::Slot>(slots),
                       records<bptt::Group>(groups),
                       {},
                       records<bptt::Weight>(weights),
                       {},
                       {},
                       records<bptt::Carried>(carried),
                       records<bptt::Gradient>(gradients),
                       {},
                       records<bptt::Number>(numbers),
                       records<bptt::Vector>(vectors),
                       records<bptt::Array>(arrays),
                       std::move(rows),
                       records<bptt::Given>(matrices),
                       records<bptt::Given>(results),
                       {}};
    for (const auto& [operation, to, from] : instructions)
        made.instructions.push_back({operation, to, {from[0], from[1], from[2], from[3]}});
    for (const Terms& terms : products) made.products.push_back(records<bptt::Factors>(terms));
    for (const auto& [to, of, terms] : ahead) made.ahead.push_back({to, of, records<bptt::Factors>(terms)});
    for (const auto& [to, terms] : after) made.after.push_back({to, records<bptt::Factors>(terms)});
    made.prepare();
    return made;
}

// The tensors of a call in the order of the program, and what is found of each.
template <class Real>
class Arguments {
public:
    Arguments(const bptt::Tensors& tensors, const bptt::Program& program, const nb::list& given,
              const bptt::Steps& steps, const std::vector<std::size_t>& lengths)
        : tensors_(tensors), given_(given), steps_(steps), lengths_(lengths) {
        std::size_t count =
            program.rows.size() + program.vectors.size() + program.matrices.size() + program.results.size();
        for (const bptt::Array& array : program.arrays) count += !array.of_block;
        if (given.size() != count || lengths.size() != static_cast<std::size_t>(program.sizes) || lengths[0] != 1)
            throw std::invalid_argument("a program gets as many tensors and lengths as it names");
        all_ = steps.batch_sizes ? std::accumulate(steps.batch_sizes, steps.batch_sizes + steps.T, std::int64_t{0}) : 0;
        arrays.reserve(program.arrays.size());
        tokens.reserve(program.arrays.size());
        rows.reserve(program.rows.size());
        vectors.reserve(program.vectors.size());
        matrices.reserve(program.matrices.size());
        results.reserve(program.results.size());
        seen_.reserve(16);
        std::vector<bool> is_read(program.arrays.size());
        for (const bptt::Ahead& ahead : program.ahead)
            for (const bptt::Factors& factors : ahead.terms) is_read[factors.left] = true;
        for (const bptt::Gradient& gradient : program.gradients)
            if (gradient.left >= 0) is_read[gradient.left] = true;
        for (std::size_t k = 0; k < program.arrays.size(); ++k) of_steps(program.arrays[k], !is_read[k]);
        for (int size : program.rows) of_rows(lengths[size]);
        for (const bptt::Vector& vector : program.vectors) {
            const std::size_t length = lengths[vector.size];
            const Real* const whole = at<Real>(taken(look_at_whole(length * vector.blocks, {}, false), false));
            vectors.push_back(whole ? whole + length * vector.block : nullptr);
        }
        for (const bptt::Given& matrix : program.matrices) matrices.push_back(strided<const Real>(matrix, false));
        for (const bptt::Given& result : program.results) results.push_back(strided<Real>(result, true));
    }

    int unfit = -1;  // the first that cannot be read as it is
    std::vector<Real*> arrays, rows;
    std::vector<const std::int64_t*> tokens;
    std::vector<const Real*> vectors;
    std::vector<bptt::Matrix<const Real>> matrices;
    std::vector<bptt::Matrix<Real>> results;

private:
    using Found = bptt::Tensors::Found;

    struct Seen {
        PyObject* tensor;
        std::size_t lines;
        std::optional<std::size_t> line;
        bool strided;
        Found found;
    };

    template <class T>
    static T* at(const Found& found) {
        return static_cast<T*>(found.at);
    }

    Found taken(std::optional<Found> found, bool may_be_none) {
        if (!found && unfit < 0 && !(may_be_none && next().is_none())) unfit = static_cast<int>(next_);
        ++next_;
        return found.value_or(Found{});
    }

    nb::handle next() const { return given_[next_]; }

    std::optional<Found> look(std::initializer_list<std::size_t> shape, bool strided = false) const {
        return tensors_.find(next(), true, sizeof(Real), shape, strided);
    }

    // Of a tensor that may have come before: blocks of one are asked for one after the other. A vector has no `line`.
    std::optional<Found> look_at_whole(std::size_t lines, std::optional<std::size_t> line, bool strided) {
        for (const Seen& seen : seen_)
            if (seen.tensor == next().ptr() && seen.lines == lines && seen.line == line && seen.strided == strided)
                return seen.found;
        const std::optional<Found> found = line ? look({lines, *line}, strided) : look({lines}, strided);
        if (found) seen_.push_back({next().ptr(), lines, line, strided, *found});
        return found;
    }

    void of_steps(const bptt::Array& array, bool may_be_none) {
        arrays.push_back(nullptr);
        tokens.push_back(nullptr);
        if (array.of_block) return;
        const bool packed = steps_.batch_sizes;
        const auto N = static_cast<std::size_t>(all_);
        const std::size_t T = steps_.T, B = steps_.B, width = lengths_[array.size];
        std::optional<Found> found = packed ? look({N, width}) : look({T, B, width});
        if (!found) {
            const std::optional<Found> integers = packed ? tensors_.find(next(), false, sizeof(std::int64_t), {N})
                                                         : tensors_.find(next(), false, sizeof(std::int64_t), {T, B});
            static const std::int64_t none = 0;  // tokens of no step
            if (integers) tokens.back() = integers->at ? at<std::int64_t>(*integers) : &none;
            if (integers) found = Found{};
        }
        arrays.back() = at<Real>(taken(found, may_be_none));
    }

    void of_rows(std::size_t width) {
        std::optional<Found> found = look({1, steps_.B, width});
        if (!found) found = look({steps_.B, width});
        rows.push_back(at<Real>(taken(found, true)));
    }

    template <class R>
    bptt::Matrix<R> strided(const bptt::Given& matrix, bool is_written) {
        const std::size_t columns = lengths_[matrix.columns];
        if (matrix.rows < 0) {
            const std::size_t all = columns * matrix.blocks;
            std::optional<Found> vector = look_at_whole(all, {}, true);
            if (vector && vector->at && is_written && !is_apart(*vector, 1, all)) vector.reset();
            const Found given = taken(vector, is_written);
            return {block<R>(matrix, given, columns, given.column_stride), 0, given.column_stride};
        }
        const std::size_t rows = lengths_[matrix.rows], lines = matrix.is_transposed ? columns : rows,
                          line = matrix.is_transposed ? rows : columns, all = lines * matrix.blocks;
        std::optional<Found> found = look_at_whole(all, line, true);
        if (found && found->at && is_written && !is_apart(*found, all, line)) found.reset();
        const Found given = taken(found, is_written);
        R* const begin = block<R>(matrix, given, lines, given.row_stride);
        if (matrix.is_transposed) return {begin, given.column_stride, given.row_stride};
        return {begin, given.row_stride, given.column_stride};
    }

    // Where the block begins, of so many lines.
    template <class R>
    static R* block(const bptt::Given& matrix, const Found& whole, std::size_t lines, std::int64_t stride) {
        R* const begin = at<R>(whole);
        return begin ? begin + static_cast<std::int64_t>(lines) * matrix.block * stride : nullptr;
    }

    // Whether each element has a place of its own.
    static bool is_apart(const Found& found, std::size_t rows, std::size_t columns) {
        const auto row = static_cast<std::size_t>(found.row_stride),
                   column = static_cast<std::size_t>(found.column_stride);
        if (rows <= 1) return columns <= 1 || column != 0;
        if (columns <= 1) return row != 0;
        return row < column ? row != 0 && column > row * (rows - 1) : column != 0 && row > column * (columns - 1);
    }

    const bptt::Tensors& tensors_;
    const nb::list& given_;
    const bptt::Steps& steps_;
    const std::vector<std::size_t>& lengths_;
    std::vector<Seen> seen_;
    std::size_t next_ = 0;
    std::int64_t all_ = 0;
};

// Runs a program, or returns the place of the first tensor that it cannot read as it is; -1 when it has run.
template <class Real>
int run(const bptt::Tensors& tensors, const bptt::Program& program, const nb::list& given, std::size_t T, std::size_t B,
        const std::optional<std::vector<std::int64_t>>& batch_sizes, bool reverse,
        const std::vector<std::size_t>& lengths, bool accumulate, std::size_t threads) {
    if (batch_sizes) {
        std::int64_t before = static_cast<std::int64_t>(B);
        for (std::int64_t size : *batch_sizes) {
            if (size < 0 || size > before) throw std::invalid_argument("sizes of steps must not increase");
            before = size;
        }
        T = batch_sizes->size();
    }
    static const std::int64_t none = 0;
    const bptt::Steps steps{T, B, batch_sizes ? batch_sizes->empty() ? &none : batch_sizes->data() : nullptr, reverse};
    const Arguments<Real> all(tensors, program, given, steps, lengths);
    if (all.unfit >= 0) return all.unfit;
    const nb::gil_scoped_release without_gil;
    bptt::run<Real>({program, steps, lengths.data(), all.arrays.data(), all.tokens.data(), all.rows.data(),
                     all.vectors.data(), all.matrices.data(), all.results.data(), accumulate},
                    threads);
    return -1;
}

}  // namespace

NB_MODULE(_native, m) {
    try {
        m.attr("instruction_set") = bptt::instruction_set();
    } catch (const std::runtime_error& error) {
        throw nb::import_error(error.what());
    }
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
        .value("multiply_add", bptt::Operation::multiply_add)
        .value("multiply_subtract", bptt::Operation::multiply_subtract)
        .value("through_tanh", bptt::Operation::through_tanh)
        .value("through_sigmoid", bptt::Operation::through_sigmoid)
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
    nb::class_<bptt::Program>(m, "Program")
        .def(nb::new_(&program), nb::kw_only(), "back"_a, "sizes"_a, "slots"_a, "groups"_a, "instructions"_a,
             "weights"_a, "products"_a, "ahead"_a, "carried"_a, "gradients"_a, "after"_a, "numbers"_a, "vectors"_a,
             "arrays"_a, "rows"_a, "matrices"_a, "results"_a);
    m.def("prefer_large_pages",
          [](std::uintptr_t at, std::size_t bytes) { bptt::prefer_large_pages(reinterpret_cast<void*>(at), bytes); });
    m.def("lent", &bptt::lent, "shape"_a, "bytes"_a);
    m.def("rows_of_a_block", &bptt::rows_of_a_block);
    static const bptt::Tensors tensors;
    m.def(
        "run",
        [](const bptt::Program& program, bool is_double, const nb::list& given, std::size_t T, std::size_t B,
           const std::optional<std::vector<std::int64_t>>& batch_sizes, bool reverse,
           const std::vector<std::size_t>& lengths, bool accumulate, std::size_t threads) {
            return (is_double ? run<double> : run<float>)(tensors, program, given, T, B, batch_sizes, reverse, lengths,
                                                          accumulate, threads);
        },
        "program"_a, "is_double"_a, "tensors"_a, "T"_a, "B"_a, "batch_sizes"_a.none(), "reverse"_a, "lengths"_a,
        "accumulate"_a, "threads"_a);
}
