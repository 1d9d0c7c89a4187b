"""Melodies: what is read of music, how it is coded, and what is written again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seqapp import melody
from seqapp.melody import END, GRID, PITCHES, REST, Durations, Melody, load_codes, save_codes, transposed
from seqapp.scores import LOWEST, Score, split, write_midi
from tests.conftest import refused, verse

C4 = 60 - LOWEST


def notes(*sounds: tuple[float, float, int]) -> list[list[int]]:
    return Melody.of(Score("a", sounds)).notes.tolist()


def test_notation_is_read_note_by_note(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text('X:1\nM:3/4\nL:1/4\nQ:1/4=90\nK:C\n"Am"C D/2E/2 z (3FGA | {g}c2 |]\n')
    (found,) = melody.read(tmp_path / "a.abc")["all"]
    assert found.notes.tolist() == [[39, 24], [41, 12], [43, 12], [REST, 24], [44, 16], [46, 16], [48, 16], [51, 48]]
    assert (found.meter, found.tempo) == ("3/4", 90)


def test_the_highest_note_is_the_melody() -> None:
    chords = [(0.0, 2.0, 60), (0.0, 1.0, 64), (0.0, 1.0, 55), (1.0, 2.0, 62), (1.0, 1.5, 50)]
    assert notes(*chords) == [[C4 + 4, 24], [C4 + 2, 24]]


def test_a_note_ends_where_the_next_begins() -> None:
    assert notes((0.0, 3.0, 60), (1.0, 2.0, 62)) == [[C4, 24], [C4 + 2, 24]]


@pytest.mark.parametrize(("end", "wanted"), [(0.9, [[C4, 24], [C4, 24]]), (0.875, [[C4, 21], [REST, 3], [C4, 24]])])
def test_a_breath_belongs_to_the_note(end: float, wanted: list[list[int]]) -> None:
    assert notes((0.0, end, 60), (1.0, 2.0, 60)) == wanted


def test_what_begins_late_begins_with_its_first_note() -> None:
    assert notes((4.0, 5.0, 60), (5.0, 5.0, 99), (6.0, 7.0, 62), (7.0, 8.0, 5)) == [[C4, 24], [REST, 24], [C4 + 2, 24]]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_is_read_again(seed: int, tmp_path: Path) -> None:
    piece = Melody("a", verse(seed), 77.0, "5/8")
    write_midi(piece.score, tmp_path / "a.mid")
    (found,) = melody.read(tmp_path / "a.mid")["all"]
    np.testing.assert_array_equal(found.notes, piece.notes)
    assert (found.meter, found.tempo) == ("5/8", pytest.approx(77, abs=1e-3))
    assert found.content == piece.content


def test_the_picture_tells_notes_apart() -> None:
    roll = Melody("a", np.array([[3, 4], [3, 4], [REST, 2], [5, 1]])).roll
    np.testing.assert_array_equal(roll[:, 3], [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(np.flatnonzero(roll[:, 5]), [10])


def test_parts_and_folders(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / name).mkdir()
        write_midi(Melody("a", verse(1)).score, tmp_path / name / "a.mid")
    found = melody.read(tmp_path)
    assert sorted(found) == ["test", "train", "validation"]
    assert split(found, 0.1, 0.1) == found


def test_refused(tmp_path: Path) -> None:
    refused(notes, "a is silent", "leave it out")
    refused(lambda: notes((0.0, 1.0, 60)), "a has but one note", "leave it out")
    np.savez(tmp_path / "a.npz", a=np.zeros((4, 88)))
    refused(lambda: melody.read(tmp_path / "a.npz"), "a.npz should be one of", ".abc")
    refused(lambda: melody.read(tmp_path), "holds no music", ".mid")
    refused(lambda: Score("a", ((0.0, 2e6, 60),)), "a lasts 2,000,000 quarter notes")


def test_durations_that_occur_more_than_once_are_known() -> None:
    one, two = (Melody("a", np.array(rows)) for rows in ([[1, 24], [2, 12], [3, 7]], [[1, 24], [2, 12], [REST, 48]]))
    known = Durations.learn([one, two])
    assert known.ticks == (12, 24)
    assert Durations.learn([one]).ticks == (7, 12, 24)
    np.testing.assert_array_equal(known.coded(one), [[1, 1], [2, 0], [3, 0], [END, -1]])
    np.testing.assert_array_equal(known.coded(two)[2], [REST, 1])
    assert Durations((12, 24)).coded(Melody("a", np.array([[1, 18]])))[0, 1] == 0
    np.testing.assert_array_equal(known.notes(known.coded(two)[:2]), two.notes[:2])


def test_what_is_told_is_the_note_before() -> None:
    known = Durations((12, 24, 48))
    codes = np.array([[[5, 2], [REST, 0], [7, 1], [END, -1]], [[1, 1], [END, -1], [0, 0], [0, 0]]], np.int32)
    told = known.told(codes)
    assert told.shape == (2, 4, PITCHES + 3) and told.dtype == np.float32
    assert not told[:, 0].any()
    for row, t in ((0, 1), (0, 2), (0, 3), (1, 1)):
        pitch, duration = codes[row, t - 1]
        np.testing.assert_array_equal(np.flatnonzero(told[row, t]), [pitch, PITCHES + duration])


@pytest.mark.parametrize("steps", [-12, -5, 0, 3, 12])
def test_transposed_keeps_rests_and_the_end(steps: int) -> None:
    codes = np.array([[3, 0], [REST, 1], [80, 0], [END, -1]], np.int32)
    moved = transposed(codes, steps)
    by = max(-3, min(7, steps))
    np.testing.assert_array_equal(moved, [[3 + by, 0], [REST, 1], [80 + by, 0], [END, -1]])
    np.testing.assert_array_equal(transposed(moved, -by), codes)


def test_kept_as_they_were(tmp_path: Path) -> None:
    known = Durations.learn(pieces := [Melody("a", verse(i)) for i in range(3)])
    codes = [known.coded(piece) for piece in pieces]
    save_codes(tmp_path / "a.npz", codes)
    known.save(tmp_path / "melody.json")
    again = Durations.load(tmp_path / "melody.json")
    assert again == known
    for one, other in zip(load_codes(tmp_path / "a.npz", again), codes, strict=True):
        np.testing.assert_array_equal(one, other)
    content = json.loads((tmp_path / "melody.json").read_text())
    assert content["durations"] == [ticks / GRID for ticks in known.ticks]
    assert content["pitches"] == {"lowest_midi_number": 21, "keys": 88, "rest": 88, "end": 89}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"durations": []}', '{"durations": [1, 0.5]}', '{"durations": [0]}', '{"durations": 3}']
)
def test_damaged_durations_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "melody.json").write_text(text)
    refused(lambda: Durations.load(tmp_path / "melody.json"), "melody.json is damaged", "train again")
    refused(lambda: Durations.load(tmp_path / "no.json"), "There is no", "train again")


@pytest.mark.parametrize(
    "arrays",
    [
        {"codes": np.zeros((3, 2), np.int32), "lengths": [2]},
        {"codes": np.zeros((3, 3), np.int32), "lengths": [3]},
        {"codes": np.full((3, 2), 90), "lengths": [3]},
        {"codes": np.array([[0, 2]]), "lengths": [1]},
        {"lengths": [1]},
    ],
)
def test_damaged_codes_are_refused(arrays: dict[str, object], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    refused(lambda: load_codes(tmp_path / "a.npz", Durations((12, 24))), "a.npz is damaged", "train again")
