"""ONNX Runtime's operators RNN, LSTM and GRU: inference only.

Weights are constant in the model, inputs and outputs bound once.
"""

# pyright: reportMissingImports=false
# The library is installed for `make bench` only.

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cases import Array, Case, Mode, inputs
from benchmarks.peers import THREADS, Prepared

VERSION = f"onnxruntime {onnxruntime.__version__}"

ORDERS = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
"""Which of torch's gates stands at each place: i, o, f, g and z, r, n."""


def prepare(case: Case, mode: Mode) -> Prepared | None:
    if mode != "infer":
        return None
    given = inputs(case)
    T, B, I, H = case.T, case.B, case.I, case.H

    def in_order(array: Array) -> Array:
        return array.reshape(case.form.gates, H, -1)[ORDERS[case.cell]].reshape(array.shape)

    constants = {
        "W": in_order(given.weight_ih)[None],
        "R": in_order(given.weight_hh)[None],
        "biases": np.concatenate([in_order(given.bias_ih), in_order(given.bias_hh)])[None],
    }
    firsts, lasts = ([f"{state}{step}" for state in case.form.states] for step in ("0", "_n"))
    options: dict[str, Any] = {"hidden_size": H} | ({"linear_before_reset": 1} if case.cell == "gru" else {})
    node = helper.make_node(case.cell.upper(), ["x", "W", "R", "biases", "", *firsts], ["y", *lasts], **options)
    shapes = {"x": [T, B, I], "y": [T, 1, B, H], **{name: [1, B, H] for name in (*firsts, *lasts)}}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        [node],
        case.cell,
        [info[name] for name in ("x", *firsts)],
        [info[name] for name in ("y", *lasts)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    bound = {"x": given.x, **{name: state[None] for name, state in zip(firsts, given.first, strict=True)}}
    bound |= {name: np.empty(shapes[name], np.float32) for name in ("y", *lasts)}
    binding = session.io_binding()
    for name, array in bound.items():
        bind = binding.bind_input if name in ("x", *firsts) else binding.bind_output
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run() -> None:
        session.run_with_iobinding(binding)

    def results() -> dict[str, Array]:
        return {"y": bound["y"][:, 0], **{name: bound[name][0] for name in lasts}}

    return Prepared(run, results)
