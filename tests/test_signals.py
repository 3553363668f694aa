"""A training stops when asked, within long steps and evaluations too."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import weights_in
from survival import SMALL, Command

from bptt import runs
from bptt.tasks import Text, data
from bptt.train import Evaluation

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and limits are those of POSIX"),
]


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
