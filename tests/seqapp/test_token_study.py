"""What a model of running text learns from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from seqapp import token_study
from seqapp.cells import GRUCell
from seqapp.config import TrainingConfig, build
from seqapp.errors import UsageError
from seqapp.model import SequenceModel
from seqapp.next_token import NextToken
from seqapp.run import Run
from seqapp.scoring import score
from seqapp.token_study import TokenStudy
from seqapp.vocabulary import Vocabulary

VOCABULARY = Vocabulary.learn(["a b c d e f"], "word", lower=True)
RNG = np.random.default_rng(0)
TRAIN, VALIDATION = (RNG.integers(0, 8, count).astype(np.int32) for count in (300, 90))
CONFIG = TrainingConfig(batch_size=4, bptt=6)


def study_of(validation: np.ndarray = VALIDATION) -> TokenStudy:
    model = SequenceModel(len(VOCABULARY), [GRUCell(6)], 5)
    model.set_weights([RNG.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return TokenStudy(model, VOCABULARY, {"train": TRAIN, "validation": validation}, [len(TRAIN)], CONFIG)


def test_validation_is_the_mean_over_all_tokens() -> None:
    study = study_of()
    streams = np.array_split(VALIDATION, token_study.VALIDATION_STREAMS)
    assert len({len(part) for part in streams}) == 2, "parts of different lengths"
    logs = np.concatenate([score(study.stepper, part, VOCABULARY.end_number)[0] for part in streams])
    assert len(logs) == 90
    assert study.validate() == pytest.approx(-logs.mean(), rel=1e-6)


def test_validation_of_few_tokens() -> None:
    assert math.isfinite(study_of(VALIDATION[:3]).validate())


def test_an_epoch_is_what_the_windows_have() -> None:
    study = study_of()
    batches = list(study.batches(epoch=1, start=2).as_numpy_iterator())
    inputs, targets = study.windows.reader(1)(2, study.per_epoch)
    assert len(batches) == study.per_epoch - 2 == len(inputs)
    for (x, y), wanted, target in zip(batches, inputs, targets, strict=True):
        np.testing.assert_array_equal(x, wanted)
        np.testing.assert_array_equal(y, target)
    assert study.targets(3) == 3 * 4 * 6


def test_other_data_are_no_resumption(tmp_path: Path) -> None:
    study, run = study_of(), Run(tmp_path)
    study.save(run)
    assert np.load(tmp_path / "train_tokens.npy").dtype == np.int32
    study.check_same(run)
    study.streams["validation"] = VALIDATION[:-1]
    with pytest.raises(UsageError, match=r"The validation split is not the one .* was begun with"):
        study.check_same(run)


def test_a_split_without_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_text("one two three\n" * 40 + "\x01\x01\n" * 40, "utf-8")
    with pytest.raises(UsageError, match="split holds no token"):
        NextToken("word").study(build({"data": str(tmp_path / "talk.txt"), "units": 4, "min_count": 1}))
