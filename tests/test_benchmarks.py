"""The benchmark itself: what it counts, whom it lets through the gate, in which order it asks, what it concludes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bptt
from benchmarks import layers, report, train_cells, workers
from benchmarks.cases import FORMS, MODES, TOLERANCE, Case, Cell, Mode, inputs, truth, worst_error
from benchmarks.measure import Effort, Entry, alternate
from benchmarks.others import SHORTEST_S, Others
from benchmarks.peers import torch_rnn
from benchmarks.peers.module import prepare_packed_module
from benchmarks.team import MODULES
from benchmarks.worker import Visit, Worker, WorkerError
from bptt.tasks import Series, table

CASE = Case(5, 3, 4, 7)
ABSENT = (
    "ModuleNotFoundError: No module named 'jax'",
    "ModuleNotFoundError: No module named 'onnx",
    "ImportError: no oneDNN",
)


class FakeTeam(dict[tuple[str, int], Any]):
    def __iter__(self) -> Any:
        return iter([(*key, worker) for key, worker in self.items()])


class FakeWorker:
    """Answers like a worker: a module's results, optionally spoilt, and times from a fixed price per call."""

    def __init__(self, log: list[str], name: str, price: float, spoil: str | None = None, broken: bool = False) -> None:
        self.log, self.name, self.price, self.spoil, self.broken = log, name, price, spoil, broken
        self.prepared: dict[Any, Any] = {}

    def prepare(self, request: tuple[Any, ...]) -> bool:
        _, case, mode = request
        self.prepared[request] = torch_rnn.prepare(case, mode)
        self.prepared[request].run()
        return True

    def results(self, request: tuple[Any, ...]) -> dict[str, Any]:
        found = self.prepared[request].results()
        if self.spoil in found:
            found[self.spoil] = found[self.spoil] * 1.001
        return found

    def visit(self, request: tuple[Any, ...], calls: int) -> Visit:
        if self.broken:
            raise WorkerError("process ended with code -11")
        self.log.append(self.name)
        return Visit([self.price] * calls, 1.0)

    def release(self, request: tuple[Any, ...]) -> None:
        del self.prepared[request]


@pytest.fixture(scope="module", params=MODULES)
def peer(request: pytest.FixtureRequest) -> Iterator[tuple[str, Worker]]:
    try:
        worker = Worker(MODULES[request.param], threads=1)
    except WorkerError as error:
        if not str(error).startswith(ABSENT):
            raise
        pytest.skip(str(error))
    yield request.param, worker
    worker.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", FORMS)
def test_peers_pass_the_gate_with_every_result(peer: tuple[str, Worker], cell: Cell, mode: Mode) -> None:
    name, worker = peer
    case = Case(9, 3, 4, 37, cell)
    request = ("prepare", case, mode)
    takes_part = worker.prepare(request)
    assert takes_part == (mode not in {"onednn": ("train",), "onnxruntime": ("train", "train_dx")}.get(name, ()))
    if takes_part:
        found = worker.results(request)
        worker.release(request)
        assert set(case.results(mode)) == set(found)
        assert worst_error(found, truth(case), case.results(mode)) < TOLERANCE


@pytest.mark.parametrize("cell", FORMS)
def test_packed_batches_of_ours_give_what_torch_gives(cell: Cell) -> None:
    case = Case(8, 3, 4, 7, cell)
    judge = prepare_packed_module(torch.nn, case, torch.float64)
    ours = prepare_packed_module(bptt.nn, case)
    for work in (judge, ours):
        work.run()
    expected: Any = judge.results()
    assert len(expected["y"]) < case.T * case.B * 0.6
    assert worst_error(ours.results(), expected, case.results("train")) < TOLERANCE


