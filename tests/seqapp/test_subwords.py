"""Subwords: learned, drawn, kept, and the same text again."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqapp.subwords import Subwords
from tests.conftest import refused, sentences

TEXTS = sentences(300).splitlines()
SUBWORDS = Subwords.learn(TEXTS, 120, lower=False)
LETTERS = sorted(set("".join(TEXTS)) - {" "})


def test_a_text_is_the_same_again_and_closed_by_the_end() -> None:
    for text in TEXTS[:50]:
        numbers = SUBWORDS.encode_whole(text)
        assert numbers[-1] == SUBWORDS.end_number == 1
        assert SUBWORDS.unknown_number not in numbers
        assert SUBWORDS.decode(numbers) == text
        assert "".join(SUBWORDS.tokens[n] for n in numbers[:-1]) == "▁" + text.replace(" ", "▁")
    assert len(SUBWORDS) == len(SUBWORDS.tokens) <= 120


@settings(max_examples=60)
@given(st.lists(st.text(st.sampled_from(LETTERS), min_size=1, max_size=8), max_size=6))
def test_any_words_of_known_letters_are_the_same_again(words: list[str]) -> None:
    assert SUBWORDS.decode(SUBWORDS.encode_whole(" ".join(words))) == " ".join(words)


def test_more_subwords_are_longer_ones() -> None:
    few, many = (Subwords.learn(TEXTS, size, lower=False) for size in (40, 70))
    assert len(few) < len(many)
    counts = [sum(len(known.encode_whole(text)) for text in TEXTS) for known in (few, many)]
    assert counts[1] < counts[0] < sum(map(len, TEXTS))


def test_a_letter_that_training_had_not_is_unknown_and_nothing_in_a_text() -> None:
    numbers = SUBWORDS.encode_whole("Yes, Ωi am")
    assert SUBWORDS.unknown_number in numbers
    assert SUBWORDS.decode(numbers) == "Yes, i am"


def test_combining_characters_are_composed_and_case_is_kept_unless_asked() -> None:
    texts = ["Café Ångström", "élan vital", "Über ñandú"] * 20
    kept, lowered = (Subwords.learn(texts, 60, lower=lower) for lower in (False, True))
    apart = unicodedata.normalize("NFD", texts[0])
    assert apart != texts[0]
    assert kept.encode_whole(apart) == kept.encode_whole(texts[0])
    assert kept.decode(kept.encode_whole(apart)) == texts[0]
    assert lowered.decode(lowered.encode_whole(apart)) == texts[0].lower()
    assert (kept.normalization, lowered.normalization) == (("NFC",), ("NFC", "lower"))


def test_texts_are_cut_in_other_ways_by_the_seed_alone() -> None:
    one, again, other = (SUBWORDS.sampled(TEXTS[:80], 0.1, seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    plain = [SUBWORDS.encode_whole(text) for text in TEXTS[:80]]
    assert sum(a != b for a, b in zip(one, plain, strict=True)) > 40
    assert [SUBWORDS.decode(numbers) for numbers in one] == TEXTS[:80]
    assert all(numbers[-1] == SUBWORDS.end_number for numbers in one)
    # A great exponent leaves the likeliest way alone.
    sharp = SUBWORDS.sampled(TEXTS[:80], 100.0, 1)
    assert sum(a != b for a, b in zip(sharp, plain, strict=True)) < 10


def test_what_is_kept_is_the_same_and_what_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "source_vocabulary.model"
    SUBWORDS.save(path)
    again = Subwords.load(path, ("NFC",))
    assert again == SUBWORDS
    assert again.encode_whole(TEXTS[0]) == SUBWORDS.encode_whole(TEXTS[0])
    for content in (b"", b"no model", SUBWORDS.model[:100]):
        path.write_bytes(content)
        refused(lambda: Subwords.load(path, ("NFC",)), str(path), "restore it")
    refused(lambda: Subwords.load(tmp_path / "none", ("NFC",)), "cannot be read")


def test_fewer_subwords_than_letters_are_refused_and_more_than_there_are_are_fewer() -> None:
    refused(lambda: Subwords.learn(TEXTS, 10, False), "10 subwords cannot be learned (Vocabulary size is smaller", "--subwords")
    assert 4 < len(Subwords.learn(["abc ab", "abc"], 4000, False)) < 20


def test_white_space_is_one_space() -> None:
    assert SUBWORDS.encode_whole("  Yes,\t i \u00a0am ") == SUBWORDS.encode_whole("Yes, i am")


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_nothing_is_the_end_alone(text: str) -> None:
    assert SUBWORDS.encode_whole(text) == [SUBWORDS.end_number]
