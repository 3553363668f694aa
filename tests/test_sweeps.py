"""The choice of an engine: its reason is given, a slow one is never silent."""

import os
import subprocess
import sys

import pytest
import torch

from bptt import SlowEngineWarning, engine


def test_the_cpu_gets_the_compiled_sweeps() -> None:
    for dtype in (torch.float32, torch.float64):
        choice = engine.choose("cpu", dtype)
        assert choice.name == "native"
        assert "compiled" in choice.reason


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [("cpu", torch.bfloat16, "are torch.bfloat16"), ("cuda", torch.float32, "tensors are on cuda")],
)
def test_the_slow_engine_says_why(device: str, dtype: torch.dtype, reason: str) -> None:
    engine.choose.cache_clear()
    with pytest.warns(SlowEngineWarning, match=f"slow reference engine: .*{reason}"):
        choice = engine.choose(device, dtype)
    assert choice.name == "reference"
    assert choice.slow
    assert reason in choice.reason


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
    assert choice_under("reference", "float32").stdout == "reference | BPTT_ENGINE=reference asks for it\n"
    assert choice_under("native", "float32").stdout.startswith("native |")
    assert "cannot be followed: the compiled sweeps take" in choice_under("native", "float16").stderr
    assert "must be native, reference or torch; got 'fastest'" in choice_under("fastest", "float32").stderr
