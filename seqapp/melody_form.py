"""Music as a melody: a pitch and a duration at once, a note after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import melody
from seqapp.config import Config
from seqapp.decoding import Sampling, drawn
from seqapp.errors import UsageError
from seqapp.generate import Wish
from seqapp.melody import END, PITCHES, REST, Durations, Melody, load_codes, pitch_name
from seqapp.melody_report import MelodyReport, baselines, figures_of
from seqapp.predict import Prediction
from seqapp.report import Report
from seqapp.run import Run
from seqapp.sequences import outputs_of
from seqapp.step import Array, KerasStepper, Stepper, compiled, log_softmax
from seqapp.study import Study
from seqapp.task_config import NextNoteConfig

LENGTH = 64  # notes that are generated at most where nothing is said
LIKELY = 5  # notes that a prediction tells the probabilities of


class MelodyForm:
    """See `seqapp.next_note.Form`: codes (N + 1, 2) of a pitch and a duration for each melody, as `seqapp.melody` has them."""

    suffixes = melody.SUFFIXES

    def __init__(self, config: NextNoteConfig) -> None:
        self.part = config.part

    def read(self, path: Path) -> dict[str, list[Melody]]:
        return melody.read(path, self.part)

    def study(self, config: Config) -> Study:
        from seqapp.melody_study import MelodyStudy

        return MelodyStudy.of(config)

    def kept(self, run: Run, part: str) -> list[Array]:
        return load_codes(run.path / f"{part}_melodies.npz", durations_of(run))

    def written(self, run: Run, pieces: list[Melody]) -> list[Array]:
        return [durations_of(run).coded(piece) for piece in pieces]

    def report(self, run: Run, model: Any, parts: dict[str, list[Array]], part: str, known: Any) -> Report:
        return report_of(model, parts, part, durations_of(run), known)

    def predictions(self, run: Run, model: Any, pieces: list[Melody]) -> list[Prediction]:
        durations = durations_of(run)
        # What is told after the last note is what stands at the end.
        logits = outputs_of(compiled(model), [durations.told(durations.coded(piece)) for piece in pieces])
        return [_prediction(piece.name, row[-1], durations) for piece, row in zip(pieces, logits, strict=True)]

    def check_wish(self, wish: Wish) -> None:
        if wish.beam:
            raise UsageError("A melody is drawn note by note: leave out --beam, and say --temperature 0 for the likeliest.")

    def generated(self, run: Run, model: Any, begun: Melody | None, wish: Wish) -> Melody:
        from seqapp.chain import Stepwise

        durations = durations_of(run)
        stepper = KerasStepper(Stepwise(model), durations.width)
        codes = np.zeros((0, 2), np.int32) if begun is None else durations.coded(begun)[:-1]
        added = list(continued(stepper, durations, codes, wish.length, wish.sampling, wish.rng))
        notes = durations.notes(np.array(added, np.int32).reshape(-1, 2))
        if begun is None:
            return Melody("a beginning", notes)
        return Melody(begun.name, np.r_[begun.notes, notes], begun.tempo, begun.meter)


def durations_of(run: Run) -> Durations:
    return Durations.load(run.path / "melody.json")


def report_of(model: Any, parts: dict[str, list[Array]], part: str, durations: Durations, known: Any = None) -> MelodyReport:
    """The figures of `part` and of the validation part, beside the baselines on `part`, if not `known`."""
    run = compiled(model)
    made = {name: foretold(run, parts[name], durations) for name in dict.fromkeys(("validation", part))}
    found = {name: figures_of(logits, parts[name]) for name, logits in made.items()}
    beside = baselines(parts, part, len(durations)) if known is None else known
    return MelodyReport(part, found, beside, (parts[part][0], made[part][0]), durations)


def foretold(model: Callable[[Array], Array], melodies: list[Array], durations: Durations) -> list[Array]:
    """The logits (T, P + D) of all notes of each melody, its end included, each from those before it."""
    return outputs_of(model, [durations.told(codes) for codes in melodies])


def _prediction(name: str, logits: Array, durations: Durations) -> Prediction:
    """The likeliest pitches, each with the likeliest duration, which is told independently of it; an end has none."""
    pitch, duration = (np.exp(log_softmax(part)) for part in np.split(logits, [PITCHES]))
    longest = int(duration.argmax())
    lasting = f"{durations.ticks[longest] / melody.GRID:g}"
    likely = tuple(
        ("end", float(pitch[i])) if i == END else (f"{pitch_name(int(i))} {lasting}", float(pitch[i] * duration[longest]))
        for i in np.argsort(-pitch, kind="stable")[:LIKELY]
    )
    return Prediction(name, None, *likely[0], likely)


def continued(
    model: Stepper, durations: Durations, codes: Array, length: int | None, sampling: Sampling, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Codes of a pitch and a duration that go on from codes (N, 2): `length` notes, or else up to the end or `LENGTH` notes."""
    told = np.concatenate([np.zeros((1, durations.width), np.float32), durations.one_hot(codes)])
    outputs, states = model.sequence(told[None], model.initial_states(1))
    logits, last = outputs[0, -1], int(codes[-1, 0]) if len(codes) else REST
    for _ in range(length or LENGTH):
        # A rest after a rest, or before the first note, would be one that says nothing; an end that is not asked for, no note.
        banned = [*([REST] if last == REST else []), *([END] if length or last == REST else [])]
        last = drawn(sampling.probabilities(logits[:PITCHES], banned), rng)
        if last == END:
            return
        duration = drawn(sampling.probabilities(logits[PITCHES:]), rng)
        yield last, duration
        outputs, states = model.step(durations.one_hot(np.array([[last, duration]])), states)
        logits = outputs[0]
