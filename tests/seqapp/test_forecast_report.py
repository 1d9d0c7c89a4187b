"""The figures of forecasts, beside what they are by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqapp.forecast import Outlook
from seqapp.forecast_report import ForecastReport, baselines, figures, scaled_pinball, truths
from seqapp.framing import LEVELS, Array, Framing
from seqapp.run import Run
from seqapp.series import Series

FRAMING = Framing(horizon=2, season=2)


def about(values: list[float], origins: list[int], scale: float = 4.0) -> Outlook:
    return Outlook(Series("x", np.array(values), np.zeros((len(values), 0)), (), None, None), scale, np.array(origins))


ONE = about([1, 2, 3, 6, 5, 10, 0], [4, 5])
QUANTILES = np.array([[[4, 5, 6, 7, 8.0], [7, 7, 8, 9, 9.5]], [[9, 9, 9, 10, 12.0], [-1, 0, 0, 1, 2.0]]])


def test_what_came_true() -> None:
    np.testing.assert_array_equal(truths(ONE, 2), [[5, 10], [10, 0]])


def test_figures_by_hand() -> None:
    found = figures([ONE], [QUANTILES], FRAMING)
    medians, truth = np.array([[6, 8], [9, 0.0]]), np.array([[5, 10], [10, 0.0]])
    smape = [200 * 1 / 11, 200 * 2 / 18, 200 * 1 / 19, 0]  # nothing from nothing is no error
    units = [np.mean([2, 4]), np.mean([2, 4, 2])]  # of the first 4 timesteps, of the first 5
    mase = np.abs(medians - truth) / np.array(units)[:, None]
    loss = [
        np.mean([max(q * (t - v), (q - 1) * (t - v)) for q, v in zip(LEVELS, row, strict=True)]) / unit
        for rows, ts, unit in zip(QUANTILES, truth, units, strict=True)
        for row, t in zip(rows, ts, strict=True)
    ]
    for name, value in (("smape", np.mean(smape)), ("mase", mase.mean()), ("pinball", np.mean(loss)), ("coverage_90", 0.75)):
        assert found[name]["value"] == pytest.approx(float(value)), name
        assert found[name]["count"] == 4


def test_the_loss_of_training_is_in_the_unit_of_each_series() -> None:
    other = replace(ONE, series=replace(ONE.series, values=ONE.series.values * 10), scale=ONE.scale * 10)
    alone = scaled_pinball([ONE], [QUANTILES])
    assert scaled_pinball([ONE, other], [QUANTILES, QUANTILES * 10]) == pytest.approx(alone)


def test_baselines_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = (10 + np.arange(60) * 0.5 + 3 * (np.arange(60) % 4) + rng.normal(0, 0.1, 60)).tolist()
    framing = Framing(horizon=3, season=4)
    some = [about(values, [50, 53]), about(values[::-1], [50])]
    found = baselines(some, framing)
    assert list(found) == ["naive", "seasonal_naive", "theta"]
    points: list[Array] = [np.array([[values[o - 4 + k] for k in range(3)] for o in one.origins]) for one in some[:1]]
    points.append(np.array([[values[::-1][46 + k] for k in range(3)]]))
    wanted = figures(some, [np.repeat(p[..., None], len(LEVELS), -1) for p in points], framing)
    assert found["seasonal_naive"]["mase"] == wanted["mase"]
    assert found["theta"]["mase"]["value"] < found["naive"]["mase"]["value"]
    assert list(baselines(some, Framing(horizon=3))) == ["naive", "theta"]
    assert all("coverage_90" not in row for row in found.values())


def test_a_run_is_better_than_its_baselines_and_its_intervals_hold(forecasted: Callable[..., Run]) -> None:
    """`sold` follows `asked` of the day before, which no method knows that looks at one series."""
    metrics = forecasted("--target", "sold", "--epochs", "20").metrics
    best = min(row["mase"]["value"] for row in metrics["baselines"].values())
    assert metrics["test"]["mase"]["value"] < best
    assert 0.6 < metrics["test"]["coverage_90"]["value"] <= 1
    assert metrics["test"]["mase"]["count"] == 20


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    row = figures([ONE], [QUANTILES], FRAMING)
    report = ForecastReport(
        "test", {"test": row}, {"naive": {k: v for k, v in row.items() if k != "coverage_90"}}, [ONE], [QUANTILES]
    )
    lines = report.table("gru").splitlines()
    assert lines[0] == "test, 4 values of 1 series"
    assert lines[2].split() == [
        "gru",
        f"{row['smape']['value']:.3f}",
        f"{row['mase']['value']:.3f}",
        f"{row['pinball']['value']:.3f}",
        "75.0%",
    ]
    assert lines[-1] == "MASE 0.0% below naive"
    report.draw(tmp_path)
    assert (tmp_path / "forecasts.png").read_bytes()[:4] == b"\x89PNG"
