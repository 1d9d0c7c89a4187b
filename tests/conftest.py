"""What the tests share: a small corpus of our own, and runs trained on it by the real command."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run beside each other, and threads would wait for each other's.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from seqapp.errors import UsageError
from seqapp.run import Run
from tests.shared import Shared

# The same examples each time, however slow the machine is: what passed here passes elsewhere.
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.load_profile("same")

CELLS = ("plain", "lstm", "gru", "cifg")
FEWER = (("seqapp.recurrence", "CHUNK", 2), ("export.parity", "LENGTHS", (1, 7, 100)))
# Those that take the longest come first: none should be begun when the other worker has nothing left to do.
LONGEST = (
    "tests/test_readme.py",
    "tests/test_docs.py",
    "tests/export/test_matrix.py",
    "tests/test_survival.py",
    "tests/test_commands.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST)))


def pytest_collection_finish() -> None:
    """Trainings write out fewer timesteps in a graph, which takes half the time to trace and is the same for any number; and
    exports compare fewer with Keras, of which each takes milliseconds.

    Commands that are started as a user starts them, and what tests the chunks or the comparison, have as many as a user's.
    """
    for module, name, value in FEWER:
        if module in sys.modules:
            setattr(sys.modules[module], name, value)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test and the fixtures that are made for it have the same random weights each time.

    Keras draws its seeds of Python; a seed of TensorFlow's would have it prepare again what it computed before.
    """
    random.seed(0)


def refused(work: Callable[[], object], *parts: str) -> None:
    """A `UsageError` of one line that holds the parts."""
    with pytest.raises(UsageError) as error:
        work()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """What a command that refused has written: an error of one line that holds the parts."""
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for part in parts:
        assert part in error


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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared(tmp_path_factory)


@pytest.fixture(scope="session")
def text_file(shared: Shared) -> Path:
    """A UTF-8 text of some 20,000 words."""
    return shared.made("talk.txt", lambda path: path.write_text(sentences(1600), "utf-8"))


@pytest.fixture(scope="session")
def trained(shared: Shared, text_file: Path) -> Callable[..., Run]:
    """Trains a run with the given flags, once for the same flags."""
    small = ["--units", "24", "--embedding", "16", "--epochs", "2", "--batch-size", "8", "--bptt", "16"]
    return shared.run("--data", str(text_file), *small, "--learning-rate", "0.01")


def talks(count: int) -> str:
    """Conversations of two questions and their answers, as they stand in a file."""
    lines = [f"{'BA'[i % 2]}: {line}\n" for i, line in enumerate(sentences(2 * count).splitlines(), 1)]
    return "\n".join("".join(lines[first : first + 4]) for first in range(0, len(lines), 4))


def write_recipes(folder: Path, count: int = 60) -> Path:
    """A folder of recipes in Markdown, soup.md one of them: what goes into a dish is what its steps name."""
    rng = random.Random(0)
    folder.mkdir()
    for i in range(count):
        some = rng.sample(["leek", "rice", "salt", "beans", "corn", "bread"], 3)
        steps = [rng.choice(["Cut", "Boil", "Fry"]) + f" the {name}." for name in some]
        parts = ["- " + "\n- ".join(some), "1. " + "\n1. ".join([*steps, "Serve it."])]
        text = f"---\ntitle: {some[0]} and {some[1]}\n---\n\n## Ingredients\n\n{parts[0]}\n\n## Directions\n\n{parts[1]}\n"
        (folder / ("soup.md" if i == 0 else f"{i}.md")).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="session")
def recipe_folder(shared: Shared) -> Path:
    return shared.made("recipes", write_recipes)


@pytest.fixture(scope="session")
def talked(shared: Shared) -> Run:
    """A run of conversations, by words."""
    path = shared.made("talks.txt", lambda path: path.write_text(talks(300), "utf-8"))
    small = ["--units", "24", "--embedding", "16", "--epochs", "3", "--batch-size", "8", "--bptt", "16"]
    return shared.run("--data", str(path), "--form", "conversation", *small, "--learning-rate", "0.01")()


@pytest.fixture(scope="session")
def cooked(shared: Shared, recipe_folder: Path) -> Run:
    """A run of recipes, by characters."""
    small = ["--units", "24", "--embedding", "16", "--epochs", "2", "--batch-size", "4", "--learning-rate", "0.01"]
    parts = ["--validation-fraction", "0.2", "--test-fraction", "0.2"]
    return shared.run("--task", "next-character", "--data", str(recipe_folder), "--form", "recipe", *small, *parts)()


