"""What a forecaster learns from: its windows, its loss, and the same training from the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp import forecast
from seqapp.config import Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.fitting import Trainer
from seqapp.forecast_study import ForecastStudy, Pinball, build_forecaster
from seqapp.framing import LEVELS, pinball
from seqapp.run import Run
from seqapp.series import Series
from seqapp.task_config import ForecastConfig
from tests.conftest import refused
from tests.training import assert_same_training, resumed

RNG = np.random.default_rng(0)
CONFIG = Config(
    task="forecast",
    data=DataConfig(validation_fraction=0.1, test_fraction=0.1),
    model=ModelConfig(units=8, dropout=0.2, recurrent_dropout=0.2),
    training=TrainingConfig(epochs=2, batch_size=4, bptt=10, checkpoint_seconds=1e9, learning_rate=0.02),
    forecast=ForecastConfig(horizon=3, season=4),
)


def series(length: int, name: str) -> Series:
    values = 50 + 10 * (np.arange(length) % 4) + RNG.normal(0, 2, length).cumsum()
    return Series(name, values, np.zeros((length, 0)), (), None, None)


SERIES = [series(60, "short"), series(300, "long"), series(24, "least")]


def study(config: Config = CONFIG, some: list[Series] = SERIES) -> ForecastStudy:
    keras.utils.set_random_seed(config.training.seed)
    framing = forecast.framing_of(some, config)
    return ForecastStudy(build_forecaster(config, framing), framing, some, config)


def test_windows_are_of_the_training_part_and_have_their_targets() -> None:
    made = study()
    known = [one.origins[0] for one in made.held_out["validation"]]
    rows = {
        tuple(x): (y, k)
        for xs, ys, ks in zip(made.x, made.y, made.known, strict=True)
        for x, y, k in zip(xs, ys, ks, strict=True)
    }
    batches = list(made.batches(0, 0))
    assert len(batches) == made.per_epoch >= 20
    for x, y, weights in batches:
        assert (x.shape, y.shape, weights.shape) == ((4, 10, made.framing.width), (4, 10, 3), (4, 10, 3))
        for features, wanted, counted in zip(*(part.numpy().reshape(40, -1) for part in (x, y, weights)), strict=True):
            if counted.any():
                np.testing.assert_array_equal(rows[tuple(features)][0], wanted)
                np.testing.assert_array_equal(rows[tuple(features)][1], counted)
    for one, end, x, counted in zip(SERIES, known, made.x, made.known, strict=True):
        # The first target that is beyond the training part is not counted, nor is any after it.
        assert len(x) == end - made.framing.first - 1
        assert counted.sum() == sum(min(3, end - 1 - t) for t in range(made.framing.first, end - 1)), one.name


def test_features_of_a_timestep_stand_beside_what_comes_after_it() -> None:
    made = study()
    framing = made.framing
    for about, x, y, known in zip(made.held_out["validation"], made.x, made.y, made.known, strict=True):
        values, end = about.series.values, int(about.origins[0])
        whole = framing.features(values, about.scale)
        for row, t in enumerate(range(framing.first, end - 1)):
            np.testing.assert_allclose(x[row], whole[t - framing.first], atol=1e-6, equal_nan=False)
            for k in range(3):
                assert known[row, k] == (t + 1 + k < end)
                if known[row, k]:
                    naive = values[t + 1 + k - 4]  # a season ago, which is known at each of three timesteps ahead
                    assert y[row, k] == pytest.approx((values[t + 1 + k] - naive) / about.scale, abs=1e-5)


def test_an_epoch_goes_on_where_it_stopped_and_differs_from_the_next() -> None:
    made = study()
    whole, rest, other = (list(made.batches(*which)) for which in ((0, 0), (0, 7), (1, 0)))
    assert len(rest) == len(whole) - 7
    for one, same in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(one[0], same[0])
    assert not np.array_equal(whole[0][0], other[0][0])


def test_the_loss_is_the_mean_of_what_is_known() -> None:
    y = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    outputs = RNG.normal(size=(2, 4, 3 * len(LEVELS))).astype(np.float32)
    weights = (RNG.random((2, 4, 3)) < 0.5).astype(np.float32)
    wanted = (pinball(outputs.reshape(2, 4, 3, -1), y).mean(-1) * weights).sum() / weights.sum()
    assert float(Pinball(3)(y, outputs, sample_weight=weights)) == pytest.approx(wanted, rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(Pinball(3)))
    assert float(again(y, outputs, sample_weight=weights)) == pytest.approx(wanted, rel=1e-5)


def test_a_new_model_is_the_seasonal_naive_forecast() -> None:
    made = study()
    outlooks = made.held_out["test"]
    for one, quantiles in zip(outlooks, forecast.forecasts(made.forecaster, made.framing, outlooks), strict=True):
        naive = made.framing.naive(one.series.values, one.origins - 1)
        np.testing.assert_array_equal(quantiles, np.repeat(naive[..., None], len(LEVELS), -1))


def make(path: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer as a command begins it, in a process of its own."""
    tf.config.experimental.enable_op_determinism()
    path.mkdir(parents=True, exist_ok=True)
    return kind(Run(path), CONFIG.training, study())


def test_the_same_seed_and_an_interruption_give_the_same(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    whole.train()
    assert whole.progress.history[-1]["validation_nats"] < make(tmp_path / "new").study.validate(), "it has learnt"
    second = resumed(lambda kind: make(tmp_path / "resumed", kind), whole.study.per_epoch)
    assert_same_training(second, whole)


def test_other_series_are_no_continuation(tmp_path: Path) -> None:
    made, run = study(), Run(tmp_path)
    made.save(run)
    made.check_same(run)
    refused(lambda: study(some=SERIES[:2]).check_same(run), "not those", "restore the data")
    changed = [*SERIES[:2], Series("least", SERIES[2].values + 1, SERIES[2].beside, (), None, None)]
    refused(lambda: study(some=changed).check_same(run), "not those")
    dated = [replace(one, dates=np.datetime64("2024-01-01T00") + np.arange(len(one)), frequency="h") for one in SERIES]
    refused(lambda: study(some=dated).check_same(run), "not those")
    study(some=dated).save(run)
    study(some=dated).check_same(run)
    later = [replace(one, dates=one.dates + 24) for one in dated]
    refused(lambda: study(some=later).check_same(run), "not those")


def test_a_cell_that_cannot_be_built() -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, cell="plain", activation="nonsense"))
    refused(lambda: study(config), "The cell plain cannot be built", "nonsense")
