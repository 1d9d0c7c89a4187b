"""The default data of `translate`."""

from __future__ import annotations

import re

import pytest

from seqapp.phrases import generated
from tests.conftest import refused


def test_they_are_always_the_same_each_source_once() -> None:
    one, again = generated(), generated()
    assert one == again
    assert len({pair.sequence for pair in one}) == len(one) > 6000


def test_they_are_the_same_things_in_both_languages() -> None:
    pairs = [(str(pair.sequence), str(pair.label)) for pair in generated()]
    assert ("in 7 hours", "dans 7 heures") in pairs
    years = [[re.findall(r"\b(?:19|20)\d\d\b", text) for text in pair] for pair in pairs]
    assert sum(one == other for one, other in years) > 0.95 * len(pairs)
    assert sum(bool(one) for one, _ in years) > 1000
    assert not any("\u202f" in text or "\u00a0" in text or "\n" in text or "\t" in text for pair in pairs for text in pair)


@pytest.mark.parametrize(("source", "target", "told"), [("en", "de", "Kilometer"), ("is", "pt-BR", "quilômetros")])
def test_any_languages_of_babel(source: str, target: str, told: str) -> None:
    assert any(told in str(pair.label) for pair in generated(source, target))


def test_a_language_that_babel_does_not_know() -> None:
    for name in ("xx", "no such", "../de"):
        refused(lambda name=name: generated("en", name), "Babel has no language", name)
