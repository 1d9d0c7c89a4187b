"""The run directory: everything evaluation, generation and export need to know of a training."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import config as configuration
from seqapp.config import CELL_NAMES, Config
from seqapp.errors import UsageError, need
from seqapp.vocabulary import Vocabulary


@dataclass(frozen=True)
class Run:
    """The files of one run, by the names other programs rely on."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run that has at least one epoch behind it.

        Raises:
            UsageError: there is no run, it is of a task without tokens, or its parts do not fit together.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise UsageError(f"There is no run directory {path}: give one that seqapp.train made.")
        if not run.config_file.exists():
            raise UsageError(f"{path} is no run directory, it has no config.json: give one that seqapp.train made.")
        if not run.model_file.exists():
            raise UsageError(f"{path} holds no model.keras, its training is not finished: go on with --run {path} --resume.")
        return run

    @cached_property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @cached_property
    def model_file(self) -> Path:
        return self.path / "model.keras"

    @cached_property
    def config(self) -> Config:
        content = configuration.read_json(self.config_file)
        if not configuration.known(content.get("task")):
            raise UsageError(
                f"{self.path} is a run of the task {content.get('task')!r}: "
                f"this command knows {', '.join(configuration.TASKS)}."
            )
        return configuration.build({}, content)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        vocabulary = Vocabulary.load(self.path / "vocabulary.json")
        if self.config.task.startswith("next-") and f"next-{vocabulary.unit}" != self.config.task:
            raise UsageError(
                f"{self.path} mixes tasks: its config.json says {self.config.task}, its vocabulary.json is of the unit "
                f"{vocabulary.unit!r}: restore the file, or train again."
            )
        return vocabulary

    @property
    def metrics(self) -> dict[str, Any]:
        if not (self.path / "metrics.json").exists():
            raise UsageError(
                f"{self.path} holds no metrics.json, its training is not finished: go on with --run {self.path} --resume."
            )
        return configuration.read_json(self.path / "metrics.json")

    def kept_baselines(self, data: str | None) -> dict[str, Any] | None:
        """The baselines' figures on the held-out part, which training measured; of other data, or before that, None."""
        return None if data or not (self.path / "metrics.json").exists() else self.metrics.get("baselines")

    def tokens(self, part: str) -> Any:
        """The stream (N,) of `train`, `validation` or `test`, read through a memory map."""
        file = self.path / f"{part}_tokens.npy"
        try:
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise UsageError(f"There is no {file}: restore it, or train again.") from None
        except (ValueError, EOFError, OSError) as error:
            raise UsageError(f"{file} cannot be read ({error}): restore it, or train again.") from None

    @property
    def held_out(self) -> str:
        """The part that results are measured on: the test split, where the run has one."""
        return "test" if self.config.data.test_fraction else "validation"

    def load_model(self) -> Any:
        """The trained model.

        Raises:
            UsageError: the file is damaged, its cell is not imported, or its vocabulary is another one.
        """
        keras = need("keras", "train")
        for module in (
            "seqapp.cells",
            "seqapp.model",
            "seqapp.classifier",
            "seqapp.translator",
        ):  # the classes that a file may name
            importlib.import_module(module)
        if not zipfile.is_zipfile(self.model_file):
            raise UsageError(f"{self.model_file} is damaged (it is no archive): restore it, or train again.")
        try:
            model = keras.saving.load_model(self.model_file, compile=False)
        except (zipfile.BadZipFile, OSError, KeyError, EOFError) as error:
            raise UsageError(f"{self.model_file} is damaged ({error}): restore it, or train again.") from None
        except (ValueError, TypeError) as error:
            if self.config.model.cell not in CELL_NAMES:
                module = self.config.model.cell.partition(":")[0]
                raise UsageError(
                    f"{self.path} uses a cell of its own, {self.config.model.cell}: say --import {module}, if you trust it."
                ) from None
            first = (str(error).splitlines() or [""])[0]
            raise UsageError(f"{self.model_file} is damaged ({first}): restore it, or train again.") from None
        size = getattr(model, "vocabulary_size", None)
        if size is not None and size != len(self.vocabulary):
            raise UsageError(
                f"{self.path}: the vocabulary has {len(self.vocabulary)} tokens and the model {size}; "
                "they are not of the same training: restore vocabulary.json, or train again."
            )
        return model


def write_json(path: Path, content: Any) -> None:
    """Writes all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path of the same suffix that takes the place of `path` at once, and only if nothing went wrong."""
    temporary, old = path.with_name(f".partial-{path.name}"), path.with_name(f".old-{path.name}")
    if old.exists() and not path.exists():  # a process was killed between the two renames below
        old.rename(path)
    remove(temporary)
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        if path.is_dir():  # a directory cannot be renamed over another
            remove(old)
            path.rename(old)
        temporary.replace(path)
    finally:
        remove(temporary)
        if path.exists():
            remove(old)
        elif old.exists():
            old.rename(path)
        else:
            for folder in new:
                folder.rmdir()


def remove(path: Path) -> None:
    """Removes a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def check_file(path: Path, flag: str) -> None:
    """Refuses a file that cannot be written; leaves nothing behind.

    Raises:
        UsageError: its folder is not there, or may not be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory: name a file with {flag}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}: make it, or name another file with {flag}.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file with {flag}.") from None


def check_target(path: Path, flag: str, marker: str, overwrite: bool) -> None:
    """Refuses a directory that must not be replaced or cannot be made; leaves nothing behind.

    Only a directory that holds `marker`, the file such a directory always has, may be overwritten.

    Raises:
        UsageError: either of them.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: name another directory with {flag}, or replace it with --overwrite.")
    if path.exists() and not (path / marker).exists():
        raise UsageError(f"{path} is there but has no {marker}, so it is not replaced: name another directory with {flag}.")
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another directory with {flag}.") from None
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # another run may have begun in it meanwhile
                folder.rmdir()
