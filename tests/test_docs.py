"""Examples run as printed: the Python blocks of README and docs in order, and those of docstrings."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("one_thread")  # and as many as before, after a page that sets their number
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


MODULES = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for room in ("lesson", "tasks", "train")
    for path in sorted((ROOT / "src" / "bptt" / room).glob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed


def test_tests_named_in_the_docs_exist() -> None:
    """`test_file.py::test_name`, or `test_name` alone where a page says which file it means."""
    tests = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    named = 0
    for page in PAGES:
        for file, name in re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", page.read_text()):
            files = [tests[file]] if file else tests.values()
            assert any(f"def {name}(" in text for text in files), f"{page.name} names {file or 'a test'} {name}"
            named += 1
    assert named > 20


def test_nobody_is_told_to_install_what_is_on_no_index() -> None:
    """`pip install bptt` and its extras: whoever took the name there would be installed."""
    written = [*PAGES, *ROOT.glob("*.md"), *(ROOT / "src").rglob("*.py"), *(ROOT / "web" / "src").rglob("*.*")]
    told = re.compile(r"""(pip|uv|add|install)[ \w"'-]*\sbptt\b|['"`\s]bptt\[""")
    assert told.search("pip install 'bptt[onnx]'")
    assert told.search("pip install -U bptt")
    for file in written:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            assert not told.search(line), f"{file.relative_to(ROOT)}, line {number}: {line.strip()}"


def test_each_of_our_cells_in_the_table_of_features_names_a_test() -> None:
    table = [line for line in (ROOT / "docs" / "drop-in.md").read_text().splitlines() if line.startswith("|")]
    assert table[0] == "| | RNN | LSTM | GRU | torch | Keras | Flax |"
    for line in table[2:]:
        ours = line.split(" | ")[1:4]
        assert any(cell != "–" for cell in ours), line
        assert all(cell == "–" or re.search(r"`(test_\w+\.py::)?test_\w+`", cell) for cell in ours), line
