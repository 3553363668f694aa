#include "tensors.hpp"

namespace bptt {

namespace {

namespace nb = nanobind;

struct Described {  // DLTensor
    void* data;
    std::int32_t device_type, device_id;
    std::int32_t axes;
    std::uint8_t code, bits;
    std::uint16_t lanes;
    const std::int64_t *shape, *strides;
    std::uint64_t byte_offset;
};
constexpr std::int32_t cpu = 1;
constexpr std::uint8_t floating_point = 2;

struct Exchange {  // DLPackExchangeAPI
    std::uint32_t major, minor;
    void* older;
    void* functions_of_managed_tensors[3];
    int (*describe)(void* object, void* described);
    void* current_stream;
};

// A new reference to what the method returns.
nb::object called(PyObject* object, PyObject* method) {
    nb::object result = nb::steal(PyObject_CallMethodNoArgs(object, method));
    if (!result.is_valid()) throw nb::python_error();
    return result;
}

}  // namespace

Tensors::Tensors()
    : is_neg_(PyUnicode_InternFromString("is_neg")),
      storage_offset_(PyUnicode_InternFromString("storage_offset")),
      untyped_storage_(PyUnicode_InternFromString("untyped_storage")) {
    nb::object type = nb::module_::import_("torch").attr("Tensor");
    nb::object capsule = type.attr("__dlpack_c_exchange_api__");
    const auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!exchange || exchange->major != 1 || !exchange->describe) {
        PyErr_Clear();
        throw nb::import_error("bptt needs torch's C functions of DLPack 1, and this torch has others");
    }
    describe_ = exchange->describe;
    type_ = reinterpret_cast<PyTypeObject*>(type.release().ptr());
}

std::uintptr_t Tensors::address(nb::handle tensor, std::size_t bytes, nb::handle shape) const {
    Described found;
    if (!PyObject_TypeCheck(tensor.ptr(), type_)) return 0;
    if (describe_(tensor.ptr(), &found)) {
        PyErr_Clear();
        return 0;
    }
    const auto axes = static_cast<Py_ssize_t>(found.axes);
    if (found.device_type != cpu || found.code != floating_point || found.bits != 8 * bytes || found.lanes != 1)
        return 0;
    if (!PyTuple_Check(shape.ptr()) || PyTuple_GET_SIZE(shape.ptr()) != axes) return 0;
    std::int64_t count = 1;
    for (Py_ssize_t k = axes; k-- > 0;) {
        const std::int64_t size = found.shape[k];
        if (nb::cast<std::int64_t>(nb::handle(PyTuple_GET_ITEM(shape.ptr(), k))) != size) return 0;
        if (size != 1 && found.strides[k] != count) return 0;
        count *= size;
    }
    if (!count || !is_whole(tensor.ptr(), static_cast<std::size_t>(count), bytes)) return 0;
    return reinterpret_cast<std::uintptr_t>(found.data) + found.byte_offset;
}

// Whether all of its numbers lie within its storage, which may have been cut short, and as they are, not negated.
bool Tensors::is_whole(PyObject* tensor, std::size_t count, std::size_t bytes) const {
    if (PyObject_IsTrue(called(tensor, is_neg_).ptr())) return false;
    const Py_ssize_t held = PyObject_Length(called(tensor, untyped_storage_).ptr());
    const std::size_t before = PyLong_AsSize_t(called(tensor, storage_offset_).ptr());
    if (PyErr_Occurred()) throw nb::python_error();
    return before + count <= static_cast<std::size_t>(held) / bytes;
}

}  // namespace bptt
