"""The trained Keras model on real inputs: what every file must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from export import keras_model
from export.artifact import BATCHES
from export.network import Network
from export.spec import Spec
from seqapp.errors import UsageError
from seqapp.scoring import Scores, score_targets
from seqapp.step import Array, KerasStepper, Stepper, log_softmax

TOLERANCE = 1e-5
ROUNDING_FACTOR = 4
STEPS = 1000
LENGTHS = (1, 7, 100, STEPS)
CHUNKS = (1, 7, 100, 31, STEPS)  # uneven on purpose; the last takes what is left
QUALITY = 20_000  # timesteps that quantized files are judged on


class Reference:
    """A network and what it gives for `inputs`, tokens (N,) or features (N, F) in their order, and `targets` (N,), if any.

    Its own distance from the same model in float64 says how far rounding alone carries: the tolerance is 1e-5, or four times
    that distance where the network amplifies rounding more.
    """

    def __init__(self, network: Network, inputs: Array, targets: Array | None = None, unit: str = "word") -> None:
        self.network, self.spec = network, Spec.of(network)
        self.inputs, self.targets, self.unit = np.asarray(inputs, self.spec.input_dtype), targets, unit
        # Three rows of the data that differ; short data are repeated.
        rows, count = max(BATCHES), len(inputs)
        picks = [np.arange(row * count // rows, row * count // rows + STEPS) % count for row in range(rows)]
        self.samples = np.stack([self.inputs[pick] for pick in picks])

    @cached_property
    def keras(self) -> Stepper:
        return KerasStepper(self.network, self.spec.features)

    @cached_property
    def expected(self) -> tuple[Array, list[Array]]:
        """Values (3, 1000, V), of logits their log-probabilities, and last states of the samples, in Keras's float32."""
        return self.whole(self.keras, self.samples, [STEPS])

    @cached_property
    def rounding(self) -> tuple[float, float]:
        """Largest distance of Keras in float32 from Keras in float64, in values and in states."""
        in_float64 = KerasStepper(self.network.in_float64(), self.spec.features)
        return differences(self.expected, self.whole(in_float64, self.samples, [STEPS]))

    @property
    def tolerances(self) -> tuple[float, float]:
        values, states = self.rounding
        return max(TOLERANCE, ROUNDING_FACTOR * values), max(TOLERANCE, ROUNDING_FACTOR * states)

    @cached_property
    def scores(self) -> Scores:
        """Log-probability and rank of the first targets, by Keras."""
        return self.score(self.keras, QUALITY)

    def score(self, model: Stepper, count: int) -> Scores:
        if self.targets is None:
            raise ValueError("there are no targets to score")
        logs, ranks = score_targets(model, self.inputs[None, :count], self.targets[None, :count])
        return logs[0], ranks[0]

    def values(self, outputs: Array) -> Array:
        """What is compared: log-probabilities of logits, anything else as it is."""
        outputs = outputs.astype(np.float64)
        return log_softmax(outputs) if self.spec.output.endswith("logits") else outputs

    def whole(self, model: Stepper, inputs: Array, chunks: Sequence[int]) -> tuple[Array, list[Array]]:
        """Values (B, T, V) and last states, from the initial states, chunk by chunk."""
        states, parts, first = model.initial_states(len(inputs)), [], 0
        for size in chunks:
            part = inputs[:, first : first + size]
            if part.size:
                outputs, states = model.sequence(part, states)
                parts.append(self.values(outputs))
                first += part.shape[1]
        return np.concatenate(parts, axis=1), states

    def stepwise(self, model: Stepper, inputs: Array) -> tuple[Array, list[Array]]:
        states, parts = model.initial_states(len(inputs)), []
        for now in np.swapaxes(inputs, 0, 1):
            outputs, states = model.step(now, states)
            parts.append(self.values(outputs))
        return np.stack(parts, axis=1), states

    def check_chain(self) -> None:
        """Refuses a model that computes anything else than the chain of stages it was read as.

        Raises:
            UsageError: the two differ.
        """
        length = keras_model.fixed_length(self.network.model) or LENGTHS[2]
        inputs = self.samples[:1, np.arange(length) % STEPS]
        found = keras_model.output(self.network.model, inputs)
        wanted = self.whole(self.keras, inputs, [length])[0]
        wanted = wanted[:, -1] if self.network.last_only else wanted
        if self.network.softmax_left_out:
            wanted = np.exp(wanted)
        elif self.spec.output.endswith("logits"):
            found = self.values(found)
        difference = _largest(found, wanted)
        if not difference <= max(1e-4, self.tolerances[0]):
            raise UsageError(
                f"The model computes something else than its layers do one after the other (difference {difference:.1e}): "
                "a layer of it is no function of its own timestep."
            )


def differences(a: tuple[Array, list[Array]], b: tuple[Array, list[Array]]) -> tuple[float, float]:
    """Largest absolute differences of values and of states; infinite where one is not a number."""
    return _largest(a[0], b[0]), max(_largest(x, y) for x, y in zip(a[1], b[1], strict=True))


def _largest(a: Array, b: Array) -> float:
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a.astype(np.float64) - b).max())
