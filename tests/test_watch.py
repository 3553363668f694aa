"""bptt.watch in loops of all kinds: what it finds against autograd, and that nothing else changes."""

import copy
import gc
import io
import json
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import tolerance
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import bptt
from bptt import InputError

EXACT = tolerance(torch.float64)


class Two(torch.nn.Module):
    """Two recurrent modules, the first with two layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.low = bptt.nn.GRU(3, 4, 2, bidirectional=True, dropout=0.2, dtype=torch.float64)
        self.high = bptt.nn.Recurrent("lstm", 8, 5, dtype=torch.float64)
        self.out = torch.nn.Linear(5, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.high(self.low(x)[0])[0])


def made(make: Callable[[], torch.nn.Module] = Two) -> Any:
    torch.manual_seed(3)
    return make()


def inputs() -> Tensor:
    return torch.randn(6, 2, 3, dtype=torch.float64)


def train(model: torch.nn.Module, steps: int, after: Callable[[], object] = lambda: None) -> None:
    """As anybody would."""
    torch.manual_seed(4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs()).square().mean().backward()
        after()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def norm(parameters: Any) -> float:
    return float(torch.cat([parameter.grad.flatten() for parameter in parameters]).norm())


def steps_of(watcher: Any) -> list[int]:
    return [row["step"] for row in watcher.rows]


def test_every_so_many_steps_are_recorded_with_the_norms_of_autograd() -> None:
    model = made()
    watcher = bptt.watch(model, 3)
    wanted: list[dict[str, float]] = []

    def keep() -> None:
        own = dict(model.named_parameters())
        of = {name: norm([own[each] for each in own if each.startswith(name)]) for name in ("high",)}
        for k in range(2):
            for back in ("", "_reverse"):
                names = [f"low.{what}_l{k}{back}" for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                of[f"low{k}{back}"] = norm([own[name] for name in names])
        wanted.append({"all": norm(model.parameters()), **of})

    train(model, 7, keep)
    assert steps_of(watcher) == [0, 3, 6]
    for row in watcher.rows:
        found = {"all": row["norm"]}
        for layer in row["layers"]:
            back = "_reverse" if layer["direction"] == "reverse" else ""
            found["high" if layer["of"] == "high" else f"low{layer['layer']}{back}"] = layer["norm"]
        assert found == pytest.approx(wanted[row["step"]], rel=EXACT["rtol"])


def test_nothing_that_is_computed_changes() -> None:
    plain, watched = made(), made()
    bptt.watch(watched, 2)
    train(plain, 5)
    train(watched, 5)
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_part_of_an_accumulated_gradient_is_a_step_with_its_own_norm() -> None:
    model = made()
    watcher, alone = bptt.watch(model, 2), []
    for _ in range(2):
        model.zero_grad()
        before = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for _ in range(3):
            model(inputs()).square().mean().backward()
            now = [parameter.grad.clone() for parameter in model.parameters()]
            alone.append(float(torch.cat([(a - b).flatten() for a, b in zip(now, before, strict=True)]).norm()))
            before = now
    assert steps_of(watcher) == [0, 2, 4]
    assert [row["norm"] for row in watcher.rows] == pytest.approx(alone[::2], rel=1e-10)


def test_several_calls_before_a_backward_pass_are_one_step() -> None:
    model = made()
    watcher = bptt.watch(model, 2)
    for _ in range(4):
        model(inputs())  # nobody goes back through it
        (model(inputs()).mean() - model(inputs()).mean()).square().backward()
    assert steps_of(watcher) == [0, 2]
    assert all(len(row["layers"]) == 5 for row in watcher.rows)


def test_a_second_backward_pass_through_a_call_is_no_step() -> None:
    model = made()
    watcher = bptt.watch(model, 1)
    for _ in range(2):
        y = model(inputs())
        y.mean().backward(retain_graph=True)
        y.square().mean().backward()
    assert steps_of(watcher) == [0, 1]


def test_evaluation_counts_for_nothing() -> None:
    model = made()
    watcher = bptt.watch(model, 1)

    def evaluate() -> None:
        with torch.no_grad():
            model(inputs())
        model.eval()(inputs())
        model.train()

    evaluate()
    train(model, 3, evaluate)
    assert steps_of(watcher) == [0, 1, 2]


def test_the_step_is_what_one_says_it_is() -> None:
    model, now = made(), iter([7, *range(7, 12)])  # once when watching begins
    watcher = bptt.watch(model, 5, step=lambda: next(now))
    train(model, 5)
    assert steps_of(watcher) == [10]


def test_a_layer_alone_is_a_model_too() -> None:
    lstm = bptt.nn.LSTM(3, 4)
    with bptt.watch(lstm, 1) as watcher:
        lstm(torch.randn(5, 2, 3))[0].mean().backward()
    (layer,) = watcher.rows[0]["layers"]
    assert (layer["of"], layer["layer"], layer["direction"]) == ("", 0, "forward")
    assert layer["norm"] == watcher.rows[0]["norm"] == pytest.approx(norm(lstm.parameters()), rel=1e-6)


def test_parametrized_and_frozen_parameters() -> None:
    model = made(lambda: torch.nn.Sequential(torch.nn.Linear(3, 3), bptt.nn.RNN(3, 4), torch.nn.Identity()))
    torch.nn.utils.parametrizations.orthogonal(model[1], "weight_hh_l0")
    model[1].bias_hh_l0.requires_grad_(False)
    with bptt.watch(model, 1) as watcher:
        model(torch.randn(5, 2, 3))[0].mean().backward()
    learned = [each for each in model[1].parameters() if each.requires_grad]
    assert watcher.rows[0]["layers"][0]["norm"] == pytest.approx(norm(learned), rel=1e-6)
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    with bptt.watch(model, 1) as watcher:
        model(torch.randn(5, 2, 3))[0].mean().backward()
    assert watcher.rows[0]["layers"][0]["norm"] is None


@pytest.mark.parametrize("cell", ["elman", "gru-v1", "h_t = tanh(x_t W_x + h_{t-1} M)\nM = W − Wᵀ"])
def test_the_radius_of_the_recurrent_matrices(cell: str) -> None:
    layer = bptt.nn.Recurrent(cell, 3, 4, dtype=torch.float64)
    with bptt.watch(layer, 1, radius=True) as watcher, bptt.recording() as tapes:
        pass
    with bptt.recording() as tapes:
        layer(inputs())[0].sum().backward()
    assert watcher.rows == []
    with bptt.watch(layer, 1, radius=True) as watcher:
        layer(inputs())[0].sum().backward()
    wanted = {"elman": ["W_hh"], "gru-v1": ["W_hr", "W_hz", "W_hn"]}.get(cell, ["M"])
    found = watcher.rows[0]["layers"][0]["radius"]
    assert found == pytest.approx({name: np.abs(np.linalg.eigvals(tapes[0][name].numpy())).max() for name in wanted})


class TestOut:
    def test_lines_of_json_are_appended(self, tmp_path: Path) -> None:
        model, log = made(), tmp_path / "watch.jsonl"
        log.write_text('{"before": true}\n')
        watcher = bptt.watch(model, 2, log=log)
        model(inputs()).mean().backward()
        _, line = log.read_text().splitlines()
        assert json.loads(line) == watcher.rows[0]
        train(model, 3)
        assert len(log.read_text().splitlines()) == 3

    def test_what_is_not_finite_is_null_there(self, tmp_path: Path) -> None:
        model = made()
        watcher = bptt.watch(model, 2, log=str(tmp_path / "log"))
        with pytest.warns(UserWarning, match="not finite"):
            (model(inputs()).mean() * float("inf")).backward()
        assert json.loads((tmp_path / "log").read_text())["norm"] is None
        assert not np.isfinite(watcher.rows[0]["norm"])

    def test_a_writer_gets_every_number(self) -> None:
        class Writer:
            def __init__(self) -> None:
                self.seen: dict[tuple[str, int], float] = {}

            def add_scalar(self, tag: str, value: float, step: int) -> None:
                self.seen[tag, step] = value

        model, writer = made(), Writer()
        watcher = bptt.watch(model, 2, writer=writer, radius=True)
        train(model, 3)
        row = watcher.rows[1]
        assert writer.seen["watch/norm", 2] == row["norm"]
        assert writer.seen["watch/low/l1_reverse/norm", 2] == row["layers"][3]["norm"]
        assert writer.seen["watch/high/l0/radius/W_hf", 0] == watcher.rows[0]["layers"][4]["radius"]["W_hf"]

    def test_a_function_gets_the_rows(self) -> None:
        model, seen = made(), []
        watcher = bptt.watch(model, 1, log=seen.append)
        train(model, 2)
        assert seen == watcher.rows


class TestWarnings:
    def test_a_gradient_that_explodes_is_told_of_once_with_step_and_layer(self) -> None:
        model = made()
        watcher = bptt.watch(model, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, 6)

        def explode() -> None:
            for _ in range(2):
                (1e3 * model.low(inputs())[0].mean() + model(inputs()).mean()).backward()
            (1e4 * model(inputs()).mean()).backward()

        with pytest.warns(UserWarning, match=r"explodes at step 6: .* times its median .*'low' layer 1") as told:
            explode()
        assert len(told) == 1
        assert steps_of(watcher) == list(range(9))

    def test_layers_that_cannot_be_recorded(self) -> None:
        model = made()
        watcher = bptt.watch(torch.nn.Sequential(model), 1)
        outer = watcher
        assert outer.rows == []
        wrapped = made(Wrapped)
        watcher = bptt.watch(wrapped, 1)
        with pytest.warns(UserWarning, match="step 0 went through no recurrent layer that can be recorded") as told:
            train(wrapped, 2)
        assert len(told) == 1
        assert watcher.rows == []


class Wrapped(Two):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def test_what_torch_compile_has_compiled_is_left_alone() -> None:
    model = made()
    watcher = bptt.watch(model, 1)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(inputs()).mean().backward()
    assert watcher.rows == []
    outer = bptt.watch(compiled, 1)
    with pytest.warns(UserWarning, match=r"torch\.compile"):
        compiled(inputs()).mean().backward()
    assert outer.rows == []


def test_a_recording_of_ones_own_goes_before() -> None:
    model = made()
    watcher = bptt.watch(model, 1)
    with bptt.recording() as tapes:
        model(inputs()).mean().backward()
    assert len(tapes) == 2
    assert watcher.rows == []
    train(model, 1)
    assert steps_of(watcher) == [1]


def test_a_call_that_fails_leaves_nothing_behind() -> None:
    model = made()
    watcher = bptt.watch(model, 1)
    with pytest.raises(RuntimeError, match="input_size"):
        model(torch.zeros(3, 2, 7, dtype=torch.float64))
    other = bptt.nn.RNN(2, 2)
    other(torch.zeros(3, 1, 2))[0].sum().backward()
    train(model, 1)
    assert {layer["of"] for layer in watcher.rows[0]["layers"]} == {"low", "high"}
    assert len(watcher.rows) == 1


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_watched_model_is_copied_and_pickled(when: str) -> None:
    model = made()
    watcher = bptt.watch(model, 1)
    y = model(inputs()) if when != "before" else None
    if y is not None and when == "after":
        y.mean().backward()
    rows = len(watcher.rows)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        torch.save(model, file)
    file.seek(0)
    copies.append(torch.load(file, weights_only=False))
    for other in copies:
        other(inputs()).mean().backward()
    assert len(watcher.rows) == rows
    assert model.state_dict().keys() == made().state_dict().keys()


def test_closing_removes_every_hook_and_nothing_keeps_the_model_alive() -> None:
    model = made()
    with bptt.watch(model, 1) as watcher:
        train(model, 1)
        model(inputs())
    watcher.close()
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    train(model, 1)
    assert len(watcher.rows) == 1
    still = bptt.watch(model, 1)
    model(inputs())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert still.rows == []


class TestRefusals:
    def test_modules_of_torch_are_to_be_converted(self) -> None:
        model = torch.nn.ModuleDict({"ours": bptt.nn.LSTM(2, 3), "encoder": torch.nn.LSTM(2, 3)})
        with pytest.raises(InputError, match=r"encoder, a LSTM of torch\. Call bptt\.convert\(model\) first"):
            bptt.watch(model)
        bptt.watch(bptt.convert(model, quiet=True)).close()

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (torch.nn.Linear(2, 2), "none of RNN, LSTM, GRU and Recurrent"),
            (bptt.nn.LSTMCell(2, 2), "Single steps"),
            (bptt.nn.RNN(2, 2).requires_grad_(False), "something to learn"),
        ],
    )
    def test_models_with_nothing_to_see(self, model: torch.nn.Module, message: str) -> None:
        with pytest.raises(InputError, match=message):
            bptt.watch(model)

    def test_other_arguments(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match=r"torch\.nn\.Module; got int"):
            bptt.watch(3)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="from 1; got 0"):
            bptt.watch(made(), 0)
        with pytest.raises(InputError, match="cannot be written"):
            bptt.watch(made(), log=tmp_path)
