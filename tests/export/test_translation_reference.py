"""Validation of a translator's files finds what is wrong with one: faults are planted in good ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import encoder_decoder, onnx_encoder_decoder, saved_model
from export.artifact import FORMATS, PRECISIONS, Artifact, of_translator, wanted
from export.encoder_decoder import EncoderDecoder
from export.spec import DECODE_STEP, ENCODE, TranslationSpec
from export.stages import Affine, Both, Recurrent
from export.translation_reference import TranslationReference
from export.validate import Verdict, validate
from seqapp.beam_search import Transducer
from seqapp.run import Run
from seqapp.step import Array
from seqapp.translate import Coder, kept
from tests.conftest import refused
from tests.export.test_validate import changed as edited
from tests.export.test_validate import rename

FILES = {artifact.path: artifact for artifact in of_translator(wanted(list(FORMATS), list(PRECISIONS), []))}
ARTIFACT = FILES["saved_model"]


@pytest.fixture(scope="module")
def reference(translated: Callable[..., Run]) -> TranslationReference:
    run = translated("--cell", "lstm", "--layers", "2", "--epochs", "8")
    coder = Coder.load(run.path, run.config)
    return TranslationReference(EncoderDecoder(run.load_model()), coder.coded(kept(run.path, "test")), coder)


@pytest.fixture(scope="module")
def file(reference: TranslationReference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "saved_model"
    functions = encoder_decoder.functions(reference.network, reference.spec, builtin=False)
    saved_model.write(reference.network, functions, path)
    return path


@dataclass(frozen=True)
class Faulty:
    """A file whose answers are changed."""

    good: Transducer
    of_encode: Callable[..., Any] = lambda memory, states: (memory, states)
    of_step: Callable[..., Any] = lambda logits, states, attention: (logits, states, attention)

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        return self.of_encode(*self.good.encode(tokens, lengths))

    def decode_step(self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array) -> Any:
        return self.of_step(*self.good.decode_step(tokens, states, memory, lengths))


@dataclass(frozen=True)
class ReadsPadding(Faulty):
    """As if each source were as long as the longest."""

    encoding: bool = True

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        return self.good.encode(tokens, np.full_like(lengths, tokens.shape[1]) if self.encoding else lengths)

    def decode_step(self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array) -> Any:
        whole = lengths if self.encoding else np.full_like(lengths, memory.shape[1])
        return self.good.decode_step(tokens, states, memory, whole)


def changed(index: int, value: float) -> Callable[..., Any]:
    """One answer with its last number moved."""

    def change(*given: Any) -> Any:
        answers = list(given)
        one = answers[index][0] if isinstance(answers[index], list) else answers[index]
        one = np.array(one)
        one.reshape(-1)[-1] += value
        answers[index] = [one, *answers[index][1:]] if isinstance(answers[index], list) else one
        return tuple(answers)

    return change


def verdict(
    reference: TranslationReference,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Transducer], Any],
    artifact: Artifact = ARTIFACT,
) -> Verdict:
    opened = reference.opened
    monkeypatch.setattr(reference, "opened", lambda artifact, path: fault(opened(artifact, path)))
    return validate(artifact, file, reference)


def in_onnx(reference: TranslationReference, name: str, folder: Path) -> Path:
    """The file of that name in a bundle."""
    artifact, path = FILES[name], folder / name
    onnx_encoder_decoder.write(reference.network, reference.spec, artifact.signatures[0], path, artifact.precision)
    return path


def topics(failures: list[str]) -> list[str]:
    """What each failure is about."""
    return [text.split(" differ")[0].split(" of ")[0].split(" is ")[0] for text in failures]


def test_a_good_file_has_no_fault(reference: TranslationReference, file: Path) -> None:
    found = validate(ARTIFACT, file, reference)
    assert found.failures == []
    assert [parity.signature for parity in found.parity] == [ENCODE, DECODE_STEP]
    assert all(0 < parity.largest_difference < 1e-5 for parity in found.parity)
    assert found.metrics["translated_as_keras"] == {"value": 1.0, "unit": "fraction", "count": len(reference.coded)}
    assert found.metrics["perplexity"]["count"] == sum(len(target) for _, target in reference.coded)
    assert set(found.latency) == {ENCODE, DECODE_STEP}


FAULTS = {
    "memory": (lambda good: Faulty(good, of_encode=changed(0, 1e-3)), "encode: outputs differ"),
    "memory that is no number": (lambda good: Faulty(good, of_encode=changed(0, np.nan)), "encode: outputs differ"),
    "first states": (lambda good: Faulty(good, of_encode=changed(1, 1e-3)), "encode: states differ"),
    "first states in another order": (
        lambda good: Faulty(good, of_encode=lambda memory, states: (memory, states[::-1])),
        "encode: states differ",
    ),
    "logits": (lambda good: Faulty(good, of_step=changed(0, 1e-2)), "decode_step: log-probabilities differ"),
    "logits that are no number": (
        lambda good: Faulty(good, of_step=changed(0, np.nan)),
        "decode_step: log-probabilities differ",
    ),
    "states": (lambda good: Faulty(good, of_step=changed(1, 1e-3)), "decode_step: states differ"),
    "attention": (lambda good: Faulty(good, of_step=changed(2, 1e-3)), "decode_step: log-probabilities differ"),
    "an encoder that reads the padding": (ReadsPadding, "encode: outputs differ"),
    "attention to the padding": (lambda good: ReadsPadding(good, encoding=False), "decode_step: log-probabilities differ"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, reference: TranslationReference, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, message = FAULTS[name]
    found = verdict(reference, file, monkeypatch, fault)
    assert any(message in text for text in found.failures), found.failures


def nothing_but(value: float) -> Callable[..., Any]:
    """Logits that are all the same."""
    return lambda logits, states, attention: (np.full_like(logits, value), states, attention)


def test_a_file_of_no_numbers_has_no_perplexity(
    reference: TranslationReference, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verdict(reference, file, monkeypatch, lambda good: Faulty(good, of_step=nothing_but(np.nan)))
    assert topics(found.failures)[:2] == ["decode_step: log-probabilities", "its perplexity"]
    assert "differ from Keras by inf" in found.failures[0]
    assert found.failures[1].startswith("its perplexity is nan")


def change_weight(number: int) -> Callable[[onnx.ModelProto], None]:
    """One number moved, of the largest weights, of the second largest, ..."""

    def change(file: onnx.ModelProto) -> None:
        weight = sorted(file.graph.initializer, key=lambda weight: np.prod(weight.dims))[-number]
        values = numpy_helper.to_array(weight).copy()
        values.reshape(-1)[values.size // 2] += 0.5
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    return change


def read_padding(file: onnx.ModelProto) -> None:
    for node in file.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""  # the lengths


def attend_to_padding(file: onnx.ModelProto) -> None:
    (node,) = [node for node in file.graph.node if node.op_type == "Where"]
    node.input[2] = node.input[1]


def swapped(*ends: str) -> Callable[[onnx.ModelProto], None]:
    """Two states under each other's names."""
    names = {f"state_{i}_{end}": f"state_{1 - i}_{end}" for i in (0, 1) for end in ends}
    return lambda file: rename(file, names)


