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
    b"x,y\n1,2\n1,\xff\n": r"CSV in UTF-8 or UTF-16, .* is neither: byte 0xff in line 3 .*--encoding cp1252",
    b"x,y\n1,\x002\n": r"holds zero bytes in line 2",
    "x,y\n1,2\n2,two\n3,three\n": r"Column 'y' must hold numbers; line 3 of .* has 'two' and 1 more\. Correct",
    "x,y\n1,-inf\n": r"Column 'y' must hold finite numbers; line 2 of .* has -inf",
    "x,z\n1,2\n": r"A column must be one of the table's: x, z; got 'y'",
}


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
    if not any(line.startswith("Skipped") for line in read.assumed()):  # as units, or empty at the end
        assert read.frame.rows() == [tuple(cell or None for cell in row) for row in rows]


def test_a_separator_within_quotes_separates_nothing(tmp_path: Path) -> None:
    read = table.read(written(tmp_path / "t.csv", '"name 0","name 1"\n"",";"\n"1\na",";1"\n"",";"\n'))
    assert read.frame.rows() == [(None, ";"), ("1\na", ";1"), (None, ";")]


def test_the_sample_that_shows_the_separator_may_end_within_quotes(tmp_path: Path) -> None:
    rows = "".join(f'{n};"first\nsecond, third"\n' for n in range(300))
    assert table.read(written(tmp_path / "t.csv", "a;b\n" + rows)).frame.rows()[299] == ("299", "first\nsecond, third")


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
        ("times", "spacing", "following"),
        [
            ("2020-01-30|2020-01-31|2020-02-01", "day", "2020-02-02|2020-02-03"),
            ("2020-11-01|2020-12-01|2021-01-01", "month", "2021-02-01|2021-03-01"),
            ("2020-10-31|2020-11-30|2020-12-31", "month", "2021-01-31|2021-02-28"),
            ("2020-11|2020-12|2021-01", "month", "2021-02|2021-03"),
            ("Nov 2020|Dec 2020|Jan 2021", "month", "Feb 2021|Mar 2021"),
            ("2020-01-15|2020-04-15|2020-07-15", "quarter", "2020-10-15|2021-01-15"),
            ("2020Q3|2020Q4|2021Q1", "quarter", "2021Q2|2021Q3"),
            ("2019-02-28|2020-02-29|2021-02-28", "year", "2022-02-28|2023-02-28"),
            ("2020-01-01|2020-01-08|2020-01-15", "week", "2020-01-22|2020-01-29"),
            ("2020-01-01 23:30|2020-01-02 00:00", "30 minutes", "2020-01-02 00:30|2020-01-02 01:00"),
            (
                "2020-01-01T00:00:00Z|2020-01-01T01:00:00Z", "hour",
                "2020-01-01T02:00:00Z|2020-01-01T03:00:00Z",
            ),
            ("2020-01-01T01:00+01:00|2020-01-01T02:00+01:00", "hour", "2020-01-01T03:00+01:00|2020-01-01T04:00+01:00"),
            (
                "2020-01-01 00:00:00.5|2020-01-01 00:00:00.75", "250 milliseconds",
                "2020-01-01 00:00:01|2020-01-01 00:00:01.25",
            ),
            ("31/01/2020|01/02/2020|02/02/2020", "day", "03/02/2020|04/02/2020"),
            ("01/31/2020|02/01/2020|02/02/2020", "day", "02/03/2020|02/04/2020"),
            ("31.1.20|1.2.20|2.2.20", "day", "3.2.20|4.2.20"),
            ("20200228|20200229|20200301", "day", "20200302|20200303"),
            ("2020-01-02|2020-01-03|2020-01-06|2020-01-07", "day from Monday to Friday", "2020-01-08|2020-01-09"),
            ("202011|202012|202101", "month", "202102|202103"),
            ("2020-11-30|2020-12-30", "month", "2021-01-30|2021-02-28"),
            ("2020-12-30|2021-01-30|2021-02-28", "month", "2021-03-30|2021-04-30"),
            ("2019-10-29 06:00|2020-01-29 06:00", "quarter", "2020-04-29 06:00|2020-07-29 06:00"),
            ("9999-12-30|9999-12-31", "day", "10000-01-01T00:00:00|10000-01-02T00:00:00"),
            ("202013|202014|202015", "1", "202016|202017"),
            ("1700.0|1701.0|1702.0", "1", "1703|1704"),
            ("1958.2083|1958.2917|1958.3750|1958.4583", "0.0833333", "1958.5416|1958.6250"),
            ("5", "1", "6|7"),
        ],
    )  # fmt: skip
    def test_spacing_is_recognised_and_continued(self, file: Path, times: str, spacing: str, following: str) -> None:
        found = line(file, times)
        assert (found.column, str(found.spacing)) == ("date", spacing)
        assert found.inserted == 0
        assert "|".join(map(found.label, found.following(2))) == following

    @pytest.mark.parametrize(
        ("times", "spacing", "following"),
        [
            ("30-12-2020|31-12-2020|01-01-2021", "day", "02-01-2021"),
            ("12-30-2020|12-31-2020|01-01-2021", "day", "01-02-2021"),
            ("30/12/20|31/12/20|01/01/21", "day", "02/01/21"),
            ("2020.12.31 22:10|2020.12.31 22:20", "10 minutes", "2020.12.31 22:30"),
            ("30-Jan-20|31-Jan-20|1-Feb-20", "day", "2-Feb-20"),
            ("30JAN2020|31JAN2020", "day", "01FEB2020"),
            ("30. Januar 2020|31. Januar 2020", "day", "1. Februar 2020"),
            ("31. Dez. 2020|1. Jan. 2021|2. Jan. 2021", "day", "3. Jan. 2021"),
            ("October 30 2020|October 31 2020", "day", "November 1 2020"),
            ("Jan-49|Feb-49|Mar-49", "month", "Apr-49"),
            ("Nov-99|Dec-99|Jan-00", "month", "Feb-00"),
            ("Jan-49|Jan-50", "year", "Jan-51"),
            ("49-Nov|49-Dec", "month", "50-Jan"),
            ("November 2020|December 2020", "month", "January 2021"),
            ("novembre 2020|décembre 2020", "month", "janvier 2021"),
            ("Oct. 2020|Nov. 2020", "month", "Dec. 2020"),
            ("2020 Nov|2020 Dec", "month", "2021 Jan"),
            ("01/30/2020 11:00:00 PM|01/31/2020 12:00:00 AM", "hour", "01/31/2020 01:00:00 AM"),
            ("1/30/2020 11:00 am|1/30/2020 12:00 pm", "hour", "1/30/2020 1:00 pm"),
            ("2020-12-31 23:00|2020-12-31 24:00|2021-01-01 01:00", "hour", "2021-01-01 02:00"),
            ("2020-12-31 22:00|2020-12-31 23:00|2020-12-31 24:00", "hour", "2021-01-01 01:00"),
            ("2020-12-30 24:00|2020-12-31 24:00", "day", "2021-01-01 24:00"),
            ("31.12.2020 18.00|31.12.2020 18.30", "30 minutes", "31.12.2020 19.00"),
            ("2020-01-31 22|2020-01-31 23", "hour", "2020-02-01 00"),
            ("31/Jan/2020:23:59:58 +0100|31/Jan/2020:23:59:59 +0100", "second", "01/Feb/2020:00:00:00 +0100"),
            ("2020-01-31T23:00:00.000Z|2020-01-31T23:30:00.000Z", "30 minutes", "2020-02-01T00:00:00.000Z"),
            ("2020-01-31 23:00:00 UTC|2020-01-31 23:30:00 UTC", "30 minutes", "2020-02-01 00:00:00 UTC"),
            ("2020-01-31 23:00:00+00|2020-01-31 23:30:00+00", "30 minutes", "2020-02-01 00:00:00+00"),
            ("20200131T2300|20200131T2330", "30 minutes", "20200201T0000"),
            ("2020q3|2020q4", "quarter", "2021q1"),
            ("Q3 2020|Q4 2020", "quarter", "Q1 2021"),
            ("Q3-20|Q4-20", "quarter", "Q1-21"),
            ("3Q2020|4Q2020", "quarter", "1Q2021"),
            ("2020H1|2020H2", "half year", "2021H1"),
            ("2020-W52|2020-W53", "week", "2021-W01"),
            ("KW 52/2020|KW 53/2020", "week", "KW 01/2021"),
            ("2020-W01-1|2020-W01-2", "day", "2020-W01-3"),
            ("2018M11|2018M12", "month", "2019M01"),
            ("2020-059|2020-060", "day", "2020-061"),
            ("2020365|2020366", "day", "2021001"),
            ("30012020|31012020", "day", "01022020"),
            ("2020012522|2020012523", "hour", "2020012600"),
            ("202001252300|202001252330", "30 minutes", "202001260000"),
            ("1577836800|1577840400", "hour", "1577844000"),
            ("1577836800000|1577840400000", "hour", "1577844000000"),
            ("2020.11|2020.12|2021.01", "month", "2021.02"),
            ("2020.08|2020.09|2020.1|2020.11", "month", "2020.12"),
            ("2020.8|2020.9|2020.10|2020.11", "month", "2020.12"),
            ("12.2018|01.2019|02.2019", "month", "03.2019"),
            ("2019-3|2019-4|2020-1", "quarter", "2020-2"),
            ("2019.3|2019.4|2020.1", "quarter", "2020.2"),
            ("2019-3|2019-4|2019-5", "month", "2019-6"),
            ("2019-11|2019-12|2020-1", "month", "2020-2"),
            ("1/2/2020|1/3/2020|1/4/2020|13/4/2020", "about day", "14/4/2020"),
        ],
    )  # fmt: skip
    def test_times_as_people_write_them(self, file: Path, times: str, spacing: str, following: str) -> None:
        found = line(file, times)
        if not spacing.startswith("about"):
            assert (str(found.spacing), found.inserted) == (spacing, 0)
            assert found.label(found.following(1)[0]) == following
        written_again = "|".join(map(found.label, found.times[found.places]))
        assert written_again == times.replace("2020.1|", "2020.10|")

    @pytest.mark.parametrize(
        ("times", "years"),
        [("Jan-49|Dec-60", (1949, 1960)), ("Jan-98|Dec-03", (1998, 2003)), ("Jan-30|Dec-31", (2030, 2031)),
         ("Jan-40|Dec-41", (1940, 1941)), ("Jan-49|Jan-60|Jan-75|Jan-90|Jan-05|Jan-20", (1949, 2020))],
    )  # fmt: skip
    def test_years_of_two_digits(self, file: Path, times: str, years: tuple[int, int]) -> None:
        found = line(file, times).times
        assert (found[0].item().year, found[-1].item().year) == years

    def test_numbers_of_parquet_are_read_as_those_of_csv(self, tmp_path: Path) -> None:
        for month, form in (([2020.11, 2020.12, 2021.01], "%Y.%m"), ([2020012522, 2020012523], "%Y%m%d%H")):
            pl.DataFrame({"month": month}).write_parquet(tmp_path / "t.parquet")
            found = timeline.of(table.read(tmp_path / "t.parquet"))
            assert (found.form.text, found.inserted, found.spacing.even) == (form, 0, True)

    @pytest.mark.parametrize(
        ("rule", "spacing", "following"),
        [
            ("last working day", "month", ["2020-05-29", "2020-06-30"]),
            ("first working day", "month", ["2020-05-01", "2020-06-01"]),
            ("15th or the next working day", "month", ["2020-05-15", "2020-06-15"]),
            ("third Friday", "month", ["2020-05-15", "2020-06-19"]),
            ("last Thursday", "month", ["2020-05-28", "2020-06-25"]),
            ("month end", "month", ["2020-05-31", "2020-06-30"]),
            ("working days", "day from Monday to Friday", ["2020-05-01", "2020-05-04"]),
            ("Monday to Saturday", "day from Monday to Saturday", ["2020-05-01", "2020-05-02", "2020-05-04"]),
            ("Sunday to Thursday", "day of Monday, Tuesday, Wednesday, Thursday, Sunday", ["2020-05-03", "2020-05-04"]),
            ("half hours but for a night", "30 minutes", ["2020-04-30 23:30", "2020-05-01 00:00"]),
            ("half hours of the day", "30 minutes from 09:00 to 17:00", ["2020-05-01 09:00", "2020-05-01 09:30"]),
            ("of working days", "hour from 09:00 to 17:00, from Monday to Friday", ["2020-05-01 09:00"]),
            ("thrice a day", "one of 3 times of day, from 08:00 to 20:00", ["2020-05-01 08:00", "2020-05-01 13:30"]),
        ],
    )
    @pytest.mark.parametrize("holidays", [False, True])
    def test_calendars(self, file: Path, rule: str, spacing: str, following: list[str], holidays: bool) -> None:
        months = np.arange("2018-11", "2020-05", dtype="datetime64[M]")
        days = np.arange("2019-11-01", "2020-05-01", dtype="datetime64[D]")
        first, ends = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]") - 1
        week = (days.astype(int) + 3) % 7

        def at(*clocks: int) -> np.ndarray:
            return (days[:, None].astype("datetime64[m]") + np.array(clocks, "timedelta64[m]")).ravel()

        half_hours = np.arange(0, 1440, 30)
        times = {
            "last working day": np.busday_offset(ends, 0, "backward"),
            "first working day": np.busday_offset(first, 0, "forward"),
            "15th or the next working day": np.busday_offset(first + 14, 0, "forward"),
            "third Friday": np.busday_offset(first, 2, "forward", "Fri"),
            "last Thursday": np.busday_offset(ends, 0, "backward", "Thu"),
            "month end": ends,
            "working days": days[week < 5],
            "Monday to Saturday": days[week < 6],
            "Sunday to Thursday": days[(week < 4) | (week == 6)],
            "half hours but for a night": np.delete(at(*half_hours.tolist()), range(3000, 3017))[:-1],
            "half hours of the day": at(*range(540, 1021, 30)),
            "of working days": at(*range(540, 1021, 60)).reshape(len(days), -1)[week < 5].ravel(),
            "thrice a day": at(480, 810, 1200),
        }[rule]  # fmt: skip
        if holidays:
            if spacing == "month" and rule != "month end":
                times[[4, 9]] += np.where(rule in ("first working day",), 1, -1) * np.timedelta64(1, "D")
            elif spacing != "month":
                times = np.delete(times, [20, 41])
        found = line(file, "|".join(str(time).replace("T", " ") for time in times))
        assert str(found.spacing) == spacing
        assert [found.label(time) for time in found.following(len(following))] == following
        inserted = 2 if holidays and spacing != "month" else 0
        assert found.inserted == inserted + (17 if "night" in rule else 0)
        assert np.array_equal(found.times[found.places], times)

    @pytest.mark.parametrize(
        ("times", "seasons"),
        [
            ("2020-01-01|2020-01-02", (7, 365.25)),
            ("2020-01-01 00:00|2020-01-01 01:00", (24, 168, 8766)),
            ("2020-01-01 00:00|2020-01-01 00:30", (48, 336, 17532)),
            ("2020-01-01|2020-01-08", (52.18,)),
            ("2020-01-02|2020-01-03|2020-01-06", (5, 260.89)),
            ("2020-01|2020-02", (12,)),
            ("2020Q1|2020Q2", (4,)),
            ("2020-01-01|2021-01-01", ()),
            ("1|2", ()),
        ],
    )
    def test_seasons_of_the_calendar(self, file: Path, times: str, seasons: tuple[float, ...]) -> None:
        assert line(file, times).spacing.seasons == pytest.approx(seasons, abs=0.005)

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
        assert (str(found.spacing), found.otherwise[0].text, str(found.otherwise[1])) == (spacing, form, otherwise)

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
        found = line(file, "|".join(map(str, times[::-1])), "made")
        assert (found.order, str(found.spacing), found.label(found.following(1)[0])) == (
            "newest first", "minute", str(times[2] + 60 * unit),
        )  # fmt: skip

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
            (name, "3|1|3", rf"line 4 .* has '3' in column '{re.escape(name)}', and so has line 2\. Keep one")
            for name in ("time", "DATE", "Datum", "Zeit", "time_stamp", "ds", "ts", "unix", "Date (UTC)", "Year", "t")
        ]
        + [
            ("when", "1998 Q1|1998 Q2|1998 Q2", r"occur once; line 4 of .* and so has line 3\. Keep one"),
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

    @pytest.mark.parametrize(
        ("times", "order"),
        [
            ("2020-01-01|2020-01-02|2020-01-03|2020-01-04", ""),
            ("2020-01-04|2020-01-03|2020-01-02|2020-01-01", "newest first"),
            ("2020-01-01|2020-01-03|2020-01-02|2020-01-04", "1 out of order"),
            ("2020-01-03|2020-01-04|2020-01-01|2020-01-02", "2 out of order"),
            ("2020-01-04|2020-01-03|2020-01-01|2020-01-02", "1 out of order, the others newest first"),
            ("4|3|2|1", "newest first"),
            ("02/01/2020|01/01/2020|31/12/2019|30/12/2019", "newest first"),
        ],
    )
    @pytest.mark.parametrize("name", ["date", "t", "when"])
    def test_rows_are_sorted_and_it_is_said(self, file: Path, name: str, times: str, order: str) -> None:
        if name == "when" and times[0] == "4":
            return
        found = line(file, times, name)
        assert (found.column, found.order, str(found.spacing)) == (name, order, "1" if times[0] == "4" else "day")
        assert [found.label(found.times[step]) for step in found.places] == times.split("|")
        values = np.array([float(re.findall(r"\d+", time)[-1 if "-" in time else 0]) for time in times.split("|")])
        assert found.on_grid(values)[found.places].tolist() == values.tolist()

    def test_gaps_of_sorted_rows(self, file: Path) -> None:
        found = line(file, "2020-01-11|2020-01-10|2020-01-07|2020-01-06|2020-01-05")
        assert (found.inserted, found.gaps(), found.places.tolist()) == (2, [(3, 4)], [6, 5, 2, 1, 0])

    @pytest.mark.parametrize(
        ("columns", "column"),
        [("t,when,y", "when"), ("index,when,y", "when"), ("index,y", None), ("made,when,date,y", "date")],
    )
    def test_the_likeliest_column_sorts_the_rows(self, file: Path, columns: str, column: str | None) -> None:
        days = ["2020-01-02", "2020-01-01"]
        rows = {"t": "12", "index": "21", "when": days, "date": days, "made": days[::-1], "y": "12"}
        body = "\n".join(",".join(rows[name][row] for name in columns.split(",")) for row in (0, 1))
        found = timeline.of(table.read(written(file, f"{columns}\n{body}\n")), taken=["y"])
        assert (found.column, found.order) == (column, "newest first" if column else "")

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

    @pytest.mark.parametrize(
        ("columns", "rows", "column", "spacing", "following"),
        [
            ("year,month,no", "2020,11,1|2020,12,2|2021,1,3", "year,month", "month", "2021-2"),
            ("no,year,month,day,hour", "1,2020,1,1,22|2,2020,1,1,23|3,2020,1,2,0", "year,month,day,hour", "hour",
             "2020-1-2 1"),
            ("day,month,year", "30,1,2020|31,1,2020|1,2,2020", "year,month,day", "day", "2020-2-2"),
            ("Jahr,Monat", "2020,Dezember|2021,Januar|2021,Februar", "Jahr,Monat", "month", "2021-März"),
            ("year,quarter", "2020,3|2020,4|2021,1", "year,quarter", "quarter", "2021-Q2"),
            ("year,week", "2020,52|2020,53|2021,1", "year,week", "week", "2021-W2"),
            ("Date,Time", "10/03/2004,22.00.00|10/03/2004,23.00.00|11/03/2004,00.00.00", "Date,Time", "hour",
             "11/03/2004 01.00.00"),
            ("Date,Time", "16/12/2006,23:58:00|16/12/2006,23:59:00|17/12/2006,00:00:00", "Date,Time", "minute",
             "17/12/2006 00:01:00"),
            ("Datum,Uhrzeit", "31.12.2020,23:00|31.12.2020,24:00|01.01.2021,01:00", "Datum,Uhrzeit", "hour",
             "01.01.2021 02:00"),
            ("dteday,hr", "2011-01-01,22|2011-01-01,23|2011-01-02,0", "dteday,hr", "hour", "2011-01-02 1"),
            ("date,time", "2020-01-01,0|2020-01-01,1200|2020-01-02,0", "date,time", "12 hours", "2020-01-02 1200"),
            ("Date,Hour Ending,Hour", "2020-01-01 00:00,1,1|2020-01-01 00:00,2,2", "Date,Hour", "hour", "2020-01-01 3"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("named", [False, True])
    def test_a_time_in_several_columns(
        self, file: Path, columns: str, rows: str, column: str, spacing: str, following: str, named: bool
    ) -> None:
        body = "".join(f"{row},1\n" for row in rows.split("|"))
        read = table.read(written(file, f"{columns},y\n{body}"))
        found = timeline.of(read, column if named else None, taken=["y"])
        assert (found.column, str(found.spacing), found.label(found.following(1)[0])) == (column, spacing, following)

    def test_several_columns_of_parquet(self, tmp_path: Path) -> None:
        days = pl.Series("date", [datetime.date(2020, 1, 1)] * 2 + [datetime.date(2020, 1, 2)] * 2)
        hours = pl.Series("time", [datetime.time(0), datetime.time(12)] * 2)
        for dates, times in ((days, hours), (days.cast(pl.Datetime), hours.dt.hour())):
            pl.DataFrame([dates, times, pl.Series("y", range(4))]).write_parquet(tmp_path / "t.parquet")
            found = timeline.of(table.read(tmp_path / "t.parquet"), "date,time")
            assert str(found.spacing) == "12 hours"
            assert found.label(found.following(1)[0]).startswith("2020-01-03 0")

    def test_columns_that_do_not_tell_the_time_together_are_named(self, file: Path) -> None:
        read = table.read(written(file, "date,hour,y\n2020-01-01,5,1\n2020-01-01,26,2\n"))
        with pytest.raises(InputError, match=r"line 3 of .* has '2020-01-01 26' in columns 'date', 'hour'"):
            timeline.of(read, "date,hour", taken=["y"])
        with pytest.raises(InputError, match=r"one of the table's: date, hour, y; got 'minute'"):
            timeline.of(read, "date,minute", taken=["y"])
        read = table.read(written(file, "date,hour,y\n2020-01-01,5,1\n2020-01-02,,2\n"))
        with pytest.raises(InputError, match=r"needs a time; line 3 of .* has none in column 'hour'"):
            timeline.of(read, "date,hour", taken=["y"])

    @pytest.mark.parametrize("by_series", [False, True])
    def test_several_series_in_one_table_are_told_apart(self, file: Path, by_series: bool) -> None:
        rows = [f"1998 Q{quarter},{kind},{n},{kind}" for quarter in range(1, 5) for n, kind in enumerate("AB")]
        rows = sorted(rows, key=lambda row: row[8]) if by_series else rows
        read = table.read(written(file, "\n".join(["Quarter,kind,y,same", *rows]) + "\n"))
        where = "line 6 .* and so has line 2" if by_series else "line 3 .* and so has line 2"
        with pytest.raises(
            InputError,
            match=rf"{where}\. Rows of one time differ in 'kind' \('A', 'B'\): these are 2 series\. Learn them "
            r"together with --series kind, or keep the rows of one of them in a file of its own\.",
        ):
            timeline.of(read, taken=["y"])

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([f"2020-01-0{d},{s},{i},1" for i in (1, 2) for s in (1, 2, 3) for d in (1, 2, 3, 4)],
             r"differ in 'item' and 'store' \('1' '1', '1' '2', '1' '3', \.\.\.\): these are 6 series\. .* "
             r"--series item,store"),
            ([f"2020-01-{d:02},{'ab'[d > 28]},{d},1" for d in range(1, 30)] + ["2020-01-01,b,9,1"],
             r"differ in 'store' \('a', 'b'\)"),
            ([f"2020-01-{d:02},{'ab'[d % 2]},{d},1" for d in range(1, 30)] + ["2020-01-01,a,9,1"],
             r"Keep one row of each time; .* in one file, name"),
            ([f"2020-01-0{d},a,{d},1" for d in (1, 2, 3, 3)], r"Keep one row of each time; .* in one file, name"),
        ],
    )  # fmt: skip
    def test_what_tells_rows_apart(self, file: Path, rows: list[str], message: str) -> None:
        read = table.read(written(file, "\n".join(["date,store,item,y", *rows]) + "\n"))
        with pytest.raises(InputError, match=message):
            timeline.of(read, taken=["y"])

    @pytest.mark.parametrize("newest_first", [False, True])
    @pytest.mark.parametrize("every", [60, 15])
    def test_an_hour_that_came_twice(self, file: Path, every: int, newest_first: bool) -> None:
        start = datetime.datetime(2024, 10, 26)
        minutes = [*range(0, 27 * 60, every), *range(26 * 60, 40 * 60, every)]
        times = [f"{start + datetime.timedelta(minutes=minute):%Y-%m-%d %H:%M}" for minute in minutes]
        with_offset = [f"{time}{'+02:00' if n < 27 * 60 // every else '+01:00'}" for n, time in enumerate(times)]
        for written_as in (times, with_offset):
            given = written_as[::-1] if newest_first else written_as
            found = line(file, "|".join(given), "zeit")
            assert (found.inserted, found.spacing.even, found.order) == (0, True, "newest first" * newest_first)
            assert [found.label(found.times[step]) for step in found.places] == given
            assert found.label(found.following(1)[0]) == "2024-10-27 16:00" + "+01:00" * (written_as is with_offset)

    def test_an_hour_lost_in_spring_is_no_gap_where_one_came_twice_in_autumn(self, file: Path) -> None:
        hours = pl.Series([datetime.datetime(2024, 3, 1) + datetime.timedelta(hours=n) for n in range(24 * 260)])
        local = hours.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin").dt.strftime("%d.%m.%Y %H:%M")
        found = line(file, "|".join(local))
        assert (found.inserted, found.spacing.even) == (0, True)
        assert [found.label(time) for time in found.times[::97]] == local[::97].to_list()

    @pytest.mark.parametrize("day", ["2024-10-26", "2024-07-07"])
    def test_an_hour_that_came_twice_at_another_time_is_to_have_its_offset(self, file: Path, day: str) -> None:
        hour = 9 if day == "2024-07-07" else 2
        hours = [*range(hour + 1), *range(hour, 24)]
        with pytest.raises(
            InputError,
            match=rf"line {hour + 3} of .* has '{day} 0{hour}:00' in column 'zeit', and so has line .*offset from UTC, "
            rf"as {day} 0{hour}:00\+02:00 and {day} 0{hour}:00\+01:00 an hour later\.",
        ):
            line(file, "|".join(f"{day} {hour:02}:00" for hour in hours), "zeit")

    @pytest.mark.parametrize("parquet", [False, True])
    @pytest.mark.parametrize(("every", "spacing"), [("1d", "day"), ("1h", "hour"), ("1mo", "month"), ("3h", "3 hours")])
    def test_local_midnight_stays_local_midnight(self, tmp_path: Path, every: str, spacing: str, parquet: bool) -> None:
        start, end = datetime.datetime(2024, 3, 20), datetime.datetime(2024, 11, 5)
        zone = "Europe/Berlin"
        times = pl.datetime_range(start, end, every, time_zone=zone, eager=True).alias("time")
        written_as = times.dt.strftime("%Y-%m-%d %H:%M%:z")
        pl.DataFrame([times]).write_parquet(tmp_path / "t.parquet")
        pl.DataFrame([written_as]).write_csv(tmp_path / "t.csv")
        found = timeline.of(table.read(tmp_path / ("t.parquet" if parquet else "t.csv")))
        if parquet and every in ("1d", "1mo"):
            written_as = times.dt.strftime("%Y-%m-%d")
        assert (str(found.spacing), found.inserted) == (spacing, 0)
        assert [found.label(time) for time in found.times[::7]] == written_as[::7].to_list()

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
        assert str(line(file, "1714352400000000000|1714352401000000000").spacing) == "second"

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
        with pytest.raises(InputError, match=r"so has line 3\. Keep one row of each time; where several") as refusal:
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

    def test_a_time_zone_of_parquet_knows_when_clocks_change(self, tmp_path: Path) -> None:
        hours = pl.Series([datetime.datetime(2024, 10, 26, 16) + datetime.timedelta(hours=n) for n in range(8)])
        zoned = hours.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
        pl.DataFrame({"when": zoned}).write_parquet(tmp_path / "t.parquet")
        found = timeline.of(table.read(tmp_path / "t.parquet"))
        assert [found.label(time) for time in (found.times[0], *found.following(2))] == [
            "2024-10-26 18:00+02:00", "2024-10-27 02:00+02:00", "2024-10-27 02:00+01:00",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            ("2020-01-01|2020-01-02|2020-01-02", r"occur once; line 4 of .* has '2020-01-02' .* so has line 3"),
            ("2020-01-01|2020-01-02|2020-01-01", r"Every time may occur once; line 4 of .* and so has line 2"),
            ("2020-01-01|", r"Every row needs a time; line 3 of .* has none in column 'date'"),
            ("2020-01-01|soon", r"Times must be numbers or dates, .*; line 3 of .* has 'soon' in column 'date'"),
            ("2020-01-01|2020-02-30", r"line 3 of .* has '2020-02-30'"),
            ("2020-01-01|0020-01-02", r"line 3 of .* has '0020-01-02'"),
            ("2020-01-01 10:00:00|2020-01-01 10:00:0٢", r"line 3 of .* has '2020-01-01 10:00:0٢'"),
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
