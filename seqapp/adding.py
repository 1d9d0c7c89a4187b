"""The task `adding`: the sum of the two values of a sequence that are marked, however far apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqapp.arrays import read_npz
from seqapp.classify import SCORED, Array, Classified, classified_by
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.drawn import Drawn
from seqapp.errors import UsageError
from seqapp.predict import Prediction, refuse_nothing
from seqapp.report import Report
from seqapp.run import Run
from seqapp.scoring import Metrics
from seqapp.sequences import Sequences
from seqapp.task_config import LongRangeConfig

VALUE, MARK = 0, 1  # the features of a timestep


class Adding(Drawn):
    """The adding problem (Hochreiter and Schmidhuber 1997, section 5.4), as Bai, Kolter and Koltun 2018 (arXiv:1803.01271v2)
    have it: T timesteps of two features, a value from 0 to 1 and a mark, which is 1 at one timestep of the first half and at
    one of the second, else 0. The target is the sum of the two values that are marked.
    """

    layout, unit = "values", "mean squared error"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For a minute or two on two cores."""
        return Config(
            task="adding",
            data=DataConfig(validation_fraction=0.05, test_fraction=0.1),
            model=ModelConfig(units=64, dropout=0.0, recurrent_dropout=0.0),
            training=TrainingConfig(epochs=3, batch_size=32, learning_rate=1e-2),
            long_range=LongRangeConfig(length=200),
        )

    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[Array, Array]:
        """x (B, T, 2) and the sums (B,), both float32."""
        x = np.zeros((count, length, 2), np.float32)
        x[..., VALUE] = rng.random((count, length), np.float32)
        rows, half = np.arange(count), length // 2
        first, second = rng.integers(0, half, count), rng.integers(half, length, count)
        x[rows, first, MARK] = x[rows, second, MARK] = 1
        return x, x[rows, first, VALUE] + x[rows, second, VALUE]

    def learner(self, config: ModelConfig, length: int) -> tuple[Any, Any]:
        """A classifier whose one output is the sum. Its inputs are as they are drawn: scaled, the marks would stand out."""
        import keras

        from seqapp.classifier import Classifier
        from seqapp.job import built_of, make_cells

        with built_of(config.cell):
            model = Classifier(
                1,
                make_cells(config),
                mean=(0, 0),
                variance=(1, 1),
                dropout=config.dropout,
                recurrent_dropout=config.recurrent_dropout,
            )
        return model, keras.losses.MeanSquaredError()

    def report(self, classified: Classified, parts: dict[str, Sequences], part: str) -> AddingReport:
        return AddingReport.of(classified, parts, part)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        """The sum of each sequence; its score is what the run is off by on its held-out part, as a root of the mean square."""
        x, y = read(Path(source))
        off = math.sqrt(run.metrics[run.held_out][AddingReport.loss]["value"])

        def predict(model: Any) -> list[Prediction]:
            found, name = values(classified_by(model), list(x)), Path(source).name
            given = [None] * len(x) if y is None else [f"{value:.4f}" for value in y]
            return [
                Prediction(f"{name}, x[{i}]", reference, f"{value:.4f}", off, ())
                for i, (reference, value) in enumerate(zip(given, found, strict=True))
            ]

        return predict


def read(path: Path) -> tuple[Array, Array | None]:
    """Sequences x (N, T, 2) of a `.npz` file, and their sums y (N,), where it has them.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    if path.suffix != ".npz":
        raise UsageError(f"Sequences to add in come from a .npz file: name one with --input. Received: {path}")
    arrays = read_npz(path, "save it with numpy.savez(path, x=..., y=...).")
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or x.ndim != 3 or x.shape[-1] != 2 or not x.size or x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        raise UsageError(f"{path} must hold finite numbers x (N, T, 2), values and marks. Received: {_shape(x)}")
    if y is not None and (y.shape != x.shape[:1] or y.dtype.kind not in "fiu"):
        raise UsageError(f"{path} must hold sums y ({len(x)},), or none. Received: {_shape(y)}")
    refuse_nothing(len(x), path.name)
    return x.astype(np.float32), y


def _shape(array: Array | None) -> str:
    return "none" if array is None else f"{array.dtype} {array.shape}"


def values(classified: Classified, sequences: Sequence[Array]) -> Array:
    """What a model with one output says of each sequence of one length: (N,), float64."""
    lengths = np.full(len(sequences), len(sequences[0]), np.int32)
    starts = range(0, len(sequences), SCORED)
    found = [classified(np.stack(sequences[i : i + SCORED]), lengths[i : i + SCORED])[:, 0] for i in starts]
    return np.concatenate(found).astype(np.float64)


def figures(found: Array, sums: Array) -> Metrics:
    """The mean squared error of values (N,)."""
    square = float(np.mean((found - sums) ** 2))
    return {AddingReport.loss: {"value": square, "unit": "squares of the sum", "count": len(sums)}}


def baselines(sequences: Sequences) -> dict[str, Metrics]:
    """To say 1, the mean of all sums, each time (an error of 1/6 in the long run), and to remember the value that was marked
    last and say 0.5 more (1/12).
    """
    sums = np.array(sequences.labels, np.float64)
    last = [x[np.flatnonzero(x[:, MARK])[-1], VALUE] + 0.5 for x in sequences.inputs]
    return {"always_1": figures(np.ones(len(sums)), sums), "last_marked": figures(np.array(last), sums)}


@dataclass(frozen=True)
class AddingReport(Report):
    """The figures of one held-out part, of the model and of its baselines."""

    loss = "mean_squared_error"

    @classmethod
    def of(cls, classified: Classified, parts: dict[str, Sequences], part: str) -> AddingReport:
        found = {
            name: figures(values(classified, parts[name].inputs), np.array(parts[name].labels, np.float64))
            for name in dict.fromkeys(("validation", part))
        }
        return cls(part, found, baselines(parts[part]))

    def table(self, name: str) -> str:
        lines = [f"{self.part}, {self.mine[self.loss]['count']:,} sequences", f"{'':16}{'mean squared error':>20}"]
        rows = {name: self.mine, **self.baselines}
        lines += [f"{label.replace('_', '-'):16}{row[self.loss]['value']:20.6f}" for label, row in rows.items()]
        best, value = self.strongest(self.loss)
        below = 1 - self.mine[self.loss]["value"] / value
        return "\n".join([*lines, f"{abs(below):.1%} {'below' if below >= 0 else 'above'} {best}"])
