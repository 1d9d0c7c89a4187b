"""The same numbers everywhere: each format against Keras, for every cell, through the one step contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from export.bundle import WRITERS
from export.runners import OPENERS, declared
from export.spec import Spec
from export.validate import in_float64
from seqapp.cells import CELLS
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper, Stepper, log_softmax

VOCABULARY, UNITS, TIMESTEPS = 37, 16, 100
FORMATS = tuple(WRITERS)


@keras.saving.register_keras_serializable(package="test_runners")
class OwnCell(keras.layers.Layer):
    """A cell as a user may write it: two states of different widths, layers inside, nothing split."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units // 2], units
        self.norm = keras.layers.LayerNormalization()
        self.slow = keras.layers.Dense(units // 2)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1] + sum(self.state_size), self.units), name="kernel")
        self.norm.build((None, self.units))
        self.slow.build((None, self.units))

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h = ops.silu(self.norm(ops.matmul(ops.concatenate([inputs, *states], -1), self.kernel)))
        return h, [h, 0.9 * states[1] + self.slow(h)]

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def output_of(kind: str) -> dict[str, Any]:
    """`tied` has no projection, `projected` is tied through one."""
    return {"embedding": UNITS if kind == "tied" else 12, "tied": kind != "untied"}


@dataclass(frozen=True)
class Case:
    """A model with large weights and states, and what Keras makes of them."""

    model: SequenceModel
    tokens: Array
    states: list[Array]
    expected: Callable[[int], tuple[Array, list[Array]]]
    tolerances: tuple[float, float]

    def check(self, found: tuple[Array, list[Array]], rows: int, timesteps: int) -> None:
        logits, states = self.expected(timesteps)
        assert found[0].shape == (rows, timesteps, VOCABULARY)
        assert found[0].dtype == np.float32
        assert distance(log_probabilities(found[0]), log_probabilities(logits[:rows])) <= self.tolerances[0]
        for state, wanted in zip(found[1], states, strict=True):
            assert distance(state, wanted[:rows]) <= self.tolerances[1]


def log_probabilities(logits: Array) -> Array:
    return log_softmax(logits.astype(np.float64))


def distance(a: Array, b: Array) -> float:
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    return float(np.abs(a.astype(np.float64) - b).max())


@cache
def case(cell: str, layers: int, output: str) -> Case:
    make = OwnCell if cell == "own" else CELLS[cell]
    model = SequenceModel(VOCABULARY, [make(UNITS) for _ in range(layers)], **output_of(output))
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    tokens = rng.integers(0, VOCABULARY, (3, TIMESTEPS)).astype(np.int32)
    states = [rng.normal(0, 5, (3, size)).astype(np.float32) for size in model.state_sizes]
    keras32, keras64 = KerasStepper(model), KerasStepper(in_float64(model))
    logits, last = keras32.sequence(tokens, states)
    exact_logits, exact_last = keras64.sequence(tokens, [state.astype(np.float64) for state in states])
    rounding = distance(log_probabilities(logits), log_probabilities(exact_logits))
    state_rounding = max(distance(a, b) for a, b in zip(last, exact_last, strict=True))
    return Case(
        model,
        tokens,
        states,
        cache(lambda timesteps: keras32.sequence(tokens[:, :timesteps], states)),
        (max(1e-5, 4 * rounding), max(1e-5, 4 * state_rounding)),
    )


def write(format: str, model: SequenceModel, folder: Path) -> Path:
    name, writer = WRITERS[format]
    writer(model, Spec.of(model), folder / name)
    return folder / name


def opened(format: str, model: SequenceModel, folder: Path) -> Stepper:
    return OPENERS[format](write(format, model, folder), Spec.of(model))


# Each cell with one and with two layers and with each kind of output; each kind of output with one and with two layers.
CASES = [
    (format, cell, 1 + (i + j) % 2, output)
    for i, cell in enumerate(CELLS)
    for j, output in enumerate(("tied", "projected", "untied"))
    for format in FORMATS
] + [("saved_model", "own", 2, "projected"), ("tflite", "own", 2, "projected")]


@pytest.mark.parametrize(("format", "cell", "layers", "output"), CASES)
def test_file_equals_keras(format: str, cell: str, layers: int, output: str, tmp_path: Path) -> None:
    it = case(cell, layers, output)
    runner = opened(format, it.model, tmp_path)
    # The same file again and again, larger and smaller: no call may depend on the one before.
    for rows, timesteps in ((3, 100), (1, 1), (3, 7), (1, 100), (3, 1), (1, 7), (3, 100)):
        given = [state[:rows] for state in it.states]
        it.check(runner.sequence(it.tokens[:rows, :timesteps], given), rows, timesteps)
    it.check(in_chunks(runner, it.tokens, it.states), 3, TIMESTEPS)
    it.check(step_by_step(runner, it.tokens, it.states), 3, TIMESTEPS)
    it.check(step_by_step(runner, it.tokens[:1, :7], [state[:1] for state in it.states]), 1, 7)


def in_chunks(runner: Stepper, tokens: Array, states: list[Array]) -> tuple[Array, list[Array]]:
    parts = []
    for first, end in pairwise((0, 1, 8, 41, 42, TIMESTEPS)):
        logits, states = runner.sequence(tokens[:, first:end], states)
        parts.append(logits)
    return np.concatenate(parts, 1), states


def step_by_step(runner: Stepper, tokens: Array, states: list[Array]) -> tuple[Array, list[Array]]:
    parts = []
    for column in tokens.T:
        logits, states = runner.step(column, states)
        parts.append(logits)
    return np.stack(parts, 1), states


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in each format."""
    folder = tmp_path_factory.mktemp("files")
    return {format: write(format, case("lstm", 1, "untied").model, folder) for format in FORMATS}


@pytest.mark.parametrize("format", FORMATS)
def test_file_declares_the_contract(format: str, files: dict[str, Path]) -> None:
    wanted = {
        name: {
            "inputs": {"tokens": ("int32", axes), "state_0_in": ("float32", [-1, 16]), "state_1_in": ("float32", [-1, 16])},
            "outputs": {
                "logits": ("float32", [*axes, VOCABULARY]),
                "state_0_out": ("float32", [-1, 16]),
                "state_1_out": ("float32", [-1, 16]),
            },
        }
        for name, axes in (("step", [-1]), ("sequence", [-1, -1]))
    }
    if format == "onnx":
        del wanted["step"]
    found = {
        name: {side: {t["name"]: (t["dtype"], t["shape"]) for t in tensors} for side, tensors in sides.items()}
        for name, sides in declared(format, files[format]).items()
    }
    assert found == wanted


@pytest.mark.parametrize("format", FORMATS)
def test_first_states_are_zeros(format: str, files: dict[str, Path]) -> None:
    it = case("lstm", 1, "untied")
    runner = OPENERS[format](files[format], Spec.of(it.model))
    first = runner.initial_states(2)
    assert [(state.shape, str(state.dtype), bool(state.any())) for state in first] == [((2, 16), "float32", False)] * 2
    logits, _ = runner.step(it.tokens[:2, 0], first)
    wanted, _ = KerasStepper(it.model).step(it.tokens[:2, 0], first)
    assert distance(log_probabilities(logits), log_probabilities(wanted)) <= it.tolerances[0]


@pytest.mark.parametrize("format", FORMATS)
def test_results_stay_when_the_file_runs_again(format: str, files: dict[str, Path]) -> None:
    it = case("lstm", 1, "untied")
    runner = OPENERS[format](files[format], Spec.of(it.model))
    logits, states = runner.sequence(it.tokens, it.states)
    kept = [np.copy(array) for array in (logits, *states)]
    runner.sequence(it.tokens[:, ::-1], states)
    for array, copy in zip((logits, *states), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_state_is_refused(format: str, files: dict[str, Path]) -> None:
    it = case("lstm", 1, "untied")
    with pytest.raises(ValueError, match="shorter"):
        OPENERS[format](files[format], Spec.of(it.model)).step(it.tokens[:, 0], it.states[:1])
