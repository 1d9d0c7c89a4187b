"""The task `forecast`: how series of numbers go on, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from seqapp import series as tables
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.errors import UsageError, need
from seqapp.framing import LEVELS, MEDIAN, Array, Framing
from seqapp.generate import Wish, nothing_to_generate
from seqapp.predict import Prediction
from seqapp.report import Report
from seqapp.run import Run, write_json
from seqapp.sequences import padded
from seqapp.series import Series
from seqapp.step import compiled
from seqapp.study import Study
from seqapp.task_config import ForecastConfig
from seqapp.untrusted import json_of

Forecaster = Callable[[Array], Array]  # features (B, T, F) -> outputs (B, T, horizon · levels)
TOGETHER = 32  # series at once


class Forecast:
    """The next values of each of many series, from one model."""

    layout, default_data = "series", "the weather of Seattle in vega_datasets"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For some hundreds of series; the default data are one series of days, with the rest of the weather beside it."""
        config = Config(
            task="forecast",
            model=ModelConfig(units=128, dropout=0.1, recurrent_dropout=0.0),
            training=TrainingConfig(epochs=20, patience=5, batch_size=16, bptt=168, learning_rate=2e-3),
        )
        if own_data:
            return config
        return replace(
            config,
            data=DataConfig(validation_fraction=0.15, test_fraction=0.15),
            model=replace(config.model, units=64, dropout=0.3),
            training=replace(config.training, epochs=40, patience=10, batch_size=8, bptt=90, learning_rate=3e-3),
            forecast=ForecastConfig(horizon=14, season=1, target="temp_max"),
        )

    def check_data(self, config: Config) -> None:
        for package in ("pandas", "statsmodels", "vega_datasets"):
            need(package, "forecast")
        found = series_of(config)
        Parts.of(config).outlooks(found, framing_of(found, config), "validation")

    def study(self, config: Config) -> Study:
        from seqapp.forecast_study import ForecastStudy

        return ForecastStudy.of(config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], Report]:
        from seqapp.forecast_report import ForecastReport

        framing, parts, part, kept = load_framing(run.path), Parts.of(run.config), run.held_out, load_series(run.path)
        outlooks = {name: parts.outlooks(kept, framing, name) for name in ("validation", part)}
        if data:
            found = fitting(tables.read(Path(data), run.config.forecast.target), framing, data)
            part, outlooks["data"] = "data", parts.outlooks(found, framing, part)
        known = run.kept_baselines(data)
        return lambda model: ForecastReport.of(compiled(model), framing, outlooks, part, known)

    def predictor(self, run: Run, source: str, hold_back: bool = False) -> Callable[[Any], list[Prediction]]:
        """With `hold_back`, the last horizon of each series is forecast from what comes before it, and is the reference."""
        if source == "-":
            raise UsageError("A forecast goes on from a table: name a .csv file with --input.")
        framing = load_framing(run.path)
        found = fitting(tables.read(Path(source), run.config.forecast.target), framing, source)
        ends = [len(one) - (framing.horizon if hold_back else 0) for one in found]
        outlooks = [outlook(one, framing, end, np.array([end])) for one, end in zip(found, ends, strict=True)]
        return lambda model: [
            row
            for about, quantiles in zip(outlooks, forecasts(compiled(model), framing, outlooks), strict=True)
            for row in _predictions(about, quantiles[0])
        ]

    def generator(self, run: Run, wish: Wish) -> NoReturn:
        nothing_to_generate(run)


def _predictions(about: Outlook, quantiles: Array) -> list[Prediction]:
    """One for each timestep to come: the median, the width of the interval that holds 90 %, and all quantiles."""
    series, end = about.series, int(about.origins[0])
    after: list[str | None] = [f"{value:.9g}" for value in series.values[end:]]
    return [
        Prediction(
            f"{series.name} {date}".strip(),
            reference,
            f"{row[MEDIAN]:.9g}",
            float(row[-1] - row[0]),
            tuple((f"{level:g}", float(value)) for level, value in zip(LEVELS, row, strict=True)),
        )
        for date, reference, row in zip(
            series.first(end).dates_after(len(quantiles)), after or [None] * len(quantiles), quantiles, strict=True
        )
    ]


@dataclass(frozen=True)
class Outlook:
    """A series, the unit that it is measured in, and how many timesteps are known at each of its origins (O,)."""

    series: Series
    scale: float
    origins: Array


def outlook(series: Series, framing: Framing, measured: int, origins: Array) -> Outlook:
    """The unit comes from the first `measured` timesteps.

    Raises:
        UsageError: the series is too short, or repeats itself and so has no unit.
    """
    held_out = measured < len(series)
    least = framing.first + (1 + framing.horizon if held_out else 2)
    if measured < least:
        seasons = max(framing.season, framing.long_season)
        words = f", of which {max(0, measured)} come before what is held out" if held_out else ""
        advice = "Give longer series, or lower --horizon, --season or --long-season." if held_out else "Give longer series."
        raise UsageError(
            f"The series {series.name or '1'} has {len(series)} timesteps{words}: with a horizon of {framing.horizon} and a "
            f"season of {seasons} at least {least} are needed. {advice}"
        )
    known = series.values[:measured]
    scale = framing.scale(known)
    if not framing.varies(known, scale):
        what = "is constant" if np.ptp(known) == 0 else f"repeats itself every {framing.season} timesteps"
        where = f" in its first {measured} timesteps" if held_out else ""
        raise UsageError(f"The series {series.name or '1'} {what}{where}: there is nothing to forecast, leave it out.")
    return Outlook(series, scale, origins)


