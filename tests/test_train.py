"""The training loop, judged by a plain PyTorch loop, and run directories, judged by what survives in them."""

import errno
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import weights_in
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from bptt import runs, train
from bptt.errors import InputError
from bptt.files import owned
from bptt.nn import RNN, Elman, Network
from bptt.nn.network import layers_of
from bptt.runs import formats
from bptt.tasks import Text, data
from bptt.tasks import text as text_task
from bptt.tasks.data import Vocabulary
from bptt.tasks.text import Recipe, nats_per_token
from bptt.train import Evaluation, Event, Steps, Training, loop, truncated

pytestmark = pytest.mark.usefixtures("one_thread")

BPTT = 7
SMALL = Recipe(hidden=12, bptt=BPTT, streams=3, epochs=3, lr=0.01, held_out=0.1)
TEXT = data.Corpus("".join(f"{n * n % 97} is the square of {n}.\n" for n in range(30)).encode(), "squares")
TOKENS = Vocabulary.of(TEXT).encode(TEXT)
SYMBOLS = int(TOKENS.max()) + 1
_, HELD_OUT = data.split(TOKENS, SMALL.held_out)


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has that an operation makes, views of parameters and the like included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(each.numel() for each in tree_leaves(made) if isinstance(each, Tensor))])
        return made


def file_beside(run: Path, content: bytes = TEXT.content) -> Path:
    """The text as a file, where `runs.resume` can read it again."""
    file = run.parent / "squares.txt"
    file.write_bytes(content)
    return file


def training(recipe: Recipe = SMALL, *, layers: int = 1, dropout: float = 0.0) -> Training:
    torch.manual_seed(1)
    model = Elman(SYMBOLS, recipe.hidden, SYMBOLS, num_layers=layers, dropout=dropout)
    return Training(model, Text(TEXT, replace(recipe, layers=layers)))


def weights(training: Training) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in training.model.state_dict().items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def stop_after(training: Training, steps: int):
    return lambda: training.step >= steps


def without_time(log: list[dict]) -> list[dict]:
    clocks = ("seconds", "items_per_second", "seconds_left", "time")
    return [{key: value for key, value in line.items() if key not in clocks} for line in log]


