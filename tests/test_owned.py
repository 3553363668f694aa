"""Files of the user keep their place, and one process at a time writes in a run."""

import errno
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from survival import FILES, SMALL, Command, contents, crashes, in_a_child, until

from bptt import runs
from bptt.errors import InputError
from bptt.files import disk, owned
from bptt.tasks import Text, data

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and limits are those of POSIX"),
]


NAMES = (*FILES, disk.LOCK, *runs.OUTCOMES)


class TestFilesOfTheUser:
    """Files that happen to have the name of one that a run writes."""

    @pytest.fixture
    def run(self, tmp_path: Path, text: data.Corpus) -> Path:
        run, training = runs.start(tmp_path / "run", Text(text, SMALL))
        training.run(watch=run.watch, save=run.save, should_stop=until(training, 10))
        run.close()
        return run.path

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("name", [*NAMES, f".{runs.LOG}.new", f".{runs.CHECKPOINT}.new", ".forecast.csv.new"])
    def test_are_refused_by_name_and_stay(self, tmp_path: Path, text: data.Corpus, name: str, overwrite: bool) -> None:
        for content in ("mine", ""):
            file = tmp_path / "run" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
            if name == owned.RECORD and not content:
                continue
            with pytest.raises(InputError, match=rf"has not written .*run/{re.escape(name)}, or"):
                runs.start(tmp_path / "run", Text(text, SMALL), overwrite=overwrite)
            assert [entry.name for entry in file.parent.iterdir()] == [name]
            assert file.read_text() == content

    @pytest.mark.parametrize("name", [*runs.OUTCOMES, f".{runs.CURVE}.new"])
    def test_are_not_replaced_in_a_run(self, run: Path, text: data.Corpus, name: str) -> None:
        (run / name).write_text("mine")
        refused = pytest.raises(InputError, match=rf"has not written .*run/{re.escape(name)}, or")
        with refused:
            runs.start(run, Text(text, SMALL), overwrite=True)
        with refused:
            runs.add(run, {name.removeprefix(".").removesuffix(".new"): b"ours"})
        if name.removeprefix(".").removesuffix(".new") in owned.AT_THE_END:
            with refused:
                runs.resume(run)
        else:
            runs.resume(run)[0].close()
        assert (run / name).read_text() == "mine"

    def test_written_while_another_run_takes_the_directory_stay(self, run: Path, text: data.Corpus) -> None:
        new, training = runs.start(run, Text(text, SMALL), overwrite=True)
        runs.add(run, {"forecast.csv": b"ours"})
        (run / "inspect.html").write_text("mine")
        training.run(save=new.save, should_stop=until(training, 3))
        assert (run / "inspect.html").read_text() == "mine"
        assert not (run / "forecast.csv").exists()

    def test_what_a_run_wrote_and_somebody_changed_is_theirs(self, run: Path, text: data.Corpus) -> None:
        for content in (b"first", b"second"):
            runs.add(run, {"forecast.csv": content, "forecast.png": content})
        assert (run / "forecast.csv").read_bytes() == b"second"
        (run / "forecast.csv").write_bytes(b"first, and what I think of it")
        with pytest.raises(InputError, match=r"run/forecast\.csv, or somebody has changed it since\. Move it away"):
            runs.add(run, {"forecast.csv": b"third", "forecast.png": b"third"})
        assert (run / "forecast.png").read_bytes() == b"second"
        (run / "forecast.csv").unlink()
        runs.start(run, Text(text, SMALL), overwrite=True)[0].close()

    def test_a_crash_at_any_point_leaves_what_a_run_may_replace(self, run: Path) -> None:
        runs.add(run, {"forecast.csv": b"old", "forecast.png": b"old"})
        for _ in crashes(lambda: runs.add(run, {"forecast.csv": b"new", "forecast.png": b"new"})):
            runs.add(run, {"forecast.csv": b"old", "forecast.png": b"old"})
            assert not list(run.glob(".*.new"))
            assert (run / "forecast.csv").read_bytes() == (run / "forecast.png").read_bytes() == b"old"

    def test_a_run_without_its_record_is_gone_on_with_and_has_one_again(self, run: Path, text: data.Corpus) -> None:
        (run / owned.RECORD).unlink()
        with pytest.raises(InputError, match="holds one"):
            runs.start(run, Text(text, SMALL))
        resumed, training = runs.resume(run)
        (run / owned.RECORD).unlink()
        training.run(save=resumed.save, should_stop=until(training, 15))
        resumed.close()
        (run / runs.SETTINGS).write_text("{")
        runs.start(run, Text(text, SMALL), overwrite=True)[0].close()

    def test_a_run_of_an_earlier_version_is_named_as_what_it_is(self, run: Path, text: data.Corpus) -> None:
        """It has no record, and which files are its own is not known any more."""
        (run / owned.RECORD).unlink()
        settings = (run / runs.SETTINGS).read_text()
        (run / runs.SETTINGS).write_text(settings.replace('"schema": 4', '"schema": 3'))
        before = contents(run)
        for overwrite in (False, True):
            with pytest.raises(InputError, match=r"schema must be 4, .*; got 3 in .*another directory"):
                runs.start(run, Text(text, SMALL), overwrite=overwrite)
        assert contents(run) == before

    def test_a_line_of_the_record_that_was_cut_off_harms_no_other(self, run: Path) -> None:
        record = run / owned.RECORD
        runs.add(run, {"forecast.csv": b"old"})
        record.write_bytes(record.read_bytes()[:-5])
        runs.add(run, {"inspect.html": b"old"})
        runs.add(run, {"inspect.html": b"new"})
        with pytest.raises(InputError, match=r"run/forecast\.csv, or"):
            runs.add(run, {"forecast.csv": b"new"})

    def test_in_place_of_a_directory_that_was_removed_stay(self, run: Path) -> None:
        resumed, training = runs.resume(run)
        shutil.rmtree(run)
        run.mkdir()
        (run / runs.LOG).write_text("mine")
        with pytest.raises(InputError, match=r"has not written .*run/log\.jsonl, or"):
            training.run(save=resumed.save, should_stop=until(training, 15))
        assert {file.name: file.read_text() for file in run.iterdir()} == {runs.LOG: "mine"}

    def test_what_looks_like_half_a_save_is_not_settled_without_a_record(self, run: Path, text: data.Corpus) -> None:
        (run / owned.RECORD).unlink()
        (run / f".{runs.CURVE}.new").write_text("mine")
        (run / f".{runs.LOG}.new").write_text("mine")
        before = contents(run)
        runs.load(run)
        assert runs.began(run) is not None
        for use in (lambda: runs.resume(run), lambda: runs.start(run, Text(text, SMALL), overwrite=True)):
            with pytest.raises(
                InputError, match=r"has not written .*run/\.log\.jsonl\.new, .*run/\.curve\.png\.new, or"
            ):
                use()
        assert contents(run) == before

    def test_another_name_of_the_log_is_not_cut(self, run: Path, tmp_path: Path) -> None:
        with (run / runs.LOG).open("a") as log:
            log.write('{"event": "after the last save"}\n')
        before = (run / runs.LOG).read_bytes()
        os.link(run / runs.LOG, tmp_path / "copy")
        with pytest.raises(InputError, match=r"log\.jsonl cannot be written: it has another name as well"):
            runs.resume(run)
        assert (tmp_path / "copy").read_bytes() == before


