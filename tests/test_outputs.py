"""Files where a user wants them, judged by what lies there afterwards."""

import errno
import os
from pathlib import Path

import pytest

from bptt.errors import InputError
from bptt.files import disk, outputs, owned


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


def test_what_lies_beside_stays(tmp_path: Path) -> None:
    for name in (".next.csv.new", ".next.png.new", "other"):
        (tmp_path / name).write_text("mine")
    outputs.write("a forecast", {tmp_path / "next.csv": b"new", tmp_path / "next.png": b"picture"})
    left = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert left == {
        ".next.csv.new": "mine", ".next.png.new": "mine", "other": "mine", "next.csv": "new", "next.png": "picture",
    }  # fmt: skip


def test_where_one_finds_no_room_none_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, calls = os.fsync, []

    def refuse(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    (tmp_path / "next.csv").write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match=r"next\.png' cannot be written: No space left"):
        outputs.write("a forecast", {tmp_path / "next.csv": b"new", tmp_path / "next.png": b"picture"})
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"next.csv": "old"}


@pytest.mark.parametrize(
    "name", [*owned.KEPT, *owned.AT_THE_END, owned.RECORD, disk.LOCK, "forecast.csv", ".settings.json.new", "LOG.jsonl"]
)
def test_a_file_of_a_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run, beside = tmp_path / "run", tmp_path / "beside"
    for directory in (run, beside):
        directory.mkdir()
    owned.add(run, {"forecast.csv": b"ours"})
    record = (run / owned.RECORD).read_bytes()
    if name != owned.RECORD:
        (run / name).write_text("ours")
    before = (run / name).read_bytes()
    (beside / "link").symlink_to(run / name)
    (beside / "run").symlink_to(run)
    monkeypatch.chdir(beside)
    for path in (run / name, beside / "link", beside / "run" / name, Path("..", "run", name)):
        with pytest.raises(InputError, match=rf"a file that a run keeps; got '.*', {name} of the run in '.*run'"):
            outputs.write("a page", {Path("first"): b"new", path: b"new"})
    assert (run / name).read_bytes() == before
    assert (run / owned.RECORD).read_bytes() == record
    assert not Path("first").exists()


def test_a_file_of_a_run_without_a_record_stays_and_those_beside_it_are_free(tmp_path: Path) -> None:
    for name in (owned.SETTINGS, owned.CHECKPOINT):
        outputs.write("a page", {tmp_path / name: b"not yet a run"})
    for name in (owned.SETTINGS, owned.WEIGHTS):
        with pytest.raises(InputError, match="a file that a run keeps"):
            outputs.write("a page", {tmp_path / name: b"new"})
    for _ in range(2):
        outputs.write("a page", {tmp_path / "next.csv": b"new"})
    assert (tmp_path / owned.SETTINGS).read_bytes() == b"not yet a run"
