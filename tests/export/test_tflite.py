"""TFLite files: built-in operators only, each weight once, nothing beside them that a runtime does not read."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from export.runners import open_tflite
from export.spec import Spec
from export.tflite import minimum_runtime, operators, write_tflite
from seqapp.cells import CELLS
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper

VOCABULARY, UNITS = 61, 16
MODELS = [(cell, layers) for cell in CELLS for layers in (1, 2)]
each_model = pytest.mark.parametrize(("cell", "layers"), MODELS)

RUN_WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "seqapp", "export"):
    sys.modules[name] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter
file, given, made = sys.argv[1:]
interpreter, feed, results = Interpreter(file), dict(np.load(given)), {}
for name in ("step", "sequence"):
    tokens = feed["tokens"] if name == "sequence" else feed["tokens"][:, 0]
    for key, value in interpreter.get_signature_runner(name)(**{**feed, "tokens": tokens}).items():
        results[f"{name}_{key}"] = value
np.savez(made, **results)
"""


@cache
def model_of(cell: str, layers: int) -> SequenceModel:
    """Large weights, no two alike; one layer tied to the embedding, two through a projection."""
    embedding = UNITS if layers == 1 else 24
    model = build_model(ModelConfig(cell=cell, layers=layers, units=UNITS, embedding=embedding), VOCABULARY)
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    return model


@cache
def content_of(cell: str, layers: int) -> bytes:
    model = model_of(cell, layers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        write_tflite(model, Spec.of(model), path)
        return path.read_bytes()


def buffers(content: bytes) -> list[tuple[int, bytes]]:
    """Offset in the file and content of every buffer that holds data."""
    whole = np.frombuffer(content, np.uint8)
    model = schema.Model.GetRootAs(content, 0)
    found = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if model.Buffers(i).DataLength()]
    return [(int(data.ctypes.data - whole.ctypes.data), data.tobytes()) for data in found]


def first_states(model: SequenceModel, batch: int) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.normal(0, 3, (batch, size)).astype(np.float32) for size in model.state_sizes]


@each_model
def test_needs_built_in_operators_only(cell: str, layers: int) -> None:
    content = content_of(cell, layers)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    assert not [code.customCode for code in model.operatorCodes if code.customCode]
    found = operators(content)
    assert not [name for name in found if name.startswith(("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE"))]
    assert {"GATHER", "FULLY_CONNECTED", "WHILE", "DYNAMIC_UPDATE_SLICE"} <= found.keys()
    assert sum(found.values()) == sum(len(graph.operators) for graph in model.subgraphs)


@each_model
def test_is_hardly_larger_than_its_parameters(cell: str, layers: int) -> None:
    assert len(content_of(cell, layers)) <= 4 * model_of(cell, layers).count_params() + 20_000


@each_model
def test_holds_each_weight_once(cell: str, layers: int) -> None:
    stored = [data for _, data in buffers(content_of(cell, layers))]
    assert len(stored) == len(set(stored))
    # What is left for shapes, indices and gates' offsets is less than any weight matrix.
    assert sum(map(len, stored)) <= 4 * model_of(cell, layers).count_params() + 900


@each_model
def test_data_is_aligned_to_16_bytes(cell: str, layers: int) -> None:
    found = buffers(content_of(cell, layers))
    assert sum(len(data) for _, data in found) >= 4 * model_of(cell, layers).count_params()
    assert [offset % 16 for offset, _ in found] == [0] * len(found)


@each_model
def test_signatures_are_those_of_the_contract(cell: str, layers: int) -> None:
    interpreter = Interpreter(model_content=content_of(cell, layers))
    count = layers * (2 if cell in ("lstm", "cifg") else 1)
    assert sorted(interpreter.get_signature_list()) == ["sequence", "step"]
    for name, axes in (("step", [-1]), ("sequence", [-1, -1])):
        runner = interpreter.get_signature_runner(name)
        assert described(runner.get_input_details()) == {
            "tokens": (np.int32, axes),
            **{f"state_{i}_in": (np.float32, [-1, UNITS]) for i in range(count)},
        }
        assert described(runner.get_output_details()) == {
            "logits": (np.float32, [*axes, VOCABULARY]),
            **{f"state_{i}_out": (np.float32, [-1, UNITS]) for i in range(count)},
        }


