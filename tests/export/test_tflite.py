"""TFLite files: built-in operators only, each weight once, nothing beside them that a runtime does not read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from export import flatbuffer, graphs, quantize, tflite
from export.network import Network
from export.runners import open_tflite
from export.spec import Spec
from seqapp.cells import CELLS
from seqapp.step import KerasStepper
from tests.export.conftest import (
    MODELS,
    UNITS,
    VOCABULARY,
    Exported,
    network_of,
    of_features,
    states_of,
    tflite_of,
    tokens_of,
)

each_model = pytest.mark.parametrize("model", MODELS, ids=str)
LARGE, SMALL = graphs.BLOCKS
GRU, LSTM = ("gru", 2, "projected"), ("lstm", 1, "untied")

RUN_WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "seqapp", "export"):
    sys.modules[name] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter
file, given, made = sys.argv[1:]
interpreter, feed, results = Interpreter(file), dict(np.load(given)), {}
for name in ("step", "sequence", "prefill"):
    tokens = feed["tokens"][:, 0] if name == "step" else feed["tokens"]
    for key, value in interpreter.get_signature_runner(name)(**{**feed, "tokens": tokens}).items():
        results[f"{name}_{key}"] = value
np.savez(made, **results)
"""


def parameters(model: tuple[str, int, str]) -> int:
    return int(network_of(*model).model.count_params())


def stored(content: bytes) -> list[bytes]:
    """What the buffers of a file hold."""
    return [bytes(buffer.data) for buffer in flatbuffer.read(content).buffers if buffer.data is not None]


@each_model
def test_needs_built_in_operators_only(model: tuple[str, int, str]) -> None:
    content = tflite_of(*model)
    assert not [code.customCode for code in flatbuffer.read(content).operatorCodes if code.customCode]
    found = flatbuffer.operators(content)
    assert not [name for name in found if name.startswith(("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE"))]
    assert {"GATHER", "FULLY_CONNECTED", "WHILE", "DYNAMIC_UPDATE_SLICE"} <= found.keys()


@each_model
def test_holds_each_weight_once_and_little_else(model: tuple[str, int, str]) -> None:
    content = tflite_of(*model)
    data = stored(content)
    assert len(data) == len(set(data))
    # What is left for shapes, indices and gates' offsets is less than any weight matrix.
    assert sum(map(len, data)) <= 4 * parameters(model) + 900
    assert len(content) <= 4 * parameters(model) + 15_000 + 7_000 * model[1]


@each_model
def test_signatures_are_those_of_the_contract(model: tuple[str, int, str]) -> None:
    interpreter = Interpreter(model_content=tflite_of(*model))
    count = model[1] * CELLS[model[0]].states_per_cell
    assert sorted(interpreter.get_signature_list()) == ["prefill", "sequence", "step"]
    for name, given_axes, made_axes in (("step", 1, 1), ("sequence", 2, 2), ("prefill", 2, 1)):
        runner = interpreter.get_signature_runner(name)
        assert described(runner.get_input_details()) == {
            "tokens": (np.int32, [-1] * given_axes),
            **{f"state_{i}_in": (np.float32, [-1, UNITS]) for i in range(count)},
        }
        assert described(runner.get_output_details()) == {
            "logits": (np.float32, [*[-1] * made_axes, VOCABULARY]),
            **{f"state_{i}_out": (np.float32, [-1, UNITS]) for i in range(count)},
        }


def described(details: dict[str, Any]) -> dict[str, tuple[Any, list[int]]]:
    return {key: (tensor["dtype"], list(tensor["shape_signature"])) for key, tensor in details.items()}


def test_the_sequence_is_what_runs_where_no_signature_is_named() -> None:
    details = Interpreter(model_content=tflite_of(*LSTM)).get_input_details()
    assert sorted(list(tensor["shape_signature"]) for tensor in details) == [[-1, -1], [-1, UNITS], [-1, UNITS]]


def test_the_step_has_no_loop() -> None:
    model = flatbuffer.read(tflite_of("lstm", 2, "tied"))
    (number,) = [entry.subgraphIndex for entry in model.signatureDefs if entry.signatureKey == b"step"]
    names = {flatbuffer.operator_name(model, operator) for operator in model.subgraphs[number].operators}
    assert "FULLY_CONNECTED" in names
    assert "WHILE" not in names


