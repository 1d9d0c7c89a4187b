"""The same numbers everywhere: each format against Keras, for every cell, through the one step contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from export.artifact import FORMATS
from export.network import Network
from export.onnx_graph import write_onnx
from export.runners import OPENERS, declared
from export.saved_model import write_saved_model
from export.spec import Spec
from seqapp.step import Array, KerasStepper, Stepper, log_softmax
from tests.export.conftest import (
    CLASSES,
    MODELS,
    TAGS,
    VOCABULARY,
    Exported,
    network_of,
    states_of,
    tflite_of,
    tokens_of,
)

TIMESTEPS = 100
LSTM = ("lstm", 1, "untied")


@dataclass(frozen=True)
class Case:
    """A model with large weights and states, and what Keras makes of them."""

    network: Network
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
def case(cell: str, depth: int, end: str) -> Case:
    network = network_of(cell, depth, end)
    tokens, states = tokens_of(3, TIMESTEPS), states_of(network, 3, scale=5)
    keras32, keras64 = KerasStepper(network), KerasStepper(network.in_float64())
    logits, last = keras32.sequence(tokens, states)
    exact_logits, exact_last = keras64.sequence(tokens, [state.astype(np.float64) for state in states])
    rounding = distance(log_probabilities(logits), log_probabilities(exact_logits))
    state_rounding = max(distance(a, b) for a, b in zip(last, exact_last, strict=True))
    return Case(
        network,
        tokens,
        states,
        cache(lambda timesteps: keras32.sequence(tokens[:, :timesteps], states)),
        (max(1e-5, 4 * rounding), max(1e-5, 4 * state_rounding)),
    )


def write(format: str, model: tuple[str, int, str], path: Path) -> Path:
    network = network_of(*model)
    if format == "tflite":
        path.write_bytes(tflite_of(*model))
    else:
        {"saved_model": write_saved_model, "onnx": write_onnx}[format](network, Spec.of(network), path)
    return path


# Each model as ONNX, which is written soonest, and in one of the two others in turn.
CASES = [
    pytest.param(format, model, marks=[] if format in often else pytest.mark.matrix)
    for i, model in enumerate([*MODELS, ("own", 2, "projected")])
    for often in [("onnx", ("tflite", "saved_model")[(i + i // 2) % 2])]
    for format in FORMATS
]


@pytest.mark.parametrize(("format", "model"), CASES)
def test_file_equals_keras(format: str, model: tuple[str, int, str], tmp_path: Path) -> None:
    it = case(*model)
    runner = OPENERS[format](write(format, model, tmp_path / "model"), Spec.of(it.network))
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
    return {format: write(format, LSTM, folder / format) for format in FORMATS}


@pytest.mark.parametrize("format", FORMATS)
def test_file_declares_the_contract(format: str, files: dict[str, Path]) -> None:
    wanted = {
        name: {
            "inputs": {
                "tokens": ("int32", given_axes),
                "state_0_in": ("float32", [-1, 16]),
                "state_1_in": ("float32", [-1, 16]),
            },
            "outputs": {
                "logits": ("float32", [*made_axes, VOCABULARY]),
                "state_0_out": ("float32", [-1, 16]),
                "state_1_out": ("float32", [-1, 16]),
            },
        }
        for name, given_axes, made_axes in (("step", [-1], [-1]), ("sequence", [-1, -1], [-1, -1]), ("prefill", [-1, -1], [-1]))
    }
    if format == "onnx":
        wanted = {"sequence": wanted["sequence"]}
    found = {
        name: {side: {t["name"]: (t["dtype"], t["shape"]) for t in tensors} for side, tensors in sides.items()}
        for name, sides in declared(format, files[format]).items()
    }
    assert found == wanted


@pytest.mark.parametrize("format", FORMATS)
def test_first_states_are_zeros(format: str, files: dict[str, Path]) -> None:
    it = case(*LSTM)
    runner = OPENERS[format](files[format], Spec.of(it.network))
    first = runner.initial_states(2)
    assert [(state.shape, str(state.dtype), bool(state.any())) for state in first] == [((2, 16), "float32", False)] * 2
    logits, _ = runner.step(it.tokens[:2, 0], first)
    wanted, _ = KerasStepper(it.network).step(it.tokens[:2, 0], first)
    assert distance(log_probabilities(logits), log_probabilities(wanted)) <= it.tolerances[0]


@pytest.mark.parametrize("format", FORMATS)
def test_prefill_is_the_end_of_the_sequence(format: str, files: dict[str, Path]) -> None:
    it = case(*LSTM)
    logits, states = OPENERS[format](files[format], Spec.of(it.network)).prefill(it.tokens, it.states)
    wanted, last = it.expected(TIMESTEPS)
    assert distance(log_probabilities(logits), log_probabilities(wanted[:, -1])) <= it.tolerances[0]
    for state, expected in zip(states, last, strict=True):
        assert distance(state, expected) <= it.tolerances[1]


@pytest.mark.parametrize("format", FORMATS)
def test_signatures_take_turns(format: str, files: dict[str, Path]) -> None:
    """In one loaded file, at lengths that change: a loop that two of them share must not remember the other's."""
    it = case(*LSTM)
    runner = OPENERS[format](files[format], Spec.of(it.network))
    for timesteps in (7, 1, 40, 3):
        it.check(runner.sequence(it.tokens[:, :timesteps], it.states), 3, timesteps)
        logits, _ = runner.prefill(it.tokens[:, : 2 * timesteps], it.states)
        runner.step(it.tokens[:, 0], it.states)
        wanted = it.expected(2 * timesteps)[0][:, -1]
        assert distance(log_probabilities(logits), log_probabilities(wanted)) <= it.tolerances[0]


