"""Errors a user can act on, and what a command does with them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

FAILED, USAGE, LOST, INTERRUPTED = 1, 2, 75, 130


LONGEST = 2000  # characters of a message: it may tell what was received, which may be all of a file


class UsageError(Exception):
    """Refused before any long work: what happened, what was expected, how to fix it; one line, whatever it tells of a file."""

    status = USAGE

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        if text.isprintable():
            return text
        # A character that moves the cursor, or half of one, is none to send to a terminal.
        return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)


class RunFailed(Exception):
    """Training diverged, or an export failed its validation."""

    status = FAILED


class PeerLost(Exception):
    """Another machine that trains too is gone: whoever started this command may start it again."""

    status = LOST


def need(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional dependency.

    Raises:
        UsageError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise
        package = module.split(".", maxsplit=1)[0]
        raise UsageError(f"{package} is not installed: it comes with pip install 'seqapp[{extra}]'.") from None


def say(text: str) -> None:
    """Tells people, who read standard error, what is being done."""
    print(text, file=sys.stderr)


def told(error: OSError, path: object = None) -> str:
    """Which file cannot be read or written, and why; `path` where the system names none."""
    return f"{error.filename or path or 'A file'} cannot be read or written ({error.strerror or error})"


def run(body: Callable[[], None]) -> int:
    """Runs a command's body and returns its exit status; what the user can mend is one line on standard error."""
    try:
        body()
    except (UsageError, RunFailed, PeerLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except OSError as error:  # a disk that is full, a file that may not be read
        print(f"error: {told(error)}: mend that, then run the command again.", file=sys.stderr)
        return FAILED
    return 0
