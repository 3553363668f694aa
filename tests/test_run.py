"""A run is read for what it holds: damaged, made up, incomplete or foreign files are found."""

import json
import os
import random
import re
import shutil
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import weights_in
from survival import SMALL, Command, contents, finish, in_a_child, undrawn, until

from bptt import runs
from bptt.errors import DamagedFileWarning, InputError
from bptt.files import disk
from bptt.runs import formats
from bptt.tasks import Text, data

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and limits are those of POSIX"),
]


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