@pytest.mark.parametrize("timesteps", [1, *(n + d for n in (SMALL, LARGE) for d in (-1, 0, 1)), 2 * LARGE + 1])
def test_blocks_end_where_they_should(timesteps: int, tmp_path: Path) -> None:
    network = network_of(*GRU)
    (tmp_path / "model.tflite").write_bytes(tflite_of(*GRU))
    tokens, states = tokens_of(2, timesteps), states_of(network, 2)
    runner = open_tflite(tmp_path / "model.tflite", Spec.of(network))
    wanted, wanted_after = KerasStepper(network).sequence(tokens, states)
    logits, after = runner.sequence(tokens, states)
    last, _ = runner.prefill(tokens, states)
    assert logits.shape == wanted.shape
    for a, b in zip((logits, last, *after), (wanted, wanted[:, -1], *wanted_after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_runs_where_tensorflow_and_keras_are_missing(tmp_path: Path) -> None:
    network = network_of("cifg", 2, "untied")
    (tmp_path / "model.tflite").write_bytes(tflite_of("cifg", 2, "untied"))
    tokens, states = tokens_of(3, 40), states_of(network, 3)
    np.savez(tmp_path / "given.npz", tokens=tokens, **{f"state_{i}_in": state for i, state in enumerate(states)})
    names = [str(tmp_path / name) for name in ("model.tflite", "given.npz", "made.npz")]
    command = [sys.executable, "-c", RUN_WITHOUT_TENSORFLOW, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, reference = np.load(tmp_path / "made.npz"), KerasStepper(network)
    logits, after = reference.sequence(tokens, states)
    for name, (wanted, wanted_after) in {
        "sequence": (logits, after),
        "prefill": (logits[:, -1], after),
        "step": reference.step(tokens[:, 0], states),
    }.items():
        np.testing.assert_allclose(made[f"{name}_logits"], wanted, rtol=1e-5, atol=1e-5)
        for i, state in enumerate(wanted_after):
            np.testing.assert_allclose(made[f"{name}_state_{i}_out"], state, rtol=1e-5, atol=1e-5)


def test_threads_change_nothing(tmp_path: Path) -> None:
    network = network_of(*LSTM)
    (tmp_path / "model.tflite").write_bytes(tflite_of(*LSTM))
    tokens, states = tokens_of(2, 20), states_of(network, 2)
    one, two = (open_tflite(tmp_path / "model.tflite", Spec.of(network), n).sequence(tokens, states) for n in (1, 2))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def of_floats() -> Network:
    return Network.of(of_features(layers.GRU(12, return_sequences=True), layers.LayerNormalization(), layers.Dense(5, "tanh")))


def test_features_in_and_outputs_out(of_floats: Network, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(tflite.float32(of_floats, Spec.of(of_floats)))
    runner = open_tflite(tmp_path / "model.tflite", Spec.of(of_floats))
    x = np.random.default_rng(3).normal(0, 2, (3, 70, 8)).astype(np.float32)
    found, (state,) = runner.sequence(x, states_of(of_floats, 3))
    wanted, (wanted_state,) = KerasStepper(of_floats, 8).sequence(x, states_of(of_floats, 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state, wanted_state, rtol=1e-5, atol=1e-5)


def test_ranges_are_those_of_a_stream_with_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    # These kernels are too small to be quantized, so that their products would not be looked at.
    monkeypatch.setattr(quantize, "SMALLEST", 1)
    network, spec = network_of(*LSTM), Spec.of(network_of(*LSTM))
    stream = tokens_of(1, 60)
    step = flatbuffer.only(tflite_of(*LSTM), "step")
    found = tflite.ranges(step, spec, stream[0])
    logits, _ = KerasStepper(network).sequence(stream, spec.initial_states(1))
    embedded = network.model.embedding.embeddings.numpy()[stream[0]]
    for values in (logits, embedded):  # the last product's result, and the first one's input
        assert any(np.allclose(bounds, (values.min(), values.max()), atol=1e-5) for bounds in found.values())
    assert len(found) == 2 * 3, "inputs and results of W·X, R·H and the logits"


@pytest.mark.parametrize("bundle", ["tagger_bundle", "classifier_bundle"])
def test_what_reads_both_ways_needs_built_in_operators_only(bundle: str, request: pytest.FixtureRequest) -> None:
    content = (request.getfixturevalue(bundle).folder / "model.tflite").read_bytes()
    assert not [code.customCode for code in flatbuffer.read(content).operatorCodes if code.customCode]
    found = flatbuffer.operators(content)
    assert not [name for name in found if name.startswith(("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE"))]
    assert {"FULLY_CONNECTED", "WHILE", "DYNAMIC_UPDATE_SLICE", "REVERSE_SEQUENCE"} <= found.keys()


def test_what_reads_both_ways_holds_each_weight_once(tagger_bundle: Exported) -> None:
    content = (tagger_bundle.folder / "model.tflite").read_bytes()
    data, weights = stored(content), 4 * tagger_bundle.model.count_params()
    assert len(data) == len(set(data))
    assert weights <= sum(map(len, data)) <= weights + 900
    # The operators of a loop in three blocks, for each layer and direction.
    assert len(content) <= weights + 4 * 9_000
    for layer in tagger_bundle.model.layers[1:3]:
        for part in (layer.forward_layer, layer.backward_layer):
            kernel = part.cell.recurrent_kernel.numpy()
            assert sum(data.count(array.tobytes()) for array in (kernel, kernel.T)) == 1
