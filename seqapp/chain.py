"""A model of features: recurrent layers one above the other, then one product, all of Keras's functional API."""

from __future__ import annotations

from typing import Any

import keras

from seqapp.cell import States, Tensor
from seqapp.config import ModelConfig
from seqapp.job import built_of, make_cells
from seqapp.recurrence import Recurrence, initial_states, one_step, state_sizes, through


def build_chain(config: ModelConfig, width: int, outputs: int, name: str, kernel: str = "glorot_uniform") -> Any:
    """A model with new weights, features (B, T, width) -> (B, T, outputs), named `name`; dropout behind each layer.

    Raises:
        UsageError: its cell does not exist or cannot be made.
    """
    with built_of(config.cell):
        x = inputs = keras.Input((None, width), name="features")
        for cell in make_cells(config):
            x, *_ = Recurrence(cell, config.recurrent_dropout)(x)
            x = keras.layers.Dropout(config.dropout, noise_shape=(None, 1, None))(x)
        return keras.Model(inputs, keras.layers.Dense(outputs, kernel_initializer=kernel, name=name)(x))


class Stepwise:
    """A model that `build_chain` made, with its states outside: what `seqapp.step.KerasStepper` needs of a model."""

    def __init__(self, model: Any) -> None:
        self.recurrent = [layer for layer in model.layers if isinstance(layer, Recurrence)]
        self.head, self.compute_dtype = model.layers[-1], model.compute_dtype

    @property
    def state_sizes(self) -> list[int]:
        return state_sizes(self.recurrent)

    def initial_states(self, batch_size: Any) -> States:
        return initial_states(self.recurrent, batch_size)

    def __call__(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B, T, F), states -> outputs (B, T, V), states."""

        def whole(layer: Recurrence, x: Tensor, own: States) -> tuple[Tensor, States]:
            y, *after = layer(x, initial_state=own)
            return y, after

        y, after = through(self.recurrent, whole, x, states)
        return self.head(y), after

    def step(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B, F), states -> outputs (B, V), states."""
        y, after = through(self.recurrent, one_step, x, states)
        return self.head(y), after
