"""The layer that drives a cell, and its dropout on the recurrence."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from seqapp.cell import Cell, States
from seqapp.cells import CELLS, GRUCell, LSTMCell
from seqapp.recurrence import CHUNK, Columns, Recurrence

B, T, F, U = 6, 7, 3, 8


@pytest.fixture(autouse=True)
def chunks_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqapp.recurrence.CHUNK", CHUNK)


class Mirror(Cell):
    """Returns the mask it works under; its state stays as it is."""

    def build(self, input_shape: Any) -> None:
        self.built = True

    def project(self, x: Any) -> Any:
        return x

    def recur(self, projected: Any, states: States) -> tuple[Any, States]:
        return self.masked(ops.ones_like(states[0])), list(states)


def inputs(timesteps: int = T) -> Any:
    return np.random.default_rng(0).normal(size=(B, timesteps, F)).astype(np.float32)


def states_for(cell: Any) -> list[Any]:
    rng = np.random.default_rng(1)
    return [2 * rng.normal(size=(B, size)).astype(np.float32) for size in cell.state_size]


def randomized(cell: Cell) -> Cell:
    cell.build((None, F))
    rng = np.random.default_rng(2)
    cell.set_weights([rng.normal(size=weight.shape) for weight in cell.get_weights()])
    return cell


def mask_of(seed: int, rate: float = 0.5, training: bool = True, timesteps: int = T) -> Any:
    """The masks (B, T, U) that a layer with this seed works under."""
    return np.asarray(Recurrence(Mirror(U), rate, seed=seed)(inputs(timesteps), training=training)[0])


# A window of one chunk, and one of several with a rest.
@pytest.mark.parametrize("timesteps", [T, 2 * CHUNK + 3])
def test_one_mask_for_all_timesteps(timesteps: int) -> None:
    mask = mask_of(seed=1, timesteps=timesteps)
    assert set(np.unique(mask)) == {0.0, 2.0}
    np.testing.assert_array_equal(mask, np.repeat(mask[:, :1], timesteps, axis=1))
    assert len(np.unique(mask[:, 0], axis=0)) == B, "each row has a mask of its own"


def test_the_rate_is_that_of_what_is_hidden() -> None:
    mask = np.asarray(Recurrence(Mirror(2000), 0.2, seed=0)(inputs(), training=True)[0])
    assert np.mean(mask == 0) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(mask[mask != 0], 1.25, rtol=1e-6)


def test_no_mask_outside_training() -> None:
    np.testing.assert_array_equal(mask_of(seed=1, training=False), 1.0)


def test_no_mask_without_a_rate() -> None:
    np.testing.assert_array_equal(mask_of(seed=1, rate=0.0), 1.0)


def test_a_seed_gives_the_same_masks() -> None:
    np.testing.assert_array_equal(mask_of(seed=4), mask_of(seed=4))
    assert (mask_of(seed=4) != mask_of(seed=5)).any()


def test_each_pass_has_a_new_mask() -> None:
    layer = Recurrence(Mirror(U), 0.5, seed=4)
    assert (np.asarray(layer(inputs(), training=True)[0]) != np.asarray(layer(inputs(), training=True)[0])).any()


def test_states_are_not_masked() -> None:
    layer, state = Recurrence(Mirror(U), 0.5, seed=4), np.full((B, U), 3.0, np.float32)
    np.testing.assert_array_equal(layer(inputs(), initial_state=[state], training=True)[1], state)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("timesteps", [T, 2 * CHUNK + 3])
def test_dropout_hides_the_state_from_the_recurrent_product_alone(name: str, timesteps: int) -> None:
    cell = randomized(CELLS[name](U))
    x, states = inputs(timesteps), states_for(cell)
    output, *after = Recurrence(cell, 0.5, seed=9)(x, initial_state=states, training=True)
    cell.recurrent_mask = mask_of(seed=9)[:, 0]
    for t in range(timesteps):
        h, states = cell(x[:, t], states)
        np.testing.assert_allclose(output[:, t], h, rtol=1e-4, atol=1e-5)
    for state, wanted in zip(after, states, strict=True):
        np.testing.assert_allclose(state, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_the_mask_is_gone_after_the_pass(name: str) -> None:
    cell = randomized(CELLS[name](U))
    layer = Recurrence(cell, 0.5, seed=1)
    before = layer(inputs())[0]
    layer(inputs(), training=True)
    assert cell.recurrent_mask is None
    np.testing.assert_array_equal(layer(inputs())[0], before)


@pytest.mark.parametrize("timesteps", [T, 2 * CHUNK + 3])
def test_the_mask_is_gone_after_a_failure(timesteps: int) -> None:
    class Broken(Mirror):
        def recur(self, projected: Any, states: States) -> tuple[Any, States]:
            raise RuntimeError("broken")

    cell = Broken(U)
    layer = Recurrence(cell, 0.5)
    with pytest.raises(RuntimeError, match="broken"):
        layer(inputs(timesteps), training=True)
    assert cell.recurrent_mask is None


def test_a_cell_that_knows_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a cell with a recurrent_mask, and LSTMCell has none.*Received: 0.5"):
        Recurrence(keras.layers.LSTMCell(U), 0.5)
    Recurrence(keras.layers.LSTMCell(U))


def test_returns_all_outputs_and_the_last_states() -> None:
    cell = randomized(LSTMCell(U))
    output, h, c = Recurrence(cell)(inputs())
    assert tuple(output.shape) == (B, T, U)
    assert tuple(h.shape) == tuple(c.shape) == (B, U)
    np.testing.assert_array_equal(output[:, -1], h)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("timesteps", [1, T, 2 * CHUNK + 3])
def test_training_is_the_same_network(name: str, timesteps: int) -> None:
    """Outputs, states and gradients of the unrolled window, and of the loop over projected inputs, equal those of Keras's."""
    cell = randomized(CELLS[name](U))
    layer, x, states = Recurrence(cell), inputs(timesteps), states_for(cell)
    results = []
    for training in (False, True):
        given = [tf.constant(value) for value in (x, *states)]
        with tf.GradientTape() as tape:
            tape.watch(given)
            output, *after = layer(given[0], initial_state=given[1:], training=training)
            loss = sum(tf.reduce_sum(part**2) for part in (output, *after))
        gradients = tape.gradient(loss, [*(weight.value for weight in cell.trainable_weights), *given])
        results.append([output, *after, *gradients])
    for wanted, found in zip(*results, strict=True):
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3, equal_nan=False)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("timesteps", [1, CHUNK, 2 * CHUNK + 3])
def test_training_on_sequences_of_any_length_is_the_same_network(name: str, timesteps: int) -> None:
    """The length is known only when the compiled function runs."""
    cell = randomized(CELLS[name](U))
    layer, x, states = Recurrence(cell), inputs(timesteps), states_for(cell)

    @tf.function(input_signature=[tf.TensorSpec([None, None, F]), [tf.TensorSpec([None, U]) for _ in states]], autograph=False)
    def trained(x: Any, states: Any) -> Any:
        return layer(x, initial_state=states, training=True)

    for found, wanted in zip(trained(x, states), layer(x, initial_state=states), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=False)


