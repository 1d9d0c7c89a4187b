"""The task `copy-memory`: ten symbols, said again after a long pause."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from seqapp.classify import Array, Classified, Coder, log_probabilities
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.drawn import Drawn
from seqapp.errors import UsageError
from seqapp.labelled import Example
from seqapp.predict import Prediction, refuse_nothing, text_of
from seqapp.report import Report
from seqapp.run import Run
from seqapp.scoring import Metrics
from seqapp.sequences import Sequences
from seqapp.task_config import LongRangeConfig
from seqapp.vocabulary import Vocabulary

SYMBOLS = tuple("0123456789")
BLANK, FIRST, LAST, DELIMITER = 0, 1, 8, 9  # those from the first to the last are copied
COPIED = 10  # symbols


class CopyMemory(Drawn):
    """The copying problem (Arjovsky, Shah and Bengio 2016, arXiv:1511.06464v4), as Bai, Kolter and Koltun 2018
    (arXiv:1803.01271v2) have it, T + 20 timesteps long: ten symbols drawn from 1 to 8, T - 1 blanks 0, eleven delimiters 9. The
    targets are T + 10 blanks, then the ten symbols. The loss is the mean over all timesteps.
    """

    layout, unit = "classes", "nats a timestep"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For some minutes on two cores."""
        return Config(
            task="copy-memory",
            data=DataConfig(validation_fraction=0.05, test_fraction=0.1),
            model=ModelConfig(units=96, embedding=16, dropout=0.0, recurrent_dropout=0.0),
            training=TrainingConfig(epochs=12, patience=12, batch_size=32, learning_rate=1.5e-2),
            long_range=LongRangeConfig(length=20),
        )

    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[Array, Array]:
        """Tokens and the numbers of the classes, both int32 (B, T + 20)."""
        symbols = rng.integers(FIRST, LAST + 1, (count, COPIED))
        x = np.full((count, length + 2 * COPIED), BLANK, np.int32)
        y = x.copy()
        x[:, :COPIED], x[:, length + COPIED - 1 :], y[:, -COPIED:] = symbols, DELIMITER, symbols
        return np.array(vocabulary().numbers(SYMBOLS), np.int32)[x], y

    def learner(self, config: ModelConfig, length: int) -> tuple[Any, Any]:
        import keras

        from seqapp.classifier import Classifier
        from seqapp.job import built_of, make_cells

        known = vocabulary()
        with built_of(config.cell):
            model = Classifier(
                len(SYMBOLS),
                make_cells(config),
                vocabulary_size=len(known),
                embedding=config.embedding,
                each_timestep=True,
                dropout=config.dropout,
                recurrent_dropout=config.recurrent_dropout,
            )
        return model, keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def report(self, classified: Classified, parts: dict[str, Sequences], part: str) -> CopyReport:
        return CopyReport.of(classified, parts, part)

    def save(self, run: Run) -> None:
        coder().save(run.path)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        """The symbol of each timestep, of lines of symbols with spaces between them."""
        text, name = text_of(source)
        rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        refuse_nothing(len(rows), name)
        examples = [Example(" ".join(line.split()), None, f"{name}, line {number}") for number, line in rows]
        inputs = [_tokens(example) for example in examples]
        return lambda model: coder().predictions(coder().fitting(model), examples, inputs)


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary.learn([" ".join(SYMBOLS)], "symbol", lower=False)


def coder() -> Coder:
    """Each symbol is a token and a class."""
    return Coder(SYMBOLS, vocabulary(), each_timestep=True)


def _tokens(example: Example) -> Array:
    symbols = str(example.sequence).split()
    strange = sorted(set(symbols) - set(SYMBOLS))
    if strange:
        raise UsageError(f"{example.place} must hold symbols from 0 to 9, spaces between them. Received: {strange[0]!r}")
    return np.array(vocabulary().numbers(symbols), np.int32)


def figures(logs: Array, labels: Array) -> Metrics:
    """Nats of log-probabilities (N, T, C) for labels (N, T), and how many of the copied symbols are right."""
    right = logs[:, -COPIED:].argmax(-1) == labels[:, -COPIED:]
    nats = -float(np.take_along_axis(logs, labels[..., None], -1).mean())
    return {
        CopyReport.loss: {"value": nats, "unit": "nats", "count": labels.size},
        "copied": {"value": float(right.mean()), "unit": "fraction", "count": right.size},
    }


def memoryless(labels: Array) -> Metrics:
    """Who knows when to speak and not what to say: certain of each blank, and of one symbol in eight."""
    kinds = LAST - FIRST + 1
    return {
        CopyReport.loss: {
            "value": COPIED * math.log(kinds) / labels.shape[1],
            "unit": "nats",
            "count": labels.size,
        },
        "copied": {"value": 1 / kinds, "unit": "fraction", "count": len(labels) * COPIED},
    }


@dataclass(frozen=True)
class CopyReport(Report):
    """The figures of one held-out part, of the model and of a strategy without memory."""

    loss = "nats_per_label"

    @classmethod
    def of(cls, classified: Classified, parts: dict[str, Sequences], part: str) -> CopyReport:
        labels = {name: np.stack(parts[name].labels) for name in dict.fromkeys(("validation", part))}
        found = {name: figures(np.stack(log_probabilities(classified, parts[name])), labels[name]) for name in labels}
        return cls(part, found, {"memoryless": memoryless(labels[part])})

    def table(self, name: str) -> str:
        lines = [f"{self.part}, {self.mine[self.loss]['count']:,} timesteps", f"{'':16}{'nats a timestep':>18}{'copied':>10}"]
        for label, row in {name: self.mine, **self.baselines}.items():
            lines.append(f"{label:16}{row[self.loss]['value']:18.6f}{row['copied']['value']:10.1%}")
        return "\n".join([*lines, self.nats_below_best()])
