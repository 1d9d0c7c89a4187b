"""TensorFlow's converter in a process of its own: what it does to itself is one line here."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from export import converter, flatbuffer
from seqapp.errors import RunFailed
from tests.commands import run_forked


def saved(path: Path, body: Any) -> Path:
    module = tf.Module()
    function = tf.function(body).get_concrete_function(tf.TensorSpec([None, 3], tf.float32, name="x"))
    tf.saved_model.save(module, str(path), signatures={"step": function})
    return path


def failure(path: Path) -> str:
    with pytest.raises(RunFailed) as found:
        converter.convert(path, ["step", "sequence"])
    assert "\n" not in str(found.value)
    return str(found.value)


def test_converts_whatever_folder_the_user_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "model", lambda x: {"y": tf.tanh(x) + 1.0})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    content = converter.convert(path, ["step"])
    assert flatbuffer.operators(content) == {"ADD": 1, "TANH": 1}
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_operation_that_litert_lacks(tmp_path: Path) -> None:
    path = saved(tmp_path / "model", lambda x: {"y": tf.math.digamma(x)})
    with pytest.raises(RunFailed) as found:
        converter.convert(path, ["step"])
    assert str(found.value) == (
        "TensorFlow's TFLite converter refused step: 'tf.Digamma' op is neither a custom op nor a flex op; a cell may use only "
        "operations that LiteRT has built in, or leave TFLite out, with --format saved_model onnx."
    )


FORKED = """
import os, signal
from pathlib import Path
import tensorflow as tf
from export import converter, flatbuffer
from seqapp.errors import RunFailed
from tests.commands import run_forked

first = converter.start()
assert isinstance(first.process, converter.Fork)
tf.linalg.matmul(tf.ones([300, 300]), tf.ones([300, 300]))  # which starts threads
assert converter.start() is first
print(flatbuffer.operators(converter.convert(Path("model"), ["step"])))
os.kill(first.process.pid, signal.SIGSEGV)
print(first.run(["refused", "refused.tflite", "step"])[0])
try:
    converter.convert(Path("refused"), ["step"])
except RunFailed as error:
    print(str(error).partition("; ")[0])
second = converter.start().process
print(isinstance(second, converter.Fork), second.poll())
"""


def test_is_a_child_of_a_process_that_has_computed_nothing(tmp_path: Path) -> None:
    """One that dies is followed by a program, since the process has computed by then."""
    saved(tmp_path / "model", lambda x: {"y": tf.tanh(x) + 1.0})
    saved(tmp_path / "refused", lambda x: {"y": tf.math.digamma(x)})
    lines = run_forked([sys.executable, "-c", FORKED], tmp_path).splitlines()
    assert lines[0] == "{'ADD': 1, 'TANH': 1}"
    assert lines[1] == str(-signal.SIGSEGV)
    assert "refused step: 'tf.Digamma' op is neither a custom op nor a flex op" in lines[2]
    assert lines[3:] == ["False None"]


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from export import converter; pathlib.Path('pid').write_text(str(converter.start().process.pid))"
    )
    with pytest.raises(AssertionError, match="status -9"):
        run_forked([sys.executable, "-c", f"{code}; os.kill(os.getpid(), 9)"], tmp_path)
    state, until = Path("/proc", (tmp_path / "pid").read_text(), "stat"), time.monotonic() + 60
    with suppress(FileNotFoundError, ProcessLookupError):
        while ") Z " not in state.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["SEGV", "KILL", "ABRT"])
def test_a_converter_that_dies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter.sys, "executable", executable(tmp_path / "python", f"kill -{name} $$"))
    message = failure(tmp_path)
    assert message.startswith(f"TensorFlow's TFLite converter was killed by SIG{name} while it converted step, sequence: ")
    assert message.endswith("leave TFLite out, with --format saved_model onnx.")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "no reason given"),
        ("loading\nkilled by the butler.\n", "killed by the butler"),
        (f"a warning\n{'loc(' * 200}: error: 'tf.Digamma' op is none\nstack\nthe end", "'tf.Digamma' op is none;"),
        ("one\nValueError: no such signature\n\n", "ValueError: no such signature"),
        ("x" * 5000, "x" * 300 + ";"),
    ],
)
def test_the_reason_of_a_refusal(words: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words").write_text(words)
    script = f"cat '{tmp_path / 'words'}' >&2; exit 1"
    monkeypatch.setattr(converter.sys, "executable", executable(tmp_path / "python", script))
    assert f"refused step, sequence: {reason}" in failure(tmp_path)
