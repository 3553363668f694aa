"""Text as a recurrent network reads it: symbols -> numbers -> streams side by side -> windows in time.

A text of N tokens is cut into B equal parts, the streams. A training step sees a window of T consecutive tokens of
every stream, (T, B), time first; the next window starts where this one ended, so the state carried over fits:

    stream 0   t h e _ c | a t _ s a | t _ ...          window 0 | window 1 | ...
    stream 1   o n _ t h | e _ m a t | . _ ...

The target of each token is its successor. Nothing is downloaded: `english` is a text every CPython carries.

Left for later: vocabularies of bytes and words (another `unit`), series of numbers.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bptt.errors import InputError

ENGLISH = "CPython"


@dataclass(frozen=True)
class Text:
    """A text and where it came from: the absolute path of a file, or `ENGLISH`."""

    characters: str
    source: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.characters.encode()).hexdigest()


def english() -> Text:
    """The English text that ships with CPython: its language reference as `help()` shows it, 465,000 characters.

    It differs slightly between versions of Python, and `Text.sha256` with it.
    """
    return Text("\n".join(topics[title] for title in sorted(topics)), ENGLISH)


def read(path: str | Path) -> Text:
    """The text of a UTF-8 file, line ends as they are; a byte order mark at its start is dropped.

    Raises InputError for a file that is missing, empty, unreadable, a directory, or not UTF-8.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"The text to train on must be a file; there is none at {path}. Check the path, or leave it "
            "out to train on the English text that ships with CPython."
        ) from None
    except IsADirectoryError:
        raise InputError(
            f"The text to train on must be a file; {path} is a directory. Name a file in it, or join several first: "
            f"cat {path}/*.txt > corpus.txt"
        ) from None
    except OSError as error:
        raise InputError(f"The text to train on must be readable; {path}: {error.strerror}.") from None
    try:
        characters = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"The text to train on must be UTF-8; {path} is not: byte {raw[error.start]:#04x} at offset {error.start} "
            f"({error.reason}). Convert it, for example: iconv -f latin1 -t utf-8 {path} > converted.txt"
        ) from None
    characters = characters.removeprefix("\ufeff")
    if not characters:
        raise InputError(f"The text to train on must not be empty; {path} holds no characters. Name another file.")
    return Text(characters, str(path.absolute()))


def reread(source: str) -> Text:
    """The text a `Text.source` names."""
    return english() if source == ENGLISH else read(source)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols a model knows, each being the number of its place. unit: what a symbol is; so far "character"."""

    symbols: str
    unit: str = "character"

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """Every character of the text, in the order of code points."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.symbols)

    def unknown(self, text: Iterable[str]) -> list[str]:
        """The characters of the text that have no number, in the order of code points."""
        return sorted(set(text) - set(self.symbols))

    def encode(self, text: str) -> Tensor:
        """Tokens (N,), int32. Raises InputError that names the characters outside the vocabulary."""
        if unknown := self.unknown(text):
            raise InputError(
                f"Every character must be among the {len(self)} of the text the model was trained on; "
                f"unknown: {listed(unknown)}. Known: {self.symbols!r}"
            )
        points = _code_points(text)
        known = _code_points(self.symbols)
        order = np.argsort(known)
        return torch.from_numpy(order[np.searchsorted(known[order], points)].astype(np.int32))

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.symbols[token] for token in tokens)

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "symbols": self.symbols}

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """Raises InputError for anything `as_json` would not have written."""
        match value:
            case {"unit": "character", "symbols": str(symbols)} if symbols and len(set(symbols)) == len(symbols):
                return cls(symbols)
        raise InputError("vocabulary must hold the unit 'character' and different symbols")


def listed(characters: list[str], most: int = 10) -> str:
    more = f" and {len(characters) - most} more" if len(characters) > most else ""
    return ", ".join(map(ascii, characters[:most])) + more


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def split(tokens: Tensor, held_out: float) -> tuple[Tensor, Tensor]:
    """The tokens to train on, and the last share of them, `held_out` in [0, 1), to judge by. Views, no copies.

    Raises InputError where a share above 0 comes to fewer than two tokens, the least that has something to predict.
    """
    last = round(len(tokens) * held_out)
    if held_out > 0 and last < 2:
        raise InputError(
            f"The held-out part must have at least 2 characters; {held_out:.3g} of {len(tokens)} is {last}. "
            "Give a longer text, or --held-out 0 to train without one."
        )
    return tokens[: len(tokens) - last], tokens[len(tokens) - last :]


@dataclass(frozen=True)
class Windows:
    """Windows over streams laid side by side; a sequence of pairs (x, y), see `windows`.

    tokens  (L+1, B): stream b in column b; each column's last token is the first of the next
    steps   window length T; the last window is shorter when T does not divide L
    """

    tokens: Tensor
    steps: int

    def __len__(self) -> int:
        return -(-(len(self.tokens) - 1) // self.steps)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        part = self.tokens[index * self.steps : (index + 1) * self.steps + 1].to(torch.int64)
        return part[:-1], part[1:]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.__getitem__, range(len(self)))

    @property
    def streams(self) -> int:
        return self.tokens.shape[1]


def windows(tokens: Tensor, streams: int, steps: int) -> Windows:
    """Windows (x, y) of `steps` tokens of each of `streams` streams, contiguous in time: x and y (T, B), int64.

    tokens (N,), any integer type. y is x one token later. Up to `streams` - 1 tokens at the very end are left out.

    Raises InputError where the streams would be shorter than one window.

    >>> x, y = windows(torch.arange(13), streams=2, steps=3)[1]
    >>> x.tolist(), y.tolist()
    ([[3, 9], [4, 10], [5, 11]], [[4, 10], [5, 11], [6, 12]])
    """
    length = (len(tokens) - 1) // streams
    if length < steps:
        raise InputError(_too_short(len(tokens), streams, steps))
    overlapping = tokens.as_strided((length + 1, streams), (1, length), tokens.storage_offset())
    return Windows(overlapping.contiguous(), steps)


def _too_short(tokens: int, streams: int, steps: int) -> str:
    if tokens > steps:
        fix = f", or use --streams {(tokens - 1) // steps} or fewer, or a shorter window --bptt"
    elif tokens > 1:
        fix = f", or use --streams 1 --bptt {tokens - 1}"
    else:
        fix = ""
    return (
        f"The part to train on must hold one window of every stream: {streams} streams x {steps} steps + 1 = "
        f"{streams * steps + 1} characters; got {tokens}. Give a longer text{fix}."
    )
