"""`bptt train` and `bptt generate` as they are typed: what they print, leave behind and exit with."""

import inspect
import itertools
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from cases import weights_in
from commands import bptt
from typer.testing import CliRunner

from bptt import runs
from bptt.cli import app, commands
from bptt.cli import text as text_words
from bptt.files import owned
from bptt.runs import directory, progress
from bptt.tasks import TASKS, Text, data

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "the cat sat on the mat. " * 40
SMALL = "--hidden 8 --streams 4 --bptt 10"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a text, words.txt, to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS)
    return tmp_path


def start(command: str, **options: object) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "bptt", *shlex.split(command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, "text": True}
    return subprocess.Popen(arguments, **{**pipes, **options})  # type: ignore[arg-type]


def test_the_help_says_the_defaults_of_the_recipes() -> None:
    """The command line does not import the recipes for its help, and repeats their defaults."""
    said = {}
    for name, parameter in inspect.signature(commands.train).parameters.items():
        for option in get_args(parameter.annotation)[1:]:
            if isinstance(option.show_default, str):
                said[name] = option.show_default
    compared = 0
    for task, kind in TASKS.items():
        for field in fields(kind.Recipe):
            if field.default is not None and field.name in said:
                by_task = dict(part.split(": ") for part in said[field.name].split(", ") if ": " in part)
                default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
                assert by_task.get(task, said[field.name]) == default, field.name
                compared += 1
    assert compared > 25


def test_what_next_runs_where_the_shell_finds_no_bptt(here: Path) -> None:
    train = f"{sys.executable} -m bptt train words.txt -o runs/cat {SMALL} --steps 2"
    output = subprocess.check_output(train, shell=True, text=True)
    (generate,) = re.findall(r"^  (.* generate .*)", output, re.MULTILINE)
    assert generate.startswith(f"{sys.executable} -m bptt generate runs/cat")
    assert subprocess.check_output(generate, shell=True, text=True)


def test_train_then_generate(here: Path) -> None:
    output = bptt(f"train words.txt -o runs/cat {SMALL} --epochs 4")
    assert "960 characters, 11 different; 48 held out" in output
    assert re.search(r"epoch 4\.0/4  loss \d.*bits/char  held out \d.*chars/s  clipped \d+%  0:00 left", output)
    assert "\x1b" not in output
    following = re.findall(r"^  (bptt .*)", output, re.MULTILINE)
    assert following == [
        'bptt generate runs/cat --prime " " --length 400 --temperature 0.8',
        "bptt train -o runs/cat --resume --epochs 8",
    ]
    assert {file.name for file in (here / "runs/cat").iterdir()} == {
        runs.SETTINGS, runs.WEIGHTS, runs.LOG, runs.CHECKPOINT, runs.PREVIOUS, runs.CURVE, owned.RECORD,
    }  # fmt: skip
    text = bptt("generate runs/cat --prime 'the ' --length 50")
    assert text.startswith("the ")
    assert len(text) == 4 + 50 + 1
    assert text == bptt("generate runs/cat --prime 'the ' --length 50")
    assert text != bptt("generate runs/cat --prime 'the ' --length 50 --seed 1")
    greedy = bptt("generate runs/cat --prime 'the ' --length 50 --temperature 0")
    assert greedy == bptt("generate runs/cat --prime 'the ' --length 50 --temperature 0 --seed 1")
    assert greedy == bptt("generate runs/cat --prime 'the ' --length 50 --top-k 1 --seed 5")
    assert greedy == bptt("generate runs/cat --prime 'the ' --length 50 --top-p 0.001 --seed 5")
    few = json.loads(bptt("generate runs/cat --prime 'the ' --length 50 --top-k 2 --top-p 0.9 --json"))
    assert (few["top_k"], few["top_p"]) == (2, 0.9)
    assert few["text"] != text
    facts = json.loads(bptt("generate runs/cat --prime 'the ' --length 50 --json"))
    assert (facts["top_k"], facts["top_p"]) == (None, None)
    assert facts["prime"] + facts["text"] + "\n" == text
    for command in following:
        bptt(command.removeprefix("bptt "))


def test_learns_to_write_the_words(here: Path) -> None:
    bptt("train words.txt -o runs/cat --hidden 32 --streams 2 --bptt 20 --epochs 20 --lr 0.01")
    assert bptt("generate runs/cat --prime 'the c' --length 19 --temperature 0") == "the cat sat on the mat. \n"


