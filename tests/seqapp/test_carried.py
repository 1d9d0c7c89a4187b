"""States carried from window to window."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.carried import CarriedModel
from seqapp.cells import CELLS, GRUCell, LSTMCell
from seqapp.model import SequenceModel

B, T, V = 3, 5, 11


def random_model(cells: list[Any] | None = None, **options: Any) -> SequenceModel:
    model = SequenceModel(V, cells or [LSTMCell(6), GRUCell(4)], 5, **options)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.8, weight.shape) for weight in model.get_weights()])
    return model


def tokens(timesteps: int, batch: int = B, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, V, (batch, timesteps), dtype=np.int32)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("training", [False, True])
def test_windows_equal_one_long_call(name: str, training: bool) -> None:
    model = random_model([CELLS[name](6), CELLS[name](4)])
    carried, x = CarriedModel(model, B), tokens(3 * T)
    logits, states = model(x)
    windows = [carried(part, training=training) for part in np.split(x, 3, axis=1)]
    np.testing.assert_allclose(np.concatenate(windows, axis=1), logits, rtol=1e-4, atol=1e-5)
    for variable, state in zip(carried.carried, states, strict=True):
        np.testing.assert_allclose(variable, state, rtol=1e-4, atol=1e-5)
    assert np.abs(windows[1] - model(x[:, T : 2 * T])[0]).max() > 1e-2, "the state makes a difference"


def test_reset_states() -> None:
    carried, x = CarriedModel(random_model(), B), tokens(T)
    first = carried(x)
    assert np.abs(carried(x) - first).max() > 1e-2
    carried.reset_states()
    assert not any(np.asarray(variable).any() for variable in carried.carried)
    np.testing.assert_array_equal(carried(x), first)


def test_a_certain_reset_starts_each_window_from_zero() -> None:
    model = random_model()
    carried, x = CarriedModel(model, B, reset=1.0), tokens(T)
    for _ in range(3):
        np.testing.assert_allclose(carried(x, training=True), model(x)[0], rtol=1e-5, atol=1e-5)


def test_a_learned_start_is_where_streams_begin_and_what_a_reset_trains() -> None:
    model = random_model([GRUCell(6, learned_start=True)])
    carried, x = CarriedModel(model, B, reset=1.0), tokens(T)
    carried.reset_states()
    start = next(weight for weight in model.trainable_weights if weight.name == "start_0")
    assert np.abs(start).max() > 0.1
    np.testing.assert_allclose(carried.carried[0], np.tile(start, (B, 1)))
    with tf.GradientTape() as tape:
        logits = carried(x, training=True)
        loss = tf.reduce_sum(logits**2)
    np.testing.assert_allclose(logits, model(x)[0], rtol=1e-5, atol=1e-5)
    assert np.abs(tape.gradient(loss, start.value)).max() > 1e-3


def test_no_reset_outside_training() -> None:
    model = random_model()
    carried, other = CarriedModel(model, B, reset=1.0), CarriedModel(model, B)
    for seed in range(3):
        np.testing.assert_array_equal(carried(tokens(T, seed=seed)), other(tokens(T, seed=seed)))


def test_a_reset_takes_all_states_of_a_row() -> None:
    rows = 200
    model = random_model()
    carried, first, second = CarriedModel(model, rows, reset=0.3, seed=1), tokens(T, rows), tokens(T, rows, seed=1)
    kept, zero = model(second, model(first, model.initial_states(rows))[1])[0], model(second)[0]
    carried(first)
    logits = np.asarray(carried(second, training=True))
    was_kept = np.isclose(logits, kept, atol=1e-4).all(axis=(1, 2))
    was_reset = np.isclose(logits, zero, atol=1e-4).all(axis=(1, 2))
    np.testing.assert_array_equal(was_kept, ~was_reset)
    assert was_reset.mean() == pytest.approx(0.3, abs=0.1)


def test_a_seed_gives_the_same_resets() -> None:
    model, x = random_model(), tokens(T, 20)
    pair = [CarriedModel(model, 20, reset=0.5, seed=2) for _ in range(2)]
    for _ in range(3):
        np.testing.assert_array_equal(*(carried(x, training=True) for carried in pair))


def gradients(call: Any, weights: list[Any]) -> list[Any]:
    factors = np.random.default_rng(3).normal(size=(B, T, V)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(call() * factors)
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, [weight.value for weight in weights])]


def test_no_gradient_flows_into_the_window_before() -> None:
    model = random_model()
    carried, first, second = CarriedModel(model, B), tokens(T), tokens(T, seed=1)
    carried(first)
    states = [np.asarray(variable) for variable in carried.carried]
    weights = model.trainable_weights
    truncated = gradients(lambda: model(second, states)[0], weights)
    whole = gradients(lambda: model(second, model(first)[1])[0], weights)
    carried.reset_states()

    def two_windows() -> Any:
        carried(first)
        return carried(second)

    found = gradients(two_windows, weights)
    for gradient, wanted in zip(found, truncated, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-4)
    assert max(float(tf.reduce_max(tf.abs(a - b))) for a, b in zip(whole, truncated, strict=True)) > 1e-1


def test_the_states_are_no_weights_to_train() -> None:
    model = random_model()
    carried = CarriedModel(model, B)
    assert [id(weight) for weight in carried.trainable_variables] == [id(weight) for weight in model.trainable_variables]


def test_the_states_are_saved_with_the_weights(tmp_path: Any) -> None:
    carried = CarriedModel(random_model(), B)
    carried(tokens(T))
    carried.save_weights(tmp_path / "c.weights.h5")
    other = CarriedModel(SequenceModel(V, [LSTMCell(6), GRUCell(4)], 5), B)
    other.load_weights(tmp_path / "c.weights.h5")
    np.testing.assert_array_equal(other(tokens(T, seed=1)), carried(tokens(T, seed=1)))


def test_fit_carries_the_states() -> None:
    """With a learning rate of 0, the losses of the windows are those of one long call."""
    model = random_model()
    carried, x, y = CarriedModel(model, B), tokens(4 * T), tokens(4 * T, seed=5)
    carried.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    windows = tf.data.Dataset.from_tensor_slices((np.stack(np.split(x, 4, axis=1)), np.stack(np.split(y, 4, axis=1))))
    loss = carried.fit(windows, shuffle=False, verbose=0).history["loss"][0]
    whole = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x)[0])
    assert loss == pytest.approx(float(whole), rel=1e-4)
