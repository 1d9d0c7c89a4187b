"""Series of numbers over time, from a table."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.arrays import read_npz
from seqapp.corpus import read_text
from seqapp.errors import UsageError, need

Array = NDArray[Any]
DATE, SERIES = "date", "series"  # columns with a meaning of their own
DAY = 86_400  # seconds
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Series:
    """Values (T,) at regular times, and the named columns (T, C) beside them; dates (T,) are datetime64, or none."""

    name: str
    values: Array
    beside: Array
    columns: tuple[str, ...]
    dates: Array | None
    frequency: str | None  # as pandas names it: "h", "D", "MS"

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> Series:
        """Its first timesteps."""
        dates = None if self.dates is None else self.dates[:count]
        return replace(self, values=self.values[:count], beside=self.beside[:count], dates=dates)

    def dates_after(self, count: int) -> list[str]:
        """The next dates, or numbers of timesteps, for people."""
        if self.dates is None or self.frequency is None:
            return [str(len(self) + 1 + i) for i in range(count)]
        pandas = need("pandas", "forecast")
        found = pandas.date_range(self.dates[-1], periods=count + 1, freq=self.frequency)[1:]
        return [str(date).removesuffix(" 00:00:00") for date in found]


def default_table() -> Any:
    """The weather of Seattle, day by day from 2012 to 2015 (NOAA), as the package vega_datasets (BSD) has it."""
    table = need("vega_datasets", "forecast").local_data.seattle_weather().drop(columns="weather")
    return table.astype(str)


def read(path: Path | None, target: str | None) -> list[Series]:
    """The series of a `.csv`, or the default ones.

    A first line names the columns: `date` (ISO 8601; left out, rows are timesteps), `series` where rows of several series stand
    below one another, and columns of numbers. Each of these is a series of its own, unless `target` names one: then the others
    are read beside it.

    Raises:
        UsageError: something is not as it should be: which row, and what is wrong with it.
    """
    table, name = (default_table(), "the default data") if path is None else (_table(path), path.name)
    numbers = [column for column in table.columns if column not in (DATE, SERIES)]
    if not numbers or not len(table):
        raise UsageError(
            f"{name} must have a line of column names, then rows with a column of numbers. There is: {_listed(table)}"
        )
    if target is not None and target not in numbers:
        raise UsageError(f"--target must be a column of numbers of {name}: {', '.join(numbers)}. Received: {target}")
    values = np.column_stack([_numbers(table[column], name) for column in numbers])
    return [
        series for label, rows in _groups(table) for series in _of_rows(table, name, label, rows, values[rows], numbers, target)
    ]


def _table(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"There is no {path}: give a .csv file with columns of numbers.")
    if path.suffix != ".csv":
        raise UsageError(f"{path} should be a .csv file with columns of numbers, and one of dates named {DATE}.")
    text = io.StringIO(read_text(path).rstrip())
    pandas = need("pandas", "forecast")
    try:
        # Blank lines are kept, so that rows have the numbers of their lines.
        table = pandas.read_csv(text, dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False)
        if not isinstance(table.index, pandas.RangeIndex):
            raise ValueError("its rows have more columns than its first line")
        return table
    except ValueError as error:  # which pandas' own errors are
        words = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as .csv ({words}): give each row as many columns as the first.") from None


def _listed(table: Any) -> str:
    return f"{len(table)} rows of {', '.join(map(str, table.columns)) or 'nothing'}"


def _row(number: int) -> str:
    """Of a table's row, counted from 0, the line of the file that it stands in."""
    return f"row {number + 2}"


def _numbers(column: Any, name: str) -> Array:
    """The column as float64."""
    found = need("pandas", "forecast").to_numeric(column, errors="coerce").to_numpy(np.float64)
    for bad in np.flatnonzero(~(np.abs(found) <= LARGEST))[:1]:
        text = column.iloc[bad]
        what = "should be a finite number" if text.strip() else "is empty: fill the gap, or leave the series out"
        raise UsageError(f"{name}, {_row(bad)}, column {column.name} {what}. Received: {text!r}")
    return found


def _groups(table: Any) -> Iterator[tuple[str, Array]]:
    """The rows of each series, in the table's order."""
    if SERIES not in table:
        yield "", np.arange(len(table))
        return
    for label, rows in table.groupby(SERIES, sort=False).indices.items():
        yield str(label), np.sort(rows)


def _of_rows(
    table: Any, name: str, label: str, rows: Array, values: Array, columns: Sequence[str], target: str | None
) -> Iterator[Series]:
    dates, frequency = (
        (None, None) if DATE not in table else _dates(table[DATE].iloc[rows], f"{name}{', ' * bool(label)}{label}", rows)
    )
    for place, column in enumerate(columns):
        if target in (None, column):
            others = [i for i in range(len(columns)) if i != place] if target else []
            full = " ".join(part for part in (label, column if not label or len(columns) > 1 else "") if part)
            yield Series(full, values[:, place], values[:, others], tuple(columns[i] for i in others), dates, frequency)


