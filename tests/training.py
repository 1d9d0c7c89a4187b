"""A training that is interrupted and taken up again, for the tests of all that can be learnt from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.fitting import Trainer
from seqapp.train import main as train

SAVED = 7  # batches of the second epoch before the checkpoint


class Interrupted(Trainer):
    """Saves a checkpoint after seven batches of the second epoch or a few more, and is stopped three batches later."""

    is_saved = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.progress.epoch == 1 and self.progress.batch >= SAVED and not self.is_saved:
            self.save()
            self.is_saved = True
        if self.progress.epoch == 1 and self.progress.batch >= SAVED + 3:
            raise KeyboardInterrupt


def resumed(begin: Callable[[type[Trainer]], Trainer], per_epoch: int) -> Trainer:
    """A training that was interrupted in its second epoch, begun anew and taken to its end; `begin` makes its trainers."""
    with pytest.raises(KeyboardInterrupt):
        begin(Interrupted).train()
    second = begin(Trainer)
    second.restore()
    saved = math.ceil(SAVED / second.at_once) * second.at_once
    assert (second.progress.epoch, second.progress.batch, second.progress.step) == (1, saved, per_epoch + saved)
    second.train()
    return second


def stopped_before_measuring(path: Path, *flags: str) -> Path:
    """A run of texts that was stopped after its training, before it was measured."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqapp.token_study.TokenStudy.report", stop)
        assert train(["--run", str(path), *flags]) == 130
    return path


def assert_same_training(one: Trainer, other: Trainer) -> None:
    """Exactly the same weights, carried states and figures, all of them numbers."""
    for a, b in zip(one.learner.get_weights(), other.learner.get_weights(), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
    names = ("epoch", "training_nats", "validation_nats")
    ours, theirs = ([[row[name] for name in names] for row in t.progress.history] for t in (one, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, equal_nan=False)
    assert (one.progress.step, one.progress.best_epoch) == (other.progress.step, other.progress.best_epoch)


def scalars(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
