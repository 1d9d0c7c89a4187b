"""TFLite files as objects: what is written is the same model, without what nobody reads."""

from __future__ import annotations

import re
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from export import flatbuffer
from seqapp.step import Array
from tests.export.conftest import network_of, states_of, tflite_of, tokens_of

MODEL = ("lstm", 1, "untied")


@pytest.fixture(scope="module")
def content() -> bytes:
    return tflite_of(*MODEL)


def run(content: bytes, signature: str) -> dict[str, Array]:
    tokens = tokens_of(2, 9)
    states = {f"state_{i}_in": state for i, state in enumerate(states_of(network_of(*MODEL), 2))}
    runner = Interpreter(model_content=content).get_signature_runner(signature)
    return dict(runner(tokens=tokens[:, 0] if signature == "step" else tokens, **states))


def assert_same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)


def packed(model: Any) -> bytes:
    """A file as any other program would write it."""
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def placed(content: bytes) -> list[tuple[int, bytes]]:
    """Offset in the file and content of every buffer that holds data."""
    whole = np.frombuffer(content, np.uint8)
    model = schema.Model.GetRootAs(content, 0)
    found = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if model.Buffers(i).DataLength()]
    return [(int(data.ctypes.data - whole.ctypes.data), data.tobytes()) for data in found]


def test_what_is_read_is_written(content: bytes) -> None:
    again = flatbuffer.write(flatbuffer.read(content))
    assert len(again) <= len(content)
    for signature in ("step", "sequence", "prefill"):
        assert_same(run(again, signature), run(content, signature))


def test_equal_data_are_written_once(content: bytes) -> None:
    model = flatbuffer.read(content)
    for graph in model.subgraphs:  # a buffer of its own for each tensor, as the converter has them
        for tensor in graph.tensors:
            data, tensor.buffer = model.buffers[tensor.buffer].data, len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = data
    blown_up = packed(model)
    assert len(blown_up) > 1.5 * len(content)
    small = flatbuffer.write(flatbuffer.read(blown_up))
    assert len(small) <= len(content)
    assert_same(run(small, "sequence"), run(content, "sequence"))


def test_weights_lie_on_16_bytes(content: bytes) -> None:
    found = placed(content)
    assert sum(len(data) for _, data in found) >= 4 * network_of(*MODEL).model.count_params()
    assert [offset % 16 for offset, _ in found] == [0] * len(found)


def test_names_are_kept_in_signatures_alone(content: bytes) -> None:
    model = flatbuffer.read(content)
    assert {tensor.name for graph in model.subgraphs for tensor in graph.tensors} == {None}
    assert {tensor.name.decode() for entry in model.signatureDefs for tensor in entry.inputs} == {
        "tokens",
        "state_0_in",
        "state_1_in",
    }


def test_another_signature_may_come_first(content: bytes) -> None:
    turned = flatbuffer.write(flatbuffer.read(content), first="step")
    (step,) = [entry for entry in flatbuffer.read(turned).signatureDefs if entry.signatureKey == b"step"]
    assert step.subgraphIndex == 0
    for signature in ("step", "sequence", "prefill"):
        assert_same(run(turned, signature), run(content, signature))


def code(number: int, custom: bytes | None = None) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode, made.deprecatedBuiltinCode, made.customCode, made.version = number, min(number, 127), custom, 1
    return made


def graph(*codes: int) -> Any:
    """A graph of operators without tensors."""
    made = schema.SubGraphT()
    made.operators = []
    for number in codes:
        operator = schema.OperatorT()
        operator.opcodeIndex = number
        made.operators.append(operator)
    return made


def test_only_one_signature(content: bytes) -> None:
    step = flatbuffer.only(content, "step")
    assert Interpreter(model_content=step).get_signature_list().keys() == {"step"}
    assert_same(run(step, "step"), run(content, "step"))
    model = flatbuffer.read(step)
    assert len(model.subgraphs) == 1
    assert {operator.opcodeIndex for operator in model.subgraphs[0].operators} == set(range(len(model.operatorCodes)))
    used = {tensor.buffer for tensor in model.subgraphs[0].tensors} | {entry.buffer for entry in model.metadata}
    assert used | {0} == set(range(len(model.buffers)))


def test_operators_counts_all_subgraphs_and_names_custom_ones() -> None:
    model = schema.ModelT()
    model.operatorCodes = [code(schema.BuiltinOperator.ADD), code(schema.BuiltinOperator.CUSTOM, b"FlexSoftmax")]
    model.subgraphs = [graph(0, 1), graph(0, 0)]
    assert flatbuffer.operators(packed(model)) == {"ADD": 3, "FlexSoftmax": 1}


def test_operators_of_large_numbers_and_of_old_files() -> None:
    model, number = schema.ModelT(), schema.BuiltinOperator.DYNAMIC_UPDATE_SLICE
    old = code(schema.BuiltinOperator.ADD)
    old.builtinCode = 0  # before this field was there
    model.operatorCodes, model.subgraphs = [code(number), old], [graph(0, 1)]
    assert number > 127
    assert flatbuffer.operators(packed(model)) == {"ADD": 1, "DYNAMIC_UPDATE_SLICE": 1}


def test_minimum_runtime(content: bytes) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", flatbuffer.minimum_runtime(content))
    model = flatbuffer.read(content)
    flatbuffer.set_minimum_runtime(model, "2.99.0")
    assert flatbuffer.minimum_runtime(flatbuffer.write(model)) == "2.99.0"
