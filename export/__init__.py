"""A trained model to files that run anywhere with the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqapp.step import Array
    from seqapp.vocabulary import Vocabulary


def convert(
    model: Any,
    directory: str | Path,
    *,
    formats: Sequence[str] = ("saved_model", "tflite", "onnx"),
    quantize: Sequence[str] = (),
    inputs: Array | None = None,
    targets: Array | None = None,
    vocabulary: Vocabulary | None = None,
    output: str | None = None,
    task: str = "custom",
    micro: bool = False,
    trainable: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a bundle of a Keras model that no run stands behind, as `python -m export` does, and returns its manifest.

    The model, which is left as it is, is a `keras.Sequential` or a functional one whose layers follow one another: an Embedding
    or float features, any recurrent layers, of Keras's cells or of your own, and Dense, normalization or activation layers.

    Args:
        directory: the bundle to make.
        formats: of `saved_model`, `tflite` and `onnx`.
        quantize: of `dynamic`, `float16` and `int8`.
        inputs: real inputs in their order, tokens (N,) or features (N, F), that the files are compared on and int8 learns its
            ranges from; by default random ones, which say little about a precision.
        targets: the class (N,) that is right at each timestep, by which precisions are judged; for tokens, the next token by
            default.
        vocabulary: what the tokens mean; with it the bundle takes text.
        output: the name of the result. Where it ends in `logits`, a softmax at the end of the model is left out of the files.
            By default `logits` for tokens and for a model with such a softmax, else `outputs`.
        task: what the manifest calls the model's task.
        micro: write `model.micro.tflite` too, one timestep for TensorFlow Lite Micro, in int8 as well where that is asked for.
        trainable: write `model.trainable.tflite` too, which learns where it runs.
        overwrite: replace a bundle that is there.

    Raises:
        UsageError: the model is of another kind, or an argument does not fit it.
        RunFailed: a file is not the model; nothing is left behind.
    """
    from export import conversion
    from export.artifact import MICRO, TRAINABLE

    profiles = [name for name, asked in ((MICRO, micro), (TRAINABLE, trainable)) if asked]
    source = conversion.source_of(model, inputs, targets, vocabulary, output, task)
    return conversion.convert(source, Path(directory), list(formats), list(quantize), profiles, overwrite)
