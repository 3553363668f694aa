"""The tape player: one row of a tape as a page that needs nothing else, and as a widget in a notebook.

`data` describes what the player shows, `html` puts it into a self-contained page, `bptt.tape.widget` into a notebook.
The player itself is TypeScript (web/), built into `bundle/`; it derives every number again from those beside it, so
the page carries arrays and the equation sheet and no pictures.

A page shows one row of the batch. Of a long tape it shows a window of steps, chosen so that the arrays stay near
`ROOM` bytes and the steps can be taken in; the page says which. Text that came from outside is data in the page, never
markup: JSON in which <, > and & are escaped, under a content security policy that runs the player's own script and
loads nothing.
"""

import base64
import gzip
import hashlib
import html as markup
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bptt.autograd.recorded import Padding, Record
from bptt.errors import InputError
from bptt.sheet.data import as_data
from bptt.sheet.expressions import Cotangent, Name, walk
from bptt.tape.alone import reads_the_layer_below

SCHEMA = 2
ROOM = 4_000_000
SEEN_APART = 1e-3  # rounding is far below, another reader of the states far above
FEWEST_STEPS, USUAL_STEPS, MOST_STEPS = 16, 512, 2048
LONGEST_TEXT = 200


class Recorded(Protocol):
    """The parts of a tape that the player reads."""

    layers: list[Record]
    padding: Padding | None
    o: Tensor | None
    y_hat: Tensor | None
    loss: Tensor | None
    targets: Tensor | None
    w: Tensor | None
    L: Tensor | None
    do: Tensor | None
    W_ho: Tensor | None
    b_o: Tensor | None
    readout_missing: str
    loss_name: str | None
    text: str | None
    vocabulary: Sequence[str] | None
    seed: int | None
    versions: dict[str, str]

    @property
    def complete(self) -> bool: ...

    def grad(self, name: str) -> Tensor: ...

    def packed(self) -> "Recorded": ...


Row = int | tuple[int, int]
"""A row of the batch; or of a row that resets cut into several sequences which of them, (row, sequence)."""


def data(tape: Recorded, *, row: Row = 0, first: int | None = None, steps: int | None = None) -> dict[str, Any]:
    """The content of the player, as plain data and NumPy arrays; docs/player.md names the fields.

    row     which row of the batch; or (row, sequence), where resets cut the rows into several
    first   the first step to show, an index into the arrays of the row; default the beginning, or so that the window
            ends at the last step where only that one has an output
    steps   how many steps; default as many as fit into about `ROOM` bytes, at most 512

    Raises InputError for a tape without side B, or a row or steps that it does not have.
    """
    if not tape.complete:
        raise InputError("The player shows both sides of a tape; side B of this one is empty. Call backward() first.")
    dtype = tape.layers[0].h.dtype
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"The player shows tapes of float32 and float64; this one is {dtype}.")
    row, padded = _placed(tape, row)
    tape = tape.packed()
    batch, sizes = tape.layers[0].batch, tape.layers[0].batch_sizes
    total = len(tape.layers[0].h) if sizes is None else sum(size > row for size in sizes)
    if total == 0:
        raise InputError("The player needs a step to show; this tape has none. Record it with a longer sequence.")
    outputs = 0 if tape.o is None else total if sizes is not None else len(tape.o)
    start, count = _window(tape, total, outputs, first, steps)
    shown = _Shown(row, sizes, total, start, start + count)
    without_output = total - outputs
    with_output = slice(max(0, start - without_output), max(0, start + count - without_output))
    arrays: dict[str, Tensor | None] = {}
    cells = list(dict.fromkeys(record.cell for record in tape.layers))
    for record in tape.layers:
        prefix = f"layers.{record.layer}.{_direction(record)}."
        arrays |= {
            prefix + name: array
            for name, array in _layer(record, shown, reads_the_layer_below(tape.layers, record)).items()
        }
    for name in ("o", "y_hat", "loss", "targets"):
        array = getattr(tape, name)
        arrays[name] = None if array is None else shown.row_of(array)[with_output]
    arrays |= {"d.o": shown.steps_of(tape.do), "w": shown.steps_of(tape.w)}
    arrays |= {"W_ho": tape.W_ho, "b_o": tape.b_o, "L": tape.L}
    if tape.W_ho is not None and tape.do is not None:
        arrays |= {"d.W_ho": tape.grad("W_ho"), "d.b_o": None if tape.b_o is None else tape.grad("b_o")}
    return {
        "schema": SCHEMA,
        "steps": count,
        "first": start,
        "total": total,
        "row": row,
        "rows": batch,
        "padded": padded,
        "places": None if sizes is None else _places(row, sizes),
        "outputs": with_output.stop - with_output.start,
        "layers": [
            {
                "layer": record.layer,
                "direction": _direction(record),
                "cell": cells.index(record.cell),
                "sizes": record.sizes,
                "x_is_below": reads_the_layer_below(tape.layers, record),
                "above": _above(tape, record),
            }
            for record in tape.layers
        ],
        "loss": tape.loss_name,
        "readout_missing": "" if tape.W_ho is not None else tape.readout_missing,
        "text": None if tape.text is None else tape.text[:LONGEST_TEXT],
        "vocabulary": None if tape.vocabulary is None else list(tape.vocabulary),
        "seed": tape.seed,
        "versions": dict(tape.versions),
        "cells": [{key: part for key, part in as_data(cell).items() if key != "where"} for cell in cells],
        "arrays": {name: _as_numpy(array) for name, array in arrays.items() if array is not None},
    }


