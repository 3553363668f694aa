"""Damaged files and impossible arrays by the thousand, none of which may do more than raise its error: `make fuzz`.

    python tests/fuzz.py [--cases 10000] [--seed 0] [--only TARGET]

Descriptions: that of a tape, one value of it replaced, taken out or put elsewhere, in a file that is right otherwise.
Runs: settings and checkpoints with one value of what they say replaced likewise, and the checksum that belongs to it.
Files: tapes, weights, checkpoints, settings, tables and texts, each begun from a real one and changed: bits turned,
parts cut out, doubled or moved, numbers replaced. A change that reached lines of bptt not reached before joins those
that are changed further, which is what makes it coverage-guided.
Native: random programs of the C++ engine, and layers of cells on it, with numbers in the programs, shapes, types,
memory, tokens and batch sizes that are sometimes wrong; `make fuzz` runs these under AddressSanitizer. A program in
which all is right must run.
What is not an InputError (for arrays ValueError, TypeError, IndexError, RuntimeError) is a finding: exit code 1.
"""

import argparse
import faulthandler
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
from drawn import shapes_of
from safetensors.torch import save

import bptt
from bptt import runs
from bptt.engine import _native, native
from bptt.engine.contract import Gradients, Layout, Signature, Weights
from bptt.engine.steps import Steps
from bptt.errors import InputError
from bptt.runs import formats
from bptt.sheet import Cell
from bptt.sheet.cells import CELLS, elman
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
LONGEST = 120
"""Seconds that a case of the engine may take: one that never ends is a finding too."""


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


def odd(array: Any, draw: random.Random, of: int = 200) -> Any:
    """Sometimes, 7 times of so many, an array of the same shape that is not what its address and shape say."""
    match draw.randrange(of):
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
    x: Any, N: tuple[int, ...], B: int, I: int, H: int, steps: Steps, array: Any, draw: random.Random
) -> None:
    """The plain cell, one with options or another that is built in, by the contract of an engine."""
    options: dict[str, Any] = {"bias": draw.random() < 0.7}
    if draw.random() < 0.5:
        options |= {name: draw.random() < 0.5 for name in ("residual", "norm", "dropout")}
        options["leak"] = draw.choice([None, 0.5])
    text, in_torch = elman(draw.choice(["tanh", "relu", "sigmoid", "identity"]), **options), draw.random() < 0.5
    if draw.random() < 0.2:
        text, in_torch = draw.choice(list(CELLS.values())), False
    cell = Cell(text)
    signature, layout = Signature.of(cell), Layout.of(cell, as_torch=in_torch)
    length = {"1": 1, "I": I, "H": H}

    def tensors() -> list[Any]:
        return [array(*shape) for shape in shapes_of(cell, layout, length)]

    def of_states() -> list[Any]:
        return [array(1, B, H) if draw.random() < 0.7 else None for _ in signature.states]

    weights, first, extras = Weights(layout, tensors()), of_states(), [array(B, H) for _ in signature.masks]
    out, keep = array(*N, H) if draw.random() < 0.3 else None, draw.random() < 0.9
    made = native.forward(cell, weights, x, first, steps, extras, out=out, values=draw.random() < 0.3, keep=keep)
    if not keep:
        return
    if draw.random() < 0.2:
        made = replace(made, y=odd(made.y, draw), kept=tuple(odd(each, draw) for each in made.kept))
    if not x.is_floating_point() and x.is_contiguous() and not x.is_neg() and draw.random() < 0.1:
        x.numpy()[:] = draw.choice([-1, I, 2**40, -(2**62)])
    into = Gradients(
        array(*N, I) if draw.random() < 0.7 and x.is_floating_point() else None,
        of_states(),
        [each if draw.random() < 0.7 else None for each in tensors()],
        cotangents={} if draw.random() < 0.3 else None,
        accumulate=draw.random() < 0.3,
    )
    dy = array(*N, H) if draw.random() < 0.7 else None
    native.backward(cell, weights, made, x, first, steps, dy, of_states(), into, extras)


def _with_another_number(code: Any, draw: random.Random) -> Any:
    """Somewhere inside."""
    match code:
        case bool():
            return not code
        case int():
            return code + draw.choice([-2, -1, 1, 2, 2**20, -(2**31)]) if abs(code) < 2**10 else code
        case _native.Operation():
            return draw.choice(list(_native.Operation))
        case dict():
            at = draw.choice(list(code))
            return code | {at: _with_another_number(code[at], draw)}
        case list() | tuple() if code:
            at = draw.randrange(len(code))
            return type(code)(_with_another_number(part, draw) if k == at else part for k, part in enumerate(code))
        case _:
            return code


