"""The task `classify`: the class of a sequence, a text or a series of numbers, or of each of its timesteps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from seqapp import backend, labelled
from seqapp.config import NOTHING, Config, DataConfig, ModelConfig, TrainingConfig
from seqapp.errors import UsageError, need
from seqapp.generate import Wish, nothing_to_generate
from seqapp.labelled import Example
from seqapp.languages import sentences
from seqapp.predict import Prediction, refuse_nothing, text_of
from seqapp.report import Report
from seqapp.run import Run, replacing, write_json
from seqapp.scoring import Metrics
from seqapp.sequences import Sequences, load_part, padded
from seqapp.step import log_softmax
from seqapp.study import Study
from seqapp.task_config import ClassifyConfig
from seqapp.untrusted import json_of
from seqapp.vocabulary import Vocabulary

Array = NDArray[Any]
Classified = Callable[[Array, Array], Array]  # x (B, T, ...) and lengths (B,) -> logits (B, C) or (B, T, C)
SCORED = 64  # sequences at once
LIKELY = 5  # classes that a prediction tells the probabilities of


class Classify:
    """One label for each sequence, or for each timestep where the data have that."""

    layout, default_data = "classes", "the sentences of chatterbot-corpus"

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """For some thousands of texts or series; the default data are sentences in 28 languages, read by characters."""
        config = Config(
            task="classify",
            data=DataConfig(validation_fraction=0.1, test_fraction=0.1, min_count=2),
            model=ModelConfig(units=128, embedding=64, recurrent_dropout=0.0),
            training=TrainingConfig(epochs=30, patience=5, batch_size=32, learning_rate=3e-3),
        )
        if own_data:
            return config
        return replace(
            config,
            data=replace(config.data, lower=False),
            model=replace(config.model, embedding=128),
            training=replace(config.training, epochs=10, learning_rate=6e-3),
            classify=ClassifyConfig(unit="character"),
        )

    def examples(self, config: Config, data: str | None) -> dict[str, list[Example]]:
        """The examples of a file or folder, by the names of `seqapp.labelled.read`, or the default ones.

        Raises:
            UsageError: they cannot be read.
        """
        return labelled.read(Path(data)) if data else {"all": sentences()}

    def check_data(self, config: Config) -> None:
        for package in ("sklearn", "yaml", "chatterbot_corpus"):
            need(package, "classify")
        if config.data.data:
            self.examples(config, config.data.data)

    def study(self, config: Config) -> Study:
        from seqapp.label_study import LabelStudy

        return LabelStudy.of(self.examples(config, config.data.data), config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], LabelReport]:
        coder, part = Coder.load(run.path), "data" if data else run.held_out
        parts = {name: load_part(run.path, name) for name in ("train", "validation", run.held_out)}
        if data:
            found = self.examples(run.config, data)
            parts["data"] = coder.coded([example for examples in found.values() for example in examples])
        known = run.kept_baselines(data)
        return lambda model: LabelReport.of(classified_by(coder.fitting(model)), coder, parts, part, known)

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        coder = Coder.load(run.path)
        examples = self.given(run, coder, source)
        refuse_nothing(len(examples), source)
        inputs = [coder.inputs(example) for example in examples]
        return lambda model: coder.predictions(coder.fitting(model), examples, inputs)

    def given(self, run: Run, coder: Coder, source: str) -> list[Example]:
        """The examples to predict for, labelled or not, of a file or standard input.

        Raises:
            UsageError: they cannot be read.
        """
        if Path(source).suffix == ".npz":
            return labelled.read_file(Path(source))
        text, name = text_of(source)
        return list((labelled.texts_of if coder.vocabulary else labelled.series_of)(text, name))

    def generator(self, run: Run, wish: Wish) -> NoReturn:
        nothing_to_generate(run)


@dataclass(frozen=True)
class Coder:
    """How sequences and labels become numbers: the classes, of texts the vocabulary, of series the numbers of a timestep."""

    classes: tuple[str, ...]
    vocabulary: Vocabulary | None = None
    features: int | None = None
    each_timestep: bool = False

    @classmethod
    def learn(cls, examples: Sequence[Example], config: Config) -> Coder:
        """The classes and tokens of the training examples."""
        found = {label for e in examples for label in ([e.label] if isinstance(e.label, str) else e.label or [])}
        if len(found) < 2:
            raise UsageError(f"There must be two classes or more in the training part. Received: {', '.join(found) or 'none'}")
        classes, first = tuple(sorted(found, key=_in_order)), examples[0]
        if not isinstance(first.sequence, str):
            return cls(classes, None, first.sequence.shape[1], isinstance(first.label, tuple))
        texts = [str(example.sequence) for example in examples]
        return cls(classes, Vocabulary.learn(texts, config.classify.unit, config.data.lower, config.data.min_count))

    @cached_property
    def _number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def coded(self, examples: Sequence[Example]) -> Sequences:
        """Examples as numbers.

        Raises:
            UsageError: one has no label, a label that training has not, or is of another kind.
        """
        return Sequences([self.inputs(e) for e in examples], [self._label(e) for e in examples])

    def inputs(self, example: Example) -> Array:
        """Tokens (T,), the end among them, or features (T, F)."""
        found = None if isinstance(example.sequence, str) else example.sequence.shape[1]
        if found != self.features:
            wanted = "a text" if self.features is None else f"a series of {self.features} numbers a timestep"
            found_kind = labelled.kind_of(example)
            raise UsageError(f"{example.place} is {found_kind}, and the training's were {wanted}: give such data.")
        if self.vocabulary is None:
            return np.asarray(example.sequence)
        return np.array(self.vocabulary.encode_whole(str(example.sequence)), np.int32)

    def _label(self, example: Example) -> Array:
        if example.label is None:
            raise UsageError(f"{example.place} has no label: give each example one.")
        if isinstance(example.label, tuple) != self.each_timestep:
            wanted = "each timestep" if self.each_timestep else "each sequence"
            found = labelled.kind_of(example)
            raise UsageError(f"{example.place} is {found}, and the training's had a label for {wanted}: give such data.")
        try:
            if isinstance(example.label, str):
                return np.array(self._number[example.label], np.int32)
            return np.array([self._number[label] for label in example.label], np.int32)
        except KeyError as error:
            raise UsageError(
                f"{example.place} has the label {error}, which occurs in no training example: "
                f"expected one of {', '.join(self.classes[:8])}{' …' if len(self.classes) > 8 else ''}."
            ) from None

    def predictions(self, model: Any, examples: Sequence[Example], inputs: list[Array]) -> list[Prediction]:
        """One for each example; of labels for each timestep, the one of the last timestep is scored and all are told."""
        logs = log_probabilities(classified_by(model), Sequences(inputs, [np.zeros((), np.int32)] * len(inputs)))
        return [self._prediction(example, row) for example, row in zip(examples, logs, strict=True)]

    def _prediction(self, example: Example, logs: Array) -> Prediction:
        told = " ".join(self.classes[i] for i in np.atleast_2d(logs).argmax(-1))
        last = np.exp(np.atleast_2d(logs)[-1])
        likely = tuple((self.classes[i], float(last[i])) for i in np.argsort(-last, kind="stable")[:LIKELY])
        shown = example.sequence if isinstance(example.sequence, str) else example.place
        reference = example.label if isinstance(example.label, str) or example.label is None else " ".join(example.label)
        return Prediction(shown, reference, told, float(last.max()), likely)

    def fitting(self, model: Any) -> Any:
        """The model, if it is of these classes and sequences.

        Raises:
            UsageError: it is not.
        """
        features = None if model.vocabulary_size else len(model.mean)
        if (model.classes, features, model.each_timestep) != (len(self.classes), self.features, self.each_timestep):
            raise UsageError("classes.json and model.keras are not of the same training: restore classes.json, or train again.")
        return model

    def save(self, folder: Path) -> None:
        content = {"classes": self.classes, "features": self.features, "each_timestep": self.each_timestep}
        write_json(folder / "classes.json", content)
        if self.vocabulary:
            self.vocabulary.save(folder / "vocabulary.json")

    @classmethod
    def load(cls, folder: Path) -> Coder:
        """Reads what `save` wrote.

        Raises:
            UsageError: a file is missing or damaged.
        """
        path, vocabulary = folder / "classes.json", folder / "vocabulary.json"
        try:
            content = json_of(path.read_text("utf-8"))
            classes, features, each = content["classes"], content["features"], content["each_timestep"]
            if not (isinstance(classes, list) and len(classes) > 1 and all(isinstance(name, str) for name in classes)):
                raise ValueError("its classes should be a list of names")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} cannot be read ({error}): restore it, or train again.") from None
        return cls(tuple(classes), Vocabulary.load(vocabulary) if features is None else None, features, bool(each))


def _in_order(name: str) -> tuple[int, float, str]:
    """Numbers by their size, then words."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def classified_by(model: Any) -> Classified:
    """A trained `Classifier`, compiled once for all batches and lengths."""
    from keras import KerasTensor

    kind, shape = ("int32", [None, None]) if model.vocabulary_size else ("float32", [None, None, len(model.mean)])
    inputs = KerasTensor(shape, kind), KerasTensor([None], "int32")
    traced = backend.compiled(model, lambda x, lengths: model([x, lengths]), *inputs)
    return lambda x, lengths: np.asarray(traced(x, lengths))


