"""What a model of melodies learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from seqapp import melody, melody_form
from seqapp.chain import build_chain
from seqapp.config import Config
from seqapp.melody import PITCHES, Durations
from seqapp.melody_report import MelodyReport, figures_of
from seqapp.music_study import MusicStudy, divided
from seqapp.run import Run
from seqapp.step import Array


class MelodyStudy(MusicStudy):
    """See `seqapp.music_study.MusicStudy`; a piece is the codes (T, 2) of a melody, its end included."""

    suffix, timestep = "melodies", "notes"
    unit = measure = "nats a note"

    def __init__(self, model: Any, parts: dict[str, list[Array]], config: Config, durations: Durations) -> None:
        super().__init__(model, parts, config)
        self.durations = durations
        self.loss = NoteLoss()
        self.summary = f"{len(durations)} durations; {self.summary}"

    @classmethod
    def of(cls, config: Config) -> MelodyStudy:
        """The melodies that a configuration names, and a model with new weights."""
        path = config.data.data
        found = melody.read(Path(path), config.next_note.part) if path else {"all": melody.tunes()}
        melodies = divided(found, config)
        durations = Durations.learn(melodies["train"])
        parts = {name: [durations.coded(one) for one in some] for name, some in melodies.items()}
        model = build_chain(config.model, durations.width, durations.width, "note_logits")
        return cls(model, parts, config, durations)

    def transposed(self, piece: Array, steps: int) -> Array:
        return melody.transposed(piece, steps)

    def told(self, pieces: Array) -> Array:
        return self.durations.told(pieces)

    def foretold(self, pieces: list[Array]) -> list[Array]:
        return melody_form.foretold(self.compiled, pieces, self.durations)

    def nats(self, logits: list[Array], pieces: list[Array]) -> float:
        return float(figures_of(logits, pieces)["nats_per_note"]["value"])

    def keep(self, path: Path, pieces: Sequence[Array]) -> None:
        melody.save_codes(path, pieces)

    def save(self, run: Run) -> None:
        self.durations.save(run.path / "melody.json")
        super().save(run)

    def kept(self, run: Run, part: str) -> list[Array]:
        return melody.load_codes(run.path / f"{part}_melodies.npz", self.durations)

    def report(self, model: Any, part: str) -> MelodyReport:
        return melody_form.report_of(model, self.parts, part, self.durations)


@keras.saving.register_keras_serializable(package="seqapp")
class NoteLoss(keras.losses.Loss):
    """Nats of a note: codes (B, T, 2) of a pitch and a duration, independent in logits (B, T, P + D); -1 is no duration."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"reduction": "mean_with_sample_weight", **kwargs})

    def call(self, y_true: Any, y_pred: Any) -> Any:
        codes = ops.cast(y_true, "int32")
        pitch, duration = codes[..., 0], codes[..., 1]
        of_pitch = ops.sparse_categorical_crossentropy(pitch, y_pred[..., :PITCHES], from_logits=True)
        of_duration = ops.sparse_categorical_crossentropy(ops.maximum(duration, 0), y_pred[..., PITCHES:], from_logits=True)
        return of_pitch + ops.where(duration < 0, 0.0, of_duration)
