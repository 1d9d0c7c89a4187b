"""What a model of drawn sequences learns from: other batches in each epoch, and a training that can be repeated and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.config import build
from seqapp.drawn import Drawn
from seqapp.drawn_study import DrawnStudy
from seqapp.fitting import Trainer
from seqapp.run import Run
from seqapp.step import log_softmax
from seqapp.tasks import TASKS
from tests.conftest import refused
from tests.training import assert_same_training, resumed

PER_EPOCH = 11
SMALL: dict[str, Any] = {
    "length": 4, "examples": 90, "batch_size": 8, "units": 5, "embedding": 3, "epochs": 2, "learning_rate": 0.05,
    "recurrent_dropout": 0.2, "checkpoint_seconds": 1e9, "seed": 3,
}  # fmt: skip
DRAWN = ("adding", "copy-memory")


def study(task: str, **changes: Any) -> DrawnStudy:
    config = build({"task": task, **SMALL, **changes})
    keras.utils.set_random_seed(config.training.seed)
    known = TASKS[task]
    assert isinstance(known, Drawn)
    return DrawnStudy(known, config)


def batches(it: DrawnStudy, epoch: int, start: int = 0) -> list[Any]:
    return [tf.nest.flatten(batch) for batch in it.batches(epoch, start).as_numpy_iterator()]


@pytest.mark.parametrize("task", DRAWN)
def test_no_batch_is_drawn_twice(task: str) -> None:
    it = study(task)
    epochs = [batches(it, epoch) for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [it.per_epoch, it.per_epoch] == [PER_EPOCH] * 2
    firsts = [x.tobytes() for x, *_ in (*epochs[0], *epochs[1], *batches(study(task, seed=4), 0))]
    assert len(set(firsts)) == 3 * PER_EPOCH
    for x, lengths, y in epochs[0]:
        assert x.shape[:2] == (8, it.timesteps)
        np.testing.assert_array_equal(lengths, it.timesteps)
        assert y.shape == ((8,) if task == "adding" else (8, 24))


@pytest.mark.parametrize("task", DRAWN)
def test_an_epoch_from_its_middle_on(task: str) -> None:
    whole, rest = batches(study(task), 1), batches(study(task), 1, 8)
    assert len(rest) == PER_EPOCH - 8
    for a, b in zip(tf.nest.flatten(whole[8:]), tf.nest.flatten(rest), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", DRAWN)
def test_training_and_validation_measure_the_same(task: str) -> None:
    """The Keras loss over the validation part is the figure of the report."""
    it = study(task, validation_fraction=0.4)
    part = it.parts["validation"]
    x, y = np.stack(part.inputs), np.stack(part.labels)
    outputs = np.asarray(it.model([x, np.full(len(x), x.shape[1], np.int32)]), np.float64)
    if task == "adding":
        wanted = np.mean((outputs[:, 0] - y) ** 2)
    else:
        wanted = -np.take_along_axis(log_softmax(outputs), y[..., None], -1).mean()
    assert it.validate() == pytest.approx(wanted, rel=1e-5)
    assert float(it.loss(y, outputs.astype(np.float32))) == pytest.approx(wanted, rel=1e-5)
    assert (it.measured(0.5), it.unit) == (0.5, TASKS[task].unit)  # type: ignore[attr-defined]
    assert it.targets(3) == 3 * 8 * it.timesteps


def test_a_run_of_other_settings_is_no_resumption(tmp_path: Path) -> None:
    it, run = study("copy-memory"), Run(tmp_path)
    it.save(run)
    it.check_same(run)
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.json", "vocabulary.json", "validation_examples.npz", "test_examples.npz",
    }  # fmt: skip
    refused(lambda: study("copy-memory", length=5).check_same(run), "validation part is not the one", "restore the data")


def make(path: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer as a command begins it, in a process of its own."""
    tf.config.experimental.enable_op_determinism()
    path.mkdir(parents=True, exist_ok=True)
    it = study("adding")
    return kind(Run(path), it.config, it)


def test_the_same_seed_and_an_interruption_give_the_same(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    whole.train()
    assert whole.progress.history[-1]["training_nats"] < whole.progress.history[0]["training_nats"], "it has learnt"
    assert_same_training(resumed(lambda kind: make(tmp_path / "resumed", kind), PER_EPOCH), whole)
