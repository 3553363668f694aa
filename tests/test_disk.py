"""Saves that a crash interrupts at any point, and disks that refuse to write."""

import errno
import itertools
import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cases import weights_in
from survival import FILES, SMALL, Command, contents, crashes, finish, undrawn, until

from bptt import cli, runs
from bptt.errors import InputError
from bptt.files import disk
from bptt.tasks import Text, data

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and limits are those of POSIX"),
]


class TestCrash:
    """A process that ends at once, at each call in turn with which a save touches the disk."""

    @pytest.mark.filterwarnings("ignore:A run must hold checkpoint:bptt.errors.DamagedFileWarning")
    def test_at_every_point_of_a_save(self, tmp_path: Path, text: data.Corpus, undisturbed: bytes) -> None:
        run, training = runs.start(tmp_path / "run", Text(text, SMALL))
        for step in (5, 10):
            training.run(watch=run.watch, save=run.save, should_stop=until(training, step))
        path = shutil.copytree(run.path, tmp_path / "copy")

        def save() -> None:
            run, training = runs.resume(path)
            training.run(watch=run.watch, save=run.save, should_stop=until(training, 20))

        steps = []
        for _ in crashes(save):
            runs.load(path)
            run, training = runs.resume(path)
            steps.append(training.step)
            del run
            assert finish(path) == undisturbed
            assert set(contents(path)) == set(FILES)
            shutil.rmtree(path)
            shutil.copytree(tmp_path / "run", path)
        assert set(steps) == {10, 20}
        assert len(steps) > 12

    def test_at_every_point_of_replacing_another_run(
        self, tmp_path: Path, text: data.Corpus, undisturbed: bytes
    ) -> None:
        run, training = runs.start(tmp_path / "run", Text(text, replace(SMALL, hidden=5)))
        for step in (5, 10):
            training.run(watch=run.watch, save=run.save, should_stop=until(training, step))
        old: Any = training.recipe
        path = shutil.copytree(run.path, tmp_path / "copy")

        def overwrite() -> None:
            run, training = runs.start(path, Text(text, SMALL), overwrite=True)
            training.run(watch=run.watch, save=run.save, should_stop=until(training, 3))

        found = set()
        for _ in crashes(overwrite):
            settings, model = runs.load(path)
            recipe: Any = settings.recipe
            run, training = runs.resume(path)
            assert training.recipe == settings.recipe
            assert model.rnn.hidden_size == recipe.hidden
            found.add((recipe.hidden, training.step))
            assert sum(line.get("steps", 0) for line in runs.read_log(path)) == training.step
            del run
            if settings.recipe != old:
                assert finish(path) == undisturbed
            shutil.rmtree(path)
            shutil.copytree(tmp_path / "run", path)
        assert found == {(5, 10), (8, 3)}

    def test_at_every_point_of_the_first_save_the_command_goes_on_or_begins_anew(
        self, tmp_path: Path, text: data.Corpus
    ) -> None:
        path, steps = tmp_path / "run", set()
        for _ in crashes(lambda: runs.start(path, Text(text, SMALL))[0].close()):
            began = (path / runs.CHECKPOINT).exists()
            if not began and not steps:
                code, _, errors = Command("train", "-o", path, "--resume").end()
                assert code == 2
                assert "holds no settings.json. Train one first" in errors
            asked = ["--resume"] if began else [text.source, "--hidden", 8, "--bptt", 7, "--streams", 3]
            code, out, errors = Command("train", *asked, "-o", path, "--steps", 3, "--json", before=undrawn).end()
            assert (code, errors) == (0, "")
            steps.add(json.loads(out.splitlines()[-1])["step"])
            assert runs.read_log(path)[0]["event"] == "start"
            shutil.rmtree(path)
        assert steps == {3}


def refuse_to_write(number: int) -> Callable[..., None]:
    """Writes half of what it is given, as a disk does that gets full."""

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(number, os.strerror(number))

    return write


