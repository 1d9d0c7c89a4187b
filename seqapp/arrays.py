"""Arrays in files of NumPy."""

from __future__ import annotations

import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.errors import UsageError
from seqapp.untrusted import check_npz, words_of

# What numpy, zipfile and the decompressors raise for files that are damaged, foreign, encrypted or would run code.
DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, IndexError, NotImplementedError, RuntimeError, SyntaxError, MemoryError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


def read_npz(path: Path, advice: str) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file by their names.

    Raises:
        UsageError: it cannot be read; `advice` says what to do.
    """
    try:
        with path.open("rb") as stream:
            check_npz(stream, path.stat().st_size)
            arrays = dict(np.load(stream, allow_pickle=False))
        for array in arrays.values():
            _check_words(array)
        return arrays
    except FileNotFoundError:
        raise UsageError(f"There is no {path}: {advice}") from None
    except DAMAGE as error:
        raise UsageError(f"{path} cannot be read as .npz ({words_of(error)}): {advice}") from None


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """As `numpy.save` does; where that fails, with what the system says of it: of a disk that is full, NumPy says no word."""
    with path.open("wb") as file:
        np.lib.format.write_array(SimpleNamespace(write=file.write), np.asarray(array), allow_pickle=False)


def _check_words(array: NDArray[Any]) -> None:
    """Refuses words of numbers that are no characters: NumPy takes them, Python gives way."""
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        points = np.ascontiguousarray(array).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if (points > sys.maxunicode).any():
            raise ValueError("it has words of what are no characters")
