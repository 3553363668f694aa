"""The training loop, judged by a plain PyTorch loop, and run directories, judged by what survives in them."""

import errno
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bptt import data, runs, train
from bptt.data import Text
from bptt.errors import InputError
from bptt.nn import Elman
from bptt.train import Evaluation, Event, Recipe, Steps, Training

SMALL = Recipe(hidden=12, bptt=7, streams=3, epochs=3, lr=0.01, held_out=0.1)
TEXT = Text("".join(f"{n * n % 97} is the square of {n}.\n" for n in range(30)), "squares")
TOKENS = data.Vocabulary.of(TEXT.characters).encode(TEXT.characters)
SYMBOLS = int(TOKENS.max()) + 1


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These networks are too small to share out, and threads that wait for each other crawl on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def training(recipe: Recipe = SMALL, *, layers: int = 1, dropout: float = 0.0) -> Training:
    torch.manual_seed(1)
    model = Elman(SYMBOLS, recipe.hidden, SYMBOLS, num_layers=layers, dropout=dropout)
    return Training(model, *data.split(TOKENS, recipe.held_out), replace(recipe, layers=layers))


def weights(training: Training) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in training.model.state_dict().items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def stop_after(training: Training, steps: int):
    return lambda: training.step >= steps


def without_time(log: list[dict]) -> list[dict]:
    clocks = ("seconds", "tokens_per_second", "seconds_left", "time")
    return [{key: value for key, value in line.items() if key not in clocks} for line in log]


