"""Text to token numbers and back, by a rule that other languages can follow too."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from seqapp.errors import UsageError
from seqapp.untrusted import json_of

UNKNOWN = "<unk>"

# A letter, digit or mark: those of ASCII, and everything else that is not a space, punctuation or a symbol. The code points are
# spelled out because \w and \s are other sets in Python's re than in RE2; literal characters mean the same to both.
_WORD = (
    "[0-9A-Za-z_\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u2c00-\u2dff\u3040-\ud7ff\uf900-\ufdff"
    "\ufe20-\ufe2f\ufe70-\ufefc\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc]"
)
_SPACE = "\u0000-\u0020\u007f-\u00a0\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORD_PATTERN = f"{_WORD}+(?:['\u2019]{_WORD}+)*|[^{_SPACE}]"
CHARACTER_PATTERN = "(?s:.)"
SYMBOL_PATTERN = f"[^{_SPACE}]+"
PATTERNS = {"word": WORD_PATTERN, "character": CHARACTER_PATTERN, "symbol": SYMBOL_PATTERN}


def plain(text: str, symbols: Iterable[str]) -> str:
    """A text that holds none of some symbols: one that it spells out, in capitals too, is broken up by a space.

    Nor does it begin with a mark that NFC would compose with a symbol in front of it.
    """
    for symbol in symbols:
        text = re.sub(re.escape(symbol), lambda found: f"{found[0][0]} {found[0][1:]}", text, flags=re.IGNORECASE)
    return f" {text}" if unicodedata.combining(text[:1] or " ") else text


_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%\u2026")
_NO_SPACE_AFTER = frozenset("([{$#")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model knows, numbered from 0, and how text becomes tokens.

    A text is normalized (`NFC`, and `lower` where chosen) and cut by `token_pattern`, a regular expression that RE2 accepts.
    `unit` is `word`, where each line that has words is closed by `end`; `symbol`, the same with whatever stands between spaces
    for a word; or `character`, where `end` is the newline itself.

    `symbols` are tokens that no text of people holds, as `<turn>`: the first of them begins a document, the last each turn.
    """

    tokens: tuple[str, ...]
    unit: str
    end: str
    token_pattern: str
    normalization: tuple[str, ...]
    unknown: str = UNKNOWN
    symbols: tuple[str, ...] = ()

    @classmethod
    def empty(cls, unit: str, lower: bool, symbols: tuple[str, ...] = ()) -> Self:
        """The rule alone, with no token but the unknown one, the end and the symbols, which go before all else in a text."""
        end = "\n" if unit == "character" else "<eos>"
        pattern = "|".join([*map(re.escape, symbols), PATTERNS[unit]])
        normalization = ("NFC", "lower") if lower else ("NFC",)
        return cls((UNKNOWN, end, *symbols), unit, end, pattern, normalization, symbols=symbols)

    @classmethod
    def learn(cls, documents: Iterable[str], unit: str, lower: bool, min_count: int = 1, symbols: tuple[str, ...] = ()) -> Self:
        """The tokens that occur at least `min_count` times, the most frequent first; the symbols in any case."""
        rule = cls.empty(unit, lower, symbols)
        return rule.of_counts(Counter(token for document in documents for token in rule.cut(document)), min_count)

    def of_counts(self, counts: Mapping[str, int], min_count: int) -> Self:
        """This rule with the tokens that were counted at least `min_count` times, the most frequent first."""
        new = [token for token in counts if counts[token] >= min_count and token not in self.tokens[1:]]
        return replace(self, tokens=(*self.tokens, *sorted(new, key=lambda token: (-counts[token], token))))

    @cached_property
    def _number(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.token_pattern)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def unknown_number(self) -> int:
        return self._number[self.unknown]

    @property
    def end_number(self) -> int:
        return self._number[self.end]

    @property
    def symbol_numbers(self) -> list[int]:
        return [self._number[symbol] for symbol in self.symbols]

    def cut(self, text: str) -> list[str]:
        """The tokens of a text, known or not. Each line of words is closed by the end; of characters, the newline is one."""
        return self.prompt(text) if self.unit == "character" else self.prompt(text + "\n")

    def cut_pieces(self, pieces: Iterable[str]) -> Iterator[list[str]]:
        """The tokens of a text that comes in pieces, parted as `prompt` says: together those that `cut` has of the whole."""
        in_line = False
        for piece in pieces:
            yield self.prompt(piece, in_line)
            line = piece.rpartition("\n")[2]
            in_line = self._pattern.search(self.normalized(line)) is not None or (in_line and line == piece)
        if in_line and self.unit != "character":
            yield [self.end]

    def normalized(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        return text.lower() if "lower" in self.normalization else text

    def prompt(self, text: str, in_line: bool = False) -> list[str]:
        """The tokens of a text that goes on: as `cut` has them, but the end only where a newline closes a line of words.

        With `in_line`, the text itself goes on in a line that has words. The pieces of a text that was parted before or after a
        space or a newline have the tokens of the whole; elsewhere a token, or what normalization looks at, may be torn.
        """
        text = self.normalized(text)
        if self.unit == "character":
            return self._pattern.findall(text)
        tokens: list[str] = []
        *lines, last = text.split("\n")
        for line in lines:
            words = self._pattern.findall(line)
            tokens += [*words, self.end] if words or in_line else []
            in_line = False
        return tokens + self._pattern.findall(last)

    def numbers(self, tokens: Iterable[str]) -> list[int]:
        return [self._number.get(token, self.unknown_number) for token in tokens]

    def encode(self, text: str) -> list[int]:
        return self.numbers(self.cut(text))

    def encode_whole(self, text: str) -> list[int]:
        """The numbers of a text that is a sequence of its own: of characters too, the end closes it."""
        numbers = self.encode(text)
        return numbers if numbers[-1:] == [self.end_number] else [*numbers, self.end_number]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of some numbers, without the end."""
        return self.join(self.tokens[number] for number in numbers if number != self.end_number)

    def join(self, tokens: Iterable[str]) -> str:
        """Readable text: each end a new line, words spaced as one writes them, symbols at the beginning of a line."""
        text, at_begin = "", True
        for token in tokens:
            if token == self.end:
                text += "\n"
            elif token in self.symbols:
                text += token if at_begin else f"\n{token}"
            else:
                text += token if at_begin or self._touch(text[-1], token) else f" {token}"
            at_begin = token == self.end or token in self.symbols
        return text

    def _touch(self, before: str, token: str) -> bool:
        """Whether no space is written between a character and a token that follows it in its line."""
        if self.unit == "word":
            return before in _NO_SPACE_AFTER or token in _NO_SPACE_BEFORE
        return self.unit == "character"

    def save(self, path: Path) -> None:
        content = asdict(self) if self.symbols else {k: v for k, v in asdict(self).items() if k != "symbols"}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UsageError: the file is missing or is not a vocabulary.
        """
        try:
            content = {"symbols": (), **json_of(path.read_text("utf-8"))}
            vocabulary = cls(**content | {name: tuple(content[name]) for name in ("tokens", "normalization", "symbols")})
            if vocabulary.unit not in PATTERNS:
                raise ValueError(f"its unit is {vocabulary.unit!r}")
            if vocabulary.token_pattern != cls.empty(vocabulary.unit, False, vocabulary.symbols).token_pattern:
                # Another one might take years to find out that a text has no token.
                raise ValueError("its token_pattern is not the one of its unit")
            # Looked up now: a damaged file is refused here, not in the middle of the work.
            _ = vocabulary._pattern, vocabulary.unknown_number, vocabulary.end_number, vocabulary.symbol_numbers
            return vocabulary
        except FileNotFoundError:
            raise UsageError(f"There is no {path}: a run of a token task keeps its vocabulary there; train again.") from None
        except (ValueError, KeyError, TypeError, re.error) as error:
            raise UsageError(f"{path} is not a vocabulary ({error}): train again, or restore the file.") from None
