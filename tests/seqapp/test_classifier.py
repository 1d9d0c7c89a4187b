"""The classifier: a sequence padded is the sequence alone, and what it computes is what its equations say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.cells import CELLS, GRUCell, LSTMCell, PlainCell
from seqapp.classifier import Classifier
from seqapp.classify import Classified, classified_by
from seqapp.label_study import weights
from tests.seqapp.test_model import OwnCell, assert_close, randomized

V, E, C, F, T = 11, 5, 3, 2, 5
MEAN, VARIANCE = [3.0, -200.0], [0.25, 1e4]
LENGTHS = np.array([3, T, 1], np.int32)
ALL = {**CELLS, "own": OwnCell}
Array = Any


def classifier(kind: str = "gru", depth: int = 1, both_ways: bool = False, **choices: Any) -> Classifier:
    """With large weights; of tokens, unless there are a mean and a variance of features."""
    units = (4, 3)[:depth]
    ahead, back = ([ALL[kind](n + more) for n in units] for more in (0, 1))
    of_tokens = {} if "mean" in choices else {"vocabulary_size": V, "embedding": E}
    return randomized(Classifier(C, ahead, back if both_ways else [], **{**of_tokens, **choices}), scale=0.6)


def of_features(**choices: Any) -> Classifier:
    return classifier(**{"mean": MEAN, "variance": VARIANCE, **choices})


def inputs(model: Classifier, batch: int = 3, timesteps: int = T, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    if model.vocabulary_size:
        return rng.integers(0, V, (batch, timesteps), dtype=np.int32)
    return (rng.normal(size=(batch, timesteps, F)) * np.sqrt(VARIANCE) + MEAN).astype(np.float32)


def valid(logits: Array, row: int, length: int) -> Array:
    """The logits that mean something, of one sequence."""
    logits = np.asarray(logits)[row]
    return logits[:length] if logits.ndim == 2 else logits


KINDS = [
    pytest.param(lambda: classifier("gru"), id="gru"),
    pytest.param(lambda: classifier("lstm", each_timestep=True), id="lstm-each-timestep"),
    pytest.param(lambda: of_features(kind="cifg", both_ways=True, each_timestep=True), id="cifg-both-ways-each-timestep"),
    pytest.param(lambda: of_features(kind="own", both_ways=True), id="own-both-ways"),
]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Classifier:
    return request.param()


@pytest.fixture(scope="module")
def logits_of(model: Classifier) -> Classified:
    return classified_by(model)


class TestEveryKind:
    def test_padding_changes_nothing(self, model: Classifier, logits_of: Classified) -> None:
        x = inputs(model)
        logits = logits_of(x, LENGTHS)
        assert logits.shape == ((3, T, C) if model.each_timestep else (3, C))
        assert np.std(valid(logits, 1, T)) > 0.1, "nothing can be told apart from logits that are all alike"
        for row, length in enumerate(LENGTHS):
            alone = logits_of(x[row : row + 1, :length], LENGTHS[row : row + 1])
            np.testing.assert_allclose(valid(logits, row, length), valid(alone, 0, length), rtol=0, atol=1e-5)

    def test_what_stands_behind_a_sequence_is_not_read(self, model: Classifier, logits_of: Classified) -> None:
        x, other = inputs(model), inputs(model, seed=2)
        inside = (np.arange(T) < LENGTHS[:, None]).reshape(3, T, *[1] * (x.ndim - 2))
        one, two = logits_of(x, LENGTHS), logits_of(np.where(inside, x, other), LENGTHS)
        for row, length in enumerate(LENGTHS):
            np.testing.assert_array_equal(valid(one, row, length), valid(two, row, length))

    def test_every_timestep_of_a_sequence_is_read(self, model: Classifier, logits_of: Classified) -> None:
        x, other = np.repeat(inputs(model, 1), T, 0), inputs(model, 1, seed=2)[0]
        before = logits_of(x, np.full(T, T, np.int32))
        for t in range(T):  # a sequence for each timestep, which differs there
            x[t, t] = (x[t, t] + 1) % V if model.vocabulary_size else other[t]
        difference = np.abs(logits_of(x, np.full(T, T, np.int32)) - before)
        assert difference.reshape(T, -1).max(1).min() > 1e-5

    def test_learning_from_a_padded_batch_is_learning_from_the_sequences_alone(self, model: Classifier) -> None:
        learned, x = learning(model), inputs(model)
        y = np.array([[0, 2, 1, 1, 0], [1, 1, 0, 2, 2], [2, 0, 2, 1, 1]], np.int32)
        y = y if model.each_timestep else y[:, 0]
        loss, gradients = learned(x, LENGTHS, y)
        alone = [slice(row, row + 1) for row in range(3)]
        of_rows = [(x[r, :n], LENGTHS[r], y[r, :n] if y.ndim == 2 else y[r]) for r, n in zip(alone, LENGTHS, strict=True)]
        parts = [learned(*row) for row in of_rows]
        shares = LENGTHS / LENGTHS.sum() if model.each_timestep else np.full(3, 1 / 3)
        assert loss == pytest.approx(sum(share * part for share, (part, _) in zip(shares, parts, strict=True)), abs=1e-5)
        for i, gradient in enumerate(gradients):
            wanted = sum(share * of_part[i] for share, (_, of_part) in zip(shares, parts, strict=True))
            assert np.abs(wanted).max() > 1e-4
            np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))

    def test_the_saved_model_gives_the_same(self, model: Classifier, logits_of: Classified, tmp_path: Path) -> None:
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        # JSON knows no tuples: compared as JSON.
        assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
        x = inputs(model)
        np.testing.assert_array_equal(classified_by(copy)(x, LENGTHS), logits_of(x, LENGTHS))


def learning(model: Classifier) -> Any:
    """The loss of a training and its gradients, padding weighed as the study does."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    variables = [weight.value for weight in model.trainable_weights]

    @tf.function(autograph=False, reduce_retracing=True)
    def traced(x: Any, lengths: Any, y: Any, shares: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(y, model([x, lengths], training=True), sample_weight=shares)
        return value, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(value, variables)]

    def learned(x: Array, lengths: Array, y: Array) -> tuple[float, list[Array]]:
        free = [tf.TensorSpec([None] * array.ndim, array.dtype) for array in (lengths, y, y.astype(np.float32))]
        inputs = tf.TensorSpec([None, None, *x.shape[2:]], x.dtype)
        value, gradients = traced.get_concrete_function(inputs, *free)(*map(tf.constant, (x, lengths, y, weights(y, lengths))))
        return float(value), [np.asarray(gradient) for gradient in gradients]

    return learned


