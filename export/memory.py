"""What a file takes of memory, in a process of its own: `python -m export.memory BUNDLE FILE` prints megabytes."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path

import numpy as np

from export import reading, runners

ENGINES = {"saved_model": "tensorflow", "tflite": "ai_edge_litert.interpreter", "onnx": "onnxruntime"}
LENGTH = 100


def main(argv: list[str]) -> None:
    bundle, name = Path(argv[0]), argv[1]
    content = reading.read(bundle)
    spec = reading.spec_of(bundle, content)
    (file,) = [file for file in content["files"] if file["path"] == name]
    importlib.import_module(ENGINES[file["format"]])
    before = peak()
    model = runners.OPENERS[file["format"]](bundle / name, spec)
    inputs = np.zeros((1, LENGTH) if spec.features is None else (1, LENGTH, spec.features), spec.input_dtype)
    _, states = model.sequence(inputs, model.initial_states(1))
    for _ in range(0 if spec.both_ways else LENGTH):
        _, states = model.step(inputs[:, 0], states)
    print(peak() - before)


def peak() -> float:
    """Megabytes of resident memory at the most, so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage would count what the process was before it became this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


if __name__ == "__main__":
    main(sys.argv[1:])
