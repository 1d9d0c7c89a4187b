"""The pages of the documentation, run from their first line to their last."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from tests.commands import ROOT, run, run_forked
from tests.conftest import sentences, spelled_pairs


def test_a_cell_of_ones_own(tmp_path: Path) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/own-cell.md").read_text("utf-8"), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "sh", "python", "python"]
    (tmp_path / "my-text.txt").write_text(sentences(800), "utf-8")
    (tmp_path / "my_cells.py").write_text(blocks[0][1], "utf-8")
    for kind, block in blocks[1:]:
        if kind == "sh":
            # Epochs, not seconds: what has learnt little, on a busy machine, is undecided, and its quantized files differ.
            more = ["--epochs", "6", "--units", "32"] if "seqapp.train" in block else []
            run_forked([sys.executable, *shlex.split(block)[1:], *more], tmp_path)
        else:
            # Where a model runs, neither TensorFlow nor Keras may be there already.
            (run_forked if "import keras" in block else run)([sys.executable, "-c", block], tmp_path)
    for file in ("model.tflite", "model.dynamic.tflite", "model.int8.tflite", "model.onnx", "model.int8.onnx"):
        assert (tmp_path / "runs/own/bundle" / file).exists()
    assert (tmp_path / "sensor-bundle/model.onnx").exists()


def test_the_commands_on_translations(tmp_path: Path) -> None:
    """Its Python example runs in `tests/test_readme.py`, where there is the bundle that it loads."""
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/translate.md").read_text("utf-8"), re.DOTALL)
        for line in block.splitlines()
    ]
    pairs = spelled_pairs(300)
    (tmp_path / "my-pairs.tsv").write_text("".join(f"{word}\t{phones}\n" for word, phones in pairs), "utf-8")
    (tmp_path / "my-words.txt").write_text("bacenodu\nhqi\n", "utf-8")
    (tmp_path / "my-corpus").mkdir()
    for part, some in (("train", pairs[:200]), ("test", pairs[200:])):
        for language, texts in zip(("de", "en"), zip(*some, strict=True), strict=True):
            (tmp_path / "my-corpus" / f"{part}.{language}").write_text("\n".join(texts) + "\n", "utf-8")
    for command in commands:
        small = ["--epochs", "1", "--units", "16", "--subwords", "30"] if "seqapp.train" in command else []
        run_forked([sys.executable, *shlex.split(command)[1:], *small], tmp_path)
    rows = [line.split("\t") for line in (tmp_path / "translated.tsv").read_text("utf-8").splitlines()]
    assert [row[0] for row in rows] == ["input", "bacenodu", "hqi"]
