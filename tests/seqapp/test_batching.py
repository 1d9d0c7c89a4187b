"""Contiguous windows of parallel streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seqapp.batching import Tokens, Windows, stream_of
from seqapp.errors import UsageError

END = 0


def documents(*lengths: int) -> list[Tokens]:
    """Documents in which every token is another one."""
    numbers = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    return np.split(numbers, np.cumsum(lengths)[:-1])


SEVERAL = documents(*[7, 12, 5, 30, 9, 21, 16] * 3)
ONE = documents(300)


def windows(texts: list[Tokens], **changes: int) -> Windows:
    settings: dict[str, Any] = {"end": END, "batch_size": 4, "timesteps": 6, "seed": 3, **changes}
    return Windows.fit_to(texts, **settings)


def rows(batches: Tokens) -> Tokens:
    """(batches, B, T) -> what each row reads in an epoch (B, batches·T)."""
    return batches.swapaxes(0, 1).reshape(batches.shape[1], -1)


def test_a_stream_is_one_document_after_the_other() -> None:
    stream = stream_of([np.array([1, 2]), np.array([], np.int64), np.array([3])])
    np.testing.assert_array_equal(stream, [1, 2, 3])
    assert stream.dtype == np.int32


@pytest.mark.parametrize("texts", [SEVERAL, ONE], ids=["several", "one"])
@pytest.mark.parametrize("epoch", [0, 1])
class TestBatches:
    def test_shape(self, texts: list[Tokens], epoch: int) -> None:
        cut = windows(texts)
        inputs, targets = cut.batches(epoch)
        assert cut.per_epoch == 300 // 24
        assert inputs.shape == targets.shape == (cut.per_epoch, 4, 6)
        assert inputs.dtype == targets.dtype == np.int32

    def test_targets_are_the_inputs_shifted_by_one(self, texts: list[Tokens], epoch: int) -> None:
        inputs, targets = map(rows, windows(texts).batches(epoch))
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        assert inputs[0, 0] == END
        np.testing.assert_array_equal(inputs[1:, 0], targets[:-1, -1], "each row begins where the one above ends")

    def test_each_row_continues_in_the_next_batch(self, texts: list[Tokens], epoch: int) -> None:
        inputs, targets = windows(texts).batches(epoch)
        np.testing.assert_array_equal(inputs[1:, :, 0], targets[:-1, :, -1])

    def test_nothing_is_read_twice(self, texts: list[Tokens], epoch: int) -> None:
        targets = windows(texts).batches(epoch)[1].reshape(-1)
        assert len(np.unique(targets)) == len(targets) == 288

    def test_resuming_at_a_batch_gives_the_rest(self, texts: list[Tokens], epoch: int) -> None:
        cut = windows(texts)
        for whole, rest in zip(cut.batches(epoch), cut.batches(epoch, start=5), strict=True):
            np.testing.assert_array_equal(rest, whole[5:])

    def test_the_order_follows_from_seed_and_epoch(self, texts: list[Tokens], epoch: int) -> None:
        first = windows(texts).batches(epoch)[1]
        np.testing.assert_array_equal(first, windows(texts).batches(epoch)[1])
        assert (first != windows(texts, seed=4).batches(epoch)[1]).any()
        assert (first != windows(texts).batches(epoch + 1)[1]).any()


def test_documents_stay_whole_and_none_is_missing() -> None:
    cut = windows(SEVERAL, batch_size=1, timesteps=300)
    stream = rows(cut.batches(0)[1])[0]
    starts = {int(document[0]): document for document in SEVERAL}
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
    first, second = (rows(cut.batches(epoch)[1])[0] for epoch in (0, 1))
    for stream in (first, second):
        np.testing.assert_array_equal(np.roll(stream, int(stream[0]) - 1), ONE[0])
    assert first[0] != second[0]


def test_a_small_corpus_fills_fewer_rows() -> None:
    cut = windows(documents(20), batch_size=32)
    assert (cut.batch_size, cut.per_epoch) == (3, 1)
    assert windows(documents(6)).batches(0)[0].shape == (1, 1, 6)


def test_a_large_corpus_fills_the_rows_asked_for() -> None:
    assert windows(ONE, batch_size=32).batch_size == 32


def test_a_corpus_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"has 5 tokens, fewer than one window of --bptt 6: give more text, or a smaller --bptt"
    ):
        windows(documents(2, 3))
