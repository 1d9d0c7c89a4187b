"""Nodes and weights of an ONNX graph in the making."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.onnx_translation import Translated, translate
from export.stages import Affine, Lookup, Scaled

Array = NDArray[Any]

OPSET = 17  # the newest that ONNX Runtime 1.13 and later all read
SMALLEST = 1024  # elements of a weight that int8 is worth its operators for


class Graph:
    """Nodes and weights in the making; each weight once. Tensors are (T, B, ...)."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.names: dict[tuple[str, bytes], str] = {}

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node of one output; returns the output's name."""
        return self.named(operator, inputs, f"{operator.lower()}_{len(self.nodes)}", **attributes)

    def named(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node whose output has a name of its own."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, name: str = "constant") -> str:
        """A stored tensor; the same one for equal values."""
        value = np.ascontiguousarray(value)
        key = (f"{value.dtype}{value.shape}", hashlib.sha256(value.tobytes()).digest())
        if key not in self.names:
            self.names[key] = f"{name}_{len(self.weights)}"
            self.weights.append(numpy_helper.from_array(value, self.names[key]))
        return self.names[key]

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), "integers")

    def scalar(self, value: int) -> str:
        name = f"scalar_{value}"
        if all(weight.name != name for weight in self.weights):
            self.weights.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def weight(self, value: Any, name: str, axis: int) -> str:
        """A weight of two axes in the graph's precision; int8 has a scale for each index of `axis`.

        Not by DequantizeLinear: ONNX Runtime computes that at each call, and a cast and a product once, when it loads the file.
        """
        if self.precision != "int8" or value.size < SMALLEST:
            return self.constant(value, name)
        scales = (np.maximum(np.abs(value).max(axis=1 - axis, keepdims=True), 1e-12) / 127).astype(np.float32)
        small = self.constant(np.round(value / scales).astype(np.int8), name)
        return self.add("Mul", [self.add("Cast", [small], to=TensorProto.FLOAT), self.constant(scales, f"{name}_scales")])

    def stage(self, stage: Any, x: str, width: int) -> tuple[str, int]:
        """A stage that looks at one timestep alone: (..., F) -> the name and the width of its result."""
        if isinstance(stage, Lookup):
            table = _array(stage.table)
            return self.add("Gather", [self.weight(table, "table", 0), x]), table.shape[1]
        if isinstance(stage, Scaled):
            mean, deviation = (self.constant(np.array(v, np.float32)) for v in (stage.mean, stage.deviation))
            return self.add("Div", [self.add("Sub", [x, mean]), deviation]), width
        if not isinstance(stage, Affine):
            return self.inlined(stage, x, width, "pointwise")
        x, width = self.add("MatMul", [x, self.kernel(stage)]), _array(stage.kernel).shape[0 if stage.transposed else 1]
        if stage.bias is not None:
            x = self.add("Add", [x, self.constant(_array(stage.bias), "bias")])
        return (x, width) if stage.activation is None else self.inlined(stage.activation, x, width, "activation")

    def kernel(self, stage: Affine, *more_rows: str) -> str:
        """K (F, G) of a stage, with more rows (1, G) below it; put together once, when the engine loads the file."""
        kernel = self.weight(_array(stage.kernel), "kernel", 0 if stage.transposed else 1)
        kernel = self.add("Transpose", [kernel], perm=[1, 0]) if stage.transposed else kernel
        return self.add("Concat", [kernel, *more_rows], axis=0) if more_rows else kernel

    def last(self, stages: tuple[Any, ...], x: str, width: int, output: str) -> None:
        """The last stage, whose output has a name.

        Logits take one product, with the bias as the kernel's last row and a last column of ones for it: they are the largest
        tensor by far, and an addition of its own would go over all of them again.
        """
        stage = stages[0] if stages else None
        if isinstance(stage, Affine) and stage.bias is not None and stage.activation is None:
            x = self.add("Pad", [x, self.integers(0, 0, 0, 0, 0, 1), self.constant(np.ones((), np.float32))])
            kernel = self.kernel(stage, self.constant(_array(stage.bias)[None], "bias"))
            self.nodes.append(helper.make_node("MatMul", [x, kernel], [output]))
        else:
            x = x if stage is None else self.stage(stage, x, width)[0]
            self.nodes.append(helper.make_node("Identity", [x], [output]))

    def inlined(self, function: Callable[[Any], Any], x: str, width: int, name: str) -> tuple[str, int]:
        """A function of one timestep (..., F) -> (..., G), whole; the name and the width G of its result."""
        body = translate(function, [x], [[None, None, width]], f"{name}_{len(self.nodes)}", OPSET)
        self.nodes += [self.with_weights(node, body) for node in body.nodes]
        return body.outputs[0], int(function(tf.zeros((1, 1, width))).shape[-1])

    def with_weights(self, node: onnx.NodeProto, body: Translated) -> onnx.NodeProto:
        """A node with its weights stored in this graph, which bodies of loops see too."""
        for i, name in enumerate(node.input):
            if name in body.weights:
                value = body.weights[name]
                as_kernel = node.op_type == "MatMul" and i == 1 and value.ndim == 2
                node.input[i] = self.weight(value, name, 1) if as_kernel else self.constant(value, name)
        return node


def _array(variable: Any) -> Array:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable, np.float32)
