"""What a model learns from whose sequences are drawn at random: others in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from seqapp import backend
from seqapp.classify import classified_by
from seqapp.config import Config
from seqapp.drawn import Drawn
from seqapp.report import Report
from seqapp.run import Run
from seqapp.sequences import check_parts, save_parts


class DrawnStudy:
    """See `seqapp.study.Study`.

    A batch depends on the seed, the epoch and its own number alone, so that a training resumes at any of them.
    """

    def __init__(self, task: Drawn, config: Config) -> None:
        self.task, self.config, self.length = task, config.training, config.long_range.length
        self.examples = config.long_range.examples
        self.model, self.loss = task.learner(config.model, self.length)
        self.learner, self.classified = self.model, classified_by(self.model)
        self.parts = task.held_out(config)
        self.unit = self.measure = task.unit
        self.timesteps = len(self.parts["validation"].inputs[0])
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in self.parts.items())
        self.summary = f"{self.timesteps:,} timesteps a sequence; sequences: {self.examples:,} in an epoch, {sizes}"

    def measured(self, nats: float) -> float:
        return nats

    @property
    def per_epoch(self) -> int:
        return max(1, self.examples // self.config.batch_size)

    def batches(self, epoch: int, start: int) -> Any:
        size, seed = self.config.batch_size, self.config.seed

        def batches() -> Iterator[Any]:
            for batch in range(start, self.per_epoch):
                x, y = self.task.draw(np.random.default_rng((seed, epoch, batch)), size, self.length)
                yield (x, np.full(size, self.timesteps, np.int32)), y

        x, y = self.parts["validation"].inputs[0], self.parts["validation"].labels[0]
        lengths = keras.KerasTensor([size], "int32")
        signature = ((keras.KerasTensor([size, *x.shape], x.dtype), lengths), keras.KerasTensor([size, *y.shape], y.dtype))
        return backend.batches(batches, signature, self.per_epoch - start)

    def begin_epoch(self) -> None:
        pass

    def targets(self, batches: int) -> int:
        return batches * self.config.batch_size * self.timesteps

    def validate(self) -> float:
        report = self.task.report(self.classified, {"validation": self.parts["validation"]}, "validation")
        return float(report.mine[report.loss]["value"])

    def save(self, run: Run) -> None:
        self.task.save(run)
        save_parts(run.path, self.parts)

    def check_same(self, run: Run) -> None:
        check_parts(run.path, self.parts)

    def report(self, model: Any, part: str) -> Report:
        return self.task.report(classified_by(model), self.parts, part)