class TestLoop:
    @pytest.mark.parametrize(
        ("optimizer", "clip", "clip_value"),
        [("adam", 0.7, None), ("sgd", 0.4, None), ("sgd", None, 0.2), ("sgd", 0.3, 0.01)],
    )
    def test_does_what_a_plain_pytorch_loop_does(
        self, optimizer: str, clip: float | None, clip_value: float | None
    ) -> None:
        recipe = replace(SMALL, optimizer=optimizer, clip=clip, clip_value=clip_value)
        ours = training(recipe)
        rnn, readout = torch.nn.RNN(SYMBOLS, recipe.hidden), torch.nn.Linear(recipe.hidden, SYMBOLS)
        rnn.load_state_dict(ours.model.rnn.state_dict())
        readout.load_state_dict(ours.model.readout.state_dict())
        parameters = [*rnn.parameters(), *readout.parameters()]
        step_rule = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](parameters, lr=recipe.lr)
        text = TOKENS[: len(TOKENS) - len(HELD_OUT)].long()
        length = (len(text) - 1) // recipe.streams
        starts = range(0, length, BPTT)
        norms, are_clipped, h = [], [], None
        for step, (_, start) in enumerate(itertools.product(range(recipe.epochs), starts)):
            h = None if start == 0 else h
            window = [text[b * length + start :][: min(BPTT, length - start) + 1] for b in range(recipe.streams)]
            x, y = torch.stack(window, 1)[:-1], torch.stack(window, 1)[1:]
            states, h = rnn(torch.nn.functional.one_hot(x, SYMBOLS).float(), h)
            h = h.detach()
            step_rule.param_groups[0]["lr"] = recipe.lr * (1 - step / (recipe.epochs * len(starts)))
            step_rule.zero_grad()
            torch.nn.functional.cross_entropy(readout(states).flatten(0, 1), y.flatten()).backward()
            given = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
            norms.append(float(torch.cat([gradient.flatten() for gradient in given]).norm()))
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(parameters, clip_value)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            now = [parameter.grad for parameter in parameters if parameter.grad is not None]
            are_clipped.append(any(not torch.allclose(a, b) for a, b in zip(given, now, strict=True)))
            step_rule.step()
        events: list[Event] = []
        stop = ours.run(watch=events.append)
        assert stop.step == len(norms) == ours.total_steps
        # float32 after about 80 updates; Adam's quotient magnifies rounding where gradients are near zero
        for name, weight in {**rnn.state_dict(prefix="rnn."), **readout.state_dict(prefix="readout.")}.items():
            torch.testing.assert_close(ours.model.state_dict()[name], weight, rtol=1e-3, atol=2e-4)
        steps = [event for event in events if isinstance(event, Steps)]
        clipped = sum(round(event.clipped * event.steps) for event in steps)
        assert 0 < clipped == sum(are_clipped)
        assert (clipped < len(norms)) == (clip_value != 0.01)
        assert max(event.grad_norm_max for event in steps) == pytest.approx(max(norms), rel=1e-3)
        assert stop.items == recipe.epochs * length * recipe.streams

    def test_learns_and_reports_what_it_learned(self) -> None:
        ours = training(replace(SMALL, epochs=40, hidden=32))
        events: list[Event] = []
        stop = ours.run(watch=events.append)
        evaluations = [event for event in events if isinstance(event, Evaluation)]
        assert len(evaluations) == 40
        assert stop.loss == min(event.loss for event in evaluations) < 1.4 < evaluations[0].loss
        ours.model.load_state_dict(ours.best_weights)
        assert nats_per_token(ours.model, HELD_OUT) == stop.loss
        assert events[-1] is stop
        assert all(
            json.loads(json.dumps(train.as_json(event, ours.task.measure)))["event"] == event.event for event in events
        )

    def test_clip_none_never_clips_and_a_tiny_clip_always(self) -> None:
        for clip, share in [(None, 0.0), (1e-9, 1.0)]:
            events: list[Event] = []
            training(replace(SMALL, clip=clip, epochs=1)).run(watch=events.append)
            assert {event.clipped for event in events if isinstance(event, Steps)} == {share}

    @pytest.mark.parametrize("cell", ["elman", "lstm"])
    def test_the_held_out_loss_is_that_of_each_character_after_its_stream(self, cell: str) -> None:
        model = Network(layers_of(cell, SYMBOLS, 8).double(), SYMBOLS)
        model.requires_grad_(False)
        tokens = TOKENS[:100].long()  # 32 streams of 3 targets, then 3 more after the last
        total, h = 0.0, None
        for at in range(99):
            if at % 3 == 0 and at < 96:
                h = None
            o, h = model(tokens[at].view(1, 1), h)
            total -= math.log(float(o.softmax(-1)[0, 0, tokens[at + 1]]))
        assert nats_per_token(model, tokens) == pytest.approx(total / 99, rel=1e-12)
        long = TOKENS.repeat(20)
        one, other = (nats_per_token(model, long) for _ in range(2))
        assert one == other

    def test_where_one_block_serves_the_held_out_loss_is_that_of_whole_windows_to_the_bit(self) -> None:
        model, tokens = Elman(SYMBOLS, 8, SYMBOLS), TOKENS.repeat(20)
        nats, h = 0.0, None
        whole = data.windows(tokens, 32, min(256, (len(tokens) - 1) // 32))
        with torch.no_grad():
            for x, y in whole:
                o, h = model(x, h)
                nats += float(model.loss(o, y)) * y.numel()
            rest = tokens[(len(whole.tokens) - 1) * 32 :].to(torch.int64)[:, None]
            assert len(rest) > 1
            assert h is not None
            o, _ = model(rest[:-1], h[:, -1:].contiguous())
            nats += float(model.loss(o, rest[1:])) * (len(rest) - 1)
        assert nats_per_token(model, tokens) == nats / (len(tokens) - 1)

    @pytest.mark.parametrize("cell", ["elman", "lstm"])
    def test_the_outputs_of_an_evaluation_never_exist_at_once(self, monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
        symbols, limit = 3000, 12_500
        model, tokens = Network(layers_of(cell, symbols, 2), symbols), torch.arange(2000) * 7 % symbols
        for parameter in model.parameters():
            parameter.data.mul_(4)  # so that the states tell
        expected = nats_per_token(model, tokens)
        monkeypatch.setattr(text_task, "EVALUATION_OUTPUTS", limit)
        with Largest() as made:
            found = nats_per_token(model, tokens)
        assert found == pytest.approx(expected, rel=1e-6)
        assert limit / 2 < made.elements <= limit

    def test_stops_when_the_held_out_text_stops_improving(self) -> None:
        recipe = replace(SMALL, epochs=100, patience=3, lr=0.05)
        text = data.Corpus(b"ab" * 300 + b"caacbb" * 10, "letters")
        ours = Training(Elman(3, recipe.hidden, 3), Text(text, recipe))
        stop = ours.run()
        assert stop.reason == "no improvement"
        assert stop.epoch == stop.best_step / len(ours.task) + 3 < 100
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
        assert stop.loss is not None

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
        assert stop.loss is None
        assert_same_bits(weights(ours), dict(ours.best_weights))

    def test_k1_updates_more_often_and_goes_back_as_far(self) -> None:
        recipe = replace(SMALL, k1=3, epochs=1, optimizer="sgd", clip=None, held_out=0.0)
        ours = training(recipe)
        theirs = Elman(SYMBOLS, recipe.hidden, SYMBOLS)
        theirs.load_state_dict(ours.model.state_dict())
        streams = data.windows(TOKENS, recipe.streams, BPTT).tokens.long()
        updates = truncated.updates(theirs, theirs.loss, streams[:-1], streams[1:], k1=3, k2=7)
        count = len(ours.task)
        for step, (L, _) in enumerate(updates):
            theirs.zero_grad()
            L.backward()
            with torch.no_grad():
                for weight in theirs.parameters():
                    assert weight.grad is not None
                    weight -= recipe.lr * (1 - step / count) * weight.grad
        stop = ours.run()
        assert stop.step == count == -(-(len(streams) - 1) // 3)
        assert stop.items == (len(streams) - 1) * recipe.streams
        for name, weight in theirs.state_dict().items():
            torch.testing.assert_close(ours.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)

    def test_full_bptt_reads_every_stream_from_end_to_end(self) -> None:
        recipe = replace(SMALL, bptt="full", epochs=2, optimizer="sgd", clip=None, held_out=0.0, layers=2)
        ours = training(recipe, layers=2)
        theirs = Elman(SYMBOLS, recipe.hidden, SYMBOLS, num_layers=2)
        theirs.load_state_dict(ours.model.state_dict())
        streams = data.windows(TOKENS, recipe.streams, 1).tokens.long()
        for step in range(2):
            theirs.zero_grad()
            theirs.loss(theirs(streams[:-1])[0], streams[1:]).backward()
            with torch.no_grad():
                for weight in theirs.parameters():
                    assert weight.grad is not None
                    weight -= recipe.lr * (1 - step / 2) * weight.grad
        stop = ours.run()
        assert (stop.step, stop.items) == (2, 2 * (len(streams) - 1) * recipe.streams)
        for name, weight in theirs.state_dict().items():
            torch.testing.assert_close(ours.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
        with pytest.raises(InputError, match="k1 must be at most bptt"):
            replace(recipe, k1=3)


class Classifier(torch.nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.rnn, self.readout = RNN(inputs, hidden), torch.nn.Linear(hidden, classes)

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        return self.readout(self.rnn(x)[1][-1])


def sequences(count: int, lengths: range) -> list[tuple[Tensor, Tensor]]:
    """Noise around a level above or below zero, which is the class."""
    draw = torch.Generator().manual_seed(count)
    pairs = []
    for number in range(count):
        length = lengths[number % len(lengths)]
        pairs.append((torch.randn(length, 2, generator=draw) + (number % 2) - 0.5, torch.tensor(number % 2)))
    return pairs


class Again:
    """An iterable that is neither a Dataset nor a DataLoader."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


class TestFit:
    @pytest.mark.parametrize("lengths", [range(8, 9), range(3, 9)])
    def test_learns_from_a_dataset_and_leaves_the_best_weights(self, lengths: range) -> None:
        torch.manual_seed(0)
        model, events = Classifier(2, 8, 2), []
        held_out = sequences(31, lengths)
        stop = train.fit(
            model, sequences(100, lengths), held_out,
            loss=torch.nn.functional.cross_entropy, epochs=12, lr=0.02, batch=7, watch=events.append,
        )  # fmt: skip
        assert stop.reason == "finished"
        assert stop.items == 12 * 100 == events[-1].items
        evaluations = [event.loss for event in events if isinstance(event, Evaluation)]
        assert stop.loss == min(evaluations) < 0.3
        with torch.no_grad():
            losses = [float(torch.nn.functional.cross_entropy(model(x[:, None]), y[None])) for x, y in held_out]
        assert stop.loss == pytest.approx(sum(losses) / 31, rel=1e-5)

    def test_same_seed_same_bits_another_seed_another_order(self) -> None:
        outcomes = []
        for seed in (1, 1, 2):
            torch.manual_seed(0)
            model = Classifier(2, 8, 2)
            train.fit(model, sequences(50, range(4, 6)), loss=torch.nn.functional.cross_entropy, epochs=2, seed=seed)
            outcomes.append(model.state_dict())
        assert_same_bits(outcomes[0], outcomes[1])
        assert not torch.equal(outcomes[0]["readout.weight"], outcomes[2]["readout.weight"])

    def test_targets_at_every_step_and_the_models_own_loss(self) -> None:
        x = torch.arange(24).view(8, 3) % 4
        torch.manual_seed(0)
        model = Elman(4, 16, 4)
        stop = train.fit(
            model, [(row[:-1], row[1:]) for row in x], [(row[:-1], row[1:]) for row in x], epochs=60, batch=4, lr=0.03
        )
        assert stop.loss is not None
        assert stop.loss < 0.05

    def test_batches_are_as_the_layers_of_the_model_say(self) -> None:
        class Tagger(torch.nn.Module):
            def __init__(self, batch_first: bool) -> None:
                super().__init__()
                self.rnn, self.readout = torch.nn.RNN(2, 8, batch_first=batch_first), torch.nn.Linear(8, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.readout(self.rnn(x)[0])

        xs = torch.randn(40, 12, 2)
        data, losses = [(x, x.cumsum(0)[:, :1]) for x in xs], []
        for batch_first in (False, True):
            torch.manual_seed(0)
            stop = train.fit(Tagger(batch_first), data, data, loss=torch.nn.functional.mse_loss, epochs=5, batch=8)
            losses.append(stop.loss)
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)

    def test_several_targets_for_a_sequence_count_by_their_rows(self) -> None:
        class Two(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.said = torch.nn.Parameter(torch.zeros(2))

            def forward(self, x: Tensor) -> Tensor:
                return self.said.expand(x.shape[1], 2)

        pairs = [(torch.zeros(2, 1), torch.full((2,), float(n))) for n in range(33)]
        model = Two()
        stop = train.fit(
            model, pairs, pairs, loss=torch.nn.functional.mse_loss, every_step=False, epochs=1, lr=1e-9, batch=32
        )
        assert stop.loss == pytest.approx(sum(n**2 for n in range(33)) / 33, rel=1e-5)
        assert stop.items == 66

    def test_the_loss_of_an_event_is_that_of_its_targets(self) -> None:
        events: list[Event] = []
        model = torch.nn.Linear(1, 1)
        pairs = [(torch.zeros(1, 1), torch.tensor([float(n == 32)])) for n in range(33)]

        def mean(o: Tensor, y: Tensor) -> Tensor:
            return y.mean() + 0 * o.sum()

        train.fit(model, pairs, loss=mean, every_step=False, epochs=1, batch=32, watch=events.append)
        (steps,) = [event for event in events if isinstance(event, Steps)]
        assert steps.loss == pytest.approx(1 / 33)

    def test_a_loader_is_read_as_it_comes(self) -> None:
        pairs = sequences(20, range(5, 6))
        loader = DataLoader(pairs, batch_size=5, collate_fn=lambda pairs: train.batched(pairs, every_step=False))  # pyright: ignore[reportArgumentType]
        losses = []
        for data_of in (loader, Again(lambda: iter(loader))):
            torch.manual_seed(0)
            model = Classifier(2, 4, 2)
            train.fit(model, data_of, loss=torch.nn.functional.cross_entropy, epochs=3)
            losses.append(model.state_dict())
        assert_same_bits(*losses)

    def test_mistakes_say_what_to_do(self) -> None:
        pairs = sequences(4, range(3, 5))
        model = Classifier(2, 4, 2)
        with pytest.raises(InputError, match="Classifier has no method loss; say what to minimise"):
            train.fit(model, pairs)
        with pytest.raises(InputError, match="data holds no batch"):
            train.fit(Elman(2, 4, 2), [])
        with pytest.raises(InputError, match=r"must hold pairs .*is Tensor. .*list\(zip\(X, Y\)\)"):
            train.fit(Elman(2, 4, 2), (torch.zeros(3, 4), torch.zeros(3)))
        with pytest.raises(InputError, match="patience waits for held_out"):
            train.fit(Elman(2, 4, 2), [(x, x) for x, _ in pairs], patience=1)
        with pytest.raises(InputError, match="one target for a sequence, say every_step=False"):
            train.fit(Elman(2, 4, 2), [(torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(4, 2), torch.zeros(3))])
        with pytest.raises(InputError, match="batch must be a whole number of at least 1; got 0"):
            train.fit(Elman(2, 4, 2), pairs, batch=0)
        with pytest.raises(InputError, match="lr must be a number above 0"):
            train.fit(Elman(2, 4, 2), pairs, lr=-1)
        with pytest.raises(InputError, match="target at every step need padding and a mask"):
            train.fit(Elman(2, 4, 2), [(x, x) for x, _ in pairs])
        with pytest.raises(InputError, match="held_out holds no batch"):
            train.fit(model, pairs, [], loss=torch.nn.functional.cross_entropy)
        with pytest.raises(InputError, match=r"An iterator can be read once only"):
            train.fit(
                model,
                (train.batched([pair], every_step=False) for pair in pairs),
                loss=torch.nn.functional.cross_entropy,
            )


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
        run, ours = runs.start(tmp_path, Text(TEXT, SMALL))
        at_the_start = weights(ours)

        def poison(gradient: Tensor) -> None:
            if ours.step == 3:
                ours.model.readout.weight.data[0, 0] = math.nan

        ours.model.readout.bias.register_hook(poison)
        stop = ours.run(save=run.save)
        assert (stop.reason, stop.step) == ("not finite", 4)
        _, model = runs.load(tmp_path)
        assert_same_bits(dict(model.state_dict()), at_the_start)

    def test_nor_are_they_between_two_steps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop, "SECONDS_PER_SAVE", -1)
        run, ours = runs.start(tmp_path, Text(TEXT, SMALL))

        def poison(gradient: Tensor) -> None:
            if ours.step == 3:
                ours.model.readout.weight.data[0, 0] = math.nan

        ours.model.readout.bias.register_hook(poison)
        assert ours.run(save=run.save).step == 4
        assert all(bool(weight.isfinite().all()) for weight in load_file(tmp_path / runs.WEIGHTS).values())
        assert runs.resume(tmp_path, file_beside(tmp_path))[1].step == 3

    def test_a_loss_that_is_infinite_in_the_held_out_text_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_task, "nats_per_token", lambda model, tokens: math.inf)
        assert training().run().reason == "held out not finite"


class TestSameBits:
    def test_same_seed_same_bits_over_50_steps_of_the_demo(self) -> None:
        text = data.english()
        outcomes = []
        for seed in (0, 0, 1):
            task = Text(text, Recipe(seed=seed, steps=50))
            torch.manual_seed(seed)
            ours = Training(Text.network(task.about(), task.recipe), task)
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
        per_epoch = len(parts.task)
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
        run, ours = runs.start(tmp_path / "whole", Text(TEXT, SMALL))
        ours.run(watch=run.watch, save=run.save)
        other, parts = runs.start(tmp_path / "parts", Text(TEXT, SMALL))
        parts.run(watch=other.watch, save=other.save, should_stop=stop_after(parts, 20))
        for line in ({"event": "steps", "step": 30}, {"event": "evaluation"}):
            other.log(line)  # what a run killed between two saves leaves behind
        other, parts = runs.resume(tmp_path / "parts", file_beside(tmp_path / "parts"))
        assert parts.step == 20
        parts.run(watch=other.watch, save=other.save)
        assert_same_bits(load_file(tmp_path / "whole" / runs.WEIGHTS), load_file(tmp_path / "parts" / runs.WEIGHTS))
        assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "parts")
        log = without_time(runs.read_log(tmp_path / "parts"))
        breaks = ("start", "stop", "resume")
        assert [line["event"] for line in log if line["event"] in breaks] == ["start", "resume", "stop"]
        assert log[-1] == without_time(runs.read_log(tmp_path / "whole"))[-1]
        assert sum(line.get("steps", 0) for line in log) == parts.total_steps

    def test_longer_on_resume(self, tmp_path: Path) -> None:
        run, ours = runs.start(tmp_path, Text(TEXT, SMALL))
        ours.run(save=run.save)
        _, again = runs.resume(tmp_path, file_beside(tmp_path))
        assert again.finished == "finished"
        run, longer = runs.resume(tmp_path, file_beside(tmp_path), changes={"epochs": 5})
        stop = longer.run(save=run.save)
        assert (stop.reason, stop.epoch) == ("finished", 5.0)
        assert runs.read_settings(tmp_path).recipe.epochs == 5


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run, ours = runs.start(tmp_path / "run", Text(TEXT, replace(SMALL, epochs=1)), command="bptt train")
    ours.run(watch=run.watch, save=run.save)
    run.draw()
    return run.path


class TestRunDirectory:
    def test_holds_what_it_says(self, finished: Path) -> None:
        assert sorted(file.name for file in finished.iterdir()) == sorted(
            [runs.SETTINGS, runs.WEIGHTS, runs.LOG, runs.CHECKPOINT, runs.PREVIOUS, runs.CURVE, owned.RECORD]
        )
        settings = json.loads((finished / runs.SETTINGS).read_text())
        assert (settings["schema"], settings["task"]) == (4, "text")
        assert settings["data"] == {"source": "squares", "size": len(TOKENS), "sha256": TEXT.sha256}
        assert settings["about"]["vocabulary"]["symbols"] == "".join(sorted(set(TEXT.characters)))
        assert set(settings["versions"]) == {"bptt", "python", "torch"}
        assert settings["command"] == "bptt train"
        model = Elman(SYMBOLS, settings["recipe"]["hidden"], SYMBOLS)
        model.load_state_dict(load_file(finished / runs.WEIGHTS))
        log = [json.loads(line) for line in (finished / runs.LOG).read_text().splitlines()]
        assert {line["event"] for line in log} == {"start", "steps", "evaluation", "stop"}
        assert (finished / runs.CURVE).read_bytes().startswith(b"\x89PNG")
        assert runs.load(finished)[0].recipe == replace(SMALL, epochs=1)

    def test_is_not_taken_by_another_run_unless_told(self, finished: Path) -> None:
        before = {file.name: file.read_bytes() for file in finished.iterdir()}
        with pytest.raises(InputError, match=r"holds one\. Go on with it: --resume"):
            runs.start(finished, Text(TEXT, SMALL))
        run, ours = runs.start(finished, Text(TEXT, replace(SMALL, hidden=5)), overwrite=True)
        run.log({"event": "first"})
        ours.run(save=run.save, should_stop=lambda: True)
        assert {file.name: file.read_bytes() for file in finished.iterdir() if file.name != ".lock"} == before
        ours.run(save=run.save, should_stop=stop_after(ours, 1))
        assert runs.load(finished)[1].rnn.hidden_size == 5
        assert [line["event"] for line in runs.read_log(finished)] == ["start", "first"]
        assert not (finished / runs.CURVE).exists()

    @pytest.mark.parametrize("at", ["write", "sync"])
    def test_full_disk_leaves_the_last_files_as_they_were(
        self, finished: Path, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, ours = runs.resume(finished, file_beside(finished), changes={"epochs": 2})
        before = {file.name: file.read_bytes() for file in finished.iterdir()}
        calls = itertools.count()

        def fail(*args: object) -> None:
            if next(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if at == "sync":
            monkeypatch.setattr(os, "fsync", fail)
        else:
            monkeypatch.setattr(formats, "save", lambda *args: b"0" * 8)
            monkeypatch.setattr(Path, "replace", lambda *args: fail() or fail() or fail())
        with pytest.raises(InputError, match=r"cannot be written: No space left on device\. Make room"):
            ours.run(save=run.save)
        assert {file.name: file.read_bytes() for file in finished.iterdir()} == before

    def test_nothing_is_made_for_a_text_that_is_too_short(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="must hold one window"):
            runs.start(tmp_path / "new", Text(data.Corpus(b"too short", "x"), replace(SMALL, held_out=0.0)))
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("name", [runs.WEIGHTS, runs.CHECKPOINT])
    @pytest.mark.parametrize(
        "damage", ["truncated", "empty", "foreign", "other run", "missing", "not a model", "a directory"]
    )
    def test_damaged_tensors_are_named(self, finished: Path, name: str, damage: str) -> None:
        file = finished / name
        content = file.read_bytes()
        (finished / runs.PREVIOUS).unlink()
        if damage == "truncated":
            file.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            file.write_bytes(b"")
        elif damage == "foreign":
            save_file({"w": torch.zeros(3)}, file)
        elif damage == "other run":
            run, ours = runs.start(finished.parent / "other", Text(TEXT, replace(SMALL, hidden=5)))
            ours.run(save=run.save, should_stop=stop_after(ours, 1))
            file.write_bytes((run.path / name).read_bytes())
        elif damage == "missing":
            file.unlink()
        elif damage == "a directory":
            file.unlink()
            file.mkdir()
        else:
            facts = {"schema": 4, "fingerprint": runs.read_settings(finished).fingerprint}
            save_file({"w": torch.zeros(3)}, file, {"bptt": json.dumps(facts)})
        expected = {"missing": "does not exist", "a directory": "must be readable"}.get(
            damage, "as bptt train wrote it"
        )
        with pytest.raises(InputError, match=expected) as caught:
            runs.load(finished) if name == runs.WEIGHTS else runs.resume(finished, file_beside(finished))
        assert str(file) in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ((), "{", "must be a file as bptt train wrote it"),
            ((), "[]", "must be a file as bptt train wrote it"),
            (("schema",), 99, "schema must be 4"),
            (("task",), "chess", "task must be one of"),
            (("recipe", "hidden"), -4, "hidden must be a whole number"),
            (("recipe", "unheard_of"), 1, "unheard_of"),
            (("data",), None, "must be a file as bptt train wrote it"),
            (("data",), {}, "'source' is missing"),
            (("recipe", "hidden"), 13, "do not have the checksum"),
            (("sha256",), None, "do not have the checksum"),
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

    @pytest.mark.parametrize("vocabulary", [{"unit": "character", "symbols": "ab"}, {"unit": "byte"}, None])
    def test_settings_of_another_vocabulary_do_not_belong_to_the_weights(
        self, finished: Path, vocabulary: object
    ) -> None:
        settings = json.loads((finished / runs.SETTINGS).read_text())
        settings["about"]["vocabulary"] = vocabulary
        del settings["sha256"]
        settings["sha256"] = formats.digest({}, settings)
        (finished / runs.SETTINGS).write_text(json.dumps(settings))
        with pytest.raises(InputError, match="it belongs to another training"):
            runs.load(finished)

    def test_resume_needs_the_text_it_began_with(self, finished: Path) -> None:
        with pytest.raises(InputError, match=r"among the .* trained on; unknown: '!', '\\xe9'"):
            runs.resume(finished, file_beside(finished, TEXT.content + "é!".encode()))
        with pytest.raises(InputError, match=r"sha256 .*; got .* chars from .*squares\.txt"):
            runs.resume(finished, file_beside(finished, TEXT.content[:-1]))
        with pytest.raises(InputError, match="keeps its hidden, 12; got 13"):
            runs.resume(finished, file_beside(finished), changes={"hidden": 13})
        with pytest.raises(
            InputError, match=r"squares cannot be used any more: .* Say where they are now: bptt train FILE -o"
        ):
            runs.resume(finished)
        with pytest.raises(InputError, match=r"holds no settings\.json. Train one first"):
            runs.resume(finished.parent)

    @pytest.mark.parametrize("below", ["", "run"])
    def test_output_that_is_a_file(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is a file or lies below one"):
            runs.start(tmp_path / "file" / below, Text(TEXT, SMALL))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("hidden", "layers", "bptt", "streams", "k1", "words"), (0, -1, 1.5, True, "2")),
        ("unit", "letter"),
        *itertools.product(("epochs", "steps", "patience"), (0, -1, 1.5, True, "2")),
        *itertools.product(("lr", "clip", "clip_value", "time_limit"), (0, -1.0, math.nan, math.inf, "1")),
        *itertools.product(("held_out",), (-0.1, 1, math.nan, None)),
        *itertools.product(("seed",), (-1, 2**63, 1.5)),
        ("nonlinearity", "softmax"),
        ("optimizer", "rmsprop"),
    ],
)  # fmt: skip
def test_recipe_refuses_values_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"{name} must be .*; got {value!r}\."):
        replace(SMALL, **{name: value})


def test_a_step_given_up_has_not_begun() -> None:
    """In the middle of a forward pass, after dropout has drawn its numbers; outside a step nothing is given up."""
    undisturbed = training(layers=2, dropout=0.5)
    undisturbed.run()
    parts = training(layers=2, dropout=0.5)
    parts.give_up()
    heard = []

    def hear(*_: object) -> None:
        if parts.step == 5 and not heard:
            heard.append(parts.step)
            parts.give_up()

    parts.model.readout.register_forward_pre_hook(hear)
    assert parts.run(should_stop=lambda: bool(heard)).reason == "interrupted"
    assert parts.step == 5
    assert parts.run().reason == "finished"
    assert all(torch.equal(tensor, weights(undisturbed)[name]) for name, tensor in weights(parts).items())


def test_a_stop_between_the_question_and_the_step_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, heard = training(), []

    def hear(*_: object) -> None:
        heard.append(parts.step)
        parts.give_up()

    monkeypatch.setattr(parts.optimizer, "zero_grad", hear)
    assert parts.run(should_stop=lambda: bool(heard)).reason == "interrupted"
    assert parts.step == 0
