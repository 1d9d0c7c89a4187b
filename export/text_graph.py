"""Text inside the graph: strings in, words and probabilities out, with TensorFlow's own operators alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import tensorflow as tf

from seqapp.vocabulary import Vocabulary

Tensor = Any

# Hangul is composed by arithmetic: where its leading consonants, vowels, trailing consonants and syllables begin, and how many
# they are (The Unicode Standard 15.0, 3.12). A trailing consonant of number 0 is none.
_LEADING, _VOWEL, _TRAILING, _SYLLABLE = 0x1100, 0x1161, 0x11A7, 0xAC00
_LEADINGS, _VOWELS, _TRAILINGS, _SYLLABLES = 19, 21, 28, 11172


def serve_function(
    text_graph: TextGraph, last_logits: Callable[[Tensor, Tensor], Tensor], classes: Sequence[str] = (), top: int = 5
) -> Any:
    """A `tf.function` for the signature `serve`: `text` string (B,) -> `words` string and `probabilities` float32 (B, top).

    `last_logits` takes tokens int32 (B, T) and lengths int32 (B,), at least 1, and returns the logits (B, V) after the last
    token of each row; of a classifier, those of its `classes`, which it gives then instead of words. The `tf.Module` that is
    saved must hold `text_graph` as an attribute, for its tables.
    """

    def serve(text: Tensor) -> dict[str, Tensor]:
        words, probabilities = text_graph.best(last_logits(*text_graph.tokenize(text)), top)
        return {"words": words, "probabilities": probabilities}

    def classify(text: Tensor) -> dict[str, Tensor]:
        likely = tf.math.top_k(tf.nn.softmax(last_logits(*text_graph.tokenize_whole(text))), min(top, len(classes)))
        return {"classes": tf.gather(tf.constant(list(classes)), likely.indices), "probabilities": likely.values}

    signature = [tf.TensorSpec([None], tf.string, name="text")]
    return tf.function(classify if classes else serve, input_signature=signature, autograph=False)


class TextGraph(tf.Module):
    """A vocabulary as a graph, which gives any text in UTF-8 the same numbers as `Vocabulary` does.

    Bytes that are not UTF-8 are read as U+FFFD, as `bytes.decode(errors="replace")` does.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._tokens = tf.constant(vocabulary.tokens)
        self._numbers = _table(self._tokens, tf.range(len(vocabulary)), vocabulary.unknown_number)
        self._normalization = Normalization("lower" in vocabulary.normalization)

    def tokenize(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text string (B,) -> tokens int32 (B, T), filled up with 0 on the right, and lengths int32 (B,).

        A row is the end of the line before, then the text as `Vocabulary.prompt` has it.
        """
        # The newline is that end.
        return self._numbered(self._cut(self._normalization(tf.strings.join(["\n", text]))))

    def tokenize_whole(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """As `tokenize` does it, each text a sequence of its own, as `Vocabulary.encode_whole` has it."""
        lines = tf.strings.join(["\n", tf.strings.regex_replace(text, r"\n\z", ""), "\n"])
        tokens = self._cut(self._normalization(lines))[:, 1:]
        # A text without a word is a line that ends, all the same.
        nothing = tf.cast(tokens.row_lengths() == 0, tf.int64)
        ends = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(nothing)], self._vocabulary.end), nothing)
        return self._numbered(tf.concat([tokens, ends], 1))

    def _numbered(self, tokens: Any) -> tuple[Tensor, Tensor]:
        numbers = tokens.with_flat_values(self._numbers.lookup(tokens.flat_values))
        lengths = tf.cast(numbers.row_lengths(), tf.int32)
        # A batch of no texts has one timestep all the same: Keras cannot run over none.
        time = tf.reduce_max(tf.concat([lengths, [1]], 0))
        return numbers.to_tensor(shape=tf.stack([-1, time])), lengths

    def words(self, numbers: Tensor) -> Tensor:
        """Numbers of tokens, integers of any shape -> the tokens, string of that shape."""
        return tf.gather(self._tokens, numbers)

    def best(self, logits: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """logits (B, V) -> the most likely tokens and their probabilities, each (B, top), or (B, V - 1) where that is less.

        The unknown token is left out of the words, though not of the sum of the probabilities.
        """
        logits, size = tf.cast(logits, tf.float32), len(self._vocabulary)
        # An unknown token is nothing that one could write.
        known = logits + tf.one_hot(self._vocabulary.unknown_number, size, -float("inf"), 0.0)
        numbers = tf.math.top_k(known, min(top, size - 1)).indices
        return self.words(numbers), tf.gather(tf.nn.softmax(logits), numbers, batch_dims=1)

    def _cut(self, text: Tensor) -> Any:
        """Normalized text (B,) -> its tokens, ragged (B, None)."""
        pattern = self._vocabulary.token_pattern
        if self._vocabulary.symbols and self._vocabulary.unit == "character":
            # A byte that no text in UTF-8 holds, in front of each token.
            return tf.strings.split(tf.strings.regex_replace(text, f"({pattern})", b"\xff\\1"), b"\xff")[:, 1:]
        if self._vocabulary.unit == "character":
            return tf.strings.unicode_split(text, "UTF-8")
        # No word holds a space or a newline. A newline after another, or after spaces behind another, closes no line of words.
        text = tf.strings.regex_replace(text, f"({pattern})|(\n)|(?s:.)", r"\1\2 ")
        return tf.strings.split(tf.strings.regex_replace(text, "\n[\n ]*", f"{self._vocabulary.end} "))


class Normalization(tf.Module):
    """NFC, and lower case if asked for, in every script: what `unicodedata` and `str.lower` of the exporting Python give.

    The locale of the process that runs it changes nothing, as it would with TensorFlow's own lower case. One thing follows the
    Unicode of TensorFlow, 13 in version 2.21: which form a capital sigma takes beside a character that is newer than that.

    Inside, a batch of texts is the code points of all of them, int32 (N,), and `splits` int64 (B + 1,), where each text begins
    and the last one ends.
    """

    def __init__(self, lower: bool) -> None:
        super().__init__()
        self._decomposed = _table_of(_decompositions(), "")
        self._classes = _table_of(_classes(), 0)
        self._composed = _table_of(_compositions(), 0)
        self._lowered = _table_of(_lower_cases(), "") if lower else None

    def __call__(self, text: Tensor) -> Tensor:
        """text string (B,), each beginning with a newline -> the normalized text (B,).

        Bytes that are not UTF-8 become U+FFFD, as with `bytes.decode(errors="replace")`.
        """
        # Most text is ASCII and needs no tables.
        ascii_only = tf.reduce_all(tf.strings.regex_full_match(text, r"[\x00-\x7f]*"))
        if self._lowered is None:
            return tf.cond(ascii_only, lambda: text, lambda: _encode(*self._nfc(*_decode(text))))
        return tf.cond(ascii_only, lambda: tf.strings.lower(text), lambda: _encode(*self._lower(*self._nfc(*_decode(text)))))

    def _lower(self, points: Tensor, splits: Tensor) -> tuple[Tensor, Tensor]:
        points, splits = _replaced(self._lowered, points, splits)
        # Which form a capital sigma takes depends on what is around it, and that TensorFlow knows. It would stop at a NUL; all
        # that is left for it to lower becomes one character each.
        lowered, _ = _decode(tf.strings.lower(_encode(tf.where(points == 0, ord("\n"), points), splits), "utf-8"))
        return tf.where(points == ord("Σ"), lowered, points), splits

    def _nfc(self, points: Tensor, splits: Tensor) -> tuple[Tensor, Tensor]:
        """Decomposes, sorts the marks behind each starter by class, composes (Unicode Standard Annex 15)."""
        points, splits = _replaced(self._decomposed, points, splits)
        classes = self._classes.lookup(points)
        # A starter is a character of class 0, and each text begins with one: no mark is sorted into another text.
        order = tf.argsort(tf.cumsum(tf.cast(classes == 0, tf.int64)) * 256 + tf.cast(classes, tf.int64), stable=True)
        _, points, _, splits = tf.while_loop(
            lambda more, *_: more,
            lambda _, *text: self._compose(*text),
            (True, tf.gather(points, order), tf.gather(classes, order), splits),
            tuple(tf.TensorShape(shape) for shape in ((), (None,), (None,), (None,))),
        )
        return points, splits

    def _compose(self, points: Tensor, classes: Tensor, splits: Tensor) -> tuple[Tensor, ...]:
        """Composes each starter with the first character behind it that it can be composed with.

        Takes and returns the code points, their classes (N,) and the splits, and returns before them whether any were composed.
        """
        position, starters = tf.range(tf.size(points, tf.int64)), tf.where(classes == 0)[:, 0]
        # The last starter before each character; the first of all has none and gets itself.
        starter = tf.gather(starters, tf.maximum(tf.searchsorted(starters, position) - 1, 0))
        # Another starter between the two blocks them, and so does a mark of the same class.
        free = (starter == position - 1) | (tf.roll(classes, 1, 0) < classes)
        made = tf.where(free, self._composition(tf.gather(points, starter), points), 0)
        count = tf.cumsum(tf.cast(made > 0, tf.int32))
        first = (made > 0) & (count - tf.gather(count, starter) == 1)
        found, kept = tf.where(first), tf.where(~first)[:, 0]
        points = tf.tensor_scatter_nd_update(points, tf.gather(starter, found), tf.gather_nd(made, found))
        splits = tf.searchsorted(kept, splits, out_type=tf.int64)
        return tf.size(found) > 0, tf.gather(points, kept), tf.gather(classes, kept), splits

    def _composition(self, first: Tensor, second: Tensor) -> Tensor:
        """The code point that two code points make, 0 where they make none, each (N,)."""
        leading, vowel = first - _LEADING, second - _VOWEL
        syllable, trailing = first - _SYLLABLE, second - _TRAILING
        of_two = _among(leading, _LEADINGS) & _among(vowel, _VOWELS)
        of_three = _among(syllable, _SYLLABLES) & (syllable % _TRAILINGS == 0) & _among(trailing - 1, _TRAILINGS - 1)
        other = self._composed.lookup(_pair(tf.cast(first, tf.int64), tf.cast(second, tf.int64)))
        made = tf.where(of_three, first + trailing, other)
        return tf.where(of_two, _SYLLABLE + (leading * _VOWELS + vowel) * _TRAILINGS, made)


def _decode(text: Tensor) -> tuple[Tensor, Tensor]:
    """Text (B,) -> its code points (N,) and splits (B + 1,)."""
    # The operators themselves: what tf.strings and RaggedTensor wrap around them is some hundred nodes.
    decoded = tf.raw_ops.UnicodeDecode(input=text, input_encoding="UTF-8")
    return decoded.char_values, decoded.row_splits


def _encode(points: Tensor, splits: Tensor) -> Tensor:
    return tf.raw_ops.UnicodeEncode(input_values=points, input_splits=splits, output_encoding="UTF-8")


def _replaced(table: Any, points: Tensor, splits: Tensor) -> tuple[Tensor, Tensor]:
    """The text with each character that the table has replaced by the string that it has for it."""
    found = table.lookup(points)
    characters = _encode(points, tf.range(tf.size(points) + 1))
    points, inner = _decode(tf.where(found == "", characters, found))
    return points, tf.gather(inner, splits)


def _pair(first: Any, second: Any) -> Any:
    """Two code points as one number."""
    return first * 2**21 + second


def _among(number: Tensor, count: int) -> Tensor:
    return (number >= 0) & (number < count)


def _table(keys: Tensor, values: Tensor, default: Any) -> Any:
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default)


def _table_of(content: Mapping[int, Any], default: Any) -> Any:
    return _table(tf.constant(list(content)), tf.constant(list(content.values())), default)


@cache
def _characters() -> list[str]:
    """All of Unicode, but for surrogates, which no text holds, and from plane 3 on, where nothing is composed or has a case."""
    return [chr(point) for point in range(0x30000) if not 0xD800 <= point < 0xE000]


@cache
def _decompositions() -> dict[int, str]:
    """Code points with a canonical decomposition, but for Hangul's syllables: in them is nothing to sort."""
    return {
        ord(c): unicodedata.normalize("NFD", c)
        for c in _characters()
        # One of compatibility, which NFC does not apply, begins with a tag in angle brackets.
        if unicodedata.decomposition(c)[:1] not in ("", "<")
    }


@cache
def _classes() -> dict[int, int]:
    """Code points of a class other than 0: marks."""
    return {ord(c): unicodedata.combining(c) for c in _characters() if unicodedata.combining(c)}


@cache
def _compositions() -> dict[int, int]:
    """Pairs of code points to what they make, but for Hangul."""
    points = [point for point in _decompositions() if unicodedata.is_normalized("NFC", chr(point))]
    pairs = [unicodedata.decomposition(chr(point)).split() for point in points]
    return {_pair(int(first, 16), int(second, 16)): point for (first, second), point in zip(pairs, points, strict=True)}


@cache
def _lower_cases() -> dict[int, str]:
    """Code points with a lower case, but for the capital sigma, which has two."""
    return {ord(c): c.lower() for c in _characters() if c.lower() != c and c != "Σ"}
