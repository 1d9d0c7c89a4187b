"""Tasks whose sequences are drawn: what they ask of the settings, and of data that are given all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import seqapp.evaluate
from seqapp.config import build
from seqapp.drawn import held_out_counts
from seqapp.run import Run
from seqapp.tasks import TASKS
from tests.conftest import one_line, refused

DRAWN = ("adding", "copy-memory")


@pytest.mark.parametrize("task", DRAWN)
def test_data_are_refused(task: str) -> None:
    TASKS[task].check_data(build({"task": task}))
    given = build({"task": task, "data": "my.npz"})
    refused(lambda: TASKS[task].check_data(given), f"The task {task} draws its sequences", "leave --data out", "my.npz")


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ({}, {"validation": 500, "test": 1000}),
        ({"examples": 30, "validation_fraction": 0.2}, {"validation": 6, "test": 3}),
        ({"test_fraction": 0.0}, {"validation": 500}),
    ],
)
def test_parts_are_fractions_of_an_epoch(flags: dict[str, Any], counts: dict[str, int]) -> None:
    config = build({"task": "adding", "length": 3, **flags})
    assert held_out_counts(config) == counts
    assert {name: len(part) for name, part in TASKS["adding"].held_out(config).items()} == counts  # type: ignore[attr-defined]


def test_a_part_that_would_be_empty() -> None:
    config = build({"task": "adding", "examples": 6})
    refused(lambda: TASKS["adding"].check_data(config), "validation part would be empty", "--examples", "0.05 of 6")
    config = build({"task": "adding", "examples": 10, "validation_fraction": 0.3, "test_fraction": 0.01})
    refused(lambda: TASKS["adding"].check_data(config), "test part would be empty", "--test-fraction", "0.01 of 10")


@pytest.mark.parametrize("name", ["added", "remembered"])
def test_evaluation_has_what_training_measured(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Callable[..., Run] = request.getfixturevalue(name)
    run = made()
    capsys.readouterr()
    assert seqapp.evaluate.main([str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {part: run.metrics[part] for part in ("validation", "test", "baselines")}
    assert seqapp.evaluate.main([str(run.path), "--data", "other.npz"]) == 2
    one_line(capsys, f"The task {run.config.task} draws its sequences at random: leave --data out", "other.npz")
