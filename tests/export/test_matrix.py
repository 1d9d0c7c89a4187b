"""The matrix: every cell, one layer and two, tokens and features, in every file, against the model in Keras and in NumPy.

The ordinary run takes a part of it in which each pair of choices occurs. The whole: pytest -m matrix -rP
"""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import export
from seqapp.step import Array, log_softmax
from tests.export.engines import Signature, opened, operators, stored
from tests.export.members import FEATURES, KINDS, TOKENS, UNBOUNDED, Member, cells_of
from tests.export.oracle import Expected, stepped

PRECISIONS = {
    "saved_model": "float32",
    "model.tflite": "float32",
    "model.dynamic.tflite": "dynamic",
    "model.float16.tflite": "float16",
    "model.int8.tflite": "int8",
    "model.onnx": "float32",
    "model.int8.onnx": "int8",
}
FILES = {
    "saved_model": ["saved_model"],
    "tflite": [name for name in PRECISIONS if name.endswith("tflite")],
    "onnx": [name for name in PRECISIONS if name.endswith("onnx")],
}
Row = tuple[str, int, str, tuple[str, ...]]
TFLITE, OTHERS = ("tflite",), ("onnx", "saved_model")
PAIRWISE: list[Row] = [
    ("own", 1, FEATURES, OTHERS),
    ("own", 2, TOKENS, TFLITE),
    ("lstm", 1, TOKENS, OTHERS),
    ("lstm", 2, FEATURES, TFLITE),
    ("lstm remedied", 1, FEATURES, OTHERS),
    ("lstm remedied", 2, TOKENS, TFLITE),
    ("gru", 1, FEATURES, OTHERS),
    ("gru", 2, TOKENS, TFLITE),
    ("cifg", 1, TOKENS, TFLITE),
    ("cifg", 2, FEATURES, OTHERS),
    ("plain tanh", 1, TOKENS, TFLITE),
    ("plain tanh", 2, FEATURES, OTHERS),
    ("plain relu", 1, FEATURES, TFLITE),
    ("plain relu", 2, TOKENS, OTHERS),
]
LAYERS, INPUTS = (1, 2), (TOKENS, FEATURES)

ROWS = 3
LARGE = 10.0  # a state beyond it shows a clipped cell
SIZES = {"float32": 1.02, "float16": 0.52, "dynamic": 0.27, "int8": 0.27}  # of 4 bytes a parameter, from a million of them on
# What may be lost: perplexity as a fraction, and the probability of the first choice.
LOSSES = {"float16": (0.001, 0.001), "dynamic": (0.005, 0.002), "int8": (0.02, 0.005)}
SMALLEST = 1024  # elements; a smaller weight may stay as it is
NATIVE = {
    "plain tanh": "RNN", "plain relu": "RNN", "lstm": "LSTM", "lstm remedied": "Scan", "gru": "GRU", "cifg": "LSTM",
    "own": "Scan",
}  # fmt: skip
LOOPS = {"RNN", "LSTM", "GRU", "Scan", "Loop", "If"}
FORBIDDEN = {"CUSTOM", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}


def test_each_pair_of_choices_occurs() -> None:
    tested = [(kind, layers, inputs, file) for kind, layers, inputs, formats in PAIRWISE for f in formats for file in FILES[f]]
    choices = (KINDS, LAYERS, INPUTS, tuple(PRECISIONS))
    for one, other in combinations(range(len(choices)), 2):
        assert {(row[one], row[other]) for row in tested} == set(product(choices[one], choices[other]))


@pytest.mark.parametrize("row", PAIRWISE, ids=lambda row: "-".join(map(str, row[:3])))
def test_pairwise(row: Row, tmp_path: Path) -> None:
    print(check(Member(*row[:3]), row[3], 1000, 100, tmp_path / "bundle"))


@pytest.mark.matrix
@pytest.mark.parametrize(("kind", "layers", "inputs"), list(product(KINDS, LAYERS, INPUTS)))
def test_matrix(kind: str, layers: int, inputs: str, tmp_path: Path) -> None:
    large = layers == 1 and inputs == TOKENS
    print(check(Member(kind, layers, inputs, large), tuple(FILES), 10_000, 1000, tmp_path / "bundle"))


