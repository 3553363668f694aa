"""Arrows point down, and the public names are those that are meant."""

import ast
import re
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
    {"runs.workers"},
    {"runs"},
    {"runs.progress", "runs.run"},
    {"runs.directory"},
    {"runs.formats"},
    {"runs.settings"},
    {"runs.curve"},
    {"lesson.printed"},
    {"lesson", "lesson.worked", "tasks.chart"},
    {"tasks"},
    {"tasks.labelled", "tasks.series", "tasks.text"},
    {"tasks.backtest"},
    {"tasks.data", "tasks.forecaster", "tasks.timeline"},
    {"tasks.table", "train.forcing"},
    {"train"},
    {"train.fitting"},
    {"train.loop", "train.truncated"},
    {"train.events", "train.order", "train.position", "train.schedules", "train.threads"},
    {"train.recipe"},
    {"tape"},
    {"tape.tape"},
    {"tape.widget"},
    {"tape.check", "tape.player", "tape.tapefile"},
    {"nn"},
    {"nn.convert", "nn.dynamo", "nn.elman", "nn.jordan", "nn.stream"},
    {"nn.cell", "nn.rnn"},
    {"nn.initial", "nn.options", "nn.segments", "nn.tracers"},
    {"nn.arguments"},
    {"nn.precision"},
    {"autograd"},
    {"autograd.long"},
    {"sheet.losses"},
    {"autograd.cells", "autograd.readout"},
    {"autograd.function", "autograd.onnx"},
    {"autograd.cell_operators", "autograd.operators"},
    {"engine", "engine.native_cells"},
    {"engine.cells", "engine.reference", "engine.native"},
    {"engine._native", "engine.activations", "engine.blocks", "engine.packing"},
    {"sheet"},
    {"sheet.notations"},
    {"sheet.sides"},
    {"sheet.derivation", "sheet.equations", "sheet.printing", "sheet.widths"},
    {"sheet.names"},
    {"sheet.language"},
    {"sheet.tokens"},
    {"sheet.cells", "sheet.expressions"},
    {"sheet.functions"},
    {"files", "files.outputs"},
    {"files.owned"},
    {"errors", "files.disk"},
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


def test_language_and_derivation_need_python_alone() -> None:
    for path in {*(ROOT / "sheet").glob("*.py")} - {ROOT / "sheet" / "losses.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                ours = module == "bptt.errors" or module.startswith("bptt.sheet")
                assert ours or module.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_public_names_are_sorted_and_there() -> None:
    assert bptt.__all__ == sorted(bptt.__all__)
    assert all(hasattr(bptt, name) for name in bptt.__all__)


def test_the_map_of_contributing_names_every_room() -> None:
    repository = ROOT.parents[1]
    table = (repository / "CONTRIBUTING.md").read_text().partition("| room | purpose |")[2]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    named = [name for row in rows for name in re.findall(r"`([\w/.]+)`", row)]
    listed = {name if "/" in name else f"src/bptt/{name}" for name in named}
    assert all((repository / name).exists() for name in listed), listed
    rooms = {f"src/bptt/{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    files = {f"src/bptt/{path.name}" for path in ROOT.glob("*.py")} - {"src/bptt/__init__.py"}
    assert rooms | files <= listed
