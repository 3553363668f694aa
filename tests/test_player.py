"""The page around the player, and the golden tapes that its TypeScript is tested on."""

import base64
import hashlib
import json
import re
import stat
import sys
import zlib
from pathlib import Path
from typing import Any

import golden
import golden_pages
import numpy as np
import pytest
import torch
import traitlets
from typer.testing import CliRunner

from bptt import Cell, InputError, record, recording, runs
from bptt.cli import app
from bptt.lesson import worked
from bptt.nn import RNN, Elman
from bptt.sheet import named
from bptt.sheet.cells import CELLS
from bptt.sheet.data import as_data, tree
from bptt.sheet.notations import NOTATIONS
from bptt.sheet.plain import plain
from bptt.tape import player
from bptt.tasks.data import Vocabulary

GOLDENS = dict(golden.goldens())
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


def shown(page: str) -> dict[str, Any]:
    """The tape in a page, as the browser would read it."""
    (text,) = re.findall(r'<script type="application/json" id="tape">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def array(entry: dict[str, Any]) -> np.ndarray:
    raw = base64.b64decode(entry["data"])
    return np.frombuffer(raw, np.dtype(entry["dtype"]).newbyteorder("<")).reshape(entry["shape"])


def unpacked(code: str) -> bytes:
    """The player's script, as the page's start unpacks it."""
    digits = [player.DIGITS.index(digit) for digit in code]
    bits = "".join(f"{91 * digits[at] + digits[at + 1]:013b}" for at in range(0, len(digits), 2))
    return zlib.decompressobj(31).decompress(bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)))


@pytest.mark.parametrize("name", [name for name, made in GOLDENS.items() if plain(made.tape.layers[0].cell)])
def test_golden_tapes_are_right(name: str) -> None:
    assert GOLDENS[name].tape.check().ok


