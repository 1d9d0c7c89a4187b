"""A bundle: every format of one run, validated, with vocabulary and manifest, whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export import manifest
from export.onnx_graph import native, write_onnx
from export.saved_model import write_saved_model
from export.spec import Spec
from export.tflite import write_tflite
from export.validate import Reference, Verdict, validate
from seqapp.errors import RunFailed
from seqapp.run import Run, replacing, write_json

WRITERS: dict[str, tuple[str, Callable[[Any, Spec, Path], None]]] = {
    "saved_model": ("saved_model", write_saved_model),
    "tflite": ("model.tflite", write_tflite),
    "onnx": ("model.onnx", write_onnx),
}


def write_bundle(run: Run, target: Path, formats: list[str]) -> None:
    """Writes the bundle `target` of a run and prints a line for each file.

    Raises:
        UsageError: a format cannot hold the run's cell, or the run is damaged.
        RunFailed: a file is not the trained model; nothing is left behind.
    """
    vocabulary, model = run.vocabulary, run.load_model()
    if "onnx" in formats:
        for layer in model.recurrent:
            native(layer.cell)
    reference = Reference(model, vocabulary, run.tokens(run.held_out))
    perplexity = run.metrics[run.held_out]["perplexity"]["value"]
    with replacing(target) as temporary:
        temporary.mkdir(parents=True)
        files: dict[str, tuple[Path, Verdict]] = {}
        for format in formats:
            name, write = WRITERS[format]
            print(f"writing and validating {name}", file=sys.stderr, flush=True)
            write(model, reference.spec, temporary / name)
            files[format] = temporary / name, validate(format, temporary / name, reference, perplexity)
        failures = [f"{path.name}: {text}" for path, verdict in files.values() for text in verdict.failures]
        if failures:
            raise RunFailed(f"The export failed its validation, nothing was written. {'; '.join(failures)}")
        vocabulary.save(temporary / "vocabulary.json")
        content = manifest.content(run.config.task, reference, files)
        write_json(temporary / "manifest.json", content)
    print(table(content))


def table(content: dict[str, Any]) -> str:
    """A line for each file of a manifest, for people."""
    lines = [f"{'':16}{'bytes':>12}{'largest difference':>20}{'allowed':>10}{'perplexity':>12}"]
    for file in content["files"]:
        parity = [entry for entry in content["parity"] if entry["file"] == file["path"]]
        lines.append(
            f"{file['path']:16}{file['bytes']:12,}{max(entry['largest_difference'] for entry in parity):20.1e}"
            f"{parity[0]['tolerance']:10.1e}{file['metrics']['perplexity']['value']:12.3f}"
        )
    return "\n".join(lines)
