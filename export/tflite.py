"""TFLite (LiteRT): one file, both signatures, built-in operators only, every weight stored once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from export.graphs import builtin_functions
from export.saved_model import save
from export.spec import Spec

IDENTIFIER = b"TFL3"
BUILTIN = {
    name: number for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int) and name != "CUSTOM"
}


def write_tflite(model: Any, spec: Spec, path: Path) -> None:
    """Writes the model to the file `path`."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, builtin_functions(model, spec), Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(spec.signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        path.write_bytes(_slim(converter.convert()))


def read(content: bytes) -> Any:
    """The flatbuffer of a file as objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def operators(content: bytes) -> dict[str, int]:
    """How often each operator occurs in all subgraphs of a file; a custom one by its own name."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = read(content)
    counts: dict[str, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            # Numbers up to 127 used to be kept in a byte of their own.
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = code.customCode.decode() if names[number] == "CUSTOM" else names[number]
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


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


def _slim(content: bytes) -> bytes:
    """The same model without what no runtime reads: names of inner tensors, empty quantization, a buffer for each tensor.

    Signatures carry their own names. In a small model these are half of everything beside the weights.
    """
    model = read(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = None
            if tensor.quantization and tensor.quantization.scale is None:
                tensor.quantization = None
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data):
                tensor.buffer = 0
    used = sorted({0, *(t.buffer for g in model.subgraphs for t in g.tensors), *(m.buffer for m in model.metadata or [])})
    number = {old: new for new, old in enumerate(used)}
    model.buffers = [model.buffers[old] for old in used]
    for holder in [*(t for g in model.subgraphs for t in g.tensors), *(model.metadata or [])]:
        holder.buffer = number[holder.buffer]
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def minimum_runtime(content: bytes) -> str:
    """The runtime version that a file's operators need, as the converter wrote it."""
    model = read(content)
    (buffer,) = [entry.buffer for entry in model.metadata if entry.name == b"min_runtime_version"]
    return bytes(model.buffers[buffer].data).rstrip(b"\0").decode()
