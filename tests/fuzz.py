"""Damaged files and impossible arrays by the thousand, none of which may do more than raise its error: `make fuzz`.

    python tests/fuzz.py [--cases 10000] [--seed 0] [--only TARGET]

Descriptions: that of a tape, one value of it replaced, taken out or put elsewhere, in a file that is right otherwise.
Runs: settings and checkpoints with one value of what they say replaced likewise, and the checksum that belongs to it.
Files: tapes, weights, checkpoints, settings, tables and texts, each begun from a real one and changed: bits turned,
parts cut out, doubled or moved, numbers replaced. A change that reached lines of bptt not reached before joins those
that are changed further, which is what makes it coverage-guided. Native: layers of the C++ engine with
arrays whose shapes, types, memory, tokens and batch sizes are sometimes wrong; `make fuzz` runs these under
AddressSanitizer.
What is not an InputError (for arrays ValueError, TypeError, IndexError, RuntimeError) is a finding: exit code 1.
"""

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from safetensors.torch import save

import bptt
from bptt import runs
from bptt.engine import _native, native
from bptt.engine.contract import Gradients, Layout, Signature, Weights
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.runs import formats
from bptt.sheet import Cell
from bptt.sheet.cells import elman
from bptt.tape import tapefile
from bptt.tasks import Text, data, table
from bptt.tasks.text import Recipe

ROOT = str(Path(bptt.__file__).parent)
NUMBERS = [0, 1, -1, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, -(2**31), 10**30, 0.5]
SCRAPS = [
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"NaN",
    b'"\\ud800"',
    b"\\ud800",
    b"1e999",
    b"true",
    b"\xff",
    b"\0",
    b"\\ud800",
    b'"',
    b",",
    b"\n",
    b";",
    b"F64",
    b"I64",
]
REFUSALS = (ValueError, TypeError, IndexError, RuntimeError)


def changed(content: bytes, draw: random.Random) -> bytes:
    changes = bytearray(content)
    for _ in range(1 + draw.randrange(4)):
        at = draw.randrange(len(changes) + 1) if draw.random() < 0.3 else draw.randrange(min(len(changes), 2000) + 1)
        length = draw.randrange(1, 2 + min(64, len(changes) - at))
        match draw.randrange(8):
            case 0 if at < len(changes):
                changes[at] ^= 1 << draw.randrange(8)
            case 1:
                del changes[at : at + length]
            case 2:
                changes[at:at] = changes[at : at + length]
            case 3:
                changes[at : at + length] = draw.randbytes(length)
            case 4:
                changes[at : at + draw.randrange(3)] = str(draw.choice(NUMBERS)).encode()
            case 5:
                changes[at : at + draw.randrange(3)] = draw.choice(SCRAPS)
            case 6 if len(changes) >= 8:
                changes[:8] = struct.pack("<q", draw.choice([0, 1, 2**62, -1, len(changes), draw.randrange(4000)]))
            case _:
                del changes[at + length :]
    return bytes(changes)


