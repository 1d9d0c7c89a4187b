"""The one contract that decoding, evaluation and export share: tokens and states in, logits and states out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Stepper(Protocol):
    """A trained model in any engine, its state outside of it. B batch, T timesteps, U units, V vocabulary."""

    def initial_states(self, batch_size: int) -> list[Array]:
        """The states (B, U) before the first token."""

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        """tokens int32 (B,) and states -> logits float32 (B, V) and states."""

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        """tokens int32 (B, T) and states -> logits float32 (B, T, V) and states."""


class KerasStepper:
    """A `SequenceModel`, compiled once for all batches and lengths."""

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        self.model = model
        kind = model.compute_dtype
        states = [tf.TensorSpec([None, size], kind) for size in model.state_sizes]
        self._step = tf.function(model.step, input_signature=[tf.TensorSpec([None], tf.int32), states], autograph=False)
        self._sequence = tf.function(
            model,
            input_signature=[tf.TensorSpec([None, None], tf.int32), states],
            autograph=False,
        )

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.asarray(state) for state in self.model.initial_states(batch_size)]

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return _arrays(self._step(np.asarray(tokens, np.int32), list(states)))

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return _arrays(self._sequence(np.asarray(tokens, np.int32), list(states)))


def _arrays(result: Any) -> tuple[Array, list[Array]]:
    logits, states = result
    return np.asarray(logits), [np.asarray(state) for state in states]


def log_softmax(logits: Array) -> Array:
    """Logarithms of the probabilities over the last axis, in float64 where the logits are."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
