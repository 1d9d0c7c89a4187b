"""Contiguous windows of parallel streams."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from seqapp.batching import Tokens, Windows
from seqapp.errors import UsageError

END = 0


def documents(*lengths: int) -> list[Tokens]:
    """Documents in which every token is another one."""
    numbers = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    return np.split(numbers, np.cumsum(lengths)[:-1])


SEVERAL = documents(*[7, 12, 0, 5, 30, 9, 21, 16] * 3)
ONE = documents(300)


def windows(texts: list[Tokens], **changes: int) -> Windows:
    settings: dict[str, Any] = {"end": END, "batch_size": 4, "timesteps": 6, "seed": 3, **changes}
    return Windows.fit_to(np.concatenate(texts), [len(text) for text in texts], **settings)


def batches(cut: Windows, epoch: int) -> tuple[Tokens, Tokens]:
    """Inputs and targets (batches, B, T) of a whole epoch."""
    return cut.reader(epoch)(0, cut.per_epoch)


def in_memory(texts: list[Tokens], cut: Windows, epoch: int) -> tuple[Tokens, Tokens]:
    """The same of a stream that is there as a whole."""
    rng = np.random.default_rng([cut.seed, epoch])
    if len(texts) == 1:
        stream = np.roll(texts[0], -int(rng.integers(len(texts[0]))))
    else:
        stream = np.concatenate([texts[i] for i in rng.permutation(len(texts))])
    shape = (cut.batch_size, cut.per_epoch, cut.timesteps)
    inputs, targets = (
        part[: math.prod(shape)].reshape(shape).swapaxes(0, 1) for part in (np.r_[np.int32(END), stream[:-1]], stream)
    )
    return inputs, targets


def rows(batches: Tokens) -> Tokens:
    """(batches, B, T) -> what each row reads in an epoch (B, batches·T)."""
    return batches.swapaxes(0, 1).reshape(batches.shape[1], -1)


@pytest.mark.parametrize("texts", [SEVERAL, ONE], ids=["several", "one"])
@pytest.mark.parametrize("epoch", [0, 1])
class TestBatches:
    def test_shape(self, texts: list[Tokens], epoch: int) -> None:
        cut = windows(texts)
        inputs, targets = batches(cut, epoch)
        assert cut.per_epoch == 300 // 24
        assert inputs.shape == targets.shape == (cut.per_epoch, 4, 6)
        assert inputs.dtype == targets.dtype == np.int32

    def test_equal_those_of_the_whole_stream(self, texts: list[Tokens], epoch: int) -> None:
        for changes in ({}, {"batch_size": 1, "timesteps": 7}, {"batch_size": 100, "timesteps": 1}, {"seed": 8}):
            cut = windows(texts, **changes)
            for some, wanted in zip(batches(cut, epoch), in_memory(texts, cut, epoch), strict=True):
                np.testing.assert_array_equal(some, wanted)

    def test_targets_are_the_inputs_shifted_by_one(self, texts: list[Tokens], epoch: int) -> None:
        inputs, targets = map(rows, batches(windows(texts), epoch))
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        assert inputs[0, 0] == END
        np.testing.assert_array_equal(inputs[1:, 0], targets[:-1, -1], "each row begins where the one above ends")

    def test_each_row_continues_in_the_next_batch(self, texts: list[Tokens], epoch: int) -> None:
        inputs, targets = batches(windows(texts), epoch)
        np.testing.assert_array_equal(inputs[1:, :, 0], targets[:-1, :, -1])

    def test_nothing_is_read_twice(self, texts: list[Tokens], epoch: int) -> None:
        targets = batches(windows(texts), epoch)[1].reshape(-1)
        assert len(np.unique(targets)) == len(targets) == 288

    def test_some_batches_are_those_of_the_epoch(self, texts: list[Tokens], epoch: int) -> None:
        cut = windows(texts)
        for first, end in ((0, 1), (3, 7), (11, 12), (5, 5)):
            for whole, some in zip(batches(cut, epoch), cut.reader(epoch)(first, end), strict=True):
                np.testing.assert_array_equal(some, whole[first:end])

    def test_the_order_follows_from_seed_and_epoch(self, texts: list[Tokens], epoch: int) -> None:
        first = batches(windows(texts), epoch)[1]
        np.testing.assert_array_equal(first, batches(windows(texts), epoch)[1])
        assert (first != batches(windows(texts, seed=4), epoch)[1]).any()
        assert (first != batches(windows(texts), epoch + 1)[1]).any()


def test_documents_stay_whole_and_none_is_missing() -> None:
    cut = windows(SEVERAL, batch_size=1, timesteps=300)
    stream = rows(batches(cut, 0)[1])[0]
    starts = {int(document[0]): document for document in SEVERAL if len(document)}
    read, seen = 0, []
    while read < len(stream):
        document = starts[int(stream[read])]
        np.testing.assert_array_equal(stream[read : read + len(document)], document)
        seen.append(int(document[0]))
        read += len(document)
    assert sorted(seen) == sorted(starts)
    assert seen != sorted(seen), "the order is a new one"


def test_a_single_document_starts_at_a_new_place() -> None:
    cut = windows(ONE, batch_size=1, timesteps=300)
    first, second = (rows(batches(cut, epoch)[1])[0] for epoch in (0, 1))
    for stream in (first, second):
        np.testing.assert_array_equal(np.roll(stream, int(stream[0]) - 1), ONE[0])
    assert first[0] != second[0]


def test_a_small_corpus_fills_fewer_rows() -> None:
    cut = windows(documents(20), batch_size=32)
    assert (cut.batch_size, cut.per_epoch) == (3, 1)
    assert batches(windows(documents(6)), 0)[0].shape == (1, 1, 6)


def test_a_large_corpus_fills_the_rows_asked_for() -> None:
    assert windows(ONE, batch_size=32).batch_size == 32


def test_a_corpus_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"has 5 tokens, fewer than one window of --bptt 6: give more text, or a smaller --bptt"
    ):
        windows(documents(2, 3))