class TestLoop:
    @pytest.mark.parametrize(("optimizer", "clip"), [("adam", 0.7), ("sgd", 0.4)])
    def test_does_what_a_plain_pytorch_loop_does(self, optimizer: str, clip: float) -> None:
        recipe = replace(SMALL, optimizer=optimizer, clip=clip)
        ours = training(recipe)
        rnn, readout = torch.nn.RNN(SYMBOLS, recipe.hidden), torch.nn.Linear(recipe.hidden, SYMBOLS)
        rnn.load_state_dict(ours.model.rnn.state_dict())
        readout.load_state_dict(ours.model.readout.state_dict())
        parameters = [*rnn.parameters(), *readout.parameters()]
        step_rule = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](parameters, lr=recipe.lr)
        text = TOKENS[: len(TOKENS) - len(ours.held_out)].long()
        length = (len(text) - 1) // recipe.streams
        starts = range(0, length, recipe.bptt)
        norms, h = [], None
        for step, (_, start) in enumerate(itertools.product(range(recipe.epochs), starts)):
            h = None if start == 0 else h
            window = [text[b * length + start :][: min(recipe.bptt, length - start) + 1] for b in range(recipe.streams)]
            x, y = torch.stack(window, 1)[:-1], torch.stack(window, 1)[1:]
            states, h = rnn(torch.nn.functional.one_hot(x, SYMBOLS).float(), h)
            h = h.detach()
            step_rule.param_groups[0]["lr"] = recipe.lr * (1 - step / (recipe.epochs * len(starts)))
            step_rule.zero_grad()
            torch.nn.functional.cross_entropy(readout(states).flatten(0, 1), y.flatten()).backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, clip)))
            step_rule.step()
        events: list[Event] = []
        stop = ours.run(watch=events.append)
        assert stop.step == len(norms) == ours.total_steps
        # float32 after about 80 updates; Adam's quotient magnifies rounding where gradients are near zero
        for name, weight in {**rnn.state_dict(prefix="rnn."), **readout.state_dict(prefix="readout.")}.items():
            torch.testing.assert_close(ours.model.state_dict()[name], weight, rtol=1e-3, atol=2e-4)
        steps = [event for event in events if isinstance(event, Steps)]
        clipped = sum(round(event.clipped * event.steps) for event in steps)
        assert 0 < clipped < len(norms)
        assert clipped == sum(norm > clip for norm in norms)
        assert max(event.grad_norm_max for event in steps) == pytest.approx(max(norms), rel=1e-3)
        assert stop.tokens == recipe.epochs * length * recipe.streams

    def test_learns_and_reports_what_it_learned(self) -> None:
        ours = training(replace(SMALL, epochs=40, hidden=32))
        events: list[Event] = []
        stop = ours.run(watch=events.append)
        evaluations = [event for event in events if isinstance(event, Evaluation)]
        assert len(evaluations) == 40
        assert stop.bits == min(event.bits for event in evaluations) < 2 < evaluations[0].bits
        ours.model.load_state_dict(ours.best_weights)
        assert train.bits_per_token(ours.model, ours.held_out) == stop.bits
        assert events[-1] is stop
        assert all(json.loads(json.dumps(train.as_json(event)))["event"] == event.event for event in events)

    def test_clip_none_never_clips_and_a_tiny_clip_always(self) -> None:
        for clip, share in [(None, 0.0), (1e-9, 1.0)]:
            events: list[Event] = []
            training(replace(SMALL, clip=clip, epochs=1)).run(watch=events.append)
            assert {event.clipped for event in events if isinstance(event, Steps)} == {share}

    def test_bits_are_those_of_each_character_after_its_stream(self) -> None:
        model = Elman(SYMBOLS, 8, SYMBOLS, dtype=torch.float64)
        model.requires_grad_(False)
        tokens = TOKENS[:100].long()  # 32 streams of 3 targets, then 3 more after the last
        total, h = 0.0, None
        for at in range(99):
            if at % 3 == 0 and at < 96:
                h = None
            o, h = model(tokens[at].view(1, 1), h)
            total -= math.log2(float(o.softmax(-1)[0, 0, tokens[at + 1]]))
        assert train.bits_per_token(model, tokens) == pytest.approx(total / 99, rel=1e-12)
        long = TOKENS.repeat(20)
        one, other = (train.bits_per_token(model, long) for _ in range(2))
        assert one == other

    def test_stops_when_the_held_out_text_stops_improving(self) -> None:
        recipe = replace(SMALL, epochs=100, patience=3, lr=0.05)
        text = torch.tensor([0, 1] * 300 + [2, 0, 0, 2, 1, 1] * 10)
        ours = Training(Elman(3, recipe.hidden, 3), *data.split(text, recipe.held_out), recipe)
        stop = ours.run()
        assert stop.reason == "no improvement"
        assert stop.epoch == stop.best_step / len(ours.windows) + 3 < 100
        assert ours.run().step == stop.step

    def test_time_limit_ends_it_and_the_learning_rate_with_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = itertools.count()
        monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * 0.01)
        ours = training(replace(SMALL, epochs=1000, time_limit=2.0))
        events: list[Event] = []
        stop = ours.run(watch=events.append)
        assert stop.reason == "time limit"
        assert 0 < stop.step < ours.total_steps
        rates = [event.lr for event in events if isinstance(event, Steps)]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.05 * SMALL.lr
        assert stop.bits is not None

    def test_far_time_limit_changes_nothing(self) -> None:
        one, other = training(), training(replace(SMALL, time_limit=1e6))
        one.run()
        other.run()
        assert_same_bits(weights(one), weights(other))

    def test_is_silent_and_leaves_the_callers_random_numbers_alone(self, capfd: pytest.CaptureFixture[str]) -> None:
        ours = training(layers=2, dropout=0.5)
        before = torch.get_rng_state()
        ours.run()
        assert torch.equal(torch.get_rng_state(), before)
        assert capfd.readouterr() == ("", "")

    def test_without_held_out_text_the_last_weights_are_the_best(self) -> None:
        ours = training(replace(SMALL, held_out=0.0))
        stop = ours.run()
        assert stop.bits is None
        assert_same_bits(weights(ours), dict(ours.best_weights))


