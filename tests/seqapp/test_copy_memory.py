"""The task `copy-memory`: what is said, what is to be said again, and how much of it a model remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.classify import Coder
from seqapp.config import build
from seqapp.copy_memory import COPIED, SYMBOLS, CopyMemory, CopyReport, coder, memoryless, vocabulary
from seqapp.predict import main as predict
from seqapp.run import Run
from seqapp.sequences import Sequences
from seqapp.step import log_softmax
from tests.conftest import one_line


def drawn(count: int, length: int) -> tuple[Any, Any]:
    """The symbols that are heard, and those that are to be said."""
    x, y = CopyMemory().draw(np.random.default_rng(0), count, length)
    assert (x.shape, x.dtype, y.dtype) == (y.shape, np.int32, np.int32)
    return np.array([[int(vocabulary().tokens[token]) for token in row] for row in x]), y


@pytest.mark.parametrize("length", [2, 7])
def test_ten_symbols_come_back_after_a_pause(length: int) -> None:
    x, y = drawn(300, length)
    assert x.shape == (300, length + 20)
    assert set(np.unique(x[:, :10])) == set(range(1, 9))
    assert not x[:, 10 : length + 9].any()
    np.testing.assert_array_equal(x[:, length + 9 :], 9)
    assert x[:, length + 9 :].shape == (300, 11)
    assert not y[:, : length + 10].any()
    np.testing.assert_array_equal(y[:, length + 10 :], x[:, :10])


def test_symbols_are_tokens_and_classes() -> None:
    known = coder()
    assert known.classes == SYMBOLS
    assert known.each_timestep and known.features is None
    assert sorted(known.vocabulary.tokens if known.vocabulary else ()) == sorted([*SYMBOLS, "<unk>", "<eos>"])
    model, _ = CopyMemory().learner(build({"task": "copy-memory", "units": 3, "embedding": 2}).model, 5)
    assert known.fitting(model).vocabulary_size == 12


def test_the_known_figure_of_a_strategy_without_memory() -> None:
    found = memoryless(np.zeros((5, 1020), np.int32))
    assert found["nats_per_label"] == {"value": pytest.approx(0.0204, abs=5e-5), "unit": "nats", "count": 5100}
    assert found["copied"] == {"value": 0.125, "unit": "fraction", "count": 50}


def test_the_report_by_hand() -> None:
    """Of a model that gives what it should say 9 times the chance of each other symbol, and is wrong about two of twenty."""
    x, y = CopyMemory().draw(np.random.default_rng(0), 2, 3)
    told = y.copy()
    told[0, -1], told[1, -COPIED] = told[0, -1] % 8 + 1, 0
    logits = {row.tobytes(): np.log(1 + 8 * np.eye(10))[answer] for row, answer in zip(x, told, strict=True)}
    parts = {name: Sequences(list(x), list(y)) for name in ("validation", "test")}
    found = CopyReport.of(lambda x, lengths: np.stack([logits[row.tobytes()] for row in x]), parts, "test")
    nats = -(44 * math.log(9 / 18) + 2 * math.log(1 / 18)) / 46
    assert found.mine["nats_per_label"] == {"value": pytest.approx(nats), "unit": "nats", "count": 46}
    assert found.mine["copied"] == {"value": 18 / 20, "unit": "fraction", "count": 20}
    chance = 10 * math.log(8) / 23
    assert found.levels == {"memoryless": pytest.approx(chance)}
    lines = [line.split() for line in found.table("gru").splitlines()]
    assert lines[2:4] == [["gru", f"{nats:.6f}", "90.0%"], ["memoryless", f"{chance:.6f}", "12.5%"]]
    assert lines[4] == [f"{chance - nats:.3f}", "nats", "below", "memoryless"]


def test_a_run_remembers(
    remembered: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = remembered()
    assert run.metrics["test"]["nats_per_label"]["value"] < run.metrics["baselines"]["memoryless"]["nats_per_label"]["value"]
    assert Coder.load(run.path) == coder()
    symbols, _ = drawn(3, 2)
    lines = [" ".join(map(str, row)) for row in symbols]
    (tmp_path / "symbols.txt").write_text("\n".join([lines[0], "", f"  {lines[1]} ", lines[2][:11], ""]), "utf-8")
    capsys.readouterr()
    assert predict([str(run.path), "--input", str(tmp_path / "symbols.txt")]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()][1:]
    assert [row[0] for row in rows] == [lines[0], lines[1], lines[2][:11]]
    x = np.array([vocabulary().numbers(lines[1].split())], np.int32)
    logs = log_softmax(np.asarray(run.load_model()([x, np.array([22], np.int32)]), np.float64)[0])
    assert rows[1][1] == " ".join(map(str, logs.argmax(-1)))
    assert float(rows[1][2]) == pytest.approx(np.exp(logs[-1].max()), abs=1e-4)
    (tmp_path / "symbols.txt").write_text("1 2\n3 12 x\n", "utf-8")
    monkeypatch.setattr("seqapp.predict.need_keras", lambda _: pytest.fail("TensorFlow is not needed for that"))
    assert predict([str(run.path), "--input", str(tmp_path / "symbols.txt")]) == 2
    one_line(capsys, "symbols.txt, line 2 must hold symbols from 0 to 9", "Received: '12'")
