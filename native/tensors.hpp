// Where the numbers of a tensor lie. torch tells it through the C functions that DLPack gives to every class of arrays
// (https://dmlc.github.io/dlpack/latest/c_api.html, of which the structs below are a part), in a few nanoseconds.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>

namespace bptt {

class Tensors {
public:
    // Asks torch for its functions; throws nanobind::import_error where it has none that are known here.
    Tensors();

    // Of a contiguous tensor of this dtype and shape on the CPU, all of it within its storage; 0 for any other, for an
    // empty one, and for what is no tensor.
    template <class Real>
    std::uintptr_t address(nanobind::handle tensor, nanobind::handle shape) const {
        return address(tensor, sizeof(Real), shape);
    }

private:
    std::uintptr_t address(nanobind::handle tensor, std::size_t bytes, nanobind::handle shape) const;
    bool is_whole(PyObject* tensor, std::size_t count, std::size_t bytes) const;

    using Describe = int (*)(void* object, void* described);
    Describe describe_;
    PyTypeObject* type_;
    PyObject *is_neg_, *storage_offset_, *untyped_storage_;
};

}  // namespace bptt