class TestNotFinite:
    def test_nan_in_a_gradient_stops_before_it_reaches_the_weights(self, tmp_path: Path) -> None:
        undisturbed = training()
        undisturbed.run(should_stop=stop_after(undisturbed, 11))
        ours = training()
        ours.model.readout.bias.register_hook(lambda gradient: gradient * (math.nan if ours.step == 11 else 1))
        saved = []
        stop = ours.run(save=lambda training: saved.append(training.step))
        assert (stop.reason, stop.step, saved) == ("not finite", 11, [11])
        assert_same_bits(weights(ours), weights(undisturbed))

    def test_weights_that_are_lost_already_are_not_saved_over_the_last_good_ones(self, tmp_path: Path) -> None:
        run, ours = runs.start(tmp_path, TEXT, SMALL)
        at_the_start = weights(ours)

        def poison(gradient: Tensor) -> None:
            if ours.step == 3:
                ours.model.readout.weight.data[0, 0] = math.nan

        ours.model.readout.bias.register_hook(poison)
        stop = ours.run(save=run.save)
        assert (stop.reason, stop.step) == ("not finite", 4)
        _, model = runs.load(tmp_path)
        assert_same_bits(dict(model.state_dict()), at_the_start)

    def test_a_loss_that_is_infinite_in_the_held_out_text_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "bits_per_token", lambda model, tokens: math.inf)
        assert training().run().reason == "not finite"


class TestSameBits:
    def test_same_seed_same_bits_over_50_steps_of_the_demo(self) -> None:
        text = data.english()
        outcomes = []
        for seed in (0, 0, 1):
            vocabulary = data.Vocabulary.of(text.characters)
            recipe = Recipe(seed=seed, steps=50)
            torch.manual_seed(seed)
            model = Elman(len(vocabulary), recipe.hidden, len(vocabulary))
            ours = Training(model, *data.split(vocabulary.encode(text.characters), recipe.held_out), recipe)
            ours.run()
            outcomes.append(weights(ours))
        assert_same_bits(*outcomes[:2])
        assert not torch.equal(outcomes[0]["rnn.weight_hh_l0"], outcomes[2]["rnn.weight_hh_l0"])

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_interrupted_and_restored_is_uninterrupted(self, optimizer: str, dropout: float) -> None:
        recipe = replace(SMALL, optimizer=optimizer)
        whole = training(recipe, layers=2, dropout=dropout)
        stop = whole.run()
        parts = training(recipe, layers=2, dropout=dropout)
        per_epoch = len(parts.windows)
        for at in (0, 1, 5, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch + 3):
            assert parts.run(should_stop=stop_after(parts, at)).reason == "interrupted"
            tensors = {name: tensor.clone() for name, tensor in parts.tensors().items()}
            facts = json.loads(json.dumps(parts.facts()))
            parts = training(recipe, layers=2, dropout=dropout)
            parts.restore(tensors, facts)
            assert parts.step == at
        resumed = parts.run()
        assert_same_bits(whole.tensors(), parts.tensors())
        assert replace(resumed, seconds=stop.seconds) == stop

    def test_resumed_from_disk_is_uninterrupted_and_so_is_its_log(self, tmp_path: Path) -> None:
        run, ours = runs.start(tmp_path / "whole", TEXT, SMALL)
        ours.run(watch=lambda event: run.log(train.as_json(event)), save=run.save)
        other, parts = runs.start(tmp_path / "parts", TEXT, SMALL)
        parts.run(
            watch=lambda event: other.log(train.as_json(event)), save=other.save, should_stop=stop_after(parts, 20)
        )
        for line in ({"event": "steps", "step": 30}, {"event": "evaluation"}):
            other.log(line)  # what a run killed between two saves leaves behind
        other, parts = runs.resume(tmp_path / "parts", TEXT)
        assert parts.step == 20
        parts.run(watch=lambda event: other.log(train.as_json(event)), save=other.save)
        assert_same_bits(load_file(tmp_path / "whole" / runs.WEIGHTS), load_file(tmp_path / "parts" / runs.WEIGHTS))
        assert (tmp_path / "whole" / runs.WEIGHTS).read_bytes() == (tmp_path / "parts" / runs.WEIGHTS).read_bytes()
        log = without_time(runs.read_log(tmp_path / "parts"))
        breaks = ("start", "stop", "resume")
        assert [line["event"] for line in log if line["event"] in breaks] == ["start", "resume", "stop"]
        assert log[-1] == without_time(runs.read_log(tmp_path / "whole"))[-1]
        assert sum(line.get("steps", 0) for line in log) == parts.total_steps

    def test_longer_on_resume(self, tmp_path: Path) -> None:
        run, ours = runs.start(tmp_path, TEXT, SMALL)
        ours.run(save=run.save)
        _, again = runs.resume(tmp_path, TEXT)
        assert again.finished == "finished"
        run, longer = runs.resume(tmp_path, TEXT, changes={"epochs": 5})
        stop = longer.run(save=run.save)
        assert (stop.reason, stop.epoch) == ("finished", 5.0)
        assert runs.read_settings(tmp_path).recipe.epochs == 5


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run, ours = runs.start(tmp_path / "run", TEXT, replace(SMALL, epochs=1), command="bptt train")
    ours.run(watch=lambda event: run.log(train.as_json(event)), save=run.save)
    run.draw()
    return run.path


