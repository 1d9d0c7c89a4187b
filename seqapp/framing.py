"""How a series becomes what a forecaster takes and gives, timestep by timestep: NumPy alone.

A forecaster never sees a series' own numbers. It is told how far they are from those of a season ago, in units of the series'
usual change from season to season, and says how far the next ones will be from the seasonal naive forecast. So series of any
size share one model, and one that learns nothing is as good as that forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.errors import UsageError

Array = NDArray[Any]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the quantiles: the median, and intervals of 50 % and of 90 %
MEDIAN = LEVELS.index(0.5)
CYCLES = (("s", 86_400), ("D", 7), ("D", 365.25))  # the hour of the day, the day of the week and of the year


@dataclass(frozen=True)
class Framing:
    """What is asked of each series and what it is measured by.

    Attributes:
        horizon: timesteps that are forecast.
        season: timesteps in a season; 1 where there is none.
        long_season: timesteps in a season of seasons, a week of days of hours; 0 where there is none.
        dated: whether hour, weekday and day of the year are told.
        names: the columns that are read beside the series itself, with `mean` and `deviation` of each.
        frequency: how often the dates come, as pandas names it.
    """

    horizon: int
    season: int = 1
    long_season: int = 0
    dated: bool = False
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    frequency: str | None = None

    @property
    def first(self) -> int:
        """The first timestep that has all behind it that its features need."""
        return max(self.season, self.long_season, self._window - 1)

    @property
    def output_size(self) -> int:
        return self.horizon * len(LEVELS)

    @property
    def _window(self) -> int:
        return max(self.season, self.horizon)

    @cached_property
    def _ahead(self) -> Array:
        return np.arange(1, self.horizon + 1)

    def scale(self, values: Array) -> float:
        """The mean change of a series (T,) from one season to the next: what MASE divides by (Hyndman and Koehler 2006)."""
        return float(np.abs(values[self.season :] - values[: -self.season]).mean())

    def varies(self, values: Array, scale: float) -> bool:
        """Whether there is more to measure by than rounding."""
        return scale > 1e-9 * float(np.abs(values).max())

    def naive(self, values: Array, timesteps: Array) -> Array:
        """The seasonal naive forecast (N, horizon) after each of the timesteps (N,) of a series (T,)."""
        return _as_before(values, timesteps, self._ahead, self.season)

    def features(self, values: Array, scale: float, dates: Array | None = None, beside: Array | None = None) -> Array:
        """float32 (T - first, F): a row for each timestep from `first` on, made of what is known then.

        `dates` are datetime64 (T,), `beside` the other columns (T, C). A row has, in units of `scale` and each as the inverse
        hyperbolic sine of it, which tames what is far out: how far the value is from that of a season ago; how far it is from
        the level, the mean of the last season or horizon, whichever is longer; how far the seasonal naive forecast of one
        season is from the level, where there is a season; how far the forecast by the long season is from it, over the horizon,
        where there is one. Then the other columns, scaled, and sine and cosine of hour, weekday and day of the year.
        """
        at = np.arange(self.first, len(values))
        totals = np.concatenate([[0.0], np.cumsum(values - values[0])])
        level = (totals[at + 1] - totals[at + 1 - self._window]) / self._window + values[0]
        parts = [values[at] - values[at - self.season], values[at] - level]
        if self.season > 1:
            shape = self._ahead[: self.season]
            parts.append(_as_before(values, at, shape, self.season) - level[:, None])
        if self.long_season:
            parts.append(_as_before(values, at, self._ahead, self.long_season) - self.naive(values, at))
        columns = [np.arcsinh(np.column_stack(parts) / scale)]
        if self.names:
            assert beside is not None
            columns.append(np.arcsinh((beside[at] - self.mean) / self.deviation))
        if self.dated:
            assert dates is not None
            columns.append(_calendar(dates[at]))
        return np.concatenate(columns, axis=1).astype(np.float32)

    def inputs(self, values: Array, dates: Array | None = None, beside: Array | None = None) -> tuple[Array, float]:
        """The features of a series and the scale that they were made with, that of the whole series.

        Raises:
            UsageError: the series is too short, constant or not of finite numbers, or what belongs to it is missing.
        """
        try:
            values = np.asarray(values, np.float64)
            dates = np.asarray(dates, "datetime64[s]") if self.dated and dates is not None else None
            beside = np.asarray(beside, np.float64) if self.names and beside is not None else None
        except (TypeError, ValueError) as error:
            raise UsageError(f"values and beside must be numbers, dates datetime64 ({error}).") from None
        if values.ndim != 1 or len(values) < self.first + 2:
            raise UsageError(f"values must be a series (T,) of at least {self.first + 2} numbers. Received: {values.shape}")
        for name, given, wanted in (("dates", dates, (len(values),)), ("beside", beside, (len(values), len(self.names)))):
            needed = self.dated if name == "dates" else bool(self.names)
            if needed and (given is None or given.shape != wanted):
                raise UsageError(f"{name} must have the shape {wanted}. Received: {None if given is None else given.shape}")
        if not (np.isfinite(values).all() and (beside is None or np.isfinite(beside).all())):
            raise UsageError("values must be finite numbers: fill the gaps. Received: some that are not")
        if dates is not None and not (np.diff(dates) > np.timedelta64(0)).all():
            raise UsageError("dates must each come after the one before: sort them, and leave none out.")
        scale = self.scale(values)
        if not self.varies(values, scale):
            raise UsageError(f"The series is constant, or repeats itself every {self.season} timesteps: nothing to forecast.")
        return self.features(values, scale, dates, beside), scale

    @property
    def width(self) -> int:
        """Numbers in a row of features."""
        seasonal = min(self.season, self.horizon) if self.season > 1 else 0
        return 2 + seasonal + self.horizon * bool(self.long_season) + len(self.names) + 2 * len(CYCLES) * self.dated

    def targets(self, values: Array, scale: float) -> tuple[Array, Array]:
        """What should be said at each timestep from `first` on, and whether it is known: both float32 (T - first, horizon)."""
        at = np.arange(self.first, len(values))
        there = at[:, None] + self._ahead
        known = there < len(values)
        wanted = (values[np.where(known, there, 0)] - self.naive(values, at)) / scale
        return np.where(known, wanted, 0).astype(np.float32), known.astype(np.float32)

    def forecast(self, outputs: Array, values: Array, scale: float, timesteps: Array) -> Array:
        """Outputs (N, horizon · levels) after the timesteps (N,) of a series -> quantiles (N, horizon, levels), in order."""
        apart = outputs.astype(np.float64).reshape(len(outputs), self.horizon, len(LEVELS))
        return np.sort(self.naive(values, timesteps)[..., None] + scale * apart, axis=-1)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "levels": LEVELS}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Framing:
        """Reads what `as_json` gave.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """
        given: dict[str, Any] = {**content}
        if tuple(given.pop("levels")) != LEVELS:
            raise ValueError("its levels are other ones")
        for key in ("names", "mean", "deviation"):
            given[key] = tuple(given[key])
        made = cls(**given)
        numbers = (made.horizon, made.season, made.long_season)
        if not all(isinstance(n, int) for n in numbers) or min(made.horizon, made.season) < 1 or made.long_season < 0:
            raise ValueError("horizon, season and long_season should be whole numbers")
        if not len(made.names) == len(made.mean) == len(made.deviation):
            raise ValueError("names, mean and deviation should be of one length")
        return made


def _as_before(values: Array, at: Array, ahead: Array, season: int) -> Array:
    """For each timestep (N,) and each step ahead (H,): the last value known at the same place of the season, (N, H)."""
    return values[at[:, None] + ahead - season * -(-ahead // season)]


def _calendar(dates: Array) -> Array:
    """Sine and cosine (N, 6) of where datetime64 (N,) stand in each of the cycles."""
    columns = []
    for unit, length in CYCLES:
        turns = dates.astype(f"datetime64[{unit}]").astype(np.int64) / length * 2 * np.pi
        columns += [np.sin(turns), np.cos(turns)]
    return np.column_stack(columns)


def pinball(quantiles: Array, truth: Array, levels: Sequence[float] = LEVELS) -> Array:
    """The loss (..., Q) of quantiles (..., Q) where (...,) came true: what a true quantile makes smallest (Koenker 1978)."""
    above = truth[..., None] - quantiles
    q = np.array(levels)
    return np.maximum(q * above, (q - 1) * above)