@pytest.mark.parametrize("kind", list(ALL))
def test_steps_equal_the_whole_at_every_length(kind: str) -> None:
    model = classifier(kind, depth=2 if kind == "lstm" else 1)
    logits_of = classified_by(model)
    x, states = inputs(model), [np.zeros((3, size), np.float32) for layer in model.ahead for size in layer.state_size]
    for t in range(T):
        one, states = model.step(x[:, t], states)
        assert_close(one, logits_of(x, np.full(3, t + 1, np.int32)))


def test_steps_equal_the_logits_of_each_timestep() -> None:
    model = classifier("lstm", each_timestep=True)
    x, states = inputs(model), [np.zeros((3, 4), np.float32)] * 2
    whole = np.asarray(model([x, np.full(3, T, np.int32)]))
    for t in range(T):
        one, states = model.step(x[:, t], states)
        assert_close(one, whole[:, t])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def read_by_gru(cell: GRUCell, x: Array) -> Array:
    """x (T, F) -> outputs (T, U), by the equations of the gated recurrent unit in float64."""
    w, r, (b, s) = (np.asarray(weight, np.float64) for weight in (cell.kernel, cell.recurrent_kernel, cell.bias))
    h, outputs = np.zeros(cell.units), []
    for now in x:
        xz, xr, xg = np.split(now @ w + b, 3)
        hz, hr, hg = np.split(h @ r + s, 3)
        z = sigmoid(xz + hz)
        h = z * h + (1 - z) * np.tanh(xg + sigmoid(xr + hr) * hg)
        outputs.append(h)
    return np.array(outputs)