@dataclass(frozen=True)
class _Shown:
    """The part of a tape that is shown: of one row, which has `total` steps, those from `start` to `stop`."""

    row: int
    sizes: Sequence[int] | None
    total: int
    start: int
    stop: int

    def row_of(self, array: Tensor) -> Tensor:
        """All steps of this row, (total, ·)."""
        return array[:, self.row] if self.sizes is None else array[_places(self.row, self.sizes)]

    def steps_of(self, array: Tensor | None) -> Tensor | None:
        """The steps shown, (steps, ·)."""
        return None if array is None else self.row_of(array)[self.start : self.stop]


def _layer(record: Record, shown: _Shown, x_is_below: bool) -> dict[str, Tensor | None]:
    """The arrays of one layer, by the names of the sheet.

    d.name: of side B. own.name: the part of it that came from above. before.name: of the step before the first shown,
    after.name: of the step that follows the last one, which its gradients are made of.
    """
    sheet = record.cell.sheet
    timed = {name: _with_axis(record.weights[name], record) for name in sheet.inputs if name in record.weights}
    of_rows = [name for name, given in sheet.given.items() if given.kind in ("rows", "drop")]
    without_time = record.learned | record.fixed
    arrays: dict[str, Tensor | None] = {
        name: array[shown.row] if name in of_rows else array
        for name, array in (record.weights | without_time).items()
        if name not in timed
    }
    summed = [*(name for name in record.d_weights if name in arrays and name not in of_rows), *without_time]
    arrays |= {f"d.{name}": record.grad(name) for name in summed}
    timed |= record.values
    further = {name: _with_axis(record.d_weights[name], record) for name in sheet.inputs if name in record.d_weights}
    slopes = record.totals | further
    arrays |= {name: shown.steps_of(array) for name, array in timed.items()}
    arrays |= {f"d.{name}": shown.steps_of(array) for name, array in slopes.items()}
    for name, array in record.from_outside.items():
        if name == sheet.output or bool(array.any()):
            arrays[f"own.{name}"] = shown.steps_of(array)
    earliest, follows = (shown.stop - 1, shown.start - 1) if record.reverse else (shown.start, shown.stop)
    is_first = earliest == (shown.total - 1 if record.reverse else 0)
    for name in sheet.states:
        earlier = shown.row_of(record.values[name])[earliest + (1 if record.reverse else -1)] if not is_first else None
        arrays[f"before.{name}"] = record.first[name][shown.row] if earlier is None else earlier
        if is_first and name in record.d_first:
            arrays[f"before.d.{name}"] = record.d_first[name][shown.row]
    if 0 <= follows < shown.total:
        for letter in _of_next_step(record):
            known = slopes if isinstance(letter, Cotangent) else timed
            array = record.x if letter.name == "x" and isinstance(letter, Name) else known[letter.name]
            arrays[f"after.{'d.' * isinstance(letter, Cotangent)}{letter.name}"] = shown.row_of(array)[follows]
    if not x_is_below:
        arrays |= {"x": shown.steps_of(record.x), "d.x": shown.steps_of(record.dx)}
    return arrays


