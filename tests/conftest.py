"""What the tests share: a small corpus of our own, and runs trained on it by the real command."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from seqapp.run import Run
from seqapp.train import main as train

CELLS = ("plain", "lstm", "gru", "cifg")


def sentences(count: int, seed: int = 0) -> str:
    """Text with a grammar that a small model can learn: agreement, and a question that its answer repeats."""
    rng = random.Random(seed)
    people = {"i": "am", "you": "are", "she": "is", "they": "are", "we": "are"}
    things = ["happy", "late", "tired", "at home", "on the way", "hungry", "here", "ready"]
    times = ["today", "tonight", "now", "again", "at last"]
    lines = []
    for _ in range(count):
        person, thing, time = rng.choice(list(people)), rng.choice(things), rng.choice(times)
        lines.append(f"{people[person].capitalize()} {person} {thing} {time}?")
        answer = "Yes" if rng.random() < 0.6 else "No"
        lines.append(f"{answer}, {person} {people[person]} {'' if answer == 'Yes' else 'not '}{thing} {time}.")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UTF-8 text of some 20,000 words."""
    path = tmp_path_factory.mktemp("text") / "talk.txt"
    path.write_text(sentences(1600), "utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Callable[..., Run]:
    """Trains a run with the given flags, once for the same flags."""
    runs: dict[tuple[str, ...], Run] = {}

    def run_with(*flags: str) -> Run:
        if flags not in runs:
            path = tmp_path_factory.mktemp("runs") / "run"
            small = ["--units", "24", "--embedding", "16", "--epochs", "2", "--batch-size", "8", "--bptt", "16"]
            assert train(["--run", str(path), "--data", str(text_file), *small, "--learning-rate", "0.01", *flags]) == 0
            runs[flags] = Run.open(path)
        return runs[flags]

    return run_with
