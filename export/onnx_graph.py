"""ONNX, written directly: for each layer its native operator where there is one, else a Scan around the cell's own step."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.network import Network
from export.onnx_nodes import OPSET, Graph
from export.onnx_recurrent import ahead, both, last
from export.spec import SEQUENCE, Signature, Spec
from export.spec import TensorSpec as NamedTensor
from export.stages import Both, Recurrent

IR_VERSION = 8


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
        name, ends = f"layer_{number}", spec.last_only and stage is network.head[-1]
        if isinstance(stage, Both):
            x, width = both(graph, stage, name, x, width, ends), stage.width
        elif isinstance(stage, Recurrent):
            carried = None if spec.both_ways else [(s.input, s.output) for s in islice(states, len(stage.sizes))]
            x, width = ahead(graph, stage, name, x, width, carried, spec.last_only), stage.width
            x = last(graph, x) if ends else x
        else:
            x, width = graph.stage(stage, x, width)
    x = graph.add("Transpose", [x], perm=[1, 0, 2])
    for stage in network.tail[:-1]:
        x, width = graph.stage(stage, x, width)
    whole = "outputs" if spec.parts else spec.output
    graph.last(network.tail[-1:], x, width, "of_last" if spec.last_only else whole)
    if spec.last_only:
        graph.named("Squeeze", ["of_last", graph.integers(1)], whole)
    if spec.parts:
        names, widths = zip(*spec.parts, strict=True)
        graph.nodes.append(helper.make_node("Split", [whole, graph.integers(*widths)], names, axis=-1))
    save(graph, SEQUENCE, spec.signatures[SEQUENCE], path)


def save(graph: Graph, name: str, signature: Signature, path: Path) -> None:
    """Writes the file of one signature; its graph bears the name."""
    inputs, outputs = ([_value(tensor) for tensor in side] for side in (signature.inputs, signature.outputs))
    proto = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.weights),
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


def _value(tensor: NamedTensor) -> onnx.ValueInfoProto:
    kind = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}[tensor.dtype]
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)
