"""What a training survives: crashes at every point of a save, damaged files, other processes, disks that refuse."""

import errno
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import weights_in

from bptt import cli, runs
from bptt.errors import DamagedFileWarning, InputError
from bptt.files import disk, owned
from bptt.runs import formats
from bptt.tasks import Text, data
from bptt.tasks.text import Recipe
from bptt.train import Evaluation, Training

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and limits are those of POSIX"),
]

SMALL = Recipe(hidden=8, bptt=7, streams=3, steps=40, lr=0.01, held_out=0.1)
CONTENT = "".join(f"{n * n % 97} is the square of {n}.\n" for n in range(30)).encode()
FILES = (runs.CHECKPOINT, runs.PREVIOUS, runs.WEIGHTS, runs.SETTINGS, runs.LOG, owned.RECORD)


@pytest.fixture
def text(tmp_path: Path) -> data.Corpus:
    file = tmp_path / "squares.txt"
    file.write_bytes(CONTENT)
    return data.read(file)


@pytest.fixture
def undisturbed(tmp_path: Path, text: data.Corpus) -> bytes:
    """The weights of a training that nothing happened to."""
    run, training = runs.start(tmp_path / "undisturbed", Text(text, SMALL))
    training.run(watch=run.watch, save=run.save)
    return weights_in(run.path)


def until(training: Training, step: int) -> Callable[[], bool]:
    return lambda: training.step >= step


def finish(path: Path) -> bytes:
    run, training = runs.resume(path)
    training.run(watch=run.watch, save=run.save)
    runs.load(path)
    log = runs.read_log(path)
    assert sum(line.get("steps", 0) for line in log) == training.total_steps
    assert log[0]["event"] == "start"
    return weights_in(path)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != disk.LOCK}


def in_a_child(do: Callable[[], None]) -> int:
    """The exit code of a process that does this and nothing else."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Command:
    """`bptt ...` in a process of its own, forked, which costs nothing to start."""

    def __init__(self, *arguments: object, before: Callable[[], object] = lambda: None) -> None:
        out, self._told = os.pipe()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.out = os.fdopen(out)
        self.process = os.fork()
        if self.process:
            os.close(self._told)
            return
        code: object = 99
        try:
            self.out.close()
            os.dup2(self._told, 1)
            os.dup2(self._errors.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            sys.argv = ["bptt", *map(str, arguments)]
            before()
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 98)

    def signal(self, number: int) -> None:
        os.kill(self.process, number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, what was left on stdout, stderr."""
        with self.out, self._errors:
            out = self.out.read()
            code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            self._errors.seek(0)
            return code, out, self._errors.read()


def undrawn() -> None:
    """No curve, which costs more than all else; warnings are lines on stderr, as outside of pytest."""
    runs.Run.draw = lambda run: run.path  # type: ignore[method-assign]
    warnings.resetwarnings()


class TestCrash:
    """A process that ends at once, at each call in turn with which a save touches the disk."""

    CALLS = ("fsync", "replace", "unlink")

    def crashes(self, do: Callable[[], None]) -> Iterator[int]:
        for last in itertools.count():

            def crash(last: int = last) -> None:
                left = itertools.count(last, -1)
                for name in self.CALLS:
                    real = getattr(os, name)

                    def call(*arguments: object, real: Callable = real, **options: object) -> object:
                        if next(left) == 0:
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real(*arguments, **options)

                    setattr(os, name, call)
                do()

            code = in_a_child(crash)
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                return
            yield last

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
        for _ in self.crashes(save):
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
        for _ in self.crashes(overwrite):
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
        for _ in self.crashes(lambda: runs.start(path, Text(text, SMALL))[0].close()):
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


