"""The checks that PyTorch makes of its own modules, by the names they have there, made of ours with its own inputs.

`torch.testing._internal.common_modules` says how torch.nn.RNN, LSTM, GRU and their cells are built and called in these
checks, and which mistakes raise what; here they are built and called so with our classes in their place. Below them are
the checks of torch's own unit tests of recurrent modules, under their names there.
"""

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, ModuleInfo, ModuleInput, module_db
from torch.testing._internal.common_utils import gradcheck, gradgradcheck

import bptt

F64 = torch.float64
CELLS = {"RNNCell", "LSTMCell", "GRUCell"}
OURS: dict[type, type] = {getattr(torch.nn, n): getattr(bptt.nn, n) for n in ("RNN", "LSTM", "GRU", *sorted(CELLS))}
THEIRS = {info.module_cls: info for info in module_db if info.module_cls in OURS}

of_all = pytest.mark.parametrize("info", THEIRS.values(), ids=lambda info: info.name)
of_both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
of_both_modes = pytest.mark.parametrize("training", [True, False], ids=["train_mode", "eval_mode"])


def ours(info: ModuleInfo) -> type:
    return OURS[info.module_cls]


def inputs(info: ModuleInfo, dtype: torch.dtype, requires_grad: bool = False, training: bool = True) -> list[Any]:
    """torch's own inputs, packed sequences among them."""
    packed = {} if info.module_cls.__name__ in CELLS else {"with_packed_sequence": True}
    return list(
        info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training, **packed
        )
    )


def modules(
    info: ModuleInfo, dtype: torch.dtype, requires_grad: bool = False, training: bool = True
) -> Iterator[tuple[torch.nn.Module, ModuleInput, list[Any]]]:
    """Each input with our module for it and the arguments of forward."""
    for given in inputs(info, dtype, requires_grad, training):
        module = ours(info)(*given.constructor_input.args, **given.constructor_input.kwargs)
        assert not given.forward_input.kwargs
        yield module.to(dtype).train(training), given, list(given.forward_input.args)


