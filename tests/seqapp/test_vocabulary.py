"""Text to tokens and back."""

from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from seqapp.errors import UsageError
from seqapp.vocabulary import CHARACTER_PATTERN, PATTERNS, SYMBOL_PATTERN, UNKNOWN, WORD_PATTERN, Vocabulary, plain

WORDS = Vocabulary.empty("word", lower=True)
CASED = Vocabulary.empty("word", lower=False)
CHARACTERS = Vocabulary.empty("character", lower=False)

TRICKY = [
    "Café noir, cafe\u0301 noir: naïve—coöperate!",
    "Don't, DON\u2019T, 'tis; rock'n'roll the '90s dogs' it''s",
    "日本語のテキスト、中文字符。한국어 문장",
    "Привет, мир! Ёлка Й и\u0306",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea ☃\ufe0f 1\ufe0f\u20e3",
    "\u201cquoted\u201d \u2018single\u2019 \u00abguillemets\u00bb \u2026",
    "no\u00a0break\u202fspace\u2009thin\u3000wide\u200bzero\ufeffmark",
    "3.14 1,000 50% $5 2nd x_1 ٣٤ １２ Ⅳ ½ ²",
    "a-b (c) [d] {e} #tag @name a/b \\ ^ ` ~ | < = > +",
    "tab\tcr\rvt\x0bff\x0cnul\x00del\x7fnel\x85ogham\u1680line\u2028end\u2029",
    "हिन्दी ไทย עִבְרִית عربيّ ＡＢＣ ﬁ ß ẞ İ ı \U00020000 \U0001d400",
    "",
    " ",
]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hi, you!", ["hi", ",", "you", "!"]),
        ("Don't; it\u2019s the dogs' bone", ["don't", ";", "it\u2019s", "the", "dogs", "'", "bone"]),
        ("Cafe\u0301 CAFÉ", ["café", "café"]),
        ("\u201cWell\u2026\u201d", ["\u201c", "well", "\u2026", "\u201d"]),
        ("100 3.5 x_1", ["100", "3", ".", "5", "x_1"]),
        ("日本 語。", ["日本", "語", "。"]),
        ("Привет, мир", ["привет", ",", "мир"]),
        ("a\u00a0b\u3000c", ["a", "b", "c"]),
        ("ok\U0001f600!", ["ok", "\U0001f600", "!"]),
        ("\u1112\u1161\u11ab", ["한"]),
    ],
)
def test_words(text: str, tokens: list[str]) -> None:
    assert WORDS.cut(text) == [*tokens, "<eos>"]


def test_symbols_are_what_stands_between_spaces() -> None:
    symbols = Vocabulary.learn(["t͡ʃ aː ʔ", "ʰp aː|b  t͡ʃ"], "symbol", lower=False)
    assert symbols.cut("t͡ʃ aː|b") == ["t͡ʃ", "aː|b", "<eos>"]
    assert symbols.tokens[:3] == (UNKNOWN, "<eos>", "t͡ʃ")
    numbers = symbols.encode_whole("ʰp t͡ʃ nothing")
    assert numbers[2:] == [symbols.unknown_number, symbols.end_number]
    assert symbols.decode(numbers) == f"ʰp t͡ʃ {UNKNOWN}"
    assert symbols.join(["a", "b", "<eos>", "c"]) == "a b\nc"
    for text in TRICKY:
        assert symbols.cut(text)[:-1] == re2.findall(SYMBOL_PATTERN, text if "\n" in text else symbols.normalized(text))


@pytest.mark.parametrize("unit", PATTERNS)
def test_numbers_are_text_again_without_the_end(unit: str) -> None:
    known = Vocabulary.learn(["a small house."], unit, lower=False)
    assert known.decode(known.encode_whole("a small house.")) == "a small house."