class TestDamage:
    @pytest.fixture
    def run(self, tmp_path: Path, text: data.Corpus) -> Path:
        run, training = runs.start(tmp_path / "run", Text(text, SMALL))
        for step in (10, 20):
            training.run(watch=run.watch, save=run.save, should_stop=until(training, step))
        return run.path

    @pytest.mark.parametrize("damage", ["truncated", "a bit", "a number", "empty", "missing", "an older schema"])
    def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
        self, run: Path, undisturbed: bytes, damage: str
    ) -> None:
        file = run / runs.CHECKPOINT
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            at = len(content) * 2 // 3
            file.write_bytes(
                {
                    "truncated": content[:at],
                    "a bit": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
                    "a number": content.replace(b'\\"step\\": 20', b'\\"step\\": 21'),
                    "empty": b"",
                    "an older schema": content.replace(b'{\\"schema\\": 4', b'{\\"schema\\": 3'),
                }[damage]
            )
            assert file.read_bytes() != content
        with pytest.warns(
            DamagedFileWarning, match=rf"{runs.CHECKPOINT} .*Going on from the one before it, .* step 10"
        ):
            resumed, training = runs.resume(run)
        assert training.step == 10
        assert sum(line.get("steps", 0) for line in runs.read_log(run)) == 10
        del resumed
        with pytest.warns(DamagedFileWarning):
            assert finish(run) == undisturbed

    def test_a_damaged_checkpoint_never_takes_the_place_of_a_whole_one(self, run: Path) -> None:
        before = (run / runs.PREVIOUS).read_bytes()
        (run / runs.CHECKPOINT).write_bytes(b"")
        with pytest.warns(DamagedFileWarning):
            resumed, training = runs.resume(run)
        training.run(save=resumed.save, should_stop=until(training, 15))
        assert (run / runs.PREVIOUS).read_bytes() == before
        training.run(save=resumed.save, should_stop=until(training, 18))
        (run / runs.CHECKPOINT).write_bytes(b"")
        with pytest.warns(DamagedFileWarning, match="step 15"):
            runs.resume(run)

    def test_random_damage_is_found_wherever_it_is(self, run: Path) -> None:
        draw = random.Random(0)
        for name, use in ((runs.CHECKPOINT, runs.resume), (runs.WEIGHTS, runs.load)):
            content = (run / name).read_bytes()
            (run / runs.PREVIOUS).unlink(missing_ok=True)
            for _ in range(60):
                damaged = bytearray(content)
                damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
                (run / name).write_bytes(damaged)
                with pytest.raises(InputError, match=rf"{name} must be a file as bptt train wrote it"):
                    use(run)
            (run / name).write_bytes(content)
            use(run)

    def test_settings_and_weights_are_written_again_from_the_checkpoint(self, run: Path, undisturbed: bytes) -> None:
        before = contents(run)
        (run / runs.SETTINGS).write_text("{")
        (run / runs.WEIGHTS).unlink()
        with pytest.raises(InputError, match=r"let bptt train -o .*run --resume write it again from the checkpoint"):
            runs.load(run)
        with pytest.warns(DamagedFileWarning, match="It will be written again from the checkpoint"):
            resumed, training = runs.resume(run)
        training.run(save=resumed.save, should_stop=lambda: True)
        for name in (runs.SETTINGS, runs.WEIGHTS):
            assert (run / name).read_bytes() == before[name]
        assert finish(run) == undisturbed

    @pytest.mark.parametrize("damage", ["{", "missing", "another size of the network"])
    def test_the_command_writes_settings_again(self, run: Path, damage: str) -> None:
        """Also where they can be read, and say what no checkpoint says."""
        file = run / runs.SETTINGS
        before = file.read_text()
        file.unlink() if damage == "missing" else file.write_text(
            "{" if damage == "{" else before.replace('"hidden": 8', '"hidden": 9')
        )
        assert not file.exists() or file.read_text() != before
        code, out, errors = Command("train", "-o", run, "--resume", "--steps", 21, "--json", before=undrawn).end()
        assert code == 0, errors
        assert "It will be written again from the checkpoint" in errors
        assert json.loads(out.splitlines()[0])["recipe"]["hidden"] == 8
        settings, _ = runs.load(run)
        assert settings.recipe == replace(SMALL, steps=21)

    def test_when_a_run_began_is_known_without_its_settings(self, run: Path) -> None:
        started = runs.read_settings(run).started
        (run / runs.SETTINGS).write_text("{")
        assert runs.began(run) == started
        (run / runs.CHECKPOINT).write_bytes(b"")
        assert runs.began(run) == started
        (run / runs.PREVIOUS).unlink()
        assert runs.began(run) is None

    def test_when_a_run_began_is_known_while_its_first_save_is_half_done(
        self, tmp_path: Path, text: data.Corpus
    ) -> None:
        run, _ = runs.start(tmp_path / "run", Text(text, SMALL))
        started = run.settings.started
        run.close()
        for name in (runs.LOG, runs.WEIGHTS, runs.SETTINGS):
            (run.path / name).rename(disk.staged(run.path / name))
        assert runs.began(run.path) == started
        assert (run.path / runs.SETTINGS).exists()

    def test_the_checkpoint_of_another_run_is_not_taken(self, run: Path, tmp_path: Path, text: data.Corpus) -> None:
        other, training = runs.start(tmp_path / "other", Text(text, replace(SMALL, seed=1)))
        training.run(save=other.save, should_stop=until(training, 3))
        shutil.copy(other.path / runs.CHECKPOINT, run / runs.CHECKPOINT)
        with pytest.warns(DamagedFileWarning, match=r"belongs to another training than settings\.json"):
            assert runs.resume(run)[1].step == 10

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("optimizer.1.exp_avg", torch.zeros(1)),
            ("optimizer.1.exp_avg_sq", torch.zeros(0)),
            ("optimizer.1.exp_avg_sq", None),
            ("optimizer.1.step", torch.ones(3)),
            ("optimizer.1.step", torch.tensor(-1.0)),
            ("optimizer.1.step", None),
            ("optimizer.1.extra", torch.ones(3)),
            ("optimizer.99.step", torch.tensor(1.0)),
            ("optimizer.x.step", torch.tensor(1.0)),
            ("model.rnn.weight_hh_l0", torch.zeros(8, 8, dtype=torch.complex64)),
            ("model.rnn.weight_hh_l0", torch.zeros(8, 8, dtype=torch.float8_e5m2)),
            ("model.rnn.weight_hh_l0", torch.zeros(7, 8)),
            ("best.rnn.weight_hh_l0", None),
            ("best.rnn.weight_hh_l0", torch.zeros(8, 7)),
            ("best.rnn.weight_hh_l0", torch.zeros(8, 8).double()),
            ("best.extra", torch.zeros(8)),
            ("extra", torch.zeros(8)),
            ("extra.part", torch.zeros(8)),
            ("rng", torch.zeros(3)),
            ("rng", None),
            ("h", torch.zeros(1, 3, 8).double()),
            ("h", torch.zeros(1, 3, 9)),
            ("step", "x"),
            ("step", 20.5),
            ("step", -5),
            ("step", True),
            ("step", 10**30),
            ("items", None),
            ("seconds", -1.0),
            ("seconds", "x"),
            ("best_loss", "x"),
            ("best_loss", None),
            ("best_step", 10**6),
            ("evaluations_since_best", 0.5),
            ("evaluated_at", -2),
            ("log_bytes", 0.5),
            ("log_bytes", 1e300),
        ],
        ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else repr(value),
    )
    def test_a_checkpoint_that_was_made_up_is_refused_though_its_checksum_is_right(
        self, run: Path, name: str, value: Any
    ) -> None:
        """Where no error was raised, torch's fused Adam wrote beside the arrays."""
        resumed, training = runs.resume(run)
        training.run(watch=resumed.watch, save=resumed.save)
        assert training.best_step == 40
        tensors, facts = formats.read_safetensors(run / runs.CHECKPOINT)
        if name in tensors or isinstance(value, torch.Tensor):
            tensors = {key: tensor for key, tensor in {**tensors, name: value}.items() if tensor is not None}
        else:
            (facts if name == "log_bytes" else facts["training"])[name] = value
        (run / runs.CHECKPOINT).write_bytes(formats.as_safetensors(tensors, facts))
        with pytest.warns(DamagedFileWarning, match="Going on from the one before it, .* step 20"):
            runs.resume(run)
        (run / runs.PREVIOUS).unlink()
        with pytest.raises(InputError, match=rf"{runs.CHECKPOINT} must be a file as bptt train wrote it"):
            runs.resume(run)

    @pytest.mark.parametrize("recipe", [{"optimizer": "sgd"}, {"held_out": 0.0}])
    def test_what_another_recipe_leaves_out_is_not_missed(self, tmp_path: Path, text: data.Corpus, recipe: Any) -> None:
        run, training = runs.start(tmp_path / "run", Text(text, replace(SMALL, **recipe)))
        training.run(save=run.save, should_stop=until(training, 20))
        run.close()
        assert runs.resume(run.path)[1].step == 20

    def test_the_weights_of_another_run_are_not_taken(self, run: Path, tmp_path: Path, text: data.Corpus) -> None:
        """With the same recipe and symbols, but other data, or begun at another time."""
        turned = data.Corpus(text.content[::-1], text.source)
        at_another_time = runs.start(tmp_path / "later", Text(text, SMALL), started="2026-01-01T00:00:00Z")
        of_other_data = runs.start(tmp_path / "turned", Text(turned, SMALL), started=runs.read_settings(run).started)
        for other, _ in (at_another_time, of_other_data):
            shutil.copy(other.path / runs.WEIGHTS, run / runs.WEIGHTS)
            with pytest.raises(InputError, match=r"belongs to another training than settings\.json"):
                runs.load(run)

    @pytest.mark.parametrize("name", [runs.SETTINGS, runs.WEIGHTS, runs.CHECKPOINT])
    @pytest.mark.parametrize("half", [0xD800, 0xDCFF])
    def test_half_a_surrogate_pair_is_damage_though_the_checksum_is_right(
        self, run: Path, name: str, half: int
    ) -> None:
        (run / runs.PREVIOUS).unlink()
        if name == runs.SETTINGS:
            facts = json.loads((run / name).read_text())
            del facts["sha256"]
            facts["about"]["vocabulary"]["symbols"] = chr(half) + facts["about"]["vocabulary"]["symbols"][1:]
            (run / name).write_text(json.dumps({**facts, "sha256": formats.digest({}, facts)}))
        else:
            tensors, facts = formats.read_safetensors(run / name)
            if name == runs.CHECKPOINT:
                facts["settings"]["about"][chr(half)] = 1
            else:
                facts["\ud800"] = 1
            (run / name).write_bytes(formats.as_safetensors(tensors, facts))
        with pytest.raises(InputError, match=rf"{name} must be a file as bptt.*surrogates not allowed"):
            runs.resume(run) if name == runs.CHECKPOINT else runs.load(run)

    def test_what_follows_half_a_surrogate_pair_in_the_log_is_left_out(self, run: Path) -> None:
        (run / runs.LOG).write_text('{"event": "one"}\n{"event": "\\ud800"}\n{"event": "three"}\n')
        assert runs.read_log(run) == [{"event": "one"}]

    def test_weights_that_were_made_up_are_refused_though_their_checksum_is_right(self, run: Path) -> None:
        tensors, facts = formats.read_safetensors(run / runs.WEIGHTS)
        for made_up in (tensors["rnn.weight_hh_l0"].to(torch.complex64), tensors["rnn.weight_hh_l0"].half()):
            (run / runs.WEIGHTS).write_bytes(formats.as_safetensors({**tensors, "rnn.weight_hh_l0": made_up}, facts))
            with pytest.raises(InputError, match=r"weight_hh_l0 must be torch\.float32"):
                runs.load(run)

    @pytest.mark.parametrize("removed", ["everything", "the checkpoint"])
    def test_files_removed_from_the_directory_are_written_again(
        self, run: Path, undisturbed: bytes, removed: str
    ) -> None:
        resumed, training = runs.resume(run)
        for file in [run / runs.CHECKPOINT] if removed == "the checkpoint" else [run / name for name in contents(run)]:
            file.unlink()
        training.run(watch=resumed.watch, save=resumed.save, should_stop=until(training, 30))
        resumed.close()
        resumed, training = runs.resume(run)
        assert training.step == 30
        training.run(watch=resumed.watch, save=resumed.save)
        assert weights_in(run) == undisturbed

    @pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
    def test_a_log_that_is_no_file_is_refused_and_not_written_through(
        self, run: Path, tmp_path: Path, kind: str
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine" * 10_000)
        log = run / runs.LOG
        before = log.read_bytes()

        def change() -> None:
            log.unlink()
            {"link": lambda: log.symlink_to(victim), "pipe": lambda: os.mkfifo(log), "directory": log.mkdir}[kind]()

        resumed, training = runs.resume(run)
        change()
        with pytest.raises(InputError, match=r"log\.jsonl cannot be written: "):
            training.run(watch=resumed.watch, save=resumed.save, should_stop=until(training, 25))
        with pytest.raises(InputError, match=r"log\.jsonl cannot be written: "):
            resumed.save(training)
        resumed.close()
        with pytest.raises(InputError, match=r"log\.jsonl cannot be written: "):
            runs.resume(run)
        assert victim.read_text() == "mine" * 10_000
        log.rmdir() if kind == "directory" else log.unlink()
        log.write_bytes(before)
        assert runs.resume(run)[1].step == 20

    def test_half_a_curve_never_takes_its_place(self, run: Path) -> None:
        runs.add(run, {runs.CURVE: b"whole"})
        disk.staged(run / runs.CURVE).write_bytes(b"half")
        runs.load(run)
        runs.resume(run)[0].close()
        assert (run / runs.CURVE).read_bytes() == b"whole"
        assert not disk.staged(run / runs.CURVE).exists()

    @pytest.mark.parametrize("name", [runs.CHECKPOINT, runs.WEIGHTS])
    def test_a_file_that_may_not_be_read_is_neither_missing_nor_passed_over(
        self, run: Path, tmp_path: Path, name: str
    ) -> None:
        for directory in [tmp_path, *tmp_path.parents][:-2]:
            directory.chmod(0o755)
        if os.getuid() == 0:
            os.chown(run, 65534, 65534)
            for file in run.iterdir():
                os.chown(file, 65534, 65534)
        (run / name).chmod(0)

        def use() -> None:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            with pytest.raises(InputError, match=rf"{name} must be readable: Permission denied"):
                runs.resume(run) if name == runs.CHECKPOINT else runs.load(run)

        before = contents(run) if os.getuid() == 0 else None
        assert in_a_child(use) == 0
        assert before in (None, contents(run))

    @pytest.mark.parametrize(
        "content",
        [b"\xff\n", b"123\n", b"[" * 100_000 + b"\n", b'{"event": "steps"}\n', b'{"event": "steps", "step": "x"}\n'],
        ids=["not UTF-8", "a number", "deep", "fields missing", "text"],
    )
    def test_a_log_that_cannot_be_drawn_ends_no_training(self, run: Path, content: bytes) -> None:
        resumed, training = runs.resume(run)
        (run / runs.LOG).write_bytes(content)
        training.run(watch=resumed.watch, save=resumed.save)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedFileWarning)
            resumed.draw()
        resumed.close()
        assert runs.resume(run)[1].step == 40

    def test_a_log_that_is_missing_is_a_warning_instead_of_a_curve(self, run: Path) -> None:
        resumed, _ = runs.resume(run)
        (run / runs.LOG).unlink()
        with pytest.warns(DamagedFileWarning, match=r"could not be drawn\. .*log\.jsonl must be readable: No such"):
            resumed.draw()

    @pytest.mark.parametrize("name", [runs.SETTINGS, runs.WEIGHTS])
    def test_nobody_waits_at_a_pipe(self, run: Path, name: str) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(InputError, match=rf"{name} must be readable: it is no file"):
            runs.load(run)

    def test_settings_of_infinite_size_are_refused(self, run: Path) -> None:
        file = run / runs.SETTINGS
        file.write_text(re.sub(r'"size": \d+', '"size": 1e999', file.read_text()))
        with pytest.raises(InputError, match="size must be a whole number"):
            runs.load(run)

    def test_a_name_that_is_too_long_holds_no_run(self, run: Path) -> None:
        for use in (runs.load, runs.resume):
            with pytest.raises(InputError, match="must be readable: File name too long"):
                use("x" * 300)

    def test_a_directory_where_an_outcome_was_stays(self, run: Path, text: data.Corpus) -> None:
        (run / "inspect.html").mkdir()
        with pytest.raises(InputError, match=r"has not written .*run/inspect\.html, or"):
            runs.start(run, Text(text, SMALL), overwrite=True)
        assert (run / "inspect.html").is_dir()

    def test_a_link_put_in_the_way_is_not_followed(self, run: Path, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (run / f".{runs.WEIGHTS}.new").symlink_to(victim)
        resumed, training = runs.resume(run)
        (run / f".{runs.SETTINGS}.new").symlink_to(victim)
        training.run(save=resumed.save, should_stop=until(training, 22))
        assert victim.read_text() == "mine"
        runs.load(run)


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
        for _ in TestCrash().crashes(lambda: runs.add(run, {"forecast.csv": b"new", "forecast.png": b"new"})):
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


def test_a_clock_set_back_changes_nothing(
    tmp_path: Path, text: data.Corpus, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, training = runs.start(tmp_path / "run", Text(text, replace(SMALL, time_limit=1e6)))
    training.run(watch=run.watch, save=run.save, should_stop=until(training, 10))
    seconds = training.seconds
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "gmtime", lambda *_, real=time.gmtime: real(0))
    del run
    run, training = runs.resume(tmp_path / "run")
    training.run(watch=run.watch, save=run.save)
    assert training.seconds > seconds
    assert "1970-01-01T00:00:00Z" in [line.get("time") for line in runs.read_log(tmp_path / "run")]
    first, second = (disk_weights(path) for path in (tmp_path / "run", tmp_path / "undisturbed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def disk_weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(runs.load(path)[1].state_dict())


class TestStopping:
    def test_an_evaluation_is_given_up_and_made_anew(
        self, tmp_path: Path, text: data.Corpus, undisturbed: bytes
    ) -> None:
        class Long(Text):
            def evaluate(self, model: Any) -> float | None:
                nonlocal evaluations
                evaluations += 1
                torch.rand(3)
                return super().evaluate(model)

        evaluations = 0
        run, training = runs.start(tmp_path / "run", Long(text, SMALL))
        per_epoch = len(training.task)
        events = []
        asked = iter([False] * (per_epoch + 1) + [True])
        stop = training.run(watch=events.append, save=run.save, should_stop=lambda: next(asked))
        assert (stop.reason, stop.step, evaluations) == ("interrupted", per_epoch, 1)
        assert not [event for event in events if isinstance(event, Evaluation)]
        assert training.model.training
        del run
        run, training = runs.resume(tmp_path / "run")
        training.run(watch=run.watch, save=run.save)
        assert [line["event"] for line in runs.read_log(run.path)][:3] == ["start", "resume", "evaluation"]
        assert weights_in(run.path) == undisturbed

    def test_sigterm_is_heard_in_a_long_step(self, tmp_path: Path) -> None:
        """One that would take minutes, full BPTT through five million characters."""
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("the cat sat on the mat. " * 200_000)
        path = tmp_path / "run"
        command = Command(
            "train", corpus, "-o", path, "--hidden", 256, "--layers", 4, "--streams", 1, "--bptt", "full",
            "--held-out", 0, "--json",
        )  # fmt: skip
        assert json.loads(command.out.readline())["event"] == "settings"
        command.signal(signal.SIGTERM)
        code, out, errors = command.end()
        assert (code, errors) == (0, "")
        stop = json.loads(out.splitlines()[-1])
        assert (stop["event"], stop["step"]) == ("stop", 0)
        assert (path / runs.CHECKPOINT).exists()

    def test_sigterm_is_heard_in_a_long_evaluation(self, tmp_path: Path) -> None:
        """One that would take minutes, of a text of which almost all is held out."""
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("the cat sat on the mat. " * 200_000)
        path = tmp_path / "run"
        command = Command(
            "train", corpus, "-o", path, "--hidden", 256, "--layers", 4, "--streams", 1, "--bptt", 4,
            "--held-out", 0.99999, "--json",
        )  # fmt: skip
        assert [json.loads(command.out.readline())["event"] for _ in range(2)] == ["settings", "steps"]
        command.signal(signal.SIGTERM)
        code, out, errors = command.end()
        assert (code, errors) == (0, "")
        assert json.loads(out.splitlines()[-1])["reason"] == "interrupted"
        assert (path / runs.CHECKPOINT).exists()
