"""Cells of matrices in files of MATLAB, version 5 ("MAT-File Format", The MathWorks, chapter 1).

SciPy's reader is written in C and takes damaged files for granted: some end the process.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.untrusted import FREE, RATIO

TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15
CELL = 1
PIECE = 16 << 20  # bytes that are unpacked at once
NUMBERS = range(6, 16)  # classes of matrices of numbers

Element = tuple[int, memoryview]


def read(path: Path, names: Collection[str]) -> dict[str, list[NDArray[Any] | None]]:
    """The cells with some names: of each the matrices (M, N), None where one holds something else.

    Raises:
        ValueError: the file is of another format, or damaged.
    """
    content = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None or bytes(content[124:126]) not in (b"\0\1", b"\1\0"):
        raise ValueError("it is no MAT-file of version 5")
    found: dict[str, list[NDArray[Any] | None]] = {}
    for kind, whole in _elements(content[128:], order):
        inner = list(_elements(_unpacked(whole), order)) if kind == COMPRESSED else [(kind, whole)]
        for matrix in (content for kind, content in inner if kind == MATRIX):
            name, class_, _, parts = _matrix(matrix, order)
            if class_ == CELL and name in names:
                found[name] = [_numbers(part, order) for part in parts if part[0] == MATRIX]
    return found


def _elements(content: memoryview, order: str) -> Iterator[Element]:
    """Types and contents, one after the other."""
    at = 0
    while at + 8 <= len(content):
        kind, size = (int(number) for number in np.frombuffer(content, f"{order}u4", 2, at))
        if kind >> 16:  # a small element has its size there, and its content in place of the size
            kind, size, begin, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError("a small element is too large")
        else:
            begin = at + 8
            end = begin + size if kind == COMPRESSED else begin + -(-size // 8) * 8
        if begin + size > len(content):
            raise ValueError("it ends too early")
        yield kind, content[begin : begin + size]
        at = end
    if at < len(content):
        raise ValueError("it ends too early")


def _unpacked(content: memoryview) -> memoryview:
    limit = max(FREE, RATIO * len(content))
    stream = zlib.decompressobj()
    found, rest = bytearray(), bytes(content)
    try:
        while not stream.eof and len(found) <= limit and (part := stream.decompress(rest, PIECE)):
            found += part
            rest = stream.unconsumed_tail
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof:
        raise ValueError("a part ends too early, or unpacks to more than it may")
    return memoryview(found)


def _matrix(content: memoryview, order: str) -> tuple[str, int, tuple[int, ...], list[Element]]:
    """The name, the class and the shape of a matrix, and what it holds."""
    parts = list(_elements(content, order))
    if len(parts) < 3 or len(parts[0][1]) < 4 or len(parts[1][1]) % 4:
        raise ValueError("a matrix has no head")
    flags = int(np.frombuffer(parts[0][1], f"{order}u4", 1)[0])
    shape = tuple(int(side) for side in np.frombuffer(parts[1][1], f"{order}i4"))
    return bytes(parts[2][1]).decode("latin-1"), flags & 0xFF, shape, parts[3:]


def _numbers(part: Element, order: str) -> NDArray[Any] | None:
    _, class_, shape, parts = _matrix(part[1], order)
    if class_ not in NUMBERS or len(parts) != 1:  # a second part is imaginary
        return None
    kind, values = parts[0]
    if kind not in TYPES or len(values) % np.dtype(TYPES[kind]).itemsize:
        raise ValueError("a matrix is damaged")
    numbers = np.frombuffer(values, f"{order}{TYPES[kind]}")
    if not 1 < len(shape) <= 8 or min(shape) < 0 or math.prod(shape) != len(numbers):
        raise ValueError(f"a matrix of the shape {shape} has {len(numbers)} numbers")
    return numbers.reshape(shape, order="F")