class TestRunDirectory:
    def test_holds_what_it_says(self, finished: Path) -> None:
        assert sorted(file.name for file in finished.iterdir()) == sorted(
            [runs.SETTINGS, runs.WEIGHTS, runs.LOG, runs.CHECKPOINT, runs.CURVE]
        )
        settings = json.loads((finished / runs.SETTINGS).read_text())
        assert settings["schema"] == 1
        assert settings["data"] == {"source": "squares", "characters": len(TEXT.characters), "sha256": TEXT.sha256}
        assert settings["vocabulary"]["symbols"] == "".join(sorted(set(TEXT.characters)))
        assert set(settings["versions"]) == {"bptt", "python", "torch"}
        assert settings["command"] == "bptt train"
        model = Elman(**settings["model"])
        model.load_state_dict(load_file(finished / runs.WEIGHTS))
        log = [json.loads(line) for line in (finished / runs.LOG).read_text().splitlines()]
        assert {line["event"] for line in log} == {"start", "steps", "evaluation", "stop"}
        assert (finished / runs.CURVE).read_bytes().startswith(b"\x89PNG")
        assert runs.load(finished)[0].recipe == replace(SMALL, epochs=1)

    def test_is_not_taken_by_another_run_unless_told(self, finished: Path) -> None:
        before = {file.name: file.read_bytes() for file in finished.iterdir()}
        with pytest.raises(InputError, match=r"holds one\. Go on with it: --resume"):
            runs.start(finished, TEXT, SMALL)
        run, ours = runs.start(finished, TEXT, replace(SMALL, hidden=5), overwrite=True)
        run.log({"event": "first"})
        ours.run(save=run.save, should_stop=lambda: True)
        assert {file.name: file.read_bytes() for file in finished.iterdir()} == before
        ours.run(save=run.save, should_stop=stop_after(ours, 1))
        assert runs.load(finished)[0].recipe.hidden == 5
        assert [line["event"] for line in runs.read_log(finished)] == ["start", "first"]
        assert not (finished / runs.CURVE).exists()

    @pytest.mark.parametrize("at", ["write", "sync"])
    def test_full_disk_leaves_the_last_files_as_they_were(
        self, finished: Path, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, ours = runs.resume(finished, TEXT, changes={"epochs": 2})
        before = {file.name: file.read_bytes() for file in finished.iterdir()}
        calls = itertools.count()

        def fail(*args: object) -> None:
            if next(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if at == "sync":
            monkeypatch.setattr(os, "fsync", fail)
        else:
            monkeypatch.setattr(runs, "as_safetensors", lambda *args: b"0" * 8)
            monkeypatch.setattr(Path, "replace", lambda *args: fail() or fail() or fail())
        with pytest.raises(InputError, match=r"cannot be written: No space left on device\. Make room"):
            ours.run(save=run.save)
        assert {file.name: file.read_bytes() for file in finished.iterdir()} == before

    def test_nothing_is_made_for_a_text_that_is_too_short(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="must hold one window"):
            runs.start(tmp_path / "new", Text("too short", "x"), replace(SMALL, held_out=0.0))
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("name", [runs.WEIGHTS, runs.CHECKPOINT])
    @pytest.mark.parametrize(
        "damage", ["truncated", "empty", "foreign", "other run", "missing", "not a model", "a directory"]
    )
    def test_damaged_tensors_are_named(self, finished: Path, name: str, damage: str) -> None:
        file = finished / name
        content = file.read_bytes()
        if damage == "truncated":
            file.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            file.write_bytes(b"")
        elif damage == "foreign":
            save_file({"w": torch.zeros(3)}, file)
        elif damage == "other run":
            run, ours = runs.start(finished.parent / "other", TEXT, replace(SMALL, hidden=5))
            ours.run(save=run.save, should_stop=stop_after(ours, 1))
            file.write_bytes((run.path / name).read_bytes())
        elif damage == "missing":
            file.unlink()
        elif damage == "a directory":
            file.unlink()
            file.mkdir()
        else:
            facts = {"schema": 1, "fingerprint": runs.read_settings(finished).fingerprint}
            save_file({"w": torch.zeros(3)}, file, {"bptt": json.dumps(facts)})
        expected = {"missing": "does not exist", "a directory": "must be readable"}.get(
            damage, "as bptt train wrote it"
        )
        with pytest.raises(InputError, match=expected) as caught:
            runs.load(finished) if name == runs.WEIGHTS else runs.resume(finished, TEXT)
        assert str(file) in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ((), "{", "must be a file as bptt train wrote it"),
            ((), "[]", "must be a file as bptt train wrote it"),
            (("schema",), 99, "schema must be 1"),
            (("vocabulary",), {"unit": "character", "symbols": "aa"}, "vocabulary must hold"),
            (("vocabulary",), {"unit": "character", "symbols": "ab"}, "model must be the one"),
            (("recipe", "hidden"), -4, "hidden must be a whole number"),
            (("recipe", "unheard_of"), 1, "unheard_of"),
            (("data",), None, "must be a file as bptt train wrote it"),
            (("data",), {}, "'source' is missing"),
        ],
    )
    def test_damaged_settings_are_named(
        self, finished: Path, key: tuple[str, ...], value: object, message: str
    ) -> None:
        file = finished / runs.SETTINGS
        settings = json.loads(file.read_text())
        if key:
            inside = settings
            for name in key[:-1]:
                inside = inside[name]
            inside[key[-1]] = value
            file.write_text(json.dumps(settings))
        else:
            file.write_text(str(value))
        with pytest.raises(InputError, match=message) as caught:
            runs.load(finished)
        assert str(file) in str(caught.value)

    def test_resume_needs_the_text_it_began_with(self, finished: Path) -> None:
        with pytest.raises(InputError, match=r"same alphabet; .* has others: '!', '\\xe9'"):
            runs.resume(finished, Text(TEXT.characters + "é!", "other.txt"))
        with pytest.raises(InputError, match=r"sha256 .*; got .* characters from other.txt"):
            runs.resume(finished, Text(TEXT.characters[:-1], "other.txt"))
        with pytest.raises(InputError, match="keeps its hidden, 12; got 13"):
            runs.resume(finished, TEXT, changes={"hidden": 13})
        with pytest.raises(
            InputError, match=r"squares cannot be read any more\. Say where it is now: bptt train FILE -o"
        ):
            runs.resume(finished)
        with pytest.raises(InputError, match=r"holds no settings\.json. Train one first"):
            runs.resume(finished.parent)

    @pytest.mark.parametrize("below", ["", "run"])
    def test_output_that_is_a_file(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is a file or lies below one"):
            runs.start(tmp_path / "file" / below, TEXT, SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("hidden", "layers", "bptt", "streams"), (0, -1, 1.5, True, "2")),
        *itertools.product(("epochs", "steps", "patience"), (0, -1, 1.5, True, "2")),
        *itertools.product(("lr", "clip", "time_limit"), (0, -1.0, math.nan, math.inf, "1")),
        *itertools.product(("held_out",), (-0.1, 1, math.nan, None)),
        *itertools.product(("seed",), (-1, 2**63, 1.5)),
        ("nonlinearity", "softmax"),
        ("optimizer", "rmsprop"),
    ],
)  # fmt: skip
def test_recipe_refuses_values_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"{name} must be .*; got {value!r}\."):
        replace(SMALL, **{name: value})
