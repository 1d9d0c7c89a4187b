"""What a model of music learns from: stretches, keys, the loss, and the same training from the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.chain import build_chain
from seqapp.config import Config, ModelConfig, TrainingConfig
from seqapp.fitting import Trainer
from seqapp.pieces import KEYS
from seqapp.roll_report import log_likelihood
from seqapp.roll_study import FrameLoss, RollStudy
from seqapp.run import Run
from seqapp.task_config import NextNoteConfig
from tests.conftest import refused, tune
from tests.training import assert_same_training, resumed

CONFIG = Config(
    task="next-note",
    model=ModelConfig(units=12, dropout=0.2, recurrent_dropout=0.2),
    training=TrainingConfig(epochs=2, batch_size=3, bptt=16, checkpoint_seconds=1e9, learning_rate=0.02),
    next_note=NextNoteConfig(transpose=0),
)
ROLLS = {"train": [tune(i, 12 + 3 * i) for i in range(16)], "validation": [tune(30, 20)], "test": [tune(31, 25), tune(32, 9)]}


def study(config: Config = CONFIG, rolls: dict[str, Any] = ROLLS) -> RollStudy:
    keras.utils.set_random_seed(config.training.seed)
    return RollStudy(build_chain(config.model, KEYS, KEYS, "key_logits"), rolls, config)


def test_each_frame_is_learnt_once_from_what_came_before() -> None:
    """With one stretch in a batch, none is left over."""
    made = study(replace(CONFIG, training=replace(CONFIG.training, batch_size=1)))
    learnt = 0
    pairs = {(roll[t - 1].tobytes(), roll[t].tobytes()) for roll in ROLLS["train"] for t in range(1, len(roll))}
    for x, y, known in made.batches(0, 0):
        for before, now, counted in zip(x.numpy()[0], y.numpy()[0].astype(np.uint8), known.numpy()[0], strict=True):
            learnt += int(counted)
            if counted and before.any():
                assert (before.astype(np.uint8).tobytes(), now.tobytes()) in pairs
    assert learnt == sum(map(len, ROLLS["train"]))


def test_padding_counts_nothing() -> None:
    """What counts is the frames of a stretch and none behind them; the first of them where it begins a piece."""
    padded = 0
    for x, y, known in study().batches(0, 0):
        assert x.shape == y.shape == (*known.shape, KEYS)
        for roll, counted in zip(y.numpy(), known.numpy(), strict=True):
            length = int(np.flatnonzero(roll.any(1))[-1]) + 1  # all frames of these tunes sound
            np.testing.assert_array_equal(counted[1:], np.arange(1, len(counted)) < length)
            padded += len(counted) - length
    assert padded > 0


def test_each_epoch_is_in_other_keys_but_begins_where_it_stopped() -> None:
    made = study(replace(CONFIG, next_note=NextNoteConfig(transpose=5)))
    whole, rest, other = (list(made.batches(*which)) for which in ((0, 0), (0, 2), (1, 0)))
    for one, same in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(one[1], same[1])

    def lowest(batches: Any) -> set[int]:
        return {int(np.flatnonzero(y.numpy().any((0, 1)))[0]) for _, y, _ in batches}

    assert lowest(whole) != lowest(other)
    # Eleven keys at most, and none of them further away.
    low = min(np.flatnonzero(roll.any(0))[0] for roll in ROLLS["train"])
    assert all(low - 5 <= key <= low + 10 for key in lowest(whole))


def test_the_loss_is_the_likelihood_of_frames() -> None:
    rng = np.random.default_rng(0)
    y, logits = (rng.random((2, 5, KEYS)) < 0.2).astype(np.float32), rng.normal(size=(2, 5, KEYS)).astype(np.float32)
    weights = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], np.float32)
    wanted = -sum(log_likelihood(logits[i], y[i])[weights[i] == 1].sum() for i in range(2)) / 4
    loss = keras.losses.deserialize(keras.losses.serialize(FrameLoss()))
    assert float(loss(y, logits, sample_weight=weights)) == pytest.approx(wanted, rel=1e-5)


def make(path: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer as a command begins it, in a process of its own."""
    tf.config.experimental.enable_op_determinism()
    path.mkdir(parents=True, exist_ok=True)
    return kind(Run(path), CONFIG.training, study(replace(CONFIG, next_note=NextNoteConfig(transpose=3))))


def test_the_same_seed_and_an_interruption_give_the_same(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    new = whole.study.validate()
    whole.train()
    assert whole.progress.history[-1]["validation_nats"] < new - 5, "it has learnt"
    second = resumed(lambda kind: make(tmp_path / "resumed", kind), whole.study.per_epoch)
    assert_same_training(second, whole)


def test_other_music_is_no_continuation(tmp_path: Path) -> None:
    made, run = study(), Run(tmp_path)
    made.save(run)
    made.check_same(run)
    refused(lambda: study(rolls={**ROLLS, "test": ROLLS["test"][:1]}).check_same(run), "test part is not the one", "restore")
    refused(lambda: study(rolls={**ROLLS, "train": ROLLS["train"][::-1]}).check_same(run), "train part is not the one")
