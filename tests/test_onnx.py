"""ONNX files, run by ONNX Runtime at lengths and batch sizes they were not written with."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cases import tolerance
from torch import Tensor

import bptt


class Model(torch.nn.Module):
    """Every activation, with and without bias, in one direction and two, stacked, with h0 and without."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = bptt.nn.RNN(3, 4)
        self.relu = bptt.nn.RNN(4, 5, 2, "relu", bias=False, bidirectional=True)
        self.sigmoid = bptt.nn.RNN(10, 6, nonlinearity="sigmoid", bidirectional=True, dropout=0.0)
        self.identity = bptt.nn.RNN(12, 2, nonlinearity="identity")
        self.cell = bptt.nn.RNNCell(2, 3)

    def forward(self, x: Tensor, h0: Tensor) -> tuple[Tensor, ...]:
        h, first = self.tanh(x)
        h, second = self.relu(h, h0)
        h, third = self.sigmoid(h)
        h, fourth = self.identity(h)
        return h, first, second, third, fourth, self.cell(h[-1])


def nodes(path: Path) -> list[onnx.NodeProto]:
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    return list(graph.graph.node)


def run(path: Path, *arrays: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {given.name: array.numpy() for given, array in zip(session.get_inputs(), arrays, strict=True)}
    return [torch.from_numpy(np.asarray(array)) for array in session.run(None, feeds)]


def test_every_layer_is_the_operator_rnn_and_runs_at_any_length_and_batch(tmp_path: Path) -> None:
    model, path = Model(), tmp_path / "model.onnx"
    model.sigmoid.eval()
    example = torch.randn(7, 3, 3), torch.randn(4, 3, 5)
    bptt.onnx.export(model, example, path, dynamic_shapes=({0: "T", 1: "B"}, {1: "B"}))
    assert model.training
    assert not model.sigmoid.training
    layers = [node for node in nodes(path) if node.op_type == "RNN"]
    directions = [a.s.decode() for node in layers for a in node.attribute if a.name == "direction"]
    assert directions == ["forward"] + ["forward", "reverse"] * 3 + ["forward"] * 2
    for T, B in [(7, 3), (19, 2), (1, 1)]:
        x, h0 = torch.randn(T, B, 3), torch.randn(4, B, 5)
        with torch.no_grad():
            torch.testing.assert_close(run(path, x, h0), list(model(x, h0)), **tolerance(torch.float32))


def test_tokens_and_batch_first(tmp_path: Path) -> None:
    rnn, path = bptt.nn.RNN(5, 4, 2, batch_first=True), tmp_path / "rnn.onnx"
    bptt.onnx.export(rnn, (torch.randint(5, (2, 6)),), str(path), dynamic_shapes=({0: "B", 1: "T"},))
    assert [node.op_type for node in nodes(path)].count("RNN") == 2
    for B, T in [(2, 6), (3, 11)]:
        tokens = torch.randint(5, (B, T))
        with torch.no_grad():
            expected = list(rnn(tokens))
        torch.testing.assert_close(run(path, tokens), expected, **tolerance(torch.float32))


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, x = bptt.nn.RNN(3, 4), (torch.zeros(2, 1, 3),)
    with pytest.raises(bptt.InputError, match=r"directory .* must exist; got .*nowhere\. Create it"):
        bptt.onnx.export(rnn, x, tmp_path / "nowhere" / "rnn.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(bptt.InputError, match=r"pip install '\.\[onnx\]'"):
        bptt.onnx.export(rnn, x, tmp_path / "rnn.onnx")
    assert not list(tmp_path.iterdir())
