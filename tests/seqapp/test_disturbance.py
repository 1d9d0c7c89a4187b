"""What is added to the states of a cell while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seqapp.cells import CELLS
from seqapp.disturbance import Disturbance
from seqapp.recurrence import Recurrence

B, T, F, U = 3, 6, 2, 4
AT = 4


def arrays(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def run(layer: Recurrence, x: Any, added: Any, states: Any = None) -> tuple[list[Any], Disturbance]:
    layer.disturbance = Disturbance(added)
    return [np.asarray(part) for part in layer(x, initial_state=states)], layer.disturbance


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_added_changes_nothing(cell: str) -> None:
    layer, x = Recurrence(CELLS[cell](U)), arrays(B, T, F)
    y, *states = (np.asarray(part) for part in layer(x))
    # There may be room for longer sequences, of other layers.
    found, disturbance = run(layer, x, np.zeros((B, T + 2, len(states) * U), np.float32))
    for one, other in zip(found, (y, *states), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_array_equal(disturbance.inputs, x)
    np.testing.assert_allclose(disturbance.outputs, y, atol=1e-6)
    np.testing.assert_allclose(disturbance.states[:, -1], np.concatenate(states, axis=-1), atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_added_to_the_states_before_a_timestep(cell: str) -> None:
    layer, x = Recurrence(CELLS[cell](U)), arrays(B, T, F)
    _, *before = layer(x[:, :AT])
    added = np.zeros((B, T, len(before) * U), np.float32)
    added[:, AT] = arrays(B, len(before) * U)
    parts = np.split(added[:, AT], len(before), axis=-1)
    y, *states = layer(x[:, AT:], initial_state=[state + part for state, part in zip(before, parts, strict=True)])
    found, disturbance = run(layer, x, added)
    for one, other in zip((found[0][:, AT:], *found[1:]), (y, *states), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(disturbance.states[:, AT - 1], np.concatenate(before, axis=-1), atol=1e-6)
