"""The one contract that decoding, evaluation and export share: tokens and states in, logits and states out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqapp import backend

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
    """A `SequenceModel`, or what has its methods, compiled once for all batches and lengths.

    It takes tokens, or with `features` F float inputs (B, F) and (B, T, F).
    """

    def __init__(self, model: Any, features: int | None = None) -> None:
        from keras import KerasTensor

        self.model = model
        self.kind = "int32" if features is None else model.compute_dtype
        inner = () if features is None else (features,)
        states = [KerasTensor([None, size], model.compute_dtype) for size in model.state_sizes]
        self._step = backend.compiled(model, model.step, KerasTensor([None, *inner], self.kind), states)
        self._sequence = backend.compiled(model, model, KerasTensor([None, None, *inner], self.kind), states)

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.asarray(state) for state in self.model.initial_states(batch_size)]

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return _arrays(self._step(np.asarray(tokens, self.kind), list(states)))

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return _arrays(self._sequence(np.asarray(tokens, self.kind), list(states)))


def compiled(model: Any) -> Callable[[Array], Array]:
    """A Keras model of features (B, T, F), from its first states on, as a function that is traced once for all batches and
    lengths: outputs (B, T, V).
    """
    from keras import KerasTensor

    x = KerasTensor([None, None, model.input_shape[-1]], "float32")
    traced = backend.compiled(model, lambda x: model(x, training=False), x)
    return lambda x: np.asarray(traced(x))


def _arrays(result: Any) -> tuple[Array, list[Array]]:
    logits, states = result
    return np.asarray(logits), [np.asarray(state) for state in states]


def log_softmax(logits: Array) -> Array:
    """Logarithms of the probabilities over the last axis, in float64 where the logits are."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
