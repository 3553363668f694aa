"""One recurrent layer as operators of `torch.library`: what torch.compile, torch.export, torch.onnx and torch.func see.

    bptt::rnn_layer           A1 to A4 for all steps
    bptt::rnn_layer_backward  B7 to B11 and the future's part of B6, as far as they are asked for

Both run on the engine that `bptt.engine` chooses and say what shapes come out without running (fake kernels), so that
they can be traced with T and B unknown; both have batching rules. The gradient of the first is the second. The gradient
of the second, and with it derivatives of any order, is that of the reference engine's backward sweep, as a function of
the states too: what it sends back to them goes through the layer again.

Calling an operator costs more than a short layer takes; `function` calls these only where somebody has to see them, and
for second derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bptt.engine import choose, packing, reference


@torch.library.custom_op(
    "bptt::rnn_layer",
    mutates_args=(),
    schema="(Tensor x, Tensor? h0, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor? batch_sizes, str activation, bool reverse) -> (Tensor, Tensor)",
)
def rnn_layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    batch_sizes: Tensor | None,
    activation: str,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The states of all steps (T, B, H), packed (N, H), and the last of every row (1, B, H).

    Arguments as for `bptt.autograd.function.layer`; batch_sizes (T,) is a tensor of integers on the CPU.
    """
    sizes = _sizes(batch_sizes)
    B = packing.rows_of_batch(x, sizes) if h0 is None else h0.shape[1]
    y, h_n = _states(x, weight_hh, B, packed=sizes is not None)
    choose(x.device.type, weight_hh.dtype).engine.forward_layer(
        x, h0, weight_ih, weight_hh, bias_ih, bias_hh, activation, batch_sizes=sizes, reverse=reverse, out=y, h_n=h_n
    )
    return y, h_n


