"""Arrows point down, and the public names are those that are meant."""

import ast
import sys
from pathlib import Path

import bptt

ROOT = Path(bptt.__file__).parent

# A module may import from the floors below its own.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"cli.commands"},
    {"cli.train"},
    {"cli.derive", "cli.labelled", "cli.series", "cli.text", "cli.trace"},
    {"cli.shell"},
    {"progress", "runs", "trace", "workers"},
    {"chart", "curve", "worked"},
    {"tasks"},
    {"tasks.labelled", "tasks.series", "tasks.text"},
    {"backtest"},
    {"data", "forcing", "forecaster", "tape", "truncated"},
    {"nn"},
    {"nn.convert", "nn.dynamo", "nn.elman", "nn.jordan", "nn.stream"},
    {"nn.cell", "nn.rnn"},
    {"nn.initial", "nn.options", "nn.segments", "nn.tracers"},
    {"nn.arguments"},
    {"nn.precision"},
    {"long", "widget"},
    {"check", "player", "tapefile"},
    {"losses"},
    {"cells", "readout"},
    {"onnx", "ops"},
    {"cell_operators", "operators"},
    {"sweeps", "sweeps.native_cells"},
    {"sweeps.cells", "sweeps.reference", "sweeps.native"},
    {"blocks", "schedules", "timeline"},
    {"outputs", "table", "train"},
    {"owned"},
    {"sheet"},
    {"sheet.sides"},
    {"sheet.derivation", "sheet.printing", "sheet.widths"},
    {"sheet.names"},
    {"sheet.language"},
    {"sheet.tokens"},
    {"sheet.cells", "sheet.expressions"},
    {"sheet.functions"},
    {"_native", "activations", "disk", "equations", "errors", "sweeps.packing", "threads"},
    {"arrival", "startup"},
]


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bptt":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("bptt")}
    return {found for name in names if (found := room(name.removeprefix("bptt.")))}


def room(name: str) -> str | None:
    """The longest known module that a dotted name begins with."""
    known = {module for floor in FLOORS for module in floor}
    parts = name.split(".")
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), None)


def test_arrows_point_down() -> None:
    level = {name: height for height, floor in enumerate(FLOORS) for name in floor}
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        assert module in level, f"{module} has no floor yet"
        for other in imports(path):
            assert level[other] > level[module], f"{module} imports {other}, which is not below it"


def test_the_sheet_needs_python_alone() -> None:
    for path in (ROOT / "sheet").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                ours = module == "bptt.errors" or module.startswith("bptt.sheet")
                assert ours or module.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_public_names_are_sorted_and_there() -> None:
    assert bptt.__all__ == sorted(bptt.__all__)
    assert all(hasattr(bptt, name) for name in bptt.__all__)
