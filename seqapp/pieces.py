"""Pieces of music as piano rolls: read from notation, MIDI or arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp import mat_file
from seqapp.arrays import read_npz
from seqapp.errors import UsageError, need
from seqapp.scores import KEYS, LOWEST, MIDI, NOTATION, PARTS, Score, each, key_name, read_all, scores_of
from seqapp.untrusted import words_of

Array = NDArray[Any]
LONGEST = 1 << 20  # frames, six days of quarter notes: a damaged file may say more
SUFFIXES = (*MIDI, *NOTATION, ".mat", ".npz")


@dataclass(frozen=True)
class Piece:
    """A roll (T, 88) of 0 and 1, a frame each `frame` quarter notes; quarter notes a minute, and the time signature."""

    name: str
    roll: NDArray[np.uint8]
    frame: float
    tempo: float = 120.0
    meter: str = "4/4"

    @property
    def content(self) -> bytes:
        return self.roll.tobytes()

    @property
    def score(self) -> Score:
        """Its notes; a key that sounds in frames one after the other is one."""
        sounds = [(first * self.frame, (first + count) * self.frame, key + LOWEST) for key, first, count in held(self.roll)]
        return Score(self.name, tuple(sounds), self.tempo, self.meter)


def read(path: Path, frame: float, part: str | None = None) -> dict[str, list[Piece]]:
    """The pieces of a file, or of all files in a folder, under the name "all"; or as train, validation and test, where a `.mat`
    has `traindata`, `validdata` and `testdata`, or a folder such folders.

    Raises:
        UsageError: something cannot be read, or holds no note: which file or piece.
    """
    return read_all(path, SUFFIXES, partial(read_file, frame=frame, part=part))


def read_file(path: Path, frame: float, part: str | None = None) -> dict[str, list[Piece]]:
    """The pieces of one file, under the name "all", or of a divided `.mat` by their parts.

    Raises:
        UsageError: as `read` does.
    """
    suffix = path.suffix.lower()
    if suffix in (*MIDI, *NOTATION):
        return {"all": [_of_score(score, frame) for score in scores_of(path, part)]}
    if part is not None:
        raise UsageError(f"{path} holds rolls, which have no parts: leave --part out. Received: {part}")
    return _of_mat(path, frame) if suffix == ".mat" else {"all": _of_npz(path, frame)}


def _of_npz(path: Path, frame: float) -> list[Piece]:
    arrays = read_npz(path, "save rolls (T, 88) of 0 and 1 with numpy.savez(path, name=roll, ...).")
    return [_checked(f"{path.name}, {name}", roll, frame) for name, roll in arrays.items()]


def _of_mat(path: Path, frame: float) -> dict[str, list[Piece]]:
    wanted = {f"{name}data": part for name, part in PARTS.items()}
    try:
        content = mat_file.read(path, wanted)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as .mat ({words_of(error)}): save it again as version 5.") from None
    if not {"train", "validation", "test"} <= {wanted[name] for name in content}:
        raise UsageError(f"{path} must hold traindata, validdata and testdata, cells of rolls (T, 88).")
    return {
        wanted[name]: [_checked(f"{path.name}, {name}[{i}]", roll, frame) for i, roll in enumerate(rolls)]
        for name, rolls in content.items()
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


def _of_score(score: Score, frame: float) -> Piece:
    """A roll of the notes of a score; what no piano has is left out."""
    placed = [
        (_nearest(start / frame), max(_nearest(start / frame) + 1, _nearest(end / frame)), key)
        for start, end, key in score.of_piano
    ]
    frames = max((end for _, end, _ in placed), default=2)
    if frames > LONGEST:
        raise UsageError(f"{score.name} lasts {frames:,} frames, and {LONGEST:,} are the most: leave it out, or raise --frame.")
    roll = np.zeros((frames, KEYS), np.uint8)
    for first, end, key in placed:
        roll[first:end, key] = 1
    return Piece(score.name, _sounding(roll, score.name), frame, score.tempo, score.meter)


def _nearest(place: float) -> int:
    """The nearest frame; half way it is the later one everywhere, where Python's `round` would take the even one."""
    return math.floor(place + 0.5 + 1e-6)


def chorales(frame: float) -> list[Piece]:
    """The default music: Bach's chorales in four parts, as the corpus of the package music21 (BSD) has them."""
    corpus = need("music21.corpus", "music")
    files = [Path(path) for path in corpus.getComposer("bach") if Path(path).suffix == ".mxl"]
    return [piece for found in each(partial(read_file, frame=frame), files) for piece in found["all"]]


def transposed(roll: Array, steps: int) -> Array:
    """A roll (T, 88) so many semitones higher, or as far as no note falls off the keyboard."""
    keys = np.flatnonzero(roll.any(0))
    if keys.size:
        steps = int(np.clip(steps, -keys[0], KEYS - 1 - keys[-1]))
    return np.roll(roll, steps, axis=1)


def told_before(rolls: Array) -> Array:
    """What is known when each frame of rolls (..., T, 88) is foretold: the frames before, and of the first one nothing."""
    return np.concatenate([np.zeros_like(rolls[..., :1, :]), rolls[..., :-1, :]], axis=-2).astype(np.float32)


def held(roll: Array) -> list[tuple[int, int, int]]:
    """The notes of a roll as (key, first frame, frames): a key that sounds in frames one after the other is one note."""
    padded = np.pad(roll.astype(np.int8), ((1, 1), (0, 0)))
    found = []
    for key in range(roll.shape[1]):
        steps = np.diff(padded[:, key])
        found += [(key, int(a), int(b - a)) for a, b in zip(*(np.flatnonzero(steps == way) for way in (1, -1)), strict=True)]
    return sorted(found, key=lambda note: (note[1], note[0]))


def draw(pieces: Sequence[tuple[str, Array]], frame: float, path: Path) -> None:
    """A picture of rolls below one another, each with its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(len(pieces), figsize=(10, 2.6 * len(pieces)), layout="constrained", squeeze=False)
    for axes, (name, roll) in zip(grid[:, 0], pieces, strict=True):
        heard = roll.max(0) > 0.02  # what is less likely is white
        keys = np.flatnonzero(heard) if heard.any() else np.array([39])
        low, high = max(0, int(keys[0]) - 2), min(KEYS, int(keys[-1]) + 3)
        extent = (0, len(roll) * frame, low - 0.5, high - 0.5)
        axes.imshow(roll[:, low:high].T, aspect="auto", origin="lower", extent=extent, cmap="Greys", interpolation="nearest")
        octaves = [key for key in range(low, high) if (key + LOWEST) % 12 == 0]
        axes.set(title=name, xlabel="quarter notes", yticks=octaves, yticklabels=map(key_name, octaves))
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)
