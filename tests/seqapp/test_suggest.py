"""The command that offers words, over a trained run."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest

import seqapp.suggest
from seqapp.run import Run
from seqapp.step import KerasStepper
from seqapp.suggest import letters_by, saving
from seqapp.words import Words
from tests.conftest import one_line

Capture = pytest.CaptureFixture[str]
Trained = Callable[..., Run]


def suggest(run: Run, *flags: str) -> int:
    return seqapp.suggest.main([str(run.path), *flags])


def test_ends_of_a_word_with_their_probabilities(trained: Trained, capsys: Capture) -> None:
    run = trained()
    capsys.readouterr()
    assert suggest(run, "--text", "Are you h") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {word for word, _ in rows} == {"happy", "here", "hungry"}
    shares = [float(share) for _, share in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0.9 < sum(shares) < 1.0002, "there are other words in h; each is rounded to four decimals"


def test_next_words(trained: Trained, capsys: Capture) -> None:
    run = trained()
    capsys.readouterr()
    assert suggest(run, "--text", "Are they ", "--top", "8") == 0
    found = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"happy", "late", "tired", "hungry", "here", "ready"} <= set(found)


def test_each_line_of_standard_input(trained: Trained, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained()
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"are you lat\n\nare you xq\n")))
    assert suggest(run, "--top", "2") == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert (first, third) == ("late", "")
    assert len(second.split("\t")) == 2


def test_a_conversation_begins_with_its_turn(talked: Run, capsys: Capture) -> None:
    capsys.readouterr()
    assert suggest(talked, "--text", "Are yo", "--top", "1") == 0
    assert capsys.readouterr().out == "you\t1.0000\n"


def test_how_much_typing_is_saved(trained: Trained, capsys: Capture) -> None:
    run = trained()
    capsys.readouterr()
    assert suggest(run, "--measure") == 0
    head, *rows, keys, saved = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d,]+ words, 3 offered at a time", head)
    shares = [float(row.split()[-1].rstrip("%")) for row in rows]
    assert shares == sorted(shares)
    assert shares[0] > 50, "a grammar of few words"
    used, whole = map(float, re.findall(r"[\d.]+", keys))
    assert float(saved.split()[-1].rstrip("%")) == pytest.approx(100 * (1 - used / whole), abs=0.5)


def test_what_is_saved_is_counted_word_by_word(trained: Trained) -> None:
    run = trained()
    words, model = Words(run.vocabulary), KerasStepper(run.load_model())
    stream = run.tokens("validation")[:8]
    logits, _ = model.sequence(np.array([[run.vocabulary.end_number, *stream[:-1]]], np.int32), model.initial_states(1))
    _, typed = letters_by(words, 3)(logits, stream[None])
    for t, number in enumerate(stream):
        word = run.vocabulary.tokens[number]
        offered = [word in [found for found, _ in words.best(logits[0, t], word[:letters], 3)] for letters in range(len(word))]
        if word in words.tokens:
            assert typed[0, t] == (offered.index(True) if True in offered else len(word))
    known = [number for number in stream if number in words.numbers]
    assert saving(model, words, stream, 3).splitlines()[0] == f"{len(known)} words, 3 offered at a time"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--top", "0"], ["--top must be at least 1", "0"]),
        (["--measure", "--text", "x"], ["--measure", "--text"]),
    ],
)
def test_flags_that_are_refused(flags: list[str], parts: list[str], trained: Trained, capsys: Capture) -> None:
    run = trained()
    capsys.readouterr()
    assert suggest(run, *flags) == 2
    one_line(capsys, *parts)


def test_runs_of_other_things_are_refused(added: Trained, cooked: Run, capsys: Capture) -> None:
    other = added()
    capsys.readouterr()
    assert suggest(other) == 2
    one_line(capsys, "next-word", "adding")
    assert suggest(cooked) == 2
    one_line(capsys, "next-word", "characters")
