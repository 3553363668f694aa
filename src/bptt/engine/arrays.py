"""Arrays as the C++ side reads them: checked once, then handed over as bare addresses.

The checks keep the C++ side from reading beyond an array: shapes, and that the storage reaches as far (resizing a
storage, as FSDP does, leaves the shape). Inputs that are not contiguous are copied, and those that torch keeps negated
are resolved; weights and their gradients may have any strides, so torch's transposed weights are read and written where
they lie.
"""

import torch
from torch import Tensor

from bptt.engine import _native, activations
from bptt.engine.steps import Steps

_PRECISIONS = {torch.float32: _native.float32, torch.float64: _native.float64}
ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "σ": "sigmoid", "identity": "identity"}
"""The functions that the engine knows as φ, by their names in the sheet."""
_DTYPES = {precision: dtype for dtype, precision in _PRECISIONS.items()}
_ACTIVATIONS = {name: _native.Activation[name] for name in activations.ACTIVATIONS}


def packing_of(name: str, array: Tensor, steps: Steps) -> tuple[Tensor | None, tuple[int, ...]]:
    """How many rows each step has, if packed; and the leading axes that arrays of all steps must have."""
    if steps.sizes is None:
        return None, (steps.T, steps.B)
    sizes = torch.as_tensor(steps.sizes, dtype=torch.int64, device="cpu").resolve_neg().contiguous()
    if sizes.shape != (steps.T,):
        raise ValueError(f"T must be the number of sizes, {tuple(sizes.shape)}; got {steps.T}")
    if len(sizes) and (int(sizes[0]) > steps.B or int(sizes[-1]) < 0 or bool((sizes[1:] > sizes[:-1]).any())):
        raise ValueError(
            f"the sizes of steps must not increase and lie in [0, {steps.B}], the rows of the first states; got "
            f"{list(steps.sizes)[:10]}{' ...' if len(sizes) > 10 else ''}. Sort the sequences by length, longest first."
        )
    N = int(sizes.sum())
    if array.shape[:1] != (N,):
        raise ValueError(f"`{name}` must have sum(sizes) = {N} rows; got shape {tuple(array.shape)}")
    return sizes, (N,)


def address(array: Tensor | None) -> int:
    """Where the numbers lie; 0 for no array, and only then or where it is empty."""
    if array is None:
        return 0
    at = array.data_ptr()
    if not at and array.numel():
        raise ValueError(
            f"the compiled sweeps read memory; got {array.dtype} of shape {tuple(array.shape)} that has none, as "
            "torch's zeros of forward-mode derivatives. Hand in a .clone() of it."
        )
    return at


def transposed(array: Tensor | None) -> tuple[int, int, int]:
    """Address and strides of the sheet's W, given torch's, which is its transpose."""
    if array is None:
        return 0, 0, 0
    row, column = array.stride()
    return address(array), column, row


def address_of(
    name: str, array: Tensor | None, precision: "_native._Precision", shape: tuple[int, ...], held: list[Tensor]
) -> int:
    """Address of an array that is read, after all checks; 0 for none. A copy that it needs is held."""
    if array is None:
        return 0
    at = precision.address(array, shape)  # what is usual is quick to ask
    if not at:
        array = require(name, array, _DTYPES[precision], shape)
        held.append(array)
        at = address(array)
    return at


def matrix_of(
    name: str, array: Tensor, precision: "_native._Precision", shape: tuple[int, int], held: list[Tensor]
) -> tuple[int, int, int]:
    """Address and strides of a matrix that is read, after all checks."""
    at = precision.address(array, shape)  # what is usual is quick to ask
    if at:
        return at, shape[1], 1
    array = require(name, array, _DTYPES[precision], shape, strided=True)
    held.append(array)
    row, column = array.stride()
    return address(array), row, column


def transposed_of(
    name: str, array: Tensor | None, precision: "_native._Precision", shape: tuple[int, int], held: list[Tensor]
) -> tuple[int, int, int]:
    """Those of the sheet's W, given torch's, which is its transpose."""
    if array is None:
        return 0, 0, 0
    at = precision.address(array, shape)  # what is usual is quick to ask
    if at:
        return at, 1, shape[1]
    at, row, column = matrix_of(name, array, precision, shape, held)
    return at, column, row


def activation_of(name: str) -> _native.Activation:
    if name not in _ACTIVATIONS:
        activations.activation(name)  # says which there are
    return _ACTIVATIONS[name]


def precision_of(name: str, dtype: torch.dtype) -> "_native._Precision":
    precision = _PRECISIONS.get(dtype)
    if precision is None:
        raise TypeError(f"the compiled sweeps take float32 and float64; `{name}` is {dtype}")
    return precision


def require(name: str, array: Tensor, dtype: torch.dtype, shape: tuple[int, ...], *, strided: bool = False) -> Tensor:
    """The array with its numbers as they lie in memory, all within its storage; contiguous unless `strided`."""
    if array.dtype is not dtype:
        raise TypeError(f"`{name}` must be {dtype} like the other arrays; got {array.dtype}")
    if not array.is_cpu:
        raise ValueError(f"`{name}` must be on the CPU; got {array.device}")
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {tuple(array.shape)}")
    check_storage(**{name: array})
    return array.resolve_neg() if strided else array.contiguous().resolve_neg()


def check_tokens(x: Tensor, I: int) -> None:
    """IndexError for tokens outside [0, I)."""
    if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < I:
        raise IndexError(f"tokens must lie in [0, {I}), the input size; got {int(x.min())} to {int(x.max())}")


def check_storage(**arrays: Tensor | None) -> None:
    """Raises ValueError where an array reaches beyond its storage, which may have been freed or cut short since.

    Most operations of torch read on: this is for arrays that go through one before they come here.
    """
    for name, array in arrays.items():
        if array is None or not array.numel():
            continue
        steps = zip(array.shape, array.stride(), strict=True)
        last = array.storage_offset() + sum((size - 1) * stride for size, stride in steps)
        end, held = array.element_size() * (1 + last), len(array.untyped_storage())
        if end > held:
            raise ValueError(
                f"`{name}` of shape {tuple(array.shape)} reaches to byte {end} of its storage, which has {held}: that "
                "was freed or cut short, as FSDP does with parameters outside their module's forward and backward. Use "
                "the array while its storage is whole."
            )


def require_output(
    name: str, array: Tensor, dtype: torch.dtype, shape: tuple[int, ...], *, strided: bool = False
) -> Tensor:
    """For an array that is written in place; a `strided` one may have any strides that keep its elements apart."""
    if require(name, array, dtype, shape, strided=strided) is not array:
        if not strided and not array.is_contiguous():
            raise ValueError(f"`{name}` must be contiguous, it is written in place; got strides {array.stride()}")
        raise ValueError(f"`{name}` is written in place, and torch keeps it negated. Hand in .resolve_neg() of it.")
    if strided and not array.is_contiguous():
        reached = 0
        for stride, size in sorted(zip(array.stride(), shape, strict=True)):
            if size > 1 and stride <= reached:
                raise ValueError(
                    f"`{name}` must have a place of its own for each element, it is written in place; got strides "
                    f"{array.stride()} for shape {shape}. Hand in .contiguous() of it."
                )
            reached += (size - 1) * stride
    return array
