"""The files a bundle may hold."""

from __future__ import annotations

from dataclasses import dataclass

from export.spec import PREFILL, SEQUENCE, STEP
from seqapp.errors import UsageError

FORMATS = ("saved_model", "tflite", "onnx")
PRECISIONS = ("dynamic", "float16", "int8")
APP, TRAINABLE = "app", "trainable"  # profiles: what a file is for


@dataclass(frozen=True)
class Artifact:
    """A file by its name in the bundle, its precision, the signatures that it holds and what it is for."""

    path: str
    format: str
    precision: str = "float32"
    signatures: tuple[str, ...] = (STEP, SEQUENCE, PREFILL)
    profile: str = APP

    @property
    def tested(self) -> tuple[str, ...]:
        """The signatures whose numbers are compared with Keras's; ONNX has one graph, which is the step too."""
        if self.format == "onnx":
            return STEP, SEQUENCE
        return tuple(name for name in self.signatures if name in (STEP, SEQUENCE, PREFILL))


ARTIFACTS = (
    Artifact("saved_model", "saved_model"),
    Artifact("model.tflite", "tflite"),
    Artifact("model.dynamic.tflite", "tflite", "dynamic"),
    Artifact("model.float16.tflite", "tflite", "float16"),
    Artifact("model.int8.tflite", "tflite", "int8", (STEP,)),
    Artifact("model.onnx", "onnx", signatures=(SEQUENCE,)),
    Artifact("model.int8.onnx", "onnx", "int8", (SEQUENCE,)),
    Artifact("model.trainable.tflite", "tflite", signatures=(STEP, "train", "save", "restore"), profile=TRAINABLE),
)


def wanted(formats: list[str], precisions: list[str], profiles: list[str]) -> list[Artifact]:
    """The files of the formats, in float32 and in each of the precisions that a format has, and those of other profiles."""
    files = [a for a in ARTIFACTS if a.profile == APP and a.format in formats and a.precision in ("float32", *precisions)]
    return files + [a for a in ARTIFACTS if a.profile in profiles]


def check_precisions(formats: list[str], precisions: list[str]) -> None:
    """Refuses a precision that none of the formats has.

    Raises:
        UsageError: there is such a one.
    """
    for precision in precisions:
        there = [a.format for a in ARTIFACTS if a.precision == precision and a.profile == APP]
        if not set(there) & set(formats):
            raise UsageError(
                f"The precision {precision} is for {' or '.join(there)}: add it to the formats. Received: {' '.join(formats)}"
            )
