"""ONNX, written directly: one native recurrent operator for each layer, no loop.

The ONNX operators compute the same cells, their gates in other orders (ONNX documentation of RNN-14, LSTM-14 and GRU-14).
Weights of Keras are (F, gates·U), those of ONNX (directions, gates·U, F).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.spec import SEQUENCE, Spec
from export.spec import TensorSpec as NamedTensor
from seqapp.cells import CIFGCell, GRUCell, LSTMCell, PlainCell
from seqapp.errors import UsageError

Array = NDArray[np.float32]

OPSET = 17  # the newest that ONNX Runtime 1.13 and later all read
IR_VERSION = 8
TABLE = "embeddings"
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}


@dataclass(frozen=True)
class Native:
    """A cell as an ONNX operator: its weights W (1, gates·U, F), R (1, gates·U, U), B (1, 2·gates·U) and attributes."""

    operator: str
    w: Array
    r: Array
    b: Array
    attributes: dict[str, Any] = field(default_factory=dict)


def write_onnx(model: Any, spec: Spec, path: Path) -> None:
    """Writes the `sequence` signature to the file `path`; at time = 1 it is the step.

    Raises:
        UsageError: a cell has no native operator.
    """
    graph = _Graph()
    x = _embed(graph, model, graph.add("Transpose", ["tokens"], perm=[1, 0]))
    for number, recurrence in enumerate(model.recurrent):
        states = [state for state in spec.states if state.layer == number]
        x = _recurrent(graph, recurrence.cell, number, x, [s.input for s in states], [s.output for s in states])
    x = graph.add("Transpose", [x], perm=[1, 0, 2])
    _logits(graph, model, x)
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
    """How often each operator occurs in a file."""
    counts: dict[str, int] = {}
    for node in onnx.load(path).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def native(cell: Any) -> Native:
    """A cell's operator and its weights in that operator's order.

    Raises:
        UsageError: ONNX has no operator for it.
    """
    for kind, convert in _CONVERTERS.items():
        if type(cell) is kind:
            return convert(cell)
    raise UsageError(
        f"ONNX has no operator for the cell {type(cell).__name__}: leave ONNX out, with --format saved_model tflite."
    )


def _plain(cell: PlainCell) -> Native:
    name = keras.activations.serialize(cell.activation)
    if name not in ACTIVATIONS:
        raise UsageError(
            f"ONNX's RNN operator has no activation {name!r}, only {', '.join(ACTIVATIONS)}: "
            "leave ONNX out, with --format saved_model tflite."
        )
    kernel = _array(cell.kernel)
    w, r = kernel[cell.units :], kernel[: cell.units]
    return Native("RNN", _direction(w.T), _direction(r.T), _biases(_array(cell.bias)), {"activations": [ACTIVATIONS[name]]})


def _lstm(cell: LSTMCell) -> Native:
    def reorder(weights: Array) -> Array:  # i f g o -> i o f g
        i, f, g, o = np.split(weights, 4, axis=-1)
        return np.concatenate([i, o, f, g], axis=-1)

    return _gated("LSTM", cell, reorder, _biases(reorder(_array(cell.bias))))


def _cifg(cell: CIFGCell) -> Native:
    def reorder(weights: Array) -> Array:  # i g o -> i o f g; f is not read with input_forget, but has its place
        i, g, o = np.split(weights, 3, axis=-1)
        return np.concatenate([i, o, np.zeros_like(i), g], axis=-1)

    return _gated("LSTM", cell, reorder, _biases(reorder(_array(cell.bias))), {"input_forget": 1})


def _gru(cell: GRUCell) -> Native:
    b = _array(cell.bias).reshape(1, -1)  # the bias of W, then that of R, gate order z r h in both libraries
    return _gated("GRU", cell, lambda weights: weights, b, {"linear_before_reset": 1})


_CONVERTERS: dict[type, Callable[[Any], Native]] = {
    PlainCell: _plain, LSTMCell: _lstm, CIFGCell: _cifg, GRUCell: _gru
}  # fmt: skip


def _gated(
    operator: str, cell: Any, reorder: Callable[[Array], Array], b: Array, attributes: dict[str, Any] | None = None
) -> Native:
    w, r = reorder(_array(cell.kernel)), reorder(_array(cell.recurrent_kernel))
    return Native(operator, _direction(w.T), _direction(r.T), b, attributes or {})


def _array(variable: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


def _direction(weights: Array) -> Array:
    return np.ascontiguousarray(weights[None])


def _biases(b: Array) -> Array:
    """ONNX adds a bias with W and one with R; where a cell has one, the other is zero."""
    return np.concatenate([b, np.zeros_like(b)])[None]


def _embed(graph: _Graph, model: Any, tokens: str) -> str:
    """tokens (T, B) -> (T, B, E). A tied table holds the output bias as its last column, which is left out here."""
    table = _array(model.embedding.embeddings)
    if not model.tied:
        return graph.add("Gather", [graph.weight(TABLE, table), tokens])
    both = np.concatenate([table, _array(model.output_bias)[:, None]], axis=1)
    x = graph.add("Gather", [graph.weight(TABLE, both), tokens])
    return graph.add("Slice", [x, graph.integers(0), graph.integers(table.shape[1]), graph.integers(2)])


def _recurrent(graph: _Graph, cell: Any, number: int, x: str, inputs: list[str], outputs: list[str]) -> str:
    """x (T, B, F) -> (T, B, U)."""
    form = native(cell)
    weights = [graph.weight(f"layer_{number}_{name}", getattr(form, name)) for name in "wrb"]
    zero = graph.integers(0)
    # ONNX keeps an axis for the direction, which there is one of here: (1, B, U).
    before = [graph.add("Unsqueeze", [name, zero]) for name in inputs]
    after = [f"layer_{number}_state_{i}" for i in range(len(outputs))]
    y = f"layer_{number}_outputs"
    attributes = {**form.attributes, "hidden_size": cell.units}
    graph.nodes.append(helper.make_node(form.operator, [x, *weights, "", *before], [y, *after], **attributes))
    for name, output in zip(after, outputs, strict=True):
        graph.nodes.append(helper.make_node("Squeeze", [name, zero], [output]))
    return graph.add("Squeeze", [y, graph.integers(1)])


def _logits(graph: _Graph, model: Any, x: str) -> None:
    """x (B, T, U) -> logits, in one product: the bias is the kernel's last row, and x gets a last column of ones.

    Logits are the largest tensor by far; an addition or a reshape of its own would go over all of them again.
    """
    if model.tied and model.projection:
        x = graph.add("MatMul", [x, graph.weight("projection", _array(model.projection.kernel))])
    x = graph.add("Pad", [x, graph.integers(0, 0, 0, 0, 0, 1), graph.weight("one", np.ones((), np.float32))])
    if model.tied:
        kernel = graph.add("Transpose", [TABLE], perm=[1, 0])  # done once, when the engine loads the file
    else:
        rows = [_array(model.output_kernel), _array(model.output_bias)[None]]
        kernel = graph.weight("output_kernel_and_bias", np.concatenate(rows))
    graph.nodes.append(helper.make_node("MatMul", [x, kernel], ["logits"]))


class _Graph:
    """Nodes and weights in the making; each weight once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node of one output; returns the output's name."""
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weight(self, name: str, value: NDArray[Any]) -> str:
        if name not in [weight.name for weight in self.weights]:
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        return self.weight("integers_" + "_".join(map(str, values)).replace("-", "minus_"), np.array(values, np.int64))


def _value(tensor: NamedTensor) -> onnx.ValueInfoProto:
    kind = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}[tensor.dtype]
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)
