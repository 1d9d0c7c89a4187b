"""One process at a time."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from seqapp.errors import UsageError
from seqapp.untrusted import json_of

try:
    import fcntl
except ImportError:  # on Windows nobody is kept out
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: Path, flag: str) -> Iterator[None]:
    """While this lasts, no other process gets to hold `path`, a file or directory that may not be there yet.

    What is locked is a file beside it, which tells who holds it. A process that is killed leaves the file, and no lock.

    Raises:
        UsageError: another process holds it; says which.
    """
    if fcntl is None:
        yield
        return
    beside = path.with_name(f".lock-{path.name}")
    new = [folder for folder in beside.parents if not folder.exists()]
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(beside)
        if file is None:
            raise UsageError(f"{path} is in use by {_holder(beside)}: wait for its end, or name another with {flag}.")
        with file:
            try:
                file.truncate(0)
                who = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                json.dump(who, file)
                file.flush()
                yield
            finally:
                beside.unlink(missing_ok=True)
    finally:
        for folder in new:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _locked(beside: Path) -> IO[str] | None:
    """The file, locked; None where another process has it."""
    while True:
        file = beside.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # Whoever held it until now has removed it since: a lock on what has no name keeps nobody out.
        if beside.exists() and os.path.samestat(beside.stat(), os.fstat(file.fileno())):
            return file
        file.close()


def _holder(beside: Path) -> str:
    try:
        who = json_of(beside.read_text("utf-8"))
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
