"""Scores: many files at once, pieces apart, keys by their names; what one file holds is in the tests of pieces and melodies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from seqapp import melody, scores
from seqapp.errors import UsageError
from seqapp.scores import Score, each, key_name, read_all, scores_of, write_midi
from tests.conftest import refused
from tests.readers import XML


def abc(path: Path, number: int) -> Path:
    path.write_text(f"X:{number}\nL:1/4\nK:C\n{'CDEFGAB'[number % 7]} {'cdefgab'[number % 5]}\n")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [abc(tmp_path / f"{number:02}.abc", number) for number in range(12)]


def test_many_files_are_read_as_one_after_the_other(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [scores_of(file) for file in files]
    assert len({found[0].sounds for found in wanted}) > 6
    monkeypatch.setattr(scores, "MUCH", 12)
    assert each(partial(scores_of, part=None), files) == wanted


def test_what_is_wrong_with_one_of_many_is_said(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MUCH", 2)
    files[7].write_text("X:1\nL:1/4\nK:C\nC\n")
    refused(lambda: read_all(files[0].parent, (".abc",), melody.read_file), "07.abc has but one note")


def test_a_part_by_its_name_or_number(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    file = mido.MidiFile()
    for name, note in (("tune", 72), ("bass", 40)):
        track = file.add_track(name)
        track += [mido.Message("note_on", note=note, velocity=9), mido.Message("note_off", note=note, time=480)]
    file.save(tmp_path / "a.mid")
    for part, wanted in (("bass", [40]), ("1", [72]), (None, [72, 40])):
        (found,) = scores_of(tmp_path / "a.mid", part)
        assert [number for _, _, number in found.sounds] == wanted
    refused(lambda: scores_of(tmp_path / "a.mid", "3"), "no part '3'", "1 tune, 2 bass")


def test_what_ends_comes_before_what_begins(tmp_path: Path) -> None:
    score = Score("a", ((0.0, 1.0, 60), (1.0, 2.0, 60), (1.0, 1.5, 64)), 90.0, "6/8")
    write_midi(score, tmp_path / "a.mid")
    (found,) = scores_of(tmp_path / "a.mid")
    assert sorted(found.sounds) == sorted(score.sounds)
    assert (found.tempo, found.meter) == (90.0, "6/8")


def test_a_midi_file_in_a_key_that_there_is_not(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    file = mido.MidiFile()
    file.add_track().append(mido.MetaMessage("key_signature", key="A"))
    file.save(path := tmp_path / "a.mid")
    path.write_bytes(path.read_bytes().replace(b"\xff\x59\x02\x03", b"\xff\x59\x02\x09"))
    refused(lambda: scores_of(path), "a.mid cannot be read as MIDI (Could not decode key with 9 sharps", "leave it out")


def test_a_bar_of_many_beats(tmp_path: Path) -> None:
    """Which music21 would divide for minutes."""
    path = tmp_path / "a.abc"
    for meter in ("1999/4", "40+40/8", "9" * 5000 + "/4"):
        for tune in (f"X:1\nM:{meter}\nK:C\nC D\n", f"X:1\nK:C\nC [M: {meter}] D\n"):
            path.write_text(tune)
            refused(lambda: scores_of(path), "a.abc cannot be read as music (", "leave it out")
    for meter, wanted in (("3+2+3/8", "8/8"), (" (9+9) /8 % 100", "18/8"), ("C| % of 100", "2/2")):
        path.write_text(f"X:1\nM:{meter}\nK:C\nC D\n")
        assert scores_of(path)[0].meter == wanted
    (tmp_path / "a.musicxml").write_text(XML.replace("<beats>3<", "<beats>1999<"))
    refused(lambda: scores_of(tmp_path / "a.musicxml"), "a bar of 1999 beats, where 64 are the most")


def test_a_bar_that_overflows(tmp_path: Path) -> None:
    """Whose rest music21 would give a meter of its own, 993/8, and would need minutes for it."""
    (path := tmp_path / "a.abc").write_text("X:1\nM:3/4\nL:1/8\nK:C\nC2 e999 D2 | E2 |]\n")
    assert scores_of(path)[0].sounds == ((0.0, 1.0, 60), (1.0, 500.5, 76), (500.5, 501.5, 62), (501.5, 502.5, 64))


@pytest.mark.parametrize("name", ["a.abc", "a.musicxml"])
def test_tied_notes_are_one(name: str, tmp_path: Path) -> None:
    """As music21's own `stripTies` makes them, which takes twenty times as long."""
    if name == "a.abc":
        (path := tmp_path / name).write_text("X:1\nM:2/4\nL:1/4\nK:C\nC D-|D D|E2-|E A/-A/|B c(3d/d/d/-|d2-|d2|]\n")
        wanted = {(1.0, 3.0, 62), (3.0, 4.0, 62), (4.0, 7.0, 64), (7.0, 8.0, 69), (8.0, 9.0, 71)}
    else:
        begin, end = XML.index("<note>"), XML.index("<note><rest")
        tied = [XML[begin:end].replace("</duration>", f"</duration><tie type='{kind}'/>") for kind in ("start", "stop")]
        (path := tmp_path / name).write_text(XML[:begin] + "".join(tied) + XML[begin:])
        wanted = {(0.0, 2.0, 60), (0.0, 2.0, 63), (2.0, 3.0, 60), (2.0, 3.0, 63)}
    ((_, score),) = scores._scores(path)
    notes = [note for part in score.parts for note in part.flatten().stripTies().notes]
    of_music21 = sorted((float(n.offset), float(n.offset + n.quarterLength), pitch.midi) for n in notes for pitch in n.pitches)
    found = sorted(scores_of(path)[0].sounds)
    assert wanted <= set(found)
    assert [sound[::2] for sound in found] == [sound[::2] for sound in of_music21]
    assert [sound[1] for sound in found] == pytest.approx([sound[1] for sound in of_music21])


def test_a_tie_to_a_key_that_does_not_come_is_none(tmp_path: Path) -> None:
    (path := tmp_path / "a.abc").write_text("X:1\nL:1/4\nK:C\nC-D C\n")
    assert scores_of(path)[0].sounds == ((0.0, 1.0, 60), (1.0, 2.0, 62), (2.0, 3.0, 60))


def test_a_tempo_of_notes_of_no_length_is_none(tmp_path: Path) -> None:
    (path := tmp_path / "a.abc").write_text("X:1\nQ:0/4=90\nL:1/4\nK:C\nC D\n")
    assert scores_of(path)[0].tempo == 120.0


def test_names_and_keys() -> None:
    assert [key_name(key) for key in (0, 39, 40, 87)] == ["A0", "C4", "C#4", "C8"]
    assert Score("a", ((0.0, 1.0, 20), (0.0, 1.0, 21), (0.0, 1.0, 108), (0.0, 1.0, 109))).of_piano == [
        (0.0, 1.0, 0),
        (0.0, 1.0, 87),
    ]
    with pytest.raises(UsageError, match="the most: leave it out"):
        Score("a", ((0.0, 1e7, 60),))
