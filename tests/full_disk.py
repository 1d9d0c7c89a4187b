"""Trainings whose disk is full once: `python -m tests.full_disk FOLDER STRIDE`, with tests/full_disk.c preloaded.

For every STRIDE-th call that would write into the folder of runs, one training in which it fails; for each a line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from seqapp import recurrence, train
from seqapp.run import Run
from tests.conftest import sentences

SMALL = ["--units", "4", "--embedding", "4", "--epochs", "1", "--batch-size", "4", "--bptt", "8"]


def main(folder: Path, stride: int) -> None:
    recurrence.CHUNK = 2
    disk = ctypes.CDLL(os.environ["LD_PRELOAD"])
    (folder / "text.txt").write_text(sentences(100))
    runs = folder / "runs"
    begin = ["--data", str(folder / "text.txt"), *SMALL]

    def command(arguments: list[str], failing: int = 0) -> tuple[int, str, int]:
        """Status, what is said, and how many calls would have written."""
        out, errors = io.StringIO(), io.StringIO()
        disk.arm(str(runs).encode(), failing)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = train.main([*arguments, "--run", str(runs / "run")])
        calls = disk.counted()
        disk.arm(str(runs).encode(), 0)
        return status, errors.getvalue(), calls

    status, said, calls = command(begin)
    assert status == 0, said
    wanted = Run(runs / "run").load_model().get_weights()
    for failing in range(1 + stride // 2, calls + 1, stride):
        shutil.rmtree(runs)
        status, said, _ = command(begin, failing)
        left = [str(path) for path in runs.rglob(".*") if not path.name.startswith(".old-")] if runs.exists() else []
        again, more, _ = command(["--resume"] if (runs / "run").exists() else begin)
        found = Run(runs / "run").load_model().get_weights()
        same = all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        lines = [line for line in said.splitlines() if "error" in line.lower()]
        print(json.dumps([failing, calls, status, lines, left, again, same, more[-300:] if again else ""]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
