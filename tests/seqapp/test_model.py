"""One list of properties that every cell must have within the model, and the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from seqapp.cells import CELLS, GRUCell, LSTMCell, PlainCell
from seqapp.model import SequenceModel
from seqapp.step import KerasStepper

V, E = 13, 6


@keras.saving.register_keras_serializable(package="test")
class OwnCell(keras.layers.Layer):
    """A cell as a user may write it: two states of different widths, SiLU, and a layer inside."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.output_size = units, units
        self.state_size = [units, units + 3]
        self.inner = keras.layers.Dense(units + 3)
        self.norm = keras.layers.LayerNormalization()
        self.outer = keras.layers.Dense(units)

    def build(self, input_shape: Any) -> None:
        width = self.units + 3
        self.inner.build((None, input_shape[-1] + self.units + width))
        self.norm.build((None, width))
        self.outer.build((None, width))

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h, m = states
        m = 0.5 * m + self.norm(self.inner(ops.concatenate([inputs, h, m], axis=-1)))
        h = ops.silu(self.outer(m))
        return h, [h, m]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


ALL = {**CELLS, "own": OwnCell}


def randomized(model: SequenceModel, seed: int = 0, scale: float = 0.8) -> SequenceModel:
    """Large different values in every weight, biases included."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, scale, weight.shape) for weight in model.get_weights()])
    return model


def tokens(batch: int, timesteps: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, V, (batch, timesteps), dtype=np.int32)


def states_for(stepper: KerasStepper, batch: int) -> list[Any]:
    """States as they are in the middle of a text."""
    return stepper.sequence(tokens(batch, 5, seed=2), stepper.initial_states(batch))[1]


def assert_close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-4, atol=1e-4)


def assert_states_close(got: list[Any], wanted: list[Any]) -> None:
    for state, other in zip(got, wanted, strict=True):
        assert_close(state, other)


@pytest.fixture(scope="module", params=list(ALL))
def model(request: pytest.FixtureRequest) -> SequenceModel:
    kind = ALL[request.param]
    return randomized(SequenceModel(V, [kind(7), kind(5)], E))


@pytest.fixture(scope="module")
def stepper(model: SequenceModel) -> KerasStepper:
    return KerasStepper(model)


class TestEveryCell:
    """The conformance list."""

    def test_steps_equal_the_sequence(self, stepper: KerasStepper) -> None:
        x, states = tokens(3, 8), states_for(stepper, 3)
        logits, after = stepper.sequence(x, states)
        assert np.std(logits) > 0.5, "nothing can be told apart from logits that are all alike"
        for t in range(8):
            one, states = stepper.step(x[:, t], states)
            assert_close(one, logits[:, t])
        assert_states_close(states, after)

    def test_uneven_chunks_equal_the_sequence(self, stepper: KerasStepper) -> None:
        x, states = tokens(3, 11), states_for(stepper, 3)
        logits, after = stepper.sequence(x, states)
        parts = []
        for chunk in np.split(x, [1, 3, 8], axis=1):
            part, states = stepper.sequence(chunk, states)
            parts.append(part)
        assert_close(np.concatenate(parts, axis=1), logits)
        assert_states_close(states, after)

    def test_a_single_timestep(self, stepper: KerasStepper) -> None:
        x, states = tokens(2, 1), states_for(stepper, 2)
        logits, after = stepper.sequence(x, states)
        one, wanted = stepper.step(x[:, 0], states)
        assert logits.shape == (2, 1, V)
        assert_close(logits[:, 0], one)
        assert_states_close(after, wanted)

    def test_no_output_depends_on_later_tokens(self, stepper: KerasStepper) -> None:
        x, states = tokens(3, 9), states_for(stepper, 3)
        other = x.copy()
        other[:, 5:] = (other[:, 5:] + 1) % V
        logits, changed = stepper.sequence(x, states)[0], stepper.sequence(other, states)[0]
        np.testing.assert_array_equal(logits[:, :5], changed[:, :5])
        assert np.abs(logits[:, 5:] - changed[:, 5:]).max() > 1e-2

    def test_rows_do_not_depend_on_each_other(self, stepper: KerasStepper) -> None:
        x, states = tokens(4, 6), states_for(stepper, 4)
        logits, after = stepper.sequence(x, states)
        for row in range(4):
            alone, own = stepper.sequence(x[row : row + 1], [state[row : row + 1] for state in states])
            assert_close(alone[0], logits[row])
            assert_states_close(own, [state[row : row + 1] for state in after])

    def test_every_state_matters_and_zero_states_reset(self, stepper: KerasStepper) -> None:
        x, states = tokens(2, 4), states_for(stepper, 2)
        fresh = stepper.sequence(x, stepper.initial_states(2))[0]
        assert np.abs(fresh - stepper.sequence(x, states)[0]).max() > 1e-3
        for i in range(len(states)):
            one = [state if j == i else 0 * state for j, state in enumerate(states)]
            assert np.abs(fresh - stepper.sequence(x, one)[0]).max() > 1e-3
        np.testing.assert_array_equal(stepper.sequence(x, [0 * state for state in states])[0], fresh)

    def test_a_call_without_states_starts_from_zero(self, model: SequenceModel, stepper: KerasStepper) -> None:
        x = tokens(2, 4)
        logits, after = model(x)
        wanted, wanted_after = stepper.sequence(x, stepper.initial_states(2))
        assert_close(logits, wanted)
        assert_states_close(after, wanted_after)

    def test_initial_states(self, model: SequenceModel) -> None:
        states = model.initial_states(3)
        assert [tuple(state.shape) for state in states] == [(3, size) for size in model.state_sizes]
        assert not any(np.asarray(state).any() for state in states)

    def test_the_saved_model_gives_the_same(self, model: SequenceModel, tmp_path: Path) -> None:
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        # JSON knows no tuples: compared as JSON.
        assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
        x, states = tokens(2, 6), [np.ones((2, size), np.float32) for size in model.state_sizes]
        logits, after = model(x, states)
        copied, copied_after = copy(x, states)
        np.testing.assert_array_equal(copied, logits)
        assert_states_close(copied_after, after)

    def test_config_round_trip(self, model: SequenceModel) -> None:
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
        assert copy.get_config() == model.get_config()
        assert [weight.shape for weight in copy.weights] == [weight.shape for weight in model.weights]


def parameters(model: SequenceModel) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


PLAIN_WEIGHTS = (7 + E) * 7 + 7


def test_tied_output_is_the_embedding_behind_a_projection() -> None:
    model = randomized(SequenceModel(V, [PlainCell(7)], E))
    assert not hasattr(model, "output_kernel")
    assert parameters(model) == model.count_params() == V * E + PLAIN_WEIGHTS + 7 * E + V
    x = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    embedding, projection, bias = (
        np.asarray(w) for w in (model.embedding.embeddings, model.projection.kernel, model.output_bias)
    )
    assert_close(model.logits(x), x @ projection @ embedding.T + bias)


def test_tied_output_needs_no_projection_of_the_same_width() -> None:
    model = randomized(SequenceModel(V, [PlainCell(7), PlainCell(E)], E))
    assert model.projection is None
    assert parameters(model) == V * E + PLAIN_WEIGHTS + (7 + E) * E + E + V
    x = np.random.default_rng(0).normal(size=(2, E)).astype(np.float32)
    assert_close(model.logits(x), x @ np.asarray(model.embedding.embeddings).T + np.asarray(model.output_bias))


def test_untied_output_has_a_kernel() -> None:
    model = randomized(SequenceModel(V, [PlainCell(7)], E, tied=False))
    assert model.projection is None
    assert parameters(model) == V * E + PLAIN_WEIGHTS + 7 * V + V
    x = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
    before = model.logits(x)
    assert_close(before, x @ np.asarray(model.output_kernel) + np.asarray(model.output_bias))
    model.embedding.embeddings.assign(0 * model.embedding.embeddings)
    np.testing.assert_array_equal(model.logits(x), before)


def test_layers_are_stacked() -> None:
    lower, upper = LSTMCell(7), GRUCell(5)
    model = randomized(SequenceModel(V, [lower, upper], E, tied=False))
    assert model.state_sizes == [7, 7, 5]
    x, states = tokens(2, 4), [np.random.default_rng(i).normal(size=(2, size)) for i, size in enumerate((7, 7, 5))]
    logits, after = model(x, states)
    h, c, g = states
    for t in range(4):
        embedded = np.asarray(model.embedding.embeddings)[x[:, t]]
        h, (_, c) = lower(embedded, [h, c])
        g, _ = upper(h, [g])
        assert_close(logits[:, t], np.asarray(g) @ np.asarray(model.output_kernel) + np.asarray(model.output_bias))
    assert_states_close(after, [h, c, g])


def test_dropout_before_between_and_after_the_layers_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomized(SequenceModel(V, [PlainCell(7), PlainCell(5)], E, dropout=0.5))
    seen: list[tuple[tuple[int, ...], bool]] = []
    call = keras.layers.Dropout.call

    def spy(self: Any, inputs: Any, training: bool = False) -> Any:
        seen.append((tuple(inputs.shape), training))
        return call(self, inputs, training=training)

    monkeypatch.setattr(keras.layers.Dropout, "call", spy)
    model(tokens(2, 4), training=True)
    assert seen == [((2, 4, E), True), ((2, 4, 7), True), ((2, 4, 5), True)]


def test_dropout_changes_training_alone() -> None:
    dropped = randomized(SequenceModel(V, [PlainCell(7)], E, dropout=0.5))
    whole = randomized(SequenceModel(V, [PlainCell(7)], E))
    x = tokens(2, 4)
    np.testing.assert_array_equal(dropped(x)[0], whole(x)[0])
    assert np.abs(dropped(x, training=True)[0] - whole(x)[0]).max() > 1e-2
    # Training unrolls the loop, whose products then round otherwise on some processors.
    np.testing.assert_allclose(whole(x, training=True)[0], whole(x)[0], rtol=0, atol=1e-5)


def test_dropout_has_one_mask_for_all_timesteps() -> None:
    model = SequenceModel(V, [PlainCell(7)], E, dropout=0.5)
    mask = np.asarray(model.drop(np.ones((3, 5, 9), np.float32), training=True))
    np.testing.assert_array_equal(mask, np.repeat(mask[:, :1], 5, axis=1))
    assert set(np.unique(mask)) == {0.0, 2.0}


def test_dropout_on_the_recurrence_changes_training_alone() -> None:
    dropped = randomized(SequenceModel(V, [LSTMCell(7)], E, recurrent_dropout=0.5))
    x = tokens(2, 4)
    whole = randomized(SequenceModel(V, [LSTMCell(7)], E))(x)[0]
    np.testing.assert_array_equal(dropped(x)[0], whole)
    trained = np.asarray(dropped(x, training=True)[0])
    np.testing.assert_allclose(trained[:, 0], whole[:, 0], rtol=0, atol=1e-5, err_msg="the zero state has nothing to drop")
    assert np.abs(trained[:, 1:] - whole[:, 1:]).max() > 1e-2


def test_config_keeps_every_choice() -> None:
    model = SequenceModel(V, [PlainCell(7, activation="relu"), LSTMCell(5)], E, tied=False, dropout=0.1, recurrent_dropout=0.2)
    copy = SequenceModel.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert [type(layer.cell) for layer in copy.recurrent] == [PlainCell, LSTMCell]
    assert (copy.tied, copy.drop.rate, copy.recurrent[1].recurrent_dropout) == (False, 0.1, 0.2)


def test_fresh_logits_of_a_tied_model_are_near_uniform() -> None:
    keras.utils.set_random_seed(0)
    logits = np.asarray(SequenceModel(V, [GRUCell(32)], 32)(tokens(2, 5))[0])
    assert np.abs(logits).max() < 0.5


def test_a_double_precision_model() -> None:
    model = randomized(SequenceModel(V, [LSTMCell(7, dtype="float64")], E, dtype="float64"))
    logits, after = model(tokens(2, 3), model.initial_states(2))
    assert {keras.backend.standardize_dtype(part.dtype) for part in (logits, *after)} == {"float64"}
