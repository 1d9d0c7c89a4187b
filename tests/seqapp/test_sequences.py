"""Sequences of their own lengths: batches of an epoch, padding, and the file that keeps them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.errors import UsageError
from seqapp.sequences import POOL, Sequences, check_parts, load_part, padded, save_parts


def some(count: int = 500, longest: int = 60, features: int | None = None, each: bool = False) -> Sequences:
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, longest + 1, count)
    if features is None:
        inputs = [rng.integers(0, 9, n).astype(np.int32) for n in lengths]
    else:
        inputs = [rng.normal(size=(n, features)).astype(np.float32) for n in lengths]
    return Sequences(inputs, [rng.integers(0, 3, n if each else ()).astype(np.int32) for n in lengths])


def padding(sequences: Sequences, batches: list[Any]) -> float:
    """The part of the timesteps that is padding."""
    lengths = sequences.lengths
    return 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches)


def test_the_batches_of_an_epoch_are_full_and_hold_no_sequence_twice() -> None:
    assert len(batches := some().batches(32, [1, 0])) == some().per_epoch(32) == 15
    assert {len(batch) for batch in batches} == {32}
    assert len(set(np.concatenate(batches).tolist())) == 480
    left = [set(range(500)) - set(np.concatenate(some().batches(32, [1, epoch])).tolist()) for epoch in (0, 1)]
    assert left[0] != left[1]


@pytest.mark.parametrize("count", [24, 100, 1000])
def test_each_epoch_mixes_anew(count: int) -> None:
    """Few sequences too: those of a batch are not the same ones each time."""
    one, other = (some(count).batches(4, [1, epoch]) for epoch in (0, 1))
    pairs = [{(a, b) for batch in epoch for a in batch for b in batch if a < b} for epoch in (one, other)]
    assert len(pairs[0] & pairs[1]) < 0.5 * len(pairs[0])


def test_batches_larger_than_all() -> None:
    (batch,) = some(5).batches(32, [1, 0])
    assert sorted(batch.tolist()) == [0, 1, 2, 3, 4]


def test_the_order_depends_on_the_seed_alone() -> None:
    np.random.seed(0)
    one = some().batches(4, [1, 0])
    np.random.seed(1)
    for a, b in zip(one, some().batches(4, [1, 0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for seed in ([1, 1], [2, 0]):
        assert not np.array_equal(np.concatenate(one), np.concatenate(some().batches(4, seed)))
        assert {frozenset(b.tolist()) for b in one}.isdisjoint(frozenset(b.tolist()) for b in some().batches(4, seed))


def test_there_is_little_padding() -> None:
    sequences = some(2000)
    assert padding(sequences, sequences.batches(16, [1, 0])) < 0.12
    assert padding(sequences, list(sequences.in_order_of_length(16))) < 0.02
    assert padding(sequences, list(np.split(np.arange(2000), 125))) > 0.4, "as they come"


def test_short_sequences_do_not_come_first() -> None:
    """Batches of like length, in an order of their own."""
    sequences = some(2000)
    means = [sequences.lengths[batch].mean() for batch in sequences.batches(16, [1, 0])]
    assert 0.3 < (np.diff(means) > 0).mean() < 0.7
    assert len(sequences) > 3 * 16 * POOL, "several pools"


def test_an_evaluation_goes_by_length() -> None:
    sequences = some()
    order = np.concatenate(list(sequences.in_order_of_length(32)))
    assert sorted(order.tolist()) == list(range(500))
    assert (np.diff(sequences.lengths[order]) >= 0).all()


def test_padded() -> None:
    x, lengths = padded([np.array([1, 2], np.int32), np.array([3], np.int32), np.array([4, 5, 6], np.int32)])
    np.testing.assert_array_equal(x, [[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    assert lengths.tolist() == [2, 1, 3]
    assert (x.dtype, lengths.dtype) == (np.int32, np.int32)
    x, _ = padded([np.ones((1, 2), np.float32), np.full((2, 2), 3, np.float32)])
    np.testing.assert_array_equal(x, [[[1, 1], [0, 0]], [[3, 3], [3, 3]]])
    assert x.dtype == np.float32


def test_counts() -> None:
    assert (some(7).label_count, len(some(7))) == (7, 7)
    assert some(7, each=True).label_count == some(7).lengths.sum()


def test_the_first_ones() -> None:
    sequences = Sequences([np.zeros(n, np.int32) for n in (3, 4, 5)], [np.int32(i) for i in range(3)])
    assert [len(sequences.first(count)) for count in (1, 3, 4, 7, 8, 100)] == [1, 1, 2, 2, 3, 3]
    assert [int(label) for label in sequences.first(4).labels] == [0, 1]


@pytest.mark.parametrize("features", [None, 1, 3])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("count", [1, 9])
def test_round_trip(features: int | None, each: bool, count: int, tmp_path: Path) -> None:
    sequences = some(count, features=features, each=each)
    sequences.save(tmp_path / "x.npz")
    copy = Sequences.load(tmp_path / "x.npz")
    assert len(copy) == len(sequences)
    for a, b in zip((*copy.inputs, *copy.labels), (*sequences.inputs, *sequences.labels), strict=True):
        assert (np.shape(a), a.dtype) == (np.shape(b), b.dtype)
        np.testing.assert_array_equal(a, b)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no .*x\.npz: restore it, or train again"):
        Sequences.load(tmp_path / "x.npz")


def refused(path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"x\.npz (is damaged|cannot be read as \.npz) \(.*\): restore it, or train again"
    ) as error:
        Sequences.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 1, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    some(9).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    refused(path)
    gc.collect()


def test_a_changed_number(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    some(100).save(path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(bytes(content))
    refused(path)


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": np.array([1, 2])},
        {"labels": np.array([1, 2, 3])},
        {"inputs": np.array([1])},
        {"each_timestep": np.array(True)},
        {"labels": np.array([1, None])},
        {"labels": None},
        {"inputs": None},
    ],
    ids=str,
)
def test_parts_that_do_not_fit(change: dict[str, Any], tmp_path: Path) -> None:
    good = {
        "inputs": np.arange(4),
        "lengths": np.array([1, 3]),
        "labels": np.array([0, 1]),
        "each_timestep": np.array(False),
    }
    np.savez(tmp_path / "x.npz", **good)
    assert len(Sequences.load(tmp_path / "x.npz")) == 2
    np.savez(tmp_path / "x.npz", **{name: value for name, value in {**good, **change}.items() if value is not None})
    refused(tmp_path / "x.npz")


def test_parts_of_a_run(tmp_path: Path) -> None:
    parts = {"train": some(9), "test": Sequences(some(3).inputs, list(np.array([0.25, -1.0, 3.0], np.float32)))}
    save_parts(tmp_path, parts)
    kept = load_part(tmp_path, "test")
    assert [(label.dtype, float(label)) for label in kept.labels] == [(np.float32, 0.25), (np.float32, -1.0), (np.float32, 3.0)]
    for x, same in zip(parts["test"].inputs, kept.inputs, strict=True):
        np.testing.assert_array_equal(x, same)
    check_parts(tmp_path, parts)
    for other in (some(8), Sequences(some(9).inputs, some(9).labels[::-1]), Sequences(some(9).inputs[::-1], some(9).labels)):
        with pytest.raises(UsageError, match=r"The train part is not the one .* was begun with: restore the data"):
            check_parts(tmp_path, {"train": other})
    with pytest.raises(UsageError, match=r"There is no .*validation_examples\.npz"):
        load_part(tmp_path, "validation")
