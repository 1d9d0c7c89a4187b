"""What a model of melodies learns from: stretches of notes, the loss, and the same training from the same seed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.chain import build_chain
from seqapp.config import Config, ModelConfig, TrainingConfig
from seqapp.fitting import Trainer
from seqapp.melody import END, PITCHES, Durations, Melody
from seqapp.melody_report import log_likelihoods
from seqapp.melody_study import MelodyStudy, NoteLoss
from seqapp.run import Run
from seqapp.task_config import NextNoteConfig
from tests.conftest import refused, verse
from tests.training import assert_same_training, resumed

CONFIG = Config(
    task="next-note",
    model=ModelConfig(units=12, dropout=0.2, recurrent_dropout=0.2),
    training=TrainingConfig(epochs=2, batch_size=3, bptt=16, checkpoint_seconds=1e9, learning_rate=0.02),
    next_note=NextNoteConfig(music="melody", transpose=0),
)
MELODIES = {
    name: [Melody("a", verse(seed, 12 + 3 * seed)) for seed in seeds]
    for name, seeds in (("train", range(16)), ("validation", (30, 31)))
}
KNOWN = Durations.learn(MELODIES["train"])
CODES = {name: [KNOWN.coded(one) for one in some] for name, some in MELODIES.items()}


def study(config: Config = CONFIG) -> MelodyStudy:
    keras.utils.set_random_seed(config.training.seed)
    return MelodyStudy(build_chain(config.model, KNOWN.width, KNOWN.width, "note_logits"), CODES, config, KNOWN)


def test_each_note_is_learnt_once_from_the_one_before() -> None:
    """With one stretch in a batch, none is left over."""
    learnt = 0
    pairs = {(tuple(a), tuple(b)) for codes in CODES["train"] for a, b in pairwise(codes)}
    for x, y, known in study(replace(CONFIG, training=replace(CONFIG.training, batch_size=1))).batches(0, 0):
        for before, now, counted in zip(x.numpy()[0], y.numpy()[0].astype(int), known.numpy()[0], strict=True):
            learnt += int(counted)
            if counted and before.any():
                pitch, duration = np.flatnonzero(before)
                assert ((pitch, duration - PITCHES), tuple(now)) in pairs
    assert learnt == sum(map(len, CODES["train"]))


def test_each_epoch_is_in_other_keys_and_ends_stay_ends() -> None:
    made = study(replace(CONFIG, next_note=NextNoteConfig(music="melody", transpose=5)))
    codes = [np.concatenate([y.numpy()[known.numpy() > 0] for _, y, known in made.batches(epoch, 0)]) for epoch in (0, 1)]
    assert sorted(map(tuple, codes[0])) != sorted(map(tuple, codes[1]))
    for some in codes:
        assert 34 <= some[:, 0].min() <= 44
        np.testing.assert_array_equal(some[:, 0] == END, some[:, 1] == -1)


def test_the_loss_is_the_likelihood_of_notes() -> None:
    rng = np.random.default_rng(0)
    y = np.stack([rng.integers(0, PITCHES, (2, 5)), rng.integers(-1, len(KNOWN), (2, 5))], -1)
    logits = rng.normal(size=(2, 5, KNOWN.width)).astype(np.float32)
    weights = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], np.float32)
    wanted = -sum(log_likelihoods(logits[i], y[i])[weights[i] == 1].sum() for i in range(2)) / 4
    loss = keras.losses.deserialize(keras.losses.serialize(NoteLoss()))
    assert float(loss(y.astype(np.float32), logits, sample_weight=weights)) == pytest.approx(wanted, rel=1e-5)


def test_a_melody_alone_is_as_among_others() -> None:
    made = study()
    for codes, together in zip(CODES["train"], made.foretold(CODES["train"]), strict=True):
        alone = np.asarray(made.model(KNOWN.told(codes)[None]))[0]
        np.testing.assert_allclose(together, alone, atol=1e-5, equal_nan=False)


def test_other_melodies_are_refused(tmp_path: Path) -> None:
    made = study()
    made.save(Run(tmp_path))
    made.check_same(Run(tmp_path))
    made.parts["train"][0] = made.parts["train"][1]
    refused(lambda: made.check_same(Run(tmp_path)), "The train part is not the one", "restore the data")


def make(path: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer as a command begins it, in a process of its own."""
    tf.config.experimental.enable_op_determinism()
    path.mkdir(parents=True, exist_ok=True)
    config = replace(CONFIG, next_note=NextNoteConfig(music="melody", transpose=3))
    return kind(Run(path), config.training, study(config))


def test_the_same_seed_and_an_interruption_give_the_same(tmp_path: Path) -> None:
    whole: Any = make(tmp_path / "whole")
    new = whole.study.validate()
    whole.train()
    assert whole.progress.history[-1]["validation_nats"] < new - 1, "it has learnt"
    second = resumed(lambda kind: make(tmp_path / "resumed", kind), whole.study.per_epoch)
    assert_same_training(second, whole)
