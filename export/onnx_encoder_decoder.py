"""An encoder-decoder in ONNX, a file for each signature, for which `export.onnx_graph` has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.encoder_decoder import EncoderDecoder
from export.onnx_graph import save
from export.onnx_nodes import Graph
from export.onnx_recurrent import ahead, both, first, last
from export.spec import ATTENTION, DECODE_STEP, ENCODE, MEMORY, SEQUENCE_LENGTHS, TOKENS, TranslationSpec
from seqapp.translator import FAR_BELOW


def write(network: EncoderDecoder, spec: TranslationSpec, name: str, path: Path, precision: str = "float32") -> None:
    """Writes the signature `name` to the file `path`; with precision `int8`, its weights are kept in int8."""
    graph = Graph(precision)
    {ENCODE: _encode, DECODE_STEP: _decode_step}[name](graph, network, spec)
    save(graph, name, spec.signatures[name], path)


def _encode(graph: Graph, network: EncoderDecoder, spec: TranslationSpec) -> None:
    x, width = graph.stage(network.lookups[0], graph.add("Transpose", [TOKENS], perm=[1, 0]), 0)
    for number, stage in enumerate(network.encoder):
        x, width = both(graph, stage, f"encoder_{number}", x, width, False), stage.width
    graph.named("Transpose", [x], MEMORY, perm=[1, 0, 2])
    # Where each direction ends: the one that reads ahead at the end of a source, the other at its beginning.
    here = network.ahead_width
    ends = [_part(graph, last(graph, x), 0, here), _part(graph, first(graph, x), here, width)]
    states, _ = graph.stage(network.bridge, graph.add("Concat", ends, axis=2), width)
    begin = 0
    for state in spec.states:
        graph.named("Squeeze", [_part(graph, states, begin, begin + state.size), graph.integers(0)], state.output)
        begin += state.size


def _part(graph: Graph, x: str, begin: int, end: int) -> str:
    """A part of the last axis of x (T, B, F)."""
    return graph.add("Slice", [x, *(graph.integers(number) for number in (begin, end, 2))])


def _decode_step(graph: Graph, network: EncoderDecoder, spec: TranslationSpec) -> None:
    tokens = graph.add("Unsqueeze", [TOKENS, graph.integers(0)])
    x, width = graph.stage(network.lookups[1], tokens, 0)
    states, found = list(spec.states), ""
    for number, stage in enumerate(network.decoder):
        carried = [(state.input, state.output) for state in states[: len(stage.sizes)]]
        states = states[len(stage.sizes) :]
        x, width = ahead(graph, stage, f"decoder_{number}", x, width, carried), stage.width
        if number == 0:
            found = _attended(graph, graph.stage(network.query, x, width)[0])
        if number in (0, len(network.decoder) - 1):  # the second layer and the readout take what was found
            x, width = graph.add("Concat", [x, found], axis=2), width + spec.memory_size
    readout, output = network.tail
    x, width = graph.stage(readout, x, width)
    graph.last((output,), x, width, "of_step")
    graph.named("Squeeze", ["of_step", graph.integers(0)], spec.output)


def _attended(graph: Graph, query: str) -> str:
    """query (1, B, M) -> what it found in the memory (1, B, M); its weights (B, S) are an output of the graph."""
    column = graph.add("Transpose", [query], perm=[1, 2, 0])
    scores = graph.add("Squeeze", [graph.add("MatMul", [MEMORY, column]), graph.integers(2)])
    masked = graph.add("Where", [_known(graph), scores, graph.constant(np.float32(FAR_BELOW))])
    graph.named("Softmax", [masked], ATTENTION, axis=1)
    found = graph.add("MatMul", [graph.add("Unsqueeze", [ATTENTION, graph.integers(1)]), MEMORY])
    return graph.add("Transpose", [found], perm=[1, 0, 2])


def _known(graph: Graph) -> str:
    """Whether a timestep of the memory is within its source (B, S)."""
    size = graph.add("Slice", [graph.add("Shape", [MEMORY]), graph.integers(1), graph.integers(2)])
    numbers = graph.add("Range", [graph.scalar(0), graph.add("Squeeze", [size]), graph.scalar(1)])
    lengths = graph.add("Cast", [SEQUENCE_LENGTHS], to=TensorProto.INT64)
    given = [graph.add("Unsqueeze", [x, graph.integers(axis)]) for x, axis in ((numbers, 0), (lengths, 1))]
    return graph.add("Less", given)
