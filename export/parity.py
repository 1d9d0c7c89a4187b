"""How far a file is from the Keras model: each signature, over several batch sizes and lengths."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from export.artifact import BATCHES, Artifact
from export.runners import Runner
from export.spec import SEQUENCE, STEP
from seqapp.step import Array

if TYPE_CHECKING:
    from export.reference import Reference

LENGTHS = (1, 7, 100, 1000)  # timesteps; the last is all that is compared
CHUNKS = (1, 7, 100, 31, 1000)  # uneven on purpose; the last takes what is left


@dataclass(frozen=True)
class Parity:
    """How far one signature of a file is from the Keras model, in log-probabilities (or outputs) and in states."""

    signature: str
    largest_difference: float
    largest_state_difference: float


def measure(runner: Runner, reference: Reference, signature: str, batches: Sequence[int] = BATCHES) -> Parity:
    """The largest differences over batches, from the initial states, of 1,000 timesteps and the states after them.

    `step` runs one by one; `sequence` in uneven chunks, and as each length followed by the rest; `prefill` as each length. A
    file that reads both ways runs whole sequences of each length, beside shorter ones.
    """
    if signature == SEQUENCE and reference.spec.takes_lengths:
        return _measure_sequences(runner, reference, batches)
    values, states = reference.expected
    largest, largest_state = 0.0, 0.0
    for rows in batches:
        inputs, expected = reference.samples[:rows], (values[:rows], [state[:rows] for state in states])
        if signature == STEP:
            pairs = [(expected, reference.stepwise(runner, inputs))]
        elif signature == SEQUENCE:
            cuts = (CHUNKS, *((length, reference.lengths[-1]) for length in reference.lengths))
            pairs = [(expected, reference.whole(runner, inputs, chunks)) for chunks in cuts]
        else:
            pairs = [_prefilled(runner, reference, inputs, expected, length) for length in reference.lengths]
        for wanted, found in pairs:
            difference, state_difference = differences(wanted, found)
            # max() may keep a number where the other is NaN: differences() has made it infinite.
            largest, largest_state = max(largest, difference), max(largest_state, state_difference)
    return Parity(signature, largest, largest_state)


def _measure_sequences(runner: Runner, reference: Reference, batches: Sequence[int]) -> Parity:
    """The largest differences of padded sequences, up to their lengths, from the same sequences alone in Keras."""
    spec, largest, largest_state = reference.spec, 0.0, 0.0
    for rows, longest in product(batches, reference.lengths):
        inputs, lengths = reference.samples[:rows, :longest], [longest, (longest + 1) // 2, 1][:rows]
        outputs, states = runner.sequence(inputs, runner.initial_states(rows), np.array(lengths))
        found = reference.values(outputs)
        for row, length in enumerate(lengths):
            values, wanted = reference.whole(reference.keras, inputs[row : row + 1, :length], [length])
            mine = found[row] if spec.last_only else found[row, :length]
            # Keras gives an output for each timestep, but for a network that reads both ways.
            value = values[0, -1] if spec.last_only and not spec.both_ways else values[0]
            difference, state_difference = differences((value, wanted), (mine, [s[row : row + 1] for s in states]))
            largest, largest_state = max(largest, difference), max(largest_state, state_difference)
    return Parity(SEQUENCE, *map(max, zip((largest, largest_state), _in_chunks(runner, reference), strict=True)))


def _in_chunks(runner: Runner, reference: Reference) -> tuple[float, float]:
    """The largest differences at the ends of uneven chunks of one stream, whose states are carried on."""
    if reference.spec.both_ways:
        return 0.0, 0.0
    inputs, states, end, largest = reference.samples[:1], runner.initial_states(1), 0, 0.0
    for size in CHUNKS:
        part = inputs[:, end : end + size]
        if not part.size:
            break
        outputs, states = runner.sequence(part, states)
        end += part.shape[1]
        wanted = reference.expected[0][:1, end - 1]
        largest = max(largest, differences((wanted, []), (reference.values(outputs), []))[0])
    _, state_difference = differences((wanted, [s[:1] for s in reference.expected[1]]), (wanted, states))
    return largest, state_difference


Values = tuple[Array, list[Array]]


def _prefilled(runner: Runner, reference: Reference, inputs: Array, expected: Values, length: int) -> tuple[Values, Values]:
    """Values of the timestep that ends a prefill, and the states after a sequence of the rest: signatures that take turns."""
    outputs, states = runner.prefill(inputs[:, :length], runner.initial_states(len(inputs)))
    if length < reference.lengths[-1]:
        _, states = runner.sequence(inputs[:, length:], states)
    return (expected[0][:, length - 1], expected[1]), (reference.values(outputs), states)


def latency(runner: Runner, reference: Reference, artifact: Artifact) -> dict[str, float]:
    """Microseconds a timestep, batch 1, as called from Python: medians."""
    inputs, states = reference.samples[:1, :100], runner.initial_states(1)
    found = {}
    if not reference.spec.both_ways:
        found[STEP] = microseconds(lambda: runner.step(inputs[:, 0], states), 200)
    if SEQUENCE in artifact.signatures:
        found[SEQUENCE] = microseconds(lambda: runner.sequence(inputs, states), 5) / inputs.shape[1]
    return found


def microseconds(call: Callable[[], object], times: int) -> float:
    """The median of some calls."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return float(np.median(found)) * 1e6


def differences(a: tuple[Array, list[Array]], b: tuple[Array, list[Array]]) -> tuple[float, float]:
    """Largest absolute differences of values and of states; infinite where one is not a number."""
    return largest_difference(a[0], b[0]), max((largest_difference(x, y) for x, y in zip(a[1], b[1], strict=True)), default=0.0)


def largest_difference(a: Array, b: Array) -> float:
    """Infinite where one is not a number, or the shapes differ."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a.astype(np.float64) - b).max())