def tensors(result: Any) -> list[Tensor]:
    """All tensors of an output, packed ones too."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result if part is not None for tensor in tensors(part)]


def floating(arguments: list[Any]) -> list[Tensor]:
    return [tensor for tensor in tensors(arguments) if tensor.is_floating_point()]


def total(outputs: list[Tensor]) -> Tensor:
    return torch.stack([output.sum() for output in outputs]).sum()


def test_all_modules_are_in_the_database_of_torch() -> None:
    assert THEIRS.keys() == OURS.keys()
    assert {info.module_cls.__name__: len(inputs(info, F64)) for info in THEIRS.values()} == {
        "RNN": 64, "LSTM": 32, "GRU": 32, "RNNCell": 3, "LSTMCell": 2, "GRUCell": 2,
    }  # fmt: skip


@of_all
@of_both_dtypes
@of_both_modes
def test_forward(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    for module, given, arguments in modules(info, dtype, training=training):
        outputs = module(*arguments)
        if any(isinstance(argument, PackedSequence) for argument in arguments):
            expected = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs).to(dtype)
            expected.load_state_dict(module.state_dict())
            torch.testing.assert_close(tensors(outputs), tensors(expected(*arguments)))
        else:
            assert given.reference_fn is not None
            torch.testing.assert_close(outputs, given.reference_fn(module, *arguments))


@of_all
@of_both_dtypes
def test_factory_kwargs(info: ModuleInfo, dtype: torch.dtype) -> None:
    for given in inputs(info, dtype):
        for device in ("cpu", "meta"):
            options = given.constructor_input.kwargs | {"device": device, "dtype": dtype}
            module = ours(info)(*given.constructor_input.args, **options)
            assert {(p.device.type, p.dtype) for p in module.parameters()} == {(device, dtype)}


@of_all
def test_device_ctx_init(info: ModuleInfo) -> None:
    for given in inputs(info, torch.float32):
        with torch.device("meta"):
            module = ours(info)(*given.constructor_input.args, **given.constructor_input.kwargs)
        assert all(p.is_meta for p in module.parameters())


@of_all
@of_both_dtypes
def test_multiple_device_transfer(info: ModuleInfo, dtype: torch.dtype) -> None:
    for module, _, arguments in modules(info, dtype):
        module(*arguments)
        shapes = [p.shape for p in module.parameters()]
        module.to("meta")
        assert [(p.device.type, p.shape) for p in module.parameters()] == [("meta", shape) for shape in shapes]
        module.to_empty(device="cpu")
        assert [(p.device.type, p.shape) for p in module.parameters()] == [("cpu", shape) for shape in shapes]


@of_all
def test_repr(info: ModuleInfo) -> None:
    for module, given, _ in modules(info, torch.float32):
        theirs = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs)
        assert repr(module) == str(module) == repr(theirs)


@of_all
@of_both_modes
def test_save_load(info: ModuleInfo, training: bool) -> None:
    for module, given, arguments in modules(info, torch.float32, training=training):
        saved = io.BytesIO()
        torch.save(module.state_dict(), saved)
        saved.seek(0)
        twin = ours(info)(*given.constructor_input.args, **given.constructor_input.kwargs).train(training)
        twin.load_state_dict(torch.load(saved))
        torch.testing.assert_close(tensors(twin(*arguments)), tensors(module(*arguments)), rtol=0, atol=0)


@of_all
@of_both_modes
def test_pickle(info: ModuleInfo, training: bool) -> None:
    for module, _, arguments in modules(info, torch.float32, training=training):
        expected = tensors(module(*arguments))
        saved = io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        for twin in (pickle.loads(pickle.dumps(module)), torch.load(saved, weights_only=False), copy.deepcopy(module)):
            assert twin.training == training
            torch.testing.assert_close(tensors(twin(*arguments)), expected, rtol=0, atol=0)


@of_all
@of_both_modes
def test_non_contiguous_tensors(info: ModuleInfo, training: bool) -> None:
    def strided(argument: Any) -> Any:
        if isinstance(argument, PackedSequence):
            return PackedSequence(strided(argument.data), *argument[1:])
        if isinstance(argument, tuple):
            return tuple(map(strided, argument))
        spread = torch.stack([argument.detach(), torch.full_like(argument, torch.nan)], -1)[..., 0]
        assert spread.numel() < 2 or not spread.is_contiguous()
        return spread.requires_grad_(argument.requires_grad)

    for module, _, arguments in modules(info, F64, requires_grad=True, training=training):
        results = []
        for given in (arguments, [strided(argument) for argument in arguments]):
            outputs = tensors(module(*given))
            floats = floating(outputs)
            leaves = [*floating(given), *module.parameters()]
            leaves = [leaf for leaf in leaves if leaf.requires_grad]
            results.append([*outputs, *torch.autograd.grad(total(floats), leaves)])
        torch.testing.assert_close(results[1], results[0])


def differentiable(module: torch.nn.Module, arguments: list[Any]) -> Any:
    """A function of all tensors that a gradient may be asked for."""

    def filled(argument: Any, left: Iterator[Tensor]) -> Any:
        if isinstance(argument, PackedSequence):
            return PackedSequence(next(left), *argument[1:])
        return tuple(filled(part, left) for part in argument) if isinstance(argument, tuple) else next(left)

    def call(*given: Tensor) -> list[Tensor]:
        left = iter(given)
        return floating([module(*[filled(argument, left) for argument in arguments])])

    return call


@of_all
@of_both_modes
def test_grad(info: ModuleInfo, training: bool) -> None:
    for module, _, arguments in modules(info, F64, requires_grad=True, training=training):
        leaves = (*floating(arguments), *module.parameters())
        assert gradcheck(differentiable(module, arguments), leaves)


@of_all
@of_both_modes
def test_gradgrad(info: ModuleInfo, training: bool) -> None:
    for module, _, arguments in modules(info, F64, requires_grad=True, training=training):
        leaves = (*floating(arguments), *module.parameters())
        assert gradgradcheck(differentiable(module, arguments), leaves)


def to(module: Any, memory_format: torch.memory_format) -> torch.nn.Module:
    return module.to(memory_format=memory_format)


@of_all
def test_memory_format(info: ModuleInfo) -> None:
    for module, _, arguments in modules(info, torch.float32):
        expected = tensors(module(*arguments))
        for memory_format in (torch.contiguous_format, torch.preserve_format):
            torch.testing.assert_close(tensors(to(module, memory_format)(*arguments)), expected)
        with pytest.raises(RuntimeError, match="required rank 4 tensor"):
            next(module.parameters()).to(memory_format=torch.channels_last)
        assert len(tensors(to(module, torch.channels_last)(*arguments))) == len(expected)


@of_all
@pytest.mark.parametrize("swap", [False, True], ids=["data", "swap"])
@pytest.mark.parametrize("set_grad", [False, True], ids=["no grad yet", "with grad"])
def test_to(info: ModuleInfo, swap: bool, set_grad: bool) -> None:
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for module, _, arguments in modules(info, torch.float32):
            before = list(module.parameters())
            if set_grad:
                total(floating([module(*arguments)])).backward()
            module.to(F64)
            assert all(p is q and p.dtype is F64 for p, q in zip(module.parameters(), before, strict=True))
            assert all((p.grad is not None and p.grad.dtype is F64) == set_grad for p in module.parameters())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@of_all
@pytest.mark.parametrize("swap", [False, True], ids=["data", "swap"])
def test_to_empty(info: ModuleInfo, swap: bool) -> None:
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for given in inputs(info, torch.float32):
            with torch.device("meta"):
                module = ours(info)(*given.constructor_input.args, **given.constructor_input.kwargs)
            before = [id(p) for p in module.parameters()]
            module.to_empty(device="cpu")
            assert all(p.device.type == "cpu" for p in module.parameters())
            assert ([id(p) for p in module.parameters()] == before) == swap
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@of_all
@of_both_dtypes
def test_errors(info: ModuleInfo, dtype: torch.dtype) -> None:
    assert info.module_error_inputs_func is not None
    mistakes = info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
    assert mistakes
    for mistake in mistakes:
        given = mistake.module_error_input
        arguments, options = given.constructor_input.args, given.constructor_input.kwargs
        if mistake.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(mistake.error_type, match=mistake.error_regex):
                ours(info)(*arguments, **options)
        else:
            assert mistake.error_on is ModuleErrorEnum.FORWARD_ERROR
            module = ours(info)(*arguments, **options)
            with pytest.raises(mistake.error_type, match=mistake.error_regex):
                module(*given.forward_input.args, **given.forward_input.kwargs)


def test_rnn_args_check() -> None:
    T, B, I, H, layers = 4, 3, 5, 7, 2
    rnn = bptt.nn.RNN(I, H, layers)
    rnn(torch.randn(T, B, I), torch.randn(layers, B, H))
    for x, h0 in [
        ((T, B, I + 1), (layers, B, H)),
        ((T, B + 1, I), (layers, B, H)),
        ((T, B, I), (layers, B, H + 1)),
        ((T, B, I), (layers, B + 1, H)),
        ((T, B, I), (layers + 1, B, H)),
        ((T, B, I), (B, H)),
        ((T, I), (layers, B, H)),
        ((T, I), (layers, H + 1)),
    ]:
        with pytest.raises(RuntimeError):
            rnn(torch.randn(x), torch.randn(h0))
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(2, 3, 7\), got \[2, 1, 7\]"):
        rnn(torch.randn(T, B, I), torch.randn(layers, 1, H))
    with pytest.raises(RuntimeError, match=r"input must have 2 dimensions, got 3"):
        rnn(PackedSequence(torch.randn(T, B, I), torch.tensor([B])))
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(2, 2, 7\), got \[2, 3, 7\]"):
        rnn(PackedSequence(torch.randn(3, I), torch.tensor([2, 1])), torch.randn(layers, 3, H))
    for axes, text in [(4, "RNN: Expected input to be 2D or 3D, got 4D tensor instead"), (1, "got 1D tensor instead")]:
        with pytest.raises(ValueError, match=text):
            rnn(torch.randn([2] * axes))
    with pytest.raises(RuntimeError, match="For unbatched 2-D input, hx should also be 2-D but got 3-D tensor"):
        rnn(torch.randn(T, I), torch.randn(layers, 1, H))
    with pytest.raises(RuntimeError, match="For batched 3-D input, hx should also be 3-D but got 2-D tensor"):
        rnn(torch.randn(T, B, I), torch.randn(layers, H))


def test_rnn_check_device() -> None:
    rnn = bptt.nn.RNN(5, 7)
    with pytest.raises(RuntimeError, match="Input and parameter tensors are not at the same device"):
        rnn(torch.randn(4, 3, 5, device="meta"))
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not at the same device"):
        rnn(torch.randn(4, 3, 5), torch.randn(1, 3, 7, device="meta"))


def test_rnn_initial_hidden_state() -> None:
    rnn, x = bptt.nn.RNN(30, 20, 2), torch.randn(10, 32, 30)
    torch.testing.assert_close(rnn(x, torch.zeros(2, 32, 20)), rnn(x), rtol=0, atol=0)


def test_rnn_retain_variables() -> None:
    for nonlinearity, batch_first in [("tanh", False), ("relu", True)]:
        rnn = bptt.nn.RNN(10, 20, 2, nonlinearity, batch_first=batch_first)
        output, _ = rnn(torch.randn(5, 6, 10, requires_grad=True))
        gradients = []
        for _ in range(3):
            rnn.zero_grad()
            output.sum().backward(retain_graph=True)
            gradients.append([p.grad for p in rnn.parameters()])
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
        torch.testing.assert_close(gradients[2], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("p", [0, 0.276, 0.731, 1])
@pytest.mark.parametrize("training", [True, False])
def test_RNN_dropout(p: float, training: bool) -> None:
    rnn = bptt.nn.RNN(10, 1000, 2, bias=False, dropout=p, nonlinearity="relu").train(training)
    for weight in rnn.parameters():
        torch.nn.init.ones_(weight)
    output, h_n = rnn(torch.ones(1, 1, 10), torch.zeros(2, 1, 1000))
    assert output.min() == output.max()
    assert torch.equal(h_n[0], torch.full((1, 1000), 10.0))
    assert torch.equal(h_n[1], output[0])
    value = output.detach().max().item()
    if p == 0 or not training:
        assert value == 10000
    elif p == 1:
        assert value == 0
    else:
        assert 8000 < value <= 12000
        rest = value * (1 - p) % 10
        assert min(rest, 10 - rest) < 1e-2


@pytest.mark.parametrize("p", [0, 0.1234])
@pytest.mark.parametrize("training", [True, False])
def test_RNN_dropout_state(p: float, training: bool) -> None:
    rnn = bptt.nn.RNN(100, 100, 2, bias=False, dropout=p, nonlinearity="relu").train(training)
    x, h0 = torch.rand(1, 1, 100), torch.rand(2, 1, 100)
    twin = pickle.loads(pickle.dumps(rnn))
    twin.flatten_parameters()
    results = [module(x, h0)[0] for module in (rnn, rnn, twin)]
    same = p == 0 or not training
    assert torch.equal(results[0], results[1]) == same
    assert torch.equal(results[0], results[2]) == same


@pytest.mark.parametrize("training", [True, False])
def test_RNN_change_dropout(training: bool) -> None:
    rnn, x = bptt.nn.RNN(100, 100, 2, dropout=0, nonlinearity="relu").train(training), torch.rand(3, 2, 100)
    previous = None
    for p in (0, 0.5, 0, 0.7, 0.2, 1, 0.2, 0):
        rnn.dropout = p
        output = rnn(x)[0]
        assert torch.equal(output, rnn(x)[0]) == (p in (0, 1) or not training)
        assert previous is None or torch.equal(output, previous) == (not training)
        previous = output


def test_RNN_nonlinearity() -> None:
    assert bptt.nn.RNN(1, 10).nonlinearity == "tanh"
    assert bptt.nn.RNN(1, 10, nonlinearity="relu").nonlinearity == "relu"
    with pytest.raises(ValueError, match="Unknown nonlinearity"):
        bptt.nn.RNN(1, 10, nonlinearity="garbage")


def test_RNN_nonlinearity_passed_as_arg() -> None:
    assert bptt.nn.RNN(2, 3, 1, "relu").nonlinearity == "relu"


def test_RNN_input_size_zero() -> None:
    rnn = bptt.nn.RNN(3, 4)
    output, h_n = rnn(torch.ones(5, 0, 3))
    assert (output.shape, h_n.shape) == ((5, 0, 4), (1, 0, 4))
    output.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in rnn.parameters())


@pytest.mark.parametrize("module", [bptt.nn.RNN, bptt.nn.GRU])
def test_projections_errors_on_gru_and_rnn(module: type[Any]) -> None:
    with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM, not RNN or GRU"):
        module(30, 20, 2, proj_size=10)


def test_projections_lstm_args_check() -> None:
    T, B, I, H, P, layers = 4, 3, 5, 7, 2, 2
    lstm = bptt.nn.LSTM(I, H, layers, proj_size=P)
    lstm(torch.randn(T, B, I), (torch.randn(layers, B, P), torch.randn(layers, B, H)))
    for x, h0, c0 in [
        ((T, B, I + 1), (layers, B, P), (layers, B, H)),
        ((T, B + 1, I), (layers, B, P), (layers, B, H)),
        ((T, B, I), (layers, B, H), (layers, B, H)),
        ((T, B, I), (layers, B, P), (layers, B, P)),
        ((T, B, I), (layers + 1, B, P), (layers, B, H)),
        ((T, B, I), (layers, B, P), (layers, B + 1, H)),
        ((T, I), (layers, B, P), (layers, B, H)),
    ]:
        with pytest.raises(RuntimeError):
            lstm(torch.randn(x), (torch.randn(h0), torch.randn(c0)))
    for hx in (torch.randn(layers, B, P), (torch.randn(layers, B, P),)):
        with pytest.raises(RuntimeError, match=r"hx must be a tuple \(h0, c0\)"):
            lstm(torch.randn(T, B, I), hx)
    with pytest.raises(ValueError, match="proj_size has to be smaller than hidden_size"):
        bptt.nn.LSTM(I, H, proj_size=H)


def test_lstm_cell_takes_two_states() -> None:
    cell = bptt.nn.LSTMCell(5, 7)
    for hx in (torch.randn(3, 7), (torch.randn(3, 7),)):
        with pytest.raises(RuntimeError, match=r"LSTMCell: hx is a tuple \(h, c\) of the states; got"):
            cell(torch.randn(3, 5), hx)
    with pytest.raises(ValueError, match=r"LSTMCell: Expected hx\[1\] to be 1D or 2D, got 3D instead"):
        cell(torch.randn(3, 5), (torch.randn(3, 7), torch.randn(1, 3, 7)))
    with pytest.raises(RuntimeError, match="hidden1 has inconsistent hidden_size: got 8, expected 7"):
        cell(torch.randn(3, 5), (torch.randn(3, 7), torch.randn(3, 8)))


def test_rnn_backward_to_input_but_not_parameters() -> None:
    rnn, x = bptt.nn.RNN(2, 3).requires_grad_(False), torch.randn(1, 1, 2, requires_grad=True)
    rnn(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_RNN_cell() -> None:
    for bias in (True, False):
        x, h, cell = torch.randn(3, 10), torch.randn(3, 20), bptt.nn.RNNCell(10, 20, bias=bias)
        for _ in range(6):
            h = cell(x, h)
        h.sum().backward()


def test_RNN_cell_no_broadcasting() -> None:
    cell = bptt.nn.RNNCell(10, 20)
    for x, h in [((3, 10), (1, 20)), ((3, 10), (3, 1)), ((3, 1), (3, 20)), ((10,), (1, 20)), ((3, 10), (20,))]:
        with pytest.raises(RuntimeError):
            cell(torch.randn(x), torch.randn(h))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_RNN_cell_forward_zero_hidden_size(nonlinearity: str) -> None:
    assert bptt.nn.RNNCell(10, 0, nonlinearity=nonlinearity)(torch.randn(3, 10), torch.randn(3, 0)).shape == (3, 0)


def test_cell_forward_input_and_hidden_axes() -> None:
    cell = bptt.nn.RNNCell(10, 20)
    with pytest.raises(ValueError, match="RNNCell: Expected input to be 1D or 2D, got 3D instead"):
        cell(torch.randn(1, 3, 10))
    with pytest.raises(ValueError, match="RNNCell: Expected hidden to be 1D or 2D, got 3D instead"):
        cell(torch.randn(3, 10), torch.randn(1, 3, 20))
