"""The trainings of BENCHMARKS.md, run as they stand there for five seconds each, on small data of the same names and formats.

They take minutes: `pytest -m benchmarks` runs them.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.commands import ROOT, run, run_forked
from tests.conftest import labelled_texts, sentences, spelled_pairs, tune, write_recipes

pytestmark = pytest.mark.benchmarks
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "BENCHMARKS.md").read_text("utf-8"), re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
# Of a loop in the shell, its first round.
TRAININGS = [re.sub(r"^for (\w+) in (\w+) .*?do (.*); done$", r"\3", line) for line in LINES if "seqapp.train" in line]
TABLES = [line for line in LINES if line.startswith("python -c") and "hourly" in line]


def text(path: Path) -> None:
    path.write_text(sentences(1500), "utf-8")


def long_text(path: Path) -> None:
    path.write_text(sentences(30_000), "utf-8")


def recipes(path: Path) -> None:
    write_recipes(path, 300)


def reviews(path: Path) -> None:
    path.write_text(labelled_texts(400), "utf-8")


def series_with_classes(path: Path) -> None:
    path.mkdir()
    for part, count in (("train", 300), ("test", 60)):
        x = np.random.default_rng(count).normal(size=(count, 40))
        np.savez(path / f"{part}.npz", x=x, y=(x.sum(1) > 0).astype(int))


def chorales(path: Path) -> None:
    def rolls(count: int) -> np.ndarray:
        cells = np.empty((1, count), object)
        for i in range(count):
            cells[0, i] = tune(i)
        return cells

    savemat(path, {"traindata": rolls(40), "validdata": rolls(8), "testdata": rolls(8)})


def hourly(path: Path) -> None:
    """The two tables of the competition, and what the command of the page makes of them."""
    values = 100 + 30 * np.sin(np.arange(800) * 2 * np.pi / 24) + np.random.default_rng(0).normal(0, 3, (4, 800))
    for part, some in (("train", values[:, :752]), ("test", values[:, 752:])):
        names = ",".join(["V1", *(f"V{i}" for i in range(2, some.shape[1] + 2))])
        rows = [",".join([f"H{i}", *(f"{value:.1f}" for value in row)]) for i, row in enumerate(some)]
        (path.parent / f"Hourly-{part}.csv").write_text("\n".join([names, *rows]) + "\n", "utf-8")
    for line in TABLES:
        run([sys.executable, *shlex.split(line)[1:]], path.parent)


def sounds(path: Path) -> None:
    path.mkdir()
    pairs = spelled_pairs(300)
    for part, some in (("train", pairs[:200]), ("validation", pairs[200:250]), ("test", pairs[250:])):
        (path / f"{part}.tsv").write_text("".join(f"{word}\t{phones}\n" for word, phones in some), "utf-8")


def aligned(path: Path) -> None:
    path.mkdir()
    for part, seed in (("train", 0), ("validation", 1), ("test", 2)):
        lines = sentences(500 if part == "train" else 50, seed)
        (path / f"{part}.de").write_text(lines.upper(), "utf-8")
        (path / f"{part}.en").write_text(lines, "utf-8")


MAKERS: dict[str, Callable[[Path], None]] = {
    "recipes": recipes,
    "tinyshakespeare.txt": text,
    "large.txt": long_text,
    "reviews.tsv": reviews,
    "mnist1d": series_with_classes,
    "JSB_Chorales.mat": chorales,
    "hourly.csv": hourly,
    "french": sounds,
    "hungarian": sounds,
    "icelandic": sounds,
    "multi30k": aligned,
}


def test_all_trainings_are_found() -> None:
    assert len(TRAININGS) >= 20
    assert any("--form recipe" in line for line in TRAININGS)
    assert {"classify", "forecast", "next-note", "translate"} <= set(re.findall(r"--task (\S+)", " ".join(TRAININGS)))


@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_runs(line: str, tmp_path: Path) -> None:
    command = shlex.split(line.replace("$fold", "0"))
    if "--data" in command:
        name = command[command.index("--data") + 1]
        MAKERS[name](tmp_path / name)
    out = run_forked([sys.executable, *command[1:], "--time-limit", "5"], tmp_path)
    assert (tmp_path / out.splitlines()[-1] / "metrics.json").exists()