@pytest.mark.parametrize(("unit", "known"), [("byte", 256), ("word", 8)])
def test_bytes_and_words_come_back_as_they_were(here: Path, unit: str, known: int) -> None:
    output = bptt(
        f"train words.txt -o run --unit {unit} --hidden 32 --streams 2 --bptt 20 --k1 10 --epochs 20 --lr 0.01"
    )
    assert re.search(rf"{unit}s, {known} (different|known)", output)
    assert f"bits per {unit}, held out" in output
    assert f"{unit}s/s" in output
    length = 19 if unit == "byte" else 6
    assert bptt(
        f"generate run --prime 'the c{'' if unit == 'byte' else 'at'}' --length {length} --temperature 0"
    ).startswith("the cat sat on the mat.")
    page = bptt("inspect run 'the cat sat'")
    assert f"bits per {unit} on this text" in page
    bptt("train -o run --resume --epochs 21")


def test_full_bptt_goes_back_through_whole_streams(here: Path) -> None:
    output = bptt("train words.txt -o run --hidden 8 --streams 2 --bptt full --epochs 3")
    assert "Windows  none: 2 streams from end to end, 455 steps back" in output
    assert "step 3 of 3" in output
    bptt("train -o run --resume --epochs 4")


def test_json_is_all_there_is_on_stdout(here: Path) -> None:
    lines = bptt(f"train words.txt -o runs/cat {SMALL} --steps 30 --json").splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["event"] == "settings"
    assert events[0]["recipe"]["steps"] == 30
    assert {event["event"] for event in events[1:]} == {"steps", "evaluation", "stop"}
    assert events[-1]["reason"] == "finished"
    assert events[1:] == runs.read_log(here / "runs/cat")[1:]


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


