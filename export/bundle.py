"""A bundle: files of one model, each validated, with vocabulary and manifest, whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from export import converter, manifest
from export.artifact import MICRO, Artifact
from export.card import card
from export.firmware import write_source
from export.source import Source
from export.translation import TranslationSource
from export.validate import Verdict, validate
from seqapp.errors import RunFailed
from seqapp.run import replacing, write_json

SHOWN = ("perplexity", "accuracy")  # the figure that a table has, of those that there are


def write_bundle(source: Source | TranslationSource, target: Path, artifacts: list[Artifact]) -> dict[str, Any]:
    """Writes the bundle `target` and returns its manifest; says on standard error what it is doing.

    Raises:
        UsageError: a format cannot hold the model.
        RunFailed: a file is not the trained model; nothing is left behind.
    """
    reference: Any = source.reference
    if any(artifact.format == "tflite" for artifact in artifacts):
        converter.start()
    reference.check_chain()
    with replacing(target) as temporary:
        temporary.mkdir(parents=True)
        files: list[tuple[Artifact, Path, Verdict]] = []
        sizes: dict[tuple[str, str], int] = {}
        for artifact in artifacts:
            print(f"writing and validating {artifact.path}", file=sys.stderr, flush=True)
            path = temporary / artifact.path
            source.write(artifact, path)
            # The first of its kind is the file in float32.
            whole = sizes.setdefault((artifact.format, artifact.profile), path.stat().st_size)
            files.append((artifact, path, validate(artifact, path, reference, source.perplexity, whole)))
        failures = [f"{artifact.path}: {text}" for artifact, _, verdict in files for text in verdict.failures]
        if failures:
            raise RunFailed(f"The export failed its validation, nothing was written. {'; '.join(failures)}")
        for artifact, path, _ in files:
            if artifact.profile == MICRO:
                write_source(path, reference.spec)
        source.save_beside(temporary)
        content = manifest.content(source, temporary, files)
        write_json(temporary / "manifest.json", content)
        (temporary / "README.md").write_text(card(content), "utf-8")
    return content


def table(content: dict[str, Any]) -> str:
    """A line for each file of a manifest, for people."""
    shown = next((name for name in SHOWN for file in content["files"] if name in file["metrics"]), SHOWN[0])
    lines = [f"{'':24}{'bytes':>12}{'largest difference':>20}{'allowed':>10}{shown:>12}{'loses':>10}"]
    for file in content["files"]:
        parity = [entry for entry in content["parity"] if entry["file"] == file["path"]]
        difference = max(entry["largest_difference"] for entry in parity)
        allowed = _shown(parity[0]["tolerance"], ".1e")
        metric = _shown(file["metrics"].get(shown, {}).get("value"), ".3f")
        loss = _shown(next((entry["value"] for entry in file.get("losses", {}).values()), None), ".2%")
        lines.append(f"{file['path']:24}{file['bytes']:12,}{difference:20.1e}{allowed:>10}{metric:>12}{loss:>10}")
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