@pytest.mark.parametrize("name", ["plain", "lstm", "gru", "cifg", "mingru", "attention"])
@pytest.mark.parametrize("timesteps", [T, None, 2 * CHUNK + 3])
def test_training_is_the_same_network_with_remedies(name: str, timesteps: int | None) -> None:
    kind = CELLS[name]
    cell = randomized(kind(F, normalized=kind.multiplies, learned_start=True, residual=True))
    cell.set_weights([weight / 2 for weight in cell.get_weights()])  # or rounding would grow
    layer, x = Recurrence(cell), inputs(timesteps or 17)
    trained = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, timesteps, F])])
    for found, wanted in zip(trained(x), layer(x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=False)


@pytest.mark.parametrize("name", ["plain", "lstm"])  # of one state, and of two
def test_zoneout_keeps_each_number_of_a_state_or_none_of_it(name: str) -> None:
    """In each timestep others, as often as it says; afterwards what it does is what it does on average."""
    cell = randomized(CELLS[name](U, zoneout=0.25))
    layer, x, states = Recurrence(cell, seed=3), inputs(400), states_for(cell)
    output, *_ = layer(x, initial_state=states, training=True)
    same = np.asarray(output[:, 1:] == output[:, :-1])
    assert abs(same.mean() - 0.25) < 0.02
    assert abs((same[:, 1:] & same[:, :-1]).mean() - 0.25**2) < 0.02
    assert not same.all(axis=(0, 1)).any()
    assert cell.kept is None
    assert np.abs(layer(x, initial_state=states, training=True)[0] - output).max() > 0.1, "drawn anew for each pass"
    whole = CELLS[name](U)
    whole.build((None, F))
    whole.set_weights(cell.get_weights())
    (_, after), (_, new) = (step(x[:, 0], states) for step in (cell, whole))
    for found, old, now in zip(after, states, new, strict=True):
        np.testing.assert_allclose(found, 0.25 * old + 0.75 * now, rtol=1e-5, atol=1e-6)


def test_zoneout_leaves_an_output_that_is_no_state() -> None:
    class Peeked(GRUCell):
        def blend(self, x: Any, h: Any, states: States, axis: int) -> tuple[Any, States]:
            y, after = super().blend(x, h, states, axis)
            return 2 * y, after

    cells = [randomized(kind(U, zoneout=0.25)) for kind in (Peeked, GRUCell)]
    x, states = inputs()[:, 0], states_for(cells[0])
    (y, after), (_, same) = (cell(x, states) for cell in cells)
    np.testing.assert_array_equal(after, same)
    np.testing.assert_allclose(0.25 * states[0] + 0.75 * y / 2, after[0], rtol=1e-5, atol=1e-6, equal_nan=False)


@pytest.mark.parametrize(
    ("option", "method"), [("residual", "call"), ("zoneout", "recur"), ("normalized", "project"), ("normalized", "recur")]
)
def test_an_option_whose_method_a_cell_replaces_is_refused(option: str, method: str) -> None:
    def own(self: Any, *given: Any) -> Any:
        return getattr(GRUCell, method)(self, *given)

    kind = type("Own", (GRUCell,), {method: own})
    Recurrence(kind(F)).build((None, None, F))
    with pytest.raises(ValueError, match=f"{option} changes what .*{method}.* do, and Own has its own"):
        Recurrence(kind(F, **{option: 0.5 if option == "zoneout" else True})).build((None, None, F))


def test_a_cell_that_adds_its_kernels_too_late_is_refused() -> None:
    class Late(GRUCell):
        def build(self, input_shape: Any) -> None:
            Cell.build(self, input_shape)

    with pytest.raises(ValueError, match=r"normalized needs kernels: Late\.build must add them before"):
        Late(U, normalized=True).build((None, F))


@pytest.mark.parametrize("option", ["normalized", "learned_start"])
def test_a_cell_that_leaves_out_the_weights_of_its_options_is_refused(option: str) -> None:
    class Forgetful(GRUCell):
        def build(self, input_shape: Any) -> None:
            self.add_kernels(input_shape[-1], gates=3)
            self.bias = self.add_weight(shape=(2, 3 * self.units), name="bias")

    Recurrence(Forgetful(U)).build((None, None, F))
    with pytest.raises(ValueError, match=r"Forgetful.build must call super\(\).build\(input_shape\)"):
        Recurrence(Forgetful(U, **{option: True})).build((None, None, F))


def test_zoneout_and_dropout_on_the_recurrence_at_once_train() -> None:
    cell = randomized(GRUCell(U, zoneout=0.1))
    layer, x = Recurrence(cell, 0.3, seed=3), tf.constant(inputs())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True)[0] ** 2)
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(loss, cell.trainable_weights))
    assert cell.kept is None and cell.recurrent_mask is None