@pytest.mark.parametrize("name", [name for name, made in GOLDENS.items() if golden.is_run_once_more(made.tape)])
def test_golden_tapes_have_the_values_of_their_equations_and_the_gradients_of_autograd(name: str) -> None:
    """Side A by `sheets.value`, line after line, and autograd through it."""
    made = GOLDENS[name]
    tape, row = made.tape, made.row
    values, _, by_step = golden.unrolled(tape, row)
    rtol, atol = (1e-4, 1e-6) if tape.layers[0].h.dtype == torch.float32 else (1e-9, 1e-12)
    L = torch.stack(list(by_step.values())).sum()
    for layer, own in zip(tape.layers, values, strict=True):
        slopes = torch.autograd.grad(L, [step for steps in own.values() for step in steps], retain_graph=True)
        slopes = iter(slopes)
        for letter, steps in own.items():
            found = layer.values[letter][:, row]
            torch.testing.assert_close(found.double(), torch.cat(steps).detach(), rtol=rtol, atol=atol)
            wanted = torch.cat([next(slopes) for _ in steps])
            torch.testing.assert_close(layer.totals[letter][:, row].double(), wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", GOLDENS)
def test_expected_terms_sum_to_their_value(name: str) -> None:
    tape = GOLDENS[name].tape
    entries = golden.expected(GOLDENS[name])["terms"]
    assert entries or tape.layers[0].batch_sizes is not None or tape.layers[0].cell.name not in golden.BY_HAND
    for entry in entries:
        magnitude = sum(map(abs, entry["terms"]))
        bound = (8 + len(entry["terms"])) * torch.finfo(tape.layers[0].h.dtype).eps * magnitude
        if entry["tag"] == "B7":  # φ' is a difference
            bound += 64 * torch.finfo(tape.layers[0].h.dtype).eps
        assert abs(sum(entry["terms"]) - entry["value"]) <= bound, entry["address"]


@pytest.mark.parametrize("name", GOLDENS)
def test_numbers_are_found_in_python_under_the_name_that_the_player_copies(name: str) -> None:
    for entry in golden.expected(GOLDENS[name])["terms"]:
        assert float(eval(entry["python"], {"tape": GOLDENS[name].tape})) == entry["value"], entry["python"]


def test_expected_norms_are_those_of_the_tape_where_only_one_step_has_a_loss() -> None:
    norms = golden.expected(GOLDENS["numbers"])["reach"][0]["h"]
    assert [row for row in norms[:-1] if row] == []
    tape = GOLDENS["numbers"].tape
    torch.testing.assert_close(torch.tensor(norms[-1]), tape.dh[:, 0].norm(dim=-1).float())


def test_a_page_holds_the_numbers_of_the_tape() -> None:
    for name, made in GOLDENS.items():
        tape, row = made.tape, made.row
        data = shown(player.html(tape, **made.shown))
        first, steps = data["first"], data["steps"]
        for layer in tape.layers:
            prefix = f"layers.{layer.layer}.{'reverse' if layer.reverse else 'forward'}."
            fields = layer.values | {f"d.{key}": slope for key, slope in layer.totals.items()}
            for field, values in (fields | {f"own.{layer.output}": layer.from_outside[layer.output]}).items():
                own = values[data["places"]] if data["places"] else values[first : first + steps, row]
                np.testing.assert_array_equal(array(data["arrays"][prefix + field]), own.numpy(), err_msg=name)


def test_a_packed_row_is_followed_through_its_steps() -> None:
    made = GOLDENS["packed"]
    data = player.data(made.tape, row=1)
    assert data["steps"] == data["total"] == 3
    assert data["places"] == [1, 3, 5]


def test_where_a_gradient_comes_from_is_known_as_far_as_the_tape_sees() -> None:
    assert [layer["above"] for layer in player.data(GOLDENS["watched"].tape)["layers"]] == ["output"]
    assert [layer["above"] for layer in player.data(GOLDENS["stacked"].tape)["layers"]] == ["layer", "output"]
    dropped = player.data(GOLDENS["both_ways_dropped"].tape)["layers"]
    assert [layer["above"] for layer in dropped] == ["outside", "outside", "output", "output"]
    assert [layer["x_is_below"] for layer in dropped] == [False] * 4
    model = Elman(3, 4, 2)
    with recording() as tapes:
        o, h_n = model(torch.randn(6, 1, 3))
        (o.sum() + h_n.sum()).backward()
    assert [layer["above"] for layer in player.data(tapes[0])["layers"]] == ["outside"]


def test_a_page_is_small_and_runs_only_what_its_policy_names(tmp_path: Path) -> None:
    tape = worked.work(worked.example("hello"), 0).tape
    tape.page(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    assert len(page.encode()) <= 110_000
    assert "http" not in re.sub(r'<script type="application/gzip".*?</script>', "", page).replace("http-equiv", "")
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    (packed,) = re.findall(r'<script type="application/gzip" id="code" data-bytes="\d+">(.*?)</script>', page)
    (start,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = re.findall(r"'sha256-([^']*)'", policy)
    for script in (start.encode(), unpacked(packed)):
        assert base64.b64encode(hashlib.sha256(script).digest()).decode() in allowed
    assert stat.S_IMODE((tmp_path / "run.html").stat().st_mode) & 0o044 == 0o044


def test_a_page_with_an_lstm_is_small() -> None:
    assert len(golden_pages.hello_lstm().encode()) <= 130_000


def test_a_page_carries_what_the_steps_beside_a_window_have() -> None:
    made = GOLDENS["lstm_window"]
    arrays = shown(player.html(made.tape, **made.shown))["arrays"]
    first, last = made.shown["first"], made.shown["first"] + made.shown["steps"] - 1
    (layer,) = made.tape.layers
    for state in ("h", "c"):
        before = array(arrays[f"layers.0.forward.before.{state}"])
        np.testing.assert_array_equal(before, layer.values[state][first - 1, 0].numpy())
    after = {name.partition("after.")[2] for name in arrays if "after." in name}
    assert after == {"d.ai", "d.af", "d.ag", "d.aq", "d.c", "f"}
    np.testing.assert_array_equal(array(arrays["layers.0.forward.after.d.c"]), layer.totals["c"][last + 1, 0].numpy())


@pytest.mark.parametrize("name", [*CELLS, "two memories"])
def test_a_cell_as_data_says_what_the_sheet_says(name: str) -> None:
    cell = named(name) if name in CELLS else Cell(golden.TWO_MEMORIES, name)
    data = json.loads(json.dumps(as_data(cell)))
    assert [line["tag"] for line in data["a"]] == [line.tag for line in cell.side_a]
    for line, carried in zip(cell.side_b, data["b"], strict=True):
        assert len(carried["parts"]) == len(line.parts)
        assert [tree(term.left)[1:] for term in line.terms] == [term["from"] for term in carried.get("terms", [])]
    equations = {line["parts"][0][1] for line in data["a"] if line["tag"] in ("A2", "A3")}
    assert equations == {line.name for line in (*cell.derivation.fixed, *cell.derivation.steps)}
    assert list(data["notations"]) == list(NOTATIONS)


def test_text_from_outside_is_data_and_nothing_else() -> None:
    model = Elman(len(HOSTILE), 4, len(HOSTILE))
    x = torch.arange(len(HOSTILE))[:, None]
    tape = record(model, x, x.flip(0), vocabulary=HOSTILE, text="".join(HOSTILE[:5]))
    page = player.html(tape)
    assert shown(page)["vocabulary"] == HOSTILE
    assert shown(page)["text"] == "".join(HOSTILE[:5])
    assert page.count("</script>") == page.count("<script") == 3
    assert "<img" not in page
    assert "\u202e" not in page
    framed = player.frame(page)
    assert framed.count("<") == 2
    assert framed.count('"') == 8


def test_a_long_tape_is_shown_in_part_and_says_which() -> None:
    x = torch.zeros(40_000, 1, 2)
    tape = record(Elman(2, 8, 2), x, torch.zeros(40_000, 1, dtype=torch.int64))
    data = player.data(tape)
    assert data["first"] == 0
    assert data["steps"] == 512
    assert data["total"] == 40_000
    wide = record(Elman(2, 2000, 2), x[:300], torch.zeros(300, 1, dtype=torch.int64))
    assert player.data(wide)["steps"] == player.ROOM // (4 * (5 * 2000 + 6))
    assert player.data(tape, first=39_990)["steps"] == 10
    last_only = worked.work(worked.example("1,3,5,7,9"), 0).tape
    assert player.data(last_only, steps=2)["first"] == 3


def test_what_cannot_be_shown_is_refused_with_the_reason(tmp_path: Path) -> None:
    rnn = RNN(2, 3)
    with recording() as tapes:
        rnn(torch.zeros(4, 1, 2))
    with pytest.raises(InputError, match=r"side B of this one is empty"):
        tapes[0].page(tmp_path / "run.html")
    tape = GOLDENS["word"].tape
    for arguments, message in (
        ({"row": 1}, "row must be one of the batch, 0 to 0; got 1"),
        ({"first": 4}, "first must be a step of this row, 0 to 3; got 4"),
        ({"steps": 0}, "steps must lie in 1 to 2048; got 0"),
    ):
        with pytest.raises(InputError, match=message):
            tape.page(tmp_path / "run.html", **arguments)
    with pytest.raises(InputError, match="a page is saved to a file"):
        tape.page(tmp_path)
    with pytest.raises(InputError, match="Make the directory"):
        tape.page(tmp_path / "none" / "run.html")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("inspect")
    (directory / "words.txt").write_text("the cat sat on the mat. " * 40)
    command = f"train {directory}/words.txt -o {directory}/cat --hidden 8 --streams 4 --bptt 10 --steps 2"
    assert CliRunner().invoke(app, command.split()).exit_code == 0
    return directory / "cat"


def test_inspect_writes_the_page_of_a_run_and_a_text(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(run), "the cat"])
    assert result.exit_code == 0, result.output
    assert f"{run / 'inspect.html'}: 6 steps of 8 units" in " ".join(result.stdout.split())
    data = shown((run / "inspect.html").read_text("utf-8"))
    symbols = data["vocabulary"]
    tokens = array(data["arrays"]["layers.0.forward.x"])
    assert "".join(symbols[token] for token in tokens) == "the ca"
    assert "".join(symbols[token] for token in array(data["arrays"]["targets"])) == "he cat"
    settings, model = runs.load(run)
    o, _ = model(Vocabulary.from_json(settings.about["vocabulary"]).encode("the ca").long()[:, None])
    np.testing.assert_array_equal(array(data["arrays"]["o"]), o[:, 0].detach().numpy())
    for given in (["the c", "-o", str(run / "inspect.html")], ["the ca"]):
        assert CliRunner().invoke(app, ["inspect", str(run), *given]).exit_code == 0
    (run / "inspect.html").write_text("mine")
    result = CliRunner().invoke(app, ["inspect", str(run), "the cat"])
    assert result.exit_code == 2
    assert "inspect.html, or somebody has changed it since. Move it away" in result.stderr
    assert (run / "inspect.html").read_text() == "mine"
    (run / "inspect.html").unlink()
    assert CliRunner().invoke(app, ["inspect", str(run), "the", "-o", str(tmp_path / "x.html")]).exit_code == 0
    assert (tmp_path / "x.html").exists()


def test_inspect_opens_the_browser_on_request_only(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) < 2)
    CliRunner().invoke(app, ["inspect", str(run), "the"])
    assert opened == []
    CliRunner().invoke(app, ["inspect", str(run), "the", "--open"])
    assert opened == [(run / "inspect.html").absolute().as_uri()]
    assert "No browser could be started" in CliRunner().invoke(app, ["inspect", str(run), "the", "--open"]).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "t"], "needs at least two characters"),
        (["{run}", "thé"], "unknown: '\\xe9'"),
        (["{run}/none", "the"], "holds no settings.json"),
        (["{run}", "the", "-o", "{run}/none/x.html"], "Make the directory"),
    ],
)
def test_inspect_refuses_what_it_cannot_show(run: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["inspect", *(argument.format(run=run) for argument in arguments)])
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_widget_carries_the_same_tape_and_a_page_for_exports() -> None:
    tape = GOLDENS["word"].tape
    widget = tape.show()
    state = widget.get_state()
    assert (state["cursor"], state["side"], state["selection"]) == (1, "A", "")
    carried = state["_tape"]["arrays"]["layers.0.forward.d.a"]
    np.testing.assert_array_equal(np.frombuffer(carried["data"]).reshape(carried["shape"]), tape.da[:, 0].numpy())
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"] == player.frame(player.html(tape))
    widget.cursor, widget.side, widget.selection = 3, "B", "da,2"
    with pytest.raises(traitlets.TraitError):
        widget.side = "C"


def test_showing_without_anywidget_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bptt.tape.widget", None)
    with pytest.raises(InputError, match=r"pip install '\.\[notebook\]'"):
        GOLDENS["word"].tape.show()