@dataclass(frozen=True)
class Parts:
    """Which timesteps are held out: of each series the last horizons are for the test, those before them for validation."""

    validation: float
    test: float

    @classmethod
    def of(cls, config: Config) -> Parts:
        return cls(config.data.validation_fraction, config.data.test_fraction)

    def ends(self, length: int, horizon: int) -> dict[str, int]:
        """Timesteps up to the end of each part, which has as many horizons as fit into its fraction, and one at least."""
        test, validation = (
            horizon * max(1, math.floor(fraction * length / horizon)) if fraction else 0
            for fraction in (self.test, self.validation)
        )
        return {"train": length - test - validation, "validation": length - test, "test": length}

    def outlooks(self, series: Sequence[Series], framing: Framing, part: str) -> list[Outlook]:
        """Origins a horizon apart, so that each timestep of the part is forecast once.

        Raises:
            UsageError: a series is too short, or constant.
        """
        found = []
        for one in series:
            ends = self.ends(len(one), framing.horizon)
            origins = np.arange(ends["train" if part == "validation" else "validation"], ends[part], framing.horizon)
            found.append(outlook(one, framing, ends["train"], origins))
        return found


def forecasts(model: Forecaster, framing: Framing, outlooks: Sequence[Outlook]) -> list[Array]:
    """The quantiles (O, horizon, levels) at the origins of each series, all before them read from the first state on."""
    found = []
    for first in range(0, len(outlooks), TOGETHER):
        some = outlooks[first : first + TOGETHER]
        x, _ = padded([features(one, framing, int(one.origins[-1])) for one in some])
        for one, outputs in zip(some, model(x), strict=True):
            at = one.origins - 1
            found.append(framing.forecast(outputs[at - framing.first], one.series.values, one.scale, at))
    return found


def features(about: Outlook, framing: Framing, end: int) -> Array:
    """Of the first `end` timesteps of a series."""
    one = about.series
    return framing.features(one.values[:end], about.scale, None if one.dates is None else one.dates[:end], one.beside[:end])


def fitting(series: list[Series], framing: Framing, name: str) -> list[Series]:
    """The series, if they are such as the framing was made for.

    Raises:
        UsageError: they have other columns beside them, or no dates.
    """
    for one in series:
        if one.columns != framing.names or (framing.dated and one.dates is None):
            parts = ["a date" * framing.dated, ", ".join(framing.names)]
            wanted = " and ".join(filter(None, parts)) or "no other columns"
            found = ", ".join(one.columns) or "none"
            raise UsageError(
                f"{name} does not fit the run, which reads beside a series {wanted}: give such columns. Received: {found}"
            )
        if framing.dated and one.frequency != framing.frequency:
            raise UsageError(
                f"{name} does not fit the run, whose dates come by {framing.frequency} as pandas names it: "
                f"give such dates. Received: {one.frequency}"
            )
    return series


def series_of(config: Config) -> list[Series]:
    """The series that a configuration names."""
    return tables.read(Path(config.data.data) if config.data.data else None, config.forecast.target)


def framing_of(series: Sequence[Series], config: Config) -> Framing:
    """What the settings ask of the series; the seasons that they leave open follow from how often the dates come."""
    f, first, parts = config.forecast, series[0], Parts.of(config)
    season, long_season = tables.seasons(first.frequency)
    known = [s.beside[: max(1, parts.ends(len(s), f.horizon)["train"])] for s in series]
    beside = np.concatenate(known)
    season = season if f.season is None else f.season
    if f.long_season is not None:
        long_season = f.long_season
        if 0 < long_season <= season:
            raise UsageError(f"--long-season must be longer than a season, {season}, or 0. Received: {long_season}")
    elif min(map(len, known)) < 3 * long_season or long_season % season:
        long_season = 0  # too little to learn it from, or none of this season
    return Framing(
        f.horizon,
        season,
        long_season,
        first.dates is not None,
        first.columns,
        tuple(beside.mean(0).tolist()),
        tuple((beside.std(0) + 1e-9).tolist()),
        first.frequency,
    )


def save(folder: Path, series: Sequence[Series], framing: Framing) -> None:
    tables.save(folder / "series.npz", series)
    write_json(folder / "framing.json", framing.as_json())


def load_series(folder: Path) -> list[Series]:
    return tables.load(folder / "series.npz")


def load_framing(folder: Path) -> Framing:
    """Reads what `save` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    path = folder / "framing.json"
    try:
        return Framing.from_json(json_of(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} cannot be read ({error}): restore it, or train again.") from None
