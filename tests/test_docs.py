"""The pages of the documentation, run from their first line to their last."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.conversion import export_run
from seqapp.config import ModelConfig, TrainingConfig
from seqapp.next_token import NextToken
from seqapp.run import Run
from tests.commands import ROOT, run, run_forked
from tests.conftest import refused, sentences, spelled_pairs


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


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    page = (ROOT / "docs/own-task.md").read_text("utf-8")
    code, commands, loading = (block for _, block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "my_tasks.py").write_text(code, "utf-8")
    rng = random.Random(0)
    rows = []
    for session in range(400):
        events = ["open", "search", *(["view-item", "add-to-cart", "pay"] if rng.random() < 0.7 else ["search", "close"])]
        rows += [f"{session},{event}\n" for event in events]
    (tmp_path / "my-log.csv").write_text("session,event\n" + "".join(rows), "utf-8")
    (tmp_path / "my-sessions.txt").write_text("open search view-item\tadd-to-cart\nopen search search\tclose\n", "utf-8")
    printed = {}
    for command in commands.splitlines():
        printed[command.split()[2]] = run_forked([sys.executable, *shlex.split(command)[1:]], tmp_path)
    rows = [line.split("\t") for line in printed["seqapp.predict"].splitlines()]
    assert [row[1:3] for row in rows[1:]] == [["add-to-cart"] * 2, ["close"] * 2]
    assert printed["seqapp.generate"].startswith("open search ")
    content = json.loads((tmp_path / "runs/events/bundle/manifest.json").read_text("utf-8"))
    assert content["task"] == "my_tasks:NextEvent" and content["vocabulary"]["unit"] == "symbol"
    likely = dict(eval(run([sys.executable, "-c", loading], tmp_path)))
    assert likely["view-item"] == pytest.approx(0.7, abs=0.1)


def test_a_task_of_ones_own_is_refused_in_one_line(tmp_path: Path) -> None:
    page = (ROOT / "docs/own-task.md").read_text("utf-8")
    (tmp_path / "my_tasks.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], "utf-8")
    (tmp_path / "bad.csv").write_text("session,event\n1,open\n1,\n", "utf-8")
    for given, part in (
        (["--task", "my_tasks:NextEvent"], "There is no task my_tasks:NextEvent"),
        (["--task", "my_tasks:Other", "--import", "my_tasks"], "There is no task my_tasks:Other"),
        (["--task", "my_tasks:NextEvent", "--import", "none"], "--import none does not work"),
        (["--task", "my_tasks:NextEvent", "--import", "my_tasks"], "There is no default log"),
        (["--task", "my_tasks:NextEvent", "--import", "my_tasks", "--data", "bad.csv"], "bad.csv, row 3: expected a session"),
    ):
        command = [sys.executable, "-m", "seqapp.train", *given]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {part}") and done.stderr.count("\n") == 1


def test_a_task_of_ones_own_without_a_layout_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = type("Mine", (NextToken,), {"layout": "waves", "__init__": lambda self: NextToken.__init__(self, "word")})
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(Mine=task))
    (tmp_path / "config.json").write_text('{"task": "mine:Mine"}', "utf-8")
    refused(lambda: export_run(Run(tmp_path), tmp_path / "b", [], [], []), "layout among text, classes", "Received: 'waves'")


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
        small = ["--epochs", "1", "--cell", "plain", "--units", "16", "--layers", "1", "--subwords", "30", "--longest", "40"]
        run_forked([sys.executable, *shlex.split(command)[1:], *(small if "seqapp.train" in command else [])], tmp_path)
    rows = [line.split("\t") for line in (tmp_path / "translated.tsv").read_text("utf-8").splitlines()]
    assert [row[0] for row in rows] == ["input", "bacenodu", "hqi"]


def test_the_commands_of_long_memory_are_run_with_the_readme() -> None:
    page, readme = ((ROOT / name).read_text("utf-8") for name in ("docs/long-memory.md", "README.md"))
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 3
    assert all(line in readme.splitlines() for line in commands)


def test_each_remedy_on_the_page_is_a_flag() -> None:
    page = (ROOT / "docs/long-memory.md").read_text("utf-8")
    flags = {flag for row in re.findall(r"^\| `(.*?)\|", page, re.MULTILINE) for flag in re.findall(r"--[a-z-]+", row)}
    names = {f"--{item.name.replace('_', '-')}" for kind in (ModelConfig, TrainingConfig) for item in fields(kind)}
    assert flags and flags <= names
