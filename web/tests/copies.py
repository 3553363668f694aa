"""Runs what the player gives away as Python: copies of single numbers, and the lines of the whole. From stdin, as JSON.

copies  [golden tape, text]: what each text prints
codes   [golden tape, place of a layer, lines]: the gradients of the parameters that the lines end with, beside those on
        the tape
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import golden

import bptt
from bptt.tape import Record

TAPES = {name: made.tape for name, made in golden.goldens()}


def printed(name: str, text: str) -> list[float]:
    """The text loads a tape from a file; here it is the golden one."""
    out = io.StringIO()
    with mock.patch.object(bptt.Tape, "load", return_value=TAPES[name]), contextlib.redirect_stdout(out):
        exec(text, {})
    return [float(line) for line in out.getvalue().split()]


def softmax(o: np.ndarray) -> np.ndarray:
    powers = np.exp(o - o.max())
    return powers / powers.sum()


def setting(tape: bptt.Tape, layer: Record) -> dict[str, Any]:
    """Arrays that count steps from 1, the first states just before; gradients of the step after the last are zero."""
    T = tape.steps
    given = {name: array.numpy() for name, array in (layer.weights | layer.learned).items()}
    x = layer.x if layer.x.is_floating_point() else torch.nn.functional.one_hot(layer.x, golden.entering(layer))
    shown: dict[str, Any] = {"T": T, "np": np, "I": np.eye(layer.h.shape[-1]), "x": timed(x, T), "dx": 0 * timed(x, T)}
    for name, array in layer.values.items():
        shown[name], shown[f"d{name}"] = (0 * timed(array, T) for _ in range(2))
    for name, array in layer.first.items():
        shown[name][T + 1 if layer.reverse else 0] = array[0]
    shown |= {f"own_{name}": timed(array, T) for name, array in layer.from_outside.items()}
    return shown | given | {f"d{name}": np.zeros_like(array) for name, array in given.items()}


def timed(array: torch.Tensor, T: int) -> np.ndarray:
    """The first row of the batch, the last of its steps at T."""
    return np.pad(array[:, 0].double().numpy(), [(T + 1 - len(array), 1), *[(0, 0)] * (array.dim() - 2)])


def setting_of_output(tape: bptt.Tape) -> dict[str, Any]:
    T, y, W_ho, w = tape.steps, tape.targets, tape.W_ho, tape.w
    if y is None or W_ho is None or w is None:
        return {}
    O = W_ho.shape[1]
    y = y if y.is_floating_point() else torch.nn.functional.one_hot(y, O)
    shown = {name: np.zeros((T + 2, O)) for name in ("o", "y_hat", "do")}
    shown |= {"softmax": softmax, "L": 0.0, "y": timed(y, T), "w": timed(w, T), "W_ho": W_ho.numpy()}
    return shown | {"b_o": tape.b_o.numpy() if tape.b_o is not None else None, "dW_ho": 0.0, "db_o": 0.0}


def gradients(name: str, place: int, lines: str) -> dict[str, float]:
    """By parameter: how far what the lines come to is from the tape, as a share of its largest entry."""
    tape, layer = TAPES[name], TAPES[name].layers[place]
    found = setting(tape, layer) | setting_of_output(tape)
    exec(lines, found)
    wanted = layer.d_weights | {name: layer.grad(name) for name in layer.learned}
    if "dW_ho +=" in lines:
        wanted |= {name: tape.grad(name) for name in ("W_ho", "b_o")}
    sizes = {key: float(own.abs().max()) or 1.0 for key, own in wanted.items()}
    return {key: float(np.abs(found[f"d{key}"] - own.numpy()).max()) / sizes[key] for key, own in wanted.items()}


def main() -> None:
    asked = json.load(sys.stdin)
    copies = [printed(*copy) for copy in asked["copies"]]
    json.dump({"copies": copies, "codes": [gradients(*code) for code in asked["codes"]]}, sys.stdout)


if __name__ == "__main__":
    main()
