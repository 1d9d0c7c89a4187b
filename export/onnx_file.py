"""An ONNX file before an engine sees it, without the package `onnx`, which apps need not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Of each message in onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3), the fields that hold tensors.
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {13: "external data"},
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def check(path: Path) -> None:
    """Refuses a file whose tensors are in other files, which an engine would read wherever they are.

    Raises:
        ValueError: they are, or the file is no ONNX.
    """
    content = memoryview(path.read_bytes())
    if bytes(content[4:8]) == b"ORTM":
        raise ValueError("it is no ONNX file")
    left = [("model", content)]
    while left:
        message, part = left.pop()
        for field, value in _fields(part):
            inner = FIELDS[message].get(field)
            if inner == "external data":
                raise ValueError("a tensor of it is in another file")
            if inner:
                left.append((inner, value))


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The numbers and contents of the fields of a message that have a length."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind, size = key & 7, 0
        if kind == VARINT:
            _, at = _varint(content, at)
        elif kind == BYTES:
            size, at = _varint(content, at)
            if at + size > len(content):
                raise ValueError("it ends too early")
            yield key >> 3, content[at : at + size]
        elif kind not in (FIXED32, FIXED64):
            raise ValueError("it is no ONNX file")
        at += {BYTES: size, FIXED32: 4, FIXED64: 8}.get(kind, 0)


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for i in range(10):
        if at + i >= len(content):
            break
        value |= (content[at + i] & 0x7F) << 7 * i
        if content[at + i] < 0x80:
            return value, at + i + 1
    raise ValueError("it ends too early")
