"""Smaller weights for TFLite files, written into the float file itself: every signature then stays the same model.

TensorFlow's own quantizers are passed by: they store a tied table twice (once for the lookup, once for the product), refuse to
calibrate it at all, and their calibration of a loop kills the process (tensorflow#75140).

A row of a kernel (an output channel) has one scale, so a table's row is also what a token's lookup needs: int8 row × its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from export import flatbuffer
from export.flatbuffer import operator_name

Array = NDArray[Any]
Ranges = dict[int, tuple[float, float]]

SMALLEST = 1024  # elements; below this a weight's scales and operators outweigh what it saves
KINDS = schema.TensorType
CODES = schema.BuiltinOperator
NO_ACTIVATION = schema.ActivationFunctionType.NONE
# The versions of operators that take int8, or float16, and for FULLY_CONNECTED a scale for each channel.
VERSIONS = {"FULLY_CONNECTED": 12, "GATHER": 2, "DEQUANTIZE": 3}
MINIMUM_RUNTIME = "2.17.0"  # of ai-edge-litert 1.0.1, which runs all three; nothing older was tried


def split(content: bytes) -> bytes:
    """The file with a product of what was joined, as W·[H, X] is, made a sum of products: each part then has scales of its own.

    With one scale for all, a part that is ten times smaller than another has a tenth of the 256 steps.
    """
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        editor = Editor(model, graph)
        joins = {int(node.outputs[0]): node for node in graph.operators if editor.joins_columns(node)}
        nodes: list[Any] = []
        for node in graph.operators:
            join = joins.get(int(node.inputs[0])) if editor.is_product(node) else None
            nodes += editor.products(node, join) if join else [node]
        needed = {int(index) for node in nodes for index in node.inputs} | {int(index) for index in graph.outputs}
        graph.operators = [node for node in nodes if int(node.outputs[0]) in needed or int(node.outputs[0]) not in joins]
    return flatbuffer.write(model)


def dynamic_range(content: bytes) -> bytes:
    """Weights in int8, inputs of a product quantized as they come, everything else in float32."""

    def product(editor: Editor, node: Any) -> list[Any]:
        node.inputs = np.array([node.inputs[0], editor.kernel(node.inputs[1]), *node.inputs[2:]], np.int32)
        node.builtinOptions.asymmetricQuantizeInputs = True
        return [node]

    return _rewrite(content, product)


def int8(step: bytes, ranges: Ranges) -> bytes:
    """Products in 8-bit integers, states and gates in float32, for a file of `step` alone.

    A state in 8 bits would lose every update smaller than a 256th of its range; products are where the time goes.
    `ranges` has the smallest and largest value of each tensor that goes into a product or comes out of it (`product_tensors`).
    """

    def product(editor: Editor, node: Any) -> list[Any]:
        source, kernel, result = int(node.inputs[0]), editor.kernel(node.inputs[1]), int(node.outputs[0])
        quantized, before = editor.quantized(source, ranges[source])
        scales = editor.graph.tensors[kernel].quantization.scale * editor.graph.tensors[quantized].quantization.scale[0]
        bias = editor.bias(int(node.inputs[2]) if len(node.inputs) > 2 else -1, scales)
        whole = editor.like(result, KINDS.INT8, _scale_of(*ranges[result]))
        node.inputs, node.outputs = np.array([quantized, kernel, bias], np.int32), np.array([whole], np.int32)
        return [*before, node, editor.node("DEQUANTIZE", [whole], [result])]

    return _rewrite(step, product)


def float16(content: bytes) -> bytes:
    """Weights in float16; a product's are made float32 once, when the engine loads them, a lookup's row by row."""
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        editor = Editor(model, graph)
        nodes: list[Any] = []
        for node in graph.operators:
            if operator_name(model, node) == "GATHER" and editor.is_weight(node.inputs[0]):
                nodes += editor.half_lookup(node)
            else:
                weights = {int(index) for index in node.inputs if index >= 0 and editor.is_weight(index)}
                halves = {index: editor.half(index) for index in sorted(weights)}
                node.inputs = np.array([halves[index][0] if index in halves else index for index in node.inputs], np.int32)
                nodes += [*(made for _, before in halves.values() for made in before), node]
        graph.operators = nodes
    flatbuffer.set_minimum_runtime(model, MINIMUM_RUNTIME)
    return flatbuffer.write(model)


def product_tensors(step: bytes) -> list[int]:
    """The tensors of a `step` file whose ranges `int8` wants to know."""
    model = flatbuffer.read(step)
    (graph,) = model.subgraphs
    editor = Editor(model, graph)
    nodes = [node for node in graph.operators if editor.is_product(node)]
    return sorted({int(i) for node in nodes for i in (node.inputs[0], node.outputs[0])})


def _rewrite(content: bytes, product: Callable[[Editor, Any], list[Any]]) -> bytes:
    """The file with each product by a weight rewritten by `product`, and each lookup in a table of rows in int8."""
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        editor = Editor(model, graph)
        nodes: list[Any] = []
        for node in graph.operators:
            if editor.is_product(node):
                nodes += product(editor, node)
            elif operator_name(model, node) == "GATHER" and editor.is_weight(node.inputs[0]):
                nodes += editor.lookup(node)
            else:
                nodes.append(node)
        graph.operators = nodes
        editor.code("FULLY_CONNECTED")
    flatbuffer.set_minimum_runtime(model, MINIMUM_RUNTIME)
    return flatbuffer.write(model)


def _scale_of(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of int8 for a range, which is made to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-6) / 255
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def _quantization(scales: Array, zero_point: int = 0) -> Any:
    made = schema.QuantizationParametersT()
    made.scale, made.zeroPoint = scales.astype(np.float32), np.full(len(scales), zero_point, np.int64)
    return made


@dataclass
class Editor:
    """A subgraph in the making: new tensors and nodes."""

    model: Any
    graph: Any
    made: dict[tuple[str, int], int] = field(default_factory=dict)

    def is_weight(self, index: int) -> bool:
        tensor = self.graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        return tensor.type == KINDS.FLOAT32 and data is not None and len(data) >= 4 * SMALLEST

    def is_product(self, node: Any) -> bool:
        return operator_name(self.model, node) == "FULLY_CONNECTED" and self.is_weight(node.inputs[1])

    def joins_columns(self, node: Any) -> bool:
        """Whether a node joins tensors along their last axis, and does nothing else."""
        if operator_name(self.model, node) != "CONCATENATION":
            return False
        rank = len(self.graph.tensors[node.outputs[0]].shape)
        return node.builtinOptions.axis in (-1, rank - 1) and node.builtinOptions.fusedActivationFunction == NO_ACTIVATION

    def products(self, node: Any, join: Any) -> list[Any]:
        """A product of joined parts as one product for each and their sum, which takes over the activation."""
        kernel, result, nodes, total = self.weight(node.inputs[1]), int(node.outputs[0]), [], -1
        ends = np.cumsum([self.graph.tensors[part].shape[-1] for part in join.inputs])
        for number, (part, columns) in enumerate(zip(join.inputs, np.split(kernel, ends[:-1], axis=1), strict=True)):
            options, made = copy(node.builtinOptions), self.like(result, KINDS.FLOAT32)
            options.fusedActivationFunction = NO_ACTIVATION
            bias = node.inputs[2] if number == 0 and len(node.inputs) > 2 else -1
            weight = self.add(KINDS.FLOAT32, columns.shape, columns)
            nodes.append(self.node("FULLY_CONNECTED", [part, weight, bias], [made], options))
            if number:
                made, before = self.like(result, KINDS.FLOAT32), made
                nodes.append(self.node("ADD", [total, before], [made], schema.AddOptionsT()))
            total = made
        nodes[-1].outputs = np.array([result], np.int32)
        nodes[-1].builtinOptions.fusedActivationFunction = node.builtinOptions.fusedActivationFunction
        return nodes

    def weight(self, index: int) -> Array:
        tensor = self.graph.tensors[index]
        return np.frombuffer(bytes(self.model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)

    def rows(self, index: int) -> tuple[Array, Array]:
        """A weight's rows in int8, -127 to 127, and the scale of each."""
        weight = self.weight(index)
        scales = np.maximum(np.abs(weight).reshape(len(weight), -1).max(axis=1), 1e-12) / 127
        return np.round(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8), scales.astype(np.float32)

    def kernel(self, index: int) -> int:
        """A weight in int8 with its scales, as a product takes it."""
        if ("kernel", index) not in self.made:
            values, scales = self.rows(index)
            tensor = self.add(KINDS.INT8, values.shape, values)
            self.graph.tensors[tensor].quantization = _quantization(scales)
            self.made["kernel", index] = tensor
        return self.made["kernel", index]

    def bias(self, index: int, scales: Array) -> int:
        """A bias in int32, in units of input scale × kernel scale; -1 is none."""
        if index < 0:
            return index
        value = np.frombuffer(bytes(self.model.buffers[self.graph.tensors[index].buffer].data), np.float32)
        made = self.add(KINDS.INT32, value.shape, np.round(value / scales).astype(np.int32))
        self.graph.tensors[made].quantization = _quantization(scales)
        return made

    def quantized(self, index: int, bounds: tuple[float, float]) -> tuple[int, list[Any]]:
        """A tensor in int8, and the node that makes it so, unless one did already."""
        if ("quantized", index) in self.made:
            return self.made["quantized", index], []
        self.made["quantized", index] = made = self.like(index, KINDS.INT8, _scale_of(*bounds))
        return made, [self.node("QUANTIZE", [index], [made])]

    def lookup(self, node: Any) -> list[Any]:
        """Rows of int8 and their scales, multiplied: what the lookup in a table of float32 gave."""
        table, tokens, result = int(node.inputs[0]), int(node.inputs[1]), int(node.outputs[0])
        values, scales = self.rows(table)
        rows, cast, factors = self.like(result, KINDS.INT8), self.like(result, KINDS.FLOAT32), self.like(result, KINDS.FLOAT32)
        _narrow(self.graph.tensors[factors])
        return [
            self.node("GATHER", [self.add(KINDS.INT8, values.shape, values), tokens], [rows], node.builtinOptions),
            self.node("GATHER", [self.add(KINDS.FLOAT32, (len(scales), 1), scales), tokens], [factors], node.builtinOptions),
            self.node("CAST", [rows], [cast], schema.CastOptionsT(inDataType=KINDS.INT8, outDataType=KINDS.FLOAT32)),
            self.node("MUL", [cast, factors], [result], schema.MulOptionsT()),
        ]

    def half(self, index: int) -> tuple[int, list[Any]]:
        """A weight of float16 made float32, and the node that makes it so, unless one did already."""
        if ("half", index) in self.made:
            return self.made["half", index], []
        value = self.weight(index).astype(np.float16)
        self.made["half", index] = made = self.add(KINDS.FLOAT32, value.shape)
        return made, [self.node("DEQUANTIZE", [self.add(KINDS.FLOAT16, value.shape, value)], [made])]

    def half_lookup(self, node: Any) -> list[Any]:
        """The rows that are looked up, made float32. LiteRT 1.0 looks up no float16, so their bits are taken as integers."""
        value = self.weight(int(node.inputs[0])).astype(np.float16)
        tokens, result = int(node.inputs[1]), int(node.outputs[0])
        bits, rows = self.like(result, KINDS.INT16), self.like(result, KINDS.FLOAT16)
        return [
            self.node("GATHER", [self.add(KINDS.INT16, value.shape, value), tokens], [bits], node.builtinOptions),
            self.node("BITCAST", [bits], [rows], schema.BitcastOptionsT()),
            self.node("DEQUANTIZE", [rows], [result]),
        ]

    def add(self, kind: int, shape: Any, values: Array | None = None) -> int:
        tensor = schema.TensorT()
        tensor.type, tensor.shape, tensor.buffer = kind, np.array(shape, np.int32), 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def like(self, index: int, kind: int, scale: tuple[float, int] | None = None) -> int:
        """A tensor of another's shape."""
        made = self.add(kind, self.graph.tensors[index].shape)
        self.graph.tensors[made].shapeSignature = self.graph.tensors[index].shapeSignature
        if scale:
            self.graph.tensors[made].quantization = _quantization(np.array(scale[:1]), scale[1])
        return made

    def node(self, name: str, inputs: list[int], outputs: list[int], options: Any = None) -> Any:
        node = schema.OperatorT()
        node.opcodeIndex = self.code(name)
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            node.builtinOptions = options
            node.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return node

    def code(self, name: str) -> int:
        """The number of an operator in the file, in the version that its new nodes need."""
        number = getattr(CODES, name)
        codes = [code.builtinCode for code in self.model.operatorCodes]
        if number not in codes:
            made = schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode, made.version = number, min(number, 127), 1
            self.model.operatorCodes.append(made)
            codes.append(number)
        found = self.model.operatorCodes[codes.index(number)]
        found.version = max(found.version, VERSIONS.get(name, 1))
        return codes.index(number)


def _narrow(tensor: Any) -> None:
    """Makes the last axis of a tensor 1."""
    for name in ("shape", "shapeSignature"):
        if getattr(tensor, name) is not None:
            setattr(tensor, name, np.array([*getattr(tensor, name)[:-1], 1], np.int32))
