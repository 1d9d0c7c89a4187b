"""The arena of TensorFlow Lite Micro (TFLM), measured in processes of its own: some that are too small kill it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path
from typing import Any

from seqapp.errors import need

ALIGNMENT = 16  # bytes, of the arena and of the file in it
LARGEST = 1 << 26  # bytes; no microcontroller has so many


@lru_cache(maxsize=2)
def arena_size(content: bytes) -> int:
    """The smallest arena, in bytes, in which TFLM's reference kernels on a 64-bit machine can be set up for a file.

    A device of 32 bits needs less of it for pointers; kernels that are tuned for one may need more for themselves.

    Raises:
        RuntimeError: TFLM refuses the file in any arena; in its own words.
    """
    need("tflite_micro", "micro")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        # The child finds this package where this process found it, whatever folder the user is in.
        paths = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        command = [sys.executable, "-m", "export.arena", str(path)]
        result = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(" ".join(result.stderr.split())[:300] or f"it ended with status {result.returncode}")
    return int(result.stdout)


def interpreter(content: bytes, arena: int) -> Any:
    """TFLM's interpreter, set up for a file in an arena of so many bytes.

    Raises:
        RuntimeError: TFLM refuses the file, or the arena is too small; why, it says on standard error. It may also die.
    """
    return need("tflite_micro", "micro").runtime.Interpreter.from_bytes(content, arena_size=arena)


def _fits(content: bytes, arena: int) -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what TFLM says of an arena that is too small is not the last word
        try:
            interpreter(content, arena)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def main(argv: list[str]) -> None:
    content = Path(argv[0]).read_bytes()
    enough = 10 * len(content) + (1 << 16)
    while enough < LARGEST and not _fits(content, enough):
        enough *= 4
    try:
        interpreter(content, enough)
    except Exception as error:  # refused in any arena, or no file that it knows; what kind that is, is its own affair
        sys.exit(str(error))
    print(ALIGNMENT * bisect_left(range(enough // ALIGNMENT), True, key=lambda blocks: _fits(content, ALIGNMENT * blocks)))


if __name__ == "__main__":
    main(sys.argv[1:])
