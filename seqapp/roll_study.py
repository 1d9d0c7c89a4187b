"""What a model of music learns from: stretches of piano rolls, in another key in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from seqapp import pieces
from seqapp.batching import generated
from seqapp.chain import build_chain
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.next_note import foretold, load_rolls, report_of, save_rolls
from seqapp.pieces import KEYS, Array, told_before
from seqapp.roll_report import RollReport, figures, how_often
from seqapp.run import Run
from seqapp.sequences import Sequences, padded
from seqapp.step import compiled


class RollStudy:
    """See `seqapp.study.Study`; `rolls` are those of each part."""

    def __init__(self, model: Any, rolls: dict[str, list[Array]], config: Config) -> None:
        self.model = self.learner = model
        self.rolls, self.config = rolls, config
        self.loss = FrameLoss()
        self.compiled = compiled(model)
        size = config.training.bptt
        cuts = [(i, first) for i, roll in enumerate(rolls["train"]) for first in range(0, max(1, len(roll) - 1), size)]
        stretches = [rolls["train"][i][first : first + size + 1] for i, first in cuts]
        self.stretches = Sequences(stretches, [np.zeros((), np.int32)] * len(cuts))
        # What a stretch within a piece begins with does not come out of nothing: the stretch before it has foretold that.
        self.begins = np.array([first == 0 for _, first in cuts])
        sizes = ", ".join(f"{name} {sum(map(len, some)):,} in {len(some):,}" for name, some in rolls.items())
        self.summary = f"frames of {config.next_note.frame:g} quarter notes, and pieces: {sizes}"

    @classmethod
    def of(cls, config: Config) -> RollStudy:
        """The music that a configuration names, and a model with new weights."""
        d, frame = config.data, config.next_note.frame
        found = pieces.read(Path(d.data), frame, config.next_note.part) if d.data else {"all": pieces.chorales(frame)}
        parts = pieces.split(found, d.validation_fraction, d.test_fraction)
        rolls = {name: [piece.roll for piece in some] for name, some in parts.items()}
        model = build_chain(config.model, KEYS, KEYS, "key_logits")
        # Else the first epochs would learn nothing but that most keys are silent.
        model.layers[-1].bias.assign(how_often(rolls["train"]))
        return cls(model, rolls, config)

    unit = measure = "nats a frame"

    def measured(self, nats: float) -> float:
        return nats

    @property
    def per_epoch(self) -> int:
        return self.stretches.per_epoch(self.config.training.batch_size)

    def batches(self, epoch: int, start: int) -> Any:
        t, reach = self.config.training, self.config.next_note.transpose
        picks = self.stretches.batches(t.batch_size, [t.seed, epoch])
        steps = np.random.default_rng([t.seed, epoch, 1]).integers(-reach, reach + 1, len(self.stretches))

        def batches() -> Iterator[Any]:
            for pick in picks[start:]:
                some = [pieces.transposed(self.stretches.inputs[i], int(steps[i])) for i in pick]
                rolls, lengths = padded(some)
                known = np.arange(rolls.shape[1]) < lengths[:, None]
                known[:, 0] = self.begins[pick]
                yield told_before(rolls), rolls.astype(np.float32), known.astype(np.float32)

        signature = tuple(tf.TensorSpec([None, None, *rest], "float32") for rest in ([KEYS], [KEYS], []))
        return generated(batches, signature, len(picks) - start)

    def begin_epoch(self) -> None:
        pass

    def targets(self, batches: int) -> int:
        return round(batches * self.config.training.batch_size * float(self.stretches.lengths.mean()))

    def validate(self) -> float:
        rolls = self.rolls["validation"]
        return float(figures(foretold(self.compiled, rolls), rolls)["nll_per_frame"]["value"])

    def save(self, run: Run) -> None:
        for name, rolls in self.rolls.items():
            save_rolls(run.path / f"{name}_rolls.npz", rolls)

    def check_same(self, run: Run) -> None:
        for name, rolls in self.rolls.items():
            kept = load_rolls(run.path / f"{name}_rolls.npz")
            if len(kept) != len(rolls) or not all(np.array_equal(a, b) for a, b in zip(kept, rolls, strict=True)):
                raise UsageError(f"The {name} part is not the one {run.path} was begun with: restore the data, or start again.")

    def report(self, model: Any, part: str) -> RollReport:
        return report_of(model, self.rolls, part, self.config.next_note.frame)


@keras.saving.register_keras_serializable(package="seqapp")
class FrameLoss(keras.losses.Loss):
    """Nats of a frame: keys (B, T, 88) that sound independently, summed over the keys of logits (B, T, 88)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"reduction": "mean_with_sample_weight", **kwargs})

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.sum(ops.softplus(y_pred) - y_true * y_pred, axis=-1)
