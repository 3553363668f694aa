"""`import bptt` and what a command says of itself cost no torch; every public name is there when it is asked for."""

import ast
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import bptt

HEAVY = "{'torch', 'numpy', 'polars', 'matplotlib'}"
ROOT = Path(bptt.__file__).parent


def python(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env={"PATH": "", **environment}, capture_output=True, text=True, check=False)


TYPED = f"""
import sys
from bptt.__main__ import main
sys.argv[0] = "bptt"
try:
    main()
except SystemExit as end:
    print(end.code or 0, *sorted({HEAVY} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("", 2),
        ("--help", 0),
        ("-h", 0),
        ("--version", 0),
        ("train --help", 0),
        ("trace -h", 0),
        ("trian", 2),
        ("train --hiden 3", 2),
        ("train -o new --hidden many", 2),
        ("train -o new --epochs 1 --steps 2", 2),
        ("trace hello --digits 99", 2),
        ("derive lstm", 0),
        ("derive gru --tex", 0),
        ("derive nowhere.txt", 2),
    ],
)
def test_what_needs_no_torch_does_not_import_it(typed: str, code: int) -> None:
    done = python(TYPED, *typed.split())
    assert done.stderr.splitlines()[-1] == str(code), done.stderr


def test_the_script_for_a_shell_is_for_bptt_by_whatever_path_it_was_called() -> None:
    script = python(
        TYPED.replace('"bptt"', '"/somewhere/bptt"'),
        "--show-completion",
        "bash",
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    ).stdout
    assert "_BPTT_COMPLETE=complete_bash" in script
    assert script.rstrip().endswith(" bptt")


@pytest.mark.parametrize(("typed", "offered"), [("tr", "train trace"), ("de", "derive"), ("train --hid", "--hidden")])
def test_a_shell_completes(typed: str, offered: str) -> None:
    """As the script of --show-completion asks for it."""
    words = f"/somewhere/bptt {typed}"
    asked = {"_BPTT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = python(TYPED.replace('"bptt"', '"/somewhere/bptt"'), **asked)
    assert (done.stdout.split(), done.stderr.split()) == (offered.split(), ["0"])


def test_a_command_that_works_imports_it() -> None:
    done = python(TYPED, "generate", "nowhere")
    assert done.stderr.splitlines()[-1].split()[:1] == ["2"]
    assert "torch" in done.stderr.splitlines()[-1]


def test_import_alone_imports_nothing_heavy() -> None:
    done = python(f"import bptt, sys; print(sys.modules.keys() & {HEAVY})")
    assert done.stdout == "set()\n", done.stderr


def seen_by_type_checkers() -> set[str]:
    """The names that `bptt/__init__.py` imports or declares for type checkers alone."""
    (block,) = [node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    imported = {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return imported | {ast.unparse(node.target) for node in block.body if isinstance(node, ast.AnnAssign)}


EACH_ALONE = """
import os, torch, bptt
for name in bptt.__all__:
    if os.fork() == 0:
        getattr(bptt, name)
        exec(f"from bptt import {name}")
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


def test_the_names_are_the_same_to_readers_type_checkers_and_python() -> None:
    assert set(bptt.__all__) == seen_by_type_checkers() == set(dir(bptt))
    done = python(EACH_ALONE)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_module_is_there_when_asked_for() -> None:
    modules = [module.name for module in pkgutil.iter_modules([str(ROOT)])]
    asked = "\n".join(f"assert bptt.{name}.__name__ == 'bptt.{name}'" for name in modules if not name.startswith("_"))
    assert python(f"import bptt\n{asked}").stderr == ""
    assert "no attribute 'nothing'" in python("import bptt; bptt.nothing").stderr
    assert "cannot import name 'nothing'" in python("from bptt import nothing").stderr


@pytest.mark.parametrize(
    "imports",
    [
        "import bptt, torch",
        "import torch, bptt",
        "import bptt.losses, torch",
        "import bptt, importlib; importlib.reload(bptt); import torch",
    ],
)
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.filterwarnings("ignore:bptt runs on the slow reference engine")
def test_a_saved_program_finds_our_operators(tmp_path: Path, imports: str) -> None:
    x, file = torch.ones(4, 1, 2), str(tmp_path / "saved.pt2")
    for layer in (bptt.nn.RNN(2, 3), bptt.nn.RNN(2, 3, leak=0.5), bptt.nn.Recurrent("gru", 2, 3)):
        torch.export.save(torch.export.export(layer, (x,)), file)
        done = python(
            f"{imports}; print(torch.export.load({file!r}).module()(torch.ones(4, 1, 2))[0].detach().sum().item())"
        )
        assert float(done.stdout) == pytest.approx(float(layer(x)[0].detach().sum())), done.stderr


def test_the_version_is_that_of_the_installed_package() -> None:
    assert bptt.__version__ == metadata.version("bptt")
    assert python(TYPED, "--version").stdout == f"bptt {metadata.version('bptt')}\n"
