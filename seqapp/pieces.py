"""Pieces of music as piano rolls: read from notation, MIDI or arrays, and written as MIDI."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.arrays import DAMAGE, read_npz
from seqapp.errors import UsageError, need

Array = NDArray[Any]
LOWEST, KEYS = 21, 88  # the piano's, as MIDI numbers them
MIDI, NOTATION = (".mid", ".midi"), (".musicxml", ".mxl", ".xml", ".abc")
SUFFIXES = (*MIDI, *NOTATION, ".mat", ".npz")
TICKS = 480  # in a quarter note, of a MIDI file
SLOWEST = 2**24 - 1  # microseconds in a quarter note that a MIDI file can say
DRUMS = 9  # the channel whose notes are no pitches
LONGEST = 1_000_000  # quarter notes, days of music: a damaged file may say more
PARTS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


@dataclass(frozen=True)
class Piece:
    """A roll (T, 88) of 0 and 1, a frame each `frame` quarter notes; quarter notes a minute, and the time signature."""

    name: str
    roll: NDArray[np.uint8]
    frame: float
    tempo: float = 120.0
    meter: str = "4/4"


def read(path: Path, frame: float, part: str | None = None) -> dict[str, list[Piece]]:
    """The pieces of a file, or of all files in a folder, under the name "all"; or as train, validation and test, where a `.mat`
    has `traindata`, `validdata` and `testdata`, or a folder such folders.

    Raises:
        UsageError: something cannot be read, or holds no note: which file or piece.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UsageError(f"The folder {path} holds no music: expected files {', '.join(SUFFIXES)}.")
    elif not path.exists():
        raise UsageError(f"There is no {path}: give a file {', '.join(SUFFIXES)}, or a folder of them.")
    else:
        files = [path]
    found: dict[str, list[Piece]] = {}
    for file in files:
        inside = file.relative_to(path).parts[0] if path.is_dir() else ""
        for name, pieces in read_file(file, frame, part).items():
            found.setdefault(PARTS.get(inside, name), []).extend(pieces)
    if not any(found.values()):
        raise UsageError(f"{path} holds no piece: give at least one.")
    if "all" in found and len(found) > 1:
        raise UsageError(
            f"{path} is divided into {', '.join(sorted(set(found) - {'all'}))} in part: divide all of it, or nothing."
        )
    return found


