"""The manifest: all that another program needs to know of a bundle."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from export import firmware, flatbuffer, micro, onnx_graph, onnx_nodes
from export.artifact import APP, MICRO, TRAINABLE, Artifact
from export.saved_model import graph_names
from export.source import Source
from export.spec import ENCODE, Signature, State, TensorSpec
from export.translation import TranslationSource
from export.validate import FLOAT32, AnyReference, Verdict, declared
from seqapp.arrays import write_npy
from seqapp.subwords import Subwords
from seqapp.translate import SIDES
from seqapp.versions import FORMAT, made_with
from seqapp.vocabulary import Vocabulary

PACKAGES = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "ai-edge-litert")


AnySource = Source | TranslationSource


def content(source: AnySource, folder: Path, files: list[tuple[Artifact, Path, Verdict]]) -> dict[str, Any]:
    """The manifest of a bundle in `folder`, from its validated files; saves first states that are not one number there."""
    reference = source.reference
    return {
        "task": source.task,
        "description": source.description,
        "signatures": _signatures(reference.spec.signatures),
        "states": [
            {"input": s.input, "output": s.output, "layer": s.layer, "role": s.role, **_initial(s, source, folder)}
            for s in reference.spec.states
        ],
        **(_translation(source, folder) if isinstance(source, TranslationSource) else _beside(source, folder)),
        "files": [_file(artifact, path, verdict, reference) for artifact, path, verdict in files],
        "parity": [entry for artifact, _, verdict in files for entry in _parity(artifact, verdict, reference)],
        "parameters": reference.network.model.count_params(),
        "format": FORMAT,
        "versions": made_with(PACKAGES),
    }


def _beside(source: Source, folder: Path) -> dict[str, Any]:
    """What the numbers of a model mean."""
    vocabulary = source.vocabulary
    return {
        **({"token_count": count} if (count := source.reference.network.token_count) else {}),
        **({"vocabulary": _vocabulary(vocabulary, folder / "vocabulary.json")} if vocabulary else {}),
        **({"classes": list(source.classes)} if source.classes else {}),
        **({"forecast": source.framing.as_json()} if source.framing else {}),
        **({"melody": source.durations.as_json()} if source.durations else {}),
    }


def _translation(source: TranslationSource, folder: Path) -> dict[str, Any]:
    """What the tokens of both sides mean, and how translations are searched."""
    sides = {side: _vocabulary(getattr(source.coder, side), source.coder.path(folder, side)) for side in SIDES}
    return {"translation": {**asdict(source.coder.settings), **sides}}


def _initial(state: State, source: AnySource, folder: Path) -> dict[str, Any]:
    """The number that all units start from, or the file that holds theirs, or the signature that gives them."""
    if isinstance(source, TranslationSource):
        return {"initial_from": ENCODE}
    if len(set(state.initial)) == 1:
        return {"initial": state.initial[0]}
    path = folder / f"state_{state.number}_initial.npy"
    write_npy(path, np.array(state.initial, np.float32))
    return {"initial": path.name, "sha256": digest(path)}


def _signatures(signatures: dict[str, Signature]) -> dict[str, Any]:
    return {
        name: {"inputs": [_tensor(t) for t in s.inputs], "outputs": [_tensor(t) for t in s.outputs]}
        for name, s in signatures.items()
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _vocabulary(vocabulary: Vocabulary | Subwords, path: Path) -> dict[str, Any]:
    return {
        "path": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest(path),
        "size": len(vocabulary),
        "unit": vocabulary.unit,
        "unknown": vocabulary.tokens[vocabulary.unknown_number],
        "end": vocabulary.tokens[vocabulary.end_number],
        **({} if isinstance(vocabulary, Subwords) else {"token_pattern": vocabulary.token_pattern}),
        "normalization": list(vocabulary.normalization),
    }


def _file(artifact: Artifact, path: Path, verdict: Verdict, reference: AnyReference) -> dict[str, Any]:
    entry = {
        "path": artifact.path,
        "format": artifact.format,
        "precision": artifact.precision,
        "bytes": sum(file.stat().st_size for file in _files(path)),
        "sha256": digest(path),
        "signatures": list(artifact.signatures),
        "minimum_runtime": _minimum_runtime(artifact, path),
        "metrics": verdict.metrics,
        "latency": {name: {"value": round(value, 1), "unit": "µs a timestep"} for name, value in verdict.latency.items()},
    }
    if artifact.profile != APP:
        entry["profile"] = artifact.profile
    if artifact.profile in (MICRO, TRAINABLE):
        entry["own_signatures"] = _signatures(declared(artifact, reference))
    if artifact.profile == MICRO:
        entry.update(micro.described(path.read_bytes()))
        entry["sources"] = [path.with_suffix(suffix).name for suffix in firmware.SUFFIXES]
    if verdict.losses:
        entry["losses"] = {
            loss.name: {"value": loss.value, "two_standard_errors": loss.uncertainty, "limit": loss.limit, "unit": loss.unit}
            for loss in verdict.losses
        }
    if artifact.format == "saved_model":
        entry["graph_names"] = graph_names(path)
    else:
        count = onnx_graph.operators(path) if artifact.format == "onnx" else flatbuffer.operators(path.read_bytes())
        entry["operators"] = count
    return entry


def _minimum_runtime(artifact: Artifact, path: Path) -> dict[str, str]:
    """What the file itself says it needs."""
    if artifact.profile == MICRO:
        return micro.minimum_runtime()
    if artifact.format == "tflite":
        # LiteRT is TensorFlow Lite under its new name; float files were tried with ai-edge-litert 1.0.1 and 2.3.0.
        return {"tflite": flatbuffer.minimum_runtime(path.read_bytes()), "litert": "1.0"}
    if artifact.format == "onnx":
        return {"onnx_opset": str(onnx_nodes.OPSET), "onnx_ir": str(onnx_graph.IR_VERSION)}
    return {"tensorflow": metadata.version("tensorflow")}


def digest(path: Path) -> str:
    """SHA-256 of a file; of a directory, that of what `sha256sum` prints for its files, sorted by path."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _parity(artifact: Artifact, verdict: Verdict, reference: AnyReference) -> list[dict[str, Any]]:
    rounding, state_rounding = reference.rounding
    exact = artifact.precision == FLOAT32  # the others are judged by what they lose
    return [
        {
            "file": artifact.path,
            "signature": parity.signature,
            "batches": list(artifact.batches),
            "lengths": reference.lengths_of(parity.signature),
            "largest_difference": parity.largest_difference,
            "tolerance": reference.tolerances_of(parity.signature)[0] if exact else None,
            "keras_float32_error": rounding,
            "largest_state_difference": parity.largest_state_difference,
            "state_tolerance": reference.tolerances_of(parity.signature)[1] if exact else None,
            "keras_float32_state_error": state_rounding,
        }
        for parity in verdict.parity
    ]
