"""`bptt score`: the bits of a text, its lines, and what cannot be scored."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import bptt
from torch.nn import functional as F
from typer.testing import CliRunner

from bptt import runs
from bptt.cli import app
from bptt.nn import Network
from bptt.nn.network import layers_of
from bptt.tasks import data, score
from bptt.tasks.data import Corpus, Vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "the cat sat on the mat. \n" * 40
SMALL = "--hidden 8 --streams 4 --bptt 10 --epochs 2 --lr 0.02"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS)
    return tmp_path


@pytest.mark.parametrize("steps", [1, 7, 4096])
@pytest.mark.parametrize("cell", ["elman", "lstm"])
def test_bits_are_those_of_the_text_in_one_go(cell: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model, tokens = Network(layers_of(cell, 6, 5, 2), 6), torch.randint(6, (50,), dtype=torch.int32)
    monkeypatch.setattr(score, "STEPS", steps)
    found = score.bits(model, tokens)
    with torch.no_grad():
        o, _ = model(tokens[:-1, None].long())
    expected = F.cross_entropy(o[:, 0], tokens[1:].long())
    assert len(found) == 49
    assert found.mean() * np.log(2) == pytest.approx(float(expected), rel=1e-5)
    assert model.training


def test_a_large_vocabulary_is_read_in_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = Network(layers_of("elman", 6, 5, 1), 6), torch.randint(6, (50,))
    expected, seen = score.bits(model, tokens), []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(score, "EVALUATION_OUTPUTS", 60)
    np.testing.assert_allclose(score.bits(model, tokens), expected, rtol=1e-5)
    assert seen == [10, 10, 10, 10, 9]


def test_frequencies_are_the_scale() -> None:
    assert score.by_frequency(torch.tensor([3, 0, 0, 1, 1])) == pytest.approx(1)
    assert score.by_frequency(torch.tensor([3, 0, 1, 2, 3])) == pytest.approx(2)
    assert score.by_frequency(torch.tensor([3, 1])) == 0


@pytest.mark.parametrize("unit", ["character", "byte", "word"])
def test_lines_add_up_to_the_text(unit: data.Unit) -> None:
    text = Corpus("é cat\n\nsat on\r\na mat".encode(), "here")
    vocabulary = Vocabulary.of(text, unit, words=4)
    tokens = vocabulary.encode(text)
    bits = np.arange(1.0, len(tokens))
    found = score.lines(text, vocabulary, bits)
    assert [line.number for line in found] == [1, 2, 3, 4]
    assert [line.text for line in found] == ["é cat", "", "sat on\r", "a mat"]
    items = {"character": [5, 1, 8, 5], "byte": [6, 1, 8, 5], "word": [2, 1, 4, 2]}[unit]
    assert [line.items for line in found] == items
    assert sum(line.bits for line in found) == bits.sum()
    assert found[0].bits == bits[: items[0]].sum()


def test_a_first_line_that_is_only_read_is_no_line() -> None:
    text = Corpus(b"\nab", "here")
    (line,) = score.lines(text, Vocabulary.of(text), np.array([1.0, 2.0]))
    assert line == (2, 2, 3.0, "ab")


def test_the_command_says_bits_perplexity_and_lines(here: Path) -> None:
    bptt(f"train words.txt -o run {SMALL}")
    (here / "other.txt").write_text("the cat sat on the mat. \n\ttttttttttt\nthe cat sat on the mat. \n")
    settings, model = runs.load(here / "run")
    vocabulary = Vocabulary.from_json(settings.about["vocabulary"])
    message = r"line 2 of .*other\.txt has '\\t'; unknown in all: '\\t'\. Replace them"
    assert re.search(message, bptt("score run other.txt", code=2))
    text = "the cat sat on the mat. \ntttt tttttt\nthe cat sat on the mat. \n"
    (here / "other.txt").write_text(text)
    facts = json.loads(bptt("score run other.txt --lines --json"))
    bits = score.bits(model, vocabulary.encode(text))
    assert facts["items"] == len(text) - 1 == len(bits)
    assert facts["bits"] == pytest.approx(bits.mean())
    assert facts["perplexity"] == pytest.approx(2 ** bits.mean())
    assert sum(line["bits"] * line["items"] for line in facts["lines"]) == pytest.approx(bits.sum())
    assert [line["line"] for line in facts["lines"]] == [1, 2, 3]
    said = bptt("score run other.txt --lines").splitlines()
    assert f"{bits.mean():.3f} bits per character, perplexity {2 ** bits.mean():.4g}, over 61 characters." in said[0]
    assert f"{facts['bits_by_frequency']:.3f} bits where each character is drawn by its frequency" in said[1]
    ranked = sorted(facts["lines"], key=lambda line: -line["bits"])
    assert ranked[0]["text"] == "tttt tttttt"
    assert [line.split()[0] for line in said[-3:]] == [str(line["line"]) for line in ranked]
    assert "words.txt, which the network has learnt from: " in bptt("score run words.txt")
    piped = CliRunner().invoke(app, ["score", "run", "-", "--json"], input=text)
    assert json.loads(piped.stdout)["bits"] == facts["bits"]


def test_words_that_are_not_known_are_counted(here: Path) -> None:
    bptt(f"train words.txt -o run {SMALL} --unit word")
    (here / "other.txt").write_text("the dog sat on the cat. \n")
    assert "1 of 9 words are none the network knows, and count as <unk>." in bptt("score run other.txt")
    facts = json.loads(bptt("score run other.txt --json"))
    assert (facts["unit"], facts["items"], facts["unknown"]) == ("word", 8, 1)


def test_any_bytes_have_a_score(here: Path) -> None:
    bptt(f"train words.txt -o run {SMALL} --unit byte")
    (here / "other.bin").write_bytes(b"\xff\xfe\x1b[31m\n" * 3)
    lines = bptt("score run other.bin --lines").splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must not be empty; standard input holds"),
        ("t", r"needs at least two characters.*; standard input has one"),
    ],
)
def test_too_little_to_score_is_explained(here: Path, text: str, message: str) -> None:
    bptt(f"train words.txt -o run {SMALL}")
    result = CliRunner().invoke(app, ["score", "run", "-"], input=text)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
