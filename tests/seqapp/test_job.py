"""Models as settings ask for them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from seqapp.attention_cell import AttentionCell
from seqapp.cells import CELLS, GRUCell, LSTMCell
from seqapp.config import ModelConfig
from seqapp.errors import UsageError
from seqapp.job import build_model, make_cells


def test_cells_from_the_lowest_layer_up() -> None:
    config = ModelConfig(cell="lstm", units=6, layers=3, residual=True, normalized=True, zoneout=0.1, attention=True, memory=9)
    *layers, above = make_cells(config)
    assert [type(cell) for cell in layers] == [LSTMCell] * 3
    assert [cell.residual for cell in layers] == [False, True, True]
    assert all((cell.units, cell.normalized, cell.zoneout, cell.memory) == (6, True, 0.1, 9) for cell in layers)
    assert isinstance(above, AttentionCell)
    assert (above.units, above.residual) == (6, True)
    build_model(config, 11)


def test_a_cell_of_ones_own_is_told_what_was_chosen_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(GRUCell):
        def __init__(self, units: int, **options: Any) -> None:
            super().__init__(units, **options)
            self.told = options

    class Simple(GRUCell):
        def __init__(self, units: int) -> None:
            super().__init__(units)

    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(Mine=Mine, Simple=Simple))
    assert [cell.told for cell in make_cells(ModelConfig(cell="mine:Mine"))] == [{}]
    (cell,) = make_cells(ModelConfig(cell="mine:Mine", normalized=True, memory=40))
    assert cell.told == {"normalized": True, "memory": 40}
    with pytest.raises(UsageError, match=r"The cell mine:Simple cannot be built: .* unexpected keyword argument 'zoneout'"):
        build_model(ModelConfig(cell="mine:Simple", zoneout=0.1), 11)


@pytest.mark.parametrize(("cell", "option"), [("lru", "normalized"), ("mingru", "zoneout"), ("gru", "activation")])
def test_an_option_that_a_cell_does_not_have_is_refused(cell: str, option: str) -> None:
    value = {"normalized": True, "zoneout": 0.1, "activation": "relu"}[option]
    with pytest.raises(UsageError, match=f"The cell {cell} cannot be built: .*{option}|--{option} is for --cell plain"):
        build_model(ModelConfig(cell=cell, **{option: value}), 11)
    assert cell in CELLS
