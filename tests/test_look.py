"""`bptt look`, and what is said of a table elsewhere: above a training, and again by those that read its run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bptt import runs
from bptt.cli import app

GERMAN = "Lastgang\nDatum;Last;Fehl;Art;fest\n" + "".join(
    f"{day:02}.{month:02}.2020;{900 + 7 * (day % 7)},5;{-999 if day in (3, 9) else day};{'ab'[day % 2]};1\n"
    for month in (1, 3)
    for day in range(1, 32)
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.csv").write_text(GERMAN)
    return tmp_path


def run(*command: str) -> str:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output


def test_look_shows_what_would_be_read() -> None:
    said = run("look", "g.csv")
    for line in (
        r"62 rows, 5 columns", "Cells    separated by semicolon", "Skipped  1 line above the names",
        "Numbers  decimal comma in Last", "'Datum', 01.01.2020 to 31.03.2020, every day", "rows the file leaves out",
        "Last   numbers  900.5 to 942.5, decimal", "Art    text     2 different: b, a", "--missing -999",
        "'fest' is the same in all rows", "bptt train g.csv -o runs/g --target Last",
    ):  # fmt: skip
        assert line in said, said
    facts = json.loads(run("look", "g.csv", "--json", "--missing", "-999"))
    assert (facts["rows"], facts["time"]["spacing"]) == (62, "day")
    assert {of["name"]: of["kind"] for of in facts["fields"]} == {
        "Datum": "times", "Last": "numbers", "Fehl": "numbers", "Art": "text", "fest": "numbers",
    }  # fmt: skip
    assert facts["fields"][2]["unknown"] == 4
    assert facts["commands"][0].endswith("--target Last --missing -999")


def test_look_names_what_tells_several_series_apart(here: Path) -> None:
    rows = [f"{k // 3},{'abc'[k % 3]},{k % 3},{k * 7 % 5}" for k in range(60)]
    (here / "p.csv").write_text("\n".join(["n,shop,size,sold", *rows]))
    said = run("look", "p.csv", "--time", "n")
    assert "Series   3 series by shop (a, b, c)" in said
    assert "Time     'n', 0 to 19, every 1" in said
    assert "bptt train p.csv -o runs/p --target sold --series shop --time n" in said
    facts = json.loads(run("look", "p.csv", "--time", "n", "--json"))
    assert facts["series"] == {"columns": ["shop"], "count": 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("day,v\n2020-01-01,1\n2020-01-01,2\n", "Time     cannot be used: Every time may occur once"),
        ("day,v\n2020-01-01,a\nsoon,b\n", "v    text"),
        ("x\n\n1\n\n", "rows are few to learn from"),
        ("x,y\n,\n,\n", "'x' is empty"),
        ("d,x\n" + "1,1,\n" * 40, "39 rows are the same as others"),
        ("d,x\n1,2\n2,zu\n3,4\n", "line 3 of"),
    ],
)
def test_look_says_what_is_odd(here: Path, content: str, said: str) -> None:
    (here / "odd.csv").write_text(content)
    assert said in run("look", "odd.csv")


def test_a_run_remembers_how_its_table_is_written(here: Path) -> None:
    rows = "".join(f"{day},1.{200 + day % 5}\n".replace(",", ";") for day in range(60))
    (here / "d.csv").write_bytes(("Tag;Größe\n" + rows).encode("cp1252"))
    options = ["--encoding", "cp1252", "--decimal", ","]
    said = run("train", "d.csv", "-o", "run", "--target", "Größe", "--time", "Tag", "--epochs", "1", *options)
    assert "Letters  cp1252, as given" in said
    assert "Numbers  thousands by points in Größe" in said
    assert {name: runs.read_settings(here / "run").about[name] for name in ("encoding", "decimal")} == {
        "encoding": "cp1252", "decimal": ",",
    }  # fmt: skip
    assert json.loads(run("forecast", "run", "--json"))["steps"][0]["Größe"]["forecast"] > 1000
    run("train", "-o", "run", "--resume", "--epochs", "2")
    result = CliRunner().invoke(app, ["train", "-o", "run", "--resume", "--decimal", "."])
    assert result.exit_code == 2
    assert "keeps its decimal, ','; got '.'" in result.output
