"""What a classifier learns from: sequences with labels, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from seqapp import backend, labelled
from seqapp.classifier import Classifier
from seqapp.classify import Array, Coder, LabelReport, classified_by, log_probabilities
from seqapp.config import Config, TrainingConfig
from seqapp.job import built_of, make_cells
from seqapp.labelled import Example
from seqapp.run import Run
from seqapp.sequences import Sequences, check_parts, padded, save_parts


class LabelStudy:
    """See `seqapp.study.Study`."""

    def __init__(self, model: Classifier, coder: Coder, parts: dict[str, Sequences], config: TrainingConfig) -> None:
        self.model = self.learner = model
        self.coder, self.parts, self.config = coder, parts, config
        self.classified = classified_by(model)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
        known = f"{len(coder.vocabulary):,} {coder.vocabulary.unit}s in the vocabulary; " if coder.vocabulary else ""
        self.summary = f"{len(coder.classes):,} classes; {known}sequences: {sizes}"

    @classmethod
    def of(cls, found: dict[str, list[Example]], config: Config) -> LabelStudy:
        """The parts of some data, as `seqapp.labelled.read` has them, and a model with new weights."""
        d = config.data
        parts = labelled.split(found, d.validation_fraction, d.test_fraction, config.classify.fold)
        coder = Coder.learn(parts["train"], config)
        coded = {name: coder.coded(examples) for name, examples in parts.items()}
        return cls(build_classifier(config, coder, coded["train"]), coder, coded, config.training)

    unit = measure = "nats a label"

    def measured(self, nats: float) -> float:
        return nats

    @property
    def per_epoch(self) -> int:
        return self.parts["train"].per_epoch(self.config.batch_size)

    def batches(self, epoch: int, start: int) -> Any:
        train = self.parts["train"]
        picks = train.batches(self.config.batch_size, [self.config.seed, epoch])[start:]
        lengths, x, y = train.lengths, train.inputs[0], train.labels[0]
        # Series of one length need no loop: the layer writes it out.
        timesteps = int(lengths[0]) if (lengths == lengths[0]).all() else None

        def batches() -> Iterator[Any]:
            for pick in picks:
                inputs, sizes = padded([train.inputs[i] for i in pick])
                labels = padded([train.labels[i] for i in pick])[0] if y.ndim else np.array([train.labels[i] for i in pick])
                yield (inputs, sizes), labels, weights(labels, sizes)

        labels = keras.KerasTensor([None, timesteps][: 1 + y.ndim], "int32")
        inputs = keras.KerasTensor([None, timesteps, *x.shape[1:]], x.dtype)
        signature = ((inputs, keras.KerasTensor([None], "int32")), labels, keras.KerasTensor(labels.shape, "float32"))
        return backend.batches(batches, signature, len(picks))

    def begin_epoch(self) -> None:
        pass

    def targets(self, batches: int) -> int:
        return round(batches * self.config.batch_size * float(self.parts["train"].lengths.mean()))

    def validate(self) -> float:
        part = self.parts["validation"]
        logs = log_probabilities(self.classified, part)
        nats = [
            np.take_along_axis(np.atleast_2d(row), np.atleast_1d(label)[:, None], 1)
            for row, label in zip(logs, part.labels, strict=True)
        ]
        return -float(np.concatenate(nats).mean())

    def save(self, run: Run) -> None:
        self.coder.save(run.path)
        save_parts(run.path, self.parts)

    def check_same(self, run: Run) -> None:
        check_parts(run.path, self.parts)

    def report(self, model: Any, part: str) -> LabelReport:
        return LabelReport.of(classified_by(model), self.coder, self.parts, part)


def weights(labels: Array, lengths: Array) -> Array:
    """1 for a label that counts, 0 for one of padding."""
    if labels.ndim == 1:
        return np.ones(labels.shape, np.float32)
    return (np.arange(labels.shape[1]) < lengths[:, None]).astype(np.float32)


def build_classifier(config: Config, coder: Coder, train: Sequences) -> Classifier:
    """A classifier with new weights.

    Raises:
        UsageError: its cell does not exist or cannot be made.
    """
    m = config.model
    mean, variance = [], []
    if coder.vocabulary is None:
        values = np.concatenate(train.inputs).astype(np.float64)
        mean, variance = values.mean(0).tolist(), np.maximum(values.var(0), 1e-12).tolist()
    with built_of(m.cell):
        return Classifier(
            len(coder.classes),
            make_cells(m),
            make_cells(m) if config.classify.both_ways else [],
            len(coder.vocabulary) if coder.vocabulary else None,
            m.embedding,
            mean,
            variance,
            coder.each_timestep,
            m.dropout,
            m.recurrent_dropout,
        )
