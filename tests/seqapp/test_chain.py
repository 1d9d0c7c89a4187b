"""The model of features: whole and step by step, and what the exporter makes of it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from seqapp.chain import Stepwise, build_chain
from seqapp.config import ModelConfig
from seqapp.step import KerasStepper, compiled
from tests.conftest import CELLS, refused

X = np.random.default_rng(0).normal(size=(3, 11, 4)).astype(np.float32)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_one_piece_at_a_time_is_the_whole(cell: str, layers: int) -> None:
    model = build_chain(ModelConfig(cell=cell, units=6, layers=layers), 4, 5, "y")
    whole, stepper = compiled(model)(X), KerasStepper(Stepwise(model), 4)
    assert whole.shape == (3, 11, 5)
    some, states = stepper.sequence(X[:, :4], stepper.initial_states(3))
    np.testing.assert_allclose(some, whole[:, :4], atol=1e-6, equal_nan=False)
    for t in range(4, 11):
        y, states = stepper.step(X[:, t], states)
        np.testing.assert_allclose(y, whole[:, t], atol=1e-6, equal_nan=False)
    assert [state.shape for state in states] == [(3, 6)] * len(stepper.model.state_sizes)


def test_a_kernel_of_zeros_says_nothing() -> None:
    assert not compiled(build_chain(ModelConfig(units=6), 4, 5, "y", kernel="zeros"))(X).any()
    assert compiled(build_chain(ModelConfig(units=6), 4, 5, "y"))(X).any()


def test_dropout_is_there_in_training_alone() -> None:
    model = build_chain(ModelConfig(units=32, dropout=0.5, recurrent_dropout=0.2), 4, 5, "y")
    one, other = (np.asarray(model(X, training=True)) for _ in range(2))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(np.asarray(model(X)), np.asarray(model(X)))


def test_is_saved_and_loaded(tmp_path: Path) -> None:
    model = build_chain(ModelConfig(units=6, layers=2, recurrent_dropout=0.1), 4, 5, "y")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(compiled(again)(X), compiled(model)(X))


def test_a_cell_that_cannot_be_built() -> None:
    refused(lambda: build_chain(ModelConfig(cell="plain", activation="nonsense"), 4, 5, "y"), "The cell plain", "nonsense")