def _with_axis(array: Tensor, record: Record) -> Tensor:
    """An input of a step, also where it is one number a row."""
    return array[..., None] if array.dim() < record.h.dim() else array


def _of_next_step(record: Record) -> set[Name | Cotangent]:
    """What the gradients of one step read of the step that follows."""
    found: set[Name | Cotangent] = set()
    for line in record.cell.side_b:
        for term in line.terms:
            for part in walk(term.value):
                if isinstance(part, Name | Cotangent) and part.step == 1:
                    found.add(part)
    return found


def _as_numpy(array: Tensor) -> np.ndarray:
    array = array.detach().cpu()
    return (array if array.is_floating_point() else array.to(torch.int32)).contiguous().numpy()


def _direction(record: Record) -> str:
    return "reverse" if record.reverse else "forward"


def _places(row: int, sizes: Sequence[int]) -> list[int]:
    """Where the steps of one row lie in the arrays of a packed batch."""
    starts = np.cumsum([0, *sizes[:-1]])
    return [int(start) + row for start, size in zip(starts, sizes, strict=True) if size > row]


def _placed(tape: Recorded, row: Row) -> tuple[int, dict[str, int] | None]:
    """Where a row lies among those of the layers; of a padded batch, which have been packed, also what it is there."""
    layer, padding = tape.layers[0], tape.padding
    pair = row if isinstance(row, tuple) else (row,)
    if len(pair) not in (1, 2) or any(not isinstance(part, int) or isinstance(part, bool) for part in pair):
        raise InputError(f"row must be a number, or (row, sequence) where resets cut it; got {row!r}.")
    whole, number = pair[0], pair[1] if len(pair) == 2 else None
    batch = layer.batch if padding is None else padding.B
    if not 0 <= whole < batch:
        raise InputError(f"row must be one of the batch, 0 to {batch - 1}; got {row}.")
    of_rows = [[b] for b in range(batch)] if padding is None else padding.sequences(layer.batch)
    own = of_rows[whole]
    if not own:
        there = ", ".join(str(b) for b, sequences in enumerate(of_rows) if sequences)
        raise InputError(f"row must be one that has steps; got {row}, which has none. Choose one of {there}.")
    if number is None and len(own) > 1:
        raise InputError(
            f"row must say which sequence of a row that resets cut into several; got {row}, which has {len(own)}. Say "
            f"row=({row}, 0) for the first, ({row}, {len(own) - 1}) for the last."
        )
    number = number or 0
    if not 0 <= number < len(own):
        raise InputError(f"row=(row, sequence) must have a sequence of that row, 0 to {len(own) - 1}; got {row}.")
    if padding is None:
        return whole, None
    about = {"row": whole, "rows": batch, "sequence": number, "sequences": len(own)}
    return own[number], about | {"start": int(padding.places[own[number]]) // batch}


def _window(tape: Recorded, total: int, outputs: int, first: int | None, steps: int | None) -> tuple[int, int]:
    per_step = sum(  # every value and its gradient, and what came from above
        record.h.shape[-1] + 2 * sum(array.shape[-1] for array in record.values.values()) for record in tape.layers
    )
    per_step += 0 if tape.o is None else 3 * tape.o.shape[-1]  # o, ŷ, do
    room = min(max(FEWEST_STEPS, ROOM // (per_step * tape.layers[0].h.element_size())), USUAL_STEPS)
    count = room if steps is None else steps
    if not 1 <= count <= MOST_STEPS:
        raise InputError(f"steps must lie in 1 to {MOST_STEPS}; got {steps}. Leave it out for as many as read well.")
    count = min(count, total)
    if first is None:
        first = total - count if 0 < outputs < total else 0
    if not 0 <= first < total:
        raise InputError(f"first must be a step of this row, 0 to {total - 1}; got {first}.")
    return first, min(count, total - first)


def _above(tape: Recorded, record: Record) -> str:
    """Where own.h comes from: the "output", the "layer" above, or from "outside", where the tape does not see.

    On a tape of `recording`, others than the torch.nn.Linear may have read the states, such as a loss on h_n.
    """
    above = [other for other in tape.layers if other.layer == record.layer + 1]
    if above:
        return "layer" if reads_the_layer_below(tape.layers, above[0]) else "outside"
    if tape.W_ho is None or tape.do is None or record.dh_direct is None:
        return "outside"
    if tape.loss_name is not None:
        return "output"
    H = record.dh_direct.shape[-1]
    from_output = (tape.do @ tape.W_ho.mT)[..., H if record.reverse else 0 :][..., :H]
    apart = (from_output - record.dh_direct).norm()
    return "output" if apart <= SEEN_APART * record.dh_direct.norm() else "outside"


def as_binary(shown: dict[str, Any]) -> dict[str, Any]:
    """The result of `data` with arrays as bytes, for transports that carry these as they are."""
    return shown | {"arrays": {name: _packed(array) for name, array in shown["arrays"].items()}}


def _packed(array: np.ndarray) -> dict[str, Any]:
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": raw}


def as_json(shown: dict[str, Any]) -> str:
    """The result of `data` as JSON that may stand between script tags: arrays in base64, no <, > or & anywhere."""
    arrays = {name: _packed(array) for name, array in shown["arrays"].items()}
    for packed in arrays.values():
        packed["data"] = base64.b64encode(packed["data"]).decode()
    text = json.dumps(shown | {"arrays": arrays}, separators=(",", ":"), ensure_ascii=False)
    return re.sub(r"[<>&]|[^\x20-\x7e]", _inert, text)


def _inert(found: re.Match[str]) -> str:
    """A character as JSON escapes it where it could be markup, or could hide or reorder what stands beside it."""
    character = found[0]
    if character in "<>&":
        return f"\\u{ord(character):04x}"
    return character if character.isprintable() else json.dumps(character)[1:-1]


def html(tape: Recorded, *, row: Row = 0, first: int | None = None, steps: int | None = None) -> str:
    """A page with the player and this tape in it, complete in itself; arguments as for `data`."""
    return html_of(data(tape, row=row, first=first, steps=steps))


def html_of(shown: dict[str, Any]) -> str:
    """A page with the player and what `data` gave."""
    player, start = bundle("page.js"), _START
    policy = (
        f"default-src 'none'; script-src {_digest(start)} {_digest(player)}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    squeezed = gzip.compress(player.encode(), mtime=0)
    title = "Tape player" if shown["text"] is None else f"{shown['text'][:40]} · tape player"
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{markup.escape(''.join(c if c.isprintable() else ' ' for c in title))}</title>\n"
        "</head>\n<body>\n"
        '<div id="player"></div>\n'
        "<noscript>The tape player is a script inside this file; allow scripts to see it.</noscript>\n"
        f'<script type="application/json" id="tape">{as_json(shown)}</script>\n'
        f'<script type="application/gzip" id="code" data-bytes="{len(squeezed)}">{in_digits(squeezed)}</script>\n'
        f"<script>{start}</script>\n"
        "</body>\n</html>\n"
    )


def frame(page: str, height: int = 860) -> str:
    """A page as an element of another one, for notebooks that are exported: its text inside an iframe's srcdoc."""
    return (
        f'<iframe srcdoc="{markup.escape(page)}" sandbox="allow-scripts" title="Tape player" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )


# The player's script is packed into less than half of its size: gzip, then 13 bits in two of 91 digits, none of which
# is markup. This unpacks it. The policy knows both scripts by their hashes.
DIGITS = "".join(map(chr, range(33, 127))).translate(str.maketrans("", "", '"&<'))
_START = """
const code = document.getElementById("code");
const packed = new TextEncoder().encode(code.textContent);
const digit = (sign) => sign - 33 - (sign > 34) - (sign > 38) - (sign > 60);
const bytes = new Uint8Array(code.dataset.bytes);
for (let at = 0, to = 0, held = 0, bits = 0; at < packed.length; at += 2) {
  held = (held << 13) | (91 * digit(packed[at]) + digit(packed[at + 1]));
  for (bits += 13; bits >= 8; ) bytes[to++] = held >> (bits -= 8);
}
new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text().then((text) => {
  const script = document.createElement("script");
  script.textContent = text;
  document.body.append(script);
});
"""


def in_digits(data: bytes) -> str:
    blocks = [int.from_bytes(data[at : at + 13].ljust(13, b"\0"), "big") for at in range(0, len(data), 13)]
    pairs = [one + other for one in DIGITS for other in DIGITS]
    return "".join(pairs[block >> shift & 8191] for block in blocks for shift in range(91, -1, -13))


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def bundle(name: str) -> str:
    """The player's script, "page.js" or "widget.js"."""
    return resources.files("bptt.tape").joinpath("bundle", name).read_text("utf-8")
