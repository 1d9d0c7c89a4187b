"""Tokens on disk: those of the whole text, in the memory of a piece."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp import text_file, token_file
from seqapp.config import DataConfig
from seqapp.corpus import Split, load
from seqapp.token_file import TokenFile, learned
from seqapp.vocabulary import Vocabulary
from tests.commands import ROOT
from tests.conftest import refused

# What normalization, the rules of tokens and line ends may tear: a sigma at the end of a word, marks, an apostrophe.
BITS = [
    "a",
    "b",
    "Σ",
    "Α",
    "e",
    "\u0301",
    "'",
    ".",
    "<unk>",
    "<eos>",
    " ",
    " ",
    "\u3000",
    "\n",
    "\r\n",
    "\r",
    "\x01",
    "İ",
    "한",
    "ᄒ",
]


def some_text(rng: random.Random) -> str:
    return "a b\n" + "".join(rng.choice(BITS) for _ in range(rng.randint(0, 150))) + "\nz"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and chunks that many of are in a short text."""
    monkeypatch.setattr(text_file, "BLOCK", 7)
    monkeypatch.setattr(token_file, "CHUNK", 5)


def in_memory(split: Split, unit: str, lower: bool, min_count: int) -> tuple[Vocabulary, dict[str, list[list[int]]]]:
    """Vocabulary and numbers of texts that are there as a whole."""
    texts = {name: ["".join(text) for text in part] for name, part in vars(split).items()}
    vocabulary = Vocabulary.learn(texts["train"], unit, lower, min_count)
    return vocabulary, {name: [vocabulary.encode(text) for text in part] for name, part in texts.items() if part}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("unit", ["word", "character", "symbol"])
@pytest.mark.parametrize("files", [1, 30])
def test_equals_what_is_learned_of_the_whole(tmp_path: Path, unit: str, files: int) -> None:
    rng = random.Random(files)
    for turn in range(20):
        (folder := tmp_path / str(turn)).mkdir()
        for i in range(files):
            (folder / f"{i}.txt").write_bytes(some_text(rng).encode())
        lower, min_count = rng.random() < 0.5, rng.choice([1, 2])
        config = DataConfig(str(folder), validation_fraction=0.2, test_fraction=0.0 if files == 1 else 0.2)
        split = load(config, whole_lines=unit == "word")
        vocabulary, found = learned(split, Vocabulary.empty(unit, lower), min_count)
        wanted, numbers = in_memory(split, unit, lower, min_count)
        assert vocabulary == wanted
        assert found.keys() == numbers.keys()
        for name, documents in numbers.items():
            assert found[name].lengths == [len(document) for document in documents]
            assert len(found[name]) == sum(found[name].lengths)
            if len(found[name]):
                assert found[name].tokens.dtype == np.int32
                assert found[name].tokens.tolist() == [number for document in documents for number in document]


@pytest.mark.usefixtures("small")
def test_texts_with_symbols() -> None:
    symbols = ("<conversation>", "<turn>")
    texts = [f"<conversation><turn>hello there\n<turn>fine {i}\n" for i in range(4)]
    vocabulary, found = learned(Split(list(texts), list(texts[:1]), []), Vocabulary.empty("word", True, symbols), 1)
    assert vocabulary == Vocabulary.learn(texts, "word", True, 1, symbols)
    assert found["train"].tokens.tolist() == [number for text in texts for number in vocabulary.encode(text)]


@pytest.mark.usefixtures("small")
def test_a_known_vocabulary() -> None:
    vocabulary = Vocabulary.learn(["b a"], "word", lower=True)
    file = TokenFile(["a c b\n\nb", "", "a"], vocabulary, vocabulary.numbers)
    assert file.tokens.tolist() == [number for text in ("a c b\n\nb", "a") for number in vocabulary.encode(text)]
    assert file.lengths == [6, 0, 2]
    assert file.counts(len(vocabulary)).tolist() == np.bincount(file.tokens, minlength=len(vocabulary)).tolist()


def test_the_tokens_outlive_the_file() -> None:
    vocabulary = Vocabulary.learn(["b a"], "word", lower=True)
    file = TokenFile(["a b"], vocabulary, vocabulary.numbers)
    tokens, handle = file.tokens, file.file
    del file
    assert handle.closed
    assert vocabulary.decode(tokens) == "a b"


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    vocabulary = Vocabulary.learn(["b a"], "word", lower=True)
    file = TokenFile(["a b"], vocabulary, vocabulary.numbers)
    assert len(file.tokens) == 3
    assert not list(tmp_path.iterdir()), "it has no name even while it is there"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary.learn(["b a"], "word", lower=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    refused(lambda: TokenFile(["a b"], vocabulary, vocabulary.numbers), "cannot be written to", "none", "make room", "TMPDIR")

    def full(tokens: list[str]) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    refused(lambda: TokenFile(["a b"], vocabulary, full), "(No space left on device)")


MEASURE = """
import sys
from export.memory import peak
from seqapp.batching import Windows
from seqapp.config import DataConfig
from seqapp.corpus import load
from seqapp.token_file import learned
from seqapp.vocabulary import Vocabulary

before = peak()
split = load(DataConfig(sys.argv[1]), whole_lines=True)
vocabulary, files = learned(split, Vocabulary.empty("word", True), 3)
windows = Windows.fit_to(files["train"].tokens, files["train"].lengths, 1, 32, 64, 0)
windows.reader(0)(0, 32)
print(len(files["train"]), peak() - before)
"""


@pytest.mark.parametrize("ends", ["\n", " "], ids=["lines", "one giant line"])
def test_memory_does_not_grow_with_the_text(tmp_path: Path, ends: str) -> None:
    """Of a text of 24 million bytes, which as strings and numbers in memory takes some 700 MB."""
    rng = random.Random(0)
    page = "".join(" ".join(rng.choices(["the", "cat", "sat", "on", "a", "mat"], k=12)) + ends for _ in range(20_000))
    with (tmp_path / "text.txt").open("w") as file:
        while file.tell() < 24_000_000:
            file.write(page)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "text.txt")]
    if ends == " ":  # which has no lines for the parts to end at
        command[2] = MEASURE.replace("whole_lines=True", "whole_lines=False")
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    tokens, grown = map(float, out.split())
    assert tokens > 6_000_000
    assert grown < 100