def _drawn_program(sizes: int, draw: random.Random) -> dict[str, Any]:
    """The records of a program that can be run."""
    of, any_size = _native.Operation, range(sizes)
    groups = [(draw.choice([1, 1, 1, 2, 4]), draw.random() < 0.3) for _ in range(draw.randrange(1, 8))]
    of_group = [draw.choice(any_size) for _ in groups]
    slots = [(of_group[g], g, place) for g, (count, _) in enumerate(groups) for place in range(count)]
    of_slots, of_block = [size for size, *_ in slots], [k for k, (_, g, _) in enumerate(slots) if groups[g][1]]
    arrays = [(draw.choice(any_size), draw.random() < 0.3) for _ in range(draw.randrange(3))]
    numbers = [
        (draw.choice([0.0, 1.5, -1e300, float("nan")]), draw.choice([-1, *any_size])) for _ in range(draw.randrange(3))
    ]
    vectors: list[tuple[int, int, int]] = []
    rows: list[int] = []
    matrices: list[tuple[int, int, bool, int, int]] = []
    results: list[tuple[int, int, bool, int, int]] = []
    weights: list[tuple[int, int, list[int]]] = []
    products: list[list[tuple[int, int]]] = []
    instructions: list[tuple[_native.Operation, int, list[int]]] = []

    def one(all: list[Any], record: Any, new: float = 0.2) -> int:
        """Where such a record is; where none is, and at times else, it is made."""
        if record not in all or draw.random() < new:
            all.append(record)
        return draw.choice([k for k, own in enumerate(all) if own == record])

    def vector(size: int) -> int:
        if size == 0 and numbers and draw.random() < 0.5:
            return draw.randrange(len(numbers))
        return len(numbers) + one(vectors, (size, *block()))

    def block() -> tuple[int, int]:
        """Mostly the whole."""
        blocks = draw.choice([1, 1, 1, 2, 4])
        return draw.randrange(blocks), blocks

    def weight(left: int, right: int, count: int = 1) -> int:
        same = [k for k, (*shape, of) in enumerate(weights) if (*shape, len(of)) == (left, right, count)]
        if same and draw.random() < 0.3:
            return draw.choice(same)
        weights.append(
            (left, right, [one(matrices, (left, right, draw.random() < 0.5, *block())) for _ in range(count)])
        )
        return len(weights) - 1

    for _ in range(draw.randrange(25)):
        to = draw.randrange(len(slots))
        size, group, place = slots[to]
        match draw.choice(["load", "previous", "store", "product", "row", "entry", "entry"]):
            case "load":
                instructions.append((of.load, to, [one(arrays, (size, False)), 0, 0, 0]))
            case "previous":
                first = draw.choice([-1, one(rows, size)])
                instructions.append((of.previous, to, [one(arrays, (size, False)), first, 0, 0]))
            case "store":
                instructions.append((of.store, one(arrays, (size, draw.random() < 0.3)), [to, 0, 0, 0]))
            case "product":
                lefts = [k for k, (_, g, _) in enumerate(slots) if g != group]
                lefts = draw.choices(lefts, k=draw.choice([1, 1, 2, 5])) if lefts else []
                if lefts:
                    operation = draw.choice([of.product, of.add_product])
                    instructions.append((operation, to - place, [len(products), 0, 0, 0]))
                    products.append([(left, weight(of_slots[left], size, groups[group][0])) for left in lefts])
            case "row":
                wide = [k for k, own in enumerate(of_slots) if own]
                wide += [-1 - vector(draw.choice(any_size[1:]))] if draw.random() < 0.1 else []
                if size == 0 and wide:
                    instructions.append((draw.choice([of.sum, of.mean, of.largest]), to, [draw.choice(wide), 0, 0, 0]))
            case _:
                near = [k for k, own in enumerate(of_slots) if own in (size, 0)]
                near += [-1 - vector(draw.choice([size, 0]))]
                operation = draw.choice([each for each in of if each.value >= of.copy.value])
                instructions.append((operation, to, [draw.choice(near) for _ in range(4)]))
    ahead, gradients, after, carried, back = [], [], [], [], draw.random() < 0.6
    for _ in range(draw.randrange(4) if of_block else 0):
        to = draw.choice(of_block)
        size, group, place = slots[to]
        lefts, count = [draw.choice(any_size) for _ in range(draw.choice([0, 1, 1, 2, 5]))], groups[group][0]
        begins = [[vector(size) for _ in range(draw.randrange(3))] for _ in range(count)]
        terms = [(one(arrays, (left, False), 0.5), weight(left, size, count)) for left in lefts]
        ahead.append((to - place, begins, terms))
    sums = bool(of_block) and (back or draw.random() < 0.1)
    for _ in range(draw.randrange(5) if sums else 0):
        right, left, of_rows, before, first = draw.choice(of_block), -1, -1, draw.random() < 0.3, -1
        if draw.random() < 0.7:
            of_rows, is_own = draw.choice(any_size), draw.random() < 0.3
            left, before = one(arrays, (of_rows, is_own), 0.5), before and not is_own
            first = draw.choice([-1, one(rows, of_rows)])
        to = one(results, (of_rows, of_slots[right], draw.random() < 0.5))
        gradients.append((left, before, first, right, to))
    for _ in range(draw.randrange(3) if sums else 0):
        size, lefts = draw.choice(any_size), draw.choices(of_block, k=draw.choice([0, 1, 1, 2, 5]))
        after.append((one(arrays, (size, False), 0.5), [(left, weight(of_slots[left], size)) for left in lefts]))
    alone = [k for k, (_, g, _) in enumerate(slots) if groups[g] == (1, False)]
    draw.shuffle(alone)
    while alone and draw.random() < 0.7:
        slot = alone.pop()
        size = of_slots[slot]
        next = draw.choice([-1, *(k for k in alone if of_slots[k] == size)])
        alone = [k for k in alone if k != next]
        first, last = (draw.choice([-1, one(rows, size)]) for _ in range(2))
        carried.append((slot, first, next, last))
    return {
        "back": back,
        "sizes": sizes,
        "slots": slots,
        "groups": groups,
        "instructions": instructions,
        "weights": weights,
        "products": products,
        "ahead": ahead,
        "carried": carried,
        "gradients": gradients,
        "after": after,
        "numbers": numbers,
        "vectors": vectors,
        "arrays": arrays,
        "rows": rows,
        "matrices": matrices,
        "results": results,
    }