def log_probabilities(classified: Classified, sequences: Sequences, size: int = SCORED) -> list[Array]:
    """Of the classes (C,) of each sequence, or of each of its timesteps (T, C); `size` sequences at once."""
    found: dict[int, Array] = {}
    for picks in sequences.in_order_of_length(size):
        x, lengths = padded([sequences.inputs[i] for i in picks])
        for i, length, logits in zip(picks, lengths, classified(x, lengths), strict=True):
            found[int(i)] = log_softmax((logits[:length] if logits.ndim == 2 else logits).astype(np.float64))
    return [found[i] for i in range(len(sequences))]


def figures(logs: Array, labels: Array) -> Metrics:
    """Accuracy, macro-averaged F1 and nats of log-probabilities (N, C) for labels (N,)."""
    metrics = need("sklearn.metrics", "classify")
    chosen, count = logs.argmax(-1), len(labels)
    return {
        "accuracy": {"value": float((chosen == labels).mean()), "unit": "fraction", "count": count},
        "macro_f1": {
            "value": float(metrics.f1_score(labels, chosen, average="macro", zero_division=0.0)),
            "unit": "fraction",
            "count": count,
        },
        "nats_per_label": {"value": -float(logs[np.arange(count), labels].mean()), "unit": "nats", "count": count},
    }


