"""docs/moved.md is true: old names that keep working do, the others are gone, and every new name is there."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import bptt

PAGE = (Path(__file__).parent.parent / "docs" / "moved.md").read_text()
WORKING, GONE, _ = ([*re.findall(r"^\| `(.+)` \| `(.+)` \|$", part, re.M)] for part in PAGE.split("## ")[1:])


def found(name: str) -> Any:
    """The module of this name, or what a module, as deep as there is one, has under the rest of it."""
    module, rest = name, []
    while True:
        try:
            here = import_module(module)
            break
        except ModuleNotFoundError as error:
            if not module.startswith(error.name or " "):
                raise
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for part in rest:
        here = getattr(here, part)
    return here


@pytest.mark.parametrize(("old", "new"), WORKING)
def test_an_old_name_keeps_working(old: str, new: str) -> None:
    assert found(old) is found(new)


@pytest.mark.parametrize(("old", "new"), GONE)
def test_a_name_that_is_gone_has_a_new_one(old: str, new: str) -> None:
    found(new)
    with pytest.raises(AttributeError):
        found(old)


def test_every_second_name_of_a_module_is_on_the_page() -> None:
    assert {f"bptt.{old}": f"bptt.{new}" for old, new in bptt.MOVED.items()}.items() <= dict(WORKING).items()
