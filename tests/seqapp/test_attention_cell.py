"""Attention over the past: softmax over all of it, in constant memory."""

from __future__ import annotations

import numpy as np

from seqapp.attention_cell import AttentionCell
from seqapp.recurrence import Recurrence
from seqapp.step import Array

B, T, F, U = 2, 50, 3, 4


def cell_of() -> AttentionCell:
    cell = AttentionCell(U, dtype="float64")
    cell.build((None, F))
    rng = np.random.default_rng(0)
    cell.set_weights([rng.normal(size=weight.shape) for weight in cell.get_weights()])
    return cell


def inputs() -> Array:
    return np.random.default_rng(1).normal(size=(B, T, F))


def test_it_is_softmax_over_the_past_and_a_zero() -> None:
    cell, x = cell_of(), inputs()
    output, *_ = Recurrence(cell, dtype="float64")(x)
    kernel, bias = cell.get_weights()
    k, v, q = np.split(x @ kernel + bias, 3, axis=-1)
    scores = np.concatenate([np.zeros((B, 1, U)), 8 * np.tanh(k)], axis=1)
    values = np.concatenate([np.zeros((B, 1, U)), v], axis=1)
    for t in range(T):
        weights = np.exp(scores[:, : t + 2])
        attended = (weights * values[:, : t + 2]).sum(1) / weights.sum(1)
        np.testing.assert_allclose(output[:, t], attended / (1 + np.exp(-q[:, t])), rtol=1e-9)


def test_a_gradient_reaches_the_first_timestep_as_easily_as_the_last() -> None:
    import tensorflow as tf

    cell = cell_of()
    for weight in cell.weights:
        weight.assign(0 * weight + [[0.1]] if len(weight.shape) == 2 else 0 * weight)
    layer, x = Recurrence(cell, dtype="float64"), tf.constant(np.ones((1, 400, F)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, training=True)[0][:, -1])
    norms = np.linalg.norm(tape.gradient(loss, x)[0], axis=-1)
    # The last one moves the gate too.
    assert 0.9 < norms[0] / norms[-2] < 1.1
