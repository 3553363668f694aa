"""Uninitialised tensors are filled with NaN, so that reading one shows in the result; every test starts from seed 0."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import weights_in
from survival import CONTENT, SMALL

from bptt import runs
from bptt.tasks import Text, data


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For networks too small to share out: threads that wait for each other crawl on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
