"""Models that read both ways, in the stock engine of each file: every sequence as if it were alone, whatever pads it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from export import benchmark, graphs, memory
from seqapp.step import Array, log_softmax
from tests.export.conftest import CLASSES, TAGS, VOCABULARY, Exported, tokens_of
from tests.export.engines import opened_whole, stored
from tests.export.oracle import alone, compiled

LARGE, SMALL = graphs.BLOCKS
FLOAT32 = ["saved_model", "model.tflite", "model.onnx"]
SMALLER = ["model.dynamic.tflite", "model.float16.tflite", "model.int8.onnx"]
Call = Callable[[Array], Any]
# One file is called with all of them in turn, the first once more in the end: no call may depend on the one before.
CALLS = [[100, 7, 1], [1], [3, 7, 6], [100], [33, 32, 31], [1, 1, 1], [7], [5, 64, 65], [100, 7, 1]]


@pytest.fixture(scope="module")
def tags(tagger_bundle: Exported) -> Call:
    return compiled(tagger_bundle.model)


@pytest.fixture(scope="module")
def classes(classifier_bundle: Exported) -> Call:
    return compiled(classifier_bundle.model)


def features_of(rows: int, timesteps: int) -> Array:
    return np.random.default_rng(4).normal(size=(rows, timesteps, 8)).astype(np.float32)


def up_to_length(outputs: Array, lengths: list[int]) -> Array:
    """The outputs (B, T, V) that mean something, one below the other."""
    assert outputs.shape[:2] == (len(lengths), max(lengths))
    return np.concatenate([row[:length] for row, length in zip(outputs, lengths, strict=True)])


@pytest.mark.parametrize("name", FLOAT32)
def test_tags_are_those_of_keras(name: str, tagger_bundle: Exported, tags: Call) -> None:
    run = opened_whole(tagger_bundle.folder / name)
    for lengths in CALLS:
        tokens = tokens_of(len(lengths), max(lengths))
        found, wanted = run(tokens, np.array(lengths)), np.concatenate(alone(tags, tokens, lengths))
        assert (found.dtype, found.shape[-1]) == (np.float32, TAGS)
        np.testing.assert_allclose(up_to_length(found, lengths), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FLOAT32)
def test_classes_are_those_of_keras(name: str, classifier_bundle: Exported, classes: Call) -> None:
    run = opened_whole(classifier_bundle.folder / name)
    for lengths in CALLS:
        features = features_of(len(lengths), max(lengths))
        found, wanted = run(features, np.array(lengths)), alone(classes, features, lengths)
        assert found.shape == (len(lengths), CLASSES)
        # The softmax is left out of logits.
        np.testing.assert_allclose(np.exp(log_softmax(found)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [[SMALL + 1, SMALL], [LARGE + 1, LARGE], [2 * LARGE + 1, 2 * SMALL]], ids=str)
def test_sequences_that_end_around_the_blocks_of_litert(lengths: list[int], classifier_bundle: Exported, classes: Call) -> None:
    features = features_of(2, lengths[0])
    found = opened_whole(classifier_bundle.folder / "model.tflite")(features, np.array(lengths))
    np.testing.assert_allclose(np.exp(log_softmax(found)), alone(classes, features, lengths), rtol=1e-5, atol=1e-6)


def padded(inputs: Array, lengths: list[int], padding: Array | float) -> Array:
    """Inputs with something else behind each sequence."""
    behind = np.arange(inputs.shape[1]) >= np.array(lengths)[:, None]
    return np.where(behind if inputs.ndim == 2 else behind[..., None], padding, inputs).astype(inputs.dtype)


@pytest.mark.parametrize("name", [*FLOAT32, *SMALLER])
def test_other_tokens_behind_a_sequence_change_nothing(name: str, tagger_bundle: Exported) -> None:
    run, lengths, tokens = opened_whole(tagger_bundle.folder / name), [40, 13, 1], tokens_of(3, 40)
    wanted = up_to_length(run(tokens, np.array(lengths)), lengths)
    for padding in (0, (tokens + 5) % VOCABULARY):
        found = run(padded(tokens, lengths, padding), np.array(lengths))
        np.testing.assert_array_equal(up_to_length(found, lengths), wanted)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
@pytest.mark.parametrize("name", FLOAT32)
def test_garbage_behind_a_sequence_changes_nothing(name: str, garbage: float, classifier_bundle: Exported) -> None:
    run, lengths, features = opened_whole(classifier_bundle.folder / name), [40, 13, 1], features_of(3, 40)
    wanted = run(features, np.array(lengths))
    assert np.isfinite(wanted).all()
    np.testing.assert_array_equal(run(padded(features, lengths, garbage), np.array(lengths)), wanted)


def sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def lstm(cell: Any, x: Array) -> Array:
    """x (T, F) -> h (T, U), by the equations of Hochreiter and Schmidhuber in Keras's order of the gates, in float64."""
    w, r, b = (np.asarray(weight, np.float64) for weight in cell.get_weights())
    h, c, made = np.zeros(len(r)), np.zeros(len(r)), []
    for now in x:
        i, f, g, o = np.split(now @ w + h @ r + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        made.append(h)
    return np.array(made)


def gru(cell: Any, x: Array) -> Array:
    """x (T, F) -> h (T, U), the reset gate behind the recurrent product, as cuDNN and Keras have it."""
    w, r, (b, s) = (np.asarray(weight, np.float64) for weight in cell.get_weights())
    h, made = np.zeros(len(r)), []
    for now in x:
        (xz, xr, xg), (hz, hr, hg) = np.split(now @ w + b, 3), np.split(h @ r + s, 3)
        z = sigmoid(xz + hz)
        h = z * h + (1 - z) * np.tanh(xg + sigmoid(xr + hr) * hg)
        made.append(h)
    return np.array(made)


def by_numpy(model: Any, tokens: Array) -> Array:
    """The tags of one sequence (T,), from the weights alone."""
    embedding, first, second, dense = model.layers
    assert (first.merge_mode, second.merge_mode) == ("concat", "sum")
    x = np.asarray(embedding.get_weights()[0], np.float64)[tokens]
    x = np.concatenate([lstm(first.forward_layer.cell, x), lstm(first.backward_layer.cell, x[::-1])[::-1]], 1)
    x = gru(second.forward_layer.cell, x) + gru(second.backward_layer.cell, x[::-1])[::-1]
    kernel, bias = dense.get_weights()
    return x @ kernel + bias


@pytest.mark.parametrize("name", FLOAT32)
def test_tags_are_those_of_the_equations(name: str, tagger_bundle: Exported) -> None:
    tokens, lengths = tokens_of(3, 60), [60, 17, 1]
    found = up_to_length(opened_whole(tagger_bundle.folder / name)(tokens, np.array(lengths)), lengths)
    wanted = [by_numpy(tagger_bundle.model, row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    assert np.std(found) > 0.5
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "whole", "size", "lost"),
    [
        ("model.dynamic.tflite", np.int8, "model.tflite", 0.45, 0.05),
        ("model.float16.tflite", np.float16, "model.tflite", 0.6, 0.005),
        ("model.int8.onnx", np.int8, "model.onnx", 0.35, 0.1),
    ],
)
def test_smaller_files(name: str, kind: Any, whole: str, size: float, lost: float, tagger_bundle: Exported, tags: Call) -> None:
    path, lengths = tagger_bundle.folder / name, [80, 50, 3]
    lstms = tagger_bundle.model.layers[1]
    kernels = sorted(weight.size for weight in lstms.get_weights() if weight.ndim == 2)
    assert sorted(array.size for array in stored(path) if array.dtype == kind)[-4:] == kernels
    assert path.stat().st_size < size * (tagger_bundle.folder / whole).stat().st_size
    tokens = tokens_of(3, 80)
    found, wanted = opened_whole(path)(tokens, np.array(lengths)), np.concatenate(alone(tags, tokens, lengths))
    assert 0 < np.sqrt(np.mean((up_to_length(found, lengths) - wanted) ** 2)) < lost * wanted.std()


def measured_here(bundle: Path, path: str) -> float:
    """What `python -m export.memory` prints, without a process of its own, which would load TensorFlow first."""
    with redirect_stdout(StringIO()) as printed:
        memory.main([str(bundle), path])
    return float(printed.getvalue())


def test_benchmark_draws_tokens_that_the_model_knows(tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    tokens = benchmark.drawn(tagger_bundle.content, tagger_bundle.reference.spec)
    assert (tagger_bundle.content["token_count"], set(tokens.flat)) == (VOCABULARY, set(range(VOCABULARY)))
    assert TAGS < VOCABULARY, "the two could be taken for each other"
    assert "token_count" not in classifier_bundle.content
    assert benchmark.drawn(classifier_bundle.content, classifier_bundle.reference.spec).shape == (1, benchmark.LONG, 8)


def test_benchmark_has_a_row_for_each_file(
    classifier_bundle: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "_memory", measured_here)
    monkeypatch.setattr(benchmark, "LONG", 300)
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, lambda count: None)  # TensorFlow has begun, and would refuse
    assert benchmark.main([str(classifier_bundle.folder), "--repeats", "1"]) == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == FLOAT32
    for _, _, grown, _, _, step, sequence, growth in rows:
        assert step == ""
        # What Linux says of a process's memory may be a little less than a moment ago.
        assert float(grown) > -1
        assert all(float(cell.split(" ")[0]) > 0 for cell in (sequence, growth))
