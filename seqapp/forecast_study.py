"""What a forecaster learns from: windows of many series, drawn anew for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from seqapp import backend, forecast
from seqapp.chain import build_chain
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.forecast import Parts, features
from seqapp.forecast_report import ForecastReport, scaled_pinball
from seqapp.framing import LEVELS, Array, Framing
from seqapp.run import Run
from seqapp.series import Series
from seqapp.step import compiled

FEWEST = 20  # batches in an epoch


class ForecastStudy:
    """See `seqapp.study.Study`."""

    def __init__(self, model: Any, framing: Framing, found: list[Series], config: Config) -> None:
        self.model = self.learner = model
        self.framing, self.series, self.config, self.parts = framing, found, config.training, Parts.of(config)
        self.loss = Pinball(framing.horizon)
        self.forecaster = compiled(model)
        self.held_out = {name: self.parts.outlooks(found, framing, name) for name in ("validation", "test")}
        self.x, self.y, self.known = zip(*map(self._known, self.held_out["validation"]), strict=True)
        self.timesteps = min(self.config.bptt, max(map(len, self.x)))
        total = sum(map(len, found))
        seasons = ", ".join(str(n) for n in (framing.season, framing.long_season) if n)
        self.summary = (
            f"{len(found):,} series, {total:,} timesteps; a season has {seasons}; horizon {framing.horizon}; "
            f"{framing.width} features"
        )

    @classmethod
    def of(cls, config: Config) -> ForecastStudy:
        """The series that a configuration names, and a model with new weights."""
        found = forecast.series_of(config)
        framing = forecast.framing_of(found, config)
        return cls(build_forecaster(config, framing), framing, found, config)

    def _known(self, about: forecast.Outlook) -> tuple[Array, Array, Array]:
        """Features, targets and which of these are known, of the training part, up to the last timestep with a target."""
        end = int(about.origins[0])
        y, known = self.framing.targets(about.series.values[:end], about.scale)
        return features(about, self.framing, end)[:-1], y[:-1], known[:-1]

    unit = measure = "pinball loss"

    def measured(self, nats: float) -> float:
        return nats

    @property
    def per_epoch(self) -> int:
        """As many windows as the series hold, and some batches at least: windows of few series overlap."""
        return max(FEWEST, sum(map(len, self.x)) // (self.timesteps * self.config.batch_size))

    def batches(self, epoch: int, start: int) -> Any:
        rng = np.random.default_rng([self.config.seed, epoch])
        lengths = np.array([len(x) for x in self.x])
        chosen = rng.choice(len(lengths), self.per_epoch * self.config.batch_size, p=lengths / lengths.sum())
        picks = [(int(i), int(rng.integers(max(1, lengths[i] - self.timesteps + 1)))) for i in chosen]
        size, timesteps, framing = self.config.batch_size, self.timesteps, self.framing

        def batches() -> Iterator[Any]:
            for batch in range(start, self.per_epoch):
                some = picks[batch * size : (batch + 1) * size]
                yield tuple(_windows(part, some, timesteps) for part in (self.x, self.y, self.known))

        widths = (framing.width, framing.horizon, framing.horizon)
        signature = tuple(keras.KerasTensor([None, timesteps, width], "float32") for width in widths)
        return backend.batches(batches, signature, self.per_epoch - start)

    def begin_epoch(self) -> None:
        pass

    def targets(self, batches: int) -> int:
        return batches * self.config.batch_size * self.timesteps

    def validate(self) -> float:
        outlooks = self.held_out["validation"]
        return scaled_pinball(outlooks, forecast.forecasts(self.forecaster, self.framing, outlooks))

    def save(self, run: Run) -> None:
        forecast.save(run.path, self.series, self.framing)

    def check_same(self, run: Run) -> None:
        kept = forecast.load_series(run.path)
        if len(kept) != len(self.series) or not all(
            (a.name, a.columns, a.frequency) == (b.name, b.columns, b.frequency)
            and np.array_equal(a.values, b.values)
            and np.array_equal(a.beside, b.beside)
            and np.array_equal(np.asarray(a.dates), np.asarray(b.dates))
            for a, b in zip(kept, self.series, strict=True)
        ):
            raise UsageError(f"The series are not those {run.path} was begun with: restore the data, or start again.")

    def report(self, model: Any, part: str) -> ForecastReport:
        return ForecastReport.of(compiled(model), self.framing, self.held_out, part)


def _windows(arrays: Sequence[Array], picks: list[tuple[int, int]], timesteps: int) -> Array:
    """The window (timesteps, F) of each picked array that begins at its place, zeros behind where the array ends: (B, T, F)."""
    result = np.zeros((len(picks), timesteps, arrays[0].shape[1]), np.float32)
    for row, (i, first) in zip(result, picks, strict=True):
        window = arrays[i][first : first + timesteps]
        row[: len(window)] = window
    return result


@keras.saving.register_keras_serializable(package="seqapp")
class Pinball(keras.losses.Loss):
    """The mean pinball loss of quantiles (B, T, horizon · levels) for what came true (B, T, horizon)."""

    def __init__(self, horizon: int, **kwargs: Any) -> None:
        super().__init__(**{"reduction": "mean_with_sample_weight", **kwargs})
        self.horizon = horizon

    def call(self, y_true: Any, y_pred: Any) -> Any:
        shape = ops.shape(y_true)
        above = y_true[..., None] - ops.reshape(y_pred, (*shape[:2], self.horizon, len(LEVELS)))
        q = ops.convert_to_tensor(LEVELS, above.dtype)
        return ops.mean(ops.maximum(q * above, (q - 1) * above), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "horizon": self.horizon}


def build_forecaster(config: Config, framing: Framing) -> Any:
    """A model with new weights, features (B, T, F) -> (B, T, horizon · levels), which begins as the seasonal naive forecast.

    Raises:
        UsageError: its cell does not exist or cannot be made.
    """
    return build_chain(config.model, framing.width, framing.output_size, "quantiles", kernel="zeros")
