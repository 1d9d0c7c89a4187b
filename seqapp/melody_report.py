"""How well the next notes of melodies are foretold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqapp.melody import END, PITCHES, Durations, Melody
from seqapp.ngram import KneserNey, tuned
from seqapp.pieces import draw
from seqapp.report import Report
from seqapp.run import replacing
from seqapp.scoring import Metrics, Scores
from seqapp.step import Array, log_softmax

SHOWN = 64  # notes in the picture
ORDER = 3


def log_likelihoods(logits: Array, codes: Array) -> Array:
    """Of pitch and duration of each note (..., 2), in nats, by logits (..., P + D); an end has no duration to tell."""
    pitch, duration = (log_softmax(part.astype(np.float64)) for part in np.split(logits, [PITCHES], -1))
    of_pitch = np.take_along_axis(pitch, codes[..., :1], -1)
    of_duration = np.take_along_axis(duration, np.maximum(codes[..., 1:], 0), -1)
    return np.where(codes < 0, 0.0, np.concatenate([of_pitch, of_duration], -1))


def likeliest(logits: Array) -> Array:
    """The codes (..., 2) of the likeliest pitch and duration."""
    return np.stack([part.argmax(-1) for part in np.split(logits, [PITCHES], -1)], -1)


def of_note(logits: Array, codes: Array) -> Scores:
    """Log-likelihood (B, T) of notes, codes (B, T, 2), and 0 where pitch and duration are the likeliest, else 1."""
    wrong = (likeliest(logits) != codes) & (codes >= 0)
    return log_likelihoods(logits, codes).sum(-1), wrong.any(-1).astype(np.int64)


def figures(logs: Array, right: Array, codes: Array) -> Metrics:
    """Of the log-likelihoods (T, 2) of notes, whether the likeliest pitch and duration were right (T, 2), and their codes.

    The end of a melody counts as a note; it has a pitch to be foretold and no duration.
    """
    sounding = codes[:, 1] >= 0
    count, lasting = len(codes), int(sounding.sum())
    return {
        "nats_per_note": {"value": -float(logs.sum(-1).mean()), "unit": "nats", "count": count},
        "pitch_nats": {"value": -float(logs[:, 0].mean()), "unit": "nats", "count": count},
        "duration_nats": {"value": -float(logs[sounding, 1].mean()), "unit": "nats", "count": lasting},
        "pitch_accuracy": {"value": float(right[:, 0].mean()), "unit": "fraction", "count": count},
        "duration_accuracy": {"value": float(right[sounding, 1].mean()), "unit": "fraction", "count": lasting},
    }


def figures_of(logits: Sequence[Array], melodies: Sequence[Array]) -> Metrics:
    """Of logits (T, P + D) for all notes of each melody, codes (T, 2)."""
    flat, codes = np.concatenate(logits), np.concatenate(melodies)
    return figures(log_likelihoods(flat, codes), likeliest(flat) == codes, codes)


def baselines(parts: dict[str, list[Array]], part: str, durations: int) -> dict[str, Metrics]:
    """Kneser-Ney of pitches and of durations, each by themselves, of order 1 and 3; and of order 3 of both as one token."""
    streams = {name: np.concatenate(parts[name]) for name in dict.fromkeys(("train", "validation", part))}
    wanted = streams[part]

    def each(order: int) -> Metrics:
        pitches = _scored({name: codes[:, 0] for name, codes in streams.items()}, part, PITCHES, order, END)
        # The end has no duration, and what is before the first one is a number that never follows.
        lasting = {name: codes[codes[:, 1] >= 0, 1] for name, codes in streams.items()}
        of_durations = _scored(lasting, part, durations + 1, order, durations)
        logs, right = np.zeros(wanted.shape), np.zeros(wanted.shape, bool)
        logs[:, 0], right[:, 0] = pitches
        logs[wanted[:, 1] >= 0, 1], right[wanted[:, 1] >= 0, 1] = of_durations
        return figures(logs, right, wanted)

    both = {name: codes[:, 0] * (durations + 1) + codes[:, 1] + 1 for name, codes in streams.items()}
    logs, right = _scored(both, part, PITCHES * (durations + 1), ORDER, END * (durations + 1))
    of_both = figures(np.c_[logs, np.zeros(len(logs))], np.c_[right, right], wanted)
    names = ("nats_per_note",)  # what is one token is not told apart
    return {
        "unigram": each(1),
        f"kneser_ney_{ORDER}": each(ORDER),
        f"kneser_ney_{ORDER}_of_both": {name: of_both[name] for name in names},
    }


def _scored(streams: dict[str, Array], part: str, size: int, order: int, before: int) -> tuple[Array, Array]:
    """Log-probability of each token of `part`, and whether it was the likeliest."""
    if order == 1:
        model = KneserNey.fit(streams["train"], size, 1)
    else:
        model = tuned(streams["train"], streams["validation"], size, order, before)
    logs, ranks = model.score(streams[part], before)
    return logs, ranks < 1


@dataclass(frozen=True)
class MelodyReport(Report):
    """The figures of one held-out part, of the model and of its baselines; `shown` are codes and logits of a melody."""

    loss = "nats_per_note"
    shown: tuple[Array, Array]
    durations: Durations

    def table(self, name: str) -> str:
        mine = self.mine
        lines = [f"{self.part}, {mine['nats_per_note']['count']:,} notes"]
        lines += [f"{'':24}{'nats a note':>14}{'pitch right':>14}{'duration right':>16}"]
        for label, row in {name: mine, **self.baselines}.items():
            right = "".join(
                f"{row[key]['value']:{width}.1%}" if key in row else " " * width
                for key, width in (("pitch_accuracy", 14), ("duration_accuracy", 16))
            )
            lines.append(f"{label.replace('_', '-'):24}{row['nats_per_note']['value']:14.3f}{right}".rstrip())
        lines.append(self.nats_below_best())
        return "\n".join(lines)

    def draw(self, folder: Path) -> None:
        """melody.png: the beginning of a held-out melody, and how likely each pitch was told to be, over each note."""
        codes, logits = (array[:SHOWN] for array in self.shown)
        codes, logits = codes[codes[:, 1] >= 0], logits[codes[:, 1] >= 0]
        melody = Melody("", self.durations.notes(codes))
        likely = np.exp(log_softmax(logits[:, :PITCHES].astype(np.float64)))[:, : PITCHES - 2]
        told = np.repeat(likely, melody.notes[:, 1], axis=0)
        with replacing(folder / "melody.png") as temporary:
            about = "how likely each pitch was, from what came before"
            draw([("the melody", melody.roll), (about, told)], Melody.frame, temporary)
