"""What a classifier learns from: its batches, its validation, and a training that can be repeated and resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.cells import GRUCell
from seqapp.classifier import Classifier
from seqapp.classify import Coder
from seqapp.config import TrainingConfig, build
from seqapp.errors import UsageError
from seqapp.fitting import Trainer
from seqapp.label_study import LabelStudy, build_classifier, weights
from seqapp.run import Run
from seqapp.sequences import Sequences
from seqapp.step import log_softmax
from tests.training import assert_same_training, resumed

V = 7
CONFIG = TrainingConfig(epochs=2, batch_size=4, learning_rate=0.05, checkpoint_seconds=1e9, seed=3)
PER_EPOCH = 11


def some(count: int, seed: int, each: bool = False, longest: int = 6) -> Sequences:
    """The class of a sequence is whether its last token is large; of a timestep, whether its own is."""
    rng = np.random.default_rng(seed)
    x = [rng.integers(0, V, n).astype(np.int32) for n in rng.integers(1, longest + 1, count)]
    return Sequences(x, [(one > 3).astype(np.int32) if each else np.int32(one[-1] > 3) for one in x])


def parts(each: bool = False) -> dict[str, Sequences]:
    return {"train": some(44, 0, each), "validation": some(13, 1, each)}


def study(each: bool = False, dropout: float = 0.0, config: TrainingConfig = CONFIG) -> LabelStudy:
    keras.utils.set_random_seed(config.seed)
    model = Classifier(2, [GRUCell(6)], [], V, 4, each_timestep=each, dropout=dropout, recurrent_dropout=dropout)
    return LabelStudy(model, Coder(("small", "large"), None), parts(each), config)


@pytest.mark.parametrize("each", [False, True])
def test_validation_is_the_mean_over_all_labels(each: bool) -> None:
    it = study(each)
    nats = []
    for x, label in zip(it.parts["validation"].inputs, it.parts["validation"].labels, strict=True):
        logits = np.asarray(it.model([x[None], np.array([len(x)], np.int32)]), np.float64)[0]
        nats += list(-np.take_along_axis(np.atleast_2d(log_softmax(logits)), np.atleast_1d(label)[:, None], 1)[:, 0])
    assert len(nats) == it.parts["validation"].label_count
    assert it.validate() == pytest.approx(np.mean(nats), rel=1e-5)
    assert it.measured(0.5) == 0.5


@pytest.mark.parametrize("each", [False, True])
def test_an_epoch_is_all_sequences_padded(each: bool) -> None:
    it = study(each)
    train, seen = it.parts["train"], []
    batches = list(it.batches(1, 0).as_numpy_iterator())
    assert len(batches) == it.per_epoch == PER_EPOCH
    for pick, ((x, lengths), labels, shares) in zip(train.batches(4, [3, 1]), batches, strict=True):
        assert x.shape == (len(pick), max(lengths))
        for i, row, length, label, share in zip(pick, x, lengths, labels, shares, strict=True):
            np.testing.assert_array_equal(row[:length], train.inputs[i])
            np.testing.assert_array_equal(np.atleast_1d(label)[: length if each else 1], np.atleast_1d(train.labels[i]))
            assert not row[length:].any()
            np.testing.assert_array_equal(share, [1] * length + [0] * (len(row) - length) if each else 1)
            seen.append(int(i))
    assert sorted(seen) == list(range(44))


def test_an_epoch_from_its_middle_on() -> None:
    it = study()
    whole, rest = (list(it.batches(1, start).as_numpy_iterator()) for start in (0, 8))
    assert len(rest) == PER_EPOCH - 8
    for a, b in zip(tf.nest.flatten(whole[8:]), tf.nest.flatten(rest), strict=True):
        np.testing.assert_array_equal(a, b)
    other = list(it.batches(2, 0).as_numpy_iterator())
    assert any(a[0][0].shape != b[0][0].shape or (a[0][0] != b[0][0]).any() for a, b in zip(whole, other, strict=True))


def test_series_of_one_length_have_a_shape_that_is_known() -> None:
    it = study()
    assert it.batches(0, 0).element_spec[0][0].shape.as_list() == [None, None]
    x = [np.zeros((5, 2), np.float32)] * 9
    it.parts["train"] = Sequences(x, [np.int32(0)] * 9)
    assert it.batches(0, 0).element_spec[0][0].shape.as_list() == [None, 5, 2]


def test_weights_of_labels() -> None:
    np.testing.assert_array_equal(weights(np.zeros(3, np.int32), np.array([1, 2, 2])), [1, 1, 1])
    np.testing.assert_array_equal(weights(np.zeros((2, 3), np.int32), np.array([1, 3])), [[1, 0, 0], [1, 1, 1]])


def test_other_data_are_no_resumption(tmp_path: Path) -> None:
    it, run = study(), Run(tmp_path)
    it.save(run)
    it.check_same(run)
    good = it.parts["validation"]
    for other in (some(12, 1), some(13, 2), Sequences(good.inputs, [1 - label for label in good.labels])):
        it.parts["validation"] = other
        with pytest.raises(UsageError, match=r"The validation part is not the one .* was begun with: restore the data"):
            it.check_same(run)


def test_features_are_scaled_by_what_training_has() -> None:
    rng = np.random.default_rng(0)
    train = Sequences([rng.normal(5, 3, (n, 2)).astype(np.float32) for n in (3, 9, 4)], [np.int32(i % 2) for i in range(3)])
    for x in train.inputs:
        x[:, 1] = 7  # which never changes
    model = build_classifier(build({"task": "classify", "data": "x.csv", "units": 4}), Coder(("a", "b"), None), train)
    values = np.concatenate(train.inputs)
    np.testing.assert_allclose(model.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.variance, [values[:, 0].var(), 1e-12], rtol=1e-5)
    scaled = np.asarray(model.first(values[None]))[0]
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), [1, 0], atol=1e-5)


def test_what_is_built_is_what_was_asked_for() -> None:
    config = build(
        {"task": "classify", "data": "x", "units": 4, "layers": 2, "cell": "lstm", "both_ways": True, "dropout": 0.3}
    )
    model = build_classifier(config, Coder(("a", "b", "c"), None, 1, True), parts_of_series(each=True))
    assert [type(layer.cell).__name__ for layer in (*model.ahead, *model.back)] == ["LSTMCell"] * 4
    assert (model.classes, model.each_timestep, model.dropout_rate, model.vocabulary_size) == (3, True, 0.3, None)
    with pytest.raises(UsageError, match="The cell plain cannot be built"):
        config = build({"task": "classify", "data": "x", "cell": "plain", "activation": "nonsense"})
        build_classifier(config, Coder(("a", "b"), None, 1), parts_of_series(each=False))


def parts_of_series(each: bool) -> Sequences:
    x = np.random.default_rng(0).normal(size=(4, 3, 1)).astype(np.float32)
    return Sequences(list(x), [np.zeros(3 if each else (), np.int32)] * 4)


def make(path: Path, each: bool, kind: type[Trainer] = Trainer, **changes: Any) -> Trainer:
    """A trainer as a command begins it, in a process of its own."""
    config = replace(CONFIG, **changes)
    tf.config.experimental.enable_op_determinism()
    path.mkdir(parents=True, exist_ok=True)
    return kind(Run(path), config, study(each, 0.3, config))


@pytest.mark.parametrize("each", [False, True], ids=["one label", "each timestep"])
def test_the_same_seed_and_an_interruption_give_the_same(each: bool, tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", each)
    whole.train()
    assert whole.progress.history[-1]["validation_nats"] < whole.progress.history[0]["validation_nats"] - 0.01, "it has learnt"
    assert_same_training(resumed(lambda kind: make(tmp_path / "resumed", each, kind), PER_EPOCH), whole)


def test_a_trained_run_keeps_what_evaluation_needs(classified: Callable[..., Run]) -> None:
    run = classified("talk")
    kept = {path.name for path in run.path.iterdir()}
    assert {"classes.json", "vocabulary.json", "confusion.png", "learning_curve.png", "metrics.json", "history.csv"} < kept
    assert {f"{part}_examples.npz" for part in ("train", "validation", "test")} < kept
    assert "checkpoint" not in kept
    coder = Coder.load(run.path)
    assert coder.classes == ("no", "question", "yes")
    counts = [Sequences.load(run.path / f"{part}_examples.npz").label_count for part in ("train", "validation", "test")]
    assert sum(counts) == 400
    assert run.metrics["test"]["accuracy"]["count"] == counts[2]
    assert run.metrics["test"]["accuracy"]["value"] > 0.65 > run.metrics["baselines"]["majority"]["accuracy"]["value"]
    assert set(run.metrics["baselines"]) == {"majority", "bag_of_words"}