@pytest.mark.parametrize(
    ("timesteps", "size"), [(1, 1), (7, 7), (16, 16), (32, 16), (37, CHUNK), (100, 20), (128, 16), (1020, 20), (None, 10)]
)
def test_chunks_leave_little(timesteps: int | None, size: int) -> None:
    assert Columns(randomized(GRUCell(U))).size(timesteps, CHUNK) == size


def test_training_is_the_same_network_backwards() -> None:
    layer = Recurrence(randomized(LSTMCell(U)), go_backwards=True)
    forward = Recurrence(layer.cell)(inputs())[0]
    assert np.abs(layer(inputs())[0] - forward).max() > 0.1
    np.testing.assert_allclose(layer(inputs(), training=True)[0], layer(inputs())[0], rtol=1e-4, atol=1e-5)


def test_training_is_the_same_network_where_a_cell_has_its_own_call() -> None:
    class Doubled(GRUCell):
        def call(self, inputs: Any, states: States) -> tuple[Any, States]:
            return super().call(2 * inputs, states)

    layer = Recurrence(randomized(Doubled(U)))
    np.testing.assert_allclose(layer(inputs(), training=True)[0], layer(inputs())[0], rtol=1e-4, atol=1e-5)


def test_a_mask_is_heeded_in_training() -> None:
    layer, mask = Recurrence(randomized(LSTMCell(U))), np.arange(T) < 4
    rows = np.tile(mask, (B, 1))
    np.testing.assert_allclose(layer(inputs(), mask=rows, training=True)[1], layer(inputs()[:, :4])[1], rtol=1e-4, atol=1e-5)


def test_config_round_trip() -> None:
    layer = Recurrence(randomized(GRUCell(U)), 0.25, name="upper")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(copy, Recurrence)
    assert copy.get_config() == layer.get_config()
    assert (copy.recurrent_dropout, copy.return_sequences, copy.return_state) == (0.25, True, True)
    copy.build((None, None, F))
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(inputs())[0], layer(inputs())[0])
