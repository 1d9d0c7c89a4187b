"""The trained Keras model on real inputs: what every file must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export import keras_model, micro, parity
from export.artifact import BATCHES, MICRO, Artifact
from export.network import Network
from export.parity import Parity, differences, largest_difference
from export.runners import OPENERS, Runner
from export.spec import Spec
from export.stages import Recurrent
from seqapp.classify import SCORED, log_probabilities
from seqapp.errors import UsageError
from seqapp.scoring import Metrics, Scores, metrics, of_token, score_targets
from seqapp.sequences import Sequences
from seqapp.step import Array, KerasStepper, Stepper, log_softmax

TOLERANCE = 1e-5
ROUNDING_FACTOR = 4
QUALITY = 20_000  # timesteps that quantized files are judged on


@dataclass(frozen=True)
class Judge:
    """How outputs (B, T, V) are measured by targets (B, T, ...).

    Attributes:
        likelihood: outputs and targets -> the log-probability of each target (B, T), and its rank, 0 for the likeliest.
        metrics: log-probabilities (N,) and ranks (N,) -> figures.
    """

    likelihood: Callable[[Array, Array], Scores]
    metrics: Callable[[Array, Array], Metrics]

    @classmethod
    def of_tokens(cls, unit: str) -> Judge:
        return cls(of_token, partial(metrics, unit=unit))

    @classmethod
    def of_timesteps(cls, name: str, likelihood: Callable[[Array, Array], Scores]) -> Judge:
        """Of timesteps that are called `name` and hold several choices, right where all of them are."""

        def figures(logs: Array, ranks: Array) -> Metrics:
            return {
                f"nats_per_{name}": {"value": -float(logs.mean()), "unit": "nats", "count": len(logs)},
                f"{name}s_right": {"value": float((ranks < 1).mean()), "unit": "fraction", "count": len(logs)},
            }

        return cls(likelihood, figures)


WORDS = Judge.of_tokens("word")


class Reference:
    """A network and what it gives for `inputs`, tokens (N,) or features (N, F) in their order, and `targets` (N, ...), if any,
    measured by `judge`; or for `examples`, whole sequences with the numbers of their classes.

    Its own distance from the same model in float64 says how far rounding alone carries: the tolerance is 1e-5, or four times
    that distance where the network amplifies rounding more.
    """

    def __init__(
        self,
        network: Network,
        inputs: Array,
        targets: Array | None = None,
        judge: Judge = WORDS,
        examples: Sequences | None = None,
    ) -> None:
        self.network, self.spec = network, Spec.of(network)
        self.inputs, self.targets, self.judge = np.asarray(inputs, self.spec.input_dtype), targets, judge
        self.examples = examples
        self.lengths = parity.LENGTHS
        # Three rows of the data that differ; short data are repeated.
        rows, count = max(BATCHES), len(inputs)
        picks = [np.arange(row * count // rows, row * count // rows + self.lengths[-1]) % count for row in range(rows)]
        self.samples = np.stack([self.inputs[pick] for pick in picks])

    @cached_property
    def keras(self) -> Stepper:
        return _stepper(self.network, self.spec)

    @cached_property
    def expected(self) -> tuple[Array, list[Array]]:
        """Values (3, 1000, V), of logits their log-probabilities, and last states of the samples, in Keras's float32."""
        return self.whole(self.keras, self.samples, self.lengths[-1:])

    @cached_property
    def rounding(self) -> tuple[float, float]:
        """Largest distance of Keras in float32 from Keras in float64, in values and in states."""
        in_float64 = _stepper(self.network.in_float64(), self.spec)
        return differences(self.expected, self.whole(in_float64, self.samples, self.lengths[-1:]))

    @property
    def tolerances(self) -> tuple[float, float]:
        values, states = self.rounding
        # Outputs that are no log-probabilities have a size of their own, and float32 rounds in proportion to it.
        size = 1.0 if self.spec.categorical else max(1.0, float(np.sqrt(np.mean(self.expected[0] ** 2))))
        return max(TOLERANCE * size, ROUNDING_FACTOR * values), max(TOLERANCE, ROUNDING_FACTOR * states)

    def tolerances_of(self, signature: str) -> tuple[float, float]:
        """What a signature may differ by, the same for all."""
        return self.tolerances

    @cached_property
    def scores(self) -> Scores:
        """Log-probability and rank of the first targets, or of those of the first examples, by Keras."""
        return self.score(self.keras, QUALITY)

    @property
    def judged(self) -> bool:
        """Whether there is something to be right about."""
        return self.targets is not None or self.examples is not None

    def metrics(self, scores: Scores) -> Metrics:
        if self.examples is None:
            return self.judge.metrics(*scores)
        logs, ranks = scores
        return {
            "accuracy": {"value": float((ranks < 1).mean()), "unit": "fraction", "count": len(logs)},
            "nats_per_label": {"value": -float(logs.mean()), "unit": "nats", "count": len(logs)},
        }

    def _score_examples(self, model: Stepper, count: int) -> Scores:
        """Of the first examples, which have about so many timesteps."""
        assert self.examples is not None
        some, size = self.examples.first(count), getattr(model, "largest_batch", SCORED)
        rows = [np.atleast_2d(row) for row in log_probabilities(partial(self.classified, model), some, size)]
        logs, labels = np.concatenate(rows), np.concatenate([np.atleast_1d(label) for label in some.labels])
        own = np.take_along_axis(logs, labels[:, None], 1)
        return own[:, 0], (~(logs <= own)).sum(-1)

    def classified(self, model: Stepper, x: Array, lengths: Array) -> Array:
        """The output (B, V) of padded sequences, or (B, T, V) where there is one for each timestep."""
        if hasattr(model, "sequences"):
            return model.sequences(x, lengths)
        y, _ = model.sequence(x, model.initial_states(len(x)))
        return y[np.arange(len(x)), lengths - 1] if self.spec.last_only else y

    def score(self, model: Stepper, count: int) -> Scores:
        if self.examples is not None:
            return self._score_examples(model, count)
        if self.targets is None:
            raise ValueError("there are no targets to score")
        given, wanted = self.inputs[None, :count], self.targets[None, :count]
        logs, ranks = score_targets(model, given, wanted, self.judge.likelihood)
        return logs[0], ranks[0]

    def values(self, outputs: Array) -> Array:
        """What is compared: log-probabilities of logits, anything else as it is."""
        outputs = outputs.astype(np.float64)
        return np.concatenate([*map(log_softmax, self.spec.cut(outputs))], -1) if self.spec.categorical else outputs

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

    def opened(self, artifact: Artifact, path: Path) -> Runner:
        """A file at work."""
        return micro.open_micro(path, self.spec) if artifact.profile == MICRO else OPENERS[artifact.format](path, self.spec)

    def measured(self, runner: Runner, signature: str, batches: Sequence[int]) -> Parity:
        """How far a signature of a file is from Keras."""
        return parity.measure(runner, self, signature, batches)

    def lengths_of(self, signature: str) -> list[int]:
        """How many timesteps a signature was compared over."""
        return list(self.lengths)

    def latency(self, runner: Runner, artifact: Artifact) -> dict[str, float]:
        """Microseconds a timestep."""
        return parity.latency(runner, self, artifact)

    def check_chain(self) -> None:
        """Refuses a model that computes anything else than the chain of stages it was read as.

        Raises:
            UsageError: the two differ.
        """
        length = keras_model.fixed_length(self.network.model) or self.lengths[2]
        inputs = self.samples[:1, np.arange(length) % self.samples.shape[1]]
        found = keras_model.output(self.network.model, inputs)
        wanted = self.whole(self.keras, inputs, [length])[0]
        wanted = wanted[:, -1] if self.network.last_only and not self.spec.both_ways else wanted
        if self.network.softmax_left_out:
            wanted = np.exp(wanted)
        elif self.spec.categorical:
            found = self.values(found)
        difference = largest_difference(found, wanted)
        if not difference <= max(1e-4, self.tolerances[0]):
            raise UsageError(
                f"The model computes something else than its layers do one after the other (difference {difference:.1e}): "
                "a layer of it is no function of its own timestep."
            )


def _stepper(network: Network, spec: Spec) -> Stepper:
    return KerasSequences(network, spec.features) if spec.both_ways else KerasStepper(network, spec.features)


class KerasSequences:
    """A network that reads both ways, in Keras, as a stepper without states: each call of `sequence` takes whole sequences."""

    def __init__(self, network: Network, features: int | None) -> None:
        self.kind = "int32" if features is None else network.compute_dtype

        def sequences(x: Any, lengths: Any) -> Any:
            return network.finish(network.sequences(Recurrent.whole, x, lengths))

        shape = [None, None] if features is None else [None, None, features]
        specs = [tf.TensorSpec(shape, self.kind), tf.TensorSpec([None], "int32")]
        self._sequences = tf.function(sequences, input_signature=specs, autograph=False)

    def initial_states(self, batch_size: int) -> list[Array]:
        return []

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        raise TypeError("a network that reads both ways has no step")

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return self.sequences(tokens, np.full(len(tokens), tokens.shape[1])), []

    def sequences(self, tokens: Array, lengths: Array) -> Array:
        return np.asarray(self._sequences(np.asarray(tokens, self.kind), np.asarray(lengths, np.int32)))
