"""Every example runs as it stands, ends with what it is there to show, and leaves no file behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for each other crawl on a busy machine
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, env=alone, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "nan" not in done.stdout
    assert not list(tmp_path.iterdir())
