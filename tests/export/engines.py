"""Files in their stock engines, with nothing of this project between them: the names are those of the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from tensorflow.lite.python import schema_py_generated as schema

from seqapp.step import Array

Named = dict[str, Array]
# Inputs and states -> logits and states.
Signature = Callable[[Array, list[Array]], tuple[Array, list[Array]]]
Whole = Callable[[Array, Array], Array]


def opened(path: Path) -> dict[str, Signature]:
    """The signatures of a SavedModel or a TFLite file; the one of an ONNX file, which with one timestep is `step` too."""
    found = {name: _signature(function) for name, function in _functions(path).items()}
    return {**found, "step": _one_timestep(found["sequence"])} if path.suffix == ".onnx" else found


def opened_whole(path: Path) -> Whole:
    """The only signature of a file that reads both ways: inputs and the lengths of its sequences -> its only output."""
    ((name, function),) = _functions(path).items()
    assert name == "sequence"

    def run(inputs: Array, lengths: Array) -> Array:
        given = {"tokens" if inputs.dtype == np.int32 else "features": inputs, "lengths": np.asarray(lengths, np.int32)}
        (output,) = function(**given).values()
        return output

    return run


def _functions(path: Path) -> dict[str, Callable[..., Named]]:
    if path.suffix == ".onnx":
        return {"sequence": _onnx(path)}
    if path.suffix == ".tflite":
        interpreter = Interpreter(str(path), num_threads=1)
        return {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    return {name: _arrays(function) for name, function in tf.saved_model.load(str(path)).signatures.items()}


def _signature(function: Callable[..., Named]) -> Signature:
    def run(inputs: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        name = "tokens" if inputs.dtype == np.int32 else "features"
        result = function(**{name: inputs}, **{f"state_{i}_in": state for i, state in enumerate(states)})
        return result["logits"], [result[f"state_{i}_out"] for i in range(len(states))]

    return run


def _arrays(function: Any) -> Callable[..., Named]:
    return lambda **feed: {
        name: value.numpy() for name, value in function(**{k: tf.constant(v) for k, v in feed.items()}).items()
    }


def _onnx(path: Path) -> Callable[..., Named]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **feed: dict(zip(names, session.run(names, feed), strict=True))


def _one_timestep(sequence: Signature) -> Signature:
    def step(inputs: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        logits, after = sequence(inputs[:, None], states)
        return logits[:, 0], after

    return step


def operators(path: Path) -> Counter[str]:
    """How often a TFLite or ONNX file uses each operator, in the bodies of its loops too."""
    if path.suffix == ".onnx":
        return Counter(node.op_type for graph in _graphs(onnx.load(path).graph) for node in graph.node)
    model = _flatbuffer(path)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return Counter(names[codes[node.opcodeIndex]] for graph in model.subgraphs for node in graph.operators)


def stored(path: Path) -> list[Array]:
    """The tensors that a TFLite or ONNX file stores, each buffer once and in one dimension."""
    if path.suffix == ".onnx":
        return [
            numpy_helper.to_array(weight).ravel() for graph in _graphs(onnx.load(path).graph) for weight in graph.initializer
        ]
    model = _flatbuffer(path)
    kinds = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16, schema.TensorType.INT8: np.int8}
    types = {tensor.buffer: tensor.type for graph in model.subgraphs for tensor in graph.tensors if tensor.type in kinds}
    data = {number: model.buffers[number].data for number in types}
    return [np.asarray(data[n]).view(kinds[types[n]]) for n in types if data[n] is not None]


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *(found for g in inner for found in _graphs(g))]


def _flatbuffer(path: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