def _lefts(code: dict[str, Any]) -> tuple[set[int], set[int]]:
    """The arrays that stand left of a matrix, and those of them that stand nowhere else."""
    of, lefts = _native.Operation, {left for _, _, terms in code["ahead"] for left, _ in terms}
    lefts |= {left for left, *_ in code["gradients"] if left >= 0}
    loaded = {read[0] for operation, _, read in code["instructions"] if operation in (of.load, of.previous)}
    stored = {to for operation, to, _ in code["instructions"] if operation == of.store}
    before = {left for left, is_before, *_ in code["gradients"] if is_before}
    return lefts, lefts - loaded - stored - before - {to for to, _ in code["after"]}


def fuzz_program(draw: random.Random) -> None:
    """A random program, at times with a number that is wrong, on tensors of exactly the sizes that it names, at times
    with one that is not what it should be."""
    length = [1, *(draw.choice([0, 1, 5, 16, 17, 40]) for _ in range(draw.randrange(1, 3)))]
    T, B = draw.choice([0, 1, 2, 5, 30]), draw.choice([0, 1, 3, 12, 40])
    if draw.random() < 0.05:  # products that are worth sharing by columns
        length, T, B = [1, 300], draw.choice([2, 5]), draw.choice([1, 3])
    dtype = draw.choice([torch.float32, torch.float64])
    code = _drawn_program(len(length), draw)
    must: bool | None = True  # run; False: be refused; None: either
    if draw.random() < 0.25:
        code, must = _with_another_number(code, draw), None
    elif not code["back"] and (code["gradients"] or code["after"]):
        must = False
    program = _native.Program(**code)
    sizes = sorted((draw.randrange(B + 1) for _ in range(T)), reverse=True) if draw.random() < 0.4 else None
    steps = (T, B) if sizes is None else (sum(sizes),)

    def given(made: Any, none: float = 0.1) -> Any:
        return None if draw.random() < none else made

    def real(*shape: int) -> Any:
        return torch.randn(shape, dtype=dtype)

    def strided(rows: int, columns: int, is_transposed: bool, _: int, blocks: int) -> Any:
        if rows < 0:
            return real(length[columns] * blocks)
        lines, line = (length[columns], length[rows]) if is_transposed else (length[rows], length[columns])
        shape = lines * blocks, line
        match draw.randrange(4):
            case 0:
                return real(*shape[::-1]).mT
            case 1:
                return real(2 * shape[0], 3 * shape[1])[::2, ::3]
            case _:
                return real(*shape)

    lefts, lefts_alone = _lefts(code) if must is not None else (set[int](), set[int]())
    tensors: list[Any] = []
    for k, (size, is_own) in enumerate(code["arrays"]):
        if is_own:
            continue
        made = given(real(*steps, length[size]), 0.01 if k in lefts else 0.1)
        if draw.random() < (0.4 if k in lefts_alone else 0.02 if k in lefts else 0):
            made = torch.randint(length[size], steps) if length[size] else torch.zeros(steps, dtype=torch.int64)
            beyond = not length[size]
            if made.numel() and draw.random() < 0.1:
                made.view(-1)[draw.randrange(made.numel())] = draw.choice([-1, length[size], 2**40, -(2**62)])
                beyond = True
            must = must and k in lefts_alone and not (beyond and made.numel())
        elif made is None and k in lefts:
            must = must and False
        tensors.append(made)
    tensors += [given(real(*[1] * draw.randrange(2), B, length[size])) for size in code["rows"]]
    tensors += [real(length[size] * blocks) for size, _, blocks in code["vectors"]]
    tensors += [strided(*matrix) for matrix in code["matrices"]]
    tensors += [given(strided(*result)) for result in code["results"]]
    if draw.random() < 0.2:
        must = None
        _spoil(tensors, length, draw)
    if sizes and draw.random() < 0.05:
        must = None
        sizes[draw.randrange(len(sizes))] += draw.choice([-1, 1, B, 2**40])
    reverse, accumulate, threads = draw.random() < 0.5, draw.random() < 0.5, draw.choice([1, 2, 3])
    call = f"lengths {length}, T {T}, B {B}, sizes {sizes}, {threads} threads, {code}"
    try:
        unfit = _native.run(program, dtype is torch.float64, tensors, T, B, sizes, reverse, length, accumulate, threads)
        if unfit >= 0:
            raise ValueError(f"tensor {unfit} of {len(tensors)} cannot be read")
    except REFUSALS as refusal:
        if must:
            raise AssertionError(f"a program that can be run is refused: {call}") from refusal
        raise
    assert must is not False, f"a program ran that must be refused: {call}"


