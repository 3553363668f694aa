// Where the numbers of a tensor lie. torch tells it through the C functions that DLPack gives to every class of arrays
// (https://dmlc.github.io/dlpack/latest/c_api.html, of which the structs below are a part), in a few nanoseconds.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

namespace bptt {

class Tensors {
public:
    // Asks torch for its functions; throws nanobind::import_error where it has none that are known here.
    Tensors();

    struct Found {
        void* at;
        std::int64_t row_stride, column_stride;  // of the last two axes
    };

    // Of a tensor of this shape on the CPU, all of it within its storage and as it is, not negated: of real numbers or
    // integers of so many bytes; contiguous unless `strided`. None of any other, and of what is no tensor.
    std::optional<Found> find(nanobind::handle tensor, bool real, std::size_t bytes,
                              std::initializer_list<std::size_t> shape, bool strided = false) const;

private:
    bool is_whole(PyObject* tensor, std::int64_t last, std::size_t bytes) const;

    using Describe = int (*)(void* object, void* described);
    Describe describe_;
    PyTypeObject* type_;
    PyObject *is_neg_, *storage_offset_, *untyped_storage_;
};

// A capsule of DLPack, from which torch makes a tensor of this shape: borrowed memory, given back with the tensor.
// Throws std::runtime_error, as torch does, where there is not so much.
nanobind::capsule lent(const std::vector<std::int64_t>& shape, std::size_t bytes);

}  // namespace bptt
