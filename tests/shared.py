"""What tests only read and is slow to make: runs that are trained, and the data that they learnt from."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seqapp.run import Run
from seqapp.train import main as train


class Shared:
    """A folder for what tests only read, made by one of the workers that test beside each other and found by the others."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        own = tmp_path_factory.getbasetemp()
        self.folder, self.mktemp = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own), tmp_path_factory.mktemp

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A path with this name, which `make` writes if nobody has."""
        path = self.folder / "shared" / name
        path.parent.mkdir(exist_ok=True)
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(unfinished := self.mktemp("unfinished") / name)
                unfinished.rename(path)
        return path

    def run(self, *given: str) -> Callable[..., Run]:
        """Trains a run with the flags given here and those of each call, once for the same flags; each worker has its copy."""

        @functools.cache
        def run_with(*flags: str) -> Run:
            def make(path: Path) -> None:
                assert train(["--run", str(path), *given, *flags]) == 0

            made = self.made(hashlib.sha256("\0".join([*given, *flags]).encode()).hexdigest()[:16], make)
            return Run.open(shutil.copytree(made, self.mktemp("runs") / "run"))

        return run_with
