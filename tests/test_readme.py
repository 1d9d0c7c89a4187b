"""The README's commands and its Python example, run as they stand there, but for trainings that are small and short."""

from __future__ import annotations

import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seqapp.melody import Melody
from seqapp.pieces import Piece
from seqapp.scores import write_midi
from tests.commands import ROOT, run, run_forked
from tests.conftest import dated_values, sentences, spelled_pairs, talks, tune, verse, write_recipes

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
# What has learnt next to nothing is undecided, and quantized differs.
PARTS = ["--validation-fraction", "0.005", "--test-fraction", "0.005", "--min-count", "300"]
FEWER = ["--validation-fraction", "0.02", "--test-fraction", "0.02"]
# A translator that has learnt next to nothing does not end its sentences by itself.
UNDECIDED = ["--cell", "plain", "--units", "32", "--layers", "1", "--longest", "40"]
SHORT = {
    "runs/talk": [*PARTS, "--units", "64", "--embedding", "64", "--time-limit", "5"],
    "runs/language": [*FEWER, "--units", "32", "--embedding", "16", "--time-limit", "4"],
    "runs/weather": ["--units", "48", "--epochs", "2"],
    "runs/chorales": ["--units", "48", "--epochs", "1"],
    "runs/phrases": [*FEWER, *UNDECIDED, "--embedding", "32", "--time-limit", "4"],
    "runs/sounds": [*UNDECIDED, "--epochs", "1"],
    "runs/deep": ["--units", "24", "--layers", "2", "--epochs", "1"],
    "runs/mine": ["--epochs", "2"],
    "runs/sales": ["--units", "32", "--epochs", "2"],
    "runs/digits": ["--units", "32", "--epochs", "2"],
    "runs/adding": ["--units", "16", "--examples", "640", "--epochs", "2"],
    "runs/copying": ["--units", "16", "--examples", "640", "--epochs", "2"],
    "runs/far": ["--units", "16", "--examples", "320", "--epochs", "1"],
}
OTHERS = ["--units", "48", "--epochs", "2"]
TINY = ["--units", "4", "--embedding", "4", "--batch-size", "2", "--timesteps", "6", "--repeats", "1"]  # a benchmark
# To read them all takes a minute: `tests/seqapp/test_pieces.py` does.
FEWER_CHORALES = """
from music21 import corpus
every = corpus.getComposer
corpus.getComposer = lambda name: every(name)[:60]
"""
# What is learnt before a limit is the same on each machine.
HALF_A_SECOND_A_BATCH = """
from seqapp.fitting import Trainer
Trainer.elapsed = property(lambda self: self.progress.step / 2)
"""
TRAIN = """
import runpy, sys
sys.argv[1:] = {arguments}
runpy.run_module("seqapp.train", run_name="__main__", alter_sys=True)
"""


