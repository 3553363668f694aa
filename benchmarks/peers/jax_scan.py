"""JAX: jit of lax.scan over the time steps and of its reverse-mode derivative, on the CPU client of XLA.

The input's share of A2 is one product before the scan, which is the better of the two ways to write it. Training is
one compiled function that returns y, the last states and, by jax.vjp with the cotangent dy, the gradients of both
weights, the bias, the first states and, in train_dx, x. Compilation is not timed; a call ends when its results are
there (block_until_ready). Gates and their weights are in torch's order.

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


States = tuple[jax.Array, ...]


def rnn(states: States, a: jax.Array, W_hh: jax.Array, b_hn: jax.Array) -> States:
    (h,) = states
    return (jnp.tanh(a + h @ W_hh),)


def lstm(states: States, a: jax.Array, W_hh: jax.Array, b_hn: jax.Array) -> States:
    h, c = states
    i, f, g, o = jnp.split(a + h @ W_hh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(states: States, a: jax.Array, W_hh: jax.Array, b_hn: jax.Array) -> States:
    (h,) = states
    (xr, xz, xn), (hr, hz, hn) = jnp.split(a, 3, axis=-1), jnp.split(h @ W_hh, 3, axis=-1)
    z = jax.nn.sigmoid(xz + hz)
    return ((1 - z) * jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * (hn + b_hn)) + z * h,)


STEPS = {"rnn": rnn, "lstm": lstm, "gru": gru}


def prepare(case: Case, mode: Mode) -> Prepared | None:
    given = inputs(case)
    x, dy, first = jnp.asarray(given.x), jnp.asarray(given.dy), tuple(map(jnp.asarray, given.first))
    weights = [jnp.asarray(array) for array in (given.weight_ih.T, given.weight_hh.T, given.bias(case))]

    def forward(
        x: jax.Array, first: States, W_xh: jax.Array, W_hh: jax.Array, b: jax.Array
    ) -> tuple[jax.Array, States]:
        b_x, b_hn = b[: case.columns], b[case.columns :]

        def step(states: States, a: jax.Array) -> tuple[States, jax.Array]:
            states = STEPS[case.cell](states, a, W_hh, b_hn)
            return states, states[0]

        last, y = jax.lax.scan(step, first, x @ W_xh + b_x)
        return y, last

    def infer(x: jax.Array, first: States, *weights: jax.Array) -> Any:
        return forward(x, first, *weights)

    def train(x: jax.Array, first: States, *weights: jax.Array) -> Any:
        y, back, last = jax.vjp(lambda *wanted: forward(x, *wanted), first, *weights, has_aux=True)
        return y, last, back(dy)

    def train_dx(x: jax.Array, first: States, *weights: jax.Array) -> Any:
        y, back, last = jax.vjp(
            lambda first, W_xh, W_hh, b, x: forward(x, first, W_xh, W_hh, b), first, *weights, x, has_aux=True
        )
        return y, last, back(dy)

    function = jax.jit({"infer": infer, "train": train, "train_dx": train_dx}[mode])
    done: dict[str, Any] = {}

    def run() -> None:
        done["all"] = jax.block_until_ready(function(x, first, *weights))

    def results() -> dict[str, Array]:
        y, last, *gradients = done["all"]
        found = {"y": y, **{f"{name}_n": state for name, state in zip(case.form.states, last, strict=True)}}
        if gradients:
            d_first, dW_xh, dW_hh, db, *dx = gradients[0]
            found |= {f"d{name}0": d_state for name, d_state in zip(case.form.states, d_first, strict=True)}
            found |= {"dW_ih": dW_xh.T, "dW_hh": dW_hh.T, "db": db} | ({"dx": dx[0]} if dx else {})
        return {name: np.asarray(array) for name, array in found.items()}

    return Prepared(run, results)
