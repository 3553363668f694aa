"""Cells that no library has beside what people would run in their place: forward and backward of one layer, float32.

    python -m benchmarks.cells [--pairs 9] [--threads 2] [--seconds 0.4] [--only mgu]

mgu and a cell with two memories, as a user types them, beside the same cell as a loop in eager PyTorch and as jit of
lax.scan in JAX (`pip install jax`; left out where it is not there); the plain cell with options beside the reference
engine. Each in a process of its own, PAIRS times in turn. Prints milliseconds, the least of each process and of these
the median; how many times longer the other takes, the geometric mean of the pairs; and an interval in which that lies
with 95 % probability (Student's t on the logarithms). LSTM and GRU: `python -m benchmarks --cell lstm,gru`.
"""

# pyright: reportMissingImports=false
# JAX is there for those alone who compare with it.

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.machine import machine
from benchmarks.versions import STUDENT
from benchmarks.worker import environment

MODES = ("train", "infer")
SHAPES = ("100,1,64,64", "100,32,64,128")
OPTIONS: dict[str, dict[str, Any]] = {
    "leak": {"leak": 0.3},
    "residual": {"residual": True},
    "norm": {"norm": "layer"},
    "all options": {"leak": 0.3, "residual": True, "norm": "layer", "recurrent_dropout": 0.3},
}
TWO_MEMORIES = """
f_t = σ(x_t W_xf + h_{t-1} W_hf + b_f)
q_t = σ(x_t W_xq + h_{t-1} W_hq + b_q)
z_t = tanh(x_t W_xz + h_{t-1} W_hz + b_z)
c_t = f_t ⊙ c_{t-1} + (1 − f_t) ⊙ z_t
s_t = 0.9 ⊙ s_{t-1} + 0.1 ⊙ c_t
h_t = q_t ⊙ tanh(c_t + s_t)
"""


