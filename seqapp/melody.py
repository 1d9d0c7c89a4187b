"""Melodies: one note after the other, each a pitch and a duration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqapp.arrays import read_npz
from seqapp.errors import UsageError, need
from seqapp.run import write_json
from seqapp.scores import KEYS, LOWEST, MIDI, NOTATION, Score, Sound, each, key_name, read_all, scores_of
from seqapp.step import Array
from seqapp.untrusted import json_of

SUFFIXES = (*MIDI, *NOTATION)
GRID = 24  # ticks in a quarter note: 32nds and the triplets of 16ths are whole numbers of them
BREATH = 3  # ticks, a 32nd: a shorter silence is the way a note is played, and belongs to it
REST, END = KEYS, KEYS + 1  # pitches behind the keys of the piano, from 0
PITCHES = KEYS + 2


@dataclass(frozen=True, eq=False)
class Melody:
    """Notes (N, 2) of a pitch, a key of the piano from 0 or `REST`, and of ticks that it lasts; tempo and meter as a score."""

    name: str
    notes: Array
    tempo: float = 120.0
    meter: str = "4/4"

    frame = 1 / GRID  # quarter notes in a frame of `roll`

    @classmethod
    def of(cls, score: Score) -> Self:
        """The highest notes of a score: of those that begin together one, which ends where the next begins (the skyline of
        Uitdenbogerd and Zobel 1998). Notes of no length, such as grace notes, are left out.

        Raises:
            UsageError: fewer than two notes are left.
        """
        ends: dict[int, tuple[int, int]] = {}
        for start, end, key in score.of_piano:
            first, last = round(start * GRID), round(end * GRID)
            if last > first:
                ends[first] = max(ends.get(first, (-1, 0)), (key, last))
        if len(ends) < 2:
            raise UsageError(f"{score.name} {'is silent' if not ends else 'has but one note'}: leave it out.")
        notes: list[tuple[int, int]] = []
        onsets = sorted(ends)
        for first, following in zip(onsets, [*onsets[1:], None], strict=True):
            key, last = ends[first]
            silence = 0 if following is None else following - last
            if silence < BREATH and following is not None:
                last, silence = following, 0
            notes.append((key, last - first))
            if silence:
                notes.append((REST, silence))
        return cls(score.name, np.array(notes, np.int32), score.tempo, score.meter)

    @property
    def content(self) -> bytes:
        return self.notes.tobytes()

    @property
    def score(self) -> Score:
        ends = np.cumsum(self.notes[:, 1])
        sounds: list[Sound] = [
            (float(end - ticks) / GRID, float(end) / GRID, int(pitch) + LOWEST)
            for (pitch, ticks), end in zip(self.notes, ends, strict=True)
            if pitch != REST
        ]
        return Score(self.name, tuple(sounds), self.tempo, self.meter)

    @property
    def roll(self) -> Array:
        """A picture (T, 88) of it, a frame a tick; a note ends a little early, so that the next one is another."""
        roll = np.zeros((int(self.notes[:, 1].sum()), KEYS), np.uint8)
        now = 0
        for pitch, ticks in self.notes:
            if pitch != REST:
                roll[now : now + max(1, ticks - 2), pitch] = 1
            now += int(ticks)
        return roll


def read(path: Path, part: str | None = None) -> dict[str, list[Melody]]:
    """The melodies of a file or folder, as `seqapp.scores.read_all` has them.

    Raises:
        UsageError: something cannot be read, or is no melody: which file or tune.
    """
    return read_all(path, SUFFIXES, partial(read_file, part=part))


def read_file(path: Path, part: str | None = None) -> dict[str, list[Melody]]:
    """The melodies of one file, under the name "all".

    Raises:
        UsageError: as `read` does.
    """
    return {"all": [Melody.of(score) for score in scores_of(path, part)]}


def tunes() -> list[Melody]:
    """The default melodies: fiddle tunes that William Ryan collected in 1883, as the corpus of the package music21 has them."""
    corpus = need("music21.corpus", "music")
    files = sorted(Path(path) for path in corpus.getComposer("ryansMammoth"))
    return [tune for found in each(read_file, files) for tune in found["all"]]


def pitch_name(pitch: int) -> str:
    return {REST: "rest", END: "end"}.get(pitch) or key_name(pitch)


@dataclass(frozen=True)
class Durations:
    """The durations that a model knows, in ticks, the shortest first; and melodies as it is told them.

    A melody is coded as (N + 1, 2) numbers of a pitch and a duration; the last row is `END`, which has no duration, -1.
    """

    ticks: tuple[int, ...]

    @classmethod
    def learn(cls, melodies: Iterable[Melody]) -> Self:
        """Those that occur more than once, or all where none does."""
        counts = Counter(int(ticks) for melody in melodies for ticks in melody.notes[:, 1])
        return cls(tuple(sorted(t for t, count in counts.items() if count > 1) or sorted(counts)))

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def width(self) -> int:
        """Of what a model is told and tells: a place for each pitch, then one for each duration."""
        return PITCHES + len(self)

    def coded(self, melody: Melody) -> Array:
        """The codes (N + 1, 2) of a melody; a duration that is not known becomes the nearest one, of two the shorter."""
        known = np.array(self.ticks)
        nearest = np.abs(melody.notes[:, 1:] - known).argmin(1)
        return np.r_[np.c_[melody.notes[:, 0], nearest], [[END, -1]]].astype(np.int32)

    def notes(self, codes: Array) -> Array:
        """Notes (N, 2) of codes (N, 2) without the end."""
        return np.c_[codes[:, 0], np.array(self.ticks)[codes[:, 1]]].astype(np.int32)

    def one_hot(self, codes: Array) -> Array:
        """Codes (..., 2) as features (..., width): a one for the pitch, and one for the duration."""
        pitches, durations = np.eye(PITCHES, dtype=np.float32), np.eye(len(self), dtype=np.float32)
        return np.concatenate([pitches[codes[..., 0]], durations[codes[..., 1]]], -1)

    def told(self, codes: Array) -> Array:
        """What is known when each note of codes (..., T, 2) is foretold: the note before, and of the first one zeros."""
        before = self.one_hot(codes[..., :-1, :])
        return np.concatenate([np.zeros_like(before, shape=(*codes.shape[:-2], 1, self.width)), before], -2)

    def as_json(self) -> dict[str, Any]:
        """What another program must know to run a model, durations in quarter notes."""
        return {
            "pitches": {"lowest_midi_number": LOWEST, "keys": KEYS, "rest": REST, "end": END},
            "durations": [ticks / GRID for ticks in self.ticks],
        }

    def save(self, path: Path) -> None:
        write_json(path, self.as_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UsageError: the file is missing or damaged.
        """
        try:
            quarters = json_of(path.read_text("utf-8"))["durations"]
            ticks = tuple(round(quarter * GRID) for quarter in quarters)
            if not ticks or list(ticks) != sorted(set(ticks)) or ticks[0] < 1:
                raise ValueError("its durations should be above 0 and rise")
            return cls(ticks)
        except FileNotFoundError:
            raise UsageError(f"There is no {path}: a run of melodies keeps its durations there; train again.") from None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UsageError(f"{path} is damaged ({error}): restore it, or train again.") from None


def transposed(codes: Array, steps: int) -> Array:
    """Codes (T, 2) so many semitones higher, or as far as no note falls off the keyboard."""
    keys = codes[codes[:, 0] < KEYS, 0]
    if keys.size:
        steps = int(np.clip(steps, -keys.min(), KEYS - 1 - keys.max()))
    moved = codes.copy()
    moved[codes[:, 0] < KEYS, 0] += steps
    return moved


def save_codes(path: Path, melodies: Sequence[Array]) -> None:
    np.savez_compressed(path, lengths=np.array([len(codes) for codes in melodies]), codes=np.concatenate(melodies))


def load_codes(path: Path, durations: Durations) -> list[Array]:
    """Reads what `save_codes` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    arrays = read_npz(path, "restore it, or train again.")
    try:
        codes, lengths = arrays["codes"].astype(np.int32), arrays["lengths"]
        if codes.shape[1:] != (2,) or lengths.sum() != len(codes) or lengths.min() < 1:
            raise ValueError("its parts do not fit together")
        if (codes < [0, -1]).any() or (codes >= [PITCHES, len(durations)]).any():
            raise ValueError("it has pitches or durations that do not exist")
        return list(np.split(codes, np.cumsum(lengths)[:-1]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}): restore it, or train again.") from None