@pytest.mark.parametrize(
    ("cell", "name"), [(cell, name) for cell in FORMS for name in CASE.of(cell).results("train_dx")]
)
def test_a_thousandth_too_much_in_any_result_does_not_pass(cell: Cell, name: str) -> None:
    case = CASE.of(cell)
    names, expected = case.results("train_dx"), truth(case)
    assert set(names) == set(expected)
    found: Any = {**expected, name: expected[name] * 1.001}
    assert worst_error(found, expected, names) > TOLERANCE
    found[name] = expected[name] * float("nan")
    assert worst_error(found, expected, names) == float("inf")
    found[name] = expected[name][:-1]
    assert worst_error(found, expected, names) == float("inf")


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_flops_are_those_of_the_products(cell: Cell, gates: int) -> None:
    case = CASE.of(cell)
    into, recurrent = (2 * case.T * case.B * rows * gates * case.H for rows in (case.I, case.H))
    assert case.flops("infer") == into + recurrent
    assert case.flops("train") == 2 * into + 3 * recurrent
    assert case.flops("train_dx") == 3 * into + 3 * recurrent
    assert {2 * m * k * n for m, k, n in case.products} == {into, recurrent}


@pytest.mark.parametrize(("cell", "kept"), [("rnn", 0), ("lstm", 5), ("gru", 4)])
def test_bytes_are_those_of_the_arrays(cell: Cell, kept: int) -> None:
    case = CASE.of(cell)
    given, found = inputs(case), truth(case)
    assert sum(map(np.size, found.values())) == case.T * case.B * (case.H + case.I) + sum(
        array.size for array in (given.weight_ih, given.weight_hh, given.bias(case), *given.first, *given.first)
    )
    weights = given.weight_ih.size + given.weight_hh.size
    infer = given.x.size + 2 * len(given.first) * case.B * case.H + weights + found["db"].size + found["y"].size
    back = given.x.size + 2 * found["y"].size + len(given.first) * case.B * case.H + given.weight_hh.size
    gradients = weights + found["db"].size + len(given.first) * case.B * case.H
    assert case.bytes("infer") == 4 * infer
    assert case.bytes("train") == 4 * (infer + back + gradients + 2 * kept * found["y"].size)
    assert case.bytes("train_dx") == case.bytes("train") + 4 * (given.weight_ih.size + given.x.size)


