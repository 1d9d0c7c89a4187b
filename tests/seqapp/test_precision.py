"""Training in bfloat16: products rounded, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest

from seqapp.cells import CELLS, PlainCell
from seqapp.errors import RunFailed
from seqapp.model import SequenceModel
from seqapp.precision import training_in
from seqapp.recurrence import Recurrence
from tests.seqapp.test_fitting import PoisonedLater, make, weights

B, T, F, U, V = 4, 6, 5, 7, 11


def model_of(cell: Any) -> SequenceModel:
    keras.utils.set_random_seed(2)
    return SequenceModel(V, [cell], F)


def rounded(x: Any) -> Any:
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)


def test_both_products_are_of_rounded_numbers_and_the_rest_is_not() -> None:
    model = model_of(PlainCell(U))
    layer, rng = model.recurrent[0], np.random.default_rng(0)
    x, h = (np.eye(B, size, dtype=np.float32) for size in (F, U))  # a row of the kernel each: nothing is added up
    kernel, bias = (rng.normal(size=weight.shape).astype(np.float32) for weight in layer.cell.get_weights())
    layer.cell.set_weights([kernel, bias])
    expected = np.tanh(rounded(kernel[U : U + B]) + bias + rounded(kernel[:B]))
    plain = np.tanh(kernel[U : U + B] + bias + kernel[:B])
    with training_in("bfloat16", model):
        whole, state = layer(x[:, None], initial_state=[h], training=True)
        step, _ = layer.cell(x, [h])
    for y in (np.asarray(whole)[:, 0], np.asarray(state), np.asarray(step)):
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
        assert np.abs(y - plain).max() > 1e-3
    np.testing.assert_allclose(np.asarray(layer.cell(x, [h])[0]), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_logits_and_gradients_are_those_of_float32_but_for_rounding(name: str) -> None:
    model = model_of(CELLS[name](U))
    tokens = np.random.default_rng(1).integers(0, V, (B, T))
    known = np.asarray(model(tokens, training=True)[0])
    with training_in("bfloat16", model):
        logits, states = model(tokens, training=True)
        assert keras.backend.standardize_dtype(logits.dtype) == "bfloat16"
        assert {keras.backend.standardize_dtype(state.dtype) for state in states} == {"float32"}
        found = np.asarray(keras.ops.cast(logits, "float32"))
    np.testing.assert_allclose(found, known, atol=0.02 * np.abs(known).max())
    assert not np.array_equal(found, known)
    np.testing.assert_array_equal(np.asarray(model(tokens, training=True)[0]), known, "what comes after is as before")


def test_what_goes_wrong_meanwhile_leaves_a_model_as_it_was() -> None:
    model = model_of(PlainCell(U))
    with pytest.raises(RuntimeError), training_in("bfloat16", model):
        raise RuntimeError
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert model.recurrent[0].cell.product_dtype is None


def test_layers_that_are_not_known_keep_their_precision() -> None:
    class Own(keras.layers.Layer):
        pass

    model = keras.Sequential([Own(), keras.layers.Normalization(), Recurrence(keras.layers.SimpleRNNCell(U))])
    with training_in("bfloat16", model):
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_a_training_learns_the_same_and_keeps_float32_weights(tmp_path: Path) -> None:
    trainers = {p: make(tmp_path / p, eager=False, precision=p) for p in ("float32", "bfloat16")}
    for trainer in trainers.values():
        trainer.train()
    one, other = (trainer.progress.history[-1]["validation_nats"] for trainer in trainers.values())
    assert one != other
    assert other == pytest.approx(one, abs=0.05)
    assert {weight.dtype for weight in weights(trainers["bfloat16"])} == {np.dtype(np.float32)}
    kept = keras.saving.load_model(trainers["bfloat16"].run.model_file, compile=False)
    assert {layer.compute_dtype for layer in kept.layers} == {"float32"}
    assert kept.recurrent[0].cell.product_dtype is None


def test_a_training_that_diverges_keeps_float32_too(tmp_path: Path) -> None:
    trainer = make(tmp_path, PoisonedLater, precision="bfloat16")
    with pytest.raises(RunFailed):
        trainer.train()
    assert {layer.compute_dtype for layer in trainer.learner.model.layers} == {"float32"}
    kept = keras.saving.load_model(trainer.run.model_file, compile=False)
    assert {layer.compute_dtype for layer in kept.layers} == {"float32"}
