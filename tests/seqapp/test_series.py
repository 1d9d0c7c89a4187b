"""Series from tables, and what is wrong with a table in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqapp import series as tables
from tests.conftest import refused

DAYS = "date,a,b\n2024-01-01,1,10\n2024-01-02,2,20\n2024-01-03,4,30\n2024-01-04,3,40\n"


Write = Callable[[str], Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "t.csv"
        path.write_text(text, "utf-8")
        return path

    return write


def test_each_column_is_a_series(table: Write) -> None:
    a, b = tables.read(table(DAYS), None)
    assert (a.name, b.name, a.frequency, a.columns) == ("a", "b", "D", ())
    np.testing.assert_array_equal(b.values, [10, 20, 30, 40])
    assert a.dates is not None
    assert str(a.dates[1]) == "2024-01-02T00:00:00"
    assert a.beside.shape == (4, 0)


def test_with_a_target_the_other_columns_stand_beside_it(table: Write) -> None:
    (b,) = tables.read(table(DAYS), "b")
    assert (b.name, b.columns) == ("b", ("a",))
    np.testing.assert_array_equal(b.beside[:, 0], [1, 2, 4, 3])


def test_rows_of_several_series(table: Write) -> None:
    text = "series,date,value\nx,2024-01-31,1\ny,2023-05-01,5\nx,2024-02-29,2\ny,2023-06-01,6\nx,2024-03-31,3\ny,2023-07-01,7\n"
    x, y = tables.read(table(text), None)
    assert (x.name, y.name, x.frequency, y.frequency) == ("x", "y", "ME", "MS")
    np.testing.assert_array_equal(y.values, [5, 6, 7])
    assert [s.name for s in tables.read(table("series,a,b\nx,1,2\nx,2,3\n"), None)] == ["x a", "x b"]


def test_without_dates_rows_are_timesteps(table: Write) -> None:
    (one,) = tables.read(table("value\n1\n2\n"), None)
    assert (one.dates, one.frequency) == (None, None)
    assert one.dates_after(2) == ["3", "4"]


@pytest.mark.parametrize(
    ("first", "frequency", "wanted", "seasons"),
    [
        ("2024-02-28", "D", ["2024-03-01", "2024-03-02"], (7, 0)),
        ("2024-02-28 22:00", "h", ["2024-02-29 00:00:00", "2024-02-29 01:00:00"], (24, 168)),
        ("2024-02-28", "15min", ["2024-02-28 00:30:00", "2024-02-28 00:45:00"], (96, 672)),
        ("2024-01-31", "ME", ["2024-03-31", "2024-04-30"], (12, 0)),
        ("2024-01-01", "QS", ["2024-07-01", "2024-10-01"], (4, 0)),
        ("2024-01-07", "W", ["2024-01-21", "2024-01-28"], (52, 0)),
        ("2024-01-01", "YS", ["2026-01-01", "2027-01-01"], (1, 0)),
    ],
)
def test_dates_go_on_and_have_their_season(first: str, frequency: str, wanted: list[str], seasons: tuple[int, int]) -> None:
    dates = pd.date_range(first, periods=2, freq=frequency)
    one = tables.Series("x", np.zeros(2), np.zeros((2, 0)), (), dates.to_numpy("datetime64[s]"), frequency)
    assert one.dates_after(2) == [date.removesuffix(" 00:00:00") for date in wanted]
    assert tables.seasons(frequency) == seasons


SEASONS = {"2D": 1, "7D": 1, "2W-SUN": 26, "4W-SUN": 13, "B": 5, "BMS": 12, "BME": 12, "2MS": 6, "2h": 12}


@pytest.mark.parametrize(("frequency", "season"), SEASONS.items())
def test_seasons_of_dates_that_leave_some_out(frequency: str, season: int) -> None:
    assert tables.seasons(frequency)[0] == season


def test_blank_lines_at_the_end_are_nothing(table: Write) -> None:
    assert len(tables.read(table(DAYS + "\n \n"), None)[0]) == 4


@pytest.mark.parametrize("frequency", ["B", "h", "D", "MS", "ME", "W-SUN", "QS-JAN", "YS-JAN", "15min", "2h"])
def test_how_often_dates_come_is_found_out(frequency: str, table: Write) -> None:
    dates = pd.date_range("2019-12-29", periods=150, freq=frequency)
    text = "date,v\n" + "".join(f"{date.isoformat()},{i}\n" for i, date in enumerate(dates))
    (one,) = tables.read(table(text), None)
    assert one.frequency == frequency
    assert one.dates_after(1) == [str(pd.date_range(dates[-1], periods=2, freq=frequency)[1]).removesuffix(" 00:00:00")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (DAYS.replace("4,30", "NaN,30"), ("t.csv, row 4, column a", "finite number", "'NaN'")),
        (DAYS.replace("4,30", ",30"), ("t.csv, row 4, column a is empty", "fill the gap")),
        (DAYS.replace("20\n", "inf\n"), ("row 3, column b", "'inf'")),
        (DAYS.replace("20\n", "1e39\n"), ("row 3, column b", "'1e39'")),
        (DAYS.replace("20\n", "much\n"), ("row 3, column b", "'much'")),
        (DAYS.replace("20\n", "20,7\n"), ("cannot be read as .csv", "line 3")),
        (DAYS.replace("2024-01-02", "2024-13-02"), ("row 3", "date should be written as", "'2024-13-02'")),
        (DAYS.replace("2024-01-03", "2024-01-01"), ("row 4", "2024-01-01 does not come after 2024-01-02", "sort")),
        (DAYS + "2024-01-06,3,4\n2024-01-07,3,4\n", ("row 6", "gap", "2024-01-05 should come before 2024-01-06")),
        ("date,a\n2024-01-01,1\n2024-01-03,1\n2024-01-09,1\n2024-01-10,1\n", ("no regular distance",)),
        ("date\n2024-01-01\n", ("column of numbers", "1 rows of date")),
        ("a,b\n", ("column of numbers", "0 rows of a, b")),
        ("series,date,v\nx,2024-01-01,1\ny,2024-01-01,1\nx,2024-01-01,2\n", ("t.csv, x, row 4", "does not come after")),
        ("\n", ("is empty",)),
        ("value\n1,2\n3,4\n", ("more columns than its first line",)),
        ("date,value\n2024-01-01,5,\n2024-01-02,6,\n", ("more columns than its first line",)),
        ("a,b\n1,2\n\n1,z\n", ("row 3, column a is empty",)),
        (DAYS + "2024-01-04 12:00,3,4\n2024-01-05 12:00,3,4\n", ("row 6", "comes sooner")),
    ],
)
def test_what_is_wrong_with_a_table(text: str, parts: tuple[str, ...], table: Write) -> None:
    refused(lambda: tables.read(table(text), None), *parts)


def test_a_target_that_is_not_there(table: Write) -> None:
    refused(lambda: tables.read(table(DAYS), "c"), "--target", "a, b", "Received: c")


def test_what_is_no_table(tmp_path: Path) -> None:
    refused(lambda: tables.read(tmp_path / "no.csv", None), "There is no", "no.csv")
    (tmp_path / "t.txt").write_text(DAYS)
    refused(lambda: tables.read(tmp_path / "t.txt", None), "t.txt should be a .csv")
    (tmp_path / "b.csv").write_bytes(b"a\n\xff\n")
    refused(lambda: tables.read(tmp_path / "b.csv", None), "b.csv is not UTF-8")


def test_the_default_series_are_days_without_a_gap() -> None:
    (one,) = tables.read(None, "temp_max")
    assert (len(one), one.frequency, one.columns) == (1461, "D", ("precipitation", "temp_min", "wind"))


@pytest.mark.parametrize("text", [DAYS, "value\n1\n2\n"])
@pytest.mark.parametrize("target", [None, "last"])
def test_what_is_saved_is_read(text: str, target: str | None, table: Write, tmp_path: Path) -> None:
    column = None if target is None else {DAYS: "b"}.get(text, "value")
    kept = tables.read(table(text), column)
    tables.save(tmp_path / "series.npz", kept)
    for one, other in zip(kept, tables.load(tmp_path / "series.npz"), strict=True):
        assert (one.name, one.columns, one.frequency) == (other.name, other.columns, other.frequency)
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.beside, other.beside)
        np.testing.assert_array_equal(one.dates, other.dates)


def test_what_is_damaged_is_one_line(table: Write, tmp_path: Path) -> None:
    path = tmp_path / "series.npz"
    refused(lambda: tables.load(path), "There is no")
    tables.save(path, tables.read(table(DAYS), None))
    arrays = dict(np.load(path))
    for change in ({"lengths": np.array([4, 5])}, {"names": np.array(["a"])}, {"values": np.zeros(3)}):
        np.savez(path, **{**arrays, **change})
        refused(lambda: tables.load(path), "series.npz is damaged", "restore it")
    del arrays["columns"]
    np.savez(path, **arrays)
    refused(lambda: tables.load(path), "series.npz is damaged")