def test_everybody_is_asked_in_every_round_and_the_order_turns() -> None:
    log: list[str] = []
    entries = {name: Entry(FakeWorker(log, name, 0.1), ()) for name in "abc"}  # type: ignore[arg-type]
    timings = alternate(entries, Effort(seconds=0, fewest=3, most=9))
    rounds = ["".join(log[i : i + 3]) for i in range(0, len(log), 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]
    assert all(not isinstance(timing, str) and timing.calls == 3 for timing in timings.values())


def test_a_wrong_or_broken_peer_is_named_and_not_timed() -> None:
    log: list[str] = []
    team: Any = FakeTeam(
        {
            ("bptt", 1): FakeWorker(log, "bptt", 0.01),
            ("torch", 1): FakeWorker(log, "torch", 0.005),
            ("jax", 1): FakeWorker(log, "jax", 0.001, spoil="dW_hh"),
            ("onednn", 1): FakeWorker(log, "onednn", 0.001, broken=True),
        }
    )
    records = layers.measure(team, CASE, Effort(0, 2, 2), limits=False)
    by_mode = {record["mode"]: record for record in records}
    assert by_mode["train"]["ratio"] == {"torch": 0.5}
    assert "wrong by" in by_mode["train"]["peers"]["jax"]["failed"]
    assert by_mode["train"]["peers"]["onednn"]["failed"] == "process ended with code -11"
    assert by_mode["infer"]["ratio"] == {"torch": 0.5, "jax": 0.1}


def test_a_busy_process_that_is_not_ours_is_noticed() -> None:
    others = Others([])
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(SHORTEST_S + 0.3)
        busy = others.cores()
        assert busy is not None
        assert busy > 0.2
        assert others.cores() == busy
    finally:
        spinning.kill()
        spinning.wait()


def test_losses_are_shown_and_decide_the_verdict() -> None:
    def record(case: str, ours: float, torch: float) -> dict[str, Any]:
        return {
            "kind": "layer",
            "case": case,
            "mode": "train",
            "threads": 2,
            "peers": {"bptt": {"ms": ours}, "torch": {"ms": torch}},
            "ratio": {"torch": torch / ours},
            "date": "",
            "machine": {"processor": "", "cores": 2, "system": "", "python": ""},
            "others_cores": 0.0,
            "versions": {"bptt": "", "torch": ""},
            "absent": {"jax": "No module named jax"},
        }

    records = [record("50,1,16,64", 1.0, 100.0), record("9,16,1,128", 2.0, 1.0)]
    bars = {bar.name: bar for bar in report.bars(records)}
    assert bars["train: torch.nn.RNN, geometric mean"].met
    worst = bars["train: torch.nn.RNN, worst"]
    assert (worst.met, worst.measured, worst.worst) == (False, "0.50×", "at 9,16,1,128")
    for shown in (report.text(records), report.markdown(records)):
        assert "0.50 <" in shown
        assert "MISSED" in shown
        assert "jax took no part" in shown
    gated = [record | {"cell": "gru"} for record in records]
    assert {bar.name: bar.required for bar in report.bars(gated)} == {
        "train: torch.nn.GRU, geometric mean": "≥ 6×",
        "train: torch.nn.GRU, worst": "≥ 1.50×",
    }
    titles = [table.title for table in report.tables(records + gated)]
    assert titles == [prefix + title for prefix in ("", "GRU. ") for title in titles[: len(titles) // 2]]


def test_bars_of_gated_cells() -> None:
    def record(kind: str, mode: str, ratio: dict[str, float], **more: Any) -> dict[str, Any]:
        peers = {"bptt": {"ms": 1.0}, "torch": {"ms": 3.0}, "bptt, dense": {"ms": 1.5}}
        found = {"kind": kind, "case": "100,32,128,256", "mode": mode, "threads": 2, "cell": "lstm", "peers": peers}
        return {**found, "ratio": ratio, **more}

    records = [
        record("layer", "train", {"torch": 1.5, "jax": 1.3, "onednn": 0.1}, share_of_limit=0.81),
        record("layer", "train_dx", {"torch": 0.5, "jax": 0.5, "onednn": 0.95}, share_of_limit=0.79),
        record("packed", "train", {}),
    ]
    assert [(bar.name, bar.required, bar.met) for bar in report.bars(records)] == [
        ("train: torch.nn.LSTM, geometric mean", "≥ 2×", False),
        ("train: torch.nn.LSTM, worst", "≥ 1.10×", True),
        ("train: jax, geometric mean", "≥ 1.30×", True),
        ("train: jax, worst", "≥ 1×", True),
        ("train_dx: onednn, geometric mean", "≥ 1.15×", False),
        ("train_dx: onednn, worst", "≥ 0.90×", True),
        ("train: share of the limit, B ≥ 16 and H ≥ 128", "≥ 80%", True),
        ("train_dx: share of the limit, B ≥ 16 and H ≥ 128", "≥ 80%", False),
        ("half padding: torch.nn.LSTM with PackedSequence, geometric mean", "≥ 4×", False),
        ("half padding: torch.nn.LSTM with PackedSequence, worst", "≥ 2×", True),
    ]


def test_cells_are_compared_at_about_as_many_weights(tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("y\n" + "".join(f"{n + n * n % 7}\n" for n in range(60)))
    source = table.read(tmp_path / "y.csv")
    settings = {"steps": 1, "seeds": [0], "same_units": False}
    lines = train_cells.rows(
        "y", lambda given: Series(source, Series.Recipe(**given), ["y"]), ["elman", "lstm"], [0.1], settings
    )
    (_, plain, units, weights, *_), (_, cell, fewer, other, *_) = lines
    assert (plain, cell, int(units)) == ("elman", "lstm", 16)
    assert int(fewer) < 16
    assert int(other) == pytest.approx(int(weights), rel=0.1)


def test_model_of_many_workers() -> None:
    network = workers.Network("a network", bytes_per_second=1e6, latency_s=1e-3)
    assert workers.step_s(1, 0.5, 1_000_000, network) == 0.5
    assert workers.step_s(2, 0.5, 1_000_000, network) == pytest.approx(0.5 + 2 * 2 * 1e-3 + 1.0)
    assert workers.step_s(4, 0.5, 1_000_000, network) == pytest.approx(0.5 + 2 * 6 * 1e-3 + 1.5)
    assert [workers.messages(size << 20) for size in (1, 2, 26, 27)] == [1, 2, 2, 3]
    assert workers.efficient_until(1.6, 1_000_000, network) == 4
    assert workers.most_gain(1.0, 4, network) == pytest.approx(250)
    assert workers.efficient_until(0.1, 4, network) == 16
    assert [line.split(" | ")[0] for line in workers.table(0.5, 4, network)][2:4] == ["| 2", "| 4"]
