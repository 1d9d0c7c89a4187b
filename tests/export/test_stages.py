"""The stages of a network by themselves, and above all those that read both ways."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from export.stages import MERGES, Both, Recurrent
from seqapp.cells import GRUCell, LSTMCell
from seqapp.step import Array
from tests.export.conftest import FadingCell, OwnCell, filled

LENGTHS = [7, 4, 1]
X = np.random.default_rng(3).normal(size=(3, 7, 8)).astype(np.float32)


def recurrent(cell: Any, width: int = 8, seed: int = 5) -> Recurrent:
    cell.build((None, width))
    return Recurrent(filled(cell, seed=seed))


def stepped(stages: list[Recurrent], x: Array) -> Array:
    """One sequence (T, F) -> (T, U), by the cells alone, one timestep after the other."""
    for stage in stages:
        states, made = stage.cell.get_initial_state(batch_size=1), []
        for now in x:
            y, states = stage.cell(ops.convert_to_tensor(now[None]), states)
            states = keras.tree.flatten(states)
            made.append(ops.convert_to_numpy(y)[0])
        x = np.stack(made)
    return x


@pytest.fixture(scope="module")
def ahead() -> list[Recurrent]:
    return [recurrent(LSTMCell(5)), recurrent(FadingCell(4), 5)]


@pytest.fixture(scope="module")
def back() -> list[Recurrent]:
    return [recurrent(GRUCell(4), seed=6)]


def merged(a: Array, b: Array) -> dict[str, Array]:
    return {"concat": np.concatenate([a, b], -1), "sum": a + b, "ave": (a + b) / 2, "mul": a * b}


def test_there_are_the_merges_of_keras() -> None:
    assert MERGES.keys() == merged(X, X).keys()


@pytest.mark.parametrize("last_only", [False, True], ids=["each", "last"])
@pytest.mark.parametrize("merge", MERGES)
def test_each_sequence_is_read_both_ways_up_to_its_length(
    merge: str, last_only: bool, ahead: list[Recurrent], back: list[Recurrent]
) -> None:
    both = Both(ahead, back, merge)
    found = ops.convert_to_numpy(both.along(Recurrent.whole, ops.convert_to_tensor(X), np.array(LENGTHS), last_only))
    assert found.shape == ((3, both.width) if last_only else (3, 7, both.width))
    for row, x, length in zip(found, X, LENGTHS, strict=True):
        a, b = stepped(ahead, x[:length]), stepped(back, x[:length][::-1])[::-1]
        wanted = merged(a[-1], b[0]) if last_only else merged(a, b)
        np.testing.assert_allclose(row if last_only else row[:length], wanted[merge], rtol=1e-5, atol=1e-6)


def test_widths(ahead: list[Recurrent], back: list[Recurrent]) -> None:
    assert {merge: Both(ahead, back, merge).width for merge in MERGES} == {"concat": 8, "sum": 4, "ave": 4, "mul": 4}
    assert Both([recurrent(OwnCell(9))], back, "concat").width == 7 + 4
    assert Recurrent(layers.LSTMCell(6)).width == 6


def test_what_reads_ahead_gives_the_last_timestep_of_each_sequence(ahead: list[Recurrent]) -> None:
    found = ahead[0].along(Recurrent.whole, ops.convert_to_tensor(X), np.array(LENGTHS), last_only=True)
    wanted = [stepped(ahead[:1], x[:length])[-1] for x, length in zip(X, LENGTHS, strict=True)]
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("garbage", [1e30, np.nan])
def test_what_stands_behind_a_sequence_changes_nothing(garbage: float, ahead: list[Recurrent], back: list[Recurrent]) -> None:
    behind = np.arange(7) >= np.array(LENGTHS)[:, None]
    one, other = (
        ops.convert_to_numpy(Both(ahead, back, "sum").along(Recurrent.whole, ops.convert_to_tensor(x), np.array(LENGTHS)))
        for x in (X, np.where(behind[..., None], np.float32(garbage), X))
    )
    np.testing.assert_array_equal(one[~behind], other[~behind])


def test_first_states_are_learned_in_every_row(ahead: list[Recurrent]) -> None:
    cell = ahead[1].cell
    (first,) = ahead[1].initial_states(3)
    np.testing.assert_array_equal(first, [cell.first.numpy()] * 3)
    assert cell.first.numpy().any()