def described(details: dict[str, Any]) -> dict[str, tuple[Any, list[int]]]:
    return {key: (tensor["dtype"], list(tensor["shape_signature"])) for key, tensor in details.items()}


def test_loops_are_in_the_sequence_only() -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content_of("lstm", 2), 0))
    (number,) = [d.subgraphIndex for d in model.signatureDefs if d.signatureKey == b"step"]
    codes = {model.operatorCodes[operator.opcodeIndex].builtinCode for operator in model.subgraphs[number].operators}
    assert schema.BuiltinOperator.FULLY_CONNECTED in codes
    assert schema.BuiltinOperator.WHILE not in codes


@pytest.mark.parametrize("timesteps", [1, 31, 32, 33, 511, 512, 513, 1025])
def test_blocks_end_where_they_should(timesteps: int, tmp_path: Path) -> None:
    model = model_of("gru", 2)
    (tmp_path / "model.tflite").write_bytes(content_of("gru", 2))
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, timesteps)).astype(np.int32)
    states = first_states(model, 2)
    logits, after = open_tflite(tmp_path / "model.tflite", Spec.of(model)).sequence(tokens, states)
    wanted, wanted_after = KerasStepper(model).sequence(tokens, states)
    assert logits.shape == wanted.shape
    for a, b in zip((logits, *after), (wanted, *wanted_after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_runs_where_tensorflow_and_keras_are_missing(tmp_path: Path) -> None:
    model = model_of("cifg", 2)
    (tmp_path / "model.tflite").write_bytes(content_of("cifg", 2))
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (3, 40)).astype(np.int32)
    states = first_states(model, 3)
    np.savez(tmp_path / "given.npz", tokens=tokens, **{f"state_{i}_in": state for i, state in enumerate(states)})
    names = [str(tmp_path / name) for name in ("model.tflite", "given.npz", "made.npz")]
    command = [sys.executable, "-c", RUN_WITHOUT_TENSORFLOW, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, reference = np.load(tmp_path / "made.npz"), KerasStepper(model)
    for name, (logits, after) in {
        "sequence": reference.sequence(tokens, states),
        "step": reference.step(tokens[:, 0], states),
    }.items():
        np.testing.assert_allclose(made[f"{name}_logits"], logits, rtol=1e-5, atol=1e-5)
        for i, state in enumerate(after):
            np.testing.assert_allclose(made[f"{name}_state_{i}_out"], state, rtol=1e-5, atol=1e-5)


def test_threads_change_nothing(tmp_path: Path) -> None:
    model = model_of("lstm", 1)
    (tmp_path / "model.tflite").write_bytes(content_of("lstm", 1))
    tokens, states = np.arange(40, dtype=np.int32).reshape(2, 20), first_states(model, 2)
    one, two = (open_tflite(tmp_path / "model.tflite", Spec.of(model), threads).sequence(tokens, states) for threads in (1, 2))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6, atol=1e-6)


def test_operators_counts_all_subgraphs_and_names_custom_ones() -> None:
    codes = []
    for builtin, custom in ((schema.BuiltinOperator.ADD, None), (schema.BuiltinOperator.CUSTOM, b"FlexSoftmax")):
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = builtin, min(builtin, 127), custom
        codes.append(code)
    model = schema.ModelT()
    model.operatorCodes, model.subgraphs = codes, [subgraph(0, 1), subgraph(0, 0)]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert operators(bytes(builder.Output())) == {"ADD": 3, "FlexSoftmax": 1}


def subgraph(*codes: int) -> Any:
    graph = schema.SubGraphT()
    graph.operators = []
    for code in codes:
        operator = schema.OperatorT()
        operator.opcodeIndex = code
        graph.operators.append(operator)
    return graph


def test_minimum_runtime_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", minimum_runtime(content_of("plain", 1)))
