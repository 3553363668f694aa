"""Runs what the player gives away as Python: copies of single numbers, and the lines of the whole. From stdin, as JSON.

copies  [golden tape, text]: what each text prints
codes   [golden tape, lines]: the gradients of the parameters that the lines end with, beside those on the tape
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


def setting(tape: bptt.Tape) -> dict[str, Any]:
    """Arrays that count steps from 1, the first states in 0; gradients of step T + 1 are zero."""
    (layer,) = tape.layers
    T, steps = tape.steps, (tape.steps + 2,)
    given = {name: array.numpy() for name, array in layer.weights.items()}
    x = layer.x if layer.x.is_floating_point() else torch.nn.functional.one_hot(layer.x, golden.entering(layer))
    x, y = x[:, 0].double().numpy(), tape.targets
    assert y is not None
    assert tape.W_ho is not None
    assert tape.w is not None
    O = tape.W_ho.shape[1]
    y = (y if y.is_floating_point() else torch.nn.functional.one_hot(y, O))[:, 0].double().numpy()
    around = np.zeros((1, 1))
    shown = {"T": T, "np": np, "softmax": softmax, "L": 0.0, "W_ho": tape.W_ho.numpy(), "b_o": tape.b_o}
    shown |= {"x": np.vstack([0 * x[:1], x]), "y": np.vstack([0 * y[:1], y]), "w": np.append(around, tape.w[:, 0])}
    shown |= {name: np.zeros((*steps, O)) for name in ("o", "y_hat", "do")}
    shown |= {"dW_ho": 0.0, "db_o": 0.0, "dx": np.zeros((*steps, x.shape[-1]))}
    for name, array in layer.values.items():
        shown[name], shown[f"d{name}"] = (np.zeros((*steps, array.shape[-1])) for _ in range(2))
    for name, array in layer.first.items():
        shown[name][0] = array[0]
    if tape.b_o is not None:
        shown["b_o"] = tape.b_o.numpy()
    return shown | given | {f"d{name}": np.zeros_like(array) for name, array in given.items()}


def gradients(name: str, lines: str) -> dict[str, float]:
    """By parameter: how far what the lines come to is from the tape, as a share of its largest entry."""
    tape, found = TAPES[name], setting(TAPES[name])
    exec(lines, found)
    wanted = tape.layers[0].d_weights | {"W_ho": tape.grad("W_ho")}
    return {key: float(np.abs(found[f"d{key}"] - own.numpy()).max() / own.abs().max()) for key, own in wanted.items()}


def main() -> None:
    asked = json.load(sys.stdin)
    copies = [printed(*copy) for copy in asked["copies"]]
    json.dump({"copies": copies, "codes": [gradients(*code) for code in asked["codes"]]}, sys.stdout)


if __name__ == "__main__":
    main()
