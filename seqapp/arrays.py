"""Arrays from files of NumPy."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
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
            return dict(np.load(stream, allow_pickle=False))
    except FileNotFoundError:
        raise UsageError(f"There is no {path}: {advice}") from None
    except DAMAGE as error:
        raise UsageError(f"{path} cannot be read as .npz ({words_of(error)}): {advice}") from None
