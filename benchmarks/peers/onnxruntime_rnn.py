"""ONNX Runtime's RNN operator: inference only, weights constant in the model, inputs and outputs bound once."""

# pyright: reportMissingImports=false
# The library is installed for `make bench` only.

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cases import Array, Case, Mode, inputs
from benchmarks.peers import THREADS, Prepared

VERSION = f"onnxruntime {onnxruntime.__version__}"


def prepare(case: Case, mode: Mode) -> Prepared | None:
    if mode != "infer":
        return None
    given = inputs(case)
    T, B, I, H = case.T, case.B, case.I, case.H
    constants = {
        "W": given.weight_ih[None],
        "R": given.weight_hh[None],
        "biases": np.concatenate([given.bias_ih, given.bias_hh])[None],
    }
    node = helper.make_node("RNN", ["x", "W", "R", "biases", "", "h0"], ["y", "h_n"], hidden_size=H)
    shapes = {"x": [T, B, I], "h0": [1, B, H], "y": [T, 1, B, H], "h_n": [1, B, H]}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        [node],
        "rnn",
        [info["x"], info["h0"]],
        [info["y"], info["h_n"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    bound = {"x": given.x, "h0": given.h0[None]}
    bound |= {name: np.empty(shapes[name], np.float32) for name in ("y", "h_n")}
    binding = session.io_binding()
    for name, array in bound.items():
        bind = binding.bind_input if name in ("x", "h0") else binding.bind_output
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run() -> None:
        session.run_with_iobinding(binding)

    def results() -> dict[str, Array]:
        return {"y": bound["y"][:, 0], "h_n": bound["h_n"][0]}

    return Prepared(run, results)
