"""Our own commands, each in a Python of its own, or in a child of one that has loaded TensorFlow and Keras already.

To load the two takes eight seconds of the processor, more than most of the commands work. A server loads them once, and of this
project what writes timesteps out, and compares them: fewer than a user's, as `tests.conftest.pytest_collection_finish` says. It
computes nothing, so none of TensorFlow's threads runs in it, and it can make a child for each command.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import shlex
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]


def run(command: list[str], folder: Path) -> str:
    """What a command writes that is run in a folder, with as many threads as a user's; it must succeed."""
    given = {"stdin": subprocess.DEVNULL, "cwd": folder, "env": _environment(many_threads=True)}
    result = subprocess.run(command, **given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"
    return result.stdout


def run_forked(command: list[str], folder: Path, many_threads: bool = False) -> str:
    """The same of `python -m MODULE …` or `python -c CODE`, in a child of the server, and in one thread if not in many."""
    status, out, errors = forked(command, folder, many_threads)
    assert status == 0, f"{shlex.join(command)}\nstatus {status}\n{errors}"
    return out


def forked(command: list[str], folder: Path, many_threads: bool = False) -> tuple[int | None, str, str]:
    """The status of such a command, None where the server died, and what it writes on its two outputs."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        reading, writing = os.pipe()
        message = json.dumps([command[1:], str(folder), _environment(many_threads)]).encode()
        socket.send_fds(_server(), [message], [writing, out.fileno(), errors.fileno()])
        os.close(writing)
        with os.fdopen(reading) as answer:
            status = answer.read()  # when all who could write it have ended; nothing, where the server died
        out.seek(0)
        errors.seek(0)
        return int(status) if status else None, out.read(), errors.read()


def _environment(many_threads: bool = False) -> dict[str, str]:
    """With TensorFlow's own number of threads, or, as the tests have it, with one."""
    own = {name: value for name, value in os.environ.items() if not (many_threads and name.startswith("TF_NUM_"))}
    return {**own, "PYTHONPATH": str(ROOT)}


@cache
def _server() -> socket.socket:
    """Of this process, with which it ends."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", "tests.commands", str(its.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(), pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(connection: socket.socket) -> NoReturn:
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    from export import parity
    from seqapp import recurrence

    recurrence.CHUNK = 2
    parity.LENGTHS = (1, 7, 100)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            os._exit(0)
        if not os.fork():
            connection.close()
            answer(*json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def answer(arguments: list[str], folder: str, environment: dict[str, str], status: int, out: int, errors: int) -> NoReturn:
    """Runs a command in another child, and writes its exit status, whatever becomes of it."""
    child = os.fork()
    if not child:
        os.close(status)
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        become(arguments, folder)
    os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def become(arguments: list[str], folder: str) -> NoReturn:
    """What Python does with its arguments; ends the process at once: to take TensorFlow down in good order takes seconds."""
    status, kind, what = 0, *arguments[:2]
    try:
        if kind == "-m":
            sys.argv, sys.path[0] = arguments[1:], folder
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = ["-c"], ""
            exec(what, {"__name__": "__main__"})
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
