"""The task `forecast`: parts, forecasts, and what a run says of other series."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqapp import forecast, predict
from seqapp.config import Config, DataConfig, build
from seqapp.forecast import Forecast, Parts, forecasts, outlook
from seqapp.framing import LEVELS, Framing
from seqapp.run import Run
from seqapp.series import Series, read
from seqapp.step import compiled
from seqapp.task_config import ForecastConfig
from tests.conftest import dated_values, refused

Forecasted = Callable[..., Run]
FRAMING = Framing(horizon=4, season=3)
VALUES = np.random.default_rng(0).normal(50, 9, 80)


def series(values: Any, name: str = "x") -> Series:
    return Series(name, np.asarray(values, float), np.zeros((len(values), 0)), (), None, None)


@given(st.integers(30, 500), st.integers(1, 10), st.floats(0.01, 0.3), st.floats(0, 0.3))
def test_each_held_out_timestep_is_forecast_once(length: int, horizon: int, validation: float, test: float) -> None:
    parts = Parts(validation, test)
    ends = parts.ends(length, horizon)
    assert ends["test"] == length
    for name, fraction, size in (
        ("validation", validation, ends["validation"] - ends["train"]),
        ("test", test, length - ends["validation"]),
    ):
        assert size % horizon == 0, name
        assert (size == 0) == (fraction == 0)
        assert size <= max(horizon, fraction * length + 1e-9)
    if ends["train"] > 20:
        values = np.random.default_rng(0).normal(size=length)
        (one,) = parts.outlooks([series(values)], Framing(horizon), "validation")
        covered = [int(t) for origin in one.origins for t in range(origin, origin + horizon)]
        assert covered == list(range(ends["train"], ends["validation"]))
        assert one.scale == Framing(horizon).scale(values[: ends["train"]])


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (VALUES[:12], ("series x has 12 timesteps", "4 come before", "--horizon", "at least 8")),
        (np.full(80, 7.0), ("series x is constant in its first 72 timesteps", "leave it out")),
        (np.arange(80) % 3, ("series x repeats itself every 3 timesteps",)),
    ],
)
def test_series_that_cannot_be_forecast(values: Any, parts: tuple[str, ...]) -> None:
    refused(lambda: Parts(0.05, 0.05).outlooks([series(VALUES, "a"), series(values)], FRAMING, "test"), *parts)


def test_a_series_alone_is_as_among_others(forecasted: Forecasted) -> None:
    run = forecasted()
    framing, model = forecast.load_framing(run.path), compiled(run.load_model())
    (whole,) = Parts.of(run.config).outlooks([s for s in forecast.load_series(run.path) if s.name == "sold"], framing, "test")
    cut = replace(whole, origins=whole.origins[:2])
    shifted = replace(whole, series=replace(whole.series, values=whole.series.values * 3 + 7), scale=whole.scale * 3)
    together = forecasts(model, framing, [cut, whole, shifted])
    np.testing.assert_allclose(together[0], together[1][:2], rtol=1e-5, equal_nan=False)
    np.testing.assert_allclose(together[2], together[1] * 3 + 7, rtol=1e-5, equal_nan=False)
    np.testing.assert_allclose(forecasts(model, framing, [whole])[0], together[1], rtol=1e-5, equal_nan=False)


def test_what_comes_after_an_origin_is_not_seen(forecasted: Forecasted) -> None:
    run = forecasted("--target", "sold")
    framing, model = forecast.load_framing(run.path), compiled(run.load_model())
    (one,) = Parts.of(run.config).outlooks(forecast.load_series(run.path), framing, "test")
    values, beside, origin = one.series.values.copy(), one.series.beside.copy(), int(one.origins[0])
    values[origin:], beside[origin:] = 1e6, -1e6
    other = replace(one, series=replace(one.series, values=values, beside=beside))
    (before,), (after,) = (forecasts(model, framing, [which]) for which in (one, other))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, equal_nan=False)
    assert len(before) > 1
    assert not np.allclose(after[1], before[1])


class TestFraming:
    """What the settings and the dates make of the seasons."""

    def of(self, frequency: str | None, count: int, **given: Any) -> tuple[int, int]:
        dates = None if frequency is None else np.datetime64("2024-01-01T00:00:00") + np.arange(count)
        one = replace(series(np.arange(count) ** 1.5), dates=dates, frequency=frequency)
        config = Config(task="forecast", data=DataConfig(), forecast=ForecastConfig(horizon=5, **given))
        framing = forecast.framing_of([one], config)
        assert framing.dated == (frequency is not None)
        return framing.season, framing.long_season

    def test_seasons_follow_from_the_dates(self) -> None:
        assert self.of(None, 900) == (1, 0)
        assert self.of("h", 900) == (24, 168)
        assert self.of("MS", 900) == (12, 0)

    def test_a_long_season_is_left_out_of_short_series(self) -> None:
        assert self.of("h", 400) == (24, 0)
        assert self.of("h", 400, long_season=168) == (24, 168)

    def test_settings_go_before_dates(self) -> None:
        assert self.of("h", 900, season=12) == (12, 168)
        assert self.of("h", 900, season=25) == (25, 0)
        assert self.of("h", 900, season=1, long_season=0) == (1, 0)

    def test_a_long_season_is_longer(self) -> None:
        refused(lambda: self.of("D", 900, long_season=7), "--long-season", "longer than a season, 7", "Received: 7")

    def test_columns_are_scaled_by_the_training_part(self) -> None:
        beside = np.r_[np.full((90, 1), 2.0), np.full((10, 1), 900.0)]
        one = replace(series(VALUES.repeat(2)[:100]), beside=beside, columns=("c",))
        framing = forecast.framing_of([one], Config(forecast=ForecastConfig(horizon=5)))
        assert (framing.names, framing.mean) == (("c",), (2.0,))


def test_the_run_says_how_series_go_on(forecasted: Forecasted, series_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = forecasted()
    capsys.readouterr()
    assert predict.main([str(run.path), "--input", str(series_file)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["input", "prediction", "score"]
    assert [row[0] for row in rows[1:6]] == [f"sold 2024-02-{day:02}" for day in range(6, 11)]
    assert len(rows) == 1 + 2 * 5
    assert predict.main([str(run.path), "--input", str(series_file), "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    levels, values = zip(*first["likely"], strict=True)
    assert levels == tuple(f"{level:g}" for level in LEVELS)
    assert list(values) == sorted(values)
    assert first["prediction"] == f"{values[2]:.9g}" == rows[1][1]
    assert first["score"] == pytest.approx(values[-1] - values[0])
    # The files say the same: framing, model and what is read of the table.
    sold = read(series_file, None)[0]
    framing = forecast.load_framing(run.path)
    wanted = forecasts(compiled(run.load_model()), framing, [outlook(sold, framing, 400, np.array([400]))])[0][0, 0]
    np.testing.assert_allclose(values, wanted, rtol=1e-6, equal_nan=False)


def test_what_is_held_back_is_the_reference(
    forecasted: Forecasted, series_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The forecast knows nothing of it: it is the one of a file that ends there."""
    run, lines = str(forecasted().path), series_file.read_text("utf-8").splitlines()
    (tmp_path / "shorter.csv").write_text("\n".join(lines[:-5]) + "\n", "utf-8")
    capsys.readouterr()
    assert predict.main([run, "--input", str(series_file), "--hold-back"]) == 0
    header, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert predict.main([run, "--input", str(tmp_path / "shorter.csv")]) == 0
    _, *shorter = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert header == ["input", "reference", "prediction", "score"]
    assert [[row[0], *row[2:]] for row in rows] == shorter
    sold, asked = read(series_file, None)
    np.testing.assert_allclose([float(row[1]) for row in rows], np.r_[sold.values[-5:], asked.values[-5:]])


