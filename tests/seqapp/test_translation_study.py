"""What a translator learns from: its batches, its subwords drawn anew, and the same training from the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.config import Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.fitting import Trainer
from seqapp.labelled import Example, split
from seqapp.run import Run
from seqapp.task_config import TranslateConfig
from seqapp.translate import Coder
from seqapp.translation_study import TranslationStudy, build_translator
from seqapp.translator import Translator
from tests.conftest import refused, spelled_pairs
from tests.training import assert_same_training, resumed

PAIRS = [Example(word, phones, f"line {i}") for i, (word, phones) in enumerate(spelled_pairs(160), 1)]
CONFIG = Config(
    task="translate",
    data=DataConfig(min_count=1, lower=False),
    model=ModelConfig(cell="plain", layers=1, units=8, embedding=8, dropout=0.2, recurrent_dropout=0.2),
    training=TrainingConfig(epochs=2, batch_size=8, checkpoint_seconds=1e9, learning_rate=0.02),
    translate=TranslateConfig(source_unit="character", target_unit="symbol"),
)
SAMPLED = replace(CONFIG, translate=TranslateConfig(target_unit="symbol", subwords=24, subword_sampling=0.2))


def study(config: Config = CONFIG, some: list[Example] = PAIRS) -> TranslationStudy:
    keras.utils.set_random_seed(config.training.seed)
    parts = split({"all": some}, 0.15, 0.15, 0)
    coder = Coder.learn(parts["train"], config)
    return TranslationStudy(build_translator(config, coder), coder, parts, config)


def test_each_batch_is_of_pairs_with_the_end_before_each_target() -> None:
    made, end, seen = study(), 1, 0
    known = {(tuple(s), tuple(t)) for s, t in made.coded["train"]}
    for (sources, lengths, given), targets, weights in made.batches(0, 0):
        for row, length in enumerate(lengths.numpy()):
            size = int(weights[row].numpy().sum())
            assert (weights[row].numpy()[:size] == 1).all()
            target = targets[row].numpy()[:size]
            assert (tuple(sources[row].numpy()[:length]), tuple(target)) in known
            assert target[-1] == end
            np.testing.assert_array_equal(given[row].numpy()[:size], [end, *target[:-1]])
            seen += 1
    assert seen == made.per_epoch * 8


def test_an_epoch_goes_on_where_it_stopped_and_differs_from_the_next() -> None:
    made = study(SAMPLED)
    whole, rest, other = (list(made.batches(*which)) for which in ((0, 0), (0, 5), (1, 0)))
    assert len(rest) == len(whole) - 5
    for one, same in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(one[0][0], same[0][0])
    assert not np.array_equal(whole[0][0][0], other[0][0][0])


def test_subwords_drawn_anew_are_the_same_texts() -> None:
    made = study(SAMPLED)
    texts, cuts = {pair.sequence for pair in made.pairs["train"]}, set()
    for epoch in range(3):
        for (sources, lengths, _), _, _ in made.batches(epoch, 0):
            for row, length in zip(sources.numpy(), lengths.numpy(), strict=True):
                assert made.coder.source.decode(row[:length]) in texts
                cuts.add(tuple(row[:length]))
    assert len(cuts) > 1.5 * len(texts)
    # What is validated is cut one way.
    assert made.coded["validation"][0][0].tolist() == made.coder.source.encode_whole(str(made.pairs["validation"][0].sequence))


def test_a_text_that_drawing_makes_too_long_is_cut_as_always() -> None:
    made = study(replace(SAMPLED, translate=replace(SAMPLED.translate, longest=10, subword_sampling=1e-6)))
    for epoch in range(3):
        for (_, lengths, _), _, _ in made.batches(epoch, 0):
            assert lengths.numpy().max() <= 10


def make(path: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer as a command begins it, in a process of its own."""
    tf.config.experimental.enable_op_determinism()
    path.mkdir(parents=True, exist_ok=True)
    return kind(Run(path), CONFIG.training, study())


def test_the_same_seed_and_an_interruption_give_the_same(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    before = whole.study.validate()
    whole.train()
    assert whole.progress.history[-1]["validation_nats"] < 0.95 * before, "it has learnt"
    second = resumed(lambda kind: make(tmp_path / "resumed", kind), whole.study.per_epoch)
    assert_same_training(second, whole)


def test_validation_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, traced, encode = study(), [], Translator.encode
    monkeypatch.setattr(Translator, "encode", lambda *given: traced.append(1) or encode(*given))
    before, count = made.validate(), len(traced)
    assert made.validate() == before and count == len(traced) > 0


def test_other_pairs_are_no_continuation(tmp_path: Path) -> None:
    made, run = study(), Run(tmp_path)
    made.save(run)
    made.check_same(run)
    refused(lambda: study(some=PAIRS[:-1]).check_same(run), "is not the one", "restore the data")
    changed = [*PAIRS[:-1], replace(PAIRS[-1], label="x")]
    refused(lambda: study(some=changed).check_same(run), "is not the one")


def test_a_cell_that_cannot_be_built() -> None:
    refused(lambda: study(replace(CONFIG, model=replace(CONFIG.model, cell="plain", activation="no"))), "The cell plain")
