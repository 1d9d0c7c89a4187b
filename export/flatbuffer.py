"""TFLite files as objects: to read what is in them, and to write them small."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import flatbuffers
import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

IDENTIFIER = b"TFL3"
NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
BUILTIN = frozenset(NAMES.values()) - {"CUSTOM"}


def read(content: bytes) -> Any:
    """The flatbuffer of a file as objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def write(model: Any, first: str | None = None) -> bytes:
    """The file of a flatbuffer's objects, without what no runtime needs.

    That is names of inner tensors (signatures carry their own), empty quantization, a buffer for each tensor: in a small model,
    half of everything beside the weights. Equal loop bodies stay: signatures that share one break each other in LiteRT. The
    graph of the signature `first` comes first: it is the one that runs where a signature is not named.
    """
    if first:
        _put_first(model, first)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = None
            if tensor.quantization and tensor.quantization.scale is None:
                tensor.quantization = None
    for number, graph in enumerate(model.subgraphs):
        _sort_tensors(graph, [s for s in model.signatureDefs or [] if s.subgraphIndex == number])
    _share_buffers(model)
    builder = _SharingBuilder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _put_first(model: Any, signature: str) -> None:
    (entry,) = [s for s in model.signatureDefs if s.signatureKey.decode() == signature]
    one, other = 0, entry.subgraphIndex
    model.subgraphs[one], model.subgraphs[other] = model.subgraphs[other], model.subgraphs[one]
    for s in model.signatureDefs:
        s.subgraphIndex = {one: other, other: one}.get(s.subgraphIndex, s.subgraphIndex)


def _share_buffers(model: Any) -> None:
    """Leaves one of the buffers that are equal, and none that nothing uses; the first is always the empty one."""
    first: dict[bytes, int] = {b"": 0}
    kept = [model.buffers[0]]
    for holder in [*(t for g in model.subgraphs for t in g.tensors), *(model.metadata or [])]:
        data = model.buffers[holder.buffer].data
        key = b"" if data is None else bytes(data)
        if key not in first:
            first[key] = len(kept)
            kept.append(model.buffers[holder.buffer])
        holder.buffer = first[key]
    model.buffers = kept


def _sort_tensors(graph: Any, signatures: list[Any]) -> None:
    """Leaves the tensors that are used, in the order of their first use."""
    number: dict[int, int] = {-1: -1}  # an input that is left out
    lists = [
        (graph, "inputs"),
        *((node, side) for node in graph.operators for side in ("inputs", "outputs")),
        (graph, "outputs"),
    ]
    for owner, side in lists:
        for old in getattr(owner, side):
            number.setdefault(int(old), len(number) - 1)
        setattr(owner, side, np.array([number[int(old)] for old in getattr(owner, side)], np.int32))
    for entry in (entry for signature in signatures for entry in (*signature.inputs, *signature.outputs)):
        entry.tensorIndex = number[entry.tensorIndex]
    tensors = graph.tensors
    graph.tensors = [tensors[old] for old in list(number)[1:]]


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal arrays, above all the shapes of tensors, once, and aligns weights to 16 bytes as the format demands."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
        content = x.tobytes()
        key = (x.dtype.str, content)
        if key not in self.written:
            self.StartVector(x.itemsize, x.size, 16 if x.dtype == np.uint8 else x.itemsize)
            self.head: int = self.head - len(content)
            self.Bytes[self.Head() : self.Head() + len(content)] = content
            self.written[key] = self.EndVector()
        return self.written[key]


def operator_name(model: Any, operator: Any) -> str:
    """The built-in operator of a node, or a custom one's own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Numbers up to 127 used to be kept in a byte of their own.
    name = NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return str(code.customCode.decode()) if name == "CUSTOM" else name


@dataclass(frozen=True)
class Facts:
    """What validation and manifest ask of a file."""

    operators: dict[str, int]
    int8_tensors: int
    runtimes: tuple[str, ...]

    @classmethod
    def of(cls, model: Any) -> Self:
        counts: dict[str, int] = {}
        for graph in model.subgraphs:
            for operator in graph.operators:
                name = operator_name(model, operator)
                counts[name] = counts.get(name, 0) + 1
        kind, tensors = schema.TensorType.INT8, (t for graph in model.subgraphs for t in graph.tensors or [])
        whole = sum(t.type == kind and model.buffers[t.buffer].data is not None for t in tensors)
        runtimes = (bytes(buffer.data).rstrip(b"\0").decode() for buffer in _runtime_buffers(model))
        return cls(dict(sorted(counts.items())), whole, tuple(runtimes))


_KNOWN: dict[bytes, Facts] = {}


def facts(content: bytes) -> Facts:
    """They are kept: to read a file takes a tenth of a second."""
    digest = hashlib.sha256(content).digest()
    if digest not in _KNOWN:
        _KNOWN[digest] = Facts.of(read(content))
    return _KNOWN[digest]


def operators(content: bytes) -> dict[str, int]:
    """How often each operator occurs in all subgraphs of a file."""
    return dict(facts(content).operators)


def int8_tensors(content: bytes) -> int:
    """How many tensors of a file hold weights in int8."""
    return facts(content).int8_tensors


def only(content: bytes, signature: str) -> bytes:
    """The file with one signature, whose graph has no loop."""
    model = read(content)
    (kept,) = [s for s in model.signatureDefs if s.signatureKey.decode() == signature]
    model.subgraphs, model.signatureDefs = [model.subgraphs[kept.subgraphIndex]], [kept]
    kept.subgraphIndex = 0
    _share_codes(model)
    return write(model)


def _share_codes(model: Any) -> None:
    """Leaves the operator codes that are used."""
    used = sorted({node.opcodeIndex for graph in model.subgraphs for node in graph.operators})
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for graph in model.subgraphs:
        for node in graph.operators:
            node.opcodeIndex = used.index(node.opcodeIndex)


def minimum_runtime(content: bytes) -> str:
    """The runtime version that a file's operators need, as the converter wrote it."""
    (version,) = facts(content).runtimes
    return version


def set_minimum_runtime(model: Any, version: str) -> None:
    (buffer,) = _runtime_buffers(model)
    buffer.data = np.frombuffer(version.encode().ljust(16, b"\0"), np.uint8)


def _runtime_buffers(model: Any) -> list[Any]:
    return [model.buffers[entry.buffer] for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
