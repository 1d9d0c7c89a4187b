"""Music as a piano roll: all keys of the piano at once, each sounding or not, a frame after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import pieces
from seqapp.arrays import read_npz
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.generate import Wish
from seqapp.pieces import Array, Piece, told_before
from seqapp.predict import Prediction
from seqapp.report import Report
from seqapp.roll_report import RollReport, baselines, figures
from seqapp.run import Run
from seqapp.scores import KEYS, key_name
from seqapp.sequences import outputs_of
from seqapp.step import KerasStepper, Stepper, compiled
from seqapp.study import Study
from seqapp.task_config import NextNoteConfig

LENGTH = 64  # frames that are generated where nothing is said
LIKELY = 5  # keys that a prediction tells the probabilities of


class RollForm:
    """See `seqapp.next_note.Form`: an array (T, 88) of 0 and 1 for each piece."""

    suffixes = pieces.SUFFIXES

    def __init__(self, config: NextNoteConfig) -> None:
        self.frame, self.part = config.frame, config.part

    def read(self, path: Path) -> dict[str, list[Piece]]:
        return pieces.read(path, self.frame, self.part)

    def study(self, config: Config) -> Study:
        from seqapp.roll_study import RollStudy

        return RollStudy.of(config)

    def kept(self, run: Run, part: str) -> list[Array]:
        return load_rolls(run.path / f"{part}_rolls.npz")

    def written(self, run: Run, pieces: list[Piece]) -> list[Array]:
        return [piece.roll for piece in pieces]

    def report(self, run: Run, model: Any, parts: dict[str, list[Array]], part: str, known: Any) -> Report:
        return report_of(model, parts, part, self.frame, known)

    def predictions(self, run: Run, model: Any, pieces: list[Piece]) -> list[Prediction]:
        after = [np.concatenate([piece.roll, np.zeros((1, KEYS), np.uint8)]) for piece in pieces]
        logits = foretold(compiled(model), after)
        return [_prediction(piece.name, row[-1]) for piece, row in zip(pieces, logits, strict=True)]

    def check_wish(self, wish: Wish) -> None:
        if wish.beam or wish.sampling.top_k or wish.sampling.top_p:
            raise UsageError("Keys sound independently of one another: leave out --beam, --top-k and --top-p.")

    def generated(self, run: Run, model: Any, begun: Piece | None, wish: Wish) -> Piece:
        from seqapp.chain import Stepwise

        piece = begun or Piece("a beginning", np.zeros((0, KEYS), np.uint8), self.frame)
        stepper = KerasStepper(Stepwise(model), KEYS)
        roll = continued(stepper, piece.roll, wish.length or LENGTH, wish.sampling.temperature, wish.rng)
        return replace(piece, roll=roll)


def _prediction(name: str, logits: Array) -> Prediction:
    """The keys that are more likely to sound next than not, or the likeliest; and how likely the likeliest are."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    order = np.argsort(-p, kind="stable")
    told = sorted(np.flatnonzero(p > 0.5)) or [order[0]]
    likely = tuple((key_name(int(key)), float(p[key])) for key in order[:LIKELY])
    return Prediction(name, None, " ".join(key_name(int(key)) for key in told), float(p[told].min()), likely)


def foretold(model: Callable[[Array], Array], rolls: Sequence[Array]) -> list[Array]:
    """The logits (T, 88) of all frames of each piece, each from those before it."""
    return outputs_of(model, [told_before(roll) for roll in rolls])


def report_of(model: Any, rolls: dict[str, list[Array]], part: str, frame: float, known: Any = None) -> RollReport:
    """The figures of `part` and of the validation part, beside the baselines on `part`, if not `known`."""
    run = compiled(model)
    made = {name: foretold(run, rolls[name]) for name in dict.fromkeys(("validation", part))}
    found = {name: figures(logits, rolls[name]) for name, logits in made.items()}
    shown = rolls[part][0], made[part][0]
    return RollReport(part, found, baselines(rolls["train"], rolls[part]) if known is None else known, shown, frame)


def continued(model: Stepper, roll: Array, length: int, temperature: float, rng: np.random.Generator) -> Array:
    """A roll (T, 88) and `length` frames more, each key drawn by itself; at temperature 0 it sounds where that is likelier."""
    logits, states = model.sequence(np.concatenate([np.zeros((1, KEYS), np.float32), roll])[None], model.initial_states(1))
    now, frames = logits[0, -1], [roll.astype(np.uint8)]
    for _ in range(length):
        scores = now.astype(np.float64)
        if temperature == 0:
            drawn = scores > 0
        else:
            drawn = rng.random(KEYS) < 1 / (1 + np.exp(np.clip(-scores / temperature, -700, 700)))
        frames.append(drawn[None].astype(np.uint8))
        logits, states = model.step(frames[-1].astype(np.float32), states)
        now = logits[0]
    return np.concatenate(frames)


def save_rolls(path: Path, rolls: Sequence[Array]) -> None:
    np.savez_compressed(path, lengths=np.array([len(roll) for roll in rolls]), rolls=np.packbits(np.concatenate(rolls), axis=1))


def load_rolls(path: Path) -> list[Array]:
    """Reads what `save_rolls` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    arrays = read_npz(path, "restore it, or train again.")
    try:
        whole, lengths = np.unpackbits(arrays["rolls"], axis=1, count=KEYS), arrays["lengths"]
        if lengths.sum() != len(whole) or lengths.min() < 1:
            raise ValueError("its parts do not fit together")
        return list(np.split(whole, np.cumsum(lengths)[:-1]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}): restore it, or train again.") from None
