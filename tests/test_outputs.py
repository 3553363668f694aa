"""Files where a user wants them, judged by what lies there afterwards."""

import os
from pathlib import Path

import pytest

from bptt import outputs
from bptt.errors import InputError


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "next.csv", tmp_path / "next.csv"
    target.write_text("old")
    link.symlink_to(target)
    outputs.write("a forecast", {link: b"new", tmp_path / "next.png": b"picture"})
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert (tmp_path / "next.png").read_bytes() == b"picture"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are those of POSIX")
def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, fix in [
        ("pipe", "It is a device or a pipe"),
        (".", "Add a file name"),
        ("no/file", "Make the directory"),
    ]:
        with pytest.raises(InputError, match=fix):
            outputs.write("a tape", {tmp_path / "whole": b"new", tmp_path / place: b"new"})
    assert (tmp_path / "pipe").is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_what_the_disk_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a page must be saved, and .* cannot be written: File name too long"):
        outputs.write("a page", {tmp_path / ("x" * 300): b""})
