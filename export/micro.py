"""Files for TensorFlow Lite Micro (TFLM), the runtime of microcontrollers: one timestep of batch 1, every shape a number.

TFLM reads no signatures: a file's inputs and outputs are those of the signature `step`, in its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from export import arena, flatbuffer
from export.runners import Feed, Runner
from export.spec import STEP, Signature, Spec, TensorSpec
from seqapp.errors import need

# What tflite-micro 0.dev20261023182759 has of all that a timestep may be made of, by the methods of its MicroMutableOpResolver
# without their "Add". Its convolutions, images, loops and variables are left out.
METHODS = (
    "Abs", "Add", "AddN", "ArgMax", "ArgMin", "BatchMatMul", "BroadcastArgs", "BroadcastTo", "Cast", "Ceil",
    "Concatenation", "Cos", "CumSum", "Dequantize", "Div", "DynamicUpdateSlice", "Elu", "EmbeddingLookup", "Equal", "Exp",
    "ExpandDims", "Fill", "Floor", "FloorDiv", "FloorMod", "FullyConnected", "Gather", "GatherNd", "Greater",
    "GreaterEqual", "HardSwish", "L2Normalization", "LeakyRelu", "Less", "LessEqual", "Log", "LogicalAnd", "LogicalNot",
    "LogicalOr", "Logistic", "LogSoftmax", "Maximum", "Mean", "Minimum", "MirrorPad", "Mul", "Neg", "NotEqual", "Pack",
    "Pad", "PadV2", "Prelu", "Quantize", "ReduceAll", "ReduceMax", "ReduceMin", "Relu", "Relu6", "Reshape", "ReverseV2",
    "Round", "Rsqrt", "SelectV2", "Sin", "Slice", "Softmax", "Split", "SplitV", "Sqrt", "Square", "SquaredDifference",
    "Squeeze", "StridedSlice", "Sub", "Sum", "Tanh", "Transpose", "Unpack", "ZerosLike",
)  # fmt: skip
_BUILTIN = {name.replace("_", "").lower(): name for name in flatbuffer.BUILTIN}
OPERATORS = {_BUILTIN[method.lower()]: f"Add{method}" for method in METHODS}
PACKAGE = "tflite-micro"  # of TFLM's interpreter
OF_SHAPES = ("SHAPE", "RANK")  # operators that look at no value


def micro(step: bytes, spec: Spec) -> bytes:
    """A file of `step` alone, in float32 or int8, made one for batch 1, with its inputs and outputs in the signature's order.

    LiteRT runs it once: each tensor keeps the shape that it has there, and what depends on nothing but the batch size keeps its
    value too, so that no operator is left which works on shapes.
    """
    model = flatbuffer.read(step)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    varying, interpreter = _varying(model), _after_a_step(step, spec)
    for index, tensor in enumerate(graph.tensors):
        if index in varying or model.buffers[tensor.buffer].data is None:
            value = interpreter.get_tensor(index)
            tensor.shape, tensor.shapeSignature = np.array(value.shape, np.int32), None
            if index not in varying:
                tensor.buffer = len(model.buffers)
                model.buffers.append(schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
    graph.operators = [node for node in graph.operators if not varying.isdisjoint(map(int, node.outputs))]
    for side in ("inputs", "outputs"):
        number = {entry.name.decode(): entry.tensorIndex for entry in getattr(signature, side)}
        setattr(graph, side, np.array([number[t.name] for t in getattr(spec.signatures[STEP], side)], np.int32))
    model.metadata = None  # the converter's notes to itself
    return flatbuffer.only(flatbuffer.write(model), STEP)


def _varying(model: Any) -> set[int]:
    """The tensors that the values of the inputs reach, not their shapes alone."""
    (graph,) = model.subgraphs
    found = set(map(int, graph.inputs))
    for node in graph.operators:
        if flatbuffer.operator_name(model, node) not in OF_SHAPES and not found.isdisjoint(map(int, node.inputs)):
            found.update(map(int, node.outputs))
    return found


def _after_a_step(step: bytes, spec: Spec) -> Any:
    """LiteRT's interpreter with all tensors of one step of batch 1."""
    engine = need("ai_edge_litert.interpreter", "litert")
    interpreter = engine.Interpreter(
        model_content=step,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=engine.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.get_signature_runner(STEP)(**{t.name: np.zeros(shape_of(t), t.dtype) for t in spec.signatures[STEP].inputs})
    return interpreter


def shape_of(tensor: TensorSpec) -> list[int]:
    """The shape of a tensor in batch 1."""
    return [1 if isinstance(axis, str) else axis for axis in tensor.shape]


def check_operators(content: bytes) -> Iterator[str]:
    """What a file needs that TFLM has not."""
    for name in flatbuffer.operators(content):
        if name not in OPERATORS:
            yield f"it needs the operator {name}, which TensorFlow Lite Micro has not, or not for a timestep: leave micro out"


def check_order(content: bytes, spec: Spec) -> Iterator[str]:
    """Whether the inputs and outputs, which TFLM knows by their order alone, are in the order of their names in `step`."""
    model = flatbuffer.read(content)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    for side in ("inputs", "outputs"):
        number = {entry.name.decode(): entry.tensorIndex for entry in getattr(signature, side)}
        wanted = [tensor.name for tensor in getattr(spec.signatures[STEP], side)]
        if [number.get(name) for name in wanted] != list(map(int, getattr(graph, side))):
            yield f"its {side} should be {', '.join(wanted)}, in this order"


def registered(content: bytes) -> list[str]:
    """The methods of `tflite::MicroMutableOpResolver` that register what a file needs."""
    return [OPERATORS[name] for name in flatbuffer.operators(content)]


def signatures(spec: Spec) -> dict[str, Signature]:
    """What the file declares: a `step` of batch 1."""
    step = spec.signatures[STEP]
    inputs, outputs = (tuple(replace(t, shape=tuple(shape_of(t))) for t in side) for side in (step.inputs, step.outputs))
    return {STEP: Signature(inputs, outputs)}


def open_micro(path: Path, spec: Spec) -> Runner:
    """The file in TFLM's interpreter, in the smallest arena that will do; a step takes batch 1 only.

    Raises:
        RuntimeError: TFLM refuses the file.
    """
    content, signature = path.read_bytes(), spec.signatures[STEP]
    interpreter = arena.interpreter(content, arena.arena_size(content))

    def step(feed: Feed) -> Feed:
        for number, tensor in enumerate(signature.inputs):
            interpreter.set_input(feed[tensor.name], number)
        interpreter.invoke()
        return {tensor.name: interpreter.get_output(number) for number, tensor in enumerate(signature.outputs)}

    return Runner(spec, {STEP: step}, largest_batch=1)


def described(content: bytes) -> dict[str, Any]:
    """What a manifest says of such a file alone: the arena, and what to register. Its signature has the tensors' order."""
    measured = {"bytes": arena.arena_size(content), "alignment": arena.ALIGNMENT, "pointers": "64 bits"}
    return {"arena": measured, "resolver": registered(content)}


def minimum_runtime() -> dict[str, str]:
    """TFLM has no releases: the version that the file was proved with, which is dated."""
    return {PACKAGE: metadata.version(PACKAGE)}