@dataclass(frozen=True)
class LabelReport(Report):
    """The figures of one held-out part, of the model and of its baselines; `counts` (C, C) of true against predicted."""

    loss = "nats_per_label"
    classes: tuple[str, ...]
    counts: Array

    @classmethod
    def of(
        cls,
        classified: Classified,
        coder: Coder,
        parts: dict[str, Sequences],
        part: str,
        known: dict[str, Metrics] | None = None,
    ) -> LabelReport:
        """Scores `part` and the validation part, beside the baselines on `part`, if not `known`."""
        from seqapp.label_baselines import baselines

        found, counts = {}, np.zeros((len(coder.classes),) * 2, np.int64)
        for name in dict.fromkeys(("validation", part)):
            logs = np.concatenate([np.atleast_2d(rows) for rows in log_probabilities(classified, parts[name])])
            labels = np.concatenate([np.atleast_1d(label) for label in parts[name].labels])
            found[name] = figures(logs, labels)
        np.add.at(counts, (labels, logs.argmax(-1)), 1)
        if known is None:
            known = baselines(parts, part, len(coder.classes), coder.vocabulary)
        return cls(part, found, known, coder.classes, counts)

    def table(self, name: str) -> str:
        mine = self.mine
        lines = [f"{self.part}, {mine['accuracy']['count']:,} labels of {len(self.classes)} classes"]
        lines += [f"{'':20}{'accuracy':>10}{'macro-F1':>10}{'nats':>10}"]
        for label, row in {name: mine, **self.baselines}.items():
            accuracy, f1, nats = (row[key]["value"] for key in ("accuracy", "macro_f1", "nats_per_label"))
            lines.append(f"{label.replace('_', '-'):20}{accuracy:10.1%}{f1:10.3f}{nats:10.3f}")
        best, value = self.strongest("accuracy", max)
        points = 100 * (mine["accuracy"]["value"] - value)
        lines.append(f"accuracy {abs(points):.1f} points {'above' if points >= 0 else 'below'} {best}")
        return "\n".join(lines)

    def draw(self, folder: Path) -> None:
        """confusion.png: how often each class was taken for each."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        display = need("sklearn.metrics", "classify").ConfusionMatrixDisplay
        size = 3 + 0.35 * len(self.classes)
        figure, axes = pyplot.subplots(figsize=(size, size), layout="constrained")
        shares = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        few = len(self.classes) <= 12
        display(shares, display_labels=self.classes).plot(
            ax=axes, cmap="Blues", colorbar=False, include_values=few, values_format=".0%", xticks_rotation=45 if few else 90
        )
        axes.set(title=f"{self.part}: each row's share, true class against predicted")
        with replacing(folder / "confusion.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
        pyplot.close(figure)
