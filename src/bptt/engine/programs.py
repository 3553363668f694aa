"""Both ways of a cell as programs of the compiled engine: the equations of a step, and their derivation."""

from functools import lru_cache

from bptt.engine.contract import Layout, Signature
from bptt.engine.evaluation import key_of
from bptt.engine.lowering import Lowering, Program
from bptt.sheet import Cell
from bptt.sheet.expressions import Call, Cotangent, Name, Square

DIRECT = "∂y from outside"


@lru_cache
def forward(cell: Cell, layout: Layout, *, every_value: bool, keep: bool) -> Program:
    """Side A of a step. Stored are the output, with keep what the way back reads, and with every_value all values.

    The tensors of a call: those given (`_given`), the last of each state, then those of `made`, the output first.
    """
    found, signature, make = cell.derivation, Signature.of(cell), Lowering(cell, layout)
    for name in signature.states:
        make.known[Name(name, -1)] = make.carry(name, cell.sheet.widths[name])
    make.plan(line.value for line in found.steps)
    for line in found.steps:
        make.known[Name(line.name, 0)] = make.slot_of(line.value, found.widths[line.name])
    for name in [
        signature.output,
        *(line.name for line in found.steps if every_value and line.name != signature.output),
    ]:
        make.store(make.known[Name(name, 0)], name)
    for e in signature.kept if keep else ():
        key = key_of(e)
        if key not in make.stored:
            make.store(make.slot_of(e, make.width(e)), key)
    for name in signature.states:
        make.hand_on(name, Name(name, 0), f"last {name}")
    last = [f"last {name}" for name in signature.states]
    widths = [cell.sheet.widths[name] for name in signature.states]
    return make.program([*_given(cell, layout), *last, *make.stored], make.stored, widths)


@lru_cache
def backward(
    cell: Cell, layout: Layout, weights: tuple[bool, ...], inputs: tuple[bool, ...], *, every_value: bool, norms: bool
) -> Program:
    """Side B of a step. Gradients of the tensors of weights and of x and further inputs that are asked for; with
    every_value all cotangents are stored, with norms the squared norms of those of the output and the states.

    The tensors of a call: those given (`_given`), the output, what is kept, the cotangents of the output and of the
    last of each state; then those that receive gradients, of all that is given but masks; then those of `made`.
    """
    found, sheet, signature = cell.derivation, cell.sheet, Signature.of(cell)
    make = Lowering(cell, layout, back=True)
    future = {name: make.carry(name, sheet.widths[name], before=f"∂last {name}") for name in signature.states}
    lines, told = list(reversed(found.steps)), dict[str, str]()
    make.plan([found.sent_back(line.name, 0) for line in lines] + [found.sent_back(n, -1) for n in signature.states])
    for line in lines:
        width, sent_back = found.widths[line.name], found.sent_back(line.name, 0)
        others = [make.loaded(DIRECT, width)] if line.name == signature.output else []
        others += [future[line.name]] if line.name in future else []
        total = make.total(sent_back, *others)
        make.known[Cotangent(line.name, 0)] = make.as_slot(total, width)
        if every_value:
            make.store(make.known[Cotangent(line.name, 0)], f"∂{line.name}")
            told[f"∂{line.name}"] = width
        if norms and line.name in (signature.output, *signature.states):
            make.store(make.slot_of(Call("sum", (Square(Cotangent(line.name, 0)),)), "1"), f"‖∂{line.name}‖²")
            told[f"‖∂{line.name}‖²"] = "1"
    for name, parts in layout.made_of.items():
        for part in parts:
            if weights[part.tensor]:
                make.sum_up(name, part)
    for name, is_asked in zip(sheet.inputs, inputs, strict=True):
        if is_asked:
            make.send_to_input(name)
    for name in signature.states:
        make.hand_on(name, found.sent_back(name, -1), f"∂first {name}")
    given = _given(cell, layout)
    results = [f"∂{name}" for name in given if name not in signature.masks]
    kept = [signature.output, *map(key_of, signature.kept)]
    last = [f"∂last {name}" for name in signature.states]
    return make.program([*given, *kept, DIRECT, *last, *results, *told], told)


def _given(cell: Cell, layout: Layout) -> list[str]:
    """x, the first of each state, the tensors of the weights, masks, further inputs."""
    signature = Signature.of(cell)
    first = [f"first {name}" for name in signature.states]
    return ["x", *first, *layout.names, *signature.masks, *signature.inputs]