class TestDiskThatRefuses:
    @pytest.fixture
    def started(self, tmp_path: Path, text: data.Corpus) -> Path:
        run, training = runs.start(tmp_path / "run", Text(text, SMALL))
        for step in (5, 10):
            training.run(watch=run.watch, save=run.save, should_stop=until(training, step))
        return run.path

    @pytest.mark.parametrize(("call", "times"), [("fsync", 4), ("replace", 2), ("open", 1), ("write", 1)])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
    def test_whatever_call_it_refuses_everything_stays_as_it_was(
        self, started: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch, call: str, times: int, number: int
    ) -> None:
        run, training = runs.resume(started)
        before = contents(run.path)
        real = getattr(os, call)
        for last in range(times):
            left = itertools.count(last, -1)

            def refuse(*arguments: object, left: Iterator[int] = left, **options: object) -> object:
                if next(left) == 0:
                    raise OSError(number, os.strerror(number))
                return real(*arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, refuse)
                if call == "write":
                    patch.setattr(disk, "_write_synced", refuse_to_write(number))
                with pytest.raises(InputError, match=rf"cannot be written: {os.strerror(number)}\. Make room"):
                    run.save(training)
            after = contents(run.path)
            assert after.pop(runs.PREVIOUS, None) in (before[runs.PREVIOUS], None)
            assert after == {name: content for name, content in before.items() if name != runs.PREVIOUS}
        del run
        assert finish(started) == undisturbed

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF])
    def test_a_file_system_that_cannot_sync_directories_is_taken_as_it_is(
        self, started: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """Of files it must: what it answers there ends the save."""
        sync, of = os.fsync, stat.S_ISDIR

        def refuse(descriptor: int) -> None:
            if of(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)
        run, training = runs.resume(started)
        training.run(watch=run.watch, save=run.save)
        assert weights_in(started) == undisturbed
        of = stat.S_ISREG
        with pytest.raises(InputError, match=rf"cannot be written: {os.strerror(number)}"):
            run.save(training)

    def test_a_limit_on_the_size_of_files(self, started: Path) -> None:
        before = contents(started)
        limit = len(before[runs.CHECKPOINT]) - 1
        code, _, errors = Command(
            "train", "-o", started, "--resume",
            before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ).end()  # fmt: skip
        assert code == 2, errors
        assert re.fullmatch(
            r"Error: .*run/checkpoint\.safetensors cannot be written: File too large\. Make.*\n", errors
        )
        after = contents(started)
        del after[runs.LOG], before[runs.LOG]
        assert after == before

    def test_a_directory_that_cannot_be_written(self, started: Path, tmp_path: Path) -> None:
        """Tried by a user who is not root, to whom no permission is missing."""
        before = contents(started)
        for directory in [tmp_path, *tmp_path.parents][:-2]:
            directory.chmod(0o755)
        started.chmod(0o555)

        def as_nobody() -> None:
            with suppress(SystemExit):
                cli.app(["train", "-o", str(started)])  # imports what may lie where only root can read
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)

        try:
            ends = [
                Command("train", "-o", started, "--resume", before=as_nobody).end(),
                Command("train", "-o", started / "new", before=as_nobody).end(),
            ]
        finally:
            started.chmod(0o755)
        for code, _, errors in ends:
            assert code == 2, errors
            assert re.fullmatch(
                r"Error: .*cannot be written: Permission denied\. Make room.*\n", errors.split("\n", 1)[1]
            )
        assert contents(started) == before

    def test_a_directory_that_is_removed_is_made_again_with_all_that_was_known(
        self, started: Path, undisturbed: bytes
    ) -> None:
        run, training = runs.resume(started)
        shutil.rmtree(started)
        with pytest.raises(InputError, match=r"run was removed\. The training was saved at step 20 in a new directory"):
            training.run(watch=run.watch, save=run.save, should_stop=until(training, 20))
        del run
        run, training = runs.resume(started)
        assert training.step == 20
        training.run(watch=run.watch, save=run.save)
        assert weights_in(started) == undisturbed

    def test_a_directory_that_another_run_has_taken_is_left_to_it(
        self, started: Path, tmp_path: Path, text: data.Corpus
    ) -> None:
        run, training = runs.resume(started)
        started.rename(tmp_path / "moved")
        other, _ = runs.start(started, Text(text, replace(SMALL, seed=1)))
        before = contents(started)
        with pytest.raises(InputError, match="was removed, and another run is there now"):
            training.run(watch=run.watch, save=run.save, should_stop=until(training, 20))
        assert contents(started) == before
        assert runs.resume(tmp_path / "moved")[1].step == 10
        assert other.path == started

    def test_a_removed_directory_ends_the_command_with_a_message(self, tmp_path: Path, text: data.Corpus) -> None:
        path = tmp_path / "run"
        command = Command(
            "train", text.source, "-o", path, "--hidden", 8, "--streams", 3, "--bptt", 7, "--epochs", 1000000, "--json"
        )
        while json.loads(command.out.readline()).get("step", 0) < 20:
            pass
        path.rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        command.signal(signal.SIGTERM)
        code, _, errors = command.end()
        assert code == 2, errors
        assert re.fullmatch(r"Error: .* was removed\. The training was saved at step \d+ .*--resume\n", errors)
        assert (path / runs.CHECKPOINT).exists()
