"""Models with recurrent layers of this package as ONNX files: RNN, LSTM and GRU of the standard.

So any runtime computes them with its own kernels, for any length and batch. `translations` is for whoever calls
`torch.onnx.export` directly.

Source: the operators RNN, LSTM and GRU, https://onnx.ai/onnx/operators/
"""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bptt.engine.contract import Layout, Part
from bptt.errors import InputError
from bptt.sheet import Cell, named
from bptt.sheet.cells import gru, lstm
from bptt.sheet.plain import plain

_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


def export(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> None:
    """Write a model that holds `bptt.nn.RNN`, `LSTM`, `GRU`, their cells or `Recurrent` of those as an ONNX file.

    args            what the model is called with, as an example
    dynamic_shapes  which axes are free, for each of args as `torch.export.export` wants it, by names of your choice:
                    ({0: "T", 1: "B"}, {1: "B"}) for an x (T, B, I) and an h0 (layers, B, H)
    options         further options of `torch.onnx.export`, such as input_names and output_names

    The model is written as it computes in eval mode, and left in the mode it was in. Packed sequences, and lengths= and
    reset= of `RNN`, have no counterpart. Raises InputError for other cells, where the packages onnx and onnxscript are
    not installed, and when the directory is missing.

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
        except torch.onnx.OnnxExporterError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, InputError):
                cause = cause.__cause__
            raise cause or error from None
        finally:
            for module, mode in training.items():
                module.training = mode


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export as custom_translation_table: a layer as the operator that ONNX has for its cell."""
    try:
        import onnxscript
    except ImportError:
        raise InputError(
            "the export to ONNX needs the packages onnx and onnxscript, which are not installed. Install them, in a "
            "checkout of bptt: pip install '.[onnx]'"
        ) from None
    op: Any = onnxscript.opset18

    def layer(
        x: Any,
        first: Sequence[Any],
        weights: Sequence[Any],
        extras: Sequence[Any],
        sizes: Any,
        cell: str,
        torch_layout: bool,
        reverse: bool,
    ) -> Any:
        if sizes is not None:
            raise InputError("ONNX has no packed sequences; export the model with padded input of shape (T, B, I)")
        own = Cell(cell)
        form = _form(own)
        layout = Layout.of(own, as_torch=torch_layout)

        def matrix(name: str) -> Any:  # (columns, rows)
            found = part(layout.made_of[name][0])
            return found if torch_layout else op.Transpose(found, perm=[1, 0])

        def part(of: Part) -> Any:
            if of.blocks == 1:
                return weights[of.tensor]
            length = int(weights[of.tensor].shape[0]) // of.blocks
            ends = [op.Constant(value_ints=[k * length]) for k in (of.block, of.block + 1)]
            return op.Slice(weights[of.tensor], *ends, zero)

        def stacked(names: Sequence[str], of: Callable[[str], Any]) -> Any:
            blocks = [of(name) for name in names]
            return op.Unsqueeze(blocks[0] if len(blocks) == 1 else op.Concat(*blocks, axis=0), zero)

        zero = op.Constant(value_ints=[0])
        W, R = stacked(form.of_x, matrix), stacked(form.of_h, matrix)
        a_gate = layout.made_of[form.of_h[0]][0]
        H = weights[a_gate.tensor].shape[0 if torch_layout else 1] // a_gate.blocks
        biases = None
        if any(name for name in form.biases):
            none = op.CastLike(op.Constant(value_floats=[0.0] * int(H)), W)
            places = [layout.made_of.get(name, ()) for name in form.biases]
            of_x = [part(at[0]) if at else none for at in places]
            of_h = [part(at[1]) if len(at) > 1 else none for at in places]
            if form.bias_of_h is not None:
                of_h[-1] = part(layout.made_of[form.bias_of_h][0])
            biases = op.Unsqueeze(op.Concat(*of_x, *of_h, axis=0), zero)
        if x.dtype is not None and x.dtype.is_integer():  # tokens are rows of W_xh, one-hot inputs to the operator
            rows = weights[layout.made_of[form.of_x[0]][0].tensor].shape[1 if torch_layout else 0]
            inputs = op.Constant(value_ints=[int(rows)])
            x = op.CastLike(op.OneHot(x, inputs, op.Constant(value_floats=[0.0, 1.0])), weights[0])
        y, *last = getattr(op, form.operator)(
            x, W, R, biases, None, *first, **form.options, direction="reverse" if reverse else "forward",
            hidden_size=H,
        )  # fmt: skip
        return [op.Squeeze(y, op.Constant(value_ints=[1])), *last]

    return {torch.ops.bptt.layer.default: layer}


class _Form(NamedTuple):
    """An operator of ONNX; the matrices and biases of its gates in its order; the bias beside h of the last gate."""

    operator: str
    of_x: tuple[str, ...]
    of_h: tuple[str, ...]
    biases: tuple[str, ...]
    options: dict[str, Any]
    bias_of_h: str | None = None


def _form(cell: Cell) -> _Form:
    own = plain(cell)
    if own is not None:
        options: dict[str, Any] = {"activations": [_ACTIVATIONS[own.activation]]}
        if own.activation == "identity":
            options |= {"activation_alpha": [1.0], "activation_beta": [0.0]}
        return _Form("RNN", (own.W_xh,), (own.W_hh,), () if own.b_h is None else (own.b_h,), options)
    for built_in, form in _GATED.items():
        if cell.derivation.steps == built_in.derivation.steps:
            return form
    raise InputError(
        "ONNX has operators for plain layers without options, for LSTM without proj_size, for GRU and for the cell "
        f"gru-v1, all with or without biases; got the cell\n{cell.text}Leave such layers to torch.export."
    )


_OF_LSTM = _Form(
    "LSTM", ("W_xi", "W_xq", "W_xf", "W_xg"), ("W_hi", "W_hq", "W_hf", "W_hg"), ("b_i", "b_q", "b_f", "b_g"), {}
)
_OF_GRU = _Form(
    "GRU",
    ("W_xz", "W_xr", "W_xn"),
    ("W_hz", "W_hr", "W_hn"),
    ("b_z", "b_r", "b_xn"),
    {"linear_before_reset": 1},
    "b_hn",
)
_GATED = {
    named("lstm"): _OF_LSTM, Cell(lstm(bias=False)): _OF_LSTM._replace(biases=()),
    named("gru"): _OF_GRU, Cell(gru(bias=False)): _OF_GRU._replace(biases=(), bias_of_h=None),
    named("gru-v1"): _Form("GRU", ("W_xz", "W_xr", "W_xn"), ("W_hz", "W_hr", "W_hn"), ("b_z", "b_r", "b_n"), {}),
}  # fmt: skip
