"""The default data of the task `classify`."""

from __future__ import annotations

from collections import Counter

import pytest

from seqapp.labelled import Example, split
from seqapp.languages import sentences


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return sentences()


def test_sentences_of_28_languages(examples: list[Example]) -> None:
    counts = Counter(example.label for example in examples)
    assert len(counts) == 28
    assert {"english", "german", "russian", "chinese", "hindi"} < set(counts)
    assert min(counts.values()) >= 10 and len(examples) > 10_000


def test_none_is_there_twice_in_a_language_and_all_are_whole(examples: list[Example]) -> None:
    assert len({(example.label, example.sequence) for example in examples}) == len(examples)
    for example in examples:
        assert isinstance(example.sequence, str)
        assert example.sequence == " ".join(example.sequence.split()) != ""


def test_they_are_the_same_each_time(examples: list[Example]) -> None:
    assert sentences() == examples


def test_every_language_is_in_every_part(examples: list[Example]) -> None:
    parts = split({"all": examples}, 0.1, 0.1, 0)
    for part in parts.values():
        assert len({example.label for example in part}) >= 27
    assert len({example.label for example in parts["train"]}) == 28
