"""The benchmark itself: what it counts, whom it lets through the gate, in which order it asks, what it concludes."""

import subprocess
import sys
import time
from typing import Any

import pytest

from benchmarks import layers, report, workers
from benchmarks.cases import MODES, RESULTS, TOLERANCE, Case, Mode, truth, worst_error
from benchmarks.measure import Effort, Entry, alternate
from benchmarks.others import SHORTEST_S, Others
from benchmarks.peers import bptt_rnn, torch_rnn
from benchmarks.worker import Visit, WorkerError

CASE = Case(5, 3, 4, 7)


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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("peer", [torch_rnn, bptt_rnn], ids=["torch", "bptt"])
def test_peers_pass_the_gate_with_every_result(peer: Any, mode: Mode) -> None:
    work = peer.prepare(CASE, mode)
    work.run()
    found = work.results()
    assert set(RESULTS[mode]) == set(found)
    assert worst_error(found, truth(CASE), mode) < TOLERANCE


@pytest.mark.parametrize("name", RESULTS["train_dx"])
def test_a_thousandth_too_much_in_any_result_does_not_pass(name: str) -> None:
    expected = truth(CASE)
    found: Any = {**expected, name: expected[name] * 1.001}
    assert worst_error(found, expected, "train_dx") > TOLERANCE
    found[name] = expected[name] * float("nan")
    assert worst_error(found, expected, "train_dx") == float("inf")
    found[name] = expected[name][:-1]
    assert worst_error(found, expected, "train_dx") == float("inf")


def test_flops_are_those_of_the_products() -> None:
    T, B, I, H = CASE.T, CASE.B, CASE.I, CASE.H
    into, recurrent = 2 * T * B * I * H, 2 * T * B * H * H
    assert CASE.flops("infer") == into + recurrent
    assert CASE.flops("train") == 2 * into + 3 * recurrent
    assert CASE.flops("train_dx") == 3 * into + 3 * recurrent
    assert {2 * m * k * n for m, k, n in CASE.products} == {into, recurrent}


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
