"""How well a network predicts a text: the bits of every symbol, read as one stream with the state carried through."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bptt.nn import Network
from bptt.tasks.data import WORD, Corpus, Vocabulary
from bptt.tasks.text import EVALUATION_OUTPUTS

STEPS = 4096  # read at a time


class Line(NamedTuple):
    """A line of a text and the line break that ends it. bits: the sum over its items, the predicted symbols."""

    number: int
    items: int
    bits: float
    text: str


@torch.no_grad()
def bits(model: Network, tokens: Tensor) -> np.ndarray:
    """−log2 ŷ of every token of a text (N,) but the first, which is read and not predicted: (N − 1,), float64.

    The text is read from the zero state in blocks, so memory does not grow with it but for the result.
    """
    was_training = model.training
    model.eval()
    steps = max(1, min(STEPS, EVALUATION_OUTPUTS // model.readout.out_features))
    found, state = [np.zeros(0)], None
    for start in range(0, len(tokens) - 1, steps):
        part = tokens[start : start + steps + 1].to(torch.int64)
        o, state = model(part[:-1, None], state)
        found.append(F.cross_entropy(o[:, 0].double(), part[1:], reduction="none").numpy() / np.log(2))
    model.train(was_training)
    return np.concatenate(found)


def by_frequency(tokens: Tensor) -> float:
    """Mean bits of the tokens but the first if each were drawn by its frequency among them: their entropy."""
    counts = np.bincount(tokens[1:].numpy())
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def lines(text: Corpus, vocabulary: Vocabulary, bits: np.ndarray) -> list[Line]:
    """The lines of a text of which symbols are predicted, with their share of its `bits`."""
    if vocabulary.unit == "word":
        ends = np.array([word == "\n" for word in WORD.findall(text.characters)])
    else:
        content = text.content if vocabulary.unit == "byte" else text.characters.encode("utf-32-le")
        ends = np.frombuffer(content, np.uint8 if vocabulary.unit == "byte" else np.uint32) == 10
    line_of = (np.cumsum(ends) - ends)[1:]
    items, sums = np.bincount(line_of), np.bincount(line_of, bits)
    texts = text.content.decode(errors="replace").split("\n")
    return [
        Line(n + 1, int(count), float(total), texts[n])
        for n, (count, total) in enumerate(zip(items, sums, strict=True))
        if count
    ]
