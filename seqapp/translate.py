"""The task `translate`: a text in one language for a text in another, or any sequence of symbols for another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from seqapp import labelled, pairs, phrases
from seqapp.beam_search import Found, KerasTransducer, Search, Transducer, translate
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.errors import UsageError, need
from seqapp.generate import Wish, nothing_to_generate
from seqapp.labelled import Example
from seqapp.predict import Prediction, refuse_nothing, text_of
from seqapp.run import Run, replacing
from seqapp.sequences import Array
from seqapp.study import Study
from seqapp.subwords import Subwords
from seqapp.task_config import TranslateConfig
from seqapp.translation_report import TranslationReport, report_of
from seqapp.vocabulary import Vocabulary

SIDES = ("source", "target")


class Translate:
    """A target for each source."""

    layout, default_data = "pairs", "what Babel writes in two languages"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For some ten thousand sentences; the default data are dates, times and amounts as Babel writes them."""
        config = Config(
            task="translate",
            data=DataConfig(validation_fraction=0.05, test_fraction=0.05, min_count=2, lower=False),
            model=ModelConfig(units=256, embedding=256, dropout=0.2, recurrent_dropout=0.0),
            training=TrainingConfig(epochs=20, patience=4, batch_size=64, learning_rate=2e-3),
        )
        if own_data:
            return config
        return replace(
            config,
            model=replace(config.model, units=128, embedding=64),
            training=replace(config.training, epochs=8, batch_size=32, learning_rate=5e-3),
            translate=TranslateConfig(source_unit="character", target_unit="character"),
        )

    def check_data(self, config: Config) -> None:
        for package in ("sacrebleu", "rapidfuzz", "sentencepiece", "babel"):
            need(package, "translate")
        load(config)

    def study(self, config: Config) -> Study:
        from seqapp.translation_study import TranslationStudy

        return TranslationStudy.of(config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], TranslationReport]:
        coder, part = Coder.load(run.path, run.config), "data" if data else run.held_out
        parts = {name: kept(run.path, name) for name in ("train", "validation", run.held_out)}
        if data:
            found = pairs.read(Path(data), languages(run.config))
            parts["data"] = [pair for some in found.values() for pair in some]
            coder.coded(parts["data"])
        known = run.kept_baselines(data)
        return lambda model: report_of(coder.fitting(model), coder, parts, part, known)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        coder = Coder.load(run.path, run.config)
        found = list(pairs.pairs_of(*text_of(source), targets=False))
        refuse_nothing(len(found), source)
        inputs = [coder.source_of(pair) for pair in found]

        def predict(model: Any) -> list[Prediction]:
            best = coder.search(KerasTransducer(coder.fitting(model)), inputs)
            return [coder.prediction(pair, hypotheses) for pair, hypotheses in zip(found, best, strict=True)]

        return predict

    def generator(self, run: Run, wish: Wish) -> NoReturn:
        nothing_to_generate(run)


def languages(config: Config) -> pairs.Suffixes:
    return config.translate.source_language, config.translate.target_language


def load(config: Config) -> dict[str, list[Example]]:
    """The pairs that a configuration names, part by part.

    Raises:
        UsageError: they cannot be read, or a part would be empty.
    """
    d = config.data
    found = pairs.read(Path(d.data), languages(config)) if d.data else {"all": phrases.generated(*languages(config))}
    return labelled.split(found, d.validation_fraction, d.test_fraction, 0)


def keep(folder: Path, part: str, some: Sequence[Example]) -> None:
    """Writes the pairs of a part into a run directory."""
    with replacing(folder / f"{part}_pairs.tsv") as temporary:
        temporary.write_text("".join(f"{pair.sequence}\t{pair.label}\n" for pair in some), "utf-8")


def kept(folder: Path, part: str) -> list[Example]:
    """Reads what `keep` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    return pairs.read(folder / f"{part}_pairs.tsv")["all"]


@dataclass(frozen=True)
class Coder:
    """How texts become numbers and translations become texts."""

    source: Vocabulary | Subwords
    target: Vocabulary | Subwords
    settings: Search

    @classmethod
    def learn(cls, train: Sequence[Example], config: Config) -> Coder:
        """The tokens of the training pairs."""
        t, d = config.translate, config.data

        def learned(texts: Iterable[Any], unit: str) -> Vocabulary | Subwords:
            if unit == "subword":
                return Subwords.learn(texts, t.subwords, d.lower)
            return Vocabulary.learn(texts, unit, d.lower, d.min_count)

        source = learned((pair.sequence for pair in train), t.source_unit)
        return cls(source, learned((pair.label for pair in train), t.target_unit), search_of(config))

    def source_of(self, pair: Example) -> Array:
        """The tokens (S,) of a source, the end among them.

        Raises:
            UsageError: there are more than the model was built for.
        """
        return self._numbers(self.source, str(pair.sequence), f"{pair.place}: the source")

    def coded(self, some: Sequence[Example]) -> list[tuple[Array, Array]]:
        """The tokens (S,) of each source and (T,) of its target, the ends among them.

        Raises:
            UsageError: there are more than the model was built for.
        """
        targets = (self._numbers(self.target, str(pair.label), f"{pair.place}: the target") for pair in some)
        return [(self.source_of(pair), target) for pair, target in zip(some, targets, strict=True)]

    def _numbers(self, vocabulary: Vocabulary | Subwords, text: str, what: str) -> Array:
        numbers = np.array(vocabulary.encode_whole(text), np.int32)
        if len(numbers) > self.settings.longest:
            raise UsageError(
                f"{what} has {len(numbers)} tokens, its end among them, and the model is built for {self.settings.longest}: "
                "shorten it, or train with a greater --longest."
            )
        return numbers

    def search(self, model: Transducer, sources: Sequence[Array]) -> Found:
        """The best few translations of each source."""
        return translate(model, sources, self.settings, self.target.end_number, [self.target.unknown_number])

    def prediction(self, pair: Example, hypotheses: Any) -> Prediction:
        likely = tuple((self.target.decode(one.tokens), float(np.exp(one.score))) for one in hypotheses)
        reference = None if pair.label is None else str(pair.label)
        return Prediction(str(pair.sequence), reference, likely[0][0], likely[0][1], likely)

    def fitting(self, model: Any) -> Any:
        """The model, if it is of these vocabularies.

        Raises:
            UsageError: it is not.
        """
        if (model.source_size, model.target_size) != (len(self.source), len(self.target)):
            raise UsageError("The vocabularies and model.keras are not of the same training: restore them, or train again.")
        return model

    def path(self, folder: Path, side: str) -> Path:
        """The file of a side's vocabulary."""
        return _file(folder, side, getattr(self, side).unit)

    def save(self, folder: Path) -> None:
        for side in SIDES:
            getattr(self, side).save(self.path(folder, side))

    @classmethod
    def load(cls, folder: Path, config: Config) -> Coder:
        """Reads what `save` wrote.

        Raises:
            UsageError: a file is missing or damaged.
        """
        t = config.translate
        rule = Vocabulary.empty("word", config.data.lower).normalization

        def loaded(side: str, unit: str) -> Vocabulary | Subwords:
            path = _file(folder, side, unit)
            return Subwords.load(path, rule) if unit == "subword" else Vocabulary.load(path)

        return cls(loaded("source", t.source_unit), loaded("target", t.target_unit), search_of(config))


def _file(folder: Path, side: str, unit: str) -> Path:
    return folder / f"{side}_vocabulary.{'model' if unit == 'subword' else 'json'}"


def search_of(config: Config) -> Search:
    t = config.translate
    return Search(t.beam, t.length_penalty, t.longest)