class Reached:
    """The lines of bptt that a call reached."""

    def __init__(self) -> None:
        self.lines: set[tuple[CodeType, int]] = set()
        self.all: set[tuple[CodeType, int]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        self.lines.add((frame.f_code, frame.f_lineno))
        return self

    def of(self, do: Callable[[], object]) -> bool:
        """Does it; whether a line was reached that no call before had reached."""
        self.lines = set()
        sys.settrace(self)
        try:
            do()
        finally:
            sys.settrace(None)
            new = self.lines - self.all
            self.all |= new
        return bool(new)


def use_table(path: Path) -> None:
    found = table.read(path)
    for name in found.columns[:4]:
        for read in (found.numbers, found.texts):
            try:
                read(name)
            except InputError:
                continue


def use_text(path: Path) -> None:
    text = data.read(path)
    for unit in ("byte", "character", "word"):
        data.Vocabulary.of(text, unit).encode(text)


def resume(run: Path) -> None:
    runs.resume(run)[0].close()


def files(at: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """What is changed, and what then reads it."""
    source = at / "text.txt"
    source.write_text("".join(f"{n * n % 97} is the square of {n}, é.\n" for n in range(30)))
    run, training = runs.start(at / "run", Text(data.read(source), Recipe(hidden=4, streams=2, bptt=5, steps=3)))
    training.run(watch=run.watch, save=run.save)
    run.close()
    model = bptt.nn.Elman(5, 3, 5)
    bptt.record(model, torch.arange(8).view(4, 2) % 5, torch.arange(8).view(4, 2) % 5).save(at / "a.tape")
    (at / "a.csv").write_text('time,x,"a, b",y\n' + "".join(f"2026-01-{n:02},{n / 7},{n},a\n" for n in range(1, 20)))
    table.read(at / "a.csv").frame.write_parquet(at / "a.parquet")
    known = at / "run"
    return {
        "tape": (at / "a.tape", lambda: bptt.Tape.load(at / "a.tape")),
        "weights": (known / runs.WEIGHTS, lambda: runs.load(known)),
        "settings": (known / runs.SETTINGS, lambda: runs.load(known)),
        "checkpoint": (known / runs.CHECKPOINT, lambda: resume(known)),
        "csv": (at / "a.csv", lambda: use_table(at / "a.csv")),
        "parquet": (at / "a.parquet", lambda: use_table(at / "a.parquet")),
        "text": (source, lambda: use_text(source)),
    }


def fuzz_file(name: str, path: Path, use: Callable[[], object], cases: int, draw: random.Random) -> str:
    """Raises what is a finding, with the bytes that led to it kept beside."""
    real = path.read_bytes()
    corpus, reached, refused = [real], Reached(), 0
    reached.of(use)
    around = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    for _ in range(cases):
        content = changed(draw.choice(corpus), draw)
        path.write_bytes(content)
        new = False

        def once() -> None:
            nonlocal refused
            try:
                use()
            except InputError:
                refused += 1

        try:
            new = reached.of(once)
        except BaseException:
            Path(f"fuzz-{name}.finding").write_bytes(content)
            raise
        if new:
            corpus.append(content)
        for file, before in around.items():
            if file == path or file.stat().st_size != len(before):
                file.write_bytes(before)
    path.write_bytes(real)
    return f"{cases} cases, {refused} refused, {len(reached.all)} lines of bptt reached, {len(corpus)} kept to change"


def described(value: Any, draw: random.Random) -> Any:
    """A JSON value in which one place holds something else."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.85:
        changed = value.copy()
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
        if draw.random() < 0.1:
            del changed[key]
        else:
            changed[key] = described(value[key], draw)
        return changed
    return draw.choice(
        [
            *NUMBERS,
            None,
            True,
            "",
            "tanh",
            "cross_entropy",
            "\ud800",
            [],
            {},
            [[]],
            [value],
            {"": value},
            {"\ud800": value},
        ]
    )


def fuzz_descriptions(path: Path, cases: int, draw: random.Random) -> str:
    about, arrays = tapefile.read(path)
    refused = 0
    for _ in range(cases):
        held, description = dict(arrays), described(about, draw)
        if draw.random() < 0.5:
            name = draw.choice(list(held))
            match draw.randrange(4):
                case 0:
                    del held[name]
                case 1:
                    held[name] = held[name].to(draw.choice([torch.int64, torch.float64, torch.bool, torch.float16]))
                case 2:
                    held[name] = held[name][None].contiguous()
                case _:
                    held[name] = held[name].flatten()[1:].clone()
            if isinstance(description, dict):
                description = {**description, "arrays": sorted(held)}
        path.write_bytes(save(held, {tapefile.KEY: json.dumps(description)}))
        try:
            bptt.Tape.load(path).check()
        except InputError:
            refused += 1
    return f"{cases} cases, {refused} refused"


def fuzz_runs(run: Path, cases: int, draw: random.Random) -> str:
    settings = json.loads((run / runs.SETTINGS).read_text())
    del settings["sha256"]
    tensors, facts = formats.read_safetensors(run / runs.CHECKPOINT)
    files = {name: (run / name).read_bytes() for name in (runs.SETTINGS, runs.CHECKPOINT, runs.LOG)}
    (run / runs.PREVIOUS).unlink(missing_ok=True)
    refused = 0
    for _ in range(cases):
        for name, content in files.items():
            (run / name).write_bytes(content)
        try:
            if draw.random() < 0.5:
                said = described(settings, draw)
                if isinstance(said, dict):
                    said = {**said, "sha256": formats.digest({}, said)}
                (run / runs.SETTINGS).write_text(json.dumps(said))
                runs.load(run)
            else:
                said = described(facts, draw)
                (run / runs.CHECKPOINT).write_bytes(
                    formats.as_safetensors(tensors, said if isinstance(said, dict) else {})
                )
                resume(run)
        except InputError as error:
            str(error).encode()
            refused += 1
    for name, content in files.items():
        (run / name).write_bytes(content)
    return f"{cases} cases, {refused} refused"


def odd(array: Any, draw: random.Random) -> Any:
    """Sometimes an array of the same shape that is not what its address and shape say."""
    match draw.randrange(200):
        case 0:
            return torch.ops.aten._neg_view(array)
        case 1:
            return torch.complex(torch.zeros_like(array), array).conj().imag if array.is_floating_point() else array
        case 2:
            array.untyped_storage().resize_(0)
        case 3:
            array.untyped_storage().resize_(draw.randrange(array.untyped_storage().nbytes() + 1))
        case 4 if len(array):
            array = torch.cat([array, array])[len(array) :]
            array.untyped_storage().resize_(array.untyped_storage().nbytes() - array.element_size())
        case 5:
            return torch.ops.aten._efficientzerotensor(array.shape, dtype=array.dtype)
        case 6 if array.dim():
            return array[:1].expand(array.shape)
    return array


def fuzz_engine(
    x: Any, N: tuple[int, ...], B: int, I: int, H: int, steps: Steps, activation: str, array: Any, draw: random.Random
) -> None:
    """A plain cell or one with options, by the contract of an engine."""
    options: dict[str, Any] = {}
    if draw.random() < 0.7:
        options = {name: draw.random() < 0.5 for name in ("residual", "norm", "dropout", "bias")}
        options["leak"] = draw.choice([None, 0.5])
    cell = Cell(elman("relu" if activation == "gelu" else activation, **options))
    signature, layout = Signature.of(cell), Layout.of(cell, torch=draw.random() < 0.5)
    shapes = {"W_xh": (I, H), "W_hh": (H, H)}
    of_tensors = {k: shapes.get(name, (H,)) for name, at in layout.made_of.items() for k in at}

    def tensors(array: Any) -> list[Any]:
        shapes = (of_tensors[k][::-1] if layout.transposed else of_tensors[k] for k in range(len(layout.names)))
        return [array(*shape) for shape in shapes]

    def to_write(*shape: int) -> Any:
        made = array(*shape)
        return torch.empty(shape) if made._is_zerotensor() else made  # torch's matmul would write to no memory

    weights, first = Weights(layout, tensors(array)), [array(1, B, H) if draw.random() < 0.7 else None]
    extras = [array(B, H) for _ in signature.masks]
    out = array(*N, H) if draw.random() < 0.3 else None
    made = native.forward(cell, weights, x, first, steps, extras, out=out, values=draw.random() < 0.3)
    if made.kept and draw.random() < 0.2:
        made = replace(made, kept=tuple(odd(each, draw) for each in made.kept))
    into = Gradients(
        to_write(*N, I) if draw.random() < 0.7 and x.is_floating_point() else None,
        [to_write(1, B, H) if draw.random() < 0.7 else None],
        [each if draw.random() < 0.7 else None for each in tensors(to_write)],
        cotangents={} if draw.random() < 0.3 else None,
    )
    dy = array(*N, H) if draw.random() < 0.7 else None
    d_last = [array(1, B, H) if draw.random() < 0.7 else None]
    native.backward(cell, weights, made, x, first, steps, dy, d_last, into, extras)


def _with_another_number(code: Any, draw: random.Random) -> Any:
    """Somewhere inside."""
    if isinstance(code, int):
        return code + draw.choice([-2, -1, 1, 2, 2**20, -(2**31)]) if abs(code) < 2**10 else code
    if not isinstance(code, list | tuple) or not code:
        return code
    at = draw.randrange(len(code))
    return type(code)(_with_another_number(part, draw) if k == at else part for k, part in enumerate(code))


def fuzz_program(draw: random.Random) -> None:
    """A random program, at times with a number that is wrong, on arrays of exactly the sizes that it names."""
    length = [1, *(draw.choice([0, 1, 5, 16, 17, 40]) for _ in range(draw.randrange(1, 3)))]
    groups = [draw.choice([1, 1, 1, 2, 4]) for _ in range(draw.randrange(1, 8))]
    of_group = [draw.randrange(len(length)) for _ in groups]
    slots = [(of_group[g], g, place) for g, count in enumerate(groups) for place in range(count)]
    vectors, arrays, rows = (
        [draw.randrange(len(length)) for _ in range(draw.randrange(1, least + 3))] for least in (1, 3, 2)
    )

    of_slots = [size for size, *_ in slots]

    def one(all: list[int], size: int) -> int:
        """Where one of this size is; where none is, it is made."""
        if size not in all:
            all.append(size)
        return draw.choice([k for k, own in enumerate(all) if own == size])

    weights: list[tuple[int, int, list[int]]] = []
    products: list[list[tuple[int, int]]] = []
    instructions: list[tuple[_native.Operation, int, list[int]]] = []
    of_entries = list(_native.Operation)[list(_native.Operation).index(_native.Operation.copy) :]
    for _ in range(draw.randrange(1, 25)):
        to = draw.randrange(len(slots))
        size, group, place = slots[to]
        match draw.choice(["load", "previous", "store", "product", "row", "entry", "entry"]):
            case "load":
                instructions.append((_native.Operation.load, to, [one(arrays, size)] * 4))
            case "previous":
                first = draw.choice([-1, one(rows, size)])
                instructions.append((_native.Operation.previous, to, [one(arrays, size), first, 0, 0]))
            case "store":
                instructions.append((_native.Operation.store, one(arrays, size), [to] * 4))
            case "product":
                factors = []
                for _ in range(draw.choice([1, 1, 2, 5])):
                    left = draw.randrange(len(slots))
                    if slots[left][1] != group:
                        factors.append((left, len(weights)))
                        weights.append((of_slots[left], size, [draw.randrange(3) for _ in range(groups[group])]))
                if factors:
                    operation = draw.choice([_native.Operation.product, _native.Operation.add_product])
                    instructions.append((operation, to - place, [len(products)] * 4))
                    products.append(factors)
            case "row":
                of = [k for k, own in enumerate(of_slots) if own]
                if not size and of:
                    operation = draw.choice([_native.Operation.sum, _native.Operation.mean, _native.Operation.largest])
                    instructions.append((operation, to, [draw.choice(of)] * 4))
            case _:
                near = [k for k, own in enumerate(of_slots) if own in (size, 0)] + [-1 - one(vectors, size)]
                instructions.append((draw.choice(of_entries), to, [draw.choice(near) for _ in range(4)]))
    carried = []
    for _ in range(draw.randrange(4)):
        slot = draw.randrange(len(slots))
        others = one(rows, of_slots[slot]), one(of_slots, of_slots[slot]), one(rows, of_slots[slot])
        carried.append((slot, *(draw.choice([-1, k]) for k in others)))
    code: list[Any] = [slots, groups, instructions, weights, products, carried, vectors, arrays, rows, 3, len(length)]
    if draw.random() < 0.3:
        code = _with_another_number(code, draw)
    program = _native.Program(*code)
    vectors, arrays, rows = code[6:9]
    T, B, dtype = draw.choice([0, 1, 2, 5]), draw.choice([0, 1, 3, 40]), draw.choice([torch.float32, torch.float64])
    sizes = sorted((draw.randrange(B + 1) for _ in range(T)), reverse=True) if draw.random() < 0.4 else None
    of_steps = None if sizes is None else torch.tensor(sizes, dtype=torch.int64)
    N = T * B if sizes is None else sum(sizes)

    def each_of(all: list[int], count: int) -> list[Any]:
        return [None if draw.random() < 0.1 else torch.randn(count, length[size], dtype=dtype) for size in all]

    of_arrays, of_rows = each_of(arrays, N), each_of(rows, B)
    of_vectors = [torch.zeros(1, length[size], dtype=dtype) for size in vectors]
    matrices = [torch.randn(max(length), max(length), dtype=dtype) for _ in range(3)]
    precision = {torch.float32: _native.float32, torch.float64: _native.float64}[dtype]
    precision.run(
        program, T, B, 0 if of_steps is None else of_steps.data_ptr(), draw.random() < 0.5, draw.random() < 0.5, length,
        [(0, 0, 1) if a is None else (a.data_ptr(), a.shape[1], 1) for a in of_arrays],
        [0 if a is None else a.data_ptr() for a in of_rows], [a.data_ptr() for a in of_vectors],
        [(m.data_ptr(), max(length), 1) for m in matrices], draw.choice([1, 2, 3]),
    )  # fmt: skip


def fuzz_native(cases: int, draw: random.Random) -> str:
    refused = 0
    for _ in range(cases):
        T, B, I, H = (draw.choice([0, 1, 2, 3, 5, 8, 17]) for _ in range(4))
        dtype = draw.choice([torch.float32, torch.float64])

        def array(*shape: int, dtype: torch.dtype = dtype) -> Any:
            if draw.random() < 0.06:
                shape = tuple(max(0, size + draw.choice([-1, 0, 1, 7])) for size in shape)
            if draw.random() < 0.03:
                shape = shape[1:]
            if draw.random() < 0.03:
                dtype = draw.choice([torch.float32, torch.float64, torch.float16, torch.int64])
            made = torch.zeros(shape, dtype=dtype) if not dtype.is_floating_point else torch.randn(shape).to(dtype)
            return odd(made.mT.contiguous().mT if made.dim() > 1 and draw.random() < 0.1 else made, draw)

        sizes = None
        if draw.random() < 0.4:
            sizes = sorted((draw.randrange(1, B + 1) for _ in range(T - 1)), reverse=True) if B and T else []
            sizes = [B, *sizes]
            if draw.random() < 0.15:
                sizes = [*sizes, draw.choice([0, -1, B + 5, 2**40])]
            if draw.random() < 0.1:
                draw.shuffle(sizes)
        N = (sum(size for size in sizes if 0 < size < 100),) if sizes is not None else (T, B)
        steps = Steps(T if sizes is None else len(sizes), B, sizes, draw.random() < 0.5)
        if draw.random() < 0.05:
            steps = steps._replace(T=draw.choice([0, T + 1, 2**31, -1]))
        if draw.random() < 0.05:
            steps = steps._replace(B=draw.choice([0, B + 1, B + 7, -1]))
        activation = draw.choice(["tanh", "relu", "sigmoid", "identity", "gelu"][: 4 if draw.random() < 0.95 else 5])
        try:
            if draw.random() < 0.3:
                fuzz_program(draw)
                continue
            tokens = draw.random() < 0.3
            x = (
                odd(torch.randint(-1 if draw.random() < 0.1 else 0, I + draw.choice([0, 0, 0, 1]), N), draw)
                if tokens and I
                else array(*N, I)
            )
            if draw.random() < 0.4:
                fuzz_engine(x, N, B, I, H, steps, activation, array, draw)
                continue
            bias = array(H) if draw.random() < 0.7 else None
            h0 = array(1, B, H) if draw.random() < 0.7 else None
            w_xh, w_hh = array(H, I), array(H, H)
            h = native.forward_layer(x, h0, w_xh, w_hh, bias, bias, activation, steps)
            wanted = {"dx": (*N, I), "dweight_ih": (H, I), "dweight_hh": (H, H), "dbias": (H,), "dh0": (1, B, H)}
            wanted |= {"da": (*N, H), "total": (*N, H)}
            given = {name: array(*shape) for name, shape in wanted.items() if draw.random() < 0.7}
            if not x.is_floating_point() and x.is_contiguous() and not x.is_neg() and draw.random() < 0.1:
                x.numpy()[:] = draw.choice([-1, I, 2**40, -(2**62)])
            dh_n = array(1, B, H) if draw.random() < 0.7 else None
            native.backward_layer(array(*N, H), dh_n, h, h0, x, w_xh, w_hh, activation, steps, **given)
        except REFUSALS:
            refused += 1
    return f"{cases} cases, {refused} refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one of the targets, as printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as at:
        targets = files(Path(at))
        names = [*targets, "description", "runs", "native"] if options.only is None else [options.only]
        for name in names:
            began = time.monotonic()
            draw = random.Random(f"{options.seed} {name}")
            try:
                if name == "native":
                    said = fuzz_native(options.cases, draw)
                elif name == "description":
                    said = fuzz_descriptions(targets["tape"][0], options.cases, draw)
                elif name == "runs":
                    said = fuzz_runs(Path(at) / "run", options.cases, draw)
                else:
                    said = fuzz_file(name, *targets[name], options.cases, draw)
            except BaseException:
                traceback.print_exc()
                sys.exit(f"{name}: a finding; seed {options.seed}, {os.getcwd()}/fuzz-{name}.finding")
            print(f"{name}: {said}, {time.monotonic() - began:.0f} s", flush=True)
    print("No finding.")


if __name__ == "__main__":
    main()
