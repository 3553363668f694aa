"""Every mistake in `tests/mistakes.py` is answered with a message that teaches; docs/errors.md has the answers."""

import re
from collections.abc import Iterator
from pathlib import Path

import errors_page
import mistakes
import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, str, str, str, str]]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mistakes"))
        yield list(mistakes.answers())
    torch.set_num_threads(threads)


def test_there_are_more_than_a_hundred_and_none_twice() -> None:
    given = [given for _, given, _ in mistakes.TABLE]
    assert len(set(given)) == len(given) > 150


@pytest.mark.parametrize("index", range(len(mistakes.TABLE)), ids=[given[:60] for _, given, _ in mistakes.TABLE])
def test_a_mistake_is_answered(answered: list[tuple[str, str, str, str, str]], index: int) -> None:
    _, given, pattern, kind, message = answered[index]
    allowed = {"exit code 2"} if given.startswith("bptt ") else {error.__name__ for error in mistakes.TYPES}
    assert kind in allowed, message
    assert re.search(pattern, message), message


def test_the_page_is_what_was_answered(answered: list[tuple[str, str, str, str, str]]) -> None:
    assert PAGE.read_text() == errors_page.page(answered), "run: python tests/errors_page.py docs/errors.md"
