"""What a translator learns from: pairs of texts, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from seqapp import backend
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.job import built_of, make_cell
from seqapp.labelled import Example
from seqapp.run import Run
from seqapp.sequences import Array, Sequences, padded
from seqapp.subwords import Subwords
from seqapp.translate import Coder, keep, kept, load
from seqapp.translation_report import TranslationReport, log_probabilities, report_of, told_before, told_by
from seqapp.translator import Translator


class TranslationStudy:
    """See `seqapp.study.Study`; `pairs` are those of each part."""

    unit = measure = "nats a token"

    def __init__(self, model: Translator, coder: Coder, pairs: dict[str, list[Example]], config: Config) -> None:
        self.model = self.learner = model
        self.told = told_by(model)
        self.coder, self.pairs, self.config = coder, pairs, config
        self.loss = SmoothedLoss(config.translate.label_smoothing)
        self.coded = {name: coder.coded(some) for name, some in pairs.items()}
        self.train = _sequences(self.coded["train"])
        sizes = ", ".join(f"{name} {len(some):,}" for name, some in pairs.items())
        units = (f"{len(known):,} {known.unit}s" for known in (coder.source, coder.target))
        self.summary = f"{' and '.join(units)} in the vocabularies; pairs: {sizes}"

    @classmethod
    def of(cls, config: Config) -> TranslationStudy:
        """The pairs that a configuration names, and a model with new weights."""
        pairs = load(config)
        coder = Coder.learn(pairs["train"], config)
        return cls(build_translator(config, coder), coder, pairs, config)

    def measured(self, nats: float) -> float:
        return nats

    @property
    def per_epoch(self) -> int:
        return self.train.per_epoch(self.config.training.batch_size)

    def batches(self, epoch: int, start: int) -> Any:
        t, end = self.config.training, self.coder.target.end_number
        train = self._cut_anew(epoch)
        picks = train.batches(t.batch_size, [t.seed, epoch])[start:]

        def batches() -> Iterator[Any]:
            for pick in picks:
                sources, lengths = padded([train.inputs[i] for i in pick])
                targets, ends = padded([train.labels[i] for i in pick])
                known = np.arange(targets.shape[1]) < ends[:, None]
                yield (sources, lengths, told_before(targets, end)), targets, known.astype(np.float32)

        two, one = keras.KerasTensor([None, None], "int32"), keras.KerasTensor([None], "int32")
        return backend.batches(batches, ((two, one, two), two, keras.KerasTensor([None, None], "float32")), len(picks))

    def _cut_anew(self, epoch: int) -> Sequences:
        """The training pairs with their subwords drawn for this epoch, where that is asked for."""
        t, seed = self.config.translate, self.config.training.seed
        if not t.subword_sampling:
            return self.train
        sides: list[list[Array]] = []
        for side, (vocabulary, known) in enumerate(
            ((self.coder.source, self.train.inputs), (self.coder.target, self.train.labels))
        ):
            texts = [str(pair.label if side else pair.sequence) for pair in self.pairs["train"]]
            if not isinstance(vocabulary, Subwords):
                sides.append(known)
                continue
            draw = int(np.random.default_rng([seed, epoch, side]).integers(2**31))
            drawn = vocabulary.sampled(texts, t.subword_sampling, draw)
            # Cut finely, a text may become longer than the model is built for.
            pairs = zip(drawn, known, strict=True)
            sides.append([np.array(d, np.int32) if len(d) <= t.longest else k for d, k in pairs])
        return Sequences(*sides)

    def begin_epoch(self) -> None:
        pass

    def targets(self, batches: int) -> int:
        mean = np.mean([len(target) for target in self.train.labels])
        return round(batches * self.config.training.batch_size * float(mean))

    def validate(self) -> float:
        logs = log_probabilities(self.told, self.coded["validation"], self.coder.target.end_number)
        return -float(np.concatenate(logs).mean())

    def save(self, run: Run) -> None:
        self.coder.save(run.path)
        for name, some in self.pairs.items():
            keep(run.path, name, some)

    def check_same(self, run: Run) -> None:
        for name, some in self.pairs.items():
            before = [(pair.sequence, pair.label) for pair in kept(run.path, name)]
            if before != [(pair.sequence, pair.label) for pair in some]:
                raise UsageError(f"The {name} part is not the one {run.path} was begun with: restore the data, or start again.")

    def report(self, model: Any, part: str) -> TranslationReport:
        return report_of(model, self.coder, self.pairs, part)


def _sequences(coded: list[tuple[Array, Array]]) -> Sequences:
    return Sequences([source for source, _ in coded], [target for _, target in coded])


def build_translator(config: Config, coder: Coder) -> Translator:
    """A translator with new weights.

    Raises:
        UsageError: its cell does not exist or cannot be made.
    """
    m = config.model
    with built_of(m.cell):
        cells, ahead, back = ([make_cell(m) for _ in range(m.layers)] for _ in range(3))
        sizes = len(coder.source), len(coder.target)
        return Translator(*sizes, cells, ahead, back, m.embedding, m.tied, m.dropout, m.recurrent_dropout)


@keras.saving.register_keras_serializable(package="seqapp")
class SmoothedLoss(keras.losses.Loss):
    """Nats of tokens (B, T) by logits (B, T, V), a part of each token's probability spread over all of them
    (Szegedy et al. 2016, arXiv:1512.00567v3).
    """

    def __init__(self, smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**{"reduction": "mean_with_sample_weight", **kwargs})
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        own = ops.take_along_axis(y_pred, y_true[..., None], axis=-1)[..., 0]
        spread = ops.mean(y_pred, axis=-1)
        return ops.logsumexp(y_pred, axis=-1) - (1 - self.smoothing) * own - self.smoothing * spread

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}