def test_each_line_with_words_is_closed() -> None:
    assert WORDS.cut("a b\n\n  \nc") == ["a", "b", "<eos>", "c", "<eos>"]
    assert WORDS.cut("a\n") == ["a", "<eos>"]
    assert WORDS.cut("") == WORDS.cut(" \n\t\n") == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("How are", ["how", "are"]),
        ("How are\n", ["how", "are", "<eos>"]),
        ("How are\n  ", ["how", "are", "<eos>"]),
        ("\n\nHow\n are \n \n", ["how", "<eos>", "are", "<eos>"]),
        ("How are\r\nyou", ["how", "are", "<eos>", "you"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_a_prompt_is_closed_by_a_newline_alone(text: str, tokens: list[str]) -> None:
    assert WORDS.prompt(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" ", []),
        ("\n", ["<eos>"]),
        (" \n\n", ["<eos>"]),
        ("you\n", ["you", "<eos>"]),
        ("\nyou\n\nwell", ["<eos>", "you", "<eos>", "well"]),
    ],
)
def test_a_prompt_goes_on_in_a_line(text: str, tokens: list[str]) -> None:
    assert WORDS.prompt(text, in_line=True) == tokens


@settings(max_examples=300)
@given(st.text(st.sampled_from(" \n\r") | st.characters()), st.data())
def test_pieces_that_part_at_spaces_are_read_as_the_whole(text: str, data: st.DataObject) -> None:
    borders = [i for i in range(len(text) + 1) if set(text[max(0, i - 1) : i + 1]) & {" ", "\n"}]
    cuts = sorted(data.draw(st.lists(st.sampled_from(borders)))) if borders else []
    for vocabulary in (WORDS, CASED, CHARACTERS):
        read: list[str] = []
        for first, end in pairwise((0, *cuts, len(text))):
            read += vocabulary.prompt(text[first:end], in_line=bool(read) and read[-1] != vocabulary.end)
        assert read == vocabulary.prompt(text)
    pieces = [text[first:end] for first, end in pairwise((0, *cuts, len(text)))]
    for vocabulary in (WORDS, CASED, CHARACTERS, Vocabulary.empty("symbol", lower=True)):
        assert [token for tokens in vocabulary.cut_pieces(pieces) for token in tokens] == vocabulary.cut(text)


def test_a_word_that_looks_like_the_end_is_none() -> None:
    rule = Vocabulary.empty("symbol", lower=False)
    assert [*rule.cut_pieces(["a <eos> ", "\n", "<eos>"])] == [["a", "<eos>"], ["<eos>"], ["<eos>"], ["<eos>"]]


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab \n") | st.characters()))
def test_a_text_is_a_prompt_whose_last_line_is_closed(text: str) -> None:
    """The tokens line by line, each line with the end it has earned."""
    lines = [WORDS.prompt(line) for line in text.split("\n")]
    assert WORDS.cut(text) == [token for line in lines if line for token in (*line, WORDS.end)]
    assert CHARACTERS.cut(text) == CHARACTERS.prompt(text)


def test_characters() -> None:
    assert CHARACTERS.cut("Ab\u00e9\n e\u0301") == ["A", "b", "é", "\n", " ", "é"]
    assert Vocabulary.empty("character", lower=True).cut("Ab\n") == ["a", "b", "\n"]


@pytest.mark.parametrize("pattern", [WORD_PATTERN, CHARACTER_PATTERN], ids=["word", "character"])
@pytest.mark.parametrize("text", TRICKY)
def test_re2_finds_the_same_tokens(pattern: str, text: str) -> None:
    for form in (text, unicodedata.normalize("NFC", text).lower(), unicodedata.normalize("NFD", text)):
        assert re2.compile(pattern).findall(form) == re.compile(pattern).findall(form)


@settings(max_examples=200)
@given(st.text())
def test_re2_finds_the_same_tokens_in_any_text(text: str) -> None:
    for pattern in (WORD_PATTERN, CHARACTER_PATTERN):
        assert re2.compile(pattern).findall(text) == re.compile(pattern).findall(text)


@settings(max_examples=200)
@given(st.text())
def test_characters_join_to_the_normalized_text(text: str) -> None:
    assert CHARACTERS.join(CHARACTERS.cut(text)) == unicodedata.normalize("NFC", text)


