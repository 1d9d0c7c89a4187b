"""The model on parallel streams, as `fit` trains it."""

from __future__ import annotations

from typing import Any

import keras

from seqapp.model import SequenceModel


class CarriedModel(keras.Model):
    """A `SequenceModel` on B parallel streams: the states after one window are those before the next.

    The states are variables, so no gradient flows from one window into the one before: backpropagation is truncated there.
    They are saved with the weights, which lets training resume in the middle of an epoch.
    """

    def __init__(self, model: SequenceModel, batch_size: int) -> None:
        super().__init__()
        self.model = model
        self.carried = [
            self.add_weight(shape=(batch_size, size), initializer="zeros", trainable=False, name=f"state_{i}")
            for i, size in enumerate(model.state_sizes)
        ]
        self.built = True

    def call(self, tokens: Any, training: bool = False) -> Any:
        """tokens (B, T) -> logits (B, T, V)."""
        logits, states = self.model(tokens, [variable.value for variable in self.carried], training=training)
        for variable, state in zip(self.carried, states, strict=True):
            variable.assign(state)
        return logits

    def reset_states(self) -> None:
        for variable in self.carried:
            variable.assign(keras.ops.zeros_like(variable))