def labelled_texts(count: int) -> str:
    """Questions, and answers of two kinds: label TAB text."""
    lines = sentences(count).splitlines()
    return "".join(f"{'question' if line.endswith('?') else line.partition(',')[0].lower()}\t{line}\n" for line in lines)


def labelled_series(count: int) -> str:
    """Numbers that rise or fall, of 3 to 9 timesteps, in units of a thousand: label,v1,v2,…"""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        values = 5000 + 1000 * np.cumsum(rng.uniform(0.2, 1, rng.integers(3, 10))) * (-1) ** i
        rows.append(f"{'fall' if i % 2 else 'rise'},{','.join(f'{value:.1f}' for value in values)}\n")
    return "label,v1,v2\n" + "".join(rows)


def labelled_timesteps(count: int) -> dict[str, Any]:
    """Whether the sum of two features so far is below or above zero: arrays x, y and lengths."""
    x = np.random.default_rng(0).normal(size=(count, 8, 2)).astype(np.float32)
    y = np.where(x.sum(-1).cumsum(-1) > 0, "above", "below")
    return {"x": x, "y": y, "lengths": np.arange(count) % 6 + 3}


@pytest.fixture(scope="session")
def labelled_files(shared: Shared) -> dict[str, Path]:
    """Data for the task `classify`: texts, series, and series with a label for each timestep."""

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "talk.tsv").write_text(labelled_texts(200), "utf-8")
        (folder / "trend.csv").write_text(labelled_series(160), "utf-8")
        np.savez(folder / "sums.npz", **labelled_timesteps(80))

    return {path.stem: path for path in shared.made("labelled", write).iterdir()}


@pytest.fixture(scope="session")
def classified(shared: Shared, labelled_files: dict[str, Path]) -> Callable[..., Run]:
    """Trains a classifier on one of the labelled files with the given flags, once for the same flags."""
    small = ["--units", "32", "--embedding", "32", "--epochs", "2", "--batch-size", "8", "--learning-rate", "0.02"]
    parts = ["--validation-fraction", "0.2", "--test-fraction", "0.2"]
    run_with = shared.run("--task", "classify", "--min-count", "1", "--dropout", "0", *small, *parts)
    return lambda data, *flags: run_with("--data", str(labelled_files[data]), *flags)


@pytest.fixture(scope="session")
def added(shared: Shared) -> Callable[..., Run]:
    """Trains a run of the task `adding` with the given flags, once for the same flags."""
    small = ["--length", "10", "--examples", "1500", "--units", "12", "--epochs", "4", "--learning-rate", "0.03"]
    return shared.run("--task", "adding", *small)


@pytest.fixture(scope="session")
def remembered(shared: Shared) -> Callable[..., Run]:
    """Trains a run of the task `copy-memory` with the given flags, once for the same flags."""
    small = ["--length", "2", "--examples", "2000", "--units", "32", "--embedding", "8", "--epochs", "5"]
    return shared.run("--task", "copy-memory", *small, "--batch-size", "16", "--learning-rate", "0.02")


def dated_values(days: int, seed: int = 0) -> str:
    """A series of days with a week in it, and a column beside it that goes before it: date,sold,asked"""
    rng = np.random.default_rng(seed)
    dates = np.datetime64("2023-01-02") + np.arange(days)
    asked = rng.normal(50, 5, days + 1)
    sold = 100 + 20 * np.sin(np.arange(days) * 2 * np.pi / 7) + 2 * asked[:-1] + rng.normal(0, 1, days)
    return "date,sold,asked\n" + "".join(f"{d},{s:.2f},{a:.2f}\n" for d, s, a in zip(dates, sold, asked[1:], strict=True))


@pytest.fixture(scope="session")
def series_file(shared: Shared) -> Path:
    """Two columns of numbers for 400 days."""
    return shared.made("shop.csv", lambda path: path.write_text(dated_values(400), "utf-8"))


@pytest.fixture(scope="session")
def forecasted(shared: Shared, series_file: Path) -> Callable[..., Run]:
    """Trains a forecaster with the given flags, once for the same flags."""
    small = ["--horizon", "5", "--units", "32", "--epochs", "3", "--bptt", "40", "--learning-rate", "0.01"]
    return shared.run("--task", "forecast", "--data", str(series_file), *small)


