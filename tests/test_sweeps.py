"""The choice of an engine: its reason is given, a slow one is never silent."""

import itertools
import linecache
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

import bptt
from bptt import InputError, SlowEngineWarning, engine
from bptt.engine import native, reference


def test_the_cpu_gets_the_compiled_sweeps() -> None:
    for device, dtype in itertools.product(("cpu", "cpu:0", torch.device("cpu")), (torch.float32, torch.float64)):
        choice = engine.choose(device, dtype)
        assert choice.name == "native"
        assert choice.engine is native
        assert "compiled" in choice.reason


def test_asking_which_engine_serves_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device, dtype, reason in (
            ("cpu", torch.bfloat16, "takes float32 and float64, and the tensors are torch.bfloat16"),
            ("cuda", torch.float32, "runs on the CPU only, and the tensors are on cuda"),
        ):
            choice = engine.choose(device, dtype)
            assert choice.name == "reference"
            assert choice.slow
            assert choice.reason.endswith(reason)


def test_who_takes_the_slow_engine_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_told", set())
    with pytest.warns(SlowEngineWarning, match=r"the slow reference engine: .*bfloat16\. The numbers are the same"):
        assert engine.serving("cpu", torch.bfloat16) is reference
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.serving("cpu", torch.bfloat16) is reference


@pytest.mark.parametrize("compiled", [False, True])
def test_the_warning_points_at_the_call_and_says_how_to_silence_it(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    def slow(*of: Any) -> Any:
        return engine.Choice(reference, "reference", "as if it were", slow=True)

    monkeypatch.setattr(engine, "choose", slow)
    monkeypatch.setattr(engine, "_told", set())
    rnn = bptt.nn.Recurrent(f"h_t = tanh(x_t W_xk + h_{{t-1}} W_hk + {int(compiled)}.125)", 3, 4)
    layer = torch.compile(rnn, fullgraph=True, backend="aot_eager") if compiled else rnn
    with pytest.warns(SlowEngineWarning, match="as if it were") as caught:
        layer(torch.randn(5, 2, 3))
    (warning,) = [warning for warning in caught if warning.category is SlowEngineWarning]
    assert warning.filename == __file__
    assert linecache.getline(__file__, warning.lineno).strip() == "layer(torch.randn(5, 2, 3))"
    silence = str(warning.message).partition("To run it without this warning: ")[2]
    monkeypatch.setattr(engine, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(silence, {"warnings": warnings, "bptt": bptt})
        bptt.nn.Recurrent(f"h_t = tanh(x_t W_xk + h_{{t-1}} W_hk + {int(compiled)}.25)", 3, 4)(torch.randn(5, 2, 3))


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
    refused = choice_under("native", "float16").stderr
    assert "was asked for and cannot serve: the compiled engine takes" in refused
    assert "Leave out bptt.using('native'), or unset the environment variable BPTT_ENGINE: each layer then" in refused
    assert "must be native, reference or torch; got 'fastest'. Unset it" in choice_under("fastest", "float32").stderr


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