def test_only_series_are_held_back(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    capsys.readouterr()
    assert predict.main([str(run.path), "--hold-back"]) == 2
    assert capsys.readouterr().err == (
        "error: --hold-back is for forecasts: leave it out. Received: a run of the task next-word\n"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("value\n" + "1\n2\n" * 30, ("does not fit the run", "a date")),
        (dated_values(30).replace("2023-01-09", "2023-01-08"), ("row 9", "does not come after")),
        (dated_values(8), ("series sold has 8 timesteps:", "at least 9")),
        ("date,v\n" + "".join(f"2024-01-{day:02},5\n" for day in range(1, 29)), ("series v is constant",)),
    ],
)
def test_series_that_do_not_fit_the_run(
    text: str, parts: tuple[str, ...], forecasted: Forecasted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = forecasted()
    path = tmp_path / "other.csv"
    path.write_text(text, "utf-8")
    capsys.readouterr()
    assert predict.main([str(run.path), "--input", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"target": "lent"}, ("--target must be a column", "sold, asked", "Received: lent")),
        ({"horizon": 300}, ("series sold has 400 timesteps, of which 0 come before", "lower --horizon")),
        ({"long_season": 3}, ("--long-season must be longer than a season, 7",)),
    ],
)
def test_what_the_data_do_not_have_is_refused_before_any_work(
    flags: dict[str, Any], parts: tuple[str, ...], series_file: Path
) -> None:
    config = build({"task": "forecast", "data": str(series_file), **flags})
    refused(lambda: Forecast().check_data(config), *parts)


def test_dates_that_come_otherwise(forecasted: Forecasted, tmp_path: Path) -> None:
    (tmp_path / "months.csv").write_text("date,v\n" + "".join(f"2024-{month:02}-01,{month**2}\n" for month in range(1, 13)))
    refused(lambda: Forecast().predictor(forecasted(), str(tmp_path / "months.csv")), "dates come by D", "Received: MS")


def test_columns_that_are_missing_and_standard_input(forecasted: Forecasted, tmp_path: Path) -> None:
    run = forecasted("--target", "sold")
    path = tmp_path / "other.csv"
    path.write_text("date,sold\n" + "".join(f"2024-01-{day:02},{day * day}\n" for day in range(1, 29)))
    refused(lambda: Forecast().predictor(run, str(path)), "does not fit the run", "a date and asked: give such columns")
    refused(lambda: Forecast().predictor(run, "-"), "--input", ".csv")


def test_other_series_are_evaluated_like_the_run_s_own(forecasted: Forecasted, series_file: Path, tmp_path: Path) -> None:
    run = forecasted()
    model = run.load_model()
    own, same = (Forecast().evaluation(run, data)(model).as_json() for data in (None, str(series_file)))
    assert own["test"] == same["data"]
    assert own["baselines"] == same["baselines"] == run.metrics["baselines"]
    (tmp_path / "other.csv").write_text(dated_values(400, seed=5))
    other = Forecast().evaluation(run, str(tmp_path / "other.csv"))(model).as_json()
    assert other["data"] != same["data"]
    assert other["baselines"] != same["baselines"]


def test_a_damaged_run_is_one_line(forecasted: Forecasted, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(forecasted().path, path)
    (path / "framing.json").write_text("{}")
    refused(lambda: forecast.load_framing(path), "framing.json cannot be read", "restore it")
    (path / "framing.json").unlink()
    refused(lambda: forecast.load_framing(path), "framing.json cannot be read")