@torch.library.custom_op(
    "bptt::rnn_layer_backward",
    mutates_args=(),
    schema="(Tensor? dy, Tensor? dh_n, Tensor y, Tensor? h0, Tensor x, Tensor weight_ih, Tensor weight_hh, "
    "Tensor? batch_sizes, str activation, bool reverse, bool[] needed) -> Tensor[]",
)
def rnn_layer_backward(
    dy: Tensor | None,
    dh_n: Tensor | None,
    y: Tensor,
    h0: Tensor | None,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    batch_sizes: Tensor | None,
    activation: str,
    reverse: bool,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Those of dx, dh0, dweight_ih, dweight_hh, dbias and da that are needed, in this order.

    dy (T, B, H) and dh_n (1, B, H) are the cotangents of what `rnn_layer` returned, None being zero; y are its states.
    """
    gradients = _gradients(y, h0, x, weight_ih, weight_hh, needed)
    choose(x.device.type, weight_hh.dtype).engine.backward_layer(
        dy, dh_n, y, h0, x, weight_ih, weight_hh, activation, batch_sizes=_sizes(batch_sizes), reverse=reverse,
        **gradients,
    )  # fmt: skip
    return list(gradients.values())


def _sizes(batch_sizes: Tensor | None) -> list[int] | None:
    return None if batch_sizes is None else batch_sizes.tolist()


def _states(x: Tensor, weight_hh: Tensor, B: Any, *, packed: bool) -> tuple[Tensor, Tensor]:
    H = weight_hh.shape[0]
    return weight_hh.new_empty((x.shape[0], H) if packed else (x.shape[0], B, H)), weight_hh.new_empty((1, B, H))


def _gradients(
    y: Tensor, h0: Tensor | None, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, needed: Sequence[bool]
) -> dict[str, Tensor]:
    shapes = {
        "dx": x.shape,
        "dh0": None if h0 is None else h0.shape,
        "dweight_ih": weight_ih.shape,
        "dweight_hh": weight_hh.shape,
        "dbias": weight_hh.shape[:1],
        "da": y.shape,
    }
    return {
        name: y.new_empty(shape)
        for (name, shape), need in zip(shapes.items(), needed, strict=True)
        if need and shape is not None
    }


@rnn_layer.register_fake
def _(
    x: Tensor, h0: Tensor | None, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None,
    batch_sizes: Tensor | None, activation: str, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if h0 is not None:
        B = h0.shape[1]
    else:  # of a packed batch only the numbers in batch_sizes would say
        B = x.shape[1] if batch_sizes is None else torch.library.get_ctx().new_dynamic_size()
    return _states(x, weight_hh, B, packed=batch_sizes is not None)


@rnn_layer_backward.register_fake
def _(
    dy: Tensor | None, dh_n: Tensor | None, y: Tensor, h0: Tensor | None, x: Tensor, weight_ih: Tensor,
    weight_hh: Tensor, batch_sizes: Tensor | None, activation: str, reverse: bool, needed: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    return list(_gradients(y, h0, x, weight_ih, weight_hh, needed).values())


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, h0, weight_ih, weight_hh, _, _, batch_sizes, ctx.activation, ctx.reverse = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h0, weight_ih, weight_hh, batch_sizes, output[0])


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Any, ...]:
    x, h0, weight_ih, weight_hh, batch_sizes, y = ctx.saved_tensors
    needs = ctx.needs_input_grad
    gradients = gradients_of_layer(
        dy, dh_n, y, h0, x, weight_ih, weight_hh, batch_sizes, ctx.activation, ctx.reverse, needs[:6]
    )
    return *gradients, None, None, None


def gradients_of_layer(
    dy: Tensor | None, dh_n: Tensor | None, y: Tensor, h0: Tensor | None, x: Tensor, weight_ih: Tensor,
    weight_hh: Tensor, batch_sizes: Tensor | None, activation: str, reverse: bool, needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of x, h0, weight_ih, weight_hh, bias_ih and bias_hh, None where `needs` does not ask for one."""
    if dy is None and dh_n is None:
        return (None,) * 6
    needed = [*needs[:4], needs[4] or needs[5], False]
    found = iter(
        _called(rnn_layer_backward, dy, dh_n, y, h0, x, weight_ih, weight_hh, batch_sizes, activation, reverse, needed)
    )
    *gradients, dbias, _ = (next(found) if need else None for need in needed)
    dbias_hh = dbias.clone() if dbias is not None and needs[4] and needs[5] else dbias
    return *gradients, dbias if needs[4] else None, dbias_hh if needs[5] else None


def _keep_for_second_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *tensors, ctx.activation, ctx.reverse, ctx.needed = inputs
    ctx.save_for_backward(*tensors)


def _second_backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
    if isinstance(cotangents[0], list):  # as an operator gives them
        (cotangents,) = cotangents
    *inputs, batch_sizes = ctx.saved_tensors
    sizes = _sizes(batch_sizes)
    places = [k for k, tensor in enumerate(inputs) if tensor is not None and tensor.is_floating_point()]

    def backward_of(*given: Tensor) -> list[Tensor]:
        arguments: list[Any] = list(inputs)
        for place, tensor in zip(places, given, strict=True):
            arguments[place] = tensor
        gradients = _by_reference(arguments, sizes, ctx.activation, ctx.reverse)
        return [gradient() for gradient, need in zip(gradients, ctx.needed, strict=True) if need]

    pull_back = torch.func.vjp(backward_of, *(inputs[place] for place in places))[1]
    pulled = dict(zip(places, pull_back(list(cotangents)), strict=True))
    return *(pulled.get(k) for k in range(len(inputs))), None, None, None, None


def _by_reference(
    inputs: Sequence[Any], sizes: list[int] | None, activation: str, reverse: bool
) -> tuple[Callable[[], Tensor], ...]:
    """What `rnn_layer_backward` computes, in operations that torch differentiates."""
    dy, dh_n, y, h0, x, weight_ih, weight_hh = inputs
    B = packing.rows_of_batch(x, sizes) if h0 is None else h0.shape[1]
    states = packing.with_h0(y, h0, B, sizes, reverse)
    received = torch.zeros_like(states) if dy is None else packing.with_h0(dy, None, B, sizes, reverse)
    if dh_n is not None:
        last = packing.last_rows([B] * len(x) if sizes is None else sizes, B, reverse)
        received = received.flatten(0, -2).index_add(0, last.to(y.device), dh_n[0]).view(states.shape)
    da, dh0 = reference.backward_sweep(
        packing.of_steps(received, B, sizes, reverse), states, weight_hh.mT, activation,
        batch_sizes=sizes, reverse=reverse,
    )  # fmt: skip
    rows = da.flatten(0, -2)

    def dweight_ih() -> Tensor:
        if x.is_floating_point():
            return rows.mT @ x.flatten(0, -2)
        return torch.zeros_like(weight_ih.mT).index_add(0, x.flatten(), rows).mT

    return (
        lambda: da @ weight_ih,
        lambda: (dh0 + packing.of_h0(received, B, sizes, reverse))[None],
        dweight_ih,
        lambda: rows.mT @ packing.previous_states(states, B, sizes, reverse).flatten(0, -2),
        lambda: rows.sum(0),
        lambda: da,
    )


def _vmap(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, h0: Tensor | None, weight_ih: Tensor, weight_hh: Tensor,
    bias_ih: Tensor | None, bias_hh: Tensor | None, batch_sizes: Tensor | None, activation: str, reverse: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:  # fmt: skip
    V = info.batch_size
    if any(dim is not None for dim in in_dims[2:6]):
        tensors = (x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
        each = [
            _called(
                rnn_layer,
                *(_sample(tensor, dim, v) for tensor, dim in zip(tensors, in_dims, strict=False)),
                batch_sizes, activation, reverse,
            )
            for v in range(V)
        ]  # fmt: skip
        return (torch.stack([y for y, _ in each]), torch.stack([h_n for _, h_n in each])), (0, 0)
    axis = 1 if batch_sizes is None else 0
    sizes = None if batch_sizes is None else V * batch_sizes
    y, h_n = _called(
        rnn_layer,
        _as_rows(x, in_dims[0], axis, V), None if h0 is None else _as_rows(h0, in_dims[1], 1, V),
        weight_ih, weight_hh, bias_ih, bias_hh, sizes, activation, reverse,
    )  # fmt: skip
    return (_as_samples(y, axis, V), _as_samples(h_n, 1, V)), (axis + 1, 2)


def _vmap_of_backward(
    info: Any, in_dims: tuple[Any, ...], dy: Tensor | None, dh_n: Tensor | None, y: Tensor, h0: Tensor | None,
    x: Tensor, weight_ih: Tensor, weight_hh: Tensor, batch_sizes: Tensor | None, activation: str, reverse: bool,
    needed: Sequence[bool],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
    V = info.batch_size
    tensors = (dy, dh_n, y, h0, x, weight_ih, weight_hh)
    if in_dims[5] is not None or in_dims[6] is not None:
        each = [
            _called(
                rnn_layer_backward,
                *(_sample(tensor, dim, v) for tensor, dim in zip(tensors, in_dims, strict=False)),
                batch_sizes, activation, reverse, needed,
            )
            for v in range(V)
        ]  # fmt: skip
        stacked = tuple(torch.stack(gradients) for gradients in zip(*each, strict=True))
        return stacked, (0,) * len(stacked)
    axis = 1 if batch_sizes is None else 0
    dy, dh_n, h0 = (
        None if tensor is None else _as_rows(tensor, in_dims[k], at, V)
        for k, tensor, at in ((0, dy, axis), (1, dh_n, 1), (3, h0, 1))
    )
    y, x = _as_rows(y, in_dims[2], axis, V), _as_rows(x, in_dims[4], axis, V)
    sizes = None if batch_sizes is None else V * batch_sizes
    wanted = [*needed[:2], False, False, False, any(needed[2:])]
    found = iter(
        _called(rnn_layer_backward, dy, dh_n, y, h0, x, weight_ih, weight_hh, sizes, activation, reverse, wanted)
    )
    dx, dh0, _, _, _, da = (next(found) if want else None for want in wanted)
    gradients, dims = [], []
    for gradient, at in ((dx, axis), (dh0, 1)):
        if gradient is not None:
            gradients.append(_as_samples(gradient, at, V))
            dims.append(at + 1)
    if da is not None:
        of_samples = _shares_of_samples(da, y, h0, x, weight_ih, sizes, reverse, axis, V)
        gradients += [share() for share, need in zip(of_samples, needed[2:], strict=True) if need]
        dims += [dim for dim, need in zip((0, 0, 0, axis + 1), needed[2:], strict=True) if need]
    return tuple(gradients), tuple(dims)


def _shares_of_samples(
    da: Tensor, y: Tensor, h0: Tensor | None, x: Tensor, weight_ih: Tensor, sizes: Tensor | None, reverse: bool,
    axis: int, V: int,
) -> tuple[Callable[[], Tensor], ...]:  # fmt: skip
    """B9, B10, B8 and ∂a of each sample, from those of all."""
    da_v = _as_samples(da, axis, V).flatten(0, axis)

    def of_sample(array: Tensor) -> Tensor:
        return _as_samples(array, axis, V).flatten(0, axis)

    def dweight_ih() -> Tensor:
        if x.is_floating_point():
            return torch.einsum("nvh,nvi->vhi", da_v, of_sample(x))
        H, I = weight_ih.shape
        rows = of_sample(x) + I * torch.arange(V, device=x.device)
        return da.new_zeros(V * I, H).index_add(0, rows.flatten(), da_v.flatten(0, 1)).view(V, I, H).mT

    def dweight_hh() -> Tensor:
        sizes_ = _sizes(sizes)
        B = packing.rows_of_batch(x, sizes_) if h0 is None else h0.shape[1]
        h_prev = packing.previous_states(packing.with_h0(y, h0, B, sizes_, reverse), B, sizes_, reverse)
        return torch.einsum("nvh,nvk->vhk", da_v, of_sample(h_prev))

    return dweight_ih, dweight_hh, lambda: da_v.sum(0), lambda: _as_samples(da, axis, V)


def _sample(tensor: Tensor | None, dim: int | None, v: int) -> Tensor | None:
    return tensor if tensor is None or dim is None else tensor.select(dim, v)


def _as_rows(tensor: Tensor, dim: int | None, axis: int, V: int) -> Tensor:
    """V samples as further rows of the batch, which is on `axis`: row r of sample v becomes row r V + v."""
    if dim is None:
        shape = tensor.shape
        tensor = tensor.unsqueeze(axis + 1).expand(*shape[: axis + 1], V, *shape[axis + 1 :])
    else:
        tensor = tensor.movedim(dim, axis + 1)
    return tensor.flatten(axis, axis + 1)


def _as_samples(tensor: Tensor, axis: int, V: int) -> Tensor:
    """The inverse of `_as_rows`, with the samples on axis + 1."""
    return tensor.unflatten(axis, (tensor.shape[axis] // V, V))


class _Layer(torch.autograd.Function):
    """`rnn_layer` for the transforms of torch.func, which do not take operators with an autograd formula."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return rnn_layer(*arguments)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        return _backward(ctx, *cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap(info, in_dims, *arguments)

    setup_context = staticmethod(_keep_for_backward)


class _LayerBackward(torch.autograd.Function):
    """`rnn_layer_backward` for the same."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(rnn_layer_backward(*arguments))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _vmap_of_backward(info, in_dims, *arguments)

    backward = staticmethod(_second_backward)
    setup_context = staticmethod(_keep_for_second_backward)


rnn_layer.register_autograd(_backward, setup_context=_keep_for_backward)
rnn_layer_backward.register_autograd(_second_backward, setup_context=_keep_for_second_backward)


def _called(operator: Any, *arguments: Any) -> Any:
    if torch._C._are_functorch_transforms_active():
        return (_Layer if operator is rnn_layer else _LayerBackward).apply(*arguments)
    return operator(*arguments)


def layer(
    x: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    activation: str,
    *,
    batch_sizes: Sequence[int] | Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `bptt.autograd.function.layer` returns, by an operator that can be traced and transformed.

    Forward-mode derivatives (torch.func.jvp, jacfwd, torch.autograd.forward_ad) have no operator: the reference engine
    computes them, in operations of torch.
    """
    if forward_ad._current_level >= 0:
        sizes = _sizes(batch_sizes) if isinstance(batch_sizes, Tensor) else batch_sizes
        B = packing.rows_of_batch(x, sizes) if h0 is None else h0.shape[1]
        y = reference.forward_layer(
            x, h0, weight_ih, weight_hh, bias_ih, bias_hh, activation, batch_sizes=sizes, reverse=reverse
        )
        return y, packing.last_states(packing.with_h0(y, h0, B, sizes, reverse), B, sizes, reverse)[None]
    sizes = batch_sizes
    if sizes is not None and not isinstance(sizes, Tensor):
        sizes = torch.as_tensor(sizes, dtype=torch.int64)
    return _called(rnn_layer, x, h0, weight_ih, weight_hh, bias_ih, bias_hh, sizes, activation, reverse)
