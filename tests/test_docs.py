"""The page on a cell of one's own, run from its first line to its last."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from tests.conftest import sentences
from tests.test_readme import ROOT, run


def test_a_cell_of_ones_own(tmp_path: Path) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/own-cell.md").read_text("utf-8"), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "sh", "python", "python"]
    (tmp_path / "my-text.txt").write_text(sentences(800), "utf-8")
    (tmp_path / "my_cells.py").write_text(blocks[0][1], "utf-8")
    for kind, block in blocks[1:]:
        if kind == "sh":
            # Epochs, not seconds: what has learnt little, on a busy machine, is undecided, and its quantized files differ.
            more = ["--epochs", "6", "--units", "32"] if "seqapp.train" in block else []
            run([sys.executable, *shlex.split(block)[1:], *more], tmp_path)
        else:
            run([sys.executable, "-c", block], tmp_path)
    for file in ("model.tflite", "model.dynamic.tflite", "model.int8.tflite", "model.onnx", "model.int8.onnx"):
        assert (tmp_path / "runs/own/bundle" / file).exists()
    assert (tmp_path / "sensor-bundle/model.onnx").exists()
