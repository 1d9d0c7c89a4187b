"""The files a bundle may hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

from export.spec import DECODE_STEP, ENCODE, PREFILL, SEQUENCE, STEP
from seqapp.errors import UsageError, need

FORMATS = ("saved_model", "tflite", "onnx")
PRECISIONS = ("dynamic", "float16", "int8")
APP, TRAINABLE, MICRO = "app", "trainable", "micro"  # profiles: what a file is for
BATCHES = (1, 3)  # that a file is compared in


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
        if self.format == "onnx" and SEQUENCE in self.signatures:
            return STEP, SEQUENCE
        return tuple(name for name in self.signatures if name in (STEP, SEQUENCE, PREFILL, ENCODE, DECODE_STEP))

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that it is compared in."""
        return (1,) if self.profile == MICRO else BATCHES


ARTIFACTS = (
    Artifact("saved_model", "saved_model"),
    Artifact("model.tflite", "tflite"),
    Artifact("model.dynamic.tflite", "tflite", "dynamic"),
    Artifact("model.float16.tflite", "tflite", "float16"),
    Artifact("model.int8.tflite", "tflite", "int8", (STEP,)),
    Artifact("model.onnx", "onnx", signatures=(SEQUENCE,)),
    Artifact("model.int8.onnx", "onnx", "int8", (SEQUENCE,)),
    Artifact("model.micro.tflite", "tflite", signatures=(STEP,), profile=MICRO),
    Artifact("model.micro.int8.tflite", "tflite", "int8", (STEP,), MICRO),
    Artifact("model.trainable.tflite", "tflite", signatures=(STEP, "train", "save", "restore"), profile=TRAINABLE),
)


def wanted(formats: list[str], precisions: list[str], profiles: list[str]) -> list[Artifact]:
    """The files of the formats and of the other profiles, in float32 and in each of the precisions that there are of them."""
    files = [a for a in ARTIFACTS if (a.format in formats if a.profile == APP else a.profile in profiles)]
    return [a for a in files if a.precision in ("float32", *precisions)]


def of_sequences(artifacts: list[Artifact]) -> list[Artifact]:
    """The files that a model has which reads both ways: those of a sequence, and nothing else in them.

    Raises:
        UsageError: a profile or a precision was asked for that has files of a step alone.
    """
    fitting = [replace(a, signatures=(SEQUENCE,)) for a in artifacts if SEQUENCE in a.signatures]
    _refuse_without(fitting, artifacts, "runs step by step, and a model that reads both ways cannot")
    return fitting


def _refuse_without(fitting: list[Artifact], artifacts: list[Artifact], why: str) -> None:
    """Refuses a profile, or a precision that no file is left of."""
    for a in artifacts:
        if a.profile != APP or a.precision not in {f.precision for f in fitting}:
            raise UsageError(
                f"{a.path} {why}: "
                f"leave {a.precision if a.profile == APP else a.profile} out{', or add onnx' if a.profile == APP else ''}."
            )


def of_translator(artifacts: list[Artifact]) -> list[Artifact]:
    """The files that an encoder-decoder has: those for apps, without static ranges, and of ONNX one for each signature.

    Raises:
        UsageError: another profile was asked for, or a precision that no file is left of.
    """
    fitting: list[Artifact] = []
    for a in artifacts:
        if a.format == "onnx":
            names = {ENCODE: a.path.replace("model", ENCODE), DECODE_STEP: a.path.replace("model", DECODE_STEP)}
            fitting += [replace(a, path=path, signatures=(name,)) for name, path in names.items()]
        elif a.profile == APP and SEQUENCE in a.signatures:
            fitting.append(replace(a, signatures=(ENCODE, DECODE_STEP)))
    _refuse_without(fitting, artifacts, "is for models that run step by step, and an encoder-decoder is none")
    return fitting


def check_wanted(formats: list[str], precisions: list[str], profiles: list[str]) -> None:
    """Refuses a precision that none of the wanted files has, and a profile whose interpreter is not there to prove its files.

    Raises:
        UsageError: there is such a one.
    """
    if MICRO in profiles:
        need("tflite_micro", MICRO)
    for precision in precisions:
        if all(a.precision != precision for a in wanted(formats, precisions, profiles)):
            there = dict.fromkeys(a.format for a in ARTIFACTS if a.precision == precision and a.profile == APP)
            raise UsageError(
                f"The precision {precision} is for {' or '.join(there)}: add it to the formats. Received: {' '.join(formats)}"
            )
