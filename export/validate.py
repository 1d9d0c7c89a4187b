"""Proof that a file is the trained model: what it declares, what it computes, and how well it predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from export import runners
from export.spec import SEQUENCE, STEP, Spec
from export.tflite import BUILTIN, operators
from seqapp.scoring import Metrics, metrics, score
from seqapp.step import Array, KerasStepper, Stepper, log_softmax
from seqapp.vocabulary import Vocabulary

TOLERANCE = 1e-5
ROUNDING_FACTOR = 4
PERPLEXITY_TOLERANCE = 1e-3
STEPS = 1000
BATCHES = (1, 3)
LENGTHS = (1, 7, 100, STEPS)
CHUNKS = (1, 7, 100, 31, STEPS)  # uneven on purpose; the last takes what is left

FORBIDDEN = ("Flex", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")


@dataclass(frozen=True)
class Parity:
    """How far one signature of a file is from the Keras model, in log-probabilities and in states."""

    signature: str
    largest_difference: float
    largest_state_difference: float


@dataclass
class Verdict:
    """What validation found of one file; without failures the file may be used."""

    failures: list[str] = field(default_factory=list)
    parity: list[Parity] = field(default_factory=list)
    metrics: Metrics = field(default_factory=dict)


class Reference:
    """The trained Keras model on held-out text: what every file must equal.

    Its own distance from the same model in float64 says how far rounding alone carries: the tolerance is 1e-5, or four times
    that distance where the network amplifies rounding more.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, stream: Array) -> None:
        self.model, self.vocabulary, self.stream = model, vocabulary, stream
        self.spec = Spec.of(model)
        # Three rows of text that differ; a short text is repeated.
        rows = max(BATCHES)
        starts = [row * len(stream) // rows for row in range(rows)]
        self.tokens = np.stack([np.resize(np.roll(stream, -start), STEPS) for start in starts]).astype(np.int32)

    @cached_property
    def expected(self) -> tuple[Array, list[Array]]:
        """Log-probabilities (3, 1000, V) and last states of the tokens, in Keras's float32."""
        return _probabilities(KerasStepper(self.model), self.tokens, [STEPS])

    @cached_property
    def rounding(self) -> tuple[float, float]:
        """Largest distance of Keras in float32 from Keras in float64, in log-probabilities and in states."""
        return differences(self.expected, _probabilities(KerasStepper(in_float64(self.model)), self.tokens, [STEPS]))

    @property
    def tolerances(self) -> tuple[float, float]:
        logs, states = self.rounding
        return max(TOLERANCE, ROUNDING_FACTOR * logs), max(TOLERANCE, ROUNDING_FACTOR * states)


def in_float64(model: Any) -> Any:
    """A copy of a `SequenceModel` that computes in float64."""
    before = keras.config.dtype_policy()
    # Layers that a cell makes for itself follow the global policy.
    keras.config.set_dtype_policy("float64")
    try:
        copy = type(model).from_config(_with_dtype(model.get_config(), "float64"))
    finally:
        keras.config.set_dtype_policy(before)
    copy.set_weights(model.get_weights())
    return copy


def _with_dtype(config: Any, dtype: str) -> Any:
    """A configuration with each `dtype` in it, at any depth, replaced."""
    if isinstance(config, dict):
        return {key: dtype if key == "dtype" else _with_dtype(value, dtype) for key, value in config.items()}
    return [_with_dtype(value, dtype) for value in config] if isinstance(config, (list, tuple)) else config


def validate(format: str, path: Path, reference: Reference, perplexity: float) -> Verdict:
    """Everything that is wrong with a file, at once. `perplexity` is the run's own on the held-out stream."""
    verdict = Verdict()
    _ = reference.tolerances  # computed outside of the try: an error of Keras's own is none of the file's
    try:
        verdict.failures += check_declaration(runners.declared(format, path), reference.spec, whole=format != "onnx")
        if format == "tflite":
            verdict.failures += check_operators(path)
        if verdict.failures:
            return verdict
        runner = runners.OPENERS[format](path, reference.spec)
        verdict.parity = [measure(runner, reference, signature) for signature in (STEP, SEQUENCE)]
        verdict.failures += [text for found in verdict.parity for text in check_parity(found, reference)]
        logs, ranks = score(runner, reference.stream, reference.vocabulary.end_number)
        verdict.metrics = metrics(logs, ranks, reference.vocabulary.unit)
        verdict.failures += check_perplexity(verdict.metrics["perplexity"]["value"], perplexity)
    except Exception as error:
        # An engine's own words, when it refuses the file; the engines' exceptions have no base class but this one.
        words = str(error).strip() or type(error).__name__
        verdict.failures.append(f"the engine refuses it: {words.splitlines()[0]}")
    return verdict


def check_declaration(declared: dict[str, Any], spec: Spec, whole: bool) -> Iterator[str]:
    """Names, dtypes and shapes of each signature against the spec."""
    for name, signature in spec.signatures.items():
        if name == STEP and not whole:
            continue
        if name not in declared:
            yield f"there is no signature {name}"
            continue
        for side in ("inputs", "outputs"):
            wanted = {
                t.name: (t.dtype, [-1 if isinstance(axis, str) else axis for axis in t.shape]) for t in getattr(signature, side)
            }
            found = {t["name"]: (t["dtype"], t["shape"]) for t in declared[name][side]}
            for tensor in sorted(wanted.keys() | found.keys()):
                if wanted.get(tensor) != found.get(tensor):
                    yield f"{name}: {tensor} should be {wanted.get(tensor)}, is {found.get(tensor)}"


def check_operators(path: Path) -> Iterator[str]:
    for name in operators(path.read_bytes()):
        if name.startswith(FORBIDDEN) or name not in BUILTIN:
            yield f"it needs the operator {name}, which is not built into LiteRT"


def measure(runner: Stepper, reference: Reference, signature: str) -> Parity:
    """The largest differences over batches of 1 and 3, from the zero state, of 1,000 timesteps and the states after them.

    `step` runs one by one; `sequence` in uneven chunks, and as each length followed by the rest.
    """
    logs, states = reference.expected
    cuts = [(length, STEPS) for length in LENGTHS]
    largest, largest_state = 0.0, 0.0
    for rows in BATCHES:
        tokens, expected = reference.tokens[:rows], (logs[:rows], [state[:rows] for state in states])
        if signature == STEP:
            found = [_stepwise(runner, tokens)]
        else:
            found = [_probabilities(runner, tokens, chunks) for chunks in (CHUNKS, *cuts)]
        for pair in found:
            difference, state_difference = differences(expected, pair)
            # max() may keep a number where the other is NaN: differences() has made it infinite.
            largest, largest_state = max(largest, difference), max(largest_state, state_difference)
    return Parity(signature, largest, largest_state)


def check_parity(found: Parity, reference: Reference) -> Iterator[str]:
    of_logs, of_states = reference.tolerances
    for name, value, tolerance in (
        ("log-probabilities", found.largest_difference, of_logs),
        ("states", found.largest_state_difference, of_states),
    ):
        if not value <= tolerance:
            yield f"{found.signature}: {name} differ from Keras by {value:.2e}, and {tolerance:.2e} is allowed"


def check_perplexity(found: float, wanted: float) -> Iterator[str]:
    if not abs(found / wanted - 1) <= PERPLEXITY_TOLERANCE:
        yield f"its perplexity is {found:.4f}, the run's {wanted:.4f}"


def differences(a: tuple[Array, list[Array]], b: tuple[Array, list[Array]]) -> tuple[float, float]:
    """Largest absolute differences of log-probabilities and of states; infinite where one is not a number."""
    return _largest(a[0], b[0]), max(_largest(x, y) for x, y in zip(a[1], b[1], strict=True))


def _largest(a: Array, b: Array) -> float:
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a.astype(np.float64) - b).max())


def _probabilities(model: Stepper, tokens: Array, chunks: Sequence[int]) -> tuple[Array, list[Array]]:
    """Log-probabilities (B, T, V) and last states, from the zero state, chunk by chunk."""
    states, parts, first = model.initial_states(len(tokens)), [], 0
    for size in chunks:
        part = tokens[:, first : first + size]
        if part.size:
            logits, states = model.sequence(part, states)
            parts.append(log_softmax(logits.astype(np.float64)))
            first += part.shape[1]
    return np.concatenate(parts, axis=1), states


def _stepwise(model: Stepper, tokens: Array) -> tuple[Array, list[Array]]:
    states, parts = model.initial_states(len(tokens)), []
    for column in tokens.T:
        logits, states = model.step(column, states)
        parts.append(log_softmax(logits.astype(np.float64)))
    return np.stack(parts, axis=1), states
