"""What a bundle is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from export import flatbuffer, tflite
from export.artifact import MICRO, TRAINABLE, Artifact
from export.micro import micro
from export.onnx_graph import write_onnx
from export.reference import Reference
from export.saved_model import write_saved_model
from export.spec import STEP
from export.trainable import write_trainable
from seqapp.framing import Framing
from seqapp.melody import Durations
from seqapp.step import Array
from seqapp.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Source:
    """A model, what it is compared on, and what is said of it.

    `calibration` are inputs, in their order, that int8 learns its ranges from; `perplexity` is what is known of the model on
    all inputs of the reference; `classes` are what its outputs mean, of a classifier; `framing` how series become its inputs,
    of a forecaster; `durations` which a melody's notes may have.
    """

    task: str
    reference: Reference
    calibration: Array
    vocabulary: Vocabulary | None = None
    perplexity: float | None = None
    description: str = ""
    classes: tuple[str, ...] = ()
    framing: Framing | None = None
    durations: Durations | None = None

    @cached_property
    def tflite(self) -> bytes:
        return tflite.float32(self.reference.network, self.reference.spec)

    def write(self, artifact: Artifact, path: Path) -> None:
        network, spec = self.reference.network, self.reference.spec
        if artifact.profile == TRAINABLE:
            write_trainable(network, spec, path)
        elif artifact.format == "saved_model":
            write_saved_model(network, spec, path, self.vocabulary, self.classes)
        elif artifact.format == "onnx":
            write_onnx(network, spec, path, artifact.precision)
        elif artifact.profile == MICRO:
            path.write_bytes(micro(flatbuffer.only(self._tflite(artifact.precision), STEP), spec))
        else:
            path.write_bytes(self._tflite(artifact.precision))

    def save_beside(self, folder: Path) -> None:
        """Writes what is not of the model itself into a bundle."""
        if self.vocabulary:
            self.vocabulary.save(folder / "vocabulary.json")

    def _tflite(self, precision: str) -> bytes:
        """The file for apps in a precision."""
        if precision == "float32":
            return self.tflite
        return tflite.quantized(self.tflite, precision, self.reference.spec, self.calibration)
