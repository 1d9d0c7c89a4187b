"""What a training learns from and is measured by: each task makes its own."""

from __future__ import annotations

from typing import Any, Protocol

from seqapp.report import Report
from seqapp.run import Run


class Study(Protocol):
    """The data of one training, and the model that learns from them.

    Attributes:
        model: what model.keras holds.
        learner: the Keras model that `fit` trains, which is `model` or one around it.
        loss: what is minimized, its mean nats per target.
        unit: of that loss, for people.
        measure: what people are told of mean nats, which `measured` makes of them.
        per_epoch: batches in an epoch.
        summary: the size of the data, for people.
    """

    model: Any
    learner: Any
    loss: Any
    summary: str
    unit: str
    measure: str

    def measured(self, nats: float) -> float: ...

    @property
    def per_epoch(self) -> int: ...

    def batches(self, epoch: int, start: int) -> Any:
        """A `tf.data.Dataset` of the epoch's batches from batch `start` on; the same for the same epoch."""

    def begin_epoch(self) -> None:
        """Called before the first batch of an epoch."""

    def targets(self, batches: int) -> int:
        """About how many targets so many batches have."""

    def validate(self) -> float:
        """Nats per target of the validation split."""

    def save(self, run: Run) -> None:
        """Writes what evaluation and export need beside model and configuration."""

    def check_same(self, run: Run) -> None:
        """Refuses data that are not those `run` was begun with.

        Raises:
            UsageError: they are not.
        """

    def report(self, model: Any, part: str) -> Report:
        """The figures of a trained model on a part."""
