"""How well melodies are foretold: figures by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqapp.melody import END, PITCHES, REST, Durations, Melody
from seqapp.melody_report import MelodyReport, baselines, figures_of, log_likelihoods, of_note
from tests.conftest import verse

RNG = np.random.default_rng(0)
CODES = [np.array([[3, 0], [REST, 1], [5, 2], [END, -1]]), np.array([[7, 2], [END, -1]])]
LOGITS = [RNG.normal(size=(len(codes), PITCHES + 3)) for codes in CODES]


def by_hand(logits: np.ndarray, codes: np.ndarray) -> list[list[float]]:
    found = []
    for row, (pitch, duration) in zip(np.exp(logits), codes, strict=True):
        pitches, durations = row[:PITCHES], row[PITCHES:]
        lasting = np.log(durations[duration] / durations.sum()) if duration >= 0 else 0.0
        found.append([np.log(pitches[pitch] / pitches.sum()), lasting])
    return found


def test_the_likelihood_of_a_note_is_that_of_its_pitch_and_its_duration() -> None:
    for logits, codes in zip(LOGITS, CODES, strict=True):
        np.testing.assert_allclose(log_likelihoods(logits, codes), by_hand(logits, codes))
        logs, ranks = of_note(logits[None], codes[None])
        np.testing.assert_allclose(logs[0], np.sum(by_hand(logits, codes), 1))
        assert ranks.tolist() == [[1] * len(codes)]
    sure = np.zeros((1, 2, PITCHES + 3))
    sure[0, :, [4, PITCHES + 1]] = 9
    assert of_note(sure, np.array([[[4, 1], [4, 0]]]))[1].tolist() == [[0, 1]]
    assert of_note(sure, np.array([[[4, -1], [3, -1]]]))[1].tolist() == [[0, 1]]


def test_figures_by_hand() -> None:
    logs = np.concatenate([by_hand(*pair) for pair in zip(LOGITS, CODES, strict=True)])
    found = figures_of(LOGITS, CODES)
    assert found["nats_per_note"] == {"value": pytest.approx(-logs.sum() / 6), "unit": "nats", "count": 6}
    assert found["pitch_nats"]["value"] == pytest.approx(-logs[:, 0].mean())
    assert found["duration_nats"] == {"value": pytest.approx(-logs[:, 1].sum() / 4), "unit": "nats", "count": 4}
    right = [
        row[PITCHES:].argmax() == code
        for x, codes in zip(LOGITS, CODES, strict=True)
        for row, (_, code) in zip(x, codes, strict=True)
    ]
    assert found["duration_accuracy"] == {"value": sum(right) / 4, "unit": "fraction", "count": 4}


def test_the_unigram_by_hand() -> None:
    train = [np.array([[3, 0], [3, 0], [5, 1], [END, -1]])] * 2
    part = [np.array([[3, 1], [END, -1]])]
    found = baselines({"train": train, "validation": train, "test": part}, "test", 2)
    # Unseen pitches and the number that stands before take their share by absolute discounting of 0.75.
    pitches = (4 - 0.75 + 0.75 * 3 / PITCHES) / 8, (2 - 0.75 + 0.75 * 3 / PITCHES) / 8
    lasting = (2 - 0.75 + 0.75 * 2 / 3) / 6
    wanted = -np.log([pitches[0] * lasting, pitches[1]]).sum() / 2
    assert found["unigram"]["nats_per_note"]["value"] == pytest.approx(wanted)
    assert found["unigram"]["pitch_accuracy"]["value"] == 0.5
    assert found["unigram"]["duration_accuracy"] == {"value": 0.0, "unit": "fraction", "count": 1}


def test_context_tells_more_than_none_and_both_together_more_than_each() -> None:
    """The pitch alone says how long a note lasts, which neither stream knows."""
    rng = np.random.default_rng(0)

    def melody() -> np.ndarray:
        pitches = rng.integers(0, 4, 30)
        return np.r_[np.c_[pitches, pitches % 2], [[END, -1]]]

    parts = {name: [melody() for _ in range(20)] for name in ("train", "validation", "test")}
    found = {name: row["nats_per_note"]["value"] for name, row in baselines(parts, "test", 2).items()}
    assert found["kneser_ney_3_of_both"] < found["kneser_ney_3"] - 0.5
    known = Durations.learn(sung := [Melody("a", verse(i)) for i in range(9)])
    codes = [known.coded(one) for one in sung]
    found = {
        name: row["nats_per_note"]["value"]
        for name, row in baselines({"train": codes, "validation": codes, "test": codes}, "test", len(known)).items()
    }
    assert found["kneser_ney_3"] < found["unigram"] / 2


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    row = figures_of(LOGITS, CODES)
    worse = {"nats_per_note": {**row["nats_per_note"], "value": row["nats_per_note"]["value"] + 1.5}}
    report = MelodyReport(
        "test", {"test": row}, {"kneser_ney_3_of_both": worse}, (CODES[0], LOGITS[0]), Durations((12, 24, 48))
    )
    lines = report.table("gru").splitlines()
    assert lines[0] == "test, 6 notes"
    assert lines[2].split()[:2] == ["gru", f"{row['nats_per_note']['value']:.3f}"]
    assert lines[3].split() == ["kneser-ney-3-of-both", f"{worse['nats_per_note']['value']:.3f}"]
    assert lines[-1] == "1.500 nats below kneser-ney-3-of-both"
    report.draw(tmp_path)
    assert (tmp_path / "melody.png").read_bytes().startswith(b"\x89PNG")