def read_file(path: Path, frame: float, part: str | None = None) -> dict[str, list[Piece]]:
    """The pieces of one file, under the name "all", or of a divided `.mat` by their parts.

    Raises:
        UsageError: as `read` does.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path} should be one of {', '.join(SUFFIXES)}.")
    if suffix in MIDI:
        return {"all": [_of_midi(path, frame, part)]}
    if suffix in NOTATION:
        return {"all": [_of_score(score, name, frame, part) for name, score in _scores(path)]}
    if part is not None:
        raise UsageError(f"{path} holds rolls, which have no parts: leave --part out. Received: {part}")
    return _of_mat(path, frame) if suffix == ".mat" else {"all": _of_npz(path, frame)}


def _of_npz(path: Path, frame: float) -> list[Piece]:
    arrays = read_npz(path, "save rolls (T, 88) of 0 and 1 with numpy.savez(path, name=roll, ...).")
    return [_checked(f"{path.name}, {name}", roll, frame) for name, roll in arrays.items()]


def _of_mat(path: Path, frame: float) -> dict[str, list[Piece]]:
    load = need("scipy.io", "music").loadmat
    try:
        content = load(path)
    except Exception as error:  # scipy raises whatever its parts do
        raise UsageError(
            f"{path} cannot be read as .mat ({' '.join(str(error).split())}): save it again as version 5."
        ) from None
    cells = {PARTS[name.removesuffix("data")]: name for name in content if name.removesuffix("data") in PARTS}
    if not {"train", "validation", "test"} <= set(cells):
        raise UsageError(f"{path} must hold traindata, validdata and testdata, cells of rolls (T, 88).")
    return {
        part: [_checked(f"{path.name}, {name}[{i}]", roll, frame) for i, roll in enumerate(np.ravel(content[name]))]
        for part, name in cells.items()
    }


def _checked(name: str, roll: Any, frame: float) -> Piece:
    known = isinstance(roll, np.ndarray) and roll.dtype.kind in "biuf" and roll.ndim == 2 and roll.shape[1] == KEYS
    if not known or not np.isin(roll, (0, 1)).all():
        shape = f"{getattr(roll, 'dtype', type(roll).__name__)} {getattr(roll, 'shape', '')}"
        raise UsageError(f"{name} should be a roll (T, {KEYS}) of 0 and 1. Received: {shape}")
    return Piece(name, _sounding(np.asarray(roll, np.uint8), name), frame)


def _sounding(roll: Array, name: str) -> Array:
    if len(roll) < 2 or not roll.any():
        raise UsageError(f"{name} is {'silent' if len(roll) > 1 else 'shorter than two frames'}: leave it out.")
    return roll


def _scores(path: Path) -> Iterator[tuple[str, Any]]:
    """The scores of a file: one, or the tunes of an ABC collection."""
    converter = need("music21.converter", "music")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what music21 mends in a file is none of the user's
            # Not from music21's cache, which would be written beside other people's.
            score = converter.parse(path, forceSource=True, storePickle=False)
            instruments = score.recurse().getElementsByClass("Instrument")
            if any(instrument.transposition for instrument in instruments):  # a clarinet's C is written as D
                score = score.toSoundingPitch()
    except Exception as error:  # music21's readers raise whatever their parts do
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path} cannot be read as music ({words}): export it again, or leave it out.") from None
    tunes = getattr(score, "scores", None)
    if not tunes:
        yield path.name, score
        return
    for number, tune in enumerate(tunes, 1):
        yield f"{path.name}, tune {number}", tune


def _of_score(score: Any, name: str, frame: float, part: str | None) -> Piece:
    parts = [(str(p.partName or ""), p) for p in getattr(score, "parts", ())] or [("", score)]
    sounds = [
        (float(note.offset), float(note.offset) + float(note.quarterLength), pitch.midi)
        for chosen in _chosen(parts, name, part)
        for note in chosen.flatten().notes
        if "ChordSymbol" not in note.classes  # which says how to accompany, and is not played
        for pitch in getattr(note, "pitches", ())
    ]
    marks, meters = (list(score.recurse().getElementsByClass(kind)) for kind in ("MetronomeMark", "TimeSignature"))
    tempo = next((mark.getQuarterBPM() for mark in marks if mark.getQuarterBPM()), 120.0)
    return _of_sounds(sounds, name, frame, float(tempo), _meter(meters[0]) if meters else "4/4")


def _meter(signature: Any) -> str:
    """As a MIDI file can say it: 3+2/8 is 5/8 there."""
    return f"{signature.numerator}/{signature.denominator}"


def _of_midi(path: Path, frame: float, part: str | None) -> Piece:
    """A MIDI file, without its drums."""
    mido = need("mido", "music")
    try:
        file = mido.MidiFile(path)
        if file.ticks_per_beat < 1:
            raise ValueError("its beats have no length")
        tempo: float | None = None
        meter: str | None = None
        tracks: list[tuple[str, list[tuple[float, float, int]]]] = []
        for track in file.tracks:
            now, began, sounds = 0, dict[tuple[int, int], int](), list[tuple[float, float, int]]()
            for message in track:
                now += message.time
                if message.type == "set_tempo":
                    tempo = tempo or round(mido.tempo2bpm(message.tempo), 3)
                elif message.type == "time_signature":
                    meter = meter or f"{message.numerator}/{message.denominator}"
                elif message.type in ("note_on", "note_off") and message.channel != DRUMS:
                    key = (message.channel, message.note)
                    if key in began:
                        sounds.append((began.pop(key) / file.ticks_per_beat, now / file.ticks_per_beat, message.note))
                    if message.type == "note_on" and message.velocity:
                        began[key] = now
            if sounds:
                tracks.append((track.name, sounds))
    except (*DAMAGE, AttributeError, ArithmeticError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} cannot be read as MIDI ({words}): export it again, or leave it out.") from None
    sounds = [sound for chosen in _chosen(tracks, path.name, part) for sound in chosen]
    return _of_sounds(sounds, path.name, frame, tempo or 120.0, meter or "4/4")


def _of_sounds(sounds: list[tuple[float, float, int]], name: str, frame: float, tempo: float, meter: str) -> Piece:
    """A roll of notes (from, to, MIDI number), in quarter notes; what no piano has is left out."""
    placed = [
        (_nearest(start / frame), max(_nearest(start / frame) + 1, _nearest(end / frame)), number - LOWEST)
        for start, end, number in sounds
        if 0 <= number - LOWEST < KEYS
    ]
    length = max((end for _, end, _ in placed), default=2)
    if length * frame > LONGEST:
        raise UsageError(f"{name} lasts {length * frame:,.0f} quarter notes, and {LONGEST:,} are the most: leave it out.")
    roll = np.zeros((length, KEYS), np.uint8)
    for first, end, key in placed:
        roll[first:end, key] = 1
    return Piece(name, _sounding(roll, name), frame, tempo, meter)


def _nearest(place: float) -> int:
    """The nearest frame; half way it is the later one everywhere, where Python's `round` would take the even one."""
    return math.floor(place + 0.5 + 1e-6)


def _chosen(parts: Sequence[tuple[str, Any]], name: str, part: str | None) -> list[Any]:
    """All parts, or the one of a name or a number."""
    if part is None:
        return [content for _, content in parts]
    names = [own for own, _ in parts]
    if part in names:
        return [parts[names.index(part)][1]]
    if part.isdigit() and 1 <= int(part) <= len(parts):
        return [parts[int(part) - 1][1]]
    listed = ", ".join(f"{i} {own}".strip() for i, own in enumerate(names, 1)) or "none"
    raise UsageError(f"{name} has no part {part!r}: --part takes a name or a number of {listed}.")


