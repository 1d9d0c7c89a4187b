"""Music as it is written down: the notes of MIDI files and of notation, and MIDI written again."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar
from xml.etree import ElementTree
from zipfile import ZipFile

from seqapp.arrays import DAMAGE
from seqapp.corpus import read_text
from seqapp.errors import UsageError, need
from seqapp.untrusted import check_archive, check_xml, words_of

LOWEST, KEYS = 21, 88  # the piano's, as MIDI numbers them
MIDI, NOTATION = (".mid", ".midi"), (".musicxml", ".mxl", ".xml", ".abc")
TICKS = 480  # in a quarter note, of a MIDI file
SLOWEST = 2**24 - 1  # microseconds in a quarter note that a MIDI file can say
DRUMS = 9  # the channel whose notes are no pitches
MUCH = 40  # files that are worth some processes, which take a second to start
BEATS = 64  # of a bar
TIED = 1e-6  # of a quarter note, between notes that a tie makes one: thirds are not exact
LONGEST = 1_000_000  # quarter notes, days of music: a damaged file may say more
PARTS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


class Notes(Protocol):
    @property
    def content(self) -> bytes:
        """What pieces that are equal have in common."""


T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P", bound=Notes)
Sound = tuple[float, float, int]  # from, to, in quarter notes, and the MIDI number


@dataclass(frozen=True)
class Score:
    """The notes of a piece; quarter notes a minute, and the time signature."""

    name: str
    sounds: tuple[Sound, ...]
    tempo: float = 120.0
    meter: str = "4/4"

    def __post_init__(self) -> None:
        length = max((end for _, end, _ in self.sounds), default=0.0)
        if length > LONGEST:
            raise UsageError(f"{self.name} lasts {length:,.0f} quarter notes, and {LONGEST:,} are the most: leave it out.")

    @property
    def of_piano(self) -> list[tuple[float, float, int]]:
        """The notes that a piano has, each with its key from 0 in place of the number."""
        return [(start, end, number - LOWEST) for start, end, number in self.sounds if 0 <= number - LOWEST < KEYS]


def key_name(key: int) -> str:
    """A key of the piano, from 0, as C4 is written."""
    return f"{NAMES[(key + LOWEST) % 12]}{(key + LOWEST) // 12 - 1}"


def read_all(path: Path, suffixes: Collection[str], read_file: Callable[[Path], dict[str, list[T]]]) -> dict[str, list[T]]:
    """The pieces of a file, or of all files in a folder, under the name "all"; or as train, validation and test, where a file
    is divided so, or a folder has such folders.

    Raises:
        UsageError: something cannot be read, or holds no note: which file or piece.
    """
    listed = ", ".join(suffixes)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes)
        if not files:
            raise UsageError(f"The folder {path} holds no music: expected files {listed}.")
    elif not path.exists():
        raise UsageError(f"There is no {path}: give a file {listed}, or a folder of them.")
    elif path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} should be one of {listed}.")
    else:
        files = [path]
    found: dict[str, list[T]] = {}
    for file, content in zip(files, each(read_file, files), strict=True):
        inside = file.relative_to(path).parts[0] if path.is_dir() else ""
        for name, pieces in content.items():
            found.setdefault(PARTS.get(inside, name), []).extend(pieces)
    if not any(found.values()):
        raise UsageError(f"{path} holds no piece: give at least one.")
    if "all" in found and len(found) > 1:
        raise UsageError(
            f"{path} is divided into {', '.join(sorted(set(found) - {'all'}))} in part: divide all of it, or nothing."
        )
    return found


def each(read_file: Callable[[Path], R], files: Sequence[Path]) -> list[R]:
    """What is read of each file; much notation, which takes its time, by all cores at once.

    Raises:
        UsageError: as `read_file` does.
    """
    if sum(file.suffix.lower() in NOTATION for file in files) < MUCH:
        return [read_file(file) for file in files]
    from tqdm import tqdm

    # A process that has loaded TensorFlow must not be forked.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = pool.map(read_file, files, chunksize=8)
        return list(tqdm(found, "reading music", len(files), unit=" files", leave=False))


def scores_of(path: Path, part: str | None = None) -> list[Score]:
    """The scores of a file of MIDI or notation: all parts, or the one of a name or number; never its drums.

    Raises:
        UsageError: the file cannot be read, or has no such part.
    """
    if path.suffix.lower() in MIDI:
        return [_of_midi(path, part)]
    return [_of_score(score, name, part) for name, score in _scores(path)]


def split(parts: dict[str, list[P]], validation: float, test: float) -> dict[str, list[P]]:
    """Train, validation and test: as given, or where the hash of each piece's notes puts it.

    Raises:
        UsageError: a part would be empty.
    """
    found = parts
    if "all" in parts:
        found = {name: [] for name in ("train", "validation", "test")}
        for piece in parts["all"]:
            position = int.from_bytes(hashlib.sha256(piece.content).digest()[:8], "big") / 2**64
            found["test" if position < test else "validation" if position < test + validation else "train"].append(piece)
    for name in ("train", "validation", "test"):
        if not found.get(name) and not (name == "test" and test == 0):
            raise UsageError(f"No piece is left for the {name} part: give more pieces, or change the fractions of the parts.")
    return {name: pieces for name, pieces in found.items() if pieces}


def _scores(path: Path) -> Iterator[tuple[str, Any]]:
    """The scores of a file: one, or the tunes of an ABC collection."""
    converter = need("music21.converter", "music")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what music21 mends in a file is none of the user's
            # Not from the file itself, beside which music21 would keep a pickle.
            if path.suffix.lower() == ".abc":
                # Of 3+2+3/8 music21 would make 323/8.
                text = re.sub(r"M:([^\n\]/%]*\d[^\n\]/%]*)", lambda found: f"M:{_beats(found[1])}", read_text(path))
                with _bars_as_written():
                    score = converter.parseData(text, format="abc")
            else:
                score = converter.parseData(_xml(path), format="musicxml")
            instruments = score.recurse().getElementsByClass("Instrument")
            if any(instrument.transposition for instrument in instruments):  # a clarinet's C is written as D
                score = score.toSoundingPitch()
    except UsageError:
        raise
    except Exception as error:  # music21's readers raise whatever their parts do
        raise UsageError(f"{path} cannot be read as music ({words_of(error)}): export it again, or leave it out.") from None
    tunes = getattr(score, "scores", None)
    if not tunes:
        yield path.name, score
        return
    for number, tune in enumerate(tunes, 1):
        yield f"{path.name}, tune {number}", tune


@contextmanager
def _bars_as_written() -> Iterator[None]:
    """Keeps music21 from dividing bars of ABC that overflow: it looks for a meter of the rest, for minutes if that is long."""
    translate: Any = need("music21.abcFormat.translate", "music")
    divide, translate.reBar = translate.reBar, lambda *_, **__: None
    try:
        yield
    finally:
        translate.reBar = divide


def _xml(path: Path) -> str:
    """The MusicXML of a file, compressed or not, in any encoding that it declares."""
    content = path.read_bytes()
    if content.startswith(b"PK"):
        with ZipFile(path) as archive:
            check_archive(archive, len(content))
            inside = [
                name for name in archive.namelist() if "META-INF" not in name and name.endswith((".musicxml", ".xml", ".mxl"))
            ]
            if not inside:
                raise ValueError("the archive has no file .musicxml or .xml")
            content = archive.read(inside[0])
    check_xml(content)
    tree = ElementTree.fromstring(content)
    for beats in tree.iter("beats"):
        _beats(beats.text or "")
    return ElementTree.tostring(tree, "unicode")


def _beats(bar: str) -> int:
    """How many beats there are in a bar of so many, like 3+2+3.

    Raises:
        ValueError: more than `BEATS`, which music21 would need minutes to divide.
    """
    beats = sum(map(int, re.findall(r"\d+", bar)))
    if beats > BEATS:
        raise ValueError(f"a bar of {beats} beats, where {BEATS} are the most")
    return beats


def _of_score(score: Any, name: str, part: str | None) -> Score:
    parts = [(str(p.partName or ""), p) for p in getattr(score, "parts", ())] or [("", score)]
    sounds = [sound for chosen in _chosen(parts, name, part) for sound in _sounds(chosen)]
    marks, meters = (list(score.recurse().getElementsByClass(kind)) for kind in ("MetronomeMark", "TimeSignature"))
    tempo = next(filter(None, map(_tempo, marks)), 120.0)
    return Score(name, tuple(sounds), float(tempo), _meter(meters[0]) if meters else "4/4")


def _sounds(part: Any) -> list[Sound]:
    """What is heard of a part: of notes that are tied, one."""
    sounds: list[Sound] = []
    last: dict[int, int] = {}  # where the last sound of a key is
    for note in part.flatten().notes:
        if "ChordSymbol" in note.classes:  # which says how to accompany, and is not played
            continue
        begin = float(note.offset)
        end = begin + float(note.quarterLength)
        for one in getattr(note, "notes", (note,)):
            for key in (pitch.midi for pitch in getattr(one, "pitches", ())):
                before = sounds[last[key]] if key in last and one.tie and one.tie.type in ("continue", "stop") else None
                if before and abs(before[1] - begin) < TIED:
                    sounds[last[key]] = (before[0], end, key)
                else:
                    last[key] = len(sounds)
                    sounds.append((begin, end, key))
    return sounds


def _tempo(mark: Any) -> float | None:
    """Quarter notes a minute, where a mark says so."""
    try:
        return mark.getQuarterBPM()
    except ZeroDivisionError:  # it counts notes of no length
        return None


def _meter(signature: Any) -> str:
    """As a MIDI file can say it: 3+2/8 is 5/8 there."""
    return f"{signature.numerator}/{signature.denominator}"


def _of_midi(path: Path, part: str | None) -> Score:
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
    except (*DAMAGE, AttributeError, ArithmeticError, mido.KeySignatureError) as error:
        raise UsageError(f"{path} cannot be read as MIDI ({words_of(error)}): export it again, or leave it out.") from None
    sounds = [sound for chosen in _chosen(tracks, path.name, part) for sound in chosen]
    return Score(path.name, tuple(sounds), tempo or 120.0, meter or "4/4")


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


def write_midi(score: Score, path: Path) -> None:
    """A MIDI file of a score, with its tempo and time signature."""
    mido = need("mido", "music")
    numerator, denominator = map(int, score.meter.split("/"))
    file = mido.MidiFile(ticks_per_beat=TICKS)
    track = file.add_track("piano")
    track.append(mido.MetaMessage("set_tempo", tempo=min(SLOWEST, max(1, mido.bpm2tempo(score.tempo)))))
    track.append(mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator))
    # What ends comes before what begins at the same time.
    events = [
        (round(place * TICKS), kind, number)
        for start, end, number in score.sounds
        for place, kind in ((start, "note_on"), (end, "note_off"))
    ]
    now = 0
    for tick, kind, number in sorted(events, key=lambda event: (event[0], event[1] == "note_on", event[2])):
        track.append(mido.Message(kind, note=number, velocity=64, time=tick - now))
        now = tick
    file.save(path)