def labelled(count: int) -> str:
    """Lines of a label and a text: questions and answers of the talk."""
    return "".join(f"{'question' if line.endswith('?') else 'answer'}\t{line}\n" for line in sentences(count).splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands were run: those of each run in their order, two runs at a time.

    The first training has a Python of its own, as a user's has; the other commands, which load TensorFlow by the same function,
    start from what has loaded it already.
    """
    path = tmp_path_factory.mktemp("user")
    (path / "my-text.txt").write_text(sentences(800), "utf-8")
    (path / "my-folder").mkdir()
    for i in range(40):
        (path / "my-folder" / f"{i}.txt").write_text(sentences(10, seed=i), "utf-8")
    (path / "my-labels.tsv").write_text(labelled(400), "utf-8")
    (path / "my-pairs.tsv").write_text("".join(f"{word}\t{phones}\n" for word, phones in spelled_pairs(400)), "utf-8")
    (path / "my-series.csv").write_text(dated_values(300), "utf-8")
    columns = np.random.default_rng(0).uniform(size=(300, 1, 6)) + np.zeros((300, 6, 6))
    x = np.where(np.arange(300)[:, None, None] % 2, columns, columns.swapaxes(1, 2))
    np.savez(path / "my-images.npz", x=x, y=np.arange(300) % 2)
    np.savez(path / "my-values.npz", x=np.stack([np.full((3, 8), 0.5), np.tile([1, 0, 0, 0], (3, 2))], -1))
    (path / "my-talks.txt").write_text(talks(200), "utf-8")
    write_recipes(path / "my-recipes")
    (path / "my-music").mkdir()
    for i in range(40):
        write_midi(Piece("tune", tune(i), 0.5).score, path / "my-music" / ("song.mid" if i == 0 else f"{i}.mid"))
    (path / "my-tunes").mkdir()
    for i in range(40):
        write_midi(Melody("tune", verse(i)).score, path / "my-tunes" / f"{i}.mid")
    of_runs: dict[str, list[str]] = {}
    for line in COMMANDS[2:]:
        of_runs.setdefault(next(iter(re.findall(r"runs/\w+", line)), "no run"), []).append(line)

    def run_all(lines: list[str]) -> None:
        for line in lines:
            command = [sys.executable, *shlex.split(line)[1:]]
            if "seqapp.train" in command and "--resume" not in command:
                command += SHORT.get(command[command.index("--run") + 1], OTHERS)
                before = FEWER_CHORALES * ("runs/chorales" in command) + HALF_A_SECOND_A_BATCH * ("--time-limit" in command)
                if before:
                    command[1:] = ["-c", before + TRAIN.format(arguments=command[3:])]
            if "export.benchmark" in command:
                command += ["--repeats", "1"]
            if "seqapp.benchmark" in command:
                command += TINY if "--parallel" in command else [*TINY, "--cells", "gru"]
            out = (run if line == COMMANDS[2] else run_forked)(command, path)
            assert out.strip() or "--chat" in command  # which has nothing to answer here
            if line.split()[2] in ("seqapp.train", "export"):
                assert (path / out.splitlines()[-1]).is_dir()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_all, of_runs.values()))
    return path


def test_the_commands_run(folder: Path) -> None:
    assert len(COMMANDS) > 10
    for name in ("model.tflite", "model.onnx", "saved_model", "manifest.json", "vocabulary.json"):
        assert (folder / "runs/talk/bundle" / name).exists()
    assert not (folder / "runs/letters/bundle/saved_model").exists()


def test_the_example_runs(folder: Path) -> None:
    (example,) = [block for kind, block in BLOCKS if kind == "python"]
    likely, suggested, *text = run([sys.executable, "-c", example], folder).splitlines()
    assert len(eval(likely)) == 3
    assert eval(suggested)[0][0].startswith("y")
    assert any(text)


def test_music_is_made(folder: Path) -> None:
    for path in (
        "song-goes-on.mid",
        "song-goes-on.png",
        "runs/chorales/generated.mid",
        "new-tune.mid",
        "new-tune.png",
        "runs/music/bundle/model.dynamic.tflite",
    ):
        assert (folder / path).stat().st_size > 100


def test_the_example_of_a_translation_runs(folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/translate.md").read_text("utf-8"), re.DOTALL)
    _, *likely = run([sys.executable, "-c", example], folder).splitlines()
    chances = [float(line.split()[0]) for line in likely]
    assert len(chances) == 5
    assert all(0 <= chance <= 1 for chance in chances)


def test_the_example_of_a_forecast_runs(folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/forecast.md").read_text("utf-8"), re.DOTALL)
    rows = [list(map(float, line.split())) for line in run([sys.executable, "-c", example], folder).splitlines()]
    assert [len(row) for row in rows] == [5] * 14
    assert all(row == sorted(row) for row in rows)


def test_the_first_two_commands_install_and_run() -> None:
    """The first does the main job; the second is what `.ci/run` runs, in an environment of its own."""
    first, second = COMMANDS[:2]
    assert all(part in first for part in ("pip install -c constraints.txt", "seqapp.train", "-m export"))
    assert all(part in second for part in ("pip install -c constraints.txt", "ruff check", "mypy", "pytest"))
    assert "README.md" in (ROOT / ".ci/run").read_text()
