"""Checks of the names in a cell: each is known and there when it is read, and the output needs every line."""

import re
from dataclasses import replace
from difflib import get_close_matches

from bptt.sheet.expressions import Call, Equation, Expression, Name, Product, Times, Transposed, mapped, names, walk
from bptt.sheet.language import DROP, NETWORK, Given, Sheet, free


def check(sheet: Sheet) -> None:
    """Every name is known and there when it is read; something is a state; the output needs every line."""
    _masks(sheet)
    order = {}
    for line in sheet.equations:
        sheet.may_be_named(line.name, line.place)
        if line.name in order or line.name in sheet.declared:
            raise sheet.refusal(line.place, f"{line.name} is defined twice", "Give one of the two another name.")
        order[line.name] = len(order)
    if not sheet.steps:
        raise sheet.refusal(
            sheet.fixed[0].place if sheet.fixed else None,
            "no equation is of a step",
            "Write times, as in h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h).",
        )
    states = []
    for line in sheet.equations:
        for name in names(line.value):
            _read(sheet, line, name, order)
            if name.step == -1 and name.name not in states:
                states.append(name.name)
        _matrices_in_place(sheet, line)
        _bounds(sheet, line)
    if not states:
        raise sheet.refusal(
            sheet.steps[-1].place,
            "a recurrent cell reads a value of the step before, and this one does not",
            f"Write for example {sheet.output}_{{t-1}} where the past comes in.",
        )
    made = [line.name for line in sheet.steps if line.name in states]
    sheet.states = tuple(sorted(made, key=lambda name: name != sheet.output))
    _all_needed(sheet)


def _masks(sheet: Sheet) -> None:
    """drop(v) becomes m ⊙ v, with a mask m of its own."""
    taken = sheet.taken

    def masked(e: Expression, line: Equation) -> Expression:
        place, e = e.place, mapped(e, lambda part: masked(part, line))
        if not isinstance(e, Call) or e.function != DROP:
            return e
        (of,) = e.arguments
        assert place is not None
        if line.step is None:
            raise sheet.refusal(
                place,
                f"{DROP} has a mask for each row of the batch, and a line without a time is made once for all",
                f"Give {line.name} a time, or take {DROP} away: parameters are not dropped.",
            )
        if all(name.step is None for name in names(of)):
            raise sheet.refusal(
                place,
                f"{DROP} is for values of a step, and this has none",
                f"Write for example {DROP}(h_{{t-1}}): parameters and numbers are not dropped.",
            )
        mask = free(taken, "m", f"m{line.name}")
        sheet.declared[mask] = Given(DROP, place, of=of)
        return Times((Name(mask, place=place), of), place=place)

    for lines in (sheet.fixed, sheet.steps):
        lines[:] = [replace(line, value=masked(line.value, line)) for line in lines]


def _read(sheet: Sheet, line: Equation, name: Name, order: dict[str, int]) -> None:
    steps = {line.name for line in sheet.steps}
    text, place = name.name, name.place
    given = sheet.declared.get(text)
    if text in NETWORK:
        sheet.may_be_named(text, place)
    if name.step is not None:
        if line.step is None:
            raise sheet.refusal(
                place, f"{line.name} has no time, so it cannot read a value of a step", f"Give it one: {line.name}_t."
            )
        if text == "x" or (given is not None and given.kind == "input"):
            if name.step == -1:
                raise sheet.refusal(
                    place,
                    "only states have a step before: of inputs a cell reads this step, t",
                    f"Write {text}_t. To see the last one, hand it on by a state: k_t = {text}_t, and read k_{{t-1}}.",
                )
            if given is not None:
                sheet.given[text] = given
        elif text not in steps:
            near = get_close_matches(text, [*steps, "x"], 1)
            raise sheet.refusal(
                place,
                f"{text} has no equation that makes it at each step",
                (f"Did you mean {near[0]}_t? " if near else "")
                + f"An input per step is declared: {text} : input. What has no time is written without: {text}.",
            )
        elif name.step == 0 and order[text] >= order[line.name]:
            raise sheet.refusal(
                place,
                f"{text}_t is read before it is made",
                f"Write {text}_{{t-1}} for the step before, or move its equation up.",
            )
    elif text == "I" and line.step is not None:
        raise sheet.refusal(
            place,
            "I, the identity matrix, stands in fixed lines only",
            "Make the matrix in a line without a time: M = W_hh − γ ⊙ I.",
        )
    elif text == "x" or text in steps or (given is not None and given.kind == "input"):
        raise sheet.refusal(
            place,
            f"{text} has a value at each step",
            f"Write {text}_t" + (f", or {text}_{{t-1}} for the step before." if text in steps else "."),
        )
    elif text in order:
        if order[text] >= order[line.name]:
            raise sheet.refusal(place, f"{text} is read before it is made", "Move its equation up.")
    elif line.step is None and given is not None and given.kind == "rows":
        raise sheet.refusal(
            place,
            f"{text} has a row for each row of the batch, and a line without a time is made once for all",
            f"Give {line.name} a time: {line.name}_t.",
        )
    elif text != "I":
        _parameter(sheet, name)


