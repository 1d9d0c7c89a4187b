"""What depends on the engine under Keras."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from seqapp import backend


def model_of(units: int = 2) -> Any:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.set_weights([np.arange(3.0 * units).reshape(3, units), np.ones(units)])
    return model


def test_the_engine_is_the_one_that_keras_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.engine() == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backend.engine() == "tensorflow", "Keras is loaded already"
    monkeypatch.delitem(sys.modules, "keras")
    assert backend.engine() == "jax"
    monkeypatch.delenv("KERAS_BACKEND")
    assert backend.engine() == "tensorflow"


def test_a_compiled_function_sees_new_weights_and_is_traced_once() -> None:
    model, traces = model_of(), []

    def twice(x: Any, more: list[Any]) -> Any:
        traces.append(x.shape)
        return 2 * model(x) + more[0]

    run = backend.compiled(model, twice, keras.KerasTensor([None, 3]), [keras.KerasTensor([None, 2])])
    for rows in (1, 4):
        x, more = np.ones((rows, 3), np.float32), np.full((rows, 2), 5, np.float32)
        np.testing.assert_allclose(run(x, [more]), 2 * (x @ np.arange(6).reshape(3, 2) + 1) + 5)
    model.set_weights([np.zeros((3, 2)), np.zeros(2)])
    np.testing.assert_array_equal(run(np.ones((1, 3), np.float32), [np.zeros((1, 2), np.float32)]), 0)
    assert len(traces) == 1


def test_gradients_by_arguments_and_by_weights() -> None:
    model = model_of()
    run = backend.with_gradients(model, lambda x: keras.ops.sum(model(x) ** 2), keras.KerasTensor([None, 3]))
    x = np.array([[1, -2, 0.5]], np.float32)
    (kernel, bias), y = model.get_weights(), np.asarray(model(x))
    value, (by_x,), (by_kernel, by_bias) = run(x)
    np.testing.assert_allclose(value, (y**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(by_x, 2 * y @ kernel.T, rtol=1e-6)
    np.testing.assert_allclose(by_kernel, x.T @ (2 * y), rtol=1e-6)
    np.testing.assert_allclose(by_bias, 2 * y[0], rtol=1e-6)
    assert bias.shape == (2,)


class Seen(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))


def fitted(data: Any) -> list[float]:
    """The mean losses so far, of a model that stays as it is and says 1."""
    model, seen = model_of(1), Seen()
    model.set_weights([np.zeros((3, 1)), np.ones(1)])
    model.compile(keras.optimizers.SGD(0.0), "mean_absolute_error")
    model.fit(data, shuffle=False, verbose=0, callbacks=[seen])
    return seen.losses


def made(count: int) -> Iterator[Any]:
    """The batch i has the loss i."""
    for i in range(count):
        yield np.zeros((2, 3), np.float32), np.full((2, 1), i + 1, np.float32)


def reader(arrays: Any) -> Any:
    """Reads some of the batches in arrays, and never beyond the last."""

    def read(first: int, end: int) -> Any:
        assert first < end <= len(arrays[0])
        return tuple(part[first:end] for part in arrays)

    return read


@pytest.mark.parametrize("count", [1, 5, 11])
def test_fit_sees_each_batch_once_and_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "AT_ONCE", 2)
    wanted = [i / 2 for i in range(count)]  # the mean of 0 to i
    kinds = keras.KerasTensor([2, 3]), keras.KerasTensor([2, 1])
    arrays = tuple(np.stack(part) for part in zip(*made(count), strict=True))
    for data in (
        backend.batches(lambda: made(count), kinds, count),
        backend.slices(reader(arrays), kinds, count),
        backend.counted(made(count), count),
    ):
        np.testing.assert_allclose(fitted(data), wanted)


@pytest.mark.parametrize("count", [1, 5])
def test_slices_for_another_engine(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "AT_ONCE", 2)
    monkeypatch.setattr(backend, "engine", lambda: "jax")
    kinds = keras.KerasTensor([2, 3]), keras.KerasTensor([2, 1])
    arrays = tuple(np.stack(part) for part in zip(*made(count), strict=True))
    data = backend.slices(reader(arrays), kinds, count)
    assert len(data) == count
    for i, wanted in enumerate(made(count)):
        for part, other in zip(data[i], wanted, strict=True):
            np.testing.assert_array_equal(part, other)


def test_the_first_batches_are_there_again() -> None:
    """Keras on JAX takes some on trial, as many as it reads ahead of a GPU, and begins anew."""
    data = backend.counted(iter(range(20)), 20)
    assert len(data) == 20
    assert [data[i] for i in (0, 1, 2, 3)] == [0, 1, 2, 3]
    assert [data[i] for i in range(20)] == list(range(20))


def test_memory_is_kept_or_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    backend.keep_memory()
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            asked.append((parameter, value))
            return 1

    monkeypatch.setattr(backend.ctypes, "CDLL", lambda name: Library())
    backend.keep_memory()
    assert dict(asked) == {-8: 1, -3: 1 << 30, -1: (1 << 31) - 1}
    monkeypatch.setattr(backend.ctypes, "CDLL", lambda name: object())
    backend.keep_memory()


@pytest.mark.parametrize(("flags", "has"), [("fpu avx512_bf16 sse", True), ("amx_bf16 fpu", True), ("fpu avx2 sse", False)])
def test_whether_a_processor_has_bfloat16_is_what_the_kernel_says(
    flags: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: f"processor : 0\nflags : {flags}\n")
    assert backend.has_bfloat16() is has
