"""ONNX, written directly: for each layer its native operator where there is one, else a Scan around the cell's own step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.network import Affine, Lookup, Network, Recurrent
from export.onnx_cells import Gates, Native, native
from export.onnx_translation import Translated, translate
from export.spec import SEQUENCE, Spec, State
from export.spec import TensorSpec as NamedTensor
from seqapp.cells import by_halves

Array = NDArray[Any]

OPSET = 17  # the newest that ONNX Runtime 1.13 and later all read
IR_VERSION = 8
SMALLEST = 1024  # elements of a weight that int8 is worth its operators for


def write_onnx(network: Network, spec: Spec, path: Path, precision: str = "float32") -> None:
    """Writes the `sequence` signature to the file `path`; at time = 1 it is the step.

    With precision `int8`, weights are kept in int8 with a scale for each output of a product; engines make float32 of them
    once, when they load the file.
    """
    graph = Graph(precision)
    states = iter(spec.states)
    # Recurrent operators want the timesteps first.
    x = graph.add("Transpose", [spec.input], perm=[1, 0] if spec.features is None else [1, 0, 2])
    width = spec.features or 0
    for number, stage in enumerate(network.head):
        if isinstance(stage, Recurrent):
            x = graph.recurrent(stage, f"layer_{number}", x, width, [next(states) for _ in stage.sizes])
            width = stage.width
        else:
            x, width = graph.stage(stage, x, width)
    x = graph.add("Transpose", [x], perm=[1, 0, 2])
    for stage in network.tail[:-1]:
        x, width = graph.stage(stage, x, width)
    graph.last(network.tail[-1:], x, width, spec.output)
    signature = spec.signatures[SEQUENCE]
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes, SEQUENCE, [_value(t) for t in signature.inputs], [_value(t) for t in signature.outputs], graph.weights
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="seqapp",
    )
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def operators(path: Path) -> dict[str, int]:
    """How often each operator occurs in a file, in the bodies of its loops too."""
    counts: dict[str, int] = {}

    def count(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    count(attribute.g)

    count(onnx.load(path).graph)
    return dict(sorted(counts.items()))


def int8_tensors(path: Path) -> int:
    """How many weights of a file are in int8."""
    return sum(weight.data_type == TensorProto.INT8 for weight in onnx.load(path).graph.initializer)


class Graph:
    """Nodes and weights in the making; each weight once. Tensors are (T, B, ...)."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.names: dict[tuple[str, bytes], str] = {}

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node of one output; returns the output's name."""
        output = f"{operator.lower()}_{len(self.nodes)}"
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

    def recurrent(self, stage: Recurrent, name: str, x: str, width: int, states: list[State]) -> str:
        """x (T, B, F) -> (T, B, U)."""
        form = native(stage.cell)
        return self.scan(stage, name, x, width, states) if form is None else self.native(form, name, x, states)

    def native(self, form: Native, name: str, x: str, states: list[State]) -> str:
        weights = [self.gates(gates, f"{name}_{kind}") for gates, kind in ((form.w, "w"), (form.r, "r"))]
        bias = self.biases(form.b, states[0].size, f"{name}_b")
        zero = self.integers(0)
        # ONNX keeps an axis for the direction, which there is one of here: (1, B, U).
        before = [self.add("Unsqueeze", [state.input, zero]) for state in states]
        after = [f"{name}_state_{i}" for i in range(len(states))]
        y = f"{name}_outputs"
        inputs = [x, *weights, bias, "", *before]
        attributes = {**form.attributes, "hidden_size": states[0].size}
        self.nodes.append(helper.make_node(form.operator, inputs, [y, *after], **attributes))
        for made, state in zip(after, states, strict=True):
            self.nodes.append(helper.make_node("Squeeze", [made, zero], [state.output]))
        return self.add("Squeeze", [y, self.integers(1)])

    def gates(self, gates: Gates, name: str) -> str:
        """The kernels (U, F) of all gates as (1, gates·U, F); for None, zeros made when the engine loads the file."""
        parts: list[str] = []
        for none, run in _runs(gates):
            if none:
                shape = [
                    len(run) * next(g.shape[0] for g in gates if g is not None),
                    next(g.shape[1] for g in gates if g is not None),
                ]
                parts.append(self.add("ConstantOfShape", [self.integers(*shape)]))
            else:
                parts.append(self.weight(np.concatenate(run), name, 0))
        whole = parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=0)
        return self.add("Unsqueeze", [whole, self.integers(0)])

    def biases(self, gates: Gates, units: int, name: str) -> str:
        """The biases (1, 2·gates·U), or no input where all are zero."""
        if all(gate is None for gate in gates):
            return ""
        zeros = np.zeros(units, np.float32)
        return self.constant(np.concatenate([zeros if gate is None else gate for gate in gates])[None], name)

    def scan(self, stage: Recurrent, name: str, x: str, width: int, states: list[State]) -> str:
        """A Scan over the timesteps, around the cell's own step; the input half of its product at once, where it is apart."""
        step = stage.step
        if by_halves(stage.cell):
            x, width = self.inlined(stage.cell.project, x, width, f"{name}_projection")
            step = stage.cell.recur

        def flat(*given: Any) -> list[Any]:
            y, after = step(given[-1], list(given[:-1]))
            return [*tf.nest.flatten(after), y]

        sizes = [state.size for state in states]
        inputs = [*(f"{name}_before_{i}" for i in range(len(states))), f"{name}_now"]
        body = translate(flat, inputs, [[None, n] for n in (*sizes, width)], name, OPSET)
        graph = helper.make_graph(
            [self.with_weights(node, body) for node in body.nodes],
            name,
            [_float(n, (None, size)) for n, size in zip(inputs, (*sizes, width), strict=True)],
            [_float(n, (None, size)) for n, size in zip(body.outputs, (*sizes, stage.width), strict=True)],
        )
        y = f"{name}_outputs"
        before, after = [state.input for state in states], [state.output for state in states]
        self.nodes.append(helper.make_node("Scan", [*before, x], [*after, y], body=graph, num_scan_inputs=1))
        return y

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


def _runs(gates: Gates) -> list[tuple[bool, list[Any]]]:
    """The gates, those in a row that are None or that are not taken together."""
    return [(none, list(run)) for none, run in groupby(gates, lambda gate: gate is None)]


def _array(variable: Any) -> Array:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable, np.float32)


def _float(name: str, shape: tuple[int | None, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _value(tensor: NamedTensor) -> onnx.ValueInfoProto:
    kind = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}[tensor.dtype]
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)
