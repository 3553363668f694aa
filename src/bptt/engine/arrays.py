"""Arrays that the C++ side cannot read as they are: made such, or refused in words.

The checks keep it from reading beyond an array: shapes, and that the storage reaches as far (resizing a storage, as
FSDP does, leaves the shape). Inputs that are not contiguous are copied, those that torch keeps negated are resolved.
Weights and their gradients may have any strides: torch's transposed weights are read and written where they lie.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bptt.engine.lowering import Taken
from bptt.engine.steps import Steps


def check_sizes(name: str, array: Tensor, steps: Steps) -> list[int]:
    """The rows of each step of a packed batch; ValueError where they cannot be those of this array."""
    sizes = torch.as_tensor(steps.sizes, dtype=torch.int64, device="cpu").resolve_neg().tolist()
    if len(sizes) != steps.T:
        raise ValueError(f"T must be the number of sizes, {len(sizes)}; got {steps.T}")
    if sizes and (sizes[0] > steps.B or sizes[-1] < 0 or any(b > a for a, b in pairwise(sizes))):
        raise ValueError(
            f"the sizes of steps must not increase and lie in [0, {steps.B}], the rows of the first states; got "
            f"{sizes[:10]}{' ...' if len(sizes) > 10 else ''}. Sort the sequences by length, longest first."
        )
    if array.shape[:1] != (sum(sizes),):
        raise ValueError(f"`{name}` must have sum(sizes) = {sum(sizes)} rows; got shape {tuple(array.shape)}")
    return sizes


def readable(taken: Taken, tensor: Tensor | None, length: Sequence[int], steps: Steps, dtype: torch.dtype) -> Tensor:
    """What the engine can read in the place of a tensor of a program. Those that it writes are refused.

    length: of each size of the program.
    """
    name, kind, sizes = taken.name, taken.kind, [length[k] for k in taken.sizes]
    sizes[0] *= taken.blocks
    if tensor is None:
        raise ValueError(f"`{name}` must be given")
    if kind == "steps" and not tensor.is_floating_point() and not tensor.is_complex():
        check_storage(**{name: tensor})
        return require(name, tensor.to(torch.int64), torch.int64, steps.rows)
    shape = {"steps": (*steps.rows, *sizes), "rows": (*[1] * (tensor.dim() != 2), steps.B, *sizes)}.get(kind, (*sizes,))
    if taken.is_written:
        require_output(name, tensor, dtype, shape, strided=kind == "matrix")
        raise ValueError(f"`{name}` cannot be written: {tensor.dtype} of shape {shape} and strides {tensor.stride()}")
    return require(name, tensor, dtype, shape, strided=kind == "matrix")


def require(name: str, array: Tensor, dtype: torch.dtype, shape: tuple[int, ...], *, strided: bool = False) -> Tensor:
    """The array with its numbers as they lie in memory, all within its storage; contiguous unless `strided`."""
    if array.dtype is not dtype:
        raise TypeError(f"`{name}` must be {dtype} like the other arrays; got {array.dtype}")
    if not array.is_cpu:
        raise ValueError(f"`{name}` must be on the CPU; got {array.device}")
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {tuple(array.shape)}")
    check_storage(**{name: array})
    array = array.resolve_neg() if strided else array.contiguous().resolve_neg()
    if not array.data_ptr() and array.numel():
        raise ValueError(
            f"the compiled engine reads memory; got {array.dtype} of shape {tuple(array.shape)} that has none, as "
            "torch's zeros of forward-mode derivatives. Hand in a .clone() of it."
        )
    return array


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
