"""A Keras model as it was given: its output, its layers, its copy in float64. More of it is in `test_network.py`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from export import keras_model
from seqapp.errors import UsageError
from tests.export.conftest import filled, model_of, of_features, tokens_of


def array(*shape: int) -> Any:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def stateful(*more: Any) -> Any:
    layer = layers.GRU(5, stateful=True, return_sequences=True)
    return filled(keras.Sequential([keras.Input(batch_shape=(4, None, 8)), layer, *more]))


class Failing(layers.Layer):
    broken = False

    def call(self, x: Any) -> Any:
        if self.broken:
            raise ZeroDivisionError
        return x


def test_output_of_a_stateful_model_is_from_its_first_states_and_moves_none() -> None:
    model, x = stateful(), array(1, 6, 8)
    first = np.asarray(model(np.repeat(x, 4, 0)))[:1]
    carried = model.layers[0].states[0].numpy()
    assert np.abs(carried).max() > 0.1
    for _ in range(2):
        np.testing.assert_allclose(keras_model.output(model, x), first, atol=1e-6)
        np.testing.assert_array_equal(model.layers[0].states[0].numpy(), carried)


def test_states_come_back_when_the_model_fails() -> None:
    model = stateful(Failing())
    model(array(4, 6, 8))
    carried = model.layers[0].states[0].numpy()
    model.layers[1].broken = True
    with pytest.raises(ZeroDivisionError):
        keras_model.output(model, array(1, 6, 8))
    np.testing.assert_array_equal(model.layers[0].states[0].numpy(), carried)


def test_output_is_the_first_of_several() -> None:
    x = keras.Input((None, 8))
    model = filled(keras.Model(x, layers.LSTM(5, return_state=True, return_sequences=True)(x)))
    assert keras_model.output(model, array(1, 6, 8)).shape == (1, 6, 5)
    ours = model_of(cell="lstm")
    found, wanted = keras_model.output(ours, tokens_of(1, 6)), np.asarray(ours(tokens_of(1, 6))[0])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6, equal_nan=False)


def test_fixed_length() -> None:
    assert keras_model.fixed_length(model_of()) is None
    assert keras_model.fixed_length(of_features(layers.GRU(3))) is None
    assert keras_model.fixed_length(keras.Sequential([keras.Input((50, 8)), layers.GRU(3)])) == 50


def test_layers_are_those_of_models_within_too() -> None:
    inner = keras.Sequential([layers.GRU(5, return_sequences=True, name="b"), layers.Dense(4, name="c")])
    model = of_features(layers.Dense(3, name="a"), inner, layers.Dense(2, name="d"))
    assert [layer.name for layer in keras_model.layers_of(model)] == ["a", "b", "c", "d"]


class GRUCell(layers.GRUCell):
    """A cell that bears the name of one of Keras's and computes something else."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h, states = super().call(2 * inputs, states)
        return h, states


def test_a_class_of_the_name_of_keras_own_is_no_other() -> None:
    model = of_features(layers.RNN(GRUCell(4), return_sequences=True))
    exact = keras_model.in_float64(model, [*model.layers, model.layers[0].cell])
    assert type(exact.layers[0].cell) is GRUCell
    np.testing.assert_allclose(exact(array(2, 6, 8)), model(array(2, 6, 8)), atol=1e-5)


class Configless(layers.Layer):
    """A cell whose arguments nobody wrote down."""

    def __init__(self, units: Any) -> None:
        super().__init__()
        self.state_size = self.output_size = len(units)

    def call(self, inputs: Any, states: Any) -> Any:
        return inputs + states[0], [inputs + states[0]]


@pytest.mark.parametrize(
    "layer",
    [lambda: layers.Dense(3, activation=lambda x: ops.tanh(x)), lambda: layers.RNN(Configless(np.zeros(8)))],  # noqa: PLW0108
    ids=["lambda", "no configuration"],
)
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_model_that_keras_cannot_make_again(layer: Any) -> None:
    model = of_features(layers.GRU(8, return_sequences=True), layer())
    with pytest.raises(
        UsageError, match=r"^Keras cannot make the model again from its configuration \(.*register_keras"
    ) as found:
        keras_model.in_float64(model, model.layers)
    assert "\n" not in str(found.value)
    assert keras.config.dtype_policy().name == "float32"
