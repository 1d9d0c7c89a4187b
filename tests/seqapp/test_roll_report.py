"""How well music is foretold: figures by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqapp.roll_report import RollReport, baselines, figures, log_likelihood
from tests.conftest import tune

RNG = np.random.default_rng(0)
ROLLS = [(RNG.random((t, 88)) < 0.1).astype(np.uint8) for t in (5, 9)]
LOGITS = [RNG.normal(size=roll.shape) for roll in ROLLS]


def test_the_likelihood_is_the_product_over_the_keys() -> None:
    p = 1 / (1 + np.exp(-LOGITS[0]))
    wanted = np.log(np.where(ROLLS[0] == 1, p, 1 - p)).sum(1)
    np.testing.assert_allclose(log_likelihood(LOGITS[0], ROLLS[0]), wanted)
    far = log_likelihood(np.full((1, 88), 1e4), np.ones((1, 88), np.uint8))
    assert np.isfinite(far).all() and abs(far[0]) < 1e-9


def test_figures_by_hand() -> None:
    found = figures(LOGITS, ROLLS)
    nats = [-float(log) for pair in zip(LOGITS, ROLLS, strict=True) for log in log_likelihood(*pair)]
    assert found["nll_per_frame"] == {"value": pytest.approx(np.mean(nats)), "unit": "nats", "count": 14}
    right = sum(int(((x > 0) & (roll > 0)).sum()) for x, roll in zip(LOGITS, ROLLS, strict=True))
    either = sum(int(((x > 0) | (roll > 0)).sum()) for x, roll in zip(LOGITS, ROLLS, strict=True))
    assert found["frame_accuracy"] == {"value": right / either, "unit": "fraction", "count": either}


def test_baselines_by_hand() -> None:
    train = [np.zeros((4, 88), np.uint8), np.zeros((3, 88), np.uint8)]
    train[0][1:3, 5] = train[1][2, 5] = 1
    held_out = np.zeros((3, 88), np.uint8)
    held_out[1, 5] = 1
    found = baselines(train, [held_out])
    # Of 7 frames 3 sound; after silence 2 of 3, after a note 1 of 2; one is added to what sounds and to what does not.
    others = -87 * np.log(8 / 9)
    each = others * 3 - np.log(5 / 9) * 2 - np.log(4 / 9)
    assert found["each_key"]["nll_per_frame"]["value"] == pytest.approx(each / 3)
    quiet = -87 * np.log(6 / 7) * 3
    last = quiet - np.log(1 - 3 / 5) - np.log(3 / 5) - np.log(1 - 2 / 4)
    assert found["last_frame"]["nll_per_frame"]["value"] == pytest.approx(last / 3)


def test_music_that_holds_its_notes_is_foretold_by_the_last_frame() -> None:
    found = baselines([tune(i) for i in range(9)], [tune(20)])
    assert found["last_frame"]["nll_per_frame"]["value"] < found["each_key"]["nll_per_frame"]["value"]


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    row = figures(LOGITS, ROLLS)
    worse = {**row, "nll_per_frame": {**row["nll_per_frame"], "value": row["nll_per_frame"]["value"] + 1.5}}
    report = RollReport("test", {"test": row}, {"last_frame": worse}, (ROLLS[0], LOGITS[0]), 0.5)
    lines = report.table("gru").splitlines()
    assert lines[0] == "test, 14 frames"
    assert lines[2].split() == ["gru", f"{row['nll_per_frame']['value']:.3f}", f"{row['frame_accuracy']['value']:.1%}"]
    assert lines[-1] == "1.500 nats below last-frame"
    assert report.levels == {"last_frame": worse["nll_per_frame"]["value"]}
    report.draw(tmp_path)
    assert (tmp_path / "roll.png").read_bytes()[:4] == b"\x89PNG"
