"""Figures of turns, beside a count token by token."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from seqapp.forms import of_turns
from seqapp.turns import PLACES, Turns, draw, noun_of, table
from seqapp.vocabulary import Vocabulary

SYMBOLS = ("<conversation>", "<turn>")
TALKS = [
    of_turns([["one two", "three"], ["two"]]),
    of_turns([["three"]]),
    of_turns([[f"one {'two ' * (i % 3)}"] for i in range(14)]),
]
WORDS = Vocabulary.learn(TALKS, "word", lower=True, symbols=SYMBOLS)
STREAM = np.array([number for talk in TALKS for number in WORDS.encode(talk)], np.int32)
LOGS = -np.random.default_rng(0).uniform(0.1, 5, len(STREAM))


def by_hand() -> list[tuple[int, list[float]]]:
    """The place of each turn and the logarithms of its tokens."""
    found: list[tuple[int, list[float]]] = []
    place, inside = 0, False
    for number, log in zip(STREAM, LOGS, strict=True):
        token = WORDS.tokens[number]
        if token == "<conversation>":
            place, inside = 0, False
        elif token == "<turn>":
            place, inside = place + 1, True
            found.append((place, []))
        if inside:
            found[-1][1].append(float(log))
    return found


def test_figures_by_hand() -> None:
    turns = by_hand()
    assert [place for place, _ in turns] == [1, 2, 1, *range(1, 15)]
    found = Turns.of(WORDS, STREAM).figures(LOGS)
    nats = -sum(sum(logs) for _, logs in turns) / 17
    assert found["nats_per_turn"] == {"value": pytest.approx(nats), "unit": "nats", "count": 17}
    for name, places in (("1", [1]), ("2", [2]), ("3_to_5", [3, 4, 5]), ("6_to_10", range(6, 11)), ("from_11", range(11, 15))):
        logs = [log for place, some in turns if place in places for log in some]
        wanted = math.exp(-sum(logs) / len(logs))
        assert found[f"perplexity_turn_{name}"] == {"value": pytest.approx(wanted), "unit": "per token", "count": len(logs)}
    assert len(found) == 6


def test_what_comes_between_is_no_step() -> None:
    symbols = ("<recipe>", "<ingredients>", "<step>")
    text = "<recipe>soup\n<ingredients>salt\n<step>boil\n<step>eat\n<recipe>ice\n<step>freeze\n"
    words = Vocabulary.learn([text], "word", lower=True, symbols=symbols)
    turns = Turns.of(words, np.array(words.encode(text)))
    assert turns.places.tolist() == [*[0] * 6, 1, 1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 1]
    found = turns.figures(np.full(18, -1.0))
    assert set(found) == {"nats_per_step", "perplexity_step_1", "perplexity_step_2"}
    assert found["nats_per_step"] == {"value": 3.0, "unit": "nats", "count": 3}
    assert noun_of(found) == "step"


def test_running_text_has_no_turns(tmp_path: Path) -> None:
    words = Vocabulary.learn(["a b"], "word", lower=True)
    assert Turns.of(words, np.array([2, 3, 1])).figures(np.zeros(3)) == {}
    assert Turns.of(WORDS, np.array([4, 5, 1])).figures(np.zeros(3)) == {}
    assert table({"gru": {}}) == []
    draw({"gru": {}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    row = Turns.of(WORDS, STREAM).figures(LOGS)
    lines = table({"gru": row, "kneser_ney_3": row})
    assert lines[0] == "17 turns: nats of each, and perplexity by its place"
    values = [f"{row['nats_per_turn']['value']:.3f}", *(f"{row[f'perplexity_turn_{name}']['value']:.2f}" for name in PLACES)]
    assert [line.split() for line in lines[2:]] == [["gru", *values], ["kneser-ney-3", *values]]
    draw({"gru": row, "unigram": row}, tmp_path)
    assert (tmp_path / "turns.png").read_bytes()[:4] == b"\x89PNG"
