"""How a series goes into a forecaster and comes out of it: beside a slow reading of the same words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqapp.framing import LEVELS, Array, Framing, pinball
from tests.conftest import refused

RNG = np.random.default_rng(0)
VALUES = RNG.normal(100, 20, 60)
DATES = np.datetime64("2024-02-27T22:00:00") + np.arange(60) * np.timedelta64(1, "h")
BESIDE = RNG.normal(5, 2, (60, 2))
FRAMINGS = [
    Framing(horizon=3),
    Framing(horizon=7, season=4),
    Framing(horizon=2, season=6, long_season=18),
    Framing(horizon=5, season=3, long_season=9, dated=True, names=("a", "b"), mean=(5.0, 4.0), deviation=(2.0, 1.0)),
]


def slowly(framing: Framing, values: Array, scale: float, t: int) -> list[float]:
    """The row of features of one timestep, number by number."""

    def before(ahead: int, season: int) -> float:
        place = t + ahead
        while place > t:
            place -= season
        return float(values[place])

    window = max(framing.season, framing.horizon)
    level = sum(values[t - i] for i in range(window)) / window
    row = [values[t] - values[t - framing.season], values[t] - level]
    if framing.season > 1:
        row += [before(k, framing.season) - level for k in range(1, min(framing.season, framing.horizon) + 1)]
    if framing.long_season:
        row += [before(k, framing.long_season) - before(k, framing.season) for k in range(1, framing.horizon + 1)]
    row = [float(np.arcsinh(number / scale)) for number in row]
    for i in range(len(framing.names)):
        row.append(float(np.arcsinh((BESIDE[t, i] - framing.mean[i]) / framing.deviation[i])))
    if framing.dated:
        when = DATES[t].astype(object)
        days = (DATES[t].astype("datetime64[D]") - np.datetime64("1970-01-01")).astype(int)
        for turn in ((when.hour * 3600 + when.minute * 60) / 86400, days / 7, days / 365.25):
            row += [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]
    return row


@pytest.mark.parametrize("framing", FRAMINGS)
def test_features_are_what_their_description_says(framing: Framing) -> None:
    found = framing.features(VALUES, 12.5, DATES, BESIDE)
    wanted = [slowly(framing, VALUES, 12.5, t) for t in range(framing.first, len(VALUES))]
    np.testing.assert_allclose(found, wanted, atol=1e-5, equal_nan=False)
    assert found.dtype == np.float32
    assert found.shape == (len(VALUES) - framing.first, framing.width)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("end", [40, 59])
def test_features_know_nothing_of_what_comes(framing: Framing, end: int) -> None:
    whole = framing.features(VALUES, 2.0, DATES, BESIDE)
    changed, beside = VALUES.copy(), BESIDE.copy()
    changed[end:], beside[end:] = -1e6, 1e6
    for values, others in ((VALUES[:end], BESIDE[:end]), (changed, beside)):
        early = framing.features(values, 2.0, DATES[: len(values)], others)
        np.testing.assert_allclose(early[: end - framing.first], whole[: end - framing.first], atol=1e-6, equal_nan=False)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_targets_said_are_the_values(framing: Framing) -> None:
    y, known = framing.targets(VALUES, 7.0)
    at = np.arange(framing.first, len(VALUES))
    outputs = np.repeat(y[..., None], len(LEVELS), -1).reshape(len(y), -1)
    quantiles = framing.forecast(outputs, VALUES, 7.0, at)
    for row, t, some in zip(quantiles, at, known, strict=True):
        for k in range(framing.horizon):
            assert some[k] == (t + 1 + k < len(VALUES))
            if some[k]:
                np.testing.assert_allclose(row[k], VALUES[t + 1 + k], rtol=1e-4, equal_nan=False)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_nothing_said_is_the_seasonal_naive_forecast(framing: Framing) -> None:
    quantiles = framing.forecast(np.zeros((1, framing.output_size)), VALUES, 3.0, np.array([30]))
    last = VALUES[31 - framing.season : 31]
    wanted = [last[k % framing.season] for k in range(framing.horizon)]
    np.testing.assert_array_equal(quantiles[0], np.repeat(np.array(wanted)[:, None], len(LEVELS), 1))


@given(st.floats(0.001, 1e6), st.floats(-1e6, 1e6))
def test_size_and_place_of_a_series_change_nothing(size: float, place: float) -> None:
    framing = FRAMINGS[2]
    scaled = VALUES * size + place
    one, other = (framing.features(values, framing.scale(values)) for values in (VALUES, scaled))
    # What is left of the numbers behind the comma, where the series is far from zero.
    np.testing.assert_allclose(other, one, atol=1e-5 + 1e-13 * abs(place) / size, equal_nan=False)


def test_quantiles_come_in_order() -> None:
    outputs = RNG.normal(size=(4, FRAMINGS[1].output_size))
    quantiles = FRAMINGS[1].forecast(outputs, VALUES, 1.0, np.arange(20, 24))
    assert quantiles.shape == (4, 7, len(LEVELS))
    assert (np.diff(quantiles, axis=-1) >= 0).all()


@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_is_saved_is_read(framing: Framing) -> None:
    assert Framing.from_json(json.loads(json.dumps(framing.as_json()))) == framing


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": 0}, {"horizon": 2.5}, {"season": 0}, {"season": None}, {"long_season": -1}, {"levels": [0.1, 0.9]},
        {"levels": 3}, {"names": ["a"]}, {"names": 1}, {"more": 1},
    ],
)  # fmt: skip
def test_what_is_damaged_is_not(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        Framing.from_json({**json.loads(json.dumps(FRAMINGS[3].as_json())), **change})


def test_inputs_are_those_of_the_whole_series() -> None:
    framing = FRAMINGS[3]
    found, scale = framing.inputs(VALUES, DATES, BESIDE)
    assert scale == np.abs(VALUES[3:] - VALUES[:-3]).mean()
    np.testing.assert_array_equal(found, framing.features(VALUES, scale, DATES, BESIDE))
    listed, _ = framing.inputs(VALUES.tolist(), DATES.astype(str).tolist(), BESIDE.tolist())
    np.testing.assert_array_equal(listed, found)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"values": VALUES[:10]}, ("at least 11 numbers", "Received: (10,)")),
        ({"values": VALUES[None]}, ("series (T,)", "Received: (1, 60)")),
        ({"values": np.full(60, 3.0)}, ("constant",)),
        ({"values": np.where(np.arange(60) == 50, np.nan, VALUES)}, ("finite", "fill the gaps")),
        ({"beside": np.full((60, 2), np.inf)}, ("finite",)),
        ({"dates": None}, ("dates", "(60,)", "None")),
        ({"dates": DATES[::-1]}, ("dates must each come after",)),
        ({"dates": np.where(np.arange(60) == 9, np.datetime64("NaT"), DATES)}, ("dates must each come after",)),
        ({"dates": ["soon"] * 60}, ("dates datetime64",)),
        ({"values": ["much"] * 60}, ("must be numbers",)),
        ({"values": 5 + np.sin(2 * np.pi * np.arange(60) / 3)}, ("repeats itself every 3",)),
        ({"beside": BESIDE[:, :1]}, ("beside", "(60, 2)", "(60, 1)")),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    given = {"values": VALUES, "dates": DATES, "beside": BESIDE, **changes}
    refused(lambda: FRAMINGS[3].inputs(**given), *parts)


def test_pinball_is_smallest_at_the_quantile() -> None:
    truth = RNG.exponential(size=20_000)
    guesses = np.linspace(0, 4, 401)
    losses = pinball(np.repeat(guesses[:, None, None], len(LEVELS), -1), truth[None]).mean(1)
    np.testing.assert_allclose(guesses[losses.argmin(0)], np.quantile(truth, LEVELS), atol=0.02, equal_nan=False)