def check(member: Member, formats: tuple[str, ...], judged: int, steps: int, bundle: Path) -> str:
    """Exports a model, judged on some timesteps, and holds each file against what it should be on others; tells in a table."""
    model = member.build()
    inputs, names = member.samples(1, judged), [name for name in PRECISIONS if any(name in FILES[f] for f in formats)]
    quantize = sorted({PRECISIONS[name] for name in names} - {"float32"})
    export.convert(
        model, bundle, formats=formats, quantize=quantize, inputs=inputs, targets=drawn(model, inputs), output="logits"
    )
    expected, table = expectation(member, model, steps), []
    for name in names:
        path, precision = bundle / name, PRECISIONS[name]
        ratio = check_content(path, precision, member, model.count_params())
        found = opened(path)
        values = check_float(found, expected) if precision == "float32" else check_quantized(found, expected, precision)
        table.append(f"{member.kind:14}{member.layers:2} {member.inputs:9}{name:21}{ratio:7.3f}  {values}")
    return "\n".join(table)


def drawn(model: Any, inputs: Array) -> Array:
    """A class for each timestep, from the distribution that the model itself gives after the inputs so far."""
    logits = tf.function(model, autograph=False)(inputs[None])
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)[0]
    return np.argmax(logits + np.random.default_rng(2).gumbel(size=logits.shape), axis=-1)


def expectation(member: Member, model: Any, steps: int) -> Expected:
    """Three rows from the first states, and one from states drawn at random."""
    rng = np.random.default_rng(3)
    sizes = [size for cell in cells_of(model) for size in cell.state_size]
    before = [np.r_[np.zeros((ROWS, size)), rng.normal(0, 3, (1, size))].astype(np.float32) for size in sizes]
    expected = Expected.of(model, member.samples(4, ROWS + 1, steps), before)
    if member.kind in UNBOUNDED:
        last = len(expected.states) // member.layers  # of the states of a layer, the one that has no bound
        assert all(np.abs(state[:ROWS]).max() > LARGE for state in expected.states[last - 1 :: last])
    assert max(expected.tolerances) < 1e-3, "a model that amplifies rounding would hide any fault"
    return expected


def check_content(path: Path, precision: str, member: Member, parameters: int) -> float:
    """What a file holds; returns its size as a part of 4 bytes a parameter."""
    ratio = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()) / 4 / parameters
    assert not member.large or (parameters > 1_000_000 and ratio <= SIZES[precision]), ratio
    if path.is_dir():
        return ratio
    counts, weights = operators(path), stored(path)
    assert not FORBIDDEN & counts.keys(), counts
    if path.suffix == ".onnx":
        assert {name: counts[name] for name in LOOPS & counts.keys()} == {NATIVE[member.kind]: member.layers}, counts
    if precision == "float32":
        # Each weight once. ONNX has two biases for each of up to four gates.
        assert sum(weight.size for weight in weights) <= parameters + 5 * member.config.units * member.layers + 100
    else:
        kind = np.float16 if precision == "float16" else np.int8
        # Biases stay as they are: two for each of up to four gates.
        large = [weight for weight in weights if weight.size >= max(SMALLEST, 8 * member.config.units + 1)]
        assert large and all(weight.dtype == kind for weight in large)
    return ratio


def check_float(signatures: dict[str, Signature], expected: Expected) -> str:
    """Whole, step by step, and whole once more in the same engine: the first inference and one after a thousand."""
    sequence, step = signatures["sequence"], signatures["step"]
    runs = [whole(sequence, expected), last(step, expected), whole(sequence, expected)]
    if "prefill" in signatures:
        runs.append(whole(signatures["prefill"], expected))
    found = np.max([expected.differences(logs, states) for logs, states in runs], axis=0)
    told = "  ".join(f"{value:.1e} of {allowed:.1e}" for value, allowed in zip(found, expected.tolerances, strict=True))
    assert (found <= expected.tolerances).all(), told
    return told


def whole(signature: Signature, expected: Expected) -> tuple[Array, list[Array]]:
    logits, states = signature(expected.inputs, expected.before)
    return log_softmax(logits.astype(np.float64)), states


def last(step: Signature, expected: Expected) -> tuple[Array, list[Array]]:
    logs, states = stepped(step, expected.inputs, expected.before)
    return logs, [state[:, -1] for state in states]


def check_quantized(signatures: dict[str, Signature], expected: Expected, precision: str) -> str:
    """What is lost on average where each class comes as often as Keras says, over all timesteps from the first states on."""
    wanted, losses = expected.logs[:ROWS], []
    for name, run in (("step", last), ("sequence", whole)):
        if name in signatures:
            logs = run(signatures[name], expected)[0][:ROWS]
            divergence = (np.exp(wanted) * (wanted - logs)).sum(-1).mean()
            chosen = np.take_along_axis(wanted, logs.argmax(-1)[..., None], -1)
            losses.append((np.expm1(divergence), (np.exp(wanted.max(-1, keepdims=True)) - np.exp(chosen)).mean()))
    found = np.max(losses, axis=0)
    told = f"perplexity {found[0]:.3%}, first choice {found[1]:.3%}"
    assert (found <= LOSSES[precision]).all(), told
    return told
