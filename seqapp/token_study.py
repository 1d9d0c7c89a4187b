"""What a model of running text learns from: parallel streams of tokens, window by window."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from seqapp import backend, forms
from seqapp.batching import Tokens, Windows, stream_of
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
from seqapp.vocabulary import Vocabulary

VALIDATION_STREAMS = 32


class TokenStudy:
    """See `seqapp.study.Study`; `streams` are the tokens (N,) of each part."""

    def __init__(self, model: SequenceModel, vocabulary: Vocabulary, parts: dict[str, list[Tokens]], config: TrainingConfig):
        self.model, self.vocabulary = model, vocabulary
        self.streams = {name: stream_of(documents) for name, documents in parts.items()}
        self.windows = Windows.fit_to(parts["train"], vocabulary.end_number, config.batch_size, config.bptt, config.seed)
        self.learner = CarriedModel(model, self.windows.batch_size, config.state_reset)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.stepper = KerasStepper(model)
        sizes = ", ".join(f"{name} {len(stream):,}" for name, stream in self.streams.items())
        self.summary = f"{len(vocabulary):,} {vocabulary.unit}s in the vocabulary; tokens: {sizes}"

    @classmethod
    def of(cls, split: Split, unit: str, config: Config) -> TokenStudy:
        """The documents of each part, cut into tokens of a unit, and a model with new weights."""
        symbols = forms.SYMBOLS[config.text.form]
        vocabulary = Vocabulary.learn(split.train, unit, config.data.lower, config.data.min_count, symbols)
        parts = {
            name: [np.asarray(vocabulary.encode(text), np.int32) for text in texts]
            for name, texts in dataclasses.asdict(split).items()
            if texts
        }
        for name, documents in parts.items():
            if not sum(map(len, documents)):
                raise UsageError(f"The {name} split holds no token: give more text, or change --{name}-fraction.")
        return cls(build_model(config.model, len(vocabulary)), vocabulary, parts, config.training)

    unit = "nats per token"
    measure = "perplexity"

    def measured(self, nats: float) -> float:
        return math.exp(min(nats, 700.0))

    @property
    def per_epoch(self) -> int:
        return self.windows.per_epoch

    def batches(self, epoch: int, start: int) -> Any:
        inputs, targets = self.windows.batches(epoch, start)
        return backend.slices((inputs, targets), len(inputs))

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
            np.save(run.path / f"{name}_tokens.npy", stream)

    def check_same(self, run: Run) -> None:
        for name, stream in self.streams.items():
            if not np.array_equal(run.tokens(name), stream):
                raise UsageError(
                    f"The {name} split is not the one {run.path} was begun with: restore the data, or start again."
                )

    def report(self, model: Any, part: str) -> TokenReport:
        return TokenReport.of(model, self.vocabulary, self.streams, part)
