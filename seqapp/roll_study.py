"""What a model of piano rolls learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from seqapp import pieces, roll_form
from seqapp.chain import build_chain
from seqapp.config import Config
from seqapp.music_study import MusicStudy, divided
from seqapp.pieces import Array, told_before
from seqapp.roll_report import RollReport, figures, how_often
from seqapp.run import Run
from seqapp.scores import KEYS


class RollStudy(MusicStudy):
    """See `seqapp.music_study.MusicStudy`; a piece is a roll (T, 88)."""

    suffix = "rolls"
    unit = measure = "nats a frame"

    def __init__(self, model: Any, parts: dict[str, list[Array]], config: Config) -> None:
        self.timestep = f"frames of {config.next_note.frame:g} quarter notes"
        super().__init__(model, parts, config)
        self.loss = FrameLoss()

    @classmethod
    def of(cls, config: Config) -> RollStudy:
        """The music that a configuration names, and a model with new weights."""
        path, frame = config.data.data, config.next_note.frame
        found = pieces.read(Path(path), frame, config.next_note.part) if path else {"all": pieces.chorales(frame)}
        parts = {name: [piece.roll for piece in some] for name, some in divided(found, config).items()}
        model = build_chain(config.model, KEYS, KEYS, "key_logits")
        # Else the first epochs would learn nothing but that most keys are silent.
        model.layers[-1].bias.assign(how_often(parts["train"]))
        return cls(model, parts, config)

    def transposed(self, piece: Array, steps: int) -> Array:
        return pieces.transposed(piece, steps)

    def told(self, pieces: Array) -> Array:
        return told_before(pieces)

    def foretold(self, pieces: list[Array]) -> list[Array]:
        return roll_form.foretold(self.compiled, pieces)

    def nats(self, logits: list[Array], pieces: list[Array]) -> float:
        return float(figures(logits, pieces)["nll_per_frame"]["value"])

    def keep(self, path: Path, pieces: Sequence[Array]) -> None:
        roll_form.save_rolls(path, pieces)

    def kept(self, run: Run, part: str) -> list[Array]:
        return roll_form.load_rolls(run.path / f"{part}_rolls.npz")

    def report(self, model: Any, part: str) -> RollReport:
        return roll_form.report_of(model, self.parts, part, self.config.next_note.frame)


@keras.saving.register_keras_serializable(package="seqapp")
class FrameLoss(keras.losses.Loss):
    """Nats of a frame: keys (B, T, 88) that sound independently, summed over the keys of logits (B, T, 88)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"reduction": "mean_with_sample_weight", **kwargs})

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.sum(ops.softplus(y_pred) - y_true * y_pred, axis=-1)