@FULL
def test_a_training_whose_stdout_is_full_ends_saved(here: Path) -> None:
    with open("/dev/full", "w") as full:
        process = start(f"train words.txt -o run {SMALL} --steps 20", stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(r"Error: .*stdout refused it: No space left on device\. The command went on .*\n", errors)
    assert runs.read_log(here / "run")[-1]["reason"] == "finished"
    assert (here / "run" / runs.CURVE).exists()


def test_a_training_whose_reader_leaves_ends_saved(here: Path) -> None:
    with start(f"train words.txt -o run {SMALL} --steps 200 --json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["event"] == "settings"
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert runs.read_log(here / "run")[-1]["reason"] == "finished"


@pytest.mark.parametrize("command", ["trace hello", "trace hello --json", "generate run", "--help", "--version"])
def test_a_reader_that_leaves_is_no_error(here: Path, command: str) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 2")
    reader, stdout = os.pipe()
    os.close(reader)
    process = start(command, stdout=stdout)
    os.close(stdout)
    assert (process.communicate()[1], process.returncode) == ("", 0)


@FULL
def test_a_stdout_that_is_full_ends_what_only_prints() -> None:
    with open("/dev/full", "w") as full:
        process = start("--help", stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(r"Error: .*stdout refused it: No space left on device\. The command ended there\. .*\n", errors)


def test_names_that_are_not_utf_8(here: Path) -> None:
    strange = os.fsdecode(b"w\xff.txt")
    (here / "words.txt").rename(strange)
    bptt(f"train {strange} -o run {SMALL} --steps 2")
    assert runs.read_settings(here / "run").source == str(here / strange)
    bptt("train -o run --resume --steps 3")
    assert "must be UTF-8; got" in bptt(f"train {strange} -o {os.fsdecode(bytes([0xFF]))} {SMALL}", code=2)
    assert {file.name for file in here.iterdir()} == {"run", strange}


def test_same_command_same_weights(here: Path) -> None:
    for name in ("one", "two"):
        bptt(f"train words.txt -o {name} {SMALL} --steps 20")
    assert weights_in(here / "one") == weights_in(here / "two")


TRAIN_MISTAKES = {
    "train missing.txt -o new": r"must be a file; there is none at missing\.txt\. Check the path",
    "train . -o new": r"\. is a directory\. Name a file in it",
    "train empty.txt -o new": r"must not be empty; empty\.txt holds no characters",
    "train latin.txt -o new": r"must be UTF-8; .*latin\.txt is not: byte 0xe9 at offset 3 .*--unit byte",
    "train short.txt -o new": r"32 streams x 64 steps \+ 1 = 2049 symbols; got 190\. .*--streams 2",
    "train tiny.txt -o new": r"held-out part must have at least 2 symbols; .*--held-out 0",
    "train words.txt -o run": r"run holds one\. Go on with it: --resume\. Replace it: --overwrite",
    "train words.txt -o words.txt": r"output must be a directory, new or old; words\.txt is a file",
    "train words.txt -o words.txt/run": r"is a file or lies below one",
    "train words.txt -o new --resume": r"new holds no settings\.json\. Train one first: bptt train -o new",
    "train words.txt -o run --resume --overwrite": r"got both --resume and --overwrite",
    "train words.txt -o new --epochs 2 --steps 9": r"got both\. Leave one out",
    "train other.txt -o run --resume": r"unknown: 'x'",
    "train shorter.txt -o run --resume": r"sha256 [0-9a-f]{12}; got 936 chars",
    "train words.txt -o run --resume --hidden 9": r"keeps its hidden, 8; got 9",
    "train words.txt -o new --hidden 0": r"hidden must be a whole number of at least 1; got 0",
    "train words.txt -o new --layers -1": r"layers must be a whole number of at least 1; got -1",
    "train words.txt -o new --lr nan": r"lr must be a number above 0 .*; got nan",
    "train words.txt -o new --lr -0.1": r"lr must be a number above 0 .*; got -0\.1",
    "train words.txt -o new --clip 0": r"clip must be a number above 0 .*; got 0\.0",
    "train words.txt -o new --clip nan": r"clip must be a number above 0 .*; got nan",
    "train words.txt -o new --time-limit 0": r"--time-limit must be a number above 0 .*; got 0\.0",
    "train words.txt -o new --held-out 1": r"--held-out must be a share from 0 up to, not including, 1; got 1\.0",
    "train words.txt -o new --k1 65": r"k1 must be at most bptt; got k1=65, bptt=64",
    "train words.txt -o new --bptt some": r"--bptt is a number of steps, or full for whole streams; got 'some'",
    "train words.txt -o new --unit letter": r"unit must be one of character, byte, word; got 'letter'",
    "train words.txt -o run --resume --unit byte": r"keeps its unit, 'character'; got 'byte'",
    "train words.txt -o new --seed -1": r"seed must be a whole number from 0",
    "train words.txt -o new --nonlinearity gelu": r"must be one of tanh, relu, sigmoid, identity; got 'gelu'",
    "train words.txt -o new --optimizer lion": r"must be one of adam, sgd; got 'lion'",
}

GENERATE_MISTAKES = {
    "generate new": r"new holds no settings\.json\. Train one first",
    "generate words.txt": r"words\.txt holds no settings\.json",
    "generate run --prime 'the dog!'": r"unknown: '!', 'd', 'g'\. Known: ' \.acehmnost'",
    "generate run --prime ''": r"prime must have at least one character",
    "generate run --length 0": r"length must be a whole number of at least 1; got 0",
    "generate run --temperature nan": r"temperature must be 0 .* or a number above; got nan",
    "generate run --temperature -1": r"temperature must be 0 .* or a number above; got -1\.0",
    "generate run --seed -1": r"seed must be a whole number from 0",
    "generate truncated": r"truncated/weights\.safetensors must be a file as bptt train wrote it",
    "generate foreign": r"foreign/weights\.safetensors .* it was not written by bptt",
    "generate corrupted": r"corrupted/settings\.json must be a file as bptt train wrote it",
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and runs to make mistakes with."""
    at = tmp_path_factory.mktemp("mistakes")
    (at / "words.txt").write_text(WORDS)
    (at / "other.txt").write_text(WORDS + "x")
    (at / "shorter.txt").write_text(WORDS[24:])
    (at / "short.txt").write_text(WORDS[:200])
    (at / "tiny.txt").write_text("hello")
    (at / "empty.txt").write_text("")
    (at / "latin.txt").write_bytes("café".encode("latin1"))
    for name in ("run", "truncated", "foreign", "corrupted"):
        bptt(f"train {at}/words.txt -o {at}/{name} {SMALL} --steps 2")
    weights = at / "truncated" / runs.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    (at / "foreign" / runs.WEIGHTS).write_bytes((8).to_bytes(8, "little") + b"{}      ")
    (at / "corrupted" / runs.SETTINGS).write_text('{"schema": 1,')
    return at


@pytest.mark.parametrize("command", [*TRAIN_MISTAKES, *GENERATE_MISTAKES])
def test_mistakes_get_a_message_and_exit_code_2(command: str, mistakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistakes)
    before = {file: file.is_file() and file.stat().st_mtime_ns for file in mistakes.rglob("*")}
    message = bptt(command, code=2)
    assert message.startswith("Error: ")
    assert re.search((TRAIN_MISTAKES | GENERATE_MISTAKES)[command], message), message
    assert {file: file.is_file() and file.stat().st_mtime_ns for file in mistakes.rglob("*")} == before


def test_usage_errors_exit_2_as_well() -> None:
    assert "Missing option" in bptt("train words.txt", code=2)
    assert "--hidden" in bptt("train -o new --hidden many", code=2)
    assert "No such option" in bptt("generate new --wrong", code=2)


PATHS = [
    (command.__name__, parameter)
    for command in [registered.callback for registered in app.registered_commands if registered.callback]
    for parameter in inspect.signature(command).parameters.values()
    if re.search(r"\bPath\b", str(get_args(parameter.annotation)[:1]))
]


@pytest.mark.parametrize(("name", "parameter"), PATHS, ids=[f"{name} {one.name}" for name, one in PATHS])
def test_an_empty_path_is_refused(here: Path, name: str, parameter: inspect.Parameter) -> None:
    before = {file: file.stat().st_mtime_ns for file in here.iterdir()}
    if parameter.name in ("run", "file"):
        given = {"generate run": "''", "inspect run": "'' text", "forecast run": "''", "classify run": "'' words.txt"}
        given |= {"score run": "'' words.txt", "look file": "''", "diagnose run": "''"}
        typed = given.get(f"{name} {parameter.name}", "'' -o new" if name == "train" else "run ''")
    else:
        rest = {"train": "-o new words.txt", "classify": "run words.txt", "inspect": "run text"}.get(name, "run")
        typed = f"{rest} --{parameter.name.replace('_', '-')} ''"
    assert "A path must not be empty; got ''" in bptt(f"{name} {typed}", code=2)
    assert {file: file.stat().st_mtime_ns for file in here.iterdir()} == before


def test_entries_of_the_gradient_are_clipped_and_a_resumed_run_may_change_that(here: Path) -> None:
    assert ", clip off, values at 0.02, " in bptt(
        f"train words.txt -o run {SMALL} --steps 2 --clip inf --clip-value 0.02"
    )
    settings = runs.read_settings(here / "run")
    written = settings.as_json()
    assert written["recipe"].pop("clip_value") == 0.02
    old = runs.Settings.from_json(written)  # as before there was such a limit
    assert (old.recipe.clip_value, old.fingerprint) == (None, settings.fingerprint)
    bptt("train -o run --resume --steps 4 --clip-value 0.5")
    assert runs.read_settings(here / "run").recipe.clip_value == 0.5


def test_overwrite_with_a_mistake_keeps_the_old_run(here: Path) -> None:
    bptt(f"train words.txt -o run {SMALL} --steps 2")
    before = {file.name: file.read_bytes() for file in (here / "run").iterdir()}
    bptt("train missing.txt -o run --overwrite", code=2)
    bptt("train words.txt -o run --overwrite --streams 1000", code=2)
    assert {file.name: file.read_bytes() for file in (here / "run").iterdir()} == before
    bptt(f"train words.txt -o run {SMALL} --steps 3 --overwrite")
    assert runs.read_settings(here / "run").recipe.steps == 3


def test_unwritable_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(directory.tempfile, "TemporaryFile", refuse)
    assert "new cannot be written: Permission denied" in bptt("train words.txt -o new --streams 4", code=2)


def test_nan_says_at_which_step_and_keeps_the_last_weights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.nn.utils.get_total_norm
    norms = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: original(gradients) * next(norms))
    message = bptt(f"train words.txt -o run {SMALL}", code=1)
    assert "must be finite; at step 3 they were not. run/weights.safetensors holds the last good weights" in message
    assert "--resume --lr" in message
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", original)
    bptt("train words.txt -o run --resume --lr 0.001 --epochs 1")
    settings, _ = runs.load(here / "run")
    assert settings.recipe.lr == 0.001


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_signals_save_everything_and_resume_goes_on_to_the_bit(here: Path, number: int, code: int) -> None:
    process = start(f"train words.txt -o parts {SMALL} --epochs 1000000 --json")
    assert process.stdout is not None
    steps = 0
    while steps < 25:
        steps = json.loads(process.stdout.readline()).get("step", 0)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (code, "")
    stop = json.loads(stdout.splitlines()[-1])
    assert (stop["event"], stop["reason"]) == ("stop", "interrupted")
    assert (here / "parts" / runs.CURVE).exists() is (number == signal.SIGINT)
    run, training = runs.resume("parts")
    assert isinstance(training.task, Text)
    assert training.step == stop["step"] >= 25
    target = training.step + 30
    training.run(save=run.save, should_stop=lambda: training.step >= target)
    run, whole = runs.start("whole", Text(data.read("words.txt"), training.task.recipe))
    whole.run(should_stop=lambda: whole.step >= target)
    assert whole.tensors().keys() == training.tensors().keys()
    assert all(torch.equal(tensor, training.tensors()[name]) for name, tensor in whole.tensors().items())


def test_sigterm_ends_at_once_where_there_is_nothing_to_save(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_to_end(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr("bptt.runs.start", asked_to_end)
        assert bptt(f"train words.txt -o run {SMALL}") == ""
        assert not (here / "run").exists()
    with monkeypatch.context() as patched:
        patched.setattr(text_words, "conclusion", asked_to_end)
        assert "Saved in run" in bptt(f"train words.txt -o run {SMALL}")
        assert (here / "run" / runs.CURVE).exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_second_hangup_of_a_closing_terminal_loses_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = itertools.count()

    def hang_up_twice(*_: object) -> None:
        if next(events) == 0:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(progress.PlainLines, "__call__", hang_up_twice)
    assert "Saved in run" in bptt(f"train words.txt -o run {SMALL}")


def test_a_hangup_beside_sigterm_loses_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd ends a session. Python hears them by number when they wait together, SIGHUP first."""
    events, both = itertools.count(), {signal.SIGTERM, signal.SIGHUP}

    def end_the_session(*_: object) -> None:
        if next(events) == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            for number in both:
                os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)

    monkeypatch.setattr(progress.PlainLines, "__call__", end_the_session)
    assert "Saved in run" in bptt(f"train words.txt -o run {SMALL}")


def test_a_hangup_that_was_ignored_stays_ignored(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.PlainLines, "__call__", lambda *_: signal.raise_signal(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert "Done after" in bptt(f"train words.txt -o run {SMALL} --steps 3")
    finally:
        signal.signal(signal.SIGHUP, before)


IMPORTING = """
import os, signal
os.write(1, b"importing\\n")
while True:
    signal.pause()
"""


def importing(here: Path, command: str, module: str, hangup: Any = signal.SIG_DFL) -> subprocess.Popen[str]:
    """The command, at the moment in which it imports the module, which will never end."""
    (here / "stubs").mkdir()
    (here / "stubs" / f"{module}.py").write_text(IMPORTING)

    def as_a_shell_starts_it() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, hangup)

    environment = {**os.environ, "PYTHONPATH": str(here / "stubs"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = start(command, env=environment, preexec_fn=as_a_shell_starts_it)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("train words.txt -o new", "typer"),
        ("train words.txt -o new", "torch"),
        ("generate new", "torch"),
        ("inspect new text -o new", "torch"),
        ("score new words.txt", "torch"),
        ("forecast new -o new", "numpy"),
        ("classify new words.txt -o new", "numpy"),
        ("trace hello", "torch"),
    ],
)
def test_a_signal_while_python_imports_ends_in_silence(here: Path, number: int, command: str, module: str) -> None:
    process = importing(here, command, module)
    process.send_signal(number)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 128 + number)
    assert {path.name for path in here.iterdir()} == {"stubs", "words.txt"}


def test_nohup_holds_while_python_imports(here: Path) -> None:
    process = importing(here, "trace hello", "torch", hangup=signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 128 + signal.SIGTERM)


def test_interrupted_run_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = itertools.count()

    def interrupt_once(*_: object) -> None:
        if next(events) == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress.PlainLines, "__call__", interrupt_once)
    result = CliRunner().invoke(app, shlex.split(f"train words.txt -o 'my run' {SMALL}"), prog_name="bptt")
    assert result.exit_code == 130
    assert "Stopped as asked after" in result.stdout
    assert "  bptt train -o 'my run' --resume\n" in result.stdout


def test_module_runs_and_a_mistake_shows_no_traceback(here: Path) -> None:
    process = start("train missing.txt -o new")
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith("Error: The text to train on")
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize("no_colour", [False, True])
def test_terminal_gets_a_bar_and_no_color_plain_lines(here: Path, no_colour: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    if no_colour:
        environment["NO_COLOR"] = "1"
    process = start(f"train words.txt -o run {SMALL} --epochs 3", stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=20) == 0
    text = shown.decode()
    assert ("\x1b" in text) is not no_colour
    for word in ("loss", "bits/char", "held out", "chars/s", "clip", "left", "What next:"):
        assert word in text, word


@pytest.mark.parametrize("command", ["train", "generate"])
def test_help_shows_examples(command: str) -> None:
    assert f"bptt {command} " in bptt(f"{command} --help").split("Examples")[1]