def rivals() -> list[tuple[str, str, str]]:
    """Cell, shape and who is beside it."""
    own = ("loop", *(["jax"] if find_spec("jax") else []))
    return [
        *((cell, shape, other) for cell in ("mgu", "two memories") for shape in SHAPES for other in own),
        *((cell, shape, "reference") for cell in OPTIONS for shape in SHAPES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, choices=sorted(STUDENT))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each mode and process")
    parser.add_argument("--only", help="one cell")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        cell, shape, who = given.worker
        print(json.dumps(_times(cell, shape, who, given.threads, given.seconds)))
        return
    print(f"{machine()['processor']}, {given.threads} threads, {given.pairs} pairs")
    for cell, shape, other in rivals():
        if given.only in (None, cell):
            _compare(cell, shape, other, given.pairs, given.threads, given.seconds)


def _compare(cell: str, shape: str, other: str, pairs: int, threads: int, seconds: float) -> None:
    found: dict[str, list[dict[str, float]]] = {"bptt": [], other: []}
    for pair in range(pairs):
        for who in [*found][:: 1 if pair % 2 == 0 else -1]:
            command = [sys.executable, "-m", "benchmarks.cells", "--worker", cell, shape, who]
            command += ["--threads", str(threads), "--seconds", str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(threads))
            found[who].append(json.loads(done.stdout))
    for mode in MODES:
        ours, theirs = ([times[mode] for times in found[who]] for who in ("bptt", other))
        logs = [math.log(b / a) for a, b in zip(ours, theirs, strict=True)]
        middle = statistics.mean(logs)
        reach = STUDENT[pairs] * statistics.stdev(logs) / math.sqrt(pairs)
        print(
            f"{cell:13} {shape:16} {mode:6} bptt {1e3 * statistics.median(ours):8.3f} ms   {other:10}"
            f"{1e3 * statistics.median(theirs):9.3f} ms   {math.exp(middle):6.2f} times  "
            f"[{math.exp(middle - reach):.2f}, {math.exp(middle + reach):.2f}]",
            flush=True,
        )


def _times(cell: str, shape: str, who: str, threads: int, seconds: float) -> dict[str, float]:
    sizes = tuple(map(int, shape.split(",")))
    calls = _of_jax(cell, *sizes) if who == "jax" else _of_torch(cell, who, threads, *sizes)
    return {mode: _least(call, seconds) for mode, call in zip(MODES, calls, strict=True)}


def _least(call: Callable[[], None], seconds: float) -> float:
    for _ in range(3):
        call()
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(found) < 5:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def _of_torch(
    cell: str, who: str, threads: int, T: int, B: int, I: int, H: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    import torch

    import bptt

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, dy = torch.randn(T, B, I), torch.randn(T, B, H)
    if cell in OPTIONS:
        rnn: torch.nn.Module = bptt.nn.RNN(I, H, **OPTIONS[cell])
    else:
        rnn = bptt.nn.Recurrent(TWO_MEMORIES if cell == "two memories" else cell, I, H)
    W = {name.removesuffix("_l0"): tensor for name, tensor in rnn.named_parameters()}

    def loop(x: Any) -> Any:
        h, c, s = (x.new_zeros(B, H) for _ in range(3))
        states = []
        for x_t in x.unbind():
            if cell == "mgu":
                h = _mgu(torch, W, x_t, h)
            else:
                h, c, s = _two_memories(torch, W, x_t, h, c, s)
            states.append(h)
        return torch.stack(states), h

    layer: Callable[[Any], Any] = loop if who == "loop" else rnn

    def infer() -> None:
        with torch.no_grad(), bptt.using("reference" if who == "reference" else "native"):
            layer(x)

    def train() -> None:
        rnn.zero_grad(set_to_none=True)
        with bptt.using("reference" if who == "reference" else "native"):
            layer(x)[0].backward(dy)

    return train, infer


def _mgu(np: Any, W: dict[str, Any], x: Any, h: Any) -> Any:
    f = np.sigmoid(x @ W["W_xf"] + h @ W["W_hf"] + W["b_f"])
    n = np.tanh(x @ W["W_xn"] + (f * h) @ W["W_hn"] + W["b_n"])
    return (1 - f) * h + f * n


def _two_memories(np: Any, W: dict[str, Any], x: Any, h: Any, c: Any, s: Any) -> tuple[Any, Any, Any]:
    f = np.sigmoid(x @ W["W_xf"] + h @ W["W_hf"] + W["b_f"])
    q = np.sigmoid(x @ W["W_xq"] + h @ W["W_hq"] + W["b_q"])
    z = np.tanh(x @ W["W_xz"] + h @ W["W_hz"] + W["b_z"])
    c = f * c + (1 - f) * z
    s = 0.9 * s + 0.1 * c
    return q * np.tanh(c + s), c, s


def _of_jax(cell: str, T: int, B: int, I: int, H: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Everything of a step inside the scan but the products of x, which stand before it: the better way to write it."""
    import jax
    import jax.numpy as jnp
    import numpy

    draw = numpy.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return jnp.asarray(draw.normal(0, 0.1, shape), jnp.float32)

    gates = ("f", "n") if cell == "mgu" else ("f", "q", "z")
    W = {f"W_x{g}": normal(I, H) for g in gates} | {f"W_h{g}": normal(H, H) for g in gates}
    W |= {f"b_{g}": normal(H) for g in gates}
    x, dy, zero = normal(T, B, I), normal(T, B, H), jnp.zeros((B, H), jnp.float32)

    class Ahead:
        """x_t W_x of one step: what stands left of it is the product already."""

        def __init__(self, of_gates: Any) -> None:
            self.of_gates = of_gates

        def __matmul__(self, gate: str) -> Any:
            return self.of_gates[gate]

    class Functions:
        sigmoid, tanh = staticmethod(jax.nn.sigmoid), staticmethod(jnp.tanh)

    def forward(W: Any) -> Any:
        products = {g: x @ W[f"W_x{g}"] for g in gates}
        given = W | {f"W_x{g}": g for g in gates}

        def step(states: Any, of_gates: Any) -> Any:
            if cell == "mgu":
                states = (_mgu(Functions, given, Ahead(of_gates), *states),)
            else:
                states = _two_memories(Functions, given, Ahead(of_gates), *states)
            return states, states[0]

        return jax.lax.scan(step, (zero,) * (1 if cell == "mgu" else 3), products)[1]

    def gradients(W: Any) -> Any:
        y, back = jax.vjp(forward, W)
        return y, back(dy)

    infer, train = jax.jit(forward), jax.jit(gradients)
    return lambda: jax.block_until_ready(train(W)), lambda: jax.block_until_ready(infer(W))


if __name__ == "__main__":
    main()
