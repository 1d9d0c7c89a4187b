"""The run directory: everything evaluation, generation and export need to know of a training."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import os
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
from seqapp import model_file, versions
from seqapp.arrays import DAMAGE
from seqapp.checksums import checksums, damaged
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.untrusted import LONGEST_NAME, inside, read_npy, words_of
from seqapp.vocabulary import Vocabulary

LARGE = 64 << 20  # bytes of a file that takes long to read: `open` leaves it unread
OPTIONAL = "metrics.json"  # which can be made again


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
        run.check_links()
        versions.check(run.path, run.made)
        run._check(run.sums, LARGE)
        return run

    def check_links(self) -> None:
        """Refuses a run whose files are elsewhere.

        Raises:
            UsageError: a symbolic link leads out of it.
        """
        for path in self.path.rglob("*"):
            if path.is_symlink() and not inside(self.path, path.relative_to(self.path).as_posix()):
                raise UsageError(
                    f"{path} is a link to what is not in the run: put the file itself there, or do not use the run."
                )

    @cached_property
    def config_file(self) -> Path:
        return self.path / "config.json"

    def write_config(self, config: Config) -> None:
        """Writes config.json, whose checksum is not known until `seal`: a process may be killed in between."""
        content = dataclasses.asdict(config)
        if self.config_file.exists() and configuration.read_json(self.config_file) == content:
            return
        if self.sums:
            write_json(self.sums_file, {name: value for name, value in self.sums.items() if name != self.config_file.name})
        write_json(self.config_file, content)

    def seal(self) -> None:
        """Writes the checksums of what is read again: all that a training begins with, and what it comes to."""
        known = [self.path / name for name in self.sums] or list(self.path.iterdir())
        made = [self.config_file, self.model_file, *(self.path / name for name in ("metrics.json", "history.csv"))]
        write_json(self.sums_file, checksums(self.path, {*known, *made}))

    @property
    def made(self) -> dict[str, Any]:
        """The format of this directory, and the versions that it was begun with."""
        file = self.path / "versions.json"
        return configuration.read_json(file) if file.exists() else {}

    @property
    def sums_file(self) -> Path:
        return self.path / "checksums.json"

    @property
    def sums(self) -> dict[str, str]:
        """The checksums of files by their names; of those alone that were there when they were last written."""
        found = configuration.read_json(self.sums_file) if self.sums_file.exists() else {}
        if not all(isinstance(value, str) for value in found.values()):
            raise UsageError(f"{self.sums_file} must hold a checksum for each name: restore it, or train again.")
        return found

    def check(self) -> None:
        """Reads all files whose checksums are known.

        Raises:
            UsageError: one is damaged, or missing.
        """
        self._check(self.sums)

    def _check(self, known: dict[str, str], largest: float = math.inf) -> None:
        for name in known:
            if not inside(self.path, name):
                raise UsageError(
                    f"{self.sums_file} names {name[:LONGEST_NAME]!r}, which is not in the run: do not use it, or train again."
                )
            if not (self.path / name).exists() and name != OPTIONAL:
                raise UsageError(
                    f"There is no {self.path / name}, which {self.sums_file.name} names: restore it, or train again."
                )
        # One that is large is checked when it is read.
        files = {name: self.path / name for name in known}
        there = {name: known[name] for name, file in files.items() if file.exists() and file.stat().st_size <= largest}
        for name in damaged(self.path, there):
            raise UsageError(
                f"{self.path / name} is damaged, it is not what {self.sums_file.name} says: restore it, or train again."
            )

    @cached_property
    def model_file(self) -> Path:
        return self.path / "model.keras"

    @cached_property
    def config(self) -> Config:
        versions.check(self.path, self.made)
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
        if file.exists() and file.stat().st_size > LARGE:
            self._check({name: value for name, value in self.sums.items() if name == file.name})
        try:
            tokens = np.asarray(read_npy(file, mapped=True))
            if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
                raise ValueError(f"it holds {tokens.dtype} {tokens.shape}")
            return tokens
        except FileNotFoundError:
            raise UsageError(f"There is no {file}: restore it, or train again.") from None
        except DAMAGE as error:
            raise UsageError(f"{file} cannot be read ({words_of(error)}): restore it, or train again.") from None

    @property
    def held_out(self) -> str:
        """The part that results are measured on: the test split, where the run has one."""
        return "test" if self.config.data.test_fraction else "validation"

    def load_model(self) -> Any:
        """The trained model.

        Raises:
            UsageError: the file is damaged, its cell is not imported, or its vocabulary is another one.
        """
        # The classes that a file may name.
        for module in ("seqapp.cells", "seqapp.model", "seqapp.classifier", "seqapp.translator"):
            importlib.import_module(module)
        if not zipfile.is_zipfile(self.model_file):
            raise UsageError(f"{self.model_file} is damaged (it is no archive): restore it, or train again.")
        try:
            model = model_file.load(self.model_file)
        except model_file.UnknownName as error:
            module, own, name = self.config.model.cell.partition(":")
            if own and repr(name) in str(error):
                raise UsageError(
                    f"{self.path} uses a cell of its own, {self.config.model.cell}: say --import {module}, if you trust it."
                ) from None
            raise UsageError(
                f"{self.model_file} is not to be trusted ({error}): if that is your own, say --import and its module; "
                "otherwise do not use the file."
            ) from None
        except Exception as error:  # Keras raises whatever its parts do
            others = ", ".join(versions.differences(self.made.get("versions", {})))
            made = f"was made with {others}, and cannot be loaded" if others else "is damaged"
            raise UsageError(f"{self.model_file} {made} ({words_of(error)}): restore it, or train again.") from None
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
    """A temporary path of the same suffix that takes the place of `path` at once, and only if nothing went wrong.

    What is written there is on the disk before it gets its name: a machine that loses its power keeps the old or the new.
    """
    temporary, old = path.with_name(f".partial-{path.name}"), path.with_name(f".old-{path.name}")
    if old.exists() and not path.exists():  # a process was killed between the two renames below
        old.rename(path)
    remove(temporary)
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _sync(temporary)
        if path.is_dir():  # a directory cannot be renamed over another
            remove(old)
            path.rename(old)
        temporary.replace(path)
        _sync(path.parent, inside=False)
    finally:
        remove(temporary)
        if path.exists():
            remove(old)
        elif old.exists():
            old.rename(path)
        else:
            for folder in new:
                folder.rmdir()


def _sync(path: Path, inside: bool = True) -> None:
    """Has the system write a file, or a directory and what is in it, to the disk."""
    if os.name == "nt":  # which does so for no file that is open for reading
        return
    if inside and path.is_dir():
        for one in path.iterdir():
            _sync(one)
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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
