"""The task `adding`: what is drawn, what is to be added, and how far off a model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.adding import MARK, VALUE, Adding, AddingReport, baselines, read, values
from seqapp.config import build
from seqapp.drawn import HELD_OUT
from seqapp.predict import main as predict
from seqapp.run import Run
from seqapp.sequences import Sequences
from tests.conftest import refused

X = np.array([[[0.25, 1], [0.5, 0], [0.75, 1]], [[0.5, 1], [0.0, 1], [1.0, 0]]], np.float32)
SUMS = np.array([1.0, 0.5], np.float32)


@pytest.mark.parametrize("length", [2, 3, 50, 201])
def test_one_value_is_marked_in_each_half(length: int) -> None:
    x, y = Adding().draw(np.random.default_rng(0), 400, length)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((400, length, 2), np.float32, (400,), np.float32)
    assert ((x[..., VALUE] >= 0) & (x[..., VALUE] < 1)).all()
    assert set(np.unique(x[..., MARK])) <= {0.0, 1.0}
    for half in (x[:, : length // 2], x[:, length // 2 :]):
        np.testing.assert_array_equal(half[..., MARK].sum(1), 1)
        assert (half[..., MARK].sum(0) > 0).all() or length > 50, "each place is marked now and then"
    np.testing.assert_allclose(y, (x[..., VALUE] * x[..., MARK]).sum(1), rtol=1e-6)


def test_the_values_are_uniform() -> None:
    """So that the baselines reach what is known of them, 1/6 and 1/12."""
    x, y = Adding().draw(np.random.default_rng(0), 40_000, 4)
    np.testing.assert_allclose([x[..., VALUE].mean(), x[..., VALUE].var()], [1 / 2, 1 / 12], atol=2e-3)
    found = baselines(Sequences(list(x), list(y)))
    assert found["always_1"]["mean_squared_error"]["value"] == pytest.approx(1 / 6, abs=5e-3)
    assert found["last_marked"]["mean_squared_error"]["value"] == pytest.approx(1 / 12, abs=3e-3)


def test_what_is_held_out_is_the_same_for_all_seeds_and_in_no_epoch() -> None:
    parts = [Adding().held_out(build({"task": "adding", "length": 6, "examples": 60, "seed": seed})) for seed in (1, 2)]
    assert {name: len(part) for name, part in parts[0].items()} == {"validation": 3, "test": 6}
    for name in HELD_OUT:
        np.testing.assert_array_equal(parts[0][name].inputs, parts[1][name].inputs)
    assert not np.array_equal(parts[0]["validation"].inputs[0], parts[0]["test"].inputs[0])
    for seed, epoch, batch in ((0, 0, 0), (0, 0, 1), (0, 0, 2)):
        x, _ = Adding().draw(np.random.default_rng((seed, epoch, batch)), 3, 6)
        assert all(not np.array_equal(x[0], part.inputs[0]) for part in parts[0].values())


def test_the_model_reads_what_is_drawn_as_it_is() -> None:
    config = build({"task": "adding", "units": 3, "length": 40})
    model, _ = Adding().learner(config.model, 40)
    x, _ = Adding().draw(np.random.default_rng(0), 20, 40)
    np.testing.assert_allclose(np.asarray(model.first(x)), x, atol=1e-6)
    assert (model.classes, model.each_timestep) == (1, False)


def of_sums(error: float) -> Any:
    """In place of a model: the sum of the marked values, and more."""
    return lambda x, lengths: (x[..., VALUE] * x[..., MARK]).sum(1)[:, None] + error


def test_values_of_many_sequences() -> None:
    x, y = Adding().draw(np.random.default_rng(0), 150, 5)
    found = values(of_sums(0.0), list(x))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, y, rtol=1e-6)


def test_the_report_by_hand() -> None:
    parts = {name: Sequences(list(X), list(SUMS)) for name in ("validation", "test")}
    found = AddingReport.of(of_sums(0.1), parts, "test")
    assert found.mine == {"mean_squared_error": {"value": pytest.approx(0.01), "unit": "squares of the sum", "count": 2}}
    # Errors of 0 and 0.5; what was marked last is 0.75 and 0, so 1.25 and 0.5 are said.
    assert found.levels == {"always_1": pytest.approx(0.125), "last_marked": pytest.approx(0.03125)}
    assert set(found.as_json()) == {"validation", "test", "baselines"}
    assert [line.split() for line in found.table("gru").splitlines()] == [
        ["test,", "2", "sequences"],
        ["mean", "squared", "error"],
        ["gru", "0.010000"],
        ["always-1", "0.125000"],
        ["last-marked", "0.031250"],
        ["68.0%", "below", "last-marked"],
    ]
    assert AddingReport.of(of_sums(0.25), parts, "test").table("gru").endswith("\n100.0% above last-marked")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({}, ["must hold finite numbers x (N, T, 2)", "Received: none"]),
        ({"x": X[..., :1]}, ["x (N, T, 2)", "Received: float32 (2, 3, 1)"]),
        ({"x": X[:0]}, ["x (N, T, 2)", "Received: float32 (0, 3, 2)"]),
        ({"x": np.full_like(X, np.inf)}, ["finite numbers"]),
        ({"x": X.astype(str)}, ["finite numbers"]),
        ({"x": X, "y": SUMS[:1]}, ["sums y (2,), or none", "Received: float32 (1,)"]),
        ({"x": X, "y": np.array(["1", "2"])}, ["sums y (2,), or none", "Received: <U1 (2,)"]),
    ],
)
def test_files_that_are_refused(arrays: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    refused(lambda: read(tmp_path / "data.npz"), "data.npz", *parts)
    refused(lambda: read(tmp_path / "data.csv"), "come from a .npz file", "Received: ", "data.csv")


def test_a_run_adds(added: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = added()
    known = run.metrics
    error = known["test"]["mean_squared_error"]["value"]
    assert error < known["baselines"]["last_marked"]["mean_squared_error"]["value"] / 2, "it has learnt"
    x, y = Adding().draw(np.random.default_rng(9), 70, 10)
    np.savez(tmp_path / "new.npz", x=x, y=y)
    capsys.readouterr()
    assert predict([str(run.path), "--input", str(tmp_path / "new.npz")]) == 0
    head, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert head == ["input", "reference", "prediction", "score"]
    assert [row[0] for row in rows] == [f"new.npz, x[{i}]" for i in range(70)]
    told, said = (np.array([float(row[column]) for row in rows]) for column in (1, 2))
    np.testing.assert_allclose(told, y, atol=1e-4)
    assert np.mean((said - y) ** 2) < 3 * error
    assert [float(row[3]) for row in rows] == [pytest.approx(error**0.5, abs=1e-4)] * 70
    np.savez(tmp_path / "new.npz", x=x[:1])
    assert predict([str(run.path), "--input", str(tmp_path / "new.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "input\tprediction\tscore"