def chorales(frame: float) -> list[Piece]:
    """The default music: Bach's chorales in four parts, as the corpus of the package music21 (BSD) has them."""
    corpus = need("music21.corpus", "music")
    files = [Path(path) for path in corpus.getComposer("bach") if Path(path).suffix == ".mxl"]
    return [piece for file in files for piece in read_file(file, frame)["all"]]


def split(parts: dict[str, list[Piece]], validation: float, test: float) -> dict[str, list[Piece]]:
    """Train, validation and test: as given, or where the hash of each piece's notes puts it.

    Raises:
        UsageError: a part would be empty.
    """
    found = parts
    if "all" in parts:
        found = {name: [] for name in ("train", "validation", "test")}
        for piece in parts["all"]:
            position = int.from_bytes(hashlib.sha256(piece.roll.tobytes()).digest()[:8], "big") / 2**64
            found["test" if position < test else "validation" if position < test + validation else "train"].append(piece)
    for name in ("train", "validation", "test"):
        if not found.get(name) and not (name == "test" and test == 0):
            raise UsageError(f"No piece is left for the {name} part: give more pieces, or change the fractions of the parts.")
    return {name: pieces for name, pieces in found.items() if pieces}


def transposed(roll: Array, steps: int) -> Array:
    """A roll (T, 88) so many semitones higher, or as far as no note falls off the keyboard."""
    keys = np.flatnonzero(roll.any(0))
    if keys.size:
        steps = int(np.clip(steps, -keys[0], KEYS - 1 - keys[-1]))
    return np.roll(roll, steps, axis=1)


def told_before(rolls: Array) -> Array:
    """What is known when each frame of rolls (..., T, 88) is foretold: the frames before, and of the first one nothing."""
    return np.concatenate([np.zeros_like(rolls[..., :1, :]), rolls[..., :-1, :]], axis=-2).astype(np.float32)


def key_name(key: int) -> str:
    """A key of the piano, from 0, as C4 is written."""
    return f"{NAMES[(key + LOWEST) % 12]}{(key + LOWEST) // 12 - 1}"


def held(roll: Array) -> list[tuple[int, int, int]]:
    """The notes of a roll as (key, first frame, frames): a key that sounds in frames one after the other is one note."""
    padded = np.pad(roll.astype(np.int8), ((1, 1), (0, 0)))
    found = []
    for key in range(roll.shape[1]):
        steps = np.diff(padded[:, key])
        found += [(key, int(a), int(b - a)) for a, b in zip(*(np.flatnonzero(steps == way) for way in (1, -1)), strict=True)]
    return sorted(found, key=lambda note: (note[1], note[0]))


def write_midi(piece: Piece, path: Path) -> None:
    """A MIDI file of a piece, with its tempo and time signature."""
    mido = need("mido", "music")
    numerator, denominator = map(int, piece.meter.split("/"))
    file = mido.MidiFile(ticks_per_beat=TICKS)
    track = file.add_track("piano")
    track.append(mido.MetaMessage("set_tempo", tempo=min(SLOWEST, max(1, mido.bpm2tempo(piece.tempo)))))
    track.append(mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator))
    # What ends comes before what begins at the same time.
    events = [
        (round(frame * piece.frame * TICKS), kind, key)
        for key, first, frames in held(piece.roll)
        for frame, kind in ((first, "note_on"), (first + frames, "note_off"))
    ]
    now = 0
    for tick, kind, key in sorted(events, key=lambda event: (event[0], event[1] == "note_on", event[2])):
        track.append(mido.Message(kind, note=key + LOWEST, velocity=64, time=tick - now))
        now = tick
    file.save(path)


def draw(pieces: Sequence[tuple[str, Array]], frame: float, path: Path) -> None:
    """A picture of rolls below one another, each with its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(len(pieces), figsize=(10, 2.6 * len(pieces)), layout="constrained", squeeze=False)
    for axes, (name, roll) in zip(grid[:, 0], pieces, strict=True):
        keys = np.flatnonzero(roll.any(0)) if roll.any() else np.array([39])
        low, high = max(0, int(keys[0]) - 2), min(KEYS, int(keys[-1]) + 3)
        extent = (0, len(roll) * frame, low - 0.5, high - 0.5)
        axes.imshow(roll[:, low:high].T, aspect="auto", origin="lower", extent=extent, cmap="Greys", interpolation="nearest")
        octaves = [key for key in range(low, high) if (key + LOWEST) % 12 == 0]
        axes.set(title=name, xlabel="quarter notes", yticks=octaves, yticklabels=map(key_name, octaves))
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)
