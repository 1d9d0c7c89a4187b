"""Files that others made: what they declare is looked at before it is believed, and memory is taken."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path, PurePath
from typing import IO, Any
from xml.parsers import expat

import numpy as np

FREE = 256 << 20  # bytes that anything may unpack to
RATIO = 200  # times its own size that a larger archive may unpack to: our own files stay below
HEADER = 10_000  # characters of a header of NumPy's, as its own readers have it
LONGEST_NAME = 255  # bytes of a name in a folder: file systems take no more
DEEPEST = 200  # elements or brackets within each other
VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive of `size` bytes whose members would be out of all proportion to it.

    What a member says of its size is the most that is ever read of it.

    Raises:
        ValueError: how much it says that it holds.
    """
    declared = sum(member.file_size for member in archive.infolist())
    if declared > max(FREE, RATIO * size):
        raise ValueError(f"its {size:,} bytes would unpack to {declared:,}")


def check_npy(stream: IO[bytes], size: int) -> None:
    """Reads the header of an array in NumPy's format, of which there are `size` bytes, and refuses one that promises more.

    Raises:
        ValueError: the array would be larger than what there is of it, or holds objects, which are code.
    """
    version = np.lib.format.read_magic(stream)
    if version not in VERSIONS:  # the third is for names of fields that no array here has
        raise ValueError(f"its format has the version {'.'.join(map(str, version))}")
    shape, _, dtype = VERSIONS[version](stream, max_header_size=HEADER)
    if dtype.hasobject:
        raise ValueError("Object arrays hold Python objects, which are not read from files")
    if not all(0 <= side < 2**62 for side in shape) or math.prod(shape) * max(dtype.itemsize, 1) > size:
        raise ValueError(f"it says that it has the shape {shape} of {dtype}, in {size:,} bytes")


def check_npz(stream: IO[bytes], size: int) -> None:
    """As `check_npy`, of all arrays of an archive of `size` bytes.

    Raises:
        ValueError and others of NumPy's and zipfile's: one is refused, or the archive is damaged.
    """
    with zipfile.ZipFile(stream) as archive:
        check_archive(archive, size)
        for member in archive.infolist():
            with archive.open(member) as array:
                check_npy(array, member.file_size)
    stream.seek(0)


def inside(folder: Path, name: str) -> bool:
    """Whether a name in a folder leads nowhere else, not by a link either; one that no file can have leads nowhere."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        return False
    return (folder / name).resolve().is_relative_to(folder.resolve())


def words_of(error: BaseException) -> str:
    """What an exception says, in one line of some hundred characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def read_npy(path: Path, mapped: bool = False) -> Any:
    """The array of a `.npy` file, in memory or through a memory map.

    Raises:
        ValueError, OSError and others of NumPy's: it is damaged, or would be larger than its file.
    """
    with path.open("rb") as stream:
        check_npy(stream, path.stat().st_size)
    return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


def json_of(content: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none, or is nested deeper than any of ours.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_xml(content: bytes) -> None:
    """Refuses XML with entities of its own, a few lines of which may mean gigabytes or name other files, and what is no tree.

    Raises:
        ValueError: either, or it is no XML.
    """
    depth = 0

    def declared(name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {name}")

    def begins(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")

    def ends(_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.StartElementHandler, parser.EndElementHandler = declared, begins, ends
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from None
