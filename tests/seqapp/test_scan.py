"""The linear recurrence: against a loop, against Keras's own scan, and its gradients."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from seqapp.scan import associatively, block_size, in_blocks

Array = np.ndarray[Any, np.dtype[Any]]
B, U = 3, 5


def drawn(timesteps: int, seed: int = 0, constant: bool = False) -> tuple[Array, Array, Array]:
    """Complex factors within the unit circle, what is added, and a first state."""
    rng = np.random.default_rng(seed)
    rows, columns = (1, 1) if constant else (B, timesteps)
    a = rng.uniform(0.5, 1, (rows, columns, U)) * np.exp(1j * rng.uniform(-3, 3, (rows, columns, U)))
    b = rng.normal(size=(B, timesteps, U)) + 1j * rng.normal(size=(B, timesteps, U))
    return a, b, rng.normal(size=(B, U)) + 1j * rng.normal(size=(B, U))


def looped(a: Array, b: Array, state: Array) -> Array:
    a, states = np.broadcast_to(a, b.shape), []
    for t in range(b.shape[1]):
        state = a[:, t] * state + b[:, t]
        states.append(state)
    return np.stack(states, axis=1)


@settings(max_examples=25)
@given(
    scan=st.sampled_from([in_blocks, associatively]),
    timesteps=st.integers(1, 70),
    complex_numbers=st.booleans(),
    constant=st.booleans(),
)
def test_equals_a_loop(scan: Any, timesteps: int, complex_numbers: bool, constant: bool) -> None:
    arguments = drawn(timesteps, timesteps, constant)
    if complex_numbers:
        real, imaginary = scan(*([part.real, part.imag] for part in arguments))
        found = np.asarray(real) + 1j * np.asarray(imaginary)
    else:
        arguments = tuple(part.real for part in arguments)
        (found,) = (np.asarray(part) for part in scan(*([part] for part in arguments)))
    np.testing.assert_allclose(found, looped(*arguments), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("timesteps", [1, 64, 101])
def test_equals_the_associative_scan_of_keras(timesteps: int) -> None:
    a, b, _ = (part.real.astype(np.float32) for part in drawn(timesteps))
    (found,) = in_blocks([a], [b], [np.zeros((B, U), np.float32)])
    _, wanted = keras.ops.associative_scan(lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1]), (a, b), axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_a_loop() -> None:
    given_arrays = [tf.constant(part.real) for part in drawn(23)]
    weights = np.random.default_rng(5).normal(size=(B, 23, U))
    results = []
    for scanned in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(given_arrays)
            a, b, state = given_arrays
            if scanned:
                (states,) = in_blocks([a], [b], [state])
            else:
                rows = []
                for t in range(23):
                    state = a[:, t] * state + b[:, t]
                    rows.append(state)
                states = tf.stack(rows, axis=1)
            loss = tf.reduce_sum(weights * states)
        results.append(tape.gradient(loss, given_arrays))
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize(("timesteps", "size"), [(1, 1), (64, 8), (100, 10), (4096, 64), (8192, 128), (1020, 30), (97, 10)])
def test_blocks_are_about_as_long_as_there_are_many(timesteps: int, size: int) -> None:
    assert block_size(timesteps) == size
