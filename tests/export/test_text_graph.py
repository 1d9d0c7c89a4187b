"""Text in the graph: against the vocabulary in Python, and in a SavedModel that is on its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import unicodedata
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from export import text_graph
from export.text_graph import Normalization, TextGraph, serve_function
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper, log_softmax
from seqapp.vocabulary import Vocabulary

KNOWN = """How are you? I'm fine; don’t worry (it's 5% of $9)!
Café naïve ÅNGSTRÖM Привет, Ёлка Йод καλός ΚΑΛΟΣ Σ İstanbul ıssız ẞ ậ ǰ
日本語 がぎ 한국어 हिन्दी ড় עִבְרִית عربيّ ไทย ﬁ ≠ ≮ \U0001d15e \U0001f600 \u0000 \u001f
"""
PROMPTS = [
    "",
    " ",
    " \t\r\n  \n",
    "how are",
    "how are\n",
    "how are\n  ",
    "\n\n how are\n \n\tyou",
    "how are\r\nyou\r\n",
    "a\tb\x0bc\x0cd\x00e\x1ff\x7fg\u0085h\u00a0i\u2028j\u3000k",
    "I\x00I É\x00ΚΑΛΟΣ\x00Ι",
    "<eos> <unk> \\1 \\",
    "Don’t DON'T 'tis rock'n'roll dogs' it''s",
    "CAFÉ ÅNGSTRÖM",
    "Cafe\u0301 ANGSTRO\u0308M \u212bngstro\u0308m 5\u212a \u037e \u1fef",
    "И\u0306 Е\u0308лка か\u3099 \u1112\u1161\u11ab국 가\u11a8 \u1100\u1161\u11a8\u11a8",
    "a\u0302\u0323 a\u0323\u0302 ạ\u0302 ậ a\u0302\u0300\u0301 a\u0316\u0301 é\u0323",
    "=\u0338 <\u0338 \u0301x \u0958 \u09a1\u09bc \u09c7\u09be \U0001d157\U0001d165 \U0002f800",
    "ΚΑΛΟΣ ΚΑΛΟΣ' ΚΑΛΟΣ.Α Σ ΣΣ Α\u0301Σ ΑΣ\u0301Α ΟΔΟΣ\nΑ",
    "İSTANBUL I\u0307 ISSIZ J\u030c Ì",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea ☃\ufe0f 1\ufe0f\u20e3 \ufeff \uffff",
    " ".join(["how are you? don’t worry,"] * 2000),
]
# The characters that normalization has most to do with; among others without the capital sigma, whose lower case follows the
# Unicode of TensorFlow where characters around it are newer than that.
TRICKY = sorted({*KNOWN, *unicodedata.normalize("NFD", KNOWN), *"AΣσ.'\n \x00\u1100\u1161\u11a8\u0327\u0338"})
OTHERS = st.characters(codec="utf-8", exclude_characters="Σ") | st.sampled_from([c for c in TRICKY if c != "Σ"])
TEXTS = st.text(st.sampled_from(TRICKY), max_size=30) | st.text(OTHERS, max_size=30)

RUN_WITHOUT_KERAS = """
import json, sys
from pathlib import Path
for name in ("keras", "seqapp", "export", "tensorflow_text"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
texts, results = json.loads(Path("texts.json").read_text("utf-8")), {}
for folder in sys.argv[1:]:
    # As from C, Java, Go and TensorFlow Serving: a graph and a session.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        serve = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def["serve"]
        outputs = {key: value.name for key, value in serve.outputs.items()}
        made = session.run(outputs, {serve.inputs["text"].name: texts})
    alone = tf.saved_model.load(folder).signatures["serve"]
    for i, text in enumerate(texts):
        result = alone(text=tf.constant([text]))
        assert result["words"][0].numpy().tolist() == made["words"][i].tolist(), text
        np.testing.assert_allclose(result["probabilities"][0], made["probabilities"][i], rtol=1e-4)
    words = [[word.decode() for word in row] for row in made["words"]]
    results[folder] = {"words": words, "probabilities": made["probabilities"].tolist()}
Path("made.json").write_text(json.dumps(results), "utf-8")
"""


@cache
def vocabulary_of(unit: str, lower: bool) -> Vocabulary:
    return Vocabulary.learn([KNOWN], unit, lower)


@cache
def tokenizer(unit: str, lower: bool, whole: bool = False) -> Any:
    """Compiled once for all texts, as in a file."""
    graph = TextGraph(vocabulary_of(unit, lower))
    return compiled(graph.tokenize_whole if whole else graph.tokenize)


def compiled(function: Any) -> Any:
    return tf.function(function, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)


@pytest.mark.parametrize("unit", ["word", "character"])
def test_symbols_are_cut_as_in_python(unit: str) -> None:
    texts = [
        "<conversation><turn>How are you?\nfine\n<turn>",
        "<TURN>É<turn><turn>\n\n a<turn\u0338>",
        "<turn>\u00e9<turn",
        "",
    ]
    vocabulary = Vocabulary.learn([KNOWN, *texts], unit, True, symbols=("<conversation>", "<turn>"))
    tokens, lengths = (value.numpy() for value in compiled(TextGraph(vocabulary).tokenize)(tf.constant(texts)))
    for text, row, length in zip(texts, tokens, lengths, strict=True):
        assert row[:length].tolist() == vocabulary.numbers([vocabulary.end, *vocabulary.prompt(text)])
    assert vocabulary.symbol_numbers[-1] in tokens[1]


def assert_tokens(unit: str, lower: bool, texts: list[str]) -> None:
    """As texts that go on, and as sequences of their own."""
    vocabulary = vocabulary_of(unit, lower)
    for whole in (False, True):
        begun = [vocabulary.numbers([vocabulary.end, *vocabulary.prompt(text)]) for text in texts]
        wanted = [vocabulary.encode_whole(text) for text in texts] if whole else begun
        tokens, lengths = (value.numpy() for value in tokenizer(unit, lower, whole)(tf.constant(texts, tf.string)))
        assert tokens.dtype == lengths.dtype == np.int32
        assert tokens.shape == (len(texts), max([1, *map(len, wanted)]))
        for row, length, numbers in zip(tokens, lengths, wanted, strict=True):
            assert row.tolist() == numbers + [0] * (len(row) - length)
            assert length == len(numbers)


@pytest.mark.parametrize("lower", [False, True], ids=["cased", "lower"])
@pytest.mark.parametrize("unit", ["word", "character"])
class TestTokens:
    """Those of the vocabulary in Python."""

    def test_of_each_prompt(self, unit: str, lower: bool) -> None:
        for text in PROMPTS:
            assert_tokens(unit, lower, [text])

    def test_of_a_batch_of_all_lengths(self, unit: str, lower: bool) -> None:
        assert_tokens(unit, lower, PROMPTS)
        assert_tokens(unit, lower, ["how are", "you?", ""])

    def test_of_no_texts(self, unit: str, lower: bool) -> None:
        assert_tokens(unit, lower, [])

    @settings(max_examples=100)
    @given(texts=st.lists(TEXTS, max_size=4), form=st.sampled_from(["NFC", "NFD", None]))
    def test_of_any_texts(self, unit: str, lower: bool, texts: list[str], form: Any) -> None:
        assert_tokens(unit, lower, [unicodedata.normalize(form, text) if form else text for text in texts])

    @settings(max_examples=100)
    @given(raw=st.lists(st.one_of(st.binary(max_size=20), TEXTS.map(lambda text: text.encode()[1:-1])), max_size=4))
    def test_of_bytes_that_are_not_utf_8(self, unit: str, lower: bool, raw: list[bytes]) -> None:
        broken = [value.numpy().tolist() for value in tokenizer(unit, lower)(tf.constant(raw, tf.string))]
        mended = [text.decode("utf-8", "replace") for text in raw]
        assert broken == [value.numpy().tolist() for value in tokenizer(unit, lower)(tf.constant(mended, tf.string))]


def normalized(texts: list[str], lower: bool) -> list[str]:
    """By the graph; each text stands behind a newline."""
    made = compiled(Normalization(lower).__call__)(tf.constant(["\n" + text for text in texts], tf.string))
    return [text.decode()[1:] for text in made.numpy()]


def test_normalizes_every_character() -> None:
    # Between two letters, where a newer Unicode in Python than in TensorFlow has no part.
    texts = [f"a{c}E" for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cs", "Co", "Cn")]
    texts += {unicodedata.normalize("NFD", text) for text in texts}.difference(texts)
    assert normalized(texts, True) == [unicodedata.normalize("NFC", text).lower() for text in texts]


def test_normalizes_marks_in_any_order() -> None:
    rng = random.Random(5)
    marks = list("\u0301\u0302\u0307\u0308\u030a\u030c\u031b\u0323\u0327\u0328\u0338\u0345\u05b0\u05b4\u0651\u093c\u09be\u3099")
    bases = list("aeoAOsuΩ=<শकか\u1100\u1161\u11a8\u05e9가각\u09c7")
    texts = ["".join([rng.choice(bases), *rng.choices(marks, k=3), *rng.choices(bases + marks, k=3)]) for _ in range(20_000)]
    assert normalized(texts, False) == [unicodedata.normalize("NFC", text) for text in texts]


def test_normalizes_hangul_and_its_neighbours() -> None:
    ranges = (range(0x10FF, 0x1114), range(0x1160, 0x1177), range(0x11A6, 0x11C4))
    texts = ["".join(map(chr, points)) for points in product(*ranges)]
    assert normalized(texts, False) == [unicodedata.normalize("NFC", text) for text in texts]


def test_no_character_is_wanted_by_two() -> None:
    """What is composed at the same time is independent: what joins the character before it joins none behind it."""
    pairs = [divmod(pair, text_graph._pair(1, 0)) for pair in text_graph._compositions()]
    assert not {first for first, _ in pairs} & {second for _, second in pairs}
    assert all(unicodedata.combining(chr(first)) == 0 for first, _ in pairs)
    assert all(unicodedata.combining(chr(made)) == 0 for made in text_graph._compositions().values())


def best(vocabulary: Vocabulary, logits: Array, top: int) -> tuple[list[list[str]], Array]:
    """The words and their probabilities, by NumPy in float64."""
    p = np.exp(log_softmax(logits.astype(np.float64)))
    order = np.argsort(-logits, axis=-1, kind="stable")
    order = np.stack([row[row != vocabulary.unknown_number][:top] for row in order])
    return [[vocabulary.tokens[number] for number in row] for row in order], np.take_along_axis(p, order, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("top", [1, 5, 500])
def test_the_most_likely_words_but_the_unknown_one(top: int, dtype: Any) -> None:
    vocabulary = vocabulary_of("word", True)
    logits = np.random.default_rng(5).normal(0, 4, (7, len(vocabulary))).astype(dtype)
    logits[:4, vocabulary.unknown_number] = 30
    logits[5] = 1  # equal ones in the order of their numbers
    logits[6, 3:6] = [300, 301, -300]  # so far apart that all others have probability 0
    words, probabilities = TextGraph(vocabulary).best(tf.constant(logits), top)
    wanted = best(vocabulary, logits, top)
    assert words.shape == (7, min(top, len(vocabulary) - 1))
    assert [[word.decode() for word in row] for row in words.numpy()] == wanted[0]
    np.testing.assert_allclose(probabilities, wanted[1], rtol=1e-5, atol=1e-30)
    assert probabilities.dtype == tf.float32


def test_words_of_numbers() -> None:
    vocabulary = vocabulary_of("character", False)
    numbers = np.arange(len(vocabulary)).reshape(1, -1, 1)
    words = TextGraph(vocabulary).words(tf.constant(numbers)).numpy()
    assert [word.decode() for word in words[0, :, 0]] == list(vocabulary.tokens)


def served(vocabulary: Vocabulary) -> tuple[SequenceModel, TextGraph, Any]:
    """A model of large weights, no two alike, and its `serve`."""
    model = build_model(ModelConfig(cell="lstm", layers=2, units=16, embedding=12), len(vocabulary))
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    graph = TextGraph(vocabulary)

    def last_logits(tokens: Any, lengths: Any) -> Any:
        return tf.gather(model(tokens)[0], lengths - 1, batch_dims=1)

    return model, graph, serve_function(graph, last_logits)


def save_served(vocabulary: Vocabulary, path: Path) -> SequenceModel:
    model, graph, serve = served(vocabulary)
    module = tf.Module()
    module.variables_of_model, module.text_graph = [variable.value for variable in model.variables], graph
    tf.saved_model.save(module, str(path), signatures={"serve": serve.get_concrete_function()})
    return model


def test_a_saved_model_runs_in_another_locale_without_keras_and_this_project(tmp_path: Path) -> None:
    texts, units = PROMPTS[:-1], ("word", "character")
    models = {unit: save_served(vocabulary_of(unit, True), tmp_path / unit) for unit in units}
    (tmp_path / "texts.json").write_text(json.dumps(texts), "utf-8")
    turkish = {**os.environ, "LC_ALL": "tr_TR.UTF-8"}  # where TensorFlow's lower case of I is ı
    command = [sys.executable, "-c", RUN_WITHOUT_KERAS, *units]
    done = subprocess.run(command, cwd=tmp_path, env=turkish, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "made.json").read_text("utf-8"))
    for unit in units:
        vocabulary, reference = vocabulary_of(unit, True), KerasStepper(models[unit])
        for i, text in enumerate(texts):
            numbers = vocabulary.numbers([vocabulary.end, *vocabulary.prompt(text)])
            logits, _ = reference.sequence(np.array([numbers]), reference.initial_states(1))
            words, probabilities = best(vocabulary, logits[:, -1], 5)
            assert made[unit]["words"][i] == words[0]
            np.testing.assert_allclose(made[unit]["probabilities"][i], probabilities[0], rtol=1e-4)


def test_serves_no_texts() -> None:
    _, _, serve = served(vocabulary_of("word", True))
    assert [value.shape for value in serve(tf.constant([], tf.string)).values()] == [(0, 5), (0, 5)]
