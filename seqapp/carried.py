"""The model on parallel streams, as `fit` trains it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from seqapp.devices import all_rows, own_rows
from seqapp.model import SequenceModel


class CarriedModel(keras.Model):
    """A `SequenceModel` on B parallel streams: the states after one window are those before the next.

    The states are variables, so no gradient flows from one window into the one before: backpropagation is truncated there.
    They are saved with the weights, which lets training resume in the middle of an epoch. While training, each row starts a
    window from the first states with probability `reset`: without it a model sees that state once an epoch, and may predict
    nonsense from it (an LSTM with perplexity 53 mid-stream had 187 over the first tokens of a stream).

    Where several devices train, each has the states of all streams, and reads and works out those of its own rows.
    """

    def __init__(self, model: SequenceModel, batch_size: int, reset: float = 0.0, seed: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.rows = batch_size
        self.reset = reset
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.carried = [
            self.add_weight(shape=(batch_size, size), initializer="zeros", trainable=False, name=f"state_{i}")
            for i, size in enumerate(model.state_sizes)
        ]
        self.built = True

    def call(self, tokens: Any, training: bool = False) -> Any:
        """tokens (B, T) -> logits (B, T, V)."""
        states = [own_rows(variable.value) for variable in self.carried]
        if training and self.reset:
            kept = own_rows(keras.random.uniform((self.rows, 1), seed=self.seed_generator)) >= self.reset
            first = self.model.initial_states(states[0].shape[0])
            states = [ops.where(kept, state, new) for state, new in zip(states, first, strict=True)]
        logits, states = self.model(tokens, states, training=training)
        for variable, state in zip(self.carried, states, strict=True):
            variable.assign(all_rows(state))
        return logits

    def reset_states(self) -> None:
        for variable, state in zip(self.carried, self.model.initial_states(self.carried[0].shape[0]), strict=True):
            variable.assign(state)