def _spoil(tensors: list[Any], length: list[int], draw: random.Random) -> None:
    """One tensor of a program, or a length."""
    of_tensors = [k for k, tensor in enumerate(tensors) if tensor is not None]
    if not of_tensors or draw.random() < 0.1:
        length[draw.randrange(len(length))] += draw.choice([-1, 1])
        return
    at = draw.choice(of_tensors)
    tensor = tensors[at]
    match draw.randrange(9):
        case 0:
            tensors[at] = None
        case 1:
            tensors[at] = draw.choice([7, "x", tensor.tolist(), tensor.to("meta"), tensor.to_sparse()])
        case 2:
            tensors[at] = tensor.to(
                draw.choice([torch.float16, torch.float32, torch.float64, torch.int64, torch.int32])
            )
        case 3:
            tensors[at] = torch.zeros([max(0, n + draw.choice([-1, 0, 1])) for n in tensor.shape], dtype=tensor.dtype)
        case 4:
            tensors[at] = draw.choice([tensor[None], tensor.flatten(), tensor[:1].flatten()])
        case 5:
            del tensors[at]
        case _:
            tensors[at] = odd(tensor, draw, 7)


def fuzz_native(cases: int, draw: random.Random) -> str:
    refused, programs, refused_programs = 0, 0, 0
    faulthandler.enable()
    for _ in range(cases):
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        if draw.random() < 0.4:
            programs += 1
            try:
                fuzz_program(draw)
            except REFUSALS:
                refused_programs += 1
            continue
        T, B, I, H = (draw.choice([0, 1, 2, 3, 5, 8, 17]) for _ in range(4))
        dtype = draw.choice([torch.float32, torch.float64])

        wrong = draw.choice([0, 0.2, 1])

        def array(*shape: int, dtype: torch.dtype = dtype, wrong: float = wrong) -> Any:
            if draw.random() < 0.06 * wrong:
                shape = tuple(max(0, size + draw.choice([-1, 0, 1, 7])) for size in shape)
            if draw.random() < 0.03 * wrong:
                shape = draw.choice([shape[1:], (1, *shape)])
            if draw.random() < 0.03 * wrong:
                dtype = draw.choice([torch.float32, torch.float64, torch.float16, torch.int64])
            made = torch.zeros(shape, dtype=dtype) if not dtype.is_floating_point else torch.randn(shape).to(dtype)
            made = made.mT.contiguous().mT if made.dim() > 1 and draw.random() < 0.1 else made
            return odd(made, draw) if draw.random() < wrong else made

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
        tokens = draw.random() < 0.3
        try:
            x = (
                odd(torch.randint(-1 if draw.random() < 0.1 else 0, I + draw.choice([0, 0, 0, 1]), N), draw)
                if tokens and I
                else array(*N, I)
            )
            fuzz_engine(x, N, B, I, H, steps, array, draw)
        except REFUSALS:
            refused += 1
    faulthandler.cancel_dump_traceback_later()
    return f"{cases - programs} layers, {refused} refused, {programs} programs, {refused_programs} refused"


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
