"""What a model of running text learns from: parallel streams of tokens, window by window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from seqapp import backend, forms, token_file
from seqapp.arrays import write_npy
from seqapp.batching import Tokens, Windows
from seqapp.carried import CarriedModel
from seqapp.config import Config, TrainingConfig
from seqapp.corpus import Split
from seqapp.errors import UsageError
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.next_token import TokenReport
from seqapp.run import Run
from seqapp.scoring import score_all
from seqapp.step import KerasStepper
from seqapp.token_file import CHUNK
from seqapp.vocabulary import Vocabulary

VALIDATION_STREAMS = 32


class TokenStudy:
    """See `seqapp.study.Study`; `streams` are the tokens (N,) of each part, `lengths` those of each training document."""

    def __init__(
        self,
        model: SequenceModel,
        vocabulary: Vocabulary,
        streams: dict[str, Tokens],
        lengths: Sequence[int],
        config: TrainingConfig,
    ) -> None:
        self.model, self.vocabulary, self.streams = model, vocabulary, streams
        end, rows = vocabulary.end_number, config.batch_size
        self.windows = Windows.fit_to(streams["train"], lengths, end, rows, config.bptt, config.seed)
        self.learner = CarriedModel(model, self.windows.batch_size, config.state_reset)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.stepper = KerasStepper(model)
        sizes = ", ".join(f"{name} {len(stream):,}" for name, stream in self.streams.items())
        self.summary = f"{len(vocabulary):,} {vocabulary.unit}s in the vocabulary; tokens: {sizes}"

    @classmethod
    def of(cls, split: Split, unit: str, config: Config) -> TokenStudy:
        """The documents of each part, cut into tokens of a unit, and a model with new weights."""
        rule = Vocabulary.empty(unit, config.data.lower, forms.SYMBOLS[config.text.form])
        vocabulary, files = token_file.learned(split, rule, config.data.min_count)
        for name, file in files.items():
            if not len(file):
                raise UsageError(f"The {name} split holds no token: give more text, or change --{name}-fraction.")
        streams = {name: file.tokens for name, file in files.items()}
        model = build_model(config.model, len(vocabulary))
        return cls(model, vocabulary, streams, files["train"].lengths, config.training)

    unit = "nats per token"
    measure = "perplexity"

    def measured(self, nats: float) -> float:
        return math.exp(min(nats, 700.0))

    @property
    def per_epoch(self) -> int:
        return self.windows.per_epoch

    def batches(self, epoch: int, start: int) -> Any:
        kind = keras.KerasTensor((self.windows.batch_size, self.windows.timesteps), "int32")
        read = self.windows.reader(epoch)
        return backend.slices(lambda first, end: read(start + first, start + end), (kind, kind), self.per_epoch - start)

    def begin_epoch(self) -> None:
        self.learner.reset_states()

    def targets(self, batches: int) -> int:
        return batches * self.windows.batch_size * self.windows.timesteps

    def validate(self) -> float:
        """The split is cut into parallel streams: quick, and good enough to compare epochs."""
        stream = self.streams["validation"]
        streams = np.array_split(stream, min(VALIDATION_STREAMS, len(stream)))
        return -float(np.concatenate([logs for logs, _ in score_all(self.stepper, streams, self.vocabulary.end_number)]).mean())

    def save(self, run: Run) -> None:
        self.vocabulary.save(run.path / "vocabulary.json")
        for name, stream in self.streams.items():
            write_npy(run.path / f"{name}_tokens.npy", stream)
        self._read_from(run)

    def check_same(self, run: Run) -> None:
        for name, stream in self.streams.items():
            if not _same(run.tokens(name), stream):
                raise UsageError(
                    f"The {name} split is not the one {run.path} was begun with: restore the data, or start again."
                )
        self._read_from(run)

    def _read_from(self, run: Run) -> None:
        """Takes the tokens of a run for its own, which are the same: the temporary ones leave the disk."""
        self.streams = {name: run.tokens(name) for name in self.streams}
        self.windows = replace(self.windows, tokens=self.streams["train"])

    def report(self, model: Any, part: str) -> TokenReport:
        return TokenReport.of(model, self.vocabulary, self.streams, part)


def _same(one: Tokens, other: Tokens) -> bool:
    """Whether two streams are equal, of which no more than a part is in memory at a time."""
    chunks = (slice(first, first + CHUNK) for first in range(0, len(one), CHUNK))
    return len(one) == len(other) and all(np.array_equal(one[chunk], other[chunk]) for chunk in chunks)
