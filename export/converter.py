"""TensorFlow's TFLite converter, in a process of its own: it is native code, which may end the process it runs in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from seqapp.errors import RunFailed


def convert(saved_model: Path, signatures: list[str]) -> bytes:
    """The signatures of a SavedModel as a TFLite file of float32, of built-in operators alone.

    Raises:
        RunFailed: the converter refused the model, or died of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.tflite"
        command = [sys.executable, "-m", "export.converter", str(saved_model), str(target), *signatures]
        # The child finds this package where this process found it, whatever folder the user is in.
        paths = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        result = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return target.read_bytes()
    what = ", ".join(signatures)
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        raise RunFailed(
            f"TensorFlow's TFLite converter was killed by {name} while it converted {what}: the model needs something that it "
            "cannot translate; leave TFLite out, with --format saved_model onnx."
        )
    raise RunFailed(
        f"TensorFlow's TFLite converter refused {what}: {_reason(result.stderr)}; a cell may use only operations that LiteRT "
        "has built in, or leave TFLite out, with --format saved_model onnx."
    )


def _reason(words: str) -> str:
    """The line of a converter's output that names the error, without the places in the graph before it."""
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["no reason given"]
    named = [line for line in lines if "error:" in line or "Some ops" in line or "Error:" in line]
    return (named or lines[-1:])[0].split(": error: ")[-1][:300].rstrip(".")


def main(argv: list[str]) -> None:
    import tensorflow as tf

    source, target, *signatures = argv
    converter = tf.lite.TFLiteConverter.from_saved_model(source, signature_keys=signatures)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    Path(target).write_bytes(converter.convert())


if __name__ == "__main__":
    main(sys.argv[1:])
