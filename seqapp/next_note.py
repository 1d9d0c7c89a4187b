"""The task `next-note`: music as a piano roll, foretold frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import pieces
from seqapp.arrays import read_npz
from seqapp.config import Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.errors import UsageError, need
from seqapp.generate import Wish
from seqapp.pieces import KEYS, Array, Piece, told_before
from seqapp.predict import Prediction
from seqapp.report import Report
from seqapp.roll_report import RollReport, baselines, figures
from seqapp.run import Run, check_file, replacing
from seqapp.sequences import Sequences, padded
from seqapp.step import KerasStepper, Stepper, compiled
from seqapp.study import Study

TOGETHER = 32  # pieces at once
LENGTH = 64  # frames that are generated where nothing is said
LIKELY = 5  # keys that a prediction tells the probabilities of


class NextNote:
    """All keys of the piano at once, each sounding or not, a frame after the other."""

    def defaults(self, own_data: bool) -> Config:
        """For some hundreds of pieces, which the default data, Bach's chorales, are too."""
        return Config(
            task="next-note",
            data=DataConfig(validation_fraction=0.1, test_fraction=0.1),
            model=ModelConfig(units=256, dropout=0.2, recurrent_dropout=0.1),
            training=TrainingConfig(epochs=40, patience=8, batch_size=16, bptt=128, learning_rate=4e-3),
        )

    def check_data(self, config: Config) -> None:
        for package in ("music21", "mido", "scipy"):
            need(package, "music")
        path = Path(config.data.data) if config.data.data else None
        # Notation takes too long to read it twice.
        if path and not path.is_dir() and not (path.is_file() and path.suffix.lower() in pieces.NOTATION):
            pieces.read(path, config.next_note.frame, config.next_note.part)

    def study(self, config: Config) -> Study:
        from seqapp.roll_study import RollStudy

        return RollStudy.of(config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], Report]:
        part = "data" if data else run.held_out
        rolls = {name: load_rolls(run.path / f"{name}_rolls.npz") for name in ("train", "validation", run.held_out)}
        if data:
            rolls["data"] = [piece.roll for piece in read_music(run, data, "--data")]
        known = run.kept_baselines(data)
        return lambda model: report_of(model, rolls, part, run.config.next_note.frame, known)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        found = read_music(run, source, "--input")

        def predict(model: Any) -> list[Prediction]:
            after = [np.concatenate([piece.roll, np.zeros((1, KEYS), np.uint8)]) for piece in found]
            logits = foretold(compiled(model), after)
            return [_prediction(piece.name, row[-1]) for piece, row in zip(found, logits, strict=True)]

        return predict

    def generator(self, run: Run, wish: Wish) -> Callable[[Any], str]:
        if wish.beam or wish.sampling.top_k or wish.sampling.top_p:
            raise UsageError("Keys sound independently of one another: leave out --beam, --top-k and --top-p.")
        path = Path(wish.output or run.path / "generated.mid")
        if path.suffix.lower() not in pieces.MIDI:
            raise UsageError(f"--output must end in .mid. Received: {path}")
        for made in (path, path.with_suffix(".png")):
            check_file(made, "--output")
        begun = Piece("a beginning", np.zeros((0, KEYS), np.uint8), run.config.next_note.frame)
        if wish.prompt:
            begun, *more = read_music(run, wish.prompt, "--prompt")
            if more:
                raise UsageError(
                    f"--prompt must be one piece: leave the others out. Received: {wish.prompt} with {1 + len(more)}"
                )

        def generate(model: Any) -> str:
            from seqapp.chain import Stepwise

            stepper = KerasStepper(Stepwise(model), KEYS)
            roll = continued(stepper, begun.roll, wish.length or LENGTH, wish.sampling.temperature, wish.rng)
            with replacing(path) as temporary:
                pieces.write_midi(replace(begun, roll=roll), temporary)
            picture = path.with_suffix(".png")
            with replacing(picture) as temporary:
                pieces.draw([(path.stem, roll)], begun.frame, temporary)
            return f"{picture}\n{path}"

        return generate


def read_music(run: Run, source: str, flag: str) -> list[Piece]:
    """The pieces of a file or folder, in frames as the run has them.

    Raises:
        UsageError: it cannot be read, or is standard input.
    """
    if source == "-":
        raise UsageError(f"Music goes on from a file: name one, {', '.join(pieces.SUFFIXES)}, with {flag}.")
    n = run.config.next_note
    return [piece for some in pieces.read(Path(source), n.frame, n.part).values() for piece in some]


def _prediction(name: str, logits: Array) -> Prediction:
    """The keys that are more likely to sound next than not, or the likeliest; and how likely the likeliest are."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    order = np.argsort(-p, kind="stable")
    told = sorted(np.flatnonzero(p > 0.5)) or [order[0]]
    likely = tuple((pieces.key_name(int(key)), float(p[key])) for key in order[:LIKELY])
    return Prediction(name, None, " ".join(pieces.key_name(int(key)) for key in told), float(p[told].min()), likely)


def foretold(model: Callable[[Array], Array], rolls: Sequence[Array]) -> list[Array]:
    """The logits (T, 88) of all frames of each piece, each from those before it."""
    some = Sequences(list(rolls), [np.zeros((), np.int32)] * len(rolls))
    found: dict[int, Array] = {}
    for picks in some.in_order_of_length(TOGETHER):
        x, lengths = padded([rolls[i] for i in picks])
        for i, length, logits in zip(picks, lengths, model(told_before(x)), strict=True):
            found[int(i)] = logits[:length].astype(np.float64)
    return [found[i] for i in range(len(rolls))]


def report_of(model: Any, rolls: dict[str, list[Array]], part: str, frame: float, known: Any = None) -> RollReport:
    """The figures of `part` and of the validation part, beside the baselines on `part`, if not `known`."""
    made = {name: foretold(compiled(model), rolls[name]) for name in dict.fromkeys(("validation", part))}
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
