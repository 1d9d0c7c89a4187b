"""TensorFlow functions as ONNX nodes, by tf2onnx: for what is no operator of its own, such as a step of a user's cell."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from seqapp.errors import UsageError


@dataclass(frozen=True)
class Translated:
    """Nodes of a function; their names all begin with a prefix, but for those of its inputs."""

    nodes: list[onnx.NodeProto]
    weights: dict[str, NDArray[Any]]
    outputs: list[str]


def translate(
    function: Callable[..., Any], inputs: list[str], shapes: list[list[int | None]], prefix: str, opset: int
) -> Translated:
    """The nodes of a function of float32 tensors of the given names and shapes.

    Raises:
        UsageError: tf2onnx has no translation for an operation in it.
    """
    from tf2onnx import convert

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # its errors are raised too
    # A SavedModel that was loaded leaves its tables there, and tf2onnx has TensorFlow warn of each that it cannot write down.
    tf.compat.v1.get_default_graph().clear_collection("table_initializer")
    names = [f"in_{i}" for i in range(len(inputs))]
    specs = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in zip(names, shapes, strict=True)]
    try:
        proto, _ = convert.from_function(tf.function(function, autograph=False), input_signature=specs, opset=opset)
    except Exception as error:  # tf2onnx raises what it happens to meet
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"tf2onnx cannot translate {prefix} ({words[0]}): write it with other keras.ops, or leave ONNX out, "
            "with --format saved_model tflite."
        ) from None
    rename = _Names(dict(zip(names, inputs, strict=True)), prefix)
    nodes = [made for node in proto.graph.node for made in _known(node, prefix)]
    for node in nodes:
        rename.node(node)
    return Translated(
        nodes,
        {rename(weight.name): numpy_helper.to_array(weight) for weight in proto.graph.initializer},
        [rename(output.name) for output in proto.graph.output],
    )


def _known(node: onnx.NodeProto, prefix: str) -> list[onnx.NodeProto]:
    """The node, if ONNX has its operator: tf2onnx passes through what it does not know."""
    if node.op_type == "Erfc":  # of the exact GELU; ONNX has Erf
        erf, one = f"{node.output[0]}/erf", f"{node.output[0]}/one"
        return [
            helper.make_node("Erf", node.input, [erf]),
            helper.make_node("Constant", [], [one], value_float=1.0),
            helper.make_node("Sub", [one, erf], node.output),
        ]
    if not onnx.defs.has(node.op_type, node.domain):
        raise UsageError(
            f"ONNX has no operator for {node.op_type}, which {prefix} uses: write it with other keras.ops, or leave ONNX out, "
            "with --format saved_model tflite."
        )
    return [node]


@dataclass(frozen=True)
class _Names:
    """New names for those of a graph, in the bodies of its loops and branches too."""

    known: dict[str, str]
    prefix: str

    def __call__(self, name: str) -> str:
        return self.known.get(name, f"{self.prefix}/{name}") if name else ""

    def node(self, node: onnx.NodeProto) -> None:
        node.name = self(node.name)
        node.input[:] = map(self, node.input)
        node.output[:] = map(self, node.output)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                self.graph(attribute.g)

    def graph(self, graph: onnx.GraphProto) -> None:
        for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            named.name = self(named.name)
        for node in graph.node:
            self.node(node)
