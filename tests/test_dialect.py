"""Tables as the world writes them: what is read of each, what is said of it, or which option settles a doubt."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt.errors import InputError
from bptt.tasks import table
from bptt.tasks.table import Dialect

NAN = np.nan
SIMPLE = "d,x\n1,2\n2,3\n"


def read(tmp_path: Path, content: str | bytes, name: str = "t.csv", **said: Any) -> table.Table:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table.read(path, Dialect(**said))


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_csv", ".csv"), content)
    return buffer.getvalue()


READ = {  # the file, its columns, a column and its numbers, and a line that is said
    "sep": ("sep=;\nd;x\n1;1,5\n2;2,5\n", "d x", [1.5, 2.5], "Cells    separated by semicolon"),
    "sep in quotes": ('"sep=,"\nd,x\n1,1.5\n2,2.5\n', "d x", [1.5, 2.5], ""),
    "tab": ("d\tx\n1\t1,5\n2\t2,5\n", "d x", [1.5, 2.5], "Cells    separated by tab"),
    "bar": ("d|x\n1|1.5\n2|2.5\n", "d x", [1.5, 2.5], "Cells    separated by bar"),
    "drawn with bars": ("| d | x |\n|---|---|\n| 1 | 1.5 |\n| 2 | 2.5 |\n", "d x", [1.5, 2.5], "2 empty columns"),
    "of a database": (" d | x \n---+-----\n 1 | 1.5\n 2 | 2.5\n(2 rows)\n", "d x", [1.5, 2.5], "'(2 rows)'"),
    "blanks": ("d     y    x\n1   1.5  3\n20  2.5  4\n", "d y x", [3, 4], "Cells    separated by blanks"),
    "R, separated by blanks": ('"y" "x"\n"1" 3 "1.5"\n"2" 4 "2.5"\n', "row+name y x", [1.5, 2.5], "called 'row name'"),
    "R, without quotes": ("a b x\nr1 1.5 3 5\nr2 2.5 4 6\n", "row+name a b x", [5, 6], "called 'row name'"),
    "R, write.csv": ('"","x"\n"1",1.5\n"2",2.5\n', "column+1 x", [1.5, 2.5], ""),
    "pandas": (",0,x\n0,1.5,2\n1,3.5,4\n", "column+1 0 x", [2, 4], ""),
    "blanks after commas": ('d, n, x\n1, "a, b", 2\n2, c, 3\n', "d n x", [2, 3], ""),
    "comma at the end of each line": ("d,x,\n1,2,\n2,3,\n", "d x", [2, 3], "1 empty column without a name"),
    "comma at the end of each row": ("d,x\n1,2,\n2,3,\n", "d x", [2, 3], "1 empty column without a name"),
    "comma after the names": ("d,x,\n1,2\n2,3\n", "d x", [2, 3], ""),
    "title": ("Load\ndate,x\n2020-01-01,5\n2020-01-02,6\n", "date x", [5, 6], "Skipped  1 line above the names"),
    "title with a comma": ("Load, in MW\nd,y,x\n1,5,1\n2,6,2\n", "d y x", [1, 2], "Skipped  1 line above the names"),
    "titles of a sheet": ("Load,,,\n,,,\nd,x,,\n1,2,,\n2,3,,\n,,,\n", "d x", [2, 3], "1 line below the table"),
    "facts above": ("Station,Berlin\nUnit,degrees\nd,x\n1,5\n2,6\n3,7\n", "d x", [5, 6, 7], "2 lines above the names"),
    "bank": (
        "Konto:;DE12\nVon:;01.01.2020\n\nTag;x;Saldo\n01.01.2020;-1.234,56;10,00\n02.01.2020;5,00;15,00\n",
        "Tag x Saldo", [-1234.56, 5], "Skipped  2 lines above the names",
    ),
    "World Bank": (
        '"Data Source","WDI",\n\n"Last Updated","2020-07-01",\n\n"Country","Code","x","1961",\n"Aruba","ABW",'
        '"1.5","3",\n"Chad","TCD","","4",\n', "Country Code x 1961", [1.5, NAN], "Skipped  2 lines above the names",
    ),
    "Statistisches Bundesamt": (
        "Index: Deutschland, Jahre\nIndex\nJahr;Index;x\n;2015=100;Prozent\n1991;65,5;...\n1992;68,8;5,0\n"
        "1993;71,9;4,5\n__________\n(C) Statistisches Bundesamt\nStand: 01.01.2020 / 10:00:00\n",
        "Jahr Index x", [NAN, 5, 4.5], "Skipped  3 lines below the table, from line 8 on: '__________'",
    ),
    "units": ("date,x,v\n,°C,m/s\n2020-01-01,5,1\n2020-01-02,6,2\n", "date x v", [5, 6], "1 line of units below"),
    "units in brackets": ("d,x\nyyyy,[C]\n2020-01-01,5\n2020-01-02,6\n", "d x", [5, 6], "1 line of units below"),
    "first values unknown": ("date,x\n2020-01-01,NA\n2020-01-02,\n2020-01-03,6\n", "date x", [NAN, NAN, 6], ""),
    "note": ("d,x\n1,5\n2,6\nSource: own, 2020, all\n", "d x", [5, 6], "from line 4 on: 'Source: own, 2020, all'"),
    "note of as many cells": ("d,x\n1,5\n2,6\n\nSource: own, 2020\n", "d x", [5, 6], "1 line below the table"),
    "total": ("date,x\n2020-01-01,1\n2020-01-02,3\nTotal,4\n", "date x", [1, 3], "from line 4 on: 'Total,4'"),
    "comments": ("# by me\n# 2020\nd,x\n1,2\n# so, what\n2,3\n", "d x", [2, 3], "Skipped  3 comments"),
    "names in a comment": ("# d x\n1.0 2.0\n3.0 4.5\n", "d x", [2, 4.5], "Names    from the comment in line 1"),
    "numbers with #": ("id,x\n#1,1\n#2,3\n", "id x", [1, 3], ""),
    "names again": ("d,x\n1,1\nd,x\n2,3\n", "d x", [1, 3], "Skipped  1 line with the names again"),
    "years as names": ("Country,2000,x\nA,1,2\nB,3,4\n", "Country 2000 x", [2, 4], ""),
    "separators in text": ("name; size, in m;x\na, b;s, t;1\nc, d;u, v;2\n", "name size,+in+m x", [1, 2], "semicolon"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_what_is_read_and_said(tmp_path: Path, kind: str) -> None:
    content, names, numbers, said = READ[kind]
    found = read(tmp_path, content)
    assert found.columns == [name.replace("+", " ") for name in names.split()]
    np.testing.assert_array_equal(found.numbers("x"), numbers)
    lines = found.assumed(["x"])
    assert any(said in line for line in lines) if said else not [line for line in lines if "Skipped" in line], lines


NUMBERS: dict[str, tuple[list[float], str]] = {  # cells of column x between semicolons
    "1,5|2": ([1.5, 2], "decimal comma in x"),
    "0,123|1,231": ([0.123, 1.231], "decimal comma in x"),
    "1.234,56 €|-12,00 €": ([1234.56, -12], "decimal comma in x; thousands by points in x; € left out in x"),
    "€ 12|-€5|€ -3": ([12, -5, -3], "€ left out"),
    "-$5|$1,200.50": ([-5, 1200.5], "thousands by commas in x; $ left out"),
    "EUR 1.000.000|5 EUR": ([1e6, 5], "thousands by points in x; EUR left out"),
    "(1,234)|2,345,000|-5": ([-1234, 2345000, -5], "parentheses for below zero"),
    "($1,234.50)|$2.00": ([-1234.5, 2], "parentheses for below zero"),
    "12 %|11,5 %": ([12, 11.5], "% left out (12 % is 12)"),
    "1 231|1\u202f231,5|12\u00a0000": ([1231, 1231.5, 12000], "decimal comma in x; thousands by blanks"),
    "1'231.5|2\u2019000": ([1231.5, 2000], "thousands by apostrophes"),
    "12,34,567|1,00,000": ([1234567, 100000], "thousands by commas"),
    "1.231.000|5": ([1231000, 5], "thousands by points"),
    "1e5|+3|\u22124|5-|.5|-.5": ([1e5, 3, -4, -5, 0.5, -0.5], "minus behind"),
    "-,5|1,5E3": ([-0.5, 1500], "decimal comma"),
    "1.2 p|3.4|: c|5.6*": ([1.2, 3.4, NAN, 5.6], "marks behind numbers left out (*, p)"),
    "5 e|:|6": ([5, NAN, 6], "':' in 1 of x"),
    "1|?|.|-|..|\u2013|#N/A|n.a.|NaT|NULL": ([1] + 9 * [NAN], "'?' in 1 of x"),
}


@pytest.mark.parametrize("cells", NUMBERS)
def test_how_numbers_are_written(tmp_path: Path, cells: str) -> None:
    numbers, said = NUMBERS[cells]
    rows = "".join(f"r;{cell}\n" for cell in cells.split("|"))
    found = read(tmp_path, f"kind;x\n{rows}")
    np.testing.assert_allclose(found.numbers("x"), numbers)
    assert any(said in line for line in found.assumed(["x"])), found.assumed(["x"])


DOUBTS: dict[str, tuple[str, str, dict[str, list[float]]]] = {  # the file, the message, numbers by --decimal
    "thousands in quotes": (
        'd,x\n1,"1,231"\n2,"4,500"\n', r"line 2 of .* has '1,231'\. It may stand for 1231 or 1\.231, .* say "
        r"--decimal \. for 1231, or --decimal , for 1\.231\.", {".": [1231, 4500], ",": [1.231, 4.5]},
    ),
    "thousands by points": (
        "d;x\n1;1.231\n2;4.500\n", r"1\.231 or 1231, .* --decimal \. for 1\.231, or --decimal , for 1231",
        {".": [1.231, 4.5], ",": [1231, 4500]},
    ),
    "months say nothing": ("d;x\n12.2020;1.231\n01.2021;2.300\n", r"--decimal \. for 1\.231", {",": [1231, 2300]}),
    "with a sign": ('d,x\n1,"-$1,200"\n2,"$3,400"\n', r"--decimal \. for 1200", {".": [-1200, 3400]}),
    "one column": ("x\n1,5\n2,5\n", r"1 name and 2 cells .* '1, 5'.* say --decimal ,", {",": [1.5, 2.5]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", DOUBTS)
def test_a_doubt_is_asked_and_never_guessed(tmp_path: Path, kind: str) -> None:
    content, message, by_decimal = DOUBTS[kind]
    with pytest.raises(InputError, match=message):
        read(tmp_path, content).numbers("x")
    for decimal, numbers in by_decimal.items():
        assert read(tmp_path, content, decimal=decimal).numbers("x").tolist() == numbers


def test_other_columns_settle_a_doubt(tmp_path: Path) -> None:
    found = read(tmp_path, "d;x;y\n1;1.231;0,5\n2;4.500;1,25\n")
    assert found.numbers("x").tolist() == [1231, 4500]
    assert "thousands by points as in other columns in x" in found.assumed(["x"])[-1]
    assert read(tmp_path, 'd,x,y\n1,"1,231",0.5\n2,"4,500",1.25\n').numbers("x").tolist() == [1231, 4500]
    assert read(tmp_path, "d,x\n1,1.231\n2,4.500\n").numbers("x").tolist() == [1.231, 4.5]


REFUSED = {
    "two marks": ("d;x\n1;1,5\n2;2.5\n", r"the same mark .* line 2 of .* has '1,5'\. Another cell has '2\.5'"),
    "two units": ("d,x\n1,$12\n2,€5\n", r"in one unit; line 3 of .* has '€5'\. Other cells have \$"),
    "shares and percent": ("d,x\n1,12%\n2,0.5\n", r"in one unit; line 3 of .* has '0\.5'\. Other cells have %"),
    "a unit of its own": ("d,x\n1,5 s\n2,6 s\n", r"must hold numbers; line 2 of .* has '5 s'"),
    "a text": ("d,x\n1,5\n2,zu\n3,4\n", r"line 3 of .* has 'zu'\. .* say --missing zu"),
    "decimal commas between commas": (
        "date,x\n2020-01-01,1,5\n2020-01-02,2,5\n", r"2 names and 3 cells .* '2020-01-01, 1, 5'\. If a comma stands"),
    "more of them": ("date,y,x\n2020-01-01,1,5,2,5\n2020-01-02,1,5,2,5\n", r"3 columns .* line 2 of .* has 5"),
    "no names": ("2020-01-01,1\n2020-01-02,3\n", r"must name its columns; .*'2020-01-01, 1'.* --header none"),
    "no names beside text": ("5.1,3.5,a\n4.9,3.0,b\n", r"'5\.1, 3\.5, a'.* --header none"),
    "cut": ("date,y,x\n2020-01-01,1,2\n2020-01-02,3\n", r"line 3 of .* has 2, separated by comma"),
    "a note in the middle": ("date,x\n1,2\nSource: me\n2,3\n", r"line 3 of .* has 1, separated by comma"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(tmp_path: Path, kind: str) -> None:
    content, message = REFUSED[kind]
    with pytest.raises(InputError, match=message):
        read(tmp_path, content).numbers("x")


def test_without_names_columns_are_numbered(tmp_path: Path) -> None:
    found = read(tmp_path, "2020-01-01,1\n2020-01-02,3\n", header="none")
    assert found.columns == ["column 1", "column 2"]
    assert found.numbers("column 2").tolist() == [1, 3]


def test_what_was_said_to_be_missing(tmp_path: Path) -> None:
    content = "date,x,kind\n2020-01-01,-999,zu\n2020-01-02,3,a\n2020-01-03,-999.0,-999\n"
    found = read(tmp_path, content, missing=("-999", "zu", "foo"))
    np.testing.assert_array_equal(found.numbers("x"), [NAN, 3, NAN])
    assert found.texts("kind") == [None, "a", None]
    assert [line for line in found.assumed() if line.startswith("Unknown")] == [
        "Unknown  '-999' in 3 cells, as given",
        "Unknown  'zu' in 1 cell, as given",
        "Unknown  'foo' in no cell, as given",
    ]


@pytest.mark.parametrize(("marker", "odd"), [("-999", True), ("-9999.9", True), ("12", False)])
def test_a_number_that_looks_like_a_marker_is_told(tmp_path: Path, marker: str, odd: bool) -> None:
    rows = [*"1357", marker, *"2468", marker, "9"]
    found = read(tmp_path, "x\n" + "\n".join(rows) + "\n")
    assert found.numbers("x")[4] == float(marker)
    lines = [f"Odd      {marker} in 2 cells of x is far from all others: if it stands for an unknown value, say "]
    assert found.assumed(["x"]) == ([lines[0] + f"--missing {marker}"] if odd else [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_letters_that_show_themselves(tmp_path: Path, encoding: str) -> None:
    found = read(tmp_path, "Größe;x\né;1,5\nß;2,5\n".encode(encoding))
    assert (found.columns, found.texts("Größe")) == (["Größe", "x"], ["é", "ß"])


def test_other_letters_are_asked_for(tmp_path: Path) -> None:
    content = "Umsätze;x\n5 €;1\n6 €;2\n".encode("cp1252")
    with pytest.raises(InputError, match=r"byte 0xe4 in line 1 .*--encoding cp1252 .* reads 'Umsätze;x'\), latin-1"):
        read(tmp_path, content)
    found = read(tmp_path, content, encoding="cp1252")
    assert found.columns == ["Umsätze", "x"]
    assert found.assumed()[0] == "Letters  cp1252, as given"
    wrong = read(tmp_path, "Umsätze;x\n5;1\n", encoding="latin-1")
    assert wrong.assumed()[0] == "Letters  latin-1, as given; they would be UTF-8 without the option"
    with pytest.raises(InputError, match=r"must be ascii, as --encoding says; .* byte 0xe4 in line 1"):
        read(tmp_path, content, encoding="ascii")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"encoding": "klingon"}, "one that Python knows, .*'klingon'"),
        ({"decimal": ";"}, "a comma or a point.*';'"),
        ({"header": "2"}, "--header none; got '2'"),
    ],
)
def test_what_cannot_be_said(said: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dialect.of(said)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda raw: zipped(t_csv=raw.decode())])
def test_packed_files_are_unpacked(tmp_path: Path, pack: Any) -> None:
    packed = pack(SIMPLE.encode())
    assert read(tmp_path, packed).numbers("x").tolist() == [2, 3]
    with pytest.raises(InputError, match=r"can be unpacked; .* Fetch or pack it again"):
        read(tmp_path, packed[: len(packed) // 2])


def test_of_several_packed_files_one_is_named(tmp_path: Path) -> None:
    packed = zipped(a_csv=SIMPLE, b_csv="d,x\n1,5\n", __MACOSX_="")
    with pytest.raises(InputError, match=r"holds 3 files: a\.csv, b\.csv, __MACOSX_\. Name one with --sheet FILE"):
        read(tmp_path, packed)
    found = read(tmp_path, packed, sheet="b.csv")
    assert (found.numbers("x").tolist(), found.assumed()) == ([5], ["Unpacked b.csv"])


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is PDF\. Unpack it, or save it as CSV"):
        read(tmp_path, b"%PDF-1.4 ...")


def workbook(**sheets: list[list[Any]]) -> bytes:
    """A workbook with text and numbers, as a spreadsheet writes it."""
    space = "http://schemas.openxmlformats.org"
    relations, types = f"{space}/package/2006/relationships", f"{space}/package/2006/content-types"
    main, of = f"{space}/spreadsheetml/2006/main", f"{space}/officeDocument/2006/relationships"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        parts = "".join(
            f'<Override PartName="/xl/s{n}.xml" ContentType="{kind}.worksheet+xml"/>' for n in range(len(sheets))
        )
        file.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{types}"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
            f'relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
            f"{parts}</Types>",
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{relations}"><Relationship Id="r" Type="{of}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        named = "".join(f'<sheet name="{name}" sheetId="{n + 1}" r:id="s{n}"/>' for n, name in enumerate(sheets))
        file.writestr("xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{of}"><sheets>{named}</sheets></workbook>')
        links = "".join(
            f'<Relationship Id="s{n}" Type="{of}/worksheet" Target="s{n}.xml"/>' for n in range(len(sheets))
        )
        file.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{relations}">{links}</Relationships>')
        for n, rows in enumerate(sheets.values()):
            lines = "".join(
                f'<row r="{at}">'
                + "".join(
                    f'<c r="{"ABCDE"[place]}{at}"><v>{cell}</v></c>' if isinstance(cell, float)
                    else f'<c r="{"ABCDE"[place]}{at}" t="inlineStr"><is><t>{cell}</t></is></c>'
                    for place, cell in enumerate(row)
                )
                + "</row>"
                for at, row in enumerate(rows, 1)
            )  # fmt: skip
            file.writestr(f"xl/s{n}.xml", f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData></worksheet>')
    return buffer.getvalue()


def test_sheets_of_a_workbook(tmp_path: Path) -> None:
    rows = [["Load of the grid"], ["d", "x"], [1.0, 1.231], [2.0, 2.5], ["Source: me"]]
    found = read(tmp_path, workbook(load=rows, empty=[]), "t.xlsx")
    assert (found.columns, found.numbers("x").tolist(), found.place(0)) == (["d", "x"], [1.231, 2.5], "row 3")
    assert found.assumed()[0] == "Sheet    'load'"
    two = workbook(load=rows, wind=[["d", "x"], [1.0, 7.0]])
    with pytest.raises(InputError, match=r"has 2 with rows: 'load', 'wind'\. Name one of them"):
        read(tmp_path, two, "t.xlsx")
    assert read(tmp_path, two, "t.xlsx", sheet="wind").numbers("x").tolist() == [7]


def test_without_the_package_that_reads_sheets_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastexcel", None)
    with pytest.raises(InputError, match=r"with the package fastexcel, .* pip install fastexcel, or save"):
        read(tmp_path, workbook(load=[["d", "x"], [1.0, 2.0]]), "t.xlsx")


@pytest.mark.parametrize(
    ("content", "header", "rows"),
    [
        ("colour,n,m\nred,,\nblue,,\nred,2,1\nblue,3,4\nred,2,1\nblue,3,4\n", None, 6),
        ("month,sales,price\nJan 2020,,\nFeb 2020,3,4\nMar 2020,3,5\nApr 2020,2,4\n", None, 4),
        ("colour,n,m\nK,-,-\nV,-,-\nA,2,1\nK,3,4\nV,2,1\nA,3,4\n", None, 6),
        ("town,n,m\nBerlin,NA,NA\nRome,NA,NA\nParis,2,1\nRome,3,4\nBerlin,2,1\n", None, 5),
        ("store,sales\n1,1\n2,2\n3,3\n4,5\nA5,\n", None, 5),
        ("1,,\n2,,\n3,7,8\n4,7,8\n5,7,8\n6,7,8\n7,3,4\n", "none", 7),
    ],
)
def test_rows_with_empty_cells_stay_rows(tmp_path: Path, content: str, header: str | None, rows: int) -> None:
    (tmp_path / "t.csv").write_text(content)
    found = table.read(tmp_path / "t.csv", Dialect(header=header))
    assert len(found) == rows, found.found
    if header is None:
        assert found.columns == content.split("\n")[0].split(",")


def test_points_that_might_stand_for_thousands_are_said(tmp_path: Path) -> None:
    found = read(tmp_path, "date\tv\tw\n01.01.2020\t1.231\t5\n02.01.2020\t12.500\t1\n03.01.2020\t1.100\t2\n")
    assert found.numbers("v").tolist() == [1.231, 12.5, 1.1]
    assert "Numbers  points taken for decimals in v" in found.assumed(["v", "w"])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("t,v\n1,2\n2,3\n#3,4\n4,5\n5,6\n", "Skipped  1 comment, lines that begin with #, as line 4: '#3,4'"),
        ("name 0,name 1\n1a,1a\n1,1\n", "Skipped  1 line of units below the names"),
        ("a|b\n1|2\n--|--\n3|4\n5|6\n", "Skipped  1 line of dashes, the first in line 3"),
    ],
)
def test_what_is_skipped_among_rows_is_said(tmp_path: Path, content: str, line: str) -> None:
    assert line in read(tmp_path, content).found
