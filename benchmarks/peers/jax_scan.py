"""JAX: jit of lax.scan over the time steps and of its reverse-mode derivative, on the CPU client of XLA.

The input's share of A2 is one product before the scan, which is the better of the two ways to write it. Training is
one compiled function that returns y, h_n and, by jax.vjp with the cotangent dy, the gradients of both weights, the
bias, h_0 and, in train_dx, x. Compilation is not timed; a call ends when its results are there (block_until_ready).

XLA takes the size of its thread pool from the environment, which `benchmarks.worker` sets.
"""

# pyright: reportMissingImports=false
# The library is installed for `make bench` only.

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Array, Case, Mode, inputs
from benchmarks.peers import Prepared

VERSION = f"jax {jax.__version__}"


def forward(x: jax.Array, h0: jax.Array, W_xh: jax.Array, W_hh: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    def step(h: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(a + h @ W_hh)
        return h, h

    h_n, y = jax.lax.scan(step, h0, x @ W_xh + b)
    return y, h_n


def prepare(case: Case, mode: Mode) -> Prepared | None:
    given = inputs(case)
    x, h0, dy = jnp.asarray(given.x), jnp.asarray(given.h0), jnp.asarray(given.dy)
    weights = [
        jnp.asarray(given.weight_ih.T),
        jnp.asarray(given.weight_hh.T),
        jnp.asarray(given.bias_ih + given.bias_hh),
    ]

    def infer(x: jax.Array, h0: jax.Array, *weights: jax.Array) -> Any:
        return forward(x, h0, *weights)

    def train(x: jax.Array, h0: jax.Array, *weights: jax.Array) -> Any:
        y, back, h_n = jax.vjp(lambda *wanted: forward(x, *wanted), h0, *weights, has_aux=True)
        return y, h_n, back(dy)

    def train_dx(x: jax.Array, h0: jax.Array, *weights: jax.Array) -> Any:
        y, back, h_n = jax.vjp(
            lambda h0, W_xh, W_hh, b, x: forward(x, h0, W_xh, W_hh, b), h0, *weights, x, has_aux=True
        )
        return y, h_n, back(dy)

    function = jax.jit({"infer": infer, "train": train, "train_dx": train_dx}[mode])
    last: dict[str, Any] = {}

    def run() -> None:
        last["all"] = jax.block_until_ready(function(x, h0, *weights))

    def results() -> dict[str, Array]:
        y, h_n, *gradients = last["all"]
        found = {"y": y, "h_n": h_n}
        if gradients:
            found |= dict(zip(("dh0", "dW_ih", "dW_hh", "db", "dx"), gradients[0], strict=False))
            found |= {name: found[name].T for name in ("dW_ih", "dW_hh")}
        return {name: np.asarray(array) for name, array in found.items()}

    return Prepared(run, results)
