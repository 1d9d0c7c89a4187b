"""Text to numbers of subwords and back, by a model that SentencePiece learned: what `Vocabulary` is for words."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from seqapp.errors import UsageError, need
from seqapp.vocabulary import UNKNOWN

END = "</s>"


@dataclass(frozen=True)
class Subwords:
    """A unigram model of subwords (Kudo 2018, arXiv:1804.10959v1), in SentencePiece's own format, and what is done before it.

    A text is brought into `NFC`, and into lower case where `normalization` says so, and its white space becomes single spaces;
    the model itself changes nothing. Number 0 is the unknown subword, 1 the end.
    """

    model: bytes
    normalization: tuple[str, ...] = ("NFC",)
    unit = "subword"
    unknown, unknown_number, end_number = UNKNOWN, 0, 1

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, lower: bool) -> Self:
        """The most useful `size` subwords of some texts, or as many as there are.

        Raises:
            UsageError: the texts have more characters than that.
        """
        package, written = need("sentencepiece", "translate"), BytesIO()
        rule = cls(b"", ("NFC", "lower") if lower else ("NFC",))
        try:
            package.SentencePieceTrainer.train(
                sentence_iterator=map(rule.normalized, texts),
                model_writer=written,
                vocab_size=size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",
                bos_id=-1,
                unk_id=cls.unknown_number,
                eos_id=cls.end_number,
                unk_surface="",
                minloglevel=2,
            )
        except RuntimeError as error:
            # "INTERNAL: file(line) [condition] Words. Advice for its own flags."
            reason = str(error).strip().splitlines()[-1].rpartition("] ")[2].split(". ")[0]
            raise UsageError(
                f"{size} subwords cannot be learned ({reason}): give another --subwords, or another unit, as character."
            ) from None
        return cls(written.getvalue(), rule.normalization)

    @cached_property
    def _processor(self) -> Any:
        return need("sentencepiece", "translate").SentencePieceProcessor(model_proto=self.model)

    def __len__(self) -> int:
        return int(self._processor.vocab_size())

    @property
    def tokens(self) -> list[str]:
        """The subwords by their numbers; a space is written ▁."""
        return [self._processor.id_to_piece(number) for number in range(len(self))]

    def normalized(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.lower() if "lower" in self.normalization else text

    def encode_whole(self, text: str) -> list[int]:
        """The numbers of a text that is a sequence of its own: the end closes it."""
        return [*self._processor.encode(self.normalized(text)), self.end_number]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of some numbers, without the end."""
        return str(self._processor.decode([int(n) for n in numbers if n != self.end_number]))

    def sampled(self, texts: Sequence[str], alpha: float, seed: int) -> list[list[int]]:
        """As `encode_whole`, each text cut in one of its ways, drawn with their probabilities to the power of `alpha`."""
        need("sentencepiece", "translate").set_random_generator_seed(seed)
        normalized = [self.normalized(text) for text in texts]
        drawn = (self._processor.encode(t, enable_sampling=True, alpha=alpha, nbest_size=-1) for t in normalized)
        return [[*numbers, self.end_number] for numbers in drawn]

    def save(self, path: Path) -> None:
        """Writes the model, which anything that reads SentencePiece's files can open."""
        path.write_bytes(self.model)

    @classmethod
    def load(cls, path: Path, normalization: tuple[str, ...]) -> Self:
        """Reads what `save` wrote.

        Raises:
            UsageError: the file is missing or is no such model, or SentencePiece is not installed.
        """
        try:
            subwords = cls(path.read_bytes(), normalization)
            if [subwords._processor.id_to_piece(number) for number in (0, 1)] != [UNKNOWN, END]:
                raise ValueError(f"its first subwords are not {UNKNOWN} and {END}")
            return subwords
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            words = " ".join(str(error).split())
            raise UsageError(f"{path} cannot be read as a model of subwords ({words}): restore it, or train again.") from None
