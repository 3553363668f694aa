"""Arrows point down, and the public names are those that are meant."""

import ast
import graphlib
import re
import sys
from pathlib import Path

import bptt

ROOT = Path(bptt.__file__).parent

# A room may import from those below its own floor.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"lesson", "runs"},
    {"tasks"},
    {"train"},
    {"nn", "tape"},
    {"autograd"},
    {"engine"},
    {"sheet"},
    {"files"},
    {"errors"},
    {"arrival", "startup"},
]


def modules() -> dict[str, set[str]]:
    """All modules by their dotted names below bptt, and the modules that each imports."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    del paths["__init__"]
    paths["engine._native"] = ROOT / "engine" / "_native.pyi"
    return {name: imported(path, set(paths)) - {name} for name, path in paths.items()}


def imported(path: Path, known: set[str]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bptt":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("bptt.")}
    return {found for name in names if (found := module(name.removeprefix("bptt."), known))}


def module(name: str, known: set[str]) -> str | None:
    """The longest known module that a dotted name begins with."""
    parts = name.split(".")
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), None)


def test_arrows_between_rooms_point_down() -> None:
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    for name, others in modules().items():
        own = name.split(".")[0]
        assert own in floor, f"the room {own} has no floor yet"
        for other in others:
            room = other.split(".")[0]
            assert room == own or floor[room] > floor[own], f"{name} imports {other}, which is not below it"


def test_no_module_imports_itself_in_a_circle() -> None:
    graphlib.TopologicalSorter(modules()).prepare()


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
