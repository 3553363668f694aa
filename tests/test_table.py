"""Tables from CSV and Parquet, and their times: what is read, and what each mistake is told."""

import contextlib
import csv
import datetime
import io
import os
import random
import re
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt.errors import InputError
from bptt.tasks import data, table, timeline


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


class TestCells:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    def test_separator_and_line_ends_are_found(self, file: Path, separator: str, line_end: str) -> None:
        lines = (separator.join(cells) for cells in (("x", "y"), ("1", "2.5"), ("-3e2", ".5")))
        read = table.read(written(file, line_end.join(lines) + line_end))
        assert read.columns == ["x", "y"]
        assert read.numbers("x").tolist() == [1, -300]
        assert read.numbers("y").tolist() == [2.5, 0.5]
        assert read.source == str(file)

    def test_commas_in_text_of_other_separators(self, file: Path) -> None:
        read = table.read(written(file, "name; size, in m\na, b;1\nc, d;2\n"))
        assert read.columns == ["name", "size, in m"]
        assert read.texts("name") == ["a, b", "c, d"]

    @pytest.mark.parametrize("missing", ["", " ", "NA", "n/a", "NaN", "nan", "null", "NULL", "None", '""'])
    def test_missing_cells_are_nan(self, file: Path, missing: str) -> None:
        read = table.read(written(file, f"x,y\n1,{missing}\n2,3\n"))
        np.testing.assert_array_equal(read.numbers("y"), [np.nan, 3])

    def test_quotes_blank_lines_and_byte_order_mark(self, file: Path) -> None:
        content = '\ufeff"x, first",y\n\n"1",a\n\n2,"b\nand ""c"""\n3,d\n\n'
        read = table.read(written(file, content))
        assert read.columns == ["x, first", "y"]
        assert read.numbers("x, first").tolist() == [1, 2, 3]
        assert read.texts("y") == ["a", 'b\nand "c"', "d"]
        assert [read.place(row) for row in range(3)] == ["line 3", "line 5", "line 7"]

    def test_a_blank_line_of_a_single_column_is_a_missing_value(self, file: Path) -> None:
        read = table.read(written(file, "y\n1\n\n3\n\n"))
        np.testing.assert_array_equal(read.numbers("y"), [1, np.nan, 3])

    @pytest.mark.parametrize("name", ["y", '"y"'])
    def test_blank_lines_may_come_before_the_names(self, file: Path, name: str) -> None:
        read = table.read(written(file, "\n \n" * 20 + f"x,{name}\n1,2\n"))
        assert (read.columns, read.place(0)) == (["x", "y"], "line 42")

    def test_a_line_of_tabs_is_a_row_without_values(self, file: Path) -> None:
        read = table.read(written(file, "x\ty\n\t\n1\t2\n"))
        np.testing.assert_array_equal(read.numbers("y"), [np.nan, 2])

    def test_a_quote_within_text_without_quotes_is_a_character(self, file: Path) -> None:
        read = table.read(written(file, 'part,n\n5" pipe,1\n"a, b",2\n'))
        assert read.texts("part") == ['5" pipe', "a, b"]

    @pytest.mark.parametrize("quote", ["", '"'])
    def test_lines_may_be_long(self, file: Path, quote: str) -> None:
        names = [f"column with a long name {n}" for n in range(8000)]
        read = table.read(written(file, ";".join(names) + "\n" + ";".join(f"{quote}1{quote}" for _ in names) + "\n"))
        assert read.columns == names
        assert read.numbers(names[-1]).tolist() == [1]

    def test_rows_of_several_blocks(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table, "BLOCK", 3)
        read = table.read(written(file, "x,y\n" + "".join(f"{n},\n" for n in range(8))))
        assert read.numbers("x").tolist() == list(range(8))
        assert [read.place(row) for row in (0, 7)] == ["line 2", "line 9"]

    def test_unnamed_columns_are_numbered(self, file: Path) -> None:
        assert table.read(written(file, ",y,\n1,2,3\n")).columns == ["column 1", "y", "column 3"]

    def test_what_polars_writes_comes_back(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(
            {"n": [1, None, 3], "f": [0.1, float("nan"), None], "b": [True, False, None], "s": ["a", "", None]}
        )
        frame.write_parquet(tmp_path / "t.parquet")
        frame.write_csv(tmp_path / "t.csv")
        for name in ("t.parquet", "t.csv"):
            read = table.read(tmp_path / name)
            np.testing.assert_array_equal(read.numbers("n"), [1, np.nan, 3])
            np.testing.assert_array_equal(read.numbers("f"), [0.1, np.nan, np.nan])
            assert read.texts("s") == ["a", None, None]
        read = table.read(tmp_path / "t.parquet")
        np.testing.assert_array_equal(read.numbers("b"), [1, 0, np.nan])
        assert read.texts("n") == ["1", None, "3"]
        assert read.place(2) == "row 3"

    def test_text_in_parquet_is_read_as_in_csv(self, tmp_path: Path) -> None:
        pl.DataFrame({"y": ["1", "NA", " 2.5 "]}).write_parquet(tmp_path / "t.pq")
        np.testing.assert_array_equal(table.read(tmp_path / "t.pq").numbers("y"), [1, np.nan, 2.5])


MISTAKES: dict[str | bytes, str] = {
    "": r"must not be empty; .*data\.csv holds no bytes",
    "\n \n": r"must not be empty; .* holds only blank lines",
    "x,y\n": r"needs rows below the names of its columns; .* only 2 columns: x, y",
    "x,x\n1,2\n": r"must have different names; .* has several called 'x'",
    "1,2\n3,4\n": r"first line of a table must name its columns; in .* it holds numbers: '1, 2'",
    "x,y\n1,2\n3,4,5\n": r"a cell for each of the 2 columns .* line 3 of .* has 3, separated by comma: '3,4,5'",
    "x,y\n1,2\n\n3\n": r"line 4 of .* has 1, separated by comma: '3'",
    'x,y\n1,2\n"3,4\n5,6\n': r"double quotes must end with one.* in the lines from 3 on",
    f"x,y\n1,2\n1,{'a' * 140_000}\n": r"up to 131,072 characters; .* in the lines from 3 on",
    f'x,y\n"1",2\n1,{"a" * 140_000}\n': r"up to 131,072 characters; .* in the lines from 3 on",
    'x,y\n1,"2\n' + "3,4\n" * 40_000: r"up to 131,072 characters; .* from 2 on\. .* never ends, end it there",
    'x,y\n1,"2"3\n': r"double quotes must end with one.* in the lines from 2 on",
    b"x,y\n1,2\n1,\xff\n": r"CSV in UTF-8 or Parquet; .* is neither: byte 0xff in line 3",
    "x,y\n1,2\n".encode("utf-16"): r"must be UTF-8; .* is UTF-16\. Convert it, .*iconv -f utf-16",
    b"x,y\n1,\x002\n": r"holds zero bytes in line 2",
    "x,y\n1,2\n2,two\n3,three\n": r"Column 'y' must hold numbers; line 3 of .* has 'two' and 1 more\. Correct",
    "x,y\n1,-inf\n": r"Column 'y' must hold finite numbers; line 2 of .* has -inf",
    "x,z\n1,2\n": r"A column must be one of the table's: x, z; got 'y'",
}


NUMBERS = {
    "1,231": "1231 or 1.231", "-1,231": "-1231 or -1.231", "$1,200": "1200 or 1.200", "1.231 €": "1.231 or 1231",
    "12%": "12 or 0.12", "0,5 %": "0.5 or 0.005",
    "1,5": "1.5", "0,123": "0.123", "\u22123,25": "-3.25", "1.020,0": "1020.0", "1 231": "1231",
    "1\u202f231,5": "1231.5", "1'231.5": "1231.5", "2,500,000.5": "2500000.5", "1.231.000": "1231000",
    "€ 12": "12", "-$5": "-5",
}  # fmt: skip


@pytest.mark.parametrize("cell", NUMBERS)
def test_a_number_written_otherwise_is_told_every_reading(file: Path, cell: str) -> None:
    read = table.read(written(file, f"x;y\n1;2\n1;{cell}\n1;{cell}\n"))
    with pytest.raises(InputError) as refusal:
        read.numbers("y")
    message = str(refusal.value)
    assert message.startswith(
        "Column 'y' must hold bare numbers, decimals with a point, thousands with nothing between"
    )
    assert f"; line 3 of {file} has {cell!r} and 1 more. " in message
    told = NUMBERS[cell]
    fix = f"It may stand for {told}, and is not guessed: " if "or" in told else f"Write {told}, and the rest "
    assert fix in message


@pytest.mark.parametrize("cell", ["two", "1,2,3", "1.2.3", "5 kg", "1-2", "$", "%", "1,2345,678", "\u0661\u0662"])
def test_what_is_no_number_is_not_read_as_one(file: Path, cell: str) -> None:
    with pytest.raises(InputError, match=r"must hold numbers; .* Correct the cell, or leave it empty"):
        table.read(written(file, f"x;y\n1;2\n1;{cell}\n")).numbers("y")


@pytest.mark.parametrize("content", MISTAKES, ids=lambda content: ascii(content)[:30])
def test_mistakes_in_csv_name_their_place(file: Path, content: str | bytes) -> None:
    with pytest.raises(InputError, match=MISTAKES[content]):
        table.read(written(file, content)).numbers("y")


def test_mistakes_with_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be a file; there is none at .*nothing\.csv"):
        table.read(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match=r"is a directory\. Name a CSV or Parquet file"):
        table.read(tmp_path)
    with pytest.raises(InputError, match=r"must be a Parquet file"):
        table.read(written(tmp_path / "text.parquet", "x,y\n1,2\n"))


def test_damaged_parquet_is_a_message_whatever_is_damaged(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"x": range(300), "y": [str(n) for n in range(300)]}).write_parquet(buffer)
    whole, draw, refused = buffer.getvalue(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole[: draw.randrange(4, len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(4):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        try:
            table.read(written(tmp_path / "d.parquet", bytes(damaged)))
        except InputError as error:
            refused += "must be a Parquet file" in str(error)
    assert refused > 50


def test_a_panic_of_the_reader_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(InputError, match=r"must be a Parquet file; .*index out of bounds"):
        table.read(written(tmp_path / "t.parquet", b"PAR1"))


def everything_in(path: Path) -> table.Table | None:
    """The table with every column and place asked for; None where it is refused. Only InputError is a refusal."""
    try:
        read = table.read(path)
    except InputError:
        return None
    assert read.places is None or len(read.places) == len(read) > 0
    for name in read.columns:
        for cells in (read.texts, read.numbers):
            with contextlib.suppress(InputError):
                assert len(cells(name)) == len(read)
        with contextlib.suppress(InputError):
            times = timeline.of(read, name)
            assert len(times.places) == len(read)
            assert all(map(times.label, times.following(2)))
    return read


CSV_LIKE = st.lists(
    st.sampled_from([",", ";", "\t", "\n", "\r\n", '"', '""', '5" ', " ", "x", "1", "-2.5", "1e999", "NA", "é",
                     "2020-01-01", "202001", "20200230", "01/02/2020",
                     "0001-01-01", "9999-12-31", "2020Q1", "10:00", "\ufeff", "\x1c", "\x85"]),
    max_size=40,
).map("".join)  # fmt: skip


@settings(deadline=None)
@given(content=st.binary(max_size=60) | st.binary(max_size=60).map(lambda raw: b"PAR1" + raw + b"PAR1"))
def test_any_bytes_are_a_table_or_a_message(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    everything_in(written(tmp_path_factory.getbasetemp() / "any.csv", content))


@settings(max_examples=300, deadline=None)
@given(content=CSV_LIKE)
def test_any_text_is_a_table_or_a_message(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    everything_in(written(tmp_path_factory.getbasetemp() / "any.csv", content))


CELLS = st.text(st.sampled_from(' ,;"\t\nab1.-é'), max_size=5)


@settings(deadline=None)
@given(rows=st.integers(2, 4).flatmap(lambda width: st.lists(st.tuples(*[CELLS] * width), min_size=1, max_size=9)))
def test_what_the_csv_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    buffer = io.StringIO()
    names = [f"name {n}" for n in range(len(rows[0]))]
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([names, *rows])
    read = everything_in(written(tmp_path_factory.getbasetemp() / "any.csv", buffer.getvalue()))
    assert read is not None
    assert read.frame.rows() == [tuple(cell or None for cell in row) for row in rows]


def test_columns_of_parquet_that_are_no_numbers(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 1)
    pl.DataFrame({"l": [[1]], "d": [day], "i": [float("inf")]}).write_parquet(tmp_path / "t.parquet")
    read = table.read(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"'l' must hold numbers; it holds lists"):
        read.numbers("l")
    with pytest.raises(InputError, match=r"'d' must hold numbers; it holds times"):
        read.numbers("d")
    with pytest.raises(InputError, match=r"'i' must hold finite numbers; row 1 of .* has inf"):
        read.numbers("i")
    with pytest.raises(InputError, match=r"'l' must hold text or numbers; it holds lists"):
        read.texts("l")


def test_numbers_whose_squares_are_none(file: Path) -> None:
    read = table.read(written(file, "x,y\n1,1e100\n-2e100,2\n"))
    assert read.numbers("y").tolist() == [1e100, 2]
    with pytest.raises(InputError, match=r"'x' must hold numbers from -1e\+100 to 1e\+100; line 3 of .* has -2e\+100"):
        read.numbers("x")


def test_spans_of_time_name_no_sequence(tmp_path: Path) -> None:
    pl.DataFrame({"s": [datetime.timedelta(1)]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="'s' must hold text or numbers; it holds spans of time"):
        table.read(tmp_path / "t.parquet").texts("s")


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_times_that_no_calendar_has(tmp_path: Path, unit: Literal["ms", "us"]) -> None:
    far = pl.Series("time", [0, 2**62 if unit == "us" else 10**15], pl.Int64).cast(pl.Datetime(unit))
    pl.DataFrame([far]).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"must lie in the years 1000 to 9999; row 2 of .* in column 'time'"):
        timeline.of(table.read(tmp_path / "t.parquet"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with pipes that have names")
def test_devices_are_refused_and_pipes_read_to_their_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/dev/null: it is a device, not a file"):
        table.read("/dev/null")
    with pytest.raises(InputError, match="/dev/null: it is a device, not a file"):
        data.read("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("x,y\n1,2\n"))
    thread.start()
    assert table.read(tmp_path / "pipe").numbers("y").tolist() == [2]
    thread.join()


def test_what_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Giant(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise MemoryError

        def fileno(self) -> int:
            return file.fileno()

    monkeypatch.setattr(Path, "open", lambda *_: Giant())
    with open(__file__) as file:
        for read in (table.read, data.read):
            with pytest.raises(InputError, match=r"giant\.csv: it does not fit in memory"):
                read(tmp_path / "giant.csv")


def line(file: Path, times: str, name: str = "date", column: str | None = None) -> timeline.Timeline:
    rows = "".join(f"{time},1\n" for time in re.split(r"\s*\|\s*", times))
    return timeline.of(table.read(written(file, f"{name},y\n{rows}")), column, taken=["y"])


class TestTime:
    @pytest.mark.parametrize(
        ("times", "spacing", "season", "following"),
        [
            ("2020-01-30|2020-01-31|2020-02-01", "day", (7,), "2020-02-02|2020-02-03"),
            ("2020-11-01|2020-12-01|2021-01-01", "month", (12,), "2021-02-01|2021-03-01"),
            ("2020-10-31|2020-11-30|2020-12-31", "month", (12,), "2021-01-31|2021-02-28"),
            ("2020-11|2020-12|2021-01", "month", (12,), "2021-02|2021-03"),
            ("Nov 2020|Dec 2020|Jan 2021", "month", (12,), "Feb 2021|Mar 2021"),
            ("2020-01-15|2020-04-15|2020-07-15", "quarter", (4,), "2020-10-15|2021-01-15"),
            ("2020Q3|2020Q4|2021Q1", "quarter", (4,), "2021Q2|2021Q3"),
            ("2019-02-28|2020-02-29|2021-02-28", "year", (), "2022-02-28|2023-02-28"),
            ("2020-01-01|2020-01-08|2020-01-15", "week", (52,), "2020-01-22|2020-01-29"),
            ("2020-01-01 23:30|2020-01-02 00:00", "30 minutes", (48, 336), "2020-01-02 00:30|2020-01-02 01:00"),
            (
                "2020-01-01T00:00:00Z|2020-01-01T01:00:00Z", "hour", (24, 168),
                "2020-01-01T02:00:00Z|2020-01-01T03:00:00Z",
            ),
            ("2020-01-01T01:00+01:00|2020-01-01T02:00+01:00", "hour", (24, 168), "2020-01-01T02:00Z|2020-01-01T03:00Z"),
            (
                "2020-01-01 00:00:00.5|2020-01-01 00:00:00.75", "250 milliseconds", (345600, 2419200),
                "2020-01-01 00:00:01|2020-01-01 00:00:01.25",
            ),
            ("31/01/2020|01/02/2020|02/02/2020", "day", (7,), "03/02/2020|04/02/2020"),
            ("01/31/2020|02/01/2020|02/02/2020", "day", (7,), "02/03/2020|02/04/2020"),
            ("31.1.20|1.2.20|2.2.20", "day", (7,), "03.02.20|04.02.20"),
            ("20200228|20200229|20200301", "day", (7,), "20200302|20200303"),
            ("2020-01-02|2020-01-03|2020-01-06|2020-01-07", "day from Monday to Friday", (5,), "2020-01-08|2020-01-09"),
            ("202011|202012|202101", "month", (12,), "202102|202103"),
            ("2020-11-30|2020-12-30", "month", (12,), "2021-01-30|2021-02-28"),
            ("2020-12-30|2021-01-30|2021-02-28", "month", (12,), "2021-03-30|2021-04-30"),
            ("2019-10-29 06:00|2020-01-29 06:00", "quarter", (4,), "2020-04-29 06:00|2020-07-29 06:00"),
            ("9999-12-30|9999-12-31", "day", (7,), "10000-01-01T00:00:00|10000-01-02T00:00:00"),
            ("202013|202014|202015", "1", (), "202016|202017"),
            ("1700.0|1701.0|1702.0", "1", (), "1703|1704"),
            ("1958.2083|1958.2917|1958.3750|1958.4583", "0.0833333", (), "1958.5416|1958.6250"),
            ("5", "1", (), "6|7"),
        ],
    )  # fmt: skip
    def test_spacing_is_recognised_and_continued(
        self, file: Path, times: str, spacing: str, season: tuple[int, ...], following: str
    ) -> None:
        found = line(file, times)
        assert (found.column, str(found.spacing), found.spacing.seasons) == ("date", spacing, season)
        assert found.inserted == 0
        assert "|".join(map(found.label, found.following(2))) == following

    @pytest.mark.parametrize(
        ("times", "inserted", "gaps", "grid"),
        [
            ("2020-01-01|2020-01-02|2020-01-05|2020-01-06", 2, [(2, 3)], "2020-01-03|2020-01-04"),
            ("2020-01|2020-02|2020-04|2020-06|2020-07", 2, [(2, 2), (4, 4)], "2020-03|2020-05"),
            ("2020-01-03|2020-01-06|2020-01-07|2020-01-09", 1, [(3, 3)], "2020-01-08"),
            ("10|12|16|18", 1, [(2, 2)], "14"),
        ],
    )
    def test_missing_rows_of_an_even_grid_are_put_in(
        self, file: Path, times: str, inserted: int, gaps: list[tuple[int, int]], grid: str
    ) -> None:
        found = line(file, times)
        assert (found.inserted, found.gaps()) == (inserted, gaps)
        values = found.on_grid(np.ones(len(found.places)))
        assert "|".join(found.label(found.times[step]) for step in np.flatnonzero(np.isnan(values))) == grid

    def test_months_may_be_whole_numbers_of_parquet(self, tmp_path: Path) -> None:
        pl.DataFrame({"month": [199911, 199912, 200002], "y": [1, 2, 3]}).write_parquet(tmp_path / "t.parquet")
        found = timeline.of(table.read(tmp_path / "t.parquet"))
        assert (str(found.spacing), found.inserted, found.label(found.times[2])) == ("month", 1, "200001")

    @pytest.mark.parametrize(
        ("times", "spacing", "form", "otherwise"),
        [
            ("01/01/2020|02/01/2020|03/01/2020", "day", "%m/%d/%Y", "month"),
            ("01/01/2020|01/02/2020|01/03/2020", "month", "%m/%d/%Y", "day"),
            ("01/01/2020 06:00|01/02/2020 06:00", "month", "%m/%d/%Y %H:%M", "day"),
        ],
    )
    def test_another_reading_that_fits_as_well_is_kept(
        self, file: Path, times: str, spacing: str, form: str, otherwise: str
    ) -> None:
        found = line(file, times)
        assert found.otherwise is not None
        assert (str(found.spacing), found.otherwise[0], str(found.otherwise[1])) == (spacing, form, otherwise)

    @pytest.mark.parametrize(
        "times",
        ["11/01/2020|12/01/2020|01/01/2021", "30/01/2020|31/01/2020|01/02/2020", "2020-01-01|2020-02-01",
         "03/01/2020|04/02/2020|07/03/2020"],
    )  # fmt: skip
    def test_a_reading_that_fits_better_has_no_rival(self, file: Path, times: str) -> None:
        assert line(file, times).otherwise is None

    def test_spacing_that_is_not_even_is_said(self, file: Path) -> None:
        found = line(file, "2020-01-01|2020-01-02|2020-01-05|2020-01-21|2020-01-29")
        assert str(found.spacing).startswith("about ")
        assert not found.spacing.even
        assert len(found) == 5

    @pytest.mark.parametrize(
        "name",
        ["time", "Date", "DATETIME", "timestamp", "ds", "ts", "unix_time", "t", "year", "month", "column 1", "at"],
    )
    def test_time_column_is_found(self, file: Path, name: str) -> None:
        times = "1|2|3" if name in ("t", "year", "month") else "2020-01-01|2020-01-02"
        assert line(file, times, "" if name == "column 1" else name).column == name

    @pytest.mark.parametrize("name", ["price", "index", "second", "T (degC)", "build_year", "timer", "lead time"])
    @pytest.mark.parametrize("times", ["11|12|1|2", "1.5|2.5|0.5"])
    def test_numbers_that_are_not_called_time_are_left_alone(self, file: Path, name: str, times: str) -> None:
        assert line(file, times, name).column is None

    @pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
    def test_numbers_that_count_from_1970_on_are_times(self, file: Path, unit: int) -> None:
        times = [1_700_000_000 * unit, 1_700_000_060 * unit, 1_700_000_120 * unit]
        assert line(file, "|".join(map(str, times)), "made").column == "made"
        with pytest.raises(InputError, match=r"The newest row stands first\. .*--time none$"):
            line(file, "|".join(map(str, times[::-1])), "made")

    @pytest.mark.parametrize(
        "times", ["1700000000|1700000000", "1700000000|1600000000.5", "2600000000|1700000000", "1700000000|4711"]
    )
    def test_other_large_numbers_are_left_alone(self, file: Path, times: str) -> None:
        assert line(file, times, "sold").column is None

    def test_a_year_is_likelier_than_large_numbers(self, file: Path) -> None:
        read = table.read(written(file, "people,year,y\n1300000000,2020,1\n1310000000,2021,2\n"))
        assert timeline.of(read, taken=["y"]).column == "year"

    @pytest.mark.parametrize(
        "cell",
        ["red", "A4", "W123", "10-20", "1.2.3", "Marathon 42", "555-1234", "3:2", "4711", "4711-12", "Q12345"],
    )
    def test_text_that_only_resembles_dates_is_left_alone(self, file: Path, cell: str) -> None:
        found = line(file, "|".join([cell] * 4), "kind")
        assert [found.label(time) for time in found.following(2)] == ["5", "6"]

    @pytest.mark.parametrize(
        ("name", "times", "message"),
        [
            (name, "3|1|2", rf"increase from row to row; line 3 .* has '1' in column '{re.escape(name)}'")
            for name in ("time", "DATE", "Datum", "Zeit", "time_stamp", "ds", "ts", "unix", "Date (UTC)", "Year", "t")
        ]
        + [
            ("when", "2020-01-03|2020-01-02", r"after '2020-01-03' in line 2\. The newest row stands first"),
            ("when", "30/01/2020|01/03/2020|02/02/2020", r"line 4 of .* after '01/03/2020' in line 3\. Sort"),
            ("when", "1998 Q1|1998 Q2|1998 Q2", r"occur once, .*; line 4 of .* and so has line 3\. Keep one"),
            ("when", "Jan-49|Feb-49", r"line 2 of .* 'Jan-49' .*with four digits: Jan 1949 or Jan 2049, or name"),
            ("when", "1-Mar-49|2-Mar-49", r"line 2 of .* has '1-Mar-49' .*: Mar 1949 or Mar 2049"),
            ("when", "2020-W05|2020-W06", r"Times must be numbers or dates, .* has '2020-W05'"),
            ("when", "Q1 1998|Q2 1998", r"has 'Q1 1998' in column 'when'"),
            ("when", "Januar 1998|Februar 1998", r"has 'Januar 1998' in column 'when'"),
            ("when", "08:00|08:15", r"has '08:00' in column 'when'"),
            ("when", "2020-01-01|2020-01-02|later", r"line 4 of .* has 'later' in column 'when'"),
            ("month", "Jan|Feb", r"has 'Jan' in column 'month'"),
            ("when", "2020-01-01||2020-01-03", r"Every row needs a time; line 3 of .* has none in column 'when'"),
        ],
    )  # fmt: skip
    def test_what_looks_like_times_and_cannot_be_used_is_an_error(
        self, file: Path, name: str, times: str, message: str
    ) -> None:
        with pytest.raises(InputError, match=message) as refusal:
            line(file, times, name)
        assert str(refusal.value).endswith(
            f" If {name!r} is not the time, name the column that is, or say that rows are even steps in the order they "
            "stand in: --time none"
        )
        assert line(file, times, name, "none").column is None

    def test_dates_out_of_order_are_not_passed_over_for_a_count(self, file: Path) -> None:
        with pytest.raises(InputError, match="The newest row stands first"):
            timeline.of(table.read(written(file, "t,when,y\n1,2020-01-02,1\n2,2020-01-01,2\n")), taken=["y"])

    def test_a_time_that_can_be_used_is_enough(self, file: Path) -> None:
        read = table.read(written(file, "date,when,year,y\n2020,2020-01-01,5,1\n2020,2020-01-02,5,2\n"))
        assert timeline.of(read, taken=["y"]).column == "when"

    @pytest.mark.parametrize("parquet", [False, True])
    def test_dates_beside_a_year_need_not_be_the_time(self, tmp_path: Path, parquet: bool) -> None:
        changed = [datetime.date(2020, 5, 1), datetime.date(2019, 5, 1), datetime.date(2020, 5, 1)]
        frame = pl.DataFrame({"changed": changed, "year": [2001, 2002, 2003], "y": [1, 2, 3]})
        frame.write_parquet(tmp_path / "t.parquet") if parquet else frame.write_csv(tmp_path / "t.csv")
        found = timeline.of(table.read(tmp_path / ("t.parquet" if parquet else "t.csv")), taken=["y"])
        assert (found.column, found.label(found.following(1)[0])) == ("year", "2004")

    def test_a_time_in_several_columns_is_to_be_written_in_one(self, file: Path) -> None:
        read = table.read(written(file, "year,month,no,y\n2020,11,1,1\n2020,12,2,2\n2021,1,3,3\n"))
        with pytest.raises(InputError, match=r"Where 'year', 'month' tell the time together, write it in one column"):
            timeline.of(read, taken=["y"])

    @pytest.mark.parametrize("by_series", [False, True])
    def test_several_series_in_one_table_are_told_apart(self, file: Path, by_series: bool) -> None:
        rows = [f"1998 Q{quarter},{kind},{n}" for quarter in range(1, 5) for n, kind in enumerate("AB")]
        rows = sorted(rows, key=lambda row: row[8]) if by_series else rows
        read = table.read(written(file, "\n".join(["Quarter,kind,y", *rows]) + "\n"))
        where = "line 6 .* and so has line 2" if by_series else "line 3 .* and so has line 2"
        with pytest.raises(InputError, match=rf"{where}\. Rows of one time differ in 'kind' \('A', 'B'\): give each"):
            timeline.of(read, taken=["y"])

    @pytest.mark.parametrize("every", [60, 15])
    def test_an_hour_that_came_twice_is_to_have_its_offset(self, file: Path, every: int) -> None:
        start = datetime.datetime(2024, 10, 26)
        minutes = [*range(0, 27 * 60, every), *range(26 * 60, 40 * 60, every)]
        times = [f"{start + datetime.timedelta(minutes=minute):%Y-%m-%d %H:%M}" for minute in minutes]
        at = 27 * 60 // every + 2
        with pytest.raises(
            InputError,
            match=rf"line {at} of .* has '2024-10-27 02:00' in column 'zeit', and so has line .*offset from UTC, "
            r"as 2024-10-27 02:00\+02:00 and 2024-10-27 02:00\+01:00 an hour later\.",
        ):
            line(file, "|".join(times), "zeit")
        with_offset = [f"{time}{'+02:00' if n < 27 * 60 // every else '+01:00'}" for n, time in enumerate(times)]
        found = line(file, "|".join(with_offset), "zeit")
        assert (found.inserted, found.spacing.even) == (0, True)

    @pytest.mark.parametrize(
        "times", ["0|1|2|18446744073709551615", "0.5|1.5|2.5|1e25", "0|1e-300|2e-300|1e10", "0|1|2|1e19"]
    )
    def test_a_span_of_more_steps_than_can_be_counted_is_not_even(self, file: Path, times: str) -> None:
        found = line(file, times)
        assert (found.spacing.even, len(found)) == (False, 4)
        assert all(map(found.label, found.following(2)))

    @pytest.mark.parametrize("times", ["1|1e101", "-1.7e308|1.7e308", "1714352400000000001|1714352400000000002"])
    def test_numbers_too_large_to_be_told_apart_are_refused(self, file: Path, times: str) -> None:
        with pytest.raises(
            InputError, match=r"from -1e\+100 to 1e\+100, and be multiples .*; line \d of .*larger unit"
        ):
            line(file, times)
        assert line(file, "1714352400000000000|1714352401000000000").spacing.every == 1e9

    def test_times_within_a_microsecond_are_refused(self, tmp_path: Path) -> None:
        times = pl.Series("time", [0, 1, 2], pl.Int64).cast(pl.Datetime("ns"))
        pl.DataFrame([times]).write_parquet(tmp_path / "t.parquet")
        with pytest.raises(InputError, match=r"must be whole microseconds; row 2 of .* has 1970.*1 in column 'time'"):
            timeline.of(table.read(tmp_path / "t.parquet"))

    @pytest.mark.parametrize(
        ("times", "last"),
        [("1000-01-01|5500-01-01|9999-01-01", "99988"), ("1000-01-01|1500-01-01|2000-01-01", "12000")],
    )
    def test_dates_after_the_last_that_can_be_counted_are_refused(self, file: Path, times: str, last: str) -> None:
        found = line(file, times)
        assert found.label(found.following(20)[-1]).startswith(last)
        with pytest.raises(InputError, match=r"before the year 290,000; 10,000 steps of .* after .*\. Ask for fewer"):
            found.following(10_000)

    @pytest.mark.parametrize("end", ["Z", "+01:00", "+0100"])
    def test_times_with_an_offset_are_not_told_to_have_one(self, file: Path, end: str) -> None:
        with pytest.raises(InputError, match=r"so has line 3\. Keep one row, or, where several series") as refusal:
            line(file, f"2024-10-27 01:00:00{end}|2024-10-27 02:00:00{end}|2024-10-27 02:00:00{end}")
        assert "offset from UTC" not in str(refusal.value)

    def test_targets_and_inputs_are_no_time(self, file: Path) -> None:
        read = table.read(written(file, "t,y\n1,2\n2,3\n"))
        assert timeline.of(read, taken=["t", "y"]).column is None

    @pytest.mark.parametrize("kind", ["date", "datetime", "zoned"])
    def test_times_of_parquet(self, tmp_path: Path, kind: str) -> None:
        days = [datetime.datetime(2020, month, 1) for month in (1, 2, 3)]
        values = {
            "date": [day.date() for day in days],
            "datetime": days,
            "zoned": [day.replace(tzinfo=datetime.UTC) for day in days],
        }
        pl.DataFrame({"when": values[kind], "y": [1, 2, 3]}).write_parquet(tmp_path / "t.parquet")
        found = timeline.of(table.read(tmp_path / "t.parquet"))
        assert (found.column, str(found.spacing)) == ("when", "month")
        assert [found.label(time) for time in found.following(1)] == ["2020-04-01"]

    def test_hours_of_a_time_zone_are_said_to_be_in_utc(self, tmp_path: Path) -> None:
        start = datetime.datetime(2024, 10, 26, 22)
        hours = pl.Series([start + datetime.timedelta(hours=n) for n in range(8)])
        zoned = hours.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
        pl.DataFrame({"when": zoned}).write_parquet(tmp_path / "t.parquet")
        found = timeline.of(table.read(tmp_path / "t.parquet"))
        assert (str(found.spacing), found.inserted) == ("hour", 0)
        assert [found.label(time) for time in (found.times[0], *found.following(1))] == [
            "2024-10-26 22:00Z", "2024-10-27 06:00Z",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            ("2020-01-02|2020-01-01", r"increase from row to row; line 3 of .* '2020-01-01' in .*, after .* line 2\."),
            ("2020-01-01|2020-01-02|2020-01-02", r"occur once, .*; line 4 of .* has '2020-01-02' .* so has line 3"),
            ("2020-01-01|2020-01-02|2020-01-01", r"Every time may occur once, .*; line 4 of .* and so has line 2"),
            ("2020-01-01|", r"Every row needs a time; line 3 of .* has none in column 'date'"),
            ("2020-01-01|soon", r"Times must be numbers or dates, .*; line 3 of .* has 'soon' in column 'date'"),
            ("2020-01-01|2020-02-30", r"line 3 of .* has '2020-02-30'"),
            ("2020-01-01|0020-01-02", r"line 3 of .* has '0020-01-02'"),
        ],
    )  # fmt: skip
    def test_mistakes_name_their_rows(self, file: Path, times: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            line(file, times)

    def test_a_column_named_as_time_must_exist_and_hold_times(self, file: Path) -> None:
        with pytest.raises(InputError, match=r"one of the table's: date, y; got 'when'"):
            line(file, "2020-01-01", column="when")
        with pytest.raises(InputError, match=r"Times must be numbers or dates"):
            line(file, "a|b", "when", column="when")
