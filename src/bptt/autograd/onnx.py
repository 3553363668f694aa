"""Models with recurrent layers of this package as ONNX files, each layer as the operator RNN of the standard.

So any runtime computes them with its own kernels, for any length and batch. `translations` is for whoever calls
`torch.onnx.export` directly.

Source: the operator RNN, https://onnx.ai/onnx/operators/onnx__RNN.html
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bptt.errors import InputError

_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


def export(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> None:
    """Write a model that holds `bptt.nn.RNN` or `RNNCell` as an ONNX file.

    args            what the model is called with, as an example
    dynamic_shapes  which axes are free, for each of args as `torch.export.export` wants it, by names of your choice:
                    ({0: "T", 1: "B"}, {1: "B"}) for an x (T, B, I) and an h0 (layers, B, H)
    options         further options of `torch.onnx.export`, such as input_names and output_names

    The model is written as it computes in eval mode, and left in the mode it was in. Packed sequences, and lengths= and
    reset= of `RNN`, have no counterpart. Raises InputError where the packages onnx
    and onnxscript are not installed, and when the directory is missing.

    >>> export(RNN(3, 5), (torch.zeros(4, 2, 3),), "rnn.onnx", dynamic_shapes=({0: "T", 1: "B"},))
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"the directory for {path} must exist; got {path.parent}. Create it first.")
    table = translations()
    training = {module: module.training for module in model.modules()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
        try:
            torch.onnx.export(
                model.eval(), args, path, dynamo=True, dynamic_shapes=dynamic_shapes, custom_translation_table=table,
                verbose=False, external_data=False, **options,
            )  # fmt: skip
        finally:
            for module, mode in training.items():
                module.training = mode


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What torch.onnx.export takes as custom_translation_table: the layer of this package as the operator RNN."""
    try:
        import onnxscript
    except ImportError:
        raise InputError(
            "the export to ONNX needs the packages onnx and onnxscript, which are not installed. Install them, in a "
            "checkout of bptt: pip install '.[onnx]'"
        ) from None
    op: Any = onnxscript.opset18

    def rnn_layer(
        x: Any,
        h0: Any,
        weight_ih: Any,
        weight_hh: Any,
        bias_ih: Any,
        bias_hh: Any,
        batch_sizes: Any,
        activation: str,
        reverse: bool,
    ) -> Any:
        if batch_sizes is not None:
            raise InputError("ONNX has no packed sequences; export the model with padded input of shape (T, B, I)")
        if x.dtype is not None and x.dtype.is_integer():  # tokens are rows of W_xh, one-hot inputs to the operator
            inputs = op.Constant(value_ints=[weight_ih.shape[1]])
            x = op.CastLike(op.OneHot(x, inputs, op.Constant(value_floats=[0.0, 1.0])), weight_ih)
        first = op.Constant(value_ints=[0])
        biases = None
        if bias_ih is not None:
            biases = op.Unsqueeze(op.Concat(bias_ih, bias_hh, axis=0), first)
        y, h_n = op.RNN(
            x,
            op.Unsqueeze(weight_ih, first),
            op.Unsqueeze(weight_hh, first),
            biases,
            None,
            h0,
            activations=[_ACTIVATIONS[activation]],
            **({"activation_alpha": [1.0], "activation_beta": [0.0]} if activation == "identity" else {}),
            direction="reverse" if reverse else "forward",
            hidden_size=weight_hh.shape[0],
        )
        return op.Squeeze(y, op.Constant(value_ints=[1])), h_n

    return {torch.ops.bptt.rnn_layer.default: rnn_layer}
