"""TensorFlow's TFLite converter, in a process of its own: it is native code, which may end the process it runs in.

A server has TensorFlow loaded, which takes seconds, and makes a child of itself for each conversion. Where this process has
loaded TensorFlow and computed nothing yet, the server is a child of this process; otherwise it loads TensorFlow itself.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn, TextIO

from seqapp.errors import RunFailed


def convert(saved_model: Path, signatures: list[str]) -> bytes:
    """The signatures of a SavedModel as a TFLite file of float32, of built-in operators alone.

    Raises:
        RunFailed: the converter refused the model, or died of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.tflite"
        status, words = start().run([str(saved_model), str(target), *signatures])
        if status == 0:
            return target.read_bytes()
    what = ", ".join(signatures)
    if status < 0:
        name = signal.Signals(-status).name
        raise RunFailed(
            f"TensorFlow's TFLite converter was killed by {name} while it converted {what}: the model needs something that it "
            "cannot translate; leave TFLite out, with --format saved_model onnx."
        )
    raise RunFailed(
        f"TensorFlow's TFLite converter refused {what}: {_reason(words)}; a cell may use only operations that LiteRT "
        "has built in, or leave TFLite out, with --format saved_model onnx."
    )


def start() -> Server:
    """The server of this process; to start it before anything is computed spares it the loading of TensorFlow."""
    server = _server(sys.executable)
    if server.process.poll() is not None:  # it was killed, or it serves once only
        _server.cache_clear()
    return _server(sys.executable)


@lru_cache(maxsize=1)
def _server(python: str) -> Server:
    return Server(python)


class Server:
    """A process that converts for as long as this one lives."""

    def __init__(self, python: str) -> None:
        self.heard = 0  # bytes of its words
        self.lock, self.words = Lock(), tempfile.TemporaryFile("ab+")  # noqa: SIM115 - as long as the process
        self.process = Fork(self.words.fileno()) if _untouched() else _program(python, self.words)
        atexit.register(self.close)

    def run(self, job: list[str]) -> tuple[int, str]:
        """The exit status of a conversion, negative for a signal, and what it said."""
        with self.lock:
            status, before = self._answer(job), self.heard  # what it said as it started too: it may have died of that
            self.heard = os.fstat(self.words.fileno()).st_size
            return status, os.pread(self.words.fileno(), self.heard - before, before).decode(errors="replace")

    def _answer(self, job: list[str]) -> int:
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline() if self.process.stdout else ""
        except BrokenPipeError:
            answer = ""
        return int(answer) if answer else self.process.wait()

    def close(self) -> None:
        atexit.unregister(self.close)
        self.process.kill()
        self.process.communicate()
        self.words.close()


def _program(python: str, words: Any) -> subprocess.Popen[str]:
    # The child finds this package where this process found it, whatever folder the user is in.
    paths = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    return subprocess.Popen(
        [python, "-m", "export.converter"],
        env={**os.environ, **paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
    )


def _untouched() -> bool:
    """Whether TensorFlow is loaded and has computed nothing: it has no threads yet, whose locks a child would find held."""
    if "tensorflow" not in sys.modules or sys.platform != "linux":  # elsewhere the system's own libraries forbid it
        return False
    from tensorflow.python.eager import context

    return context.context_safe() is None


class Fork:
    """A server that is a child of this process, with those parts of `subprocess.Popen` that are in use here."""

    def __init__(self, words: int) -> None:
        (jobs, given), (made, answers) = os.pipe(), os.pipe()
        self.status: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _serve_forked(jobs, answers, words, (given, made))
        os.close(jobs)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(given, "w"), os.fdopen(made)

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        return self._waited(0) or 0

    def _waited(self, how: int) -> int | None:
        if self.status is None:
            child, status = os.waitpid(self.pid, how)
            self.status = os.waitstatus_to_exitcode(status) if child else None
        return self.status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> None:
        for file in (self.stdin, self.stdout):
            with suppress(BrokenPipeError):
                file.close()
        self.wait()


def _serve_forked(jobs: int, answers: int, words: int, others: tuple[int, int]) -> NoReturn:
    try:
        for descriptor in others:  # while the child held them too, it would not see its parent end
            os.close(descriptor)
        for number in (1, 2):
            os.dup2(words, number)
        with os.fdopen(jobs) as given, os.fdopen(answers, "w") as answered:
            serve(given, answered)
    finally:
        os._exit(0)


def _reason(words: str) -> str:
    """The line of a converter's output that names the error, without the places in the graph before it."""
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["no reason given"]
    named = [line for line in lines if "error:" in line or "Some ops" in line or "Error:" in line]
    return (named or lines[-1:])[0].split(": error: ")[-1][:300].rstrip(".")


def main() -> None:
    serve(sys.stdin, sys.stdout)


def serve(jobs: TextIO, answers: TextIO) -> None:
    import tensorflow as tf

    kind = tf.lite.TFLiteConverter  # which loads its module now, and not in each child
    gc.freeze()  # each child collects garbage once: what is loaded already is none, and to look takes a fifth of its time
    for line in jobs:
        if not hasattr(os, "fork"):
            sys.exit(_converted(kind, json.loads(line)))
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # standard output is for the answers
            status = _converted(kind, json.loads(line))
            sys.stderr.flush()
            os._exit(status)  # at once: to take TensorFlow down in good order costs two seconds
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _converted(kind: Any, job: list[str]) -> int:
    """Converts, and returns the exit status."""
    source, target, *signatures = job
    try:
        # Built-in operators alone are the default.
        Path(target).write_bytes(kind.from_saved_model(source, signature_keys=signatures).convert())
    except Exception:  # of whatever kind: it is for the other process to read
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
