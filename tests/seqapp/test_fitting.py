"""Training: the same twice, the same after an interruption, and ended where it should be."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tqdm import tqdm

from seqapp.cells import LSTMCell
from seqapp.config import TrainingConfig
from seqapp.fitting import Trainer, batches_at_once
from seqapp.model import SequenceModel
from seqapp.run import Run
from seqapp.step import KerasStepper
from seqapp.tasks import TASKS
from seqapp.token_study import TokenStudy
from seqapp.vocabulary import Vocabulary
from tests.training import assert_same_training, resumed

V, END = 8, 1
VOCABULARY = Vocabulary.learn(["a b c d e f"], "word", lower=True)
CONFIG = TrainingConfig(epochs=2, batch_size=4, bptt=6, learning_rate=0.02, state_reset=0.0, checkpoint_seconds=1e9, seed=3)


def stream(count: int, seed: int) -> Any:
    """Counts upwards, most of the time."""
    jumps = np.random.default_rng(seed).choice([1, 1, 1, 4], count)
    return (np.cumsum(jumps) % V).astype(np.int32)


TRAIN, VALIDATION = np.array_split(stream(300, 0), 5), stream(90, 1)
PER_EPOCH = 300 // 24


def make(path: Path, kind: type[Trainer] = Trainer, dropout: float = 0.0, eager: bool = True, **changes: Any) -> Trainer:
    """A trainer as a command begins it, in a process of its own. Eagerly, so few train steps need no compilation."""
    config = replace(CONFIG, **changes)
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    model = SequenceModel(V, [LSTMCell(6)], 5, dropout=dropout, recurrent_dropout=dropout)
    rng = np.random.default_rng(config.seed)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    study = TokenStudy(model, VOCABULARY, {"train": np.concatenate(TRAIN), "validation": VALIDATION}, [60] * 5, config)
    path.mkdir(parents=True, exist_ok=True)
    trainer = kind(Run(path), config, study)
    trainer.learner.run_eagerly = eager
    return trainer


def weights(trainer: Trainer) -> list[Any]:
    return [np.array(weight) for weight in trainer.learner.get_weights()]


class Poisoned(Trainer):
    """Loses its weights in the given epoch, before the fifth batch."""

    poisoned_epoch = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_begin(batch, logs)
        if self.progress.epoch == self.poisoned_epoch and self.progress.batch == 4:
            self.study.model.embedding.embeddings.assign(self.study.model.embedding.embeddings * math.nan)


class PoisonedLater(Poisoned):
    poisoned_epoch = 1


def loaded(trainer: Trainer) -> SequenceModel:
    return keras.saving.load_model(trainer.run.model_file, compile=False)


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3, "state_reset": 0.2}], ids=["plain", "random"])
class TestReproducible:
    @pytest.fixture
    def whole(self, tmp_path: Path, changes: dict[str, float]) -> Trainer:
        trainer = make(tmp_path / "whole", eager=False, **changes)
        trainer.train()
        return trainer

    def test_the_same_seed_twice(self, whole: Trainer, tmp_path: Path, changes: dict[str, float]) -> None:
        again = make(tmp_path / "again", eager=False, **changes)
        again.train()
        assert_same_training(again, whole)
        assert whole.progress.history[-1]["training_nats"] < whole.progress.history[0]["training_nats"] - 0.05, "it has learnt"

    def test_resuming_in_the_middle_of_an_epoch(self, whole: Trainer, tmp_path: Path, changes: dict[str, float]) -> None:
        second = resumed(lambda kind: make(tmp_path / "resumed", kind, eager=False, **changes), PER_EPOCH)
        assert_same_training(second, whole)
        for a, b in zip(loaded(second).get_weights(), loaded(whole).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class TestManyAtOnce:
    """Twelve batches in an epoch, five in a call of the engine: the last call has two."""

    @pytest.fixture(autouse=True)
    def five(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("seqapp.fitting.SAMPLES", 2)
        monkeypatch.setattr("seqapp.fitting.AT_ONCE", 5)

    def test_each_batch_counts_once(self, tmp_path: Path) -> None:
        trainer = make(tmp_path / "run", eager=False, checkpoint_seconds=0.0)
        assert trainer.at_once == 5
        trainer.train()
        assert [row["windows"] for row in trainer.progress.history] == [PER_EPOCH, PER_EPOCH]
        assert trainer.progress.step == 2 * PER_EPOCH
        assert [point["step"] for point in trainer.progress.curve] == [10, 22]
        one = make(tmp_path / "one", eager=False)
        one.learner.compile(one.learner.optimizer, one.study.loss)
        one.train()
        for row, alone in zip(trainer.progress.history, one.progress.history, strict=True):
            # The rates of a schedule that is as short as this differ within five batches.
            np.testing.assert_allclose(row["training_nats"], alone["training_nats"], rtol=0.05)

    def test_resuming_in_the_middle_of_an_epoch(self, tmp_path: Path) -> None:
        whole = make(tmp_path / "whole", eager=False)
        whole.train()
        assert_same_training(resumed(lambda kind: make(tmp_path / "resumed", kind, eager=False), PER_EPOCH), whole)


@pytest.mark.parametrize(
    ("per_epoch", "units", "targets", "expected"), [(1000, 6, 64, 10), (320, 6, 64, 6), (40, 6, 64, 1), (1000, 600, 6400, 1)]
)
def test_batches_at_once(per_epoch: int, units: int, targets: int, expected: int) -> None:
    """As many as leave fifty points of a learning curve, and the engine not busy for long."""
    learner = SimpleNamespace(count_params=lambda: 12 * units**2)
    study: Any = SimpleNamespace(learner=learner, per_epoch=per_epoch, targets=lambda batches: batches * targets)
    assert batches_at_once(study) == expected


def test_another_seed_is_another_training(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one", epochs=1), make(tmp_path / "other", epochs=1, seed=4)
    one.train()
    other.train()
    assert one.progress.history[0]["training_nats"] != other.progress.history[0]["training_nats"]


def test_a_checkpoint_within_an_epoch_is_due_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, int]] = []
    save = Trainer.save

    def spy(self: Trainer) -> None:
        saved.append((self.progress.epoch, self.progress.batch))
        save(self)

    monkeypatch.setattr(Trainer, "save", spy)
    make(tmp_path / "often", eager=False, epochs=1, checkpoint_seconds=0.0).train()
    assert saved == [(0, batch) for batch in range(PER_EPOCH + 1)] + [(1, 0)]
    saved.clear()
    make(tmp_path / "rarely", eager=False, epochs=1).train()
    assert saved == [(0, 0), (1, 0)]


def test_the_speed_is_shown_from_the_first_batch_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seqapp.fitting.tqdm", lambda **given: tqdm(**{**given, "mininterval": 0}))
    make(tmp_path, epochs=1).train()
    speeds = [int(speed.replace(",", "")) for speed in re.findall(r"([\d,]+) tokens/s", capsys.readouterr().err)]
    assert len(speeds) > PER_EPOCH / 2
    assert min(speeds) > 0


def test_a_left_over_partial_checkpoint_does_no_harm(tmp_path: Path) -> None:
    """As a process leaves it that was killed while it saved."""
    trainer = make(tmp_path / "run", epochs=1)
    left = tmp_path / "run" / "checkpoint" / ".partial-000001"
    left.mkdir(parents=True)
    (left / "variables.npz").write_bytes(b"half of it")
    trainer.train()
    assert list(trainer.run.path.rglob(".partial*")) == []


def planned(monkeypatch: pytest.MonkeyPatch, nats: list[float]) -> list[list[Any]]:
    """Lets the epochs have this validation; returns what will hold the weights after each."""
    after: list[list[Any]] = []

    def validate(self: TokenStudy) -> float:
        after.append([np.array(weight) for weight in self.model.get_weights()])
        return nats[len(after) - 1]

    monkeypatch.setattr(TokenStudy, "validate", validate)
    return after


def test_the_weights_of_the_best_epoch_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = planned(monkeypatch, [2.0, 1.0, 1.5])
    trainer = make(tmp_path / "run", eager=False, epochs=3)
    trainer.train()
    assert (trainer.progress.best, trainer.progress.best_epoch) == (1.0, 2)
    for weight, wanted in zip(loaded(trainer).get_weights(), after[1], strict=True):
        np.testing.assert_array_equal(weight, wanted)
    assert np.abs(after[1][0] - after[2][0]).max() > 1e-4


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(monkeypatch, [3.0, 2.0, 2.5, 1.9, 1.9, 2.0, 1.0])
    trainer = make(tmp_path / "run", eager=False, epochs=7, patience=2)
    trainer.train()
    assert [row["epoch"] for row in trainer.progress.history] == [1, 2, 3, 4, 5, 6]
    assert (trainer.progress.best, trainer.progress.best_epoch) == (1.9, 4)


def test_a_run_leaves_records(trained: Callable[..., Run]) -> None:
    run = trained()
    with (run.path / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row[name]) > 0 for row in rows for name in ("training_nats", "validation_nats", "tokens_per_second"))
    assert list((run.path / "logs").glob("events.out.tfevents.*"))
    assert (run.path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (run.path / "checkpoint").exists()
    assert not list(run.path.glob(".partial*"))


def test_the_kept_model_has_the_best_validation(trained: Callable[..., Run]) -> None:
    run = trained()
    with (run.path / "history.csv").open(encoding="utf-8") as file:
        best = min(float(row["validation_nats"]) for row in csv.DictReader(file))
    study = TASKS["next-word"].study(run.config)
    study.stepper = KerasStepper(run.load_model())
    assert study.validate() == pytest.approx(best, rel=1e-5)
