"""From a text to the batches of a network: symbols -> numbers -> streams side by side -> windows in time.

A symbol is a character, a byte or a word. A text of N tokens is cut into B equal parts, the streams. A training step
sees a window of T consecutive tokens of every stream, (T, B), time first; the next window starts where this one ended,
so the state carried over fits:

    stream 0   t h e _ c | a t _ s a | t _ ...          window 0 | window 1 | ...
    stream 1   o n _ t h | e _ m a t | . _ ...

The target of each token is its successor. Nothing is downloaded: `english` is a text that comes with CPython.
"""

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bptt.errors import InputError
from bptt.files import disk

ENGLISH = "CPython"
Unit = Literal["character", "byte", "word"]
UNKNOWN = "<unk>"
WORD = re.compile(r" ?\w+| ?[^\w\s]|\s")


@dataclass(frozen=True)
class Corpus:
    """A text and its source: the absolute path of a file, or `ENGLISH`."""

    content: bytes
    source: str

    @cached_property
    def characters(self) -> str:
        """Raises InputError where the bytes are not UTF-8."""
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            path = self.source
            raise InputError(
                f"The text must be UTF-8; {path} is not: byte {self.content[error.start]:#04x} at offset "
                f"{error.start} ({error.reason}). Convert it, for example: iconv -f latin1 -t utf-8 {path} > "
                "converted.txt. Or train byte by byte: --unit byte"
            ) from None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


Text = Corpus  # its earlier name, until 1.0


def english() -> Corpus:
    """The English text that ships with CPython: its language reference as `help()` shows it, 465,000 characters.

    It differs slightly between versions of Python, and `Corpus.sha256` with it.
    """
    return Corpus("\n".join(topics[title] for title in sorted(topics)).encode(), ENGLISH)


def read(path: str | Path, use: str = "train on") -> Corpus:
    """The text of a file, line ends as they are; a byte order mark at its start is dropped. use: the verb of messages.

    Raises InputError for a file that is missing, empty, unreadable or a directory.
    """
    path = Path(path)
    try:
        content = disk.read_whole(path)
    except FileNotFoundError:
        raise InputError(
            f"The text to {use} must be a file; there is none at {path}. Check the path"
            + (", or leave it out to train on the English text that ships with CPython." if use == "train on" else ".")
        ) from None
    except IsADirectoryError:
        raise InputError(
            f"The text to {use} must be a file; {path} is a directory. Name a file in it, or join several first: "
            f"cat {path}/*.txt > corpus.txt"
        ) from None
    except OSError as error:
        raise InputError(f"The text to {use} must be readable; {path}: {error.strerror}.") from None
    return of_bytes(content, str(path.absolute()), f"The text to {use} must not be empty; {path}")


def of_bytes(content: bytes, source: str, empty: str) -> Corpus:
    """The text in some bytes, without a byte order mark. Raises InputError, which begins with `empty`, for none."""
    content = content.removeprefix(codecs.BOM_UTF8)
    if not content:
        raise InputError(f"{empty} holds no characters. Name another file.")
    return Corpus(content, source)


def reread(source: str) -> Corpus:
    """The text of a `Corpus.source`."""
    return english() if source == ENGLISH else read(source)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows; the number of a symbol is its place.

    unit "character": each symbol is one character. "byte": the 256 bytes, in UTF-8 where the text is one. "word": a
    word, a punctuation mark or a space of its own, each with the space before it, so that symbols one after the other
    are the text; the last symbol, `UNKNOWN`, stands for all words that are not among the others.
    """

    symbols: tuple[str, ...]
    unit: Unit = "character"

    @classmethod
    def of(cls, text: Corpus, unit: Unit = "character", words: int = 10_000, held_out: float = 0.0) -> "Vocabulary":
        """Every character of the text in the order of code points, all bytes, or the most frequent words.

        Words are counted outside the held-out part, which is the last share of the text. There are `words` of them at
        most, `UNKNOWN` included.
        """
        if unit == "byte":
            return BYTES
        if unit == "character":
            return cls(tuple(sorted(set(text.characters))))
        found = WORD.findall(text.characters)
        counted = Counter(found[: len(found) - round(len(found) * held_out)])
        ranked = sorted(counted, key=lambda word: (-counted[word], word))
        return cls((*ranked[: words - 1], UNKNOWN), "word")

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def unknown(self, text: str) -> list[str]:
        """The characters of the text that have no number, in the order of code points."""
        return [] if self.unit != "character" else sorted(set(text) - self._number.keys())

    def encode(self, text: str | Corpus) -> Tensor:
        """Tokens (N,), int32. Raises InputError with the symbols that are not in the vocabulary."""
        if self.unit == "byte":
            content = text.content if isinstance(text, Corpus) else text.encode("utf-8", "surrogateescape")
            return torch.from_numpy(np.frombuffer(content, np.uint8).astype(np.int32))
        characters = text.characters if isinstance(text, Corpus) else text
        if unknown := self.unknown(characters):
            raise InputError(
                f"Every character must be among the {len(self)} of the text the model was trained on; "
                f"unknown: {listed(unknown)}. Known: {''.join(self.symbols)!r}"
            )
        if self.unit == "word":
            other = self._number[UNKNOWN]
            numbers = [self._number.get(word, other) for word in WORD.findall(characters)]
            return torch.tensor(numbers, dtype=torch.int32)
        points, known = _code_points(characters), _code_points("".join(self.symbols))
        order = np.argsort(known)
        return torch.from_numpy(order[np.searchsorted(known[order], points)].astype(np.int32))

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of the tokens, piece by piece as they come; bytes that are not UTF-8 become U+FFFD."""
        if self.unit != "byte":
            yield from (self.symbols[token] for token in tokens)
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        yield from (decoder.decode(bytes([token])) for token in tokens)
        yield decoder.decode(b"", final=True)

    def as_json(self) -> dict[str, Any]:
        match self.unit:
            case "byte":
                return {"unit": "byte"}
            case "character":
                return {"unit": "character", "symbols": "".join(self.symbols)}
            case "word":
                return {"unit": "word", "symbols": list(self.symbols)}

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """Raises InputError for anything `as_json` would not have written."""
        match value:
            case {"unit": "byte", **rest} if not rest:
                return BYTES
            case {"unit": "character", "symbols": str(symbols)} if symbols and len(set(symbols)) == len(symbols):
                return cls(tuple(symbols))
            case {"unit": "word", "symbols": [*words]} if words and all(isinstance(word, str) for word in words):
                if len(set(words)) == len(words) and words[-1] == UNKNOWN:
                    return cls(tuple(words), "word")
        raise InputError(f"vocabulary must hold a unit, one of {', '.join(get_args(Unit))}, and different symbols")


BYTES = Vocabulary(tuple(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in range(256)), "byte")


def listed(symbols: list[str], most: int = 10) -> str:
    more = f" and {len(symbols) - most} more" if len(symbols) > most else ""
    return ", ".join(map(ascii, symbols[:most])) + more


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def split(tokens: Tensor, held_out: float) -> tuple[Tensor, Tensor]:
    """The tokens to train on, and the last share of them, `held_out` in [0, 1), to evaluate by. Views, no copies.

    Raises InputError where a share above 0 gives fewer than two tokens: one to read and one to predict.
    """
    last = round(len(tokens) * held_out)
    if held_out > 0 and last < 2:
        raise InputError(
            f"The held-out part must have at least 2 symbols; {held_out:.3g} of {len(tokens)} is {last}. "
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
        f"{streams * steps + 1} symbols; got {tokens}. Give a longer text{fix}."
    )
