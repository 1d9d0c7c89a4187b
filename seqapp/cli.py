"""What the commands share: a parser, a flag, and a quiet start of TensorFlow."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from seqapp import backend
from seqapp import config as configuration
from seqapp.config import Config, read_json
from seqapp.errors import USAGE, UsageError, need
from seqapp.run import Run


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all errors here are."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}; see {self.prog} --help\n")


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """`--import MODULE`: a cell of the user's own is code, and code is run only when the user names it."""
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module that defines a cell or a task of your own",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--import`, and a flag for every setting."""
    parser.add_argument("--config", metavar="FILE.json", help="settings as config.json of a run has them; flags go before them")
    add_import_flag(parser)
    configuration.add_flags(parser)


def settings(flags: dict[str, Any], file: str | None, modules: list[str]) -> Config:
    """What a file and the flags before it ask for.

    Raises:
        UsageError: the file cannot be read, a module is not there, or a setting is wrong.
    """
    base = read_json(Path(file)) if file else {}
    import_task(flags.get("task", base.get("task")), modules)
    return configuration.build(flags, base)


def need_keras(modules: list[str]) -> None:
    """Imports TensorFlow and Keras, which takes some seconds, and the modules that the user named."""
    engine = backend.engine()
    print(f"loading {'TensorFlow' if engine == 'tensorflow' else f'Keras on {engine}'}", file=sys.stderr, flush=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        for module in (engine, "keras"):
            need(module, "train")
    import_modules(modules)


def import_modules(modules: list[str]) -> None:
    """Imports what the user named.

    Raises:
        UsageError: a module is not there.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UsageError(f"--import {module} does not work ({error}): run the command where the module is.") from None


def open_run(path: str, modules: list[str]) -> Run:
    """A run; the modules are imported before its task is asked for anything, where that is one of the user's own.

    Raises:
        UsageError: as `Run.open`, or a module is not there.
    """
    run = Run.open(path)
    import_task(read_json(run.config_file).get("task"), modules)
    return run


def import_task(task: object, modules: list[str]) -> None:
    """Imports the modules where the task is one of the user's own, so that it is there when the settings are read.

    Raises:
        UsageError: a module is not there.
    """
    if ":" in str(task):
        import_modules(modules)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps from the user what TensorFlow's native library writes to file descriptor 2 before its log level can be set."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
