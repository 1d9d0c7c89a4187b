"""Figures of translations, against numbers computed by hand, and the baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqapp.beam_search import Search
from seqapp.labelled import Example
from seqapp.translate import Coder
from seqapp.translation_report import TranslationReport, baselines, figures, told_before
from seqapp.vocabulary import Vocabulary


def values(found: list[str], references: list[str], unit: str) -> dict[str, tuple[float, int]]:
    return {name: (row["value"], row["count"]) for name, row in figures(found, references, unit).items()}


def test_words_are_counted_by_edits() -> None:
    found = values(["a small house", "he goes", "yes"], ["a house", "she goes home", "yes"], "word")
    assert found["word_error_rate"] == (pytest.approx(3 / 6), 6)  # one too many; one other, one missing
    assert found["exact_match"] == (pytest.approx(1 / 3), 3)
    assert "symbol_error_rate" not in found


def test_a_target_of_symbols_is_one_word() -> None:
    found = values(["k a t", "d ɔ", "x"], ["k a t", "d ɔ g", "y"], "symbol")
    assert found["word_error_rate"] == (pytest.approx(2 / 3), 3)
    assert found["symbol_error_rate"] == (pytest.approx(2 / 7), 7)


def test_characters_have_a_rate_of_their_own() -> None:
    found = values(["house boat"], ["mouse boats"], "character")
    assert found["word_error_rate"] == (pytest.approx(2 / 2), 2)
    assert found["symbol_error_rate"] == (pytest.approx(2 / 11), 11)


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    import sacrebleu

    found, wanted = ["the cat sat on the mat today", "a b c d"], ["the cat sat on a mat today", "a b c d"]
    got = values(found, wanted, "subword")
    assert got["bleu"] == (pytest.approx(sacrebleu.corpus_bleu(found, [wanted]).score), 2)
    assert got["chrf"] == (pytest.approx(sacrebleu.corpus_chrf(found, [wanted]).score), 2)
    assert 0 < got["bleu"][0] < 100
    assert values(wanted, wanted, "subword")["bleu"][0] == pytest.approx(100)


def test_what_is_told_before_a_token() -> None:
    np.testing.assert_array_equal(told_before(np.array([[5, 6, 1], [7, 1, 0]]), 1), [[1, 5, 6], [1, 7, 1]])


def coder() -> Coder:
    known = Vocabulary.learn(["a b c d e f"], "word", lower=True)
    return Coder(known, known, Search())


def test_the_baselines_copy_and_remember() -> None:
    train = [Example("Ein Haus", "A House", ""), Example("ein Hund", "a dog", "")]
    some = [Example("ein Hunde", "a dog", ""), Example("ein haus", "ein haus", "")]
    found = baselines(train, some, coder())
    assert found["source_itself"]["exact_match"]["value"] == 0.5
    # The nearest source is told in lower case, as the model would tell it.
    assert found["translation_memory"]["exact_match"]["value"] == 0.5
    assert baselines(train, [Example("EIN HAUS", "a house", "")], coder())["translation_memory"]["exact_match"]["value"] == 1


def test_a_table_and_a_picture(tmp_path: Path) -> None:
    mine = {**figures(["a b", "c"], ["a b", "d"], "symbol"), "perplexity": {"value": 2.5, "unit": "per token", "count": 5}}
    looked = (["$a", "b", "<eos>"], ["x$", "<eos>"], np.array([[0.7, 0.2, 0.1], [0.0, 0.1, 0.9]]))
    report = TranslationReport("test", {"test": mine}, {"source_itself": figures(["", ""], ["a b", "d"], "symbol")}, (looked,))
    lines = report.table("gru").splitlines()
    assert lines[0] == "test, 2 translations"
    assert lines[1].split() == ["BLEU", "chrF", "WER", "SER", "exact", "perplexity"]
    assert lines[2].split()[0] == "gru"
    assert lines[2].split()[3:] == ["50.0%", "33.3%", "50.0%", "2.50"]
    assert lines[3].split()[0] == "source-itself"
    assert report.levels == {}
    report.draw(tmp_path)
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
