"""Proof that a file is the trained model: what it declares, what it computes, and how well it predicts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export import flatbuffer, micro, onnx_graph, runners, trainable
from export.artifact import MICRO, TRAINABLE, Artifact
from export.parity import Parity
from export.reference import QUALITY, Reference
from export.runners import Runner
from export.spec import ENCODE, SEQUENCE, Signature
from export.translation_reference import TranslationReference
from seqapp.scoring import Metrics, Scores

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


AnyReference = Reference | TranslationReference


def validate(
    artifact: Artifact, path: Path, reference: AnyReference, perplexity: float | None = None, largest: int | None = None
) -> Verdict:
    """Everything that is wrong with a file, at once.

    `perplexity` is what is known of the model on all the reference's inputs; `largest` the bytes that a quantized file must
    stay below.
    """
    verdict = Verdict()
    runner: Any  # of the reference's own kind
    _ = reference.rounding  # computed outside of the try: an error of Keras's own is none of the file's
    try:
        verdict.failures += check_declaration(runners.declared(artifact.format, path), declared(artifact, reference))
        if artifact.format == "tflite":
            verdict.failures += check_operators(path, VARIABLES if artifact.profile == TRAINABLE else ())
        if artifact.profile == MICRO and isinstance(reference, Reference):
            verdict.failures += micro.check_operators(path.read_bytes())
            verdict.failures += micro.check_order(path.read_bytes(), reference.spec)
        if artifact.precision != FLOAT32:
            verdict.failures += check_size(artifact, path, largest)
        if verdict.failures:
            return verdict
        runner = reference.opened(artifact, path)
        tested = [name for name in artifact.tested if name in reference.spec.signatures]
        verdict.parity = [reference.measured(runner, signature, artifact.batches) for signature in tested]
        judge = _judge_float if artifact.precision == FLOAT32 else _judge_quantized
        judge(verdict, artifact, runner, reference, perplexity)
        if isinstance(reference, TranslationReference):
            _judge_translations(verdict, artifact, runner, reference)
        if artifact.profile == TRAINABLE and isinstance(reference, Reference):
            verdict.failures += trainable.check_trainable(path, reference.network, reference.spec, reference.inputs)
        if artifact.profile != MICRO:  # TFLM's kernels here say nothing of a device
            verdict.latency = reference.latency(runner, artifact)
    except Exception as error:
        # An engine's own words, when it refuses the file; the engines' exceptions have no base class but this one.
        words = str(error).strip() or type(error).__name__
        verdict.failures.append(f"the engine refuses it: {words.splitlines()[0]}")
    return verdict


def _judge_float(verdict: Verdict, artifact: Artifact, runner: Any, reference: AnyReference, perplexity: float | None) -> None:
    verdict.failures += [text for found in verdict.parity for text in check_parity(found, reference)]
    if not reference.judged:
        return
    if isinstance(reference, Reference) and perplexity is not None and SEQUENCE in artifact.tested:
        count = len(reference.inputs)
    else:  # step by step, all inputs would take too long
        perplexity, count = _perplexity(reference.scores), QUALITY
    scores = reference.score(runner, count)
    verdict.metrics = reference.metrics(scores)
    verdict.failures += check_perplexity(_perplexity(scores), perplexity)


def _judge_quantized(verdict: Verdict, artifact: Artifact, runner: Any, reference: AnyReference, _: float | None) -> None:
    limits = LIMITS[artifact.precision]
    if isinstance(reference, Reference) and not reference.judged:
        verdict.losses = [loss_of_outputs(reference, runner, limits)]
    else:
        scores = reference.score(runner, QUALITY)
        verdict.metrics = reference.metrics(scores)
        verdict.losses = losses(reference.scores, scores, limits)
    verdict.failures += [text for loss in verdict.losses for text in check_loss(loss)]


def _judge_translations(verdict: Verdict, artifact: Artifact, runner: Any, reference: TranslationReference) -> None:
    """Searches some translations: those of a file in float32 must be Keras's."""
    same, count = reference.compared(runner)
    verdict.metrics["translated_as_keras"] = {"value": same / count, "unit": "fraction", "count": count}
    if artifact.precision == FLOAT32 and same < count:
        verdict.failures.append(f"it translates {count - same} of {count} sources otherwise than Keras")


def _perplexity(scores: Scores) -> float:
    return math.exp(min(-float(scores[0].mean()), 700.0))  # a float holds no more


def declared(artifact: Artifact, reference: AnyReference) -> dict[str, Signature]:
    """The signatures that a file must declare."""
    if isinstance(reference, TranslationReference):
        return {name: reference.spec.signatures[name] for name in artifact.signatures}
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
    count = flatbuffer.int8_tensors(path.read_bytes()) if artifact.format == "tflite" else onnx_graph.int8_tensors(path)
    if artifact.precision != "float16" and not count:
        yield f"it holds no weight in int8, since none is large enough to gain by it: leave {artifact.precision} out"


def check_parity(found: Parity, reference: AnyReference) -> Iterator[str]:
    of_values, of_states = reference.tolerances_of(found.signature)
    name = "log-probabilities" if reference.spec.categorical and found.signature != ENCODE else "outputs"
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
    found, _ = reference.stepwise(runner, sample) if one_by_one else reference.whole(runner, sample, [sample.shape[1]])
    wanted = reference.expected[0][:1]
    value = float(np.sqrt(np.mean((found - wanted) ** 2)) / max(float(wanted.std()), 1e-12))
    return Loss("outputs", value, 0.0, limits.outputs, "fraction of their standard deviation")


def check_loss(loss: Loss) -> Iterator[str]:
    """Fails what is lost beyond doubt: the limit exceeded by more than two standard errors."""
    if not loss.value - loss.uncertainty <= loss.limit:
        yield f"it loses {loss.value:.4f} of {loss.name} ({loss.unit}), and {loss.limit} is allowed"