@pytest.mark.parametrize("format", FORMATS)
def test_results_stay_when_the_file_runs_again(format: str, files: dict[str, Path]) -> None:
    it = case(*LSTM)
    runner = OPENERS[format](files[format], Spec.of(it.network))
    logits, states = runner.sequence(it.tokens, it.states)
    kept = [np.copy(array) for array in (logits, *states)]
    runner.sequence(it.tokens[:, ::-1], states)
    for array, copy in zip((logits, *states), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_state_is_refused(format: str, files: dict[str, Path]) -> None:
    it = case(*LSTM)
    with pytest.raises(ValueError, match="shorter"):
        OPENERS[format](files[format], Spec.of(it.network)).step(it.tokens[:, 0], it.states[:1])


NAMES = {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_reads_both_ways_declares_lengths(
    format: str, tagger_bundle: Exported, classifier_bundle: Exported
) -> None:
    for it, given, made in (
        (tagger_bundle, ("tokens", "int32", [-1, -1]), [-1, -1, TAGS]),
        (classifier_bundle, ("features", "float32", [-1, -1, 8]), [-1, CLASSES]),
    ):
        ((name, sides),) = declared(format, it.folder / NAMES[format]).items()
        inputs, outputs = ([(t["name"], t["dtype"], t["shape"]) for t in sides[side]] for side in ("inputs", "outputs"))
        assert (name, sorted(inputs)) == ("sequence", sorted([given, ("lengths", "int32", [-1])]))
        assert outputs == [("logits", "float32", made)]


@pytest.mark.parametrize("format", FORMATS)
def test_a_sequence_without_lengths_is_whole(format: str, tagger_bundle: Exported) -> None:
    runner = OPENERS[format](tagger_bundle.folder / NAMES[format], Spec.of(Network.of(tagger_bundle.model)))
    tokens = tokens_of(2, 9)
    logits, states = runner.sequence(tokens, runner.initial_states(2))
    assert states == []
    np.testing.assert_array_equal(logits, runner.sequences(tokens.astype(np.int64), [9, 9]))
    assert distance(logits, runner.sequences(tokens, [9, 4])) > 0.01
    for lengths in ([9, 0], [-1, 9], [10, 9], [9], [[9, 9]]):
        with pytest.raises(ValueError, match=r"lengths must be 2 numbers from 1 to 9\. Received: "):
            runner.sequences(tokens, lengths)
