"""What a bundle of a translator is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from export import encoder_decoder, onnx_encoder_decoder, saved_model, tflite
from export.artifact import Artifact
from export.spec import ENCODE
from export.translation_reference import TranslationReference
from seqapp.translate import Coder


@dataclass(frozen=True, eq=False)
class TranslationSource:
    """A translator, what it is compared on, and what is said of it: as `export.source.Source` is for other models."""

    reference: TranslationReference
    description: str
    task = "translate"
    perplexity = None

    @property
    def coder(self) -> Coder:
        return self.reference.coder

    @cached_property
    def tflite(self) -> bytes:
        functions = encoder_decoder.functions(self.reference.network, self.reference.spec, builtin=True)
        return tflite.converted(self.reference.network, functions, first=ENCODE)

    def write(self, artifact: Artifact, path: Path) -> None:
        network, spec = self.reference.network, self.reference.spec
        if artifact.format == "saved_model":
            saved_model.write(network, encoder_decoder.functions(network, spec, builtin=False), path)
        elif artifact.format == "onnx":
            (name,) = artifact.signatures
            onnx_encoder_decoder.write(network, spec, name, path, artifact.precision)
        else:
            path.write_bytes(tflite.weights_quantized(self.tflite, artifact.precision))

    def save_beside(self, folder: Path) -> None:
        """Writes what is not of the model itself into a bundle."""
        self.coder.save(folder)
