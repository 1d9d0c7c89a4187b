"""Music as piano rolls: read, written, moved to another key, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from seqapp import pieces
from seqapp.pieces import Piece
from seqapp.scores import KEYS, LOWEST, key_name, split, write_midi
from tests.conftest import refused, tune

ROLL = tune(3, 20)
ABC = "X:1\nT:One\nM:3/4\nL:1/4\nQ:1/4=80\nK:C\nC D E | [CEG]3 |\n\nX:2\nT:Two\nM:3/4\nL:1/4\nK:C\nE2 C | z2 C |\n"
XML = """<?xml version="1.0"?><score-partwise version="3.1"><part-list>
<score-part id="P1"><part-name>High</part-name></score-part>
<score-part id="P2"><part-name>Low</part-name></score-part></part-list>
<part id="P1"><measure number="1"><attributes><divisions>2</divisions>
<time><beats>2</beats><beat-type>4</beat-type></time></attributes>
<note><pitch><step>C</step><octave>5</octave></pitch><duration>4</duration></note></measure></part>
<part id="P2"><measure number="1"><attributes><divisions>2</divisions></attributes>
<note><pitch><step>C</step><octave>3</octave></pitch><duration>1</duration></note>
<note><pitch><step>D</step><octave>3</octave></pitch><duration>3</duration></note></measure></part></score-partwise>"""


def keys(piece: Piece) -> list[str]:
    return [" ".join(key_name(int(key)) for key in np.flatnonzero(frame)) for frame in piece.roll]


@given(st.integers(0, 50), st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.floats(20, 300), st.sampled_from(["4/4", "3/4", "6/8"]))
def test_what_is_written_is_read(tmp_path_factory: Any, seed: int, frame: float, tempo: float, meter: str) -> None:
    path = tmp_path_factory.mktemp("midi") / "a.mid"
    write_midi(Piece("a", tune(seed, 30), frame, tempo, meter).score, path)
    (piece,) = pieces.read_file(path, frame)["all"]
    np.testing.assert_array_equal(piece.roll, tune(seed, 30))
    assert (piece.frame, piece.meter) == (frame, meter)
    assert piece.tempo == pytest.approx(tempo, rel=1e-4)


def test_abc_tunes(tmp_path: Path) -> None:
    (tmp_path / "tunes.abc").write_text(ABC)
    one, two = pieces.read(tmp_path / "tunes.abc", 1.0)["all"]
    assert (one.name, two.name) == ("tunes.abc, tune 1", "tunes.abc, tune 2")
    assert keys(one) == ["C4", "D4", "E4", *["C4 E4 G4"] * 3]
    assert keys(two) == ["E4", "E4", "C4", "", "", "C4"]
    assert (one.meter, one.tempo) == ("3/4", 80.0)


@pytest.mark.parametrize(
    ("part", "frame", "wanted"),
    [
        (None, 1.0, ["C3 C5", "D3 C5"]),
        (None, 0.5, ["C3 C5", "D3 C5", "D3 C5", "D3 C5"]),
        ("High", 1.0, ["C5", "C5"]),
        ("2", 0.5, ["C3", "D3", "D3", "D3"]),
    ],
)
def test_a_score_and_its_parts(part: str | None, frame: float, wanted: list[str], tmp_path: Path) -> None:
    (tmp_path / "score.musicxml").write_text(XML)
    (piece,) = pieces.read(tmp_path / "score.musicxml", frame, part)["all"]
    assert keys(piece) == wanted
    assert piece.meter == "2/4"


def two_tracks(path: Path) -> None:
    file = mido.MidiFile(ticks_per_beat=96)
    for name, number, channel in (("piano", 60, 0), ("bass", 36, 1), ("drums", 40, 9)):
        track = file.add_track(name)
        track.append(mido.Message("note_on", note=number, velocity=9, time=0, channel=channel))
        track.append(mido.Message("note_on", note=number, velocity=0, time=192, channel=channel))
    file.save(path)


def test_the_tracks_of_a_midi_file_without_its_drums(tmp_path: Path) -> None:
    two_tracks(tmp_path / "a.mid")
    assert keys(pieces.read(tmp_path / "a.mid", 1.0)["all"][0]) == ["C2 C4"] * 2
    assert keys(pieces.read(tmp_path / "a.mid", 1.0, "bass")["all"][0]) == ["C2"] * 2
    assert keys(pieces.read(tmp_path / "a.mid", 1.0, "1")["all"][0]) == ["C4"] * 2
    refused(lambda: pieces.read(tmp_path / "a.mid", 1.0, "drums"), "a.mid has no part 'drums'", "1 piano, 2 bass")


def test_rolls_of_a_mat_file_are_divided_and_of_an_npz_are_not(tmp_path: Path) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = ROLL, tune(4, 9).astype(float)
    savemat(tmp_path / "a.mat", {"traindata": cells, "validdata": cells[:, :1], "testdata": cells[:, 1:]})
    found = pieces.read(tmp_path / "a.mat", 1.0)
    assert {name: len(some) for name, some in found.items()} == {"train": 2, "validation": 1, "test": 1}
    np.testing.assert_array_equal(found["test"][0].roll, tune(4, 9))
    np.savez(tmp_path / "a.npz", one=ROLL, two=ROLL.astype(bool))
    assert [piece.name for piece in pieces.read(tmp_path / "a.npz", 1.0)["all"]] == ["a.npz, one", "a.npz, two"]


def test_folders_may_be_divided(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / name).mkdir()
        write_midi(Piece("a", ROLL, 1.0).score, tmp_path / name / "a.mid")
    found = pieces.read(tmp_path, 1.0)
    assert set(found) == {"train", "validation", "test"}
    assert split(found, 0.1, 0.1) == found
    write_midi(Piece("a", ROLL, 1.0).score, tmp_path / "more.mid")
    refused(lambda: pieces.read(tmp_path, 1.0), "divided into", "in part")


def test_equal_pieces_stay_together() -> None:
    some = [Piece(str(i), tune(i % 30, 20), 1.0) for i in range(60)]
    parts = split({"all": some}, 0.2, 0.2)
    where = {name: {piece.roll.tobytes() for piece in found} for name, found in parts.items()}
    assert not where["train"] & where["test"] and not where["train"] & where["validation"]
    assert sum(map(len, parts.values())) == 60
    refused(lambda: split({"all": some[:1]}, 0.2, 0.2), "No piece is left")


@given(st.integers(0, 20), st.integers(-12, 12))
def test_another_key_is_the_same_music(seed: int, steps: int) -> None:
    roll = tune(seed, 24)
    moved = pieces.transposed(roll, steps)
    np.testing.assert_array_equal(pieces.transposed(moved, -steps), roll)
    np.testing.assert_array_equal(
        moved[:, max(0, steps) : KEYS + min(0, steps)], roll[:, max(0, -steps) : KEYS - max(0, steps)]
    )


def test_no_note_falls_off_the_keyboard() -> None:
    roll = np.eye(3, KEYS, 1, dtype=np.uint8)
    assert pieces.transposed(roll, -12).sum() == 3
    np.testing.assert_array_equal(pieces.transposed(roll, -12)[:, :3], np.eye(3))
    assert not pieces.transposed(np.zeros((2, KEYS), np.uint8), 3).any()


def test_notes_that_are_held() -> None:
    roll = np.zeros((5, KEYS), np.uint8)
    roll[1:4, 7] = roll[0, 3] = roll[4, 3] = 1
    assert pieces.held(roll) == [(3, 0, 1), (7, 1, 3), (3, 4, 1)]


def test_names_of_keys() -> None:
    assert [key_name(number - LOWEST) for number in (21, 60, 61, 108)] == ["A0", "C4", "C#4", "C8"]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.mid", b"MThd\0\0\0\6nonsense", ("a.mid cannot be read as MIDI", "export it again")),
        ("a.mid", b"", ("a.mid cannot be read as MIDI",)),
        ("a.musicxml", b"<score", ("a.musicxml cannot be read as music",)),
        ("a.mat", b"nonsense", ("a.mat cannot be read as .mat",)),
        ("a.npz", b"nonsense", ("a.npz cannot be read as .npz", "numpy.savez")),
        ("a.wav", b"RIFF", ("a.wav should be one of", ".mid", ".abc", ".mat")),
    ],
)
def test_files_that_are_no_music(name: str, content: bytes, parts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: pieces.read(tmp_path / name, 1.0), *parts)


@pytest.mark.parametrize(
    ("roll", "parts"),
    [
        (np.zeros((9, KEYS)), ("a.npz, x is silent", "leave it out")),
        (np.ones((1, KEYS)), ("a.npz, x is shorter than two frames",)),
        (np.full((9, KEYS), 0.5), ("a.npz, x should be a roll (T, 88) of 0 and 1", "float64 (9, 88)")),
        (np.full((9, KEYS), np.nan), ("of 0 and 1",)),
        (np.ones((9, 12)), ("(9, 12)",)),
        (np.ones(88), ("(88,)",)),
        (np.zeros((9, KEYS), [("a", int)]), ("of 0 and 1",)),
        (np.full((9, KEYS), "1"), ("of 0 and 1",)),
    ],
)
def test_rolls_that_are_none(roll: Any, parts: tuple[str, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=roll)
    refused(lambda: pieces.read(tmp_path / "a.npz", 1.0), *parts)


def test_silence_and_what_is_not_there(tmp_path: Path) -> None:
    mido.MidiFile().save(tmp_path / "a.mid")
    refused(lambda: pieces.read(tmp_path / "a.mid", 1.0), "a.mid is silent")
    refused(lambda: pieces.read(tmp_path / "no.mid", 1.0), "There is no", "no.mid")
    (tmp_path / "empty").mkdir()
    refused(lambda: pieces.read(tmp_path / "empty", 1.0), "holds no music")
    np.savez(tmp_path / "a.npz", x=ROLL)
    refused(lambda: pieces.read(tmp_path / "a.npz", 1.0, "1"), "no parts", "leave --part out")
    savemat(tmp_path / "a.mat", {"traindata": ROLL})
    refused(lambda: pieces.read(tmp_path / "a.mat", 1.0), "must hold traindata, validdata and testdata")


def test_a_damaged_file_that_lasts_for_ever(tmp_path: Path) -> None:
    file = mido.MidiFile(ticks_per_beat=1)
    track = file.add_track()
    track.extend([mido.Message("note_on", note=60, time=0), mido.Message("note_off", note=60, time=2**27)])
    file.save(tmp_path / "a.mid")
    refused(lambda: pieces.read(tmp_path / "a.mid", 1.0), "134,217,728 quarter notes", "leave it out")


def test_a_beat_earlier_or_later_is_the_same_music(tmp_path: Path) -> None:
    """Half way between two frames a note goes to the later one, on odd beats and on even ones."""
    notes = "".join(f"{name}{octave}" for octave in (",", "") for name in "CDEFGAB")
    rolls = []
    for rest in ("z2 ", "z4 "):
        (tmp_path / "a.abc").write_text(f"X:1\nM:4/4\nL:1/8\nK:C\n{rest}{notes}\n")
        rolls.append(pieces.read(tmp_path / "a.abc", 1.0)["all"][0].roll)
    np.testing.assert_array_equal(rolls[0][1:], rolls[1][2:])


def test_what_is_written_for_an_instrument_is_read_as_it_sounds(tmp_path: Path) -> None:
    transposing = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose></attributes>"
    (tmp_path / "score.musicxml").write_text(XML.replace("</time></attributes>", f"</time>{transposing}"))
    assert keys(pieces.read(tmp_path / "score.musicxml", 1.0, "High")["all"][0]) == ["A#4", "A#4"]


def test_chord_symbols_are_not_played(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text('X:1\nM:4/4\nL:1/4\nK:C\n"Am"C D E F|"G7"G A B c|\n')
    assert keys(pieces.read(tmp_path / "a.abc", 1.0)["all"][0]) == ["C4", "D4", "E4", "F4", "G4", "A4", "B4", "C5"]


@pytest.mark.parametrize("tempo", [0, 1, 2**24 - 1])
def test_tempos_at_the_end_of_what_midi_can_say(tempo: int, tmp_path: Path) -> None:
    two_tracks(tmp_path / "a.mid")
    file = mido.MidiFile(tmp_path / "a.mid")
    file.tracks[0].insert(0, mido.MetaMessage("set_tempo", tempo=tempo))
    file.save(tmp_path / "a.mid")
    if tempo == 0:
        refused(lambda: pieces.read(tmp_path / "a.mid", 1.0), "a.mid cannot be read as MIDI")
    else:
        write_midi(pieces.read(tmp_path / "a.mid", 1.0)["all"][0].score, tmp_path / "b.mid")
        assert pieces.read(tmp_path / "b.mid", 1.0)["all"][0].roll.any()


@pytest.mark.parametrize(("beats", "kind", "meter"), [("3+2", "8", "5/8"), ("6", "8", "6/8")])
def test_meters_that_midi_can_say(beats: str, kind: str, meter: str, tmp_path: Path) -> None:
    text = XML.replace("<beats>2</beats><beat-type>4</beat-type>", f"<beats>{beats}</beats><beat-type>{kind}</beat-type>")
    (tmp_path / "score.musicxml").write_text(text)
    (piece,) = pieces.read(tmp_path / "score.musicxml", 1.0)["all"]
    assert piece.meter == meter
    write_midi(piece.score, tmp_path / "a.mid")
    assert pieces.read(tmp_path / "a.mid", 1.0)["all"][0].meter == meter


def test_the_first_tempo_and_meter_are_the_piece_s(tmp_path: Path) -> None:
    write_midi(Piece("a", ROLL, 1.0, 120.0, "4/4").score, tmp_path / "a.mid")
    file = mido.MidiFile(tmp_path / "a.mid")
    file.tracks[0].append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(60)))
    file.tracks[0].append(mido.MetaMessage("time_signature", numerator=3, denominator=4))
    file.save(tmp_path / "a.mid")
    (piece,) = pieces.read(tmp_path / "a.mid", 1.0)["all"]
    assert (piece.tempo, piece.meter) == (120.0, "4/4")


def test_files_without_a_piece(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz")
    refused(lambda: pieces.read(tmp_path / "a.npz", 1.0), "a.npz holds no piece")


def test_the_picture(tmp_path: Path) -> None:
    pieces.draw([("a", ROLL), ("b", ROLL * 0.5), ("silence", ROLL * 0)], 0.5, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.matrix
def test_the_chorales() -> None:
    """The ordinary run learns from some of them."""
    found = pieces.chorales(1.0)
    assert len(found) > 400
    assert all(len(piece.roll) > 8 for piece in found)
