"""The choice of an engine: its reason is given, a slow one is never silent."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

import bptt
from bptt import Cell, InputError, SlowEngineWarning, engine
from bptt.engine import native, reference


def test_the_cpu_gets_the_compiled_sweeps() -> None:
    for dtype in (torch.float32, torch.float64):
        choice = engine.choose("cpu", dtype)
        assert choice.name == "native"
        assert choice.engine is native
        assert "compiled" in choice.reason


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [("cpu", torch.bfloat16, "are torch.bfloat16"), ("cuda", torch.float32, "tensors are on cuda")],
)
def test_the_slow_engine_says_why_once(device: str, dtype: torch.dtype, reason: str) -> None:
    cell = Cell(f"a_t = x_t W_xh + h_{{t-1}} W_hh\nh_t = tanh(a_t)\n# for {device} and {dtype}\n")
    with pytest.warns(SlowEngineWarning, match=f"slow reference engine: .*{reason}"):
        choice = engine.choose(device, dtype, cell)
    assert choice.name == "reference"
    assert choice.engine is reference
    assert choice.slow
    assert reason in choice.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.choose(device, dtype, cell) == choice


def test_a_cell_that_the_compiled_engine_does_not_know_is_named() -> None:
    cell = Cell("u : vector\na_t = x_t W_xh + u ⊙ h_{t-1}\nh_t = tanh(a_t)\n", "of my own")
    with pytest.warns(SlowEngineWarning, match="knows the plain cell and its options, not yet this one, 'of my own'"):
        assert engine.choose("cpu", torch.float32, cell).engine is reference


def choice_under(engine: str, dtype: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"import torch; from bptt.engine import choose; c = choose('cpu', torch.{dtype}); print(c.name, '|', c.reason)"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "BPTT_ENGINE": engine},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_may_ask_for_an_engine() -> None:
    assert choice_under("reference", "float32").stdout == "reference | it was asked for\n"
    assert choice_under("native", "float32").stdout.startswith("native |")
    assert "was asked for and cannot serve: the compiled engine takes" in choice_under("native", "float16").stderr
    assert "must be native, reference or torch; got 'fastest'" in choice_under("fastest", "float32").stderr


def test_using_decides_inside() -> None:
    with bptt.using("reference"):
        assert engine.choose("cpu", torch.float32).name == "reference"
        with bptt.using("native"):
            assert engine.choose("cpu", torch.float32).name == "native"
        assert not engine.torch_serves("cpu")
        with bptt.using("torch"):
            assert engine.torch_serves("cpu")
        assert engine.choose("cpu", torch.float32).name == "reference"
    assert engine.choose("cpu", torch.float32).name == "native"
    with (
        pytest.raises(InputError, match="An engine is one of native, reference, torch; got 'fastest'"),
        bptt.using("fastest"),
    ):
        pass


def test_the_way_back_runs_on_the_engine_of_the_way_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("another engine was called")

    monkeypatch.setattr(native, "backward", refuse)
    with bptt.using("reference"):
        output, _ = bptt.nn.RNN(3, 4)(torch.randn(5, 2, 3))
    output.sum().backward()