OF_ENCODE = ["encode: outputs", "encode: states"]
OF_STEP = ["decode_step: log-probabilities", "decode_step: states"]
IN_FILES: dict[str, tuple[str, Callable[[onnx.ModelProto], None], list[str]]] = {
    "a weight of an encoder's cell": ("encode.onnx", change_weight(2), OF_ENCODE),
    "a weight of the bridge": ("encode.onnx", change_weight(1), OF_ENCODE[1:]),
    "a weight of a decoder's cell": ("decode_step.onnx", change_weight(1), OF_STEP),
    "an encoder that reads the padding": ("encode.onnx", read_padding, OF_ENCODE),
    "attention to the padding": ("decode_step.onnx", attend_to_padding, OF_STEP),
    "first states swapped": ("encode.onnx", swapped("out"), OF_ENCODE[1:]),
    "states swapped": ("decode_step.onnx", swapped("out"), OF_STEP[1:]),
    "states swapped on both sides": ("decode_step.onnx", swapped("in", "out"), OF_STEP),
}


@pytest.mark.parametrize("name", ["encode.onnx", "decode_step.onnx", "encode.int8.onnx", "decode_step.int8.onnx"])
def test_a_good_file_of_one_signature_has_no_fault(name: str, reference: TranslationReference, tmp_path: Path) -> None:
    """Keras does the other."""
    found = validate(FILES[name], in_onnx(reference, name, tmp_path), reference)
    assert found.failures == []
    assert [parity.signature for parity in found.parity] == list(found.latency) == list(FILES[name].signatures)
    assert found.metrics["translated_as_keras"]["value"] > 0.9
    assert [loss.name for loss in found.losses] == (["perplexity", "top_1"] if "int8" in name else [])


@pytest.mark.parametrize("fault", IN_FILES)
def test_a_fault_in_a_file_is_found(fault: str, reference: TranslationReference, tmp_path: Path) -> None:
    name, change, wanted_topics = IN_FILES[fault]
    path = edited(in_onnx(reference, name, tmp_path), tmp_path / "faulty", change)
    found = topics(validate(FILES[name], path, reference).failures)
    assert [topic for topic in found if topic in (*OF_ENCODE, *OF_STEP)] == wanted_topics