def _dates(column: Any, name: str, rows: Array) -> tuple[Array, str | None]:
    """The dates of one series and how often they come."""
    pandas = need("pandas", "forecast")
    found = (
        pandas.to_datetime(column, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None).to_numpy("datetime64[s]")
    )
    texts = list(column)
    for bad in np.flatnonzero(np.isnat(found))[:1]:
        raise UsageError(
            f"{name}, {_row(rows[bad])}: the date should be written as 2024-01-31 or 2024-01-31 13:00. Received: {texts[bad]!r}"
        )
    for bad in np.flatnonzero(np.diff(found) <= np.timedelta64(0))[:1] + 1:
        raise UsageError(
            f"{name}, {_row(rows[bad])}: the date {texts[bad]} does not come after {texts[bad - 1]}: "
            "sort the rows by date, each date once."
        )
    if len(found) < 3:
        return found, None
    whole = _frequency(found)
    if whole is not None:
        return found, whole
    usual = Counter(_frequency(found[i : i + 3]) for i in range(0, len(found) - 2, max(1, len(found) // 50)))
    frequency = next((freq for freq, _ in usual.most_common() if freq), None)
    if frequency is None:
        raise UsageError(f"{name}: the dates come at no regular distance: give one value for each hour, day, week or month.")
    expected = pandas.date_range(found[0], periods=len(found), freq=frequency).to_numpy("datetime64[s]")
    for bad in np.flatnonzero(expected != found)[:1]:
        if expected[bad] > found[bad]:
            raise UsageError(
                f"{name}, {_row(rows[bad])}: {texts[bad]} comes sooner after {texts[bad - 1]} than the dates before it do: "
                "give one value for each hour, day, week, or first or last day of a month."
            )
        missing = str(expected[bad]).replace("T", " ").removesuffix(" 00:00:00")
        raise UsageError(f"{name}, {_row(rows[bad])}: there is a gap, {missing} should come before {texts[bad]}: fill it in.")
    return found, frequency


def _frequency(dates: Array) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3 announces that this will be an object
        found = need("pandas", "forecast").DatetimeIndex(dates).inferred_freq
    return getattr(found, "freqstr", found)


def seasons(frequency: str | None) -> tuple[int, int]:
    """Timesteps in a season and in a season of seasons (0: none) of values that come so often; one where nothing is known.

    Within a day, the day and the week; else what statsmodels takes for the frequency: a week of days, a year of months.
    """
    if frequency is None:
        return 1, 0
    offsets = need("pandas.tseries.frequencies", "forecast")
    offset = offsets.to_offset(frequency)
    try:
        seconds = offset.nanos / 1e9
    except ValueError:  # a month has no length
        seconds = None
    if seconds is not None and seconds < DAY:
        return (int(DAY // seconds), int(DAY // seconds) * 7) if DAY % seconds == 0 else (1, 0)
    base = offset.base.freqstr.replace("BM", "M").replace("BQ", "Q")  # the months of business days are months
    try:
        period = int(need("statsmodels.tsa.tsatools", "forecast").freq_to_period(base))
    except ValueError:
        return 1, 0
    return (period // offset.n if period % offset.n == 0 else 1), 0


def save(path: Path, series: Sequence[Series]) -> None:
    arrays: dict[str, Any] = {
        "names": np.array([s.name for s in series]),
        "lengths": np.array([len(s) for s in series]),
        "values": np.concatenate([s.values for s in series]),
        "beside": np.concatenate([s.beside for s in series]),
        "frequencies": np.array([s.frequency or "" for s in series]),
        "columns": np.array(series[0].columns, str),
    }
    if series[0].dates is not None:
        arrays["dates"] = np.concatenate([s.dates for s in series if s.dates is not None])
    np.savez(path, **arrays)


def load(path: Path) -> list[Series]:
    """Reads what `save` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    arrays = read_npz(path, "restore it, or train again.")
    try:
        cuts = np.cumsum(arrays["lengths"])[:-1]
        parts = [np.split(arrays[name], cuts) for name in ("values", "beside")]
        dates = np.split(arrays["dates"], cuts) if "dates" in arrays else [None] * len(arrays["lengths"])
        frequencies = [str(text) or None for text in arrays["frequencies"]]
        columns = tuple(map(str, arrays["columns"]))
        found = [
            Series(str(name), values, beside, columns, *when)
            for name, values, beside, *when in zip(arrays["names"], *parts, dates, frequencies, strict=True)
        ]
        if any(len(s) != length for s, length in zip(found, arrays["lengths"], strict=True)):
            raise ValueError("its parts do not fit together")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}): restore it, or train again.") from None
    return found