class TestLock:
    @pytest.mark.parametrize("kind", ["a file", "another name of a file", "another name of a lock", "a link", "a pipe"])
    def test_what_is_not_ours_is_refused_and_stays(self, tmp_path: Path, text: data.Corpus, kind: str) -> None:
        run, _ = runs.start(tmp_path / "run", Text(text, SMALL))
        ours = (run.path / disk.LOCK).read_bytes()
        run.close()
        lock, victim = run.path / disk.LOCK, tmp_path / "victim"
        victim.write_bytes(ours if kind == "another name of a lock" else b"mine")
        {
            "a file": lambda: shutil.copy(victim, lock), "a link": lambda: lock.symlink_to(victim),
            "a pipe": lambda: os.mkfifo(lock),
        }.get(kind, lambda: os.link(victim, lock))()  # fmt: skip
        for use in (lambda: runs.resume(run.path), lambda: runs.start(run.path, Text(text, SMALL), overwrite=True)):
            with pytest.raises(InputError, match=r"has not written .*run/\.lock, or"):
                use()
        assert os.path.lexists(lock)
        assert victim.read_bytes() == (ours if kind == "another name of a lock" else b"mine")
        assert kind == "a pipe" or lock.read_bytes() == victim.read_bytes()

    def test_a_second_process_is_refused_until_the_first_is_dead(self, tmp_path: Path, text: data.Corpus) -> None:
        path = tmp_path / "run"
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            run, training = runs.start(path, Text(text, SMALL))
            training.run(save=run.save, should_stop=until(training, 3))
            os.write(told, b"!")
            time.sleep(60)
            os._exit(0)
        try:
            assert os.read(ready, 1) == b"!"
            before = contents(path)
            for attempt in (
                lambda: runs.resume(path),
                lambda: runs.start(path, Text(text, SMALL), overwrite=True),
            ):
                with pytest.raises(
                    InputError, match=rf"one training at a time; .* written by process {child} on .*, since"
                ):
                    attempt()
            assert contents(path) == before
            runs.load(path)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert (path / disk.LOCK).exists()
        _, training = runs.resume(path)
        assert training.step == 3

    def test_one_that_could_not_be_written_keeps_nobody_out(
        self, tmp_path: Path, text: data.Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with pytest.raises(InputError, match="cannot be written: No space left"):
                runs.start(tmp_path / "run", Text(text, SMALL))
        assert in_a_child(lambda: runs.start(tmp_path / "run", Text(text, SMALL))[0].close()) == 0

    def test_is_gone_with_the_run(self, tmp_path: Path, text: data.Corpus) -> None:
        run, _ = runs.start(tmp_path / "run", Text(text, SMALL))
        assert (run.path / disk.LOCK).exists()
        path = run.path
        del run
        assert not (path / disk.LOCK).exists()

    def test_within_a_process_the_newest_holds_it(self, tmp_path: Path, text: data.Corpus) -> None:
        old, training = runs.start(tmp_path / "run", Text(text, SMALL))
        new, _ = runs.resume(tmp_path / "run")
        with pytest.raises(InputError, match="another of this process has taken"):
            training.run(save=old.save, should_stop=until(training, 1))
        new.save(training)

    def test_a_forked_process_neither_keeps_nor_removes_it(self, tmp_path: Path, text: data.Corpus) -> None:
        run, _ = runs.start(tmp_path / "run", Text(text, SMALL))
        assert in_a_child(run._lock.release) == 0
        assert (run.path / disk.LOCK).exists()

        code, _, errors = Command("train", "-o", run.path, "--resume").end()
        assert code == 2
        assert f"is being written by process {os.getpid()} on " in errors
