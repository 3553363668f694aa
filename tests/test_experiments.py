"""The experiments: what their tasks ask for, what a run does, and what becomes of its results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from bptt.errors import InputError
from experiments.reach import __main__ as command
from experiments.reach import grid, report
from experiments.reach.grid import Cell
from experiments.reach.remedies import REMEDIES
from experiments.reach.tasks import TASKS, adding, copy_memory, digits, temporal_order
from experiments.reach.training import Result, run

ALL: dict[str, Any] = dict.fromkeys(["task", "T", "remedy", "seed"])
SOLVED = Result(1_200, 1_200, 0.001, 0.002, False, 0.9, 12, 34.5)
UNSOLVED = Result(None, 10_000, 0.36, 0.17, False, 0.5, None, 99.0)
CELL = Cell("adding", 50, "clipping by norm", 0)


def seeded() -> Generator:
    return Generator().manual_seed(7)


def test_adding_asks_for_the_sum_of_one_marked_number_of_each_half() -> None:
    x, y = adding(50, 11, seeded())
    marks = x[..., 1]
    assert marks[:5].sum(0).eq(1).all()
    assert marks[5:].sum(0).eq(1).all()
    torch.testing.assert_close(y[:, 0], x[..., 0].T[marks.T == 1].view(50, 2).sum(1))
    assert TASKS["adding"].wrong(torch.ones_like(y), y).float().mean() > 0.2


def test_temporal_order_asks_which_two_symbols_came_in_which_order() -> None:
    x, y = temporal_order(40, 60, seeded())
    symbols = x.argmax(-1)
    for b in range(40):
        (first, second) = (symbols[:, b] < 2).nonzero()[:, 0].tolist()
        assert 6 <= first < 12
        assert 30 <= second < 36
        assert y[b] == symbols[first, b] + 2 * symbols[second, b]
    assert set(y.tolist()) == {0, 1, 2, 3}


def test_copy_memory_asks_for_the_ten_symbols_after_the_signal() -> None:
    x, y = copy_memory(6, 30, seeded())
    symbols = x.argmax(-1)
    assert symbols.shape == y.shape == (50, 6)
    assert (symbols[:10] < 8).all()
    assert torch.equal(y[40:], symbols[:10])
    assert (symbols == 9).nonzero()[:, 0].tolist() == [39] * 6
    assert (y[:40] == 8).all()
    o = torch.nn.functional.one_hot(y, 9).float()
    o[-1] = 0
    assert TASKS["copy memory"].wrong(o, y).float().mean() == pytest.approx(0.1 * float((y[-1] != 0).float().mean()))


def test_permuted_digits_are_the_same_pixels_in_another_order_and_none_is_in_both_parts() -> None:
    (x, y), (held_out, _) = digits(permuted=False)
    (permuted, same), _ = digits(permuted=True)
    assert x.shape == (64, 1437, 1)
    assert held_out.shape == (64, 360, 1)
    assert torch.equal(y, same)
    assert not torch.equal(x, permuted)
    assert torch.equal(x.sort(0).values, permuted.sort(0).values)
    rows = torch.cat([x, held_out], 1)[..., 0].T
    assert len(rows.unique(dim=0)) == 1797


def test_a_wrong_answer_that_is_not_a_number_is_wrong() -> None:
    y = torch.ones(3, 1)
    assert TASKS["adding"].wrong(torch.tensor([[torch.nan], [1.3], [1.5]]), y).tolist() == [True, False, True]


@pytest.mark.parametrize("remedy", REMEDIES)
def test_every_remedy_trains_and_says_how_far_its_gradient_reaches(remedy: str) -> None:
    result = run(TASKS["copy memory"], 8, REMEDIES[remedy], 0, most=2)
    assert result.updates == 2
    assert not result.diverged
    assert result.rate is not None
    assert 0 < result.rate < 2


def test_a_run_ends_when_it_is_solved() -> None:
    easy = replace(TASKS["digits in rows"], solved=(2.0, 1e9))
    assert run(easy, 64, REMEDIES["GRU"], 0, most=250).solved == 100


def test_one_seed_is_one_result() -> None:
    first, again, other = (run(TASKS["adding"], 10, REMEDIES["Ω"], seed, most=3).loss for seed in (0, 0, 1))
    assert first == again != other


def test_a_line_goes_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = [grid.as_line(CELL, SOLVED, {"threads": 1}), grid.as_line(Cell("adding", 100, "Ω", 2), UNSOLVED, {})]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    assert grid.read(path) == {CELL: SOLVED, Cell("adding", 100, "Ω", 2): UNSOLVED}


@pytest.mark.parametrize("line", ["{", "[]", '{"task": "adding"}'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(grid.as_line(CELL, SOLVED, {}) + f"\n{line}\n", "utf-8")
    with pytest.raises(InputError, match="line 2"):
        grid.read(path)


def test_the_grid_has_every_cell_once_seed_by_seed_and_short_ones_first() -> None:
    every = list(grid.cells(ALL))
    lengths = sum(len(task.lengths) for task in TASKS.values())
    assert len(every) == len(set(every)) == lengths * len(REMEDIES) * len(grid.SEEDS)
    assert every == sorted(every, key=lambda cell: (cell.seed, cell.T))
    some = list(grid.cells(ALL | {"task": ["adding"], "T": [750], "remedy": ["GRU", "Ω"]}))
    assert some == [Cell("adding", 750, remedy, seed) for seed in (0, 1, 2) for remedy in ("Ω", "GRU")]


def test_a_second_run_skips_what_is_there_and_lengths_beyond_one_that_was_not_solved(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    only: dict[str, Any] = ALL | {"task": ["temporal order"], "remedy": ["none", "GRU"], "seed": [0]}
    there = [(50, "none", UNSOLVED), (50, "GRU", SOLVED), (200, "GRU", SOLVED)]
    lines = [grid.as_line(Cell("temporal order", T, remedy, 0), result, {}) for T, remedy, result in there]
    path.write_text("\n".join(lines) + "\n", "utf-8")

    def ran(only: dict[str, Any], seconds: float = 600) -> list[tuple[int, str]]:
        return [(cell.T, cell.remedy) for cell, _ in grid.fill(path, only, seconds, {}, most=1)]

    assert ran(only, seconds=0) == []
    assert ran(only) == [(100, "GRU"), (400, "GRU")]
    assert ran(only) == []
    assert ran(only | {"T": [100]}) == [(100, "none")]
    assert len(path.read_text("utf-8").splitlines()) == len(grid.read(path)) == 6


def test_the_table_says_who_solved_it_who_did_not_and_what_was_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    results = [
        (CELL, SOLVED),
        (replace(CELL, seed=1), replace(SOLVED, solved=1_400, steps_to_1_percent=14)),
        (replace(CELL, seed=2), UNSOLVED),
        (replace(CELL, remedy="none"), UNSOLVED),
        (replace(CELL, T=100), SOLVED),
        (replace(CELL, remedy="residual"), replace(UNSOLVED, diverged=True, rate=None)),
    ]
    path.write_text("".join(grid.as_line(cell, result, {}) + "\n" for cell, result in results), "utf-8")
    command.main(["table", str(path)])
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("|")] == [
        "| remedy | rate | 1 % | T = 50 | T = 100 |",
        "| --- | --: | --: | --: | --: |",
        "| none | 0.500 | all | 36% wrong | · |",
        "| clipping by norm | 0.900 | 13 | 2/3: 1,300, 34 s | 1,200, 34 s |",
        "| residual | not finite |  | diverged | · |",
    ]
    command.main(["picture", str(path), str(tmp_path / "picture.svg")])
    assert "<svg" in (tmp_path / "picture.svg").read_text("utf-8")
    assert report.tables(grid.read(path)) in printed


def test_mistakes_end_in_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results yet"):
        command.main(["table", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit, match="--threads wants at least 1"):
        command.main(["run", str(tmp_path / "none.jsonl"), "--threads", "0"])