def tune(seed: int, frames: int = 48) -> Any:
    """A roll (frames, 88): a triad of a scale that goes up and down, and a bass that holds."""
    rng = np.random.default_rng(seed)
    roll = np.zeros((frames, 88), np.uint8)
    scale, place = [27, 29, 31, 32, 34, 36, 38, 39, 41, 43, 44], int(rng.integers(0, 6))
    for t in range(frames):
        place = int(np.clip(place + (1 if (t // 4 + seed) % 2 else -1), 0, 6))
        roll[t, [scale[place], scale[place + 2], scale[place + 4], 15 + 5 * (t // 8 % 2)]] = 1
    return roll


@pytest.fixture(scope="session")
def music_folder(shared: Shared) -> Path:
    """Forty pieces as MIDI, in quarter notes, in 3/4 and at 90 of them a minute."""
    from seqapp.pieces import Piece
    from seqapp.scores import write_midi

    def write(folder: Path) -> None:
        folder.mkdir()
        for i in range(40):
            write_midi(Piece(str(i), tune(i, 40 + i % 9), 1.0, 90.0, "3/4").score, folder / f"{i}.mid")

    return shared.made("music", write)


@pytest.fixture(scope="session")
def composed(shared: Shared, music_folder: Path) -> Callable[..., Run]:
    """Trains a run of music with the given flags, once for the same flags."""
    small = ["--units", "48", "--epochs", "24", "--batch-size", "4", "--learning-rate", "0.03", "--dropout", "0"]
    parts = ["--validation-fraction", "0.2", "--test-fraction", "0.2", "--transpose", "0"]
    return shared.run("--task", "next-note", "--data", str(music_folder), *small, *parts)


def verse(seed: int, notes: int = 36) -> np.ndarray:
    """Notes (N, 2) of a pitch and ticks with a grammar: a scale up and down, in one rhythm, with a rest after eight of them."""
    from seqapp.melody import GRID, REST

    rng, rhythm = np.random.default_rng(seed), (2, 1, 1, 1, 1, 2, 2, 4)
    scale, place, found = [39, 41, 43, 44, 46, 48, 50, 51], int(rng.integers(0, 8)), []
    for i in range(notes):
        place = abs(place + (1 if (i // 8 + seed) % 2 else -1)) if place < 7 else 6
        found.append((scale[place], rhythm[i % 8] * GRID // 2))
        if i % 8 == 7:
            found.append((REST, GRID))
    return np.array(found[:-1] if found[-1][0] == REST else found, np.int32)


@pytest.fixture(scope="session")
def melody_folder(shared: Shared) -> Path:
    """Forty melodies as MIDI, in 6/8 and at 100 quarter notes a minute."""
    from seqapp.melody import Melody
    from seqapp.scores import write_midi

    def write(folder: Path) -> None:
        folder.mkdir()
        for i in range(40):
            write_midi(Melody(str(i), verse(i, 28 + i % 9), 100.0, "6/8").score, folder / f"{i}.mid")

    return shared.made("melodies", write)


@pytest.fixture(scope="session")
def sung(shared: Shared, melody_folder: Path) -> Callable[..., Run]:
    """Trains a run of melodies with the given flags, once for the same flags."""
    small = ["--units", "32", "--epochs", "20", "--batch-size", "4", "--learning-rate", "0.03", "--dropout", "0"]
    parts = ["--validation-fraction", "0.2", "--test-fraction", "0.2", "--transpose", "0", "--recurrent-dropout", "0"]
    return shared.run("--task", "next-note", "--music", "melody", "--data", str(melody_folder), *small, *parts)


def spelled_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Words of a small alphabet with how they sound, each once: a letter may be silent, long, or lean on the one before."""
    rng, sounds = random.Random(seed), {"c": "k", "q": "k", "u": "y", "e": "ɛ"}
    found = {}
    while len(found) < count:
        word = "".join(rng.choice(("ba", "ce", "du", "qi", "no", "h", "rra")) for _ in range(rng.randint(1, 4)))
        phones = [sounds.get(letter, letter) for letter in word.replace("h", "").replace("rr", "R")]
        found[word] = " ".join(phones) or "∅"
    return list(found.items())


@pytest.fixture(scope="session")
def pairs_file(shared: Shared) -> Path:
    """Words and how they sound: source TAB target."""
    content = "".join(f"{word}\t{phones}\n" for word, phones in spelled_pairs(400))
    return shared.made("sounds.tsv", lambda path: path.write_text(content, "utf-8"))


@pytest.fixture(scope="session")
def translated(shared: Shared, pairs_file: Path) -> Callable[..., Run]:
    """Trains a translator with the given flags, once for the same flags."""
    small = ["--units", "32", "--embedding", "24", "--layers", "1", "--epochs", "12", "--batch-size", "8", "--beam", "3"]
    parts = ["--validation-fraction", "0.15", "--test-fraction", "0.15", "--min-count", "1", "--learning-rate", "0.01"]
    units = ["--source-unit", "character", "--target-unit", "symbol", "--dropout", "0"]
    return shared.run("--task", "translate", "--data", str(pairs_file), *small, *parts, *units)
