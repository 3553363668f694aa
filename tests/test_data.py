"""Text becomes tokens, streams and windows without losing or repeating one; every unusable text says why."""

import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import InputError
from bptt.tasks import data
from bptt.tasks.data import Corpus, Vocabulary


@given(st.text(min_size=1))
def test_vocabulary_takes_any_text_there_and_back(text: str) -> None:
    read = Corpus(text.encode(), "drawn")
    for unit in get_args(data.Unit):
        vocabulary = Vocabulary.of(read, unit)
        tokens = vocabulary.encode(read)
        assert torch.equal(tokens, vocabulary.encode(text))
        assert vocabulary.decode(tokens.tolist()) == text
        used = len(vocabulary) - (unit == "word")
        assert unit == "byte" or sorted(set(tokens.tolist())) == list(range(used))
        assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.as_json()))) == vocabulary


def test_vocabulary_in_any_order_numbers_by_place() -> None:
    assert Vocabulary(tuple("cab")).encode("abc").tolist() == [1, 2, 0]


def test_unknown_characters_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown: '\\n', 'z', '\\xe9'\. Known: 'abc'"):
        Vocabulary(tuple("abc")).encode("aézb\n")


def test_words_carry_the_space_before_them_and_rare_ones_become_one_symbol() -> None:
    text = Corpus(b"the cat, the mat\nthe end, the cat", "words")
    vocabulary = Vocabulary.of(text, "word")
    assert vocabulary.decode(vocabulary.encode(text).tolist()) == text.characters
    assert set(vocabulary.symbols) == {"the", " the", " cat", ",", " mat", "\n", " end", data.UNKNOWN}
    assert vocabulary.decode(vocabulary.encode("the dog").tolist()) == "the<unk>"
    unseen = Vocabulary.of(text, "word", held_out=0.5)
    assert set(unseen.symbols) == {"the", " cat", ",", " the", " mat", data.UNKNOWN}
    few = Vocabulary.of(text, "word", words=4)
    assert few.symbols == (" cat", " the", ",", data.UNKNOWN)
    assert few.encode("a cat, the dog").tolist() == [3, 0, 2, 1, 3]


def test_bytes_take_any_file_and_any_prime(tmp_path: Path) -> None:
    file = tmp_path / "any"
    file.write_bytes(bytes(range(256)))
    vocabulary = Vocabulary.of(data.read(file), "byte")
    assert vocabulary.encode(data.read(file)).tolist() == list(range(256))
    assert "".join(vocabulary.pieces(vocabulary.encode("né").tolist())) == "né"
    assert vocabulary.decode([0xC3, 0x28, 0xC3]) == "\ufffd(\ufffd"


@pytest.mark.parametrize(
    "value",
    [
        None, {}, {"unit": "byte", "symbols": "ab"}, {"unit": "character", "symbols": "aa"},
        {"unit": "word", "symbols": ["a", "a", "<unk>"]},
        {"unit": "word", "symbols": ["a"]}, {"unit": "word", "symbols": [1]}, {"unit": "word", "symbols": "ab"},
    ],
)  # fmt: skip
def test_vocabulary_refuses_what_it_did_not_write(value: object) -> None:
    with pytest.raises(InputError, match="vocabulary must hold"):
        Vocabulary.from_json(value)


@given(tokens=st.integers(2, 200), streams=st.integers(1, 7), steps=st.integers(1, 9))
def test_windows_cover_every_stream_once_and_in_order(tokens: int, streams: int, steps: int) -> None:
    text = torch.arange(100, 100 + tokens, dtype=torch.int32)
    length = (tokens - 1) // streams
    if length < steps:
        with pytest.raises(InputError, match="must hold one window of every stream"):
            data.windows(text, streams, steps)
        return
    windows = data.windows(text, streams, steps)
    pairs = list(windows)
    assert len(pairs) == len(windows)
    assert all(len(x) == steps for x, _ in pairs[:-1])
    assert all(x.is_contiguous() and y.is_contiguous() and x.dtype == y.dtype == torch.int64 for x, y in pairs)
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    torch.testing.assert_close(x.T.flatten(), text[: length * streams].to(torch.int64), rtol=0, atol=0)
    torch.testing.assert_close(y, x + 1, rtol=0, atol=0)


def test_windows_of_a_view_start_where_the_view_starts() -> None:
    _, last = data.split(torch.arange(10), 0.5)
    x, _ = data.windows(last, 2, 2)[0]
    assert x.tolist() == [[5, 7], [6, 8]]


def test_too_short_a_text_says_what_is_needed_and_what_would_fit() -> None:
    for tokens, fix in [(100, "use --streams 6 or fewer"), (10, "use --streams 1 --bptt 9"), (1, "longer text.")]:
        with pytest.raises(InputError) as caught:
            data.windows(torch.zeros(tokens), streams=32, steps=16)
        assert f"32 streams x 16 steps + 1 = 513 symbols; got {tokens}." in str(caught.value)
        assert fix in str(caught.value)
    data.windows(torch.zeros(100), streams=6, steps=16)
    data.windows(torch.zeros(10), streams=1, steps=9)


def test_split_keeps_the_end_apart() -> None:
    train, held_out = data.split(torch.arange(100), 0.05)
    assert held_out.tolist() == [95, 96, 97, 98, 99]
    assert len(train) == 95
    assert [len(part) for part in data.split(torch.arange(3), 0.0)] == [3, 0]
    with pytest.raises(InputError, match=r"at least 2 symbols; 0\.05 of 29 is 1\. .*--held-out 0"):
        data.split(torch.arange(29), 0.05)


def test_english_is_there_and_the_same_each_time() -> None:
    text = data.english()
    assert len(text.characters) > 400_000
    assert text == data.english()
    assert text.sha256 == hashlib.sha256(text.characters.encode()).hexdigest()
    assert data.reread(text.source) == text


def test_read_keeps_line_ends_and_drops_the_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"\xef\xbb\xbfa\r\n\xc3\xa9\n")
    text = data.read(file)
    assert text.characters == "a\r\né\n"
    assert data.reread(text.source) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is none at"),
        ("directory", "is a directory"),
        (b"", "must not be empty"),
        (b"\xef\xbb\xbf", "must not be empty"),
        (b"caf\xe9 au lait", "byte 0xe9 at offset 3"),
        (b"cut off: \xe2\x82", "byte 0xe2 at offset 9"),
    ],
)
def test_unusable_files_say_why_and_what_to_do(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "corpus.txt"
    if content == "directory":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        assert data.read(file).characters
    assert str(file) in str(caught.value)
