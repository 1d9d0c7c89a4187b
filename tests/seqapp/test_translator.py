"""The translator: step by step as whole, a source padded as alone, and what its equations say of the attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.beam_search import KerasTransducer
from seqapp.cells import CELLS
from seqapp.step import Array, log_softmax
from seqapp.translation_report import told_before
from seqapp.translation_study import SmoothedLoss
from seqapp.translator import Translator, attend, cut
from tests.seqapp.test_model import OwnCell, randomized

V, W, E, S, T = 11, 7, 5, 6, 4
LENGTHS = np.array([3, S, 1], np.int32)
ALL = {**CELLS, "own": OwnCell}


def translator(kind: str = "gru", layers: int = 1, **choices: Any) -> Translator:
    """With large weights."""
    cells, ahead, back = ([ALL[kind](units + i) for i in range(layers)] for units in (6, 4, 3))
    return randomized(Translator(V, W, cells, ahead, back, E, **choices), scale=0.6)


KINDS = [
    pytest.param(lambda: translator("gru"), id="gru"),
    pytest.param(lambda: translator("lstm", 2), id="lstm-2"),
    pytest.param(lambda: translator("cifg", 3, tied=False), id="cifg-3-untied"),
    pytest.param(lambda: translator("own", 2), id="own-2"),
]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Translator:
    return request.param()


@pytest.fixture(scope="module")
def transducer(model: Translator) -> KerasTransducer:
    return KerasTransducer(model)


def sources(rows: int = 3, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, V, (rows, S), dtype=np.int32)


def targets(rows: int = 3, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, W, (rows, T), dtype=np.int32)


def whole(model: Translator, source: Array, lengths: Array, target: Array) -> Array:
    return np.asarray(model([source, lengths, target]))


def stepwise(transducer: KerasTransducer, source: Array, lengths: Array, target: Array) -> tuple[Array, Array]:
    """Logits (B, T, W) and attention (B, T, S)."""
    memory, states = transducer.encode(source, lengths)
    logits, looked = [], []
    for tokens in target.T:
        one, states, attention = transducer.decode_step(tokens, states, memory, lengths)
        logits.append(one)
        looked.append(attention)
    return np.stack(logits, 1), np.stack(looked, 1)


class TestEveryKind:
    def test_step_by_step_is_the_whole(self, model: Translator, transducer: KerasTransducer) -> None:
        logits, looked = stepwise(transducer, sources(), LENGTHS, targets())
        assert logits.shape == (3, T, W)
        assert logits.std() > 0.1
        np.testing.assert_allclose(logits, whole(model, sources(), LENGTHS, targets()), atol=1e-5, equal_nan=False)
        np.testing.assert_allclose(looked.sum(-1), 1.0, atol=1e-6, equal_nan=False)

    def test_padding_changes_nothing(self, model: Translator, transducer: KerasTransducer) -> None:
        logits, looked = stepwise(transducer, sources(), LENGTHS, targets())
        together = whole(model, sources(), LENGTHS, targets())
        for row, length in enumerate(LENGTHS):
            given = sources()[row : row + 1, :length], LENGTHS[row : row + 1], targets()[row : row + 1]
            alone, own = stepwise(transducer, *given)
            for found in (logits, together):
                np.testing.assert_allclose(found[row], alone[0], atol=1e-5, equal_nan=False)
            np.testing.assert_allclose(looked[row, :, :length], own[0], atol=1e-6, equal_nan=False)
            assert (looked[row, :, length:] == 0).all()

    def test_what_stands_behind_a_source_is_not_read(self, model: Translator) -> None:
        inside = np.arange(S) < LENGTHS[:, None]
        one, two = (whole(model, np.where(inside, sources(), sources(seed=seed)), LENGTHS, targets()) for seed in (5, 6))
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, two)

    def test_every_token_of_a_source_counts(self, model: Translator) -> None:
        same = np.repeat(sources(1), S, 0)
        lengths, told = np.full(S, S, np.int32), np.repeat(targets(1), S, 0)
        changed = np.where(np.eye(S, dtype=bool), (same + 1) % V, same)
        difference = np.abs(whole(model, same, lengths, told) - whole(model, changed, lengths, told))
        assert difference.reshape(S, -1).max(1).min() > 1e-4

    def test_a_target_is_told_from_what_is_before_alone(self, model: Translator) -> None:
        one = whole(model, sources(), LENGTHS, targets())
        for t in range(T):
            changed = targets()
            changed[:, t] = (changed[:, t] + 1) % W
            two = whole(model, sources(), LENGTHS, changed)
            np.testing.assert_array_equal(one[:, :t], two[:, :t])
            assert np.abs(one[:, t] - two[:, t]).max() > 1e-4

    def test_every_weight_learns(self, model: Translator) -> None:
        with tf.GradientTape() as tape:
            loss = SmoothedLoss(0.1)(targets(), model([sources(), LENGTHS, told_before(targets(), 0)], training=True))
        found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
        for weight, gradient in zip(model.trainable_weights, found, strict=True):
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-7, weight.path

    def test_the_saved_model_gives_the_same(self, model: Translator, tmp_path: Path) -> None:
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
        given = sources(), LENGTHS, targets()
        np.testing.assert_array_equal(whole(copy, *given), whole(model, *given))


def test_the_attention_is_a_softmax_of_products() -> None:
    rng = np.random.default_rng(0)
    query, memory = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5))
    lengths = np.array([4, 2], np.int32)
    found, weights = map(np.asarray, attend(query, memory, lengths))
    for row, length in enumerate(lengths):
        known = memory[row, :length]
        wanted = np.exp(log_softmax(query[row] @ known.T))
        np.testing.assert_allclose(weights[row, :, :length], wanted, rtol=1e-6, equal_nan=False)
        np.testing.assert_allclose(found[row], wanted @ known, rtol=1e-6, equal_nan=False)
        assert (weights[row, :, length:] == 0).all()


def test_states_are_cut_in_their_order() -> None:
    parts = cut(np.arange(12).reshape(2, 6), [1, 2, 3])
    assert [part.tolist() for part in parts] == [[[0], [6]], [[1, 2], [7, 8]], [[3, 4, 5], [9, 10, 11]]]


def test_dropout_acts_in_training_alone() -> None:
    model = translator("gru", 2, dropout=0.5)
    given = [sources(), LENGTHS, targets()]
    np.testing.assert_array_equal(model(given), model(given))
    assert np.abs(np.asarray(model(given, training=True)) - model(given)).max() > 0.1


def test_the_loss_is_cross_entropy_with_smoothed_targets() -> None:
    rng = np.random.default_rng(0)
    logits, wanted = rng.normal(size=(2, T, W)).astype(np.float32), targets(2)
    known = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    logs = log_softmax(logits.astype(np.float64))
    for smoothing in (0.0, 0.2):
        shares = np.full((2, T, W), smoothing / W)
        np.put_along_axis(shares, wanted[..., None], 1 - smoothing + smoothing / W, -1)
        mean = (-(shares * logs).sum(-1) * known).sum() / known.sum()
        loss = SmoothedLoss(smoothing)
        assert float(loss(wanted, logits, sample_weight=known)) == pytest.approx(mean, rel=1e-5)
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        assert float(again(wanted, logits, sample_weight=known)) == pytest.approx(mean, rel=1e-5)


def test_cells_that_are_not_as_many_are_refused() -> None:
    cells = [CELLS["gru"](4)]
    with pytest.raises(ValueError, match=r"as many as each other\. Received: 1, 1, 0"):
        Translator(V, W, cells, cells, [], E)
