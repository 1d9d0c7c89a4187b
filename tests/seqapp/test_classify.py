"""The task `classify`: classes and sequences as numbers, and figures that a computation by hand has too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from seqapp.cells import PlainCell
from seqapp.classifier import Classifier
from seqapp.classify import Coder, LabelReport, classified_by, figures, log_probabilities
from seqapp.config import build
from seqapp.errors import UsageError
from seqapp.labelled import Example
from seqapp.sequences import Sequences
from seqapp.step import log_softmax
from tests.seqapp.test_classifier import V, classifier, inputs, of_features

CONFIG = build({"task": "classify", "data": "data.tsv", "min_count": 1, "lower": True})
TEXTS = [Example("Is it late?", "question", "line 1"), Example("It is late .", "answer", "line 2")]
SERIES = [Example(np.array([[1.0], [2.0]], np.float32), "10", "row 1"), Example(np.array([[3.0]], np.float32), "9", "row 2")]


def test_classes_and_tokens_are_learned() -> None:
    coder = Coder.learn(TEXTS, CONFIG)
    assert coder.classes == ("answer", "question")
    assert coder.vocabulary is not None and coder.vocabulary.unit == "word"
    coded = coder.coded(TEXTS)
    assert [int(label) for label in coded.labels] == [1, 0]
    texts = [[coder.vocabulary.tokens[token] for token in x] for x in coded.inputs]
    assert texts == [["is", "it", "late", "?", "<eos>"], ["it", "is", "late", ".", "<eos>"]]
    assert {x.dtype.name for x in (*coded.inputs, *coded.labels)} == {"int32"}


def test_characters_with_an_end() -> None:
    config = build({"task": "classify", "data": "data.tsv", "min_count": 1, "lower": False, "unit": "character"})
    coder = Coder.learn(TEXTS, config)
    assert coder.vocabulary is not None
    assert [coder.vocabulary.tokens[token] for token in coder.inputs(TEXTS[0])] == [*"Is it late?", "\n"]


def test_classes_that_are_numbers_are_in_their_order() -> None:
    examples = [Example(TEXTS[0].sequence, label, "") for label in ("10", "9", "b", "-1.5", "a")]
    assert Coder.learn(examples, CONFIG).classes == ("-1.5", "9", "10", "a", "b")


def test_series_have_no_vocabulary() -> None:
    coder = Coder.learn(SERIES, CONFIG)
    assert (coder.vocabulary, coder.classes) == (None, ("9", "10"))
    np.testing.assert_array_equal(coder.coded(SERIES).inputs[0], SERIES[0].sequence)
    assert [int(label) for label in coder.coded(SERIES).labels] == [1, 0]


def test_labels_of_each_timestep() -> None:
    example = Example(SERIES[0].sequence, ("b", "a"), "x[0]")
    coder = Coder.learn([example], CONFIG)
    assert coder.classes == ("a", "b")
    (label,) = coder.coded([example]).labels
    np.testing.assert_array_equal(label, [1, 0])


def refused(examples: list[Example], *parts: str) -> None:
    coder = Coder.learn(TEXTS, CONFIG)
    with pytest.raises(UsageError) as error:
        coder.coded(examples)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_examples_that_do_not_fit() -> None:
    refused([TEXTS[0], Example("So?", "doubt", "a.tsv, line 9")], "a.tsv, line 9", "the label 'doubt'", "answer, question.")
    refused([Example("So?", None, "a.tsv, line 3")], "a.tsv, line 3 has no label", "give each example one")
    refused(
        [Example(SERIES[0].sequence, "answer", "a.csv, row 3")], "a.csv, row 3 is a series of", "the training's were a text"
    )
    with pytest.raises(UsageError, match=r"line 1 is a text with a label, and the training's were a series of \d numbers"):
        Coder.learn(SERIES, CONFIG).coded(TEXTS)


def test_series_of_another_width_or_labels_of_another_kind() -> None:
    coder = Coder(("a", "b"), features=2)
    x = np.zeros((4, 3), np.float32)
    for example, words in (
        (Example(x, "a", "x[0]"), r"x\[0\] is a series of 3 numbers a timestep with a label, .* a series of 2 numbers"),
        (
            Example(x[:, :2], ("a",) * 4, "x[1]"),
            r"x\[1\] is .* with a label for each timestep, .* had a label for each sequence",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            coder.coded([example])


def test_a_model_of_another_training() -> None:
    coder = Coder(("a", "b"), features=2)
    model = Classifier(2, [PlainCell(3)], mean=[0, 0], variance=[1, 1])
    assert coder.fitting(model) is model
    for other in (
        Coder(("a", "b", "c"), features=2),
        Coder(("a", "b"), features=1),
        Coder(("a", "b"), features=2, each_timestep=True),
    ):
        with pytest.raises(
            UsageError, match=r"classes.json and model.keras are not of the same training: restore classes.json"
        ):
            other.fitting(model)


def test_many_classes_are_not_all_told() -> None:
    examples = [Example("text", f"class {i}", "") for i in range(20)]
    with pytest.raises(UsageError) as error:
        Coder.learn(examples, CONFIG).coded([Example("text", "new", "line 1")])
    assert "class 15 …" in str(error.value) and "class 9" not in str(error.value)


@pytest.mark.parametrize(("labels", "received"), [(["a", "a"], "a"), ([None, None], "none")])
def test_one_class_is_none(labels: list[str | None], received: str) -> None:
    with pytest.raises(UsageError, match=f"two classes or more in the training part. Received: {received}"):
        Coder.learn([Example("text", label, "") for label in labels], CONFIG)


@pytest.mark.parametrize("examples", [TEXTS, SERIES])
def test_round_trip(examples: list[Example], tmp_path: Path) -> None:
    coder = Coder.learn(examples, CONFIG)
    coder.save(tmp_path)
    assert Coder.load(tmp_path) == coder
    assert (tmp_path / "vocabulary.json").exists() == (examples is TEXTS)


@pytest.mark.parametrize("content", [None, "", "{", "3", '["a"]', '["a", 3]', '{"a": 1, "b": 2}'])
def test_damaged_classes(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UsageError, match=r"classes\.json cannot be read \(.*\): restore it, or train again") as error:
        Coder.load(tmp_path)
    assert "\n" not in str(error.value)


LABELS = np.array([0, 0, 0, 1, 1, 2])
P = np.array([[8, 1, 1], [6, 2, 2], [2, 7, 1], [1, 8, 1], [3, 5, 2], [5, 3, 2]]) / 10


def test_figures_by_hand() -> None:
    """Three classes: 2 of 3 right, 2 of 2, and 0 of 1."""
    found = figures(np.log(P), LABELS)
    f1 = [2 * 2 / (2 * 2 + 1 + 1), 2 * 2 / (2 * 2 + 1 + 0), 0.0]
    nats = -np.log([0.8, 0.6, 0.2, 0.8, 0.5, 0.2]).mean()
    assert found["accuracy"] == {"value": pytest.approx(4 / 6), "unit": "fraction", "count": 6}
    assert found["macro_f1"] == {"value": pytest.approx(np.mean(f1)), "unit": "fraction", "count": 6}
    assert found["nats_per_label"] == {"value": pytest.approx(nats), "unit": "nats", "count": 6}


@pytest.mark.parametrize("each_timestep", [False, True])
def test_log_probabilities_are_those_of_each_sequence_alone(each_timestep: bool) -> None:
    model = classifier(each_timestep=each_timestep)
    rng = np.random.default_rng(0)
    x = [rng.integers(0, V, n).astype(np.int32) for n in rng.integers(1, 9, 11)]
    classified = classified_by(model)
    found = log_probabilities(classified, Sequences(x, [np.int32(0)] * 11), size=3)
    for one, logs in zip(x, found, strict=True):
        wanted = log_softmax(np.asarray(classified(one[None], np.array([len(one)], np.int32)), np.float64)[0])
        assert (logs.shape, logs.dtype) == (wanted.shape, np.float64)
        np.testing.assert_allclose(logs, wanted, atol=1e-5)
        np.testing.assert_allclose(np.exp(logs).sum(-1), 1, atol=1e-12)


def test_the_compiled_classifier_is_the_model() -> None:
    for model in (classifier(), of_features()):
        for batch, timesteps in ((2, 3), (3, 5)):
            x, lengths = inputs(model, batch, timesteps), np.arange(1, batch + 1, dtype=np.int32)
            np.testing.assert_allclose(classified_by(model)(x, lengths), model([x, lengths]), atol=1e-6)


def table(each_timestep: bool) -> Any:
    """In place of a model: the logits of a sequence are those in the row that its first token names, of each timestep the
    row of its own token.
    """
    logs = np.log(P)
    return lambda x, lengths: logs[x] if each_timestep else logs[x[:, 0]]


def report(each_timestep: bool, part: str = "test") -> LabelReport:
    coder = Coder(("a", "b", "c"), None)
    x = [np.arange(n, dtype=np.float32)[:, None] for n in (1, 2, 3)]
    other = Sequences(x, [np.zeros(n, np.int32) if each_timestep else np.int32(n - 1) for n in (1, 2, 3)])
    inputs = (
        [np.array([0, 3, 5]), np.array([4]), np.array([1, 2])] if each_timestep else [np.array([i] * (i + 1)) for i in range(6)]
    )
    labels = [LABELS[one] for one in inputs] if each_timestep else list(LABELS)
    parts = {
        "train": other,
        "validation": Sequences([np.array([0])], [np.zeros(1, np.int32) if each_timestep else np.int32(0)]),
    }
    return LabelReport.of(table(each_timestep), coder, {**parts, part: Sequences(inputs, labels)}, part)


def test_the_report_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqapp.label_baselines.baselines", lambda *_: {"majority": figures(np.log(P), LABELS)})
    for each_timestep in (False, True):  # of which padding counts nothing
        found = report(each_timestep)
        for name, row in figures(np.log(P), LABELS).items():
            assert found.figures["test"][name]["value"] == pytest.approx(row["value"])
            assert found.figures["test"][name]["count"] == 6
        assert found.figures["validation"]["accuracy"] == {"value": 1.0, "unit": "fraction", "count": 1}
        np.testing.assert_array_equal(found.counts, [[2, 1, 0], [0, 2, 0], [1, 0, 0]])
        assert set(found.as_json()) == {"validation", "test", "baselines"}
        assert found.levels == {"majority": found.figures["test"]["nats_per_label"]["value"]}


def test_a_report_of_the_validation_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqapp.label_baselines.baselines", lambda *_: {"majority": figures(np.log(P), LABELS)})
    found = report(False, "validation")
    assert set(found.figures) == {"validation"}
    assert found.counts.sum() == 6


def test_the_table_and_the_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uniform = figures(np.log(np.full((6, 3), 1 / 3)), LABELS)
    monkeypatch.setattr("seqapp.label_baselines.baselines", lambda *_: {"bag_of_words": uniform})
    found = report(False)
    lines = found.table("gru").split("\n")
    assert lines[0] == "test, 6 labels of 3 classes"
    assert lines[2].split() == ["gru", "66.7%", f"{np.mean([2 / 3, 0.8, 0]):.3f}", f"{-np.log(P[range(6), LABELS]).mean():.3f}"]
    assert lines[3].split()[:2] == ["bag-of-words", "50.0%"]
    assert lines[4] == "accuracy 16.7 points above bag-of-words"
    found.draw(tmp_path)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]


def test_predictions() -> None:
    keras.utils.set_random_seed(0)
    coder = Coder.learn(TEXTS, CONFIG)
    assert coder.vocabulary is not None
    model = classifier()
    model = Classifier(2, [layer.cell for layer in classifier().ahead], [], len(coder.vocabulary), 5)
    examples = [Example("it is?", None, "line 1"), Example("late", "answer", "line 2")]
    x = [coder.inputs(example) for example in examples]
    for example, one, found in zip(examples, x, coder.predictions(model, examples, x), strict=True):
        p = np.exp(log_softmax(np.asarray(model([one[None], np.array([len(one)], np.int32)]), np.float64)[0]))
        assert (found.input, found.reference) == (example.sequence, example.label)
        assert found.prediction == coder.classes[p.argmax()]
        assert found.score == pytest.approx(p.max(), abs=1e-6)
        assert found.likely == tuple((coder.classes[i], pytest.approx(p[i], abs=1e-6)) for i in (p.argmax(), p.argmin()))


def test_a_prediction_for_each_timestep() -> None:
    coder = Coder(("a", "b", "c"), None)
    example = Example(np.zeros((3, 1), np.float32), ("a", "b", "b"), "data.npz, x[0]")
    found = coder._prediction(example, np.log(P[[0, 3, 5]]))
    assert (found.input, found.reference, found.prediction) == ("data.npz, x[0]", "a b b", "a b a")
    assert found.score == pytest.approx(0.5)
    assert [name for name, _ in found.likely] == ["a", "b", "c"]