def _parameter(sheet: Sheet, name: Name) -> None:
    text, given = name.name, sheet.declared.get(name.name)
    if text in sheet.given:
        return
    assert name.place is not None
    if given is None and text[0].isupper():
        given = Given("matrix", name.place)
    elif given is None and (text == "b" or text.startswith("b_")):
        given = Given("vector", name.place)
    elif given is None:
        near = get_close_matches(text, [*(line.name for line in sheet.steps), *sheet.declared, "x"], 1)
        meant = f"Did you mean {near[0]}{'' if near[0] in sheet.declared else '_t'}? " if near else ""
        if glued := re.fullmatch(r"(.+_t)([A-Z].*)", text):
            meant = f"Did you mean {glued[1]} {glued[2]}, with a space? "
        raise sheet.refusal(
            name.place,
            f"{text} is not known",
            f"{meant}Values have a time, {text}_t; a parameter or number is declared: {text} : vector, scalar, or "
            "constant = 0.1. Without that, W… is a matrix and b… a vector.",
        )
    sheet.given[text] = given


def _matrices_in_place(sheet: Sheet, line: Equation) -> None:
    """In an equation of a step, matrices stand right of a value and nowhere else."""
    right: set[int] = set()
    for e in walk(line.value):
        if isinstance(e, Product):
            matrix = e.right.of if isinstance(e.right, Transposed) else e.right
            assert isinstance(matrix, Name)
            right |= {id(e.right), id(matrix)}
            if not sheet.is_matrix(matrix.name):
                raise sheet.refusal(matrix.place, f"{matrix.name} is no matrix", f"Write ⊙ before it: ⊙ {matrix.name}.")
        elif id(e) in right or line.step is None:
            continue
        elif isinstance(e, Transposed) or (isinstance(e, Name) and e.step is None and sheet.is_matrix(e.name)):
            raise sheet.refusal(
                e.place,
                "a matrix stands right of a value, with a space between them",
                "Write for example x_t W_xh: values are rows. ⊙ and + are for values and vectors.",
            )


def _bounds(sheet: Sheet, line: Equation) -> None:
    """Arguments that a function sends nothing back to are made of numbers and constants."""
    constants = {name for name, given in sheet.given.items() if given.kind == "constant"}
    for e in walk(line.value):
        if isinstance(e, Call):
            for back, argument in zip(sheet.function(e.function).back, e.arguments, strict=True):
                if back is None and not all(
                    part.name in constants if isinstance(part, Name) else not isinstance(part, Call | Product)
                    for part in walk(argument)
                ):
                    raise sheet.refusal(
                        argument.place,
                        f"arguments of {e.function} after the first are numbers or constants",
                        "max and min take values." if e.function == "clip" else "Values multiply with ⊙.",
                    )


def _all_needed(sheet: Sheet) -> None:
    reads = {line.name: {name.name for name in names(line.value)} for line in sheet.equations}
    if "h" in reads and sheet.output != "h":
        raise sheet.refusal(
            sheet.steps[-1].place,
            f"the last equation is the output, which h has to be; here it is {sheet.output}",
            "Move the equation of h to the end, take away what stands behind it, or give h another name.",
        )
    needed, waiting = set(), [sheet.output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += reads.get(name, ())
    for line in sheet.equations:
        if line.name not in needed:
            raise sheet.refusal(
                line.place,
                f"the output {sheet.output}_t, which is the last equation, does not depend on {line.name}",
                "Read it where it is meant, move the output's equation to the end, or take this line away.",
            )
    if "x" not in needed:
        raise sheet.refusal(
            sheet.steps[-1].place,
            "a cell reads its input, x_t, and this one does not",
            "Write for example x_t W_xh where the input comes in.",
        )
    called = {e.function for line in sheet.equations for e in walk(line.value) if isinstance(e, Call)}
    unread = [
        (name, given.place)
        for name, given in sheet.declared.items()
        if name not in (called if given.kind == "function" else needed)
    ]
    unread += [(name, place) for name, (_, place) in sheet.sizes.items() if name not in needed]
    for name, place in unread:
        raise sheet.refusal(place, f"{name} is declared, and no equation reads it", "Take it away, or read it.")