@settings(max_examples=200)
@given(st.text())
def test_words_keep_every_character_but_spaces_and_controls(text: str) -> None:
    kept = [c for c in unicodedata.normalize("NFC", text) if not (c.isspace() or unicodedata.category(c) == "Cc")]
    cut = "".join(token for token in CASED.cut(text) if token != CASED.end)
    assert [c for c in cut if not c.isspace()] == kept


@settings(max_examples=100)
@given(st.text(), st.text(), st.sampled_from(["word", "character"]), st.booleans(), st.integers(1, 3))
def test_numbers_are_in_range_and_known_tokens_come_back(known: str, text: str, unit: str, lower: bool, minimum: int) -> None:
    vocabulary = Vocabulary.learn([known], unit, lower, minimum)
    tokens, numbers = vocabulary.cut(text), vocabulary.encode(text)
    assert len(numbers) == len(tokens)
    for token, number in zip(tokens, numbers, strict=True):
        assert vocabulary.tokens[number] == (token if token in vocabulary.tokens else UNKNOWN)


@settings(max_examples=100)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_joined_words_are_cut_the_same_again(text: str) -> None:
    tokens = WORDS.cut(WORDS.join(WORDS.cut(text)))
    assert tokens == WORDS.cut(WORDS.join(tokens))


def test_tokens_are_ordered_by_count_then_by_name() -> None:
    vocabulary = Vocabulary.learn(["b b c a\n", "d d d a"], "word", lower=True)
    assert vocabulary.tokens == (UNKNOWN, "<eos>", "d", "a", "b", "c")
    assert [vocabulary.unknown_number, vocabulary.end_number, len(vocabulary)] == [0, 1, 6]
    assert vocabulary.encode("c d\n") == [5, 2, 1]


def test_the_end_of_characters_is_the_newline() -> None:
    vocabulary = Vocabulary.learn(["ab\nb\n\n\n"], "character", lower=False)
    assert vocabulary.tokens == (UNKNOWN, "\n", "b", "a")
    assert vocabulary.encode("a\nx") == [3, 1, 0]


def test_rare_tokens_are_unknown() -> None:
    vocabulary = Vocabulary.learn(["a a a b b c"], "word", lower=True, min_count=2)
    assert vocabulary.tokens == (UNKNOWN, "<eos>", "a", "b")
    assert vocabulary.encode("c b zebra") == [0, 3, 0, 1]


def test_counts_are_of_normalized_tokens() -> None:
    vocabulary = Vocabulary.learn(["É e\u0301 \u00c9"], "word", lower=True, min_count=3)
    assert vocabulary.tokens[2:] == ("é",)
    assert Vocabulary.learn(["É é"], "word", lower=False).tokens[2:] == ("É", "é")


def test_words_are_joined_as_one_writes_them() -> None:
    assert WORDS.join(WORDS.cut("Well, (it's) 5% of $9!\nYes.")) == "well, (it's) 5% of $9!\nyes.\n"


@pytest.mark.parametrize("unit", ["word", "character"])
@pytest.mark.parametrize("lower", [False, True])
def test_save_and_load(unit: str, lower: bool, tmp_path: Path) -> None:
    vocabulary = Vocabulary.learn(['Café \u201cok\u201d \U0001f600\n \u0000\u2028 \\ "'], unit, lower)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


def test_the_file_holds_the_rule(tmp_path: Path) -> None:
    Vocabulary.learn(["a"], "word", lower=True).save(tmp_path / "vocabulary.json")
    assert json.loads((tmp_path / "vocabulary.json").read_text("utf-8")) == {
        "tokens": [UNKNOWN, "<eos>", "a"],
        "unit": "word",
        "end": "<eos>",
        "token_pattern": WORD_PATTERN,
        "normalization": ["NFC", "lower"],
        "unknown": UNKNOWN,
    }


SYMBOLS = ("<recipe>", "<ingredients>", "<step>")
SAID = "<recipe>Soup\n<step>Boil <it>, <ste <step>\n"


