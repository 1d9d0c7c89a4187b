"""The manifest: all that another program needs to know of a bundle."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from export import onnx_graph, tflite
from export.spec import SEQUENCE, STEP, TensorSpec
from export.validate import BATCHES, LENGTHS, Reference, Verdict
from seqapp import __version__
from seqapp.vocabulary import Vocabulary

PACKAGES = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "ai-edge-litert")


def content(task: str, reference: Reference, files: dict[str, tuple[Path, Verdict]]) -> dict[str, Any]:
    """The manifest of a bundle, from the validated files of each format."""
    spec, vocabulary = reference.spec, reference.vocabulary
    return {
        "task": task,
        "signatures": {
            name: {"inputs": [_tensor(t) for t in s.inputs], "outputs": [_tensor(t) for t in s.outputs]}
            for name, s in spec.signatures.items()
        },
        "states": [
            {"input": s.input, "output": s.output, "layer": s.layer, "role": s.role, "initial": 0.0} for s in spec.states
        ],
        "vocabulary": _vocabulary(vocabulary),
        "files": [_file(format, path, verdict) for format, (path, verdict) in files.items()],
        "parity": [entry for path, verdict in files.values() for entry in _parity(path, verdict, reference)],
        "parameters": reference.model.count_params(),
        "versions": {
            "seqapp": __version__,
            **{
                name: metadata.version(name)
                for name in ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "ai-edge-litert")
            },
        },
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "path": "vocabulary.json",
        "size": len(vocabulary),
        "unit": vocabulary.unit,
        "unknown": vocabulary.unknown,
        "end": vocabulary.end,
        "token_pattern": vocabulary.token_pattern,
        "normalization": list(vocabulary.normalization),
    }


def _file(format: str, path: Path, verdict: Verdict) -> dict[str, Any]:
    entry = {
        "path": path.name,
        "format": format,
        "precision": "float32",
        "bytes": sum(file.stat().st_size for file in _files(path)),
        "sha256": digest(path),
        "signatures": [SEQUENCE] if format == "onnx" else [STEP, SEQUENCE],
        "minimum_runtime": _minimum_runtime(format, path),
        "metrics": verdict.metrics,
    }
    if format != "saved_model":
        entry["operators"] = tflite.operators(path.read_bytes()) if format == "tflite" else onnx_graph.operators(path)
    return entry


def _minimum_runtime(format: str, path: Path) -> dict[str, str]:
    """What the file itself says it needs."""
    if format == "tflite":
        # LiteRT is TensorFlow Lite under its new name; tried with ai-edge-litert 1.0.1 and 2.3.0.
        return {"tflite": tflite.minimum_runtime(path.read_bytes()), "litert": "1.0"}
    if format == "onnx":
        return {"onnx_opset": str(onnx_graph.OPSET), "onnx_ir": str(onnx_graph.IR_VERSION)}
    return {"tensorflow": metadata.version("tensorflow")}


def digest(path: Path) -> str:
    """SHA-256 of a file; of a directory, that of what `sha256sum` prints for its files, sorted by path."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _parity(path: Path, verdict: Verdict, reference: Reference) -> list[dict[str, Any]]:
    (rounding, state_rounding), (tolerance, state_tolerance) = reference.rounding, reference.tolerances
    return [
        {
            "file": path.name,
            "signature": parity.signature,
            "batches": list(BATCHES),
            "lengths": list(LENGTHS),
            "largest_difference": parity.largest_difference,
            "tolerance": tolerance,
            "keras_float32_error": rounding,
            "largest_state_difference": parity.largest_state_difference,
            "state_tolerance": state_tolerance,
            "keras_float32_state_error": state_rounding,
        }
        for parity in verdict.parity
    ]


def read(path: Path) -> dict[str, Any]:
    """The manifest of a bundle."""
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text("utf-8"))
    return manifest
