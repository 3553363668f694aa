"""oneDNN's primitives vanilla_rnn, lstm and lbr_gru, driven by a small C++ program (`onednn_rnn.cpp`).

It is compiled on first use. oneDNN's h_t of a GRU is u h_{t-1} + (1 − u) o: u is torch's z, o its n. lbr_gru is "linear
before reset", torch's kind, and has the bias of h W_hn as its fourth.

Training is forward_training and backward, which always includes dx; so it competes in train_dx only. All its memory is
allocated when the case is prepared, as a C++ program would. Inference is forward_inference with the weights already in
the format that the primitive prefers.

The library comes from the wheels `onednn-cpu-gomp` and `onednn-devel-cpu-gomp`: the last release on PyPI with OpenMP,
which is what a program that trains on a CPU links against (newer wheels are SYCL builds). In an environment without
them, ONEDNN_ROOT names a folder with include/ and lib/.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.cases import Array, Case, Mode, inputs
from benchmarks.peers import Prepared

SOURCE = Path(__file__).with_suffix(".cpp")
BUILD = SOURCE.parents[2] / "build" / "benchmarks"


def library() -> ctypes.CDLL:
    """The C++ program as a library, compiled if the source or the prefix is newer."""
    root = Path(os.environ.get("ONEDNN_ROOT", sys.prefix))
    if not (root / "include/oneapi/dnnl/dnnl.hpp").exists():
        raise ImportError(f"no oneDNN in {root}; pip install onednn-devel-cpu-gomp, or set ONEDNN_ROOT")
    BUILD.mkdir(parents=True, exist_ok=True)
    built = BUILD / "libonednn_peer.so"
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", str(SOURCE)]
    command += [f"-I{root}/include", f"-L{root}/lib", "-l:libdnnl.so.3", f"-Wl,-rpath,{root}/lib"]
    note = BUILD / "libonednn_peer.command"
    described = f"{command} {SOURCE.stat().st_mtime_ns}"
    if not (built.exists() and note.exists() and note.read_text() == described):
        partial = BUILD / f"libonednn_peer.{os.getpid()}"
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.replace(built)
        note.write_text(described)
    found = ctypes.CDLL(str(built))
    found.error.restype = ctypes.c_char_p
    found.layer.restype = found.product.restype = ctypes.c_void_p
    found.product.argtypes = [ctypes.c_void_p] * 4
    found.step.argtypes = found.release.argtypes = [ctypes.c_void_p]
    return found


LIBRARY = library()


def _version() -> str:
    numbers = (ctypes.c_int * 3)()
    LIBRARY.version(numbers)
    return ".".join(map(str, numbers))


VERSION = f"onednn {_version()}"


class Native:
    """A case on the C++ side, alive as long as this object; `arrays` are those it reads and writes."""

    def __init__(self, handle: int | None, arrays: object) -> None:
        if not handle:
            raise RuntimeError(LIBRARY.error().decode())
        self.handle, self.arrays = ctypes.c_void_p(handle), arrays

    def run(self) -> None:
        if LIBRARY.step(self.handle):
            raise RuntimeError(LIBRARY.error().decode())

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            LIBRARY.release(self.handle)


PRIMITIVES = {"rnn": 0, "lstm": 1, "gru": 2}
ORDERS = {"rnn": [0], "lstm": [0, 1, 2, 3], "gru": [1, 0, 2, 3]}
"""Which of torch's gates stands at each place: i, f, g, o and z, r, n, then n of h. Each of these undoes itself."""


def prepare(case: Case, mode: Mode) -> Prepared | None:
    if mode == "train":
        return None
    given = inputs(case)
    T, B, I, H = case.T, case.B, case.I, case.H
    gates, sums = case.form.gates, case.form.sums
    biases = ORDERS[case.cell]
    order = biases[:gates]
    nothing = np.zeros((B, H), np.float32)
    h0, c0 = (*given.first, nothing)[:2]
    W_xh, W_hh = (
        weight.reshape(gates, H, -1)[order].transpose(2, 0, 1) for weight in (given.weight_ih, given.weight_hh)
    )
    bias = given.bias(case).reshape(sums, H)[biases]
    read = [np.ascontiguousarray(array) for array in (given.x, h0, c0, W_xh, W_hh, bias, given.dy, nothing, nothing)]
    shapes = {
        "y": (T, B, H),
        "h_n": (B, H),
        "c_n": (B, H),
        "dx": (T, B, I),
        "dh0": (B, H),
        "dc0": (B, H),
        "dW_xh": (I, gates, H),
        "dW_hh": (H, gates, H),
        "db": (sums, H),
    }
    written = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    sizes = (ctypes.c_long * 4)(T, B, I, H)
    arrays = (_addresses(read), _addresses(list(written.values())))
    handle = LIBRARY.layer(PRIMITIVES[case.cell], sizes, *arrays, int(mode == "train_dx"))
    native = Native(handle, (read, written))

    def results() -> dict[str, Array]:
        found: dict[str, Array] = {**written, "db": written["db"][biases].reshape(-1)}
        for name, weight in (("dW_ih", "dW_xh"), ("dW_hh", "dW_hh")):
            found[name] = written[weight][:, order].reshape(-1, case.columns).T
        return {name: found[name] for name in case.results(mode)}

    return Prepared(native.run, results)


def prepare_product(m: int, k: int, n: int) -> Prepared:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((m, k), (k, n)))
    c = np.empty((m, n), np.float32)
    handle = LIBRARY.product((ctypes.c_long * 3)(m, k, n), *(array.ctypes.data for array in (a, b, c)))
    native = Native(handle, (a, b, c))
    return Prepared(native.run, lambda: {"a": a, "b": b, "c": c})


def _addresses(arrays: list[Array]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
