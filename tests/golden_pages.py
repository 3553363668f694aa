"""What the tests of the player read: the golden tapes, and pages and a notebook for a browser.

python tests/golden_pages.py DIRECTORY
"""

import json
import sys
from pathlib import Path

import golden
import nbformat
import torch

from bptt import record, recording
from bptt.nn import RNN, Elman
from bptt.tape import player
from bptt.tape.widget import Player

HOSTILE = [
    "</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\u202eevil",
    "\u200b",
    "&amp;",
    "🙂",
    "x" * 10**6,
]
SYMBOLS = [chr(ord("0") + index) for index in range(60)]


def hostile() -> str:
    x = torch.arange(len(HOSTILE))[:, None]
    model = Elman(len(HOSTILE), 4, len(HOSTILE))
    return player.html(record(model, x, x.flip(0), vocabulary=HOSTILE, text="".join(HOSTILE[:5]) + "y" * 10**6))


def large() -> str:
    """T = 256, H = 128."""
    x = torch.randint(60, (256, 1))
    return player.html(record(Elman(60, 128, 60), x, x.roll(-1, 0), vocabulary=SYMBOLS))


def large_lstm() -> str:
    x = torch.randint(60, (256, 1))
    model = golden.Gated("lstm", 60, 128, 60, dtype=torch.float32)
    return player.html(record(model, x, x.roll(-1, 0), vocabulary=SYMBOLS))


def hello_lstm() -> str:
    """As large as the page of `hello`, with an LSTM."""
    symbols = sorted(set("hello"))
    tokens = torch.tensor([[symbols.index(symbol)] for symbol in "hello"])
    model = golden.Gated("lstm", len(symbols), 3, len(symbols))
    return player.html(record(model, tokens[:-1], tokens[1:], vocabulary=symbols, text="hello"))


def long() -> str:
    """More steps than a page shows."""
    x = torch.zeros(30_000, 1, 2)
    return player.html(record(Elman(2, 8, 2), x, torch.zeros(30_000, 1, dtype=torch.int64)))


def deep() -> str:
    """Two layers whose gradient falls below 1e-12 within the page."""
    x = torch.randint(5, (60, 1))
    return player.html(record(Elman(5, 8, 5, num_layers=2), x, x.roll(-1, 0), vocabulary=list("abcde")))


def exploding() -> str:
    """Numbers for symbols, and a gradient that doubles with each step."""
    model = Elman(2, 3, 2, nonlinearity="identity")
    with torch.no_grad():
        model.get_parameter("rnn.weight_hh_l0").copy_(2 * torch.eye(3))
    x = torch.randn(60, 1, 2)
    return player.html(record(model, x, x.roll(-1, 0), loss="squared_error"))


def padded() -> str:
    """One of the two sequences that a reset makes of a row."""
    reset = torch.zeros(7, 3, dtype=torch.bool)
    reset[4, 1] = True
    with recording() as tapes:
        RNN(2, 3)(torch.randn(7, 3, 2), lengths=[2, 7, 4], reset=reset)[0].sum().backward()
    return player.html(tapes[0], row=(1, 1))


def notebook() -> nbformat.NotebookNode:
    """As JupyterLab saves one without the state of its widgets."""
    data, metadata = Player(golden.word().tape)._repr_mimebundle_()
    shown = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("tape.show()", outputs=[shown])])


def main(directory: Path) -> None:
    from nbconvert import HTMLExporter

    directory.mkdir(parents=True, exist_ok=True)
    goldens = dict(golden.goldens())
    for name, made in goldens.items():
        (directory / f"{name}.json").write_text(golden.as_json(made))
    (directory / "published.json").write_text(json.dumps(dict(golden.published())))
    (directory / "formulas.json").write_text(json.dumps(golden.formulas()))
    pages = {name: player.html(made.tape, **made.shown) for name, made in goldens.items()}
    torch.manual_seed(0)
    pages |= {page.__name__: page() for page in (hostile, large, large_lstm, hello_lstm, long, deep, exploding, padded)}
    exported, _ = HTMLExporter().from_notebook_node(notebook())
    pages["exported_notebook"] = exported
    for name, page in pages.items():
        (directory / f"{name}.html").write_text(page, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