@pytest.mark.parametrize("unit", ["word", "character"])
def test_symbols_are_tokens_whatever_their_count(unit: str, tmp_path: Path) -> None:
    known = Vocabulary.learn(["a a b", SAID], unit, lower=True, min_count=2, symbols=SYMBOLS)
    assert known.tokens[2:5] == SYMBOLS
    assert known.symbol_numbers == [2, 3, 4]
    assert len(set(known.tokens)) == len(known)
    cut = known.cut(SAID)
    assert [token for token in cut if token in SYMBOLS] == ["<recipe>", "<step>", "<step>"]
    known.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == known
    content = json.loads((tmp_path / "vocabulary.json").read_text("utf-8"))
    (tmp_path / "vocabulary.json").write_text(json.dumps({**content, "symbols": ["<turn>"]}), "utf-8")
    with pytest.raises(UsageError, match="is not a vocabulary"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_words_around_symbols() -> None:
    known = Vocabulary.empty("word", lower=True, symbols=SYMBOLS)
    assert known.cut("<recipe><ingredients>Salt\n<step>Eat, <it>!\n") == [
        *("<recipe>", "<ingredients>", "salt", "<eos>", "<step>", "eat", ",", "<", "it", ">", "!", "<eos>")
    ]


@pytest.mark.parametrize("unit", ["word", "character"])
@settings(max_examples=100)
@given(st.lists(st.sampled_from(["<step>", "<recipe>", "a<b", "\n"]) | st.characters(codec="utf-8")).map("".join))
def test_re2_finds_the_same_symbols(unit: str, text: str) -> None:
    pattern = Vocabulary.empty(unit, lower=True, symbols=SYMBOLS).token_pattern
    assert re2.compile(pattern).findall(text) == re.compile(pattern).findall(text)


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(["<step>", "<STEP>", "<Recipe>", "<", "step", ">", "\u0338", " ", "ſ", "\u212a"]) | st.characters()
    )
)
def test_plain_text_holds_no_symbol_and_leaves_those_before_it(parts: list[str]) -> None:
    for lower, unit in ((True, "word"), (True, "character"), (False, "character")):
        cut = Vocabulary.empty(unit, lower, SYMBOLS).cut("<step>" + plain("".join(parts), SYMBOLS))
        assert cut[0] == "<step>"
        assert not set(cut[1:]) & set(SYMBOLS)


def test_plain_text_is_left_alone() -> None:
    for text in (*TRICKY, "a <b> <steps> step> I <3 you"):
        assert plain(text, SYMBOLS) == text
    assert plain("no <step>, <STEP>", SYMBOLS) == "no < step>, < STEP>"


@pytest.mark.parametrize("unit", ["word", "character"])
def test_symbols_are_joined_at_the_beginning_of_a_line(unit: str) -> None:
    known = Vocabulary.empty(unit, lower=False, symbols=SYMBOLS)
    for text in ("<recipe>Soup\n<ingredients>salt\nleek\n<step>Boil.\n<step>Eat.\n", "<recipe><step>Eat\n<recipe>A"):
        assert known.join(known.prompt(text)) == text
    assert known.join(["a", "<step>", "b"]) == "a\n<step>b"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no .*vocabulary.json: .* train again"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"{}",
        b'{"tokens": []}',
        b'{"tokens": 5}',
        b'{"tokens": ["a"], "normalization": [], "x": 1}',
        b"\xff",
    ],
)
def test_a_damaged_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"vocabulary.json is not a vocabulary \(.*\): train again, or restore the file"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"token_pattern": "("},
        {"token_pattern": 5},
        {"unknown": "<none>"},
        {"end": "<none>"},
        {"tokens": "ab"},
        {"unit": "note"},
    ],
    ids=str,
)
def test_a_file_that_does_not_fit_together(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    Vocabulary.learn(["a b c"], "word", lower=True).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    with pytest.raises(UsageError, match="is not a vocabulary"):
        Vocabulary.load(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    Vocabulary.learn(["a b c"], "word", lower=True).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match="is not a vocabulary"):
        Vocabulary.load(path)
