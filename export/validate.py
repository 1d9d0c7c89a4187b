"""Proof that a file is the trained model: what it declares, what it computes, and how well it predicts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from export import flatbuffer, micro, onnx_graph, quantize, runners, trainable
from export.artifact import BATCHES, MICRO, TRAINABLE, Artifact
from export.reference import CHUNKS, LENGTHS, QUALITY, STEPS, Reference, differences
from export.runners import Runner
from export.spec import SEQUENCE, STEP, Signature
from seqapp.scoring import Metrics, Scores
from seqapp.step import Array

FLOAT32 = "float32"
PERPLEXITY_TOLERANCE = 1e-3
VARIABLES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")  # state inside the file


@dataclass(frozen=True)
class Limits:
    """What a precision may lose.

    Perplexity as a fraction of the model's own, top-1 as a fraction of the targets; where there are no targets, outputs as a
    fraction of their standard deviation.
    """

    perplexity: float
    top_1: float
    outputs: float


LIMITS = {"float16": Limits(0.001, 0.001, 0.005), "dynamic": Limits(0.005, 0.002, 0.05), "int8": Limits(0.02, 0.005, 0.1)}


@dataclass(frozen=True)
class Parity:
    """How far one signature of a file is from the Keras model, in log-probabilities (or outputs) and in states."""

    signature: str
    largest_difference: float
    largest_state_difference: float


@dataclass(frozen=True)
class Loss:
    """What a file loses against Keras on the same inputs, with two standard errors of it."""

    name: str
    value: float
    uncertainty: float
    limit: float
    unit: str


@dataclass
class Verdict:
    """What validation found of one file; without failures the file may be used."""

    failures: list[str] = field(default_factory=list)
    parity: list[Parity] = field(default_factory=list)
    metrics: Metrics = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)


def validate(
    artifact: Artifact, path: Path, reference: Reference, perplexity: float | None = None, largest: int | None = None
) -> Verdict:
    """Everything that is wrong with a file, at once.

    `perplexity` is what is known of the model on all the reference's inputs; `largest` the bytes that a quantized file must
    stay below.
    """
    verdict = Verdict()
    _ = reference.tolerances  # computed outside of the try: an error of Keras's own is none of the file's
    try:
        verdict.failures += check_declaration(runners.declared(artifact.format, path), declared(artifact, reference))
        if artifact.format == "tflite":
            verdict.failures += check_operators(path, VARIABLES if artifact.profile == TRAINABLE else ())
        if artifact.profile == MICRO:
            verdict.failures += micro.check_operators(path.read_bytes())
            verdict.failures += micro.check_order(path.read_bytes(), reference.spec)
        if artifact.precision != FLOAT32:
            verdict.failures += check_size(artifact, path, largest)
        if verdict.failures:
            return verdict
        opened = micro.open_micro if artifact.profile == MICRO else runners.OPENERS[artifact.format]
        runner = opened(path, reference.spec)
        tested = [name for name in artifact.tested if name in reference.spec.signatures]
        verdict.parity = [measure(runner, reference, signature, artifact.batches) for signature in tested]
        judge = _judge_float if artifact.precision == FLOAT32 else _judge_quantized
        judge(verdict, artifact, runner, reference, perplexity)
        if artifact.profile == TRAINABLE:
            verdict.failures += trainable.check_trainable(path, reference.network, reference.spec, reference.inputs)
        if artifact.profile != MICRO:  # TFLM's kernels here say nothing of a device
            verdict.latency = latency(runner, reference, artifact)
    except Exception as error:
        # An engine's own words, when it refuses the file; the engines' exceptions have no base class but this one.
        words = str(error).strip() or type(error).__name__
        verdict.failures.append(f"the engine refuses it: {words.splitlines()[0]}")
    return verdict


def _judge_float(verdict: Verdict, artifact: Artifact, runner: Runner, reference: Reference, perplexity: float | None) -> None:
    verdict.failures += [text for found in verdict.parity for text in check_parity(found, reference)]
    if not reference.judged:
        return
    count = len(reference.inputs)
    if perplexity is None or SEQUENCE not in artifact.tested:  # step by step, all inputs would take too long
        perplexity, count = _perplexity(reference.scores), QUALITY
    scores = reference.score(runner, count)
    verdict.metrics = reference.metrics(scores)
    verdict.failures += check_perplexity(_perplexity(scores), perplexity)


def _judge_quantized(verdict: Verdict, artifact: Artifact, runner: Runner, reference: Reference, _: float | None) -> None:
    limits = LIMITS[artifact.precision]
    if not reference.judged:
        verdict.losses = [loss_of_outputs(reference, runner, limits)]
    else:
        scores = reference.score(runner, QUALITY)
        verdict.metrics = reference.metrics(scores)
        verdict.losses = losses(reference.scores, scores, limits)
    verdict.failures += [text for loss in verdict.losses for text in check_loss(loss)]


def _perplexity(scores: Scores) -> float:
    return math.exp(min(-float(scores[0].mean()), 700.0))  # a float holds no more


def declared(artifact: Artifact, reference: Reference) -> dict[str, Signature]:
    """The signatures that a file must declare."""
    if artifact.profile == TRAINABLE:
        return trainable.signatures(reference.network, reference.spec)
    if artifact.profile == MICRO:
        return micro.signatures(reference.spec)
    return {name: reference.spec.signatures[name] for name in artifact.signatures}


def check_declaration(declared: dict[str, Any], signatures: dict[str, Signature]) -> Iterator[str]:
    """Names, dtypes and shapes of what a file declares."""
    for name, signature in signatures.items():
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


def check_operators(path: Path, allowed: Collection[str] = ()) -> Iterator[str]:
    for name in flatbuffer.operators(path.read_bytes()):
        if name not in flatbuffer.BUILTIN or (name in VARIABLES and name not in allowed):
            yield f"it needs the operator {name}, which is not built into LiteRT"


def check_size(artifact: Artifact, path: Path, largest: int | None) -> Iterator[str]:
    """A quantized file that saves nothing is none."""
    size = path.stat().st_size
    if largest is not None and size >= largest:
        yield f"it has {size:,} bytes, and the file in float32 has {largest:,}: leave {artifact.precision} out"
    count = quantize.int8_tensors(path.read_bytes()) if artifact.format == "tflite" else onnx_graph.int8_tensors(path)
    if artifact.precision != "float16" and not count:
        yield f"it holds no weight in int8, since none is large enough to gain by it: leave {artifact.precision} out"


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
            cuts = (CHUNKS, *((length, STEPS) for length in LENGTHS))
            pairs = [(expected, reference.whole(runner, inputs, chunks)) for chunks in cuts]
        else:
            pairs = [_prefilled(runner, reference, inputs, expected, length) for length in LENGTHS]
        for wanted, found in pairs:
            difference, state_difference = differences(wanted, found)
            # max() may keep a number where the other is NaN: differences() has made it infinite.
            largest, largest_state = max(largest, difference), max(largest_state, state_difference)
    return Parity(signature, largest, largest_state)


def _measure_sequences(runner: Runner, reference: Reference, batches: Sequence[int]) -> Parity:
    """The largest differences of padded sequences, up to their lengths, from the same sequences alone in Keras."""
    spec, largest, largest_state = reference.spec, 0.0, 0.0
    for rows, longest in product(batches, LENGTHS):
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
    if length < STEPS:
        _, states = runner.sequence(inputs[:, length:], states)
    return (expected[0][:, length - 1], expected[1]), (reference.values(outputs), states)


def latency(runner: Runner, reference: Reference, artifact: Artifact) -> dict[str, float]:
    """Microseconds a timestep, batch 1, as called from Python: medians."""
    inputs, states = reference.samples[:1, :100], runner.initial_states(1)
    found = {}
    if not reference.spec.both_ways:
        found[STEP] = _microseconds(lambda: runner.step(inputs[:, 0], states), 200)
    if SEQUENCE in artifact.signatures:
        found[SEQUENCE] = _microseconds(lambda: runner.sequence(inputs, states), 5) / inputs.shape[1]
    return found


def _microseconds(call: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return float(np.median(found)) * 1e6


def check_parity(found: Parity, reference: Reference) -> Iterator[str]:
    of_values, of_states = reference.tolerances
    name = "log-probabilities" if reference.spec.categorical else "outputs"
    for what, value, tolerance in (
        (name, found.largest_difference, of_values),
        ("states", found.largest_state_difference, of_states),
    ):
        if not value <= tolerance:
            yield f"{found.signature}: {what} differ from Keras by {value:.2e}, and {tolerance:.2e} is allowed"


def check_perplexity(found: float, wanted: float) -> Iterator[str]:
    if not abs(found / wanted - 1) <= PERPLEXITY_TOLERANCE:
        yield f"its perplexity is {found:.4f}, the run's {wanted:.4f}"


def losses(wanted: Scores, found: Scores, limits: Limits) -> list[Loss]:
    """Perplexity and top-1, compared target by target: what changes between two files is far less than what varies in each."""
    nats, count = wanted[0] - found[0], wanted[0].size
    spread = 2 * float(nats.std()) / math.sqrt(count)
    changed = (wanted[1] < 1).astype(int) - (found[1] < 1)
    return [
        Loss("perplexity", math.expm1(float(nats.mean())), spread, limits.perplexity, "fraction"),
        Loss(
            "top_1",
            float(changed.mean()),
            2 * math.sqrt(float((changed != 0).sum())) / count,
            limits.top_1,
            "fraction of targets",
        ),
    ]


def loss_of_outputs(reference: Reference, runner: Runner, limits: Limits) -> Loss:
    """Without targets: how far the outputs are from Keras's, where one row of samples is fed step by step, or as a sequence."""
    sample = reference.samples[:1]
    one_by_one = not reference.spec.both_ways
    found, _ = reference.stepwise(runner, sample) if one_by_one else reference.whole(runner, sample, [STEPS])
    wanted = reference.expected[0][:1]
    value = float(np.sqrt(np.mean((found - wanted) ** 2)) / max(float(wanted.std()), 1e-12))
    return Loss("outputs", value, 0.0, limits.outputs, "fraction of their standard deviation")


def check_loss(loss: Loss) -> Iterator[str]:
    """Fails what is lost beyond doubt: the limit exceeded by more than two standard errors."""
    if not loss.value - loss.uncertainty <= loss.limit:
        yield f"it loses {loss.value:.4f} of {loss.name} ({loss.unit}), and {loss.limit} is allowed"