def test_names_and_signatures_are_those_of_the_contract(reference: TranslationReference, tmp_path: Path) -> None:
    path = in_onnx(reference, "decode_step.onnx", tmp_path)
    renamed = edited(path, tmp_path / "renamed", lambda file: rename(file, {"attention": "looked"}))
    assert validate(FILES["decode_step.onnx"], renamed, reference).failures == [
        "decode_step: attention should be ('float32', [-1, -1]), is None",
        "decode_step: looked should be None, is ('float32', [-1, -1])",
    ]
    assert validate(FILES["encode.onnx"], path, reference).failures == ["there is no signature encode"]


def crossed(network: EncoderDecoder) -> list[Both]:
    """Each direction read by the other's cell."""
    pairs = zip(network.model.back, network.model.ahead, strict=True)
    return [Both([Recurrent(one.cell)], [Recurrent(other.cell)], "concat") for one, other in pairs]


@pytest.mark.parametrize(
    ("stage", "wrong", "topic"),
    [
        ("ahead_width", lambda network: 8, "encode: states"),
        ("encoder", crossed, "encode: outputs"),
        ("query", lambda network: Affine(-network.model.query.kernel), "decode_step: log-probabilities"),
    ],
)
def test_a_stage_that_was_read_wrongly_is_found_in_the_file(
    stage: str, wrong: Any, topic: str, reference: TranslationReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EncoderDecoder, stage, property(wrong))
    name = f"{topic.partition(':')[0]}.onnx"
    path = in_onnx(reference, name, tmp_path)
    monkeypatch.undo()
    assert topics(validate(FILES[name], path, reference).failures)[0] == topic


def test_a_smaller_file_that_loses_too_much_is_found(
    reference: TranslationReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, rng = "decode_step.int8.onnx", np.random.default_rng(0)
    path = in_onnx(reference, name, tmp_path)
    assert validate(FILES[name], path, reference, largest=path.stat().st_size).failures[0].startswith("it has ")

    def noisy(logits: Array, states: list[Array], attention: Array) -> tuple[Array, list[Array], Array]:
        return logits + 3 * rng.normal(size=logits.shape), states, attention

    found = verdict(reference, path, monkeypatch, lambda good: Faulty(good, of_step=noisy), FILES[name])
    assert [text.startswith("it loses ") for text in found.failures] == [True, True]
    assert {loss.name for loss in found.losses if loss.value > loss.limit} == {"perplexity", "top_1"}
    assert found.metrics["translated_as_keras"]["value"] < 0.5


def test_other_translations_are_found_though_all_numbers_are_near(
    reference: TranslationReference, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = reference.coder.target.end_number
    other = [[replace(some[0], tokens=(end,), rank=some[0].rank - 1)] for some in reference.translations[:2]]
    monkeypatch.setattr(reference, "translated", lambda runner: [*other, *reference.translations[2:]])
    (text,) = validate(ARTIFACT, file, reference).failures
    assert text == f"it translates 2 of {len(reference.coded)} sources otherwise than Keras"
    tied = [[replace(one[0], rank=some[0].rank - 1e-6)] for one, some in zip(other, reference.translations, strict=False)]
    monkeypatch.setattr(reference, "translated", lambda runner: [*tied, *reference.translations[2:]])
    assert validate(ARTIFACT, file, reference).failures == []


def test_a_file_does_what_it_holds_and_keras_the_rest(reference: TranslationReference, file: Path) -> None:
    whole = reference.opened(ARTIFACT, file)
    half = reference.opened(replace(ARTIFACT, signatures=(ENCODE,)), file)
    assert (half.decoder, whole.decoder) == (reference.keras, whole.encoder)
    assert half.encoder is not reference.keras


def test_a_model_that_was_read_wrongly_is_refused(reference: TranslationReference, monkeypatch: pytest.MonkeyPatch) -> None:
    reference.check_chain()
    bridge = reference.network.bridge
    monkeypatch.setattr(EncoderDecoder, "bridge", property(lambda self: replace(bridge, activation=None)))
    refused(reference.check_chain, "something else whole than its stages do step by step")


def test_rounding_is_measured_against_float64(reference: TranslationReference) -> None:
    values, states = reference.rounding
    assert 1e-8 < values < 1e-4
    assert 1e-8 < states < 1e-4
    for signature, least in ((ENCODE, 1e-5), (DECODE_STEP, 1e-4)):
        assert reference.tolerances_of(signature) == (max(least, 4 * values), max(1e-5, 4 * states))


def test_the_spec_is_read_from_the_model(reference: TranslationReference) -> None:
    assert TranslationSpec.of(reference.network) == reference.spec
