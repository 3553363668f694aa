#include "tensors.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>

#include "buffer.hpp"

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
constexpr std::uint8_t integer = 0, floating_point = 2;

struct Managed {  // DLManagedTensor
    Described tensor;
    void* context;
    void (*release)(Managed*);
};

// A loan as a tensor.
struct Lent {
    Managed managed;
    Loan loan;
    std::vector<std::int64_t> shape, strides;
};

void take_back(Managed* managed) {
    auto* const lent = static_cast<Lent*>(managed->context);
    give_back(lent->loan);
    delete lent;
}

// Of a capsule that nobody has made a tensor of; one that somebody has is renamed.
void take_back_unused(PyObject* capsule) noexcept {
    if (PyCapsule_IsValid(capsule, "dltensor"))
        take_back(static_cast<Managed*>(PyCapsule_GetPointer(capsule, "dltensor")));
}

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

std::optional<Tensors::Found> Tensors::find(nb::handle tensor, bool real, std::size_t bytes,
                                            std::initializer_list<std::size_t> shape, bool strided) const {
    Described found;
    if (!PyObject_TypeCheck(tensor.ptr(), type_)) return {};
    if (describe_(tensor.ptr(), &found)) {
        PyErr_Clear();
        return {};
    }
    if (found.device_type != cpu || found.code != (real ? floating_point : integer) || found.bits != 8 * bytes ||
        found.lanes != 1 || found.axes != static_cast<std::int32_t>(shape.size()))
        return {};
    for (std::int32_t axis = 0; axis < found.axes; ++axis)
        if (static_cast<std::int64_t>(shape.begin()[axis]) != found.shape[axis]) return {};
    if (std::find(shape.begin(), shape.end(), std::size_t{0}) != shape.end()) return Found{};
    if (!found.data) return {};  // torch's zeros of forward-mode derivatives
    std::int64_t count = 1, last = 0;
    for (std::int32_t axis = found.axes; axis-- > 0;) {
        const std::int64_t size = found.shape[axis], stride = found.strides[axis];
        if (size != 1 && stride != count && !(strided && stride >= 0)) return {};
        last += (size - 1) * stride;
        count *= size;
    }
    Found at{nullptr, found.axes > 1 ? found.strides[found.axes - 2] : 0,
             found.axes > 0 ? found.strides[found.axes - 1] : 0};
    if (!is_whole(tensor.ptr(), last, bytes)) return {};
    at.at = static_cast<char*>(found.data) + found.byte_offset;
    return at;
}

nb::capsule lent(const std::vector<std::int64_t>& shape, std::size_t bytes) {
    auto made = std::make_unique<Lent>();
    made->shape = shape;
    made->strides.resize(shape.size());
    std::int64_t count = 1, all = 0;
    bool fits = true;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
        made->strides[axis] = count;
        fits = fits && shape[axis] >= 0 && !__builtin_mul_overflow(count, shape[axis], &count);
    }
    fits = fits && !__builtin_mul_overflow(count, static_cast<std::int64_t>(bytes), &all);
    try {
        if (!fits) throw std::bad_alloc();
        made->loan = borrow(static_cast<std::size_t>(all));
    } catch (const std::bad_alloc&) {
        throw std::runtime_error("there is not enough memory for the values that a layer keeps for its way back");
    }
    made->managed = {{made->loan.at, cpu, 0, static_cast<std::int32_t>(shape.size()), floating_point,
                      static_cast<std::uint8_t>(8 * bytes), 1, made->shape.data(), made->strides.data(), 0},
                     made.get(),
                     &take_back};
    PyObject* const capsule = PyCapsule_New(&made->managed, "dltensor", &take_back_unused);
    if (!capsule) {
        give_back(made->loan);
        throw nb::python_error();
    }
    made.release();
    return nb::steal<nb::capsule>(capsule);
}

// Whether all of its numbers lie within its storage, which may have been cut short, and as they are, not negated.
bool Tensors::is_whole(PyObject* tensor, std::int64_t last, std::size_t bytes) const {
    if (PyObject_IsTrue(called(tensor, is_neg_).ptr())) return false;
    const Py_ssize_t held = PyObject_Length(called(tensor, untyped_storage_).ptr());
    const std::size_t before = PyLong_AsSize_t(called(tensor, storage_offset_).ptr());
    if (PyErr_Occurred()) throw nb::python_error();
    return before + static_cast<std::size_t>(last) < static_cast<std::size_t>(held) / bytes;
}

}  // namespace bptt