def by_hand(model: Classifier, x: Array) -> Array:
    """The logits of one sequence that is read both ways: (C,), or (T, C)."""
    if model.vocabulary_size:
        x = np.asarray(model.first.embeddings, np.float64)[x]
    else:
        x = (x.astype(np.float64) - MEAN) / np.sqrt(VARIANCE)
    for ahead, back in zip(model.ahead, model.back, strict=True):
        onward, backward = read_by_gru(ahead.cell, x), read_by_gru(back.cell, x[::-1])
        x = np.concatenate([onward, backward[::-1]], 1)
    # Each direction ends at another end of the sequence.
    x = x if model.each_timestep else np.concatenate([onward[-1], backward[-1]])
    return x @ np.asarray(model.head.kernel, np.float64) + np.asarray(model.head.bias, np.float64)


@pytest.mark.parametrize(("make", "each_timestep"), [(classifier, True), (of_features, False)])
def test_both_ways_by_hand(make: Any, each_timestep: bool) -> None:
    model = make(kind="gru", depth=2, both_ways=True, each_timestep=each_timestep)
    x = inputs(model)
    logits = model([x, LENGTHS])
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(valid(logits, row, length), by_hand(model, x[row, :length]), rtol=0, atol=1e-5)


def test_features_are_scaled_by_mean_and_variance() -> None:
    scaled, bare = of_features(), of_features(mean=[0.0, 0.0], variance=[1.0, 1.0])
    x = inputs(scaled)
    assert_close(scaled([x, LENGTHS]), bare([(x - MEAN) / np.sqrt(VARIANCE), LENGTHS]))
    assert np.abs(np.asarray(scaled([x, LENGTHS])) - np.asarray(bare([x, LENGTHS]))).max() > 0.1


def test_dropout_changes_training_alone() -> None:
    whole, dropped = classifier(depth=2), classifier(depth=2, dropout=0.5, recurrent_dropout=0.5)
    x = inputs(whole)
    np.testing.assert_array_equal(dropped([x, LENGTHS]), whole([x, LENGTHS]))
    assert np.abs(np.asarray(dropped([x, LENGTHS], training=True)) - np.asarray(whole([x, LENGTHS]))).max() > 1e-2


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"recurrent_dropout": 0.5}])
def test_each_dropout_is_at_work(rates: dict[str, float]) -> None:
    model = classifier(both_ways=True, **rates)
    x = inputs(model)
    assert np.abs(np.asarray(model([x, LENGTHS], training=True)) - np.asarray(model([x, LENGTHS]))).max() > 1e-2


def test_config_keeps_every_choice() -> None:
    cells, back = [PlainCell(7, activation="relu"), LSTMCell(5)], [GRUCell(2), PlainCell(3)]
    model = Classifier(4, cells, back, None, 0, [1.5], [2.5], True, 0.1, 0.2)
    config = model.get_config()
    given = {"classes": 4, "vocabulary_size": None, "embedding": 0, "mean": [1.5], "variance": [2.5], "each_timestep": True}
    assert {name: config[name] for name in given} == given
    assert (config["dropout"], config["recurrent_dropout"]) == (0.1, 0.2)
    copy = Classifier.from_config(json.loads(json.dumps(config)))
    assert json.dumps(copy.get_config()) == json.dumps(config)
    assert [type(layer.cell) for layer in (*copy.ahead, *copy.back)] == [PlainCell, LSTMCell, GRUCell, PlainCell]
    assert {layer.recurrent_dropout for layer in (*copy.ahead, *copy.back)} == {0.2}
    assert [w.shape for w in copy.weights] == [w.shape for w in model.weights]


def test_a_layer_reads_the_outputs_of_both_directions_below() -> None:
    model = classifier("lstm", 2, both_ways=True)
    assert [layer.cell.kernel.shape[0] for layer in (*model.ahead, *model.back)] == [E, 4 + 5, E, 4 + 5]
    assert model.head.kernel.shape == (3 + 4, C)


@pytest.mark.parametrize("back", [1, 3])
def test_directions_of_different_depth_are_refused(back: int) -> None:
    with pytest.raises(ValueError, match=f"back_cells must be none, or one for each of the 2 cells. Received: {back}"):
        Classifier(C, [GRUCell(3), GRUCell(3)], [GRUCell(3)] * back, V, E)


def test_dropout_on_the_recurrence_of_a_cell_that_knows_none() -> None:
    with pytest.raises(ValueError, match="Dropout on the recurrence needs a cell"):
        Classifier(C, [OwnCell(3)], [], V, E, recurrent_dropout=0.1)
